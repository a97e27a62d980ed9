// Mistakes with what came with Hopper: copies of tiles, barriers that count bytes, products of warp groups. As in planted.cu
// every kernel is meant to reverse 64 numbers for each of its blocks, y[64 b + t] = x[64 b + 63 - t]; x comes as a
// TensorMap of rows of 64 numbers, with one row as its box.
#include "lib/ptx90.cuh"

#define SIZE 64
#define ROW (SIZE * 4)  // bytes

// The barrier is made by one thread, and all see it.
#define MAKE(barrier, count)                 \
    if (threadIdx.x == 0) {                  \
        mbarrier_init(&barrier, count);      \
        fence_mbarrier_init();               \
    }                                        \
    __syncthreads();

extern "C" __global__ void tiled(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    MAKE(full, 1)
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

// A barrier of all threads says that the copy has been started, not that it is there.
extern "C" __global__ void no_wait(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    MAKE(full, 1)
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);  // FINDS missing wait
    }
    __syncthreads();
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];  // FINDS missing wait
}

extern "C" __global__ void no_phase_flip(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    MAKE(full, 1)
    for (int part = 0; part < 2; part++) {
        __syncthreads();
        if (t == 0) {
            mbarrier_arrive_expect(&full, ROW);
            tma_load(tile, &x, &full, 0, blockIdx.x);   // FINDS race, missing wait
        }
        mbarrier_wait(&full, 0);  // should be `part`
        y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];  // FINDS race, missing wait
    }
}

// The zeros may come after what the engine brings: it does not see the order of ordinary stores.
extern "C" __global__ void no_proxy_fence(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    tile[t] = 0;
    MAKE(full, 1)
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);  // FINDS missing fence
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

extern "C" __global__ void fenced(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    tile[t] = 0;
    fence_proxy_async();
    MAKE(full, 1)
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

// One thread that knows of all stores, as after a barrier, makes all of them visible.
extern "C" __global__ void fenced_by_one(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    tile[SIZE - 1 - t] = 0;
    MAKE(full, 1)
    if (t == 0) {
        fence_proxy_async();
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

// The copy may come before or after the zeros, which is more than that it need not see them.
extern "C" __global__ void started_without_a_barrier(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    MAKE(full, 1)
    if (t == 63) tile[t] = 0;                      // FINDS race
    fence_proxy_async();
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);  // FINDS race
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

// It is another thread's fence, and nothing orders the two.
extern "C" __global__ void fenced_by_another(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    tile[t] = 0;
    MAKE(full, 1)
    if (t != 0) fence_proxy_async();
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);  // FINDS missing fence
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

// The fence after mbarrier_init must be of the thread that made the barrier.
extern "C" __global__ void made_and_fenced_by_two(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    if (t == 0) mbarrier_init(&full, 1);
    __syncthreads();
    if (t == 1) fence_mbarrier_init();
    __syncthreads();
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);  // FINDS missing fence
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

// Whoever waits for the copy sees what its thread did before it began, and not what it did after.
extern "C" __global__ void stored_after_the_start(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    __shared__ float zero;
    const int t = threadIdx.x;
    MAKE(full, 1)
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);
        zero = 0;
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t] + zero;  // FINDS race
}

// Two copies, each with a barrier of its own, and only one is waited for.
extern "C" __global__ void waits_for_the_other_copy(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[2][SIZE];
    __shared__ mbarrier full[2];
    const int t = threadIdx.x;
    MAKE(full[0], 1)
    MAKE(full[1], 1)
    for (int part = 0; part < 2; part++)
        if (t == 0) {
            mbarrier_arrive_expect(&full[part], ROW);
            tma_load(tile[part], &x, &full[part], 0, blockIdx.x);  // FINDS missing wait
        }
    mbarrier_wait(&full[1], 0);
    y[blockIdx.x * SIZE + t] = tile[0][SIZE - 1 - t];          // FINDS race, missing wait
}

extern "C" __global__ void begun_and_forgotten(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    MAKE(full, 1)
    if (threadIdx.x == 0) tma_load(tile, &x, &full, 0, blockIdx.x);  // FINDS missing wait
    y[blockIdx.x * SIZE + threadIdx.x] = 0;
}

// A pipeline of one stage: the first warp fills it, the second empties it, twice.
#define PIPELINE(before_reading, after_reading)                                 \
    __shared__ __align__(128) float tile[SIZE];                                 \
    __shared__ mbarrier full, empty;                                            \
    const int lane = threadIdx.x % 32;                                          \
    if (threadIdx.x == 0) mbarrier_init(&empty, 32);                            \
    MAKE(full, 1)                                                               \
    if (threadIdx.x == 0)                                                       \
        for (int part = 0; part < 2; part++) {                                  \
            mbarrier_wait(&empty, (part & 1) ^ 1);                              \
            mbarrier_arrive_expect(&full, ROW);                                 \
            tma_load(tile, &x, &full, 0, blockIdx.x);                           \
        }                                                                       \
    if (threadIdx.x >= 32)                                                      \
        for (int part = 0; part < 2; part++) {                                  \
            mbarrier_wait(&full, part & 1);                                     \
            before_reading;                                                     \
            const float one = tile[SIZE - 1 - lane], other = tile[31 - lane];   \
            after_reading;                                                      \
            y[blockIdx.x * SIZE + lane] = one;                                  \
            y[blockIdx.x * SIZE + 32 + lane] = other;                           \
        }

extern "C" __global__ void pipeline(const __grid_constant__ TensorMap x, float* y) {
    PIPELINE((void)0, mbarrier_arrive(&empty))
}

extern "C" __global__ void released_too_early(const __grid_constant__ TensorMap x, float* y) {
    PIPELINE(mbarrier_arrive(&empty), (void)0)  // FINDS race
}

extern "C" __global__ void never_released(const __grid_constant__ TensorMap x, float* y) {
    PIPELINE((void)0, (void)0)  // FINDS deadlock
}

extern "C" __global__ void fewer_bytes_than_expected(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    MAKE(full, 1)
    if (t == 0) {
        mbarrier_arrive_expect(&full, 2 * ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);
    }
    mbarrier_wait(&full, 0);  // FINDS deadlock
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

extern "C" __global__ void too_many_arrive(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x;
    MAKE(full, 1)
    if (t == 0) mbarrier_arrive_expect(&full, ROW);
    __syncthreads();
    if (t == 0) mbarrier_arrive(&full);  // FINDS bad operand
    if (t == 0) tma_load(tile, &x, &full, 0, blockIdx.x);
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + t] = tile[SIZE - 1 - t];
}

extern "C" __global__ void barrier_that_nobody_made(const __grid_constant__ TensorMap x, float* y) {
    __shared__ mbarrier full;
    mbarrier_wait(&full, 1);  // FINDS uninitialised
    y[blockIdx.x * SIZE + threadIdx.x] = 0;
}

// --- named barriers and stmatrix --------------------------------------------------------------------------------------

// The first warp fills, the second one reads, and only it waits.
extern "C" __global__ void named(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ float copy[SIZE];
    __shared__ mbarrier full;
    const int lane = threadIdx.x % 32;
    MAKE(full, 1)
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);
    }
    if (threadIdx.x < 32) {
        mbarrier_wait(&full, 0);
        for (int part = 0; part < 2; part++) copy[32 * part + lane] = tile[32 * part + lane];
        named_barrier_arrive(1, 64);
    } else {
        named_barrier_sync(1, 64);
        for (int part = 0; part < 2; part++) y[blockIdx.x * SIZE + 32 * part + lane] = copy[SIZE - 1 - 32 * part - lane];
    }
}

