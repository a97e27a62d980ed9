"""Programs that were written for nvcc or CuPy, with what they use of C++ and of CUDA's words and headers, by RawKernel."""

import shutil

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels.emulator import BadArguments, EmulatorError
from kernels.emulator.raw import RawKernel, RawModule
from kernels.source import WrongSource

pytestmark = needs_compiler


TEMPLATE = """
struct Pair { float a; int n; };

template <typename T>
__device__ T first(T value) {
    __shared__ T kept[1];
    if (threadIdx.x == 0) kept[0] = value;
    BARRIER;
    return kept[0];
}

template <typename T, int N = 32>
__global__ void __launch_bounds__((N) * 1, 2) turned(const T* __restrict__ x, T* y, const Pair p, float4* wide) {
    extern __shared__ __align__(16) T tile[];
    __shared__ T own[N];
    const int t = threadIdx.x;
    tile[t] = own[t] = x[t];
    __syncthreads();
    y[t] = (tile[N - 1 - t] + own[N - 1 - t]) / 2 * T(p.a) + T(p.n) + first(x[t]);
    if (t == 0) wide[0] = make_float4(1, 2, 3, 4);
}
"""


KERNELS = ("turned<float, 64>", "turned<double>", "turned < int , 7>")


@pytest.mark.parametrize("name, dtype, n", list(zip(KERNELS, (np.float32, np.float64, np.int32), (64, 32, 7))))
def test_templates_structures_and_vectors(name, dtype, n, each_compiler):
    kernel = RawModule(TEMPLATE, options=("-DBARRIER=__syncthreads()",), name_expressions=KERNELS).get_function(name)
    x, y, wide = np.arange(1, n + 1, dtype=dtype), np.zeros(n, dtype), np.zeros(4, np.float32)
    pair = np.array((2, 3), np.dtype([("a", np.float32), ("n", np.int32)]))[()]
    kernel((1,), (n,), (x, y, pair, wide), shared_mem=x.nbytes)
    np.testing.assert_array_equal(y, 2 * x[::-1] + 3 + 1)
    np.testing.assert_array_equal(wide, [1, 2, 3, 4])
    with pytest.raises(ValueError, match=f"launch bounds are {n} threads per block, got {n + 1}"):
        kernel((1,), (n + 1,), (x, y, pair, wide), shared_mem=x.nbytes)
    with pytest.raises(BadArguments, match="p must be a structure of 8 bytes, got float32"):
        kernel((1,), (n,), (x, y, np.float32(1), wide))
    with pytest.raises(BadArguments, match="wide must be an array of a structure of 16 bytes, got 12 bytes"):
        kernel((1,), (n,), (x, y, pair, wide[:3]))


def test_the_shared_array_of_a_function_template_is_watched(each_compiler):
    kernel = RawModule(TEMPLATE, options=("-DBARRIER",), name_expressions=KERNELS).get_function(KERNELS[0])
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    pair = np.zeros((), np.dtype([("a", np.float32), ("n", np.int32)]))[()]
    with pytest.raises(EmulatorError) as error:
        kernel((1,), (64,), (x, y, pair, np.zeros(4, np.float32)), shared_mem=256)
    assert "kernel.cu:7: race: write of 4 bytes at byte 0 of kept" in str(error.value)


def test_shared_arrays_of_other_kernels_take_no_room():
    code = "".join(
        f'extern "C" __global__ void k{i}(int* y) {{ __shared__ int s[10000]; s[9999] = {i}; y[0] = s[9999]; }}\n'
        for i in range(6)
    )
    y = np.zeros(1, np.int32)
    RawKernel(code, "k5")((1,), (1,), (y,), shared_mem=4)
    assert y[0] == 5


def test_dynamic_shared_memory_outside_of_functions(each_compiler):
    code = """
extern __shared__ float tile[];
extern "C" __global__ void k(float* y) {
    tile[threadIdx.x] = y[threadIdx.x];
    float* end = tile + 31;
    __syncthreads();
    y[threadIdx.x] = *(end - threadIdx.x) + ((int*)tile)[0];
}
"""
    y = np.arange(32, dtype=np.float32)
    RawKernel(code, "k")((1,), (32,), (y,), shared_mem=128)
    np.testing.assert_array_equal(y, np.arange(32)[::-1])


