"""GLIDE: what the text reaches, what a mask keeps, what the cascade is shown, and a run of all its stages."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import shaken

import autograd as ag
from minigen.data import Dataset, load, shapes
from minigen.data.captions import parse
from minigen.data.oracle import read as read_pictures
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.maths.parametrisation import target
from minigen.models import clip, glide, glide_edits, glide_upsampler
from minigen.samplers.classifier_free import classifier_free
from minigen.train.loop import Trainer

TINY = glide.Config(
    T=20,
    shift=4.0,
    sample_steps=3,
    base=16,
    text_layers=1,
    clip_steps=2,
    steps=2,
    paint_steps=2,
    upsample_steps=2,
    batch_size=4,
    upsample=2,
)
PROMPTS = ["a small red circle in the middle", "a large blue ring above a small cyan cross on a gray background"]


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("shapes")


@pytest.fixture(scope="module")
def system(data):
    """A system that has done its few steps, in the order of its stages, and then been shaken."""
    found = glide.build(TINY, data, seed=0)
    trainer = Trainer(found, seed=0)
    for _ in range(trainer.total):
        trainer.advance(data.train)
    for i, net in enumerate(found.modules.values()):
        shaken(net, i)
    return found


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_glide_eq1_loss_by_hand_and_by_differences(rng):
    x_0, guess = rng.standard_normal((2, 3, 4, 5, 2))
    w, d = np.array([1.0, 2.0, 0.5]), guess - x_0
    by_hand = np.mean(d**2 * w[:, None, None, None])
    down, right = np.diff(d, axis=1), np.diff(d, axis=2)
    by_hand += 0.7 * (np.mean(down**2 * w[:, None, None, None]) + np.mean(right**2 * w[:, None, None, None]))
    assert glide.l_glide(x_0, guess, w, 0.7) == pytest.approx(by_hand, rel=1e-12)
    assert glide.l_glide(x_0, x_0, w, 0.7) == 0
    assert glide.l_glide(x_0, x_0 + 0.1, w * 0 + 1, 9.0) == pytest.approx(0.01), "a shift has no edges"
    ag.gradcheck(lambda g: glide.l_glide(x_0, g, w, 0.7), [guess])


def test_glide_eq2_weights_turn_the_error_of_x_0_into_that_of_v(rng):
    """v - v_hat = (x_0_hat - x_0) sqrt(SNR + 1) for one x_t, so SNR + 1 is the weight; it stops at ``most``."""
    schedule, t = schedules.cosine(30), np.arange(1, 31)
    x_0, eps, d = rng.standard_normal((3, 30, 4))
    x_t = q_sample(x_0, t, eps, schedule)
    a = schedule.alpha_bar[t, None]
    eps_hat = (x_t - a**0.5 * (x_0 + d)) / (1 - a) ** 0.5
    dv = target("v", x_0 + d, eps_hat, t, schedule) - target("v", x_0, eps, t, schedule)
    np.testing.assert_allclose(dv**2, glide.weights(t, schedule, np.inf)[:, None] * d**2, rtol=1e-9)
    assert glide.weights(t, schedule, 5.0).max() == 5.0
    np.testing.assert_array_equal(glide.weights(t, schedule, 1.0), 1.0)


def test_glide_training_loss_tells_the_time_that_made_x_t():
    """On data of one value a reader of (x_t, t) that knows eq. 4 has loss 0 only if both belong together."""
    schedule, x_0 = schedules.cosine(20), np.full((400, 4, 4, 3), 0.3)
    seen, config = [], dataclasses.replace(TINY, edges=0.0, most=1.0)

    def reader(x_t, t):
        seen.extend(t.tolist())
        a = schedule.alpha_bar[t][:, None, None, None]
        return x_0 + ((x_t - a**0.5 * x_0).std(axis=(1, 2, 3), keepdims=True) / (1 - a) ** 0.5 - 1)

    loss = glide.training_loss(reader, x_0, schedule, config, np.random.default_rng(0))
    assert float(loss) < 0.02, "the standard deviation of 48 numbers is 1 to about a tenth"
    assert set(seen) == set(range(1, 21))


# --- the text in the network ------------------------------------------------------------------------------------------


def test_glide_the_vector_is_that_of_eos_and_has_seen_the_last_word(system):
    text = clip.Embedder(system.modules["clip"])
    told = glide.read(text, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        at = len(prompt.split())
        np.testing.assert_array_equal(told.vector[i], told.words[i, at])
        assert told.mask[i].sum() == at + 1
    changed = glide.read(text, [PROMPTS[0].replace("middle", "top left"), PROMPTS[1].replace("gray", "white")])
    assert (abs(changed.vector - told.vector).max(1) > 1e-6).all()


def test_glide_words_of_its_own_are_added_to_clips_and_no_row_hears_of_its_neighbours_padding(system):
    """A caption told alone is told what it is told beside a longer one; without the words of its own it is the U-Net alone."""
    net, text = system.modules["glide"], clip.Embedder(system.modules["clip"])
    together, alone = glide.read(text, PROMPTS), glide.read(text, PROMPTS[:1])
    assert together.tokens.shape[1] > alone.tokens.shape[1]
    x, t = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32), np.array([3, 7])
    with ag.no_grad():
        vector, words = net.words(*together[:3], together.tokens)
        long, short = ag.raw(net(x, t, *together)), ag.raw(net(x[:1], t[:1], *alone))
        np.testing.assert_array_equal(ag.raw(net.unet(x, t, vector, words, together.mask)), long)
        e, last = ag.raw(words) - together.words, [len(prompt.split()) for prompt in PROMPTS]
        np.testing.assert_allclose(ag.raw(vector) - together.vector, e[[0, 1], last], atol=1e-5)
        net.words, kept = None, net.words
        try:
            bare = ag.raw(net(x, t, *together))
        finally:
            net.words = kept
        np.testing.assert_array_equal(bare, ag.raw(net.unet(x, t, *together[:3])))
    np.testing.assert_allclose(short[0], long[0], atol=1e-4)
    assert abs(e).max() > 0.1 and abs(bare - long).max() > 1e-4


def test_glide_captions_are_left_out_sample_by_sample(rng):
    tokens, null = frozen(rng.integers(3, 9, (5, 4))), frozen([2, 0, 0, 0])
    left_out = np.array([True, False, False, True, False])
    found = glide.without_captions(tokens, null, left_out)
    np.testing.assert_array_equal(found[left_out], [null, null])
    np.testing.assert_array_equal(found[~left_out], tokens[~left_out])


@pytest.mark.parametrize("name", ["glide", "paint", "upsampler_64"])
def test_glide_training_is_eq1_of_pictures_that_are_told_their_own_captions_masks_and_levels(name, data):
    """Each stage's loss from its parts, with the draws of the same rng; each part of another row gives another value."""
    config = dataclasses.replace(TINY, p_uncond=0.5, upsample=1)
    system = glide.build(config, data, seed=0)
    for i, net in enumerate(system.modules.values()):
        shaken(net, i)
    (loss,) = (stage.objectives[0].loss for stage in system.stages() if stage.name == name)
    b = data.train.take(slice(0, 8))
    got = float(loss(b, np.random.default_rng(0), 0)[0])

    rng, x_0, schedule = np.random.default_rng(0), data.scale(b.images), glide.schedule_of(config)
    keep = glide.random_masks(8, 32, rng=rng) if name == "paint" else None
    left_out = rng.random(8) < 0.5
    assert 2 < left_out.sum() < 6
    told = glide.read(
        clip.Embedder(system.modules["clip"]), ["" if out else text for out, text in zip(left_out, b.captions)]
    )
    low = level = None
    if name == "upsampler_64":
        x_0, schedule = data.scale(shapes.render(b.scenes, 64)), schedules.cosine(config.T)
        low, level = glide_upsampler.augmented(data.scale(shapes.render(b.scenes, 32)), schedule, rng=rng)
        assert len(set(level)) > 1
    t = rng.integers(1, config.T + 1, 8)
    x_t = q_sample(x_0, t, rng.standard_normal(x_0.shape).astype(np.float32), schedule)

    def by_hand(told=told, keep=keep, low=low, level=level):
        with ag.no_grad():
            if low is None:
                beside = None if keep is None else np.concatenate([x_0 * keep, keep], axis=3)
                guess = system.modules["glide"](x_t, t, *told._replace(beside=beside))
            else:
                guess = system.modules[name](x_t, t, told[:3], low, level)
            return float(glide.l_glide(x_0, ag.raw(guess), np.minimum(schedule.snr[t] + 1, config.most), config.edges))

    assert got == pytest.approx(by_hand(), rel=1e-5)
    turned = glide.Told(*(None if a is None else np.roll(a, 1, 0) for a in told))
    others = [{"told": turned}]
    others += [] if keep is None else [{"keep": np.roll(keep, 1, 0)}, {"keep": 1 - keep}]
    others += [] if low is None else [{"low": np.roll(low, 1, 0)}, {"level": 0 * level}]
    for other in others:
        assert by_hand(**other) != pytest.approx(got, rel=1e-4), other.keys()


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_glide_first_stage_leaves_them_zero_and_the_second_does_not(data):
    """Weight decay and Muon have nothing to do with a weight that no gradient reaches."""
    found = glide.build(dataclasses.replace(TINY, upsample=0), data, seed=0)
    trainer, sums = Trainer(found, seed=0), []
    w = found.modules["glide"].unet.conv_beside.w.data
    for _ in range(trainer.total):
        trainer.advance(data.train)
        sums.append((trainer.stage.name, float(abs(w).sum())))
    assert [total for name, total in sums if name == "glide"] == [0.0, 0.0]
    assert sums[-1][0] == "paint" and sums[-1][1] > 0


