"""Improved DDPM against exact answers: closed forms of Gaussian data, enumerations, and the traps that its file lists.

Expectations over Gaussian data need no samples: a term of the bound is quadratic in (x_0, eps), so its mean over the
four points (+-s, +-1), which have the same first three moments, is its mean over N(0, s^2) x N(0, 1) exactly.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import gaussian_eps

import autograd as ag
from minigen.data import Split, load
from minigen.maths import diffusion, gaussian, schedules
from minigen.models import ddpm
from minigen.models import improved_ddpm as iddpm
from minigen.samplers import ancestral
from minigen.train.loop import Trainer
from minigen.train.run import CHECKPOINT, Run, train

SIGNS_0, SIGNS_1 = np.array([1.0, 1, -1, -1]), np.array([1.0, -1, 1, -1])  # of x_0 and of eps
SMALL = {"base": 8, "heads": 1, "T": 12, "batch_size": 16}


def exact_log_variance(schedule, s):
    """ln of the variance of $q(x_{t-1} | x_t)$ for data N(0, s^2), (T + 1,): $V_{t-1} beta_t / V_t$; entry 0 is no level."""
    V = schedule.alpha_bar * s**2 + 1 - schedule.alpha_bar
    return np.log(np.append(np.nan, V[:-1] * schedule.beta[1:] / V[1:]))


def best_v(schedule, s):
    """The v whose variance (eq. 15) is that one, (T + 1,)."""
    low, high = ancestral.log_variance_range(schedule)
    return (exact_log_variance(schedule, s) - low) / (high - low)


def closed_forms(schedule, s):
    """$E L_{t-1}$ in nats a dimension, by the best mean and variance, for t = 2..T: half the log ratio of two variances."""
    return 0.5 * (exact_log_variance(schedule, s)[2:] - np.log(schedule.beta_tilde[2:]))


def at_four_points(schedule, t, s):
    """x_0, x_t, eps and the best eps_theta, (4, 1) each."""
    x_0, eps = s * SIGNS_0[:, None], SIGNS_1[:, None]
    x_t = diffusion.q_sample(x_0, t, eps, schedule)
    return x_0, x_t, eps, gaussian_eps(0.0, s, schedule)(x_t, np.full(4, schedule.times[t]))


class Scripted:
    """A generator whose normal numbers are the signs of the four points."""

    def standard_normal(self, shape):
        return SIGNS_1.reshape(-1, *(1,) * (len(shape) - 1)) * np.ones(shape)


# --- eqs. 4, 15, 16: closed forms ------------------------------------------------------------------------------------


@given(st.integers(3, 60), st.sampled_from(["cosine", "linear"]), st.floats(0.05, 1))
def test_iddpm_eq15_best_v_lies_in_its_range(T, name, s):
    """For data of variance at most 1 (in units of the noise), as pictures in [-1, 1] are; for wider data beta is no bound."""
    schedule = schedules.make(name, T + 20)
    v = best_v(schedule, s)[2:]
    assert np.all((v > -1e-9) & (v < 1 + 1e-9))
    assert np.all(best_v(schedule, 2.0)[2:] > 1)


@pytest.mark.parametrize("name, T", [("cosine", 50), ("linear", 60), ("cosine", 3)])
@pytest.mark.parametrize("s", [0.3, 1.0, 2.0])
def test_iddpm_eq4_every_term_at_the_best_v_is_its_closed_form(name, T, s):
    schedule = schedules.make(name, T)
    want, v = closed_forms(schedule, s), best_v(schedule, s)
    for t in range(2, T + 1):
        x_0, x_t, _, eps_theta = at_four_points(schedule, t, s)
        got = iddpm.bound_term(x_0, x_t, t, eps_theta, np.full((4, 1), v[t]), schedule, 256)
        assert got.mean() == pytest.approx(want[t - 2], rel=1e-6, abs=1e-11)
        for worse in (v[t] - 0.2, v[t] + 0.2):
            more = iddpm.bound_term(x_0, x_t, t, eps_theta, np.full((4, 1), worse), schedule, 256)
            assert more.mean() > got.mean(), "the best v is the best"


@pytest.mark.parametrize("steps", [25, 6])
def test_iddpm_eq4_and_eq19_the_whole_bound_is_the_sum_of_closed_forms(steps):
    """Also on a respaced chain. The decoder with many narrow levels is a density: its closed form has the bin's width."""
    s, levels, shape = 0.3, 2**14 + 1, (4, 2, 3, 1)
    training = schedules.cosine(25)
    schedule = training.respaced(schedules.uniform_times(25, steps))
    v = dict(zip(schedule.times.tolist(), [np.nan, 0.4, *best_v(schedule, s)[2:].tolist()]))  # 0.4: some decoder
    oracle = gaussian_eps(0.0, s, training)

    def model(x_t, t):
        return oracle(x_t, t), np.full(x_t.shape, v[int(t[0])])

    x_0 = s * SIGNS_0.reshape(4, 1, 1, 1) * np.ones(shape)
    bound = iddpm.variational_bound(model, x_0, schedule, levels, rng=Scripted(), clip=None)
    a = schedule.alpha_bar[-1]
    prior = 0.5 * (-np.log(1 - a) - a + a * s**2)
    # E -ln N(x_0; mu, Sigma), where E (x_0 - mu)^2 is the variance of x_0 given x_1, less ln of the bin's width
    log_var = ancestral.learned_log_variance(0.4, 1, schedule)
    miss = np.exp(exact_log_variance(schedule, s)[1] - log_var)
    decoder = 0.5 * (np.log(2 * np.pi) + log_var + miss) - np.log(2 / (levels - 1))
    want = np.array([decoder, *closed_forms(schedule, s)]) / np.log(2)
    # the network saw x_t in float32: its eps is off by up to 1e-7, which the weights of the terms, up to 10, stretch
    np.testing.assert_allclose(bound.terms, want, rtol=2e-5, atol=2e-6)
    assert bound.prior == pytest.approx(prior / np.log(2), abs=1e-12)
    assert bound.total == pytest.approx(want.sum() + prior / np.log(2), rel=2e-5)


