"""The denoising autoencoder against Tweedie's formula, exactly, and its walk against the recursion of Gaussian data."""

import numpy as np
import pytest
from oracles import OneHotNoise

import autograd as ag
from kernels.compare import assert_close
from minigen.data import load
from minigen.models import denoising_ae
from minigen.train.loop import Trainer

SIGMA = 0.7


def gaussian(d=3):
    """Mean and covariance of skewed data."""
    rng = np.random.default_rng(4)
    root = rng.standard_normal((d, d))
    return 2 * rng.standard_normal(d), root @ root.T + 0.1 * np.eye(d), root


def exact_sample(mean, cov):
    """Pictures and noises whose joint first and second moments are those of N(mean, cov) and N(0, I), independent.

    Both run over +- sqrt(d) times the columns of a root, in every combination.
    """
    d = len(mean)
    root = np.linalg.cholesky(cov)
    signs = np.concatenate([np.eye(d), -np.eye(d)]) * np.sqrt(d)
    x, eps = mean + signs @ root.T, signs
    pairs = np.stack(np.meshgrid(np.arange(2 * d), np.arange(2 * d), indexing="ij")).reshape(2, -1)
    return x[pairs[0]].reshape(-1, 1, d, 1), eps[pairs[1]].reshape(-1, 1, d, 1)


def test_eq1_denoising_loss(rng):
    x, x_hat = rng.standard_normal((2, 3, 2, 2, 1))
    assert float(denoising_ae.denoising_loss(x, x_hat)) == pytest.approx(np.mean((x - x_hat) ** 2))
    ag.gradcheck(lambda a: denoising_ae.denoising_loss(x, a), [x_hat], order=2)


def test_eq1_the_network_sees_the_noisy_picture_and_the_target_is_the_clean_one(rng):
    x, eps = rng.standard_normal((2, 5, 2, 2, 1))
    seen = []
    loss = denoising_ae.training_loss(lambda x_noisy: seen.append(x_noisy) or x_noisy, x, eps, SIGMA)
    assert_close(seen[0], x + SIGMA * eps, 1e-15 * 10)
    assert float(loss) == pytest.approx(SIGMA**2 * np.mean(eps**2)), "a network that does nothing leaves the noise"


def test_eq2_tweedie_for_two_points():
    """For data a or b the mean of the clean is (a + b) / 2 + (a - b) / 2 tanh((a - b).(x - (a + b) / 2) / (2 s^2))."""
    rng = np.random.default_rng(0)
    a, b, x = np.array([1.0, -0.5]), np.array([-0.3, 0.8]), rng.standard_normal((40, 2))
    middle, half = (a + b) / 2, (a - b) / 2
    want = middle + np.tanh((x - middle) @ (a - b) / (2 * SIGMA**2))[:, None] * half

    def log_p(x):  # of the noised data, up to a constant
        to = [ag.sum((x - point) ** 2, 1) / (-2 * SIGMA**2) for point in (a, b)]
        return ag.logsumexp(ag.stack(to, 1), 1)

    leaf = ag.Tensor(x, requires_grad=True)
    (gradient,) = ag.grad(ag.sum(log_p(leaf)), [leaf])

    def denoiser(x):
        return denoising_ae.finite_set(x, np.stack([a, b]), SIGMA)

    assert_close(denoiser(x), want, 1e-13)
    assert_close(denoising_ae.score(denoiser, x, SIGMA), gradient.data, 1e-12)


def test_eq3_the_loss_is_denoising_score_matching(rng):
    x, eps = rng.standard_normal((2, 6, 1, 4, 1))
    x_noisy = x + SIGMA * eps
    s = denoising_ae.score(np.tanh, x_noisy, SIGMA)
    matching = np.mean(np.sum((s - (x - x_noisy) / SIGMA**2) ** 2, axis=(1, 2, 3)))
    assert 4 / SIGMA**4 * float(denoising_ae.training_loss(np.tanh, x, eps, SIGMA)) == pytest.approx(
        matching, rel=1e-12
    )


def test_eq4_gaussian_data_the_loss_is_stationary_at_the_formula_and_nowhere_else():
    mean, cov, _ = gaussian()
    x, eps = exact_sample(mean, cov)
    net = denoising_ae.Denoiser((1, 3, 1), (), rng=np.random.default_rng(0)).astype(np.float64).flatten()
    layer = net.mlp.layers[0]

    def gradient():
        net.zero_grad()
        denoising_ae.training_loss(net, x, eps, SIGMA).backward()
        return net.flat_grad.copy()

    gain = np.linalg.solve(cov + SIGMA**2 * np.eye(3), cov)  # r(x) = m + (x - m) gain, in rows
    layer.w.data[...], layer.b.data[...] = gain, mean - mean @ gain
    assert_close(gradient(), np.zeros(12), 1e-12)
    optimum = net.flat.copy()
    # The loss is quadratic in the layer: Newton's step from anywhere lands on its only stationary point.
    start = np.random.default_rng(1).standard_normal(12)
    net.flat[...] = start
    slope, columns = gradient(), []
    for unit in np.eye(12):
        net.flat[...] = start + unit
        columns.append(gradient() - slope)
    assert_close(start - np.linalg.solve(np.stack(columns, 1), slope), optimum, 1e-9)
    # and the residual there is sigma^2 times the score of N(m, S + sigma^2 I)
    net.flat[...] = optimum
    points = np.random.default_rng(2).standard_normal((5, 1, 3, 1))
    s = ag.raw(denoising_ae.score(net, points, SIGMA)).reshape(5, 3)
    assert_close(s, -(points.reshape(5, 3) - mean) @ np.linalg.inv(cov + SIGMA**2 * np.eye(3)), 1e-11)
    assert_close(ag.raw(net(points)).reshape(5, 3), denoising_ae.wiener(points.reshape(5, 3), mean, cov, SIGMA), 1e-12)


