// The linear layer on int8 numbers on tensor cores. Definition: 1_naive.cu.
//
// New here: mma.sync of int8, 16 x 8 sums of 32 products in one instruction. In bytes its fragments are those of bf16, so the
// tiles, the swizzle and the pipeline of copies are the matrix product's (matmul/mma.cuh); only a number is half as wide and the
// sums are whole. The weights come transposed (turn.cu), rows of both with zeros up to k, a multiple of 16 bytes, so
// every piece can be copied.
#include "eight_bit/bytes.cuh"
#include "matmul/mma.cuh"

// p (m, k), q (n, k)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    int8(const signed char* p, const float* x_scale, const signed char* q, const float* scale, const float* bias, float* y,
         long long m, int k, int n) {
    DYNAMIC_SHARED(signed char, tiles);
    using T = signed char;
    const int tiles_n = (n + TILE_N - 1) / TILE_N, first_column = blockIdx.x % tiles_n * TILE_N;
    const long long first_row = blockIdx.x / tiles_n * (long long)TILE_M;
    const int rows = min(m - first_row, (long long)TILE_M), columns = min(n - first_column, TILE_N);
    p += first_row * k;
    q += (long long)first_column * k;
    auto start = [&](int step, T* p_tile, T* q_tile) {
        const int done = step * STEP<T>, depth = min(k - done, STEP<T>);
        start_tile<T, false, true, TILE_M>(p_tile, p + done, k, rows, depth);
        start_tile<T, false, true, TILE_N>(q_tile, q + done, k, columns, depth);
    };
    SumsOf<int> sums = {};
    add_all_products<T, false, false>(sums, tiles, (k + STEP<T> - 1) / STEP<T>, start);
    each_sum(sums, rows, columns, [&](int row, int at, int sum) {
        const int column = first_column + at;
        y[(first_row + row) * n + column] = scaled(sum, x_scale[first_row + row], scale[column], bias, column);
    });
}
