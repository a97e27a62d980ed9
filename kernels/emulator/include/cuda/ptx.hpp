// CUDA's <cuda/ptx>: instructions of PTX as functions of the namespace cuda::ptx. Each calls what the same inline PTX
// becomes: a function of assembly.cuh or assembly90.cuh.
//
// As there, a relaxed arrival or wait at an mbarrier orders as much as others do. Not here is what the emulator does not
// have: arrivals without an end of the phase (no_complete) or for good (drop); complete_tx; reductions into shared memory,
// inc and dec; im2col, gather and scatter; maps that a kernel changes (tensormap_replace); other proxies' fences; and what
// came after Hopper.
#pragma once
#include <type_traits>

#include "cuda/std/cstdint"
#include "emulator/assembly.cuh"

struct __half;
struct __nv_bfloat16;

namespace cuda {
namespace ptx {

// --- what is said by types -----------------------------------------------------------------------------------------------

enum class dot_sem { acq_rel, acquire, relaxed, release, sc, weak };
enum class dot_space { global, cluster, shared };
enum class dot_scope { cta, cluster, gpu, sys };
enum class dot_op { add, dec, inc, max, min, and_op, or_op, xor_op, cas, exch };

template <dot_sem SEM>
using sem_t = ::std::integral_constant<dot_sem, SEM>;
template <dot_space SPACE>
using space_t = ::std::integral_constant<dot_space, SPACE>;
template <dot_scope SCOPE>
using scope_t = ::std::integral_constant<dot_scope, SCOPE>;
template <dot_op OP>
using op_t = ::std::integral_constant<dot_op, OP>;
template <int N>
using n32_t = ::std::integral_constant<int, N>;

#define EMULATOR_SAID(kind, name)                          \
    typedef kind##_t<dot_##kind::name> kind##_##name##_t;  \
    static constexpr kind##_##name##_t kind##_##name{};
EMULATOR_SAID(sem, acq_rel)
EMULATOR_SAID(sem, acquire)
EMULATOR_SAID(sem, relaxed)
EMULATOR_SAID(sem, release)
EMULATOR_SAID(sem, sc)
EMULATOR_SAID(sem, weak)
EMULATOR_SAID(space, global)
EMULATOR_SAID(space, cluster)
EMULATOR_SAID(space, shared)
EMULATOR_SAID(scope, cta)
EMULATOR_SAID(scope, cluster)
EMULATOR_SAID(scope, gpu)
EMULATOR_SAID(scope, sys)
EMULATOR_SAID(op, add)
EMULATOR_SAID(op, dec)
EMULATOR_SAID(op, inc)
EMULATOR_SAID(op, max)
EMULATOR_SAID(op, min)
EMULATOR_SAID(op, and_op)
EMULATOR_SAID(op, or_op)
EMULATOR_SAID(op, xor_op)
EMULATOR_SAID(op, cas)
EMULATOR_SAID(op, exch)

}  // namespace ptx
}  // namespace cuda

