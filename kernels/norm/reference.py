r"""Group norm and layer norm by definition: obvious, slow, any float dtype, NumPy or CuPy.

Over the $m$ elements of one group of one sample (group norm) or of one row (layer norm),

$$\mu = \tfrac1m \sum_j x_j, \quad \sigma^2 = \tfrac1m \sum_j (x_j - \mu)^2, \quad \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}},
\quad z = \gamma \hat x + \beta.$$

With $\bar z$ the gradient with respect to $z$, and means over the same $m$ elements,

$$\bar x = \frac{1}{\sqrt{\sigma^2 + \epsilon}} \left( \gamma \bar z - \overline{\gamma \bar z} - \hat x \; \overline{\gamma \bar z \hat x} \right),
\quad \bar\gamma = \sum \bar z \hat x, \quad \bar\beta = \sum \bar z.$$
"""

from typing import Any

from ..backend import Array, array_module


def group_norm(x: Array, gamma: Array, beta: Array, groups: int, eps: float, silu: bool) -> Array:
    """The definition. ``x`` (n, ..., c); ``gamma`` and ``beta`` (c,) or (n, c)."""
    _, z = _standardised(x, gamma, beta, groups, eps)
    y = z * _sigmoid(z) if silu else z
    return y.reshape(x.shape)


def group_norm_backward(
    g: Array, x: Array, gamma: Array, beta: Array, groups: int, eps: float, silu: bool
) -> tuple[Array, Array, Array]:
    r"""The formulas above, after $\bar z = g\,\sigma(z)(1 + z(1 - \sigma(z)))$ where SiLU follows."""
    n, c = x.shape[0], x.shape[-1]
    (x_hat, r), z = _standardised(x, gamma, beta, groups, eps)
    g = g.reshape(z.shape)
    if silu:
        s = _sigmoid(z)
        g = g * (s * (1 + z * (1 - s)))
    dgamma, dbeta = (g * x_hat).sum(axis=1), g.sum(axis=1)  # (n, c)
    if gamma.ndim == 1:
        dgamma = dgamma.sum(axis=0)
    if beta.ndim == 1:
        dbeta = dbeta.sum(axis=0)
    if x.size == 0:
        return x + 0, dgamma, dbeta
    grouped = (n, -1, groups, c // groups)
    g_hat, x_hat = (g * gamma.reshape(-1, 1, c)).reshape(grouped), x_hat.reshape(grouped)
    mean = g_hat.mean(axis=(1, 3), keepdims=True)
    slope = (g_hat * x_hat).mean(axis=(1, 3), keepdims=True)
    return (r * (g_hat - mean - x_hat * slope)).reshape(x.shape), dgamma, dbeta


def layer_norm(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """The definition over the last axis."""
    x_hat, _ = _rows(x, eps)
    return x_hat * gamma + beta


def layer_norm_backward(g: Array, x: Array, gamma: Array, eps: float) -> tuple[Array, Array, Array]:
    """The formulas above with one group per row."""
    x_hat, r = _rows(x, eps)
    rows = tuple(range(x.ndim - 1))
    dgamma, dbeta = (g * x_hat).sum(axis=rows), g.sum(axis=rows)
    if x.size == 0:
        return x + 0, dgamma, dbeta
    g_hat = g * gamma
    mean = g_hat.mean(axis=-1, keepdims=True)
    slope = (g_hat * x_hat).mean(axis=-1, keepdims=True)
    return r * (g_hat - mean - x_hat * slope), dgamma, dbeta


def _standardised(x: Array, gamma: Array, beta: Array, groups: int, eps: float) -> tuple[tuple[Array, Any], Array]:
    """(x_hat, 1 / sqrt(var + eps)) and z, with x_hat and z of shape (n, everything between, c)."""
    n, c = x.shape[0], x.shape[-1]
    if x.size == 0:
        empty = x.reshape(n, 0 if n else 1, c)
        return (empty, 1.0), empty
    centred = _centred(x.reshape(n, -1, groups, c // groups), (1, 3))
    r = 1 / array_module(x).sqrt((centred * centred).mean(axis=(1, 3), keepdims=True) + eps)
    x_hat = (centred * r).reshape(n, -1, c)
    return (x_hat, r), x_hat * gamma.reshape(-1, 1, c) + beta.reshape(-1, 1, c)


def _rows(x: Array, eps: float) -> tuple[Array, Array]:
    if x.size == 0:
        return x, x
    centred = _centred(x, (-1,))
    r = 1 / array_module(x).sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    return centred * r, r


def _centred(x: Array, axes: tuple[int, ...]) -> Array:
    """x - mean, twice: the first mean is rounded to the size of x, which may be far from zero."""
    x = x - x.mean(axis=axes, keepdims=True)
    return x - x.mean(axis=axes, keepdims=True)


def _sigmoid(z: Array) -> Array:
    r"""$1 / (1 + e^{-z})$ as $e^{-\ln(1 + e^{-z})}$, which does not overflow."""
    xp = array_module(z)
    return xp.exp(-xp.logaddexp(0, -z))
