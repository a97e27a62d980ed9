r"""Initialisers: arrays of float32 drawn from ``rng``.

``fan_in`` is the number of inputs that each output sums: c_in for a linear layer, kh kw c_in for a convolution.
"""

from typing import Any

import numpy as np


def fan_in(shape: tuple[int, ...]) -> int:
    """The product of all axes but the last, for weights laid out (..., c_in, c_out)."""
    return int(np.prod(shape[:-1]))


def normal(shape: tuple[int, ...], std: float, rng: Any) -> Any:
    r"""$w \sim N(0, \mathrm{std}^2)$."""
    return (std * rng.standard_normal(shape)).astype(np.float32)


def he(shape: tuple[int, ...], rng: Any) -> Any:
    r"""$w \sim N(0, 2 / \text{fan in})$: keeps the variance through a rectifier (He et al. 2015, 1502.01852, eq. 10)."""
    return normal(shape, (2 / max(fan_in(shape), 1)) ** 0.5, rng)


def lecun(shape: tuple[int, ...], rng: Any) -> Any:
    r"""$w \sim N(0, 1 / \text{fan in})$: keeps the variance through a linear layer (LeCun et al. 1998, section 4.6)."""
    return normal(shape, (1 / max(fan_in(shape), 1)) ** 0.5, rng)


def glorot(shape: tuple[int, ...], rng: Any) -> Any:
    r"""$w \sim U(-a, a)$, $a = \sqrt{6 / (\text{fan in} + \text{fan out})}$ (Glorot & Bengio 2010, eq. 16)."""
    receptive = int(np.prod(shape[:-2]))
    a = (6 / max(receptive * (shape[-2] + shape[-1]), 1)) ** 0.5
    return ((2 * rng.random(shape) - 1) * a).astype(np.float32)


def zeros(shape: tuple[int, ...], rng: Any = None) -> Any:
    r"""$w = 0$: a residual block whose branch ends so starts as the identity."""
    return np.zeros(shape, np.float32)
