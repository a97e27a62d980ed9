"""Bugs of one line planted in all our samplers, filters, guidances, inpainters, networks and losses, and which law kills which.

A bug is text that is changed in one module, what is then asked for its laws, and one law that sees it.
``PYTHONPATH=tests/support python -m tests.minigen.laws.mutants`` runs every law on every bug and writes the table
beside this file.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mutants import mutant

import autograd.estimators
from minigen.laws import FromStep, Ours, run_laws
from minigen.laws import catalogue as cat
from minigen.laws import loss_catalogue as losses
from minigen.maths import gaussian, interpolation, likelihood, schedules
from minigen.models import classifier_free as cf_model
from minigen.models import dalle, ddpm, gan, gpt, improved_ddpm, pixelcnn, vae, vq_vae
from minigen.samplers import (
    ancestral,
    autoregressive,
    classifier_free,
    ddim,
    dpm_solver,
    euler,
    guidance,
    inpaint,
    plms,
    predict,
)

TABLE = Path(__file__).with_name("kills.txt")


class Planted(NamedTuple):
    """A bug: what is asked, as a function of the module; the module; the text, and what stands there instead; a law
    that sees it.
    """

    subject: Callable[[Any], Any]
    module: Any
    old: str
    new: str
    law: str
    dtype: str = "float64"


FUNCTIONS = {
    "ddim": (ddim, "sample", {}),
    "ancestral": (ancestral, "sample", {}),
    "ancestral-large": (ancestral, "sample", {"variance": "large"}),
    "ancestral-learned": (ancestral, "sample", {"variance": "learned"}),
    "plms": (plms, "sample", {}),
    "dpmpp-2m": (dpm_solver, "sample_2m", {}),
    "dpmpp-2s": (dpm_solver, "sample_2s", {}),
    "dpmpp-3m": (dpm_solver, "sample_3m", {}),
    "euler": (euler, "sample_euler", {}),
    "heun": (euler, "sample_heun", {}),
    "euler-ancestral": (euler, "sample_euler_ancestral", {}),
}


def walk(name: str, eta: float | None, old: str, new: str, law: str, dtype: str = "float64") -> Planted:
    """A bug in the sampler of this name."""
    module, function, settings = FUNCTIONS[name]
    given = settings if eta is None else {**settings, "eta": eta}
    return Planted(
        lambda bad: Ours(name, eta=eta, sample=partial(getattr(bad, function), **given)), module, old, new, law, dtype
    )


class OnLevelsOf(Ours):
    """DDIM on the uniform levels of a module of schedules."""

    def __init__(self, module: Any) -> None:
        super().__init__("ddim")
        self.module = module

    def _schedule(self, n: int) -> Any:
        found = self.module.spaced(self.module.linear(1000), n, "uniform")
        return schedules.Schedule(found.alpha_bar, found.times)


def levels(old: str, new: str, law: str) -> Planted:
    """A bug in the schedules."""
    return Planted(OnLevelsOf, schedules, old, new, law)


def without_signal(old: str, new: str) -> Planted:
    """A bug in the schedule of which nothing is left at T."""

    def subject(bad: Any) -> Ours:
        found = bad.zero_terminal_snr(bad.linear(1000))
        return Ours("ddim", schedule=schedules.Schedule(found.alpha_bar, found.times))

    return Planted(subject, schedules, old, new, "L1")


class Modest(Ours):
    """A sampler of ours that makes these claims alone."""

    def __init__(self, known_as: str, claims: tuple[str, ...], **settings: Any) -> None:
        super().__init__(known_as, **settings)
        self.claims = {name: value for name, value in self.claims.items() if name in claims}
        self.name = f"{self.name}, claims {', '.join(claims) or 'nothing'}"


def modest(name: str, eta: float | None, claims: str, old: str, new: str, law: str) -> Planted:
    """A bug in a sampler that claims little, where fewer laws look."""
    module, function, settings = FUNCTIONS[name]
    given = settings if eta is None else {**settings, "eta": eta}
    names = tuple(claims.split())
    return Planted(
        lambda bad: Modest(name, names, eta=eta, sample=partial(getattr(bad, function), **given)), module, old, new, law
    )


class FromLessNoise(OnLevelsOf):
    """DDIM on Karras's levels of a module of schedules, whose times are claimed to be nothing in particular."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.claims = {name: value for name, value in self.claims.items() if name not in ("times", "betas", "order")}

    def _schedule(self, n: int) -> Any:
        if self.sigmas is not None:
            return Ours._schedule(self, n)
        found = self.module.spaced(self.module.linear(1000), n, "karras")
        return schedules.Schedule(found.alpha_bar, found.times)


def on_noises(module: Any) -> FromStep:
    """Euler's steps down the noises of a module of schedules, which claim to be exact for one point."""

    def levels(n: int) -> Any:
        found = module.spaced(module.linear(1000), n, "uniform")
        return [(float(t), 1.0, float(sigma)) for t, sigma in zip(found.times, found.sigma)][::-1]

    def step(x: Any, eps: Any, top: Any, bottom: Any, z: Any) -> Any:
        return x + (bottom.sigma - top.sigma) * eps

    return FromStep(step, levels, space="sigma", kind="eps", name="euler on noises", claims={"point": True})


class Pictures(Modest):
    """A sampler of ours on items of several numbers, that claims one point and its draws, or its draws alone."""

    shape = (2, 2, 3)

    def __init__(self, known_as: str, claims: tuple[str, ...], **settings: Any) -> None:
        super().__init__(known_as, claims, **settings)
        self.name = f"{self.name}, of pictures"


def picture(claims: str, new: str, law: str) -> Planted:
    """A bug in the noise of ancestral sampling that shows in items of several numbers."""
    return Planted(
        lambda bad: Pictures("ancestral", tuple(claims.split()), sample=bad.sample),
        ancestral,
        "xp.asarray(rng.standard_normal(x_t.shape), x_t.dtype)",
        f"xp.asarray({new}, x_t.dtype)",
        law,
    )


def clipped(bad: Any, claims: str = "calls draws point clip") -> Modest:
    """DDIM as it is, with a module that asks the network and clips."""
    copy = mutant(ddim, "cond=cond, kind=kind, clip=clip)\n        if", "cond=cond, kind=kind, clip=clip)\n        if")
    copy.predict = bad.predict
    return Modest("ddim", tuple(claims.split()), sample=copy.sample)


class PlainTokens(cat.Tokens):
    """Tokens that are claimed to be drawn, and no more."""

    def __init__(self, module: Any = autoregressive) -> None:
        super().__init__(module)
        self.name, self.claims = "autoregressive, claims nothing", {}


