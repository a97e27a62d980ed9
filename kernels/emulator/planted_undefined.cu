// As planted.cu, but what each of these does C++ leaves undefined: a GPU may give the right numbers, until its compiler
// learns something new.
#include "lib/cuda.cuh"

#define SIZE 64

// A thread's own array has no neighbours that another one would miss: only its index tells.
extern "C" __global__ void one_more_than_there_are(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    float mine[4];
    for (int e = 0; e < 4; e++) mine[e] = x[i + SIZE - 1 - (t + e) % SIZE];
    float sum = 0;
    for (int e = 0; e <= n % 8 + 4; e++) sum += mine[e];  // FINDS undefined
    y[i + t] = sum;
}

// Inside the tile, so nothing is out of range; the last column's neighbour is the next row's first.
extern "C" __global__ void into_the_next_row(const float* x, float* y, int n) {
    __shared__ float tile[8][8];
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    tile[t / 8][t % 8] = x[i + t];
    __syncthreads();
    const int from = SIZE - 1 - t;
    y[i + t] = tile[0][from];  // FINDS undefined
}

extern "C" __global__ void before_the_first(const float* x, float* y, int n) {
    __shared__ float tile[2][SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    tile[0][t] = x[i + t];
    __syncthreads();
    y[i + t] = tile[1][-1 - t];  // FINDS undefined
}

// All bits of a mask of 32: on a GPU 1 << 32 is 0, on a CPU it is 1.
extern "C" __global__ void shifted_out(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE, lanes = n / 4;
    const unsigned all = (1u << lanes) - 1;  // FINDS undefined
    y[i + t] = all ? x[i + SIZE - 1 - t] : 0;
}

// The offset of a row of 2^16 numbers, with 65,536 rows: it is 0 once its upper half is lost, which is right here.
extern "C" __global__ void offset_of_32_bits(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE, rows = 512 * n, row_size = 512 * n;
    const int offset = rows * row_size;  // FINDS undefined
    y[i + t] = x[i + SIZE - 1 - t + offset];
}

extern "C" __global__ void least_negated(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE, least = n << 24;
    const int most = -least;  // FINDS undefined
    y[i + t] = x[i + SIZE - 1 - t + most - least];
}

// A GPU makes 2147483647 of it, a CPU -2147483648.
extern "C" __global__ void too_large_for_an_int(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    const int cut = 1e10f * n;  // FINDS undefined
    y[i + t] = cut ? x[i + SIZE - 1 - t] : 0;
}

// What may look like it: a place behind the last that nobody reads, numbers without signs, a shift by 31.
extern "C" __global__ void allowed(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    __shared__ float tile[8][8];
    tile[t / 8][t % 8] = x[i + t];
    __syncthreads();
    const float* const end = &tile[7][8];
    unsigned turned = 0u - (unsigned)n * 0x80000001u;
    turned = turned << 31 >> 31;
    y[i + t] = turned ? 0 : end[-1 - t];
}
