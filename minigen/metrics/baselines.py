"""Generators without a network: what a score is worth shows only beside theirs.

In order of how much they know of the training images: each pixel's own histogram; each pixel's histogram within a
class; a mixture of Gaussians over whole images. All return valid grey levels and draw from ``rng`` alone.
"""

import warnings

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.linalg import eigh, qr

from kernels.backend import Array

FITTED = 2048  # images that the mixture is fitted to, at most
ROUNDS = 30  # of expectation maximisation, at most
COMPONENTS = 64  # the mixture lives in this many principal components (all of them for the 8x8 digits)
REGULAR = 1e-3  # added to the mixture's variances, as a share of the mean variance of a component


def pixel_noise(images: UInt8[Array, "n h w c"], count: int, *, rng: np.random.Generator) -> UInt8[Array, "m h w c"]:
    """``count`` images, each pixel of which comes from the same place in a randomly chosen one of ``images``."""
    flat = images.reshape(len(images), -1)
    source = rng.integers(0, len(flat), (count, flat.shape[1]))
    return flat[source, np.arange(flat.shape[1])].reshape(count, *images.shape[1:])


def class_noise(
    images: UInt8[Array, "n h w c"], labels: Int[Array, " n"], count: int, *, rng: np.random.Generator
) -> UInt8[Array, "m h w c"]:
    """Like ``pixel_noise``, but all pixels of one result come from images of one class (drawn by frequency)."""
    flat = images.reshape(len(images), -1)
    order = np.argsort(labels, kind="stable")
    classes, first, size = np.unique(labels[order], return_index=True, return_counts=True)
    drawn = rng.choice(len(classes), count, p=size / size.sum())
    u = rng.random((count, flat.shape[1]))
    within = np.minimum((u * size[drawn, None]).astype(np.int64), size[drawn, None] - 1)
    source = order[first[drawn, None] + within]  # (count, pixels)
    return flat[source, np.arange(flat.shape[1])].reshape(count, *images.shape[1:])


def gaussian_mixture(
    images: UInt8[Array, "n h w c"], count: int, *, levels: int, rng: np.random.Generator, k: int = 10
) -> UInt8[Array, "m h w c"]:
    """``count`` draws from a mixture of ``k`` full Gaussians fitted to ``images``, rounded and clipped to levels.

    Fitted by scikit-learn's expectation maximisation (imported here, it takes a second) to at most 2,048 images in
    their first 64 principal components; what lies outside of these stays at its mean.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    flat = images[:FITTED].reshape(len(images[:FITTED]), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    axes = principal_axes(flat - mean, COMPONENTS)  # (pixels, components)
    low = (flat - mean) @ axes
    seed = int(rng.integers(0, 2**31 - 1))
    model = GaussianMixture(k, reg_covar=REGULAR * low.var(axis=0).mean(), max_iter=ROUNDS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping there is the definition, not a failure
        model.fit(low)
    which = rng.choice(k, count, p=model.weights_ / model.weights_.sum())
    roots = np.linalg.cholesky(model.covariances_)  # (k, components, components)
    z = rng.standard_normal((count, low.shape[1]))
    drawn = model.means_[which] + np.einsum("nij,nj->ni", roots[which], z)
    pixels = np.rint(mean + drawn @ axes.T)
    return np.clip(pixels, 0, levels - 1).astype(np.uint8).reshape(count, *images.shape[1:])


def principal_axes(centred: Float[Array, "n d"], count: int) -> Float[Array, "d k"]:
    """Orthonormal directions of the largest variance, at most ``count``, from the smaller of the two Gram matrices."""
    n, d = centred.shape
    k = min(count, n, d)
    if d <= n:
        return eigh(centred.T @ centred, subset_by_index=[d - k, d - 1])[1]
    left = eigh(centred @ centred.T, subset_by_index=[n - k, n - 1])[1]
    return qr(centred.T @ left, mode="economic")[0]
