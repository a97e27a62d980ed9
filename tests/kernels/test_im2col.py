"""Copies of windows of images (TMA, im2col), emulated: what they bring, what is refused, what is found."""

import ctypes

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rungs import needs_compiler

from kernels.emulator import Emulator, planted
from kernels.tensor_map import Im2colMap, TensorMap

PLANTED = planted.file_of("planted_windows.cu")

COPY = """#include "lib/ptx90.cuh"
extern "C" __global__ void copy(const __grid_constant__ TensorMap x, float* y, int c, int column, int row, int n, int right,
                                int down) {
    DYNAMIC_SHARED(float, tile);
    __shared__ mbarrier full;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&full, PIXELS * CHANNELS * 4);
        tma_load_windows(tile, &x, &full, c, column, row, n, right, down);
    }
    __syncthreads();
    mbarrier_wait(&full, 0);
    for (int i = threadIdx.x; i < PIXELS * CHANNELS; i += 32) y[i] = tile[i];
}
"""


def copied(folder, map_, first, offset, channel=0):
    """What a copy brings from window ``first`` = (image, i, j) on, at ``offset`` = (down, right)."""
    file = folder / "copy.cu"
    if not file.exists():
        file.write_text(COPY)
    device, (pixels, channels) = Emulator(first[0]), map_.box
    y = device.empty((pixels, channels), np.float32)
    row, column = (s + d * i for s, d, i in zip(map_.start, map_.stride, first[1:]))
    at = {"c": channel, "column": column, "row": row, "n": first[0], "right": offset[1], "down": offset[0]}
    defines = {"PIXELS": pixels, "CHANNELS": channels}
    device.run(file, "copy", 1, 32, {"x": map_, "y": y, **at}, shared_bytes=pixels * channels * 4, defines=defines)
    device.check()
    return y


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("im2col")


