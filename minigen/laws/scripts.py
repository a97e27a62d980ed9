"""Scripts of at most 15 lines that show without this project how a law is broken, for an issue in somebody else's.

Each runs the sampler on data of one point, m = 0.7, where the best prediction is known: every state that the model is
shown has mean a m and standard deviation s, for the level (a, s) of the time that it is given. Row 0 of the batch has
no noise, row 1 a standard deviation of the start's, and each further row, if noise is drawn, one of a draw's. The last
line says ``WRONG`` or ``right``.

Orders of convergence have scripts of their own (`order_scripts`).
"""

import importlib
import math
import os
import re
import subprocess
import sys
from operator import attrgetter
from typing import Any

from . import order_scripts
from .shrink import OF_MANY, Case

LIMIT = 15
OF_LEVELS = ("L1", "L2", "L3", "L3b")
OF_ONE_POINT = ("L0", "L4", "L6")  # what a script for a user's sampler can show
SECONDS = 60.0  # for a script for a user's sampler
SHOWN = 'f"told {float(t):g}: mean {mean:.6g} should be {a * m:.6g}, sd {sd:.6g} should be {s:.6g}"'


def script(case: Case, sampler: Any = None, named: str = "") -> str | None:
    """The script for a shrunk case; None if no such script shows it.

    ``named`` is module:Name, as the user gave it.

    A script for a user's sampler is run, in a process of its own, and returned only if it shows the fault.
    """
    sampler = case.sampler if sampler is None else sampler
    known = {"Diffusers": _diffusers, "KDiffusion": _kdiffusion}.get(type(sampler).__name__)
    lines = _stranger(case, sampler, named) if known is None else known(case, sampler)
    if lines is None:
        return None
    assert len(lines) <= LIMIT, len(lines)
    text = "\n".join(lines) + "\n"
    return text if known is not None or _shows(text, case) else None


