"""DALL-E 2 as a whole: the two factors, the stages in order and resumed at each, the uses, and every mistake as one sentence."""

import dataclasses
import itertools

import numpy as np
import pytest
from systems import shaken

import autograd as ag
from minigen.data import Dataset, load, shapes
from minigen.data.captions import Scene, Thing, parse
from minigen.data.oracle import read as read_pictures
from minigen.data.shapes import held_out
from minigen.maths.diffusion import q_sample
from minigen.models import clip, dalle2, dalle2_decoder, dalle2_stages, dalle2_upsampler, glide
from minigen.models import dalle2_edits as edits
from minigen.train.loop import Trainer

TINY = dalle2.Config(
    T=20, sample_steps=3, prior_sample_steps=3, clip_steps=2, channels=8, layers=1, heads=2, prior_steps=2, dims=4,
    buckets=5, dots=4, ar_steps=2, base=8, steps=2, batch_size=4, paint_steps=2, upsample=2, upsample_steps=2,
    upsample_batch=2,
)  # fmt: skip
STAGES = ["clip", "prior", "ar_prior", "decoder", "paint", "upsampler_64", "upsampler_128"]
PROMPTS = ["a small red circle in the middle", "a large blue ring above a small cyan cross on a gray background"]


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("shapes")


@pytest.fixture(scope="module", autouse=True)
def small():
    """Fewer levels, pictures and embeddings than a trained system takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dalle2_stages, "FITTED", 32)
        for name, value in {"LEVELS": 4, "SHOWN": 4, "PATH": 3}.items():
            patch.setattr(edits, name, value)
        yield


@pytest.fixture(scope="module")
def run(data):
    """A system that has done its few steps, the names of the stages it went through, and CLIP's weights after its stage."""
    system = dalle2.build(TINY, data, seed=0)
    trainer, names, frozen_clip = Trainer(system, seed=0), [], []
    for _ in range(trainer.total):
        trainer.advance(data.train)
        names.append(trainer.stage.name)
        if trainer.stage.name != "clip":
            frozen_clip.append(system.modules["clip"].flat.copy())
    for i, net in enumerate(system.modules.values()):
        if i:
            shaken(net, i)
    return system, names, frozen_clip


@pytest.fixture(scope="module")
def system(run):
    return run[0]


def chain_of(system):
    return system.paint.__self__


# --- eq. 1 ------------------------------------------------------------------------------------------------------------


def test_unclip_eq1_prior_and_decoder_together_are_the_distribution_of_pictures():
    """A world of 2 texts, 3 embeddings and 4 pictures: over a grid of all pairs of uniform numbers the draws are exact."""
    k = 12  # all probabilities are multiples of 1 / 12
    p_z = np.array([[3, 9, 0], [4, 4, 4]]) / k  # p(z | y)
    p_x = np.array([[[12, 0, 0, 0], [3, 3, 3, 3], [0, 6, 6, 0]], [[0, 12, 0, 0], [6, 0, 0, 6], [1, 2, 3, 6]]]) / k
    grid = (np.arange(k) + 0.5) / k

    class Tape:
        def __init__(self, *u):
            self.u = list(u)

        def random(self, n):
            return np.full(n, self.u.pop(0))

    def pick(p, u):
        return (np.cumsum(p, -1) <= u[:, None] + 1e-9).sum(-1)

    def prior(y, *, rng):
        return pick(p_z[y], rng.random(len(y)))

    def decoder(z, y, *, rng):
        return pick(p_x[y, z], rng.random(len(y)))

    y, count = np.array([0, 1]), np.zeros((2, 4))
    for u, v in itertools.product(grid, grid):
        x = dalle2.unclip(prior, decoder, y, rng=Tape(u, v))
        count[y, x] += 1
    np.testing.assert_allclose(count / k**2, np.einsum("yz,yzx->yx", p_z, p_x), atol=1e-12)


def test_unclip_eq1_decoder_is_told_the_embedding_that_was_drawn_for_the_same_prompt(system, monkeypatch):
    chain, seen = chain_of(system), {}

    def embeddings(self, prompts, *, rng, prior, guidance):
        seen["prior"] = list(prompts)
        return np.stack([np.full(128, len(prompt)) for prompt in prompts])

    def decode(self, z, prompts, *, rng, **how):
        seen["decoder"] = list(prompts)
        assert [int(row[0]) for row in z] == [len(prompt) for prompt in prompts]
        return np.zeros((len(z), 32, 32, 3), np.float32)

    monkeypatch.setattr(dalle2.Chain, "embeddings", embeddings)
    monkeypatch.setattr(dalle2.Chain, "decode", decode)
    chain.paint([*PROMPTS, "a circle"], rng=np.random.default_rng(0))
    assert seen["prior"] == seen["decoder"] and seen["prior"][:2] == PROMPTS
    assert parse(seen["prior"][2]).things[0].colour is not None, "what it leaves open is drawn once, for both"


