"""The flow's likelihood against densities that are known: Gaussians, mixtures, and the fact that a density integrates to 1."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import mutant
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import autograd as ag
from minigen.maths import parametrisation, schedules
from minigen.samplers import probability_flow
from minigen.samplers.probability_flow import bits_per_dim, log_likelihood, rademacher, unit_vectors, with_divergence

TIGHT = {"rtol": 1e-9, "atol": 1e-9, "method": "DOP853"}
LIMIT = 1e-6  # of a log density at that tolerance: some hundred steps, each with its own error, and the divergence's d terms


def gaussian(mean, cov, schedule, kind="eps"):
    r"""What is best predicted for data $N(m, \Sigma)$, differentiable:
    $\epsilon^* = \sqrt{1 - \bar\alpha}\, (\bar\alpha \Sigma + (1 - \bar\alpha) I)^{-1} (x - \sqrt{\bar\alpha}\, m)$.
    """

    def model(x, t, cond=None):
        a = float(schedule.alpha_bar_at(t)[0])
        inverse = np.linalg.inv(a * cov + (1 - a) * np.eye(len(cov)))
        flat = ag.reshape(x, (len(t), -1))
        eps = ag.reshape((flat - a**0.5 * mean) @ ((1 - a) ** 0.5 * inverse), x.shape)
        level = schedules.Schedule([1.0, a])
        x_0 = parametrisation.x_0_of(eps, x, 1, level, "eps")
        return parametrisation.target(kind, x_0, eps, 1, level)

    return model


def gaussian_answer(x_0, mean, cov, schedule):
    """ln p_1(x_0) = ln N(x_0; m, C + sigma_1^2 I), and what the prior N(0, I) makes of the code, which the linear flow gives."""
    d, sigma2 = len(cov), schedule.sigma[1] ** 2
    y = x_0.reshape(len(x_0), -1)
    exact = multivariate_normal(mean, cov + sigma2 * np.eye(d)).logpdf(y)
    values, vectors = np.linalg.eigh(cov)
    a = schedule.alpha_bar[-1]
    c_T = a * values + 1 - a
    code = a**0.5 * mean @ vectors + (y - mean) @ vectors * (c_T / (values + sigma2)) ** 0.5
    law = norm(a**0.5 * mean @ vectors, c_T**0.5)
    return exact + norm.logpdf(code).sum(1) - law.logpdf(code).sum(1)


def drawn(seed, d):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((d, d))
    return rng.standard_normal(d), root @ root.T / d + 0.05 * np.eye(d), rng.standard_normal((3, d))


@settings(max_examples=8)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from(parametrisation.KINDS), st.integers(1, 40))
def test_song_eq39_gaussian_data_have_their_exact_density(d, seed, kind, T):
    mean, cov, x_0 = drawn(seed, d)
    schedule = schedules.cosine(T)
    got = log_likelihood(gaussian(mean, cov, schedule, kind), x_0, schedule, kind=kind, **TIGHT)
    np.testing.assert_allclose(got, gaussian_answer(x_0, mean, cov, schedule), rtol=LIMIT, atol=LIMIT)


@pytest.mark.parametrize("schedule", [schedules.linear(1000), schedules.linear(1000).respaced([20, 300, 1000])])
def test_the_ends_of_the_schedule_decide_and_pictures_have_any_shape(schedule):
    mean, cov, x_0 = drawn(0, 4)
    got = log_likelihood(gaussian(mean, cov, schedule), x_0.reshape(3, 2, 2, 1), schedule, **TIGHT)
    np.testing.assert_allclose(got, gaussian_answer(x_0, mean, cov, schedule), rtol=LIMIT, atol=LIMIT)


def test_a_network_of_all_levels_is_told_wrong_times_in_the_gaps_of_a_respaced_schedule():
    """Where the model is not built from the schedule that is given: what a network is, whose times are those of training."""
    trained = schedules.cosine(200)
    mean, cov, x_0 = drawn(0, 1)
    model, want = gaussian(mean, cov, trained), gaussian_answer(x_0, mean, cov, trained)
    errors = [
        abs(log_likelihood(model, x_0, schedule, rtol=1e-6, atol=1e-6) - want).max()
        for schedule in (trained, trained.respaced([1, *range(20, 201, 20)]))
    ]
    assert errors[0] < 1e-4 and errors[1] > 0.1
    ends = [
        probability_flow.sample(model, np.linspace(-2, 2, 5)[:, None], schedule)
        for schedule in (trained, trained.respaced([1, *range(20, 201, 20)]))
    ]
    assert abs(ends[0] - ends[1]).max() > 0.01


def test_with_little_noise_at_the_start_and_pure_noise_at_the_end_it_is_the_density_of_the_data():
    mean, cov, x_0 = drawn(3, 2)
    schedule = schedules.Schedule([1.0, 1 - 1e-9, 0.5, 1e-14])
    got = log_likelihood(gaussian(mean, cov, schedule), x_0, schedule, **TIGHT)
    np.testing.assert_allclose(got, multivariate_normal(mean, cov).logpdf(x_0), rtol=1e-6)


# --- a mixture on a line: the flow keeps quantiles --------------------------------------------------------------------

WEIGHTS, MEANS, STDS = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.1, 0.8]), np.array([0.1, 0.3, 0.05])


def parts(a):
    return a**0.5 * MEANS, (a * STDS**2 + 1 - a) ** 0.5


def mixture(schedule):
    """The best eps for the mixture (n, 1): minus the score of its density, times the noise."""

    def model(x, t, cond=None):
        a = float(schedule.alpha_bar_at(t)[0])
        m, s = parts(a)
        z = (x - m) * (1 / s)
        share = ag.softmax(np.log(WEIGHTS / s) - 0.5 * z * z)
        return (1 - a) ** 0.5 * ag.sum(share * z * (1 / s), -1, keepdims=True)

    return model


def log_density(x, a):
    m, s = parts(a)
    return logsumexp(np.log(WEIGHTS) + norm(m, s).logpdf(x[:, None]), axis=1)


def flowed(x, a, b):
    """Where the flow carries x from the level a to b: the point with the same share of the mixture below it."""
    below = lambda u, a: float(WEIGHTS @ norm(*parts(a)).cdf(u))  # noqa: E731
    return np.array([brentq(lambda v, u=u: below(v, b) - below(u, a), -12, 12, xtol=1e-13) for u in x])


def test_song_eq39_a_mixture_has_its_exact_density():
    schedule = schedules.linear(100)
    first, last = schedule.alpha_bar[1], schedule.alpha_bar[-1]
    x_0 = np.array([-1.2, -0.9, -0.3, 0.2, 0.75, 0.9, 1.5])
    got = log_likelihood(mixture(schedule), x_0[:, None], schedule, **TIGHT)
    code = flowed(first**0.5 * x_0, first, last)
    want = log_density(first**0.5 * x_0, first) + 0.5 * np.log(first) + norm.logpdf(code) - log_density(code, last)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_karras_eq4_samples_keep_their_quantile():
    schedule = schedules.linear(100).respaced([1, 10, 60, 100])
    x_T, seen = np.linspace(-2, 2, 7), []
    model = mixture(schedule)
    x_0 = probability_flow.sample(
        model, x_T[:, None], schedule, callback=lambda t, x, guess: seen.append((t, x, guess)), **TIGHT
    )
    assert [t for t, _, _ in seen] == [4, 3, 2, 1, 0]
    for t, x, guess in seen[:-1]:
        a = schedule.alpha_bar[t]
        np.testing.assert_allclose(x[:, 0], flowed(x_T, schedule.alpha_bar[-1], a), rtol=1e-6, atol=1e-6)
        eps = model(x, np.full(7, schedule.times[t]))
        np.testing.assert_allclose(guess, (x - (1 - a) ** 0.5 * eps) / a**0.5, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(x_0, seen[-1][1])
    np.testing.assert_array_equal(x_0, seen[-2][2])
    in_float32 = lambda x, t, cond: model(x, t).astype(np.float32)  # noqa: E731
    alone = probability_flow.sample(in_float32, x_T[:, None].astype(np.float32), schedule, clip=0.5)
    assert alone.dtype == np.float32 and np.abs(alone).max() == 0.5


@pytest.mark.parametrize("kind", parametrisation.KINDS)
def test_the_kind_of_prediction_changes_no_sample(kind):
    """Nor what the callback sees: the last step is a guess of x_0, the others are the flow's."""
    schedule, (mean, cov, x_T) = schedules.cosine(60).respaced([1, 20, 50]), drawn(5, 2)
    seen = {k: [] for k in ("eps", kind)}
    for k, states in seen.items():
        told = lambda t, x, guess, states=states: states.extend([x, guess])  # noqa: E731
        states.append(
            probability_flow.sample(gaussian(mean, cov, schedule, k), x_T, schedule, kind=k, callback=told, **TIGHT)
        )
    np.testing.assert_allclose(seen[kind], seen["eps"], rtol=1e-6, atol=1e-6)


