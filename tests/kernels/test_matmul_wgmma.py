"""Rung 4 of the matrix product, emulated: a ring of tiles between a producer and consumers, factors as they lie, mistakes."""

import numpy as np
import pytest
from emulation import Mistaken, emulated, products
from hypothesis import given, settings
from hypothesis import strategies as st
from products import TURNS, check_compiled_by_wgmma, expected, normal, turned
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch, tensor_map
from kernels.emulator import Emulator
from kernels.matmul import cuda

SOURCE = cuda.HERE / cuda.RUNGS[4]
HEADERS = ("matmul/product.cuh", "matmul/wgmma.cuh")
SIZES = st.sampled_from([1, 8, 9, 63, 64, 72, 127, 128, 136])


# --- the instruction --------------------------------------------------------------------------------------------------

# Both operands either way; in memory a row of 64 numbers for each row of the matrix, or for each place on the inner
# axis.
PRODUCTS = """
// Needs sm_90a.
#include "lib/ptx90.cuh"
__device__ void bring(bf16* tile, const bf16* x, int rows, bool across) {
    for (int at = threadIdx.x; at < rows * 64; at += 128) {
        const int row = across ? at / 64 % 64 : at / 64, column = at % 64, panel = across ? at / 4096 : 0;
        tile[panel * 4096 + row * 64 + (column / 8 ^ row % 8) * 8 + column % 8] = x[at];
    }
}
extern "C" __global__ void k(const bf16* a, const bf16* b, float* y) {
    DYNAMIC_SHARED(bf16, a_tile);
    bf16* const b_tile = a_tile + 4096;
    const int t = threadIdx.x, g = t % 32 / 4, q = t % 4, first = t / 32 * 16;
    bring(a_tile, a, 64, A_LIES_ACROSS);
    bring(b_tile, b, COLUMNS, B_LIES_ACROSS);
    fence_proxy_async();
    __syncthreads();
    float d[COLUMNS / 2];
    for (int i = 0; i < COLUMNS / 2; i++) d[i] = i;
    wgmma_fence(d);
    for (int k = 0; k < 64; k += 16) {
        const unsigned long long right = wgmma_descriptor(b_tile + (B_LIES_ACROSS ? 64 * k : k), 8192);
#if FROM_REGISTERS
        unsigned r[4];
        for (int i = 0; i < 4; i++) memcpy(&r[i], a + (first + g + i % 2 * 8) * 64 + k + i / 2 * 8 + 2 * q, 4);
        wgmma_bf16<B_LIES_ACROSS>(d, r, right);
#else
        wgmma_bf16<A_LIES_ACROSS, B_LIES_ACROSS>(d, wgmma_descriptor(a_tile + (A_LIES_ACROSS ? 64 * k : k)), right);
#endif
    }
    wgmma_commit();
    wgmma_wait<0>(d);
    for (int i = 0; i < COLUMNS / 2; i++)
        y[(first + g + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + 2 * q + i % 2] = d[i] - i;
}
"""


SHAPES = [(64, 1, 1, 0), (128, 1, 0, 0), (256, 0, 1, 0), (256, 1, 1, 0), (128, 0, 1, 1)]
kinds_of_operands = pytest.mark.parametrize("columns, across_a, across_b, from_registers", SHAPES)


def multiply_lying_across(device, move, file, columns, across_a, across_b, from_registers):
    """(What the instruction gives on a device, what is right), of whole numbers, whose sums are exact."""
    file.write_text(PRODUCTS)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((64, 64), (64, columns)))
    in_panels = b.reshape(64, -1, 64).swapaxes(0, 1) if across_b else b.T
    bits = [bfloat16.to_bits(np.ascontiguousarray(x).reshape(-1)) for x in (a.T if across_a else a, in_panels)]
    y = device.empty((64, columns), np.float32)
    names = {
        "COLUMNS": columns,
        "A_LIES_ACROSS": across_a,
        "B_LIES_ACROSS": across_b,
        "FROM_REGISTERS": from_registers,
    }
    arrays = {"a": move(bits[0]), "b": move(bits[1]), "y": y}
    device.run(file, "k", 1, 128, arrays, shared_bytes=(64 + columns) * 128, defines=names)
    return y, a @ b


@needs_compiler
@kinds_of_operands
def test_operands_that_lie_across(columns, across_a, across_b, from_registers, tmp_path):
    device = Emulator()
    how = columns, across_a, across_b, from_registers
    np.testing.assert_array_equal(*multiply_lying_across(device, np.asarray, tmp_path / "k.cu", *how))
    device.check()


