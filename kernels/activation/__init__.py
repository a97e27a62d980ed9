r"""Smooth activations and their derivatives, element by element, in pieces that stay in a core's cache.

$$\mathrm{silu}(x) = x\,\sigma(x), \qquad \mathrm{gelu}(x) = \tfrac12 x\,(1 + \tanh u),\; u = \sqrt{2/\pi}\,(x + 0.044715\,x^3),
\qquad \mathrm{softplus}(x) = \ln(1 + e^x).$$

``gelu`` is the tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2), the one that GPT-2 uses, not the one
with the error function; the two differ by less than 5e-4. Nothing warns, whatever the input, and large arguments give
the limits (the derivative of gelu up to the square root of the dtype's range, 1e19 in float32). silu and gelu of minus
infinity are NaN, as the formulas $-\infty \cdot 0$ say.

The float32 results of silu and gelu are right to a few units of rounding of $|x|$ (of $\sigma(x) \to 0$ for very
negative x only the absolute size is right); softplus is right to a few units of its own size.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ..backend import Array, is_cuda
from ..checks import check_float, check_same, check_shape
from ..device import contiguous, device_of
from . import numpy_tiles, reference

__all__ = ["gelu", "gelu_backward", "gelu_forward", "gelu_grad", "silu", "silu_grad", "softplus"]


def silu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    r"""$x\,\sigma(x)$ (Elfwing et al. 2017, arXiv 1702.03118, eq. 10; Ramachandran et al. 2017, arXiv 1710.05941).

    Raises TypeError unless ``x`` is float32 or float64.
    """
    check_float("x", x)
    if (device := device_of(x)) is not None:
        from . import cuda

        return cuda.silu(device, contiguous(x))
    return reference.silu(x) if is_cuda(x) else numpy_tiles.run(numpy_tiles.silu, x)


def silu_grad(g: Float[Array, "*s"], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    r"""$g\,\sigma(x)\,(1 + x\,(1 - \sigma(x)))$. ``g`` has the shape of ``x``."""
    _check_pair(g, x)
    if (device := device_of(g, x)) is not None:
        from . import cuda

        return cuda.silu_grad(device, contiguous(g), contiguous(x))
    return reference.silu_grad(g, x) if is_cuda(x) else numpy_tiles.run(numpy_tiles.silu_grad, g, x)


def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    r"""$\tfrac12 x (1 + \tanh u)$ with $u = \sqrt{2/\pi}\,(x + 0.044715 x^3)$: the tanh form.

    Raises TypeError unless ``x`` is float32 or float64.
    """
    check_float("x", x)
    if (device := device_of(x)) is not None:
        from . import cuda

        return cuda.gelu(device, contiguous(x))
    return reference.gelu(x) if is_cuda(x) else numpy_tiles.run(numpy_tiles.gelu, x)


def gelu_grad(g: Float[Array, "*s"], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    r"""$\tfrac12 g\,\big(1 + \tanh u + x\,(1 - \tanh^2 u)\,u'\big)$ with $u' = \sqrt{2/\pi}\,(1 + 3 \cdot 0.044715\, x^2)$."""
    _check_pair(g, x)
    if (device := device_of(g, x)) is not None:
        from . import cuda

        return cuda.gelu_grad(device, contiguous(g), contiguous(x))
    return reference.gelu_grad(g, x) if is_cuda(x) else numpy_tiles.run(numpy_tiles.gelu_grad, g, x)


def gelu_forward(x: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], Any]:
    """``(gelu(x), saved)`` for ``gelu_backward``, which then needs neither ``x`` nor a second tanh.

    ``saved`` has the size of ``x`` and takes its place. Forward and backward together are faster this way than through
    ``gelu`` and ``gelu_grad``; forward alone is slower.
    """
    check_float("x", x)
    if is_cuda(x) or device_of(x) is not None:
        return gelu(x), x
    y, slope = numpy_tiles.run_two(numpy_tiles.gelu_and_slope, x)
    return y, slope


def gelu_backward(g: Float[Array, "*s"], saved: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """As ``gelu_grad``, with what ``gelu_forward`` saved in place of ``x``."""
    _check_pair(g, saved, "saved")
    if is_cuda(g) or device_of(g) is not None:
        return gelu_grad(g, saved)
    return numpy_tiles.run(np.multiply, g, saved)


def softplus(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    r"""$\ln(1 + e^x) = \max(x, 0) + \ln(1 + e^{-|x|})$. Its derivative is $\sigma(x)$.

    Raises TypeError unless ``x`` is float32 or float64.
    """
    check_float("x", x)
    if (device := device_of(x)) is not None:
        from . import cuda

        return cuda.softplus(device, contiguous(x))
    return reference.softplus(x) if is_cuda(x) else numpy_tiles.run(numpy_tiles.softplus, x)


def _check_pair(g: Any, x: Any, name: str = "x") -> None:
    check_float(name, x)
    check_same(f"g, {name}", g, x)
    check_shape("g", g, x.shape, f"the shape of {name}")
