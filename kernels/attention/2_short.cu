// Attention to few keys in float32, up to 128, as a picture's to the 77 words of its caption: t_q is large, t_k is not.
// Definition, masks (without `causal`) and L are those of rung 1.
//
// New here: the keys and values of a head lie in shared memory for the whole life of a block, which goes along the queries. All
// scores of a query are there at once, so the softmax is not online: nothing is corrected.
//
// New too: a warp's 16 queries are multiplied together. Its lanes form a 2 x 16 grid: a lane makes the scores of 8
// queries, every other one, with every 16th key, and later 8 x 4 numbers of the result, so each number that it reads
// from shared memory takes part in 8 or more multiply-adds. In between the weights go through shared memory, to the
// place where the queries were. After the block's only barrier no warp waits for another.
//
// KEYS is t_k, rounded up to a multiple of 16; D, D_V any.
#include "lib/cuda.cuh"
#include "lib/fours.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define ALL 0xffffffffu
#define EACH(i, count) _Pragma("unroll") for (int i = 0; i < (count); i++)

#define FOURS ((D + 3) / 4)                       // of a query or key; 0 fills up the last one
#define PITCH ((FOURS | 1) * 4)                   // numbers from key to key: then 8 keys never meet at the same banks
#define PITCH_V ((D_V + 63) / 64 * 64)            // a lane makes 4 columns of each 64
#define ROW ((((PITCH > KEYS ? PITCH : KEYS) + 15) / 16 | 1) * 16)  // of a query, and then of its weights: the next one's
                                                  // banks are the other 16

// tile[r][c] = x[r, c], 0 outside and in rows that `mask` hides. From `lane` on every `lanes`-th number.
template <int WIDTH, int PITCH_OF_IT>
__device__ __forceinline__ void bring(float* tile, const float* x, int count, int rows, int columns, const bool* mask,
                                      int lane, int lanes) {
    for (int at = lane; at < count * columns; at += lanes) {
        const int r = at / columns, c = at % columns;
        tile[r * PITCH_OF_IT + c] = r < rows && c < WIDTH && (!mask || mask[r]) ? x[(long long)r * WIDTH + c] : 0.0f;
    }
}

#define four_at(x) (*reinterpret_cast<const Four*>(x))

// A block has `tiles` times 16 queries.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention(const float* q, const float* k, const float* v, const bool* key_mask, float* o, float* log_sum, int heads,
              int t_q, int t_k, int tiles, float scale) {
    DYNAMIC_SHARED(float, keys);                            // KEYS rows
    float* const values = keys + KEYS * PITCH;              // as many
    float* const mine = values + KEYS * PITCH_V + threadIdx.x / 32 * 16 * ROW;  // this warp's queries, then weights
    const int lane = threadIdx.x % 32, x = lane % 16, half = lane / 16;
    const int blocks_per_pair = (t_q + 16 * tiles - 1) / (16 * tiles);
    const long long pair = blockIdx.x / blocks_per_pair;
    const int first = (int)(blockIdx.x % blocks_per_pair) * tiles * 16, end = min(t_q, first + tiles * 16);
    const bool* const mask = key_mask ? key_mask + pair / heads * t_k : nullptr;

    bring<D, PITCH>(keys, k + pair * t_k * D, KEYS, t_k, FOURS * 4, mask, threadIdx.x, THREADS);
    bring<D_V, PITCH_V>(values, v + pair * t_k * D_V, KEYS, t_k, PITCH_V, mask, threadIdx.x, THREADS);
    bool there[KEYS / 16], any = false;  // of the keys x, x + 16, ...
    EACH(j, KEYS / 16) {
        there[j] = 16 * j + x < t_k && (!mask || mask[16 * j + x]);
        any |= there[j];
    }
    any = __any_sync(ALL, any);
    __syncthreads();  // keys and values are there for all

    for (int query = first + threadIdx.x / 32 * 16; query < end; query += 16 * WARPS) {
        __syncwarp();  // all are done with the weights before
        bring<D, ROW>(mine, q + (pair * t_q + query) * D, 16, end - query, FOURS * 4, nullptr, lane, 32);
        __syncwarp();  // the queries are there

        float s[8][KEYS / 16];  // of query 2 r + half and key 16 j + x
        EACH(r, 8) EACH(j, KEYS / 16) s[r][j] = 0;
        for (int c = 0; c < FOURS * 4; c += 4) {
            Four key[KEYS / 16];
            EACH(j, KEYS / 16) key[j] = four_at(keys + (16 * j + x) * PITCH + c);
            EACH(r, 8) {
                const Four one = four_at(mine + (2 * r + half) * ROW + c);
                EACH(j, KEYS / 16) EACH(e, 4) s[r][j] += one.v[e] * key[j].v[e];
            }
        }
        __syncwarp();  // all are done with the queries

        float share[8];  // 1 / the sum of the weights
        EACH(r, 8) {
            float largest = -INFINITY;
            EACH(j, KEYS / 16) {
                s[r][j] = there[j] ? scale * s[r][j] : -INFINITY;
                largest = fmaxf(largest, s[r][j]);
            }
            EACH(bit, 4) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 1 << bit));
            const float base = largest == -INFINITY ? 0.0f : largest;  // -inf - -inf would be NaN
            float total = 0;
            EACH(j, KEYS / 16) {
                const float weight = expf(s[r][j] - base);
                total += weight;
                mine[(2 * r + half) * ROW + 16 * j + x] = weight;
            }
            EACH(bit, 4) total += __shfl_xor_sync(ALL, total, 1 << bit);
            share[r] = 1.0f / total;
            const int row = query + 2 * r + half;
            if (log_sum && x == 0 && row < end) log_sum[pair * t_q + row] = largest + logf(total);
        }
        __syncwarp();  // the weights are there

        for (int column = 4 * x; column < PITCH_V; column += 64) {
            float sum[8][4];
            EACH(r, 8) EACH(e, 4) sum[r][e] = 0;
            for (int j = 0; j < KEYS; j += 4) {
                Four value[4];
                EACH(n, 4) value[n] = four_at(values + (j + n) * PITCH_V + column);
                EACH(r, 8) {
                    const Four weight = four_at(mine + (2 * r + half) * ROW + j);
                    EACH(n, 4) EACH(e, 4) sum[r][e] += weight.v[n] * value[n].v[e];
                }
            }
            EACH(r, 8) {
                const int row = query + 2 * r + half;
                Four four;
                EACH(e, 4) four.v[e] = any ? sum[r][e] * share[r] : 0.0f;
                if (row < end) store_four(o, (pair * t_q + row) * D_V + column, D_V - column, four);
            }
        }
    }
}
