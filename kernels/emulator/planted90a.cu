// Mistakes with products of a warp group, wgmma. As in planted.cu the kernels are meant to reverse rows of 64 numbers, here
// as a product: X J, where J has ones on the antidiagonal. Numbers are bf16; a block has 128 threads for 64 rows.
//
// Needs sm_90a.
#include "lib/ptx90.cuh"

#define MAKE(barrier, count)                 \
    if (threadIdx.x == 0) {                  \
        mbarrier_init(&barrier, count);      \
        fence_mbarrier_init();               \
    }                                        \
    __syncthreads();

#define PRODUCTS(fence_1, fence_2, wait_1, wait_2)                                                   \
    DYNAMIC_SHARED(bf16, tile);                                                                      \
    bf16* const j = tile + 64 * 64;                                                                  \
    __shared__ mbarrier full;                                                                        \
    const int t = threadIdx.x, warp = t / 32, lane = t % 32;                                         \
    for (int at = t; at < 64 * 64; at += 128) {                                                      \
        const int row = at / 64, column = at % 64, piece = column / 8 ^ row % 8;                     \
        j[row * 64 + piece * 8 + column % 8] = to_bf16(row + column == 63);                          \
    }                                                                                                \
    fence_1;                                                                                         \
    MAKE(full, 1)                                                                                    \
    if (t == 0) {                                                                                    \
        mbarrier_arrive_expect(&full, 64 * 64 * 2);                                                  \
        tma_load(tile, &x, &full, 0, 64 * blockIdx.x);                                               \
    }                                                                                                \
    mbarrier_wait(&full, 0);                                                                         \
    float d[32];                                                                                     \
    for (int i = 0; i < 32; i++) d[i] = 0;                                                           \
    fence_2;                                                                                         \
    _Pragma("unroll") for (int k = 0; k < 64; k += 16)                                               \
        wgmma_bf16(d, wgmma_descriptor(tile + k), wgmma_descriptor(j + k));                          \
    wgmma_commit();                                                                                  \
    wait_1;                                                                                          \
    if (t == 0) {                                                                                    \
        mbarrier_arrive_expect(&full, 64 * 64 * 2);                                                  \
        tma_load(tile, &x, &full, 0, 64 * blockIdx.x);                                               \
    }                                                                                                \
    mbarrier_wait(&full, 1);                                                                         \
    wait_2;                                                                                          \
    for (int i = 0; i < 32; i++) {                                                                   \
        const int row = 16 * warp + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2; \
        y[(blockIdx.x * 64 + row) * 64 + column] = d[i];                                             \
    }

extern "C" __global__ void products(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS(fence_proxy_async(), wgmma_fence(), wgmma_wait<0>(); __syncthreads(), (void)0)
}

extern "C" __global__ void stores_without_a_fence(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS((void)0, wgmma_fence(), wgmma_wait<0>(); __syncthreads(), (void)0)  // FINDS missing fence
}

extern "C" __global__ void sums_without_a_fence(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS(fence_proxy_async(), (void)0, wgmma_wait<0>(); __syncthreads(), (void)0)  // FINDS missing fence
}

// A fence is for what the sums held then, and no more.
extern "C" __global__ void sums_changed_after_the_fence(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS(fence_proxy_async(), wgmma_fence(d); d[7] = t, wgmma_wait<0>(); __syncthreads(), (void)0)  // FINDS missing fence
}

// The next tile comes while the products may still read this one.
extern "C" __global__ void waits_too_late(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS(fence_proxy_async(), wgmma_fence(), __syncthreads(), wgmma_wait<0>())  // FINDS missing wait
}

extern "C" __global__ void products_not_waited_for(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS(fence_proxy_async(), wgmma_fence(), __syncthreads(), (void)0)  // FINDS missing wait
}

