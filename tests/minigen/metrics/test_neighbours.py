"""Nearest neighbours against brute force, and memorisation on arrangements with known answers."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compare import assert_close
from minigen.metrics import neighbours
from minigen.metrics.neighbours import Memorisation, blocks, memorisation, nearest


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


@pytest.mark.parametrize("k", [1, 3])
def test_neighbours_far_from_the_origin_are_those_near_it(k):
    """All of the offset's bits are in the centre, so nothing of the distances cancels; nor does one far row hurt."""
    near = np.random.default_rng(0).standard_normal((300, 2))
    far = near + 1e7
    near = far - 1e7  # to the bit
    for x, y in ((near, far), (np.append(near, [[1e9, 1e9]], 0), np.append(far, [[1.01e9, 1.01e9]], 0))):
        distances, rows = nearest(y, y, k=k, same=True)
        np.testing.assert_array_equal(rows[:300], nearest(x, x, k=k, same=True)[1][:300])
        np.testing.assert_array_equal(distances[:300], nearest(x, x, k=k, same=True)[0][:300])


@given(n=st.integers(4, 40), dtype=st.sampled_from([np.float32, np.float64]), seed=st.integers(0, 2**32 - 1))
def test_neighbours_among_grey_levels_are_exact(n, dtype, seed):
    """Of equally near rows the first is taken: integers have no rounding, and nor have they around the centre."""
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.integers(0, 256, (5, 1)), 3, axis=1).astype(dtype)  # as far from (a, b, c) as from (c, a, b)
    y = rng.permuted(np.tile(rng.integers(0, 256, 3), (n, 1)), axis=1).astype(dtype)
    d2 = np.square(x[:, None].astype(np.int64) - y.astype(np.int64)).sum(-1)
    distances, rows = nearest(x, y)
    np.testing.assert_array_equal(rows[:, 0], d2.argmin(1))
    np.testing.assert_array_equal(distances[:, 0], np.sqrt(d2.min(1)))


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
    assert 0.9 < report.ratio < 1.1 and report.ratio == report.median / report.test_median


def test_memorisation_sees_a_model_that_adds_a_little_noise_to_the_training_set():
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((200, 64)), rng.standard_normal((100, 64))
    report = memorisation(train[:80] + 0.05 * rng.standard_normal((80, 64)), train, test)
    assert report.copies == 0 and report.close == 1.0 and report.ratio < 0.1
    assert memorisation(train, train, test, radius=0.0).close == 1.0


@pytest.mark.parametrize(("median", "test_median", "ratio"), [(3.0, 2.0, 1.5), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0)])
def test_the_ratio_of_the_medians(median, test_median, ratio):
    assert Memorisation(median, test_median, 0, 1.0, 0.0, 0.0).ratio == ratio
    assert Memorisation(1.0, 0.0, 0, 1.0, 0.0, 0.0).ratio == np.inf


def test_no_images_and_nan_are_errors():
    x = np.random.default_rng(0).standard_normal((9, 2))
    with pytest.raises(ValueError, match="samples must have at least 1 rows, got 0"):
        memorisation(x[:0], x, x)
    with pytest.raises(ValueError, match="test must have at least 1 rows, got 0"):
        memorisation(x, x, x[:0])
    with pytest.raises(ValueError, match="samples must be finite: 1 of 1 rows hold NaN or infinity"):
        memorisation(np.full((1, 2), np.nan), x, x)
    with pytest.raises(ValueError, match="y must be finite"):
        nearest(x, np.full((1, 2), np.inf))


@given(rows=st.integers(0, 30), columns=st.integers(1, 9), block=st.integers(1, 50))
def test_blocks_are_small_enough_and_leave_nothing_out(rows, columns, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        found = [np.arange(rows)[here] for here in blocks(rows, columns)]
    assert np.array_equal(np.concatenate([np.arange(0), *found]), np.arange(rows))
    assert all(len(part) * columns <= max(block, columns) for part in found)


def test_read_only_and_strided_inputs():
    x = np.random.default_rng(0).standard_normal((20, 8))
    x.flags.writeable = False
    distances, _ = nearest(x[::2, ::2], x[1::2, ::2], k=2)
    assert_close(distances, nearest(x[::2, ::2].copy(), x[1::2, ::2].copy(), k=2)[0], 1e-15)