def test_unclip_without_the_prior(system):
    """ "text" is the prompt's own vector, "none" no embedding at all; priors draw vectors of length 1."""
    chain, rng = chain_of(system), np.random.default_rng(0)
    np.testing.assert_allclose(
        chain.embeddings(PROMPTS, rng=rng, prior="text"), chain.text.encode_text(PROMPTS), atol=1e-6
    )
    assert not chain.embeddings(PROMPTS, rng=rng, prior="none").any()
    for prior in ("diffusion", "autoregressive"):
        z = chain.embeddings(PROMPTS, rng=rng, prior=prior)
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
        again = chain.embeddings(PROMPTS, rng=rng, prior=prior, guidance=3.0)
        assert abs(again - z).max() > 1e-4
    with pytest.raises(ValueError, match="prior must be 'diffusion'"):
        chain.embeddings(PROMPTS, rng=rng, prior="both")


# --- training ---------------------------------------------------------------------------------------------------------


def test_unclip_trains_its_stages_in_order_and_leaves_clip_alone(run):
    system, names, frozen_clip = run
    assert names == [name for name in STAGES for _ in range(2)]
    assert list(system.modules) == ["clip", "prior", "ar_prior", "decoder", "upsampler_64", "upsampler_128"]
    for flat in frozen_clip[1:]:
        np.testing.assert_array_equal(flat, frozen_clip[0])


def test_unclip_ar_prior_takes_its_axes_at_the_first_step_and_keeps_them(data):
    system = dalle2.build(dataclasses.replace(TINY, upsample=0), data, seed=0)
    trainer, net = Trainer(system, seed=0), system.modules["ar_prior"]
    trainer.enter([stage.name for stage in trainer.stages].index("ar_prior"))
    assert not net.axes.any() and not net.cuts.any()
    trainer.advance(data.train)
    axes, cuts = net.axes.copy(), net.cuts.copy()
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-5)
    assert (net.high > net.low).all() and (np.diff(cuts) >= 0).all() and cuts.any()
    trainer.advance(data.train)
    np.testing.assert_array_equal(net.axes, axes)


def test_unclip_painting_is_learned_at_half_the_rate(data):
    rate = {stage.name: stage.lr for stage in dalle2.build(TINY, data, seed=0).stages()}
    assert rate["paint"] == rate["decoder"] / 2


def test_unclip_resumes_at_any_stage_with_the_same_bits(data):
    config = dataclasses.replace(TINY, upsample=1)
    whole = Trainer(dalle2.build(config, data, seed=0), seed=0)
    kept = []
    for _ in range(whole.total):
        kept.append((whole.position, {name: np.array(a) for name, a in whole.arrays().items()}))
        whole.advance(data.train)
    for position, arrays in kept[1::3]:  # within stages and between them
        again = Trainer(dalle2.build(config, data, seed=5), seed=0)
        again.load(position, lambda expected, arrays=arrays: {name: arrays[name] for name in expected})
        again.advance(data.train)
        later = next((a for p, a in kept if p == again.position), None)
        assert later is not None or again.done == whole.total
        for name, array in again.arrays().items():
            np.testing.assert_array_equal(array, (later or whole.arrays())[name], err_msg=f"{position} {name}")


def test_unclip_captions_that_are_left_out_take_the_product_with_them(data, monkeypatch):
    """Of the autoregressive prior's batch, rows without a caption are told the null prompt's words and vector, and no product."""
    system, seen = dalle2.build(dataclasses.replace(TINY, no_caption=0.5), data, seed=0), {}
    net, logits = system.modules["ar_prior"], dalle2.ARPrior.logits

    def watched(self, tokens, said, dot):
        seen.update(said=said, dot=dot)
        return logits(self, tokens, said, dot)

    monkeypatch.setattr(dalle2.ARPrior, "logits", watched)
    (loss,) = (stage.objectives[0].loss for stage in system.stages() if stage.name == "ar_prior")
    batch = data.train.take(slice(0, 24))
    loss(batch, np.random.default_rng(0), 0)
    left_out = seen["said"].mask.sum(1) == 1  # <eos> alone
    assert 0 < left_out.sum() < 24
    np.testing.assert_array_equal(seen["dot"] == net.dots, left_out)
    null = dalle2.dalle2_prior.read(chain_of(system).text, [""])
    np.testing.assert_allclose(seen["said"].z[left_out], null.z.repeat(left_out.sum(), 0), atol=1e-6)


