// CUDA's <cooperative_groups/memcpy_async.h>: copies by all threads of a group, each call a group of cp.async.
#pragma once
#include <cooperative_groups.h>

#include "../cuda/memcpy_async.hpp"

namespace cooperative_groups {

template <class Group, class T, class N>
EMULATOR_HERE void memcpy_async(const Group& group, T* to, const T* from, const N& bytes) {
    static_assert(__is_base_of(thread_block, Group) || __is_base_of(details::lane_group, Group), "blocks, tiles and coalesced groups copy");
    emulator::copy_of_group(group, to, from, bytes);
    emulator::commit_copies();
}
// As many elements as both have.
template <class Group, class T, class M, class N>
EMULATOR_HERE void memcpy_async(const Group& group, T* to, const M& room, const T* from, const N& there) {
    const size_t most = size_t(room), count = size_t(there) < most ? size_t(there) : most;
    memcpy_async(group, to, from, cuda::aligned_size_t<emulator::alignment_said<M>>(count * sizeof(T)));
}
template <unsigned PRIOR, class Group>
EMULATOR_HERE void wait_prior(const Group& group) {
    emulator::wait_for_copies(PRIOR);
    group.sync();
}
template <class Group>
EMULATOR_HERE void wait(const Group& group) { wait_prior<0>(group); }

}  // namespace cooperative_groups
