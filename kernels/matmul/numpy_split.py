"""Matrix products on NumPy, cut into pieces for the threads where that pays.

A piece is a slice of the result's rows or columns, of the batch, or of the inner axis (a weight's gradient is a short
product over very many rows). How a product is cut depends on its shape alone. Below that, the product is one call:
the smallest go to BLAS directly, for the others BLAS is held at one thread, because its own threads are no faster at
these sizes and far slower when another process takes a core.
"""

import math
from functools import partial
from typing import Any

import numpy as np

from ..threads import PIECES, TILE_BYTES, map_tiles, split

DIRECT = 1 << 18  # multiplications up to which OpenBLAS takes one thread by itself
DIRECT_VECTOR = 9216  # the same for the product of a matrix and a vector
TILE_WORK = 3_000_000  # multiplications (about 60 microseconds) below which a piece is not worth a thread
FEW_ROWS, ROWS = 128, 512  # fewer rows in a piece, of a large product, make it pack the other factor too often
INNER_PIECES = 8
SUM_SIZE, SUM_COLUMNS = (
    1 << 20,
    1024,
)  # numbers in a piece of a sum, and the width at which a sum over rows streams best


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b`` for two arrays of at least two axes."""
    k, n = b.shape[-2:]
    batch = a.shape[:-2] if b.ndim == 2 else np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.empty((*batch, a.shape[-2], n), a.dtype)
    rows = as_rows(a) if b.ndim == 2 else None
    if rows is not None:
        product_2d(rows, b, out.reshape(len(rows), n))
    elif a.shape[-2] * k * n >= 4 * TILE_WORK and max(batch) < PIECES:
        a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
        for i in np.ndindex(*batch):
            product_2d(a[i], b[i], out[i])
    else:
        _batched(a, b, out)
    return out


def direct(m: int, k: int, n: int) -> bool:
    """Whether BLAS takes one thread for a matrix product of this size by itself."""
    return m * k * n <= (DIRECT if m > 1 and n > 1 else DIRECT_VECTOR)


def product_2d(a: np.ndarray, b: np.ndarray, out: np.ndarray, bias: np.ndarray | None = None) -> None:
    """``out[...] = a @ b + bias`` for matrices."""
    (m, k), n = a.shape, b.shape[1]
    per_piece = TILE_WORK + 1
    if direct(m, k, n):
        _rows(a, b, out, bias, slice(None))
    elif m * k * n < 2 * TILE_WORK:
        map_tiles(partial(_rows, a, b, out, bias), [slice(None)])
    elif k > 4 * max(m, n):
        pieces = split(k, -(-k // INNER_PIECES), smallest=-(-per_piece // (m * n)))
        np.copyto(out, 0 if bias is None else bias)
        for part in map_tiles(lambda inner: np.matmul(a[:, inner], b[inner]), pieces):
            out += part
    elif m >= min(n, ROWS):
        size = max(ROWS, TILE_BYTES // (2 * n * out.itemsize))
        map_tiles(partial(_rows, a, b, out, bias), split(m, size, smallest=max(FEW_ROWS, -(-per_piece // (k * n)))))
    else:
        map_tiles(partial(_columns, a, b, out, bias), split(n, ROWS, smallest=max(FEW_ROWS, -(-per_piece // (m * k)))))


def _rows(a: np.ndarray, b: np.ndarray, out: np.ndarray, bias: np.ndarray | None, rows: slice) -> None:
    part = out[rows]
    np.matmul(a[rows], b, out=part)
    if bias is not None:
        part += bias


def _columns(a: np.ndarray, b: np.ndarray, out: np.ndarray, bias: np.ndarray | None, columns: slice) -> None:
    part = out[:, columns]
    np.matmul(a, b[:, columns], out=part)
    if bias is not None:
        part += bias[columns]


def _batched(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """A batch of products that are each too small to be cut."""
    batch, k = out.shape[:-2], a.shape[-1]
    axis = int(np.argmax(batch)) if batch else 0
    work = out.size * k // max(1, batch[axis] if batch else 1)  # of one index of that axis
    if out.size * k < 4 * TILE_WORK or batch[axis] == 1:
        map_tiles(lambda _: np.matmul(a, b, out=out), [None])
        return
    a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))

    def tile(part: slice) -> None:
        index = (slice(None),) * axis + (part,)
        np.matmul(a[index], b[index], out=out[index])

    map_tiles(tile, split(batch[axis], -(-4 * TILE_WORK // work), smallest=-(-TILE_WORK // work)))


def held(a: np.ndarray, b: np.ndarray) -> Any:
    """``a @ b``, an array or a number, with BLAS at one thread."""
    return map_tiles(lambda _: np.matmul(a, b, order="C"), [None])[0]


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """``x @ w + b``, the bias added to each piece while it is in cache."""
    y = np.empty((*x.shape[:-1], w.shape[1]), x.dtype)
    rows = as_rows(x)
    if rows is None:
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    product_2d(rows, w, y.reshape(len(rows), w.shape[1]), b)
    return y


def sum_rows(g: np.ndarray) -> np.ndarray:
    """The sum over all axes but the last: pieces in working precision, then their sums in float64."""
    rows = as_rows(g)
    if rows is None or g.size == 0:
        return g.sum(axis=tuple(range(g.ndim - 1)))
    size = max(1, SUM_SIZE // rows.shape[1])
    pieces = [slice(i, min(i + size, len(rows))) for i in range(0, len(rows), size)]
    sums = map_tiles(lambda piece: _sum(rows[piece]), pieces) if len(pieces) > 1 else [_sum(rows)]
    return np.sum(sums, axis=0, dtype=np.float64).astype(g.dtype)


def _sum(rows: np.ndarray) -> np.ndarray:
    """Several rows are taken as one wide row, because adding short rows to each other is slow."""
    c = rows.shape[1]
    together = min(len(rows), SUM_COLUMNS // c)
    if together <= 1 or not rows.flags.c_contiguous:
        return rows.sum(axis=0)
    whole = len(rows) // together * together
    wide = rows[:whole].reshape(-1, together * c).sum(axis=0)
    return wide.reshape(together, c).sum(axis=0) + rows[whole:].sum(axis=0)


def as_rows(x: np.ndarray) -> np.ndarray | None:
    """``x`` as a matrix with its last axis as rows if that needs no copy, else None."""
    if x.ndim == 2:
        return x
    axes = [(s, stride) for s, stride in zip(x.shape[:-1], x.strides) if s != 1]
    if not x.flags.c_contiguous and any(a[1] != b[0] * b[1] for a, b in zip(axes, axes[1:])):
        return None
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
