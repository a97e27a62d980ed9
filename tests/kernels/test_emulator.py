"""The emulator finds what is planted, at the line where it is planted, and nothing in a kernel that is right."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rungs import needs_compiler

from kernels import bfloat16, command, emulate, emulator
from kernels.emulator import Emulator, NoCompiler, planted
from kernels.source import ROOT
from kernels.tensor_map import TensorMap

pytestmark = needs_compiler

PLANTED = planted.file_of("planted.cu")
SEEDS = range(5)


def test_an_array_begins_where_it_began(tmp_path):
    """As far from a multiple of 16 bytes: a GPU would be given that very address."""
    file = write(
        tmp_path, "*reinterpret_cast<float4*>(y) = *reinterpret_cast<const float4*>(x);", "const float* x, float* y"
    )
    some = np.arange(12, dtype=np.float32)
    first = -(some.ctypes.data // 4) % 4
    for shift, kinds in ((0, []), (1, ["misaligned"]), (2, ["misaligned"])):
        device = Emulator()
        y = device.empty((4,), np.float32)
        device.run(file, "k", 1, 1, {"x": some[first + shift : first + shift + 4], "y": y})
        assert [f.kind for f in device.findings] == kinds


# The left operand from registers, and all widths; on small whole numbers, whose sums are exact.
WIDTHS = """
    DYNAMIC_SHARED(bf16, tile);
    const int t = threadIdx.x, g = t % 32 / 4, q = t % 4, first = t / 32 * 16;
    for (int at = t; at < COLUMNS * 64; at += 128) {
        const int row = at / 64, column = at % 64;
        tile[row * 64 + (column / 8 ^ row % 8) * 8 + column % 8] = b[at];
    }
    fence_proxy_async();
    __syncthreads();
    float d[COLUMNS / 2];
    for (int i = 0; i < COLUMNS / 2; i++) d[i] = i;
    wgmma_fence();
    for (int k = 0; k < 64; k += 16) {
        unsigned r[4];
        for (int i = 0; i < 4; i++) memcpy(&r[i], a + (first + g + i % 2 * 8) * 64 + k + i / 2 * 8 + 2 * q, 4);
        wgmma_bf16(d, r, wgmma_descriptor(tile + k));
    }
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < COLUMNS / 2; i++)
        y[(first + g + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + 2 * q + i % 2] = d[i] - i;
"""


@pytest.mark.parametrize("columns", [64, 128, 256])
def test_products_with_registers(columns, tmp_path):
    file = write(tmp_path, WIDTHS, "const bf16* a, const bf16* b, float* y")
    file.write_text(file.read_text().replace("lib/cuda.cuh", "lib/ptx90.cuh"))
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 10, (n, 64)).astype(np.float32) for n in (64, columns))
    device = Emulator()
    y = device.empty((64, columns), np.float32)
    arguments = {"a": bfloat16.to_bits(a), "b": bfloat16.to_bits(b), "y": y}
    device.run(file, "k", 1, 128, arguments, shared_bytes=columns * 128, defines={"COLUMNS": columns})
    device.check()
    np.testing.assert_array_equal(y, a @ b.T)


def test_sums_of_wgmma_are_cut_off_where_those_of_mma_are(tmp_path):
    """Below 2^30, which goes away again, at 2^5: of the sums before, which count the registers, and of a product."""
    file = write(tmp_path, WIDTHS, "const bf16* a, const bf16* b, float* y")
    file.write_text(file.read_text().replace("lib/cuda.cuh", "lib/ptx90.cuh"))
    a, b = np.zeros((64, 64), np.float32), np.full((128, 64), 2.0**15, np.float32)
    a[:, 16:19] = 2.0**15, -(2.0**15), 31 * 2.0**-15
    device = Emulator()
    y = device.empty((64, 128), np.float32)
    arguments = {"a": bfloat16.to_bits(a), "b": bfloat16.to_bits(b), "y": y}
    device.run(file, "k", 1, 128, arguments, shared_bytes=128 * 128, defines={"COLUMNS": 128})
    device.check()
    row, column = np.indices(y.shape)
    register = column // 8 * 4 + row // 8 % 2 * 2 + column % 2
    np.testing.assert_array_equal(y, register // 32 * 32 - register)


TILES = """
    DYNAMIC_SHARED(float, tile);
    __shared__ mbarrier full;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&full, 8 * 32 * 4);
        tma_load(tile, &x, &full, at_x, at_y AT_Z);
    }
    __syncthreads();
    mbarrier_wait(&full, 0);
    for (int i = threadIdx.x; i < 8 * 32; i += 32) y[i] = tile[i];
