"""Numbers of 16 bits and their pairs in memory: each is one access, watched wherever it is, at the kernel's line."""

import numpy as np
import pytest
from emulation import write
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.emulator import Emulator

pytestmark = needs_compiler

INCLUDES = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"

HALF = ("half", "half2", np.float16)
BFLOAT16 = ("nv_bfloat16", "nv_bfloat162", np.uint16)
OF_T = 2  # accesses that it takes to know threadIdx.x
BOTH = pytest.mark.parametrize("types", [HALF, BFLOAT16], ids=["half", "bfloat16"])


def found(tmp_path, types, body, threads=32, n=64, before=""):
    """What ``body`` does to an array x of numbers and y, where nothing is; in its words T and T2 are the types."""
    one, two, dtype = types
    body = f"const T2* xs = (const T2*)x; T2* ys = (T2*)y; const int t = threadIdx.x;\n{body}"
    before = INCLUDES + f"typedef {one} T; typedef {two} T2;\n" + before
    file, device = write(tmp_path, body, f"const {one}* x, {one}* y", before), Emulator(1)
    y = device.empty((n,), dtype)
    device.run(file, "k", 1, threads, {"x": np.ones(n, np.float16).view(dtype), "y": y})
    first = file.read_text().splitlines().index(body.splitlines()[1]) + 1
    said = [(f.kind, int(f.where.partition(":")[2]) - first, f.message.partition(" at ")[0]) for f in device.findings]
    return said, device.accesses / threads, y


@BOTH
@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    "race",
    [
        "y[t / 2] = x[t];",
        "y[3] = 2.0f;",
        "y[0] = x[t] + x[1];",
        "y[1] = __hmul(x[t], x[1]);",
        "y[2] = __shfl_xor_sync(~0u, x[t], 1);",
        "y[2] = same(x[t]);",
        "y[2] = T(2);",
    ],
)
def test_a_race_of_halves_is_at_its_line(race, types, tmp_path):
    before = "__device__ __noinline__ T same(T a) { return a; }\n"
    said, accesses, _ = found(tmp_path, types, f"__syncthreads();\n{race}", before=before)
    assert said == [("race", 1, "write of 2 bytes")]
    assert accesses == OF_T * ("[t" in race) + race.count("x[") + 1


@BOTH
@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("use", "reads", "writes"),
    [
        ("ys[t] = xs[t];", 1, 1),
        ("ys[t] = xs[t] + xs[0];", 2, 1),
        ("ys[t] = T2(x[2 * t], x[0]);", 2, 1),
        ("T2 v = xs[t]; ys[t] = T2(v.y, v.x);", 1, 1),
        ("T2 v = xs[t]; y[2 * t] = v.x; y[2 * t + 1] = v.y;", 1, 2),
        ("ys[t] = __ldg(xs + t);", 1, 1),
        ("ys[t] = same(xs[t]);", 1, 1),
        ("T2 v = __hfma2(xs[t], xs[t ^ 1], xs[31 - t]); v += xs[0]; ys[t] = v;", 4, 1),
        ("ys[t] = __shfl_down_sync(~0u, xs[t], 1);", 1, 1),
        ("ys[t] = xs[t]; __syncthreads(); ys[t] *= xs[t]; __syncthreads(); ys[t]++;", 4, 3),
    ],
)
def test_a_pair_is_one_access(use, reads, writes, types, tmp_path):
    before = "__device__ __noinline__ T2 same(T2 a) { return a; }\n"
    said, accesses, _ = found(tmp_path, types, f";\n{use}", before=before)
    assert said == [] and accesses == OF_T + reads + writes


@BOTH
@pytest.mark.usefixtures("each_compiler")
def test_what_is_wrong_with_a_pair_or_a_half(types, tmp_path):
    body = """;
    if (t == 0) ys[32] = xs[0];
    if (t == 1) y[64] = x[0];
    if (t == 2) ys[1] = __hadd2(xs[0], xs[-1]);
    if (t == 3) y[9] = -y[10];"""
    said, _, _ = found(tmp_path, types, body)
    assert sorted(said, key=lambda f: f[1]) == [
        ("out of range", 1, "write of 4 bytes"),
        ("out of range", 2, "write of 2 bytes"),
        ("out of range", 3, "read of 4 bytes"),
        ("uninitialised", 4, "read of 2 bytes"),
    ]
    said, _, _ = found(tmp_path, types, ";\nif (t == 4) *(T2*)(y + 1) = xs[0];")
    assert said == [("misaligned", 1, "write of 4 bytes")]


