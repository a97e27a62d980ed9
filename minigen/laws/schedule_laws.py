"""Laws of levels and of bookkeeping: times, numbers of calls and draws, and what is left of other runs."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from . import protocol
from .beds import Gaussian, Mixture
from .protocol import Fault
from .recorder import Seeded, Tape, run
from .verdict import Check, distance

SWEEP = 130  # numbers of levels that the laws of levels try; rounding in a spacing shows first at 61 levels of 1000


def _sweep(sampler: Any) -> Iterable[int]:
    """1, 2, ... levels, not more than the chain has where that is claimed; or those of its own ``sweep``."""
    if getattr(sampler, "sweep", None) is not None:
        return tuple(sampler.sweep)
    longest = len(sampler.claims["betas"]) if sampler.claims.get("betas") is not None else SWEEP
    return range(1, min(SWEEP, longest) + 1)


def runs(sampler: Any, dtype: Any) -> Iterator[Check]:
    """The protocol is kept: right shape and dtype, input unchanged, the model called, no exception, all finite.

    Catches: states in another dtype, a mutated x_T, NaN at some number of steps, a loop that never ends. Limit: 0
    values that are not finite, on two beds, one point and a mixture.
    """
    for n in protocol.steps(sampler):
        for bed in (Gaussian(0.7, 0.0), Mixture()):
            x = Seeded(1, 5)((5, *protocol.shape(sampler))).astype(dtype)
            trace = run(sampler, n, bed, x, noise=Seeded(2, 5))
            for k, state in enumerate([*(call.x for call in trace.calls), trace.result]):
                what = f"state of call {k + 1}" if k < len(trace.calls) else "result"
                yield Check(float((~np.isfinite(state)).sum()), 0.0, f"{what} of {n} levels is not finite")


def schedule(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""Noise falls strictly, levels lie in the space, and are those of the chain: $\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)$.

    A level may be any of the chain's; where ``times`` is claimed too, it must be that of its time t. Limit:
    $64 T \varepsilon$ of float64, which is what a product of T numbers may lose; $2 T \varepsilon$ of the sampler's own
    precision where that is coarser; $64\,\varepsilon$ of that for the space. Catches: a schedule that is off by one, a
    product in float32 (1.7e-4 of $1 - \bar\alpha_0$), a wrong root.
    """
    eps, betas = float(np.finfo(np.float64).eps), sampler.claims.get("betas")
    chain = None if betas is None else np.cumprod(1 - np.asarray(betas, np.float64))
    kept = float(np.finfo(protocol.precision(sampler, np.float64)).eps)
    allowed = 0.0 if chain is None else (64 * eps if kept == eps else 2 * kept) * len(chain)
    for n in _sweep(sampler):
        found = protocol.levels(sampler, n)
        told, alpha, sigma = np.array(found).T
        k = int(np.argmax(np.diff(np.arctan2(sigma, alpha))))
        rises = float(not np.diff(np.arctan2(sigma, alpha))[k] < 0)
        yield Check(rises, 0.0, f"noise does not fall from time {told[k]:g} to {told[k + 1]:g}, {n} levels")
        held = {"vp": alpha**2 + sigma**2, "sigma": alpha, "flow": alpha + sigma}[sampler.space]
        k = int(np.argmax(np.abs(held - 1)))
        yield Check(abs(held[k] - 1), 64 * kept, f"time {told[k]:g} of {n} levels is not in space {sampler.space!r}")
        if "published" in sampler.claims:
            want = np.asarray(sampler.claims["published"](n), np.float64)
            same = want.shape == (len(found) - 1, 2)
            yield Check(float(not same), 0.0, f"{len(found) - 1} noisy levels where the formula has {len(want)}")
            off = np.abs(np.arctan2(sigma, alpha)[:-1] - np.arctan2(want[:, 1], want[:, 0]))
            k = int(np.argmax(off))
            where = (
                f"level {k + 1} of {n}, time {told[k]:g}: noise {sigma[k]:.6g} where the formula has {want[k, 1]:.6g}"
            )
            yield Check(float(off[k]), 64 * kept, where)
        if chain is not None:
            power = (alpha**2 / (alpha**2 + sigma**2))[:-1]
            near = np.clip(np.searchsorted(-chain, -power), 1, len(chain) - 1)
            near = near - (np.abs(chain[near - 1] - power) < np.abs(chain[near] - power))
            off = from_any = np.abs(chain[near] - power)
            if sampler.claims.get("times") is not None:
                index = (told[:-1] - sampler.claims["times"][0]).astype(np.int64)
                off = np.abs(chain[index.clip(0, len(chain) - 1)] - power)
            k, what = int(np.argmax(off)), "is no level of the chain"
            if off[k] > allowed >= from_any[k]:
                what = f"has the noise of the chain's time {near[k] + sampler.claims['times'][0]:g}"
            yield Check(float(off[k]), allowed, f"time {told[k]:g} of {n} levels {what}")


