"""Euler, Heun and Euler-ancestral: the same as DDIM where they are, exact laws, orders, planted bugs."""

import functools

import numpy as np
import pytest
import sampler_laws as laws
from mutants import mutant
from oracles import gaussian

from minigen.maths import schedules
from minigen.samplers import ddim, euler

LINEAR = schedules.linear(1000)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_euler_and_euler_ancestral_are_ddim_in_other_units(eta):
    """Step by step, with the same noise."""
    x_T = np.random.default_rng(0).standard_normal((4, 3))
    sampler = euler.sample_euler if eta == 0 else functools.partial(euler.sample_euler_ancestral, eta=eta)
    for schedule in laws.grids(LINEAR):
        model, paths = laws.MIXTURE.eps(LINEAR), []
        for sample in (sampler, functools.partial(ddim.sample, eta=eta)):
            path = []
            sample(model, x_T, schedule, rng=np.random.default_rng(1), callback=lambda t, x, g: path.append((x, g)))  # noqa: B023
            paths.append(np.array(path))
        laws.close(paths[0], paths[1], 64 * laws.rounding(schedule))


def test_edm_the_split_keeps_the_noise_of_the_level():
    for sigma_t, sigma_u in ((3.0, 1.0), (1.0, 0.9), (0.5, 0.0)):
        for eta in (0.0, 0.4, 1.0):
            down, up = euler.split(sigma_t, sigma_u, eta)
            assert down**2 + up**2 == pytest.approx(sigma_u**2, rel=1e-12)
            # the posterior of x + sigma_u e given x + sigma_t e: variance sigma_u^2 (sigma_t^2 - sigma_u^2) / sigma_t^2
            assert up**2 == pytest.approx(eta**2 * sigma_u**2 * (sigma_t**2 - sigma_u**2) / sigma_t**2, rel=1e-12)


def heun(schedule, std):
    """Algorithm 1 on N(0, s^2), where the slope at noise sigma is sigma x / (s^2 + sigma^2)."""
    sigma, a, x = schedule.sigma, schedule.alpha_bar, schedule.alpha_bar[-1] ** -0.5
    out, slope = {schedule.T: (1.0, 1.0)}, sigma / (std**2 + sigma**2)
    for t in range(schedule.T, 0, -1):
        h = sigma[t - 1] - sigma[t]
        factor = 1 + h * slope[t] if t == 1 else 1 + h / 2 * (slope[t] + slope[t - 1] * (1 + h * slope[t]))
        x = factor * x
        gain = a[t - 1] ** 0.5 * x
        out[t - 1] = gain, gain**2
    return out


def ancestral(eta):
    """Euler-ancestral on N(0, s^2) from the posterior's variance."""

    def run(schedule, std):
        sigma, a = schedule.sigma, schedule.alpha_bar
        weight, variance, out = a[-1] ** -0.5, 1 / a[-1], {schedule.T: (1.0, 1.0)}
        for t in range(schedule.T, 0, -1):
            noise = eta**2 * schedule.beta_tilde[t] / a[t - 1]
            down = np.sqrt(max(sigma[t - 1] ** 2 - noise, 0))
            A = 1 + (down - sigma[t]) * sigma[t] / (std**2 + sigma[t] ** 2)
            weight, variance = A * weight, A**2 * variance + noise
            out[t - 1] = np.sqrt(a[t - 1]) * weight, a[t - 1] * variance
        return out

    return run


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_every_state_has_its_exact_law(std):
    laws.follows(euler.sample_heun, heun, LINEAR, std=std, stiff=True)
    laws.follows(euler.sample_euler, ancestral(0.0), LINEAR, std=std)
    for eta in (0.4, 1.0):
        laws.follows(functools.partial(euler.sample_euler_ancestral, eta=eta), ancestral(eta), LINEAR, std=std)


def test_edm_algorithm_1_the_calls_and_their_weights():
    """Row k of the batch gets the slope 1 at call k: each step adds half its length for either of its two calls, the last all of it."""
    schedule, told = schedules.spaced(LINEAR, 4), []

    def model(x_t, t, cond=None):
        out = np.zeros_like(x_t)
        out[len(told)] = 1
        told.append(int(t[0]))
        return out

    got = euler.sample_heun(model, np.zeros((7, 1)), schedule)[:, 0]
    assert told == [1000, 750, 750, 500, 500, 250, 250]
    h = -np.diff(schedule.sigma)[::-1]
    np.testing.assert_allclose(got, np.append(np.repeat(h[:3] / 2, 2), h[3]), rtol=1e-12)


