r"""Laws of sampling with something given: known pixels, a picture to start from, or a picture whose noise is sought.

Known pixels, like painted ones, are affine in the noise, so the tape shows the distribution of both exactly.
"""

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np

from . import arrays, protocol
from .beds import Gaussian, Mixture
from .exact_laws import POINT, _states
from .order_laws import COUNTS, LARGEST, QUANTILES, log_sigmas, of_order
from .protocol import Level
from .recorder import Seeded, Tape, Trace, asked, moments, run, shaped
from .verdict import Check, distance, rounding

KNOWN = -0.4


class Given:
    """A sampler in the protocol's form: ``sample`` with what is given filled in."""

    def __init__(self, subject: Any, sample: Any, shape: tuple[int, ...] = (2,)) -> None:
        self.subject, self._sample, self.shape, self.space = subject, sample, shape, "vp"
        self.claims: dict[str, Any] = {}
        self.arrays = getattr(subject, "arrays", "numpy")

    def levels(self, n: int) -> Any:
        """Those of the subject."""
        return self.subject.levels(n)

    def sample(self, model: Any, x: Any, n: int, noise: Any) -> Any:
        """The walk."""
        return self._sample(model, x, n, noise)


def _inpainted(subject: Any, n: int, known: Any, mask: Any, x: Any, noise: Any, bed: Any = None) -> Trace:
    def sample(model: Any, x: Any, n: int, noise: Any) -> Any:
        given = [arrays.into(getattr(subject, "arrays", "numpy"), a) for a in (known, mask)]
        return subject.sample(model, x, *given, n, noise)

    return run(Given(subject, sample, x.shape[1:]), n, Gaussian(POINT) if bed is None else bed, x, noise=noise)


def _steps(subject: Any) -> tuple[int, ...]:
    return tuple(getattr(subject, "steps", (1, 2, 3, 7)))


