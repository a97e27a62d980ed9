r"""Ancestral sampling: Algorithm 2 of Ho et al. 2020, on any grid of times.

Walking the reverse chain $x_T \to x_{T-1} \to \dots \to x_0$, each step draws from
$$p_\theta(x_{t-1} \mid x_t) = N\big(\tilde\mu_t(x_t, \hat x_0),\; \sigma_t^2 I\big),$$
the forward process's posterior with the network's guess $\hat x_0$ in place of $x_0$. Two choices of $\sigma_t^2$ bracket
the truth: ``"small"`` $\tilde\beta_t$ is exact if the data are one point, ``"large"`` $\beta_t$ if they are $N(0, I)$
(section 3.2). Levels are those of the schedule that is given: respace it, and the same formulas walk the coarser grid.

Claims, checked in tests: exact finite-step moments on Gaussian data; one draw of ``standard_normal`` of the state's
shape a step except the last; the last step ($t = 1$) adds no noise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from autograd import no_grad, raw
from kernels.backend import array_module
from minigen.maths.diffusion import posterior_mean, x_0_from_eps
from minigen.maths.schedules import Schedule


def variances(schedule: Schedule, variance: str) -> Any:
    r"""$\sigma_t^2$ for all $t$ (T + 1,): $\tilde\beta_t$ for ``"small"``, $\beta_t$ for ``"large"``; ValueError for another word."""
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', got {variance!r}")
    return schedule.beta_tilde if variance == "small" else schedule.beta


def sigma(t: int, schedule: Schedule, variance: str) -> float:
    r"""$\sigma_t$: $\sqrt{\tilde\beta_t}$ for ``"small"``, $\sqrt{\beta_t}$ for ``"large"``; 0 at $t = 1$ (Algorithm 2: $z = 0$)."""
    return 0.0 if t == 1 else float(variances(schedule, variance)[t]) ** 0.5


def step(
    x_t: Any,
    t: int,
    eps: Any,
    noise: Any,
    schedule: Schedule,
    *,
    variance: str = "small",
    clip: float | None = None,
) -> Any:
    r"""$x_{t-1} = \tilde\mu_t(x_t, \hat x_0) + \sigma_t z$ for the network's ``eps`` at level ``t`` and ``noise`` $z$ (ignored at $t = 1$).

    ``clip`` limits $\hat x_0$ to $[-c, c]$, as the paper's code does with $c = 1$ and its text does not say.
    """
    x_0 = x_0_from_eps(x_t, t, eps, schedule)
    if clip is not None:
        x_0 = np.clip(x_0, -clip, clip)
    mean = posterior_mean(x_0, x_t, t, schedule)
    s = sigma(t, schedule, variance)
    return mean + s * noise if s > 0 else mean


def sample(
    eps_model: Callable[..., Any],
    x_T: Any,
    schedule: Schedule,
    *,
    rng: Any,
    variance: str = "small",
    clip: float | None = None,
    cond: Any = None,
    callback: Callable[[int, Any, Any], None] | None = None,
) -> Any:
    r"""Walk from ``x_T`` (n, ...) at the schedule's last level to $x_0$; returns an array like ``x_T``.

    ``eps_model(x_t, t, cond)`` is asked once a level, with ``t`` an array (n,) of the level's original times.
    ``callback(t, x_t, x_0)`` sees every state before its step, with the model's (clipped) guess of $x_0$, and at the end
    ``(0, x_0, x_0)``. Raises FloatingPointError, naming the step, if the model returns NaN or Inf.
    """
    xp = array_module(x_T)
    x_t = x_T
    for t in range(schedule.T, 0, -1):
        times = xp.full(len(x_t), schedule.times[t])
        with no_grad():
            eps = raw(eps_model(x_t, times, cond))
        if not xp.all(xp.isfinite(eps)):
            raise FloatingPointError(f"the model returned NaN or Inf at step {schedule.T - t + 1} (time {times[0]})")
        if callback is not None:
            guess = x_0_from_eps(x_t, t, eps, schedule)
            callback(t, x_t, guess if clip is None else np.clip(guess, -clip, clip))
        noise = xp.asarray(rng.standard_normal(x_t.shape), x_t.dtype) if t > 1 else None
        x_t = step(x_t, t, eps, noise, schedule, variance=variance, clip=clip)
    if callback is not None:
        callback(0, x_t, x_t)
    return x_t
