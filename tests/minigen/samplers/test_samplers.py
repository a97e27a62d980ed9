"""What all samplers share, by the name that the command line knows them by."""

import functools

import numpy as np
import pytest
import sampler_laws as laws
from oracles import OneHotNoise, gaussian

from minigen.maths import schedules
from minigen.samplers import choose

LINEAR = schedules.linear(1000)
LEARNED = "ancestral-learned"
SIGMA = ("euler", "heun", "euler-ancestral")
ETA = [
    (name, eta) for name in choose.SAMPLERS for eta in (None, 0.0, 0.4, 1.0) if eta is None or name in choose.WITH_ETA
]


def sampler(name, eta=None):
    return functools.partial(choose.draw, name, eta=eta)


def draws(name, eta, n):
    noisy = "ancestral" in name if eta is None else eta > 0
    return n - 1 if noisy else 0


@pytest.mark.parametrize("name, eta", [case for case in ETA if case[0] != "ancestral-large"])
def test_data_of_one_point_every_state_has_the_noise_the_model_is_told(name, eta):
    """At any number of steps on any grid; "ancestral-large" adds more noise than that, and does not claim it."""
    for training in (LINEAR, schedules.cosine(200)):
        laws.point_mass(sampler(name, eta), training, learned=name == LEARNED, stiff=name == "heun")


@pytest.mark.parametrize("kind", ["x_0", "v"])
@pytest.mark.parametrize("name", [n for n in choose.SAMPLERS if n not in (*SIGMA, "ancestral-large")])
def test_it_starts_where_nothing_is_left_of_the_signal(name, kind):
    training = schedules.zero_terminal_snr(schedules.cosine(100))
    laws.point_mass(sampler(name), training, kind=kind, steps=(2, 3, 4, 7), learned=name == LEARNED)


@pytest.mark.parametrize("name", SIGMA)
def test_or_says_that_it_cannot(name):
    schedule = schedules.zero_terminal_snr(schedules.cosine(10))
    with pytest.raises(ValueError, match="alpha_bar_T = 0"):
        choose.draw(
            name, gaussian("v", 0, 1, schedule), np.ones((1, 1)), schedule, rng=np.random.default_rng(0), kind="v"
        )


@pytest.mark.parametrize("name, eta", ETA)
def test_times_calls_draws_and_states_are_as_declared(name, eta):
    laws.bookkeeping(
        sampler(name, eta),
        functools.partial(choose.calls, name),
        functools.partial(draws, name, eta),
        learned=name == LEARNED,
    )


@pytest.mark.parametrize("name, eta", ETA)
def test_all_kinds_of_prediction_walk_the_same_path(name, eta):
    laws.kinds_agree(sampler(name, eta), learned=name == LEARNED, stiff=name == "heun")


@pytest.mark.parametrize("name, eta", ETA)
def test_a_sample_does_not_depend_on_the_others(name, eta):
    laws.rows_are_independent(sampler(name, eta), learned=name == LEARNED)


@pytest.mark.parametrize("name", choose.SAMPLERS)
def test_a_function_may_clip_and_a_wide_clip_does_nothing(name):
    schedule = schedules.spaced(LINEAR, 5)
    model = laws.with_share(gaussian("eps", 0.3, 0.5, LINEAR), name == LEARNED)
    x_T = np.random.default_rng(0).standard_normal((3, 2))
    run = functools.partial(choose.draw, name, model, x_T, schedule)
    free = run(rng=np.random.default_rng(1))
    np.testing.assert_allclose(run(rng=np.random.default_rng(1), clip=1e6), free, rtol=1e-8)
    guesses = []
    run(rng=np.random.default_rng(1), clip=lambda x_0: 0 * x_0, callback=lambda t, x, g: guesses.append(g))
    assert all((g == 0).all() for g in guesses[:-1])


@pytest.mark.parametrize("name", choose.SAMPLERS)
def test_nan_from_the_model_stops_it_and_names_the_step(name):
    schedule = schedules.spaced(LINEAR, 5)
    model = laws.with_share(lambda x, t, cond=None: x * (np.nan if t[0] == 600 else 0.1), name == LEARNED)
    with pytest.raises(FloatingPointError, match=r"step 3 \(time 600"):
        choose.draw(name, model, np.ones((2, 1)), schedule, rng=np.random.default_rng(0))


def test_names_and_settings_that_do_not_exist():
    model, x_T, schedule = gaussian("eps", 0, 1, LINEAR), np.ones((1, 1)), LINEAR
    with pytest.raises(ValueError, match="unknown sampler 'ddpm': use one of ancestral, ancestral-large"):
        choose.draw("ddpm", model, x_T, schedule)
    with pytest.raises(ValueError, match="unknown sampler"):
        choose.calls("ddpm", 3)
    with pytest.raises(ValueError, match=r"'plms' has no eta, got eta = 0\.5: use one of ddim, euler-ancestral"):
        choose.draw("plms", model, x_T, schedule, eta=0.5)
    with pytest.raises(ValueError, match="eta must be from 0"):
        choose.draw("ddim", model, x_T, schedule, eta=1.5, rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", choose.SAMPLERS)
def test_float32_is_good_to_a_thousandth(name):
    """The error model: x_0 is read off x_T by dividing by sqrt(alpha_bar_T), 157 here, so single precision keeps 1e-5 of it."""
    x_T = np.random.default_rng(0).standard_normal((5, 3))
    results = []
    for dtype in (np.float64, np.float32):
        model = laws.with_share(gaussian("eps", 0.3, 0.5, LINEAR), name == LEARNED)
        schedule = schedules.spaced(LINEAR, 20)
        results.append(choose.draw(name, model, x_T.astype(dtype), schedule, rng=np.random.default_rng(1)))
        assert results[-1].dtype == dtype
    np.testing.assert_allclose(results[1], results[0], atol=1e-3)


def test_every_sampler_reaches_the_same_law_with_many_steps():
    """N(0.3, 1/4) from 400 steps, by the tape: mean and standard deviation; how near says the order."""
    schedule = schedules.spaced(LINEAR, 400)
    for name in choose.SAMPLERS:
        if name == LEARNED:
            continue
        x_T = laws.tape(schedule)
        x_0 = choose.draw(name, gaussian("eps", 0.3, 0.5, LINEAR), x_T, schedule, rng=OneHotNoise(first=2))
        mean, std = laws.moments(x_0)
        assert mean == pytest.approx(0.3, abs=4e-3) and std == pytest.approx(0.5, abs=0.02), name