def test_glide_what_lies_under_the_mask_is_never_seen(rng):
    x, keep = rng.standard_normal((2, 4, 4, 3)), (rng.random((2, 4, 4, 1)) < 0.5) * 1.0
    hidden = np.where(keep == 1, x, np.nan)
    found = glide.known_pixels(hidden, keep)
    np.testing.assert_array_equal(found, glide.known_pixels(x, keep))
    np.testing.assert_array_equal(found[..., 3:], keep)
    np.testing.assert_array_equal(found[..., :3], np.where(keep == 1, x, 0))


@given(st.integers(0, 999), st.sampled_from([8, 32]))
def test_glide_masks_are_rectangles(seed, size):
    masks = glide.random_masks(20, size, rng=np.random.default_rng(seed), nothing=0.3)
    assert masks.shape == (20, size, size, 1) and masks.dtype == np.float32
    for mask in masks[..., 0]:
        rows, columns = np.flatnonzero((mask == 0).any(1)), np.flatnonzero((mask == 0).any(0))
        assert (np.diff(rows) == 1).all() and (np.diff(columns) == 1).all()
        assert (mask == 0).sum() == len(rows) * len(columns)
        assert min(len(rows), len(columns)) >= size / 4
    assert not glide.random_masks(9, size, rng=np.random.default_rng(seed), nothing=1.0).any()