LOOP = "    xp, x_t = array_module(x_T), x_T\n    for t in range(schedule.T, 0, -1):\n"
MODEST = {
    "ddim, point: share of the level left": modest(
        "ddim", None, "point", "schedule.alpha_bar[u]), sigma", "schedule.alpha_bar[t]), sigma", "L6"
    ),
    "ddim, point: states clipped": modest(
        "ddim", None, "point", "return x_u if s == 0", "return x_u.clip(-4, 4) if s == 0", "L15"
    ),
    "ddim, point: noise of the next level but one": modest(
        "ddim", None, "point", "max(1 - a - s**2, 0.0) ** 0.5 * eps", "max(1 - a - s**2, 0.0) ** 0.51 * eps", "L4"
    ),
    "ddim, eta: eta^2 for eta": modest("ddim", 0.4, "eta", "return eta * (", "return eta**2 * (", "L8"),
    "ddim, nothing: an unfinished run is remembered": modest(
        "ddim",
        None,
        "",
        LOOP,
        "    xp, x_t = array_module(x_T), x_T * (0.9 if sample.__dict__.get('left', 1) > 1 else 1.0)\n"
        "    for t in range(schedule.T, 0, -1):\n        sample.__dict__['left'] = t\n",
        "L5b",
    ),
    "ddim, shared: the levels of the last run": modest(
        "ddim",
        None,
        "shared",
        LOOP,
        "    xp, x_t, sample.schedule = array_module(x_T), x_T, schedule\n"
        "    for t in range(schedule.T, 0, -1):\n"
        "        schedule = sample.schedule if sample.schedule.T >= t else schedule\n",
        "L5c",
    ),
    "ddim, weak order: too little noise": modest(
        "ddim", 1.0, "weak_order", "else x_u + s * noise", "else x_u + 0.9 * s * noise", "L22b"
    ),
    "ddim: a score taken for eps": walk(
        "ddim",
        None,
        "cond=cond, kind=kind, clip=clip)\n        if",
        "cond=cond, kind=kind if kind != 'score' else 'eps', clip=clip)\n        if",
        "L11",
    ),
    "ddim: a mean over the last axis": walk(
        "ddim",
        None,
        "x_u = a**0.5 * x_0 +",
        "x_u = a**0.5 * (0.99 * x_0 + 0.01 * x_0.mean(-1, keepdims=True)) +",
        "L15",
    ),
    "ancestral, nothing: variance of the whole chain": modest(
        "ancestral",
        None,
        "",
        "float(variances(schedule, variance)[t]) ** 0.5",
        "float(__import__('numpy').linspace(0, 0.02, 1001)[int(schedule.times[t])]) ** 0.5",
        "L16",
    ),
    "plms, order: weights of order 1": modest(
        "plms", None, "order order_uneven", "(55 / 24, -59 / 24, 37 / 24, -9 / 24)", "(1.0, 0.0, 0.0, 0.0)", "L21"
    ),
    "2m, order: no ratio": modest(
        "dpmpp-2m", None, "order", "float((lam[t] - lam[t + 1]) / (lam[t - 1] - lam[t]))", "1.0", "L22"
    ),
    "ancestral, draws: noise drawn and thrown away": modest(
        "ancestral", None, "draws calls", "noise = xp.asarray(rng", "noise = 0 * xp.asarray(rng", "L28"
    ),
    "ddim, calls draws: goes on with the first answer": modest(
        "ddim",
        None,
        "calls draws",
        "kind=kind, clip=clip)\n        if",
        "kind=kind, clip=clip)\n        guess = first = guess if t == schedule.T else first\n        if",
        "L14b",
    ),
    "ancestral, draws: one draw for all pixels": picture(
        "calls draws point", "rng.standard_normal(x_t.shape)[:, :1, :1] + 0 * x_t", "L28"
    ),
    "ancestral, draws: noise in one channel only": picture(
        "calls draws", "rng.standard_normal(x_t.shape) * (xp.arange(x_t.shape[-1]) == 0)", "L28"
    ),
    "ancestral, point: noise in one channel only": picture(
        "calls draws point", "rng.standard_normal(x_t.shape) * (xp.arange(x_t.shape[-1]) == 0)", "L6"
    ),
    **{
        f"ddim, clip: {bug}": Planted(clipped, predict, old, new, "L17")
        for bug, old, new in (
            ("thrown away", "        x_0 = clip(x_0) if", "        _ = clip(x_0) if"),
            ("the eps of the guess before", "        eps = eps_from_x_0(x_t, t, x_0, schedule)\n", ""),
            ("the upper bound only", "np.clip(x_0, -clip, clip)", "np.minimum(x_0, clip)"),
            ("a number ignored", "else np.clip(x_0, -clip, clip)", "else x_0"),
        )
    },
    "levels: from less noise": Planted(
        FromLessNoise,
        schedules,
        "karras_sigmas(schedule.sigma[1], schedule.sigma[-1], steps)",
        "karras_sigmas(schedule.sigma[1], schedule.sigma[-1] / 100, steps)",
        "L3",
    ),
    "levels: a little noise at the end": Planted(
        on_noises,
        schedules,
        "return ((1 - self.alpha_bar) / self.alpha_bar) ** 0.5",
        "return ((1 - self.alpha_bar) / self.alpha_bar + 1e-4) ** 0.5",
        "L3b",
    ),
    "autoregressive, nothing: a seed of its own": Planted(
        PlainTokens,
        autoregressive,
        "return rng.random((n, t))",
        "return np.random.default_rng(0).random((n, t))",
        "L28b",
    ),
}

