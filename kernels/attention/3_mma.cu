// Attention by matrix products of whole warps, with bfloat16 queries, keys and values (Dao 2023, FlashAttention-2, arXiv
// 2307.08691). Definition, shapes and masks are those of rung 1, the online softmax is that of rung 2.
//
// New here: tensor cores. Each of a block's WARPS warps has 16 queries. One mma.sync multiplies a 16 x 16 by a 16 x 8 matrix
// whose elements are spread over the warp's registers as lib/ptx.cuh draws it: lane 4 g + t holds elements of the rows g and
// g + 8. Scores come out in just the layout in which the second product wants its left operand, so the weights p never
// leave their registers; a row's maximum and sum are those of the 4 lanes that share it, 2 shuffles away.
//
// New too: copies that run meanwhile. Keys and values come in tiles of KEYS, of which shared memory holds two: cp.async
// brings the next tile while this one is multiplied. One barrier for each tile says both that it is there and that nobody
// needs the one before any more. Rows are an odd number of 16-byte pieces apart, so 8 rows never meet at the same banks.
//
// Hidden keys. A hidden score becomes -inf and its weight 0, but 0 * NaN is NaN in a matrix product. So a key that
// key_mask hides is not read at all, its row is filled with 0. That cannot be done for a key that `causal` hides from some
// queries of a warp and shows to others: a tile with such keys and with NaN or Inf among its values is summed one by one.
//
// Numbers. Products of bfloat16 are exact in float, and sums are float. Only the weights are rounded to bfloat16 before
// they multiply v, each by at most 2^-8 of itself; their own sum is made before. D, D_V: multiples of 8 up to 256.
#include "attention/rows.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define QUERIES (16 * WARPS)

#define DEPTH ((D + 15) / 16 * 16)         // of the first product: D, filled up with 0
#define PITCH (DEPTH + 8)                  // numbers from a row of q or k to the next in shared memory
#define PITCH_V ((D_V + 15) / 16 * 16 + 8)

// Whether a tile of values has a NaN or Inf; the same answer for all lanes.
__device__ bool any_odd(const bf16* values, int lane) {
    bool odd = false;
    for (int at = lane; at < KEYS * (D_V / 8); at += 32) {
        const uint4 eight = *reinterpret_cast<const uint4*>(values + at / (D_V / 8) * PITCH_V + at % (D_V / 8) * 8);
        odd |= any_odd(eight);
    }
    return __any_sync(ALL, odd);
}

