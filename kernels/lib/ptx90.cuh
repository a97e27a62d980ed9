// What came with Hopper: copies of whole tiles (TMA), barriers in shared memory that count bytes (mbarrier), stmatrix,
// clusters of blocks, and on sm_90a products of whole warp groups (wgmma). Two bodies for every function, as in
// lib/ptx.cuh.
//
// Needs sm_90.
//
// Two proxies. Ordinary loads and stores and cp.async belong to the generic proxy, TMA and wgmma to the async proxy, and what
// one has written the other need not see, barrier or not. Before the async proxy touches what ordinary stores have written,
// a thread that knows of them (its own, or others' after a barrier) must execute fence_proxy_async(). The other direction
// needs none: whoever has waited at the mbarrier sees what a copy brought.
#pragma once
#include "lib/fp8.cuh"
#include "lib/ptx.cuh"

struct mbarrier { unsigned long long state; };  // in shared memory

#ifdef __CUDACC__

struct alignas(64) TensorMap { unsigned long long bits[16]; };  // as the driver writes it; passed by value, __grid_constant__

// --- mbarrier ----------------------------------------------------------------------------------------------------------
//
// A phase ends when `count` threads have arrived and all bytes that were expected have come. Phases alternate between the
// parities 0 and 1; mbarrier_wait(b, p) waits until the current phase is not of parity p, so p = 0 is the end of the first
// phase and p = 1 is true at once. Whoever waits must flip p each time.

PTX void mbarrier_init(mbarrier* b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(b)), "r"(count) : "memory");
}

PTX void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
PTX void fence_proxy_async() { asm volatile("fence.proxy.async;" ::: "memory"); }

PTX void mbarrier_arrive(mbarrier* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(b)) : "memory");
}

// Arrive and say how many bytes of copies belong to this phase.
PTX void mbarrier_arrive_expect(mbarrier* b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(shared_address(b)), "r"(bytes) : "memory");
}

PTX void mbarrier_wait(mbarrier* b, unsigned parity) {
    unsigned over = 0;
    while (!over)
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(over) : "r"(shared_address(b)), "r"(parity) : "memory");
}

// --- TMA ---------------------------------------------------------------------------------------------------------------
//
// One thread starts the copy of the map's box at (x, y, ...), x along the axis whose elements lie next to each other, to
// `shared`: a multiple of 128 bytes, of 1024 with the swizzle. Its bytes count at the mbarrier. What is outside becomes 0.
// (For sm_120 and sm_121 the assembler of NVRTC 13.5 gives a kernel with such a copy 8 bytes of stack.)

PTX void tma_load(void* shared, const TensorMap* map, mbarrier* b, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4}], [%2];"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(b)), "r"(x), "r"(y) : "memory");
}

PTX void tma_load(void* shared, const TensorMap* map, mbarrier* b, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5}], [%2];"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z) : "memory");
}

PTX void tma_load(void* shared, const TensorMap* map, mbarrier* b, int x, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5, %6}], [%2];"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// The same for windows of images (Im2colMap in tensor_map.py): starting with the window that begins at `row` and
// `column` of image n, which must be one of the map's, the pixels `down` rows and `right` columns further (0 to 255),
// from channel c on.

PTX void tma_load_windows(void* shared, const TensorMap* map, mbarrier* b, int c, int column, int row, int n, int right,
                          int down) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(b)), "r"(c), "r"(column), "r"(row), "r"(n),
                    "h"((unsigned short)right), "h"((unsigned short)down)
                 : "memory");
}

// --- stmatrix: the opposite of ldmatrix --------------------------------------------------------------------------------

template <int N>
PTX void stmatrix(void* row, const unsigned (&r)[N]) {
    static_assert(N == 1 || N == 2 || N == 4, "stmatrix stores 1, 2 or 4 matrices");
    const unsigned address = shared_address(row);
    if constexpr (N == 1)
        asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" :: "r"(address), "r"(r[0]) : "memory");
    else if constexpr (N == 2)
        asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};"
                     :: "r"(address), "r"(r[0]), "r"(r[1]) : "memory");
    else
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                     :: "r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

// --- clusters: blocks that run at the same time and reach each other's shared memory ---------------------------------
//
// A kernel says how many blocks along x form a cluster, at most 8, and its grid is a multiple of that:
//
//     extern "C" __global__ void __cluster_dims__(4, 1, 1) name(...)
//
// All threads of the cluster arrive at its barrier and wait there, alternately; between the two a thread may do what
// concerns nobody else. Whoever has waited sees what the others did before they arrived. Shared memory of a block
// exists as long as the block does, so a cluster needs its barrier before the first access to another block's and after
// the last one.

