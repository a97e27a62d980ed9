"""The game against exact answers: finite supports, Gaussians, linear critics, and the traps that its file lists."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, truncnorm, wasserstein_distance

import autograd as ag
from minigen.cli import arguments, curriculum
from minigen.data import Dataset, load
from minigen.maths.interpolation import slerp
from minigen.models import gan
from minigen.nn import BatchNorm
from minigen.train.loop import Trainer
from minigen.train.run import Run, train

TINY: dict[str, Any] = {"width": 8, "latent": 4, "batch_size": 8, "steps": 10}
# real and fake data on five points, as counts out of 20
REAL, FAKE = np.array([1, 2, 3, 4, 10]), np.array([6, 5, 4, 3, 2])
P, Q = REAL / 20, FAKE / 20


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def on_the_support(loss: Callable[..., Any], logits: Any, real: Any = REAL, fake: Any = FAKE) -> Any:
    """A discriminator's loss where its logit at point k is ``logits[k]``."""
    points = np.arange(5)
    return loss(logits[points.repeat(real)], logits[points.repeat(fake)])


def descend(loss: Callable[[Any], Any], x: Any, *, lr: float, steps: int) -> Any:
    """Plain gradient descent from the array ``x``."""
    for _ in range(steps):
        leaf = ag.Tensor(x, requires_grad=True)
        x = x - lr * ag.grad(loss(leaf), leaf).data
    return x


def jsd(p: Any, q: Any) -> float:
    m = (p + q) / 2
    return float(0.5 * np.sum(p * np.log(p / m)) + 0.5 * np.sum(q * np.log(q / m)))


# --- the losses -------------------------------------------------------------------------------------------------------


def test_gan_prop1_and_thm1_on_a_finite_support():
    """E1: ascent reaches D* = p / (p + q), and the value there is -log 4 + 2 JSD."""
    logits = descend(lambda l: on_the_support(gan.d_minimax, l), np.zeros(5), lr=6.0, steps=150)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), P / (P + Q), atol=1e-12)
    assert -on_the_support(gan.d_minimax, logits) == pytest.approx(-np.log(4) + 2 * jsd(P, Q), abs=1e-12)


def test_gan_thm1_equal_densities_give_one_half_and_log_4():
    """E1 with p = q, from any start."""
    logits = descend(lambda l: on_the_support(gan.d_minimax, l, REAL, REAL), np.linspace(-1, 1, 5), lr=6.0, steps=200)
    np.testing.assert_allclose(logits, 0, atol=1e-12)
    assert on_the_support(gan.d_minimax, logits, REAL, REAL) == pytest.approx(1.3862943611198906, abs=1e-12)


def test_gan_eq1_generator_losses_by_their_slopes(rng):
    """d/dl of E ln(1 - D) is -D, and of -E ln D it is -(1 - D): the weights that the two put on a sample."""
    l = ag.Tensor(rng.standard_normal(7), requires_grad=True)
    d = 1 / (1 + np.exp(-l.data))
    np.testing.assert_allclose(ag.grad(gan.g_saturating(l), l).data, -d / 7, rtol=1e-12)
    np.testing.assert_allclose(ag.grad(gan.g_non_saturating(l), l).data, -(1 - d) / 7, rtol=1e-12)


@pytest.mark.parametrize("loss", [gan.g_saturating, gan.g_non_saturating])
def test_gan_section3_both_generator_losses_rest_exactly_where_q_is_p(loss):
    """E2: at D*, the generator softmax(theta) is at rest for q = p, and for no other q here."""

    def slope(q):
        logits = np.log(P / q)  # D* for this q

        def value(theta):
            q_theta = ag.softmax(theta)
            return ag.sum(ag.stack([q_theta[k] * loss(ag.Tensor(logits[k : k + 1])) for k in range(5)]))

        theta = ag.Tensor(np.log(q), requires_grad=True)
        return ag.grad(value(theta), theta).data

    np.testing.assert_allclose(slope(P), 0, atol=1e-15)
    uphill = slope(Q)
    assert np.abs(uphill).max() > 0.01 and uphill @ (P - Q) < 0, "and one step of descent goes towards p"


