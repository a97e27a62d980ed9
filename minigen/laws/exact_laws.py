r"""Laws with no discretisation error: they hold at any number of steps, so the only tolerance is rounding.

States are compared in variance-preserving units, divided by $\sqrt{\alpha^2 + \sigma^2}$; $a, s$ are the shares of
signal and noise there.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np

from minigen.errors import in_words

from . import arrays, protocol
from .beds import Bed, FullGaussian, Gaussian, Mixture, Scripted
from .protocol import Fault, Level
from .recorder import Seeded, Tape, Trace, moments, run, tape_start
from .reference import RULES, ancestral, ddim_variance
from .verdict import Check, distance, of_noises, rounding

POINT = 0.7
CLIPPED = -0.3
CHURN = 1.4143
SHIFTS = (0.5, 100.0)  # the second beyond every range of pictures
LOUD = 100.0
ENDS = [0, -1]  # the entries of an item that are rotated


def _states(trace: Trace) -> list[Any]:
    """What the model was shown, and the result, in variance-preserving units."""
    return [*(call.x / call.level.size for call in trace.calls), trace.result / trace.levels[-1].size]


def _names(trace: Trace, n: int) -> list[str]:
    return [f"call {k + 1} at time {c.level.time:g}, {n} levels" for k, c in enumerate(trace.calls)] + [
        f"result, {n} levels"
    ]


def _on_tape(
    sampler: Any, n: int, bed: Gaussian, dtype: Any, mean: float, std: float, kind: str | None = None
) -> Trace:
    """A run whose rows are the start's mean, a standard deviation more, and one for every draw."""
    return run(sampler, n, bed, _tape_batch(sampler, n, dtype, mean, std), noise=Tape(), kind=kind)


def _tape_batch(sampler: Any, n: int, dtype: Any, mean: float, std: float) -> Any:
    first = protocol.levels(sampler, n)[0]
    return tape_start(sampler, first, mean, std, protocol.draws(sampler, n), dtype)


def _allowed(sampler: Any, n: int, dtype: Any) -> float:
    kept, claims = protocol.precision(sampler, dtype), sampler.claims
    return rounding(protocol.levels(sampler, n), kept, claims.get("rule"), claims.get("eta"))


def _limits(sampler: Any, n: int, dtype: Any, trace: Trace) -> list[float]:
    r"""How far rounding may move every state that the model was shown, and the result.

    It grows by the ratio of noises of a step that ended in a second slope (`rounding`): one after which the model is
    called at the same level again, with no noise drawn in between, or at one with at most $\sqrt 2$ times its noise, as
    after the churn of Karras et al. 2022, algorithm 2.
    """
    levels, kept, claims = protocol.levels(sampler, n), protocol.precision(sampler, dtype), sampler.claims
    told = [*(call.level for call in trace.calls), trace.levels[-1]]
    ratios = [1.0, 1.0]
    for k, (high, low, after) in enumerate(zip(told, told[1:], told[2:]), 2):
        up = of_noises(after, low) if low.sigma > 0 else 0.0
        second = 1 < up < CHURN if k in trace.draws else up == 1
        ratios.append(max(ratios[-1], of_noises(high, low) if second else 1.0))
    return [rounding(levels, kept, claims.get("rule"), claims.get("eta"), ratio) for ratio in ratios]


def _seeded(sampler: Any, dtype: Any, level: Level, rows: int = 8) -> Any:
    """A batch of normal states of the first level's size."""
    return (level.size * Seeded(1, rows)((rows, *protocol.shape(sampler)))).astype(dtype)


