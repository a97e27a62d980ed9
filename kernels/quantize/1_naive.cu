// The nearest code of a codebook, as it is defined:
//
//     indices[i] = argmin_k sum_j (z[i, j] - codebook[k, j])^2          z (m, d), codebook (codes, d)
//
// One thread for each row of z reads the whole codebook. Differences are taken and summed in double precision, from
// left to right; the lowest index wins a tie, and the first distance that is NaN wins against everything (as argmin has
// it). Every thread of a warp reads the same code at the same time, which is one read for all of them, but each block
// reads the codebook anew: m / blockDim.x times codes * d numbers come from memory. The next rung avoids that.
#include "lib/cuda.cuh"

extern "C" __global__ void nearest_code(const float* z, const float* codebook, long long* indices, long long m,
                                        int codes, int d) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= m) return;
    double smallest = INFINITY;
    int nearest = 0;
    for (int k = 0; k < codes; k++) {
        double distance = 0;
        for (int j = 0; j < d; j++) {
            const double difference = (double)z[i * d + j] - codebook[(long long)k * d + j];
            distance += difference * difference;
        }
        if (distance < smallest || distance != distance) {
            smallest = distance;
            nearest = k;
        }
        if (distance != distance) break;
    }
    indices[i] = nearest;
}
