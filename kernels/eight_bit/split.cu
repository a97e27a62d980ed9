// The linear layer on int8 weights by the product of bf16 matrices (../matmul), and yet with float32's exactness.
//
// A float has 24 bits of mantissa and a bf16 number 8, so x = low + middle + high exactly, each of them a bf16 number:
//
//     high = x cut off to 8 bits        middle = (x - high) cut off to 8 bits        low = x - high - middle
//
// and a weight in int8 is a bf16 number as it is. So
//
//     sum_l x[i, l] q[l, j] = sum_l low[i, l] q[l, j] + sum_l middle[i, l] q[l, j] + sum_l high[i, l] q[l, j]
//
// is one product of bf16 matrices with an inner axis of 3 k, whose products are exact: three times the work, on units that do
// it more than ten times as fast. The smallest terms come first. The tensor cores' sums are float, but cut off where others
// round, which adds up; so the host has the inner axis cut into parts, whose sums are added in float.
//
// Cut off, and not rounded, high is Inf for no finite x. An x that is not finite is all in high, and gives NaN where the
// definition does. (A number below 2^-110 or so loses its last bits: bf16 ends at 2^-133.)
#include "lib/ptx.cuh"

__device__ __forceinline__ bf16 cut_off(float x) { return {(unsigned short)(__float_as_uint(x) >> 16)}; }

// x (m, k) to parts (m, 3, k), a thread for each number of x.
extern "C" __global__ void split(const float* x, bf16* parts, long long count, int k) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    bf16* const to = parts + at / k * 3 * k + at % k;
    const bool finite = x[at] - x[at] == 0;
    const bf16 high = finite ? cut_off(x[at]) : to_bf16(x[at]);  // a NaN's upper half might say Inf
    const float rest = finite ? x[at] - to_float(high) : 0.0f;
    const bf16 middle = cut_off(rest);
    to[0] = cut_off(rest - to_float(middle));
    to[k] = middle;
    to[2 * k] = high;
}

// q (k, n) to wide (3, k, n), a thread for each number of q.
extern "C" __global__ void widen(const signed char* q, bf16* wide, long long count) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    for (int part = 0; part < 3; part++) wide[part * count + at] = to_bf16(q[at]);
}
