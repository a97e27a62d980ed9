r"""Adam by definition, any float dtype, NumPy or CuPy, with one step of the equations per line."""

from ..backend import Array, array_module


def adam_step(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    r"""Decay, moments, corrections, update: in place."""
    xp = array_module(p, g, m, v)
    p -= lr * weight_decay * p
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    p -= lr * m_hat / (xp.sqrt(v_hat) + eps)
