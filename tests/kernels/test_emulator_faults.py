"""What a kernel must not be able to do to the emulator: write behind its last array unseen, end Python, hang it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rungs import needs_compiler

from kernels.emulator import Emulator

pytestmark = needs_compiler
MAPS = Path("/proc/self/maps")


def written(tmp_path, body):
    file = tmp_path / "kernel.cu"
    parameters = "const float* x, float* y, int n"
    file.write_text(f'#include "lib/cuda.cuh"\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n')
    return file


def ran(tmp_path, body, seed=0, **settings):
    device, x = Emulator(seed), np.arange(64, dtype=np.float32)
    y = device.empty((64,), np.float32)
    device.run(written(tmp_path, body), "k", 1, 64, {"x": x, "y": y, "n": 64}, **settings)
    return device.findings, y


def found(tmp_path, body, seed=0, **settings):
    findings, y = ran(tmp_path, body, seed, **settings)
    return [(f.kind, f.where) for f in findings], y


TILE = "__shared__ float tile[64];\n"
REST = "\n__syncthreads();\ny[threadIdx.x] = tile[threadIdx.x];"


@pytest.mark.parametrize(
    ("body", "kind", "where"),
    [
        (TILE + "tile[threadIdx.x + 1] = x[threadIdx.x];\nif (threadIdx.x == 0) tile[0] = 1;" + REST, "out of range", "kernel.cu:4"),
        (TILE + "tile[threadIdx.x] = 0;\n__syncthreads();\ny[threadIdx.x] = tile[threadIdx.x + 8];", "out of range", "kernel.cu:6"),
        (TILE + "tile[threadIdx.x] = 0;\ntile[threadIdx.x + 40] += 1;" + REST, "out of range", "kernel.cu:5"),
        (TILE + "tile[threadIdx.x] = 0;\nif (n == 64) tile[threadIdx.x + 100000] = 1;" + REST, "wild address", "kernel.cu:5"),
        ("atomicAdd(y + threadIdx.x, x[threadIdx.x]);", "uninitialised", "kernel.cu:3"),
        ("__shared__ float s;\natomicAdd(&s, 1.0f);\n__syncthreads();\ny[threadIdx.x] = s;", "uninitialised", "kernel.cu:4"),
        ("y[threadIdx.x] = 100 / (n - 64);", "fault", "kernel.cu:3"),
        ("y[threadIdx.x] = *(const float*)(8ull * (n - 63));", "wild address", "kernel.cu:3"),
    ],
)  # fmt: skip
def test_it_is_found_and_nothing_else_happens(tmp_path, body, kind, where):
    assert (kind, where) in found(tmp_path, body)[0]
    assert not found(tmp_path, "y[threadIdx.x] = x[threadIdx.x];")[0], "the next kernel runs as if nothing had been"


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("int a = n << 25;\ny[t] = a - 1 + n;", "-2147483648 - 1 is no 'int'"),
        ("int a = n << 24, b = (n + 64) << 23;\ny[t] = a + b;", "1073741824 + 1073741824 is no 'int'"),
        ("long long a = 1ll << n / 2;\ny[t] = a * a;", "4294967296 * 4294967296 is no 'long"),
        ("int a = n << 25;\ny[t] = a / (63 - n);", "-2147483648 / -1 is no 'int'"),
        ("long long a = 1ll << (n - 1);\ny[t] = -a;", "0 - -9223372036854775808 is no 'long"),
        ("y[t] = n << n;", "a shift of an 'int' by 64 bits"),
        ("y[t] = n >> t - 64 - n;", "a shift of an 'int' by -"),
        ("float m[3] = {x[0], x[1], x[2]};\ny[t] = m[n - 61];", "index 3 of an array 'float"),
        (
            "struct { float m[3]; } s = {{x[0], x[1], x[2]}};\nauto f = [&](int i) { return s.m[i]; }; y[t] = f(n - 61);",
            "index 3 of an array 'float",
        ),
        ("__shared__ float m[3][64];\nm[1][t] = 1;\n__syncthreads();\ny[t] = m[2][t - n];", "index -"),
        ("__shared__ float m[64];\nm[t] = 1;\n__syncthreads();\ny[t] = m[(unsigned)(t - n)];", "index 42949672"),
        ("y[t] = (signed char)(x[63] * n);", "a float out of range of this integer type"),
    ],
)
def test_what_is_left_undefined_is_said_in_numbers(tmp_path, body, message):
    findings, _ = ran(tmp_path, f"const int t = threadIdx.x;\n{body}")
    where = f"kernel.cu:{4 + body.count(chr(10))}"
    said = [f.message for f in findings if (f.kind, f.where) == ("undefined", where)]
    assert len(said) == 1 and said[0].startswith(message), findings


def test_a_recursion_without_end_is_a_fault(tmp_path):
    file = written(tmp_path, "y[threadIdx.x] = deep(n, x);")
    deep = "__device__ float deep(int n, const float* x) { volatile float a[64]; a[n % 64] = x[0]; return n ? deep(n + 1, x) + a[1] : 0; }"
    file.write_text(file.read_text().replace('extern "C"', deep + '\nextern "C"'))
    device = Emulator()
    y = device.empty((64,), np.float32)
    device.run(file, "k", 1, 64, {"x": np.ones(64, np.float32), "y": y, "n": 64})
    assert "beyond its own stack: 576 kB here, at most 512 on a GPU" in str(device.findings[0]), device.findings


@pytest.mark.skipif(not MAPS.exists(), reason="asks Linux what lies where")
def test_below_every_stack_lies_nothing_that_could_be_run_over(tmp_path):
    found(tmp_path, "y[threadIdx.x] = 1;")
    words = [line.split() for line in MAPS.read_text().splitlines()]
    spans = [(*(int(at, 16) for at in span.split("-")), may) for span, may, *_ in words]
    below = [(b - a, may) for (a, b, may), (c, d, _) in zip(spans, spans[1:]) if b == c and d - c == 576 << 10]
    assert below.count((64 << 10, "---p")) >= 1023, "and of the lowest it may be one with what is below"


def test_the_largest_local_arrays_have_room(tmp_path):
    body = "volatile float a[131072];\nfor (int i = 0; i < 131072; i += 8) a[i] = i;\ny[threadIdx.x] = a[131064];"
    findings, y = found(tmp_path, body)
    assert not findings and (y == 131064).all()
    findings, _ = ran(tmp_path, body.replace("131072", "262144"))
    assert str(findings[0]).startswith("kernel.cu:3: wild address: write of 1048576 bytes"), findings
    assert " (beyond its own stack: 576 kB here, at most 512 on a GPU) by thread " in str(findings[0])


@pytest.mark.usefixtures("each_compiler")
def test_a_local_variable_of_another_thread_is_no_place_to_read(tmp_path):
    body = """
    __shared__ const float* place;
    volatile float own = threadIdx.x;
    if (threadIdx.x == 3) place = (const float*)&own;
    __syncthreads();
    y[threadIdx.x] = *place;
    __syncthreads();
    y[threadIdx.x] += own;"""
    findings, _ = ran(tmp_path, body)
    assert "wild address: read of 4 bytes" in str(findings[0]) and "(a local variable of another thread)" in str(
        findings[0]
    )


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_ctrl_c_ends_a_loop_that_asks_nobody(tmp_path):
    file = written(tmp_path, "volatile int k = 0;\nwhile (n) k++;\ny[threadIdx.x] = 1;")
    program = (
        "import sys, numpy as np\nfrom kernels.emulator import Emulator\nfrom kernels.emulator.build import build\nfrom pathlib import Path\n"
        "build(Path(sys.argv[1]))\nd = Emulator()\nprint('begun', flush=True)\n"
        "d.run(sys.argv[1], 'k', 1, 64, {'x': np.ones(64, 'f'), 'y': np.ones(64, 'f'), 'n': 64})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout.readline().strip() == b"begun"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in said and process.returncode != 0


def test_what_a_gpu_could_not_launch_is_refused(tmp_path):
    body = "y[threadIdx.x] = x[threadIdx.x];"
    for settings, message in (
        ({"shared_bytes": -1}, "shared_bytes must be from 0 to 232448"),
        ({"shared_bytes": 10**9}, "shared_bytes must be from 0 to 232448"),
    ):
        with pytest.raises(ValueError, match=message):
            found(tmp_path, body, **settings)
    with pytest.raises(ValueError, match="shared_bytes must be from 0 to 231424 beside the 1024 bytes"):
        found(tmp_path, TILE + "tile[threadIdx.x] = 0;" + REST, shared_bytes=232448)
    with pytest.raises(ValueError, match="has one to three numbers, got"):
        Emulator().run(str(written(tmp_path, body)), "k", (2, 1, 1, 1), 64, {"x": None, "y": None, "n": 0})
    assert not found(tmp_path, body, defines={"A": 1, "i": 2})[0], "a macro of a reader's own"


def test_a_cache_that_cannot_be_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGEN_CACHE", "/dev/null")
    with pytest.raises(ValueError, match="compiled kernels cannot be kept in /dev/null/kernels: Not a directory"):
        found(tmp_path, "y[threadIdx.x] = 2 * x[threadIdx.x];  // never compiled before")
