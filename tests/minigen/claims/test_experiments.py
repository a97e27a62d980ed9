"""Experiments measure what they say, on stubs in the place of trained systems: nothing is trained here."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minigen.claims import (
    autoencoders,
    autoregressive,
    dalle,
    dalle2,
    discrete_codes,
    gan_and_vae,
    guidance,
    latent_diffusion,
    text_guidance,
    text_to_image,
)
from minigen.claims.ledger import Setting
from minigen.claims.trained import rng_of
from minigen.data import load
from minigen.data.rings import Rings
from minigen.models import vae

SETTING = Setting(seed=0, quick=False, runs=Path("unused"))


def same(x):
    return x


def split(images, labels=None):
    return SimpleNamespace(images=images, labels=labels)


def stub_data(train, test):
    """A data set that is not scaled."""
    return SimpleNamespace(train=split(train), test=split(test), scale=same, unscale=same)


def named(model):
    return model.__name__.rpartition(".")[2]


# --- autoencoders -----------------------------------------------------------------------------------------------------


def masked(monkeypatch, net_of):
    """Networks in the place of masked autoencoders, by the share that their training hid; the real digits."""
    data = load("digits")

    def trained(model, setting, *, mask_ratio, steps):
        assert named(model) == "masked_ae" and steps == autoencoders.STEPS
        return SimpleNamespace(modules={"network": net_of(mask_ratio)}, config=SimpleNamespace(patch=2)), data

    monkeypatch.setattr(autoencoders, "trained", trained)
    return data


def test_filling_is_measured_where_a_quarter_is_visible(monkeypatch):
    """A network that is off by its ratio in every pixel has that squared error, over (white - black)^2 = 4."""
    seen = []

    def net_of(ratio):
        return lambda patches, masks: seen.append((ratio, masks)) or patches + np.float32(ratio)

    data = masked(monkeypatch, net_of)
    found = autoencoders.masking_copied(SETTING)
    assert found == {f"{r:g} %": pytest.approx((r / 100) ** 2 / 4, abs=1e-6) for r in (25, 50, 75)}
    assert [ratio for ratio, _ in seen] == [0.25, 0.5, 0.75]
    for _, masks in seen:
        assert masks.hidden.shape == (len(data.test.images), 16)
        assert (masks.hidden.sum(1) == 12).all() and masks.keep.shape[1] == 4
        np.testing.assert_array_equal(masks.hidden, seen[0][1].hidden, "all fill in the same")


def test_features_are_those_of_whole_pictures_and_the_probe_is_tested_on_the_test_split(monkeypatch):
    def net_of(ratio):
        def features(patches, masks):
            assert not masks.hidden.any() and masks.keep.shape[1] == patches.shape[1] == 16
            return np.full((len(patches), 2), ratio)

        return SimpleNamespace(features=features)

    def probe(x, y, x_test, y_test):
        assert np.array_equal(y, data.train.labels) and np.array_equal(y_test, data.test.labels)
        assert len(x) == len(y) and len(x_test) == len(y_test)
        return float(x_test[0, 0])

    data = masked(monkeypatch, net_of)
    monkeypatch.setattr(autoencoders, "linear_probe", probe)
    assert autoencoders.masking(SETTING) == {"25 %": 0.25, "50 %": 0.5, "75 %": 0.75}


def test_holes_are_copies_of_test_pictures_what_is_between_two_and_drawn_codes(monkeypatch):
    """Codes are the test pictures' only pixel, 1, 3, 5 or 7. The ruler takes odd numbers for digits."""
    data = stub_data(np.zeros((4, 1)), np.array([[1.0], [3.0], [5.0], [7.0]] * 100) / 8)
    given, shown = [], []

    def trained(model, setting):
        def sample(n, *, rng, mean=False):
            assert mean == (named(model) == "vae")
            return np.full((n, 1), 1 / 8) if mean else np.repeat([[1.0], [0.0], [2.0], [4.0]], n // 4, axis=0) / 8

        return SimpleNamespace(modules={"autoencoder": None}, sample=sample), data

    def accepted(x):
        shown.append(x)
        return 8 * x[:, 0] % 2 == 1

    monkeypatch.setattr(autoencoders, "trained", trained)
    monkeypatch.setattr(autoencoders, "load_ruler", lambda dataset: SimpleNamespace(accepted=accepted))
    monkeypatch.setattr(autoencoders.autoencoder, "encode", lambda net, x: given.append(x) or x)
    monkeypatch.setattr(autoencoders.autoencoder, "decode", lambda net, z: z)
    found = autoencoders.holes(SETTING)
    assert len(given) == 1 and np.array_equal(given[0], data.test.images)
    copies, halfway, _ = shown
    assert np.array_equal(copies, data.test.images)
    other = 2 * halfway - copies
    assert not np.array_equal(other, copies) and np.array_equal(np.sort(other, axis=0), np.sort(copies, axis=0))
    assert found["copies of test pictures"] == 1 and found["drawn codes"] == 0.25
    beside = autoencoders.holes_beside_vae(SETTING)
    assert beside == {"autoencoder, drawn codes": 0.25, "VAE, codes from the prior": 1.0}


# --- GAN and VAE ------------------------------------------------------------------------------------------------------


def images_of(*values):
    """Pictures of one pixel."""
    return np.array(values, float).reshape(-1, 1, 1, 1)


REAL = images_of(0, 1, 2, 3, 4, 5, 6, 7)  # reach of the third nearest other: 3, 2, 2, 2, 2, 2, 2, 3
CLOUDS = {
    "train": images_of(0, 0, 0, 0, 1, 1, 1, 1),
    "GAN": images_of(0, 0, 0, 0, 0, 0, 0, 0),
    "VAE, mean": images_of(0, 0, 0, 0, 7, 7, 7, 7),
    "VAE, draw": REAL,
}
# balls around 0, 1 and 2 hold a 0, that around 3 a 1 and not a 0, those around 5, 6 and 7 a 7
COVERAGE = {"train": 4 / 8, "GAN": 3 / 8, "VAE, mean": 6 / 8, "VAE, draw": 1.0}
# a fake that has three twins has a ball of radius 0
RECALL = {"train": 2 / 8, "GAN": 1 / 8, "VAE, mean": 2 / 8, "VAE, draw": 1.0}


def drawn_by(monkeypatch, clouds, real):
    """Both systems draw these clouds."""
    data = stub_data(clouds["train"], real)

    def trained(model, setting):
        def sample(n, *, rng, mean=None):
            assert n == gan_and_vae.N == 512 and (mean is None) == (named(model) == "gan")
            return clouds["GAN" if mean is None else "VAE, mean" if mean else "VAE, draw"]

        return SimpleNamespace(sample=sample), data

    monkeypatch.setattr(gan_and_vae, "trained", trained)


def test_test_pictures_are_the_real_ones_of_coverage_and_recall(monkeypatch):
    """With the two exchanged, the GAN's coverage and recall would be 1: one point lies in the ball of another."""
    drawn_by(monkeypatch, CLOUDS, REAL)
    assert gan_and_vae.covered(SETTING) == COVERAGE
    assert gan_and_vae.recalled_in_pixels(SETTING) == RECALL


def test_recall_in_features_is_that_of_their_directions(monkeypatch):
    """The stub's features of pixel v point to the angle v / 10; their lengths say nothing."""

    def features(x):
        angle = x.reshape(-1, 1) / 10
        return (1 + np.arange(len(x)))[:, None] * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)

    drawn_by(monkeypatch, CLOUDS, REAL)
    monkeypatch.setattr(gan_and_vae, "load_ruler", lambda dataset: SimpleNamespace(features=features))
    assert gan_and_vae.recalled_in_features(SETTING) == RECALL


