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
// multiplication, one comparison for each score. As in rung 3 of attention, cp.async brings the next tile meanwhile.
//
// Not yet run on hardware.
#include "lib/ptx.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define ROWS (16 * WARPS)
#define LIST 16
#define ALL 0xffffffffu

#define DEPTH ((D + 15) / 16 * 16)
#define PITCH (DEPTH + 8)           // an odd number of 16-byte pieces: 8 rows never meet at the same banks
#define LONGEST 0x1p62f             // |z| |c| and |c|^2 must be finite in float

// --- the codebook, rounded, and its part of the bounds -----------------------------------------------------------------

// For each code: E_k / |z| as far as it grows with z; -|c|^2 / 2 + the rest of E_k; that rest. A warp for each code.
extern "C" __global__ void __launch_bounds__(THREADS) prepare(const float* codebook, bf16* rounded, float* bounds,
                                                              int codes) {
    const int code = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (code >= codes) return;
    double square = 0;
    for (int j = lane; j < DEPTH; j += 32) {
        const float x = j < D ? codebook[code * (long long)D + j] : 0.0f;
        rounded[code * (long long)DEPTH + j] = to_bf16(x);
        square += (double)x * x;
    }
    for (int distance = 16; distance > 0; distance /= 2) square += __shfl_xor_sync(ALL, square, distance);
    if (lane > 0) return;
    const double u = 0x1p-8, g = 0x1p-22 * (DEPTH + 16), up = 1 + 0x1p-20;  // `up` for the rounding of these numbers
    // Below 2^-126 a number may count as 0: by the root of D times 2^-118 a code is longer than it is, and u times that
    // pays for its numbers; D times 2^-125 pays for the products.
    const double length = sqrt(square) + sqrt((double)D) * 0x1p-118;
    const double rest = g * square / 2 + (D + 16) * 0x1p-125;
    float* const bound = bounds + 4 * (long long)code;
    bound[0] = (float)((2 * u + u * u + g) * length * up);
    bound[1] = length < LONGEST ? (float)(rest * up - square / 2) : __int_as_float(0x7fffffff);  // NaN: no bound
    bound[2] = (float)(rest * up);
    bound[3] = 0;
}

// --- exact distances ---------------------------------------------------------------------------------------------------

__device__ double squared_distance(const float* z, const float* code) {
    double distance = 0;
    for (int j = 0; j < D; j++) {
        const double difference = (double)z[j] - code[j];
        distance += difference * difference;
    }
    return distance;
}

struct Nearest {
    double distance;
    int code;  // -1: none yet
};

// The nearer one; the first NaN is nearest of all, as argmin has it.
__device__ Nearest nearer(Nearest a, Nearest b) {
    if (a.code < 0 || b.code < 0) return a.code < 0 ? b : a;
    const bool a_nan = a.distance != a.distance, b_nan = b.distance != b.distance;
    if (a_nan != b_nan) return a_nan ? a : b;
    if (a_nan || a.distance == b.distance) return a.code < b.code ? a : b;
    return a.distance < b.distance ? a : b;
}

__device__ Nearest nearer_of_lanes(Nearest mine, int apart) {
    const Nearest other = {__shfl_xor_sync(ALL, mine.distance, apart), __shfl_xor_sync(ALL, mine.code, apart)};
    return nearer(mine, other);
}

