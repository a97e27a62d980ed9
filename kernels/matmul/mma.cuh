// The part that all products on tensor cores share: tiles in shared memory that copies fill while others are multiplied.
//
// A block computes TILE_M x TILE_N numbers of the result by WARPS warps, each TILE_M / 2 x 32 of them, in steps of 128 bytes
// along the inner axis: 64 numbers of bfloat16, 32 of float, which the tensor cores round to tf32 (10 bits of mantissa), or 128
// of int8. Products are exact; sums are float, of int8 they are whole numbers. T is bf16, float or signed char.
//
// Pieces. Tiles consist of pieces of 16 bytes, which is what cp.async copies and what ldmatrix takes as a row. A matrix
// that lies along the inner axis makes a tile with a row for each of its rows, one that lies ACROSS makes a tile with a row
// for each place on the inner axis; ldmatrix turns the latter while it loads, but only numbers of 2 bytes, so floats that
// lie across are read one by one, and int8 numbers must not lie across.
//
// Swizzle. 8 pieces are as wide as all banks of shared memory. If piece p of a row were at place p, the 8 rows that ldmatrix
// reads at one p would meet in the same 4 banks and queue up. So piece p of row r is at place p ^ (r % 8): in each row
// another one, and no space is lost. (Floats across: the 4 rows that a warp reads at a time differ by 2 (r % 4).)
//
// Pipeline. Shared memory has STAGES tiles of each factor. While one is multiplied the next STAGES - 1 are on their way.
#pragma once
#include "lib/ptx.cuh"

#ifndef TILE_M
#define TILE_M 128
#endif
#ifndef TILE_N
#define TILE_N 128
#endif
#define STAGES 3
#define WARPS (TILE_N / 16)  // two rows of them
#define THREADS (32 * WARPS)
#define BLOCKS_OF_AN_SM (TILE_M * TILE_N > 64 * 64 ? 1 : 3)

template <class T> constexpr int PIECE = 16 / (int)sizeof(T);   // numbers in a piece
template <class T> constexpr int STEP = 128 / (int)sizeof(T);   // places on the inner axis in a tile
template <class T> constexpr int DEPTH = 32 / (int)sizeof(T);   // of these in one mma.sync
template <class T> constexpr int STAGE = (TILE_M + TILE_N) * STEP<T>;  // numbers of both tiles

// Where in a tile with SIZE rows (of the matrix) a piece of a row (of the tile) begins.
template <class T, bool ACROSS, int SIZE>
__device__ __forceinline__ int place(int row, int piece) {
    const int pieces = ACROSS ? SIZE / PIECE<T> : 8;
    const int turn = ACROSS && sizeof(T) == 4 ? row % 4 * 2 : row % 8;
    return (row * pieces + (piece ^ turn)) * PIECE<T>;
}

// Start to fill a tile, piece by piece: `find(row, column)` points to a row's numbers from `column` on, a multiple of
// PIECE, or is null where there are none, and the tile gets 0. `any` is any address at a multiple of 16.
template <class T, bool ACROSS, int SIZE, class Find>
__device__ __forceinline__ void start_pieces(T* tile, const T* any, Find find) {
    constexpr int ROWS = ACROSS ? STEP<T> : SIZE, PIECES = ACROSS ? SIZE / PIECE<T> : 8;
#pragma unroll
    for (int e = 0; e < ROWS * PIECES / THREADS; e++) {
        const int at = e * THREADS + threadIdx.x, row = at / PIECES, piece = at % PIECES;
        const T* from = find(row, piece * PIECE<T>);
        cp_async<16>(tile + place<T, ACROSS, SIZE>(row, piece), from ? from : any, from ? 16 : 0);
    }
}

// The same for numbers that do not lie at multiples of 16 bytes: one at a time, through registers.
template <class T, bool ACROSS, int SIZE, class Find>
__device__ __forceinline__ void bring_numbers(T* tile, Find find) {
    constexpr int ROWS = ACROSS ? STEP<T> : SIZE, COLUMNS = ACROSS ? SIZE : STEP<T>;
#pragma unroll 4
    for (int at = threadIdx.x; at < ROWS * COLUMNS; at += THREADS) {
        const int row = at / COLUMNS, column = at % COLUMNS;
        const T* from = find(row, column);
        tile[place<T, ACROSS, SIZE>(row, column / PIECE<T>) + column % PIECE<T>] = from ? *from : T{};
    }
}

