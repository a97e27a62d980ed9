"""What all samplers share, by the name that the command line knows them by.

Their laws on the linear schedule: tests/minigen/laws/test_ours.py.
"""

import functools

import numpy as np
import pytest
from mutants import mutant
from oracles import OneHotNoise, gaussian

from minigen.laws import Ours
from minigen.laws.pytest import obeys
from minigen.laws.recorder import moments
from minigen.maths import schedules
from minigen.samplers import choose, ddim, plms

LINEAR = schedules.linear(1000)
LEARNED = "ancestral-learned"
SIGMA = ("euler", "heun", "euler-ancestral")
ETA = [
    (name, eta) for name in choose.SAMPLERS for eta in (None, 0.0, 0.4, 1.0) if eta is None or name in choose.WITH_ETA
]


def with_share(model, name):
    """``model`` as it is, or with a share of 0 for the learned variance, which makes that the small one."""
    return (lambda x_t, t, cond=None: (model(x_t, t, cond), 0 * x_t)) if name == LEARNED else model


@pytest.mark.parametrize("name, eta", ETA)
def test_laws_on_a_cosine_schedule(name, eta):
    exact = ["L7"] if name == "ancestral-large" else ["L4", "L6"]
    obeys(Ours(name, eta=eta, schedule=schedules.cosine(200)), ["L0", "L5", "L5b", *exact, "L11", "L14", "L15", "L17"])


@pytest.mark.parametrize("name", [n for n in choose.SAMPLERS if n not in SIGMA])
def test_it_starts_where_nothing_is_left_of_the_signal(name):
    sampler = Ours(name, schedule=schedules.zero_terminal_snr(schedules.cosine(100)))
    obeys(sampler, ["L0", "L11", "L14"] if name == "ancestral-large" else ["L0", "L6", "L11", "L14"])


@pytest.mark.parametrize("name", SIGMA)
def test_or_says_that_it_cannot(name):
    schedule = schedules.zero_terminal_snr(schedules.cosine(10))
    with pytest.raises(ValueError, match="alpha_bar_T = 0"):
        choose.draw(
            name, gaussian("v", 0, 1, schedule), np.ones((1, 1)), schedule, rng=np.random.default_rng(0), kind="v"
        )


def bookkeeping(sample, calls, draws, name):
    """What the laws do not see: conditions, one time a sample in the dtype of the states, and the callback, T to 0."""
    training = schedules.cosine(50)
    for schedule in (schedules.spaced(training, n, spacing) for n in (1, 2, 7) for spacing in schedules.SPACINGS):
        drawn = []

        class Tape:
            def standard_normal(self, shape, drawn=drawn):
                drawn.append(shape)
                return np.zeros(shape)

        x_T = np.ones((3, 2), np.float32)
        asked, seen = [], []

        def model(x_t, t, cond=None, asked=asked):
            assert cond == "c" and t.shape == (3,) and (t == t[0]).all() and x_t.dtype == np.float32
            asked.append(t[0])
            return 0.3 * x_t

        def callback(t, x_t, x_0, seen=seen):
            assert x_t.dtype == x_0.dtype == np.float32
            seen.append((t, x_t.copy(), x_0.copy()))

        x_0 = sample(with_share(model, name), x_T, schedule, rng=Tape(), cond="c", callback=callback)
        assert len(asked) == calls(schedule.T) and drawn == [(3, 2)] * draws(schedule.T)
        assert [t for t, _, _ in seen] == list(range(schedule.T, -1, -1))
        np.testing.assert_allclose(seen[0][1], x_T, rtol=1e-6)
        for state in seen[-1][1:]:
            np.testing.assert_array_equal(state, x_0)
        a = schedule.alpha_bar[-1]
        np.testing.assert_allclose(seen[0][2], (1 - 0.3 * np.sqrt(1 - a)) * x_T / np.sqrt(a), rtol=1e-5)
        assert x_0.dtype == np.float32 and x_0.shape == x_T.shape and (x_T == 1).all()


