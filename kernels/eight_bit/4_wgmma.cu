// The linear layer on int8 numbers on Hopper's tensor cores. Definition: 1_naive.cu.
//
// New here: nothing but the numbers. Who copies, who multiplies, who waits for whom and in which order tiles come is
// matmul/wgmma.cuh's, as for bf16; a step of 128 bytes is 128 places of the inner axis instead of 64, and wgmma adds up whole
// numbers. As in rung 3 the weights come transposed, because wgmma too takes bytes along the inner axis only.
//
// Needs sm_90a.
#define FACTOR signed char
#define SUM int
#include "eight_bit/bytes.cuh"
#include "eight_bit/columns.cuh"

// Maps of p (m, k) and q (n, k), with boxes of (TILE_M or TILE_N, STEP). m, k and n must be more than 0.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    int8(const __grid_constant__ TensorMap p, const float* x_scale, const __grid_constant__ TensorMap q, const float* scale,
         const float* bias, float* y, long long m, int k, int n) {
    DYNAMIC_SHARED(signed char, tiles);
    __shared__ Ring<STAGES> ring;
    __shared__ Columns columns;
    make(ring);
    const long long tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1ll) / TILE_N;
    const int steps = (k + STEP - 1) / STEP;
    Turn<STAGES> turn;
    for (long long number = blockIdx.x; number < tiles_m * tiles_n; number += gridDim.x) {
        const Place tile(number, tiles_m, tiles_n);
        if (is_producer()) {
            int at = 0;
            turn = produce<false>(ring, tiles, steps, [&](signed char* left, signed char* right, mbarrier* full) {
                tma_load(left, &p, full, at, tile.row);
                tma_load(right, &q, full, at, tile.column);
                at += STEP;
            }, turn);
            continue;
        }
        columns.start(tile.column, n, scale, bias);
        int d[TILE_N / 2] = {};
        turn = consume<false, false>(d, ring, tiles, steps, turn);
        columns.store(y, tile.row, tile.column, m, n, x_scale, bias, [&](int e, float of_row, float of_column, float b) {
            return scaled(d[e], of_row, of_column, bias != nullptr, b);
        });
    }
}
