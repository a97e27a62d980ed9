// The product of two matrices by wgmma.cuh, one tile of the result after the other: what rungs 4 and 5 share.
//
// Needs sm_90a.
#pragma once
#include "matmul/wgmma.cuh"

#ifndef TRANSPOSE_A  // given at compile time, as in rungs 2 and 3
#define TRANSPOSE_A false
#define TRANSPOSE_B false
#endif

struct Problem {
    long long batches, m, n, k, part_size;  // of parts * batches matrices in y

    __device__ __forceinline__ long long tiles_m() const {  // blocks of a cluster have tiles one below the other
        return (m + CLUSTER * TILE_M - 1) / (CLUSTER * TILE_M) * CLUSTER;
    }
    __device__ __forceinline__ long long tiles_n() const { return (n + TILE_N - 1) / TILE_N; }
    __device__ __forceinline__ long long tiles() const {
        return (k + part_size - 1) / part_size * batches * tiles_m() * tiles_n();
    }
};

struct Tile {
    long long matrix;
    int batch, row, column, begins, steps;  // begins: on the inner axis

    __device__ __forceinline__ Tile(const Problem& p, long long number) {
        const long long tiles_m = p.tiles_m(), tiles_n = p.tiles_n();
        const Place place(number % (tiles_m * tiles_n), tiles_m, tiles_n);
        matrix = number / (tiles_m * tiles_n);
        batch = (int)(matrix % p.batches);
        row = place.row;
        column = place.column;
        begins = (int)(matrix / p.batches * p.part_size);
        steps = (int)((min(p.k - begins, p.part_size) + STEP - 1) / STEP);
    }
};

// SIZE rows of A (columns of B) from `first` on, STEP places on the inner axis from `at` on. load(to, x, y, z) copies a box.
template <bool ACROSS, int SIZE, class Load>
__device__ __forceinline__ void start_tile(bf16* tile, int first, int at, int batch, Load load) {
    if constexpr (ACROSS) {
#pragma unroll
        for (int panel = 0; panel < (SIZE + 63) / 64; panel++) load(tile + panel * PANEL, first + panel * 64, at, batch);
    } else {
        load(tile, at, first, batch);
    }
}

// A sum begins with what is added to it: 0, or a number for each column.
__device__ __forceinline__ void begin(float (&d)[TILE_N / 2], const float* bias, long long columns) {
#pragma unroll
    for (int e = 0; e < TILE_N / 2; e++) {
        const int column = column_of(e / 4, e % 4);
        d[e] = bias && column < columns ? bias[column] : 0.0f;
    }
}

// All tiles of this block. start_right(tile, at, place, barrier) starts the copies of the right factor's tile to `place`.
template <class StartRight>
__device__ __forceinline__ void compute_tiles(const Problem& problem, const TensorMap& a, bool a_batches, const float* bias,
                                              float* y, Ring<STAGES, CLUSTER>& ring, bf16* tiles, StartRight start_right) {
    Turn<STAGES> turn;
    for (long long number = blockIdx.x; number < problem.tiles(); number += gridDim.x) {
        const Tile tile(problem, number);
        if (is_producer()) {
            int at = tile.begins;
            turn = produce<!TRANSPOSE_B>(ring, tiles, tile.steps, [&](bf16* left, bf16* right, mbarrier* full) {
                start_tile<TRANSPOSE_A, TILE_M>(left, tile.row, at, a_batches ? tile.batch : 0,
                                                [&](bf16* to, int x, int y, int z) { tma_load(to, &a, full, x, y, z); });
                start_right(tile, at, right, full);
                at += STEP;
            }, turn);
            continue;
        }
        float d[TILE_N / 2];
        begin(d, bias ? bias + tile.column : nullptr, problem.n - tile.column);
        turn = consume<TRANSPOSE_A, !TRANSPOSE_B>(d, ring, tiles, tile.steps, turn);
        store_tile(y + tile.matrix * problem.m * problem.n, tile.row, tile.column, problem.m, (int)problem.n,
                   [&](int e, long long, int) { return d[e]; });
    }
}
