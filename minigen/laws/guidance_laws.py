r"""Laws of guidance: arithmetic on predictions whose answer is known on Gaussian data.

Tilting a Gaussian by $e^{k x}$ moves its mean and keeps its variance; mixing the predictions of two Gaussians of equal
variance gives the prediction of a third. So what guidance should do is known in closed form at every level, and all
limits are rounding.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import arrays, protocol, reference
from .beds import Gaussian, said
from .exact_laws import POINT, _allowed, _names, _states, transition
from .protocol import Level
from .recorder import Tape, asked, moments, run, shaped
from .verdict import Check, distance

SCALES = (-1.0, 0.5, 2.0, 7.5)
LEVELS = [Level(k, (1 - s * s) ** 0.5, s) for k, s in ((4, 0.995), (3, 0.9), (2, 0.6), (1, 0.2))] + [Level(0, 1.0, 0.0)]


def _limit(dtype: Any, size: float) -> float:
    return 64 * float(np.finfo(dtype).eps) * max(1.0, size)


def classifier_free(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$\tilde\epsilon = \epsilon_\varnothing + s\,(\epsilon_c - \epsilon_\varnothing)$: scale 1 is the first model and
    0 the second, bitwise where ``exact`` is claimed; if both are equal nothing changes; linear in $s$.

    With $N(m_c, d^2)$ for the first and $N(m_\varnothing, d^2)$ for the second, guidance at $s$ predicts
    $N(m_\varnothing + s (m_c - m_\varnothing), d^2)$, so guided DDIM ends where DDIM ends for that Gaussian. ``scale``
    "w" claims $(1 + w)\,\epsilon_c - w\,\epsilon_\varnothing$, shifted by one. Logits, if claimed, give
    $p_c^s\, p_\varnothing^{1-s}$, and what either forbids stays forbidden. Limit: rounding, times the scale. Catches:
    one convention taken for the other, the two halves of a batch swapped, $-\infty - (-\infty)$.
    """
    shift = 1.0 if subject.claims.get("scale") == "w" else 0.0
    rng = np.random.default_rng(0)
    if subject.claims.get("logits"):
        yield from _guided_logits(subject, dtype, rng, shift)
        return
    c, u = (rng.standard_normal((3, 2, 4)).astype(dtype) for _ in range(2))
    for scale, want in ((1.0, c), (0.0, u)):
        found = shaped(asked(subject, c, u, scale - shift), c.shape, dtype)
        limit = 0.0 if subject.claims.get("exact") else _limit(dtype, 4)
        yield Check(
            distance(found, want), limit, f"scale {scale - shift:g} is not the {'first' if scale else 'second'} model"
        )
    for scale in SCALES:
        same = shaped(asked(subject, c, c, scale - shift), c.shape, dtype)
        yield Check(distance(same, c), _limit(dtype, 8 * abs(scale)), f"two equal models at scale {scale - shift:g}")
        found = shaped(asked(subject, c, u, scale - shift), c.shape, dtype)
        want = u.astype(np.float64) + scale * (c.astype(np.float64) - u)
        yield Check(distance(found, want), _limit(dtype, 8 * abs(scale)), f"not linear at scale {scale - shift:g}")
    first, second, std = Gaussian(1.3, 0.6), Gaussian(-0.4, 0.6), 0.6
    x_T = np.array([[-1.0], [0.0], [1.7]], dtype)
    for scale in SCALES:
        third = Gaussian(-0.4 + scale * 1.7, std)

        def ask(i: int, x: Any, scale: float = scale) -> tuple[Any, Any]:
            both = first(x, LEVELS[i], 0)[1], second(x, LEVELS[i], 0)[1]
            eps = shaped(asked(subject, *both, scale - shift), x.shape)
            return (x - LEVELS[i].s * eps) / LEVELS[i].a, eps

        def ask_third(i: int, x: Any, bed: Gaussian = third) -> tuple[Any, Any]:
            return bed(x, LEVELS[i], 0)

        got = reference.ddim(LEVELS, x_T, ask, lambda: 0.0)
        want = reference.ddim(LEVELS, x_T.astype(np.float64), ask_third, lambda: 0.0)
        limit = 4 * _limit(dtype, 8 * abs(scale)) / LEVELS[0].a
        yield Check(distance(got, want), limit, f"end of the path of two Gaussians at scale {scale - shift:g}")


