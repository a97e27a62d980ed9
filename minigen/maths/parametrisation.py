r"""What a diffusion network predicts: four names for one guess.

With $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$ known, each of these determines all others:

| ``kind`` | symbol | from $x_0$ and $\epsilon$ | source |
|---|---|---|---|
| ``"eps"`` | $\epsilon$ | $\epsilon$ | Ho et al. 2020, 2006.11239 |
| ``"x_0"`` | $x_0$ | $x_0$ | the same, section 3.2 |
| ``"v"`` | $v$ | $\sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, x_0$ | Salimans & Ho 2022, 2202.00512, appendix D |
| ``"score"`` | $\nabla_{x_t} \ln q(x_t)$ | $-\epsilon / \sqrt{1 - \bar\alpha_t}$ | Song et al. 2020, 2011.13456 |

A guess of $\epsilon$ (or of the score) says nothing about $x_0$ where $\bar\alpha_t = 0$; $x_0$ and $v$ do. ``t`` is a
level of the schedule as in `diffusion`: an integer, or an array (n,) of integers, at least 1.
"""

from collections.abc import Callable
from typing import Any

from .diffusion import at, eps_from_x_0, x_0_from_eps
from .schedules import Schedule

KINDS = ("eps", "x_0", "v", "score")


def check_kind(kind: str) -> None:
    """Raise ValueError, naming the kinds, for any other word."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")


def x_0_of(output: Any, x_t: Any, t: Any, schedule: Schedule, kind: str) -> Any:
    r"""$\hat x_0$ from a network's output at $x_t$."""
    check_kind(kind)
    if kind == "x_0":
        return output
    if kind == "v":  # v turns the pair (x_0, eps) by an angle: turn it back
        return at(schedule.alpha_bar**0.5, t, x_t) * x_t - at((1 - schedule.alpha_bar) ** 0.5, t, x_t) * output
    return x_0_from_eps(x_t, t, eps_of(output, x_t, t, schedule, kind), schedule)


def eps_of(output: Any, x_t: Any, t: Any, schedule: Schedule, kind: str) -> Any:
    r"""$\hat\epsilon$ from a network's output at $x_t$."""
    check_kind(kind)
    if kind == "eps":
        return output
    if kind == "v":
        return at((1 - schedule.alpha_bar) ** 0.5, t, x_t) * x_t + at(schedule.alpha_bar**0.5, t, x_t) * output
    if kind == "score":
        return at(-((1 - schedule.alpha_bar) ** 0.5), t, x_t) * output
    return eps_from_x_0(x_t, t, output, schedule)


def target(kind: str, x_0: Any, eps: Any, t: Any, schedule: Schedule) -> Any:
    """What a network that predicts ``kind`` should output for the true ``x_0`` and ``eps``."""
    check_kind(kind)
    if kind in ("eps", "x_0"):
        return eps if kind == "eps" else x_0
    if kind == "v":
        return at(schedule.alpha_bar**0.5, t, x_0) * eps - at((1 - schedule.alpha_bar) ** 0.5, t, x_0) * x_0
    return at(-(schedule.noise**-0.5), t, x_0) * eps


def as_eps_model(model: Callable[..., Any], schedule: Schedule, kind: str) -> Callable[..., Any]:
    """``model``, which predicts ``kind``, as a model of eps; ``schedule`` says which noise its times mean."""
    check_kind(kind)
    if kind == "eps":
        return model

    def eps_model(x_t: Any, t: Any, cond: Any = None) -> Any:
        levels, level = schedule.told(t)
        return eps_of(model(x_t, t, cond), x_t, level, levels, kind)

    return eps_model
