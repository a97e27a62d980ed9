"""CUDA's own words and functions that kernels of other people use: known answers, by both compilers."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulation import HEAD, write
from rungs import needs_compiler, needs_nvrtc

from kernels import launch
from kernels.emulator import DoesNotCompile, Emulator, NoCompiler, compiler
from kernels.source import WrongSource, cache_directory, kernels_of, launch_bounds_of, needs

pytestmark = needs_compiler


def test_votes_at_two_barriers_are_a_divergence(tmp_path):
    device = Emulator()
    y = np.zeros(1, np.float32)
    device.run(write(tmp_path, "threadIdx.x ?\n__syncthreads_or(1) :\n__syncthreads_count(1);"), "k", 1, 2, {"y": y})
    assert [f.kind for f in device.findings] == ["divergence"]


SHARED = """
TEMPLATE
__device__ T turned(T value) {
    __shared__ T all[N];
    all[threadIdx.x] = value;
    __syncthreads();
    return all[LAST - threadIdx.x];
}

__device__ float4 turned(float4 value) {
    __shared__ float4 wide[2][32];
    wide[1][threadIdx.x] = value;
    __syncthreads();
    return wide[1][LAST - threadIdx.x];
}
"""
USE = """
    __shared__ alignas(128) int2 pairs[32];
    pairs[threadIdx.x] = {int(threadIdx.x), 1};
    __syncthreads();
    const float4 v = turned(make_float4(threadIdx.x, 0, 0, 2));
    y[threadIdx.x] = turned(int(threadIdx.x)) CALL + v.x + v.w + pairs[0].y;
