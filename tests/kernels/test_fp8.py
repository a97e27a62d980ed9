"""Products of fp8 numbers: the CUDA rungs emulated, exact where their sums are, and what fp8 tensor cores lose."""

import inspect
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from emulation import Mistaken
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import emulated, kinds, needs_compiler, needs_nvrtc, normal, plant

from kernels.compare import assert_close, bound
from kernels.eight_bit import FORMS, cuda, decode, encode, linear_fp8, quantize, reference
from kernels.emulator import Emulator
from kernels.launch import compile_for
from kernels.matmul import cuda as matmul_cuda
from kernels.precision import precision

SEEDS = st.integers(0, 2**32 - 1)
FP8 = FORMS[1:]
BOTH = list(itertools.product(FP8, FP8))
every_rung = pytest.mark.parametrize("rung", cuda.FP8_RUNGS)
every_pair = pytest.mark.parametrize(("x_form", "form"), BOTH)


def layer(seed, m, k, n, x_form="e4m3", form="e4m3", with_bias=True):
    """(x_codes, x_scale, codes, scale, bias) of normal numbers."""
    x, w, bias = normal(seed, (m, k), (k, n), (n,))
    return (*quantize(x, axis=0, form=x_form), *quantize(w, axis=1, form=form), bias if with_bias else None)


def fp8_lost(p, q):
    """What a product of these values (m, k), (k, n) may lose on fp8 tensor cores (``5_fp8.cu``).

    An instruction cuts off 33 terms, 32 products and the sum so far, and its result: each below 2^-13 of the largest.
    """
    lost = np.zeros((len(p), q.shape[1]))
    for first in range(0, len(q), 128):
        sums = np.zeros_like(lost)
        for at in range(first, min(first + 128, len(q)), 32):
            x, y = p[:, at : at + 32].astype(np.float64), q[at : at + 32].astype(np.float64)
            largest = np.maximum(np.abs(sums), np.abs(x[:, :, None] * y).max(axis=1))
            sums = sums + x @ y
            lost += 34 * 2.0**-13 * np.maximum(largest, np.abs(sums))
    return lost


def check(got, p, t, q, s, bias, x_form="e4m3", form="e4m3", rung=1):
    """Within the error of a float32 sum, or of rung 5's."""
    x, w = decode(p, x_form).astype("f8"), decode(q, form).astype("f8")
    scales = np.abs(t.astype("f8")[:, None] * s)
    size = (np.abs(x) @ np.abs(w)) * scales + (0 if bias is None else np.abs(bias))
    lost = fp8_lost(x, w) * scales if rung == 5 else 0
    assert got.dtype == np.float32
    want = reference.linear_fp8(p, t.astype("f8"), q, s.astype("f8"), bias, x_form, form)
    assert_close(got, want, bound(p.shape[1] + 4, size, np.float32) + lost, "y")


# --- the definition ---------------------------------------------------------------------------------------------------


