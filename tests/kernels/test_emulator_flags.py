"""Fences and flags in the emulator: what one thread tells another, in the same block, in the same cluster, in another one."""

import numpy as np
import pytest
from emulation import kept
from rungs import needs_compiler

from kernels.emulator import Emulator
from kernels.tensor_map import TensorMap

pytestmark = needs_compiler
SEEDS = range(8)


def run(body, arrays, threads, grid, *, seed, cluster=1, name="kernel.cu"):
    """Run a kernel, whose parameters are the arrays and maps, and whose body begins in line 4."""
    types = {"f4": "float*", "i4": "int*"}
    words = [
        f"const __grid_constant__ TensorMap {k}" if isinstance(v, TensorMap) else f"{types[v.dtype.str[1:]]} {k}"
        for k, v in arrays.items()
    ]
    head = f'extern "C" __global__ void __cluster_dims__({cluster}, 1, 1) k({", ".join(words)})'
    device = Emulator(seed, most_accesses=200_000)
    device.run(kept(name, f'#include "lib/ptx90.cuh"\n\n{head} {{\n{body}\n}}\n'), "k", grid, threads, arrays)
    return device


def raced(body, arrays, threads, grid, **settings):
    """The lines of the body at which races are found, by any seed; other findings are none that these tests are about."""
    found = set()
    for seed in SEEDS:
        device = run(body, {k: v.copy() for k, v in arrays().items()}, threads, grid, seed=seed, **settings)
        assert {f.kind for f in device.findings} <= {"race"}, device.findings
        found |= {int(f.where.split(":")[1]) - 3 for f in device.findings}
    return found


CHAIN = """__shared__ int turn;
if (threadIdx.x == 0) turn = atomicAdd(&ticket[0], 1);
__syncthreads();
const int b = turn;
part[b] = b + 1;
if (b > 0) { while (atomicAdd(&done[b - 1], 0) == 0) {} AFTER }
sum[b] = b > 0 ? sum[b - 1] + part[b] : part[b];
if (b == 3) all[0] = part[0] + part[1] + part[2] + part[3];
BEFORE
atomicExch(&done[b], 1);"""


def chain():
    return {name: np.zeros(4, np.int32) for name in ("ticket", "done", "part", "sum", "all")}


def test_what_a_block_was_told_it_tells_the_next():
    """Blocks look back at the one before only, and the last adds up what all of them have written."""
    body = CHAIN.replace("AFTER", "__threadfence();").replace("BEFORE", "__threadfence();")
    assert raced(body, chain, 1, 4) == set()
    arrays = chain()
    run(body, arrays, 1, 4, seed=0)
    assert arrays["sum"].tolist() == [1, 3, 6, 10] and arrays["all"][0] == 10


@pytest.mark.parametrize(("after", "before"), [("", "__threadfence();"), ("__threadfence();", ""), ("", "")])
def test_a_chain_without_one_of_its_fences_races(after, before):
    assert raced(CHAIN.replace("AFTER", after).replace("BEFORE", before), chain, 1, 4) == {7, 8}


def test_one_flag_says_nothing_of_another():
    """The reader has seen both flags change, but fenced only after the first; each is of one block. (Blocks 0 and 1 write.)"""
    body = """if (blockIdx.x < 2) {
    part[blockIdx.x] = 1;
    __threadfence();
    atomicExch(&done[blockIdx.x], 1);
} else if (atomicAdd(&done[0], 0)) {
    __threadfence();
    const bool second = atomicAdd(&done[1], 0);
    sum[0] = part[0];
    if (second) sum[1] = part[1];
}"""
    assert raced(body, chain, 1, 3) == {9}
    fenced = body.replace("if (second)", "__threadfence(); if (second)")
    assert raced(fenced, chain, 1, 3) == set()


def test_flags_may_be_many():
    """More than a clock has numbers for."""
    body = """const int b = blockIdx.x;
if (b < 40) {
    part[b] = b;
    __threadfence();
    atomicExch(&done[b], 1);
    return;
}
for (int i = 0; i < 40; i++)
    if (atomicAdd(&done[i], 0)) {
        __threadfence();
        sum[i] = part[i];
    }"""
    assert raced(body, lambda: {name: np.zeros(40, np.int32) for name in ("done", "part", "sum")}, 1, 41) == set()


def test_what_no_flag_was_set_for_stays_a_race():
    """The blocks that come later have the flag to read, and the value that only the first one's fence did not cover."""
    body = """if (blockIdx.x == 0) {
    __threadfence();
    part[0] = 1;
    atomicExch(&done[0], 1);
} else if (atomicAdd(&done[0], 0)) {
    __threadfence();
    sum[0] = part[0];
}"""
    assert raced(body, chain, 1, 2) == {7}


def test_a_place_that_was_read_may_be_written_by_who_was_told():
    body = """__shared__ bool last;
const int b = blockIdx.x;
sum[b] = part[0];
FENCE
last = atomicAdd(&done[0], 1) == 2;
__threadfence();
if (last) part[0] = 5;"""
    assert raced(body.replace("FENCE", "__threadfence();"), chain, 1, 3) == set()
    assert raced(body.replace("FENCE", ""), chain, 1, 3) == {7}