SAMPLERS = {
    "ddim: sign of eps": walk("ddim", 0.4, "** 0.5 * eps\n    return x_u", "** 0.5 * -eps\n    return x_u", "L8"),
    "ddim: no root of alpha_bar": walk("ddim", None, "x_u = a**0.5 * x_0", "x_u = a * x_0", "L15"),
    "ddim: sigma not taken out": walk("ddim", 0.4, "1 - a - s**2", "1 - a", "L6"),
    "ddim: sigma for sigma^2": walk("ddim", 0.4, "1 - a - s**2", "1 - a - s", "L8"),
    "ddim: no root in eq. 16": walk("ddim", 0.4, "(1 - a_t / a_u)) ** 0.5", "(1 - a_t / a_u))", "L8"),
    "ddim: eta^2 for eta": walk("ddim", 0.4, "return eta * (", "return eta**2 * (", "L8"),
    "ddim: no ratio in eq. 16": walk("ddim", 1.0, "(1 - a_t / a_u)", "(1 - a_t)", "L10"),
    "ddim: share of the level left": walk(
        "ddim", None, "schedule.alpha_bar[u]), sigma", "schedule.alpha_bar[t]), sigma", "L4"
    ),
    "ddim: stops at level 1": walk(
        "ddim", None, "for t in range(schedule.T, 0, -1)", "for t in range(schedule.T, 1, -1)", "L0"
    ),
    "ddim: starts one level late": walk(
        "ddim", None, "for t in range(schedule.T, 0, -1)", "for t in range(schedule.T - 1, 0, -1)", "L0"
    ),
    "ddim: steps two levels": walk(
        "ddim", None, "t, t - 1, noise, schedule, eta=eta", "t, max(t - 2, 0), noise, schedule, eta=eta", "L15"
    ),
    "ddim: noise drawn at the end": walk("ddim", 0.4, "if eta > 0 and t > 1 else None", "if eta > 0 else None", "L5"),
    "ddim: noise of one row for all": walk("ddim", 0.4, "x_t.shape), x_t.dtype)", "x_t.shape)[:1], x_t.dtype)", "L15"),
    "ddim: kind not passed on": walk(
        "ddim", None, "cond=cond, kind=kind, clip=clip)\n        if", "cond=cond, clip=clip)\n        if", "L11"
    ),
    "ddim: clip not passed on": walk(
        "ddim", None, "kind=kind, clip=clip)\n        if", "kind=kind)\n        if", "L17"
    ),
    "ddim: noise of its own": walk(
        "ddim",
        1.0,
        "xp.asarray(rng.standard_normal(x_t.shape), x_t.dtype) if eta",
        "xp.asarray(__import__('numpy').random.standard_normal(x_t.shape), x_t.dtype) if eta",
        "L5b",
    ),
    "ddim: noise never drawn": walk("ddim", 0.4, "if eta > 0 and t > 1 else None", "* 0 if False else 0 * x_t", "L28"),
    "ddim: mean of the batch": walk(
        "ddim", None, "x_u = a**0.5 * x_0 +", "x_u = a**0.5 * (0.999 * x_0 + 0.001 * x_0.mean(0)) +", "L15"
    ),
    "ddim: changes its input": walk(
        "ddim",
        None,
        "xp, x_t = array_module(x_T), x_T\n    for",
        "xp, x_t = array_module(x_T), x_T\n    x_t *= 1.0001\n    for",
        "L0",
    ),
    "ddim: returns float64": walk(
        "ddim",
        None,
        "    return x_u if s == 0",
        "    x_u = x_u.astype('float64')\n    return x_u if s == 0",
        "L0",
        "float32",
    ),
    "ancestral: beta for beta tilde": walk(
        "ancestral", None, 'schedule.beta_tilde if variance == "small" else schedule.beta\n', "schedule.beta\n", "L6"
    ),
    "ancestral-large: beta tilde for beta": walk(
        "ancestral-large",
        None,
        'schedule.beta_tilde if variance == "small" else schedule.beta\n',
        "schedule.beta_tilde\n",
        "L7",
    ),
    "ancestral: no root of sigma": walk(
        "ancestral",
        None,
        "float(variances(schedule, variance)[t]) ** 0.5",
        "float(variances(schedule, variance)[t])",
        "L10",
    ),
    "ancestral-large: no root of sigma": walk(
        "ancestral-large",
        None,
        "float(variances(schedule, variance)[t]) ** 0.5",
        "float(variances(schedule, variance)[t])",
        "L7",
    ),
    "ancestral: the noise's square": walk("ancestral", None, "mean + sigma * noise", "mean + sigma * noise**2", "L10"),
    "ancestral: sigma of the next level": walk(
        "ancestral", None, "s = sigma(t, schedule, variance)", "s = sigma(t - 1, schedule, variance)", "L28"
    ),
    "ancestral: no noise at level 2": walk(
        "ancestral", None, "return 0.0 if t == 1 else", "return 0.0 if t <= 2 else", "L28"
    ),
    "ancestral: noise of one row": walk(
        "ancestral",
        None,
        "rng.standard_normal(x_t.shape), x_t.dtype)",
        "rng.standard_normal(x_t.shape)[:1], x_t.dtype)",
        "L15",
    ),
    "ancestral: draws twice": walk(
        "ancestral",
        None,
        "        noise = xp.asarray(rng",
        "        rng.standard_normal(x_t.shape)\n        noise = xp.asarray(rng",
        "L5",
    ),
    "ancestral: kind not passed on": walk(
        "ancestral", None, "kind=kind, clip=clip)\n        if", "clip=clip)\n        if", "L11"
    ),
    "ancestral: variance of the whole chain": walk(
        "ancestral",
        None,
        "float(variances(schedule, variance)[t]) ** 0.5",
        "float(__import__('numpy').linspace(0, 0.02, 1001)[int(schedule.times[t])]) ** 0.5",
        "L16",
    ),
    "ancestral: score by the standard deviation": walk(
        "ancestral", None, "mean = mean + sigma**2 * score", "mean = mean + sigma * score", "L13b"
    ),
    "ancestral: score asked at x_t": walk("ancestral", None, "score = score(mean)", "score = score(x_t)", "L13b"),
    "ancestral: score told the level above": walk(
        "ancestral", None, "partial(ask, level=t - 1)", "partial(ask, level=t)", "L13b"
    ),
    "ancestral-learned: half the log": walk("ancestral-learned", None, "xp.exp(0.5 * learned", "xp.exp(learned", "L10"),
    "ancestral-learned: ends turned round": walk(
        "ancestral-learned",
        None,
        "v * at(high, t, v) + (1 - v) * at(low, t, v)",
        "v * at(low, t, v) + (1 - v) * at(high, t, v)",
        "L10",
    ),
    "ancestral-learned: no share of the small one": walk(
        "ancestral-learned", None, "+ (1 - v) * at(low, t, v)", "+ at(low, t, v)", "L9"
    ),
    "ancestral-learned: the large one twice": walk(
        "ancestral-learned", None, "np.log(np.append(np.nan, high))", "np.log(np.append(np.nan, 2 * high))", "L9"
    ),
    "plms: oldest first": walk("plms", None, "[guess, *history[:3]]", "[*history[-3:], guess]", "L21"),
    "plms: three guesses kept": walk("plms", None, "*history[:3]", "*history[:2]", "L14"),
    "plms: sign of 59": walk("plms", None, "-59 / 24", "59 / 24", "L21"),
    "plms: 37 for 38": walk("plms", None, "37 / 24, -9 / 24", "38 / 24, -10 / 24", "L21"),
    "plms: a second difference added": walk(
        "plms", None, "-59 / 24, 37 / 24, -9 / 24", "-58 / 24, 35 / 24, -8 / 24", "L14"
    ),
    "plms: weights of no order": walk("plms", None, "(3 / 2, -1 / 2)", "(1.4, -0.4)", "L14"),
    "plms: 16 for 17": walk("plms", None, "-16 / 12, 5 / 12", "-17 / 12, 6 / 12", "L14"),
    "plms: x_0 of the last call": walk(
        "plms", None, "(x_t - (1 - a) ** 0.5 * eps) / a**0.5, eps", "history[0].x_0, eps", "L21"
    ),
    "plms: eps of the last call": walk("plms", None, "/ a**0.5, eps, t", "/ a**0.5, history[0].eps, t", "L21"),
    "plms: next level wrong": walk("plms", None, "t, t - 1, schedule)", "t, max(t - 2, 0), schedule)", "L15"),
    "plms: history outlives the run": walk(
        "plms",
        None,
        "        history = [guess, *history[:3]]\n",
        "        sample.__dict__.setdefault('heard', []).insert(0, guess)\n        history = sample.__dict__['heard'][:4]\n",
        "L5b",
    ),
    "plms: one history for all runs at a time": walk(
        "plms",
        None,
        "        history = [guess, *history[:3]]\n",
        "        heard = sample.__dict__\n"
        "        heard['all'] = [guess, *(heard['all'][:3] if t < schedule.T else [])]\n"
        "        history = heard['all']\n",
        "L5c",
    ),
    "2m: ratio turned round": walk(
        "dpmpp-2m",
        None,
        "(lam[t] - lam[t + 1]) / (lam[t - 1] - lam[t])",
        "(lam[t - 1] - lam[t]) / (lam[t] - lam[t + 1])",
        "L14",
    ),
    "2m: no ratio": walk("dpmpp-2m", None, "float((lam[t] - lam[t + 1]) / (lam[t - 1] - lam[t]))", "1.0", "L22"),
    "2m: the wrong way": walk(
        "dpmpp-2m", None, "(1 + 1 / (2 * r)) * x_0_t - 1 /", "(1 - 1 / (2 * r)) * x_0_t + 1 /", "L21"
    ),
    "2m: forgets": walk("dpmpp-2m", None, "t - 1, schedule), x_0\n", "t - 1, schedule), before\n", "L21"),
    "2m: a line in the last step": walk("dpmpp-2m", None, "before is not None and t > 1:", "before is not None:", "L0"),
    "2m: keeps the blend": walk("dpmpp-2m", None, "t - 1, schedule), x_0\n", "t - 1, schedule), D\n", "L21"),
    "2m: sigma_t for sigma_u": walk(
        "dpmpp-2m", None, "((1 - a_u) / (1 - a_t)) ** 0.5  #", "((1 - a_t) / (1 - a_t)) ** 0.5  #", "L21"
    ),
    "2m: sign of h": walk(
        "dpmpp-2m", None, "1 - (a_t / a_u) ** 0.5 * shrink", "1 + (a_t / a_u) ** 0.5 * shrink", "L15"
    ),
    "3m: half the second derivative": walk("dpmpp-3m", None, "* second, 2 * second", "* second, second", "L21"),
    "3m: slope between the levels": walk("dpmpp-3m", None, "slope + (lam[0] - lam[1]) * second", "slope", "L21"),
    "3m: read at the middle": walk("dpmpp-3m", None, "float((h - e) / e) * slope", "h / 2 * slope", "L21"),
    "3m: a sixth for phi_3": walk("dpmpp-3m", None, "float((h * h / 2 - h + e) / e)", "h * h / 6", "L14"),
    "3m: sign of the bend": walk("dpmpp-3m", None, "* slope + float(", "* slope - float(", "L21"),
    "3m: steps taken as equally long": walk(
        "dpmpp-3m", None, "(lam[1] - lam[2])) / (lam[0]", "(lam[0] - lam[1])) / (lam[0]", "L22"
    ),
    "3m: forgets": walk("dpmpp-3m", None, "[x_0, *heard[:2]]", "[x_0, *heard[:1]]", "L21"),
    "3m: a parabola in the last step": walk("dpmpp-3m", None, "- lam[t])) if t > 1 else x_0", "- lam[t]))", "L0"),
    "2s: half for r": walk("dpmpp-2s", None, "line_2s(x_0_top, x_0, r)", "line_2s(x_0_top, x_0, 0.5)", "L22"),
    "2s: 1 / r": walk(
        "dpmpp-2s",
        None,
        "(1 - 1 / (2 * r)) * x_0_t + 1 / (2 * r) * x_0_s",
        "(1 - 1 / r) * x_0_t + 1 / r * x_0_s",
        "L21",
    ),
    "2s: goes on from the middle": walk(
        "dpmpp-2s", None, "step(x_top, line_2s(x_0_top, x_0, r), top,", "step(x_t, line_2s(x_0_top, x_0, r), t,", "L21"
    ),
    "2s: guesses swapped": walk("dpmpp-2s", None, "line_2s(x_0_top, x_0, r)", "line_2s(x_0, x_0_top, r)", "L21"),
    "2s: alpha of t": walk("dpmpp-2s", None, "a_u**0.5 * minus_expm1", "a_t**0.5 * minus_expm1", "L15"),
    "euler: sign of the step": walk("euler", None, "(sigma_u - sigma_t) * slope", "(sigma_t - sigma_u) * slope", "L6"),
    "euler: the model sees y": walk("euler", None, "x_t = y / to_hat[t]", "x_t = y", "L4"),
    "euler: draws noise": walk("euler", None, "eta=0.0, clip=clip", "eta=1.0, clip=clip", "L28"),
    "euler-ancestral: up without its root": walk(
        "euler-ancestral", None, "(sigma_u / sigma_t) ** 2) ** 0.5", "(sigma_u / sigma_t) ** 2)", "L10"
    ),
    "euler-ancestral: up of the other level": walk(
        "euler-ancestral", None, "eta * sigma_u * (", "eta * sigma_t * (sigma_u > 0) * (", "L10"
    ),
    "euler-ancestral: eta squared": walk("euler-ancestral", 0.4, "up = eta * sigma_u", "up = eta**2 * sigma_u", "L8"),
    "euler-ancestral: down without its root": walk(
        "euler-ancestral", None, "max(sigma_u**2 - up**2, 0.0) ** 0.5", "max(sigma_u**2 - up**2, 0.0)", "L8"
    ),
    "euler-ancestral: down to sigma_u": walk(
        "euler-ancestral", None, "step(y, eps, sigma_t, down)", "step(y, eps, sigma_t, sigma_u)", "L10"
    ),
    "euler-ancestral: noise at the end": walk(
        "euler-ancestral", None, "if eta > 0 and t > 1 else None", "if eta > 0 else None", "L5"
    ),
    "heun: x_T not scaled": walk(
        "heun",
        None,
        "y = x_T * to_hat[-1]\n    for t in range(schedule.T, 0, -1):\n        guess",
        "y = x_T\n    for t in range(schedule.T, 0, -1):\n        guess",
        "L5",
    ),
    "heun: the model sees y": walk(
        "heun", None, "predict(model, y / to_hat[level], level", "predict(model, y, level", "L4"
    ),
    "heun: second slope at the old level": walk("heun", None, "ask(trial, t - 1).eps", "ask(trial, t).eps", "L6"),
    "heun: second slope of the old state": walk("heun", None, "ask(trial, t - 1).eps", "ask(y, t - 1).eps", "L21"),
    "heun: no half": walk("heun", None, "+ ask(trial, t - 1).eps) / 2", "+ ask(trial, t - 1).eps)", "L21"),
    "heun: goes on from the trial": walk(
        "heun",
        None,
        "y = step(y, slope, sigma[t], sigma[t - 1])",
        "y = step(trial if t > 1 else y, slope, sigma[t], sigma[t - 1])",
        "L21",
    ),
    "no signal at T: not stretched": without_signal(
        "(root - root[-1]) * root[1] / (root[1] - root[-1])", "root - root[-1]"
    ),
    "no signal at T: no root": without_signal("root = schedule.alpha_bar**0.5", "root = schedule.alpha_bar"),
    "levels: leading": levels(
        "return -(-np.arange(1, steps + 1) * T // steps)", "return 1 + np.arange(steps) * (T // steps)", "L3"
    ),
    "levels: one too many at 61": levels(
        "return -(-np.arange(1, steps + 1) * T // steps)",
        "return np.unique(np.round(np.arange(T, 0, -T / steps)).astype(int).clip(1))",
        "L2",
    ),
    "levels: betas from the second on": levels(
        "beta = scale * np.linspace(beta_1, beta_T, T)", "beta = scale * np.linspace(beta_1, beta_T, T + 1)[1:]", "L1"
    ),
    "levels: product in float32": levels(
        "    beta = scale * np.linspace(beta_1, beta_T, T)\n",
        "    beta = (scale * np.linspace(beta_1, beta_T, T)).astype(np.float32)\n",
        "L1",
    ),
    "levels: of the time before": levels(
        "return Schedule(self.alpha_bar[keep], self.times[keep])",
        "return Schedule(self.alpha_bar[keep - (keep > 1)], self.times[keep])",
        "L1",
    ),
}