@given(
    m=st.integers(0, 5), k=st.sampled_from([0, 1, 7, 300]), n=st.integers(0, 5), pair=st.sampled_from(BOTH),
    with_bias=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_linear_fp8(m, k, n, pair, with_bias, seed):
    arrays = layer(seed, m, k, n, *pair, with_bias=with_bias)
    check(linear_fp8(*arrays, x_form=pair[0], form=pair[1]), *arrays, *pair)


def test_a_known_product():
    p, q = encode(np.float32([[1, 2], [-0.5, 4]]), "e4m3"), encode(np.float32([[3, 0.25], [1, -57344]]), "e5m2")
    y = linear_fp8(p, np.float32([2, 1]), q, np.float32([1, 0.5]), np.float32([0.5, 0]), form="e5m2")
    assert y.tolist() == [[10.5, 0.25 - 2 * 57344], [3, -0.0625 - 4 * 57344 / 2]]


def test_bad_input_is_named():
    p, t, q, s = np.zeros((2, 3), np.uint8), np.ones(2, "f"), np.zeros((3, 4), np.uint8), np.ones(4, "f")
    for arguments, error, message in [
        ((p, t, q.view(np.int8), s), TypeError, "codes must be uint8 for the form 'e4m3', got int8"),
        ((p.view(np.int8), t, q, s), TypeError, "x_codes must be uint8 for the form 'e4m3', got int8"),
        ((p, t, q[:2], s), ValueError, "codes must have 3 rows as x has columns"),
        ((p, t[:1], q, s), ValueError, r"x_scale must have shape \(2,\)"),
        ((p, t, q, s, s[:3]), ValueError, r"bias must have shape \(4,\)"),
        ((p, t, q, s.astype("f8")), TypeError, "scale must be float32"),
    ]:
        with pytest.raises(error, match=message):
            inspect.unwrap(linear_fp8)(*arguments)
    for name in ("x_form", "form"):
        with pytest.raises(ValueError, match=f"^{name} must be one of 'e4m3', 'e5m2', got 'int8'"):
            linear_fp8(p, t, q, s, **{name: "int8"})


# --- in CUDA ----------------------------------------------------------------------------------------------------------


@needs_compiler
@every_rung
@settings(max_examples=10)
@given(
    m=st.sampled_from([1, 2, 9, 63, 64, 65, 129]), k=st.sampled_from([0, 1, 4, 16, 31, 32, 33, 68, 128, 144, 300]),
    n=st.sampled_from([1, 17, 64, 65, 132]), pair=st.sampled_from(BOTH), with_bias=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_linear_fp8_in_cuda(rung, m, k, n, pair, with_bias, seed):
    arrays = layer(seed, m, k, n, *pair, with_bias=with_bias)
    (got,) = emulated(lambda d: cuda.linear_fp8(d, *arrays, x_form=pair[0], form=pair[1], rung=rung), seed)
    check(got, *arrays, *pair, rung=rung)


@needs_compiler
@every_pair
@every_rung
def test_every_pattern_times_every_pattern(rung, x_form, form):
    """One product has at most 8 bits, which all rungs keep; Inf and NaN are the definition's."""
    every, ones = np.arange(256, dtype=np.uint8), np.ones(256, "f")
    arrays = (every[:, None], ones, every[None], ones)
    (got,) = emulated(lambda d: cuda.linear_fp8(d, *arrays, x_form=x_form, form=form, rung=rung))
    with np.errstate(invalid="ignore"):
        want = decode(every, x_form)[:, None] * decode(every, form)
    np.testing.assert_array_equal(got, want)


@needs_compiler
@every_rung
def test_sums_of_small_whole_numbers_are_exact(rung, monkeypatch):
    """More rows of tiles than a band has, and more tiles than blocks."""
    monkeypatch.setattr(matmul_cuda, "MULTIPROCESSORS", 4)
    m, k, n = (1030, 150, 260) if rung > 2 else (70, 150, 130)
    rng = np.random.default_rng(1)
    x, w = (rng.integers(-4, 5, shape).astype("f") for shape in ((m, k), (k, n)))
    t, s, bias = (rng.integers(1, 9, size).astype("f") for size in (m, n, n))
    p, q = encode(x, "e4m3"), encode(w, "e5m2")
    (got,) = emulated(lambda d: cuda.linear_fp8(d, p, t, q, s, bias, form="e5m2", rung=rung))
    np.testing.assert_array_equal(got, (x @ w) * t[:, None] * s + bias)


@needs_compiler
@pytest.mark.parametrize("lies", ["rows", "columns", "anywhere"])
@every_rung
def test_codes_at_any_address(rung, lies):
    p, t, q, s, bias = layer(2, 9, 80, 33)
    p, q = (np.concatenate([[np.uint8(0)], a.reshape(-1)])[1:].reshape(a.shape) for a in (p, q))
    if lies == "columns":
        q = np.asfortranarray(q)
    elif lies == "anywhere":
        p, q = np.repeat(p, 2, axis=1)[:, ::2], np.repeat(q, 3, axis=0)[::3]

    def run(device):
        arrays = (np.ascontiguousarray(p), t, q if lies == "columns" else np.ascontiguousarray(q), s, bias)
        return cuda.linear_fp8(device, *arrays, rung=rung)

    check(emulated(run)[0], p, t, q, s, bias, rung=rung)


@needs_compiler
@pytest.mark.parametrize(("kind", "rung"), [("fp8", 5), ("int8", 3), ("int8", 4)])
def test_weights_that_lie_transposed_are_not_transposed_again(kind, rung):
    x, w, t, s = normal(3, (9, 160), (160, 33), (9,), (33,))
    p, q = (quantize(a, axis=0, form="e4m3" if kind == "fp8" else "int8")[0] for a in (x, w))
    of_rung = cuda.linear_fp8 if kind == "fp8" else cuda.linear_int8
    results, ran = [], []
    for codes in (q, np.asfortranarray(q)):
        device = Emulator()
        results.append(of_rung(device, p, t, codes, s, rung=rung))
        device.check()
        ran.append(set(device.ran))
    np.testing.assert_array_equal(*results)
    assert ran[0] - ran[1] == {"turn.cu"} and ran[1]


@needs_compiler
@pytest.mark.parametrize(("m", "n"), [(0, 5), (9, 0)])
@every_rung
def test_no_rows_and_no_columns(rung, m, n):
    device = Emulator()
    t, s = np.ones(m, "f"), np.ones(n, "f")
    p, q = np.zeros((m, 7), np.uint8), np.zeros((7, n), np.uint8)
    assert cuda.linear_fp8(device, p, t, q, s, rung=rung).shape == (m, n)
    device.check()


@needs_compiler
@every_rung
def test_nan_and_inf(rung):
    p, t, q, s, bias = layer(4, 9, 40, 17, "e5m2", "e4m3")
    p[1, 2], p[3, 4], q[5, 6], t[7], s[8] = 0x7C, 0xFF, 0x7F, np.nan, np.inf
    (got,) = emulated(lambda d: cuda.linear_fp8(d, p, t, q, s, bias, x_form="e5m2", rung=rung))
    with np.errstate(all="ignore"):
        want = reference.linear_fp8(p, t, q, s, bias, "e5m2", "e4m3")
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


# --- what fp8 tensor cores lose ---------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(("small", "kept"), [(2.0**-13, True), (2.0**-14, False), (-(2.0**-14), False)])
def test_of_a_sum_13_bits_are_kept(small, kept):
    """Beside 1 the product 2^-14 is cut off, towards 0; the next step's sums begin anew, so there it is not."""
    p, q = np.zeros((2, 200), "f"), np.ones((200, 1), "f")
    p[:, 0], q[[5, 150]] = 1, 2.0**-7
    p[0, 5] = p[1, 150] = small * 2**7
    arrays = (encode(p, "e4m3"), np.ones(2, "f"), encode(q, "e4m3"), np.ones(1, "f"))
    for rung in (4, 5):
        (got,) = emulated(lambda d, rung=rung: cuda.linear_fp8(d, *arrays, rung=rung))
        np.testing.assert_array_equal(got[:, 0], [1 + small if kept or rung == 4 else 1, 1 + small])


def in_one_set(monkeypatch, tmp_path):
    """Rung 5 without the second set of sums."""
    plant(monkeypatch, tmp_path, cuda, "5_fp8.cu", "consume_by_step<", "consume<")


@needs_compiler
def test_long_sums_of_one_sign_need_the_second_set(monkeypatch, tmp_path):
    x, w = (np.abs(a) for a in normal(5, (16, 4096), (4096, 16)))
    arrays = (*quantize(x, axis=0, form="e4m3"), *quantize(w, axis=1, form="e4m3"))
    want = reference.linear_fp8(*arrays, None, "e4m3", "e4m3")

    def error():
        (got,) = emulated(lambda d: cuda.linear_fp8(d, *arrays, rung=5))
        return np.abs(got / want - 1).max()

    assert error() < 1e-3
    in_one_set(monkeypatch, tmp_path)
    assert error() > 0.05


# --- which rung -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "exact", "fast"), [
    ("75", 2, 2), ("80", 3, 3), ("89", 3, 3), ("90", 3, 3), ("90a", 4, 5), ("100", 3, 3), ("121", 3, 3),
])  # fmt: skip
def test_which_rung_a_layer_takes(architecture, exact, fast):
    device = SimpleNamespace(architecture=architecture)
    assert cuda.fp8_rung(device) == exact
    for name, rung in (("tf32", exact), ("bf16", fast)):
        with precision(name):
            assert cuda.fp8_rung(device) == rung


