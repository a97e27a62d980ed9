// The gradients of float32 attention on bf16 tensor cores, and yet about as exact as on float32 units.
//
// New here: nothing but the two ideas together. Own rows, tiles of the others, p and ds in the layout that the next products want, L
// and D: 3_mma_backward.cu. Three parts of q, k, v and g, and of p and ds, which are split where they lie: split.cuh. Tiles with NaN
// or Inf are summed one by one: 3_split.cu. Parts need so many registers that dk and dv have a kernel each:
//
//     dq, dk:  s = own a . others' a      dp = own b . others' b      p = exp(scale s - L)      ds = p (dp - D)
//              own a's gradient = scale sum of ds . others' a
//     dv:      s, p,  own b's gradient = sum of p . others' b
//
// with a the rows of D numbers (q or k) and b those of D_V (g or v). So s is made three times and dp twice: 8 products, not 5.
//
// Not yet run on hardware. D, D_V: multiples of 8 up to 128.
#include "attention/split.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define ROWS (16 * WARPS)                    // of a block
#define STEP (D > 64 || D_V > 64 ? 16 : 32)  // rows of a tile

#define DEPTH ((D + 15) / 16 * 16)           // of a product over the columns: filled up with 0
#define DEPTH_V ((D_V + 15) / 16 * 16)
#define PITCH (DEPTH + 8)                    // numbers from row to row in shared memory: an odd number of 16-byte pieces
#define PITCH_V (DEPTH_V + 8)
#define TILE (3 * STEP * (PITCH + PITCH_V))

struct Rows {  // the parts of `all` rows of q or k, and of g or v; those of this pair of sample and head begin with `first`
    const bf16 *a, *b;
    long long first, all;

    // Start to copy COUNT of them, from number `from` of this pair's `rows` on, to `tile`: the parts of a, then those of b.
    template <int COUNT>
    __device__ __forceinline__ void start(bf16* tile, int from, int rows, const bool* mask) const {
        start_parts<THREADS, COUNT, DEPTH, D, PITCH>(tile, a + first * D, all * D, from, rows, mask);
        start_parts<THREADS, COUNT, DEPTH_V, D_V, PITCH_V>(tile + 3 * COUNT * PITCH, b + first * D_V, all * D_V, from, rows,
                                                           mask);
    }
};

// Whether this thread has copied NaN or Inf to such a tile.
template <int COUNT>
__device__ __forceinline__ bool has_copied_odd_rows(const bf16* tile) {
    return has_copied_odd<THREADS, COUNT, DEPTH, PITCH>(tile) ||
           has_copied_odd<THREADS, COUNT, DEPTH_V, PITCH_V>(tile + 3 * COUNT * PITCH);
}

