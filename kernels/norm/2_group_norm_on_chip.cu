// Group norm with one read: rung 1's definition, for groups that fit into a block's shared memory.
//
// New here: dynamic shared memory, whose size is given at the launch. The block carries its group into it as it comes from
// memory, and takes all passes there: statistics, again if the numbers are far from zero, and the result. What is left is
// what no kernel can do without, one read of x and one write of y. A group of 16 x 16 pixels and 40 channels is 40 KiB; how
// much a block may have depends on the card, from 64 KiB (sm_75) over 99 (sm_86, sm_89, sm_12x) to 227 (sm_90, sm_10x).
//
// The statistics walk over the slab in its own order, whatever the channels. The backward pass keeps two slabs, x_hat
// and dz, and so reads x and g once: each warp sums channels of its own, which gives dgamma and dbeta of the sample,
// and from these the two means of dx.
#include "lib/cuda.cuh"
#include "lib/reduce.cuh"
#include "norm/norm.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm(const float* x, const float* gamma, const float* beta, float* __restrict__ y, float* statistics,
               long long pixels, int c, int groups, float eps, bool with_silu, bool own_gamma, bool own_beta) {
    __shared__ float scratch[THREADS / 32];
    DYNAMIC_SHARED(float, kept);
    const long long sample = blockIdx.x / groups;
    const int group = blockIdx.x % groups;
    const Slab slab = slab_of(sample, group, pixels, c, groups);
    const int count = int(pixels) * slab.width;
    each<8>(slab, [&](long long at, int place, int) { kept[place] = x[at]; });
    __syncthreads();  // the whole group is there
    const Statistics s = statistics_of(count, eps, [&](float shift, float* sum, float* square) {
        float a = 0, b = 0;
        for (int i = threadIdx.x; i < count; i += THREADS) {
            const float value = kept[i] - shift;
            a += value;
            b += value * value;
        }
        *sum = block_sum(a, scratch);
        *square = block_sum(b, scratch);
    });
    if (threadIdx.x == 0) {
        float* keep = statistics + 3LL * blockIdx.x;
        keep[0] = s.shift, keep[1] = s.mean, keep[2] = s.r;
    }
    gamma += (own_gamma ? sample * c : 0) + group * slab.width;
    beta += (own_beta ? sample * c : 0) + group * slab.width;
    each(slab, [&](long long at, int place, int k) {
        const float z = gamma[k] * x_hat(kept[place], s) + beta[k];
        y[at] = with_silu ? silu(z) : z;
    });
}

// sums (n, 2, c): of dz and of dz x_hat over the pixels of each sample.
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_backward(const float* g, const float* x, const float* gamma, const float* beta, const float* statistics,
                        float* sums, float* __restrict__ dx, long long pixels, int c, int groups, bool with_silu,
                        bool own_gamma, bool own_beta) {
    __shared__ float parts[2][THREADS / 32];
    DYNAMIC_SHARED(float, hats);
    const long long sample = blockIdx.x / groups;
    const int group = blockIdx.x % groups, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Slab slab = slab_of(sample, group, pixels, c, groups);
    const int count = int(pixels) * slab.width;
    float* const slopes = hats + count;
    const float* kept = statistics + 3LL * blockIdx.x;
    const Statistics s = {kept[0], kept[1], kept[2]};
    gamma += (own_gamma ? sample * c : 0) + group * slab.width;
    beta += (own_beta ? sample * c : 0) + group * slab.width;
    sums += sample * 2 * c + group * slab.width;
    each<4>(
        slab, [&](long long at) { return Pair{x[at], g[at]}; },
        [&](long long, int place, int k, Pair of) {
            const float hat = x_hat(of.x, s);
            hats[place] = hat;
            slopes[place] = with_silu ? of.g * silu_slope(gamma[k] * hat + beta[k]) : of.g;
        });
    __syncthreads();  // both slabs are there

    float pull = 0, turn = 0;  // of this warp's channels: the sums of gamma dz and of gamma dz x_hat
    for (int k = warp; k < slab.width; k += THREADS / 32) {
        float a = 0, b = 0;
        for (int i = lane * slab.width + k; i < count; i += 32 * slab.width) {
            a += slopes[i];
            b += slopes[i] * hats[i];
        }
        a = warp_sum(a);
        b = warp_sum(b);
        if (lane == 0) sums[k] = a, sums[c + k] = b;
        pull += gamma[k] * a;
        turn += gamma[k] * b;
    }
    if (lane == 0) parts[0][warp] = pull, parts[1][warp] = turn;
    __syncthreads();  // all warps' parts are there
    float mean = 0, slope = 0;
    for (int i = 0; i < THREADS / 32; i++) mean += parts[0][i], slope += parts[1][i];
    mean /= count;
    slope /= count;
    each(slab, [&](long long at, int place, int k) {
        dx[at] = s.r * (gamma[k] * slopes[place] - mean - hats[place] * slope);
    });
}
