"""DiffusionCLIP: the direction by hand, one grid for both walks, gradients through the walk, mixing, and a run of all
its stages.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import gaussian
from systems import shaken

import autograd as ag
from minigen.data import Dataset, load, shapes
from minigen.data.captions import Scene, Thing, canonical, parse
from minigen.data.oracle import read as read_pictures
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.models import clip
from minigen.models import diffusionclip as dc
from minigen.models import diffusionclip_figures as measured
from minigen.models import diffusionclip_losses as losses
from minigen.samplers import ddim
from minigen.train.loop import Trainer

TINY = dc.Config(
    edits=("blue", "white"), T=20, sample_steps=3, base=16, clip_steps=2, steps=2, batch_size=4, t_0=8, levels=2,
    pictures=6, tune_steps=2, tune_batch=3, prior_time=8,
)  # fmt: skip
LEVELS = dc.levels_to(schedules.cosine(20), 8, 3)
WEIGHTS = {
    "l1": 0.3,
    "identity": 2.0,
    "far": 0.7,
    "outline": 4.0,
    "same": 0.6,
    "prior": 0.0,
    "least": 1.1,
}


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def denoiser(seed):
    rng = np.random.default_rng(seed)
    net = dc.Denoiser(3, patch=2, base=8, multipliers=(1, 1), heads=2, rng=rng)
    return shaken(net.astype(np.float64), seed)


class Gain:
    """``model(x_t, t)`` = gain x_t, which notes the times that it is told."""

    def __init__(self, gain):
        self.gain, self.times = gain, []

    def __call__(self, x_t, t, cond=None):
        self.times.append(set(np.asarray(t).tolist()))
        return x_t * self.gain


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("shapes")


@pytest.fixture(scope="module")
def run(data):
    """A system that has done its few steps, and what its untuned network was before and after the edits were learnt."""
    system = dc.build(TINY, data, seed=0)
    trainer, base = Trainer(system, seed=0), []
    for _ in range(trainer.total):
        trainer.advance(data.train)
        if trainer.stage.name.startswith("edit"):
            base.append(system.modules["diffusion"].flat.copy())
    return system, base


# --- the direction ----------------------------------------------------------------------------------------------------


def test_diffusionclip_eq1_parallel_orthogonal_and_opposite():
    text = np.array([[3.0, 4.0, 0.0]] * 3)
    image = np.array([[0.6, 0.8, 0.0], [-4.0, 3.0, 7.0], [-6.0, -8.0, 0.0]])
    np.testing.assert_allclose(losses.directional_loss(image, text), [0, 1, 2], atol=1e-15)
    np.testing.assert_allclose(losses.shortfall(image, text), [0.8, 1, 3], rtol=1e-8)
    np.testing.assert_array_equal(losses.shortfall(text * 1.5, text), 0.0)


@given(st.integers(0, 999), st.floats(1e-2, 1e3), st.floats(1e-2, 1e3))
def test_diffusionclip_eq1_is_zero_only_if_parallel_and_knows_no_lengths(seed, a, b):
    image, text = np.random.default_rng(seed).standard_normal((2, 4, 6))
    loss = losses.directional_loss(image, text)
    assert ((loss > 1e-6) & (loss < 2 - 1e-6)).all(), "two random directions are neither parallel nor opposite"
    np.testing.assert_allclose(losses.directional_loss(a * image, b * text), loss, rtol=1e-12)
    np.testing.assert_allclose(losses.directional_loss(-image, text), 2 - loss, rtol=1e-12)
    np.testing.assert_allclose(losses.directional_loss(a * text, text), 0.0, atol=1e-15)


def test_diffusionclip_eq1_no_change_and_no_text_are_finite(rng):
    text = rng.standard_normal((2, 5))
    d = ag.Tensor(np.zeros((2, 5)), requires_grad=True)
    loss = losses.directional_loss(d, text)
    np.testing.assert_array_equal(loss.data, 1.0)
    slope = ag.raw(ag.grad(ag.sum(loss), d))
    expected = -text / (np.linalg.norm(text, axis=1, keepdims=True) * losses.FLOOR)
    np.testing.assert_allclose(slope, expected, rtol=1e-12)
    np.testing.assert_array_equal(losses.directional_loss(text, 0 * text), 1.0)
    np.testing.assert_array_equal(losses.shortfall(text, 0 * text), 1.0)


def test_diffusionclip_eq2_by_hand_and_by_differences(rng):
    x_0, x_hat, natural = rng.standard_normal((3, 2, 4, 4, 3))
    weights = WEIGHTS | {"prior": 1.3}
    d_image, d_text = rng.standard_normal((2, 2, 5))
    ground = (rng.random((2, 4, 4, 1)) < 0.5) * 1.0
    alpha = (1 - ground) * rng.random((2, 4, 4, 1))
    still = dc.Still(ground, ground, 1 - ground, alpha)
    cos = (d_image * d_text).sum(1) / np.linalg.norm(d_image, axis=1) / np.linalg.norm(d_text, axis=1)
    short = np.maximum(0, 1 - (d_image * d_text).sum(1) / (d_text**2).sum(1))
    change = abs(x_0 - x_hat)
    by_hand = (1 - cos).mean() + 0.3 * change.mean() + 2 * change[np.broadcast_to(ground == 1, change.shape)].mean()
    by_hand += 0.7 * short.mean() + 1.3 * ((x_hat - natural) ** 2).mean()
    colours = np.stack([x[~on[..., 0]].mean(0) for x, on in zip(x_hat, ground == 1)])
    by_hand += 0.6 * np.square(colours - colours.mean(0)).sum(1).mean()
    strengths = []
    for x, a, on in zip(x_hat, alpha, ground == 1):
        off = x - x[on[..., 0]].mean(0)
        c = (off * a).sum((0, 1)) / (a**2).sum()
        rest = (off - a * c)[~on[..., 0]]
        strengths.append((c**2).sum())
        by_hand += 4 * (rest**2).sum() / (a**2).sum() / max(strengths[-1], 1.1**2) / 2
    assert min(strengths) < 1.1**2
    value, terms = dc.l_edit(x_0, x_hat, d_image, d_text, still, natural, **weights)
    assert value == pytest.approx(by_hand, rel=1e-6)
    assert set(terms) == {"direction", "l1", "identity", "short", "outline", "apart", "prior"}
    ag.gradcheck(
        lambda x, d: dc.l_edit(x_0, x, d, d_text, still, natural, **weights)[0],
        [x_hat, 0.5 * d_text + 0.2 * d_image],
        step=1e-4,
    )
    value, terms = dc.l_edit(x_0, x_hat, d_image, d_text, dc.Still(0 * ground, 0 * ground, None, None), None, **WEIGHTS)
    assert np.isfinite(value) and "outline" not in terms


def test_diffusionclip_linear_world_moves_along_the_text(rng):
    """E(x) = A x and a decoder of one step, x_hat = x_0 + b: with a small weight of |b|^2, b becomes A' dT."""
    A = np.linalg.qr(rng.standard_normal((6, 3)))[0].T  # rows of unit length, at right angles
    text, x_0 = rng.standard_normal(3), rng.standard_normal((1, 6))
    b = ag.Tensor(rng.standard_normal((1, 6)), requires_grad=True)
    for k in range(800):
        d_image = (x_0 + b) @ A.T - x_0 @ A.T
        loss = ag.sum(losses.directional_loss(d_image, text[None]) + losses.shortfall(d_image, text[None]))
        b.data -= 0.3 * (1 - k / 800) * ag.raw(ag.grad(loss + 0.02 * ag.sum(b * b), b))
    np.testing.assert_allclose(b.data[0], A.T @ text, atol=0.02 * np.linalg.norm(text))