// The `gradient` of the own a times `factor`, or OF_B of the own b. FOR_KEYS: the own rows are k and v, the others q and g.
template <bool FOR_KEYS, bool OF_B>
__device__ __forceinline__ void find_gradient(const bf16* q, const bf16* k, const bf16* v, const bf16* g, const float* log_sum,
                                              const float* delta, const bool* key_mask, float* gradient, float factor,
                                              long long pairs, int heads, int t_q, int t_k, float scale, bool causal) {
    constexpr int WIDTH = OF_B ? D_V : D, ROW = OF_B ? PITCH_V : PITCH;  // of what is summed
    DYNAMIC_SHARED(bf16, own);                               // three times ROWS rows of a, then of b
    bf16* const tiles = own + 3 * ROWS * (PITCH + PITCH_V);  // two of them: parts of STEP rows of a, then of b
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, line = lane / 4, t = lane % 4;
    const int own_rows = FOR_KEYS ? t_k : t_q, other_rows = FOR_KEYS ? t_q : t_k;
    const int blocks_per_pair = (own_rows + ROWS - 1) / ROWS, number = (int)(blockIdx.x % blocks_per_pair);
    const long long pair = blockIdx.x / blocks_per_pair;
    // With `causal` the last queries see the most keys; blocks start in order, so let the longest begin.
    const int first_own = (FOR_KEYS ? number : blocks_per_pair - 1 - number) * ROWS;
    const Rows queries = {q, g, pair * t_q, pairs * t_q}, keys = {k, v, pair * t_k, pairs * t_k};
    const Rows &mine = FOR_KEYS ? keys : queries, &others = FOR_KEYS ? queries : keys;
    const bool* const mask = key_mask ? key_mask + pair / heads * t_k : nullptr;
    const int warps_row = first_own + 16 * warp, row[2] = {warps_row + line, warps_row + line + 8};  // this lane's
    const int ahead = t_k - t_q;                             // query i sees the keys up to i + ahead
    const int begin = FOR_KEYS && causal ? max(0, first_own - ahead) / STEP * STEP : 0;
    const int end = !FOR_KEYS && causal ? min(t_k, first_own + ROWS + ahead) : other_rows;
    const float scale_2 = scale * 1.4426950408889634f;       // exp(x) = 2^(x / ln 2)
    bf16* const own_b = own + 3 * ROWS * PITCH;
    log_sum += pair * t_q;
    delta += pair * t_q;
    gradient += pair * own_rows * WIDTH;

    auto start = [&](int first) {
        others.start<STEP>(tiles + first / STEP % 2 * TILE, first, other_rows, FOR_KEYS ? nullptr : mask);
    };
    auto sees = [&](int i, int j) {
        return i < t_q && j < t_k && (!causal || j <= i + ahead) && (!mask || mask[j]);
    };
    auto hides = [&](int own_row, int other) { return FOR_KEYS ? !sees(other, own_row) : !sees(own_row, other); };
    // p from s, and ds from p and dp, of the own row row[h] and one of the other side that it sees.
    float own_log_sum[2] = {0, 0}, own_delta[2] = {0, 0};
    auto weight = [&](float s, int h, int other) {
        const float base = FOR_KEYS ? log_sum[other] : own_log_sum[h];
        return exp2_approx(scale_2 * s - 1.4426950408889634f * base);
    };
    auto slope = [&](float p, float dp, int h, int other) {
        return p * (dp - (FOR_KEYS ? delta[other] : own_delta[h]));
    };

    float sum[WIDTH / 8][4];
    EACH(n, WIDTH / 8) EACH(e, 4) sum[n][e] = 0;
    if (!FOR_KEYS)
        EACH(h, 2)
            if (row[h] < t_q) own_log_sum[h] = log_sum[row[h]], own_delta[h] = delta[row[h]];

    if (begin < end) {
        mine.start<ROWS>(own, first_own, own_rows, FOR_KEYS ? mask : nullptr);
        start(begin);
        cp_async_commit();
    }
    bool odd_own = false;
    for (int first = begin; first < end; first += STEP) {
        cp_async_wait<0>();
        const bf16* const tile_a = tiles + first / STEP % 2 * TILE;
        const bf16* const tile_b = tile_a + 3 * STEP * PITCH;
        const bf16* const summed = OF_B ? tile_b : tile_a;
        if (first == begin) odd_own = has_copied_odd_rows<ROWS>(own);
        // The tile is there for all, all are done with the tile before, and know whether anything in it is odd.
        const bool one_by_one = __syncthreads_or(odd_own || has_copied_odd_rows<STEP>(tile_a));
        if (first + STEP < end) start(first + STEP);
        cp_async_commit();

        if (one_by_one) {
#pragma unroll 1
            for (int r = 0; r < STEP; r++)
                EACH(h, 2) {
                    if (hides(row[h], first + r)) continue;
                    const int own_row = 16 * warp + line + 8 * h;
                    float s = 0, dp = 0;
#pragma unroll 1
                    for (int c = 0; c < D; c++)
                        s += number_at<ROWS, PITCH>(own, own_row, c) * number_at<STEP, PITCH>(tile_a, r, c);
                    float w = weight(s, h, first + r);
                    if (!OF_B) {
#pragma unroll 1
                        for (int c = 0; c < D_V; c++)
                            dp += number_at<ROWS, PITCH_V>(own_b, own_row, c) * number_at<STEP, PITCH_V>(tile_b, r, c);
                        w = slope(w, dp, h, first + r);
                    }
                    EACH(n, WIDTH / 8) EACH(e, 2)
                        sum[n][2 * h + e] += w * number_at<STEP, ROW>(summed, r, 8 * n + 2 * t + e);
                }
            continue;
        }

        // Whether `causal` hides some of this from some of the warp's rows, or nothing is hidden at all.
        const bool cut = causal && (FOR_KEYS ? warps_row + 15 > first + ahead : first + STEP - 1 > warps_row + ahead);
        const bool whole = !cut && !mask && first + STEP <= other_rows;
        auto hidden = [&](int n, int e) { return !whole && hides(row[e / 2], first + 8 * n + 2 * t + e % 2); };
        float w[STEP / 8][4];  // p, then ds
        multiply_rows<DEPTH, PITCH, ROWS, STEP>(w, own + 16 * warp * PITCH, tile_a);
        EACH(n, STEP / 8) EACH(e, 4)
            w[n][e] = hidden(n, e) ? 0.0f : weight(w[n][e], e / 2, first + 8 * n + 2 * t + e % 2);
        if constexpr (!OF_B) {
            float dp[STEP / 8][4];
            multiply_rows<DEPTH_V, PITCH_V, ROWS, STEP>(dp, own_b + 16 * warp * PITCH_V, tile_b);
            EACH(n, STEP / 8) EACH(e, 4)
                w[n][e] = hidden(n, e) ? 0.0f : slope(w[n][e], dp[n][e], e / 2, first + 8 * n + 2 * t + e % 2);
        }
        add_rows<ROW, STEP>(sum, w, summed);
    }
    cp_async_wait<0>();  // the last commit was of nothing

    EACH(h, 2) {
        if (row[h] >= own_rows) continue;
        float* const to = gradient + (long long)row[h] * WIDTH + 2 * t;
        EACH(n, WIDTH / 8)
            *reinterpret_cast<float2*>(to + 8 * n) = float2{factor * sum[n][2 * h], factor * sum[n][2 * h + 1]};
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, STEP == 16 ? 1 : 2)
    grad_q_float32(const bf16* q, const bf16* k, const bf16* v, const bf16* g, const float* log_sum, const float* delta,
                   const bool* key_mask, float* dq, long long pairs, int heads, int t_q, int t_k, float scale, bool causal) {
    find_gradient<false, false>(q, k, v, g, log_sum, delta, key_mask, dq, scale, pairs, heads, t_q, t_k, scale, causal);
}

extern "C" __global__ void __launch_bounds__(THREADS, STEP == 16 ? 1 : 2)
    grad_k_float32(const bf16* q, const bf16* k, const bf16* v, const bf16* g, const float* log_sum, const float* delta,
                   const bool* key_mask, float* dk, long long pairs, int heads, int t_q, int t_k, float scale, bool causal) {
    find_gradient<true, false>(q, k, v, g, log_sum, delta, key_mask, dk, scale, pairs, heads, t_q, t_k, scale, causal);
}

extern "C" __global__ void __launch_bounds__(THREADS, STEP == 16 ? 1 : 2)
    grad_v_float32(const bf16* q, const bf16* k, const bf16* v, const bf16* g, const float* log_sum, const float* delta,
                   const bool* key_mask, float* dv, long long pairs, int heads, int t_q, int t_k, float scale, bool causal) {
    find_gradient<true, true>(q, k, v, g, log_sum, delta, key_mask, dv, 1.0f, pairs, heads, t_q, t_k, scale, causal);
}