// What fills a tile of numbers that a function finds one by one, or by the piece if they are aligned.
template <class T, bool ACROSS, bool ALIGNED, int SIZE, class Find>
__device__ __forceinline__ void start_found(T* tile, const T* any, Find find) {
    if constexpr (ALIGNED) start_pieces<T, ACROSS, SIZE>(tile, any, find);
    else bring_numbers<T, ACROSS, SIZE>(tile, find);
}

// Start to fill the tile of a matrix whose rows (columns, if ACROSS) are `pitch` numbers apart, from `corner` on; what lies
// beyond `rows` rows and `depth` places on the inner axis becomes 0.
template <class T, bool ACROSS, bool ALIGNED, int SIZE>
__device__ __forceinline__ void start_tile(T* tile, const T* corner, long long pitch, int rows, int depth) {
    auto find = [&](int row, int column) {
        const bool there = ACROSS ? row < depth && column < rows : row < rows && column < depth;
        return there ? corner + row * pitch + column : nullptr;
    };
    start_found<T, ACROSS, ALIGNED, SIZE>(tile, corner, find);
}

// The column of its tile that a thread looks for is always the same.
template <class T, bool ACROSS, bool ALIGNED, int SIZE>
__device__ __forceinline__ int column_of_thread() {
    constexpr int COLUMNS = ACROSS ? SIZE : STEP<T>;
    static_assert(THREADS % COLUMNS == 0, "a thread must meet one column only");
    return ALIGNED ? threadIdx.x % (COLUMNS / PIECE<T>) * PIECE<T> : threadIdx.x % COLUMNS;
}

// --- fragments: see lib/ptx.cuh ----------------------------------------------------------------------------------------

// The 16 rows from `row` on and the DEPTH places from k on of the left factor's tile.
template <class T, bool ACROSS>
__device__ __forceinline__ void load_left(unsigned (&a)[4], const T* tile, int row, int k) {
    const int lane = threadIdx.x % 32;
    if constexpr (!ACROSS) {
        ldmatrix(a, tile + place<T, false, TILE_M>(row + lane % 16, k / PIECE<T> + lane / 16));
    } else if constexpr (sizeof(T) == 2) {
        ldmatrix_trans(a, tile + place<T, true, TILE_M>(k + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = row + lane / 4 + e % 2 * 8;
            a[e] = __float_as_uint(tile[place<T, true, TILE_M>(k + lane % 4 + e / 2 * 4, r / 4) + r % 4]);
        }
    }
    if constexpr (sizeof(T) == 4)
#pragma unroll
        for (int e = 0; e < 4; e++) a[e] = to_tf32(__uint_as_float(a[e]));
}

// The DEPTH places from k on and 16 columns from `column` on of the right factor's tile: b[0], b[1] the first 8 of them.
template <class T, bool ACROSS>
__device__ __forceinline__ void load_right(unsigned (&b)[4], const T* tile, int column, int k) {
    const int lane = threadIdx.x % 32;
    if constexpr (!ACROSS) {
        const int row = column + lane / 16 * 8 + lane % 8;
        ldmatrix(b, tile + place<T, false, TILE_N>(row, k / PIECE<T> + lane / 8 % 2));
    } else if constexpr (sizeof(T) == 2) {
        ldmatrix_trans(b, tile + place<T, true, TILE_N>(k + lane / 8 % 2 * 8 + lane % 8, column / 8 + lane / 16));
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int c = column + lane / 4 + e / 2 * 8;
            b[e] = __float_as_uint(tile[place<T, true, TILE_N>(k + lane % 4 + e % 2 * 4, c / 4) + c % 4]);
        }
    }
    if constexpr (sizeof(T) == 4)
#pragma unroll
        for (int e = 0; e < 4; e++) b[e] = to_tf32(__uint_as_float(b[e]));
}

// --- the warp's part of the result -------------------------------------------------------------------------------------

template <class Number>
struct SumsOf {  // of[m][n][e] is at row(m, e) and column(n, e) of the block's tile
    Number of[TILE_M / 32][4][4];
};
using Sums = SumsOf<float>;

