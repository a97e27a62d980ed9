// The gradients of attention for Hopper: products of whole warp groups on tiles that come by themselves (Shah et al. 2024,
// FlashAttention-3, arXiv 2407.08608). Definition, L and D are those of 1_naive_backward.cu. The one function that makes dq and,
// with the roles of queries and keys exchanged, dk and dv is that of 3_mma_backward.cu; its producer, consumers and
// barriers are those of 4_wgmma.cu.
//
// New here: every tile is used twice as it lies. The rows of the others' a and b are right operands of s and dp by rows, and
// of the gradients across: a sum over the same rows. So a tile comes once, nothing is transposed, and p and ds go from one
// product to the next in registers, rounded to bfloat16. Two groups of consumers have 64 own rows each; they need no turns:
// while one computes p and ds, the other's products run.
//
// Sums are in a fixed order, so the same bits every time; s and dp are made twice for it, 7 products instead of 5.
//
// Hidden keys. ds and p are 0 there, but 0 * NaN is NaN. For dq the producer fills rows of k that key_mask hides with 0;
// gradients of such keys are 0 whatever was summed. Tiles at the diagonal of `causal` are searched for NaN and Inf; if there
// are any, the group adds up all of its gradients pair by pair in the end.
//
// Costs: shared memory holds the own rows and two tiles of the others, 128 KiB for heads of 128, which are the largest: the sums
// of dk and dv lie in 128 registers of a consumer's 240. D, D_V: multiples of 8 up to 128.
//
// Needs sm_90a.
#include "attention/rows.cuh"
#include "lib/ring.cuh"

#define GROUPS 2                             // of consumers
#define ROWS (64 * GROUPS)                   // own
#define THREADS (128 * (GROUPS + 1))
#define STEP 64                              // rows of a tile of the others
#define STAGES 2
#define PANELS ((D + 63) / 64)               // tiles are 64 numbers wide
#define PANELS_V ((D_V + 63) / 64)
#define TILE (STEP * 64)                     // numbers of a panel of the others
#define STAGE ((PANELS + PANELS_V) * TILE)   // of a tile: a, then b

struct Barriers {
    Ring<STAGES> ring;  // of tiles of the others
    mbarrier full_own, come[STAGES];
};

