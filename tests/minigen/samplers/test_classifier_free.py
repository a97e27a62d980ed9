"""Classifier-free guidance: both conventions, the doubled batch, its exact law on Gaussians, and planted bugs."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutants import mutant
from oracles import OneHotNoise, gaussian_eps

import autograd as ag
from minigen.maths import schedules
from minigen.samplers import ancestral, classifier_free, ddim, guidance

SCHEDULE = schedules.linear(60)
X = np.random.default_rng(0).standard_normal((3, 2, 2, 2))
T3 = np.array([1, 20, 60])
Y = np.array([1.0, 2.0, 3.0])


def model(x, t, cond=None):
    """Something that depends on the time and the condition; None is a condition too."""
    c = 0.5 if cond is None else cond.reshape(-1, 1, 1, 1)
    return ag.tanh(x * c + 0.01 * t.reshape(-1, 1, 1, 1)) + c * c


def close(got, want, rel=1e-12):
    got, want = np.asarray(ag.raw(got)), np.asarray(ag.raw(want))
    assert got.shape == want.shape and np.isfinite(got).all()
    assert abs(got - want).max() <= rel * max(1.0, abs(want).max())


def conventions(g):
    """Eqs. 1 and 2, s = 1 + w; the ends bit for bit, also of single rows."""
    c, u = model(X, T3, Y), model(X, T3, 0 * Y)
    close(g.classifier_free(model, 3.0, 0)(X, T3, Y), u + 3 * (c - u))
    close(g.classifier_free_w(model, 2.0, 0)(X, T3, Y), 3 * c - 2 * u)
    close(g.classifier_free_w(model, lambda t: t * 0 + 2.0, 0)(X, T3, Y), 3 * c - 2 * u)
    np.testing.assert_array_equal(g.classifier_free(model, 1, 0)(X, T3, Y), c)
    np.testing.assert_array_equal(g.classifier_free(model, 0, 0)(X, T3, Y), u)
    np.testing.assert_array_equal(g.classifier_free_w(model, 0, 0)(X, T3, Y), c)
    np.testing.assert_array_equal(g.classifier_free_w(model, -1, 0)(X, T3, Y), u)
    rows = g.classifier_free(model, lambda t: np.array([0.0, 1.0, 4.0]), 0)(X, T3, Y)
    np.testing.assert_array_equal(rows[0], u[0])
    np.testing.assert_array_equal(rows[1], c[1])
    close(rows[2], (4 * c - 3 * u)[2])
    part = g.classifier_free(model, guidance.interval(3.0, 10, 30, outside=1), 0)(X, T3, Y)
    np.testing.assert_array_equal(part[[0, 2]], c[[0, 2]])
    close(part[1], (3 * c - 2 * u)[1])


def affine(g):
    a, b, m = (g.classifier_free(model, s, 0)(X, T3, Y) for s in (-1.0, 5.0, 2.0))
    close(m, (a + b) / 2)


def negative_prompt(g):
    """Equal to the prompt it changes nothing, at any scale; else the picture is pushed away from it."""
    np.testing.assert_array_equal(g.classifier_free(model, 7.5, Y)(X, T3, Y), model(X, T3, Y))
    np.testing.assert_array_equal(g.classifier_free(model, 7.5, lambda cond: cond)(X, T3, Y), model(X, T3, Y))
    c, u = model(X, T3, Y), model(X, T3, Y[::-1])
    close(g.classifier_free(model, 2.0, Y[::-1])(X, T3, Y), 2 * c - u)


def one_call(g):
    """Conditional first, in one call; two calls where the conditions cannot be joined, with the same numbers."""
    calls = []

    def seen(x, t, cond=None):
        calls.append((x, t, cond))
        return model(x, t, cond)

    one = g.classifier_free(seen, 2.0, np.zeros(1))(X, T3, Y)
    assert len(calls) == 1
    x, t, cond = calls.pop()
    np.testing.assert_array_equal(x, np.concatenate([X, X]))
    np.testing.assert_array_equal(t, [1, 20, 60, 1, 20, 60])
    np.testing.assert_array_equal(cond, [1, 2, 3, 0, 0, 0])
    two = g.classifier_free(seen, 2.0, np.zeros((3, 1)))(X, T3, Y)  # another shape
    assert [len(x) for x, _, _ in calls] == [3, 3] and calls[0][2] is Y
    np.testing.assert_array_equal(one, two)
    calls.clear()
    close(g.classifier_free(seen, 2.0)(X, T3, Y), 2 * model(X, T3, Y) - model(X, T3))
    assert [c is None for _, _, c in calls] == [False, True]


def variance_share(g):
    """v of a pair is the conditional's, at scale 0 the unconditional's; the prediction is that of the model alone."""
    pair = lambda x, t, cond: (model(x, t, cond), x * 0 + cond.reshape(-1, 1, 1, 1))  # noqa: E731
    for s, want in ((3.0, Y), (1.0, Y), (0.0, 0 * Y)):
        eps, v = g.classifier_free(pair, s, 0)(X, T3, Y)
        np.testing.assert_array_equal(v[:, 0, 0, 0], want)
        np.testing.assert_array_equal(eps, g.classifier_free(model, s, 0)(X, T3, Y))


def contrast(g):
    """phi = 0 is a no-op, phi = 1 gives every sample the conditional's standard deviation, between is between."""
    c, u = model(X, T3, Y), model(X, T3, 0 * Y)
    plain = 6 * c - 5 * u
    std = lambda x: x.std((1, 2, 3), keepdims=True)  # noqa: E731
    full = g.classifier_free(model, 6.0, 0, rescale=1.0)(X, T3, Y)
    np.testing.assert_array_equal(
        g.classifier_free(model, 6.0, 0, rescale=0.0)(X, T3, Y), g.classifier_free(model, 6.0, 0)(X, T3, Y)
    )
    close(std(full), std(c))
    close(full, plain * std(c) / std(plain))
    close(g.classifier_free(model, 6.0, 0, rescale=0.7)(X, T3, Y), 0.7 * full + 0.3 * plain)
    close(g.classifier_free_w(model, 5.0, 0, rescale=0.7)(X, T3, Y), 0.7 * full + 0.3 * plain)
    close(g.rescaled(0 * c, c, 1.0), 0 * c)
    close(g.rescaled(0 * c + 3, c, 0.7), 0 * c + 3)
    for constant in (0.1, -0.7, 1 / 3):  # whose mean is rounded
        for dtype in (np.float32, np.float64):
            same = np.full((2, 3, 5, 7), constant, dtype)
            np.testing.assert_array_equal(g.rescaled(same, np.arange(210, dtype=dtype).reshape(same.shape), 0.7), same)
    close(g.rescaled(c[..., :1, :1, :1], 2 * c[..., :1, :1, :1], 0.7), c[..., :1, :1, :1])  # one number has no contrast
    u = model(X, T3, 0.3 * Y)
    np.testing.assert_array_equal(g.classifier_free(model, 0.0, 0.3 * Y, rescale=1.0)(X, T3, Y), u)  # c has no part
    mixed = g.classifier_free(model, lambda times: np.where(times == T3[0], 0.0, 6.0), 0.3 * Y, rescale=1.0)(X, T3, Y)
    zero = np.broadcast_to(T3, len(X)) == T3[0]
    close(mixed[zero], u[zero])
    assert 0 < zero.sum() < len(X)
    close(std(mixed)[~zero], std(c)[~zero])


