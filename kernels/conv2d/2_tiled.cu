// The convolution as a product of matrices whose left one is never stored (an implicit GEMM; Chetlur et al. 2014,
// arXiv 1410.0759, section 3). Definition, shapes and epilogue are those of rung 1.
//
//     y[pixel, o] = sum_r patch[pixel, r] * w[r, o]        pixel = (n, i, j),  r = (u, v, c)
//
// New here: all that a convolution adds to a matrix product is where the numbers of the left tile are found. A block
// computes TILE_M pixels by TILE_N channels and walks along r in steps of DEPTH. In each step its threads look up a strip
// of the patches in the image and bring it to shared memory beside a strip of the weights; the rest is matmul/tile.cuh.
// Where each pixel's window begins takes two divisions of large numbers, so it is worked out once and kept.
#include "lib/cuda.cuh"
#include "conv2d/epilogue.cuh"
#include "conv2d/pixel.cuh"
#include "matmul/tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d(const float* x, const float* w, const float* b, const float* time, const float* residual, float* y,
           long long pixels, int height, int width, int c_in, int h_out, int w_out, int c_out, int kernel_h,
           int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    __shared__ Tile<TILE_M> patches[2];
    __shared__ Tile<TILE_N> weights[2];
    __shared__ Window windows[TILE_M];
    const int thread = threadIdx.x, tiles_o = (c_out + TILE_N - 1) / TILE_N;
    const int first_o = blockIdx.x % tiles_o * TILE_N, columns = min(TILE_N, c_out - first_o);
    const long long first_pixel = blockIdx.x / tiles_o * (long long)TILE_M;
    const int depth = kernel_h * kernel_w * c_in;

    for (int at = thread; at < TILE_M; at += THREADS) {
        const long long pixel = first_pixel + at;
        windows[at] = window_of(pixel, pixel < pixels, height, width, c_in, h_out, w_out, stride_h, stride_w, padding_h,
                                padding_w);
    }
    __syncthreads();  // the windows are there

    Brought<TILE_M> next_patches;
    Brought<TILE_N> next_weights;
    auto bring_step = [&](int first) {
        const int r = first + thread % DEPTH;
        const int c = r % c_in, v = r / c_in % kernel_w, u = r / c_in / kernel_w;
        bring_along(next_patches, [&](int at) {
            const Window& window = windows[at];
            const int row = window.top + u, column = window.left + v;
            const bool inside = r < depth && row >= 0 && row < height && column >= 0 && column < width;
            const long long place = window.image + ((long long)row * width + column) * c_in + c;
            return inside ? x[place] : 0.0f;
        });
        bring_columns(next_weights, w + (long long)first * c_out + first_o, c_out, columns, depth - first);
    };
    float sum[8][8];
    begin(sum, b ? b + first_o : nullptr, columns);
    if (depth > 0) bring_step(0);
    for (int first = 0, turn = 0; first < depth; first += DEPTH, turn ^= 1) {
        put_along(patches[turn], next_patches);
        put_across(weights[turn], next_weights);
        __syncthreads();  // the tiles are there, and all are done with the others
        if (first + DEPTH < depth) bring_step(first + DEPTH);
        add_products(sum, patches[turn], weights[turn]);
    }
#pragma unroll
    for (int r = 0; r < 8; r++) {
        const long long pixel = first_pixel + tile_row(r), n = TIME ? pixel / w_out / h_out : 0;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const int o = first_o + tile_column(c);
            const long long at = pixel * c_out + o;
            if (pixel < pixels && o < c_out) y[at] = finish(sum[r][c], time, residual, n, at, c_out, o);
        }
    }
}