def test_headers_that_nvcc_has(each_compiler):
    code = """
/*
#include <none>
*/
#include <cuda_runtime.h>
#include <cstdio>
#include <stdint.h>
#include <cmath>
#include <cassert>
#include <algorithm>
extern "C" __global__ void k(const uint8_t* x, int32_t* y, float* z) {
    assert(x[0] < 200);
    y[0] = std::max<int32_t>(x[0], 5);
    z[0] = max(powf(2.0f, 3.0f), std::abs(-9.0f));
}
"""
    y, z = np.zeros(1, np.int32), np.zeros(1, np.float32)
    RawKernel(code, "k")((1,), (1,), (np.array([7], np.uint8), y, z))
    assert y[0] == 7 and z[0] == 9
    with pytest.raises(EmulatorError, match=r"kernel\.cu:12: fault: assert\(x\[0\] < 200\)"):
        RawKernel(code, "k")((1,), (1,), (np.array([200], np.uint8), y, z))


def test_headers_that_bring_the_c_librarys_clock_and_cudas_own_of_std(each_compiler):
    code = """
#include <iostream>
#include <ctime>
#include <cuda/std/limits>
#include <cuda/std/type_traits>
#include <cuda/std/utility>
#include <cuda/std/array>
template <class T> __global__ void k(T* y, long* times) {
    static_assert(cuda::std::is_same_v<T, float> && std::is_floating_point_v<T>);
    cuda::std::array<T, 2> two{1, -cuda::std::numeric_limits<T>::infinity()};
    times[0] = clock();
    y[0] = cuda::std::move(two[1]);
    times[1] = clock();
}
"""
    y, times = np.zeros(1, np.float32), np.zeros(2, np.int64)
    RawModule(code, name_expressions=("k<float>",)).get_function("k<float>")((1,), (1,), (y, times))
    assert y[0] == -np.inf and times[1] > times[0]


STRUCTURE = """
struct __align__(16) Params { const float* x; float* y; int4 size; };
extern "C" __global__ void copy(const Params p, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p.y[i] += p.x[i] * p.size.z;
}
"""


def test_structures_with_vectors_and_pointers(each_compiler):
    kind = np.dtype([("x", np.uint64), ("y", np.uint64), ("size", np.int32, 4)])
    x, y = np.arange(100, dtype=np.float32), np.zeros(100, np.float32)
    p = np.array((x[10:].ctypes.data, y.ctypes.data, (1, 2, 3, 4)), kind)[()]
    copy = RawKernel(STRUCTURE, "copy")
    copy((3,), (32,), (p, 90), held=(x, y))
    np.testing.assert_array_equal(y[:90], 3 * x[10:])
    with pytest.raises(EmulatorError, match=r"out of range: read of 4 bytes at element \(100,\) of held\[0\] \(100,\)"):
        copy((3,), (32,), (p, 91), held=(x, y))
    with pytest.raises(EmulatorError, match=r"wild address"):
        copy((3,), (32,), (p, 90), held=(x,))
    with pytest.raises(BadArguments, match=r"p must be a structure of 32 bytes, got one of 16 bytes$"):
        copy((3,), (32,), (np.zeros((), np.dtype([("x", np.uint64), ("y", np.uint64)]))[()], 90))


def test_a_structure_with_the_end_of_an_array(each_compiler):
    code = """
struct Range { int* begin; int* end; };
extern "C" __global__ void k(Range all) { for (int* y = all.begin; y != all.end; y++) *y = 1; }
"""
    y = np.zeros(4, np.int32)
    for held in ((y[:2], y[2:]), (y[2:], y[:2])):
        both = np.array(
            (y[2:].ctypes.data, y[2:].ctypes.data + 8), np.dtype([("begin", np.uint64), ("end", np.uint64)])
        )
        RawKernel(code, "k")((1,), (1,), (both[()],), held=held)
    assert y.tolist() == [0, 0, 1, 1]


def test_an_overload_of_ones_own_hides_nothing(each_compiler):
    code = """
struct Half { float value; };
__device__ Half max(Half a, Half b) { return a.value > b.value ? a : b; }
__device__ unsigned abs(unsigned x) { return x; }
extern "C" __global__ void k(float* y) { y[0] = max(max(Half{1}, Half{2}).value, float(abs(-7.0) + abs(3u))) + max(1, 2); }
"""
    y = np.zeros(1, np.float32)
    RawKernel(code, "k")((1,), (1,), (y,))
    assert y[0] == 12


def test_a_promise_that_is_not_kept(each_compiler):
    code = 'extern "C" __global__ void k(int* y) { __builtin_assume(threadIdx.x < 2); y[threadIdx.x] = 1; }'
    with pytest.raises(
        EmulatorError, match=r"undefined: __builtin_assume\(threadIdx.x < 2\), which is false \(thread 2"
    ):
        RawKernel(code, "k")((1,), (3,), (np.zeros(3, np.int32),))


