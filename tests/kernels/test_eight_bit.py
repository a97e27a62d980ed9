"""Eight-bit numbers: the formats by their tables, scales, exact products; the CUDA rungs emulated, bit for bit."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from emulation import Mistaken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import emulated, instructions, kinds, needs_compiler, needs_nvrtc, normal, plant

from kernels import bfloat16
from kernels.compare import assert_close, bound
from kernels.eight_bit import (
    FORMS,
    LARGEST,
    cuda,
    decode,
    dequantize,
    encode,
    linear_int8,
    linear_weight_only,
    numpy_products,
    quantize,
    reference,
)
from kernels.eight_bit.formats import values
from kernels.emulator import Emulator
from kernels.launch import compile_for
from kernels.matmul import cuda as matmul_cuda

COLUMNS = "eight_bit/columns.cuh"
SEEDS = st.integers(0, 2**32 - 1)
FP8 = FORMS[1:]
KINDS = ("normal", "wide", "tiny", "zeros", "nan", "inf")


def matrix(seed, m, n, kind):
    (x,) = normal(seed, (m, n))
    match kind:
        case "wide":
            x = x * np.exp(10 * normal(seed + 1, (m, n))[0])
        case "tiny":
            x = x * np.float32(1e-42)
        case "zeros":
            x[:, ::2] = 0
            x[::2] = 0
        case "nan":
            x[m // 2, n // 2] = np.nan
        case "inf":
            x[m // 2, n // 2] = -np.inf
    return x.astype(np.float32)


# --- the formats ------------------------------------------------------------------------------------------------------


def test_micikevicius_2022_table_1():
    """Largest, smallest normal and smallest number of both formats, and how many patterns are no numbers."""
    for form, largest, code, normal_, smallest, odd in (
        ("e4m3", 448.0, 0x7E, 2.0**-6, 2.0**-9, 2),
        ("e5m2", 57344.0, 0x7B, 2.0**-14, 2.0**-16, 8),
    ):
        table = decode(np.arange(256, dtype=np.uint8), form)
        assert table.dtype == np.float32 and table[code] == largest == LARGEST[form] == np.max(
            table[np.isfinite(table)]
        )
        assert table[1] == smallest and table[8 if form == "e4m3" else 4] == normal_
        assert (~np.isfinite(table)).sum() == odd and np.isnan(table[0x7F]) and np.signbit(table[128])
        np.testing.assert_array_equal(table[128:], -table[:128])
    assert decode(np.uint8([0x7C, 0xFC]), "e5m2").tolist() == [np.inf, -np.inf]


def test_e5m2_is_the_upper_half_of_float16():
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(decode(codes, "e5m2"), (codes.astype(np.uint16) << 8).view(np.float16))


def hard_numbers(form):
    """Every value, every middle between two neighbours, and the floats beside them."""
    table = np.unique(values(form)[np.isfinite(values(form))])
    points = np.concatenate([table, (table[1:] + table[:-1]) / 2]).astype(np.float32)
    beside = [np.nextafter(points, np.float32(d)) for d in (-np.inf, np.inf)]
    more = [np.float32([1e30, -1e30, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -0.0, LARGEST[form] * 1.01])]
    return np.concatenate([points, *beside, *more])


@pytest.mark.parametrize("form", FP8)
def test_the_nearest_pattern_and_ties_to_even(form):
    x = hard_numbers(form)
    code = encode(x, form)
    table = values(form)[:128]
    table = table[np.isfinite(table)]
    for number, got in zip(x, code):
        assert (got >= 128) == (np.signbit(number) and not np.isnan(number))
        if np.isnan(number):
            assert got & 127 == 127
            continue
        distance = np.abs(min(np.abs(np.float64(number)), LARGEST[form]) - table)
        nearest = np.flatnonzero(distance == distance.min())
        assert got & 127 == (nearest[0] if len(nearest) == 1 else next(i for i in nearest if i % 2 == 0))
    every = np.arange(256, dtype=np.uint8)
    there = np.isfinite(decode(every, form))
    np.testing.assert_array_equal(encode(decode(every, form)[there], form), every[there])


# --- scales -----------------------------------------------------------------------------------------------------------


@given(
    m=st.integers(1, 9), n=st.integers(1, 9), axis=st.integers(0, 1), form=st.sampled_from(FORMS),
    kind=st.sampled_from(KINDS[:4]), seed=SEEDS,
)  # fmt: skip
def test_what_comes_back_is_within_half_a_step(m, n, axis, form, kind, seed):
    x = matrix(seed, m, n, kind)
    before = x.copy()
    codes, scale = quantize(x, axis=axis, form=form)
    assert np.array_equal(x, before) and codes.dtype == ("int8" if form == "int8" else "uint8") and scale.dtype == "f4"
    back = dequantize(codes, scale, axis=axis, form=form)
    wide, s = x.astype(np.float64), np.expand_dims(scale.astype(np.float64), 1 - axis)
    if form == "int8":
        step = s + 0 * wide
        assert np.abs(codes.astype(int)).max() <= 127
    else:
        bits, least = {"e4m3": (3, -9), "e5m2": (2, -16)}[form]
        with np.errstate(divide="ignore"):
            octave = np.floor(np.log2(np.abs(wide / s)))
        step = s * np.maximum(2.0 ** (octave - bits), 2.0**least)
    # The ratio and the product are rounded: half a unit each; in the smallest numbers a unit is 1.4e-45.
    slack = 2 * np.abs(wide) * 2.0**-23 + 4 * np.finfo(np.float32).smallest_subnormal
    if scale.min() > 1e-37:  # above, the scale itself is right to 24 bits
        assert (np.abs(back - wide) <= step / 2 + slack).all()
    else:
        assert (np.abs(back - wide) <= np.abs(wide).max() / 2 + slack).all()


def test_known_scales_and_codes():
    x = np.float32([[127, -63.5, 0.5, 1.5], [0, 0, 0, 0], [-254, 1, 3, 5]])
    codes, scale = quantize(x, axis=0)
    assert scale.tolist() == [1, 1, 2] and codes.tolist() == [[127, -64, 0, 2], [0, 0, 0, 0], [-127, 0, 2, 2]]
    codes, scale = quantize(x.T.copy(), axis=1)
    assert scale.tolist() == [1, 1, 2] and codes.T.tolist() == [[127, -64, 0, 2], [0, 0, 0, 0], [-127, 0, 2, 2]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_channel_that_is_not_finite_comes_back_as_nan_alone(form, value):
    (x,) = normal(1, (4, 5))
    x[2, 3] = value
    for axis, where in ((0, np.s_[2]), (1, np.s_[:, 3])):
        back = dequantize(*quantize(x, axis=axis, form=form), axis=axis, form=form)
        assert np.isnan(back[where]).all() and np.isnan(back).sum() == back[where].size


# --- linear layers ----------------------------------------------------------------------------------------------------


def int8s(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.integers(-128, 128, shape).astype(np.int8) for shape in shapes]


@given(m=st.integers(0, 5), k=st.sampled_from([0, 1, 7, 1024, 1025, 3000]), n=st.integers(0, 5), seed=SEEDS)
@example(2, 131_071, 1, 0)
def test_linear_int8_is_exact(m, k, n, seed):
    p, q = int8s(seed, (m, k), (k, n))
    if k == 131_071:
        p[:] = q[:] = -128  # the largest sum there is
    t, s, bias = (np.abs(a) for a in normal(seed, (m,), (n,), (n,)))
    for b in (bias, None):
        got = linear_int8(p, t, q, s, b)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, reference.linear_int8(p, t, q, s, b))
    ones = np.ones(m, "f"), np.ones(n, "f")
    sums = linear_int8(p, ones[0], q, ones[1])
    np.testing.assert_array_equal(sums, (p.astype(np.int64) @ q.astype(np.int64)).astype(np.float32))


@pytest.mark.parametrize("k", [1024, 1200, 1500, 4096])
def test_sums_of_one_sign_are_exact_beyond_float32(k):
    """Odd ones above 2^24, which float32 would round on the way."""
    rng = np.random.default_rng(k)
    p, q = (rng.integers(120, 128, shape).astype(np.int8) for shape in ((5, k), (k, 5)))
    got = linear_int8(-p, np.ones(5, "f"), q, np.ones(5, "f"))
    np.testing.assert_array_equal(got, (-p.astype(np.int64) @ q.astype(np.int64)).astype(np.float32))


@given(m=st.integers(0, 5), k=st.sampled_from([0, 1, 7, 300]), n=st.integers(0, 5), seed=SEEDS)
def test_linear_weight_only(m, k, n, seed):
    x, s, bias = normal(seed, (m, k), (n,), (n,))
    (q,) = int8s(seed, (k, n))
    check_weight_only(linear_weight_only(x, q, s, bias), x, q, s, bias)
    check_weight_only(linear_weight_only(x[:, ::-1], q, s), x[:, ::-1], q, s, None)


def check_weight_only(got, x, q, s, bias):
    wide = x.astype(np.float64)
    size = (np.abs(wide) @ np.abs(q.astype(np.float64))) * np.abs(s) + (0 if bias is None else np.abs(bias))
    want = reference.linear_weight_only(wide, q, s, bias)
    assert got.dtype == np.float32
    assert_close(got, want, bound(x.shape[1] + 2, size, np.float32), "y")


def test_bad_input_is_named():
    x, s = np.ones((2, 3), "f"), np.ones(4, "f")
    q = np.ones((3, 4), np.int8)
    for function, arguments, error, message in [
        (quantize, {"x": x.astype(float), "axis": 0}, TypeError, "x must be float32, got float64"),
        (quantize, {"x": x, "axis": 2}, ValueError, r"axis must be 0 \(a scale for each row\) or 1"),
        (quantize, {"x": x, "axis": 0, "form": "int4"}, ValueError, "form must be one of 'int8', 'e4m3', 'e5m2', got"),
        (
            dequantize,
            {"codes": q, "scale": s, "axis": 1, "form": "e4m3"},
            TypeError,
            "codes must be uint8 for the form",
        ),
        (dequantize, {"codes": q, "scale": s, "axis": 0}, ValueError, r"scale must have shape \(3,\)"),
        (linear_weight_only, {"x": x.T.copy(), "codes": q, "scale": s}, ValueError, "codes must have 2 rows as x has"),
        (linear_weight_only, {"x": x, "codes": q, "scale": s[:3]}, ValueError, r"scale must have shape \(4,\)"),
        (linear_weight_only, {"x": x, "codes": q.astype(int), "scale": s}, TypeError, "codes must be int8"),
        (encode, {"x": x, "form": "int8"}, ValueError, "form must be one of 'e4m3', 'e5m2', got 'int8'"),
    ]:
        with pytest.raises(error, match=message):
            inspect.unwrap(function)(**arguments)
    long = np.zeros((1, 131_072), np.int8)
    with pytest.raises(ValueError, match="a sum of int8 products has at most 131071 terms in 32 bits, got k = 131072"):
        linear_int8(long, s[:1], long.T.copy(), s[:1])
    assert numpy_products.EXACT_32 * 128**2 == 2**24


# --- in CUDA ----------------------------------------------------------------------------------------------------------


@needs_compiler
@settings(max_examples=20)
@given(
    m=st.sampled_from([1, 2, 7, 8, 9, 33, 129]), n=st.sampled_from([1, 3, 31, 32, 33, 40]), axis=st.integers(0, 1),
    form=st.sampled_from(FORMS), kind=st.sampled_from(KINDS), seed=SEEDS,
)  # fmt: skip
def test_quantize_in_cuda_gives_the_same_bits(m, n, axis, form, kind, seed):
    x = matrix(seed, m, n, kind)

    def run(device):
        codes, scale = cuda.quantize(device, x, axis=axis, form=form)
        return codes, scale, cuda.dequantize(device, codes, scale, axis=axis, form=form)

    codes, scale, back = emulated(run, seed)
    want = quantize(x, axis=axis, form=form)
    np.testing.assert_array_equal(scale, want[1])
    sign = 0x80 if form != "int8" else 0  # of NaN, which nobody defines
    nan = np.isnan(dequantize(*want, axis=axis, form=form))
    np.testing.assert_array_equal(np.where(nan, codes | sign, codes), np.where(nan, want[0] | sign, want[0]))
    np.testing.assert_array_equal(back, dequantize(*want, axis=axis, form=form))


@needs_compiler
@pytest.mark.parametrize("form", FP8)
def test_every_pattern_in_cuda(form):
    x = hard_numbers(form)[None]
    scale, every = np.ones(1, "f"), np.arange(256, dtype=np.uint8)[None]

    def run(device):
        codes, back = device.empty(x.shape, "uint8"), device.empty(every.shape, "float32")
        cuda._elementwise(device, "to", form, 0, codes, {"scale": scale, "x": x})
        cuda._elementwise(device, "from", form, 0, every, {"scale": scale, "x": back})
        return codes, back

    codes, back = emulated(run)
    np.testing.assert_array_equal(codes, encode(x, form))
    np.testing.assert_array_equal(back, decode(every, form))


@needs_compiler
@pytest.mark.parametrize("rows", [64, 65, 300])
def test_the_largest_of_a_column_may_lie_in_any_part_of_the_rows(rows):
    (x,) = normal(0, (rows, 33))
    for row in (0, 63, rows - 1):
        marked = x.copy()
        marked[row, 32] = -1e3
        _, scale = emulated(lambda device, x=marked: cuda.quantize(device, x, axis=1))
        assert scale[32] == np.float32(1e3) / np.float32(127)


@needs_compiler
def test_a_scale_too_small_for_float32_is_1_in_cuda():
    x = np.float32([[1e-45, -1e-45]])
    for axis in (0, 1):
        codes, scale = emulated(lambda device, axis=axis: cuda.quantize(device, x, axis=axis))
        assert not codes.any() and (scale == 1).all()


@needs_compiler
def test_nothing_at_all_in_cuda():
    for shape in ((0, 3), (3, 0)):
        x = np.ones(shape, "f")
        for axis in (0, 1):
            codes, scale = emulated(lambda d, x=x, axis=axis: cuda.quantize(d, x, axis=axis))
            assert codes.shape == shape and np.array_equal(scale, quantize(x, axis=axis)[1])


linear_shapes = given(
    m=st.sampled_from([1, 2, 9, 63, 64, 65, 129]), k=st.sampled_from([0, 1, 4, 16, 31, 32, 33, 68, 128, 144, 300]),
    n=st.sampled_from([1, 17, 64, 65, 132]),
    with_bias=st.booleans(), seed=SEEDS,
)  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("rung", cuda.INT8_RUNGS)
@settings(max_examples=10)
@linear_shapes
def test_linear_weight_only_in_cuda(rung, m, k, n, with_bias, seed):
    x, s, bias = normal(seed, (m, k), (n,), (n,))
    (q,), bias = int8s(seed, (k, n)), bias if with_bias else None
    (got,) = emulated(lambda device: cuda.linear_weight_only(device, x, q, s, bias, rung=rung), seed)
    check_weight_only(got, x, q, s, bias)


@needs_compiler
@settings(max_examples=15)
@given(
    m=st.integers(1, cuda.FEW), k=st.sampled_from([1, 7, 128, 129, 300]), n=st.sampled_from([1, 4, 127, 128, 132, 257]),
    with_bias=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_few_rows_have_a_file_of_their_own(m, k, n, with_bias, seed):
    x, s, bias = normal(seed, (m, k), (n,), (n,))
    (q,), bias = int8s(seed, (k, n)), bias if with_bias else None

    def run(device):
        y = cuda.linear_weight_only(device, x, q, s, bias, rung=2)
        assert set(device.ran) == {cuda.FEW_ROWS}
        return y

    (got,) = emulated(run, seed)
    check_weight_only(got, x, q, s, bias)


@needs_compiler
@pytest.mark.parametrize("rung", cuda.INT8_RUNGS)
@settings(max_examples=10)
@linear_shapes
def test_linear_int8_in_cuda_gives_the_same_bits(rung, m, k, n, with_bias, seed):
    p, q = int8s(seed, (m, k), (k, n))
    t, s, bias = normal(seed, (m,), (n,), (n,))
    bias = bias if with_bias else None
    (got,) = emulated(lambda device: cuda.linear_int8(device, p, t, q, s, bias, rung=rung), seed)
    np.testing.assert_array_equal(got, linear_int8(p, t, q, s, bias))


@needs_compiler
@pytest.mark.parametrize("columns", [64, 128, 256])
@pytest.mark.parametrize("rung", [3, 4])
def test_linear_int8_in_tiles_of_every_width(rung, columns, monkeypatch):
    """More rows of tiles than a band has, and more tiles than blocks."""
    monkeypatch.setattr(matmul_cuda, "mma_tile_for", lambda m, n: (min(columns, 128),) * 2)
    monkeypatch.setattr(matmul_cuda, "wgmma_tile_for", lambda m, n: (128, columns))
    monkeypatch.setattr(matmul_cuda, "MULTIPROCESSORS", 4)
    m, k, n = 1030, 150, 260
    (p, q), (t, s, bias) = int8s(1, (m, k), (k, n)), normal(1, (m,), (n,), (n,))
    (got,) = emulated(lambda device: cuda.linear_int8(device, p, t, q, s, bias, rung=rung))
    np.testing.assert_array_equal(got, linear_int8(p, t, q, s, bias))


@needs_compiler
@pytest.mark.parametrize("rung", cuda.INT8_RUNGS)
def test_sums_beyond_float32_and_rows_at_any_address(rung):
    m, k, n = 3, 4096, 5
    p, q = (np.full(x * y + 1, -128, np.int8)[1:].reshape(x, y) for x, y in ((m, k), (k, n)))
    q[:3, 1] = 127, 1, 0  # a sum of 2^26 and something odd
    ones = np.ones(m, "f"), np.ones(n, "f")
    (got,) = emulated(lambda device: cuda.linear_int8(device, p, ones[0], q, ones[1], rung=rung))
    np.testing.assert_array_equal(got, (p.astype(np.int64) @ q.astype(np.int64)).astype(np.float32))


@needs_compiler
@pytest.mark.parametrize("rows", [3, 9])
@pytest.mark.parametrize("rung", cuda.INT8_RUNGS)
def test_weights_at_any_address(rung, rows):
    x, s = normal(1, (rows, 7), (8,))
    q = int8s(1, 57)[0][1:].reshape(7, 8)
    (got,) = emulated(lambda device: cuda.linear_weight_only(device, x, q, s, rung=rung))
    check_weight_only(got, x, q, s, None)


@needs_compiler
@pytest.mark.parametrize(("m", "n"), [(0, 5), (9, 0)])
@pytest.mark.parametrize("rung", cuda.INT8_RUNGS)
def test_no_rows_and_no_columns(rung, m, n):
    (x, t, s), (p, q) = normal(1, (m, 7), (m,), (n,)), int8s(1, (m, 7), (7, n))
    device = Emulator()
    assert cuda.linear_weight_only(device, x, q, s, rung=rung).shape == (m, n)
    assert cuda.linear_int8(device, p, t, q, s, rung=rung).shape == (m, n)
    device.check()
    assert cuda.FEW_ROWS not in device.ran


@needs_compiler
@settings(max_examples=15)
@given(k=st.sampled_from([1, 7, 40]), n=st.integers(1, 25), first=st.integers(0, 3), seed=SEEDS)
def test_weights_as_bf16_are_the_weights(k, n, first, seed):
    (some,) = int8s(seed, k * n + first)
    q, pitch = some[first:].reshape(k, n), -(-n // 8) * 8
    words = n % 4 == 0 and q.ctypes.data % 4 == 0

    def run(device):
        wide, count = device.empty((k, pitch), "uint16"), k * pitch // 8
        arguments = {"q": q, "wide": wide, "count": count, "n": n, "pitch": pitch, "words": words}
        device.run(cuda.HERE / cuda.WIDEN, "widen", -(-count // 128), 128, arguments)
        return wide

    wide = bfloat16.from_bits(emulated(run, seed)[0])
    np.testing.assert_array_equal(wide, np.pad(q, ((0, 0), (0, pitch - n))))


@needs_compiler
@pytest.mark.parametrize("sign", [np.abs, np.asarray])
@pytest.mark.parametrize("k", [100, 256, 512, 1024, 4096])
def test_three_parts_are_no_less_exact_than_float32(sign, k):
    """Also sums of one sign, in which what is cut off adds up."""
    (x,), (q,), s = normal(1, (16, k)), int8s(1, (k, 16)), np.ones(16, "f")
    x, q = sign(x), np.maximum(sign(q), -127)
    want = reference.linear_weight_only(x.astype("f8"), q, s, None)

    def error(rung):
        device = Emulator(1)
        got = cuda.linear_weight_only(device, x, q, s, rung=rung)
        device.check()
        return np.square(got - want).mean()

    errors = [error(rung) for rung in (2, 3, 4)]
    assert max(errors[1:]) <= errors[0]


@needs_compiler
@pytest.mark.parametrize(("rung", "card", "k", "times"), [
    *((rung, "90a", *how) for rung in (3, 4) for how in ((64, 2), (128, 1.5), (256, 1), (512, 1), (1024, 1))),
    (3, "80", 64, 4), (3, "80", 256, 2), (3, "80", 1024, 1),
])  # fmt: skip
def test_three_parts_of_numbers_of_one_sign_and_many_sizes(rung, card, k, times):
    """Where tensor cores lose most, all to one side: as exact as float32 from some 250 terms on, an A100's from 1000 on."""
    (x, wide), (q,), s = normal(2, (32, k), (32, k)), int8s(2, (k, 32)), np.ones(32, "f")
    x, q = np.abs(x * np.exp(3 * wide)), np.abs(np.maximum(q, -127))
    want = reference.linear_weight_only(x.astype("f8"), q, s, None)

    def error(rung):
        device = Emulator(architecture=card)
        got = cuda.linear_weight_only(device, x, q, s, rung=rung)
        device.check()
        return np.sqrt(np.square(got / want - 1).mean())

    assert error(rung) <= times * error(2)


