"""Inline PTX of Hopper that works on its own: what a wait may answer, what arrives later, additions by TMA."""

import numpy as np
import pytest
from hopper import HEAD, on_a_gpu
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16
from kernels.emulator import EmulatorError
from kernels.emulator.raw import RawKernel
from kernels.tensor_map import TensorMap

pytestmark = needs_compiler

# Each thread hands its number on to the one before it.
TOKENS = """
extern "C" __global__ void k(int* x) {
    __shared__ uint64_t bar;
    __shared__ int v[64];
    if (threadIdx.x == 0) init(&bar, 64);
    __syncthreads();
    v[threadIdx.x] = x[threadIdx.x];
    uint64_t token;
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%1]; mov.b64 %0, state; }"
                 : "=l"(token) : "r"(address(&bar)) : "memory");
    unsigned over;
    do asm volatile("{ .reg .pred p; mbarrier.WAIT.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                    : "=r"(over) : "r"(address(&bar)), "l"(token) : "memory");
    while (LOOP);
    x[threadIdx.x] = v[(threadIdx.x + 1) % 64];
}
"""


@pytest.mark.parametrize("wait", ["try_wait", "test_wait.acquire.cta"])
def test_a_wait_may_answer_no(wait, each_compiler):
    code, x = HEAD + TOKENS.replace("WAIT", wait), np.arange(64, dtype=np.int32)
    RawKernel(code.replace("LOOP", "!over"), "k")((1,), (64,), (x,))
    np.testing.assert_array_equal(x, (np.arange(64) + 1) % 64)
    with pytest.raises(EmulatorError, match=r"race: read of 4 bytes at byte .* of v"):
        RawKernel(code.replace("LOOP", "0"), "k")((1,), (64,), (x,))


# Thread 0 tries both mbarriers in turn: the second one's end leads to the first one's.
TWO = """
extern "C" __global__ void k(int* x) {
    __shared__ uint64_t first, second, third;
    __shared__ int flag;
    if (threadIdx.x == 0) {
        init(&first, 1);
        init(&second, 1);
        init(&third, 1);
        flag = 0;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        bool ended[2] = {};
        while (!ended[0] || !ended[1])
            for (int i = 0; i < 2; i++) {
                if (ended[i]) continue;
                unsigned over;
                asm volatile("{ .reg .pred p; mbarrier.TRY.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                             : "=r"(over) : "r"(address(i ? &second : &first)) : "memory");
                ended[i] = over;
                if (over && i == 1) SAY;
            }
        x[0] = x[1];
    }
    if (threadIdx.x == 32) {
        LISTEN;
        x[1] = 5;
        expect(&first, 0);
    }
    if (threadIdx.x == 64) expect(&second, 0);
}
"""
SAY = ("expect(&third, 0)", "atomicExch(&flag, 1)")
LISTEN = ("wait(&third, 0)", "while (!atomicAdd(&flag, 0)) {}")


@pytest.mark.parametrize("by", [0, 1])
@pytest.mark.parametrize("how", ["try_wait", "test_wait"])
def test_who_tries_to_wait_may_do_something_else(how, by, each_compiler):
    code, x = HEAD + TWO.replace("TRY", how), np.zeros(2, np.int32)
    code = code.replace("SAY", SAY[by]).replace("LISTEN", LISTEN[by])
    RawKernel(code, "k", seeds=6)((1,), (96,), (x,))
    assert x.tolist() == [5, 5]
    for old, why in (
        (
            "expect(&second, 0)",
            "deadlock: thread 0 .*1 wait here for the end of an mbarrier's phase, 1 arrivals missing"
            if by == 0
            else "endless: ",
        ),
        (SAY[by], "deadlock: " if by == 0 else "endless: "),
    ):
        for _ in range(2):  # the second launch waits as long as the first
            with pytest.raises(EmulatorError, match=why):
                RawKernel(code.replace(old, "(void)0"), "k", seeds=1)((1,), (96,), (x,))


