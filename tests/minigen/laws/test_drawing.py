"""A sampler of the laws with a network's stand-in: what ours draws on the same levels, in every space and kind."""

import dataclasses
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest

from minigen.__main__ import main
from minigen.data import load
from minigen.laws import as_sampler
from minigen.laws.beds import pair
from minigen.laws.protocol import Level
from minigen.maths import schedules
from minigen.models import ddpm, sampling
from minigen.samplers import ddim

CHAIN = schedules.linear(100)


def network(x_t, t, cond=None):
    """Says eps, and where it was asked."""
    return 0.6 * x_t + np.float32(0.003) * t.reshape(-1, 1, 1, 1).astype(np.float32)


class Steps:
    """DDIM with eta 0 on the levels that ours visits, in the units of a space."""

    claims: ClassVar[dict[str, Any]] = {}

    def __init__(self, space, kind, chain=CHAIN):
        self.space, self.kinds, self.chain = space, (kind,), chain

    def levels(self, n):
        grid = schedules.spaced(self.chain, n)
        found = []
        for k in range(n, -1, -1):
            a, s = float(grid.alpha_bar[k]) ** 0.5, float(1 - grid.alpha_bar[k]) ** 0.5
            size = {"vp": 1.0, "sigma": a, "flow": a + s}[self.space]
            found.append((float(k), a / size, s / size))
        return found

    def sample(self, model, x, n, noise):
        for here, (_, a, s) in pairwise(self.levels(n)):
            x_0, eps = pair(self.kinds[0], model(x, here[0]), x, Level(*here))
            x = a * x_0 + s * eps
        return x


@pytest.mark.parametrize(
    ("space", "kind"),
    [("vp", "eps"), ("vp", "x_0"), ("vp", "v"), ("sigma", "x_0"), ("sigma", "eps"), ("flow", "velocity")],
)
@pytest.mark.parametrize("clip", [None, 1.0])
def test_it_draws_what_ours_draws_on_the_same_levels(space, kind, clip, rng):
    x_T = rng.standard_normal((3, 2, 2, 1)).astype(np.float32)
    want = ddim.sample(network, x_T, schedules.spaced(CHAIN, 7), clip=clip)
    seen = []
    got = as_sampler(Steps(space, kind))(
        network, x_T, CHAIN, steps=7, rng=rng, clip=clip, callback=lambda t, x: seen.append(t)
    )
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    assert got.dtype == np.float32
    np.testing.assert_allclose(seen, schedules.spaced(CHAIN, 7).times[:0:-1])


def test_noise_beyond_the_networks_own_is_told_as_the_most_that_it_knows(rng):
    told = []

    def model(x_t, t, cond):
        told.append(float(t[0]))
        return 0 * x_t

    class Far(Steps):
        def levels(self, n):
            return [(2.0, 1.0, 1e4), (1.0, 1.0, 1e-6), (0.0, 1.0, 0.0)]

    as_sampler(Far("sigma", "x_0"))(model, np.ones((1, 1, 1, 1), np.float32), CHAIN, steps=2, rng=rng)
    assert told == [100.0, 1.0]


def test_a_sampler_with_noise_hears_the_generator():
    class Noisy(Steps):
        def sample(self, model, x, n, noise):
            return x + noise(x.shape)

    x_T = np.zeros((2, 1, 1, 1), np.float32)
    draws = [
        as_sampler(Noisy("vp", "eps"))(network, x_T, CHAIN, steps=2, rng=np.random.default_rng(s)) for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], np.random.default_rng(0).standard_normal((2, 1, 1, 1)).astype(np.float32))
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).all()


def test_mistakes_are_one_sentence(rng):
    class Lost(Steps):
        def sample(self, model, x, n, noise):
            return model(x, 3.3)

    class Without(Steps):
        def levels(self, n):
            return []

    x_T = np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises(ValueError, match=r"the sampler Lost: the model was told time 3\.3, which no noisy level has"):
        as_sampler(Lost("vp", "eps"))(network, x_T, CHAIN, steps=4, rng=rng)
    with pytest.raises(ValueError, match=r"the sampler Without: levels\(4\) gave 0 levels"):
        as_sampler(Without("vp", "eps"))(network, x_T, CHAIN, steps=4, rng=rng)
    with pytest.raises(TypeError):
        as_sampler(3)
    with pytest.raises(ValueError, match=r"a sampler of your own has no eta: leave it out, got 0\.5"):
        sampling.draw(network, x_T, CHAIN, steps=4, rng=rng, sampler=as_sampler(Steps("vp", "eps")), eta=0.5)


class Fewer(Steps):
    def levels(self, n):
        return super().levels(n - 1)


class Twice(Steps):
    def levels(self, n):
        levels = super().levels(n)
        return [levels[0], *levels[:-2], levels[-1]]