def test_glide_masks_lie_inside_at_any_place_and_keep_nothing_in_a_share():
    last = 1 - 2**-53  # the largest number that is drawn

    class Tape:
        def random(self, shape):
            assert shape == (5, 5)
            return np.array([
                [0, 0, 0, 0, last], [0, 0, last, last, 0.3], [0.5, 0.3, 0.5, 0.25, 0.9], [last, last, last, 0.5, 0.9],
                [0, 0, 0, 0, 0.29],
            ])  # fmt: skip

    masks = glide.random_masks(5, 8, rng=Tape(), nothing=0.3)[..., 0]
    want = np.ones((5, 8, 8))
    want[0, :2, :2] = want[1, 6:, 6:] = 0  # a quarter of the side, at the first place and at the last
    want[2, 2:7, 1:5] = 0  # ceil(8 x 0.625) = 5 and ceil(8 x 0.475) = 4; the third of 4 starts and the second of 5
    want[3:] = 0
    np.testing.assert_array_equal(masks, want)


@pytest.mark.parametrize(
    "how", [{}, {"sampler": "dpmpp-2m", "guidance": 3.0}, {"sampler": "heun", "negative": PROMPTS[1]}]
)
def test_glide_edits_keep_known_pixels_bit_for_bit(system, data, how):
    x, rng = frozen(data.scale(data.test.images[:2])), np.random.default_rng(0)
    keep = frozen(glide.random_masks(2, 32, rng=rng, nothing=0.0))
    y = glide.edit(system, x, keep, PROMPTS, rng=np.random.default_rng(1), **how)
    kept = np.broadcast_to(keep == 1, x.shape)
    np.testing.assert_array_equal(y[kept], x[kept])
    assert abs(y[~kept] - x[~kept]).max() > 0.1
    whole = glide.edit(system, x, np.ones((1, 32, 32, 1)), PROMPTS, rng=np.random.default_rng(1), **how)
    np.testing.assert_array_equal(whole, x)
    free = glide.edit(system, x, np.zeros((1, 32, 32, 1)), PROMPTS, rng=np.random.default_rng(1), **how)
    np.testing.assert_array_equal(free, glide.draw(system, PROMPTS, rng=np.random.default_rng(1), **how))