def planted(subject: Callable[[Any], Any], module: Any, law: str, **bugs: tuple[str, str]) -> dict[str, Planted]:
    """Several bugs of a module that one law sees."""
    name = subject(module).name
    return {
        f"{name}: {bug.replace('_', ' ')}": Planted(subject, module, old, new, law) for bug, (old, new) in bugs.items()
    }


TOKENS = {
    **planted(
        cat.Tokens,
        autoregressive,
        "L26",
        one_number_for_a_string=("top_p=top_p), u[:, i])", "top_p=top_p), u[:, 0])"),
        neighbour_s_distribution=("unknown], axis=1))[:, i]", "unknown], axis=1))[:, i - 1]"),
        rows_share_their_numbers=("top_p=top_p), u[:, i])", "top_p=top_p), np.full(n, u[0, i]))"),
        prefix_drawn_anew=("for i in range(known, t):", "for i in range(t):"),
        top_p_left_out=("top_k=top_k, top_p=top_p), u[:, i])", "top_k=top_k), u[:, i])"),
        temperature_left_out=(
            "draw(filtered(ell, temperature=temperature, top_k",
            "draw(filtered(ell, top_k",
        ),
    ),
    **planted(
        cat.Tokens,
        autoregressive,
        "L26b",
        token_of_no_chance_at_0=("(np.cumsum(p, -1) <= u[..., None])", "(np.cumsum(p, -1) < u[..., None])"),
        numbers_by_column=("return rng.random((n, t))", "return rng.random((t, n)).T"),
        from_the_other_end=("np.cumsum(p, -1) <= u", "np.cumsum(p, -1) <= 1 - u"),
    ),
    **planted(
        cat.Tokens,
        autoregressive,
        "L28b",
        a_seed_of_its_own=("return rng.random((n, t))", "return np.random.default_rng(0).random((n, t))"),
        one_string_for_all=("return rng.random((n, t))", "return np.repeat(rng.random((1, t)), n, 0)"),
    ),
    **planted(
        cat.Tokens,
        autoregressive,
        "L24",
        not_normalised=("return chosen - top - np.log(", "return chosen - np.log("),
        mean_for_sum=("token_log_p(ell, x).sum(1)", "token_log_p(ell, x).mean(1)"),
        scored_by_a_neighbour=("token_log_p(ell, x).sum(1)", "token_log_p(ell, np.roll(x, 1, 1)).sum(1)"),
        first_token_for_nothing=("token_log_p(ell, x).sum(1)", "token_log_p(ell, x)[:, 1:].sum(1)"),
    ),
    **planted(
        partial(cat.Tokens, cached=True),
        autoregressive,
        "L26",
        prefix_forgotten=("tokens[:, tokens.shape[1] - new :]", "tokens[:, max(0, tokens.shape[1] - 1) :]"),
        cache_dropped=("found, cache = step(", "found, _ = step("),
    ),
    **planted(
        cat.token_filter,
        autoregressive,
        "L25",
        one_too_many=("np.where(_rank(logits) < k, logits", "np.where(_rank(logits) <= k, logits"),
        crossing_token_dropped=("(mass[..., :-1] < p)", "(mass[..., 1:] < p)"),
        top_p_before_the_temperature=(
            "keep_top_p(keep_top_k(with_temperature(logits, temperature), top_k), top_p)",
            "with_temperature(keep_top_p(keep_top_k(logits, top_k), top_p), temperature)",
        ),
        times_the_temperature=("keepdims=True)) / temperature", "keepdims=True)) * temperature"),
        nothing_at_temperature_0=("return keep_top_k(logits, 1)", "return logits"),
        ties_all_kept=(
            "np.where(_rank(logits) < k, logits, -np.inf)",
            "np.where(logits >= np.sort(logits, -1)[..., -min(k, logits.shape[-1]), None], logits, -np.inf)",
        ),
        overflow=(
            "np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))\n    return e / e.sum",
            "np.exp(logits.astype(np.float64))\n    return e / e.sum",
        ),
        least_likely_first=(
            'order = np.argsort(-logits, axis=-1, kind="stable")\n    mass',
            'order = np.argsort(logits, axis=-1, kind="stable")\n    mass',
        ),
    ),
    **planted(
        cat.pixel_network,
        pixelcnn,
        "L27",
        the_row_itself_from_above=("above = add_rows(a[:, :-1], 1)", "above = a"),
        nothing_from_above=("+ self.link(above) + bias", "+ 0 * self.link(above) + bias"),
        cache_a_column_late=(
            "left = cache.h[l][:, :, j : j + layer.half + 1]",
            "left = cache.h[l][:, :, max(j - 1, 0) : max(j - 1, 0) + layer.half + 1]",
        ),
        bias_of_the_first_place=(
            "bias = cache.biases[l][1][:, i : i + 1, j : j + 1]",
            "bias = cache.biases[l][1][:, :1, :1]",
        ),
    ),
    **planted(
        cat.word_network,
        gpt,
        "L27",
        sees_what_comes=("causal=True, rng=rng)", "causal=False, rng=rng)"),
        its_own_token=("self.ends.embed(tokens[:, :-1], 0) + self", "self.ends.embed(tokens, 0)[:, 1:] + self"),
        cached_place_late=(
            "first = 0 if cache is None else before.shape[1] + 1",
            "first = 0 if cache is None else before.shape[1]",
        ),
    ),
}