def times(sampler: Any, dtype: Any) -> Iterator[Check]:
    """n levels for n steps, times strictly falling or strictly rising; whole and in range if ``times`` is claimed.

    Exact. Catches: a spacing whose rounding adds a level or repeats one (61 "trailing" levels of 1000 by a float step).
    """
    claim = sampler.claims.get("times")
    for n in _sweep(sampler):
        found = protocol.levels(sampler, n)
        told = [level.time for level in found[:-1]]
        where = f"levels({n}) has {len(told)} noisy levels: {protocol.short(told)}"
        if len(told) != n and _has(sampler, 2 * n, len(told)):
            where += protocol.FIXED
        yield Check(abs(len(told) - n), 0.0, where)
        change = np.diff(told)
        one_way = bool((change < 0).all() or (change > 0).all())
        yield Check(float(not one_way), 0.0, f"times of levels({n}) repeat or turn round: {protocol.short(told)}")
        if claim is not None:
            low, high = claim
            outside = sum(not (low <= t <= high and t == round(t)) for t in told)
            yield Check(
                float(outside), 0.0, f"times of levels({n}) are not whole within {low}..{high}: {protocol.short(told)}"
            )
            yield Check(abs(told[0] - high), 0.0, f"levels({n}) start at {told[0]:g}, not at {high:g}")


def _has(sampler: Any, n: int, count: int) -> bool:
    """Whether levels(n) has this many noisy levels."""
    try:
        return len(protocol.levels(sampler, n)) - 1 == count
    except Fault:
        return False