def test_glide_every_guess_holds_the_known_pixels(system, data):
    """DDIM without noise: where the guess is the picture, the noise of a pixel is the same at all levels."""
    x, keep, noise = data.scale(data.test.images[:2]), np.ones((1, 32, 32, 1), np.float32), []
    keep[:, 8:24, 4:20] = 0
    schedule = glide.schedule_of(TINY)

    def see(t, x_t):
        a = schedule.alpha_bar[round(t)]
        if t > 0:
            noise.append((x_t - a**0.5 * x) / (1 - a) ** 0.5)

    how = {"sampler": "ddim", "steps": 5, "callback": see}
    glide.edit(system, x, keep, PROMPTS, rng=np.random.default_rng(1), **how)
    kept = np.broadcast_to(keep == 1, x.shape)
    assert len(noise) == 5
    for later in noise[1:]:
        np.testing.assert_allclose(later[kept], noise[0][kept], atol=1e-4)
        assert abs(later[~kept] - noise[0][~kept]).max() > 0.1


def test_glide_edit_tasks_erase_the_thing_and_ask_for_another(data):
    images, keep, prompts = glide_edits.tasks(30, rng=np.random.default_rng(0))
    scenes = data.test.scenes[:30]
    for i, prompt in enumerate(prompts):
        old, new = scenes[i], parse(prompt)
        changed = [k for k, (a, b) in enumerate(zip(old.things, new.things)) if a != b]
        assert len(changed) == 1 and (old.place, old.relation, old.background) == (
            new.place,
            new.relation,
            new.background,
        )
        assert not shapes.held_out(new)
    erased = np.where(keep == 1, images, images[:, :1, :1]).astype(np.uint8)  # backgrounds have one colour
    left = read_pictures(erased)
    for i, scene in enumerate(left):
        assert scene is None if len(scenes[i].things) == 1 else len(scene.things) == 1, "one thing less is left"


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_glide_guidance_of_one_asks_for_the_prompt_alone_and_a_prompt_as_its_own_negative_changes_nothing(system):
    def paint(**how):
        return system.paint(PROMPTS, rng=np.random.default_rng(0), **how)

    alone = paint(guidance=1.0)
    np.testing.assert_array_equal(alone, paint(guidance=1.0, negative=PROMPTS[1]))
    assert abs(alone - paint(guidance=3.0)).max() > 1e-3
    assert abs(paint(guidance=3.0) - paint(guidance=3.0, negative=PROMPTS[1])).max() > 1e-3
    same = [PROMPTS[0]] * 2
    a, b = (
        system.paint(same, rng=np.random.default_rng(0), guidance=g, negative=n) for g, n in ((1.0, ""), (5.0, same[0]))
    )
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_what_the_prompt_of_a_painting_leaves_open_is_random(system, data, monkeypatch):
    """As of a picture: no caption left it open."""
    heard, read = [], glide.read
    monkeypatch.setattr(
        glide, "read", lambda text, prompts, *more, **how: heard.extend(prompts) or read(text, prompts, *more, **how)
    )
    image, keep = data.scale(data.test.images[0]), np.ones((32, 32, 1))
    keep[:16] = 0
    system.edit(image, keep, n=2, rng=np.random.default_rng(0), prompt="a red circle", steps=1)
    assert all(re.fullmatch("a (large|small) red circle (at|on|in) the .*", prompt) for prompt in heard[:2])
    assert heard[2:4] == ["", ""]


