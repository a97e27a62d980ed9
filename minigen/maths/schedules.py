r"""Noise schedules: how much of the picture is left at time $t$.

A schedule is one array, $\bar\alpha_0 = 1 > \bar\alpha_1 > \dots > \bar\alpha_T \ge 0$ in float64, and everything else
follows from it. Arrays have $T + 1$ entries so that indices are the papers': ``beta[t]``, $t = 1 \dots T$; clean data
is $t = 0$, with ``beta[0] = 0`` and ``alpha_bar[0] = 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from kernels.backend import to_numpy


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
    | $\sigma_t$ | ``sigma`` | $\sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$, the noise of $x_t / \sqrt{\bar\alpha_t}$ (Karras et al. 2022) |

    ``times[i]`` is the time that the network is given at level $i$: $i$ itself, or, after `respaced`, the time that the
    level had in the schedule the network was trained with; after `at_sigmas`, a fraction between two such times.

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
        times = np.arange(a.size) if self.times is None else np.array(self.times)
        if times.shape != a.shape:
            raise ValueError(f"times must have the shape of alpha_bar, {a.shape}, got {times.shape}")
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
        r"""$1 - \bar\alpha_t$, the variance of the noise, as a divisor: 1 instead of 0 at $t = 0$."""
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

    @cached_property
    def sigma(self) -> Any:
        r"""$\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$: 0 at t = 0, infinite where no signal is left."""
        with np.errstate(divide="ignore"):
            return ((1 - self.alpha_bar) / self.alpha_bar) ** 0.5

    def alpha_bar_at(self, times: Any) -> Any:
        r"""$\bar\alpha$ at the times that a network is given, (n,) -> (n,): between two of ``times``, $\ln\sigma$ is
        interpolated.
        """
        times = np.asarray(times)
        level = np.searchsorted(self.times, times).clip(0, self.T)
        exact = self.times[level] == times
        between = times[~exact]
        if not between.size:
            return self.alpha_bar[level]
        if not (between.min() >= self.times[1] and between.max() <= self.times[-1]):
            raise ValueError(f"times between levels must be within {self.times[1]} to {self.times[-1]}, got {between}")
        alpha_bar = self.alpha_bar[level]
        sigma = np.exp(np.interp(between, self.times[1:], np.log(self.sigma[1:])))
        alpha_bar[~exact] = 1 / (1 + sigma**2)
        return alpha_bar

    def times_at(self, sigmas: Any) -> Any:
        r"""The times whose noise in $x_t / \sqrt{\bar\alpha_t}$ is ``sigmas``, fractions between levels: the inverse of
        `alpha_bar_at`.

        Below the noise of the first level it is the first level's time, above that of the last level the last one's.
        """
        return np.interp(np.log(sigmas), np.log(self.sigma[1:]), self.times[1:])

    def told(self, times: Any) -> "tuple[Schedule, Any]":
        r"""A schedule whose levels are the ``times`` (n,) given to a network, fractions or not; and the level of each (n,).

        With it, a function that knows times but no levels can use the formulas of `diffusion` and `parametrisation`.
        """
        times = to_numpy(times)
        known = np.unique(np.append(self.times[0], times))
        return Schedule(self.alpha_bar_at(known), known), np.searchsorted(known, times)

    def up_to(self, level: int) -> "Schedule":
        """The levels 0 to ``level``; ValueError unless ``level`` is from 1 to T."""
        if not 1 <= level <= self.T:
            raise ValueError(f"level must be from 1 to {self.T}, got {level}")
        return Schedule(self.alpha_bar[: level + 1], self.times[: level + 1])

    def at_sigmas(self, sigmas: Any) -> "Schedule":
        r"""The schedule whose levels have the noise $0 < \sigma_1 < \dots < \sigma_S$ in $x_t / \sqrt{\bar\alpha_t}$;
        times are interpolated in $\ln\sigma$.

        Raises ValueError for a noise below that of the first level or above that of the last.
        """
        sigmas = np.asarray(sigmas, np.float64)
        low, high = self.sigma[1], self.sigma[-1]
        edge = 1e-9  # for rounding
        if (
            sigmas.ndim != 1
            or not sigmas.size
            or not low * (1 - edge) <= sigmas[0]
            or not sigmas[-1] <= high * (1 + edge)
        ):
            raise ValueError(f"sigmas must lie within {low:.4g} and {high:.4g}, got {sigmas}")
        times = np.concatenate([self.times[:1], self.times_at(sigmas)])
        return Schedule(np.concatenate([[1.0], 1 / (1 + sigmas**2)]), times)

    def respaced(self, times: Sequence[int] | Any) -> "Schedule":
        r"""The schedule that visits only ``times``, $1 \le \tau_1 < \dots < \tau_S \le T$ (Nichol & Dhariwal 2021, eq. 19).

        Its $\bar\alpha_i$ is $\bar\alpha_{\tau_i}$, so $\beta_i = 1 - \bar\alpha_{\tau_i} / \bar\alpha_{\tau_{i-1}}$.
        Raises TypeError for times that are not whole numbers (for those between levels there is `at_sigmas`).
        """
        tau = np.asarray(times)
        if tau.size and tau.dtype.kind not in "iu":
            raise TypeError(f"times must be whole numbers, got {tau.dtype}")
        tau = tau.astype(np.int64)
        if tau.ndim != 1 or tau.size == 0 or tau[0] < 1 or tau[-1] > self.T or np.any(np.diff(tau) < 1):
            raise ValueError(f"times must rise strictly within 1..{self.T}, got {list(times)}")
        keep = np.concatenate([[0], tau])
        return Schedule(self.alpha_bar[keep], self.times[keep])


def uniform_times(T: int, steps: int) -> Any:
    r"""``steps`` times spread evenly over $1 \dots T$, the last one $T$: $\tau_i = \lceil i T / S \rceil$.

    The chain starts at pure noise and its last step is as long as the others ("trailing" spacing, Lin et al. 2023,
    2305.08891, section 3.3, where they are rounded to the nearest); no time repeats. Raises ValueError unless $1 \le S \le T$.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be from 1 to {T}, the length of the schedule, got {steps}")
    return -(-np.arange(1, steps + 1) * T // steps)


def quadratic_times(T: int, steps: int) -> Any:
    r"""``steps`` times, close together where there is little noise: $\tau_i = \lceil T (i / S)^2 \rceil$ (Song et al.
    2020, 2010.02502, appendix D.2, where they are rounded down).

    Times that would repeat are moved up to the next free one. Raises ValueError unless $1 \le S \le T$.
    """
    uniform_times(T, steps)
    i = np.arange(1, steps + 1)
    return np.maximum(np.ceil(T * (i / steps) ** 2 - 1e-9).astype(np.int64), i)


def section_times(T: int, counts: Sequence[int]) -> Any:
    r"""$1 \dots T$ cut into as many equal sections as there are ``counts``, each visited that many times, evenly
    (sections as in the code of Dhariwal & Nichol 2021, the first ones longer by one if they cannot be equal; within a
    section, the times of `uniform_times`).

    The first count is that of the section next to the data. Raises ValueError where a section is shorter than its
    count.
    """
    length, longer = divmod(T, max(1, len(counts)))
    edges = [length * k + min(k, longer) for k in range(len(counts) + 1)]
    if not counts or any(not 1 <= n <= b - a for n, a, b in zip(counts, edges, edges[1:])):
        lengths = np.diff(edges).tolist()
        raise ValueError(f"counts must be from 1 to the lengths of their sections, {lengths}, got {list(counts)}")
    return np.concatenate([a + uniform_times(b - a, n) for n, a, b in zip(counts, edges, edges[1:])])


def karras_sigmas(low: float, high: float, steps: int, rho: float = 7.0) -> Any:
    r"""$\sigma_i = \big(\sigma_{\min}^{1/\rho} + \tfrac{i - 1}{S - 1} (\sigma_{\max}^{1/\rho} - \sigma_{\min}^{1/\rho})\big)^\rho$,
    $i = 1 \dots S$, rising (Karras et al. 2022, 2206.00364, eq. 5).

    One step is $\sigma_{\max}$ alone. Raises ValueError unless $0 < \sigma_{\min} < \sigma_{\max} < \infty$
    and $0 < \rho < \infty$.
    """
    if not 0 < low < high < np.inf:
        raise ValueError(f"sigmas must satisfy 0 < low < high < infinity, got {low} and {high}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < rho < np.inf:
        raise ValueError(f"rho must be a positive number, got {rho}")
    share = np.linspace(0, 1, steps) if steps > 1 else np.ones(1)
    sigmas = (low ** (1 / rho) + share * (high ** (1 / rho) - low ** (1 / rho))) ** rho
    sigmas[-1] = high
    return sigmas


SPACINGS = ("uniform", "quadratic", "karras")


def spaced(schedule: Schedule, steps: int, spacing: str = "uniform") -> Schedule:
    """``schedule`` with ``steps`` of its levels, or of the levels between them: "uniform", "quadratic" or "karras"."""
    if spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {spacing!r}: use one of {', '.join(SPACINGS)}")
    if spacing == "karras":
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if schedule.T < 2:
            raise ValueError(
                "the spacing 'karras' needs a schedule of at least two levels, and this one has 1: take 'uniform'"
            )
        return schedule.at_sigmas(karras_sigmas(schedule.sigma[1], schedule.sigma[-1], steps))
    return schedule.respaced({"uniform": uniform_times, "quadratic": quadratic_times}[spacing](schedule.T, steps))


def _check_steps(T: float) -> None:
    if not (T >= 1 and T % 1 == 0):
        raise ValueError(f"T must be a whole number of steps, at least one, got {T}")


def linear(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
    r"""$\beta_t$ rising linearly from ``beta_1`` to ``beta_T`` (Ho et al. 2020, section 4), given for $T = 1000$.

    Other lengths scale both ends by $1000 / T$, so that $\bar\alpha_T$ is at most about $4 \cdot 10^{-5}$ and the end
    is noise: unscaled, $T = 100$ would leave 36 % of the signal's power. Raises ValueError for $T \le 20$, where
    $\beta_T \ge 1$.
    """
    scale = 1000 / T if T >= 1 else np.inf
    if scale * beta_T >= 1:
        raise ValueError(
            f"the linear schedule needs more than {int(1000 * beta_T)} steps, got {T}: take the cosine schedule"
        )
    _check_steps(T)
    beta = scale * np.linspace(beta_1, beta_T, T)
    return Schedule(np.concatenate([[1.0], np.cumprod(1 - beta)]))


def cosine(T: int, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    r"""$\bar\alpha_t = f(t) / f(0)$, $f(t) = \cos^2\!\big(\frac{t/T + s}{1 + s} \frac\pi2\big)$, with $\beta_t \le$
    ``beta_max`` (Nichol & Dhariwal 2021, 2102.09672, eq. 17).
    """
    _check_steps(T)
    f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    beta = np.minimum(1 - f[1:] / f[:-1], beta_max)
    return Schedule(np.concatenate([[1.0], np.cumprod(1 - beta)]))


def scaled_linear(T: int, beta_1: float = 0.00085, beta_T: float = 0.012) -> Schedule:
    r"""$\sqrt{\beta_t}$ rising linearly, given for $T = 1000$ (Rombach et al. 2022, 2112.10752); other lengths as in `linear`."""
    scale = 1000 / T if T >= 1 else np.inf
    if scale * beta_T >= 1:
        raise ValueError(
            f"the scaled-linear schedule needs more than {int(1000 * beta_T)} steps, got {T}: take the cosine schedule"
        )
    _check_steps(T)
    beta = scale * np.linspace(beta_1**0.5, beta_T**0.5, T) ** 2
    return Schedule(np.concatenate([[1.0], np.cumprod(1 - beta)]))


def sigmoid(T: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    r"""$\bar\alpha_t = \frac{\varsigma(e / \tau) - \varsigma(u_t / \tau)}{\varsigma(e / \tau) - \varsigma(s / \tau)}$,
    $u_t = s + (e - s)\, t / T$, $\varsigma$ the logistic function (Jabri et al. 2022, 2212.11972; Chen 2023, 2301.10972,
    algorithm 1), at $T$ not 0: $\beta_T$ is 0.999, as in `cosine`.

    In the papers time is continuous, and $\bar\alpha$ ends at $10^{-9}$. As the last step of a chain that has
    $\beta_T = 1 - 10^{-6}$, whose term of the bound outweighs all others in the loss of a learned variance.
    """
    _check_steps(T)
    u = expit((start + (end - start) * np.arange(T + 1) / T) / tau)
    alpha_bar = (u[-1] - u) / (u[-1] - u[0])
    alpha_bar[-1] = (1 - 0.999) * alpha_bar[-2]
    return Schedule(alpha_bar)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    r"""$\sqrt{\bar\alpha_t}$ shifted and stretched so that $\bar\alpha_T = 0$ and $\bar\alpha_1$ stays (Lin et al.
    2023, 2305.08891, algorithm 1).

    At the last level nothing is left of the picture, so $\epsilon$ says nothing about it there: predict $x_0$ or $v$.
    Raises ValueError for a schedule of one step, which would have no signal at all.
    """
    root = schedule.alpha_bar**0.5
    if schedule.T < 2:
        raise ValueError("a schedule with zero terminal SNR needs at least 2 steps, got 1")
    moved = (root - root[-1]) * root[1] / (root[1] - root[-1])
    return Schedule(np.concatenate([[1.0], moved[1:] ** 2]), schedule.times)


def shifted(schedule: Schedule, s: float) -> Schedule:
    r"""The same with SNR / $s^2$: an average over $s \times s$ pixels keeps as much signal as one pixel did
    (Hoogeboom, Heek & Salimans 2023, "simple diffusion", 2301.11093, on adjusting the noise schedule).

    Neighbouring pixels are nearly equal. Under a noise schedule made for small pictures, a large one can be recognised
    from its noisy version at nearly all times, and a network has little reason to use its condition. Raises ValueError
    unless s > 0.
    """
    if not 0 < s < np.inf:
        raise ValueError(f"s must be a positive number, got {s}")
    a = schedule.alpha_bar
    return Schedule(a / (a + s**2 * (1 - a)), schedule.times)


def min_snr_weight(t: Any, schedule: Schedule, kind: str = "eps", gamma: float = 5.0) -> Any:
    r"""The weight of $\| y - \hat y \|^2$ that clips the weight of $\| x_0 - \hat x_0 \|^2$ at $\gamma$ (Hang et al.
    2023, 2303.09556, sections 3.4 and 4.2).

    $\min(\mathrm{SNR}_t, \gamma)$ for a network that predicts $x_0$, over $\mathrm{SNR}_t$ for $\epsilon$, over
    $\mathrm{SNR}_t + 1$ for $v$; ``t`` at least 1. Where nothing is left of the picture ($\mathrm{SNR}_t = 0$) they are
    0, 1 and 0.
    """
    snr = schedule.snr[t]
    if kind == "eps":
        return np.minimum(1.0, gamma / np.maximum(snr, 1e-300))
    below = {"x_0": 1.0, "v": snr + 1}
    if kind not in below:
        raise ValueError(f"kind must be 'eps', 'x_0' or 'v', got {kind!r}")
    return np.minimum(snr, gamma) / below[kind]


SCHEDULES = {"linear": linear, "scaled-linear": scaled_linear, "cosine": cosine, "sigmoid": sigmoid}


def make(name: str, T: int) -> Schedule:
    """The schedule of this name with ``T`` steps; ValueError names the known ones."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}: use one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](T)
