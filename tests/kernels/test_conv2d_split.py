"""The convolution of float32 numbers and its gradients on bf16 tensor cores, emulated; as test_conv2d_wgmma.py."""

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
from emulation import Counting, Mistaken, emulated, only
from hypothesis import example, settings
from rungs import needs_compiler, plant

from kernels import conv2d
from kernels.conv2d import cuda, cuda_wgmma
from kernels.device import running_on
from kernels.emulator import Emulator
from kernels.launch import Device
from kernels.matmul import cuda as matmul_cuda

FORWARD, GRADIENTS = cuda.FLOAT32_RUNGS[4], cuda.FLOAT32_GRADIENT_RUNGS[4]
LARGEST = np.finfo(np.float32).max

few = settings(max_examples=6)
some = some_convolutions([1, 8, 67], [3, 64, 136])
# Tiles of 128 pixels that begin in the middle of an image's row, and the last of which ends in the next part.
LARGE = {"n": 2, "size": (19, 29), "channels": (9, 8), "kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}


def convolution(n, size, channels, kernel, stride, padding, seed, columns=64):
    return Convolution(n, size, channels, kernel, stride, padding, seed).on(4, "float32", (128, columns))


@needs_compiler
@few
@some
@example(n=2, size=(9, 8), channels=(66, 70), kernel=(3, 2), stride=(1, 1), padding=(1, 1), seed=0)
@example(n=1, size=(1, 130), channels=(8, 5), kernel=(1, 1), stride=(1, 2), padding=(0, 0), seed=2)
@example(**LARGE, seed=3)
def test_the_convolution_and_what_follows(n, size, channels, kernel, stride, padding, seed):
    check_what_follows(convolution(n, size, channels, kernel, stride, padding, seed), seed, FORWARD)


@needs_compiler
@few
@some
@example(n=2, size=(9, 8), channels=(66, 70), kernel=(3, 2), stride=(1, 1), padding=(1, 1), seed=0)
@example(**LARGE, seed=3)
@example(n=1, size=(7, 8), channels=(8, 8), kernel=(2, 1), stride=(3, 3), padding=(0, 0), seed=2)  # phases without taps
def test_the_data_gradient(n, size, channels, kernel, stride, padding, seed):
    check_data_gradient(convolution(n, size, channels, kernel, stride, padding, seed), seed, GRADIENTS)


@needs_compiler
@few
@some
@example(n=2, size=(9, 8), channels=(66, 70), kernel=(3, 2), stride=(1, 1), padding=(1, 1), seed=0)
@example(**LARGE, seed=3)
@example(n=5, size=(16, 5), channels=(64, 8), kernel=(1, 2), stride=(1, 1), padding=(0, 1), seed=1)
def test_the_weight_gradient(n, size, channels, kernel, stride, padding, seed):
    c = convolution(n, size, channels, kernel, stride, padding, seed)
    check_weight_gradient(c, seed, GRADIENTS, None if seed % 3 == 0 else 1 + seed % 3)


@needs_compiler
def test_wider_tiles_and_blocks_that_compute_several(monkeypatch):
    columns = 128
    monkeypatch.setattr(cuda_wgmma, "MULTIPROCESSORS", 2)
    c = convolution(2, (29, 9), (40, columns + 8), (3, 2), (2, 1), (1, 1), 3, columns)
    swapped = convolution(2, (9, 8), (columns + 8, 40), (3, 2), (2, 1), (1, 1), 3, columns)
    emulated(lambda d: cuda.conv2d(only(d, FORWARD), c.x, c.w, c.b, **c.how()), 0, [c.y()])
    check_data_gradient(swapped, 0, GRADIENTS)
    check_weight_gradient(c, 0, GRADIENTS, 1)


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, -np.inf, LARGEST])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_what_is_not_finite_comes_out_where_the_definition_has_it(value, stride):
    """Two images of 25 pixels: the last step of the weight gradient goes on to the next part's first image."""
    for which, at in (("x", 0), ("g", -1), ("w", -1)):  # a pixel, and a tap that lies outside of the image at its edge
        c = convolution(2, (5, 5), (8, 16), (3, 3), stride, (1, 1), 0)
        c.x, c.w, c.g = (np.round(2 * a) / 8 for a in (c.x, c.w, c.g))  # parts that are 0
        getattr(c, which).flat[at] = value
        emulated(c.run, 0, c.all_three())


@needs_compiler
def test_the_gradients_are_the_adjoints_of_the_convolution():
    gradients_are_the_adjoints(24, 7, 4, "float32", (128, 64))


@needs_compiler
def test_a_convolution_of_no_images():
    no_images(8, 8, 4, "float32")


