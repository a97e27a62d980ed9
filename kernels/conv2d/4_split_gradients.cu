// The two gradients of the convolution of float32 numbers on Hopper's bf16 tensor cores, about as exact as on float32 units.
//
// New here: nothing but the two ideas together. Windows by TMA, phases, and which way each factor lies: 4_wgmma_gradients.cu.
// Three parts of each factor, six products of them, sums that do not drift, and numbers that are not finite: matmul/3_split.cu.
// Parts of images lie one after the other, as in 4_split.cu. So behind the last image the weight gradient meets not zeros but
// the next part's first image; the gradients that it is multiplied by are 0 there. What NaN that gives is worked out again.
//
// Not yet run on hardware.
//
// Needs sm_90a.
#define BLOCKS_OF_AN_SM 1
#define STAGES 6
#include "conv2d/pixel.cuh"
#include "matmul/parts.cuh"
#include "matmul/wgmma.cuh"

// As in 4_wgmma_gradients.cu, of g and w in float32 and of maps of their parts.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_x_float32(const float* g, const float* w, const __grid_constant__ TensorMap g_parts,
                          const __grid_constant__ TensorMap w_parts, float* dx, int phase_h, int phase_w, int first_row,
                          int first_column, int rows, int columns, int taps_h, int taps_w, long long pixels, int top, int left,
                          int n_images, int height, int width, int c_in, int h_out, int w_out, int c_out, int kernel_h,
                          int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    const int tiles_c = (c_in + TILE_N - 1) / TILE_N, first_c = blockIdx.x % tiles_c * TILE_N;
    const long long first_pixel = blockIdx.x / tiles_c * (long long)TILE_M;
    const Phase phase = {phase_h, phase_w, first_row, first_column, rows, columns, taps_h, taps_w, pixels};
    const int steps = PAIRS * taps_h * taps_w * ((c_out + STEP - 1) / STEP);

    if (is_producer()) {
        const int column = left + first_pixel % columns, row = top + first_pixel / columns % rows;
        const int n = first_pixel / columns / rows;
        int pair = 0, t_h = 0, t_w = 0, o = 0;
        produce<false>(ring, tiles, steps, [&](bf16* patches, bf16* weights, mbarrier* full) {
            const int u = phase_h + t_h * stride_h, v = phase_w + t_w * stride_w;
            tma_load_windows(patches, &g_parts, full, o, column, row, left_part(pair) * n_images + n, taps_w - 1 - t_w,
                             taps_h - 1 - t_h);
            tma_load(weights, &w_parts, full, o, first_c, (right_part(pair) * kernel_h + u) * kernel_w + v);
            if ((o += STEP) < c_out) return;
            o = 0;
            if (++t_w == taps_w) t_w = 0, t_h++;
            if (t_h == taps_h) t_h = 0, pair++;
        });
        return;
    }
    float total[TILE_N / 2] = {};
    consume_by_step<false, false>(total, ring, tiles, steps);

    auto place_of = [&](const Pixel& pixel) {
        return ((pixel.n * height + pixel.row) * width + pixel.column) * c_in;
    };
    bool all_finite = true;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const long long number = first_pixel + row_of(2 * half);
        if (number >= pixels) continue;
        float* const row = dx + place_of(pixel_of(phase, number, stride_h, stride_w));
#pragma unroll
        for (int j = 0; j < TILE_N / 8; j++) {
            const int c = first_c + column_of(j, 0);
            const float one = total[4 * j + 2 * half], other = total[4 * j + 2 * half + 1];
            if (c < c_in) store_two(row + c, one, other, c_in - c, c_in);
            all_finite &= is_finite(one) && is_finite(other);
        }
    }
    if (all_finite) return;
#pragma unroll 1
    for (int e = 0; e < TILE_N / 2; e++) {
        const long long number = first_pixel + row_of(e % 4);
        const int c = first_c + column_of(e / 4, e % 4);
        if (number >= pixels || c >= c_in) continue;
        const Pixel pixel = pixel_of(phase, number, stride_h, stride_w);
        const long long at = place_of(pixel) + c;
        if (!is_finite(dx[at]))
            dx[at] = gradient_of_pixel(g, w, pixel.n, pixel.row, pixel.column, c, c_in, h_out, w_out, c_out, kernel_h, kernel_w,
                                       stride_h, stride_w, padding_h, padding_w);
    }
}

