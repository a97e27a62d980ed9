"""Nearest neighbours against brute force; memorisation, precision and recall on arrangements with known answers."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compare import assert_close
from minigen.metrics import neighbours
from minigen.metrics.neighbours import memorisation, nearest, precision_recall


@given(
    n=st.integers(0, 9),
    m=st.integers(2, 9),
    d=st.integers(1, 4),
    k=st.integers(1, 9),
    block=st.sampled_from([1, 7, 10**6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_nearest_is_brute_force_in_blocks_of_any_size(n, m, d, k, block, seed):
    rng, k = np.random.default_rng(seed), min(k, m)
    x, y = rng.standard_normal((n, d)).astype(np.float32), rng.standard_normal((m, d)).astype(np.float32) + 100
    brute = np.sqrt(np.square(x[:, None].astype(np.float64) - y).sum(-1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        distances, rows = nearest(x, y, k=k)
    assert rows.dtype == np.int64 and distances.shape == rows.shape == (n, k)
    assert_close(distances, np.sort(brute, axis=1)[:, :k], 1e-9)
    assert_close(np.take_along_axis(brute, rows, axis=1), distances, 1e-12)


@given(m=st.integers(2, 9), seed=st.integers(0, 2**32 - 1))
def test_a_row_is_not_its_own_neighbour(m, seed):
    x = np.random.default_rng(seed).standard_normal((m, 3))
    distances, rows = nearest(x, x, same=True)
    assert np.all(rows[:, 0] != np.arange(m)) and np.all(distances > 0)
    assert np.all(nearest(x, x)[0] == 0)


def test_a_copy_has_distance_exactly_zero_far_from_the_origin():
    x = np.random.default_rng(0).standard_normal((50, 200)) + 1e6
    assert np.all(nearest(x[::3], x)[0] == 0)


def test_too_many_neighbours_are_refused():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"k must be in 1\.\.2"):
        nearest(x, x, k=3, same=True)
    with pytest.raises(ValueError, match=r"k must be in 1\.\.3"):
        nearest(x, x, k=0)


@pytest.mark.parametrize("k", [1, 3])
def test_memory_stays_far_below_one_gib_for_10_000_by_10_000(k):
    # The blocks do not depend on the number of rows of x, so a quarter of them shows the peak.
    x = np.random.default_rng(0).standard_normal((2_500, 8))
    y = np.random.default_rng(1).standard_normal((10_000, 8))
    tracemalloc.start()
    nearest(x, y, k=k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 * 2**20


def test_memorisation_counts_copies_and_compares_medians():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 17, (200, 64)), rng.integers(0, 17, (100, 64))
    new = rng.integers(0, 17, (90, 64))
    samples = np.concatenate([train[:10], new]).astype(np.float64)
    report = memorisation(samples, train.astype(np.float64), test.astype(np.float64))
    assert report.copies == 10 and report.close == 0.1 and report.test_close == 0.0
    assert report.radius == report.test_median / 2
    assert 0.9 < report.median / report.test_median < 1.1


def test_memorisation_sees_a_model_that_adds_a_little_noise_to_the_training_set():
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((200, 64)), rng.standard_normal((100, 64))
    report = memorisation(train[:80] + 0.05 * rng.standard_normal((80, 64)), train, test)
    assert report.copies == 0 and report.close == 1.0 and report.median < 0.1 * report.test_median
    assert memorisation(train, train, test, radius=0.0).close == 1.0


def test_precision_and_recall_of_a_cloud_with_itself_and_with_a_distant_one():
    x = np.random.default_rng(0).standard_normal((60, 5))
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)


def test_one_perfect_image_has_precision_but_no_recall():
    real = np.random.default_rng(0).standard_normal((100, 2))
    fake = np.repeat(real[:1], 20, axis=0)
    precision, recall = precision_recall(real, fake)
    assert precision == 1.0 and recall == 0.01  # the balls around equal fakes have radius 0


def test_precision_on_a_line_by_hand():
    real = np.arange(5.0)[:, None]  # with k = 2 the balls at the ends reach 2, the three others 1
    fake = np.array([[-2.0], [-2.1], [6.0], [6.1], [2.5], [40.0], [50.0]])
    assert precision_recall(real, fake, k=2)[0] == 3 / 7


def test_read_only_and_strided_inputs():
    x = np.random.default_rng(0).standard_normal((20, 8))
    x.flags.writeable = False
    distances, _ = nearest(x[::2, ::2], x[1::2, ::2], k=2)
    assert_close(distances, nearest(x[::2, ::2].copy(), x[1::2, ::2].copy(), k=2)[0], 1e-15)
