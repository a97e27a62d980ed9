"""Latent diffusion: pixels as a special case bit for bit, what the words reach, what stays of a picture, a run of all stages."""

import dataclasses
import re
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import shaken

import autograd as ag
from kernels.compare import unit_roundoff
from minigen.data import Dataset, load, shapes
from minigen.data.captions import SHAPES, parse
from minigen.laws import as_sampler
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.maths.schedules import spaced
from minigen.models import clip, ddpm, glide, latent_codec, latent_figures, latent_upscaler, sampling
from minigen.models import stable_diffusion as sd
from minigen.models.latent_beside import kept_places
from minigen.models.latent_codec import Codec, Identity
from minigen.nn import TextAttention, TextUNet
from minigen.nn.attention import split_heads
from minigen.samplers.classifier_free import classifier_free
from minigen.train.loop import Trainer
from tests.support.oracles import gaussian

TINY = sd.Config(
    T=20,
    sample_steps=3,
    base=16,
    clip_steps=2,
    codec_steps=2,
    adversarial_steps=2,
    steps=2,
    beside_steps=2,
    upscale_steps=2,
    batch_size=4,
)
PROMPTS = ["a small red circle in the middle", "a large blue ring above a small cyan cross on a gray background"]
TINY_ROUNDING = 1e4 * unit_roundoff(np.float64)  # of a few dozen steps on numbers of size 1


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("shapes")


@pytest.fixture(scope="module")
def run(data):
    """A system that has done its few steps, its log, and how its maps were distributed at each stage; then it is shaken."""
    system, stages = sd.build(TINY, data, seed=0), []
    trainer = Trainer(system, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_codec, "MEASURED", 256)
        for _ in range(trainer.total):
            before = system.modules["codec"].std.copy()
            stages.append((trainer.advance(data.train)["stage"], before, system.modules["codec"].std.copy()))
    z = Codec(system.modules["codec"]).encode(data.scale(data.train.take(slice(0, 256)).images))
    for i, net in enumerate(system.modules.values()):
        shaken(net, i)
        net.eval()
    return system, stages, z


@pytest.fixture(scope="module")
def system(run):
    return run[0]


@pytest.fixture(scope="module")
def pixels(data):
    """The same with the codec that does nothing."""
    config = dataclasses.replace(TINY, codec="identity", patch=4, upscale_steps=0, output="eps")
    found = sd.build(config, data, seed=0)
    for i, net in enumerate(found.modules.values()):
        shaken(net, i)
    return found


# --- eq. 3 ------------------------------------------------------------------------------------------------------------


def test_ldm_with_the_identity_is_pixel_diffusion_in_training_bit_for_bit(rng):
    schedule, x = schedules.cosine(20), rng.standard_normal((5, 4, 4, 3)).astype(np.float32)
    t, eps = rng.integers(1, 21, 5), rng.standard_normal(x.shape).astype(np.float32)

    def model(x_t, t):
        return np.sin(3 * x_t) + t[:, None, None, None].astype(np.float32) / 20

    z = Identity().encode(x)
    in_pixels = ddpm.l_simple(eps, model(q_sample(x, t, eps, schedule), t))
    assert sd.l_ldm(model, z, t, eps, schedule, kind="eps") == in_pixels
    weighed = glide.l_glide(x, model(q_sample(x, t, eps, schedule), t), glide.weights(t, schedule, 5.0), 0.0)
    assert sd.l_ldm(model, z, t, eps, schedule, kind="x_0", most=5.0) == weighed


@pytest.mark.parametrize("how", [{"sampler": "ancestral"}, {"sampler": "ddim", "eta": 0.5}, {"sampler": "plms"}])
def test_ldm_with_the_identity_is_pixel_diffusion_in_sampling_bit_for_bit(pixels, how):
    drawn = sd.draw(pixels, PROMPTS, rng=np.random.default_rng(3), guidance=2.5, **how)
    told = sd.read(clip.Embedder(pixels.modules["clip"]), [*PROMPTS, "", ""])._replace(beside=np.zeros(4))
    cond, null = (sd.Told(*(part[rows] for part in told))._replace(beside=None) for rows in (slice(2), slice(2, 4)))
    model = classifier_free(lambda x, t, said: pixels.modules["unet"](x, t, *said), 2.5, null)
    rng = np.random.default_rng(3)
    x_T = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    by_hand = sampling.draw(model, x_T, schedules.cosine(20), steps=3, rng=rng, cond=cond, kind="eps", **how)
    np.testing.assert_array_equal(drawn, by_hand)


def test_ldm_eq3_weights_turn_the_loss_of_x_0_into_that_of_v(rng):
    """One guess said as x_0, v and eps: with no bound on the weight the first two losses are the same, and SNR weighs the third."""
    schedule, z_0 = schedules.cosine(30), rng.standard_normal((6, 2, 2, 1))
    t, eps = np.full(6, 11), rng.standard_normal(z_0.shape)
    a = schedule.alpha_bar[11]

    def guess(kind):
        def model(z_t, t):
            x = z_0 + 0.3 * np.cos(z_t)
            e = (z_t - a**0.5 * x) / (1 - a) ** 0.5
            return {"x_0": x, "eps": e, "v": a**0.5 * e - (1 - a) ** 0.5 * x}[kind]

        return sd.l_ldm(model, z_0, t, eps, schedule, kind=kind)

    assert guess("x_0") == pytest.approx(guess("v"), rel=1e-9)
    assert guess("eps") == pytest.approx(guess("v") * a, rel=1e-9), "SNR / (SNR + 1) is alpha_bar"


