"""Bugs of one line planted in our samplers, each killed by the law that is named with it.

A bug that several laws see is named with the one that sees the fewest others. Every law that looks at more than levels is named; the
bugs that only levels can have are in test_laws.py.
"""

import functools

import pytest
from mutants import mutant

from minigen.laws import Ours, run_laws
from minigen.samplers import ancestral, ddim, dpm_solver, euler, plms

FUNCTIONS = {
    "ddim": (ddim, "sample", {}),
    "ancestral": (ancestral, "sample", {}),
    "ancestral-large": (ancestral, "sample", {"variance": "large"}),
    "ancestral-learned": (ancestral, "sample", {"variance": "learned"}),
    "plms": (plms, "sample", {}),
    "dpmpp-2m": (dpm_solver, "sample_2m", {}),
    "dpmpp-2s": (dpm_solver, "sample_2s", {}),
    "euler": (euler, "sample_euler", {}),
    "heun": (euler, "sample_heun", {}),
    "euler-ancestral": (euler, "sample_euler_ancestral", {}),
}

PLANTED = {  # name -> (sampler, eta, old text, new text, law)
    "ddim: sign of eps": ("ddim", 0.4, "** 0.5 * eps\n    return x_u", "** 0.5 * -eps\n    return x_u", "L8"),
    "ddim: no root of alpha_bar": ("ddim", None, "x_u = a**0.5 * x_0", "x_u = a * x_0", "L15"),
    "ddim: sigma not taken out": ("ddim", 0.4, "1 - a - s**2", "1 - a", "L6"),
    "ddim: sigma for sigma^2": ("ddim", 0.4, "1 - a - s**2", "1 - a - s", "L8"),
    "ddim: no root in eq. 16": ("ddim", 0.4, "(1 - a_t / a_u)) ** 0.5", "(1 - a_t / a_u))", "L8"),
    "ddim: eta^2 for eta": ("ddim", 0.4, "return eta * (", "return eta**2 * (", "L8"),
    "ddim: no ratio in eq. 16": ("ddim", 1.0, "(1 - a_t / a_u)", "(1 - a_t)", "L10"),
    "ddim: share of the level left": (
        "ddim",
        None,
        "schedule.alpha_bar[u]), sigma",
        "schedule.alpha_bar[t]), sigma",
        "L4",
    ),
    "ddim: stops at level 1": (
        "ddim",
        None,
        "for t in range(schedule.T, 0, -1)",
        "for t in range(schedule.T, 1, -1)",
        "L0",
    ),
    "ddim: starts one level late": (
        "ddim",
        None,
        "for t in range(schedule.T, 0, -1)",
        "for t in range(schedule.T - 1, 0, -1)",
        "L0",
    ),
    "ddim: steps two levels": (
        "ddim",
        None,
        "t, t - 1, noise, schedule, eta=eta",
        "t, max(t - 2, 0), noise, schedule, eta=eta",
        "L15",
    ),
    "ddim: noise drawn at the end": ("ddim", 0.4, "if eta > 0 and t > 1 else None", "if eta > 0 else None", "L5"),
    "ddim: noise of one row for all": ("ddim", 0.4, "x_t.shape), x_t.dtype)", "x_t.shape)[:1], x_t.dtype)", "L15"),
    "ddim: kind not passed on": (
        "ddim",
        None,
        "cond=cond, kind=kind, clip=clip)\n        if",
        "cond=cond, clip=clip)\n        if",
        "L11",
    ),
    "ddim: clip not passed on": ("ddim", None, "kind=kind, clip=clip)\n        if", "kind=kind)\n        if", "L17"),
    "ddim: noise of its own": (
        "ddim",
        1.0,
        "xp.asarray(rng.standard_normal(x_t.shape), x_t.dtype) if eta",
        "xp.asarray(__import__('numpy').random.standard_normal(x_t.shape), x_t.dtype) if eta",
        "L5b",
    ),
    "ddim: noise never drawn": ("ddim", 0.4, "if eta > 0 and t > 1 else None", "* 0 if False else 0 * x_t", "L28"),
    "ddim: mean of the batch": (
        "ddim",
        None,
        "x_u = a**0.5 * x_0 +",
        "x_u = a**0.5 * (0.999 * x_0 + 0.001 * x_0.mean(0)) +",
        "L15",
    ),
    "ddim: changes its input": (
        "ddim",
        None,
        "xp, x_t = array_module(x_T), x_T\n    for",
        "xp, x_t = array_module(x_T), x_T\n    x_t *= 1.0001\n    for",
        "L0",
    ),
    "ddim: returns float64": (
        "ddim",
        None,
        "    return x_u if s == 0",
        "    x_u = x_u.astype('float64')\n    return x_u if s == 0",
        "L0",
    ),
    "ancestral: beta for beta tilde": (
        "ancestral",
        None,
        'schedule.beta_tilde if variance == "small" else schedule.beta\n',
        "schedule.beta\n",
        "L6",
    ),
    "ancestral-large: beta tilde for beta": (
        "ancestral-large",
        None,
        'schedule.beta_tilde if variance == "small" else schedule.beta\n',
        "schedule.beta_tilde\n",
        "L7",
    ),
    "ancestral: no root of sigma": (
        "ancestral",
        None,
        "float(variances(schedule, variance)[t]) ** 0.5",
        "float(variances(schedule, variance)[t])",
        "L10",
    ),
    "ancestral-large: no root of sigma": (
        "ancestral-large",
        None,
        "float(variances(schedule, variance)[t]) ** 0.5",
        "float(variances(schedule, variance)[t])",
        "L7",
    ),
    "ancestral: minus the noise's square": (
        "ancestral",
        None,
        "mean + sigma * noise",
        "mean + sigma * noise**2",
        "L10",
    ),
    "ancestral: sigma of the next level": (
        "ancestral",
        None,
        "s = sigma(t, schedule, variance)",
        "s = sigma(t - 1, schedule, variance)",
        "L28",
    ),
    "ancestral: no noise at level 2": (
        "ancestral",
        None,
        "return 0.0 if t == 1 else",
        "return 0.0 if t <= 2 else",
        "L28",
    ),
    "ancestral: noise of one row": (
        "ancestral",
        None,
        "rng.standard_normal(x_t.shape), x_t.dtype)",
        "rng.standard_normal(x_t.shape)[:1], x_t.dtype)",
        "L15",
    ),
    "ancestral: draws twice": (
        "ancestral",
        None,
        "        noise = xp.asarray(rng",
        "        rng.standard_normal(x_t.shape)\n        noise = xp.asarray(rng",
        "L5",
    ),
    "ancestral: kind not passed on": (
        "ancestral",
        None,
        "kind=kind, clip=clip)\n        if",
        "clip=clip)\n        if",
        "L11",
    ),
    "ancestral-learned: half the log": ("ancestral-learned", None, "xp.exp(0.5 * learned", "xp.exp(learned", "L10"),
    "ancestral-learned: ends turned round": (
        "ancestral-learned",
        None,
        "v * at(high, t, v) + (1 - v) * at(low, t, v)",
        "v * at(low, t, v) + (1 - v) * at(high, t, v)",
        "L10",
    ),
    "plms: oldest first": ("plms", None, "[guess, *history[:3]]", "[*history[-3:], guess]", "L21"),
    "plms: three guesses kept": ("plms", None, "*history[:3]", "*history[:2]", "L14"),
    "plms: sign of 59": ("plms", None, "-59 / 24", "59 / 24", "L21"),
    "plms: 37 for 38": ("plms", None, "37 / 24, -9 / 24", "38 / 24, -10 / 24", "L21"),
    "plms: a second difference added": (
        "plms",
        None,
        "-59 / 24, 37 / 24, -9 / 24",
        "-58 / 24, 35 / 24, -8 / 24",
        "L14",
    ),
    "plms: weights of no order": ("plms", None, "(3 / 2, -1 / 2)", "(1.4, -0.4)", "L14"),
    "plms: 16 for 17": ("plms", None, "-16 / 12, 5 / 12", "-17 / 12, 6 / 12", "L14"),
    "plms: x_0 of the last call": (
        "plms",
        None,
        "(x_t - (1 - a) ** 0.5 * eps) / a**0.5, eps",
        "history[0].x_0, eps",
        "L21",
    ),
    "plms: eps of the last call": ("plms", None, "/ a**0.5, eps, t", "/ a**0.5, history[0].eps, t", "L21"),
    "plms: next level wrong": ("plms", None, "t, t - 1, schedule)", "t, max(t - 2, 0), schedule)", "L15"),
    "plms: history outlives the run": (
        "plms",
        None,
        "        history = [guess, *history[:3]]\n",
        "        sample.__dict__.setdefault('heard', []).insert(0, guess)\n        history = sample.__dict__['heard'][:4]\n",
        "L5b",
    ),
    "2m: ratio turned round": (
        "dpmpp-2m",
        None,
        "(lam[t] - lam[t + 1]) / (lam[t - 1] - lam[t])",
        "(lam[t - 1] - lam[t]) / (lam[t] - lam[t + 1])",
        "L14",
    ),
    "2m: no ratio": ("dpmpp-2m", None, "float((lam[t] - lam[t + 1]) / (lam[t - 1] - lam[t]))", "1.0", "L22"),
    "2m: the wrong way": (
        "dpmpp-2m",
        None,
        "(1 + 1 / (2 * r)) * x_0_t - 1 /",
        "(1 - 1 / (2 * r)) * x_0_t + 1 /",
        "L21",
    ),
    "2m: forgets": ("dpmpp-2m", None, "t - 1, schedule), x_0\n", "t - 1, schedule), before\n", "L21"),
    "2m: a line in the last step": ("dpmpp-2m", None, "before is not None and t > 1:", "before is not None:", "L0"),
    "2m: keeps the blend": ("dpmpp-2m", None, "t - 1, schedule), x_0\n", "t - 1, schedule), D\n", "L21"),
    "2s: half for r": ("dpmpp-2s", None, "line_2s(x_0_top, x_0, r)", "line_2s(x_0_top, x_0, 0.5)", "L22"),
    "2s: 1 / r": (
        "dpmpp-2s",
        None,
        "(1 - 1 / (2 * r)) * x_0_t + 1 / (2 * r) * x_0_s",
        "(1 - 1 / r) * x_0_t + 1 / r * x_0_s",
        "L21",
    ),
    "2s: goes on from the middle": (
        "dpmpp-2s",
        None,
        "step(x_top, line_2s(x_0_top, x_0, r), top,",
        "step(x_t, line_2s(x_0_top, x_0, r), t,",
        "L21",
    ),
    "2s: guesses swapped": ("dpmpp-2s", None, "line_2s(x_0_top, x_0, r)", "line_2s(x_0, x_0_top, r)", "L21"),
    "2m: sigma_t for sigma_u": (
        "dpmpp-2m",
        None,
        "((1 - a_u) / (1 - a_t)) ** 0.5  #",
        "((1 - a_t) / (1 - a_t)) ** 0.5  #",
        "L21",
    ),
    "2m: sign of h": ("dpmpp-2m", None, "1 - (a_t / a_u) ** 0.5 * shrink", "1 + (a_t / a_u) ** 0.5 * shrink", "L15"),
    "2s: alpha of t": ("dpmpp-2s", None, "a_u**0.5 * minus_expm1", "a_t**0.5 * minus_expm1", "L15"),
    "euler: sign of the step": ("euler", None, "(sigma_u - sigma_t) * slope", "(sigma_t - sigma_u) * slope", "L6"),
    "euler-ancestral: up without its root": (
        "euler-ancestral",
        None,
        "(sigma_u / sigma_t) ** 2) ** 0.5",
        "(sigma_u / sigma_t) ** 2)",
        "L10",
    ),
    "euler-ancestral: up of the other level": (
        "euler-ancestral",
        None,
        "eta * sigma_u * (",
        "eta * sigma_t * (sigma_u > 0) * (",
        "L10",
    ),
    "euler-ancestral: eta squared": ("euler-ancestral", 0.4, "up = eta * sigma_u", "up = eta**2 * sigma_u", "L8"),
    "euler-ancestral: down without its root": (
        "euler-ancestral",
        None,
        "max(sigma_u**2 - up**2, 0.0) ** 0.5",
        "max(sigma_u**2 - up**2, 0.0)",
        "L17",
    ),
    "euler-ancestral: down to sigma_u": (
        "euler-ancestral",
        None,
        "step(x_hat, eps, sigma_t, down)",
        "step(x_hat, eps, sigma_t, sigma_u)",
        "L10",
    ),
    "heun: x_T not scaled": (
        "heun",
        None,
        "x_hat = x_T * to_hat[-1]\n    for t in range(schedule.T, 0, -1):\n        guess",
        "x_hat = x_T\n    for t in range(schedule.T, 0, -1):\n        guess",
        "L5",
    ),
    "heun: the model sees x_hat": (
        "heun",
        None,
        "predict(model, x_hat / to_hat[level], level",
        "predict(model, x_hat, level",
        "L4",
    ),
    "heun: second slope at the old level": ("heun", None, "ask(trial, t - 1).eps", "ask(trial, t).eps", "L6"),
    "heun: second slope of the old state": ("heun", None, "ask(trial, t - 1).eps", "ask(x_hat, t - 1).eps", "L21"),
    "heun: no half": ("heun", None, "+ ask(trial, t - 1).eps) / 2", "+ ask(trial, t - 1).eps)", "L21"),
    "heun: goes on from the trial": (
        "heun",
        None,
        "x_hat = step(x_hat, slope, sigma[t], sigma[t - 1])",
        "x_hat = step(trial if t > 1 else x_hat, slope, sigma[t], sigma[t - 1])",
        "L21",
    ),
    "euler: the model sees x_hat": ("euler", None, "x_t = x_hat / to_hat[t]", "x_t = x_hat", "L17"),
    "euler-ancestral: noise at the end": (
        "euler-ancestral",
        None,
        "if eta > 0 and t > 1 else None",
        "if eta > 0 else None",
        "L5",
    ),
    "euler: draws noise": ("euler", None, "eta=0.0, clip=clip", "eta=1.0, clip=clip", "L28"),
}