def test_a_learned_variance_has_no_part_in_the_flow():
    schedule, (mean, cov, x) = schedules.cosine(20), drawn(6, 2)
    model = gaussian(mean, cov, schedule)
    pair = lambda x, t, cond=None: (model(x, t), 0.3 * x)  # noqa: E731
    np.testing.assert_array_equal(log_likelihood(pair, x, schedule), log_likelihood(model, x, schedule))
    got, want = (probability_flow.sample(m, x, schedule) for m in (pair, model))
    np.testing.assert_array_equal(got, want)


def test_the_solver_gets_the_tolerances_that_are_given(monkeypatch):
    seen = []

    def spy(*args, **told):
        seen.append(told)
        return solve_ivp(*args, **told)

    monkeypatch.setattr(probability_flow, "solve_ivp", spy)
    how = {"rtol": 1e-3, "atol": 1e-4, "method": "DOP853"}
    schedule, x = schedules.cosine(2), np.zeros((1, 1))
    for function in (log_likelihood, probability_flow.sample):
        function(gaussian(np.zeros(1), np.eye(1), schedule), x, schedule, **how)
    assert seen == [how, how]


# --- whatever the network says, a flow's density integrates to 1 ------------------------------------------------------


def network(d, seed=0):
    rng = np.random.default_rng(seed)
    w_1, w_2, w_t = 0.5 * rng.standard_normal((d, 16)), rng.standard_normal((16, d)) / 4, rng.standard_normal(16)
    noise = (1 - schedules.linear(100).alpha_bar) ** 0.5

    def model(x, t, cond=None):
        linear = np.interp(t, np.arange(101), noise)[:, None] * x  # right for N(0, I): the rest bends it
        return linear + 0.3 * ag.tanh(x @ w_1 + 0.01 * t[:, None] * w_t) @ w_2

    return model


