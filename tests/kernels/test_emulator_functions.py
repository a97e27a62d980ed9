"""CUDA's functions, atomics, shuffles and votes: known answers, by both compilers."""

import numpy as np
import pytest
from emulation import write, wrong_answers
from rungs import needs_compiler, needs_nvrtc

from kernels import launch
from kernels.emulator import Emulator

pytestmark = needs_compiler


# What is called, and the answer, which NVRTC's compiler must find to be of the same type.
ANSWERS = {
    "__popc(0xf0f0u)": 8,
    "__float2ll_rn(2.5f * one)": 2,
    "__float2ll_rz(-2.5f * one)": -2,
    "__double2ll_rd(-0x1p62 - 1.5)": -(2**62) - 1 - 1,
    "__double2ll_rn(1e300)": 2**63 - 1,
    "__double2ll_rn(double(nan))": -(2**63),
    "__float2ll_rn(0x1p63f * one)": 2**63 - 1,
    "__double2ll_rz(-1e300 * one)": -(2**63),
    "__float2ll_rd(-2.5f * one)": -3,
    "__float2ll_ru(2.5f * one)": 3,
    "__double2ull_rn(1e300 * one)": 2**64 - 1,
    "__ll2double_rd((1ll << 53) + 3 * one)": 2**53 + 2,
    "__cvta_generic_to_shared(table) >> 32": 0,
    "__double2ull_ru(0.5 * one)": 1,
    "__float2ull_rn(-1.0f * one)": 0,
    "__int2float_rz((1 << 24) + 1)": 2**24,
    "__int2float_ru((1 << 24) + one)": 2**24 + 2,
    "__int2float_rd(-(1 << 24) - one)": -(2**24) - 2,
    "__ll2double_rn((1ll << 53) + one)": 2**53,
    "__ull2double_ru((1ull << 53) + one)": 2**53 + 2,
    "__ll2float_rz(-(1ll << 24) - one)": -(2**24),
    "__double2float_rd(-1.0 - 0x1p-40)": -1 - 2.0**-23,
    "__double2float_ru(one + 0x1p-40)": 1 + 2.0**-23,
    "__uint2double_rn(0xffffffffu)": 2**32 - 1,
    "__popcll(-1ll)": 64,
    "__clz(one)": 31,
    "__clz(one - 1)": 32,
    "__clz(-one)": 0,
    "__clzll(one)": 63,
    "__ffs(8 * one)": 4,
    "__ffs(one - 1)": 0,
    "__ffsll(1ll << 40)": 41,
    "__brev(one)": 2**31,
    "__brevll(2ull)": 2**62,
    "__byte_perm(0x33221100u, 0x77665544u, 0x7041u)": 0x77004411,
    "__byte_perm(0x00008000u, 0u, 0x0009u)": 0x000000FF,
    "__funnelshift_l(0x80000000u, 1u, one)": 3,
    "__funnelshift_r(0u, 1u, 33u)": 2**31,
    "__funnelshift_lc(5u, 1u, 40u)": 5,
    "__funnelshift_rc(5u, 7u, 40u)": 7,
    "__mul24(-3 * one, 5)": -15,
    "__mul24(0x1000002 * one, 3)": 6,
    "__umul24(0xff000003u, 5u)": 15,
    "__mulhi(-one, 5)": -1,
    "__umulhi(0x80000000u, 6u)": 3,
    "__mul64hi(-1ll * one, 5ll)": -1,
    "__umul64hi(1ull << 63, 6ull)": 3,
    "__sad(-3 * one, 4, 10u)": 17,
    "__usad(3u, 4u, 10u)": 11,
    "__hadd(-3 * one, 0)": -2,
    "__rhadd(-3 * one, 0)": -1,
    "__uhadd(0xffffffffu, 0xffffffffu)": 2**32 - 1,
    "__urhadd(3u, 4u)": 4,
    "__dp4a(0x01020304 * one, 0x01ff0101, 10)": 16,
    "__dp4a(0xff000001u, 0x02000003u, 1u)": 514,
    "min(one, 7u)": 1,
    "min(-one, 7u)": 7,
    "max(-one, 7)": 7,
    "max(1ll, 1ull << 40)": 2**40,
    "min(nan, 2.0f)": 2,
    "min(2.0f, nan)": 2,
    "max(nan, 2.0f)": 2,
    "max(nan, 2.0)": 2,
    "umin(3u, 4u)": 3,
    "llmax(3ll, 1ll << 40)": 2**40,
    "__fmaf_rn(1.0f + 0x1p-12f, 1.0f + 0x1p-12f, -1.0f - 0x1p-11f)": 2.0**-24,
    "__fadd_rn(1.0f, 0x1p-25f)": 1,
    "__fmul_rn(3.0f, one)": 3,
    "__fdiv_rn(3.0f, 2.0f)": 1.5,
    "__fdividef(3.0f, 2.0f)": 1.5,
    "__frcp_rn(4.0f)": 0.25,
    "__fsqrt_rn(9.0f)": 3,
    "__frsqrt_rn(4.0f)": 0.5,
    "rsqrt(4.0)": 0.5,
    "__saturatef(nan)": 0,
    "__saturatef(2.0f)": 1,
    "__saturatef(0.5f)": 0.5,
    "__log2f(8.0f)": 3,
    "__exp10f(0.0f)": 1,
    "__powf(2.0f, 3.0f)": 8,
    "__cosf(0.0f)": 1,
    "__fma_rn(2.0, 3.0, 1.0)": 7,
    "__float2int_rn(2.5f)": 2,
    "__float2int_rz(-2.5f)": -2,
    "__float2int_rd(-2.5f)": -3,
    "__float2int_ru(2.5f)": 3,
    "__float2int_rn(3e9f)": 2**31 - 1,
    "__float2int_rn(nan)": 0,
    "__float2uint_rn(-3.0f)": 0,
    "__float2uint_rz(3e9f)": 3_000_000_000,
    "__double2int_rn(-1e300)": -(2**31),
    "__int2float_rn((1 << 24) + one)": 2**24,
    "__double_as_longlong(1.0) >> 52": 1023,
    "__hiloint2double(0x3ff00000, 0)": 1,
    "__double2hiint(1.0)": 0x3FF00000,
    "make_float4(1, 2, 3, 4).z + make_int2(5, 6).y": 9,
    "make_uchar4(1, 2, 3, 255).w": 255,
    "make_float3(1, 2, 3).z": 3,
    "sizeof(float3) + sizeof(short4) + sizeof(double2) + sizeof(uint3)": 48,
    "dim3(5, 6).x + dim3(5, 6).z + dim3(threadIdx).x": 6,
    "table[one + 1]": 7,
    "twice(thrice(one))": 6,
    "pick<4>(one)": 5,
    "__ldg(&table[1]) + __ldcs(&table[0])": 11,
    "__clzll(one - 1ll)": 64,
    "__ffsll(one - 1ll)": 0,
    "__brevll(1ull << 32)": 2**31,
    "__funnelshift_l(5u, 7u, 32u)": 7,
    "__funnelshift_lc(5u, 7u, 32u)": 5,
    "__funnelshift_rc(5u, 7u, 32u)": 7,
    "__mul24(3, 0x1000002 * one)": 6,
    "__umul24(5u, 0xff000003u)": 15,
    "__sad(4, -3 * one, 10u)": 17,
    "__usad(4u, 3u, 10u)": 11,
    "__hadd(0x7fffffff, one)": 2**30,
    "__rhadd(0x7fffffff, one)": 2**30,
    "__urhadd(0xffffffffu, 1u)": 2**31,
    "umax(3u, 4u)": 4,
    "llmin(3ll, 1ll << 40)": 3,
    "ullmin(3ull, 1ull << 63)": 3,
    "ullmax(3ull, 1ull << 63)": 2**63,
    "min(3.0f, 2.0)": 2,
    "min(2.0, 3.0f)": 2,
    "max(3.0f, 2.0)": 3,
    "max(2.0, 3.0f)": 3,
    "__saturatef(-1.0f)": 0,
    "rsqrtf(4.0f)": 0.5,
    "__frsqrt_rn(6.0f)": float.fromhex("0x1.a20bd8p-2"),
    "__exp10f(1.0f)": 10,
    "__expf(1.0f) > 2.5f": 1,
    "__logf(4.0f) < 1.5f": 1,
    "__log10f(100.0f)": 2,
    "__sinf(0.0f)": 0,
    "__tanf(1.0f) > 1.5f": 1,
    "sine_and_cosine(0.0f)": 2,
    "__fsub_rn(3.0f, one)": 2,
    "__fadd_ru(one, 0x1p-80f)": 1 + 2.0**-23,
    "__fadd_rd(one, 0x1p-80f)": 1,
    "__fadd_rz(-one, -0x1p-25f)": -1,
    "__fsub_rz(one, 0x1p-80f)": 1 - 2.0**-24,
    "__fsub_rd(0x1p100f, -0x1p-100f)": 2.0**100,
    "__fmul_rz(0x1.fffffep127f, 2.0f * one)": (2 - 2.0**-23) * 2.0**127,
    "__fmul_ru(0x1.000002p0f, 0x1.000002p0f)": 1 + 2.0**-22 + 2.0**-23,
    "__fmul_rd(0x1.000002p0f, 0x1.000002p0f)": 1 + 2.0**-22,
    "__fmul_rz(-0x1.000002p0f, 0x1.000002p0f)": -1 - 2.0**-22,
    "__fmaf_rz(3.0f * one, 5.0f, 0x1p-60f)": 15,
    "__fmaf_ru(3.0f * one, 5.0f, 0x1p-60f)": 15 + 2.0**-20,
    "__fdiv_rd(one, 3.0f)": float.fromhex("0x1.555554p-2"),
    "__fdiv_ru(one, -3.0f)": -float.fromhex("0x1.555554p-2"),
    "__fdiv_rz(6.0f * one, 3.0f)": 2,
    "__frcp_ru(3.0f * one)": float.fromhex("0x1.555556p-2"),
    "__fsqrt_rz(2.0f * one)": float.fromhex("0x1.6a09e6p+0"),
    "__fsqrt_ru(2.0f * one)": float.fromhex("0x1.6a09e8p+0"),
    "__fsqrt_ru(4.0f * one)": 2,
    "__dadd_rn(3.0, 1.0)": 4,
    "__dsub_rn(3.0, 1.0)": 2,
    "__dmul_rn(3.0, 2.0)": 6,
    "__ddiv_rn(3.0, 2.0)": 1.5,
    "__drcp_rn(3.0)": 1 / 3,
    "__dsqrt_rn(2.0)": 2**0.5,
    "__float2uint_rn(5e9f)": 2**32 - 1,
    "__float2uint_rn(nan)": 0,
    "__double2int_rn(double(nan))": -(2**31),  # PTX: of .f64 the highest bit
    "__double2uint_rz(double(nan))": 2**31,
    "__uint2float_rn(0x80000000u)": 2**31,
    "__ll2float_rn(1ll << 40)": 2**40,
    "__ull2float_rn(1ull << 63)": 2**63,
    "__double2float_rn(0.5)": 0.5,
    "__double2loint(1.0 + 0x1p-52)": 1,
}
TABLE = """
__constant__ float table[3] = {5, 6, 7};
__host__ __device__ inline int twice(int a) { return 2 * a; }
__device__ __noinline__ int thrice(int a) { return 3 * a; }
__device__ float sine_and_cosine(float x) { float s, c; __sincosf(x, &s, &c); return s + 2 * c; }
template <int N> static inline __device__ int pick(int a) { return a + N; }
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    lines = [f"y[{i}] = double({call});" for i, call in enumerate(ANSWERS)]
    body = "\n".join(["const float nan = __int_as_float(0x7fffffff);", *lines])
    return write(tmp_path_factory.mktemp("answers"), body, "double* y, int one", TABLE)


@pytest.mark.usefixtures("each_compiler")
def test_functions_have_the_answers_that_are_known(answers):
    assert wrong_answers(answers, ANSWERS) == {}


@needs_nvrtc
def test_a_gpus_compiler_knows_them_too(answers):
    launch.compile_for(answers, "90")


ATOMICS = """
    const int t = threadIdx.x;
    atomicAdd(&u[0], 1);                        // the address says the type
    atomicInc(&u[1], 6u);
    atomicDec(&u[2], 6u);
    atomicXor(&u[3], 1u << t % 3);
    atomicAdd(&w[0], 1ull << 40);
    atomicMax(&w[1], (unsigned long long)t << 33);
    atomicCAS(&w[2], 0, t < 64 ? 9 : 8);
    atomicAdd_block(&f[0], 0.5f);
    atomicAdd_system(&f[0], 0.5f);
