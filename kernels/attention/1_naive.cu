// Attention as it is written on paper, three steps that each fill a whole matrix:
//
//     s[i, j] = scale * sum_c q[i, c] k[j, c]        the keys j that query i may attend to (Vaswani et al. 2017, eq. 1)
//     p[i, j] = exp(s[i, j] - max_j s[i, j]) / sum_j exp(s[i, j] - max_j s[i, j])
//     o[i, c] = sum_j p[i, j] v[j, c]
//
// for each of n * heads pairs of a sample and a head: q (n, heads, t_q, d), k (n, heads, t_k, d), v (n, heads, t_k, d_v).
// With `causal`, query i sees the keys j <= i + t_k - t_q; key_mask (n, t_k), if it is not null, says which keys exist.
// Keys and values that are hidden are never touched, so a NaN in them does not matter. A query that sees nothing gets 0.
//
// Whoever needs gradients asks for log_sum (n, heads, t_q), L[i] = log sum_j exp(s[i, j]), -inf for a query that sees
// nothing: with it p[i, j] = exp(s[i, j] - L[i]) can be computed again. Null otherwise.
//
// s and p are one matrix of t_q * t_k numbers for each pair, which goes to memory and back between the steps: with 4096
// queries and keys that is 64 MB written and read for each of them. The next rung needs no such matrix.
#include "lib/cuda.cuh"

__device__ bool sees(const bool* key_mask, long long sample, int i, int j, int t_q, int t_k, bool causal) {
    if (causal && j > i + t_k - t_q) return false;
    return !key_mask || key_mask[sample * t_k + j];
}

// One thread for each score.
extern "C" __global__ void scores(const float* q, const float* k, const bool* key_mask, float* s, long long pairs,
                                  int heads, int t_q, int t_k, int d, float scale, bool causal) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= pairs * t_q * t_k) return;
    const int j = at % t_k, i = at / t_k % t_q;
    const long long pair = at / t_k / t_q;
    if (!sees(key_mask, pair / heads, i, j, t_q, t_k, causal)) return;  // s stays unwritten there, and unread
    const float* query = q + (pair * t_q + i) * d;
    const float* key = k + (pair * t_k + j) * d;
    float sum = 0;
    for (int c = 0; c < d; c++) sum += query[c] * key[c];
    s[at] = scale * sum;
}

// One thread for each row of s, which it turns into a row of p; L on the way.
extern "C" __global__ void softmax(const bool* key_mask, float* s, float* log_sum, long long pairs, int heads,
                                   int t_q, int t_k, bool causal) {
    const long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row >= pairs * t_q) return;
    const int i = row % t_q;
    const long long sample = row / t_q / heads;
    float* scores = s + row * t_k;
    float largest = -INFINITY;
    for (int j = 0; j < t_k; j++)
        if (sees(key_mask, sample, i, j, t_q, t_k, causal)) largest = fmaxf(largest, scores[j]);
    float sum = 0;
    for (int j = 0; j < t_k; j++)
        if (sees(key_mask, sample, i, j, t_q, t_k, causal)) {
            scores[j] = expf(scores[j] - largest);
            sum += scores[j];
        }
    for (int j = 0; j < t_k; j++)
        if (sees(key_mask, sample, i, j, t_q, t_k, causal)) scores[j] /= sum;
    if (log_sum) log_sum[row] = largest + logf(sum);
}

// One thread for each number of the result.
extern "C" __global__ void weighted_sum(const float* p, const float* v, const bool* key_mask, float* o, long long pairs,
                                        int heads, int t_q, int t_k, int d_v, bool causal) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= pairs * t_q * d_v) return;
    const int c = at % d_v, i = at / d_v % t_q;
    const long long pair = at / d_v / t_q;
    float sum = 0;
    for (int j = 0; j < t_k; j++)
        if (sees(key_mask, pair / heads, i, j, t_q, t_k, causal))
            sum += p[(pair * t_q + i) * t_k + j] * v[(pair * t_k + j) * d_v + c];
    o[at] = sum;
}
