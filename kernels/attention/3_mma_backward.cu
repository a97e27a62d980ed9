// The gradients of attention by matrix products of whole warps, with bfloat16 q, k, v and g (Dao 2023, FlashAttention-2, arXiv
// 2307.08691, algorithm 2). Definition, L and D are those of 1_naive_backward.cu; fragments, tiles and copies those of 3_mma.cu.
//
// New here: one function makes dq and, with the roles of queries and keys exchanged, dk and dv. A block owns some rows, its
// warps 16 of them each, and goes along tiles of the others. With a the rows of D numbers (q or k), b those of D_V (g or v):
//
//     s = own a . others' a        dp = own b . others' b        p = exp(scale s - L)        ds = p (dp - D)
//     own a's gradient += scale ds . others' a                   own b's gradient += p . others' b    (only of v)
//
// where L and D belong to the queries, whichever side these are. So p and ds always come out with the own rows in the
// registers' rows, in just the layout in which the next products want their left operand: nothing goes through shared memory,
// nothing is transposed but by ldmatrix, and each gradient is summed by one warp in a fixed order, the same bits every time.
// As in rung 2, the price is 7 products instead of 5: s and dp are made twice.
//
// Hidden keys. ds and p are 0 there, but 0 * NaN is NaN. Rows that key_mask hides are not read; gradients of such keys are
// 0 whatever was summed. A tile that `causal` hides in part and that has NaN or Inf is summed pair by pair.
//
// Numbers. Sums are float. p and ds are rounded to bfloat16 before they multiply, each by at most 2^-8 of itself. Heads of more
// than 128 numbers would not leave registers for both sums: there a block makes one half of the columns of dk and dv.
// D, D_V: multiples of 8 up to 256.
#include "attention/rows.cuh"

#define LARGE (D > 128 || D_V > 128)
#define WARPS (LARGE ? 2 : 4)
#define THREADS (32 * WARPS)
#define ROWS (16 * WARPS)                  // of a block
#define STEP (LARGE ? 16 : 32)             // of a tile
#define PARTS (LARGE ? 2 : 1)              // blocks that share the columns of dk and dv

#define DEPTH ((D + 15) / 16 * 16)         // of a product over the columns: filled up with 0
#define DEPTH_V ((D_V + 15) / 16 * 16)
#define PITCH (DEPTH + 8)                  // numbers from row to row in shared memory: an odd number of 16-byte pieces
#define PITCH_V (DEPTH_V + 8)

