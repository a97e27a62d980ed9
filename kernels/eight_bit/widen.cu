// Weights in int8, and numbers in fp8, as bf16 numbers, which they are: for the layers on bf16 tensor cores (3_split.cu, 4_split.cu).
//
// Rows begin at multiples of 16 bytes, with zeros behind, so a thread stores eight neighbours at once.
#include "eight_bit/bytes.cuh"
#include "lib/ptx.cuh"

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