GLOBAL = """
__device__ unsigned count;
__constant__ float weights[8];
namespace inner { static __device__ float total[2] = {0, 100}; }

extern "C" __global__ void sum(const float* x, float* parts, int n) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        float part = 0;
        for (int i = blockIdx.x; i < n; i += gridDim.x) part += x[i] * weights[i % 8];
        parts[blockIdx.x] = part;
        FENCE
        last = atomicAdd(&count, 1) == gridDim.x - 1;
        if (last) {
            __threadfence();
            for (int i = 0; i < gridDim.x; i++) inner::total[0] += parts[i];
            count = 0;
        }
    }
}

extern "C" __global__ void tell(float* y) { y[threadIdx.x] = inner::total[threadIdx.x]; }
"""


BESIDE = """
__device__ int counts[256], second[3];
__constant__ float weights[9];
__constant__ float others[9];
__device__ float sum(const float* a, int first, int n) { float s = 0; for (int i = first; i < n; i++) s += a[i]; return s; }
extern "C" __global__ void count(const int* x) { atomicAdd(&counts[x[threadIdx.x]], 1); }
extern "C" __global__ void read(float* y, int first, int n) { y[0] = sum(weights, first, n); }
extern "C" __global__ void other(float* y, int first, int n) { y[0] = sum(others, first, n); }
"""


def test_beside_a_variable_lies_no_other(each_compiler):
    """Through a pointer too, where the compiler knows of no array."""
    module, y = RawModule(BESIDE), np.zeros(1, np.float32)
    count = module.get_function("count")
    count((1,), (256,), (np.arange(256, dtype=np.int32),))
    with pytest.raises(EmulatorError, match=r"atomic operation of 4 bytes at byte 1024 of counts by thread 1 of"):
        count((1,), (2,), (np.int32([0, 256]),))
    for name, array in (("read", "weights"), ("other", "others")):
        kernel = module.get_function(name)
        kernel((1,), (1,), (y, 0, 9))
        for first, n, at in ((0, 10, 36), (-1, 9, -4), (50, 51, 200)):
            with pytest.raises(
                EmulatorError, match=rf"out of range: read of 4 bytes at byte {at} of {array} by thread 0"
            ):
                kernel((1,), (1,), (y, first, n))


def test_static_variables_of_functions(each_compiler):
    code = """
template <class T> __device__ T next() { static T last; return last += 2; }
extern "C" __global__ void k(int* y) { static int calls = 3; y[0] = ++calls; y[1] = next<int>() + next<int>(); }
"""
    module, y = RawModule(code), np.zeros(2, np.int32)
    for _ in range(2):
        module.get_function("k")((1,), (1,), (y,))
    assert y.tolist() == [5, 14]


def test_variables_of_the_whole_grid(each_compiler):
    module = RawModule(GLOBAL, options=("-DFENCE=__threadfence();",))
    module.get_global("weights").view(np.float32)[:] = 0.5
    x, parts, y = np.ones(100, np.float32), np.zeros(4, np.float32), np.zeros(2, np.float32)
    for _ in range(2):
        module.get_function("sum")((4,), (32,), (x, parts, 100))
    module.get_function("tell")((1,), (2,), (y,))
    assert y.tolist() == [100, 100]
    assert module.get_global("count").view(np.uint32)[0] == 0
    with pytest.raises(
        WrongSource, match=r"kernel\.cu has no variable 'total' outside of its functions, it has "
    ) as error:
        module.get_global("total")
    assert sorted(str(error.value).partition("it has ")[2].split(", ")) == ["count", "inner::total", "weights"]
    with pytest.raises(EmulatorError, match=r"kernel\.cu:\d+: race: read of 4 bytes at element \(\d,\) of parts"):
        RawModule(GLOBAL, options=("-DFENCE=",)).get_function("sum")((4,), (32,), (x, parts, 100))
    wrong = GLOBAL.replace("atomicAdd(&count, 1)", "count++")
    with pytest.raises(EmulatorError, match=r"race: (read|write) of 4 bytes at byte 0 of count by thread 0"):
        RawModule(wrong, options=("-DFENCE=__threadfence();",)).get_function("sum")((4,), (32,), (x, parts, 100))
    with pytest.raises(EmulatorError, match="undefined: index 2 of an array"):
        module.get_function("tell")((1,), (3,), (np.zeros(3, np.float32),))


COMPLEX = """
#include <cupy/complex.cuh>
#include <cupy/math_constants.h>
template <typename T>
__global__ void k(const complex<T>* x, complex<T>* y, T* sizes, complex<T> shift) {
    __shared__ complex<T> kept[8];
    const int i = threadIdx.x;
    kept[i] = x[i];
    __syncthreads();
    complex<T> z = kept[7 - i];
    z *= conj(x[i]) + T(1);
    z += x[i] / shift;
    y[i] = exp(z / T(50)) - sqrt(z) * shift;
    const T most = CUDART_INF;
    const complex<T> half(1, most), none(most - most, 1);
    const bool known = isinf(half) && !isfinite(half) && !isnan(half) && isnan(none) && !isfinite(none) && isfinite(y[i]);
    sizes[i] = known && abs(y[i]) < most && y[i] == y[i] && y[i] != T(0) ? norm(y[i]) : 0;
    static_assert(alignof(complex<T>) == 2 * sizeof(T), "loaded by one access");
}
"""


