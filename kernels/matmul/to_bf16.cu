// Rounds float32 numbers to the nearest bfloat16, ties to even: the factors of the rungs for tensor cores.
//
// A thread rounds four neighbours: 16 bytes in by one instruction, 8 bytes out by another.
#include "lib/fours.cuh"
#include "lib/ptx.cuh"

extern "C" __global__ void __launch_bounds__(256) to_bf16s(const float* x, bf16* y, long long n) {
    const long long at = 4 * (blockIdx.x * 256LL + threadIdx.x), left = n - at;
    if (left <= 0) return;
    const Four four = load_four(x, at, left);
    if (left >= 4) {  // y begins at a multiple of 8 bytes
        *reinterpret_cast<uint2*>(y + at) = {pack_bf16(four.v[0], four.v[1]), pack_bf16(four.v[2], four.v[3])};
        return;
    }
#pragma unroll
    for (int i = 0; i < 3; i++)
        if (i < left) y[at + i] = to_bf16(four.v[i]);
}
