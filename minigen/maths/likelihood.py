r"""Probabilities of grey levels: $\ln P(k)$ for levels $k = 0 \dots L - 1$, in nats, element by element.

Inputs are integer levels and a network's outputs (arrays or Tensors); each function is a distribution over all levels,
so $\sum_k P(k) = 1$ whatever the outputs. The Gaussian one is in `gaussian`.
"""

from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module


def bernoulli_log_likelihood(level: Any, logits: Any) -> Any:
    r"""$\ln P(1) = \ln \sigma(\ell)$, $\ln P(0) = \ln \sigma(-\ell)$, from the logits: exact even where a probability
    rounds to 0 or 1.
    """
    ell = ag.raw(logits)
    sign = array_module(ell).asarray(2 * _checked(level, 2).astype(np.int8) - 1, ell.dtype)
    return -ag.softplus(-sign * logits)


def categorical_log_likelihood(level: Any, logits: Any) -> Any:
    r"""$\ln P(k) = \ell_k - \ln \sum_j e^{\ell_j}$: levels (...), logits (..., L) -> (...)."""
    levels = logits.shape[-1]
    level = array_module(ag.raw(logits)).asarray(_checked(level, levels), np.int64)
    return -ag.reshape(ag.cross_entropy(ag.reshape(logits, (-1, levels)), level.reshape(-1)), level.shape)


def discretised_logistic_log_likelihood(
    level: Any, mean: Any, log_scale: Any, levels: int, *, uniform: float = 0.0
) -> Any:
    r"""$P(k) = \sigma(a) - \sigma(b)$, $a, b = (x_k \pm \tfrac{1}{L - 1} - \mu) / s$ (Salimans et al. 2017, 1701.05517, eq. 2).

    Level $k$ sits at $x_k = 2k / (L - 1) - 1$ and owns the bin $x_k \pm \frac{1}{L - 1}$; the first and the last bin
    reach to infinity. No difference of nearly equal numbers is taken: with $w = a - b = \frac{2}{(L - 1) s}$,

    $$\ln P(k) = \ln \sigma(a) + \ln \sigma(-b) + \ln (1 - e^{-w}),$$
    $$1 - e^{-w} = \frac{2 \tanh(w / 2)}{1 + \tanh(w / 2)},$$

    which keeps its digits in the tails. ``uniform`` $\epsilon$ mixes in the uniform distribution,
    $(1 - \epsilon) P(k) + \epsilon / L$, so that no level costs more than $\ln(L / \epsilon)$. Finite for
    $|\ln s| \le 80$ in float32.
    """
    if levels < 2:
        raise ValueError(f"a discretised likelihood needs at least 2 levels, got {levels}")
    if not 0 <= uniform < 1:
        raise ValueError(f"uniform must be in [0, 1), got {uniform}")
    xp, dtype = array_module(ag.raw(mean)), ag.raw(mean).dtype
    level = xp.asarray(_checked(level, levels))
    middle = 2 * level.astype(np.float64) - (levels - 1)
    upper, lower = (xp.asarray((middle + side) / (levels - 1), dtype) for side in (1, -1))  # one number per edge
    inverse = ag.exp(-log_scale)
    log_below = -ag.softplus((mean - upper) * inverse)  # ln sigma(a)
    log_above = -ag.softplus((lower - mean) * inverse)  # ln sigma(-b)
    t = ag.tanh(inverse * (1 / (levels - 1)))
    log_width = ag.log(2 * t) - ag.log1p(t)  # ln(1 - e^-w)
    log_p = ag.where(level == levels - 1, log_above, log_below + ag.where(level == 0, 0.0, log_above + log_width))
    if not uniform:
        return log_p
    floor = float(np.log(uniform / levels))
    return floor + ag.softplus(log_p + (float(np.log1p(-uniform)) - floor))  # ln(e^floor + (1 - uniform) P)


def logistic_mixture_log_likelihood(
    level: Any, logits: Any, mean: Any, log_scale: Any, levels: int, *, uniform: float = 0.0
) -> Any:
    r"""$P(k) = \sum_m \pi_m P_m(k)$, $\pi = \mathrm{softmax}(\ell)$, each $P_m$ a discretised logistic (Salimans et al.
    2017, 1701.05517, eq. 2).

    ``logits`` $\ell$, ``mean`` and ``log_scale`` (..., M) for ``level`` (...), which broadcasts: levels (L,) and (n, 1,
    M) give all of them, (n, L). ``uniform`` is mixed into each part, and so into the whole.
    """
    level = _checked(level, levels)[..., None]
    parts = discretised_logistic_log_likelihood(level, mean, log_scale, levels, uniform=uniform)
    return ag.logsumexp(ag.log_softmax(logits) + parts, -1)


def draw_levels(p: Any, u: Any) -> Any:
    r"""Levels drawn from probabilities ``p`` (..., L) with ``u`` (...) uniform in [0, 1): the number of levels whose
    cumulative $P$ is at most $u$.
    """
    cumulated = np.cumsum(p, axis=-1, dtype=np.float64)[..., :-1]  # the last level takes what rounding leaves
    return (cumulated <= u[..., None]).sum(-1).astype(np.min_scalar_type(p.shape[-1] - 1))


def _checked(level: Any, levels: int) -> Any:
    level = ag.raw(level)
    if level.dtype.kind not in "iu":
        raise TypeError(f"levels must be integers, got {level.dtype}")
    if level.size and not (level.min() >= 0 and level.max() < levels):
        raise ValueError(f"levels must be from 0 to {levels - 1}, got {level.min()} to {level.max()}")
    return level