"""


@pytest.mark.usefixtures("each_compiler")
def test_atomics_of_32_and_64_bits(tmp_path):
    parameters = "unsigned* u, unsigned long long* w, float* f"
    file, device = write(tmp_path, ATOMICS, parameters), Emulator()
    u, w, f = np.zeros(4, np.uint32), np.zeros(3, np.uint64), np.zeros(1, np.float32)
    device.run(file, "k", 1, 64, {"u": u, "w": w, "f": f})
    device.check()
    assert u.tolist() == [64, 64 % 7, -64 % 7, 0b110] and w.tolist() == [64 << 40, 63 << 33, 9] and f[0] == 64


OF_FIVE = {  # what is done to a 5, and what it becomes
    "atomicSub(u, 3)": 2,
    "atomicMin(u, 3)": 3,
    "atomicMin(u, 7)": 5,
    "atomicMax(u, 3)": 5,
    "atomicMax(u, 7)": 7,
    "atomicOr(u, 6)": 7,
    "atomicAnd(u, 6)": 4,
    "atomicXor(u, 6)": 3,
    "atomicExch(u, 6)": 6,
    "atomicInc(u, 5)": 0,
    "atomicInc(u, 3)": 0,
    "atomicInc(u, 7)": 6,
    "atomicDec(u, 3)": 3,
    "atomicDec(u, 7)": 4,
    "atomicCAS(u, 5, 9)": 9,
    "atomicCAS(u, 6, 9)": 5,
}


@pytest.mark.usefixtures("each_compiler")
def test_atomics_hand_back_what_was_there(tmp_path):
    body = "\n".join(f"*u = 5; old[{i}] = {call}; is[{i}] = *u;" for i, call in enumerate(OF_FIVE))
    old, new = np.zeros((2, len(OF_FIVE)), np.uint32)
    file = write(tmp_path, body, "unsigned* u, unsigned* old, unsigned* is")
    Emulator().run(file, "k", 1, 1, {"u": np.zeros(1, np.uint32), "old": old, "is": new})
    assert (old == 5).all() and dict(zip(OF_FIVE, new.tolist())) == OF_FIVE


SHUFFLES = """
    const int t = threadIdx.x;
    int* out = y + 9 * t;
    out[0] = __shfl_sync(~0u, t, 9, 8);
    out[1] = __shfl_sync(~0u, t, 35);
    out[2] = __shfl_down_sync(~0u, t, 33u);
    out[3] = __shfl_up_sync(~0u, t, 33u);
    out[4] = __reduce_min_sync(~0u, t + 3) + __reduce_max_sync(~0u, t);
    out[5] = __reduce_and_sync(~0u, t | 64u);
    out[6] = __reduce_or_sync(~0u, t * 2u);
    int all;
    out[7] = __match_all_sync(~0u, t, &all) + 2 * all;
    out[8] = t < 16 ? __ballot_sync(0xffffu, t > 3) : __ballot_sync(0xffff0000u, 1);
