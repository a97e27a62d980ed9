// Mistakes with registers that one warp group gives away and another one takes. As in planted.cu every kernel is meant to
// reverse rows, here of 128 numbers: the first warp group brings them, the second one writes. A block has 256 threads, of
// which each begins with 65,536 / (2 x 256) = 128 registers.
//
// Needs sm_90a.
#include "lib/ptx90.cuh"

#define SIZE 128

#define BRING                                                    \
    __shared__ float tile[SIZE];                                 \
    const int t = threadIdx.x;                                   \
    const bool brings = t < SIZE;                                \
    if (brings) tile[t] = x[blockIdx.x * SIZE + t];

#define WRITE                                                    \
    __syncthreads();                                             \
    if (!brings) y[blockIdx.x * SIZE + t - SIZE] = tile[2 * SIZE - 1 - t];

extern "C" __global__ void __launch_bounds__(256, 2) moved(const float* x, float* y) {
    BRING
    if (brings) registers_down<24>();
    else registers_up<232>();
    WRITE
}

// The first group takes back a part of what the second one gives back.
extern "C" __global__ void __launch_bounds__(256, 2) moved_and_back(const float* x, float* y) {
    BRING
    if (brings) {
        registers_down<24>();
        named_barrier_sync(1, 128);
        registers_up<72>();
    } else {
        registers_up<232>();
        named_barrier_sync(2, 128);
        registers_down<184>();
    }
    WRITE
}

// 24 and 240 are more than twice 128.
extern "C" __global__ void __launch_bounds__(256, 2) more_than_there_are(const float* x, float* y) {
    BRING
    if (brings) registers_down<24>();
    else registers_up<240>();  // FINDS deadlock
    WRITE  // FINDS deadlock
}

extern "C" __global__ void __launch_bounds__(256, 2) nobody_gives(const float* x, float* y) {
    BRING
    if (!brings) registers_up<232>();  // FINDS deadlock
    WRITE  // FINDS deadlock
}

// What the first group waits for before it gives, the second one does when it has its registers.
extern "C" __global__ void __launch_bounds__(256, 2) given_too_late(const float* x, float* y) {
    BRING
    if (brings) {
        named_barrier_sync(1, 256);  // FINDS deadlock
        registers_down<24>();
    } else {
        registers_up<232>();  // FINDS deadlock
        named_barrier_arrive(1, 256);
    }
    WRITE
}

extern "C" __global__ void __launch_bounds__(256, 2) gives_what_it_lacks(const float* x, float* y) {
    BRING
    if (brings) registers_down<136>();  // FINDS bad operand
    else registers_up<232>();
    WRITE
}

extern "C" __global__ void __launch_bounds__(256, 2) takes_less_than_it_has(const float* x, float* y) {
    BRING
    if (brings) {
        registers_down<64>();
        named_barrier_sync(1, 128);
        registers_up<56>();  // FINDS bad operand
    } else {
        registers_up<160>();
    }
    WRITE
}

extern "C" __global__ void __launch_bounds__(256, 2) one_warp_keeps_its_own(const float* x, float* y) {
    BRING
    if (t < 96) registers_down<24>();  // FINDS bad operand
    WRITE
}

extern "C" __global__ void __launch_bounds__(256, 2) warps_of_two_minds(const float* x, float* y) {
    BRING
    if (t < 96) registers_down<24>(); else if (brings) registers_down<32>();  // FINDS bad operand
    WRITE
}

extern "C" __global__ void __launch_bounds__(256, 2) up_and_down(const float* x, float* y) {
    BRING
    if (t < 96) registers_down<64>(); else if (brings) registers_up<64>();  // FINDS bad operand
    WRITE
}

// The compiler cannot know how many registers it begins with, and leaves both instructions out.
extern "C" __global__ void __launch_bounds__(256) half_of_the_bounds(const float* x, float* y) {
    BRING
    if (brings) registers_down<24>();  // FINDS bad operand
    else registers_up<232>();  // FINDS bad operand
    WRITE
}
