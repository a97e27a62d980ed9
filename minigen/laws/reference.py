r"""The published rules for combining a model's predictions, reimplemented slowly, on variance-preserving states.

Each rule is ``rule(levels, x, ask, noise) -> x_0``: ``ask(i, x)`` gives both guesses at ``levels[i]``, ``noise()`` a
draw. They share no code with the samplers they are compared with: lines are evaluated at the midpoint in
$\lambda = \ln(a / s)$ by Lagrange's formula, Adams-Bashforth weights are integrals of polynomials, the posterior is a
product of two Gaussians. Your own rule is such a function, given as the claim ``rule``:

    def euler(levels, x, ask, noise):  # in x / a and s / a
        for i, (top, bottom) in enumerate(pairwise(levels)):
            _, eps = ask(i, x)
            x = bottom.a * (x / top.a + (bottom.s / bottom.a - top.s / top.a) * eps)
        return x
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial

from .protocol import Level

Ask = Callable[[int, Any], tuple[Any, Any]]


def ddim_variance(top: Level, bottom: Level, eta: float) -> float:
    r"""$\eta^2 \tilde\beta$, from $\tilde\beta = 1 / (1 / \beta' + 1 / (1 - \bar\alpha_u))$ with $\beta'$ the step's
    noise variance over its squared gain: two precisions add.
    """
    if bottom.s == 0:
        return 0.0
    if top.a == 0:
        return eta**2 * bottom.s**2
    gain = (top.a / bottom.a) ** 2
    return float(eta**2 / (gain / (1 - gain) + 1 / bottom.s**2))


def ddim(levels: list[Level], x: Any, ask: Ask, noise: Callable[[], Any], eta: float = 0.0) -> Any:
    """Song et al. 2020, 2010.02502, eq. 12: the guesses weighted as at the next level, less the noise's variance."""
    for i, (top, bottom) in enumerate(zip(levels, levels[1:])):
        x_0, eps = ask(i, x)
        v = ddim_variance(top, bottom, eta)
        x = bottom.a * x_0 + np.sqrt(max(bottom.s**2 - v, 0.0)) * eps
        if v > 0:
            x = x + np.sqrt(v) * noise()
    return x


def ancestral(levels: list[Level], x: Any, ask: Ask, noise: Callable[[], Any], large: bool = False) -> Any:
    r"""Ho et al. 2020, 2006.11239, eqs. 6 and 7: the posterior as the product of $q(x_u \mid \hat x_0)$ and $q(x_t \mid x_u)$."""
    for i, (top, bottom) in enumerate(zip(levels, levels[1:])):
        x_0, _ = ask(i, x)
        if bottom.s == 0:
            x = bottom.a * x_0
            continue
        gain = top.a / bottom.a
        beta = 1 - gain**2
        precision = 1 / bottom.s**2 + gain**2 / beta
        x = (bottom.a * x_0 / bottom.s**2 + gain * x / beta) / precision
        x = x + np.sqrt(beta if large else 1 / precision) * noise()
    return x


def adams_bashforth(k: int) -> list[float]:
    """The weights of the last k values on equal steps, newest first: Lagrange's polynomials through 0, -1, ...,
    integrated from 0 to 1.
    """
    weights = []
    for i in range(k):
        basis = Polynomial.fromroots([-j for j in range(k) if j != i]) if k > 1 else Polynomial([1.0])
        integral = (basis / basis(-i)).integ()
        weights.append(float(integral(1.0) - integral(0.0)))
    return weights


def plms(levels: list[Level], x: Any, ask: Ask, noise: Any) -> Any:
    """Liu et al. 2022, 2202.09778, eqs. 11 and 12: DDIM's step along a blend of the last four guesses of eps."""
    heard: list[Any] = []
    for i, (top, bottom) in enumerate(zip(levels, levels[1:])):
        x_0, eps = ask(i, x)
        heard = [eps, *heard][:4]
        if len(heard) > 1:
            eps = sum(w * e for w, e in zip(adams_bashforth(len(heard)), heard))
            x_0 = (x - top.s * eps) / top.a
        x = bottom.a * x_0 + bottom.s * eps
    return x


def heun(levels: list[Level], x: Any, ask: Ask, noise: Any) -> Any:
    """Karras et al. 2022, 2206.00364, algorithm 1: the mean of the slopes at both ends, in x / a and s / a."""
    for i, (top, bottom) in enumerate(zip(levels, levels[1:])):
        _, eps = ask(i, x)
        h, y = bottom.s / bottom.a - top.s / top.a, x / top.a
        if bottom.s > 0:
            eps = (eps + ask(i + 1, bottom.a * (y + h * eps))[1]) / 2
        x = bottom.a * (y + h * eps)
    return x


def _lambda(level: Level) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(level.a) - np.log(level.s))


