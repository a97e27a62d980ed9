r"""Orders of convergence from 1 to 4, of samplers as their users write them: multistep methods that begin with steps of
lower order, and Runge and Kutta's of order 4 on the probability flow $dx / d\ln\sigma = x - \hat x_0$.
"""

from itertools import pairwise
from math import log

import numpy as np
import pytest
from numpy.polynomial import Polynomial

from minigen.laws import order_laws, run_laws

WEIGHTS = {  # of the newest value first; Hairer, Norsett and Wanner 1993, section III.1
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class Walk:
    """Levels of the space of noise, on which the model says x_0."""

    space, kinds = "sigma", ("x_0",)

    def __init__(self, order=None, order_uneven=None, sigmas=None):
        self.claims = {"draws": "0", "order": order, "order_uneven": order_uneven}
        self.sigmas = sigmas

    def on(self, sigmas):
        new = type(self).__new__(type(self))
        new.__dict__ = {**self.__dict__, "sigmas": sigmas}
        return new

    def levels(self, n):
        sigmas = np.geomspace(20, 0.02, n) if self.sigmas is None else self.sigmas
        return [(float(s), 1.0, float(s)) for s in sigmas] + [(0.0, 1.0, 0.0)]

    def noises(self, n):
        return [sigma / alpha for _, alpha, sigma in self.levels(n)]


class Adams(Walk):
    """Adams and Bashforth's method on equal steps; the first steps are those of lower order."""

    def __init__(self, order, weights=None, **claims):
        super().__init__(order, **claims)
        self.k = len(weights or WEIGHTS[order])
        self.weights = {**WEIGHTS, **({self.k: weights} if weights else {})}

    def sample(self, model, x, n, noise):
        slopes = []
        for high, low in pairwise(self.noises(n)):
            x_0 = model(x, high)
            slopes = [x - x_0, *slopes][: self.k]
            if low == 0:
                return x_0
            x = x + log(low / high) * sum(w * s for w, s in zip(self.weights[len(slopes)], slopes))


class UnequalAdams(Walk):
    """The same for steps of any lengths, the weights as integrals of Lagrange's polynomials over the step."""

    def __init__(self, order, **claims):
        super().__init__(order, **claims)
        self.k = order

    def sample(self, model, x, n, noise):
        slopes, times = [], []
        for high, low in pairwise(self.noises(n)):
            x_0 = model(x, high)
            slopes, times = [x - x_0, *slopes][: self.k], [log(high), *times][: self.k]
            if low == 0:
                return x_0
            for weight, slope in zip(self.weights(times, log(low)), slopes):
                x = x + weight * slope

    @staticmethod
    def weights(times, end):
        found = []
        for t in times:
            line = Polynomial([1.0])
            for u in times:
                if u != t:
                    line = line * Polynomial([times[0] - u, 1.0]) / (t - u)
            found.append(float(line.integ()(end - times[0])))
        return found


class RungeKutta(Walk):
    """Runge and Kutta's method of order 4, which asks between two levels."""

    shares = (1 / 6, 2 / 6, 2 / 6, 1 / 6)

    def at(self, time):
        return 1.0, float(time)

    def sample(self, model, x, n, noise):
        for high, low in pairwise(self.noises(n)):
            if low == 0:
                return model(x, high)
            x = self.step(model, x, high, (high * low) ** 0.5, low)

    def step(self, model, x, high, middle, low):
        h = log(low / high)
        one = x - model(x, high)
        y = x + h / 2 * one
        two = y - model(y, middle)
        y = x + h / 2 * two
        three = y - model(y, middle)
        y = x + h * three
        four = y - model(y, low)
        return x + h * sum(w * s for w, s in zip(self.shares, (one, two, three, four)))


class TwoLevels(RungeKutta):
    """The same with the next level in the middle of a step; one of n - 1 steps that are odd is taken alone, first."""

    def sample(self, model, x, n, noise):
        sigmas = self.noises(n)[:-1]
        if len(sigmas) % 2 == 0:
            x = self.step(model, x, sigmas[0], (sigmas[0] * sigmas[1]) ** 0.5, sigmas[1])
            sigmas = sigmas[1:]
        for high, middle, low in zip(sigmas[::2], sigmas[1::2], sigmas[2::2]):
            x = self.step(model, x, high, middle, low)
        return model(x, sigmas[-1])


class Flow(Adams):
    """The same in the space of straight paths, on y = x / (1 - t) and the noise s = t / (1 - t)."""

    space, kinds = "flow", ("velocity",)

    def levels(self, n):
        return [(s / (1 + s), 1 / (1 + s), s / (1 + s)) for s, _, _ in super().levels(n)]

    def sample(self, model, x, n, noise):
        def x_0(y, s):
            t = s / (1 + s)
            x = (1 - t) * y
            return x - t * model(x, t)

        return super().sample(x_0, x * (1 + self.noises(n)[0]), n, noise)


class ThirdOrder(Walk):
    """DPM-Solver++ with three guesses of x_0 (Lu et al. 2022, 2211.01095), in lambda = -ln sigma.

    The integral of the guess's Taylor series over a step takes phi_3 h^2 times the second derivative, which is twice
    the divided difference of second order: ``factor`` is 2.
    """

    def __init__(self, factor, **claims):
        super().__init__(3, **claims)
        self.factor = factor

    def sample(self, model, x, n, noise):
        said, times = [], []
        for high, low in pairwise(self.noises(n)):
            said, times = [model(x, high), *said][:3], [-log(high), *times][:3]
            if low == 0:
                return said[0]
            h = -log(low) - times[0]
            shrunk = np.expm1(-h)
            x = low / high * x - shrunk * said[0]
            if len(said) == 1:
                continue
            first = (said[0] - said[1]) / (times[0] - times[1])
            if len(said) == 2:
                x = x - shrunk / 2 * h * first
                continue
            second = (first - (said[1] - said[2]) / (times[1] - times[2])) / (times[0] - times[2])
            x = x + (shrunk / h + 1) * h * (first + (times[0] - times[1]) * second)
            x = x - ((shrunk + h) / h**2 - 0.5) * h**2 * self.factor * second


class KuttaOfThree(Walk):
    """Kutta's method of order 3 on velocities, with the time of straight paths: its error falls too fast at first."""

    space, kinds = "flow", ("velocity",)

    def levels(self, n):
        return [(s / (1 + s), 1 / (1 + s), s / (1 + s)) for s, _, _ in super().levels(n)]

    def at(self, time):
        return 1 - float(time), float(time)

    def sample(self, model, x, n, noise):
        for (t, _, _), (u, _, _) in pairwise(self.levels(n)):
            if u == 0:
                return x - t * model(x, t)
            h = u - t
            one = model(x, t)
            two = model(x + h / 2 * one, t + h / 2)
            three = model(x - h * one + 2 * h * two, u)
            x = x + h * (one + 4 * two + three) / 6


class Slow(UnequalAdams):
    """Of second order for the first steps."""

    def __init__(self, order, share, **claims):
        super().__init__(order, **claims)
        self.share = share

    def sample(self, model, x, n, noise):
        at = iter(range(n + 1))
        weights = self.weights
        self.weights = lambda times, end: weights(times[:2], end) if next(at) < self.share * n else weights(times, end)
        return super().sample(model, x, n, noise)


def orders(sampler):
    return {v.law: v for v in run_laws(sampler, ["L21", "L22"], "float64")}


def broken(sampler):
    return {law for law, verdict in orders(sampler).items() if verdict.failed}


RIGHT = {
    **{f"adams, order {k}": Adams(k, order_uneven=1) for k in WEIGHTS},
    **{f"adams, order {k}, unequal steps": UnequalAdams(k) for k in WEIGHTS},
    **{f"adams, order {k}, straight paths": Flow(k, order_uneven=1) for k in WEIGHTS},
    "third order in lambda": ThirdOrder(2),
    "third order, kutta in flow time": KuttaOfThree(3),
    "third order after a fifth": Slow(3, 0.2),
    "runge-kutta": RungeKutta(4),
    "runge-kutta, claimed to be of order 2": RungeKutta(2),
    "runge-kutta, two levels a step": TwoLevels(4, order_uneven=1),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_method_has_its_order(name):
    found = orders(RIGHT[name])
    assert not [v for v in found.values() if v.failed], found
    own = RIGHT[name].k if "adams" in name else 3 if "third" in name else 4
    measured = float(found["L21"].note.removeprefix("slope ").partition(" ")[0])
    assert abs(measured - own) < order_laws.SLACK[own]


def scaled(k, which, by):
    """The weights of order k, one of them changed, the one before such that their sum is 1 still."""
    weights = [*WEIGHTS[k]]
    weights[which] += by
    weights[which - 1] -= by
    return tuple(weights)


WRONG = {
    "lost its third point": Adams(3, WEIGHTS[2], order_uneven=1),
    "lost its fourth point": Adams(4, WEIGHTS[3], order_uneven=1),
    "a coefficient of order 2": Adams(2, scaled(2, 1, 1 / 2), order_uneven=1),
    "a coefficient of order 3": Adams(3, scaled(3, 2, 1 / 12), order_uneven=1),
    "a coefficient of order 4": Adams(4, scaled(4, 3, 1 / 24), order_uneven=1),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_coefficient_or_a_lost_point_is_seen(name):
    verdict = orders(WRONG[name])["L21"]
    assert verdict.failed and f"short of order {WRONG[name].claims['order']}: errors " in verdict.detail
    assert 0.8 < verdict.value < 3.2, "whole orders are missing, not a slack"


def test_a_coefficient_that_is_nearly_right_is_seen():
    """The error of second order is small, and shows in the slope only in part."""
    found = orders(Adams(3, scaled(3, 2, 1 / 2000), order_uneven=1))["L21"]
    assert found.failed and 0.5 < found.value < 0.85, found


def test_a_start_of_lower_order_may_take_a_quarter():
    assert not broken(Slow(3, 0.2)) and broken(Slow(3, 0.5)) == {"L21", "L22"}


@pytest.mark.parametrize("order", WEIGHTS)
def test_the_largest_errors_are_a_few_times_those_of_right_methods(order):
    late = order >= order_laws.LATE
    sampler = UnequalAdams(order)
    worst = max(order_laws.flow_errors(sampler, p, (320,), late=late)[0] for p in ((1.0,), *order_laws.UNEVEN))
    assert 1.4 < order_laws.LARGEST[order] / worst < 7.5


def test_a_sampler_that_never_asks_at_the_last_level_is_told_so():
    class Early(Adams):
        def sample(self, model, x, n, noise):
            asked = [model(x, sigma) for sigma in self.noises(n)[:-2]]
            return asked[-1]

    verdict = orders(Early(1))["L21"]
    assert (
        verdict.failed and "the model was not asked at the last noisy level, time 0.02 of 20 levels" in verdict.detail
    )


def test_a_time_that_is_off_by_a_rounding_is_that_of_its_level():
    class Off(RungeKutta):
        def sample(self, model, x, n, noise):
            return super().sample(lambda y, t: model(y, t * (1 + 4e-16)), x, n, noise)

    assert not broken(Off(4))


def test_a_second_difference_taken_for_the_derivative_is_of_second_order():
    """As in two libraries (docs/findings.md)."""
    found = orders(ThirdOrder(1))
    assert found["L21"].failed and found["L22"].failed and abs(found["L21"].value - 1) < 0.1


def test_where_coefficients_are_rounded_the_last_error_need_not_fall():
    errors, last = [1e-3, 1e-4, 1e-5, 1e-6, 1e-6], 1e-5
    strict, lenient = (next(order_laws.of_order(errors, 3, last, "", rounded=r)) for r in (False, True))
    assert not strict.holds and lenient.holds
    assert not next(order_laws.of_order([1e-3, 1e-4, 1e-5, 1e-5, 1e-5], 3, last, "", rounded=True)).holds


def test_steps_taken_as_equally_long_are_seen_where_they_are_not():
    assert broken(Adams(3)) == {"L22"} and broken(Adams(4)) == {"L22"}


@pytest.mark.parametrize("shares", [(2 / 6, 1 / 6, 1 / 6, 2 / 6), (1 / 6, 3 / 6, 1 / 6, 1 / 6), (0.0, 0.5, 0.5, 0.0)])
def test_wrong_shares_of_runge_and_kutta_s_slopes(shares):
    sampler = RungeKutta(4)
    sampler.shares = shares
    assert broken(sampler) == {"L21", "L22"}


def test_a_first_step_that_is_no_approximation_is_seen():
    """It lies before the levels at which an order of 3 is measured."""

    class Late(Adams):
        def sample(self, model, x, n, noise):
            sigmas = self.noises(n)
            return super().sample(model, x * (sigmas[1] / sigmas[0]) ** 0.9 * sigmas[0] / sigmas[1], n, noise)

    found = orders(Late(3, order_uneven=1))["L21"]
    assert found.failed and "error of the whole walk with 320 levels on an even grid" in found.detail


def test_errors_that_are_rounding_have_no_slope():
    falling = [1e-3, 1e-7, 1e-11, 1e-14, 3e-14]
    assert order_laws.slope(falling) == pytest.approx(np.log2(1e4))
    assert order_laws.slope([1e-13] * 5) == float("inf")
    assert [check.what for check in order_laws.of_order([1e-13] * 5, 4, 1e-7, "")] == ["error with 320 levels"]
    assert np.isnan(order_laws.slope([np.nan])) and np.isnan(order_laws.slope([1.0, np.nan, np.nan, np.nan, np.nan]))


# --- with noise -------------------------------------------------------------------------------------------------------


class Noisy(Walk):
    """Reverse SDE's exponential integrator on x_0 (Lu et al. 2022, 2211.01095, appendix B.7): held, or on a line."""

    def __init__(self, order, weak_order, noise=1.0):
        super().__init__()
        self.k, self.noise = order, noise
        self.claims = {"draws": "n-1", "weak_order": weak_order}

    def sample(self, model, x, n, noise):
        said, times = [], []
        for high, low in pairwise(self.noises(n)):
            said, times = [model(x, high), *said][: self.k], [-log(high), *times][: self.k]
            if low == 0:
                return said[0]
            h = -log(low) - times[0]
            kept = np.exp(-2 * h)  # of the variance, beside the step's own
            x = (low / high) ** 2 * x + (1 - kept) * said[0]
            if len(said) == 2:
                x = x + (1 - (1 - kept) / (2 * h)) * h * (said[0] - said[1]) / (times[0] - times[1])
            x = x + self.noise * low * (1 - kept) ** 0.5 * noise(x.shape)


def weak(sampler):
    return next(run_laws(sampler, ["L22b"], "float64"))


@pytest.mark.parametrize("order", [1, 2])
def test_weak_orders_are_measured_without_samples(order):
    found = weak(Noisy(order, order))
    assert found.status == "pass" and abs(float(found.note.split()[1]) - order) < 0.1, found


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (Noisy(1, 2), "short of order 2"),
        (Noisy(1, 1, 0.9), "short of order 1"),
        (Noisy(2, 2, 1.001), "short of order 2"),
    ],
    ids=["claims too much", "too little noise", "a little too much"],
)
def test_what_does_not_converge_to_the_right_variance_is_seen(sampler, words):
    found = weak(sampler)
    assert found.failed and words in found.detail, found


class FromNoise(Noisy):
    """Its own levels start without signal; those that it is given for an order do not."""

    def levels(self, n):
        own = [(k / n, (1 - k / n), k / n) for k in range(n, 0, -1)] + [(0.0, 1.0, 0.0)]
        return own if self.sigmas is None else super().levels(n)


@pytest.mark.parametrize("claimed", [1, 2])
def test_a_weak_order_is_measured_though_the_sampler_s_own_levels_start_without_signal(claimed):
    assert weak(FromNoise(1, claimed)).status == ("pass" if claimed == 1 else "fail")


def test_what_the_law_of_weak_order_needs():
    assert weak(Adams(1)).detail == "not claimed: weak_order"
    assert next(run_laws(Noisy(1, 1), ["L22b"], "float32")).detail == "a slope needs float64"

    class Bare:
        space, claims = "sigma", {"weak_order": 1}
        levels, sample = Noisy.levels, Noisy.sample

    with pytest.raises(ValueError, match="claim 'weak_order' needs a method on"):
        weak(Bare())