PTX int cluster_rank() {  // of this block in its cluster: 0, 1, ...
    int rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

PTX int cluster_size() {
    int size;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}

PTX void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
PTX void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
PTX void cluster_sync() { cluster_arrive(); cluster_wait(); }

// Where the block of that rank has what this one has at `here`, in the window of addresses that the cluster shares.
PTX unsigned cluster_address(const void* here, int rank) {
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(here)), "r"(rank));
    return there;
}

// A number in the shared memory of the block of that rank, at the place where it is in this block's.
#define PTX_OF_CLUSTER(type, name, letter)                                                                             \
    PTX type cluster_load(const type* here, int rank) {                                                                \
        type x;                                                                                                        \
        asm volatile("ld.shared::cluster." name " %0, [%1];" : "=" letter(x) : "r"(cluster_address(here, rank))        \
                     : "memory");                                                                                      \
        return x;                                                                                                      \
    }                                                                                                                  \
    PTX void cluster_store(type* here, int rank, type x) {                                                             \
        asm volatile("st.shared::cluster." name " [%0], %1;" :: "r"(cluster_address(here, rank)), letter(x)            \
                     : "memory");                                                                                      \
    }
PTX_OF_CLUSTER(float, "f32", "f")
PTX_OF_CLUSTER(int, "s32", "r")
PTX_OF_CLUSTER(unsigned, "u32", "r")

// Arrive at the mbarrier that the block of that rank has where this one has b. Threads of that block, and no others, wait
// there, with mbarrier_wait_cluster: after another wait they need not see what was done before the arrival.

PTX void mbarrier_arrive_at(mbarrier* b, int rank) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];"
                 :: "r"(cluster_address(b, rank)) : "memory");
}

PTX void mbarrier_wait_cluster(mbarrier* b, unsigned parity) {
    unsigned over = 0;
    while (!over)
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(over) : "r"(shared_address(b)), "r"(parity) : "memory");
}

// tma_load to each block whose rank is a bit of the mask, with one read of global memory: in each the box goes to where
// this block has `shared`, and its bytes count at the mbarrier that is where this one has b. Fast on sm_90a.

PTX void tma_load_multicast(void* shared, const TensorMap* map, mbarrier* b, int mask, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
                 " [%0], [%1, {%4, %5}], [%2], %3;"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(b)), "h"((unsigned short)mask), "r"(x), "r"(y)
                 : "memory");
}

PTX void tma_load_multicast(void* shared, const TensorMap* map, mbarrier* b, int mask, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
                 " [%0], [%1, {%4, %5, %6}], [%2], %3;"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(b)), "h"((unsigned short)mask), "r"(x), "r"(y),
                    "r"(z)
                 : "memory");
}

#else

PTX void mbarrier_init(mbarrier* b, int count) { emulator::mbarrier_init(b, count, EMULATOR_WHERE); }
PTX void fence_mbarrier_init() { emulator::fence_mbarrier_init(); }
PTX void fence_proxy_async() { emulator::fence_proxy_async(); }
PTX void mbarrier_arrive(mbarrier* b) { emulator::mbarrier_arrive(b, 0, EMULATOR_WHERE); }
PTX void mbarrier_arrive_expect(mbarrier* b, int bytes) { emulator::mbarrier_arrive(b, bytes, EMULATOR_WHERE); }
PTX void mbarrier_wait(mbarrier* b, unsigned parity) { emulator::mbarrier_wait(b, parity, false, EMULATOR_WHERE); }

PTX void tma_load(void* shared, const TensorMap* map, mbarrier* b, int x, int y) {
    const int at[] = {x, y};
    emulator::bulk_load(shared, map, b, 1 << emulator::block_rank, 2, at, EMULATOR_WHERE);
}

PTX void tma_load(void* shared, const TensorMap* map, mbarrier* b, int x, int y, int z) {
    const int at[] = {x, y, z};
    emulator::bulk_load(shared, map, b, 1 << emulator::block_rank, 3, at, EMULATOR_WHERE);
}

PTX void tma_load(void* shared, const TensorMap* map, mbarrier* b, int x, int y, int z, int w) {
    const int at[] = {x, y, z, w};
    emulator::bulk_load(shared, map, b, 1 << emulator::block_rank, 4, at, EMULATOR_WHERE);
}

