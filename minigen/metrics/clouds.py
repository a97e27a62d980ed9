r"""Fidelity and diversity apart: precision and recall, density and coverage of two clouds of points.

Real points $X_1 \dots X_N$, generated points $Y_1 \dots Y_M$. $B(X_i)$ is the closed ball around $X_i$ that reaches to
the $k$-th nearest other point of its own cloud.

$$ \text{precision} = \frac1M \sum_j 1[Y_j \in \textstyle\bigcup_i B(X_i)] \qquad
   \text{recall} = \frac1N \sum_i 1[X_i \in \textstyle\bigcup_j B(Y_j)] $$

(Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.) Read the pair: a model that draws one perfect image
has precision 1 and recall near 0, and scattered noise, whose balls are large, has high recall.

$$ \text{density} = \frac{1}{kM} \sum_j \sum_i 1[Y_j \in B(X_i)] \qquad
   \text{coverage} = \frac1N \sum_i 1[\exists j: Y_j \in B(X_i)] $$

(Naeem et al. 2020, arXiv 2002.09797, equations 4 and 5.) Balls stand around real points only, so that scattered samples
gain nothing. Density counts how many balls a sample lies in, not whether it lies in any, and so may exceed 1.

**Known answers.** When both clouds are drawn from one continuous distribution, ranks alone decide: density has mean 1
(among $Y_j$ and the $N - 1$ other real points, $Y_j$ is one of the $k$ nearest to $X_i$ with probability $k / N$), and
coverage has the mean of ``expected_coverage``. Precision and recall have no such value: it depends on the dimension.

**Which space.** In pixels noise is far from digits. In a network's raw features it is not: their lengths differ, and
a few long vectors have large balls. ``normalised`` features keep the direction only.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kernels.backend import Array
from minigen.metrics.checks import check_rows
from minigen.metrics.neighbours import blocks, nearest

SLACK = 1e-12  # of |x|^2 + |y|^2, for the rounding of |x - y|^2, so that a point on a sphere counts as inside


@dataclass(frozen=True)
class Overlap:
    """The module's four figures."""

    precision: float
    recall: float
    density: float
    coverage: float


def overlap(real: Float[Array, "n d"], fake: Float[Array, "m d"], *, k: int = 3) -> Overlap:
    """All four figures from one pass over the distances between the clouds, in blocks.

    Raises ValueError where a cloud has no more than ``k`` points, or NaN.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for name, cloud in (("real", real), ("fake", fake)):
        check_rows(name, cloud, least=k + 1, because=f"to have k = {k} neighbours each")
    centre = np.median(real.astype(np.float64), axis=0)
    real, fake = real - centre, fake - centre  # small norms, small rounding; a far outlier does not move the median
    real_reach, fake_reach = (np.square(nearest(x, x, k=k, same=True)[0][:, -1]) for x in (real, fake))
    real_norm, fake_norm = (np.square(x).sum(axis=1) for x in (real, fake))
    precise, pairs = 0, 0
    covered, recalled = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows in blocks(len(fake), len(real)):
        d2 = fake[rows] @ real.T  # (rows of the block, n)
        d2 *= -2.0
        d2 += (1 - SLACK) * real_norm
        d2 += (1 - SLACK) * fake_norm[rows, None]
        inside = d2 <= real_reach  # Y_j in B(X_i)
        precise += int(inside.any(axis=1).sum())
        pairs += int(inside.sum())
        covered |= inside.any(axis=0)
        recalled |= (d2 <= fake_reach[rows, None]).any(axis=0)  # X_i in B(Y_j)
    return Overlap(
        precision=precise / len(fake),
        recall=float(recalled.mean()),
        density=pairs / (k * len(fake)),
        coverage=float(covered.mean()),
    )


def expected_coverage(real: int, fake: int, k: int) -> float:
    r"""$1 - \prod_{i=1}^{k} \frac{N - i}{M + N - i}$: the mean coverage of two clouds of one continuous distribution.

    A ball is empty when the $k$ nearest of its centre's $M + N - 1$ neighbours are all real (Naeem et al. 2020,
    who choose ``k`` by it).
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((real - i) / (fake + real - i)))


def normalised(features: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows divided by their Euclidean length, float64; a row of zeros stays."""
    x = features.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)
