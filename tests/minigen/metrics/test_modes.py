"""Divergence of class histograms, and modes found on rings, where the answers are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compare import assert_close
from minigen.data.rings import Rings
from minigen.metrics.modes import histogram_kl, ring_modes

COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=8).filter(any).map(np.array)


@given(counts=COUNTS, times=st.integers(1, 9))
def test_kl_of_equal_shares_is_zero(counts, times):
    assert_close(histogram_kl(times * counts, counts), 0.0, 1e-12)


@given(k=st.integers(2, 9), data=st.data())
def test_kl_is_the_sum_of_its_definition(k, data):
    p = np.array(data.draw(st.lists(st.integers(0, 20), min_size=k, max_size=k).filter(any)))
    q = np.array(data.draw(st.lists(st.integers(1, 20), min_size=k, max_size=k)))
    terms = [a / p.sum() * np.log(a / p.sum() * q.sum() / b) for a, b in zip(p, q) if a]
    assert_close(histogram_kl(p, q), sum(terms), 1e-12)


def test_kl_in_this_direction_grades_collapse_and_is_infinite_only_where_the_reference_is_empty():
    uniform = np.full(8, 125)
    kept = [histogram_kl(np.where(np.arange(8) < j, 40, 0), uniform) for j in range(1, 9)]
    assert_close(kept, np.log(8 / np.arange(1, 9)), 1e-12)
    assert histogram_kl(np.array([1, 1, 1]), np.array([5, 5, 0])) == np.inf
    assert_close(histogram_kl(np.array([1, 1, 0]), np.array([5, 5, 0])), 0.0, 1e-12)


def test_kl_of_exact_samples_is_about_the_number_of_free_shares_over_2n():
    # 4,000 histograms of 500 samples: 2 n KL is chi-squared with 9 degrees of freedom up to order 1/n, so the mean's
    # standard error is 0.75 %, and an error of 5 % of the mean (a factor, or 10 instead of 9) is seen.
    share = np.arange(1, 11) / 55
    counts = np.random.default_rng(0).multinomial(500, share, size=4000)
    values = np.array([histogram_kl(c, np.arange(1, 11)) for c in counts]) * 2 * 500 / 9
    assert abs(values.mean() - 1) < 0.01 + 4.9 * values.std() / np.sqrt(4000) < 0.05


@pytest.mark.parametrize(("counts", "reference"), [([0, 0], [1, 1]), ([1, 1], [0, 0]), ([3, -1], [1, 1])])
def test_kl_of_an_empty_histogram_is_an_error(counts, reference):
    with pytest.raises(ValueError, match=r"must be counts with a positive sum, got \["):
        histogram_kl(np.array(counts), np.array(reference))


@pytest.mark.parametrize("k", [1, 8, 25])
def test_exact_samples_find_every_mode(k):
    # 50,000 samples: the share within 3 standard deviations, 1 - exp(-9/2), has a standard error of 0.0005.
    density = Rings(k=k, radius=2.0)
    points, _ = density.sample(50_000, rng=np.random.default_rng(0))
    got = ring_modes(density, points)
    near = 1 - np.exp(-4.5)
    assert got.found == k and abs(got.near - near) < 4.9 * np.sqrt(near * (1 - near) / 50_000)
    assert got.kl < 4 * k / 50_000  # its mean is (k - 1) / 100,000


@given(k=st.integers(1, 9), mode=st.integers(0, 8), n=st.integers(1, 40))
def test_all_samples_at_one_centre(k, mode, n):
    density = Rings(k=k)
    got = ring_modes(density, np.repeat(density.centres[[mode % k]], n, axis=0))
    assert got.found == 1 and got.near == 1.0
    assert_close(got.kl, np.log(k), 1e-12)


def test_three_standard_deviations_and_a_tenth_of_the_share_are_the_limits():
    density = Rings(k=4, radius=1.0, sd=0.1)
    points = np.repeat(density.centres, [40, 55, 3, 2], axis=0)  # a tenth of the fair share of 100 samples is 2.5
    assert ring_modes(density, points).found == 3
    points[95:98] += [0.0, 0.29]
    assert ring_modes(density, points).found == 3 and ring_modes(density, points).near == 1.0
    points[95:98] += [0.0, 0.02]
    assert ring_modes(density, points).found == 2 and ring_modes(density, points).near == 0.97


def test_few_samples_find_no_mode_without_a_sample():
    assert ring_modes(Rings(), Rings().centres[:3]).found == 3
    assert ring_modes(Rings(), np.zeros((5, 2))).found == 0


def test_no_points_and_nan_are_errors():
    with pytest.raises(ValueError, match="points must have at least 1 rows, got 0"):
        ring_modes(Rings(), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="points must be finite: 1 of 2 rows"):
        ring_modes(Rings(), np.array([[0.0, 1.0], [np.nan, 0.0]]))