def test_fidelity_is_the_share_that_the_ruler_accepts(monkeypatch):
    drawn_by(monkeypatch, CLOUDS, REAL)
    ruler = SimpleNamespace(accepted=lambda x: x[:, 0, 0, 0] == 0)
    monkeypatch.setattr(gan_and_vae, "load_ruler", lambda dataset: ruler)
    assert gan_and_vae.faithful(SETTING) == {"train": 0.5, "GAN": 1.0, "VAE, mean": 0.5, "VAE, draw": 0.125}


def test_sharpness_is_over_that_of_the_test_pictures(monkeypatch):
    """Of 2 x 2 pixels: a constant has sharpness 0, a wave across 4, a checkerboard 16."""
    constant, wave, board = (
        np.array(x, float).reshape(1, 2, 2, 1) for x in ([1, 1, 1, 1], [1, -1, 1, -1], [1, -1, -1, 1])
    )
    clouds = {"train": np.concatenate([wave, constant]), "GAN": board, "VAE, mean": constant, "VAE, draw": wave}
    drawn_by(monkeypatch, clouds, wave)
    assert gan_and_vae.sharp(SETTING) == {"train": 0.5, "GAN": 4.0, "VAE, mean": 0.0, "VAE, draw": 1.0}


def test_modes_are_counted_of_the_game_that_they_are_called(monkeypatch):
    games = {("saturating", 0): 1, ("non-saturating", 0): 2, ("non-saturating", 1): 3, ("wgan-gp", None): 4}

    def trained(model, setting, *, data, loss, r1=None, gradient_penalty=0.0, **of_all):
        assert named(model) == "gan" and data == "rings" and of_all == gan_and_vae.RING
        assert gradient_penalty == (loss == "wgan-gp")
        centres = Rings().centres[: games[loss, r1]]
        return SimpleNamespace(sample=lambda n, *, rng: np.resize(centres, (n, 2))), None

    monkeypatch.setattr(gan_and_vae, "trained", trained)
    assert gan_and_vae.modes(SETTING) == {
        "saturating": 1.0, "non-saturating": 2.0, "non-saturating, R1": 3.0, "WGAN-GP": 4.0,
    }  # fmt: skip


