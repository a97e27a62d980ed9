// What a VQ-VAE wants of the codes that were chosen, in one pass over z (m, d):
//
//     e[i] = codebook[indices[i]],   errors[i] = sum_j (z[i, j] - e[i, j])^2,   counts[k] = how many i have indices[i] = k
//
// `lanes` neighbouring threads, a power of 2 up to 32, take a row: each adds up the squares of its own numbers, four
// neighbours at a time, and then what the others have, always in the same order. Counts are whole numbers, so atomic
// additions give the same in any order. All of it waits for memory: z and e are moved once, the codebook stays in the cache.
// The search before it (rungs 1 to 4) takes ten times as long or more and keeps its registers for itself.
#include "lib/cuda.cuh"
#include "lib/exact.cuh"
#include "lib/fours.cuh"

extern "C" __global__ void clear(unsigned long long* counts, int codes) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < codes) counts[k] = 0;
}

extern "C" __global__ void gather(const float* z, const float* codebook, const long long* indices, float* e,
                                  float* errors, unsigned long long* counts, long long m, int d, int lanes) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x, row = at / lanes;
    const int lane = at % lanes;
    float sum = 0;
    if (row < m) {
        const long long code = indices[row];
        for (int j = 4 * lane; j < d; j += 4 * lanes) {
            const Four a = load_four(z, row * d + j, d - j), b = load_four(codebook, code * d + j, d - j);
            store_four(e, row * d + j, d - j, b);
#pragma unroll
            for (int i = 0; i < 4; i++) sum = plus_32(sum, times_32(a.v[i] - b.v[i], a.v[i] - b.v[i]));
        }
        if (lane == 0) atomicAdd(&counts[code], 1ull);
    }
    for (int bit = lanes / 2; bit; bit /= 2) sum = plus_32(sum, __shfl_xor_sync(0xffffffffu, sum, bit));
    if (row < m && lane == 0) errors[row] = sum;
}
