// A ring of places in shared memory: some threads fill them, others read them, and nobody ever waits for all.
//
// Each place has two barriers. `full` ends a phase when the place is filled: all bytes of the copies have come and all who have
// a part in it have arrived. `empty` ends a phase when every warp that reads has given the place back. So each ends one
// phase in each round, and a turn knows the parity of its round: whoever reads waits for that phase of `full`, whoever fills
// for the phase of `empty` in the round before.
//
//     who fills                                                 who reads
//     ring.wait_empty(turn);                                    ring.wait_full(turn);
//     mbarrier_arrive_expect(&ring.full[turn.place], bytes);    ... the place ...
//     tma_load(..., &ring.full[turn.place], ...);               ring.release(turn);
//     turn.next();                                              turn.next();
//
// The BLOCKS of a cluster may fill their places together, with the same turns, and each with some copies for all. Then a
// place is empty when the readers of all blocks have given it back, and all meet at cluster_sync().
//
// Needs sm_90.
#pragma once
#include "lib/ptx90.cuh"

template <int PLACES>
struct Turn {
    int place;
    unsigned parity;

    // Turns are numbered from 0 on, and a number may stand for its turn. next() gets by without a division.
    __device__ __forceinline__ Turn(int number = 0) : place(number % PLACES), parity(number / PLACES % 2) {}
    __device__ __forceinline__ void next() {
        if (++place == PLACES) place = 0, parity ^= 1;
    }
};

template <int PLACES, int BLOCKS = 1>
struct Ring {
    mbarrier full[PLACES], empty[PLACES];

    // One thread does this, then fence_mbarrier_init(), then all meet. A place is filled after `arrivals`, and read by
    // so many `warps`, those of all blocks.
    __device__ __forceinline__ void init(int arrivals, int warps) {
#pragma unroll
        for (int place = 0; place < PLACES; place++) {
            mbarrier_init(&full[place], arrivals);
            mbarrier_init(&empty[place], warps);
        }
    }
    __device__ __forceinline__ void wait_full(Turn<PLACES> turn) { mbarrier_wait(&full[turn.place], turn.parity); }
    __device__ __forceinline__ void wait_empty(Turn<PLACES> turn) {
        if constexpr (BLOCKS > 1) {
            mbarrier_wait_cluster(&empty[turn.place], turn.parity ^ 1);  // at once in the first round
        } else {
            mbarrier_wait(&empty[turn.place], turn.parity ^ 1);
        }
    }
    __device__ __forceinline__ void release(Turn<PLACES> turn) {
        __syncwarp();  // all lanes are done with the place, and one arrives for them, or one at each block's
        if constexpr (BLOCKS > 1) {
            if (threadIdx.x % 32 < BLOCKS) mbarrier_arrive_at(&empty[turn.place], threadIdx.x % 32);
        } else if (threadIdx.x % 32 == 0) {
            mbarrier_arrive(&empty[turn.place]);
        }
    }
};