"""


@pytest.mark.parametrize("swizzle", [0, 128])
@pytest.mark.parametrize("at", [(0, 0), (0, 5), (16, -3), (-4, 13), (40, 0)])
@pytest.mark.parametrize("axes", [2, 3])
def test_tiles_with_zeros_around_and_a_swizzle(swizzle, at, axes, tmp_path):
    file = write(tmp_path, TILES, "const __grid_constant__ TensorMap x, float* y, int at_x, int at_y, int at_z")
    file.write_text(file.read_text().replace("lib/cuda.cuh", "lib/ptx90.cuh"))
    x = np.random.default_rng(0).standard_normal((3, 15, 40)[-axes:]).astype(np.float32)
    map_ = TensorMap(x, (1, 8, 32)[-axes:], swizzle)
    device = Emulator()
    y = device.empty((8, 32), np.float32)
    arguments = {"x": map_, "y": y, "at_x": at[0], "at_y": at[1], "at_z": 2}
    device.run(file, "k", 1, 32, arguments, shared_bytes=1024, defines={"AT_Z": ", at_z" if axes == 3 else ""})
    device.check()
    around = np.pad(x[2] if axes == 3 else x, 64)
    want = around[64 + at[1] : 72 + at[1], 64 + at[0] : 96 + at[0]].copy()
    if swizzle:  # piece p of row r lies at p ^ r
        pieces = want.reshape(8, 8, 4)
        want = np.stack([pieces[r, np.arange(8) ^ r] for r in range(8)]).reshape(8, 32)
    np.testing.assert_array_equal(y, want)


def test_tensor_maps_that_cannot_be():
    x = np.zeros((4, 64), np.float32)
    for message, array, box, swizzle in [
        (r"1 to 5 axes and a box of as many, got \(4, 64\) and \(64,\)", x, (64,), 0),
        (r"1 to 5 axes and a box of as many, got \(4, 64\) and \(1, 1, 64\)", x, (1, 1, 64), 0),
        ("1 to 5 axes and a box of as many", x[0, 0], (), 0),
        ("1 to 5 axes and a box of as many", x[None, None, None, None], (1, 1, 1, 1, 1, 64), 0),
        (r"a contiguous array that is not empty, got shape \(64, 4\)", x.T, (1, 4), 0),
        ("1 to 256 elements along each axis", x, (0, 64), 0),
        ("1 to 256 elements along each axis", x, (257, 64), 0),
        ("multiples of 16 bytes", x, (1, 63), 0),
        ("multiples of 16 bytes", x.reshape(-1)[:252].reshape(4, 63), (1, 32), 0),
        ("a swizzle of 128 bytes needs a box of that width, got 256", x, (1, 64), 128),
    ]:
        with pytest.raises(ValueError, match=message):
            TensorMap(array, box, swizzle)
    for message, shape, strides in [
        ("a shape and as many strides", (4, 64), ()),
        ("a shape and as many strides", (4, 64), (256,)),
        ("strides are multiples of 16 bytes but for the last", (4, 32), (8, 4)),
        ("strides are multiples of 16 bytes but for the last", (4, 32), (256, 8)),
        (r"\(5, 64\) with the strides \(256, 4\) is more than the array's 1024 bytes", (5, 64), (256, 4)),
    ]:
        with pytest.raises(ValueError, match=message):
            TensorMap(x, (1, 32), shape=shape, strides=strides)
    TensorMap(x, (2, 4, 16), 64, shape=(4, 4, 16), strides=(64, 256, 4))
    with pytest.raises(TypeError, match="kernel tiled: x must be a TensorMap, got ndarray"):
        Emulator().run(planted.file_of("planted90.cu"), "tiled", 1, 64, {"x": x, "y": np.zeros(64, np.float32)})


def test_expect_lets_nan_and_inf_stand_in_their_places_only():
    device = Emulator()
    device.expect(np.float32([np.nan, np.inf, 1]), [np.nan, np.inf, 1.25], 0.25)
    device.check()
    for got, want in ((np.nan, 1), (1, np.nan), (np.inf, 1), (-np.inf, np.inf), (1, 1.26)):
        device = Emulator()
        device.expect(np.float32([got]), [want], 0.25)
        assert len(device.findings) == 1, (got, want)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y[0] = x[3 * 5 + 4];", "read of 4 bytes at element (3, 4) of x (3, 5), float32, by thread 0"),
        ("y[0] = x[-1];", "read of 4 bytes at element (-1, 4) of x (3, 5), float32, by thread 0"),
        ("y[2] = x[1];", "write of 4 bytes at element (2,) of y (2,), float32, by thread 0"),
        (
            "y[0] = ((const char*)x)[62];",
            "read of 1 bytes at byte 2 of element (3, 0) of x (3, 5), float32, by thread 0",
        ),
        ("__shared__ float s[8]; s[n] = 1; y[0] = s[0];", "write of 4 bytes at byte 32 of s by thread 0"),
        ("__shared__ float x[8]; x[n] = 1; y[0] = x[0];", "write of 4 bytes at byte 32 of x by thread 0"),
    ],
    ids=["behind", "before", "row", "byte", "shared", "a shared array of the same name"],
)
def test_an_access_beside_an_array_names_the_element_and_the_shape(body, said, tmp_path):
    device = Emulator()
    x, y = np.ones((3, 5), np.float32), np.zeros(2, np.float32)
    device.run(write(tmp_path, f"{{ {body} }}"), "k", 1, 1, {"x": x, "y": y, "n": 8})
    assert said in "\n".join(f.message for f in device.findings if f.kind == "out of range")


def write(tmp_path, body, parameters="const float* x, float* y, int n", name="kernel.cu"):
    file = tmp_path / name
    file.write_text(f'#include "lib/cuda.cuh"\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n')
    return file


COLLECTIVES = """
    const int t = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned all = 0xffffffffu;
    DYNAMIC_SHARED(int, row);
    row[threadIdx.x] = t;
    __syncthreads();
    int* out = y + 8 * t;
    out[0] = __shfl_sync(all, t, 3);
    out[1] = __shfl_xor_sync(all, t, 5);
    out[2] = __shfl_down_sync(all, t, 4);
    out[3] = __shfl_up_sync(all, t, 4);
    out[4] = (int)__ballot_sync(all, t % 3 == 0);
    out[5] = __any_sync(all, t == 40) + 2 * __all_sync(all, t < 64);
    out[6] = row[blockDim.x - 1 - threadIdx.x];
    out[7] = t % 2 ? __shfl_xor_sync(0xaaaaaaaau, t, 2) : __shfl_xor_sync(0x55555555u, t, 4);
