// Mistakes with fences and flags: how one block tells another, in the same launch, that its numbers are there. Every kernel
// is meant to reverse every 64 numbers: each block copies its own, and the last one to be done reverses all of them.
#include "lib/cuda.cuh"

#define SIZE 64
#define PLACE                  \
    __shared__ bool last;      \
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
#define IS_LAST (atomicAdd(&flags[0], 1) == (int)gridDim.x - 1)
#define THE_LAST_REVERSES                                 \
    __syncthreads();                                      \
    if (!last) return;                                    \
    for (int row = 0; row < n; row += SIZE) {             \
        const float mine = y[row + SIZE - 1 - t];         \
        __syncthreads();                                  \
        y[row + t] = mine;                                \
    }

extern "C" __global__ void last_block(const float* x, float* y, int* flags, int n) {
    PLACE
    y[i] = x[i];
    __syncthreads();
    if (t == 0) {
        __threadfence();  // for all of the block: they were at the barrier before
        last = IS_LAST;
        __threadfence();
    }
    THE_LAST_REVERSES
    if (t == 0) flags[0] = 0;  // for the next launch: all have been here
}

// The same, with other things before and after the flag.
#define COPIED_AND_REVERSED(before, after)                \
    PLACE                                                 \
    y[i] = x[i];                                          \
    __syncthreads();                                      \
    if (t == 0) {                                         \
        before;                                           \
        last = IS_LAST;                                   \
        after;                                            \
    }                                                     \
    THE_LAST_REVERSES

// A fence of each thread's own, on the other side of the barrier from the flag.
extern "C" __global__ void fences_of_all(const float* x, float* y, int* flags, int n) {
    PLACE
    y[i] = x[i];
    __threadfence();
    __syncthreads();
    if (t == 0) last = IS_LAST;
    __syncthreads();
    __threadfence();
    THE_LAST_REVERSES
}

extern "C" __global__ void no_fence_before(const float* x, float* y, int* flags, int n) {
    COPIED_AND_REVERSED((void)0, __threadfence())  // FINDS race
}

extern "C" __global__ void no_fence_after(const float* x, float* y, int* flags, int n) {
    COPIED_AND_REVERSED(__threadfence(), (void)0)  // FINDS race
}

// The others' numbers came to thread 0 after its fence, at the barrier.
extern "C" __global__ void fence_of_one(const float* x, float* y, int* flags, int n) {
    PLACE
    y[i] = x[i];
    if (t == 0) __threadfence();
    __syncthreads();
    if (t == 0) {
        last = IS_LAST;
        __threadfence();
    }
    THE_LAST_REVERSES  // FINDS race
}

extern "C" __global__ void fence_of_the_block(const float* x, float* y, int* flags, int n) {
    COPIED_AND_REVERSED(__threadfence_block(), __threadfence())  // FINDS race
}

extern "C" __global__ void flag_of_the_block(const float* x, float* y, int* flags, int n) {
    PLACE
    y[i] = x[i];
    __syncthreads();
    if (t == 0) {
        __threadfence();
        last = atomicAdd_block(&flags[0], 1) == (int)gridDim.x - 1;  // FINDS race
        __threadfence();
    }
    THE_LAST_REVERSES  // FINDS race
}

// The fences are around a flag that no other block looks at.
extern "C" __global__ void another_flag(const float* x, float* y, int* flags, int n) {
    PLACE
    y[i] = x[i];
    __syncthreads();
    if (t == 0) {
        last = IS_LAST;
        __threadfence();
        atomicAdd(&flags[blockIdx.x + 1], 1);
        __threadfence();
    }
    THE_LAST_REVERSES  // FINDS race
}

extern "C" __global__ void plain_flag(const float* x, float* y, int* flags, int n) {
    PLACE
    y[i] = x[i];
    __syncthreads();
    if (t == 0) {
        __threadfence();
        last = flags[0]++ == (int)gridDim.x - 1;  // FINDS race
        __threadfence();
    }
    THE_LAST_REVERSES  // FINDS race
}

extern "C" __global__ void reset_unseen(const float* x, float* y, int* flags, int n) {
    PLACE
    y[i] = x[i];
    __syncthreads();
    if (t == 0) {
        __threadfence();
        last = IS_LAST;
        if (last) flags[0] = 0;  // FINDS race: no fence since
        __threadfence();
    }
    THE_LAST_REVERSES
}

// Within a block: thread 40 waits for what thread 3 has to say.
#define TOLD                                              \
    __shared__ int flag, number;                          \
    const int t = threadIdx.x, row = blockIdx.x * SIZE;   \
    if (t == 0) flag = number = 0;                        \
    __syncthreads();
#define REVERSE(result)                                   \
    __syncthreads();                                      \
    y[row + t] = x[row + SIZE - 1 - t] + (number - result);

extern "C" __global__ void told(const float* x, float* y, int* flags, int n) {
    TOLD
    if (t == 3) {
        number = 7;
        __threadfence_block();
        atomicExch(&flag, 1);
    }
    if (t == 40) {
        while (atomicAdd(&flag, 0) == 0) {}
        __threadfence_block();
        number += 1;
    }
    REVERSE(8)
}

extern "C" __global__ void told_without_a_fence(const float* x, float* y, int* flags, int n) {
    TOLD
    if (t == 3) {
        number = 7;
        __threadfence_block();
        atomicExch(&flag, 1);
    }
    if (t == 40) {
        while (atomicAdd(&flag, 0) == 0) {}
        number += 1;  // FINDS race
    }
    REVERSE(8)
}

// A lock: who holds it adds to a number that is no atomic one.
extern "C" __global__ void locked(const float* x, float* y, int* flags, int n) {
    TOLD
    if (t % 16 == 0) {
        while (atomicCAS(&flag, 0, 1) != 0) {}
        __threadfence_block();
        number += t;
        __threadfence_block();
        atomicExch(&flag, 0);
    }
    REVERSE(96)
}

extern "C" __global__ void unlocked_too_early(const float* x, float* y, int* flags, int n) {
    TOLD
    if (t % 16 == 0) {
        while (atomicCAS(&flag, 0, 1) != 0) {}
        __threadfence_block();
        atomicExch(&flag, 0);
        number += t;  // FINDS race
    }
    REVERSE(96)
}
