// Attention of float32 numbers on bf16 tensor cores, and yet about as exact as on float32 units.
//
// New here: nothing but the two ideas together. Rows of scores in a warp's registers, an online softmax and copies that run
// meanwhile: 3_mma.cu. Three parts of q, k and v, and of the weights p, which are split where they lie: split.cuh.
//
// NaN and Inf. Inf times a part that is 0 would be NaN. Each thread looks at the keys and values that it has copied, the barrier that
// is there anyway tells all of it, and a tile with NaN or Inf is summed one by one. (A query with them makes NaN in any case.)
//
// Not yet run on hardware. D, D_V: multiples of 8 up to 128.
#include "attention/split.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define QUERIES (16 * WARPS)
#define KEYS (D > 64 || D_V > 64 ? 16 : 32)  // of a tile

#define DEPTH ((D + 15) / 16 * 16)  // of the first product: D, filled up with 0
#define DEPTH_V ((D_V + 15) / 16 * 16)
#define PITCH (DEPTH + 8)           // numbers from a row of q or k to the next in shared memory
#define PITCH_V (DEPTH_V + 8)
#define TILE (3 * KEYS * (PITCH + PITCH_V))

// As 3_mma.cu, of the parts of q, k and v: (3, n * heads, t, D or D_V).
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_float32(const bf16* q, const bf16* k, const bf16* v, const bool* key_mask, float* o, float* log_sum,
                      long long pairs, int heads, int t_q, int t_k, float scale, bool causal) {
    DYNAMIC_SHARED(bf16, queries);                    // three times QUERIES rows
    bf16* const tiles = queries + 3 * QUERIES * PITCH;  // two of them: parts of keys, then of values
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int blocks_per_pair = (t_q + QUERIES - 1) / QUERIES;
    const long long pair = blockIdx.x / blocks_per_pair;
    // With `causal` the last queries see the most keys; blocks start in order, so let the longest begin.
    const int first_query = (blocks_per_pair - 1 - (int)(blockIdx.x % blocks_per_pair)) * QUERIES;
    const int warps_query = first_query + threadIdx.x / 32 * 16;
    const int i[2] = {warps_query + g, warps_query + g + 8};  // this lane's queries
    const bool* mask = key_mask ? key_mask + pair / heads * t_k : nullptr;
    const int ahead = t_k - t_q;                              // query i sees the keys up to i + ahead
    const int keys_end = causal ? min(t_k, first_query + QUERIES + ahead) : t_k;
    const int tiles_end = keys_end > 0 ? (keys_end + KEYS - 1) / KEYS : 0;
    const float scale_2 = scale * 1.4426950408889634f;        // exp(x) = 2^(x / ln 2)

    auto start = [&](int tile) {
        bf16* const keys = tiles + tile % 2 * TILE;
        start_parts<THREADS, KEYS, DEPTH, D, PITCH>(keys, k + pair * t_k * D, pairs * t_k * D, tile * KEYS, t_k, mask);
        start_parts<THREADS, KEYS, DEPTH_V, D_V, PITCH_V>(keys + 3 * KEYS * PITCH, v + pair * t_k * D_V,
                                                          pairs * t_k * D_V, tile * KEYS, t_k, mask);
    };
    auto sees = [&](int query, int key) {
        return key < t_k && (!causal || key <= query + ahead) && (!mask || mask[key]);
    };

    float sum[D_V / 8][4];
    EACH(n, D_V / 8) EACH(e, 4) sum[n][e] = 0;
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    bool any[2] = {false, false};
    // A score above all before makes it the new largest one, and corrects what was summed.
    auto raise = [&](int h, float most) {
        const float base = most == -INFINITY ? 0.0f : most;  // -inf - -inf would be NaN
        const float correction = exp2_approx(largest[h] - base);
        largest[h] = most;
        total[h] *= correction;
        EACH(n, D_V / 8) EACH(e, 2) sum[n][2 * h + e] *= correction;
        return base;
    };

    if (tiles_end > 0) {
        start_parts<THREADS, QUERIES, DEPTH, D, PITCH>(queries, q + pair * t_q * D, pairs * t_q * D, first_query, t_q,
                                                       nullptr);
        start(0);
        cp_async_commit();
    }
    for (int tile = 0; tile < tiles_end; tile++) {
        cp_async_wait<0>();
        const bf16* const keys = tiles + tile % 2 * TILE;
        const bf16* const values = keys + 3 * KEYS * PITCH;
        const bool odd = has_copied_odd<THREADS, KEYS, DEPTH, PITCH>(keys) ||
                         has_copied_odd<THREADS, KEYS, DEPTH_V, PITCH_V>(values);
        // The tile is there for all, all are done with the tile before, and know whether anything in it is odd.
        const bool one_by_one = __syncthreads_or(odd);
        if (tile + 1 < tiles_end) start(tile + 1);
        cp_async_commit();
        const int first = tile * KEYS;

        if (one_by_one) {
#pragma unroll 1
            for (int key = 0; key < KEYS; key++)
                EACH(h, 2) {
                    if (!sees(i[h], first + key)) continue;
                    any[h] = true;
                    float s = 0;
#pragma unroll 1
                    for (int c = 0; c < D; c++)
                        s += number_at<QUERIES, PITCH>(queries, i[h] - first_query, c) * number_at<KEYS, PITCH>(keys, key, c);
                    s *= scale_2;
                    const float p = exp2_approx(s - raise(h, fmaxf(largest[h], s)));
                    if (t == 0) total[h] += p;  // the row's 4 lanes add theirs up at the end
                    EACH(n, D_V / 8) EACH(e, 2) sum[n][2 * h + e] += p * number_at<KEYS, PITCH_V>(values, key, 8 * n + 2 * t + e);
                }
            continue;
        }

        float s[KEYS / 8][4];
        multiply_rows<DEPTH, PITCH, QUERIES, KEYS>(s, queries + threadIdx.x / 32 * 16 * PITCH, keys);

        // s[n][2 h + e] is the score of query i[h] and key `first` + 8 n + 2 t + e.
        const bool cut = causal && first + KEYS - 1 > warps_query + ahead;  // some queries see more of it than others
        const bool whole = !cut && !mask && first + KEYS <= t_k;
        EACH(n, KEYS / 8) EACH(e, 4) {
            const bool seen = whole || sees(i[e / 2], first + 8 * n + 2 * t + e % 2);
            s[n][e] = seen ? scale_2 * s[n][e] : -INFINITY;
            any[e / 2] |= seen;
        }
        EACH(h, 2) {
            float most = largest[h];
            EACH(n, KEYS / 8) most = fmaxf(most, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
            const float base = raise(h, over_4_lanes_max(most));
            EACH(n, KEYS / 8) EACH(e, 2) {
                s[n][2 * h + e] = exp2_approx(s[n][2 * h + e] - base);
                total[h] += s[n][2 * h + e];
            }
        }
        add_rows<PITCH_V, KEYS>(sum, s, values);
    }
    cp_async_wait<0>();  // the last commit was of nothing

    EACH(h, 2) {
        total[h] = over_4_lanes_sum(total[h]);
        const bool seen = (__ballot_sync(ALL, any[h]) >> 4 * g & 15) != 0;
        if (i[h] >= t_q) continue;
        if (log_sum && t == 0) log_sum[pair * t_q + i[h]] = (largest[h] + log2f(total[h])) * 0.6931471805599453f;
        float* row = o + (pair * t_q + i[h]) * D_V + 2 * t;
        EACH(n, D_V / 8) {
            const float2 two = {seen ? sum[n][2 * h] / total[h] : 0.0f, seen ? sum[n][2 * h + 1] / total[h] : 0.0f};
            *reinterpret_cast<float2*>(row + 8 * n) = two;
        }
    }
}