def inpainting(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""Known pixels k are $N(a k, s^2)$ at every call (``noised``), and k at the end; painted pixels of data of one
    point m are $N(a m, s^2)$ and end at m (``point``).

    The mask is 1 where a pixel is known. A mask of ones returns the picture; under a mask of zeros the picture is never
    read: NaN and 99 there give the same result. By the tape, in one batch; RePaint's jumps back up must preserve every
    variance for this to hold. ``calls`` and ``draws`` are as claimed, and no noise drawn after the last call is left in
    the result. Limit: rounding; at the end 0 if ``exact`` is claimed. Catches: an inverted mask, known pixels without
    noise or with that of another level (the result shows neither), known pixels not restored after the last step, a
    jump by $\beta$ for $\sqrt\beta$.
    """
    for n in _steps(subject):
        levels = protocol.levels(subject, n)
        mask = np.array([[1.0, 0.0]], dtype)

        def start(rows: int, levels: Any = levels) -> tuple[Any, Any]:
            x = np.full((rows, 2), levels[0].alpha * POINT, dtype)
            x[1] += np.asarray(levels[0].sigma, dtype)
            return x, np.tile(np.array([[KNOWN, np.nan]], dtype), (rows, 1))

        x, known = start(3)
        draws = len(_inpainted(subject, n, known, mask, x, lambda shape: np.zeros(shape)).draws)
        x, known = start(2 + draws)
        trace = _inpainted(subject, n, known, mask, x, Tape())
        allowed = rounding(levels, dtype) * max(1, len(trace.calls) // n)
        for what, found in (("calls", len(trace.calls)), ("draws", len(trace.draws))):
            if what in subject.claims:
                claimed = protocol.count(subject, what, n)
                yield Check(abs(found - claimed), 0.0, f"{found} {what} where {claimed} are claimed")
        late = [k for k, before in enumerate(trace.draws) if before == len(trace.calls)]
        if late:  # a draw may be thrown away there, as by a standard deviation of 0
            left = distance(trace.result[2:][late], trace.result[:1])
            yield Check(left, allowed, f"noise is drawn after the last call and stays in the result, {n} levels")
        told = [*(call.level for call in trace.calls), levels[-1]]
        for i, (state, level) in enumerate(zip(_states(trace), told)):
            where = (
                f"call {i + 1} at time {level.time:g}, {n} levels" if i < len(trace.calls) else f"result, {n} levels"
            )
            mean, std = moments(state[:, :1])
            if i == len(trace.calls):
                off = float(np.abs(state[:, 0] - np.asarray(KNOWN, dtype)).max())
                yield Check(off, 0.0 if subject.claims.get("exact") else allowed, f"known pixels of the {where}")
            elif subject.claims.get("noised"):
                yield Check(distance(mean, level.a * KNOWN), allowed, f"mean of known pixels, {where}")
                yield Check(distance(std, level.s), allowed, f"standard deviation of known pixels, {where}")
            if subject.claims.get("point"):
                mean, std = moments(state[:, 1:])
                yield Check(distance(mean, level.a * POINT), allowed, f"mean of painted pixels, {where}")
                yield Check(distance(std, level.s), allowed, f"standard deviation of painted pixels, {where}")
        x, picture = (Seeded(seed, 4)((4, 2)).astype(dtype) for seed in (1, 3))
        ones, zeros = np.ones((1, 2), dtype), np.zeros((1, 2), dtype)
        whole = _inpainted(subject, n, picture, ones, x, Seeded(2, 4), Mixture()).result
        limit = 0.0 if subject.claims.get("exact") else allowed * max(1.0, float(np.abs(picture).max()))
        yield Check(distance(whole, picture), limit, f"a mask of ones does not return the picture, {n} levels")
        painted = [
            _inpainted(subject, n, np.full_like(picture, value), zeros, x, Seeded(2, 4), Mixture()).result
            for value in (np.nan, 99.0)
        ]
        yield Check(distance(*painted), 0.0, f"what lies under a mask of zeros is read, {n} levels")


def editing(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""A picture $x_0$ noised to the level $\lceil \text{strength} \cdot N \rceil$ is $N(a x_0, s^2)$ at the first
    call, which is at that level; from there sampling ends as usual.

    Strength 0 returns the picture, 1 visits all levels (Meng et al. 2021, 2108.01073). By the tape, on data of one
    point. Limit: rounding. Catches: a start one level above or below the one noised to, a strength that is rounded down
    or inverted, a picture that is not scaled by $a$.
    """
    for n in _steps(subject):
        levels = protocol.levels(subject, n)
        for strength in (0.3, 0.5, 1.0):
            x = np.full((2 + 2 * n, 1), KNOWN, dtype)

            def sample(model: Any, x: Any, n: int, noise: Any, strength: float = strength) -> Any:
                return subject.sample(model, x, strength, n, noise)

            trace = run(Given(subject, sample, (1,)), n, Gaussian(POINT), x, noise=Tape())
            count = ceil(strength * n - 1e-9)
            level: Level = levels[n - count]
            where = f"strength {strength:g} of {n} levels"
            first = trace.calls[0]
            yield Check(float(first.level != level), 0.0, f"the first call is at time {first.level.time:g}, {where}")
            yield Check(abs(len(trace.calls) - count), 0.0, f"{len(trace.calls)} calls, not {count}, {where}")
            mean, std = moments(_states(trace)[0])
            allowed = rounding(levels, dtype)
            yield Check(distance(mean, level.a * KNOWN), allowed, f"mean at the first call, {where}")
            yield Check(distance(std, level.s), allowed, f"standard deviation at the first call, {where}")
            yield Check(distance(trace.result, np.full_like(trace.result, POINT)), allowed, f"result, {where}")
        picture = Seeded(1, 3)((3, 1)).astype(dtype)
        same = asked(subject, None, picture, 0.0, n, lambda shape: np.zeros(shape, dtype), method="sample")
        yield Check(distance(shaped(same, picture.shape, dtype), picture), 0.0, "strength 0 changes the picture")


def inversion(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""The way up from $x_0$ ends at $F_T^{-1}(F_0(x_0))$, and down again at $x_0$, with an error of the claimed order:
    on the mixture, even steps in $\ln \sigma$.

    In one dimension the flow keeps quantiles, so both ends are known. Limits as for the order of a sampler; the round
    trip with 320 levels misses by at most 0.06. It does not see at which of a step's two levels the model was called:
    both are of order 1. Catches: a step up that is not the reverse of the step down, one that is taken twice, an
    $\epsilon$ of the wrong level altogether.
    """
    bed, errors, trips = Mixture(), [], []
    for n in COUNTS:
        there = subject.on(log_sigmas(n))
        levels = protocol.levels(there, n)
        x_0 = bed.quantile(np.array(QUANTILES), levels[-1]).reshape(-1, 1).astype(dtype)
        up = run(Given(there, lambda model, x, n, noise, by=there: by.encode(model, x, n), (1,)), n, bed, x_0)
        x_T = up.result / levels[0].size
        want = bed.quantile(np.array(QUANTILES), levels[0]).reshape(-1, 1) / levels[0].size
        errors.append(distance(x_T, want))
        down = Given(there, lambda model, x, n, noise, by=there: by.decode(model, x, n), (1,))
        trips.append(distance(run(down, n, bed, up.result.astype(dtype)).result, x_0))
    order = subject.claims["order"]
    for what, found, largest in (("the way up", errors, LARGEST[order]), ("the round trip", trips, 0.06)):
        yield from of_order(found, order, largest, what)
