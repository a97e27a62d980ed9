// A linear layer on int8 weights for few rows of x, as a language model that writes one word after the other has them. Definition:
// 1_naive.cu.
//
// New here: nothing is used twice, so nothing goes through shared memory but sums. Every weight is read once, by one thread, four
// neighbours of a row of q as one word (byte by byte where they do not lie at multiples of 4 bytes), and meets all ROWS rows of x
// there. A block has 128 columns, 4 to a lane, and a part of the k terms, every eighth of them to a warp. What its warps have
// is added in their order, and `finish` adds the parts in theirs, so the bits are the same every time.
#include "lib/fours.cuh"

#define COLUMNS 128
#define WARPS 8
#ifndef ROWS
#define ROWS 1
#endif

// sums (parts, ROWS, n). The host asks for two blocks on a multiprocessor (BUSY in cuda.py). Without the 2 below the compiler
// saves registers so that eight would fit, and brings two weights at a time where all eight of the unrolled loop have room.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
    weight_only(const float* x, const signed char* q, float* sums, int k, int n, int part_size, bool words) {
    __shared__ Four of_warps[WARPS][ROWS][COLUMNS / 4];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, blocks = (n + COLUMNS - 1) / COLUMNS;
    const int part = blockIdx.x / blocks, first = blockIdx.x % blocks * COLUMNS, j = first + 4 * lane, left = n - j;
    const int end = min((long long)k, (part + 1ll) * part_size);
    Four sum[ROWS] = {};
#pragma unroll 8
    for (int l = part * part_size + warp; l < end; l += WARPS) {
        const signed char* const from = q + (long long)l * n + j;
        unsigned word = 0;
        if (words && left > 0) word = *reinterpret_cast<const unsigned*>(from);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!words && i < left) word |= unsigned((unsigned char)from[i]) << 8 * i;
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const float term = x[(long long)row * k + l];
#pragma unroll
            for (int i = 0; i < 4; i++) sum[row].v[i] += term * (signed char)(word >> 8 * i);
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) of_warps[warp][row][lane] = sum[row];
    __syncthreads();  // all warps' sums are there
    for (int at = threadIdx.x; at < ROWS * COLUMNS; at += 32 * WARPS) {
        const int row = at / COLUMNS, column = at % COLUMNS;
        float total = 0;
        for (int w = 0; w < WARPS; w++) total += of_warps[w][row][column / 4].v[column % 4];
        if (first + column < n) sums[((long long)part * ROWS + row) * n + first + column] = total;
    }
}

extern "C" __global__ void finish(const float* sums, const float* scale, const float* bias, float* y, int parts,
                                  long long count, int n) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int j = at % n;
    float sum = 0;
    for (int part = 0; part < parts; part++) sum += sums[part * count + at];
    y[at] = bias ? sum * scale[j] + bias[j] : sum * scale[j];
}
