"""The stand-ins of CuPy's RawKernel and RawModule, and kernels that were not written for the emulator."""

import re

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
        ({"n": np.int16(2)}, "n must be int32, got int16, of 2 bytes$"),
        ({"n": 2.0}, "n must be int32, got float64"),
        ({"n": 2**31}, "n must be int32, got 2147483648, which does not fit"),
        ({"n": 2**70}, "n must be int32, got 1180591620717411303424, which does not fit"),
        ({"n": -(2**63) - 1}, "n must be int32, got -9223372036854775809, which does not fit"),
        ({"x": np.zeros(100)}, "x must be an array of float32, got one of float64"),
        ({"x": np.zeros(100, np.int32)}, "x must be an array of float32, got one of int32"),
        ({"x": np.zeros(200, np.float32)[::2]}, r"x must be contiguous: .* got strides \(8,\)$"),
        ({"x": np.zeros((9, 9), np.float32).T[1:]}, r"x must be contiguous: .* got strides \(4, 36\)$"),
        ({"x": np.zeros((9, 9), np.float32).T}, r"x must be contiguous: .* got strides \(4, 36\); x\.T is$"),
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
    own = AXPY.replace("{", "{ __shared__ float s[10000]; s[threadIdx.x] = 1;", 1)
    with pytest.raises(ValueError, match=r"shared_mem of 9600 is more than .*, 9152 beside the 40000 bytes of its own"):
        axpy(code=own, shared_mem=9600)
    kernel = RawKernel(own, "axpy")
    kernel.max_dynamic_shared_size_bytes = 200_000
    with pytest.raises(ValueError, match="shared_bytes must be from 0 to 191488 beside the 40960 bytes"):
        kernel((1,), (32,), (TWO, *np.zeros((2, 32), np.float32), np.int32(32)), shared_mem=195_000)
    with pytest.raises(WrongSource, match="__shared__ arrays take 52000 bytes, and a GPU's compiler allows 49152"):
        axpy(code=own.replace("10000", "13000"))
    with pytest.raises(
        ValueError, match=r"code must be a text or the Path of one: for this file pass Path\('my/axpy.cu'\)"
    ):
        RawKernel("my/axpy.cu", "axpy")
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
    for said, names in (
        ("(int y[4], const int n = 4)", "y, n"),
        ("(TWO)", "a, b"),
        ("(int, float)", "int, float"),
        ("(void)", ""),
    ):
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
        (lambda: RawModule(AXPY, options=(4,)), r"must be tuples of strings, .* got \(4,\)"),
        (lambda: RawModule(AXPY, name_expressions=["axpy", 3]), r"must be tuples of strings, .* got \['axpy', 3\]"),
        (lambda: axpy(n=np.int8(3)), r"n must be int32, got int8, of 1 bytes$"),
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


@pytest.mark.parametrize("dtype, number", [("f4", "float"), ("f8", "double"), ("c8", "float2")])
def test_a_sum_that_begins_with_nothing_is_found_where_it_is_written(dtype, number, each_compiler):
    code = """extern "C" __global__ void k(const NUMBER* x, NUMBER* y, int n) {
        FLOAT sums[4];
        for (int i = 0; i < n; i++) sums[i % 4] += x[i]PART;
        for (int i = 0; i < 4; i++)
            y[i]PART = sums[i];
    }"""
    code = code.replace("PART", ".y" if dtype == "c8" else "")
    code = code.replace("NUMBER", number).replace("FLOAT", number.rstrip("2"))
    x, y = np.arange(8).astype(dtype) * (1j if dtype == "c8" else 1), np.zeros((2, 2), dtype)
    at = r"kernel\.cu:5: uninitialised: (byte 4 of )?element \(0, 0\) of y \(2, 2\), \w+"
    with pytest.raises(EmulatorError, match=f"^{at}, is the number that variables hold here before they are set$"):
        RawKernel(code, "k")((1,), (1,), (x, y, 8))
    begun = code.replace("sums[4];", "sums[4] = {0, 0, 0, 0};")
    RawKernel(begun, "k")((1,), (1,), (x, y, 8))
    np.testing.assert_array_equal(y.reshape(4), x[:4] + x[4:])
    for byte in (0xFE, 0xFF):  # by the host
        y.view(np.uint8)[...] = byte
        RawKernel(begun.replace("i = 0; i < 4; i++)\n", "i = 1; i < 4; i++)\n"), "k")((1,), (1,), (x, y, 8))
        assert (y.view(np.uint8).reshape(4, -1)[0] == byte)[-4:].all()


