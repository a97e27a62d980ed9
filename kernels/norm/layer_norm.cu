// Layer norm (Ba, Kiros & Hinton 2016): y = gamma x_hat + beta, x_hat = (x - mean) / sqrt(variance + eps) over each row of
// x (rows, c).
//
// The row is in registers: a thread holds PER of its numbers, WARPS warps hold the row, and a row of at most 32 PER numbers
// is one warp's own affair, without shared memory or a barrier. x is read once. Statistics (rows, 3) = shift, mean, r are
// kept for the backward pass, which reads x and g once for dx,
//
//     dx = r (gamma g - mean(gamma g) - x_hat mean(gamma g x_hat))
//
// and once more for dgamma = sum g x_hat and dbeta = sum g: those sums run down the columns, in slices of the rows that
// `add_slices` of 1_group_norm.cu adds up in their order.
//
// PER and WARPS are compile-time sizes, c <= 32 PER WARPS.
#include "lib/cuda.cuh"
#include "lib/reduce.cuh"
#include "norm/norm.cuh"

#ifndef PER
#define PER 8
#define WARPS 4
#endif
#define ROWS (WARPS == 1 ? 8 : 1)  // of a block, along y

__device__ float row_sum(float x, float* scratch) {
#if WARPS == 1
    return warp_sum(x);
#else
    return block_sum(x, scratch);
#endif
}

extern "C" __global__ void __launch_bounds__(32 * WARPS * ROWS)
    layer_norm(const float* x, const float* gamma, const float* beta, float* y, float* statistics, long long rows,
               int c, float eps) {
    __shared__ float scratch[WARPS];
    const long long row = blockIdx.x * (long long)ROWS + threadIdx.y;
    if (row >= rows) return;  // a whole warp, or a whole block
    float value[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int k = i * 32 * WARPS + threadIdx.x;
        value[i] = k < c ? x[row * c + k] : 0;
    }
    const Statistics s = statistics_of(c, eps, [&](float shift, float* sum, float* square) {
        float a = 0, b = 0;
#pragma unroll
        for (int i = 0; i < PER; i++) {
            const float d = i * 32 * WARPS + (int)threadIdx.x < c ? value[i] - shift : 0;
            a += d;
            b += d * d;
        }
        *sum = row_sum(a, scratch);
        *square = row_sum(b, scratch);
    });
    if (threadIdx.x == 0) {
        float* keep = statistics + 3 * row;
        keep[0] = s.shift, keep[1] = s.mean, keep[2] = s.r;
    }
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int k = i * 32 * WARPS + threadIdx.x;
        if (k < c) y[row * c + k] = gamma[k] * x_hat(value[i], s) + beta[k];
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS * ROWS)
    layer_norm_backward(const float* g, const float* x, const float* gamma, const float* statistics, float* dx,
                        long long rows, int c) {
    __shared__ float scratch[WARPS];
    const long long row = blockIdx.x * (long long)ROWS + threadIdx.y;
    if (row >= rows) return;
    const float* kept = statistics + 3 * row;
    const Statistics s = {kept[0], kept[1], kept[2]};
    float hat[PER], pull[PER];  // x_hat and gamma g
    float a = 0, b = 0;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int k = i * 32 * WARPS + threadIdx.x;
        hat[i] = k < c ? x_hat(x[row * c + k], s) : 0;
        pull[i] = k < c ? gamma[k] * g[row * c + k] : 0;
        a += pull[i];
        b += pull[i] * hat[i];
    }
    const float mean = row_sum(a, scratch) / c, slope = row_sum(b, scratch) / c;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int k = i * 32 * WARPS + threadIdx.x;
        if (k < c) dx[row * c + k] = s.r * (pull[i] - mean - hat[i] * slope);
    }
}

// sums (slices, 2, c): of g and of g x_hat over a slice of the rows. A block takes 32 columns and 8 rows at a time.
extern "C" __global__ void __launch_bounds__(THREADS)
    column_sums(const float* g, const float* x, const float* statistics, float* sums, long long rows, int c,
                int slices) {
    __shared__ float tile[2][8][32];
    const int column = threadIdx.x % 32, line = threadIdx.x / 32, tiles = (c + 31) / 32;
    const int k = blockIdx.x % tiles * 32 + column, slice = blockIdx.x / tiles;
    float a = 0, b = 0;
    if (k < c) {
        const long long end = rows * (slice + 1) / slices;
        for (long long row = rows * slice / slices + line; row < end; row += 8) {
            const float* kept = statistics + 3 * row;
            const float value = g[row * c + k];
            a += value;
            b += value * x_hat(x[row * c + k], {kept[0], kept[1], kept[2]});
        }
    }
    tile[0][line][column] = a;
    tile[1][line][column] = b;
    __syncthreads();
    if (line >= 2 || k >= c) return;  // from here on, line 0 has the first sum and line 1 the second
    float sum = 0;
    for (int i = 0; i < 8; i++) sum += tile[line][i][column];
    sums[((long long)slice * 2 + line) * c + k] = sum;
}