@pytest.mark.parametrize(("architecture", "weight_only", "int8"), [
    ("75", 2, 2), ("80", 3, 3), ("86", 2, 3), ("87", 3, 3), ("89", 2, 3), ("90a", 4, 4), ("90", 3, 3), ("100", 3, 3),
    ("103", 3, 3), ("110", 3, 3), ("120", 2, 3), ("121", 2, 3),
])  # fmt: skip
def test_which_rung_a_layer_takes(architecture, weight_only, int8):
    device = SimpleNamespace(architecture=architecture)
    assert cuda.best_rung(device, weight_only=True) == weight_only
    assert cuda.best_rung(device, weight_only=False) == int8


@needs_compiler
@pytest.mark.parametrize("rows", [3, 9])
@pytest.mark.parametrize("rung", cuda.INT8_RUNGS)
def test_nan_and_inf_in_the_linear_layers(rung, rows):
    x, s = normal(1, (rows, 7), (5,))
    (q,) = int8s(1, (7, 5))
    x[1, 2], s[4] = np.inf, np.nan
    x[2, 3] = np.int32(0x7F800001).view(np.float32)  # a NaN that says so in its last bits only
    q[2, :2] = 0
    (got,) = emulated(lambda device: cuda.linear_weight_only(device, x, q, s, rung=rung))
    with np.errstate(invalid="ignore"):  # such a NaN is a signal
        want = reference.linear_weight_only(x.astype("f8"), q, s, None)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