def test_gan_logits_of_any_size_have_finite_losses_and_slopes():
    big = ag.Tensor(np.array([1000.0, -1000.0]), requires_grad=True)
    assert float(gan.d_minimax(-big, big)) == pytest.approx(1000)
    for loss in (gan.g_saturating, gan.g_non_saturating):
        assert np.isfinite(float(loss(big))) and np.isfinite(ag.grad(loss(big), big).data).all()


def test_gan_gaussian_discriminator_finds_the_log_ratio():
    """E5: for G(z) = m + s z against N(mu, sigma^2), logistic regression on (1, x, x^2) has known coefficients."""
    mu, sigma, m, s = 0.5, 0.8, -0.3, 1.2
    x = np.linspace(-9, 9, 1001)
    p, q = norm.pdf(x, mu, sigma), norm.pdf(x, m, s)  # weights; both expectations stand on the same grid
    features = np.stack([x**0, x, x**2], axis=1)
    theta = np.zeros(3)
    for _ in range(30):  # Newton: the slopes are the loss's own, its curvature D (1 - D) is known
        real, fake = (ag.Tensor(features @ theta, requires_grad=True) for _ in range(2))
        at_real, at_fake = (g.data * len(x) for g in ag.grad(gan.d_minimax(real, fake), [real, fake]))
        slope = features.T @ (p * at_real + q * at_fake)
        curvature = features.T @ (features * ((p + q) * at_fake * (1 - at_fake))[:, None])
        theta = theta - np.linalg.solve(curvature, slope)
    want = [
        np.log(s / sigma) - mu**2 / (2 * sigma**2) + m**2 / (2 * s**2),
        mu / sigma**2 - m / s**2,
        1 / (2 * s**2) - 1 / (2 * sigma**2),
    ]
    np.testing.assert_allclose(theta, want, atol=1e-9)


def test_lsgan_eq9_best_discriminator():
    """Its outputs are p / (p + q) themselves, and the loss there is half the sum of p q / (p + q)."""
    best = descend(lambda l: on_the_support(gan.d_least_squares, l), np.zeros(5), lr=1.5, steps=150)
    np.testing.assert_allclose(best, P / (P + Q), atol=1e-12)
    assert on_the_support(gan.d_least_squares, best) == pytest.approx(0.5 * np.sum(P * Q / (P + Q)), abs=1e-12)


def test_hinge_best_discriminator():
    """It says sign(p - q), and the loss there is twice the overlap of p and q."""
    best = np.sign(P - Q)
    value = on_the_support(gan.d_hinge, best)
    assert value == pytest.approx(2 * np.minimum(P, Q).sum(), abs=1e-12)
    for k in range(5):  # the loss is convex and a sum over points: no better value along any of them
        for step in np.linspace(-3, 3, 61):
            assert on_the_support(gan.d_hinge, best + step * np.eye(5)[k]) >= value - 1e-12


def test_wgan_eq2_best_critic_in_one_dimension_measures_sorted_differences(rng):
    """E4: for the f whose slope is the sign of the difference of the distribution functions, -loss is W_1."""
    x, y = rng.standard_normal(40), 0.5 * rng.standard_normal(40) + 1
    knots = np.sort(np.concatenate([x, y]))
    below = [np.searchsorted(np.sort(a), knots[:-1], side="right") for a in (x, y)]
    f = np.concatenate([[0], np.cumsum(np.sign(below[1] - below[0]) * np.diff(knots))])
    loss = gan.d_wasserstein(np.interp(x, knots, f), np.interp(y, knots, f))
    assert -loss == pytest.approx(np.abs(np.sort(x) - np.sort(y)).mean(), abs=1e-12)
    assert -loss == pytest.approx(wasserstein_distance(x, y), abs=1e-12)


def test_wgan_clipped_linear_critic_of_shifted_points(rng):
    """E4: within |w_j| <= c the best f = w.x is c sign(shift), and sees c times the shift's 1-norm."""
    fake, shift, c = rng.standard_normal((20, 3)), np.array([0.5, -2.0, 0.1]), 0.01
    w = ag.Tensor(np.zeros(3), requires_grad=True)
    for _ in range(50):
        loss = gan.d_wasserstein((fake + shift) @ w, fake @ w)
        w = ag.Tensor(np.clip(w.data - 0.01 * ag.grad(loss, w).data, -c, c), requires_grad=True)
    np.testing.assert_allclose(w.data, c * np.sign(shift), rtol=1e-12)
    assert -float(gan.d_wasserstein((fake + shift) @ w, fake @ w)) == pytest.approx(c * np.abs(shift).sum(), rel=1e-12)


