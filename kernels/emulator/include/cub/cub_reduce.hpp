// cub::WarpReduce and cub::BlockReduce. The order of a warp's sums is that of CUB, where a lane adds what is 1, 2, 4, 8
// and 16 lanes after it; then thread 0 adds those of the warps in their order.
#pragma once
#include "cub_operators.hpp"

namespace emulator {

// What lanes first ... end - 1 of a logical warp have together, known to the first of them.
template <class T, class Op>
EMULATOR_QUIET T reduced(Held<T> (&all)[32], int first, int end, Op& op) {
    for (int apart = 1; apart < end - first; apart *= 2)
        for (int i = first; i + apart < end; i += 2 * apart) all[i].value = op(all[i].value, all[i + apart].value);
    return all[first].value;
}
template <class T, class Op>
EMULATOR_FUNCTION T warp_reduced(unsigned mask, int rank, const T& mine, Op& op, int valid) {
    Held<T> all[32];
    hand_in(mask, mine, all, EMULATOR_WHERE);
    if (rank || valid < 1) return undefined<T>();
    check_lanes(mask_of(0, valid) << __builtin_ctz(mask), EMULATOR_WHERE);
    return reduced(all, 0, valid, op);
}
// In segments that begin at the lanes with a flag, or end there.
template <class T, class Op>
EMULATOR_FUNCTION T segments_reduced(unsigned mask, int rank, const T& mine, Op& op, bool flag, bool heads) {
    Held<T> all[32];
    Held<bool> flags[32];
    hand_in(mask, mine, all, EMULATOR_WHERE);
    hand_in(mask, flag, flags, EMULATOR_WHERE);
    check_lanes(mask, EMULATOR_WHERE);
    const int count = __builtin_popcount(mask);
    if (rank && !(heads ? flag : flags[rank - 1].value)) return undefined<T>();
    int end = rank + heads;
    while (end < count && !flags[end].value) end++;
    if (!heads && end < count) end++;
    return reduced(all, rank, end, op);
}

}  // namespace emulator

namespace cub {

// By shuffles: its storage is not touched (CUB's is where the size is no power of two).
template <class T, int LOGICAL_WARP_THREADS = 32, int = 0>
class WarpReduce {
    static_assert(LOGICAL_WARP_THREADS >= 1 && LOGICAL_WARP_THREADS <= 32, "a logical warp has 1 to 32 threads");
    const int first, rank;

    EMULATOR_HERE unsigned mask() const { return emulator::mask_of(first, LOGICAL_WARP_THREADS); }

public:
    struct TempStorage : emulator::Room<char> {};
    EMULATOR_HERE WarpReduce(TempStorage&)
        : first(emulator::self->lane / LOGICAL_WARP_THREADS * LOGICAL_WARP_THREADS), rank(emulator::self->lane - first) {}

    template <class Op>
    EMULATOR_HERE T Reduce(T input, Op op, int valid_items) {
        emulator::check_warps_valid(valid_items, LOGICAL_WARP_THREADS);
        if (first + LOGICAL_WARP_THREADS > 32) return emulator::undefined<T>();  // no logical warp has these lanes
        return emulator::warp_reduced(mask(), rank, input, op, valid_items);
    }
    template <class Op>
    EMULATOR_HERE T Reduce(T input, Op op) { return Reduce(input, op, LOGICAL_WARP_THREADS); }
    EMULATOR_HERE T Sum(T input) { return Reduce(input, cub::Sum()); }
    EMULATOR_HERE T Sum(T input, int valid_items) { return Reduce(input, cub::Sum(), valid_items); }