PLANTED = [
    ("quantize.cu", "if (line || j >= n) return;", "if (line || j > n) return;", "out of range"),
    ("quantize.cu", "    if (j >= n) return;", "    if (j > n) return;", "out of range"),
    ("quantize.cu", "min(m, begin + part)", "begin + part", "out of range"),
    ("quantize.cu", "part = 0; part < parts", "part = 1; part < parts", "wrong value"),
    ("quantize.cu", "    tile[line][column] = largest;\n    __syncthreads();", "    tile[line][column] = largest;", "race"),
    ("quantize.cu", "if (thread >= m * across)", "if (thread > m * across)", "out of range"),
    ("quantize.cu", "!words && i < f.left", "!words", "race"),
    ("quantize.cu", "rintf(quotient)", "truncf(quotient)", "wrong value"),
    ("2_tiled.cu", "        __syncthreads();  // all are done with them\n", "\n", "race"),
    ("2_few_rows.cu", "    __syncthreads();  // all warps' sums are there\n", "\n", "race"),
    ("2_few_rows.cu", "if (first + column < n) sums", "sums", "race"),
    ("2_few_rows.cu", "i < left) word", "i <= left) word", "out of range"),
    ("2_few_rows.cu", "min((long long)k, (part + 1ll) * part_size)", "(part + 1) * part_size", "out of range"),
    ("turn.cu", "    __syncthreads();  // the words are there\n", "\n", "race"),
    ("turn.cu", "left = l < k ? n - j : 0", "left = n - j", "out of range"),
    ("turn.cu", "j0 + column < n && ", "", "out of range"),
    ("turn.cu", " && l0 + 4 * word < pitch", "", "race"),
    ("turn.cu", "0xff) << 8 * row", "0xff) << 8 * i", "wrong value"),
    ("3_mma.cu", "depth = min(k - done, STEP<T>)", "depth = STEP<T>", "out of range"),
    ("3_mma.cu", "x_scale[first_row + row]", "x_scale[row % 8]", "wrong value"),
    ("3_mma.cu", "(k + STEP<T> - 1) / STEP<T>, start", "k / STEP<T>, start", "wrong value"),
    ("4_wgmma.cu", "(k + STEP - 1) / STEP", "k / STEP", "wrong value"),
    ("4_wgmma.cu", "at += STEP;", "at += 64;", "wrong value"),
    ("4_wgmma.cu", "at, tile.column)", "at, tile.column + 1)", "wrong value"),
    ("widen.cu", "n - j - 4 * four", "4", "out of range"),
    ("widen.cu", "16 * two + 8", "16 * two", "wrong value"),
    ("3_split.cu", "        sums = {};\n", "", "wrong value"),
    ("3_split.cu", "const int part = step / of_part,", "const int part = 2,", "wrong value"),
    ("3_split.cu", "each_sum(total, rows, n - first_column,", "each_sum(total, rows, TILE_N,", "out of range"),
    ("3_split.cu", "tiles, PARTS * of_part,", "tiles, PARTS * of_part - 1,", "wrong value"),
    ("4_split.cu", "at = 0, part++;", "at = 0;", "wrong value"),
    ("4_split.cu", "&q, full, tile.column + panel * 64, at)", "&q, full, tile.column, at)", "wrong value"),
    ("4_split.cu", "#define STAGES 6", "#define STAGES 7", "out of range"),
    ("2_few_rows.cu", "part * count", "part", "wrong value"),
    ("1_naive.cu", "int sum = 0;\n    for (int l = 0; l < k", "int sum = 0;\n    for (int l = 1; l < k", "wrong value"),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize(("file", "old", "new", "kind"), PLANTED)
def test_a_planted_mistake_is_found(file, old, new, kind, monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda, file, old, new)
    (x,), (p, q), (t, s) = normal(3, (9, 167)), int8s(3, (9, 167), (167, 33)), normal(3, (9,), (33,))

    def run(device):
        if file == "quantize.cu":
            codes, _ = cuda.quantize(device, x, axis=1)
            device.expect(codes, quantize(x, axis=1)[0], 0)
        elif "few" in file or "split" in file or file == "widen.cu":
            rows, rung = 2 if "few" in file else 9, 4 if file[0] == "4" else 3
            wide, scales = np.tile(q, (1, 3)), np.tile(s, 3)  # more than a panel of columns
            want = reference.linear_weight_only(x[:rows].astype("f8"), wide, scales, None)
            device.expect(cuda.linear_weight_only(device, x[:rows], wide, scales, rung=rung), want, 1e-2)
        else:
            rung = 3 if file == "turn.cu" else int(file[0])
            device.expect(cuda.linear_int8(device, p, t, q, s, rung=rung), linear_int8(p, t, q, s), 0)

    assert kind in kinds(run)


@needs_compiler
@pytest.mark.parametrize(
    ("rung", "header", "old", "new", "kind"),
    [
        (2, "eight_bit/bytes.cuh", "if (i < count) word", "if (i <= count) word", "out of range"),
        (2, "eight_bit/bytes.cuh", "times_32(times_32(sum, x_scale), scale)", "times_32(sum, times_32(x_scale, scale))", "wrong value"),
        (3, "eight_bit/bytes.cuh", "plus_32(value, bias)", "bias", "wrong value"),
        (3, "matmul/mma.cuh", "mma_s8(sums.of[m][n], left[m], b0, b1)", "mma_s8(sums.of[m][n], left[m], b1, b0)", "wrong value"),
        (3, "matmul/mma.cuh", "if (row < rows && column < columns) put", "if (row < rows) put", "out of range"),
        (4, COLUMNS, "if (row >= m) continue;", "", "out of range"),
        (4, COLUMNS, "if (left > 0) store_two", "store_two", "out of range"),
        (4, (COLUMNS, "matmul/wgmma.cuh"), "#define DEPTH (32 /", "#define DEPTH (16 /", "wrong value"),
        (4, (COLUMNS, "matmul/wgmma.cuh"), "at - first * tiles_n", "at", "wrong value"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_header_is_found(rung, header, old, new, kind, monkeypatch):
    monkeypatch.setattr(matmul_cuda, "wgmma_tile_for", lambda m, n: (128, 64))
    m = 1030 if old.startswith("at") else 9  # more than a band of tiles
    (p, q), (t, s, bias) = int8s(3, (m, 167), (167, 33)), normal(3, (m,), (33,), (33,))
    device = Mistaken(cuda.HERE / cuda.INT8_RUNGS[rung], old, new, header=header)
    device.expect(cuda.linear_int8(device, p, t, q, s, bias, rung=rung), linear_int8(p, t, q, s, bias), 0)
    assert kind in {f.kind for f in device.findings}


# --- for a GPU --------------------------------------------------------------------------------------------------------


@needs_nvrtc
def test_a_thread_of_few_rows_asks_for_all_weights_of_an_unrolled_loop_before_it_multiplies_one():
    """Eight words, or 32 bytes, and as many numbers of x."""
    code = instructions(cuda.HERE / cuda.FEW_ROWS, "weight_only", {"ROWS": 1})
    unrolled = [part for part in code.split("B") if part.count("F") == 4 * 8]
    assert unrolled and all(part.split("F")[0].count("L") >= 2 * 8 for part in unrolled)


@needs_nvrtc
@pytest.mark.parametrize(
    ("kernel", "letter"), [("to_int8", "W"), ("to_fp8", "W"), ("from_int8", "X"), ("from_fp8", "X")]
)
def test_floats_go_to_and_from_codes_by_16_bytes(kernel, letter):
    assert letter in instructions(cuda.HERE / "quantize.cu", kernel)


@needs_nvrtc
@pytest.mark.parametrize("columns", [64, 128, 256])
def test_rung_4_compiles_without_spills_and_without_waiting(columns):
    for rung, blocks in ((cuda.INT8_RUNGS[4], 1 if columns > 128 else 2), (cuda.WEIGHT_ONLY_RUNGS[4], 1)):
        if rung == cuda.INT8_RUNGS[4] or columns == cuda.SPLIT_TILE[1]:
            binary = compile_for(cuda.HERE / rung, "90a", {"TILE_N": columns})
            for r in binary.resources().values():
                assert r.local_bytes == r.spill_bytes == 0 and r.registers * 288 * blocks <= 65536
            assert "Performance Loss" not in binary.log and "serialized" not in binary.log
