r"""Gaussian identities. Everything in nats, element by element, on arrays or Tensors; plain numbers change no dtype."""

import math
from typing import Any

import numpy as np

import autograd as ag


def log_density(x: Any, mean: Any, log_var: Any) -> Any:
    r"""$\ln N(x; \mu, \sigma^2) = -\tfrac12 \big(\ln 2\pi + \ln\sigma^2 + (x - \mu)^2 / \sigma^2\big)$."""
    d = x - mean
    return -0.5 * (math.log(2 * math.pi) + log_var + d * d * _exp(-log_var))


def kl(mean_1: Any, log_var_1: Any, mean_2: Any, log_var_2: Any) -> Any:
    r"""$\mathrm{KL}(N_1 \| N_2) = \tfrac12 \big(\ln\frac{\sigma_2^2}{\sigma_1^2} - 1 + \frac{\sigma_1^2 + (\mu_1 - \mu_2)^2}{\sigma_2^2}\big)$."""
    d = mean_1 - mean_2
    return 0.5 * (log_var_2 - log_var_1 - 1 + _exp(log_var_1 - log_var_2) + d * d * _exp(-log_var_2))


def _exp(x: Any) -> Any:
    """From a plain number, NumPy would return a float64, which widens float32."""
    return float(np.exp(x)) if isinstance(x, int | float) else ag.exp(x)


def discretised_log_likelihood(x: Any, mean: Any, log_std: Any, levels: int) -> Any:
    r"""$\ln \int_{\delta_-(x)}^{\delta_+(x)} N(u; \mu, \sigma^2)\, du$ (Ho et al. 2020, eq. 13) for ``levels`` grey
    levels in $[-1, 1]$.

    Level $k$ sits at $x = 2k / (L - 1) - 1$ and owns the bin $x \pm \frac{1}{L - 1}$; the bins at $-1$ and $1$ reach to
    infinity, so the probabilities of all levels add up to one. (The paper's $1/255$ is this half-width for $L = 256$;
    the digits have 17 levels, binary images 2.) The difference of two values of $\Phi$ is taken in the tail where both
    are small, and floored at $10^{-300}$ in float64 ($10^{-30}$ in float32) before the logarithm.
    """
    if levels < 2:
        raise ValueError(f"a discretised likelihood needs at least 2 levels, got {levels}")
    half = 1 / (levels - 1)
    inverse = ag.exp(-log_std)
    x = ag.raw(x)
    centred = x - mean
    upper, lower = (centred + half) * inverse, (centred - half) * inverse
    flip = np.where(ag.raw(centred) > 0, -1.0, 1.0).astype(x.dtype)  # integrate on the left of the mean
    top = x > 1 - half
    bottom = x < half - 1
    left, right = ag.where(flip > 0, lower, -upper), ag.where(flip > 0, upper, -lower)
    open_left = np.where(flip > 0, bottom, top)
    open_right = np.where(flip > 0, top, bottom)
    p_right = ag.where(open_right, 1.0, ag.normal_cdf(ag.where(open_right, 0.0, right)))
    p_left = ag.where(open_left, 0.0, ag.normal_cdf(ag.where(open_left, 0.0, left)))
    floor = 1e-300 if x.dtype == np.float64 else 1e-30
    return ag.log(ag.maximum(p_right - p_left, floor))
