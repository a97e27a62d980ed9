"""Ancestral sampling against its exact law on Gaussian data, and against planted bugs."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import OneHotNoise, gaussian_eps

from minigen.maths import diffusion, parametrisation, schedules
from minigen.maths.schedules import uniform_times
from minigen.samplers import ancestral


def noise_weights(schedule, std, variance, step=ancestral.step):
    """The weight of x_T and of every draw in the result, for data N(0, std^2): exact, no sampling."""
    x_T = np.zeros((schedule.T, 1))
    x_T[0] = 1
    model = gaussian_eps(0.0, std, schedule)
    before, ancestral.step = ancestral.step, step
    try:
        return ancestral.sample(model, x_T, schedule, rng=OneHotNoise(), variance=variance)[:, 0]
    finally:
        ancestral.step = before


def output_variance(schedule, std, variance, step=ancestral.step):
    return float(np.sum(noise_weights(schedule, std, variance, step) ** 2))


def recursion(schedule, std, variance):
    """The same variance from the papers' formulas alone: V <- A^2 V + sigma^2."""
    a, b = schedule.alpha_bar, schedule.beta
    V = 1.0
    for t in range(schedule.T, 0, -1):
        gain = (1 - a[t]) / (a[t] * std**2 + 1 - a[t])  # eps* = sqrt(1-a) x / (a s^2 + 1 - a)
        A = (1 - b[t] / (1 - a[t]) * gain) / np.sqrt(1 - b[t])  # eq. 11
        sigma2 = {"small": b[t] * (1 - a[t - 1]) / (1 - a[t]), "large": b[t]}[variance] if t > 1 else 0.0
        V = A**2 * V + sigma2
    return V


