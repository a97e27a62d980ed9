r"""The codebook of a VQ-VAE as a moving average of the vectors that chose its codes.

$$N_k \leftarrow \gamma N_k + (1 - \gamma)\, n_k, \qquad m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_{i:\, c_i = k} z_i, \qquad e_k \leftarrow m_k / N_k$$

with $n_k$ the number of vectors whose code $c_i$ is k (van den Oord et al. 2017, arXiv 1711.00937, eq. 6 to 8). A code
that nobody chose keeps its vector. Sums are taken in a fixed order, without atomics.
"""

from jaxtyping import Float, Integer

from ..backend import Array, array_module, is_cuda
from ..checks import check_float, check_index, check_same, check_shape, is_number
from ..device import contiguous, device_of
from . import numpy_sums, reference

__all__ = ["codebook_ema"]


def codebook_ema(
    N: Float[Array, " k"],
    m: Float[Array, "k d"],
    e: Float[Array, "k d"],
    z: Float[Array, "n d"],
    codes: Integer[Array, " n"],
    gamma: float,
) -> tuple[Float[Array, " k"], Float[Array, "k d"], Float[Array, "k d"]]:
    r"""The new N, m and e after ``codes`` were chosen for the rows of ``z``; nothing is changed in place.

    Raises TypeError for dtypes, ValueError for shapes, for a code outside of 0..k-1 and a ``gamma`` outside of [0, 1).
    """
    check_float("e", e, 2)
    check_float("z", z, 2)
    check_same("N, m, e, z", N, m, e, z)
    check_index("codes", codes, 1)
    array_module(z, codes)
    k, d = e.shape
    check_shape("N", N, (k,), "one count per code of e")
    check_shape("m", m, (k, d), "the shape of e")
    check_shape("z", z, (len(codes), d), "a row for each of codes, as long as those of e")
    if not (is_number(gamma) and 0 <= gamma < 1):
        raise ValueError(f"gamma must be in [0, 1), got {gamma!r}")
    gamma = float(gamma)  # a float64 of NumPy's would make the results float64
    if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= k):
        raise ValueError(f"codes must be from 0 to {k - 1}, got {int(codes.min())} to {int(codes.max())}")
    if d and (device := device_of(z)) is not None and max(len(codes), k) < 2**31:
        from . import cuda

        N, m, e, z, codes = (contiguous(x) for x in (N, m, e, z, codes.astype("int32")))
        return cuda.codebook_ema(device, N, m, e, z, codes, gamma)
    return (reference if is_cuda(z) else numpy_sums).codebook_ema(N, m, e, z, codes, gamma)
