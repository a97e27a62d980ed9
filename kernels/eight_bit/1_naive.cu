// Linear layers on eight-bit weights as they are defined, one thread for each number of the result.
//
//     weight_only:   y[i, j] = scale[j] * sum_l x[i, l] * q[l, j] + bias[j]                       x float, q int8
//     int8:          y[i, j] = (sum_l p[i, l] * q[l, j]) * x_scale[i] * scale[j] + bias[j]        p and q int8
//     fp8:           the same with p and q fp8: p of X_FORM, q of W_FORM, each e4m3 or e5m2
//
// x, p (m, k), q (k, n), y (m, n); bias may be null. The second sum is one of whole numbers of 32 bits and exact; what
// follows is rounded one operation at a time, so all devices give the same bits. In the first, x is brought to every
// thread in float32, but the weights, which are most of what a layer with few rows reads, are a quarter of that.
#include "eight_bit/bytes.cuh"

extern "C" __global__ void weight_only(const float* x, const signed char* q, const float* scale, const float* bias,
                                       float* y, long long count, int k, int n) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long i = at / n;
    const int j = at % n;
    float sum = 0;
    for (int l = 0; l < k; l++) sum += x[i * k + l] * q[(long long)l * n + j];
    y[at] = bias ? sum * scale[j] + bias[j] : sum * scale[j];
}

extern "C" __global__ void int8(const signed char* p, const float* x_scale, const signed char* q, const float* scale,
                                const float* bias, float* y, long long count, int k, int n) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long i = at / n;
    const int j = at % n;
    int sum = 0;
    for (int l = 0; l < k; l++) sum += p[i * k + l] * q[(long long)l * n + j];
    const float value = times_32(times_32(sum, x_scale[i]), scale[j]);
    y[at] = bias ? plus_32(value, bias[j]) : value;
}

extern "C" __global__ void fp8(const unsigned char* p, const float* x_scale, const unsigned char* q, const float* scale,
                               const float* bias, float* y, long long count, int k, int n) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long i = at / n;
    const int j = at % n;
    float sum = 0;
    for (int l = 0; l < k; l++) sum += to_float(X_FORM{p[i * k + l]}) * to_float(W_FORM{q[(long long)l * n + j]});
    y[at] = scaled(sum, x_scale[i], scale[j], bias, j);
}