// What comes after an arrival the others are not told of.
extern "C" __global__ void stored_after_arriving(const __grid_constant__ TensorMap x, float* y) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x;
    if (t < 32) {
        named_barrier_arrive(1, 64);
        tile[t] = 0;
    } else {
        named_barrier_sync(1, 64);
        y[blockIdx.x * SIZE + t] = tile[t - 32];  // FINDS race
    }
}

// Nor does whoever arrives, and does not wait, see what the others did: not even who comes last.
extern "C" __global__ void read_after_arriving(const __grid_constant__ TensorMap x, float* y) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x;
    if (t < 32) {
        named_barrier_arrive(1, 64);
        y[blockIdx.x * SIZE + t] = tile[t];    // FINDS race, uninitialised
    } else {
        tile[t - 32] = 0;                      // FINDS race
        named_barrier_sync(1, 64);
    }
}

extern "C" __global__ void other_named_barrier(const __grid_constant__ TensorMap x, float* y) {
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < 32) named_barrier_arrive(1, 64);
    else named_barrier_sync(2, 64);  // FINDS deadlock
    y[blockIdx.x * SIZE + lane] = 0;
}

extern "C" __global__ void stored(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE], reversed[SIZE];
    __shared__ mbarrier full;
    const int t = threadIdx.x, lane = t % 32, warp = t / 32;
    MAKE(full, 1)
    if (t == 0) {
        mbarrier_arrive_expect(&full, ROW);
        tma_load(tile, &x, &full, 0, blockIdx.x);
    }
    mbarrier_wait(&full, 0);
    const unsigned number[1] = {__float_as_uint(tile[SIZE - 1 - t])};
    stmatrix(&reversed[4 * (8 * warp + lane % 8)], number);  // lane 4 r + c holds the number at row r, column c
    __syncwarp();
    y[blockIdx.x * SIZE + t] = reversed[t];
}