"""


PLAIN = {"TEMPLATE": "typedef int T;\n#define N 32", "CALL": ""}
GENERIC = {"TEMPLATE": "template <class T, int N = 32>", "CALL": "+ turned(float(threadIdx.x)) - threadIdx.x"}


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("words", [PLAIN, GENERIC], ids=["function", "template"])
def test_shared_memory_of_functions_and_of_vectors(words, tmp_path):
    before, use = SHARED, USE
    for word, meaning in words.items():
        before, use = before.replace(word, meaning), use.replace(word, meaning)
    file, device = write(tmp_path, use, before=before), Emulator()
    y = device.empty((32,), np.float32)
    try:
        device.run(file, "k", 1, 32, {"y": y}, defines={"LAST": 31})
    except DoesNotCompile as refused:  # by g++ 12; g++ 16 puts them where they belong
        assert words is GENERIC and "clang" not in compiler()
        assert "g++ puts a template's __shared__ arrays anywhere" in str(refused)
        return
    device.check()
    t = np.arange(32)
    np.testing.assert_array_equal(y, 2 * t[::-1] + 3 + (words is GENERIC) * (t[::-1] - t))
    device.run(file, "k", 1, 32, {"y": y}, defines={"LAST": 32})
    said = {(f.kind, f.message.partition(" by ")[0]) for f in device.findings if f.kind != "undefined"}
    assert said == {
        ("out of range", "read of 4 bytes at byte 128 of all"),
        ("out of range", "read of 16 bytes at byte 1024 of wide"),
    }


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("assert(threadIdx.x < 3);", "assert(threadIdx.x < 3) has stopped"),
        ("if (threadIdx.x == 3)\n__trap();", "__trap() has"),
    ],
)
def test_what_stops_a_kernel_is_a_fault(body, message, tmp_path):
    device = Emulator()
    y = np.zeros(4, np.float32)
    device.run(write(tmp_path, body + "\ny[threadIdx.x] = 1;"), "k", 1, 4, {"y": y})
    (found,) = device.findings
    assert found.kind == "fault" and found.message.startswith(message)
    assert found.where == f"kernel.cu:{4 + body.count(chr(10))}"


def test_what_is_read_by_name_only_is_watched_at_its_line(tmp_path):
    device = Emulator()
    x, y = np.zeros(4, np.float32), np.zeros(4, np.float32)
    device.run(
        write(tmp_path, "y[0] = 1;\ny[0] = __ldg(x + 4);", "const float* x, float* y"), "k", 1, 1, {"x": x, "y": y}
    )
    assert [(f.kind, f.where) for f in device.findings] == [("out of range", "kernel.cu:5")]


def test_a_function_without_a_body_is_named(tmp_path):
    with pytest.raises(DoesNotCompile, match=r"kernel\.cu: \w*missing\w* is declared but nowhere defined"):
        Emulator().run(write(tmp_path, "y[0] = missing();", before="__device__ float missing();"), "k", 1, 1, {})


# --- how a kernel's head may be written -------------------------------------------------------------------------------


def test_attributes_before_void_and_sums_in_them():
    text = 'extern "C" __global__ __launch_bounds__(2 * (3 + 4), f((1))) void __cluster_dims__(2, 1, 1) k(const size_t n, volatile short* y) {}'
    assert [(p.name, p.type, p.pointer) for p in kernels_of(text)["k"]] == [
        ("n", "size_t", False),
        ("y", "short", True),
    ]
    assert launch_bounds_of(text) == {"k": "2 * (3 + 4), f((1))"} and needs(text) == "90"
    assert kernels_of('extern "C" __global__ void k(void) {}') == {"k": ()}


def test_a_kernel_that_a_gpu_would_not_find_is_refused(tmp_path):
    file = tmp_path / "kernel.cu"
    file.write_text(HEAD + '// extern "C"\n__global__ void k(float* y) { y[0] = 1; }\n')
    with pytest.raises(WrongSource, match=r'kernel\.cu: kernels must be extern "C"'):
        Emulator().run(file, "k", 1, 1, {"y": np.zeros(1, np.float32)})


def test_types_of_16_bits_and_size_t_arrive(tmp_path):
    file = write(tmp_path, "y[0] = s + u + z;", "short* y, short s, unsigned short u, size_t z")
    y = np.zeros(1, np.int16)
    Emulator().run(file, "k", 1, 1, {"y": y, "s": -3, "u": 65535, "z": 2**40 + 5})
    assert y[0] == 1


# --- the libraries ----------------------------------------------------------------------------------------------------

CLEAN = "y[threadIdx.x] = NUMBER;"


def run(file, number=1):
    device = Emulator()
    y = device.empty((32,), np.float32)
    device.run(file, "k", 1, 32, {"y": y}, defines={"NUMBER": number})
    device.check()
    assert (y == number).all()


def fresh_cache(folder, monkeypatch):
    """With the emulator in it, which takes long to compile."""
    run(write(folder.parent, CLEAN))
    (folder / "kernels").mkdir(parents=True)
    for library in cache_directory().glob("runtime-*.so"):
        shutil.copy(library, folder / "kernels")
    monkeypatch.setenv("MINIGEN_CACHE", str(folder))


def test_two_directories_of_compiled_kernels_in_one_process(tmp_path, monkeypatch):
    """The second one's kernels know their emulator by its name, which the first one's has as well."""
    for number, folder in enumerate(("one", "two words", "three")):
        fresh_cache(tmp_path / folder, monkeypatch)
        run(write(tmp_path, CLEAN, name=f"of {number}.cu"), number)


def test_a_library_is_kept_under_all_that_went_into_it(tmp_path, monkeypatch):
    module, went_in = importlib.import_module("kernels.emulator.build"), {}
    cached = module._cached

    def noted(command, kind, parts, *more):
        went_in[kind] = parts
        return cached(command, kind, parts, *more)

    monkeypatch.setattr(module, "_cached", noted)
    file = write(tmp_path, CLEAN)
    file.write_text(file.read_text().replace("lib/cuda.cuh", "lib/ptx90.cuh"))
    run(file)
    own = [f for f in module.HERE.rglob("*") if f.suffix in (".hpp", ".cpp", ".cuh", ".h")]
    assert {f.read_text() for f in own} <= set(went_in["kernel"]) & set(went_in["runtime"])
    assert {(module.ROOT / "lib" / f).read_text() for f in ("ptx90.cuh", "ptx.cuh", "cuda.cuh")} <= set(
        went_in["kernel"]
    )


ASIDE = """#pragma once
#include <algorithm>
namespace emulator { inline float threads() { return std::max(block_size.x, 1u); } }
"""


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("include", ["#include <cuda_aside.h>", '#  include "cuda_aside.h"', '#include "lib/own.cuh"'])
def test_headers_of_cudas_lie_outside_a_kernels_namespace(include, tmp_path, monkeypatch):
    module, source = (importlib.import_module(f"kernels.{name}") for name in ("emulator.build", "source"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "own.cuh").write_text("#include <cuda_aside.h>\n")
    (tmp_path / "cuda_aside.h").write_text(ASIDE)
    own = module._own_files()  # without which the emulator itself would be compiled again
    monkeypatch.setattr(module, "_own_files", lambda: own)
    monkeypatch.setattr(module, "CUDAS_HEADERS", tmp_path)
    monkeypatch.setattr(source, "ROOT", tmp_path)
    file = write(tmp_path, f"y[0] = emulator::threads();  // {ASIDE!r}", before=include)
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", str(tmp_path))
    y, device = np.zeros(1, np.float32), Emulator()
    device.run(file, "k", 1, 1, {"y": y})
    device.check()
    assert y == 1


def test_a_file_in_a_folder_of_any_name_has_lines(tmp_path):
    folder = tmp_path / 'a "name" \\ of words'
    folder.mkdir()
    device = Emulator()
    file = write(folder, "for (int i = 0; i < 4; i++)\ny[4 * blockIdx.x + i] = y[1];", name="my own.cu")
    device.run(file, "k", 2, 1, {"y": np.zeros(8, np.float32)})
    assert {f.where for f in device.findings} == {"my own.cu:5"}


def test_a_library_that_is_gone_has_findings_without_lines(tmp_path, monkeypatch):
    fresh_cache(tmp_path / "cache", monkeypatch)
    file, device = write(tmp_path, "y[0] = threadIdx.x;"), Emulator()
    device.run(file, "k", 1, 1, {"y": np.zeros(1, np.float32)})
    shutil.rmtree(tmp_path / "cache")
    device.run(file, "k", 1, 32, {"y": np.zeros(1, np.float32)})
    assert [(f.kind, f.where) for f in device.findings] == [("race", "kernel.cu:?")]


def test_a_cache_that_takes_nothing_is_one_clear_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    fresh_cache(tmp_path / "cache", monkeypatch)
    said = r"compiled kernels cannot be kept in .*kernels: Read-only file system \(MINIGEN_CACHE says where\)"
    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with pytest.raises(ValueError, match=said):
        run(write(tmp_path, CLEAN), 2)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(launch, "_compile", lambda *_: launch.Binary(b"", ""))
    monkeypatch.setattr(launch, "nvrtc_version", lambda: "99.0")
    with pytest.raises(ValueError, match=said):
        launch.compile_for(write(tmp_path, CLEAN), "90")


def test_what_a_power_cut_left_empty_is_compiled_again(tmp_path, monkeypatch):
    fresh_cache(tmp_path / "cache", monkeypatch)
    file = write(tmp_path, CLEAN)
    run(file, 7)
    kept = list(cache_directory().glob("kernel-*.so"))
    assert kept
    for library in kept:
        library.unlink()  # the old one is in use
        library.touch()
    importlib.import_module("kernels.emulator.build")._built.cache_clear()
    run(file, 7)
    assert all(library.stat().st_size for library in kept)


def test_a_missing_tool_of_the_linker_is_one_clear_sentence(tmp_path, monkeypatch):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "objcopy" else which(name))
    with pytest.raises(NoCompiler, match=r"no objcopy was found: the emulator needs GNU binutils"):
        run(write(tmp_path, f"{CLEAN}   "))


def test_threads_say_something_before_python_goes_on(tmp_path):
    body = 'if (threadIdx.x < 2) printf("thread %d of block %d: %.2f\\n", threadIdx.x, blockIdx.x, y[0]);'
    script = f"""
