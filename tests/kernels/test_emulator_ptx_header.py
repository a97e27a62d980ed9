"""<cuda/ptx>: TMA, mbarriers and clusters by the functions of cuda::ptx; all kernels are one program, compiled once."""

import re

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels import launch
from kernels.emulator import DoesNotCompile, Emulator, EmulatorError
from kernels.emulator.raw import RawKernel, RawModule
from kernels.tensor_map import TensorMap

pytestmark = needs_compiler

HEAD = """
#include <cuda/ptx>
#include <cooperative_groups.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#ifdef __CUDACC_RTC__
struct alignas(64) CUtensorMap_st { char bytes[128]; };
typedef struct CUtensorMap_st CUtensorMap;
#else
#include <cuda.h>
#endif
namespace ptx = cuda::ptx;
namespace cg = cooperative_groups;
using cuda::std::int32_t; using cuda::std::uint32_t; using cuda::std::uint64_t;
using ptx::sem_acquire; using ptx::sem_release; using ptx::sem_relaxed;
using ptx::scope_cta; using ptx::scope_cluster; using ptx::space_global; using ptx::space_shared; using ptx::space_cluster;
"""
# Each block doubles a box of an array, and adds a row of numbers to `sums`. `wrong` says which line is left out.
TWICE = """
extern "C" __global__ void twice(const __grid_constant__ CUtensorMap map, const __grid_constant__ CUtensorMap most, const int* more, int* sums, int wrong) {
    __shared__ alignas(128) int tile[8][16], other[128];
    __shared__ uint64_t full, bytes;
    const int32_t at[2] = {16, 8 * (int)blockIdx.x};
    const int t = threadIdx.x;
    if (t == 0) {
        ptx::mbarrier_init(&full, 128);
        ptx::mbarrier_init(&bytes, 1);
        if (wrong != 1) ptx::fence_mbarrier_init(sem_release, scope_cluster);
    }
    __syncthreads();
    uint64_t state;
    if (t == 0) {
        ptx::cp_async_bulk_tensor(space_cluster, space_global, &tile, &map, at, &full);  // LOAD
        state = ptx::mbarrier_arrive_expect_tx(sem_release, scope_cta, space_shared, &full, sizeof tile - 128 * (wrong == 2));
        ptx::mbarrier_expect_tx(sem_relaxed, scope_cta, space_shared, &bytes, sizeof other + 64 * (wrong == 3));
        ptx::mbarrier_arrive(sem_release, scope_cta, space_shared, &bytes);
        ptx::cp_async_bulk(space_cluster, space_global, other, more, sizeof other, &bytes);
    } else {
        state = ptx::mbarrier_arrive(&full);
    }
    if (wrong != 4) while (!ptx::mbarrier_try_wait(&full, state)) {}  // TRY
    while (!ptx::mbarrier_try_wait_parity(sem_acquire, scope_cta, &bytes, 0)) {}  // WAIT
    if (wrong == 5) ptx::mbarrier_arrive(&bytes, 2);  // MORE
    tile[t / 16][t % 16] *= 2;  // USE
    other[t] += blockIdx.x;
    if (wrong != 6) ptx::fence_proxy_async(space_shared);
    __syncthreads();
    if (t != 0) return;
    ptx::cp_async_bulk_tensor(space_global, space_shared, &map, at, &tile);  // STORE
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_add, sums, other, sizeof other);  // ADD
    ptx::cp_reduce_async_bulk_tensor(space_global, space_shared, ptx::op_max, &most, {0}, other);
    if (wrong != 7) ptx::cp_async_bulk_commit_group();
    if (wrong == 9) tile[0][0] = 0;  // AFTER
    if (wrong != 8) ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>());
    ptx::mbarrier_inval(&full);
}
"""
# Two blocks send each other what they have, in four ways; the first 16 bytes of `all` are brought to both at once.
SENDS = """
extern "C" __global__ void __cluster_dims__(2) sends(const __grid_constant__ CUtensorMap map, const uint32_t* x, uint32_t* y, uint32_t* count, int wrong) {
    __shared__ alignas(128) uint32_t all[64], row[32], mine[32], theirs[32], stored[128];
    __shared__ uint32_t bin, bits;
    __shared__ uint64_t full, ready;
    cg::cluster_group cluster = cg::this_cluster();
    const int t = threadIdx.x;
    const uint32_t rank = ptx::get_sreg_cluster_ctarank(), other = rank ^ 1;
    mine[t] = x[blockIdx.x * 32 + t];
    if (t == 0) {
        bin = 0, bits = 1;
        ptx::mbarrier_init(&full, 1);
        ptx::mbarrier_init(&ready, 32);
        ptx::fence_mbarrier_init(sem_release, scope_cluster);
        ptx::mbarrier_arrive_expect_tx(sem_release, scope_cluster, space_shared, &full, 256 + 128 + 128 + 32 * 24 - 4 * (wrong == 1));
    }
    ptx::fence_proxy_async();
    if (wrong != 2) {
        ptx::barrier_cluster_arrive(sem_release);
        ptx::barrier_cluster_wait(sem_acquire);
    }
    uint64_t* far = cluster.map_shared_rank(&full, other);
    ptx::st_async(cluster.map_shared_rank(&stored[4 * t], other), {mine[t], 1u, rank, 3u}, far);  // PUT
    ptx::red_async(ptx::op_add, cluster.map_shared_rank(&bin, other), mine[t], wrong == 3 ? &full : far);  // COUNT
    ptx::red_async(ptx::op_or_op, cluster.map_shared_rank(&bits, other), mine[t], far);
    if (t == 0) {
        ptx::cp_async_bulk(space_cluster, space_shared, cluster.map_shared_rank(theirs, other), mine, sizeof mine, far);
        ptx::cp_async_bulk_tensor(space_cluster, space_global, all + 32 * rank, &map, {0, (int)rank}, &full, 3);
        if (rank == 0) ptx::cp_async_bulk(space_cluster, space_global, row, x, sizeof row, &full, 3);
    }
    if (wrong != 4) while (!ptx::mbarrier_try_wait_parity(sem_acquire, scope_cluster, &full, 0, 100)) {}  // ALL
    y[blockIdx.x * 128 + t] = all[32 + t];  // READ
    y[blockIdx.x * 128 + 32 + t] = theirs[t];  // THEIRS
    y[blockIdx.x * 128 + 64 + t] = stored[4 * t] + 100 * stored[4 * t + 2];  // STORED
    y[blockIdx.x * 128 + 96 + t] = row[t];
    if (t == 0) count[2 * blockIdx.x] = bin, count[2 * blockIdx.x + 1] = bits;
    uint64_t* next = cluster.map_shared_rank(&ready, other);
    if (wrong == 5) ptx::mbarrier_arrive(next);  // NEAR
    else ptx::mbarrier_arrive(sem_release, scope_cluster, space_cluster, next);  // FAR
    if (wrong != 6) while (!ptx::mbarrier_test_wait_parity(sem_acquire, scope_cluster, &ready, 0)) {}
    if (ptx::getctarank(space_cluster, next) != other || ptx::getctarank(space_cluster, &ready) != rank) count[0] = 0;
}
"""
# The functions of a warp: what each lane gets.
WARP = {
    "ptx::get_sreg_laneid() + 100 * ptx::get_sreg_warpid()": lambda t: t,
    "ptx::get_sreg_tid_x() + ptx::get_sreg_ntid_x() + ptx::get_sreg_nctaid_y()": lambda t: t + 33,
    "ptx::get_sreg_lanemask_lt()": lambda t: (1 << t) - 1,
    "ptx::get_sreg_lanemask_ge()": lambda t: 2**32 - (1 << t),
    "ptx::get_sreg_cluster_nctarank() + ptx::get_sreg_clusterid_x() + ptx::get_sreg_nclusterid_x()": lambda t: (
        2 + 0 * t
    ),
    "ptx::shfl_sync_idx(t, 3, 31, ~0u)": lambda t: 3 + 0 * t,
    "(got = ptx::shfl_sync_down(t, inside, 4, 31, ~0u), got + 100 * inside)": lambda t: np.where(t < 28, t + 104, t),
    "(got = ptx::shfl_sync_up(t, inside, 4, 0, ~0u), got + 100 * inside)": lambda t: np.where(t >= 4, t + 96, t),
    "ptx::shfl_sync_bfly(t, 5, 31, ~0u)": lambda t: t ^ 5,
    "__popc(__ballot_sync(~0u, ptx::elect_sync(~0u)))": lambda t: 1 + 0 * t,
    "of_matrix[0] & 65535": lambda t: t // 4 * 8 + t % 4 * 2,
    "of_matrix[1] & 65535": lambda t: 64 + t // 4 + t % 4 * 16,
    "counted": lambda t: 32 + 0 * t,
}
LANES = f"""
extern "C" __global__ void lanes(unsigned* y, float4* copied) {{
    __shared__ alignas(16) unsigned short rows[16][8];
    __shared__ float4 stage[32];
    __shared__ uint64_t bar;
    __shared__ unsigned counted;
    const unsigned t = threadIdx.x;
    unsigned got;
    bool inside;
    if (t == 0) {{
        ptx::mbarrier_init(&bar, 32);
        counted = 0;
    }}
    for (int i = 0; i < 4; i++) rows[t / 2][t % 2 * 4 + i] = t * 4 + i;
    __syncthreads();
    unsigned of_matrix[2];
    ptx::ldmatrix_m8n8(space_shared, reinterpret_cast<unsigned (&)[1]>(of_matrix[0]), rows[t % 8]);
    ptx::ldmatrix_m8n8_trans(space_shared, reinterpret_cast<unsigned (&)[1]>(of_matrix[1]), rows[8 + t % 8]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((unsigned)__cvta_generic_to_shared(&stage[t])), "l"(copied + t) : "memory");
    ptx::cp_async_mbarrier_arrive_noinc(&bar);
    while (!ptx::mbarrier_test_wait_parity(&bar, 0)) {{}}
    copied[32 + t] = stage[t ^ 1];
    atomicAdd(&counted, 1);
    ptx::fence(ptx::sem_acq_rel, scope_cta);
    __syncthreads();
    {" ".join(f"y[{i} * 32 + t] = {call};" for i, call in enumerate(WARP))}
}}
"""
# A thread of one warp sends a number to one of another by a flag.
FLAG = """
extern "C" __global__ void flag(int* y, int wrong) {
    __shared__ int sent, flag;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        sent = 7;
        if (!wrong) ptx::fence(ptx::sem_acq_rel, scope_cta);
        atomicExch(&flag, 1);
    } else if (threadIdx.x == 32) {
        while (!atomicAdd(&flag, 0)) {}
        ptx::fence(ptx::sem_acq_rel, scope_cta);
        y[0] = sent;  // SENT
    }
}
"""
# The other forms of these functions, which are compiled only.
FORMS = """
template <class T>
__device__ void reduce_bits(T* y, T* s) {
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_and_op, y, s, 16);
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_or_op, y, s, 16);
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_xor_op, y, s, 16);
}
template <class T>
__device__ void reduce(T* y, T* s) {
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_add, y, s, 16);
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_min, y, s, 16);
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_max, y, s, 16);
}
template <ptx::dot_sem ARRIVAL, ptx::dot_sem WAIT, ptx::dot_scope SCOPE>
__device__ uint64_t of(ptx::sem_t<ARRIVAL> arrival, ptx::sem_t<WAIT> wait, ptx::scope_t<SCOPE> scope, uint64_t* b) {
    uint64_t state = ptx::mbarrier_arrive(arrival, scope, space_shared, b, 2);
    state += ptx::mbarrier_arrive(arrival, scope, space_shared, b) + ptx::mbarrier_arrive_expect_tx(arrival, scope, space_shared, b, 16);
    ptx::mbarrier_arrive(arrival, scope_cluster, space_cluster, b);
    ptx::mbarrier_arrive(arrival, scope_cluster, space_cluster, b, 2);
    ptx::mbarrier_arrive_expect_tx(arrival, scope_cluster, space_cluster, b, 16);
    ptx::mbarrier_expect_tx(sem_relaxed, scope, space_shared, b, 16);
    ptx::mbarrier_expect_tx(sem_relaxed, scope, space_cluster, b, 16);
    state += ptx::mbarrier_test_wait(wait, scope, b, state) + ptx::mbarrier_test_wait_parity(wait, scope, b, 0);
    state += ptx::mbarrier_try_wait(wait, scope, b, state) + ptx::mbarrier_try_wait(wait, scope, b, state, 9);
    return state + ptx::mbarrier_try_wait_parity(wait, scope, b, 0) + ptx::mbarrier_try_wait_parity(wait, scope, b, 0, 9);
}
extern "C" __global__ void forms(const __grid_constant__ CUtensorMap map, uint32_t* y, __half* halves, __nv_bfloat16* others) {
    __shared__ alignas(128) uint32_t s[1024];
    __shared__ uint64_t bar;
    uint64_t* const b = &bar;
    uint64_t state = of(sem_release, sem_acquire, scope_cta, b) + of(sem_relaxed, sem_relaxed, scope_cluster, b) + ptx::mbarrier_arrive(b, 1);
    state += ptx::mbarrier_test_wait(b, state) + ptx::mbarrier_test_wait_parity(b, 0) + ptx::mbarrier_try_wait(b, state);
    state += ptx::mbarrier_try_wait(b, state, 9) + ptx::mbarrier_try_wait_parity(b, 0) + ptx::mbarrier_try_wait_parity(b, 0, 9);
    ptx::cp_async_mbarrier_arrive(b);
    ptx::fence(ptx::sem_sc, scope_cta);
    ptx::fence(ptx::sem_sc, scope_cluster);
    ptx::fence(ptx::sem_acq_rel, ptx::scope_gpu);
    ptx::fence(sem_acquire, ptx::scope_sys);
    ptx::fence(sem_release, ptx::scope_gpu);
    ptx::fence_proxy_async(space_global);
    ptx::fence_proxy_async(space_cluster);
    ptx::barrier_cluster_arrive();
    ptx::barrier_cluster_wait();
    ptx::barrier_cluster_arrive(sem_relaxed);
    ptx::barrier_cluster_wait(sem_acquire);
    ptx::st_async(s, 1u, b);
    ptx::st_async(s, {1u, 2u}, b);
    ptx::st_async((double*)s, {1.0, 2.0}, b);
    ptx::red_async(ptx::op_min, s, 1, b);
    ptx::red_async(ptx::op_max, (int*)s, 1, b);
    ptx::red_async(ptx::op_add, (uint64_t*)s, 1, b);
    ptx::red_async(ptx::op_add, (cuda::std::int64_t*)s, 1, (cuda::std::int64_t*)b);  // as it is there
    ptx::red_async(ptx::op_and_op, (float*)s, 1.0f, b);
    ptx::red_async(ptx::op_xor_op, s, 1u, b);
    ptx::cp_async_bulk(space_shared, space_global, s, y, 16, b);
    ptx::cp_async_bulk(space_global, space_shared, y, s, 16);
    ptx::cp_async_bulk_tensor(space_shared, space_global, s, &map, {1}, b);
    ptx::cp_async_bulk_tensor(space_cluster, space_global, s, &map, {1, 2, 3}, b, 3);
    ptx::cp_async_bulk_tensor(space_global, space_shared, &map, {1, 2, 3, 4}, s);
    ptx::cp_reduce_async_bulk_tensor(space_global, space_shared, ptx::op_add, &map, {1, 2, 3, 4, 5}, s);
    ptx::cp_async_bulk_prefetch_tensor(space_global, &map, {1, 2});
    ptx::prefetch_tensormap(&map);
    ptx::cp_async_bulk_prefetch(y, 16);
    reduce((uint32_t*)y, (uint32_t*)s);
    reduce((int32_t*)y, (int32_t*)s);
    reduce((uint64_t*)y, (uint64_t*)s);
    reduce((cuda::std::int64_t*)y, (cuda::std::int64_t*)s);
    reduce(halves, (__half*)s);
    reduce(others, (__nv_bfloat16*)s);
    reduce_bits(y, s);
    reduce_bits((double*)y, (double*)s);
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_add, (float*)y, (const float*)s, 16);
    ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_add, (double*)y, (double*)s, 16);
    ptx::cp_async_bulk_wait_group(ptx::n32_t<1>());
    ptx::cp_async_bulk_wait_group_read<2>();
    ptx::setmaxnreg_inc(ptx::n32_t<64>());
    ptx::setmaxnreg_dec<32>();
    uint32_t four[4];
    ptx::ldmatrix_m8n8_trans(space_shared, four, (const __half*)s);
    ptx::stmatrix_m8n8((__half*)s, four);
    y[0] = state + ptx::get_sreg_clock() + ptx::get_sreg_globaltimer() + ptx::get_sreg_smid() + ptx::get_sreg_cluster_ctaid_y();
    if (y[1]) ptx::trap();
}
"""
# As the programming guide has it: a barrier of CUDA, and a copy that arrives at it.
GUIDE = """
#include <cuda/barrier>
using barrier = cuda::barrier<cuda::thread_scope_block>;
extern "C" __global__ void add_one(int* data) {
    __shared__ alignas(16) int smem_data[256];
    #pragma nv_diag_suppress static_var_with_dynamic_init
    __shared__ barrier bar;
    if (threadIdx.x == 0) {
        init(&bar, blockDim.x);
        ptx::fence_proxy_async(ptx::space_shared);
    }
    __syncthreads();
    barrier::arrival_token token;
    if (threadIdx.x == 0) {
        ptx::cp_async_bulk(ptx::space_cluster, ptx::space_global, smem_data, data + 256 * blockIdx.x, sizeof(smem_data), cuda::device::barrier_native_handle(bar));
        token = cuda::device::barrier_arrive_tx(bar, 1, sizeof(smem_data));
    } else {
        token = bar.arrive();
    }
    bar.wait(static_cast<barrier::arrival_token&&>(token));
    for (int i = threadIdx.x; i < 256; i += blockDim.x) smem_data[i] += 1;
    ptx::fence_proxy_async(ptx::space_shared);
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::cp_async_bulk(ptx::space_global, ptx::space_shared, data + 256 * blockIdx.x, smem_data, sizeof(smem_data));
        ptx::cp_async_bulk_commit_group();
        ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>());
    }
}
"""
CODE = HEAD + TWICE + SENDS + LANES + FLAG + FORMS
LINES = {m[1]: CODE.count("\n", 0, m.start()) + 1 for m in re.finditer(r"// ([A-Z]+)$", CODE, re.MULTILINE)}


