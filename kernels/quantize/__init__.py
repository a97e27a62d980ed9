r"""Vector quantization: the nearest code of a codebook, $\arg\min_k \sum_j (z_j - c_{kj})^2$, and what follows from it."""

from typing import NamedTuple

from jaxtyping import Float, Int

from ..backend import Array, is_cuda
from ..checks import check_float, check_same
from ..device import contiguous, device_of
from . import numpy_bounds, reference

__all__ = ["Quantized", "nearest_code", "quantize"]


class Quantized(NamedTuple):
    r"""The choice for m rows of d numbers among k codes: $z_q$ and the sums of the last two terms of a VQ-VAE's loss."""

    indices: Int[Array, " m"]
    """$k_i$, what `nearest_code` gives; int64."""
    e: Float[Array, "m d"]
    """$e_i = c_{k_i}$."""
    errors: Float[Array, " m"]
    r"""$\sum_j (z_{ij} - e_{ij})^2$, in the dtype of z."""
    counts: Int[Array, " k"]
    """How often each code was chosen; int64."""


def quantize(z: Float[Array, "m d"], codebook: Float[Array, "k d"]) -> Quantized:
    """The nearest code of each row of z with its vector, its squared distance and the codes' usage (van den Oord et al.
    2017, arXiv 1711.00937, eq. 1 to 3). On a device the latter three are one pass over z, and the same bits each time.

    Raises what `nearest_code` raises.
    """
    _check(z, codebook)
    if (device := device_of(z, codebook)) is not None:
        from . import cuda

        z, codebook = contiguous(z), contiguous(codebook)
        indices = _nearest(z, codebook)
        return Quantized(indices, *cuda.gather(device, z, codebook, indices))
    indices = _nearest(z, codebook)
    return Quantized(indices, *reference.gather(z, codebook, indices))


def nearest_code(z: Float[Array, "m d"], codebook: Float[Array, "k d"]) -> Int[Array, " m"]:
    r"""$\arg\min_k \sum_j (z_j - c_{kj})^2$ for each row of z (m, d) and codebook (k, d) -> int64 (m,).

    (van den Oord et al. 2017, arXiv 1711.00937, eq. 1.) Exactly what ``argmin`` gives for the distances with the
    differences taken and summed in float64: right far from the origin, the lowest index on ties, and the first NaN
    where a distance is NaN. (Where only the last bits of float64 tell two codes apart, NumPy's order of summing may
    decide otherwise than the kernels', which all have one.) Raises TypeError for other dtypes than float32 and float64,
    ValueError for shapes that do not fit and for an empty codebook.
    """
    _check(z, codebook)
    return _nearest(z, codebook)


def _nearest(z: Array, codebook: Array) -> Array:
    if (device := device_of(z, codebook)) is not None:
        from . import cuda

        rung = cuda.best_rung(device, z.shape[1])
        return cuda.nearest_code(device, contiguous(z), contiguous(codebook), rung=rung)
    return (reference if is_cuda(z) else numpy_bounds).nearest_code(z, codebook)


def _check(z: Array, codebook: Array) -> None:
    check_float("z", z, 2)
    check_float("codebook", codebook, 2)
    check_same("z, codebook", z, codebook)
    if codebook.shape[1] != z.shape[1]:
        raise ValueError(f"codebook must have rows of length {z.shape[1]} as z has, got shape {codebook.shape}")
    if codebook.shape[0] == 0:
        raise ValueError(f"codebook must hold at least one code, got shape {codebook.shape}")