"""


def test_shuffles_votes_and_dynamic_shared_memory(tmp_path):
    file = write(tmp_path, COLLECTIVES, "int* y")
    t = np.arange(128)
    lane, warp = t % 32, t // 32 * 32
    ballot = np.array([sum(1 << i for i in range(32) if (w + i) % 3 == 0) for w in warp], np.uint32).view(np.int32)
    want = np.stack(
        [
            warp + 3,
            t ^ 5,
            np.where(lane + 4 < 32, t + 4, t),
            np.where(lane >= 4, t - 4, t),
            ballot,
            (warp == 32) + 2 * (t < 64),
            t // 64 * 64 + 63 - t % 64,
            np.where(t % 2, t ^ 2, t ^ 4),
        ],
        axis=1,
    )
    for seed in SEEDS:
        device = Emulator(seed)
        y = device.empty((128, 8), np.int32)
        device.run(file, "k", 2, 64, {"y": y}, shared_bytes=256)
        device.check()
        np.testing.assert_array_equal(device.result(y), want)
    device.run(file, "k", 2, 64, {"y": y}, shared_bytes=252)
    assert {f.kind for f in device.findings} == {"out of range"}
    assert all("dynamic shared memory" in f.message for f in device.findings)


BYTES = """
    const int t = threadIdx.x;
    __shared__ unsigned char small[64];
    __shared__ float4_ wide[16];
    small[t] = t;
    if (t < 16) wide[t] = *(const float4_*)(x + 4 * t);
    __syncthreads();
    y[t] = small[63 - t] + ((float*)wide)[t];
    atomicMax(count, t);