# --- discrete codes ---------------------------------------------------------------------------------------------------


def test_used_codes_are_those_of_the_rule_and_the_start_that_they_are_called(monkeypatch):
    """A stub that says by its codes how it was trained: as many codes as the sum of what was asked for."""
    data = stub_data(np.zeros((200, 1)), np.zeros((1, 1)))

    def trained(model, setting, *, rule, restart, from_data=None, codes, steps, prior_steps):
        assert named(model) == "vq_vae" and codes == 256
        n = (
            {"gradient": 1, "average": 2}[rule]
            + 10 * (restart > 0)
            + 100 * (from_data is None)
            + 20 * (from_data is True)
        )
        return SimpleNamespace(modules={"codec": n}), data

    def codec(n):
        return SimpleNamespace(encode=lambda x: np.arange(len(x)) % n)

    monkeypatch.setattr(discrete_codes, "trained", trained)
    monkeypatch.setattr(discrete_codes.vq_vae, "Codec", codec)
    assert discrete_codes.used(SETTING) == {
        "gradient, none revived": 1.0, "gradient, revived": 11.0, "averages, none revived": 2.0,
        "averages, revived": 12.0, "averages, none revived, started on data": 102.0,
    }  # fmt: skip
    assert discrete_codes.vq_vae.Config().from_data, "which is what the last of them is named after"


