// What all passes over a row of logits share.
//
// A step through a row is an int. With blockDim.x itself, which is unsigned, j might wrap as far as the compiler knows;
// it then leaves a loop as it is, and a thread has one number on its way from memory where there is time for many.
#pragma once

#define AHEAD 8  // numbers that a thread asks for before it looks at the first

// The larger of two logits; NaN beats everything.
__device__ float larger(float a, float b) { return a > b || a != a ? a : b; }

// f(j, x[j]) for the first `count` numbers of x, by all threads of a block. `count` is at most 2^30.
template <class F>
__device__ __forceinline__ void each(const float* x, int count, F f) {
    const int step = blockDim.x;
    for (int j = threadIdx.x; j < count; j += AHEAD * step) {
        float numbers[AHEAD];
#pragma unroll
        for (int e = 0; e < AHEAD; e++) numbers[e] = j + e * step < count ? x[j + e * step] : 0;
#pragma unroll
        for (int e = 0; e < AHEAD; e++)
            if (j + e * step < count) f(j + e * step, numbers[e]);
    }
}
