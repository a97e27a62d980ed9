r"""Rows of a table by number, and the gradient of that: a scatter-add.

$$y_i = W_{c_i}, \qquad \bar W_r = \sum_{i:\, c_i = r} \bar y_i.$$

The gradient is deterministic: rows that are named several times are added in the order of the indices, without atomics.
"""

from typing import Any

from jaxtyping import Float, Integer

from ..backend import Array, array_module, is_cuda
from ..checks import check_float, check_index, whole
from ..device import contiguous, device_of
from . import numpy_scatter, reference

__all__ = ["embedding", "embedding_grad"]


def embedding(table: Float[Array, "v d"], indices: Integer[Array, "*s"]) -> Float[Array, "*s d"]:
    r"""$y_i = W_{c_i}$ for integer ``indices`` of any shape.

    Raises TypeError for dtypes, ValueError for an index outside of 0..v-1: a negative one does not count from the end.
    """
    check_float("table", table, 2)
    _check_indices(table, indices, table.shape[0])
    return table[indices]


def embedding_grad(g: Float[Array, "*s d"], indices: Integer[Array, "*s"], rows: int) -> Float[Array, "{rows} d"]:
    r"""$\bar W_r = \sum_{i: c_i = r} g_i$ for a table of ``rows`` rows; rows that nobody named are 0.

    ``g`` has the shape of ``indices`` and one more axis. Raises TypeError for dtypes, ValueError for shapes and for an
    index outside of 0..rows-1.
    """
    check_float("g", g)
    rows = whole("rows", rows, 0)
    _check_indices(g, indices, rows)
    if g.ndim < 1 or tuple(g.shape[:-1]) != tuple(indices.shape):
        raise ValueError(
            f"g must have shape ({', '.join(map(str, (*indices.shape, 'd')))}) (that of indices and one more axis), got {g.shape}"
        )
    g, flat = g.reshape(indices.size, g.shape[-1]), indices.reshape(-1)
    if (device := device_of(g)) is not None and max(flat.size, rows) < 2**31:
        from . import cuda

        return cuda.scatter_add(device, contiguous(g), contiguous(flat.astype("int32")), rows, rung=2)
    return reference.scatter_add(g, flat, rows) if is_cuda(g) else numpy_scatter.scatter_add(g, flat, rows)


def _check_indices(other: Any, indices: Any, rows: int) -> None:
    check_index("indices", indices)
    array_module(other, indices)
    if indices.size == 0:
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= rows:
        allowed = f"from 0 to {rows - 1}" if rows else "none at all, as the table has no rows"
        raise ValueError(f"indices must be {allowed}, got {low} to {high}")