namespace emulator {
namespace ptx {

// Where an mbarrier is: uint64_t is unsigned long or, for NVRTC, unsigned long long, and red_async of int64_t takes an int64_t*.
struct Place {
    const void* at;
    template <class T, class = ::std::enable_if_t<::std::is_integral<T>::value && sizeof(T) == 8>>
    EMULATOR_QUIET Place(T* p) : at(p) {}
};
EMULATOR_QUIET unsigned long long in_shared(const void* p) { return shared_address(p); }
EMULATOR_QUIET unsigned long long in_shared(Place p) { return shared_address(p.at); }
EMULATOR_QUIET unsigned long long in_global(const void* p) { return reinterpret_cast<unsigned long long>(p); }
EMULATOR_FUNCTION unsigned long long in_own(Place p) {  // for space_shared
    const unsigned long long address = in_shared(p);
    if (!is_own(address)) bad_operand("an mbarrier of another block, which space_shared does not reach (space_cluster does)", 0, EMULATOR_WHERE);
    return address;
}

// Coordinates, read at the line that gives them.
template <int AXES>
struct Axes {
    static_assert(AXES <= 5, "a tensor has 1 to 5 axes");
    int at[AXES];
    EMULATOR_HERE Axes(const int (&given)[AXES]) {
        for (int i = 0; i < AXES; i++) at[i] = given[i];
    }
};

// COPIED if there is none.
constexpr Reduction reduction_of(cuda::ptx::dot_op op) {
    return op == cuda::ptx::dot_op::add ? ADD : op == cuda::ptx::dot_op::min ? MIN : op == cuda::ptx::dot_op::max ? MAX
        : op == cuda::ptx::dot_op::and_op ? AND : op == cuda::ptx::dot_op::or_op ? OR : op == cuda::ptx::dot_op::xor_op ? XOR
        : COPIED;
}

// Whether an arrival or a wait is for the cluster.
template <cuda::ptx::dot_scope SCOPE>
constexpr bool of_cluster() {
    static_assert(SCOPE == cuda::ptx::dot_scope::cta || SCOPE == cuda::ptx::dot_scope::cluster, "the scope is scope_cta or scope_cluster");
    return SCOPE == cuda::ptx::dot_scope::cluster;
}
template <cuda::ptx::dot_sem SEM, cuda::ptx::dot_scope SCOPE>
constexpr bool arrives_in_cluster() {
    static_assert(SEM == cuda::ptx::dot_sem::release || SEM == cuda::ptx::dot_sem::relaxed, "an arrival is sem_release or sem_relaxed");
    return of_cluster<SCOPE>();
}
template <cuda::ptx::dot_sem SEM, cuda::ptx::dot_scope SCOPE>
constexpr bool waits_for_cluster() {
    static_assert(SEM == cuda::ptx::dot_sem::acquire || SEM == cuda::ptx::dot_sem::relaxed, "a wait is sem_acquire or sem_relaxed");
    return of_cluster<SCOPE>();
}

// The numbers of a reduction: of bits alone, any of 4 or 8 bytes. NONE if there is none of that type.
template <class T>
constexpr Number number_of(Reduction how) {
    const bool whole = ::std::is_integral<T>::value, below = ::std::is_signed<T>::value;
    if (how == COPIED) return NONE;
    if (how >= AND) return sizeof(T) == 4 ? U32 : sizeof(T) == 8 ? U64 : NONE;
    if (whole) return sizeof(T) == 4 ? (below ? S32 : U32) : sizeof(T) == 8 ? (below ? S64 : U64) : NONE;
    return how != ADD ? NONE : ::std::is_same<T, float>::value ? F32 : ::std::is_same<T, double>::value ? F64 : NONE;
}
template <>
constexpr Number number_of<__half>(Reduction how) { return how == ADD || how == MIN || how == MAX ? emulator::FP16 : NONE; }
template <>
constexpr Number number_of<__nv_bfloat16>(Reduction how) { return how == ADD || how == MIN || how == MAX ? emulator::BF16 : NONE; }

// Whether red_async has it: sums of 4 or 8 bytes, and the least, the most and bits of 4.
template <class T>
constexpr bool is_sent(Reduction how) {
    if (how == COPIED || (sizeof(T) != 4 && sizeof(T) != 8)) return false;
    return how >= AND ? sizeof(T) == 4 : ::std::is_integral<T>::value && (how == ADD || sizeof(T) == 4);
}

}  // namespace ptx
}  // namespace emulator

