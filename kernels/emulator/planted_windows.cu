// Mistakes with copies of windows of images (TMA, im2col). Every kernel is meant to copy two images of 4 x 4 pixels of 4
// numbers: the windows of a convolution of 3 x 3 with a padding of 1 begin at -1, -1, and their middle is the image.
#include "lib/ptx90.cuh"

#define SIZE 64
#define BYTES (SIZE * 4)

#define MAKE(barrier, count)                 \
    if (threadIdx.x == 0) {                  \
        mbarrier_init(&barrier, count);      \
        fence_mbarrier_init();               \
    }                                        \
    __syncthreads();

#define WINDOWS(target, bytes, row, right, wait) WINDOWS_OF(blockIdx.x, target, bytes, row, right, wait)
#define WINDOWS_OF(image, target, bytes, row, right, wait)                            \
    __shared__ __align__(128) float tile[2 * SIZE];                                   \
    __shared__ mbarrier full;                                                         \
    MAKE(full, 1)                                                                     \
    if (threadIdx.x == 0) {                                                           \
        mbarrier_arrive_expect(&full, bytes);                                         \
        tma_load_windows(target, &x, &full, 0, -1, row, image, right, 1);             \
    }                                                                                 \
    wait;                                                                             \
    y[blockIdx.x * SIZE + threadIdx.x] = tile[threadIdx.x];

extern "C" __global__ void windows(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile, BYTES, -1, 1, mbarrier_wait(&full, 0))
}

// The instruction would take the low 16 bits and the hardware 8 of them.
extern "C" __global__ void offset_too_large(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile, BYTES, -1, 257, mbarrier_wait(&full, 0))  // FINDS bad operand
}

extern "C" __global__ void offset_below_zero(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile, BYTES, -1, -1, mbarrier_wait(&full, 0))  // FINDS bad operand
}

// It is the window that begins there, not the pixel: the first row is -1 and the last one 2.
extern "C" __global__ void begins_at_a_pixel(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile, BYTES, 3, 1, mbarrier_wait(&full, 0))  // FINDS bad operand
}

extern "C" __global__ void begins_before_the_first(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile, BYTES, -2, 1, mbarrier_wait(&full, 0))  // FINDS bad operand
}

extern "C" __global__ void begins_in_the_third_image(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS_OF(2, tile, BYTES, -1, 1, mbarrier_wait(&full, 0))  // FINDS bad operand
}

extern "C" __global__ void begins_in_no_image(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS_OF(-1, tile, BYTES, -1, 1, mbarrier_wait(&full, 0))  // FINDS bad operand
}

extern "C" __global__ void misaligned_target(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile + 4, BYTES, -1, 1, mbarrier_wait(&full, 0))  // FINDS misaligned
}

extern "C" __global__ void windows_not_waited_for(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile, BYTES, -1, 1, __syncthreads())  // FINDS missing wait
}

extern "C" __global__ void more_bytes_than_come(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile, BYTES + 16, -1, 1, mbarrier_wait(&full, 0))  // FINDS deadlock
}

extern "C" __global__ void tiles_of_a_map_of_windows(const __grid_constant__ TensorMap x, float* y) {
    __shared__ __align__(128) float tile[SIZE];
    __shared__ mbarrier full;
    MAKE(full, 1)
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&full, BYTES);
        tma_load(tile, &x, &full, 0, 0, 0, blockIdx.x);  // FINDS bad operand
    }
    mbarrier_wait(&full, 0);
    y[blockIdx.x * SIZE + threadIdx.x] = tile[threadIdx.x];
}

// No rule is broken: only the values tell.
extern "C" __global__ void off_by_one_window(const __grid_constant__ TensorMap x, float* y) {
    WINDOWS(tile, BYTES, -1, 2, mbarrier_wait(&full, 0))  // FINDS wrong value
}
