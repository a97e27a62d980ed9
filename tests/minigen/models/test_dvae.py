"""The discrete VAE: its relaxation, its exact KL, its density, its schedules, each against known answers."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import chisquare

import autograd as ag
from minigen.data import Split, load
from minigen.models import dvae

ALPHA = 1e-6
TINY = dvae.Config(codes=5, dimension=4, channels=(8, 8), blocks=1, steps=20, batch_size=4)


@pytest.fixture(scope="module")
def shapes():
    return load("shapes")


def test_the_codec_works_in_blocks_of_pictures(monkeypatch):
    net, rng = dvae.DVAE((8, 8, 3), TINY, rng=np.random.default_rng(0)), np.random.default_rng(1)
    for p in net.parameters():
        p.data[...] += (0.3 * rng.standard_normal(p.shape)).astype(np.float32)
    codec, x = dvae.Codec(net), rng.uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
    codes = codec.encode(x)
    whole = codec.decode(codes)
    monkeypatch.setattr(dvae, "BLOCK", 2)
    np.testing.assert_array_equal(codec.encode(x), codes)
    np.testing.assert_allclose(codec.decode(codes), whole, atol=1e-6)
    assert whole.shape == x.shape and len(np.unique(codes)) > 1


# --- the relaxation ---------------------------------------------------------------------------------------------------


def test_gumbel_max_is_a_draw_from_the_softmax():
    """argmax(l + G) has the distribution softmax(l): chi-square over 40,000 draws, five codes of skewed probabilities."""
    logits = np.array([0.0, 1.0, -2.0, 0.5, 2.0])
    u = np.random.default_rng(0).random((40_000, 5))
    drawn = ag.raw(ag.gumbel_softmax(np.broadcast_to(logits, u.shape), u, 1 / 16)).argmax(-1)
    p = np.exp(logits) / np.exp(logits).sum()
    assert chisquare(np.bincount(drawn, minlength=5), len(u) * p).pvalue > ALPHA


@given(st.integers(0, 999))
def test_relaxation_becomes_one_hot_as_the_temperature_sinks(seed):
    rng = np.random.default_rng(seed)
    logits, u = rng.standard_normal((6, 4)), rng.random((6, 4))
    gumbel = logits - np.log(-np.log(u))
    for tau in (1.0, 1e-2, 1e-4):
        y = ag.raw(ag.gumbel_softmax(logits, u, tau))
        top = np.sort(gumbel, -1)
        furthest = 3 * np.exp(-(top[:, -1] - top[:, -2]) / tau)  # what the three others can have together
        np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-12)
        assert (1 - y[np.arange(6), gumbel.argmax(-1)] <= furthest + 1e-12).all()


# --- the bound --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.integers(1, 9))
def test_kl_to_uniform_is_ln_K_minus_the_entropy(seed, K):
    logits = 3 * np.random.default_rng(seed).standard_normal((2, 3, K))
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropy = -(q * np.log(q)).sum(-1)
    np.testing.assert_allclose(dvae.kl_to_uniform(logits), np.log(K) - entropy, rtol=1e-10, atol=1e-10)


def test_kl_to_uniform_at_its_ends():
    assert abs(float(ag.raw(dvae.kl_to_uniform(np.zeros(7))))) < 1e-12
    sure = np.array([0.0, 1000.0, 0.0, 0.0])
    assert float(ag.raw(dvae.kl_to_uniform(sure))) == pytest.approx(np.log(4), abs=1e-12)


@given(st.integers(0, 999), st.integers(1, 4))
def test_dalle_eq1_depends_on_no_batch_size(seed, copies):
    """One reduction for both terms: a batch of equal pictures costs what one of them costs."""
    rng = np.random.default_rng(seed)
    log_p, kl = rng.standard_normal((1, 4, 4, 3)), rng.random((1, 2, 2))
    one = float(ag.raw(dvae.bound(log_p, kl, 0.7)))
    many = float(ag.raw(dvae.bound(np.repeat(log_p, copies, 0), np.repeat(kl, copies, 0), 0.7)))
    assert one == pytest.approx(0.7 * kl.sum() - log_p.sum(), rel=1e-12, abs=1e-12)
    assert many == pytest.approx(one, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("mu", "log_b"), [(0.0, 0.0), (1.3, -1.0), (-2.0, 0.7), (0.4, -3.0)])
def test_dalle_eq2_integrates_to_one(mu, log_b):
    def density(x):
        return float(np.exp(ag.raw(dvae.logit_laplace_log_density(np.array(x), np.array(mu), np.array(log_b)))))

    middle = 1 / (1 + np.exp(-mu))  # the kink
    total = quad(density, 0, middle, epsabs=1e-11)[0] + quad(density, middle, 1, epsabs=1e-11)[0]
    assert total == pytest.approx(1, abs=1e-8)


@given(st.integers(0, 999))
def test_dalle_eq2_is_a_laplace_variable_through_a_sigmoid(seed):
    """Change of variables: f(x) dx = Laplace(logit x) d logit x, and d logit x / dx = 1 / (x (1 - x))."""
    rng = np.random.default_rng(seed)
    x, mu, log_b = rng.uniform(0.1, 0.9, 5), rng.standard_normal(5), rng.standard_normal(5)
    ell, b = np.log(x / (1 - x)), np.exp(log_b)
    want = -np.abs(ell - mu) / b - np.log(2 * b) - np.log(x * (1 - x))
    np.testing.assert_allclose(dvae.logit_laplace_log_density(x, mu, log_b), want, rtol=1e-9, atol=1e-9)


def test_dalle_eq3_and_its_inverse():
    x = np.linspace(0, 1, 11)
    assert dvae.map_pixels(x)[0] == pytest.approx(0.1) and dvae.map_pixels(x)[-1] == pytest.approx(0.9)
    np.testing.assert_allclose(dvae.unmap_pixels(dvae.map_pixels(x)), x, atol=1e-15)
    np.testing.assert_array_equal(dvae.unmap_pixels(np.array([0.0, 1.0])), [0, 1])


@given(st.integers(0, 999))
def test_gradients(seed):
    rng = np.random.default_rng(seed)
    logits, u = rng.standard_normal((2, 2, 2, 3)), rng.uniform(0.1, 0.9, (2, 2, 2, 3))
    x = rng.uniform(0.2, 0.8, (2, 4))
    mu, log_b = (
        np.log(x / (1 - x)) + rng.choice([-1, 1], x.shape) * rng.uniform(0.2, 1, x.shape),
        rng.standard_normal(x.shape),
    )
    ag.gradcheck(lambda a: ag.sum(dvae.kl_to_uniform(a)), [logits])
    ag.gradcheck(lambda a: ag.sum(ag.square(ag.gumbel_softmax(a, u, 0.7))), [logits])
    ag.gradcheck(lambda a, b: ag.sum(dvae.logit_laplace_log_density(x, a, b)), [mu, log_b])
    ag.gradcheck(
        lambda a, b, c: dvae.bound(dvae.logit_laplace_log_density(x, a, b), dvae.kl_to_uniform(c), 0.7),
        [mu, log_b, logits],
    )


def test_schedules_at_their_ends():
    assert dvae.temperature_at(0, 100, 1 / 16) == 1
    assert dvae.temperature_at(100, 100, 1 / 16) == dvae.temperature_at(10**6, 100, 1 / 16) == 1 / 16
    assert dvae.temperature_at(50, 100, 1 / 16) == pytest.approx((1 + 1 / 16) / 2)
    assert dvae.beta_at(0, 100, 6.6) == 0
    assert dvae.beta_at(100, 100, 6.6) == dvae.beta_at(10**6, 100, 6.6) == 6.6
    assert dvae.temperature_at(0, 0, 0.5) == 0.5 and dvae.beta_at(0, 0, 2.0) == 2, "a share of 0 is the end at once"


# --- the codec --------------------------------------------------------------------------------------------------------


def test_codec_takes_the_argmax_and_decodes_its_one_hot(shapes):
    net = dvae.DVAE(shapes.shape, TINY, rng=np.random.default_rng(0))
    codec = dvae.Codec(net)
    x = shapes.scale(shapes.val.images[:3])
    x.flags.writeable = False
    codes = codec.encode(x)
    assert codes.shape == (3, *codec.grid) == (3, 8, 8) and codes.dtype == np.int64
    ell = ag.raw(net.logits(dvae.map_pixels((x + 1) / 2)))
    np.testing.assert_array_equal(codes, ell.argmax(-1))
    one_hot = np.eye(5, dtype=np.float32)[codes]
    mu, _ = net.decode(one_hot)
    want = 2 * dvae.unmap_pixels(1 / (1 + np.exp(-ag.raw(mu)))) - 1
    np.testing.assert_allclose(codec.decode(codes), want, atol=1e-5)
    assert codec.encode(x[:0]).shape == (0, 8, 8) and codec.decode(codes[:0]).shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match="codes must be from 0 to 4, got 0 to 5"):
        codec.decode(np.array([[[0, 5]]]))


def test_loss_is_the_bound_a_number_and_a_step_is_a_function_of_its_number(shapes):
    net = dvae.DVAE(shapes.shape, TINY, rng=np.random.default_rng(0))
    stage = dvae.codec_stage(net, TINY, shapes)
    batch: Split = shapes.train.take(slice(0, 4))
    values = [stage.objectives[0].loss(batch, np.random.default_rng(1), step) for step in (0, 20, 0)]
    first, last = (found[1] for found in values[:2])
    assert first["temperature"] == 1 and last["temperature"] == TINY.temperature
    assert float(ag.raw(values[0][0])) == float(ag.raw(values[2][0]))
    assert float(ag.raw(values[0][0])) == pytest.approx(first["-ln p(x|z)"] / 3072, rel=1e-5), "no KL at step 0"
    want = (last["-ln p(x|z)"] + TINY.beta * last["kl"]) / 3072
    assert float(ag.raw(values[1][0])) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("step", [2, 4, 9, 15])
def test_training_relaxes_with_noise_at_its_temperature_and_takes_the_exact_kl_of_the_logits(step, shapes):
    """The stage's loss from its parts: eq. 3's pixels, Gumbel noise of the same rng, and the two half cosines at this step."""
    net = loud(shapes)
    batch: Split = shapes.train.take(slice(0, 4))
    got, figures = dvae.codec_stage(net, TINY, shapes).objectives[0].loss(batch, np.random.default_rng(1), step)

    sinking, rising = min(1, step / 12), min(1, step / 6)  # the shares 0.6 and 0.3 of 20 steps
    tau = 1 / 16 + 15 / 16 * (1 + np.cos(np.pi * sinking)) / 2
    beta = (1 - np.cos(np.pi * rising)) / 2
    x = (0.8 * (batch.images / 255) + 0.1).astype(np.float32)
    ell = ag.raw(net.logits(x)).astype(np.float64)
    gumbel = -np.log(-np.log(np.random.default_rng(1).random(ell.shape)))

    def softmax(a):
        a = np.exp(a - a.max(-1, keepdims=True))
        return a / a.sum(-1, keepdims=True)

    def nats(y):
        mu, log_b = (ag.raw(a) for a in net.decode(y.astype(np.float32)))
        return -float(ag.raw(dvae.logit_laplace_log_density(x, mu, log_b)).sum()) / 4

    q, y = softmax(ell), softmax((ell + gumbel) / tau)
    kl, of_y = ((np.log(5) + (a * np.log(a + 1e-300)).sum(-1)).sum() / 4 for a in (q, y))
    assert abs(nats(y) - nats(q)) > 1 and abs(kl - of_y) > 1, "the noise can be told from its absence, and the two KLs"
    assert figures == {
        "-ln p(x|z)": pytest.approx(nats(y), rel=1e-4),
        "kl": pytest.approx(kl, rel=1e-4),
        "temperature": pytest.approx(tau, rel=1e-12),
    }
    assert float(got) == pytest.approx((nats(y) + beta * kl) / 3072, rel=1e-5)


def loud(shapes):
    """A codec whose logits are far from alike."""
    net = dvae.DVAE(shapes.shape, TINY, rng=np.random.default_rng(0))
    rng = np.random.default_rng(2)
    for layer, scale in ((net.encoder.layers[-1], 2.0), (net.decoder.layers[-1], 0.02)):
        layer.w.data[...] = scale * rng.standard_normal(layer.w.shape)
    return net


def test_what_the_decoder_says_of_ln_b_is_minus_2_in_the_middle_and_stays_from_minus_5_to_1(shapes):
    net = dvae.DVAE(shapes.shape, TINY, rng=np.random.default_rng(0))
    last = net.decoder.layers[-1]
    last.w.data[...] = 0
    half = len(last.b.data) // 2
    for said, want in ((0.0, -2.0), (1e3, 1.0), (-1e3, -5.0), (0.3, 3 * np.tanh(0.1) - 2)):
        last.b.data[:half], last.b.data[half:] = 0.7, said
        mu, log_b = net.decode(np.eye(5, dtype=np.float32)[np.zeros((1, *net.grid), int)])
        assert mu.shape == log_b.shape == (1, 32, 32, 3)
        np.testing.assert_allclose(ag.raw(mu), 0.7, rtol=1e-6)
        np.testing.assert_allclose(ag.raw(log_b), want, rtol=1e-5)


def test_settings_that_do_not_fit_are_named():
    for change, words in (
        ({"codes": 0}, "codes must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0 and at most 1, got 0.0"),
        ({"anneal": 2.0}, "anneal must be a share of the steps from 0 to 1, got 2.0"),
        ({"channels": (8, 9)}, "the last a multiple of 8"),
    ):
        with pytest.raises(ValueError, match=words):
            dvae.check_codec(dataclasses.replace(TINY, **change), (32, 32, 3))
    with pytest.raises(ValueError, match="does not divide a picture of 30 x 32"):
        dvae.check_codec(TINY, (30, 32, 3))