def twice(kernel, wrong=0):
    x, more = np.arange(16 * 64, dtype=np.int32).reshape(16, 64), np.arange(128, dtype=np.int32)
    want, sums, most = x.copy(), np.ones(128, np.int32), np.zeros(128, np.int32)
    want[:, 16:32] *= 2
    maps = TensorMap(x, (8, 16)), TensorMap(most, (128,), numbers="int32")
    kernel((2,), (128,), (*maps, more, sums, np.int32(wrong)))
    np.testing.assert_array_equal(x, want)
    np.testing.assert_array_equal(sums, 2 + 2 * more)
    np.testing.assert_array_equal(most, 1 + more)


def sends(kernel, wrong=0):
    x = np.random.default_rng(0).integers(0, 100, (4, 32)).astype(np.uint32)
    y, count = np.zeros((4, 4, 32), np.uint32), np.zeros((4, 2), np.uint32)
    kernel((4,), (32,), (TensorMap(x, (1, 32)), x, y, count, np.int32(wrong)))
    swapped = x[[1, 0, 3, 2]]
    np.testing.assert_array_equal(y[:, 0], np.broadcast_to(x[1], (4, 32)))
    np.testing.assert_array_equal(y[:, 1], swapped)
    np.testing.assert_array_equal(y[:, 2], swapped + 100 * np.array([1, 0, 1, 0])[:, None])
    np.testing.assert_array_equal(y[:, 3], np.broadcast_to(x[0], (4, 32)))
    np.testing.assert_array_equal(count, np.stack([swapped.sum(1), 1 | np.bitwise_or.reduce(swapped, 1)], 1))


