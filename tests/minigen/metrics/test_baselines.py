"""The baselines draw valid levels with the statistics that they promise, from ``rng`` alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compare import assert_close
from minigen.data import load
from minigen.metrics.baselines import class_noise, gaussian_mixture, pixel_noise, principal_axes


@given(n=st.integers(1, 6), count=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
def test_every_pixel_of_the_noise_occurs_at_its_place(n, count, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, 3, 2, 2)).astype(np.uint8)
    drawn = pixel_noise(images, count, rng=np.random.default_rng(seed))
    assert drawn.shape == (count, 3, 2, 2) and drawn.dtype == np.uint8
    assert np.all((drawn[:, None] == images[None]).any(axis=1))


@given(n=st.integers(1, 12), count=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
def test_class_noise_keeps_to_one_class(n, count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = (10 * labels[:, None, None, None] + rng.integers(0, 10, (n, 4, 1, 1))).astype(np.uint8)
    drawn = class_noise(images, labels, count, rng=rng)
    classes = drawn.reshape(count, 4) // 10
    assert drawn.shape == (count, 4, 1, 1) and np.all(classes == classes[:, :1])
    assert set(np.unique(classes)) <= set(labels)
    for image, label in zip(drawn, classes[:, 0]):
        assert np.all((image == images[labels == label]).any(axis=0))


def test_noise_has_the_marginals_but_not_the_correlations():
    # 4,000 draws: a pixel's mean has a standard error of 0.016 of its standard deviation.
    d = load("digits")
    images = d.train.images
    drawn = pixel_noise(images, 4000, rng=np.random.default_rng(0)).reshape(4000, 64).astype(float)
    real = images.reshape(1000, 64).astype(float)
    assert np.all(np.abs(drawn.mean(0) - real.mean(0)) <= 4.9 * real.std(0) / np.sqrt(4000))
    live = real.std(0) > 1
    strongest = np.abs(np.corrcoef(real[:, live].T) - np.eye(live.sum())).max()
    assert strongest > 0.5
    assert np.abs(np.corrcoef(drawn[:, live].T) - np.eye(live.sum())).max() < 6 / np.sqrt(4000)


def test_class_noise_draws_classes_by_their_frequency():
    images = np.repeat(np.array([1, 2], np.uint8), [30, 10])[:, None, None, None]
    drawn = class_noise(images, np.repeat([0, 1], [30, 10]), 4000, rng=np.random.default_rng(0))
    assert abs((drawn == 1).mean() - 0.75) < 4.9 * np.sqrt(0.75 * 0.25 / 4000)


def test_class_noise_draws_all_images_of_a_class_alike():
    """Also the first and the last of one, and the only one of the other."""
    images = np.array([10, 20, 30, 40], np.uint8)[:, None, None, None]
    drawn = class_noise(images, np.array([1, 0, 1, 1]), 4000, rng=np.random.default_rng(0))
    values, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(values, [10, 20, 30, 40])
    assert np.abs(counts / 4000 - 0.25).max() < 4.9 * np.sqrt(0.75 * 0.25 / 4000)


def test_gaussian_mixture_draws_levels_with_the_data_mean_and_covariance():
    d = load("digits")
    images = d.train.images
    drawn = gaussian_mixture(images, 512, levels=17, rng=np.random.default_rng(0))
    assert drawn.shape == (512, 8, 8, 1) and drawn.dtype == np.uint8 and drawn.max() <= 16
    real, fake = images.reshape(1000, 64).astype(float), drawn.reshape(512, 64).astype(float)
    live = real.std(0) > 1  # clipping at 0 moves the mean of the others most
    assert np.abs(real.mean(0) - fake.mean(0)).max() < 1.0  # levels
    agreement = np.corrcoef(np.cov(real[:, live].T).ravel(), np.cov(fake[:, live].T).ravel())[0, 1]
    assert agreement > 0.97


def test_gaussian_mixture_finds_separate_clouds():
    rng = np.random.default_rng(1)
    centres = np.array([[20, 200, 20, 20], [200, 20, 200, 20], [20, 20, 200, 200]])
    which = rng.integers(0, 3, 600)
    images = np.clip(centres[which] + 5 * rng.standard_normal((600, 4)), 0, 255).astype(np.uint8).reshape(600, 2, 2, 1)
    drawn = gaussian_mixture(images, 300, levels=256, rng=rng, k=3).reshape(300, 4).astype(float)
    distance = np.sqrt(np.square(drawn[:, None] - centres).sum(-1)).min(axis=1)
    assert distance.max() < 5 * 6  # standard deviations from the nearest of the three centres


@pytest.mark.parametrize("contrast", [50, 100])
def test_gaussian_mixture_adds_a_thousandth_of_the_mean_variance(contrast):
    """Two pictures, over and over, have no variance of their own: that of a drawn pixel is what is added, and 1/12 from
    rounding.
    """
    images = (140 + contrast * np.resize([-1, 1], (64, 1, 1, 1)) * np.ones((1, 4, 4, 1))).astype(np.uint8)
    drawn = gaussian_mixture(images, 500, levels=256, rng=np.random.default_rng(0), k=2).astype(float)
    off = abs(drawn - 140) - contrast
    assert np.square(off).mean() == pytest.approx(contrast**2 / 1000 + 1 / 12, rel=0.1)


@pytest.mark.parametrize("name", ["pixel", "class", "mixture"])
def test_the_same_rng_gives_the_same_images(name):
    rng = np.random.default_rng(4)
    images, labels = rng.integers(0, 17, (80, 4, 4, 1)).astype(np.uint8), rng.integers(0, 3, 80)
    draw = {
        "pixel": lambda r: pixel_noise(images, 5, rng=r),
        "class": lambda r: class_noise(images, labels, 5, rng=r),
        "mixture": lambda r: gaussian_mixture(images, 5, levels=17, rng=r, k=2),
    }[name]
    first, again, other = (draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (5, 5), (1, 4)])
def test_principal_axes_span_the_largest_singular_directions(shape):
    x = np.random.default_rng(0).standard_normal(shape) * np.arange(1, shape[1] + 1)
    axes = principal_axes(x, 3)
    want = np.linalg.svd(x, full_matrices=False)[2][:3].T
    assert axes.shape == want.shape
    assert_close(axes.T @ axes, np.eye(axes.shape[1]), 1e-12)
    assert_close(axes @ axes.T, want @ want.T, 1e-9)  # the same plane, whatever its basis
