"""Ancestral sampling against its exact law on Gaussian data, and against planted bugs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import OneHotNoise, gaussian_eps

from minigen.maths import schedules
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
    # for N(0, I) every reverse step of variance beta keeps unit variance; only the noiseless last step takes beta_1 away
    schedule = schedules.linear(1000)
    assert output_variance(schedule, 1.0, "large") == pytest.approx(1 - schedule.beta[1], rel=1e-9)


MUTANTS = {
    "noise on the last step": lambda x, t, e, z, s, variance, clip: ancestral_with(x, t, e, z, s, sigma2=s.beta[t]),
    "no root of sigma": lambda x, t, e, z, s, variance, clip: ancestral_with(
        x, t, e, z, s, sigma2=s.beta_tilde[t] ** 2
    ),
    "beta for beta tilde": lambda x, t, e, z, s, variance, clip: ancestral_with(
        x, t, e, z, s, sigma2=s.beta[t] * (t > 1)
    ),
    "alpha_bar for alpha": lambda x, t, e, z, s, variance, clip: ancestral_with(x, t, e, z, s, alpha=s.alpha_bar[t]),
    "minus for plus": lambda x, t, e, z, s, variance, clip: ancestral_with(x, t, -e, z, s),
    "t off by one": lambda x, t, e, z, s, variance, clip: ancestral_with(x, max(t - 1, 1), e, z, s, last=t == 1),
}


def ancestral_with(x, t, eps, noise, s, sigma2=None, alpha=None, last=None):
    """Eq. 11 with one thing changed."""
    alpha = s.alpha[t] if alpha is None else alpha
    sigma2 = s.beta_tilde[t] if sigma2 is None else sigma2
    mean = (x - s.beta[t] / np.sqrt(1 - s.alpha_bar[t]) * eps) / np.sqrt(alpha)
    return mean + np.sqrt(sigma2) * (0 if noise is None else noise) + (0 if noise is not None else 0.001 * (sigma2 > 0))


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    def mutant(x, t, eps, noise, schedule, *, variance, clip):
        return MUTANTS[name](x, t, eps, noise, schedule, variance, clip)

    schedule = schedules.linear(50)
    exact = recursion(schedule, 0.5, "small")
    assert output_variance(schedule, 0.5, "small", lambda *a, **k: ancestral_with(*a)) == pytest.approx(exact, rel=1e-9)
    assert output_variance(schedule, 0.5, "small", mutant) != pytest.approx(exact, rel=1e-6)


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
    with pytest.raises(FloatingPointError, match=r"step 3 \(time 3\)"):
        ancestral.sample(model, np.zeros((1, 1)), schedules.cosine(5), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="variance"):
        ancestral.sigma(2, schedules.cosine(5), "medium")
