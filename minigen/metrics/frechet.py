r"""The Fréchet distance between Gaussians fitted to two clouds of features.

$$ d^2 = |\mu_1 - \mu_2|^2 + \operatorname{tr} \Sigma_1 + \operatorname{tr} \Sigma_2
       - 2 \operatorname{tr} (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2} $$

Sources: Dowson & Landau 1982, The Fréchet distance between multivariate normal distributions, equation 4; used for
generated images by Heusel et al. 2017 (arXiv 1706.08500, "FID", with features of another network than ours).

**Finite samples.** The distance between *fitted* Gaussians is biased upwards: two clouds of one distribution do not
give 0. With the eigenvalues $\lambda_i$ of the common $\Sigma$ and clouds of $n$ and $m$ Gaussian vectors, the leading
term is

$$ \left(\tfrac1n + \tfrac1m\right) \left( \tfrac54 \sum_i \lambda_i
       + \tfrac12 \sum_{i,j} \frac{\lambda_i \lambda_j}{\lambda_i + \lambda_j} \right), $$

the first 4/5 of the first sum from the means and all else from the covariances (second order of the Bures metric,
$d^2(\Sigma, \Sigma + E) \approx \tfrac12 \sum_{ij} E_{ij}^2 / (\lambda_i + \lambda_j)$, with
$\mathbb{E} E_{ij}^2 = (1 + \delta_{ij}) \lambda_i \lambda_j / n$). So compare only distances of equal sample sizes, in
the same features, and give them as a ratio to the distance between real splits of the same sizes.
"""

import numpy as np
from jaxtyping import Float

from kernels.backend import Array


def gaussian_fit(features: Float[Array, "n d"]) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Mean and (unbiased) covariance of the rows, float64. Raises ValueError for fewer than two rows."""
    if len(features) < 2:
        raise ValueError(f"features must have at least 2 rows to have a covariance, got {len(features)}")
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
    product = _root(cov_1) @ _root(cov_2)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    distance = np.square(mean_1 - mean_2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * overlap
    return max(float(distance), 0.0)


def frechet_distance(features_1: Float[Array, "n d"], features_2: Float[Array, "m d"]) -> float:
    """The distance between the Gaussians fitted to two clouds. Symmetric up to rounding; see the module on its bias."""
    return gaussian_distance(*gaussian_fit(features_1), *gaussian_fit(features_2))


def expected_bias(cov: Float[Array, "d d"], n: int, m: int) -> float:
    """What two Gaussian clouds of ``n`` and ``m`` rows with one covariance are expected to give (leading order)."""
    values = _eigenvalues(cov)[0]
    pairs = np.add.outer(values, values)
    ratio = np.divide(np.multiply.outer(values, values), pairs, out=np.zeros_like(pairs), where=pairs > 0)
    return float((1 / n + 1 / m) * (1.25 * values.sum() + 0.5 * ratio.sum()))


def _eigenvalues(cov: Array) -> tuple[Array, Array]:
    """Eigenvalues (those that rounding made negative set to 0) and eigenvectors of a symmetric matrix, float64."""
    cov = cov.astype(np.float64)
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    return np.maximum(values, 0.0), vectors


def _root(cov: Array) -> Array:
    """The symmetric positive semidefinite square root."""
    values, vectors = _eigenvalues(cov)
    return (vectors * np.sqrt(values)) @ vectors.T
