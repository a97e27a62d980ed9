// Mistakes with copies that go to several blocks, and with barriers at which threads of other blocks arrive. As in
// planted_clusters.cu, two blocks of a cluster reverse their 128 numbers together. In each of two rounds each brings
// 32 of them to both blocks, into the half of `tile` that has its rank, and stores every second one of all 64.
//
// Needs sm_90a.
#include "lib/ptx90.cuh"

#define SIZE 32
#define BYTES (2 * SIZE * 4)
#define BOTH 3  // blocks
#define PLACE                                                                                  \
    __shared__ __align__(128) float tile[2 * SIZE];                                            \
    __shared__ mbarrier full, empty;                                                           \
    const int t = threadIdx.x, row = blockIdx.x / 2, rank = cluster_rank(), other = 1 - rank;
#define MAKE                           \
    if (t == 0) {                      \
        mbarrier_init(&full, 1);       \
        mbarrier_init(&empty, 2 * 2);  \
        fence_mbarrier_init();         \
    }
#define MAKE_AND_MEET PLACE MAKE cluster_sync();
#define HALF (tile + SIZE * rank)
#define FIRST ((2 * rank + round) * SIZE)  // column of x
#define STORE if (t % 2 == rank) y[row * 128 + 127 - (t / SIZE * 64 + round * SIZE + t % SIZE)] = tile[t];
#define GIVE_BACK                                                \
    __syncwarp();                                                \
    if (t % 32 < 2) mbarrier_arrive_at(&empty, t % 32);

extern "C" __global__ void __cluster_dims__(2, 1, 1) to_both(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    for (int round = 0; round < 2; round++) {
        if (t == 0) {
            mbarrier_wait_cluster(&empty, round ^ 1);
            mbarrier_arrive_expect(&full, BYTES);
            tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);
        }
        mbarrier_wait(&full, round);
        STORE
        GIVE_BACK
    }
    cluster_sync();
}

// Each brings what the other one stores, in dynamic shared memory; that one may say later how many bytes it expects.
extern "C" __global__ void __cluster_dims__(2, 1, 1) to_the_other(const __grid_constant__ TensorMap x, float* y) {
    DYNAMIC_SHARED(float, tile);
    mbarrier* const full = reinterpret_cast<mbarrier*>(tile + 2 * SIZE);
    const int t = threadIdx.x, row = blockIdx.x / 2, rank = cluster_rank(), other = 1 - rank;
    if (t == 0) {
        mbarrier_init(full, 1);
        fence_mbarrier_init();
    }
    cluster_sync();
    for (int round = 0; round < 2; round++)
        if (t == 0) tma_load_multicast(tile + round * SIZE, &x, full, 1 << other, FIRST, row);
    if (t == 32) mbarrier_arrive_expect(full, BYTES);
    mbarrier_wait(full, 0);
    y[row * 128 + 127 - (64 * other + t)] = tile[t];
    cluster_sync();
}

// What was done before an arrival, the other block sees after its wait.
extern "C" __global__ void __cluster_dims__(2, 1, 1) handed_over(const __grid_constant__ TensorMap x, float* y) {
    __shared__ float theirs[2 * SIZE];
    MAKE_AND_MEET
    if (t == 0) mbarrier_arrive_expect(&full, BYTES);
    for (int round = 0; round < 2; round++)
        if (t == 0) tma_load(tile + round * SIZE, &x, &full, FIRST, row);
    mbarrier_wait(&full, 0);
    cluster_store(&theirs[t], other, tile[t]);
    __syncwarp();
    if (t % 16 == 0) mbarrier_arrive_at(&empty, other);
    mbarrier_wait_cluster(&empty, 0);
    y[row * 128 + 127 - (64 * other + t)] = theirs[t];
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) stored_after_the_arrival(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    if (t % 16 == 0) mbarrier_arrive_at(&empty, other);
    cluster_store(&tile[t], other, 1.0f);                           // FINDS race
    mbarrier_wait_cluster(&empty, 0);
    y[blockIdx.x * 64 + t] = tile[t];                               // FINDS race, uninitialised
    cluster_sync();
}

// This wait tells only what the block's own threads did.
extern "C" __global__ void __cluster_dims__(2, 1, 1) waited_for_the_own_block(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    cluster_store(&tile[t], other, 1.0f);
    __syncwarp();
    if (t % 16 == 0) mbarrier_arrive_at(&empty, other);
    mbarrier_wait(&empty, 0);
    y[blockIdx.x * 64 + t] = tile[t];                               // FINDS race
    cluster_sync();
}

