r"""Quantization and the linear layers by definition, NumPy or CuPy; every operation in float32 is rounded once."""

import numpy as np

from ..backend import Array, array_module
from . import formats


def quantize(x: Array, axis: int, form: str) -> tuple[Array, Array]:
    """(codes, scale) of ``x`` (m, n) with a scale for each row (axis 0) or column (axis 1)."""
    xp = array_module(x)
    with np.errstate(all="ignore"):
        largest = xp.abs(x).max(axis=1 - axis) if x.shape[1 - axis] else xp.zeros(x.shape[axis])
        largest = largest.astype(xp.float32)
        scale = largest / xp.float32(formats.LARGEST[form])
        scale = xp.where(scale == 0, xp.float32(1), scale)
        ratio = x / xp.expand_dims(scale, 1 - axis)
        if form != "int8":
            return formats.encode(ratio, form), scale
        whole = xp.clip(xp.rint(ratio), -127, 127)
        return xp.where(xp.isnan(whole), 0, whole).astype(xp.int8), scale


def dequantize(codes: Array, scale: Array, axis: int, form: str) -> Array:
    """Value times scale, float32."""
    xp = array_module(codes, scale)
    value = codes.astype(xp.float32) if form == "int8" else formats.decode(codes, form)
    with np.errstate(all="ignore"):
        return value * xp.expand_dims(scale, 1 - axis)


def linear_weight_only(x: Array, codes: Array, scale: Array, bias: Array | None) -> Array:
    """The sum, then the scale, then the bias; in the dtype of ``x``."""
    with np.errstate(all="ignore"):
        y = (x @ codes.astype(x.dtype)) * scale
        return y if bias is None else y + bias


def linear_int8(x_codes: Array, x_scale: Array, codes: Array, scale: Array, bias: Array | None) -> Array:
    """The sum in whole numbers."""
    xp = array_module(x_codes, codes)
    return scaled(x_codes.astype(xp.int64) @ codes.astype(xp.int64), x_scale, scale, bias)


def linear_fp8(
    x_codes: Array, x_scale: Array, codes: Array, scale: Array, bias: Array | None, x_form: str, form: str
) -> Array:
    """The sum in float64, which is exact or nearly so."""
    xp = array_module(x_codes, codes)
    p, q = formats.decode(x_codes, x_form).astype(xp.float64), formats.decode(codes, form).astype(xp.float64)
    with np.errstate(all="ignore"):
        return scaled(p @ q, x_scale, scale, bias)


def scaled(sums: Array, x_scale: Array, scale: Array, bias: Array | None) -> Array:
    """Sums (m, n) as float32, times the row's scale, times the column's, plus the bias, in this order."""
    xp = array_module(sums, scale)
    with np.errstate(all="ignore"):
        y = sums.astype(xp.float32) * x_scale[:, None] * scale
        return y if bias is None else y + bias
