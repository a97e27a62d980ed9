// The two gradients of the convolution on tensor cores, with bfloat16 or tf32 factors. Formulas and shapes: 1_direct.cu;
// phases: pixel.cuh; parts and what is done about NaN: 2_tiled_gradients.cu; tiles, copies and products: matmul/mma.cuh.
//
// New here, for the weight gradient: windows in a ring. Its inner axis is the pixels, so each step needs the windows of
// other ones, and they must be known when its copies start, STAGES - 1 steps before it is multiplied. One thread for
// each pixel of a step keeps row and column of its pixel, moves on by a step's pixels without a division, and writes the
// window one step before it is read; the barrier of the pipeline lies between.
#include "conv2d/pixel.cuh"
#include "matmul/mma.cuh"

#ifndef ALIGNED_X
#define ALIGNED_X true
#endif
#ifndef ALIGNED_G
#define ALIGNED_G true
#endif

template <class T>
__device__ __forceinline__ void data_gradient(T* tiles, Window* windows, const T* g, const T* w, float* dx,
                                              long long n_images, int height, int width, int c_in, int h_out, int w_out,
                                              int c_out, int kernel_h, int kernel_w, int stride_h, int stride_w,
                                              int padding_h, int padding_w) {
    const int tiles_c = (c_in + TILE_N - 1) / TILE_N;
    const int first_c = blockIdx.x % tiles_c * TILE_N, columns = min(TILE_N, c_in - first_c);
    const int phase_w = blockIdx.x / tiles_c % stride_w, phase_h = blockIdx.x / tiles_c / stride_w % stride_h;
    const long long first_pixel = blockIdx.x / tiles_c / stride_w / stride_h * (long long)TILE_M;
    const Phase phase = phase_of(phase_h, phase_w, n_images, height, width, kernel_h, kernel_w, stride_h, stride_w,
                                 padding_h, padding_w);
    if (first_pixel >= phase.pixels) return;
    const int depth = phase.taps_h * phase.taps_w * c_out;

    for (int at = threadIdx.x; at < TILE_M; at += THREADS) {
        windows[at] = window_in_g(phase, first_pixel + at, h_out, w_out, c_out, stride_h, stride_w, padding_h, padding_w);
    }
    __syncthreads();  // the windows are there

    auto start = [&](int step, T* patches, T* weights) {
        // Both factors lie along o, so a thread looks for one r = (t_h, t_w, o) in both.
        const int r = step * STEP<T> + column_of_thread<T, false, ALIGNED_G, TILE_M>();
        const int o = r % c_out, t_w = r / c_out % phase.taps_w, t_h = r / c_out / phase.taps_w;
        start_found<T, false, ALIGNED_G, TILE_M>(patches, g, [&](int at, int) {
            const Window& window = windows[at];
            const int i = window.top - t_h, j = window.left - t_w;
            const bool inside = r < depth && i >= 0 && i < h_out && j >= 0 && j < w_out;
            return inside ? g + window.image + ((long long)i * w_out + j) * c_out + o : nullptr;
        });
        const int tap = (phase.h + t_h * stride_h) * kernel_w + phase.w + t_w * stride_w;
        start_found<T, false, ALIGNED_G, TILE_N>(weights, w, [&](int c, int) {
            return r < depth && c < columns ? w + ((long long)tap * c_in + first_c + c) * c_out + o : nullptr;
        });
    };
    Sums sums;
    begin(sums, nullptr, 0);
    add_all_products<T, false, false>(sums, tiles, (depth + STEP<T> - 1) / STEP<T>, start);

    auto place_of = [&](const Pixel& pixel) {
        return ((pixel.n * height + pixel.row) * width + pixel.column) * c_in;
    };
    bool any_nan = false;
#pragma unroll
    for (int m = 0; m < TILE_M / 32; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const long long number = first_pixel + row_of(m, 2 * half);
            const long long at = place_of(pixel_of(phase, number, stride_h, stride_w));
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const int c = first_c + column_of(k / 2, k % 2);
                const float sum = sums.of[m][k / 2][2 * half + k % 2];
                if (number >= phase.pixels || c >= c_in) continue;
                dx[at + c] = sum;
                any_nan |= sum != sum;
            }
        }
    // A 0 stands for what has no gradient, but 0 times a weight that is Inf is NaN. So NaN is worked out again.
    if (!any_nan) return;
#pragma unroll 1
    for (int e = 0; e < TILE_M / 2; e++) {
        const long long number = first_pixel + row_of(e / 16, e % 4);
        const int c = first_c + column_of(e / 4 % 4, e % 4);
        if (number >= phase.pixels || c >= c_in) continue;
        const Pixel pixel = pixel_of(phase, number, stride_h, stride_w);
        const long long at = place_of(pixel) + c;
        if (dx[at] != dx[at])
            dx[at] = gradient_of_pixel(g, w, pixel.n, pixel.row, pixel.column, c, c_in, h_out, w_out, c_out, kernel_h,
                                       kernel_w, stride_h, stride_w, padding_h, padding_w);
    }
}

