// The product of two matrices by tiles: what a block has brought from memory it uses up to 128 times. Definition, shapes
// and transposed factors are those of rung 1.
//
// New here: shared memory and registers as two stages between memory and the multipliers. A block walks along the inner
// axis in steps of DEPTH. In each step its threads carry a strip of a, TILE_M rows of DEPTH numbers, and one of b into
// shared memory, and then each makes the products of its 8 x 8 square out of registers (matmul/tile.cuh). A block of
// 128 x 64 reads 192 numbers for 8192 products; rung 1 would read 16384.
//
// Where the inner axis is long and the result small, as in the gradient of a weight (its inner axis is the batch), there
// would be too few blocks for a large GPU. So the inner axis may be cut into `parts`: each has blocks of its own and a y
// of its own, and add_parts.cu adds those in a fixed order. The cut depends on the shape alone, so the result is the same
// to the last bit every time, which atomic additions would not be.
#include "lib/cuda.cuh"
#include "matmul/tile.cuh"
#ifndef TRANSPOSE_A  // given at compile time: what a thread must remember of both ways would not fit into registers
#define TRANSPOSE_A false
#define TRANSPOSE_B false
#endif

template <bool ACROSS, int SIZE>
__device__ __forceinline__ void bring(Brought<SIZE>& part, const float* corner, long long pitch, int rows, int depth) {
    if (ACROSS) bring_columns(part, corner, pitch, rows, depth);
    else bring_rows(part, corner + threadIdx.x % DEPTH, pitch, rows, threadIdx.x % DEPTH < depth);
}

template <bool ACROSS, int SIZE>
__device__ __forceinline__ void put(Tile<SIZE>& tile, const Brought<SIZE>& part) {
    if (ACROSS) put_across(tile, part);
    else put_along(tile, part);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    matmul(const float* a, const float* b, const float* bias, float* y, long long batches, long long m, long long n,
           long long k, long long a_batch, long long b_batch, long long part_size) {
    __shared__ Tile<TILE_M> a_tiles[2];
    __shared__ Tile<TILE_N> b_tiles[2];
    const long long tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const long long first_row = blockIdx.x / tiles_n % tiles_m * TILE_M, first_column = blockIdx.x % tiles_n * TILE_N;
    const long long matrix = blockIdx.x / tiles_n / tiles_m;  // of parts * batches in y
    const long long start = matrix / batches * part_size, end = min(k, start + part_size);
    const int rows = min(m - first_row, (long long)TILE_M), columns = min(n - first_column, (long long)TILE_N);

    a += matrix % batches * a_batch + (TRANSPOSE_A ? start * m + first_row : first_row * k + start);
    b += matrix % batches * b_batch + (TRANSPOSE_B ? first_column * k + start : start * n + first_column);
    Brought<TILE_M> a_next;
    Brought<TILE_N> b_next;
    auto bring_step = [&](long long left) {
        const int depth = min(left, (long long)DEPTH);
        bring<TRANSPOSE_A>(a_next, a, TRANSPOSE_A ? m : k, rows, depth);
        bring<!TRANSPOSE_B>(b_next, b, TRANSPOSE_B ? k : n, columns, depth);
        a += TRANSPOSE_A ? DEPTH * m : DEPTH;
        b += TRANSPOSE_B ? DEPTH : DEPTH * n;
    };
    float sum[8][8];
    begin(sum, bias ? bias + first_column : nullptr, columns);
    if (start < end) bring_step(end - start);
    int turn = 0;
    for (long long l = start; l < end; l += DEPTH, turn ^= 1) {
        put<TRANSPOSE_A>(a_tiles[turn], a_next);
        put<!TRANSPOSE_B>(b_tiles[turn], b_next);
        __syncthreads();  // the tiles are there, and all are done with the others
        if (l + DEPTH < end) bring_step(end - l - DEPTH);
        add_products(sum, a_tiles[turn], b_tiles[turn]);
    }
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const int i = tile_row(r), j = tile_column(c);
            if (i < rows && j < columns) y[(matrix * m + first_row + i) * n + first_column + j] = sum[r][c];
        }
}
