"""Rung 5 of the matrix product, emulated: two blocks that bring the right factor for each other, and mistakes."""

import numpy as np
import pytest
from emulation import Mistaken, emulated, products
from hypothesis import given, settings
from hypothesis import strategies as st
from products import TURNS, check_compiled_by_wgmma, expected, normal, turned
from rungs import needs_compiler, needs_nvrtc

from kernels import launch
from kernels.emulator import Emulator
from kernels.matmul import cuda

SOURCE = cuda.HERE / cuda.RUNGS[5]
HEADERS = ("matmul/product.cuh", "matmul/wgmma.cuh", "lib/ring.cuh")


@needs_compiler
@settings(max_examples=20)
@given(
    m=st.sampled_from([1, 127, 128, 129, 131, 256, 257]),
    n=st.sampled_from([1, 8, 127, 128, 129, 131]),
    k=st.sampled_from([1, 8, 63, 64, 65, 131, 392]),
    batches=st.sampled_from([((), ()), ((3,), ()), ((), (2,)), ((2,), (2,))]),
    turns=st.sampled_from(TURNS),
    bias=st.booleans(),
    parts=st.sampled_from([1, 2, 3]),
    multiprocessors=st.sampled_from([1, 2, 132]),
    seed=st.integers(0, 2**32 - 1),
)
def test_matmul(m, n, k, batches, turns, bias, parts, multiprocessors, seed):
    """The definition, under two schedules the same bits, and those of rung 4: the order of the sums is the same."""
    rng = np.random.default_rng(seed)
    a, b = normal(rng, *batches[0], m, k), normal(rng, *batches[1], k, n)
    bias = normal(rng, n) if bias else None
    there = turned(a, turns[0]), turned(b, turns[1]), bias
    given_ = {"transpose_a": turns[0], "transpose_b": turns[1], "tile": (128, 128), "parts": parts}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "MULTIPROCESSORS", multiprocessors)
        patch.setitem(cuda.RUNGS, 3, "none")  # all of these are for rung 5
        (got,) = emulated(lambda device: cuda.matmul(device, *there, **given_, rung=5), seed, [expected(a, b, bias, 5)])
        assert got.tobytes() == cuda.matmul(Emulator(), *there, **given_, rung=4).tobytes()


@needs_compiler
@pytest.mark.parametrize("turns", TURNS)
def test_tiles_of_256_columns_and_bands_of_pairs(turns, rng, monkeypatch):
    """Whole numbers, so that sums are exact; 9 rows of tiles, so the last has none below it; more tiles than blocks."""
    monkeypatch.setattr(cuda, "MULTIPROCESSORS", 4)
    a, b = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((1032, 72), (72, 264)))
    given_ = {"transpose_a": turns[0], "transpose_b": turns[1], "tile": (128, 256), "parts": 1, "rung": 5}
    device = Emulator()
    np.testing.assert_array_equal(cuda.matmul(device, turned(a, turns[0]), turned(b, turns[1]), **given_), a @ b)
    device.check()
    assert products(device) == [SOURCE.name]


@needs_compiler
def test_it_is_taken_only_by_name_and_for_what_it_can_take(rng):
    x, none = normal(rng, 16, 16), normal(rng, 16, 0)
    for settings_, a, b, rung in (
        ({}, x, x, 4),
        ({"rung": 5}, x, x, 5),
        ({"rung": 5, "precision": "tf32"}, x, x, 3),
        ({"rung": 5}, none, none.T, 3),
    ):
        device = Emulator()
        cuda.matmul(device, a, np.ascontiguousarray(b), **settings_)
        assert products(device) == [cuda.RUNGS[rung]]


def test_the_tile_fits_the_result():
    assert cuda.multicast_tile_for(8192, 8192) == (128, 256)
    assert cuda.multicast_tile_for(512, 64) == (128, 128)