@needs_nvrtc
def test_a_gpu_takes_these(tmp_path):
    on_a_gpu(tmp_path, TOKENS.replace("WAIT", "try_wait").replace("LOOP", "!over"))
    on_a_gpu(tmp_path, TWO.replace("TRY", "test_wait").replace("SAY", SAY[0]).replace("LISTEN", LISTEN[0]))


# --- additions and the like by TMA ---------------------------------------------------------------------------------------

# Each block has a row of 32 numbers, which it combines with what is in y.
REDUCE = """
extern "C" __global__ void k(const NUMBER* x, const __grid_constant__ CUtensorMap map, NUMBER* y) {
    __shared__ alignas(128) NUMBER row[32];
    row[threadIdx.x] = x[blockIdx.x * 32 + threadIdx.x];
    fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.reduce.async.bulk.TENSOR" :: "l"(PLACE), "r"(address(row)), "r"(TIMES) : "memory");
        asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
"""


def reduction(how, of, number, of_tensor):
    tensor = f"tensor.1d.global.shared::cta.{how}.tile.bulk_group [%0, {{%2}}], [%1];"
    plain = f"global.shared::cta.bulk_group.{how}.{of} [%0], [%1], %2;"
    code = REDUCE.replace("TENSOR", tensor if of_tensor else plain).replace("PLACE", "&map" if of_tensor else "y")
    return code.replace("TIMES", "0" if of_tensor else "(int)sizeof row").replace("NUMBER", number)


KINDS = [
    ("add", "f32", "float", np.float32, np.add), ("add", "noftz.f16", "unsigned short", np.float16, np.add), ("add", "f64", "double", np.float64, np.add),
    ("min", "s32", "int", np.int32, np.minimum), ("max", "u32", "unsigned", np.uint32, np.maximum), ("xor", "b32", "unsigned", np.uint32, np.bitwise_xor),
    ("add", "u64", "unsigned long long", np.uint64, np.add), ("max", "s64", "long long", np.int64, np.maximum),
]  # fmt: skip


