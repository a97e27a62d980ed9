r"""Noise schedules: how much of the picture is left at time $t$.

A schedule is one array, $\bar\alpha_0 = 1 > \bar\alpha_1 > \dots > \bar\alpha_T \ge 0$ in float64, and everything else
follows from it. Arrays have $T + 1$ entries so that indices are the papers': ``beta[t]``, $t = 1 \dots T$; clean data is
$t = 0$, with ``beta[0] = 0`` and ``alpha_bar[0] = 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Schedule:
    r"""$\bar\alpha$ and what follows from it (Ho et al. 2020, section 2).

    | symbol | here | definition |
    |---|---|---|
    | $\bar\alpha_t$ | ``alpha_bar`` | signal power left at $t$: $q(x_t \mid x_0) = N(\sqrt{\bar\alpha_t}\, x_0, (1 - \bar\alpha_t) I)$ |
    | $\alpha_t$ | ``alpha`` | $\bar\alpha_t / \bar\alpha_{t-1}$ |
    | $\beta_t$ | ``beta`` | $1 - \alpha_t$ |
    | $\tilde\beta_t$ | ``beta_tilde`` | $\frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t$, the variance of $q(x_{t-1} \mid x_t, x_0)$; $\tilde\beta_1 = 0$ |
    | | ``snr`` | $\bar\alpha_t / (1 - \bar\alpha_t)$ |

    ``times[i]`` is the time that the network is told at level $i$: $i$ itself, or, after `respaced`, the time that the
    level had in the schedule the network was trained with.

    Raises ValueError unless $\bar\alpha_0 = 1$ and $\bar\alpha$ falls strictly and stays within [0, 1].
    """

    alpha_bar: Any
    times: Any = None

    def __post_init__(self) -> None:
        a = np.array(self.alpha_bar, np.float64)
        if a.ndim != 1 or a.size < 2:
            raise ValueError(f"alpha_bar must be one axis of at least two values, got shape {a.shape}")
        if a[0] != 1 or not np.all(np.diff(a) < 0) or not a[-1] >= 0:
            raise ValueError("alpha_bar must start at 1, fall strictly and stay at or above 0")
        times = np.arange(a.size) if self.times is None else np.array(self.times, np.int64)
        a.flags.writeable = times.flags.writeable = False
        object.__setattr__(self, "alpha_bar", a)
        object.__setattr__(self, "times", times)

    @property
    def T(self) -> int:
        """The number of noisy levels."""
        return self.alpha_bar.size - 1

    @cached_property
    def alpha(self) -> Any:
        r"""$\alpha_t = \bar\alpha_t / \bar\alpha_{t-1}$, with $\alpha_0 = 1$."""
        return np.concatenate([[1.0], self.alpha_bar[1:] / self.alpha_bar[:-1]])

    @cached_property
    def beta(self) -> Any:
        r"""$\beta_t = 1 - \alpha_t$, with $\beta_0 = 0$."""
        return 1 - self.alpha

    @cached_property
    def alpha_bar_before(self) -> Any:
        r"""$\bar\alpha_{t-1}$, with 1 at $t = 0$, which has nothing before it."""
        return np.concatenate([[1.0], self.alpha_bar[:-1]])

    @cached_property
    def noise(self) -> Any:
        r"""$1 - \bar\alpha_t$, the variance of the noise, for dividing by: 1 instead of 0 at $t = 0$."""
        return np.where(self.alpha_bar < 1, 1 - self.alpha_bar, 1.0)

    @cached_property
    def beta_tilde(self) -> Any:
        r"""$\tilde\beta_t$ (Ho et al. 2020, eq. 7), with $\tilde\beta_0 = \tilde\beta_1 = 0$."""
        return (1 - self.alpha_bar_before) / self.noise * self.beta

    @cached_property
    def snr(self) -> Any:
        """Signal-to-noise ratio; infinite at t = 0."""
        with np.errstate(divide="ignore"):
            return self.alpha_bar / (1 - self.alpha_bar)

    def respaced(self, times: Sequence[int] | Any) -> "Schedule":
        r"""The schedule that visits only ``times``, $1 \le \tau_1 < \dots < \tau_S \le T$ (Nichol & Dhariwal 2021, eq. 19).

        Its $\bar\alpha_i$ is $\bar\alpha_{\tau_i}$, so $\beta_i = 1 - \bar\alpha_{\tau_i} / \bar\alpha_{\tau_{i-1}}$.
        """
        tau = np.asarray(times, np.int64)
        if tau.ndim != 1 or tau.size == 0 or tau[0] < 1 or tau[-1] > self.T or np.any(np.diff(tau) < 1):
            raise ValueError(f"times must rise strictly within 1..{self.T}, got {list(times)}")
        keep = np.concatenate([[0], tau])
        return Schedule(self.alpha_bar[keep], self.times[keep])


def uniform_times(T: int, steps: int) -> Any:
    r"""``steps`` times spread evenly over $1 \dots T$, the last one $T$: $\tau_i = \lceil i T / S \rceil$.

    The chain starts at pure noise and its last step is as long as the others ("trailing" spacing, Lin et al. 2023,
    2305.08891, section 3.3); no time repeats. Raises ValueError unless $1 \le S \le T$.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be from 1 to {T}, the length of the schedule, got {steps}")
    return -(-np.arange(1, steps + 1) * T // steps)


def linear(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
    r"""$\beta_t$ rising linearly from ``beta_1`` to ``beta_T`` (Ho et al. 2020, section 4), given for $T = 1000$.

    Other lengths scale both ends by $1000 / T$, so that $\bar\alpha_T$ stays near $4 \cdot 10^{-5}$ and the end is noise:
    unscaled, $T = 100$ would leave 36 % of the signal's power. Raises ValueError for $T \le 20$, where $\beta_T \ge 1$.
    """
    scale = 1000 / T if T >= 1 else np.inf
    if scale * beta_T >= 1:
        raise ValueError(
            f"the linear schedule needs more than {int(1000 * beta_T)} steps, got {T}: take the cosine schedule"
        )
    beta = scale * np.linspace(beta_1, beta_T, T)
    return Schedule(np.concatenate([[1.0], np.cumprod(1 - beta)]))


def cosine(T: int, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    r"""$\bar\alpha_t = f(t) / f(0)$, $f(t) = \cos^2\!\big(\frac{t/T + s}{1 + s} \frac\pi2\big)$, with $\beta_t \le$ ``beta_max`` (Nichol & Dhariwal 2021, 2102.09672, eq. 17)."""
    if T < 1:
        raise ValueError(f"the schedule needs at least one step, got {T}")
    f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    beta = np.minimum(1 - f[1:] / f[:-1], beta_max)
    return Schedule(np.concatenate([[1.0], np.cumprod(1 - beta)]))


SCHEDULES = {"linear": linear, "cosine": cosine}


def make(name: str, T: int) -> Schedule:
    """The schedule of this name with ``T`` steps; ValueError names the known ones."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}: use one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](T)
