"""The stand-ins of CuPy's RawKernel and RawModule, and kernels that were not written for the emulator."""

import numpy as np
import pytest
from rungs import needs_compiler

from kernels.emulator import BadArguments, DoesNotCompile, Emulator, EmulatorError
from kernels.emulator.raw import RawKernel, RawModule
from kernels.source import WrongSource

pytestmark = needs_compiler

AXPY = """
extern "C" __global__ void axpy(float a, const float* x, float* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
"""


TWO = np.float32(2)


def axpy(a=TWO, x=None, y=None, n=100, code=AXPY, grid=(4,), block=(32,), **more):
    x = np.arange(100, dtype=np.float32) if x is None else x
    y = np.ones(100, np.float32) if y is None else y
    RawKernel(code, "axpy")(grid, block, (a, x, y, n), **more)
    return y


def test_arrays_change_in_place_once_whatever_the_number_of_schedules():
    np.testing.assert_array_equal(axpy(), 2 * np.arange(100) + 1)
    np.testing.assert_array_equal(axpy(n=np.int64(10))[9:11], [19, 1])


def test_a_mistake_is_raised_with_its_line_in_the_text():
    with pytest.raises(
        EmulatorError, match=r"kernel\.cu:4: out of range: read of 4 bytes at element \(100,\) of [xy] \(100,\)"
    ):
        axpy(n=101)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"a": 2.0}, r"a must be float32, got float64, of which it would take the first 4 bytes \(pass numpy.float32"),
        ({"a": 2}, "a must be float32, got int64"),
        ({"a": np.float16(2)}, "a must be float32, got float16"),
        ({"a": np.zeros(2, np.float32)}, "a must be float32, got an array"),
        ({"a": "2"}, "a must be float32, got str"),
        ({"n": np.int16(2)}, "n must be int32, got int16, of which it would take the first 4 bytes"),
        ({"n": 2.0}, "n must be int32, got float64"),
        ({"n": 2**31}, "n must be int32, got 2147483648, which does not fit"),
        ({"n": 2**70}, "n must be int32, got 1180591620717411303424, which does not fit"),
        ({"n": -(2**63) - 1}, "n must be int32, got -9223372036854775809, which does not fit"),
        ({"x": np.zeros(100)}, "x must be an array of float32, got one of float64"),
        ({"x": np.zeros(100, np.int32)}, "x must be an array of float32, got one of int32"),
        ({"x": np.zeros(200, np.float32)[::2]}, r"x must be contiguous: .* got strides \(8,\)"),
        ({"x": 3.0}, "x must be an array, got float"),
        ({"x": 3}, "x must be an array, got int"),
    ],
    ids=str,
)
def test_what_a_kernel_would_take_for_something_else_is_one_sentence(wrong, said):
    with pytest.raises(BadArguments, match=f"kernel axpy: {said}"):
        axpy(**wrong)


def test_a_launch_is_one_for_each_schedule(monkeypatch):
    seen = []
    monkeypatch.setattr(Emulator, "launch", lambda self, *_: seen.append(self.seed))
    RawKernel(AXPY, "axpy", seeds=4)((1,), (1,), (TWO, None, None, 1))
    assert seen == [0, 1, 2, 3]


def test_what_no_gpu_would_launch_is_refused():
    with pytest.raises(ValueError, match="a block has 1 to 1024 threads"):
        axpy(block=(2048,))
    with pytest.raises(ValueError, match="shared_mem of 50000 is more than its max_dynamic_shared_size_bytes, 49152"):
        axpy(shared_mem=50000)
    for n in (1, 5):
        with pytest.raises(BadArguments, match=rf"kernel axpy takes 4 arguments \(a, x, y, n\), got {n}"):
            RawKernel(AXPY, "axpy")((1,), (1,), (1,) * n)
    with pytest.raises(WrongSource, match=r"kernel\.cu has no kernel 'axpi', it has axpy"):
        RawKernel(AXPY, "axpi")
    with pytest.raises(WrongSource, match='has no kernel that is extern "C", and no name_expressions say'):
        RawKernel(AXPY.replace('extern "C"', ""), "axpy")
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        RawModule(AXPY, seeds=0)
    with pytest.raises(DoesNotCompile):
        axpy(code=AXPY.replace("y[i] +=", "z[i] +="))


def test_what_parameters_are_called():
    before = '// __global__ void k(int wrong) {}\n#define TWO int a, int b\nextern "C" __global__ void k'
    for said, names in (("(int y[4], const int n = 4)", "y, n"), ("(TWO)", "0, 1"), ("(void)", "")):
        with pytest.raises(BadArguments, match=rf"takes \d arguments \({names}\), got 3"):
            RawKernel(before + said + " {}", "k")((1,), (1,), (1, 2, 3))


