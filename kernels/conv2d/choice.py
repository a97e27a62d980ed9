r"""Which way to compute a convolution: a model of the time that each way takes, in nanoseconds on one core.

The constants were fitted on one machine (Zen 4, AVX-512, OpenBLAS). They only need to rank the ways: near a tie a wrong
choice costs little. float64 always takes the direct way, because Winograd's errors would hide what float64 is used for.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from . import numpy_direct, numpy_winograd
from .numpy_strided import correlate_folded, correlate_grad_w_folded, folds
from .windows import Pair

Shape = tuple[int, ...]

MULTIPLY = 0.021  # a multiplication and addition within a matrix product
GATHER = 0.03  # an element of the im2col matrix
RUN = 12.0  # the start of one of its runs: an output pixel's kernel row
INPUT = 0.45  # a Winograd point of an input channel: gather and both transforms
OUTPUT = 0.35  # a Winograd point of an output channel
FOLD = 0.3  # an element of a folded image
FEWEST_CHANNELS = 16  # with fewer, Winograd gains little or nothing for its errors


class Cost(NamedTuple):
    """What Winograd costs besides the channels and their products."""

    point: float  # a Winograd point of a tile, whatever the channels
    weight: float  # a pair of channels: the transform of its kernel


FORWARD = Cost(11.0, 9.0)
SUM = Cost(20.0, 25.0)  # a weight gradient, whose sums also pass through memory


@lru_cache(maxsize=4096)
def winograd_tile(x: Shape, kernel: Pair, g: Shape, dtype: np.dtype, cost: Cost) -> tuple[int, float]:
    """The output tile's size m that is fastest at stride 1, 0 for the direct way, and the time that it takes."""
    c_in, c_out = x[3], g[3]
    pixels, run = g[0] * g[1] * g[2], kernel[1] * c_in
    best = (0, pixels * kernel[0] * (RUN + run * (GATHER + c_out * MULTIPLY)))
    if dtype != np.float32 or min(c_in, c_out) < FEWEST_CHANNELS or kernel[0] != kernel[1]:
        return best
    for m in numpy_winograd.OUTPUT_TILES.get(kernel[0], ()):
        points = (m + kernel[0] - 1) ** 2 * g[0] * -(-g[1] // m) * -(-g[2] // m)
        each = cost.point + c_in * INPUT + c_out * OUTPUT + c_in * c_out * MULTIPLY
        best = min(best, (m, points * each + c_in * c_out * cost.weight), key=lambda way: way[1])
    return best


def _folded(x: np.ndarray, g: np.ndarray, kernel: Pair, stride: Pair, cost: Cost) -> bool:
    """Whether folding and then Winograd beats the direct way for this strided convolution."""
    if not folds(kernel, stride):
        return False
    taps = (kernel[0] // stride[0], kernel[1] // stride[1])
    shape = (*g.shape[:3], x.shape[3] * stride[0] * stride[1])
    m, time = winograd_tile(shape, taps, g.shape, x.dtype, cost)
    direct = winograd_tile(x.shape, kernel, g.shape, np.dtype(np.float64), cost)[1]
    return m > 0 and time + FOLD * math.prod(shape) < direct


def correlate(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, stride: Pair, start: Pair) -> None:
    """``numpy_direct.correlate``, by the fastest way."""
    if stride == (1, 1):
        return correlate_stride_one(x, w, b, out, start)
    if _folded(x, out, w.shape[:2], stride, FORWARD):
        return correlate_folded(correlate_stride_one, x, w, b, out, stride, start)
    return numpy_direct.correlate(x, w, b, out, stride, start)


def correlate_stride_one(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, start: Pair) -> None:
    """The same for stride 1."""
    m, _ = winograd_tile(x.shape, w.shape[:2], out.shape, x.dtype, FORWARD)
    if m:
        numpy_winograd.correlate(x, w, b, out, start, m)
    else:
        numpy_direct.correlate(x, w, b, out, (1, 1), start)


def correlate_grad_w(x: np.ndarray, g: np.ndarray, kernel: Pair, stride: Pair, start: Pair) -> np.ndarray:
    """``numpy_direct.correlate_grad_w``, by the fastest way."""
    if stride == (1, 1):
        return _grad_w_stride_one(x, g, kernel, start)
    if _folded(x, g, kernel, stride, SUM):
        return correlate_grad_w_folded(_grad_w_stride_one, x, g, kernel, stride, start)
    return numpy_direct.correlate_grad_w(x, g, kernel, stride, start)


def _grad_w_stride_one(x: np.ndarray, g: np.ndarray, kernel: Pair, start: Pair) -> np.ndarray:
    m, _ = winograd_tile(x.shape, kernel, g.shape, x.dtype, SUM)
    if m:
        return numpy_winograd.correlate_grad_w(x, g, kernel[0], start, m)
    return numpy_direct.correlate_grad_w(x, g, kernel, (1, 1), start)