@needs_compiler
def test_what_tma_cannot_take_goes_to_rung_2():
    c = Convolution(2, (11, 10), (8, 8), (3, 3), (9, 9), (1, 1), 0).on(2, "float32")  # a step that the hardware lacks
    device, how = Emulator(), {**c.how(), "rung": 4}
    results = [
        (cuda.conv2d(device, c.x, c.w, c.b, **how), c.y()),
        (cuda.conv2d_grad_x(device, c.g, c.w, c.x.shape, **how), c.dx()),
        (cuda.conv2d_grad_w(device, c.x, c.g, c.w.shape, **how), c.dw()),
    ]
    for result, expected in results:
        device.expect(result, *expected)
    device.check()
    assert {"2_tiled.cu", "2_tiled_gradients.cu"} <= set(device.ran) and FORWARD not in device.ran


# --- which rung -------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("architecture, channels, takes", [
    ("90a", (48, 64), (1, 1, 1)),
    ("90a", (64, 16), (0, 1, 0)),  # a quarter of a tile's columns would be full, or of the rows of the weight gradient
    ("90a", (16, 64), (1, 0, 0)),
    ("90a", (7, 64), (0, 0, 0)),  # and less than half of what is multiplied at a time
    ("80", (64, 64), (0, 0, 0)),
    ("90", (64, 64), (0, 0, 0)),
])  # fmt: skip
def test_large_convolutions_take_it_by_themselves(architecture, channels, takes, monkeypatch):
    monkeypatch.setattr(matmul_cuda, "SPLIT_FROM", 1000)
    c = Convolution(1, (4, 5), channels, (3, 3), (1, 1), (1, 1), 0).on(1)
    with running_on(Counting(architecture)) as device:
        results = [
            (conv2d.conv2d(c.x, c.w, c.b, **c.settings), c.y()),
            (conv2d.conv2d_grad_x(c.g, c.w, c.x.shape, **c.settings), c.dx()),
            (conv2d.conv2d_grad_w(c.x, c.g, c.w.shape, **c.settings), c.dw()),
        ]
    for result, expected in results:
        device.expect(result, *expected)
    device.check()
    kernels = {k.partition(":")[2] for k in device.launched}
    names = ("conv2d", "conv2d_grad_x", "conv2d_grad_w")
    assert [f"{name}_float32" in kernels for name in names] == list(map(bool, takes))
    assert [name in kernels for name in names] == [not t for t in takes]


def test_small_convolutions_stay_on_float32_units():
    device, pixels = Emulator(), 2**29 // (9 * 64 * 64)
    assert [cuda._rung_for(device, "float32", p, 64, 64, (3, 3)) for p in (pixels, pixels + 1)] == [2, 4]


# --- mistakes ---------------------------------------------------------------------------------------------------------

PLANTED = [  # what is computed, what is changed into what, what must be found
    ("y", "left_part(pair) * n_images + n, v, u", "n, v, u", "wrong value"),
    ("y", "right_part(pair) * places + u", "2 * places + u", "wrong value"),
    ("y", "b && o < c_out ? b[o]", "b ? b[o]", "out of range"),
    ("y", "if (all_finite) continue;", "continue;", "wrong value"),
    ("y", "pixel >= pixels || o >= c_out ||", "o >= c_out ||", "out of range"),
    ("y", "x, w, n, i, j, o,", "x, w, n, j, i, o,", "wrong value"),
    ("y", "#define STAGES 6", "#define STAGES 10", "out of range"),
    ("dx", "left_part(pair) * n_images + n, taps_w", "n, taps_w", "wrong value"),
    ("dx", "(right_part(pair) * kernel_h + u)", "(2 * kernel_h + u)", "wrong value"),
    ("dx", "if (all_finite) return;\n#pragma unroll 1\n    for (int e = 0; e < TILE_N / 2; e++) {\n        const long long number",
     "return;\n#pragma unroll 1\n    for (int e = 0; e < TILE_N / 2; e++) {\n        const long long number", "wrong value"),
    ("dx", "if (number >= pixels || c >= c_in) continue;", "if (c >= c_in) continue;", "out of range"),
    ("dw", "left_part(pair) * n_images + n, place", "n, place", "wrong value"),
    ("dw", "right_part(pair));", "2);", "wrong value"),
    ("dw", "if (step == 0) n =", "if (pair == 0 && step == 0) n =", "wrong value"),
    ("dw", "(int)begins + step * STEP", "step * STEP", "wrong value"),
    ("dw", "if (all_finite) return;\n#pragma unroll 1\n    for (int e = 0; e < TILE_N / 2; e++) {\n        const int c",
     "return;\n#pragma unroll 1\n    for (int e = 0; e < TILE_N / 2; e++) {\n        const int c", "wrong value"),
    ("dw", "if (c >= c_in || o >= c_out) continue;\n        float* const at", "float* const at", "race"),
]  # fmt: skip
IN_THE_HEADER = [  # pixel.cuh: of one number as it is defined
    ("dw", "window.top + u", "window.top", "wrong value"),
    ("dw", "pixel < ends; pixel++", "pixel < ends; pixel += 2", "wrong value"),
    (
        "y",
        "row < 0 || row >= height || column < 0 || column >= width;\n            const float* pixel",
        "false;\n            const float* pixel",
        "out of range",
    ),
    ("y", "outside ? 0.0f : pixel[c]", "outside ? 1.0f : pixel[c]", "wrong value"),
]