// At least 2 blocks to a multiprocessor: without that number the assembler spills registers to fit more of them.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention(const bf16* q, const bf16* k, const bf16* v,
                                                                   const bool* key_mask, float* o, float* log_sum,
                                                                   int heads, int t_q, int t_k, float scale,
                                                                   bool causal) {
    DYNAMIC_SHARED(bf16, queries);                   // QUERIES rows
    bf16* const tiles = queries + QUERIES * PITCH;   // twice KEYS rows of keys and KEYS rows of values
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
        bf16* const keys = tiles + tile % 2 * KEYS * (PITCH + PITCH_V);
        start_tile<THREADS, KEYS, DEPTH, D, PITCH>(keys, k + pair * t_k * D, tile * KEYS, t_k, mask);
        start_tile<THREADS, KEYS, PITCH_V - 8, D_V, PITCH_V>(keys + KEYS * PITCH, v + pair * t_k * D_V, tile * KEYS, t_k, mask);
    };
    auto sees = [&](int query, int key) {
        return key < t_k && (!causal || key <= query + ahead) && (!mask || mask[key]);
    };

    float sum[D_V / 8][4];
    for (int n = 0; n < D_V / 8; n++)
        for (int e = 0; e < 4; e++) sum[n][e] = 0;
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    bool any[2] = {false, false};

    if (tiles_end > 0) {
        start_tile<THREADS, QUERIES, DEPTH, D, PITCH>(queries, q + pair * t_q * D, first_query, t_q, nullptr);
        start(0);
        cp_async_commit();
    }
    for (int tile = 0; tile < tiles_end; tile++) {
        cp_async_wait<0>();
        __syncthreads();  // the tile is there for all, and all are done with the tile before
        if (tile + 1 < tiles_end) start(tile + 1);
        cp_async_commit();
        const bf16* const keys = tiles + tile % 2 * KEYS * (PITCH + PITCH_V);
        const bf16* const values = keys + KEYS * PITCH;

        // s = q k^T
        float s[KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
            for (int e = 0; e < 4; e++) s[n][e] = 0;
#pragma unroll
        for (int c = 0; c < DEPTH; c += 16) {
            unsigned a[4];
            ldmatrix(a, queries + (threadIdx.x / 32 * 16 + lane % 16) * PITCH + c + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < KEYS / 8; n += 2) {
                unsigned b[4];
                ldmatrix(b, keys + (n * 8 + lane / 16 * 8 + lane % 8) * PITCH + c + lane / 8 % 2 * 8);
                mma_bf16(s[n], a, b[0], b[1]);
                mma_bf16(s[n + 1], a, b[2], b[3]);
            }
        }

        // s[n][2 h + e] is the score of query i[h] and key `first` + 8 n + 2 t + e.
        const int first = tile * KEYS;
        const bool cut = causal && first + KEYS - 1 > warps_query + ahead;  // some queries see more of it than others
        const bool whole = !cut && !mask && first + KEYS <= t_k;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const bool seen = whole || sees(i[e / 2], first + 8 * n + 2 * t + e % 2);
                s[n][e] = seen ? scale_2 * s[n][e] : -INFINITY;
                any[e / 2] |= seen;
            }

        // The online softmax of rung 2, a tile at a time.
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = largest[h];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
            most = over_4_lanes_max(most);
            const float base = most == -INFINITY ? 0.0f : most;  // -inf - -inf would be NaN
            const float correction = exp2_approx(largest[h] - base);
            largest[h] = most;
            total[h] *= correction;
#pragma unroll
            for (int n = 0; n < D_V / 8; n++) {
                sum[n][2 * h] *= correction;
                sum[n][2 * h + 1] *= correction;
            }
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    s[n][e] = exp2_approx(s[n][e] - base);
                    total[h] += s[n][e];
                }
        }

        // sum += p v
        if (cut && any_odd(values, lane)) {
            for (int key = 0; key < KEYS; key++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    if (!sees(i[h], first + key)) continue;
                    float score = 0;
                    for (int c = 0; c < D; c++)
                        score += to_float(queries[(i[h] - first_query) * PITCH + c]) * to_float(keys[key * PITCH + c]);
                    const float p = exp2_approx(scale_2 * score - (largest[h] == -INFINITY ? 0.0f : largest[h]));
#pragma unroll
                    for (int m = 0; m < D_V / 8; m++)
                        for (int e = 0; e < 2; e++)
                            sum[m][2 * h + e] += p * to_float(values[key * PITCH_V + 8 * m + 2 * t + e]);
                }
            continue;
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            const unsigned p[4] = {pack_bf16(s[n][0], s[n][1]), pack_bf16(s[n][2], s[n][3]),
                                   pack_bf16(s[n + 1][0], s[n + 1][1]), pack_bf16(s[n + 1][2], s[n + 1][3])};
#pragma unroll
            for (int m = 0; m < D_V / 8; m += 2) {
                unsigned b[4];
                ldmatrix_trans(b, values + (n * 8 + lane % 16) * PITCH_V + m * 8 + lane / 16 * 8);
                mma_bf16(sum[m], p, b[0], b[1]);
                if (m + 1 < D_V / 8) mma_bf16(sum[m + 1], p, b[2], b[3]);
            }
        }
    }
    cp_async_wait<0>();  // the last commit was of nothing

#pragma unroll
    for (int h = 0; h < 2; h++) {
        total[h] = over_4_lanes_sum(total[h]);
        const bool seen = (__ballot_sync(ALL, any[h]) >> 4 * g & 15) != 0;
        if (i[h] >= t_q) continue;
        if (log_sum && t == 0) log_sum[pair * t_q + i[h]] = (largest[h] + log2f(total[h])) * 0.6931471805599453f;
        float* row = o + (pair * t_q + i[h]) * D_V + 2 * t;
#pragma unroll
        for (int n = 0; n < D_V / 8; n++) {
            const float2 two = {seen ? sum[n][2 * h] / total[h] : 0.0f, seen ? sum[n][2 * h + 1] / total[h] : 0.0f};
            *reinterpret_cast<float2*>(row + 8 * n) = two;
        }
    }
}