def test_iddpm_eq15_v_0_and_1_are_the_two_fixed_variances(rng):
    schedule = schedules.linear(40)
    x_0, eps, guess = rng.standard_normal((3, 5, 4))
    for t in (2, 20, 40):
        x_t = diffusion.q_sample(x_0, t, eps, schedule)
        for v, name in ((0.0, "small"), (1.0, "large")):
            got = iddpm.bound_term(x_0, x_t, t, guess, np.full(x_0.shape, v), schedule, 256)
            want = ddpm.bound_term(x_0, x_t, t, guess, schedule, 256, name, clip=None)
            np.testing.assert_allclose(got, want, rtol=1e-9)
    x_1 = diffusion.q_sample(x_0, 1, eps, schedule)
    got = iddpm.bound_term(x_0, x_1, 1, guess, np.ones(x_0.shape), schedule, 256, clip=1.0)
    np.testing.assert_allclose(got, ddpm.bound_term(x_0, x_1, 1, guess, schedule, 256, clip=1.0), rtol=1e-9)


def test_times_of_a_batch_are_told_apart(rng):
    """An array of times, time 1 among them, gives each sample the term of its own time."""
    schedule = schedules.cosine(9)
    t = np.array([1, 5, 1, 9, 2])
    x_0, eps, guess, v = rng.standard_normal((4, 5, 2, 2, 1))
    x_t = diffusion.q_sample(x_0, t, eps, schedule)
    together = iddpm.bound_term(x_0, x_t, t, guess, v, schedule, 17)
    for i, level in enumerate(t.tolist()):
        one = slice(i, i + 1)
        alone = iddpm.bound_term(x_0[one], x_t[one], level, guess[one], v[one], schedule, 17)
        assert together[i] == pytest.approx(alone[0], rel=1e-12)


@pytest.mark.parametrize("t", [1, 2, 12])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_ddpm_eq13_the_decoder_sums_to_one(levels, t, rng):
    """Over all grey levels of x_0, whatever the network says: the first term is the code length of a real code."""
    schedule = schedules.cosine(12)
    grey = 2 * np.arange(levels)[:, None] / (levels - 1) - 1.0
    x_1 = np.full((levels, 1), 0.3)
    for guess, v in rng.normal(0, 1, (5, 2)):
        nats = iddpm.bound_term(grey, x_1, 1, np.full_like(x_1, guess), np.full_like(x_1, v), schedule, levels)
        assert np.exp(-nats).sum() == pytest.approx(1, abs=1e-12)


