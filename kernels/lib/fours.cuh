// Four neighbouring floats at a time: one instruction moves 16 bytes, where they lie at a multiple of 16.
#pragma once

struct __align__(16) Four {
    float v[4];
};

__device__ bool aligned(const float* x) { return reinterpret_cast<size_t>(x) % 16 == 0; }

// x[at] to x[at + 3], of which `count` exist; the rest is 0.
__device__ Four load_four(const float* x, long long at, long long count) {
    if (count >= 4 && aligned(x + at)) return *reinterpret_cast<const Four*>(x + at);
    Four four;
#pragma unroll
    for (int i = 0; i < 4; i++) four.v[i] = i < count ? x[at + i] : 0;
    return four;
}

__device__ void store_four(float* x, long long at, long long count, const Four& four) {
    if (count >= 4 && aligned(x + at)) {
        *reinterpret_cast<Four*>(x + at) = four;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < count) x[at + i] = four.v[i];
}
