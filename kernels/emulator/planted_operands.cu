// Instructions with what they cannot take: addresses, counts, numbers of barriers. As in planted90.cu every kernel is
// meant to reverse rows of 64 numbers, of which x is the array and `map` describes it.
#include "lib/ptx90.cuh"

#define SIZE 64
#define ROW (SIZE * 4)  // bytes

#define PLACE                                     \
    __shared__ __align__(128) float tile[SIZE];   \
    __shared__ float other[SIZE];                 \
    __shared__ mbarrier full;                     \
    const int t = threadIdx.x, row = blockIdx.x * SIZE;

#define FILL               \
    PLACE                  \
    tile[t] = x[row + t];  \
    other[t] = 0;          \
    __syncthreads();

#define COPIED             \
    cp_async_commit();     \
    cp_async_wait<0>();    \
    __syncthreads();       \
    y[row + t] = tile[SIZE - 1 - t];

extern "C" __global__ void taken(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    cp_async<4>(&other[t], &x[row + t], 4);
    COPIED
}

extern "C" __global__ void copies_from_shared(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    cp_async<4>(&other[t], &tile[t]);  // FINDS bad operand
    COPIED
}

extern "C" __global__ void copies_to_global(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    cp_async<4>(&y[row + t], &x[row + t]);  // FINDS bad operand
    COPIED
}

extern "C" __global__ void copies_more_than_all(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    cp_async<4>(&other[t], &x[row + t], t == 5 ? 8 : 4);  // FINDS bad operand
    COPIED
}

extern "C" __global__ void copies_less_than_nothing(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    cp_async<4>(&other[t], &x[row + t], t == 5 ? -4 : 4);  // FINDS bad operand
    COPIED
}

// What is copied changes under way: old or new numbers may come.
extern "C" __global__ void changes_the_source(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    y[row + t] = x[row + t];
    cp_async<4>(&other[t], &y[row + t]);  // FINDS missing wait
    y[row + t] = 0;
    COPIED
}

#define LOADED                         \
    y[row + t] = __int_as_float(r[0]);

extern "C" __global__ void loads_from_global(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    unsigned r[1];
    ldmatrix(r, &x[4 * (t % 8)]);  // FINDS bad operand
    LOADED
}

extern "C" __global__ void loads_from_beside(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    unsigned r[1];
    ldmatrix(r, &tile[4 * (t % 8 + 9)]);  // FINDS out of range
    LOADED
}

extern "C" __global__ void stores_to_global(const float* x, const __grid_constant__ TensorMap map, float* y) {
    PLACE
    const unsigned r[1] = {0};
    stmatrix(&y[row + 4 * (t % 8)], r);  // FINDS bad operand
}

extern "C" __global__ void stores_between_rows(const float* x, const __grid_constant__ TensorMap map, float* y) {
    PLACE
    const unsigned r[1] = {0};
    stmatrix(&tile[2 * (t % 8)], r);  // FINDS misaligned
}

extern "C" __global__ void stores_what_others_read(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    const unsigned r[1] = {0};
    if (t >= 32) stmatrix(&tile[32 + 4 * (t % 8)], r);  // FINDS race
    y[row + t] = tile[SIZE - 1 - t];                    // FINDS race
}

extern "C" __global__ void loads_columns_too_early(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    tile[t] = 1;                            // FINDS race
    unsigned r[1];
    ldmatrix_trans(r, &tile[4 * (t % 8)]);  // FINDS race
    LOADED
}

extern "C" __global__ void left_is_no_tf32(const float* x, const __grid_constant__ TensorMap map, float* y) {
    PLACE
    const unsigned a[4] = {0, 0, 0, __float_as_uint(1 + 0x1p-11f)};
    float d[4] = {0, 0, 0, 0};
    mma_tf32(d, a, 0, 0);  // FINDS bad operand
    y[row + t] = d[0];
}

extern "C" __global__ void right_is_no_tf32(const float* x, const __grid_constant__ TensorMap map, float* y) {
    PLACE
    const unsigned a[4] = {0, 0, 0, 0};
    float d[4] = {0, 0, 0, 0};
    mma_tf32(d, a, 0, __float_as_uint(1 + 0x1p-11f));  // FINDS bad operand
    y[row + t] = d[0];
}

// --- barriers ---------------------------------------------------------------------------------------------------------

extern "C" __global__ void barrier_0(const float* x, const __grid_constant__ TensorMap map, float* y) {
    named_barrier_sync(0, 64);  // FINDS bad operand
}

extern "C" __global__ void barrier_16(const float* x, const __grid_constant__ TensorMap map, float* y) {
    named_barrier_sync(16, 64);  // FINDS bad operand
}

extern "C" __global__ void one_warp_and_a_half(const float* x, const __grid_constant__ TensorMap map, float* y) {
    if (threadIdx.x < 48) named_barrier_sync(1, 48);  // FINDS bad operand
}

