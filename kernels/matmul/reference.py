r"""Matrix products as they are defined, summed in float64."""

from ..backend import Array, array_module


def matmul(a: Array, b: Array) -> Array:
    r"""$y_{ij} = \sum_l a_{il} b_{lj}$ in float64; leading axes are broadcast, a vector is a row (a) or a column (b)."""
    xp = array_module(a, b)
    row, column = a.ndim == 1, b.ndim == 1
    a = (a[None, :] if row else a).astype(xp.float64)
    b = (b[:, None] if column else b).astype(xp.float64)
    batch = xp.broadcast(xp.empty(a.shape[:-2]), xp.empty(b.shape[:-2])).shape
    y = xp.zeros((*batch, a.shape[-2], b.shape[-1]))
    for l in range(a.shape[-1]):
        y += a[..., :, l, None] * b[..., l, None, :]
    y = y[..., 0] if column else y
    return (y[..., 0] if column else y[..., 0, :]) if row else y


def linear(x: Array, w: Array, b: Array | None) -> Array:
    r"""$y = x w + b$ in float64."""
    y = matmul(x, w)
    return y if b is None else y + b


def sum_rows(g: Array) -> Array:
    r"""$s_c = \sum_i g_{i c}$ over all leading axes, in float64."""
    xp = array_module(g)
    return g.astype(xp.float64).sum(axis=tuple(range(g.ndim - 1)))