def test_more_shared_memory_has_to_be_asked_for():
    code = 'extern "C" __global__ void fill(float* y) { extern __shared__ float s[]; s[12499] = 3; y[0] = s[12499]; }'
    fill, y = RawKernel(code, "fill"), np.zeros(1, np.float32)
    fill.max_dynamic_shared_size_bytes = 50000
    fill((1,), (1,), (y,), shared_mem=50000)
    assert y[0] == 3
    with pytest.raises(EmulatorError, match="out of range: write of 4 bytes at byte 49996 of dynamic shared memory"):
        fill((1,), (1,), (y,), shared_mem=49996)


def test_options_that_define_and_a_file(tmp_path):
    (tmp_path / "mine.cu").write_text('extern "C" __global__ void k(int* y) { y[threadIdx.x] = N + FLAG; }')
    y = np.zeros(2, np.int32)
    module = RawModule(tmp_path / "mine.cu", options=("-DN=4", "--define-macro=FLAG", "--std=c++17"), backend="nvrtc")
    module.get_function("k")((1,), (2,), (y,))
    assert y.tolist() == [5, 5]
    with pytest.raises(EmulatorError, match=r"mine\.cu:1: out of range: write"):
        module.get_function("k")((1,), (3,), (y,))


def test_one_array_for_two_parameters_is_one_memory():
    code = AXPY.replace("y[i] +=", "y[n - 1 - i] =").replace("if (i < n)", "if (i < n / 2)")
    y = np.arange(100, dtype=np.float32)
    RawKernel(code, "axpy")((2,), (32,), (np.float32(2), y, y, 100))
    np.testing.assert_array_equal(y, [*range(50), *range(98, -1, -2)])
    with pytest.raises(EmulatorError, match="race: "):
        RawKernel(code.replace("n / 2", "n"), "axpy")((4,), (32,), (np.float32(2), y, y, 100))
    with pytest.raises(ValueError, match="x and y overlap, which is not emulated"):
        axpy(x=y[:60], y=y[30:90], n=60)


def test_parts_of_one_array_may_overlap_if_they_are_only_read():
    code = 'extern "C" __global__ void k(const float* a, float* y, const float* b) { y[0] += a[5] + b[5]; }'
    x, y, kernel = np.arange(10, dtype=np.float32), np.ones(6, np.float32), RawKernel(code, "k")
    kernel((1,), (1,), (x[:6], y, x[4:]))
    assert y[0] == 15
    for a, b, said in ((x[:6], y, "a and y"), (y, x[:6], "y and b")):
        with pytest.raises(ValueError, match=f"{said} overlap, which is not emulated"):
            kernel((1,), (1,), (a, x[4:], b))


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
    with pytest.raises(ValueError, match=f"launch bounds are {n} threads a block, got {n + 1}"):
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


@pytest.mark.parametrize(
    "type_, value",
    [
        ("signed char", -5), ("unsigned short", 65535), ("bool", True), ("long long", -(2**40)), ("unsigned long", 2**63),
        ("signed char", -128), ("signed char", True), ("int", np.uint32(5)), ("int", np.array(5, np.int32)),
    ],
)  # fmt: skip
def test_whole_numbers_of_every_width(type_, value):
    y = np.zeros(1, np.float64)
    RawKernel(f'extern "C" __global__ void k({type_} a, double* y) {{ y[0] = a; }}', "k")((1,), (1,), (value, y))
    assert y[0] == value


@pytest.mark.parametrize(
    "type_, value",
    [("bool", 2), ("unsigned char", 256), ("unsigned char", -1), ("signed char", -129), ("signed char", 128)],
)
def test_whole_numbers_that_do_not_fit(type_, value):
    with pytest.raises(BadArguments, match=rf"a must be \w+, got {value}, which does not fit"):
        RawKernel(f'extern "C" __global__ void k({type_} a) {{}}', "k")((1,), (1,), (value,))


@pytest.mark.parametrize(
    "type_, dtype, takes",
    [
        ("unsigned char", np.float32, True), ("int", np.uint32, True), ("unsigned", np.int32, True),
        ("unsigned", np.float32, False), ("short", np.float16, False), ("short", np.int32, False),
    ],
)  # fmt: skip
def test_which_arrays_a_pointer_takes(type_, dtype, takes):
    kernel = RawKernel(f'extern "C" __global__ void k({type_}* y) {{ y[1] = 1; }}', "k")
    if takes:
        kernel((1,), (1,), (np.zeros(2, dtype),))
        return
    with pytest.raises(BadArguments, match=f"y must be an array of .*, got one of {np.dtype(dtype)}"):
        kernel((1,), (1,), (np.zeros(2, dtype),))