PTX void tma_load_windows(void* shared, const TensorMap* map, mbarrier* b, int c, int column, int row, int n, int right,
                          int down) {
    const int at[] = {c, column, row, n}, offset[] = {right, down};
    emulator::bulk_load_windows(shared, map, b, at, offset, EMULATOR_WHERE);
}

template <int N>
PTX void stmatrix(void* row, const unsigned (&r)[N]) {
    static_assert(N == 1 || N == 2 || N == 4, "stmatrix stores 1, 2 or 4 matrices");
    emulator::store_matrices(row, r, N, false, EMULATOR_WHERE);
}

inline int cluster_rank() { return emulator::block_rank; }
inline int cluster_size() { return emulator::cluster_blocks; }
PTX void cluster_arrive() { emulator::cluster_arrive(EMULATOR_WHERE); }
PTX void cluster_wait() { emulator::cluster_wait(EMULATOR_WHERE); }
PTX void cluster_sync() {
    emulator::cluster_arrive(EMULATOR_WHERE);
    emulator::cluster_wait(EMULATOR_WHERE);
}

#define PTX_OF_CLUSTER(type)                                                                               \
    PTX type cluster_load(const type* here, int rank) {                                                    \
        type x;                                                                                            \
        __builtin_memcpy(&x, emulator::in_block(rank, here, sizeof x, emulator::READ, EMULATOR_WHERE), sizeof x);    \
        return x;                                                                                          \
    }                                                                                                      \
    PTX void cluster_store(type* here, int rank, type x) {                                                 \
        __builtin_memcpy(emulator::in_block(rank, here, sizeof x, emulator::WRITE, EMULATOR_WHERE), &x, sizeof x);   \
    }
PTX_OF_CLUSTER(float)
PTX_OF_CLUSTER(int)
PTX_OF_CLUSTER(unsigned)

PTX void mbarrier_arrive_at(mbarrier* b, int rank) { emulator::mbarrier_arrive_at(b, rank, EMULATOR_WHERE); }
PTX void mbarrier_wait_cluster(mbarrier* b, unsigned parity) { emulator::mbarrier_wait(b, parity, true, EMULATOR_WHERE); }

PTX void tma_load_multicast(void* shared, const TensorMap* map, mbarrier* b, int mask, int x, int y) {
    const int at[] = {x, y};
    emulator::bulk_load(shared, map, b, (unsigned short)mask, 2, at, EMULATOR_WHERE);
}

PTX void tma_load_multicast(void* shared, const TensorMap* map, mbarrier* b, int mask, int x, int y, int z) {
    const int at[] = {x, y, z};
    emulator::bulk_load(shared, map, b, (unsigned short)mask, 3, at, EMULATOR_WHERE);
}

#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)

// --- wgmma: D += A B^T by a warp group, sm_90a only --------------------------------------------------------------------
//
// Four warps, the first of them a multiple of 4, multiply 64 rows of A by N rows of B, 16 numbers of each. B, and A
// unless it is in registers, lie in dynamic shared memory as TMA brings them with the swizzle of 128 bytes: rows of 64
// bf16 numbers, the tile at a multiple of 1024 bytes. The next 16 numbers begin 32 bytes further on. d[4 j + i] of lane
// 4 g + t of warp w is D[16 w + g + i / 2 * 8][8 j + 2 t + i % 2]; registers of A as those of mma_bf16.
//
// wgmma_s8 is the same with bytes: rows of 128 int8 numbers, of which a product takes 32, and exact sums of 32 bits.
// wgmma_fp8 multiplies fp8 numbers, of either format on each side; 13 bits are all that is kept of a float's 23 in its sums.
//
// A bf16 operand may lie ACROSS: a row of 128 bytes for each of the 16 places on the inner axis, with a number for each of 64
// rows of A (or B); the next 16 places begin 16 such rows, 2048 bytes, further on. More than 64 rows are several such tiles,
// `panel` bytes apart (a multiple of 1024), which the descriptor says.
//
// The products run on their own: wgmma_fence() first, then products, wgmma_commit(), wgmma_wait<N>() until at most N
// groups are under way. Meanwhile neither their sums nor their operands may be touched. Given the sums, the fence and the
// wait also keep the compiler from moving work on these registers across them.

#ifdef __CUDACC__

