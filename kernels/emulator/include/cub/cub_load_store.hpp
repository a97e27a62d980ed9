// cub::BlockLoad, cub::BlockStore and the functions that they are made of. Items that are not valid are not touched.
#pragma once
#include "cub_exchange.hpp"

namespace emulator {

// The words of an access to 4 items, or 2, or 1, to which the array must be aligned.
template <int BYTES>
struct Word;
template <>
struct Word<1> { typedef char type; };
template <>
struct Word<2> { typedef unsigned short type; };
template <>
struct Word<4> { typedef unsigned type; };
template <>
struct Word<8> { typedef uint2 type; };
template <>
struct Word<16> { typedef uint4 type; };
template <class T, int ITEMS>
constexpr int word_bytes() {
    const int one = alignof(T), count = ITEMS * int(sizeof(T)) / one, bytes = (count % 4 == 0 ? 4 : count % 2 == 0 ? 2 : 1) * one;
    return bytes < 16 ? bytes : 16;
}

}  // namespace emulator

namespace cub {

#define EMULATOR_ANY template <class T, int N, class Iterator>
#define EMULATOR_OF_BLOCK template <int BLOCK_THREADS, class T, int N, class Iterator>
#define EMULATOR_DIRECT(Name, Template, place)                                                                            \
    Template EMULATOR_HERE void Load##Name(int linear_tid, Iterator from, T (&items)[N]) {                                \
        for (int i = 0; i < N; i++) items[i] = from[place];                                                               \
    }                                                                                                                     \
    Template EMULATOR_HERE void Load##Name(int linear_tid, Iterator from, T (&items)[N], int valid_items) {               \
        for (int i = 0; i < N; i++)                                                                                       \
            if (place < valid_items) items[i] = from[place];                                                              \
    }                                                                                                                     \
    Template EMULATOR_HERE void Store##Name(int linear_tid, Iterator to, T (&items)[N]) {                                 \
        for (int i = 0; i < N; i++) to[place] = items[i];                                                                 \
    }                                                                                                                     \
    Template EMULATOR_HERE void Store##Name(int linear_tid, Iterator to, T (&items)[N], int valid_items) {                \
        for (int i = 0; i < N; i++)                                                                                       \
            if (place < valid_items) to[place] = items[i];                                                                \
    }
EMULATOR_DIRECT(DirectBlocked, EMULATOR_ANY, (linear_tid * N + i))
EMULATOR_DIRECT(DirectStriped, EMULATOR_OF_BLOCK, (linear_tid + i * BLOCK_THREADS))
EMULATOR_DIRECT(DirectWarpStriped, EMULATOR_ANY, (linear_tid / 32 * 32 * N + linear_tid % 32 + i * 32))
#undef EMULATOR_DIRECT
#undef EMULATOR_ANY
#undef EMULATOR_OF_BLOCK

template <class T, class Default, int N, class Iterator>
EMULATOR_HERE void LoadDirectBlocked(int linear_tid, Iterator from, T (&items)[N], int valid_items, Default oob_default) {
    for (T& item : items) item = oob_default;
    LoadDirectBlocked(linear_tid, from, items, valid_items);
}
template <int BLOCK_THREADS, class T, class Default, int N, class Iterator>
EMULATOR_HERE void LoadDirectStriped(int linear_tid, Iterator from, T (&items)[N], int valid_items, Default oob_default) {
    for (T& item : items) item = oob_default;
    LoadDirectStriped<BLOCK_THREADS>(linear_tid, from, items, valid_items);
}
template <class T, class Default, int N, class Iterator>
EMULATOR_HERE void LoadDirectWarpStriped(int linear_tid, Iterator from, T (&items)[N], int valid_items, Default oob_default) {
    for (T& item : items) item = oob_default;
    LoadDirectWarpStriped(linear_tid, from, items, valid_items);
}

