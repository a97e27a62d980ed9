"""Numbers of 16 bits, <cuda_fp16.h> and <cuda_bf16.h>: known answers, roundings, and what is found at whose line."""

import math
from fractions import Fraction

import numpy as np
import pytest
from emulation import write, wrong_answers
from hypothesis import given
from hypothesis import strategies as st
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.emulator import Emulator

pytestmark = needs_compiler

INCLUDES = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"
NAN, INF = float("nan"), float("inf")

# What is called, and the answer. Of both types, where for bfloat16 that word stands for "half".
ANSWERS = {
    "half(1) + half(2u)": 3,
    "half(one) - half(2ll)": -1,
    "half(3.0) * half(2.0f)": 6,
    "half(3) / half(short(-2))": -1.5,
    "-half(one)": -1,
    "+half(one)": 1,
    "float(half(1) == half(1)) + 2 * (half(1) != half(1)) + 4 * (half(1) < half(2)) + 8 * (half(1) >= half(2))": 5,
    "float(half(1) > half(2)) + 2 * (half(1) <= half(1))": 2,
    "float(half(nan) == half(nan)) + 2 * (half(nan) != half(nan)) + 4 * (half(nan) < half(1))": 2,
    "changed(half(one))": 1024,  # each assignment and step
    "changed2(half2(one, 2)).x": 1024,
    "changed2(half2(one, 2)).y": 1024,
    "int(half(2.75f)) + int(half(-2.75f))": 0,
    "unsigned(half(-3))": 0,
    "(unsigned char)(half(300))": 255,
    "(signed char)(half(-300))": -128,
    "char(half(65))": 65,
    "short(half(inf))": 32767,
    "(unsigned short)(half(inf))": 65535,
    "(long long)(half(-inf))": -(2**63),
    "(unsigned long)(half(inf))": 2**64,
    "bool(half(0.0f)) + 2 * bool(half(-0.0f)) + 4 * bool(half(nan)) + 8 * bool(half(0.5f))": 12,
    "half(one) ? 5 : 6": 5,
    "volatiles(half(one))": 3,
    "half(__half_raw{0x4000})": 2,
    "half2(half2_raw{0x4000, 0x4040}).x": 2,
    "__half_raw(half(2)).x": 0x4000,
    "half2_raw(half2(0, 2)).y": 0x4000,
    "__half_as_ushort(half(-2))": 0xC000,
    "__half_as_short(half(-2))": -0x4000,
    "__ushort_as_half(0x4000)": 2,
    "__short_as_half(-0x4000)": -2,
    "sizeof(half) + 10 * sizeof(half2) + 100 * alignof(half) + 1000 * alignof(half2)": 4242,
    "sizeof(half2_raw) + 10 * alignof(half2_raw)": 44,
    # halves of pairs, pairs of halves
    "make_half2(one, 2).y": 2,
    "__halves2half2(one, 2).x": 1,
    "__half2half2(half(7)).y": 7,
    "__low2half(half2(1, 2))": 1,
    "__high2half(half2(1, 2))": 2,
    "__low2half2(half2(1, 2)).y": 1,
    "__high2half2(half2(1, 2)).x": 2,
    "__lows2half2(half2(1, 2), half2(3, 4)).y": 3,
    "__highs2half2(half2(1, 2), half2(3, 4)).x": 2,
    "__lowhigh2highlow(half2(1, 2)).x": 2,
    "__low2float(half2(1, 2))": 1,
    "__high2float(half2(1, 2))": 2,
    "__half22float2(half2(1, 2)).y": 2,
    "__float2half2_rn(0.5f).y": 0.5,
    "__floats2half2_rn(0.5f, 0.25f).y": 0.25,
    "__float22half2_rn(make_float2(0.5f, 0.25f)).x": 0.5,
    # from and to other numbers
    "__half2float(__float2half(0.5f)) + float(__float2half_rn(2.0f))": 2.5,
    "__double2half(0.1) == __float2half(0.1f)": 1,
    "__half2int_rn(half(2.5f)) + 10 * __half2int_rz(half(2.5f)) + 100 * __half2int_ru(half(2.5f))": 322,
    "__half2int_rd(half(-2.5f))": -3,
    "__half2uint_ru(half(0.5f)) + __half2uint_rn(half(-7))": 1,
    "__half2short_rd(half(-0.5f)) + __half2ushort_rz(half(3.5f))": 2,
    "__half2ll_rn(half(nan)) == (long long)(1ull << 63)": 1,
    "__half2ull_rz(half(nan)) == 1ull << 63": 1,
    "__half2int_rn(half(nan)) + __half2short_rn(half(nan)) + __half2char_rz(half(nan))": 0,
    "__half2uchar_rz(half(3.9f)) + __half2char_rz(half(-3.9f))": 0,
    "__int2half_rn(-3 * one) + __uint2half_rz(4u) + __short2half_rd(1) + __ushort2half_ru(1)": 3,
    "__ll2half_rn(-3ll) + __ull2half_rn(4ull)": 1,
    # arithmetic
    "__hadd(half(1), half(2)) + __hadd_rn(half(1), half(2))": 6,
    "__hadd(5 * one, 2)": 3,  # of whole numbers it is something else
    "__hsub(half(1), half(2)) * __hsub_rn(half(1), half(2))": 1,
    "__hmul(half(3), half(2)) + __hmul_rn(half(3), half(2))": 12,
    "__hdiv(half(3), half(2))": 1.5,
    "__hadd_sat(half(1), half(2))": 1,
    "__hsub_sat(half(1), half(2))": 0,
    "__hmul_sat(half(0.5f), half(0.5f))": 0.25,
    "__hadd_sat(half(nan), half(2))": 0,
    "__hfma(half(3), half(2), half(1))": 7,
    "__hfma_sat(half(3), half(2), half(1))": 1,
    "__hfma_relu(half(3), half(-2), half(1))": 0,
    "__hfma_relu(half(nan), half(-2), half(1))": NAN,
    "__hadd2(half2(1, 2), half2(3, 4)).y": 6,
    "__hsub2_rn(half2(1, 2), half2(3, 4)).y": -2,
    "__hmul2_sat(half2(1, 2), half2(3, -4)).x": 1,
    "__h2div(half2(1, 2), half2(3, 4)).y": 0.5,
    "__hfma2(half2(1, 2), half2(3, 4), half2(5, 6)).y": 14,
    "__hfma2_relu(half2(1, 2), half2(3, -4), half2(5, 6)).y": 0,
    "__hcmadd(half2(1, 2), half2(3, 4), half2(10, 20)).x": 5,
    "__hcmadd(half2(1, 2), half2(3, 4), half2(10, 20)).y": 30,
    "__hneg(half(2)) + __hneg2(half2(1, 4)).y + __habs(half(-8)) + __habs2(half2(1, -16)).y": 18,
    "1 / float(__hneg(half(0)))": -INF,
    "__hmax(half(1), half(2)) + __hmin(half(1), half(2))": 3,
    "__hmax(half(nan), half(2)) + __hmin(half(3), half(nan))": 5,
    "__hmax(half(nan), half(nan))": NAN,
    "1 / float(__hmax(half(-0.0f), half(0)))": INF,
    "1 / float(__hmin(half(0), half(-0.0f)))": -INF,
    "__hmax_nan(half(1), half(2))": 2,
    "__hmin_nan(half(1), half(nan))": NAN,
    "__hmax2(half2(1, nan), half2(2, 3)).y + __hmin2(half2(1, nan), half2(2, 3)).x": 4,
    "__hmax2_nan(half2(1, nan), half2(2, 3)).y": NAN,
    # comparisons
    "__heq(half(1), half(1)) + 2 * __hne(half(1), half(1)) + 4 * __hne(half(nan), half(1))": 1,
    "__hequ(half(nan), half(1)) + 2 * __hneu(half(nan), half(1)) + 4 * __hltu(half(1), half(1))": 3,
    "__hlt(half(1), half(2)) + 2 * __hle(half(2), half(1)) + 4 * __hgt(half(2), half(1)) + 8 * __hge(half(1), half(2))": 5,
    "__hleu(half(nan), half(1)) + 2 * __hgtu(half(1), half(1)) + 4 * __hgeu(half(1), half(1))": 5,
    "__hbeq2(half2(1, 2), half2(1, 3)) + 2 * __hble2(half2(1, 2), half2(1, 3)) + 4 * __hbneu2(half2(1, 2), half2(1, nan))": 2,
    "float(__heq2(half2(1, 2), half2(1, 3)).x) + 2 * float(__hlt2(half2(1, 2), half2(1, 3)).y)": 3,
    "__hgeu2(half2(1, 2), half2(1, nan)).y": 1,
    "__hne2(half2(1, 2), half2(1, nan)).y": 0,
    "__heq2_mask(half2(1, 2), half2(1, 3))": 0xFFFF,
    "__hgtu2_mask(half2(1, 2), half2(1, nan))": 0xFFFF0000,
    "half2(1, 2) == half2(1, 2)": 1,
    "half2(1, 2) != half2(1, 2)": 0,
    "(half2(1, 2) < half2(1, 3)) + 2 * (half2(1, 2) <= half2(1, 3))": 2,
    "(half2(1, 4) > half2(0, 3)) + 2 * (half2(1, 2) >= half2(1, 3))": 1,
    "__hisnan(half(nan)) + 2 * __hisnan(half(inf))": 1,
    "float(__hisnan2(half2(1, nan)).y) + 2 * float(__hisnan2(half2(1, nan)).x)": 1,
    "__hisinf(half(inf)) + 10 * __hisinf(half(-inf)) + 100 * __hisinf(half(nan))": -9,
    # functions
    "hsqrt(half(9)) + h2sqrt(half2(4, 16)).y": 7,
    "hrsqrt(half(4)) + h2rsqrt(half2(4, 16)).y": 0.75,
    "hrcp(half(4)) + h2rcp(half2(4, 2)).y": 0.75,
    "hexp(half(0)) + h2exp(half2(4, 0)).y": 2,
    "hexp2(half(3)) + h2exp2(half2(4, -1)).y": 8.5,
    "hexp10(half(2)) + h2exp10(half2(4, 0)).y": 101,
    "hlog(half(1)) + h2log(half2(4, 1)).y": 0,
    "hlog2(half(8)) + h2log2(half2(4, 0.5)).y": 2,
    "hlog10(half(100)) + h2log10(half2(4, 10)).y": 3,
    "hsin(half(0)) + h2sin(half2(4, 0)).y": 0,
    "hcos(half(0)) + h2cos(half2(4, 0)).y": 2,
    "htanh(half(inf)) + h2tanh(half2(4, 0)).y": 1,
    "htanh_approx(half(-inf)) + h2tanh_approx(half2(4, 0)).y": -1,
    "hfloor(half(-1.5f)) + h2floor(half2(4, 1.5f)).y": -1,
    "hceil(half(-1.5f)) + h2ceil(half2(4, 1.5f)).y": 1,
    "htrunc(half(-1.5f)) + h2trunc(half2(4, 1.5f)).y": 0,
    "hrint(half(2.5f)) + h2rint(half2(4, 3.5f)).y": 6,
    "hlog(half(-1))": NAN,
}
OF_EACH = {  # roundings: not of both types
    "half(2049.0f)": 2048,  # to the even one of two
    "half(2051.0f)": 2052,
    "half(2049.0 + 0x1p-40)": 2050,  # which a float would have lost
    "half(65519.9f)": 65504,
    "half(65520)": INF,
    "half(0x1p-25f)": 0,
    "half(0x1.8p-25f)": 2.0**-24,
    "__float2half_rz(65536.0f) + __float2half_ru(0x1p-40f)": 65504,
    "__float2half_ru(0x1p-40f)": 2.0**-24,
    "__float2half_rd(-65510.0f)": -INF,
    "__float2half_rd(0x1p-40f)": 0,
    "__float2half_rd(-0x1p-40f)": -(2.0**-24),
    "__int2half_rz(2051 * one)": 2050,
    "__int2half_ru(2049 * one)": 2050,
    "half(1ll << 62)": INF,
    "__hadd(half(2048), half(1))": 2048,
    "__hadd(half(2048), half(0x1.004p0))": 2050,
    "__hfma(half(0x1.08p0), half(0x1.04p0), half(0x1p-24f))": float.fromhex("0x1.0c4p0"),
    "hsin(half(0.25f))": float(np.float16(math.sin(0.25))),
    "half(bfloat16(3))": 3,
    "bfloat16(half(0x1.014p0))": 1 + 2.0**-7,
    "bfloat16(257.0f)": 256,
    "bfloat16(259)": 260,
    "bfloat16(257.0 + 0x1p-44)": 258,
    "bfloat16((1ll << 62) + (1ll << 54) + one)": float.fromhex("0x1.02p62"),
    "bfloat16((1ull << 63) + (1ull << 55))": float.fromhex("0x1p63"),
    "__ll2bfloat16_rd(-(1ll << 62) - one)": -float.fromhex("0x1.02p62"),
    "__ll2bfloat16_rz((1ll << 62) - one)": float.fromhex("0x1.fep61"),
    "__ull2bfloat16_ru((1ull << 63) + one)": float.fromhex("0x1.02p63"),
    "__float2bfloat16_rz(0x1.fffffep127f)": float.fromhex("0x1.fep127"),
    "__float2bfloat16(0x1.fffffep127f)": INF,
    "__float2bfloat16_ru(1.0f + 0x1p-20f)": 1 + 2.0**-7,
    "bfloat16(0x1p-134)": 0,
    "bfloat16(0x1p-134 + 0x1p-180)": 2.0**-133,
    # the product lies half-way between two numbers, and what is added on which side
    "__hfma(bfloat16(0x1.1p0), bfloat16(0x1.1p0), bfloat16(0x1p-90f))": float.fromhex("0x1.22p0"),
    "__hfma(bfloat16(0x1.1p0), bfloat16(0x1.1p0), bfloat16(-0x1p-90f))": float.fromhex("0x1.2p0"),
    "__hfma(bfloat16(0x1.1p0), bfloat16(-0x1.1p0), bfloat16(0x1p-90f))": -float.fromhex("0x1.2p0"),
    "__hfma(bfloat16(0x1.1p0), bfloat16(0x1.1p0), bfloat16(0.0f))": float.fromhex("0x1.2p0"),
}
BEFORE = """
typedef nv_bfloat16 bfloat16;
typedef nv_bfloat162 bfloat162;
typedef __nv_bfloat16_raw __bfloat16_raw;
typedef __nv_bfloat162_raw bfloat162_raw;
typedef __half2_raw half2_raw;
template <class T>
__device__ T changed(T a) {
    a += 1, a *= 1000, a -= T(1976), a /= T(2);
    a++, ++a, a--, --a;
    T before = a++, after = --a;
    return a = 1010.0f, a = before == after ? a : T(0), a = int(a) + 14, a;
}
template <class T>
__device__ T changed2(T a) {
    T one = T(1, 1), before = a++, after = --a;
    a += one, a *= T(512, 512), a -= T(0, 512), a /= one;
    ++a, a--, a = before == after ? -a : a;
    return -a;
}
template <class T>
__device__ T volatiles(T a) {
    volatile T x;
    x = a + a;
    const T y = x;
    return y + a;
}
"""


