// cub::WarpScan and cub::BlockScan. Without an initial value, what is before the first item is undefined.
#pragma once
#include "cub_operators.hpp"

namespace emulator {

// A warp's scan in CUB's order: with the items 1, 2, 4, 8 and 16 lanes before. `all` is that of the last lane.
template <class T, class Op>
EMULATOR_FUNCTION void warp_scan(unsigned mask, int rank, const T& mine, Op& op, T& before, T& inclusive, T* all) {
    Held<T> items[32];
    hand_in(mask, mine, items, EMULATOR_WHERE);
    const int count = all ? __builtin_popcount(mask) : rank + 1;
    check_lanes(mask_of(0, count) << __builtin_ctz(mask), EMULATOR_WHERE);
    for (int apart = 1; apart < count; apart *= 2)
        for (int i = count - 1; i >= apart; i--) items[i].value = op(items[i - apart].value, items[i].value);
    inclusive = items[rank].value;
    before = rank ? items[rank - 1].value : undefined<T>();
    if (all) *all = items[count - 1].value;
}

}  // namespace emulator

namespace cub {

template <class T, int LOGICAL_WARP_THREADS = 32, int = 0>
class WarpScan {
    static_assert(LOGICAL_WARP_THREADS >= 1 && LOGICAL_WARP_THREADS <= 32, "a logical warp has 1 to 32 threads");
    const int first, rank;

    template <class Op>
    EMULATOR_HERE void scan(T input, T& before, T& inclusive, Op op, T* all) {
        if (first + LOGICAL_WARP_THREADS <= 32)  // or no logical warp has these lanes
            emulator::warp_scan(emulator::mask_of(first, LOGICAL_WARP_THREADS), rank, input, op, before, inclusive, all);
    }
    template <class Op>
    EMULATOR_HERE void scan_from(T input, T& before, T& inclusive, T initial_value, Op op, T* all) {
        scan(input, before, inclusive, op, all);
        before = rank ? op(initial_value, before) : initial_value;
        inclusive = op(initial_value, inclusive);
    }

public:
    struct TempStorage : emulator::Room<char> {};
    EMULATOR_HERE WarpScan(TempStorage&)
        : first(emulator::self->lane / LOGICAL_WARP_THREADS * LOGICAL_WARP_THREADS), rank(emulator::self->lane - first) {}

