// Sums over the threads of a warp or a block, always in the same order, so that the same numbers give the same bits.
#pragma once
#include "lib/exact.cuh"

// Each lane adds the value of the lane whose number differs in one bit, then in the next: after five steps all have the
// sum, with the same bits, because a + b is b + a. That is why the addition must not be fused with a product that made
// `x`: it would round one lane's share and not the other's.
__device__ float warp_sum(float x) {
#pragma unroll
    for (int bit = 16; bit; bit /= 2) x = plus_32(x, __shfl_xor_sync(0xffffffffu, x, bit));
    return x;
}

// The sum over a block of whole warps along x; every thread gets it. `scratch` holds one number for each warp.
__device__ float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
    for (int warp = 0; warp < (int)blockDim.x / 32; warp++) sum += scratch[warp];
    __syncthreads();  // nobody overwrites the scratch before all have read it
    return sum;
}