def test_glide_guidance_of_zero_leaves_the_prompt_to_clip(system):
    for clip_guidance, ignored in ((0.0, True), (glide.Sampling.clip_guidance, False)):
        how = {"guidance": 0.0, "clip_guidance": clip_guidance}
        a, b = (system.paint([prompt], rng=np.random.default_rng(0), **how) for prompt in PROMPTS[:2])
        assert (abs(a - b).max() < 1e-4) == ignored


def test_glide_guided_condition_goes_through_as_one_batch(system):
    """Named tuples with and without known pixels are joined, not asked about twice."""
    text, asked = clip.Embedder(system.modules["clip"]), []
    for beside in (None, np.zeros((2, 32, 32, 4), np.float32)):
        cond = glide.read(text, PROMPTS, beside)

        def model(x, t, told):
            asked.append(len(x))
            return system.modules["glide"](x, t, *told)

        x = np.zeros((2, 32, 32, 3), np.float32)
        classifier_free(model, 2.0, cond)(x, np.array([3, 3]), cond)
    assert asked == [4, 4]


def test_glide_nothing_of_the_last_prompt_is_kept(system):
    first = system.paint(PROMPTS, rng=np.random.default_rng(4))
    system.paint(PROMPTS[::-1], rng=np.random.default_rng(5))
    np.testing.assert_array_equal(first, system.paint(PROMPTS, rng=np.random.default_rng(4)))


def test_glide_clip_pulls_towards_the_prompt(system):
    """Through the guess of x_0, the cosine with the prompt rises."""
    scores = clip.Embedder(system.modules["clip"]).scores
    plain, pulled = (
        system.paint(PROMPTS * 4, rng=np.random.default_rng(0), guidance=1.0, clip_guidance=s) for s in (0.0, 30.0)
    )
    assert scores(pulled, PROMPTS * 4).mean() > scores(plain, PROMPTS * 4).mean()


def test_glide_clip_pulls_between_two_times_alone(system, rng):
    """Above them it would pull the background, below them it frays what is there."""
    schedule = schedules.cosine(TINY.T)
    x_t = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)

    def still(x, t, cond=None):
        return 0.5 * x

    pulled = glide.pulled_by_clip(still, system, PROMPTS, schedule, 30.0)
    assert glide.pulled_by_clip(still, system, PROMPTS, schedule, 0.0) is still
    low, high = (share * TINY.T for share in glide.PULLED)
    for t in range(1, TINY.T + 1):
        moved = abs(ag.raw(pulled(x_t, np.full(2, t), None)) - 0.5 * x_t).max()
        assert (moved > 0) == (low <= t <= high), t