def test_iddpm_eq16_is_the_two_losses_and_the_bound_is_a_sum_over_times(rng):
    """Nats a dimension, times T: in 2 dimensions and at T = 7 every factor shows."""
    schedule, n = schedules.cosine(7), 3
    x_0, eps, guess, v = rng.standard_normal((4, n, 2))
    t = np.array([2, 7, 1])
    x_t = diffusion.q_sample(x_0, t, eps, schedule)
    bound = iddpm.l_vlb(x_0, x_t, t, guess, v, schedule, 17)
    np.testing.assert_allclose(bound, 7 * iddpm.bound_term(x_0, x_t, t, guess, v, schedule, 17) / 2, rtol=1e-12)
    hybrid = iddpm.l_hybrid(x_0, x_t, t, eps, guess, v, schedule, 17, lam=0.25)
    np.testing.assert_allclose(hybrid, np.mean((eps - guess) ** 2, axis=1) + 0.25 * bound, rtol=1e-12)


def test_bits_are_nats_over_ln_2():
    """A term of ln 2 nats in every dimension is one bit a dimension: the KL of two variances, solved for v."""
    schedule = schedules.linear(30)
    t = 10
    want = np.log(2)
    low, high = ancestral.log_variance_range(schedule)
    x_0 = np.zeros((2, 5))
    x_t, nought = diffusion.q_sample(x_0, t, 0 * x_0, schedule), 0 * x_0
    ratios = np.linspace(0.0, 20.0, 200_001)
    r = ratios[np.argmin(np.abs(0.5 * (ratios - 1 + np.exp(-ratios)) - want))]  # ln of the two variances' ratio
    v = np.full_like(x_0, r / (high - low)[t])
    nats = iddpm.bound_term(x_0, x_t, t, nought, v, schedule, 17)
    np.testing.assert_allclose(nats / (5 * np.log(2)), 1, rtol=1e-4)

    class Still:
        def standard_normal(self, shape):
            return np.zeros(shape)

    bound = iddpm.variational_bound(lambda x, times: (0 * x, v), x_0, schedule, 17, rng=Still(), clip=None)
    assert bound.terms[t - 1] == pytest.approx(1, rel=1e-4), "index t - 1 is that of time t"


# --- gradients --------------------------------------------------------------------------------------------------------


def test_iddpm_losses_have_the_right_gradients(rng):
    """At times 1 (the decoder) and beyond; the hybrid loss against finite differences of what it means to be."""
    schedule, t = schedules.cosine(6), np.array([1, 2, 6])
    x_0 = np.round(rng.uniform(-1, 1, (3, 2)) * 8) / 8
    eps, guess, v = rng.standard_normal((3, 3, 2))
    x_t = diffusion.q_sample(x_0, t, eps, schedule)
    ag.gradcheck(lambda g, w: ag.mean(iddpm.l_vlb(x_0, x_t, t, g, w, schedule, 17)), [guess, v])
    ag.gradcheck(lambda w: ag.mean(iddpm.l_hybrid(x_0, x_t, t, eps, guess, w, schedule, 17, 0.1)), [v])


def gradients(loss, guess, v):
    """Of a loss with respect to the two halves of the network's output."""
    g, w = ag.Tensor(guess, requires_grad=True), ag.Tensor(v, requires_grad=True)
    return [ag.raw(x) for x in ag.grad(ag.sum(loss(g, w)), [g, w])]


def test_iddpm_eq16_the_bound_sends_no_gradient_to_the_mean(rng):
    """L_hybrid's gradient at the mean is that of L_simple alone, to the bit of rounding; L_vlb alone moves both."""
    schedule, t = schedules.cosine(20), np.array([1, 2, 20, 9])
    x_0, eps, guess, v = 0.5 * rng.standard_normal((4, 4, 3))
    x_t = diffusion.q_sample(x_0, t, eps, schedule)
    mean, var = gradients(lambda g, w: iddpm.l_hybrid(x_0, x_t, t, eps, g, w, schedule, 17, lam=7.0), guess, v)
    np.testing.assert_allclose(mean, 2 * (guess - eps) / 3, rtol=1e-12)
    of_mean, of_var = gradients(lambda g, w: iddpm.l_vlb(x_0, x_t, t, g, w, schedule, 17), guess, v)
    np.testing.assert_allclose(var, 7 * of_var, rtol=1e-12)
    assert np.all(of_mean != 0) and np.all(of_var != 0)


