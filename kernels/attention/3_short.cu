// Attention to few keys, up to 128, as a picture's to the 77 words of its caption: t_q is large, t_k is not. Definition, masks
// (without `causal`), L and numbers are those of 3_mma.cu.
//
// New here: the keys and values of a head lie in shared memory for the whole life of a block, which goes along the queries. All
// scores of a query are there at once, so the softmax is not online: nothing is corrected. A warp has 16 queries at a time,
// loads them straight into the registers from which they are multiplied, the next 16 meanwhile, and after the block's only
// barrier no warp waits for another. Since all weights are known, the result is made 32 columns at a time and written: no
// sums are kept, so there are registers for many warps.
//
// What moves is q and o, once, in pieces of 16 bytes. mma.sync wants two columns here and two there from a lane; but
// the columns of q and k may be permuted, if both are permuted alike. So lane t of the four that share a row takes the
// columns 8 t to 8 t + 7 of each 32, and the keys lie in shared memory in an order that makes these the right ones: the
// 16 pairs of 32 columns as a 4 x 4 table, transposed. So do the values: then a lane has 8 neighbours of the result.
//
// KEYS is t_k, rounded up to a multiple of 16. D, D_V: multiples of 8 up to 256.
#include "attention/rows.cuh"

#define WARPS 8
#define THREADS (32 * WARPS)
#define AHEAD (D <= 128)                   // for larger queries there are no registers to wait in

#define DEPTH ((D + 31) / 32 * 32)         // of the first product: D, filled up with 0
#define PITCH (DEPTH + 8)                  // numbers from row to row in shared memory: an odd number of 16-byte pieces
#define PITCH_V ((D_V + 31) / 32 * 32 + 8)

// Starts to copy the rows of x (rows, WIDTH) to a tile; in each 32 columns, pair 4 i + j comes to where pair 4 j + i would be.
// What lies outside of x, or in a row that `mask` hides, becomes 0.
template <int WIDTH, int PITCH_X>
__device__ __forceinline__ void start_turned(bf16* tile, const bf16* x, int rows, const bool* mask) {
    constexpr int PAIRS = (PITCH_X - 8) / 2;
    for (int at = threadIdx.x; at < KEYS * PAIRS; at += THREADS) {
        const int row = at / PAIRS, pair = at % PAIRS, to = pair / 16 * 16 + pair % 4 * 4 + pair / 4 % 4;
        const bool there = row < rows && 2 * pair < WIDTH && (!mask || mask[row]);
        cp_async<4>(tile + row * PITCH_X + 2 * to, x + (there ? row * WIDTH + 2 * pair : 0), there ? 4 : 0);
    }
}

// 8 neighbours of the result: as they are, or rounded where `bits` are wanted.
__device__ __forceinline__ void store_eight(float* o, bf16* bits, long long at, const float (&x)[8]) {
    if (bits) {
        *reinterpret_cast<uint4*>(bits + at) = uint4{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                                                     pack_bf16(x[6], x[7])};
    } else {
        reinterpret_cast<float4*>(o + at)[0] = float4{x[0], x[1], x[2], x[3]};
        reinterpret_cast<float4*>(o + at)[1] = float4{x[4], x[5], x[6], x[7]};
    }
}