def flag(kernel, wrong=0):
    y = np.zeros(1, np.int32)
    kernel((1,), (64,), (y, np.int32(wrong)))
    assert y == 7


@pytest.mark.usefixtures("each_compiler")
def test_copies_by_tma_and_the_waits_for_them():
    twice(RawModule(CODE, seeds=8).get_function("twice"))


@pytest.mark.usefixtures("each_compiler")
def test_what_blocks_of_a_cluster_send_each_other():
    sends(RawModule(CODE, seeds=8).get_function("sends"))


@pytest.mark.usefixtures("each_compiler")
def test_a_flag_with_fences():
    flag(RawModule(CODE, seeds=8).get_function("flag"))


@pytest.mark.usefixtures("each_compiler")
def test_a_warp():
    y, copied = np.zeros((len(WARP), 32), np.uint32), np.arange(256, dtype=np.float32).reshape(64, 4)
    want = copied[np.arange(32) ^ 1]
    RawModule(CODE).get_function("lanes")((1,), (32,), (y, copied.view("V16")))
    for got, (call, known) in zip(y, WARP.items()):
        np.testing.assert_array_equal(got, known(np.arange(32)), call)
    np.testing.assert_array_equal(copied[32:], want)


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    "run, wrong, at, why",
    [
        (twice, 1, "LOAD", "missing fence: an mbarrier that was made without fence_mbarrier_init after it"),
        (twice, 2, "TRY", "deadlock: .* 0 arrivals missing, and 128 bytes more have come than were expected"),
        (twice, 3, "WAIT", "deadlock: .* 0 arrivals and 64 bytes missing"),
        (twice, 4, "USE", r"missing wait: read of 4 bytes at byte \d+ of tile by .*, where a copy begun at LOAD is not"),
        (twice, 5, "MORE", "bad operand: more arrivals at an mbarrier than the 1 that it was made for"),
        (twice, 6, "STORE", "missing fence: read of 64 bytes at byte 0 of tile by the async proxy .* a write by .* at USE"),
        (twice, 6, "ADD", "missing fence: read of 512 bytes at byte 0 of other by the async proxy"),
        (twice, 7, "STORE", "missing wait: nobody waits for this copy before the thread returns"),
        (twice, 8, "ADD", "missing wait: nobody waits for this copy before the thread returns"),
        (twice, 9, "AFTER", "missing wait: a write to byte 0 of tile, which a product or a copy may still be reading"),
        (sends, 1, "ALL", "deadlock: .* 0 arrivals missing, and 4 bytes more have come than were expected"),
        (sends, 2, "PUT", "absent block: an access to the shared memory of block . of the cluster, which may not have begun"),
        (sends, 3, "COUNT", "bad operand: an mbarrier of another block than the target's"),
        (sends, 4, "READ", r"uninitialised: read of 4 bytes at byte \d+ of all"),
        (sends, 4, "THEIRS", r"uninitialised: read of 4 bytes at byte \d+ of theirs"),
        (sends, 4, "PUT", "race: write of 16 bytes .* of stored of block . of the cluster by .* and a read by .* at STORED"),
        (sends, 5, "NEAR", "bad operand: an mbarrier of another block, which space_shared does not reach"),
        (sends, 6, "FAR", "absent block: .* which may have returned before"),
        (flag, 1, "SENT", "race: read of 4 bytes at byte 0 of sent"),
    ],
)  # fmt: skip
def test_mistakes_are_found_at_their_lines(run, wrong, at, why):
    why = re.sub("([A-Z]{2,})", lambda m: f"kernel.cu:{LINES[m[1]]}", why)
    with pytest.raises(EmulatorError, match=rf"(?m)^kernel\.cu:{LINES[at]}: {why}"):
        run(RawModule(CODE, seeds=8).get_function(run.__name__), wrong)


