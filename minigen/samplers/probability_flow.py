r"""The probability-flow ODE and its exact likelihood. Song et al. 2020, arXiv 2011.13456, section 4.3 and appendix D.2.

A deterministic flow turns pure noise into the noisy pictures of all levels: an ordinary differential equation with the
network on its right-hand side has, at every level, the distribution of $x_t$. A flow can be followed backwards, so
every picture has one code $x_T$, and its density is that of the code, $N(0, I)$, times the flow's change of volume,
whose logarithm is the integral of a divergence. The likelihood is exact for the model, not a bound.

| symbol | code | meaning |
|---|---|---|
| $\varphi_t$ | ``angle`` | $\cos\varphi_t = \sqrt{\bar\alpha_t}$, $\sin\varphi_t = \sqrt{1 - \bar\alpha_t}$: $x_t = \cos\varphi\, x_0 + \sin\varphi\, \epsilon$ |
| $\sigma_t$ | ``schedule.sigma`` | $\tan\varphi_t$ |
| $y_t$ | | $x_t / \sqrt{\bar\alpha_t} = x_0 + \sigma_t\, \epsilon$ |
| $v$ | ``velocity`` | $\cos\varphi\, \hat\epsilon - \sin\varphi\, \hat x_0$ (`maths/parametrisation.py`) |

$$dx = \Big[ f(x, t) - \tfrac12 g(t)^2\, \nabla_x \ln p_t(x) \Big] dt \quad (13) \qquad \frac{d \ln p_t(x(t))}{dt} = -\nabla \cdot \tilde f(x(t), t) \quad (39) \qquad \nabla \cdot \tilde f = \mathbb E_z\, z^\top \frac{\partial \tilde f}{\partial x} z \quad (40)$$

In $y$ and $\sigma$, eq. 13 is $dy / d\sigma = \hat\epsilon$ (Karras et al. 2022, 2206.00364, eq. 4 with $s = 1$); in
$x$ and the angle it is
$$\frac{dx}{d\varphi} = v,$$
the form that is solved here: its right-hand side stays finite from clean data to pure noise, it is 0 for data
$N(0, I)$, and $\ln p$ needs no change of variables on the way. Song's SDE and the chain of DDPM have the same marginals
$q(x_t \mid x_0)$ at the levels; between them $\ln \sigma$ is interpolated along the times that the network is given.

**Where the path ends.** The flow is followed between the levels 1 and T, where the network was trained. Below level 1
nothing is assumed: the density is that of $y_1 = x_0 + \sigma_1 \epsilon$, the data with the noise of the first level,
in the units of the data; it integrates to 1. At $T$ the code's law is taken to be $N(0, I)$, as for sampling. For
pictures of $L$ levels, `bits_per_dim` spreads each grey level evenly over its bin; its mean is an upper bound on the
bits of the model "draw $y_1$, round to the nearest level".

You need: `maths/schedules.py`, `maths/parametrisation.py`. New here: the flow, its divergence.

Claims, checked in tests: $\ln N(x; m, \Sigma + \sigma_1^2 I)$ for Gaussian data, up to the solver's tolerance and what
$x_T$ still knows of the data; the same for mixtures; Hutchinson's trace is unbiased, and exact with unit vectors as
probes. Draws: `bits_per_dim` one of ``random`` of the pictures' shape, then (Hutchinson) one of ``integers`` of
(probes, \*shape).
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from scipy.integrate import solve_ivp

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.maths.parametrisation import check_kind, eps_of, target, x_0_of
from minigen.maths.schedules import Schedule

from .predict import predict

Solver = Literal["RK45", "DOP853"]


def angles(schedule: Schedule) -> Any:
    r"""$\varphi_t = \arctan \sigma_t$ (T + 1,), rising from 0 to at most $\pi / 2$."""
    return np.arctan(schedule.sigma)


def velocity(
    model: Callable[..., Any], x: Any, angle: float, schedule: Schedule, *, cond: Any = None, kind: str = "eps"
) -> Any:
    r"""$v(x, \varphi)$ for ``x`` (n, ...), an array or a Tensor, at any angle from $\varphi_1$ to $\varphi_T$; the
    network is given a fraction between two times.

    Raises FloatingPointError, naming the time, if the model returns NaN or Inf.
    """
    time = float(schedule.times_at(np.tan(angle)))
    level = Schedule([1.0, np.cos(angle) ** 2])
    output = model(x, array_module(ag.raw(x)).full(len(x), time), cond)
    if isinstance(output, tuple):  # a learned variance has no part in the flow
        output = output[0]
    if isinstance(x, ag.Tensor) and not isinstance(output, ag.Tensor):
        raise TypeError("the model must be differentiable: it returned an array for a Tensor")
    if not np.isfinite(ag.raw(output)).all():
        raise FloatingPointError(f"the model returned NaN or Inf at time {time:g}")
    return target("v", x_0_of(output, x, 1, level, kind), eps_of(output, x, 1, level, kind), 1, level)


def with_divergence(field: Callable[[Any], Any], x: Any, probes: Any) -> tuple[Any, Any]:
    r"""The value of ``field`` at ``x`` (n, ...) and $\sum_k z_k^\top \frac{\partial f}{\partial x} z_k$ (n,) over
    ``probes`` $z$ (k, n, ...), or (k, 1, ...).

    One vector-Jacobian product per probe. Samples must not affect each other.
    """
    total = 0.0
    for z in probes:
        with ag.enable_grad():
            at = ag.Tensor(x, requires_grad=True)
            value = field(at)
            z = array_module(x).broadcast_to(z, x.shape).astype(x.dtype)
            (product,) = ag.grad([value], [at], [z])
        total = total + (z * ag.raw(product)).reshape(len(x), -1).sum(1)
    return ag.raw(value), total


def unit_vectors(shape: tuple[int, ...]) -> Any:
    """All probes (d, 1, ...) with a single 1, for samples (n, ...) of ``shape``: their sum in `with_divergence` is the
    trace itself.
    """
    d = int(np.prod(shape[1:]))
    return np.eye(d).reshape(d, 1, *shape[1:])


def rademacher(rng: Any, probes: int, shape: tuple[int, ...]) -> Any:
    """Probes (probes, n, ...) of signs, equally likely, scaled such that the sum in `with_divergence` is the mean over
    the probes.
    """
    return (2.0 * rng.integers(0, 2, (probes, *shape)) - 1) / probes**0.5


def log_likelihood(
    model: Callable[..., Any],
    x_0: Any,
    schedule: Schedule,
    *,
    rng: Any = None,
    divergence: str = "exact",
    probes: int = 1,
    cond: Any = None,
    kind: str = "eps",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: Solver = "RK45",
) -> Any:
    r"""$\ln p_1(y_1 = x_0)$ in nats per sample (n,), float64 (eqs. 39, 40): the density of data with the noise of level
    1, at ``x_0`` (n, ...).

    $$\ln p_1(x_0) = \ln N(x_T; 0, I) + \int_{\varphi_1}^{\varphi_T} \nabla \cdot v\, d\varphi + \tfrac d2 \ln \bar\alpha_1, $$
    $$ x_1 = \sqrt{\bar\alpha_1}\, x_0;$$

    the last term turns the density of $x_1$ into that of $y_1$. ``divergence`` is ``"exact"``, $d$ vector-Jacobian
    products per evaluation, or ``"hutchinson"``, the mean over ``probes`` random signs, drawn once and fixed along the
    path (``rng``). The solver's step sizes serve the whole batch, so a sample's last digits, below ``rtol`` and
    ``atol``, depend on its neighbours. Give the schedule that the network was trained with, all its levels: in the gaps
    of a respaced one the network would be given times that belong to another noise.
    """
    check_kind(kind)
    _check_schedule(schedule)
    if divergence not in ("exact", "hutchinson"):
        raise ValueError(f"divergence must be 'exact' or 'hutchinson', got {divergence!r}")
    if divergence == "hutchinson" and rng is None:
        raise ValueError("divergence 'hutchinson' draws its probes: give it an rng")
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    xp, shape, dtype = array_module(x_0), x_0.shape, x_0.dtype
    z = xp.asarray(unit_vectors(shape) if divergence == "exact" else rademacher(rng, probes, shape), dtype)
    n, d = shape[0], int(np.prod(shape[1:]))

    def right_hand_side(angle: float, state: Any) -> Any:
        x = xp.asarray(state[: n * d].reshape(shape), dtype)
        v, div = with_divergence(lambda x: velocity(model, x, angle, schedule, cond=cond, kind=kind), x, z)
        return np.concatenate([to_numpy(v).ravel(), to_numpy(div)])

    start = np.concatenate([schedule.alpha_bar[1] ** 0.5 * to_numpy(x_0).astype(np.float64).ravel(), np.zeros(n)])
    end = _solve(right_hand_side, angles(schedule)[1], angles(schedule)[-1], start, rtol, atol, method)
    x_T, integral = end[: n * d].reshape(n, d), end[n * d :]
    prior = -0.5 * (x_T**2).sum(1) - 0.5 * d * np.log(2 * np.pi)
    return prior + integral + 0.5 * d * np.log(schedule.alpha_bar[1])


def bits_per_dim(
    model: Callable[..., Any], x_0: Any, schedule: Schedule, levels: int, *, rng: Any, **settings: Any
) -> Any:
    r"""$-\frac{1}{d \ln 2} \Big( \ln p_1(x_0 + u) + d \ln \frac{2}{L - 1} \Big)$ per sample (n,), for pictures of $L$
    ``levels`` in $[-1, 1]$.

    $u$ is uniform over a bin, $\pm \frac{1}{L - 1}$. By Jensen's inequality its mean is at least the bits per dimension
    of the probability of the whole bin (Theis et al. 2015, 1511.01844, section 3.1). ``settings`` go to
    `log_likelihood`.
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    width = 2 / (levels - 1)
    u = array_module(x_0).asarray(rng.random(x_0.shape) - 0.5, x_0.dtype)
    nats = log_likelihood(model, x_0 + width * u, schedule, rng=rng, **settings)
    return -(nats / np.prod(x_0.shape[1:]) + np.log(width)) / np.log(2)


