// The convolution on tensor cores, with bfloat16 or tf32 factors. Definition, shapes and epilogue are those of rung 1,
// the matrix of patches that is never stored is that of rung 2.
//
// New here: the tiles, copies and products of matmul/mma.cuh. A piece of 16 bytes of the patches is a piece of one pixel,
// if a pixel has a whole number of them: then cp.async copies it from where it is found, and what lies outside of the
// image becomes 0 without being read. For other numbers of channels (ALIGNED_X or ALIGNED_W is false; the first layer,
// which has 3) the block brings numbers one by one: correct, but far from the speed that such a layer could have.
#include "conv2d/epilogue.cuh"
#include "conv2d/pixel.cuh"
#include "matmul/mma.cuh"

#ifndef ALIGNED_X
#define ALIGNED_X true
#endif
#ifndef ALIGNED_W
#define ALIGNED_W true
#endif

template <class T>
__device__ __forceinline__ void convolution(T* tiles, Window* windows, const T* x, const T* w, const float* b,
                                            const float* time, const float* residual, float* y, long long pixels,
                                            int height, int width, int c_in, int h_out, int w_out, int c_out,
                                            int kernel_h, int kernel_w, int stride_h, int stride_w, int padding_h,
                                            int padding_w) {
    const int tiles_o = (c_out + TILE_N - 1) / TILE_N, depth = kernel_h * kernel_w * c_in;
    const int first_o = blockIdx.x % tiles_o * TILE_N, columns = min(TILE_N, c_out - first_o);
    const long long first_pixel = blockIdx.x / tiles_o * (long long)TILE_M;

    for (int at = threadIdx.x; at < TILE_M; at += THREADS) {
        const long long pixel = first_pixel + at;
        windows[at] = window_of(pixel, pixel < pixels, height, width, c_in, h_out, w_out, stride_h, stride_w, padding_h,
                                padding_w);
    }
    __syncthreads();  // the windows are there

    auto start = [&](int step, T* patches, T* weights) {
        const int r = step * STEP<T> + column_of_thread<T, false, ALIGNED_X, TILE_M>();
        const int c = r % c_in, v = r / c_in % kernel_w, u = r / c_in / kernel_w;
        start_found<T, false, ALIGNED_X, TILE_M>(patches, x, [&](int at, int) {
            const Window& window = windows[at];
            const int row = window.top + u, column = window.left + v;
            const bool inside = r < depth && row >= 0 && row < height && column >= 0 && column < width;
            return inside ? x + window.image + ((long long)row * width + column) * c_in + c : nullptr;
        });
        const T* corner = w + step * STEP<T> * (long long)c_out + first_o;
        start_tile<T, true, ALIGNED_W, TILE_N>(weights, corner, c_out, columns, depth - step * STEP<T>);
    };
    Sums sums;
    begin(sums, b ? b + first_o : nullptr, columns);
    add_all_products<T, false, true>(sums, tiles, (depth + STEP<T> - 1) / STEP<T>, start);
#pragma unroll
    for (int m = 0; m < TILE_M / 32; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const long long pixel = first_pixel + row_of(m, 2 * half), n = TIME ? pixel / w_out / h_out : 0;
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const int o = first_o + column_of(k / 2, k % 2);
                const long long at = pixel * c_out + o;
                if (pixel < pixels && o < c_out)
                    y[at] = finish(sums.of[m][k / 2][2 * half + k % 2], time, residual, n, at, c_out, o);
            }
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_bf16(const bf16* x, const bf16* w, const float* b, const float* time, const float* residual, float* y,
                long long pixels, int height, int width, int c_in, int h_out, int w_out, int c_out, int kernel_h,
                int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Window windows[TILE_M];
    convolution(tiles, windows, x, w, b, time, residual, y, pixels, height, width, c_in, h_out, w_out, c_out, kernel_h,
                kernel_w, stride_h, stride_w, padding_h, padding_w);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_tf32(const float* x, const float* w, const float* b, const float* time, const float* residual, float* y,
                long long pixels, int height, int width, int c_in, int h_out, int w_out, int c_out, int kernel_h,
                int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(float, tiles);
    __shared__ Window windows[TILE_M];
    convolution(tiles, windows, x, w, b, time, residual, y, pixels, height, width, c_in, h_out, w_out, c_out, kernel_h,
                kernel_w, stride_h, stride_w, padding_h, padding_w);
}
