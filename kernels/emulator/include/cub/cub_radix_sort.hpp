// cub::BlockRadixSort. Every thread finds the ranks of its own keys by looking at all others. Then they go where CUB's do.
#pragma once
#include "cub_exchange.hpp"
#include "cub_scan.hpp"

#ifndef EMULATOR_BANK_SIZES
#define EMULATOR_BANK_SIZES
enum cudaSharedMemConfig { cudaSharedMemBankSizeDefault, cudaSharedMemBankSizeFourByte, cudaSharedMemBankSizeEightByte };
#endif

namespace emulator {

template <int BYTES>
struct Bits;
template <>
struct Bits<1> { typedef unsigned char type; };
template <>
struct Bits<2> { typedef unsigned short type; };
template <>
struct Bits<4> { typedef unsigned type; };
template <>
struct Bits<8> { typedef unsigned long long type; };

// A key's bits, which as a whole number are in the order of the keys: -0 as 0.
template <class Key, class Bits>
EMULATOR_QUIET Bits ordered_bits(const Key& key) {
    Bits bits;
    __builtin_memcpy(&bits, &key, sizeof bits);
    constexpr Bits SIGN = Bits(Bits(1) << (sizeof bits * 8 - 1));
    if constexpr (!::std::is_integral_v<Key>) return bits == SIGN || !(bits & SIGN) ? bits | SIGN : ~bits;
    else return ::std::is_signed_v<Key> ? bits ^ SIGN : bits;
}

// The keys lie from the last one on, so that no thread writes where it will read its own: or threads that sort again
// without a barrier would have no race, as they have on a GPU.
template <class Key, class Bits, int COUNT>
EMULATOR_FUNCTION void find_ranks(const Key* keys, int count, int first, int (&ranks)[COUNT], int begin_bit, int end_bit, bool descending) {
    constexpr int MOST = sizeof(Key) * 8;
    if (begin_bit < 0 || begin_bit > end_bit) bad_operand("a sort cannot begin at bit %d", begin_bit, EMULATOR_WHERE);
    if (end_bit > MOST) bad_operand("a sort cannot end at bit %d, which the keys do not have", end_bit, EMULATOR_WHERE);
    access(keys, count * sizeof(Key), READ, EMULATOR_WHERE);
    const Bits below_end = end_bit == MOST ? Bits(~Bits(0)) : Bits((Bits(1) << end_bit) - 1);
    const Bits below_begin = begin_bit == MOST ? Bits(~Bits(0)) : Bits((Bits(1) << begin_bit) - 1);
    const Bits seen = below_end & ~below_begin, turned = descending ? seen : 0;
    Bits mine[COUNT];
    for (int i = 0; i < COUNT; i++) {
        mine[i] = (ordered_bits<Key, Bits>(keys[count - 1 - first - i]) & seen) ^ turned;
        ranks[i] = 0;
    }
    for (int j = 0; j < count; j++) {
        const Bits other = (ordered_bits<Key, Bits>(keys[count - 1 - j]) & seen) ^ turned;
        for (int i = 0; i < COUNT; i++) ranks[i] += other < mine[i] || (other == mine[i] && j < first + i);
    }
}

}  // namespace emulator

namespace cub {

template <class Key, int BLOCK_DIM_X, int ITEMS_PER_THREAD, class Value = NullType, int RADIX_BITS = 4, bool MEMOIZE_OUTER_SCAN = true,
          BlockScanAlgorithm INNER_SCAN_ALGORITHM = BLOCK_SCAN_WARP_SCANS,
          cudaSharedMemConfig SMEM_CONFIG = cudaSharedMemBankSizeFourByte, int BLOCK_DIM_Y = 1, int BLOCK_DIM_Z = 1, int = 0>
class BlockRadixSort {
    static constexpr int N = ITEMS_PER_THREAD, ITEMS = BLOCK_DIM_X * BLOCK_DIM_Y * BLOCK_DIM_Z * N, BITS = sizeof(Key) * 8;
    typedef BlockExchange<Key, BLOCK_DIM_X, N, false, BLOCK_DIM_Y, BLOCK_DIM_Z> Keys;
    typedef BlockExchange<Value, BLOCK_DIM_X, N, false, BLOCK_DIM_Y, BLOCK_DIM_Z> Values;

public:
    union TempStorage {
        typename Keys::TempStorage keys;
        typename Values::TempStorage values;
    };

private:
    TempStorage& storage;

    EMULATOR_HERE void rank(Key (&keys)[N], int (&ranks)[N], int begin_bit, int end_bit, bool descending) {
        emulator::check_block("this cub::BlockRadixSort", BLOCK_DIM_X, BLOCK_DIM_Y, BLOCK_DIM_Z);
        const int first = emulator::blocked_place<N>(0);
        for (int i = 0; i < N; i++) storage.keys[ITEMS - 1 - first - i] = keys[i];
        __syncthreads();
        typedef typename emulator::Bits<sizeof(Key)>::type Bits;
        emulator::find_ranks<Key, Bits>(&storage.keys[0], ITEMS, first, ranks, begin_bit, end_bit, descending);
        __syncthreads();
    }
    template <bool STRIPED, class Exchange, class T>
    static EMULATOR_HERE void scatter(typename Exchange::TempStorage& storage, T (&items)[N], int (&ranks)[N]) {
        if constexpr (STRIPED) Exchange(storage).ScatterToStriped(items, ranks);
        else Exchange(storage).ScatterToBlocked(items, ranks);
    }
    template <bool DESCENDING, bool STRIPED>
    EMULATOR_HERE void sort(Key (&keys)[N], int begin_bit, int end_bit) {
        int ranks[N];
        rank(keys, ranks, begin_bit, end_bit, DESCENDING);
        scatter<STRIPED, Keys>(storage.keys, keys, ranks);
    }
    template <bool DESCENDING, bool STRIPED>
    EMULATOR_HERE void sort(Key (&keys)[N], Value (&values)[N], int begin_bit, int end_bit) {
        int ranks[N];
        rank(keys, ranks, begin_bit, end_bit, DESCENDING);
        scatter<STRIPED, Keys>(storage.keys, keys, ranks);
        __syncthreads();
        scatter<STRIPED, Values>(storage.values, values, ranks);
    }

public:
    EMULATOR_HERE BlockRadixSort() : storage(emulator::private_storage<TempStorage>()) {}
    EMULATOR_HERE BlockRadixSort(TempStorage& storage) : storage(storage) {}

#define EMULATOR_SORT(Name, descending, striped)                                                                    \
    EMULATOR_HERE void Name(Key (&keys)[N], int begin_bit = 0, int end_bit = BITS) {                                \
        sort<descending, striped>(keys, begin_bit, end_bit);                                                        \
    }                                                                                                               \
    EMULATOR_HERE void Name(Key (&keys)[N], Value (&values)[N], int begin_bit = 0, int end_bit = BITS) {            \
        sort<descending, striped>(keys, values, begin_bit, end_bit);                                                \
    }
    EMULATOR_SORT(Sort, false, false)
    EMULATOR_SORT(SortDescending, true, false)
    EMULATOR_SORT(SortBlockedToStriped, false, true)
    EMULATOR_SORT(SortDescendingBlockedToStriped, true, true)
#undef EMULATOR_SORT
};

}  // namespace cub