def verdicts(name, laws):
    sampler, eta, old, new, _ = PLANTED[name]
    module, function, settings = FUNCTIONS[sampler]
    settings = settings if eta is None else {**settings, "eta": eta}
    bad = functools.partial(getattr(mutant(module, old, new), function), **settings)
    dtype = "float32" if "float64" in name else "float64"
    return [*run_laws(Ours(sampler, eta=eta, sample=bad), laws, [dtype])]


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_bug_is_killed_by_its_law(name):
    (verdict,) = verdicts(name, [PLANTED[name][-1]])
    assert verdict.failed and verdict.detail, verdict


def test_only_one_law_sees_a_step_ratio_turned_round():
    """No test of the order can: the error telescopes."""
    assert [v.law for v in verdicts("2m: ratio turned round", None) if v.failed] == ["L14"]


def test_noise_in_the_result_is_seen_by_the_order_of_events_alone():
    assert [v.law for v in verdicts("ddim: noise drawn at the end", None) if v.failed] == ["L5"]


def test_every_law_of_runs_is_needed_to_name_a_bug():
    named = {law for *_, law in PLANTED.values()}
    assert named == {"L0", "L4", "L5", "L5b", "L6", "L7", "L8", "L10", "L11", "L14", "L15", "L17", "L21", "L22", "L28"}