GUIDANCE = {
    **planted(
        cat.guided_logits,
        autoregressive,
        "L12",
        one_plus_s=("-np.inf, u + scale * (c - u))", "-np.inf, c + scale * (c - u))"),
        forbidden_by_one_alone=("np.isneginf(c) | np.isneginf(u)", "np.isneginf(c)"),
    ),
    **planted(
        cat.classifier_free_guidance,
        classifier_free,
        "L12",
        one_plus_s=("out = u + rows * (c - u)  # eq. 1", "out = c + rows * (c - u)"),
        halves_swapped=("return said[:n], said[n:]", "return said[n:], said[:n]"),
        away_from_the_condition=("out = u + rows * (c - u)  # eq. 1", "out = u + rows * (u - c)"),
        null_for_nobody=("joined(cond, null, n)\n    except", "joined(cond, cond, n)\n    except"),
    ),
    **planted(
        partial(cat.classifier_free_guidance, w=True), classifier_free, "L12", w_for_s=("else 1 + w\n", "else w\n")
    ),
    **planted(
        cat.rescaled_guidance,
        classifier_free,
        "L12b",
        shares_swapped=("(phi * ratio + (1 - phi))", "((1 - phi) * ratio + phi)"),
        variances=("ag.reshape(ag.sqrt(ag.var(flat, 1))", "ag.reshape((ag.var(flat, 1))"),
        ratio_turned_round=(
            "own, theirs = _std(guided), _std(conditional)",
            "theirs, own = _std(guided), _std(conditional)",
        ),
    ),
    **planted(
        cat.dynamic_threshold,
        classifier_free,
        "L17b",
        quantile_without_abs=("xp.quantile(xp.abs(x_0).reshape", "xp.quantile(x_0.reshape"),
        not_divided=("xp.clip(x_0, -tau, tau) * (bound / tau)", "xp.clip(x_0, -tau, tau)"),
        quantile_of_the_batch=(
            "xp.quantile(xp.abs(x_0).reshape(len(x_0), -1), share, axis=1)",
            "xp.quantile(xp.abs(x_0), share)",
        ),
        no_least_bound=("tau = xp.maximum(tau, bound).reshape", "tau = tau.reshape"),
    ),
    **planted(
        cat.gradient_guidance,
        guidance,
        "L13",
        no_root=('"eps": -(noise**0.5),', '"eps": -noise,'),
        sign=('"eps": -(noise**0.5),', '"eps": noise**0.5,'),
        x_0_without_its_root=('"x_0": noise / signal**0.5,', '"x_0": noise / signal,'),
        v_without_its_root=('"v": -((noise / signal) ** 0.5),', '"v": -(noise / signal),'),
        score_turned_round=('"score": np.ones_like(noise),', '"score": -np.ones_like(noise),'),
        scale_squared=("np.where(scale == 0, 0.0, scale) *", "np.where(scale == 0, 0.0, scale**2) *"),
        alpha_bar_for_the_noise=(
            "return schedule.alpha_bar_at(_times(t, x_t))",
            "return 1 - schedule.alpha_bar_at(_times(t, x_t))",
        ),
    ),
    **planted(
        cat.guess_guidance,
        guidance,
        "L13",
        asked_about_x_t=(
            "_checked(log_p(_guess(said, x, t, schedule, kind), t, cond), len(x))",
            "_checked(log_p(x, t, cond), len(x))",
        ),
        scale_forgotten=("return pulled(said, g, s, signal, kind)", "return pulled(said, g, s**0, signal, kind)"),
    ),
}