def coherence(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""The noise-to-signal ratio of every state that the model is shown is that of the level it is told.

    Data of one point m, by the tape: $\mathrm{sd}\, m / \mathrm{mean} = \sigma / \alpha$, compared as shares $a, s$ of
    a unit vector. Limit: rounding. Catches: a previous time that is not the next one listed, Karras noise with its time
    rounded to a whole number.
    """
    for n in protocol.steps(sampler):
        first = protocol.levels(sampler, n)[0]
        trace = _on_tape(sampler, n, Gaussian(POINT), dtype, first.a * POINT, first.s)
        for call, limit, where in zip(trace.calls, _limits(sampler, n, dtype, trace), _names(trace, n)):
            mean, std = moments(call.x)
            length = np.hypot(mean / POINT, std)
            if not (length > 0).all():
                yield Check(1.0, 4 * limit, where)
                continue
            off = max(distance(mean / POINT / length, call.level.a), distance(std / length, call.level.s))
            yield Check(off, 4 * limit, where)


def point_mass(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""Data of one point m: the state at every call is $N(a m, s^2)$ for the level that the model is told, and the end is m.

    There $\hat x_0 = m$ always and $\hat\epsilon$ is constant along a path, so no solver that is consistent can be
    wrong, at any number of steps on any grid. Not so for the large variance, which is exact for unit data instead.
    Limit: rounding. Catches: most faults, since every call is checked: the last step, to the guess of x_0, repairs the
    result.
    """
    for n in protocol.steps(sampler):
        for kind in protocol.kinds(sampler)[:1]:
            levels = protocol.levels(sampler, n)
            trace = _on_tape(sampler, n, Gaussian(POINT), dtype, levels[0].a * POINT, levels[0].s, kind)
            yield from _one_point(trace, n, POINT, _limits(sampler, n, dtype, trace))


def _one_point(trace: Trace, n: int, point: float, limits: list[float], what: str = "") -> Iterator[Check]:
    """Every state on a tape against $N(a m, s^2)$, and the end against m."""
    told = [*(call.level for call in trace.calls), trace.levels[-1]]
    for state, level, allowed, where in zip(_states(trace), told, limits, _names(trace, n)):
        mean, std = moments(state)
        yield Check(distance(mean, level.a * point), allowed, f"mean at {where}{what}")
        yield Check(distance(std, level.s), allowed, f"standard deviation at {where}{what}")
        if not trace.draws:
            yield Check(distance(state[1] - state[0], level.s), allowed, f"direction of the noise at {where}{what}")


def unit_gaussian(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""Data N(0, 1) and the large variance: every state has variance 1, at any stride; the end has $\bar\alpha_1$ (Ho
    et al. 2020, section 3.2).

    $x_u \mid x_t$ is then $N(\sqrt{\alpha} x_t, \beta)$ with $\beta = 1 - \bar\alpha_t / \bar\alpha_u$; the last step
    gives the mean $a_1 x_1$ and no noise. Limit: rounding. Catches: $\beta$ of the full chain on a respaced one, a
    variance for a standard deviation.
    """
    for n in protocol.steps(sampler):
        trace = _on_tape(sampler, n, Gaussian(0.0, 1.0), dtype, 0.0, 1.0)
        states, names, allowed = _states(trace), _names(trace, n), 4 * _allowed(sampler, n, dtype)
        for k, (state, where) in enumerate(zip(states, names)):
            want = 1.0 if k < len(states) - 1 else trace.calls[-1].level.a
            yield Check(distance(moments(state)[1], want), allowed, f"standard deviation at {where}")


def transition(top: Level, bottom: Level, std: float, eta: float | str) -> tuple[float, float]:
    r"""Gain and added variance of one step on data $N(m, s^2)$: $x_u - a_u m = A (x_t - a_t m) + \sqrt v z$.

    Replacing $x_0$ by its mean given $x_t$ in $x_u = a_u x_0 + c\, \epsilon_t + \sqrt v z$ gives
    $A = \mathrm{Cov}(x_u, x_t) / \mathrm{Var}(x_t)$, read off the joint covariance of $(x_0, x_u, x_t)$.
    """
    v = ddim_variance(top, bottom, 1.0 if eta == "large" else float(eta))
    c = np.sqrt(max(bottom.s**2 - v, 0.0))
    # rows: x_0, x_u, x_t in terms of independent (x_0 / std, eps_t, z)
    rows = np.array([[std, 0, 0], [bottom.a * std, c, np.sqrt(v)], [top.a * std, top.s, 0]])
    covariance = rows @ rows.T
    if eta == "large":
        v = 1 - (top.a / bottom.a) ** 2 if bottom.s > 0 else 0.0
    return float(covariance[1, 2] / covariance[2, 2]), v


def gaussian_recursion(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""Data $N(m, s^2)$: mean and variance of every state, by the recursion of `transition`, at any stride and for any $\eta$.

    A finite number of steps gets the variance wrong by exactly this much, so it can be checked up to rounding, where
    $10^6$ samples would resolve 0.3 %. Limit: 8 times rounding times the largest moment. Catches:
    $\eta$ for $\eta^2$ (at 0.4; 0 and 1 hide it), a missing root, noise of the wrong level.
    """
    eta = sampler.claims["eta"]
    for n in protocol.steps(sampler):
        levels = protocol.levels(sampler, n)
        for std in (0.5, 2.0):
            mean, gain, variance = 0.0, 1.0, 1.0
            want = [(mean, gain, variance)]
            for top, bottom in zip(levels, levels[1:]):
                A, v = transition(top, bottom, std, eta)
                mean, gain, variance = A * mean + (bottom.a - A * top.a) * POINT, A * gain, A**2 * variance + v
                want.append((mean, gain, variance))
            trace = _on_tape(sampler, n, Gaussian(POINT, std), dtype, 0.0, 1.0)
            states, names = _states(trace), _names(trace, n)
            yield Check(abs(len(states) - len(want)), 0.0, f"{len(states) - 1} calls for {n} levels: not one a level")
            allowed = 8 * _allowed(sampler, n, dtype) * max(1.0, *(abs(m) + abs(g) + v for m, g, v in want))
            for state, (m, g, v), where in zip(states, want, names):
                got, sd = moments(state)
                yield Check(distance(got, m), allowed, f"mean at {where}, data of sd {std:g}")
                yield Check(distance(state[1] - state[0], g), allowed, f"weight of x_T at {where}, sd {std:g}")
                yield Check(distance(sd**2, v), allowed, f"variance at {where}, data of sd {std:g}")


def _followed(rule: Any, trace: Trace, bed: Bed, x: Any, noise: Any, **settings: Any) -> list[Any]:
    """The states at which a rule of `reference` calls the model, and its result, for the start and noise of a run."""
    levels, asked, number = trace.levels, [], count()

    def ask(i: int, state: Any) -> tuple[Any, Any]:
        asked.append(state)
        return bed(state * levels[i].size, levels[i], next(number))

    try:
        with np.errstate(all="ignore"):
            end = rule(levels, x.astype(np.float64) / levels[0].size, ask, lambda: noise(x.shape), **settings)
    except Exception as error:
        raise Fault(f"claim 'rule' raised {in_words(error)} for {len(levels) - 1} levels") from error
    if np.shape(end) != x.shape:
        raise Fault(f"claim 'rule' gave {type(end).__name__}, not an array of shape {x.shape}")
    return [*asked, end]


def _compared(trace: Trace, want: list[Any], allowed: float, n: int, what: str) -> Iterator[Check]:
    got = _states(trace)
    yield Check(abs(len(got) - len(want)), 0.0, f"{len(got) - 1} calls where the rule has {len(want) - 1}, {n} levels")
    limit = allowed * max(1.0, *(float(np.abs(state).max()) for state in want))
    for state, target, where in zip(got, want, _names(trace, n)):
        yield Check(distance(state, target), limit, f"{what} at {where}")


def ddim_is_ancestral(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""$\eta = 1$ is DDPM with $\tilde\beta$: the same path from the same noise, on a mixture.

    The posterior (eq. 7 of 2006.11239) is written here as a product of two Gaussians, not as DDIM's eq. 12. Draws may be
    used in another order, with another sign or several per step: the steps' noises must then be the posterior's for
    some orthogonal mix of the draws. Limit: 8 times rounding. Catches: $\sigma$ of eq. 16 between the wrong two levels,
    noise in the wrong place.
    """
    for n in protocol.steps(sampler):
        x = _seeded(sampler, dtype, protocol.levels(sampler, n)[0])
        trace = run(sampler, n, Mixture(), x, noise=Seeded(2))
        want = _followed(ancestral, trace, Mixture(), x, Seeded(2))
        allowed = 8 * _allowed(sampler, n, dtype)
        path = [*_compared(trace, want, allowed, n, "path")]
        if all(check.holds for check in path) or len(trace.calls) != n or not trace.draws:
            yield from path
            continue
        mixed = [*_mixed_draws(sampler, n, dtype, len(trace.draws), allowed)]
        yield from mixed if mixed and all(check.holds for check in mixed) else path


def _mixed_draws(sampler: Any, n: int, dtype: Any, draws: int, allowed: float) -> Iterator[Check]:
    r"""What each step adds to the posterior's mean is $W z$ of all draws $z$, $W W^\top$ diagonal with $\tilde\beta$.

    Yields nothing if each step uses its own draw, in order: then the path says more.
    """
    bed, heard, rows = Mixture(), list[Any](), 8 + 2 * draws
    seeded = Seeded(2, rows)

    def noise(shape: Any) -> Any:
        heard.append(seeded(shape))
        return heard[-1]

    trace = run(sampler, n, bed, _seeded(sampler, dtype, protocol.levels(sampler, n)[0], rows), noise=noise)
    states, added, sigmas = _states(trace), [], []
    for k, (top, bottom) in enumerate(zip(trace.levels, trace.levels[1:])):
        with np.errstate(all="ignore"):
            guess = bed(states[k] * top.size, top, k)

        def ask(i: int, x: Any, guess: Any = guess) -> Any:
            return guess

        mean = ancestral([top, bottom], states[k], ask, lambda: 0.0)
        added.append((states[k + 1] - mean).ravel())
        sigmas.append(ddim_variance(top, bottom, 1.0) ** 0.5)
    R, Z = np.array(added), np.reshape(heard, (len(heard), -1))
    if not np.isfinite(R).all():
        yield Check(float("inf"), 0.0, f"not finite, {n} levels")
        return
    W = np.linalg.lstsq(Z.T, R.T, rcond=None)[0].T
    limit = allowed * max(1.0, *(float(np.abs(state).max()) for state in states))
    if all(W[k].argmax() == k and W[k, k] > -W[k].min() for k, sigma in enumerate(sigmas) if sigma > limit):
        return
    sizes, products = np.linalg.norm(W, axis=1), W @ W.T
    np.fill_diagonal(products, 0)
    yield Check(distance(W @ Z, R), limit, f"the noise of a step is no mix of draws, {n} levels")
    yield Check(distance(sizes, sigmas), limit, f"standard deviations of the steps' noises, {n} levels")
    apart = distance(products / np.maximum.outer(sizes, sizes).clip(limit), 0)
    yield Check(apart, limit, f"two steps have noise in common, {n} levels")


def kinds_agree(sampler: Any, dtype: Any) -> Iterator[Check]:
    """The same guess leads along the same path, whatever kind of prediction expresses it.

    One Gaussian, as eps, x_0, v, score or velocity. Limit: 64 times rounding, since one kind divides by what another
    multiplies by. Catches: a kind that is not passed on, a conversion at the wrong level, a sign.
    """
    bed = Gaussian(POINT, 0.4)
    for n in protocol.steps(sampler):
        x = _seeded(sampler, dtype, protocol.levels(sampler, n)[0])
        own, *others = protocol.kinds(sampler)
        first = _states(run(sampler, n, bed, x, noise=Seeded(2), kind=own))
        for kind in others:
            trace = run(sampler, n, bed, x, noise=Seeded(2), kind=kind)
            yield from _compared(trace, first, 64 * _allowed(sampler, n, dtype), n, f"{kind} against {own}")


def weights(sampler: Any, dtype: Any) -> Iterator[Check]:
    """Every state is the published combination of predictions; these depend only on the number of the call.

    In row k of the batch the prediction is 1 at call k only, so it carries the weight of call k; all rows also carry
    seeded noise. Compared with the published rule, reimplemented in `reference`, or with a rule that is given. Limit: 8
    times rounding times the largest weight. Catches: an inverted step ratio, which every test of the order lets pass
    because its error telescopes; weights of the wrong order; stale history.
    """
    rule, eta = sampler.claims["rule"], sampler.claims.get("eta") or 0.0
    follow = rule if callable(rule) else RULES[rule]
    settings = {"eta": eta} if rule == "ddim" else {}
    for kind in [kind for kind in protocol.kinds(sampler) if kind in ("x_0", "eps")] or protocol.kinds(sampler)[:1]:
        for n in protocol.steps(sampler):
            levels = protocol.levels(sampler, n)
            if kind == "eps" and levels[0].alpha == 0:
                continue
            rows = 2 * n + 4
            x = (0 * _seeded(sampler, dtype, levels[0], rows)).astype(dtype)
            bed = Scripted(kind)
            trace = run(sampler, n, bed, x, noise=Seeded(2, rows), kind=kind)
            want = _followed(follow, trace, bed, x, Seeded(2, rows), **settings)
            yield from _compared(trace, want, 8 * _allowed(sampler, n, dtype), n, f"weights of {kind}")


def none_in_vain(sampler: Any, dtype: Any) -> Iterator[Check]:
    """Every prediction of the model moves a later state or the result: in row k of the batch it is 1 at call k, in the
    last row 0 at all calls.

    Exact: whether, not by how much. A prediction where no signal is left may have no effect, as eps has none there.
    Catches: a sampler that calls the model as often as it claims, but keeps using the first prediction.
    """
    kind = protocol.kinds(sampler)[0]
    for n in protocol.steps(sampler):
        first = protocol.levels(sampler, n)[0]
        if kind == "eps" and first.alpha == 0:
            continue

        def heard(rows: int, first: Level = first, n: int = n) -> Trace:
            x = (0 * _seeded(sampler, dtype, first, rows)).astype(dtype)
            return run(sampler, n, Scripted(kind), x, noise=np.zeros)

        calls = len(heard(1).calls)
        trace = heard(calls + 1)
        states = np.array([*(call.x for call in trace.calls), trace.result])
        for k, where in enumerate(_names(trace, n)[:calls]):
            if trace.calls[k].level.a < 1e-6:
                continue
            moved = (states[k + 1 :, k] != states[k + 1 :, -1]).any()
            yield Check(float(not moved), 0.0, f"the model's answer makes no difference: {where}")


def equivariance(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""A sample does not depend on its neighbours, on its place in the batch, or on the choice of axes.

    (1) A row is the same in reversed order and alone. (2) With data of independent dimensions, a change of one row
    changes no other, and of one entry of an item no other entry. (3) $Q$ orthogonal, of the first and the last entry
    of an item: sampling $N(Qm, Q C Q^\top)$ from $Q x_T$ with noise $Q z$ gives $Q$ times the sample. (4) Data shifted by
    $\delta$, 0.5 or 100: the state at a level is shifted by $\alpha \delta$, if ``point`` or ``eta`` is claimed; a solver
    that is exact for no data (Euler's of $dx / dt$) must only be homogeneous: with data, start and noise 100 times as
    large, so is the state. Limit: 64 times rounding. Catches: noise shared by the batch, statistics of the batch, a
    wrong axis, the square or absolute value of a draw in its place, states or guesses clipped without being asked to.
    """
    for n in protocol.steps(sampler)[1:4] or protocol.steps(sampler):
        first, allowed = protocol.levels(sampler, n)[0], 64 * _allowed(sampler, n, dtype)
        x, bed = _seeded(sampler, dtype, first), Mixture()
        whole = run(sampler, n, bed, x, noise=Seeded(2)).result
        limit = allowed * max(1.0, float(np.abs(whole).max()))
        for rows, what in (([*range(8)][::-1], "reversed"), ([3], "alone"), ([0, 5, 3], "among others")):
            got = run(sampler, n, bed, x[rows], noise=Seeded(2, rows=rows)).result
            yield Check(distance(got, whole[rows]), limit, f"a row {what}, {n} levels")
        changed = x.copy()
        changed[0] += first.size
        rest = run(sampler, n, bed, changed, noise=Seeded(2)).result
        yield Check(distance(rest[1:], whole[1:]), limit, f"another row was changed, {n} levels")
        yield from _number_by_number(sampler, dtype, n, "the start")
        plain = run(sampler, n, Gaussian(POINT, 0.4), x, noise=Seeded(2))
        told = [*(call.level for call in plain.calls), plain.levels[-1]]
        if not (sampler.claims.get("point") or sampler.claims.get("eta") is not None):
            loud = _times(LOUD, sampler, dtype, n, x)
            for moved, here, where in zip(_states(loud), _states(plain), _names(plain, n)):
                yield Check(distance(moved, LOUD * here), LOUD * limit, f"all {LOUD:g} times as large at {where}")
        else:
            for by in SHIFTS:
                there = x + np.asarray(by * first.alpha, dtype)
                shifted = run(sampler, n, Gaussian(POINT + by, 0.4), there, noise=Seeded(2))
                for moved, here, level, where in zip(_states(shifted), _states(plain), told, _names(plain, n)):
                    off = distance(moved, here + by * level.a)
                    yield Check(off, max(1.0, by) * limit, f"data shifted by {by:g} at {where}")
        yield from _rotated(sampler, dtype, n, allowed)


def _times(factor: float, sampler: Any, dtype: Any, n: int, x: Any) -> Trace:
    """The run on data, start and noise that are ``factor`` times as large."""
    bed, heard = Gaussian(POINT, 0.4), Seeded(2)

    def loud(x_t: Any, level: Level, call: int) -> tuple[Any, Any]:
        x_0, eps = bed(x_t / factor, level, call)
        return factor * x_0, factor * eps

    return run(sampler, n, loud, (factor * x).astype(dtype), noise=lambda shape: factor * heard(shape))


class _Wide:
    """A sampler whose items have shape (2,), so that they can be rotated."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.shape = sampler, (2,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


def _rotated(sampler: Any, dtype: Any, n: int, allowed: float) -> Iterator[Check]:
    wide, angle = sampler if len(protocol.shape(sampler)) > 1 else _Wide(sampler), 0.6
    if np.prod(protocol.shape(wide)) == 1:
        return
    Q = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    C, m = np.array([[1.0, 0.5], [0.5, 0.4]]), np.array([0.7, -0.2])

    def turn(x: Any) -> Any:
        flat = x.reshape(len(x), -1).copy()
        flat[:, ENDS] = flat[:, ENDS] @ Q.T
        return flat.reshape(x.shape)

    def data(mean: Any, covariance: Any) -> Bed:
        def bed(x: Any, level: Level, call: int) -> tuple[Any, Any]:
            flat = x.reshape(len(x), -1)
            both = Gaussian()(flat, level, call)
            for part, ends in zip(both, FullGaussian(mean, covariance)(flat[:, ENDS], level, call)):
                part[:, ENDS] = ends
            return both[0].reshape(x.shape), both[1].reshape(x.shape)

        return bed

    x, heard = _seeded(wide, dtype, protocol.levels(sampler, n)[0]), Seeded(2)
    plain = run(wide, n, data(m, C), x, noise=Seeded(2)).result
    turned = run(wide, n, data(Q @ m, Q @ C @ Q.T), turn(x), noise=lambda s: turn(heard(s))).result
    limit = allowed * max(1.0, float(np.abs(plain).max()))
    yield Check(distance(turned, turn(plain)), limit, f"turned by {angle} rad, {n} levels")


def clipping(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""A clip that no guess reaches changes nothing, a still wider one gives the same result, and a function is shown
    every guess of $x_0$ itself.

    A function that returns m for any guess makes any data one point: every state is then $N(a m, s^2)$, as in L6, if
    ``point`` is claimed and $\hat\epsilon$ is recomputed from the clipped guess. A bound c that guesses reach acts as
    the function that clips to [-c, c]. Limit: rounding; for the two wide clips bitwise. Catches: clipping eps or the
    state instead of $\hat x_0$, a guess clipped before it is converted, a clipped guess that is not used, one with the
    $\hat\epsilon$ of another, clipping on one side only.
    """
    bed = Gaussian(POINT, 0.4)
    for n in protocol.steps(sampler):
        first, allowed = protocol.levels(sampler, n)[0], 64 * _allowed(sampler, n, dtype)
        x = _seeded(sampler, dtype, first)
        free = run(sampler, n, bed, x, noise=Seeded(2))
        limit = allowed * max(1.0, *(float(np.abs(state).max()) for state in _states(free)))
        far = 1e4 * max(1.0, *(float(np.abs(call.x_0).max()) for call in free.calls))
        wide = [run(sampler, n, bed, x, noise=Seeded(2), clip=bound) for bound in (far, 2 * far)]
        for state, other, where in zip(_states(wide[0]), _states(free), _names(free, n)):
            yield Check(distance(state, other), limit, f"a clip at {far:g} at {where}")
        yield Check(distance(wide[0].result, wide[1].result), 0.0, f"a clip at {2 * far:g} differs, {n} levels")
        shown: list[Any] = []

        def watch(x_0: Any, shown: list[Any] = shown) -> Any:
            shown.append(np.array(arrays.out(x_0), np.float64))
            return x_0

        trace = run(sampler, n, bed, x, noise=Seeded(2), clip=watch)
        yield Check(
            abs(len(shown) - len(trace.calls)), 0.0, f"{len(shown)} guesses clipped in {len(trace.calls)} calls"
        )
        for guess, call in zip(shown, trace.calls):
            yield Check(
                distance(guess, call.x_0),
                limit,
                f"what is clipped at time {call.level.time:g} of {n} levels is not x_0",
            )
        inside = run(sampler, n, bed, x, noise=Seeded(2), clip=lambda x_0: 0 * x_0)
        for state, call in zip(inside.calls, free.calls):
            yield Check(float(not np.isfinite(state.x).all()), 0.0, f"clipped to 0 at time {call.level.time:g}")
        if sampler.claims.get("point") and sampler.claims["clip"] is True:
            start = _tape_batch(sampler, n, dtype, first.a * CLIPPED, first.s)
            trace = run(sampler, n, bed, start, noise=Tape(), clip=lambda x_0: 0 * x_0 + CLIPPED)
            limits = _limits(sampler, n, dtype, trace)
            yield from _one_point(trace, n, CLIPPED, limits, f", every guess clipped to {CLIPPED:g}")
        yield from _bounds(sampler, dtype, n, x)


def _bounds(sampler: Any, dtype: Any, n: int, x: Any) -> Iterator[Check]:
    """A number as a clip against the function that it stands for, where many guesses are clipped, on both sides."""
    wide = Gaussian(0.0, 1.0)
    free = run(sampler, n, wide, x, noise=Seeded(2))
    c = 0.5 * float(max(np.abs(call.x_0).max() for call in free.calls))
    number, function = (
        run(sampler, n, wide, x, noise=Seeded(2), clip=clip) for clip in (c, lambda x_0: x_0.clip(-c, c))
    )
    limit = 64 * _allowed(sampler, n, dtype) * max(1.0, *(float(np.abs(state).max()) for state in _states(function)))
    for state, other, where in zip(_states(number), _states(function), _names(function, n)):
        yield Check(distance(state, other), limit, f"a bound of {c:g} is not the function that clips to it at {where}")


def seeds(sampler: Any, dtype: Any) -> Iterator[Check]:
    """The same noise gives the same sample, bitwise; other noise another one if draws are claimed, and the same if none are.

    With data of independent dimensions, noise in one entry of an item moves that entry alone, up to rounding. Catches:
    noise from elsewhere than ``noise``, such as a global generator; a draw that is not used, or is used again in place
    of a later one; one draw for all pixels, or for one channel only.
    """
    bed = Mixture()
    for n in protocol.steps(sampler):
        x = _seeded(sampler, dtype, protocol.levels(sampler, n)[0])
        first = run(sampler, n, bed, x, noise=Seeded(2))
        one, again, other = first.result, *(run(sampler, n, bed, x, noise=Seeded(seed)).result for seed in (2, 3))
        yield Check(distance(one, again), 0.0, f"the same noise twice, {n} levels")
        clean = first.levels[-1].sigma == 0
        late = sum(clean and before == len(first.calls) for before in first.draws)  # which L5 looks at
        claimed = protocol.count(sampler, "draws", n)
        if claimed and max(claimed, len(first.draws)) > late:
            yield Check(float((one == other).all()), 0.0, f"other noise makes no difference, {n} levels")
            yield from _draw_by_draw(sampler, n, x[:1], len(first.draws))
            yield from _number_by_number(sampler, dtype, n, "noise")
        else:
            why = (
                "noise after the last call of the model"
                if claimed
                else "noise makes a difference though none is claimed"
            )
            yield Check(distance(one, other), 0.0, f"{why}, {n} levels")


def _draw_by_draw(sampler: Any, n: int, x: Any, draws: int) -> Iterator[Check]:
    """On a tape, where draw k is 1 in row k alone: each draw before the last call moves a state that comes after it."""
    tape = run(sampler, n, Mixture(), np.repeat(x, 1 + draws, 0), noise=Tape(1))
    states = np.stack(_states(tape))
    for k, before in enumerate(tape.draws):
        if before < len(tape.calls):
            same = bool((states[before:, 1 + k] == states[before:, 0]).all())
            yield Check(float(same), 0.0, f"draw {k + 1} makes no difference, {n} levels")


def _number_by_number(sampler: Any, dtype: Any, n: int, what: str) -> Iterator[Check]:
    """In row j of the batch every draw, or the change of the start, is 1 in the j-th of a few entries and 0 in all
    others; in the last row it is 0.
    """
    size = int(np.prod(protocol.shape(sampler)))
    if size == 1:
        return
    chosen = np.unique(np.linspace(0, size - 1, 16).astype(int))
    rows = len(chosen)
    told = np.concatenate([np.eye(size)[chosen], np.zeros((1, size))])
    first = protocol.levels(sampler, n)[0]
    x, starts = np.repeat(_seeded(sampler, dtype, first, 1), rows + 1, 0), what != "noise"
    x = x + (starts * first.size * told.reshape(x.shape)).astype(dtype)
    trace = run(sampler, n, Mixture(), x, noise=lambda shape: (not starts) * told.reshape(shape))
    moved = np.max([np.abs(state - state[-1:]).reshape(rows + 1, -1)[:-1] for state in _states(trace)], 0)
    own = moved[np.arange(rows), chosen].copy()
    moved[np.arange(rows), chosen] = 0
    limit = 64 * _allowed(sampler, n, dtype) * max(1.0, float(own.max()))
    yield Check(float((own == 0).sum()), 0.0, f"{what} in some numbers of an item makes no difference, {n} levels")
    yield Check(float(moved.max()), limit, f"{what} in one number of an item moves others, {n} levels")
