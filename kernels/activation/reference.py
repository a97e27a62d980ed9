r"""The activations by definition, any float dtype, NumPy or CuPy.

The logistic function is written $\sigma(x) = e^{-\ln(1 + e^{-x})}$, because ``logaddexp`` does not overflow.
"""

from ..backend import Array, array_module

SLOPE = (2 / 3.141592653589793) ** 0.5  # the slope of u at 0
CUBIC = 0.044715


def silu(x: Array) -> Array:
    r"""$x\,\sigma(x)$."""
    return x * _sigmoid(x)


def silu_grad(g: Array, x: Array) -> Array:
    r"""$g\,\sigma\,(1 + x (1 - \sigma))$."""
    s = _sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


def gelu(x: Array) -> Array:
    r"""$\tfrac12 x (1 + \tanh u)$."""
    u = SLOPE * (x + CUBIC * x**3)
    return 0.5 * x * (1 + array_module(x).tanh(u))


def gelu_grad(g: Array, x: Array) -> Array:
    r"""$\tfrac12 g (1 + \tanh u + x (1 - \tanh^2 u) u')$."""
    t = array_module(x).tanh(SLOPE * (x + CUBIC * x**3))
    return 0.5 * g * (1 + t + x * (1 - t * t) * (SLOPE * (1 + 3 * CUBIC * x**2)))


def softplus(x: Array) -> Array:
    r"""$\ln(e^0 + e^x)$."""
    return array_module(x).logaddexp(0, x).astype(x.dtype, copy=False)


def _sigmoid(x: Array) -> Array:
    xp = array_module(x)
    return xp.exp(-xp.logaddexp(0, -x)).astype(x.dtype, copy=False)