def test_a_kernel_of_the_guide(tmp_path):
    (tmp_path / "kernel.cu").write_text(HEAD + GUIDE)
    device = Emulator(strict=False)  # the manual has a fence of its own for mbarriers
    data = np.arange(512, dtype=np.int32)
    device.run(tmp_path / "kernel.cu", "add_one", 2, 64, {"data": data})
    device.check()
    np.testing.assert_array_equal(data, np.arange(512) + 1)


@needs_nvrtc
def test_a_gpus_compiler_knows_them_too(tmp_path):
    (tmp_path / "kernel.cu").write_text(CODE + GUIDE)
    launch.compile_for(tmp_path / "kernel.cu", "90a")


NOT_THERE = {
    "ptx::tensormap_replace_global_address(space_global, y, y);": "tensormap_replace_global_address",
    "ptx::fence_proxy_tensormap_generic(sem_release, ptx::scope_gpu);": "fence_proxy_tensormap_generic",
    "ptx::tcgen05_wait_ld();": "tcgen05_wait_ld",
    "ptx::mbarrier_arrive(sem_acquire, scope_cta, space_shared, &bar);": "an arrival is sem_release or sem_relaxed",
    "ptx::mbarrier_test_wait(sem_release, scope_cta, &bar, 0);": "a wait is sem_acquire or sem_relaxed",
    "ptx::cp_reduce_async_bulk(space_cluster, space_shared, ptx::op_add, y, s, 16, &bar);": "no matching function for call to .cp_red",
    "ptx::cp_reduce_async_bulk(space_global, space_shared, ptx::op_inc, y, s, 16);": "the emulator does not have for these",
    "ptx::red_async(ptx::op_dec, s, 1u, &bar);": "the emulator does not have for these",
    "ptx::mbarrier_try_wait_parity(sem_acquire, ptx::scope_gpu, &bar, 0);": "the scope is scope_cta or scope_cluster",
    "ptx::st_async((char*)s, (char)1, &bar);": "st_async stores numbers of 4 or 8 bytes",
    "ptx::fence(sem_relaxed, scope_cta);": "a fence is sem_sc, sem_acq_rel, sem_acquire or sem_release",
}


@pytest.mark.usefixtures("each_compiler")
def test_what_is_not_there_does_not_compile():
    lines = "\n".join(NOT_THERE)
    code = f'{HEAD}extern "C" __global__ void k(unsigned* y) {{ __shared__ unsigned s[32]; __shared__ uint64_t bar;\n{lines}\n}}'
    with pytest.raises(DoesNotCompile) as error:
        RawKernel(code, "k").compile()
    for line, (call, said) in enumerate(NOT_THERE.items(), HEAD.count("\n") + 2):
        assert re.search(rf"kernel\.cu:{line}: ", str(error.value)) and re.search(said, str(error.value)), call