@pytest.mark.parametrize("d, points", [(1, 1001), (2, 81)])
def test_any_network_has_a_density_that_integrates_to_one(d, points):
    schedule = schedules.linear(100)
    axis = np.linspace(-7, 7, points)
    grid = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1).reshape(-1, d)
    density = np.exp(log_likelihood(network(d), grid, schedule, rtol=1e-6, atol=1e-6))
    edge = (np.abs(grid) > 6.8).any(1)
    assert density[edge].max() < 1e-4 * density.max()  # the grid holds all of it
    assert density.sum() * (axis[1] - axis[0]) ** d == pytest.approx(1, abs=1e-3)


# --- the divergence ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_song_eq40_hutchinson_is_unbiased_over_all_signs(d, seed):
    x = np.random.default_rng(seed).standard_normal((2, d))
    model = network(d, seed)
    field = lambda x: model(x, np.array([1.0, 50.0]))  # noqa: E731
    value, trace = with_divergence(field, x, unit_vectors(x.shape))
    jacobian = np.stack([(field(x + 1e-5 * e) - field(x - 1e-5 * e)) / 2e-5 for e in np.eye(d)], 2)
    np.testing.assert_allclose(trace, np.trace(jacobian, axis1=1, axis2=2), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(value, field(x))
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=d)))[:, None]
    _, mean = with_divergence(field, x, signs / len(signs) ** 0.5)
    np.testing.assert_allclose(mean, trace, rtol=1e-11, atol=1e-11)


def test_probes_are_signs_and_their_sum_is_a_mean(rng):
    z = rademacher(rng, 5, (3, 2, 2, 1))
    assert z.shape == (5, 3, 2, 2, 1)
    np.testing.assert_allclose(z**2, 0.2)
    assert len(np.unique(np.sign(z).reshape(5, -1), axis=0)) == 5 and abs(z.sum()) < z.size * z.max() / 2