def test_unclip_decoder_is_told_less_now_and_then(data, monkeypatch):
    """Embeddings and captions are left out of the decoder's batch apart from each other, in shares of 0.1 and 0.5."""
    system, seen = dalle2.build(TINY, data, seed=0), []
    net = dalle2.Decoder.__call__

    def watched(self, x_t, t, told):
        seen.append((np.linalg.norm(told.z, axis=1) == 0, told.text.mask.sum(1) == 1))
        return net(self, x_t, t, told)

    monkeypatch.setattr(dalle2.Decoder, "__call__", watched)
    (loss,) = (stage.objectives[0].loss for stage in system.stages() if stage.name == "decoder")
    for k in range(4):
        loss(data.train.take(slice(100 * k, 100 * k + 100)), np.random.default_rng(k), k)
    no_image, no_text = (np.concatenate(part) for part in zip(*seen))
    n, both = len(no_image), (no_image & no_text).mean()
    for found, share in ((no_image.mean(), 0.1), (no_text.mean(), 0.5), (both, 0.05)):
        assert abs(found - share) < 5 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize("name", ["prior", "decoder", "paint", "upsampler_64", "upsampler_128"])
def test_unclip_training_is_the_loss_of_what_each_network_is_told_of_its_own_picture(name, data):
    """Each stage's loss from its parts, with the draws of the same rng; each part of another row gives another value."""
    config = dataclasses.replace(TINY, no_caption=0.5, no_image=0.5)
    system = dalle2.build(config, data, seed=0)
    for i, net in enumerate(system.modules.values()):
        shaken(net, i)
    (loss,) = (stage.objectives[0].loss for stage in system.stages() if stage.name == name)
    b, chain, n = data.train.take(slice(0, 8)), chain_of(system), 8
    got = float(loss(b, np.random.default_rng(0), 1)[0])

    rng, schedule, x_0 = np.random.default_rng(0), chain.schedule, data.scale(b.images)
    z = chain.text.encode_image(x_0)
    if name.startswith("upsampler"):
        size = int(name.partition("_")[2])
        x_0, low = (data.scale(shapes.render(b.scenes, s)) for s in (size, size // 2))
        spoilt = {64: dalle2_upsampler.softened, 128: dalle2_upsampler.degraded}[size](low, rng=rng)
        x_0, spoilt = dalle2_upsampler.cropped(x_0, spoilt, rng=rng)
        told = {"low": spoilt}
    else:
        no_image = rng.random(n) < 0.5 if name != "prior" else np.zeros(n, bool)
        no_text = rng.random(n) < 0.5
        assert all(2 < left_out.sum() < 6 for left_out in ([no_text] if name == "prior" else [no_image, no_text]))
        said = dalle2.dalle2_prior.read(
            chain.text, ["" if out else text for out, text in zip(no_text, b.captions, strict=True)]
        )
        told = {"words": said}
        if name == "prior":
            x_0 = 128**0.5 * z
        else:
            told["z"], schedule = np.where(no_image[:, None], 0, z), chain.of_pixels
        if name == "paint":
            told["keep"] = glide.random_masks(n, 32, rng=rng)
    t = rng.integers(1, config.T + 1, n)
    x_t = q_sample(x_0, t, rng.standard_normal(x_0.shape).astype(np.float32), schedule)

    def by_hand(words=None, z=None, keep=None, low=None):
        with ag.no_grad():
            if name == "prior":
                return float(np.square(ag.raw(chain.prior(x_t, t, words)) - x_0).mean())
            if low is not None:
                guess = chain.upsamplers[size](x_t, t, low)
            else:
                beside = None if keep is None else np.concatenate([x_0 * keep, keep], axis=3)
                text = glide.Told(words.vector, words.words, words.mask, beside, words.tokens)
                guess = chain.decoder(x_t, t, dalle2_decoder.Told(z, text))
            w = np.minimum(schedule.snr[t] + 1, config.most)
            return float(glide.l_glide(x_0, ag.raw(guess), w, config.edges))

    assert got == pytest.approx(by_hand(**told), rel=1e-5)
    for part, value in told.items():
        turned = type(value)(*(np.roll(a, 1, 0) for a in value)) if part == "words" else np.roll(value, 1, 0)
        assert by_hand(**told | {part: turned}) != pytest.approx(got, rel=1e-4), part


def test_unclip_a_stage_that_is_left_out(data):
    config = dataclasses.replace(TINY, clip_steps=0, ar_steps=0, paint_steps=0, upsample=0)
    system = dalle2.build(config, data, seed=0)
    assert [stage.name for stage in system.stages()] == ["prior", "decoder"]
    assert list(system.modules) == ["clip", "prior", "decoder"]
    rng = np.random.default_rng(0)
    assert list(system.pictures) == ["priors", "variations", "interpolations", "text_diffs"]
    with pytest.raises(ValueError, match="without ar_steps"):
        system.paint(PROMPTS, rng=rng, prior="autoregressive")
    image = data.scale(data.test.images[:1])[0]
    with pytest.raises(ValueError, match="without paint_steps"):
        system.edit(image, np.ones((32, 32, 1), bool), n=1, rng=rng, prompt=PROMPTS[0])
    with pytest.raises(ValueError, match="size must be one of 32 with these weights, got 64"):
        system.paint(PROMPTS, rng=rng, size=64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"T": 1}, "T must be at least 2"),
        ({"no_text": 1.0}, "no_text must be a share"),
        ({"buckets": 1}, "buckets must be at least 2"),
        ({"dims": 129}, "dims must be from 1 to 128"),
        ({"clip_steps": -1}, "clip_steps must be at least 0"),
        ({"upsample": 3}, "upsample must be 0, 1 or 2"),
        ({"heads": 3}, "heads must divide"),
        ({"patch": 5}, "size must be a multiple"),
    ],
)
def test_unclip_settings_that_do_not_fit(data, change, said):
    with pytest.raises(ValueError, match=said):
        dalle2.build(dataclasses.replace(TINY, **change), data, seed=0)


