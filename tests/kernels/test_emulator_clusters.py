"""Clusters in the emulator: the planted mistakes, what is no mistake, and launches that cannot be."""

from pathlib import Path

import numpy as np
import pytest
from emulation import marks
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, emulator, launch
from kernels.emulator import Emulator
from kernels.launch import NoCuda, compile_for
from kernels.source import WrongSource, clusters_of, kernels_of, needs
from kernels.tensor_map import TensorMap

pytestmark = needs_compiler

PLANTED = Path(emulator.__file__).with_name("planted_clusters.cu")
SEEDS = range(5)


def run(kernel, seed, **options):
    device = Emulator(seed, **options)
    x = np.random.default_rng(0).standard_normal((2, 128)).astype(np.float32)
    y = device.empty(x.shape, np.float32)
    device.run(PLANTED, kernel, 4, 64, {"x": x, "y": y}, shared_bytes=256)
    return device, x[:, ::-1], y


@pytest.mark.parametrize("kernel", marks(PLANTED))
def test_finds_exactly_what_is_planted(kernel):
    found = set()
    for seed in SEEDS:
        device, want, y = run(kernel, seed)
        found |= {(f.where, f.kind) for f in device.findings}
        if not marks(PLANTED)[kernel]:
            np.testing.assert_array_equal(device.result(y), want)
        else:
            assert device.findings, f"nothing found with seed {seed}"
    assert found == marks(PLANTED)[kernel]


def said(kernel, kind):
    return "\n".join(f.message for f in run(kernel, 0)[0].findings if f.kind == kind)


def test_findings_name_the_blocks():
    assert "of tile of block 1 of the cluster by thread" in said("changed_too_early", "race")
    assert "and a write by thread 16 of block 1 of the cluster at" in said("changed_too_early", "race")
    assert "shared memory of block 0 of the cluster, which may have returned before" in said(
        "no_barrier_after", "absent block"
    )
    assert (
        "64 wait here for the cluster, of which 64 threads are missing; the first is thread 0 of its block 1"
        in said("one_block_does_not_come", "deadlock")
    )


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


@pytest.mark.parametrize("name", ["planted.cu", "planted90.cu", "planted90a.cu"])
def test_blocks_that_do_not_use_their_cluster_are_as_they_were(name, tmp_path):
    """All that is planted in single blocks, in clusters: what each block has of its own is not the other one's."""
    alone = PLANTED.with_name(name)
    together = tmp_path / name
    text = alone.read_text().replace("__global__ void ", "__global__ void __cluster_dims__(2, 1, 1) ")
    if name == "planted90a.cu":  # else one block has its copies only when the other one has returned
        text = text.replace("mbarrier_wait(&full, 0);", "mbarrier_wait(&full, 0); cluster_sync();")
    together.write_text(text)
    assert set(clusters_of(together.read_text())) == set(kernels_of(alone.read_text()))
    products = name == "planted90a.cu"
    x = np.random.default_rng(0).standard_normal((128, 64) if products else (2, 64))
    x = (np.rint(x * 4096) / 4096).astype(np.float32)  # sums are exact in any order
    settings = {"shared_bytes": 2 * 64 * 64 * 2} if products else {}
    given = {"x": TensorMap(bfloat16.to_bits(x), (64, 64), 128) if products else TensorMap(x, (1, 64))}
    if name == "planted.cu":
        x = x.reshape(-1)
        given = {"x": x, "n": x.size}
    for kernel, want in marks(alone).items():
        if "endless" in {kind for _, kind in want}:
            continue  # how far the other block has come by then is chance
        found, results, uses = set(), [], []
        for file, seed in ((alone, 0), *((together, seed) for seed in SEEDS)):
            device = Emulator(seed, most_accesses=20_000 if name == "planted.cu" else 10**7, banks=not want)
            y = device.empty(x.shape, np.float32)
            device.run(file, kernel, 2, 128 if products else 64, {**given, "y": y}, **settings)
            found |= {(f.where, f.kind) for f in device.findings if f.kind != "unwritten" and file == together}
            results.append(y.tobytes())
            uses.append(device.bank_uses)
        assert found == {(line, kind) for line, kind in want if kind not in ("unwritten", "wrong value")}
        if not want:
            assert len(set(results)) == 1 and all(use == uses[0] for use in uses), kernel


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
    assert clusters_of(text, {"BLOCKS": 8}) == {"four": 4, "pair": 2, "given": 8}
    assert clusters_of(text, {"BLOCKS": 8, "PAIR": 3})["pair"] == 3
    assert needs(text) == "90" and needs(text.replace("__cluster_dims__", "__launch_bounds__")) is None
    for blocks in ("9, 1, 1", "0, 1, 1", "1, 2, 1", "1, 1, 2", "BLOCKS, 1, 1"):
        with pytest.raises(WrongSource, match="kernel k: a cluster is 1 to 8 blocks along x, as in __cluster_dims__"):
            clusters_of(f"__global__ void __cluster_dims__({blocks}) k(float* y)")


def test_a_grid_is_a_multiple_of_the_cluster(tmp_path):
    file = write(tmp_path, "y[blockIdx.x] = cluster_rank();", "float* y")
    message = r"kernel k: the grid must be a multiple of the cluster of 4 blocks along x, got \(6, 4, 1\)"
    with pytest.raises(ValueError, match=message):
        Emulator().run(file, "k", (6, 4), 32, {"y": np.zeros(6, np.float32)})


@needs_nvrtc
def test_clusters_compile_for_cards_that_have_them(tmp_path):
    for architecture in ("90", "90a", "120"):
        assert set(compile_for(PLANTED, architecture).resources()) == set(kernels_of(PLANTED.read_text()))
    file = write(tmp_path, "y[blockIdx.x] = 1;", "float* y")
    file.write_text(file.read_text().replace("lib/ptx90.cuh", "lib/cuda.cuh"))
    with pytest.raises(NoCuda, match=r"kernel\.cu is for sm_90, it cannot run on sm_89"):
        compile_for(file, "89")


@pytest.mark.gpu
def test_a_gpu_does_what_the_emulator_does_with_kernels_that_are_right():
    device = launch.Device()
    if int(device.architecture.rstrip("a")) < 90:
        pytest.skip("this card has no clusters")
    x = np.random.default_rng(0).standard_normal((2, 128)).astype(np.float32)
    for kernel in (k for k, found in marks(PLANTED).items() if not found):
        y = device.empty(x.shape, np.float32)
        device.run(PLANTED, kernel, 4, 64, {"x": device.xp.asarray(x), "y": y}, shared_bytes=256)
        np.testing.assert_array_equal(y.get(), x[:, ::-1], err_msg=kernel)
