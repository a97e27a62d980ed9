// What the tensor-core rungs of attention share: rows of scores that lie in the registers of 4 lanes (lib/ptx.cuh, D).
#pragma once
#include "lib/ptx.cuh"

#define ALL 0xffffffffu

// A loop that is unrolled: where arrays lie in registers, their indices must be known to the compiler.
#define EACH(i, count) _Pragma("unroll") for (int i = 0; i < (count); i++)

__device__ __forceinline__ float over_4_lanes_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL, x, 2));
}

__device__ __forceinline__ float over_4_lanes_sum(float x) {
    x += __shfl_xor_sync(ALL, x, 1);
    return x + __shfl_xor_sync(ALL, x, 2);
}

// Start to copy COUNT rows of COLUMNS numbers from row `first` on by a block of BLOCK threads to a tile of rows of PITCH
// numbers. What lies outside of the `rows` rows of WIDTH numbers of x, or in a row that `mask` hides, becomes 0.
template <int BLOCK, int COUNT, int COLUMNS, int WIDTH, int PITCH>
__device__ __forceinline__ void start_tile(bf16* tile, const bf16* x, int first, int rows, const bool* mask) {
    for (int at = threadIdx.x; at < COUNT * (COLUMNS / 8); at += BLOCK) {
        const int row = at / (COLUMNS / 8), column = at % (COLUMNS / 8) * 8;
        const bool there = first + row < rows && column < WIDTH && (!mask || mask[first + row]);
        const long long from = there ? (first + row) * (long long)WIDTH + column : 0;
        cp_async<16>(tile + row * PITCH + column, x + from, there ? 16 : 0);
    }
}

// Whether one of 8 numbers is NaN or Inf.
__device__ __forceinline__ bool any_odd(const uint4& eight) {
    const unsigned pairs[4] = {eight.x, eight.y, eight.z, eight.w};
    bool odd = false;
    for (int i = 0; i < 4; i++) odd |= (pairs[i] & 0x7f80) == 0x7f80 || (pairs[i] & 0x7f800000) == 0x7f800000;
    return odd;
}