namespace cuda {
namespace ptx {

// --- mbarrier ------------------------------------------------------------------------------------------------------------

EMULATOR_HERE void mbarrier_init(emulator::ptx::Place b, uint32_t count) { emulator::ptx::mbarrier_init(emulator::ptx::in_shared(b), int(count)); }
EMULATOR_HERE void mbarrier_inval(emulator::ptx::Place b) { emulator::ptx::mbarrier_inval(emulator::ptx::in_shared(b)); }

EMULATOR_HERE uint64_t mbarrier_arrive(emulator::ptx::Place b, uint32_t count = 1) {
    uint64_t state;
    emulator::ptx::mbarrier_arrive(emulator::ptx::in_own(b), state, int(count));
    return state;
}
template <dot_sem SEM, dot_scope SCOPE>
EMULATOR_HERE uint64_t mbarrier_arrive(sem_t<SEM>, scope_t<SCOPE>, space_shared_t, emulator::ptx::Place b, uint32_t count = 1) {
    return emulator::ptx::arrives_in_cluster<SEM, SCOPE>(), mbarrier_arrive(b, count);
}
template <dot_sem SEM>
EMULATOR_HERE void mbarrier_arrive(sem_t<SEM>, scope_cluster_t, space_cluster_t, emulator::ptx::Place b, uint32_t count = 1) {
    emulator::ptx::arrives_in_cluster<SEM, dot_scope::cluster>();
    emulator::ptx::mbarrier_arrive(emulator::ptx::in_shared(b), emulator::ptx::nowhere, int(count));
}
template <dot_sem SEM, dot_scope SCOPE>
EMULATOR_HERE uint64_t mbarrier_arrive_expect_tx(sem_t<SEM>, scope_t<SCOPE>, space_shared_t, emulator::ptx::Place b, uint32_t bytes) {
    uint64_t state;
    emulator::ptx::mbarrier_arrive_expect_tx(emulator::ptx::in_own(b), state, int(bytes));
    return emulator::ptx::arrives_in_cluster<SEM, SCOPE>(), state;
}
template <dot_sem SEM>
EMULATOR_HERE void mbarrier_arrive_expect_tx(sem_t<SEM>, scope_cluster_t, space_cluster_t, emulator::ptx::Place b, uint32_t bytes) {
    emulator::ptx::arrives_in_cluster<SEM, dot_scope::cluster>();
    emulator::ptx::mbarrier_arrive_expect_tx(emulator::ptx::in_shared(b), emulator::ptx::nowhere, int(bytes));
}
template <dot_scope SCOPE>
EMULATOR_HERE void mbarrier_expect_tx(sem_relaxed_t, scope_t<SCOPE>, space_shared_t, emulator::ptx::Place b, uint32_t bytes) {
    emulator::ptx::of_cluster<SCOPE>(), emulator::ptx::mbarrier_expect_tx(emulator::ptx::in_own(b), int(bytes));
}
template <dot_scope SCOPE>
EMULATOR_HERE void mbarrier_expect_tx(sem_relaxed_t, scope_t<SCOPE>, space_cluster_t, emulator::ptx::Place b, uint32_t bytes) {
    emulator::ptx::of_cluster<SCOPE>(), emulator::ptx::mbarrier_expect_tx(emulator::ptx::in_shared(b), int(bytes));
}

// `phase` is a state or a parity, and try_wait may be told how long it may take.
#define EMULATOR_WAIT(name, ...)                                                                \
    template <dot_sem SEM, dot_scope SCOPE>                                                     \
    EMULATOR_HERE bool name(sem_t<SEM>, scope_t<SCOPE>, emulator::ptx::Place b, __VA_ARGS__) {  \
        bool over;                                                                              \
        constexpr bool OF_CLUSTER = emulator::ptx::waits_for_cluster<SEM, SCOPE>();             \
        emulator::ptx::mbarrier_wait<OF_CLUSTER>(emulator::ptx::in_shared(b), over, phase);     \
        return over;                                                                            \
    }                                                                                           \
    EMULATOR_HERE bool name(emulator::ptx::Place b, __VA_ARGS__) {                              \
        return name(sem_acquire, scope_cta, b, phase);                                          \
    }
EMULATOR_WAIT(mbarrier_test_wait, uint64_t phase)
EMULATOR_WAIT(mbarrier_test_wait_parity, uint32_t phase)
EMULATOR_WAIT(mbarrier_try_wait, uint64_t phase, uint32_t = 0)
EMULATOR_WAIT(mbarrier_try_wait_parity, uint32_t phase, uint32_t = 0)

EMULATOR_HERE void cp_async_mbarrier_arrive(emulator::ptx::Place b) { emulator::ptx::cp_async_arrive<false>(emulator::ptx::in_shared(b)); }
EMULATOR_HERE void cp_async_mbarrier_arrive_noinc(emulator::ptx::Place b) { emulator::ptx::cp_async_arrive<true>(emulator::ptx::in_shared(b)); }

// --- fences and the cluster ----------------------------------------------------------------------------------------------

template <dot_sem SEM, dot_scope SCOPE>
EMULATOR_HERE void fence(sem_t<SEM>, scope_t<SCOPE>) {
    static_assert(SEM != dot_sem::relaxed && SEM != dot_sem::weak, "a fence is sem_sc, sem_acq_rel, sem_acquire or sem_release");
    emulator::ptx::fence<SCOPE != dot_scope::cta>();
}
EMULATOR_HERE void fence_mbarrier_init(sem_release_t, scope_cluster_t) { emulator::ptx::fence_mbarrier_init(); }
EMULATOR_HERE void fence_proxy_async() { emulator::ptx::fence_proxy(); }
template <dot_space SPACE>
EMULATOR_HERE void fence_proxy_async(space_t<SPACE>) { emulator::ptx::fence_proxy(); }

EMULATOR_HERE void barrier_cluster_arrive() { emulator::ptx::cluster_arrive<false>(); }
EMULATOR_HERE void barrier_cluster_arrive(sem_release_t) { emulator::ptx::cluster_arrive<false>(); }
EMULATOR_HERE void barrier_cluster_arrive(sem_relaxed_t) { emulator::ptx::cluster_arrive<true>(); }
EMULATOR_HERE void barrier_cluster_wait() { emulator::ptx::cluster_wait(); }
EMULATOR_HERE void barrier_cluster_wait(sem_acquire_t) { emulator::ptx::cluster_wait(); }
EMULATOR_HERE uint32_t getctarank(space_cluster_t, const void* p) { return uint32_t(emulator::rank_of(unsigned(emulator::ptx::in_shared(p)))); }

// Stores and reductions that arrive at an mbarrier of the block to which they go.
template <class T>
EMULATOR_HERE void st_async(T* to, const T& value, emulator::ptx::Place b) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "st_async stores numbers of 4 or 8 bytes");
    emulator::ptx::st_async<T>(emulator::ptx::in_shared(to), emulator::ptx::in_shared(b), value);
}
template <class T>
EMULATOR_HERE void st_async(T* to, const T (&values)[2], emulator::ptx::Place b) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "st_async stores numbers of 4 or 8 bytes");
    emulator::ptx::st_async<T>(emulator::ptx::in_shared(to), emulator::ptx::in_shared(b), values[0], values[1]);
}
template <class T>
EMULATOR_HERE void st_async(T* to, const T (&values)[4], emulator::ptx::Place b) {
    static_assert(sizeof(T) == 4, "st_async stores four numbers of 4 bytes");
    emulator::ptx::st_async<T>(emulator::ptx::in_shared(to), emulator::ptx::in_shared(b), values[0], values[1], values[2], values[3]);
}
template <dot_op OP, class T>
EMULATOR_HERE void red_async(op_t<OP>, T* to, const typename emulator::Same<T>::type& value, emulator::ptx::Place b) {
    constexpr emulator::Reduction HOW = emulator::ptx::reduction_of(OP);
    static_assert(emulator::ptx::is_sent<T>(HOW), "a reduction that the emulator does not have for these numbers");
    typedef ::std::conditional_t<emulator::ptx::is_sent<T>(HOW) && HOW < emulator::AND, T, unsigned> Bits;
    emulator::ptx::red_async<Bits, HOW>(emulator::ptx::in_shared(to), emulator::ptx::in_shared(b), value);
}