    template <class Op>
    EMULATOR_HERE void InclusiveScan(T input, T& output, Op op) {
        T before;
        scan(input, before, output, op, nullptr);
    }
    template <class Op>
    EMULATOR_HERE void InclusiveScan(T input, T& output, Op op, T& warp_aggregate) {
        T before;
        scan(input, before, output, op, &warp_aggregate);
    }
    template <class Op>
    EMULATOR_HERE void InclusiveScan(T input, T& output, T initial_value, Op op) {
        T before;
        scan_from(input, before, output, initial_value, op, nullptr);
    }
    template <class Op>
    EMULATOR_HERE void InclusiveScan(T input, T& output, T initial_value, Op op, T& warp_aggregate) {
        T before;
        scan_from(input, before, output, initial_value, op, &warp_aggregate);
    }
    template <class Op>
    EMULATOR_HERE void ExclusiveScan(T input, T& output, Op op) {
        T inclusive;
        scan(input, output, inclusive, op, nullptr);
    }
    template <class Op>
    EMULATOR_HERE void ExclusiveScan(T input, T& output, Op op, T& warp_aggregate) {
        T inclusive;
        scan(input, output, inclusive, op, &warp_aggregate);
    }
    template <class Op>
    EMULATOR_HERE void ExclusiveScan(T input, T& output, T initial_value, Op op) {
        T inclusive;
        scan_from(input, output, inclusive, initial_value, op, nullptr);
    }
    template <class Op>
    EMULATOR_HERE void ExclusiveScan(T input, T& output, T initial_value, Op op, T& warp_aggregate) {
        T inclusive;
        scan_from(input, output, inclusive, initial_value, op, &warp_aggregate);
    }
    EMULATOR_HERE void InclusiveSum(T input, T& output) { InclusiveScan(input, output, cub::Sum()); }
    EMULATOR_HERE void InclusiveSum(T input, T& output, T& warp_aggregate) { InclusiveScan(input, output, cub::Sum(), warp_aggregate); }
    EMULATOR_HERE void ExclusiveSum(T input, T& output) { ExclusiveScan(input, output, T(), cub::Sum()); }
    EMULATOR_HERE void ExclusiveSum(T input, T& output, T& warp_aggregate) { ExclusiveScan(input, output, T(), cub::Sum(), warp_aggregate); }
    template <class Op>
    EMULATOR_HERE void Scan(T input, T& inclusive_output, T& exclusive_output, Op op) {
        scan(input, exclusive_output, inclusive_output, op, nullptr);
    }
    template <class Op>
    EMULATOR_HERE void Scan(T input, T& inclusive_output, T& exclusive_output, T initial_value, Op op) {
        scan_from(input, exclusive_output, inclusive_output, initial_value, op, nullptr);
    }
    EMULATOR_HERE T Broadcast(T input, unsigned source) {
        return emulator::from_rank(emulator::mask_of(first, LOGICAL_WARP_THREADS), input, source);
    }
};

enum BlockScanAlgorithm { BLOCK_SCAN_RAKING, BLOCK_SCAN_RAKING_MEMOIZE, BLOCK_SCAN_WARP_SCANS };

// The three algorithms are one here, by the scans of warps: all must not use their storage again before a barrier.
template <class T, int BLOCK_DIM_X, BlockScanAlgorithm ALGORITHM = BLOCK_SCAN_RAKING, int BLOCK_DIM_Y = 1, int BLOCK_DIM_Z = 1, int = 0>
class BlockScan {
    static constexpr int THREADS = BLOCK_DIM_X * BLOCK_DIM_Y * BLOCK_DIM_Z, WARPS = (THREADS + 31) / 32;

    // What the threads before this one have, in a thread that is not the first; and what all have.
    template <class Op>
    EMULATOR_HERE void before_and_all(T input, T& before, Op op, T& all) {
        emulator::check_block("this cub::BlockScan", BLOCK_DIM_X, BLOCK_DIM_Y, BLOCK_DIM_Z);
        const int thread = emulator::thread_in_block(), warp = thread / 32;
        T inclusive;
        emulator::warp_scan(emulator::lanes_of_warp(), thread % 32, input, op, before, inclusive, &all);
        if (thread % 32 == 0) storage.of_warps[warp] = all;
        __syncthreads();
        all = storage.of_warps[0];
        T of_warps = all;
        for (int i = 1; i < WARPS; i++) {
            const T next = storage.of_warps[i];
            if (i == warp) of_warps = all;
            all = op(all, next);
        }
        if (warp) before = thread % 32 ? op(of_warps, before) : of_warps;
    }
    template <class Op>
    EMULATOR_HERE void before_from(T input, T& before, T initial_value, Op op, T& all) {
        before_and_all(input, before, op, all);
        before = first() ? initial_value : op(initial_value, before);
    }
    // The first warp asks for what is before the block; its first thread's answer counts.
    template <class Op, class Prefix>
    EMULATOR_HERE void before_from_prefix(T input, T& before, Op op, Prefix& prefix) {
        T all;
        before_and_all(input, before, op, all);
        if (emulator::thread_in_block() < 32) {
            const T given = prefix(all);
            if (first()) storage.prefix[0] = given;
        }
        __syncthreads();
        const T given = storage.prefix[0];
        before = first() ? given : op(given, before);
    }
    static EMULATOR_QUIET bool first() { return emulator::thread_in_block() == 0; }