@pytest.mark.gpu
@kinds_of_operands
def test_operands_that_lie_across_on_a_gpu(columns, across_a, across_b, from_registers, tmp_path):
    device = launch.Device()
    if device.architecture != "90a":
        pytest.skip("wgmma is for sm_90a")
    how = columns, across_a, across_b, from_registers
    got, want = multiply_lying_across(device, device.xp.asarray, tmp_path / "k.cu", *how)
    np.testing.assert_array_equal(got.get(), want)


# Bytes, which lie along the inner axis.
BYTES = """
// Needs sm_90a.
#include "lib/ptx90.cuh"
extern "C" __global__ void k(const signed char* a, const signed char* b, int* y) {
    DYNAMIC_SHARED(signed char, tiles);
    const int t = threadIdx.x, g = t % 32 / 4, q = t % 4, first = t / 32 * 16;
    for (int at = t; at < (64 + COLUMNS) * 128; at += 128) {
        const int row = at / 128, column = at % 128;
        tiles[row * 128 + (column / 16 ^ row % 8) * 16 + column % 16] = row < 64 ? a[at] : b[at - 64 * 128];
    }
    fence_proxy_async();
    __syncthreads();
    int d[COLUMNS / 2];
    for (int i = 0; i < COLUMNS / 2; i++) d[i] = 1000000007 + i;
    wgmma_fence(d);
    for (int k = 0; k < 128; k += 32) wgmma_s8(d, wgmma_descriptor(tiles + k), wgmma_descriptor(tiles + 64 * 128 + k));
    wgmma_commit();
    wgmma_wait<0>(d);
    for (int i = 0; i < COLUMNS / 2; i++)
        y[(first + g + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + 2 * q + i % 2] = d[i] - i;
}
"""
in_columns = pytest.mark.parametrize("columns", [64, 128, 256])


def multiply_bytes(device, move, file, columns):
    """As ``multiply_lying_across``, for int8."""
    file.write_text(BYTES)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((64, 128), (columns, 128)))
    y = device.empty((64, columns), np.int32)
    arrays, names = {"a": move(a), "b": move(b), "y": y}, {"COLUMNS": columns}
    device.run(file, "k", 1, 128, arrays, shared_bytes=(64 + columns) * 128, defines=names)
    return y, 1000000007 + a.astype(np.int32) @ b.T.astype(np.int32)


@needs_compiler
@in_columns
def test_products_of_bytes(columns, tmp_path):
    device = Emulator()
    np.testing.assert_array_equal(*multiply_bytes(device, np.asarray, tmp_path / "k.cu", columns))
    device.check()


@pytest.mark.gpu
@in_columns
def test_products_of_bytes_on_a_gpu(columns, tmp_path):
    device = launch.Device()
    if device.architecture != "90a":
        pytest.skip("wgmma is for sm_90a")
    got, want = multiply_bytes(device, device.xp.asarray, tmp_path / "k.cu", columns)
    np.testing.assert_array_equal(got.get(), want)


# --- the product ------------------------------------------------------------------------------------------------------


@needs_compiler
@settings(max_examples=30)
@given(
    m=SIZES,
    n=SIZES,
    k=st.sampled_from([1, 8, 16, 63, 64, 72, 136, 392]),
    batches=st.sampled_from([((), ()), ((3,), ()), ((), (2,)), ((2,), (2,)), ((1, 2), (1, 2))]),
    turns=st.sampled_from(TURNS),
    bias=st.booleans(),
    columns=st.sampled_from([None, 64, 128]),
    parts=st.sampled_from([None, 1, 2, 3]),
    multiprocessors=st.sampled_from([1, 2, 132]),
    seed=st.integers(0, 2**32 - 1),
)
def test_matmul(m, n, k, batches, turns, bias, columns, parts, multiprocessors, seed):
    rng = np.random.default_rng(seed)
    a, b = normal(rng, *batches[0], m, k), normal(rng, *batches[1], k, n)
    bias = normal(rng, n) if bias else None
    there = turned(a, turns[0]), turned(b, turns[1]), bias
    given_ = {"transpose_a": turns[0], "transpose_b": turns[1], "tile": columns and (128, columns), "parts": parts}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "MULTIPROCESSORS", multiprocessors)
        patch.setitem(cuda.RUNGS, 3, "none")  # all of these are for rung 4
        emulated(lambda device: cuda.matmul(device, *there, **given_), seed, [expected(a, b, bias, 4)])


@needs_compiler
@pytest.mark.parametrize("turns", TURNS)
def test_tiles_of_256_columns_and_bands_of_tiles(turns, rng, monkeypatch):
    """Whole numbers, so that sums are exact; 9 rows of tiles, of which a band has 8; more tiles than blocks."""
    monkeypatch.setattr(cuda, "MULTIPROCESSORS", 4)
    a, b = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((1032, 72), (72, 264)))
    given_ = {"transpose_a": turns[0], "transpose_b": turns[1], "tile": (128, 256), "parts": 1}
    device = Emulator()
    np.testing.assert_array_equal(cuda.matmul(device, turned(a, turns[0]), turned(b, turns[1]), **given_), a @ b)
    device.check()
    assert products(device) == [SOURCE.name]


