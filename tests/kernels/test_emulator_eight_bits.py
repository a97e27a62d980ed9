"""Numbers of 8 bits, <cuda_fp8.h>: every code, and what is rounded to it."""

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels import launch
from kernels.emulator.raw import RawKernel

pytestmark = needs_compiler

KERNEL = """#include <cuda_fp8.h>
extern "C" __global__ void k(const __nv_fp8_KIND* codes, float* numbers, const float* x, __nv_fp8_KIND* y, __nv_fp8_storage_t* open,
                             __nv_fp8x4_KIND* fours, float4* back, unsigned* halves, unsigned* pairs) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < 256) numbers[i] = float(codes[i]);
    y[i] = __nv_fp8_KIND(x[i]);
    open[i] = __nv_cvt_float_to_fp8(x[i], __NV_NOSAT, __NV_NAME);
    if (i % 4) return;
    fours[i / 4] = __nv_fp8x4_KIND(make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]));
    back[i / 4] = float4(fours[i / 4]);
    const __half2_raw two = __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_KIND(make_float2(x[i], x[i + 1])).__x, __NV_NAME);
    halves[i / 4] = two.x | unsigned(two.y) << 16;
    const __nv_fp8x2_storage_t again = __nv_cvt_halfraw2_to_fp8x2(two, __NV_SATFINITE, __NV_NAME);
    const __half2 number = two;
    const __nv_bfloat162_raw of_bfloats = __nv_bfloat162(__nv_bfloat16(float(number.x)), __nv_bfloat16(float(number.y)));
    pairs[i / 4] = again | unsigned(__nv_cvt_bfloat16raw2_to_fp8x2(of_bfloats, __NV_SATFINITE, __NV_NAME)) << 16;
}
"""


def said(kind):
    return KERNEL.replace("KIND", kind).replace("NAME", kind.upper())


@pytest.mark.parametrize("kind, mantissa, bias", [("e4m3", 3, 7), ("e5m2", 2, 15)])
def test_numbers_of_8_bits(kind, mantissa, bias, rng, each_compiler):
    codes = np.arange(256)
    exponent, rest = codes >> mantissa & 2 ** (7 - mantissa) - 1, codes & 2**mantissa - 1
    want = np.where(exponent, 2**mantissa + rest, rest) * 2.0 ** (np.maximum(exponent, 1) - bias - mantissa)
    want *= np.where(codes > 127, -1, 1)
    special = codes & 127 == 127 if kind == "e4m3" else exponent == 31
    want[special] = np.where(rest[special] | (kind == "e4m3"), np.nan, np.copysign(np.inf, want[special]))
    finite = np.isfinite(want[:128])
    steps, most = want[:128][finite], want[:128][finite].max()
    x = (rng.standard_normal(4096) * 2.0 ** rng.integers(-20, 20, 4096)).astype(np.float32)
    x[: len(steps) - 1] = (steps[1:] + steps[:-1]) / 2  # half-way: to the even code
    x[500:506] = 0, -0.0, np.nan, np.inf, -np.inf, most * 1.001
    with np.errstate(invalid="ignore"):
        a = np.abs(x.astype(np.float64))[:, None]
        off = np.abs(np.minimum(a, most) - steps)
    nearest = np.lexsort((np.broadcast_to(np.arange(len(steps)) % 2, off.shape), off), axis=1)[:, 0]
    code = np.where(np.isnan(x), 0x7F, nearest | np.signbit(x) << 7).astype(np.uint8)
    numbers, y, open_, fours = (
        np.zeros(256, np.float32),
        np.zeros(4096, np.uint8),
        np.zeros(4096, np.uint8),
        np.zeros(1024, np.uint32),
    )
    back, halves, pairs = np.zeros((1024, 4), np.float32), np.zeros(1024, np.uint32), np.zeros(1024, np.uint32)
    RawKernel(said(kind), "k")(
        (16,), (256,), (codes.astype(np.uint8), numbers, x, y, open_, fours, back.view("V16"), halves, pairs)
    )
    np.testing.assert_array_equal(numbers, want)
    np.testing.assert_array_equal(y, code)
    np.testing.assert_array_equal(fours.view(np.uint8), code)
    np.testing.assert_array_equal(back.reshape(-1), want[code])
    np.testing.assert_array_equal(halves.view(np.float16).reshape(-1, 2), want[code].reshape(-1, 4)[:, :2])
    of_two = code.reshape(-1, 4)[:, :2].astype(np.uint32)
    finite = np.isfinite(want[of_two]).all(1)
    np.testing.assert_array_equal(pairs[finite], (of_two[:, 0] | of_two[:, 1] << 8)[finite] * 0x10001)
    above = np.abs(x) >= most + (steps[-1] - steps[-2]) / 2 * (1 if kind == "e5m2" else 1.0000001)
    np.testing.assert_array_equal(open_[~above], code[~above])
    np.testing.assert_array_equal(open_[above] & 127, 0x7F if kind == "e4m3" else 0x7C)


@needs_nvrtc
def test_a_gpu_takes_them(tmp_path):
    for kind in ("e4m3", "e5m2"):
        (tmp_path / "k.cu").write_text(said(kind))
        launch.compile_for(tmp_path / "k.cu", "90")