// FOR_KEYS: the own rows are k and v, the others q and g. A map is of (pairs, rows, numbers) in boxes of 64 rows and numbers.
template <bool FOR_KEYS>
__device__ __forceinline__ void gradients(bf16* own, Barriers& barriers, float* numbers, int* odd_rows,
                                          const TensorMap* own_a_map, const TensorMap* own_b_map, const TensorMap* other_a_map,
                                          const TensorMap* other_b_map, const bf16* own_a, const bf16* own_b,
                                          const bf16* other_a, const bf16* other_b, const float* log_sum,
                                          const float* delta, const bool* mask, float* da, float* db, int pair,
                                          int first_own, int t_q, int t_k, float scale, bool causal) {
    bf16* const tiles = own + (PANELS + PANELS_V) * ROWS * 64;  // STAGES times a tile
    Ring<STAGES>& ring = barriers.ring;
    mbarrier* const full_own = &barriers.full_own;
    mbarrier* const come = barriers.come;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int group = __shfl_sync(ALL, (int)threadIdx.x / 128, 0);  // so that the compiler sees that a warp has only one
    const int own_rows = FOR_KEYS ? t_k : t_q, other_rows = FOR_KEYS ? t_q : t_k;
    const int ahead = t_k - t_q;                                    // query i sees the keys up to i + ahead
    const int begin = FOR_KEYS && causal ? max(0, first_own - ahead) / STEP * STEP : 0;
    const int end = !FOR_KEYS && causal ? min(t_k, first_own + ROWS + ahead) : other_rows;
    const int count = begin < end ? (end - begin + STEP - 1) / STEP : 0;
    const bool clearing = !FOR_KEYS && mask;
    const float log2_e = 1.4426950408889634f;                       // exp(x) = 2^(x log2_e)

    if (threadIdx.x == 0) {
        mbarrier_init(full_own, 1);
        ring.init(FOR_KEYS ? 33 : clearing ? 32 : 1, 4 * GROUPS);  // arrivals of the producer's lanes and of copies
        for (int s = 0; s < STAGES; s++) mbarrier_init(&come[s], 1);
        fence_mbarrier_init();
        for (int other = 0; other < GROUPS; other++) odd_rows[other] = 0;
    }
    __syncthreads();

    if (group == GROUPS) {  // the producer, and three warps that only give their registers away
        registers_down<24>();
        if (threadIdx.x >= 128 * GROUPS + 32) return;
        auto clear = [&](int n) {  // rows of k that the mask hides
            const Turn<STAGES> turn = n;
            mbarrier_wait(&come[turn.place], turn.parity);
            for (int first = 0; first < STEP; first += 32) {
                const int key = begin + n * STEP + first + lane;
                const unsigned hidden = __ballot_sync(ALL, key < t_k && !mask[key]);
                for (int row = 0; row < 32; row++)
                    for (int c = 0; c < PANELS && hidden >> row & 1; c++)
                        reinterpret_cast<unsigned*>(tiles + turn.place * STAGE + c * TILE + (first + row) * 64)[lane] = 0;
            }
            fence_proxy_async();
            mbarrier_arrive(&ring.full[turn.place]);
        };
        if (lane == 0 && count > 0) {
            mbarrier_arrive_expect(full_own, (PANELS + PANELS_V) * ROWS * 128);
            for (int c = 0; c < PANELS + PANELS_V; c++)
                for (int part = 0; part < GROUPS; part++)
                    tma_load(own + (c * GROUPS + part) * TILE, c < PANELS ? own_a_map : own_b_map, full_own,
                             64 * (c < PANELS ? c : c - PANELS), first_own + 64 * part, pair);
        }
        for (int n = 0; n < count; n++) {
            ring.wait_empty(n);
            if (lane == 0) {
                mbarrier* const there = clearing ? &come[n % STAGES] : &ring.full[n % STAGES];
                mbarrier_arrive_expect(there, STAGE * 2);
                for (int c = 0; c < PANELS + PANELS_V; c++)
                    tma_load(tiles + n % STAGES * STAGE + c * TILE, c < PANELS ? other_a_map : other_b_map, there,
                             64 * (c < PANELS ? c : c - PANELS), begin + n * STEP, pair);
            }
            if (FOR_KEYS) {  // L and D of the tile's queries, for all consumers
                for (int at = lane; at < STEP; at += 32) {
                    const int query = begin + n * STEP + at;
                    numbers[n % STAGES * 2 * STEP + at] = query < t_q ? log2_e * log_sum[query] : 0.0f;
                    numbers[n % STAGES * 2 * STEP + STEP + at] = query < t_q ? delta[query] : 0.0f;
                }
                mbarrier_arrive(&ring.full[n % STAGES]);
            }
            if (clearing && n > 0) clear(n - 1);
        }
        if (clearing && count > 0) clear(count - 1);
        return;
    }

    registers_up<240>();
    const int groups_row = first_own + 64 * group, warps_row = groups_row + threadIdx.x % 128 / 32 * 16;
    const int row[2] = {warps_row + g, warps_row + g + 8};  // this lane's
    float own_base[2] = {0, 0}, own_delta[2] = {0, 0};
    if (!FOR_KEYS)
        EACH(h, 2)
            if (row[h] < t_q) own_base[h] = log2_e * log_sum[row[h]], own_delta[h] = delta[row[h]];
    auto weight = [&](float s, float base) { return exp2_approx(log2_e * scale * s - base); };
    auto visible = [&](int mine, int other) { return !causal || (FOR_KEYS ? mine <= other + ahead : other <= mine + ahead); };

    float sum_a[32 * PANELS], sum_b[32 * PANELS_V];
    EACH(e, 32 * PANELS) sum_a[e] = 0;
    EACH(e, 32 * PANELS_V) sum_b[e] = 0;
    bool odd = false;
    if (count > 0) mbarrier_wait(full_own, 0);
    for (int n = 0; n < count; n++) {
        const int first = begin + n * STEP;
        const bf16* const tile_a = tiles + n % STAGES * STAGE;
        const bf16* const tile_b = tile_a + PANELS * TILE;
        // Whether `causal` hides some of this from some of the group's rows.
        const bool cut = causal && (FOR_KEYS ? groups_row + 63 > first + ahead : first + STEP - 1 > groups_row + ahead);
        ring.wait_full(n);

        // s[4 n + 2 h + e] and dp are of the own row row[h] and the other `first` + 8 n + 2 t + e.
        float s[STEP / 2], dp[STEP / 2];
        EACH(e, STEP / 2) s[e] = dp[e] = 0;
        wgmma_hold(dp);
        wgmma_fence(s);
        EACH(c, (D + 15) / 16)
            wgmma_bf16(s, wgmma_descriptor(own + (c / 4 * GROUPS + group) * TILE + c % 4 * 16),
                       wgmma_descriptor(tile_a + c / 4 * TILE + c % 4 * 16));
        EACH(c, (D_V + 15) / 16)
            wgmma_bf16(dp, wgmma_descriptor(own + ((PANELS + c / 4) * GROUPS + group) * TILE + c % 4 * 16),
                       wgmma_descriptor(tile_b + c / 4 * TILE + c % 4 * 16));
        wgmma_commit();
        wgmma_wait<0>(s);
        wgmma_hold(dp);

        const bool partly = cut || clearing || first + STEP > other_rows;
        unsigned there[STEP / 32];  // a bit for each of the others
        if (partly)
            EACH(w, STEP / 32) {
                const int other = first + 32 * w + lane;
                there[w] = __ballot_sync(ALL, other < other_rows && (!clearing || mask[other])) >> 2 * t;
            }
        auto seen = [&](int e) {
            return there[e / 16] >> (e / 4 % 4 * 8 + e % 2) & 1 &&
                   visible(row[e / 2 % 2], first + e / 4 * 8 + 2 * t + e % 2);
        };
        const float* const base = numbers + n % STAGES * 2 * STEP + 2 * t;
        unsigned p[STEP / 16][4], ds[STEP / 16][4];
        EACH(e, STEP / 2) s[e] = weight(s[e], FOR_KEYS ? base[e / 4 * 8 + e % 2] : own_base[e / 2 % 2]);
        if (partly) EACH(e, STEP / 2) s[e] = seen(e) ? s[e] : 0.0f;
        EACH(c, STEP / 16) EACH(e, 4) p[c][e] = pack_bf16(s[8 * c + 2 * e], s[8 * c + 2 * e + 1]);
        EACH(c, STEP / 16) wgmma_hold(p[c]);
        EACH(e, STEP / 2) dp[e] = s[e] * (dp[e] - (FOR_KEYS ? base[STEP + e / 4 * 8 + e % 2] : own_delta[e / 2 % 2]));
        if (partly) EACH(e, STEP / 2) dp[e] = seen(e) ? dp[e] : 0.0f;
        EACH(c, STEP / 16) EACH(e, 4) ds[c][e] = pack_bf16(dp[8 * c + 2 * e], dp[8 * c + 2 * e + 1]);
        EACH(c, STEP / 16) wgmma_hold(ds[c]);
        if (FOR_KEYS) wgmma_hold(sum_b);
        wgmma_fence(sum_a);
        EACH(c, STEP / 16) {
            wgmma_bf16<true>(sum_a, ds[c], wgmma_descriptor(tile_a + c * 16 * 64, TILE * 2));
            if constexpr (FOR_KEYS) wgmma_bf16<true>(sum_b, p[c], wgmma_descriptor(tile_b + c * 16 * 64, TILE * 2));
        }
        wgmma_commit();
        wgmma_wait<0>(sum_a);
        if (FOR_KEYS) wgmma_hold(sum_b);
        if (cut)
            for (int at = threadIdx.x % 128; at < (FOR_KEYS ? STAGE : PANELS * TILE) / 8; at += 128)
                odd |= any_odd(reinterpret_cast<const uint4*>(tile_a)[at]);
        ring.release(n);
    }

    if (causal) {
        if (odd) atomicOr(&odd_rows[group], 1);
        named_barrier_sync(1 + group, 128);
    }
    if (causal && odd_rows[group]) {  // pair by pair
        EACH(e, 32 * PANELS) sum_a[e] = 0;
        EACH(e, 32 * PANELS_V) sum_b[e] = 0;
        for (int other = begin; other < end; other++)
            EACH(h, 2) {
                if (row[h] >= own_rows || !visible(row[h], other) || (clearing && !mask[other])) continue;
                const bf16* const a = other_a + other * (long long)D;
                const bf16* const b = other_b + other * (long long)D_V;
                float s = 0, dp = 0;
                for (int c = 0; c < D; c++) s += to_float(own_a[row[h] * (long long)D + c]) * to_float(a[c]);
                for (int c = 0; c < D_V; c++) dp += to_float(own_b[row[h] * (long long)D_V + c]) * to_float(b[c]);
                s = weight(s, FOR_KEYS ? log2_e * log_sum[other] : own_base[h]);
                dp = s * (dp - (FOR_KEYS ? delta[other] : own_delta[h]));
                EACH(n, D / 8) EACH(e, 2) sum_a[4 * n + 2 * h + e] += dp * to_float(a[8 * n + 2 * t + e]);
                EACH(n, D_V / 8) EACH(e, 2) sum_b[4 * n + 2 * h + e] += s * to_float(b[8 * n + 2 * t + e]);
            }
    }
    EACH(h, 2) {
        if (row[h] >= own_rows) continue;
        const bool seen = !FOR_KEYS || !mask || mask[row[h]];
        EACH(n, D / 8) {
            const float* const two = sum_a + 4 * n + 2 * h;
            *reinterpret_cast<float2*>(da + row[h] * (long long)D + 8 * n + 2 * t) =
                float2{seen ? scale * two[0] : 0.0f, seen ? scale * two[1] : 0.0f};
        }
        EACH(n, FOR_KEYS ? D_V / 8 : 0) {
            const float* const two = sum_b + 4 * n + 2 * h;
            *reinterpret_cast<float2*>(db + row[h] * (long long)D_V + 8 * n + 2 * t) =
                float2{seen ? two[0] : 0.0f, seen ? two[1] : 0.0f};
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    grad_q(const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
           const __grid_constant__ TensorMap v_map, const __grid_constant__ TensorMap g_map, const bf16* q, const bf16* k,
           const bf16* v, const bf16* g, const float* log_sum, const float* delta, const bool* key_mask, float* dq,
           int heads, int t_q, int t_k, float scale, bool causal) {
    DYNAMIC_SHARED(bf16, own);
    __shared__ Barriers barriers;
    __shared__ int odd_rows[GROUPS];
    const int blocks_per_pair = (t_q + ROWS - 1) / ROWS;
    const long long pair = blockIdx.x / blocks_per_pair, query = pair * t_q, key = pair * t_k;
    // With `causal` the last queries see the most keys; blocks start in order, so let the longest begin.
    const int first = (blocks_per_pair - 1 - (int)(blockIdx.x % blocks_per_pair)) * ROWS;
    gradients<false>(own, barriers, nullptr, odd_rows, &q_map, &g_map, &k_map, &v_map, q + query * D, g + query * D_V,
                     k + key * D, v + key * D_V, log_sum + query, delta + query, key_mask ? key_mask + pair / heads * t_k : nullptr,
                     dq + query * D, nullptr, (int)pair, first, t_q, t_k, scale, causal);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    grad_kv(const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
            const __grid_constant__ TensorMap v_map, const __grid_constant__ TensorMap g_map, const bf16* q, const bf16* k,
            const bf16* v, const bf16* g, const float* log_sum, const float* delta, const bool* key_mask, float* dk,
            float* dv, int heads, int t_q, int t_k, float scale, bool causal) {
    DYNAMIC_SHARED(bf16, own);
    __shared__ Barriers barriers;
    __shared__ float numbers[STAGES * 2 * STEP];
    __shared__ int odd_rows[GROUPS];
    const int blocks_per_pair = (t_k + ROWS - 1) / ROWS;
    const long long pair = blockIdx.x / blocks_per_pair, query = pair * t_q, key = pair * t_k;
    gradients<true>(own, barriers, numbers, odd_rows, &k_map, &v_map, &q_map, &g_map, k + key * D, v + key * D_V, q + query * D,
                    g + query * D_V, log_sum + query, delta + query, key_mask ? key_mask + pair / heads * t_k : nullptr,
                    dk + key * D, dv + key * D_V, (int)pair, blockIdx.x % blocks_per_pair * ROWS, t_q, t_k, scale, causal);
}