@pytest.mark.parametrize("name", gan.GAMES)
def test_every_loss_is_gradchecked(name, rng):
    game = gan.GAMES[name]
    real, fake = 2 * rng.standard_normal((2, 6))
    ag.gradcheck(game.d_loss, [real, fake], order=2)
    ag.gradcheck(game.g_loss, [fake], order=2)


# --- penalties on the gradient ----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), shape=st.sampled_from([(2,), (3, 2, 1), (2, 2, 3)]))
def test_wgan_gp_eq3_and_r1_of_a_linear_critic(seed, shape):
    """E3: for f = w.x they are lam (|w| - 1)^2 and gamma / 2 |w|^2, whatever the points, with the norm over all axes."""
    rng = np.random.default_rng(seed)
    w = ag.Tensor(rng.standard_normal(shape), requires_grad=True)
    x = ag.Tensor(rng.standard_normal((4, *shape)), requires_grad=True)
    f = ag.sum(x * w, axis=tuple(range(1, x.ndim)))
    size, lam, gamma = np.linalg.norm(w.data), 10.0, 3.0
    penalty = gan.gradient_penalty(f, x, lam)
    assert float(penalty) == pytest.approx(lam * (size - 1) ** 2, rel=1e-10)
    np.testing.assert_allclose(ag.grad(penalty, w).data, 2 * lam * (size - 1) * w.data / size, rtol=1e-10)
    f = ag.sum(x * w, axis=tuple(range(1, x.ndim)))
    penalty = gan.r1_penalty(f, x, gamma)
    assert float(penalty) == pytest.approx(gamma / 2 * size**2, rel=1e-10)
    np.testing.assert_allclose(ag.grad(penalty, w).data, gamma * w.data, rtol=1e-10)


@pytest.mark.parametrize("loss", ["non-saturating", "wgan-gp"])
@pytest.mark.parametrize("network, classes", [("conv", 0), ("conv", 3), ("mlp", 3)])
@pytest.mark.parametrize("activation, h, tolerance", [("leaky_relu", 1e-6, 1e-7), ("silu", 3e-4, 1e-8)])
def test_objective_with_penalties_has_true_second_derivatives(
    loss, network, classes, activation, h, tolerance, monkeypatch, rng
):
    """Of the whole discriminator's objective, R1 or gradient penalty included, against central differences in float64.

    The network's own leaky rectifiers need steps too small to meet a kink, and rounding then leaves 1e-8 of the slopes;
    with a smooth function in their place the steps can be larger, and every layer has a second derivative of its own.
    """
    monkeypatch.setattr(ag, "leaky_relu", getattr(ag, activation))
    config = gan.resolved(gan.Config(loss=loss, network=network, width=3, depth=1, latent=2))
    generator = gan.make_generator(config, (4, 4, 1), classes, rng).astype(np.float64)
    critic = gan.make_discriminator(config, (4, 4, 1), classes, rng).astype(np.float64).flatten()
    critic.flat += 0.3 * rng.standard_normal(critic.flat.shape)  # no bias of 0, which would put black pixels at a kink
    x, z, alpha = rng.standard_normal((5, 4, 4, 1)), rng.standard_normal((5, 2)), rng.random((5, 1, 1, 1))
    y = np.array([0, 1, 2, 2, 0]) if classes else None
    generator.eval()

    def value() -> Any:
        return gan.discriminator_objective(generator, critic, x, y, z, alpha, config)[0]

    critic.zero_grad()
    value().backward()
    for name, p in critic.named_parameters().items():  # every layer on its own
        v = rng.standard_normal(p.shape)
        slope, kept, found = float(np.sum(p.grad * v)), p.data.copy(), 0.0
        for step, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            p.data[...] = kept + step * h * v
            found += weight * float(value()) / (12 * h)
        p.data[...] = kept
        assert found == pytest.approx(slope, rel=tolerance, abs=tolerance), name


