// The instructions of a GPU that CUDA C++ has no words for: matrix products of a warp (tensor cores) and copies that run
// while the program goes on. This file and lib/ptx90.cuh are all that has PTX, the GPU's assembly language.
//
// Every function has two bodies with one meaning: inline PTX for NVRTC, and for g++ a call into the emulator, which
// besides checks what a GPU does not: alignment, that all lanes of the warp take part, that nobody looks at a copy's
// target before the copy is waited for. Copies arrive as late as the rules allow there, so a forgotten wait always shows.
//
// Needs sm_80.
//
// Fragments. mma.sync multiplies small matrices whose elements are spread over the 32 lanes of a warp, a few registers
// in each. With g = lane / 4 and t = lane % 4, a register of two 16-bit or four 8-bit numbers holds (lowest bits first):
//
//     m16n8k16 (bf16, fp16)      A 16x16: a[0] = A[g][2t, 2t+1]        a[1] = A[g+8][2t, 2t+1]
//                                         a[2] = A[g][2t+8, 2t+9]      a[3] = A[g+8][2t+8, 2t+9]
//                                B 16x8:  b0 = B[2t, 2t+1][g]          b1 = B[2t+8, 2t+9][g]
//     m16n8k8 (tf32)             A 16x8:  a[0] = A[g][t]  a[1] = A[g+8][t]  a[2] = A[g][t+4]  a[3] = A[g+8][t+4]
//                                B 8x8:   b0 = B[t][g]    b1 = B[t+4][g]
//     m16n8k32 (int8)            A 16x32: a[0] = A[g][4t ... 4t+3]     a[1] = A[g+8][4t ... 4t+3]
//                                         a[2] = A[g][4t+16 ...]       a[3] = A[g+8][4t+16 ...]
//                                B 32x8:  b0 = B[4t ... 4t+3][g]       b1 = B[4t+16 ...][g]
//     all of them                D 16x8:  d[0], d[1] = D[g][2t, 2t+1]  d[2], d[3] = D[g+8][2t, 2t+1]
//
// So D's registers, rounded in pairs, are A's of the next product: pack(d[0], d[1]) is a[0] and pack(d[2], d[3]) is a[1].
// And in bytes they are all alike: a register is 4 bytes of a row of A (a column of B), so ldmatrix loads all of them.
#pragma once
#include "lib/cuda.cuh"

struct bf16 { unsigned short bits; };  // bfloat16: the upper half of a float
struct fp16 { unsigned short bits; };  // IEEE half precision

// --- numbers of 16 bits ----------------------------------------------------------------------------------------------

#ifdef __CUDACC__

__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

__device__ __forceinline__ float to_float(fp16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ fp16 to_fp16(float x) {
    fp16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two numbers in one register, each rounded to the nearest, ties to even.
__device__ __forceinline__ unsigned pack_bf16(float left, float right) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(right), "f"(left));
    return both;
}

__device__ __forceinline__ unsigned pack_fp16(float left, float right) {
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(right), "f"(left));
    return both;
}

