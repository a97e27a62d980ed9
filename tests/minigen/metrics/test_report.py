"""The report: real, copied, noisy and one-sided samples end up where they belong."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from minigen.metrics.baselines import pixel_noise
from minigen.metrics.report import COLUMNS, SAMPLES, chance, format_table, quality, reference_rows


@pytest.fixture(scope="module")
def few(digits):
    """The digits with fewer images in each split, so that a report takes a tenth of a second."""
    train, val, test = digits.train.take(slice(0, 300)), digits.val.take(slice(0, 100)), digits.test.take(slice(0, 150))
    return replace(digits, train=train, val=val, test=test)


def figures(few, ruler, levels, seed=0):
    return quality(few, few.scale(levels), ruler, rng=np.random.default_rng(seed))


def test_every_figure_is_a_finite_number(few, tiny_ruler):
    row = figures(few, tiny_ruler, few.val.images)
    assert list(row) == list(COLUMNS)
    assert all(isinstance(value, float) and np.isfinite(value) for value in row.values())


def test_copies_of_the_training_set_are_found(few, tiny_ruler):
    row = figures(few, tiny_ruler, few.train.images[:60])
    assert row["copies"] == 60 and row["nearest"] == 0 and row["close"] == 1
    assert row["fd_ratio"] == 1.0  # these are the images that the ratio divides by
    assert figures(few, tiny_ruler, few.val.images)["copies"] == 0


def test_noise_is_worse_than_real_images(few, tiny_ruler):
    real = figures(few, tiny_ruler, few.val.images)
    noise = figures(few, tiny_ruler, pixel_noise(few.train.images, 100, rng=np.random.default_rng(0)))
    assert noise["fd_test"] > 3 * real["fd_test"] and noise["fd_ratio"] > 3 * real["fd_ratio"]
    assert noise["precision"] < 0.1 < real["precision"] and noise["accepted"] == 0
    assert noise["nearest"] > 1.5 * noise["nearest_test"]


def test_a_single_class_shows_in_the_rarest_class(few, tiny_ruler):
    ones = few.train.images[few.train.labels == 1]
    assert figures(few, tiny_ruler, ones)["min_class"] == 0
    assert figures(few, tiny_ruler, few.train.images)["min_class"] > 0.03  # in truth 0.09


def test_samples_between_levels_are_rounded_first(few, tiny_ruler):
    x = few.scale(few.train.images[:40])
    rng = np.random.default_rng(0)
    wobbly = np.clip(x + rng.uniform(-0.4, 0.4, x.shape).astype(np.float32) / 8, -1.5, 1.5)
    assert quality(few, wobbly, tiny_ruler, rng=rng) == quality(few, x, tiny_ruler, rng=rng)


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


def test_reference_rows_and_their_table(few, tiny_ruler):
    rows = reference_rows(few, tiny_ruler)
    assert list(rows) == ["train 300", "val 100", "Gaussian mixture 10", "pixel noise"]
    ratios = [row["fd_ratio"] for row in rows.values()]
    assert ratios[0] == 1.0 and ratios[1] < ratios[3] and ratios[2] < ratios[3]
    assert rows["train 300"]["copies"] == 300 and rows["Gaussian mixture 10"]["copies"] == 0
    out = io.StringIO()
    Console(file=out, width=200).print(format_table({**rows, "of another tool": {"fd_test": 1.25}}, title="digits"))
    text = out.getvalue()
    assert "digits" in text and all(heading in text for heading, _, _ in COLUMNS.values())
    assert "1.2" in text and text.count(" - ") >= len(COLUMNS) - 1


def test_the_chance_of_the_distance_is_around_one(few, tiny_ruler):
    mean, spread = chance(few, tiny_ruler, draws=6)
    assert 0.5 < mean < 3 and 0 < spread < mean
    assert chance(few, tiny_ruler, draws=6) == (mean, spread), "the seed is fixed"
