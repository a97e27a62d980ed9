"""The chain's identities, each for every time and any schedule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigen.maths import diffusion, schedules

SCHEDULES = [schedules.linear(1000), schedules.cosine(50), schedules.cosine(100).respaced([1, 7, 40, 100])]


@pytest.mark.parametrize("s", SCHEDULES)
def test_ddpm_eq4_round_trips(s, rng):
    x_0, eps = rng.standard_normal((2, s.T, 3))
    t = np.arange(1, s.T + 1)
    x_t = diffusion.q_sample(x_0, t, eps, s)
    scale = s.alpha_bar[1:, None] ** -0.5
    np.testing.assert_allclose(diffusion.x_0_from_eps(x_t, t, eps, s) / scale, x_0 / scale, atol=1e-12)
    scale = (1 - s.alpha_bar[1:, None]) ** -0.5
    np.testing.assert_allclose(diffusion.eps_from_x_0(x_t, t, x_0, s) / scale, eps / scale, atol=1e-12)


@pytest.mark.parametrize("s", SCHEDULES)
def test_ddpm_eq6_eq7_posterior_is_bayes_rule(s):
    """q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): precisions and means add up."""
    for t in range(2, s.T + 1):
        x_0, x_t = 0.3, -1.1
        precision = s.alpha[t] / s.beta[t] + 1 / (1 - s.alpha_bar[t - 1])
        mean = (
            s.alpha[t] ** 0.5 * x_t / s.beta[t] + s.alpha_bar[t - 1] ** 0.5 * x_0 / (1 - s.alpha_bar[t - 1])
        ) / precision
        assert 1 / precision == pytest.approx(s.beta_tilde[t], rel=1e-9)
        assert mean == pytest.approx(diffusion.posterior_mean(np.array(x_0), np.array(x_t), t, s), rel=1e-9)
    assert diffusion.posterior_mean(np.array(0.3), np.array(-1.1), 1, s) == pytest.approx(0.3)


@pytest.mark.parametrize("s", SCHEDULES)
def test_ddpm_eq2_composes_to_eq4(s):
    """x_t from x_s, from x_0: the variances of the single steps add up to 1 - alpha_bar_t."""
    variance = 0.0
    for t in range(1, s.T + 1):
        variance = s.alpha[t] * variance + s.beta[t]
        assert variance == pytest.approx(1 - s.alpha_bar[t], rel=1e-9)


@pytest.mark.parametrize("s", SCHEDULES)
def test_ddpm_eq11_the_three_forms_of_the_mean_agree(s, rng):
    x_0, eps = rng.standard_normal((2, s.T, 3))
    t = np.arange(1, s.T + 1)
    x_t = diffusion.q_sample(x_0, t, eps, s)
    from_eps = diffusion.mean_from_eps(x_t, t, eps, s)
    score = -eps / (1 - s.alpha_bar[t])[:, None] ** 0.5
    np.testing.assert_allclose(diffusion.mean_from_score(x_t, t, score, s), from_eps, rtol=1e-9, atol=1e-12)
    from_x_0 = diffusion.posterior_mean(diffusion.x_0_from_eps(x_t, t, eps, s), x_t, t, s)
    np.testing.assert_allclose(from_x_0, from_eps, rtol=1e-7, atol=1e-9)


@given(st.integers(1, 40), st.integers(0, 5), st.sampled_from([np.float32, np.float64]))
def test_one_time_or_one_a_sample(T, n, dtype):
    s = schedules.cosine(T)
    x = np.ones((n, 2, 2, 1), dtype)
    one = diffusion.q_sample(x, T, x, s)
    many = diffusion.q_sample(x, np.full(n, T), x, s)
    assert one.dtype == many.dtype == dtype and one.shape == many.shape
    np.testing.assert_allclose(one, many, rtol=1e-6)


@pytest.mark.parametrize("t", [-1, 4, np.int64(-1), np.array([1, 4]), np.array([-1, 1]), np.array([4])])
def test_levels_that_the_schedule_does_not_have_are_named(t):
    x = np.ones((2, 1))
    with pytest.raises(ValueError, match="t must be levels from 0 to 3, got"):
        diffusion.q_sample(x, t, x, schedules.cosine(3))


@pytest.mark.parametrize("t", [1.0, np.float32(1), np.array([1.0, 2.0]), np.array([True, False])])
def test_levels_are_whole_numbers(t):
    x = np.ones((2, 1))
    with pytest.raises(TypeError, match="t must be a level or an array of levels"):
        diffusion.q_sample(x, t, x, schedules.cosine(3))


def test_grey_levels_are_no_pictures():
    """In their dtype, sqrt(alpha_bar) would be 0."""
    with pytest.raises(TypeError, match="needs floats to multiply, got uint8"):
        diffusion.q_sample(np.full((2, 1), 200, np.uint8), np.array([1, 2]), np.ones((2, 1)), schedules.cosine(3))


def test_x_0_needs_signal():
    s = schedules.Schedule([1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="alpha_bar is 0"):
        diffusion.x_0_from_eps(np.ones(1), 2, np.ones(1), s)
    with pytest.raises(ValueError, match="alpha_bar is 0"):
        diffusion.mean_from_eps(np.ones(1), 2, np.ones(1), s)
    with pytest.raises(ValueError, match="alpha_bar is 0"):
        diffusion.mean_from_score(np.ones(1), 2, np.ones(1), s)
