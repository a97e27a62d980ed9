// Softmax cross-entropy of each row of logits x (m, k) with its target class c:
//
//     loss = ln sum_j exp(x_j - largest) - (x_c - largest),      dx_j = g (exp(x_j - largest) / total - [j = c])
//
// Written like this it takes a pass for the largest and one for the sum. The online softmax (Milakov & Gimelshein 2018,
// arXiv 1805.02867) takes one: a thread keeps the largest number so far and the sum relative to it, and two such pairs
// become one by bringing the sum with the smaller largest down to the other. One block for each row; its threads' pairs
// are merged lane by lane and then warp by warp, always in the same order.
//
// Kept for the backward pass: largest and total, two numbers per row. Backward reads x once and writes dx once.
#include "lib/cuda.cuh"
#include "cross_entropy/row.cuh"

struct Softmax {
    float largest, total;  // total = sum exp(x - largest)
};

__device__ float share(float a, float largest) { return a == largest ? 1 : expf(a - largest); }

__device__ Softmax merged(Softmax a, Softmax b) {
    const float largest = larger(a.largest, b.largest);
    return {largest, a.total * share(a.largest, largest) + b.total * share(b.largest, largest)};
}

extern "C" __global__ void cross_entropy(const float* x, const long long* targets, float* loss, float* largest,
                                         float* total, int k) {
    __shared__ Softmax warps[32];
    const long long row = blockIdx.x;
    x += row * k;
    Softmax s = {-INFINITY, 0};
    const int step = blockDim.x;
    for (int j = threadIdx.x; j < k; j += step) s = merged(s, {x[j], 1});
#pragma unroll
    for (int lanes = 16; lanes; lanes /= 2) {
        const Softmax other = {__shfl_down_sync(0xffffffffu, s.largest, lanes),
                               __shfl_down_sync(0xffffffffu, s.total, lanes)};
        s = merged(s, other);  // right in lane 0, which has its sum from lanes that had theirs
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < (int)blockDim.x / 32; w++) s = merged(s, warps[w]);
    s.total += s.largest - s.largest;  // NaN where the largest is infinite or NaN: no difference to it makes sense
    loss[row] = logf(s.total) - (x[targets[row]] - s.largest);
    largest[row] = s.largest;
    total[row] = s.total;
}

extern "C" __global__ void cross_entropy_backward(const float* g, const float* x, const long long* targets,
                                                  const float* largest, const float* total,
                                                  float* __restrict__ dx, int k) {
    const long long row = blockIdx.x;
    const int target = targets[row], step = blockDim.x;
    const float m = largest[row], slope = g[row] / total[row], own = g[row];
    for (int j = threadIdx.x; j < k; j += step) {
        const float p = expf(x[row * k + j] - m) * slope;
        dx[row * k + j] = j == target ? p - own : p;
    }
}
