// What CUB's collectives have in common: their storage, the block and the warp that they are for, and what they leave
// undefined. CUB 3 is the model; what it has removed since version 1 is here too where kernels used it.
#pragma once
#include <cooperative_groups.h>

#include <type_traits>

#define CUB_VERSION 300001
#define CUB_MAJOR_VERSION 3
#define CUB_MINOR_VERSION 0
#define CUB_SUBMINOR_VERSION 1
#define CUB_PTX_WARP_THREADS 32
#define CUB_WARP_THREADS(unused) 32
#define CUB_PTX_LOG_WARP_THREADS 5
#define CUB_LOG_WARP_THREADS(unused) 5
#define CUB_MIN(a, b) (((a) > (b)) ? (b) : (a))
#define CUB_MAX(a, b) (((a) > (b)) ? (a) : (b))
#define CUB_QUOTIENT_CEILING(x, y) (((x) + (y) - 1) / (y))
#define CUB_ROUND_UP_NEAREST(x, y) (CUB_QUOTIENT_CEILING(x, y) * (y))

namespace emulator {

// Memory for objects, which may lie in a union, and in shared memory, whatever constructors they have.
template <class T, int COUNT = 1>
struct __attribute__((aligned(16))) Room {
    char bytes[COUNT * sizeof(T)];
    EMULATOR_QUIET T& operator[](int i) { return reinterpret_cast<T*>(bytes)[i]; }
};

// Of a collective that was given none. It is one for all of its type, as in CUB.
template <class TempStorage>
static EMULATOR_HERE TempStorage& private_storage() {
    __shared__ TempStorage storage;
    return storage;
}

// What CUB leaves undefined: a number that is reported in a result.
template <class T>
EMULATOR_QUIET T undefined() {
    if constexpr (::std::is_integral_v<T>) return T(UNSPECIFIED);
    Held<T> none;
#ifdef __clang__
    __builtin_memset(&none.value, 0xff, sizeof(T));
#else
    __builtin_memset(&none.value, 0xfe, sizeof(T));
#endif
    return none.value;
}

// Thread x of the block's first dimension is item x in CUB's order only if the block is the one that the template says.
// With a number of valid items the last threads may be missing, which CUB does not promise, but many kernels rely on it.
EMULATOR_FUNCTION void check_block(const char* collective, int x, int y, int z, int valid = -1) {
    const Index& b = block_size;
    const bool shorter = valid >= 0 && y == 1 && z == 1 && b.y == 1 && b.z == 1 && b.x <= unsigned(x);
    if (!shorter && (b.x != unsigned(x) || b.y != unsigned(y) || b.z != unsigned(z))) {
        char said[160];
        __builtin_snprintf(said, sizeof said, "%s is for blocks of %d x %d x %d threads, and this one has %u x %u x %u", collective,
                           x, y, z, b.x, b.y, b.z);
        bad_operand(said, 0, EMULATOR_WHERE);
    }
    if (valid > int(block_threads())) bad_operand("of the block's items, %d cannot be valid: it has fewer threads", valid, EMULATOR_WHERE);
}
EMULATOR_FUNCTION void check_warps_valid(int valid, int most) {
    if (valid > most) bad_operand("of the logical warp's items, %d cannot be valid: it has fewer lanes", valid, EMULATOR_WHERE);
}

EMULATOR_QUIET unsigned mask_of(int first, int count) { return ~0u >> (32 - count) << first; }
EMULATOR_QUIET unsigned lanes_of_warp() {  // that the block has
    const unsigned before = thread_in_block() / 32 * 32, count = block_threads() - before;
    return mask_of(0, count < 32 ? count : 32);
}

// Of the lanes of a mask, that which is so far after this one; this one if it would not be one of first ... last of its
// logical warp.
template <class T>
EMULATOR_QUIET T from_lane(unsigned mask, const T& mine, int size, int distance, int first, int last, const void* where) {
    Held<T> all[32];
    hand_in(mask, mine, all, where);
    const int rank = self->lane % size, other = rank + distance;
    const int lane = self->lane + (other < first || other > last ? 0 : distance);
    check_lanes(1u << lane, where);
    return all[__builtin_popcount(mask & ((1u << lane) - 1))].value;
}

}  // namespace emulator

namespace cub {

struct NullType {};
template <class T>
using Uninitialized = emulator::Room<T>;

EMULATOR_QUIET unsigned LaneId() { return emulator::self->lane; }
EMULATOR_QUIET unsigned WarpId() { return emulator::thread_in_block() / 32; }
EMULATOR_QUIET int RowMajorTid(int x, int y, int z) {
    const emulator::Index& t = emulator::self->thread;
    return (z == 1 ? 0 : t.z * x * y) + (y == 1 ? 0 : t.y * x) + t.x;
}
template <int LOGICAL_WARP_THREADS>
EMULATOR_QUIET unsigned WarpMask(unsigned warp) {
    constexpr bool POWER_OF_2 = (LOGICAL_WARP_THREADS & (LOGICAL_WARP_THREADS - 1)) == 0;
    return emulator::mask_of(POWER_OF_2 ? warp * LOGICAL_WARP_THREADS % 32 : 0, LOGICAL_WARP_THREADS);
}

// From lanes before or after this one, as far as the logical warp's lane that is named; beyond it, what they have.
template <int LOGICAL_WARP_THREADS, class T>
EMULATOR_FUNCTION T ShuffleUp(T input, int distance, int first_lane, unsigned member_mask) {
    return emulator::from_lane(member_mask, input, LOGICAL_WARP_THREADS, -distance, first_lane, LOGICAL_WARP_THREADS - 1, EMULATOR_WHERE);
}
template <int LOGICAL_WARP_THREADS, class T>
EMULATOR_FUNCTION T ShuffleDown(T input, int distance, int last_lane, unsigned member_mask) {
    return emulator::from_lane(member_mask, input, LOGICAL_WARP_THREADS, distance, 0, last_lane, EMULATOR_WHERE);
}
template <int LOGICAL_WARP_THREADS, class T>
EMULATOR_FUNCTION T ShuffleIndex(T input, int source, unsigned member_mask) {
    const int rank = emulator::self->lane % LOGICAL_WARP_THREADS;
    return emulator::from_lane(member_mask, input, LOGICAL_WARP_THREADS, source - rank, 0, LOGICAL_WARP_THREADS - 1, EMULATOR_WHERE);
}

EMULATOR_HERE void CTA_SYNC() { __syncthreads(); }
EMULATOR_HERE void WARP_SYNC(unsigned mask) { __syncwarp(mask); }

}  // namespace cub