def test_each_penalty_is_taken_at_its_own_points_and_added_to_the_loss(rng):
    """For f(x) = |x|^2 / 2 the slope at x is x: gamma / 2 E|x|^2 at REAL data, lam E(|x_hat| - 1)^2 in between."""
    x, fake, alpha = rng.standard_normal((6, 3)), 5 + rng.standard_normal((6, 3)), rng.random((6, 1))
    x_hat = alpha * x + (1 - alpha) * fake
    config = gan.resolved(gan.Config(r1=3.0, gradient_penalty=10.0))

    def critic(points: Any, y: Any) -> Any:
        return 0.5 * ag.sum(points * points, axis=1)

    r1, penalty = 1.5 * np.mean(np.sum(x**2, axis=1)), 10 * np.mean((np.linalg.norm(x_hat, axis=1) - 1) ** 2)
    found, figures = gan.discriminator_objective(lambda z, y: fake, critic, x, None, None, alpha, config)
    assert float(figures["r1"]) == pytest.approx(r1) and float(figures["penalty"]) == pytest.approx(penalty)
    assert float(found) == pytest.approx(gan.d_minimax(critic(x, None), critic(fake, None)) + r1 + penalty)


def test_wgan_gp_algorithm1_one_alpha_a_sample_between_its_own_pair(digits, monkeypatch, rng):
    """Points lie on the line from a real sample to ITS fake, all pixels at the same share of the way."""
    x, fake = rng.standard_normal((2, 4, 3, 3, 1))
    alpha, seen = rng.random((4, 1, 1, 1)), []

    def critic(points: Any, y: Any) -> Any:
        seen.append(ag.raw(points))
        return ag.sum(points * ag.Tensor(np.ones((3, 3, 1))), axis=(1, 2, 3))

    config = gan.resolved(gan.Config(loss="wgan-gp"))
    gan.discriminator_objective(lambda z, y: fake, critic, x, None, None, alpha, config)
    np.testing.assert_allclose(seen[2], alpha * x + (1 - alpha) * fake, rtol=1e-14)

    drawn = []
    real = gan.discriminator_objective
    monkeypatch.setattr(gan, "discriminator_objective", lambda *args: drawn.append(args[5]) or real(*args))
    system = gan.build(gan.Config(loss="wgan-gp", **TINY), digits, seed=0)
    Trainer(system, seed=0).advance(digits.train)
    assert drawn[0].shape == (8, 1, 1, 1) and len(np.unique(drawn[0])) == 8
    assert drawn[0].min() >= 0 and drawn[0].max() <= 1


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_discriminator_judges_each_sample_alone(network, digits, rng):
    """No batch norm in it, so nobody's logit or slope depends on the others in the batch."""
    critic = gan.build(gan.Config(network=network, **TINY), digits, seed=0).modules["discriminator"]
    assert not any(isinstance(m, BatchNorm) for _, m in critic.named_modules())
    x = rng.standard_normal((6, 8, 8, 1)).astype(np.float32)
    other = x.copy()
    other[1:] = rng.standard_normal((5, 8, 8, 1))
    np.testing.assert_allclose(critic(x).data[0], critic(other).data[0], rtol=1e-5)


# --- the two players' turns -------------------------------------------------------------------------------------------


def test_fakes_are_constants_in_the_discriminators_step(digits, rng):
    system = gan.build(gan.Config(**TINY), digits, seed=0)
    generator, critic = system.modules["generator"], system.modules["discriminator"]
    x, z = rng.standard_normal((8, 8, 8, 1)).astype(np.float32), rng.standard_normal((8, 4)).astype(np.float32)
    config = gan.resolved(system.config)
    loss, _ = gan.discriminator_objective(generator, critic, x, None, z, None, config)
    loss.backward()
    assert all(p.grad is None for p in generator.parameters())
    assert all(np.any(p.grad) for p in critic.parameters())


def test_a_generators_step_leaves_the_discriminator_alone_and_the_other_way_round(digits):
    """The discriminator after one step is bit for bit the one that had no generator's step beside it."""
    ends = []
    for both in (True, False):
        system = gan.build(gan.Config(**TINY), digits, seed=0)
        start = system.modules["generator"].flatten().flat.copy()
        stage = system.stages()[0]
        objectives = stage.objectives if both else stage.objectives[:1]
        trainer = Trainer(
            dataclasses.replace(system, stages=lambda s=stage, o=objectives: [dataclasses.replace(s, objectives=o)]),
            seed=0,
        )
        system.modules["generator"].train()  # also where this stage does not train it: its batch norm sees the batch
        trainer.advance(digits.train)
        ends.append(system.modules["discriminator"].flat.copy())
        assert np.array_equal(system.modules["generator"].flat, start) != both
    np.testing.assert_array_equal(*ends)


