r"""Numbers in eight bits with one scale per channel: int8 and the two fp8 formats, and linear layers on them.

A channel, a row or a column of a matrix, gets the scale that maps its largest absolute value to the largest of the
format,

$$s = \max_i |x_i| / L, \qquad q_i = \mathrm{round}(x_i / s), \qquad x_i \approx s\, q_i,$$

| ``form`` | values | $L$ | rounding is off by at most |
|---|---|---|---|
| ``"int8"`` | -127 to 127, symmetric: -128 is not used | 127 | $s/2$ |
| ``"e4m3"`` | 1 sign, 4 exponent, 3 mantissa bits; no infinity | 448 | $2^{-4}$ of the number, and $2^{-10} s$ below $2^{-6} s$ |
| ``"e5m2"`` | 1 sign, 5 exponent, 2 mantissa bits | 57344 | $2^{-3}$ of the number, and $2^{-17} s$ below $2^{-14} s$ |

(Micikevicius et al. 2022, arXiv 2209.05433, for fp8.) All rounding is to the nearest, ties to even, and a number beyond
the largest becomes the largest. A channel of zeros has the scale 1. A channel with NaN or infinity has that as its
scale and comes back as NaN.

The linear layers are $y = x W + b$ with W (k, n) as int8 and a scale for each of its columns. ``linear_weight_only``
has x in float32; that saves memory traffic, on which a layer with few rows waits. ``linear_int8`` has x as int8 too,
with a scale per row; its products are whole numbers, added up in 32 bits without any rounding, so it gives the same
bits everywhere. ``linear_fp8`` has both in fp8, of either format.

On tensor cores x in float32 is three bf16 numbers that add up to it exactly (except for the last bits of numbers below
1e-33). Where float32 rounds, a tensor core truncates towards 0, so after every 64 terms its sums are added to others in
float32: the error grows more slowly with the number of terms than float32's own. For terms of
similar size ``linear_weight_only`` is no less exact than float32, except for sums of a few terms, which are off by a
rounding or two more. For terms of one sign whose sizes differ by powers of ten this holds, by the emulator, from about
250 terms on with Hopper's tensor cores and about 1000 with an A100's, which keep fewer bits; for fewer terms the error
is up to 1.5 times float32's on Hopper and 3 times on an A100.

An fp8 number is a bf16 number as it is, so ``linear_fp8`` is as exact as that, with one part. Within ``with
precision("bf16"):`` a Hopper GPU takes its fp8 tensor cores instead, made to be twice as fast: their sums keep 13 bits,
and every 128 terms are added to others in float32. By the emulator's model of them, normal numbers in e4m3 give
results that are off by $2^{-13} \sqrt{\sum_l (p_l q_l)^2}$ (rms), or, if all terms have one sign, by 0.06 % of the sum,
however many there are. (Rounding the factors to e4m3 was off by 4 % and 0.2 %.)

On tensor cores for eight bits the weights must lie transposed, with the inner axis last. ``linear_int8`` and, in bf16,
``linear_fp8`` transpose them in every call, unless ``codes.T`` is contiguous already: weights that are used many times
are best given as ``np.asfortranarray(codes)`` (CuPy has it too).
"""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float, Int8, Integer, UInt8

from ..backend import Array, array_module, is_cuda
from ..checks import check_array, check_float, check_shape, is_whole
from ..device import contiguous, device_of, in_order
from . import numpy_products, reference
from .formats import FORMS, LARGEST, check_form, decode, encode

__all__ = [
    "FORMS",
    "LARGEST",
    "decode",
    "dequantize",
    "encode",
    "linear_fp8",
    "linear_int8",
    "linear_weight_only",
    "quantize",
]

MOST_TERMS = (2**31 - 1) // 128**2  # products of two int8 numbers that a sum of 32 bits can hold


def quantize(
    x: Float[Array, "m n"], *, axis: int, form: str = "int8"
) -> tuple[Integer[Array, "m n"], Float[Array, " channels"]]:
    """(codes, scale): ``axis`` is that of the channels, 0 a scale for each row, 1 a scale for each column.

    Codes are int8, or uint8 bit patterns for fp8. Raises TypeError unless ``x`` is float32, ValueError for shapes,
    ``axis`` and ``form``.
    """
    check_float("x", x, 2)
    if x.dtype.char != "f":
        raise TypeError(f"x must be float32, got {x.dtype}")
    _check_axis(axis)
    check_form(form)
    if (device := device_of(x)) is not None:
        from . import cuda

        return cuda.quantize(device, contiguous(x), axis=axis, form=form)
    return reference.quantize(x, axis, form)


def dequantize(
    codes: Integer[Array, "m n"], scale: Float[Array, " channels"], *, axis: int, form: str = "int8"
) -> Float[Array, "m n"]:
    """Each code's value times the scale of its channel, float32. Arguments as ``quantize`` takes and gives them."""
    check_form(form)
    _check_axis(axis)
    _check_codes("codes", codes, form)
    _check_scale("scale", scale, codes.shape[axis], f"one scale along axis {axis} of codes")
    array_module(codes, scale)
    if (device := device_of(codes, scale)) is not None:
        from . import cuda

        return cuda.dequantize(device, contiguous(codes), contiguous(scale), axis=axis, form=form)
    return reference.dequantize(codes, scale, axis, form)


