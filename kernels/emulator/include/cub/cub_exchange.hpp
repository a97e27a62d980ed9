// cub::BlockExchange: items change places through shared memory. Blocked, a thread has neighbours; striped, its items are
// as far apart as the block (or the warp) has threads.
#pragma once
#include "cub_common.hpp"

namespace emulator {

EMULATOR_FUNCTION void check_place(long long place, int items) {
    if (place < 0 || place >= items) bad_operand("%d is no rank of an item of the block", int(place), EMULATOR_WHERE);
}

// Where the whole block has item i of this thread.
template <int ITEMS>
EMULATOR_QUIET int blocked_place(int i) { return int(thread_in_block()) * ITEMS + i; }
template <int THREADS>
EMULATOR_QUIET int striped_place(int i) { return int(thread_in_block()) + i * THREADS; }
template <int ITEMS>
EMULATOR_QUIET int warp_striped_place(int i) {
    const int thread = int(thread_in_block());
    return thread / 32 * 32 * ITEMS + thread % 32 + i * 32;
}

}  // namespace emulator

namespace cub {

template <class T, int BLOCK_DIM_X, int ITEMS_PER_THREAD, bool WARP_TIME_SLICING = false, int BLOCK_DIM_Y = 1, int BLOCK_DIM_Z = 1, int = 0>
class BlockExchange {
    static constexpr int THREADS = BLOCK_DIM_X * BLOCK_DIM_Y * BLOCK_DIM_Z, N = ITEMS_PER_THREAD;

    static EMULATOR_QUIET int blocked(int i) { return emulator::blocked_place<N>(i); }
    static EMULATOR_QUIET int striped(int i) { return emulator::striped_place<THREADS>(i); }
    static EMULATOR_QUIET int warp_striped(int i) { return emulator::warp_striped_place<N>(i); }

    // Items go to the places `to` gives and come from those that `from` gives; in between is a barrier.
    template <class Out, class To, class From>
    EMULATOR_HERE void exchange(const T (&input)[N], Out (&output)[N], To to, From from, bool in_warps = false) {
        emulator::check_block("this collective of CUB's", BLOCK_DIM_X, BLOCK_DIM_Y, BLOCK_DIM_Z);
        for (int i = 0; i < N; i++) {
            const int place = to(i);
            if (place >= 0) storage[place] = input[i];
        }
        if (in_warps) __syncwarp(emulator::lanes_of_warp());
        else __syncthreads();
        for (int i = 0; i < N; i++) output[i] = storage[from(i)];
    }
    template <class Rank>
    static EMULATOR_HERE int checked(Rank rank) {
        emulator::check_place(rank, THREADS * N);
        return rank;
    }

public:
    struct TempStorage : emulator::Room<T, THREADS * N> {};
    EMULATOR_HERE BlockExchange() : storage(emulator::private_storage<TempStorage>()) {}
    EMULATOR_HERE BlockExchange(TempStorage& storage) : storage(storage) {}

#define EMULATOR_EXCHANGE(Name, to, from, in_warps)                                                                   \
    template <class Out>                                                                                              \
    EMULATOR_HERE void Name(const T (&input)[N], Out (&output)[N]) { exchange(input, output, to, from, in_warps); }   \
    EMULATOR_HERE void Name(T (&items)[N]) { Name(items, items); }
    EMULATOR_EXCHANGE(StripedToBlocked, striped, blocked, false)
    EMULATOR_EXCHANGE(BlockedToStriped, blocked, striped, false)
    EMULATOR_EXCHANGE(WarpStripedToBlocked, warp_striped, blocked, true)
    EMULATOR_EXCHANGE(BlockedToWarpStriped, blocked, warp_striped, true)
#undef EMULATOR_EXCHANGE

    // To the ranks that are given, of the block's items in that order.
#define EMULATOR_SCATTER(Name, to, from)                                                                              \
    template <class Out, class Rank>                                                                                  \
    EMULATOR_HERE void Name(const T (&input)[N], Out (&output)[N], Rank (&ranks)[N]) {                                \
        exchange(input, output, [&](int i) { return to; }, from);                                                     \
    }                                                                                                                 \
    template <class Rank>                                                                                             \
    EMULATOR_HERE void Name(T (&items)[N], Rank (&ranks)[N]) { Name(items, items, ranks); }
    EMULATOR_SCATTER(ScatterToBlocked, checked(ranks[i]), blocked)
    EMULATOR_SCATTER(ScatterToStriped, checked(ranks[i]), striped)
    EMULATOR_SCATTER(ScatterToStripedGuarded, ranks[i] < 0 ? -1 : checked(ranks[i]), striped)
#undef EMULATOR_SCATTER
    template <class Out, class Rank, class Valid>
    EMULATOR_HERE void ScatterToStripedFlagged(const T (&input)[N], Out (&output)[N], Rank (&ranks)[N], Valid (&is_valid)[N]) {
        exchange(input, output, [&](int i) { return is_valid[i] ? checked(ranks[i]) : -1; }, striped);
    }
    template <class Rank, class Valid>
    EMULATOR_HERE void ScatterToStripedFlagged(T (&items)[N], Rank (&ranks)[N], Valid (&is_valid)[N]) {
        ScatterToStripedFlagged(items, items, ranks, is_valid);
    }

private:
    TempStorage& storage;
};

}  // namespace cub
