"""PLMS: its weights by a scripted model, its exact law on Gaussian data, its order, planted bugs."""

import numpy as np
import pytest
import sampler_laws as laws
from mutants import mutant
from numpy.polynomial import Polynomial

from minigen.maths import schedules
from minigen.samplers import ddim, plms

LINEAR = schedules.linear(1000)


def adams_bashforth(k):
    """The weights of the last k values, newest first: Lagrange's polynomials through 0, -1, ... integrated from 0 to 1."""
    weights = []
    for i in range(k):
        others = [-j for j in range(k) if j != i]
        basis = Polynomial.fromroots(others) if others else Polynomial([1.0])
        integral = (basis / basis(-i)).integ()
        weights.append(integral(1.0) - integral(0.0))
    return weights


def test_pndm_eq12_the_weights_integrate_the_polynomial_through_the_last_values():
    for k in (1, 2, 3, 4):
        np.testing.assert_allclose(plms.WEIGHTS[k - 1], adams_bashforth(k), rtol=1e-12)
    np.testing.assert_allclose(np.array(plms.WEIGHTS[3]) * 24, (55, -59, 37, -9), rtol=1e-15)


def effective(n):
    """What every call's eps weighs in every step, (step, call)."""
    W = np.zeros((n, n))
    for step in range(n):
        for k, w in enumerate(adams_bashforth(min(step + 1, 4))):
            W[step, step - k] = w
    return W


def scripted(sample, schedule):
    """The weight of every call's answer in the result: row k of the batch gets a 1 at call k. x_T is 0."""
    calls = []

    def model(x_t, t, cond=None):
        out = np.zeros_like(x_t)
        out[len(calls)] = 1
        calls.append(t[0])
        return out

    return sample(model, np.zeros((schedule.T, 1)), schedule)[:, 0]


@pytest.mark.parametrize("spacing", schedules.SPACINGS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_pndm_eq11_eq12_a_scripted_model_shows_every_weight(n, spacing):
    """In units of x / sqrt(alpha_bar) a step adds the step in sigma times the blend (eq. 11 there)."""
    schedule = schedules.spaced(LINEAR, n, spacing)
    steps = -np.diff(schedule.sigma)[::-1]  # from T down
    np.testing.assert_allclose(scripted(plms.sample, schedule), steps @ effective(n), rtol=1e-9)


def recursion(schedule, std):
    """PLMS on N(0, s^2) in units of x / sqrt(alpha_bar), from the integrated polynomials."""
    sigma, a, x, slopes = schedule.sigma, schedule.alpha_bar, schedule.alpha_bar[-1] ** -0.5, []
    out = {schedule.T: (1.0, 1.0)}
    for t in range(schedule.T, 0, -1):
        slopes = [sigma[t] * x / (std**2 + sigma[t] ** 2), *slopes][:4]
        x = x + (sigma[t - 1] - sigma[t]) * np.dot(adams_bashforth(len(slopes)), slopes)
        gain = a[t - 1] ** 0.5 * x
        out[t - 1] = gain, gain**2
    return out


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_every_state_has_its_exact_law(std):
    laws.follows(plms.sample, recursion, LINEAR, std=std)


def test_the_order_is_2_on_even_grids_and_1_where_steps_alternate():
    even = laws.flow_errors(plms.sample)
    assert 1.8 < laws.order(even) < 2.2 and even[-1] < 1e-4
    assert 0.85 < laws.order(laws.flow_errors(plms.sample, (1.0, 2.0))) < 1.2
    # both far below DDIM at the same number of calls
    assert even[0] < laws.flow_errors(ddim.sample, steps=(20,))[0] / 10


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_the_order_is_2_over_the_times_of_a_schedule(spacing):
    errors = []
    for n in (50, 100, 200):
        fine = schedules.spaced(schedules.linear(20000), n, spacing)
        states, a = {}, fine.alpha_bar
        x_T = laws.MIXTURE.quantile(laws.QUANTILES, a[-1]).reshape(-1, 1)
        plms.sample(
            laws.MIXTURE.eps(fine),
            x_T,
            fine,
            callback=lambda t, x, _: states.__setitem__(t, x),  # noqa: B023
        )
        level = n // 2
        errors.append(abs(states[level][:, 0] - laws.MIXTURE.quantile(laws.QUANTILES, a[level])).max())
    assert (np.log2(np.array(errors[:-1]) / errors[1:]) > 1.7).all()


MUTANTS = {
    "oldest first": ("[guess, *history[:3]]", "[*history[-3:], guess]"),
    "five guesses kept": ("*history[:3]", "*history[:4]"),
    "three guesses kept": ("*history[:3]", "*history[:2]"),
    "sign of 59": ("-59 / 24", "59 / 24"),
    "37 for 38": ("37 / 24, -9 / 24", "38 / 24, -10 / 24"),
    "a second difference added": ("-59 / 24, 37 / 24, -9 / 24", "-58 / 24, 35 / 24, -8 / 24"),
    "weights of no order": ("(3 / 2, -1 / 2)", "(1.4, -0.4)"),
    "16 for 17": ("-16 / 12, 5 / 12", "-17 / 12, 6 / 12"),
    "x_0 of the last call": ("(x_t - (1 - a) ** 0.5 * eps) / a**0.5, eps", "history[0].x_0, eps"),
    "eps of the last call": ("/ a**0.5, eps, t", "/ a**0.5, history[0].eps, t"),
    "stops at level 1": ("for t in range(schedule.T, 0, -1)", "for t in range(schedule.T, 1, -1)"),
    "starts one level late": ("for t in range(schedule.T, 0, -1)", "for t in range(schedule.T - 1, 0, -1)"),
    "next level wrong": ("t, t - 1, schedule)", "t, max(t - 2, 0), schedule)"),
    "kind not passed on": ("kind=kind", "kind='eps'"),
    "state seen after the step": ("callback(t, x_t, guess.x_0)", "callback(t, x_t, x_t)"),
}


def all_laws(module):
    laws.point_mass(module.sample, LINEAR, steps=(1, 2, 7))
    for n in (2, 3, 6):
        schedule = schedules.spaced(LINEAR, n)
        want = -np.diff(schedule.sigma)[::-1] @ effective(n)
        laws.close(scripted(module.sample, schedule), want, 1e-9 * abs(want).max())
    laws.follows(module.sample, recursion, LINEAR, steps=(1, 2, 7))
    laws.bookkeeping(module.sample, lambda n: n, lambda n: 0)
    laws.kinds_agree(module.sample)


def test_no_law_is_broken():
    all_laws(plms)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    with pytest.raises((AssertionError, IndexError)):
        all_laws(mutant(plms, *MUTANTS[name]))


def test_only_the_scripted_model_holds_all_the_weights():
    """Weights that are right for a straight line pass on data of one point and in every test of the order."""
    bad = mutant(plms, *MUTANTS["a second difference added"])
    laws.point_mass(bad.sample, LINEAR, steps=(2, 7))
    assert 1.8 < laws.order(laws.flow_errors(bad.sample)) < 2.2
