// Products of floats by products of bf16 numbers, of rows in a warp's registers with tiles in shared memory. What the parts of
// a float are, and which of their products matter: matmul/3_split.cu.
//
// The three parts of a tile lie one after the other. The products of the largest parts have sums of their own, to which the
// others are added at the end: so few additions are truncated at the size of the result, and more of them run side by side.
#pragma once
#include "attention/rows.cuh"
#include "matmul/parts.cuh"

#define LARGEST_PAIR (PAIRS - 1)

// Start to copy rows as start_tile does, all three parts of them, which are `part` numbers apart in memory.
template <int BLOCK, int COUNT, int COLUMNS, int WIDTH, int PITCH>
__device__ __forceinline__ void start_parts(bf16* tile, const bf16* x, long long part, int first, int rows, const bool* mask) {
    EACH(p, 3) start_tile<BLOCK, COUNT, COLUMNS, WIDTH, PITCH>(tile + p * COUNT * PITCH, x + p * part, first, rows, mask);
}

// Whether what this thread has copied there has NaN or Inf, which only the last part can have.
template <int BLOCK, int COUNT, int COLUMNS, int PITCH>
__device__ __forceinline__ bool has_copied_odd(const bf16* tile) {
    bool odd = false;
    for (int at = threadIdx.x; at < COUNT * (COLUMNS / 8); at += BLOCK) {
        const int row = 2 * COUNT + at / (COLUMNS / 8), column = at % (COLUMNS / 8) * 8;
        odd |= any_odd(*reinterpret_cast<const uint4*>(tile + row * PITCH + column));
    }
    return odd;
}

// A number of a tile of COUNT rows: the sum of its parts, which is exact in this order.
template <int COUNT, int PITCH>
__device__ __forceinline__ float number_at(const bf16* tile, int row, int column) {
    const bf16* const low = tile + row * PITCH + column;
    return to_float(low[0]) + to_float(low[COUNT * PITCH]) + to_float(low[2 * COUNT * PITCH]);
}

// product[n][2 h + e] = the dot product of the warp's row g + 8 h, of a block's OWN rows, and the tile's row 8 n + 2 t + e.
template <int COLUMNS, int ROW, int OWN, int COUNT>
__device__ __forceinline__ void multiply_rows(float (&product)[COUNT / 8][4], const bf16* own, const bf16* tile) {
    const int lane = threadIdx.x % 32;
    float rest[COUNT / 8][4];
    EACH(n, COUNT / 8) EACH(e, 4) product[n][e] = rest[n][e] = 0;
    EACH(c, COLUMNS / 16) {
        unsigned a[3][4];
        EACH(p, 3) ldmatrix(a[p], own + (p * OWN + lane % 16) * ROW + c * 16 + lane / 16 * 8);
        EACH(n, COUNT / 16) {
            unsigned b[3][4];
            const int row = n * 16 + lane / 16 * 8 + lane % 8;
            EACH(p, 3) ldmatrix(b[p], tile + (p * COUNT + row) * ROW + c * 16 + lane / 8 % 2 * 8);
            EACH(pair, PAIRS) EACH(half, 2) {
                float (&to)[4] = (pair == LARGEST_PAIR ? product : rest)[2 * n + half];
                const unsigned (&right)[4] = b[right_part(pair)];
                mma_bf16(to, a[left_part(pair)], right[2 * half], right[2 * half + 1]);
            }
        }
    }
    EACH(n, COUNT / 8) EACH(e, 4) product[n][e] += rest[n][e];
}

// Two neighbours as words of their three parts.
__device__ __forceinline__ void split_two(unsigned (&low), unsigned (&middle), unsigned (&high), float one, float other) {
    high = pack_bf16(one, other);
    one -= __uint_as_float(high << 16);
    other -= __uint_as_float(high & 0xffff0000u);
    middle = pack_bf16(one, other);
    low = pack_bf16(one - __uint_as_float(middle << 16), other - __uint_as_float(middle & 0xffff0000u));
}

// sum += weight . tile, of which 8 N columns are wanted; what a tile adds is added up before.
template <int ROW, int COUNT, int N>
__device__ __forceinline__ void add_rows(float (&sum)[N][4], const float (&weight)[COUNT / 8][4], const bf16* tile) {
    const int lane = threadIdx.x % 32;
    unsigned a[COUNT / 16][3][4];
    EACH(c, COUNT / 16) EACH(e, 4) {
        const float (&w)[4] = weight[2 * c + e / 2];
        split_two(a[c][0][e], a[c][1][e], a[c][2][e], w[e % 2 * 2], w[e % 2 * 2 + 1]);
    }
    EACH(m, (N + 1) / 2) {
        float here[2][4], rest[2][4];
        EACH(half, 2) EACH(e, 4) here[half][e] = rest[half][e] = 0;
        EACH(c, COUNT / 16) {
            unsigned b[3][4];
            EACH(p, 3) ldmatrix_trans(b[p], tile + (p * COUNT + c * 16 + lane % 16) * ROW + m * 16 + lane / 16 * 8);
            EACH(pair, PAIRS) EACH(half, 2) {
                if (2 * m + half == N) continue;
                float (&to)[4] = (pair == LARGEST_PAIR ? here : rest)[half];
                const unsigned (&right)[4] = b[right_part(pair)];
                mma_bf16(to, a[c][left_part(pair)], right[2 * half], right[2 * half + 1]);
            }
        }
        EACH(half, 2) EACH(e, 4)
            if (2 * m + half < N) sum[2 * m + half][e] += here[half][e] + rest[half][e];
    }
}
