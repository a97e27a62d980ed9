r"""One call of the network, returned as the pair $(\hat x_0, \hat\epsilon)$ that every sampler works with.

Whatever the network predicts (`maths.parametrisation`), both guesses belong together:
$x_t = \sqrt{\bar\alpha_t}\, \hat x_0 + \sqrt{1 - \bar\alpha_t}\, \hat\epsilon$. When $\hat x_0$ is clipped,
$\hat\epsilon$ is computed anew, so that a sampler never mixes a clipped guess of one with an unclipped guess of the
other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from autograd import no_grad, raw
from kernels.backend import array_module
from minigen.maths.diffusion import eps_from_x_0
from minigen.maths.parametrisation import eps_of, x_0_of
from minigen.maths.schedules import Schedule

Clip = float | Callable[[Any], Any] | None  # a bound c for [-c, c], a function of the guess of x_0, or neither


class Prediction(NamedTuple):
    """The network's prediction at $x_t$, all shaped like it; ``v`` is that of a learned variance, if it has one."""

    x_0: Any
    eps: Any
    v: Any = None


def predict(
    model: Callable[..., Any],
    x_t: Any,
    t: int,
    schedule: Schedule,
    *,
    cond: Any = None,
    kind: str = "eps",
    clip: Clip = None,
) -> Prediction:
    r"""``model(x_t, times, cond)`` at level ``t`` of the schedule; every sample's time is ``schedule.times[t]``.

    The model returns its prediction of ``kind``, or a pair of that and ``v`` (a learned variance, Nichol & Dhariwal
    2021, eq. 15). Raises ValueError for a bound ``clip`` that is not above 0 and for a prediction of another shape than
    ``x_t``, FloatingPointError, naming level and time, if the model returns NaN or Inf.
    """
    if clip is not None and not callable(clip) and not clip > 0:
        raise ValueError(f"clip must be above 0, a function, or None for no clipping, got {clip}")
    xp = array_module(x_t)
    times = xp.full(len(x_t), schedule.times[t])
    with no_grad():
        said = model(x_t, times, cond)
    output, v = (raw(part) for part in said) if isinstance(said, tuple) else (raw(said), None)
    if np.shape(output) != x_t.shape:
        raise ValueError(f"the model must return the shape that it is given, {x_t.shape}, got {np.shape(output)}")
    if not xp.all(xp.isfinite(output)) or (v is not None and not xp.all(xp.isfinite(v))):
        raise FloatingPointError(f"the model returned NaN or Inf at level {t} of {schedule.T} (time {times[0]})")
    x_0 = x_0_of(output, x_t, t, schedule, kind)
    eps = eps_of(output, x_t, t, schedule, kind)
    if clip is not None:
        x_0 = clip(x_0) if callable(clip) else np.clip(x_0, -clip, clip)
        eps = eps_from_x_0(x_t, t, x_0, schedule)
    return Prediction(x_0, eps, v)
