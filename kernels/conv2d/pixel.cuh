// What the convolution's kernels share about pixels: where windows begin, which pixels of x meet which places of the kernel, and
// one number of the data gradient as it is defined. The formulas and the sizes are those of 1_direct.cu.
#pragma once

struct Window {
    long long image;  // the first number of the image that it is in
    int top, left;    // its first row and column, which may lie outside of the image
};

// The window of x that belongs to a pixel (n, i, j) of y, counted from the first of them all. If it is not `there`, the window
// lies below the image, where there are only zeros.
__device__ __forceinline__ Window window_of(long long pixel, bool there, int height, int width, int c_in, int h_out,
                                            int w_out, int stride_h, int stride_w, int padding_h, int padding_w) {
    const int j = pixel % w_out, i = pixel / w_out % h_out;
    return {pixel / w_out / h_out * height * width * c_in, there ? i * stride_h - padding_h : height,
            j * stride_w - padding_w};
}

// Phases. With a stride of s a pixel of x meets only those u for which s divides row + padding - u: one in s. So the rows fall
// into s phases by the remainder of row + padding, and all pixels of a phase meet the same u, every s-th from the phase on:
//
//     row + padding = s * above + phase,   u = phase + s * t   =>   i = above - t
//
// and likewise for columns. Within a phase the data gradient is a convolution of stride 1.
struct Phase {
    int h, w;                     // the remainders
    int first_row, first_column;  // of its pixels in each image; the next are a stride further
    int rows, columns;
    int taps_h, taps_w;           // how many u and v they meet
    long long pixels;
};

struct Pixel {
    long long n;
    int row, column;
};

__device__ __forceinline__ Phase phase_of(int h, int w, long long n_images, int height, int width, int kernel_h,
                                          int kernel_w, int stride_h, int stride_w, int padding_h, int padding_w) {
    const int first_row = ((h - padding_h) % stride_h + stride_h) % stride_h;
    const int first_column = ((w - padding_w) % stride_w + stride_w) % stride_w;
    const int rows = (height - first_row + stride_h - 1) / stride_h;
    const int columns = (width - first_column + stride_w - 1) / stride_w;
    const long long pixels = first_row < height && first_column < width ? n_images * rows * columns : 0;
    return {h, w, first_row, first_column, rows, columns, max(0, (kernel_h - h + stride_h - 1) / stride_h),
            max(0, (kernel_w - w + stride_w - 1) / stride_w), pixels};
}

__device__ __forceinline__ Pixel pixel_of(const Phase& phase, long long number, int stride_h, int stride_w) {
    return {number / phase.columns / phase.rows, (int)(phase.first_row + number / phase.columns % phase.rows * stride_h),
            (int)(phase.first_column + number % phase.columns * stride_w)};
}

// The window of g, from its last row and column on: i = top - t_h, j = left - t_w. Above g there are only zeros.
__device__ __forceinline__ Window window_in_g(const Phase& phase, long long number, int h_out, int w_out, int c_out,
                                              int stride_h, int stride_w, int padding_h, int padding_w) {
    const Pixel at = pixel_of(phase, number, stride_h, stride_w);
    return {at.n * h_out * w_out * c_out, number < phase.pixels ? (at.row + padding_h - phase.h) / stride_h : -1,
            (at.column + padding_w - phase.w) / stride_w};
}

// One number of the convolution, at (n, i, j, o) of y, which begins with `sum`.
__device__ __forceinline__ float sum_of_window(float sum, const float* x, const float* w, long long n, int i, int j, int o,
                                               int height, int width, int c_in, int c_out, int kernel_h, int kernel_w,
                                               int stride_h, int stride_w, int padding_h, int padding_w) {
    for (int u = 0; u < kernel_h; u++)
        for (int v = 0; v < kernel_w; v++) {
            const int row = i * stride_h + u - padding_h, column = j * stride_w + v - padding_w;
            const bool outside = row < 0 || row >= height || column < 0 || column >= width;
            const float* pixel = x + ((n * height + row) * width + column) * c_in;
            const float* weight = w + (long long)(u * kernel_w + v) * c_in * c_out + o;
            for (int c = 0; c < c_in; c++) sum += (outside ? 0.0f : pixel[c]) * weight[(long long)c * c_out];
        }
    return sum;
}

// One number of the weight gradient, of the pixels from `begins` to `ends` of y.
__device__ __forceinline__ float gradient_of_weight(const float* x, const float* g, long long begins, long long ends, int u,
                                                    int v, int c, int o, int height, int width, int c_in, int h_out,
                                                    int w_out, int c_out, int stride_h, int stride_w, int padding_h,
                                                    int padding_w) {
    float sum = 0;
    for (long long pixel = begins; pixel < ends; pixel++) {
        const Window window = window_of(pixel, true, height, width, c_in, h_out, w_out, stride_h, stride_w, padding_h, padding_w);
        const int row = window.top + u, column = window.left + v;
        const bool outside = row < 0 || row >= height || column < 0 || column >= width;
        const float value = outside ? 0.0f : x[window.image + ((long long)row * width + column) * c_in + c];
        sum += value * g[pixel * c_out + o];
    }
    return sum;
}

// One number of the data gradient. Only what has a gradient takes part: i and j where the stride divides and that lie in g.

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
