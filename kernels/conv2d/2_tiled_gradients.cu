// The two gradients of the convolution as products of matrices that are never stored. Formulas and shapes: 1_direct.cu.
//
//     dx[pixel, c] = sum_r patch[pixel, r] * w[r, c]           pixel = (n, row, column) of x,   r = (u, v, o)
//     dw[r, o]     = sum_pixel patch[pixel, r] * g[pixel, o]   pixel = (n, i, j) of g,          r = (u, v, c)
//
// Both are the loop of 2_tiled.cu; what is new is below.
//
// Data gradient: phases. Pixels of x fall into stride x stride phases, each of which meets its own places of the kernel only
// (pixel.cuh). Blocks have pixels of one phase; a stride of 2 makes 4 phases with 1/4 of the products each.
//
// Weight gradient: parts. The inner axis is all pixels, the result is small: without more there would be a block for each
// 64 x 64 of it. So the pixels are cut into parts, each with blocks and a dw of its own, and matmul/add_parts.cu adds
// those in a fixed order. No atomic addition, so the same bits every time.
#include "lib/cuda.cuh"
#include "conv2d/pixel.cuh"
#include "matmul/tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_x(const float* g, const float* w, float* dx, long long n_images, int height, int width, int c_in,
                  int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h, int stride_w,
                  int padding_h, int padding_w) {
    __shared__ Tile<TILE_M> patches[2];
    __shared__ Tile<TILE_N> weights[2];
    __shared__ Window windows[TILE_M];
    const int thread = threadIdx.x, tiles_c = (c_in + TILE_N - 1) / TILE_N;
    const int first_c = blockIdx.x % tiles_c * TILE_N, columns = min(TILE_N, c_in - first_c);
    const int phase_w = blockIdx.x / tiles_c % stride_w, phase_h = blockIdx.x / tiles_c / stride_w % stride_h;
    const long long first_pixel = blockIdx.x / tiles_c / stride_w / stride_h * (long long)TILE_M;
    const Phase phase = phase_of(phase_h, phase_w, n_images, height, width, kernel_h, kernel_w, stride_h, stride_w,
                                 padding_h, padding_w);
    if (first_pixel >= phase.pixels) return;
    const int depth = phase.taps_h * phase.taps_w * c_out;

    for (int at = thread; at < TILE_M; at += THREADS) {
        windows[at] = window_in_g(phase, first_pixel + at, h_out, w_out, c_out, stride_h, stride_w, padding_h, padding_w);
    }
    __syncthreads();  // the windows are there

    Brought<TILE_M> next_patches;
    Brought<TILE_N> next_weights;
    auto bring_step = [&](int first) {
        const int r = first + thread % DEPTH;
        const int o = r % c_out, t_w = r / c_out % phase.taps_w, t_h = r / c_out / phase.taps_w;
        bring_along(next_patches, [&](int at) {
            const Window& window = windows[at];
            const int i = window.top - t_h, j = window.left - t_w;
            const bool inside = r < depth && i >= 0 && i < h_out && j >= 0 && j < w_out;
            const long long place = window.image + ((long long)i * w_out + j) * c_out + o;
            return inside ? g[place] : 0.0f;
        });
        const int u = phase.h + t_h * stride_h, v = phase.w + t_w * stride_w;
        const long long weight = ((long long)(u * kernel_w + v) * c_in + first_c) * c_out + o;
        bring_rows(next_weights, w + weight, c_out, columns, r < depth);
    };
    float sum[8][8];
    begin(sum, nullptr, 0);
    if (depth > 0) bring_step(0);
    for (int first = 0, turn = 0; first < depth; first += DEPTH, turn ^= 1) {
        put_along(patches[turn], next_patches);
        put_along(weights[turn], next_weights);
        __syncthreads();  // the tiles are there, and all are done with the others
        if (first + DEPTH < depth) bring_step(first + DEPTH);
        add_products(sum, patches[turn], weights[turn]);
    }
    bool any_nan = false;
#pragma unroll
    for (int r = 0; r < 8; r++) {
        const long long number = first_pixel + tile_row(r);
        const Pixel pixel = pixel_of(phase, number, stride_h, stride_w);
        const long long at = ((pixel.n * height + pixel.row) * width + pixel.column) * c_in;
#pragma unroll
        for (int c = 0; c < 8; c++)
            if (number < phase.pixels && first_c + tile_column(c) < c_in) {
                dx[at + first_c + tile_column(c)] = sum[r][c];
                any_nan |= sum[r][c] != sum[r][c];
            }
    }
    // A 0 stands for what has no gradient, but 0 times a weight that is Inf is NaN. So NaN is worked out again.
    if (!any_nan) return;
#pragma unroll 1
    for (int square = 0; square < 64; square++) {
        const long long number = first_pixel + tile_row(square / 8);
        const int c = first_c + tile_column(square % 8);
        if (number >= phase.pixels || c >= c_in) continue;
        const Pixel pixel = pixel_of(phase, number, stride_h, stride_w);
        const long long at = ((pixel.n * height + pixel.row) * width + pixel.column) * c_in + c;
        if (dx[at] != dx[at])
            dx[at] = gradient_of_pixel(g, w, pixel.n, pixel.row, pixel.column, c, c_in, h_out, w_out, c_out, kernel_h,
                                       kernel_w, stride_h, stride_w, padding_h, padding_w);
    }
}