@pytest.mark.parametrize("name, dtype", [("float", np.complex64), ("double", np.complex128)])
def test_complex_numbers(name, dtype, each_compiler, rng):
    x = (rng.standard_normal(8) + 1j * rng.standard_normal(8)).astype(dtype)
    y, sizes, shift = np.zeros(8, dtype), np.zeros(8, dtype().real.dtype), dtype(1.5 - 2j)
    shift = complex(shift) if name == "double" else shift
    RawModule(COMPLEX, name_expressions=(f"k<{name}>",)).get_function(f"k<{name}>")((1,), (8,), (x, y, sizes, shift))
    wide = x.astype(complex)
    z = wide[::-1] * (wide.conj() + 1) + wide / complex(shift)
    want = np.exp(z / 50) - np.sqrt(z) * complex(shift)
    np.testing.assert_allclose(y, want, rtol=1e-5 if name == "float" else 1e-13)
    np.testing.assert_allclose(sizes, abs(want) ** 2, rtol=1e-5 if name == "float" else 1e-13)
    with pytest.raises(EmulatorError, match=rf"kernel\.cu:10: race: read of {x.itemsize} bytes at byte \d+ of kept"):
        code = COMPLEX.replace("__syncthreads();", "")
        RawModule(code, name_expressions=(f"k<{name}>",)).get_function(f"k<{name}>")((1,), (8,), (x, y, sizes, shift))


CUDAS_COMPLEX = """
#include <cuComplex.h>
extern "C" __global__ void k(const cuComplex* x, cuFloatComplex* y, float* sizes, const cuDoubleComplex* wide, cuDoubleComplex* z) {
    __shared__ cuComplex kept[8];
    const int i = threadIdx.x;
    kept[i] = x[i];
    __syncthreads();
    const cuComplex a = kept[7 - i], one = make_cuComplex(1, 0);
    y[i] = cuCdivf(cuCfmaf(cuCmulf(a, cuConjf(x[i])), a, cuCsubf(a, one)), cuCaddf(x[i], make_cuFloatComplex(1, 2)));
    sizes[i] = cuCabsf(a) + 2 * cuCrealf(a) - cuCimagf(a);
    z[i] = cuCdiv(cuCfma(wide[i], cuComplexFloatToDouble(a), cuConj(wide[i])), make_cuDoubleComplex(cuCabs(wide[i]), 1));
    z[i] = cuCsub(cuCmul(z[i], z[i]), cuCadd(wide[i], make_cuDoubleComplex(cuCreal(z[i]), cuCimag(z[i]))));
}
"""


def test_cudas_complex_numbers(each_compiler, rng):
    x = rng.normal(size=(8, 2)).astype(np.float32).view(np.complex64).reshape(8)
    wide, z = x.astype(complex), np.zeros(8, complex)
    y, sizes = np.zeros(8, np.complex64), np.zeros(8, np.float32)
    RawKernel(CUDAS_COMPLEX, "k")((1,), (8,), (x, y, sizes, wide, z))
    a = wide[::-1]
    np.testing.assert_allclose(y, (a * wide.conj() * a + a - 1) / (wide + 1 + 2j), rtol=1e-5)
    np.testing.assert_allclose(sizes, abs(a) + 2 * a.real - a.imag, atol=1e-5)
    want = (wide * a + wide.conj()) / (abs(wide) + 1j)
    np.testing.assert_allclose(z, want * want - wide - want, rtol=1e-12)


def test_words_that_nvcc_knows_without_a_header(each_compiler):
    """Those of CUDA's own structures, of a lambda for the device, and of a launch that begins before the last has ended."""
    code = """
typedef struct __device_builtin__ __builtin_align__(16) { float x, y, z, w; } Four;
template <class F> __device__ void each(Four* y, F f) { f(y[threadIdx.x]); }
extern "C" __global__ void k(Four* y, float a) {
    cudaGridDependencySynchronize();
    each(y, [=] __device__ (Four& v) { v = Four{v.x + a, v.y, v.z, float(alignof(Four))}; });
    cudaTriggerProgrammaticLaunchCompletion();
}
"""
    y = np.zeros((8, 4), np.float32)
    RawKernel(code, "k")((1,), (8,), (y, np.float32(3)))
    np.testing.assert_array_equal(y, [[3, 0, 0, 16]] * 8)


