r"""How a network is told the time: sinusoids of many frequencies, then a small perceptron."""

from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module

from .layers import Linear
from .module import Module


def sinusoidal(t: Any, channels: int, max_period: float = 10_000.0) -> Any:
    r"""$[\cos(t \omega_k), \sin(t \omega_k)]_{k < c/2}$, $\omega_k = P^{-k / (c/2)}$, for ``t`` (n,) of any number
    type: (n, channels) float32.

    Vaswani et al. 2017, section 3.5, with the cosines first; computed in float64. Raises ValueError for an odd
    ``channels`` and where ``t`` is not one time per item.
    """
    if channels < 2 or channels % 2:
        raise ValueError(f"channels must be even and at least 2, got {channels}")
    xp = array_module(t)
    if xp.ndim(t) != 1:
        raise ValueError(f"t must hold one time per item, (n,), got shape {xp.shape(t)}")
    half = channels // 2
    angles = xp.asarray(t, np.float64)[:, None] * xp.exp(-np.log(max_period) * xp.arange(half) / half)  # (n, half)
    return xp.concatenate([xp.cos(angles), xp.sin(angles)], axis=1).astype(np.float32)


class TimeEmbedding(Module):
    r"""$W_2\,\mathrm{silu}(W_1 s(t))$ with sinusoids $s(t)$ of ``c_in`` channels: (n,) -> (n, channels)."""

    def __init__(self, c_in: int, channels: int, *, rng: Any):
        self.c_in = c_in
        self.linear_1 = Linear(c_in, channels, rng=rng)
        self.linear_2 = Linear(channels, channels, rng=rng)

    def forward(self, t: Any, n: int | None = None) -> Any:
        """Times (n,), any number type -> (n, channels); where ``n`` is given, ``t`` may be one time for all of them.

        Raises ValueError for another number of times.
        """
        xp = array_module(self.linear_1.w.data)
        t = xp.asarray(t)
        if n is not None:
            if t.shape not in ((), (1,), (n,)):
                raise ValueError(f"t must be one time or {n}, one a sample, got shape {t.shape}")
            t = xp.broadcast_to(t, (n,))
        s = sinusoidal(t, self.c_in).astype(self.linear_1.w.dtype)
        return self.linear_2(ag.silu(self.linear_1(s)))