def thresholds(g):
    """A no-op inside the bound, bit for bit (law L17); else each sample by its own quantile."""
    x = np.linspace(-0.9, 1.0, 24).reshape(2, 3, 4)
    clip = g.dynamic_threshold(0.9)
    np.testing.assert_array_equal(clip(x), x)
    np.testing.assert_array_equal(g.dynamic_threshold(0.9, 2.0)(2 * x), 2 * x)
    wild = x * np.array([1.0, 4.0]).reshape(2, 1, 1)
    wild[1, 0, 0] = -50
    tau = np.quantile(abs(wild[1]), 0.9)
    np.testing.assert_array_equal(clip(wild)[0], x[0])
    close(clip(wild)[1], np.clip(wild[1], -tau, tau) / tau)
    assert abs(clip(wild)).max() <= 1 + 1e-15
    assert clip(wild.astype(np.float32)).dtype == np.float32
    close(g.dynamic_threshold(0.9, 2.0)(2 * wild), 2 * clip(wild))


CHECKS = [conventions, affine, negative_prompt, one_call, variance_share, contrast, thresholds]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_exact(check):
    check(classifier_free)


MUTANTS = {
    "w for s": ("else 1 + w\n", "else w\n"),
    "w for s, in time": ("1 + np.asarray(w(times))", "np.asarray(w(times))"),
    "branches swapped": ("u + rows * (c - u)", "c + rows * (u - c)"),
    "from the conditional": ("u + rows * (c - u)", "c + rows * (c - u)"),
    "halves swapped": ("return said[:n], said[n:]", "return said[n:], said[:n]"),
    "order of the batch": ("joined(cond, null, n)", "joined(null, cond, n)"),
    "ends rounded": ("out = ag.where(rows == 1, c, ag.where(rows == 0, u, out))", "out = out * 1.0"),
    "variance guided": ("(ag.where(rows == 0, b, a) for", "(b + rows * (a - b) for"),
    "variance of the wrong half": ("tuple(part[:n] for part in said), tuple(part[n:]", "tuple(part[n:] for part in said), tuple(part[:n]"),
    "unconditional contrast": ("rescaled(out, c, rescale)", "rescaled(out, u, rescale)"),
    "contrast turned round": ("own, theirs = _std(guided), _std(conditional)", "theirs, own = _std(guided), _std(conditional)"),
    "phi turned round": ("(phi * ratio + (1 - phi))", "((1 - phi) * ratio + phi)"),
    "contrast of the batch": ("flat = ag.reshape(x, (x.shape[0], -1))", "flat = ag.reshape(x, (1, -1))"),
    "quantile of the batch": ("share, axis=1).astype", "share, axis=None).reshape(1).astype"),
    "quantile without absolute value": ("xp.quantile(xp.abs(x_0)", "xp.quantile((x_0)"),
    "below the bound": ("tau = xp.maximum(tau, bound)", "tau = xp.maximum(tau, 1e-3)"),
    "not brought back": (" * (bound / tau)", ""),
    "bound forgotten": (" * (bound / tau)", " / tau"),
    "none": ("both = joined(", "both = joined("),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_seen(name):
    broken = mutant(classifier_free, *MUTANTS[name])
    seen = False
    for check in CHECKS:
        try:
            check(broken)
        except (AssertionError, ValueError, TypeError):
            seen = True
            break
    assert seen == (name != "none")


# --- conditions -------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    label: object
    text: object


def test_conditions_are_joined_leaf_by_leaf():
    a, b = np.arange(3), np.arange(3, 6)
    both = np.arange(6)
    np.testing.assert_array_equal(classifier_free.joined(a, b, 3), both)
    assert classifier_free.joined(None, None, 3) is None
    tree = classifier_free.joined({"k": (a, None), "l": [a]}, {"k": (b, None), "l": [b]}, 3)
    np.testing.assert_array_equal(tree["k"][0], both)
    assert tree["k"][1] is None and isinstance(tree["k"], tuple) and isinstance(tree["l"], list)
    named = classifier_free.joined(Asked(a, a), Asked(b, b), 3)
    np.testing.assert_array_equal(named.text, both)
    assert isinstance(classifier_free.joined(ag.Tensor(a * 1.0), b * 1.0, 3), ag.Tensor)
    for x, y in (
        (a, None),
        (a, b[:2]),
        ((a,), [b]),
        ({"k": a}, {"l": b}),
        ((a,), (b, b)),
        ("red", "blue"),
        (a[:2], b[:2]),
    ):
        with pytest.raises(classifier_free.CannotJoin):
            classifier_free.joined(x, y, 3)


def test_null_fills_the_place_of_the_condition():
    seen = []

    def told(x, t, cond):
        seen.append(cond)
        return x

    n = 3
    cond = {"label": np.array([1, 2, 3]), "text": np.ones((3, 4, 2), np.float32)}
    null = {"label": 10, "text": np.zeros((1, 4, 2), np.float32)}
    classifier_free.classifier_free(told, 2.0, null)(X, T3, cond)
    np.testing.assert_array_equal(seen[0]["label"], [1, 2, 3, 10, 10, 10])
    assert seen[0]["text"].shape == (6, 4, 2) and seen[0]["text"].dtype == np.float32 and len(seen) == 1
    assert seen[0]["text"][n:].max() == 0 and cond["label"].tolist() == [1, 2, 3]


# --- the law on Gaussians ---------------------------------------------------------------------------------------------


def result(model, schedule, variance="small"):
    """Mean and variance of the result in one dimension: exact, no sampling."""
    x_T = np.zeros((schedule.T + 1, 1))
    x_T[1] = 1
    out = ancestral.sample(model, x_T, schedule, rng=OneHotNoise(first=2), variance=variance)[:, 0]
    return out[0], np.sum((out[1:] - out[0]) ** 2)


def of_two(conditional, unconditional):
    """A model of two Gaussians: cond is 1 for the first, 0 for the second."""

    def model(x, t, cond):
        a, b = (gaussian_eps(*one, SCHEDULE_LONG)(x, t) for one in (conditional, unconditional))
        return np.where(cond.reshape(-1, 1) == 1, a, b)

    return model


SCHEDULE_LONG = schedules.linear(1000)


def recursion(schedule, s, conditional, unconditional):
    """The same from eq. 11 and the two Gaussians' closed forms alone."""
    M, V = 0.0, 1.0
    for t in range(schedule.T, 0, -1):
        a, b = schedule.alpha_bar[t], schedule.beta[t]
        gain = shift = 0.0
        for share, (m, std) in ((s, conditional), (1 - s, unconditional)):
            gain += share * np.sqrt(1 - a) / (a * std**2 + 1 - a)
            shift -= share * np.sqrt(1 - a) * np.sqrt(a) * m / (a * std**2 + 1 - a)
        c = b / np.sqrt(1 - a)
        M = (M - c * (gain * M + shift)) / np.sqrt(1 - b)
        V = ((1 - c * gain) / np.sqrt(1 - b)) ** 2 * V + (schedule.beta_tilde[t] if t > 1 else 0.0)
    return M, V


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.2, 1.5), st.floats(-1, 8))
def test_law_12_equal_variances_the_mean_is_pushed_and_nothing_else_happens(m_c, m_u, std, s):
    grid = SCHEDULE_LONG.respaced(schedules.uniform_times(1000, 7))
    guided = classifier_free.classifier_free(of_two((m_c, std), (m_u, std)), s, 0)
    asked = lambda x, t, c=None: guided(x, t, np.ones(len(x)))  # noqa: E731
    pushed = gaussian_eps(m_u + s * (m_c - m_u), std, SCHEDULE_LONG)
    np.testing.assert_allclose(result(asked, grid), result(pushed, grid), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 3.0, 8.0])
