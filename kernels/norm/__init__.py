r"""Group norm (with the SiLU that often follows) and layer norm, forward and backward.

$$y = \gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

with $\mu$ and $\sigma^2$ the mean and the (biased) variance over one sample's group of channels and all its pixels (Wu
& He 2018, arXiv 1803.08494, eq. 1-2 and 4-7), or over one row (Ba, Kiros & Hinton 2016, arXiv 1607.06450, eq. 3-4).

Forward returns ``(y, saved)``; ``saved`` is for backward only, holds a few numbers for each group, and its content is
no part of the contract. The statistics are right far from zero (a mean of 1e4 with a deviation of 1 in float32), a
constant group gives $\beta$, NaN and infinity spread over their own group only. Values beyond the square root of the
dtype's range (1e19 in float32) overflow in the variance.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ..backend import Array, is_cuda
from ..checks import array_type, check_flag, check_float, check_same, check_saved, check_shape, is_number, is_whole
from ..device import contiguous, device_of
from . import numpy_group, numpy_layer, reference

__all__ = ["group_norm_backward", "group_norm_forward", "layer_norm_backward", "layer_norm_forward"]


def group_norm_forward(
    x: Float[Array, "n *axes c"],
    gamma: Float[Array, "*per_gamma c"],
    beta: Float[Array, "*per_beta c"],
    groups: int,
    *,
    eps: float = 1e-5,
    silu: bool = False,
) -> tuple[Float[Array, "n *axes c"], Any]:
    r"""$y = z$, or $y = z\,\sigma(z)$ with ``silu``, where $z = \gamma (x - \mu_g) / \sqrt{\sigma_g^2 + \epsilon} + \beta$.

    ``x`` is (n, ..., c), channels last, with any number of axes between; ``groups`` divides c and group j holds the
    channels j c / groups and following. ``gamma`` and ``beta`` are (c,), or (n, c) for one pair per sample (adaptive
    group norm, Dhariwal & Nichol 2021, arXiv 2105.05233, section 3.1). Returns (y, saved).

    Raises TypeError for dtypes other than float32 or float64 and for a mix, ValueError for shapes, ``groups`` or
    ``eps``.
    """
    groups, eps = _check_group(x, gamma, beta, groups, eps, silu)
    if (device := device_of(x)) is not None:
        from . import cuda

        gamma, beta = contiguous(gamma), contiguous(beta)
        y, saved = cuda.group_norm_forward(device, _pixels(x), gamma, beta, groups, eps=eps, silu=silu, rung=2)
        return y.reshape(x.shape), saved
    if is_cuda(x):
        return reference.group_norm(x, gamma, beta, groups, eps, silu), None
    y, saved = numpy_group.forward(_pixels(x), gamma, beta, groups, eps, silu)
    return y.reshape(x.shape), saved


def group_norm_backward(
    g: Float[Array, "n *axes c"],
    x: Float[Array, "n *axes c"],
    gamma: Float[Array, "*per_gamma c"],
    beta: Float[Array, "*per_beta c"],
    saved: Any,
    groups: int,
    *,
    eps: float = 1e-5,
    silu: bool = False,
) -> tuple[Float[Array, "n *axes c"], Float[Array, "*per_gamma c"], Float[Array, "*per_beta c"]]:
    r"""$\bar x = r\,(\gamma \bar z - \overline{\gamma \bar z} - \hat x\, \overline{\gamma \bar z \hat x})$,
    $\bar\gamma = \sum \bar z \hat x$, $\bar\beta = \sum \bar z$, $r = 1/\sqrt{\sigma_g^2 + \epsilon}$.

    ``g`` is the gradient with respect to y. The other arguments are those of the forward call, ``saved`` is what it
    returned. Returns (dx, dgamma, dbeta) with the shapes of ``x``, ``gamma`` and ``beta``.
    """
    groups, eps = _check_group(x, gamma, beta, groups, eps, silu)
    _check_gradient(g, x)
    if (device := device_of(x)) is not None:
        from . import cuda

        check_saved("group_norm_forward", saved, array_type(x), (x.shape[0], groups, 3))
        arrays = _pixels(g), _pixels(x), contiguous(gamma), contiguous(beta)
        dx, dgamma, dbeta = cuda.group_norm_backward(device, *arrays, saved, groups, silu=silu, rung=2)
        return dx.reshape(x.shape), dgamma, dbeta
    if is_cuda(x):
        return reference.group_norm_backward(g, x, gamma, beta, groups, eps, silu)
    check_saved("group_norm_forward", saved, numpy_group.Saved, (x.shape[0], groups))
    dx, dgamma, dbeta = numpy_group.backward(_pixels(g), _pixels(x), gamma, beta, saved, groups, eps, silu)
    return dx.reshape(x.shape), _like(dgamma, gamma), _like(dbeta, beta)


def layer_norm_forward(
    x: Float[Array, "*axes c"], gamma: Float[Array, " c"], beta: Float[Array, " c"], *, eps: float = 1e-5
) -> tuple[Float[Array, "*axes c"], Any]:
    r"""$y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta$ over the last axis. Returns (y, saved).

    Raises TypeError for dtypes other than float32 or float64 and for a mix, ValueError for shapes or ``eps``.
    """
    eps = _check_layer(x, gamma, eps)
    check_same("x, beta", x, beta)
    check_shape("beta", beta, x.shape[-1:], "the last axis of x")
    if (device := device_of(x)) is not None:
        from . import cuda

        y, saved = cuda.layer_norm_forward(device, _rows(x), contiguous(gamma), contiguous(beta), eps=eps)
        return y.reshape(x.shape), saved
    if is_cuda(x):
        return reference.layer_norm(x, gamma, beta, eps), None
    y, saved = numpy_layer.forward(_rows(x), gamma, beta, eps)
    return y.reshape(x.shape), saved


def layer_norm_backward(
    g: Float[Array, "*axes c"], x: Float[Array, "*axes c"], gamma: Float[Array, " c"], saved: Any, *, eps: float = 1e-5
) -> tuple[Float[Array, "*axes c"], Float[Array, " c"], Float[Array, " c"]]:
    r"""$\bar x = r\,(\gamma \bar y - \overline{\gamma \bar y} - \hat x\, \overline{\gamma \bar y \hat x})$ over each
    row, $\bar\gamma = \sum \bar y \hat x$ and $\bar\beta = \sum \bar y$ over all rows.

    Returns (dx, dgamma, dbeta). ``saved`` is what the forward call returned, ``eps`` what it was given.
    """
    eps = _check_layer(x, gamma, eps)
    _check_gradient(g, x)
    if (device := device_of(x)) is not None:
        from . import cuda

        g_rows, rows = _rows(g), _rows(x)
        check_saved("layer_norm_forward", saved, array_type(x), (len(rows), 3))
        dx, dgamma, dbeta = cuda.layer_norm_backward(device, g_rows, rows, contiguous(gamma), saved)
        return dx.reshape(x.shape), dgamma, dbeta
    if is_cuda(x):
        return reference.layer_norm_backward(g, x, gamma, eps)
    g_rows, rows = _rows(g), _rows(x)
    check_saved("layer_norm_forward", saved, numpy_group.Saved, (len(rows),))
    dx, dgamma, dbeta = numpy_layer.backward(g_rows, rows, gamma, saved, eps)
    return dx.reshape(x.shape), dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def _check_group(x: Any, gamma: Any, beta: Any, groups: int, eps: float, silu: bool) -> tuple[int, float]:
    check_float("x", x)
    check_same("x, gamma, beta", x, gamma, beta)
    if x.ndim < 2 or x.shape[-1] == 0:
        raise ValueError(f"x must have shape (n, ..., c) with at least one channel, got {tuple(x.shape)}")
    n, c = x.shape[0], x.shape[-1]
    for name, p in (("gamma", gamma), ("beta", beta)):
        if tuple(p.shape) not in ((c,), (n, c)):
            raise ValueError(f"{name} must have shape ({c},) or ({n}, {c}), got {tuple(p.shape)}")
    if not (is_whole(groups) and groups >= 1 and c % groups == 0):
        raise ValueError(f"groups must be a divisor of the {c} channels, got {groups!r}")
    check_flag("silu", silu)
    return int(groups), _eps(eps)


def _check_layer(x: Any, gamma: Any, eps: float) -> float:
    check_float("x", x)
    check_same("x, gamma", x, gamma)
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(f"x must have a last axis of at least one element, got shape {tuple(x.shape)}")
    check_shape("gamma", gamma, x.shape[-1:], "the last axis of x")
    return _eps(eps)


def _check_gradient(g: Any, x: Any) -> None:
    check_same("g, x", g, x)
    check_shape("g", g, x.shape, "the shape of x")


def _eps(eps: float) -> float:
    if not (is_number(eps) and eps > 0):
        raise ValueError(f"eps must be greater than 0, got {eps!r}")
    return float(eps)  # a float64 of NumPy's would make float32 arrays float64


def _pixels(x: Any) -> Any:
    """(n, ..., c) -> (n, pixels, c), contiguous; a reshape cannot infer an axis of an empty array."""
    return contiguous(x).reshape(x.shape[0], int(np.prod(x.shape[1:-1])), x.shape[-1])


def _rows(x: Any) -> Any:
    return contiguous(x).reshape(int(np.prod(x.shape[:-1])), x.shape[-1])


def _like(gradient: Any, p: Any) -> Any:
    """The sums of each sample (n, c), added up if the parameter is shared."""
    return (gradient.sum(0) if p.ndim == 1 else gradient).astype(p.dtype)