REPLACED = partial(cat.Replacement, resample=3)
WHERE = "x_t = xp.where(keep, at_level, painted)"
GIVEN = {
    **planted(
        REPLACED,
        inpaint,
        "L18",
        mask_turned_round=(WHERE, "x_t = xp.where(keep, painted, at_level)"),
        known_without_noise=("q_sample(known, u, draw(), schedule) if", "q_sample(known, u, 0 * draw(), schedule) if"),
        known_of_the_level_above=("q_sample(known, u, draw(), schedule) if", "q_sample(known, t, draw(), schedule) if"),
        not_overwritten_at_the_end=("if u > 0 else known  # 8a", "if u > 0 else x_t"),
        nothing_known_at_the_start=(
            "x_t = xp.where(keep, q_sample(known, schedule.T, draw(), schedule), x_T)",
            "x_t = x_T",
        ),
        up_by_the_variance=("(1 - ratio) ** 0.5 * noise", "(1 - ratio) * noise"),
        up_without_shrinking=("ratio**0.5 * x_u", "x_u"),
        never_up=("jump), resample - 1)", "jump), 0)"),
        once_too_often=("jump), resample - 1)", "jump), resample)"),
        mask_multiplies=(WHERE, "x_t = keep * at_level + (1 - keep) * painted"),
        known_all_the_time=("x_t = xp.where(keep, at_level, painted)  # 8c", "x_t = xp.where(keep, known, painted)"),
    ),
    **planted(
        partial(cat.Replacement, eta=0.4),
        inpaint,
        "L18",
        one_noise_for_both=(
            "noise = draw() if u > 0 and eta > 0 else None",
            "noise = 0 * x_t if u > 0 and eta > 0 else None",
        ),
        noise_at_the_end=("noise = draw() if u > 0 and eta > 0 else None", "noise = draw() if eta > 0 else None"),
    ),
    **planted(
        cat.Kept,
        inpaint,
        "L18",
        guess_turned_round=(
            "ag.where(chosen, picture, x_0_of(output, x_t, level, levels, kind))",
            "ag.where(chosen, x_0_of(output, x_t, level, levels, kind), picture)",
        ),
        guess_left_alone=(
            "ag.where(chosen, picture, x_0_of(output, x_t, level, levels, kind))",
            "x_0_of(output, x_t, level, levels, kind)",
        ),
    ),
    **planted(
        cat.Edited,
        inpaint,
        "L18b",
        walks_one_level_less=("schedule.up_to(level)", "schedule.up_to(max(1, level - 1))"),
        noised_to_one_level_less=("q_sample(x_0, level,", "q_sample(x_0, max(1, level - 1),"),
        rounded_down=("ceil(strength * schedule.T - 1e-9)", "max(1, int(strength * schedule.T))"),
        strength_turned_round=("ceil(strength", "ceil((1 - strength)"),
        no_noise=("q_sample(x_0, level, eps,", "q_sample(x_0, level, 0 * eps,"),
    ),
    **planted(
        cat.Inverted,
        ddim,
        "L23",
        two_levels_at_once=(
            "eps_at(x_t, t), t, t + 1, schedule)\n        for _",
            "eps_at(x_t, t), t, min(t + 2, schedule.T), schedule)\n        for _",
        ),
        no_root_on_the_way_up=(
            "(x_t - (1 - a) ** 0.5 * eps) / a**0.5, eps, t, u",
            "(x_t - (1 - a) * eps) / a**0.5, eps, t, u",
        ),
        asked_at_the_last_level=("predict(model, x, max(level, 1), schedule", "predict(model, x, schedule.T, schedule"),
    ),
}