def test_eq4_what_the_best_denoiser_leaves_of_gaussian_data():
    """E J d = trace(S) - trace(S (S + s^2 I)^-1 S)."""
    mean, cov, _ = gaussian()
    x, eps = exact_sample(mean, cov)
    best = denoising_ae.wiener((x + SIGMA * eps).reshape(-1, 3), mean, cov, SIGMA).reshape(x.shape)
    left = np.trace(cov - cov @ np.linalg.solve(cov + SIGMA**2 * np.eye(3), cov))
    assert 3 * float(denoising_ae.denoising_loss(x, best)) == pytest.approx(left, rel=1e-12)


def test_eq5_nearly_no_noise_returns_the_nearest_point_and_much_noise_the_mean():
    rng = np.random.default_rng(0)
    points, x = rng.standard_normal((7, 3)), rng.standard_normal((300, 3))
    nearest = points[np.square(x[:, None] - points).sum(-1).argmin(1)]
    assert_close(denoising_ae.finite_set(x, points, 1e-4), nearest, 1e-12)
    assert_close(denoising_ae.finite_set(x, points, 1e4), np.broadcast_to(points.mean(0), x.shape), 1e-6)


def test_eq5_blocks_do_not_change_the_answer():
    rng = np.random.default_rng(0)
    points, x = rng.standard_normal((3000, 2)), rng.standard_normal((1500, 2))  # more than four blocks
    whole = denoising_ae.finite_set(x, points, 0.5)
    assert_close(whole[[0, 700, 1499]], denoising_ae.finite_set(x[[0, 700, 1499]], points, 0.5), 1e-13)


@pytest.mark.parametrize("step_size", [0.1, 1.0, 3.0])
def test_eq6_the_walk_on_gaussian_data_is_its_exact_recursion(step_size):
    """With the exact denoiser of N(m, s^2) each step is y' - m = a (y - m) + sqrt(delta) xi, a = 1 - delta / (2 C), C =
    s^2 + sigma^2.
    """
    m, s, steps = 0.8, 0.5, 9
    delta, C = step_size * SIGMA**2, s**2 + SIGMA**2
    a = 1 - delta / (2 * C)

    def denoiser(y):
        return m + s**2 / C * (y - m)

    seen = []
    y = np.full((steps + 1, 1), 2.0)  # sample k gets a 1 at draw k, the last one no noise at all
    x = denoising_ae.walk_and_jump(
        denoiser, y, SIGMA, steps, rng=OneHotNoise(0), step_size=step_size, callback=lambda t, y: seen.append((t, y))
    )
    deterministic = m + a**steps * (2.0 - m)
    weights = delta**0.5 * a ** np.arange(steps - 1, -1, -1)
    last = deterministic + np.append(weights, 0.0)
    assert_close(x[:, 0], denoiser(last), 1e-12)
    assert [t for t, _ in seen] == list(range(steps, -1, -1)), "every state before the jump, and where it lands"
    np.testing.assert_array_equal(seen[0][1], y)
    np.testing.assert_array_equal(seen[-1][1], x)


