// The product of two bfloat16 matrices by wgmma, in which two blocks bring the right factor for each other.
//
// New here: the two blocks of a cluster compute tiles that lie one below the other, so they need the same columns of
// the right factor at the same time. Each brings its own rows of the left factor, and of the right one a half that goes
// to both (multicast). So a block asks the second-level cache for TILE_M + TILE_N / 2 rows a step, in rung 4 for
// TILE_M + TILE_N. The sums, and their bits, are those of rung 4.
//
// What it costs: both blocks fill both rings. So a place is empty only when the consumers of both have given it back, a
// warp says so to both (lib/ring.cuh), and the slower block delays the other one. No block may return before the other
// one has given back its last place. Before an arrival that another block is to see, the assembler puts a fence of the
// whole card's memory (MEMBAR.ALL.GPU). Rows of tiles come in pairs: if their number is odd, one more is computed, of
// which nothing is stored. And half a tile must be whole panels, so tiles have 128 or 256 columns.
//
// Not yet run on hardware.
//
// Needs sm_90a.
#define CLUSTER 2
#include "matmul/product.cuh"

static_assert(TILE_N % 128 == 0 && BAND % CLUSTER == 0, "a half is whole panels, and a pair lies in one band");

// As in rung 4, but the box of a b that does not lie across is (1, TILE_N / 2, STEP). The grid is a multiple of CLUSTER.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    matmul_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const float* bias, float* y,
                long long batches, long long m, long long n, long long k, bool a_batches, bool b_batches,
                long long part_size) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES, CLUSTER> ring;
    make(ring);
    const int half = cluster_rank() * (TILE_N / CLUSTER);  // its first column in the tile
    compute_tiles({batches, m, n, k, part_size}, a, a_batches, bias, y, ring, tiles,
                  [&](const Tile& tile, int at, bf16* right, mbarrier* full) {
        start_tile<!TRANSPOSE_B, TILE_N / CLUSTER>(
            right + half * STEP, tile.column + half, at, b_batches ? tile.batch : 0,
            [&](bf16* to, int x, int y, int z) { tma_load_multicast(to, &b, full, (1 << CLUSTER) - 1, x, y, z); });
    });
    cluster_sync();
}
