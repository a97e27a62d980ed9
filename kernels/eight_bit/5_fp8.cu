// The linear layer on fp8 numbers on Hopper's fp8 tensor cores. Definition: 1_naive.cu.
//
// New here: the tensor cores take the bytes as they are, at twice the rate of bf16. Tiles, ring and order are those of int8
// (4_wgmma.cu), and so do the weights come transposed. But of a sum these units keep 13 bits, where float has 23: when thousands
// of terms of one sign have been added up, most of what another one brings is cut off. So no sum gets there. As in rung 4,
// what a step of 128 terms has added up goes to a second set of sums, in float, and is off by about 2^-13 of itself. In the
// emulator, a sum of 8192 terms of one sign is then off by 0.06 %; all in one set of sums it would be by 13 %. (cuBLAS has two
// sets unless one asks for "fast accumulation".)
//
// Needs sm_90a.
#define FACTOR X_FORM
#define RIGHT_FACTOR W_FORM
#define SUM float
#define BLOCKS_OF_AN_SM 1
#define STAGES 6
#include "eight_bit/bytes.cuh"
#include "eight_bit/columns.cuh"

// Maps of p (m, k) and q (n, k), with boxes of (TILE_M or TILE_N, STEP). m, k and n must be more than 0.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    fp8(const __grid_constant__ TensorMap p, const float* x_scale, const __grid_constant__ TensorMap q, const float* scale,
        const float* bias, float* y, long long m, int k, int n) {
    DYNAMIC_SHARED(FACTOR, tiles);
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
            turn = produce<false>(ring, tiles, steps, [&](FACTOR* left, FACTOR* right, mbarrier* full) {
                tma_load(left, &p, full, at, tile.row);
                tma_load(right, &q, full, at, tile.column);
                at += STEP;
            }, turn);
            continue;
        }
        columns.start(tile.column, n, scale, bias);
        float total[TILE_N / 2] = {};
        turn = consume_by_step<false, false>(total, ring, tiles, steps, turn);
        columns.store(y, tile.row, tile.column, m, n, x_scale, bias, [&](int e, float of_row, float of_column, float b) {
            return scaled(total[e], of_row, of_column, bias != nullptr, b);
        });
    }
}