def test_unclip_needs_captions():
    with pytest.raises(ValueError, match="data set 'shapes'"):
        dalle2.build(TINY, load("digits"), seed=0)


# --- the uses ---------------------------------------------------------------------------------------------------------


def asked(**changes):
    return {**dataclasses.asdict(dalle2.Editing()), **changes}


def edit(system, image=None, keep=None, *, n=2, seed=0, **changes):
    return system.edit(image, keep, n=n, rng=np.random.default_rng(seed), **asked(**changes))


@pytest.fixture(scope="module")
def x(data):
    """Three test pictures of one thing."""
    return frozen(data.scale(edits.one_thing("test", 3)[0]))


def test_unclip_sample_at_every_size(system):
    some = system.sample(3, rng=np.random.default_rng(0), steps=2, sampler="ddim")
    assert some.shape == (3, 32, 32, 3) and abs(some).max() <= 1
    assert [note.split("\n")[0] for note in system.notes(some)] == dalle2.prompts_for(3)
    for size in (64, 128):
        assert system.paint(PROMPTS, rng=np.random.default_rng(0), size=size).shape == (2, size, size, 3)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="size must be one of 32, 64, 128 with these weights, got 96"):
        system.paint(PROMPTS, rng=rng, size=96)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state, "said before anything is drawn"


def test_unclip_guidance_of_one_asks_for_all_alone(system):
    a, b = (system.paint(PROMPTS, rng=np.random.default_rng(0), guidance=s) for s in (1.0, 3.0))
    assert abs(a - b).max() > 1e-3


def test_unclip_variations_are_one_with_eta_0_and_differ_with_more(system, x):
    same = edit(system, variations=x[0], eta=0.0)
    np.testing.assert_allclose(same[0], same[1], atol=1e-5)
    other = edit(system, variations=x[0])
    assert abs(other[0] - other[1]).max() > 1e-2
    np.testing.assert_array_equal(other, edit(system, variations=x[0], eta=0.5), "the default")


