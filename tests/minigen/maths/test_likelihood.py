import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import logistic

import autograd as ag
from minigen.maths.likelihood import (
    bernoulli_log_likelihood,
    categorical_log_likelihood,
    discretised_logistic_log_likelihood,
    draw_levels,
    logistic_mixture_log_likelihood,
)

LEVELS = st.sampled_from([2, 17, 256])


def all_levels(levels, mean, log_scale, **settings):
    k = np.arange(levels)[:, None]
    return discretised_logistic_log_likelihood(k, mean, log_scale, levels, **settings)


@given(LEVELS, st.floats(-30, 30), st.floats(-80, 80), st.sampled_from([0.0, 1e-3]))
def test_logistic_probabilities_of_all_levels_add_up_to_one(levels, mean, log_scale, uniform):
    """Far outside [-1, 1], sharper than a bin and wider than the picture: always a distribution.

    An edge is rounded by eps, and where a bin matters that is eps L of its width.
    """
    for dtype in (np.float64, np.float32):
        rtol = 4 * levels * float(np.finfo(dtype).eps)
        log_p = all_levels(levels, np.array([mean], dtype), np.array([log_scale], dtype), uniform=uniform)
        assert log_p.dtype == dtype and np.isfinite(log_p).all()
        assert np.exp(log_p.astype(np.float64)).sum() == pytest.approx(1, rel=rtol)


@given(LEVELS, st.floats(-1.5, 1.5), st.floats(-2, 2))
def test_logistic_is_the_difference_of_scipys(levels, mean, log_scale):
    x = 2 * np.arange(levels) / (levels - 1) - 1
    edges = np.concatenate([[-np.inf], (x[1:] + x[:-1]) / 2, [np.inf]])
    want = np.diff(logistic.cdf(edges, mean, np.exp(log_scale)))
    got = np.exp(all_levels(levels, np.array([mean]), np.array([log_scale])))[:, 0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)
    mixed = np.exp(all_levels(levels, np.array([mean]), np.array([log_scale]), uniform=0.1))[:, 0]
    np.testing.assert_allclose(mixed, 0.9 * want + 0.1 / levels, rtol=0, atol=1e-14)


def test_logistic_tails_keep_their_digits_and_their_gradient():
    """40 to 700 scales away P is e^-40 to e^-700: the differences of sigmoids are 0 there, ours have 12 digits."""
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-5)):
        for z in (40.0, 700.0):
            s = 1 / z  # the mean is 1 above the level at 0: z scales
            log_p = discretised_logistic_log_likelihood(
                np.array([8]), np.array([1.0], dtype), np.array([np.log(s)], dtype), 17
            )
            w = 1 / 8 / s
            want = -(1 - 1 / 16) / s + np.log(-np.expm1(-w))
            np.testing.assert_allclose(log_p, want, rtol=rtol)
    mean = ag.Tensor(np.array([1.0], np.float32), requires_grad=True)
    ag.sum(
        discretised_logistic_log_likelihood(np.array([8]), mean, np.array([np.log(1 / 40)], np.float32), 17)
    ).backward()
    np.testing.assert_allclose(mean.grad, -40, rtol=1e-5)


def test_a_level_never_costs_more_than_the_uniform_share():
    log_p = discretised_logistic_log_likelihood(np.array([0]), np.array([50.0]), np.array([-5.0]), 17, uniform=1e-3)
    assert log_p[0] == pytest.approx(np.log(1e-3 / 17))


@pytest.mark.parametrize("uniform", [0.0, 1e-3])
def test_logistic_gradients(rng, uniform):
    k = np.array([0, 0, 3, 8, 16, 16, 5, 9])
    mean = np.array([-1.2, 1.1, 0.0, 0.2, -1.1, 1.2, 3.0, -4.0])  # the last ones far in the tails
    log_scale = np.array([-2.0, -1.5, -1.0, 1.0, -1.0, -2.0, -1.7, -1.5])
    ag.gradcheck(
        lambda m, s: discretised_logistic_log_likelihood(k, m, s, 17, uniform=uniform), [mean, log_scale], order=2
    )
    extreme = np.array([-60.0, 60.0] * 4)
    m, s = (ag.Tensor(a.astype(np.float32), requires_grad=True) for a in (mean, extreme))
    ag.sum(discretised_logistic_log_likelihood(k, m, s, 17, uniform=uniform)).backward()
    assert np.isfinite(m.grad).all() and np.isfinite(s.grad).all()


def all_levels_of_a_mixture(levels, logits, mean, log_scale, **settings):
    """Parts (n, M) -> (n, L)."""
    parts = (a[:, None] for a in (logits, mean, log_scale))
    return logistic_mixture_log_likelihood(np.arange(levels), *parts, levels, **settings)