// --- all codes ---------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS, 2) nearest_code(const float* z, const float* codebook,
                                                                      const bf16* rounded, const float* bounds,
                                                                      long long* indices, long long m, int codes) {
    DYNAMIC_SHARED(bf16, rows);             // ROWS rows of z, rounded
    bf16* const tiles = rows + ROWS * PITCH;  // twice CODES codes
    float* const tile_bounds = reinterpret_cast<float*>(tiles + 2 * CODES * PITCH);  // twice CODES times 4
    __shared__ int listed[ROWS][LIST];
    __shared__ float listed_upper[ROWS][LIST];
    __shared__ int count[ROWS];             // of a row's list; more than LIST: all codes must be looked at
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warps_row = threadIdx.x / 32 * 16;
    const long long first_row = blockIdx.x * (long long)ROWS;
    const int tiles_end = (codes + CODES - 1) / CODES;

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
        const int row = at / max(DEPTH, 1), j = at % max(DEPTH, 1);
        const bool there = first_row + row < m && j < D;
        rows[row * PITCH + j] = to_bf16(there ? z[(first_row + row) * D + j] : 0.0f);
    }

    // A lane has the rows g and g + 8 of its warp, together with the 3 other lanes of the same g.
    float length[2], slack[2], best[2];  // best: the highest lower bound of t so far
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = warps_row + g + 8 * h;
        double square = 0;
        if (first_row + row < m)
            for (int j = t; j < D; j += 4) square += (double)z[(first_row + row) * D + j] * z[(first_row + row) * D + j];
        square += __shfl_xor_sync(ALL, square, 1);
        square += __shfl_xor_sync(ALL, square, 2);
        length[h] = (float)(1.001 * sqrt(square) + 0x1p-110);  // above |z| + 2^-118 sqrt(d)
        slack[h] = (float)(0x1p-40 * square);                  // what exact distances may be off: they are doubles
        const bool bounded = length[h] < LONGEST;
        best[h] = first_row + row < m && bounded ? -INFINITY : INFINITY;
        if (t == 0) count[row] = bounded ? 0 : LIST + 1;
    }

    for (int tile = 0; tile < tiles_end; tile++) {
        cp_async_wait<0>();
        __syncthreads();  // the tile is there for all, and all are done with the tile before
        if (tile + 1 < tiles_end) start(tile + 1);
        cp_async_commit();
        const bf16* const code = tiles + tile % 2 * CODES * PITCH;
        const float* const bound = tile_bounds + tile % 2 * CODES * 4;

        // s[n][2 h + e]: row g + 8 h, code 8 n + 2 t + e of the tile; U without the part that grows with z.
        float s[CODES / 8][4];
#pragma unroll
        for (int n = 0; n < CODES / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] = bound[4 * (8 * n + 2 * t + e % 2) + 1];
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
        bool reached = false;
#pragma unroll
        for (int n = 0; n < CODES / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[n][e] += length[e / 2] * bound[4 * (8 * n + 2 * t + e % 2)];
                reached |= !(s[n][e] < best[e / 2]);  // NaN reaches everything
            }
        if (!__any_sync(ALL, reached)) continue;

        // First the best lower bound of the tile, then the codes that reach it.
        const int left = codes - tile * CODES;
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
            for (int n = 0; n < CODES / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int k = 8 * n + 2 * t + e;
                    const float error = length[h] * bound[4 * k] + bound[4 * k + 2];
                    if (k < left) best[h] = fmaxf(best[h], s[n][2 * h + e] - 2 * error - slack[h]);
                }
            best[h] = fmaxf(best[h], __shfl_xor_sync(ALL, best[h], 1));
            best[h] = fmaxf(best[h], __shfl_xor_sync(ALL, best[h], 2));
            const int row = warps_row + g + 8 * h;
#pragma unroll
            for (int n = 0; n < CODES / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int k = 8 * n + 2 * t + e;
                    if (k >= left || s[n][2 * h + e] < best[h]) continue;
                    const int place = atomicAdd(&count[row], 1);
                    if (place >= LIST) continue;
                    listed[row][place] = tile * CODES + k;
                    listed_upper[row][place] = s[n][2 * h + e];
                }
        }
        __syncwarp();
        // Then sweep the lists: a lane for each row drops what the new bound excludes.
        const float low = __shfl_sync(ALL, best[0], lane % 8 * 4), high = __shfl_sync(ALL, best[1], lane % 8 * 4);
        if (lane < 16) {
            const int row = warps_row + lane, before = count[row];
            int kept = 0;
            for (int place = 0; before <= LIST && place < before; place++) {
                if (listed_upper[row][place] < (lane < 8 ? low : high)) continue;
                listed[row][kept] = listed[row][place];
                listed_upper[row][kept] = listed_upper[row][place];
                kept++;
            }
            count[row] = before > LIST ? LIST + 1 : kept;
        }
        __syncwarp();
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (count[warps_row + g + 8 * h] > LIST) best[h] = INFINITY;
    }
    cp_async_wait<0>();  // the last commit was of nothing

    // Two lanes for each row look at every second one of its list.
    {
        const int row = warps_row + lane % 16;
        Nearest nearest = {0, -1};
        if (first_row + row < m && count[row] <= LIST)
            for (int place = lane / 16; place < count[row]; place += 2) {
                const int k = listed[row][place];
                const double distance = squared_distance(z + (first_row + row) * D, codebook + k * (long long)D);
                nearest = nearer(nearest, {distance, k});
            }
        nearest = nearer_of_lanes(nearest, 16);
        if (lane < 16 && nearest.code >= 0) indices[first_row + row] = nearest.code;
    }
    // All lanes together look at all codes for a row whose list did not suffice.
    for (int row = warps_row; row < warps_row + 16; row++) {
        if (first_row + row >= m || count[row] <= LIST) continue;
        Nearest nearest = {0, -1};
        for (int k = lane; k < codes; k += 32)
            nearest = nearer(nearest, {squared_distance(z + (first_row + row) * D, codebook + k * (long long)D), k});
        for (int apart = 16; apart > 0; apart /= 2) nearest = nearer_of_lanes(nearest, apart);
        if (lane == 0) indices[first_row + row] = nearest.code;
    }
}