def test_diffusionclip_texts_are_of_unit_length_before_and_after_their_mean():
    """An embedder whose vectors have lengths of their own: only their directions count, opening by opening."""
    scenes = [parse("a small red circle at the top"), parse("a large cyan ring in the middle")]
    vectors = {}

    class Embedder:
        scale = 1.0

        def encode_text(self, texts):
            for text in texts:
                vectors.setdefault(text, np.random.default_rng(len(vectors)).standard_normal(4))
            return np.stack([vectors[text] * (1 + self.scale * i) for i, text in enumerate(texts)])

    embedder = Embedder()
    first = dc.told(embedder, scenes)
    embedder.scale = 7.0
    np.testing.assert_allclose(dc.told(embedder, scenes), first, atol=1e-9)

    def unit(v):
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    for text, found in zip(("a small red circle at the top", "a large cyan ring in the middle"), first):
        by_hand = unit(np.mean([unit(vectors[o + text]) for o in ("", "there is ", "a picture of ")], axis=0))
        np.testing.assert_allclose(found, by_hand, atol=1e-9)


def test_diffusionclip_rewriting_changes_one_attribute_and_leaves_open_what_is_open():
    scene = parse("a small red circle above a large green ring on a gray background")
    for word, name in (("blue", "colour"), ("small", "size"), ("cross", "shape")):
        new = dc.rewritten(scene, word)
        assert [getattr(t, name) for t in new.things] == [word, word]
        back = [dataclasses.replace(t, **{name: getattr(old, name)}) for t, old in zip(new.things, scene.things)]
        assert dataclasses.replace(new, things=tuple(back)) == scene
    assert dc.rewritten(scene, "white") == dataclasses.replace(scene, background="white")
    open_scene = Scene((Thing("circle", None, "small"),), "top", None, None)
    assert dc.rewritten(dc.rewritten(open_scene, "blue"), "white") == open_scene
    with pytest.raises(ValueError, match=r"edits must be words of circle, .*, got 'pink'"):
        dc.attribute("pink")