"""


def test_shuffles_wrap_around(tmp_path):
    y, t, device = np.zeros((32, 9), np.int32), np.arange(32), Emulator()
    device.run(write(tmp_path, SHUFFLES, "int* y"), "k", 1, 32, {"y": y})
    device.check()
    want = [
        t // 8 * 8 + 1,
        3,
        np.minimum(t + 1, 31),
        np.maximum(t - 1, 0),
        34,
        64,
        62,
        0,
        np.where(t < 16, 0xFFF0, -(2**16)),
    ]
    np.testing.assert_array_equal(y, np.stack(np.broadcast_arrays(*want), axis=1))


VOTES = """
    const int t = threadIdx.x;
    int* out = y + 12 * (blockIdx.x * 48 + t);
    out[0] = __syncthreads_count(t % 3 == 0);
    out[1] = __syncthreads_and(t < 48) + 2 * __syncthreads_and(t != 7);
    out[2] = __syncthreads_or(t == 7) + 2 * __syncthreads_or(t > 48);
    out[3] = __shfl_sync(~0u, t, 1, 8);
    out[4] = __shfl_down_sync(~0u, t, 3u, 8);
    out[5] = __shfl_up_sync(~0u, t, 3, 8);
    out[6] = __shfl_xor_sync(~0u, t, 9, 8);
    out[7] = __match_any_sync(~0u, t % 5);
    out[8] = __reduce_add_sync(~0u, t) + __reduce_max_sync(~0u, -t);
    out[9] = __reduce_xor_sync(~0u, 1u << t % 32) == __ballot_sync(~0u, 1);
    out[10] = __all_sync(~0u, 1) + 2 * __any_sync(~0u, t == 5);
    int all;
    __match_all_sync(~0u, t / 32, &all);
    out[11] = all;
