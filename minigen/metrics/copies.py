r"""How many nats it takes to encode a picture when a copy of it is known.

A copy $\hat x$ in $[-1, 1]$ becomes a distribution over grey levels: a discretised logistic around it, whose scale
depends on the copy's brightness (most copies of black are black) and is fitted to other pictures than those it is used
for.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer

import autograd as ag
from kernels.backend import Array
from minigen.maths.likelihood import discretised_logistic_log_likelihood

SHADES = 64  # brightnesses with a scale of their own
CANDIDATES = np.linspace(-6, 0, 25)  # log scales to choose from
UNIFORM = 1e-3  # share of the uniform distribution: one odd pixel costs at most ln(levels / 1e-3)


def brightness(x_hat: Float[Array, "*n"]) -> Integer[Array, "*n"]:
    """0 to 63 for -1 to 1."""
    return ((x_hat + 1) * (SHADES / 2)).astype(np.int64).clip(0, SHADES - 1)


def fit_log_scales(
    levels: Integer[Array, "n h w c"], x_hat: Float[Array, "n h w c"], count: int
) -> Float[Array, " shades"]:
    """The log scale for each brightness that gives the pictures' ``levels``, of ``count``, the highest probability.

    A brightness that no pixel has gets the scale that is best for all pixels.
    """
    of = brightness(x_hat).reshape(-1)
    nats = np.stack([np.bincount(of, _nats(levels, x_hat, scale, count).reshape(-1), SHADES) for scale in CANDIDATES])
    nats[:, np.bincount(of, minlength=SHADES) == 0] = nats.sum(axis=1, keepdims=True)
    return CANDIDATES[np.argmin(nats, axis=0)]


def residual_nats(
    levels: Integer[Array, "n h w c"], x_hat: Float[Array, "n h w c"], log_scales: Float[Array, " shades"], count: int
) -> Float[Array, " n"]:
    r"""$-\ln p(x \mid \hat x)$ of pictures of grey levels, the sum over their pixels."""
    return _nats(levels, x_hat, log_scales[brightness(x_hat)], count).sum((1, 2, 3))


def _nats(levels: Any, x_hat: Any, log_scale: Any, count: int) -> Any:
    x_hat = x_hat.astype(np.float64)
    return -ag.raw(discretised_logistic_log_likelihood(levels, x_hat, log_scale, count, uniform=UNIFORM))