"""


@pytest.mark.usefixtures("each_compiler")
def test_accesses_of_one_to_sixteen_bytes_and_atomics_between_blocks(tmp_path):
    body = BYTES.replace("float4_", "four")
    file = write(tmp_path, body, "const float* x, float* y, int* count")
    file.write_text(file.read_text().replace("extern", "struct alignas(16) four { float a, b, c, d; };\nextern", 1))
    for seed in SEEDS:
        device = Emulator(seed)
        x, count = np.arange(64, dtype=np.float32), np.zeros(1, np.int32)
        y = device.empty((64,), np.float32)
        device.run(file, "k", 1, 64, {"x": x, "y": y, "count": count})
        device.check()
        np.testing.assert_array_equal(y, np.full(64, 63.0))
        assert count[0] == 63


# Of 20 bytes, which a compiler copies by a call or without one.
COPIES = """
    __shared__ float tile[64][5], more[64][5];
    const int t = threadIdx.x;
    memset(tile[t], 0, 20);
    BARRIER
    memcpy(more[63 - t], tile[63 - t], 20);
    BARRIER
    for (int i = 0; i < 5; i++) y[5 * t + i] = x[5 * t + i] + more[t][i];
"""


@pytest.mark.usefixtures("each_compiler")
def test_copying_and_filling_are_reads_and_writes(tmp_path):
    file, x = write(tmp_path, COPIES), np.arange(320, dtype=np.float32)
    for barrier, found in (("__syncthreads();", set()), ("", {6, 8, 10})):
        device = Emulator()
        y = np.zeros((64, 5), np.float32)
        arguments = {"x": x, "y": y, "n": 64}
        device.run(file, "k", 1, 64, arguments, defines={"BARRIER": barrier})
        assert {f.where for f in device.findings if f.kind == "race"} >= {f"kernel.cu:{line}" for line in found}
        if not found:
            device.check()
            np.testing.assert_array_equal(y, x.reshape(64, 5))
    device = Emulator()
    memory = np.zeros(1, np.float32)
    far = write(tmp_path, "memset(y, 0, n); memcpy(y, x, n);", name="far.cu")
    device.run(far, "k", 1, 1, {"x": memory, "y": memory.copy(), "n": 1 << 30})
    assert [(f.kind, f.where) for f in device.findings] == [("out of range", "far.cu:3")]


# What two branches do alike a compiler likes to do once, and then the finding has one line or none.
BRANCHES = """
    const int t = threadIdx.x;
    if (t % 2)
        y[n] = 1;
    else
        y[n] = 2;
    if (t % 4)
        __syncwarp();
    else
        __syncwarp();
    if (t % 3) y[n + 1] = 1;
    if (t % 5)
        y[n + 1] = 2;