def test_codes_are_drawn_as_they_are_called(monkeypatch):
    """Picture i of the training split has the code 100 p + i at place p; all else is told apart by its sign or size."""
    codes = (np.arange(50)[:, None] + 100 * np.arange(4)).reshape(50, 2, 2)
    data, shown = stub_data(codes, np.full((8, 2, 2), 7)), []

    def sample(n, *, rng, prior="learned"):
        return np.full((n, 2, 2), {"uniform": -1, "learned": -2}[prior])

    def trained(model, setting):
        return SimpleNamespace(modules={"codec": None}, sample=sample), data

    def accepted(x):
        shown.append(x)
        return np.arange(len(x)) < len(x) * len(shown) / 8

    monkeypatch.setattr(discrete_codes, "trained", trained)
    codec = SimpleNamespace(encode=same, decode=same, grid=(2, 2))
    monkeypatch.setattr(discrete_codes.vq_vae, "Codec", lambda net: codec)
    monkeypatch.setattr(discrete_codes, "load_ruler", lambda dataset: SimpleNamespace(accepted=accepted))
    found = discrete_codes.accepted(SETTING)
    assert found == {
        "uniform codes": 1 / 8, "places on their own": 2 / 8, "PixelCNN": 3 / 8, "copies of test pictures": 4 / 8,
    }  # fmt: skip
    uniform, apart, learned, copies = shown
    assert (uniform == -1).all() and (learned == -2).all() and np.array_equal(copies, data.test.images)
    place, picture = np.divmod(apart.reshape(-1, 4), 100)
    assert (place == np.arange(4)).all() and picture.max() < 50, "each place has a code that stands there in training"
    assert ((picture == picture[:, :1]).all(1)).mean() < 0.01, "and of another picture than the next place"


# --- autoregressive models --------------------------------------------------------------------------------------------


def test_nats_are_the_first_figure_of_each_system(monkeypatch):
    own = {
        "pixelcnn": {"a": 80.0, "b": 1.0},
        "gpt": {"a": 83.0, "mixture levels, nats": 99.0},
        "vae": {"a": 85.0, "b": 2.0},
    }

    def trained(model, setting, **changes):
        def figures(dataset, *, rng, **settings):
            assert settings == ({"draws": 4096} if model is vae else {})
            return own[named(model)]

        return SimpleNamespace(figures=figures), None

    monkeypatch.setattr(autoregressive, "trained", trained)
    assert autoregressive.nats(SETTING) == {"PixelCNN": 80.0, "GPT": 83.0, "VAE": 85.0, "mixture": 99.0}


def test_the_first_figure_of_all_three_is_the_likelihood_of_a_test_picture(monkeypatch):
    """Of untrained systems, on 16 test pictures: the VAE's bound by one draw comes after that by more."""
    data = load("digits")
    few, own = replace(data, test=data.test.take(slice(0, 16))), {}

    def trained(model, setting, **changes):
        own[named(model)] = model.build(model.Config(), few, seed=0)
        return own[named(model)], few

    monkeypatch.setattr(autoregressive, "trained", trained)
    monkeypatch.setattr(autoregressive, "DRAWS", 3)
    found = autoregressive.nats(SETTING)
    assert list(found) == ["PixelCNN", "GPT", "VAE", "mixture"]
    for label, (name, system) in zip(found, own.items()):
        figures = system.figures(few, rng=rng_of(SETTING, label), **({"draws": 3} if name == "vae" else {}))
        first = next(iter(figures))
        assert found[label] == figures[first]
        assert first.startswith("-ln p(picture), test") and first.endswith("nats")
        assert ("exact" in first) == (name != "vae") and ("bound of 3 draws" in first) == (name == "vae")


def test_the_faster_of_two_draws_counts_for_a_picture(monkeypatch):
    """On a clock that the stubs move: 64 pictures take so many seconds at first, and the second time."""
    clock, takes = [0.0], {"pixelcnn": [0.64, 0.128], "gpt": [0.256, 0.32], "vae": [0.0064, 0.0064]}

    def trained(model, setting, **changes):
        def sample(n, *, rng):
            assert n == 64
            clock[0] += takes[named(model)].pop(0)

        return SimpleNamespace(sample=sample), None

    monkeypatch.setattr(autoregressive, "trained", trained)
    monkeypatch.setattr(autoregressive, "time", SimpleNamespace(process_time=lambda: clock[0]))
    found = autoregressive.seconds(SETTING)
    assert found == {"PixelCNN": pytest.approx(2.0), "GPT": pytest.approx(4.0), "VAE": pytest.approx(0.1)}


# --- CLIP and DALL-E --------------------------------------------------------------------------------------------------


