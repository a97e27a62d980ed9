"""Clusters in the emulator: the planted mistakes, what is no mistake, and launches that cannot be."""

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels.emulator import Emulator
from kernels.launch import NoCuda, compile_for
from kernels.source import WrongSource, clusters_of, kernels_of, needs
from kernels.tensor_map import TensorMap

pytestmark = needs_compiler

SEEDS = range(5)


def test_blocks_of_two_clusters_are_ordered_by_nothing(tmp_path):
    device = Emulator()
    device.run(write(tmp_path, "y[0] = 1;", "int* y", 1), "k", 2, 1, {"y": np.zeros(1, np.int32)})
    (race,) = device.findings
    assert race.kind == "race" and "and a write by thread 0 of another block at kernel.cu:3" in race.message


def write(tmp_path, body, parameters, blocks="4"):
    file = tmp_path / "kernel.cu"
    attributes = f"__launch_bounds__(1024) __cluster_dims__({blocks}, 1, 1)"
    head = f'#include "lib/ptx90.cuh"\nextern "C" __global__ void {attributes} k({parameters})'
    file.write_text(f"{head} {{\n{body}\n}}\n")
    return file


ROUND = """
    __shared__ int from_left[2];
    __shared__ unsigned all[8];
    const int t = threadIdx.x, rank = cluster_rank(), size = cluster_size();
    int mine = 100 * blockIdx.y + blockIdx.x;
    cluster_sync();
    for (int step = 0; step < size; step++) {
        if (t == 0) cluster_store(&from_left[step % 2], (rank + 1) % size, mine);
        cluster_sync();
        mine = from_left[step % 2];
    }
    __syncthreads();
    if (t < size) cluster_store(&all[rank], t, (unsigned)mine);
    cluster_sync();
    y[(blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + t] = all[t % size];
"""


@pytest.mark.parametrize(("blocks", "threads"), [(1, 33), (2, 1), (3, 64), (8, 33)])
def test_clusters_of_any_size_on_a_grid_of_several(blocks, threads, tmp_path):
    """A number goes once around and comes back; between two steps it lies in two places in turns."""
    file = write(tmp_path, ROUND.replace("t < size)", "t == 0) for (int t = 0; t < size; t++)"), "int* y", "BLOCKS")
    for seed in range(3):
        device = Emulator(seed, banks=seed == 2)
        y = device.empty((3, 2 * blocks, threads), np.int32)
        device.run(file, "k", (2 * blocks, 3), threads, {"y": y}, defines={"BLOCKS": blocks})
        device.check()
        block, t = np.arange(2 * blocks)[:, None], np.arange(threads)
        want = 100 * np.arange(3)[:, None, None] + block // blocks * blocks + t % blocks
        np.testing.assert_array_equal(device.result(y), want)


TILES = """
    __shared__ __align__(128) float tile[64];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&full, 256);
        tma_load(tile, &x, &full, 0, blockIdx.x);
    }
    __syncthreads();
    named_barrier_sync(1, 64);
    mbarrier_wait(&full, 0);
    cluster_sync();
    const float theirs = cluster_load(&tile[t], cluster_size() - 1 - cluster_rank());
    cluster_sync();
    y[blockIdx.x * 64 + t] = theirs;
"""


def test_each_block_has_its_own_copies_and_barriers(tmp_path):
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    file = write(tmp_path, TILES, "const __grid_constant__ TensorMap x, float* y")
    for seed in SEEDS:
        device = Emulator(seed)
        y = device.empty(x.shape, np.float32)
        device.run(file, "k", 8, 64, {"x": TensorMap(x, (1, 64)), "y": y})
        device.check()
        np.testing.assert_array_equal(y, x.reshape(2, 4, 64)[:, ::-1].reshape(8, 64))


def test_a_copy_is_known_to_the_block_that_waited_for_it(tmp_path):
    """And to no other one, not even if that has waited for a later copy of its own."""
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    waits, comes = "    mbarrier_wait(&full, 0);\n", "    cluster_sync();\n"
    body = TILES.replace(waits + comes, comes + waits)
    body = body.replace("cluster_load(", "cluster_rank() == 0 ? 0 : cluster_load(")
    file = write(tmp_path, body, "const __grid_constant__ TensorMap x, float* y", 2)
    for seed in range(8):
        device = Emulator(seed)
        device.run(file, "k", 2, 64, {"x": TensorMap(x, (1, 64)), "y": device.empty(x.shape, np.float32)})
        assert {f.kind for f in device.findings} & {"race", "missing wait"}


FROM_AFAR = """
    __shared__ __align__(128) float tile[128];
    __shared__ mbarrier full[2];
    const int t = threadIdx.x, rank = cluster_rank(), other = 1 - rank;
    if (t == 0) {
        mbarrier_init(&full[0], 1);
        mbarrier_init(&full[1], 1);
        fence_mbarrier_init();
    }
    cluster_sync();
    if (t == 0) {
        tma_load_multicast(tile, &x, &full[0], 1 << other, 0, blockIdx.x);
        mbarrier_arrive_expect(&full[1], 256);
        tma_load(tile + 64, &x, &full[1], 0, blockIdx.x);
        mbarrier_wait(&full[1], 0);
        mbarrier_arrive_expect(&full[0], 256);
    }
    mbarrier_wait(&full[0], 0);
    y[blockIdx.x * 64 + t] = tile[t];
"""
MAP = "const __grid_constant__ TensorMap x, float* y"


def bring_from_afar(tmp_path, body, seed):
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    device = Emulator(seed)
    y = device.empty(x.shape, np.float32)
    device.run(write(tmp_path, body, MAP, 2), "k", 2, 64, {"x": TensorMap(x, (1, 64)), "y": y})
    return device, y, x