def test_each_objective_and_step_draws_its_own_z(digits, monkeypatch):
    drawn = []

    def spy(real: Callable[..., Any], place: int) -> Callable[..., Any]:
        return lambda *args: drawn.append(args[place]) or real(*args)

    for name, place in (("discriminator_objective", 4), ("generator_objective", 3)):
        monkeypatch.setattr(gan, name, spy(getattr(gan, name), place))
    trainer = Trainer(gan.build(gan.Config(**TINY), digits, seed=0), seed=0)
    for _ in range(3):
        trainer.advance(digits.train)
    assert len(drawn) == 6 and len(np.unique([z[0, 0] for z in drawn])) == 6


@pytest.mark.parametrize("loss", gan.GAMES)
def test_each_game_is_trained_as_its_paper_says(loss, digits):
    """Ten steps: the critic moves in all of them, the generator in every ``critic_steps``-th; weights stay clipped."""
    system = gan.build(gan.Config(loss=loss, **TINY), digits, seed=0)
    ratio = 5 if loss in ("wasserstein", "wgan-gp") else 1
    stage = system.stages()[0]
    assert stage.optimiser == ("rmsprop" if loss == "wasserstein" else "adam")
    trainer, moves = Trainer(system, seed=0), {"generator": 0, "discriminator": 0}
    for _ in range(10):
        before = {name: m.flat.copy() for name, m in system.modules.items()}
        figures = trainer.advance(digits.train)
        for name, m in system.modules.items():
            moves[name] += not np.array_equal(m.flat, before[name])
            assert np.isfinite(m.flat).all()
        if loss == "wasserstein":
            assert np.abs(system.modules["discriminator"].flat).max() <= np.float32(0.01)
        assert ("discriminator.penalty" in figures) == (loss == "wgan-gp")
        assert ("discriminator.r1" in figures) == (loss in ("saturating", "non-saturating"))
    assert moves == {"discriminator": 10, "generator": 10 // ratio}


def log_sigmoid(l: Any) -> Any:
    return -np.logaddexp(0, -l)


# the losses of every game, of the logits of real and fake data, as the papers write them
WRITTEN_OUT: dict[str, tuple[Any, Any]] = {
    "saturating": (
        lambda r, f: -log_sigmoid(r).mean() - log_sigmoid(-f).mean(),
        lambda f: log_sigmoid(-f).mean(),
    ),
    "non-saturating": (
        lambda r, f: -log_sigmoid(r).mean() - log_sigmoid(-f).mean(),
        lambda f: -log_sigmoid(f).mean(),
    ),
    "least-squares": (
        lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),
        lambda f: 0.5 * ((f - 1) ** 2).mean(),
    ),
    "hinge": (
        lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
        lambda f: -f.mean(),
    ),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
    "wgan-gp": (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
}


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", gan.GAMES)
def test_both_players_minimise_the_losses_of_their_game_with_each_samples_own_label(name, conditional, digits):
    """What the stage's objectives return, penalties aside, written out from the logits of the two networks."""
    config = gan.Config(loss=name, conditional=conditional, r1=0.0, gradient_penalty=0.0, **TINY)
    system = gan.build(config, digits, seed=0)
    generator, critic = system.modules["generator"], system.modules["discriminator"]
    noise = np.random.default_rng(1)
    for module in (generator, critic):
        for p in module.parameters():
            p.data[...] += (0.3 * noise.standard_normal(p.shape)).astype(np.float32)
    batch = digits.train.take(slice(0, 8))
    y = batch.labels if conditional else None
    z = np.random.default_rng(2).standard_normal((8, 4)).astype(np.float32)
    with ag.no_grad():
        fake = ag.raw(generator(z, y))
        real_logits = ag.raw(critic(digits.scale(batch.images).astype(np.float32), y)).astype(np.float64)
        fake_logits = ag.raw(critic(fake, y)).astype(np.float64)
        if conditional:
            others = ag.raw(critic(fake, np.roll(batch.labels, 1)))
            assert np.abs(others - fake_logits).max() > 0.05, "other labels would be seen"
    d_loss, g_loss = WRITTEN_OUT[name]
    of_critic, of_generator = system.stages()[0].objectives
    assert (of_critic.module, of_generator.module) == (critic, generator)
    found, figures = of_critic.loss(batch, np.random.default_rng(2), 0)
    assert float(found) == pytest.approx(d_loss(real_logits, fake_logits), rel=1e-4, abs=1e-5)
    assert float(figures["real"]) == pytest.approx(real_logits.mean(), rel=1e-4, abs=1e-5)
    assert float(figures["fake"]) == pytest.approx(fake_logits.mean(), rel=1e-4, abs=1e-5)
    found, _ = of_generator.loss(batch, np.random.default_rng(2), 0)
    assert float(found) == pytest.approx(g_loss(fake_logits), rel=1e-4, abs=1e-5)


def test_every_judgement_of_a_step_is_told_the_labels_in_the_batchs_order(rng):
    """Real ones, fakes, and those in between: three calls of the critic; the fakes are drawn for the same labels."""
    x, z, y = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)), np.array([2, 0, 1, 1])
    drawn, judged = [], []

    def generator(z: Any, y: Any) -> Any:
        drawn.append(y)
        return z

    def critic(points: Any, y: Any) -> Any:
        judged.append(y)
        return ag.sum(points * points, axis=1)

    config = gan.resolved(gan.Config(loss="wgan-gp"))
    gan.discriminator_objective(generator, critic, x, y, z, rng.random((4, 1)), config)
    gan.generator_objective(generator, critic, y, z, config)
    assert len(drawn) == 2 and len(judged) == 4
    for seen in (*drawn, *judged):
        np.testing.assert_array_equal(seen, y)