# --- mistakes ---------------------------------------------------------------------------------------------------------

PLANTED = [
    ("1_naive.cu", "to_float(X_FORM{p[i * k + l]})", "to_float(X_FORM{p[i * k]})", "wrong value"),
    ("1_naive.cu", "y[at] = scaled(sum, x_scale[i],", "y[at] = scaled(sum, x_scale[j],", "wrong value"),
    ("2_tiled.cu", "to_float(W_FORM{q[at]})", "to_float(X_FORM{q[at]})", "wrong value"),
    ("2_tiled.cu", "x_scale[i], scale[j], bias, j); });", "scale[j], scale[j], bias, j); });", "wrong value"),
    ("3_split.cu", "multiply<1>(x, q,", "multiply<3>(x, q,", "out of range"),
    ("3_split.cu", "scaled(sum, x_scale[row]", "scaled(sum, x_scale[row % 8]", "wrong value"),
    ("4_split.cu", "scaled(sum, of_row, of_column", "scaled(sum, 1.0f, of_column", "wrong value"),
    ("5_fp8.cu", "        columns.start(tile.column, n, scale, bias);\n", "", "uninitialised"),
    ("5_fp8.cu", "at += STEP;", "at += 64;", "wrong value"),
    ("5_fp8.cu", "&q, full, at, tile.column)", "&q, full, at, tile.row)", "wrong value"),
    ("5_fp8.cu", "#define RIGHT_FACTOR W_FORM\n", "", "wrong value"),
    ("5_fp8.cu", "(k + STEP - 1) / STEP", "k / STEP", "wrong value"),
    ("widen.cu", "mantissa == e4m3::MANTISSA", "mantissa != e4m3::MANTISSA", "wrong value"),
]


