"""What a program tells NVRTC, as RawKernel takes it: macros, folders of headers, and what NVRTC then makes of a kernel."""

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels.emulator import EmulatorError
from kernels.emulator.build import DoesNotCompile
from kernels.emulator.options import macros_and_folders, with_headers
from kernels.emulator.raw import RawKernel, RawModule
from kernels.launch import CompileError, Resources


@pytest.mark.parametrize(
    "options, macros, folders",
    [
        (("-DN=4", "-D", "M=a=b", "--define-macro=K", "--define-macro", "L=", "-D J"), "N=4 M=a=b K=1 L= J=1", ""),
        (("-DN=4", "-DN=5", "-DM", "-UM", "--undefine-macro=N", "-DN"), "N=1", ""),
        (("-Iinc", "-I", "a b", "-I=c", "-I d", "--include-path=e", "--include-path", "f"), "", "inc|a b|c|d|e|f"),
        (("-std=c++17", "--use_fast_math", "-default-device", "-lineinfo", "--device-debug"), "", ""),
    ],
)
def test_options(options, macros, folders):
    found, at = macros_and_folders(options)
    assert " ".join("=".join(pair) for pair in found) == macros
    assert "|".join(map(str, at)) == folders


@pytest.mark.parametrize("options", [("-D",), ("-D", "4"), ("-DM", "-U"), ("-D=",)])
def test_an_option_that_names_no_macro(options):
    with pytest.raises(ValueError, match=rf"option '{options[-2 if options[-1] == '4' else -1]}' names no macro"):
        RawModule("", options=options)


@needs_compiler
def test_options_that_define_and_a_file(tmp_path):
    (tmp_path / "mine.cu").write_text('extern "C" __global__ void k(int* y) { y[threadIdx.x] = N + FLAG; }')
    y = np.zeros(2, np.int32)
    module = RawModule(tmp_path / "mine.cu", options=("-DN=4", "--define-macro=FLAG", "--std=c++17"), backend="nvrtc")
    module.get_function("k")((1,), (2,), (y,))
    assert y.tolist() == [5, 5]
    with pytest.raises(EmulatorError, match=r"mine\.cu:1: out of range: write"):
        module.get_function("k")((1,), (3,), (y,))


KERNEL = """#include "tile.cuh"
#include <tile.cuh>  // once more
/*
#include "nowhere.cuh"
*/
extern "C" __global__ void k(float* y) {
    y[threadIdx.x] = next(y[threadIdx.x]) + table[0];
}
"""
TILE = """#pragma once
#include "parts/table.cuh"
#include <cuda_fp16.h>
extern __shared__ float tile[];
__device__ float next(float x) {
    tile[threadIdx.x] = x;
    asm volatile("bar.sync 0;");
    return tile[(threadIdx.x + 1) % blockDim.x];
}
"""
TABLE = """#ifndef TABLE
#define TABLE
#include "../tile.cuh"
#include "table.cuh"
__device__ float table[1];
#endif
"""


@pytest.fixture
def headers(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "tile.cuh").write_text(TILE)
    (tmp_path / "parts" / "table.cuh").write_text(TABLE)
    return tmp_path


@needs_compiler
def test_headers_in_folders(headers, each_compiler):
    kernel, y = RawKernel(KERNEL, "k", options=("-I", str(headers))), np.arange(64, dtype=np.float32)
    kernel.module.get_global("table").view(np.float32)[0] = 100
    kernel((1,), (64,), (y,), shared_mem=256)
    assert y.tolist() == [*range(101, 164), 100]
    with pytest.raises(EmulatorError, match=r"tile\.cuh:6: out of range: write of 4 bytes at byte \d+ of dynamic"):
        kernel((1,), (64,), (y,), shared_mem=128)
    with pytest.raises(EmulatorError, match=r"kernel\.cu:7: out of range: read of 4 bytes at element \(64,\) of y"):
        kernel((1,), (65,), (y,), shared_mem=512)


def test_a_header_that_is_once_in_a_program_is_put_in_once(tmp_path):
    for i in range(1, 12):  # twice each, that would be 2048 times the first
        (tmp_path / f"h{i}.cuh").write_text(f'#pragma once\n#include "h{i - 1}.cuh"\n#include "h{i - 1}.cuh"\n')
    (tmp_path / "h0.cuh").write_text("#pragma once\nint first;\n")
    assert with_headers('#include "h11.cuh"\n#include "h3.cuh"\n', "mine.cu", [tmp_path]).count("int first;") == 1