def sample(
    model: Callable[..., Any],
    x_T: Any,
    schedule: Schedule,
    *,
    rng: Any = None,
    clip: Any = None,
    cond: Any = None,
    kind: str = "eps",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: Solver = "RK45",
    callback: Callable[[int, Any, Any], None] | None = None,
) -> Any:
    r"""Follow the flow from ``x_T`` (n, ...) down to level 1, each stretch between levels to the tolerance; returns
    $\hat x_0$ there, like ``x_T``.

    No draws; ``rng`` is there because other samplers have it. All levels of training, as in `log_likelihood`. The
    callback sees every level as in `ancestral.sample`; ``clip`` limits the guess of $x_0$ at the end, and those that
    the callback sees.
    """
    _check_schedule(schedule)
    xp, shape, dtype = array_module(x_T), x_T.shape, x_T.dtype

    def right_hand_side(angle: float, state: Any) -> Any:
        with ag.no_grad():
            x = xp.asarray(state.reshape(shape), dtype)
            return to_numpy(ag.raw(velocity(model, x, angle, schedule, cond=cond, kind=kind))).ravel()

    angle, x_t = angles(schedule), x_T
    for t in range(schedule.T, 0, -1):
        if callback is not None or t == 1:
            x_0 = predict(model, x_t, t, schedule, cond=cond, kind=kind, clip=clip).x_0
        if callback is not None:
            callback(t, x_t, x_0)
        if t > 1:
            state = to_numpy(x_t).astype(np.float64).ravel()
            state = _solve(right_hand_side, angle[t], angle[t - 1], state, rtol, atol, method)
            x_t = xp.asarray(state.reshape(shape), dtype)
    if callback is not None:
        callback(0, x_0, x_0)
    return x_0


def _solve(f: Callable[..., Any], start: float, end: float, state: Any, rtol: float, atol: float, method: str) -> Any:
    solution = solve_ivp(f, (start, end), state, method=method, rtol=rtol, atol=atol)
    if not solution.success:
        raise ArithmeticError(
            f"the flow could not be followed beyond the angle {solution.t[-1]:.4g}: {solution.message}"
        )
    return solution.y[:, -1]


def _check_schedule(schedule: Schedule) -> None:
    if schedule.alpha_bar[-1] == 0:
        raise ValueError("the flow ends at noise with some signal left: alpha_bar[T] must be above 0")