def _exponential(top: Level, bottom: Level, x: Any, D: Any) -> Any:
    r"""$x_u = \frac{s_u}{s_t} x_t + s_u \int e^\lambda D\, d\lambda$ for a constant $D$."""
    return bottom.s / top.s * x + (bottom.a - bottom.s * top.a / top.s) * D


def _line(top: Level, other: Level, bottom: Level, x_0: Any, x_0_other: Any) -> Any:
    r"""Lagrange's line through two guesses, evaluated at the midpoint of the step in $\lambda$."""
    share = (_lambda(bottom) - _lambda(top)) / 2 / (_lambda(other) - _lambda(top))
    return (1 - share) * x_0 + share * x_0_other


def dpmpp_2m(levels: list[Level], x: Any, ask: Ask, noise: Any) -> Any:
    """Lu et al. 2022, 2211.01095, algorithm 2: a line through this guess and the last; first and last step are of first order."""
    before = None
    for i, (top, bottom) in enumerate(zip(levels, levels[1:])):
        x_0, _ = ask(i, x)
        D = x_0
        if before is not None and bottom.s > 0 and levels[i - 1].a > 0:
            D = _line(top, levels[i - 1], bottom, x_0, before)
        x, before = _exponential(top, bottom, x, D), x_0
    return x


def dpmpp_2s(levels: list[Level], x: Any, ask: Ask, noise: Any) -> Any:
    """The same paper, algorithm 1, with the next level as the intermediate one; a level left over is a step of first
    order, taken first.

    The step to the data is of first order, and a pair of levels is a step only if the first has some signal.
    """
    i, last = 0, len(levels) - 1
    while i < last:
        top = levels[i]
        x_0, _ = ask(i, x)
        if (last - i) % 2 == 1 and last - i > 1 and top.a > 0:
            middle, bottom = levels[i + 1], levels[i + 2]
            x_0_middle, _ = ask(i + 1, _exponential(top, middle, x, x_0))
            x = _exponential(top, bottom, x, _line(top, middle, bottom, x_0, x_0_middle))
            i += 2
        else:
            x = _exponential(top, levels[i + 1], x, x_0)
            i += 1
    return x


def dpmpp_3m(levels: list[Level], x: Any, ask: Ask, noise: Any) -> Any:
    r"""The same with a parabola: $x_u = \frac{s_u}{s_t} x_t + s_u \int e^\lambda P(\lambda)\, d\lambda$ by Gauss's formula.

    $P$ is Lagrange's polynomial through this guess and the last two, except those at a level without signal.
    """
    heard: list[tuple[float, Any]] = []
    for i, (top, bottom) in enumerate(zip(levels, levels[1:])):
        x_0, _ = ask(i, x)
        heard = [(_lambda(top), x_0), *heard][:3]
        points = [(at, guess) for at, guess in heard if np.isfinite(at)]
        if bottom.s == 0 or len(points) < 2:
            x = _exponential(top, bottom, x, x_0)
            continue
        nodes, weights = np.polynomial.legendre.leggauss(64)
        half = (_lambda(bottom) - _lambda(top)) / 2
        lam = _lambda(top) + half * (nodes + 1)
        x = bottom.s / top.s * x
        for at, guess in points:
            basis = np.prod([(lam - other) / (at - other) for other, _ in points if other != at], axis=0)
            x = x + bottom.s * half * float(np.sum(weights * np.exp(lam) * basis)) * guess
    return x


RULES: dict[str, Callable[..., Any]] = {
    "ddim": ddim,
    "ancestral": ancestral,
    "ancestral-large": partial(ancestral, large=True),
    "plms": plms,
    "heun": heun,
    "dpmpp-2m": dpmpp_2m,
    "dpmpp-2s": dpmpp_2s,
    "dpmpp-3m": dpmpp_3m,
}
