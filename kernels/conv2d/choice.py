r"""Which way to compute a convolution: a model of the time that each way takes, in nanoseconds on one core.

The constants were fitted on one machine (Zen 4, AVX-512, OpenBLAS). They only need to rank the ways: near a tie a wrong
choice costs little. float64 always takes the direct way, because Winograd's errors would hide what float64 is used for.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from . import numpy_direct, numpy_winograd
from .windows import Pair

Shape = tuple[int, ...]

MULTIPLY = 0.021  # a multiplication and addition within a matrix product
GATHER = 0.03  # an element of the im2col matrix
RUN = 12.0  # the start of one of its runs: an output pixel's kernel row
INPUT = 0.45  # a Winograd point of an input channel: gather and both transforms
OUTPUT = 0.35  # a Winograd point of an output channel
FEWEST_CHANNELS = 16  # with fewer, Winograd gains little or nothing for its errors


class Cost(NamedTuple):
    """What Winograd costs besides the channels and their products."""

    point: float  # a Winograd point of a tile, whatever the channels
    weight: float  # a pair of channels: the transform of its kernel


FORWARD = Cost(11.0, 9.0)
SUM = Cost(20.0, 25.0)  # a weight gradient, whose sums also pass through memory


@lru_cache(maxsize=4096)
def winograd_tile(x: Shape, kernel: Pair, stride: Pair, g: Shape, dtype: np.dtype, cost: Cost) -> int:
    """The size m of the output tiles with which Winograd is fastest, or 0 where the direct way is."""
    r = kernel[0] // stride[0]
    folds = kernel == (r * stride[0], r * stride[1])
    if dtype != np.float32 or not folds or min(x[3], g[3]) < FEWEST_CHANNELS:
        return 0
    c_in, c_out = x[3] * stride[0] * stride[1], g[3]
    run = kernel[1] * x[3]
    times = {0: g[0] * g[1] * g[2] * kernel[0] * (RUN + run * (GATHER + c_out * MULTIPLY))}
    for m in numpy_winograd.OUTPUT_TILES.get(r, ()):
        points = (m + r - 1) ** 2 * g[0] * -(-g[1] // m) * -(-g[2] // m)
        each = cost.point + c_in * INPUT + c_out * OUTPUT + c_in * c_out * MULTIPLY
        times[m] = points * each + c_in * c_out * cost.weight
    return min(times, key=lambda m: times[m])


def correlate(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, stride: Pair, start: Pair) -> None:
    """``numpy_direct.correlate``, by the fastest way."""
    m = winograd_tile(x.shape, w.shape[:2], stride, out.shape, x.dtype, FORWARD)
    if m:
        numpy_winograd.correlate(x, w, b, out, stride, start, m)
    else:
        numpy_direct.correlate(x, w, b, out, stride, start)


def correlate_grad_w(x: np.ndarray, g: np.ndarray, kernel: Pair, stride: Pair, start: Pair) -> np.ndarray:
    """``numpy_direct.correlate_grad_w``, by the fastest way."""
    m = winograd_tile(x.shape, kernel, stride, g.shape, x.dtype, SUM)
    if m:
        return numpy_winograd.correlate_grad_w(x, g, kernel, stride, start, m)
    return numpy_direct.correlate_grad_w(x, g, kernel, stride, start)
