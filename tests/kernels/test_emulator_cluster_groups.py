"""Clusters by <cooperative_groups.h>: a histogram over the shared memory of several blocks, and what goes wrong with it."""

import numpy as np
import pytest
from rungs import needs_compiler

from kernels.emulator import EmulatorError
from kernels.emulator.raw import RawKernel

pytestmark = needs_compiler

# Each block of a cluster has a part of the bins. `odd` is a static array that the next block reads.
HISTOGRAM = """#include <cooperative_groups.h>
namespace cg = cooperative_groups;

extern "C" __global__ void __cluster_dims__(2, 1, 1) histogram(int* bins, int* seen, int of_block, const int* x, int n) {
    extern __shared__ int part[];
    __shared__ int odd[5];
    cg::cluster_group cluster = cg::this_cluster();
    const unsigned rank = cluster.block_rank(), next = (rank + 1) % cluster.num_blocks();
    for (int i = threadIdx.x; i < of_block; i += blockDim.x) part[i] = 0;
    if (threadIdx.x < 5) odd[threadIdx.x] = threadIdx.x + 100 * rank;
    FIRST
    for (int i = cg::this_grid().thread_rank(); i < n; i += cg::this_grid().num_threads()) {
        int* there = cluster.map_shared_rank(part, x[i] / of_block);
        atomicAdd(there + x[i] % of_block, 1);
    }
    int* theirs = cluster.map_shared_rank(odd, next);
    if (threadIdx.x == 0) seen[blockIdx.x] = theirs[4] + 1000 * cluster.query_shared_rank(theirs);
    SECOND
    for (int i = threadIdx.x; i < of_block; i += blockDim.x) atomicAdd(&bins[rank * of_block + i], part[i]);
}
"""
SYNC = "cluster.sync();"


def histogram(first=SYNC, second=SYNC, old="", new=""):
    assert old in HISTOGRAM
    code = HISTOGRAM.replace("FIRST", first).replace("SECOND", second).replace(old, new)
    x = np.random.default_rng(0).integers(0, 64, 500).astype(np.int32)
    bins, seen = np.zeros(64, np.int32), np.zeros(4, np.int32)
    RawKernel(code, "histogram")((4,), (64,), (bins, seen, np.int32(32), x, np.int32(len(x))), shared_mem=128)
    return bins, np.bincount(x, minlength=64), seen


@pytest.mark.parametrize(
    "sync", [SYNC, "{ auto token = cluster.barrier_arrive(); cluster.barrier_wait(std::move(token)); }"]
)
def test_a_histogram_over_a_cluster(sync, each_compiler):
    bins, want, seen = histogram(sync.replace("std::move", "static_cast<decltype(token)&&>"))
    np.testing.assert_array_equal(bins, want)
    assert seen.tolist() == [1104, 4, 1104, 4]


@pytest.mark.parametrize(
    "how, why",
    [
        ({"first": "__syncthreads();"}, r"kernel\.cu:14: absent block: .* may not have begun"),
        ({"second": "__syncthreads();"}, r"kernel\.cu:19: race: read of 4 bytes at byte .* an atomic operation by thread \d+ of block \d of the cluster"),
        ({"second": "__syncthreads();"}, r"kernel\.cu:14: absent block: .* may have returned before"),
        ({"old": "there +", "new": "there + 32 +"}, r"kernel\.cu:14: out of range: atomic operation of 4 bytes at byte \d+ of dynamic shared memory of block \d of the cluster"),
        ({"old": "theirs[4]", "new": "theirs[5]"}, r"kernel\.cu:17: out of range: read of 4 bytes at byte 20 of odd of block \d of the cluster"),
        ({"old": "odd, next", "new": "odd, 2"}, "bad operand: block 2 of a cluster of 2 blocks"),
        ({"old": "map_shared_rank(odd", "new": "map_shared_rank(seen"}, "bad operand: an address that is not in this block's shared memory"),
    ],
)  # fmt: skip
def test_mistakes_with_the_memory_of_other_blocks(how, why):
    with pytest.raises(EmulatorError, match=why):
        histogram(**how)


def test_sizes_of_a_cluster():
    code = """#include <cooperative_groups.h>
    extern "C" __global__ void __cluster_dims__(4) k(unsigned* y) {
        cooperative_groups::cluster_group c = cooperative_groups::this_cluster();
        cooperative_groups::thread_group g = c;
        unsigned* mine = y + 8 * (blockIdx.x * blockDim.x + threadIdx.x);
        mine[0] = c.dim_blocks().x, mine[1] = c.num_blocks(), mine[2] = c.block_index().x, mine[3] = c.thread_index().x;
        mine[4] = c.dim_threads().x, mine[5] = c.num_threads(), mine[6] = c.thread_rank(), mine[7] = g.size();
        g.sync();
    }"""
    y = np.zeros((8, 32, 8), np.uint32)
    RawKernel(code, "k")((8,), (32,), (y,))
    block, thread = np.indices((8, 32))
    rank = block % 4
    for i, want in enumerate((4, 4, rank, 32 * rank + thread, 128, 128, 32 * rank + thread, 128)):
        np.testing.assert_array_equal(y[..., i], np.broadcast_to(want, (8, 32)))
