// The two gradients of the convolution as products of matrices that are never stored. Formulas and shapes: 1_direct.cu.
//
//     dx[pixel, c] = sum_r patch[pixel, r] * w[r, c]           pixel = (n, row, column) of x,   r = (u, v, o)
//     dw[r, o]     = sum_pixel patch[pixel, r] * g[pixel, o]   pixel = (n, i, j) of g,          r = (u, v, c)
//
// Both are the loop of 2_tiled.cu; what is new is below.
//
// Data gradient: phases. With a stride of s a pixel of x meets only those u for which s divides row + padding - u: one in
// s. So the rows fall into s phases by the remainder of row + padding, and all pixels of a phase meet the same u, every
// s-th from the phase on. Within a phase the gradient is a convolution of stride 1 by these weights alone:
//
//     row + padding = s * above + phase,   u = phase + s * t   =>   i = above - t
//
// and likewise for columns. Blocks have pixels of one phase; a stride of 2 makes 4 phases with 1/4 of the products each.
//
// Weight gradient: parts. The inner axis is all pixels, the result is small: without more there would be a block for each
// 64 x 64 of it. So the pixels are cut into parts, each with blocks and a dw of its own, and matmul/add_parts.cu adds
// those in a fixed order. No atomic addition, so the same bits every time.
#include "lib/cuda.cuh"
#include "conv2d/pixel.cuh"
#include "matmul/tile.cuh"

struct Window {
    long long image;
    int top, left;
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_x(const float* g, const float* w, float* dx, long long n_images, int height, int width, int c_in,
                  int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h, int stride_w,
                  int padding_h, int padding_w) {
    __shared__ Tile<TILE_M> patches;
    __shared__ Tile<TILE_N> weights;
    __shared__ Window windows[TILE_M];
    const int thread = threadIdx.x, tiles_c = (c_in + TILE_N - 1) / TILE_N;
    const int first_c = blockIdx.x % tiles_c * TILE_N, columns = min(TILE_N, c_in - first_c);
    const int phase_w = blockIdx.x / tiles_c % stride_w, phase_h = blockIdx.x / tiles_c / stride_w % stride_h;
    const long long first_pixel = blockIdx.x / tiles_c / stride_w / stride_h * (long long)TILE_M;

    // The phase's rows are first_row, first_row + stride, ...: so many, and likewise its columns, of each image.
    const int first_row = ((phase_h - padding_h) % stride_h + stride_h) % stride_h;
    const int first_column = ((phase_w - padding_w) % stride_w + stride_w) % stride_w;
    const int phase_height = (height - first_row + stride_h - 1) / stride_h;
    const int phase_width = (width - first_column + stride_w - 1) / stride_w;
    const long long pixels = first_row < height && first_column < width ? n_images * phase_height * phase_width : 0;
    if (first_pixel >= pixels) return;
    const int taps_h = max(0, (kernel_h - phase_h + stride_h - 1) / stride_h);
    const int taps_w = max(0, (kernel_w - phase_w + stride_w - 1) / stride_w);
    const int depth = taps_h * taps_w * c_out;

    for (int at = thread; at < TILE_M; at += THREADS) {
        const long long pixel = first_pixel + at;
        const int row = first_row + pixel / phase_width % phase_height * stride_h;
        const int column = first_column + pixel % phase_width * stride_w;
        windows[at].image = pixel / phase_width / phase_height * h_out * w_out * c_out;
        windows[at].top = pixel < pixels ? (row + padding_h - phase_h) / stride_h : -1;  // above g there are only zeros
        windows[at].left = (column + padding_w - phase_w) / stride_w;
    }
    __syncthreads();  // the windows are there

    float sum[8][8];
    begin(sum, nullptr, 0);
    for (int first = 0; first < depth; first += DEPTH) {
        const int r = first + thread % DEPTH;
        const int o = r % c_out, t_w = r / c_out % taps_w, t_h = r / c_out / taps_w;
#pragma unroll 4
        for (int at = thread / DEPTH; at < TILE_M; at += THREADS / DEPTH) {
            const Window& window = windows[at];
            const int i = window.top - t_h, j = window.left - t_w;
            const bool inside = r < depth && i >= 0 && i < h_out && j >= 0 && j < w_out;
            const long long place = window.image + ((long long)i * w_out + j) * c_out + o;
            patches.at[thread % DEPTH][at] = inside ? g[place] : 0.0f;
        }
        const int u = phase_h + t_h * stride_h, v = phase_w + t_w * stride_w;
        const long long weight = ((long long)(u * kernel_w + v) * c_in + first_c) * c_out + o;
        bring_rows(weights, w + weight, c_out, columns, r < depth);
        __syncthreads();  // the tiles are there
        add_products(sum, patches, weights);
        __syncthreads();  // all are done with them
    }
    bool any_nan = false;
#pragma unroll
    for (int r = 0; r < 8; r++) {
        const long long pixel = first_pixel + tile_row(r);
        const int row = first_row + pixel / phase_width % phase_height * stride_h;
        const int column = first_column + pixel % phase_width * stride_w;
        const long long at = ((pixel / phase_width / phase_height * height + row) * width + column) * c_in;
#pragma unroll
        for (int c = 0; c < 8; c++)
            if (pixel < pixels && first_c + tile_column(c) < c_in) {
                dx[at + first_c + tile_column(c)] = sum[r][c];
                any_nan |= sum[r][c] != sum[r][c];
            }
    }
    // A 0 stands for what has no gradient, but 0 times a weight that is Inf is NaN. So NaN is worked out again.
    if (!any_nan) return;
#pragma unroll 1
    for (int square = 0; square < 64; square++) {
        const long long pixel = first_pixel + tile_row(square / 8);
        const int c = first_c + tile_column(square % 8);
        if (pixel >= pixels || c >= c_in) continue;
        const int row = first_row + pixel / phase_width % phase_height * stride_h;
        const int column = first_column + pixel % phase_width * stride_w;
        const long long n = pixel / phase_width / phase_height, at = ((n * height + row) * width + column) * c_in + c;
        if (dx[at] != dx[at])
            dx[at] = gradient_of_pixel(g, w, n, row, column, c, c_in, h_out, w_out, c_out, kernel_h, kernel_w, stride_h,
                                       stride_w, padding_h, padding_w);
    }
}

#define WINDOWS 64  // pixels whose windows are worked out at a time

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_w(const float* x, const float* g, float* dw, long long pixels, long long part_size, int height,
                  int width, int c_in, int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h,
                  int stride_w, int padding_h, int padding_w) {
    __shared__ Tile<TILE_M> patches;
    __shared__ Tile<TILE_N> gradients;
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
        u[e] = r < rows_of_dw ? r / c_in / kernel_w : height + padding_h;  // a row that is in no image
    }