@pytest.mark.parametrize(
    "how, of, number, dtype, function", KINDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_reductions_by_tma(how, of, number, dtype, function, rng):
    low = 0 if dtype in (np.uint32, np.uint64) else -50
    x, y = (rng.integers(low, 50, shape).astype(dtype) for shape in ((3, 32), (32,)))
    for of_tensor in (False, True):
        got = y.copy()
        seen, place = (x.view(np.uint16), got.view(np.uint16)) if dtype == np.float16 else (x, got)
        RawKernel(HEAD + reduction(how, of, number, of_tensor), "k")(
            (3,), (32,), (seen, TensorMap(got, (32,), numbers=got.dtype.name), place)
        )
        np.testing.assert_array_equal(got, function(y, function.reduce(x)))


def test_reductions_of_bf16(each_compiler):
    x = bfloat16.to_bits(np.arange(96, dtype=np.float32).reshape(3, 32))
    for of_tensor in (False, True):
        y = bfloat16.to_bits(np.ones(32, np.float32))
        code = HEAD + reduction("add", "noftz.bf16", "unsigned short", of_tensor)
        RawKernel(code, "k")((3,), (32,), (x, TensorMap(y, (32,), numbers="bf16"), y))
        np.testing.assert_array_equal(bfloat16.from_bits(y), 97 + 3 * np.arange(32))
    with pytest.raises(EmulatorError, match="bad operand: a reduction, and the map does not say of which numbers"):
        RawKernel(code, "k")((3,), (32,), (x, TensorMap(y, (32,)), y))
    with pytest.raises(ValueError, match=r"numbers are bf16 .in 2 bytes. or the array's, .* got 'bf16' for float32"):
        TensorMap(np.zeros(32, np.float32), (32,), numbers="bf16")
    with pytest.raises(ValueError, match="got 'uint8' for uint8"):
        TensorMap(np.zeros(32, np.uint8), (32,), numbers="uint8")


def test_mistakes_with_reductions():
    x, y = np.ones((3, 32), np.float32), np.ones(32, np.float32)
    right = HEAD + reduction("add", "f32", "float", of_tensor=False)
    for old, new, why in (
        ("    fence();\n", "", "missing fence: read of 128 bytes"),
        (" cp.async.bulk.wait_group 0;", "", "missing wait: nobody waits for this copy"),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32", "cp.async.bulk.global.shared::cta.bulk_group", "race: write of 128 bytes"),
        ("if (threadIdx.x == 0) {", "y[threadIdx.x] = 0; if (threadIdx.x == 0) {", "race: write of 4 bytes .* and an atomic operation"),
    ):  # fmt: skip
        assert old in right
        with pytest.raises(EmulatorError, match=why):
            RawKernel(right.replace(old, new), "k")((3,), (32,), (x, TensorMap(y, (32,)), y))
    with pytest.raises(EmulatorError, match="bad operand: a reduction that there is not for these numbers"):
        code = HEAD + reduction("min", "", "float", of_tensor=True)
        RawKernel(code, "k")((3,), (32,), (x, TensorMap(y, (32,), numbers="float32"), y))


@needs_nvrtc
def test_a_gpu_takes_these_reductions(tmp_path):
    for how, of, number, _, _ in KINDS:
        on_a_gpu(tmp_path, reduction(how, of, number, of_tensor=False))
    on_a_gpu(
        tmp_path,
        reduction("add", "noftz.bf16", "unsigned short", of_tensor=False),
    )
    on_a_gpu(tmp_path, reduction("add", "", "float", of_tensor=True))


# --- stores and reductions into other blocks ------------------------------------------------------------------------------

# Each thread sends what it has to the other block of its cluster, four numbers at once, and counts the last of them there.
SENDS = """
extern "C" __global__ void __cluster_dims__(2) k(const unsigned* x, unsigned* y, unsigned* counts) {
    __shared__ alignas(16) unsigned theirs[128], bins[4];
    __shared__ uint64_t full;
    unsigned rank, there, bin, bar, a, b, c, d;
    if (threadIdx.x < 4) bins[threadIdx.x] = 0;
    if (threadIdx.x == 0) {
        init(&full, 1);
        expect(&full, 32 * 20);
    }
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    const unsigned* mine = x + blockIdx.x * 128 + 4 * threadIdx.x;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(&theirs[4 * threadIdx.x])), "r"(rank ^ 1));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bin) : "r"(address(&bins[mine[3] % 4])), "r"(rank ^ 1));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bar) : "r"(address(&full)), "r"(rank ^ 1));
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];"
                 :: "r"(there), "r"(mine[0]), "r"(mine[1]), "r"(mine[2]), "r"(mine[3]), "r"(bar) : "memory");
    asm volatile("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%0], %1, [%2];"
                 :: "r"(bin), "r"(1), "r"(bar) : "memory");
    wait(&full, 0);
    for (int i = 0; i < 4; i++) y[blockIdx.x * 128 + i * 32 + threadIdx.x] = theirs[i * 32 + threadIdx.x];
    if (threadIdx.x < 4) counts[blockIdx.x * 4 + threadIdx.x] = bins[threadIdx.x];
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(theirs)), "r"(rank ^ 1));
    if (threadIdx.x < 4) asm volatile("st.shared::cluster.v2.u32 [%0+16], {%1, %2};" :: "r"(there + 32 * (threadIdx.x & 3)), "r"(threadIdx.x & 3), "r"(7) : "memory");
    asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(there) : "memory");
    if (a != mine[0] && threadIdx.x == 0) y[0] = 999;
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
"""


def send(code):
    x, y, counts = (
        np.arange(256, dtype=np.uint32).reshape(2, 128) * 3,
        np.zeros((2, 128), np.uint32),
        np.zeros((2, 4), np.uint32),
    )
    RawKernel(HEAD + code, "k", seeds=6)((2,), (32,), (x, y, counts))
    np.testing.assert_array_equal(y, x[::-1])
    np.testing.assert_array_equal(counts, [np.bincount(part[3::4] % 4, minlength=4) for part in x[::-1]])


def test_stores_and_reductions_that_arrive_at_an_mbarrier_of_another_block(each_compiler):
    send(SENDS)


@pytest.mark.parametrize(
    "old, new, why",
    [
        ("    wait(&full, 0);\n", "", r"race: read of 4 bytes at byte \d+ of theirs"),
        ("32 * 20", "32 * 16", r"deadlock: .* 0 arrivals missing, and \d+ bytes more have come than were expected"),
        ("32 * 20", "32 * 24", "deadlock: .* 0 arrivals and 128 bytes missing"),
        ('"r"(mine[3]), "r"(bar)', '"r"(mine[3]), "r"(address(&full))', "bad operand: an mbarrier of another block than the target's"),
        ("address(&theirs[4 * threadIdx.x])", "address(&theirs[4 * threadIdx.x + 1])", "misaligned: write of 16 bytes"),
    ],
)  # fmt: skip
def test_mistakes_with_them(old, new, why):
    assert old in SENDS
    with pytest.raises(EmulatorError, match=why):
        send(SENDS.replace(old, new))


# --- cp.async that arrives at an mbarrier ---------------------------------------------------------------------------------

STAGES = """
extern "C" __global__ void k(const float4* x, float4* y, int steps) {
    __shared__ float4 stage[2][32];
    __shared__ uint64_t full[2], empty[2];
    if (threadIdx.x == 0)
        for (int i = 0; i < 2; i++) {
            init(&full[i], COUNT);
            init(&empty[i], 32);
        }
    __syncthreads();
    for (int s = 0; s < steps; s++) {
        const int t = threadIdx.x % 32, i = s % 2, round = s / 2 & 1;
        if (threadIdx.x < 32) {
            wait(&empty[i], round ^ 1);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(address(&stage[i][t])), "l"(x + s * 32 + t) : "memory");
            asm volatile("cp.async.mbarrier.arrive.NOINC.b64 [%0];" :: "r"(address(&full[i])) : "memory");
            AND
        } else {
            wait(&full[i], round);
            y[s * 32 + t] = stage[i][t ^ 1];
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(address(&empty[i])) : "memory");
        }
    }
}
"""
ARRIVE = 'asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(address(&full[i])) : "memory");'


def stages(code, count="32", noinc="noinc.shared::cta", more=""):
    x = np.arange(5 * 32 * 4, dtype=np.float32).reshape(5, 32, 4)
    y = np.zeros_like(x)
    code = HEAD + code.replace("COUNT", count).replace("NOINC", noinc).replace("AND", more)
    RawKernel(code, "k", seeds=6)((1,), (64,), (x.view("V16"), y.view("V16"), np.int32(5)))
    np.testing.assert_array_equal(y, x[:, np.arange(32) ^ 1])


def test_copies_that_arrive_at_an_mbarrier(each_compiler):
    stages(STAGES)
    stages(STAGES, count="1", noinc="shared", more=f"if (t == 0) {ARRIVE}")  # the arrivals of these are not counted
    stages(STAGES, more='asm volatile("cp.async.wait_all;" ::: "memory");')


def test_mistakes_with_copies_that_arrive():
    for how, old, new, why in (
        ({}, "wait(&full[i], round);", "", r"(uninitialised|race|missing wait): read of 16 bytes at byte \d+ of stage"),
        ({}, "wait(&empty[i], round ^ 1);", "", r"(race|missing wait): write of 16 bytes at byte \d+ of stage"),
        ({"more": "y[0] = stage[i][t];"}, "", "", r"missing wait: read of 16 bytes at byte \d+ of stage"),
        ({"noinc": "shared"}, "", "", "deadlock: .* 32 arrivals missing"),
        ({"count": "31"}, "", "", r"race: read of 16 bytes at byte \d+ of stage"),
        ({"more": ARRIVE}, "", "", r"missing wait: read of 16 bytes at byte \d+ of stage"),
    ):
        with pytest.raises(EmulatorError, match=why):
            stages(STAGES.replace(old, new) if old else STAGES, **how)


@needs_nvrtc
def test_a_gpu_takes_these_arrivals(tmp_path):
    on_a_gpu(tmp_path, SENDS)
    on_a_gpu(tmp_path, STAGES.replace("COUNT", "32").replace("NOINC", "noinc.shared::cta").replace("AND", ""))


# --- copies from block to block -------------------------------------------------------------------------------------------

# Two blocks exchange what they have, in static and dynamic shared memory.
EXCHANGE = """
extern "C" __global__ void __cluster_dims__(2) k(const int* x, int* y) {
    extern __shared__ __align__(128) int first[];
    __shared__ alignas(128) int second[64], theirs[128];
    __shared__ uint64_t full;
    unsigned rank, there, bar;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    first[threadIdx.x] = x[blockIdx.x * 128 + threadIdx.x];
    second[threadIdx.x] = x[blockIdx.x * 128 + 64 + threadIdx.x];
    if (threadIdx.x == 0) {
        init(&full, 1);
        expect(&full, 512);
    }
    fence();
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    if (threadIdx.x < 2) {
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(theirs + 64 * threadIdx.x)), "r"(rank ^ 1));
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bar) : "r"(address(&full)), "r"(rank ^ 1));
        asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                     :: "r"(there), "r"(address(threadIdx.x ? second : first)), "r"(256), "r"(bar) : "memory");
    }
    wait(&full, 0);
    y[blockIdx.x * 128 + threadIdx.x] = theirs[threadIdx.x];
    y[blockIdx.x * 128 + 64 + threadIdx.x] = theirs[64 + threadIdx.x];
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    second[threadIdx.x] = 0;
}
"""
MEET = 'asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");'


def exchange(code):
    x, y = np.arange(512, dtype=np.int32).reshape(4, 128), np.zeros((4, 128), np.int32)
    RawKernel(HEAD + code, "k", seeds=6)((4,), (64,), (x, y), shared_mem=256)
    np.testing.assert_array_equal(y, x[[1, 0, 3, 2]])


def test_copies_from_block_to_block(each_compiler):
    exchange(EXCHANGE)


@pytest.mark.parametrize(
    "old, new, why",
    [
        ("    fence();\n", "", r"missing fence: read of 256 bytes at byte 0 of (second|dynamic shared memory) by the async proxy"),
        ("    wait(&full, 0);\n", "", r"(race|missing wait): read of 4 bytes at byte \d+ of theirs"),
        ("full, 512", "full, 768", "deadlock: .* 0 arrivals and 256 bytes missing"),
        ("    wait(&full, 0);\n", "    first[threadIdx.x] = 0;\n    wait(&full, 0);\n", "missing wait: a write to byte 0 of dynamic shared memory, which a product or a copy"),
        (f"{MEET}\n    second", "second", "missing wait: a write to byte .* of second, which a product or a copy may still be reading"),
        (f"    {MEET}\n    if", "    __syncthreads();\n    if", "absent block: .* may not have begun"),
        ('"r"(256), "r"(bar)', '"r"(256), "r"(address(&full))', "bad operand: an mbarrier of another block than the target's"),
        ('"r"(256), "r"(bar)', '"r"(250), "r"(bar)', "misaligned: a bulk copy is of a multiple of 16 bytes"),
        ("    wait(&full, 0);\n    y[blockIdx.x * 128 + threadIdx.x] = theirs[threadIdx.x];", "    if (rank == 0) return;\n    wait(&full, 0);", "missing wait: the block whose memory this copy reads may have returned before"),
    ],
)  # fmt: skip
def test_mistakes_with_copies_from_block_to_block(old, new, why):
    assert old in EXCHANGE
    with pytest.raises(EmulatorError, match=why):
        exchange(EXCHANGE.replace(old, new))


@needs_nvrtc
def test_a_gpu_takes_this_exchange(tmp_path):
    on_a_gpu(tmp_path, EXCHANGE)


# The first block of each cluster brings a row to both, whose own addresses are made in two ways; each lane also gets the
# number of the fourth lane after it, if there is one.
ROW = """
#include <cooperative_groups.h>
extern "C" __global__ void __cluster_dims__(2) k(const unsigned* x, unsigned* y) {
    __shared__ alignas(128) unsigned row[32];
    extern __shared__ unsigned more[];
    __shared__ uint64_t full;
    const unsigned t = threadIdx.x, rank = blockIdx.x % 2;
    if (t == 0) {
        init(&full, 1);
        expect(&full, 128);
    }
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    if (t == 0 && rank == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
                     :: "r"(address(row)), "l"(x + 32 * (blockIdx.x / 2)), "r"(128), "r"(address(&full)), "h"((unsigned short)3) : "memory");
    wait(&full, 0);
    unsigned got, inside, there, dynamic;
    asm volatile("{ .reg .pred p; shfl.sync.down.b32 %0|p, %2, 4, 31, 0xffffffff; selp.u32 %1, 1, 0, p; }" : "=r"(got), "=r"(inside) : "r"(row[t]));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(row + t)), "r"(rank ^ 1));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(dynamic) : "r"(address(more + t)), "r"(rank ^ 1));
    auto cluster = cooperative_groups::this_cluster();
    bool same = there == address(cluster.map_shared_rank(row + t, rank ^ 1)) && dynamic == address(cluster.map_shared_rank(more + t, rank ^ 1));
    y[blockIdx.x * 32 + t] = got + 1000 * inside + 10000 * same;
    cluster.sync();
}
"""


def test_bytes_for_several_blocks_and_addresses_in_them():
    x, y, lane = np.arange(64, dtype=np.uint32), np.zeros((4, 32), np.uint32), np.arange(32)
    RawKernel(HEAD + ROW, "k", seeds=6)((4,), (32,), (x, y), shared_mem=128)
    want = lane + np.where(lane < 28, 1004, 0) + 10000
    np.testing.assert_array_equal(y, want + 32 * np.array([0, 0, 1, 1])[:, None])


@needs_nvrtc
def test_a_gpu_takes_this_row(tmp_path):
    on_a_gpu(tmp_path, ROW)


# --- what is not there ---------------------------------------------------------------------------------------------------

BEYOND = """
__device__ const int table[32] = {7};
extern "C" __global__ void k(const __grid_constant__ CUtensorMap map, int* y) {
    __shared__ alignas(128) int tile[1024];
    __shared__ uint64_t full;
    int own[32] = {};
    tile[threadIdx.x] = own[threadIdx.x % 32] = threadIdx.x;
    fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        init(&full, 1);
        expect(&full, 128);
        asm volatile("COPY" :: "l"(PLACE), "r"(address(tile)), "r"(BYTES), "r"(address(&full)) : "memory");
        asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
    }
    MORE
    y[threadIdx.x] = tile[threadIdx.x] + own[threadIdx.x % 7];
}
"""
LOAD, STORE = (
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%1], [%0], %2, [%3];",
    "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;",
)
BOX = "cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%1], [%0, {%2}], [%3];"


