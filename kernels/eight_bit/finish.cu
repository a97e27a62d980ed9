// The end of a linear layer on int8 weights: sums (parts, m, n) added in their order, times each column's scale, plus the bias.
#include "lib/cuda.cuh"

extern "C" __global__ void finish(const float* sums, const float* scale, const float* bias, float* y, int parts,
                                  long long count, int n) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int j = at % n;
    float sum = 0;
    for (int part = 0; part < parts; part++) sum += sums[part * count + at];
    y[at] = bias ? sum * scale[j] + bias[j] : sum * scale[j];
}
