// The gradients of attention without a matrix of probabilities (Dao et al. 2022, arXiv 2205.14135, algorithm 4; Dao 2023,
// arXiv 2307.08691). Definition, L and D are those of 1_naive_backward.cu.
//
// New here: a probability is computed twice instead of kept. `grad_q` goes along the keys for a block of queries, `grad_kv`
// along the queries for a block of keys, and both make p[i, j] = exp(s[i, j] - L[i]) from q and k where they need it. Each
// gradient belongs to one block that adds to it in a fixed order: no atomic additions, so the same bits every time. (One
// kernel for all three would make 5 instead of 7 products of t_q * t_k numbers, but blocks would have to share dq.)
//
// New too: a row is shared by LANES threads next to each other. Each holds every LANES-th run of 4 numbers of q, g, dq (or
// of k, v, dk, dv) in registers, makes its part of a dot product, and shuffles add the parts. So rows of 256 numbers fit
// into registers, and what a block reads from shared memory it reads 4 numbers at a time. D and D_V are compile-time sizes.
#include "lib/fours.cuh"
#include "lib/reduce.cuh"

#define LANES (D > 128 || D_V > 128 ? 8 : 4)
#define THREADS 128
#define ROWS (THREADS / LANES)                // queries, or keys, of a block
#define STEP 16                               // keys, or queries, in a tile in shared memory
#define RUN (4 * LANES)                       // neighbouring numbers that the lanes of a row hold, 4 each
#define RUNS(d) (((d) + RUN - 1) / RUN)       // of a row: 0 fills up the last one
#define ALL 0xffffffffu

// Rows in shared memory: tile[r][c] = x[r, c] for the first `count` rows and `columns` columns, else 0.
template <int WIDTH>
__device__ __forceinline__ void bring(float (*tile)[WIDTH], const float* x, int count, int columns) {
    for (int at = threadIdx.x; at < STEP * WIDTH; at += THREADS) {
        const int r = at / WIDTH, c = at % WIDTH;
        tile[r][c] = r < count && c < columns ? x[(long long)r * columns + c] : 0.0f;
    }
}

// A lane's share of a row: runs[n] has the columns RUN * n + 4 * lane and the three after it.
template <int N>
__device__ __forceinline__ void load(Four (&runs)[N], const float* row, bool there, int columns) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int c = RUN * n + 4 * (threadIdx.x % LANES) + e;
            runs[n].v[e] = there && c < columns ? row[c] : 0.0f;
        }
}

template <int N>
__device__ __forceinline__ void store(const Four (&runs)[N], float* row, float factor, int columns) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int c = RUN * n + 4 * (threadIdx.x % LANES) + e;
            if (c < columns) row[c] = factor * runs[n].v[e];
        }
}

__device__ __forceinline__ const Four& run_of(const float* row, int n) {
    return *reinterpret_cast<const Four*>(row + RUN * n + 4 * (threadIdx.x % LANES));
}

// The dot product of the lanes' row with one in shared memory. All lanes of the warp must call; all of a row get the sum.
template <int N>
__device__ __forceinline__ float dot(const Four (&runs)[N], const float* row) {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < N; n++) {
        const Four other = run_of(row, n);
#pragma unroll
        for (int e = 0; e < 4; e++) sum += runs[n].v[e] * other.v[e];
    }
#pragma unroll
    for (int bit = 1; bit < LANES; bit *= 2) sum += __shfl_xor_sync(ALL, sum, bit);
    return sum;
}

// runs += factor * row
template <int N>
__device__ __forceinline__ void add(Four (&runs)[N], float factor, const float* row) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        const Four other = run_of(row, n);
#pragma unroll
        for (int e = 0; e < 4; e++) runs[n].v[e] += factor * other.v[e];
    }
}