// The place is given back only here, but both blocks fill it in both.
extern "C" __global__ void __cluster_dims__(2, 1, 1) given_back_here(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    for (int round = 0; round < 2; round++) {
        if (t == 0) {
            mbarrier_wait_cluster(&empty, round ^ 1);
            mbarrier_arrive_expect(&full, BYTES);
            tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);  // FINDS race, missing wait
        }
        mbarrier_wait(&full, round);
        STORE                                                       // FINDS race
        __syncwarp();
        if (t % 32 < 2) mbarrier_arrive(&empty);
    }
    cluster_sync();
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) given_back_by_half(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    for (int round = 0; round < 2; round++) {
        if (t == 0) {
            mbarrier_wait_cluster(&empty, round ^ 1);               // FINDS deadlock
            mbarrier_arrive_expect(&full, BYTES);
            tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);
        }
        mbarrier_wait(&full, round);                                // FINDS deadlock
        STORE
        __syncwarp();
        if (t % 32 == 0) mbarrier_arrive(&empty);
    }
    cluster_sync();
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) brought_too_early(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    for (int round = 0; round < 2; round++) {
        if (t == 0) {
            mbarrier_arrive_expect(&full, BYTES);
            tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);  // FINDS race, missing wait
        }
        mbarrier_wait(&full, round);
        STORE                                                       // FINDS race
        GIVE_BACK
    }
    cluster_sync();
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) expects_its_own_half(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    const int round = 0;
    if (t == 0) {
        mbarrier_arrive_expect(&full, BYTES / 2);
        tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);      // FINDS absent block, missing wait
    }
    mbarrier_wait(&full, 0);
    STORE                                                           // FINDS race, missing wait
    cluster_sync();
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) expects_too_much(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    const int round = 0;
    if (t == 0) {
        mbarrier_arrive_expect(&full, 2 * BYTES);
        tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);
    }
    mbarrier_wait(&full, 0);                                        // FINDS deadlock
    STORE
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) leaves_out_the_other(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    const int round = 0;
    if (t == 0) {
        mbarrier_arrive_expect(&full, BYTES);
        tma_load_multicast(HALF, &x, &full, 1 << rank, FIRST, row);
    }
    mbarrier_wait(&full, 0);                                        // FINDS deadlock
    STORE
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) to_a_block_there_is_not(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    const int round = 0;
    if (t == 0) tma_load_multicast(HALF, &x, &full, BOTH << rank, FIRST, row);  // FINDS bad operand
    y[blockIdx.x * 64 + t] = 0;
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) to_nobody(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    const int round = 0;
    if (t == 0) tma_load_multicast(HALF, &x, &full, 0, FIRST, row); // FINDS bad operand
    y[blockIdx.x * 64 + t] = 0;
}

// A block's barrier says nothing of the other block's barriers; that one may not even have begun.
extern "C" __global__ void __cluster_dims__(2, 1, 1) no_barrier_before(const __grid_constant__ TensorMap x, float* y) {
    PLACE
    MAKE
    const int round = 0;
    __syncthreads();
    if (t == 0) {
        mbarrier_arrive_expect(&full, BYTES);
        tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);      // FINDS race, absent block
    }
    mbarrier_wait(&full, 0);
    STORE
    cluster_sync();
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) arrives_before_it_is_made(const __grid_constant__ TensorMap x, float* y) {
    PLACE
    MAKE
    __syncthreads();
    if (t % 16 == 0) mbarrier_arrive_at(&empty, other);             // FINDS race, absent block
    mbarrier_wait_cluster(&empty, 0);
    y[blockIdx.x * 64 + t] = 0;
    cluster_sync();
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) made_without_a_fence(const __grid_constant__ TensorMap x, float* y) {
    PLACE
    const int round = 0;
    if (t == 0) mbarrier_init(&full, 1);
    cluster_sync();
    if (t == 0) {
        mbarrier_arrive_expect(&full, BYTES);
        tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);      // FINDS missing fence
    }
    mbarrier_wait(&full, 0);
    STORE
    cluster_sync();
}

// The other block may have returned when this one gives back what it need not have waited for.
extern "C" __global__ void __cluster_dims__(2, 1, 1) no_barrier_after(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    for (int round = 0; round < 2; round++) {
        if (t == 0) {
            mbarrier_wait_cluster(&empty, round ^ 1);
            mbarrier_arrive_expect(&full, BYTES);
            tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);
        }
        mbarrier_wait(&full, round);
        STORE
        GIVE_BACK                                                   // FINDS absent block
    }
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) returns_before_the_copy_comes(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    const int round = 0;
    if (t == 0) {
        if (rank == 0) mbarrier_arrive_expect(&full, BYTES);
        tma_load_multicast(HALF, &x, &full, BOTH, FIRST, row);      // FINDS absent block, missing wait
    }
    if (rank == 1) return;
    mbarrier_wait(&full, 0);
    STORE
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) arrives_nowhere(const __grid_constant__ TensorMap x, float* y) {
    MAKE_AND_MEET
    if (t == 0) mbarrier_arrive_at(&empty, other + 2);              // FINDS bad operand
    y[blockIdx.x * 64 + t] = 0;
}
