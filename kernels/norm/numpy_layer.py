r"""Layer norm over the last axis, in tiles of rows.

NumPy is slow at multiplying each row by its own number. A BLAS product of two columns with two rows writes
$r_i \gamma_j$ or $\beta_j - \mu_i r_i \gamma_j$ for the whole tile faster than that, so with
$r = 1/\sqrt{\sigma^2 + \epsilon}$

$$y_{ij} = x_{ij}\,[r_i \gamma_j] + [\beta_j - \mu_i r_i \gamma_j], \qquad
\bar x_{ij} = \bar y_{ij}\,[r_i \gamma_j] - [r_i^2 c_{2i}]\,x_{ij} + [r_i^2 c_{2i} \mu_i - r_i c_{1i}]$$

where each bracket is such a product. The sums are matrix-vector products too: with $p = \bar y x$,
$c_1 = \bar y \gamma / d$, $c_2 = r (p \gamma - \mu\, \bar y \gamma) / d$, $\bar\gamma = r^T p - (r \mu)^T \bar y$,
$\bar\beta = 1^T \bar y$.

A row with $\mu^2 > 16\,\sigma^2$ is first shifted by its mean, as in ``numpy_group``. As there, the definition
computes again what NaN and infinity have affected: columns whose $\gamma$ or $\beta$ is not finite, in backward rows
whose $c_1$ or $c_2$ is not, with the sums over the rows of their tile.
"""

from typing import Any

import numpy as np

from ..threads import TILE_BYTES, map_tiles, scratch, split
from . import reference
from .numpy_group import FAR, ROUNDS, Saved, finite, share


def forward(x: Any, gamma: Any, beta: Any, eps: float) -> tuple[Any, Saved]:
    """``x`` (rows, d), contiguous -> y of the same shape."""
    y = np.empty_like(x)
    saved = Saved(np.empty(len(x)), np.empty(len(x)), np.empty(len(x), x.dtype))
    if x.size == 0:
        return y, saved
    rows = np.array([gamma, beta])

    def tile(s: slice) -> None:
        mean, r, shift = _statistics(x[s], eps)
        saved.mean[s], saved.scale[s], saved.shift[s] = mean, r, shift
        xs = _shifted(x[s], shift)
        product, offset = (scratch(name, xs.shape, xs.dtype) for name in ("norm a", "norm b"))
        _outer([r, 0 * r], rows, product)
        np.multiply(product, xs, out=product)
        _outer([-mean * r, np.ones_like(r)], rows, offset)
        np.add(product, offset, out=y[s])

    with np.errstate(all="ignore"):
        map_tiles(tile, tiles(x))
        if not finite(rows):
            np.copyto(y, reference.layer_norm(x, gamma, beta, eps), where=~np.isfinite(rows).all(0))
    return y, saved


def backward(g: Any, x: Any, gamma: Any, saved: Saved, eps: float) -> tuple[Any, Any, Any]:
    """``g`` and ``x`` (rows, d), contiguous -> dx, and dgamma and dbeta (d,) in float64."""
    d = x.shape[1]
    dx = np.empty_like(x)
    if x.size == 0:
        return dx, np.zeros(d), np.zeros(d)
    gamma_row, ones_row = (np.array([p, np.zeros_like(p)]) for p in (gamma, np.ones_like(gamma)))

    def tile(s: slice) -> tuple[Any, Any]:
        mean, r, gs = saved.mean[s], saved.scale[s], g[s]
        xs = _shifted(x[s], saved.shift[s])
        product, p = (scratch(name, xs.shape, xs.dtype) for name in ("norm a", "norm b"))
        np.multiply(gs, xs, out=p)
        ones = np.ones(len(gs), x.dtype)
        dbeta = (ones @ gs).astype(np.float64)
        dgamma = (r.astype(x.dtype) @ p).astype(np.float64) - (mean * r).astype(x.dtype) @ gs
        c_1 = (gs @ gamma).astype(np.float64)
        c_2 = r * (p @ gamma - mean * c_1) / d
        on_x = -r * r * c_2
        _outer([r, 0 * r], gamma_row, product)
        np.multiply(product, gs, out=product)
        _outer([on_x, 0 * r], ones_row, p)
        np.multiply(p, xs, out=p)
        np.add(product, p, out=product)
        constant = -on_x * mean - r * c_1 / d
        _outer([constant, 0 * r], ones_row, p)
        np.add(product, p, out=dx[s])
        if not finite(constant):
            by_definition, dgamma, dbeta = reference.layer_norm_backward(gs, x[s], gamma, eps)
            np.copyto(dx[s], by_definition, where=~np.isfinite(constant)[:, None])
        return dgamma, dbeta

    with np.errstate(all="ignore"):
        parts = map_tiles(tile, tiles(x))
        dgamma, dbeta = np.array(parts, np.float64).sum(0)
    return dx, dgamma, dbeta


def tiles(x: Any) -> list[slice]:
    """Tiles of at most ``TILE_BYTES``, at least two of them if each is large enough for a thread."""
    per = share(x.shape[0], max(1, TILE_BYTES // (x.itemsize * x.shape[1])))
    return split(x.shape[0], per, per)


def _statistics(x: Any, eps: float) -> tuple[Any, Any, Any]:
    """Mean of x - shift, 1 / sqrt(var + eps), shift: each (rows,)."""
    mean, var = _moments(x)
    shift = np.zeros(len(x), x.dtype)
    for _ in range(ROUNDS):
        far = ~(mean * mean <= FAR * var)
        if not far.any():
            break
        shift[far] += mean[far].astype(x.dtype)
        mean, var = _moments(_shifted(x, shift))
    return mean, 1 / np.sqrt(np.maximum(var, 0) + eps), shift


def _moments(x: Any) -> tuple[Any, Any]:
    d = x.shape[1]
    mean = (x @ np.ones(d, x.dtype)).astype(np.float64) / d
    return mean, np.vecdot(x, x).astype(np.float64) / d - mean * mean


def _shifted(x: Any, shift: Any) -> Any:
    return np.subtract(x, shift[:, None], out=scratch("norm shifted", x.shape, x.dtype)) if shift.any() else x


def _outer(columns: list[Any], rows: Any, out: Any) -> None:
    """``out[i, j]`` = sum over the two columns of column[i] row[j], by BLAS."""
    left = np.empty((len(out), 2), out.dtype)
    left[:, 0], left[:, 1] = columns
    np.matmul(left, rows, out=out)