// D, a warp for each query.
extern "C" __global__ void __launch_bounds__(THREADS) deltas(const float* g, const float* o, float* delta, long long rows) {
    const long long row = blockIdx.x * (long long)(THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    float sum = 0;
    for (int c = threadIdx.x % 32; c < D_V; c += 32) sum += g[row * D_V + c] * o[row * D_V + c];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[row] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    grad_q(const float* q, const float* k, const float* v, const float* g, const float* log_sum, const float* delta,
           const bool* key_mask, float* dq, int heads, int t_q, int t_k, float scale, bool causal) {
    __shared__ __align__(16) float keys[STEP][RUN * RUNS(D)];
    __shared__ __align__(16) float values[STEP][RUN * RUNS(D_V)];
    const int blocks_per_pair = (t_q + ROWS - 1) / ROWS;
    const long long pair = blockIdx.x / blocks_per_pair;
    const int first_i = blockIdx.x % blocks_per_pair * ROWS, i = first_i + threadIdx.x / LANES;
    const long long row = pair * t_q + i;
    const bool* mask = key_mask ? key_mask + pair / heads * t_k : nullptr;
    const int last = causal ? i + t_k - t_q : t_k - 1;  // the last key that this query may see
    const int end = causal ? min(t_k, first_i + ROWS + t_k - t_q) : t_k;  // one after the last that any here may see

    Four query[RUNS(D)], gradient[RUNS(D_V)], sum[RUNS(D)];
    load(query, q + row * D, i < t_q, D);
    load(gradient, g + row * D_V, i < t_q, D_V);
    load(sum, q, false, D);  // 0
    const float my_log_sum = i < t_q ? log_sum[row] : 0.0f, my_delta = i < t_q ? delta[row] : 0.0f;

    for (int first = 0; first < end; first += STEP) {
        const int count = min(STEP, t_k - first);
        __syncthreads();  // all are done with the tile before
        bring(keys, k + (pair * t_k + first) * D, count, D);
        bring(values, v + (pair * t_k + first) * D_V, count, D_V);
        __syncthreads();  // the tile is there
        for (int j = 0; j < count; j++) {
            if (mask && !mask[first + j]) continue;  // for all threads alike
            const float score = scale * dot(query, keys[j]), dp = dot(gradient, values[j]);
            if (first + j <= last) add(sum, expf(score - my_log_sum) * (dp - my_delta), keys[j]);
        }
    }
    if (i < t_q) store(sum, dq + row * D, scale, D);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    grad_kv(const float* q, const float* k, const float* v, const float* g, const float* log_sum, const float* delta,
            const bool* key_mask, float* dk, float* dv, int heads, int t_q, int t_k, float scale, bool causal) {
    __shared__ __align__(16) float queries[STEP][RUN * RUNS(D)];
    __shared__ __align__(16) float gradients[STEP][RUN * RUNS(D_V)];
    __shared__ float log_sums[STEP], tile_deltas[STEP];
    const int blocks_per_pair = (t_k + ROWS - 1) / ROWS;
    const long long pair = blockIdx.x / blocks_per_pair;
    const int first_j = blockIdx.x % blocks_per_pair * ROWS, j = first_j + threadIdx.x / LANES;
    const long long row = pair * t_k + j;
    const bool seen = j < t_k && (!key_mask || key_mask[pair / heads * t_k + j]);
    const int earliest = causal ? j - (t_k - t_q) : 0;  // the first query that may see this key
    const int begin = causal ? max(0, first_j - (t_k - t_q)) / STEP * STEP : 0;  // no later than that of any key here

    Four key[RUNS(D)], value[RUNS(D_V)], sum_k[RUNS(D)], sum_v[RUNS(D_V)];
    load(key, k + row * D, j < t_k, D);
    load(value, v + row * D_V, j < t_k, D_V);
    load(sum_k, k, false, D);  // 0
    load(sum_v, v, false, D_V);

    for (int first = begin; first < t_q; first += STEP) {
        const int count = min(STEP, t_q - first), thread = threadIdx.x;
        __syncthreads();  // all are done with the tile before
        bring(queries, q + (pair * t_q + first) * D, count, D);
        bring(gradients, g + (pair * t_q + first) * D_V, count, D_V);
        if (thread < count) {
            log_sums[thread] = log_sum[pair * t_q + first + thread];
            tile_deltas[thread] = delta[pair * t_q + first + thread];
        }
        __syncthreads();  // the tile is there
        for (int i = 0; i < count; i++) {
            const float score = scale * dot(key, queries[i]), dp = dot(value, gradients[i]);
            if (!seen || first + i < earliest) continue;
            const float p = expf(score - log_sums[i]);
            add(sum_v, p, gradients[i]);
            add(sum_k, p * (dp - tile_deltas[i]), queries[i]);
        }
    }
    if (j >= t_k) return;
    store(sum_k, dk + row * D, scale, D);
    store(sum_v, dv + row * D_V, 1, D_V);
}
