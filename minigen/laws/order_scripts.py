"""Scripts of at most 15 lines that measure an order of convergence without this project.

On data N(m, w^2), where z, the state's distance from its mean in standard deviations, is constant along the flow.
Levels are the law's, for the last three of its numbers. The last line says ``WRONG`` or ``right``.
"""

from typing import Any

from .order_laws import COUNTS, LATE, NEAR, SLACK, UNEVEN, uneven, worded
from .shrink import CHAIN, Case

BETAS = "trained_betas=(1 - abar / np.append(1, abar[:-1])).tolist()"
WEAK = "L22b"  # of the moments, with noise
DATA = "# the data are N(m, w^2): along the flow z stays"


def stranger(case: Case, sampler: Any, imported: str, made: str) -> list[str] | None:
    """For a user's own sampler in the protocol's form, on NumPy's arrays."""
    from .protocol import kinds, shape

    if (pattern := _pattern(case)) is None or case.law == WEAK:
        return None
    order = _order(sampler, pattern)
    at = "t, (a, s) = min(levels.items(), key=lambda level: abs(level[0] - float(np.ravel(t)[0])))"
    if hasattr(sampler, "at"):
        at = "a, s = levels.get(t := float(np.ravel(t)[0])) or there.at(t)"
    own = kinds(sampler)[0]
    said = {
        "eps": "s / sd * z[t]",
        "x_0": "m + a * w**2 / sd * z[t]",
        "v": "(a * s - s * a * w**2) / sd * z[t] - s * m",
        "velocity": "(s - a * w**2) / sd * z[t] - m",
        "score": "-1 / sd * z[t]",
    }[own]
    extra = f", kind={own!r}" if len(kinds(sampler)) > 1 else ""
    first = f"[n // 4 : n // 4 + {NEAR}] if t in z" if order >= LATE else "[:1]"
    return [
        "import numpy as np",
        imported,
        f"m, w, errors, sampler = 0.7, 0.5, [], {made}  {DATA}",
        f"for n in {COUNTS[-3:]}:",
        f"    steps = np.cumsum(np.resize({[*pattern]}, n - 1))",
        "    there = sampler.on(0.02 * 1000 ** np.append(0, steps / steps[-1])[::-1])",
        "    levels, z = {float(t): (a, s) for t, a, s in there.levels(n)}, {}",
        "    def model(x, t, *_, **__):",
        f"        {at}",
        "        sd = float(np.hypot(a * w, s))",
        "        z[t] = (x - a * m) / sd",
        f"        return {said}",
        f"    there.sample(model, np.full({(1, *shape(sampler))}, there.levels(n)[0][2]), n, np.zeros{extra})",
        f"    errors.append(min(float(abs(z[[*levels][n - 1]] - z[t]).max()) for t in [*levels]{first}))",
        _last(order),
    ]


def diffusers(case: Case, sampler: Any, made: list[str]) -> list[str] | None:
    """For a scheduler whose state is x_t itself, on a chain of just these levels; ``made``: its import and its call."""
    pattern = _pattern(case)
    if pattern is None or sampler.family != "vp" or sampler.kinds[0] != "eps":
        return None
    settings = "".join(f"{key}={value!r}, " for key, value in sampler.config.items() if key != CHAIN)
    options = "".join(f", {key}={value!r}" for key, value in sampler.options.items())
    if case.law == WEAK:
        return _with_noise(sampler, made[0], settings, options, pattern)
    order = _order(sampler, pattern)
    return [
        "import numpy as np, torch",
        made[0],
        f"m, w, errors = 0.7, 0.5, []  {DATA}",
        f"for n in {COUNTS[-3:]}:",
        f"    steps, z = np.cumsum(np.resize({[*pattern]}, n - 1)), []",
        "    abar = 1 / (1 + (0.02 * 1000 ** np.append(0, steps / steps[-1])) ** 2)",
        f"    scheduler = {sampler.cls.__name__}({settings}num_train_timesteps=n, timestep_spacing='trailing', {BETAS})",
        "    scheduler.set_timesteps(n)",
        "    x = torch.ones(1, 1, dtype=torch.float64)",
        "    for t in scheduler.timesteps:",
        "        (a, s), sd = (abar[t] ** 0.5, (1 - abar[t]) ** 0.5), (1 - abar[t] + abar[t] * w**2) ** 0.5",
        "        z.append(float((x - a * m) / sd))",
        f"        x = scheduler.step(s / sd * torch.full_like(x, z[-1]), t, x, return_dict=False{options})[0]",
        f"    errors.append(abs(z[-1] - z[{'n // 4' if order >= LATE else '0'}]))",
        _last(order),
    ]