def test_words_of_nvccs_that_are_said_twice(each_compiler):
    code = """
#include <type_traits>
namespace space {
constexpr int MOST = 32;
__inline__ __device__ float twice(float x) { return 2 * x; }
__device__ inline float more(float x) { return x + std::is_same<float, float>::value; }
#define TIMES(a, b) ((a) * (b))
template <class T, int N>
static __global__ void __launch_bounds__(TIMES(MOST, N)) k(float* y) {
    static __shared__ float s[MOST];
    s[threadIdx.x] = twice(y[threadIdx.x]);
#if __CUDA_ARCH__ >= 530 && __CUDACC_VER_MAJOR__ >= 11
    y[threadIdx.x] = more(s[threadIdx.x]);
#endif
}
}
"""
    name = "space::k<std::is_same<int, int>, 2>"
    kernel = RawModule(code, name_expressions=(name,)).get_function(name)
    y = np.ones(32, np.float32)
    kernel((1,), (32,), (y,))
    assert (y == 3).all()
    with pytest.raises(ValueError, match="launch bounds are 64 threads"):
        kernel((1,), (65,), (y,))


def test_one_fence_orders_unless_strict(each_compiler):
    code = GLOBAL.replace("            __threadfence();\n", "")
    arrays = np.ones(100, np.float32), np.zeros(4, np.float32)
    for strict in (False, True):
        module = RawModule(code, options=("-DFENCE=__threadfence();",), strict=strict)
        if not strict:
            module.get_function("sum")((4,), (32,), (*arrays, 100))
            continue
        with pytest.raises(EmulatorError, match=r"race: read of 4 bytes at element \(\d,\) of parts"):
            module.get_function("sum")((4,), (32,), (*arrays, 100))


def test_fences_of_inline_ptx_are_fences(each_compiler):
    code = GLOBAL.replace("__threadfence();", 'asm volatile("fence.acq_rel.gpu;" ::: "memory");')
    arrays = np.ones(100, np.float32), np.zeros(4, np.float32)
    fence = 'asm volatile("membar.gl;" ::: "memory");'
    RawModule(code.replace("FENCE", fence), strict=True).get_function("sum")((4,), (32,), (*arrays, 100))
    with pytest.raises(EmulatorError, match="race: read"):
        RawModule(code.replace("FENCE", ""), strict=True).get_function("sum")((4,), (32,), (*arrays, 100))


def test_fences_whose_names_macros_put_together_are_fences(each_compiler):
    code = "#define JOIN(a, b) a##b\n" + GLOBAL.replace("__threadfence", "JOIN(__thread, fence)")
    arrays = np.ones(100, np.float32), np.zeros(4, np.float32)
    code = code.replace("FENCE", "JOIN(__thread, fence)();")
    RawModule(code, strict=True).get_function("sum")((4,), (32,), (*arrays, 100))


@pytest.mark.parametrize("name", ["step", "index", "select", "read", "time", "y0", "remove"])
def test_a_kernel_called_as_a_function_of_the_c_library(name, each_compiler):
    y = np.zeros(8, np.float32)
    code = (
        f'extern "C" __global__ void {name}(float* y, int n) {{ if (threadIdx.x < n) y[threadIdx.x] = threadIdx.x; }}'
    )
    RawKernel(code, name)((1,), (32,), (y, 8))
    np.testing.assert_array_equal(y, np.arange(8))


def test_a_variable_in_an_extern_c_block(each_compiler):
    code = (
        'extern "C" { __device__ float table[4]; __global__ void k(float* y) { y[threadIdx.x] = table[threadIdx.x]; } }'
    )
    module, y = RawModule(code), np.zeros(4, np.float32)
    module.get_global("table").view(np.float32)[:] = range(4)
    module.get_function("k")((1,), (4,), (y,))
    np.testing.assert_array_equal(y, np.arange(4))


@pytest.mark.parametrize(
    "mode, lane, width, call",
    [
        ("bfly", 5, 32, "__shfl_xor_sync"),
        ("down", 3, 32, "__shfl_down_sync"),
        ("up", 3, 32, "__shfl_up_sync"),
        ("idx", 7, 32, "__shfl_sync"),
        ("bfly", 9, 8, "__shfl_xor_sync"),
        ("down", 3, 8, "__shfl_down_sync"),
        ("up", 3, 8, "__shfl_up_sync"),
        ("idx", 7, 4, "__shfl_sync"),
    ],
)
def test_shuffles_of_inline_ptx(mode, lane, width, call, each_compiler):
    packed = (32 - width) << 8 | (0 if mode == "up" else 31)
    code = f"""
    extern "C" __global__ void k(float* y) {{
        float v = 10 * threadIdx.x, w;
        asm volatile("shfl.sync.{mode}.b32 %0, %1, %2, {packed}, %3;" : "=f"(w) : "f"(v), "r"({lane}), "r"(0xffffffff));
        y[threadIdx.x] = w;
        y[32 + threadIdx.x] = {call}(0xffffffff, v, {lane}, {width});
    }}"""
    y = np.zeros((2, 32), np.float32)
    RawKernel(code, "k")((1,), (32,), (y,))
    np.testing.assert_array_equal(y[0], y[1])


