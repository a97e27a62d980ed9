// Attention for Hopper: products of whole warp groups, tiles that come by themselves, and two groups that take turns (Shah
// et al. 2024, FlashAttention-3, arXiv 2407.08608, section 3). Definition, masks, L and numbers are those of rung 3.
//
// New here: a block's warps have different work. The last warp, the producer, starts copies of tiles (TMA) into two rings, one
// of keys and one of values (lib/ring.cuh), and goes on: copies run ahead by STAGES tiles. The other warps are two groups of
// four, the consumers, with 64 queries each. One wgmma multiplies these 64 rows by a tile: scores with q and k as they lie in
// shared memory, then weights that stay in registers by v, which lies across (lib/ptx90.cuh): nobody transposes it.
//
// New too: ping-pong. While one group computes its softmax, the other's products run. A turn is the start of the products of
// a tile, s = q k^T, and of those of the tile before, sum += p v; a group waits for its turn at a barrier of its own, at which
// the other arrives as soon as it has started its own products.
//
//     group 0     start s_1, p_0 v | softmax of s_1    | start s_2, p_1 v | softmax of s_2
//     group 1                      | start s_1, p_0 v  | softmax of s_1   | start s_2, p_1 v | ...
//
// A softmax also overlaps with its own group's p v: only after that is the sum corrected, and p overwritten.
//
// Hidden keys. p is 0 there, but 0 * NaN is NaN. The producer fills rows of v that key_mask hides with 0 before it lets
// anyone have the tile. The tiles at the diagonal, of which `causal` hides a part from some of a group's queries, are
// searched for NaN and Inf; if there are any, the group adds up all of its values one by one in the end.
//
// Costs: registers change hands between whole groups, so the producer has a group of its own, of which three warps return at
// once; a thread of it keeps 24 and one of a consumer has 240. Shared memory holds q and two tiles each of k and v, 160 KiB
// for heads of 128. So one block per multiprocessor. Tiles are 64, 128 ... numbers wide; those past D are 0 and cost
// space, those past D_V time too. D, D_V: multiples of 8 up to 256; KEYS is 128, or 64 for more than 128 numbers.
//
// Needs sm_90a.
#include "attention/rows.cuh"
#include "lib/ring.cuh"

#define GROUPS 2                             // of consumers
#define QUERIES (64 * GROUPS)
#define THREADS (128 * (GROUPS + 1))
#define STAGES 2
#define PANELS ((D + 63) / 64)               // tiles are 64 numbers wide
#define PANELS_V ((D_V + 63) / 64)
#define WIDE (PANELS_V == 3 ? 1 : PANELS_V)  // panels of v in one product: of 64, 128 or 256 columns
#define PARTS (PANELS_V / WIDE)              // such products
#define SUMS (32 * WIDE)                     // numbers of one that a thread has
#define TILE (KEYS * 64)                     // numbers of a panel of keys or values