def test_what_wasserstein_gans_papers_set():
    """Arjovsky et al. 2017, algorithm 1; Gulrajani et al. 2017, algorithm 1."""
    clipped, penalised = (gan.resolved(gan.Config(loss=name)) for name in ("wasserstein", "wgan-gp"))
    assert (clipped.weight_clip, clipped.critic_steps, clipped.optimiser) == (0.01, 5, "rmsprop")
    assert (penalised.gradient_penalty, penalised.critic_steps, penalised.optimiser) == (10.0, 5, "adam")
    assert clipped.gradient_penalty == penalised.weight_clip == clipped.r1 == penalised.r1 == 0


def test_fakes_are_drawn_for_every_label(digits, monkeypatch):
    system, told = gan.build(gan.Config(conditional=True, **TINY | {"batch_size": 512}), digits, seed=0), []
    forward = gan.Generator.forward

    def watched(self, z, y=None):
        told.append(y)
        return forward(self, z, y)

    monkeypatch.setattr(gan.Generator, "forward", watched)
    system.sample(512, rng=np.random.default_rng(0))
    Trainer(system, seed=0).advance(digits.train)
    assert len(told) >= 2
    for y in told:
        counts = np.bincount(y, minlength=10)
        assert len(counts) == 10 and counts.min() > 51.2 - 6 * (51.2 * 0.9) ** 0.5 > 0


@pytest.mark.parametrize("loss", gan.GAMES)
def test_adam_runs_without_momentum_at_the_rate_of_its_game(loss, digits):
    stage = gan.build(gan.Config(loss=loss, ema=0.9, **TINY), digits, seed=0).stages()[0]
    assert stage.betas == (0.0, 0.99)
    assert stage.lr == (2e-3 if loss in ("saturating", "non-saturating") else 1e-3)
    assert (stage.steps, stage.batch_size, stage.ema) == (10, 8, 0.9)


