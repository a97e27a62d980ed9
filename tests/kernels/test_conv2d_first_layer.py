"""The convolution of 1 to 4 channels, emulated: the definition's values, no findings, and each mistake found."""

import numpy as np
import pytest
from convolutions import Convolution
from emulation import Mistaken, emulated, only, products
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import needs_compiler

from kernels.conv2d import cuda, cuda_wgmma
from kernels.emulator import Emulator

# kernel and channels are compiled in: a few of them, one for each number of channels of a thread and more
PLACES = [((3, 3), 3), ((3, 3), 1), ((5, 4), 3), ((7, 7), 2)]


def first_layer(device, c, **more):
    """Run it; other kernels are not taken."""
    return cuda.conv2d(only(device, cuda_wgmma.FIRST_LAYER), c.x, c.w, c.b, **c.how(), **more)


@needs_compiler
@pytest.mark.parametrize("kernel, c_in", PLACES)
@settings(max_examples=8)
@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
    c_out=st.sampled_from([1, 3, 20, 64, 67]),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 2**32 - 1),
)
def test_few_channels(kernel, c_in, n, size, c_out, stride, padding, seed):
    c = Convolution(n, size, (c_in, c_out), kernel, stride, padding, seed).on(4)
    c.b = c.b if seed % 2 else None
    emulated(lambda device: first_layer(device, c), seed, [c.y()])


@needs_compiler
@pytest.mark.parametrize("kernel, c_in", [((3, 3), 4), ((1, 37), 1), ((5, 4), 4), ((9, 9), 1), ((5, 10), 3)])
def test_depths_where_the_channels_of_a_thread_change(kernel, c_in):
    """36 and 37, 80 and 81, and 150, the most."""
    c = Convolution(1, kernel, (c_in, 70), kernel, (1, 1), (0, 0), 0).on(4)
    emulated(lambda device: first_layer(device, c), 0, [c.y()])


@needs_compiler
@pytest.mark.parametrize("kernel, c_in", [((1, 151), 1), ((1, 1), 5)])
def test_more_places_or_channels_are_left_to_rung_3(kernel, c_in):
    c, device = Convolution(1, kernel, (c_in, 8), kernel, (1, 1), (0, 0), 0).on(4), Emulator()
    device.expect(cuda.conv2d(device, c.x, c.w, c.b, **c.how()), *c.y())
    device.check()
    assert products(device) == [cuda.RUNGS[3]]


@needs_compiler
@pytest.mark.parametrize("fused", ["time, silu", "time, residual, silu"])
def test_what_follows(fused):
    c = Convolution(2, (9, 8), (3, 20), (3, 3), (1, 1), (1, 1), 0).on(4)
    c.residual = c.residual if "residual" in fused else None
    more = {"time": c.time, "residual": c.residual, "silu": True}
    emulated(lambda device: first_layer(device, c, **more), 0, [c.finished(True)])


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["x", "w"])
def test_nan_and_inf_come_out_where_the_definition_has_them(value, which):
    c = Convolution(1, (7, 7), (3, 4), (3, 3), (1, 1), (1, 1), 0).on(4)
    getattr(c, which).flat[-1] = value
    emulated(lambda device: first_layer(device, c), 0, [c.y()])


PLANTED = [
    ("    __syncthreads();  // the patches are there\n", "", "race"),
    ("row >= 0 && row < height", "row < height", "out of range"),
    ("        if (pixel >= pixels) return;\n", "", "out of range"),
    ("mine, mine < pixels", "mine, true", "out of range"),
    ("            if (first_o < c_out)\n", "", "race"),
    ("#pragma unroll\n    for (int r = DEPTH; r < 4 * FOURS; r++) *patch++ = 0;\n", "", "uninitialised"),
    ("(long long)r * c_out + o", "(long long)o * DEPTH + r", "wrong value"),
]


@needs_compiler
@pytest.mark.parametrize("old, new, kind", PLANTED)
def test_a_mistake_is_found(old, new, kind):
    c = Convolution(3, (11, 9), (3, 20), (3, 3), (2, 1), (1, 1), 2).on(4)
    device = Mistaken(cuda.HERE / cuda_wgmma.FIRST_LAYER, old, new)
    device.expect(first_layer(device, c), *c.y())
    assert kind in {f.kind for f in device.findings}
