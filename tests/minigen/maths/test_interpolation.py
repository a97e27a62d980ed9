"""slerp against the textbook formula, and where that formula divides by zero."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigen.maths.interpolation import slerp

T = np.linspace(0, 1, 9)


def angle(a, b):
    """Between two vectors, accurate also where they are nearly parallel."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))


@given(seed=st.integers(0, 10_000), d=st.integers(2, 40))
def test_slerp_is_the_textbook_formula_on_the_directions_and_linear_in_the_norm(seed, d):
    a, b = np.random.default_rng(seed).standard_normal((2, d))
    u, v, theta = a / np.linalg.norm(a), b / np.linalg.norm(b), angle(a, b)
    direction = (np.sin((1 - T) * theta)[:, None] * u + np.sin(T * theta)[:, None] * v) / np.sin(theta)
    norm = (1 - T) * np.linalg.norm(a) + T * np.linalg.norm(b)
    np.testing.assert_allclose(slerp(a, b, T), norm[:, None] * direction, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 10_000), d=st.integers(1, 40), float32=st.booleans())
def test_the_ends_are_exact_and_the_inputs_are_left_alone(seed, d, float32):
    a, b = np.random.default_rng(seed).standard_normal((2, 3, d)).astype(np.float32 if float32 else np.float64)
    kept = a.copy(), b.copy()
    for t in (0, 0.0, 1, 1.0, 0.5):
        found = slerp(a, b, t)
        assert found.dtype == a.dtype and found.shape == a.shape
        if t != 0.5:
            np.testing.assert_array_equal(found, b if t else a)
    np.testing.assert_array_equal((a, b), kept)


@given(
    seed=st.integers(0, 10_000),
    d=st.integers(2, 40),
    size=st.floats(1e-6, 1e6),
    gap=st.sampled_from([1, 1e-5, 1e-11, 1e-14, 0]),
)
@pytest.mark.parametrize("sign", [1, -1])
def test_equal_norms_stay_and_the_angle_grows_evenly(seed, d, size, gap, sign):
    """Also for directions that are parallel or opposite up to ``gap``, down to the last bits."""
    a, other = np.random.default_rng(seed).standard_normal((2, d))
    b = sign * a + gap * other
    a, b = size * a / np.linalg.norm(a), size * b / np.linalg.norm(b)
    path = slerp(a, b, T)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), size, rtol=1e-12)
    np.testing.assert_allclose([angle(a, x) for x in path], T * angle(a, b), atol=1e-11)


def test_equal_vectors_stay_where_they_are(rng):
    a = rng.standard_normal(5)
    np.testing.assert_allclose(slerp(a, a, T), np.tile(a, (9, 1)), rtol=1e-14)


def test_parallel_vectors_of_other_norms_are_joined_by_a_line(rng):
    a = rng.standard_normal(5)
    np.testing.assert_allclose(slerp(a, 3 * a, T), (1 + 2 * T)[:, None] * a, rtol=1e-14)


def test_a_zero_vector_takes_the_other_direction(rng):
    a, zero = rng.standard_normal(4), np.zeros(4)
    np.testing.assert_allclose(slerp(zero, a, T), T[:, None] * a, rtol=1e-14)
    np.testing.assert_allclose(slerp(a, zero, T), (1 - T)[:, None] * a, rtol=1e-14)
    np.testing.assert_array_equal(slerp(zero, zero, T), np.zeros((9, 4)))


def test_in_one_dimension_opposite_signs_meet_at_zero():
    np.testing.assert_allclose(slerp(np.array([2.0]), np.array([-2.0]), T), 2 * np.cos(T * np.pi)[:, None], atol=1e-15)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_opposite_directions_go_by_way_of_the_axis_that_is_farthest_from_both(k):
    a, by = np.eye(3)[k] + 0.1 * np.eye(3)[k - 1], np.eye(3)[k - 2]
    np.testing.assert_allclose(slerp(a, -a, 0.5), np.linalg.norm(a) * by, atol=1e-15)


def test_a_grid_of_pairs_and_steps(rng):
    a, b = rng.standard_normal((2, 3, 1, 6))
    grid = slerp(a, b, T)
    assert grid.shape == (3, 9, 6)
    np.testing.assert_array_equal(grid[1, 4], slerp(a[1, 0], b[1, 0], T[4]))


def test_vectors_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"must share their last axis, got \(3,\) and \(4,\)"):
        slerp(np.zeros(3), np.zeros(4), 0.5)
