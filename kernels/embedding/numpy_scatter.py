r"""Scatter-add on the CPU: $\bar W = O^T g$ with the one-hot matrix $O$ kept sparse.

scipy multiplies a sparse matrix by a dense one row by row in one compiled loop, which is what a scatter-add is.
It is imported at the first large call only, because the import takes longer than most calls.
"""

from typing import Any

import numpy as np

SMALL = 1 << 15  # elements of g up to which counting is faster than building a sparse matrix


def scatter_add(g: Any, indices: Any, rows: int) -> Any:
    """``g`` (m, d), ``indices`` (m,) in 0..rows-1 -> (rows, d)."""
    m, d = g.shape
    if m == 0 or d == 0:
        return np.zeros((rows, d), g.dtype)
    indices = indices.astype(np.intp)
    if d == 1 or m * d <= SMALL:
        return _by_counting(g, indices, rows)
    from scipy.sparse import csc_array

    one_hot = csc_array((np.ones(m, g.dtype), indices, np.arange(m + 1)), shape=(rows, m))
    return one_hot @ np.ascontiguousarray(g)


def _by_counting(g: Any, indices: Any, rows: int) -> Any:
    """``bincount`` over the places (row, column), which adds up in float64."""
    d = g.shape[1]
    places = (indices[:, None] * d + np.arange(d)).reshape(-1)
    sums = np.bincount(places, weights=g.reshape(-1), minlength=rows * d)
    with np.errstate(over="ignore"):
        return sums.reshape(rows, d).astype(g.dtype)