template <class T>
__device__ __forceinline__ void weight_gradient(T* tiles, Window* windows, const T* x, const T* g, float* dw,
                                                long long pixels, long long part_size, int height, int width, int c_in,
                                                int h_out, int w_out, int c_out, int kernel_h, int kernel_w,
                                                int stride_h, int stride_w, int padding_h, int padding_w) {
    const int rows_of_dw = kernel_h * kernel_w * c_in;
    const int tiles_o = (c_out + TILE_N - 1) / TILE_N, tiles_r = (rows_of_dw + TILE_M - 1) / TILE_M;
    const int first_o = blockIdx.x % tiles_o * TILE_N, columns = min(TILE_N, c_out - first_o);
    const int first_r = blockIdx.x / tiles_o % tiles_r * TILE_M;
    const long long part = blockIdx.x / tiles_o / tiles_r;
    const long long begins = part * part_size, size = max(0ll, min(pixels - begins, part_size));

    // The pixel of the first STEP threads.
    const int thread = threadIdx.x;
    long long n = (begins + thread) / w_out / h_out;
    int i = (begins + thread) / w_out % h_out, j = (begins + thread) % w_out;
    auto write_window = [&](int step) {
        if (thread >= STEP<T>) return;
        Window& window = windows[step % STAGES * STEP<T> + thread];
        window.image = n * height * width * c_in;
        window.top = step * (long long)STEP<T> + thread < size ? i * stride_h - padding_h : height;  // below: 0
        window.left = j * stride_w - padding_w;
        for (j += STEP<T>; j >= w_out; j -= w_out)
            if (++i == h_out) i = 0, n++;
    };
    for (int step = 0; step < STAGES; step++) write_window(step);
    __syncthreads();  // the windows of the first steps are there

    // The row of dw that this thread looks for, r = (u, v, c), is the same in every step.
    const int r = first_r + column_of_thread<T, true, ALIGNED_X, TILE_M>();
    const int c = r % c_in, v = r / c_in % kernel_w, u = r / c_in / kernel_w;
    auto start = [&](int step, T* patches, T* gradients) {
        start_found<T, true, ALIGNED_X, TILE_M>(patches, x, [&](int at, int) {
            const Window& window = windows[step % STAGES * STEP<T> + at];
            const int row = window.top + u, column = window.left + v;
            const bool inside = r < rows_of_dw && row >= 0 && row < height && column >= 0 && column < width;
            return inside ? x + window.image + ((long long)row * width + column) * c_in + c : nullptr;
        });
        const long long done = step * (long long)STEP<T>;
        const int depth = min(size - done, (long long)STEP<T>);
        start_tile<T, true, ALIGNED_G, TILE_N>(gradients, g + (begins + done) * c_out + first_o, c_out, columns, depth);
        if (step + 1 >= STAGES) write_window(step + 1);
    };
    Sums sums;
    begin(sums, nullptr, 0);
    add_all_products<T, true, true>(sums, tiles, (int)((size + STEP<T> - 1) / STEP<T>), start);
#pragma unroll
    for (int m = 0; m < TILE_M / 32; m++)
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = first_r + row_of(m, e), o = first_o + column_of(k, e);
                if (row < rows_of_dw && o < c_out) dw[(part * rows_of_dw + row) * c_out + o] = sums.of[m][k][e];
            }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_x_bf16(const bf16* g, const bf16* w, float* dx, long long n_images, int height, int width, int c_in,
                       int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h, int stride_w,
                       int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Window windows[TILE_M];
    data_gradient(tiles, windows, g, w, dx, n_images, height, width, c_in, h_out, w_out, c_out, kernel_h, kernel_w,
                  stride_h, stride_w, padding_h, padding_w);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_x_tf32(const float* g, const float* w, float* dx, long long n_images, int height, int width, int c_in,
                       int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h, int stride_w,
                       int padding_h, int padding_w) {
    DYNAMIC_SHARED(float, tiles);
    __shared__ Window windows[TILE_M];
    data_gradient(tiles, windows, g, w, dx, n_images, height, width, c_in, h_out, w_out, c_out, kernel_h, kernel_w,
                  stride_h, stride_w, padding_h, padding_w);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_w_bf16(const bf16* x, const bf16* g, float* dw, long long pixels, long long part_size, int height,
                       int width, int c_in, int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h,
                       int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Window windows[STAGES * STEP<bf16>];
    weight_gradient(tiles, windows, x, g, dw, pixels, part_size, height, width, c_in, h_out, w_out, c_out, kernel_h,
                    kernel_w, stride_h, stride_w, padding_h, padding_w);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_w_tf32(const float* x, const float* g, float* dw, long long pixels, long long part_size, int height,
                       int width, int c_in, int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h,
                       int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(float, tiles);
    __shared__ Window windows[STAGES * STEP<float>];
    weight_gradient(tiles, windows, x, g, dw, pixels, part_size, height, width, c_in, h_out, w_out, c_out, kernel_h,
                    kernel_w, stride_h, stride_w, padding_h, padding_w);
}