def test_diffusionclip_untouched_is_the_ground_or_the_thing():
    scenes = shapes.arrange(
        [parse("a large red square in the middle on a gray background")], rng=np.random.default_rng(0)
    )
    x = shapes.render(scenes) / np.float32(127.5) - 1
    blue, white, large = (dc.untouched(x, word) for word in ("blue", "white", "large"))
    np.testing.assert_array_equal(blue.pixels, blue.ground)
    np.testing.assert_array_equal(blue.ground, white.ground)
    np.testing.assert_array_equal(blue.coloured, white.pixels)
    assert white.coloured is None and large.coloured is None
    ground, thing = blue.ground[0, ..., 0] == 1, white.pixels[0, ..., 0] == 1
    assert ground[:8].all() and thing[14:18, 14:18].all() and not (ground & thing).any()
    side = 2 * 0.86 * scenes.radius[0, 0]
    assert abs(thing.sum() - side**2) < 4 * side, "the thing but for its edge"
    assert (~ground & ~thing).sum() < 4 * (side + 2), "an edge of about a pixel belongs to neither"
    assert large.outline is None and blue.outline is not None


def test_diffusionclip_untouched_by_hand():
    """The ground is within 0.1 of the frame's median, though a thing lies over its upper side; the thing is beyond 0.8
    of the farthest.
    """
    x, ground, thing = np.full((1, 6, 6, 3), 0.2), np.ones((6, 6)), np.zeros((6, 6))
    x[0, 0], x[0, 2, 1:5] = 0.7, np.array([[0.29], [0.31], [0.59], [0.61]])
    ground[0], ground[2, 2:5] = 0, 0
    thing[0], thing[2, 4] = 1, 1
    blue, white = (dc.untouched(x, word) for word in ("blue", "white"))
    np.testing.assert_array_equal(blue.ground[0, ..., 0], ground)
    np.testing.assert_array_equal(white.pixels[0, ..., 0], thing)
    assert (blue.outline[0, 0] == 1).all() and blue.outline.max() == 1, "no more than 1 beyond the thing's mean colour"
    off = x[0, 2, 4, 0] - (26 * 0.2 + 0.29) / 27
    assert blue.outline[0, 2, 4, 0] == pytest.approx(off / ((6 * (off + 0.09) + off) / 7), rel=1e-5)


def test_diffusionclip_silhouette_is_the_coverage_whatever_the_colours():
    """Pictures (1 - alpha) g + alpha c of one thing on other grounds in other colours have the silhouette alpha, to the
    roundings.
    """
    scenes = [parse(f"a small {c} cross in the middle on a {g} background") for c, g in
              (("red", "gray"), ("blue", "gray"), ("yellow", "black"), ("purple", "white"))]  # fmt: skip
    of = [shapes.arrange([scene], rng=np.random.default_rng(0)) for scene in scenes]
    x = np.concatenate([shapes.render(one) for one in of]) / 127.5 - 1
    alpha = shapes.coverage(of[0].shape[:, 0], of[0].centre[:, 0], of[0].radius[:, 0], np.arange(32.0))[0, ..., None]
    for one in x:
        still = dc.untouched(one[None], "blue")
        assert abs(still.outline[0] - alpha).max() < 0.02, "a rounding is 1 / 255 of 2, the thing's distance about 1"
    still = dc.untouched(np.roll(x[:1], 1, axis=1), "blue")
    assert abs(still.outline[0] - alpha).max() > 0.5


@given(st.integers(0, 999), st.floats(0.6, 1.5))
@example(890, 0.609375)  # torn by shares of 1 instead of its own, this thing lost more contrast than the floor allows
def test_diffusionclip_eq4_two_colours_are_found_and_nothing_is_left(seed, k):
    rng = np.random.default_rng(seed)
    alpha = np.zeros((1, 6, 6, 1))
    alpha[:, 2:4, 1:5] = rng.uniform(0.3, 1, (1, 2, 4, 1))
    still = dc.Still((alpha == 0) * 1.0, (alpha == 0) * 1.0, (alpha > 0) * 1.0, alpha)
    g, c = rng.uniform(-1, 1, (2, 3))
    found, rest = dc.of_two_colours(g + alpha * c, still)
    np.testing.assert_allclose(found[0, 0, 0], c, atol=1e-5)
    np.testing.assert_allclose(rest, 0, atol=1e-5)

    def outline(x):  # the share of the thing that is wrong, whatever its contrast, while that is large enough
        least = WEIGHTS | {"least": 0.4 * np.linalg.norm(c)}  # the least that is left of it is 0.6 * 0.7
        return dc.l_edit(x, x, np.ones((1, 2)), np.ones((1, 2)), still, None, **least)[1]["outline"]

    torn = rng.uniform(-0.3, 0.3, alpha.shape) * alpha
    assert outline(g + (alpha + torn) * c) > 1e-3
    np.testing.assert_allclose(outline(g + (alpha + torn) * k * c), outline(g + (alpha + torn) * c), rtol=1e-4)


