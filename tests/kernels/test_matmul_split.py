"""Products of float32 matrices on bf16 tensor cores, emulated: three parts of each float, and no less exact than float32."""

from types import SimpleNamespace

import numpy as np
import pytest
import rungs
from emulation import Counting, Mistaken, emulated
from hypothesis import example, given, settings
from hypothesis import strategies as st
from products import TURNS, expected, normal, turned
from rungs import needs_compiler, plant

from kernels import bfloat16, launch
from kernels.device import running_on
from kernels.emulator import Emulator
from kernels.matmul import cuda, linear, matmul, reference

SIZES = st.sampled_from([1, 7, 8, 9, 63, 64, 65, 127, 128, 136])
LARGEST = np.finfo(np.float32).max
both_rungs = pytest.mark.parametrize("rung", [3, 4])


def exactly(device, a, b, bias=None, **how):
    return cuda.matmul(device, a, b, bias, **how, precision="float32")


# --- the parts --------------------------------------------------------------------------------------------------------


def floats(seed, shape, kind):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    match kind:
        case "wide":
            x *= np.exp(20 * rng.standard_normal(shape))
        case "tiny":
            x *= 1e-42
        case "largest":
            x = np.sign(x) * LARGEST * (1 - rng.integers(0, 2**17, shape) * 2.0**-24)
        case "odd":
            x.flat[:: x.size // 4 + 1] = [np.nan, np.inf, -np.inf, -0.0][: len(x.flat[:: x.size // 4 + 1])]
    return x.astype(np.float32)


@needs_compiler
@settings(max_examples=15)
@given(
    rows=st.sampled_from([1, 7, 40]),
    n=st.integers(1, 17),
    kind=st.sampled_from(["normal", "wide", "tiny", "largest", "odd"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_three_parts_of_a_float_are_the_float(rows, n, kind, seed):
    x = floats(seed, (rows, n), kind)
    parts = bfloat16.from_bits(rungs.emulated(lambda d: cuda.in_parts(d, x), seed)[0]).astype(np.float64)
    assert parts.shape == (3, rows, -(-n // 8) * 8)
    assert not parts[:, :, n:].any()
    (low, middle, high), wide = parts[:, :, :n], x.astype(np.float64)
    odd, tiny = ~np.isfinite(x), np.abs(x) < 2.0**-100
    np.testing.assert_array_equal(high[odd], wide[odd])
    assert not middle[odd].any() and not low[odd].any()
    whole = ~odd & ~tiny
    total = np.where(odd, 0, low + middle + high)
    np.testing.assert_array_equal(total[whole], wide[whole])
    assert np.abs(total[tiny] - wide[tiny]).max(initial=0) <= 2.0**-133  # the smallest of bf16
    half = np.where(np.abs(high) > 3.3e38, 1.0, 0.5)[whole]  # the largest floats are cut off
    assert (np.abs(middle[whole]) <= half * 2.0**-7 * np.abs(high[whole])).all()
    assert (np.abs(low[whole]) <= half * 2.0**-15 * np.abs(high[whole])).all()


@needs_compiler
def test_parts_of_arrays_of_any_address_and_of_nothing(rng):
    raw = normal(rng, 41)
    for x in (raw[1:].reshape(2, 4, 5), raw[:0].reshape(0, 3), raw[:0].reshape(3, 0)):
        device = Emulator()
        parts = bfloat16.from_bits(cuda.in_parts(device, x))
        device.check()
        assert parts.shape == (3, *x.shape[:-1], -(-x.shape[-1] // 8) * 8)
        np.testing.assert_array_equal(parts.astype(np.float64).sum(0)[..., : x.shape[-1]], x)


# --- the product ------------------------------------------------------------------------------------------------------


@needs_compiler
@both_rungs
@settings(max_examples=12)
@given(
    m=SIZES,
    n=SIZES,
    k=st.sampled_from([0, 1, 7, 16, 63, 64, 72, 200]),
    batches=st.sampled_from([((), ()), ((3,), ()), ((), (2,)), ((2,), (2,)), ((1, 2), (1, 2))]),
    turns=st.sampled_from(TURNS),
    bias=st.booleans(),
    parts=st.sampled_from([None, 1, 2, 3]),
    multiprocessors=st.sampled_from([1, 2, 132]),
    seed=st.integers(0, 2**32 - 1),
)
@example(m=130, n=200, k=72, batches=((2,), ()), turns=(True, False), bias=True, parts=1, multiprocessors=1, seed=0)
@example(m=9, n=17, k=200, batches=((), (2,)), turns=(False, True), bias=False, parts=2, multiprocessors=132, seed=1)
def test_matmul(rung, m, n, k, batches, turns, bias, parts, multiprocessors, seed):
    rng = np.random.default_rng(seed)
    a, b = normal(rng, *batches[0], m, k), normal(rng, *batches[1], k, n)
    bias = normal(rng, n) if bias else None
    there = turned(a, turns[0]), turned(b, turns[1]), bias
    how = {"transpose_a": turns[0], "transpose_b": turns[1], "parts": parts, "rung": rung}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "MULTIPROCESSORS", multiprocessors)
        emulated(lambda device: exactly(device, *there, **how), seed, [expected(a, b, bias)])


@needs_compiler
@both_rungs
@pytest.mark.parametrize("tile", [64, 128])
def test_tiles(rung, tile, rng):
    """Whole numbers, so that sums are exact; several tiles each way."""
    a, b = (rng.integers(-400, 401, shape).astype(np.float32) for shape in ((200, 72), (72, 200)))
    device = Emulator()
    got = exactly(device, a, b, rung=rung, tile=(64 if tile == 64 and rung == 3 else 128, tile))
    device.check()
    np.testing.assert_array_equal(got, a.astype(np.float64) @ b.astype(np.float64))


KINDS = {
    "normal": lambda rng, *shape: rng.standard_normal(shape),
    "of one sign": lambda rng, *shape: rng.random(shape),
    "wide": lambda rng, *shape: np.exp(3 * rng.standard_normal(shape)),
}


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_long_sums_are_no_less_exact_than_those_of_float32_units(kind, rng):
    a, b = (KINDS[kind](rng, *shape).astype(np.float32) for shape in ((64, 2048), (2048, 64)))
    want, magnitude = (reference.matmul(*(f(x.astype(np.float64)) for x in (a, b))) for f in (np.asarray, np.abs))
    errors = {}
    for rung in (2, 3, 4):
        device = Emulator()
        errors[rung] = np.abs(exactly(device, a, b, rung=rung, parts=1) - want) / magnitude
    assert np.sqrt((errors[3] ** 2).mean()) < 16 * 2.0**-24
    for rung in (3, 4):
        assert np.sqrt((errors[rung] ** 2).mean()) <= np.sqrt((errors[2] ** 2).mean())
        assert errors[rung].max() <= errors[2].max()


@needs_compiler
def test_sums_in_one_set_drift(rng):
    """Without the second set: what it is for."""
    a, b = (KINDS["wide"](rng, *shape).astype(np.float32) for shape in ((64, 2048), (2048, 64)))
    want = a.astype(np.float64) @ b.astype(np.float64)
    right, drifting = Emulator(), Mistaken(cuda.HERE / cuda.FLOAT32_RUNGS[4], "consume_by_step<", "consume<")
    near, far = (np.abs(exactly(d, a, b, rung=4, parts=1) / want - 1).mean() for d in (right, drifting))
    assert near < 2.0**-20 and far > 8 * near


@needs_compiler
@both_rungs
@pytest.mark.parametrize("value", [np.nan, np.inf, -LARGEST])
def test_what_is_not_finite_comes_out_where_the_definition_has_it(rung, value, rng):
    """The other factor's numbers have parts that are 0, which Inf must not meet, and the largest floats round to Inf."""
    for which in range(3):
        for turns in TURNS:
            a, b, bias = (rng.integers(-2, 3, shape).astype(np.float32) / 4 for shape in ((20, 72), (72, 18), (18,)))
            (a, b, bias)[which].flat[-1] = value
            there = turned(a, turns[0]), turned(b, turns[1]), bias
            how = {"rung": rung, "transpose_a": turns[0], "transpose_b": turns[1], "parts": 2}
            emulated(lambda device, x=there, how=how: exactly(device, *x, **how), 0, [expected(a, b, bias)])


@needs_compiler
@both_rungs
def test_sums_that_overflow_are_infinite(rung):
    a = np.full((3, 8), 2.0**100, np.float32)
    b = np.full((8, 3), 2.0**28, np.float32)
    b[:, 1] = -b[:, 1]
    b[:, 2] = 1
    device = Emulator()
    got = exactly(device, a, b, rung=rung)
    device.check()
    np.testing.assert_array_equal(got, np.broadcast_to(np.float32([np.inf, -np.inf, 2.0**103]), (3, 3)))


@needs_compiler
def test_rung_4_leaves_what_is_empty_to_rung_3_and_there_is_no_rung_5(rng):
    for k, file in ((9, "4_split.cu"), (0, "3_split.cu")):
        device = Emulator()
        got = exactly(device, normal(rng, 5, k), normal(rng, k, 7), rung=4)
        assert device.ran[-1] == file and got.shape == (5, 7) and (k or not got.any())
        device.check()
    with pytest.raises(ValueError, match=r"^rung must be one of 1, 2, 3, 4, got 5$"):
        exactly(Emulator(), normal(rng, 5, 9), normal(rng, 9, 7), rung=5)


# --- which rung -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "large", "bf16"), [
    ("75", 2, 3), ("80", 3, 3), ("86", 2, 3), ("89", 2, 3), ("90a", 4, 4), ("100", 2, 3), ("120", 2, 3),
])  # fmt: skip
def test_which_rung_a_product_takes(architecture, large, bf16):
    device = SimpleNamespace(architecture=architecture)
    assert cuda.rung_for(device, "float32", 1024, 1024, 1024) == large
    assert cuda.rung_for(device, "float32", 1024, 1024, 511) == 2
    assert cuda.rung_for(device, "bf16", 8, 8, 8) == bf16 and cuda.rung_for(device, "tf32", 8, 8, 8) == 3


@needs_compiler
@pytest.mark.parametrize("architecture, file", [("90a", "4_split"), ("80", "3_split"), ("89", "2_tiled")])
def test_large_products_take_it_by_themselves(architecture, file, rng, monkeypatch):
    monkeypatch.setattr(cuda, "SPLIT_FROM", 9 * 17 * 33)
    a, b, bias = normal(rng, 9, 17), normal(rng, 17, 33), normal(rng, 33)
    with running_on(Counting(architecture)) as device:
        got = [linear(a, b, bias), matmul(b.T, a.T), matmul(a[:8], b)]
    device.check()
    split = {"matmul/split:split": 4, f"matmul/{file}:matmul_float32": 2} if "split" in file else {}
    assert device.launched == {**split, "matmul/2_tiled:matmul": 1 if split else 3}
    for y, arrays in zip(got, ((a, b, bias), (b.T, a.T, None), (a[:8], b, None))):
        device.expect(y, *expected(*arrays))
    device.check()


# --- mistakes ---------------------------------------------------------------------------------------------------------

PARTS = "matmul/parts.cuh"
PLANTED = [  # the file, or the header of both rungs, what is changed into what, what must be found
    ("split.cu", "to[count] = uint4{middle[0], middle[1]", "to[count] = uint4{high[0], high[1]", "wrong value"),
    ("split.cu", "if (at >= count) return;", "", "out of range"),
    ("split.cu", "n - j - 4 * four", "4", "out of range"),
    ("split.cu", "row * n", "row * pitch", "out of range"),
    (PARTS, "0x221210", "0x222210", "wrong value"),
    (PARTS, "0x212012", "0x212011", "wrong value"),
    ("3_split.cu", "        sums = {};\n", "", "wrong value"),
    ("3_split.cu", "min(size - done, (long long)STEP<bf16>)", "STEP<bf16>", "out of range"),
    ("3_split.cu", "if (all_finite) return;", "return;", "wrong value"),
    ("3_split.cu", "(b_batch ? batch : 0)", "0", "wrong value"),
    ("3_split.cu", "    b += batch * b_batch;\n", "", "wrong value"),
    ("4_split.cu", "part * (int)batches + tile.batch : part", "part : part", "wrong value"),
    ("4_split.cu", "steps, turn);\n        float* const", "steps);\n        float* const", "race"),
    ("4_split.cu", "#define STAGES 6", "#define STAGES 7", "out of range"),
    ("4_split.cu", "if (all_finite) continue;", "continue;", "wrong value"),
    ("4_split.cu", "(b_batches ? tile.batch * n * k : 0)", "0", "wrong value"),
    ("4_split.cu", "if (row >= m || column >= n ||", "if (", "out of range"),
]


@needs_compiler
@pytest.mark.parametrize(("file", "old", "new", "kind"), PLANTED)
def test_a_mistake_is_found(file, old, new, kind, monkeypatch, tmp_path, rng):
    monkeypatch.setattr(cuda, "MULTIPROCESSORS", 1)
    a, b, bias = (normal(rng, *shape) for shape in ((2, 70, 135), (2, 135, 150), (150,)))
    a[0, 5, 2], b[1, 3, 149] = np.inf, np.nan
    want, allowed, name = expected(a, b, None)
    if file != PARTS:
        plant(monkeypatch, tmp_path, cuda, file, old, new)
    kinds = set()
    for rung in [3, 4] if file == PARTS else [4] if file == "split.cu" else [int(file[0])]:
        source = cuda.HERE / cuda.FLOAT32_RUNGS[rung]
        device = Mistaken(source, old, new, header=PARTS) if file == PARTS else Emulator(3)
        device.expect(exactly(device, a, b, bias, rung=rung, parts=2), want + bias, allowed / 16 + 1e-6, name)
        kinds |= {f.kind for f in device.findings}
    assert kind in kinds


@needs_compiler
@pytest.mark.parametrize(
    ("rung", "header", "old"),
    [
        (3, "matmul/mma.cuh", "total.of[m][n][e] += sums"),
        (4, ("matmul/product.cuh", "matmul/wgmma.cuh"), "total[e] += d"),
    ],
)
def test_a_second_set_that_keeps_the_last_step_only_is_found(rung, header, old, rng):
    device = Mistaken(cuda.HERE / cuda.FLOAT32_RUNGS[rung], old, old.replace("+=", "="), header=header)
    a, b = normal(rng, 9, 72), normal(rng, 72, 17)
    device.expect(exactly(device, a, b, rung=rung), *expected(a, b, None))
    assert {f.kind for f in device.findings} == {"wrong value"}


@needs_compiler
@both_rungs
def test_without_a_mistake_nothing_is_found(rung, monkeypatch, tmp_path, rng):
    with pytest.raises(AssertionError, match=r"in set\(\)"):
        test_a_mistake_is_found(cuda.FLOAT32_RUNGS[rung], "PAIRS", "PAIRS", "wrong value", monkeypatch, tmp_path, rng)


# --- for a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@both_rungs
@pytest.mark.parametrize("turns", TURNS)
def test_on_a_gpu(rung, turns, rng):
    """Right, no less exact than rung 2 on long sums, and not finite where the definition is not."""
    device = launch.Device()
    if (rung == 4 and device.architecture != "90a") or int(device.architecture.rstrip("a")) < 80:
        pytest.skip(f"rung {rung} is not for sm_{device.architecture}")
    for m, n, k, value in ((200, 72, 1104, 1), (300, 520, 136, np.inf), (1032, 520, 8192, LARGEST), (64, 64, 65536, 0)):
        a, b, bias = np.abs(normal(rng, m, k)), normal(rng, k, n), normal(rng, n)
        a[m // 2, 3] = value
        there = [device.xp.asarray(x) for x in (turned(a, turns[0]), turned(b, turns[1]), bias)]
        how = {"transpose_a": turns[0], "transpose_b": turns[1]}
        want, allowed, name = expected(a, b, bias)
        host = Emulator(0)
        host.expect(exactly(device, *there, **how, rung=rung).get(), want, allowed, name)
        host.check()
