r"""Element by element, with broadcasting. Each operation: its value, and above it $\bar x = \bar y \, \partial y / \partial x$.

The walk sums $\bar x$ over axes that broadcasting repeated, so the products below need not.
"""

from typing import Any

import numpy as np

from kernels import activation as kernel
from kernels.backend import special

from .tensor import operation, raw


@operation(lambda g, y, a, b: g, lambda g, y, a, b: g, keep="")
def add(a: Any, b: Any) -> Any:
    r"""$y = a + b$; $\bar a = \bar y$, $\bar b = \bar y$."""
    return np.add(a, b)


@operation(lambda g, y, a, b: g, lambda g, y, a, b: -g, keep="")
def sub(a: Any, b: Any) -> Any:
    r"""$y = a - b$; $\bar a = \bar y$, $\bar b = -\bar y$."""
    return np.subtract(a, b)


@operation(lambda g, y, a, b: g * b, lambda g, y, a, b: g * a, keep="01")
def mul(a: Any, b: Any) -> Any:
    r"""$y = a b$; $\bar a = \bar y b$, $\bar b = \bar y a$."""
    return np.multiply(a, b)


@operation(lambda g, y, a, b: g / b, lambda g, y, a, b: -(g * (a / b)) / b, keep="01")
def div(a: Any, b: Any) -> Any:
    r"""$y = a / b$; $\bar a = \bar y / b$, $\bar b = -\bar y a / b^2$."""
    return np.divide(a, b)


@operation(lambda g, y, x: -g, keep="")
def neg(x: Any) -> Any:
    r"""$y = -x$; $\bar x = -\bar y$."""
    return np.negative(x)


@operation(lambda g, y, x, p: g * (p * _power(x, p=p - 1)) if p else g * 0, keep="0")
def _power(x: Any, *, p: float) -> Any:
    return x * x if p == 2 else np.power(x, p)


def power(x: Any, p: float) -> Any:
    r"""$y = x^p$ for a number $p$; $\bar x = \bar y \, p x^{p-1}$."""
    if not isinstance(p, int | float | np.number):
        raise TypeError(f"the exponent must be a number, got {type(p).__name__}: use exp(p * log(x)) for a tensor")
    return _power(x, p=float(p))


def square(x: Any) -> Any:
    r"""$y = x^2$; $\bar x = 2 \bar y x$."""
    return _power(x, p=2)


@operation(lambda g, y, x: g * y, keep="y")
def exp(x: Any) -> Any:
    r"""$y = e^x$; $\bar x = \bar y y$."""
    return np.exp(x)


@operation(lambda g, y, x: g / x, keep="0")
def log(x: Any) -> Any:
    r"""$y = \ln x$; $\bar x = \bar y / x$."""
    return np.log(x)


@operation(lambda g, y, x: g / (1 + x), keep="0")
def log1p(x: Any) -> Any:
    r"""$y = \ln(1 + x)$; $\bar x = \bar y / (1 + x)$."""
    return np.log1p(x)


@operation(lambda g, y, x: g * (0.5 / y), keep="y")
def sqrt(x: Any) -> Any:
    r"""$y = \sqrt x$; $\bar x = \bar y / 2y$."""
    return np.sqrt(x)


@operation(lambda g, y, x: g * np.sign(raw(x)), keep="0")
def abs(x: Any) -> Any:
    r"""$y = |x|$; $\bar x = \bar y \,\mathrm{sign}(x)$, 0 at 0."""
    return np.abs(x)


@operation(lambda g, y, x: g * cos(x), keep="0")
def sin(x: Any) -> Any:
    r"""$y = \sin x$; $\bar x = \bar y \cos x$."""
    return np.sin(x)


@operation(lambda g, y, x: -(g * sin(x)), keep="0")
def cos(x: Any) -> Any:
    r"""$y = \cos x$; $\bar x = -\bar y \sin x$."""
    return np.cos(x)


@operation(lambda g, y, x: g * (1 - y * y), keep="y")
def tanh(x: Any) -> Any:
    r"""$y = \tanh x$; $\bar x = \bar y (1 - y^2)$."""
    return np.tanh(x)


@operation(lambda g, y, x: g * (y * (1 - y)), keep="y")
def sigmoid(x: Any) -> Any:
    r"""$y = 1 / (1 + e^{-x}) = (1 + \tanh \tfrac x2) / 2$; $\bar x = \bar y\, y (1 - y)$.

    Its error is that of rounding 1, however small $y$ is.
    """
    return 0.5 * (1 + np.tanh(0.5 * x))


