// Attention in one pass over the keys, without the matrix of scores (Milakov & Gimelshein 2018, arXiv 1805.02867;
// Dao et al. 2022, arXiv 2205.14135). Definition, shapes and masks are those of rung 1.
//
// New here: the online softmax. After some of the keys a query knows the largest score so far, m, and the sums
//
//     l = sum_j exp(s_j - m)            o = sum_j exp(s_j - m) v_j
//
// A key with a score above m makes it the new m', and both sums are corrected by the one factor exp(m - m'). After the
// last key the result is o / l, and L = m + log l. Nothing of size t_q * t_k exists.
//
// A block has QUERIES threads, one query each, whose q and o lie in registers: D and D_V are compile-time sizes. The
// block's threads carry tiles of KEYS keys and values into shared memory, where all of them read the same number at the
// same time. A thread has at most 255 registers, so heads of 128 numbers, q and o together 256, spill to local memory:
// correct, but slower. Rung 3, whose sums are spread over a warp, has room.
#include "lib/cuda.cuh"

#define QUERIES 64
#define KEYS 16

extern "C" __global__ void __launch_bounds__(QUERIES) attention(const float* q, const float* k, const float* v,
                                                                const bool* key_mask, float* o, float* log_sum,
                                                                int heads, int t_q, int t_k, float scale, bool causal) {
    __shared__ float keys[KEYS][D];
    __shared__ float values[KEYS][D_V];
    const int thread = threadIdx.x;
    const int blocks_per_pair = (t_q + QUERIES - 1) / QUERIES;
    const long long pair = blockIdx.x / blocks_per_pair;
    const int i = blockIdx.x % blocks_per_pair * QUERIES + thread;
    const bool* mask = key_mask ? key_mask + pair / heads * t_k : nullptr;
    const int last = causal ? i + t_k - t_q : t_k - 1;  // the last key that this query may see

    float query[D], sum[D_V];
    for (int c = 0; c < D; c++) query[c] = i < t_q ? q[(pair * t_q + i) * D + c] : 0.0f;
    for (int c = 0; c < D_V; c++) sum[c] = 0;
    float largest = -INFINITY, total = 0;
    bool any = false;

    for (int first = 0; first < t_k; first += KEYS) {
        const int count = min(KEYS, t_k - first);
        __syncthreads();  // all are done with the tile before
        for (int at = thread; at < count * D; at += QUERIES) keys[at / D][at % D] = k[(pair * t_k + first) * D + at];
        for (int at = thread; at < count * D_V; at += QUERIES)
            values[at / D_V][at % D_V] = v[(pair * t_k + first) * D_V + at];
        __syncthreads();  // the tile is there
        if (i >= t_q) continue;
        for (int j = 0; j < count; j++) {
            if (first + j > last || (mask && !mask[first + j])) continue;
            float score = 0;
            for (int c = 0; c < D; c++) score += query[c] * keys[j][c];
            score *= scale;
            if (!any || !(score <= largest)) {  // a new largest one, or NaN
                const float correction = any ? expf(largest - score) : 0.0f;
                total *= correction;
                for (int c = 0; c < D_V; c++) sum[c] *= correction;
                largest = score;
                any = true;
            }
            // A score of -inf weighs nothing, also while there is no larger one, when -inf - -inf would be NaN.
            const float weight = score == -INFINITY ? 0.0f : expf(score - largest);
            total += weight;
            for (int c = 0; c < D_V; c++) sum[c] += weight * values[j][c];
        }
    }
    if (i >= t_q) return;
    if (log_sum) log_sum[pair * t_q + i] = largest + logf(total);
    for (int c = 0; c < D_V; c++) o[(pair * t_q + i) * D_V + c] = any ? sum[c] / total : 0.0f;
}
