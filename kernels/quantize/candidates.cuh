// The nearest of few codes: what rungs 3 and 4 do with products that know their error. Why the bounds hold is in 3_mma.cu.
//
// A kernel that includes this gives D, the numbers of a row, CODES, the codes of a tile, and ROWS, the rows of z of a block. A
// warp has 16 rows, and scores s of these and a tile's codes: score(s, n, 2 h + e) is of row g + 8 h and code 8 n + 2 t + e.
#pragma once
#include "lib/ptx.cuh"

#define LIST 24
#define ALL 0xffffffffu
#define DEPTH (D > 16 ? (D + 15) / 16 * 16 : 16)
#define LONGEST 0x1p62f  // |z| |c| and |c|^2 must be finite in float
#define TEAM (D > 64 ? 32 : D > 16 ? 8 : 2)  // lanes that compute a distance together, so that they read neighbours
#define TEAMS (32 / TEAM)

// --- the codebook, rounded, and its part of the bounds -----------------------------------------------------------------

// For each code: E_k / |z| as far as it grows with z; -|c|^2 / 2 + the rest of E_k; that rest. A warp for each code.
__device__ __forceinline__ void prepare_code(const float* codebook, bf16* rounded, float* bounds, int code, int lane) {
    double square = 0;
    for (int j = lane; j < DEPTH; j += 32) {
        const float x = j < D ? codebook[code * (long long)D + j] : 0.0f;
        rounded[code * (long long)DEPTH + j] = to_bf16(x);
        square += (double)x * x;
    }
    for (int distance = 16; distance > 0; distance /= 2) square += __shfl_xor_sync(ALL, square, distance);
    if (lane > 0) return;
    const double u = 0x1p-8, g = 0x1p-22 * (DEPTH + 16), up = 1 + 0x1p-20;  // `up` for the rounding of these numbers
    // Below 2^-126 a number may count as 0: a code's length is raised by the root of D times 2^-118, and u times that
    // covers its numbers; D times 2^-125 covers the products.
    const double length = sqrt(square) + sqrt((double)D) * 0x1p-118;
    const double rest = g * square / 2 + (D + 16) * 0x1p-125;
    float* const bound = bounds + 4 * (long long)code;
    bound[0] = (float)((2 * u + u * u + g) * length * up);
    bound[1] = length < LONGEST ? (float)(rest * up - square / 2) : __int_as_float(0x7fffffff);  // NaN: no bound
    bound[2] = (float)(rest * up);
    bound[3] = 0;
}

// --- exact distances ---------------------------------------------------------------------------------------------------

// Every lane of a team gets it, or 0 if its code is not wanted. All lanes of the warp must call.
__device__ __forceinline__ double squared_distance(const float* z, const float* code, bool wanted) {
    double distance = 0;
    if (wanted)
#pragma unroll
        for (int j = threadIdx.x % TEAM; j < D; j += TEAM) {
            const double difference = (double)z[j] - code[j];
            distance += difference * difference;
        }
#pragma unroll
    for (int apart = TEAM / 2; apart > 0; apart /= 2) distance += __shfl_xor_sync(ALL, distance, apart);
    return distance;
}