@needs_compiler
def test_a_linear_layer_and_its_gradients_take_this_rung(rng):
    x, w, b, g = (normal(rng, *shape) for shape in ((2, 9, 40), (40, 72), (72,), (2, 9, 72)))
    flat_x, flat_g = x.reshape(-1, 40), g.reshape(-1, 72)
    ran = []

    def run(device):
        y = cuda.linear(device, x, w, b)
        dx, dw = cuda.linear_grad_x(device, g, w), cuda.linear_grad_w(device, x, g)
        ran.extend(products(device))
        return y, dx, dw

    arrays = ((x, w, b), (g, w.T, None), (flat_x.T, flat_g, None))
    emulated(run, 0, [expected(*each, 4) for each in arrays])
    assert set(ran) == {SOURCE.name}


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_come_out_where_the_definition_has_them(value, rng):
    for which in range(3):
        a, b, bias = normal(rng, 24, 72), normal(rng, 72, 16), normal(rng, 16)
        (a, b, bias)[which].flat[-1] = value
        emulated(lambda device, x=(a, b, bias): cuda.matmul(device, *x), 0, [expected(a, b, bias, 4)])


@needs_compiler
def test_rows_that_tma_cannot_take_are_copied_and_empty_factors_left_to_rung_3(rng):
    raw = np.zeros(16 * 16 + 1, np.uint16)
    shifted = raw[1:].reshape(16, 16)  # begins 2 bytes after a multiple of 16
    shifted[:] = bfloat16.to_bits(normal(rng, 16, 16))
    good = normal(rng, 16, 16)
    for a, b, file in [
        (good, good, SOURCE.name),
        (shifted, good, SOURCE.name),
        (good, normal(rng, 16, 3), SOURCE.name),  # rows of 6 bytes
        (normal(rng, 5, 16), good, SOURCE.name),
        (normal(rng, 16, 0), normal(rng, 0, 16), cuda.RUNGS[3]),  # nothing to copy; the product is 0
    ]:
        device = Emulator()
        got = cuda.matmul(device, a, b, rung=4)
        assert products(device) == [file]
        rounded = [bfloat16.from_bits(x) if x.dtype == np.uint16 else x for x in (a, b)]
        device.expect(got, *expected(*rounded, None, 4))
        device.check()
    wide = cuda.rows_of_16_bytes(shifted[:, :9])
    assert wide.shape == (16, 16) and (wide[:, :9] == shifted[:, :9]).all() and not wide[:, 9:].any()
    assert cuda.rows_of_16_bytes(wide) is wide
    device = Emulator()
    cuda.matmul(device, good, good, rung=4, precision="tf32")
    assert products(device) == [cuda.RUNGS[3]]
    assert cuda.matmul(Emulator(), normal(rng, 0, 16), good, rung=4).shape == (0, 16)


def test_the_last_rung_of_a_device():
    class Gpu:
        architecture = "120"

    assert cuda.last_rung(Emulator()) == 4 and cuda.last_rung(Gpu()) == 3
    Gpu.architecture = "90a"
    assert cuda.last_rung(Gpu()) == 4


@pytest.mark.parametrize(
    "m, n, columns", [(8192, 8192, 256), (2048, 2048, 256), (4096, 1024, 256), (128 * 132, 100, 128)]
)
def test_the_tile_fits_the_result(m, n, columns):
    rows = 128
    assert cuda.wgmma_tile_for(m, n) == (rows, columns)
    assert cuda.wgmma_tile_for(512, 512) == (rows, 64)


