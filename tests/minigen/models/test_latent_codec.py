"""The codec of latent diffusion: every term by hand, the balance of two gradients, and what its maps are measured by."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd as ag
from kernels.compare import unit_roundoff
from minigen.data import Dataset, load
from minigen.models import clip, latent_codec
from minigen.models.latent_codec import Codec, Identity
from minigen.models.system import System
from minigen.train.loop import Trainer

TINY = latent_codec.Config(width=8, blocks=1, codes=8, steps=2, batch_size=4)


def codec_of(**changes):
    """A codec in float64 whose layers are all at work."""
    config = dataclasses.replace(TINY, **changes)
    net = latent_codec.Autoencoder(3, config, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for p in net.parameters():
        p.data[...] += 0.1 * rng.standard_normal(p.shape)
    if net.codebook is not None:
        net.codebook.vectors[...] = rng.standard_normal(net.codebook.vectors.shape)
    return config, net.astype(np.float64)


def judge_of():
    """A discriminator in float64."""
    return latent_codec.Discriminator(3, width=8, rng=np.random.default_rng(2)).astype(np.float64)


def some_features(x):
    """Two feature maps that are simple to differentiate."""
    return [ag.sin(2.0 * x), ag.avg_pool(x * x, 2) + 0.3]


# --- the terms of eq. 1 to 3 ------------------------------------------------------------------------------------------


def test_codec_eq1_kl_is_a_sum_over_the_map_and_a_mean_over_pictures(rng):
    mu, log_var = np.full((5, 2, 2, 3), 0.7), np.full((5, 2, 2, 3), 0.4)
    each = 0.5 * (0.7**2 + np.exp(0.4) - 1 - 0.4)
    assert latent_codec.kl_loss(mu, log_var, 48) == pytest.approx(12 * each / 48, rel=1e-12)
    assert latent_codec.kl_loss(0 * mu, 0 * log_var, 48) == 0
    mu, log_var = rng.standard_normal((2, 2, 2, 2, 3))
    ag.gradcheck(lambda m, v: latent_codec.kl_loss(m, v, 48), [mu, log_var])


def test_codec_eq3_by_hand_and_by_differences(rng):
    x, x_hat = rng.standard_normal((2, 3, 4, 4, 2))
    by_hand = 0.0
    for a, b in zip(some_features(x), some_features(x_hat)):
        unit = [f / np.sqrt((f**2).sum(-1, keepdims=True) + 1e-12) for f in (a, b)]
        by_hand += np.square(unit[0] - unit[1]).sum(-1).mean()
    assert latent_codec.perceptual_loss(some_features, x, x_hat) == pytest.approx(by_hand, rel=1e-9)
    assert latent_codec.perceptual_loss(some_features, x, x) == 0
    ag.gradcheck(lambda y: latent_codec.perceptual_loss(some_features, x, y), [x_hat])


def test_codec_eq3_the_frozen_network_is_no_part_of_it_but_the_pictures_are(rng):
    net = clip.CLIP((8, 8, 3), clip.Config(width=4, channels=(8, 16), patch=2), rng=rng)
    x, x_hat = rng.standard_normal((2, 2, 8, 8, 3)).astype(np.float32)
    features = latent_codec.clip_features(net)
    assert [f.shape for f in map(ag.raw, features(x))] == [(2, 4, 4, 8), (2, 2, 2, 16)]
    for p in net.parameters():  # as the loop leaves the modules that an objective does not train
        p.requires_grad = False
    leaf = ag.Tensor(x_hat, requires_grad=True)
    latent_codec.perceptual_loss(features, x, leaf).backward()
    assert abs(leaf.grad).max() > 0
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_codec_eq1_is_the_sum_of_its_terms(regulariser, rng):
    config, net = codec_of(regulariser=regulariser, kl=0.3, beta=0.7, perceptual=0.9)
    x, noise = rng.standard_normal((2, 8, 8, 3)), rng.standard_normal((2, 2, 2, 4))
    net.eval()
    value, figures = latent_codec.objective(net, x, config, features=some_features, noise=noise)
    mu, log_var = net.moments(x)
    if regulariser == "kl":
        z, order = mu + ag.exp(0.5 * log_var) * noise, 0.3 * latent_codec.kl_loss(mu, log_var, 192)
    else:
        book = net.codebook.vectors
        z = book[np.square(ag.raw(mu)[..., None, :] - book).sum(-1).argmin(-1)]
        order = 0.7 * np.square(ag.raw(mu) - z).mean()
    x_hat = ag.raw(net.picture(net.body(z)))
    d = x_hat - x
    edges = np.square(np.diff(d, axis=1)).mean() + np.square(np.diff(d, axis=2)).mean()
    seen = latent_codec.perceptual_loss(some_features, x, x_hat)
    by_hand = np.square(d).mean() + 0.1 * abs(d).mean() + 0.5 * edges + 0.9 * seen
    assert float(ag.raw(value)) == pytest.approx(float(by_hand + ag.raw(order)), rel=1e-9)
    assert float(figures["reconstruction"]) == pytest.approx(float(by_hand), rel=1e-9)


def test_codec_log_variance_is_held_in_bounds(rng):
    _, net = codec_of()
    last = net.encoder.layers[-1]
    last.b.data[net.d :] = 1e4
    assert (ag.raw(net.moments(rng.standard_normal((1, 8, 8, 3)))[1]) == 20).all()
    last.b.data[net.d :] = -1e4
    assert (ag.raw(net.moments(rng.standard_normal((1, 8, 8, 3)))[1]) == -30).all()


# --- the discriminator ------------------------------------------------------------------------------------------------


def test_codec_eq4_weight_makes_the_gradients_equally_long(rng):
    a, b = rng.standard_normal((2, 5, 7))
    weight = latent_codec.adaptive_weight(a, 40 * b)
    assert weight * np.linalg.norm(40 * b) == pytest.approx(np.linalg.norm(a), rel=1e-5)
    assert latent_codec.adaptive_weight(a, 0 * b) == latent_codec.MOST
    assert latent_codec.adaptive_weight(0 * a, b) == 0


def test_codec_eq4_is_taken_at_the_last_layer_and_is_a_number(rng):
    """The gradient of the whole is that of its two parts with the weight fixed, at every parameter."""
    config, net = codec_of(perceptual=0.0, kl=0.0, adversarial=0.6)
    judge = judge_of()
    for p in judge.parameters():
        p.requires_grad = False
    x, noise = rng.standard_normal((2, 8, 8, 3)), rng.standard_normal((2, 2, 2, 4))
    value, figures = latent_codec.objective(net, x, config, features=None, noise=noise, judge=judge, pull=0.5)
    of_whole = ag.grad(value, net.parameters())

    def copies():
        mu, log_var = net.moments(x)
        return net.picture(net.body(ag.reparameterize(mu, log_var, noise)))

    of_pixels = ag.grad(latent_codec.reconstruction_loss(x, copies(), 0.1, 0.5), net.parameters())
    of_judge = ag.grad(-ag.mean(judge(copies())), net.parameters())
    k = list(net.named_parameters()).index("last.w")
    norms = [np.linalg.norm(g[k].data) for g in (of_pixels, of_judge)]
    assert figures["lambda"] == pytest.approx(norms[0] / (norms[1] + latent_codec.DELTA), rel=1e-9)
    for whole, a, b in zip(of_whole, of_pixels, of_judge):
        by_hand = a.data + 0.5 * 0.6 * figures["lambda"] * b.data
        np.testing.assert_allclose(whole.data, by_hand, rtol=1e-9, atol=1e-12)


def test_codec_eq5_hinge_with_fakes_that_are_constants(rng):
    _, net = codec_of()
    x, noise = rng.standard_normal((3, 8, 8, 3)), rng.standard_normal((3, 2, 2, 4))
    seen = []

    def judge(pictures):
        seen.append(pictures)
        return ag.Tensor(np.full((3, 2, 2), (0.25, -0.5)[len(seen) - 1]))

    value, _ = latent_codec.discriminator_loss(net, judge, x, noise)
    assert float(ag.raw(value)) == pytest.approx((1 - 0.25) + (1 - 0.5))
    assert seen[0] is x and isinstance(seen[1], np.ndarray)
    mu, log_var = map(ag.raw, net.moments(x))
    np.testing.assert_allclose(seen[1], ag.raw(net.picture(net.body(mu + np.exp(log_var / 2) * noise))), rtol=1e-12)
    assert ag.raw(judge_of()(x)).shape == (3, 2, 2), "a logit for each 4 x 4 pixels"


# --- eq. 6: what the maps are measured by -----------------------------------------------------------------------------


@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_codec_eq6_maps_have_mean_0_and_deviation_1_over_the_data_and_the_round_trip_does_not_know(regulariser, rng):
    _, net = codec_of(regulariser=regulariser)
    images, codec = rng.uniform(-1, 1, (300, 8, 8, 3)), Codec(net)
    before = codec.decode(codec.encode(images))
    latent_codec.measure(net, images)
    z = codec.encode(images)
    allowed = 100 * unit_roundoff(np.float64)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=allowed)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1, atol=allowed)
    assert abs(net.std - 1).min() > 1e-3 and abs(net.mean).min() > 1e-3, "there was something to do"
    np.testing.assert_allclose(codec.decode(z), before, atol=1e3 * allowed)
    latent_codec.measure(net, images)
    np.testing.assert_allclose(codec.encode(images), z, atol=1e3 * allowed)
    mu = ag.raw(net.moments(images)[0])
    np.testing.assert_allclose(z, (mu - mu.mean((0, 1, 2))) / mu.std((0, 1, 2)), atol=1e3 * allowed)


def test_codec_draws_have_the_deviation_of_the_posterior(rng):
    _, net = codec_of()
    net.std[...] = [0.5, 1, 2, 4]
    x, codec = rng.standard_normal((2, 8, 8, 3)), Codec(net)
    log_var = ag.raw(net.moments(x)[1])

    class Ones:
        def standard_normal(self, shape):
            return np.ones(shape)

    np.testing.assert_allclose(codec.encode(x, rng=Ones()) - codec.encode(x), np.exp(log_var / 2) / net.std, rtol=1e-9)


def test_codec_vq_decodes_the_nearest_codes_and_encodes_what_is_in_front_of_them(rng):
    _, net = codec_of(regulariser="vq")
    codec, z = Codec(net), rng.standard_normal((2, 2, 2, 4))
    book = net.codebook.vectors
    codes = np.square(z[..., None, :] - book).sum(-1).argmin(-1)
    np.testing.assert_array_equal(codec.decode(z), codec.decode(book[codes]))
    np.testing.assert_allclose(
        codec.encode(x := rng.standard_normal((1, 8, 8, 3))), ag.raw(net.encoder(latent_codec.fold(x, 2)))
    )


@given(st.sampled_from(latent_codec.FACTORS), st.integers(1, 3), st.integers(1, 3))
def test_codec_takes_pictures_of_any_size_that_f_divides(f, rows, columns):
    _, net = codec_of(factor=f, channels=3)
    codec, shape = Codec(net), (f * rows, f * columns, 3)
    z = codec.encode(np.zeros((2, *shape)))
    assert z.shape == (2, *codec.shape(shape)) == (2, rows, columns, 3)
    assert codec.decode(z).shape == (2, *shape)


def test_codec_identity_hands_back_the_very_array(rng):
    x = rng.standard_normal((2, 4, 4, 3))
    assert Identity().decode(Identity().encode(x)) is x and Identity().shape((4, 4, 3)) == (4, 4, 3)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("shapes")


@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_codec_trains_alone_and_then_against_its_judge(data, regulariser):
    config = dataclasses.replace(TINY, regulariser=regulariser, adversarial_steps=8)
    rng = np.random.default_rng(0)
    net, judge = latent_codec.Autoencoder(3, config, rng=rng), latent_codec.Discriminator(3, width=8, rng=rng)
    clip_net = clip.CLIP(data.shape, clip.Config(channels=(8, 8)), rng=rng)
    features = latent_codec.clip_features(clip_net)
    stages = latent_codec.stages(net, judge, features, config, data)
    modules = {"codec": net, "judge": judge, "clip": clip_net}
    system = System(config, "shapes", data.shape, modules, lambda: stages, lambda *a: None)
    trainer, seen = Trainer(system, seed=0), []
    frozen, judge_before = clip_net.flat.copy(), judge.flat.copy()
    for _ in range(trainer.total):
        seen.append(trainer.advance(data.train))
        if len(seen) == config.steps:
            np.testing.assert_array_equal(judge.flat, judge_before)
    assert [f["stage"] for f in seen] == ["codec"] * 2 + ["adversarial"] * 8
    assert abs(judge.flat - judge_before).max() > 0
    np.testing.assert_array_equal(clip_net.flat, frozen)
    assert seen[2]["codec.lambda"] > 0 and "discriminator.loss" in seen[2]
    net.eval()  # no codebook moves now
    first, noise = data.train.take(slice(0, 2)), np.random.default_rng(3)
    alone = stages[0].objectives[0].loss(first, np.random.default_rng(3), 10**6)[0]
    with_judge = stages[1].objectives[0].loss(first, noise, 0)[0]
    assert float(with_judge.data) == float(alone.data), "its pull starts at 0"
    later, quarter, end = (
        float(stages[1].objectives[0].loss(first, np.random.default_rng(3), step)[0].data) for step in (1, 2, 7)
    )
    assert later not in (float(alone.data), quarter)
    assert quarter == end, "and is all there after a quarter of the stage"


def test_codec_vq_revives_dead_codes_in_the_first_three_fifths_of_its_steps(data):
    """On vectors of the batch, in the order of the step's stream; at step 0 all codes are dead."""
    config = dataclasses.replace(TINY, regulariser="vq", steps=10, perceptual=0.0)
    net = latent_codec.Autoencoder(3, config, rng=np.random.default_rng(0))
    loss, book = latent_codec.stages(net, None, None, config, data)[0].objectives[0].loss, net.codebook
    told, real = [], book.revive

    def revive(z, share, u):
        real(z, share, u)
        told.append((z, share, u, book.vectors.copy()))

    book.revive = revive
    batch, calls = data.train.take(slice(0, 2)), []
    for step in range(10):
        loss(batch, np.random.default_rng(step), step)
        calls.append(len(told))
    assert calls == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6]
    z, share, u, vectors = told[0]
    with ag.no_grad():
        want = ag.raw(net.moments(data.scale(batch.images).astype(np.float32))[0]).reshape(-1, 4)
    np.testing.assert_allclose(z, want, rtol=1e-5, atol=1e-6)
    stream = np.random.default_rng(0)
    stream.standard_normal(z.shape)  # the noise, which "kl" would need
    np.testing.assert_array_equal(u, stream.random(len(z)))
    np.testing.assert_array_equal(vectors, z[np.argsort(u)[:8]])
    assert share == 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"regulariser": "none"}, "regulariser must be 'kl' or 'vq'"),
        ({"factor": 3}, "factor must be one of 2, 4, 8"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"kl": -1.0}, "kl must be at least 0"),
        ({"perceptual": np.nan}, "perceptual must be at least 0"),
        ({"width": 12}, "width must be a multiple of 8"),
    ],
)
def test_codec_settings_that_do_not_fit(change, said):
    with pytest.raises(ValueError, match=said):
        latent_codec.check(dataclasses.replace(TINY, **change), (32, 32, 3))


def test_codec_factor_must_divide_the_picture():
    with pytest.raises(ValueError, match="factor must divide the picture's sides, got 8 for"):
        latent_codec.check(dataclasses.replace(TINY, factor=8), (28, 28, 1))
