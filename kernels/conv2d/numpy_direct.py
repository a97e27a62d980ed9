r"""Convolution as a matrix product, tile by tile: any kernel, stride, padding and float dtype.

$$y = b + X w, \qquad X[(n, i, j), (u, v, c)] = \hat x[n, i s_h + u, j s_w + v, c]$$

(``im2col``: Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document
processing".) $X$ is never held whole: a tile's part of it is written to scratch memory that stays in the cache and is
multiplied at once. With channels last, the $k_w c$ numbers of a kernel row lie together in the image, so a row of $X$
is $k_h$ plain copies. With few channels these runs are short, and the tile's $X^T$ is written instead, whose runs are
the pixels of an output row. A 1x1 kernel needs no copy.
"""

from typing import Any

import numpy as np

from ..threads import map_tiles, scratch
from .products import multiply, multiply_transposed
from .windows import Block, Pair, cut, region, share, sliding

COLUMN_BYTES = 1 << 21  # a tile's part of X
SMALLEST_BYTES = 1 << 17  # below this a tile costs more to start than to share
SHORT_RUN = 32  # kw * c below which X is written transposed
PARTIAL_WORK = 1 << 24  # multiplications that one partial sum of a weight gradient stands for at least,
PARTIAL_ROWS = (512, 2048)  # but its rows of X stay within this range
PARTIALS = 8  # how many such sums are held at once at most


def correlate(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, stride: Pair, start: Pair) -> None:
    r"""$out[n, i, j] = b + \sum_{u,v} x[n, start_h + i s_h + u, start_w + j s_w + v]\, w[u, v]$, written to ``out``."""
    kernel, c_out = w.shape[:2], w.shape[3]
    weights = np.ascontiguousarray(w).reshape(-1, c_out)

    def tile(block: Block) -> None:
        columns = _columns(x, block, kernel, out.shape[2], stride, start)
        target = out[block]
        if target.flags.c_contiguous:
            rows = target.reshape(-1, c_out)
            multiply(columns, weights, rows)
            if b is not None:
                rows += b
        else:
            rows = scratch("rows", (len(columns), c_out), x.dtype)
            multiply(columns, weights, rows)
            np.add(rows.reshape(target.shape), 0 if b is None else b, out=target)

    cost = out.shape[2] * len(weights) * x.itemsize
    with np.errstate(invalid="ignore", over="ignore"):  # as in the definition, Inf - Inf is NaN without a warning
        map_tiles(tile, share(out.shape[0], out.shape[1], cost, COLUMN_BYTES, SMALLEST_BYTES))


def correlate_grad_w(x: np.ndarray, g: np.ndarray, kernel: Pair, stride: Pair, start: Pair) -> np.ndarray:
    r"""$dw = X^T g$, the partial products added in the order of the pixels whatever the number of threads."""
    c_in, c_out = x.shape[3], g.shape[3]

    def partial(group: Block) -> Any:
        total = None
        for block in cut(group, g.shape[2] * kernel[0] * kernel[1] * c_in * x.itemsize, COLUMN_BYTES):
            columns = _columns(x, block, kernel, g.shape[2], stride, start)
            total = multiply_transposed(columns, _rows(g[block]), c_in, total)
        return total

    pixels = g.shape[0] * g.shape[1] * g.shape[2]
    smallest = min(max(PARTIAL_ROWS[0], PARTIAL_WORK // (kernel[0] * kernel[1] * c_in * c_out)), PARTIAL_ROWS[1])
    groups = share(g.shape[0], g.shape[1], g.shape[2], max(smallest, -(-pixels // PARTIALS)), smallest)
    with np.errstate(invalid="ignore", over="ignore"):
        dw = add_in_order(map_tiles(partial, groups))
    return np.zeros((*kernel, c_in, c_out), x.dtype) if dw is None else dw.reshape(*kernel, c_in, c_out)


def add_in_order(partials: list[np.ndarray]) -> np.ndarray | None:
    """The sum, in the first array's memory; None if there are no arrays."""
    for other in partials[1:]:
        partials[0] += other
    return partials[0] if partials else None


def _columns(x: np.ndarray, block: Block, kernel: Pair, width: int, stride: Pair, start: Pair) -> np.ndarray:
    """The rows of X for one block of output pixels, ``(pixels, kh kw c)``."""
    samples, rows = block
    out = (rows.stop - rows.start, width)
    first = (start[0] + rows.start * stride[0], start[1])
    size = ((out[0] - 1) * stride[0] + kernel[0], (out[1] - 1) * stride[1] + kernel[1])
    box = region(x, samples, first, size)
    count, _, _, c = box.shape
    if kernel == (1, 1) and stride == (1, 1) and box.flags.c_contiguous:
        return box.reshape(-1, c)
    view = sliding(box, stride, kernel, out)
    pixels, depth = count * out[0] * out[1], kernel[0] * kernel[1] * c
    if kernel[1] * c < SHORT_RUN:
        tall = scratch("columns", (depth, pixels), x.dtype)
        np.copyto(tall.reshape(*kernel, c, count, *out), view.transpose(3, 4, 5, 0, 1, 2))
        return tall.T
    wide = scratch("columns", (pixels, depth), x.dtype)
    np.copyto(wide.reshape(view.shape), view)
    return wide


def _rows(g: np.ndarray) -> np.ndarray:
    """``g`` as a matrix of pixels by channels, in scratch memory if it is not one already."""
    if not g.flags.c_contiguous:
        copy = scratch("rows", g.shape, g.dtype)
        np.copyto(copy, g)
        g = copy
    return g.reshape(-1, g.shape[-1])
