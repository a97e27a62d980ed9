// The product of two float32 matrices on bf16 tensor cores, and yet about as exact as on float32 units.
//
// New here: a float is the sum of three bf16 numbers, high, middle and low (split.cu), so the product of two floats is nine
// products of bf16 numbers, each of them exact. Six matter:
//
//     a b = high high + (middle high + high middle) + (low high + middle middle + high low) + ...
//              1               2^-8                              2^-16                       2^-24 and below
//
// So the block goes through the inner axis six times, the smallest products first, with other parts of both factors each time:
// six times the work, on units that do fifteen times as much on an A100 or H100. (On a GeForce they do twice as much: there it
// is a loss.)
//
// The tensor cores' sums are float, but what they add at a time is truncated some bits below the largest of it, always
// towards 0, so long sums drift. What a step of 64 terms has added up is therefore added to a second set of sums, as float.
//
// A number below 2^-110 or so has no three parts: bf16 ends at 2^-133, which is then what the result is off by, times the other
// factor. Inf times a part that is 0 is NaN, and the largest floats' parts may give Inf - Inf. So a number of the result that is not
// finite is worked out again, as rung 1 does.
//
// Not yet run on hardware.
#include "matmul/definition.cuh"
#include "matmul/mma.cuh"
#include "matmul/parts.cuh"

// As in rung 3, of a (batches or 1, ...) and b in float32 and of their parts (3, batches or 1, rows, pitch).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    matmul_float32(const float* a, const float* b, const bf16* a_parts, const bf16* b_parts, const float* bias, float* y,
                   long long batches, long long m, long long n, long long k, long long a_batch, long long b_batch,
                   long long a_part, long long b_part, int a_pitch, int b_pitch, long long part_size) {
    DYNAMIC_SHARED(bf16, tiles);
    const long long tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const long long first_row = blockIdx.x / tiles_n % tiles_m * TILE_M, first_column = blockIdx.x % tiles_n * TILE_N;
    const long long matrix = blockIdx.x / tiles_n / tiles_m, batch = matrix % batches;  // of parts * batches in y
    const long long begins = matrix / batches * part_size, size = max(0ll, min(k - begins, part_size));
    const int rows = min(m - first_row, (long long)TILE_M), columns = min(n - first_column, (long long)TILE_N);
    const int steps = (int)((size + STEP<bf16> - 1) / STEP<bf16>);

    const long long a_rows = (a_batch ? batch : 0) * (TRANSPOSE_A ? k : m), b_rows = (b_batch ? batch : 0) * (TRANSPOSE_B ? n : k);
    a_parts += TRANSPOSE_A ? (a_rows + begins) * a_pitch + first_row : (a_rows + first_row) * a_pitch + begins;
    b_parts += TRANSPOSE_B ? (b_rows + first_column) * b_pitch + begins : (b_rows + begins) * b_pitch + first_column;
    auto start = [&](int step, bf16* a_tile, bf16* b_tile) {
        const int pair = step / steps;
        const long long done = step % steps * (long long)STEP<bf16>;
        const int depth = min(size - done, (long long)STEP<bf16>);
        const bf16* const left = a_parts + left_part(pair) * a_part;
        const bf16* const right = b_parts + right_part(pair) * b_part;
        start_tile<bf16, TRANSPOSE_A, true, TILE_M>(a_tile, left + (TRANSPOSE_A ? done * a_pitch : done), a_pitch, rows,
                                                    depth);
        start_tile<bf16, !TRANSPOSE_B, true, TILE_N>(b_tile, right + (TRANSPOSE_B ? done : done * b_pitch), b_pitch, columns,
                                                     depth);
    };
    Sums sums = {}, total;
    begin(total, bias ? bias + first_column : nullptr, columns);
    add_all_products<bf16, TRANSPOSE_A, !TRANSPOSE_B>(sums, tiles, PAIRS * steps, start, [&] {
        add_sums(total, sums);
        sums = {};
    });
    float* const corner = y + (matrix * m + first_row) * n + first_column;
    bool all_finite = true;
    each_sum(total, rows, columns, [&](int row, int column, float sum) {
        corner[row * n + column] = sum;
        all_finite &= is_finite(sum);
    });
    if (all_finite) return;
    a += batch * a_batch;
    b += batch * b_batch;
    each_place([&](int row, int column) {
        if (row >= rows || column >= columns || is_finite(corner[row * n + column])) return;
        const float sum = product_at(a, b, first_row + row, first_column + column, m, n, k, begins, begins + size);
        corner[row * n + column] = bias ? sum + bias[first_column + column] : sum;
    });
}
