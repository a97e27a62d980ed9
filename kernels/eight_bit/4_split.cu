// The linear layers on int8 weights, and on fp8 numbers, on Hopper's bf16 tensor cores. Definition: 1_naive.cu; three parts of x: 3_split.cu.
//
// New here: nothing but who does what (matmul/wgmma.cuh). The producer goes through the inner axis three times, once
// for each part of x (of fp8 numbers there is one), and brings the same weights again. A longer ring: consume_by_step.
//
// Needs sm_90a.
#define BLOCKS_OF_AN_SM 1
#define STAGES 6
#include "eight_bit/bytes.cuh"
#include "eight_bit/columns.cuh"

// Maps of x (PARTS, m, k) with boxes of (1, TILE_M, STEP), and of q (k, n) with boxes of (STEP, 64). m, k and n must be more
// than 0. value(sum, x_scale, scale, bias) is what becomes of a sum: see columns.cuh.
template <int PARTS, class Value>
__device__ __forceinline__ void multiply(const TensorMap& x, const float* x_scale, const TensorMap& q, const float* scale,
                                         const float* bias, float* y, long long m, int k, int n, Value value) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    __shared__ Columns columns;
    make(ring);
    const long long tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1ll) / TILE_N;
    const int steps = PARTS * ((k + STEP - 1) / STEP);
    Turn<STAGES> turn;
    for (long long number = blockIdx.x; number < tiles_m * tiles_n; number += gridDim.x) {
        const Place tile(number, tiles_m, tiles_n);
        if (is_producer()) {
            int part = 0, at = 0;
            turn = produce<true>(ring, tiles, steps, [&](bf16* left, bf16* right, mbarrier* full) {
                tma_load(left, &x, full, at, tile.row, part);
#pragma unroll
                for (int panel = 0; panel < PANELS_N; panel++)
                    tma_load(right + panel * PANEL, &q, full, tile.column + panel * 64, at);
                if ((at += STEP) >= k) at = 0, part++;
            }, turn);
            continue;
        }
        columns.start(tile.column, n, scale, bias);
        float total[TILE_N / 2] = {};
        turn = consume_by_step<false, true>(total, ring, tiles, steps, turn);
        columns.store(y, tile.row, tile.column, m, n, x_scale, bias, [&](int e, float of_row, float of_column, float b) {
            return value(total[e], of_row, of_column, b);
        });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    weight_only(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap q, const float* scale,
                const float* bias, float* y, long long m, int k, int n) {
    multiply<3>(x, nullptr, q, scale, bias, y, m, k, n, [&](float sum, float, float of_column, float b) {
        return bias ? sum * of_column + b : sum * of_column;
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    fp8(const __grid_constant__ TensorMap x, const float* x_scale, const __grid_constant__ TensorMap q, const float* scale,
        const float* bias, float* y, long long m, int k, int n) {
    multiply<1>(x, x_scale, q, scale, bias, y, m, k, n, [&](float sum, float of_row, float of_column, float b) {
        return scaled(sum, of_row, of_column, bias != nullptr, b);
    });
}
