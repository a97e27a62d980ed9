r"""Order of convergence, on a mixture whose probability flow is known without a solver.

A grid matters as much as the sampler: over the times of a linear schedule even correct solvers show slopes from 0.07 to
4.7. Levels are therefore evenly spaced in $\ln \sigma$ from 20 to 0.02, or have steps of unequal lengths, which show
what an even grid hides.

A multistep method has no history at first, and begins with steps of lower order. One step of first order leaves an
error of $O(h^2)$, however good the rest is (Hairer, Norsett and Wanner 1993, Solving ordinary differential equations I,
section III.4). So from order 3 on a sampler is judged on what it does after the first quarter of its levels: from its
state there, whatever that is, the exact flow and the sampler end $O(h^p)$ apart.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import protocol
from .beds import Gaussian, Mixture
from .protocol import Fault, Level
from .recorder import Seeded, Tape, Trace, moments, run, tape_start
from .verdict import Check

QUANTILES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
COUNTS = (20, 40, 80, 160, 320)
MORE = (640, 1280)  # tried where the slope is short; the last error may then be of these
UNEVEN = ((1.0, 2.0), (3.0, 1.0, 2.0, 5.0, 1.0))  # step lengths, repeated
# 1.5 to 7 times the error of Adams-Bashforth methods in ln sigma with 320 levels, on the worst of these grids.
LARGEST = {1: 8e-2, 2: 1.5e-3, 3: 1e-4, 4: 2e-6}
LARGEST_MOMENT = {1: 4e-2, 2: 3e-3, 3: 3e-4, 4: 3e-5}  # the first two are 3 to 6 times the errors of correct samplers
CENTRE, WIDTH = 0.7, 0.5  # of the data that moments are measured on
SLACK = {1: 0.15, 2: 0.2, 3: 0.5, 4: 0.5}
ROUNDING = 1e-12  # errors below are not due to discretisation
HIGH, LOW = 20.0, 0.02
LATE = 3  # orders from this one on are measured after the first quarter
NEAR = 4  # consecutive levels, at one of which a step begins even if a step takes as many


def log_sigmas(n: int, pattern: Sequence[float] = (1.0,)) -> Any:
    r"""n noises from 20 down to 0.02; the lengths of their steps in $\ln\sigma$ repeat the pattern."""
    steps = np.resize(np.asarray(pattern, np.float64), n - 1)
    share = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return (LOW * (HIGH / LOW) ** share)[::-1]


def worded(pattern: Sequence[float]) -> str:
    """The steps in words."""
    return "an even grid" if len(pattern) == 1 else f"steps {':'.join(f'{step:g}' for step in pattern)}"


def flow_errors(
    sampler: Any, pattern: Sequence[float] = (1.0,), counts: Sequence[int] = COUNTS, *, late: bool = False
) -> list[float]:
    """Largest error over the quantiles in the state shown at the last noisy level, for each number of levels.

    Over the whole run; if ``late``, from about the first quarter of the levels on. There the best of a few starting
    levels counts: within a step of several levels the model is shown intermediate values, not states of the run.
    """
    return [_error(sampler, pattern, n)[late] for n in counts]


def _error(sampler: Any, pattern: Sequence[float], n: int) -> tuple[float, float]:
    """Of a run of ``n`` levels: over all of it, and from the first quarter on."""
    bed, there = Mixture(), sampler.on(log_sigmas(n, pattern))
    levels, item = protocol.levels(there, n), protocol.shape(sampler)
    x = bed.quantile(np.array(QUANTILES), levels[0])
    x = np.broadcast_to(x.reshape(-1, *(1,) * len(item)), (len(x), *item)).copy()
    trace = run(there, n, bed, x, noise=Seeded(2, len(QUANTILES)))
    end = _shown(trace, levels[-2])
    if end is None:
        raise Fault(f"the model was not asked at the last noisy level, time {levels[-2].time:g} of {n} levels")

    def missed(level: Level, state: Any) -> float:
        want = bed.quantile(bed.cdf(state, level), levels[-2])
        return float(np.abs(end - want).max() / levels[-2].size)

    starts = [(level, _shown(trace, level)) for level in levels[n // 4 : n // 4 + NEAR]]
    late = [missed(level, state) for level, state in starts if state is not None]
    whole = missed(levels[0], x)
    return whole, min(late, default=whole)


def _shown(trace: Trace, level: Level) -> Any:
    """The last state that the model was shown at a level: those before are guesses of where a step ends."""
    return next((call.x for call in reversed(trace.calls) if call.level == level), None)


def slope(errors: Sequence[float]) -> float:
    """The mean over the last two doublings that rounding does not reach; infinite where it reaches nearly all."""
    with np.errstate(all="ignore"):
        e = np.asarray(errors)
        above = e[~(e < ROUNDING)]
        if len(above) < 3:
            return float("inf") if len(above) < len(e) else float("nan")
        return float(np.mean(np.log2(above[-3:-1] / above[-2:])))


def _checked(sampler: Any, pattern: Sequence[float], order: int) -> Iterator[Check]:
    where, rounded = worded(pattern), protocol.precision(sampler, np.float64) != np.float64
    late = order >= LATE
    found = [_error(sampler, pattern, n) for n in COUNTS]
    errors = [pair[late] for pair in found]
    if late and order - slope(errors) > SLACK[order]:  # after an error falls too fast at first, its slope looks short
        more = [errors[-1], *flow_errors(sampler, pattern, MORE, late=True)]
        errors = more if slope(more) > slope(errors) else errors
    yield from of_order(errors, order, LARGEST[order], where, rounded=rounded)
    if late:
        what = f"error of the whole walk with {COUNTS[-1]} levels"
        yield Check(found[-1][0], LARGEST[2], f"{what} on {where}, more than a start of lower order leaves", what)


def of_order(
    errors: Sequence[float], order: int, largest: float, what: str, *, rounded: bool = False
) -> Iterator[Check]:
    """That errors fall with the order, and that the last is small; ``rounded``: the last may be rounding alone."""
    listed, found = ", ".join(f"{e:.2e}" for e in errors), slope(errors)
    if rounded:
        found = max(found, slope(errors[:-1]))
    note = f"slope {found:.2f} on {what}"
    if found != float("inf"):
        where = f"{note}, short of order {order}: errors {listed}"
        yield Check(order - found, SLACK[order], where, f"short of slope {order}", note)
    last = f"error with {COUNTS[-1]} levels"
    yield Check(errors[-1], largest, f"{last} on {what}", last)


def order(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""On even steps in $\ln\sigma$ the error falls as $N^{-p}$: the claimed order, measured over 20 to 320 levels.

    The exact state is $F_u^{-1}(F_t(x))$, for in one dimension the flow keeps quantiles. Orders 1 and 2 are those of
    the whole run. Orders 3 and 4 are measured after the first quarter of the levels, so that a multistep method is not
    blamed for its first steps; the whole run must then be as accurate as one of order 2. Limit: the slope may fall
    short by 0.15 (p = 1), 0.2 (p = 2) or 0.5, due to the next term of the error at these N (DPM-Solver++(3M) is 0.47
    short on the worst of the uneven grids); if it is shorter from order 3 on, 640 and 1280 levels are tried. The error
    must also be small, so that convergence to a wrong limit does not pass. Catches: a wrong coefficient that
    consistency does not see, a lost point of the history. Misses: a lower order within the first quarter alone, or in
    the last steps, whose errors weigh little. Wrongly fails: steps that take more than four levels.
    """
    yield from _checked(sampler, (1.0,), sampler.claims["order"])


