// One number of a product as it is defined: for numbers that are worked out again.
#pragma once

#ifndef TRANSPOSE_A  // given at compile time, as in rung 2
#define TRANSPOSE_A false
#define TRANSPOSE_B false
#endif

// Of a b, the two of them matrices, over the places from `begins` to `ends` on the inner axis.
__device__ float product_at(const float* a, const float* b, long long row, long long column, long long m, long long n,
                            long long k, long long begins, long long ends) {
    float sum = 0;
#pragma unroll 1
    for (long long l = begins; l < ends; l++)
        sum += a[TRANSPOSE_A ? l * m + row : row * k + l] * b[TRANSPOSE_B ? column * k + l : l * n + column];
    return sum;
}