def test_law_12_different_variances_follow_the_recursion(s):
    grid = SCHEDULE_LONG.respaced(schedules.uniform_times(1000, 25))
    pair = (1.0, 0.5), (-0.3, 1.2)
    guided = classifier_free.classifier_free(of_two(*pair), s, 0)
    asked = lambda x, t, c=None: guided(x, t, np.ones(len(x)))  # noqa: E731
    np.testing.assert_allclose(result(asked, grid), recursion(grid, s, *pair), rtol=1e-9)


def test_guidance_does_not_sample_the_tilted_density():
    """p(x | c)^3 p(x)^-2 of N(1, 1/4) and N(0, 1) is a Gaussian; what is drawn is another one, however small the steps.

    Bradley & Nakkiran 2408.09000. That it is not the steps: at s = 1 the same chain gives N(1, 1/4) far more closely,
    and ten times as many levels leave the gap as it is.
    """
    (m_c, s_c), (m_u, s_u), s = (1.0, 0.5), (0.0, 1.0), 3.0
    precision = s / s_c**2 + (1 - s) / s_u**2
    tilted = (s * m_c / s_c**2 + (1 - s) * m_u / s_u**2) / precision, 1 / precision
    gaps, errors = [], []
    for T in (1000, 10_000):
        schedule = schedules.linear(T)
        mean, var = recursion(schedule, s, (m_c, s_c), (m_u, s_u))
        gaps.append((mean - tilted[0], var / tilted[1]))
        one = recursion(schedule, 1.0, (m_c, s_c), (m_u, s_u))
        errors.append((abs(one[0] - m_c), abs(one[1] / s_c**2 - 1)))
    assert max(errors[1]) < 5e-3
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=0.1, atol=0.01)
    assert abs(gaps[1][0]) > 20 * errors[1][0] and abs(gaps[1][1] - 1) > 20 * errors[1][1]
    assert np.round([*tilted, mean, var], 3).tolist() == [1.2, 0.1, 1.313, 0.066]