def test_cudas_constants(each_compiler):
    code = '#include <math_constants.h>\nextern "C" __global__ void k(float* y) { y[0] = -CUDART_INF_F; y[1] = CUDART_PI_F; }'
    y = np.zeros(2, np.float32)
    RawKernel(code, "k")((1,), (1,), (y,))
    np.testing.assert_array_equal(y, np.float32([-np.inf, np.pi]))


@pytest.mark.parametrize(
    "order, wrong", [("acq_rel.gpu.", ""), ("", "race: "), ("acquire.gpu.", "race: "), ("release.gpu.", "race: ")]
)
def test_atomics_of_inline_ptx_that_order(order, wrong, each_compiler):
    add = f'unsigned old; asm volatile("atom.{order}global.add.u32 %0, [%1], 1;" : "=r"(old) : "l"(&count)); last = old'
    code = GLOBAL.replace("FENCE", "").replace("__threadfence();", "").replace("last = atomicAdd(&count, 1)", add)
    arrays = np.ones(100, np.float32), np.zeros(4, np.float32), 100
    kernel = RawModule(code, strict=True).get_function("sum")
    if not wrong:
        kernel((4,), (32,), arrays)
        return
    with pytest.raises(EmulatorError, match=wrong):
        kernel((4,), (32,), arrays)


@pytest.mark.parametrize("scope, wrong", [("", False), (".relaxed.gpu", False), (".relaxed.cta", True)])
def test_an_atomic_of_inline_ptx_for_its_block_alone(scope, wrong, each_compiler):
    add = f'asm volatile("red{scope}.global.add.u32 [%0], 1;" :: "l"(y));'
    cas = f'asm volatile("atom{scope}.global.cas.b32 %0, [%1], 0, 1;" : "=r"(old) : "l"(y));'
    for change in (add, cas):
        code = f'extern "C" __global__ void k(unsigned* y) {{ unsigned old; {change} }}'
        y = np.zeros(1, np.uint32)
        if wrong:
            with pytest.raises(EmulatorError, match=r"race: atomic operation .* of another block"):
                RawKernel(code, "k")((2,), (8,), (y,))
        else:
            RawKernel(code, "k")((2,), (8,), (y,))
            assert y == (16 if change == add else 1)


@pytest.mark.parametrize("divide", ["t / (C / GROUPS)", "t % (C / GROUPS)"])
def test_a_division_by_0_that_the_compiler_can_prove(divide, each_compiler):
    code = f'extern "C" __global__ void k(int* y) {{ const int t = threadIdx.x; y[t] = {divide}; }}'
    kernel = RawKernel(code, "k", ("-DC=16", "-DGROUPS=32"))
    with pytest.raises(EmulatorError, match=r"^kernel\.cu:1: fault: a division of whole numbers by 0"):
        kernel((1,), (32,), (np.zeros(32, np.int32),))


def test_what_the_compiler_makes_a_stop_of_does_not_stop_python(each_compiler):
    code = 'extern "C" __global__ void k(int* y) { y[0] = 1; __builtin_trap(); }'
    with pytest.raises(
        EmulatorError, match=r"^(kernel\.cu:1|\?): fault: undefined behaviour that the compiler turned into a trap"
    ):
        RawKernel(code, "k")((1,), (1,), (np.zeros(1, np.int32),))


def test_a_function_that_returns_nothing(each_compiler):
    code = """__device__ float act(float v, int kind) {
    if (kind == 0) return v;
    if (kind == 1) return v * v;
}
extern "C" __global__ void k(float* y, int kind) { y[threadIdx.x] = act(y[threadIdx.x], kind); }"""
    y = np.full(4, 3, np.float32)
    RawKernel(code, "k")((1,), (4,), (y, 1))
    assert (y == 9).all()
    with pytest.raises(EmulatorError, match=r"undefined: the end of a function that should have returned something"):
        RawKernel(code, "k")((1,), (4,), (y, 2))


def test_classes_with_virtual_functions(each_compiler):
    code = """struct Shape { __device__ virtual int sides() const { return 0; } };
struct Square : Shape { __device__ int sides() const override { return 4; } };
__device__ int sides_of(const Shape& s) { return s.sides(); }
extern "C" __global__ void k(int* y) { Square s; Shape n; y[threadIdx.x] = sides_of(s) + sides_of(n); }"""
    y = np.zeros(4, np.int32)
    RawKernel(code, "k")((1,), (4,), (y,))
    assert (y == 4).all()