# --- there and back ---------------------------------------------------------------------------------------------------


def test_diffusionclip_both_walks_visit_the_same_levels(rng):
    x = frozen(rng.standard_normal((2, 4)))
    model = Gain(0.9)
    x_T = dc.encode(model, x, LEVELS)
    up, model.times = model.times, []
    dc.walk(model, x_T, LEVELS)
    down = model.times
    assert down == [{8.0}, {6.0}, {3.0}], "the last is t_0, and the step below the first goes to the data"
    assert up == [{3.0}, {3.0}, {6.0}], "one call a step, at its lower end; the data are asked about at the first level"
    model.times = []
    dc.encode(model, x, LEVELS, iterations=1)
    assert model.times == [{3.0}, {3.0}, {3.0}, {6.0}, {6.0}, {8.0}]


def test_diffusionclip_walk_is_ddim_sampling_bit_for_bit(rng):
    net, x_T = denoiser(0), frozen(rng.standard_normal((2, 8, 8, 3)))
    with ag.no_grad():
        found = ag.raw(dc.walk(net, x_T, LEVELS))
    np.testing.assert_array_equal(found, ddim.sample(net, x_T, LEVELS, kind="x_0"))


@pytest.mark.parametrize("steps", [4, 16])
def test_diffusionclip_round_trip_is_of_order_one_and_exact_with_iterations(steps, rng):
    """For data N(0.3, 0.5^2) the guess of x_0 is known and linear; the miss of an explicit walk shrinks as 1 / S."""
    levels = dc.levels_to(schedules.cosine(400), 200, steps)
    model, x = gaussian("x_0", 0.3, 0.5, levels), frozen(0.3 + 0.5 * rng.standard_normal((50, 3)))

    def miss(**how):
        return abs(ag.raw(dc.walk(model, dc.encode(model, x, levels, **how), levels)) - x).max()

    explicit = miss()
    assert 0.05 < explicit * steps < 3.0
    assert miss(iterations=60) < 1e-6 * explicit


def test_diffusionclip_tape_leads_through_all_levels(rng):
    """Against differences: the gradient by x_T and by the network's own weights."""
    net, x_T = denoiser(1), rng.standard_normal((1, 8, 8, 3))
    u = rng.standard_normal(x_T.shape)
    ag.gradcheck(lambda x: ag.sum(dc.walk(net, x, LEVELS) * u), [x_T], step=2e-4)
    bias = net.unet.conv_out.b
    slope = ag.raw(ag.grad(ag.sum(dc.walk(net, x_T, LEVELS) * u), bias))
    h, direction = 1e-5, rng.standard_normal(bias.shape)

    def at(step):
        bias.data[...] += step * direction
        value = float(ag.raw(ag.sum(dc.walk(net, x_T, LEVELS) * u)))
        bias.data[...] -= step * direction
        return value

    assert (slope * direction).sum() == pytest.approx((at(h) - at(-h)) / (2 * h), rel=1e-6)