def test_a_header_that_is_not_there_is_one_sentence(each_compiler):
    for name in ("cutlass/cutlass.h", "thrust/reduce.h"):
        with pytest.raises(DoesNotCompile, match=f"^the kernel includes {name}, which the emulator does not have$"):
            axpy(code=f"#include <{name}>\n{AXPY}")


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


@pytest.mark.parametrize(
    "code, said",
    [
        (AXPY[:-2], ["kernel.cu: 1 { without a }"]),
        (AXPY.replace("if (i < n)", 'if (i < n) { printf("}\\"}");'), ["kernel.cu: 1 { without a }"]),
        ("#if 0\n{\n#endif\n" + AXPY.replace("a * x[i]", "b * x[i]"), ["kernel.cu:7: error: .*.b.*"]),
        (AXPY + "}", ["kernel.cu: 1 } without a {", "kernel.cu:7: error: .*"]),
        (AXPY.replace("a * x[i];", "a * x[i]"), ["kernel.cu:4: error: expected .;. .*"]),
        (AXPY.replace("a * x[i]", "b * x[i]"), ["kernel.cu:4: error: .*.b.*"]),
        (AXPY.replace("a * x[i]", "f(a)") + "__device__ float f(float a, float b);", ["kernel.cu:4: error: .*.f.*"]),
        (
            "#include <cstdio>\n" + AXPY.replace("i < n", "i < m"),
            ["kernel.cu:5: error: .*.m.*", "NVRTC has no <cstdio>: .*"],
        ),
        (AXPY.replace(" axpy", " pow"), ["(kernel.cu:2: note: .*)?", "kernel.cu: pow is not the name of one kernel"]),
    ],
)
def test_what_does_not_compile_is_told_by_the_lines_of_the_text(code, said, each_compiler):
    """And by nothing of what stands around the text, nor of where it was compiled."""
    with pytest.raises(DoesNotCompile) as refused:
        RawKernel(code, "pow" if " pow" in code else "axpy").compile()
    first, *lines = str(refused.value).splitlines()
    assert first == "the kernel does not compile for the emulator:"
    wanted = [s for s in said if "(" not in s or lines[0].startswith("kernel.cu:2")]
    assert all(re.fullmatch(s, line) for s, line in zip(wanted, lines, strict=True)), lines


def test_an_expression_that_names_no_kernel(each_compiler):
    code = "template <int N>\n__global__ void fill(float* x) { x[threadIdx.x] = N; }"
    with pytest.raises(DoesNotCompile, match=r"\nkernel\.cu: fill<float> is not the name of one kernel$"):
        RawModule(code, name_expressions=("fill<float>",)).compile()


def test_a_function_that_is_only_declared(each_compiler):
    code = AXPY.replace("a * x", "twice(a) * x")
    with pytest.raises(DoesNotCompile, match=r"^kernel\.cu: twice is declared but nowhere defined$"):
        axpy(code="__device__ float twice(float);" + code)


def test_threads_say_something_once_whatever_the_number_of_schedules(each_compiler, capfd):
    said = 'if (i == 0) { printf("a is %.1f\\n", a); printf("so\\n"); }'
    axpy(code=AXPY.replace("if (i < n)", f"{said} if (i < n)"))
    assert capfd.readouterr().out == "a is 2.0\nso\n"


def test_an_array_of_structures_is_named_by_its_size():
    structures = np.zeros(4, [("a", "f4"), ("b", "i4")])
    with pytest.raises(BadArguments, match=r"x must be an array of float32, got one of structures of 8 bytes$"):
        axpy(x=structures)


ROWS = """template <int N>
__global__ void k(const float (*x)[N], int (*y)[2][3]) {
    const int i = threadIdx.x;
    for (int j = 0; j < N; j++) y[i][j / 3][j % 3] = x[i][j];
}
"""


def test_a_pointer_to_rows_takes_an_array_of_their_elements(each_compiler):
    x, y = np.arange(24, dtype=np.float32).reshape(4, 6), np.zeros((4, 2, 3), np.int32)
    kernel = RawModule(ROWS, name_expressions=("k<6>",)).get_function("k<6>")
    kernel((1,), (4,), (x, y))
    np.testing.assert_array_equal(y.reshape(4, 6), x)
    with pytest.raises(BadArguments, match=r"y must be an array of .*, got one of float32"):
        kernel((1,), (4,), (x, x.copy()))
    with pytest.raises(EmulatorError, match="out of range: read"):
        kernel((1,), (5,), (x, np.zeros((5, 2, 3), np.int32)))
