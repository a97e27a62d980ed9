// CUDA's vocabulary for g++ and clang++: what a kernel needs to see so that it compiles unchanged for the emulator.
//
// A kernel becomes an ordinary function that one fiber per CUDA thread runs. Loads and stores need nothing of their
// own: -fsanitize=thread puts a call before each of them, and runtime.cpp answers these calls.
#pragma once

#define _GLIBCXX_BITS_SPECFUN_H  // libstdc++'s Bessel functions, which took half the time of compiling a kernel
#include <math.h>
#include <stddef.h>
#include <string.h>

namespace emulator {

template <class T>
struct Three {
    T x, y, z;
};
typedef Three<unsigned> Index;

struct Lane {  // what a thread knows about itself
    Index thread;
    int lane;  // its place in its warp of 32
    unsigned together;  // the lanes of the last shuffle, vote or __syncwarp that it took part in
};

struct Program {  // a kernel's library: its first byte and the one behind its last, and those of the shared memory in it
    char *begin, *end, *shared_begin, *shared_end;
};

// A whole number that a library leaves undefined, of 64 bits or 32. It is so small that sums of a few do not overflow.
constexpr long long UNSPECIFIED = -12245005;

enum Access : short { READ, WRITE, ATOMIC, COPY, BULK };

extern Lane* self;  // the thread that runs now
extern Index block, block_size, grid_size, cluster_size;  // the last one in blocks
extern int cluster_blocks, block_rank;  // how many blocks are a cluster, and which of them this one is
extern bool cooperative;  // the launch's whole grid is one

void access(const void* address, size_t bytes, Access kind, const void* where);
void compare_next(const void* address);  // what was read there last was a guess
void atomic_access(const void* address, size_t bytes, bool everywhere, const void* where, bool only_reads = false);  // or in the block only
void fence(bool everywhere);
void block_barrier(const void* where);
int block_barrier_votes(bool vote, const void* where);  // how many threads of the block voted for it
void failed(const char* why, const void* where);        // and the block cannot go on
void bad_operand(const char* why, int number, const void* where, bool stops = true);  // %d stands for the number
void not_set(const char* what, unsigned number, const void* where);  // but used; %x stands for the number
void untrue(const char* what, const void* where);       // that a kernel promised
void warp_barrier(unsigned mask, const void* where);
void* dynamic_shared();
// Addresses in shared memory have 32 bits, also of other blocks of the cluster, whose rank is in them: runtime.cpp.
unsigned shared_address(const void* pointer);
void* shared_pointer(unsigned address, bool of_any_rank = false);  // what this block has there, if it is its own
int rank_of(unsigned address);
unsigned address_in_block(unsigned address, int rank, const void* where);

// All lanes of the mask hand in `bytes` bytes; returns everybody's, 16 bytes for each lane.
const char* warp_exchange(unsigned mask, const void* value, size_t bytes, const void* where);
void check_source_lane(int source, const void* where);
void refuse_width(int width, const void* where);

// What lib/ptx.cuh is made of here: copies.hpp, matrices.hpp.
void copy(void* shared, const void* global, int bytes, int valid, const void* where);
void commit_copies();
void wait_for_copies(int groups);
void arrive_with_copies(void* barrier, bool counted, const void* where);
void copy_part(void* to, const void* from, size_t bytes, size_t align, unsigned rank, unsigned of, void* barrier, const void* where);
void load_matrices(unsigned* result, int count, bool trans, const void* row, const void* where);
void store_matrices(void* row, const unsigned* values, int count, bool trans, const void* where);
void mma_bf16(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where);
void mma_fp16(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where);
void mma_fp16_to_halves(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where);  // still as floats
void mma_tf32(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where);
bool card_multiplies_fp8();
void mma_e4m3(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where);
void mma_e5m2(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where);
void mma_s8(int* d, const unsigned* a, unsigned b0, unsigned b1, const void* where);
// And include/mma.h: wmma.hpp.
enum Number { FP16, BF16, TF32, F32, F64, S8, U8, S32, E4M3, E5M2, NONE, U32, S64, U64 };
enum Reduction { COPIED, ADD, MIN, MAX, AND, OR, XOR };  // what a copy to global memory does with what is there
struct WarpProduct {  // D = A B + C. Element i of a matrix, row by row, is number i / 32 of lane i % 32.
    int m, n, k;                    // m x k times k x n
    Number factors, before, after;  // of A and B, of C, of D
    const void *a, *b, *c;
    void* d;
    bool saturate;  // sums of whole numbers that do not fit
};
void multiply_fragments(const WarpProduct& product, const void* where);
void matrix_in_memory(const void* first, size_t stride, size_t fragment_bytes, const void* where);  // in bytes
// And lib/ptx90.cuh: barriers.hpp, bulk.hpp, stores.hpp, warpgroups.hpp, registers.hpp, clusters.hpp.
struct TensorMap;
void named_barrier_sync(int number, int count, const void* where);
void named_barrier_arrive(int number, int count, const void* where);
void mbarrier_init(void* address, int count, const void* where);
void mbarrier_arrive(void* address, int bytes, const void* where, int count = 1);
void mbarrier_arrive_at(void* here, int rank, const void* where, int bytes = 0, int count = 1);
void mbarrier_drop(void* address, const void* where);
bool mbarrier_phase(void* address, const void* where);  // the parity of the phase that goes on
void mbarrier_wait(void* address, unsigned parity, bool of_cluster, const void* where);
bool mbarrier_try_wait(void* address, unsigned parity, bool of_cluster, const void* where);
void fence_mbarrier_init();
void fence_proxy_async();
void bulk_load(void* shared, const TensorMap* map, void* barrier, unsigned ranks, int axes, const int* at,
               const void* where);
void bulk_load_windows(void* shared, const TensorMap* map, void* barrier, const int* at, const int* offset,
                       const void* where);
void bulk_load_bytes(void* shared, const void* global, int bytes, void* barrier, unsigned ranks, const void* where);
void bulk_send_bytes(void* theirs, int rank, const void* shared, int bytes, void* barrier, const void* where);
void bulk_store(const TensorMap* map, const void* shared, int axes, const int* at, const void* where, Reduction how = COPIED);
void bulk_store_bytes(void* global, const void* shared, int bytes, const void* where, Reduction how = COPIED, Number of = NONE);
void commit_stores();
void wait_for_stores(int groups);
void cluster_arrive(const void* where, bool relaxed = false);
void cluster_wait(const void* where);
void grid_arrive(const void* where);
long long ticks();
void sleep(const void* where);
// Where the block of that rank has what this one has at `here`, after the access to it has been checked.
void* in_block(int rank, const void* here, size_t bytes, Access kind, const void* where);
void* map_shared_rank(const void* here, int rank, const void* where);
int query_shared_rank(const void* address);
unsigned long long wgmma_descriptor(const void* tile, int panel, const void* where);
void wgmma(float* sums, int columns, const unsigned* a, unsigned long long a_tile, unsigned long long b_tile,
           bool across_a, bool across_b, const void* where);
void wgmma_s8(int* sums, int columns, unsigned long long a_tile, unsigned long long b_tile, const void* where);
void wgmma_fp8(float* sums, int columns, int a_mantissa, int b_mantissa, unsigned long long a_tile, unsigned long long b_tile,
               const void* where);
struct GroupProduct {  // as inline PTX has it: sums = sign A B^T + (add ? sums : 0)
    Number a_type, b_type, sum_type;
    int columns;
    unsigned* const* sums;  // registers, with two numbers of FP16 in each
    const unsigned* a;      // four registers, or null
    unsigned long long a_tile, b_tile;
    bool across_a, across_b, add, minus;
};
void wgmma(const GroupProduct& product, const void* where);
void wgmma_fence(const void* sums = nullptr, int count = 0);
void wgmma_commit();
void wgmma_wait(int groups, const void* where);
void change_registers(int count, bool up, const void* where);
float from_bf16(unsigned short bits);
float from_fp16(unsigned short bits);
unsigned short to_bf16(float x);  // rounded to the nearest, to the even one of two; NaN is 0x7fff
unsigned short to_fp16(float x);
unsigned to_tf32(float x);        // rounded to the nearest, away from 0 of two

}  // namespace emulator

