// The product of two float32 matrices on Hopper's bf16 tensor cores, about as exact as on float32 units.
//
// New here: nothing but who does what (matmul/wgmma.cuh). Three parts of each factor, six products of them, sums that do not
// drift, and numbers that are not finite: 3_split.cu. The producer goes through the inner axis six times. A longer ring:
// consume_by_step.
//
// Not yet run on hardware.
//
// Needs sm_90a.
#define BLOCKS_OF_AN_SM 1
#define STAGES 6
#include "matmul/definition.cuh"
#include "matmul/parts.cuh"
#include "matmul/product.cuh"

// As in rung 4, of a and b in float32 and of maps of their parts (3 * batches or 3, ...).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    matmul_float32(const float* a, const float* b, const __grid_constant__ TensorMap a_parts,
                   const __grid_constant__ TensorMap b_parts, const float* bias, float* y, long long batches, long long m,
                   long long n, long long k, bool a_batches, bool b_batches, long long part_size) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    const Problem problem = {batches, m, n, k, part_size};
    Turn<STAGES> turn;
    for (long long number = blockIdx.x; number < problem.tiles(); number += gridDim.x) {
        const Tile tile(problem, number);
        const int steps = PAIRS * tile.steps;
        if (is_producer()) {
            auto matrix = [&](int part, bool many) { return many ? part * (int)batches + tile.batch : part; };
            int pair = 0, step = 0;
            turn = produce<!TRANSPOSE_B>(ring, tiles, steps, [&](bf16* left, bf16* right, mbarrier* full) {
                const int at = tile.begins + step * STEP;
                start_tile<TRANSPOSE_A, TILE_M>(
                    left, tile.row, at, matrix(left_part(pair), a_batches),
                    [&](bf16* to, int x, int y, int z) { tma_load(to, &a_parts, full, x, y, z); });
                start_tile<!TRANSPOSE_B, TILE_N>(
                    right, tile.column, at, matrix(right_part(pair), b_batches),
                    [&](bf16* to, int x, int y, int z) { tma_load(to, &b_parts, full, x, y, z); });
                if (++step == tile.steps) step = 0, pair++;
            }, turn);
            continue;
        }
        float total[TILE_N / 2];
        begin(total, bias ? bias + tile.column : nullptr, n - tile.column);
        turn = consume_by_step<TRANSPOSE_A, !TRANSPOSE_B>(total, ring, tiles, steps, turn);
        float* const of_matrix = y + tile.matrix * m * n;
        bool all_finite = true;
        store_tile(of_matrix, tile.row, tile.column, m, (int)n, [&](int e, long long, int) {
            all_finite &= is_finite(total[e]);
            return total[e];
        });
        if (all_finite) continue;
        const float* const left = a + (a_batches ? tile.batch * m * k : 0);
        const float* const right = b + (b_batches ? tile.batch * n * k : 0);
#pragma unroll 1
        for (int e = 0; e < TILE_N / 2; e++) {
            const long long row = tile.row + row_of(e % 4), column = tile.column + column_of(e / 4, e % 4), at = row * n + column;
            if (row >= m || column >= n || is_finite(of_matrix[at])) continue;
            const float sum = product_at(left, right, row, column, m, n, k, tile.begins, min(k, tile.begins + part_size));
            of_matrix[at] = bias ? sum + bias[column] : sum;
        }
    }
}
