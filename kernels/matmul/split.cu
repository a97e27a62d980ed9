// float32 numbers as bf16 numbers, three for each: the factors of the rungs that multiply floats on bf16 tensor cores.
//
// A float has 24 bits of mantissa and a bf16 number 8, so x = low + middle + high exactly, each of them a bf16 number:
//
//     high = x rounded to bf16        middle = (x - high) rounded to bf16        low = x - high - middle
//
// (The largest floats would round to Inf; of these, high is cut off to 8 bits.) An x that is not finite is all in high. A number
// below 2^-110 or so loses its last bits: bf16 ends at 2^-133.
//
// Rows of the parts begin at multiples of 16 bytes, with zeros behind, so a thread stores eight neighbours at once.
#include "lib/fours.cuh"
#include "lib/ptx.cuh"

struct Parts {
    float low, middle, high;
};

__device__ __forceinline__ float rounded(float x) { return to_float(to_bf16(x)); }
__device__ __forceinline__ bool is_finite(float x) { return x - x == 0; }

__device__ __forceinline__ Parts parts_of(float x) {
    float high = rounded(x);
    if (!is_finite(x)) return {0, 0, high};
    if (!is_finite(high)) high = __uint_as_float(__float_as_uint(x) & 0xffff0000u);
    const float middle = rounded(x - high);
    return {x - high - middle, middle, high};
}

// Two neighbours, which are bf16 numbers, as a word.
__device__ __forceinline__ unsigned upper_halves(float left, float right) {
    return __float_as_uint(left) >> 16 | (__float_as_uint(right) & 0xffff0000u);
}

// x (rows, n) to parts (3, rows, pitch), the smallest first; a thread for each eight places of a part, `count` of them.
extern "C" __global__ void split(const float* x, bf16* parts, long long count, int n, int pitch) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long row = at / (pitch / 8);
    const int j = 8 * (int)(at - row * (pitch / 8));
    unsigned low[4], middle[4], high[4];
#pragma unroll
    for (int four = 0; four < 2; four++) {
        const Four numbers = load_four(x, row * n + j + 4 * four, n - j - 4 * four);
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
