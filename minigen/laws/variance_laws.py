r"""Laws of the variance of a step: learned, or on a chain of which only some levels are visited."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import protocol
from .beds import Gaussian, Mixture
from .exact_laws import POINT, _allowed, _compared, _names, _seeded, _states, _tape_batch
from .protocol import Level
from .recorder import Seeded, Tape, moments, run
from .reference import ddim_variance
from .verdict import Check, distance


def best_share(top: Level, bottom: Level, std: float) -> float:
    r"""$v^*$ with $v \ln \beta + (1 - v) \ln \tilde\beta = \ln \mathrm{Var}(x_u \mid x_t)$, for data of this standard deviation.

    $x_t = \alpha x_u + \sqrt\beta z$ with $\alpha = a_t / a_u$, so $\mathrm{Var}(x_u \mid x_t) = V_u \beta / V_t$,
    $V = a^2 \text{std}^2 + s^2$.
    """
    if bottom.s == 0:
        return 0.0
    beta = 1 - (top.a / bottom.a) ** 2
    V_u, V_t = (level.a**2 * std**2 + level.s**2 for level in (bottom, top))
    low = ddim_variance(top, bottom, 1.0)
    return float((np.log(V_u * beta / V_t) - np.log(low)) / (np.log(beta) - np.log(low)))


def learned_variance(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""Data $N(m, s^2)$ and the best share $v^*$: every state is $N(a m, a^2 s^2 + 1 - a^2)$, at any stride.

    The step is drawn from $x_u \mid x_t$ itself: its mean is $\tilde\mu$ with $E[x_0 \mid x_t]$, and $v^*$ makes its
    variance right (Nichol & Dhariwal 2021, 2102.09672, eq. 15). The result is the mean of $x_0$ given the last state.
    Shares beyond 1 occur too: data of more than unit variance need them. Limit: 8 times rounding. Catches: the ends of
    the range swapped, the bounds of the full chain on a respaced one, a factor 1/2 of the logarithm forgotten.
    """
    for n in protocol.steps(sampler):
        levels = protocol.levels(sampler, n)
        for std in (0.5, 1.0, 2.0):
            shares = {top.time: best_share(top, bottom, std) for top, bottom in zip(levels, levels[1:])}
            V = [level.a**2 * std**2 + level.s**2 for level in levels]
            x = _tape_batch(sampler, n, dtype, levels[0].a * POINT, V[0] ** 0.5)
            bed = Gaussian(POINT, std)

            def share(level: Level, shares: dict[float, float] = shares) -> float:
                return shares[level.time]

            trace = run(sampler, n, bed, x, noise=Tape(), share=share)
            gain = levels[-2].a * std**2 / V[-2]
            want = [*((level.a * POINT, v) for level, v in zip(levels[:-1], V)), (POINT, gain**2 * V[-2])]
            allowed = 8 * _allowed(sampler, n, dtype) * max(1.0, *V)
            states = _states(trace)
            yield Check(abs(len(states) - len(want)), 0.0, f"{len(states) - 1} calls for {n} levels: not one a level")
            for state, (mean, variance), where in zip(states, want, _names(trace, n)):
                got, sd = moments(state)
                yield Check(distance(got, mean), allowed, f"mean at {where}, data of sd {std:g}")
                yield Check(distance(sd**2, variance), allowed, f"variance at {where}, data of sd {std:g}")


def levels_alone(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""A run over some levels of a chain equals the run over a chain of these levels alone:
    $\beta'_i = 1 - \bar\alpha_{\tau_i} / \bar\alpha_{\tau_{i - 1}}$.

    The same noise gives the same states, whether the levels are picked out of a thousand (``levels(n)``) or are all
    there are (``on``). Limit: 8 times rounding. Catches: $\beta$ or $\tilde\beta$ of the full chain, looked up by the
    time that the model is given.
    """
    for n in protocol.steps(sampler):
        levels = protocol.levels(sampler, n)
        alone = sampler.on(np.array([level.sigma / level.alpha for level in levels[:-1]]))
        x = _seeded(sampler, dtype, levels[0])
        trace = run(sampler, n, Mixture(), x, noise=Seeded(2))
        other = run(alone, n, Mixture(), x, noise=Seeded(2))
        want = _states(other)
        if protocol.levels(alone, n)[-1][1:] != levels[-1][1:]:  # the chains may end differently, and then results do
            want[-1] = _states(trace)[-1]
        yield from _compared(trace, want, 8 * _allowed(sampler, n, dtype), n, "path on the levels alone")