@pytest.mark.parametrize("kind", ["x_0", "v", "eps"])
def test_ldm_eq3_by_differences(kind, rng):
    schedule, z_0, eps = schedules.cosine(9), *rng.standard_normal((2, 3, 2, 2, 2))
    t = np.array([1, 5, 9])
    ag.gradcheck(lambda out: sd.l_ldm(lambda z, t: out, z_0, t, eps, schedule, kind=kind, most=5.0), [z_0 + eps])


@pytest.mark.parametrize(
    ("name", "output"), [("diffusion", "x_0"), ("diffusion", "v"), ("beside", "eps"), ("upscaler", "v")]
)
def test_ldm_training_is_eq3_of_maps_that_are_told_their_own_captions_holes_layouts_and_levels(name, output, data):
    """Each stage's loss from its parts, with the draws of the same rng; each part of another row gives another value."""
    config = dataclasses.replace(TINY, output=output, p_uncond=0.5)
    system = sd.build(config, data, seed=0)
    for i, net in enumerate(system.modules.values()):
        shaken(net, i)
    (loss,) = (stage.objectives[0].loss for stage in system.stages() if stage.name == name)
    b, n, codec = data.train.take(slice(0, 8)), 8, sd.codec_of(system)
    got = float(loss(b, np.random.default_rng(4), 1)[0])

    rng, schedule, x = np.random.default_rng(4), sd.schedule_of(config), data.scale(b.images)
    beside = low = level = None
    share = np.full(n, 0.5)
    if name == "beside":
        keep = sd.random_masks(n, 32, rng=rng)
        layout = sd.layout_map(sd.boxes_of(b.scenes), 32, 4)
        shown = rng.random(n) < 0.5
        layout[~shown] = 0
        share = np.where(shown, 0.75, 0.5)
        beside = np.concatenate([sd.known_places(codec, x, keep), layout], axis=3)
        assert 2 < shown.sum() < 6
    if name == "upscaler":
        low, level = latent_upscaler.glide_upsampler.augmented(x, schedule, rng=rng)
        x = data.scale(shapes.render(b.scenes, 64))
        assert len(set(level)) > 1
    left_out = rng.random(n) < share
    assert 1 < left_out.sum() < 7
    told = glide.read(
        clip.Embedder(system.modules["clip"]), ["" if out else text for out, text in zip(left_out, b.captions)], beside
    )
    z_0, t = codec.encode(x), rng.integers(1, config.T + 1, n)
    eps = rng.standard_normal(z_0.shape).astype(np.float32)
    z_t, a = q_sample(z_0, t, eps, schedule), schedule.alpha_bar[t][:, None, None, None]
    goal = {"x_0": z_0, "eps": eps, "v": a**0.5 * eps - (1 - a) ** 0.5 * z_0}[output]
    w = np.minimum(schedule.snr[t] + 1, config.most)[:, None, None, None] if output == "x_0" else 1.0

    def by_hand(told=told, low=low, level=level):
        with ag.no_grad():
            if low is None:
                said = system.modules["unet"](z_t, t, *told)
            else:
                said = system.modules["upscaler"](z_t, t, told[:3], low, level)
            return float((w * (ag.raw(said) - goal) ** 2).mean())

    assert got == pytest.approx(by_hand(), rel=1e-5)
    words = told._replace(
        **{part: np.roll(getattr(told, part), 1, 0) for part in ("vector", "words", "mask", "tokens")}
    )
    others = [{"told": words}]
    others += [] if beside is None else [{"told": told._replace(beside=np.roll(beside, 1, 0))}]
    others += [] if low is None else [{"low": np.roll(low, 1, 0)}, {"level": 0 * level}]
    for other in others:
        assert by_hand(**other) != pytest.approx(got, rel=1e-4), other.keys()


class Turned:
    """A codec that turns the channels and scales them: linear, and its decoder is the inverse."""

    bound = None

    def __init__(self, channels, seed=0):
        rng = np.random.default_rng(seed)
        q, _ = np.linalg.qr(rng.standard_normal((channels, channels)))
        self.A = q

    def shape(self, picture):
        return tuple(picture)

    def encode(self, x, *, rng=None):
        return x @ self.A

    def decode(self, z):
        return z @ self.A.T


class Bare(Identity):
    """The identity for data that are not bounded."""

    bound = None


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpmpp-2m", "dpmpp-2s", "euler"])
def test_ldm_an_orthogonal_codec_and_the_sampler_commute(sampler, rng):
    codec, schedule, start = Turned(3), schedules.cosine(50), rng.standard_normal((4, 2, 2, 3))
    of_pixels = gaussian("x_0", np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 0.1]), schedule)

    def of_maps(z, t, cond=None):
        return codec.encode(of_pixels(codec.decode(z), t))

    how = {"steps": 7, "sampler": sampler, "start": start, "strength": 1.0}
    noise = rng.standard_normal(start.shape)

    class Tape:
        def __init__(self, noise):
            self.noise = noise

        def standard_normal(self, shape):
            return self.noise

    in_maps = sd.walk(of_maps, codec, start.shape, schedule, rng=Tape(codec.encode(noise)), **how)
    in_pixels = sd.walk(of_pixels, Bare(), start.shape, schedule, rng=Tape(noise), **how)
    np.testing.assert_allclose(in_maps, in_pixels, atol=TINY_ROUNDING)


@pytest.mark.parametrize("sampler", ["plms", "dpmpp-2m"])
def test_ldm_multistep_samplers_convert_what_the_network_predicts_before_they_blend_it(sampler, rng):
    """With a predictor that is exact in every form, the form makes no difference."""
    schedule, start = schedules.cosine(50), rng.standard_normal((4, 2, 2, 1))
    drawn = [
        sd.walk(
            gaussian(kind, 0.4, 0.5, schedule),
            Bare(),
            start.shape,
            schedule,
            steps=9,
            rng=np.random.default_rng(0),
            start=start,
            sampler=sampler,
            kind=kind,
        )
        for kind in ("eps", "x_0", "v")
    ]
    np.testing.assert_allclose(drawn[1], drawn[0], atol=TINY_ROUNDING)
    np.testing.assert_allclose(drawn[2], drawn[0], atol=TINY_ROUNDING)


