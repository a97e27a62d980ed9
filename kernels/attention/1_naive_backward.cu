// The gradients of attention as they are written on paper. Definition, shapes and masks are those of 1_naive.cu; g is the
// gradient of o, and with p[i, j] the probabilities and D[i] = sum_c g[i, c] o[i, c]:
//
//     ds[i, j] = p[i, j] (sum_c g[i, c] v[j, c] - D[i])       (the derivative of the softmax)
//     dq[i, c] = scale * sum_j ds[i, j] k[j, c]
//     dk[j, c] = scale * sum_i ds[i, j] q[i, c]
//     dv[j, c] = sum_i p[i, j] g[i, c]
//
// The forward pass need not keep p: one number for each query, the logarithm of its sum, gives it back (Dao et al. 2022,
// arXiv 2205.14135, section 3.1):
//
//     L[i] = log sum_j exp(s[i, j])        p[i, j] = exp(s[i, j] - L[i])
//
// p and ds are one matrix of t_q * t_k numbers each for each pair of a sample and a head. The next rung needs neither.
#include "lib/cuda.cuh"

__device__ bool sees(const bool* key_mask, long long sample, int i, int j, int t_q, int t_k, bool causal) {
    if (causal && j > i + t_k - t_q) return false;
    return !key_mask || key_mask[sample * t_k + j];
}

__device__ float dot(const float* a, const float* b, int d) {
    float sum = 0;
    for (int c = 0; c < d; c++) sum += a[c] * b[c];
    return sum;
}

// L, one thread for each query, for whoever has not kept it. For a query that sees nothing it is -inf, and not used.
extern "C" __global__ void log_sums(const float* q, const float* k, const bool* key_mask, float* log_sum,
                                    long long pairs, int heads, int t_q, int t_k, int d, float scale, bool causal) {
    const long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row >= pairs * t_q) return;
    const long long pair = row / t_q;
    const int i = row % t_q;
    float largest = -INFINITY, sum = 0;
    for (int j = 0; j < t_k; j++)
        if (sees(key_mask, pair / heads, i, j, t_q, t_k, causal))
            largest = fmaxf(largest, scale * dot(q + row * d, k + (pair * t_k + j) * d, d));
    for (int j = 0; j < t_k; j++)
        if (sees(key_mask, pair / heads, i, j, t_q, t_k, causal))
            sum += expf(scale * dot(q + row * d, k + (pair * t_k + j) * d, d) - largest);
    log_sum[row] = largest + logf(sum);
}

// D, one thread for each query.
extern "C" __global__ void deltas(const float* g, const float* o, float* delta, long long rows, int d_v) {
    const long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row >= rows) return;
    delta[row] = dot(g + row * d_v, o + row * d_v, d_v);
}

// One thread for each p and ds. They stay unwritten, and unread, for keys that a query does not see.
extern "C" __global__ void weights(const float* q, const float* k, const float* v, const float* g, const float* log_sum,
                                   const float* delta, const bool* key_mask, float* p, float* ds, long long pairs,
                                   int heads, int t_q, int t_k, int d, int d_v, float scale, bool causal) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= pairs * t_q * t_k) return;
    const int j = at % t_k, i = at / t_k % t_q;
    const long long row = at / t_k, pair = row / t_q, key = pair * t_k + j;
    if (!sees(key_mask, pair / heads, i, j, t_q, t_k, causal)) return;
    p[at] = expf(scale * dot(q + row * d, k + key * d, d) - log_sum[row]);
    ds[at] = p[at] * (dot(g + row * d_v, v + key * d_v, d_v) - delta[row]);
}

// result[i, c] = factor * sum_j weight[i, j] x[j, c], one thread for each: dq.
extern "C" __global__ void over_keys(const float* weight, const float* x, const bool* key_mask, float* result,
                                     long long pairs, int heads, int t_q, int t_k, int d, float factor, bool causal) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= pairs * t_q * d) return;
    const int c = at % d, i = at / d % t_q;
    const long long row = at / d, pair = row / t_q;
    float sum = 0;
    for (int j = 0; j < t_k; j++)
        if (sees(key_mask, pair / heads, i, j, t_q, t_k, causal)) sum += weight[row * t_k + j] * x[(pair * t_k + j) * d + c];
    result[at] = factor * sum;
}

// result[j, c] = factor * sum_i weight[i, j] x[i, c], one thread for each: dk and dv.
extern "C" __global__ void over_queries(const float* weight, const float* x, const bool* key_mask, float* result,
                                        long long pairs, int heads, int t_q, int t_k, int d, float factor, bool causal) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= pairs * t_k * d) return;
    const int c = at % d, j = at / d % t_k;
    const long long pair = at / d / t_k;
    float sum = 0;
    for (int i = 0; i < t_q; i++)
        if (sees(key_mask, pair / heads, i, j, t_q, t_k, causal))
            sum += weight[(pair * t_q + i) * t_k + j] * x[(pair * t_q + i) * d + c];
    result[at] = factor * sum;
}
