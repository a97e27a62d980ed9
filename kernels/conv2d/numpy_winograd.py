r"""Winograd's minimal filtering $F(m \times m, r \times r)$: convolution with fewer multiplications, float32.

$$Y = A^T \Big[ \textstyle\sum_c (G\, w_c\, G^T) \odot (B^T d_c\, B) \Big] A$$

(Lavin & Gray 2016, arXiv 1509.09308, eq. 8 and 12.) An output tile of $m \times m$ pixels needs the $n \times n$ input
tile $d$, $n = m + r - 1$. For each of the $n^2$ points the sum over channels is one matrix product over all tiles at
once. $F(4 \times 4, 3 \times 3)$ multiplies 36 times where the definition multiplies 144 times.

Both gradients use the same three matrices. The one with respect to $x$ is the convolution of $g$ with the mirrored
kernel; the one with respect to $w$ is $G^T \big[ \sum_{tiles} (B^T d\, B) \odot (A\, g\, A^T) \big] G$.

**Strides.** If the stride divides the kernel, $k = r s$, the convolution is one of stride 1 with an $r \times r$ kernel
over the image whose $s \times s$ blocks of pixels lie in its channels ("folded", $s^2 c$ channels). The block's rows
and columns already lie $s$ lines and $s$ pixels apart in memory, so only strides change here.

**The matrices** come from evaluating polynomials at $n - 1$ points and at infinity (Toom-Cook). Here the transforms
are matrix products too, because BLAS is faster than additions by ufuncs. So the points need not be small integers:
$0, \pm 1/\sqrt 2, \pm\sqrt 2$ halve the error of the usual $0, \pm 1, \pm 2$ (measured with 64 channels of normal
numbers: root mean square 5.2 and 10.7 times that of direct float32 summation, largest 7 and 28 times).

**Errors.** The transforms make large numbers that cancel, so an element's error follows the sizes in its whole tile:
not $\sum |w||x|$, but the formula above with the absolute values of everything in it. ``magnitude`` and
``magnitude_grad_w`` compute that; ``kernels.compare.bound(c_in, magnitude, float32)`` is the allowed error (measured:
at most 0.12 of it). Where all $|x|$ are alike and all $|w|$ are alike, it is ``amplification(m, r)`` times
$\sum |w||x|$: 7 for $F(2, 3)$, 69 for $F(4, 3)$.

NaN and Inf spread over a tile for the same reason: a block of tiles whose result is not finite is computed again by
the direct path, which has them only where the definition has.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..threads import map_tiles, scratch
from . import numpy_direct
from .products import limit
from .windows import Block, Pair, cut, region, share

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]

OUTPUT_TILES = {2: (3, 4), 3: (2, 3, 4)}  # m for each kernel size r; beyond n = 6 points the errors grow fast
POINTS = {
    4: (0.0, 1.0, -1.0),
    5: (0.4, -0.4, 1.2, -1.2),  # the most accurate on a grid of candidates
    6: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)),  # within 4 % of the most accurate
}
LARGEST = 8192  # tiles x channels of a block: 36 points of them are 1.2 MB
SMALLEST = 4096  # below this a block costs more to start than to share
FEWEST_TILES = 32  # with fewer, a block's weights cost more to read than to multiply
PARTIAL_TILES = 64  # tiles that one partial sum of a weight gradient covers at least
PARTIALS = 8  # and how many such sums are held at once at most


@cache
def toom_cook(m: int, r: int, dtype: Any) -> Matrices:
    r"""$A^T$ (m, n), $G$ (n, r), $B^T$ (n, n) of $F(m, r)$.

    Toom-Cook multiplies polynomials of $m$ and $r$ coefficients: evaluate both at $n$ points ($V_m a$, $V_r b$),
    multiply, interpolate ($V_n^{-1}$). Filtering is the transpose of that with respect to the longer factor, hence
    $A^T = V_m^T$, $G = V_r$, $B^T = V_n^{-T}$. Each row of $B^T$ is scaled to a largest entry of 1, and $G$ takes the
    inverse.
    """
    n = m + r - 1

    def vandermonde(terms: int) -> np.ndarray:
        at_infinity = np.eye(1, terms, terms - 1)  # the leading coefficient
        return np.vstack([np.vander(POINTS[n], terms, increasing=True), at_infinity])

    bt = np.linalg.inv(vandermonde(n)).T
    scale = np.abs(bt).max(axis=1, keepdims=True)
    at, g, bt = (np.ascontiguousarray(one, dtype) for one in (vandermonde(m).T, vandermonde(r) * scale, bt / scale))
    return at, g, bt


def absolute(m: int, r: int, dtype: Any) -> Matrices:
    """The absolute values of ``toom_cook``'s matrices, for the error model."""
    at, g, bt = (np.abs(one) for one in toom_cook(m, r, dtype))
    return at, g, bt


