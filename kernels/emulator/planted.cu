// One mistake for each kernel, and the line where the emulator finds it. What all of them are meant to do is what the
// first one does: reverse every 64 numbers, y[64 b + t] = x[64 b + 63 - t], with blocks of 64 threads; n is a multiple.
//
// "FINDS kind, kind" marks the line of a finding; the tests check that exactly these lines and kinds are found.
#include "lib/ptx.cuh"

#define SIZE 64

extern "C" __global__ void clean(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = x[i];
    __syncthreads();
    y[i] = tile[SIZE - 1 - t];
}

// No barrier between writing the tile and reading it. Values are often right: half of the threads run late enough.
extern "C" __global__ void dropped_barrier(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = 0;
    __syncthreads();
    tile[t] = x[i];                // FINDS race
    y[i] = tile[SIZE - 1 - t];     // FINDS race
}

// The tile is used twice, with no barrier before the second filling. The first result may be of the second tile.
extern "C" __global__ void dropped_second_barrier(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = x[i] + 1;
    __syncthreads();
    const float more = tile[SIZE - 1 - t];  // FINDS race
    tile[t] = 1;                            // FINDS race
    __syncthreads();
    y[i] = more - tile[SIZE - 1 - t];
}

// Inside y the number too many is another block's, so it is a race; behind y it is out of range.
extern "C" __global__ void one_too_many(const float* x, float* y, int n) {
    const int end = blockIdx.x * SIZE + SIZE;
    for (int i = end - SIZE + threadIdx.x; i <= end; i += SIZE) {  // should be i < end
        const float value = x[i];                                  // FINDS out of range
        y[i] = value;                                              // FINDS out of range, race
    }
}

