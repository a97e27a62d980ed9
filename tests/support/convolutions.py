"""Convolutions as problems for the tests of the CUDA rungs: operands, the definition's results, what they may be off."""

import numpy as np
from emulation import emulated, only
from hypothesis import given
from hypothesis import strategies as st
from products import normal, rounded

from kernels.activation.reference import silu as silu_reference
from kernels.compare import bound
from kernels.conv2d import cuda
from kernels.conv2d import reference as conv_reference
from kernels.emulator import Emulator


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

    def all_three(self):
        """What to expect of `run`."""
        return [self.y(), self.dx(), self.dw()]

    def run(self, device):
        """y, dx and dw."""
        y = cuda.conv2d(device, self.x, self.w, self.b, **self.how())
        dx = cuda.conv2d_grad_x(device, self.g, self.w, self.x.shape, **self.how())
        return y, dx, cuda.conv2d_grad_w(device, self.x, self.g, self.w.shape, **self.how())


def gradients_are_the_adjoints(c_in, c_out, rung, precision="bf16", tile=None):
    """<conv(x, w), g> = <x, dx> = <w, dw>, with whole numbers: no rounding, so equal to the last bit."""
    c = Convolution(2, (7, 6), (c_in, c_out), (3, 2), (2, 3), (1, 2), 0).on(rung, precision, tile)
    rng = np.random.default_rng(1)
    c.x, c.w, c.g, c.b = (*(rng.integers(-3, 4, a.shape).astype(np.float32) for a in (c.x, c.w, c.g)), None)
    device = Emulator()
    y, dx, dw = c.run(device)
    assert (y * c.g).sum() == (c.x * dx).sum() == (c.w * dw).sum() != 0
    device.check()


def no_images(c_in, c_out, rung, precision="bf16"):
    c, device = Convolution(0, (5, 5), (c_in, c_out), (3, 3), (1, 1), (1, 1), 0).on(rung, precision), Emulator()
    y, dx, dw = c.run(device)
    assert y.shape == (0, 5, 5, c_out) and dx.shape == (0, 5, 5, c_in)
    assert dw.shape == c.w.shape and not dw.any()  # a sum over nothing
    device.check()


# --- rungs 4, with factors in bfloat16 and in three parts ----------------------------------------------------------------


def some_convolutions(c_in, c_out):
    """Draws what a ``Convolution`` is made of, its channels from these."""
    return given(
        n=st.integers(1, 3),
        size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
        channels=st.tuples(st.sampled_from(c_in), st.sampled_from(c_out)),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        seed=st.integers(0, 2**32 - 1),
    )


def check_what_follows(c, seed, file):
    """The convolution, with or without what may follow, by the kernels of this file alone."""
    bias, (time, residual, silu) = seed % 2 == 0, [(0, 0, 0), (1, 0, 1), (1, 1, 1)][seed % 3]
    c.b, c.time, c.residual = c.b if bias else None, c.time if time else None, c.residual if residual else None

    def run(device):
        followed = {"time": c.time, "residual": c.residual, "silu": bool(silu)}
        return cuda.conv2d(only(device, file), c.x, c.w, c.b, **c.how(), **followed)

    emulated(run, seed, [c.finished(silu)])


def check_data_gradient(c, seed, file):
    emulated(lambda d: cuda.conv2d_grad_x(only(d, file), c.g, c.w, c.x.shape, **c.how()), seed, [c.dx()])


def check_weight_gradient(c, seed, file, parts):
    def run(device):
        return cuda.conv2d_grad_w(only(device, file, "add_parts.cu"), c.x, c.g, c.w.shape, **c.how(), parts=parts)

    emulated(run, seed, [c.dw()])
