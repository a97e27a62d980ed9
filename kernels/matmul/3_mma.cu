// The product of two matrices on tensor cores, with bfloat16 or tf32 factors. Definition, transposed factors and parts of
// the inner axis are those of rungs 1 and 2.
//
// New here: mma.sync, with which a warp multiplies a 16 x 16 by a 16 x 8 matrix in one instruction, out of fragments that
// ldmatrix has brought from swizzled tiles; and a pipeline of copies that run while others multiply (matmul/mma.cuh).
//
// Rows whose numbers do not begin at multiples of 16 bytes cannot be copied by cp.async. For such a factor (ALIGNED_A or
// ALIGNED_B is false) the block brings numbers one by one, which is slow but correct.
#include "matmul/mma.cuh"

#ifndef TRANSPOSE_A  // given at compile time, as in rung 2
#define TRANSPOSE_A false
#define TRANSPOSE_B false
#endif
#ifndef ALIGNED_A
#define ALIGNED_A true
#define ALIGNED_B true
#endif

template <class T>
__device__ __forceinline__ void product(T* tiles, const T* a, const T* b, const float* bias, float* y, long long batches,
                                        long long m, long long n, long long k, long long a_batch, long long b_batch,
                                        long long part_size) {
    const long long tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const long long first_row = blockIdx.x / tiles_n % tiles_m * TILE_M, first_column = blockIdx.x % tiles_n * TILE_N;
    const long long matrix = blockIdx.x / tiles_n / tiles_m;  // of parts * batches in y
    const long long begins = matrix / batches * part_size, size = max(0ll, min(k - begins, part_size));
    const int rows = min(m - first_row, (long long)TILE_M), columns = min(n - first_column, (long long)TILE_N);

    a += matrix % batches * a_batch + (TRANSPOSE_A ? begins * m + first_row : first_row * k + begins);
    b += matrix % batches * b_batch + (TRANSPOSE_B ? first_column * k + begins : begins * n + first_column);
    auto start = [&](int step, T* a_tile, T* b_tile) {
        const long long done = step * (long long)STEP<T>;
        const int depth = min(size - done, (long long)STEP<T>);
        start_tile<T, TRANSPOSE_A, ALIGNED_A, TILE_M>(a_tile, a + (TRANSPOSE_A ? done * m : done), TRANSPOSE_A ? m : k,
                                                      rows, depth);
        start_tile<T, !TRANSPOSE_B, ALIGNED_B, TILE_N>(b_tile, b + (TRANSPOSE_B ? done : done * n), TRANSPOSE_B ? k : n,
                                                       columns, depth);
    };
    Sums sums;
    begin(sums, bias ? bias + first_column : nullptr, columns);
    add_all_products<T, TRANSPOSE_A, !TRANSPOSE_B>(sums, tiles, (int)((size + STEP<T> - 1) / STEP<T>), start);
    each_sum(sums, rows, columns, [&](int row, int column, float sum) {
        y[(matrix * m + first_row + row) * n + first_column + column] = sum;
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    matmul_bf16(const bf16* a, const bf16* b, const float* bias, float* y, long long batches, long long m, long long n,
                long long k, long long a_batch, long long b_batch, long long part_size) {
    DYNAMIC_SHARED(bf16, tiles);
    product(tiles, a, b, bias, y, batches, m, n, k, a_batch, b_batch, part_size);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    matmul_tf32(const float* a, const float* b, const float* bias, float* y, long long batches, long long m,
                long long n, long long k, long long a_batch, long long b_batch, long long part_size) {
    DYNAMIC_SHARED(float, tiles);
    product(tiles, a, b, bias, y, batches, m, n, k, a_batch, b_batch, part_size);
}
