"""The flags of sampling: every sampler by its name, and one sentence for what does not go together."""

import dataclasses
from typing import get_args, get_type_hints

import numpy as np
import pytest
from oracles import gaussian_eps

from minigen.data import load
from minigen.maths import schedules
from minigen.models import ddpm, sampling
from minigen.samplers import ancestral, choose, ddim

SCHEDULE = schedules.cosine(12)
MODEL = gaussian_eps(0.2, 0.3, SCHEDULE)


def draw(steps=5, model=MODEL, **how):
    return sampling.draw(model, np.full((3, 2), 0.7), SCHEDULE, steps=steps, rng=np.random.default_rng(0), **how)


def test_the_flags_know_every_sampler_and_spacing():
    hints = get_type_hints(sampling.Sampling)
    named = {sampling.with_variance(name, None, own) for name in get_args(hints["sampler"]) for own in ("small",)}
    named |= set(sampling.BY_VARIANCE.values())
    assert named == set(choose.SAMPLERS)
    assert get_args(hints["spacing"]) == schedules.SPACINGS


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
        ({"sampler": "dim"}, "unknown sampler 'dim'"),
        ({"spacing": "even"}, "unknown spacing 'even'"),
        ({"sampler": "ddim", "eta": 1.5}, "eta must be from 0"),
        ({"sampler": "ddim", "eta": -0.1}, "eta must be from 0"),
        ({"sampler": "ddim", "eta": float("nan")}, "eta must be from 0"),
        ({"sampler": "heun", "eta": 0.5}, "'heun' has no eta"),
        ({"eta": 0.5}, "'ancestral' has no eta"),
        ({"sampler": "ddim", "variance": "large"}, "'ddim' has none, got 'large'"),
        ({"variance": "big"}, "variance must be one of 'small', 'large', 'learned', got 'big'"),
    ):
        with pytest.raises(ValueError, match=what):
            draw(model=never, **how)
    with pytest.raises(ValueError, match="'learned' needs a model that returns a pair"):
        draw(variance="learned")


def test_the_flags_are_the_arguments():
    fields = {field.name for field in dataclasses.fields(sampling.Sampling)}
    assert fields == {"sampler", "spacing", "eta", "variance"}
    assert np.isfinite(draw(**dataclasses.asdict(sampling.Sampling()))).all()
