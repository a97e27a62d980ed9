"""Sound samplers that are built otherwise than ours, which no law may fail, and noise that is not what it was drawn for.

They claim what their author would think of; levels are those of Karras et al. 2022, eq. 5, from 80 to 0.02.
"""

from copy import copy
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest

from minigen.laws import report, run_laws, shrink
from minigen.laws.suite import choose


class Stranger:
    """x_0 is predicted, and the slope is (x - x_0) / sigma."""

    space = "sigma"
    kinds = ("x_0",)
    claims: ClassVar[dict[str, Any]] = {"leak": 0.02, "point": True}

    def levels(self, n):
        share = np.linspace(0, 1, n) if n > 1 else np.zeros(1)
        noises = (80 ** (1 / 7) + share * (0.02 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        return [(float(s), 1.0, float(s)) for s in noises] + [(0.0, 1.0, 0.0)]

    def at(self, time):
        return 1.0, float(time)

    def sample(self, model, x, n, noise):
        for (high, _, _), (low, _, _) in pairwise(self.levels(n)):
            x = self.step(model, x, high, low, noise)
        return x

    @staticmethod
    def slope(model, x, sigma):
        return (x - model(x, sigma)) / sigma


class Heun(Stranger):
    """With the last step by Euler; it does not claim the rule "heun"."""

    claims: ClassVar = {**Stranger.claims, "calls": "2n-1", "draws": "0"}

    def step(self, model, x, high, low, noise):
        d = self.slope(model, x, high)
        if low:
            d = (d + self.slope(model, x + (low - high) * d, low)) / 2
        return x + (low - high) * d


class Churned(Heun):
    """Karras et al. 2022, algorithm 2, with churn at every level, the first included."""

    claims: ClassVar = {**Stranger.claims, "calls": "2n-1", "draws": "n"}

    def step(self, model, x, high, low, noise):
        up = 1.2 * high
        return super().step(model, x + (up**2 - high**2) ** 0.5 * noise(x.shape), up, low, noise)


class RungeKutta(Stranger):
    claims: ClassVar = {**Stranger.claims, "draws": "0"}

    def step(self, model, x, high, low, noise):
        if not low:
            return model(x, high)
        h, middle = low - high, (low + high) / 2
        one = self.slope(model, x, high)
        two = self.slope(model, x + h / 2 * one, middle)
        three = self.slope(model, x + h / 2 * two, middle)
        four = self.slope(model, x + h * three, low)
        return x + h / 6 * (one + 2 * two + 2 * three + four)


class Restart(Stranger):
    """Xu et al. 2023: down to the last noise, up again by fresh noise, and down once more."""

    claims: ClassVar = {
        **Stranger.claims,
        "calls": lambda n: 2 * n - 1 - n // 2 if n > 2 else n,
        "draws": lambda n: int(n > 2),
    }

    def sample(self, model, x, n, noise):
        sigmas = [time for time, _, _ in self.levels(n)]

        def down(x, sigmas):
            for high, low in pairwise(sigmas):
                x = x + (low - high) * self.slope(model, x, high)
            return x

        if n < 3:
            return down(x, sigmas)
        up = sigmas[n // 2]
        x = down(x, sigmas[:-1])
        return down(x + (up**2 - sigmas[-2] ** 2) ** 0.5 * noise(x.shape), sigmas[n // 2 :])


class Ancestral(Stranger):
    """DDPM's step in these units, with the variance "small"."""

    claims: ClassVar = {**Stranger.claims, "calls": "n", "draws": "n-1", "eta": 1.0}

    def step(self, model, x, high, low, noise):
        kept = (low / high) ** 2
        x = kept * x + (1 - kept) * model(x, high)
        return x + low * (1 - kept) ** 0.5 * self.z(noise, x.shape) if low else x

    def z(self, noise, shape):
        return noise(shape)


class Minus(Ancestral):
    def z(self, noise, shape):
        return -noise(shape)


class OfTwoDraws(Ancestral):
    claims: ClassVar = {**Ancestral.claims, "draws": lambda n: 2 * (n - 1)}

    def z(self, noise, shape):
        return 0.6 * noise(shape) - 0.8 * noise(shape)


class Beforehand(Ancestral):
    """All is drawn at the start, and the last draw is used first."""

    def sample(self, model, x, n, noise):
        drawn = [noise(x.shape) for _ in range(n - 1)]
        return super().sample(model, x, n, lambda shape: drawn.pop())


class Unfinished(Ancestral):
    """Down to a level that has noise still: what is drawn in the last step belongs there."""

    claims: ClassVar = {**Ancestral.claims, "draws": "n", "rest": 0.02}

    def levels(self, n):
        return super().levels(n + 1)[:-1]


class PlainEuler(Stranger):
    """Euler's method for dx / dt in the angle t, x = cos t x_0 + sin t eps: exact for no data, one point neither."""

    space, kinds = "vp", ("v",)
    claims: ClassVar = {"calls": "n", "draws": "0", "order": 1}

    def __init__(self, sigmas=None):
        self.sigmas = sigmas

    def on(self, sigmas):
        return PlainEuler(sigmas)

    def levels(self, n):
        angles = np.append(np.linspace(1.55, 0.02, n) if self.sigmas is None else np.arctan(self.sigmas), 0)
        return [(float(t), float(np.cos(t)), float(np.sin(t))) for t in angles]

    def step(self, model, x, high, low, noise):
        return x + (low - high) * model(x, high)


@pytest.mark.parametrize(
    "sampler", [Heun, Churned, RungeKutta, Restart, Ancestral, Minus, OfTwoDraws, Beforehand, Unfinished, PlainEuler]
)
def test_a_sound_sampler_of_another_build_is_passed(sampler):
    verdicts = [*run_laws(sampler())]
    assert not [v for v in verdicts if v.failed], report(verdicts)


def test_a_walk_that_does_not_say_that_it_ends_above_the_data_is_told_so():
    sampler = Unfinished()
    for claim, allowed in (({}, 1e-4), ({"rest": 0.01}, 0.01)):
        sampler.claims = {name: v for name, v in Unfinished.claims.items() if name != "rest"} | claim
        (verdict,) = [v for v in run_laws(sampler) if v.failed]
        assert verdict.law == "L3b" and verdict.limit == allowed and "noise left at the last of" in verdict.detail


class Cut(PlainEuler):
    def step(self, model, x, high, low, noise):
        return super().step(model, x, high, low, noise).clip(-9, 9)


class Louder(Minus):
    def z(self, noise, shape):
        return -1.001 * noise(shape)


class Twice(Beforehand):
    """The first draw stands for the second too."""

    def sample(self, model, x, n, noise):
        drawn = [noise(x.shape) for _ in range(n - 1)]
        drawn[1:2] = drawn[:1] * len(drawn[1:2])
        return Ancestral.sample(self, model, x, n, lambda shape: drawn.pop())


@pytest.mark.parametrize(("sampler", "law"), [(Cut, "L15"), (Louder, "L10"), (Twice, "L10")])
def test_what_is_slightly_wrong_with_them_is_seen_still(sampler, law):
    assert [v.failed for v in run_laws(sampler(), law, "float64")] == [True]


class ALittleLouder(Ancestral):
    def z(self, noise, shape):
        return 1.01 * noise(shape)


def test_draws_that_are_used_as_they_come_are_judged_by_the_path():
    """Which shows more than the sizes of the steps' noises do, that those would be judged by whose draws are mixed."""
    assert [v.failed for v in run_laws(ALittleLouder(), "L10", "float32")] == [True]


class Squared(Ancestral):
    """Items have three axes, as pictures, and z^2 stands for z."""

    shape, claims = (2, 3, 1), {**Ancestral.claims, "eta": None}

    def z(self, noise, shape):
        return noise(shape) ** 2


class Bounded(Squared):
    def z(self, noise, shape):
        return noise(shape).clip(-2, 2)


class Transposed(Heun):
    """The guess of a square picture is turned over."""

    shape = (3, 3)

    @staticmethod
    def slope(model, x, sigma):
        return (x - model(x, sigma).swapaxes(1, 2)) / sigma


@pytest.mark.parametrize("sampler", [Squared, Bounded, Transposed])
def test_pictures_are_turned_too_and_no_pixel_stands_for_another(sampler):
    assert {v.law for v in run_laws(sampler()) if v.failed} == {"L15"}


class Up(Heun):
    """A call at an earlier level that no noise led up to."""

    claims: ClassVar = {"calls": lambda n: 3 * n - 2}

    def step(self, model, x, high, low, noise):
        x = super().step(model, x, high, low, noise)
        if low:
            model(x, high)
        return x


class Loud(Churned):
    """Noise before the first call of which the model is not told."""

    def step(self, model, x, high, low, noise):
        return Heun.step(self, model, x + (1.2**2 - 1) ** 0.5 * high * noise(x.shape), high, low, noise)


@pytest.mark.parametrize(
    ("sampler", "words"), [(Up, "goes back to an earlier level"), (Loud, "the first state is not")]
)
def test_calls_out_of_order_are_seen_still(sampler, words):
    assert [words in v.detail for v in run_laws(sampler(), ["L5"]) if v.failed] == [True, True]


class OnTheObject(Stranger):
    """Adams and Bashforth's rule with two slopes; a run begins by forgetting the one before, as schedulers do."""

    claims: ClassVar = {**Stranger.claims, "calls": "n", "draws": "0", "shared": True}
    last = None

    def sample(self, model, x, n, noise):
        self.last = None
        return super().sample(model, x, n, noise)

    def step(self, model, x, high, low, noise):
        d, self.last = self.slope(model, x, high), self.last
        used, self.last = d if self.last is None else (3 * d - self.last) / 2, d
        return x + (low - high) * (used if low else d)


class OfEachThread(OnTheObject):
    """The same; what is remembered is kept by run, as a thread's own would be."""

    claims: ClassVar = {**OnTheObject.claims}

    def sample(self, model, x, n, noise):
        return super(OfEachThread, copy(self)).sample(model, x, n, noise)


def test_what_runs_share_on_the_object_is_seen_where_they_may_go_on_at_the_same_time():
    broken = {v.law: v.detail for v in run_laws(OnTheObject()) if v.failed}
    assert list(broken) == ["L5c"] and "with a run of 1 in every call of the model" in broken["L5c"]
    assert not [v for v in run_laws(OfEachThread()) if v.failed]
    unclaimed = OnTheObject()
    unclaimed.claims = {name: value for name, value in unclaimed.claims.items() if name != "shared"}
    assert not [v for v in run_laws(unclaimed) if v.failed], "it did not say so"
    (law,) = choose("L5c")
    assert shrink.smallest(OnTheObject, {}, law, next(v for v in run_laws(OnTheObject(), "L5c") if v.failed)).n == 4


class Fresh(Stranger):
    """To the guess of x_0 and up to the next level by fresh noise (Song et al. 2023, algorithm 1)."""

    claims: ClassVar = {"calls": "n", "draws": "n-1"}

    def step(self, model, x, high, low, noise):
        x = model(x, high)
        return x + low * noise(x.shape) if low else x


class Thrown(Fresh):
    """Every draw but the first is thrown away."""

    def sample(self, model, x, n, noise):
        heard = []

        def first(shape):
            heard.append(noise(shape))
            return heard[0] if len(heard) == 1 else 0 * heard[-1]

        return super().sample(model, x, n, first)


class Reused(Fresh):
    """The first draw stands for every other."""

    def sample(self, model, x, n, noise):
        heard = []

        def first(shape):
            heard.append(noise(shape))
            return heard[0]

        return super().sample(model, x, n, first)


@pytest.mark.parametrize("sampler", [Thrown, Reused])
def test_every_draw_makes_a_difference(sampler):
    assert not [v for v in run_laws(Fresh()) if v.failed]
    assert ["draw 2 makes no difference" in v.detail for v in run_laws(sampler(), ["L28"])] == [True, True]


def test_none_is_no_claim():
    sampler = Fresh()
    sampler.claims = {**Fresh.claims, "eta": None, "rule": None, "point": None}
    assert not [v for v in run_laws(sampler) if v.failed]


class Staggered(Heun):
    """The model is told the times of a batch, and the last row's is another."""

    def step(self, model, x, high, low, noise):
        times = np.full(len(x), high)
        times[-1] = low or high
        return super().step(lambda x, time: model(x, times if time == high else time), x, high, low, noise)


class OneTooMany(Heun):
    """The model is told the times of a batch, one more than it has rows."""

    def step(self, model, x, high, low, noise):
        return super().step(lambda x, time: model(x, np.full(len(x) + 1, time)), x, high, low, noise)


@pytest.mark.parametrize("sampler", [Staggered, OneTooMany])
def test_a_batch_is_told_one_time(sampler):
    (verdict, *_) = [v for v in run_laws(sampler(), ["L0"]) if v.failed]
    assert "times for a batch of" in verdict.detail and "not the same for all rows" in verdict.detail
