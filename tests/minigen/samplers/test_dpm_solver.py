"""DPM-Solver++: its lines by a scripted model, its exact law on Gaussian data, its order, its ends, planted bugs."""

import functools

import numpy as np
import pytest
import sampler_laws as laws
from mutants import mutant
from oracles import gaussian

from minigen.maths import schedules
from minigen.samplers import ddim, dpm_solver

LINEAR = schedules.linear(1000)
BOTH = {"2m": "sample_2m", "2s": "sample_2s"}


def lines(schedule, which):
    """What every call's x_0 weighs along every move, [(from level, to level, {call: weight})]: lines read at the middle in lambda."""
    with np.errstate(divide="ignore"):
        lam = -np.log(schedule.sigma)
    T, moves = schedule.T, []
    call = {t: T - t for t in range(T, 0, -1)}

    def line(t, other, u):
        share = ((lam[t] + lam[u]) / 2 - lam[t]) / (lam[other] - lam[t])
        return {call[t]: 1 - share, call[other]: share}

    if which == "2m":
        for t in range(T, 0, -1):
            straight = t < T and t > 1 and np.isfinite(lam[t + 1])
            moves.append((t, t - 1, line(t, t + 1, t - 1) if straight else {call[t]: 1.0}))
        return moves
    t = T
    while t > 0:
        if t % 2 == 1 and t > 1 and np.isfinite(lam[t]):
            moves.append((t, t - 1, {call[t]: 1.0}))  # the state in between
            moves.append((t, t - 2, line(t, t - 1, t - 2)))
            t -= 2
        else:
            moves.append((t, t - 1, {call[t]: 1.0}))
            t -= 1
    return moves


def affine(schedule, which, guess):
    """Every state as rows of weights: ``guess(x_t weights, t, call) -> x_0 weights``; the exponential form of the ODE's solution.

    x_u = sigma_u / sigma_t x_t + sigma_u (e^{lambda_u} - e^{lambda_t}) D, the integral of e^lambda over the step.
    """
    a, s = schedule.alpha_bar**0.5, (1 - schedule.alpha_bar) ** 0.5
    states, said = {schedule.T: None}, {}

    def run(x_T):
        states[schedule.T] = x_T
        for t, u, weights in lines(schedule, which):
            call = schedule.T - t
            for level in {t, *(schedule.T - c for c in weights)}:
                said.setdefault(schedule.T - level, guess(states[level], level, schedule.T - level))
            D = sum(w * said[c] for c, w in weights.items())
            assert call in weights
            states[u] = s[u] / s[t] * states[t] + (a[u] - s[u] * a[t] / s[t]) * D
        return states

    return run


def scripted(sample, schedule):
    """The weight of every call's x_0 in the result: row k of the batch gets a 1 at call k. x_T is 0."""
    calls = []

    def model(x_t, t, cond=None):
        out = np.zeros_like(x_t)
        out[len(calls)] = 1
        calls.append(t[0])
        return out

    return sample(model, np.zeros((schedule.T, 1)), schedule, kind="x_0")[:, 0]


def weights(schedule, which):
    n = schedule.T
    return affine(schedule, which, lambda x, level, call: np.eye(n)[call])(np.zeros(n))


@pytest.mark.parametrize("which", BOTH)
@pytest.mark.parametrize("spacing", schedules.SPACINGS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8])
def test_dpmpp_algorithms_1_and_2_weights(which, spacing, n):
    """The state at level 1 shows all weights; the last step, which is of first order, hides them all but its own."""
    schedule = schedules.spaced(LINEAR, n, spacing)
    states = {}
    sample = getattr(dpm_solver, BOTH[which])
    watched = functools.partial(sample, callback=lambda t, x, _: states.__setitem__(t, x[:, 0]))
    result = scripted(watched, schedule)
    for level, want in weights(schedule, which).items():
        laws.close(states[level], want, 1e-12, f"weights at level {level}")
    np.testing.assert_array_equal(result, np.eye(n)[-1])


def recursion(which):
    def run(schedule, std):
        a = schedule.alpha_bar
        best = lambda x, t, call: np.sqrt(a[t]) * std**2 / (a[t] * std**2 + 1 - a[t]) * x  # noqa: E731
        states = affine(schedule, which, best)(1.0)
        return {t: (x, x**2) for t, x in states.items()}

    return run


@pytest.mark.parametrize("which", BOTH)
@pytest.mark.parametrize("std", [0.5, 2.0])
def test_every_state_has_its_exact_law(which, std):
    laws.follows(getattr(dpm_solver, BOTH[which]), recursion(which), LINEAR, std=std)


