r"""Laws that every sampler obeys, each a function that raises AssertionError where one is broken.

A sampler here is ``sample(model, x_T, schedule, *, rng, kind, callback) -> x_0``. No law draws random numbers: on Gaussian
data a sampler is affine in $x_T$ and in its draws, so a tape of ones and zeros shows its law exactly.
"""

import numpy as np
from oracles import Mixture, OneHotNoise, gaussian

from minigen.maths import schedules
from minigen.maths.schedules import Schedule

STEPS = (1, 2, 3, 7, 20)


def rounding(schedule, stiff=False):
    """How far rounding may go in a state of size 1: every level a few operations, and x_0 divides by the root of alpha_bar_T.

    ``stiff``: a second slope at the end of a step also divides what rounding did by the noise there, and multiplies it by
    the length of the step.
    """
    a, sigma = schedule.alpha_bar[-1], schedule.sigma
    ratio = max(1.0, *(sigma[2:] / sigma[1:-1])) if stiff and schedule.T > 1 else 1.0
    return 64 * schedule.T * np.finfo(np.float64).eps * max(1.0, a**-0.5 if a > 0 else 1.0) * ratio


def close(got, want, allowed, what=""):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape and np.isfinite(got).all(), what
    assert (abs(got - want) <= allowed).all(), f"{what}: got {got}, want {want}, allowed {allowed}"


def with_share(model, learned):
    """``model`` as it is, or with a share of 0 for the learned variance, which makes that the small one."""
    return (lambda x_t, t, cond=None: (model(x_t, t, cond), 0 * x_t)) if learned else model


def grids(training, steps=STEPS):
    """Every spacing with every number of steps; no Karras spacing where the last noise is infinite."""
    for spacing in schedules.SPACINGS[: 3 if training.alpha_bar[-1] > 0 else 2]:
        for n in steps:
            yield schedules.spaced(training, n, spacing)


def wiretapped(sample, model, x_T, schedule, kind="eps"):
    """The result, what the model was asked, ((time, state) a call), and what the callback saw, (level, state, guess)."""
    asked, seen = [], []

    def tapped(x_t, t, cond=None):
        assert (t == t[0]).all()
        asked.append((t[0], x_t.copy()))
        return model(x_t, t, cond)

    def callback(t, x_t, x_0):
        seen.append((t, x_t.copy(), x_0.copy()))

    before = x_T.copy()
    x_0 = sample(tapped, x_T, schedule, rng=OneHotNoise(first=2), kind=kind, callback=callback)
    np.testing.assert_array_equal(x_T, before, "x_T was changed")
    return x_0, asked, seen


def tape(schedule, mean=0.0, std=1.0):
    """x_T whose row 0 is the mean, row 1 has one standard deviation more, and row 2 + k gets a 1 as its k-th draw."""
    x_T = np.full((2 + schedule.T, 1), mean)
    x_T[1] += std
    return x_T


def moments(state):
    """Mean and standard deviation of a state, from the rows of `tape`."""
    return state[0, 0], np.sqrt(np.sum((state[1:, 0] - state[0, 0]) ** 2))


def point_mass(sample, training, *, kind="eps", steps=STEPS, learned=False, stiff=False):
    r"""Data of one point m: at every call the state is $N(\sqrt{\bar\alpha} m, 1 - \bar\alpha)$ for the level the model is told."""
    m = 0.7
    model = with_share(gaussian(kind, m, 0.0, training), learned)
    for schedule in grids(training, steps):
        a_T = schedule.alpha_bar[-1]
        x_0, asked, seen = wiretapped(sample, model, tape(schedule, a_T**0.5 * m, (1 - a_T) ** 0.5), schedule, kind)
        allowed = rounding(schedule, stiff)
        for time, state in asked:
            a = training.alpha_bar_at(np.array([time]))[0]
            close(moments(state), (a**0.5 * m, (1 - a) ** 0.5), allowed, f"asked at time {time} of {schedule.times}")
        for level, state, guess in seen:
            a = schedule.alpha_bar[level]
            close(moments(state), (a**0.5 * m, (1 - a) ** 0.5), allowed, f"seen at level {level} of {schedule.times}")
            close(guess, np.full_like(guess, m), allowed, f"guess at level {level}")
        close(x_0, np.full_like(x_0, m), allowed, "result")


def follows(sample, recursion, training, *, std=0.5, steps=STEPS, stiff=False):
    """Data N(0, s^2): mean and variance of every state as ``recursion(schedule, std)`` says, {level: (weight of x_T, variance)}."""
    for schedule in grids(training, steps):
        x_0, _, seen = wiretapped(sample, gaussian("eps", 0.0, std, training), tape(schedule), schedule)
        want = recursion(schedule, std)
        allowed = 8 * rounding(schedule, stiff) * max(1.0, *(abs(w) + v for w, v in want.values()))
        assert [level for level, _, _ in seen] == list(range(schedule.T, -1, -1))
        for level, state, _ in seen:
            gain, variance = want[level]
            close(state[0, 0], 0.0, allowed)
            close(state[1, 0], gain, allowed, f"weight of x_T at level {level} of {schedule.times}")
            close(np.sum(state[1:, 0] ** 2), variance, allowed, f"variance at level {level} of {schedule.times}")
        np.testing.assert_array_equal(seen[-1][1], x_0)