def test_song_eq40_is_exact_where_pixels_do_not_see_each_other(rng):
    """A diagonal Jacobian: every sign is squared away."""
    schedule, x_0 = schedules.linear(50), rng.standard_normal((4, 3))
    model = gaussian(0.3, np.diag([0.2, 0.5, 1.5]), schedule)
    exact = log_likelihood(model, x_0, schedule)
    for probes in (1, 3):
        got = log_likelihood(model, x_0, schedule, divergence="hutchinson", probes=probes, rng=rng)
        np.testing.assert_allclose(got, exact, rtol=1e-12)


def test_song_eq40_the_probes_stay_along_the_path_and_their_mean_is_the_likelihood():
    """The integral is linear in z z^T and the path does not depend on it, so all signs together give the exact value."""
    mean, cov, x_0 = drawn(5, 3)
    schedule = schedules.linear(100)
    signs, got = np.array(list(itertools.product([0, 1], repeat=3))), []
    for k in range(len(signs)):

        class Tape:
            def integers(self, low, high, shape, row=signs[k]):
                assert (low, high, shape) == (0, 2, (1, 3, 3))
                return np.broadcast_to(row, shape)

        model = gaussian(mean, cov, schedule)
        got.append(log_likelihood(model, x_0, schedule, divergence="hutchinson", rng=Tape(), **TIGHT))
    want = log_likelihood(gaussian(mean, cov, schedule), x_0, schedule, **TIGHT)
    np.testing.assert_allclose(np.mean(got, 0), want, rtol=LIMIT, atol=LIMIT)
    assert np.std(got, 0).min() > 0.01  # and one alone is not


# --- bits a dimension -------------------------------------------------------------------------------------------------


class Uniform:
    """A tape for `random`."""

    def __init__(self, u):
        self.u = u

    def random(self, shape):
        return self.u.reshape(shape)


def test_bits_per_dim_is_the_density_of_the_bin_in_bits():
    """Data N(0, s^2) under L levels: -log2 of the density at the spread point times the bin's width."""
    schedule, levels, s = schedules.linear(200), 17, 0.4
    u = np.array([0.0, 0.25, 0.999])
    x_0 = np.array([[-1.0], [0.5], [1.0]])
    got = bits_per_dim(gaussian(0.0, np.eye(1) * s**2, schedule), x_0, schedule, levels, rng=Uniform(u), **TIGHT)
    spread = x_0 + (u[:, None] - 0.5) * 2 / 16
    want = -(gaussian_answer(spread, np.zeros(1), np.eye(1) * s**2, schedule) + np.log(2 / 16)) / np.log(2)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_theis_2015_bits_per_dim_bound_the_bits_of_the_bin():
    schedule, levels, s = schedules.linear(200), 5, 0.3
    points = (np.arange(200) + 0.5) / 200
    model = gaussian(0.0, np.eye(1) * s**2, schedule)
    std = (s**2 + schedule.sigma[1] ** 2) ** 0.5
    for level in (0.0, 0.5, 1.0):
        got = bits_per_dim(model, np.full((200, 1), level), schedule, levels, rng=Uniform(points)).mean()
        bits = -np.log2(norm.cdf((level + 0.25) / std) - norm.cdf((level - 0.25) / std))
        mean = -(norm.logpdf(0, 0, std) - (level**2 + 0.5**2 / 12) / (2 * std**2) + np.log(0.5)) / np.log(2)
        assert got == pytest.approx(mean, rel=1e-3) and got > bits


def test_mathsmd_unit_law_pictures_in_0_1_have_the_same_bits():
    """On data scaled by half, to width 1 / (L - 1) a level, bits = (nll / d + ln (L - 1)) / ln 2."""
    schedule, levels = schedules.linear(100), 256
    mean, cov, x_0 = drawn(1, 2)
    got = bits_per_dim(gaussian(mean, cov, schedule), x_0, schedule, levels, rng=Uniform(np.full((3, 2), 0.5)), **TIGHT)
    nll = -gaussian_answer(x_0, mean, cov, schedule) - 2 * np.log(2)  # a density of x / 2 is 2^d times as high
    np.testing.assert_allclose(got, (nll / 2 + np.log(levels - 1)) / np.log(2), rtol=1e-6)


# --- planted bugs, contracts, bad input -------------------------------------------------------------------------------

