"""What the diffusion models share: the flags of sampling, every sampler by its name, one sentence for what does not go
together; and the times that they are trained at.
"""

import dataclasses
import re
from typing import get_args, get_type_hints

import numpy as np
import pytest
from oracles import gaussian_eps

import autograd as ag
from minigen.data import load
from minigen.maths import schedules
from minigen.models import adm, classifier_free, dalle2_prior, ddpm, glide, improved_ddpm, sampling, stable_diffusion
from minigen.samplers import ancestral, choose, ddim, inpaint

SCHEDULE = schedules.cosine(12)
MODEL = gaussian_eps(0.2, 0.3, SCHEDULE)


class Walk:
    """One's own sampler, not as a function."""


def draw(steps=5, model=MODEL, **how):
    return sampling.draw(model, np.full((3, 2), 0.7), SCHEDULE, steps=steps, rng=np.random.default_rng(0), **how)


def test_the_flags_know_every_sampler_and_spacing():
    hints = get_type_hints(sampling.Sampling)
    literal, text = get_args(hints["sampler"])  # text: module:Name, one's own
    assert text is str
    named = {sampling.with_variance(name, None, "small") for name in get_args(literal)}
    named |= set(sampling.BY_VARIANCE.values())
    assert named == set(choose.SAMPLERS)
    (names,) = (get_args(kind) for kind in get_args(hints["spacing"]) if get_args(kind))
    assert names == schedules.SPACINGS


def test_a_setting_reaches_its_sampler():
    grid = schedules.spaced(SCHEDULE, 5, "quadratic")
    x_T = np.full((3, 2), 0.7)
    rng = np.random.default_rng
    want = ancestral.sample(MODEL, x_T, grid, rng=rng(0), variance="large", clip=1.0)
    np.testing.assert_array_equal(draw(spacing="quadratic", variance="large"), want)
    np.testing.assert_array_equal(draw(spacing="quadratic", own="large"), want)
    want = ddim.sample(MODEL, x_T, grid, rng=rng(0), eta=0.5, clip=1.0)
    np.testing.assert_array_equal(draw(spacing="quadratic", sampler="ddim", eta=0.5), want)
    same = draw(sampler="ddim", eta=1.0), draw(sampler="ancestral", variance="small")
    np.testing.assert_allclose(*same, atol=1e-14)


@pytest.mark.parametrize("sampler", [name for name in choose.SAMPLERS if "-l" not in name])
def test_every_sampler_draws_by_its_flag_at_fractional_times_too(sampler):
    """A network is told times between those it was trained with under "karras", and the callback sees them."""
    system = ddpm.build(ddpm.Config(base=8, heads=1, T=9), load("digits"), seed=0)
    seen = []
    x = system.sample(
        2,
        rng=np.random.default_rng(0),
        steps=4,
        sampler=sampler,
        spacing="karras",
        callback=lambda t, x_t: seen.append((t, x_t.shape)),
    )
    assert x.shape == (2, 8, 8, 1) and x.dtype == np.float32 and np.abs(x).max() <= 1
    times = [t for t, _ in seen]
    assert times[0] == 9 and times[-1] == 0 and len(times) == 5 and any(t % 1 for t in times)
    assert {shape for _, shape in seen} == {(2, 8, 8, 1)}