@pytest.mark.parametrize("columns", [64, 128, 160, 256])
def test_the_ring_fits_the_chip(columns):
    blocks = cuda.blocks_at_a_time(columns) // cuda.MULTIPROCESSORS
    a_stage = (128 + -(-columns // 64) * 64) * 128
    a_block = cuda.ring_stages(columns) * a_stage + 2048  # and what is static, and what a launch takes
    assert blocks * a_block <= (launch.SHARED_KILOBYTES["90a"] + 1) << 10


# --- mistakes ---------------------------------------------------------------------------------------------------------

PLANTED_IN_THE_HEADER = [  # wgmma.cuh; lib/ring.cuh's are in test_ring.py: what is changed into what, what must be found
    (
        "        wgmma_wait<1>(d);\n        give_back();",
        "        give_back();\n        wgmma_wait<1>(d);",
        {"missing wait"},
    ),
    ("wgmma_wait<1>(d);", "wgmma_wait<2>(d);", {"missing wait"}),
    ("    wgmma_wait<0>(d);\n", "", {"missing wait", "wrong value"}),
    ("    wgmma_wait<0>(d);\n    give_back();", "    wgmma_wait<0>(d);", {"deadlock"}),
    ("    wgmma_wait<0>(d);\n    give_back();", "    give_back();\n    wgmma_wait<0>(d);", {"missing wait"}),
    ("4 * CONSUMERS", "CONSUMERS", {"race", "missing wait"}),
    ("        wgmma_fence(d);\n", "", {"missing fence"}),
    ("        fence_mbarrier_init();\n", "", {"missing fence"}),
    ("TILE_N)) * 128);", "TILE_N)) * 64);", {"deadlock"}),
    ("bf16<ACROSS_LEFT, ACROSS_RIGHT>(d,", "bf16<!ACROSS_LEFT, ACROSS_RIGHT>(d,", {"wrong value"}),  # the major bit
    ("bf16<ACROSS_LEFT, ACROSS_RIGHT>(d,", "bf16<ACROSS_LEFT, !ACROSS_RIGHT>(d,", {"out of range"}),
    ("right + k * (ACROSS_RIGHT ? 64 : 1), 64 * 128", "right + k * (ACROSS_RIGHT ? 64 : 1), 64 * 64", {"wrong value"}),
    ("threadIdx.x / 128 * PANEL", "0", {"wrong value"}),
]
PLANTED = [  # of 4_wgmma.cu and product.cuh
    ("p.part_size) + STEP - 1) / STEP", "p.part_size)) / STEP", {"wrong value"}),  # the tail skipped
    ("if (row >= m) continue;", "", {"out of range"}),
    ("if (left > 0)\n", "", {"race"}),
    ("a_batches ? tile.batch : 0", "0", {"wrong value"}),
    ("at += STEP;", "at += 16;", {"wrong value"}),
    ("first + panel * 64", "first", {"wrong value"}),
    ("tile.steps, turn);\n        store_tile", "tile.steps);\n        store_tile", {"race"}),  # the first turn again
    ("in_band % rows", "in_band / rows", {"race", "unwritten"}),
]


def product_with_mistakes(device, rng):
    a, b, bias = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((2, 392, 136), (392, 72), (72,)))
    got = cuda.matmul(device, a, b, bias, transpose_a=True, tile=(128, 128), parts=1)
    device.expect(got, a.swapaxes(1, 2) @ b + bias, 0, "y")


@needs_compiler
@pytest.mark.parametrize("old, new, kinds", PLANTED_IN_THE_HEADER + PLANTED)
def test_a_mistake_is_found(old, new, kinds, rng, monkeypatch):
    monkeypatch.setattr(cuda, "MULTIPROCESSORS", 1)
    device = Mistaken(SOURCE, old, new, header=HEADERS)
    product_with_mistakes(device, rng)
    assert kinds <= {f.kind for f in device.findings}


@needs_compiler
def test_pairs_of_numbers_in_odd_rows_are_found(rng):
    device = Mistaken(SOURCE, "columns % 2 == 0", "true", header=HEADERS)
    cuda.matmul(device, normal(rng, 8, 8), normal(rng, 9, 8), transpose_b=True)
    assert "misaligned" in {f.kind for f in device.findings}


@needs_compiler
def test_a_wrong_swizzle_is_found(rng, monkeypatch):
    monkeypatch.setattr(cuda, "TensorMap", lambda array, box, swizzle: tensor_map.TensorMap(array, box, 0))
    device = Emulator()
    product_with_mistakes(device, rng)
    assert {f.kind for f in device.findings} == {"wrong value"}


# --- for a GPU --------------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize("columns, turns", list(zip((256, 128, 64, 256), TURNS)))
def test_it_compiles_without_spills_and_without_waiting(columns, turns):
    check_compiled_by_wgmma(SOURCE, columns, turns)


@pytest.mark.gpu
@pytest.mark.parametrize("turns", TURNS)
def test_on_a_gpu_as_in_the_emulator(turns, rng):
    device, host = launch.Device(), Emulator(0)
    if device.architecture != "90a":
        pytest.skip("rung 4 is for sm_90a")
    for (m, n, k), columns in (((200, 72, 1104), 64), ((300, 520, 136), 128), ((1032, 520, 72), 256)):
        a, b, bias = normal(rng, m, k), normal(rng, k, n), normal(rng, n)
        there = [device.xp.asarray(x) for x in (turned(a, turns[0]), turned(b, turns[1]), bias)]
        given_ = {"transpose_a": turns[0], "transpose_b": turns[1], "tile": (128, columns)}
        got = cuda.matmul(device, *there, **given_, rung=4).get()
        host.expect(got, *expected(a, b, bias, 4))
    host.check()