def test_unclip_walks_are_those_of_each_picture_alone(system, x, monkeypatch):
    """Each picture so many times, one after the other, and however many are walked at once; the steps up are corrected."""
    chain = chain_of(system)
    alone = np.concatenate([edits.varied(chain, x[i : i + 1], eta=0.0) for i in range(3)])
    monkeypatch.setattr(edits, "BLOCK", 2)
    np.testing.assert_allclose(edits.varied(chain, x, times=2, eta=0.0), alone.repeat(2, axis=0), atol=1e-5)
    assert abs(edits.varied(chain, x, eta=0.0, guidance=3.0) - alone).max() > 1e-3
    levels, z = edits.levels_of(chain, None), chain.text.encode_image(x)
    found = edits.inverted(chain, x, z, levels)
    corrected, plain = (
        np.concatenate(
            [
                dalle2_decoder.invert(chain.decoder, x[rows], chain.told(z[rows]), levels, iterations=count)
                for rows in (slice(2), slice(2, 3))
            ]
        )
        for count in (edits.ITERATIONS, 0)
    )
    np.testing.assert_array_equal(found, corrected)
    assert abs(found - plain).max() > 1e-3


def test_unclip_interpolation_ends_at_the_round_trips_of_both(system, x):
    path = edit(system, interpolate=(x[0], x[1]), n=5, guidance=1.0)
    ends = [edit(system, variations=x[k], eta=0.0, n=1)[0] for k in (0, 1)]
    np.testing.assert_allclose(path[[0, -1]], ends, atol=1e-4)
    held = edit(system, interpolate=(x[0], x[1]), n=3, noise="fixed", guidance=1.0)
    assert abs(held[0] - path[0]).max() > 1e-2


def test_unclip_text_diff_goes_further_and_further(system, x):
    chain = chain_of(system)
    texts = ("a red circle", "a red square")
    far = edit(system, text_diff=(x[0], *texts), n=3, theta=0.6, eta=0.0, guidance=1.0)
    for share, picture in zip((0.2, 0.4, 0.6), far):
        alone = edits.led(chain, x[:1], [texts[0]], [texts[1]], [1.0], theta=share, eta=0.0, guidance=1.0)[0, 0]
        np.testing.assert_allclose(picture, alone, atol=1e-4)
    z = chain.text.encode_image(x[:1])[0]
    own = dalle2_decoder.own_theta(z, edits.direction(chain.text, z, *texts))
    by_default, by_own = (
        edit(system, text_diff=(x[0], *texts), n=1, theta=theta, eta=0.0, guidance=1.0) for theta in (None, own)
    )
    np.testing.assert_allclose(by_default, by_own, atol=1e-5)
    still = edits.led(chain, x[:1], [texts[0]], [texts[1]], [0.0], eta=0.0, guidance=1.0)[0, 0]
    np.testing.assert_allclose(still, edit(system, variations=x[0], eta=0.0, n=1)[0], atol=1e-4)


def test_unclip_readings_of_a_text_are_all_that_it_leaves_open():
    found = edits.readings("a red circle")
    assert len(found) == len(set(found)) == 2 * 9 * 3 and {scene.things[0].colour for scene in found} == {"red"}
    assert len(edits.readings("a circle above a small square on a white background")) == 7 * 2 * 7
    assert edits.readings(PROMPTS[1]) == [parse(PROMPTS[1])]
    like = parse("a large red circle at the top on a white background")
    assert edits.filled(parse("a square"), like) == parse("a large red square at the top on a white background")
    assert edits.filled(parse("a blue circle above a ring"), like) == parse(
        "a large blue circle above a large red ring on a white background"
    )
    assert edits.filled(parse("a ring"), parse(PROMPTS[1])) == parse(
        "a large blue ring in the middle on a gray background"
    )


def test_unclip_eq4_a_text_is_read_as_the_picture_shows_it():
    """Texts that leave nothing open have one reading; of others those count that are near to the picture."""
    net, rng = clip.CLIP((32, 32, 3), clip.Config(), rng=np.random.default_rng(0)), np.random.default_rng(1)
    for p in net.text.parameters():
        p.data[...] += 0.1 * rng.standard_normal(p.shape)
    text, one = clip.Embedder(net), "a small red circle in the middle on a white background"
    before, after = text.encode_text([one, one.replace("circle", "ring")])
    want = after - before
    anywhere = np.random.default_rng(0).standard_normal(128)
    found = edits.direction(text, anywhere, one, one.replace("circle", "ring"))
    np.testing.assert_allclose(found, want, atol=1e-5)
    near = edits.direction(text, 1e5 * before, "a red circle", "a red ring")
    np.testing.assert_allclose(near, want, atol=1e-5)
    assert abs(edits.direction(text, 0 * before, "a red circle", "a red ring") - want).max() > 1e-3
    readings = [str(scene) for scene in edits.readings("a red circle")]
    circles, rings = (text.encode_text([said.replace("circle", a) for said in readings]) for a in ("circle", "ring"))
    p = np.exp(np.exp(net.log_scale.data) * (circles @ anywhere))
    found = edits.direction(text, anywhere, "a red circle", "a red ring")
    np.testing.assert_allclose(found, p @ (rings - circles) / p.sum(), atol=1e-5)