// --- TMA -----------------------------------------------------------------------------------------------------------------

EMULATOR_HERE void cp_async_bulk(space_cluster_t, space_global_t, void* to, const void* from, uint32_t bytes, emulator::ptx::Place b, uint16_t ranks) {
    emulator::ptx::bulk_load_bytes(emulator::ptx::in_shared(to), emulator::ptx::in_global(from), emulator::ptx::in_shared(b), int(bytes), ranks);
}
EMULATOR_HERE void cp_async_bulk(space_cluster_t, space_global_t, void* to, const void* from, uint32_t bytes, emulator::ptx::Place b) {
    cp_async_bulk(space_cluster, space_global, to, from, bytes, b, uint16_t(1u << emulator::block_rank));
}
EMULATOR_HERE void cp_async_bulk(space_shared_t, space_global_t, void* to, const void* from, uint32_t bytes, emulator::ptx::Place b) {
    cp_async_bulk(space_cluster, space_global, to, from, bytes, b);
}
EMULATOR_HERE void cp_async_bulk(space_cluster_t, space_shared_t, void* to, const void* from, uint32_t bytes, emulator::ptx::Place b) {
    emulator::ptx::bulk_send_bytes(emulator::ptx::in_shared(to), emulator::ptx::in_shared(from), emulator::ptx::in_shared(b), int(bytes));
}
EMULATOR_HERE void cp_async_bulk(space_global_t, space_shared_t, void* to, const void* from, uint32_t bytes) {
    emulator::ptx::bulk_store_bytes<emulator::COPIED, emulator::NONE>(emulator::ptx::in_global(to), emulator::ptx::in_shared(from), int(bytes));
}
template <dot_op OP, class T>
EMULATOR_HERE void cp_reduce_async_bulk(space_global_t, space_shared_t, op_t<OP>, T* to, const T* from, uint32_t bytes) {
    constexpr emulator::Reduction HOW = emulator::ptx::reduction_of(OP);
    constexpr emulator::Number OF = emulator::ptx::number_of<T>(HOW);
    static_assert(OF != emulator::NONE, "a reduction that the emulator does not have for these numbers");
    emulator::ptx::bulk_store_bytes<HOW, OF>(emulator::ptx::in_global(to), emulator::ptx::in_shared(from), int(bytes));
}

