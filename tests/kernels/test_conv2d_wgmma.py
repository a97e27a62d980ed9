"""Rung 4 of the convolution and its gradients, emulated: TMA im2col, a ring, wgmma.

As test_cuda_gradients.py does for the others.
"""

import numpy as np
import pytest
from convolutions import (
    Convolution,
    check_data_gradient,
    check_weight_gradient,
    check_what_follows,
    gradients_are_the_adjoints,
    no_images,
    some_convolutions,
)
from emulation import emulated, only
from hypothesis import example, settings
from rungs import needs_compiler

from kernels.conv2d import cuda, cuda_wgmma
from kernels.emulator import Emulator
from kernels.launch import Device
from kernels.matmul import cuda as matmul_cuda

FORWARD, GRADIENTS = cuda.RUNGS[4], cuda.GRADIENT_RUNGS[4]

few = settings(max_examples=12)
some = some_convolutions([8, 64, 72], [8, 64, 136])

# Tiles of 128 pixels that begin in the middle of an image's row.
LARGE = {"n": 2, "size": (19, 29), "channels": (8, 8), "kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}


def convolution(n, size, channels, kernel, stride, padding, seed, columns=64):
    return Convolution(n, size, channels, kernel, stride, padding, seed).on(4, tile=(128, columns))


@needs_compiler
@few
@some
@example(n=2, size=(13, 11), channels=(72, 72), kernel=(3, 3), stride=(1, 1), padding=(1, 1), seed=0)
@example(n=3, size=(9, 9), channels=(8, 3), kernel=(5, 1), stride=(2, 1), padding=(2, 0), seed=1)
@example(n=1, size=(1, 130), channels=(8, 5), kernel=(1, 1), stride=(1, 2), padding=(0, 0), seed=2)
@example(**LARGE, seed=3)
def test_the_convolution_and_what_follows(n, size, channels, kernel, stride, padding, seed):
    check_what_follows(convolution(n, size, channels, kernel, stride, padding, seed), seed, FORWARD)


@needs_compiler
@few
@some
@example(n=2, size=(13, 11), channels=(72, 72), kernel=(3, 3), stride=(1, 1), padding=(1, 1), seed=0)
@example(**LARGE, seed=3)
@example(n=3, size=(9, 9), channels=(5, 16), kernel=(3, 3), stride=(2, 2), padding=(1, 1), seed=1)  # c_in may be odd
@example(
    n=1, size=(7, 8), channels=(8, 8), kernel=(2, 1), stride=(3, 3), padding=(0, 0), seed=2
)  # phases that meet nothing
def test_the_data_gradient(n, size, channels, kernel, stride, padding, seed):
    check_data_gradient(convolution(n, size, channels, kernel, stride, padding, seed), seed, GRADIENTS)


@needs_compiler
@few
@some
@example(n=2, size=(13, 11), channels=(72, 72), kernel=(3, 3), stride=(1, 1), padding=(1, 1), seed=0)
@example(**LARGE, seed=3)
@example(n=5, size=(16, 5), channels=(64, 8), kernel=(1, 3), stride=(1, 1), padding=(0, 1), seed=1)
def test_the_weight_gradient(n, size, channels, kernel, stride, padding, seed):
    c = convolution(n, size, channels, kernel, stride, padding, seed)
    check_weight_gradient(c, seed, GRADIENTS, None if seed % 3 == 0 else 1 + seed % 3)


@needs_compiler
@pytest.mark.parametrize("pixels", [127, 128, 129])
def test_around_the_size_of_a_tile(pixels):
    c = convolution(1, (1, pixels), (8, 64), (1, 3), (1, 1), (0, 1), 0)
    emulated(lambda d: c.run(only(d, FORWARD, GRADIENTS, "add_parts.cu")), 0, c.all_three())


@needs_compiler
@pytest.mark.parametrize("columns", [128, 160, 256])
def test_wider_tiles(columns):
    c = convolution(2, (9, 8), (72, columns + 8), (3, 3), (2, 1), (1, 1), 3, columns)
    swapped = convolution(2, (9, 8), (columns + 8, 72), (3, 3), (2, 1), (1, 1), 3, columns)
    emulated(lambda d: cuda.conv2d(only(d, FORWARD), c.x, c.w, c.b, **c.how()), 0, [c.y()])
    check_data_gradient(swapped, 0, GRADIENTS)
    check_weight_gradient(c, 0, GRADIENTS, 1)


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_nan_and_inf_come_out_where_the_definition_has_them(value, stride):
    for which in ("x", "w", "g"):
        c = convolution(1, (5, 5), (8, 16), (3, 3), stride, (1, 1), 0)
        getattr(c, which).flat[-1] = value  # for w: a tap that lies outside of the image at its edge
        emulated(c.run, 0, c.all_three())


@needs_compiler
def test_the_gradients_are_the_adjoints_of_the_convolution():
    gradients_are_the_adjoints(24, 8, rung=4, tile=(128, 64))


@needs_compiler
def test_a_convolution_of_no_images():
    no_images(8, 8, rung=4)


@needs_compiler
@pytest.mark.parametrize("channels, stride, precision", [
    ((3, 8), (1, 1), "bf16"),  # rows that are no multiple of 16 bytes
    ((8, 5), (1, 1), "bf16"),
    ((8, 8), (9, 9), "bf16"),  # a step that the hardware does not have
    ((8, 8), (1, 1), "tf32"),
])  # fmt: skip
def test_what_tma_cannot_take_goes_to_rung_3(channels, stride, precision):
    c = Convolution(2, (11, 10), channels, (3, 3), stride, (1, 1), 0).on(3, precision)
    device, how = Emulator(), {**c.how(), "rung": 4}
    results = [
        (cuda.conv2d(device, c.x, c.w, c.b, **how), c.y()),
        (cuda.conv2d_grad_x(device, c.g, c.w, c.x.shape, **how), c.dx()),
        (cuda.conv2d_grad_w(device, c.x, c.g, c.w.shape, **how), c.dw()),
    ]
    for result, expected in results:
        device.expect(result, *expected)
    device.check()


@pytest.mark.parametrize("rows, c_out, columns", [
    (65536, 3, 64), (65536, 64, 64), (65536, 128, 128), (65536, 256, 256), (65536, 320, 160), (16384, 640, 128),
    (512, 1280, 64),  # few pixels: narrow tiles for more blocks
])  # fmt: skip
def test_the_tile_that_is_chosen_leaves_few_columns_empty_and_few_multiprocessors_idle(rows, c_out, columns):
    assert cuda_wgmma.tile_columns(rows, c_out, cuda_wgmma.ACROSS) == columns


def test_the_tile_is_the_one_that_was_fastest_on_an_h100():
    """Of 64, 128, 160 and 256 columns, 3x3 windows: the data gradient, and the weight gradient, whose inner axis is cut."""
    assert [cuda_wgmma.tile_columns(r, c, cuda_wgmma.ALONG) for r, c in ((65536, 320), (16384, 640))] == [160, 160]
    for rows, c_out, columns in ((9 * 320, 320, 160), (9 * 640, 640, 128), (9 * 128, 128, 128)):
        assert cuda_wgmma.tile_columns(rows, c_out, cuda_wgmma.ACROSS, cut=True) == columns


@needs_compiler
def test_a_block_computes_one_tile_after_the_other(monkeypatch):
    c = convolution(
        3, (11, 9), (24, 136), (3, 3), (1, 1), (1, 1), 5
    )  # 3 x 3 tiles for 2 blocks, 9 steps in a ring of 4
    monkeypatch.setattr(matmul_cuda, "MULTIPROCESSORS", 1)
    emulated(lambda d: cuda.conv2d(only(d, FORWARD), c.x, c.w, c.b, **c.how()), 0, [c.y()])


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape", [(3, (17, 13), (72, 136), (3, 3), (1, 1), (1, 1)), (2, (16, 16), (320, 320), (3, 3), (2, 2), (1, 1))]
)
def test_a_gpu_computes_the_same(shape):
    device = Device()
    if device.architecture != "90a":
        pytest.skip("wgmma is Hopper's")
    for columns in (64, 128, 160, 256):
        c, xp = convolution(*shape, 0, columns), device.xp
        x, w, b, g = (xp.asarray(a) for a in (c.x, c.w, c.b, c.g))
        results = [
            (cuda.conv2d(device, x, w, b, **c.how()), c.y()),
            (cuda.conv2d_grad_x(device, g, w, c.x.shape, **c.how()), c.dx()),
            (cuda.conv2d_grad_w(device, x, g, c.w.shape, **c.how()), c.dw()),
        ]
        for result, (want, allowed, name) in results:
            assert (np.abs(result.get() - want) <= allowed).all(), name
