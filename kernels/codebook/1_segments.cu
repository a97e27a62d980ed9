// The codebook's moving average (van den Oord et al. 2017, eq. 6 to 8) from the segments of sorted codes:
//
//     N = gamma N + (1 - gamma) n,    m = gamma m + (1 - gamma) total,    e = m / N  where n > 0
//
// embedding/2_sorted.cu has sorted the codes, which gives `start` and with it n[k] = start[k + 1] - start[k], and has taken
// `total`, the sum of each code's vectors. One thread for each number of the codebook; that of column 0 writes N.
#include "lib/cuda.cuh"

extern "C" __global__ void moving_average(const int* start, const float* total, const float* old_N, const float* old_m,
                                          const float* old_e, float* N, float* m, float* e, long long count, int d,
                                          float gamma, float rest) {
    const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    const long long code = at / d;
    const int n = start[code + 1] - start[code];
    const float new_N = gamma * old_N[code] + rest * n, new_m = gamma * old_m[at] + rest * total[at];
    if (at % d == 0) N[code] = new_N;
    m[at] = new_m;
    e[at] = n > 0 ? new_m / new_N : old_e[at];
}