template <int AXES>
EMULATOR_HERE void cp_async_bulk_tensor(space_cluster_t, space_global_t, void* to, const void* map, const int32_t (&at)[AXES], emulator::ptx::Place b, uint16_t ranks) {
    const emulator::ptx::Axes<AXES> axes(at);
    emulator::ptx::tma_load(emulator::ptx::in_shared(to), emulator::ptx::in_global(map), emulator::ptx::in_shared(b), ranks, axes.at);
}
template <int AXES>
EMULATOR_HERE void cp_async_bulk_tensor(space_cluster_t, space_global_t, void* to, const void* map, const int32_t (&at)[AXES], emulator::ptx::Place b) {
    cp_async_bulk_tensor(space_cluster, space_global, to, map, at, b, uint16_t(1u << emulator::block_rank));
}
template <int AXES>
EMULATOR_HERE void cp_async_bulk_tensor(space_shared_t, space_global_t, void* to, const void* map, const int32_t (&at)[AXES], emulator::ptx::Place b) {
    cp_async_bulk_tensor(space_cluster, space_global, to, map, at, b);
}
template <int AXES>
EMULATOR_HERE void cp_async_bulk_tensor(space_global_t, space_shared_t, const void* map, const int32_t (&at)[AXES], const void* from) {
    const emulator::ptx::Axes<AXES> axes(at);
    emulator::ptx::tma_store<emulator::COPIED>(emulator::ptx::in_global(map), emulator::ptx::in_shared(from), axes.at);
}
template <dot_op OP, int AXES>
EMULATOR_HERE void cp_reduce_async_bulk_tensor(space_global_t, space_shared_t, op_t<OP>, const void* map, const int32_t (&at)[AXES], const void* from) {
    static_assert(emulator::ptx::reduction_of(OP) != emulator::COPIED, "a reduction that the emulator does not have");
    const emulator::ptx::Axes<AXES> axes(at);
    emulator::ptx::tma_store<emulator::ptx::reduction_of(OP)>(emulator::ptx::in_global(map), emulator::ptx::in_shared(from), axes.at);
}

