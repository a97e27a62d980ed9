// Products on Hopper's tensor cores of tiles that one warp brings and two warp groups multiply: what the matrix product, the
// convolution and both its gradients share.
//
// Needs sm_90a.
//
// A block computes TILE_M x TILE_N numbers of the result in steps of STEP along the inner axis. In mma.cuh all warps start
// copies, wait for them and multiply in turn. Here they have different jobs (warp specialisation). The producer, one thread of
// a warp of its own, does nothing but start copies: two or three instructions a step. Each of the CONSUMERS warp groups does
// nothing but multiply 64 rows by TILE_N columns, with both factors read from shared memory by the tensor cores themselves.
//
// Between them is a ring (lib/ring.cuh) of STAGES places for a step's two tiles. The producer waits for an empty place and
// fills it, a consumer waits for a full one and multiplies: nobody ever waits for all. Both go round and round: a block that
// computes several tiles begins the next with the turn after the last one's.
//
// Tiles. A row of a tile is 64 numbers of bf16, 128 bytes, in the swizzle. A tile that lies along the inner axis has a row for each
// row of the left factor (column of the right one); one that lies ACROSS has 64 rows, a place on the inner axis each, in
// panels of 64 numbers. Either way what a consumer needs of the left factor begins 64 rows after what the one before needs.
// With int8 or fp8 for a FACTOR a row is 128 numbers and both tiles lie along; the sums of int8 are whole numbers.
//
// The order of tiles. Blocks work on neighbouring tiles at the same time; those should need few rows and columns, which
// are then in the second-level cache: a band of BAND rows of tiles is visited column by column.
//
// The sums. d[4 j + i] of a thread is at row_of(i) and column_of(j, i) of the block's tile: lib/ptx90.cuh.
#pragma once
#include "lib/ring.cuh"

#ifndef TILE_N
#define TILE_N 128
#endif
#ifndef FACTOR
#define FACTOR bf16  // or signed char, and then int is the SUM; or e4m3 or e5m2
#define SUM float
#endif
#ifndef RIGHT_FACTOR
#define RIGHT_FACTOR FACTOR  // the other of these two, in tiles that are called FACTOR's
#endif
#define TILE_M 128
#define BAND 8  // rows of tiles
#define STEP (128 / (int)sizeof(FACTOR))
#ifndef INNER
#define INNER STEP  // of a step's places those that are multiplied, a multiple of DEPTH, where the left factor lies along
#endif
#define DEPTH (32 / (int)sizeof(FACTOR))  // places on the inner axis in one wgmma
#define CONSUMERS 2
#ifndef CLUSTER
#define CLUSTER 1  // blocks that fill their rings together
#endif
#ifndef BLOCKS_OF_AN_SM  // and with it STAGES
#define BLOCKS_OF_AN_SM (TILE_N > 128 ? 1 : 2)
#define STAGES (TILE_N == 128 ? 3 : TILE_N == 160 ? 5 : 4)
#endif
#define THREADS (128 * CONSUMERS + 32)
#define PANEL (64 * STEP)                             // numbers in 64 rows
#define PANELS_N ((TILE_N + 63) / 64)                 // of the right tile, if it lies across; of 160 columns the last is half used
#define STAGE ((TILE_M + 64 * PANELS_N) * STEP)       // numbers in both tiles

__device__ __forceinline__ void make(Ring<STAGES, CLUSTER>& ring) {
    if (threadIdx.x == 0) {
        ring.init(1, 4 * CONSUMERS * CLUSTER);
        fence_mbarrier_init();
    }
    if constexpr (CLUSTER > 1) cluster_sync();
    else __syncthreads();
}

__device__ __forceinline__ bool is_producer() { return threadIdx.x >= 128 * CONSUMERS; }

// The producer: start(left, right, barrier) starts the copies of the next step's two tiles. Returns the turn after.
template <bool ACROSS_RIGHT, class Start>
__device__ __forceinline__ Turn<STAGES> produce(Ring<STAGES, CLUSTER>& ring, FACTOR* tiles, int steps, Start start,
                                                Turn<STAGES> turn = {}) {
    if (threadIdx.x % 32 != 0) return turn;
    for (int step = 0; step < steps; step++, turn.next()) {
        ring.wait_empty(turn);
        mbarrier_arrive_expect(&ring.full[turn.place], (TILE_M + (ACROSS_RIGHT ? 64 * PANELS_N : TILE_N)) * 128);
        FACTOR* const left = tiles + turn.place * STAGE;
        start(left, left + TILE_M * STEP, &ring.full[turn.place]);
    }
    return turn;
}

template <bool ACROSS_LEFT, bool ACROSS_RIGHT, int SUMS>
__device__ __forceinline__ void add_products(float (&d)[SUMS], unsigned long long left, unsigned long long right) {
    if constexpr (sizeof(FACTOR) == 2) {
        wgmma_bf16<ACROSS_LEFT, ACROSS_RIGHT>(d, left, right);
    } else {
        static_assert(!ACROSS_LEFT && !ACROSS_RIGHT, "nothing turns bytes");
        using Left = FACTOR;
        using Right = RIGHT_FACTOR;
        wgmma_fp8(d, left, right, Left{}, Right{});
    }
}