def correlate(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    out: np.ndarray,
    stride: Pair,
    start: Pair,
    m: int,
    matrices: Callable[[int, int, Any], Matrices] = toom_cook,
) -> None:
    r"""As ``numpy_direct.correlate``, by $F(m \times m, r \times r)$, for ``w`` of shape (r s_h, r s_w, c_in, c_out)."""
    r, c_out = w.shape[0] // stride[0], w.shape[3]
    at, g, bt = matrices(m, r, x.dtype)
    n, wide = len(bt), -(-out.shape[2] // m)
    folded = w.reshape(r, stride[0], r, stride[1], -1, c_out).transpose(0, 2, 1, 3, 4, 5).reshape(r, r, -1, c_out)
    with np.errstate(invalid="ignore", over="ignore"):
        weights = _both_sides(g, folded).reshape(n * n, -1, c_out)

    def tile(block: Block) -> None:
        samples, rows = block
        v = _points(bt, x, block, wide, stride, start, m, "v")
        products = scratch("gathered", (n, n, v.shape[1] * c_out), x.dtype)  # what `_points` gathered is not needed now
        np.matmul(v, weights, out=products.reshape(n * n, -1, c_out))
        half = scratch("half", (m, n, v.shape[1] * c_out), x.dtype)
        np.matmul(at, products.transpose(1, 0, 2), out=half.transpose(1, 0, 2))
        values = scratch("gathered", (m, m, v.shape[1] * c_out), x.dtype)
        np.matmul(at, half, out=values)
        target = out[samples, rows.start * m : rows.stop * m]
        _store(values.reshape(m, m, target.shape[0], -1, wide, c_out), b, target)
        if not _finite(values):
            numpy_direct.correlate(x[samples], w, b, target, stride, (start[0] + rows.start * m * stride[0], start[1]))

    largest = _largest(weights.shape[1], c_out)
    smallest = min(largest, SMALLEST // max(weights.shape[1:]))
    with np.errstate(invalid="ignore", over="ignore"):
        map_tiles(tile, share(out.shape[0], -(-out.shape[1] // m), wide, largest, smallest))


def correlate_grad_w(
    x: np.ndarray,
    g: np.ndarray,
    kernel: Pair,
    stride: Pair,
    start: Pair,
    m: int,
    matrices: Callable[[int, int, Any], Matrices] = toom_cook,
) -> np.ndarray:
    r"""As ``numpy_direct.correlate_grad_w`` for a kernel (r s_h, r s_w), the tiles summed at the points."""
    r, c_in, c_out = kernel[0] // stride[0], stride[0] * stride[1] * x.shape[3], g.shape[3]
    at, gm, bt = matrices(m, r, x.dtype)
    a = np.ascontiguousarray(at.T)
    n, high, wide = len(bt), -(-g.shape[1] // m), -(-g.shape[2] // m)

    def partial(group: Block) -> Any:
        total = None
        for block in cut(group, wide, _largest(c_in, c_out)):
            v = _points(bt, x, block, wide, stride, start, m, "v").transpose(0, 2, 1)
            u = _points(a, g, block, wide, (1, 1), (0, 0), m, "u")
            if total is None:
                total = np.matmul(v, u)
            else:
                part = scratch("part", total.shape, x.dtype)
                total += np.matmul(v, u, out=part)
        return total

    tiles = g.shape[0] * high * wide
    groups = share(g.shape[0], high, wide, max(PARTIAL_TILES, -(-tiles // PARTIALS)), PARTIAL_TILES)
    with np.errstate(invalid="ignore", over="ignore"):
        summed = numpy_direct.add_in_order(map_tiles(partial, groups))
        if summed is None:
            return np.zeros((*kernel, x.shape[3], c_out), x.dtype)
        dw = _both_sides(np.ascontiguousarray(gm.T), summed.reshape(n, n, c_in, c_out))
        if not _finite(dw):
            return numpy_direct.correlate_grad_w(x, g, kernel, stride, start)
    unfolded = dw.reshape(r, r, *stride, x.shape[3], c_out).transpose(0, 2, 1, 3, 4, 5)
    return unfolded.reshape(*kernel, x.shape[3], c_out)


def _both_sides(matrix: np.ndarray, w: np.ndarray) -> np.ndarray:
    r"""$M w M^T$ over the first two axes of ``w``."""
    rows, columns = matrix.shape
    half = np.matmul(matrix, w.reshape(columns, -1)).reshape(rows, columns, -1)
    return np.matmul(matrix, half).reshape(rows, rows, *w.shape[2:])


def _points(
    matrix: np.ndarray, x: np.ndarray, block: Block, wide: int, stride: Pair, start: Pair, m: int, name: str
) -> np.ndarray:
    r"""$M d M^T$ for every tile $d$ of a block, every channel of the folded image: (n n, tiles, s_h s_w c), in scratch.

    The tiles begin every ``m`` folded rows and columns and are as high and wide as $M$ has columns. The first product
    runs along whole lines of the image, where they lie: gathering the tiles' columns after it copies less than before.
    """
    samples, rows = block
    n, size = matrix.shape
    count, high, c = samples.stop - samples.start, rows.stop - rows.start, stride[1] * x.shape[3]
    extent = (high * m + size - m, wide * m + size - m)  # of the folded image
    first = (start[0] + rows.start * m * stride[0], start[1])
    box = region(x, samples, first, (extent[0] * stride[0], extent[1] * stride[1]), copy=True)
    line = extent[1] * c  # of the image; a folded line is stride[0] of them
    step = stride[0] * line
    lines = _view(box, (count, high, size, step), (extent[0] * step, m * step, step, 1))
    half = scratch("half", (count, high, n, step), x.dtype)
    np.matmul(matrix, lines, out=half)
    shape = (n, size, count, high, wide, stride[0], c)
    gathered = scratch("gathered", shape, x.dtype)
    np.copyto(gathered, _view(half, shape, (step, c, high * n * step, n * step, m * c, line, 1)))
    points = scratch(name, (n, n, count * high * wide * stride[0] * c), x.dtype)
    np.matmul(matrix, gathered.reshape(n, size, -1), out=points)
    return points.reshape(n * n, -1, stride[0] * c)


def _view(base: np.ndarray, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """Another view of a contiguous array's memory, strides counted in elements."""
    return np.ndarray(shape, base.dtype, base, 0, tuple(s * base.itemsize for s in strides))


def _store(values: np.ndarray, b: np.ndarray | None, target: np.ndarray) -> None:
    """Tiles (m, m, samples, high, wide, c) to the image ``target``, which may end inside of the last tiles."""
    m, _, count, high, wide, c = values.shape
    whole = target.shape == (count, high * m, wide * m, c)
    image = target if whole else scratch("half", (count, high * m, wide * m, c), values.dtype)
    tiled = image.reshape(count, high, m, wide, m, c)  # a view: axes are split only
    if b is None:
        np.copyto(tiled, values.transpose(2, 3, 0, 4, 1, 5))
    else:
        np.add(values.transpose(2, 3, 0, 4, 1, 5), b, out=tiled)
    if not whole:
        np.copyto(target, image[:, : target.shape[1], : target.shape[2]])


def _finite(values: np.ndarray) -> bool:
    """False if any value is NaN or Inf, or so large that the squares' sum overflows."""
    flat = values.reshape(-1)
    return bool(np.isfinite(np.dot(flat, flat)))


def _largest(c_in: int, c_out: int) -> int:
    """How many tiles a block holds: as many as the cache takes, but few enough for unpacked products."""
    largest = max(1, 2 * LARGEST // (c_in + c_out))
    fit = limit() // (c_in * c_out)
    return min(largest, fit) if fit >= FEWEST_TILES else largest


def magnitude(x: np.ndarray, w: np.ndarray, size: Pair, stride: Pair, start: Pair, m: int) -> np.ndarray:
    r"""$|A^T| [ \sum_c |G||w_c||G^T| \odot |B^T||d_c||B| ] |A|$ in float64: what ``correlate``'s rounding errors follow."""
    out = np.empty((x.shape[0], *size, w.shape[3]))
    correlate(np.abs(x).astype(np.float64), np.abs(w).astype(np.float64), None, out, stride, start, m, absolute)
    return out


def magnitude_grad_w(x: np.ndarray, g: np.ndarray, kernel: Pair, stride: Pair, start: Pair, m: int) -> np.ndarray:
    """The same for ``correlate_grad_w``."""
    return correlate_grad_w(
        np.abs(x).astype(np.float64), np.abs(g).astype(np.float64), kernel, stride, start, m, absolute
    )


def amplification(m: int, r: int) -> float:
    r"""``magnitude`` as a multiple of $\sum |w||x|$ where all $|x|$ and all $|w|$ are alike: the largest over a tile."""
    at, g, bt = absolute(m, r, np.float64)
    return float(((at @ (g.sum(1) * bt.sum(1))).max() / r) ** 2)