PTX void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PTX void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int N>
PTX void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }

template <int SUMS>
PTX void wgmma_hold(float (&d)[SUMS]) {
#pragma unroll
    for (int i = 0; i < SUMS; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}

template <class T, int N>
PTX void wgmma_hold(T (&a)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(a[i]) :: "memory");
}

template <class Sum, int SUMS>
PTX void wgmma_fence(Sum (&d)[SUMS]) { wgmma_hold(d); wgmma_fence(); }

template <int N, class Sum, int SUMS>
PTX void wgmma_wait(Sum (&d)[SUMS]) { wgmma_wait<N>(); wgmma_hold(d); }

// In units of 16 bytes: bits 0-13 the address, 16-29 from panel to panel of an operand that lies across, 32-45 from 8 rows of
// the tile to the next 8. Bit 62 is the swizzle.
PTX unsigned long long wgmma_descriptor(const void* tile, int panel = 16) {
    return (shared_address(tile) & 0x3ffff) >> 4 | (unsigned long long)(panel >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

// The sums as operands, 8 or 32 from d[i] on, and their names in the text: %0 ... %31 and so on.
#define PTX_8(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3]), c(d[i + 4]), c(d[i + 5]), c(d[i + 6]), c(d[i + 7])
#define PTX_32(c, i) PTX_8(c, i), PTX_8(c, i + 8), PTX_8(c, i + 16), PTX_8(c, i + 24)
#define PTX_SUMS_32(c) PTX_32(c, 0)
#define PTX_SUMS_64(c) PTX_32(c, 0), PTX_32(c, 32)
#define PTX_SUMS_80(c) PTX_SUMS_64(c), PTX_8(c, 64), PTX_8(c, 72)
#define PTX_SUMS_128(c) PTX_SUMS_64(c), PTX_32(c, 64), PTX_32(c, 96)
#define PTX_NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PTX_NAMES_64 PTX_NAMES_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PTX_NAMES_80 PTX_NAMES_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define PTX_NAMES_128 PTX_NAMES_80 ", " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define PTX_WGMMA(shape_and_types, SUMS) "wgmma.mma_async.sync.aligned." shape_and_types " {" PTX_NAMES_##SUMS "}, "

// Both operands in shared memory; the five operands after the sums are these, and whether each lies across.
#define PTX_WGMMA_BF16(SUMS, columns, operands)                                                                        \
    template <bool ACROSS_A = false, bool ACROSS_B = false>                                                            \
    PTX void wgmma_bf16(float (&d)[SUMS], unsigned long long a, unsigned long long b) {                                \
        asm volatile(PTX_WGMMA("m64n" columns "k16.f32.bf16.bf16", SUMS) operands ";"                                  \
                     : PTX_SUMS_##SUMS("+f") : "l"(a), "l"(b), "n"((int)ACROSS_A), "n"((int)ACROSS_B));                \
    }
PTX_WGMMA_BF16(32, "64", "%32, %33, 1, 1, 1, %34, %35")
PTX_WGMMA_BF16(64, "128", "%64, %65, 1, 1, 1, %66, %67")
PTX_WGMMA_BF16(80, "160", "%80, %81, 1, 1, 1, %82, %83")
PTX_WGMMA_BF16(128, "256", "%128, %129, 1, 1, 1, %130, %131")

// A in registers.
#define PTX_WGMMA_BF16_REGISTERS(SUMS, columns, operands)                                                              \
    template <bool ACROSS_B = false>                                                                                   \
    PTX void wgmma_bf16(float (&d)[SUMS], const unsigned (&a)[4], unsigned long long b) {                              \
        asm volatile(PTX_WGMMA("m64n" columns "k16.f32.bf16.bf16", SUMS) operands ";"                                  \
                     : PTX_SUMS_##SUMS("+f")                                                                           \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ACROSS_B));                        \
    }
PTX_WGMMA_BF16_REGISTERS(32, "64", "{%32, %33, %34, %35}, %36, 1, 1, 1, %37")
PTX_WGMMA_BF16_REGISTERS(64, "128", "{%64, %65, %66, %67}, %68, 1, 1, 1, %69")
PTX_WGMMA_BF16_REGISTERS(128, "256", "{%128, %129, %130, %131}, %132, 1, 1, 1, %133")

// int8; bytes cannot lie across.
#define PTX_WGMMA_S8(SUMS, columns, operands)                                                                          \
    PTX void wgmma_s8(int (&d)[SUMS], unsigned long long a, unsigned long long b) {                                    \
        asm volatile(PTX_WGMMA("m64n" columns "k32.s32.s8.s8", SUMS) operands ";"                                      \
                     : PTX_SUMS_##SUMS("+r") : "l"(a), "l"(b));                                                        \
    }
PTX_WGMMA_S8(32, "64", "%32, %33, 1")
PTX_WGMMA_S8(64, "128", "%64, %65, 1")
PTX_WGMMA_S8(128, "256", "%128, %129, 1")

// fp8, 128 columns: the formats of A and B come last.
#define PTX_WGMMA_FP8(A, B)                                                                                            \
    PTX void wgmma_fp8(float (&d)[64], unsigned long long a, unsigned long long b, A, B) {                             \
        asm volatile(PTX_WGMMA("m64n128k32.f32." #A "." #B, 64) "%64, %65, 1, 1, 1;"                                   \
                     : PTX_SUMS_64("+f") : "l"(a), "l"(b));                                                            \
    }
PTX_WGMMA_FP8(e4m3, e4m3)
PTX_WGMMA_FP8(e4m3, e5m2)
PTX_WGMMA_FP8(e5m2, e4m3)
PTX_WGMMA_FP8(e5m2, e5m2)

// Registers of each thread of the warp group from here on, a multiple of 8: a producer gives away what consumers take.
// The kernel must say both numbers of its __launch_bounds__, or the compiler leaves these instructions out (C7508).
template <int N>
PTX void registers_up() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }

template <int N>
PTX void registers_down() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }

#else

PTX void wgmma_fence() { emulator::wgmma_fence(); }
PTX void wgmma_commit() { emulator::wgmma_commit(); }

template <int N>
PTX void wgmma_wait() { emulator::wgmma_wait(N, EMULATOR_WHERE); }

template <class T, int N>
inline void wgmma_hold(T (&)[N]) {}

template <class Sum, int SUMS>
PTX void wgmma_fence(Sum (&d)[SUMS]) { emulator::wgmma_fence(d, SUMS); }

template <int N, class Sum, int SUMS>
PTX void wgmma_wait(Sum (&)[SUMS]) { emulator::wgmma_wait(N, EMULATOR_WHERE); }

PTX unsigned long long wgmma_descriptor(const void* tile, int panel = 16) {
    return emulator::wgmma_descriptor(tile, panel, EMULATOR_WHERE);
}

template <bool ACROSS_A = false, bool ACROSS_B = false, int SUMS>
PTX void wgmma_bf16(float (&d)[SUMS], unsigned long long a, unsigned long long b) {
    static_assert(SUMS == 32 || SUMS == 64 || SUMS == 80 || SUMS == 128,
                  "wgmma_bf16 is written for 64, 128, 160 and 256 columns");
    emulator::wgmma(d, 2 * SUMS, nullptr, a, b, ACROSS_A, ACROSS_B, EMULATOR_WHERE);
}

template <bool ACROSS_B = false, int SUMS>
PTX void wgmma_bf16(float (&d)[SUMS], const unsigned (&a)[4], unsigned long long b) {
    static_assert(SUMS == 32 || SUMS == 64 || SUMS == 128, "wgmma_bf16 is written for 64, 128 and 256 columns");
    emulator::wgmma(d, 2 * SUMS, a, 0, b, false, ACROSS_B, EMULATOR_WHERE);
}

template <int SUMS>
PTX void wgmma_s8(int (&d)[SUMS], unsigned long long a, unsigned long long b) {
    static_assert(SUMS == 32 || SUMS == 64 || SUMS == 128, "wgmma_s8 is written for 64, 128 and 256 columns");
    emulator::wgmma_s8(d, 2 * SUMS, a, b, EMULATOR_WHERE);
}

template <class A, class B>
PTX void wgmma_fp8(float (&d)[64], unsigned long long a, unsigned long long b, A, B) {
    emulator::wgmma_fp8(d, 128, A::MANTISSA, B::MANTISSA, a, b, EMULATOR_WHERE);
}

template <int N>
PTX void registers_up() {
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "24, 32, ... 256 registers");
    emulator::change_registers(N, true, EMULATOR_WHERE);
}

template <int N>
PTX void registers_down() {
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "24, 32, ... 256 registers");
    emulator::change_registers(N, false, EMULATOR_WHERE);
}

#endif
#endif