def test_seen_pairs_are_the_test_splits_and_held_out_ones_are_not(monkeypatch):
    """A stub that always names one pair that training never shows is right on its share of the held-out pictures alone."""
    clip = text_to_image.clip
    some = [scene.things[0] for scene in text_to_image.shapes.part("held").scenes[:1024] if len(scene.things) == 1]
    pair = (some[0].colour, some[0].shape)
    embedder = SimpleNamespace(
        encode_image=lambda x: np.tile(np.eye(35)[clip.PAIRS.index(pair)], (len(x), 1)),
        net=SimpleNamespace(log_scale=SimpleNamespace(data=np.float64(3.0))),
    )

    def trained(model, setting, *, data, steps):
        assert named(model) == "clip" and data == "shapes"
        return SimpleNamespace(modules={"clip": None}), load(data)

    monkeypatch.setattr(text_to_image, "trained", trained)
    monkeypatch.setattr(clip, "Embedder", lambda net: embedder)
    monkeypatch.setattr(clip, "pair_classifier", lambda of: np.eye(35)[:, None])
    found = text_to_image.zero_shot(SETTING)
    right = np.mean([(thing.colour, thing.shape) == pair for thing in some])
    assert 0.1 < right < 0.4, "one of five"
    assert found == {"seen pairs": 0.0, "held-out pairs": pytest.approx(right), "chance": pytest.approx(1 / 35)}


def test_word_order_is_read_in_pictures_of_two_things(monkeypatch):
    def trained(model, setting, *, data, steps, false):
        return SimpleNamespace(modules={"clip": false}), load(data)

    def true_beats_false(embedder, images, scenes, *, rng):
        assert len(images) == len(scenes) > 100 and all(len(scene.things) == 2 for scene in scenes)
        return {"colour": 0.9, "order": 0.75 if embedder else 0.5, "shape": 0.8}

    monkeypatch.setattr(text_to_image, "trained", trained)
    monkeypatch.setattr(text_to_image.clip, "Embedder", same)
    monkeypatch.setattr(text_to_image.clip, "true_beats_false", true_beats_false)
    assert text_to_image.word_order(SETTING) == {"pairs alone": 0.5, "with false captions": 0.75}


def test_best_of_n_is_chosen_among_n(monkeypatch):
    system = SimpleNamespace(paint=lambda prompts, *, rng, rerank: rerank / 100)
    monkeypatch.setattr(dalle, "chain", lambda setting: system)
    monkeypatch.setattr(dalle, "accuracy", lambda prompts, images: images)
    found = dalle.reranked(SETTING)
    assert found == {"best of 1": 0.01, "best of 4": 0.04, "best of 16": 0.16, "best of 64": 0.64}


def test_two_stages_are_the_chain_and_one_is_the_transformer_over_pixels(monkeypatch):
    def painting(value):
        return SimpleNamespace(paint=lambda prompts, *, rng, **how: value)

    monkeypatch.setattr(dalle, "chain", lambda setting: painting(0.75))
    monkeypatch.setattr(
        dalle, "trained", lambda model, setting, **changes: (painting(0.25 if model is dalle.PIXELS else 9), None)
    )
    monkeypatch.setattr(dalle, "accuracy", lambda prompts, images: images)
    assert dalle.two_stages(SETTING) == {"codec and transformer": 0.75, "transformer over pixels": 0.25}


# --- guidance ---------------------------------------------------------------------------------------------------------


def test_precision_and_recall_over_scales_are_of_the_test_split(monkeypatch):
    """Half of the fakes are 0, where the real ones are, half are far off: precision 1/2 and recall 1/8 of eight real ones."""
    fakes = images_of(0, 0, 0, 0, 90, 90, 90, 90)
    monkeypatch.setattr(guidance, "walks", lambda setting: (stub_data(fakes, REAL), {"a": fakes, "b": REAL}))
    assert guidance.precision(SETTING) == {"a": 0.5, "b": 1.0}
    assert guidance.recall(SETTING) == {"a": 0.125, "b": 1.0}


