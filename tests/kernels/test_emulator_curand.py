"""cuRAND's device interface, <curand_kernel.h>: the numbers of NVIDIA's own header, and what is found at whose line.

The known answers are what NVIDIA's header gives on a CPU, compiled by g++ with stand-ins for CUDA's words.
"""

import ctypes

import numpy as np
import pytest
from rungs import needs_compiler

from kernels.emulator import DoesNotCompile, Emulator, EmulatorError
from kernels.emulator.raw import RawKernel, RawModule
from kernels.random import reference

pytestmark = needs_compiler

XORWOW, PHILOX = "curandState", "curandStatePhilox4_32_10_t"
EACH = pytest.mark.parametrize("state", [XORWOW, PHILOX])
PROGRAM = """#include <curand.h>
#include <curand_kernel.h>
#include <curand_philox4x32_x.h>
#include <curand_uniform.h>
#include <curand_normal.h>
#include <curand_lognormal.h>

typedef unsigned long long Ulong;

// Each thread has seed, subsequence, offset, and how many numbers and subsequences it skips after the first five.
template <class State>
__global__ void words(const Ulong* cases, unsigned* y) {
    cases += 5 * threadIdx.x, y += 7 * threadIdx.x;
    State state;
    curand_init(cases[0], cases[1], cases[2], &state);
    for (int k = 0; k < 5; k++) y[k] = curand(&state);
    skipahead(cases[3], &state);
    y[5] = curand(&state);
    skipahead_sequence(cases[4], &state);
    y[6] = curand(&state);
}

// Jumps of 2^63 that are a subsequence, and one of 777 numbers, beside single ones.
template <class State>
__global__ void jumps(int jumps_of_subsequence, unsigned* y) {
    State slow, fast;
    curand_init(3, 2, 1, &slow);
    curand_init(3, 3, 778, &fast);
    for (int i = 0; i < jumps_of_subsequence; i++) skipahead(1ull << 63, &slow);
    for (int i = 0; i < 777; i++) curand(&slow);
    y[0] = curand(&slow), y[1] = curand(&fast);
    skipahead(777, &slow);
    for (int i = 0; i < 777; i++) curand(&fast);
    y[2] = curand(&slow), y[3] = curand(&fast);
}

template <class State>
__global__ void distributions(double* y) {
    State state;
    curand_init(42, 5, 7, &state);
    *y++ = curand_uniform(&state), *y++ = curand_uniform_double(&state);
    *y++ = curand_normal(&state);
    *y++ = curand_log_normal(&state, 0.5f, 0.25f);  // for which the other number of the pair is lost
    *y++ = curand_normal(&state), *y++ = curand_normal(&state);
    *y++ = curand_normal_double(&state);
    *y++ = curand_log_normal_double(&state, 0.5, 0.25), *y++ = curand_log_normal_double(&state, 0.5, 0.25);
    *y++ = curand_normal_double(&state);
    *y++ = curand_log_normal(&state, 0.5f, 0.25f), *y++ = curand_log_normal(&state, 0.5f, 0.25f);
    *y++ = curand(&state);
}

// The functions that give two numbers, and the same ones by one.
template <class State>
__global__ void pairs(double* y) {
    State a, b;
    curand_init(1, 2, 3, &a);
    b = a;
    for (int k = 0; k < 2; k++) {
        const float2 f = curand_normal2(&a);
        *y++ = f.x, *y++ = curand_normal(&b), *y++ = f.y, *y++ = curand_normal(&b);
        const double2 d = curand_normal2_double(&a);
        *y++ = d.x, *y++ = curand_normal_double(&b), *y++ = d.y, *y++ = curand_normal_double(&b);
    }
    for (int k = 0; k < 2; k++) {
        const float2 f = curand_log_normal2(&a, 0.5f, 0.25f);
        *y++ = f.x, *y++ = curand_log_normal(&b, 0.5f, 0.25f), *y++ = f.y, *y++ = curand_log_normal(&b, 0.5f, 0.25f);
        const double2 d = curand_log_normal2_double(&a, 0.5, 0.25);
        *y++ = d.x, *y++ = curand_log_normal_double(&b, 0.5, 0.25);
        *y++ = d.y, *y++ = curand_log_normal_double(&b, 0.5, 0.25);
    }
    *y++ = sizeof(State), *y++ = alignof(State);
}

__device__ void put(float4 v, double*& y) { *y++ = v.x, *y++ = v.y, *y++ = v.z, *y++ = v.w; }

extern "C" __global__ void fours(double* y) {
    curandStatePhilox4_32_10 state;
    curand_init(42, 5, 7, &state);
    const uint4 w = curand4(&state);
    *y++ = w.x, *y++ = w.y, *y++ = w.z, *y++ = w.w;
    put(curand_uniform4(&state), y);
    const double2 u = curand_uniform2_double(&state);
    *y++ = u.x, *y++ = u.y;
    put(curand_normal4(&state), y);
    put(curand_log_normal4(&state, 0.5f, 0.25f), y);
    *y++ = curand(&state);
    const uint4 none = curand_Philox4x32_10(make_uint4(0, 0, 0, 0), make_uint2(0, 0));  // Random123's first vector
    *y++ = none.x, *y++ = none.w;
    *y++ = _curand_uniform(0), *y++ = _curand_uniform(~0u), *y++ = _curand_uniform_double_hq(0, 0);
}

// As kernels of others have it: states in global memory, begun by one launch and used by the next, in a local copy.
template <class State>
__global__ void begin(State* states, Ulong seed) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    curand_init(seed, i, 0, states + i);
}
template <class State>
__global__ void draw(State* states, unsigned* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    State state = states[i];
    for (int k = 0; k < 3; k++) y[3 * i + k] = curand(&state);
    states[i] = state;
}

template <class State>
__global__ void in_place(State* states, int apart, unsigned* y) {
    y[threadIdx.x] = curand(states + threadIdx.x * apart);  // in place
}
template <class State>
__global__ void never_begun(float* y) {
    State state;
    y[threadIdx.x] = curand_uniform(&state);  // a variable
}
template <class State>
__global__ void not_by_all(unsigned* y) {
    __shared__ State states[32];
    if (threadIdx.x < 31) curand_init(1, threadIdx.x, 0, states + threadIdx.x);
    y[threadIdx.x] = curand(states + threadIdx.x);  // shared
}
"""
MODULE = RawModule(
    PROGRAM,
    name_expressions=(
        "fours",
        *(
            f"{kernel}<{state}>"
            for kernel in (
                "words", "jumps", "distributions", "pairs", "begin", "draw", "in_place", "never_begun", "not_by_all"
            )
            for state in (XORWOW, PHILOX)
        ),
    ),
)  # fmt: skip
BYTES = {XORWOW: 48, PHILOX: 64}


