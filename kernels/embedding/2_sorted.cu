// The gradient of an embedding by sorted segments: work for m indices, not for m * rows, and still no float atomics.
//
// New here: sort first. When the positions i are in the order of their indices, each row of the table has one segment of
// them, and its sum can be taken in a fixed order. (atomicAdd would need no sorting, but adds in the order in which threads
// happen to arrive, and each order rounds differently.)
//
// Sorting: eight bits of the index at a time, from the lowest, each pass keeping the order of equals (a radix sort).
//   digit_counts   each block of CHUNK positions counts its 256 digits; integers, so the order of counting is no matter
//   prefix_sum     turns counts, by digit and then by block, into the places where each block's digits begin
//   place          moves every position there, after those of its block that are before it and have the same digit
//
// Adding: segments may be long (a padding token) or short, so the sorted positions are cut into tiles of TILE.
//   starts         where each row's segment begins
//   tile_sums      adds a tile from left to right; a segment inside one tile is done, of others the tile keeps its part:
//                  the first run of a tile is its `head`, the last one its `tail`
//   join           adds the parts of the segments that cross tiles, from left to right, and puts 0 into rows that nobody
//                  named
#include "lib/cuda.cuh"
#include "lib/ahead.cuh"
#include "lib/fours.cuh"

#define CHUNK 256
#define TILE 64
#define AHEAD 8
#define ALL 0xffffffffu

extern "C" __global__ void __launch_bounds__(CHUNK)
    digit_counts(const int* keys, int* counts, long long m, int shift, long long chunks) {
    __shared__ int count[256];
    const long long i = blockIdx.x * (long long)CHUNK + threadIdx.x;
    count[threadIdx.x] = 0;
    __syncthreads();
    if (i < m) atomicAdd(&count[keys[i] >> shift & 255], 1);
    __syncthreads();
    counts[threadIdx.x * chunks + blockIdx.x] = count[threadIdx.x];
}

// counts[i] becomes the sum of those before i. One block: each warp has a run of them, adds it up, and when all sums are there
// goes along it, AHEAD times 32 counts at a time. How many warps there are is a choice of the launch.
extern "C" __global__ void __launch_bounds__(1024) prefix_sum(int* counts, long long n) {
    __shared__ int sums[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const long long each = (n + warps - 1) / warps, first = warp * each, end = min(first + each, n);
    int sum = 0, place = 0;
#pragma unroll 8
    for (long long i = first + lane; i < end; i += 32) sum += counts[i];
    for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(ALL, sum, apart);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    for (int other = 0; other < warp; other++) place += sums[other];
    for (long long i = first + lane; i - lane < end; i += 32 * AHEAD) {
        int count[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) count[j] = i + 32 * j < end ? counts[i + 32 * j] : 0;
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            int upto = count[j];  // of the lanes up to this one
            for (int distance = 1; distance < 32; distance *= 2) {
                const int before = __shfl_up_sync(ALL, upto, distance);
                if (lane >= distance) upto += before;
            }
            if (i + 32 * j < end) counts[i + 32 * j] = place + upto - count[j];
            place += __shfl_sync(ALL, upto, 31);
        }
    }
}

// order may be null in the first pass: then position i is at place i.
extern "C" __global__ void __launch_bounds__(CHUNK)
    place(const int* keys, const int* order, const int* counts, int* sorted_keys, int* sorted_order, long long m,
          int shift, long long chunks) {
    __shared__ int digits[CHUNK];
    const int thread = threadIdx.x;
    const long long i = blockIdx.x * (long long)CHUNK + thread;
    const int key = i < m ? keys[i] : 0, digit = key >> shift & 255;
    digits[thread] = digit;
    __syncthreads();
    if (i >= m) return;
    int before = 0;
    for (int t = 0; t < thread; t++) before += digits[t] == digit;
    const int to = counts[digit * chunks + blockIdx.x] + before;
    sorted_keys[to] = key;
    sorted_order[to] = order ? order[i] : int(i);
}

extern "C" __global__ void starts(const int* keys, int* start, long long m, int rows) {
    const long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row > rows) return;
    long long low = 0, high = m;  // the first place whose key is not below `row` is in [low, high]
    while (low < high) {
        const long long middle = (low + high) / 2;
        if (keys[middle] < row)
            low = middle + 1;
        else
            high = middle;
    }
    start[row] = low;
}

// One thread for each tile and column. What it adds depends on `order` alone, so it need not know yet where a segment ends.
extern "C" __global__ void tile_sums(const float* g, const int* keys, const int* order, float* y, float* head,
                                     float* tail, long long m, long long tiles, int d) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= tiles * d) return;
    const long long begin = at / d * TILE;
    const int count = min((long long)TILE, m - begin);
    g += at % d, y += at % d, keys += begin, order += begin;
    const int before = begin > 0 ? keys[-1] : -1, after = begin + count < m ? keys[count] : -1;
    struct Number {
        int row;
        float value;
    };
    int row = keys[0];
    float sum = 0;
    ahead<AHEAD>(
        0, count, 1, [&](int i) { return Number{keys[i], g[(long long)order[i] * d]}; },
        [&](int, Number number) {
            if (number.row != row) {  // the segment of `row` has ended
                (row == before ? head[at] : y[(long long)row * d]) = sum;
                row = number.row;
                sum = 0;
            }
            sum += number.value;
        });
    if (row == before) head[at] = sum;
    if (row == after) tail[at] = sum;
    if (row != before && row != after) y[(long long)row * d] = sum;
}

// One thread for four neighbouring numbers of a row of y.
extern "C" __global__ void join(const int* start, const float* head, const float* tail, float* y, int rows, int d) {
    const long long fours = (d + 3) / 4, thread = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (thread >= rows * fours) return;
    const long long row = thread / fours;
    const int j = 4 * (thread % fours), left = d - j;
    const int begin = start[row], end = start[row + 1];
    if (begin == end) store_four(y, row * d + j, left, {{0, 0, 0, 0}});
    const int first = begin / TILE, last = (end - 1) / TILE;
    if (begin == end || first == last) return;
    Four sum = load_four(tail, (long long)first * d + j, left);
    ahead<4>(
        first + 1, last + 1, 1, [&](int tile) { return load_four(head, (long long)tile * d + j, left); },
        [&](int, const Four& part) {
#pragma unroll
            for (int i = 0; i < 4; i++) sum.v[i] += part.v[i];
        });
    store_four(y, row * d + j, left, sum);
}
