// The linear layers on int8 weights, and on fp8 numbers, on bf16 tensor cores, and yet about as exact as float32. Definition: 1_naive.cu.
//
// New here: a weight in int8 is a bf16 number, and a float is three of them, as in matmul/3_split.cu, so
//
//     sum_l x[i, l] q[l, j] = sum_l low[i, l] q[l, j] + sum_l middle[i, l] q[l, j] + sum_l high[i, l] q[l, j]
//
// is one product of bf16 matrices with three times the terms, not six times, and none left out. The second set of sums is that of
// matmul/3_split.cu, tiles, swizzle and copies are the matrix product's (matmul/mma.cuh). An fp8 number is one bf16 number.
#include "eight_bit/bytes.cuh"
#include "matmul/mma.cuh"

// x (PARTS, m, k) and q (k, n), whose rows are x_pitch and q_pitch numbers apart, multiples of 16 bytes. put(row, column, sum)
// stores a number of the result.
template <int PARTS, class Put>
__device__ __forceinline__ void multiply(const bf16* x, const bf16* q, long long m, int k, int n, int x_pitch, int q_pitch,
                                         Put put) {
    DYNAMIC_SHARED(bf16, tiles);
    const int tiles_n = (n + TILE_N - 1) / TILE_N, first_column = blockIdx.x % tiles_n * TILE_N;
    const long long first_row = blockIdx.x / tiles_n * (long long)TILE_M;
    const int rows = min(m - first_row, (long long)TILE_M), columns = min(q_pitch - first_column, TILE_N);
    const int of_part = (k + STEP<bf16> - 1) / STEP<bf16>;
    auto start = [&](int step, bf16* x_tile, bf16* q_tile) {
        const int part = step / of_part, l = step % of_part * STEP<bf16>, depth = min(k - l, STEP<bf16>);
        start_tile<bf16, false, true, TILE_M>(x_tile, x + (part * m + first_row) * x_pitch + l, x_pitch, rows, depth);
        const bf16* const corner = q + (long long)l * q_pitch + first_column;
        start_tile<bf16, true, true, TILE_N>(q_tile, corner, q_pitch, columns, depth);
    };
    Sums sums = {}, total = {};
    add_all_products<bf16, false, true>(sums, tiles, PARTS * of_part, start, [&] {
        add_sums(total, sums);
        sums = {};
    });
    each_sum(total, rows, n - first_column, [&](int row, int at, float sum) { put(first_row + row, first_column + at, sum); });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    weight_only(const bf16* x, const bf16* q, const float* scale, const float* bias, float* y, long long m, int k, int n,
                int x_pitch, int q_pitch) {
    multiply<3>(x, q, m, k, n, x_pitch, q_pitch, [&](long long row, int column, float sum) {
        y[row * n + column] = bias ? sum * scale[column] + bias[column] : sum * scale[column];
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    fp8(const bf16* x, const float* x_scale, const bf16* q, const float* scale, const float* bias, float* y, long long m, int k,
        int n, int x_pitch, int q_pitch) {
    multiply<1>(x, q, m, k, n, x_pitch, q_pitch, [&](long long row, int column, float sum) {
        y[row * n + column] = scaled(sum, x_scale[row], scale[column], bias, column);
    });
}
