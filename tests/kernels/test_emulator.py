"""The emulator finds what is planted, at the line where it is planted, and nothing in a kernel that is right."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import emulator
from kernels.emulator import Emulator, EmulatorError, NoCompiler
from kernels.source import kernels_of


def _no_compiler():
    try:
        return not emulator.compiler()
    except NoCompiler:
        return True


pytestmark = pytest.mark.skipif(_no_compiler(), reason="emulating a kernel needs a C++ compiler (g++)")

PLANTED = Path(emulator.__file__).parent / "planted.cu"
CLEAN = {"clean", "atomic_sum", "warp_barriers"}
SEEDS = range(5)


def marks():
    """kernel -> the (line, kind) pairs that the file says are found in it."""
    found, kernel = {}, set()
    for number, line in enumerate(PLANTED.read_text().splitlines(), 1):
        if match := re.search(r"__global__ void (\w+)\(", line):
            kernel = found.setdefault(match[1], set())
        elif match := re.search(r"FINDS (.*)", line):
            kernel |= {(f"planted.cu:{number}", kind.strip()) for kind in match[1].split(",")}
    return found


def run(kernel, seed, n=128, **options):
    device = Emulator(seed, **options)
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    y = device.empty((n,), np.float32)
    device.run(PLANTED, kernel, n // 64, 64, {"x": x, "y": y, "n": n})
    device.result(y, "y")
    return device, x, y


@pytest.mark.parametrize("kernel", [k for k, lines in marks().items() if lines and k != "wrong_index"])
def test_finds_exactly_what_is_planted(kernel):
    found = set()
    for seed in SEEDS:
        device, _, _ = run(kernel, seed, most_accesses=20_000)
        here = {(f.where, f.kind) for f in device.findings if f.kind != "unwritten"}
        assert here, f"nothing found with seed {seed}"
        found |= here
    assert found == marks()[kernel]


@pytest.mark.parametrize("kernel", sorted(CLEAN))
def test_finds_nothing_where_nothing_is_planted(kernel):
    for seed in range(20):
        device, x, y = run(kernel, seed)
        device.check()
        if kernel == "clean":
            np.testing.assert_array_equal(y, x.reshape(2, 64)[:, ::-1].reshape(-1))


def test_every_kernel_is_planted_or_clean():
    assert {k for k, lines in marks().items() if not lines} == CLEAN | {"skips_the_tail"}
    assert set(marks()) == set(kernels_of(PLANTED.read_text()))


def test_a_wrong_value_names_the_line_that_wrote_it():
    device, x, y = run("wrong_index", 0)
    device.check()  # no rule was broken
    device.expect(y, x.reshape(2, 64)[:, ::-1].reshape(-1), 0, "y")
    assert {(f.where, f.kind) for f in device.findings} == marks()["wrong_index"]
    with pytest.raises(EmulatorError, match=r"wrong value: 128 of 128 elements of y are off; the worst is"):
        device.check()


def test_expect_lets_nan_and_inf_stand_in_their_places_only():
    device = Emulator()
    device.expect(np.float32([np.nan, np.inf, 1]), [np.nan, np.inf, 1.25], 0.25)
    device.check()
    for got, want in ((np.nan, 1), (1, np.nan), (np.inf, 1), (-np.inf, np.inf), (1, 1.26)):
        device = Emulator()
        device.expect(np.float32([got]), [want], 0.25)
        assert len(device.findings) == 1, (got, want)


def test_elements_that_are_never_written_are_named():
    device, _, _ = run("skips_the_tail", 0)
    assert [str(f) for f in device.findings] == [
        "y: unwritten: 1 of 128 elements of y were never written, the first at (127,)"
    ]


def test_the_schedule_changes_what_a_racing_kernel_computes_and_not_what_a_right_one_does():
    results = {k: {run(k, seed)[2].tobytes() for seed in SEEDS} for k in ("clean", "dropped_barrier")}
    assert len(results["clean"]) == 1 and len(results["dropped_barrier"]) > 1


def test_a_race_names_both_lines_and_a_deadlock_who_is_missing():
    found = run("dropped_barrier", 0)[0].findings
    assert {(f.where, f.other_where) for f in found} == {(a, b) for a in lines("race") for b in lines("race") if a != b}
    (finding,) = [f for f in run("returned_too_early", 0)[0].findings if f.kind == "deadlock"]
    assert "63 wait here, 1 have returned, 0 wait elsewhere; thread 17 has returned" in finding.message


def lines(kind, kernel="dropped_barrier"):
    return {line for line, k in marks()[kernel] if k == kind}


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
    with pytest.raises(ValueError, match=r"planted.cu has no kernel 'nothing', it has clean, "):
        run_(PLANTED, "nothing", 1, 64, good)
    with pytest.raises(RuntimeError, match="does not compile for the emulator"):
        run_(write(tmp_path, "y[0] = 1 +;", name="wrong.cu"), "k", 1, 1, good)
    (tmp_path / "none.cu").write_text("int x;\n")
    with pytest.raises(ValueError, match=r"none\.cu has no kernel"):
        run_(tmp_path / "none.cu", "k", 1, 1, good)


def test_no_compiler_is_one_clear_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NoCompiler, match=r"no C\+\+ compiler was found: the emulator needs g\+\+ or clang\+\+"):
        emulator.compiler.__wrapped__()


def test_shared_memory_that_nobody_wrote_is_nan():
    _, x, y = run("half_filled", 0)
    assert np.isnan(y.reshape(2, 64)[:, 32:]).all()
    np.testing.assert_array_equal(y.reshape(2, 64)[:, :32], x.reshape(2, 64)[:, :31:-1])
