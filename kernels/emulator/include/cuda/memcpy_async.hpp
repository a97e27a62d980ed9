// What the kinds of memcpy_async have in common: part of <cuda/barrier>, <cuda/pipeline>, <cooperative_groups/memcpy_async.h>.
#pragma once
#include "emulator/device.cuh"

namespace cuda {

template <size_t ALIGNMENT>
struct aligned_size_t {
    static constexpr size_t align = ALIGNMENT;
    size_t value;
    EMULATOR_HERE explicit constexpr aligned_size_t(size_t n) : value(n) {}
    EMULATOR_HERE constexpr operator size_t() const { return value; }
};

}  // namespace cuda

namespace emulator {

struct Alone {  // a group of one thread
    static constexpr unsigned size() { return 1; }
    static constexpr unsigned thread_rank() { return 0; }
};

// What target, source and size must be multiples of: as a type and as a size say it.
template <class T>
constexpr size_t alignment_of = alignof(T);
template <>
constexpr size_t alignment_of<void> = 1;
template <class N>
constexpr size_t alignment_said = 1;
template <size_t ALIGNMENT>
constexpr size_t alignment_said<cuda::aligned_size_t<ALIGNMENT>> = ALIGNMENT;

EMULATOR_FUNCTION void copy_this_part(void* to, const void* from, size_t bytes, size_t align, unsigned rank, unsigned of, void* barrier) {
    copy_part(to, from, bytes, align, rank, of, barrier, EMULATOR_WHERE);
}
template <class Group, class T, class N>
EMULATOR_HERE void copy_of_group(const Group& group, T* to, const T* from, N bytes, void* barrier = nullptr) {
    const size_t align = alignment_said<N> > alignment_of<T> ? alignment_said<N> : alignment_of<T>;
    copy_this_part(to, from, size_t(bytes), align, unsigned(group.thread_rank()), unsigned(group.size()), barrier);
}

}  // namespace emulator