template <bool ACROSS_LEFT, bool ACROSS_RIGHT, int SUMS>
__device__ __forceinline__ void add_products(int (&d)[SUMS], unsigned long long left, unsigned long long right) {
    static_assert(!ACROSS_LEFT && !ACROSS_RIGHT, "nothing turns bytes");
    wgmma_s8(d, left, right);
}

// A consumer: adds the products of all steps, and returns the turn after. The products of a step run while those of the next
// are begun; when they have ended, their place is given back. (The first step stands before the loop: with products under way
// from one iteration to the next, the assembler requires that only products have written the sums, or makes each wait
// for the one before.)
template <bool ACROSS_LEFT, bool ACROSS_RIGHT>
__device__ __forceinline__ Turn<STAGES> consume(SUM (&d)[TILE_N / 2], Ring<STAGES, CLUSTER>& ring, const FACTOR* tiles,
                                                int steps, Turn<STAGES> turn = {}) {
    Turn<STAGES> before = turn;
    auto begin_products = [&] {
        ring.wait_full(turn);
        const FACTOR* const left = tiles + turn.place * STAGE + threadIdx.x / 128 * PANEL;
        const FACTOR* const right = tiles + turn.place * STAGE + TILE_M * STEP;
        wgmma_fence(d);
#pragma unroll
        for (int k = 0; k < (ACROSS_LEFT ? STEP : INNER); k += DEPTH)
            add_products<ACROSS_LEFT, ACROSS_RIGHT>(d, wgmma_descriptor(left + k * (ACROSS_LEFT ? 64 : 1), 64 * 128),
                                                    wgmma_descriptor(right + k * (ACROSS_RIGHT ? 64 : 1), 64 * 128));
        wgmma_commit();
        turn.next();
    };
    auto give_back = [&] {
        ring.release(before);
        before.next();
    };
    if (steps == 0) return turn;
    begin_products();
    for (int step = 1; step < steps; step++) {
        begin_products();
        wgmma_wait<1>(d);
        give_back();
    }
    wgmma_wait<0>(d);
    give_back();
    return turn;
}

// A consumer whose sums must not drift: what each step has added up is added to `total`, as float (3_split.cu says why). While one
// consumer adds, the other can multiply. `total` costs so many registers that there is one such block to a multiprocessor.
template <bool ACROSS_LEFT, bool ACROSS_RIGHT>
__device__ __forceinline__ Turn<STAGES> consume_by_step(float (&total)[TILE_N / 2], Ring<STAGES, CLUSTER>& ring,
                                                        const FACTOR* tiles, int steps, Turn<STAGES> turn = {}) {
    for (int step = 0; step < steps; step++) {
        SUM d[TILE_N / 2] = {};
        turn = consume<ACROSS_LEFT, ACROSS_RIGHT>(d, ring, tiles, 1, turn);
#pragma unroll
        for (int e = 0; e < TILE_N / 2; e++) total[e] += d[e];
    }
    return turn;
}

// Of tiles_n columns of tiles in tiles_m rows the one that comes as number `at`.
struct Place {
    int row, column;  // of its first number

    __device__ __forceinline__ Place(long long at, long long tiles_m, long long tiles_n) {
        const long long first = at / (BAND * tiles_n) * BAND, rows = min(tiles_m - first, (long long)BAND);
        const long long in_band = at - first * tiles_n;
        row = (int)((first + in_band % rows) * TILE_M);
        column = (int)(in_band / rows * TILE_N);
    }
};

__device__ __forceinline__ int row_of(int i) { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 * 8; }
__device__ __forceinline__ int column_of(int j, int i) { return 8 * j + threadIdx.x % 4 * 2 + i % 2; }

// Two neighbours, the first of `left` that there are, in a row of a matrix with so many columns.
__device__ __forceinline__ void store_two(float* to, float one, float other, int left, int columns) {
    if (columns % 2 == 0) {
        *reinterpret_cast<float2*>(to) = float2{one, other};
    } else {
        to[0] = one;
        if (left > 1) to[1] = other;
    }
}

// Stores a consumer's sums: value(e, row, column) is what becomes of d[e], in the first m rows and n columns of a matrix y (m, n).
template <class Value>
__device__ __forceinline__ void store_tile(float* y, long long first_row, int first_column, long long m, int n, Value value) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const long long row = first_row + row_of(2 * half);
        if (row >= m) continue;
        float* const line = y + row * n;
#pragma unroll
        for (int j = 0; j < TILE_N / 8; j++) {
            const int column = first_column + column_of(j, 0), left = n - column, e = 4 * j + 2 * half;
            if (left > 0)
                store_two(line + column, value(e, row, column), left > 1 ? value(e + 1, row, column + 1) : 0.0f, left, n);
        }
    }
}
