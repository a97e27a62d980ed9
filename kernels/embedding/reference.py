r"""The scatter-add by definition, any float dtype, NumPy or CuPy."""

from ..backend import Array, array_module


def scatter_add(g: Array, indices: Array, rows: int) -> Array:
    r"""$\bar W = O^T g$ with $O_{ir} = [c_i = r]$: one product with a table of zeros and ones."""
    xp = array_module(g, indices)
    one_hot = (indices[:, None] == xp.arange(rows)).astype(g.dtype)
    return one_hot.T @ g
