r"""The nearest code as it is defined: every distance from differences in float64."""

from ..backend import Array, array_module

CHUNK = 1 << 21  # differences held at once


def squared_distances(z: Array, codes: Array) -> Array:
    r"""$\sum_j (z_j - c_j)^2$ over the last axis, with the differences taken and summed in float64."""
    xp = array_module(z, codes)
    difference = xp.ascontiguousarray(z.astype(xp.float64) - codes.astype(xp.float64))
    return (difference * difference).sum(axis=-1)


def gather(z: Array, codebook: Array, indices: Array) -> tuple[Array, Array, Array]:
    r"""$e_i = c_{k_i}$ (m, d), $\sum_j (z_{ij} - e_{ij})^2$ (m,), and how often each code stands in ``indices`` (k,)."""
    xp = array_module(z, codebook)
    e = codebook[indices]
    d = z - e
    return e, (d * d).sum(axis=-1), xp.bincount(indices, minlength=len(codebook))


def nearest_code(z: Array, codebook: Array) -> Array:
    r"""$\arg\min_k \sum_j (z_j - c_{kj})^2$ for each row of z (m, d), codebook (k, d) -> int64 (m,).

    As ``argmin`` has it: the lowest index on ties, and the first NaN where a distance is NaN.
    """
    xp = array_module(z, codebook)
    indices = xp.zeros(z.shape[0], xp.int64)
    rows = max(1, CHUNK // max(1, codebook.size))
    for i in range(0, z.shape[0], rows):
        indices[i : i + rows] = squared_distances(z[i : i + rows, None, :], codebook[None]).argmin(axis=1)
    return indices