def launch(kernel, threads, *args):
    MODULE.get_function(kernel)((1,), (threads,), args)
    return args[-1]


def found(kernel, threads, *args):
    with pytest.raises(EmulatorError) as raised:
        launch(kernel, threads, *args)
    return str(raised.value).splitlines()


def at(line):
    """The place of the line that ends with that comment."""
    return f"kernel.cu:{next(i for i, text in enumerate(PROGRAM.splitlines(), 1) if text.endswith(f'// {line}'))}: "


# --- known answers ----------------------------------------------------------------------------------------------------

ALL = 2**64 - 1
CASES = [  # seed, subsequence, offset; then how many numbers and subsequences are skipped
    (0, 0, 0, 1, 0),
    (1, 0, 5, 3, 1),
    (0xDEADBEEF12345678, 5, 7, 6, 9),
    (42, 1234567, 0x123456789ABCDEF, 0xFEDCBA9876543210, 0x8000000000000001),
    (ALL, ALL, ALL, ALL, ALL),
]
WORDS = {
    XORWOW: """
        bd7f03b6 703e556d 845af0c5 283067fd 1245241f 3a46d453 5450d66d
        1f4c1cc8 30058f25 d89f52aa 601778bb 4dc30ae5 6a2ef98a 870422d7
        aa78c0cc 7e1d98f3 86827381 f2356a67 de484bae 030c6b5a 78fd6df7
        9ff51f07 042579d4 6b582db4 c18ca15c a8746a2d f0704699 8f94f56f
        124068cb 5ada1a8c 74f9b2a4 0191f6da 94bb5e94 39b9ed8d 7fb9f8c4""",
    PHILOX: """
        6627e8d5 e169c58d bc57ac4c 9b00dbd8 f8e4cca4 b1a574eb 097eff67
        dfc5ccbe 79c07a47 a7f66093 3f55b3f0 8e76cc9d 095aef64 eccae2d7
        5db0887b 88c8b0f5 0fd7289b 5feb0c14 078bf9f2 6a3d0fdb 21331e13
        3e3aa131 ab616a85 8e792f0c 9d886c41 28bf6053 652d4854 8c54fc97
        411fcefd c6c2f643 593202a0 1edab3f5 fef481e0 3c219d60 c7b86d7b""",
}