def linear_weight_only(
    x: Float[Array, "m k"], codes: Int8[Array, "k n"], scale: Float[Array, " n"], bias: Float[Array, " n"] | None = None
) -> Float[Array, "m n"]:
    r"""$y_{ij} = s_j \sum_l x_{il}\, q_{lj} + b_j$, float32: the weights are ``quantize(w, axis=1)``."""
    check_float("x", x, 2)
    if x.dtype.char != "f":
        raise TypeError(f"x must be float32, got {x.dtype}")
    _check_weights(x, codes, scale, bias)
    if (device := device_of(x, codes, scale, bias)) is not None:
        from . import cuda

        x, codes, scale, bias = (contiguous(a) for a in (x, codes, scale, bias))
        return cuda.linear_weight_only(device, x, codes, scale, bias, rung=cuda.best_rung(device, weight_only=True))
    return (reference if is_cuda(x) else numpy_products).linear_weight_only(x, codes, scale, bias)


def linear_int8(
    x_codes: Int8[Array, "m k"],
    x_scale: Float[Array, " m"],
    codes: Int8[Array, "k n"],
    scale: Float[Array, " n"],
    bias: Float[Array, " n"] | None = None,
) -> Float[Array, "m n"]:
    r"""$y_{ij} = (\sum_l p_{il}\, q_{lj})\; t_i\, s_j + b_j$, float32, with the sum exact: x is ``quantize(x, axis=0)``.

    Raises ValueError for k above 131,071, from which on a sum might not fit into 32 bits.
    """
    _check_codes("x_codes", x_codes, "int8")
    _check_weights(x_codes, codes, scale, bias)
    _check_scale("x_scale", x_scale, x_codes.shape[0], "one scale per row of x_codes")
    array_module(x_codes, x_scale)
    if codes.shape[0] > MOST_TERMS:
        raise ValueError(f"a sum of int8 products has at most {MOST_TERMS} terms in 32 bits, got k = {codes.shape[0]}")
    if (device := device_of(codes, x_codes, x_scale, scale, bias)) is not None:
        from . import cuda

        arrays = _in_order(x_codes, x_scale, codes, scale, bias)
        return cuda.linear_int8(device, *arrays, rung=cuda.best_rung(device, weight_only=False))
    return (reference if is_cuda(codes) else numpy_products).linear_int8(x_codes, x_scale, codes, scale, bias)


def linear_fp8(
    x_codes: UInt8[Array, "m k"],
    x_scale: Float[Array, " m"],
    codes: UInt8[Array, "k n"],
    scale: Float[Array, " n"],
    bias: Float[Array, " n"] | None = None,
    *,
    x_form: str = "e4m3",
    form: str = "e4m3",
) -> Float[Array, "m n"]:
    r"""$y_{ij} = (\sum_l p_{il}\, q_{lj})\; t_i\, s_j + b_j$, float32; p and q are the values of codes, x is ``quantize(x, axis=0)``.

    The formats are "e4m3" or "e5m2". Micikevicius et al. (2022, section 3) take e4m3 for weights and activations, and
    e5m2 for gradients. Raises TypeError and ValueError as the others do.
    """
    check_form(x_form, FORMS[1:], "x_form")
    check_form(form, FORMS[1:])
    _check_codes("x_codes", x_codes, x_form)
    _check_weights(x_codes, codes, scale, bias, form)
    _check_scale("x_scale", x_scale, x_codes.shape[0], "one scale per row of x_codes")
    array_module(x_codes, x_scale)
    forms = {"x_form": x_form, "form": form}
    if (device := device_of(codes, x_codes, x_scale, scale, bias)) is not None:
        from . import cuda

        arrays = _in_order(x_codes, x_scale, codes, scale, bias)
        return cuda.linear_fp8(device, *arrays, **forms, rung=cuda.fp8_rung(device))
    return (reference if is_cuda(codes) else numpy_products).linear_fp8(x_codes, x_scale, codes, scale, bias, **forms)


def _check_axis(axis: int) -> None:
    if not (is_whole(axis) and axis in (0, 1)):
        raise ValueError(f"axis must be 0 (a scale for each row) or 1 (for each column), got {axis!r}")


def _in_order(x_codes: Any, x_scale: Any, codes: Any, scale: Any, bias: Any) -> Iterator[Any]:
    """The arrays as kernels need them; the transpose of an array of codes may be one."""
    for a in (x_codes, x_scale, codes, scale, bias):
        yield a if a is codes and in_order(codes.T) else contiguous(a)


def _check_codes(name: str, codes: Any, form: str) -> None:
    check_array(name, codes)
    dtype = "int8" if form == "int8" else "uint8"
    if codes.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} for the form {form!r}, got {codes.dtype}")
    if codes.ndim != 2:
        raise ValueError(f"{name} must have 2 axes, got shape {tuple(codes.shape)}")


def _check_scale(name: str, scale: Any, count: int, why: str) -> None:
    check_float(name, scale, 1)
    if scale.dtype.char != "f":
        raise TypeError(f"{name} must be float32, got {scale.dtype}")
    check_shape(name, scale, (count,), why)


def _check_weights(x: Any, codes: Any, scale: Any, bias: Any, form: str = "int8") -> None:
    _check_codes("codes", codes, form)
    if codes.shape[0] != x.shape[1]:
        raise ValueError(f"codes must have {x.shape[1]} rows as x has columns, got shape {tuple(codes.shape)}")
    _check_scale("scale", scale, codes.shape[1], "one scale per column of codes")
    if bias is not None:
        _check_scale("bias", bias, codes.shape[1], "one number per column of codes")
    array_module(*(a for a in (x, codes, scale, bias) if a is not None))
