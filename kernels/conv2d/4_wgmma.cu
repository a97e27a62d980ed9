// The convolution on Hopper's tensor cores: TMA finds the patches. bfloat16 factors, float sums. Definition, shapes and epilogue
// are those of rung 1; the matrix of patches that is never stored is that of rung 2; who copies, who multiplies and who waits
// for whom is in matmul/wgmma.cuh. As in matmul/4_wgmma.cu a block computes one tile after the other.
//
// New here: windows in one instruction. In rung 3 each thread works out where the pieces that it copies are found, and whether
// that is inside of the image, for every step. TMA has that in hardware (im2col). The host describes the image once: where
// windows begin (at -padding, each `stride` further) and how many there are. Then one instruction of one thread names the first
// of 128 windows and the place (u, v) within all of them, and brings 64 channels of the 128 pixels there: across the ends of
// rows and of images, with zeros for the padding, with zeros beyond the last channel. The kernel computes no address.
//
// The weights come as they lie, (u, v, c, o) with o the fastest: rows along the inner axis, which wgmma takes ACROSS. Their map
// has the axes (place, c, o), so what is beyond the last channel is 0 too, not the next place's weights: 0 times 0 adds
// nothing, where 0 times the next place's Inf would be NaN.
//
// What it costs: c_in must be a multiple of 8 (16 bytes). A step has 64 channels, and all of them are multiplied unless there
// are less than 64 in all (INNER), so 72 take as long as 128. While a block with TILE_N = 160 or 256 stores its sums nobody
// multiplies; narrower tiles leave room for a second block on the multiprocessor, which then does. 160 columns, for 320 or 640
// channels, are two panels of weights and half of a third, which is brought whole.
//
// Needs sm_90a.
#include "conv2d/epilogue.cuh"
#include "matmul/wgmma.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    conv2d_bf16(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float* b,
                const float* time, const float* residual, float* y, long long pixels, int c_in, int h_out, int w_out,
                int c_out, int kernel_h, int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(bf16, tiles);
    __shared__ Ring<STAGES> ring;
    make(ring);
    const int tiles_o = (c_out + TILE_N - 1) / TILE_N, steps = kernel_h * kernel_w * ((c_in + STEP - 1) / STEP);
    const long long tiles_of_y = (pixels + TILE_M - 1) / TILE_M * tiles_o;
    Turn<STAGES> turn;
    for (long long number = blockIdx.x; number < tiles_of_y; number += gridDim.x) {
        const int first_o = number % tiles_o * TILE_N;
        const long long first_pixel = number / tiles_o * TILE_M;
        if (is_producer()) {
            const int j = first_pixel % w_out, i = first_pixel / w_out % h_out, n = first_pixel / w_out / h_out;
            int u = 0, v = 0, c = 0;
            turn = produce<true>(ring, tiles, steps, [&](bf16* patches, bf16* weights, mbarrier* full) {
                const int left = j * stride_w - padding_w, top = i * stride_h - padding_h;
                tma_load_windows(patches, &x, full, c, left, top, n, v, u);
#pragma unroll
                for (int panel = 0; panel < PANELS_N; panel++)
                    tma_load(weights + panel * PANEL, &w, full, first_o + panel * 64, c, u * kernel_w + v);
                if ((c += STEP) < c_in) return;
                c = 0;
                if (++v == kernel_w) v = 0, u++;
            }, turn);
            continue;
        }
        float d[TILE_N / 2];
#pragma unroll
        for (int e = 0; e < TILE_N / 2; e++) {
            const int o = first_o + column_of(e / 4, e % 4);
            d[e] = b && o < c_out ? b[o] : 0.0f;
        }
        turn = consume<false, true>(d, ring, tiles, steps, turn);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const long long pixel = first_pixel + row_of(2 * half), n = TIME ? pixel / w_out / h_out : 0;
            if (pixel >= pixels) continue;
#pragma unroll
            for (int j = 0; j < TILE_N / 8; j++) {
                const int o = first_o + column_of(j, 0);
                const long long at = pixel * c_out + o;
                if (o >= c_out) continue;
                const bool both = o + 1 < c_out;
                const float one = finish(d[4 * j + 2 * half], time, residual, n, at, c_out, o);
                const float other = both ? finish(d[4 * j + 2 * half + 1], time, residual, n, at + 1, c_out, o + 1) : 0.0f;
                store_two(y + at, one, other, c_out - o, c_out);
            }
        }
    }
}
