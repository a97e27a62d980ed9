r"""The linear layers on the CPU, by BLAS.

NumPy multiplies matrices of integers in a plain loop. Sums of at most $2^{31}$ in float64 are exact in whatever order
BLAS takes them, and so they are in float32 below $2^{24}$: as long as there are at most 1024 products.
"""

from typing import Any

import numpy as np

from . import formats, reference

EXACT_32 = 2**24 // 128**2  # products of two int8 numbers, added up exactly in float32


def linear_weight_only(x: Any, codes: Any, scale: Any, bias: Any) -> Any:
    """As the definition: a product in float32."""
    return reference.linear_weight_only(np.ascontiguousarray(x), codes, scale, bias)


def linear_int8(x_codes: Any, x_scale: Any, codes: Any, scale: Any, bias: Any) -> Any:
    """As the definition, with the sums by BLAS."""
    dtype = np.float32 if codes.shape[0] <= EXACT_32 else np.float64
    return reference.scaled(x_codes.astype(dtype) @ codes.astype(dtype), x_scale, scale, bias)


def linear_fp8(x_codes: Any, x_scale: Any, codes: Any, scale: Any, bias: Any, x_form: str, form: str) -> Any:
    """As the definition, with sums in float32 of products that are exact."""
    with np.errstate(all="ignore"):
        sums = formats.decode(x_codes, x_form) @ formats.decode(codes, form)
    return reference.scaled(sums, x_scale, scale, bias)
