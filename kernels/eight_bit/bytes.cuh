// What the rungs for eight-bit numbers share.
#pragma once
#include "lib/cuda.cuh"
#include "lib/exact.cuh"

// The first `count` of four numbers that are `step` apart, as one word.
__device__ int word_of(const signed char* x, long long step, int count) {
    unsigned word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < count) word |= unsigned((unsigned char)x[i * step]) << 8 * i;
    return word;
}

// A sum, int or float, times its two scales, plus the bias if there is one: each rounded.
template <class Sum>
__device__ float scaled(Sum sum, float x_scale, float scale, bool with_bias, float bias) {
    const float value = times_32(times_32(sum, x_scale), scale);
    return with_bias ? plus_32(value, bias) : value;
}

template <class Sum>
__device__ float scaled(Sum sum, float x_scale, float scale, const float* bias, int column) {
    const float value = times_32(times_32(sum, x_scale), scale);
    return bias ? plus_32(value, bias[column]) : value;
}