def test_bytes_may_come_before_they_are_expected(tmp_path):
    """The other block's copy or this one's comes first, and only after this one's the bytes of the other are expected."""
    for seed in range(20):
        device, y, x = bring_from_afar(tmp_path, FROM_AFAR, seed)
        device.check()
        np.testing.assert_array_equal(y, x[::-1])


def test_a_copy_from_another_block_must_be_waited_for(tmp_path):
    """Also if the block lives long enough for it by chance, and if it is another copy that it waits for."""
    body = FROM_AFAR.replace("mbarrier_wait(&full[0], 0);", "").replace("= tile[t]", "= t")
    for seed in range(20):
        device, _, _ = bring_from_afar(tmp_path, body, seed)
        assert {f.kind for f in device.findings} == {"absent block"}


def test_who_waits_for_a_copy_from_another_block_knows_of_its_bytes_only(tmp_path):
    """Not of what the thread that started it did before, unless it waits for the cluster."""
    body = FROM_AFAR.replace("tma_load_multicast", "y[blockIdx.x * 64 + 1] = 1; tma_load_multicast")
    body = body.replace("y[blockIdx.x * 64 + t] = tile", "y[(1 - blockIdx.x) * 64 + t] = tile")
    for wait, kinds in (("mbarrier_wait", {"race"}), ("mbarrier_wait_cluster", set())):
        waiting = body.replace("mbarrier_wait(&full[0]", f"{wait}(&full[0]")
        found = {f.kind for seed in range(5) for f in bring_from_afar(tmp_path, waiting, seed)[0].findings}
        assert found == kinds


LEAVING = """
    __shared__ int number;
    const int t = threadIdx.x, rank = cluster_rank();
    if (t == 1) return;
    if (t == 2) {
        cluster_arrive();
        return;
    }
    for (int step = 0; step < 3; step++) {
        if (step % 2 == rank) number = step;
        cluster_sync();
        if (step % 2 != rank) y[step] = cluster_load(&number, 1 - rank);
    }
    cluster_sync();
"""


def test_the_barrier_does_not_wait_for_threads_that_have_returned(tmp_path):
    """With and without having come; nor in the phases after that."""
    file = write(tmp_path, LEAVING, "int* y", 2)
    for seed in range(20):
        device = Emulator(seed)
        y = device.empty((3,), np.int32)
        device.run(file, "k", 2, 3, {"y": y})
        device.check()
        assert device.result(y).tolist() == [0, 1, 2]


TURNS = """
    const int t = threadIdx.x;
    int sum = t + 1000 * blockIdx.x;
    if (cluster_rank() == 0) {
        __syncthreads();
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    } else {
        for (int i = 0; i < 3; i++) sum += __shfl_down_sync(0xffffffffu, sum, 1);
        __syncthreads();
        __syncthreads();
    }
    y[blockIdx.x * 64 + t] = sum;
"""


def test_blocks_of_a_cluster_may_go_different_ways(tmp_path):
    file, results = write(tmp_path, TURNS, "int* y", 2), set()
    for seed in range(10):
        device = Emulator(seed)
        y = device.empty((2, 64), np.int32)
        device.run(file, "k", 2, 64, {"y": y})
        device.check()
        results.add(y.tobytes())
    assert len(results) == 1
    t = np.arange(64)
    np.testing.assert_array_equal(y[0], t + (t ^ 1))


def test_a_cluster_is_what_the_source_says():
    text = "#define PAIR 2\n// __cluster_dims__(8, 1, 1)\n" + "\n".join(
        f'extern "C" __global__ void {attributes}{name}(float* y) {{}}'
        for name, attributes in {
            "alone": "",
            "bounded": "__launch_bounds__(64) ",
            "four": "__cluster_dims__(4, 1, 1) ",
            "pair": "__cluster_dims__(PAIR) __launch_bounds__(64) ",
            "given": "__launch_bounds__(64) __cluster_dims__( BLOCKS , 1, 1 ) ",
        }.items()
    )
    assert list(kernels_of(text)) == ["alone", "bounded", "four", "pair", "given"]
    assert clusters_of(text, {"BLOCKS": 8}) == {"four": (4, 1, 1), "pair": (2, 1, 1), "given": (8, 1, 1)}
    assert clusters_of(text, {"BLOCKS": 8, "PAIR": 3})["pair"] == (3, 1, 1)
    assert needs(text) == "90" and needs(text.replace("__cluster_dims__", "__launch_bounds__")) is None
    for blocks in ("9, 1, 1", "0, 1, 1", "3, 3, 1", "2, 1, 5", "1, 0, 2", "BLOCKS, 1, 1", "1, 1, 1, 1"):
        with pytest.raises(WrongSource, match="kernel k: a cluster is 1 to 8 blocks, as in __cluster_dims__"):
            clusters_of(f"__global__ void __cluster_dims__({blocks}) k(float* y)")


def test_a_grid_is_a_multiple_of_the_cluster(tmp_path):
    file = write(tmp_path, "y[blockIdx.x] = cluster_rank();", "float* y")
    message = r"kernel k: the grid must be a multiple of the cluster of \(4, 1, 1\) blocks, got \(6, 4, 1\)"
    with pytest.raises(ValueError, match=message):
        Emulator().run(file, "k", (6, 4), 32, {"y": np.zeros(6, np.float32)})


@needs_nvrtc
def test_clusters_are_for_cards_that_have_them(tmp_path):
    file = write(tmp_path, "y[blockIdx.x] = 1;", "float* y")
    file.write_text(file.read_text().replace("lib/ptx90.cuh", "lib/cuda.cuh"))
    with pytest.raises(NoCuda, match=r"kernel\.cu is for sm_90, it cannot run on sm_89"):
        compile_for(file, "89")