"""


@pytest.mark.usefixtures("each_compiler")
def test_what_two_branches_do_alike_has_lines(tmp_path):
    device = Emulator()
    device.run(write(tmp_path, BRANCHES), "k", 1, 32, {"x": np.zeros(1, "f"), "y": np.zeros(2, "f"), "n": 0})
    found = {kind: {f.where for f in device.findings if f.kind == kind} for kind in ("race", "divergence")}
    assert found["race"] | {"kernel.cu:8"} == {f"kernel.cu:{line}" for line in (6, 8, 13, 15)}  # g++: 6 and 8 are one
    assert found["divergence"] and found["divergence"] <= {"kernel.cu:10", "kernel.cu:12"}


@given(n=st.integers(1, 200), seed=st.integers(0, 2**32 - 1), threads=st.sampled_from([1, 31, 32, 33, 64]))
def test_blocks_of_any_size_on_grids_of_any_size(n, seed, threads, tmp_path_factory):
    file = write(tmp_path_factory.getbasetemp(), STRIDED)
    device = Emulator(seed)
    x = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    y = device.empty((n,), np.float32)
    device.run(file, "k", (3, 2), (threads, 2), {"x": x, "y": y, "n": n})
    device.check()
    np.testing.assert_array_equal(device.result(y), x + x[n - 1])


STRIDED = """
    const int size = blockDim.x * blockDim.y, blocks = gridDim.x * gridDim.y;
    const int t = threadIdx.y * blockDim.x + threadIdx.x, b = blockIdx.y * gridDim.x + blockIdx.x;
    __shared__ float last;
    if (t == size - 1) last = x[n - 1];
    __syncthreads();
    for (int i = b * size + t; i < n; i += size * blocks) y[i] = x[i] + last;
"""


def test_threads_of_python_take_turns(tmp_path):
    """Kernels of two files in four threads: all go through the one grid that the emulator has."""
    files = [write(tmp_path, STRIDED + "//" + name, name=name + ".cu") for name in ("one", "two")]

    def run(number):
        device, x = Emulator(number), np.arange(50_000, dtype=np.float32) + number
        y = device.empty(x.shape, np.float32)
        device.run(files[number % 2], "k", (3, 2), (32, 2), {"x": x, "y": y, "n": len(x)})
        device.check()
        return (device.result(y) == x + x[-1]).all()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(4)))


def test_inputs_stay_and_an_empty_grid_is_no_launch():
    x = np.ones(64, np.float32)
    y = np.zeros(64, np.float32)
    device = Emulator()
    device.run(PLANTED, "writes_its_input", 1, 64, {"x": x, "y": y, "n": 64})
    assert [f.kind for f in device.findings] == ["read-only"] and (x == 1).all()
    device.run(PLANTED, "clean", 0, 64, {"x": x, "y": y, "n": 64})


def test_bad_calls_are_named(tmp_path):
    x = np.ones(64, np.float32)
    good = {"x": x, "y": x.copy(), "n": 64}
    run_ = Emulator().run
    for kind, message, change in [
        (TypeError, r"kernel clean takes x, y, n; missing or unknown: \['n'\]", {"n": ...}),
        (TypeError, "kernel clean: x must be an array of float, got one of float64", {"x": x.astype(float)}),
        (ValueError, r"x must be contiguous, got strides \(8,\) for shape \(32,\)", {"x": x[::2]}),
        (TypeError, "n must be a whole number, got 64.0", {"n": 64.0}),
        (ValueError, "n must fit into int, got 4294967296", {"n": 2**32}),
    ]:
        arguments = {k: v for k, v in {**good, **change}.items() if v is not ...}
        with pytest.raises(kind, match=message):
            run_(PLANTED, "clean", 1, 64, arguments)
    with pytest.raises(ValueError, match=r"a block has 1 to 1024 threads, at most 64 deep, got \(1025, 1, 1\)"):
        run_(PLANTED, "clean", 1, 1025, good)
    with pytest.raises(ValueError, match=r"the grid must be at most \(2147483647, 65535, 65535\) blocks"):
        run_(PLANTED, "clean", (1, 65536), 64, good)
    with pytest.raises(ValueError, match="kernel moved: its launch bounds are 256 threads per block, got 288"):
        run_(planted.file_of("planted_registers.cu"), "moved", 1, (96, 3), {"x": x, "y": x.copy()})
    with pytest.raises(ValueError, match=r"planted.cu has no kernel 'nothing', it has clean, "):
        run_(PLANTED, "nothing", 1, 64, good)
    with pytest.raises(RuntimeError, match="does not compile for the emulator"):
        run_(write(tmp_path, "y[0] = 1 +;", name="wrong.cu"), "k", 1, 1, good)
    (tmp_path / "none.cu").write_text("int x;\n")
    with pytest.raises(ValueError, match=r"none\.cu has no kernel"):
        run_(tmp_path / "none.cu", "k", 1, 1, good)


# Every instruction of lib/ptx.cuh on numbers whose products and sums are exact, against what NumPy makes of whole
# matrices.
PRODUCTS = """
    __shared__ __align__(16) TYPE left[16][COLUMNS], right[DEPTH][8];
    const int lane = threadIdx.x;
    for (int at = lane; at < 16 * DEPTH; at += 32) left[at / DEPTH][at % DEPTH] = a[at];
    for (int at = lane; at < DEPTH * 8; at += 32) right[at / 8][at % 8] = b[at];
    __syncwarp();
    unsigned r[4], s[2];
    ldmatrix(r, &left[lane % 16][lane / 16 * 16 / sizeof(TYPE)]);
    const int four = 4 / sizeof(TYPE), k = lane % 4 * four;
    if (DEPTH == 16)
        ldmatrix_trans(s, &right[lane % 16][0]);
    else
        for (int i = 0; i < 2 * four; i++)
            memcpy((char*)s + i * sizeof(TYPE), &right[k + i / four * DEPTH / 2 + i % four][lane / 4], sizeof(TYPE));
    SUM product[4];
    for (int i = 0; i < 4; i++) product[i] = d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
    MULTIPLY(product, r, s[0], s[1]);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = product[i];