def test_a_null_pointer_and_any_pointer():
    code = 'extern "C" __global__ void k(const int* x, void* y, int** z) { *(int*)y = x ? 1 : 2; }'
    for x, want in ((None, 2), (0, 2), (np.intp(0), 2), (np.zeros(1, np.int32), 1)):
        y = np.zeros(1, np.int32)
        RawKernel(code, "k")((1,), (1,), (x, y, np.zeros(1, np.uint64)))
        assert y[0] == want


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
    with pytest.raises(BadArguments, match="p must be a structure of 32 bytes, got one of 16, of which it would take"):
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
        EmulatorError, match=r"undefined: __builtin_assume\(threadIdx.x < 2\), which is not so \(thread 2"
    ):
        RawKernel(code, "k")((1,), (3,), (np.zeros(3, np.int32),))


SAME = """
extern "C" __global__ void k(const int* x, int* y, float4* wide) {
    __shared__ int all[2];
    all[threadIdx.x / 32] = x[threadIdx.x];
    __syncthreads();
    y[0] = all[0];
    wide[0] = make_float4(1, 2, 3, all[1]);
}
"""


def test_the_same_written_twice_is_a_race_if_asked_for(each_compiler):
    same, other = np.full(64, 7, np.int32), np.full(64, 7, np.int32)
    other[40] = 8
    for x, more, lines in ((same, {}, set()), (other, {}, {4}), (same, {"strict": True}, {4, 6, 7})):
        kernel = RawKernel(SAME, "k", **more)
        arrays = x, np.zeros(1, np.int32), np.zeros(4, np.float32)
        if not lines:
            kernel((2,), (64,), arrays)
            assert arrays[1] == 7 and arrays[2].tolist() == [1, 2, 3, 7]
            continue
        with pytest.raises(EmulatorError) as error:
            kernel((2,), (64,), arrays)
        found = {int(line.split(":")[1]) for line in str(error.value).splitlines()}
        assert lines == found if more else lines <= found


@pytest.mark.parametrize("first, second", [("y[0] = 1;", "z[0] = y[0];"), ("atomicExch(y, 1);", "y[0] = 1;")])
def test_the_same_written_beside_something_else_is_a_race(first, second, each_compiler):
    for a, b in ((first, second), (second, first)):
        code = (
            f'extern "C" __global__ void k(int* y, int* z) {{ if (blockIdx.x + threadIdx.x) {{ {a} }} else {{ {b} }} }}'
        )
        for sizes in (((2,), (1,)), ((1,), (2,))):
            with pytest.raises(EmulatorError, match="race: "):
                RawKernel(code, "k", seeds=1)(*sizes, (np.ones(1, np.int32), np.zeros(1, np.int32)))


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
    sizes[i] = abs(y[i]) < CUDART_INF && y[i] == y[i] && y[i] != T(0) ? norm(y[i]) : 0;
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


def test_an_array_that_may_not_be_written_and_one_of_another_order_of_bytes():
    x = np.ones(100, np.float32)
    x.flags.writeable = False
    np.testing.assert_array_equal(axpy(x=x), np.full(100, 3))
    with pytest.raises(BadArguments, match="y must not be read-only, as the kernel's pointer is not const"):
        axpy(y=x)
    with pytest.raises(BadArguments, match="x must be in this machine's order of bytes, got >f4"):
        axpy(x=x.astype(">f4"))