// The same as rung 1 has it, from left to right. A team's sum has another order, and so may round otherwise.
__device__ double distance_in_order(const float* z, const float* code) {
    double distance = 0;
#pragma unroll 4
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

// The same of distances by teams. Two orders of D terms that are not negative differ by less than 2^-52 D of the sum; where that
// might decide, rung 1's order does.
__device__ Nearest nearer_of_teams(const float* z, const float* codebook, Nearest a, Nearest b) {
    const double longer = fmax(a.distance, b.distance);
    const bool close = longer < INFINITY && fabs(a.distance - b.distance) <= 0x1p-51 * D * longer;
    if (a.code < 0 || b.code < 0 || !close) return nearer(a, b);
    const double first = distance_in_order(z, codebook + a.code * (long long)D);
    const double second = distance_in_order(z, codebook + b.code * (long long)D);
    return nearer({first, a.code}, {second, b.code}).code == a.code ? a : b;
}

// --- the candidates of each row ----------------------------------------------------------------------------------------

struct Lists {  // in shared memory, one for each of the block's rows
    int (*code)[LIST];
    float (*upper)[LIST];
    int* count;  // of a row's list; more than LIST: all codes must be looked at
};

#define MAKE_LISTS(lists)                        \
    __shared__ int listed[ROWS][LIST];           \
    __shared__ float listed_upper[ROWS][LIST];   \
    __shared__ int listed_count[ROWS];           \
    const Lists lists = {listed, listed_upper, listed_count};

struct Rows {  // the rows g and g + 8 of the warp's 16, which a lane has together with the 3 others of the same g
    float length[2], slack[2], best[2];  // best: the highest lower bound of t so far
};

__device__ __forceinline__ float& score(float (&s)[CODES / 8][4], int n, int e) { return s[n][e]; }
__device__ __forceinline__ float& score(float (&s)[CODES / 2], int n, int e) { return s[4 * n + e]; }

// `first` is the warp's first row among the block's, `z` and `m` count from the block's first.
__device__ __forceinline__ Rows begin_rows(const Lists& lists, const float* z, long long m, int first) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    double squares[2] = {0, 0};  // of g and g + 8
#pragma unroll 4
    for (int each = 0; each < 16; each++) {
        double square = 0;
        if (first + each < m)
            for (int j = lane; j < D; j += 32) {
                const double x = z[(first + each) * (long long)D + j];
                square += x * x;
            }
        for (int apart = 16; apart > 0; apart /= 2) square += __shfl_xor_sync(ALL, square, apart);
        if (each == g) squares[0] = square;
        if (each == g + 8) squares[1] = square;
    }
    Rows rows;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + g + 8 * h;
        rows.length[h] = (float)(1.001 * sqrt(squares[h]) + 0x1p-110);  // above |z| + 2^-118 sqrt(d)
        rows.slack[h] = (float)(0x1p-40 * squares[h]);                  // the error of exact distances, in double
        const bool bounded = rows.length[h] < LONGEST;
        rows.best[h] = row < m && bounded ? -INFINITY : INFINITY;
        if (t == 0) lists.count[row] = bounded ? 0 : LIST + 1;
    }
    __syncwarp();  // others of the warp will add to these lists
    return rows;
}

// What a score begins with: U without the part that grows with z. `bound` is the tile's.
template <class Scores>
__device__ __forceinline__ void begin_scores(Scores& s, const float* bound) {
#pragma unroll
    for (int n = 0; n < CODES / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) score(s, n, e) = bound[4 * (8 * n + threadIdx.x % 4 * 2 + e % 2) + 1];
}

// Drops what the bounds so far exclude from the warp's lists, a lane for each row. All lanes must call.
__device__ __forceinline__ void sweep(const Lists& lists, Rows& rows, int first) {
    const int lane = threadIdx.x % 32, g = lane / 4;
    __syncwarp();  // others have read the counts
    const float low = __shfl_sync(ALL, rows.best[0], lane % 8 * 4), high = __shfl_sync(ALL, rows.best[1], lane % 8 * 4);
    if (lane < 16) {
        const int row = first + lane, before = lists.count[row];
        int kept = 0;
        for (int place = 0; before <= LIST && place < before; place++) {
            if (lists.upper[row][place] < (lane < 8 ? low : high)) continue;
            lists.code[row][kept] = lists.code[row][place];
            lists.upper[row][kept] = lists.upper[row][place];
            kept++;
        }
        lists.count[row] = before > LIST ? LIST + 1 : kept;
    }
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (lists.count[first + g + 8 * h] > LIST) rows.best[h] = INFINITY;
}

// The scores of the tile that begins at code `begins` become U, and the candidates go into the lists. All lanes must
// call.
template <class Scores>
__device__ __forceinline__ void list_candidates(const Lists& lists, Rows& rows, Scores& s, const float* bound, int begins,
                                                int codes, int first) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, left = codes - begins;
    unsigned reached = 0;  // a bit for each 8 codes
