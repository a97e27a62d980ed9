// The product of two bfloat16 matrices by wgmma, in which a warp group multiplies tiles that lie in shared memory.
// Definition, transposed factors, bias and parts of the inner axis are those of the rungs before.
//
// New here: threads that do different things. One only says which tiles shall come, TMA brings them in whole boxes, swizzled
// and with zeros where the matrix ends, and two warp groups only multiply; a ring of barriers, not a barrier for all, says
// who may go on. That is matmul/wgmma.cuh.
//
// New too: a block computes one tile of the result after the other; there are no more blocks than run at a time. The
// producer does not notice where one tile ends: it fills the ring for the next while the consumers still store this one.
//
// Transposed factors cost nothing: wgmma takes an operand either way (ACROSS), and TMA brings it as it lies.
//
// What it costs: TMA takes only rows that are multiples of 16 bytes (else the host makes a copy with zeros behind each row);
// a tile of 128 x 256 numbers has 128 sums in each thread of a consumer, so there is one such block to a multiprocessor, two
// of narrower tiles.
//
// Needs sm_90a.
#include "matmul/wgmma.cuh"

#ifndef TRANSPOSE_A  // given at compile time, as in the rungs before
#define TRANSPOSE_A false
#define TRANSPOSE_B false
#endif

struct Problem {
    long long batches, m, n, k, part_size;  // of parts * batches matrices in y

    __device__ __forceinline__ long long tiles_m() const { return (m + TILE_M - 1) / TILE_M; }
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

// SIZE rows of A (columns of B) from `first` on, STEP places on the inner axis from `at` on.
template <bool ACROSS, int SIZE>
__device__ __forceinline__ void start_tile(bf16* tile, const TensorMap* map, mbarrier* full, int first, int at, int batch) {
    if constexpr (ACROSS) {
#pragma unroll
        for (int panel = 0; panel < (SIZE + 63) / 64; panel++)
            tma_load(tile + panel * PANEL, map, full, first + panel * 64, at, batch);
    } else {
        tma_load(tile, map, full, at, first, batch);
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

// k must be more than 0, and sizes at most MOST (tensor_map.py). The maps' boxes are (1, TILE_M or TILE_N, STEP), or (1, STEP, 64) of a
// factor that lies across.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    matmul_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const float* bias, float* y,
                long long batches, long long m, long long n, long long k, bool a_batches, bool b_batches,
                long long part_size) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    const Problem problem = {batches, m, n, k, part_size};
    Turn<STAGES> turn;
    for (long long number = blockIdx.x; number < problem.tiles(); number += gridDim.x) {
        const Tile tile(problem, number);
        if (is_producer()) {
            int at = tile.begins;
            turn = produce<!TRANSPOSE_B>(ring, tiles, tile.steps, [&](bf16* left, bf16* right, mbarrier* full) {
                start_tile<TRANSPOSE_A, TILE_M>(left, &a, full, tile.row, at, a_batches ? tile.batch : 0);
                start_tile<!TRANSPOSE_B, TILE_N>(right, &b, full, tile.column, at, b_batches ? tile.batch : 0);
                at += STEP;
            }, turn);
            continue;
        }
        float d[TILE_N / 2];
        begin(d, bias ? bias + tile.column : nullptr, n - tile.column);
        turn = consume<TRANSPOSE_A, !TRANSPOSE_B>(d, ring, tiles, tile.steps, turn);
        store_tile(y + tile.matrix * m * n, tile.row, tile.column, m, (int)n, [&](int e, long long, int) { return d[e]; });
    }
}