POINTS = {
    **planted(
        cat.arc,
        interpolation,
        "L19",
        norm_of_the_other_end=(
            "norm = (1 - t) * _dot(a, a) ** 0.5 + t * _dot(b, b) ** 0.5",
            "norm = t * _dot(a, a) ** 0.5 + (1 - t) * _dot(b, b) ** 0.5",
        ),
        ends_by_the_formula=("xp.where(t == 0, a, xp.where(t == 1, b, arc))", "arc"),
        straight=("arc = norm * (xp.cos(angle) * u + xp.sin(angle) * w)", "arc = norm * _unit((1 - t) * u + t * v)"),
        norm_not_kept=(
            "arc = norm * (xp.cos(angle) * u + xp.sin(angle) * w)",
            "arc = xp.cos(angle) * u + xp.sin(angle) * w",
        ),
        no_guard=("xp.where(sine > PARALLEL, across, axis)", "across / sine"),
        angle_of_the_sine=("xp.arctan2(sine, cosine)", "xp.arcsin(xp.clip(sine, 0, 1))"),
    ),
    **planted(
        cat.vq_choice,
        vq_vae,
        "L20a",
        expanded_form=(
            "return nearest_code(rows, xp.ascontiguousarray(ag.raw(codebook))).reshape(z.shape[:-1])",
            "b = ag.raw(codebook)\n    return ((rows**2).sum(1)[:, None] - 2 * rows @ b.T + (b**2).sum(1)).argmin(1).reshape(z.shape[:-1])",
        ),
        farthest=(
            "return nearest_code(rows, xp.ascontiguousarray(ag.raw(codebook))).reshape(z.shape[:-1])",
            "b = ag.raw(codebook)\n    return ((rows[:, None] - b) ** 2).sum(-1).argmax(1).reshape(z.shape[:-1])",
        ),
        last_of_equals=(
            "return nearest_code(rows, xp.ascontiguousarray(ag.raw(codebook))).reshape(z.shape[:-1])",
            "b = ag.raw(codebook)\n    return len(b) - 1 - nearest_code(rows, xp.ascontiguousarray(b[::-1])).reshape(z.shape[:-1])",
        ),
    ),
    **planted(
        cat.reparameterisation,
        autograd.estimators,
        "L20b",
        variance_for_its_root=("exp(0.5 * log_var) * eps", "exp(log_var) * eps"),
        noise_added_as_it_is=("exp(0.5 * log_var) * eps", "eps + 0 * log_var"),
        mean_scaled=("return mu + exp(0.5 * log_var) * eps", "return exp(0.5 * log_var) * (mu + eps)"),
    ),
    **planted(
        cat.GanLatents,
        gan,
        "L20b",
        twice_as_wide=(
            "z = truncated(rng.standard_normal((n, full.latent)), truncation)",
            "z = truncated(2 * rng.standard_normal((n, full.latent)), truncation)",
        ),
        one_draw_for_all=(
            "z = truncated(rng.standard_normal((n, full.latent)), truncation)",
            "z = truncated(rng.standard_normal((1, full.latent)).repeat(n, 0), truncation)",
        ),
    ),
    **planted(
        cat.truncated,
        gan,
        "L20c",
        one_side=("ndtri(0.5 + share * (ndtr(z) - 0.5))", "ndtri(share * ndtr(z))"),
        clipped=("ndtri(0.5 + share * (ndtr(z) - 0.5))", "np.clip(z, -ndtri((1 + share) / 2), ndtri((1 + share) / 2))"),
        shrunk=("ndtri(0.5 + share * (ndtr(z) - 0.5))", "share * z"),
    ),
    **planted(
        cat.reranking,
        dalle,
        "L20d",
        the_worst=("return np.argmax(scores, axis=1)", "return np.argmin(scores, axis=1)"),
        the_last_of_equals=(
            "return np.argmax(scores, axis=1)",
            "return scores.shape[1] - 1 - np.argmax(scores[:, ::-1], axis=1)",
        ),
        of_all_rows=("return np.argmax(scores, axis=1)", "return np.full(len(scores), np.argmax(scores.sum(0)))"),
    ),
}

