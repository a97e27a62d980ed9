r"""The Fréchet distance between Gaussians fitted to two clouds of features.

$$ d^2 = |\mu_1 - \mu_2|^2 + \operatorname{tr} \Sigma_1 + \operatorname{tr} \Sigma_2
       - 2 \operatorname{tr} (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2} $$

Sources: Dowson & Landau 1982, The Fréchet distance between multivariate normal distributions, equation 4; used for
generated images by Heusel et al. 2017 (arXiv 1706.08500, "FID", with features of another network than ours).

**Finite samples.** The distance between *fitted* Gaussians is biased upwards: two clouds from one distribution do not
give 0. With the eigenvalues $\lambda_i$ of the common $\Sigma$ and clouds of $n$ and $m$ Gaussian vectors, the leading
term is

$$ \left(\tfrac1n + \tfrac1m\right) \left( \tfrac54 \sum_i \lambda_i
       + \tfrac12 \sum_{i,j} \frac{\lambda_i \lambda_j}{\lambda_i + \lambda_j} \right), $$

4/5 of the first sum from the means and all else from the covariances (second order of the Bures metric,
$d^2(\Sigma, \Sigma + E) \approx \tfrac12 \sum_{ij} E_{ij}^2 / (\lambda_i + \lambda_j)$, with
$\mathbb{E} E_{ij}^2 = (1 + \delta_{ij}) \lambda_i \lambda_j / n$). So compare only distances of equal sample sizes, in
the same features, and give them as a ratio to the distance between real splits of the same sizes.

**Two sizes** show that bias without a formula. It is linear in $1/n$ and $1/m$, so halving both clouds doubles it, and

$$ d_\infty^2 = 2 d_{n,m}^2 - d_{n/2,m/2}^2 $$

is the straight line's value at infinitely many samples (Chong & Forsyth 2020, arXiv 1911.07023, who fit the line
through more sizes of the generated cloud alone). What is left is of order $1/n^2$, for Gaussians; halves should have
several times more rows than there are features.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kernels.backend import Array
from kernels.threads import map_tiles
from minigen.metrics.checks import check_rows


def gaussian_fit(features: Float[Array, "n d"]) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Mean and (unbiased) covariance of the rows, float64. Raises ValueError for fewer than two rows, and NaN."""
    check_rows("features", features, least=2, because="to have a covariance")
    x = features.astype(np.float64)
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def gaussian_distance(
    mean_1: Float[Array, " d"], cov_1: Float[Array, "d d"], mean_2: Float[Array, " d"], cov_2: Float[Array, "d d"]
) -> float:
    r"""$d^2$ of the module's first equation, exact up to rounding and never negative.

    The trace of the root is the sum of the singular values of $\Sigma_1^{1/2} \Sigma_2^{1/2}$: these are the roots of
    the eigenvalues of $\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2}$ without a square in between (which would halve the
    digits of small ones), they exist for singular covariances, and swapping the arguments transposes the matrix.
    """
    [overlap] = map_tiles(_overlap, [(cov_1, cov_2)])  # a tile limits BLAS to one thread: more would only wait
    distance = np.square(mean_1 - mean_2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * overlap
    return max(float(distance), 0.0)


def frechet_distance(features_1: Float[Array, "n d"], features_2: Float[Array, "m d"]) -> float:
    """The distance between the Gaussians fitted to two clouds. Symmetric up to rounding; see the module on its bias."""
    return gaussian_distance(*gaussian_fit(features_1), *gaussian_fit(features_2))


@dataclass(frozen=True)
class TwoSizes:
    """The distance of the whole clouds, and the mean of the two distances between their halves."""

    full: float
    half: float

    @property
    def infinite(self) -> float:
        r"""$2 d_{n,m}^2 - d_{n/2,m/2}^2$. Falls on both sides of 0 for clouds from one distribution."""
        return 2 * self.full - self.half


def frechet_at_two_sizes(
    features_1: Float[Array, "n d"], features_2: Float[Array, "m d"], *, rng: np.random.Generator
) -> TwoSizes:
    """The distance at (n, m) and at half of both, after ``rng.permutation(n)`` and ``rng.permutation(m)``.

    Without them, the halves of rows sorted by class would hold different classes. An odd row is left out of the
    halves. Raises ValueError for fewer than 4 rows.
    """
    for name, x in (("features_1", features_1), ("features_2", features_2)):
        check_rows(name, x, least=4, because="for two halves with a covariance each")
    (a, b), (c, d) = (_halves(rng.permutation(x)) for x in (features_1, features_2))
    half = (frechet_distance(a, c) + frechet_distance(b, d)) / 2
    return TwoSizes(full=frechet_distance(features_1, features_2), half=half)


def _halves(x: Array) -> tuple[Array, Array]:
    middle = len(x) // 2
    return x[:middle], x[middle : 2 * middle]


def expected_bias(cov: Float[Array, "d d"], n: int, m: int) -> float:
    """The expected distance of two Gaussian clouds of ``n`` and ``m`` rows with one covariance (leading order)."""
    values = _eigenvalues(cov)[0]
    pairs = np.add.outer(values, values)
    ratio = np.divide(np.multiply.outer(values, values), pairs, out=np.zeros_like(pairs), where=pairs > 0)
    return float((1 / n + 1 / m) * (1.25 * values.sum() + 0.5 * ratio.sum()))


def _overlap(covs: tuple[Array, Array]) -> float:
    r"""$\operatorname{tr} (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}$."""
    return float(np.linalg.svd(_root(covs[0]) @ _root(covs[1]), compute_uv=False).sum())


def _eigenvalues(cov: Array) -> tuple[Array, Array]:
    """Eigenvalues (those that rounding made negative set to 0) and eigenvectors of a symmetric matrix, float64."""
    cov = cov.astype(np.float64)
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    return np.maximum(values, 0.0), vectors


def _root(cov: Array) -> Array:
    """The symmetric positive semidefinite square root."""
    values, vectors = _eigenvalues(cov)
    return (vectors * np.sqrt(values)) @ vectors.T