# --- with others ------------------------------------------------------------------------------------------------------


def test_it_composes_and_can_be_differentiated_through():
    guided = classifier_free.classifier_free(model, 3.0, 0)
    log_p = guidance.through_x_0(guided, guidance.pixel_log_p(lambda x: x, 0 * X), SCHEDULE)
    ag.gradcheck(lambda x: log_p(x, T3, Y), [X], step=3e-4)
    outer = guidance.by_x_0_gradient(guided, guidance.pixel_log_p(lambda x: x, 0 * X), SCHEDULE, 0.1)
    inner = guidance.gradient(log_p, X, T3, Y)
    a = SCHEDULE.alpha_bar[T3].reshape(3, 1, 1, 1)
    close(outer(X, T3, Y), guided(X, T3, Y) - 0.1 * np.sqrt(1 - a) * inner)
    for sample in (ancestral.sample, ddim.sample):
        x_0 = sample(
            outer, X, SCHEDULE, rng=np.random.default_rng(0), cond=Y,
            clip=classifier_free.dynamic_threshold(),
        )  # fmt: skip
        assert x_0.dtype == np.float64 and abs(x_0).max() <= 1.00001


def test_bad_input_is_one_sentence():
    for says, call in {
        "rescale must be": lambda: classifier_free.classifier_free(model, 2.0, 0, rescale=1.5),
        "share must be": lambda: classifier_free.dynamic_threshold(0.0),
        "bound must be above 0": lambda: classifier_free.dynamic_threshold(0.9, 0.0),
        "bound must be .* finite": lambda: classifier_free.dynamic_threshold(0.9, np.inf),
        "scale must be finite": lambda: classifier_free.classifier_free(model, np.inf, 0)(X, T3, Y),
    }.items():
        with pytest.raises(ValueError, match=says):
            call()