LOSSES = {
    **planted(
        losses.simple,
        ddpm,
        "L29",
        sum_for_mean=("return ag.mean(d * d)", "return ag.sum(d * d)"),
        no_square=("return ag.mean(d * d)", "return ag.mean(ag.abs(d))"),
        told_another_time=("q_sample(x_0, t, eps, schedule), t))", "q_sample(x_0, t, eps, schedule), t * 0 + 1))"),
        noised_to_another_time=(
            "q_sample(x_0, t, eps, schedule), t))",
            "q_sample(x_0, np.maximum(t - 1, 1), eps, schedule), t))",
        ),
        guess_of_the_picture=("l_simple(eps, eps_model(", "l_simple(x_0, eps_model("),
    ),
    **planted(
        losses.training_times,
        ddpm,
        "L32",
        time_0=("rng.integers(1, schedule.T + 1, len(x_0))", "rng.integers(0, schedule.T + 1, len(x_0))"),
        never_the_last=("rng.integers(1, schedule.T + 1, len(x_0))", "rng.integers(1, schedule.T, len(x_0))"),
        one_time_for_a_batch=(
            "rng.integers(1, schedule.T + 1, len(x_0))",
            "np.full(len(x_0), rng.integers(1, schedule.T + 1))",
        ),
    ),
    **planted(
        losses.BoundTerm,
        ddpm,
        "L30",
        half_a_logarithm=("mu, np.log(sigma2))", "mu, 0.5 * np.log(sigma2))"),
        x_t_for_x_0=(
            "target = posterior_mean(x_0, x_t, t, schedule)",
            "target = posterior_mean(x_t, x_t, t, schedule)",
        ),
        prior_without_its_noise=(
            "a**0.5 * x_0, np.log(1 - a), x_0 * 0, 0.0)",
            "a**0.5 * x_0, np.log(a), x_0 * 0, 0.0)",
        ),
        prior_without_its_root=("gaussian.kl(a**0.5 * x_0,", "gaussian.kl(a * x_0,"),
    ),
    **planted(
        partial(losses.BoundTerm, variance="large"),
        ddpm,
        "L30",
        turned_round=(
            "gaussian.kl(target, np.log(schedule.beta_tilde[t]), mu, np.log(sigma2))",
            "gaussian.kl(mu, np.log(sigma2), target, np.log(schedule.beta_tilde[t]))",
        ),
        always_small=(
            "sigma2 = ancestral.variances(schedule, variance)[t]",
            'sigma2 = ancestral.variances(schedule, "small")[t]',
        ),
    ),
    **planted(
        losses.learned_bound,
        improved_ddpm,
        "L30",
        large_for_the_truth=("low, _ = log_variance_range(schedule)", "_, low = log_variance_range(schedule)"),
        mean_over_numbers=(
            "return ag.sum(ag.reshape(x, (x.shape[0], -1)), 1)",
            "return 2 * ag.sum(ag.reshape(x, (x.shape[0], -1)), 1)",
        ),
    ),
    **planted(
        losses.hybrid,
        improved_ddpm,
        "L31",
        mean_learns_from_the_bound=("ag.stop_gradient(eps_theta), v, schedule", "eps_theta, v, schedule"),
        nobody_learns_from_the_bound=(
            "ag.stop_gradient(eps_theta), v, schedule",
            "ag.stop_gradient(eps_theta), ag.stop_gradient(v), schedule",
        ),
        not_times_T=("levels) * (schedule.T / x_0[0].size)", "levels) * (1 / x_0[0].size)"),
        lambda_on_the_other=("return simple + lam * l_vlb(", "return lam * simple + l_vlb("),
    ),
    **planted(
        losses.important_times,
        improved_ddpm,
        "L32",
        weights_not_turned_round=("return t, 1 / (p[t - 1] * len(p))", "return t, p[t - 1] * len(p)"),
        weights_without_T=("return t, 1 / (p[t - 1] * len(p))", "return t, 1 / p[t - 1]"),
        from_0=("t = 1 + np.minimum(", "t = np.minimum("),
    ),
    **planted(
        losses.dropped_labels,
        cf_model,
        "L36",
        the_others=("rng.random(len(x_0)) < p_uncond", "rng.random(len(x_0)) > p_uncond"),
        all_or_none=("rng.random(len(x_0)) < p_uncond", "np.full(len(x_0), rng.random() < p_uncond)"),
        none_ever=("return np.where(dropped, null, y)", "return np.where(dropped, y, y)"),
        turned_round=("return np.where(dropped, null, y)", "return np.where(dropped, y, null)"),
    ),
    **planted(
        losses.simple_with_labels,
        cf_model,
        "L29",
        told_another_time=(
            "model(q_sample(x_0, t, eps, schedule), t, y)",
            "model(q_sample(x_0, t, eps, schedule), t // 2 + 1, y)",
        ),
    ),
    **planted(
        losses.codebook,
        vq_vae,
        "L33",
        beta_on_the_pull=(
            "value = reconstruction + config.beta * commitment",
            "value = reconstruction + config.beta * pull",
        ),
        no_pull=(
            'if config.rule == "gradient":\n        value = value + pull',
            'if config.rule == "gradient":\n        value = value + 0 * pull',
        ),
        stops_swapped=("pull = ag.stop_gradient(z_e) - e\n", "pull = z_e - ag.stop_gradient(e)\n"),
        nothing_through=("net.decode(ag.straight_through(ag.raw(e), z_e))", "net.decode(e)"),
        encoder_never_commits=("commitment = z_e - ag.stop_gradient(e)", "commitment = ag.stop_gradient(z_e - e)"),
    ),
    **planted(
        losses.bound_of_a_vae,
        vae,
        "L34",
        kl_turned_round=(
            "return log_likelihood(x, z), gaussian.kl(mu, log_var, 0.0, 0.0)",
            "return log_likelihood(x, z), gaussian.kl(0.0 * mu, 0.0 * log_var, mu, log_var)",
        ),
        variance_for_its_logarithm=(
            "return log_likelihood(x, z), gaussian.kl(mu, log_var, 0.0, 0.0)",
            "return log_likelihood(x, z), gaussian.kl(mu, ag.exp(log_var), 0.0, 0.0)",
        ),
        noise_left_out=(
            "z = ag.reparameterize(mu, log_var, eps)  # eq. 4",
            "z = ag.reparameterize(mu, log_var, 0 * eps)",
        ),
    ),
    **planted(
        losses.weighted_bound,
        vae,
        "L34",
        ln_K_forgotten=("ag.logsumexp(log_w, 0) - float(np.log(log_w.shape[0]))", "ag.logsumexp(log_w, 0)"),
        ratio_turned_round=("+ beta * ag.sum(log_ratio, -1)", "- beta * ag.sum(log_ratio, -1)"),
    ),
    **planted(
        partial(losses.game, "non-saturating"),
        gan,
        "L35",
        sign_of_the_fakes=(
            "return ag.mean(ag.softplus(-real)) + ag.mean(ag.softplus(fake))",
            "return ag.mean(ag.softplus(-real)) + ag.mean(ag.softplus(-fake))",
        ),
        half_of_it=(
            "return ag.mean(ag.softplus(-real)) + ag.mean(ag.softplus(fake))",
            "return 0.5 * (ag.mean(ag.softplus(-real)) + ag.mean(ag.softplus(fake)))",
        ),
        saturates=("return ag.mean(ag.softplus(-fake))", "return -ag.mean(ag.softplus(fake))"),
    ),
    **planted(
        partial(losses.game, "saturating"),
        gan,
        "L35",
        sign=("return -ag.mean(ag.softplus(fake))", "return ag.mean(ag.softplus(fake))"),
    ),
    **planted(
        partial(losses.game, "least-squares"),
        gan,
        "L35",
        no_half=(
            "return 0.5 * (ag.mean(ag.square(real - 1.0)) + ag.mean(ag.square(fake)))",
            "return ag.mean(ag.square(real - 1.0)) + ag.mean(ag.square(fake))",
        ),
        labels_swapped=(
            "return 0.5 * (ag.mean(ag.square(real - 1.0)) + ag.mean(ag.square(fake)))",
            "return 0.5 * (ag.mean(ag.square(real)) + ag.mean(ag.square(fake - 1.0)))",
        ),
    ),
    **planted(
        partial(losses.game, "hinge"),
        gan,
        "L35",
        no_margin=(
            "ag.mean(ag.relu(1.0 - real)) + ag.mean(ag.relu(1.0 + fake))",
            "ag.mean(ag.relu(-real)) + ag.mean(ag.relu(fake))",
        ),
    ),
    **planted(
        partial(losses.game, "wasserstein"),
        gan,
        "L35",
        sign=("return ag.mean(fake) - ag.mean(real)", "return ag.mean(real) - ag.mean(fake)"),
    ),
    **planted(
        partial(losses.penalty, "r1"),
        gan,
        "L35b",
        no_half=("return 0.5 * gamma * ag.mean", "return gamma * ag.mean"),
        norm_for_its_square=(
            "return 0.5 * gamma * ag.mean(squared_slope(real, x))",
            "return 0.5 * gamma * ag.mean(ag.sqrt(squared_slope(real, x)))",
        ),
    ),
    **planted(
        partial(losses.penalty, "gradient"),
        gan,
        "L35b",
        square_for_its_root=(
            "ag.sqrt(squared_slope(between, x_hat) + 1e-12) - 1.0",
            "squared_slope(between, x_hat) - 1.0",
        ),
        towards_0=(
            "ag.sqrt(squared_slope(between, x_hat) + 1e-12) - 1.0",
            "ag.sqrt(squared_slope(between, x_hat) + 1e-12)",
        ),
    ),
    **planted(
        lambda module: losses.grey_levels("gaussian", gaussians=module),
        gaussian,
        "L30b",
        always_256_levels=("half = 1 / (levels - 1)", "half = 1 / 255"),
        ends_closed=("top = x > 1 - half", "top = x > 2"),
    ),
    **planted(
        lambda module: losses.grey_levels("logistic", others=module),
        likelihood,
        "L30b",
        first_bin_closed=("ag.where(level == 0, 0.0, log_above + log_width)", "log_above + log_width"),
    ),
}

PLANTED: dict[str, Planted] = {**SAMPLERS, **MODEST, **TOKENS, **GUIDANCE, **GIVEN, **POINTS, **LOSSES}


def verdicts(name: str, laws: Any = None) -> list[Any]:
    """What the laws say of a bug."""
    bug = PLANTED[name]
    return [*run_laws(bug.subject(mutant(bug.module, bug.old, bug.new)), laws, [bug.dtype])]


def kills(name: str, laws: Any = None) -> list[str]:
    """The laws that see it; also where a report tells one fault once, at L0."""
    return [verdict.law for verdict in verdicts(name, laws) if verdict.failed or verdict.detail == "see L0"]


def read_table() -> dict[str, list[str]]:
    """The table as it was written: laws by bug."""
    lines = [line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    return {name.strip(): laws.split() for name, laws in (line.split("|") for line in lines)}


def summary(table: dict[str, list[str]]) -> list[str]:
    """Law by law: how many bugs it sees, and how many it alone."""
    from minigen.laws import LAWS

    lines = []
    for law in LAWS:
        seen = [bug for bug, laws in table.items() if law.name in laws]
        alone = [bug for bug in seen if table[bug] == [law.name]]
        lines.append(f"# {law.name:5} sees {len(seen):3}, alone {len(alone):3}   {law.title}")
    return lines


def main() -> None:
    """Run everything, write the table."""
    table = {}
    for name in PLANTED:
        table[name] = kills(name)
        print(f"{name}: {' '.join(table[name]) or 'LIVES'}", flush=True)
    width = max(map(len, table))
    head = [
        "# Which law kills which planted bug; written by tests/minigen/laws/mutants.py",
        f"# {len(table)} bugs, {sum(not laws for laws in table.values())} live",
        *summary(table),
    ]
    rows = [f"{name:{width}} | {' '.join(laws)}" for name, laws in table.items()]
    TABLE.write_text("\n".join([*head, *rows]) + "\n")


if __name__ == "__main__":
    main()