template <class T>
inline void* operator new(size_t, T* where) noexcept { return where; }

struct alignas(64) emulator::TensorMap {  // what a GPU keeps in 128 bytes of its own format
    void* data;
    unsigned rank;
    unsigned short item_bytes, number;        // the emulator's Number, which reductions need
    unsigned swizzle;
    unsigned box[5];
    unsigned long long sizes[5], strides[5];  // the first axis is the one whose elements lie next to each other
    signed char lower[2], upper[2];           // of windows, columns and rows: see Im2colMap in tensor_map.py
    unsigned char step[2], of_windows, of_bytes;          // or of a copy that has no map
};
static_assert(sizeof(emulator::TensorMap) == 128, "as large as a GPU's");
typedef emulator::TensorMap TensorMap;

#define threadIdx (emulator::self->thread)
#define blockIdx (emulator::block)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)
#define warpSize 32

#define __global__
#define __grid_constant__
#define __device__ __inline  // g++ checks no structure that a call takes by value; inlined, it is no call
#define __host__
#define EMULATOR_VARIABLE __constant__ __inline  // of the whole grid: `__device__ int count;`
#define __constant__ __attribute__((used, aligned(8192)))  // which leaves room for a red zone between two of them
#define __forceinline__
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)  // build.py reads it
#define __cluster_dims__(...)  // source.py reads it
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __builtin_align__(bytes) __align__(bytes)  // as CUDA's own headers have it
#define __device_builtin__