def _guided_logits(subject: Any, dtype: Any, rng: Any, shift: float) -> Iterator[Check]:
    c, u = (rng.standard_normal((5, 6)).astype(dtype) for _ in range(2))
    c[1, 2] = u[1, 2] = c[2, 0] = u[3, 5] = -np.inf
    closed = np.isneginf(c) | np.isneginf(u)
    exact = bool(subject.claims.get("exact"))
    rows = (
        slice(None) if exact else ~closed.any(1)
    )  # what one model forbids is forbidden at scales close to 0 and 1, but need not be at 0 and 1
    for scale, want in ((1.0, c), (0.0, u)):
        found = shaped(asked(subject, c, u, scale - shift), c.shape, dtype)
        off = distance(_softmax(found[rows]), _softmax(want[rows]))
        yield Check(
            off,
            0.0 if exact else _limit(dtype, 4),
            f"scale {scale - shift:g} is not the {'first' if scale else 'second'} model",
        )
    for scale in SCALES:
        found = shaped(asked(subject, c, u, scale - shift), c.shape, dtype)
        yield Check(float((np.isneginf(found) != closed).sum()), 0.0, f"what is forbidden, at scale {scale - shift:g}")
        with np.errstate(invalid="ignore"):
            want = np.where(closed, -np.inf, u.astype(np.float64) + scale * (c.astype(np.float64) - u))
        limit = _limit(dtype, 8 * abs(scale))
        yield Check(distance(_softmax(found), _softmax(want)), limit, f"p_c^s p_u^(1-s) at scale {scale - shift:g}")


