r"""Order of convergence, on a mixture whose probability flow is known without a solver.

A grid matters as much as the sampler: over the times of a linear schedule even right solvers show slopes from 0.07 to
4.7. Levels are therefore laid evenly in $\ln \sigma$ from 20 to 0.02, or with steps of unequal lengths, which shows
what an even grid hides.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import protocol
from .beds import Mixture
from .recorder import Seeded, run
from .verdict import Check

QUANTILES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
COUNTS = (20, 40, 80, 160, 320)
LARGEST = {1: 2e-2, 2: 4e-4}  # error with 320 levels; the mixture has standard deviations of about 1/2
SLACK = {1: 0.15, 2: 0.2}
HIGH, LOW = 20.0, 0.02


def log_sigmas(n: int, pattern: Sequence[float] = (1.0,)) -> Any:
    r"""n noises from 20 down to 0.02, their steps in $\ln\sigma$ as long as the pattern says, over and over."""
    steps = np.resize(np.asarray(pattern, np.float64), n - 1)
    share = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return (LOW * (HIGH / LOW) ** share)[::-1]


def flow_errors(sampler: Any, pattern: Sequence[float] = (1.0,), counts: Sequence[int] = COUNTS) -> list[float]:
    """Largest error over the quantiles in the state that the model is shown at the last noisy level, for each number of levels."""
    bed, errors = Mixture(), []
    for n in counts:
        there = sampler.on(log_sigmas(n, pattern))
        levels, item = protocol.levels(there, n), protocol.shape(sampler)

        def state(level: Any, item: Any = item) -> Any:
            x = bed.quantile(np.array(QUANTILES), level)
            return np.broadcast_to(x.reshape(-1, *(1,) * len(item)), (len(x), *item)).copy()

        trace = run(there, n, bed, state(levels[0]), noise=Seeded(2, len(QUANTILES)))
        last = [call for call in trace.calls if call.level == levels[-2]]
        if not last:
            return [float("nan")]
        errors.append(float(np.abs(last[-1].x - state(levels[-2])).max() / levels[-2].size))
    return errors


def _slope(errors: Sequence[float]) -> float:
    """The middle of the last two doublings."""
    if len(errors) < 3:
        return float("nan")
    with np.errstate(all="ignore"):
        e = np.asarray(errors)
        return float(np.mean(np.log2(e[-3:-1] / e[-2:])))


def _checked(sampler: Any, pattern: Sequence[float], order: int, what: str) -> Iterator[Check]:
    yield from of_order(flow_errors(sampler, pattern), order, LARGEST[order], what)


def of_order(errors: Sequence[float], order: int, largest: float, what: str) -> Iterator[Check]:
    """That errors fall as the order says, and that the last is small."""
    said, slope = ", ".join(f"{e:.2e}" for e in errors), _slope(errors)
    where = f"slope {slope:.2f} on {what}, short of order {order}: errors {said}"
    yield Check(order - slope, SLACK[order], where, f"short of slope {order}")
    last = f"error with {COUNTS[-1]} levels"
    yield Check(errors[-1], largest, f"{last} on {what}", last)


def order(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""On even steps in $\ln\sigma$ the error falls as $N^{-p}$: the claimed order, measured over 20 to 320 levels.

    The exact state is $F_u^{-1}(F_t(x))$, for in one dimension the flow keeps quantiles. Limit: the slope may be 0.15
    (p = 1) or 0.2 (p = 2) short, by the next term of the error at these N, and the error at 320 must be small, lest a
    slope towards somewhere else passes. Catches: a wrong coefficient that consistency does not see.
    """
    yield from _checked(sampler, (1.0,), sampler.claims["order"], "an even grid")


def order_uneven(sampler: Any, dtype: Any) -> Iterator[Check]:
    """The same where step lengths alternate as 1:2, and where they follow 3, 1, 2, 5, 1.

    Catches: a multistep method that takes its steps as equally long.
    """
    p = sampler.claims.get("order_uneven", sampler.claims["order"])
    for pattern in ((1.0, 2.0), (3.0, 1.0, 2.0, 5.0, 1.0)):
        yield from _checked(sampler, pattern, p, f"steps {':'.join(f'{step:g}' for step in pattern)}")
