// What a warp does together: ldmatrix and mma.sync. As in planted.cu, every kernel is meant to reverse every 64 numbers.
#include "lib/ptx.cuh"

#define SIZE 64

// ldmatrix moves 8 rows of 16 bytes as they are, here of 4 floats: lane 4 r + c gets the float at row r, column c.
extern "C" __global__ void loaded(const float* x, float* y, int n) {
    __shared__ __align__(16) float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE, lane = t % 32, warp = t / 32;
    tile[t] = x[i + t];
    __syncthreads();
    unsigned number[1];
    ldmatrix(number, &tile[4 * (8 * warp + 7 - lane % 8)]);  // the lowest row first
    const int at = i + 32 * (1 - warp) + lane / 4 * 4 + 3 - lane % 4;
    y[at] = __int_as_float(number[0]);
}

extern "C" __global__ void loaded_without_a_barrier(const float* x, float* y, int n) {
    __shared__ __align__(16) float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE, lane = t % 32, warp = t / 32;
    tile[t] = x[i + t];
    unsigned number[1];
    ldmatrix(number, &tile[4 * (8 * warp + 7 - lane % 8)]);  // FINDS race
    const int at = i + 32 * (1 - warp) + lane / 4 * 4 + 3 - lane % 4;
    y[at] = __int_as_float(number[0]);
}

extern "C" __global__ void loads_half_a_row(const float* x, float* y, int n) {
    __shared__ __align__(16) float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE, lane = t % 32;
    tile[t] = x[i + t];
    __syncthreads();
    unsigned number[1];
    ldmatrix(number, &tile[2 * (lane % 8)]);  // FINDS misaligned
    y[i + t] = __int_as_float(number[0]);
}

// A wrong swizzle: the row's place was moved when it was written, and is looked for where it was.
extern "C" __global__ void loads_the_wrong_row(const float* x, float* y, int n) {
    __shared__ __align__(16) float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE, lane = t % 32, warp = t / 32;
    tile[t ^ (t / 16 % 2 * 4)] = x[i + t];
    __syncthreads();
    unsigned number[1];
    ldmatrix(number, &tile[4 * (8 * warp + 7 - lane % 8)]);
    const int at = i + 32 * (1 - warp) + lane / 4 * 4 + 3 - lane % 4;
    y[at] = __int_as_float(number[0]);  // FINDS wrong value
}

extern "C" __global__ void half_a_warp_loads(const float* x, float* y, int n) {
    __shared__ __align__(16) float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE, lane = t % 32, warp = t / 32;
    tile[t] = x[i + t];
    __syncthreads();
    unsigned number[1] = {0};
    if (lane < 16) ldmatrix(number, &tile[4 * (8 * warp + 7 - lane % 8)]);  // FINDS deadlock
    y[i + t] = __int_as_float(number[0]);
}

// y as a matrix product: the 64 numbers are a matrix X of 8 rows, J has ones on the antidiagonal and zeros elsewhere,
// and J X are X's rows in reverse. x goes in as three numbers of 11 bits each, which lose none of its 24.
__device__ void multiply_by_j(const float* x, float (&d)[4], int lane) {
    unsigned a[4] = {0, 0, 0, 0};
    a[0] = to_tf32(lane / 4 + lane % 4 == 7);
    a[2] = to_tf32(lane / 4 + lane % 4 + 4 == 7);
    float rest[2] = {x[lane % 4 * 8 + lane / 4], x[(lane % 4 + 4) * 8 + lane / 4]};
    for (int part = 0; part < 3; part++) {
        const unsigned b0 = to_tf32(rest[0]), b1 = to_tf32(rest[1]);
        mma_tf32(d, a, b0, b1);
        rest[0] -= __int_as_float(b0);
        rest[1] -= __int_as_float(b1);
    }
}

extern "C" __global__ void multiplied(const float* x, float* y, int n) {
    const int i = blockIdx.x * SIZE, lane = threadIdx.x % 32;
    if (threadIdx.x >= 32) return;
    float d[4] = {0, 0, 0, 0};
    multiply_by_j(x + i, d, lane);
    y[i + lane / 4 * 8 + 7 - lane % 4 * 2] = d[0];
    y[i + lane / 4 * 8 + 6 - lane % 4 * 2] = d[1];
}

// Each lane holds two numbers of a row, not of a column.
extern "C" __global__ void wrong_fragment(const float* x, float* y, int n) {
    const int i = blockIdx.x * SIZE, lane = threadIdx.x % 32;
    if (threadIdx.x >= 32) return;
    float d[4] = {0, 0, 0, 0};
    multiply_by_j(x + i, d, lane);
    for (int e = 0; e < 2; e++) y[i + (lane % 4 * 2 + e) * 8 + 7 - lane / 4] = d[e];  // FINDS wrong value
}

extern "C" __global__ void no_tf32(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    const unsigned a[4] = {0, 0, 0, 0};
    float d[4] = {0, 0, 0, 0};
    mma_tf32(d, a, __float_as_int(x[i + t]), 0);  // FINDS bad operand
    y[i + t] = d[0];
}

// Nor is a product a barrier.
extern "C" __global__ void product_for_a_barrier(const float* x, float* y, int n) {
    __shared__ float tile[SIZE];
    const int t = threadIdx.x, i = blockIdx.x * SIZE + t;
    const unsigned a[4] = {0, 0, 0, 0};
    float d[4] = {0, 0, 0, 0};
    tile[t] = x[i];
    mma_bf16(d, a, 0, 0);
    y[i] = tile[t ^ 31] + d[0];  // FINDS race
}

// Half of the warp multiplies with one matrix and half with another: an instruction of a warp cannot.
extern "C" __global__ void mma_in_a_branch(const float* x, float* y, int n) {
    const int t = threadIdx.x, i = blockIdx.x * SIZE;
    const unsigned a[4] = {0, 0, 0, 0};
    float d[4] = {0, 0, 0, 0};
    if (t % 2)
        mma_tf32(d, a, 0, 0);    // FINDS divergence
    else
        mma_bf16(d, a, 0, 0);    // FINDS divergence
    y[i + t] = d[0];
}
