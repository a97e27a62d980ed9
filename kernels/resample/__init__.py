r"""Nearest-neighbour upsampling and average pooling by a whole factor f, and their gradients.

$$\mathrm{up}(x)_{ij} = x_{\lfloor i/f \rfloor, \lfloor j/f \rfloor}, \qquad
\mathrm{pool}(x)_{ij} = \frac{1}{f^2} \sum_{u, v = 0}^{f-1} x_{f i + u,\, f j + v}.$$

Each is the other's transpose up to the factor: $\mathrm{up}^T = f^2\, \mathrm{pool}$ and
$\mathrm{pool}^T = \mathrm{up} / f^2$.
"""

from typing import Any

from jaxtyping import Float

from ..backend import Array, is_cuda
from ..checks import check_float, whole
from . import numpy_blocks, reference

__all__ = ["avg_pool", "avg_pool_grad", "upsample_nearest", "upsample_nearest_grad"]


def upsample_nearest(x: Float[Array, "n h w c"], factor: int) -> Float[Array, "n h*{factor} w*{factor} c"]:
    """Every pixel repeated ``factor`` x ``factor`` times.

    Raises TypeError unless ``x`` is float32 or float64, ValueError for its number of axes and for ``factor``.
    """
    factor = _check("x", x, factor)
    return (reference if is_cuda(x) else numpy_blocks).repeat(x, factor)


def upsample_nearest_grad(g: Float[Array, "n H W c"], factor: int) -> Float[Array, "n H//{factor} W//{factor} c"]:
    """The sum over every ``factor`` x ``factor`` block; the factor divides the size, else ValueError."""
    factor = _check("g", g, factor, divides=True)
    return (reference if is_cuda(g) else numpy_blocks).block_sum(g, factor)


def avg_pool(x: Float[Array, "n H W c"], factor: int) -> Float[Array, "n H//{factor} W//{factor} c"]:
    """The mean of every ``factor`` x ``factor`` block; the factor divides the size, else ValueError."""
    factor = _check("x", x, factor, divides=True)
    y = (reference if is_cuda(x) else numpy_blocks).block_sum(x, factor)
    y *= 1 / factor**2
    return y


def avg_pool_grad(g: Float[Array, "n h w c"], factor: int) -> Float[Array, "n h*{factor} w*{factor} c"]:
    """Every pixel repeated ``factor`` x ``factor`` times and divided by the square of ``factor``."""
    factor = _check("g", g, factor)
    return (reference if is_cuda(g) else numpy_blocks).repeat(g * (1 / factor**2), factor)


def _check(name: str, x: Any, factor: Any, divides: bool = False) -> int:
    check_float(name, x, 4)
    factor = whole("factor", factor, 1)
    if divides and (x.shape[1] % factor or x.shape[2] % factor):
        raise ValueError(f"{name}'s height and width must be multiples of {factor}, got shape {tuple(x.shape)}")
    return factor