"""
NUMBERS = {
    "bf16": bfloat16.to_bits,
    "fp16": lambda x: x.astype(np.float16).view(np.uint16),
    "tf32": lambda x: x,
    "s8": lambda x: x.astype(np.int8),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_products_of_fragments(kind, tmp_path):
    type_, depth = {"tf32": ("float", 8), "s8": ("signed char", 32)}.get(kind, (kind, 16))
    sum_ = "int" if kind == "s8" else "float"
    file = write(tmp_path, PRODUCTS, f"const {type_}* a, const {type_}* b, {sum_}* d")
    file.write_text(file.read_text().replace("lib/cuda.cuh", "lib/ptx.cuh"))
    rng = np.random.default_rng(0)
    a, b, d = (rng.integers(-9, 10, s).astype(np.float32) for s in ((16, depth), (depth, 8), (16, 8)))
    if kind == "s8":
        a[0], b[:, 0], d = -128, 127, d.astype(np.int32)
        d[0, 0] = -(2**31) + 32 * 128 * 127 + 5
    want = d + (a @ b).astype(d.dtype)
    device = Emulator()
    item = NUMBERS[kind](a).itemsize
    columns = depth + 16 // item  # a row more than a multiple of 32 bytes: no bank conflicts
    defines = {"TYPE": type_, "SUM": sum_, "DEPTH": depth, "COLUMNS": columns, "MULTIPLY": f"mma_{kind}"}
    device.run(file, "k", 1, 32, {"a": NUMBERS[kind](a), "b": NUMBERS[kind](b), "d": d}, defines=defines)
    device.check()
    np.testing.assert_array_equal(d, want)
    assert not device.bank_conflicts
    wide = {**defines, "COLUMNS": 256 // item}
    device.run(file, "k", 1, 32, {"a": NUMBERS[kind](a), "b": NUMBERS[kind](b), "d": d}, defines=wide)
    assert list(device.bank_conflicts.values()) == [(4, 28)]  # 8 rows at the same banks, in each of 4 matrices


def test_sums_of_products_are_cut_off_and_not_rounded(tmp_path):
    """At first 25 bits below the largest of the products and the sum so far, then as float32, both towards 0."""
    body = """
    unsigned r[4] = {0, 0, 0, 0};
    if (threadIdx.x == 0) r[0] = pack_bf16(a[0], a[1]);
    float product[4] = {a[2], 0, 0, 0};
    mma_bf16(product, r, pack_bf16(1, 1), 0);
    if (threadIdx.x == 0) d[0] = product[0];
    """
    file = write(tmp_path, body, "const float* a, float* d")
    file.write_text(file.read_text().replace("lib/cuda.cuh", "lib/ptx.cuh"))
    up, down = 1 + 2.0**-23, 1 - 2.0**-24
    for left, right, before, want in [
        (1, 1.5 * 2**-24, 0, 1),
        (1, 2**-23, 0, up),
        (-1, -1.5 * 2**-24, 0, -1),
        (1, -(2.0**-25), 0, down),
        (1, -(2.0**-26), 0, 1),
        (1.9375, -(2.0**-26), 0, 1.9375),
        (2.0**-25, -1, 1, 2.0**-25),
        (2.0**-26, -1, 1, 0),
        (1, -1, 1.75 * 2.0**-25, 2.0**-25),
        (-1, 1, -1.75 * 2.0**-25, -(2.0**-25)),
        (2.0**-24, 2.0**-24, 1, up),
        (1.5 * 2.0**-25, 1.5 * 2.0**-25, 1, 1),
        (2.0**-130, 2.0**-133, -(2.0**-149), 2.0**-130 + 2.0**-133 - 2.0**-149),
        (0, 0, 0, 0),
        (0, 0, -2.5, -2.5),
        (2.0**127, 2.0**127, 0, np.inf),
        (np.inf, 1, 0, np.inf),
        (np.inf, 1, -np.inf, np.nan),
        (1, 1, np.nan, np.nan),
    ]:
        d = np.zeros(1, np.float32)
        Emulator().run(file, "k", 1, 32, {"a": np.float32([left, right, before]), "d": d})
        np.testing.assert_equal(d[0], np.float32(want), str((left, right, before)))


def test_numbers_of_16_and_19_bits(tmp_path):
    body = """
    const int t = threadIdx.x;
    b[t] = to_bf16(x[t]);
    h[t] = to_fp16(x[t]);
    both[t] = pack_bf16(x[t], -x[t]);
    tf[t] = __int_as_float(to_tf32(x[t]));
    back[t] = to_float(h[t]);
    """
    file = write(tmp_path, body, "const float* x, bf16* b, fp16* h, unsigned* both, float* tf, float* back")
    file.write_text(file.read_text().replace("lib/cuda.cuh", "lib/ptx.cuh"))
    rng = np.random.default_rng(0)
    x = np.float32([0, -0.0, 1, 65519, 65520, 1e38, 3.4e38, np.inf, -np.inf, 2**-24, 2**-25, 3 * 2**-25, 6.1e-5, 1e-41])
    ties = np.float32([1 + k * 2**-12 for k in range(33)])
    x = np.concatenate([x, ties, (rng.standard_normal(977) * 10.0 ** rng.integers(-9, 9, 977)).astype("f")])
    n = len(x)
    b, h = np.zeros(n, np.uint16), np.zeros(n, np.uint16)
    both, tf, back = np.zeros(n, np.uint32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    device = Emulator()
    device.run(file, "k", 1, n, {"x": x, "b": b, "h": h, "both": both, "tf": tf, "back": back})
    device.check()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(back, x.astype(np.float16).astype("f"))
    np.testing.assert_array_equal(h, back.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(b, bfloat16.to_bits(x))
    np.testing.assert_array_equal(both & 0xFFFF, b)
    np.testing.assert_array_equal(both >> 16, bfloat16.to_bits(-x))
    nearest = np.ldexp(np.floor(np.abs(np.frexp(x)[0].astype(float)) * 2048 + 0.5) / 2048, np.frexp(x)[1])
    normal = np.isfinite(x) & (np.abs(x) > 1e-37) & (np.abs(x) < 3e38)
    np.testing.assert_array_equal(np.abs(tf)[normal], nearest[normal].astype("f"))
    np.testing.assert_array_equal(bfloat16.rounded_to_tf32(x)[normal], tf[normal])
    assert (np.float32([np.inf, -np.inf]) == tf[7:9]).all()
    exact = bfloat16.from_bits(b)
    finite = np.isfinite(exact) & normal
    assert (np.abs(exact[finite] - x[finite]) <= bfloat16.UNIT_ROUNDOFF * np.abs(x[finite])).all()
    assert (bfloat16.to_bits(exact) == b).all() and np.isnan(bfloat16.rounded(np.float32([np.nan]))).all()
    assert np.isnan(bfloat16.rounded(np.uint32([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF]).view(np.float32))).all()
    with pytest.raises(TypeError, match="x must be float32, got float64"):
        bfloat16.to_bits(np.ones(3))
    with pytest.raises(TypeError, match="bits must be uint16, got float32"):
        bfloat16.from_bits(np.ones(3, "f"))


def test_no_compiler_is_one_clear_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NoCompiler, match=r"no C\+\+ compiler was found: the emulator needs g\+\+ or clang\+\+"):
        emulator.compiler()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_refuses_what_it_would_not_look_at(capsys):
    for arguments in (["attention", "--planted"], ["--planted", "--seeds", "4"]):
        with pytest.raises(SystemExit) as stopped:
            emulate.main(arguments)
        assert stopped.value.code == 2 and "--planted has kernels of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "why"),
    [("2,4,77,63", "rung 3 takes heads of 8, 16, ... 256"), ("9" * 20 + ",1,1,8", "dimension exceeded")],
)
def test_a_command_that_ran_nothing_has_not_succeeded(shape, why, capsys):
    assert emulate.main(["attention", "--rung", "3", "--shape", shape]) == 2
    said = capsys.readouterr()
    assert "not run: " in said.out and why in said.out and said.err == "error: nothing was run\n"


def stop(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            MemoryError("Unable to allocate 359. TiB"),
            2,
            "name: there is not enough memory for that: Unable to allocate",
        ),
        (MemoryError(), 2, "name: there is not enough memory for that\n"),
        (KeyboardInterrupt(), 130, "name: stopped\n"),
    ],
)
def test_what_stops_a_command_is_one_sentence(error, status, said, capsys):
    assert command.run(stop(error), "name") == status
    told = capsys.readouterr().err
    assert told.startswith(said) and told.count("\n") == 1


def test_other_errors_of_a_command_are_not_hidden():
    for error in (OSError("a disk"), ValueError("a bug"), SystemExit(2)):
        with pytest.raises(type(error)) as caught:
            command.run(stop(error), "name")
        assert caught.value is error


def test_a_reader_that_has_seen_enough_and_ctrl_c_leave_no_traceback():
    python = [sys.executable, "-m", "kernels.emulate"]
    with subprocess.Popen([*python, "--planted"], cwd=ROOT.parent, stdout=-1, stderr=-1) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 0
    with subprocess.Popen([*python, "all", "--seeds", "999"], cwd=ROOT.parent, stdout=-1, stderr=-1) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"kernels.emulate: stopped\n" and process.wait(60) == 130


def test_a_file_that_cannot_be_written_is_known_before(tmp_path):
    assert command.unwritable(tmp_path) == f"{tmp_path} is a folder"
    assert command.unwritable(tmp_path / "no" / "x.json") == f"there is no folder {tmp_path / 'no'}"
    assert command.unwritable(tmp_path / "x.json") is None and not list(tmp_path.iterdir())
