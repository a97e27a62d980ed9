// The product of two bfloat16 matrices by wgmma, in which a warp group multiplies tiles that lie in shared memory.
// Definition, transposed factors, bias and parts of the inner axis are those of the rungs before.
//
// New here: threads that do different things. One only says which tiles shall come, TMA brings them in whole boxes, swizzled
// and with zeros where the matrix ends, and two warp groups only multiply; a ring of barriers, not a barrier for all, says
// who may go on. That is matmul/wgmma.cuh.
//
// New too: a block computes one tile of the result after the other; there are no more blocks than run at a time. The
// producer does not notice where one tile ends: it fills the ring for the next while the consumers still store this one.
//
// Transposed factors cost nothing: wgmma takes an operand either way (ACROSS), and TMA brings it as it lies.
//
// What it costs: TMA takes only rows that are multiples of 16 bytes (else the host makes a copy with zeros behind each row);
// a tile of 128 x 256 numbers has 128 sums in each thread of a consumer, so there is one such block per multiprocessor,
// two of narrower tiles.
//
// Needs sm_90a.
#include "matmul/product.cuh"

// k must be more than 0, and sizes at most MOST (tensor_map.py). The maps' boxes are (1, TILE_M or TILE_N, STEP), or (1, STEP, 64) of a
// factor that lies across.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    matmul_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const float* bias, float* y,
                long long batches, long long m, long long n, long long k, bool a_batches, bool b_batches,
                long long part_size) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    compute_tiles({batches, m, n, k, part_size}, a, a_batches, bias, y, ring, tiles,
                  [&](const Tile& tile, int at, bf16* right, mbarrier* full) {
        start_tile<!TRANSPOSE_B, TILE_N>(right, tile.column, at, b_batches ? tile.batch : 0,
                                         [&](bf16* to, int x, int y, int z) { tma_load(to, &b, full, x, y, z); });
    });
}