// A block has `tiles` times 16 queries. The result is written to o or, rounded to bfloat16, to `bits`.
extern "C" __global__ void __launch_bounds__(THREADS, KEYS > 96 || D > 64 ? 1 : 2)
    attention(const bf16* q, const bf16* k, const bf16* v, const bool* key_mask, float* o, bf16* bits,
              float* log_sum, int heads, int t_q, int t_k, int tiles, float scale) {
    DYNAMIC_SHARED(bf16, keys);                  // KEYS rows
    bf16* const values = keys + KEYS * PITCH;    // as many
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int blocks_per_pair = (t_q + 16 * tiles - 1) / (16 * tiles);
    const long long pair = blockIdx.x / blocks_per_pair;
    const int first = (int)(blockIdx.x % blocks_per_pair) * tiles * 16, end = min(t_q, first + tiles * 16);
    const bool* const mask = key_mask ? key_mask + pair / heads * t_k : nullptr;
    const float scale_2 = scale * 1.4426950408889634f;  // exp(x) = 2^(x / ln 2)

    start_turned<D, PITCH>(keys, k + pair * t_k * D, t_k, mask);
    start_turned<D_V, PITCH_V>(values, v + pair * t_k * D_V, t_k, mask);
    cp_async_commit();

    unsigned there[(KEYS + 31) / 32], any = 0;   // a bit for each key
    EACH(w, (KEYS + 31) / 32) {
        const int key = 32 * w + lane;
        there[w] = __ballot_sync(ALL, key < t_k && (!mask || mask[key]));
        any |= there[w];
    }
    // Of 16 queries the columns 8 t to 8 t + 7 of each 32, in the rows g and g + 8; 0 past the last query and the last column.
    uint4 next[DEPTH / 32][2];
    auto load = [&](int query) {
        EACH(c, DEPTH / 32) EACH(h, 2) {
            const int row = query + g + 8 * h, column = 32 * c + 8 * t;
            const bf16* const from = q + (pair * t_q + row) * D + column;
            next[c][h] = row < end && column < D ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
        }
    };
    const int warps_first = first + threadIdx.x / 32 * 16;
    if (AHEAD) load(warps_first);
    cp_async_wait<0>();
    __syncthreads();  // keys and values are there for all

    for (int query = warps_first; query < end; query += 16 * WARPS) {
        if (!AHEAD) load(query);
        unsigned a[DEPTH / 16][4];  // as mma_bf16 wants them
        EACH(c, DEPTH / 32) EACH(h, 2) {
            a[2 * c][h] = next[c][h].x, a[2 * c][h + 2] = next[c][h].y;
            a[2 * c + 1][h] = next[c][h].z, a[2 * c + 1][h + 2] = next[c][h].w;
        }
        if (AHEAD) load(query + 16 * WARPS);

        // s[n][2 h + e] is the score of query g + 8 h and key 8 n + 2 t + e.
        float s[KEYS / 8][4];
        EACH(n, KEYS / 8) EACH(e, 4) s[n][e] = 0;
        EACH(c, DEPTH / 16) EACH(n, KEYS / 16) {
            unsigned b[4];
            ldmatrix(b, keys + (n * 16 + lane / 16 * 8 + lane % 8) * PITCH + c * 16 + lane / 8 % 2 * 8);
            mma_bf16(s[2 * n], a[c], b[0], b[1]);
            mma_bf16(s[2 * n + 1], a[c], b[2], b[3]);
        }
        EACH(n, KEYS / 8) EACH(e, 4) {
            const bool seen = there[n / 4] >> (n % 4 * 8 + 2 * t + e % 2) & 1;
            s[n][e] = seen ? scale_2 * s[n][e] : -INFINITY;
        }

        float largest[2], total[2], share[2];
        EACH(h, 2) {
            largest[h] = -INFINITY, total[h] = 0;
            EACH(n, KEYS / 8) largest[h] = fmaxf(largest[h], fmaxf(s[n][2 * h], s[n][2 * h + 1]));
            largest[h] = over_4_lanes_max(largest[h]);
            const float base = largest[h] == -INFINITY ? 0.0f : largest[h];  // -inf - -inf would be NaN
            EACH(n, KEYS / 8) EACH(e, 2) {
                s[n][2 * h + e] = exp2_approx(s[n][2 * h + e] - base);
                total[h] += s[n][2 * h + e];
            }
            total[h] = over_4_lanes_sum(total[h]);
            share[h] = 1.0f / total[h];
            const int row = query + g + 8 * h;
            if (log_sum && t == 0 && row < end)
                log_sum[pair * t_q + row] = (largest[h] + log2f(total[h])) * 0.6931471805599453f;
        }

        unsigned p[KEYS / 16][4];
        EACH(c, KEYS / 16) EACH(e, 4) p[c][e] = pack_bf16(s[2 * c + e / 2][e % 2 * 2], s[2 * c + e / 2][e % 2 * 2 + 1]);
#pragma unroll 1
        for (int column = 0; column < D_V; column += 32) {
            float sum[4][4] = {};  // sum[m][2 h + e] is of query g + 8 h and column 8 t + 2 m + e of these 32
            EACH(c, KEYS / 16) EACH(m, 2) {
                unsigned b[4];
                ldmatrix_trans(b, values + (c * 16 + lane % 16) * PITCH_V + column + 16 * m + lane / 16 * 8);
                mma_bf16(sum[2 * m], p[c], b[0], b[1]);
                mma_bf16(sum[2 * m + 1], p[c], b[2], b[3]);
            }
            EACH(h, 2) {
                const int row = query + g + 8 * h, at = column + 8 * t;
                float eight[8];
                EACH(m, 4) EACH(e, 2) eight[2 * m + e] = any ? sum[m][2 * h + e] * share[h] : 0.0f;
                if (row < end && at < D_V) store_eight(o, bits, (pair * t_q + row) * D_V + at, eight);
            }
        }
    }
}