template <class T, int N>
EMULATOR_HERE void LoadDirectBlockedVectorized(int linear_tid, const T* from, T (&items)[N]) {
    typedef typename emulator::Word<emulator::word_bytes<T, N>()>::type Word;
    for (unsigned i = 0; i < sizeof items / sizeof(Word); i++) {
        const Word word = reinterpret_cast<const Word*>(from + linear_tid * N)[i];
        __builtin_memcpy(reinterpret_cast<char*>(items) + i * sizeof word, &word, sizeof word);
    }
}
template <class T, int N>
EMULATOR_HERE void LoadDirectBlockedVectorized(int linear_tid, T* from, T (&items)[N]) {
    LoadDirectBlockedVectorized(linear_tid, static_cast<const T*>(from), items);
}
template <class T, int N>
EMULATOR_HERE void StoreDirectBlockedVectorized(int linear_tid, T* to, T (&items)[N]) {
    typedef typename emulator::Word<emulator::word_bytes<T, N>()>::type Word;
    for (unsigned i = 0; i < sizeof items / sizeof(Word); i++) {
        Word word;
        __builtin_memcpy(&word, reinterpret_cast<const char*>(items) + i * sizeof word, sizeof word);
        reinterpret_cast<Word*>(to + linear_tid * N)[i] = word;
    }
}

enum BlockLoadAlgorithm {
    BLOCK_LOAD_DIRECT,
    BLOCK_LOAD_STRIPED,
    BLOCK_LOAD_VECTORIZE,
    BLOCK_LOAD_TRANSPOSE,
    BLOCK_LOAD_WARP_TRANSPOSE,
    BLOCK_LOAD_WARP_TRANSPOSE_TIMESLICED,
};
enum BlockStoreAlgorithm {
    BLOCK_STORE_DIRECT,
    BLOCK_STORE_STRIPED,
    BLOCK_STORE_VECTORIZE,
    BLOCK_STORE_TRANSPOSE,
    BLOCK_STORE_WARP_TRANSPOSE,
    BLOCK_STORE_WARP_TRANSPOSE_TIMESLICED,
};

namespace detail {

// What both have: their storage, which only the transposing ones use.
template <class T, int X, int N, int ALGORITHM, int Y, int Z>
class Transport {
protected:
    static constexpr int THREADS = X * Y * Z;
    static constexpr bool STRIPED = ALGORITHM == BLOCK_LOAD_STRIPED, VECTORIZE = ALGORITHM == BLOCK_LOAD_VECTORIZE,
                          TRANSPOSE = ALGORITHM == BLOCK_LOAD_TRANSPOSE, WARP_TRANSPOSE = ALGORITHM >= BLOCK_LOAD_WARP_TRANSPOSE;
    static_assert(!WARP_TRANSPOSE || THREADS % 32 == 0, "the block must be whole warps for this algorithm");
    typedef BlockExchange<T, X, N, false, Y, Z> Exchange;

public:
    struct TempStorage : emulator::Room<T, TRANSPOSE || WARP_TRANSPOSE ? THREADS * N : 1> {};

protected:
    TempStorage& storage;
    EMULATOR_HERE Transport(TempStorage& storage) : storage(storage) {}
    EMULATOR_HERE Exchange exchange() { return reinterpret_cast<typename Exchange::TempStorage&>(storage); }
    static EMULATOR_HERE int thread() {
        emulator::check_block("this cub::BlockLoad or BlockStore", X, Y, Z);
        return emulator::thread_in_block();
    }
};

}  // namespace detail

template <class T, int BLOCK_DIM_X, int ITEMS_PER_THREAD, BlockLoadAlgorithm ALGORITHM = BLOCK_LOAD_DIRECT, int BLOCK_DIM_Y = 1,
          int BLOCK_DIM_Z = 1, int = 0>
class BlockLoad : public detail::Transport<T, BLOCK_DIM_X, ITEMS_PER_THREAD, ALGORITHM, BLOCK_DIM_Y, BLOCK_DIM_Z> {
    typedef detail::Transport<T, BLOCK_DIM_X, ITEMS_PER_THREAD, ALGORITHM, BLOCK_DIM_Y, BLOCK_DIM_Z> Base;

