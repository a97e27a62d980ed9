r"""Ancestral sampling: Algorithm 2 of Ho et al. 2020, on any grid of times.

The reverse chain $x_T \to x_{T-1} \to \dots \to x_0$ draws each step from
$$p_\theta(x_{t-1} \mid x_t) = N\big(\tilde\mu_t(x_t, \hat x_0),\; \sigma_t^2 I\big),$$
the forward process's posterior with the network's guess $\hat x_0$ in place of $x_0$. Two choices of $\sigma_t^2$
bracket the truth: ``"small"`` $\tilde\beta_t$ is exact if the data are one point, ``"large"`` $\beta_t$ if they are
$N(0, I)$ (section 3.2); ``"learned"`` lets the network choose between them for every pixel (Nichol & Dhariwal 2021, eq.
15). Levels are those of the schedule that is given: respace it, and the same formulas walk the coarser grid.

A classifier can pull on the mean (Dhariwal & Nichol 2021, section 4.1): ``score`` is $\nabla_x \ln p(y \mid x)$ times
its scale, and
$$x_{t-1} \sim N(\mu + \sigma_t^2\, \nabla_x \ln p(y \mid x), \sigma_t^2 I),$$
with the gradient at $x = \mu$, as derived there, or at $x = x_t$, as in the printed algorithm 1 and the authors' code.

Claims, checked in tests: exact finite-step moments on Gaussian data; one draw of ``standard_normal`` of the state's
shape per step except the last; the last step ($t = 1$) adds no noise.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np

from kernels.backend import array_module
from minigen.maths.diffusion import at, posterior_mean
from minigen.maths.schedules import Schedule

from .predict import Clip, predict

VARIANCES = ("small", "large", "learned")


def variances(schedule: Schedule, variance: str) -> Any:
    r"""$\sigma_t^2$ for all $t$ (T + 1,): $\tilde\beta_t$ for ``"small"``, $\beta_t$ for ``"large"``; ValueError for
    any other word.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', got {variance!r}")
    return schedule.beta_tilde if variance == "small" else schedule.beta


def log_variance_range(schedule: Schedule) -> tuple[Any, Any]:
    r"""$\ln \tilde\beta_t$ and $\ln \beta_t$, (T + 1,) each, between which a variance is learned; entry 0 is NaN.

    $\tilde\beta_1 = 0$ has no logarithm: at $t = 1$, $\tilde\beta_2$ stands for it, as in the authors' code (for the
    decoder's likelihood only: the last step of sampling adds no noise). A chain of one level takes $\ln \beta_1$.
    """
    high = schedule.beta[1:]
    low = np.concatenate([schedule.beta_tilde[2:3], schedule.beta_tilde[2:]]) if schedule.T > 1 else high
    return np.log(np.append(np.nan, low)), np.log(np.append(np.nan, high))


def learned_log_variance(v: Any, t: Any, schedule: Schedule) -> Any:
    r"""$\ln \sigma_t^2 = v \ln \beta_t + (1 - v) \ln \tilde\beta_t$ (Nichol & Dhariwal 2021, eq. 15), for ``v`` (an
    array or Tensor) in units of that range.

    ``t`` is an integer, or an array (n,) of them; `log_variance_range` says what happens at $t = 1$.
    """
    low, high = log_variance_range(schedule)
    return v * at(high, t, v) + (1 - v) * at(low, t, v)


def sigma(t: int, schedule: Schedule, variance: str) -> float:
    r"""$\sigma_t$: $\sqrt{\tilde\beta_t}$ for ``"small"``, $\sqrt{\beta_t}$ for ``"large"``; 0 at $t = 1$ (Algorithm 2:
    $z = 0$).
    """
    return 0.0 if t == 1 else float(variances(schedule, variance)[t]) ** 0.5


def step(x_t: Any, t: int, x_0: Any, noise: Any, schedule: Schedule, *, sigma: Any, score: Any = None) -> Any:
    r"""$x_{t-1} = \tilde\mu_t(x_t, \hat x_0) + \sigma_t^2\, s + \sigma_t z$ for the guess ``x_0`` at level ``t`` and ``noise`` $z$.

    ``sigma`` is a number or an array like $x_t$; $s$ is ``score``, an array, or a function evaluated at the mean.
    """
    mean = posterior_mean(x_0, x_t, t, schedule)
    if callable(score):
        score = score(mean)
    if score is not None:
        mean = mean + sigma**2 * score
    return mean if noise is None else mean + sigma * noise


def sample(
    model: Callable[..., Any],
    x_T: Any,
    schedule: Schedule,
    *,
    rng: Any,
    variance: str = "small",
    clip: Clip = None,
    cond: Any = None,
    kind: str = "eps",
    score: Callable[..., Any] | None = None,
    score_at: Literal["mean", "x_t"] = "mean",
    callback: Callable[[int, Any, Any], None] | None = None,
) -> Any:
    r"""Walk from ``x_T`` (n, ...) at the schedule's last level to $x_0$; returns an array like ``x_T``.

    ``model(x_t, t, cond)`` is called once per level, with ``t`` an array (n,) of the level's original times, and
    predicts ``kind`` ("eps", "x_0", "v" or "score"), or a pair of that and $v$ for the variance ``"learned"``. ``clip``
    limits $\hat x_0$ to $[-c, c]$, as the paper's code does with $c = 1$ (not in its text), or is a function of it.

    ``score(x, t, cond)`` is $s\, \nabla_x \ln p(y \mid x)$; at ``"mean"``, it gets $x = \mu$ and the time of the level
    below, at ``"x_t"`` $x_t$ and its time. The last step adds no noise (algorithm 2: $z = 0$) and no score.

    ``callback(t, x_t, x_0)`` sees every state before its step, with the model's (clipped) guess of $x_0$, and at the
    end ``(0, x_0, x_0)``. Raises FloatingPointError, naming the step, if the model returns NaN or Inf.
    """
    if variance not in VARIANCES:
        raise ValueError(f"variance must be one of {', '.join(map(repr, VARIANCES))}, got {variance!r}")
    if score_at not in ("mean", "x_t"):
        raise ValueError(f"score_at must be 'mean' or 'x_t', got {score_at!r}")
    if rng is None and schedule.T > 1:
        raise ValueError("ancestral sampling adds noise, so rng must be a generator, got None")
    xp = array_module(x_T)

    def ask(x: Any, level: int) -> Any:
        assert score is not None
        return score(x, xp.full(len(x), schedule.times[level]), cond)

    x_t = x_T
    for t in range(schedule.T, 0, -1):
        guess = predict(model, x_t, t, schedule, cond=cond, kind=kind, clip=clip)
        if callback is not None:
            callback(t, x_t, guess.x_0)
        if t == 1:
            x_t = step(x_t, t, guess.x_0, None, schedule, sigma=0.0)
            break
        if variance == "learned":
            if guess.v is None:
                raise ValueError("variance 'learned' needs a model that returns a pair: its prediction and v")
            s = xp.exp(0.5 * learned_log_variance(guess.v, t, schedule))
        else:
            s = sigma(t, schedule, variance)
        pull = None if score is None else ask(x_t, t) if score_at == "x_t" else partial(ask, level=t - 1)
        noise = xp.asarray(rng.standard_normal(x_t.shape), x_t.dtype)
        x_t = step(x_t, t, guess.x_0, noise, schedule, sigma=s, score=pull)
    if callback is not None:
        callback(0, x_t, x_t)
    return x_t
