"""The autoencoder against principal components, exactly, and against the traps that its file lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

import autograd as ag
from kernels.compare import assert_close
from minigen.data import load
from minigen.models import autoencoder
from minigen.train.loop import Trainer, put_weights, weights_of


def linear(pixels, latent):
    """An affine autoencoder in float64, its parameters in one buffer."""
    net = autoencoder.Autoencoder((1, pixels, 1), (), latent, rng=np.random.default_rng(0))
    return net.astype(np.float64).flatten()


def value_and_gradient(net, x):
    net.zero_grad()
    loss = autoencoder.reconstruction_loss(x, net.decode(net.encode(x)))
    loss.backward()
    return float(loss), net.flat_grad.copy()


def skewed(n=60, d=6):
    """Data off the origin, its eigenvalues, largest first, and its axes in columns."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3 * rng.standard_normal(d)
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    return x.reshape(n, 1, d, 1), values[::-1], axes[:, ::-1]


def put_components(net, x, axes):
    """f(x) = (x - m) V + e and g(z) = (z - e) V' + m, with a constant e that must not matter."""
    mean, shift = x.reshape(len(x), -1).mean(0), np.arange(axes.shape[1])
    encoder, decoder = net.encoder.layers[0], net.decoder.layers[0]
    encoder.w.data[...], encoder.b.data[...] = axes, shift - mean @ axes
    decoder.w.data[...], decoder.b.data[...] = axes.T, mean - shift @ axes.T


def test_eq1_reconstruction_loss(rng):
    x, x_hat = rng.standard_normal((2, 3, 2, 2, 1))
    assert float(autoencoder.reconstruction_loss(x, x_hat)) == pytest.approx(np.mean((x - x_hat) ** 2))
    assert float(autoencoder.reconstruction_loss(x, x)) == 0
    ag.gradcheck(lambda a: autoencoder.reconstruction_loss(x, a), [x_hat], order=2)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_eq2_components_are_stationary_and_lose_exactly_the_discarded_eigenvalues(k):
    x, values, axes = skewed()
    net = linear(6, k)
    put_components(net, x, axes[:, :k])
    loss, gradient = value_and_gradient(net, x)
    assert 6 * loss == pytest.approx(values[k:].sum(), rel=1e-12)
    assert_close(gradient, np.zeros_like(gradient), 1e-11 * values.sum())


def test_eq2_any_other_set_of_components_is_a_saddle_that_loses_more():
    x, values, axes = skewed()
    net = linear(6, 2)
    for chosen in ([0, 2], [1, 2], [4, 5]):
        put_components(net, x, axes[:, chosen])
        loss, gradient = value_and_gradient(net, x)
        assert 6 * loss == pytest.approx(values.sum() - values[chosen].sum(), rel=1e-12)
        assert_close(gradient, np.zeros_like(gradient), 1e-11 * values.sum())
        assert 6 * loss > values[2:].sum() + 0.1
        worst, best = max(chosen), min(set(range(6)) - set(chosen))  # turning towards a better axis leads down
        turned = axes[:, chosen].copy()
        turned[:, chosen.index(worst)] = np.cos(0.1) * axes[:, worst] + np.sin(0.1) * axes[:, best]
        put_components(net, x, turned)
        assert value_and_gradient(net, x)[0] < loss


def test_eq2_training_reaches_the_optimum_of_components():
    """From a random start, by the loss's own gradient: within 1e-9 of the sum of discarded eigenvalues, and never below."""
    x, values, axes = skewed()
    net = linear(6, 2)

    def at(p):
        net.flat[...] = p
        return value_and_gradient(net, x)

    found = minimize(at, net.flat.copy(), jac=True, method="BFGS", options={"gtol": 1e-7})
    net.flat[...] = found.x
    excess = 6 * found.fun / values[2:].sum() - 1
    assert -1e-12 < excess < 1e-9
    x_hat = ag.raw(net.decode(net.encode(x))).reshape(len(x), -1)
    flat = x.reshape(len(x), -1)
    projected = flat.mean(0) + (flat - flat.mean(0)) @ axes[:, :2] @ axes[:, :2].T
    assert_close(x_hat, projected, 1e-4 * np.sqrt(values.sum()), "the copies are the projections")


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), k=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_eq3_tracks_the_moments_of_the_whole_mixture(sizes, k, seed):
    """Weight n_b / (n_1 + ... + n_b) for batch b: then it is mean and covariance of all codes together."""
    rng = np.random.default_rng(seed)
    batches = [3 * rng.standard_normal(k) + rng.standard_normal((n, k)) for n in sizes]
    mean, cov, seen = rng.standard_normal(k), np.eye(k), 0
    for z in batches:
        seen += len(z)
        mean, cov = autoencoder.track(mean, cov, z, len(z) / seen)
    everything = np.concatenate(batches)
    assert_close(mean, everything.mean(0), 1e-12 * 10)
    assert_close(cov, np.cov(everything.T, bias=True).reshape(k, k), 1e-11 * 10)