@BOTH
@pytest.mark.usefixtures("each_compiler")
def test_atomic_sums_and_shuffles(types, tmp_path):
    body = """;
    __shared__ T sum;
    __shared__ T2 sums;
    __shared__ volatile T flag;
    if (t == 0) sum = 0, sums = T2(0, 0), flag = T(3);
    __syncthreads();
    atomicAdd(&sum, T(1));
    atomicAdd(&sums, T2(1, 2));
    __syncthreads();
    ys[t] = __shfl_up_sync(~0u, T2(t, sum), 1);
    __syncthreads();
    if (t == 0) y[0] = atomicAdd(&sum, T(4)), y[1] = sums.x, y[2] = sums.y, y[3] = sum, y[4] = flag;"""
    said, _, y = found(tmp_path, types, body)
    values = y.astype(np.float32) if types is HALF else bfloat16.from_bits(y)
    assert said == [] and values[:5].tolist() == [32, 32, 64, 36, 3]
    assert values[6::2].tolist() == list(range(2, 31)) and (values[7::2] == 32).all()


def test_a_half_may_be_an_argument(tmp_path):
    body = "*y = *x * a, *v = *u + b;"
    parameters = "const half* x, __half* y, const __half2* u, half2* v, half a, half2 b"
    x, y, u, v = (np.full(n, 3, np.float16) for n in (1, 1, 2, 2))
    device = Emulator()
    arguments = {"x": x, "y": y, "u": u, "v": v, "a": 0x4000, "b": 0x4000_3C00}
    device.run(write(tmp_path, body, parameters, INCLUDES), "k", 1, 1, arguments)
    device.check()
    assert y.tolist() == [6] and v.tolist() == [4, 5]


# What kernels do for the sake of wide accesses: the same 16 bytes as float4, halves and pairs, and structures of them.
PUNNED = """
    const int t = threadIdx.x;
    float4 v = ((const float4*)x)[t];
    half* const h = (half*)&v;
    half2* const pairs = (half2*)&v;
    const half was = h[1];
    h[1] = h[0] + h[2];
    pairs[3] = __hadd2(pairs[3], half2(was, was));
    ((float4*)y)[t] = v;
    float* const words = (float*)y + 4 * (t + 32);
    words[0] = 1.0f;
    y[8 * (t + 32) + 1] = was;
    words[1] = words[0];
    words[2] = 1.0f;
    ((half2*)words)[2] = half2(was, was);
    words[3] = words[2];
    union { uint4 all; half of[8]; half2 pair[4]; } u;
    u.all = ((const uint4*)x)[t];
    u.of[7] = u.pair[0].x;
    ((uint4*)y)[t + 64] = u.all;
    Eight e = ((const Eight*)x)[t];
    e.of[0] = 1;
    ((Eight*)y)[t + 96] = e;
"""
STRUCTURE = "struct __align__(16) Eight { half of[8]; };\n"


@pytest.mark.usefixtures("each_compiler")
def test_halves_in_the_place_of_other_types(tmp_path):
    x = np.arange(32 * 8, dtype=np.float16).reshape(32, 8)
    file, device = write(tmp_path, PUNNED, "const half* x, half* y", INCLUDES + STRUCTURE), Emulator()
    y = np.zeros((4, 32, 8), np.float16)
    device.run(file, "k", 1, 32, {"x": x, "y": y})
    device.check()
    want = np.repeat(x[None], 4, axis=0)
    want[0, :, 1] = x[:, 0] + x[:, 2]
    want[0, :, 6:] += x[:, 1:2]
    want[1] = np.where([0, 1, 0, 1, 1, 1, 1, 1], x[:, 1:2], 0)
    want[2, :, 7] = x[:, 0]
    want[3, :, 0] = 1
    np.testing.assert_array_equal(y, want)


@needs_nvrtc
def test_a_gpus_compiler_takes_that(tmp_path):
    launch.compile_for(write(tmp_path, PUNNED, "const half* x, half* y", INCLUDES + STRUCTURE), "90")
