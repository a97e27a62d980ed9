r"""Interpolation between two points of a Gaussian latent space: along the sphere, not through it.

Nearly all of $N(0, I_d)$ lies close to a sphere of radius $\sqrt d$. The middle of the straight line between two draws
has a norm smaller by about $\sqrt 2$, where a decoder has hardly been trained; the arc between them stays on the sphere
(Shoemake 1985, "Animating rotation with quaternion curves"; for generative models White 2016, arXiv 1609.04468).
"""

from typing import Any

import numpy as np

from kernels.backend import array_module

PARALLEL = 1e-12  # sines below this count as 0: two parallel directions give about 1e-16 in float64


def slerp(a: Any, b: Any, t: Any) -> Any:
    r"""Spherical interpolation over the last axis: angle and norm change linearly.

    With $u = a / |a|$, $v = b / |b|$, $\cos \theta = u \cdot v$ and $w$ the unit vector of $v - (u \cdot v)\, u$,

    $$ \mathrm{slerp}(a, b, t) = \big((1 - t)\,|a| + t\,|b|\big)\, \big(\cos(t\theta)\, u + \sin(t\theta)\, w\big), $$
    $$ \cos(t\theta)\, u + \sin(t\theta)\, w = \frac{\sin((1 - t)\theta)}{\sin\theta}\, u + \frac{\sin(t\theta)}{\sin\theta}\, v . $$

    ``a`` and ``b`` are (..., d), ``t`` is a number or an array that broadcasts against their axes before the last: for
    a grid, (n, 1, d) and (k,) give (n, k, d). $t = 0$ and $t = 1$ give ``a`` and ``b`` to the last bit. Computed in
    float64, returned in the dtype of ``a`` and ``b`` (float32 or float64).

    Opposite directions have no shortest arc: it then passes through the coordinate axis farthest from both (in one
    dimension, through 0). A zero vector has no direction and takes the other's.
    """
    xp = array_module(a, b)
    if a.shape[-1:] != b.shape[-1:] or not a.ndim:
        raise ValueError(f"a and b must share their last axis, got {a.shape} and {b.shape}")
    dtype = xp.result_type(a, b, xp.float32)
    a, b = (xp.asarray(x, np.float64) for x in xp.broadcast_arrays(a, b))
    t = xp.asarray(t, np.float64)[..., None]
    u, v = _unit(a), _unit(b)
    u, v = xp.where(u.any(-1, keepdims=True), u, v), xp.where(v.any(-1, keepdims=True), v, u)
    cosine, across = _dot(u, v), v - _dot(u, v) * u
    sine = _dot(across, across) ** 0.5
    axis = xp.eye(a.shape[-1])[abs(u).argmin(-1)]
    across = xp.where(sine > PARALLEL, across, axis)
    w = _unit(across - _dot(across, u) * u)
    angle = t * xp.arctan2(sine, cosine)
    norm = (1 - t) * _dot(a, a) ** 0.5 + t * _dot(b, b) ** 0.5
    arc = norm * (xp.cos(angle) * u + xp.sin(angle) * w)
    return xp.where(t == 0, a, xp.where(t == 1, b, arc)).astype(dtype)


def _dot(x: Any, y: Any) -> Any:
    return (x * y).sum(-1, keepdims=True)


def _unit(x: Any) -> Any:
    """Of norm 1; zero stays zero."""
    norm = _dot(x, x) ** 0.5
    return x / array_module(x).where(norm > 0, norm, 1)