class Clean(Steps):
    def levels(self, n):
        *noisy, last = super().levels(n)
        return [*noisy[:-1], (noisy[-1][0], *last[1:]), last]


class One(Steps):
    def sample(self, model, x, n, noise):
        return super().sample(model, x, n, noise)[:1]


class Wide(Steps):
    def sample(self, model, x, n, noise):
        return np.float64(1) * super().sample(model, x, n, noise).astype(np.float64)


class ShowsOne(Steps):
    def sample(self, model, x, n, noise):
        return x + model(x[:1], np.float64(n))


class ForOne(Steps):
    def sample(self, model, x, n, noise):
        return x + noise(x[:1].shape)


class Raises(Steps):
    def sample(self, model, x, n, noise):
        raise KeyError("sigmas")


class Changes(Steps):
    def sample(self, model, x, n, noise):
        x *= 2
        return super().sample(model, x, n, noise)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (Fewer, r"levels\(4\) has 3 noisy levels: 3, 2, 1"),
        (Twice, r"levels\(4\) repeat a time, or hold one without noise before the data: 4, 4, 3, 2"),
        (Clean, r"levels\(4\) repeat a time, or hold one without noise before the data: 4, 3, 2, 1"),
        (One, r"sample returned float32 \(1, 2, 2, 1\) for float32 \(3, 2, 2, 1\)"),
        (Wide, "sample returned float64 for states of float32: a coefficient that is an np.float64 widens them"),
        (ShowsOne, r"the model was shown float32 \(1, 2, 2, 1\) where the run began with float32 \(3, 2, 2, 1\)"),
        (ForOne, r"drew noise of shape \(1, 2, 2, 1\) for states of shape \(3, 2, 2, 1\)"),
        (Raises, r"sample raised KeyError: 'sigmas' \(test_drawing\.py:\d+\)"),
        (Changes, "sample changed x, its input"),
    ],
)
def test_a_sampler_is_held_to_the_protocol_as_the_laws_hold_it(sampler, words, rng):
    x_T = rng.standard_normal((3, 2, 2, 1)).astype(np.float32)
    with pytest.raises(ValueError, match=f"^the sampler {sampler.__name__}: {words}"):
        as_sampler(sampler("vp", "eps"))(network, x_T, CHAIN, steps=4, rng=rng)


@pytest.mark.parametrize("error", [KeyError("weights"), ValueError("no such label"), FloatingPointError("NaN")])
def test_what_the_network_raises_is_not_the_samplers_fault(error, rng):
    def broken(x_t, t, cond=None):
        raise error

    with pytest.raises(type(error)) as caught:
        as_sampler(Steps("vp", "eps"))(broken, np.ones((1, 1, 1, 1), np.float32), CHAIN, steps=4, rng=rng)
    assert caught.value is error


YOURS = """
class Plain:
    space, claims, kinds = "sigma", {}, ("x_0",)

    def levels(self, n):
        return [(4.0, 1.0, 4.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0)]

    def sample(self, model, x, n, noise):
        x_0 = model(x, 4.0)
        return model(x_0 + (x - x_0) / 4.0, 1.0)

class Raises(Plain):
    def sample(self, model, x, n, noise):
        raise KeyError("sigmas")
"""


def test_a_system_and_the_command_line_take_it(tmp_path, monkeypatch, capsys):
    config = ddpm.Config(base=8, steps=1, T=50, sample_steps=2)
    system = ddpm.build(config, load("digits"), seed=0)
    sampler = as_sampler(Steps("vp", "eps", schedules.cosine(50)))
    got, want = (system.sample(3, rng=np.random.default_rng(0), steps=5, sampler=name) for name in (sampler, "ddim"))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_mine.py").write_text(YOURS)
    flags = [
        f"--{key.replace('_', '-')}={value}"
        for key, value in dataclasses.asdict(config).items()
        if key in ("base", "steps", "T")
    ]
    assert main(["train", "ddpm", "--out", "run", *flags, "--sample-steps", "2"]) == 0
    sample = ["sample", "ddpm", "--weights", "run/weights.safetensors", "--n", "2", "--out", "a.png", "--sampler"]
    assert main([*sample, "of_mine:Plain"]) == 0 and (tmp_path / "a.png").exists()
    for name, words in (
        ("of_mine:Other", "has no 'Other'"),
        ("of_mine:YOURS", "has no 'YOURS'"),
        ("slow", "module:Name"),
    ):
        assert main([*sample, name]) != 0
        assert words in capsys.readouterr().err
    assert main([*sample, "of_mine:Raises"]) == 2
    assert "cannot sample: the sampler Raises: sample raised KeyError: 'sigmas' (of_mine.py:" in capsys.readouterr().err
    assert main([*sample, "of_mine:Plain", "--steps", "3"]) == 2
    assert "cannot sample: the sampler Plain: levels(3) has 2 noisy levels" in capsys.readouterr().err