def of_bfloat16(call):
    return call.replace("half", "bfloat16").replace("0x4040", "0x4080")


TABLE = {**ANSWERS, **{of_bfloat16(call): answer for call, answer in ANSWERS.items()}, **OF_EACH}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    lines = [f"y[{i}] = double({call});" for i, call in enumerate(TABLE)]
    body = "\n".join(["const float nan = __int_as_float(0x7fffffff), inf = __int_as_float(0x7f800000);", *lines])
    return write(tmp_path_factory.mktemp("answers"), body, "double* y, int one", INCLUDES + BEFORE)


@pytest.mark.usefixtures("each_compiler")
def test_halves_have_the_answers_that_are_known(answers):
    assert wrong_answers(answers, TABLE) == {}


@needs_nvrtc
def test_a_gpus_compiler_knows_them_too(answers):
    launch.compile_for(answers, "90")


# --- roundings, of numbers that nobody has chosen ---------------------------------------------------------------------

OPERATIONS = """
template <class T>
__device__ void all(const T* a, const T* b, const T* c, T* y) {
    const int t = threadIdx.x, n = blockDim.x;
    y[t] = a[t] + b[t];
    y[n + t] = a[t] - b[t];
    y[2 * n + t] = a[t] * b[t];
    y[3 * n + t] = a[t] / b[t];
    y[4 * n + t] = __hfma(a[t], b[t], c[t]);
    y[5 * n + t] = hsqrt(__habs(a[t]));
}
"""
OPERATE = """
    if (which) all((const nv_bfloat16*)a, (const nv_bfloat16*)b, (const nv_bfloat16*)c, (nv_bfloat16*)y);
    else all((const half*)a, (const half*)b, (const half*)c, (half*)y);
"""
EACH_WAY = ("rn", "rz", "rd", "ru")
CONVERT = "const int t = threadIdx.x, n = blockDim.x;\n" + "\n".join(
    f"half_of[{i} * n + t] = __{name}2half_{way}({x}[t]); bfloat16_of[{i} * n + t] = __{name}2bfloat16_{way}({x}[t]);"
    for i, (name, x, way) in enumerate((n, x, w) for n, x in (("float", "f"), ("ll", "w")) for w in EACH_WAY)
)


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    parameters = ", ".join(f"{'const ' * (name < 'y')}unsigned short* {name}" for name in "abcy")
    return write(tmp_path_factory.mktemp("operations"), OPERATE, f"{parameters}, int which", INCLUDES + OPERATIONS)


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    parameters = "const float* f, const long long* w, half* half_of, nv_bfloat16* bfloat16_of"
    return write(tmp_path_factory.mktemp("conversions"), CONVERT, parameters, INCLUDES)


