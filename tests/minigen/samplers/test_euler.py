"""Euler, Heun and Euler-ancestral: the same as DDIM where they are, the split of the noise, Heun's calls.

Their laws and planted bugs: tests/minigen/laws.
"""

import functools

import numpy as np
import pytest
from oracles import best, gaussian, level_of

from minigen.laws import beds
from minigen.laws.verdict import rounding
from minigen.maths import schedules
from minigen.samplers import ddim, euler

LINEAR = schedules.linear(1000)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("spacing", schedules.SPACINGS)
def test_euler_and_euler_ancestral_are_ddim_in_other_units(eta, spacing):
    """Step by step, with the same noise."""
    x_T = np.random.default_rng(0).standard_normal((4, 3))
    sampler = euler.sample_euler if eta == 0 else functools.partial(euler.sample_euler_ancestral, eta=eta)
    for schedule in (schedules.spaced(LINEAR, n, spacing) for n in (1, 2, 3, 7, 20)):
        model, paths = best(beds.Mixture(), LINEAR), []
        for sample in (sampler, functools.partial(ddim.sample, eta=eta)):
            path = []
            sample(model, x_T, schedule, rng=np.random.default_rng(1), callback=lambda t, x, g: path.append((x, g)))  # noqa: B023
            paths.append(np.array(path))
        levels = [level_of(schedule, t) for t in range(schedule.T, -1, -1)]
        np.testing.assert_allclose(paths[0], paths[1], rtol=0, atol=64 * rounding(levels, np.float64))


def test_edm_the_split_keeps_the_noise_of_the_level():
    for sigma_t, sigma_u in ((3.0, 1.0), (1.0, 0.9), (0.5, 0.0)):
        for eta in (0.0, 0.4, 1.0):
            down, up = euler.split(sigma_t, sigma_u, eta)
            assert down**2 + up**2 == pytest.approx(sigma_u**2, rel=1e-12)
            # the posterior of x + sigma_u e given x + sigma_t e: variance sigma_u^2 (sigma_t^2 - sigma_u^2) / sigma_t^2
            assert up**2 == pytest.approx(eta**2 * sigma_u**2 * (sigma_t**2 - sigma_u**2) / sigma_t**2, rel=1e-12)


def test_edm_algorithm_1_the_calls_and_their_weights():
    """Row k of the batch gets the slope 1 at call k: each step adds half its length for either of its two calls, the
    last all of it.
    """
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