def test_the_first_order_step_is_ddim():
    """And by the formula with e^{-h} as the paper has it."""
    schedule, (x_t, x_0) = schedules.cosine(20), np.random.default_rng(0).standard_normal((2, 3, 2))
    lam = dpm_solver.log_snr(schedule)
    for t in range(1, 21):
        a, s = schedule.alpha_bar**0.5, (1 - schedule.alpha_bar) ** 0.5
        for u in range(t):
            got = dpm_solver.step(x_t, x_0, t, u, schedule)
            eps = (x_t - a[t] * x_0) / s[t]
            np.testing.assert_allclose(got, ddim.step(x_0, eps, t, u, None, schedule, eta=0.0), rtol=1e-9, atol=1e-12)
            paper = s[u] / s[t] * x_t - a[u] * (np.exp(-(lam[u] - lam[t])) - 1) * x_0
            np.testing.assert_allclose(got, paper, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(dpm_solver.step(x_t, x_0, 5, 0, schedule), x_0)


@pytest.mark.parametrize("which", BOTH)
def test_the_order_is_2_on_even_and_on_alternating_grids(which):
    sample = getattr(dpm_solver, BOTH[which])
    for pattern in ((1.0,), (1.0, 2.0), (3.0, 1.0, 2.0, 5.0, 1.0)):
        errors = laws.flow_errors(sample, pattern)
        assert 1.8 < laws.order(errors) < 2.2 and errors[-1] < 4e-4
    odd = laws.flow_errors(sample, steps=(41, 81, 161, 321))
    assert 1.8 < laws.order(odd) < 2.2


@pytest.mark.parametrize("which", BOTH)
@pytest.mark.parametrize("kind", ["x_0", "v"])
def test_a_level_without_signal_and_one_without_noise_stay_finite(which, kind):
    training = schedules.zero_terminal_snr(schedules.linear(50))
    sample = getattr(dpm_solver, BOTH[which])
    laws.point_mass(sample, training, kind=kind, steps=(2, 3, 4, 7))
    n = 6
    schedule = schedules.spaced(training, n)
    states = {}
    result = scripted(functools.partial(sample, callback=lambda t, x, _: states.__setitem__(t, x[:, 0])), schedule)
    for level, want in weights(schedule, which).items():
        laws.close(states[level], want, 1e-12, f"weights at level {level}")
    np.testing.assert_array_equal(result, np.eye(n)[-1])


def test_a_smaller_error_than_ddim_with_as_many_calls():
    """On the grid of the command line, 20 levels over a linear schedule, against the exact gain of N(0, 1/4)."""
    errors = {}
    a = LINEAR.alpha_bar
    for name, sample in (("ddim", ddim.sample), ("2m", dpm_solver.sample_2m), ("2s", dpm_solver.sample_2s)):
        schedule = schedules.spaced(LINEAR, 20)
        got = sample(gaussian("eps", 0.0, 0.5, LINEAR), np.ones((1, 1)), schedule)[0, 0]
        errors[name] = abs(got - 0.5 / np.sqrt(a[-1] / 4 + 1 - a[-1]))
    assert errors["2m"] < errors["ddim"] / 3 and errors["2s"] < errors["ddim"] / 1.7


MUTANTS = {
    "2m: ratio turned round": (
        "(lam[t] - lam[t + 1]) / (lam[t - 1] - lam[t])",
        "(lam[t - 1] - lam[t]) / (lam[t] - lam[t + 1])",
    ),
    "2m: no ratio": ("float((lam[t] - lam[t + 1]) / (lam[t - 1] - lam[t]))", "1.0"),
    "2m: the wrong way": ("(1 + 1 / (2 * r)) * x_0_t - 1 /", "(1 - 1 / (2 * r)) * x_0_t + 1 /"),
    "2m: forgets": ("t - 1, schedule), x_0\n", "t - 1, schedule), before\n"),
    "2m: a line in the last step": ("before is not None and t > 1 and", "before is not None and"),
    "2m: keeps the blend": ("t - 1, schedule), x_0\n", "t - 1, schedule), D\n"),
    "2s: half for r": ("line_2s(x_0_top, x_0, r)", "line_2s(x_0_top, x_0, 0.5)"),
    "2s: 1 / r": ("(1 - 1 / (2 * r)) * x_0_t + 1 / (2 * r) * x_0_s", "(1 - 1 / r) * x_0_t + 1 / r * x_0_s"),
    "2s: goes on from the middle": (
        "step(x_top, line_2s(x_0_top, x_0, r), top,",
        "step(x_t, line_2s(x_0_top, x_0, r), t,",
    ),
    "2s: guesses swapped": ("line_2s(x_0_top, x_0, r)", "line_2s(x_0, x_0_top, r)"),
    "2s: pairs with the last level": ("t % 2 == 1 and t > 2", "t % 2 == 0 and t > 1"),
    "sigma_t for sigma_u": ("((1 - a_u) / (1 - a_t)) ** 0.5  #", "((1 - a_t) / (1 - a_t)) ** 0.5  #"),
    "sign of h": ("1 - (a_t / a_u) ** 0.5 * shrink", "1 + (a_t / a_u) ** 0.5 * shrink"),
    "alpha of t": ("a_u**0.5 * minus_expm1", "a_t**0.5 * minus_expm1"),
    "2s: infinite lambda": ("t > 2 and np.isfinite(lam[t])", "t > 2"),
}


def all_laws(module):
    flat = schedules.zero_terminal_snr(LINEAR)
    for which, name in BOTH.items():
        sample = getattr(module, name)
        laws.point_mass(sample, LINEAR, steps=(1, 2, 7))
        for spaced in (schedules.spaced(LINEAR, 7), schedules.spaced(LINEAR, 4), schedules.spaced(flat, 5)):
            states = {}
            scripted(functools.partial(sample, callback=lambda t, x, _: states.__setitem__(t, x[:, 0])), spaced)  # noqa: B023
            for level, want in weights(spaced, which).items():
                laws.close(states[level], want, 1e-12, f"weights at level {level}")
        laws.follows(sample, recursion(which), LINEAR, steps=(1, 2, 7))
        laws.bookkeeping(sample, lambda n: n, lambda n: 0)
        laws.kinds_agree(sample)


def test_no_law_is_broken():
    all_laws(dpm_solver)


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_every_planted_bug_is_seen(name):
    with pytest.raises((AssertionError, ZeroDivisionError)):
        all_laws(mutant(dpm_solver, *MUTANTS[name]))


def test_a_ratio_turned_round_passes_every_test_of_the_order_but_the_weights():
    bad = mutant(dpm_solver, *MUTANTS["2m: ratio turned round"])
    for pattern in ((1.0,), (1.0, 2.0)):
        assert 1.7 < laws.order(laws.flow_errors(bad.sample_2m, pattern)) < 2.3