# --- the words --------------------------------------------------------------------------------------------------------


def unet(seed=0):
    return shaken(
        TextUNet(
            4,
            4,
            size=8,
            c_vector=6,
            c_words=6,
            c_beside=2,
            patch=1,
            base=16,
            multipliers=(1, 2),
            rng=np.random.default_rng(seed),
        ),
        seed,
    ).astype(np.float64)


def test_ldm_text_comes_in_by_two_doors_only(rng):
    """Closed, the output knows nothing of the text."""
    net = unet()
    for _, module in net.named_modules():
        if isinstance(module, TextAttention):
            module.out.w.data[...] = module.out.b.data[...] = 0
    net.vector.w.data[...] = 0
    z, t, mask = rng.standard_normal((2, 8, 8, 4)), np.array([3, 7]), np.ones((2, 5), bool)
    with ag.no_grad():
        told = [
            ag.raw(net(z, t, *rng.standard_normal((2, 6))[None], rng.standard_normal((2, 5, 6)), mask)) for _ in "ab"
        ]
    np.testing.assert_array_equal(*told)


def test_ldm_words_are_a_set_and_padding_is_nothing(rng):
    net, order = unet(), np.array([3, 0, 4, 2, 1])
    z, t, vector = rng.standard_normal((2, 8, 8, 4)), np.array([3, 7]), rng.standard_normal((2, 6))
    words, mask = rng.standard_normal((2, 5, 6)), np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], bool)
    with ag.no_grad():
        a = ag.raw(net(z, t, vector, words, mask))
        b = ag.raw(net(z, t, vector, words[:, order], mask[:, order]))
        c = ag.raw(net(z, t, vector, np.where(mask[..., None], words, 1e6), mask))
        d = ag.raw(net(z, t, vector, words[:, ::-1], mask))
    np.testing.assert_allclose(b, a, atol=TINY_ROUNDING)
    np.testing.assert_array_equal(c, a)
    assert abs(d - a).max() > 1e-6, "which words there are does matter"


def test_ldm_attention_rows_sum_to_1_and_masked_keys_weigh_nothing(rng):
    """Values that are rows of the identity come out as the weights themselves."""
    q, k = (split_heads(rng.standard_normal((2, 6, 8)), 2) for _ in "qk")
    mask = np.array([[1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1]], bool)
    weights = ag.raw(ag.attention(q, k, np.broadcast_to(np.eye(6), (2, 2, 6, 6)).copy(), key_mask=mask))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
    assert (weights[~np.broadcast_to(mask[:, None, None], weights.shape)] == 0).all()
    assert (weights[np.broadcast_to(mask[:, None, None], weights.shape)] > 0).all()


def test_ldm_null_prompt_is_the_empty_caption_read_and_the_layer_can_be_the_last_but_one(system):
    text = clip.Embedder(system.modules["clip"])
    last, before = (sd.read(text, ["", *PROMPTS], penultimate=p) for p in (False, True))
    for told in (last, before):
        assert told.mask.sum(1).tolist() == [1, *(len(prompt.split()) + 1 for prompt in PROMPTS)]
        assert abs(told.words[0, 0]).max() > 1e-3
        np.testing.assert_array_equal(told.vector[1], told.words[1, 7])
    assert abs(last.words - before.words).max() > 1e-3
    tower, tokens = text.net.text, text.net.read(["", *PROMPTS])
    blocks, tower.transformer.blocks = tower.transformer.blocks, tower.transformer.blocks[:-1]
    try:
        with ag.no_grad():
            np.testing.assert_array_equal(ag.raw(tower.features(tokens)), before.words)
    finally:
        tower.transformer.blocks = blocks


def test_ldm_guidance_and_negative_prompts(system):
    def paint(**how):
        return system.paint(PROMPTS, rng=np.random.default_rng(0), **how)

    alone = paint(guidance=1.0)
    np.testing.assert_array_equal(alone, paint(guidance=1.0, negative=PROMPTS[1]))
    assert abs(paint(guidance=3.0) - paint(guidance=3.0, negative=PROMPTS[1])).max() > 1e-3
    same = [PROMPTS[0]] * 2
    a, b = (
        system.paint(same, rng=np.random.default_rng(0), guidance=g, negative=n) for g, n in ((1.0, ""), (4.0, same[0]))
    )
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_what_the_prompt_of_a_painting_leaves_open_is_random(system, data, monkeypatch):
    """But img2img leaves it to the picture."""
    heard, read = [], sd.read
    monkeypatch.setattr(sd, "read", lambda text, prompts, **how: heard.append(prompts[0]) or read(text, prompts, **how))
    image, keep = data.scale(data.test.images[0]), np.ones((32, 32, 1))
    keep[:16] = 0
    how = {"n": 1, "rng": np.random.default_rng(0), "prompt": "a red circle", "steps": 2}
    system.edit(image, keep, **how)
    system.edit(None, None, img2img=image, **how)
    assert re.fullmatch("a (large|small) red circle (at|on|in) the .*", heard[0]) and heard[1] == "a red circle"


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "ddim", "ancestral"])
def test_noise_that_is_predicted_a_little_wrong_does_not_blow_up_maps(sampler, rng):
    """Of N(0, 1) maps, by the best network with an error of 1 %, in the default number of steps: nothing clips a map."""
    config = sd.Config(output="eps")

    def spread(schedule):
        def model(x_t, t, cond=None):
            s = (1 - schedule.alpha_bar_at(t)).reshape(-1, 1, 1, 1) ** 0.5
            return s * x_t + 0.01 * rng.standard_normal(x_t.shape)

        x_T = rng.standard_normal((200, 4, 4, 4))
        return sampling.draw(model, x_T, schedule, steps=config.sample_steps, rng=rng, clip=None, sampler=sampler).std()

    assert 0.6 < spread(sd.schedule_of(config)) < 1.1
    assert spread(schedules.cosine(config.T)) > 2  # why it is not that one
    assert sd.schedule_of(sd.Config(output="v")).alpha_bar.tolist() == schedules.cosine(200).alpha_bar.tolist()


