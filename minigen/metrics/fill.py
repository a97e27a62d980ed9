r"""Hidden pixels filled in without a network: by the training mean, and by the best linear guess from what is visible.

For a Gaussian $N(m, S)$ whose visible part is $v$ and whose hidden part is $u$,

$$ \mathbb E[x_u \mid x_v] = m_u + S_{uv} S_{vv}^{-1} (x_v - m_v), $$

and whatever the distribution is, no other affine function of $x_v$ has a smaller mean squared error. A small multiple
of the identity (``ridge``) is added to $S$, so that pixels that never vary cause no division by zero and a covariance
of few images is not trusted in its smallest directions.
"""

import numpy as np
from jaxtyping import Bool, Float

from kernels.backend import Array
from kernels.threads import map_tiles

RIDGE = 0.05  # as a share of the pixels' mean variance
FLOOR = 1e-100  # the least that is added, for when nothing varies at all: negligible beside any variance


def mean_fill(x: Float[Array, "n d"], visible: Bool[Array, "n d"], mean: Float[Array, " d"]) -> Float[Array, "n d"]:
    """Hidden pixels at their mean, visible ones as they were."""
    return np.where(visible, x, mean)


def linear_fill(
    x: Float[Array, "n d"],
    visible: Bool[Array, "n d"],
    mean: Float[Array, " d"],
    cov: Float[Array, "d d"],
    *,
    ridge: float = RIDGE,
) -> Float[Array, "n d"]:
    """Hidden pixels at their best linear guess (see the module), visible ones as they were.

    One system of equations per image, of the size of its visible part: no array is larger than ``cov``. ``ridge`` is a
    share of the mean of ``cov``'s diagonal. Raises ValueError for a negative one.
    """
    if not ridge >= 0:
        raise ValueError(f"ridge must be at least 0, got {ridge}")
    extra = max(ridge * float(np.trace(cov)) / len(cov), FLOOR)
    filled, cov = np.array(x, np.float64), np.asarray(cov, np.float64)

    def fill(i: int) -> None:
        row, seen = filled[i], visible[i]
        S_vv = cov[np.ix_(seen, seen)]
        S_vv[np.diag_indices_from(S_vv)] += extra
        row[~seen] = mean[~seen] + cov[np.ix_(~seen, seen)] @ np.linalg.solve(S_vv, row[seen] - mean[seen])

    map_tiles(fill, range(len(x)))
    return filled
