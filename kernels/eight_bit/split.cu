// x in three parts and the weights as bf16, for the layer on int8 weights on bf16 tensor cores (3_split.cu, 4_split.cu).
//
// A float has 24 bits of mantissa and a bf16 number 8, so x = low + middle + high exactly, each of them a bf16 number:
//
//     high = x cut off to 8 bits        middle = (x - high) cut off to 8 bits        low = x - high - middle
//
// Cut off, and not rounded, high is Inf for no finite x. An x that is not finite is all in high, and gives NaN where the
// definition does. (A number below 2^-110 or so loses its last bits: bf16 ends at 2^-133.) A weight in int8 is a bf16 number as it is.
// Rows of both begin at multiples of 16 bytes, with zeros behind.
#include "lib/ptx.cuh"

__device__ __forceinline__ bf16 cut_off(float x) { return {(unsigned short)(__float_as_uint(x) >> 16)}; }

// x (m, k) to parts (3, m, pitch), the smallest first; a thread for each place of a part, `count` of them.
extern "C" __global__ void split(const float* x, bf16* parts, long long count, int k, int pitch) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const float number = at % pitch < k ? x[at / pitch * k + at % pitch] : 0.0f;
    const bool finite = number - number == 0;
    const bf16 high = finite ? cut_off(number) : to_bf16(number);  // a NaN's upper half might say Inf
    const float rest = finite ? number - to_float(high) : 0.0f;
    const bf16 middle = cut_off(rest);
    parts[at] = cut_off(rest - to_float(middle));
    parts[count + at] = middle;
    parts[2 * count + at] = high;
}

// q (k, n) to wide (k, pitch); a thread for each place.
extern "C" __global__ void widen(const signed char* q, bf16* wide, long long count, int n, int pitch) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at < count) wide[at] = to_bf16(at % pitch < n ? q[at / pitch * n + at % pitch] : 0.0f);
}
