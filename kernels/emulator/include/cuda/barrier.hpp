// CUDA's <cuda/barrier>: barriers of a block in shared memory, which are mbarriers, and the copies by TMA that arrive at them.
// Not here are barriers of other scopes and completion functions. memcpy_async needs no fences, as CUDA says: it never is by TMA.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "memcpy_async.hpp"

namespace emulator {

EMULATOR_FUNCTION void make_barrier(void* b, int expected) { mbarrier_init(b, expected, EMULATOR_WHERE); }
EMULATOR_FUNCTION bool come_to_barrier(void* b, int count, int bytes) {  // the parity of the phase
    const bool parity = mbarrier_phase(b, EMULATOR_WHERE);
    mbarrier_arrive(b, bytes, EMULATOR_WHERE, count);
    return parity;
}
EMULATOR_FUNCTION void wait_at_barrier(void* b, bool parity) { mbarrier_wait(b, parity, false, EMULATOR_WHERE); }
EMULATOR_FUNCTION void drop_from_barrier(void* b) { mbarrier_drop(b, EMULATOR_WHERE); }
EMULATOR_FUNCTION void load_bytes(void* shared, const void* global, unsigned bytes, void* b) { bulk_load_bytes(shared, global, int(bytes), b, 1u << block_rank, EMULATOR_WHERE); }
EMULATOR_FUNCTION void store_bytes(void* global, const void* shared, unsigned bytes) { bulk_store_bytes(global, shared, int(bytes), EMULATOR_WHERE); }
template <class... At>
EMULATOR_FUNCTION void load_box(void* shared, const TensorMap* map, void* b, At... axes) {
    const int at[] = {axes...};
    bulk_load(shared, map, b, 1u << block_rank, sizeof...(At), at, EMULATOR_WHERE);
}
template <class... At>
EMULATOR_FUNCTION void store_box(const TensorMap* map, const void* shared, At... axes) {
    const int at[] = {axes...};
    bulk_store(map, shared, sizeof...(At), at, EMULATOR_WHERE);
}

}  // namespace emulator

namespace cuda {

enum thread_scope { thread_scope_system, thread_scope_device, thread_scope_block, thread_scope_thread };
enum class async_contract_fulfillment { none, async };

template <thread_scope SCOPE>
class barrier {
    static_assert(SCOPE == thread_scope_block, "the emulator has barriers of a block");
    unsigned long long state;

public:
    class arrival_token {
        friend class barrier;
        bool parity;

    public:
        EMULATOR_HERE arrival_token(bool p = false) : parity(p) {}
    };

