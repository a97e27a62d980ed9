"""DDIM: known gains, the way back, the path between two pictures, planted bugs. Its laws: tests/minigen/laws."""

import numpy as np
import pytest
from mutants import mutant
from oracles import best, gaussian, gaussian_eps, level_of

from minigen.laws import beds
from minigen.laws.order_laws import QUANTILES
from minigen.maths import schedules
from minigen.maths.interpolation import slerp
from minigen.samplers import ddim

LINEAR = schedules.linear(1000)
MIXTURE = beds.Mixture()


def known_grid(n):
    """The grid of the known numbers: T included, and time 1, whole numbers by rounding."""
    return LINEAR.respaced((1 + np.round(np.arange(n) * 999 / (n - 1))).astype(int))


def gain(schedule, std):
    return float(ddim.sample(gaussian_eps(0.0, std, schedule), np.ones((1, 1)), schedule)[0, 0])


KNOWN_STEPS = (10, 20, 40, 80, 160, 320, 1000)
KNOWN = {
    0.5: (0.361612, 0.430452, 0.464961, 0.482323, 0.491067, 0.495452, 0.498495),
    2.0: (1.691612, 1.847854, 1.924340, 1.962174, 1.980976, 1.990361, 1.996852),
}


@pytest.mark.parametrize("std", KNOWN)
def test_ddim_eq12_every_grid_has_the_known_gain(std):
    got = [gain(known_grid(n), std) for n in KNOWN_STEPS]
    np.testing.assert_allclose(got, KNOWN[std], atol=6e-7)
    a = LINEAR.alpha_bar[-1]
    errors = abs(np.array(got[:-1]) - std / np.sqrt(a * std**2 + 1 - a))
    assert (abs(np.log2(errors[:-1] / errors[1:]) - 1) < 0.15).all()  # order 1: the error halves when the steps double


def test_the_noise_is_asked_for_only_where_it_has_a_weight():
    with pytest.raises(ValueError, match="rng must be a generator, got None"):
        ddim.sample(lambda x, t, c: x, np.zeros((1, 1)), schedules.cosine(3), eta=0.5)
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="eta must be from 0"):
            ddim.sample(lambda x, t, c: x, np.zeros((1, 1)), schedules.cosine(3), eta=eta, rng=np.random.default_rng(0))
    assert ddim.sigma(3, 0, schedules.cosine(5), 1.0) == 0
    schedule = schedules.cosine(5)
    for t in range(1, 6):
        assert ddim.sigma(t, t - 1, schedule, 1.0) ** 2 == pytest.approx(schedule.beta_tilde[t], rel=1e-9)


def test_a_clipped_guess_comes_with_its_own_eps():
    schedule, seen = schedules.linear(100).respaced([10, 50, 100]), []
    x_T = np.array([[3.0], [-2.0]])
    x_0 = ddim.sample(
        gaussian_eps(0.0, 2.0, schedule), x_T, schedule, clip=0.5, callback=lambda t, x, g: seen.append((t, x, g))
    )
    assert abs(x_0).max() <= 0.5
    for (t, x_t, guess), (u, x_u, _) in zip(seen, seen[1:]):
        a, b = schedule.alpha_bar[t], schedule.alpha_bar[u]
        want = np.sqrt(b) * guess + np.sqrt(1 - b) * (x_t - np.sqrt(a) * guess) / np.sqrt(1 - a)
        np.testing.assert_allclose(x_u, want, rtol=1e-12)


# --- the other way ----------------------------------------------------------------------------------------------------

ROUND_TRIPS = {10: 0.477, 20: 0.259, 40: 0.135, 80: 0.0695, 160: 0.0354}


@pytest.mark.parametrize("n", ROUND_TRIPS)
def test_ddim_eq13_the_round_trip_has_the_known_error(n):
    """The known numbers ask at t = 0, where the best eps is 0; asking at the first level's time instead, as a network
    must be, is no worse.
    """
    schedule = known_grid(n)
    model, one = gaussian_eps(0.0, 0.5, schedule), np.ones((1, 1))
    x = ddim.step_up(one, 0 * one, 0, 1, schedule)
    for t in range(1, n):
        x = ddim.step_up(x, model(x, np.full(1, schedule.times[t])), t, t + 1, schedule)
    known = 1 - ddim.sample(model, x, schedule)[0, 0]
    assert known == pytest.approx(ROUND_TRIPS[n], abs=6e-4 if n < 80 else 6e-5)
    ours = 1 - ddim.sample(model, ddim.encode(model, one, schedule), schedule)[0, 0]
    assert 0 < ours < known and ours == pytest.approx(known, abs=5e-4)