@given(LEVELS, st.integers(1, 4), st.floats(0, 50), st.sampled_from([0.0, 1e-3]), st.integers(0, 99))
def test_mixture_probabilities_of_all_levels_add_up_to_one(levels, m, spread, uniform, seed):
    """Logits of hundreds, means far outside, scales from a thousandth of a bin up."""
    logits, mean, log_scale = np.random.default_rng(seed).standard_normal((3, 2, m)) * [
        [[5 * spread]],
        [[spread]],
        [[3]],
    ]
    for dtype in (np.float64, np.float32):
        rtol = 4 * (levels + m) * float(np.finfo(dtype).eps) * max(1, 5 * spread)  # a logit is rounded by eps of itself
        log_p = all_levels_of_a_mixture(
            levels, logits.astype(dtype), mean.astype(dtype), log_scale.astype(dtype), uniform=uniform
        )
        assert log_p.dtype == dtype and log_p.shape == (2, levels) and np.isfinite(log_p).all()
        np.testing.assert_allclose(np.exp(log_p.astype(np.float64)).sum(-1), 1, rtol=rtol)


def test_mixture_is_the_weighted_sum_of_its_parts(rng):
    logits, mean, log_scale = rng.standard_normal((3, 4, 3))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    parts = np.stack([np.exp(all_levels(17, mean[:, m], log_scale[:, m], uniform=0.1)).T for m in range(3)], -1)
    want = (weights[:, None] * parts).sum(-1)
    np.testing.assert_allclose(np.exp(all_levels_of_a_mixture(17, logits, mean, log_scale, uniform=0.1)), want)
    one = all_levels_of_a_mixture(17, logits[:, :1], mean[:, :1], log_scale[:, :1])
    np.testing.assert_allclose(one, all_levels(17, mean[:, 0], log_scale[:, 0]).T, err_msg="one part has weight 1")


def test_mixture_gradients(rng):
    k = np.array([0, 3, 8, 16])
    parts = [rng.standard_normal((4, 2)) for _ in range(3)]
    ag.gradcheck(lambda *p: logistic_mixture_log_likelihood(k, *p, 17, uniform=1e-3), parts, order=2)


@given(st.floats(-700, 700))
def test_bernoulli_from_logits(logit):
    log_p = bernoulli_log_likelihood(np.array([0, 1]), np.array([logit, logit]))
    assert np.exp(log_p).sum() == pytest.approx(1) and log_p[1] - log_p[0] == pytest.approx(logit)
    assert np.isfinite(bernoulli_log_likelihood(np.array([0, 1]), np.array([logit, logit], np.float32))).all()


def test_bernoulli_and_categorical_gradients(rng):
    k = rng.integers(0, 2, (3, 4))
    ag.gradcheck(lambda a: bernoulli_log_likelihood(k, a), [rng.standard_normal((3, 4))], order=2)
    ag.gradcheck(lambda a: categorical_log_likelihood(k, a), [rng.standard_normal((3, 4, 5))], order=2)


def test_categorical_is_the_log_softmax(rng):
    logits = rng.standard_normal((2, 3, 5))
    for k in range(5):
        got = categorical_log_likelihood(np.full((2, 3), k), logits)
        np.testing.assert_allclose(got, (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[..., k])
    two = np.stack([np.zeros(6), rng.standard_normal(6)], axis=-1)
    k = rng.integers(0, 2, 6)
    np.testing.assert_allclose(categorical_log_likelihood(k, two), bernoulli_log_likelihood(k, two[:, 1]))


def test_levels_are_drawn_by_their_probabilities():
    """Over a grid of u every level comes exactly as often as its probability says."""
    p = np.array([0.5, 0.0, 0.125, 0.375])
    u = (np.arange(8) + 0.5) / 8
    np.testing.assert_array_equal(draw_levels(np.broadcast_to(p, (8, 4)), u), [0, 0, 0, 0, 2, 3, 3, 3])
    assert draw_levels(p[None], np.array([0.0])) == 0 and draw_levels(p[None], np.array([0.5])) == 2
    short = np.array([[0.3, 0.3]])  # rounding that leaves the sum below 1 must not make a level that does not exist
    assert draw_levels(short, np.array([0.99])) == 1
    assert draw_levels(np.full((1, 300), 1 / 300), np.array([0.999])) == 299, "not in a byte"


def test_bad_levels_are_named():
    with pytest.raises(TypeError, match="levels must be integers"):
        bernoulli_log_likelihood(np.array([0.5]), np.zeros(1))
    with pytest.raises(ValueError, match="from 0 to 1, got 0 to 7"):
        bernoulli_log_likelihood(np.array([0, 7]), np.zeros(2))
    with pytest.raises(ValueError, match="from 0 to 16, got 17 to 17"):
        discretised_logistic_log_likelihood(np.array([17]), np.zeros(1), np.zeros(1), 17)
    with pytest.raises(ValueError, match="at least 2"):
        discretised_logistic_log_likelihood(np.array([0]), np.zeros(1), np.zeros(1), 1)
    with pytest.raises(ValueError, match="uniform must be in"):
        discretised_logistic_log_likelihood(np.array([0]), np.zeros(1), np.zeros(1), 2, uniform=1.0)