    // A thread's own items, after what is `before` them, if there is `any`.
    template <int ITEMS, class Op>
    static EMULATOR_HERE T sum_of(T (&input)[ITEMS], Op op) {
        T sum = input[0];
        for (int i = 1; i < ITEMS; i++) sum = op(sum, input[i]);
        return sum;
    }
    template <int ITEMS, class Op>
    static EMULATOR_HERE void inclusive(T (&input)[ITEMS], T (&output)[ITEMS], T before, bool any, Op op) {
        for (int i = 0; i < ITEMS; i++) {
            before = any ? op(before, input[i]) : input[i];
            output[i] = before;
            any = true;
        }
    }
    template <int ITEMS, class Op>
    static EMULATOR_HERE void exclusive(T (&input)[ITEMS], T (&output)[ITEMS], T before, bool any, Op op) {
        for (int i = 0; i < ITEMS; i++) {
            const T next = any ? op(before, input[i]) : input[i];
            output[i] = before;
            before = next;
            any = true;
        }
    }

public:
    struct TempStorage {
        emulator::Room<T, WARPS> of_warps;
        emulator::Room<T> prefix;
    };
    EMULATOR_HERE BlockScan() : storage(emulator::private_storage<TempStorage>()) {}
    EMULATOR_HERE BlockScan(TempStorage& storage) : storage(storage) {}

    // Of one item per thread, and of several.
#define EMULATOR_SCAN(Name, each)                                                                                       \
    template <class Op>                                                                                                 \
    EMULATOR_HERE void Name##Scan(T input, T& output, Op op) {                                                          \
        T all;                                                                                                          \
        Name##Scan(input, output, op, all);                                                                             \
    }                                                                                                                   \
    template <class Op>                                                                                                 \
    EMULATOR_HERE void Name##Scan(T input, T& output, Op op, T& block_aggregate) {                                      \
        T in[1] = {input}, out[1];                                                                                      \
        Name##Scan(in, out, op, block_aggregate);                                                                       \
        output = out[0];                                                                                                \
    }                                                                                                                   \
    template <class Op>                                                                                                 \
    EMULATOR_HERE void Name##Scan(T input, T& output, T initial_value, Op op) {                                         \
        T all;                                                                                                          \
        Name##Scan(input, output, initial_value, op, all);                                                              \
    }                                                                                                                   \
    template <class Op>                                                                                                 \
    EMULATOR_HERE void Name##Scan(T input, T& output, T initial_value, Op op, T& block_aggregate) {                     \
        T in[1] = {input}, out[1];                                                                                      \
        Name##Scan(in, out, initial_value, op, block_aggregate);                                                        \
        output = out[0];                                                                                                \
    }                                                                                                                   \
    template <class Op, class Prefix>                                                                                   \
    EMULATOR_HERE void Name##Scan(T input, T& output, Op op, Prefix& block_prefix_callback_op) {                        \
        T in[1] = {input}, out[1];                                                                                      \
        Name##Scan(in, out, op, block_prefix_callback_op);                                                              \
        output = out[0];                                                                                                \
    }                                                                                                                   \
    template <int ITEMS, class Op>                                                                                      \
    EMULATOR_HERE void Name##Scan(T (&input)[ITEMS], T (&output)[ITEMS], Op op) {                                       \
        T all;                                                                                                          \
        Name##Scan(input, output, op, all);                                                                             \
    }                                                                                                                   \
    template <int ITEMS, class Op>                                                                                      \
    EMULATOR_HERE void Name##Scan(T (&input)[ITEMS], T (&output)[ITEMS], Op op, T& block_aggregate) {                   \
        T before;                                                                                                       \
        before_and_all(sum_of(input, op), before, op, block_aggregate);                                                 \
        each(input, output, before, !first(), op);                                                                      \
    }                                                                                                                   \
    template <int ITEMS, class Op>                                                                                      \
    EMULATOR_HERE void Name##Scan(T (&input)[ITEMS], T (&output)[ITEMS], T initial_value, Op op) {                      \
        T all;                                                                                                          \
        Name##Scan(input, output, initial_value, op, all);                                                              \
    }                                                                                                                   \
    template <int ITEMS, class Op>                                                                                      \
    EMULATOR_HERE void Name##Scan(T (&input)[ITEMS], T (&output)[ITEMS], T initial_value, Op op, T& block_aggregate) {  \
        T before;                                                                                                       \
        before_from(sum_of(input, op), before, initial_value, op, block_aggregate);                                     \
        each(input, output, before, true, op);                                                                          \
    }                                                                                                                   \
    template <int ITEMS, class Op, class Prefix>                                                                        \
    EMULATOR_HERE void Name##Scan(T (&input)[ITEMS], T (&output)[ITEMS], Op op, Prefix& block_prefix_callback_op) {     \
        T before;                                                                                                       \
        before_from_prefix(sum_of(input, op), before, op, block_prefix_callback_op);                                    \
        each(input, output, before, true, op);                                                                          \
    }
    EMULATOR_SCAN(Inclusive, inclusive)
    EMULATOR_SCAN(Exclusive, exclusive)