def _shows(text: str, case: Case) -> bool:
    """Whether the script says WRONG or, where the fault is no number, raises."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, check=False, env=paths, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    raised = done.returncode != 0 and case.verdict.value is None
    return raised or any(line.startswith("WRONG") for line in done.stdout.splitlines())


def _call(name: str, settings: Any) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"


def _diffusers(case: Case, sampler: Any) -> list[str] | None:
    cls, settings = sampler.cls, {**sampler.config}
    grid = "".join(f", {key}={value!r}" for key, value in sampler.grid.items())
    made = [f"from {cls.__module__} import {cls.__name__}", f"scheduler = {_call(cls.__name__, settings)}"]
    if cls.__module__.startswith("diffusers."):
        made[0] = f"from diffusers import {cls.__name__}"
    placed = f"scheduler.set_timesteps({case.n}{grid})"
    if case.law in OF_MANY:
        return order_scripts.diffusers(case, sampler, made)
    if "levels(" in case.verdict.detail and "raised" in case.verdict.detail:
        return [*made, "try:", f"    {placed}", *_looked_up(sampler), *_raised()]
    if case.law in OF_LEVELS:
        return [*made, placed, *_listed(case, sampler)]
    if "sample raised" in case.verdict.detail:
        return _raising(sampler, made, placed)
    if case.law == "L5b":
        return _again(case, sampler, made)
    if sampler.family not in ("vp", "scaled", "flow"):
        return None
    if case.law == "L11":
        return _two_kinds(case, sampler, made, placed)
    return _walk(case, sampler, made, placed)


def _looked_up(sampler: Any) -> list[str]:
    if sampler.family in ("vp", "scaled"):
        return ["    print(scheduler.timesteps.tolist())", "    scheduler.alphas_cumprod[scheduler.timesteps.long()]"]
    return ["    print(scheduler.timesteps.tolist())"]


def _raised() -> list[str]:
    return ['    print("right")', "except Exception as error:", '    print("WRONG:", type(error).__name__, error)']


def _raising(sampler: Any, made: list[str], placed: str) -> list[str]:
    options = "".join(f", {key}={value!r}" for key, value in sampler.options.items())
    return [
        "import torch",
        *made,
        placed,
        "x = torch.zeros(1, 1)",
        "try:",
        "    for t in scheduler.timesteps:",
        "        scheduler.scale_model_input(x, t)"
        if sampler.family == "scaled"
        else "        # any prediction will do",
        f"        x = scheduler.step(torch.zeros(1, 1), t, x, return_dict=False{options})[0]",
        *_raised(),
    ]


def _again(case: Case, sampler: Any, made: list[str]) -> list[str] | None:
    other = re.search(r"after a run of (\d+)", case.verdict.detail)
    n = re.match(r"(\d+) levels", case.verdict.detail)
    if other is None or n is None or sampler.family == "edm":
        return None
    shown = "scheduler.scale_model_input(x, t)" if sampler.family == "scaled" else "x"
    return [
        "import torch",
        made[0],
        "def run(scheduler, n):",
        "    scheduler.set_timesteps(n)",
        "    x = torch.tensor([[-1.0], [0.5], [2.0]])",
        "    for t in scheduler.timesteps:",
        f"        x = scheduler.step(torch.tanh({shown}), t, x, return_dict=False)[0]",
        "    return x[:, 0]",
        f"new, used = {made[1].removeprefix('scheduler = ')}, {made[1].removeprefix('scheduler = ')}",
        f"run(used, {other[1]})",
        f"a, b = run(new, {n[1]}), run(used, {n[1]})",
        'print("WRONG" if not torch.equal(a, b) else "right", a, b)',
    ]


def _listed(case: Case, sampler: Any) -> list[str]:
    if "where the formula has" in case.verdict.detail:
        shift = float(sampler.said["shift"])
        return [
            "import numpy as np",
            f"t = np.linspace(1, 1 / {sampler.T}, {case.n})",
            f"want = {shift} * t / (1 + {shift - 1} * t)  # Esser et al. 2024, eq. 23",
            f"got = np.asarray(scheduler.sigmas, np.float64)[:{case.n}]",
            'print("WRONG" if not abs(got - want).max() < 1e-5 else "right", got, want)',
        ]
    if "not all finite" in case.verdict.detail:
        return ['print("WRONG" if not scheduler.timesteps.isfinite().all() else "right", scheduler.timesteps)']
    lines = ["t = scheduler.timesteps.tolist()", f'print(len(t), "timesteps for {case.n} steps:", t)']
    if case.law == "L3":
        level = {
            "flow": f"1 - t[0] / {sampler.T}",
            "edm": "1 / (1 + float(scheduler.sigmas[0]) ** 2) ** 0.5",
        }.get(sampler.family, "float(scheduler.alphas_cumprod[int(t[0])]) ** 0.5")
        return [
            *lines,
            f"a = {level}",
            'print("share of signal at the first:", a)',
            f"wrong = a > {case.verdict.limit}",
            _said(),
        ]
    if case.law == "L3b":
        left = "float(scheduler.sigmas[-1])"
        if not hasattr(sampler.scheduler(), "sigmas"):
            left = "(1 - float(scheduler.final_alpha_cumprod)) ** 0.5"
        return [
            f"s = {left}",
            'print("noise left in the result:", s)',
            f"wrong = s > {case.verdict.limit}",
            _said(),
        ]
    wrong = f"len(t) != {case.n} or any(a <= b for a, b in zip(t, t[1:])) or t[-1] < 0"
    if sampler.claims.get("times"):
        wrong += f" or t[0] != {sampler.T - 1}"
    if not any(word in case.verdict.detail for word in ("levels(", "does not fall")):
        return [*lines, f"wrong = True  # {case.verdict.detail}", _said()]
    return [*lines, f"wrong = {wrong}", _said()]


def _said() -> str:
    return 'print("WRONG" if wrong else "right")'


def _level(sampler: Any) -> list[str]:
    if sampler.family == "flow":
        return [f"level = lambda t: (1 - float(t) / {sampler.T}, float(t) / {sampler.T})"]
    return [
        "sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).double() ** 0.5",
        "sigma = lambda t: np.interp(float(t), range(len(sigmas)), sigmas)",
        "level = lambda t: (1 / np.hypot(1, sigma(t)), sigma(t) / np.hypot(1, sigma(t)))",
    ]


def _prediction(sampler: Any) -> str:
    eps = "(shown - a * m) / s"
    return {
        "eps": eps,
        "x_0": "0 * shown + m",
        "v": f"a * {eps} - s * m",
        "velocity": f"{eps} - m",
    }[sampler.kinds[0]]


def _walk(case: Case, sampler: Any, made: list[str], placed: str) -> list[str] | None:
    noisy = sampler.claims.get("draws") != "0" and not hasattr(sampler.scheduler(), "noise_sampler")
    options = "".join(f", {key}={value!r}" for key, value in sampler.options.items())
    shown = "scheduler.scale_model_input(x, t)" if sampler.family == "scaled" else "x"
    size = " * np.hypot(1, float(scheduler.sigmas[0]))" if sampler.family == "scaled" else ""
    if "old_pred_original_sample" in sampler._stepped or {"mask"} & set(sampler._stepped):
        return None
    lines = [
        "import sys, numpy as np, torch" if noisy else "import numpy as np, torch",
        *made,
        placed,
        *_level(sampler),
    ]
    clean = sampler.levels(case.n)[-1][2] == 0
    end = f"(x - m).abs().max() < {_least(case):.1g}" if clean else "x.isfinite().all()"
    begin = "m, (a, s), wrong = 0.7, level(scheduler.timesteps[0]), False"
    draws = 2 * case.n + 4
    if noisy:
        tape = f"tape=iter(torch.eye({draws + 2})[2:, :, None])"
        lines += [
            f"setattr(sys.modules[type(scheduler).__module__], 'randn_tensor', lambda shape, {tape}, **_: next(tape))",
            begin,
            f"x = torch.tensor([[a * m], [a * m + s], *[[a * m]] * {draws}], dtype=torch.float32){size}",
        ]
    else:
        lines += [begin, f"x = torch.tensor([[a * m], [a * m + s]], dtype=torch.float32){size}"]
    if "prev_timestep" in sampler._stepped:
        return None
    lines += [
        "for t in scheduler.timesteps:",
        f"    (a, s), shown = level(t), {shown}",
        "    mean, sd = float(shown[0]), float(((shown - shown[0]) ** 2).sum() ** 0.5)",
        f"    wrong |= not max(abs(mean - a * m), abs(sd - s)) < {_least(case):.1g} and print({SHOWN}) is None",
        f"    x = scheduler.step({_prediction(sampler)}, t, x, return_dict=False{options})[0].float()",
        f'print("WRONG" if wrong or not {end} else "right", x[:2].tolist(), "should be", m)',
    ]
    return _short(lines)


def _least(case: Case) -> float:
    """What counts as a difference: a third of what was found, between rounding and 1e-3."""
    found = case.verdict.value
    return min(1e-3, max(1e-6, found / 3)) if found is not None and math.isfinite(found) else 1e-3


def _short(lines: list[str]) -> list[str] | None:
    if len(lines) > LIMIT:  # the three lines of a level as two
        lines = [
            "level = lambda t: (1 / np.hypot(1, sigma(t)), sigma(t) / np.hypot(1, sigma(t)))"
            if line.startswith("level")
            else line
            for line in lines
            if not line.startswith(("sigmas =", "sigma ="))
        ]
        at = next(i for i, line in enumerate(lines) if line.startswith("level"))
        table = "((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).double() ** 0.5"
        lines.insert(at, f"sigma = lambda t: np.interp(float(t), range(len(scheduler.alphas_cumprod)), {table})")
    return lines if len(lines) <= LIMIT else None


def _two_kinds(case: Case, sampler: Any, made: list[str], placed: str) -> list[str] | None:
    from .adapters_diffusers import NAMES

    other = next((kind for kind in sampler.kinds if case.verdict.detail.startswith(kind)), None)
    if other is None or sampler.family != "vp":
        return None
    said = {"eps": "eps", "x_0": "x_0", "v": "a * eps - s * x_0"}
    return [
        "import torch",
        made[0],
        "ends = []",
        f"for kind in ({NAMES[sampler.kinds[0]]!r}, {NAMES[other]!r}):",
        f"    {made[1].rstrip(')')}{', ' if sampler.config else ''}prediction_type=kind)",
        f"    {placed}",
        "    x = torch.tensor([[-1.0], [0.5], [2.0]])",
        "    for t in scheduler.timesteps:  # the data are N(0.7, 0.4^2)",
        "        a, s = scheduler.alphas_cumprod[t] ** 0.5, (1 - scheduler.alphas_cumprod[t]) ** 0.5",
        "        eps = s * (x - a * 0.7) / (a**2 * 0.16 + s**2)",
        "        x_0 = 0.7 + a * 0.16 / (a**2 * 0.16 + s**2) * (x - a * 0.7)",
        f"        said = {said[sampler.kinds[0]]} if kind == {NAMES[sampler.kinds[0]]!r} else {said[other]}",
        "        x = scheduler.step(said, t, x, return_dict=False)[0]",
        "    ends.append(x[:, 0])",
        'print("WRONG" if not (ends[0] - ends[1]).abs().max() < 1e-3 else "right", *ends)',
    ]


def _kdiffusion(case: Case, sampler: Any) -> list[str] | None:
    if case.law in OF_MANY:
        return order_scripts.kdiffusion(case, sampler)
    if sampler.short == "dpm_fast":
        return None
    settings = "".join(f", {key}={value!r}" for key, value in sampler.settings.items())
    sigmas = [*(float(s) for s in sampler._sigmas(case.n)), 0.0]
    return [
        "import torch",
        f"from k_diffusion.sampling import sample_{sampler.short}",
        f"m, wrong, sigmas = 0.7, [], torch.tensor({sigmas})",
        "def model(x, sigma, **_):",
        "    sd = float((x - m).std(0, correction=0))",
        "    wrong.append(abs(sd - float(sigma[0])) > 0.1 * float(sigma[0]))",
        '    print(f"told {float(sigma[0]):g}: sd {sd:g}")',
        "    return 0 * x + m",
        "x = m + sigmas[0] * torch.randn(10000, 1, generator=torch.Generator().manual_seed(0))",
        "try:",
        f"    x = sample_{sampler.short}(model, x, sigmas, disable=True{settings})",
        '    print("WRONG" if any(wrong) or not x.isfinite().all() else "right")',
        "except Exception as error:",
        '    print("WRONG:", type(error).__name__, error)',
    ]


def _is_stranger(sampler: Any) -> bool:
    """Whether it is a sampler on NumPy's arrays from outside this project."""
    if sampler.space not in ("vp", "sigma", "flow") or type(sampler).__module__.startswith("minigen."):
        return False
    return bool(getattr(sampler, "arrays", "numpy") == "numpy")