extern "C" __global__ void over_the_tiles_end(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    __shared__ float other[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    other[t] = 0;
    tile[t + 1] = x[i];                    // FINDS out of range, undefined
    __syncthreads();
    y[i] = tile[SIZE - t] + other[t];      // FINDS out of range, undefined
}

extern "C" __global__ void half_filled(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    if (t >= SIZE / 2) tile[t] = x[i];
    __syncthreads();
    y[i] = tile[SIZE - 1 - t];  // FINDS uninitialised
}

// A sum into y itself, which nobody has set to 0.
extern "C" __global__ void sum_without_a_zero(const float* x, float* y, int n) {
    const int i = blockIdx.x * SIZE + threadIdx.x;
    y[i] += x[blockIdx.x * SIZE + SIZE - 1 - threadIdx.x];  // FINDS uninitialised
}

// A local sum that nobody has set to 0: what it begins with is still there at the end.
extern "C" __global__ void local_sum_without_a_zero(const float* x, float* y, int n) {
    const int t = threadIdx.x, first = blockIdx.x * SIZE;
    float sum;
    for (int k = 0; k < SIZE; k++) sum += k == SIZE - 1 - t ? x[first + k] : 0;
    y[first + t] = sum;  // FINDS uninitialised
}

extern "C" __global__ void barrier_in_a_branch(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = x[i];
    if (t < 40) __syncthreads();  // FINDS deadlock
    __syncwarp();                 // FINDS deadlock
    y[i] = tile[SIZE - 1 - t];
}

// Of two threads one returns, and barriers, shuffles and votes wait for the others.
extern "C" __global__ void half_have_returned(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, first = blockIdx.x * SIZE;
    if (t % 2) return;
    tile[t] = x[first + t];
    tile[t + 1] = x[first + t + 1];
    __syncthreads();
    y[first + SIZE - 1 - t] = tile[t];
    float value = tile[t + 1];
    __syncwarp();
    if (__popc(__ballot_sync(0xffffffffu, 1)) != 16) value = 0;
    if (__reduce_add_sync(0xffffffffu, 1) != 16) value = 0;
    value = __shfl_xor_sync(0xffffffffu, value, 2);
    y[first + SIZE - 2 - (t ^ 2)] = value;
}

// A barrier waits for those that have not returned, but what they had to bring is missing.
extern "C" __global__ void returned_too_early(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    if (t == 17) return;
    tile[t] = x[i];
    __syncthreads();
    y[i] = tile[SIZE - 1 - t];  // FINDS uninitialised
}

extern "C" __global__ void asks_a_lane_that_returned(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    if (t == 17) return;
    float value = x[blockIdx.x * SIZE + SIZE - 1 - t];
    value = __shfl_xor_sync(0xffffffffu, value, 1);  // FINDS lane
    y[i] = __shfl_xor_sync(0xffffffffu, value, 1);   // FINDS lane
}

extern "C" __global__ void different_barriers(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    if (t < 32) {
        tile[t] = x[i];
        __syncthreads();        // FINDS divergence
    } else {
        tile[t] = x[i];
        __syncthreads();        // FINDS divergence
    }
    y[i] = tile[SIZE - 1 - t];
}

// All threads add to one number, and not atomically.
extern "C" __global__ void common_sum(const float* x, float* y, int n) {
    __shared__ float sum;
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    if (t == 0) sum = 0;
    __syncthreads();
    sum += x[i];               // FINDS race
    __syncthreads();
    y[i] = sum;
}

// The same with atomicAdd is right: nothing is found (but in floating point its last bits depend on the order).
extern "C" __global__ void atomic_sum(const float* x, float* y, int n) {
    __shared__ float sum;
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    if (t == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, x[i]);
    __syncthreads();
    y[i] = sum;
}

extern "C" __global__ void blocks_meet(const float* x, float* y, int n) {
    const int i = (blockIdx.x / 2 * SIZE + threadIdx.x) % n;  // should be blockIdx.x
    y[i] = x[blockIdx.x * SIZE + SIZE - 1 - threadIdx.x];     // FINDS race
}

// What one block writes another one reads: no barrier reaches beyond a block.
extern "C" __global__ void reads_the_other_block(const float* x, float* y, int n) {
    const int i = blockIdx.x * SIZE + threadIdx.x;
    y[i] = x[i];                         // FINDS race
    __syncthreads();
    if (blockIdx.x == 0) y[i] = y[i + SIZE];  // FINDS race, uninitialised
}

extern "C" __global__ void writes_its_input(const float* x, float* y, int n) {
    const int i = blockIdx.x * SIZE + threadIdx.x;
    y[i] = x[blockIdx.x * SIZE + SIZE - 1 - threadIdx.x];
    ((float*)x)[i] = 0;  // FINDS read-only
}

extern "C" __global__ void half_a_warp_shuffles(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    float value = x[i];
    if (t % 32 < 16) value = __shfl_xor_sync(0xffffffffu, value, 15);  // FINDS deadlock
    __syncthreads();                                                   // FINDS deadlock
    y[i] = value;
}

extern "C" __global__ void reads_a_lane_that_is_absent(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    float value = x[i];
    if (t % 32 < 16) value = __shfl_xor_sync(0x0000ffffu, value, 31);  // FINDS lane
    y[i] = value;
}

extern "C" __global__ void mask_without_the_caller(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    y[i] = __shfl_sync(0x0000ffffu, x[i], 0);  // FINDS lane
}

// A shuffle waits for all lanes and tells nobody what they have stored.
extern "C" __global__ void shuffle_for_a_barrier(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = x[i];
    const float more = __shfl_sync(0xffffffffu, 0.0f, 0);
    y[i] = tile[t ^ 31] + more;  // FINDS race
}

// "Within a warp all run in step" was never promised and since Volta is not so: __syncwarp() must stand between.
extern "C" __global__ void no_warp_barrier(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = x[i];
    __syncthreads();
    const float value = tile[t ^ 31];  // FINDS race
    tile[t] = value;                   // FINDS race
    __syncthreads();
    y[i] = tile[t ^ 32];
}

extern "C" __global__ void warp_barriers(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = x[i];
    __syncwarp();
    const float value = tile[t ^ 31];
    __syncwarp();
    tile[t] = value;
    __syncthreads();
    y[i] = tile[t ^ 32];
}

extern "C" __global__ void far_away(const float* x, float* y, int n) {
    const int i = blockIdx.x * SIZE + threadIdx.x;
    y[i] = x[i + (1LL << 34)];  // FINDS wild address
}

extern "C" __global__ void waits_for_a_flag(const float* x, float* y, int n) {
    volatile float* flag = y;
    if (threadIdx.x == 0) *flag = 0;
    __syncthreads();
    while (*flag == 0) {}  // FINDS endless
}

extern "C" __global__ void skips_the_tail(const float* x, float* y, int n) {
    const int i = blockIdx.x * SIZE + threadIdx.x;
    if (i < n - 1) y[i] = x[blockIdx.x * SIZE + SIZE - 1 - threadIdx.x];  // FINDS unwritten: y[n - 1]
}

// Inside every array, initialised, ordered, and wrong: only the expected result tells, and the shadow knows who wrote it.
extern "C" __global__ void wrong_index(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = x[i];
    __syncthreads();
    y[i] = tile[(SIZE - t) % SIZE];  // FINDS wrong value
}

// --- copies that run on their own: cp.async ---------------------------------------------------------------------------

extern "C" __global__ void copied(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    cp_async<4>(&tile[t], &x[i]);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[i] = tile[SIZE - 1 - t];
}

// On most cards the numbers are there in time, on most days.
extern "C" __global__ void missing_wait(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = 0;
    cp_async<4>(&tile[t], &x[i]);  // FINDS missing wait
    cp_async_commit();
    __syncthreads();
    y[i] = tile[SIZE - 1 - t];     // FINDS missing wait
}

// A copy that is in no group is waited for by nobody.
extern "C" __global__ void dropped_commit(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = 0;
    cp_async<4>(&tile[t], &x[i]);  // FINDS missing wait
    cp_async_wait<0>();
    __syncthreads();
    y[i] = tile[SIZE - 1 - t];     // FINDS missing wait
}

// A wait is for a thread's own copies only.
extern "C" __global__ void no_barrier_after_the_wait(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = 0;
    __syncthreads();
    cp_async<4>(&tile[t], &x[i]);  // FINDS race
    cp_async_commit();
    cp_async_wait<0>();
    y[i] = tile[SIZE - 1 - t];     // FINDS race
}

// The barrier stands before the wait, where it orders nothing that matters.
extern "C" __global__ void wait_after_the_barrier(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[t] = 0;
    cp_async<4>(&tile[t], &x[i]);
    cp_async_commit();
    __syncthreads();
    cp_async_wait<0>();
    y[i] = tile[SIZE - 1 - t];     // FINDS race, missing wait
}

// Two groups are under way, and the wait allows one of them to stay so: the one that is read.
extern "C" __global__ void waits_for_the_other_group(const float* x, float* y, int n) {
    __shared__ float tile[2][SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    tile[1][t] = 0;
    for (int part = 0; part < 2; part++) {
        cp_async<4>(&tile[part][t], &x[i]);  // FINDS missing wait
        cp_async_commit();
    }
    cp_async_wait<1>();  // should be 0
    __syncthreads();
    y[i] = tile[1][SIZE - 1 - t];            // FINDS missing wait
}

// The next copy into the tile begins while others still read it.
extern "C" __global__ void copied_too_early(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    cp_async<4>(&tile[t], &x[i]);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[i] = tile[SIZE - 1 - t];     // FINDS race
    cp_async<4>(&tile[t], &x[i]);  // FINDS race
    cp_async_commit();
    cp_async_wait<0>();
}

extern "C" __global__ void copies_from_between_two_numbers(const float* x, float* y, int n) {
    __shared__ __align__(16) float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    if (t < 15) cp_async<16>(&tile[4 * t], &x[i + 4 * t + 1]);  // FINDS misaligned
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[i + t] = tile[SIZE - 1 - t];
}

extern "C" __global__ void reads_four_from_between_fours(const float* x, float* y, int n) {
    __shared__ __align__(16) float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    tile[t] = x[i + t];
    __syncthreads();
    if (t < 15) {
        const float4 four = *reinterpret_cast<const float4*>(&x[i + 4 * t + 2]);  // FINDS misaligned
        tile[t] = four.x + four.w;
    }
    __syncthreads();
    y[i + t] = tile[SIZE - 1 - t];
}