@pytest.mark.parametrize(
    "copy, place, size, why",
    [
        (STORE, "y", 1 << 30, "out of range: read of 1073741824 bytes at byte 0 of tile"),
        (STORE, "y", 2048, r"out of range: write of 2048 bytes at element \(0,\) of y"),
        (LOAD, "y", 2048, r"out of range: read of 2048 bytes at element \(0,\) of y"),
        (STORE, "(int*)0", 128, "wild address: read of 128 bytes at a null pointer"),
        (LOAD, "own + (16 - (unsigned long long)own) % 16 / 4", 64, "bad operand: TMA does not reach a thread's own variables"),
        (BOX, "(int*)0", 0, "bad operand: there is no map of TMA"),
    ],
)  # fmt: skip
def test_copies_of_what_is_not_there(copy, place, size, why):
    code = BEYOND.replace("COPY", copy).replace("PLACE", place).replace("BYTES", str(size)).replace("MORE", "")
    with pytest.raises(EmulatorError, match=why):
        RawKernel(HEAD + code, "k")((1,), (64,), (TensorMap(np.zeros(32, np.int32), (32,)), np.zeros(64, np.int32)))


def test_a_copy_of_a_constant_table(each_compiler):
    code = (
        BEYOND.replace("COPY", LOAD)
        .replace("PLACE", "table")
        .replace("BYTES", "128")
        .replace("MORE", "__syncthreads(); wait(&full, 0);")
    )
    y = np.zeros(64, np.int32)
    RawKernel(HEAD + code, "k")((1,), (64,), (TensorMap(np.zeros(32, np.int32), (32,)), y))
    assert y[0] == 7 and not y[7:32].any()
