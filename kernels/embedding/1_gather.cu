// The gradient of an embedding as it is defined: y[r, j] = sum of g[i, j] over the i with indices[i] = r.
//
// g (m, d), y (rows, d). One thread for each number of y looks at all m indices and adds what is its own, in their order.
// Nobody writes where another one does, so there is nothing to synchronise and the result is always the same; but the
// indices are read rows * d times, though each of them matters to one row only. The next rung sorts them first.
#include "lib/cuda.cuh"

extern "C" __global__ void scatter_add(const float* g, const int* indices, float* y, long long m, long long count,
                                       int d) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long row = at / d;
    const int j = at % d;
    float sum = 0;
    for (long long i = 0; i < m; i++)
        if (indices[i] == row) sum += g[i * d + j];
    y[at] = sum;
}
