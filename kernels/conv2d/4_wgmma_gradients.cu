// The two gradients of the convolution on Hopper's tensor cores, with bfloat16 factors. Formulas and shapes: 1_direct.cu; windows
// by TMA: 4_wgmma.cu; producer, consumers and their ring: matmul/wgmma.cuh; phases: pixel.cuh; parts and NaN: 2_tiled_gradients.cu.
//
// New here: whose windows, and which way each factor lies. No factor is turned in memory; wgmma takes each ACROSS or not.
//
// Data gradient: windows of g. Within a phase it is a convolution of stride 1 that goes through g backwards: i = above - t. So
// windows begin taps - 1 before the first `above`, and t counts down from there. Each phase has its own number of windows, so its
// own map and its own launch. The weights of a place lie (c, o), and o is the inner axis now: along.
//
// Weight gradient: pixels are the inner axis. A tile of windows has a row for each pixel, a place on the inner axis: the left
// factor lies across, and so does g. The rows of dw, (u, v, c), come in blocks of 64 channels of one place (u, v), which are
// what one copy can bring; a consumer has one of them. Behind the last image windows are 0, so the last step needs no care.
//
// Needs sm_90a.
#include "conv2d/pixel.cuh"
#include "matmul/wgmma.cuh"

// One phase (pixel.cuh); windows of its first pixels begin at `top` and `left`. g and w are given as maps, and as plain
// numbers for working out NaN again. c_in may be any number, c_out a multiple of 8.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_x_bf16(const __grid_constant__ TensorMap g, const __grid_constant__ TensorMap w, const bf16* g_numbers,
                       const bf16* w_numbers, float* dx, int phase_h, int phase_w, int first_row, int first_column,
                       int rows, int columns, int taps_h, int taps_w, long long pixels, int top, int left, int height,
                       int width, int c_in, int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h,
                       int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    const int tiles_c = (c_in + TILE_N - 1) / TILE_N, first_c = blockIdx.x % tiles_c * TILE_N;
    const long long first_pixel = blockIdx.x / tiles_c * (long long)TILE_M;
    const Phase phase = {phase_h, phase_w, first_row, first_column, rows, columns, taps_h, taps_w, pixels};
    const int steps = taps_h * taps_w * ((c_out + STEP - 1) / STEP);

    if (is_producer()) {
        const int column = left + first_pixel % columns, row = top + first_pixel / columns % rows;
        const int n = first_pixel / columns / rows;
        int t_h = 0, t_w = 0, o = 0;
        produce<false>(ring, tiles, steps, [&](bf16* patches, bf16* weights, mbarrier* full) {
            const int u = phase_h + t_h * stride_h, v = phase_w + t_w * stride_w;
            tma_load_windows(patches, &g, full, o, column, row, n, taps_w - 1 - t_w, taps_h - 1 - t_h);
            tma_load(weights, &w, full, o, first_c, u * kernel_w + v);
            if ((o += STEP) < c_out) return;
            o = 0;
            if (++t_w == taps_w) t_w = 0, t_h++;
        });
        return;
    }
    float d[TILE_N / 2];
#pragma unroll
    for (int e = 0; e < TILE_N / 2; e++) d[e] = 0;
    consume<false, false>(d, ring, tiles, steps);

    auto place_of = [&](const Pixel& pixel) {
        return ((pixel.n * height + pixel.row) * width + pixel.column) * c_in;
    };
    bool any_nan = false;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const long long number = first_pixel + row_of(2 * half);
        if (number >= pixels) continue;
        float* const row = dx + place_of(pixel_of(phase, number, stride_h, stride_w));
#pragma unroll
        for (int j = 0; j < TILE_N / 8; j++) {
            const int c = first_c + column_of(j, 0);
            const float one = d[4 * j + 2 * half], other = d[4 * j + 2 * half + 1];
            if (c < c_in) store_two(row + c, one, other, c_in - c, c_in);
            any_nan |= one != one || other != other;
        }
    }
    // A 0 stands for what has no gradient, but 0 times a weight that is Inf is NaN. So NaN is worked out again.
    if (!any_nan) return;
#pragma unroll 1
    for (int e = 0; e < TILE_N / 2; e++) {
        const long long number = first_pixel + row_of(e % 4);
        const int c = first_c + column_of(e / 4, e % 4);
        if (number >= pixels || c >= c_in) continue;
        const Pixel pixel = pixel_of(phase, number, stride_h, stride_w);
        const long long at = place_of(pixel) + c;
        if (dx[at] != dx[at])
            dx[at] = gradient_of_pixel(g_numbers, w_numbers, pixel.n, pixel.row, pixel.column, c, c_in, h_out, w_out, c_out,
                                       kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w);
    }
}

// x is a map of windows with 64 pixels and 64 channels, g one of the matrix (pixels, c_out). part_size is a multiple of STEP.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_grad_w_bf16(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap g, float* dw,
                       long long pixels, long long part_size, int c_in, int h_out, int w_out, int c_out, int kernel_h,
                       int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    const int blocks_c = (c_in + 63) / 64, blocks_r = kernel_h * kernel_w * blocks_c;  // of the rows of dw
    const int tiles_o = (c_out + TILE_N - 1) / TILE_N, tiles_r = (blocks_r + CONSUMERS - 1) / CONSUMERS;
    const int first_o = blockIdx.x % tiles_o * TILE_N, first_r = blockIdx.x / tiles_o % tiles_r * CONSUMERS;
    const long long part = blockIdx.x / tiles_o / tiles_r, begins = part * part_size;
    const int steps = (int)((max(0ll, min(pixels - begins, part_size)) + STEP - 1) / STEP);

    if (is_producer()) {
        int n = begins / w_out / h_out, i = begins / w_out % h_out, j = begins % w_out, pixel = begins;
        produce<true>(ring, tiles, steps, [&](bf16* patches, bf16* gradients, mbarrier* full) {
#pragma unroll
            for (int group = 0; group < CONSUMERS; group++) {
                const int r = min(first_r + group, blocks_r - 1), place = r / blocks_c;
                tma_load_windows(patches + group * PANEL, &x, full, r % blocks_c * 64, j * stride_w - padding_w,
                                 i * stride_h - padding_h, n, place % kernel_w, place / kernel_w);
            }
#pragma unroll
            for (int panel = 0; panel < PANELS_N; panel++)
                tma_load(gradients + panel * PANEL, &g, full, first_o + panel * 64, pixel);
            pixel += STEP;
            for (j += STEP; j >= w_out; j -= w_out)
                if (++i == h_out) i = 0, n++;
        });
        return;
    }
    float d[TILE_N / 2];
#pragma unroll
    for (int e = 0; e < TILE_N / 2; e++) d[e] = 0;
    consume<true, true>(d, ring, tiles, steps);

    const int r = first_r + threadIdx.x / 128;
    if (r >= blocks_r) return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int c = r % blocks_c * 64 + row_of(2 * half) % 64;
        if (c >= c_in) continue;
        float* const row = dw + ((part * kernel_h * kernel_w + r / blocks_c) * c_in + c) * c_out;
#pragma unroll
        for (int k = 0; k < TILE_N / 8; k++) {
            const int o = first_o + column_of(k, 0);
            if (o < c_out) store_two(row + o, d[4 * k + 2 * half], d[4 * k + 2 * half + 1], c_out - o, c_out);
        }
    }
}
