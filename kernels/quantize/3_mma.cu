// The nearest code by tensor cores, and yet exactly: the answers are those of rungs 1 and 2.
//
// With t_k = z . c_k - |c_k|^2 / 2 the distance is |z - c_k|^2 = |z|^2 - 2 t_k, so the nearest code has the largest t.
//
// New here: a fast answer that knows its error. For all codes t is computed with z and c rounded to bfloat16, by mma.sync
// (lib/ptx.cuh has its layout). With u = 2^-8 for the rounding and 2^-23 for each of n sums in float, n a little above d,
//
//     |computed t_k - t_k| <= (2 u + u^2 + g) |z| |c_k| + g |c_k|^2 / 2 + underflow =: E_k,      g = 2^-22 (n + 16)
//
// (Higham 2002, eq. 3.4, and |z| |c| >= sum_j |z_j c_j|). So U_k = computed t_k + E_k is not below t_k, and U_k - 2 E_k not
// above it. A code with U_k below some other code's U - 2 E cannot be the nearest. Few codes are left: a list of them is
// kept for each row of z, and in the end the exact distances decide among them, the lowest index on ties. If a list does not
// suffice (equal codes, say), or a row or a code is not finite or so long that E means nothing, all distances are computed.
//
// Most tiles of the codebook bring no code whose U reaches the best lower bound so far, and that is all that is asked: one
// multiplication, one comparison for each score (quantize/candidates.cuh). As in rung 3 of attention, cp.async brings the next
// tile meanwhile.
#define WARPS 4
#define THREADS (32 * WARPS)
#define ROWS (16 * WARPS)
#include "quantize/candidates.cuh"

#define PITCH (DEPTH + 8)  // an odd number of 16-byte pieces: 8 rows never meet at the same banks

extern "C" __global__ void __launch_bounds__(THREADS) prepare(const float* codebook, bf16* rounded, float* bounds,
                                                              int codes) {
    const int code = blockIdx.x * WARPS + threadIdx.x / 32;
    if (code < codes) prepare_code(codebook, rounded, bounds, code, threadIdx.x % 32);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) nearest_code(const float* z, const float* codebook,
                                                                      const bf16* rounded, const float* bounds,
                                                                      long long* indices, long long m, int codes) {
    DYNAMIC_SHARED(bf16, rows);             // ROWS rows of z, rounded
    bf16* const tiles = rows + ROWS * PITCH;  // twice CODES codes
    float* const tile_bounds = reinterpret_cast<float*>(tiles + 2 * CODES * PITCH);  // twice CODES times 4
    MAKE_LISTS(lists)
    const int lane = threadIdx.x % 32, warps_row = threadIdx.x / 32 * 16;
    const int tiles_end = (codes + CODES - 1) / CODES;
    z += blockIdx.x * (long long)ROWS * D;  // from here on all rows count from the block's first
    indices += blockIdx.x * (long long)ROWS;
    m -= blockIdx.x * (long long)ROWS;

    auto start = [&](int tile) {
        bf16* const to = tiles + tile % 2 * CODES * PITCH;
        for (int at = threadIdx.x; at < CODES * (DEPTH / 8); at += THREADS) {
            const int k = at / (DEPTH / 8), j = at % (DEPTH / 8) * 8;
            const bool there = tile * CODES + k < codes;
            const long long from = there ? (tile * CODES + k) * (long long)DEPTH + j : 0;
            cp_async<16>(to + k * PITCH + j, rounded + from, there ? 16 : 0);
        }
        for (int k = threadIdx.x; k < CODES; k += THREADS) {
            const bool there = tile * CODES + k < codes;
            const long long from = there ? 4LL * (tile * CODES + k) : 0;
            cp_async<16>(tile_bounds + (tile % 2 * CODES + k) * 4, bounds + from, there ? 16 : 0);
        }
    };
    start(0);
    cp_async_commit();
    for (int at = threadIdx.x; at < ROWS * DEPTH; at += THREADS) {
        const int row = at / DEPTH, j = at % DEPTH;
        rows[row * PITCH + j] = to_bf16(row < m && j < D ? z[row * (long long)D + j] : 0.0f);
    }
    Rows mine = begin_rows(lists, z, m, warps_row);

    for (int tile = 0; tile < tiles_end; tile++) {
        cp_async_wait<0>();
        __syncthreads();  // the tile is there for all, and all are done with the tile before
        if (tile + 1 < tiles_end) start(tile + 1);
        cp_async_commit();
        const bf16* const code = tiles + tile % 2 * CODES * PITCH;
        const float* const bound = tile_bounds + tile % 2 * CODES * 4;

        float s[CODES / 8][4];
        begin_scores(s, bound);
#pragma unroll
        for (int j = 0; j < DEPTH; j += 16) {
            unsigned a[4];
            ldmatrix(a, rows + (warps_row + lane % 16) * PITCH + j + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < CODES / 8; n += 2) {
                unsigned b[4];
                ldmatrix(b, code + (n * 8 + lane / 16 * 8 + lane % 8) * PITCH + j + lane / 8 % 2 * 8);
                mma_bf16(s[n], a, b[0], b[1]);
                mma_bf16(s[n + 1], a, b[2], b[3]);
            }
        }
        list_candidates(lists, mine, s, bound, tile * CODES, codes, warps_row);
    }
    cp_async_wait<0>();  // the last commit was of nothing
    decide(lists, mine, z, codebook, indices, m, codes, warps_row);
}
