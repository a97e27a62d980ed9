// The same for what came with Hopper: mbarriers, clusters, TMA, wgmma. Part of assembly.cuh.
#pragma once

namespace emulator {
namespace ptx {

EMULATOR_QUIET void* here(unsigned long long address) { return shared_pointer(unsigned(address), true); }
EMULATOR_QUIET bool is_own(unsigned long long address) { return rank_of(unsigned(address)) == block_rank; }

// --- mbarrier ------------------------------------------------------------------------------------------------------------

EMULATOR_PTX void mbarrier_init(unsigned long long barrier, int count) { emulator::mbarrier_init(at<true>(barrier), count, EMULATOR_WHERE); }
EMULATOR_QUIET void mbarrier_inval(unsigned long long) {}

template <class D>  // a phase's state is its parity
EMULATOR_QUIET void arrive(unsigned long long barrier, D& state, int bytes, int count, const void* where) {
    if (is_own(barrier)) {
        state = (unsigned long long)mbarrier_phase(here(barrier), where);
        emulator::mbarrier_arrive(here(barrier), bytes, where, count);
    } else {
        mbarrier_arrive_at(here(barrier), rank_of(unsigned(barrier)), where, bytes, count);
    }
}
template <class D>
EMULATOR_PTX void mbarrier_arrive(unsigned long long barrier, D& state, int count = 1) { arrive(barrier, state, 0, count, EMULATOR_WHERE); }
template <class D>
EMULATOR_PTX void mbarrier_arrive_expect_tx(unsigned long long barrier, D& state, int bytes) { arrive(barrier, state, bytes, 1, EMULATOR_WHERE); }
EMULATOR_PTX void mbarrier_expect_tx(unsigned long long barrier, int bytes) { arrive(barrier, nowhere, bytes, 0, EMULATOR_WHERE); }

// How long it may take comes last, and is not looked at.
template <bool OF_CLUSTER, class D, class A, class... Time>
EMULATOR_PTX void mbarrier_wait(unsigned long long barrier, D& over, A parity_or_state, Time...) {
    over = emulator::mbarrier_try_wait(at<true>(barrier), unsigned(parity_or_state), OF_CLUSTER, EMULATOR_WHERE);
}

EMULATOR_QUIET void fence_mbarrier_init() { emulator::fence_mbarrier_init(); }

// --- clusters ------------------------------------------------------------------------------------------------------------

template <bool RELAXED>
EMULATOR_PTX void cluster_arrive() { emulator::cluster_arrive(EMULATOR_WHERE, RELAXED); }
EMULATOR_PTX void cluster_wait() { emulator::cluster_wait(EMULATOR_WHERE); }
template <class D>
EMULATOR_PTX void mapa(D& d, unsigned address, int rank) { d = address_in_block(address, rank, EMULATOR_WHERE); }
template <class T, class... D>
EMULATOR_PTX void ld_cluster(unsigned long long address, D&... d) {
    T x[sizeof...(D)];
    __builtin_memcpy(x, in_block(rank_of(unsigned(address)), here(address), sizeof x, READ, EMULATOR_WHERE), sizeof x);
    int i = 0;
    ((d = as<D>(x[i++])), ...);
}
template <class T, class... A>
EMULATOR_PTX void st_cluster(unsigned long long address, A... values) {
    const T x[] = {as<T>(values)...};
    __builtin_memcpy(in_block(rank_of(unsigned(address)), here(address), sizeof x, WRITE, EMULATOR_WHERE), x, sizeof x);
}

// Stores and reductions that arrive at an mbarrier by their bytes. Here they are done at once, by the thread.
EMULATOR_QUIET int rank_of_both(unsigned long long address, unsigned long long barrier, const void* where) {
    const int rank = rank_of(unsigned(address));
    if (rank_of(unsigned(barrier)) != rank)
        bad_operand("an mbarrier of another block than the target's, %d", rank, where);
    return rank;
}
template <class T, class... A>
EMULATOR_PTX void st_async(unsigned long long address, unsigned long long barrier, A... values) {
    const T x[] = {as<T>(values)...};
    const int rank = rank_of_both(address, barrier, EMULATOR_WHERE);
    __builtin_memcpy(in_block(rank, here(address), sizeof x, WRITE, EMULATOR_WHERE), x, sizeof x);
    mbarrier_arrive_at(here(barrier), rank, EMULATOR_WHERE, -int(sizeof x), 0);
}
template <class T, Reduction HOW, class A>
EMULATOR_PTX void red_async(unsigned long long address, unsigned long long barrier, A value) {
    const T b = as<T>(value);
    const int rank = rank_of_both(address, barrier, EMULATOR_WHERE);
    T& a = *static_cast<T*>(in_block(rank, here(address), sizeof a, ATOMIC, EMULATOR_WHERE));
    a = HOW == ADD ? T(a + 0ull + b) : HOW == MIN ? (b < a ? b : a) : HOW == MAX ? (a < b ? b : a) : HOW == AND ? a & b : HOW == OR ? a | b : a ^ b;
    mbarrier_arrive_at(here(barrier), rank, EMULATOR_WHERE, -int(sizeof b), 0);
}

template <class D, class P>  // one lane of those that take part: here the first
EMULATOR_PTX void elect(D& leader, P& is_leader, unsigned mask) {
    const int first = __builtin_ctz(mask | 1u << 31);
    warp_exchange(mask, &first, sizeof first, EMULATOR_WHERE);
    leader = unsigned(first);
    is_leader = self->lane == first;
}

template <bool COUNTED>
EMULATOR_PTX void cp_async_arrive(unsigned long long barrier) { arrive_with_copies(at<true>(barrier), COUNTED, EMULATOR_WHERE); }

// --- TMA -----------------------------------------------------------------------------------------------------------------

EMULATOR_QUIET void* own(unsigned long long address, const void* where) {
    if (!is_own(address)) bad_operand("TMA from global memory to another block, but by multicast, is not emulated", 0, where);
    return here(address);
}
template <int AXES>
EMULATOR_PTX void tma_load(unsigned long long shared, unsigned long long map, unsigned long long barrier, unsigned ranks, const int (&at)[AXES]) {
    bulk_load(own(shared, EMULATOR_WHERE), reinterpret_cast<const TensorMap*>(map), own(barrier, EMULATOR_WHERE), ranks, AXES, at, EMULATOR_WHERE);
}
EMULATOR_PTX void tma_load_windows(unsigned long long shared, unsigned long long map, unsigned long long barrier, int c, int column,
                                   int row, int n, int right, int down) {
    const int at[] = {c, column, row, n}, offset[] = {right, down};
    bulk_load_windows(own(shared, EMULATOR_WHERE), reinterpret_cast<const TensorMap*>(map), own(barrier, EMULATOR_WHERE), at, offset, EMULATOR_WHERE);
}
template <Reduction HOW, int AXES>
EMULATOR_PTX void tma_store(unsigned long long map, unsigned long long shared, const int (&at)[AXES]) {
    bulk_store(reinterpret_cast<const TensorMap*>(map), emulator::ptx::at<true>(shared), AXES, at, EMULATOR_WHERE, HOW);
}
EMULATOR_PTX void bulk_load_bytes(unsigned long long shared, unsigned long long global, unsigned long long barrier, int bytes, unsigned ranks) {
    emulator::bulk_load_bytes(own(shared, EMULATOR_WHERE), at<false>(global), bytes, own(barrier, EMULATOR_WHERE), ranks, EMULATOR_WHERE);
}
EMULATOR_PTX void bulk_send_bytes(unsigned long long theirs, unsigned long long shared, unsigned long long barrier, int bytes) {
    const int rank = rank_of_both(theirs, barrier, EMULATOR_WHERE);
    emulator::bulk_send_bytes(here(theirs), rank, at<true>(shared), bytes, here(barrier), EMULATOR_WHERE);
}
template <Reduction HOW, Number OF>
EMULATOR_PTX void bulk_store_bytes(unsigned long long global, unsigned long long shared, int bytes) {
    emulator::bulk_store_bytes(at<false>(global), at<true>(shared), bytes, EMULATOR_WHERE, HOW, OF);
}
EMULATOR_QUIET void bulk_commit() { commit_stores(); }
EMULATOR_QUIET void bulk_wait(int groups) { wait_for_stores(groups); }

// --- wgmma ---------------------------------------------------------------------------------------------------------------

template <class T>
EMULATOR_QUIET unsigned* sum(T& x) {
    static_assert(sizeof(T) == 4, "a sum of wgmma is a register of 32 bits");
    return reinterpret_cast<unsigned*>(&x);
}
template <Number SUM, Number A, Number B, int COLUMNS, int SUMS>
EMULATOR_PTX void wgmma(unsigned* const (&sums)[SUMS], const unsigned* a, unsigned long long a_tile, unsigned long long b_tile, bool add,
                        int sign_a, int sign_b, bool across_a, bool across_b) {
    static_assert(SUMS == COLUMNS / (SUM == FP16 ? 4 : 2), "as many sums as the columns ask for");
    emulator::wgmma({A, B, SUM, COLUMNS, sums, a, a_tile, b_tile, across_a, across_b, add, sign_a * sign_b < 0}, EMULATOR_WHERE);
}
EMULATOR_QUIET void wgmma_fence() { emulator::wgmma_fence(); }
EMULATOR_QUIET void wgmma_commit_group() { wgmma_commit(); }
EMULATOR_PTX void wgmma_wait_group(int groups) { wgmma_wait(groups, EMULATOR_WHERE); }
template <bool UP>
EMULATOR_PTX void setmaxnreg(int count) { change_registers(count, UP, EMULATOR_WHERE); }

}  // namespace ptx
}  // namespace emulator