EMULATOR_HERE void cp_async_bulk_commit_group() { emulator::ptx::bulk_commit(); }
template <int N = 0>
EMULATOR_HERE void cp_async_bulk_wait_group(n32_t<N> = {}) { emulator::ptx::bulk_wait(N); }
template <int N = 0>
EMULATOR_HERE void cp_async_bulk_wait_group_read(n32_t<N> = {}) { emulator::ptx::bulk_wait(N); }

EMULATOR_HERE void cp_async_bulk_prefetch(const void*, uint32_t, uint64_t = 0) {}
template <int AXES>
EMULATOR_HERE void cp_async_bulk_prefetch_tensor(space_global_t, const void*, const int32_t (&)[AXES], uint64_t = 0) {}
EMULATOR_HERE void prefetch_tensormap(const void*) {}

// --- a warp --------------------------------------------------------------------------------------------------------------

EMULATOR_HERE bool elect_sync(uint32_t mask) {
    bool elected;
    emulator::ptx::elect(emulator::ptx::nowhere, elected, mask);
    return elected;
}
template <int N = 32>
EMULATOR_HERE void setmaxnreg_inc(n32_t<N> = {}) { emulator::ptx::setmaxnreg<true>(N); }
template <int N = 32>
EMULATOR_HERE void setmaxnreg_dec(n32_t<N> = {}) { emulator::ptx::setmaxnreg<false>(N); }

#define EMULATOR_SHUFFLES(name)                                                                          \
    template <class T>                                                                                   \
    EMULATOR_HERE T shfl_sync_##name(T x, bool& inside, uint32_t lane, uint32_t clamp, uint32_t mask) {  \
        static_assert(sizeof(T) == 4, "a shuffle of PTX is of 4 bytes");                                 \
        T y;                                                                                             \
        emulator::ptx::shfl_##name(y, inside, x, lane, clamp, mask);                                     \
        return y;                                                                                        \
    }                                                                                                    \
    template <class T>                                                                                   \
    EMULATOR_HERE T shfl_sync_##name(T x, uint32_t lane, uint32_t clamp, uint32_t mask) {                \
        bool inside;                                                                                     \
        return shfl_sync_##name(x, inside, lane, clamp, mask);                                           \
    }
EMULATOR_SHUFFLES(idx)
EMULATOR_SHUFFLES(up)
EMULATOR_SHUFFLES(down)
EMULATOR_SHUFFLES(bfly)

#define EMULATOR_REGISTER(type, name, value)  \
    EMULATOR_HERE type get_sreg_##name() { return type(value); }