@needs_compiler
@settings(max_examples=40)
@given(
    images=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    channels=st.sampled_from([4, 8, 12]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    box=st.sampled_from([(20, 8), (5, 4)]),
    data=st.data(),
)
def test_a_copy_brings_one_place_of_the_windows_that_the_definition_has(
    folder, images, size, channels, kernel, stride, padding, box, data
):
    out = tuple((s + 2 * p - k) // d + 1 for s, p, k, d in zip(size, padding, kernel, stride))
    assume(min(out) >= 1)
    x = np.arange(1, 1 + images * size[0] * size[1] * channels, dtype=np.float32).reshape(images, *size, channels)
    offset = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    first = tuple(data.draw(st.integers(0, many - 1)) for many in (images, *out))
    channel = data.draw(st.sampled_from([0, 4, channels - 4]))
    # The definition: the padded image, the strided windows of it one after the other, their channels from one on.
    around = np.pad(x, ((0, 0), *((p, p) for p in padding), (0, box[1])))
    rows, columns = (o + d * np.arange(many) for o, d, many in zip(offset, stride, out))
    pixels = around[:, rows[:, None], columns].reshape(-1, around.shape[3])
    begin = (first[0] * out[0] + first[1]) * out[1] + first[2]
    want = np.zeros(box, np.float32)
    here = pixels[begin : begin + box[0], channel : channel + box[1]]
    want[: len(here)] = here
    map_ = Im2colMap(x, box, start=(-padding[0], -padding[1]), windows=out, stride=stride)
    np.testing.assert_array_equal(copied(folder, map_, first, offset, channel), want)


@needs_compiler
@pytest.mark.parametrize("padding, first, offset, want", [
    (0, (0, 1, 3), (0, 0), [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]),
    (1, (0, 0, 0), (0, 0), [0, 0, 0, 0, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11]),
    (1, (0, 2, 3), (0, 0), [7, 0, 9, 10, 11, 0, 0, 0, 0, 0, 17, 18, 19, 0, 21, 22]),
])  # fmt: skip
def test_what_a_gpu_is_known_to_bring(folder, padding, first, offset, want):
    """Of two images of 4 x 4 pixels, 1 to 32: what Triton's tutorial 13-conv-im2col prints on hardware."""
    x = np.repeat(np.arange(1, 33, dtype=np.float32), 4).reshape(2, 4, 4, 4)
    map_ = Im2colMap(x, (16, 4), start=(-padding, -padding), windows=(4, 4))
    np.testing.assert_array_equal(copied(folder, map_, first, offset)[:, 0], want)


@needs_compiler
def test_windows_and_tiles_are_not_the_same():
    device, x = Emulator(), np.zeros((2, 4, 4, 4), np.float32)
    device.run(PLANTED, "windows", 1, 64, {"x": TensorMap(x, (1, 4, 4, 4)), "y": np.zeros(64, np.float32)})
    assert [f.kind for f in device.findings] == ["bad operand"]
    assert "a copy of windows by a map of tiles" in str(device.findings[0])


def test_maps_of_windows_that_cannot_be():
    x, size = np.zeros((2, 9, 9, 8), np.float32), {"windows": (9, 9)}
    raw = np.zeros(x.nbytes + 32, np.uint8)
    odd = raw[4 - raw.ctypes.data % 16 :][: x.nbytes].view(np.float32).reshape(x.shape)
    for message, array, box, more in [
        (r"4 axes and a box \(pixels, channels\)", x[0], (4, 4), size),
        ("1 to 1024 pixels and 1 to 256 channels, got", x, (1025, 4), size),
        ("1 to 1024 pixels and 1 to 256 channels, got", x, (4, 260), size),
        ("strides of 1 to 8 and windows", x, (4, 4), {**size, "stride": (9, 1)}),
        ("strides of 1 to 8 and windows", x, (4, 4), {"windows": (9, 0)}),
        ("a contiguous array that is not empty", x[:, ::2], (4, 4), size),
        ("begin at a multiple of 16 bytes", odd, (4, 4), size),
        ("multiples of 16 bytes", x, (4, 3), size),
        ("a swizzle of 128 bytes needs a box of that width, got 16", x, (4, 4), {**size, "swizzle": 128}),
        ("begin and end at most 128 pixels beside the image", x, (4, 4), {**size, "start": (-129, 0)}),
        ("begin and end at most 128 pixels beside the image", x, (4, 4), {"windows": (9, 137)}),
    ]:
        with pytest.raises(ValueError, match=message):
            Im2colMap(array, box, **more)
    Im2colMap(x, (4, 4), start=(-128, -128), windows=(264, 264))


def test_what_the_driver_is_told(monkeypatch):
    """The order of its arguments, each list of axes with the fastest first."""
    told = {}

    class Driver:
        def __getattr__(self, function):
            def answer(*arguments):
                told[function] = [list(a) if isinstance(a, ctypes.Array) else getattr(a, "value", a) for a in arguments]
                return 0

            return answer

    monkeypatch.setattr("kernels.tensor_map.ctypes.CDLL", lambda _: Driver())
    x = np.zeros((2, 9, 11, 64), np.uint16)
    address = x.ctypes.data
    map_ = Im2colMap(x, (128, 64), 128, start=(-1, -2), windows=(5, 3), stride=(2, 4))
    made, tile = map_.encoded(), TensorMap(x, (1, 2, 8, 64), 128).encoded()
    assert made.shape == tile.shape == (1,) and made.nbytes == tile.nbytes == 128
    sizes, strides = [64, 11, 9, 2], [128, 128 * 11, 128 * 11 * 9]
    im2col, tiled = told["cuTensorMapEncodeIm2col"], told["cuTensorMapEncodeTiled"]
    assert im2col[0] % 64 == tiled[0] % 64 == 0
    assert im2col[1:] == [1, 4, address, sizes, strides, [-2, -1], [-4, -1], 64, 128, [1, 4, 2, 1], 0, 3, 2, 0]
    assert tiled[1:] == [1, 4, address, sizes, strides, [64, 8, 2, 1], [1, 1, 1, 1], 0, 3, 2, 0]
    TensorMap(x.reshape(-1, 64), (8, 64), 128).encoded()
    assert told["cuTensorMapEncodeTiled"][2] == 2 and told["cuTensorMapEncodeTiled"][7] == [1, 1]
    for dtype, kind in (("uint8", 0), ("uint16", 1), ("float32", 2), ("float64", 4)):
        TensorMap(np.zeros((2, 16), dtype), (1, 16)).encoded()
        assert told["cuTensorMapEncodeTiled"][1] == kind


def test_what_the_driver_refuses_is_an_error(monkeypatch):
    refuse = type("Driver", (), {"cuTensorMapEncodeTiled": lambda *_: 1})
    monkeypatch.setattr("kernels.tensor_map.ctypes.CDLL", lambda _: refuse())
    with pytest.raises(ValueError, match=r"the driver refuses cuTensorMapEncodeTiled of \(2, 16\) with \(\(16, 1\),\)"):
        TensorMap(np.zeros((2, 16), np.float32), (1, 16)).encoded()
