// Transposes a matrix of bytes q (k, n): turned (n, pitch), with zeros behind each row, which begins at a multiple of
// 16 bytes.
//
// Up to Hopper tensor cores take int8 factors only with neighbours along the inner axis: what transposes 16-bit numbers
// on their way (ldmatrix, wgmma) does not transpose bytes. A block has a square of SIDE x SIDE. Each thread transposes
// 4 x 4 numbers in four words, one of each row, and shared memory transposes the words.
#include "eight_bit/bytes.cuh"

#define SIDE 64
#define WORDS (SIDE / 4)

extern "C" __global__ void __launch_bounds__(256)
    turn(const signed char* q, signed char* turned, int k, int n, int pitch, bool words) {
    __shared__ int tile[SIDE][WORDS + 1];
    const int blocks = (n + SIDE - 1) / SIDE, l0 = blockIdx.x / blocks * SIDE, j0 = blockIdx.x % blocks * SIDE;
    const int word = threadIdx.x % WORDS, line = threadIdx.x / WORDS, j = j0 + 4 * word;
    unsigned rows[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int l = l0 + 4 * line + i, left = l < k ? n - j : 0;
        const signed char* from = q + (long long)l * n + j;
        rows[i] = left <= 0 ? 0 : words ? *reinterpret_cast<const int*>(from) : word_of(from, 1, left);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned column = 0;
#pragma unroll
        for (int row = 0; row < 4; row++) column |= (rows[row] >> 8 * i & 0xff) << 8 * row;
        tile[4 * word + i][line] = column;
    }
    __syncthreads();  // the words are there
#pragma unroll
    for (int column = line; column < SIDE; column += 256 / WORDS)
        if (j0 + column < n && l0 + 4 * word < pitch)
            *reinterpret_cast<int*>(turned + (long long)(j0 + column) * pitch + l0 + 4 * word) = tile[column][word];
}
