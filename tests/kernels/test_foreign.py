"""How the words of nvcc and CuPy are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.emulator.foreign import apart, in_our_words, kernel_names


@pytest.mark.parametrize(
    "words, ours",
    [
        ("{ extern __shared__ float s[];", "{ DYNAMIC_SHARED(float, s);"),
        ("{ extern __shared__\nunsigned  char buffer[ ] ;", "{ DYNAMIC_SHARED(unsigned char, buffer);\n"),
        ("{ extern volatile __shared__ int s[];", "{ DYNAMIC_SHARED(volatile int, s);"),
        ("{ __shared__ extern alignas(16) T s[];", "{ DYNAMIC_SHARED(T, s);"),
        ("{ extern __shared__ std::pair<int, float> s[];", "{ DYNAMIC_SHARED(std::pair<int, float>, s);"),
        ("{ extern __shared__ __align__(sizeof(double)) T n[];", "{ DYNAMIC_SHARED(T, n);"),
        ("{ extern T __shared__ n[];", "{ DYNAMIC_SHARED(T, n);"),
        ("{ extern __align__(16) __shared__ T n[];", "{ DYNAMIC_SHARED(T, n);"),
        ("{ static __shared__ float s[4];", "{ __shared__ float s[4];"),
        ("{ __shared__ static float s[4];", "{ __shared__ float s[4];"),
        ("{ extern float table[];", "{ extern float table[];"),
        ("{ }\nextern __shared__ float s[];", "{ }\nstatic emulator::Dynamic<float> s;"),
        ("{ __shared__ float s[4];", "{ __shared__ float s[4];"),
        ("{ __shared__ float s[];", "{ __shared__ float s[];"),
        ("// {\nextern __shared__ float s[];", "// {\nstatic emulator::Dynamic<float> s;"),
        ("{ // }\nextern __shared__ float s[];", "{ // }\nDYNAMIC_SHARED(float, s);"),
        ("[=] __host__ __device__ (int i) { }", "[=] (int i) { }"),
        ("[&]\n__device__ { }", "[&]\n { }"),
        ("[[nodiscard]] __device__ int f();", "[[nodiscard]] __device__ int f();"),
        ("__device__ float t[2];", "EMULATOR_VARIABLE float t[2];"),
        ("__device__ int a = f(1);", "EMULATOR_VARIABLE int a = f(1);"),
        ("__device__ T& operator[](int i);", "__device__ T& operator[](int i);"),
        ("int a;\n # include <assert.h>\n#include <cassert>", "int a;\n\n"),
    ],
)
def test_words_of_nvcc(words, ours):
    assert in_our_words(words) == ours


@pytest.mark.parametrize(
    "text, names",
    [
        ('extern "C" { __global__ void a() {} __global__ void b(int x) {} }', ["a", "b"]),
        ('namespace s { __global__ void a() {} }\nextern "C" __launch_bounds__(64) __global__ void b() {}', ["b"]),
        ('template <int N> __global__ void a() {}\nextern "C" __global__ void b() {}', ["b"]),
        ('extern "C" __global__ void __launch_bounds__(max(1, f(2))) __maxnreg__(64) a(int x) {}', ["a"]),
        ('// extern "C"\n__global__ void a() {}', []),
        ('// extern "C" __global__ void a() {}\nextern "C" __global__ void b() {}', ["b"]),
    ],
)
def test_kernels_that_a_gpu_knows_by_their_names(text, names):
    assert kernel_names(text) == names


@given(st.lists(st.sampled_from(["int a", "f<1, 2>", "g(a, b)", "h[c, d]"]), max_size=5))
def test_what_commas_divide(parts):
    assert apart(", ".join(parts)) == parts
