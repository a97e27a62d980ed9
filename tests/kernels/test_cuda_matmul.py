"""The rungs of the matrix product in CUDA, emulated: the definition's values, no findings, the same bits every time."""

import numpy as np
import pytest
from emulation import Mistaken, emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from products import TURNS, expected, normal, turned
from rungs import needs_compiler, needs_nvrtc

from kernels.emulator import Emulator
from kernels.launch import compile_for
from kernels.matmul import cuda

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65])
TILES = [(64, 64), (128, 64), (128, 16), (16, 128)]
few = settings(max_examples=25)
rungs = pytest.mark.parametrize("rung", [r for r in cuda.RUNGS if r < 4])  # rung 4: test_matmul_wgmma.py


@needs_compiler
@rungs
@few
@given(
    m=SIZES,
    n=SIZES,
    k=st.sampled_from([0, 1, 7, 8, 9, 31, 64, 72]),
    batches=st.sampled_from([((), ()), ((3,), ()), ((), (2,)), ((2,), (2,)), ((1, 2), (1, 2))]),
    turns=st.sampled_from(TURNS),
    bias=st.booleans(),
    tile=st.sampled_from([None, *TILES]),
    parts=st.sampled_from([None, 1, 2, 3]),
    precision=st.sampled_from(["bf16", "tf32"]),
    seed=SEEDS,
)
def test_matmul(rung, m, n, k, batches, turns, bias, tile, parts, precision, seed):
    rng = np.random.default_rng(seed)
    a, b = normal(rng, *batches[0], m, k), normal(rng, *batches[1], k, n)
    bias = normal(rng, n) if bias else None
    there = turned(a, turns[0]), turned(b, turns[1]), bias
    settings = {"transpose_a": turns[0], "transpose_b": turns[1], "rung": rung}
    if rung == 3:  # its tiles are square
        tile = None if tile is None else (64, 64) if tile[0] == 64 else (128, 128)
    settings |= {"tile": tile, "parts": parts, "precision": precision} if rung > 1 else {}
    want = expected(a, b, bias, rung, precision)
    emulated(lambda device: cuda.matmul(device, *there, **settings), seed, [want])


@needs_compiler
@rungs
@few
@given(rows=st.sampled_from([(), (1,), (5,), (2, 9), (3, 1, 7)]), sizes=st.tuples(SIZES, SIZES), seed=SEEDS)
def test_a_linear_layer_and_its_gradients(rung, rows, sizes, seed):
    rng = np.random.default_rng(seed)
    rows = rows or (4,)
    x, w, b, g = (normal(rng, *s) for s in ((*rows, sizes[0]), sizes, (sizes[1],), (*rows, sizes[1])))
    flat_x, flat_g = x.reshape(-1, sizes[0]), g.reshape(-1, sizes[1])

    def run(device):
        y = cuda.linear(device, x, w, b, rung=rung)
        dx = cuda.linear_grad_x(device, g, w, rung=rung)
        return y, dx, cuda.linear_grad_w(device, x, g, rung=rung)

    want = [expected(*arrays, rung) for arrays in ((x, w, b), (g, w.T, None), (flat_x.T, flat_g, None))]
    emulated(run, seed, want)


@needs_compiler
@rungs
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_come_out_where_the_definition_has_them(rung, value, rng):
    for which in range(3):
        a, b, bias = normal(rng, 20, 19), normal(rng, 19, 18), normal(rng, 18)
        (a, b, bias)[which].flat[-1] = value  # beside the edges of every tile
        emulated(lambda device, x=(a, b, bias): cuda.matmul(device, *x, rung=rung), 0, [expected(a, b, bias, rung)])


@needs_compiler
@rungs
def test_empty_products(rung):
    device = Emulator()
    for shape in ((0, 3, 4), (4, 3, 0), (0, 0, 0)):
        m, k, n = shape
        y = cuda.matmul(device, np.ones((m, k), "f"), np.ones((k, n), "f"), rung=rung)
        assert y.shape == (m, n)
    bias = np.arange(5, dtype="f")
    y = cuda.matmul(device, np.ones((3, 0), "f"), np.ones((0, 5), "f"), bias, rung=rung)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, (3, 5)))  # an empty sum is 0
    assert cuda.matmul(device, np.ones((0, 3, 4), "f"), np.ones((4, 5), "f"), rung=rung).shape == (0, 3, 5)
    device.check()


@given(k=st.integers(0, 10**6), blocks=st.integers(0, 1000), multiple=st.sampled_from([8, 64]), asked=st.integers(1, 9))
def test_the_parts_of_the_inner_axis_cover_it_once(k, blocks, multiple, asked):
    for parts, size in (cuda.cut(k, blocks, multiple), cuda.cut(k, blocks, multiple, asked)):
        assert (size % multiple == 0 and parts * size >= k > (parts - 1) * size) or (k == 0 and parts == 1)
    parts, size = cuda.cut(k, blocks, multiple)
    assert parts == 1 or (size >= cuda.PART and parts * blocks <= cuda.BLOCKS)


@given(m=st.integers(0, 10**5), n=st.integers(0, 10**5))
def test_the_tile_fits_the_result(m, n):
    tile = cuda.tile_for(m, n)
    assert tile in TILES and cuda.threads_of(tile) % 32 == 0
    wasted = -(-m // tile[0]) * tile[0] * -(-n // tile[1]) * tile[1] - m * n
    assert wasted <= 128 * (m + n + 128)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["75", "80", "90a", "120"])