def test_new_where_memory_is_and_where_none_is(each_compiler):
    code = """struct P { int x; __device__ P(int x) : x(x) {} };
extern "C" __global__ void k(int* y, int n) {
    alignas(8) char room[sizeof(P)];
    y[0] = (new (room) P(7))->x;
    __shared__ int* p;
    if (n) { p = WHERE; p[0] = n; y[1] = p[0]; }
}"""
    y = np.zeros(2, np.int32)
    for where in ("new int[4]", "(int*)malloc(16)"):
        kernel = RawKernel(code.replace("WHERE", where), "k")
        kernel((1,), (1,), (y, 0))
        assert y[0] == 7
        with pytest.raises(EmulatorError, match=r"kernel\.cu:6: bad operand: memory that a kernel asks for itself"):
            kernel((1,), (1,), (y, 1))


def test_memory_that_nobody_uses_is_asked_for_all_the_same(monkeypatch):
    """clang++ takes it away."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    monkeypatch.setenv("CXX", "g++")
    code = 'extern "C" __global__ void k(int* y) {\n int* p = new int[4]; p[y[0]] = 1; y[0] = 2; delete[] p; }'
    with pytest.raises(EmulatorError, match=r"kernel\.cu:2: bad operand: memory that a kernel asks for itself"):
        RawKernel(code, "k")((1,), (1,), (np.zeros(1, np.int32),))


BY_MACROS = """#define KERNEL(name, type, sign) \\
    extern "C" __global__ void name##_##type(type* y, int n) { if (threadIdx.x < n) y[threadIdx.x] = sign 2; }
