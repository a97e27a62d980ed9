// Mistakes with atomic operations, which are ordered among each other and with nothing else. As in planted.cu every
// kernel is meant to reverse every 64 numbers, and besides its threads add to common sums.
#include "lib/cuda.cuh"

#define SIZE 64
#define SUM (SIZE * (SIZE - 1) / 2)  // of all threads' numbers
#define PLACE const int t = threadIdx.x, i = blockIdx.x * SIZE + t, from = blockIdx.x * SIZE + SIZE - 1 - t;
#define ZERO                  \
    __shared__ int sum;       \
    PLACE                     \
    if (t == 0) sum = 0;      \
    __syncthreads();

extern "C" __global__ void summed(const float* x, float* y, int n) {
    ZERO
    atomicAdd(&sum, t);
    __syncthreads();
    y[i] = x[from] + (sum - SUM);
}

extern "C" __global__ void set_while_another_adds(const float* x, float* y, int n) {
    ZERO
    if (t == 33) sum = 1;             // FINDS race
    if (t == 40) atomicAdd(&sum, t);  // FINDS race
    __syncthreads();
    y[i] = x[from] + sum;
}

// Who sets it adds at once, and so nobody sees it between.
extern "C" __global__ void set_and_added(const float* x, float* y, int n) {
    ZERO
    if (t == 33) sum = 1;  // FINDS race
    atomicAdd(&sum, t);    // FINDS race
    __syncthreads();
    y[i] = x[from] + (sum - SUM);
}

extern "C" __global__ void added_and_read(const float* x, float* y, int n) {
    ZERO
    int more = 0;
    if (t < 32) atomicAdd(&sum, t);  // FINDS race
    else more = sum;                 // FINDS race
    y[i] = x[from] + more;
}

// Nothing orders two blocks: the other one may add before or after.
extern "C" __global__ void set_by_one_block(const float* x, float* y, int n) {
    PLACE
    if (blockIdx.x == 0) y[t] = x[from];  // FINDS race
    else atomicAdd(&y[t], 0.0f);          // FINDS race, uninitialised
}

extern "C" __global__ void read_by_one_block(const float* x, float* y, int n) {
    PLACE
    if (blockIdx.x == 0) y[SIZE + t] = y[t];  // FINDS race, uninitialised
    else atomicAdd(&y[t], x[from]);           // FINDS race, uninitialised
}

// The first block adds as well, after its own barrier, which is none for the others.
extern "C" __global__ void zero_of_one_block(const float* x, float* y, int n) {
    PLACE
    if (i == 0) y[0] = 0;        // FINDS race
    __syncthreads();
    atomicAdd(&y[0], x[from]);   // FINDS race, uninitialised
}

// A byte of what another thread writes as a whole.
extern "C" __global__ void a_byte_of_it(const float* x, float* y, int n) {
    __shared__ int number;
    PLACE
    if (t == 40) number = n;                                                     // FINDS race
    const int byte = t == 3 ? reinterpret_cast<const char*>(&number)[2] : 0;     // FINDS race, uninitialised
    y[i] = x[from] + byte;
}