def test_the_explicit_latent_is_that_of_the_exact_flow_to_order_1():
    errors = []
    p = np.array(QUANTILES)
    x_0 = MIXTURE.quantile(p, level_of(LINEAR, 0)).reshape(-1, 1)
    for n in (50, 100, 200, 400):
        schedule = schedules.spaced(LINEAR, n, "quadratic")
        want = MIXTURE.quantile(p, level_of(schedule, n)).reshape(-1, 1)
        model = best(MIXTURE, schedule)
        x_T = ddim.encode(model, x_0, schedule)
        errors.append((abs(x_T - want).max(), abs(ddim.sample(model, x_T, schedule) - x_0).max()))
    slopes = np.log2(np.array(errors)[:-1] / np.array(errors)[1:])
    assert (slopes > 0.8).all() and np.max(errors[-1]) < 0.06


@pytest.mark.parametrize("std", [0.1, 0.5, 2.0])
def test_every_iteration_shrinks_the_round_trip_by_the_claimed_factor(std):
    schedule = known_grid(10)
    model, one, sigma = gaussian_eps(0.0, std, schedule), np.ones((1, 1)), schedule.sigma
    factor = np.max(sigma[1:] * (sigma[1:] - sigma[:-1]) / (sigma[1:] ** 2 + std**2))
    exact = 1 / gain(schedule, std)
    errors = np.array(
        [abs(ddim.encode(model, one, schedule, iterations=k)[0, 0] / exact - 1) for k in (0, 1, 2, 4, 8, 16, 32)]
    )
    assert (errors[1:] < errors[:-1]).all()
    # the worst of the ten steps rules in the end, and no more than all ten of them act at once
    assert errors[-1] <= schedule.T * factor**32 and errors[-1] / errors[-2] <= 1.2 * factor**16


@pytest.mark.parametrize("kind", ["eps", "x_0", "v", "score"])
def test_with_iterations_the_round_trip_is_the_identity(kind):
    schedule = known_grid(20)
    x_0 = np.random.default_rng(0).standard_normal((4, 3))
    model = gaussian(kind, 0.3, 0.8, schedule)
    x_T = ddim.encode(model, x_0, schedule, iterations=30, kind=kind)
    np.testing.assert_allclose(ddim.sample(model, x_T, schedule, kind=kind), x_0, atol=1e-9)
    x_T = ddim.encode(model, x_0, schedule, kind=kind)
    np.testing.assert_allclose(x_T, ddim.encode(gaussian("eps", 0.3, 0.8, schedule), x_0, schedule), atol=1e-9)


def test_with_iterations_a_mixture_comes_back():
    schedule = schedules.spaced(LINEAR, 20, "karras")
    x_0, model = np.linspace(-2, 2, 9).reshape(-1, 1), best(MIXTURE, schedule)
    errors = [
        abs(ddim.sample(model, ddim.encode(model, x_0, schedule, iterations=k), schedule) - x_0).max()
        for k in (0, 3, 40)
    ]
    assert errors[0] > 5 * errors[1] and errors[2] < 1e-9


@pytest.mark.parametrize("iterations", [0, 2])
def test_encoding_never_asks_below_the_first_level(iterations):
    schedule, told, seen = schedules.cosine(20).respaced([4, 9, 20]), [], []

    def model(x, t, cond=None):
        told.append((int(t[0]), cond))
        return 0.1 * x

    x_0 = np.ones((2, 1), np.float32)
    x_T = ddim.encode(
        model, x_0, schedule, iterations=iterations, cond="c", callback=lambda t, x: seen.append((t, x.copy()))
    )
    want = [time for t, u in ((4, 4), (4, 9), (9, 20)) for time in [t] + iterations * [u]]
    assert told == [(time, "c") for time in want]
    assert [t for t, _ in seen] == [0, 1, 2, 3]
    np.testing.assert_array_equal(seen[0][1], x_0)
    np.testing.assert_array_equal(seen[-1][1], x_T)
    assert x_T.dtype == np.float32 and (x_0 == 1).all()
    with pytest.raises(ValueError, match="iterations must be at least 0, got -1"):
        ddim.encode(model, x_0, schedule, iterations=-1)


