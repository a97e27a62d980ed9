r"""The transpose of a strided convolution, made of small stride-1 ones: no scatter (``col2im``), and Winograd can help.

The transpose of a stride-$s$ convolution, $y[i] = \sum_u x[(i + p - u) / s]\, w[u]$ over the $u$ with an integer
index, falls into $s$ independent phases $a = (i + p) \bmod s$: with $u = a + s t$ it is
$y[a - p + s l] = \sum_t x[l - t]\, w[a + s t]$, an ordinary convolution with the mirrored taps $a, a + s, \dots$ (Shi
et al. 2016, arXiv 1609.05158: sub-pixel convolution). The same holds for both axes at once, so $s_h s_w$ small
convolutions write to the interleaved pixels of the output.
"""

from collections.abc import Callable

import numpy as np

from .windows import Pair

Correlate = Callable[[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, Pair, Pair], None]


def transposed(
    correlate: Correlate,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    out: np.ndarray,
    stride: Pair,
    padding: Pair,
) -> None:
    r"""The transpose of the convolution, with ``w`` (kh, kw, c of x, c of out), phase by phase by ``correlate``."""
    for i in range(min(stride[0], out.shape[1])):
        rows, first_row = _phase(i, w.shape[0], stride[0], padding[0])
        for j in range(min(stride[1], out.shape[2])):
            columns, first_column = _phase(j, w.shape[1], stride[1], padding[1])
            target = out[:, i :: stride[0], j :: stride[1]]
            taps = w[rows, columns][::-1, ::-1]
            if taps.size:
                correlate(x, taps, b, target, (1, 1), (first_row, first_column))
            else:  # a stride beyond the kernel: no input pixel reaches these output pixels
                target[...] = 0 if b is None else b


def _phase(i: int, kernel: int, stride: int, padding: int) -> tuple[slice, int]:
    """Of the phase whose first output row is ``i``: its taps, and the first input row that it reads."""
    a = (i + padding) % stride
    return slice(a, kernel, stride), (i + padding) // stride - (len(range(a, kernel, stride)) - 1)
