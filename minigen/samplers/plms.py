r"""PLMS: DDIM's steps, with noise extrapolated from four guesses. Liu, Ren, Lin & Zhao 2022, arXiv 2202.09778.

DDIM holds the network's $\hat\epsilon$ fixed over a step, though it changes along the way. A linear multistep method
extrapolates it from the guesses of the last levels, which cost nothing. Using DDIM's own step to move (the paper's
"transfer part") keeps the state at the noise level that the network expects; plain Runge-Kutta on $dx/dt$ does not.

| symbol | code | meaning |
|---|---|---|
| $e_t$ | ``history[0].eps`` | the guess at the level the step leaves; ``history[k]`` is $k$ levels earlier |
| $e'_t$ | ``blend(...)`` | what is used for $\hat\epsilon$ throughout the step |

$$e'_t = \tfrac{1}{24} (55\, e_t - 59\, e_{t+1} + 37\, e_{t+2} - 9\, e_{t+3}) \qquad (12)
\qquad x_u = \phi(x_t, e'_t, t, u) \qquad (11)$$

$\phi$ is DDIM's step with $\eta = 0$ (`ddim.step`). The first steps, with a shorter history, take the Adams-Bashforth
weights of order 1, 2 and 3; the paper starts with three Runge-Kutta steps of four calls instead.

You need: `samplers/ddim.py`. New here: a memory.

Claims, checked in tests/minigen/laws and tests/minigen/samplers/test_plms.py: exact at any number of steps if the data
are one point; one call of the model per level, no time twice, no draws; order 2 on grids whose steps change smoothly,
limited by the first step, which is of order 1, and by weights that assume equal steps; **order 1** where step lengths
alternate, for the same reason.

Details that matter, and the tests that guard them: the weights, newest first (`test_pndm_eq12_...`); a step goes to the
next level of the grid; what is blended is $\hat\epsilon$ after clipping, so the last step, which extrapolates, may
leave the clip's range.
"""

from collections.abc import Callable, Sequence
from typing import Any

from minigen.maths.schedules import Schedule

from . import ddim
from .predict import Clip, Prediction, predict

# Adams-Bashforth for equal steps: the integral over the next step of the polynomial through the last 1 to 4 values
WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def blend(history: Sequence[Any]) -> Any:
    """Eq. 12 for the last 1 to 4 guesses of eps, the newest first; each set of weights adds up to 1."""
    return sum(w * eps for w, eps in zip(WEIGHTS[len(history) - 1], history, strict=True))


def step(x_t: Any, history: Sequence[Prediction], t: int, u: int, schedule: Schedule) -> Any:
    r"""Eqs. 12 and 11: $x_u$ from $x_t$ and the predictions at ``t`` and up to 3 levels before it, the newest first."""
    if len(history) == 1:  # the pair as it was predicted, which also holds where no signal is left
        return ddim.step(history[0].x_0, history[0].eps, t, u, None, schedule, eta=0.0)
    eps, a = blend([guess.eps for guess in history]), float(schedule.alpha_bar[t])
    return ddim.step((x_t - (1 - a) ** 0.5 * eps) / a**0.5, eps, t, u, None, schedule, eta=0.0)


def sample(
    model: Callable[..., Any],
    x_T: Any,
    schedule: Schedule,
    *,
    rng: Any = None,
    clip: Clip = None,
    cond: Any = None,
    kind: str = "eps",
    callback: Callable[[int, Any, Any], None] | None = None,
) -> Any:
    r"""Walk from ``x_T`` (n, ...) at the schedule's last level to $x_0$; returns an array like ``x_T``.

    Arguments as those of `ddim.sample`; nothing is drawn from ``rng``, which may be None.
    """
    history: list[Prediction] = []
    x_t = x_T
    for t in range(schedule.T, 0, -1):
        guess = predict(model, x_t, t, schedule, cond=cond, kind=kind, clip=clip)
        if callback is not None:
            callback(t, x_t, guess.x_0)
        history = [guess, *history[:3]]
        x_t = step(x_t, history, t, t - 1, schedule)
    if callback is not None:
        callback(0, x_t, x_t)
    return x_t