@pytest.mark.parametrize("name, eta", ETA)
def test_times_calls_draws_and_states_are_as_declared(name, eta):
    noisy = "ancestral" in name if eta is None else eta > 0
    sample = functools.partial(choose.draw, name, eta=eta)
    bookkeeping(sample, functools.partial(choose.calls, name), lambda n: n - 1 if noisy else 0, name)


@pytest.mark.parametrize(
    "module, old, new",
    [
        (ddim, "callback(t, x_t, guess.x_0)", "callback(t - 1, x_t, guess.x_0)"),
        (plms, "callback(t, x_t, guess.x_0)", "callback(t, x_t, x_t)"),
        (ddim, "cond=cond, kind=kind, clip=clip)\n        if", "kind=kind, clip=clip)\n        if"),
    ],
)
def test_what_the_callback_is_told_wrongly_is_seen(module, old, new):
    with pytest.raises(AssertionError):
        bookkeeping(mutant(module, old, new).sample, lambda n: n, lambda n: 0, "ddim")


@pytest.mark.parametrize("name", choose.SAMPLERS)
def test_clip_and_kind_reach_every_guess(name):
    guesses = []
    model = with_share(lambda x, t, cond=None: np.full_like(x, 5.0), name)
    choose.draw(
        name, model, np.ones((2, 1)), schedules.cosine(5), rng=np.random.default_rng(0), clip=0.5, kind="x_0",
        callback=lambda t, x_t, x_0: guesses.append(x_0),
    )  # fmt: skip
    np.testing.assert_array_equal(guesses[:-1], 0.5)


@pytest.mark.parametrize("name", choose.SAMPLERS)
def test_nan_from_the_model_stops_it_and_names_the_step(name):
    schedule = schedules.spaced(LINEAR, 5)
    model = with_share(lambda x, t, cond=None: x * (np.nan if t[0] == 600 else 0.1), name)
    with pytest.raises(FloatingPointError, match=r"level 3 of 5 \(time 600"):
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
    for name in (n for n in choose.SAMPLERS if n.startswith("ancestral")):
        with pytest.raises(ValueError, match="rng must be a generator, got None"):
            choose.draw(name, with_share(model, name), x_T, schedules.spaced(schedule, 2))
        assert choose.draw(name, with_share(model, name), x_T, schedules.spaced(schedule, 1)).shape == (1, 1)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_bound_that_bounds_nothing_is_named(clip):
    with pytest.raises(ValueError, match="clip must be above 0"):
        choose.draw("ddim", gaussian("eps", 0, 1, LINEAR), np.ones((1, 1)), schedules.spaced(LINEAR, 2), clip=clip)


def test_a_prediction_of_another_shape_is_named():
    """Broadcast, it would draw pictures of another shape, or one guess for all samples."""
    for model in (lambda x, t, cond: x.sum(1), lambda x, t, cond: x[:1]):
        with pytest.raises(ValueError, match=r"the shape that it is given, \(3, 3\), got \("):
            choose.draw("ddim", model, np.ones((3, 3)), schedules.spaced(LINEAR, 2))


@pytest.mark.parametrize("name", choose.SAMPLERS)
def test_float32_is_good_to_a_thousandth(name):
    """The error model: x_0 is read off x_T by dividing by sqrt(alpha_bar_T), 157 here, so single precision keeps 1e-5 of it."""
    x_T = np.random.default_rng(0).standard_normal((5, 3))
    results = []
    for dtype in (np.float64, np.float32):
        model = with_share(gaussian("eps", 0.3, 0.5, LINEAR), name)
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
        x_T = np.zeros((2 + schedule.T, 1))
        x_T[1] = 1
        x_0 = choose.draw(name, gaussian("eps", 0.3, 0.5, LINEAR), x_T, schedule, rng=OneHotNoise(first=2))
        mean, std = moments(x_0)
        assert mean == pytest.approx(0.3, abs=4e-3) and std == pytest.approx(0.5, abs=0.02), name
