"""DDPM against exact answers: Gaussian data, closed forms, and the traps that its file lists."""

import dataclasses

import numpy as np
import pytest
from oracles import gaussian_eps
from scipy.stats import norm

import autograd as ag
from kernels.adam import adam_step
from minigen.data import Split, load
from minigen.maths import diffusion, schedules
from minigen.models import ddpm


def test_ddpm_eq14_l_simple(rng):
    eps, guess = rng.standard_normal((2, 3, 4))
    assert ddpm.l_simple(eps, guess) == pytest.approx(np.mean((eps - guess) ** 2))
    assert ddpm.l_simple(eps, eps) == 0
    ag.gradcheck(lambda g: ddpm.l_simple(eps, g), [guess], order=2)


def test_ddpm_algorithm_1_one_time_and_one_noise_a_sample():
    """The network is told the t that made its x_t: a perfect reader of one-pixel data gets loss 0."""
    schedule = schedules.cosine(30)
    x_0 = np.full((500, 1, 1, 1), 0.7)
    seen = []

    def reader(x_t, t):
        seen.extend(t.tolist())
        return diffusion.eps_from_x_0(x_t, t, x_0, schedule)

    assert float(ddpm.training_loss(reader, x_0, schedule, np.random.default_rng(0))) < 1e-20
    assert set(seen) == set(range(1, 31)), "times run from 1 to T, both included"
    counts = np.bincount(seen)[1:]
    assert counts.max() < 500 / 30 + 6 * np.sqrt(500 / 30), "and are uniform"


def test_ddpm_eq12_weight_turns_the_noise_error_into_the_kl(rng):
    schedule = schedules.linear(100)
    x_0, eps, guess = rng.standard_normal((3, 5, 4))
    for variance in ("small", "large"):
        for t in (2, 50, 100):
            x_t = diffusion.q_sample(x_0, t, eps, schedule)
            full = ddpm.bound_term(x_0, x_t, t, guess, schedule, 256, variance, clip=None)
            exact = ddpm.bound_term(x_0, x_t, t, eps, schedule, 256, variance, clip=None)  # the share of the variances
            weighted = ddpm.l_t_weight(t, schedule, variance) * np.sum((eps - guess) ** 2, axis=1)
            np.testing.assert_allclose(full - exact, weighted, rtol=1e-8)


def test_ddpm_eq5_bound_of_gaussian_data_is_its_closed_form():
    """For data N(0, s^2) and the best eps, E L_{t-1} follows from eqs. 7, 8 and 12 alone."""
    s, schedule = 0.5, schedules.linear(60)
    rng = np.random.default_rng(0)
    x_0 = s * rng.standard_normal((40_000, 1))
    model = gaussian_eps(0.0, s, schedule)
    for variance in ("small", "large"):
        for t in (2, 20, 60):
            x_t = diffusion.q_sample(x_0, t, rng.standard_normal(x_0.shape), schedule)
            eps_theta = model(x_t, np.full(len(x_0), t))
            got = ddpm.bound_term(x_0, x_t, t, eps_theta, schedule, 256, variance, clip=None)
            a, b, bt = schedule.alpha_bar[t], schedule.beta[t], schedule.beta_tilde[t]
            mse = 1 - (1 - a) / (a * s * s + 1 - a)  # E (eps - eps*)^2
            sigma2 = bt if variance == "small" else b
            want = 0.5 * (np.log(sigma2 / bt) - 1 + bt / sigma2) + ddpm.l_t_weight(t, schedule, variance) * mse
            assert abs(got.mean() - want) < 5 * got.std() / 200, (variance, t)


def test_prior_term_is_the_kl_of_what_is_left():
    schedule = schedules.linear(100)
    a = schedule.alpha_bar[-1]
    x_0 = np.array([[0.5, -1.0]])
    want = sum(0.5 * (-np.log(1 - a) - 1 + (1 - a) + a * v * v) for v in (0.5, -1.0))
    assert ddpm.prior_term(x_0, schedule)[0] == pytest.approx(want)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_ddpm_eq13_the_decoder_knows_its_grey_levels_and_its_deviation(levels):
    """With a perfect model a level costs what a Gaussian of variance beta_1 around it leaves to the others: nearly
    nothing for few levels.
    """
    schedule = schedules.linear(1000)
    rng = np.random.default_rng(0)
    x_0 = 2 * rng.integers(0, levels, (64, 8)) / (levels - 1) - 1
    x_1 = diffusion.q_sample(x_0, 1, rng.standard_normal(x_0.shape), schedule)
    eps = diffusion.eps_from_x_0(x_1, 1, x_0, schedule)
    nats = ddpm.bound_term(x_0, x_1, 1, eps, schedule, levels, "small")
    width = 1 / (levels - 1) / schedule.beta[1] ** 0.5  # half a bin in standard deviations
    sides = np.where(np.abs(x_0) == 1, 1, 2)  # the first and the last bin are open
    np.testing.assert_allclose(nats, -np.log1p(-sides * norm.sf(width)).sum(1), rtol=1e-9, atol=1e-12)