// Blocks run one after the other, so a static variable is exactly a block's shared memory (of the blocks of a cluster,
// the one whose turn it is: clusters.hpp). All of it goes into one section of the program, which the emulator finds and
// poisons; a guard before each array, and one after the last (build.py), catches what runs over.
#define EMULATOR_JOIN_(a, b) a##b
#define EMULATOR_JOIN(a, b) EMULATOR_JOIN_(a, b)
#define EMULATOR_SHARED __attribute__((used, aligned(32), section("shared_memory")))
#define __shared__                                                                  \
    static EMULATOR_SHARED char EMULATOR_JOIN(emulator_guard_, __COUNTER__)[1024];  \
    static EMULATOR_SHARED
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(emulator::dynamic_shared())

// Functions of the device. They are not inlined so that the return address is the kernel's line.
#define EMULATOR_FUNCTION __attribute__((noinline, no_sanitize("thread"), unused)) static
#define EMULATOR_WHERE __builtin_return_address(0)
// Those in include/ are always inlined, so that what they load, store and call is the kernel's line's.
#define EMULATOR_HERE __attribute__((always_inline)) inline
#define EMULATOR_QUIET __attribute__((always_inline, no_sanitize("thread"))) inline  // there is nothing to watch

namespace emulator {

EMULATOR_QUIET Index block_in_cluster() {
    const unsigned rank = unsigned(block_rank);
    return {rank % cluster_size.x, rank / cluster_size.x % cluster_size.y, rank / (cluster_size.x * cluster_size.y)};
}
EMULATOR_QUIET unsigned thread_in_block() {
    const Index& t = self->thread;
    return t.x + block_size.x * (t.y + block_size.y * t.z);
}

}  // namespace emulator

EMULATOR_FUNCTION void __syncthreads() { emulator::block_barrier(EMULATOR_WHERE); }

EMULATOR_FUNCTION void __syncwarp(unsigned mask = 0xffffffffu) { emulator::warp_barrier(mask, EMULATOR_WHERE); }

namespace emulator {

template <class T>
__attribute__((no_sanitize("thread"))) inline T shuffle(unsigned mask, T value, int source, const void* where) {
    static_assert(sizeof(T) <= 16, "a shuffle moves at most 16 bytes");
    const char* values = warp_exchange(mask, &value, sizeof value, where);
    check_source_lane(source, where);
    T result;
    __builtin_memcpy(&result, values + 16 * source, sizeof result);
    return result;
}

}  // namespace emulator