def test_samples_over_scales_are_of_the_system_and_the_scale_that_they_are_called(monkeypatch):
    def system(add):
        return SimpleNamespace(sample=lambda n, *, rng, scale: np.array([add + scale]))

    data = stub_data(None, None)
    monkeypatch.setattr(guidance, "with_classifier", lambda setting: (system(100), data))
    monkeypatch.setattr(guidance, "without_classifier", lambda setting: (system(200), data))
    _, found = guidance.walks.__wrapped__(SETTING)
    assert {label: float(x[0]) for label, x in found.items()} == {
        "classifier, 0": 100, "classifier, 1": 101, "classifier, 2": 102, "classifier, 4": 104, "classifier, 8": 108,
        "classifier-free, 0": 200, "classifier-free, 1": 201, "classifier-free, 1.5": 201.5,
        "classifier-free, 2": 202, "classifier-free, 4": 204,
    }  # fmt: skip


def test_steps_and_scales_are_those_they_are_called(monkeypatch):
    def sample(n, *, rng, scale, steps, sampler):
        assert sampler == "ddim"
        return 100 * scale + steps

    monkeypatch.setattr(
        guidance, "without_classifier", lambda setting: (SimpleNamespace(sample=sample), stub_data(None, None))
    )
    monkeypatch.setattr(guidance, "right", lambda dataset, images: images)
    assert guidance.steps_and_scales(SETTING) == {
        "scale 1, 5 steps": 105, "scale 1, 20 steps": 120, "scale 2, 5 steps": 205, "scale 2, 20 steps": 220,
    }  # fmt: skip


def test_scales_are_chosen_on_some_prompts_and_judged_on_others(monkeypatch):
    """On validation prompts scales 2 and 100 are the best; on those that are judged more is better."""

    def paint(prompts, *, rng, guidance, clip_guidance):
        if prompts[0].startswith("val"):
            return -abs(guidance - 2) - abs(clip_guidance - 100) / 1000
        assert prompts[0].startswith("test")
        return 1000 * guidance + clip_guidance

    monkeypatch.setattr(text_guidance, "trained", lambda model, setting, **changes: (SimpleNamespace(paint=paint), 0))
    monkeypatch.setattr(text_guidance, "prompts_of", lambda split, things, n: [f"{split} {i}" for i in range(n)])
    monkeypatch.setattr(text_guidance, "attributes_met", lambda prompts, images: images)
    assert text_guidance.guidances(SETTING) == {
        "no guidance": 1000, "classifier-free": 2000, "CLIP": 1100, "both": 1600,
        "tried: classifier-free, 1.5": -0.6, "tried: classifier-free, 2": -0.1, "tried: classifier-free, 3": -1.1,
        "tried: classifier-free, 4.5": -2.6,
        "tried: CLIP, 30": -1.07, "tried: CLIP, 100": -1.0, "tried: CLIP, 300": -1.2, "tried: CLIP, 1000": -1.9,
    }  # fmt: skip


# --- DALL-E 2 and diffusion in latents --------------------------------------------------------------------------------


def test_each_prior_draws_its_own_group(monkeypatch):
    share = {"diffusion": 0.1, "autoregressive": 0.2, "text": 0.3, "none": 0.4}
    system = SimpleNamespace(paint=lambda prompts, *, rng, prior: share[prior])
    monkeypatch.setattr(dalle2, "small", lambda setting: (system, None))
    monkeypatch.setattr(dalle2, "attributes_met", lambda prompts, images: images)
    assert dalle2.priors(SETTING) == share


