"""The ring of Gaussians: its density integrates to 1, and its sampler follows it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kernels.compare import assert_close
from minigen.data import load
from minigen.data.rings import Rings

ALPHA = 1e-6


@pytest.mark.parametrize("density", [Rings(), Rings(k=1, radius=0.0, sd=0.3), Rings(k=5, radius=0.5, sd=0.1)])
def test_density_integrates_to_one(density):
    # The trapezoidal rule on the plane is exact to rounding for Gaussians sampled at half a standard deviation.
    half = density.radius + 9 * density.sd
    axis = np.arange(-half, half, density.sd / 2)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.exp(density.log_density(grid)).sum() * (density.sd / 2) ** 2
    assert_close(total, 1.0, 1e-8)


def test_log_density_is_the_mixture_of_scipy_normals():
    density = Rings(k=3, radius=0.4, sd=0.2)
    x = np.random.default_rng(0).standard_normal((50, 2))
    normals = [stats.multivariate_normal(c, density.sd**2).pdf(x) for c in density.centres]
    assert_close(density.log_density(x), np.log(np.mean(normals, axis=0)), 1e-12)


def test_log_density_far_away_does_not_underflow():
    x = np.array([[40.0, -30.0]])
    got = Rings().log_density(x)
    nearest = np.square(x - Rings().centres).sum(1).min() / (2 * 0.05**2)
    assert np.isfinite(got[0]) and got[0] < -nearest * 0.99


@given(k=st.integers(1, 12), seed=st.integers(0, 99))
def test_modes_are_numbered_counter_clockwise(k, seed):
    density = Rings(k=k, radius=1.0, sd=0.01)
    turn = np.random.default_rng(seed).integers(0, k)
    angle = 2 * np.pi * turn / k + 0.1 / k
    assert density.modes(np.array([[np.cos(angle), np.sin(angle)]])).tolist() == [turn]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_sampler_follows_the_density(seed):
    # n = 20,000: sees a mode's share off by 0.012, a mean by 0.0055 sd per mode-free axis, a variance by 4 %.
    density, n = Rings(k=8, radius=0.75, sd=0.05), 20_000
    x, mode = density.sample(n, rng=np.random.default_rng(seed))
    assert x.dtype == np.float32 and mode.dtype == np.int64
    assert stats.chisquare(np.bincount(mode, minlength=8)).pvalue > ALPHA
    z = (x.astype(np.float64) - density.centres[mode]) / density.sd
    for axis in range(2):
        assert stats.kstest(z[:, axis], "norm").pvalue > ALPHA
    assert abs(stats.pearsonr(z[:, 0], z[:, 1]).statistic) < 4.9 / np.sqrt(n)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_mean_log_density_is_minus_the_entropy(seed):
    # Modes 11.5 sd apart do not overlap: entropy = log k + log(2 pi e sd^2); the variance of -log p is then 1.
    density, n = Rings(), 20_000
    x, _ = density.sample(n, rng=np.random.default_rng(seed))
    entropy = np.log(density.k) + np.log(2 * np.pi * np.e * density.sd**2)
    assert abs(density.log_density(x).mean() + entropy) < 4.9 / np.sqrt(n)


def test_the_data_set():
    d = load("rings")
    assert (d.name, d.levels, d.shape, len(d.classes)) == ("rings", None, (2,), 8)
    assert [len(s) for s in (d.train, d.val, d.test)] == [8000, 1000, 1000]
    assert np.mean(Rings().modes(d.train.images) == d.train.labels) == 1.0
    rng = np.random.default_rng(0)  # one after the other from a fixed stream, so that none holds what another does
    for split in (d.train, d.val, d.test):
        points, modes = Rings().sample(len(split), rng=rng)
        assert np.array_equal(split.images, points) and np.array_equal(split.labels, modes)


def test_bad_rings_are_refused():
    with pytest.raises(ValueError, match="k must be at least 1"):
        Rings(k=0)
    with pytest.raises(ValueError, match="sd above 0"):
        Rings(sd=0.0)


def test_an_empty_sample():
    x, mode = Rings().sample(0, rng=np.random.default_rng(0))
    assert x.shape == (0, 2) and Rings().log_density(x).shape == mode.shape == (0,)