def _with_noise(sampler: Any, imported: str, settings: str, options: str, pattern: tuple[float, ...]) -> list[str]:
    """Row 1 of the batch differs from row 0 by a standard deviation of the start, each further row by one of a draw."""
    order = int(sampler.claims["weak_order"])
    tape = "tape=iter(torch.eye(n + 2, dtype=torch.float64)[2:, :, None])"
    return [
        "import sys, numpy as np, torch",
        imported,
        "m, w, errors = 0.7, 0.5, []  # the data are N(m, w^2): so is every state normal",
        f"for n in {COUNTS[-3:]}:",
        f"    steps = np.append(0, np.cumsum(np.resize({[*pattern]}, n - 1)))",
        "    abar = 1 / (1 + (0.02 * 1000 ** (steps / steps[-1])) ** 2)",
        f"    scheduler = {sampler.cls.__name__}({settings}num_train_timesteps=n, timestep_spacing='trailing', {BETAS})",
        "    scheduler.set_timesteps(n)",
        f"    setattr(sys.modules[type(scheduler).__module__], 'randn_tensor', lambda *_, {tape}, **__: next(tape))",
        "    x = torch.eye(n + 2, dtype=torch.float64)[1][:, None] + abar[-1] ** 0.5 * m",
        "    for t in scheduler.timesteps:",
        "        a, var, found = abar[t] ** 0.5, 1 - abar[t] + abar[t] * w**2, float(((x - x[0]) ** 2).sum() ** 0.5)",
        f"        x = scheduler.step((1 - abar[t]) ** 0.5 / var * (x - a * m), t, x, return_dict=False{options})[0]",
        "    errors.append(float(abs(found - var**0.5)))",
        _last(order),
    ]


def kdiffusion(case: Case, sampler: Any) -> list[str] | None:
    """For a function of ``k_diffusion.sampling``."""
    if (pattern := _pattern(case)) is None or case.law == WEAK:
        return None
    order = _order(sampler, pattern)
    settings = "".join(f", {key}={value!r}" for key, value in sampler.settings.items())
    if sampler.short.endswith("sde"):
        settings += ", noise_sampler=lambda *_: 0"
    return [
        "import numpy as np, torch",
        f"from k_diffusion.sampling import sample_{sampler.short}",
        f"m, w, errors = 0.7, 0.5, []  {DATA}",
        f"for n in {COUNTS[-3:]}:",
        f"    steps, z = np.cumsum(np.resize({[*pattern]}, n - 1)), {{}}",
        "    sigmas = torch.tensor([*(0.02 * 1000 ** np.append(0, steps / steps[-1])[::-1]), 0.0], dtype=torch.float64)",
        "    def model(x, sigma, **_):",
        "        sd, sigma = float(np.hypot(w, sigma[0])), float(sigma[0])",
        "        z[sigma] = float((x - m) / sd)",
        "        return torch.full_like(x, m + w**2 / sd * z[sigma])",
        f"    sample_{sampler.short}(model, 20 * torch.ones(1, 1, dtype=torch.float64), sigmas, disable=True{settings})",
        f"    errors.append(abs(z[float(sigmas[-2])] - z[float(sigmas[{'n // 4' if order >= LATE else '0'}])]))",
        _last(order),
    ]


def _pattern(case: Case) -> tuple[float, ...] | None:
    """The steps that a verdict is about; None where no slope is short."""
    return next((steps for steps in ((1.0,), *UNEVEN) if f"on {worded(steps)}, short" in case.verdict.detail), None)


def _order(sampler: Any, pattern: tuple[float, ...]) -> int:
    return int(sampler.claims["order"]) if len(pattern) == 1 else uneven(sampler.claims)


def _last(order: int) -> str:
    return (
        f'print("WRONG" if not (slope := np.log2(errors[0] / errors[2]) / 2) > {order - SLACK[order]:g} else "right", '
        f'f"slope {{slope:.2f}} where {order} is claimed", errors)'
    )