import numpy as np
from pathlib import Path
from kernels.emulator import Emulator
Emulator().run(Path({str(write(tmp_path, body))!r}), "k", 2, 32, {{"y": np.full(1, 0.25, np.float32)}})
print("then", flush=True)"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=buffered)
    *said, last = done.stdout.splitlines()
    assert sorted(said) == [f"thread {t} of block {b}: 0.25" for t in range(2) for b in range(2)] and last == "then"


@needs_nvrtc
def test_so_they_do_on_a_gpu_without_a_header(tmp_path):
    launch.compile_for(write(tmp_path, 'printf("%f\\n", y[0]);'), "90")


def test_a_thread_is_sure_of_itself_alone(tmp_path):
    """Whoever takes all that `__activemask` may give for one group is right for any, a sum that wants the warp is not."""
    grouped = """
        const unsigned mask = __activemask();
        const int first = __ffs(mask) - 1;
        unsigned before = 0;
        if (int(threadIdx.x) == first) before = atomicAdd(count, __popc(mask));
        before = __shfl_sync(mask, before, first);
        y[before + __popc(mask & ((1u << threadIdx.x) - 1))] = threadIdx.x;"""
    device = Emulator()
    y = np.zeros(32, np.float32)
    device.run(
        write(tmp_path, grouped, "float* y, unsigned* count"), "k", 1, 32, {"y": y, "count": np.zeros(1, np.uint32)}
    )
    device.check()
    assert sorted(y) == [*range(32)]
    device.run(
        write(tmp_path, "y[threadIdx.x] = __shfl_down_sync(__activemask(), y[threadIdx.x], 1);"), "k", 1, 32, {"y": y}
    )
    assert device.findings


def test_a_compiler_that_is_none_is_one_clear_sentence(tmp_path, monkeypatch):
    for command, said in (
        ("g++ '", "CXX is no command: No closing quotation"),
        ("false -x", "false -x --version fails"),
        ("no-such-compiler -O2", "CXX is no-such-compiler -O2, and there is no program no-such-compiler"),
    ):
        monkeypatch.setenv("CXX", command)
        with pytest.raises(NoCompiler, match=said):
            run(write(tmp_path, CLEAN))