MUTANTS = {
    "none": ("angles(schedule)[1], angles", "angles(schedule)[1], angles"),
    "sign of the divergence": ("prior + integral", "prior - integral"),
    "no change from x_1 to y_1": ("integral + 0.5 * d *", "integral + 0.0 * d *"),
    "change the wrong way": ("integral + 0.5 * d *", "integral - 0.5 * d *"),
    "starts at x_0, not at x_1": ("schedule.alpha_bar[1] ** 0.5 * to_numpy", "1.0 * to_numpy"),
    "starts at the second level": ("angles(schedule)[1], angles", "angles(schedule)[2], angles"),
    "stops a level early": ("angles(schedule)[-1], start", "angles(schedule)[-2], start"),
    "the prior without its constant": ("- 0.5 * d * np.log(2 * np.pi)", ""),
    "eps for v": ('target("v", ', 'target("eps", '),
    "the time of another level": ("schedule.times_at(np.tan(angle))", "schedule.times_at(1.1 * np.tan(angle))"),
    "cos for its square": ("np.cos(angle) ** 2]", "np.cos(angle)]"),
    "half the divergence": ("total = total + (z *", "total = total + (0.5 * z *"),
    "one dimension left out": ("np.eye(d).reshape(d, ", "np.eye(d)[:1].reshape(1, "),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    module = mutant(probability_flow, *MUTANTS[name])
    mean, cov, x_0 = drawn(2, 2)
    schedule = schedules.linear(100)
    want = gaussian_answer(x_0, mean, cov, schedule)
    got = module.log_likelihood(gaussian(mean, cov, schedule), x_0, schedule, **TIGHT)
    assert np.allclose(got, want, rtol=1e-6, atol=1e-6) == (name == "none")


def test_networks_in_float32_and_conditions_and_learned_variances(rng):
    schedule, told = schedules.linear(50), []

    def model(x, t, cond=None):
        assert ag.raw(x).dtype == np.float32 and len(t) == 2
        told.append((float(t[0]), cond))
        return x * np.float32(0.9), x  # a pair: the share of the variance is not part of the flow

    x_0 = rng.standard_normal((2, 3)).astype(np.float32)
    before = x_0.copy()
    got = log_likelihood(model, x_0, schedule, cond="c")
    assert got.shape == (2,) and got.dtype == np.float64 and np.isfinite(got).all()
    assert min(told)[0] == pytest.approx(1) and max(told)[0] == pytest.approx(50) and {c for _, c in told} == {"c"}
    np.testing.assert_array_equal(x_0, before)
    told.clear()
    probability_flow.sample(model, x_0, schedule, cond="c")
    assert {c for _, c in told} == {"c"}
    calls = []
    for method in ("RK45", "DOP853"):
        told.clear()
        log_likelihood(model, x_0, schedule, method=method)
        calls.append(len(told))
    assert calls[0] != calls[1]


def test_a_chain_of_one_level_is_the_prior_there():
    schedule = schedules.cosine(1)
    x_0 = np.array([[0.3, -0.2]])
    got = log_likelihood(network(2), x_0, schedule)
    np.testing.assert_allclose(got, norm(scale=schedule.alpha_bar[1] ** -0.5).logpdf(x_0).sum(1))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"divergence": "trace"}, "divergence must be 'exact' or 'hutchinson', got 'trace'"),
        ({"divergence": "hutchinson"}, "give it an rng"),
        ({"probes": 0}, "probes must be at least 1, got 0"),
        ({"kind": "epsilon"}, "kind must be one of"),
        ({"schedule": schedules.zero_terminal_snr(schedules.cosine(5))}, "above 0"),
    ],
)
def test_bad_input_is_named(change, message):
    call = functools.partial(log_likelihood, network(2), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=message):
        call(**{"schedule": schedules.cosine(5), **change})


def test_a_broken_model_stops_the_flow_at_its_time():
    bad = lambda x, t, cond=None: x * (np.nan if t[0] > 3 else 1.0)  # noqa: E731
    with pytest.raises(FloatingPointError, match=r"NaN or Inf at time (3|4|5)"):
        log_likelihood(bad, np.zeros((1, 2)), schedules.cosine(5))
    with pytest.raises(TypeError, match="differentiable"):
        log_likelihood(lambda x, t, cond: ag.raw(x), np.zeros((1, 2)), schedules.cosine(5))
    with pytest.raises(ValueError, match="levels must be at least 2, got 1"):
        bits_per_dim(bad, np.zeros((1, 2)), schedules.cosine(5), 1, rng=np.random.default_rng(0))
