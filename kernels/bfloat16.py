"""bfloat16 on the host: NumPy has no such type, so arrays of it are uint16 arrays of its bits (as ``bf16`` in lib/ptx.cuh).

A bfloat16 is the upper half of a float32: sign, all 8 bits of the exponent, 7 of the 23 of the mantissa.
"""

from typing import Any

import numpy as np

from .backend import Array, array_module

UNIT_ROUNDOFF = 2.0**-8  # of bfloat16: the largest relative error of rounding to it


def to_bits(x: Array) -> Array:
    """float32 numbers rounded to the nearest bfloat16, ties to even, as uint16 bits."""
    if x.dtype != np.float32:
        raise TypeError(f"x must be float32, got {x.dtype}")
    xp = array_module(x)
    bits = xp.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    return xp.where(x == x, rounded, np.uint32(0x7FFF)).astype(np.uint16)


def from_bits(bits: Array) -> Array:
    """The float32 numbers that these bfloat16 bits stand for, exactly."""
    if bits.dtype != np.uint16:
        raise TypeError(f"bits must be uint16, got {bits.dtype}")
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded(x: Any) -> Array:
    """``x`` rounded to bfloat16, as float32."""
    return from_bits(to_bits(x))


def rounded_to_tf32(x: np.ndarray) -> np.ndarray:
    """float32 ``x`` rounded to tf32, which has 10 bits of mantissa; ties away from 0 (PTX's ``cvt.rna``)."""
    x = np.ascontiguousarray(x, np.float32)
    bits = (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(x == x, bits.view(np.float32), x)