// `width` lanes, a power of two, are a group. Shuffles stay in theirs, but that xor reads from the groups before it too.
#define EMULATOR_WIDTH if (width < 1 || width > 32 || width & (width - 1)) emulator::refuse_width(width, EMULATOR_WHERE)
template <class T>
EMULATOR_FUNCTION T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    EMULATOR_WIDTH;
    const int lane = emulator::self->lane;
    return emulator::shuffle(mask, value, (lane & -width & 31) | (source & (width - 1)), EMULATOR_WHERE);
}

template <class T>
EMULATOR_FUNCTION T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    EMULATOR_WIDTH;
    const int lane = emulator::self->lane, other = (lane ^ bits) & 31;
    return emulator::shuffle(mask, value, other <= (lane | (width - 1)) ? other : lane, EMULATOR_WHERE);
}

template <class T>
EMULATOR_FUNCTION T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    EMULATOR_WIDTH;
    const int lane = emulator::self->lane, other = lane + (distance & 31);
    return emulator::shuffle(mask, value, other <= (lane | (width - 1)) ? other : lane, EMULATOR_WHERE);
}

template <class T>
EMULATOR_FUNCTION T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    EMULATOR_WIDTH;
    const int lane = emulator::self->lane, other = lane - (distance & 31);
    return emulator::shuffle(mask, value, other >= (lane & -width) ? other : lane, EMULATOR_WHERE);
}

EMULATOR_FUNCTION unsigned __ballot_sync(unsigned mask, int vote) {
    const char* votes = emulator::warp_exchange(mask, &vote, sizeof vote, EMULATOR_WHERE);
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++) {
        int other;
        __builtin_memcpy(&other, votes + 16 * lane, sizeof other);
        if (emulator::self->together >> lane & 1 && other) result |= 1u << lane;
    }
    return result;
}

#define __any_sync(mask, vote) (__ballot_sync(mask, vote) != 0)
#define __all_sync(mask, vote) (__ballot_sync(mask, !(vote)) == 0)  // of the lanes that there are

// Atomic operations: `old = *address; *address = (new value); return old;` that no other thread comes between. The
// address determines the type.
namespace emulator {

template <class T>
struct Same {
    typedef T type;
};

}  // namespace emulator

#define EMULATOR_ATOMIC_OF(scope, everywhere, name, kinds, result)                          \
    template <class T>                                                                      \
    EMULATOR_FUNCTION T name##scope(T* address, typename emulator::Same<T>::type value) {   \
        static_assert(kinds, #name " is of whole numbers only");                            \
        emulator::atomic_access(address, sizeof(T), everywhere, EMULATOR_WHERE);            \
        const T old = *address;                                                             \
        *address = result;                                                                  \
        return old;                                                                         \
    }
#define EMULATOR_ATOMIC(name, kinds, result)                  \
    EMULATOR_ATOMIC_OF(, true, name, kinds, result)           \
    EMULATOR_ATOMIC_OF(_block, false, name, kinds, result)    \
    EMULATOR_ATOMIC_OF(_system, true, name, kinds, result)
#define EMULATOR_WHOLE T(1) / T(2) == T(0)
EMULATOR_ATOMIC(atomicAdd, true, old + value)
EMULATOR_ATOMIC(atomicSub, EMULATOR_WHOLE, old - value)
EMULATOR_ATOMIC(atomicMin, EMULATOR_WHOLE, old < value ? old : value)
EMULATOR_ATOMIC(atomicMax, EMULATOR_WHOLE, old > value ? old : value)
EMULATOR_ATOMIC(atomicOr, EMULATOR_WHOLE, old | value)
EMULATOR_ATOMIC(atomicAnd, EMULATOR_WHOLE, old & value)
EMULATOR_ATOMIC(atomicXor, EMULATOR_WHOLE, old ^ value)
EMULATOR_ATOMIC(atomicExch, true, value)
EMULATOR_ATOMIC(atomicInc, EMULATOR_WHOLE, old >= value ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, EMULATOR_WHOLE, old == 0 || old > value ? value : old - 1)