#define WINDOWS 64  // pixels whose windows are worked out at a time

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_w(const float* x, const float* g, float* dw, long long pixels, long long part_size, int height,
                  int width, int c_in, int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h,
                  int stride_w, int padding_h, int padding_w) {
    __shared__ Tile<TILE_M> patches[2];
    __shared__ Tile<TILE_N> gradients[2];
    __shared__ Window windows[WINDOWS];
    const int thread = threadIdx.x, rows_of_dw = kernel_h * kernel_w * c_in;
    const int tiles_o = (c_out + TILE_N - 1) / TILE_N, tiles_r = (rows_of_dw + TILE_M - 1) / TILE_M;
    const int first_o = blockIdx.x % tiles_o * TILE_N, columns = min(TILE_N, c_out - first_o);
    const int first_r = blockIdx.x / tiles_o % tiles_r * TILE_M;
    const long long part = blockIdx.x / tiles_o / tiles_r;
    const long long end = min(pixels, (part + 1) * part_size);

    // The rows of the tile that this thread fills, r = (u, v, c), are the same in every step.
    const int wide = THREADS < TILE_M ? THREADS : TILE_M;
    int u[TILE_M / wide], v[TILE_M / wide], c[TILE_M / wide];
#pragma unroll
    for (int e = 0; e < TILE_M / wide; e++) {
        const int r = first_r + e * wide + thread % wide;
        c[e] = r % c_in, v[e] = r / c_in % kernel_w;
        u[e] = r < rows_of_dw ? r / c_in / kernel_w : -1 - height;  // a row that is in no image
    }

    Brought<TILE_M> next_patches;
    Brought<TILE_N> next_gradients;
    auto bring_step = [&](long long first) {  // all are done with the windows of the step before
        const int step = (first - part * part_size) % WINDOWS;
        if (step == 0) {
            for (int at = thread; at < WINDOWS; at += THREADS) {
                const long long pixel = first + at;
                windows[at] = window_of(pixel, pixel < end, height, width, c_in, h_out, w_out, stride_h, stride_w,
                                        padding_h, padding_w);
            }
            __syncthreads();  // the windows are there
        }
        bring_across(next_patches, [&](int l, int at) {
            const Window& window = windows[step + l];
            const int e = at / wide, row = window.top + u[e], column = window.left + v[e];
            const bool inside = row >= 0 && row < height && column >= 0 && column < width;
            const long long place = window.image + ((long long)row * width + column) * c_in + c[e];
            return inside ? x[place] : 0.0f;
        });
        bring_columns(next_gradients, g + first * c_out + first_o, c_out, columns, min(end - first, (long long)DEPTH));
    };
    float sum[8][8];
    begin(sum, nullptr, 0);
    if (part * part_size < end) bring_step(part * part_size);
    int turn = 0;
    for (long long first = part * part_size; first < end; first += DEPTH, turn ^= 1) {
        put_across(patches[turn], next_patches);
        put_across(gradients[turn], next_gradients);
        __syncthreads();  // the tiles are there, and all are done with the others
        if (first + DEPTH < end) bring_step(first + DEPTH);
        add_products(sum, patches[turn], gradients[turn]);
    }
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int row = first_r + tile_row(r), o = first_o + tile_column(k);
            if (row < rows_of_dw && o < c_out) dw[(part * rows_of_dw + row) * c_out + o] = sum[r][k];
        }
}