def _made(case: Case, sampler: Any, named: str) -> tuple[str, str, str]:
    """The module of a user's sampler, its name there, and how it is made."""
    module, _, inside = (named or f"{type(sampler).__module__}:{type(sampler).__qualname__}").partition(":")
    found = attrgetter(inside)(importlib.import_module(module))
    return module, inside, inside if found is sampler else _call(inside, case.settings)


def _stranger(case: Case, sampler: Any, named: str) -> list[str] | None:
    if case.law not in OF_ONE_POINT + OF_MANY or not _is_stranger(sampler):
        return None
    from .protocol import Fault, draws, kinds, levels, shape

    module, inside, made = _made(case, sampler, named)
    if case.law in OF_MANY:
        return order_scripts.stranger(case, sampler, f"from {module} import {inside.partition('.')[0]}", made)
    try:
        item, rows = shape(sampler), 2 + draws(sampler, case.n)
    except Fault:
        return None
    nearest = "levels[min(levels, key=lambda time: abs(time - float(np.ravel(t)[0])))]"
    if hasattr(sampler, "at"):
        nearest = "levels.get(float(np.ravel(t)[0])) or sampler.at(float(np.ravel(t)[0]))"
    exact = f"max(abs(mean - a * m), abs(sd - s)) < {_least(case):.1g} * np.hypot(a, s)"
    end = f"abs(x - m).max() < {_least(case):.1g}"
    if case.law == "L0":  # it may not claim to be exact
        exact = end = "np.isfinite(x).all()"
    elif levels(sampler, case.n)[-1].sigma > 0:
        end = "np.isfinite(x).all()"
    own = kinds(sampler)[0]
    said = {"eps": "eps", "x_0": "0 * x + m", "v": "a * eps - s * m", "velocity": "eps - m", "score": "-eps / s"}[own]
    extra = f", kind={own!r}" if len(kinds(sampler)) > 1 else ""
    return [
        "import numpy as np",
        f"from {module} import {inside.partition('.')[0]}",
        f"m, n, wrong, sampler = 0.7, {case.n}, [], {made}",
        "levels = {float(t): (a, s) for t, a, s in sampler.levels(n)[:-1]}",
        "def model(x, t, *_, **__):",
        f"    (a, s), y = {nearest}, x.reshape(len(x), -1)",
        "    sds, eps = ((y - y[0]) ** 2).sum(0) ** 0.5, (x - a * m) / s",
        "    mean, sd = y[0, abs(y[0] - a * m).argmax()], sds[abs(sds - s).argmax()]",
        f"    wrong.append(not {exact})",
        f"    print({SHOWN.replace('float(t)', 'float(np.ravel(t)[0])')})",
        f"    return {said}",
        f"(_, a, s), tape = sampler.levels(n)[0], iter(np.eye({rows})[2:].reshape({(-1, rows, *[1] * len(item))}))",
        f"x = np.full({(rows, *item)}, a * m) + s * np.eye({rows})[1].reshape({(-1, *[1] * len(item))})",
        f"x = sampler.sample(model, x, n, lambda shape: np.zeros(shape) + next(tape, 0){extra})",
        f'print("WRONG" if any(wrong) or not {end} else "right", x.ravel()[:2], "should be", m)',
    ]