    template <class Iterator, class... Valid>  // how many items there are, and what the others become
    EMULATOR_HERE void load(Iterator from, T (&items)[ITEMS_PER_THREAD], Valid... valid) {
        const int thread = Base::thread();
        if constexpr (Base::STRIPED || Base::TRANSPOSE) LoadDirectStriped<Base::THREADS>(thread, from, items, valid...);
        else if constexpr (Base::WARP_TRANSPOSE) LoadDirectWarpStriped(thread, from, items, valid...);
        else LoadDirectBlocked(thread, from, items, valid...);
        if constexpr (Base::TRANSPOSE) Base::exchange().StripedToBlocked(items);
        if constexpr (Base::WARP_TRANSPOSE) Base::exchange().WarpStripedToBlocked(items);
    }

public:
    using typename Base::TempStorage;
    EMULATOR_HERE BlockLoad() : Base(emulator::private_storage<TempStorage>()) {}
    EMULATOR_HERE BlockLoad(TempStorage& storage) : Base(storage) {}

    template <class Iterator>
    EMULATOR_HERE void Load(Iterator from, T (&items)[ITEMS_PER_THREAD]) {
        if constexpr (Base::VECTORIZE && (::std::is_same_v<Iterator, T*> || ::std::is_same_v<Iterator, const T*>))
            LoadDirectBlockedVectorized(Base::thread(), from, items);
        else load(from, items);
    }
    template <class Iterator>
    EMULATOR_HERE void Load(Iterator from, T (&items)[ITEMS_PER_THREAD], int valid_items) { load(from, items, valid_items); }
    template <class Iterator, class Default>
    EMULATOR_HERE void Load(Iterator from, T (&items)[ITEMS_PER_THREAD], int valid_items, Default oob_default) {
        load(from, items, valid_items, oob_default);
    }
};

template <class T, int BLOCK_DIM_X, int ITEMS_PER_THREAD, BlockStoreAlgorithm ALGORITHM = BLOCK_STORE_DIRECT, int BLOCK_DIM_Y = 1,
          int BLOCK_DIM_Z = 1, int = 0>
class BlockStore : public detail::Transport<T, BLOCK_DIM_X, ITEMS_PER_THREAD, ALGORITHM, BLOCK_DIM_Y, BLOCK_DIM_Z> {
    typedef detail::Transport<T, BLOCK_DIM_X, ITEMS_PER_THREAD, ALGORITHM, BLOCK_DIM_Y, BLOCK_DIM_Z> Base;

    template <class Iterator, class... Valid>
    EMULATOR_HERE void store(Iterator to, T (&items)[ITEMS_PER_THREAD], Valid... valid) {
        const int thread = Base::thread();
        if constexpr (Base::TRANSPOSE) Base::exchange().BlockedToStriped(items);
        if constexpr (Base::WARP_TRANSPOSE) Base::exchange().BlockedToWarpStriped(items);
        if constexpr (Base::STRIPED || Base::TRANSPOSE) StoreDirectStriped<Base::THREADS>(thread, to, items, valid...);
        else if constexpr (Base::WARP_TRANSPOSE) StoreDirectWarpStriped(thread, to, items, valid...);
        else StoreDirectBlocked(thread, to, items, valid...);
    }

public:
    using typename Base::TempStorage;
    EMULATOR_HERE BlockStore() : Base(emulator::private_storage<TempStorage>()) {}
    EMULATOR_HERE BlockStore(TempStorage& storage) : Base(storage) {}

    template <class Iterator>
    EMULATOR_HERE void Store(Iterator to, T (&items)[ITEMS_PER_THREAD]) {
        if constexpr (Base::VECTORIZE && ::std::is_same_v<Iterator, T*>) StoreDirectBlockedVectorized(Base::thread(), to, items);
        else store(to, items);
    }
    template <class Iterator>
    EMULATOR_HERE void Store(Iterator to, T (&items)[ITEMS_PER_THREAD], int valid_items) { store(to, items, valid_items); }
};

}  // namespace cub
