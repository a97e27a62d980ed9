import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutants import mutant

from minigen.maths import schedules
from minigen.maths.schedules import (
    Schedule,
    karras_sigmas,
    quadratic_times,
    section_times,
    spaced,
    uniform_times,
)

ANY = st.one_of(
    st.integers(21, 300).map(schedules.linear),
    st.integers(1, 300).map(schedules.cosine),
)


@given(ANY)
def test_invariants(s):
    assert s.alpha_bar[0] == 1 and s.beta[0] == 0 and s.beta_tilde[0] == 0 and s.beta_tilde[1] == 0
    assert np.all(np.diff(s.alpha_bar) < 0) and s.alpha_bar[-1] >= 0
    assert np.all((s.beta[1:] > 0) & (s.beta[1:] < 1))
    assert np.all(s.beta_tilde <= s.beta)
    np.testing.assert_allclose(np.cumprod(s.alpha), s.alpha_bar, rtol=1e-12)
    assert not s.alpha_bar.flags.writeable


@given(ANY, st.data())
def test_respacing_keeps_the_marginals(s, data):
    steps = data.draw(st.integers(1, s.T))
    times = uniform_times(s.T, steps)
    r = s.respaced(times)
    assert steps == r.T and r.times[0] == 0 and r.times[-1] == s.T
    np.testing.assert_array_equal(r.alpha_bar, s.alpha_bar[r.times])
    twice = r.respaced(uniform_times(r.T, max(1, r.T // 2)))
    np.testing.assert_array_equal(twice.alpha_bar, s.alpha_bar[twice.times])


@given(st.integers(1, 2000), st.data())
def test_uniform_times_end_at_T_and_never_repeat(T, data):
    steps = data.draw(st.integers(1, T))
    times = uniform_times(T, steps)
    assert len(times) == steps and times[-1] == T and times[0] >= 1
    gaps = np.diff(np.concatenate([[0], times]))
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_ddpm_section_4_linear_schedule_at_1000():
    s = schedules.linear(1000)
    assert s.beta[1] == pytest.approx(1e-4) and s.beta[1000] == pytest.approx(0.02)
    assert s.alpha_bar[1000] == pytest.approx(4.036e-5, rel=1e-3)


def test_rescaled_linear_still_ends_in_noise():
    assert all(schedules.linear(T).alpha_bar[-1] < 1e-4 for T in (50, 100, 200, 4000))


def test_iddpm_eq17_cosine():
    s = schedules.cosine(1000)
    f = lambda t: np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    np.testing.assert_allclose(s.alpha_bar[:990], [f(t) / f(0) for t in range(990)], rtol=1e-9)
    assert s.beta[1000] == pytest.approx(0.999)
    assert s.alpha_bar[1000] == pytest.approx(2.4e-9, rel=0.05)


GIVEN_T = (schedules.linear, schedules.scaled_linear, schedules.cosine, schedules.sigmoid)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: schedules.linear(20), "more than 20"),
        (lambda: schedules.linear(0), "more than 20"),
        (lambda: schedules.cosine(0), "at least one"),
        *((lambda f=f: inspect.unwrap(f)(100.5), "whole number of steps, at least one, got 100.5") for f in GIVEN_T),
        (lambda: schedules.make("cosin", 10), "unknown schedule 'cosin'"),
        (lambda: uniform_times(10, 0), "from 1 to 10"),
        (lambda: uniform_times(10, 11), "from 1 to 10"),
        (lambda: schedules.cosine(10).respaced([3, 3]), "rise strictly"),
        (lambda: schedules.cosine(10).respaced([0, 3]), "rise strictly"),
        (lambda: schedules.cosine(10).respaced([3, 11]), "rise strictly"),
        (lambda: Schedule([0.9, 0.5]), "start at 1"),
        (lambda: Schedule([1.0, 0.5, 0.5]), "fall strictly"),
        (lambda: Schedule([1.0, np.nan]), "fall strictly"),
        (lambda: Schedule([1.0]), "at least two"),
    ],
)
def test_bad_schedules_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_times_are_whole_numbers():
    """Cut to whole numbers they would be other levels than those asked for."""
    with pytest.raises(TypeError, match="times must be whole numbers, got float64"):
        schedules.cosine(10).respaced([1.5, 2.7])
    with pytest.raises(ValueError, match="rise strictly"):
        schedules.cosine(10).respaced(np.array([3, 2], np.uint8))


