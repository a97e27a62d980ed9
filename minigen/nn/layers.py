r"""Layers with one operation each. Images are (n, h, w, c); ``rng`` draws the initial weights."""

from collections.abc import Callable
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module

from . import init
from .module import Module, parameter


class Linear(Module):
    r"""$y = x W + b$ over the last axis; ``w`` is (c_in, c_out)."""

    def __init__(self, c_in: int, c_out: int, *, bias: bool = True, initial: Callable[..., Any] = init.lecun, rng: Any):
        self.w = parameter(initial((c_in, c_out), rng))
        self.b = parameter(np.zeros(c_out)) if bias else None

    def forward(self, x: Any) -> Any:
        """(..., c_in) -> (..., c_out)."""
        return ag.linear(x, self.w, self.b)


class Conv2d(Module):
    r"""Convolution, ``w`` is (k, k, c_in, c_out); ``padding`` defaults to $\lfloor (k - 1) / 2 \rfloor$, with
    which an odd kernel keeps the size at stride 1.

    ``kernel`` and ``padding`` may be pairs: (rows, columns).
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        bias: bool = True,
        initial: Callable[..., Any] = init.lecun,
        rng: Any,
    ):
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.w = parameter(initial((high, wide, c_in, c_out), rng))
        self.b = parameter(np.zeros(c_out)) if bias else None
        self.stride = stride
        self.padding = ((high - 1) // 2, (wide - 1) // 2) if padding is None else padding

    def forward(self, x: Any, time: Any = None, residual: Any = None) -> Any:
        """(n, h, w, c_in) -> (n, h', w', c_out), with ``time`` (n, c_out) and ``residual`` (n, h', w', c_out) added."""
        how = {"stride": self.stride, "padding": self.padding}
        return ag.conv2d(x, self.w, self.b, time=time, residual=residual, **how)


class ConvTranspose2d(Module):
    r"""Transposed convolution, ``w`` is (k, k, c_in, c_out); the defaults (4, stride 2, padding 1) double the size."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 4,
        *,
        stride: int = 2,
        padding: int = 1,
        bias: bool = True,
        initial: Callable[..., Any] = init.lecun,
        rng: Any,
    ):
        self.w = parameter(initial((kernel, kernel, c_in, c_out), rng) * stride)  # each output sees k^2 / s^2 positions
        self.b = parameter(np.zeros(c_out)) if bias else None
        self.stride, self.padding = stride, padding

    def forward(self, x: Any) -> Any:
        """(n, h, w, c_in) -> (n, (h - 1) s - 2p + k, ..., c_out)."""
        return ag.conv_transpose2d(x, self.w, self.b, stride=self.stride, padding=self.padding)


class GroupNorm(Module):
    r"""Group norm over each sample's groups of channels, with SiLU after it if asked. Batch size does not matter."""

    def __init__(self, channels: int, groups: int = 8, *, silu: bool = False, eps: float = 1e-5):
        if groups < 1 or channels % groups:
            raise ValueError(f"groups must divide the channels, got {groups} groups for {channels} channels")
        self.gamma, self.beta = parameter(np.ones(channels)), parameter(np.zeros(channels))
        self.groups, self.silu, self.eps = groups, silu, eps

    def forward(self, x: Any, scale: Any = None, shift: Any = None) -> Any:
        r"""$y = (1 + s)\,(\gamma \hat x + \beta) + t$ with ``scale`` $s$ and ``shift`` $t$ (n, c), each 0 if left out:
        adaptive group norm.
        """
        gamma, beta = self.gamma, self.beta
        if scale is not None:
            gamma, beta = gamma * (1 + scale), beta * (1 + scale)
        if shift is not None:
            beta = beta + shift
        return ag.group_norm(x, gamma, beta, self.groups, eps=self.eps, silu=self.silu)


class LayerNorm(Module):
    """Layer norm over the last axis."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        self.gamma, self.beta, self.eps = parameter(np.ones(channels)), parameter(np.zeros(channels)), eps

    def forward(self, x: Any) -> Any:
        """(..., c) -> (..., c)."""
        return ag.layer_norm(x, self.gamma, self.beta, eps=self.eps)


class BatchNorm(Module):
    r"""Batch norm (Ioffe & Szegedy 2015, 1502.03167): statistics over all axes but the last.

    Training uses the batch's and updates ``running_mean`` and ``running_var`` (the unbiased variance) with weight
    ``momentum`` for the new batch; evaluation uses the running ones. Raises ValueError for a batch with one value per
    channel.
    """

    BUFFERS = ("running_mean", "running_var")

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5):
        self.gamma, self.beta = parameter(np.ones(channels)), parameter(np.zeros(channels))
        self.running_mean, self.running_var = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        self.momentum, self.eps = momentum, eps

    def forward(self, x: Any) -> Any:
        """(..., c) -> (..., c)."""
        if not self.training:
            return (x - self.running_mean) * (self.gamma / np.sqrt(self.running_var + self.eps)) + self.beta
        axes = tuple(range(x.ndim - 1))
        n = x.size // x.shape[-1]
        if n < 2:
            raise ValueError("batch norm needs at least two values per channel while training, got a batch of one")
        mean = ag.mean(x, axes)
        centred = x - mean
        var = ag.mean(centred * centred, axes)
        for running, batch in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
            running += self.momentum * (ag.raw(batch) - running)
        return centred / ag.sqrt(var + self.eps) * self.gamma + self.beta


class Embedding(Module):
    """A table of ``rows`` vectors; integers in, vectors out."""

    def __init__(self, rows: int, channels: int, *, std: float = 1.0, rng: Any):
        self.table = parameter(init.normal((rows, channels), std, rng))

    def forward(self, indices: Any) -> Any:
        """Integers of any shape (...), on any device -> (..., c)."""
        return ag.embedding(self.table, array_module(self.table.data).asarray(ag.raw(indices)))


class Dropout(Module):
    r"""$y = x\,k / (1 - p)$, $k \sim \mathrm{Bernoulli}(1 - p)$ (Srivastava et al. 2014). Without ``rng``: the identity."""

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, x: Any, rng: Any = None) -> Any:
        """The mask is drawn from ``rng``; evaluation passes no ``rng``."""
        if rng is None or self.p == 0:
            return x
        kept = array_module(ag.raw(x)).asarray(rng.random(x.shape) >= self.p)
        return ag.dropout(x, kept, self.p)


class Sequential(Module):
    """Layers (or plain functions) one after the other."""

    def __init__(self, *layers: Any):
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        """Through all of them."""
        for layer in self.layers:
            x = layer(x)
        return x


class MLP(Sequential):
    """Linear layers of the given widths with ``activation`` between them (not after the last)."""

    def __init__(self, *widths: int, activation: Callable[[Any], Any] = ag.silu, rng: Any):
        layers: list[Any] = []
        for c_in, c_out in zip(widths, widths[1:]):
            layers += [Linear(c_in, c_out, initial=init.he, rng=rng), activation]
        super().__init__(*layers[:-1])
