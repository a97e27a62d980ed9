"""Matrix products cut to the size that OpenBLAS multiplies without packing.

For AVX-512 processors OpenBLAS has kernels that read both operands where they lie, used while
rows x depth x columns <= 10^6. On the machine where this was written (Zen 4, OpenBLAS 0.3.31) they reach 110-115
GFLOP/s per core where a larger product reaches 90-100, because it first copies both operands into its own layout. A
batched ``np.matmul`` over blocks of rows stays below the limit at the cost of one library call per block. Other
processors have no such kernels and small blocks would be slower there: then the whole product is one call.
"""

from functools import cache

import numpy as np

from ..threads import scratch

LIMIT = 10**6
FEWEST_ROWS = 4
SUMMED_ROWS = 192  # a sum over fewer rows is not worth the addition to its total
UNPACKED = {"skylakex", "cooperlake", "sapphirerapids"}  # OpenBLAS's names of its AVX-512 kernel sets


@cache
def limit() -> int:
    """The largest rows x depth x columns that this BLAS multiplies unpacked; 0 if it never does."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return LIMIT if found and all(str(one.architecture).lower() in UNPACKED for one in found) else 0


def block_rows(depth: int, columns: int, rows: int) -> int:
    """How many of ``rows`` rows to multiply at a time by a ``depth x columns`` matrix."""
    fit = limit() // max(1, depth * columns)
    if fit >= rows or fit < FEWEST_ROWS:
        return rows
    return fit if fit < 8 else fit - fit % 8


def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``out[:] = a @ b`` for matrices, in blocks of the rows of ``a``."""
    rows, depth = a.shape
    m = block_rows(depth, b.shape[1], rows)
    if m == rows:
        np.matmul(a, b, out=out)
        return
    whole = rows - rows % m
    np.matmul(a[:whole].reshape(-1, m, depth), b, out=out[:whole].reshape(-1, m, b.shape[1]))
    if whole < rows:
        np.matmul(a[whole:], b, out=out[whole:])


def multiply_transposed(a: np.ndarray, b: np.ndarray, columns: int, total: np.ndarray | None) -> np.ndarray:
    """``total + a.T @ b``, in the memory of ``total`` or, if that is None, in a new array; its shape is unspecified.

    Where it fits, ``columns`` columns of ``a`` at a time (they must divide), so that many rows can be summed at once.
    """
    fit = limit() // (columns * b.shape[1])
    unpacked = fit >= SUMMED_ROWS
    step = fit - fit % 8 if unpacked else len(a)
    stripes = a.shape[1] // columns if unpacked else 1
    for i in range(0, len(a), step):
        left = a[i : i + step].reshape(-1, stripes, a.shape[1] // stripes).transpose(1, 2, 0)
        if total is None:
            total = np.matmul(left, b[i : i + step])
        else:
            part = scratch("part", (stripes, a.shape[1] // stripes, b.shape[1]), a.dtype)
            total += np.matmul(left, b[i : i + step], out=part)
    assert total is not None, "a has no rows"
    return total
