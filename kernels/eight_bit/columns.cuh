// The end of the layers on Hopper's tensor cores: a consumer's sums, times their scales, plus the bias.
//
// The scales and biases of a tile's columns are copied to shared memory while its products are under way. Loaded at the end, each
// of them would be waited for on its own, since a load cannot pass a store that might change what it loads, and there is no
// room for all of them in registers beside the sums.
#pragma once
#include "eight_bit/bytes.cuh"
#include "matmul/wgmma.cuh"

struct Columns {  // in shared memory; each consumer has its own, as the other may be at another tile
    float scale[CONSUMERS][TILE_N], bias[CONSUMERS][TILE_N];

    __device__ __forceinline__ void start(int first_column, int n, const float* scales, const float* biases) {
        for (int at = threadIdx.x % 128; at < TILE_N; at += 128) {
            const int column = first_column + at, bytes = column < n ? 4 : 0;  // of others nothing is read
            cp_async<4>(&scale[threadIdx.x / 128][at], scales + (bytes ? column : 0), bytes);
            if (biases) cp_async<4>(&bias[threadIdx.x / 128][at], biases + (bytes ? column : 0), bytes);
        }
        cp_async_commit();
    }

    // Stores the sums as store_tile does: value(e, x_scale, scale, bias) is what becomes of d[e], with the scale of its row and
    // the scale and bias of its column; a null pointer stands for zeros.
    template <class Value>
    __device__ __forceinline__ void store(float* y, long long first_row, int first_column, long long m, int n,
                                          const float* x_scale, const float* biases, Value value) {
        const int consumer = threadIdx.x / 128;
        cp_async_wait<0>();
        named_barrier_sync(1 + consumer, 128);  // what all threads of this consumer have copied is there
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const long long row = first_row + row_of(2 * half);
            if (row >= m) continue;
            float* const line = y + row * n;
            const float of_row = x_scale ? x_scale[row] : 0.0f;
            auto number = [&](int e, int at) {
                return value(e, of_row, scale[consumer][at], biases ? bias[consumer][at] : 0.0f);
            };
#pragma unroll
            for (int j = 0; j < TILE_N / 8; j++) {
                const int at = column_of(j, 0), left = n - first_column - at, e = 4 * j + 2 * half;
                if (left > 0) store_two(line + first_column + at, number(e, at), number(e + 1, at + 1), left, n);
            }
        }
        named_barrier_sync(1 + consumer, 128);  // all have read them: the next tile's may come
    }
};