// q, k and v come twice: as maps of (pairs, rows, numbers) for TMA, and as they are for the sums one by one. scale > 0.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
              const __grid_constant__ TensorMap v_map, const bf16* q, const bf16* k, const bf16* v, const bool* key_mask,
              float* o, float* log_sum, int heads, int t_q, int t_k, float scale, bool causal) {
    DYNAMIC_SHARED(bf16, queries);                               // PANELS of QUERIES rows
    bf16* const all_keys = queries + PANELS * QUERIES * 64;      // STAGES times PANELS of KEYS rows
    bf16* const all_values = all_keys + STAGES * PANELS * TILE;  // STAGES times PANELS_V of KEYS rows
    __shared__ Ring<STAGES> ring_k, ring_v;
    __shared__ mbarrier full_q, come_v[STAGES];
    __shared__ int odd_values[GROUPS];

    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int group = __shfl_sync(ALL, (int)threadIdx.x / 128, 0);  // so that the compiler sees that a warp has only one
    const int blocks_per_pair = (t_q + QUERIES - 1) / QUERIES;
    const long long pair = blockIdx.x / blocks_per_pair;
    // With `causal` the last queries see the most keys; blocks start in order, so let the longest begin.
    const int first_query = (blocks_per_pair - 1 - (int)(blockIdx.x % blocks_per_pair)) * QUERIES;
    const bool* mask = key_mask ? key_mask + pair / heads * t_k : nullptr;
    const int ahead = t_k - t_q;                                 // query i sees the keys up to i + ahead
    const int keys_end = causal ? min(t_k, first_query + QUERIES + ahead) : t_k;
    const int tiles_end = keys_end > 0 ? (keys_end + KEYS - 1) / KEYS : 0;

    if (threadIdx.x == 0) {
        mbarrier_init(&full_q, 1);
        ring_k.init(1, 4 * GROUPS);
        ring_v.init(mask ? 32 : 1, 4 * GROUPS);  // with a mask the producer's lanes say so, not the copy
        for (int s = 0; s < STAGES; s++) mbarrier_init(&come_v[s], 1);
        fence_mbarrier_init();
        for (int other = 0; other < GROUPS; other++) odd_values[other] = 0;
    }
    __syncthreads();

    if (group == GROUPS) {  // the producer
        registers_down<24>();
        if (threadIdx.x >= 128 * GROUPS + 32) return;
        auto bring = [&](const TensorMap* map, bf16* to, int panels, int rows, int first, mbarrier* full) {
            if (lane != 0) return;
            mbarrier_arrive_expect(full, panels * rows * 128);
            for (int c = 0; c < panels; c++) tma_load(to + c * rows * 64, map, full, 64 * c, first, (int)pair);
        };
        auto clear = [&](int tile) {  // rows that the mask hides
            const Turn<STAGES> turn = tile;
            bf16* const values = all_values + turn.place * PANELS_V * TILE;
            mbarrier_wait(&come_v[turn.place], turn.parity);
            for (int first = 0; first < KEYS; first += 32) {
                const int key = tile * KEYS + first + lane;
                const unsigned hidden = __ballot_sync(ALL, key < t_k && !mask[key]);
                for (int row = 0; row < 32; row++)
                    for (int c = 0; c < PANELS_V && hidden >> row & 1; c++)
                        reinterpret_cast<unsigned*>(values + c * TILE + (first + row) * 64)[lane] = 0;
            }
            fence_proxy_async();
            mbarrier_arrive(&ring_v.full[turn.place]);
        };
        if (tiles_end > 0) bring(&q_map, queries, PANELS, QUERIES, first_query, &full_q);
        for (int tile = 0; tile < tiles_end; tile++) {
            const int stage = tile % STAGES;
            ring_k.wait_empty(tile);
            bring(&k_map, all_keys + stage * PANELS * TILE, PANELS, KEYS, tile * KEYS, &ring_k.full[stage]);
            ring_v.wait_empty(tile);
            bring(&v_map, all_values + stage * PANELS_V * TILE, PANELS_V, KEYS, tile * KEYS,
                  mask ? &come_v[stage] : &ring_v.full[stage]);
            if (mask && tile > 0) clear(tile - 1);
        }
        if (mask && tiles_end > 0) clear(tiles_end - 1);
        return;
    }

    registers_up<240>();
    const int groups_query = first_query + 64 * group, warps_query = groups_query + threadIdx.x % 128 / 32 * 16;
    const int i[2] = {warps_query + g, warps_query + g + 8};  // this lane's queries
    const float scale_2 = scale * 1.4426950408889634f;        // exp(x) = 2^(x / ln 2)
    auto cut = [&](int tile) { return causal && (tile + 1) * KEYS - 1 > groups_query + ahead; };  // for some of the group

    float s[KEYS / 2], sum[PARTS][SUMS];
    unsigned p[KEYS / 16][4];
    EACH(n, PARTS) EACH(e, SUMS) sum[n][e] = 0;
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, correction[2];
    bool any[2] = {false, false}, odd = false;

    auto start_scores = [&](int tile) {  // s = q k^T
        const bf16* const keys = all_keys + tile % STAGES * PANELS * TILE;
        EACH(e, KEYS / 2) s[e] = 0;
        EACH(n, PARTS) wgmma_hold(sum[n]);
        EACH(c, KEYS / 16) wgmma_hold(p[c]);
        wgmma_fence(s);
        EACH(c, (D + 15) / 16)
            wgmma_bf16(s, wgmma_descriptor(queries + (c / 4 * QUERIES + 64 * group) * 64 + c % 4 * 16),
                       wgmma_descriptor(keys + c / 4 * TILE + c % 4 * 16));
        wgmma_commit();
    };
    auto start_sums = [&](int tile) {    // sum += p v
        const bf16* const values = all_values + tile % STAGES * PANELS_V * TILE;
        EACH(c, KEYS / 16)
            EACH(n, PARTS)
                wgmma_bf16<true>(sum[n], p[c], wgmma_descriptor(values + n * WIDE * TILE + c * 16 * 64, TILE * 2));
        wgmma_commit();
    };
    auto end_sums = [&](int tile) {
        EACH(n, PARTS) wgmma_wait<0>(sum[n]);
        const uint4* const pieces = reinterpret_cast<const uint4*>(all_values + tile % STAGES * PANELS_V * TILE);
        if (cut(tile))
            for (int at = threadIdx.x % 128; at < PANELS_V * TILE / 8; at += 128) odd |= any_odd(pieces[at]);
        ring_v.release(tile);
    };
    // The online softmax. s[4 n + 2 h + e] is for query i[h] and key `first` + 8 n + 2 t + e. The scale comes last:
    // 2^(scale_2 s - base) is one multiply-add and the exponential.
    auto soften = [&](int tile) {
        const int first = tile * KEYS;
        if (cut(tile) || mask || first + KEYS > t_k) {
            unsigned there[KEYS / 32];  // a bit for each key
            EACH(w, KEYS / 32) {
                const int key = first + 32 * w + lane;
                there[w] = __ballot_sync(ALL, key < t_k && (!mask || mask[key])) >> 2 * t;
            }
            EACH(e, KEYS / 2) {
                const bool before = !causal || first + e / 4 * 8 + 2 * t + e % 2 <= i[e / 2 % 2] + ahead;
                const bool seen = there[e / 16] >> (e / 4 % 4 * 8 + e % 2) & 1 && before;
                s[e] = seen ? s[e] : -INFINITY;
                any[e / 2 % 2] |= seen;
            }
        } else {
            any[0] = any[1] = true;
        }
        EACH(h, 2) {
            float most = largest[h];
            EACH(n, KEYS / 8) most = fmaxf(most, fmaxf(s[4 * n + 2 * h], s[4 * n + 2 * h + 1]));
            most = over_4_lanes_max(most);
            const float base = most == -INFINITY ? 0.0f : scale_2 * most;  // -inf - -inf would be NaN
            correction[h] = exp2_approx(scale_2 * largest[h] - base);
            largest[h] = most;
            total[h] *= correction[h];
            EACH(n, KEYS / 8) EACH(e, 2) {
                float& weight = s[4 * n + 2 * h + e];
                weight = exp2_approx(scale_2 * weight - base);
                total[h] += weight;
            }
        }
    };
    auto correct = [&]() {  // what was summed up to now, and p for the next sums
        EACH(n, PARTS) EACH(e, SUMS) sum[n][e] *= correction[e / 2 % 2];
        EACH(c, KEYS / 16) EACH(e, 4) p[c][e] = pack_bf16(s[8 * c + 2 * e], s[8 * c + 2 * e + 1]);
    };
    auto my_turn = [&]() { named_barrier_sync(1 + group, 256); };
    auto next_turn = [&](int tile) {  // the last one is nobody's
        if (group == 0 || tile + 1 < tiles_end) named_barrier_arrive(2 - group, 256);
    };

    if (tiles_end > 0) {
        if (group == 1) named_barrier_arrive(1, 256);  // group 0 begins
        mbarrier_wait(&full_q, 0);
        ring_k.wait_full(0);
        my_turn();
        start_scores(0);
        next_turn(0);
        wgmma_wait<0>(s);
        ring_k.release(0);
        soften(0);
        correct();
        for (int tile = 1; tile < tiles_end; tile++) {
            ring_k.wait_full(tile);
            ring_v.wait_full(tile - 1);
            my_turn();
            start_scores(tile);
            start_sums(tile - 1);
            next_turn(tile);
            wgmma_wait<1>(s);
            ring_k.release(tile);
            soften(tile);
            if (__any_sync(ALL, total[0] < 0)) break;  // never: the assembler moves the next wait up, but not over a branch
            end_sums(tile - 1);
            correct();
        }
        const int last = tiles_end - 1;
        ring_v.wait_full(last);
        EACH(c, KEYS / 16) wgmma_hold(p[c]);
        EACH(n, PARTS) wgmma_fence(sum[n]);
        start_sums(last);
        end_sums(last);
    }

    if (causal) {
        if (odd) atomicOr(&odd_values[group], 1);
        named_barrier_sync(3 + group, 128);
    }
    if (causal && odd_values[group]) {  // one by one
        EACH(n, PARTS) EACH(e, SUMS) sum[n][e] = 0;
        for (int key = 0; key < keys_end; key++)
            EACH(h, 2) {
                if (i[h] >= t_q || key > i[h] + ahead || (mask && !mask[key])) continue;
                float score = 0;
                for (int c = 0; c < D; c++)
                    score += to_float(q[(pair * t_q + i[h]) * D + c]) * to_float(k[(pair * t_k + key) * D + c]);
                const float base = largest[h] == -INFINITY ? 0.0f : scale_2 * largest[h];
                const float weight = exp2_approx(scale_2 * score - base);
                const bf16* const value = v + (pair * t_k + key) * D_V + 2 * t;
                EACH(n, D_V / 8) EACH(e, 2)
                    sum[4 * n / SUMS][4 * n % SUMS + 2 * h + e] += weight * to_float(value[8 * n + e]);
            }
    }

    EACH(h, 2) {
        total[h] = over_4_lanes_sum(total[h]);
        const bool seen = (__ballot_sync(ALL, any[h]) >> 4 * g & 15) != 0;
        if (i[h] >= t_q) continue;
        if (log_sum && t == 0) log_sum[pair * t_q + i[h]] = (scale_2 * largest[h] + log2f(total[h])) * 0.6931471805599453f;
        const float share = 1.0f / total[h];
        float* row = o + (pair * t_q + i[h]) * D_V + 2 * t;
        EACH(n, D_V / 8) {
            const float* two = &sum[4 * n / SUMS][4 * n % SUMS + 2 * h];
            *reinterpret_cast<float2*>(row + 8 * n) = float2{seen ? two[0] * share : 0.0f, seen ? two[1] * share : 0.0f};
        }
    }
}