def test_in_the_network_each_loss_reaches_the_channels_it_may(rng):
    """By the gradient at the last convolution, whose outputs are the two halves: the first is the mean's."""
    digits = load("digits")
    reached = {}
    for loss in ("hybrid", "vlb"):
        system = iddpm.build(iddpm.Config(**SMALL, loss=loss, lam=1.0), digits, seed=0)
        net = system.modules["improved_ddpm"].flatten()
        system.stages()[0].objectives[0].loss(digits.train.take(slice(16)), np.random.default_rng(1), 0)[0].backward()
        reached[loss] = net.unet.conv_out.b.grad.copy()
    assert reached["hybrid"].shape == (2,) and np.all(reached["vlb"] != 0) and np.all(reached["hybrid"] != 0)
    # conv_out is 0 at the start, so eps_theta = 0 and L_simple's gradient is -2 mean(eps): of another size than the
    # bound's
    draws = np.random.default_rng(1)
    draws.random(16)
    eps = draws.standard_normal((16, 8, 8, 1)).astype(np.float32)
    assert reached["hybrid"][0] == pytest.approx(-2 * eps.mean(), rel=1e-3)
    assert abs(reached["vlb"][0] / reached["hybrid"][0] - 1) > 0.1


# --- eq. 18: times by importance --------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_iddpm_eq18_is_unbiased(T, seed):
    """Over all t at once: sum_t p_t w_t L_t = mean_t L_t, for every history and every L."""
    rng = np.random.default_rng(seed)
    p = iddpm.time_probabilities(rng.exponential(1, (T, 10)) ** 3, np.full(T, 10.0))
    assert p.sum() == pytest.approx(1, abs=1e-12) and np.all(p > 0)
    L = rng.standard_normal(T)
    u = np.cumsum(p) - p / 2  # one number in the middle of each time's share
    t, weights = iddpm.draw_times(p, u)
    np.testing.assert_array_equal(t, np.arange(1, T + 1))
    assert np.sum(p * weights * L) == pytest.approx(L.mean(), abs=1e-12)


def test_iddpm_eq18_probabilities_are_roots_of_mean_squares():
    losses = np.array([[3.0, 4, 0, 5], [1, 1, 1, 1], [0, 0, 0, 0]])
    p = iddpm.time_probabilities(losses, np.full(3, 4.0))
    root = np.array([np.sqrt(50 / 4), 1, 0])
    np.testing.assert_allclose(p, 0.999 * root / root.sum() + 0.001 / 3, rtol=1e-12)
    np.testing.assert_allclose(iddpm.time_probabilities(0 * losses, np.full(3, 4.0)), 1 / 3)


def test_iddpm_eq18_the_variance_falls_where_the_terms_differ():
    """What it is for: the estimate of a bound whose terms are as unequal as 1 to 1000 has a smaller variance."""
    L = np.geomspace(1000, 1, 50)
    p = iddpm.time_probabilities(L[:, None].repeat(10, 1), np.full(50, 10.0))
    variance = {"uniform": L.var(), "by importance": np.sum(p * (L / (50 * p)) ** 2) - L.mean() ** 2}
    assert variance["by importance"] < variance["uniform"] / 100


def test_times_are_drawn_by_the_inverse_of_their_sum():
    p = np.array([0.5, 0.125, 0.375])
    t, weights = iddpm.draw_times(p, np.array([0.0, 0.4999, 0.5, 0.62, 0.625, np.nextafter(1, 0)]))
    np.testing.assert_array_equal(t, [1, 1, 2, 2, 3, 3])
    np.testing.assert_allclose(weights, 1 / (3 * p[t - 1]))
    u = (np.arange(8000) + 0.5) / 8000
    np.testing.assert_array_equal(np.bincount(iddpm.draw_times(p, u)[0])[1:], [4000, 1000, 3000])
    tenths = np.full(10, 0.1)  # whose sum in floating point is the largest number below 1
    assert iddpm.draw_times(tenths, np.array([np.nextafter(1, 0)]))[0] == 10