def test_unclip_painting_keeps_known_pixels_bit_for_bit(system, x):
    keep = np.ones((32, 32, 1), bool)
    keep[:16] = False
    found = edit(system, x[0], keep, prompt="a red circle")
    np.testing.assert_array_equal(found[:, 16:], np.stack([x[0], x[0]])[:, 16:])
    assert abs(found[:, :16] - x[0][:16]).max() > 0.1
    assert abs(edit(system, x[0], keep, prompt="a red circle", guidance=4.0) - found).max() > 1e-3
    np.testing.assert_array_equal(edit(system, x[0], np.ones((32, 32, 1), bool), prompt=PROMPTS[0])[0], x[0])
    how = {"rng": np.random.default_rng(0), "guidance": 2.0}
    free = edit(system, x[0], np.zeros((32, 32, 1), bool), prompt=PROMPTS[0])
    np.testing.assert_array_equal(free, system.paint([PROMPTS[0]] * 2, **how))


def test_unclip_every_guess_holds_the_known_pixels(system, x):
    """DDIM without noise: where the guess is the picture, the noise of a pixel is the same at all levels."""
    chain, keep, noise = chain_of(system), np.ones((1, 32, 32, 1), np.float32), []
    keep[:, 8:24, 4:20] = 0

    def see(t, x_t):
        a = chain.of_pixels.alpha_bar[round(t)]
        if t > 0:
            noise.append((x_t - a**0.5 * x[:2]) / (1 - a) ** 0.5)

    how = {"sampler": "ddim", "spacing": "uniform", "steps": 5, "callback": see}
    edits.painted(chain, x[:2], keep, PROMPTS, rng=np.random.default_rng(1), **how)
    kept = np.broadcast_to(keep == 1, x[:2].shape)
    assert len(noise) == 5
    for later in noise[1:]:
        np.testing.assert_allclose(later[kept], noise[0][kept], atol=1e-4)
        assert abs(later[~kept] - noise[0][~kept]).max() > 0.1


def test_unclip_mistakes_in_edits(system, x, monkeypatch):
    """Each in one sentence, before a picture is walked to its noise."""
    monkeypatch.setattr(edits, "inverted", None)
    keep = np.ones((32, 32, 1), bool)
    for said, image, mask, changes in (
        ("one use at a time: got no picture", None, None, {}),
        ("one use at a time: got IMAGE and --variations", x[0], keep, {"variations": x[1]}),
        ("a mask says where to paint into IMAGE: leave --mask out with --variations", None, keep, {"variations": x[1]}),
        ("painting needs a mask", x[0], None, {"prompt": PROMPTS[0]}),
        ("two different pictures, got the same one twice", None, None, {"interpolate": (x[0], x[0].copy())}),
        ("two texts that say different things", None, None, {"text_diff": (x[0], "a red ring", "a red ring")}),
        ("theta must be above 0", None, None, {"text_diff": (x[0], "a ring", "a circle"), "theta": 0.0}),
        ("eta must be from 0", None, None, {"variations": x[0], "eta": 1.5}),
        ("guidance must be a finite number, got nan", None, None, {"variations": x[0], "guidance": float("nan")}),
        ("guidance must be a finite number", None, None, {"interpolate": (x[0], x[1]), "guidance": float("inf")}),
        ("guidance must be a finite number", x[0], keep, {"prompt": PROMPTS[0], "guidance": float("nan")}),
        ("two texts, and one is empty: got '' and 'a ring'", None, None, {"text_diff": (x[0], "", "a ring")}),
        ("two texts, and one is empty: got 'a ring' and ' '", None, None, {"text_diff": (x[0], "a ring", " ")}),
        ("words that this language does not have", None, None, {"text_diff": (x[0], "a pink ring", "a ring")}),
        ("IMAGE has no theta: leave it out, got 9", x[0], keep, {"prompt": PROMPTS[0], "theta": 9.0}),
        (
            "--variations has no prompt: leave it out, got 'a ring'",
            None,
            None,
            {"variations": x[0], "prompt": "a ring"},
        ),
        ("--interpolate has no theta", None, None, {"interpolate": (x[0], x[1]), "theta": 0.5}),
        ("--text-diff has no noise", None, None, {"text_diff": (x[0], "a ring", "a circle"), "noise": "fixed"}),
        ("noise must be 'arc' or 'fixed'", None, None, {"interpolate": (x[0], x[1]), "noise": "none"}),
    ):
        with pytest.raises(ValueError, match=said):
            edit(system, image, mask, **changes)