@pytest.mark.parametrize("off", [-1e-5, 0.0, 1e-5])
def test_glide_clip_pulls_at_both_ends_whatever_rounding_makes_of_their_times(off, system, rng):
    """A sampler of one's own says how noisy its levels are, in float32 perhaps, and times follow from that."""
    x_t = rng.standard_normal((1, 32, 32, 3)).astype(np.float32)
    pulled = glide.pulled_by_clip(lambda x, t, cond=None: 0.5 * x, system, PROMPTS[:1], schedules.cosine(TINY.T), 30.0)
    for share, outwards in zip(glide.PULLED, (-0.5, 0.5)):
        at, beyond = (pulled(x_t, np.full(1, share * TINY.T + d), None) for d in (off, outwards))
        assert abs(ag.raw(at) - 0.5 * x_t).max() > 0
        np.testing.assert_array_equal(ag.raw(beyond), 0.5 * x_t)


def test_glide_clip_does_not_pull_towards_the_empty_prompt(system, rng):
    """It asks for anything, and CLIP has never seen a caption like it."""
    x_t, t = rng.standard_normal((2, 32, 32, 3)).astype(np.float32), np.full(2, TINY.T // 2)

    def still(x, t, cond=None):
        return 0.5 * x

    schedule = schedules.cosine(TINY.T)
    assert glide.pulled_by_clip(still, system, ["", " "], schedule, 30.0) is still
    alone, beside = (
        ag.raw(glide.pulled_by_clip(still, system, [PROMPTS[0], other], schedule, 30.0)(x_t, t, None))
        for other in (PROMPTS[1], "")
    )
    np.testing.assert_array_equal(beside[1], 0.5 * x_t[1])
    np.testing.assert_allclose(beside[0], alone[0], atol=1e-6)
    assert abs(beside[0] - 0.5 * x_t[0]).max() > 1e-3


@pytest.mark.parametrize("noisy", [False, True])
def test_glide_a_clean_clip_is_asked_about_the_guess_and_a_noise_aware_one_about_x_t(noisy, data, rng):
    """The guess moves by s (1 - abar) / sqrt(abar) times the gradient with respect to x_t."""
    system = glide.build(dataclasses.replace(TINY, noisy_clip=noisy, upsample=0), data, seed=1)
    net, t = shaken(system.modules["clip"], 0), np.array([9, 12])
    schedule, x_t = schedules.cosine(TINY.T), rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    wanted = clip.Embedder(net).encode_text(PROMPTS)

    def still(x, t, cond=None):
        return 0.5 * x

    found = ag.raw(glide.pulled_by_clip(still, system, PROMPTS, schedule, 30.0)(x_t, t, None)) - 0.5 * x_t
    x = ag.Tensor(x_t, requires_grad=True)
    seen = net.embed_image(x, t) if noisy else net.embed_image(0.5 * x)
    gradient = ag.grad(ag.sum(seen * wanted), x).data
    a = schedule.alpha_bar[t].reshape(-1, 1, 1, 1)
    want = 30 * (1 - a) / a**0.5 * gradient
    np.testing.assert_allclose(found, want, atol=1e-4 * abs(want).max())


def test_glide_noise_aware_clip_pulls_as_well(data):
    config = dataclasses.replace(TINY, noisy_clip=True, upsample=0)
    found = glide.build(config, data, seed=1)
    for i, net in enumerate(found.modules.values()):
        shaken(net, i)
    a, b = (found.paint(PROMPTS, rng=np.random.default_rng(0), clip_guidance=s) for s in (0.0, 5.0))
    assert np.isfinite(b).all() and abs(a - b).max() > 1e-3


def test_glide_sample_edit_and_notes(system, data):
    some = system.sample(3, rng=np.random.default_rng(0), steps=2, sampler="ddim")
    assert some.shape == (3, 32, 32, 3) and abs(some).max() <= 1
    assert [note.split("\n")[0] for note in system.notes(some)] == glide.prompts_for(3)
    assert glide.prompts_for(3) == glide.prompts_for(9)[:3]
    assert system.notes(some, prompt="")[0] == "no prompt"
    image = data.scale(data.test.images[:1])[0]
    keep = np.ones((32, 32, 1), bool)
    keep[:16] = False
    edits = system.edit(
        image, keep, n=2, rng=np.random.default_rng(0), **dataclasses.asdict(glide.Editing(prompt=PROMPTS[0]))
    )
    assert edits.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(edits[:, 16:], np.stack([image, image])[:, 16:])
    assert system.notes_of_edits(edits, **dataclasses.asdict(glide.Editing(prompt=PROMPTS[0])))[0].startswith(
        PROMPTS[0]
    )
    for name, shape in (("edits", (6, 6, 32, 32, 3)), ("upsampled", (6, 2, 64, 64, 3))):
        assert system.pictures[name](data.test, rng=np.random.default_rng(0)).shape == shape


def test_glide_figures_are_shares_of_the_pictures_that_are_right(system, data, monkeypatch):
    """An artist that draws what is asked for, but leaves a different number of pictures black in each use."""
    monkeypatch.setattr(glide, "SHOWN", 5)

    def drawn(prompts, black, size=32):
        scenes = [dataclasses.replace(s, background=s.background or "black") for s in map(parse, prompts)]
        x = data.scale(shapes.render(shapes.arrange(scenes, rng=np.random.default_rng(0)), size))
        x[:black] = -1
        return x

    def draw(system, prompts, *, rng, guidance=glide.Sampling.guidance, clip_guidance=glide.Sampling.clip_guidance):
        return drawn(prompts, 3 - (guidance > 1) - (clip_guidance > 0))

    def edit(system, image, keep, prompts, *, rng):
        x = drawn(prompts, 3)
        return np.where(keep > 0, x.clip(image - 0.25, image + 0.25), x)

    def enlarged(system, images, prompts, size, *, rng):
        assert images.shape == (5, 32, 32, 3) and size == 64
        return drawn(prompts, 4, size)

    for function in (draw, edit, enlarged):
        monkeypatch.setattr(glide, function.__name__, function)
    found = system.figures(data, rng=np.random.default_rng(0))
    shares = {"without guidance": 0.4, "classifier-free": 0.6, "and by CLIP": 0.8}
    assert found == {
        **{f"prompts met, {group}, {led}": share for led, share in shares.items() for group in glide.GROUPS},
        "edits done": 0.4,
        "largest change of a known pixel": 0.25,
        "prompts met, seen, one thing, at twice the size": 0.2,
    }


# --- the cascade ------------------------------------------------------------------------------------------------------


def test_glide_cascade_grows_to_every_size(system):
    for size in (64, 128):
        assert system.paint(PROMPTS, rng=np.random.default_rng(0), size=size).shape == (2, size, size, 3)


def test_glide_upsampler_starts_as_pixels_doubled(rng):
    """Its last layer starts at 0, and what it puts out is added to what it is shown."""
    net = glide_upsampler.Upsampler(3, 16, 6, base=8, rng=rng)
    low, words, mask = (
        rng.standard_normal((2, 8, 8, 3)).astype(np.float32),
        np.zeros((2, 3, 6), np.float32),
        np.ones((2, 3), bool),
    )
    x_t, level = rng.standard_normal((2, 16, 16, 3)).astype(np.float32), np.array([0, 2])
    vector = np.zeros((2, 6), np.float32)
    with ag.no_grad():
        first = ag.raw(net(x_t, level + 1, (vector, words, mask), low, level))
        np.testing.assert_array_equal(first, low.repeat(2, 1).repeat(2, 2))
        shaken(net, 0)
        told = [ag.raw(net(x_t, level + 1, (vector, words, mask), low, s)) for s in (level, level + 1)]
    assert abs(told[0] - told[1]).max() > 1e-6, "it hears how much noise there is on what it is shown"


def test_glide_low_resolution_noise_has_its_level_and_level_0_has_none(rng):
    schedule, low = schedules.cosine(200), frozen(np.full((4000, 2, 2, 1), 0.5))
    noisy, levels = glide_upsampler.augmented(low, schedule, rng=rng)
    assert levels.min() == 0 and levels.max() == glide_upsampler.MOST * 200
    np.testing.assert_array_equal(noisy[levels == 0], low[levels == 0])
    z = (noisy - schedule.alpha_bar[levels][:, None, None, None] ** 0.5 * 0.5)[levels > 0]
    z /= (1 - schedule.alpha_bar[levels[levels > 0]])[:, None, None, None] ** 0.5
    assert abs(z.std() - 1) < 6 / np.sqrt(2 * z.size)
    same, told = glide_upsampler.augmented(low, schedule, rng=rng, level=0)
    np.testing.assert_array_equal(same, low)
    assert (told == 0).all()


def test_glide_upsampling_tells_the_level_that_the_small_picture_has(rng):
    schedule, told = schedules.cosine(200), []

    def net(x_t, t, said, low, level):
        told.append((low, level))
        return np.zeros_like(x_t)

    low = frozen(np.full((500, 2, 2, 3), 0.5, np.float32))
    glide_upsampler.upsample(net, low, None, schedule, rng=rng, steps=3)
    assert len(told) == 3 and all(shown is told[0][0] for shown, _ in told), "one noise for the whole walk"
    shown, level = told[0]
    assert (level == glide_upsampler.USED * 200).all()
    a = schedule.alpha_bar[level[0]]
    z = (shown - a**0.5 * 0.5) / (1 - a) ** 0.5
    assert abs(z.std() - 1) < 6 / np.sqrt(2 * z.size) and abs(z.mean()) < 6 / np.sqrt(z.size)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": 0}, "base must be at least 1"),
        ({"p_uncond": 1.0}, "p_uncond must be a share"),
        ({"p_uncond": 0.0}, "p_uncond must be a share above 0 and below 1, got 0.0"),
        ({"most": 0.5}, "most must be at least 1"),
        ({"upsample": 3}, "upsample must be 0, 1 or 2"),
        ({"upsample_steps": 0}, "upsample_steps must be at least 1"),
        ({"patch": 5}, "size must be a multiple of 10"),
        ({"attention": (4,)}, "attention must name levels"),
    ],
)
def test_glide_settings_that_do_not_fit(data, change, said):
    with pytest.raises(ValueError, match=said):
        glide.build(dataclasses.replace(TINY, **change), data, seed=0)