@needs_compiler
@pytest.mark.parametrize(("file", "old", "new", "kind"), PLANTED)
def test_a_planted_mistake_is_found(file, old, new, kind, monkeypatch, tmp_path):
    monkeypatch.setattr(matmul_cuda, "MULTIPROCESSORS", 1)
    plant(monkeypatch, tmp_path, cuda, file, old, new)
    p, t, q, s, bias = layer(6, 9, 167, 133, "e4m3", "e5m2")
    want = reference.linear_fp8(p, t, q, s, bias, "e4m3", "e5m2")
    rung = 3 if file == "widen.cu" else int(file[0])

    def run(device):
        device.expect(cuda.linear_fp8(device, p, t, q, s, bias, form="e5m2", rung=rung), want, 0.1)

    assert kind in kinds(run)


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("size << 20) * 0x1p120f", "size << 20) * 0x1p121f", "wrong value"),
        ("size << 21", "size << 20", "wrong value"),
        ("if (size == 0x7f)", "if (size >= 0x7e)", "wrong value"),
    ],
)
def test_a_mistake_in_how_codes_are_read_is_found(old, new, kind):
    every, ones = np.arange(256, dtype=np.uint8), np.ones(256, "f")
    with np.errstate(invalid="ignore"):
        want = decode(every, "e4m3")[:, None] * decode(every, "e5m2")
    device = Mistaken(cuda.HERE / "1_naive.cu", old, new, header=("eight_bit/bytes.cuh", "lib/fp8.cuh"))
    device.expect(cuda.linear_fp8(device, every[:, None], ones, every[None], ones, form="e5m2", rung=1), want, 0)
    assert kind in {f.kind for f in device.findings}


AT_THE_END = [
    ("        cp_async_wait<0>();\n", "", "missing wait"),
    ("128);  // what all threads of this consumer have copied is there", "32 * 4);", None),
    ("        named_barrier_sync(1 + consumer, 128);  // what all threads", "        //", "race"),
    ("        named_barrier_sync(1 + consumer, 128);  // all have read", "        //", "race"),
    ("&scale[threadIdx.x / 128][at]", "&scale[0][at]", "race"),
    ("bytes = column < n ? 4 : 0;", "bytes = 4;", "out of range"),
    ("bias[consumer][at] : 0.0f", "bias[consumer][at - at % 2] : 0.0f", "wrong value"),
    ("if (left > 0) store_two", "store_two", "out of range"),
]


@needs_compiler
@pytest.mark.parametrize(("old", "new", "kind"), AT_THE_END)
def test_a_mistake_at_the_end_of_hoppers_layers_is_found(old, new, kind, monkeypatch):
    monkeypatch.setattr(matmul_cuda, "MULTIPROCESSORS", 1)  # a block has several tiles
    p, t, q, s, bias = layer(7, 130, 40, 261)
    want = reference.linear_fp8(p, t, q, s, bias, "e4m3", "e4m3")
    device = Mistaken(cuda.HERE / "5_fp8.cu", old, new, header="eight_bit/columns.cuh")
    device.expect(cuda.linear_fp8(device, p, t, q, s, bias, rung=5), want, 0.1)
    found = {f.kind for f in device.findings}
    assert kind in found if kind else not found


# --- for a GPU --------------------------------------------------------------------------------------------------------


@needs_nvrtc
@every_pair
def test_rung_5_compiles_without_spills_and_without_waiting(x_form, form):
    binary = compile_for(cuda.HERE / "5_fp8.cu", "90a", {"X_FORM": x_form, "W_FORM": form})
    (r,) = binary.resources().values()
    assert r.local_bytes == r.spill_bytes == 0 and r.registers * 288 <= 65536
    assert "Performance Loss" not in binary.log and "serialized" not in binary.log