def test_settings_that_are_given_are_kept():
    config = gan.resolved(gan.Config(loss="wgan-gp", critic_steps=2, r1=0.5, network="conv"))
    assert (config.critic_steps, config.r1, config.gradient_penalty, config.width) == (2, 0.5, 10.0, 32)
    assert gan.resolved(gan.Config(r1=0.0)).r1 == 0.0


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"network": "conv"}, {"conditional": True}])
def test_saved_and_loaded_it_draws_the_same_pictures_with_the_averaged_generator(settings, digits, tmp_path: Path):
    config = gan.Config(**TINY | settings)
    train(gan.build(config, digits, seed=0), digits, Run(out=tmp_path, system="gan", samples=4, samples_every=0))
    loaded, _ = arguments.load_weights(tmp_path / "weights.safetensors", curriculum.find("gan"))

    trainer = Trainer(gan.build(config, digits, seed=0), seed=0)
    for _ in range(config.steps):
        trainer.advance(digits.train)
    system = trainer.system
    with trainer.averaged():
        assert np.array_equal(system.modules["generator"].flat, trainer.averages["generator"])
        want = system.sample(5, rng=np.random.default_rng(3))
    assert not np.array_equal(system.modules["generator"].flat, trainer.averages["generator"])
    found = loaded.sample(5, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(found, want)
    assert found.shape == (5, 8, 8, 1) and found.dtype == np.float32 and np.abs(found).max() <= 1
    assert loaded.sample(1, rng=np.random.default_rng(3)).shape == (1, 8, 8, 1), "a batch of one can be drawn"
    assert set(loaded.pictures) == {"interpolation"} | ({"classes"} if config.conditional else set())
    for picture in loaded.pictures.values():
        shown = picture(digits.test, rng=np.random.default_rng(0))
        assert shown.ndim == 5 and shown.shape[2:] == (8, 8, 1) and np.isfinite(shown).all()
    said = loaded.figures(digits, rng=np.random.default_rng(0))
    assert len(said) == 3 and np.isfinite(list(said.values())).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_figures_are_what_the_discriminator_says_of_each_split_and_of_samples(conditional, digits):
    system, noise = gan.build(gan.Config(**TINY, conditional=conditional), digits, seed=0), np.random.default_rng(1)
    critic = system.modules["discriminator"].eval()
    for p in critic.parameters():
        p.data[...] += (0.1 * noise.standard_normal(p.shape)).astype(np.float32)
    system.modules["generator"].eval()
    found, rng = system.figures(digits, rng=np.random.default_rng(4)), np.random.default_rng(4)
    y = rng.integers(0, 10, 1000) if conditional else None
    fakes = ag.raw(system.modules["generator"](rng.standard_normal((1000, 4)).astype(np.float32), y))

    def mean_logit(x, y):
        return float(ag.raw(critic(x, y if conditional else None)).mean())

    want = {
        f"mean logit of {name}": mean_logit(digits.scale(part.images[:1000]), part.labels[:1000])
        for name, part in (("training data", digits.train), ("test data", digits.test))
    }
    assert found == pytest.approx(want | {"mean logit of samples": mean_logit(fakes, y)}, rel=1e-4)
    assert len({round(value, 4) for value in found.values()}) == 3


def test_interpolation_goes_from_one_sample_to_another(digits):
    system = gan.build(gan.Config(**TINY), digits, seed=0)
    system.modules["generator"].eval()
    rows = system.pictures["interpolation"](digits.test, rng=np.random.default_rng(1))
    ends = system.sample(12, rng=np.random.default_rng(1))
    np.testing.assert_allclose(rows[:, 0], ends[:6], atol=1e-5)
    np.testing.assert_allclose(rows[:, -1], ends[6:], atol=1e-5)


def test_interpolation_goes_along_the_sphere(digits):
    system = gan.build(gan.Config(**TINY), digits, seed=0)
    generator = system.modules["generator"].eval()
    rows = system.pictures["interpolation"](digits.test, rng=np.random.default_rng(1))
    a, b = np.random.default_rng(1).standard_normal((2, 6, 4))
    for k in range(9):
        want = ag.raw(generator(slerp(a, b, k / 8).astype(np.float32)))
        np.testing.assert_allclose(rows[:, k], want, atol=1e-5)


def test_conditional_samples_follow_the_label(digits):
    system = gan.build(gan.Config(conditional=True, **TINY), digits, seed=0)
    system.modules["generator"].eval()
    rows = system.pictures["classes"](digits.test, rng=np.random.default_rng(1))
    assert rows.shape == (10, 10, 8, 8, 1)
    for label in (0, 9):
        alone = system.sample(10, rng=np.random.default_rng(1), label=label)
        np.testing.assert_allclose(alone, rows[label], atol=1e-5)
    assert np.abs(rows[0] - rows[9]).max() > 1e-3


def test_conditional_discriminator_is_the_projection(rng):
    """Miyato & Koyama 2018, eq. 3: the label adds e_y . phi(x) to the logit, and nothing else."""
    config = gan.resolved(gan.Config(width=6))
    critic = gan.make_discriminator(config, (5,), 3, rng).astype(np.float64)
    x = rng.standard_normal((4, 5))
    phi = critic.features(ag.Tensor(x)).data
    for label in range(3):
        want = phi @ critic.last.w.data[:, 0] + critic.last.b.data + phi @ critic.embed.table.data[label]
        np.testing.assert_allclose(critic(x, np.full(4, label)).data, want, rtol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_biggan_truncation_is_the_truncated_gaussian(share):
    """As redrawing until |z| <= c would give, with the given share of the Gaussian within c."""
    c = norm.ppf((1 + share) / 2)
    u = np.linspace(0.001, 0.999, 99)
    np.testing.assert_allclose(gan.truncated(norm.ppf(u), share), truncnorm.ppf(u, -c, c), atol=1e-10)
    assert np.abs(gan.truncated(np.array([-9.0, 9.0]), share)).max() <= c + 1e-10


def test_truncation_of_one_changes_nothing_and_a_small_one_brings_samples_together(digits):
    system = gan.build(gan.Config(**TINY), digits, seed=0)
    system.modules["generator"].eval()
    plain, one, little = (
        system.sample(50, rng=np.random.default_rng(0), **settings)
        for settings in ({}, {"truncation": 1.0}, {"truncation": 0.1})
    )
    np.testing.assert_array_equal(plain, one)
    assert little.std(axis=0).mean() < 0.5 * plain.std(axis=0).mean()


def test_points_have_no_pictures():
    rings = load("rings")
    system = gan.build(gan.Config(**TINY), rings, seed=0)
    trainer = Trainer(system, seed=0)
    trainer.advance(rings.train)
    assert system.sample(7, rng=np.random.default_rng(0)).shape == (7, 2) and not system.pictures


def test_the_penalty_of_a_flat_critic_has_a_gradient():
    w = ag.Tensor(np.zeros(3), requires_grad=True)
    x = ag.Tensor(np.ones((2, 3)), requires_grad=True)
    gan.gradient_penalty(ag.sum(x * w, axis=1), x, 10.0).backward()
    assert np.isfinite(w.grad).all()


def test_settings_that_do_not_fit_are_named(digits):
    rings = load("rings")
    for data, said, settings in (
        (digits, "loss must be one of saturating, non-saturating, .*, got 'w'", {"loss": "w"}),
        (digits, "network must be one of mlp, conv, got 'vit'", {"network": "vit"}),
        (digits, "latent must be at least 1, got 0", {"latent": 0}),
        (digits, "critic_steps must be at least 1, got 0", {"critic_steps": 0}),
        (digits, "r1 must be at least 0, got -1", {"r1": -1.0}),
        (digits, "batch_size must be at least 2 with batch norm in the generator, got 1", {"batch_size": 1}),
        (digits, "size must be a multiple of 16, got 8 x 8", {"network": "conv", "depth": 4}),
        (load("text"), "this model draws pictures or points, and the data set 'text' holds neither", {}),
        (rings, "network 'conv' draws pictures, and the data set 'rings' holds no pictures", {"network": "conv"}),
        (
            dataclasses.replace(digits, classes=()),
            "conditional needs labels, and the data set 'digits' has none",
            {"conditional": True},
        ),
    ):
        with pytest.raises(ValueError, match=said):
            gan.build(gan.Config(**settings), data, seed=0)
    gan.build(gan.Config(batch_size=1, batch_norm=False), digits, seed=0)


def test_settings_of_samples_that_do_not_fit_are_named(digits, rng):
    plain = gan.build(gan.Config(**TINY), digits, seed=0)
    conditional = gan.build(gan.Config(conditional=True, **TINY), digits, seed=0)
    for system, said, settings in (
        (plain, "a GAN draws in one step, so steps must be left out, got 5", {"steps": 5}),
        (plain, "label 3 needs a conditional GAN", {"label": 3}),
        (conditional, "label must be from 0 to 9, got 10", {"label": 10}),
        (conditional, "label must be from 0 to 9, got -1", {"label": -1}),
        (plain, "truncation must be above 0 and at most 1, got 0", {"truncation": 0.0}),
        (plain, "truncation must be above 0 and at most 1, got 1.5", {"truncation": 1.5}),
    ):
        with pytest.raises(ValueError, match=said):
            system.sample(2, rng=rng, **settings)
