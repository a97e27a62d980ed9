r"""Strided convolutions made of stride-1 ones, so that no gradient scatters (``col2im``) and Winograd can take part.

**Phases.** The transpose of a stride-$s$ convolution, $y[i] = \sum_u x[(i + p - u) / s]\, w[u]$ over the $u$ that divide,
falls into $s$ independent phases $a = (i + p) \bmod s$: with $u = a + s t$ it is
$y[a - p + s l] = \sum_t x[l - t]\, w[a + s t]$, an ordinary convolution with the mirrored taps $a, a + s, \dots$ (Shi et
al. 2016, arXiv 1609.05158: sub-pixel convolution). The same holds for both axes at once, so $s_h s_w$ small
convolutions write to the interleaved pixels of the output.

**Folding.** If the stride divides the kernel, a strided convolution is one of stride 1 over the image whose $s \times s$
blocks of pixels lie in its channels: $k / s$ taps an axis and $s^2 c$ channels, the same multiplications.
"""

from collections.abc import Callable

import numpy as np

from ..threads import TILE_BYTES, map_tiles, split
from .windows import Pair

Correlate = Callable[[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, Pair], None]  # x, w, b, out, start
GradW = Callable[[np.ndarray, np.ndarray, Pair, Pair], np.ndarray]  # x, g, kernel, start


def transposed(
    correlate: Correlate,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    out: np.ndarray,
    stride: Pair,
    padding: Pair,
) -> None:
    r"""The transpose of the convolution, with ``w`` (kh, kw, c of x, c of out), phase by phase by a stride-1 ``correlate``."""
    for i in range(min(stride[0], out.shape[1])):
        rows, first_row = _phase(i, w.shape[0], stride[0], padding[0])
        for j in range(min(stride[1], out.shape[2])):
            columns, first_column = _phase(j, w.shape[1], stride[1], padding[1])
            target = out[:, i :: stride[0], j :: stride[1]]
            taps = w[rows, columns][::-1, ::-1]
            if taps.size:
                correlate(x, taps, b, target, (first_row, first_column))
            else:  # a stride beyond the kernel: no input pixel reaches these output pixels
                target[...] = 0 if b is None else b


def _phase(i: int, kernel: int, stride: int, padding: int) -> tuple[slice, int]:
    """Of the phase whose first output row is ``i``: its taps, and the first input row that it reads."""
    a = (i + padding) % stride
    return slice(a, kernel, stride), (i + padding) // stride - (len(range(a, kernel, stride)) - 1)


def folds(kernel: Pair, stride: Pair) -> bool:
    """Whether the strided convolution can be folded to one of stride 1."""
    return stride != (1, 1) and kernel[0] % stride[0] == 0 and kernel[1] % stride[1] == 0


def fold(x: np.ndarray, stride: Pair, start: Pair, size: Pair) -> np.ndarray:
    """``out[n, i, j, (a, b, c)] = x[n, start_h + i s_h + a, start_w + j s_w + b, c]``, zero outside, for i, j < size."""
    n, height, width, c = x.shape
    out = np.empty((n, *size, *stride, c), x.dtype)

    def tile(samples: slice) -> None:
        for a in range(stride[0]):
            for b in range(stride[1]):
                rows, from_rows = _reach(start[0] + a, stride[0], size[0], height)
                columns, from_columns = _reach(start[1] + b, stride[1], size[1], width)
                target = out[samples, :, :, a, b]
                target[:, : rows.start] = 0
                target[:, rows.stop :] = 0
                target[:, rows, : columns.start] = 0
                target[:, rows, columns.stop :] = 0
                target[:, rows, columns] = x[samples, from_rows, from_columns]

    bytes_per_sample = out[0].nbytes if n else 1
    map_tiles(tile, split(n, TILE_BYTES // bytes_per_sample, -(-TILE_BYTES // (4 * bytes_per_sample))))
    return out.reshape(n, *size, -1)


def _reach(start: int, stride: int, size: int, length: int) -> tuple[slice, slice]:
    """Which of the positions ``start + stride i``, i < size, lie in ``[0, length)``: as a slice of i and of positions."""
    first = min(size, max(0, -(start // stride)))
    last = min(size, max(first, -((start - length) // stride)))
    if first == last:
        return slice(first, first), slice(0)
    return slice(first, last), slice(start + stride * first, start + stride * last, stride)


def correlate_folded(
    correlate: Correlate, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, stride: Pair, start: Pair
) -> None:
    """The strided convolution by a stride-1 ``correlate`` of the folded image."""
    taps = (w.shape[0] // stride[0], w.shape[1] // stride[1])
    small = w.reshape(taps[0], stride[0], taps[1], stride[1], *w.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    image = fold(x, stride, start, (out.shape[1] + taps[0] - 1, out.shape[2] + taps[1] - 1))
    correlate(image, small.reshape(*taps, -1, w.shape[3]), b, out, (0, 0))


def correlate_grad_w_folded(
    grad_w: GradW, x: np.ndarray, g: np.ndarray, kernel: Pair, stride: Pair, start: Pair
) -> np.ndarray:
    """The strided convolution's weight gradient by the stride-1 ``grad_w`` of the folded image."""
    taps = (kernel[0] // stride[0], kernel[1] // stride[1])
    image = fold(x, stride, start, (g.shape[1] + taps[0] - 1, g.shape[2] + taps[1] - 1))
    small = grad_w(image, g, taps, (0, 0))
    c_in, c_out = x.shape[3], g.shape[3]
    return small.reshape(*taps, *stride, c_in, c_out).transpose(0, 2, 1, 3, 4, 5).reshape(*kernel, c_in, c_out)