    template <class Op, class Flag>
    EMULATOR_HERE T HeadSegmentedReduce(T input, Flag head_flag, Op op) {
        return emulator::segments_reduced(mask(), rank, input, op, bool(head_flag), true);
    }
    template <class Op, class Flag>
    EMULATOR_HERE T TailSegmentedReduce(T input, Flag tail_flag, Op op) {
        return emulator::segments_reduced(mask(), rank, input, op, bool(tail_flag), false);
    }
    template <class Flag>
    EMULATOR_HERE T HeadSegmentedSum(T input, Flag head_flag) { return HeadSegmentedReduce(input, head_flag, cub::Sum()); }
    template <class Flag>
    EMULATOR_HERE T TailSegmentedSum(T input, Flag tail_flag) { return TailSegmentedReduce(input, tail_flag, cub::Sum()); }
};

enum BlockReduceAlgorithm {
    BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY,
    BLOCK_REDUCE_RAKING,
    BLOCK_REDUCE_WARP_REDUCTIONS,
    BLOCK_REDUCE_WARP_REDUCTIONS_NONDETERMINISTIC,
};

// By raking, every thread's item goes through shared memory; otherwise every warp's.
template <class T, int BLOCK_DIM_X, BlockReduceAlgorithm ALGORITHM = BLOCK_REDUCE_WARP_REDUCTIONS, int BLOCK_DIM_Y = 1, int BLOCK_DIM_Z = 1,
          int = 0>
class BlockReduce {
    static constexpr bool RAKING = ALGORITHM == BLOCK_REDUCE_RAKING || ALGORITHM == BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY;
    static constexpr int THREADS = BLOCK_DIM_X * BLOCK_DIM_Y * BLOCK_DIM_Z, STEP = RAKING ? 1 : 32;

    template <class Op>
    EMULATOR_HERE T reduced(T input, Op op, int valid) {
        const int thread = emulator::thread_in_block();
        if (!RAKING) {
            const int left = valid - thread / 32 * 32;
            const unsigned lanes = emulator::lanes_of_warp();
            const int most = __builtin_popcount(lanes);
            input = emulator::warp_reduced(lanes, thread % 32, input, op, left < most ? left : most);
        }
        if (thread % STEP == 0) storage[thread / STEP] = input;
        __syncthreads();
        if (thread || valid < 1) return emulator::undefined<T>();
        T result = storage[0];
        for (int i = STEP; i < valid; i += STEP) {
            const T next = storage[i / STEP];
            result = op(result, next);
        }
        return result;
    }

public:
    struct TempStorage : emulator::Room<T, (THREADS + STEP - 1) / STEP> {};
    EMULATOR_HERE BlockReduce() : storage(emulator::private_storage<TempStorage>()) {}
    EMULATOR_HERE BlockReduce(TempStorage& storage) : storage(storage) {}

    template <class Op>
    EMULATOR_HERE T Reduce(T input, Op op) {
        emulator::check_block("this cub::BlockReduce", BLOCK_DIM_X, BLOCK_DIM_Y, BLOCK_DIM_Z);
        return reduced(input, op, THREADS);
    }
    template <class Op>
    EMULATOR_HERE T Reduce(T input, Op op, int num_valid) {
        emulator::check_block("this cub::BlockReduce", BLOCK_DIM_X, BLOCK_DIM_Y, BLOCK_DIM_Z, num_valid < 0 ? 0 : num_valid);
        return reduced(input, op, num_valid);
    }
    template <int ITEMS, class Op>
    EMULATOR_HERE T Reduce(T (&inputs)[ITEMS], Op op) {
        T sum = inputs[0];
        for (int i = 1; i < ITEMS; i++) sum = op(sum, inputs[i]);
        return Reduce(sum, op);
    }
    EMULATOR_HERE T Sum(T input) { return Reduce(input, cub::Sum()); }
    EMULATOR_HERE T Sum(T input, int num_valid) { return Reduce(input, cub::Sum(), num_valid); }
    template <int ITEMS>
    EMULATOR_HERE T Sum(T (&inputs)[ITEMS]) { return Reduce(inputs, cub::Sum()); }

private:
    TempStorage& storage;
};

}  // namespace cub
