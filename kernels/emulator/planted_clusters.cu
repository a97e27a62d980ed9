// Mistakes with clusters. As in planted.cu, but it is the two blocks of a cluster that reverse their 128 numbers
// together: y[128 c + i] = x[128 c + 127 - i], and each block reads the half that the other one has in its shared
// memory.
#include "lib/ptx90.cuh"

#define SIZE 64
#define PLACE const int t = threadIdx.x, at = blockIdx.x * SIZE + t, other = 1 - cluster_rank();

extern "C" __global__ void __cluster_dims__(2, 1, 1) exchanged(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    cluster_sync();
    const float mine = cluster_load(&tile[SIZE - 1 - t], other);
    cluster_sync();
    y[at] = mine;
}

// The other way round, in dynamic shared memory, and with something to do between arrival and wait.
extern "C" __global__ void __cluster_dims__(2, 1, 1) handed_over(const float* x, float* y) {
    DYNAMIC_SHARED(float, tile);
    PLACE
    cluster_arrive();
    const float number = x[at];
    cluster_wait();
    cluster_store(&tile[SIZE - 1 - t], other, number);
    cluster_sync();
    y[at] = tile[t];
}

// The barrier orders accesses to global memory, too.
extern "C" __global__ void __cluster_dims__(2, 1, 1) by_way_of_global_memory(const float* x, float* y) {
    PLACE
    y[at + SIZE * (2 * other - 1)] = x[at];
    cluster_sync();
    const float mine = y[at ^ 63];
    cluster_sync();
    y[at] = mine;
}

// A block's barrier does not order what the other block does; that one may not even have begun.
extern "C" __global__ void __cluster_dims__(2, 1, 1) no_barrier_before(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];                                                // FINDS race
    __syncthreads();
    const float mine = cluster_load(&tile[SIZE - 1 - t], other);    // FINDS race, uninitialised, absent block
    cluster_sync();
    y[at] = mine;
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) no_barrier_after(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    cluster_sync();
    y[at] = cluster_load(&tile[SIZE - 1 - t], other);               // FINDS absent block
}

// Nothing is hurt by the values here, but a block that has not begun has no memory.
extern "C" __global__ void __cluster_dims__(2, 1, 1) handed_over_too_early(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    cluster_store(&tile[SIZE - 1 - t], other, x[at]);               // FINDS absent block
    cluster_sync();
    y[at] = tile[t];
}

// Whoever has returned is not waited for, so this does not hang.
extern "C" __global__ void __cluster_dims__(2, 1, 1) one_block_returns(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    cluster_sync();
    if (other == 0) return;
    const float mine = cluster_load(&tile[SIZE - 1 - t], other);    // FINDS absent block
    cluster_sync();
    y[at] = mine;
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) one_block_does_not_come_back(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    cluster_sync();
    if (other == 0) return;
    cluster_sync();
    y[at] = cluster_load(&tile[SIZE - 1 - t], other);               // FINDS absent block
}

// What comes between arrival and wait nobody is told of.
extern "C" __global__ void __cluster_dims__(2, 1, 1) written_after_arrival(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    cluster_arrive();
    tile[t] = x[at];
    cluster_wait();
    const float mine = cluster_load(&tile[SIZE - 1 - t], other);    // FINDS race
    cluster_sync();
    y[at] = mine;
}

// The other block reads this one's half while it is changed.
extern "C" __global__ void __cluster_dims__(2, 1, 1) changed_too_early(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    cluster_sync();
    const float mine = cluster_load(&tile[SIZE - 1 - t], other);    // FINDS race
    tile[t] = mine;                                                 // FINDS race
    cluster_sync();
    y[at] = tile[t];
}

// Nor does anything order what the two blocks do to global memory.
extern "C" __global__ void __cluster_dims__(2, 1, 1) through_global_memory(const float* x, float* y) {
    PLACE
    y[at ^ 127] = x[at];                                            // FINDS race
    __syncthreads();
    y[at] += 0;                                                     // FINDS race, uninitialised
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) reads_what_nobody_wrote(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    if (t < SIZE / 2) tile[t] = x[at];
    cluster_sync();
    const float mine = cluster_load(&tile[SIZE - 1 - t], other);    // FINDS uninitialised
    cluster_sync();
    y[at] = mine;
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) wrong_rank(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    cluster_sync();
    const float mine = cluster_load(&tile[SIZE - 1 - t], cluster_rank() + other + 1);  // FINDS bad operand
    cluster_sync();
    y[at] = mine;
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) reads_beside(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    cluster_sync();
    const float mine = cluster_load(&tile[SIZE - t], other);        // FINDS out of range
    cluster_sync();
    y[at] = mine;
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) reads_between_numbers(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    cluster_sync();
    const char* const between = reinterpret_cast<const char*>(&tile[t / 2]) + 2;
    const float mine = cluster_load(reinterpret_cast<const float*>(between), other);  // FINDS misaligned
    cluster_sync();
    y[at] = mine;
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) reads_global_memory(const float* x, float* y) {
    PLACE
    cluster_sync();
    const float mine = cluster_load(x + at, other);                 // FINDS bad operand
    cluster_sync();
    y[at] = mine;
}

// One block waits for a copy that only the other one would start.
extern "C" __global__ void __cluster_dims__(2, 1, 1) one_block_does_not_come(const float* x, float* y) {
    __shared__ float tile[SIZE];
    __shared__ mbarrier full;
    PLACE
    tile[t] = x[at];
    if (t == 0) {
        mbarrier_init(&full, 1);
        fence_mbarrier_init();
        if (other == 1) mbarrier_arrive(&full);
    }
    __syncthreads();
    mbarrier_wait(&full, 0);                                        // FINDS deadlock
    cluster_sync();                                                 // FINDS deadlock
    const float mine = cluster_load(&tile[SIZE - 1 - t], other);
    cluster_sync();
    y[at] = mine;
}

// The barrier is one of all threads, not of one for each block.
extern "C" __global__ void __cluster_dims__(2, 1, 1) one_thread_comes(const float* x, float* y) {
    __shared__ float tile[SIZE];
    PLACE
    tile[t] = x[at];
    if (t == 0) cluster_sync();                                     // FINDS deadlock
    __syncthreads();                                                // FINDS deadlock
    y[at] = cluster_load(&tile[SIZE - 1 - t], other);
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) arrives_twice(const float* x, float* y) {
    PLACE
    cluster_arrive();
    y[at ^ 127] = x[at];
    cluster_arrive();                                               // FINDS bad operand
    cluster_wait();
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) waits_twice(const float* x, float* y) {
    PLACE
    cluster_sync();
    y[at ^ 127] = x[at];
    cluster_wait();                                                 // FINDS bad operand
}
