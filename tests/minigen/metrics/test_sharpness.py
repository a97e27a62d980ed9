"""Sharpness on pictures whose spectrum is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compare import assert_close
from minigen.metrics.sharpness import relative_sharpness, sharpness

SIDES = st.integers(1, 9)
SEEDS = st.integers(0, 2**32 - 1)


def wave(h: int, w: int, a: int, b: int) -> tuple[np.ndarray, float]:
    """The cosine wave (a, b) as a picture, and its eigenvalue."""
    rows, columns = (np.cos(np.pi * f * (np.arange(n) + 0.5) / n) for f, n in ((a, h), (b, w)))
    value = 4 - 2 * np.cos(np.pi * a / h) - 2 * np.cos(np.pi * b / w)
    return np.outer(rows, columns)[None, :, :, None], value


def smoothed(x: np.ndarray, share: float = 1 / 8) -> np.ndarray:
    """x - share L x: each pixel moves towards its neighbours."""
    p = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = p[:, 2:, 1:-1] + p[:, :-2, 1:-1] + p[:, 1:-1, 2:] + p[:, 1:-1, :-2]
    return x + share * (around - 4 * x)


@given(h=st.integers(2, 9), w=st.integers(2, 9), data=st.data())
def test_a_cosine_wave_has_the_square_of_its_eigenvalue(h, w, data):
    a, b = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    picture, value = wave(h, w, a, b)
    assert_close(sharpness(picture), [value**2 if a or b else 0.0], 1e-10)


@given(h=st.integers(2, 9), w=st.integers(2, 9), c=st.integers(1, 3), seed=SEEDS)
def test_no_picture_is_sharper_than_the_finest_wave(h, w, c, seed):
    finest, value = wave(h, w, h - 1, w - 1)
    checkerboard = np.indices((h, w)).sum(0)[None, :, :, None] % 2
    assert np.array_equal(np.sign(finest), 1.0 - 2 * checkerboard)
    got = sharpness(np.random.default_rng(seed).standard_normal((4, h, w, c)))
    assert np.all((got > 0) & (got <= value**2 * (1 + 1e-12))) and value < 8


def test_a_large_checkerboard_comes_close_to_64():
    checkerboard = (np.indices((100, 100)).sum(0)[None, :, :, None] % 2).astype(np.uint8)
    # inside |L x| is 8 amplitudes, on an edge 6, in a corner 4
    want = (98**2 * 64 + 4 * 98 * 36 + 4 * 16) / 100**2
    assert_close(sharpness(checkerboard), [want], 1e-10)


@given(h=SIDES, w=SIDES, level=st.floats(-2, 2), dtype=st.sampled_from([np.float32, np.float64]))
def test_a_constant_picture_has_none(h, w, level, dtype):
    assert sharpness(np.full((2, h, w, 3), level, dtype)).tolist() == [0.0, 0.0]


@given(h=st.integers(2, 8), w=st.integers(2, 8), seed=SEEDS)
def test_brightness_and_contrast_do_not_matter_and_channels_are_summed(h, w, seed):
    x = np.random.default_rng(seed).standard_normal((3, h, w, 1))
    want = sharpness(x)
    assert_close(sharpness(-3 * x + 7), want, 1e-9)
    assert_close(sharpness(np.concatenate([x, 2 * x + 1], axis=3)), want, 1e-9)
    assert_close(sharpness(x.transpose(0, 2, 1, 3)), want, 1e-9)
    assert_close(sharpness(x[:, ::-1, ::-1]), want, 1e-9)


@given(h=st.integers(2, 8), w=st.integers(2, 8), seed=SEEDS)
def test_smoothing_lowers_it(h, w, seed):
    x = np.random.default_rng(seed).standard_normal((3, h, w, 1))
    before, after = sharpness(x), sharpness(smoothed(x))
    assert np.all(after <= before * (1 + 1e-12))
    if min(h, w) > 2:  # several waves, so a random picture is no eigenvector
        assert np.all(after < before)


def test_independent_noise_has_twenty():
    # Inside, 4^2 + 4 * 1 for each variance; the border has less. The mean of 50 pictures has a standard error of 0.03.
    x = np.random.default_rng(0).standard_normal((50, 128, 128, 1))
    assert abs(sharpness(x).mean() - 20 * (1 - 2 / 128)) < 0.2


def test_digits_beside_their_blurred_and_noisy_kind(digits):
    real = digits.test.images
    blurred = smoothed(digits.scale(digits.val.images))
    noise = np.random.default_rng(0).integers(0, 17, real.shape).astype(np.uint8)
    assert relative_sharpness(blurred, real) < 0.6 < 0.9 < relative_sharpness(digits.val.images, real) < 1.2
    assert relative_sharpness(noise, real) > 2, "noise is sharper than digits"
    assert relative_sharpness(real, real) == 1.0
    assert relative_sharpness(real, np.zeros_like(real)) == np.inf


def test_no_pictures_and_nan_are_errors():
    with pytest.raises(ValueError, match="images must have at least 1 rows, got 0"):
        sharpness(np.zeros((0, 3, 3, 1)))
    with pytest.raises(ValueError, match="images must be finite: 1 of 1 rows"):
        sharpness(np.full((1, 3, 3, 1), np.nan))
