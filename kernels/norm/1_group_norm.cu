// Group norm (Wu & He 2018), and the SiLU that often follows it, channels last:
//
//     x_hat = (x - mean) / sqrt(variance + eps)      over one sample's group of channels and all its pixels
//     z = gamma x_hat + beta,      y = z  or  y = z sigmoid(z)
//
// x (n, pixels, c), c split into `groups`. gamma and beta are (c,), or (n, c) where a sample has its own (adaptive group
// norm). One block for each group of each sample reads its numbers once for the statistics (again if they are far from
// zero) and once for the result. The statistics are kept for the backward pass: (n, groups, 3) = shift, mean, r.
//
// Backward, with dz = g, or g silu'(z), and means over a group's `count` numbers:
//
//     dx = r (gamma dz - mean(gamma dz) - x_hat mean(gamma dz x_hat)),    dgamma = sum dz x_hat,    dbeta = sum dz
//
// The two means follow from the sums over pixels that dgamma and dbeta are anyway. So `channel_sums` takes these, for each
// slice of the pixels on its own; `add_slices` adds the slices, in their order; `group_norm_backward` has the rest. No
// atomic operation, so the bits do not depend on which block comes first.
#include "lib/cuda.cuh"
#include "lib/reduce.cuh"
#include "norm/norm.cuh"

// Four blocks on a multiprocessor leave a thread the registers for eight numbers on their way. Left to itself, the compiler
// takes some of them for a fifth block on sm_80 to sm_89, and spills.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    group_norm(const float* x, const float* gamma, const float* beta, float* __restrict__ y, float* statistics,
               long long pixels, int c, int groups, float eps, bool with_silu, bool own_gamma, bool own_beta) {
    __shared__ float scratch[THREADS / 32];
    const long long sample = blockIdx.x / groups;
    const int group = blockIdx.x % groups;
    const Slab slab = slab_of(sample, group, pixels, c, groups);
    const Statistics s = statistics_of((float)pixels * slab.width, eps, [&](float shift, float* sum, float* square) {
        float a = 0, b = 0;
        each<8>(slab, [&](long long at, int, int) {
            const float value = x[at] - shift;
            a += value;
            b += value * value;
        });
        *sum = block_sum(a, scratch);
        *square = block_sum(b, scratch);
    });
    if (threadIdx.x == 0) {
        float* keep = statistics + 3LL * blockIdx.x;
        keep[0] = s.shift, keep[1] = s.mean, keep[2] = s.r;
    }
    gamma += (own_gamma ? sample * c : 0) + group * slab.width;
    beta += (own_beta ? sample * c : 0) + group * slab.width;
    each<8>(
        slab, [&](long long at) { return x[at]; },
        [&](long long at, int, int k, float value) {
            const float z = gamma[k] * x_hat(value, s) + beta[k];
            y[at] = with_silu ? silu(z) : z;
        });
}

// sums (n, slices, 2, c): of dz and of dz x_hat over a slice of the pixels. A block takes 32 channels and 8 rows of pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
    channel_sums(const float* g, const float* x, const float* gamma, const float* beta, const float* statistics,
                 float* sums, long long pixels, int c, int groups, int slices, bool with_silu, bool own_gamma,
                 bool own_beta) {
    __shared__ float tile[2][8][32];
    const int column = threadIdx.x % 32, row = threadIdx.x / 32, tiles = (c + 31) / 32;
    const int k = blockIdx.x % tiles * 32 + column, slice = blockIdx.x / tiles % slices;
    const long long sample = blockIdx.x / tiles / slices;
    float a = 0, b = 0;
    if (k < c) {
        const float* kept = statistics + 3 * (sample * groups + k / (c / groups));
        const Statistics s = {kept[0], kept[1], kept[2]};
        const float scale = gamma[(own_gamma ? sample * c : 0) + k], offset = beta[(own_beta ? sample * c : 0) + k];
        const long long begin = pixels * slice / slices, end = pixels * (slice + 1) / slices;
        const long long first = sample * pixels * c + k;
        ahead<4>(
            begin + row, end, 8LL,
            [&](long long pixel) { return Pair{x[first + pixel * c], g[first + pixel * c]}; },
            [&](long long, Pair of) {
                const float hat = x_hat(of.x, s);
                const float dz = with_silu ? of.g * silu_slope(scale * hat + offset) : of.g;
                a += dz;
                b += dz * hat;
            });
    }
    tile[0][row][column] = a;
    tile[1][row][column] = b;
    __syncthreads();
    if (row >= 2 || k >= c) return;  // from here on, row 0 has the first sum and row 1 the second
    float sum = 0;
    for (int i = 0; i < 8; i++) sum += tile[row][i][column];
    sums[((sample * slices + slice) * 2 + row) * c + k] = sum;
}

// y (outer, inner) from x (outer, slices, inner): the slices added up, from the first to the last.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_slices(const float* x, float* y, long long outer, long long slices, long long inner) {
    const long long at = blockIdx.x * (long long)THREADS + threadIdx.x;
    if (at >= outer * inner) return;
    const float* first = x + at / inner * slices * inner + at % inner;
    float sum = 0;
    for (long long i = 0; i < slices; i++) sum += first[i * inner];
    y[at] = sum;
}

// dx, one block for each group of each sample; sums (n, 2, c) are over all pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_backward(const float* g, const float* x, const float* gamma, const float* beta, const float* statistics,
                        const float* sums, float* __restrict__ dx, long long pixels, int c, int groups,
                        bool with_silu, bool own_gamma, bool own_beta) {
    __shared__ float scratch[THREADS / 32];
    const long long sample = blockIdx.x / groups;
    const int group = blockIdx.x % groups;
    const Slab slab = slab_of(sample, group, pixels, c, groups);
    const float* kept = statistics + 3LL * blockIdx.x;
    const Statistics s = {kept[0], kept[1], kept[2]};
    gamma += (own_gamma ? sample * c : 0) + group * slab.width;
    beta += (own_beta ? sample * c : 0) + group * slab.width;
    sums += sample * 2 * c + group * slab.width;

    float a = 0, b = 0;
    for (int k = threadIdx.x; k < slab.width; k += THREADS) {
        a += gamma[k] * sums[k];
        b += gamma[k] * sums[c + k];
    }
    const float count = (float)pixels * slab.width;
    const float mean = block_sum(a, scratch) / count, slope = block_sum(b, scratch) / count;
    each<2>(
        slab, [&](long long at) { return Pair{x[at], g[at]}; },
        [&](long long at, int, int k, Pair of) {
            const float hat = x_hat(of.x, s);
            const float dz = with_silu ? of.g * silu_slope(gamma[k] * hat + beta[k]) : of.g;
            dx[at] = s.r * (gamma[k] * dz - mean - hat * slope);
        });
}
