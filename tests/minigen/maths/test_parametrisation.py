"""Four names for one guess: every way from one to another and back, at every level of any schedule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutants import mutant

import autograd as ag
from minigen.maths import diffusion, parametrisation, schedules
from minigen.maths.parametrisation import KINDS, as_eps_model, eps_of, target, x_0_of

U = np.finfo(np.float64).eps
ANY = st.one_of(
    st.integers(21, 60).map(schedules.linear),
    st.integers(1, 60).map(schedules.cosine),
    st.integers(1, 60).map(schedules.sigmoid),
    st.integers(2, 20).map(lambda n: schedules.spaced(schedules.linear(100), n, "karras")),
)


def drawn(schedule, seed=0, n=2):
    t = np.repeat(np.arange(1, schedule.T + 1), n)
    x_0, eps = np.random.default_rng(seed).standard_normal((2, len(t), 3))
    return t, x_0, eps, diffusion.q_sample(x_0, t, eps, schedule)


def allowed(schedule, t):
    """A dozen roundings of numbers up to 5, made larger where the picture is read through little signal or the noise
    through little noise.
    """
    a = schedule.alpha_bar[t][:, None]
    return 200 * U * (1 + (1 - a) ** -0.5 * 1.0), 200 * U * (1 + a**-0.5 + (1 - a) ** -0.5)


@given(ANY, st.sampled_from(KINDS), st.integers(0, 2**32 - 1))
def test_salimans_appendix_d_the_target_tells_both_guesses(schedule, kind, seed):
    t, x_0, eps, x_t = drawn(schedule, seed)
    said = target(kind, x_0, eps, t, schedule)
    of_eps, of_x_0 = allowed(schedule, t)
    assert np.all(np.abs(eps_of(said, x_t, t, schedule, kind) - eps) <= of_eps)
    assert np.all(np.abs(x_0_of(said, x_t, t, schedule, kind) - x_0) <= of_x_0)


@given(ANY, st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(0, 2**32 - 1))
def test_all_sixteen_ways_there_and_back(schedule, a, b, seed):
    """From a to b and back to a, each of any size: relative to the size of the pair (x_0, eps) that is meant."""
    t, x_0, eps, x_t = drawn(schedule, seed)
    said = target(a, x_0, eps, t, schedule)
    pair = lambda said, kind: (  # noqa: E731
        x_0_of(said, x_t, t, schedule, kind),
        eps_of(said, x_t, t, schedule, kind),
    )
    other = target(b, *pair(said, a), t, schedule)
    back = target(a, *pair(other, b), t, schedule)
    of_eps, of_x_0 = allowed(schedule, t)
    size = 1 / schedule.noise[t][:, None] ** 0.5 if a == "score" else 1.0
    limit = 4 * np.maximum(of_eps, of_x_0) * size
    assert np.all(np.abs(back - said) <= limit)


def test_the_definitions(rng):
    schedule = schedules.cosine(10)
    x_0, eps = rng.standard_normal((2, 4, 3))
    a = schedule.alpha_bar[3]
    np.testing.assert_array_equal(target("eps", x_0, eps, 3, schedule), eps)
    np.testing.assert_array_equal(target("x_0", x_0, eps, 3, schedule), x_0)
    np.testing.assert_allclose(target("v", x_0, eps, 3, schedule), a**0.5 * eps - (1 - a) ** 0.5 * x_0)
    x_t = a**0.5 * x_0 + (1 - a) ** 0.5 * eps
    np.testing.assert_allclose(
        target("score", x_0, eps, 3, schedule), -(x_t - a**0.5 * x_0) / (1 - a)
    )  # of q(x_t | x_0)


@pytest.mark.parametrize("kind", ["v", "x_0"])
def test_lin_2023_without_signal_v_and_x_0_still_say_the_picture(kind, rng):
    schedule = schedules.zero_terminal_snr(schedules.linear(50))
    x_0, eps = rng.standard_normal((2, 4, 3))
    x_T = diffusion.q_sample(x_0, 50, eps, schedule)
    np.testing.assert_array_equal(x_T, eps)
    said = target(kind, x_0, eps, 50, schedule)
    np.testing.assert_array_equal(said, -x_0 if kind == "v" else x_0)
    np.testing.assert_array_equal(x_0_of(said, x_T, 50, schedule, kind), x_0)
    np.testing.assert_array_equal(eps_of(said, x_T, 50, schedule, kind), eps)
    for blind in ("eps", "score"):
        with pytest.raises(ValueError, match="predict x_0 or v"):
            x_0_of(eps, x_T, 50, schedule, blind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "karras"])
def test_as_eps_model_reads_the_times_of_the_training_schedule(kind, spacing):
    schedule = schedules.linear(60)
    grid = schedules.spaced(schedule, 9, spacing)
    t, x_0, eps, x_t = drawn(grid)
    said = target(kind, x_0, eps, t, grid)
    told = []

    def model(x, times, cond=None):
        told.append((times, cond))
        return said

    for known in (schedule, grid):
        got = as_eps_model(model, known, kind)(x_t, grid.times[t], "c")
        np.testing.assert_allclose(got, eps, rtol=1e-9, atol=1e-9)
    assert all(cond == "c" and np.array_equal(times, grid.times[t]) for times, cond in told)
    assert as_eps_model(model, schedule, "eps") is model


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_and_arrays_say_the_same_and_gradients_pass(kind):
    schedule = schedules.cosine(8)
    t, x_0, eps, x_t = drawn(schedule)
    x_0, eps, x_t, t = x_0[4:8], eps[4:8], x_t[4:8], t[4:8]
    said = target(kind, x_0, eps, t, schedule)
    for f in (x_0_of, eps_of):
        got = f(ag.Tensor(said), ag.Tensor(x_t), t, schedule, kind)
        np.testing.assert_array_equal(ag.raw(got), f(said, x_t, t, schedule, kind))
        if ag.raw(got) is not said:
            ag.gradcheck(lambda a, x, f=f: f(a, x, t, schedule, kind) + 0.0 * x, [said, x_t])
    np.testing.assert_array_equal(ag.raw(target(kind, ag.Tensor(x_0), ag.Tensor(eps), t, schedule)), said)
    in_float32 = x_0_of(said.astype(np.float32), x_t.astype(np.float32), t, schedule, kind)
    assert in_float32.dtype == np.float32


def test_another_word_is_named():
    for call in (
        lambda: x_0_of(0, 0, 1, schedules.cosine(3), "epsilon"),
        lambda: eps_of(0, 0, 1, schedules.cosine(3), "epsilon"),
        lambda: target("epsilon", 0, 0, 1, schedules.cosine(3)),
        lambda: as_eps_model(lambda x, t: x, schedules.cosine(3), "epsilon"),
        lambda: parametrisation.check_kind("epsilon"),
    ):
        with pytest.raises(ValueError, match="kind must be one of 'eps', 'x_0', 'v', 'score', got 'epsilon'"):
            call()


MUTANTS = {
    "none": ("* x_t + at(schedule.alpha_bar**0.5", "* x_t + at(schedule.alpha_bar**0.5"),
    "eps of v turned the other way": ("* x_t + at(schedule.alpha_bar**0.5", "* x_t - at(schedule.alpha_bar**0.5"),
    "x_0 of v turned the other way": ("x_t) * x_t - at((1", "x_t) * x_t + at((1"),
    "score without its sign": ("at(-((1 - schedule.alpha_bar) ** 0.5)", "at(((1 - schedule.alpha_bar) ** 0.5)"),
    "score by the variance": ("at(-(schedule.noise**-0.5)", "at(-(schedule.noise**-1.0)"),
    "v without its minus": ("x_0) * eps - at(", "x_0) * eps + at("),
    "eps and x_0 exchanged": ('return eps if kind == "eps" else x_0', 'return x_0 if kind == "eps" else eps'),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    module, schedule = mutant(parametrisation, *MUTANTS[name]), schedules.cosine(10)
    t, x_0, eps, x_t = drawn(schedule)
    right = True
    for kind in KINDS:
        said = module.target(kind, x_0, eps, t, schedule)
        right &= np.allclose(module.eps_of(said, x_t, t, schedule, kind), eps)
        right &= np.allclose(module.x_0_of(said, x_t, t, schedule, kind), x_0)
    assert right == (name == "none")