# --- img2img ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "levels"), [(0.05, 1), (0.3, 3), (0.55, 6), (1.0, 10)])
def test_sdedit_in_maps_has_the_known_mean_and_deviation(strength, levels, rng):
    """Data N(m, s^2) and the exact predictor make every DDIM step affine, so the whole is: mean and noise come out known."""
    m, s, schedule = 0.4, 0.7, schedules.cosine(100)
    grid = spaced(schedule, 10)
    start, noise = rng.standard_normal((2, 3, 2, 2, 1))
    a = grid.alpha_bar
    gain = 1.0
    for t in range(levels, 0, -1):
        of_x_0, of_eps = a[t] ** 0.5 * s**2, (1 - a[t]) ** 0.5
        gain *= (a[t - 1] ** 0.5 * of_x_0 + (1 - a[t - 1]) ** 0.5 * of_eps) / (a[t] * s**2 + 1 - a[t])
    expected = m + gain * (a[levels] ** 0.5 * (start - m) + (1 - a[levels]) ** 0.5 * noise)

    class Tape:
        def standard_normal(self, shape):
            return noise

    how = {"steps": 10, "sampler": "ddim", "start": start, "strength": strength}
    drawn = sd.walk(gaussian("x_0", m, s, schedule), Bare(), start.shape, schedule, rng=Tape(), **how)
    np.testing.assert_allclose(drawn, expected, atol=TINY_ROUNDING)


def test_sdedit_strength_1_asks_at_every_level_and_less_at_fewer(system, data):
    x, seen = frozen(data.scale(data.test.images[:2])), []
    for strength, asked in ((1.0, 5), (0.6, 3), (0.01, 1)):
        seen.clear()
        y = sd.draw(
            system,
            PROMPTS,
            rng=np.random.default_rng(0),
            start=x,
            strength=strength,
            steps=5,
            callback=lambda t, x_t: seen.append((t, x_t.shape)),
        )
        assert y.shape == x.shape and len(seen) == asked + 1
        assert {shape for _, shape in seen} == {(2, 32, 32, 3)}, "states are shown as pictures"
        assert [t for t, _ in seen] == [4 * k for k in range(asked, -1, -1)]


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, np.nan])
def test_sdedit_strength_is_above_0_and_at_most_1(system, data, strength):
    with pytest.raises(ValueError, match="strength must be above 0, which is the picture itself, and at most 1, got"):
        sd.draw(
            system, PROMPTS[:1], rng=np.random.default_rng(0), start=data.scale(data.test.images[:1]), strength=strength
        )


def test_settings_that_a_use_does_not_have_are_refused(system, data):
    with pytest.raises(ValueError, match=r"drawing from noise has no strength: leave it out, got 0\.5"):
        system.sample(1, rng=np.random.default_rng(0), prompt="", strength=0.5)
    x, keep = data.scale(data.test.images[:1])[0], np.ones((32, 32, 1), bool)
    for image, mask, settings, said in (
        (x, keep, {"strength": 9.0}, "painting has no strength: leave it out, got 9.0"),
        (None, None, {"upscale": x, "strength": 9.0}, "--upscale has no strength"),
        (None, None, {"upscale": x, "guidance": float("nan")}, "--upscale has no guidance: leave it out, got nan"),
        (None, None, {"upscale": x, "negative": "a circle"}, "--upscale has no negative"),
    ):
        with pytest.raises(ValueError, match=said):
            system.edit(image, mask, n=1, rng=np.random.default_rng(0), **settings)


def test_a_walk_keeps_to_the_bound_of_its_codec_whatever_else_limits_it():
    for limit in (None, lambda z: z):
        y = sd.walk(
            lambda x_t, t, cond=None: np.full_like(x_t, 3.0),
            sd.Identity(),
            (1, 2, 2, 1),
            schedules.cosine(10),
            steps=3,
            rng=np.random.default_rng(0),
            limit=limit,
        )
        assert y.max() == 1.0


