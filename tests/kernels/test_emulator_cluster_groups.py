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


SIZES = """#include <cooperative_groups.h>
extern "C" __global__ void __cluster_dims__(2, 3) k(unsigned* y, unsigned* of_other) {
    cooperative_groups::cluster_group c = cooperative_groups::this_cluster();
    cooperative_groups::thread_group g = c;
    __shared__ unsigned own;
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned* mine = y + 16 * (block * blockDim.x + threadIdx.x);
    mine[0] = c.dim_blocks().x, mine[1] = c.dim_blocks().y, mine[2] = c.num_blocks(), mine[3] = c.block_rank();
    mine[4] = c.block_index().x, mine[5] = c.block_index().y, mine[6] = c.thread_index().x, mine[7] = c.thread_index().y;
    mine[8] = c.dim_threads().x, mine[9] = c.num_threads(), mine[10] = c.thread_rank(), mine[11] = g.size();
    asm("mov.u32 %0, %cluster_ctaid.y; mov.u32 %1, %cluster_nctaid.y; mov.u32 %2, %clusterid.y; mov.u32 %3, %nclusterid.x;"
        : "=r"(mine[12]), "=r"(mine[13]), "=r"(mine[14]), "=r"(mine[15]));
    if (threadIdx.x == 0) own = block;
    g.sync();
    if (threadIdx.x == 0) of_other[block] = *c.map_shared_rank(&own, (c.block_rank() + 1) % c.num_blocks());
    c.sync();
}
"""


def test_clusters_along_two_axes(each_compiler):
    y, of_other = np.zeros((2, 6, 4, 32, 16), np.uint32), np.zeros((2, 6, 4), np.uint32)
    RawKernel(SIZES, "k")((4, 6, 2), (32,), (y, of_other))
    z, row, column, thread = np.indices((2, 6, 4, 32))
    across, down = column % 2, row % 3
    rank = across + 2 * down
    wants = (
        2,
        3,
        6,
        rank,
        across,
        down,
        32 * across + thread,
        down,
        64,
        192,
        32 * rank + thread,
        192,
        down,
        3,
        row // 3,
        2,
    )
    for i, want in enumerate(wants):
        np.testing.assert_array_equal(y[..., i], np.broadcast_to(want, thread.shape), err_msg=str(i))
    after = (rank[..., 0] + 1) % 6
    first = column[..., 0] // 2 * 2 + 4 * (row[..., 0] // 3 * 3 + 6 * z[..., 0])
    np.testing.assert_array_equal(of_other, first + after % 2 + 4 * (after // 2))
    with pytest.raises(EmulatorError, match=r"absent block: .* \(thread 0 of block \(\d, \d, \d\)\)"):
        RawKernel(SIZES.replace("    c.sync();\n", ""), "k")((4, 6, 2), (32,), (y, of_other))
    with pytest.raises(
        ValueError, match=r"the grid must be a multiple of the cluster of \(2, 3, 1\) blocks, got \(4, 4, 2\)"
    ):
        RawKernel(SIZES, "k")((4, 4, 2), (32,), (y, of_other))
