// The part that all tiled products in float32 share: two tiles in shared memory, and threads that multiply them.
//
// A block computes TILE_M x TILE_N numbers of the result and each of its THREADS an 8 x 8 square of them (register
// blocking; Volkov & Demmel 2008, doi 10.1109/SC.2008.5214359). For one step along the inner axis a thread reads 8 numbers
// of each tile and makes 64 products of these 16: shared memory, which gives an SM 32 numbers a cycle while it could
// multiply 128 pairs, is no longer the bottleneck.
//
// Both tiles have the inner axis first, so that the 8 numbers lie in two runs of 4 that one instruction each can read. The
// two runs are half a tile apart: threads next to each other then read runs next to each other, and their banks differ.
// The rows of a tile are 4 numbers longer than they need be: threads that write 4 rows of the matrix, 8 numbers of each,
// meet in no bank either.
//
// There are two of each tile. A thread asks memory for its part of the next step before it multiplies, has it in
// registers meanwhile (Brought) and puts it into the other tile afterwards, so nobody waits for memory, and one barrier
// per step will do: whoever is past it knows that all are done with the step before, whose tile comes next.
#pragma once
#include "lib/fours.cuh"

#ifndef TILE_M
#define TILE_M 64
#endif
#ifndef TILE_N
#define TILE_N 64
#endif
#define DEPTH 8  // steps along the inner axis in a tile
#define THREADS (TILE_M / 8 * (TILE_N / 8))
#define BLOCKS_OF_AN_SM (THREADS < 64 ? 8 : 384 / THREADS)  // at least: 384 threads leave each of them 168 registers

template <int SIZE>
struct __align__(16) Tile {
    float at[DEPTH][SIZE + 4];
};

template <int SIZE>
struct Brought {  // a thread's part of a tile, on the way
    float v[SIZE * DEPTH / THREADS];
};

// What a thread has of a matrix whose rows are neighbours along the inner axis: one place there, l, and every HIGH-th row.
template <int SIZE, class F>
__device__ __forceinline__ void each_along(F f) {
    const int high = THREADS / DEPTH, first = threadIdx.x / DEPTH;
#pragma unroll
    for (int e = 0; e < SIZE / high; e++) f(e, first + e * high);
}

// number(row) is what belongs to this place.
template <int SIZE, class F>
__device__ __forceinline__ void bring_along(Brought<SIZE>& part, F number) {
    each_along<SIZE>([&](int e, int row) { part.v[e] = number(row); });
}

template <int SIZE>
__device__ __forceinline__ void put_along(Tile<SIZE>& tile, const Brought<SIZE>& part) {
    each_along<SIZE>([&](int e, int row) { tile.at[threadIdx.x % DEPTH][row] = part.v[e]; });
}

// `from` points at the thread's number of the tile's row 0; numbers beyond `rows` or not `there` become 0.
template <int SIZE>
__device__ __forceinline__ void bring_rows(Brought<SIZE>& part, const float* from, long long pitch, int rows, bool there) {
    bring_along(part, [&](int row) { return there && row < rows ? from[row * pitch] : 0.0f; });
}

// The same of a matrix that lies across: neighbours are rows.
template <int SIZE, class F>
__device__ __forceinline__ void each_across(F f) {
    const int wide = THREADS < SIZE ? THREADS : SIZE, high = THREADS / wide;
    const int first = threadIdx.x % wide, first_l = threadIdx.x / wide;
#pragma unroll
    for (int e = 0; e < DEPTH / high; e++)
#pragma unroll
        for (int i = 0; i < SIZE / wide; i++) f(e * (SIZE / wide) + i, first_l + e * high, first + i * wide);
}

// number(l, row) is what belongs to that place.
template <int SIZE, class F>
__device__ __forceinline__ void bring_across(Brought<SIZE>& part, F number) {
    each_across<SIZE>([&](int e, int l, int row) { part.v[e] = number(l, row); });
}

template <int SIZE>
__device__ __forceinline__ void put_across(Tile<SIZE>& tile, const Brought<SIZE>& part) {
    each_across<SIZE>([&](int e, int l, int row) { tile.at[l][row] = part.v[e]; });
}

// `corner` points at row 0 and place 0, places are `pitch` apart; numbers beyond `rows` and `depth` become 0.
template <int SIZE>
__device__ __forceinline__ void bring_columns(Brought<SIZE>& part, const float* corner, long long pitch, int rows, int depth) {
    bring_across(part, [&](int l, int row) { return l < depth && row < rows ? corner[l * pitch + row] : 0.0f; });
}

// Where in the block's tile the r-th row, or the c-th column, of this thread's square is.
__device__ int tile_row(int r) { return r / 4 * (TILE_M / 2) + threadIdx.x / (TILE_N / 8) * 4 + r % 4; }
__device__ int tile_column(int c) { return c / 4 * (TILE_N / 2) + threadIdx.x % (TILE_N / 8) * 4 + c % 4; }

// A sum begins with what is added to it: 0, or a number for each column.
__device__ __forceinline__ void begin(float (&sum)[8][8], const float* bias, int columns) {
#pragma unroll
    for (int c = 0; c < 8; c++) {
        const float first = bias && tile_column(c) < columns ? bias[tile_column(c)] : 0.0f;
#pragma unroll
        for (int r = 0; r < 8; r++) sum[r][c] = first;
    }
}

// sum[r][c] += sum_l a[l][row r] * b[l][column c]
__device__ __forceinline__ void add_products(float (&sum)[8][8], const Tile<TILE_M>& a, const Tile<TILE_N>& b) {
#pragma unroll 2
    for (int l = 0; l < DEPTH; l++) {
        Four rows[2], columns[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            rows[half] = *reinterpret_cast<const Four*>(&a.at[l][tile_row(4 * half)]);
            columns[half] = *reinterpret_cast<const Four*>(&b.at[l][tile_column(4 * half)]);
        }
#pragma unroll
        for (int r = 0; r < 8; r++)
#pragma unroll
            for (int c = 0; c < 8; c++) sum[r][c] += rows[r / 4].v[r % 4] * columns[c / 4].v[c % 4];
    }
}