def test_what_does_not_go_together_is_named_before_the_network_is_asked():
    def never(x_t, t, cond=None):
        raise AssertionError("the network was asked")

    for how, what in (
        ({"steps": 0}, "steps must be from 1 to 12"),
        ({"steps": 13}, "steps must be from 1 to 12"),
        ({"steps": 13, "spacing": "karras"}, "steps must be from 1 to 12"),
        ({"sampler": "dim"}, "unknown sampler 'dim': use one of ancestral, .*, or one of yours: --sampler module:Name"),
        ({"sampler": Walk()}, r"must be a name or a function: hand over minigen\.laws\.as_sampler\(your Walk\)"),
        ({"sampler": Walk}, r"must be a name or a function: hand over minigen\.laws\.as_sampler\(Walk\(\)\)"),
        ({"spacing": "even"}, "unknown spacing 'even'"),
        ({"sampler": "ddim", "eta": 1.5}, "eta must be from 0"),
        ({"sampler": "ddim", "eta": -0.1}, "eta must be from 0"),
        ({"sampler": "ddim", "eta": float("nan")}, "eta must be from 0"),
        ({"sampler": "heun", "eta": 0.5}, "'heun' has no eta"),
        ({"eta": 0.5}, "'ancestral' has no eta"),
        ({"eta": 0.5, "variance": "large"}, "'ancestral' has no eta"),
        ({"eta": 0.5, "own": "learned"}, "'ancestral' has no eta"),
        ({"sampler": "ddim", "variance": "large"}, "'ddim' has none, got 'large'"),
        ({"variance": "big"}, "variance must be one of 'small', 'large', 'learned', got 'big'"),
        ({"variance": "learned"}, "'learned' needs a model that has learnt one, and this one has not"),
        ({"variance": "learned", "steps": 1}, "'learned' needs a model that has learnt one"),
        ({"strength": 0.5}, "drawing from noise has no strength: leave it out, got 0.5"),
        ({"start": np.zeros((1, 2))}, "strength must be above 0 and at most 1, got None"),
    ):
        with pytest.raises(ValueError, match=what):
            draw(model=never, **how)


def test_the_error_names_the_samplers_that_the_help_names():
    with pytest.raises(ValueError, match="unknown sampler") as caught:
        draw(sampler="dim")
    with pytest.raises(ValueError, match="unknown sampler 'ancestral-large'"):  # that is --variance large
        draw(sampler="ancestral-large")
    (said,) = re.findall(r"use one of (.*), or one of yours", str(caught.value))
    assert tuple(said.split(", ")) == get_args(get_args(get_type_hints(sampling.Sampling)["sampler"])[0])


def test_a_sampler_of_ones_own_begins_with_noise():
    with pytest.raises(
        ValueError, match="a sampler of your own begins with noise: to begin with a picture name one of"
    ):
        draw(model=None, sampler=lambda *args, **settings: None, strength=0.5)


def test_the_flags_are_the_arguments():
    fields = {field.name for field in dataclasses.fields(sampling.Sampling)}
    assert fields == {"sampler", "spacing", "eta", "variance"}
    assert np.isfinite(draw(**dataclasses.asdict(sampling.Sampling()))).all()


# --- what the models that these flags sample have in common -----------------------------------------------------------

SMALL = {
    ddpm: {"base": 8, "heads": 1},
    improved_ddpm: {"base": 8, "heads": 1},
    classifier_free: {"base": 8, "heads": 1},
    adm: {"base": 8, "classifier_base": 8},
}


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.__name__)
def test_decay_is_a_setting_and_by_default_what_it_was_before_it_was_one(model):
    decays = {"weight_decay": 0.3} | ({"classifier_weight_decay": 0.4} if model is adm else {})
    for config, of in (
        (model.Config(**SMALL[model]), [0.01, 0.05]),
        (model.Config(**SMALL[model], **decays), [0.3, 0.4]),
    ):
        stages = model.build(config, load("digits"), seed=0).stages()
        assert [stage.weight_decay for stage in stages] == of[: len(stages)]


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.__name__)
@pytest.mark.parametrize(("asked", "visited"), [(3, 3), (4, 4), (9, 4)])
def test_sample_steps_of_t_or_more_visit_all_levels(model, asked, visited):
    system = model.build(model.Config(**SMALL[model], T=4, sample_steps=asked), load("digits"), seed=0)
    seen = []
    system.sample(1, rng=np.random.default_rng(0), callback=lambda t, x_t: seen.append(t))
    assert len([t for t in seen if t]) == visited


# --- editing with a network that was never trained for it -------------------------------------------------------------


def edit(keep, n=3, model=MODEL, **how):
    image = np.linspace(-1, 1, 4, dtype=np.float32).reshape(2, 2, 1)
    settings = {"n": n, "rng": np.random.default_rng(0), "steps": 6, **how}
    return image, sampling.edit(model, image, keep, SCHEDULE, **settings)


def test_a_setting_of_the_other_way_to_edit_is_refused():
    keep = np.ones((2, 2, 1), bool)
    with pytest.raises(ValueError, match="painting by a mask has no strength: leave it out, got 9"):
        edit(keep, strength=9)
    with pytest.raises(ValueError, match="an edit without a mask has no resample: leave it out, got -4"):
        edit(None, resample=-4)


