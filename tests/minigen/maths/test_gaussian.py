import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

import autograd as ag
from minigen.maths import gaussian

FLOATS = st.floats(-3, 3)


@given(FLOATS, FLOATS, FLOATS)
def test_log_density_is_scipys(x, m, v):
    assert gaussian.log_density(np.array(x), np.array(m), np.array(v)) == pytest.approx(
        norm.logpdf(x, m, np.exp(v / 2))
    )


@given(FLOATS, FLOATS, FLOATS, FLOATS)
def test_kl_is_the_integral(m1, v1, m2, v2):
    kl = gaussian.kl(*map(np.array, (m1, v1, m2, v2)))
    u = np.linspace(-12, 12, 20_001)
    p = norm.pdf(u)
    x = m1 + np.exp(v1 / 2) * u
    difference = norm.logpdf(x, m1, np.exp(v1 / 2)) - norm.logpdf(x, m2, np.exp(v2 / 2))
    assert kl == pytest.approx(float(np.sum(p * difference) * (u[1] - u[0])), rel=1e-7, abs=1e-9)
    assert kl >= -1e-12 and gaussian.kl(m1 + np.zeros(1), v1 + np.zeros(1), m1, v1) == pytest.approx(0)


def test_plain_numbers_widen_nothing():
    x = np.float32([0.5, 2])
    for found in (gaussian.log_density(x, 0.0, -0.1), gaussian.kl(x, x, 0.0, 0.3), gaussian.kl(0.0, 0.3, x, x)):
        assert found.dtype == np.float32
    for zero, one in ((0, 1), (0.0, 1.0)):
        assert gaussian.log_density(x, zero, one).dtype == np.float32
        assert gaussian.kl(x, x, zero, one).dtype == gaussian.kl(zero, one, x, x).dtype == np.float32


def test_plain_numbers_overflow_as_arrays_do():
    x = np.float64([0.5, 2])
    with np.errstate(over="ignore"):
        for log_var in (-800, -800.0, np.full(2, -800.0)):
            np.testing.assert_array_equal(gaussian.log_density(x, 0.0, log_var), [-np.inf, -np.inf])


@given(st.sampled_from([2, 17, 256]), st.floats(-1.5, 1.5), st.floats(-6, 1))
def test_ddpm_eq13_probabilities_of_all_levels_add_up_to_one(levels, mean, log_std):
    x = 2 * np.arange(levels) / (levels - 1) - 1
    log_p = gaussian.discretised_log_likelihood(x, np.array(mean), np.array(log_std), levels)
    assert np.exp(log_p).sum() == pytest.approx(1, rel=1e-12)


def test_far_tails_keep_their_digits():
    x, mean, std = np.array([1.0, -1.0, 0.0, 0.0]), np.array([-1.0, 1.0, 0.9, -0.9]), np.array([0.06, 0.06, 0.05, 0.05])
    got = gaussian.discretised_log_likelihood(x, mean, np.log(std), 17)
    half = 1 / 16
    want = [norm.logsf((1 - half + 1) / 0.06), norm.logcdf((-1 + half - 1) / 0.06)]
    lower, upper = norm.logcdf((-half - 0.9) / 0.05), norm.logcdf((half - 0.9) / 0.05)
    want += 2 * [upper + np.log1p(-np.exp(lower - upper))]  # on either side of the mean
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_float32_is_close_and_has_a_floor_of_its_own():
    x, mean, std = np.zeros(3), np.array([0.0, 0.5, 0.9]), np.array([0.1, 0.2, 0.01])
    want = gaussian.discretised_log_likelihood(x, mean, np.log(std), 17)
    got = gaussian.discretised_log_likelihood(*(a.astype(np.float32) for a in (x, mean, np.log(std))), 17)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [*want[:2], np.log(1e-30)], rtol=1e-5)
    assert want[2] == pytest.approx(np.log(1e-300))


def test_gradients():
    rng = np.random.default_rng(0)
    x = 2 * rng.integers(0, 17, 12) / 16 - 1
    ag.gradcheck(
        lambda m, s: gaussian.discretised_log_likelihood(x, m, s, 17),
        [rng.normal(0, 0.5, 12), rng.normal(-1, 0.3, 12)],
        order=2,
    )
    ag.gradcheck(lambda a, b, c, d: gaussian.kl(a, b, c, d), list(rng.normal(0, 0.5, (4, 3))), order=2)


def test_one_level_is_no_picture():
    with pytest.raises(ValueError, match="at least 2"):
        gaussian.discretised_log_likelihood(np.zeros(1), np.zeros(1), np.zeros(1), 1)