def test_variational_bound_of_a_memoriser_beats_that_of_silence():
    """One picture, and the oracle that knows it, against a model that says 0: bits a dimension in the right order."""
    digits = load("digits")
    x_0 = digits.scale(digits.train.images[:1]).repeat(4, 0)
    schedule = schedules.cosine(50)
    knows = gaussian_eps(x_0[:1].astype(np.float64), 0.0, schedule)
    bound = ddpm.variational_bound(knows, x_0, schedule, 17, rng=np.random.default_rng(0))
    assert bound.terms.shape == (50,) and np.all(bound.terms >= -1e-9)
    assert np.all(bound.terms[1:] < 1e-6) and bound.prior < 1e-6, "nothing is left to say but the last rounding"
    assert bound.terms[0] < 0.3
    silence = ddpm.variational_bound(lambda x, t: 0 * x, x_0, schedule, 17, rng=np.random.default_rng(0))
    assert silence.total > bound.total + 1


def test_ddpm_eq5_the_bound_is_in_bits_a_dimension():
    """Term by term those of `bound_term`, with the draws of the same rng: a bit is ln 2 nats."""
    schedule, x_0 = schedules.cosine(3), np.random.default_rng(1).integers(0, 2, (5, 2, 3)) * 2.0 - 1
    found = ddpm.variational_bound(
        lambda x, t: 0.5 * x, x_0, schedule, 2, rng=np.random.default_rng(0), variance="large"
    )
    rng, bits = np.random.default_rng(0), []
    for t in (1, 2, 3):
        x_t = diffusion.q_sample(x_0, t, rng.standard_normal(x_0.shape), schedule)
        nats = ddpm.bound_term(x_0, x_t, t, 0.5 * x_t, schedule, 2, "large", clip=1.0)
        bits.append(nats.mean() / 0.6931471805599453 / 6)
    np.testing.assert_allclose(found.terms, bits, rtol=1e-5)  # the model is given float32
    assert found.prior == pytest.approx(ddpm.prior_term(x_0, schedule).mean() / 0.6931471805599453 / 6)
    assert found.total == pytest.approx(sum(bits) + found.prior, rel=1e-5)


def shaken_system(**settings):
    """A tiny system on the digits with numbers in every weight."""
    system = ddpm.build(ddpm.Config(base=8, heads=1, T=10, **settings), load("digits"), seed=0)
    noise = np.random.default_rng(1)
    for p in system.modules["unet"].parameters():
        p.data[...] += (0.1 * noise.standard_normal(p.shape)).astype(np.float32)
    return system


def test_ddpm_eq14_training_is_of_pictures_from_minus_1_to_1():
    """The stage's loss from its parts, with the draws of the same rng."""
    system, batch = shaken_system(), load("digits").train.take(slice(0, 12))
    got = float(system.stages()[0].objectives[0].loss(batch, np.random.default_rng(2), 0)[0])
    rng, x_0 = np.random.default_rng(2), batch.images / 8.0 - 1
    t, a = rng.integers(1, 11, 12), schedules.cosine(10).alpha_bar
    eps = rng.standard_normal(x_0.shape)
    x_t = (a[t] ** 0.5).reshape(-1, 1, 1, 1) * x_0 + ((1 - a[t]) ** 0.5).reshape(-1, 1, 1, 1) * eps
    guess = ag.raw(system.modules["unet"](x_t.astype(np.float32), t))
    assert got == pytest.approx(np.square(guess - eps).mean(), rel=1e-4)


def test_the_variance_of_the_config_is_that_of_samples_and_of_the_bound(monkeypatch):
    """And the figures know the 17 grey levels of the digits: from their parts, with the draws of the same rng."""
    digits, told = load("digits"), []
    large, small = (shaken_system(variance=name) for name in ("large", "small"))
    drawn = [
        s.sample(2, rng=np.random.default_rng(0), **how) for s, how in ((large, {}), (small, {"variance": "large"}))
    ]
    np.testing.assert_array_equal(*drawn)
    assert np.abs(drawn[0] - small.sample(2, rng=np.random.default_rng(0))).max() > 1e-3
    few = dataclasses.replace(digits, test=digits.test.take(slice(0, 4)))
    monkeypatch.setattr(ddpm, "bits_per_dim", lambda model, *given, **how: (told.append(given), np.array([2.5]))[1])
    found = large.figures(few, rng=np.random.default_rng(3))
    x_0, schedule = digits.scale(few.test.images), schedules.cosine(10)
    bound = ddpm.variational_bound(
        large.modules["unet"], x_0, schedule, 17, rng=np.random.default_rng(3), variance="large"
    )
    parts = bound.total, bound.terms[0], bound.prior
    assert list(found.values())[:3] == pytest.approx(parts, rel=1e-6) and len(set(parts)) == 3
    ((pictures, chain, levels),) = told
    np.testing.assert_array_equal(pictures, x_0)
    np.testing.assert_array_equal(chain.alpha_bar, schedule.alpha_bar)
    assert levels == 17 and found["probability flow, bits/dim"] == 2.5