# --- in a cluster, in a block -----------------------------------------------------------------------------------------

HANDED = """const int b = blockIdx.x % 2, c = blockIdx.x / 2;
if (b == 0) {
    part[c] = 1;
    FENCE
    atomicExch(&done[c], 1);
} else {
    while (atomicAdd(&done[c], 0) == 0) {}
    FENCE
    sum[c] = part[c];
}"""


@pytest.mark.parametrize(("fence", "lines"), [("__threadfence", set()), ("__threadfence_block", {9})])
def test_blocks_of_a_cluster_need_fences_for_more_than_a_block(fence, lines):
    assert raced(HANDED.replace("FENCE", f"{fence}();"), chain, 1, 4, cluster=2) == lines


def test_flags_at_one_address_in_two_blocks_are_two():
    """Each block of a cluster has its own flag, in shared memory: the other one's says nothing of its number."""
    body = """__shared__ int flag, number;
if (threadIdx.x == 0) { flag = 0; number = 0; }
__syncthreads();
if (threadIdx.x == 0) {
    number = 7;
    __threadfence_block();
    atomicExch(&flag, 1);
} else {
    while (atomicAdd(&flag, 0) == 0) {}
    __threadfence_block();
    sum[blockIdx.x] = number;
}"""
    assert raced(body, chain, 2, 4, cluster=2) == set()
    arrays = chain()
    run(body, arrays, 2, 4, seed=1, cluster=2)
    assert arrays["sum"].tolist() == [7] * 4
    late = body.replace("    __threadfence_block();\n    atomicExch", "    atomicExch")
    assert raced(late, chain, 2, 4, cluster=2) == {10}


def test_who_waits_for_a_flag_lets_copies_arrive():
    """One thread waits for a tile, the other for a flag that the first sets then: at no time can nobody go on."""
    body = """__shared__ __align__(128) float tile[32];
__shared__ mbarrier full;
__shared__ int flag;
if (threadIdx.x == 0) { flag = 0; mbarrier_init(&full, 1); fence_mbarrier_init(); }
__syncthreads();
if (threadIdx.x == 0) {
    mbarrier_arrive_expect(&full, 128);
    tma_load(tile, &x, &full, 0, blockIdx.x);
    mbarrier_wait(&full, 0);
    __threadfence_block();
    atomicExch(&flag, 1);
} else {
    while (atomicAdd(&flag, 0) == 0) {}
    __threadfence_block();
    y[blockIdx.x] = tile[5];
}"""
    x = np.arange(64, dtype=np.float32).reshape(2, 32)
    for seed in SEEDS:
        y = np.zeros(2, np.float32)
        run(body, {"x": TensorMap(x, (1, 32)), "y": y}, 2, 2, seed=seed).check()
        np.testing.assert_array_equal(y, x[:, 5])


def test_a_flag_that_nobody_sets_ends():
    device = run("while (atomicAdd(&done[0], 0) == 0) {}", chain(), 2, 1, seed=0)
    assert {f.kind for f in device.findings} == {"endless"}


def test_an_atomic_operation_of_ones_own_does_not_hide_those_of_others():
    """Whoever adds last sets it to 0: the others have added, but no barrier is between."""
    body = "if (atomicAdd(&done[0], 1) == 31) done[0] = 0;"
    assert raced(body, chain, 32, 1) == {1}
    assert raced("atomicAdd(&done[0], 1); __syncthreads(); if (threadIdx.x == 0) done[0] = 0;", chain, 32, 1) == set()


@pytest.mark.parametrize(("before", "lines"), [("__threadfence(); ", set()), ("", {3})])
def test_a_flag_that_was_set_without_a_fence_is_not_known_to_be_set(before, lines):
    """Whoever comes last may take it for an ordinary number, if the others' changes of it came after their fences."""
    body = f"""{before}const bool last = atomicAdd(&done[0], 1) == 2;
__threadfence();
if (last) done[0] = 7;"""
    assert raced(body, chain, 1, 3) == lines


@pytest.mark.parametrize(
    ("add", "lines"),
    [
        ("atomicAdd(&done[0], 1);", set()),
        ("atomicAdd_system(&done[0], 1);", set()),
        ("atomicAdd_block(&done[0], 1);", {1}),
        ("if (blockIdx.x == 0) atomicAdd_block(&done[0], 1); else atomicAdd(&done[0], 1);", {1}),
        ("atomicAdd_block(&done[blockIdx.x], 1);", set()),
        ("__shared__ int own; own = 0; atomicAdd_block(&own, 1); part[blockIdx.x] = own;", set()),
    ],
)
@pytest.mark.parametrize("cluster", [1, 2, 4])
def test_an_atomic_operation_for_a_block_is_none_for_others(add, lines, cluster):
    assert raced(add, chain, 1, 4, cluster=cluster) == lines


def test_many_atomic_operations_on_one_place_are_remembered_by_thread():
    body = """for (int i = 0; i < 200; i++) atomicAdd(&done[threadIdx.x % 2], 1);
if (threadIdx.x == 7) part[0] = done[0];
__syncthreads();
if (threadIdx.x == 7) part[1] = done[1];"""
    assert raced(body, chain, 32, 1) == {1, 2}