def start(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""At the first level at most the share ``leak`` of the signal is left, $\sqrt{\bar\alpha} \le$ leak, for every n.

    The start is then, up to that share, the pure noise that it was drawn as. Catches: "leading" spacing, which with 501
    levels of 1000 starts in the middle of the chain.
    """
    for n in _sweep(sampler):
        first = protocol.levels(sampler, n)[0]
        yield Check(
            first.a, float(sampler.claims["leak"]), f"signal left at the first of {n} levels, time {first.time:g}"
        )


def end(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""The last level is the data, without noise; or with at most the share ``rest`` of it,
    $\sqrt{1 - \bar\alpha} \le$ rest, for every n.

    That the state is then at this level is L6's. Limit: 1e-4, which a rounded time may leave. Catches: a list of noises
    without the 0 at its end, which leaves the lowest of them in the result.
    """
    allowed = max(float(sampler.claims.get("rest") or 0.0), protocol.BELOW)
    for n in _sweep(sampler):
        last = protocol.levels(sampler, n)[-1]
        yield Check(last.s, allowed, f"noise left at the last of {n} levels")


def counts(sampler: Any, dtype: Any) -> Iterator[Check]:
    """The model is called as often as claimed, first with x_T at the first level, and never at an earlier level again
    unless noise is drawn in between; noise is drawn as often as claimed, and none that stays in the result is drawn
    after the last call.

    Exact, but for rounding in the first state. Catches: noise added at the end, a first level left out, calls out of
    order.
    """
    for n in protocol.steps(sampler):
        x = Seeded(1, 5)((5, *protocol.shape(sampler))).astype(dtype)
        trace = run(sampler, n, Mixture(), x, noise=Seeded(2, 5))
        told = [call.level for call in trace.calls]
        for what, found in (("calls", len(told)), ("draws", len(trace.draws))):
            if what in sampler.claims:
                want = protocol.count(sampler, what, n)
                yield Check(abs(found - want), 0.0, f"{found} {what} where {want} are claimed, {n} levels")
        first = told[0]
        eps = float(np.finfo(protocol.precision(sampler, dtype)).eps)
        if not (0 in trace.draws and first.s > trace.levels[0].s):
            yield Check(float(first != trace.levels[0]), 0.0, f"the first call is at time {first.time:g}, {n} levels")
            limit = 64 * eps * max(1.0, float(np.abs(trace.calls[0].x).max()))
            yield Check(distance(trace.calls[0].x, x), limit, f"the first state is not x_T, {n} levels")
        listed = [
            (k, level) for k, level in enumerate(told) if level in trace.levels
        ]  # calls between levels may lie below the next one
        back = sum(
            low.s > high.s and not any(i < before <= j for before in trace.draws)
            for (i, high), (j, low) in zip(listed, listed[1:])
        )
        yield Check(float(back), 0.0, f"a call goes back to an earlier level, {n} levels")
        late = [k for k, before in enumerate(trace.draws) if before == len(told)]
        if trace.levels[-1].sigma == 0 and late:  # a draw may be thrown away there, as by a standard deviation of 0
            tape = run(sampler, n, Mixture(), 0 * np.resize(x, (2 + len(trace.draws), *x.shape[1:])), noise=Tape())
            left = float(np.abs(tape.result[2:][late] - tape.result[0]).max())
            yield Check(left, 64 * eps, f"noise is drawn after the last call and stays in the result, {n} levels")


class _Stop(Exception):
    """Ends a run in its middle."""


def reuse(sampler: Any, dtype: Any) -> Iterator[Check]:
    """A run after others, with other numbers of levels or broken off, equals the run without them, bitwise.

    Catches: history or a step counter that outlives a run.
    """
    n = max(protocol.steps(sampler))
    sampler = sampler.fresh() if hasattr(sampler, "fresh") else sampler
    x = Seeded(1, 5)((5, *protocol.shape(sampler))).astype(dtype)
    bed = Mixture()

    def stopping(x_t: Any, level: Any, call: int) -> Any:
        if call == 1:
            raise _Stop
        return bed(x_t, level, call)

    before = run(sampler, n, bed, x, noise=Seeded(2, 5)).result
    for other in protocol.steps(sampler)[:3]:
        run(sampler, other, bed, x, noise=Seeded(3, 5))
        again = run(sampler, n, bed, x, noise=Seeded(2, 5)).result
        yield Check(distance(again, before), 0.0, f"{n} levels after a run of {other}")
    try:
        run(sampler, n, stopping, x, noise=Seeded(3, 5))
    except Fault as fault:
        if not isinstance(fault.__cause__, _Stop):
            raise
    again = run(sampler, n, bed, x, noise=Seeded(2, 5)).result
    yield Check(distance(again, before), 0.0, f"{n} levels after a run that was broken off")


def shared(sampler: Any, dtype: Any) -> Iterator[Check]:
    """A run in which every call of the model makes another whole run equals the run without these, bitwise.

    Two threads that share a sampler can interleave like this. Catches: history, levels or a step counter on the object,
    even if every run begins by clearing them.
    """
    n = max(protocol.steps(sampler))
    x = Seeded(1, 5)((5, *protocol.shape(sampler))).astype(dtype)
    bed = Mixture()
    before = run(sampler, n, bed, x, noise=Seeded(2, 5)).result
    for other in protocol.steps(sampler)[:3]:

        def shared_bed(x_t: Any, level: Any, call: int, other: int = other) -> Any:
            run(sampler, other, bed, x, noise=Seeded(3, 5))
            return bed(x_t, level, call)

        again = run(sampler, n, shared_bed, x, noise=Seeded(2, 5)).result
        yield Check(distance(again, before), 0.0, f"{n} levels with a run of {other} in every call of the model")
