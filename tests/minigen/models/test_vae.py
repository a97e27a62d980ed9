"""The VAE against exact answers: linear Gaussian models, enumerated latents, decoders whose probabilities are known."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

import autograd as ag
from minigen.data import Dataset, Split, load
from minigen.maths import gaussian
from minigen.maths.interpolation import slerp
from minigen.models import vae
from minigen.train.loop import Trainer
from tests.support.baselines import check_baselines, check_baselines_of_pictures_on_demand

TINY = vae.Config(channels=(4, 8), hidden=8, latent=3, steps=20, batch_size=16)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def few(digits) -> Dataset:
    """A few of them, for figures in no time."""
    parts = (s.take(slice(0, n)) for s, n in ((digits.train, 60), (digits.val, 20), (digits.test, 12)))
    return Dataset("digits", *parts, levels=17, classes=digits.classes)


# --- a linear Gaussian model: x = W z + m + s e, whose marginal and posterior are known -----------------------------


class Linear:
    """p(x) = N(m, W W' + s^2 I), and p(z | x) = N(mean(x), cov)."""

    def __init__(self, W, m, log_var):
        self.W, self.m, self.log_var = W, m, log_var

    def log_likelihood(self, x, z):
        """The ``log_likelihood`` that the bound takes: x (n, D), z (K, n, d) -> (K, n)."""
        return ag.sum(gaussian.log_density(x, z @ ag.transpose(self.W) + self.m, self.log_var), -1)

    def log_p(self, x):
        s2 = np.exp(self.log_var)
        return multivariate_normal(self.m, self.W @ self.W.T + s2 * np.eye(len(self.m))).logpdf(x)

    @property
    def cov(self):
        return np.linalg.inv(np.eye(self.W.shape[1]) + self.W.T @ self.W / np.exp(self.log_var))

    def mean(self, x):
        return (x - self.m) @ self.W @ self.cov / np.exp(self.log_var)


def linear(seed, orthogonal=False, D=5, d=2):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((D, d))
    if orthogonal:  # columns at right angles: the posterior's covariance is diagonal, as q's is
        W = np.linalg.qr(W)[0] * rng.uniform(0.5, 2, d)
    model = Linear(W, rng.standard_normal(D), rng.normal(-1, 0.5))
    x = model.m + rng.standard_normal((3, d)) @ W.T + rng.standard_normal((3, D))
    return model, x, rng


def quadrature(n, d, nodes=3):
    """Nodes ``eps`` (K, n, d) and weights (K,) with which a mean over N(0, I) is exact for polynomials of degree 5."""
    t, w = np.polynomial.hermite_e.hermegauss(nodes)
    eps = np.array(list(itertools.product(t, repeat=d)))
    weights = np.prod(list(itertools.product(w / w.sum(), repeat=d)), axis=1)
    return np.repeat(eps[:, None], n, axis=1), weights


def elbo(x, posterior, log_likelihood, d):
    """Eq. 3 by the file's own terms, the mean over eps exact."""
    eps, weights = quadrature(len(x), d)
    log_p, kl = vae.elbo_terms(x, posterior, log_likelihood, eps)
    return ag.sum(weights[:, None] * log_p, 0) - ag.sum(kl, 1)


@given(st.integers(0, 999))
def test_vae_eq3_gap_of_the_bound_is_the_kl_to_the_posterior(seed):
    model, x, rng = linear(seed)
    mu, log_var = rng.standard_normal((2, 3, 2))
    precision, difference = np.linalg.inv(model.cov), model.mean(x) - mu
    to_posterior = 0.5 * (
        np.exp(log_var) @ np.diag(precision)
        + np.einsum("ni,ij,nj->n", difference, precision, difference)
        - 2
        + np.linalg.slogdet(model.cov)[1]
        - log_var.sum(1)
    )
    got = elbo(x, (mu, log_var), model.log_likelihood, 2)
    np.testing.assert_allclose(got, model.log_p(x) - to_posterior, rtol=1e-10, atol=1e-10)


@given(st.integers(0, 999))
def test_vae_eq3_the_posterior_closes_the_gap_and_nothing_pulls_at_it(seed):
    model, x, _ = linear(seed, orthogonal=True)
    mu = ag.Tensor(model.mean(x), requires_grad=True)
    log_var = ag.Tensor(np.tile(np.log(np.diag(model.cov)), (3, 1)), requires_grad=True)
    bound = elbo(x, (mu, log_var), model.log_likelihood, 2)
    np.testing.assert_allclose(bound.data, model.log_p(x), rtol=1e-10, atol=1e-10)
    ag.sum(bound).backward()
    np.testing.assert_allclose(mu.grad, 0, atol=1e-10)
    np.testing.assert_allclose(log_var.grad, 0, atol=1e-10)


@given(st.integers(0, 999))
def test_iwae_eq8_every_weight_is_p_of_x_where_q_is_the_posterior(seed):
    """p(x | z) p(z) / q(z | x) = p(x) for ANY z: all the constants of all three densities are there."""
    model, x, rng = linear(seed, orthogonal=True)
    posterior = model.mean(x), np.tile(np.log(np.diag(model.cov)), (3, 1))
    log_w = vae.log_weights(x, posterior, model.log_likelihood, rng.standard_normal((4, 3, 2)))
    np.testing.assert_allclose(log_w, np.tile(model.log_p(x), (4, 1)), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(vae.importance_weighted_bound(log_w), model.log_p(x), rtol=1e-10, atol=1e-10)


def test_a_trained_linear_vae_is_probabilistic_pca():
    """Its best bound is the maximum likelihood of pPCA (Tipping & Bishop 1999; Lucas et al. 2019, 1911.02469): no gap is left."""
    rng = np.random.default_rng(0)
    n, D, d = 50, 5, 2
    x = rng.standard_normal((n, 3)) @ rng.standard_normal((3, D)) + 0.3 * rng.standard_normal((n, D)) + 1
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    s2 = values[: D - d].mean()
    W = vectors[:, D - d :] * np.sqrt(values[D - d :] - s2)
    best = Linear(W, x.mean(0), np.log(s2)).log_p(x).mean()

    shapes = {"W": (D, d), "m": (D,), "log_s2": (), "A": (D, d), "b": (d,), "log_var": (d,)}

    def unpack(theta):
        cuts = np.split(theta, np.cumsum([int(np.prod(s)) for s in shapes.values()])[:-1])
        return {k: ag.Tensor(a.reshape(s), requires_grad=True) for a, (k, s) in zip(cuts, shapes.items())}

    def objective(theta):
        p = unpack(theta)
        posterior = x @ p["A"] + p["b"], ag.broadcast_to(p["log_var"], (n, d))
        model = Linear(p["W"], p["m"], p["log_s2"])
        loss = -ag.mean(elbo(x, posterior, model.log_likelihood, d))
        gradients = ag.grad(loss, list(p.values()))
        return float(loss), np.concatenate([g.data.ravel() for g in gradients])

    start = 0.3 * rng.standard_normal(sum(int(np.prod(s)) for s in shapes.values()))
    found = minimize(objective, start, jac=True, method="BFGS", options={"maxiter": 1000, "gtol": 1e-8})
    assert -found.fun == pytest.approx(best, abs=1e-8)


# --- enumerated latents ---------------------------------------------------------------------------------------------


def iwae_of(p_xz, q, draws):
    """E over z_1..z_K of the file's bound, every multiset of draws counted by its probability."""
    from scipy.stats import multinomial

    counts = np.array([c for c in itertools.product(range(draws + 1), repeat=len(q)) if sum(c) == draws])
    log_w = np.log(p_xz / q)
    rows = np.array([np.repeat(log_w, c) for c in counts])  # (multisets, K)
    return float(multinomial(draws, q).pmf(counts) @ vae.importance_weighted_bound(rows.T))


@given(st.integers(0, 999))
def test_iwae_eq8_rises_with_every_draw_up_to_log_p(seed):
    rng = np.random.default_rng(seed)
    p_xz, q = 0.1 * rng.dirichlet(np.ones(3)), rng.dirichlet(2 * np.ones(3))
    log_p = np.log(p_xz.sum())
    bounds = np.array([iwae_of(p_xz, q, k) for k in (1, 2, 3, 4, 8, 16)])
    assert bounds[0] == pytest.approx(float(q @ np.log(p_xz / q))), "one draw is the ordinary bound"
    assert np.all(np.diff(bounds) >= -1e-12) and bounds[-1] <= log_p + 1e-12


def test_iwae_eq8_reaches_log_p_as_fast_as_the_variance_of_the_weights_says():
    p_xz, q = np.array([0.02, 0.05, 0.03]), np.array([0.4, 0.4, 0.2])
    variance = float(q @ (p_xz / q / p_xz.sum() - 1) ** 2)
    gap = np.log(p_xz.sum()) - iwae_of(p_xz, q, 60)
    assert gap == pytest.approx(variance / 120, rel=0.05), "Var(w) / (2 K p(x)^2) to first order in 1 / K"


# --- the terms ------------------------------------------------------------------------------------------------------


def test_vae_app_b_kl_is_a_sum_with_a_column_for_each_latent(rng):
    mu, log_var = rng.standard_normal((2, 4, 3))
    _, kl = vae.elbo_terms(None, (mu, log_var), lambda x, z: z, np.zeros((1, 4, 3)))
    np.testing.assert_allclose(kl, -0.5 * (1 + log_var - mu**2 - np.exp(log_var)))
    assert (kl >= 0).all()


def test_vae_eq4_the_network_says_the_log_of_the_variance():
    """A log variance of ln 9 moves z by 3 for each unit of noise, and the draw is of the same q that the KL measures."""
    posterior = np.array([[1.0]]), np.array([[np.log(9.0)]])
    seen, kl = vae.elbo_terms(None, posterior, lambda x, z: z, np.array([[[2.0]], [[-1.0]]]))
    np.testing.assert_allclose(seen[..., 0], [[7], [-2]])
    assert kl == pytest.approx(0.5 * (9 + 1 - 1 - np.log(9)))


def test_gradients_pass_through_the_draw(rng):
    model, x, _ = linear(0)
    mu, log_var = rng.standard_normal((2, 3, 2))
    eps = rng.standard_normal((4, 3, 2))

    def bound(mu, log_var, W):
        log_p, kl = vae.elbo_terms(x, (mu, log_var), Linear(W, model.m, model.log_var).log_likelihood, eps)
        return ag.mean(log_p) - ag.mean(ag.sum(kl, 1))

    def weighted(mu, log_var, W):
        w = vae.log_weights(x, (mu, log_var), Linear(W, model.m, model.log_var).log_likelihood, eps, beta=0.7)
        return vae.importance_weighted_bound(w)

    ag.gradcheck(bound, [mu, log_var, model.W], order=2)
    ag.gradcheck(weighted, [mu, log_var, model.W], order=2, step=3e-4)


def test_the_kl_of_single_draws_is_the_kl_on_average(rng):
    """ln q(z) - ln p(z) over the quadrature, which is exact for it, is the closed form."""
    mu, log_var = rng.standard_normal((2, 3, 2))
    eps, weights = quadrature(3, 2)
    log_w = vae.log_weights(None, (mu, log_var), lambda x, z: 0.0, eps)
    np.testing.assert_allclose(-weights @ log_w, gaussian.kl(mu, log_var, 0.0, 0.0).sum(1), rtol=1e-12)


def test_a_posterior_may_be_as_sharp_as_float32_can_say():
    """z is mu to the last bit then, so ln q(z) cannot be found from z - mu: it is ln N(eps) - ln sigma."""
    posterior = np.float32([[1.5]]), np.float32([[-90.0]])
    log_w = vae.log_weights(None, posterior, lambda x, z: 0.0, np.float32([[[0.7]]]))
    np.testing.assert_allclose(ag.raw(log_w), (-(1.5**2) + 0.7**2 - 90) / 2, rtol=1e-6)


def test_free_bits_cost_nothing_and_pull_at_nothing():
    """Latent 0 says 0.4 nats on average over the batch, latent 1 says 3: with 0.5 free, 0.5 + 3 and no pull at latent 0."""
    kl = ag.Tensor(np.array([[0.1, 2.0], [0.7, 4.0]]), requires_grad=True)
    total = vae.free_bits_kl(kl, 0.5)
    assert float(total) == pytest.approx(3.5)
    total.backward()
    np.testing.assert_array_equal(kl.grad, [[0, 0.5], [0, 0.5]])
    assert float(vae.free_bits_kl(kl, 0.0)) == pytest.approx(3.4), "and none: the mean over pictures of the sum"


def test_kl_warmup_rises_linearly_and_stays():
    assert [vae.kl_weight(step, 40) for step in (0, 10, 40, 41, 1000)] == [0, 0.25, 1, 1, 1]
    assert vae.kl_weight(0, 0) == 1


def test_a_dead_latent_is_not_active(rng):
    mu = rng.standard_normal((200, 3)) * [1, 0, 0.05] + [0, 7, 0]  # a constant is dead however large it is
    np.testing.assert_array_equal(vae.active_units(mu), [True, False, False])


def test_a_latent_is_active_above_a_variance_of_a_hundredth():
    mu = np.sqrt([0.009, 0.011, 0.05, 0.5]) * np.array([[-1.0], [1.0]])
    np.testing.assert_array_equal(vae.active_units(mu), [False, True, True, True])


# --- the decoders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoder", "levels"), [("logistic", 17), ("logistic", 256), ("categorical", 17), ("bernoulli", 2)]
)
def test_what_is_drawn_is_what_is_measured(decoder, levels, rng):
    """``p`` holds the probability of every level by the likelihood that training uses, and adds up to one."""
    of_pixel = vae.pixel(decoder, levels)
    out = 3 * rng.standard_normal((4, 2, 2, 1, of_pixel.outputs))
    p = of_pixel.p(out)
    assert p.shape == (4, 2, 2, 1, levels)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    for k in range(levels):
        np.testing.assert_allclose(p[..., k], np.exp(of_pixel.log_p(np.full(p.shape[:-1], k), out)), rtol=1e-12)


@pytest.mark.parametrize("levels", [17, 256])
def test_no_decoder_output_breaks_the_likelihood(levels):
    """A scale that ran away once ended training on 256 levels: whatever the network says, losses and gradients stay finite."""
    out = np.array([*itertools.product([-1e4, -90, 0, 90, 1e4], repeat=2)], np.float32)
    out = ag.Tensor(np.repeat(out[:, None], levels, axis=1), requires_grad=True)
    log_p = vae.pixel("logistic", levels).log_p(np.tile(np.arange(levels), (25, 1)), out)
    ag.sum(log_p).backward()
    assert np.isfinite(log_p.data).all() and np.isfinite(out.grad).all()
    np.testing.assert_allclose(np.exp(log_p.data.astype(np.float64)).sum(1), 1, rtol=4 * levels * 1.2e-7)


def silent(config, dataset):
    """A system whose decoder says 0 everywhere and whose encoder says the prior."""
    system = vae.build(config, dataset, seed=0)
    net = system.modules["vae"]
    for layer in (net.encoder.out, net.decoder.out):
        layer.w.data[...] = layer.b.data[...] = 0
    return system, net


@pytest.mark.parametrize(
    ("decoder", "draws", "nats"),
    [("categorical", 1, 64 * np.log(17)), ("categorical", 3, 64 * np.log(17)), ("bernoulli", 1, 64 * np.log(2))],
)
def test_nats_are_sums_over_pixels(few, decoder, draws, nats):
    """Knowing nothing costs D ln L nats a picture, and not D times less: in the loss and in the figures."""
    system, _ = silent(dataclasses.replace(TINY, decoder=decoder, draws=draws), few)
    loss, _ = system.stages()[0].objectives[0].loss(few.train.take(slice(0, 9)), np.random.default_rng(0), 20)
    assert float(loss) == pytest.approx(nats, rel=1e-6)
    found = list(system.figures(few, rng=np.random.default_rng(0)).values())
    np.testing.assert_allclose(found[:5], [nats, nats, 0, nats, 0], rtol=1e-6, atol=1e-6)
    assert found[5] == pytest.approx(nats), "which is the uniform model beside it"


def test_nats_are_sums_over_latents(digits):
    """A posterior N(1, 1) in each of three latents costs 3 / 2 nats, times beta, less while it warms up."""
    config = dataclasses.replace(TINY, decoder="categorical", beta=2.0, kl_warmup=0.5)
    system, net = silent(config, digits)
    net.encoder.out.b.data[:3] = 1
    for step, weight in ((0, 0), (5, 0.5), (10, 1), (19, 1)):
        batch = digits.train.take(slice(0, 9))
        loss, figures = system.stages()[0].objectives[0].loss(batch, np.random.default_rng(0), step)
        assert float(loss) == pytest.approx(64 * np.log(17) + 2 * weight * 1.5, rel=1e-6)
        assert figures["kl"] == pytest.approx(1.5), "figures do not weigh it"
        assert figures["-elbo"] == pytest.approx(64 * np.log(17) + 1.5, rel=1e-6)


def test_every_draw_is_scored_against_the_picture_it_was_drawn_for(digits):
    """Where q is a point, all draws are one, and three of them are worth as much as one (at step 0 nothing else counts)."""
    found = []
    for draws in (1, 3):
        system = vae.build(dataclasses.replace(TINY, dropout=0.0, draws=draws), digits, seed=0)
        out = system.modules["vae"].encoder.out
        out.w.data[:, :3] = np.random.default_rng(0).standard_normal((8, 3))
        out.b.data[3:] = -60
        batch = digits.train.take(slice(0, 9))
        found.append(float(system.stages()[0].objectives[0].loss(batch, np.random.default_rng(0), 0)[0]))
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_samples_come_from_the_decoders_distribution(digits):
    """With p(level) the same everywhere, the levels drawn have these frequencies, and the mean is the mean."""
    system, net = silent(dataclasses.replace(TINY, decoder="categorical"), digits)
    p = np.random.default_rng(1).dirichlet(np.ones(17))
    net.decoder.out.b.data[:] = np.log(p)
    images = system.sample(150, rng=np.random.default_rng(0))
    assert images.shape == (150, 8, 8, 1) and images.dtype == np.float32
    seen = np.bincount(digits.unscale(images).ravel(), minlength=17)
    np.testing.assert_array_equal(digits.scale(digits.unscale(images)), images)
    n = 150 * 64  # 6 standard deviations: a probability wrong by 0.03 is seen
    assert np.all(np.abs(seen - n * p) < 6 * np.sqrt(n * p * (1 - p)) + 1)
    mean = system.sample(2, rng=np.random.default_rng(0), mean=True)
    np.testing.assert_allclose(mean, p @ (np.arange(17) / 8 - 1), rtol=1e-5, atol=1e-6)


def test_bernoulli_models_the_thresholded_picture(digits):
    """Level 8 of 0..16 is the middle and counts as black; 256 levels split evenly; what is there comes in two values."""
    levels = np.array([0, 8, 9, 16])
    np.testing.assert_array_equal(vae.threshold(levels, 17), [0, 0, 1, 1])
    np.testing.assert_array_equal(vae.threshold(np.array([127, 128, 255], np.uint8), 256), [0, 1, 1])
    np.testing.assert_array_equal(vae.threshold(np.array([0, 1], np.uint8), 2), [0, 1])
    system = vae.build(dataclasses.replace(TINY, decoder="bernoulli"), digits, seed=0)
    assert set(np.unique(system.sample(4, rng=np.random.default_rng(0)))) == {-1, 1}
    assert set(np.unique(system.pictures["reconstruction"](digits.test, rng=np.random.default_rng(0))[0])) == {-1, 1}
    grey = digits.train.take(slice(0, 9))
    black_and_white = Split(16 * vae.threshold(grey.images, 17))
    objective = system.stages()[0].objectives[0]
    a, b = (objective.loss(batch, np.random.default_rng(0), 3)[0] for batch in (grey, black_and_white))
    assert float(a) == float(b), "grey levels are no fractions of a black pixel"


# --- the system -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["logistic", "categorical", "bernoulli"])
def test_training_lowers_the_bound(digits, few, decoder):
    config = dataclasses.replace(TINY, decoder=decoder, lr=1e-2, steps=40, channels=(8, 8), hidden=32, dropout=0.1)
    system = vae.build(config, digits, seed=0)
    trainer = Trainer(system, seed=0)
    small = digits.train.take(slice(0, 16))
    found = [trainer.advance(small)["bound.-elbo"] for _ in range(40)]
    assert found[-1] < 0.7 * found[0]
    with trainer.averaged():
        figures = list(system.figures(few, rng=np.random.default_rng(0)).values())
    assert np.isfinite(figures).all() and figures[1] == pytest.approx(figures[2] + figures[3])
    assert figures[0] <= figures[1], "the log of the mean weight is at least the mean of the logs"


def test_figures_are_both_bounds_by_their_own_formulas(few):
    """From the same draws: eq. 3 is the mean of the logs of the weights, the importance-weighted bound the log of their mean."""
    system = vae.build(TINY, few, seed=0)
    net, noise = system.modules["vae"], np.random.default_rng(1)
    for p in net.parameters():
        p.data[...] += (0.2 * noise.standard_normal(p.shape)).astype(np.float32)
    net.encoder.out.w.data[:, 1] = 0  # the mean of a unit that says nothing
    of_pixel, x, rng = vae.pixel("logistic", 17), few.test.images, np.random.default_rng(7)

    def log_likelihood(x, z):
        return ag.sum(of_pixel.log_p(x, net.decoder(z[0])), (1, 2, 3))[None]

    with ag.no_grad():
        q = net.encoder(few.scale(x).astype(np.float32))
        each = [rng.standard_normal((1, 12, 3)).astype(np.float32) for _ in range(vae.DRAWS)]
        log_w = np.concatenate([ag.raw(vae.log_weights(x, q, log_likelihood, eps)) for eps in each]).astype(np.float64)
        kl = float(ag.raw(gaussian.kl(*q, 0.0, 0.0)).sum(1).mean())
    bound, weighted = -log_w.mean(), -(np.logaddexp.reduce(log_w, 0) - np.log(vae.DRAWS)).mean()
    assert bound > weighted + 0.1 and kl > 0.1
    found = system.figures(few, rng=np.random.default_rng(7))
    assert found["-ln p(picture), test, at most (bound of 64 draws), nats"] == pytest.approx(weighted, rel=1e-5)
    assert found["its bound (eq. 3), nats"] == pytest.approx(bound, rel=1e-5)
    assert found["of it KL, nats"] == pytest.approx(kl, rel=1e-4)
    assert found["of it reconstruction, nats"] == pytest.approx(bound - kl, rel=1e-4)
    assert found["active units of 3"] == np.sum(ag.raw(q[0]).var(0) > 0.01) == 2


@pytest.mark.parametrize("decoder", ["logistic", "bernoulli"])
def test_models_without_a_network_are_fitted_to_train_chosen_on_val_and_measured_on_test(few, decoder, monkeypatch):
    system = vae.build(dataclasses.replace(TINY, decoder=decoder), few, seed=0)
    if decoder == "logistic":
        check_baselines(vae, system, few, 17, monkeypatch)
    else:
        check_baselines(vae, system, few, 2, monkeypatch, lambda images: vae.threshold(images, 17))


def test_figures_of_pictures_that_are_drawn_on_demand(monkeypatch):
    shapes = load("shapes")
    check_baselines_of_pictures_on_demand(vae, vae.build(TINY, shapes, seed=0), shapes, monkeypatch)


def test_samples_and_figures_are_functions_of_their_rng(few):
    system = vae.build(TINY, few, seed=0)
    a, b = (system.sample(70, rng=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert system.figures(few, rng=np.random.default_rng(1)) == system.figures(few, rng=np.random.default_rng(1))


def test_a_weights_file_needs_no_data(digits):
    nothing = Split(np.zeros((0, 8, 8, 1), np.uint8))
    bare = Dataset("digits", nothing, nothing, nothing, levels=17, classes=digits.classes)
    system, full = vae.build(TINY, bare, seed=0), vae.build(TINY, digits, seed=0)
    a, b = (s.sample(2, rng=np.random.default_rng(0)) for s in (system, full))
    np.testing.assert_array_equal(a, b)


def test_pictures(digits):
    system = vae.build(dataclasses.replace(TINY, latent=9), digits, seed=0)
    assert set(system.pictures) == set(vae.PICTURES)
    found = {name: draw(digits.test, rng=np.random.default_rng(0)) for name, draw in system.pictures.items()}
    shapes = {name: x.shape for name, x in found.items()}
    assert shapes == {
        "reconstruction": (2, 12, 8, 8, 1),
        "traversal": (8, 13, 8, 8, 1),
        "interpolation": (6, 11, 8, 8, 1),
    }
    for x in found.values():
        assert x.min() >= -1 and x.max() <= 1
    middle = found["traversal"][:, 6]
    assert np.abs(found["traversal"] - middle[:, None]).max() > 0, "a walk along a coordinate changes the picture"


def test_pictures_are_decoder_means_of_the_latents_that_they_name(digits):
    """An encoder whose coordinates are active in an order of their own."""
    system = vae.build(dataclasses.replace(TINY, latent=9), digits, seed=0)
    net, levels, rng = system.modules["vae"], digits.scale(np.arange(17)), np.random.default_rng(1)
    w = net.encoder.out.w.data
    w[...] = rng.standard_normal(w.shape) * np.tile(rng.permutation(9) + 1, 2) / 9

    def mean(z):
        p = ag.raw(vae.pixel("logistic", 17).p(net.decoder(z.reshape(-1, 9).astype(np.float32))))
        return (p @ levels).clip(-1, 1).reshape(*z.shape[:-1], 8, 8, 1)

    def mu(x):
        return ag.raw(net.encoder(x)[0]).astype(np.float64)

    found = {name: draw(digits.test, rng=np.random.default_rng(0)) for name, draw in system.pictures.items()}
    picked = digits.scale(digits.test.images[np.random.default_rng(0).permutation(len(digits.test))[:12]])
    np.testing.assert_array_equal(found["reconstruction"][0], picked)
    np.testing.assert_allclose(found["reconstruction"][1], mean(mu(picked)), atol=1e-5)

    of_test = mu(digits.scale(digits.test.images))
    z = np.tile(of_test[np.random.default_rng(0).integers(len(of_test))], (8, 13, 1))
    for row, j in enumerate(sorted(range(9), key=lambda j: -of_test[:, j].var())[:8]):
        z[row, :, j] = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(found["traversal"], mean(z), atol=1e-5)

    a, b = mu(picked[:6]), mu(picked[6:])
    between = np.stack([slerp(a, b, t) for t in np.linspace(0, 1, 9)], axis=1)
    np.testing.assert_allclose(found["interpolation"][:, 1:-1], mean(between), atol=1e-5)
    np.testing.assert_array_equal(found["interpolation"][:, [0, -1]], np.stack([picked[:6], picked[6:]], axis=1))


def test_colour_and_odd_sizes():
    """Three channels are three levels a pixel; nothing knows that digits are 8 x 8."""
    images = np.random.default_rng(0).integers(0, 256, (6, 6, 10, 3)).astype(np.uint8)
    data = Dataset("colours", Split(images), Split(images), Split(images), levels=256, classes=())
    system = vae.build(TINY, data, seed=0)
    loss, _ = system.stages()[0].objectives[0].loss(data.train, np.random.default_rng(0), 0)
    assert np.isfinite(float(loss)) and system.sample(3, rng=np.random.default_rng(0)).shape == (3, 6, 10, 3)


def test_settings_that_do_not_fit_are_named(digits):
    with pytest.raises(ValueError, match="'rings' holds no pictures"):
        vae.build(vae.Config(), load("rings"), seed=0)
    for change, words in (
        ({"decoder": "gaussian"}, "decoder must be one of logistic, categorical, bernoulli, got 'gaussian'"),
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"beta": -1.0}, "beta must be at least 0, got -1.0"),
        ({"kl_warmup": 1.5}, "kl_warmup must be a share of the steps from 0 to 1, got 1.5"),
        ({"draws": 2, "free_bits": 0.1}, "free_bits must be 0 where draws is more than 1"),
        ({"channels": ()}, "channels must hold at least one width"),
        ({"channels": (8, 8, 8, 8, 8)}, "multiple of 16, got 8 x 8"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            vae.build(dataclasses.replace(TINY, **change), digits, seed=0)
    with pytest.raises(ValueError, match="draws in one step: steps must be left out, got 3"):
        vae.build(TINY, digits, seed=0).sample(1, rng=np.random.default_rng(0), steps=3)