    barrier() = default;
    barrier(const barrier&) = delete;
    EMULATOR_HERE arrival_token arrive(ptrdiff_t count = 1) { return emulator::come_to_barrier(this, int(count), 0); }
    EMULATOR_HERE void wait(arrival_token token) { emulator::wait_at_barrier(this, token.parity); }
    EMULATOR_HERE void wait_parity(bool parity) { emulator::wait_at_barrier(this, parity); }
    EMULATOR_HERE void arrive_and_wait() { wait(arrive()); }
    EMULATOR_HERE void arrive_and_drop() { emulator::drop_from_barrier(this); }
    void* emulator_barrier() { return this; }  // at which copies arrive
    EMULATOR_HERE friend void init(barrier* b, ptrdiff_t expected) { emulator::make_barrier(b, int(expected)); }
};

// By a group, or by one thread; of a type that says how both are aligned, or of bytes; to a barrier or a pipeline.
template <class Group, class T, class N, class Arrival>
EMULATOR_HERE async_contract_fulfillment memcpy_async(const Group& group, T* to, const T* from, N bytes, Arrival& arrival) {
    return emulator::copy_of_group(group, to, from, bytes, arrival.emulator_barrier()), async_contract_fulfillment::async;
}
template <class Group, class N, class Arrival>
EMULATOR_HERE async_contract_fulfillment memcpy_async(const Group& group, void* to, const void* from, N bytes, Arrival& arrival) {
    return emulator::copy_of_group(group, to, from, bytes, arrival.emulator_barrier()), async_contract_fulfillment::async;
}
template <class T, class N, class Arrival>
EMULATOR_HERE async_contract_fulfillment memcpy_async(T* to, const T* from, N bytes, Arrival& arrival) {
    return memcpy_async(emulator::Alone(), to, from, bytes, arrival);
}
template <class N, class Arrival>
EMULATOR_HERE async_contract_fulfillment memcpy_async(void* to, const void* from, N bytes, Arrival& arrival) {
    return memcpy_async(emulator::Alone(), to, from, bytes, arrival);
}

namespace device {

typedef barrier<thread_scope_block> block_barrier;

EMULATOR_HERE uint64_t* barrier_native_handle(block_barrier& b) { return reinterpret_cast<uint64_t*>(&b); }
EMULATOR_HERE block_barrier::arrival_token barrier_arrive_tx(block_barrier& b, ptrdiff_t count, ptrdiff_t bytes) {
    return emulator::come_to_barrier(&b, int(count), int(bytes));
}
EMULATOR_HERE void barrier_expect_tx(block_barrier& b, ptrdiff_t bytes) { emulator::come_to_barrier(&b, 0, int(bytes)); }

template <class T, size_t ALIGNMENT>
EMULATOR_HERE async_contract_fulfillment memcpy_async_tx(T* to, const T* from, aligned_size_t<ALIGNMENT> bytes, block_barrier& b) {
    static_assert(ALIGNMENT >= 16, "it copies multiples of 16 bytes");
    return emulator::load_bytes(to, from, unsigned(bytes), &b), async_contract_fulfillment::async;
}

namespace experimental {

EMULATOR_HERE void fence_proxy_async_shared_cta() { emulator::fence_proxy_async(); }
EMULATOR_HERE void cp_async_bulk_global_to_shared(void* to, const void* from, uint32_t bytes, block_barrier& b) { emulator::load_bytes(to, from, bytes, &b); }
EMULATOR_HERE void cp_async_bulk_shared_to_global(void* to, const void* from, uint32_t bytes) { emulator::store_bytes(to, from, bytes); }
EMULATOR_HERE void cp_async_bulk_commit_group() { emulator::commit_stores(); }
template <int N>
EMULATOR_HERE void cp_async_bulk_wait_group() { emulator::wait_for_stores(N); }
template <int N>
EMULATOR_HERE void cp_async_bulk_wait_group_read() { emulator::wait_for_stores(N); }

EMULATOR_HERE void cp_async_bulk_tensor_1d_global_to_shared(void* to, const TensorMap* map, int x, block_barrier& b) {
    emulator::load_box(to, map, &b, x);
}
EMULATOR_HERE void cp_async_bulk_tensor_1d_shared_to_global(const TensorMap* map, int x, const void* from) {
    emulator::store_box(map, from, x);
}
EMULATOR_HERE void cp_async_bulk_tensor_2d_global_to_shared(void* to, const TensorMap* map, int x, int y, block_barrier& b) {
    emulator::load_box(to, map, &b, x, y);
}
EMULATOR_HERE void cp_async_bulk_tensor_2d_shared_to_global(const TensorMap* map, int x, int y, const void* from) {
    emulator::store_box(map, from, x, y);
}
EMULATOR_HERE void cp_async_bulk_tensor_3d_global_to_shared(void* to, const TensorMap* map, int x, int y, int z, block_barrier& b) {
    emulator::load_box(to, map, &b, x, y, z);
}
EMULATOR_HERE void cp_async_bulk_tensor_3d_shared_to_global(const TensorMap* map, int x, int y, int z, const void* from) {
    emulator::store_box(map, from, x, y, z);
}
EMULATOR_HERE void cp_async_bulk_tensor_4d_global_to_shared(void* to, const TensorMap* map, int x, int y, int z, int v, block_barrier& b) {
    emulator::load_box(to, map, &b, x, y, z, v);
}
EMULATOR_HERE void cp_async_bulk_tensor_4d_shared_to_global(const TensorMap* map, int x, int y, int z, int v, const void* from) {
    emulator::store_box(map, from, x, y, z, v);
}
EMULATOR_HERE void cp_async_bulk_tensor_5d_global_to_shared(void* to, const TensorMap* map, int x, int y, int z, int v, int w, block_barrier& b) {
    emulator::load_box(to, map, &b, x, y, z, v, w);
}
EMULATOR_HERE void cp_async_bulk_tensor_5d_shared_to_global(const TensorMap* map, int x, int y, int z, int v, int w, const void* from) {
    emulator::store_box(map, from, x, y, z, v, w);
}

}  // namespace experimental
}  // namespace device
}  // namespace cuda
