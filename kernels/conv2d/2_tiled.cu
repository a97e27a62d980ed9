// The convolution as a product of matrices whose left one is never stored (an implicit GEMM; Chetlur et al. 2014,
// arXiv 1410.0759, section 3). Definition and shapes are those of rung 1.
//
//     y[pixel, o] = sum_r patch[pixel, r] * w[r, o]        pixel = (n, i, j),  r = (u, v, c)
//
// New here: a block computes a square of TILE pixels by TILE channels, one number for each thread, and walks along r in
// steps of TILE. In each step a thread brings one number of the patches, looked up in the image where r says, and one of
// the weights into shared memory; then each of them is used TILE times. So TILE times less comes from memory.
//
// The columns of `patches` are one longer than they need be: without that, the threads of a warp that write different
// pixels at one r would meet in one bank of shared memory and have to queue.
#include "lib/cuda.cuh"

#define TILE 16

extern "C" __global__ void __launch_bounds__(TILE* TILE)
    conv2d(const float* x, const float* w, const float* b, float* y, long long pixels, int height, int width, int c_in,
           int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h, int stride_w, int padding_h,
           int padding_w) {
    __shared__ float patches[TILE][TILE + 1];
    __shared__ float weights[TILE][TILE];
    const int tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
    const int tiles_o = (c_out + TILE - 1) / TILE;
    const int o = blockIdx.x % tiles_o * TILE + tx;
    const long long pixel = blockIdx.x / tiles_o * (long long)TILE + ty;
    const int j = pixel % w_out, i = pixel / w_out % h_out;
    const long long n = pixel / w_out / h_out;
    const int depth = kernel_h * kernel_w * c_in;

    float sum = 0;
    for (int first = 0; first < depth; first += TILE) {
        const int r = first + tx;  // this thread brings patch[pixel, r] ...
        const int c = r % c_in, v = r / c_in % kernel_w, u = r / c_in / kernel_w;
        const int row = i * stride_h + u - padding_h, column = j * stride_w + v - padding_w;
        const bool inside = r < depth && pixel < pixels && row >= 0 && row < height && column >= 0 && column < width;
        patches[ty][tx] = inside ? x[((n * height + row) * width + column) * c_in + c] : 0.0f;
        const bool there = first + ty < depth && o < c_out;  // ... and w[first + ty, o]
        weights[ty][tx] = there ? w[(long long)(first + ty) * c_out + o] : 0.0f;
        __syncthreads();  // the tiles are there
        const int steps = min(TILE, depth - first);
        for (int step = 0; step < steps; step++) sum += patches[ty][step] * weights[step][tx];
        __syncthreads();  // all are done with them
    }
    if (pixel < pixels && o < c_out) y[pixel * c_out + o] = b ? sum + b[o] : sum;
}