// As in 4_wgmma_gradients.cu, of x and g in float32 and of maps of their parts: g_parts is one of (3, pixels, c).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_w_float32(const float* x, const float* g, const __grid_constant__ TensorMap x_parts,
                          const __grid_constant__ TensorMap g_parts, float* dw, long long pixels, long long part_size, int n_images,
                          int height, int width, int c_in, int h_out, int w_out, int c_out, int kernel_h, int kernel_w,
                          int stride_h, int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    const int blocks_c = (c_in + 63) / 64, blocks_r = kernel_h * kernel_w * blocks_c;  // of the rows of dw
    const int tiles_o = (c_out + TILE_N - 1) / TILE_N, tiles_r = (blocks_r + CONSUMERS - 1) / CONSUMERS;
    const int first_o = blockIdx.x % tiles_o * TILE_N, first_r = blockIdx.x / tiles_o % tiles_r * CONSUMERS;
    const long long part = blockIdx.x / tiles_o / tiles_r, begins = part * part_size;
    const long long ends = max(begins, min(pixels, begins + part_size));
    const int steps = (int)((ends - begins + STEP - 1) / STEP);

    if (is_producer()) {
        int pair = 0, step = 0, n = 0, i = 0, j = 0;
        produce<true>(ring, tiles, PAIRS * steps, [&](bf16* patches, bf16* gradients, mbarrier* full) {
            if (step == 0) n = begins / w_out / h_out, i = begins / w_out % h_out, j = begins % w_out;
#pragma unroll
            for (int group = 0; group < CONSUMERS; group++) {
                const int r = min(first_r + group, blocks_r - 1), place = r / blocks_c;
                tma_load_windows(patches + group * PANEL, &x_parts, full, r % blocks_c * 64, j * stride_w - padding_w,
                                 i * stride_h - padding_h, left_part(pair) * n_images + n, place % kernel_w, place / kernel_w);
            }
#pragma unroll
            for (int panel = 0; panel < PANELS_N; panel++)
                tma_load(gradients + panel * PANEL, &g_parts, full, first_o + panel * 64, (int)begins + step * STEP,
                         right_part(pair));
            for (j += STEP; j >= w_out; j -= w_out)
                if (++i == h_out) i = 0, n++;
            if (++step == steps) step = 0, pair++;
        });
        return;
    }
    float total[TILE_N / 2] = {};
    consume_by_step<true, true>(total, ring, tiles, PAIRS * steps);

    const int r = first_r + threadIdx.x / 128, place = r / blocks_c, u = place / kernel_w, v = place % kernel_w;
    if (r >= blocks_r) return;
    float* const of_place = dw + (part * kernel_h * kernel_w + place) * c_in * c_out;
    bool all_finite = true;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int c = r % blocks_c * 64 + row_of(2 * half) % 64;
        if (c >= c_in) continue;
#pragma unroll
        for (int k = 0; k < TILE_N / 8; k++) {
            const int o = first_o + column_of(k, 0);
            const float one = total[4 * k + 2 * half], other = total[4 * k + 2 * half + 1];
            if (o < c_out) store_two(of_place + (long long)c * c_out + o, one, other, c_out - o, c_out);
            all_finite &= is_finite(one) && is_finite(other);
        }
    }
    if (all_finite) return;
#pragma unroll 1
    for (int e = 0; e < TILE_N / 2; e++) {
        const int c = r % blocks_c * 64 + row_of(e % 4) % 64, o = first_o + column_of(e / 4, e % 4);
        if (c >= c_in || o >= c_out) continue;
        float* const at = of_place + (long long)c * c_out + o;
        if (!is_finite(*at))
            *at = gradient_of_weight(x, g, begins, ends, u, v, c, o, height, width, c_in, h_out, w_out, c_out, stride_h, stride_w,
                                     padding_h, padding_w);
    }
}
