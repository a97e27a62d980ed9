r"""DPM-Solver++: second and third order in the logarithm of the signal-to-noise ratio. Lu et al. 2022, arXiv 2211.01095.

Half of the diffusion ODE is linear and can be solved exactly: what is left is an integral of $\hat x_0$ over
$\lambda = \ln(\alpha / \sigma)$, in which $\hat x_0$ changes slowly. Holding it fixed over a step is DDIM again; a
straight line through two of its values is a method of second order, a parabola through three one of third. The second
value comes from a level in between ("2S", singlestep) or from the step before ("2M", multistep), the third from the
step before that ("3M").

| symbol | code | meaning |
|---|---|---|
| $\alpha_t, \sigma_t$ | | $\sqrt{\bar\alpha_t}$ and $\sqrt{1 - \bar\alpha_t}$: in this paper $\sigma$ is the noise of $x_t$ itself |
| $\lambda_t$ | ``log_snr(schedule)[t]`` | $\ln(\alpha_t / \sigma_t)$: $+\infty$ at $t = 0$, $-\infty$ where nothing is left of the signal |
| $h$ | ``h`` | $\lambda_u - \lambda_t > 0$ for the step from $t$ to $u$ |
| $D$ | ``x_0`` | what is used for $\hat x_0$ throughout the step |
| $r$ | ``r`` | 2S: share of $h$ at which the level in between lies; 2M: last step's $h$ over this one's |

$$x_u = \frac{\sigma_u}{\sigma_t}\, x_t - \alpha_u (e^{-h} - 1)\, D \qquad
\text{first order: } D = \hat x_0(x_t)$$
$$\text{2S: } D = \Big(1 - \frac{1}{2r}\Big) \hat x_0(x_t) + \frac{1}{2r}\, \hat x_0(x_s) \quad \text{(algorithm 1)} \qquad
\text{2M: } D = \Big(1 + \frac{1}{2r}\Big) \hat x_0(x_t) - \frac{1}{2r}\, \hat x_0(x_{\text{before}}) \quad \text{(algorithm 2)}$$

Both lines are evaluated at the middle of the step. For the parabola of 3M that is not enough: with the first and second
derivatives, in $\lambda$ at $t$, of the one through the last three guesses, integrating
$e^\lambda (\hat x_0 + (\lambda - \lambda_t)\, \hat x_0' + \tfrac12 (\lambda - \lambda_t)^2\, \hat x_0'')$ over the step
gives

$$\text{3M: } D = \hat x_0 + \phi_2\, h\, \hat x_0' + \phi_3\, h^2\, \hat x_0'', \quad
\phi_2 = \frac{h - 1 + e^{-h}}{h\, (1 - e^{-h})}, \quad \phi_3 = \frac{h^2 / 2 - h + 1 - e^{-h}}{h^2\, (1 - e^{-h})}$$

(3M is from the authors' code, not from the paper. There, and in the libraries that adopted it, a divided difference
stands for $\hat x_0''$, which is twice as large: they are of order 2, `docs/findings.md`.)

The level $s$ of 2S is the next level of the grid, and $u$ the one after it: so the network is called only at levels of
its grid, and $N$ levels cost $N$ calls, as everywhere else. On a grid uniform in $\lambda$, $r = 1/2$. A level that is
left over is a step of first order, taken first, where the noise is strongest. The last step, to $\lambda = \infty$, is
of first order for all: it returns $\hat x_0$ itself.

You need: `samplers/ddim.py`. New here: time measured in log-SNR.

Claims, checked in tests/minigen/laws and tests/minigen/samplers/test_dpm_solver.py: exact at any number of steps if the
data are one point; first order equals DDIM with $\eta = 0$; 2S and 2M are of order 2 in $\lambda$ and 3M, after its
first steps, of order 3, also where step lengths alternate. One call of the model per level, no time twice, no draws.
Works at zero terminal SNR if the network predicts x_0 or v.

A higher order is faster convergence, not always a smaller error: over few long steps a parabola overshoots. Of 512
digits drawn in 10 steps (`models/ddpm.py`, defaults) the ruler accepts 0.82 with 3M and 0.84 with 2M on "uniform"
times, 0.08 and 0.59 on "karras"; there, in 50 steps, 0.78 and 0.77 (2026-11-28).

Details that matter, and the tests that guard them:
- $r$ of 2M is the last step over this one, not its inverse, which no test of the order would show
  (`test_dpmpp_algorithms_1_and_2_weights`);
- $\lambda$ is infinite at both ends, which must give no NaN
  (`test_a_level_without_signal_and_one_without_noise_stay_finite`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigen.maths.schedules import Schedule

from .predict import Clip, predict


def log_snr(schedule: Schedule) -> Any:
    r"""$\lambda_t = \ln(\alpha_t / \sigma_t)$ for all levels (T + 1,), falling from $\infty$."""
    with np.errstate(divide="ignore"):
        return -np.log(schedule.sigma)


def step(x_t: Any, x_0: Any, t: int, u: int, schedule: Schedule) -> Any:
    r"""$x_u$ from $x_t$, with ``x_0`` used for $\hat x_0$ throughout the step (DDIM's step if it is the guess at $t$).

    $e^{-h}$ is the ratio of two $\alpha / \sigma$, so the infinite ends need no care: $x_u = \hat x_0$ at $u = 0$.
    """
    a_t, a_u = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[u])
    shrink = ((1 - a_u) / (1 - a_t)) ** 0.5  # sigma_u / sigma_t
    minus_expm1 = 1 - (a_t / a_u) ** 0.5 * shrink  # 1 - e^{-h}
    return shrink * x_t + a_u**0.5 * minus_expm1 * x_0


def line_2s(x_0_t: Any, x_0_s: Any, r: float) -> Any:
    r"""$D$ of 2S: the line through the guesses at $t$ and at $s$, which lies at the share ``r`` of the step."""
    return (1 - 1 / (2 * r)) * x_0_t + 1 / (2 * r) * x_0_s


def line_2m(x_0_t: Any, x_0_before: Any, r: float) -> Any:
    r"""$D$ of 2M: the line through the guesses at $t$ and at the level before, ``r`` steps of this length away."""
    return (1 + 1 / (2 * r)) * x_0_t - 1 / (2 * r) * x_0_before


def parabola_3m(x_0: list[Any], lam: list[float], h: float) -> Any:
    r"""$D$ of 3M: the parabola through up to three guesses, newest first, at these $\lambda$; a line through two."""
    if len(x_0) == 1:
        return x_0[0]
    slope, bend = (x_0[0] - x_0[1]) / (lam[0] - lam[1]), 0.0
    if len(x_0) == 3:
        second = (slope - (x_0[1] - x_0[2]) / (lam[1] - lam[2])) / (lam[0] - lam[2])  # half the second derivative
        slope, bend = slope + (lam[0] - lam[1]) * second, 2 * second
    e = -np.expm1(-h)  # 1 - e^{-h}
    return x_0[0] + float((h - e) / e) * slope + float((h * h / 2 - h + e) / e) * bend


def sample_2m(
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
    r"""DPM-Solver++(2M), algorithm 2: walk from ``x_T`` (n, ...) at the schedule's last level to $x_0$.

    Arguments as those of `ddim.sample`; nothing is drawn from ``rng``, which may be None. First and last step are of
    first order.
    """
    lam = log_snr(schedule)
    x_t, before = x_T, None
    for t in range(schedule.T, 0, -1):
        x_0 = predict(model, x_t, t, schedule, cond=cond, kind=kind, clip=clip).x_0
        if callback is not None:
            callback(t, x_t, x_0)
        D = x_0
        if before is not None and t > 1:  # after a step from lambda = -infinity r is infinite, and D is x_0
            D = line_2m(x_0, before, float((lam[t] - lam[t + 1]) / (lam[t - 1] - lam[t])))
        x_t, before = step(x_t, D, t, t - 1, schedule), x_0
    if callback is not None:
        callback(0, x_t, x_t)
    return x_t


def sample_3m(
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
    r"""DPM-Solver++(3M): walk from ``x_T`` (n, ...) at the schedule's last level to $x_0$.

    Arguments as those of `ddim.sample`; nothing is drawn from ``rng``, which may be None. The first step and the last are
    of first order, the second step is of second.
    """
    lam = log_snr(schedule)
    heard: list[Any] = []  # the last three guesses, newest first
    at: list[float] = []  # and their lambdas: guesses at -infinity drop out of every difference
    x_t = x_T
    for t in range(schedule.T, 0, -1):
        x_0 = predict(model, x_t, t, schedule, cond=cond, kind=kind, clip=clip).x_0
        if callback is not None:
            callback(t, x_t, x_0)
        heard, at = [x_0, *heard[:2]], [float(lam[t]), *at[:2]]
        D = parabola_3m(heard, at, float(lam[t - 1] - lam[t])) if t > 1 else x_0
        x_t = step(x_t, D, t, t - 1, schedule)
    if callback is not None:
        callback(0, x_t, x_t)
    return x_t


def sample_2s(
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
    r"""DPM-Solver++(2S), algorithm 1: walk from ``x_T`` (n, ...) at the last level to $x_0$, two levels per step.

    Arguments as those of `ddim.sample`; nothing is drawn from ``rng``, which may be None. ``callback`` also sees the
    states in between, which are of first order.
    """
    lam = log_snr(schedule)
    x_t, start = x_T, None  # (level, state, guess) from which a step of two levels starts
    for t in range(schedule.T, 0, -1):
        x_0 = predict(model, x_t, t, schedule, cond=cond, kind=kind, clip=clip).x_0
        if callback is not None:
            callback(t, x_t, x_0)
        if start is not None:  # t is the level in between
            top, x_top, x_0_top = start
            r = float((lam[t] - lam[top]) / (lam[t - 1] - lam[top]))
            x_t, start = step(x_top, line_2s(x_0_top, x_0, r), top, t - 1, schedule), None
            continue
        if t % 2 == 1 and t > 2 and np.isfinite(lam[t]):
            start = (t, x_t, x_0)
        x_t = step(x_t, x_0, t, t - 1, schedule)
    if callback is not None:
        callback(0, x_t, x_t)
    return x_t