#pragma unroll
    for (int n = 0; n < CODES / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            score(s, n, e) += rows.length[e / 2] * bound[4 * (8 * n + 2 * t + e % 2)];
            if (!(score(s, n, e) < rows.best[e / 2])) reached |= 1u << n;  // NaN reaches everything
        }
    if (!__any_sync(ALL, reached != 0)) return;
    for (int apart = 16; apart > 0; apart /= 2) reached |= __shfl_xor_sync(ALL, reached, apart);

    // First the best lower bound of the tile, then the codes that reach it; both are among those that reached the old one.
#pragma unroll
    for (int n = 0; n < CODES / 8; n++) {
        if (!(reached >> n & 1)) continue;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int k = 8 * n + 2 * t + e % 2, h = e / 2;
            const float error = rows.length[h] * bound[4 * k] + bound[4 * k + 2];
            if (k < left) rows.best[h] = fmaxf(rows.best[h], score(s, n, e) - 2 * error - rows.slack[h]);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        rows.best[h] = fmaxf(rows.best[h], __shfl_xor_sync(ALL, rows.best[h], 1));
        rows.best[h] = fmaxf(rows.best[h], __shfl_xor_sync(ALL, rows.best[h], 2));
    }
#pragma unroll
    for (int n = 0; n < CODES / 8; n++) {
        if (!(reached >> n & 1)) continue;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int k = 8 * n + 2 * t + e % 2, row = first + g + 8 * (e / 2);
            if (k >= left || score(s, n, e) < rows.best[e / 2]) continue;
            const int place = atomicAdd(&lists.count[row], 1);
            if (place >= LIST) continue;
            lists.code[row][place] = begins + k;
            lists.upper[row][place] = score(s, n, e);
        }
    }
    __syncwarp();  // what all have added is there
    const bool many = lists.count[first + lane % 16] > LIST / 2;
    if (__any_sync(ALL, many)) sweep(lists, rows, first);
}

// The nearest code of each of the warp's rows; `z`, `m` and `indices` count from the block's first row.
__device__ __forceinline__ void decide(const Lists& lists, Rows& rows, const float* z, const float* codebook,
                                       long long* indices, long long m, int codes, int first) {
    const int lane = threadIdx.x % 32, team = lane / TEAM;
    sweep(lists, rows, first);
    // A team for each row looks at its list.
    for (int row = first + team; row < first + 16; row += TEAMS) {
        const int listed = row < m && lists.count[row] <= LIST ? lists.count[row] : 0;
        int most = listed;
        for (int apart = 16; apart >= TEAM; apart /= 2) most = max(most, __shfl_xor_sync(ALL, most, apart));
        Nearest nearest = {0, -1};
        for (int place = 0; place < most; place++) {
            const int k = place < listed ? lists.code[row][place] : 0;
            const float* const numbers = z + row * (long long)D;
            const double distance = squared_distance(numbers, codebook + k * (long long)D, place < listed);
            if (place < listed) nearest = nearer_of_teams(numbers, codebook, nearest, {distance, k});
        }
        if (lane % TEAM == 0 && nearest.code >= 0) indices[row] = nearest.code;
    }
    // For a row whose list did not suffice every lane looks at every 32nd code, in rung 1's order: many may be equally near.
    for (int row = first; row < first + 16; row++) {
        if (row >= m || lists.count[row] <= LIST) continue;
        const float* const numbers = z + row * (long long)D;
        Nearest nearest = {0, -1};
        for (int k = lane; k < codes; k += 32)
            nearest = nearer(nearest, {distance_in_order(numbers, codebook + k * (long long)D), k});
        for (int apart = 16; apart > 0; apart /= 2) {
            const double distance = __shfl_xor_sync(ALL, nearest.distance, apart);
            nearest = nearer(nearest, {distance, __shfl_xor_sync(ALL, nearest.code, apart)});
        }
        if (lane == 0) indices[row] = nearest.code;
    }
}
