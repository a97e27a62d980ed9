r"""Euler, Heun and Euler-ancestral, with the noise level as time. Karras, Aittala, Aila & Laine 2022, arXiv 2206.00364;
Euler-ancestral is k-diffusion's (Crowson 2022).

Dividing $x_t$ by $\sqrt{\bar\alpha_t}$ leaves the picture as it is and only its noise changes:
$y = x_0 + \sigma \epsilon$. In these units the probability-flow ODE is as short as it gets, $dy / d\sigma = \epsilon$,
and every textbook solver applies. Heun's calls the network again at the end of a step and takes the mean of both
slopes.

| symbol | code | meaning |
|---|---|---|
| $y_t$ | ``y`` | $x_t / \sqrt{\bar\alpha_t} = x_0 + \sigma_t \epsilon$ |
| $\sigma_t$ | ``schedule.sigma[t]`` | $\sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$, 0 at $t = 0$ |
| $d_t$ | ``eps`` | the slope $(y_t - \hat x_0(x_t)) / \sigma_t$, which is $\hat\epsilon$ |

$$y_u = y_t + (\sigma_u - \sigma_t)\, d_t \quad \text{(Euler)} \qquad
y_u = y_t + (\sigma_u - \sigma_t)\, \tfrac12 (d_t + d'_u) \quad \text{(Heun, algorithm 1)}$$
$$y_u = y_t + (\sigma_{\text{down}} - \sigma_t)\, d_t + \sigma_{\text{up}}\, z, \qquad
\sigma_{\text{up}} = \eta\, \sigma_u \sqrt{1 - \sigma_u^2 / \sigma_t^2}, \quad \sigma_{\text{down}}^2 = \sigma_u^2 - \sigma_{\text{up}}^2 \quad \text{(ancestral)}$$

**Nothing new in two of three**: Euler is DDIM with $\eta = 0$, and Euler-ancestral is DDIM with the same $\eta$ (so
with $\eta = 1$ it is DDPM), written in other units; the tests compare them step by step.

You need: `samplers/ddim.py`. New here: the units, and Heun's second slope. Grids: `schedules.karras_sigmas`.

Use Heun's method with Karras' spacing. In a step from $\sigma_t$ to $\sigma_u$ the second slope moves the first result
by $\tfrac{\sigma_t - \sigma_u}{2 \sigma_u} (\hat x_0(y_u) - \hat x_0(y_t))$: on evenly spread levels of a cosine
schedule, the first step goes from $\sigma$ of thousands to ten, this change of $\hat x_0$ is multiplied by hundreds,
and no picture comes out.

The caller's ``x_T`` and the states that ``callback`` sees are $x_t$, with noise of variance $1 - \bar\alpha_t$, as in
all other samplers. The infinite $\sigma_T$ of a zero terminal SNR does not fit these units: ValueError.

Claims, checked in tests/minigen/laws and tests/minigen/samplers/test_euler.py: exact at any number of steps if the data
are one point; Euler is of order 1, Heun of order 2, on any grid. Euler: one call of the model per level. Heun: two per
level (at $t$, then at the level below), one in the last step, which is Euler's. Ancestral: as Euler, and one draw of
``standard_normal`` of the state's shape per step except the last if $\eta > 0$.
"""

from collections.abc import Callable
from typing import Any

from kernels.backend import array_module
from minigen.maths.schedules import Schedule

from .ddim import check_eta
from .predict import Clip, Prediction, predict


def step(y: Any, slope: Any, sigma_t: float, sigma_u: float) -> Any:
    r"""$y_u = y_t + (\sigma_u - \sigma_t)\, d$ along the ``slope`` $d$."""
    return y + (sigma_u - sigma_t) * slope


def split(sigma_t: float, sigma_u: float, eta: float) -> tuple[float, float]:
    r"""$(\sigma_{\text{down}}, \sigma_{\text{up}})$: go down too far, and add noise back up to $\sigma_u$."""
    up = eta * sigma_u * (1 - (sigma_u / sigma_t) ** 2) ** 0.5
    return max(sigma_u**2 - up**2, 0.0) ** 0.5, up


def ancestral_step(y: Any, eps: Any, noise: Any, sigma_t: float, sigma_u: float, *, eta: float) -> Any:
    r"""Euler's step down to $\sigma_{\text{down}}$, then $\sigma_{\text{up}} z$; ``noise`` may be None where that is 0."""
    down, up = split(sigma_t, sigma_u, eta)
    y = step(y, eps, sigma_t, down)
    return y if up == 0 else y + up * noise


def sample_euler(
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
    r"""Euler's method from ``x_T`` (n, ...) at the schedule's last level to $x_0$; arguments as those of `ddim.sample`,
    nothing is drawn.
    """
    return sample_euler_ancestral(
        model, x_T, schedule, rng=rng, eta=0.0, clip=clip, cond=cond, kind=kind, callback=callback
    )


def sample_heun(
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
    r"""Algorithm 1 (algorithm 2 without churn) from ``x_T`` (n, ...) at the schedule's last level to $x_0$; arguments
    as those of `ddim.sample`.

    Nothing is drawn. ``callback`` sees the state at the start of each step, not the trial point at its end.
    """
    to_hat, sigma = scales(schedule)

    def ask(y: Any, level: int) -> Prediction:
        return predict(model, y / to_hat[level], level, schedule, cond=cond, kind=kind, clip=clip)

    y = x_T * to_hat[-1]
    for t in range(schedule.T, 0, -1):
        guess = ask(y, t)
        if callback is not None:
            callback(t, y / to_hat[t], guess.x_0)
        slope = guess.eps
        if t > 1:
            trial = step(y, slope, sigma[t], sigma[t - 1])
            slope = (slope + ask(trial, t - 1).eps) / 2
        y = step(y, slope, sigma[t], sigma[t - 1])
    if callback is not None:
        callback(0, y, y)
    return y


def sample_euler_ancestral(
    model: Callable[..., Any],
    x_T: Any,
    schedule: Schedule,
    *,
    rng: Any = None,
    eta: float = 1.0,
    clip: Clip = None,
    cond: Any = None,
    kind: str = "eps",
    callback: Callable[[int, Any, Any], None] | None = None,
) -> Any:
    r"""Euler's steps with noise, from ``x_T`` (n, ...) at the schedule's last level to $x_0$; arguments as those of
    `ddim.sample`.
    """
    check_eta(eta, rng)
    xp = array_module(x_T)
    to_hat, sigma = scales(schedule)
    y = x_T * to_hat[-1]
    for t in range(schedule.T, 0, -1):
        x_t = y / to_hat[t]
        guess = predict(model, x_t, t, schedule, cond=cond, kind=kind, clip=clip)
        if callback is not None:
            callback(t, x_t, guess.x_0)
        noise = xp.asarray(rng.standard_normal(x_t.shape), x_t.dtype) if eta > 0 and t > 1 else None
        y = ancestral_step(y, guess.eps, noise, sigma[t], sigma[t - 1], eta=eta)
    if callback is not None:
        callback(0, y, y)
    return y


def scales(schedule: Schedule) -> tuple[list[float], list[float]]:
    r"""$1 / \sqrt{\bar\alpha_t}$ and $\sigma_t$ for all levels, as plain numbers (which keep an array's dtype)."""
    if schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "the Euler and Heun samplers need signal at the last level, got alpha_bar_T = 0: take ddim or dpmpp"
        )
    return (schedule.alpha_bar**-0.5).tolist(), schedule.sigma.tolist()
