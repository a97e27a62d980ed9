// Random numbers that are a function of where they are used, and of nothing else.
//
// A usual generator has a state, and which numbers a sample gets depends on how many were drawn before it: on the batch
// size, on the number of threads, on the device. A counter-based one (Philox 4x32-10, Salmon, Moraes, Dror & Shaw 2011)
// has none. It scrambles a counter with a key, and here these are
//
//     key = the seed (64 bits)        counter = (block, sample, step, purpose), 32 bits each
//
// so that the numbers of sample 7 at step 12 are the same whether it is drawn alone or among 512, here or elsewhere. One
// block is four words, and a sample of m numbers has ceil(m / 4) of them.
//
// A word becomes a uniform number by its upper 24 bits, and a pair of words a pair of normal numbers by Box & Muller. The
// arithmetic of that is float64 without a library's logarithm or sine (see reference.py), so it gives the same bits on
// every device. It costs about 60 float64 operations for a number.
//
// One thread for each block of four.
#include "lib/cuda.cuh"
#include "random/philox.cuh"

struct Place {  // which block of four this thread draws, and where its first number goes
    long long sample, block, at, left;
};

__device__ bool place(long long n, long long per_sample, Place* p) {
    const long long blocks = (per_sample + 3) / 4, thread = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (thread >= n * blocks) return false;
    p->sample = thread / blocks;
    p->block = thread % blocks;
    p->at = p->sample * per_sample + 4 * p->block;
    p->left = per_sample - 4 * p->block;
    return true;
}

extern "C" __global__ void bits(unsigned* y, long long n, long long per_sample, long long seed, long long first,
                                unsigned step, unsigned purpose) {
    Place p;
    if (!place(n, per_sample, &p)) return;
    const Words words = draw(seed, p.block, first + p.sample, step, purpose);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < p.left) y[p.at + i] = words.w[i];
}

extern "C" __global__ void uniforms(float* y, long long n, long long per_sample, long long seed, long long first,
                                    unsigned step, unsigned purpose) {
    Place p;
    if (!place(n, per_sample, &p)) return;
    const Words words = draw(seed, p.block, first + p.sample, step, purpose);
    store_four(y, p.at, p.left, {{uniform_32(words.w[0]), uniform_32(words.w[1]), uniform_32(words.w[2]),
                                  uniform_32(words.w[3])}});
}

extern "C" __global__ void normals(float* y, long long n, long long per_sample, long long seed, long long first,
                                   unsigned step, unsigned purpose) {
    Place p;
    if (!place(n, per_sample, &p)) return;
    store_four(y, p.at, p.left, box_muller(draw(seed, p.block, first + p.sample, step, purpose)));
}