ROUND = {"rn": round, "rz": math.trunc, "rd": math.floor, "ru": math.ceil}  # the first to the even one of two
FORMATS = ((11, -14, 65504.0), (8, -126, float.fromhex("0x1.fep127")))  # digits, the least exponent, the largest number


def rounded(x, digits, least, most, way="rn"):
    """An exact number, rounded to one of so many binary digits."""
    if x == 0:
        return 0.0
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    exponent = max(exponent - (abs(x) < Fraction(2) ** exponent), least)
    last = Fraction(2) ** (exponent + 1 - digits)
    y = ROUND[way](x / last) * last
    if abs(y) > most:
        stays = way == "rz" or way == ("rd" if y > 0 else "ru")
        y = math.copysign(most if stays else INF, y)
    return math.copysign(float(y), x)


def bits(rng, n):
    """Of numbers of all kinds, and of numbers near 1, whose sums are not just one of the two."""
    x = rng.integers(0, 2**16, (3, n), np.uint16)
    near = (rng.integers(0x3F00, 0x4000, (3, n)) | rng.integers(0, 2, (3, n)) << 15).astype(np.uint16)
    x = np.where(rng.random((3, n)) < 0.5, near, x)
    x[:, :8] = rng.choice(np.array([0, 0x8000, 1, 0x7C00, 0xFF80, 0x7FFF, 0x3C00, 0x7BFF, 0x7F7F], np.uint16), (3, 8))
    return x