#undef EMULATOR_SCAN

    EMULATOR_HERE void InclusiveSum(T input, T& output) { InclusiveScan(input, output, cub::Sum()); }
    EMULATOR_HERE void InclusiveSum(T input, T& output, T& block_aggregate) { InclusiveScan(input, output, cub::Sum(), block_aggregate); }
    template <class Prefix>
    EMULATOR_HERE void InclusiveSum(T input, T& output, Prefix& block_prefix_callback_op) {
        InclusiveScan(input, output, cub::Sum(), block_prefix_callback_op);
    }
    template <int ITEMS>
    EMULATOR_HERE void InclusiveSum(T (&input)[ITEMS], T (&output)[ITEMS]) { InclusiveScan(input, output, cub::Sum()); }
    template <int ITEMS>
    EMULATOR_HERE void InclusiveSum(T (&input)[ITEMS], T (&output)[ITEMS], T& block_aggregate) {
        InclusiveScan(input, output, cub::Sum(), block_aggregate);
    }
    template <int ITEMS, class Prefix>
    EMULATOR_HERE void InclusiveSum(T (&input)[ITEMS], T (&output)[ITEMS], Prefix& block_prefix_callback_op) {
        InclusiveScan(input, output, cub::Sum(), block_prefix_callback_op);
    }
    EMULATOR_HERE void ExclusiveSum(T input, T& output) { ExclusiveScan(input, output, T(), cub::Sum()); }
    EMULATOR_HERE void ExclusiveSum(T input, T& output, T& block_aggregate) {
        ExclusiveScan(input, output, T(), cub::Sum(), block_aggregate);
    }
    template <class Prefix>
    EMULATOR_HERE void ExclusiveSum(T input, T& output, Prefix& block_prefix_callback_op) {
        ExclusiveScan(input, output, cub::Sum(), block_prefix_callback_op);
    }
    template <int ITEMS>
    EMULATOR_HERE void ExclusiveSum(T (&input)[ITEMS], T (&output)[ITEMS]) { ExclusiveScan(input, output, T(), cub::Sum()); }
    template <int ITEMS>
    EMULATOR_HERE void ExclusiveSum(T (&input)[ITEMS], T (&output)[ITEMS], T& block_aggregate) {
        ExclusiveScan(input, output, T(), cub::Sum(), block_aggregate);
    }
    template <int ITEMS, class Prefix>
    EMULATOR_HERE void ExclusiveSum(T (&input)[ITEMS], T (&output)[ITEMS], Prefix& block_prefix_callback_op) {
        ExclusiveScan(input, output, cub::Sum(), block_prefix_callback_op);
    }

private:
    TempStorage& storage;
};

}  // namespace cub