@needs_compiler
def test_headers_under_conditions(headers, each_compiler):
    """What a false condition leaves out comes later, and a header for another machine need not be there."""
    conditions = "#ifdef __ARM_NEON\n#include <arm_neon.h>\n#include <intrin.h>\n#include <tile.cuh>\n#endif\n"
    module = RawModule(conditions + KERNEL, name_expressions=("k",), options=(f"-I{headers}",))
    y = np.arange(64, dtype=np.float32)
    module.get_function("k")((1,), (64,), (y,), shared_mem=256)
    assert y.tolist() == [*range(1, 64), 0]


@needs_compiler
def test_a_header_that_has_changed_is_read_again(headers):
    y = np.zeros(2, np.float32)
    RawKernel(KERNEL, "k", ("-I", str(headers)))((1,), (2,), (y,), shared_mem=8)
    (headers / "parts" / "table.cuh").write_text(TABLE.replace("float table[1];", "float table[1] = {7};"))
    RawKernel(KERNEL, "k", ("-I", str(headers)))((1,), (2,), (y,), shared_mem=8)
    assert y.tolist() == [7, 7]


@needs_compiler
def test_headers_beside_a_file(headers):
    (headers / "mine.cu").write_text(KERNEL.replace("#include <", "// "))
    y = np.zeros(2, np.float32)
    RawKernel(headers / "mine.cu", "k")((1,), (2,), (y,), shared_mem=8)
    (headers / "mine.cu").write_text(KERNEL)
    with pytest.raises(DoesNotCompile, match=r"includes tile\.cuh, which the emulator does not have"):
        RawKernel(headers / "mine.cu", "k").compile()  # in <> it is looked for in the folders of options alone


@needs_compiler
def test_a_mistake_in_a_header_is_at_its_line(headers):
    (headers / "tile.cuh").write_text(TILE.replace("float x", "flat x"))
    with pytest.raises(DoesNotCompile, match=r"\ntile\.cuh:5: error: "):
        RawKernel(KERNEL, "k", ("-I", str(headers))).compile()


@needs_compiler
def test_a_toolkits_own_headers_are_not_taken(tmp_path):
    for name in ("cuda_runtime.h", "cuda_fp16.h", "other.h"):
        (tmp_path / name).write_text("#error this is for nvcc")
    code = '#include <cuda_fp16.h>\nextern "C" __global__ void k(__half* y) { *y = __float2half(2); }'
    y = np.zeros(1, np.float16)
    RawKernel(code, "k", (f"-I{tmp_path}",))((1,), (1,), (y,))
    assert y[0] == 2
    with pytest.raises(DoesNotCompile, match=r"includes other\.h, which the emulator does not have"):
        RawKernel(f"#include <other.h>\n{code}", "k", (f"-I{tmp_path}",)).compile()


@needs_nvrtc
def test_what_nvrtc_makes_of_kernels(headers):
    code = """
    #include "tile.cuh"
    template <typename T, int N> __global__ void turned(T* x) {
        __shared__ T own[N];
        own[threadIdx.x] = x[threadIdx.x] + T(FLAG);
        __syncthreads();
        x[threadIdx.x] = own[N - 1 - threadIdx.x];
    }
    extern "C" __global__ void indexed(int* x) { int own[100]; for (int i = 0; i < 100; i++) own[i] = x[i]; *x = own[*x]; }
    """
    names = ("turned<float, 32>", "turned<__half,64>", "indexed")
    module = RawModule(code, options=("-DFLAG=1", f"-I{headers}"), name_expressions=names)
    found = module.resources("80")
    assert [found[name].shared_bytes for name in names] == [128, 128, 0]
    assert [found[name].local_bytes for name in names] == [0, 0, 400]
    assert all(0 < r.registers < 64 and r.spill_bytes == 0 for r in found.values())
    one = module.get_function("indexed").resources()
    assert isinstance(one, Resources) and one.local_bytes == 400
    with pytest.raises(ValueError, match="unknown architecture 'sm_80': use one of 75, 80"):
        module.resources("sm_80")


@needs_nvrtc
def test_what_nvrtc_refuses_and_a_compiler_of_cpp_takes():
    code = 'float twice(float x) { return 2 * x; }\nextern "C" __global__ void k(float* x) { *x = twice(*x); }'
    with pytest.raises(CompileError, match=r"kernel\.cu\(1\): error: A function without execution space annotations"):
        RawKernel(code, "k").resources()
    assert RawKernel(code, "k", ("-default-device",)).resources().spill_bytes == 0