@needs_compiler
@pytest.mark.parametrize("m, blocks", [(1, 2), (129, 2), (385, 4), (128 * 400, 264)])
def test_the_grid_is_whole_pairs_and_no_more_than_run_at_a_time(m, blocks, monkeypatch):
    grids = []
    device = Emulator()
    monkeypatch.setattr(device, "run", lambda source, kernel, grid, *rest, **more: grids.append((kernel, grid)))
    cuda.matmul(device, np.ones((m, 16), np.float32), np.ones((16, 8), np.float32), rung=5)
    assert grids[-1] == ("matmul_bf16", blocks)


# --- mistakes ---------------------------------------------------------------------------------------------------------

PLANTED = [  # what is changed into what, and what must be found
    ("mbarrier_arrive_at(&empty[turn.place], threadIdx.x % 32)", "mbarrier_arrive(&empty[turn.place])", "missing wait"),
    ("threadIdx.x % 32 < BLOCKS", "threadIdx.x % 32 == 0", "deadlock"),
    ("mbarrier_wait_cluster(&empty[turn.place], turn.parity ^ 1)", "mbarrier_wait(&empty[turn.place], turn.parity ^ 1)", "race"),
    ("4 * CONSUMERS * CLUSTER", "4 * CONSUMERS", "missing wait"),
    ("if constexpr (CLUSTER > 1) cluster_sync();\n    else __syncthreads();", "__syncthreads();", "absent block"),
    ("    cluster_sync();\n}", "}", "absent block"),
    ("(1 << CLUSTER) - 1", "1 << cluster_rank()", "deadlock"),
    ("right + half * STEP", "right", "race"),
    ("tile.column + half", "tile.column", "wrong value"),
    ("TILE_N / CLUSTER>(", "TILE_N>(", "missing wait"),
    ("(m + CLUSTER * TILE_M - 1) / (CLUSTER * TILE_M) * CLUSTER", "(m + TILE_M - 1) / TILE_M", "wrong value"),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("old, new, kind", PLANTED)
def test_a_mistake_is_found(old, new, kind, rng, monkeypatch):
    monkeypatch.setattr(cuda, "MULTIPROCESSORS", 1)  # so that a pair of blocks computes several pairs of tiles
    a, b, bias = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((2, 392, 136), (392, 136), (136,)))
    a = a[..., :72] if "TILE_M" in old else a  # one row of tiles, and beside it the next matrix
    found = set()
    for seed in range(3):
        device = Mistaken(SOURCE, old, new, seed, header=HEADERS)
        got = cuda.matmul(device, a, b, bias, transpose_a=True, tile=(128, 128), parts=1, rung=5)
        device.expect(got, a.swapaxes(1, 2) @ b + bias, 0, "y")
        found |= {f.kind for f in device.findings}
    assert kind in found, device.findings


# --- for a GPU --------------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize("columns, turns", list(zip((256, 128, 128, 256), TURNS)))
def test_it_compiles_without_spills_and_without_waiting(columns, turns):
    check_compiled_by_wgmma(SOURCE, columns, turns)


@pytest.mark.gpu
@pytest.mark.parametrize("turns", TURNS)
def test_on_a_gpu_the_same_bits_as_rung_4(turns, rng):
    device = launch.Device()
    if device.architecture != "90a":
        pytest.skip("rung 5 is for sm_90a")
    for (m, n, k), columns in (((200, 72, 1104), 128), ((300, 520, 136), 128), ((1032, 520, 72), 256)):
        a, b, bias = normal(rng, m, k), normal(rng, k, n), normal(rng, n)
        there = [device.xp.asarray(x) for x in (turned(a, turns[0]), turned(b, turns[1]), bias)]
        given_ = {"transpose_a": turns[0], "transpose_b": turns[1], "tile": (128, columns), "parts": 1}
        got, want = (cuda.matmul(device, *there, **given_, rung=rung).get() for rung in (5, 4))
        np.testing.assert_array_equal(got, want)
