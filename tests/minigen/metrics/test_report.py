"""The report: real, copied, noisy and one-sided samples end up where they belong."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from kernels.compare import assert_close, bound
from minigen.data.rings import Rings
from minigen.metrics.baselines import pixel_noise
from minigen.metrics.frechet import frechet_distance
from minigen.metrics.report import (
    COLUMNS,
    POINTS,
    SAMPLES,
    chance,
    compared,
    format_tables,
    quality,
    quality_of_points,
    reference_rows,
    spread,
)
from minigen.metrics.ruler import SURE

OF_IMAGES = [key for key, column in COLUMNS.items() if column.group != POINTS]


@pytest.fixture(scope="module")
def few(digits):
    """The digits with fewer images in each split, so that a report takes a tenth of a second."""
    train, val, test = digits.train.take(slice(0, 300)), digits.val.take(slice(0, 100)), digits.test.take(slice(0, 150))
    return replace(digits, train=train, val=val, test=test)


def figures(few, ruler, levels, seed=0):
    return quality(few, few.scale(levels), ruler, rng=np.random.default_rng(seed))


def test_every_figure_is_a_finite_number(few, tiny_ruler):
    row = figures(few, tiny_ruler, few.val.images)
    assert list(row) == OF_IMAGES
    assert all(isinstance(value, float) and np.isfinite(value) for value in row.values())


def test_what_is_a_share_is_a_mean_over_the_images(few, tiny_ruler):
    """Of four images, which are the fewest that can be measured, and of a hundred."""
    for images in (few.val.images[:4], few.val.images):
        row, x = figures(few, tiny_ruler, images), few.scale(images)
        assert row["accepted"] == tiny_ruler.accepted(x).mean() > 0
        assert row["confident"] == (tiny_ruler.probabilities(x).max(axis=1) > SURE).mean() > 0


def test_copies_of_the_training_set_are_found(few, tiny_ruler):
    row = figures(few, tiny_ruler, few.train.images[:60])
    assert row["copies"] == 60 and row["nearest"] == row["nearest_ratio"] == 0 and row["close"] == 1
    # These are the images that the ratio divides by; float32 sums of up to 576 products differ with the batch's size.
    assert_close(row["fd_ratio"], 1.0, bound(576, 1.0, np.float32))
    unseen = figures(few, tiny_ruler, few.val.images)
    assert unseen["copies"] == 0 and unseen["nearest_ratio"] == unseen["nearest"] / unseen["nearest_test"] > 0.8


def test_noise_is_worse_than_real_images(few, tiny_ruler):
    real = figures(few, tiny_ruler, few.val.images)
    noise = figures(few, tiny_ruler, pixel_noise(few.train.images, 100, rng=np.random.default_rng(0)))
    assert noise["fd_test"] > 3 * real["fd_test"] and noise["fd_ratio"] > 3 * real["fd_ratio"]
    assert noise["precision"] < 0.1 < real["precision"] and noise["accepted"] == 0
    assert noise["nearest_ratio"] > 1.5 and noise["sharpness"] > 1.5 > real["sharpness"] > 0.8
    for space in ("", "_features"):
        assert noise[f"precision{space}"] < 0.6 * real[f"precision{space}"]
        assert noise[f"density{space}"] < 0.5 * real[f"density{space}"]
        assert noise[f"coverage{space}"] < 0.5 * real[f"coverage{space}"]


def test_the_test_split_itself_has_no_distance_and_covers_itself(few, tiny_ruler):
    row = figures(few, tiny_ruler, few.test.images)
    assert row["fd_test"] < 1e-6 * row["fd_half"] and row["fd_infinite"] < 0, "half the images against the other half"
    assert row["precision"] == row["recall"] == row["coverage"] == row["sharpness"] == row["nearest_ratio"] == 1
    assert row["density"] >= 4 / 3 - 1e-12  # k + 1 of k, and more where distances are tied


def test_a_single_class_shows_in_the_rarest_class(few, tiny_ruler):
    ones = few.train.images[few.train.labels == 1]
    row, all_of_them = figures(few, tiny_ruler, ones), figures(few, tiny_ruler, few.train.images)
    assert row["min_class"] == 0 and row["classes"] < 10 and all_of_them["classes"] == 10
    assert all_of_them["min_class"] > 0.03  # in truth 0.09
    assert row["class_kl"] > 1 > 0.1 > all_of_them["class_kl"]  # log 10 = 2.3 if the ruler made no mistake


def test_one_image_is_enough_for_its_class_to_be_there(few, tiny_ruler):
    seen = tiny_ruler.probabilities(few.scale(few.train.images)).argmax(axis=1)
    one_each = np.unique(seen, return_index=True)[1][:6]
    row = figures(few, tiny_ruler, few.train.images[one_each])
    assert row["classes"] == len(one_each) == 6 and row["min_class"] == 0
    share = np.bincount(few.train.labels) / 300
    assert row["class_kl"] == pytest.approx(-np.log(6 * share[seen[one_each]]).mean())
    everything = figures(few, tiny_ruler, few.train.images)
    assert everything["min_class"] == np.bincount(seen, minlength=10).min() / 300 > 0


def test_samples_between_levels_are_rounded_first(few, tiny_ruler):
    x = few.scale(few.train.images[:40])
    rng = np.random.default_rng(0)
    wobbly = np.clip(x + rng.uniform(-0.4, 0.4, x.shape).astype(np.float32) / 8, -1.5, 1.5)
    first, again = (quality(few, images, tiny_ruler, rng=np.random.default_rng(1)) for images in (wobbly, x))
    assert first == again


def test_of_many_samples_rng_picks_512(few, tiny_ruler):
    many = few.scale(np.concatenate([few.train.images] * 2))
    first, again, other = (quality(few, many, tiny_ruler, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again and first != other and first["copies"] == SAMPLES


def test_what_cannot_be_measured_is_an_error(few, tiny_ruler):
    x = few.scale(few.train.images[:8])
    with pytest.raises(ValueError, match=r"images must hold at least 4 .* got 3"):
        quality(few, x[:3], tiny_ruler, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"the test split must hold at least 4 .* got 2"):
        quality(replace(few, test=few.test.take(slice(0, 2))), x, tiny_ruler, rng=np.random.default_rng(0))
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        quality(few, x, tiny_ruler, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("field", "name"), [("train", "training"), ("val", "validation"), ("test", "test")])
def test_a_split_too_small_for_the_reference_rows_is_named(few, tiny_ruler, field, name):
    small = replace(few, **{field: getattr(few, field).take(slice(0, 3))})
    with pytest.raises(ValueError, match=f"the {name} split must hold at least 4 images to be measured, got 3"):
        reference_rows(small, tiny_ruler)
    least = replace(few, **{field: getattr(few, field).take(slice(0, 4))})
    assert len(reference_rows(least, tiny_ruler)) == 4


def test_reference_rows_and_their_table(few, tiny_ruler):
    rows = reference_rows(few, tiny_ruler)
    assert list(rows) == ["train 300", "val 100", "Gaussian mixture 10", "pixel noise"]
    ratios = [row["fd_ratio"] for row in rows.values()]
    assert ratios[0] == 1.0 and ratios[1] < ratios[3] and ratios[2] < ratios[3]
    assert rows["train 300"]["copies"] == 300 and rows["Gaussian mixture 10"]["copies"] == 0
    text = printed({**rows, "of another tool": {"fd_test": 1.25}}, width=120)
    assert all(COLUMNS[key].heading in text for key in OF_IMAGES)
    assert "1.2" in text and text.count(" - ") >= len(OF_IMAGES) - 1
    assert [group in text for group in ("fidelity", "fidelity and diversity", "classes and memory", "modes")] == [
        1,
        1,
        1,
        0,
    ]


def printed(rows, width):
    out = io.StringIO()
    Console(file=out, width=width).print(*format_tables(rows))
    return out.getvalue()


def test_tables_hold_what_the_rows_have(few):
    assert len(format_tables({"a": {"fd_test": 1.0}, "b": {"copies": 2.0}})) == 2
    assert format_tables({}) == format_tables({"a": {}}) == []
    headings = [column.heading for column in COLUMNS.values()]
    assert len(set(headings)) == len(headings)


def test_points_of_a_ring_have_their_own_figures():
    density = Rings()
    points, mode = density.sample(512, rng=np.random.default_rng(0))
    row = quality_of_points(density, points)
    assert list(row) == [key for key in COLUMNS if key not in OF_IMAGES]
    assert row["modes"] == 8 and row["near"] > 0.96 and row["mode_kl"] < 0.03
    collapsed = quality_of_points(density, points[mode == 3])
    assert collapsed["modes"] == 1 and abs(collapsed["mode_kl"] - np.log(8)) < 1e-12
    text = printed({"these samples": row, "one mode": collapsed}, width=80)
    assert "modes" in text and "2.079" in text
    with pytest.raises(ValueError, match="points must be finite"):
        quality_of_points(density, np.full((3, 2), np.nan))


def test_the_chance_of_the_distance_is_around_one(few, tiny_ruler):
    mean, spread = chance(few, tiny_ruler, draws=6)
    assert 0.5 < mean < 3 and 0 < spread < mean
    assert chance(few, tiny_ruler, draws=6) == (mean, spread), "the seed is fixed"


def test_chance_is_the_mean_and_the_deviation_of_the_ratios(few, tiny_ruler):
    """From their parts, with the draws of the same seed."""
    of_train, of_test = (tiny_ruler.features(few.scale(split.images)) for split in (few.train, few.test))
    rng, unit = np.random.default_rng(0), frechet_distance(of_train[:50], of_test)
    ratios = [frechet_distance(of_train[rng.choice(300, 50)], of_test) / unit for _ in range(5)]
    mean, around = chance(few, tiny_ruler, n=50, draws=5)
    assert mean == pytest.approx(sum(ratios) / 5)
    assert around == pytest.approx((sum((r - mean) ** 2 for r in ratios) / 4) ** 0.5)


def test_where_real_images_have_no_distance_chance_and_the_error_say_so(few, tiny_ruler):
    """As the ratio itself does, which is infinite: here every image is the same."""
    blank = {name: few.train.take(np.zeros(20, int)) for name in ("train", "test")}
    same = replace(few, **blank)
    assert quality(same, few.scale(few.val.images), tiny_ruler, rng=np.random.default_rng(0))["fd_ratio"] == np.inf
    mean, around = chance(same, tiny_ruler, draws=3)
    assert mean == np.inf and np.isnan(around) and np.isnan(spread(same, few.scale(few.val.images), tiny_ruler))


def test_the_error_of_the_distance_is_the_spread_over_samples_drawn_again(few, tiny_ruler):
    train = few.scale(few.train.images)
    assert spread(few, np.repeat(train[:1], 20, axis=0), tiny_ruler, draws=3) < 1e-6, "nothing to draw but one picture"
    error = spread(few, train, tiny_ruler)
    assert error == pytest.approx(chance(few, tiny_ruler)[1]), "the same draws of the same pictures"
    assert spread(few, train[:60], tiny_ruler) > error, "few samples are less certain"


def test_both_distances_of_the_ratio_are_of_as_many_images(digits, few, tiny_ruler):
    """Other images of the training split's writers are samples as good as its own, however small it is."""
    rng, ratios = np.random.default_rng(1), []
    for seed in range(8):
        order = rng.permutation(len(digits.train))
        small = replace(few, train=digits.train.take(order[:40]))
        row = figures(small, tiny_ruler, digits.train.images[order[40:340]], seed)
        ratios.append(row["fd_ratio"])
    assert compared(small, 300) == 40 and compared(digits, 300) == 300 and compared(digits, 600) == SAMPLES
    assert 0.8 < np.mean(ratios) < 1.3, "with the distance of all 300 it would be a half"
    ours, of_test = (tiny_ruler.features(few.scale(x)) for x in (digits.train.images[order[40:340]], few.test.images))
    assert row["fd_test"] == frechet_distance(ours, of_test), "the distance itself is of all 300"


