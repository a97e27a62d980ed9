r"""All samplers by name, with one signature, for the command line and for comparisons.

| name | file | calls for N levels | draws | order | note |
|---|---|---|---|---|---|
| ``ancestral`` | `ancestral` | N | N - 1 | | variance $\tilde\beta_t$; ``-large``: $\beta_t$; ``-learned``: the network's |
| ``ddim`` | `ddim` | N | 0, or N - 1 with ``eta`` | 1 | ``eta`` 0 by default; 1 is ``ancestral`` |
| ``plms`` | `plms` | N | 0 | 2 on smooth grids | |
| ``dpmpp-2m`` | `dpm_solver` | N | 0 | 2 | |
| ``dpmpp-2s`` | `dpm_solver` | N | 0 | 2 | two levels per step |
| ``dpmpp-3m`` | `dpm_solver` | N | 0 | 3 | after its first steps |
| ``euler`` | `euler` | N | 0 | 1 | ``ddim`` in other units |
| ``heun`` | `euler` | 2 N - 1 | 0 | 2 | |
| ``euler-ancestral`` | `euler` | N | N - 1, or 0 without ``eta`` | | ``eta`` 1 by default; ``ddim`` with this ``eta`` in other units |

How many levels, and which: `schedules.spaced`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from minigen.maths.schedules import Schedule

from . import ancestral, ddim, dpm_solver, euler, plms
from .predict import Clip

SAMPLERS: dict[str, Callable[..., Any]] = {
    "ancestral": ancestral.sample,
    "ancestral-large": partial(ancestral.sample, variance="large"),
    "ancestral-learned": partial(ancestral.sample, variance="learned"),
    "ddim": ddim.sample,
    "plms": plms.sample,
    "dpmpp-2m": dpm_solver.sample_2m,
    "dpmpp-2s": dpm_solver.sample_2s,
    "dpmpp-3m": dpm_solver.sample_3m,
    "euler": euler.sample_euler,
    "heun": euler.sample_heun,
    "euler-ancestral": euler.sample_euler_ancestral,
}

WITH_ETA = ("ddim", "euler-ancestral")


def find(name: str, eta: float | None = None) -> Callable[..., Any]:
    """The sampler of this name, by default with its own ``eta``; ValueError names all, or those with an ``eta``."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}: use one of {', '.join(SAMPLERS)}")
    if eta is None:
        return SAMPLERS[name]
    if name not in WITH_ETA:
        raise ValueError(f"the sampler {name!r} has no eta, got eta = {eta}: use one of {', '.join(WITH_ETA)}")
    return partial(SAMPLERS[name], eta=eta)


def draw(
    name: str,
    model: Callable[..., Any],
    x_T: Any,
    schedule: Schedule,
    *,
    rng: Any = None,
    eta: float | None = None,
    clip: Clip = None,
    cond: Any = None,
    kind: str = "eps",
    callback: Callable[[int, Any, Any], None] | None = None,
) -> Any:
    r"""$x_0$ from ``x_T`` by the sampler of this name, over all levels of ``schedule``; arguments as those of `ddim.sample`."""
    sampler = find(name, eta)
    return sampler(model, x_T, schedule, rng=rng, clip=clip, cond=cond, kind=kind, callback=callback)


def calls(name: str, N: int) -> int:
    """How often the sampler of this name calls the model on a schedule of ``N`` levels."""
    find(name)
    return 2 * N - 1 if name == "heun" else N