def bookkeeping(sample, calls, draws, *, learned=False):
    """Times told: from T down, of the grid, never up; the callback: T to 0, states and guesses; calls and draws as declared."""
    training = schedules.cosine(50)
    for schedule in grids(training):
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

        x_0 = sample(with_share(model, learned), x_T, schedule, rng=Tape(), cond="c", callback=callback)
        N = schedule.T
        assert len(asked) == calls(N) and drawn == [(3, 2)] * draws(N)
        assert asked[0] == schedule.times[-1] and asked[-1] == schedule.times[1]
        assert set(asked) == set(schedule.times[1:]) and asked == sorted(asked, reverse=True)
        if calls(N) == N:
            assert len(set(asked)) == N
        assert [t for t, _, _ in seen] == list(range(N, -1, -1))
        np.testing.assert_allclose(seen[0][1], x_T, rtol=1e-6)
        for state in seen[-1][1:]:
            np.testing.assert_array_equal(state, x_0)
        guess = (x_T - 0.3 * np.sqrt(1 - schedule.alpha_bar[-1]) * x_T) / np.sqrt(schedule.alpha_bar[-1])
        np.testing.assert_allclose(seen[0][2], guess, rtol=1e-5)
        assert x_0.dtype == np.float32 and x_0.shape == x_T.shape and (x_T == 1).all()


def kinds_agree(sample, *, learned=False, stiff=False):
    """eps, x_0, v and score of the same Gaussian walk the same path."""
    training = schedules.linear(100)
    for schedule in grids(training, (1, 4, 9)):
        paths = []
        for kind in ("eps", "x_0", "v", "score"):
            model = with_share(gaussian(kind, 0.7, 0.4, training), learned)
            _, _, seen = wiretapped(sample, model, tape(schedule), schedule, kind)
            paths.append(np.array([state for _, state, _ in seen]))
        for path in paths[1:]:
            close(path, paths[0], 64 * rounding(schedule, stiff), "path of another kind")


def rows_are_independent(sample, *, learned=False):
    """A sample is the same alone as among others, and in another place among them."""
    schedule = schedules.spaced(schedules.cosine(60), 7)
    x_T = np.random.default_rng(0).standard_normal((4, 2, 3))
    model = with_share(Mixture([0.4, 0.6], [-1, 1.5], [0.3, 0.5]).eps(schedule), learned)

    class Same:  # the same noise for every row
        def __init__(self):
            self.rng = np.random.default_rng(1)

        def standard_normal(self, shape):
            return np.broadcast_to(self.rng.standard_normal(shape[1:]), shape)

    whole = sample(model, x_T, schedule, rng=Same())
    np.testing.assert_array_equal(sample(model, x_T[2:3], schedule, rng=Same()), whole[2:3])
    np.testing.assert_array_equal(sample(model, x_T[::-1], schedule, rng=Same()), whole[::-1])
    np.testing.assert_array_equal(sample(model, x_T, schedule, rng=Same()), whole)


# --- order of convergence ---------------------------------------------------------------------------------------------

MIXTURE = Mixture([0.3, 0.7], [-1.0, 0.8], [0.45, 0.35])
QUANTILES = np.array([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])


def log_grid(n, pattern=(1.0,)):
    """Levels with sigma from 0.02 to 20, their steps in log sigma as long as the pattern says, over and over."""
    steps = np.resize(np.asarray(pattern, np.float64), n - 1)
    share = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    sigma = 0.02 * 1000**share
    return Schedule(np.concatenate([[1.0], 1 / (1 + sigma**2)]))


def flow_errors(sample, pattern=(1.0,), steps=(20, 40, 80, 160, 320)):
    """Largest error over the quantiles at the lowest noisy level, for each number of levels."""
    errors = []
    for n in steps:
        schedule = log_grid(n, pattern)
        x_T = MIXTURE.quantile(QUANTILES, schedule.alpha_bar[-1]).reshape(-1, 1)
        want = MIXTURE.quantile(QUANTILES, schedule.alpha_bar[1]).reshape(-1, 1)
        states = {}
        sample(
            MIXTURE.eps(schedule),
            x_T,
            schedule,
            rng=None,
            callback=lambda t, x, _: states.__setitem__(t, x),  # noqa: B023
        )
        errors.append(float(abs(states[1] - want).max()))
    return np.array(errors)


def order(errors):
    """Slope: the middle of the last two doublings."""
    assert np.isfinite(errors).all()
    return float(np.mean(np.log2(errors[-3:-1] / errors[-2:])))