def test_glide_bad_requests(system, data):
    x, rng = data.scale(data.test.images[:2]), np.random.default_rng(0)
    with pytest.raises(ValueError, match="mask must have the size"):
        glide.edit(system, x, np.ones((2, 16, 16, 1)), PROMPTS, rng=rng)
    with pytest.raises(ValueError, match="pictures must have the shape"):
        glide.edit(system, x[:, :16], np.ones((2, 16, 32, 1)), PROMPTS, rng=rng)
    with pytest.raises(ValueError, match="one prompt, or one per picture"):
        glide.edit(system, x, np.ones((2, 32, 32, 1)), PROMPTS[:1], rng=rng)
    with pytest.raises(ValueError, match="needs a mask"):
        system.edit(x[0], None, n=1, rng=rng)
    before = rng.bit_generator.state
    with pytest.raises(ValueError, match="size must be one of 32, 64, 128"):
        system.paint(PROMPTS, rng=rng, size=48)
    assert rng.bit_generator.state == before, "it is said before anything is drawn"
    with pytest.raises(ValueError, match="words that this language does not have"):
        system.paint(["a pink circle"], rng=rng)
    with pytest.raises(ValueError, match="steps"):
        system.paint(PROMPTS, rng=rng, steps=21)
    with pytest.raises(ValueError, match="data set 'shapes'"):
        glide.build(TINY, load("digits"), seed=0)
    without = glide.build(dataclasses.replace(TINY, paint_steps=0, upsample=0), data, seed=0)
    with pytest.raises(ValueError, match="without paint_steps"):
        glide.edit(without, x, np.ones((2, 32, 32, 1)), PROMPTS, rng=rng)