def test_the_bound_of_a_shorter_chain_tells_the_times_of_the_training_schedule():
    told, grid = [], schedules.cosine(20).respaced([4, 9, 20])
    ddpm.variational_bound(
        lambda x, t: (told.extend(t.tolist()), 0 * x)[1], np.zeros((1, 2)), grid, 17, rng=np.random.default_rng(0)
    )
    assert told == [4, 9, 20]


def test_overfits_one_batch():
    digits = load("digits")
    config = ddpm.Config(base=8, heads=1, T=50)
    system = ddpm.build(config, digits, seed=0)
    unet = system.modules["unet"].flatten()
    objective = system.stages()[0].objectives[0]
    batch = Split(digits.train.images[:16], digits.train.labels[:16])
    m, v = np.zeros_like(unet.flat), np.zeros_like(unet.flat)
    losses = []
    for step in range(1, 121):
        unet.zero_grad()
        loss, _ = objective.loss(batch, np.random.default_rng(step % 8), step)
        loss.backward()
        adam_step(unet.flat, unet.flat_grad, m, v, step=step, lr=3e-3)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(1, abs=0.2), "the last convolution starts at zero, so the first guess is silence"
    assert np.mean(losses[-10:]) < 0.25
    x = system.sample(3, rng=np.random.default_rng(0), steps=5)
    assert x.shape == (3, 8, 8, 1) and x.dtype == np.float32 and np.abs(x).max() <= 1


def test_the_same_seed_draws_the_same_pictures():
    system = ddpm.build(ddpm.Config(base=8, heads=1, T=10), load("digits"), seed=0)
    seen = []
    a = system.sample(2, rng=np.random.default_rng(5), callback=lambda t, x: seen.append(t))
    b = system.sample(2, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(a, b)
    assert seen == list(range(10, -1, -1))
    with pytest.raises(ValueError, match="from 1 to 10"):
        system.sample(1, rng=np.random.default_rng(0), steps=11)


def test_interpolations_lie_between_the_pictures_they_join():
    """A network that says nothing walks there and back exactly, so the path begins and ends with the pictures themselves."""
    digits = load("digits")
    system = ddpm.build(ddpm.Config(base=8, heads=1, T=10), digits, seed=0)
    rows = system.pictures["interpolation"](digits.test, rng=np.random.default_rng(0))
    ends = digits.scale(digits.test.images[:8])
    assert rows.shape == (4, 9, 8, 8, 1)
    np.testing.assert_array_equal(rows[:, [0, -1]], np.stack([ends[:4], ends[4:]], axis=1))
    np.testing.assert_allclose(rows[:, [1, -2]], rows[:, [0, -1]], atol=1e-3)  # float32, divided by sqrt(abar_T)
    assert np.abs(rows[:, 4] - rows[:, 0]).max() > 0.1 < np.abs(rows[:, 4] - rows[:, -1]).max()
    few = system.pictures["interpolation"](digits.test.take(slice(0, 5)), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(few[:, [0, -1]], np.stack([ends[:2], ends[2:4]], axis=1))  # of five test pictures
    with pytest.raises(ValueError, match="needs two test pictures, got 1"):
        system.pictures["interpolation"](digits.test.take(slice(0, 1)), rng=np.random.default_rng(0))


def test_a_network_that_is_not_told_the_time_does_not_see_it():
    """Its guess is a function of x_t alone, in the loss and in sampling; with the time it is not."""
    digits = load("digits")
    asked = {}
    for tell_time in (True, False):
        system = ddpm.build(ddpm.Config(base=8, heads=1, T=10, tell_time=tell_time), digits, seed=0)
        times = asked[tell_time] = []
        unet = system.modules["unet"]
        forward = unet.forward
        unet.forward = lambda x, t, *a, forward=forward, times=times, **k: (times.extend(t), forward(x, t, *a, **k))[1]
        system.sample(1, rng=np.random.default_rng(0), steps=5)
        system.stages()[0].objectives[0].loss(digits.train.take(slice(4)), np.random.default_rng(0), 0)
    assert set(asked[False]) == {0} and len(asked[False]) == len(asked[True]) == 9
    assert asked[True][:5] == [10, 8, 6, 4, 2]


def test_settings_that_do_not_fit_are_named():
    digits = load("digits")
    with pytest.raises(ValueError, match="variance must be 'small' or 'large', got 'smal'"):
        ddpm.l_t_weight(3, schedules.cosine(5), "smal")
    with pytest.raises(ValueError, match="'rings' holds no pictures"):
        ddpm.build(ddpm.Config(), load("rings"), seed=0)
    with pytest.raises(ValueError, match="groups must divide"):
        ddpm.build(ddpm.Config(base=12), digits, seed=0)
    with pytest.raises(ValueError, match="more than 20"):
        ddpm.build(ddpm.Config(T=10, schedule="linear"), digits, seed=0)
    with pytest.raises(ValueError, match="multiples of 16, got 8 x 8"):
        ddpm.build(ddpm.Config(multipliers=(1, 1, 1, 1, 1)), digits, seed=0)
    with pytest.raises(ValueError, match="sample_steps must be at least 1, got 0"):
        ddpm.build(ddpm.Config(sample_steps=0), digits, seed=0)
