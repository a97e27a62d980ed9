"""Cutting a convolution into tiles of work, and a tile's input with its zero padding.

Inside this folder a padding is given as ``start``: the row and column of the image that the first output pixel's window
begins at, ``(-p_h, -p_w)`` for a symmetric padding. It may be positive, and windows may end anywhere: what lies outside
of the image is zero. So one routine serves forward passes, data gradients and the phases of strided ones.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..threads import PIECES, scratch

SMALL_BYTES = 1 << 17  # memory of this size is zeroed in about the time of a few calls
Pair = tuple[int, int]
Block = tuple[slice, slice]  # samples, output rows (of pixels, or of Winograd tiles)


def share(samples: int, rows: int, cost: int, largest: int, smallest: int) -> list[Block]:
    """``samples`` images of ``rows`` rows, a row costing ``cost``, cut into blocks that cost at most about ``largest``.

    Little work is cut further, so that threads can share it, but not into blocks that cost less than ``smallest``.
    """
    target = max(smallest, -(-samples * rows * cost // PIECES))
    return cut((slice(0, samples), slice(0, rows)), cost, min(largest, target))


def cut(block: Block, cost: int, largest: int) -> list[Block]:
    """The block in even parts of at most about ``largest``: of whole samples where they fit, else of one sample each."""
    samples, rows = block
    image = (rows.stop - rows.start) * cost
    if image <= largest:
        return [(part, rows) for part in _even(samples, largest // max(1, image))]
    parts = _even(rows, max(1, largest // cost))
    return [(slice(i, i + 1), part) for i in range(samples.start, samples.stop) for part in parts]


def _even(whole: slice, size: int) -> list[slice]:
    total = whole.stop - whole.start
    pieces = -(-total // size)
    edges = [whole.start + total * i // pieces for i in range(pieces + 1)] if total else []
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


def region(x: np.ndarray, samples: slice, start: Pair, size: Pair, copy: bool = False) -> np.ndarray:
    """``x[samples]`` from row and column ``start`` on, ``size`` rows and columns of it, zero outside of the image.

    A contiguous copy in scratch memory, or, unless ``copy``, a view where the region lies inside of the image.
    """
    _, height, width, c = x.shape
    row, column = start
    rows, columns = size
    if not copy and row >= 0 and column >= 0 and row + rows <= height and column + columns <= width:
        return x[samples, row : row + rows, column : column + columns]
    box = scratch("region", (samples.stop - samples.start, rows, columns, c), x.dtype)
    top, bottom = _inside(row, rows, height)
    left, right = _inside(column, columns, width)
    if box.nbytes < SMALL_BYTES:
        box[...] = 0  # one call instead of four
    else:
        box[:, :top] = 0
        box[:, bottom:] = 0
        box[:, top:bottom, :left] = 0
        box[:, top:bottom, right:] = 0
    box[:, top:bottom, left:right] = x[samples, row + top : row + bottom, column + left : column + right]
    return box


def _inside(start: int, size: int, length: int) -> Pair:
    """Which part of ``[start, start + size)`` lies in ``[0, length)``, counted from ``start``; ``(size, size)``: none."""
    first = min(max(0, -start), size)
    last = max(first, min(size, length - start))
    return first, last


def sliding(box: np.ndarray, stride: Pair, kernel: Pair, out: Pair) -> np.ndarray:
    """Every window of ``box`` as a read-only view of shape ``(n, rows, columns, kh, kw, c)``."""
    n, _, _, c = box.shape
    s_n, s_h, s_w, s_c = box.strides
    strides = (s_n, s_h * stride[0], s_w * stride[1], s_h, s_w, s_c)
    if box.flags.c_contiguous:  # the same view, made ten times faster
        return np.ndarray((n, *out, *kernel, c), box.dtype, box, 0, strides)
    return as_strided(box, (n, *out, *kernel, c), strides, writeable=False)
