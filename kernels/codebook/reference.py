r"""The moving average by definition, any float dtype, NumPy or CuPy."""

from ..backend import Array, array_module


def codebook_ema(N: Array, m: Array, e: Array, z: Array, codes: Array, gamma: float) -> tuple[Array, Array, Array]:
    """Counts and sums from a table of zeros and ones."""
    xp = array_module(N, m, e, z, codes)
    chosen = (codes[:, None] == xp.arange(len(e))).astype(z.dtype)
    return averaged(N, m, e, chosen.sum(axis=0), chosen.T @ z, gamma)


def averaged(N: Array, m: Array, e: Array, n: Array, total: Array, gamma: float) -> tuple[Array, Array, Array]:
    r"""Eq. 6 to 8 from the counts ``n`` (k,) and the sums ``total`` (k, d) of a batch."""
    xp = array_module(N, m, e)
    N, m = gamma * N + (1 - gamma) * n.astype(N.dtype), gamma * m + (1 - gamma) * total
    used = (n > 0)[:, None]
    return N, m, xp.where(used, m / xp.where(used, N[:, None], 1), e)
