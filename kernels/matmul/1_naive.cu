// The product of two matrices as it is defined, one thread for each number of the result:
//
//     y[i, j] = bias[j] + sum_l a[i, l] * b[l, j]        a (m, k), b (k, n), y (m, n), for each of a batch of them
//
// bias may be null. Either factor may lie in memory the other way round (a as (k, m), b as (n, k)), because the gradients
// of y = x w need w and x transposed and nobody wants to copy them:
//
//     dx = g w^T        dw = x^T g
//
// `a_batch` and `b_batch` are how far one matrix is from the next; 0 if all products share one.
//
// Threads next to each other have neighbouring j: they read the same number of a and, unless b is transposed, neighbouring
// numbers of b. Still 2 numbers come from memory for each multiplication. The next rung gets more out of each of them.
#include "lib/cuda.cuh"

extern "C" __global__ void matmul(const float* a, const float* b, const float* bias, float* y, long long count,
                                  long long m, long long n, long long k, long long a_batch, long long b_batch,
                                  bool transpose_a, bool transpose_b) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long j = at % n, i = at / n % m, batch = at / n / m;
    const float* row = a + batch * a_batch + (transpose_a ? i : i * k);
    const float* column = b + batch * b_batch + (transpose_b ? j * k : j);
    const long long row_step = transpose_a ? m : 1, column_step = transpose_b ? 1 : n;
    float sum = 0;
    for (long long l = 0; l < k; l++) sum += row[l * row_step] * column[l * column_step];
    y[at] = bias ? sum + bias[j] : sum;
}
