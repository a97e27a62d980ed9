// Loss and gradient of the cross-entropy together, with one read of the logits and one write of the gradient.
//
// In training the gradient of the loss with respect to each row's value is known before the loss is: 1 / m for a mean. So
// forward and backward pass can share a read, if the row stays on the chip between them. New here: the row lies in
// dynamic shared memory (50257 classes are 196 KiB, of the 227 that a block may have on sm_90) and three passes go over it:
// largest, exp and sum, gradient. Longer rows take rung 1.
//
// Where the forward pass foresaw another gradient than the one that came, `rescale` multiplies the rows concerned.
#include "lib/cuda.cuh"
#include "cross_entropy/row.cuh"

extern "C" __global__ void __launch_bounds__(1024)
    loss_and_gradient(const float* g, const float* x, const long long* targets, float* loss, float* dx, int k) {
    __shared__ float warps[32];
    DYNAMIC_SHARED(float, kept);
    const long long row = blockIdx.x;
    const int thread = threadIdx.x, step = blockDim.x, count = step / 32, target = targets[row];
    const float upper = g[row];

    float largest = -INFINITY;
    each(x + row * k, k, [&](int j, float logit) {
        kept[j] = logit;
        largest = larger(largest, logit);
    });
#pragma unroll
    for (int bit = 16; bit; bit /= 2) largest = larger(largest, __shfl_xor_sync(0xffffffffu, largest, bit));
    if (thread % 32 == 0) warps[thread / 32] = largest;
    __syncthreads();
    for (int w = 0; w < count; w++) largest = larger(largest, warps[w]);

    const float own = kept[target] - largest;
    __syncthreads();  // all have read the warps' largest and the target's logit
    float sum = 0;
#pragma unroll 4
    for (int j = thread; j < k; j += step) {
        const float e = expf(kept[j] - largest);
        kept[j] = e;
        sum += e;
    }
#pragma unroll
    for (int bit = 16; bit; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
    if (thread % 32 == 0) warps[thread / 32] = sum;
    __syncthreads();
    float total = largest - largest;  // NaN where the largest is infinite or NaN
    for (int w = 0; w < count; w++) total += warps[w];

    if (thread == 0) loss[row] = logf(total) - own;
    const float slope = upper / total;
#pragma unroll 4
    for (int j = thread; j < k; j += step) {
        const float p = kept[j] * slope;
        dx[row * k + j] = j == target ? p - upper : p;
    }
}

extern "C" __global__ void rescale(const float* g, float foreseen, float* dx, int k) {
    const long long row = blockIdx.x;
    if (g[row] == foreseen) return;
    const float factor = g[row] / foreseen;
    each(dx + row * k, k, [&](int j, float slope) { dx[row * k + j] = slope * factor; });
}
