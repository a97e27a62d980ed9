// Linear layers on eight-bit weights, by tiles in shared memory. Definitions are those of rung 1.
//
// A block of 16 x 16 threads has a square of SIDE x SIDE of the result, and each thread 4 x 4 numbers of it, 16 apart. Tiles
// of x and of the weights, DEPTH of the k terms at a time, pass through shared memory; 4 numbers of each are read for 16
// products. int8 weights and fp8 numbers are turned into floats as they are stored.
//
// New here: four products at a time. Four int8 numbers that follow each other along k are one word, and dp4a multiplies
// two such words number by number and adds the four products to a sum of 32 bits, in one instruction. Rows of p are in
// that order already (`words` of them, if k is a multiple of 4 and they lie at a multiple of 4 bytes; else byte by byte).
// The weights are not, they lie across, so they are transposed as they are stored: a thread collects four of a column.
// Missing terms are 0 and add nothing, which is why the last tile needs no care.
#include "eight_bit/bytes.cuh"

#define SIDE 64
#define DEPTH 16  // terms of a tile of floats
#define FOURS 8   // words of a tile of int8

#ifndef __CUDACC__  // the emulator's dp4a
inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 32; i += 8) sum += (signed char)(a >> i) * (signed char)(b >> i);
    return sum;
}
#endif

// left(at) and right(at) give the factors' numbers by their places in memory, put(i, j, sum) stores one of the result.
template <class Left, class Right, class Put>
__device__ __forceinline__ void multiply(long long m, int k, int n, Left left, Right right, Put put) {
    __shared__ float rows[SIDE][DEPTH + 1];
    __shared__ float columns[DEPTH][SIDE];
    const int thread = threadIdx.x, across = thread % 16, down = thread / 16, blocks = (n + SIDE - 1) / SIDE;
    const long long i0 = blockIdx.x / blocks * (long long)SIDE;
    const int j0 = blockIdx.x % blocks * SIDE;
    float sum[4][4] = {};
    for (int l0 = 0; l0 < k; l0 += DEPTH) {
        const int depth = min(DEPTH, k - l0);
#pragma unroll
        for (int at = thread; at < SIDE * DEPTH; at += 256) {
            const int row = at / DEPTH, l = at % DEPTH;
            rows[row][l] = i0 + row < m && l < depth ? left((i0 + row) * k + l0 + l) : 0;
        }
#pragma unroll
        for (int at = thread; at < SIDE * DEPTH; at += 256) {
            const int l = at / SIDE, column = at % SIDE;
            columns[l][column] = j0 + column < n && l < depth ? right((long long)(l0 + l) * n + j0 + column) : 0;
        }
        __syncthreads();  // both tiles are there
        for (int l = 0; l < depth; l++)
#pragma unroll
            for (int a = 0; a < 4; a++)
#pragma unroll
                for (int b = 0; b < 4; b++) sum[a][b] += rows[down + 16 * a][l] * columns[l][across + 16 * b];
        __syncthreads();  // all are done with them
    }
#pragma unroll
    for (int a = 0; a < 4; a++)
#pragma unroll
        for (int b = 0; b < 4; b++) {
            const long long i = i0 + down + 16 * a;
            const int j = j0 + across + 16 * b;
            if (i < m && j < n) put(i, j, sum[a][b]);
        }
}

extern "C" __global__ void __launch_bounds__(256)
    weight_only(const float* x, const signed char* q, const float* scale, const float* bias, float* y, long long m,
                int k, int n) {
    multiply(m, k, n, [&](long long at) { return x[at]; }, [&](long long at) { return q[at]; },
             [&](long long i, int j, float sum) { y[i * n + j] = bias ? sum * scale[j] + bias[j] : sum * scale[j]; });
}

extern "C" __global__ void __launch_bounds__(256)
    fp8(const unsigned char* p, const float* x_scale, const unsigned char* q, const float* scale, const float* bias,
        float* y, long long m, int k, int n) {
    multiply(m, k, n, [&](long long at) { return to_float(X_FORM{p[at]}); },
             [&](long long at) { return to_float(W_FORM{q[at]}); },
             [&](long long i, int j, float sum) { y[i * n + j] = scaled(sum, x_scale[i], scale[j], bias, j); });
}

extern "C" __global__ void __launch_bounds__(256)
    int8(const signed char* p, const float* x_scale, const signed char* q, const float* scale, const float* bias,
         float* y, long long m, int k, int n, bool words) {
    __shared__ int rows[SIDE][FOURS + 1];
    __shared__ int columns[FOURS][SIDE];
    const int thread = threadIdx.x, across = thread % 16, down = thread / 16, blocks = (n + SIDE - 1) / SIDE;
    const long long i0 = blockIdx.x / blocks * (long long)SIDE;
    const int j0 = blockIdx.x % blocks * SIDE;
    int sum[4][4] = {};
    for (int l0 = 0; l0 < k; l0 += 4 * FOURS) {
#pragma unroll
        for (int at = thread; at < SIDE * FOURS; at += 256) {
            const int row = at / FOURS, l = l0 + at % FOURS * 4, left = i0 + row < m ? k - l : 0;
            const signed char* from = p + (i0 + row) * k + l;
            rows[row][at % FOURS] = left <= 0 ? 0 : words ? *reinterpret_cast<const int*>(from) : word_of(from, 1, left);
        }
#pragma unroll
        for (int at = thread; at < SIDE * FOURS; at += 256) {
            const int column = at % SIDE, l = l0 + at / SIDE * 4, left = j0 + column < n ? k - l : 0;
            columns[at / SIDE][column] = left <= 0 ? 0 : word_of(q + (long long)l * n + j0 + column, n, left);
        }
        __syncthreads();  // both tiles are there
#pragma unroll
        for (int four = 0; four < FOURS; four++)
#pragma unroll
            for (int a = 0; a < 4; a++)
#pragma unroll
                for (int b = 0; b < 4; b++)
                    sum[a][b] = __dp4a(rows[down + 16 * a][four], columns[four][across + 16 * b], sum[a][b]);
        __syncthreads();  // all are done with them
    }
#pragma unroll
    for (int a = 0; a < 4; a++)
#pragma unroll
        for (int b = 0; b < 4; b++) {
            const long long i = i0 + down + 16 * a;
            const int j = j0 + across + 16 * b;
            if (i < m && j < n) y[i * n + j] = scaled(sum[a][b], x_scale[i], scale[j], bias, j);
        }
}