# --- painting ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.sampled_from([2, 4, 8]))
def test_inpainting_a_place_is_kept_if_all_of_its_pixels_are(seed, f):
    keep = (np.random.default_rng(seed).random((3, 16, 16, 1)) < 0.9).astype(np.float32)
    found = kept_places(keep, f)
    for i in range(16 // f):
        for j in range(16 // f):
            whole = keep[:, f * i : f * (i + 1), f * j : f * (j + 1)].all((1, 2, 3))
            np.testing.assert_array_equal(found[:, i, j, 0] == 1, whole)


def test_inpainting_the_codec_never_sees_what_is_in_the_hole(system, data, rng):
    x, codec = data.scale(data.test.images[:2]), sd.codec_of(system)
    keep = np.ones((1, 32, 32, 1), np.float32)
    keep[:, :18, 5:19] = 0
    hidden = np.where(keep == 1, x, np.nan).astype(np.float32)
    found = sd.known_places(codec, hidden, keep)
    np.testing.assert_array_equal(found, sd.known_places(codec, x, keep))
    assert found.shape == (2, 8, 8, 5) and (found[:, :5, 1:5] == 0).all() and (found[:, 5:, :, 4] == 1).all()
    np.testing.assert_array_equal(found[:, 5:, :, :4], codec.encode(np.where(keep == 1, x, 0))[:, 5:])


@pytest.mark.parametrize(
    "how", [{}, {"sampler": "ancestral", "guidance": 3.0}, {"sampler": "plms", "negative": PROMPTS[1]}]
)
@pytest.mark.parametrize("taught", [True, False])
def test_inpainting_leaves_known_pixels_as_they_are_bit_for_bit(system, data, how, taught):
    if not taught:
        system = dataclasses.replace(system, config=dataclasses.replace(TINY, beside_steps=0))
    x, rng = frozen(data.scale(data.test.images[:2])), np.random.default_rng(0)
    keep = frozen(glide.random_masks(2, 32, rng=rng, nothing=0.0))
    y = sd.draw(system, PROMPTS, rng=np.random.default_rng(1), image=x, keep=keep, **how)
    kept = np.broadcast_to(keep == 1, x.shape)
    np.testing.assert_array_equal(y[kept], x[kept])
    assert abs(y[~kept] - x[~kept]).max() > 0.1
    whole = sd.draw(system, PROMPTS, rng=np.random.default_rng(1), image=x, keep=np.ones((1, 32, 32, 1)), **how)
    np.testing.assert_array_equal(whole, x)
    free = sd.draw(system, PROMPTS, rng=np.random.default_rng(1), image=x, keep=np.zeros((1, 32, 32, 1)), **how)
    np.testing.assert_array_equal(free, sd.draw(system, PROMPTS, rng=np.random.default_rng(1), **how))


def test_inpainting_without_its_fine_tuning_puts_the_guess_right(system, data, monkeypatch):
    """The map that is decoded holds the known places as the codec reads them, and the network is shown nothing of them."""
    shown, forward = [], TextUNet.forward
    monkeypatch.setattr(TextUNet, "forward", lambda *a, **how: (shown.append(a[6]), forward(*a, **how))[1])
    plain = dataclasses.replace(system, config=dataclasses.replace(TINY, beside_steps=0))
    x, keep, seen = data.scale(data.test.images[:2]), np.ones((1, 32, 32, 1), np.float32), []
    keep[:, :16] = 0
    codec = sd.codec_of(system)
    sd.draw(plain, PROMPTS, rng=np.random.default_rng(0), image=x, keep=keep, callback=lambda t, x_t: seen.append(x_t))
    known = sd.known_places(codec, x, keep)
    assert shown and all(beside is None for beside in shown)
    lower = codec.decode(known[..., :4])[:, 24:]  # far from the hole, which the decoder sees a little of
    assert abs(seen[-1][:, 24:] - lower).max() < abs(seen[0][:, 24:] - lower).max()


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_layout_is_the_share_of_each_place_in_a_box():
    found = sd.layout_map([[(1, 2, 6, 0, 4), (3, 0, 8, 7, 8)], []], 8, 4)
    assert found.shape == (2, 2, 2, sd.LAYOUT) and (found[..., -1] == 1).all()
    np.testing.assert_allclose(found[0, ..., 1], [[0.5, 0], [0.5, 0]])
    np.testing.assert_allclose(found[0, ..., 3], [[0, 0.25], [0, 0.25]])
    assert found[0, ..., [0, 2, 4]].sum() == 0 and found[1, ..., :-1].sum() == 0


@given(st.integers(0, 500), st.sampled_from([1, 2, 4, 8]))
def test_layout_of_a_scene_has_the_area_of_its_boxes_where_things_are(i, f):
    scenes = shapes.scenes("test")[i : i + 1]
    (boxes,) = sd.boxes_of(scenes)
    assert len(boxes) == scenes.number[0]
    found = sd.layout_map([boxes], 32, f)[0, ..., :-1]
    area = sum((b - t) * (r - le) for _, t, b, le, r in boxes)
    assert found.sum() * f * f == pytest.approx(area, rel=1e-5)
    things = abs(shapes.render(scenes).astype(int) - shapes.render(scenes)[:, :1, :1]).max(-1)[0] > 60
    inside = sd.layout_map([boxes], 32, 1)[0, ..., :-1].max(-1) > 0
    assert not (things & ~inside).any(), "no pixel of a thing is outside its box"


def test_layout_in_words():
    assert sd.parse_layout("circle 4:20,5:21;ring 18:30, 0:32", 32) == [(0, 4, 20, 5, 21), (4, 18, 30, 0, 32)]
    assert SHAPES[4] == "ring"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "layout must be like"),
        ("blob 4:20,4:20", "layout must be like 'circle 4:20,4:20; ring 18:30,16:28', of circle, square"),
        ("circle 4:20", "layout must be like"),
        ("circle a:20,4:20", "layout must be like"),
        (f"circle {'9' * 5000}:20,4:20", "layout must be like"),
        ("circle 4:20,4:20;", "layout must be like"),
        ("circle 20:4,4:20", "rows and columns that rise within 0:32, got 'circle 20:4,4:20'"),
        ("ring 4:20,4:33", "rows and columns that rise within 0:32"),
    ],
)
def test_layout_in_words_that_make_none(text, said):
    with pytest.raises(ValueError, match=said):
        sd.parse_layout(text, 32)


def test_layout_reaches_the_picture_and_no_layout_is_told_from_an_empty_one(system):
    layouts = [None, [[], []], [sd.parse_layout("circle 4:20,4:20", 32)] * 2]
    a, b, c = (sd.draw(system, PROMPTS, rng=np.random.default_rng(0), layouts=some) for some in layouts)
    assert min(abs(a - b).max(), abs(b - c).max()) > 1e-4
    by_flag = system.paint(PROMPTS, rng=np.random.default_rng(0), layout="circle 4:20,4:20")
    np.testing.assert_array_equal(by_flag, c)