@operation(lambda g, y, x: g * sigmoid(x), keep="0")
def softplus(x: Any) -> Any:
    r"""$y = \ln(1 + e^x)$ without overflow; $\bar x = \bar y \,\sigma(x)$, as exact as `sigmoid`.

    Note $\ln \sigma(x) = -\mathrm{softplus}(-x)$.
    """
    return np.logaddexp(0, x)


@operation(lambda g, y, x: g * ((2 * np.pi) ** -0.5 * exp(-0.5 * (x * x))), keep="0")
def normal_cdf(x: Any) -> Any:
    r"""$y = \Phi(x) = \int_{-\infty}^x \frac{1}{\sqrt{2\pi}} e^{-s^2/2} ds$, accurate in the lower tail;
    $\bar x = \bar y\, \phi(x)$.
    """
    return special(x).ndtr(x)


@operation(lambda g, y, x: g * (raw(x) > 0), keep="0")
def relu(x: Any) -> Any:
    r"""$y = \max(x, 0)$; $\bar x = \bar y \,[x > 0]$."""
    return np.maximum(x, 0)


@operation(lambda g, y, x, slope: where(raw(x) > 0, g, slope * g), keep="0")
def _leaky_relu(x: Any, *, slope: float) -> Any:
    return np.where(x > 0, x, slope * x)


def leaky_relu(x: Any, slope: float = 0.2) -> Any:
    r"""$y = x$ where $x > 0$, else $a x$ with ``slope`` $a$; $\bar x = \bar y$ or $a \bar y$."""
    return _leaky_relu(x, slope=float(slope))


def _silu_product(g: Any, y: Any, x: Any) -> Any:
    if type(raw(g)) is type(g) and type(raw(x)) is type(x):
        return kernel.silu_grad(g, x)
    s = sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


@operation(_silu_product, keep="0")
def silu(x: Any) -> Any:
    r"""$y = x \sigma(x)$; $\bar x = \bar y \,\sigma (1 + x (1 - \sigma))$ (Ramachandran et al. 2017, Swish with $\beta = 1$)."""
    return kernel.silu(x)


_GELU = (2 / np.pi) ** 0.5


def _gelu_product(g: Any, y: Any, x: Any) -> Any:
    if type(raw(g)) is type(g) and type(raw(x)) is type(x):
        return kernel.gelu_grad(g, x)
    t = tanh(_GELU * (x + 0.044715 * (x * x * x)))
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (_GELU * (1 + 3 * 0.044715 * (x * x))))


@operation(_gelu_product, keep="0")
def gelu(x: Any) -> Any:
    r"""$y = \tfrac12 x (1 + \tanh u)$, $u = \sqrt{2/\pi}\,(x + 0.044715 x^3)$;
    $\bar x = \bar y\,(\tfrac12 (1 + \tanh u) + \tfrac12 x (1 - \tanh^2 u)\, u')$.

    The tanh form of the Gaussian error linear unit, as GPT-2 uses it (Hendrycks & Gimpel 2016, section 2).
    """
    return kernel.gelu(x)


@operation(lambda g, y, a, b: g * _won(a, b), lambda g, y, a, b: g * _won(b, a), keep="01")
def maximum(a: Any, b: Any) -> Any:
    r"""$y = \max(a, b)$; $\bar a = \bar y \,[a > b] + \tfrac12 \bar y \,[a = b]$."""
    return np.maximum(a, b)


def _won(a: Any, b: Any) -> Any:
    a, b = raw(a), raw(b)
    one = (a if hasattr(a, "dtype") else b).dtype.type
    return np.where(a > b, one(1), np.where(a == b, one(0.5), one(0)))


@operation(lambda g, y, a, b: g * _won(b, a), lambda g, y, a, b: g * _won(a, b), keep="01")
def minimum(a: Any, b: Any) -> Any:
    r"""$y = \min(a, b)$; $\bar a = \bar y \,[a < b] + \tfrac12 \bar y \,[a = b]$."""
    return np.minimum(a, b)


@operation(lambda g, y, x, low, high: g * ((raw(x) >= low) & (raw(x) <= high)), keep="0")
def _clip(x: Any, *, low: float, high: float) -> Any:
    return np.clip(x, low, high)


def clip(x: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    r"""$y = \min(\max(x, l), h)$; $\bar x = \bar y \,[l \le x \le h]$."""
    return _clip(x, low=float(low), high=float(high))


@operation(
    lambda g, y, a, b, condition: where(condition, g, 0.0),
    lambda g, y, a, b, condition: where(condition, 0.0, g),
    keep="",
)
def _where(a: Any, b: Any, *, condition: Any) -> Any:
    return np.where(condition, a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    r"""$y = a$ where the (constant) condition holds, else $b$; $\bar a = \bar y$ there and 0 elsewhere.

    A NaN in the branch not taken does not reach the value or the gradient of the other one.
    """
    return _where(a, b, condition=raw(condition))
