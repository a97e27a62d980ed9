"""Precision, recall, density and coverage against their definitions, on arrangements and laws with known answers."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compare import assert_close
from minigen.metrics import neighbours
from minigen.metrics.baselines import class_noise, pixel_noise
from minigen.metrics.clouds import Overlap, expected_coverage, normalised, overlap
from minigen.metrics.ruler import load_ruler


def by_definition(real: np.ndarray, fake: np.ndarray, k: int) -> Overlap:
    """The module's equations, pair by pair, in exact integers."""

    def d2(a, b):
        return sum((int(p) - int(q)) ** 2 for p, q in zip(a, b))

    def reach(cloud, i):
        return sorted(d2(cloud[i], other) for j, other in enumerate(cloud) if j != i)[k - 1]

    n, m = len(real), len(fake)
    in_real = [[d2(y, real[i]) <= reach(real, i) for i in range(n)] for y in fake]  # Y_j in B(X_i)
    in_fake = [[d2(x, fake[j]) <= reach(fake, j) for j in range(m)] for x in real]  # X_i in B(Y_j)
    return Overlap(
        precision=sum(map(any, in_real)) / m,
        recall=sum(map(any, in_fake)) / n,
        density=sum(map(sum, in_real)) / (k * m),
        coverage=sum(any(row[i] for row in in_real) for i in range(n)) / n,
    )