@pytest.mark.parametrize("pattern", [(1.0,), (1.0, 2.0), (3.0, 1.0, 2.0, 5.0, 1.0)])
def test_euler_is_of_order_1_and_heun_of_order_2(pattern):
    assert 0.85 < laws.order(laws.flow_errors(euler.sample_euler, pattern)) < 1.15
    errors = laws.flow_errors(euler.sample_heun, pattern)
    assert 1.8 < laws.order(errors) < 2.2 and errors[-1] < 2e-4


def test_infinite_noise_and_a_wrong_eta_are_said_in_one_sentence():
    schedule = schedules.zero_terminal_snr(schedules.linear(50))
    for sample in (euler.sample_euler, euler.sample_heun, euler.sample_euler_ancestral):
        with pytest.raises(ValueError, match="need signal at the last level, got alpha_bar_T = 0"):
            sample(
                gaussian("x_0", 0.0, 0.5, schedule),
                np.zeros((1, 1)),
                schedule,
                kind="x_0",
                rng=np.random.default_rng(0),
            )
    with pytest.raises(ValueError, match="eta must be from 0"):
        euler.sample_euler_ancestral(lambda x, t, c: x, np.zeros((1, 1)), schedules.cosine(3), rng=None, eta=2.0)
    with pytest.raises(ValueError, match="rng must be a generator"):
        euler.sample_euler_ancestral(lambda x, t, c: x, np.zeros((1, 1)), schedules.cosine(3))


MUTANTS = {
    "sign of the step": ("(sigma_u - sigma_t) * slope", "(sigma_t - sigma_u) * slope"),
    "up without its root": ("(sigma_u / sigma_t) ** 2) ** 0.5", "(sigma_u / sigma_t) ** 2)"),
    "up of the other level": ("eta * sigma_u * (", "eta * sigma_t * (sigma_u > 0) * ("),
    "eta squared": ("up = eta * sigma_u", "up = eta**2 * sigma_u"),
    "down without its root": ("max(sigma_u**2 - up**2, 0.0) ** 0.5", "max(sigma_u**2 - up**2, 0.0)"),
    "down to sigma_u": ("step(x_hat, eps, sigma_t, down)", "step(x_hat, eps, sigma_t, sigma_u)"),
    "x_T not scaled, Heun": (
        "x_hat = x_T * to_hat[-1]\n    for t in range(schedule.T, 0, -1):\n        guess",
        "x_hat = x_T\n    for t in range(schedule.T, 0, -1):\n        guess",
    ),
    "x_T not scaled, Euler": (
        "x_hat = x_T * to_hat[-1]\n    for t in range(schedule.T, 0, -1):\n        x_t",
        "x_hat = x_T\n    for t in range(schedule.T, 0, -1):\n        x_t",
    ),
    "the model sees x_hat, Heun": ("predict(model, x_hat / to_hat[level], level", "predict(model, x_hat, level"),
    "the model sees x_hat, Euler": ("x_t = x_hat / to_hat[t]", "x_t = x_hat"),
    "second slope at the old level": ("ask(trial, t - 1).eps", "ask(trial, t).eps"),
    "second slope of the old state": ("ask(trial, t - 1).eps", "ask(x_hat, t - 1).eps"),
    "no half": ("+ ask(trial, t - 1).eps) / 2", "+ ask(trial, t - 1).eps)"),
    "goes on from the trial": (
        "x_hat = step(x_hat, slope, sigma[t], sigma[t - 1])",
        "x_hat = step(trial if t > 1 else x_hat, slope, sigma[t], sigma[t - 1])",
    ),
    "noise drawn at the end": ("if eta > 0 and t > 1 else None", "if eta > 0 else None"),
    "Euler draws noise": ("eta=0.0, clip=clip", "eta=1.0, clip=clip"),
}


def all_laws(module):
    for sample, recursion, draws, stiff in (
        (module.sample_euler, ancestral(0.0), lambda n: 0, False),
        (module.sample_heun, heun, lambda n: 0, True),
        (module.sample_euler_ancestral, ancestral(1.0), lambda n: n - 1, False),
        (functools.partial(module.sample_euler_ancestral, eta=0.4), ancestral(0.4), lambda n: n - 1, False),
    ):
        laws.follows(sample, recursion, LINEAR, steps=(1, 2, 7), stiff=stiff)
        laws.point_mass(sample, LINEAR, steps=(1, 2, 7), stiff=stiff)
        laws.bookkeeping(sample, lambda n, stiff=stiff: 2 * n - 1 if stiff else n, draws)
        laws.kinds_agree(sample, stiff=stiff)


def test_no_law_is_broken():
    all_laws(euler)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    with pytest.raises(AssertionError):
        all_laws(mutant(euler, *MUTANTS[name]))