def test_diffusionclip_per_step_is_full_for_one_level(rng):
    net, x_T = denoiser(2), frozen(rng.standard_normal((2, 8, 8, 3)))
    one = dc.levels_to(schedules.cosine(20), 8, 1)
    parameters = net.parameters()
    found = {}
    for tuning in ("full", "per_step"):
        guess = dc.tuned_guess(net, x_T, one, tuning, rng=np.random.default_rng(0))
        found[tuning] = [ag.raw(guess), *map(ag.raw, ag.grad(ag.sum(guess * guess), parameters))]
    for a, b in zip(found["full"], found["per_step"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_diffusionclip_per_step_asks_every_level_with_a_tape_of_one_call(rng):
    net, x_T = Gain(ag.Tensor(np.array(0.9), requires_grad=True)), rng.standard_normal((2, 4))
    seen = set()
    for seed in range(40):
        net.times = []
        guess = dc.tuned_guess(net, x_T, LEVELS, "per_step", rng=np.random.default_rng(seed))
        level = LEVELS.T + 1 - len(net.times)
        seen.add(level)
        assert net.times == [{float(time)} for time in LEVELS.times[: level - 1 : -1]]
        with ag.no_grad():
            x_t = ag.raw(dc.walk(net, x_T, LEVELS, level))
        np.testing.assert_allclose(ag.raw(ag.grad(ag.sum(guess), net.gain)), x_t.sum(), rtol=1e-12)
    assert seen == {1, 2, 3}


# --- mixing -----------------------------------------------------------------------------------------------------------


def test_diffusionclip_eq6_one_and_zero_is_the_first_network_bit_for_bit(rng):
    a, b, base = denoiser(3), denoiser(4), denoiser(5)
    x_T = frozen(rng.standard_normal((2, 8, 8, 3)))
    alone = ddim.sample(a, x_T, LEVELS, kind="x_0")
    np.testing.assert_array_equal(ddim.sample(dc.mixed([a, b], (1, 0), base), x_T, LEVELS, kind="x_0"), alone)
    np.testing.assert_array_equal(ddim.sample(dc.mixed([a], (1.0,), base), x_T, LEVELS, kind="x_0"), alone)
    untuned = ddim.sample(base, x_T, LEVELS, kind="x_0")
    np.testing.assert_array_equal(ddim.sample(dc.mixed([], (), base), x_T, LEVELS, kind="x_0"), untuned)
    assert abs(untuned - alone).max() > 1e-3


@given(st.floats(-1, 2), st.floats(-1, 2))
def test_diffusionclip_eq6_mixes_eps_with_what_is_left_for_the_base(g, h):
    x_t, t = np.random.default_rng(0).standard_normal((2, 3)), np.full(2, 6.0)
    fs = [Gain(0.5), Gain(-0.3), Gain(0.8)]
    guess = dc.mixed(fs[:2], (g, h), fs[2])(x_t, t)
    level, a = 2, LEVELS.alpha_bar[2]
    eps = [(x_t - a**0.5 * f(x_t, t)) / (1 - a) ** 0.5 for f in fs]
    mix = g * eps[0] + h * eps[1] + (1 - g - h) * eps[2]
    np.testing.assert_allclose(guess, (x_t - (1 - a) ** 0.5 * mix) / a**0.5, atol=1e-12)
    assert LEVELS.times[level] == 6
    with pytest.raises(ValueError, match="a strength for each edit, got 1 for 2"):
        dc.mixed(fs[:2], (1.0,), fs[2])


# --- the system -------------------------------------------------------------------------------------------------------


def test_diffusionclip_stages_run_and_leave_the_untuned_network_alone(run):
    system, base = run
    assert [s.name for s in system.stages()] == ["clip", "diffusion", "edit_blue", "edit_white"]
    for other in base[1:]:
        np.testing.assert_array_equal(base[0], other)
    tuned = [system.modules[f"edit_{word}"].flat for word in TINY.edits]
    for flat in tuned:
        assert 0 < abs(flat - base[0]).max() < 0.2, "a copy of it, a few small steps away"
    assert abs(tuned[0] - tuned[1]).max() > 0


def test_diffusionclip_stands_on_a_clip_that_is_given(data):
    assert dc.REUSES_CLIP
    system = dc.build(dataclasses.replace(TINY, clip_steps=0), data, seed=0)
    assert [s.name for s in system.stages()] == ["diffusion", "edit_blue", "edit_white"]
    assert "clip" in system.modules


def test_diffusionclip_compares_the_pictures_and_their_captions_before_and_after(run, data):
    system, _ = run
    base, net = system.modules["diffusion"], system.modules["clip"]
    copy, embedder, seen = dc.network(TINY, data, rng=np.random.default_rng(0)).flatten(), clip.Embedder(net), []

    def aim(e_hat, of):
        seen.append((e_hat, of))
        return dc.directional(e_hat, of)

    loss = dc.tuning_loss(copy, "blue", base=base, clip_net=net, config=TINY, dataset=data, aim=aim)
    loss(None, np.random.default_rng(0), 0)
    (e_hat, of), at = seen[0], np.random.default_rng(0).integers(0, TINY.pictures, TINY.tune_batch)
    images, scenes = dc.pictures_to_learn(data.train, "blue", TINY.pictures)
    np.testing.assert_array_equal(of.x_0, data.scale(images[at]))
    for found, expected in zip(of.still, dc.untouched(of.x_0, "blue"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    before, after = ([change(scenes[i]) for i in at] for change in (lambda s: s, lambda s: dc.rewritten(s, "blue")))
    for found, expected in ((of.e_ref, before), (of.e_tar, after)):
        np.testing.assert_allclose(found, dc.told(embedder, expected), atol=1e-5)
    np.testing.assert_allclose(of.e_0, embedder.encode_image(of.x_0), atol=1e-5)
    d_image, d_text = dc.directional(e_hat, of)
    np.testing.assert_array_equal(d_image.data, e_hat.data - of.e_0)
    np.testing.assert_array_equal(d_text, of.e_tar - of.e_ref)
    contrasts = [
        np.linalg.norm(dc.of_two_colours(x[None], dc.untouched(x[None], "blue"))[0]) for x in data.scale(images)
    ]
    assert of.least == pytest.approx(min(contrasts), rel=1e-5)


@pytest.mark.parametrize("word, plain", [("blue", True), ("white", True), ("square", False)])
def test_diffusionclip_shows_clip_two_colours_where_the_outline_stays(word, plain, run, data):
    """Nothing but ground and contrast of the old silhouette, so that a pattern cannot please it."""
    system, _ = run
    base, net = system.modules["diffusion"], system.modules["clip"]
    copy, seen = dc.network(TINY, data, rng=np.random.default_rng(0)).flatten(), []

    def aim(e_hat, of):
        seen.append((e_hat, of))
        return dc.directional(e_hat, of)

    loss = dc.tuning_loss(copy, word, base=base, clip_net=net, config=TINY, dataset=data, aim=aim)
    loss(None, np.random.default_rng(0), 0)
    (e_hat, of), rng = seen[0], np.random.default_rng(0)
    rng.integers(0, TINY.pictures, TINY.tune_batch)
    levels = dc.levels_to(schedules.cosine(TINY.T), TINY.t_0, TINY.levels)
    with ag.no_grad():
        x = ag.raw(dc.tuned_guess(base, of.x_T, levels, TINY.tuning, rng=rng))
    if plain:
        ground = (x * of.still.ground).sum((1, 2), keepdims=True) / of.still.ground.sum((1, 2), keepdims=True)
        alpha = of.still.outline
        c = (alpha * (x - ground)).sum((1, 2), keepdims=True) / (alpha**2).sum((1, 2), keepdims=True)
        assert abs(x - ground - alpha * c).max() > 0.05  # there is something that CLIP is not shown
        x = ground + alpha * c
    np.testing.assert_allclose(e_hat.data, clip.Embedder(net).encode_image(x), atol=1e-5)


def test_diffusionclip_weights_of_what_is_not_the_papers_rise_from_0(run, data):
    """The same draw at the first step and half way: what is added is half of the three terms."""
    system, _ = run
    net = dc.network(TINY, data, rng=np.random.default_rng(0)).flatten()
    loss = dc.tuning_loss(
        net, "blue", base=system.modules["diffusion"], clip_net=system.modules["clip"], config=TINY, dataset=data
    )
    (first, terms), (half, _) = (loss(None, np.random.default_rng(0), step) for step in (0, TINY.tune_steps // 2))
    np.testing.assert_array_equal(net.flat, system.modules["diffusion"].flat)
    of_colours = TINY.outline * terms["outline"] + TINY.same * terms["apart"]
    added = 0.5 * (of_colours + TINY.prior * terms["prior"])
    assert min(of_colours, TINY.prior * terms["prior"]) > 0.01
    assert float(half.data) - float(first.data) == pytest.approx(added, rel=1e-4)


def test_diffusionclip_prior_draws_a_time_for_each_picture(run, data, monkeypatch):
    system, _ = run
    net, base, asked = dc.network(TINY, data, rng=np.random.default_rng(0)).flatten(), system.modules["diffusion"], []
    loss = dc.tuning_loss(net, "blue", base=base, clip_net=system.modules["clip"], config=TINY, dataset=data)
    loss(None, np.random.default_rng(0), 0)
    monkeypatch.setattr(dc, "q_sample", lambda x, t, *rest: (asked.append(t), q_sample(x, t, *rest))[1])
    for step in range(1, 4):
        loss(None, np.random.default_rng(step), step)
    assert all(t.shape == (TINY.tune_batch,) and t.min() >= 1 and t.max() <= TINY.prior_time for t in asked)
    assert len(asked) == 3 and max(len(set(t.tolist())) for t in asked) > 1


def test_diffusionclip_learns_from_one_thing_without_the_word(data):
    images, scenes = dc.pictures_to_learn(data.train, "blue", 20)
    for scene, seen in zip(scenes, read_pictures(images), strict=True):
        assert len(scene.things) == 1 and scene.things[0].colour != "blue"
        assert scene.things == seen.things and scene.place == seen.place
    _, scenes = dc.pictures_to_learn(data.train, "white", 20)
    assert {scene.background for scene in scenes} == {"black", "gray"}, "it is named, and is not white"


def test_diffusionclip_asked_pictures_lack_the_words_and_nothing_else_is_asked():
    images, wanted = dc.asked_of("test", ("blue", "white"), 30)
    for scene, seen in zip(wanted, read_pictures(images), strict=True):
        assert scene.things[0].colour == "blue" != seen.things[0].colour
        assert scene.background == "white" != seen.background
        assert dc.rewritten(dc.rewritten(seen, "blue"), "white") == scene


def test_diffusionclip_edits(run, data):
    system, _ = run
    x = frozen(data.scale(data.test.images[:2]))
    np.testing.assert_array_equal(dc.edited(system, x, ("blue",), t_0=0), x)
    blue = dc.edited(system, x, ("blue",))
    np.testing.assert_array_equal(dc.edited(system, x, ("blue", "white"), strength=(1, 0)), blue)
    np.testing.assert_array_equal(dc.edited(system, x, ("blue",), strength=(0,)), dc.edited(system, x, ()))
    assert abs(blue - dc.edited(system, x, ())).max() > 0
    settings = dataclasses.asdict(dc.Editing())
    pair = system.edit(x[0], None, n=2, rng=None, **settings)
    np.testing.assert_array_equal(pair[0], pair[1])
    np.testing.assert_allclose(pair[0], blue[0], atol=1e-5)
    noisy = system.edit(x[0], None, n=2, rng=np.random.default_rng(0), **settings | {"eta": 1.0})
    assert abs(noisy[0] - noisy[1]).max() > 0.01


def test_diffusionclip_notes_of_edits_ask_for_the_word_and_for_all_else(run):
    system, _ = run
    scenes = [parse(f"a small {colour} ring at the {place} on a gray background") for colour, place in
              (("red", "top"), ("blue", "top"), ("blue", "bottom"))]  # fmt: skip
    x = shapes.render(shapes.arrange(scenes, rng=np.random.default_rng(0))) / np.float32(127.5) - 1
    notes = system.notes_of_edits(x, image=x[0], **dataclasses.asdict(dc.Editing(edit=("blue",))))
    asked = canonical(scenes[1])
    assert notes == [f"{asked}\nred, not blue", f"{asked}\nright", f"{asked}\nbottom, not top"]
    nothing = system.notes_of_edits(x, image=0 * x[0], **dataclasses.asdict(dc.Editing()))
    assert nothing == ["the picture is no scene of this world"] * 3


def test_diffusionclip_samples_pictures_and_figures(run, data):
    system, _ = run
    drawn = system.sample(2, rng=np.random.default_rng(0), sampler="ddim", steps=2)
    assert drawn.shape == (2, 32, 32, 3) and abs(drawn).max() <= 1
    assert len(system.notes(drawn, sampler="ddim")) == 2
    edits = system.sample(2, rng=np.random.default_rng(0), edit=("blue", "white"))
    assert system.notes(edits, edit=("blue", "white"))[0].startswith("a ")
    assert set(system.pictures) == set(dc.PICTURES)
    assert system.pictures["edits"](data.test, rng=None).shape == (6, 4, 32, 32, 3)
    assert system.pictures["mixed"](data.test, rng=None).shape == (6, 4, 32, 32, 3)


def test_diffusionclip_figures_are_of_the_edits_alone_and_at_once(run, data, monkeypatch):
    system, _ = run
    monkeypatch.setattr(measured, "SHOWN", 3)
    found = system.figures(data, rng=None)
    assert [name for name in found if name.endswith("right")] == [
        f"{what} that are right"
        for what in ("round trips", "edits to blue", "edits to white", "edits to blue and white")
    ]
    assert all(np.isfinite(list(found.values()))) and len(found) == 7


def test_diffusionclip_figures_see_what_moves_where_nothing_should(run, data, monkeypatch):
    """Edits that add 0.25 to one of three colours, everywhere or only where it may change."""
    shift = np.array([0.25, 0, 0], np.float32)
    monkeypatch.setattr(measured, "SHOWN", 3)
    for everywhere, want in ((True, 0.25 / 3), (False, 0)):

        def edited(system, x_0, edit, everywhere=everywhere):
            return x_0 + shift * (everywhere | (dc.untouched(x_0, [*edit, "blue"][0]).pixels == 0))

        monkeypatch.setattr(dc, "edited", edited)
        found = run[0].figures(data, rng=None)
        moved = [value for name, value in found.items() if name.endswith("mean change of a pixel that should stay")]
        assert moved == pytest.approx([want] * 3), "of round trips and of two edits"


def test_diffusionclip_figures_are_shares_of_the_edits_that_are_right(run, data, monkeypatch):
    """Of edits that draw the scene that is asked for, but leave the last picture as it was."""
    monkeypatch.setattr(measured, "SHOWN", 3)

    def edited(system, x_0, edit):
        _, wanted = dc.asked_of("test", edit, 3)
        x = data.scale(shapes.render(shapes.arrange(wanted, rng=np.random.default_rng(0))))
        return np.concatenate([x[:2], x_0[2:]])

    monkeypatch.setattr(dc, "edited", edited)
    found = run[0].figures(data, rng=None)
    assert found["round trips that are right"] == 1
    assert found["edits to blue that are right"] == found["edits to blue and white that are right"] == 2 / 3


def test_diffusionclip_edits_do_not_depend_on_the_block_that_they_are_in(run, data, monkeypatch):
    x_0 = data.scale(data.test.images[:3])
    whole = dc.edited(run[0], x_0, ("blue",))
    monkeypatch.setattr(dc, "BLOCK", 2)
    np.testing.assert_allclose(dc.edited(run[0], x_0, ("blue",)), whole, atol=1e-4)
    assert abs(whole[2] - whole[0]).max() > 0.1


def test_diffusionclip_one_edit_has_no_mixture(data):
    system = dc.build(dataclasses.replace(TINY, edits=("red",)), data, seed=0)
    assert set(system.pictures) == {"edits"}


def test_diffusionclip_clip_sees_the_colour_change_of_its_caption(run):
    """The embedder is CLIP's own: a rewritten caption has another vector, an equal one has the same."""
    system, _ = run
    embedder = clip.Embedder(system.modules["clip"])
    red, blue = dc.told(embedder, [parse(f"a small {colour} circle at the top") for colour in ("red", "blue")])
    assert np.linalg.norm(red - blue) > 1e-4
    np.testing.assert_allclose(dc.told(embedder, [parse("a small blue circle at the top")])[0], blue, atol=1e-6)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": 0}, "base must be at least 1"),
        ({"patch": 5}, "patch is 5 and multipliers has 2 levels, .* must be multiples of 10, got 32 x 32"),
        ({"multipliers": (1,) * 6}, "multipliers has 6 levels, each of half the size"),
        ({"tune_steps": 0}, "tune_steps must be at least 1"),
        ({"clip_steps": -1}, "clip_steps must be at least 0"),
        ({"identity": -1.0}, "identity must be at least 0"),
        ({"most": -1.0}, "most must be at least 1, got -1.0"),
        ({"most": float("nan")}, "most must be at least 1, got nan"),
        ({"edits": ()}, "edits must name at least one edit"),
        ({"edits": ("blue", "blue")}, "edits must name at least one edit, each once"),
        ({"edits": ("pink",)}, "edits must be words of"),
        ({"t_0": 21}, "t_0 must be from 1 to T = 20"),
        ({"levels": 9}, "levels must be from 1 to t_0 = 8"),
        ({"prior_time": 0}, "prior_time must be from 1"),
        ({"same": -1.0}, "same must be at least 0"),
        ({"tuning": "half"}, "tuning must be 'full' or 'per_step'"),
    ],
)
def test_diffusionclip_settings_that_do_not_fit(data, change, said):
    with pytest.raises(ValueError, match=said):
        dc.build(dataclasses.replace(TINY, **change), data, seed=0)


def test_diffusionclip_bad_requests(run, data, monkeypatch):
    system, _ = run
    x, rng = data.scale(data.test.images[:1]), np.random.default_rng(0)
    with pytest.raises(ValueError, match="edit must be of blue, white with these weights, got 'red'"):
        dc.edited(system, x, ("red",))
    with pytest.raises(ValueError, match="each edit once"):
        dc.edited(system, x, ("blue", "blue"))
    with pytest.raises(ValueError, match="a strength for each edit"):
        dc.edited(system, x, ("blue",), strength=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"strengths must be finite, got 1\.0, nan"):
        dc.edited(system, x, ("blue", "white"), strength=(1.0, float("nan")))
    with pytest.raises(ValueError, match="t_0 must be from 0 to 20, got 21"):
        dc.edited(system, x, ("blue",), t_0=21)
    with pytest.raises(ValueError, match="eta"):
        dc.edited(system, x, ("blue",), eta=2.0)
    with pytest.raises(ValueError, match="leave --mask out"):
        system.edit(x[0], np.ones((32, 32, 1), bool), n=1, rng=rng, edit=("blue",))
    with pytest.raises(ValueError, match="edit must name an edit"):
        system.edit(x[0], None, n=1, rng=rng, edit=())
    with pytest.raises(ValueError, match="steps must be left out"):
        system.sample(1, rng=rng, steps=3, edit=("blue",))
    with pytest.raises(ValueError, match="leave --trajectory out"):
        system.sample(1, rng=rng, edit=("blue",), callback=lambda t, x_t: None)
    with pytest.raises(ValueError, match="--edit has no sampler: leave it out, got 'plms'"):
        system.sample(1, rng=rng, edit=("blue",), sampler="plms")
    with pytest.raises(ValueError, match="data set 'shapes'"):
        dc.build(TINY, load("digits"), seed=0)
    few = shapes.scenes("val")[:12]
    monkeypatch.setattr(shapes, "scenes", lambda split: few)
    many = len(dc.asked_of("val", ("blue",), 12)[1])
    assert 0 < many < 12 and len(system.sample(many, rng=rng, edit=("blue",))) == many
    with pytest.raises(ValueError, match=f"n must be at most {many}, the validation pictures to edit, got {many + 1}"):
        system.sample(many + 1, rng=rng, edit=("blue",))