@given(
    n=st.integers(2, 7),
    m=st.integers(2, 7),
    k=st.integers(1, 6),
    block=st.sampled_from([1, 5, 10**6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_naeem_eq4_eq5_and_kynkaanniemi_eq2_pair_by_pair(n, m, k, block, seed):
    # Coordinates on a small grid: many points lie on a sphere or on one another.
    rng, k = np.random.default_rng(seed), min(k, n - 1, m - 1)
    real, fake = rng.integers(0, 4, (n, 2)), rng.integers(0, 4, (m, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        got = overlap(real.astype(np.float64), fake.astype(np.float64), k=k)
    want = by_definition(real, fake, k)
    for name, value in vars(want).items():
        assert_close(getattr(got, name), value, 1e-12, name)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_cloud_and_itself(k, offset):
    x = np.random.default_rng(0).standard_normal((60, 5)) + offset
    # The ball around a point holds k others, the last one on its sphere, and the point.
    assert overlap(x, x, k=k) == Overlap(precision=1.0, recall=1.0, density=(k + 1) / k, coverage=1.0)


@pytest.mark.parametrize("distance", [100.0, 1e9])
def test_distant_clouds_share_nothing(distance):
    x = np.random.default_rng(0).standard_normal((60, 5))
    assert overlap(x, x + distance) == Overlap(0.0, 0.0, 0.0, 0.0)


def test_a_far_outlier_does_not_blur_the_others():
    x = np.random.default_rng(0).standard_normal((60, 5))
    far = np.concatenate([x + 100, np.full((1, 5), 1e9)])
    assert overlap(x, far) == overlap(far, x) == Overlap(0.0, 0.0, 0.0, 0.0)
    with_outlier = np.concatenate([x, np.full((1, 5), 1e9)])
    assert overlap(with_outlier, with_outlier) == Overlap(1.0, 1.0, 4 / 3, 1.0)


def test_one_real_point_drawn_again_and_again_has_precision_but_no_recall_and_no_coverage():
    real = np.random.default_rng(0).standard_normal((100, 2))
    d = np.sqrt(np.square(real[:, None] - real).sum(-1))
    holding = int((d[0] <= np.sort(d, axis=1)[:, 3]).sum())  # balls that the point lies in, its own among them
    got = overlap(real, np.repeat(real[:1], 20, axis=0))
    assert got.precision == 1.0 and got.recall == 0.01  # the balls around equal points have radius 0
    assert got.coverage == holding / 100 and 1 <= holding <= 8
    assert_close(got.density, holding / 3, 1e-12)


def test_a_line_by_hand():
    real = np.arange(5.0)[:, None]  # with k = 2 the balls at the ends reach 2, the three others 1
    fake = np.array([[-2.0], [-2.1], [6.0], [6.1], [2.5], [40.0], [50.0]])
    got = overlap(real, fake, k=2)
    # -2 is on the sphere of 0, 6 on that of 4; 2.5 is in the balls of 2, 3 and 4.
    assert got.precision == 3 / 7 and got.coverage == 4 / 5
    assert_close(got.density, (1 + 1 + 3) / (2 * 7), 1e-12)
    # The balls of -2 and -2.1 reach 4.5 and 4.6, to 2.5; those of 6, 6.1 and 2.5 reach 3.6 and more; all of 0..4 is in.
    assert got.recall == 1.0


def test_an_outlier_among_the_real_gives_precision_but_little_density():
    # Naeem et al. 2020, figure 1a: samples around one real outlier, whose ball is large.
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.standard_normal((99, 2)), [[30.0, 0.0]]])
    got = overlap(real, np.array([30.0, 0.0]) + rng.standard_normal((50, 2)))
    assert got.precision == 1.0 and got.coverage == 0.01
    assert_close(got.density, 1 / 3, 1e-12)


def test_scattered_samples_have_recall_but_little_coverage():
    # Naeem et al. 2020, figure 1b: balls around far scattered samples are large, balls around real points are not.
    rng = np.random.default_rng(0)
    got = overlap(rng.standard_normal((200, 2)), rng.uniform(-60, 60, (200, 2)))
    assert got.recall > 0.9 and got.coverage < 0.1 and got.precision < 0.1


@pytest.mark.parametrize(("real", "fake", "k"), [(3, 2, 1), (5, 3, 2), (4, 4, 3)])
def test_naeem_expected_coverage_by_enumeration(real, fake, k):
    # Of one distribution, any order of the others by their distance from X_i is as likely as any other.
    orders = list(itertools.combinations(range(real - 1 + fake), real - 1))  # ranks that the other real points take
    empty = sum(set(range(k)) <= set(ranks) for ranks in orders) / len(orders)
    assert_close(expected_coverage(real, fake, k), 1 - empty, 1e-12)


def test_naeem_expectations_of_density_and_coverage_of_one_distribution():
    # 1,000 pairs of clouds: standard errors below 0.01 and 0.004, so an error of 5 % in density and of 0.02 in coverage
    # is seen (k + 1 instead of k: 33 % and 0.08; the clouds swapped in the closed form: 0.25).
    rng = np.random.default_rng(0)
    pairs = ((rng.standard_normal((50, 3)), rng.standard_normal((25, 3))) for _ in range(1000))
    figures = [overlap(real, fake, k=3) for real, fake in pairs]
    for values, want, largest in (
        (np.array([f.density for f in figures]), 1.0, 0.010),
        (np.array([f.coverage for f in figures]), expected_coverage(50, 25, 3), 0.004),
    ):
        error = values.std() / np.sqrt(len(values))
        assert error < largest and abs(values.mean() - want) < 4.9 * error


def test_normalised_rows_keep_their_direction_only():
    x = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    x[2] = 0
    unit = normalised(x)
    length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    assert unit.dtype == np.float64 and np.all(unit[2] == 0)
    assert_close(unit * length, x, 1e-12)
    scale = np.arange(1, 8)[:, None].astype(np.float32)
    assert_close(normalised(scale * x), unit, 1e-6)  # float32 products


def test_what_cannot_be_measured_is_an_error():
    x = np.random.default_rng(0).standard_normal((9, 2))
    with pytest.raises(ValueError, match="real must have at least 4 rows to have k = 3 neighbours each, got 3"):
        overlap(x[:3], x)
    with pytest.raises(ValueError, match="fake must have at least 6 rows to have k = 5 neighbours each, got 0"):
        overlap(x, x[:0], k=5)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        overlap(x, x, k=0)
    bad = x.copy()
    bad[[1, 4], 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="fake must be finite: 2 of 9 rows hold NaN or infinity"):
        overlap(x, bad)


def peak_of_an_overlap(n: int) -> tuple[int, Overlap]:
    real, fake = np.random.default_rng(0).standard_normal((2, n, 64)).astype(np.float32)
    tracemalloc.start()
    got = overlap(real, fake)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, got


def test_memory_is_that_of_a_block():
    assert neighbours.BLOCK < 3000**2, "more than one block: the peak of any size, but for the clouds' copies"
    assert peak_of_an_overlap(3_000)[0] < 300 * 2**20


@pytest.mark.slow
def test_10_000_by_10_000_need_far_less_than_one_gib():
    peak, got = peak_of_an_overlap(10_000)
    assert peak < 300 * 2**20
    # One distribution: coverage has a standard deviation of about 0.005 in single draws, density of about 0.02.
    assert abs(got.coverage - expected_coverage(10_000, 10_000, 3)) < 0.03 and abs(got.density - 1) < 0.1


@pytest.mark.slow
def test_pixels_and_normalised_features_tell_noise_from_digits_and_raw_features_do_not(digits):
    ruler, rng, train = load_ruler(digits), np.random.default_rng(0), digits.train
    kinds = {
        "val": digits.val.images,
        "pixel noise": pixel_noise(train.images, 512, rng=rng),
        "class noise": class_noise(train.images, train.labels, 512, rng=rng),
    }

    def precision(space):
        real = space(digits.test.images)
        return {name: overlap(real, space(levels)).precision for name, levels in kinds.items()}

    pixels = precision(lambda levels: levels.reshape(len(levels), -1).astype(np.float32))
    raw = precision(lambda levels: ruler.features(digits.scale(levels)))
    unit = precision(lambda levels: normalised(ruler.features(digits.scale(levels))))
    assert pixels["pixel noise"] < 0.02 and pixels["class noise"] < 0.15 and pixels["val"] > 0.6
    assert unit["pixel noise"] < 0.55 and unit["class noise"] < 0.7 and unit["val"] > 0.75
    assert raw["pixel noise"] > 0.6, "why raw features are not in the report"
