// The nearest code by wgmma, and still exactly. The scores, their bounds and the exact decision are those of rung 3.
//
// New here: nobody waits for all (lib/ring.cuh tells more of this). One thread, the producer, has TMA bring tiles of CODES
// codes with their bounds into a ring of STAGES places, ahead of those who need them. Two warp groups, the consumers, have
// 64 rows of z each, which stay in shared memory, and go through the codebook on their own: wgmma computes 64 x CODES
// scores, ordinary arithmetic compares them. While one group compares, the other's products run; neither waits for the other
// (unless it is STAGES tiles ahead), so they may find that rhythm by themselves.
//
// A thread's scores begin with -|c|^2 / 2 and the products are added to that, so what comes out needs one multiplication and
// one comparison. The rows of z are rounded and swizzled by ordinary stores, which wgmma sees after fence_proxy_async.
//
// What it costs: rows of 64, 128, 192 or 256 rounded numbers in shared memory, whatever D is; one block per
// multiprocessor.
//
// Needs sm_90a.
#define CODES 128
#define CONSUMERS 2                     // warp groups
#define ROWS (64 * CONSUMERS)
#define THREADS (128 * CONSUMERS + 32)  // the last warp is the producer's
#include "lib/ring.cuh"
#include "quantize/candidates.cuh"

#define PANELS ((DEPTH + 63) / 64)  // of 64 numbers of each row, 128 bytes
#define PANEL (CODES * 64)          // numbers
#define STAGES (PANELS < 3 ? 4 : PANELS < 4 ? 3 : 2)
#define WARPS 4                     // of `prepare`

static_assert(ROWS == CODES, "panels of rows and of codes have one size");

extern "C" __global__ void __launch_bounds__(32 * WARPS) prepare(const float* codebook, bf16* rounded, float* bounds,
                                                                 int codes) {
    const int code = blockIdx.x * WARPS + threadIdx.x / 32;
    if (code < codes) prepare_code(codebook, rounded, bounds, code, threadIdx.x % 32);
}

__device__ __forceinline__ void produce(Ring<STAGES>& ring, bf16* tiles, float* tile_bounds, const TensorMap* rounded,
                                        const TensorMap* bounds, int codes) {
    for (int tile = 0; tile * CODES < codes; tile++) {
        const Turn<STAGES> turn = tile;
        mbarrier* const full = &ring.full[turn.place];
        ring.wait_empty(turn);
        mbarrier_arrive_expect(full, PANELS * PANEL * 2 + CODES * 16);
#pragma unroll
        for (int panel = 0; panel < PANELS; panel++)
            tma_load(tiles + (turn.place * PANELS + panel) * PANEL, rounded, full, panel * 64, tile * CODES);
        tma_load(tile_bounds + turn.place * CODES * 4, bounds, full, 0, tile * CODES);
    }
}

__device__ __forceinline__ void consume(Ring<STAGES>& ring, const Lists& lists, Rows& mine, const bf16* rows,
                                        const bf16* tiles, const float* tile_bounds, int codes, int warps_row) {
    rows += warps_row / 64 * 64 * 64;
    for (int tile = 0; tile * CODES < codes; tile++) {
        const Turn<STAGES> turn = tile;
        const bf16* const code = tiles + turn.place * PANELS * PANEL;
        const float* const bound = tile_bounds + turn.place * CODES * 4;
        ring.wait_full(turn);
        float scores[CODES / 2];
        begin_scores(scores, bound);
        wgmma_fence(scores);
#pragma unroll
        for (int j = 0; j < DEPTH; j += 16) {
            const int at = j / 64 * PANEL + j % 64;
            wgmma_bf16(scores, wgmma_descriptor(rows + at), wgmma_descriptor(code + at));
        }
        wgmma_commit();
        wgmma_wait<0>(scores);
        list_candidates(lists, mine, scores, bound, tile * CODES, codes, warps_row);
        ring.release(turn);
    }
}

// The maps' boxes are (CODES, 64), swizzled, and (CODES, 4).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    nearest_code(const float* z, const float* codebook, const __grid_constant__ TensorMap rounded,
                 const __grid_constant__ TensorMap bounds, long long* indices, long long m, int codes) {
    DYNAMIC_SHARED(bf16, rows);               // PANELS panels of z, rounded
    bf16* const tiles = rows + PANELS * PANEL;  // STAGES times as many of codes
    float* const tile_bounds = reinterpret_cast<float*>(tiles + STAGES * PANELS * PANEL);  // STAGES times CODES times 4
    MAKE_LISTS(lists)
    __shared__ Ring<STAGES> ring;
    z += blockIdx.x * (long long)ROWS * D;  // from here on all rows count from the block's first
    indices += blockIdx.x * (long long)ROWS;
    m -= blockIdx.x * (long long)ROWS;

    if (threadIdx.x == 0) {
        ring.init(1, 4 * CONSUMERS);
        fence_mbarrier_init();
    }
    for (int at = threadIdx.x; at < ROWS * DEPTH; at += THREADS) {
        const int row = at / DEPTH, j = at % DEPTH, piece = j % 64 / 8 ^ row % 8;  // where the swizzle has it
        const bf16 x = to_bf16(row < m && j < D ? z[row * (long long)D + j] : 0.0f);
        rows[j / 64 * PANEL + row * 64 + piece * 8 + j % 8] = x;
    }
    fence_proxy_async();
    __syncthreads();

    const int warps_row = threadIdx.x / 32 * 16;
    if (warps_row == ROWS) {
        if (threadIdx.x % 32 == 0) produce(ring, tiles, tile_bounds, &rounded, &bounds, codes);
        return;
    }
    Rows mine = begin_rows(lists, z, m, warps_row);
    consume(ring, lists, mine, rows, tiles, tile_bounds, codes, warps_row);
    decide(lists, mine, z, codebook, indices, m, codes, warps_row);
}