@pytest.mark.parametrize(
    "type_, dtype", [("__half", "float32"), ("__nv_bfloat16", "float32"), ("float2", "complex128"), ("bool", "int32")]
)
def test_an_array_of_wider_elements_than_the_structures(type_, dtype):
    code = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"
    kernel = RawKernel(f'{code}extern "C" __global__ void k(const {type_}* x) {{}}', "k")
    kernel((1,), (1,), (np.zeros(8, np.uint8),))
    with pytest.raises(BadArguments, match=f"kernel k: x must be an array of .*, got one of {dtype}"):
        kernel((1,), (1,), (np.zeros(8, dtype),))


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: RawModule(AXPY, options="-DN=4"), "must be tuples of strings"),
        (lambda: RawModule(AXPY, name_expressions="axpy"), "must be tuples of strings"),
        (lambda: RawModule(AXPY, options=("-D", "N=4")), "option '-D' defines no macro"),
        (lambda: RawModule(AXPY.encode()), "code must be a text or the Path of one, got bytes"),
        (lambda: RawModule(AXPY, name_expressions=("space::axpi<float>",)), "no kernel of the name expression"),
        (lambda: RawKernel(AXPY, "axpy", option=("-DN=4",)), "unexpected keyword argument 'option'"),
        (lambda: axpy(sharedmem=4), "unexpected keyword argument 'sharedmem'"),
        (lambda: axpy(grid=4), "grid must be a tuple of whole numbers, got 4"),
        (lambda: axpy(grid=(100 / 25,)), r"grid must be a tuple of whole numbers, got \(4.0,\)"),
        (lambda: RawKernel(AXPY, "axpy")((1,), (1,), np.zeros(4)), "args must be a tuple, .* got ndarray"),
    ],
)
def test_what_cupy_does_not_take_is_one_sentence(wrong, said):
    with pytest.raises((TypeError, ValueError), match=said):
        wrong()


def test_what_cupy_takes_besides():
    kernel = RawKernel(AXPY, "axpy", (), "nvcc", translate_cucomplex=True, enable_cooperative_groups=True, jitify=False)
    kernel.compile()
    y = np.ones(1, np.float32)
    kernel((0,), (1,), (TWO, np.ones(1, np.float32), y, 1), stream=None)
    assert y[0] == 3  # CuPy makes one block of none


def test_dynamic_shared_memory_that_the_launch_does_not_give():
    code = 'extern "C" __global__ void k(int* y) { extern __shared__ int s[]; s[threadIdx.x] = 1; *y = s[0]; }'
    with pytest.raises(
        EmulatorError,
        match="out of range: write of 4 bytes at byte 0 of dynamic shared memory, of which the launch has none",
    ):
        RawKernel(code, "k")((1,), (1,), (np.zeros(1, np.int32),))


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


GREATEST = """
__device__ void greatest(double* place, double value) {
    unsigned long long* bits = (unsigned long long*)place;
    unsigned long long old = *bits, assumed;
    do {
        assumed = old;
        old = atomicCAS(bits, assumed, __double_as_longlong(fmax(value, __longlong_as_double(assumed))));
    } while (assumed != old);
}
extern "C" __global__ void k(const double* x, double* y) { greatest(y, x[blockIdx.x * blockDim.x + threadIdx.x]); }
"""


def test_a_guess_that_atomic_cas_finds_out_about(each_compiler, rng):
    x, y = rng.random(192), np.zeros(1)
    RawKernel(GREATEST, "k")((3,), (64,), (x, y))
    assert y[0] == x.max()
    for code, more in (
        (GREATEST, {"strict": True}),
        (GREATEST.replace("atomicCAS(bits, assumed,", "atomicMax(bits,"), {}),
    ):
        with pytest.raises(EmulatorError, match=r"kernel\.cu:4: race: read of 8 bytes at element \(0,\) of y"):
            RawKernel(code.replace("while (assumed != old)", "while (0)"), "k", **more)((3,), (64,), (x, y))


def test_a_sum_that_begins_with_nothing_is_not_right_by_chance(each_compiler):
    code = """extern "C" __global__ void k(const float* x, float* y, int n) {
        float sums[4];
        for (int i = 0; i < n; i++) sums[i % 4] += x[i];
        for (int i = 0; i < 4; i++) y[i] = sums[i];
    }"""
    y = np.zeros(4, np.float32)
    RawKernel(code, "k")((1,), (1,), (np.ones(8, np.float32), y, 8))
    assert not (np.abs(y) < 1e30).any()


def test_a_header_that_is_not_there_is_one_sentence(each_compiler):
    for name in ("curand_kernel.h", "cuComplex.h"):
        with pytest.raises(DoesNotCompile, match=f"^the kernel includes {name}, which the emulator does not have$"):
            axpy(code=f"#include <{name}>\n{AXPY}")


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


@pytest.mark.parametrize("wait", ["__syncthreads", "__syncwarp"])
def test_what_a_thread_wrote_that_has_returned_is_before_a_barrier(wait):
    code = f"""
extern "C" __global__ void k(int* y) {{
    __shared__ int s[32];
    s[threadIdx.x] = threadIdx.x;
    if (threadIdx.x % 2) return;
    {wait}();
    y[threadIdx.x] = s[threadIdx.x + 1];
}}"""
    y = np.zeros(32, np.int32)
    RawKernel(code, "k", seeds=10)((1,), (32,), (y,))
    assert y[::2].tolist() == list(range(1, 32, 2))