def test_every_tile_compiles_without_spills_and_leaves_room_for_more_blocks(architecture):
    for tile, (a, b) in zip(TILES, TURNS):
        defines = cuda.defines_of(tile) | {"TRANSPOSE_A": str(a).lower(), "TRANSPOSE_B": str(b).lower()}
        (r,) = compile_for(cuda.HERE / cuda.RUNGS[2], architecture, defines).resources().values()
        assert r.local_bytes == r.spill_bytes == 0 and r.registers <= (255 if min(tile) < 64 else 65536 // 384)


PLANTED = [  # file, what is changed into what, what must be found
    ("1_naive.cu", "if (at >= count) return;", "if (at > count) return;", "out of range"),
    ("1_naive.cu", "transpose_a ? i : i * k", "transpose_a ? i * k : i * k", "wrong value"),
    (
        "2_tiled.cu",
        "        __syncthreads();  // the tiles are there, and all are done with the others\n",
        "\n",
        "race",
    ),
    ("2_tiled.cu", "put<TRANSPOSE_A>(a_tiles[turn], a_next);", "put<TRANSPOSE_A>(a_tiles[0], a_next);", "race"),
    ("2_tiled.cu", "min(m - first_row, (long long)TILE_M)", "TILE_M", "out of range"),
    ("2_tiled.cu", "if (i < rows && j < columns)", "if (i < rows)", "race"),
    ("2_tiled.cu", "min(k, start + part_size)", "start + part_size", "out of range"),
    ("2_tiled.cu", "start + part_size)", "start + part_size - 1)", "wrong value"),
    ("3_mma.cu", "max(0ll, min(k - begins, part_size))", "k - begins", "wrong value"),
    ("add_parts.cu", "for (int part = 1;", "for (int part = 2;", "wrong value"),
    ("add_parts.cu", "if (at >= count) return;", "", "out of range"),
]


@needs_compiler
@pytest.mark.parametrize("file, old, new, kind", PLANTED)
def test_a_mistake_is_found(file, old, new, kind, rng):
    device, (a, b) = Mistaken(cuda.HERE / file, old, new), (normal(rng, 50, 70), normal(rng, 70, 41))
    rung = next((r for r, name in cuda.RUNGS.items() if name == file), 2)
    got = cuda.matmul(device, turned(a, True), b, transpose_a=True, rung=rung, parts=2)
    device.expect(got, *expected(a, b, None, rung))
    assert kind in {f.kind for f in device.findings}


PLANTED_IN_THE_PIPELINE = [  # of matmul/mma.cuh: what is changed into what, what must be found
    ("cp_async_wait<STAGES - 2>()", "cp_async_wait<STAGES - 1>()", {"missing wait", "race"}),
    ("        __syncthreads(); ", "        ", {"race"}),
    ("        cp_async_commit();", "        if (step < steps) cp_async_commit();", {"missing wait", "race"}),
    ("start_stage(step + STAGES - 1)", "start_stage(step + STAGES)", {"missing wait", "uninitialised", "race"}),
    ("k / PIECE<T> + lane / 16", "k / PIECE<T> + lane / 8 % 2", {"wrong value"}),
    ("e / 2 * 8;", "e % 2 * 8;", {"wrong value"}),
    ("from ? 16 : 0", "16", {"wrong value"}),
    ("row < depth && column < rows", "row < depth", {"out of range"}),
]


@needs_compiler
@pytest.mark.parametrize("old, new, kinds", PLANTED_IN_THE_PIPELINE)
def test_a_mistake_in_the_pipeline_is_found(old, new, kinds, rng):
    device = Mistaken(cuda.HERE / cuda.RUNGS[3], old, new, header="matmul/mma.cuh")
    a, b = normal(rng, 56, 328), normal(rng, 328, 48)
    got = cuda.matmul(device, a, b, rung=3)
    device.expect(got, *expected(a, b, None, 3))
    assert kinds & {f.kind for f in device.findings}


@needs_compiler
@pytest.mark.parametrize("turns", TURNS)
def test_swizzled_tiles_have_no_bank_conflicts_and_others_have(turns, rng):
    a, b = turned(normal(rng, 64, 72), turns[0]), turned(normal(rng, 72, 64), turns[1])
    settings = {"transpose_a": turns[0], "transpose_b": turns[1], "rung": 3}
    for precision in ("bf16", "tf32"):
        device = Emulator()
        cuda.matmul(device, a, b, **settings, precision=precision)
        assert not device.bank_conflicts
    device = Mistaken(cuda.HERE / cuda.RUNGS[3], "(piece ^ turn)", "piece", header="matmul/mma.cuh")
    cuda.matmul(device, a, b, **settings)
    assert device.bank_conflicts


@pytest.mark.gpu
@rungs
def test_on_a_gpu_as_in_the_emulator(rung, rng):
    from kernels.launch import Device

    device, host = Device(), Emulator(0)
    a, b, bias = normal(rng, 200, 1100), normal(rng, 1100, 70), normal(rng, 70)
    got = cuda.matmul(device, *map(device.xp.asarray, (a, b, bias)), rung=rung).get()
    want, allowed, name = expected(a, b, bias, rung)
    host.expect(got, want, allowed, name)
    host.check()