def test_variations_have_their_own_embedding_and_others_the_next_pictures(monkeypatch):
    """Embeddings are the numbers of the pictures, and what is drawn says which one it was told and with how much noise."""

    class Chain:
        text = SimpleNamespace(encode_image=lambda x: np.arange(1.0, len(x) + 1))

        def paint(self):
            pass

    calls = []

    def walked(chain, x_T, z, levels, *, guidance, eta, rng):
        assert guidance == 1 and levels == "levels"
        x = np.array(x_T)
        x[: len(x) // 4] += 1.0  # a quarter are other pictures
        calls.append((x, z, eta))
        return x

    def inverted(chain, x_0, z, levels):
        assert np.array_equal(z, np.arange(1.0, len(z) + 1)), "from its own embedding"
        return x_0

    def met(captions, images):
        assert len(captions) == len(images) == dalle2.PROMPTS
        ((z, eta),) = ((z, eta) for x, z, eta in calls if x is images)
        own = np.arange(1.0, len(z) + 1)
        assert np.array_equal(np.sort(z), own)
        return {(True, 0.0): 1.0, (True, 0.5): 0.75, (False, 0.5): 0.25}[np.array_equal(z, own), eta]

    monkeypatch.setattr(dalle2, "small", lambda setting: (SimpleNamespace(paint=Chain().paint), load("shapes")))
    monkeypatch.setattr(dalle2.dalle2_edits, "levels_of", lambda chain, steps: "levels")
    monkeypatch.setattr(dalle2.dalle2_edits, "inverted", inverted)
    monkeypatch.setattr(dalle2.dalle2_edits, "walked", walked)
    monkeypatch.setattr(dalle2, "attributes_met", met)
    assert dalle2.varied(SETTING) == {
        "reconstructions (eta 0)": 1.0,
        "variations": 0.75,
        "with another's embedding": 0.25,
        "variations that are another picture": 0.25,
    }


def test_entropies_are_of_the_system_and_the_scale_that_they_are_called(monkeypatch):
    def painting(value):
        return SimpleNamespace(paint=lambda prompts, *, rng, guidance: (set(prompts), value + guidance))

    def entropy(images):
        said, value = images
        assert len(said) == 1, "many pictures of one prompt"
        return value

    monkeypatch.setattr(dalle2, "small", lambda setting: (painting(10), None))
    monkeypatch.setattr(dalle2, "trained", lambda model, setting, **changes: (painting(20), None))
    monkeypatch.setattr(dalle2, "background_entropy", entropy)
    assert dalle2.diversity(SETTING) == {
        "DALL-E 2, guidance 1": 11, "DALL-E 2, guidance 4": 14, "GLIDE, guidance 1": 21, "GLIDE, guidance 4": 24,
    }  # fmt: skip


def latent(monkeypatch, paint):
    """Systems that paint by what they were asked to be."""

    def system_of(setting, **changes):
        return SimpleNamespace(paint=lambda prompts, *, rng, **how: paint(changes, **how)), None

    monkeypatch.setattr(latent_diffusion, "system_of", system_of)
    monkeypatch.setattr(latent_diffusion, "attributes_met", lambda prompts, images: images)


def test_sizes_and_regularisers_are_those_they_are_called(monkeypatch):
    latent(monkeypatch, lambda changes: changes.get("factor", changes.get("codec")))
    assert latent_diffusion.sizes(SETTING) == {"pixels": "identity", "f = 2": 2, "f = 4": 4, "f = 8": 8}
    assert latent_diffusion.regularisers(SETTING) == {"kl": "kl", "vq": "vq"}


def test_maps_have_a_third_of_the_calls_that_pixels_have(monkeypatch):
    latent(monkeypatch, lambda changes, steps: (changes.get("factor"), steps))
    assert latent_diffusion.fewer_calls(SETTING) == {"pixels, 15 calls": (None, 15), "f = 4, 5 calls": (4, 5)}


def test_samplers_are_measured_in_few_steps_against_many_of_ddim(monkeypatch):
    """The stub paints a constant, and 200 steps of DDIM paint 1."""
    of = {"ddim": 3.0, "plms": 1.5, "dpmpp-2m": 0.5, "dpmpp-2s": -1.0}

    def paint(changes, *, sampler, steps):
        assert (sampler, steps) == ("ddim", 200) or steps == 10
        return np.full((2, 3), 1.0 if steps == 200 else of[sampler])

    latent(monkeypatch, paint)
    assert latent_diffusion.few_steps(SETTING) == {"ddim": 2.0, "plms": 0.5, "dpmpp-2m": 0.5, "dpmpp-2s": 2.0}
    latent(monkeypatch, lambda changes, *, sampler, steps: (sampler, steps))
    assert latent_diffusion.few_prompts(SETTING) == {name: (name, 10) for name in of}
