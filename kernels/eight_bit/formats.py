r"""The two fp8 formats: what each of the 256 bit patterns is worth, and which one is nearest to a number.

A pattern is sign, exponent $e$, mantissa $m$ of M bits, and is worth $\pm (2^M + m)\, 2^{e - B - M}$, or
$\pm m\, 2^{1 - B - M}$ where $e = 0$. e4m3 has M = 3, B = 7, and NaN only as the pattern of ones; e5m2 has M = 2, B =
15 and is a short float16: its highest exponent is infinity and NaN (Micikevicius et al. 2022, arXiv 2209.05433, table
1).
"""

import functools
from typing import Any

import numpy as np

from ..backend import Array, array_module
from ..checks import check_array, check_float

FORMS = ("int8", "e4m3", "e5m2")
LARGEST = {"int8": 127.0, "e4m3": 448.0, "e5m2": 57344.0}
_MANTISSA = {"e4m3": (3, 7), "e5m2": (2, 15)}  # bits, and the exponent's bias
NAN = 0x7F


def check_form(form: str, allowed: tuple[str, ...] = FORMS, name: str = "form") -> None:
    """Raise ValueError, naming the forms, for another word."""
    if not (isinstance(form, str) and form in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {form!r}")


@functools.cache
def values(form: str) -> Any:
    """What the 256 patterns are worth: float64 (256,)."""
    bits, bias = _MANTISSA[form]
    code = np.arange(128)
    exponent, mantissa = code >> bits, code & (1 << bits) - 1
    worth = np.where(exponent > 0, mantissa + (1 << bits), mantissa) * 2.0 ** (np.maximum(exponent, 1) - bias - bits)
    if form == "e4m3":
        worth[NAN] = np.nan
    else:
        worth[exponent == 31] = np.where(mantissa[exponent == 31] == 0, np.inf, np.nan)
    return np.concatenate([worth, -worth])


def decode(codes: Array, form: str) -> Array:
    """The values of uint8 ``codes`` as float32, each exact."""
    check_form(form, FORMS[1:])
    check_array("codes", codes)
    if codes.dtype != "uint8":
        raise TypeError(f"codes must be uint8, got {codes.dtype}")
    xp = array_module(codes)
    return xp.asarray(values(form), xp.float32)[codes]


def encode(x: Array, form: str) -> Array:
    """The nearest pattern to each float32 number, ties to even; the largest for numbers beyond it, 0x7f for NaN."""
    check_form(form, FORMS[1:])
    check_float("x", x)
    xp = array_module(x)
    finite = values(form)[:128]
    finite = finite[np.isfinite(finite)]
    between = xp.asarray((finite[1:] + finite[:-1]) / 2)  # exact: one bit more
    size = xp.abs(x).astype(xp.float64)
    code = xp.searchsorted(between, xp.where(xp.isnan(size), 0, size), side="left")
    tie = between[xp.minimum(code, len(between) - 1)] == size
    code = code + (tie & (code % 2 == 1))  # the search took the lower one
    signed = xp.minimum(code, len(finite) - 1) + 128 * xp.signbit(x)
    return xp.where(xp.isnan(x), NAN, signed).astype(xp.uint8)