// The sums are doubled while products are still to be added to them.
extern "C" __global__ void sums_changed_before_the_wait(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS(fence_proxy_async(), wgmma_fence(), d[7] = 1; wgmma_wait<0>(); __syncthreads(), (void)0)  // FINDS missing wait
}

#define ALONE                                                                                    \
    if (warp == 0) {                                                                             \
        wgmma_fence();                                                                           \
        wgmma_bf16(d, wgmma_descriptor(j), wgmma_descriptor(j));                                 \
        wgmma_commit();                                                                          \
        wgmma_wait<0>();                                                                         \
    }

// A product is of four warps.
extern "C" __global__ void a_warp_alone(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS(fence_proxy_async(), wgmma_fence(), wgmma_wait<0>(); __syncthreads(), ALONE)  // FINDS bad operand
}

#define PRODUCT(fence, a, b, wait)                                                               \
    fence;                                                                                       \
    wgmma_bf16(d, wgmma_descriptor(tile + (a)), wgmma_descriptor(j + (b)));                      \
    wgmma_commit();                                                                              \
    wait;
#define AGAIN(...)                                                                               \
    PRODUCTS(fence_proxy_async(), wgmma_fence(), wgmma_wait<0>(); __syncthreads(), PRODUCT(__VA_ARGS__))

extern "C" __global__ void lanes_of_two_minds(const __grid_constant__ TensorMap x, float* y) {
    AGAIN(wgmma_fence(), lane % 2 * 16, 0, wgmma_wait<0>())  // FINDS bad operand
}

extern "C" __global__ void lanes_of_two_minds_on_the_right(const __grid_constant__ TensorMap x, float* y) {
    AGAIN(wgmma_fence(), 0, lane % 2 * 16, wgmma_wait<0>())  // FINDS bad operand
}

extern "C" __global__ void warps_of_two_minds(const __grid_constant__ TensorMap x, float* y) {
    AGAIN(wgmma_fence(), warp % 2 * 16, 0, wgmma_wait<0>())  // FINDS bad operand
}

extern "C" __global__ void between_sixteen_bytes(const __grid_constant__ TensorMap x, float* y) {
    AGAIN(wgmma_fence(), 4, 0, wgmma_wait<0>())  // FINDS bad operand
}

extern "C" __global__ void before_all_memory(const __grid_constant__ TensorMap x, float* y) {
    AGAIN(wgmma_fence(), -8 * 64, 0, wgmma_wait<0>())  // FINDS bad operand
}

extern "C" __global__ void behind_all_memory(const __grid_constant__ TensorMap x, float* y) {
    AGAIN(wgmma_fence(), 1 << 17, 0, wgmma_wait<0>())  // FINDS bad operand
}

// A fence is for the products up to the next wait.
extern "C" __global__ void no_fence_after_the_wait(const __grid_constant__ TensorMap x, float* y) {
    AGAIN((void)0, 0, 0, wgmma_wait<0>())  // FINDS missing fence
}

extern "C" __global__ void tile_between_eight_rows(const __grid_constant__ TensorMap x, float* y) {
    DYNAMIC_SHARED(bf16, tile);
    __shared__ mbarrier full;
    MAKE(full, 1)
    if (threadIdx.x == 0) tma_load(tile + 4 * 64, &x, &full, 0, 0);  // FINDS misaligned
}

#define SHIFTED                                                                                  \
    wgmma_fence();                                                                               \
    wgmma_bf16(d, wgmma_descriptor(tile + 64), wgmma_descriptor(j));                             \
    wgmma_commit();                                                                              \
    wgmma_wait<0>();

// A tile from its second row on: the swizzle goes by eight rows, which must begin at a multiple of 1024 bytes.
extern "C" __global__ void a_row_too_far(const __grid_constant__ TensorMap x, float* y) {
    PRODUCTS(fence_proxy_async(), wgmma_fence(), wgmma_wait<0>(); __syncthreads(), SHIFTED)  // FINDS bad operand
}