@EACH
def test_words_are_those_of_curand(state, each_compiler):
    got = launch(f"words<{state}>", 5, np.array(CASES, np.uint64), np.zeros((5, 7), np.uint32))
    assert [f"{word:08x}" for word in got.flat] == WORDS[state].split()


EXACT = [0, 1, 12]  # the uniform numbers, and the word that follows
NUMBERS = {
    XORWOW: [
        0.10529407858848572, 0.048204471500931823, -0.17801246047019958, 1.1884987354278564, -0.33081677556037903,
        -0.84067332744598389, 0.97019024579851865, 0.95392153455434214, 2.1658879714454358, 0.33734880075708801,
        1.9535117149353027, 1.4602632522583008, 1990222770,
    ],
    PHILOX: [
        0.45566904544830322, 0.21322599495761096, -0.08688538521528244, 1.4033619165420532, -1.6007922887802124,
        -0.48784708976745605, -0.74075103316061508, 1.4489223283728916, 1.0961178959975151, -0.1680763428210193,
        1.9038530588150024, 1.2930334806442261, 1335902187,
    ],
}  # fmt: skip
FOURS = [
    1957083671, 915798674, 4164440714, 4050748539,
    0.69522112607955933, 0.63639503717422485, 0.24653154611587524, 0.70292001962661743,
    0.14139421652211354, 0.56109258317097832,
    1.0134347677230835, 0.12356634438037872, -1.1266987323760986, -3.5605096817016602,
    1.5681004524230957, 2.4808876514434814, 1.359502911567688, 1.8595277070999146,
    2269151428,
    0x6627E8D5, 0x9B00DBD8, 2.0**-33, 1, 2.0**-54,
]  # fmt: skip


def assert_numbers(got, want, exact, doubles=()):
    """NVIDIA's header on a CPU multiplies by pi and rounds before the sine, and adds without a fused multiply-add."""
    want = np.array(want)
    np.testing.assert_array_equal(got[exact], want[exact])
    np.testing.assert_allclose(got, want, rtol=4e-7, atol=2e-7)
    np.testing.assert_allclose(got[list(doubles)], want[list(doubles)], rtol=0, atol=2e-15)


@EACH
def test_uniform_and_normal_numbers_are_those_of_curand(state, each_compiler):
    assert_numbers(launch(f"distributions<{state}>", 1, np.zeros(13)), NUMBERS[state], EXACT, [6, 7, 8, 9])


def test_fours_of_philox_are_those_of_curand(each_compiler):
    assert_numbers(launch("fours", 1, np.zeros(24)), FOURS, [*range(10), *range(18, 24)])


@EACH
def test_pairs_are_two_numbers_of_one_kind(state):
    *pairs, sizes = launch(f"pairs<{state}>", 1, np.zeros((17, 2)))
    np.testing.assert_array_equal(*np.transpose(pairs))
    assert tuple(sizes) == (BYTES[state], {XORWOW: 8, PHILOX: 16}[state])


# --- by other ways ----------------------------------------------------------------------------------------------------


