// CUDA's <cooperative_groups.h>: the threads of a block, tiles of 1 to 32 lanes, and the parts that a predicate or a
// label makes of them. Lanes meet by the functions of device.cuh, so that a group that is not together is found.
//
// A grid meets in a cooperative launch: otherwise blocks run one after the other. Tiles of several warps are not here. As __activemask does, coalesced_threads() knows only the thread that asks.
#pragma once
#include "emulator/device.cuh"

namespace emulator {

EMULATOR_QUIET unsigned block_threads() { return block_size.x * block_size.y * block_size.z; }
EMULATOR_QUIET unsigned blocks() { return grid_size.x * grid_size.y * grid_size.z; }
EMULATOR_QUIET unsigned block_in_grid() { return block.x + grid_size.x * (block.y + grid_size.y * block.z); }

// Ranks are those of a mask's lanes, from the lowest on.
EMULATOR_QUIET unsigned rank_in(unsigned mask) { return __builtin_popcount(mask & ((1u << self->lane) - 1)); }
EMULATOR_QUIET unsigned by_ranks(unsigned mask, unsigned lanes) {  // a set of lanes as one of their ranks
    unsigned ranks = 0, rank = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) ranks |= (lanes >> lane & 1) << rank++;
    return ranks;
}
EMULATOR_QUIET unsigned part_of(unsigned mask, unsigned size) {  // of that many lanes, the one with this thread in it
    const unsigned mine = rank_in(mask) / size;
    unsigned part = 0, rank = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) part |= unsigned(rank++ / size == mine) << lane;
    return part;
}
EMULATOR_QUIET unsigned lane_of(unsigned mask, unsigned rank) {  // as a mask, which is 0 if there is none
    while (rank-- && mask) mask &= mask - 1;
    return mask & -mask;
}

template <class T>
union Held {  // any T, and none at first
    char nothing;
    T value;
    EMULATOR_QUIET Held() {}
};

template <size_t BYTES>
EMULATOR_QUIET void hand_over(unsigned mask, const char* mine, char* all, size_t apart, const void* where) {
    const char* values = warp_exchange(mask, mine, BYTES, where);
    for (int lane = 0; lane < 32; lane++, values += 16)
        if (mask >> lane & 1) {
            __builtin_memcpy(all, values, BYTES);
            all += apart;
        }
}

// What all lanes of the mask hand in, by their ranks.
template <class T>
EMULATOR_QUIET void hand_in(unsigned mask, const T& mine, Held<T> (&all)[32], const void* where) {
    const char* from = reinterpret_cast<const char*>(&mine);
    char* to = reinterpret_cast<char*>(&all[0].value);
    constexpr size_t WHOLE = sizeof(T) / 16 * 16, REST = sizeof(T) - WHOLE;
    for (size_t i = 0; i < WHOLE; i += 16) hand_over<16>(mask, from + i, to + i, sizeof all[0], where);
    if constexpr (REST) hand_over<REST>(mask, from + WHOLE, to + WHOLE, sizeof all[0], where);
}
EMULATOR_QUIET void check_lanes(unsigned needed, const void* where) {  // those must not have returned
    if (needed & ~self->together) check_source_lane(__builtin_ctz(needed & ~self->together), where);
}
template <class T>
EMULATOR_QUIET void gather(unsigned mask, unsigned needed, const T& mine, Held<T> (&all)[32], const void* where) {
    static_assert(sizeof(T) <= 32, "groups move values of at most 32 bytes");
    hand_in(mask, mine, all, where);
    check_lanes(needed, where);
}

template <class T>
EMULATOR_FUNCTION T from_rank(unsigned mask, const T& mine, unsigned rank) {
    const unsigned source = lane_of(mask, rank);
    if (!source) bad_operand("a group has no thread of rank %d", int(rank), EMULATOR_WHERE);
    Held<T> all[32];
    gather(mask, source, mine, all, EMULATOR_WHERE);
    return all[rank].value;
}