KERNEL(fill, float, -)
#ifdef FAST
extern "C" __global__ void fast(int* y) { y[0] = 1; }
#elif __CUDA_ARCH__ >= 800
extern "C" __global__ void slow(int* y) { y[0] = 2; }
#else
extern "C" __global__ void old(int* y) { y[0] = 3; }
#endif
#if 0
extern "C" __global__ void never(int* y) { y[0] = 3; }
#endif
"""


def test_kernels_that_macros_and_conditions_make(each_compiler):
    y = np.zeros(4, np.int32)
    assert RawModule(BY_MACROS, options=("-DFAST",)).names == ("fill_float", "fast")
    RawKernel(BY_MACROS, "slow")((1,), (1,), (y,))
    assert y[0] == 2
    x = np.zeros(4, np.float32)
    RawKernel(BY_MACROS, "fill_float")((1,), (4,), (x, 3))
    assert x.tolist() == [-2, -2, -2, 0]
    with pytest.raises(BadArguments, match=r"kernel fill_float takes 2 arguments \(y, n\), got 1"):
        RawKernel(BY_MACROS, "fill_float")((1,), (4,), (x,))
    for name in ("fast", "old", "never"):
        with pytest.raises(WrongSource, match=f"no kernel '{name}', it has fill_float, slow$"):
            RawKernel(BY_MACROS, name)


def test_pointers_in_arrays(each_compiler):
    code = """extern "C" __global__ void k(const float* const* rows, float** to, int n) {
    const int i = threadIdx.x;
    to[blockIdx.x][i] = 2 * rows[blockIdx.x][i];
    if (i == 0 && blockIdx.x == 0) to[2] = to[0];
}"""
    a, b, c, d = (np.full(8, i, np.float32) for i in range(4))
    rows = np.array([x.ctypes.data for x in (a, b)], np.uint64)
    to = np.array([x.ctypes.data for x in (c, d, d)], np.uint64)
    RawKernel(code, "k")((2,), (8,), (rows, to, 8), held=(a, b, c, d))
    assert (c == 0).all() and (d == 2).all()
    assert to.tolist() == [c.ctypes.data, d.ctypes.data, c.ctypes.data]
    with pytest.raises(EmulatorError, match=r"out of range: write of 4 bytes at element \(8,\) of held\[2\]"):
        RawKernel(code.replace("[i] = 2", "[i + (i == 7)] = 2"), "k")((1,), (8,), (rows, to, 8), held=(a, b, c, d))


@pytest.mark.parametrize(
    "body",
    [
        "const int old = atomicAdd(y, 0); atomicCAS(y, old, old + 1);",
        "atomicExch(y, atomicOr(y, 0) + 1);",
        "if (atomicAdd(y, 0) < 10) atomicAdd(y, 1);",
    ],
)
def test_several_atomic_operations_are_not_one(body, each_compiler):
    y = np.zeros(1, np.int32)
    RawKernel(f'extern "C" __global__ void k(int* y) {{ {body} }}', "k", seeds=1)((1,), (64,), (y,))
    assert y[0] != (10 if "if" in body else 64)


def test_two_locks_that_are_taken_in_two_orders(each_compiler):
    code = """extern "C" __global__ void k(int* lock, int* y) {
    const int a = threadIdx.x & 1, b = a ^ 1;
    while (atomicCAS(lock + a, 0, 1)) {}
    while (atomicCAS(lock + b, 0, 1)) {}
    atomicAdd(y, 1);
    atomicExch(lock + b, 0);
    atomicExch(lock + a, 0);
}"""
    arrays = np.zeros(2, np.int32), np.zeros(1, np.int32)
    RawKernel(code.replace("threadIdx.x & 1", "0"), "k")((1,), (8,), arrays)
    assert arrays[1][0] == 8
    with pytest.raises(EmulatorError, match="endless: waits for a flag that no thread sets"):
        RawKernel(code, "k", seeds=10)((1,), (8,), arrays)


def test_time_goes_on(each_compiler):
    code = """extern "C" __global__ void k(long long* y) {
    const long long begin = clock64();
    while (clock64() - begin < 1000) __nanosleep(20);
    y[0] = clock64() - begin;
}"""
    y = np.zeros(1, np.int64)
    RawKernel(code, "k")((1,), (1,), (y,))
    assert y[0] >= 1000


def test_vectors_taken_apart_by_names(each_compiler):
    code = """
    #include <tuple>
    extern "C" __global__ void k(const int2* x, int* y) {
        __shared__ float4 kept;
        kept = make_float4(1, 2, 3, 4);
        auto [a, b] = x[0];
        const auto& [c, d] = x[1];
        auto& [p, q, r, s] = kept;
        s += 10 * a + 100 * b;
        y[0] = c + d + int(kept.w) + int(p + q + r);
    }
    """
    x, y = np.array([[1, 2], [30, 40]], np.int32), np.zeros(1, np.int32)
    RawKernel(code, "k")((1,), (1,), (x, y))
    assert y[0] == 70 + 214 + 6
    with pytest.raises(EmulatorError, match=r"out of range: read of 8 bytes at element \(1, 0\) of x \(1, 2\)"):
        RawKernel(code.replace("const auto& [c, d]", "auto [c, d]"), "k")((1,), (1,), (x[:1], y))


def test_a_finding_in_a_function_names_the_lines_that_call_it(each_compiler):
    code = """struct Slot { int* at; __device__ void set(int value) { *at = value; } };
    __device__ __forceinline__ void put(int* to, int value) {
        Slot{to}.set(value);
    }
    extern "C" __global__ void k(int* y) {
        put(y + 1 + threadIdx.x, 1);
        put(y, threadIdx.x);
    }"""
    with pytest.raises(
        EmulatorError,
        match=r"kernel\.cu:1: race: .* nothing orders the two.*; kernel\.cu:1 is called at kernel\.cu:3, at kernel\.cu:7$",
    ):
        RawKernel(code, "k")((1,), (32,), (np.zeros(33, np.int32),))


PIPELINE = """#include <cuda_pipeline.h>
extern "C" __global__ void k(const int4* x, int4* y, int n) {
    __shared__ int4 stage[2][32];
    for (int i = 0; i <= n; i++) {
        if (i < n) __pipeline_memcpy_async(&stage[i % 2][threadIdx.x], x + 32 * i + threadIdx.x, sizeof(int4), 4);
        __pipeline_commit();
        if (i == 0) continue;
        __pipeline_wait_prior(1);
        y[32 * (i - 1) + threadIdx.x] = stage[(i - 1) % 2][threadIdx.x];
    }
}
"""


def test_copies_of_cuda_pipeline(each_compiler, tmp_path):
    x, y = np.arange(3 * 32 * 4, dtype=np.int32).reshape(96, 4), np.ones((96, 4), np.int32)
    RawKernel(PIPELINE, "k")((1,), (32,), (x.view("V16"), y.view("V16"), np.int32(3)))
    np.testing.assert_array_equal(y[:, :3], x[:, :3])
    assert not y[:, 3].any()  # of each copy, so many bytes at the end are zeros
    with pytest.raises(EmulatorError, match=r"kernel\.cu:9: missing wait: read of 16 bytes at byte \d+ of stage"):
        RawKernel(PIPELINE.replace("prior(1)", "prior(2)"), "k")(
            (1,), (32,), (x.view("V16"), y.view("V16"), np.int32(3))
        )


@needs_nvrtc
def test_a_gpu_takes_cuda_pipeline():
    RawKernel(PIPELINE, "k").resources()
