// The convolution of few channels, as a network's first layer has them: 1 to 4. bfloat16 factors, float sums. Definition, shapes
// and epilogue are those of rung 1.
//
// Tensor cores are of no use here: with 3 x 3 places and 3 channels there are 27 products for each number that is stored, and
// storing takes longer. And there are no pieces of 16 bytes: a pixel has 6. (Rung 3 takes such layers, number by number
// into tiles of 64 places of which 27 are used.)
//
// New here: the weights stay, the pixels pass. The whole inner axis, DEPTH places, is so short that a thread keeps the weights
// of its PER channels in registers, and meets pixel after pixel. A block brings the patches of 128 pixels to shared memory, one
// thread each; then 16 threads next to each other have the channels of one pixel. They read the same patch, 4 numbers
// at a time, for 4 PER products, and what they store lies side by side.
//
// DEPTH = kernel_h * kernel_w * c_in is given at compile time. PER times DEPTH numbers must fit into the registers.
#include "lib/ptx.cuh"
#include "conv2d/epilogue.cuh"
#include "conv2d/pixel.cuh"

#ifndef DEPTH
#define DEPTH 27
#endif
#define PER (DEPTH <= 36 ? 4 : DEPTH <= 80 ? 2 : 1)  // channels of a thread
#define FOURS ((DEPTH + 3) / 4)
#define PITCH (4 * (FOURS | 1))  // numbers from patch to patch: an odd number of fours, so 8 patches begin in different banks
#define PIXELS 128
#define CHANNELS (16 * PER)
#define THREADS 128

extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d_bf16(const bf16* x, const bf16* w, const float* b, const float* time, const float* residual, float* y,
                long long pixels, int height, int width, int c_in, int h_out, int w_out, int c_out, int kernel_h,
                int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    DYNAMIC_SHARED(float, patches);
    const int tiles_o = (c_out + CHANNELS - 1) / CHANNELS;
    const int first_o = blockIdx.x % tiles_o * CHANNELS + threadIdx.x % 16 * PER;
    const long long first_pixel = blockIdx.x / tiles_o * (long long)PIXELS;

    const long long mine = first_pixel + threadIdx.x;
    const Window window = window_of(mine, mine < pixels, height, width, c_in, h_out, w_out, stride_h, stride_w, padding_h,
                                    padding_w);
    float* patch = patches + threadIdx.x * PITCH;
    for (int u = 0; u < kernel_h; u++)
        for (int v = 0; v < kernel_w; v++) {
            const int row = window.top + u, column = window.left + v;
            const bool inside = row >= 0 && row < height && column >= 0 && column < width;
            const bf16* pixel = x + window.image + ((long long)row * width + column) * c_in;
            for (int c = 0; c < c_in; c++) *patch++ = inside ? to_float(pixel[c]) : 0.0f;
        }
#pragma unroll
    for (int r = DEPTH; r < 4 * FOURS; r++) *patch++ = 0;

    float weights[4 * FOURS][PER], begin[PER];
#pragma unroll
    for (int k = 0; k < PER; k++) {
        const int o = first_o + k;
        begin[k] = b && o < c_out ? b[o] : 0.0f;
#pragma unroll
        for (int r = 0; r < 4 * FOURS; r++)
            weights[r][k] = r < DEPTH && o < c_out ? to_float(w[(long long)r * c_out + o]) : 0.0f;
    }
    __syncthreads();  // the patches are there

#pragma unroll 1
    for (int at = threadIdx.x / 16; at < PIXELS; at += THREADS / 16) {
        const long long pixel = first_pixel + at, n = TIME ? pixel / w_out / h_out : 0;
        if (pixel >= pixels) return;
        float sum[PER];
#pragma unroll
        for (int k = 0; k < PER; k++) sum[k] = begin[k];
#pragma unroll
        for (int i = 0; i < FOURS; i++) {
            const float4 four = reinterpret_cast<const float4*>(patches + at * PITCH)[i];
#pragma unroll
            for (int k = 0; k < PER; k++) {
                sum[k] += four.x * weights[4 * i][k];
                sum[k] += four.y * weights[4 * i + 1][k];
                sum[k] += four.z * weights[4 * i + 2][k];
                sum[k] += four.w * weights[4 * i + 3][k];
            }
        }
        const long long begins = pixel * c_out + first_o;
#pragma unroll
        for (int k = 0; k < PER; k++)
            if (first_o + k < c_out) sum[k] = finish(sum[k], time, residual, n, begins + k, c_out, first_o + k);
        if (PER == 4 && c_out % 4 == 0) {
            if (first_o < c_out)
                *reinterpret_cast<float4*>(y + begins) = float4{sum[0], sum[1 % PER], sum[2 % PER], sum[3 % PER]};
            continue;
        }
#pragma unroll
        for (int k = 0; k < PER; k++)
            if (first_o + k < c_out) y[begins + k] = sum[k];
    }
}
