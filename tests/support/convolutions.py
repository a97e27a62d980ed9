"""Convolutions as problems for the tests of the CUDA rungs: operands, the definition's results, what they may be off."""

import numpy as np
from products import normal, rounded

from kernels.activation.reference import silu as silu_reference
from kernels.compare import bound
from kernels.conv2d import reference as conv_reference


def square(tile):
    """For rung 3, whose tiles are square."""
    return None if tile is None else (64, 64) if tile[0] == 16 else (128, 128)


class Convolution:
    """Random operands, and the definition's results in float64 with the error of a float32 sum in any order."""

    def __init__(self, n, size, channels, kernel, stride, padding, seed):
        rng = np.random.default_rng(seed)
        self.settings = {"stride": stride, "padding": padding}
        self.x, self.w = normal(rng, n, *size, channels[0]), normal(rng, *kernel, *channels)
        out = [(s + 2 * p - k) // t + 1 for s, p, k, t in zip(size, padding, kernel, stride)]
        self.g, self.b = normal(rng, n, *out, channels[1]), normal(rng, channels[1])
        self.time, self.residual = normal(rng, n, channels[1]), normal(rng, *self.g.shape)
        self.rung, self.precision, self.tile = 1, "bf16", None

    def on(self, rung, precision="bf16", tile=None):
        """The same to be computed by a rung."""
        self.rung, self.precision, self.tile = rung, precision, square(tile) if rung == 3 else tile
        return self

    def how(self):
        return {**self.settings, "rung": self.rung, "tile": self.tile, "precision": self.precision}

    def expected(self, function, terms, name, *arrays, **shape):
        near = [rounded(a, self.rung, self.precision) for a in arrays[:2]] + list(arrays[2:])
        wide = [None if a is None else a.astype(np.float64) for a in near]
        finite = [None if a is None else np.where(np.isfinite(a), np.abs(a), 0) for a in wide]
        with np.errstate(all="ignore"):
            want = function(*wide, **shape, **self.settings)
        sizes = function(*finite, **shape, **self.settings)
        return want, bound(terms, sizes, np.float32, 2 if self.rung >= 3 else 1), name  # tensor cores: lib/ptx.cuh

    def y(self):
        terms = self.w[..., 0].size + 1
        return self.expected(conv_reference.conv2d, terms, "y", self.x, self.w, self.b)

    def finished(self, silu):
        """The same with what may follow: time and residual unless they are None, SiLU if ``silu``."""
        want, allowed, name = self.y()
        for more in (None if self.time is None else self.time[:, None, None], self.residual):
            if more is not None:
                want, allowed = want + more, allowed + bound(2, np.abs(want) + np.abs(more), np.float32)
        if silu:  # its slope is at most 1.1; exp is right to 2 units in the last place, and so is what is made of it
            want = silu_reference(want)
            allowed = 1.1 * allowed + bound(4, np.abs(want), np.float32)
        return want, allowed, name

    def dx(self):
        terms = self.w[:, :, 0].size
        return self.expected(conv_reference.conv2d_grad_x, terms, "dx", self.g, self.w, x_shape=self.x.shape)

    def dw(self):
        terms = self.g[..., 0].size
        return self.expected(conv_reference.conv2d_grad_w, terms, "dw", self.x, self.g, w_shape=self.w.shape)