// product[n][2 h + e] = the dot product of the warp's row g + 8 h and the tile's row 8 n + 2 t + e
template <int COLUMNS, int ROW>
__device__ __forceinline__ void multiply_rows(float (&product)[STEP / 8][4], const bf16* own, const bf16* tile) {
    const int lane = threadIdx.x % 32;
    EACH(n, STEP / 8) EACH(e, 4) product[n][e] = 0;
    EACH(c, COLUMNS / 16) {
        unsigned a[4];
        ldmatrix(a, own + lane % 16 * ROW + c * 16 + lane / 16 * 8);
        EACH(n, STEP / 16) {
            unsigned b[4];
            ldmatrix(b, tile + (n * 16 + lane / 16 * 8 + lane % 8) * ROW + c * 16 + lane / 8 % 2 * 8);
            mma_bf16(product[2 * n], a, b[0], b[1]);
            mma_bf16(product[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// sum += weight . tile, of which 8 N columns are wanted
template <int N, int ROW>
__device__ __forceinline__ void add_rows(float (&sum)[N][4], const float (&weight)[STEP / 8][4], const bf16* tile) {
    const int lane = threadIdx.x % 32;
    EACH(c, STEP / 16) {
        const float(&w)[4] = weight[2 * c];
        const float(&next)[4] = weight[2 * c + 1];
        const unsigned a[4] = {pack_bf16(w[0], w[1]), pack_bf16(w[2], w[3]), pack_bf16(next[0], next[1]),
                               pack_bf16(next[2], next[3])};
        const bf16* const rows = tile + (c * 16 + lane % 16) * ROW;
        EACH(m, N / 2) {
            unsigned b[4];
            ldmatrix_trans(b, rows + m * 16 + lane / 16 * 8);
            mma_bf16(sum[2 * m], a, b[0], b[1]);
            mma_bf16(sum[2 * m + 1], a, b[2], b[3]);
        }
        if (N % 2) {
            unsigned b[2];
            ldmatrix_trans(b, rows + (N - 1) * 8);
            mma_bf16(sum[N - 1], a, b[0], b[1]);
        }
    }
}

template <int COLUMNS, int ROW>
__device__ __forceinline__ bool any_odd_in(const bf16* tile) {  // the same answer for all lanes
    bool odd = false;
    for (int at = threadIdx.x % 32; at < STEP * (COLUMNS / 8); at += 32)
        odd |= any_odd(*reinterpret_cast<const uint4*>(tile + at / (COLUMNS / 8) * ROW + at % (COLUMNS / 8) * 8));
    return __any_sync(ALL, odd);
}

// FOR_KEYS: the own rows are k and v, the others q and g. N, N_V: eights of columns of the gradients that this block makes,
// from `column` and `column_v` on.
template <bool FOR_KEYS, int N, int N_V>
__device__ __forceinline__ void gradients(const bf16* own_a, const bf16* own_b, const bf16* other_a, const bf16* other_b,
                                          const float* log_sum, const float* delta, const bool* mask, float* da, float* db,
                                          int first_own, int column, int column_v, int t_q, int t_k, float scale,
                                          bool causal) {
    DYNAMIC_SHARED(bf16, own);                               // ROWS rows of a, then of b
    bf16* const tiles = own + ROWS * (PITCH + PITCH_V);      // twice STEP rows of a and of b
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int warps_row = first_own + 16 * warp, row[2] = {warps_row + g, warps_row + g + 8};  // this lane's
    const int own_rows = FOR_KEYS ? t_k : t_q, other_rows = FOR_KEYS ? t_q : t_k;
    const int ahead = t_k - t_q;                             // query i sees the keys up to i + ahead
    const int begin = FOR_KEYS && causal ? max(0, first_own - ahead) / STEP * STEP : 0;
    const int end = !FOR_KEYS && causal ? min(t_k, first_own + ROWS + ahead) : other_rows;
    const float scale_2 = scale * 1.4426950408889634f;       // exp(x) = 2^(x / ln 2)
    const bf16* const my_a = own + 16 * warp * PITCH;
    const bf16* const my_b = own + ROWS * PITCH + 16 * warp * PITCH_V;

    auto start = [&](int first) {
        bf16* const tile = tiles + first / STEP % 2 * STEP * (PITCH + PITCH_V);
        const bool* const hidden = FOR_KEYS ? nullptr : mask;
        start_tile<THREADS, STEP, DEPTH, D, PITCH>(tile, other_a, first, other_rows, hidden);
        start_tile<THREADS, STEP, DEPTH_V, D_V, PITCH_V>(tile + STEP * PITCH, other_b, first, other_rows, hidden);
    };
    auto sees = [&](int i, int j) {
        return i < t_q && j < t_k && (!causal || j <= i + ahead) && (!mask || mask[j]);
    };
    // p and ds from s and dp, of the own row row[h] and one of the other side.
    float own_log_sum[2] = {0, 0}, own_delta[2] = {0, 0};
    auto soften = [&](float& s, float& dp, int h, int other) {
        const float base = FOR_KEYS ? (other < t_q ? log_sum[other] : 0.0f) : own_log_sum[h];
        s = exp2_approx(scale_2 * s - 1.4426950408889634f * base);
        dp = s * (dp - (FOR_KEYS ? (other < t_q ? delta[other] : 0.0f) : own_delta[h]));
    };

    float sum_a[N][4], sum_b[N_V ? N_V : 1][4];
    EACH(n, N) EACH(e, 4) sum_a[n][e] = 0;
    EACH(n, N_V) EACH(e, 4) sum_b[n][e] = 0;
    if (!FOR_KEYS)
        EACH(h, 2)
            if (row[h] < t_q) own_log_sum[h] = log_sum[row[h]], own_delta[h] = delta[row[h]];

    if (begin < end) {
        start_tile<THREADS, ROWS, DEPTH, D, PITCH>(own, own_a, first_own, own_rows, FOR_KEYS ? mask : nullptr);
        start_tile<THREADS, ROWS, DEPTH_V, D_V, PITCH_V>(own + ROWS * PITCH, own_b, first_own, own_rows,
                                                         FOR_KEYS ? mask : nullptr);
        start(begin);
        cp_async_commit();
    }
    for (int first = begin; first < end; first += STEP) {
        cp_async_wait<0>();
        __syncthreads();  // the tile is there for all, and all are done with the tile before
        if (first + STEP < end) start(first + STEP);
        cp_async_commit();
        const bf16* const tile_a = tiles + first / STEP % 2 * STEP * (PITCH + PITCH_V);
        const bf16* const tile_b = tile_a + STEP * PITCH;
        // Whether `causal` hides some of this from some of the warp's rows, or nothing is hidden at all.
        const bool cut = causal && (FOR_KEYS ? warps_row + 15 > first + ahead : first + STEP - 1 > warps_row + ahead);
        const bool whole = !cut && !mask && first + STEP <= other_rows;

        if (cut && (any_odd_in<DEPTH, PITCH>(tile_a) || (FOR_KEYS && any_odd_in<DEPTH_V, PITCH_V>(tile_b)))) {
            for (int r = 0; r < STEP; r++)
                EACH(h, 2) {
                    if (FOR_KEYS ? !sees(first + r, row[h]) : !sees(row[h], first + r)) continue;
                    float s = 0, dp = 0;
                    for (int c = 0; c < D; c++)
                        s += to_float(my_a[(g + 8 * h) * PITCH + c]) * to_float(tile_a[r * PITCH + c]);
                    for (int c = 0; c < D_V; c++)
                        dp += to_float(my_b[(g + 8 * h) * PITCH_V + c]) * to_float(tile_b[r * PITCH_V + c]);
                    soften(s, dp, h, first + r);
                    EACH(n, N) EACH(e, 2)
                        sum_a[n][2 * h + e] += dp * to_float(tile_a[r * PITCH + column + 8 * n + 2 * t + e]);
                    EACH(n, N_V) EACH(e, 2)
                        sum_b[n][2 * h + e] += s * to_float(tile_b[r * PITCH_V + column_v + 8 * n + 2 * t + e]);
                }
            continue;
        }

        float s[STEP / 8][4], dp[STEP / 8][4];
        multiply_rows<DEPTH, PITCH>(s, my_a, tile_a);
        multiply_rows<DEPTH_V, PITCH_V>(dp, my_b, tile_b);
        EACH(n, STEP / 8) EACH(e, 4) {
            const int mine = row[e / 2], other = first + 8 * n + 2 * t + e % 2;
            soften(s[n][e], dp[n][e], e / 2, other);
            if (!whole && (FOR_KEYS ? !sees(other, mine) : !sees(mine, other))) s[n][e] = dp[n][e] = 0;
        }
        add_rows<N, PITCH>(sum_a, dp, tile_a + column);
        if constexpr (FOR_KEYS) add_rows<N_V, PITCH_V>(sum_b, s, tile_b + column_v);
    }
    cp_async_wait<0>();  // the last commit was of nothing

    EACH(h, 2) {
        if (row[h] >= own_rows) continue;
        const bool seen = !FOR_KEYS || !mask || mask[row[h]];
        EACH(n, N) {
            const int c = column + 8 * n + 2 * t;
            const float2 two = {seen ? scale * sum_a[n][2 * h] : 0.0f, seen ? scale * sum_a[n][2 * h + 1] : 0.0f};
            if (c < D) *reinterpret_cast<float2*>(da + (long long)row[h] * D + c) = two;
        }
        EACH(n, N_V) {
            const int c = column_v + 8 * n + 2 * t;
            const float2 two = {seen ? sum_b[n][2 * h] : 0.0f, seen ? sum_b[n][2 * h + 1] : 0.0f};
            if (FOR_KEYS && c < D_V) *reinterpret_cast<float2*>(db + (long long)row[h] * D_V + c) = two;
        }
    }
}

// D, a warp for each query.
extern "C" __global__ void __launch_bounds__(128) deltas(const bf16* g, const float* o, float* delta, long long rows) {
    const long long row = blockIdx.x * 4ll + threadIdx.x / 32;
    if (row >= rows) return;
    float sum = 0;
    for (int c = threadIdx.x % 32; c < D_V; c += 32) sum += to_float(g[row * D_V + c]) * o[row * D_V + c];
    for (int bit = 1; bit < 32; bit *= 2) sum += __shfl_xor_sync(ALL, sum, bit);
    if (threadIdx.x % 32 == 0) delta[row] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    grad_q(const bf16* q, const bf16* k, const bf16* v, const bf16* g, const float* log_sum, const float* delta,
           const bool* key_mask, float* dq, int heads, int t_q, int t_k, float scale, bool causal) {
    const int blocks_per_pair = (t_q + ROWS - 1) / ROWS;
    const long long pair = blockIdx.x / blocks_per_pair;
    // With `causal` the last queries see the most keys; blocks start in order, so let the longest begin.
    const int first = (blocks_per_pair - 1 - (int)(blockIdx.x % blocks_per_pair)) * ROWS;
    gradients<false, D / 8, 0>(q + pair * t_q * D, g + pair * t_q * D_V, k + pair * t_k * D, v + pair * t_k * D_V,
                               log_sum + pair * t_q, delta + pair * t_q, key_mask ? key_mask + pair / heads * t_k : nullptr,
                               dq + pair * t_q * D, nullptr, first, 0, 0, t_q, t_k, scale, causal);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    grad_kv(const bf16* q, const bf16* k, const bf16* v, const bf16* g, const float* log_sum, const float* delta,
            const bool* key_mask, float* dk, float* dv, int heads, int t_q, int t_k, float scale, bool causal) {
    const int blocks_per_pair = (t_k + ROWS - 1) / ROWS * PARTS;
    const long long pair = blockIdx.x / blocks_per_pair;
    const int first = (int)(blockIdx.x % blocks_per_pair) / PARTS * ROWS, part = blockIdx.x % PARTS;
    constexpr int eights = (D / 8 + PARTS - 1) / PARTS, eights_v = (D_V / 8 + PARTS - 1) / PARTS;
    gradients<true, eights, eights_v>(k + pair * t_k * D, v + pair * t_k * D_V, q + pair * t_q * D, g + pair * t_q * D_V,
                                      log_sum + pair * t_q, delta + pair * t_q,
                                      key_mask ? key_mask + pair / heads * t_k : nullptr, dk + pair * t_k * D,
                                      dv + pair * t_k * D_V, first, part * eights * 8, part * eights_v * 8, t_q, t_k,
                                      scale, causal);
}