def order_uneven(sampler: Any, dtype: Any) -> Iterator[Check]:
    """The same where step lengths alternate as 1:2, and where they follow 3, 1, 2, 5, 1.

    Catches: a multistep method that assumes steps of equal length.
    """
    for pattern in UNEVEN:
        yield from _checked(sampler, pattern, uneven(sampler.claims))


def uneven(claims: Any) -> int:
    """The order that is claimed for uneven steps: that for even ones, if none is claimed."""
    found = claims.get("order_uneven")
    return int(claims["order"] if found is None else found)


def weak_order(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""With noise, on data N(m, w^2), mean and deviation of the last noisy state approach the exact ones as $N^{-p}$.

    The best network is affine there, so a state is a weighted sum of the start and the draws; a tape shows the weights,
    so the moments are exact, without sampling. The start has the moments of the first level. Even and uneven steps in
    $\ln\sigma$, limits of the slope as for orders; draws of different calls must be independent. Catches: a step of
    higher order whose noise or weights are of lower order, which data of one point do not show.
    """
    order = sampler.claims["weak_order"]
    rounded = protocol.precision(sampler, np.float64) != np.float64
    for pattern in ((1.0,), *UNEVEN):
        errors = [_moments_missed(sampler.on(log_sigmas(n, pattern)), n) for n in COUNTS]
        yield from of_order(errors, order, LARGEST_MOMENT[order], worded(pattern), rounded=rounded)


def _moments_missed(sampler: Any, n: int) -> float:
    """Largest error of mean and standard deviation at the last noisy level."""
    bed, levels = Gaussian(CENTRE, WIDTH), protocol.levels(sampler, n)
    first, last = levels[0], levels[-2]
    std = float(np.hypot(first.a * WIDTH, first.s))
    start = tape_start(sampler, first, first.a * CENTRE, std, protocol.draws(sampler, n), np.float64)
    state = _shown(run(sampler, n, bed, start, noise=Tape()), last)
    if state is None:
        raise Fault(f"the model was not asked at the last noisy level, time {last.time:g} of {n} levels")
    mean, found = moments(state / last.size)
    missed = np.abs(mean - last.a * CENTRE), np.abs(found - np.hypot(last.a * WIDTH, last.s))
    return float(np.max(missed))