def test_philox_counts_as_the_project_s_own():
    rng = np.random.default_rng(0)
    cases = rng.integers(0, 2**64, (32, 5), np.uint64) >> rng.integers(0, 64, (32, 5), np.uint64)
    cases[:4, 2] = 2**64 - 1 - np.arange(4, dtype=np.uint64)  # the last counters of 2^62
    got = launch(f"words<{PHILOX}>", 32, cases, np.zeros((32, 7), np.uint32))

    def word(seed, index):
        counter = [np.uint64(index // 4 >> 32 * i & 2**32 - 1) for i in range(4)]
        return int(reference.philox(counter, (seed & 2**32 - 1, seed >> 32))[index % 4])

    for (seed, subsequence, offset, skipped, subsequences), row in zip(cases.tolist(), got.tolist()):
        first = (subsequence << 66) + offset
        later = first + 5 + skipped
        last = later + 1 + (subsequences << 66)
        assert row == [word(seed, index) for index in (*range(first, first + 5), later, last)]


@pytest.mark.parametrize("state, jumps", [(XORWOW, 16), (PHILOX, 8)])
def test_a_jump_is_as_many_steps(state, jumps):
    np.testing.assert_array_equal(*launch(f"jumps<{state}>", 1, jumps, np.zeros((2, 2), np.uint32)).T)


@EACH
def test_states_live_on_in_global_memory(state, each_compiler):
    states = np.zeros(4 * BYTES[state], np.uint8)
    MODULE.get_function(f"begin<{state}>")((2,), (2,), (states, 7))
    drawn = [launch(f"draw<{state}>", 4, states, np.zeros((4, 3), np.uint32)) for _ in range(2)]
    cases = np.zeros((4, 5), np.uint64)
    cases[:, 0], cases[:, 1] = 7, range(4)
    want = launch(f"words<{state}>", 4, cases, np.zeros((4, 7), np.uint32))
    np.testing.assert_array_equal(np.hstack(drawn)[:, :5], want[:, :5])


# --- mistakes ---------------------------------------------------------------------------------------------------------

NOT_SET = "uninitialised: a state of cuRAND that curand_init has not set: its words are all 0x"


@EACH
def test_a_state_that_was_never_begun_is_found(state, each_compiler):
    (said,) = found(f"never_begun<{state}>", 2, np.zeros(2, np.float32))
    assert said.startswith(at("a variable") + NOT_SET)
    for filled in (0, 0xAB):
        states = np.full(2 * BYTES[state], filled, np.uint8)
        (said,) = found(f"in_place<{state}>", 2, states, 1, np.zeros(2, np.uint32))
        assert said.startswith(at("in place") + NOT_SET + f"{filled:02x}" * 4)


@EACH
def test_a_state_in_memory_that_nobody_has_written_is_found(state):
    device = Emulator()
    y = np.zeros(1, np.uint32)
    states = device.empty((BYTES[state],), np.uint8)
    device.launch(MODULE.library(), f"in_place<{state}>", (1, 1, 1), (1, 1, 1), [states, ctypes.c_int(1), y])
    assert str(device.findings[0]).startswith(at("in place") + "uninitialised: read of ")
    said = found(f"not_by_all<{state}>", 32, np.zeros(32, np.uint32))
    assert all(text.startswith(at("shared") + "uninitialised: ") and "thread 31 of block" in text for text in said)
    assert any(" of states by thread 31 of block" in text for text in said)


@EACH
def test_two_threads_with_one_state_are_a_race(state, each_compiler):
    states = np.zeros(2 * BYTES[state], np.uint8)
    launch(f"begin<{state}>", 2, states, 7)
    launch(f"in_place<{state}>", 2, states, 1, np.zeros(2, np.uint32))
    said = found(f"in_place<{state}>", 2, states, 0, np.zeros(2, np.uint32))
    assert all(text.startswith(at("in place") + "race: ") for text in said)
    assert all(f"by thread 0 at {at('in place')[:-2]}" in text or "by thread 1 at" in text for text in said)


@pytest.mark.parametrize(
    "body", ["curandStateMRG32k3a s;", "curandStateSobol32_t* s;", "curandState s; y[0] = curand_poisson(&s, 3.0);"]
)
def test_what_is_not_there_says_so(body):
    code = f'#include <curand_kernel.h>\nextern "C" __global__ void k(unsigned* y) {{\n{body}\n}}'
    with pytest.raises(DoesNotCompile, match=r"kernel\.cu:3: error: .*curand.* the emulator has XORWOW and Philox"):
        RawKernel(code, "k").compile()
