// The convolution of float32 numbers on Hopper's bf16 tensor cores, about as exact as on float32 units.
//
// New here: nothing but the two ideas together. Windows by TMA: 4_wgmma.cu. Three parts of each factor, six products of them, sums
// that do not drift, and numbers that are not finite: matmul/3_split.cu. The parts of x lie one after the other like images, so
// a window of the second part is `n_images` images further. Behind the last image of a part its tile meets the next part's
// first, and what that gives is not stored.
//
// Not yet run on hardware.
//
// Needs sm_90a.
#define BLOCKS_OF_AN_SM 1
#define STAGES 6
#include "conv2d/epilogue.cuh"
#include "conv2d/pixel.cuh"
#include "matmul/parts.cuh"
#include "matmul/wgmma.cuh"

// As 4_wgmma.cu, of x and w in float32 and of maps of their parts (3 * n_images, height, width, c) and (3 * places, c_in, c).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_float32(const float* x, const float* w, const __grid_constant__ TensorMap x_parts,
                   const __grid_constant__ TensorMap w_parts, const float* b, const float* time, const float* residual, float* y,
                   long long pixels, int n_images, int height, int width, int c_in, int h_out, int w_out, int c_out,
                   int kernel_h, int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    const int tiles_o = (c_out + TILE_N - 1) / TILE_N, places = kernel_h * kernel_w;
    const int steps = PAIRS * places * ((c_in + STEP - 1) / STEP);
    const long long tiles_of_y = (pixels + TILE_M - 1) / TILE_M * tiles_o;
    Turn<STAGES> turn;
    for (long long number = blockIdx.x; number < tiles_of_y; number += gridDim.x) {
        const int first_o = number % tiles_o * TILE_N;
        const long long first_pixel = number / tiles_o * TILE_M;
        if (is_producer()) {
            const int j = first_pixel % w_out, i = first_pixel / w_out % h_out, n = first_pixel / w_out / h_out;
            int pair = 0, u = 0, v = 0, c = 0;
            turn = produce<true>(ring, tiles, steps, [&](bf16* patches, bf16* weights, mbarrier* full) {
                const int left = j * stride_w - padding_w, top = i * stride_h - padding_h;
                tma_load_windows(patches, &x_parts, full, c, left, top, left_part(pair) * n_images + n, v, u);
#pragma unroll
                for (int panel = 0; panel < PANELS_N; panel++)
                    tma_load(weights + panel * PANEL, &w_parts, full, first_o + panel * 64, c,
                             right_part(pair) * places + u * kernel_w + v);
                if ((c += STEP) < c_in) return;
                c = 0;
                if (++v == kernel_w) v = 0, u++;
                if (u == kernel_h) u = 0, pair++;
            }, turn);
            continue;
        }
        float total[TILE_N / 2];
#pragma unroll
        for (int e = 0; e < TILE_N / 2; e++) {
            const int o = first_o + column_of(e / 4, e % 4);
            total[e] = b && o < c_out ? b[o] : 0.0f;
        }
        turn = consume_by_step<false, true>(total, ring, tiles, steps, turn);
        bool all_finite = true;
        store_tile(y, first_pixel, first_o, pixels, c_out, [&](int e, long long pixel, int o) {
            const long long n = TIME ? pixel / w_out / h_out : 0;
            const float value = finish(total[e], time, residual, n, pixel * c_out + o, c_out, o);
            all_finite &= is_finite(value);
            return value;
        });
        if (all_finite) continue;
#pragma unroll 1
        for (int e = 0; e < TILE_N / 2; e++) {
            const long long pixel = first_pixel + row_of(e % 4), at = pixel * c_out + first_o + column_of(e / 4, e % 4);
            const int o = first_o + column_of(e / 4, e % 4), j = pixel % w_out, i = pixel / w_out % h_out;
            if (pixel >= pixels || o >= c_out || is_finite(y[at])) continue;
            const long long n = pixel / w_out / h_out;
            const float sum = sum_of_window(b ? b[o] : 0.0f, x, w, n, i, j, o, height, width, c_in, c_out, kernel_h, kernel_w,
                                            stride_h, stride_w, padding_h, padding_w);
            y[at] = finish(sum, time, residual, n, at, c_out, o);
        }
    }
}