// A float with 10 bits of mantissa, in the place of the upper 19 bits of a float; ties are rounded away from 0.
__device__ __forceinline__ unsigned to_tf32(float x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

#else

inline float to_float(bf16 x) { return emulator::from_bf16(x.bits); }
inline float to_float(fp16 x) { return emulator::from_fp16(x.bits); }
inline fp16 to_fp16(float x) { return {emulator::to_fp16(x)}; }
inline unsigned pack_bf16(float left, float right) {
    return emulator::to_bf16(left) | (unsigned)emulator::to_bf16(right) << 16;
}

inline unsigned pack_fp16(float left, float right) {
    return emulator::to_fp16(left) | (unsigned)emulator::to_fp16(right) << 16;
}

inline unsigned to_tf32(float x) { return emulator::to_tf32(x); }

#endif

__device__ __forceinline__ bf16 to_bf16(float x) { return {(unsigned short)pack_bf16(x, 0.0f)}; }

#ifdef __CUDACC__
#define PTX __device__ __forceinline__
#else
#define PTX EMULATOR_FUNCTION  // not inlined, so that a finding names the line that called
#endif

// 2^x with a relative error of up to 2^-22; what would be less than 2^-126 is 0.
#ifdef __CUDACC__
PTX float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#else
inline float exp2_approx(float x) { return x < -126 ? 0.0f : exp2f(x); }
#endif

// --- cp.async: from global to shared memory, bypassing the registers -------------------------------------------------
//
// A thread's copies since the last commit are a group, and it can wait until at most N of its newest groups are under
// way. Then it sees what its own copies brought; for the others' it needs a barrier after their wait.

#ifdef __CUDACC__

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

// Copy BYTES (4, 8 or 16) bytes, of which only the first `valid` are read and the others become 0. Both addresses must
// be multiples of BYTES. With valid = 0 the source is not touched, but must be a pointer into some array.
template <int BYTES>
PTX void cp_async(void* shared, const void* global, int valid = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    if constexpr (BYTES == 16)  // only this size bypasses the first-level cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :: "r"(shared_address(shared)), "l"(global), "r"(valid) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                     :: "r"(shared_address(shared)), "l"(global), "n"(BYTES), "r"(valid) : "memory");
}

PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
PTX void cp_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

#else

template <int BYTES>
PTX void cp_async(void* shared, const void* global, int valid = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    emulator::copy(shared, global, BYTES, valid, EMULATOR_WHERE);
}

PTX void cp_async_commit() { emulator::commit_copies(); }

template <int N>
PTX void cp_async_wait() { emulator::wait_for_copies(N); }

#endif

// --- named barriers ----------------------------------------------------------------------------------------------------
//
// Barriers 1 to 15 of a block, each for as many threads (whole warps) as all its callers say. `arrive` does not wait.

#ifdef __CUDACC__
PTX void named_barrier_sync(int number, int threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(number), "r"(threads) : "memory");
}
PTX void named_barrier_arrive(int number, int threads) {
    asm volatile("bar.arrive %0, %1;" :: "r"(number), "r"(threads) : "memory");
}
#else
PTX void named_barrier_sync(int number, int threads) { emulator::named_barrier_sync(number, threads, EMULATOR_WHERE); }
PTX void named_barrier_arrive(int number, int threads) { emulator::named_barrier_arrive(number, threads, EMULATOR_WHERE); }
#endif

// --- ldmatrix: fragments from shared memory --------------------------------------------------------------------------
//
// Loads N = 1, 2 or 4 matrices of 8 rows of 16 bytes. Lane 8 i + r gives the address of row r of matrix i, a multiple of
// 16 (lanes from 8 N on give any). r[i] of lane 4 r + c is then the c-th 4 bytes of row r of matrix i; with `trans`, the
// two 16-bit numbers at rows 2c and 2c + 1 of column r. The addresses of 8 rows should differ modulo 128 bytes.

#ifdef __CUDACC__

template <int N>
PTX void ldmatrix(unsigned (&r)[N], const void* row) {
    static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
    const unsigned address = shared_address(row);
    if constexpr (N == 1)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
    else if constexpr (N == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

template <int N>
PTX void ldmatrix_trans(unsigned (&r)[N], const void* row) {
    static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
    const unsigned address = shared_address(row);
    if constexpr (N == 1)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                     : "=r"(r[0]) : "r"(address) : "memory");
    else if constexpr (N == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

#else

template <int N>
PTX void ldmatrix(unsigned (&r)[N], const void* row) {
    static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
    emulator::load_matrices(r, N, false, row, EMULATOR_WHERE);
}

template <int N>
PTX void ldmatrix_trans(unsigned (&r)[N], const void* row) {
    static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
    emulator::load_matrices(r, N, true, row, EMULATOR_WHERE);
}

#endif

// --- mma.sync: D += A B ----------------------------------------------------------------------------------------------
//
// Products are exact and summed in about float precision, in an order and with a rounding that NVIDIA does not promise:
// count on an error of 2^-23 for each of the K + 1 terms, relative to the sum of their magnitudes. Sums of int8 products are
// whole numbers of 32 bits, exact until they overflow.

#ifdef __CUDACC__
#define PTX_MMA(name, Sum, constraint, shape_and_types)                                                    \
    PTX void name(Sum (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {                        \
        asm volatile("mma.sync.aligned." shape_and_types                                                   \
                     " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                    \
                     : constraint(d[0]), constraint(d[1]), constraint(d[2]), constraint(d[3])              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                      \
    }
#else
#define PTX_MMA(name, Sum, constraint, shape_and_types)                                                    \
    PTX void name(Sum (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {                        \
        emulator::name(d, a, b0, b1, EMULATOR_WHERE);                                                      \
    }
#endif

PTX_MMA(mma_bf16, float, "+f", "m16n8k16.row.col.f32.bf16.bf16.f32")
PTX_MMA(mma_fp16, float, "+f", "m16n8k16.row.col.f32.f16.f16.f32")
PTX_MMA(mma_tf32, float, "+f", "m16n8k8.row.col.f32.tf32.tf32.f32")  // operands from to_tf32
PTX_MMA(mma_s8, int, "+r", "m16n8k32.row.col.s32.s8.s8.s32")