# Known for zero-mean data of variance s^2, linear schedule, T = 1000 unless said: (schedule, s^2, large, small)
KNOWN = {
    "unit data": (schedules.linear(1000), 1.0, 0.9999, 0.991067),
    "s^2 = 1/4": (schedules.linear(1000), 0.25, 0.250752, 0.246125),
    "cosine": (schedules.cosine(1000), 0.25, 0.250419, 0.247997),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("variance", ["large", "small"])
def test_ddpm_algorithm_2_gives_the_known_variance(name, variance):
    schedule, s2, large, small = KNOWN[name]
    got = output_variance(schedule, s2**0.5, variance)
    assert got == pytest.approx(
        {"large": large, "small": small}[variance], abs=6e-7 if s2 < 1 else 6e-5 if variance == "large" else 6e-7
    )
    assert got == pytest.approx(recursion(schedule, s2**0.5, variance), rel=1e-11)


@pytest.mark.parametrize(
    "n, large, small", [(10, 0.35852, 0.10422), (25, 0.28778, 0.16347), (50, 0.26788, 0.19642), (100, 0.25865, 0.21898)]
)
def test_iddpm_eq19_respaced_chain_gives_the_known_variance(n, large, small):
    grid = schedules.linear(1000).respaced((1 + np.round(np.arange(n) * 999 / (n - 1))).astype(int))
    assert output_variance(grid, 0.5, "large") == pytest.approx(large, abs=6e-6)
    assert output_variance(grid, 0.5, "small") == pytest.approx(small, abs=6e-6)


@given(
    st.integers(2, 30), st.sampled_from(["small", "large"]), st.floats(0.05, 3), st.integers(0, 2**32 - 1), st.data()
)
def test_any_chain_follows_the_recursion(T, variance, std, seed, data):
    ratios = np.random.default_rng(seed).uniform(0.05, 0.999, T)
    schedule = schedules.Schedule(np.concatenate([[1.0], np.cumprod(ratios)]))
    steps = data.draw(st.integers(1, T))
    grid = schedule.respaced(uniform_times(T, steps))
    assert output_variance(grid, std, variance) == pytest.approx(recursion(grid, std, variance), rel=1e-9)


def test_small_is_exact_for_a_point_and_large_for_unit_data():
    for schedule in (schedules.linear(100), schedules.cosine(7).respaced([2, 5, 7])):
        x_T = np.random.default_rng(0).standard_normal((50, 3))
        x_0 = ancestral.sample(gaussian_eps(1.5, 0.0, schedule), x_T, schedule, rng=np.random.default_rng(1))
        np.testing.assert_allclose(x_0, 1.5, rtol=1e-9)
    # for N(0, I) every reverse step of variance beta keeps unit variance; only the noiseless last step takes beta_1
    # away
    schedule = schedules.linear(1000)
    assert output_variance(schedule, 1.0, "large") == pytest.approx(1 - schedule.beta[1], rel=1e-9)


MUTANTS = {
    "noise on the last step": {"last_noise": True},
    "no root of sigma": {"sigma2": lambda s, t: s.beta_tilde[t] ** 2},
    "beta for beta tilde": {"sigma2": lambda s, t: s.beta[t]},
    "alpha_bar for alpha": {"alpha": lambda s, t: s.alpha_bar[t]},
    "minus for plus": {"sign": -1},
    "t off by one": {"shift": 1},
    "none": {},
}


def eq11_step(x, t, x_0, noise, s, *, sigma, score=None, sigma2=None, alpha=None, sign=1, shift=0, last_noise=False):
    """The step by eq. 11 and its own variance, with one thing changed."""
    eps = sign * (x - np.sqrt(s.alpha_bar[t]) * x_0) / np.sqrt(1 - s.alpha_bar[t])
    t = max(t - shift, 1)
    alpha_t = s.alpha[t] if alpha is None else alpha(s, t)
    mean = (x - s.beta[t] / np.sqrt(1 - s.alpha_bar[t]) * eps) / np.sqrt(alpha_t)
    if noise is None:
        return mean + (0.01 if last_noise else 0.0)
    return mean + np.sqrt(s.beta_tilde[t] if sigma2 is None else sigma2(s, t)) * noise


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    schedule = schedules.linear(50)
    exact = recursion(schedule, 0.5, "small")
    got = output_variance(schedule, 0.5, "small", functools.partial(eq11_step, **MUTANTS[name]))
    assert (got == pytest.approx(exact, rel=1e-9)) == (name == "none")


def test_levels_told_to_the_model_and_to_the_callback():
    schedule = schedules.cosine(20).respaced([4, 9, 20])
    told, seen = [], []

    def model(x, t, cond=None):
        told.append((t.tolist(), cond))
        return x * 0

    x_T = np.ones((2, 1), np.float32)
    x_0 = ancestral.sample(
        model,
        x_T,
        schedule,
        rng=np.random.default_rng(0),
        cond="c",
        callback=lambda t, x, guess: seen.append((t, x.copy(), guess)),
    )
    assert told == [([20, 20], "c"), ([9, 9], "c"), ([4, 4], "c")]
    assert [t for t, _, _ in seen] == [3, 2, 1, 0]
    np.testing.assert_array_equal(seen[0][1], x_T)
    np.testing.assert_array_equal(seen[-1][1], x_0)
    assert x_0.dtype == np.float32 and (x_T == 1).all()


def test_draws_are_part_of_the_contract():
    shapes = []

    class Counting:
        def standard_normal(self, shape):
            shapes.append(shape)
            return np.zeros(shape)

    ancestral.sample(lambda x, t, c: x * 0, np.zeros((3, 2)), schedules.cosine(5), rng=Counting())
    assert shapes == [(3, 2)] * 4


def test_clip_limits_the_guess():
    schedule = schedules.cosine(10)
    guesses = []
    ancestral.sample(
        lambda x, t, c: -5 * np.ones_like(x),
        np.zeros((1, 1)),
        schedule,
        rng=np.random.default_rng(0),
        clip=1.0,
        callback=lambda t, x, g: guesses.append(float(g[0, 0])) if t else None,
    )
    assert max(np.abs(guesses)) <= 1


def test_a_broken_model_stops_the_sampler_at_its_step():
    model = lambda x, t, c: x * (np.nan if t[0] == 3 else 1)  # noqa: E731
    with pytest.raises(FloatingPointError, match=r"level 3 of 5 \(time 3\)"):
        ancestral.sample(model, np.zeros((1, 1)), schedules.cosine(5), rng=np.random.default_rng(0))
    pair, how = lambda x, t, c: (x, model(x, t, c)), {"rng": np.random.default_rng(0), "variance": "learned"}
    with pytest.raises(FloatingPointError, match=r"level 3 of 5 \(time 3\)"):
        ancestral.sample(pair, np.zeros((1, 1)), schedules.cosine(5), **how)
    with pytest.raises(ValueError, match="'learned' needs a model that returns a pair"):
        ancestral.sample(lambda x, t, c: x, np.zeros((1, 1)), schedules.cosine(5), **how)
    assert [ancestral.sigma(1, schedules.cosine(5), variance) for variance in ("small", "large")] == [0, 0]
    with pytest.raises(ValueError, match="variance"):
        ancestral.sigma(2, schedules.cosine(5), "medium")


# --- learned variance, other predictions, the classifier's pull -------------------------------------------------------


def exact_variance(schedule, std, t):
    """Var(x_{t-1} | x_t) for data N(0, s^2): beta tilde, and what is not known of x_0."""
    a, v = schedule.alpha_bar, schedule.alpha_bar[t] * std**2 + 1 - schedule.alpha_bar[t]
    of_x_0 = std**2 * (1 - a[t]) / v
    return schedule.beta_tilde[t] + (np.sqrt(a[t - 1]) * schedule.beta[t] / (1 - a[t])) ** 2 * of_x_0


@pytest.mark.parametrize("steps", [1, 3, 10, 50])
@pytest.mark.parametrize("std", [0.2, 0.5, 1.0, 2.0])
def test_iddpm_eq15_with_the_best_v_every_marginal_is_exact(steps, std):
    """Nothing is lost by taking few steps: the variance is that of the data, less what the noiseless last step leaves out."""
    schedule = schedules.linear(200).respaced(uniform_times(200, steps))
    mean_model = gaussian_eps(0.0, std, schedule)

    def model(x, t, cond=None):
        level = int(np.flatnonzero(schedule.times == t[0])[0])
        if level == 1:
            return mean_model(x, t), x * 0
        low, high = np.log(schedule.beta_tilde[level]), np.log(schedule.beta[level])
        v = (np.log(exact_variance(schedule, std, level)) - low) / (high - low)
        assert std > 1 or -1e-9 <= v <= 1 + 1e-9
        return mean_model(x, t), np.full_like(x, v)

    x_T = np.zeros((schedule.T, 1))
    x_T[0] = np.sqrt(schedule.alpha_bar[-1] * std**2 + 1 - schedule.alpha_bar[-1])
    weights = ancestral.sample(model, x_T, schedule, rng=OneHotNoise(), variance="learned")[:, 0]
    a = schedule.alpha_bar[1]
    assert np.sum(weights**2) == pytest.approx(a * std**4 / (a * std**2 + 1 - a), rel=1e-9)


def test_iddpm_eq15_the_range_ends_at_the_two_fixed_variances():
    for T in (2, 20):
        s = schedules.cosine(T)
        for t in range(2, T + 1):
            assert np.exp(ancestral.learned_log_variance(0.0, t, s)) == pytest.approx(s.beta_tilde[t])
            assert np.exp(ancestral.learned_log_variance(1.0, t, s)) == pytest.approx(s.beta[t])
        assert np.exp(ancestral.learned_log_variance(0.0, 1, s)) == pytest.approx(s.beta_tilde[2])
    assert np.isfinite(ancestral.learned_log_variance(0.3, 1, schedules.cosine(1)))


@pytest.mark.parametrize("kind", ["x_0", "v", "score"])
def test_every_prediction_walks_the_same_path(kind, rng):
    schedule = schedules.linear(40)
    eps_model = gaussian_eps(0.7, 0.4, schedule)

    def model(x, t, cond=None):
        level = int(t[0])
        eps = eps_model(x, t)
        x_0 = parametrisation.x_0_of(eps, x, level, schedule, "eps")
        return parametrisation.target(kind, x_0, eps, level, schedule)

    x_T = rng.standard_normal((5, 3))
    noises = [np.random.default_rng(3) for _ in range(2)]
    want = ancestral.sample(eps_model, x_T, schedule, rng=noises[0])
    got = ancestral.sample(model, x_T, schedule, rng=noises[1], kind=kind)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("at", ["mean", "x_t"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_adm_algorithm_1_a_constant_pull_shifts_the_mean_by_the_sum_of_the_variances(at, variance):
    """ln p(y | x) = k x has the gradient k everywhere, so both places agree: each step's shift is sigma^2 k, carried on."""
    schedule, k, std = schedules.linear(60), 0.3, 0.5
    a, b = schedule.alpha_bar, schedule.beta
    told = []

    def score(x, t, cond):
        told.append(int(t[0]))
        return np.full_like(x, k)

    got = ancestral.sample(
        gaussian_eps(0.0, std, schedule),
        np.zeros((1, 1)),
        schedule,
        rng=Zeros(),
        variance=variance,
        score=score,
        score_at=at,
    )
    want = 0.0
    for t in range(schedule.T, 0, -1):
        gain = (1 - a[t]) / (a[t] * std**2 + 1 - a[t])
        want = (1 - b[t] / (1 - a[t]) * gain) / np.sqrt(1 - b[t]) * want
        want += ancestral.variances(schedule, variance)[t] * k if t > 1 else 0.0
    assert float(got[0, 0]) == pytest.approx(want, rel=1e-9)
    assert told == list(range(60, 1, -1) if at == "x_t" else range(59, 0, -1))


def test_adm_algorithm_1_the_gradient_is_taken_where_it_says(rng):
    """ln p(y | x) = -x^2 / 2: at the mean the pull is -mean, at x_t it is -x_t."""
    schedule = schedules.linear(50)
    x, x_0 = rng.standard_normal((2, 4, 3))
    mean = diffusion.posterior_mean(x_0, x, 7, schedule)
    at_mean = ancestral.step(x, 7, x_0, x * 0, schedule, sigma=0.5, score=lambda m: -m)
    np.testing.assert_allclose(at_mean, mean - 0.25 * mean)
    at_x_t = ancestral.step(x, 7, x_0, x * 0, schedule, sigma=0.5, score=-x)
    np.testing.assert_allclose(at_x_t, mean - 0.25 * x)


class Zeros:
    """A tape of zeros."""

    def standard_normal(self, shape):
        return np.zeros(shape)
