// The smooth activations and their derivatives, element by element:
//
//     silu(x) = x sigmoid(x),    gelu(x) = x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3),
//     softplus(x) = max(x, 0) + ln(1 + exp(-|x|))
//
// and g times the slope of the first two. A thread moves four neighbouring numbers by one instruction each way; each of
// them costs an exp or a tanh, which is less than its 8 or 12 bytes of memory cost.
//
// In gelu's slope the factor 1 - tanh^2 comes before x: it is 0 from |x| = 8 on, and x u' alone could overflow.
#include "lib/cuda.cuh"
#include "lib/fours.cuh"

#define SLOPE 0.7978845608028654f  // sqrt(2 / pi)
#define CUBIC 0.044715f

__device__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

__device__ float silu_of(float x) { return x * sigmoid(x); }

__device__ float silu_slope(float x) {
    const float s = sigmoid(x);
    return s * (1 + x * (1 - s));
}

__device__ float gelu_of(float x) { return 0.5f * x * (1 + tanhf(SLOPE * (1 + CUBIC * x * x) * x)); }

__device__ float gelu_slope(float x) {
    const float t = tanhf(SLOPE * (1 + CUBIC * x * x) * x);
    return 0.5f * (1 + t + (1 - t * t) * (SLOPE * (1 + 3 * CUBIC * x * x)) * x);
}

__device__ float softplus_of(float x) { return (x > 0 ? x : x != x ? x : 0) + log1pf(expf(-fabsf(x))); }

// y = f(x), or y = g f(x) if there is a g.
template <class F>
__device__ void map(const float* g, const float* x, float* y, long long n, F f) {
    const long long at = 4 * (blockIdx.x * 256LL + threadIdx.x), left = n - at;
    if (left <= 0) return;
    Four four = load_four(x, at, left);
#pragma unroll
    for (int i = 0; i < 4; i++) four.v[i] = f(four.v[i]);
    if (g) {
        const Four factor = load_four(g, at, left);
#pragma unroll
        for (int i = 0; i < 4; i++) four.v[i] *= factor.v[i];
    }
    store_four(y, at, left, four);
}

extern "C" __global__ void __launch_bounds__(256) silu(const float* x, float* y, long long n) {
    map(nullptr, x, y, n, [](float v) { return silu_of(v); });
}

extern "C" __global__ void __launch_bounds__(256) silu_grad(const float* g, const float* x, float* y, long long n) {
    map(g, x, y, n, [](float v) { return silu_slope(v); });
}

extern "C" __global__ void __launch_bounds__(256) gelu(const float* x, float* y, long long n) {
    map(nullptr, x, y, n, [](float v) { return gelu_of(v); });
}

extern "C" __global__ void __launch_bounds__(256) gelu_grad(const float* g, const float* x, float* y, long long n) {
    map(g, x, y, n, [](float v) { return gelu_slope(v); });
}

extern "C" __global__ void __launch_bounds__(256) softplus(const float* x, float* y, long long n) {
    map(nullptr, x, y, n, [](float v) { return softplus_of(v); });
}