"""


@pytest.mark.parametrize("attributes", ["", "__cluster_dims__(2, 1, 1) "])
def test_votes_of_blocks_and_what_half_a_warp_hands_in(attributes, tmp_path):
    file = write(tmp_path, VOTES, "int* y")
    file.write_text(file.read_text().replace("void k", f"void {attributes}k"))
    t = np.arange(48)
    lane, first = t % 32, t // 32 * 32
    lanes = [range(f, min(f + 32, 48)) for f in first]
    want = np.stack(
        [
            np.full(48, 16),
            np.full(48, 1),
            np.full(48, 1),
            t // 8 * 8 + 1,
            np.where(t % 8 + 3 < 8, t + 3, t),
            np.where(t % 8 >= 3, t - 3, t),
            np.where((lane ^ 9) <= lane | 7, t ^ 9, t),
            [
                np.uint32(sum(1 << i % 32 for i in others if i % 5 == j % 5)).view(np.int32)
                for j, others in zip(t, lanes)
            ],
            [sum(others) - min(others) for others in lanes],
            np.full(48, 1),
            1 + 2 * (t < 32),
            np.full(48, 1),
        ],
        axis=1,
    )
    for seed in range(5):
        device = Emulator(seed)
        y = device.empty((4, 48, 12), np.int32)
        device.run(file, "k", 4, 48, {"y": y})
        device.check()
        np.testing.assert_array_equal(y, np.broadcast_to(want, y.shape))