__device__ __forceinline__ int row_of(int m, int e) {
    return threadIdx.x / 32 / (WARPS / 2) * (TILE_M / 2) + m * 16 + threadIdx.x % 32 / 4 + e / 2 * 8;
}

__device__ __forceinline__ int column_of(int n, int e) {
    return threadIdx.x / 32 % (WARPS / 2) * 32 + n * 8 + threadIdx.x % 4 * 2 + e % 2;
}

// A sum begins with what is added to it: 0, or a number for each column.
__device__ __forceinline__ void begin(Sums& sums, const float* bias, int columns) {
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float first = bias && column_of(n, e) < columns ? bias[column_of(n, e)] : 0.0f;
#pragma unroll
            for (int m = 0; m < TILE_M / 32; m++) sums.of[m][n][e] = first;
        }
}

// Calls put(row, column, number) for the thread's numbers in the first `rows` rows and `columns` columns of the block's tile.
template <class Number, class Put>
__device__ __forceinline__ void each_sum(const SumsOf<Number>& sums, long long rows, long long columns, Put put) {
#pragma unroll
    for (int m = 0; m < TILE_M / 32; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = row_of(m, e), column = column_of(n, e);
                if (row < rows && column < columns) put(row, column, sums.of[m][n][e]);
            }
}

// The same places, one after the other and not in registers: for work that is rarely needed.
template <class At>
__device__ __forceinline__ void each_place(At at) {
#pragma unroll 1
    for (int number = 0; number < TILE_M / 2; number++) at(row_of(number / 16, number % 4), column_of(number / 4 % 4, number % 4));
}

__device__ __forceinline__ void add_sums(Sums& total, const Sums& sums) {
#pragma unroll
    for (int m = 0; m < TILE_M / 32; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) total.of[m][n][e] += sums.of[m][n][e];
}

template <class T, bool ACROSS_A, bool ACROSS_B, class Number>
__device__ __forceinline__ void add_products(SumsOf<Number>& sums, const T* a, const T* b) {
    static_assert(sizeof(T) > 1 || !(ACROSS_A || ACROSS_B), "nothing turns bytes");
    const int row = threadIdx.x / 32 / (WARPS / 2) * (TILE_M / 2), column = threadIdx.x / 32 % (WARPS / 2) * 32;
#pragma unroll
    for (int k = 0; k < STEP<T>; k += DEPTH<T>) {
        unsigned left[TILE_M / 32][4], right[2][4];
#pragma unroll
        for (int m = 0; m < TILE_M / 32; m++) load_left<T, ACROSS_A>(left[m], a, row + 16 * m, k);
#pragma unroll
        for (int n = 0; n < 2; n++) load_right<T, ACROSS_B>(right[n], b, column + 16 * n, k);
#pragma unroll
        for (int m = 0; m < TILE_M / 32; m++)
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const unsigned b0 = right[n / 2][n % 2 * 2], b1 = right[n / 2][n % 2 * 2 + 1];
                if constexpr (sizeof(T) == 1) mma_s8(sums.of[m][n], left[m], b0, b1);
                else if constexpr (sizeof(T) == 2) mma_bf16(sums.of[m][n], left[m], b0, b1);
                else mma_tf32(sums.of[m][n], left[m], b0, b1);
            }
    }
}

struct Nothing {
    __device__ __forceinline__ void operator()() const {}
};

// All steps of a block: `start(step, a, b)` starts to fill the two tiles of a step, `then()` comes after its products.
template <class T, bool ACROSS_A, bool ACROSS_B, class Number, class Start, class Then = Nothing>
__device__ __forceinline__ void add_all_products(SumsOf<Number>& sums, T* tiles, int steps, Start start,
                                                 Then then = {}) {
    auto start_stage = [&](int step) {
        T* const a = tiles + step % STAGES * STAGE<T>;
        if (step < steps) start(step, a, a + TILE_M * STEP<T>);
        cp_async_commit();  // of nothing after the last step, so that the count of groups goes on
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) start_stage(step);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();  // what this thread has copied for this step is there
        __syncthreads();              // and what the others have; and all are done with the step before,
        start_stage(step + STAGES - 1);  // whose stage is filled anew
        const T* const a = tiles + step % STAGES * STAGE<T>;
        add_products<T, ACROSS_A, ACROSS_B>(sums, a, a + TILE_M * STEP<T>);
        then();
    }
}