def test_unclip_notes_of_edits(system, data, x):
    (scene,) = read_pictures(x[:1])

    def notes(images, image=None, **changes):
        return system.notes_of_edits(images, image=image, **asked(**changes))

    assert notes(x[:2], variations=x[0])[0] == f"{scene}\nright"
    assert notes(x[:1], interpolate=(x[0], x[1])) == [str(scene)]
    assert notes(x[:1], image=x[0], prompt=str(scene)) == [f"{scene}\nright"]
    (thing,) = scene.things
    other = "ring" if thing.shape != "ring" else "circle"
    said = notes(x[:1], text_diff=(x[0], f"a {thing.shape}", f"a {other}"))[0]
    assert other in said.split("\n")[0] and f"{thing.shape}, not {other}" in said
    assert notes(x[:1], text_diff=(x[0], "a pink ring", "a ring")) == [str(scene)]


def test_unclip_what_a_text_diff_asks_for():
    red, ring = Thing("circle", "red", "small"), Thing("ring", "blue", "large")
    one, two = Scene((red,), "top", None, "black"), Scene((red, ring), None, "above", "white")

    def wanted(scene, before, after):
        return edits.rewritten(scene, before, after)

    square = dataclasses.replace(red, shape="square")
    assert wanted(one, "a red circle", "a red square") == Scene((square,), "top", None, "black")
    assert wanted(two, "a blue ring", "a green ring") == Scene(
        (red, dataclasses.replace(ring, colour="green")), None, "above", "white"
    )
    assert wanted(one, "a circle at the top", "a circle at the bottom") == Scene((red,), "bottom", None, "black")
    blue = dataclasses.replace(red, colour="blue")
    moved = wanted(one, "a red circle on the left", "a blue circle on the left")
    assert moved == Scene((blue,), "top", None, "black"), "what both texts say is no change, whatever the picture shows"
    assert wanted(one, "a blue circle", "a green circle") is None, "the picture shows no such thing"
    assert wanted(one, "a pink circle", "a circle") is None
    assert wanted(one, "a circle above a ring", "a ring above a circle") is None


def test_unclip_text_diff_tasks_ask_for_seen_compositions():
    images, before, after, wanted = edits.diff_tasks(10, rng=np.random.default_rng(0))
    for scene, a, b, new in zip(read_pictures(images), before, after, wanted):
        assert edits.rewritten(scene, a, b) == new and new != scene and not held_out(new)
    kept = [[old == new for old, new in zip(a.split(), b.split())] for a, b in zip(before, after)]
    assert kept == [[True, True, False], [True, False, True]] * 5, "of the article, the colour and the shape"


@pytest.mark.parametrize(
    ("values", "once"),
    [
        ("aab", True),
        ("abb", True),
        ("aba", False),
        ("abab", False),
        ("acb", False),
        ("aaa", False),
        (["a", None, "b"], False),
    ],
)
def test_unclip_an_attribute_that_flips_once(values, once):
    assert edits.flips_once(list(values)) is once


@pytest.mark.parametrize(
    ("values", "on"),
    [
        (["a", "b"], True),
        (["black", "gray", "gray", "white"], True),
        (["a", "b", "a", "c"], False),
        (["a", None, None, "c"], True),
        (["a", "b", "a"], False),
        (["a", "a"], False),
    ],
)
def test_unclip_an_attribute_that_never_goes_back(values, on):
    assert edits.goes_on(values) is on


def test_unclip_flips_count_what_the_ends_differ_in():
    def at(shape, colour):
        return Scene((Thing(shape, colour, "small"),), "top", None, "black")

    path = [at("ring", "red"), at("ring", "blue"), None, at("circle", "blue")]
    assert edits.flips(path) == [False, False], "shape and colour differ, and one picture shows neither"
    assert edits.flips([path[0], path[1], path[3]]) == [True, True]
    assert edits.flips(path, edits.goes_on) == [True, False]
    assert edits.flips([path[0], path[0]]) == [] and edits.flips([None, path[0]]) == []