# --- more schedules, spacings, weights --------------------------------------------------------------------------------

MORE = st.one_of(ANY, st.integers(13, 300).map(schedules.scaled_linear), st.integers(1, 300).map(schedules.sigmoid))


@given(MORE)
def test_karras_2022_sigma_is_the_noise_beside_a_picture_of_full_size(s):
    assert s.sigma[0] == 0 and np.all(np.diff(s.sigma) > 0)
    np.testing.assert_allclose(1 / (1 + s.sigma**2), s.alpha_bar, rtol=1e-12)


@given(MORE)
def test_every_schedule_keeps_the_invariants(s):
    assert s.alpha_bar[0] == 1 and np.all(np.diff(s.alpha_bar) < 0) and s.alpha_bar[-1] > 0
    assert np.all((s.beta[1:] > 0) & (s.beta[1:] < 1))


@given(MORE, st.integers(0, 2**32 - 1))
def test_times_and_sigmas_are_each_others_inverse(s, seed):
    times = np.random.default_rng(seed).uniform(s.times[1], s.times[-1], 20)
    a = s.alpha_bar_at(times)
    np.testing.assert_allclose(s.times_at(((1 - a) / a) ** 0.5), times, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(s.alpha_bar_at(s.times), s.alpha_bar)
    assert np.all(np.diff(s.alpha_bar_at(np.sort(times))) <= 0)
    mixed = np.array([0.0, times[0], float(s.T)])  # the data, a fraction, a level
    np.testing.assert_array_equal(s.alpha_bar_at(mixed), [1.0, a[0], s.alpha_bar[-1]])


def test_between_two_levels_ln_sigma_is_interpolated():
    s = schedules.linear(100)
    a = s.alpha_bar_at(np.array([7.25]))
    want = s.sigma[7] ** 0.75 * s.sigma[8] ** 0.25
    assert ((1 - a) / a) ** 0.5 == pytest.approx(want)
    kept = s.respaced([5, 50, 100]).alpha_bar_at(np.array([50, 5, 100, 0]))
    np.testing.assert_array_equal(kept, s.alpha_bar[[50, 5, 100, 0]])


@given(MORE, st.integers(0, 2**32 - 1))
def test_told_times_have_their_levels(s, seed):
    r = np.random.default_rng(seed)
    times = np.concatenate([r.integers(1, s.T + 1, 5), r.uniform(1, s.T, 5)])
    levels, level = s.told(times)
    np.testing.assert_array_equal(levels.times[level], times)
    np.testing.assert_array_equal(levels.alpha_bar[level], s.alpha_bar_at(times))


@given(MORE, st.data())
def test_a_schedule_cut_at_a_level_is_its_beginning(s, data):
    level = data.draw(st.integers(1, s.T))
    cut = s.up_to(level)
    assert level == cut.T and cut.times[-1] == s.times[level]
    np.testing.assert_array_equal(cut.beta, s.beta[: level + 1])


@given(st.integers(2, 300), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_at_sigmas_has_these_sigmas_and_times_that_lead_back(T, steps, seed):
    s = schedules.cosine(T)
    sigmas = np.exp(np.sort(np.random.default_rng(seed).uniform(*np.log(s.sigma[[1, -1]]), steps)))
    grid = s.at_sigmas(sigmas)
    np.testing.assert_allclose(grid.sigma[1:], sigmas, rtol=1e-9)
    np.testing.assert_allclose(s.alpha_bar_at(grid.times), grid.alpha_bar, rtol=1e-7)
    assert grid.times[0] == 0 and np.all(np.diff(grid.times) > 0)


@given(st.integers(1, 2000), st.data())
def test_ddim_appendix_d_quadratic_times(T, data):
    steps = data.draw(st.integers(1, T))
    times = quadratic_times(T, steps)
    assert len(times) == steps and times[-1] == T and times[0] >= 1 and np.all(np.diff(times) >= 1)
    exact = [-(-T * i * i // steps**2) for i in range(1, steps + 1)]  # in whole numbers
    want = [max(x, i) for i, x in enumerate(exact, 1)]
    np.testing.assert_array_equal(times, want)


@given(st.integers(1, 500), st.data())
def test_iddpm_section_times(T, data):
    sections = data.draw(st.integers(1, min(5, T)))
    edges = np.cumsum([0] + [len(part) for part in np.array_split(np.arange(T), sections)])
    counts = [data.draw(st.integers(1, b - a)) for a, b in zip(edges, edges[1:])]
    times = section_times(T, counts)
    assert times[-1] == T and times[0] >= 1 and np.all(np.diff(times) >= 1)
    for a, b, n in zip(edges, edges[1:], counts):
        inside = times[(times > a) & (times <= b)]
        assert len(inside) == n and inside[-1] == b


def test_iddpm_section_times_by_hand():
    np.testing.assert_array_equal(section_times(12, [4, 2, 1]), [1, 2, 3, 4, 6, 8, 12])
    np.testing.assert_array_equal(section_times(10, [3]), uniform_times(10, 3))
    np.testing.assert_array_equal(section_times(10, [1, 1, 3]), [4, 7, 8, 9, 10])


def test_what_is_done_to_a_schedule_leaves_the_times_that_a_network_is_told():
    spaced = schedules.cosine(10).respaced([2, 5, 10])
    for changed in (schedules.zero_terminal_snr(spaced), schedules.shifted(spaced, 2.0), spaced.up_to(3)):
        assert changed.times.tolist() == [0, 2, 5, 10]
    assert spaced.up_to(2).times.tolist() == [0, 2, 5]


@given(st.integers(1, 60), st.floats(0.01, 1), st.floats(1.1, 100), st.sampled_from([1.0, 3.0, 7.0]))
def test_karras_eq5(steps, low, high, rho):
    got = karras_sigmas(low, high, steps, rho)
    assert len(got) == steps and got[-1] == high and np.all(np.diff(got) > 0)
    N = steps  # eq. 5 falls from i = 0 to N - 1
    falling = [
        (high ** (1 / rho) + (i / (N - 1) if N > 1 else 0) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(N)
    ]
    np.testing.assert_allclose(got, falling[::-1], rtol=1e-9)


@given(MORE, st.sampled_from(schedules.SPACINGS), st.data())
def test_every_spacing_ends_at_T_and_never_repeats(s, spacing, data):
    if spacing == "karras" and s.T == 1:
        return  # two different noises are needed
    steps = data.draw(st.integers(1, s.T))
    grid = spaced(s, steps, spacing)
    assert steps == grid.T and grid.times[0] == 0 and np.all(np.diff(grid.times) > 0)
    assert grid.times[-1] == pytest.approx(s.T) and grid.alpha_bar[-1] == pytest.approx(s.alpha_bar[-1])


def test_rombach_scaled_linear():
    s = schedules.scaled_linear(1000)
    want = [(0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2 for i in range(1000)]
    np.testing.assert_allclose(s.beta[1:], want, rtol=1e-9)
    assert s.alpha_bar[-1] == pytest.approx(0.0047, rel=0.02)


@given(st.integers(1, 500))
def test_jabri_algorithm_1_sigmoid(T):
    s = schedules.sigmoid(T)
    f = lambda t: 1 / (1 + np.exp(-(-3 + 6 * t)))  # noqa: E731
    want = [(f(1) - f(t / T)) / (f(1) - f(0)) for t in range(T)]
    np.testing.assert_allclose(s.alpha_bar[:-1], want, rtol=1e-9)
    assert s.beta[-1] == pytest.approx(0.999, rel=1e-9)


@given(st.one_of(st.integers(21, 300).map(schedules.linear), st.integers(2, 300).map(schedules.cosine)))
def test_lin_2023_algorithm_1_zero_terminal_snr(s):
    z = schedules.zero_terminal_snr(s)
    root, old = z.alpha_bar**0.5, s.alpha_bar**0.5
    assert z.alpha_bar[0] == 1 and z.alpha_bar[-1] == 0 and z.snr[-1] == 0 and np.isinf(z.sigma[-1])
    assert root[1] == pytest.approx(old[1])
    np.testing.assert_allclose(root[1:], (old[1:] - old[-1]) * old[1] / (old[1] - old[-1]), rtol=1e-9, atol=1e-15)
    assert np.all(np.isfinite(z.beta_tilde)) and z.beta[-1] == 1


@given(st.integers(2, 300).map(schedules.cosine), st.floats(0.25, 8), st.floats(0.25, 8))
def test_hoogeboom_2023_a_shift_divides_the_snr_and_shifts_add_up(s, a, b):
    moved = schedules.shifted(s, a)
    np.testing.assert_allclose(moved.snr[1:], s.snr[1:] / a**2, rtol=1e-9)
    np.testing.assert_allclose(schedules.shifted(moved, b).alpha_bar, schedules.shifted(s, a * b).alpha_bar, rtol=1e-9)
    np.testing.assert_array_equal(schedules.shifted(s, 1.0).alpha_bar, s.alpha_bar)
    np.testing.assert_array_equal(moved.times, s.times)


def test_hoogeboom_2023_the_mean_of_a_patch_keeps_its_snr():
    """16 equal pixels under the noise of the schedule that is shifted by 4: their mean is as noisy as one pixel was
    under the old one.
    """
    s = schedules.cosine(50)
    moved = schedules.shifted(s, 4.0)
    mean_snr = moved.alpha_bar[1:] / ((1 - moved.alpha_bar[1:]) / 16)
    np.testing.assert_allclose(mean_snr, s.snr[1:], rtol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_hang_2023_min_snr_is_the_weight_of_the_picture_clipped(gamma):
    """|x_0 - guess|^2 is |eps - guess|^2 / SNR and |v - guess|^2 / (SNR + 1), so each weight gives min(SNR, gamma) of it."""
    s, t = schedules.linear(100), np.arange(1, 101)
    snr = s.alpha_bar[t] / (1 - s.alpha_bar[t])
    clipped = np.where(snr < gamma, snr, gamma)
    np.testing.assert_allclose(schedules.min_snr_weight(t, s, "x_0", gamma), clipped)
    np.testing.assert_allclose(schedules.min_snr_weight(t, s, "eps", gamma) * snr, clipped)
    np.testing.assert_allclose(schedules.min_snr_weight(t, s, "v", gamma) * (snr + 1), clipped)
    dark = schedules.zero_terminal_snr(s)
    assert [schedules.min_snr_weight(100, dark, kind, gamma) for kind in ("x_0", "eps", "v")] == [0, 1, 0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: schedules.scaled_linear(12), "scaled-linear schedule needs more than 12"),
        (lambda: schedules.sigmoid(0), "at least one"),
        (lambda: schedules.zero_terminal_snr(schedules.cosine(1)), "at least 2 steps"),
        (lambda: schedules.shifted(schedules.cosine(5), 0.0), "s must be a positive number, got 0.0"),
        (lambda: schedules.min_snr_weight(1, schedules.cosine(3), "score"), "kind must be 'eps', 'x_0' or 'v'"),
        (lambda: quadratic_times(10, 11), "from 1 to 10"),
        (lambda: section_times(10, []), "counts must be"),
        (lambda: section_times(10, [6, 1]), r"from 1 to the lengths of their sections, \[5, 5\], got \[6, 1\]"),
        (lambda: section_times(10, [0, 1]), r"from 1 to the lengths of their sections, \[5, 5\], got \[0, 1\]"),
        (lambda: karras_sigmas(1.0, 0.5, 3), "0 < low < high"),
        (lambda: karras_sigmas(0.1, 0.5, 0), "at least 1"),
        (lambda: karras_sigmas(0.1, 0.5, 3, rho=0), "rho must be a positive number, got 0"),
        (lambda: spaced(schedules.cosine(5), 3, "log"), "unknown spacing 'log'"),
        (lambda: spaced(schedules.cosine(5), 0, "karras"), "at least 1"),
        (lambda: spaced(schedules.zero_terminal_snr(schedules.cosine(5)), 3, "karras"), "infinity"),
        (lambda: schedules.cosine(5).up_to(0), "level must be from 1 to 5, got 0"),
        (lambda: schedules.cosine(5).up_to(6), "level must be from 1 to 5, got 6"),
        (lambda: schedules.cosine(5).at_sigmas([1e9]), "sigmas must lie within"),
        (lambda: schedules.cosine(5).alpha_bar_at(np.array([5.5])), "within 1 to 5"),
        (lambda: schedules.cosine(5).alpha_bar_at(np.array([0.5])), "within 1 to 5"),
        (lambda: Schedule([1.0, 0.5], [0, 1, 2]), "times must have the shape"),
    ],
)
def test_bad_spacings_and_weights_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


MUTANTS = {
    "none": ("return np.maximum(np.ceil(", "return np.maximum(np.ceil("),
    "quadratic times rounded down": ("np.ceil(T * (i / steps) ** 2 - 1e-9)", "np.floor(T * (i / steps) ** 2)"),
    "quadratic times repeat": (".astype(np.int64), i)", ".astype(np.int64), 1)"),
    "linear rho": ("(high ** (1 / rho) - low ** (1 / rho))) ** rho", "(high ** (1 / rho) - low ** (1 / rho))) ** 1"),
    "sections without their start": ("[a + uniform_times(", "[uniform_times("),
    "beta linear, not its root": ("np.linspace(beta_1**0.5, beta_T**0.5, T) ** 2", "np.linspace(beta_1, beta_T, T)"),
    "sigmoid turned round": ("alpha_bar = (u[-1] - u) /", "alpha_bar = (u[-1] - u) ** 2 /"),
    "first level not kept": ("* root[1] / (root[1] - root[-1])", "/ (1 - root[-1])"),
    "weight of v as of eps": ('"v": snr + 1', '"v": snr'),
    "sigma without its root": (
        "((1 - self.alpha_bar) / self.alpha_bar) ** 0.5",
        "((1 - self.alpha_bar) / self.alpha_bar)",
    ),
    "cut one level short": ("Schedule(self.alpha_bar[: level + 1]", "Schedule(self.alpha_bar[: level + 1] ** 1.01"),
    "times linear in sigma": ("np.interp(np.log(sigmas), np.log(self.sigma[1:])", "np.interp(sigmas, self.sigma[1:]"),
    "levels between linear in sigma": (
        "sigma = np.exp(np.interp(between, self.times[1:], np.log(self.sigma[1:])))",
        "sigma = np.interp(between, self.times[1:], self.sigma[1:])",
    ),
}


def facts(module):
    """One fact of each function above, as numbers."""
    s = module.linear(100)
    return np.concatenate(
        [
            module.quadratic_times(10, 7),
            module.karras_sigmas(0.1, 10.0, 4)[1:3],
            module.section_times(12, [4, 2, 1]),
            module.scaled_linear(1000).beta[[1, 500, 1000]],
            module.sigmoid(10).alpha_bar[[3, 7]],
            module.zero_terminal_snr(s).alpha_bar[[1, 50, 100]],
            module.min_snr_weight(np.array([1, 50, 99]), s, "v"),
            s.sigma[[1, 50, 100]],
            s.up_to(7).alpha_bar,
            s.times_at(np.array([0.1, 1.0])),
            s.alpha_bar_at(np.array([7.25, 60.5])),
        ]
    )


def wanted():
    """The same from the formulas alone."""
    b = 10 * np.linspace(1e-4, 0.02, 100)
    a = np.concatenate([[1.0], np.cumprod(1 - b)])
    sigma = np.sqrt(1 / a - 1)
    f = lambda t: 1 / (1 + np.exp(3 - 6 * t))  # noqa: E731
    root, snr = np.sqrt(a), a[[1, 50, 99]] / (1 - a[[1, 50, 99]])
    between = [np.exp(w * np.log(sigma[t]) + (1 - w) * np.log(sigma[t + 1])) for t, w in [(7, 0.75), (60, 0.5)]]
    below = [int(np.searchsorted(sigma, v)) - 1 for v in (0.1, 1.0)]
    return np.concatenate(
        [
            [1, 2, 3, 4, 6, 8, 10],
            [(0.1 ** (1 / 7) + k / 3 * (10 ** (1 / 7) - 0.1 ** (1 / 7))) ** 7 for k in (1, 2)],
            [1, 2, 3, 4, 6, 8, 12],
            [(0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2 for i in (0, 499, 999)],
            [(f(1) - f(t)) / (f(1) - f(0)) for t in (0.3, 0.7)],
            [((root[t] - root[100]) * root[1] / (root[1] - root[100])) ** 2 for t in (1, 50, 100)],
            np.minimum(snr, 5) / (snr + 1),
            sigma[[1, 50, 100]],
            a[:8],
            [k + np.log(v / sigma[k]) / np.log(sigma[k + 1] / sigma[k]) for k, v in zip(below, (0.1, 1.0))],
            [1 / (1 + v**2) for v in between],
        ]
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    module = mutant(schedules, *MUTANTS[name])
    try:
        right = np.allclose(facts(module), wanted(), rtol=1e-9, atol=1e-12)
    except ValueError:  # a schedule that does not fall, times that do not fit
        right = False
    assert right == (name == "none")
