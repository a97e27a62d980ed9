// The two fp8 formats: e4m3 (1 sign, 4 exponent, 3 mantissa bits; no infinity, one NaN) and e5m2 (1, 5, 2: a short fp16).
//
// As the upper bits of a float, a pattern is worth its value times 2^(bias of the format - 127): a product with a power of
// two makes it right, also for numbers without a leading one. Only the patterns for Inf and NaN need more.
#pragma once
#include "lib/cuda.cuh"

struct e4m3 {
    static constexpr int MANTISSA = 3;
    unsigned char bits;
};

struct e5m2 {
    static constexpr int MANTISSA = 2;
    unsigned char bits;
};

__device__ __forceinline__ float to_float(e4m3 x) {
    const unsigned size = x.bits & 0x7f, sign = (unsigned)x.bits >> 7 << 31;
    if (size == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
    return __uint_as_float(sign | size << 20) * 0x1p120f;
}

__device__ __forceinline__ float to_float(e5m2 x) {
    const unsigned size = x.bits & 0x7f, sign = (unsigned)x.bits >> 7 << 31;
    if (size > 0x7b) return __uint_as_float(sign | (size == 0x7c ? 0x7f800000u : 0x7fc00000u));
    return __uint_as_float(sign | size << 21) * 0x1p112f;
}