def test_unclip_figures(system, data, monkeypatch):
    """Also of variations that are the pictures themselves, or black ones, and of text diffs that are drawn as they are
    asked for.
    """
    real = {name: getattr(edits, name) for name in ("varied", "led", "painted", "path_between")}

    def varied(chain, x_0, *, eta, rng):
        assert real["varied"](chain, x_0, eta=eta, rng=rng).shape == x_0.shape
        return x_0 if eta == 0 else 0 * x_0 - 1

    def led(chain, x_0, before, after, shares, *, rng):
        assert real["led"](chain, x_0, before, after, shares, rng=rng).shape == (len(x_0), 1, *x_0.shape[1:])
        wanted = [edits.rewritten(*task) for task in zip(read_pictures(x_0), before, after)]
        return data.scale(shapes.render(shapes.arrange(wanted, rng=rng)))[:, None]

    def painted(chain, x, keep, prompts, *, rng):
        y = real["painted"](chain, x, keep, prompts, rng=rng)
        assert abs((y - x) * keep).max() == 0
        scenes = [dataclasses.replace(scene, background=scene.background or "black") for scene in map(parse, prompts)]
        y = data.scale(shapes.render(shapes.arrange(scenes, rng=rng)))
        y[0] = -1
        known.append(abs((y - x) * keep).max())
        return y

    def path_between(chain, a, b):
        real["path_between"](chain, a, b)
        ends.append((a, b))
        return []

    ends, known = [], []
    functions = {"varied": varied, "led": led, "painted": painted, "path_between": path_between}
    functions["flips"] = lambda path, test: [True] + [test is edits.flips_once] * 3
    for name, function in (("SHOWN", 2), *functions.items()):
        monkeypatch.setattr(edits, name, function)
    found = edits.figures(dataclasses.replace(chain_of(system), upsamplers={}), data, rng=np.random.default_rng(0))
    assert [found[f"variations, eta {eta}, with all attributes kept"] for eta in ("0", "0.5")] == [1, 0]
    still, changed = (found[f"variations, eta {eta}, mean change of a pixel"] for eta in ("0", "0.5"))
    assert still == 0 < changed
    assert found["text diffs that succeed"] == 1
    some, text = data.test.take(slice(0, 256)), chain_of(system).text
    cosines = (text.encode_image(data.scale(some.images)) * text.encode_text(some.captions)).sum(1)
    assert found["cosine with the picture's own embedding, prior: text"] == pytest.approx(cosines.mean(), abs=1e-5)
    assert found["edits done"] == 0.5 and [found["largest change of a known pixel"]] == known
    x = data.scale(edits.one_thing("test", 2)[0])
    np.testing.assert_array_equal(ends, [(x[0], x[1])])
    assert found["attributes that flip once in an interpolation"] == 1
    assert found["attributes that never go back in an interpolation"] == 0.25
    assert sum("prior: text" in name for name in found) == 3
    assert sum("prompts met" in name for name in found) == 4 + 3 * 2


SHAPES_OF = {"priors": (6, 16), "variations": (6, 6), "interpolations": (4, 3), "text_diffs": (6, 7), "edits": (6, 6)}


@pytest.mark.parametrize("name", ["interpolations", *(pytest.param(k, marks=pytest.mark.slow) for k in SHAPES_OF)])
def test_unclip_pictures(system, data, name):
    assert list(system.pictures) == [*SHAPES_OF, "upsampled"] == list(dalle2.PICTURES)
    assert system.pictures[name](data.test, rng=np.random.default_rng(0)).shape == (*SHAPES_OF[name], 32, 32, 3)


def test_unclip_picture_of_variations_shows_the_reconstruction_first(system, data, monkeypatch):
    monkeypatch.setattr(edits, "varied", lambda chain, x, *, eta, rng: 0 * x + eta)
    rows = system.pictures["variations"](data.test, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(rows[:, 0], data.scale(data.test.images[:6]))
    assert (rows[:, 1] == 0).all() and (rows[:, 2:] > 0).all(), "eta = 0 is the reconstruction"


@pytest.mark.slow
def test_unclip_picture_of_the_up_samplers(system, data):
    assert system.pictures["upsampled"](data.test, rng=np.random.default_rng(0)).shape == (6, 2, 128, 128, 3)


def test_unclip_clip_is_the_clip_of_the_curriculum(system):
    """The network is that of `models/clip.py` at its own settings, so weights of `minigen train clip` fit."""
    assert system.modules["clip"].image.out.w.shape[1] == clip.Config().width