def test_where_there_are_enough_training_images_nothing_is_picked(few, tiny_ruler):
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    row = quality(few, few.scale(few.val.images), tiny_ruler, rng=rng)
    for split in (few.val, few.test):
        same.permutation(np.zeros((len(split), 64)))  # the halves
    assert rng.bit_generator.state == same.bit_generator.state
    of_train, of_test = (tiny_ruler.features(few.scale(split.images)) for split in (few.train, few.test))
    assert row["fd_ratio"] == row["fd_test"] / frechet_distance(of_train[:100], of_test)


def test_chance_and_the_error_are_of_as_many_images_as_the_ratio(digits, few, tiny_ruler):
    """A perfect sampler of 40 training images, asked for 300: its samples' ratio and error are what chance says."""
    small, rng = replace(few, train=digits.train.take(slice(0, 40))), np.random.default_rng(2)
    levels = [small.train.images[rng.choice(40, 300)] for _ in range(8)]
    mean, around = chance(small, tiny_ruler, n=300)
    assert (mean, around) == chance(small, tiny_ruler, n=40)
    ratios = [figures(small, tiny_ruler, drawn, seed)["fd_ratio"] for seed, drawn in enumerate(levels)]
    assert abs(np.mean(ratios) - mean) < 3 * around / 8**0.5 and min(ratios) > 1
    assert 0.6 < spread(small, small.scale(levels[0]), tiny_ruler) / around < 1.6, "of 300 it would be a third"