def with_nan():
    """One that has NaN, Inf, more than one tile and part of each axis, and images that do not end with a step."""
    c = convolution(2, (11, 6), (66, 24), (3, 3), (1, 1), (1, 1), 5)
    c.x[1, 5, 5, 3], c.g[0, 2, 2, 3], c.w[0, 1, 5, 3] = np.inf, -np.inf, np.inf
    c.x[1, 6], c.g[0, 3], c.w[1, 1] = (np.round(a) for a in (c.x[1, 6], c.g[0, 3], c.w[1, 1]))  # some are 0
    c.b, c.time, c.residual = c.b, None, None
    return c


def computed(what, device):
    c = with_nan()
    match what:
        case "y":
            got, want = cuda.conv2d(device, c.x, c.w, c.b, **c.how()), c.y()
        case "dx":
            got, want = cuda.conv2d_grad_x(device, c.g, c.w, c.x.shape, **c.how()), c.dx()
        case "dw":
            got, want = cuda.conv2d_grad_w(device, c.x, c.g, c.w.shape, **c.how(), parts=2), c.dw()
    device.expect(got, want[0], want[1] / 16 + 1e-6, want[2])
    return {f.kind for f in device.findings}


@needs_compiler
@pytest.mark.parametrize(("what", "old", "new", "kind"), PLANTED)
def test_a_mistake_is_found(what, old, new, kind, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_wgmma, "MULTIPROCESSORS", 1)
    plant(monkeypatch, tmp_path, cuda_wgmma, FORWARD if what == "y" else GRADIENTS, old, new)
    assert kind in computed(what, Emulator(3))


@needs_compiler
def test_a_consumer_without_rows_stores_nothing(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda_wgmma, GRADIENTS, "if (r >= blocks_r) return;", "")
    c, device = convolution(1, (5, 5), (8, 16), (3, 3), (1, 1), (1, 1), 0), Emulator(3)  # 9 blocks of rows
    cuda.conv2d_grad_w(device, c.x, c.g, c.w.shape, **c.how())
    assert {f.kind for f in device.findings} & {"race", "out of range"}


@needs_compiler
@pytest.mark.parametrize(("what", "old", "new", "kind"), IN_THE_HEADER)
def test_a_mistake_in_what_is_worked_out_again_is_found(what, old, new, kind):
    file = cuda.HERE / (FORWARD if what == "y" else GRADIENTS)
    assert kind in computed(what, Mistaken(file, old, new, header="conv2d/pixel.cuh"))


@needs_compiler
@pytest.mark.parametrize("what", ["y", "dx", "dw"])
def test_without_a_mistake_nothing_is_found(what):
    assert not computed(what, Emulator(3))


# --- for a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows, c_out, columns", [(65536, 320, 128), (65536, 64, 64), (2048, 640, 128), (512, 320, 64)])
def test_the_tile_that_is_chosen(rows, c_out, columns):
    """Wide tiles, even if the last one is half empty, unless narrow ones keep more multiprocessors busy."""
    assert cuda_wgmma.tile_columns(rows, c_out, cuda_wgmma.SPLIT) == columns


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape", [(3, (17, 13), (70, 136), (3, 3), (1, 1), (1, 1)), (2, (16, 16), (320, 320), (3, 3), (2, 2), (1, 1))]
)
def test_a_gpu_computes_the_same(shape):
    device = Device()
    if device.architecture != "90a":
        pytest.skip("wgmma is Hopper's")
    for columns, value in ((64, 1), (128, np.inf), (128, np.nan)):
        c, xp = convolution(*shape, 0, columns), device.xp
        c.x.flat[3] = value
        x, w, b, g = (xp.asarray(a) for a in (c.x, c.w, c.b, c.g))
        results = [
            (cuda.conv2d(device, x, w, b, **c.how()), c.y()),
            (cuda.conv2d_grad_x(device, g, w, c.x.shape, **c.how()), c.dx()),
            (cuda.conv2d_grad_w(device, x, g, c.w.shape, **c.how()), c.dw()),
        ]
        host = Emulator()
        for result, expected in results:
            host.expect(result.get(), *expected)
        host.check()