extern "C" __global__ void more_than_the_block(const float* x, const __grid_constant__ TensorMap map, float* y) {
    named_barrier_sync(1, 96);  // FINDS bad operand
}

extern "C" __global__ void for_nobody(const float* x, const __grid_constant__ TensorMap map, float* y) {
    named_barrier_sync(1, 0);  // FINDS bad operand
}

extern "C" __global__ void one_barrier_of_two_sizes(const float* x, const __grid_constant__ TensorMap map, float* y) {
    if (threadIdx.x < 32)
        named_barrier_sync(1, 64);  // FINDS divergence
    else
        named_barrier_sync(1, 32);  // FINDS divergence
}

// The instruction counts warps of 32, whoever of them comes: it would see 64 threads.
extern "C" __global__ void every_other_lane(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    if (t % 2) named_barrier_sync(1, 32);  // FINDS deadlock
    y[row + t] = tile[SIZE - 1 - t];
}

extern "C" __global__ void made_in_global(const float* x, const __grid_constant__ TensorMap map, float* y) {
    if (threadIdx.x == 0) mbarrier_init(reinterpret_cast<mbarrier*>(y), 1);  // FINDS bad operand
}

extern "C" __global__ void made_between_eights(const float* x, const __grid_constant__ TensorMap map, float* y) {
    PLACE
    if (t == 0) mbarrier_init(reinterpret_cast<mbarrier*>(&tile[1]), 1);  // FINDS bad operand
}

extern "C" __global__ void made_without_a_barrier(const float* x, const __grid_constant__ TensorMap map, float* y) {
    PLACE
    if (t == 0) mbarrier_init(&full, 1);
    if (t == 1) mbarrier_arrive(&full);  // FINDS race, uninitialised
    y[row + t] = 0;
}

extern "C" __global__ void made_of_what_is_read(const float* x, const __grid_constant__ TensorMap map, float* y) {
    FILL
    if (t == 40) mbarrier_init(reinterpret_cast<mbarrier*>(&tile[2]), 1);  // FINDS race
    y[row + t] = tile[SIZE - 1 - t];                                       // FINDS race
}

extern "C" __global__ void made_for_none(const float* x, const __grid_constant__ TensorMap map, float* y) {
    PLACE
    if (t == 0) mbarrier_init(&full, 0);  // FINDS bad operand
}

#define MADE                      \
    PLACE                         \
    if (t == 0) {                 \
        mbarrier_init(&full, 1);  \
        fence_mbarrier_init();    \
    }                             \
    __syncthreads();

// Here the barrier's bits are elsewhere, so only this finding tells that on a GPU they would be gone.
extern "C" __global__ void tile_over_a_barrier(const float* x, const __grid_constant__ TensorMap map, float* y) {
    PLACE
    mbarrier* const last = reinterpret_cast<mbarrier*>(&tile[SIZE - 2]);
    if (t == 0) {
        mbarrier_init(last, 1);
        fence_mbarrier_init();
        fence_proxy_async();
        mbarrier_arrive_expect(last, ROW);
        tma_load(tile, &map, last, 0, blockIdx.x);  // FINDS bad operand
    }
    __syncthreads();
    mbarrier_wait(last, 0);
    y[row + t] = tile[SIZE - 1 - t];  // FINDS bad operand
}

extern "C" __global__ void barrier_as_a_number(const float* x, const __grid_constant__ TensorMap map, float* y) {
    MADE
    if (t == 5) full.state = 0;  // FINDS bad operand
    y[row + t] = x[row + SIZE - 1 - t];
}

extern "C" __global__ void made_again(const float* x, const __grid_constant__ TensorMap map, float* y) {
    MADE
    if (t == 5) mbarrier_init(&full, 1);  // FINDS bad operand
    y[row + t] = x[row + SIZE - 1 - t];
}

extern "C" __global__ void waits_for_a_third_parity(const float* x, const __grid_constant__ TensorMap map, float* y) {
    MADE
    mbarrier_wait(&full, 2);  // FINDS bad operand
}

extern "C" __global__ void tile_to_global(const float* x, const __grid_constant__ TensorMap map, float* y) {
    MADE
    if (t == 0) tma_load(y + row, &map, &full, 0, blockIdx.x);  // FINDS bad operand
}

extern "C" __global__ void tile_beside(const float* x, const __grid_constant__ TensorMap map, float* y) {
    MADE
    if (t == 0) tma_load(&tile[0] - 32, &map, &full, 0, blockIdx.x);  // FINDS out of range
}

extern "C" __global__ void tile_of_three_axes(const float* x, const __grid_constant__ TensorMap map, float* y) {
    MADE
    if (t == 0) tma_load(tile, &map, &full, 0, blockIdx.x, 0);  // FINDS bad operand
}
