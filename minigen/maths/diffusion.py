r"""The Gaussian chain of DDPM (Ho et al. 2020, 2006.11239, section 2), on which every later diffusion paper builds.

$$q(x_t \mid x_{t-1}) = N(\sqrt{\alpha_t}\, x_{t-1}, \beta_t I) \quad (2) \qquad q(x_t \mid x_0) = N(\sqrt{\bar\alpha_t}\, x_0, (1 - \bar\alpha_t) I) \quad (4)$$
$$q(x_{t-1} \mid x_t, x_0) = N(\tilde\mu_t(x_t, x_0), \tilde\beta_t I) \quad (6)$$

``t`` is a level of ``schedule``, 0 to T: an integer, or an array (n,) with one level per sample. Arrays or Tensors of
shape (n, ...) keep their dtype.
"""

from typing import Any

import numpy as np

from autograd import raw
from kernels.backend import array_module, to_numpy

from .schedules import Schedule


def at(values: Any, t: Any, x: Any) -> Any:
    """``values[t]`` shaped to multiply ``x`` (n, ...): a number for an integer ``t``, (n, 1, ...) for an array (n,).

    Raises ValueError for levels that ``values`` does not have, TypeError for an array ``t`` that is not of integers
    and for an ``x`` whose dtype could not hold the values.
    """
    levels, last = to_numpy(t), len(values) - 1
    if levels.dtype.kind not in "iu":
        raise TypeError(f"t must be a level or an array of levels, whole numbers, got {levels.dtype}")
    if np.any(levels < 0) or np.any(levels > last):
        raise ValueError(f"t must be levels from 0 to {last}, got {levels.min()} to {levels.max()}")
    if isinstance(t, int | np.integer):
        return float(values[t])
    x = raw(x)
    if x.dtype.kind != "f":
        raise TypeError(f"one level per sample needs floats to multiply, got {x.dtype}")
    picked = array_module(x).asarray(values[levels], x.dtype)
    return picked.reshape(-1, *(1,) * (x.ndim - 1))


def q_sample(x_0: Any, t: Any, eps: Any, schedule: Schedule) -> Any:
    r"""$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$ (eq. 4)."""
    return at(schedule.alpha_bar**0.5, t, x_0) * x_0 + at((1 - schedule.alpha_bar) ** 0.5, t, x_0) * eps


def x_0_from_eps(x_t: Any, t: Any, eps: Any, schedule: Schedule) -> Any:
    r"""$\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \epsilon) / \sqrt{\bar\alpha_t}$: eq. 4 solved for $x_0$."""
    _needs_signal(schedule)
    return (x_t - at((1 - schedule.alpha_bar) ** 0.5, t, x_t) * eps) * at(schedule.alpha_bar**-0.5, t, x_t)


def eps_from_x_0(x_t: Any, t: Any, x_0: Any, schedule: Schedule) -> Any:
    r"""$\epsilon = (x_t - \sqrt{\bar\alpha_t}\, x_0) / \sqrt{1 - \bar\alpha_t}$: eq. 4 solved for $\epsilon$; ``t`` at least 1."""
    inverse = np.maximum(1 - schedule.alpha_bar, np.finfo(np.float64).tiny) ** -0.5
    return (x_t - at(schedule.alpha_bar**0.5, t, x_t) * x_0) * at(inverse, t, x_t)


def posterior_mean(x_0: Any, x_t: Any, t: Any, schedule: Schedule) -> Any:
    r"""$\tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1 - \bar\alpha_t} x_0 + \frac{\sqrt{\alpha_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t$
    (eq. 7); ``t`` at least 1.
    """
    alpha, before, noise = schedule.alpha, schedule.alpha_bar_before, schedule.noise
    return at(before**0.5 * schedule.beta / noise, t, x_t) * x_0 + at(alpha**0.5 * (1 - before) / noise, t, x_t) * x_t


def mean_from_eps(x_t: Any, t: Any, eps: Any, schedule: Schedule) -> Any:
    r"""$\mu = \frac{1}{\sqrt{\alpha_t}} \Big(x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}\, \epsilon\Big)$ (eq. 11):
    $\tilde\mu_t$ with $\hat x_0$ in terms of $\epsilon$.
    """
    _needs_signal(schedule)
    return at(schedule.alpha**-0.5, t, x_t) * (x_t - at(schedule.beta / schedule.noise**0.5, t, x_t) * eps)


def mean_from_score(x_t: Any, t: Any, score: Any, schedule: Schedule) -> Any:
    r"""$\mu = \frac{1}{\sqrt{\alpha_t}} (x_t + \beta_t\, \nabla_{x_t} \ln q(x_t))$: eq. 11 with
    $\epsilon = -\sqrt{1 - \bar\alpha_t}\, \nabla \ln q$.
    """
    _needs_signal(schedule)
    return at(schedule.alpha**-0.5, t, x_t) * (x_t + at(schedule.beta, t, x_t) * score)


def _needs_signal(schedule: Schedule) -> None:
    if schedule.alpha_bar[-1] == 0:
        raise ValueError("x_0 cannot be read off eps where alpha_bar is 0: predict x_0 or v with this schedule")