#define EMULATOR_REGISTERS(name, value)              \
    EMULATOR_REGISTER(uint32_t, name##_x, value(x))  \
    EMULATOR_REGISTER(uint32_t, name##_y, value(y))  \
    EMULATOR_REGISTER(uint32_t, name##_z, value(z))
#define EMULATOR_TID(axis) emulator::self->thread.axis
#define EMULATOR_NTID(axis) emulator::block_size.axis
#define EMULATOR_CTAID(axis) emulator::block.axis
#define EMULATOR_NCTAID(axis) emulator::grid_size.axis
#define EMULATOR_CLUSTERID(axis) emulator::block.axis / emulator::cluster_size.axis
#define EMULATOR_NCLUSTERID(axis) emulator::grid_size.axis / emulator::cluster_size.axis
#define EMULATOR_IN_CLUSTER(axis) emulator::block_in_cluster().axis
#define EMULATOR_OF_CLUSTER(axis) emulator::cluster_size.axis
EMULATOR_REGISTERS(tid, EMULATOR_TID)
EMULATOR_REGISTERS(ntid, EMULATOR_NTID)
EMULATOR_REGISTERS(ctaid, EMULATOR_CTAID)
EMULATOR_REGISTERS(nctaid, EMULATOR_NCTAID)
EMULATOR_REGISTERS(clusterid, EMULATOR_CLUSTERID)
EMULATOR_REGISTERS(nclusterid, EMULATOR_NCLUSTERID)
EMULATOR_REGISTERS(cluster_ctaid, EMULATOR_IN_CLUSTER)
EMULATOR_REGISTERS(cluster_nctaid, EMULATOR_OF_CLUSTER)
EMULATOR_REGISTER(uint32_t, cluster_ctarank, emulator::block_rank)
EMULATOR_REGISTER(uint32_t, cluster_nctarank, emulator::cluster_blocks)
EMULATOR_REGISTER(uint32_t, laneid, emulator::self->lane)
EMULATOR_REGISTER(uint32_t, warpid, emulator::ptx::warp())
EMULATOR_REGISTER(uint32_t, lanemask_lt, emulator::ptx::lanes_below())
EMULATOR_REGISTER(uint32_t, lanemask_le, 2 * emulator::ptx::lanes_below() + 1)
EMULATOR_REGISTER(uint32_t, lanemask_eq, 1u << emulator::self->lane)
EMULATOR_REGISTER(uint32_t, lanemask_ge, ~emulator::ptx::lanes_below())
EMULATOR_REGISTER(uint32_t, lanemask_gt, ~(2 * emulator::ptx::lanes_below() + 1))
EMULATOR_REGISTER(uint32_t, smid, 0)
EMULATOR_REGISTER(uint32_t, clock, emulator::ticks())
EMULATOR_REGISTER(uint64_t, clock64, emulator::ticks())
EMULATOR_REGISTER(uint64_t, globaltimer, emulator::ticks())

EMULATOR_HERE void trap() { emulator::ptx::trap(); }

// --- matrices ------------------------------------------------------------------------------------------------------------

#define EMULATOR_MATRICES(suffix, trans)                                                                              \
    template <class T, int N, class = ::std::enable_if_t<sizeof(T) == 2 && (N == 1 || N == 2 || N == 4)>>             \
    EMULATOR_HERE void ldmatrix_m8n8##suffix(space_shared_t, uint32_t (&out)[N], const T* row) {                      \
        if constexpr (N == 1) emulator::ptx::ldmatrix<1, trans>(emulator::ptx::in_shared(row), out[0]);               \
        else if constexpr (N == 2) emulator::ptx::ldmatrix<2, trans>(emulator::ptx::in_shared(row), out[0], out[1]);  \
        else emulator::ptx::ldmatrix<4, trans>(emulator::ptx::in_shared(row), out[0], out[1], out[2], out[3]);        \
    }                                                                                                                 \
    template <class T, int N, class = ::std::enable_if_t<sizeof(T) == 2 && (N == 1 || N == 2 || N == 4)>>             \
    EMULATOR_HERE void stmatrix_m8n8##suffix(T* row, const uint32_t (&in)[N]) {                                       \
        if constexpr (N == 1) emulator::ptx::stmatrix<1, trans>(emulator::ptx::in_shared(row), in[0]);                \
        else if constexpr (N == 2) emulator::ptx::stmatrix<2, trans>(emulator::ptx::in_shared(row), in[0], in[1]);    \
        else emulator::ptx::stmatrix<4, trans>(emulator::ptx::in_shared(row), in[0], in[1], in[2], in[3]);            \
    }
EMULATOR_MATRICES(, false)
EMULATOR_MATRICES(_trans, true)

}  // namespace ptx
}  // namespace cuda