def test_guidance_leads_away_from_no_layout_as_from_no_words(system):
    """s = 0 is the draw that is told neither, whatever the layout; what is kept of a picture stays in both."""

    def drawn(**how):
        return sd.draw(system, PROMPTS, rng=np.random.default_rng(0), guidance=0.0, **how)

    layouts = [[sd.parse_layout(text, 32)] * 2 for text in ("circle 4:20,4:20", "ring 10:30,8:30")]
    bare = sd.draw(system, ["", ""], rng=np.random.default_rng(0), guidance=1.0)
    for layout in layouts:
        np.testing.assert_allclose(drawn(layouts=layout), bare, atol=1e-4)
    image, keep = np.zeros((2, 32, 32, 3), np.float32), np.zeros((2, 32, 32, 1), np.float32)
    keep[:, :16] = 1
    holes = [drawn(layouts=layout, image=image, keep=keep) for layout in layouts]
    np.testing.assert_allclose(*holes, atol=1e-4)
    assert abs(np.where(keep == 1, 0, holes[0] - bare)).max() > 1e-3


# --- the up-scaler ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("f", "folded"), [(2, 1), (4, 2), (8, 4)])
def test_upscaler_shows_each_place_the_pixels_that_it_covers(f, folded, rng):
    net = latent_upscaler.Upscaler(3, 4, side=32, f=f, c_text=6, base=8, rng=rng)
    assert net.fold == folded
    seen = []
    net.unet.forward = lambda shown, *told: seen.append(shown)
    low = rng.standard_normal((1, 32, 32, 3)).astype(np.float32)
    z = rng.standard_normal((1, 64 // f, 64 // f, 4)).astype(np.float32)
    net(z, np.array([1]), (np.zeros((1, 6), np.float32), None, None), low, np.array([0]))
    np.testing.assert_array_equal(seen[0][..., :4], z)
    place = seen[0][0, 1, 2, 4:].reshape(folded, folded, 3)
    np.testing.assert_array_equal(place, low[0, folded : 2 * folded, 2 * folded : 3 * folded])


def test_upscaler_tells_the_level_that_the_small_picture_has(rng):
    schedule, told = schedules.cosine(200), []

    def net(z_t, t, said, low, level):
        told.append((low, level))
        return np.zeros_like(z_t)

    low = np.full((500, 2, 2, 3), 0.5, np.float32)

    class Map(Identity):
        def shape(self, picture):
            return picture

    latent_upscaler.upscale(net, Map(), low, None, schedule, rng=rng, steps=2)
    shown, level = told[0]
    assert (level == latent_upscaler.USED * 200).all()
    a = schedule.alpha_bar[level[0]]
    z = (shown - a**0.5 * 0.5) / (1 - a) ** 0.5
    assert abs(z.std() - 1) < 6 / np.sqrt(2 * z.size)


@pytest.mark.parametrize("output", ["v", "eps"])
def test_upscaler_is_taken_for_what_it_predicts(output, data):
    config = dataclasses.replace(TINY, output=output)
    system, x = sd.build(config, data, seed=0), data.scale(data.test.images[:2])
    net, said = shaken(system.modules["upscaler"], 0), glide.read(clip.Embedder(system.modules["clip"]), PROMPTS)[:3]
    found = sd.enlarged(system, x, PROMPTS, rng=np.random.default_rng(0))
    by_kind = {
        kind: latent_upscaler.upscale(
            net, sd.codec_of(system), x, said, sd.schedule_of(config), rng=np.random.default_rng(0), kind=kind
        )
        for kind in (output, "x_0")
    }
    np.testing.assert_array_equal(found, by_kind[output])
    assert abs(found - by_kind["x_0"]).max() > 1e-3


# --- a run ------------------------------------------------------------------------------------------------------------


def test_sd_stages_come_in_order_and_maps_are_measured_before_the_first_step_in_them(run):
    _, stages, z = run
    names = ["clip", "codec", "adversarial", "diffusion", "beside", "upscaler"]
    assert [name for name, _, _ in stages] == [name for name in names for _ in range(2)]
    for i, (name, before, after) in enumerate(stages):
        if names.index(name) < 3:
            assert (after == 1).all()
        else:
            assert (before != after).any() == (i == 6), "once, when diffusion begins"
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1, atol=1e-3)


def test_sd_trains_no_clip_where_one_is_given_and_no_codec_where_there_is_none(data):
    assert sd.REUSES_CLIP
    found = sd.build(dataclasses.replace(TINY, clip_steps=0, adversarial_steps=0), data, seed=0)
    assert [s.name for s in found.stages()] == ["codec", "diffusion", "beside", "upscaler"]
    config = dataclasses.replace(TINY, codec="identity", patch=4, beside_steps=0, upscale_steps=0)
    found = sd.build(config, data, seed=0)
    assert [s.name for s in found.stages()] == ["clip", "diffusion"] and list(found.modules) == ["clip", "unet"]


def test_sd_frozen_parts_stay_as_they_are_through_the_later_stages(data, monkeypatch):
    monkeypatch.setattr(latent_codec, "MEASURED", 64)
    found = sd.build(dataclasses.replace(TINY, adversarial_steps=0), data, seed=0)
    trainer = Trainer(found, seed=0)
    while trainer.done < 4:
        trainer.advance(data.train)
    trainer.advance(data.train)  # hands over, and measures the maps
    kept = {name: {k: a.copy() for k, a in found.modules[name].arrays().items()} for name in ("clip", "codec")}
    beside = found.modules["unet"].unet.conv_beside.w.data
    assert not beside.any()
    while trainer.done < trainer.total:
        trainer.advance(data.train)
    for name, arrays in kept.items():
        for k, a in found.modules[name].arrays().items():
            np.testing.assert_array_equal(a, arrays[k])
    assert beside.any()


def test_sd_nothing_of_the_last_prompt_is_kept(system):
    first = system.paint(PROMPTS, rng=np.random.default_rng(4))
    system.paint(PROMPTS[::-1], rng=np.random.default_rng(5))
    np.testing.assert_array_equal(first, system.paint(PROMPTS, rng=np.random.default_rng(4)))


class OwnDDIM:
    """DDIM with eta 0 on the levels that ours visits, as somebody's own sampler."""

    space, kinds = "vp", ("x_0",)
    claims: ClassVar[dict[str, Any]] = {}

    def levels(self, n):
        kept = spaced(schedules.cosine(TINY.T), n).alpha_bar.tolist()
        return [(float(k), kept[k] ** 0.5, (1 - kept[k]) ** 0.5) for k in range(n, -1, -1)]

    def sample(self, model, x, n, noise):
        for (t, a, s), (_, b, r) in pairwise(self.levels(n)):
            x_0 = model(x, t)
            x = b * x_0 + r * (x - a * x_0) / s
        return x


def test_sd_ones_own_sampler_draws_in_the_maps_and_paints_but_begins_with_noise(system, data):
    own, how = as_sampler(OwnDDIM()), {"steps": 5, "guidance": 1.5}
    got, want = (system.paint(PROMPTS, rng=np.random.default_rng(0), sampler=s, **how) for s in (own, "ddim"))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    image, keep = data.scale(data.test.images[:1])[0], np.ones((32, 32, 1), bool)
    keep[:18, :18] = False
    rng = np.random.default_rng(0)
    painted = system.edit(image, keep, n=2, rng=rng, prompt=PROMPTS[0], sampler=own, **how)
    np.testing.assert_array_equal(painted[:, 18:], np.stack([image, image])[:, 18:])
    with pytest.raises(ValueError, match="a sampler of your own begins with noise"):
        system.edit(None, None, n=2, rng=rng, img2img=image, sampler=own)


def test_sd_sample_edit_notes_and_pictures(system, data):
    some = system.sample(3, rng=np.random.default_rng(0), steps=2, sampler="ddim")
    assert some.shape == (3, 32, 32, 3) and abs(some).max() <= 1
    assert [note.split("\n")[0] for note in system.notes(some)] == sd.prompts_for(3)
    assert system.sample(2, rng=np.random.default_rng(0), size=64).shape == (2, 64, 64, 3)
    image = data.scale(data.test.images[:1])[0]
    keep = np.ones((32, 32, 1), bool)
    keep[:18, :18] = False

    def edit(image=None, keep=None, **changes):
        settings = dataclasses.asdict(sd.Editing(prompt=PROMPTS[0])) | changes
        return system.edit(image, keep, n=2, rng=np.random.default_rng(0), **settings)

    painted = edit(image, keep)
    np.testing.assert_array_equal(painted[:, 18:], np.stack([image, image])[:, 18:])
    assert abs(painted[0] - painted[1]).max() > 1e-3
    assert edit(img2img=image, strength=0.4).shape == (2, 32, 32, 3)
    large = edit(upscale=image)
    assert large.shape == (2, 64, 64, 3)
    assert system.notes_of_edits(large, image=None, **dataclasses.asdict(sd.Editing(prompt=PROMPTS[0])))[0].startswith(
        PROMPTS[0]
    )
    assert set(system.pictures) == set(sd.PICTURES)
    found = {name: picture(data.test, rng=np.random.default_rng(0)).shape for name, picture in system.pictures.items()}
    assert found == {
        "codec": (2, 12, 32, 32, 3),
        "strengths": (6, 6, 32, 32, 3),
        "paintings": (6, 6, 32, 32, 3),
        "layouts": (6, 6, 32, 32, 3),
        "upscaled": (6, 2, 64, 64, 3),
    }


@pytest.mark.parametrize("name", ["strengths", "paintings"])
def test_pictures_of_edits_ask_for_what_the_rng_says(name, data):
    def draw(prompts, *, rng, **settings):
        asked.extend(prompts)
        return np.zeros((len(prompts), 32, 32, 3), np.float32)

    uses, said = latent_figures.Uses(Identity(), draw, draw, False, False), []
    for seed in (0, 0, 1):
        asked = []
        latent_figures.pictures(uses, data)[name](data.test, rng=np.random.default_rng(seed))
        said.append(asked)
    assert said[0] == said[1] != said[2]


def test_picture_of_layouts_shows_its_boxes_from_black_to_white(data):
    """Before what is drawn for them: black is outside of all boxes, and each shape has a grey of its own."""
    uses = latent_figures.Uses(
        Identity(), lambda prompts, **how: np.zeros((6, 32, 32, 3), np.float32), None, True, False
    )
    rows = latent_figures.pictures(uses, data)["layouts"](data.test, rng=np.random.default_rng(0))
    assert rows.shape == (6, 6, 32, 32, 3) and (rows[:, 1:] == 0).all()
    inside = sd.layout_map(sd.boxes_of(data.test.take(slice(0, 6)).scenes), 32, 1)
    want = np.zeros((6, 32, 32))
    for k in range(len(SHAPES)):
        want = np.maximum(want, inside[..., k] * (k + 1) / len(SHAPES))
    np.testing.assert_allclose(rows[:, 0], 2 * want[..., None].repeat(3, 3) - 1, atol=1e-6)


def test_figures_are_shares_of_the_pictures_that_are_right(data, monkeypatch):
    """Of an artist that draws what is asked for, but leaves a different number of pictures black in each use."""
    monkeypatch.setattr(latent_figures, "SHOWN", n := 5)
    test, strengths = data.test.take(slice(0, n)), []

    def drawn(prompts, black, size=32):
        said = [parse(prompt) for prompt in prompts]
        scenes = [dataclasses.replace(scene, background=scene.background or "black") for scene in said]
        x = data.scale(shapes.render(shapes.arrange(scenes, rng=np.random.default_rng(0)), size))
        x[:black] = -1
        return x

    def draw(prompts, *, rng, image=None, keep=None, start=None, strength=1.0, layouts=None):
        if start is not None:
            strengths.append(strength)
            return drawn(prompts, 1 if strength < 0.5 else 0)
        if keep is not None:
            x = drawn(prompts, 3)
            return np.where(keep > 0, x.clip(image - 0.25, image + 0.25), x)
        assert layouts == sd.boxes_of(test.scenes)
        x = data.scale(test.images)
        x[: 3 if prompts[0] == "" else 4] = -1
        return x

    def enlarge(x, prompts, *, rng):
        np.testing.assert_array_equal(x, data.scale(test.images))
        return x.repeat(2, 1).repeat(2, 2) * (np.arange(n) > 0)[:, None, None, None]

    def paint(prompts, size=32):
        return drawn(prompts, 4 if size == 64 else 2, size)

    class Halves(Identity):
        """A codec that keeps every second picture."""

        def decode(self, z):
            return z * (np.arange(len(z)) % 2)[:, None, None, None]

    uses = latent_figures.Uses(Halves(), draw, enlarge, True, True)
    found = latent_figures.figures(uses, paint, data, rng=np.random.default_rng(0))
    groups = [f"prompts met, {group}" for group in latent_figures.GROUPS]
    assert found == {
        "pictures right after the codec": 0.5,
        **dict.fromkeys(groups, 0.6),
        "holes painted as asked": 0.4,
        "largest change of a known pixel": 0.25,
        "img2img as asked, strength 0.4": 0.8,
        "img2img as asked, strength 0.8": 1.0,
        "layouts met without words": 0.4,
        "layouts met with captions": 0.2,
        "prompts met with layouts": 0.2,
        "prompts met, seen, one thing, at twice the size": 0.2,
        "test pictures right after the up-scaler, without words": 0.8,
    }
    assert strengths == [0.4, 0.8]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codec": "jpeg"}, "codec must be 'kl', 'vq' or 'identity', got 'jpeg'"),
        ({"factor": 16}, "factor must be one of 2, 4, 8, got 16"),
        ({"codec_steps": 0}, "steps must be at least 1"),
        ({"output": "noise"}, "output must be 'x_0', 'v' or 'eps', got 'noise'"),
        ({"output": "score"}, "output must be 'x_0', 'v' or 'eps', got 'score'"),
        ({"base": 0}, "base must be at least 1"),
        ({"p_uncond": 1.0}, "p_uncond must be a share"),
        ({"p_uncond": 0.0}, "p_uncond must be a share above 0 and below 1, got 0.0"),
        ({"output": "eps", "T": 12}, "T must be above 12 where the output is 'eps', got 12"),
        ({"most": 0.5}, "most must be at least 1"),
        ({"clip_steps": -1}, "clip_steps must be at least 0"),
        ({"codec": "identity"}, "the codec 'identity' has no up-scaler"),
        ({"attention": (4,)}, "attention must name levels"),
        ({"multipliers": (1, 1, 1, 1, 1)}, "size must be a multiple of 16"),
    ],
)
def test_sd_settings_that_do_not_fit(data, change, said):
    with pytest.raises(ValueError, match=said):
        sd.build(dataclasses.replace(TINY, **change), data, seed=0)


