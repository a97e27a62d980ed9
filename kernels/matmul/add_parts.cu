// The last step of a sum that many blocks have made parts of: y[i] = bias[i % columns] + parts[0, i] + parts[1, i] + ...
//
// One thread for each number, from the first part to the last: the order is fixed, so the result is the same every time.
#include "lib/cuda.cuh"

extern "C" __global__ void add_parts(const float* parts, const float* bias, float* y, int n_parts, long long count,
                                     long long columns) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    float sum = parts[at];
    for (int part = 1; part < n_parts; part++) sum += parts[part * count + at];
    y[at] = bias ? sum + bias[at % columns] : sum;
}