def test_known_pixels_stay_bit_for_bit_and_the_others_differ_from_edit_to_edit():
    keep = np.array([[1, 0], [1, 1]], bool)[..., None]
    image, found = edit(keep)
    assert found.shape == (3, 2, 2, 1) and found.dtype == np.float32
    np.testing.assert_array_equal(found[:, keep], np.broadcast_to(image[keep], (3, 3)))
    assert len(np.unique(found[:, ~keep])) == 3


def test_an_edit_is_inpaint_with_these_settings():
    keep = np.array([[1, 0], [1, 1]], bool)[..., None]
    image, found = edit(keep, resample=3)
    rng, grid = np.random.default_rng(0), schedules.spaced(SCHEDULE, 6)
    x_0 = np.repeat(image[None], 3, 0)
    x_T = rng.standard_normal(x_0.shape).astype(np.float32)
    want = inpaint.replace(MODEL, x_T, x_0, keep, grid, rng=rng, resample=3, clip=1.0)
    np.testing.assert_array_equal(found, want)
    _, found = edit(None, strength=0.5)
    want = inpaint.img2img(MODEL, x_0, grid, 0.5, rng=np.random.default_rng(0), eta=1.0, clip=1.0)
    np.testing.assert_array_equal(found, want)


def test_less_strength_keeps_more_of_the_picture():
    moved = []
    for strength in (0.2, 0.5, 1.0):
        image, found = edit(None, n=400, strength=strength)
        moved.append(np.square(found - image).mean())
    assert moved[0] < moved[1] < moved[2]


@pytest.mark.parametrize(
    ("keep", "how", "said"),
    [
        (None, {"strength": 0.0}, "strength must be above 0 and at most 1, got 0.0"),
        (None, {"strength": 1.5}, "strength must be above 0 and at most 1, got 1.5"),
        (np.ones((2, 2, 1), bool), {"resample": 0}, "resample must be at least 1, got 0"),
        (np.ones((2, 2, 1), bool), {"steps": 13}, "steps must be from 1 to 12"),
        (np.ones((3, 2, 1), bool), {}, "mask must have the size of the picture"),
    ],
)
def test_settings_of_editing_that_are_out_of_range(keep, how, said):
    with pytest.raises(ValueError, match=said):
        edit(keep, **how)


def test_heun_goes_with_the_spacing_of_its_paper():
    """On even levels of a cosine schedule its first step, from sigma 4058 to 12, multiplies what x_0 is seen better by
    with 4058 / 24.
    """
    schedule = schedules.cosine(200)
    model, x_T = gaussian_eps(0.2, 3.0, schedule), np.linspace(-2, 2, 9)[:, None]

    def error(**how):
        settings = {"steps": 18, "rng": None, "sampler": "heun", "clip": None}
        exact = 0.2 + 3.0 * x_T  # the flow of a Gaussian, from pure noise
        return np.abs(sampling.draw(model, x_T, schedule, **settings | how) - exact).max()

    assert error() == error(spacing="karras") < 3.0 / 2 < 20 * 3.0 < error(spacing="uniform")


LOSSES = {
    "ddpm": ddpm.training_loss,
    "classifier_free": lambda model, x, schedule, rng: classifier_free.training_loss(
        lambda x_t, t, y: model(x_t, t), x, np.zeros(len(x), int), 1, 0.1, schedule, rng
    ),
    "glide": lambda model, x, schedule, rng: glide.training_loss(model, x, schedule, glide.Config(edges=0.0), rng),
    "stable_diffusion": lambda model, x, schedule, rng: stable_diffusion.training_loss(
        model, x, schedule, stable_diffusion.Config(), rng
    ),
    "dalle2_prior": dalle2_prior.training_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_time_is_as_likely_as_any_other(name: str):
    n, seen = 5000, []

    def model(x_t, t):
        seen.extend(t)
        return ag.Tensor(x_t)

    LOSSES[name](model, np.ones((n, 1, 1, 1)), schedules.cosine(5), np.random.default_rng(0))
    counts = np.bincount(seen, minlength=6)
    assert counts[0] == 0 and len(counts) == 6
    assert (abs(counts[1:] - n / 5) < 6 * (n * 0.2 * 0.8) ** 0.5).all()
