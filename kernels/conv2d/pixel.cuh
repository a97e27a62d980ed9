// One number of a convolution's data gradient, as it is defined (the formula and the sizes are those of 1_direct.cu). Only
// what has a gradient takes part: i and j where the stride divides and that lie in g.
#pragma once

__device__ float to_float(float x) { return x; }

template <class T>  // float, or bf16 of lib/ptx.cuh
__device__ float gradient_of_pixel(const T* g, const T* w, long long n, int row, int column, int c, int c_in, int h_out,
                                   int w_out, int c_out, int kernel_h, int kernel_w, int stride_h, int stride_w,
                                   int padding_h, int padding_w) {
    float sum = 0;
    for (int u = 0; u < kernel_h; u++) {
        const int i = (row + padding_h - u) / stride_h;
        if (i * stride_h != row + padding_h - u || i < 0 || i >= h_out) continue;
        for (int v = 0; v < kernel_w; v++) {
            const int j = (column + padding_w - v) / stride_w;
            if (j * stride_w != column + padding_w - v || j < 0 || j >= w_out) continue;
            const T* gradient = g + ((n * h_out + i) * w_out + j) * c_out;
            const T* weight = w + ((long long)(u * kernel_w + v) * c_in + c) * c_out;
            for (int o = 0; o < c_out; o++) sum += to_float(gradient[o]) * to_float(weight[o]);
        }
    }
    return sum;
}
