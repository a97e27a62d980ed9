// The nearest code, with the codebook read once for ROWS rows of z instead of once for each.
//
// New here: shared memory. The ROWS threads of a block, one for each row of z, carry a tile of the codebook (CODES codes,
// DEPTH of their numbers) from global to shared memory together, each an equal part of it, and then all read the tile.
// Two barriers make that right: nobody may read the tile before all of it is there, and nobody may write the next one
// before all are done with this one.
//
// While a tile passes, a thread holds CODES unfinished distances in registers: the tiles come along d first. The sums
// have the order of rung 1, so the answers are the same to the last bit: codes come in rising order, and only a smaller
// distance replaces the best.
#include "lib/cuda.cuh"

#define ROWS 128
#define CODES 16
#define DEPTH 32

extern "C" __global__ void __launch_bounds__(ROWS) nearest_code(const float* z, const float* codebook,
                                                                long long* indices, long long m, int codes, int d) {
    __shared__ float tile[CODES][DEPTH];
    const int thread = threadIdx.x;
    const long long i = blockIdx.x * (long long)ROWS + thread;

    double smallest = INFINITY;
    int nearest = 0;
    bool found_nan = false;
    for (int first = 0; first < codes; first += CODES) {
        double distance[CODES];
        for (int k = 0; k < CODES; k++) distance[k] = 0;

        for (int j0 = 0; j0 < d; j0 += DEPTH) {
            for (int element = thread; element < CODES * DEPTH; element += ROWS) {
                const int k = element / DEPTH, j = element % DEPTH;
                const bool inside = first + k < codes && j0 + j < d;
                tile[k][j] = inside ? codebook[(long long)(first + k) * d + j0 + j] : 0.0f;
            }
            __syncthreads();  // the tile is there
            if (i < m) {      // threads without a row still help to carry, so they reach every barrier
                const int depth = min(DEPTH, d - j0);
                for (int j = 0; j < depth; j++) {
                    const double value = z[i * d + j0 + j];
                    for (int k = 0; k < CODES; k++) {
                        const double difference = value - tile[k][j];
                        distance[k] += difference * difference;
                    }
                }
            }
            __syncthreads();  // all are done with it
        }
        for (int k = 0; k < CODES && first + k < codes; k++) {
            const bool is_nan = distance[k] != distance[k];
            if (!found_nan && (distance[k] < smallest || is_nan)) {
                smallest = distance[k];
                nearest = first + k;
                found_nan = is_nan;
            }
        }
    }
    if (i < m) indices[i] = nearest;
}
