// Loss and gradient with one read of the logits, for rows that are too long for one block: 128000 classes are 500 KiB.
//
// New here: a row lies in the shared memory of a cluster of blocks, BLOCKS parts of it, and they exchange what concerns
// the whole row through that memory (distributed shared memory). Each block leaves its largest logit, and later its
// sum, where the others read it. All blocks read them in the same order, so all have the same bits. So they wait for
// each other twice, and a third time before they return, because another one may still be reading. They arrive for that
// one before they write the gradient, so it hardly costs anything.
//
// Not yet run on hardware.
#include "lib/ptx90.cuh"
#include "cross_entropy/row.cuh"
#include "lib/reduce.cuh"

extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(1024)
    loss_and_gradient(const float* g, const float* x, const long long* targets, float* loss, float* dx, int k) {
    __shared__ float warps[32], of_block[2];  // what the other blocks read: the largest logit and the sum
    DYNAMIC_SHARED(float, kept);
    const long long row = blockIdx.x / BLOCKS;
    const int thread = threadIdx.x, step = blockDim.x, count = step / 32;
    const int part = (k + BLOCKS - 1) / BLOCKS, first = cluster_rank() * part, mine = min(part, k - first);
    const int target = int(targets[row]) - first;  // in this block's part, or not
    const float upper = g[row];
    x += row * k + first;
    dx += row * k + first;

    float largest = -INFINITY;
    each(x, mine, [&](int j, float logit) {
        kept[j] = logit;
        largest = larger(largest, logit);
    });
#pragma unroll
    for (int bit = 16; bit; bit /= 2) largest = larger(largest, __shfl_xor_sync(0xffffffffu, largest, bit));
    if (thread % 32 == 0) warps[thread / 32] = largest;
    __syncthreads();
    if (thread == 0) {
        for (int w = 1; w < count; w++) largest = larger(largest, warps[w]);
        of_block[0] = largest;
    }
    cluster_sync();
#pragma unroll
    for (int rank = 0; rank < BLOCKS; rank++) largest = larger(largest, cluster_load(&of_block[0], rank));

    const bool has_target = target >= 0 && target < mine && thread == target % step;
    const float own = has_target ? kept[target] - largest : 0;
    float sum = 0;
#pragma unroll 4
    for (int j = thread; j < mine; j += step) {
        const float e = expf(kept[j] - largest);
        kept[j] = e;
        sum += e;
    }
    sum = block_sum(sum, warps);
    if (thread == 0) of_block[1] = sum;
    cluster_sync();
    float total = largest - largest;  // NaN where the largest is infinite or NaN
#pragma unroll
    for (int rank = 0; rank < BLOCKS; rank++) total += cluster_load(&of_block[1], rank);
    cluster_arrive();  // this block has read what it needs of the others

    if (has_target) loss[row] = logf(total) - own;
    const float slope = upper / total;
#pragma unroll 4
    for (int j = thread; j < mine; j += step) {
        const float p = kept[j] * slope;
        dx[j] = j == target ? p - upper : p;
    }
    cluster_wait();  // and all others what they need of this one
}
