// What the kernels of the norms share: the numbers of a group, its statistics, SiLU.
#pragma once
#include "lib/ahead.cuh"

#ifndef THREADS
#define THREADS 256  // or more, for a large group
#endif

// One group of one sample of x (n, pixels, c): `width` neighbouring channels of every pixel.
struct Slab {
    long long first, pixels;  // `first` is the place of its first number
    int c, width;
};

__device__ Slab slab_of(long long sample, int group, long long pixels, int c, int groups) {
    const int width = c / groups;
    return {sample * pixels * c + (long long)group * width, pixels, c, width};
}

// f(place in x, place in a slab on the chip, channel of the group) for all numbers of a slab, by all threads of a block.
// Threads next to each other take neighbouring channels, then the next pixel's, and no thread has to divide in the
// loop, which is unrolled TURNS times, so that as many numbers are on their way from memory at a time.
template <int TURNS = 4, class F>
__device__ void each(const Slab& s, F f) {
    const int across = min(s.width, THREADS), rows = THREADS / across;
    const int channel = threadIdx.x % across, row = threadIdx.x / across;
    if (row >= rows) return;
#pragma unroll 1  // one iteration, except for groups of more channels than there are threads
    for (int k = channel; k < s.width; k += across)
#pragma unroll TURNS
        for (long long pixel = row; pixel < s.pixels; pixel += rows)
            f(s.first + pixel * s.c + k, int(pixel) * s.width + k, k);
}

// The same as use(..., load(place in x)), where `use` has branches, as the division in a SiLU has: see lib/ahead.cuh.
template <int TURNS, class Load, class Use>
__device__ void each(const Slab& s, Load load, Use use) {
    const int across = min(s.width, THREADS), rows = THREADS / across;
    const int channel = threadIdx.x % across, row = threadIdx.x / across;
    if (row >= rows) return;
#pragma unroll 1
    for (int k = channel; k < s.width; k += across)
        ahead<TURNS>(
            (long long)row, s.pixels, (long long)rows, [&](long long pixel) { return load(s.first + pixel * s.c + k); },
            [&](long long pixel, const auto& loaded) {
                use(s.first + pixel * s.c + k, int(pixel) * s.width + k, k, loaded);
            });
}

struct Pair {
    float x, g;
};

// A group's statistics: its mean is shift + mean, and r = 1 / sqrt(variance + eps).
struct Statistics {
    float shift, mean, r;
};

// The variance is the mean of squares minus the square of the mean. Where the mean is far from zero that difference loses
// its digits, so the sums are taken again of x - shift, with the mean so far as the shift; data near zero need one pass.
// `sums(shift, &sum, &square)` gives every thread of the group the sums of x - shift and of its square.
template <class F>
__device__ Statistics statistics_of(float count, float eps, F sums) {
    float shift = 0, mean = 0, variance = 0;
    for (int round = 0; round < 4; round++) {
        float sum, square;
        sums(shift, &sum, &square);
        mean = sum / count;
        variance = square / count - mean * mean;
        if (!(mean * mean > 16 * variance) || round == 3) break;
        shift += mean;
    }
    return {shift, mean, 1 / sqrtf((variance < 0 ? 0 : variance) + eps)};
}

__device__ float x_hat(float x, const Statistics& s) { return (x - s.shift - s.mean) * s.r; }

__device__ float sigmoid(float z) { return 1 / (1 + expf(-z)); }

__device__ float silu(float z) { return z * sigmoid(z); }

__device__ float silu_slope(float z) {
    const float s = sigmoid(z);
    return s * (1 + z * (1 - s));
}