@given(st.integers(1, 5), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_the_history_holds_the_last_ten_of_every_time(T, n, seed):
    """Against a plain list for each time, in batches of any size; a time may come twice in a batch."""
    rng = np.random.default_rng(seed)
    history, lists = iddpm.History(T), [[] for _ in range(T)]
    t, losses = rng.integers(1, T + 1, n), rng.random(n).astype(np.float32)
    for some in np.array_split(np.arange(n), 4):
        history.observe(t[some], losses[some])
    for i, loss in zip(t, losses):
        lists[i - 1].append(loss)
    for row, count, kept in zip(history.losses, history.known, lists):
        last = kept[-10:]
        assert count == len(last)
        np.testing.assert_array_equal(row[10 - len(last) :], last)
        assert not row[: 10 - len(last)].any()


def test_times_are_uniform_until_every_time_has_ten():
    history = iddpm.History(3)
    for t, times in ((1, 10), (2, 10), (3, 9)):
        history.observe(np.full(times, t), np.full(times, float(t), np.float32))
    np.testing.assert_allclose(history.probabilities(), 1 / 3)
    history.eval().observe(np.array([3]), np.array([9.0]))
    np.testing.assert_allclose(history.probabilities(), 1 / 3, err_msg="only training is remembered")
    history.train().observe(np.array([3]), np.array([3.0]))
    np.testing.assert_allclose(history.probabilities(), 0.999 * np.array([1, 2, 3]) / 6 + 0.001 / 3)


def test_training_asks_for_times_by_their_importance_and_weighs_them():
    """The loss is the weighted mean, what is remembered is not weighted, and the network sees the t that made its x_t."""
    schedule, n = schedules.cosine(4), 4000
    history = iddpm.History(4)
    history.observe(np.repeat([1, 2, 3, 4], 10), np.repeat(np.float32([8, 1, 1, 2]), 10))
    p = history.probabilities()
    asked = []

    def model(x_t, t):
        asked.append(t)
        return 0 * x_t, 0 * x_t

    x_0 = np.zeros((n, 1, 1, 1))
    rng = np.random.default_rng(3)
    loss = iddpm.training_loss(model, x_0, schedule, 17, rng, history=history, loss="vlb", times="loss-aware")
    (t,) = asked
    share = np.bincount(t, minlength=5)[1:] / n
    assert np.all(np.abs(share - p) < 6 * np.sqrt(p * (1 - p) / n)), "6 standard errors: ALPHA 1e-6 for four times"
    rng = np.random.default_rng(3)
    rng.random(n)
    x_t = diffusion.q_sample(x_0, t, rng.standard_normal(x_0.shape), schedule)
    each = iddpm.l_vlb(x_0, x_t, t, 0 * x_t, 0 * x_t, schedule, 17)
    assert float(loss) == pytest.approx(np.mean(each / (4 * p[t - 1])), rel=1e-12)
    for level in range(1, 5):
        np.testing.assert_allclose(history.losses[level - 1], each[t == level][-10:], rtol=1e-6)


@pytest.mark.parametrize("settings", [{"lam": 0.02}, {"loss": "vlb"}, {"loss": "vlb", "times": "loss-aware"}])
def test_training_is_the_loss_of_the_config_on_pictures_from_minus_1_to_1(settings):
    """The stage's loss from its parts, with the draws of the same rng."""
    digits = load("digits")
    system = iddpm.build(iddpm.Config(**SMALL, **settings), digits, seed=0)
    net, noise = system.modules["improved_ddpm"], np.random.default_rng(1)
    for q in net.parameters():
        q.data[...] += (0.1 * noise.standard_normal(q.shape)).astype(np.float32)
    p = np.full(12, 1 / 12)
    if "times" in settings:
        net.history.losses[...], net.history.known[...] = 1 + np.arange(12)[:, None] % 3, 10
        p = net.history.probabilities()
    got = float(system.stages()[0].objectives[0].loss(digits.train.take(slice(0, 12)), np.random.default_rng(2), 0)[0])
    rng, x_0, schedule = np.random.default_rng(2), digits.train.images[:12] / 8.0 - 1, schedules.cosine(12)
    t, w = iddpm.draw_times(p, rng.random(12))
    eps = rng.standard_normal(x_0.shape)
    x_t = diffusion.q_sample(x_0, t, eps, schedule)
    eps_theta, v = (ag.raw(part).astype(np.float64) for part in net(x_t.astype(np.float32), t))
    if "loss" in settings:
        each = iddpm.l_vlb(x_0, x_t, t, eps_theta, v, schedule, 17)
    else:
        each = iddpm.l_hybrid(x_0, x_t, t, eps, eps_theta, v, schedule, 17, 0.02)
    assert got == pytest.approx(float((ag.raw(each) * w).mean()), rel=1e-3)


def test_a_resumed_run_is_the_same_run(tmp_path: Path):
    """Cut in the middle, after the warm-up of the history: weights and history end with the same bits."""
    digits = load("digits")
    config = iddpm.Config(**SMALL, loss="vlb", times="loss-aware", steps=22, ema=0.9)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(iddpm.build(config, digits, seed=1), digits, Run(out=whole, system="improved_ddpm", seed=1, samples_every=0))

    class Stop(Exception):
        pass

    system = iddpm.build(config, digits, seed=1)
    run = Run(out=cut, system="improved_ddpm", seed=1, samples_every=0, save_seconds=0)
    stage = system.stages()[0]
    objective = stage.objectives[0]

    def failing(batch, rng, step):
        if step == 18:
            raise Stop
        return objective.loss(batch, rng, step)

    stopping = dataclasses.replace(
        system, stages=lambda: [dataclasses.replace(stage, objectives=[dataclasses.replace(objective, loss=failing)])]
    )
    with pytest.raises(Stop):
        train(stopping, digits, run)
    assert (cut / CHECKPOINT).exists()
    again = iddpm.build(config, digits, seed=1)
    train(again, digits, run, resume=True)
    history = again.modules["improved_ddpm"].history
    assert np.all(history.known == 10) and history.probabilities().std() > 0, "the history was at work"
    assert (whole / "weights.safetensors").read_bytes() == (cut / "weights.safetensors").read_bytes()


# --- the network and its sampler --------------------------------------------------------------------------------------


def test_the_network_returns_eps_and_v_in_this_order(rng):
    """The last convolution's bias alone speaks at the start: first half eps, second half o, v = (o + 1) / 2."""
    system = iddpm.build(iddpm.Config(**SMALL), load("digits"), seed=0)
    net = system.modules["improved_ddpm"]
    x = rng.standard_normal((2, 8, 8, 1)).astype(np.float32)
    eps_theta, v = net(x, np.array([1, 2]))
    assert not ag.raw(eps_theta).any() and np.all(ag.raw(v) == 0.5), "the start: silence, and the middle of the range"
    net.unet.conv_out.b.data[...] = [0.25, -1.0]
    eps_theta, v = net(x, np.array([1, 2]))
    assert eps_theta.shape == v.shape == (2, 8, 8, 1)
    assert np.all(ag.raw(eps_theta) == 0.25) and np.all(ag.raw(v) == 0.0)


def test_overfits_one_batch():
    digits = load("digits")
    config = iddpm.Config(base=8, heads=1, T=12, steps=60, batch_size=8, lr=5e-3, warmup=0, ema=0.0)
    system = iddpm.build(config, digits, seed=0)
    few = Split(digits.train.images[:8], digits.train.labels[:8])
    trainer = Trainer(system, seed=0)
    losses = [trainer.advance(few)["hybrid.loss"] for _ in range(60)]
    assert losses[0] == pytest.approx(1, abs=0.2) and np.mean(losses[-10:]) < 0.5
    for module in system.modules.values():
        module.eval()
    x = system.sample(3, rng=np.random.default_rng(0), steps=5)
    assert x.shape == (3, 8, 8, 1) and x.dtype == np.float32 and np.abs(x).max() <= 1
    x = system.sample(3, rng=np.random.default_rng(0), steps=5, sampler="dpmpp-2m", spacing="karras")
    assert x.shape == (3, 8, 8, 1) and np.isfinite(x).all()
    assert system.pictures["shorter_walks"](digits.test, rng=np.random.default_rng(0)).shape == (12, 12, 8, 8, 1)
    few_digits = dataclasses.replace(digits, test=few)
    figures = system.figures(few_digits, rng=np.random.default_rng(0))
    assert set(figures) >= {"bound, bits/dim", "bound in 10 steps, bits/dim"}
    assert all(np.isfinite(value) for value in figures.values())


def test_figures_are_the_bound_of_the_chain_and_of_shorter_ones():
    """From their parts, with the draws of the same rng; the digits have 17 grey levels."""
    digits, noise = load("digits"), np.random.default_rng(1)
    few = dataclasses.replace(digits, test=digits.test.take(slice(0, 3)))
    system = iddpm.build(iddpm.Config(**SMALL | {"T": 21}), digits, seed=0)
    net = system.modules["improved_ddpm"]
    for p in net.parameters():
        p.data[...] += (0.1 * noise.standard_normal(p.shape)).astype(np.float32)
    found, rng = system.figures(few, rng=np.random.default_rng(3)), np.random.default_rng(3)
    x_0, schedule = digits.scale(few.test.images), schedules.cosine(21)
    bound, ten, twenty = (
        iddpm.variational_bound(net, x_0, chain, 17, rng=rng, clip=1.0)
        for chain in (schedule, schedules.spaced(schedule, 10), schedules.spaced(schedule, 20))
    )
    want = {
        "bound, bits/dim": bound.total,
        "of it decoder (t = 1)": bound.terms[0],
        "of it prior (t = T)": bound.prior,
        "bound in 10 steps, bits/dim": ten.total,
        "bound in 20 steps, bits/dim": twenty.total,
    }
    assert found == pytest.approx(want, rel=1e-6)


def test_sampling_uses_the_learned_variance():
    """The default is the network's: another bias of the second half draws other pictures, which "small" does not see."""
    system = iddpm.build(iddpm.Config(**SMALL), load("digits"), seed=0)
    drawn = {}
    for o in (-1.0, 1.0):
        system.modules["improved_ddpm"].unet.conv_out.b.data[1] = o
        for variance in (None, "small", "large"):
            drawn[variance, o] = system.sample(2, rng=np.random.default_rng(0), steps=6, variance=variance)
    np.testing.assert_array_equal(drawn["small", -1.0], drawn["small", 1.0])
    np.testing.assert_allclose(drawn[None, -1.0], drawn["small", 1.0], atol=1e-5)
    np.testing.assert_allclose(drawn[None, 1.0], drawn["large", 1.0], atol=1e-5)
    assert np.abs(drawn["small", 1.0] - drawn["large", 1.0]).max() > 1e-2


def test_walks_of_all_lengths_begin_with_the_same_noise(monkeypatch):
    system, seen = iddpm.build(iddpm.Config(**SMALL), load("digits"), seed=0), []
    monkeypatch.setattr(iddpm.sampling, "draw", lambda model, x_T, *_, **how: (seen.append((x_T, how)), x_T)[1])
    system.pictures["shorter_walks"](load("digits").test, rng=np.random.default_rng(0))
    assert [(how["sampler"], how["steps"]) for _, how in seen] == [(name, min(n or 12, 12)) for name, n in iddpm.WALKS]
    for x_T, _ in seen:
        np.testing.assert_array_equal(x_T, seen[0][0])


def test_settings_that_do_not_fit_are_named():
    digits = load("digits")
    with pytest.raises(ValueError, match="loss must be 'hybrid' or 'vlb', got 'simple'"):
        iddpm.build(iddpm.Config(loss="simple"), digits, seed=0)
    with pytest.raises(ValueError, match="times must be 'uniform' or 'loss-aware', got 'all'"):
        iddpm.build(iddpm.Config(times="all"), digits, seed=0)
    with pytest.raises(ValueError, match="lam must be at least 0, got -1"):
        iddpm.build(iddpm.Config(lam=-1), digits, seed=0)
    with pytest.raises(ValueError, match="'rings' holds no pictures"):
        iddpm.build(iddpm.Config(), load("rings"), seed=0)
    with pytest.raises(ValueError, match="unknown schedule 'cos'"):
        iddpm.build(iddpm.Config(schedule="cos"), digits, seed=0)


def test_gaussian_kl_floor_is_the_posterior(rng):
    """The bound's first argument is the true posterior: a network that knows x_0 pays only for its variance."""
    schedule, t = schedules.cosine(15), 8
    x_0, eps = rng.standard_normal((2, 3, 4))
    x_t = diffusion.q_sample(x_0, t, eps, schedule)
    v = np.full_like(x_0, 0.4)
    low, high = ancestral.log_variance_range(schedule)
    want = 4 * gaussian.kl(0.0, low[t], 0.0, 0.4 * high[t] + 0.6 * low[t])
    np.testing.assert_allclose(iddpm.bound_term(x_0, x_t, t, eps, v, schedule, 17), want, rtol=1e-8)