def _softmax(logits: Any) -> Any:
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def pull(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""A score moved by $s\,k$ is that of the density times $e^{s k x}$: of $N(a m, V)$, the Gaussian
    $N(a m + s k V, V)$, in every kind of prediction.

    $\hat\epsilon' = \hat\epsilon - \sqrt{1 - \bar\alpha}\, s k$ (Dhariwal & Nichol 2021, 2105.05233, algorithm 2). And
    with the true $\nabla \ln p(y \mid x_t)$ of an observation $y = x_0 + r z$ and $s = 1$ the guess of $x_0$ is
    $E[x_0 \mid x_t, y]$, a mean weighted by precisions. For a "guess pull" the gradient is with respect to $\hat x_0$,
    and reaches $x_t$ through $\partial \hat x_0 / \partial x_t = a s^2 / V$. Scale 0 changes nothing; for a "pull",
    bitwise. Limit: rounding. Catches: a factor $1 - \bar\alpha$ for its root, a sign, $\bar\alpha$ of another level,
    x_0 moved as if it were eps.
    """
    for kind in subject.claims.get("kinds", ("eps",)):
        for alpha_bar in (0.95, 0.5, 0.02):
            yield from _pulled(subject, dtype, kind, alpha_bar)


def _pulled(subject: Any, dtype: Any, kind: str, alpha_bar: float) -> Iterator[Check]:
    through = subject.space == "guess pull"
    level, bed = Level(1.0, alpha_bar**0.5, (1 - alpha_bar) ** 0.5), Gaussian(POINT, 0.6)
    x = np.linspace(-2, 2, 10).reshape(5, 2).astype(dtype)
    V = level.a**2 * bed.std**2 + level.s**2
    gain = level.a * bed.std**2 / V
    k = np.random.default_rng(0).standard_normal(x.shape).astype(dtype)
    plain = said(kind, *bed(x, level, 0), level)

    def moved(gradient: Any, scale: float) -> Any:
        if through:
            found = asked(subject, x, bed.mean, bed.std, gradient, scale, alpha_bar, kind)
        else:
            found = asked(subject, plain, gradient, scale, alpha_bar, kind, x)
        return shaped(found, x.shape, dtype)

    def tilted(change: Any) -> Any:
        """The prediction of the density whose score is moved by ``change``."""
        eps = level.s * (x.astype(np.float64) - level.a * bed.mean - V * change) / V
        return said(kind, (x - level.s * eps) / level.a, eps, level)

    limit, where = _limit(dtype, 64 / alpha_bar), f"{kind} at alpha_bar {alpha_bar:g}"
    yield Check(distance(moved(k, 0.0), plain), limit if through else 0.0, f"scale 0 changes something, {where}")
    for scale in (1.0, 3.0, -0.5):
        change = scale * (gain if through else 1.0) * k
        yield Check(distance(moved(k, scale), tilted(change)), limit, f"tilted by scale {scale:g}, {where}")
    if not through:
        r, y = 0.5, 1.2
        guess, spread = bed.mean + gain * (x - level.a * bed.mean), level.s**2 * bed.std**2 / V
        gradient = (gain * (y - guess) / (spread + r**2)).astype(dtype)
        exact = (guess / spread + y / r**2) / (1 / spread + 1 / r**2)
        want = said(kind, exact, (x - level.a * exact) / level.s, level)
        yield Check(distance(moved(gradient, 1.0), want), limit, f"the posterior given y, {where}")


def classifier_score(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""$x_u \sim N(\mu + v\, g, v I)$ with $g$ the given score and $v$ the variance of the step (Dhariwal & Nichol
    2021, algorithm 1), by the tape on $N(m, s^2)$.

    A constant $g = k$ adds $v k$ to each step's mean and nothing to its variance; $g = \kappa x$ shows where it is
    evaluated: at the mean it multiplies the step by $1 + v\kappa$, at $x_t$ it adds $v \kappa\, x_t$. It is given the
    time of its x: that of the level below the step, or above it. The last step, whose variance is 0, is not moved.
    Limit: 8 times rounding times the largest moment. Catches: the standard deviation for the variance, a score
    evaluated at the wrong place or time, one that moves the noise.
    """
    eta, at_mean = sampler.claims["eta"], sampler.claims["score"] == "mean"
    for n in protocol.steps(sampler):
        levels = protocol.levels(sampler, n)
        for constant, slope in ((0.3, 0.0), (0.0, 0.2)):
            asked_at: list[float] = []

            def score(x: Any, time: Any, constant: float = constant, slope: float = slope, log: Any = asked_at) -> Any:
                log.append(float(np.ravel(arrays.out(time))[0]))
                return constant + slope * x

            first = levels[0]
            x = np.zeros((2 + protocol.draws(sampler, n), *protocol.shape(sampler)), dtype)
            x[1] += np.asarray(first.size, dtype)
            trace = run(sampler, n, Gaussian(POINT, 0.5), x, noise=Tape(), score=score)
            mean, gain, variance, want, times = 0.0, 1.0, 1.0, [(0.0, 1.0, 1.0)], []
            for top, bottom in zip(levels, levels[1:]):
                A, v = transition(top, bottom, 0.5, eta)
                offset = (bottom.a - A * top.a) * POINT
                if at_mean:
                    A, offset = (1 + v * slope) * A, (1 + v * slope) * offset + v * constant
                else:
                    A, offset = A + v * slope, offset + v * constant
                if bottom.s > 0:
                    times.append((bottom if at_mean else top).time)
                mean, gain, variance = A * mean + offset, A * gain, A**2 * variance + v
                want.append((mean, gain, variance))
            wrong = asked_at[: len(times)] != times
            yield Check(float(wrong), 0.0, f"the score was told times {protocol.short(asked_at)}, {n} levels")
            allowed = 8 * _allowed(sampler, n, dtype) * max(1.0, *(abs(m) + abs(g) + v for m, g, v in want))
            for state, (m, g, v), where in zip(_states(trace), want, _names(trace, n)):
                got, sd = moments(state)
                what = f"score {constant:g} + {slope:g} x, {where}"
                yield Check(distance(got, m), allowed, f"mean with {what}")
                yield Check(distance(state[1] - state[0], g), allowed, f"weight of x_T with {what}")
                yield Check(distance(sd**2, v), allowed, f"variance with {what}")


def rescaled(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$\phi = 1$: every sample has the standard deviation of its conditional one; $\phi = 0$ changes nothing, bitwise;
    linear in between; directions stay (Lin et al. 2023, 2305.08891, eqs. 14 to 16).

    Limit: rounding. Catches: one deviation per batch or per channel, an inverted ratio, $\phi$ and $1 - \phi$ swapped.
    """
    rng = np.random.default_rng(0)
    conditional = (rng.standard_normal((3, 4, 4, 2)) * np.array([0.2, 1.0, 5.0]).reshape(3, 1, 1, 1)).astype(dtype)
    guided = (3 * rng.standard_normal(conditional.shape)).astype(dtype)
    wide = guided.astype(np.float64)
    for phi in (0.0, 0.7, 1.0):
        found = shaped(asked(subject, guided, conditional, phi), guided.shape, dtype)
        ratio = conditional.astype(np.float64).std((1, 2, 3)) / wide.std((1, 2, 3))
        want = wide * (phi * ratio + 1 - phi).reshape(3, 1, 1, 1)
        yield Check(distance(found, want), 0.0 if phi == 0 else _limit(dtype, 40), f"phi = {phi:g}")