def test_eq6_its_stationary_variance_is_that_of_the_noised_data_for_small_steps():
    """V = delta / (1 - a^2) = C / (1 - delta / (4 C)): the fixed point of the recursion, by the file's own step."""
    C = 0.5**2 + SIGMA**2
    for step_size, excess in ((1.0, None), (1e-3, 1e-3)):
        delta = step_size * SIGMA**2
        a = float(denoising_ae.langevin_step(1.0, -1.0 / C, delta, 0.0))
        b = float(denoising_ae.langevin_step(0.0, 0.0, delta, 1.0))
        V = b**2 / (1 - a**2)
        assert pytest.approx(C / (1 - delta / (4 * C)), rel=1e-10) == V
        assert excess is None or abs(V / C - 1) < excess


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_training_is_eq1_of_the_clean_picture_with_the_noise_of_sigma(sigma):
    """The stage's loss from its parts, with the draws of the same rng."""
    digits = load("digits")
    system = denoising_ae.build(denoising_ae.Config(hidden=(16,), sigma=sigma, shift=0.0), digits, seed=0)
    batch = digits.train.take(slice(0, 6))
    got = float(system.stages()[0].objectives[0].loss(batch, np.random.default_rng(3), 0)[0])
    x = digits.scale(batch.images)
    x_noisy = (x + sigma * np.random.default_rng(3).standard_normal(x.shape)).astype(np.float32)
    denoised = ag.raw(system.modules["denoiser"](x_noisy))
    assert got == pytest.approx(np.square(denoised - x).mean(), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_the_walk_starts_from_white_noise_as_wide_as_noised_pictures(sigma):
    """Pictures within [-1, 1] have a second moment of at most 1, and the noise adds sigma^2."""
    system = denoising_ae.build(denoising_ae.Config(hidden=(16,), sigma=sigma), load("digits"), seed=0)
    seen = []
    system.sample(6, rng=np.random.default_rng(3), steps=1, callback=lambda t, y: seen.append((t, y)))
    assert seen[0][0] == 1
    want = np.sqrt(1 + sigma**2) * np.random.default_rng(3).standard_normal((6, 8, 8, 1))
    assert_close(seen[0][1], want.astype(np.float32), 1e-6)


@pytest.fixture(scope="module")
def trained():
    digits = load("digits")
    system = denoising_ae.build(denoising_ae.Config(hidden=(128,), steps=400, lr=4e-3, sample_steps=6), digits, seed=0)
    trainer = Trainer(system, seed=0)
    while trainer.done < trainer.total:
        trainer.advance(digits.train)
    system.modules["denoiser"].eval()
    return system


def test_figures_stand_beside_denoisers_that_are_known(trained):
    digits = load("digits")
    ours, linear, finite, noisy = trained.figures(digits, rng=np.random.default_rng(0)).values()
    count = len(digits.test) * 64
    assert abs(noisy / 0.25 - 1) < 5 * np.sqrt(2 / count), "sigma^2, with the spread of a mean of squares"
    assert ours < noisy / 2 and linear < noisy / 2 and finite < noisy / 2
    x = digits.scale(digits.test.images).reshape(-1, 64)
    y = (x + 0.5 * np.random.default_rng(0).standard_normal((len(x), 8, 8, 1)).reshape(-1, 64)).astype(np.float32)
    nearest = denoising_ae.finite_set(y, digits.scale(digits.train.images).reshape(-1, 64).astype(float), 0.5)
    assert finite == pytest.approx(np.square(nearest - x).mean(), rel=1e-5)
    fitted = digits.scale(digits.train.images).reshape(-1, 64).astype(float)
    shrunk = denoising_ae.wiener(y.astype(float), fitted.mean(0), np.cov(fitted.T), 0.5)
    assert linear == pytest.approx(np.square(shrunk - x).mean(), rel=1e-5)
    train = digits.scale(digits.train.images).reshape(1000, 64).astype(np.float64)
    left = [v * 0.25 / (v + 0.25) for v in np.linalg.eigvalsh(np.cov(train.T))]
    assert linear == pytest.approx(np.mean(left), rel=0.1), "other writers, so about the error on its own kind"


def test_pictures_and_samples(trained):
    digits = load("digits")
    assert set(trained.pictures) == set(denoising_ae.PICTURES)
    clean, noisy, denoised = trained.pictures["denoising"](digits.test, rng=np.random.default_rng(0))
    assert clean.shape == (12, 8, 8, 1)
    assert np.mean((denoised - clean) ** 2) < np.mean((noisy - clean) ** 2)
    seen = []
    x = trained.sample(5, rng=np.random.default_rng(1), callback=lambda t, y: seen.append(t))
    assert x.shape == (5, 8, 8, 1) and x.dtype == np.float32 and np.abs(x).max() <= 1
    assert seen == list(range(6, -1, -1))
    np.testing.assert_array_equal(x, trained.sample(5, rng=np.random.default_rng(1)))
    assert np.any(x != trained.sample(5, rng=np.random.default_rng(1), step_size=1.5))
    for settings, sentence in (
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"step_size": 4.0}, "above 0 and below 4"),
    ):
        with pytest.raises(ValueError, match=sentence):
            trained.sample(1, rng=np.random.default_rng(0), **settings)


def test_settings_that_do_not_fit_are_named():
    digits = load("digits")
    for config, sentence in (
        (denoising_ae.Config(sigma=0.0), "sigma must be a finite number above 0, got 0.0"),
        (denoising_ae.Config(sigma=np.inf), "sigma must be a finite number above 0, got inf"),
        (denoising_ae.Config(hidden=(0,)), r"hidden must hold widths of at least 1, got \(0,\)"),
        (denoising_ae.Config(shift=-0.1), "shift must be a share in 0..1, got -0.1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            denoising_ae.build(config, digits, seed=0)
    with pytest.raises(ValueError, match="'rings' holds no pictures"):
        denoising_ae.build(denoising_ae.Config(), load("rings"), seed=0)
