"""The fills leave what is visible alone and meet their closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compare import assert_close
from minigen.metrics.fill import linear_fill, mean_fill


def problem(n, d, seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((d, d))
    return rng.standard_normal((n, d)), rng.random((n, d)) < 0.5, rng.standard_normal(d), root @ root.T + np.eye(d)


@given(n=st.integers(0, 5), d=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_visible_pixels_stay_to_the_bit(n, d, seed):
    x, visible, mean, cov = problem(n, d, seed)
    kept = x.copy()
    for filled in (mean_fill(x, visible, mean), linear_fill(x, visible, mean, cov)):
        np.testing.assert_array_equal(filled[visible], x[visible])
    np.testing.assert_array_equal(mean_fill(x, visible, mean)[~visible], np.broadcast_to(mean, x.shape)[~visible])
    np.testing.assert_array_equal(x, kept)


def test_linear_fill_of_two_pixels_is_the_regression_line():
    mean, cov = np.array([1.0, -2.0]), np.array([[4.0, 3.0], [3.0, 9.0]])
    filled = linear_fill(
        np.array([[2.0, 77.0], [77.0, 1.0]]), np.array([[True, False], [False, True]]), mean, cov, ridge=0.0
    )
    assert_close(filled, [[2, -2 + 3 / 4 * 1], [1 + 3 / 9 * 3, 1]], 1e-14)
    # ridge 0.5 of the mean variance 6.5 joins the variance of what is visible
    filled = linear_fill(np.array([[2.0, 77.0]]), np.array([[True, False]]), mean, cov, ridge=0.5)
    assert_close(filled, [[2, -2 + 3 / (4 + 3.25)]], 1e-14)


def test_linear_fill_without_visible_pixels_is_the_mean_and_with_all_of_them_the_image():
    x, _, mean, cov = problem(3, 4, 0)
    np.testing.assert_array_equal(linear_fill(x, np.zeros((3, 4), bool), mean, cov), np.broadcast_to(mean, (3, 4)))
    np.testing.assert_array_equal(linear_fill(x, np.ones((3, 4), bool), mean, cov), x)


def test_linear_fill_leaves_errors_that_no_visible_pixel_explains():
    """With mean and covariance of the very rows, the residuals are orthogonal to the visible pixels (normal equations)."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6)) + 5
    mean, centred = x.mean(0), x - x.mean(0)
    visible = np.zeros((200, 6), bool)
    visible[:, [1, 4, 5]] = True
    error = linear_fill(x, visible, mean, centred.T @ centred / 200, ridge=0.0) - x
    assert_close(error.T @ centred[:, [1, 4, 5]] / 200, np.zeros((6, 3)), 1e-10)
    assert np.square(error).mean() < np.square(mean_fill(x, visible, mean) - x).mean()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [0.05, 0.0])
def test_where_no_pixel_varies_the_hidden_ones_are_at_their_mean(ridge, dtype):
    x, visible = np.array([[1.0, 9.0, 9.0], [9.0, 2.0, 3.0]]), np.array([[True, False, False], [False, True, True]])
    filled = linear_fill(x, visible, np.array([4.0, 5.0, 6.0]), np.zeros((3, 3), dtype), ridge=ridge)
    np.testing.assert_array_equal(filled, [[1, 5, 6], [4, 2, 3]])


def test_a_pixel_that_never_varies_and_a_negative_ridge():
    cov = np.diag([1.0, 0.0])
    filled = linear_fill(np.array([[3.0, 9.0]]), np.array([[False, True]]), np.zeros(2), cov)
    assert filled[0, 0] == 0, "it tells nothing, and nothing is divided by its variance"
    with pytest.raises(ValueError, match="ridge must be at least 0, got -1"):
        linear_fill(np.zeros((1, 2)), np.ones((1, 2), bool), np.zeros(2), cov, ridge=-1.0)
