"""DPM-Solver++: first order is DDIM, its lines, its ends, its order on grids of odd lengths.

Its other laws and planted bugs: tests/minigen/laws.
"""

import numpy as np
import pytest
from oracles import gaussian

from minigen.laws import Ours, order_laws
from minigen.laws.pytest import obeys
from minigen.maths import schedules
from minigen.samplers import ddim, dpm_solver

LINEAR = schedules.linear(1000)
BOTH = ("dpmpp-2m", "dpmpp-2s")
ALL = (*BOTH, "dpmpp-3m")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spacing", schedules.SPACINGS)
def test_dpmpp_algorithms_1_and_2_weights(name, spacing):
    """Every state shows what every call weighs: the last step, of first order, hides all but its own."""
    sampler = Ours(name, spacing=spacing)
    sampler.steps = (1, 2, 3, 4, 7, 8)
    obeys(sampler, ["L14"])


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


@pytest.mark.parametrize("name", BOTH)
def test_the_order_is_2_also_where_a_level_is_left_over(name):
    errors = order_laws.flow_errors(Ours(name), counts=(41, 81, 161, 321))
    assert 1.8 < np.log2(errors[-2] / errors[-1]) < 2.2


def test_3m_is_of_order_3_and_nearer_than_2m():
    errors = {name: order_laws.flow_errors(Ours(name), late=name == "dpmpp-3m") for name in ("dpmpp-2m", "dpmpp-3m")}
    assert 2.7 < order_laws.slope(errors["dpmpp-3m"]) < 3.1
    assert all(third < second / 4 for second, third in zip(errors["dpmpp-2m"], errors["dpmpp-3m"]))


def test_a_parabola_is_integrated_exactly():
    """x_0 a polynomial of second degree in lambda: the step is exact, whatever the lengths of the steps."""
    schedule = schedules.spaced(LINEAR, 6, "karras")
    lam = dpm_solver.log_snr(schedule)
    x_0 = np.polynomial.Polynomial([0.3, -0.7, 0.2])
    for t in range(4, 1, -1):
        u, at = t - 1, [float(lam[t + k]) for k in range(3)]
        D = dpm_solver.parabola_3m([np.array(x_0(v)) for v in at], at, float(lam[u] - lam[t]))
        got = dpm_solver.step(np.array(1.1), D, t, u, schedule)
        nodes, weights = np.polynomial.legendre.leggauss(60)
        half = (lam[u] - lam[t]) / 2
        inner = half * np.sum(weights * np.exp(lam[t] + half * (nodes + 1)) * x_0(lam[t] + half * (nodes + 1)))
        s = (1 - schedule.alpha_bar) ** 0.5
        np.testing.assert_allclose(got, s[u] / s[t] * 1.1 + s[u] * inner, rtol=1e-11)


@pytest.mark.parametrize("name", ALL)
def test_a_level_without_signal_and_one_without_noise_stay_finite(name):
    sampler = Ours(name, schedule=schedules.zero_terminal_snr(schedules.linear(50)))
    sampler.steps = (2, 3, 4, 6, 7)
    obeys(sampler, ["L0", "L6", "L11", "L14"])


def test_a_smaller_error_than_ddim_with_as_many_calls():
    """On the grid of the command line, 20 levels over a linear schedule, against the exact gain of N(0, 1/4)."""
    errors = {}
    a = LINEAR.alpha_bar
    for name, sample in (("ddim", ddim.sample), ("2m", dpm_solver.sample_2m), ("2s", dpm_solver.sample_2s)):
        schedule = schedules.spaced(LINEAR, 20)
        got = sample(gaussian("eps", 0.0, 0.5, LINEAR), np.ones((1, 1)), schedule)[0, 0]
        errors[name] = abs(got - 0.5 / np.sqrt(a[-1] / 4 + 1 - a[-1]))
    assert errors["2m"] < errors["ddim"] / 3 and errors["2s"] < errors["ddim"] / 1.7