EMULATOR_FUNCTION void check_tile(unsigned size) {
    if (size && size <= 32 && !(size & (size - 1))) return;
    bad_operand("a tile has 1, 2, 4, 8, 16 or 32 threads, not %d", int(size), EMULATOR_WHERE);
}
EMULATOR_FUNCTION void check_tiles_of_block(unsigned size) {
    const unsigned left = block_threads() % size;
    if (left) bad_operand("a block must be whole tiles, and %d of its threads are left", int(left), EMULATOR_WHERE, false);
}
EMULATOR_FUNCTION void come_in_grid() { grid_arrive(EMULATOR_WHERE); }
EMULATOR_FUNCTION void come_in_cluster() { cluster_arrive(EMULATOR_WHERE); }
EMULATOR_FUNCTION void wait_in_cluster() { cluster_wait(EMULATOR_WHERE); }  // or grid
EMULATOR_FUNCTION void* of_rank(const void* here, int rank) { return map_shared_rank(here, rank, EMULATOR_WHERE); }

}  // namespace emulator

namespace cooperative_groups {

class thread_group {  // any group, by its kind
protected:
    enum Kind : char { GRID, CLUSTER, BLOCK, LANES };
    Kind kind;
    unsigned lanes = 0, rank_among = 0, groups = 1;  // of a warp; which of how many groups of its parent it is
    EMULATOR_HERE explicit thread_group(Kind kind) : kind(kind) {}
    EMULATOR_HERE thread_group(unsigned lanes, unsigned rank_among, unsigned groups)
        : kind(LANES), lanes(lanes), rank_among(rank_among), groups(groups) {}
    friend EMULATOR_HERE thread_group tiled_partition(const thread_group& parent, unsigned size);

public:
    EMULATOR_HERE void sync() const {
        if (kind == LANES) __syncwarp(lanes);
        else if (kind == BLOCK) __syncthreads();
        else {
            if (kind == GRID) emulator::come_in_grid();
            else emulator::come_in_cluster();
            emulator::wait_in_cluster();
        }
    }
    EMULATOR_HERE unsigned long long num_threads() const {
        if (kind == LANES) return __builtin_popcount(lanes);
        return emulator::block_threads() * (kind == GRID ? 1ull * emulator::blocks() : kind == CLUSTER ? emulator::cluster_blocks : 1);
    }
    EMULATOR_HERE unsigned long long size() const { return num_threads(); }
    EMULATOR_HERE unsigned long long thread_rank() const {
        if (kind == LANES) return emulator::rank_in(lanes);
        const unsigned long long before = kind == GRID ? emulator::block_in_grid() : kind == CLUSTER ? emulator::block_rank : 0;
        return before * emulator::block_threads() + emulator::thread_in_block();
    }
};

class grid_group : public thread_group {
    grid_group() : thread_group(GRID) {}
    friend EMULATOR_HERE grid_group this_grid();

public:
    static bool is_valid() { return emulator::cooperative; }  // it can meet only after such a launch
    static dim3 group_dim() { return emulator::grid_size; }
    static dim3 dim_blocks() { return emulator::grid_size; }
    static dim3 dim_threads() {
        const emulator::Index &g = emulator::grid_size, &b = emulator::block_size;
        return {g.x * b.x, g.y * b.y, g.z * b.z};
    }
    static dim3 block_index() { return emulator::block; }
    static unsigned long long block_rank() { return emulator::block_in_grid(); }
    static unsigned long long num_blocks() { return emulator::blocks(); }
    struct arrival_token {};
    static EMULATOR_HERE arrival_token barrier_arrive() { return emulator::come_in_grid(), arrival_token(); }
    static EMULATOR_HERE void barrier_wait(arrival_token&&) { emulator::wait_in_cluster(); }
};
EMULATOR_HERE grid_group this_grid() { return {}; }

class cluster_group : public thread_group {
    cluster_group() : thread_group(CLUSTER) {}
    friend EMULATOR_HERE cluster_group this_cluster();

public:
    static EMULATOR_HERE void sync() { emulator::come_in_cluster(), emulator::wait_in_cluster(); }
    static dim3 dim_blocks() { return emulator::cluster_size; }
    static dim3 dim_threads() {
        const emulator::Index &c = emulator::cluster_size, &b = emulator::block_size;
        return {c.x * b.x, c.y * b.y, c.z * b.z};
    }
    static dim3 block_index() { return emulator::block_in_cluster(); }
    static dim3 thread_index() {
        const emulator::Index &t = emulator::self->thread, &b = emulator::block_size, at = emulator::block_in_cluster();
        return {at.x * b.x + t.x, at.y * b.y + t.y, at.z * b.z + t.z};
    }
    static unsigned block_rank() { return emulator::block_rank; }
    static unsigned num_blocks() { return emulator::cluster_blocks; }
    struct arrival_token {};
    static EMULATOR_HERE arrival_token barrier_arrive() { return emulator::come_in_cluster(), arrival_token(); }
    static EMULATOR_HERE void barrier_wait(arrival_token&&) { emulator::wait_in_cluster(); }
    static EMULATOR_HERE void barrier_wait() { emulator::wait_in_cluster(); }
    static unsigned query_shared_rank(const void* address) { return emulator::query_shared_rank(address); }
    template <class T>
    static EMULATOR_HERE T* map_shared_rank(T* here, int rank) { return static_cast<T*>(emulator::of_rank(here, rank)); }
};
EMULATOR_HERE cluster_group this_cluster() { return {}; }

class thread_block : public thread_group {
    EMULATOR_HERE thread_block() : thread_group(BLOCK) {}
    friend EMULATOR_HERE thread_block this_thread_block();

public:
    static EMULATOR_HERE void sync() { __syncthreads(); }
    static unsigned num_threads() { return emulator::block_threads(); }
    static unsigned size() { return emulator::block_threads(); }
    static unsigned thread_rank() { return emulator::thread_in_block(); }
    static dim3 group_index() { return emulator::block; }
    static dim3 thread_index() { return emulator::self->thread; }
    static dim3 group_dim() { return emulator::block_size; }
    static dim3 dim_threads() { return emulator::block_size; }
};
EMULATOR_HERE thread_block this_thread_block() { return {}; }

namespace details {

class lane_group : public thread_group {  // what tiles and coalesced groups have in common
protected:
    using thread_group::thread_group;

public:
    unsigned emulator_mask() const { return lanes; }
    unsigned meta_group_rank() const { return rank_among; }
    unsigned meta_group_size() const { return groups; }
    EMULATOR_HERE void sync() const { __syncwarp(lanes); }
    template <class T>
    EMULATOR_HERE T shfl_up(T value, unsigned distance) const {
        const unsigned rank = emulator::rank_in(lanes);
        distance &= 31;
        return emulator::from_rank(lanes, value, rank >= distance ? rank - distance : rank);
    }
    template <class T>
    EMULATOR_HERE T shfl_down(T value, unsigned distance) const {
        const unsigned rank = emulator::rank_in(lanes), other = rank + (distance & 31);
        return emulator::from_rank(lanes, value, other < __builtin_popcount(lanes) ? other : rank);
    }
    EMULATOR_HERE int any(int vote) const { return __any_sync(lanes, vote); }
    EMULATOR_HERE int all(int vote) const { return __all_sync(lanes, vote); }
    EMULATOR_HERE unsigned ballot(int vote) const { return emulator::by_ranks(lanes, __ballot_sync(lanes, vote)); }
    template <class T>
    EMULATOR_HERE unsigned match_any(T value) const {
        return emulator::by_ranks(lanes, __match_any_sync(lanes, value));
    }
    template <class T>
    EMULATOR_HERE unsigned match_all(T value, int& all) const {
        return emulator::by_ranks(lanes, __match_all_sync(lanes, value, &all));
    }
};

}  // namespace details

class coalesced_group : public details::lane_group {
public:
    EMULATOR_HERE coalesced_group(unsigned lanes, unsigned rank_among, unsigned groups)
        : lane_group(lanes, rank_among, groups) {}
    unsigned num_threads() const { return __builtin_popcount(lanes); }
    unsigned size() const { return num_threads(); }
    unsigned thread_rank() const { return emulator::rank_in(lanes); }
    template <class T>
    EMULATOR_HERE T shfl(T value, int rank) const { return emulator::from_rank(lanes, value, rank); }
};
EMULATOR_HERE coalesced_group coalesced_threads() { return {__activemask(), 0, 1}; }

template <unsigned SIZE, class Parent = void>
class thread_block_tile : public details::lane_group {
    static_assert(SIZE && SIZE <= 32 && !(SIZE & (SIZE - 1)), "here a tile has 1, 2, 4, 8, 16 or 32 threads");

public:
    EMULATOR_HERE thread_block_tile(unsigned rank_among, unsigned groups)
        : lane_group(~0u >> (32 - SIZE) << (emulator::self->lane & -SIZE), rank_among, groups) {}
    template <class OtherParent>
    EMULATOR_HERE thread_block_tile(const thread_block_tile<SIZE, OtherParent>& other)
        : thread_block_tile(other.meta_group_rank(), other.meta_group_size()) {}
    static constexpr unsigned num_threads() { return SIZE; }
    static constexpr unsigned size() { return SIZE; }
    static unsigned thread_rank() { return emulator::self->lane & (SIZE - 1); }
    template <class T>
    EMULATOR_HERE T shfl(T value, int rank) const { return emulator::from_rank(lanes, value, rank & (SIZE - 1)); }
    template <class T>
    EMULATOR_HERE T shfl_xor(T value, unsigned bits) const {
        return emulator::from_rank(lanes, value, thread_rank() ^ bits);
    }
};
EMULATOR_HERE thread_block_tile<1> this_thread() { return {0, 1}; }

template <unsigned SIZE>
EMULATOR_HERE thread_block_tile<SIZE, thread_block> tiled_partition(const thread_block& block) {
    emulator::check_tiles_of_block(SIZE);
    return {block.thread_rank() / SIZE, block.size() / SIZE};
}
template <unsigned SIZE, unsigned PARENTS_SIZE, class Parent>
EMULATOR_HERE thread_block_tile<SIZE, thread_block_tile<PARENTS_SIZE, Parent>> tiled_partition(
    const thread_block_tile<PARENTS_SIZE, Parent>& parent) {
    static_assert(SIZE < PARENTS_SIZE, "a tile's tiles are smaller than it");
    return {parent.thread_rank() / SIZE, PARENTS_SIZE / SIZE};
}
// Of a size that is known when the kernel runs.
EMULATOR_HERE thread_group tiled_partition(const thread_group& parent, unsigned size) {
    emulator::check_tile(size);
    if (parent.kind != thread_group::LANES) emulator::check_tiles_of_block(size);
    const unsigned rank = parent.thread_rank(), groups = (parent.size() + size - 1) / size;
    return {emulator::part_of(parent.kind == thread_group::LANES ? parent.lanes : ~0u, size), rank / size, groups};
}
EMULATOR_HERE coalesced_group tiled_partition(const coalesced_group& parent, unsigned size) {
    emulator::check_tile(size);
    const unsigned groups = (parent.size() + size - 1) / size;
    return {emulator::part_of(parent.emulator_mask(), size), parent.thread_rank() / size, groups};
}

// A group for each of two answers, or for each label.
EMULATOR_HERE coalesced_group binary_partition(const details::lane_group& parent, bool vote) {
    const unsigned all = parent.emulator_mask(), yes = __ballot_sync(all, vote);
    if (yes == 0 || yes == all) return {all, 0, 1};
    return {vote ? yes : all & ~yes, vote, 2};
}
template <class T>
EMULATOR_HERE coalesced_group labeled_partition(const details::lane_group& parent, T label) {
    const unsigned all = parent.emulator_mask(), mine = __match_any_sync(all, label);
    const unsigned first = mine & -mine, firsts = __ballot_sync(all, first >> emulator::self->lane & 1);
    return {mine, unsigned(__builtin_popcount(firsts & (first - 1))), unsigned(__builtin_popcount(firsts))};
}

template <class Group>
EMULATOR_HERE void sync(const Group& group) { group.sync(); }
template <class Group>
EMULATOR_HERE auto thread_rank(const Group& group) { return group.thread_rank(); }
template <class Group>
EMULATOR_HERE auto group_size(const Group& group) { return group.num_threads(); }

}  // namespace cooperative_groups