@given(seed=st.integers(0, 2**32 - 1), which=st.integers(0, 1))
def test_arithmetic_is_rounded_once(operations, seed, which):
    n = 64
    x = bits(np.random.default_rng(seed), n)
    y, device = np.zeros((6, n), np.uint16), Emulator(seed)
    device.run(operations, "k", 1, n, {**dict(zip("abc", x)), "y": y, "which": which})
    device.check()
    with np.errstate(all="ignore"):
        a, b, c, got = (np.float64(bfloat16.from_bits(z) if which else z.view(np.float16)) for z in (*x, y))
        near = np.stack([a + b, a - b, a * b, a / b, a * b + c, np.sqrt(np.abs(a))])  # right for all that is not finite
        if not which:
            f, g = x[0].view(np.float16), x[1].view(np.float16)
            of_numpy = np.stack([f + g, f - g, f * g, f / g, np.sqrt(np.abs(f))])
            np.testing.assert_array_equal(of_numpy, y.view(np.float16)[[0, 1, 2, 3, 5]])
    want = near.copy()
    for i, numbers in enumerate(zip(a, b, c)):
        p, q, r = (Fraction(v) if math.isfinite(v) else None for v in numbers)
        exact = []
        if p is not None and q is not None:
            exact += [(0, p + q), (1, p - q), (2, p * q), *([(3, p / q)] if q else [])]
            exact += [(4, p * q + r)] if r is not None else []
        exact += [(5, Fraction(near[5, i]))] if p is not None else []
        for j, e in exact:
            if e != 0:
                want[j, i] = rounded(e, *FORMATS[which])
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want) & ~np.isnan(want))
    assert (y[np.isnan(want)] == 0x7FFF).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_conversions_are_rounded_once_each_way(conversions, seed):
    n, rng = 32, np.random.default_rng(seed)
    sizes = np.where(rng.random(n) < 0.5, rng.integers(-140, 125, n), rng.integers(-26, 17, n))
    f = (np.where(rng.random(n) < 0.5, rng.integers(1, 2**12, n) / 2**12, rng.standard_normal(n)) * 2.0**sizes).astype(
        "f"
    )
    w = np.where(rng.random(n) < 0.5, rng.integers(-(2**12), 2**12, n) << 50, rng.integers(-(2**62), 2**62, n))
    w = (w >> rng.integers(0, 62, n)) + rng.integers(-1, 2, n)
    of = [np.zeros((8, n), np.float16), np.zeros((8, n), np.uint16)]
    device = Emulator(seed)
    device.run(conversions, "k", 1, n, {"f": f, "w": w, "half_of": of[0], "bfloat16_of": of[1]})
    device.check()
    for got, of_format in zip((of[0], bfloat16.from_bits(of[1])), FORMATS):
        exact = [[Fraction(v) for v in z.tolist()] for z in (f, w)]
        want = [[rounded(v, *of_format, way) for v in z] for z in exact for way in EACH_WAY]
        np.testing.assert_array_equal(got.astype(np.float64), want)


@needs_nvrtc
def test_a_gpus_compiler_takes_them(operations, conversions):
    launch.compile_for(operations, "90")
    launch.compile_for(conversions, "90")
