// The factors as bf16, for the layers on int8 weights and on fp8 numbers on bf16 tensor cores (3_split.cu, 4_split.cu).
//
// A float has 24 bits of mantissa and a bf16 number 8, so x = low + middle + high exactly, each of them a bf16 number:
//
//     high = x cut off to 8 bits        middle = (x - high) cut off to 8 bits        low = x - high - middle
//
// Cut off, and not rounded, high is Inf for no finite x. An x that is not finite is all in high, and gives NaN where the
// definition does. (A number below 2^-110 or so loses its last bits: bf16 ends at 2^-133.) A weight in int8, or a number in fp8, is
// a bf16 number as it is.
// Rows of both begin at multiples of 16 bytes, with zeros behind, so a thread stores eight neighbours at once.
#include "eight_bit/bytes.cuh"
#include "lib/fours.cuh"
#include "lib/ptx.cuh"

struct Parts {
    float low, middle, high;
};

__device__ __forceinline__ float cut_off(float x) { return __uint_as_float(__float_as_uint(x) & 0xffff0000u); }

__device__ __forceinline__ Parts parts_of(float x) {
    if (x - x != 0) return {0, 0, to_float(to_bf16(x))};  // a NaN's upper half might say Inf
    const float high = cut_off(x), middle = cut_off(x - high);
    return {x - high - middle, middle, high};
}

// Two neighbours, cut off, as a word.
__device__ __forceinline__ unsigned upper_halves(float left, float right) {
    return __float_as_uint(left) >> 16 | (__float_as_uint(right) & 0xffff0000u);
}

// x (m, k) to parts (3, m, pitch), the smallest first; a thread for each eight places of a part, `count` of them.
extern "C" __global__ void split(const float* x, bf16* parts, long long count, int k, int pitch) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long row = at / (pitch / 8);
    const int j = 8 * (int)(at - row * (pitch / 8));
    unsigned low[4], middle[4], high[4];
#pragma unroll
    for (int four = 0; four < 2; four++) {
        const Four numbers = load_four(x, row * k + j + 4 * four, k - j - 4 * four);
#pragma unroll
        for (int two = 0; two < 2; two++) {
            const Parts left = parts_of(numbers.v[2 * two]), right = parts_of(numbers.v[2 * two + 1]);
            low[2 * four + two] = upper_halves(left.low, right.low);
            middle[2 * four + two] = upper_halves(left.middle, right.middle);
            high[2 * four + two] = upper_halves(left.high, right.high);
        }
    }
    uint4* const to = reinterpret_cast<uint4*>(parts) + at;
    to[0] = uint4{low[0], low[1], low[2], low[3]};
    to[count] = uint4{middle[0], middle[1], middle[2], middle[3]};
    to[2 * count] = uint4{high[0], high[1], high[2], high[3]};
}

// A matrix of bytes (rows, n) to wide (rows, pitch), value(byte) each; a thread for each eight places, `count` of them.
// `words`: four numbers of a row are a word.
template <class Value>
__device__ __forceinline__ void widen_all(const signed char* q, bf16* wide, long long count, int n, int pitch, bool words,
                                          Value value) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long row = at / (pitch / 8);
    const int j = 8 * (int)(at - row * (pitch / 8));
    unsigned pairs[4];
#pragma unroll
    for (int four = 0; four < 2; four++) {
        const int left = n - j - 4 * four;
        const signed char* const from = q + row * n + j + 4 * four;
        const int word = left <= 0 ? 0 : words ? *reinterpret_cast<const int*>(from) : word_of(from, 1, left);
#pragma unroll
        for (int two = 0; two < 2; two++)
            pairs[2 * four + two] = pack_bf16(value(word >> 16 * two), value(word >> (16 * two + 8)));
    }
    reinterpret_cast<uint4*>(wide)[at] = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
}

extern "C" __global__ void widen(const signed char* q, bf16* wide, long long count, int n, int pitch, bool words) {
    widen_all(q, wide, count, n, pitch, words, [](signed char number) { return number; });
}

// mantissa: 3 for e4m3, 2 for e5m2.
extern "C" __global__ void widen_fp8(const unsigned char* codes, bf16* wide, long long count, int n, int pitch, bool words,
                                     int mantissa) {
    widen_all(reinterpret_cast<const signed char*>(codes), wide, count, n, pitch, words, [=](unsigned char code) {
        return mantissa == e4m3::MANTISSA ? to_float(e4m3{code}) : to_float(e5m2{code});
    });
}