template <class T>
EMULATOR_FUNCTION T atomicCAS(T* address, typename emulator::Same<T>::type expected,
                              typename emulator::Same<T>::type value) {
    emulator::compare_next(address);
    emulator::atomic_access(address, sizeof(T), true, EMULATOR_WHERE);
    const T old = *address;
    if (old == expected) *address = value;
    return old;
}

inline void __threadfence() { emulator::fence(true); }
inline void __threadfence_block() { emulator::fence(false); }
inline void __threadfence_system() { emulator::fence(true); }

#include "emulator/vectors.cuh"
#include "emulator/functions.cuh"

// alignas, of a number or a type, where g++ does not accept the standard's attribute:
// `__shared__ alignas(128) float tile[32];`
namespace emulator {

template <size_t BYTES>
constexpr size_t alignment() { return BYTES; }
template <class T>
constexpr size_t alignment() { return alignof(T); }

}  // namespace emulator
#define alignas(...) __attribute__((aligned(emulator::alignment<__VA_ARGS__>())))

// The door through which the emulator enters a kernel: arguments come as pointers to their values.
namespace emulator {

template <class... Emulated>
struct Call {
    __attribute__((no_sanitize("thread"))) Call(void (*kernel)(Emulated...), Emulated... given) { kernel(given...); }
};

template <class... Emulated>
__attribute__((no_sanitize("thread"))) inline void call(void (*kernel)(Emulated...), void** values) {
    Call<Emulated...>{kernel, *static_cast<Emulated*>(*values++)...};  // in braces: one after another, from the left
}

// What a kernel takes, for Python: of each parameter, or of what it points to, the kind (NumPy's letter: f, i, u, b, or V
// for all that is no number) and how many bytes; 0 of void.
struct Argument {
    char kind;
    bool pointer, is_const;
    unsigned bytes;
};

struct Passed {
    int count;
    Argument arguments[64];
};

template <class T, bool NUMBER = !__is_class(T) && !__is_union(T) && !__is_enum(T)>
struct Described {
    static constexpr Argument value = {T(2) == T(1) ? 'b' : T(0.5) != T(0) ? 'f' : T(-1) < T(0) ? 'i' : 'u', false, false, sizeof(T)};
};
template <class T>
struct Described<T, false> { static constexpr Argument value = {'V', false, false, sizeof(T)}; };
template <class T>
struct Described<T*, true> { static constexpr Argument value = {'u', false, false, sizeof(T*)}; };
template <class T, size_t N>
struct Described<T[N], true> { static constexpr Argument value = Described<T>::value; };  // that a pointer points to
template <>
struct Described<void, true> { static constexpr Argument value = {'V', false, false, 0}; };

template <class T>
struct Argued { static constexpr Argument value = Described<T>::value; };
template <class T>
constexpr Argument pointing(bool is_const) { return {Described<T>::value.kind, true, is_const, Described<T>::value.bytes}; }
template <class T>
struct Argued<T*> { static constexpr Argument value = pointing<T>(false); };
template <class T>
struct Argued<const T*> { static constexpr Argument value = pointing<T>(true); };
template <class T>
struct Argued<volatile T*> { static constexpr Argument value = pointing<T>(false); };
template <class T>
struct Argued<const volatile T*> { static constexpr Argument value = pointing<T>(true); };

template <class... Emulated>
constexpr Passed passed(void (*)(Emulated...)) {
    static_assert(sizeof...(Emulated) <= 64, "a kernel takes at most 64 arguments here");
    return {sizeof...(Emulated), {Argued<Emulated>::value...}};
}

// `extern __shared__ float name[];` outside of functions.
template <class T>
struct Dynamic {
    operator T*() const { return static_cast<T*>(dynamic_shared()); }
    template <class U>
    explicit operator U*() const { return static_cast<U*>(dynamic_shared()); }
};

}  // namespace emulator
