// The convolution as it is defined, one thread for each number of the result:
//
//     y[n, i, j, o] = b[o] + sum_{u, v, c} x[n, i * stride + u - padding, j * stride + v - padding, c] * w[u, v, c, o]
//
// with x (n, height, width, c_in), w (kernel_h, kernel_w, c_in, c_out); outside of the image x is 0, and b may be null.
// (A 0 outside of the image times a weight that is Inf is NaN, as in the definition.) What may follow is in epilogue.cuh.
// Threads next to each other have neighbouring o, so they read neighbouring weights and the same pixel. Still every
// weight and every pixel is read from memory for each product that it is part of; the next rung shares them.
//
// 1_direct.cu has the two gradients as well, each as the sum over everything that its number had a part in, so no two
// threads ever add to the same place:
//
//     dx[n, r, s, c] = sum_{u, v, o} g[n, i, j, o] * w[u, v, c, o]     where i * stride + u - padding = r, likewise j
//     dw[u, v, c, o] = sum_{n, i, j} x[n, i * stride + u - padding, j * stride + v - padding, c] * g[n, i, j, o]
#include "lib/cuda.cuh"
#include "conv2d/epilogue.cuh"
#include "conv2d/pixel.cuh"

extern "C" __global__ void conv2d(const float* x, const float* w, const float* b, const float* time,
                                  const float* residual, float* y, long long count, int height, int width, int c_in,
                                  int h_out, int w_out, int c_out, int kernel_h, int kernel_w, int stride_h,
                                  int stride_w, int padding_h, int padding_w) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int o = at % c_out, j = at / c_out % w_out, i = at / c_out / w_out % h_out;
    const long long n = at / c_out / w_out / h_out;
    const float sum = sum_of_window(b ? b[o] : 0.0f, x, w, n, i, j, o, height, width, c_in, c_out, kernel_h, kernel_w,
                                    stride_h, stride_w, padding_h, padding_w);
    y[at] = finish(sum, time, residual, n, at, c_out, o);
}

extern "C" __global__ void conv2d_grad_x(const float* g, const float* w, float* dx, long long count, int height,
                                         int width, int c_in, int h_out, int w_out, int c_out, int kernel_h,
                                         int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int c = at % c_in, column = at / c_in % width, row = at / c_in / width % height;
    const long long n = at / c_in / width / height;
    dx[at] = gradient_of_pixel(g, w, n, row, column, c, c_in, h_out, w_out, c_out, kernel_h, kernel_w, stride_h,
                               stride_w, padding_h, padding_w);
}

extern "C" __global__ void conv2d_grad_w(const float* x, const float* g, float* dw, long long count, int n_images,
                                         int height, int width, int c_in, int h_out, int w_out, int c_out, int kernel_h,
                                         int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int o = at % c_out, c = at / c_out % c_in;
    const int v = at / c_out / c_in % kernel_w, u = at / c_out / c_in / kernel_w;
    float sum = 0;
    for (long long n = 0; n < n_images; n++)
        for (int i = 0; i < h_out; i++)
            for (int j = 0; j < w_out; j++) {
                const int row = i * stride_h + u - padding_h, column = j * stride_w + v - padding_w;
                const bool outside = row < 0 || row >= height || column < 0 || column >= width;
                const float value = outside ? 0.0f : x[((n * height + row) * width + column) * c_in + c];
                sum += value * g[((n * h_out + i) * w_out + j) * c_out + o];
            }
    dw[at] = sum;
}