    float sum[8][8];
    begin(sum, nullptr, 0);
    for (long long first = part * part_size; first < end; first += DEPTH) {
        const int step = (first - part * part_size) % WINDOWS;
        if (step == 0) {
            for (int at = thread; at < WINDOWS; at += THREADS) {
                const long long pixel = first + at;
                const int j = pixel % w_out, i = pixel / w_out % h_out;
                windows[at].image = pixel / w_out / h_out * height * width * c_in;
                windows[at].top = pixel < end ? i * stride_h - padding_h : height;  // below the image are only zeros
                windows[at].left = j * stride_w - padding_w;
            }
            __syncthreads();  // the windows are there
        }
#pragma unroll
        for (int l = thread / wide; l < DEPTH; l += THREADS / wide) {
            const Window& window = windows[step + l];
#pragma unroll
            for (int e = 0; e < TILE_M / wide; e++) {
                const int row = window.top + u[e], column = window.left + v[e];
                const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                const long long place = window.image + ((long long)row * width + column) * c_in + c[e];
                patches.at[l][e * wide + thread % wide] = inside ? x[place] : 0.0f;
            }
        }
        bring_columns(gradients, g + first * c_out + first_o, c_out, columns, min(end - first, (long long)DEPTH));
        __syncthreads();  // the tiles are there
        add_products(sum, patches, gradients);
        __syncthreads();  // all are done with them
    }
#pragma unroll
    for (int r = 0; r < 8; r++)
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int row = first_r + tile_row(r), o = first_o + tile_column(k);
            if (row < rows_of_dw && o < c_out) dw[(part * rows_of_dw + row) * c_out + o] = sum[r][k];
        }
}
