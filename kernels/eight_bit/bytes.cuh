// What the rungs for eight-bit numbers share.
#pragma once
#include "lib/cuda.cuh"
#include "lib/exact.cuh"
#include "lib/fp8.cuh"

#ifndef X_FORM  // of fp8 by fp8: the formats of x and of the weights
#define X_FORM e4m3
#define W_FORM e4m3
#endif

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
    return scaled(sum, x_scale, scale, bias != nullptr, bias ? bias[column] : 0.0f);
}