def test_the_gaussian_of_the_codes_follows_training_and_the_weights_file():
    digits = load("digits")
    config = autoencoder.Config(hidden=(16,), latent=3, shift=0.0, steps=30, lr=1e-9, batch_size=100)
    system = autoencoder.build(config, digits, seed=0)
    trainer = Trainer(system, seed=0)
    for _ in range(30):
        trainer.advance(digits.train)
    net = system.modules["autoencoder"]
    codes = autoencoder.encode(net, digits.scale(digits.train.images)).astype(np.float64)
    # the encoder stood still, and thirty batches of 100 are the training split three times over
    assert_close(net.latent_mean, codes.mean(0), 1e-4)
    assert_close(net.latent_cov, np.cov(codes.T, bias=True), 1e-4 * np.trace(net.latent_cov))
    copy = autoencoder.build(config, digits, seed=1)
    put_weights(copy, {name: array.copy() for name, array in weights_of(system).items()})
    for part in (copy, system):
        part.modules["autoencoder"].eval()
    a, b = (part.sample(4, rng=np.random.default_rng(5)) for part in (copy, system))
    np.testing.assert_array_equal(a, b)


def test_codes_are_drawn_from_the_tracked_gaussian_also_if_it_is_flat():
    rng = np.random.default_rng(0)
    root = np.array([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    mean, cov = np.array([1.0, -2.0, 3.0]), root @ root.T  # rank 2
    z = autoencoder.draw_codes(mean, cov, np.eye(3))  # linear in the noise: row i is m + row i of the root
    assert_close((z - mean).T @ (z - mean), cov, 1e-12)
    z = autoencoder.draw_codes(mean, cov, rng.standard_normal((20_000, 3)))
    assert np.all(np.abs(z.mean(0) - mean) < 5 * np.sqrt(np.diag(cov) / 20_000))


def test_interpolation_is_the_straight_line():
    a, b = np.array([[0.0, 4.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [1.0, 3.0]])
    z = autoencoder.interpolate(a, b, 3)
    np.testing.assert_array_equal(z, [[[0, 4], [1, 2], [2, 0]], [[1, 1], [1, 2], [1, 3]]])


def test_pca_error_of_the_data_themselves_is_the_discarded_eigenvalues():
    x, values, _ = skewed()
    flat = x.reshape(len(x), -1)
    assert 6 * autoencoder.pca_error(flat, flat, 2) == pytest.approx(values[2:].sum(), rel=1e-10)
    assert autoencoder.pca_error(flat, flat, 6) == pytest.approx(0, abs=1e-20)


@pytest.fixture(scope="module")
def trained():
    digits = load("digits")
    system = autoencoder.build(autoencoder.Config(hidden=(64,), shift=0.0, steps=600), digits, seed=0)
    trainer = Trainer(system, seed=0)
    while trainer.done < trainer.total:
        trainer.advance(digits.train)
    system.modules["autoencoder"].eval()
    return system


def test_figures_stand_beside_components_and_the_mean(trained):
    digits = load("digits")
    found = trained.figures(digits, rng=np.random.default_rng(0))
    copy, pca, mean = found.values()
    assert pca == pytest.approx(0.04929, abs=1e-4) and mean == pytest.approx(0.2933, abs=1e-4)
    x, net = digits.scale(digits.test.images), trained.modules["autoencoder"]
    assert copy == pytest.approx(np.square(autoencoder.decode(net, autoencoder.encode(net, x)) - x).mean(), rel=1e-5)
    assert copy < mean / 2
    assert any("PCA of 16" in name for name in found)


def test_pictures_and_samples(trained):
    digits = load("digits")
    rng = np.random.default_rng(0)
    assert set(trained.pictures) == set(autoencoder.PICTURES)
    rows = trained.pictures["reconstruction"](digits.test, rng=rng)
    assert rows.shape == (2, 12, 8, 8, 1) and np.mean((rows[1] - rows[0]) ** 2) < 0.2
    lines = trained.pictures["interpolation"](digits.test, rng=rng)
    assert lines.shape == (6, 11, 8, 8, 1)
    net = trained.modules["autoencoder"]
    for column, end in ((1, 0), (9, 10)):  # the line begins and ends at the copies of its two pictures
        copy = autoencoder.decode(net, autoencoder.encode(net, lines[:, end]))
        assert_close(lines[:, column], copy.clip(-1, 1), 1e-4)
    assert np.abs(rows).max() <= 1 and np.abs(lines).max() <= 1
    x = trained.sample(5, rng=np.random.default_rng(1))
    assert x.shape == (5, 8, 8, 1) and x.dtype == np.float32 and np.abs(x).max() <= 1
    with pytest.raises(ValueError, match="one step"):
        trained.sample(1, rng=rng, steps=3)


def test_settings_that_do_not_fit_are_named():
    digits = load("digits")
    for config, sentence in (
        (autoencoder.Config(latent=0), "latent must be at least 1 number, got 0"),
        (autoencoder.Config(hidden=(8, 0)), r"hidden must hold widths of at least 1, got \(8, 0\)"),
        (autoencoder.Config(decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (autoencoder.Config(shift=2.0), "shift must be a share in 0..1, got 2.0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            autoencoder.build(config, digits, seed=0)
    with pytest.raises(ValueError, match="'rings' holds no pictures"):
        autoencoder.build(autoencoder.Config(), load("rings"), seed=0)