@pytest.mark.parametrize("kind", ["x_0", "v"])
def test_encoding_reaches_a_level_without_signal(kind):
    schedule = schedules.zero_terminal_snr(schedules.linear(50))
    x_T = ddim.encode(gaussian(kind, 0.3, 0.5, schedule), np.ones((1, 1)), schedule, iterations=2, kind=kind)
    assert np.isfinite(x_T).all()


def test_between_two_pictures_the_latents_go_along_the_arc():
    """With data N(0, s^2) both ways are multiplications, so what is decoded is the arc between the pictures, times the
    round trip.
    """
    schedule = known_grid(10)
    model = gaussian_eps(0.0, 0.5, schedule)
    a, b = np.random.default_rng(0).standard_normal((2, 3, 2, 2, 1))
    shares = (0.0, 0.25, 0.5, 1.0)
    got = ddim.interpolate(model, a, b, shares, schedule)
    assert got.shape == (3, 4, 2, 2, 1)
    trip = ddim.sample(model, ddim.encode(model, a, schedule), schedule)[0, 0, 0, 0] / a[0, 0, 0, 0]
    for k, share in enumerate(shares):
        np.testing.assert_allclose(
            got[:, k], trip * slerp(a.reshape(3, 4), b.reshape(3, 4), share).reshape(a.shape), rtol=1e-9
        )
    exact = ddim.interpolate(model, a, b, (0.0, 1.0), schedule, iterations=30)
    np.testing.assert_allclose(exact, np.stack([a, b], 1), atol=1e-9)
    small = ddim.interpolate(model, a.astype(np.float32), b.astype(np.float32), (0.5,), schedule)
    assert small.dtype == np.float32
    told = []

    def of_x_0(x_t, t, cond):
        told.append(cond)
        return gaussian("x_0", 0.0, 0.5, schedule)(x_t, t)

    same = ddim.interpolate(of_x_0, a, b, shares, schedule, cond="c", kind="x_0")
    np.testing.assert_allclose(same, got, rtol=1e-9)
    assert set(told) == {"c"}
    assert abs(ddim.interpolate(model, a, b, shares, schedule, clip=0.1)).max() <= 0.1 < abs(got).max()
    with pytest.raises(ValueError, match="same shape"):
        ddim.interpolate(model, a, b[:1], shares, schedule)


# --- planted bugs -----------------------------------------------------------------------------------------------------

UPWARDS = {
    "told the data's time": ("max(level, 1)", "level"),
    "eps of the next level without iterations": ("eps_at(x_t, t), t, t + 1", "eps_at(x_t, t + 1), t, t + 1"),
    "iterates along the old eps": ("eps_at(x_u, t + 1)", "eps_at(x_u, t)"),
    "iterates from the new state": (
        "x_u = step_up(x_t, eps_at(x_u, t + 1)",
        "x_u = step_up(x_u, eps_at(x_u, t + 1)",
    ),
    "one level short": ("for t in range(schedule.T):", "for t in range(schedule.T - 1):"),
    "sign of eps": ("(x_t - (1 - a) ** 0.5 * eps)", "(x_t + (1 - a) ** 0.5 * eps)"),
    "slerp over the last axis only": ("x.reshape(len(x), -1) for x", "x for x"),
    "shares turned round": ("slerp(z_a, z_b, share)", "slerp(z_a, z_b, 1 - share)"),
}


@pytest.mark.parametrize("name", UPWARDS)
def test_every_planted_bug_on_the_way_back_is_seen(name, monkeypatch):
    bad = mutant(ddim, *UPWARDS[name])
    for function in ("encode", "step_up", "interpolate"):
        monkeypatch.setattr(ddim, function, getattr(bad, function))
    with pytest.raises((AssertionError, ValueError)):
        test_encoding_never_asks_below_the_first_level(2)
        test_ddim_eq13_the_round_trip_has_the_known_error(20)
        test_with_iterations_the_round_trip_is_the_identity("x_0")
        test_between_two_pictures_the_latents_go_along_the_arc()