def test_sd_bad_requests(system, data):
    x, rng = data.scale(data.test.images[:1])[0], np.random.default_rng(0)
    settings = dataclasses.asdict(sd.Editing())

    def edit(image=None, keep=None, **changes):
        return system.edit(image, keep, n=1, rng=rng, **(settings | changes))

    with pytest.raises(ValueError, match="painting needs a mask, which says where"):
        edit(x)
    with pytest.raises(ValueError, match="give one picture: IMAGE with --mask, or --img2img, or --upscale"):
        edit(x, np.ones((32, 32, 1)), img2img=x)
    with pytest.raises(ValueError, match="give one picture"):
        edit()
    with pytest.raises(ValueError, match="a mask goes with IMAGE"):
        edit(None, np.ones((32, 32, 1)), img2img=x)
    with pytest.raises(ValueError, match="pictures must have the shape"):
        edit(img2img=x[:16])
    with pytest.raises(ValueError, match="mask must have the size"):
        edit(x, np.ones((9, 32, 1)))
    with pytest.raises(ValueError, match="size must be one of 32, 64 with these weights, got 48"):
        system.paint(PROMPTS, rng=rng, size=48)
    with pytest.raises(ValueError, match="steps must be from 1 to 20"):
        system.paint(PROMPTS, rng=rng, steps=21)
    with pytest.raises(ValueError, match="words that this language does not have"):
        system.paint(["a mauve dodecahedron"], rng=rng)


def test_sd_says_what_these_weights_have_not_learnt(pixels, data):
    plain = dataclasses.replace(pixels, config=dataclasses.replace(pixels.config, beside_steps=0))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="trained without beside_steps: it knows no layouts"):
        sd.draw(plain, PROMPTS, rng=rng, layouts=[[], []])
    with pytest.raises(ValueError, match="trained without upscale_steps: it draws at one size"):
        settings = dataclasses.asdict(sd.Editing(upscale=data.scale(data.test.images[:1])[0]))
        pixels.edit(None, None, n=1, rng=rng, **settings)
    with pytest.raises(ValueError, match="size must be one of 32 with these weights, got 64"):
        pixels.paint(PROMPTS, rng=rng, size=64)


def test_sd_draws_what_captions_say_and_no_other_data():
    with pytest.raises(ValueError, match="data set 'shapes', and 'digits' has none"):
        sd.build(TINY, load("digits"), seed=0)
