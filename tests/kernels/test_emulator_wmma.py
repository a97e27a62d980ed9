"""nvcuda::wmma: products of all shapes and types by both compilers, and what is wrong with one, at its line."""

import numpy as np
import pytest
from emulation import write
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import emulated, needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.emulator import DoesNotCompile, Emulator

pytestmark = needs_compiler

WIDE = [(16, 16, 16), (32, 8, 16), (8, 32, 16)]
TYPES = {  # the factors' type, what a pointer to them points to, that of the sums; NumPy's of both; shapes
    "half": ("half", "half", "float", np.float16, np.float32, WIDE),
    "half in half": ("half", "half", "half", np.float16, np.float16, WIDE),
    "bf16": ("__nv_bfloat16", "__nv_bfloat16", "float", np.uint16, np.float32, WIDE),
    "tf32": ("wmma::precision::tf32", "float", "float", np.float32, np.float32, [(16, 16, 8)]),
    "double": ("double", "double", "double", np.float64, np.float64, [(8, 8, 4)]),
    "signed": ("signed char", "signed char", "int", np.int8, np.int32, WIDE),
    "unsigned": ("unsigned char", "unsigned char", "int", np.uint8, np.int32, WIDE),
}
CASES = [(name, shape) for name, (*_, shapes) in TYPES.items() for shape in shapes]
BEFORE = "#include <mma.h>\nusing namespace nvcuda;\n"
FIRST = 4 + BEFORE.count("\n")  # a kernel's first line
PRODUCT = f"""{BEFORE}
#define SHAPE M, N, K
template <class T> __device__ T rounded(T x) {{ return x; }}
__device__ float rounded(float x) {{ return wmma::__float_to_tf32(x); }}

// C += 2 A B, tile after tile along k
template <class ByA, class ByB>
__device__ void product(const POINTER* a, const POINTER* b, SUM* c, int steps, int lda, int ldb, int ldc, int next_a,
                        int next_b, wmma::layout_t by) {{
    wmma::fragment<wmma::matrix_a, SHAPE, FACTOR, ByA> left;
    wmma::fragment<wmma::matrix_b, SHAPE, FACTOR, ByB> right;
    wmma::fragment<wmma::accumulator, SHAPE, SUM> sum, before;
    wmma::fill_fragment(sum, SUM(0));
    for (int step = 0; step < steps; step++) {{
        wmma::load_matrix_sync(left, a + step * next_a, lda);
        wmma::load_matrix_sync(right, b + step * next_b, ldb);
        for (int i = 0; i < left.num_elements; i++) left.x[i] = rounded(left.x[i]);
        for (int i = 0; i < right.num_elements; i++) right.x[i] = rounded(right.x[i]);
        wmma::mma_sync(sum, left, right, sum);
    }}
    wmma::load_matrix_sync(before, c, ldc, by);
    for (int i = 0; i < sum.num_elements; i++) sum.x[i] = SUM(2) * sum.x[i] + before.x[i];
    wmma::store_matrix_sync(c, sum, ldc, by);
}}
"""
LAYOUTS = """
    const wmma::layout_t by = rows_c ? wmma::mem_row_major : wmma::mem_col_major;
    auto how = rows_a ? rows_b ? product<wmma::row_major, wmma::row_major> : product<wmma::row_major, wmma::col_major>
                      : rows_b ? product<wmma::col_major, wmma::row_major> : product<wmma::col_major, wmma::col_major>;
    how(a, b, c, steps, lda, ldb, ldc, next_a, next_b, by);
"""
PARAMETERS = (
    "const POINTER* a, const POINTER* b, SUM* c, int steps, int lda, int ldb, int ldc, int next_a, int next_b, "
    "bool rows_a, bool rows_b, bool rows_c"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("products")


def product_file(folder, name, shape):
    factor, pointer, result, *_ = TYPES[name]
    words = {"FACTOR": factor, "POINTER": pointer, "SUM": result, "M, N, K": ", ".join(map(str, shape))}

    def said(text):
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        return text

    return write(folder, said(LAYOUTS), said(PARAMETERS), said(PRODUCT), f"{name} {shape}.cu")


def numbers(kind, shape, rng):
    """As a kernel gets them, and what they are."""
    if np.dtype(kind).kind in "iu" and kind is not np.uint16:
        x = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, shape).astype(kind)
        return x, x.astype(np.float64)
    x = rng.standard_normal(shape).astype(np.float32)
    if kind is np.uint16:
        bits = bfloat16.to_bits(x)
        return bits, bfloat16.from_bits(bits).astype(np.float64)
    if kind is np.float32:
        return x, bfloat16.rounded_to_tf32(x).astype(np.float64)
    return x.astype(kind), x.astype(kind).astype(np.float64)


def laid(x, by_rows, more):
    """In memory, with ``more`` elements behind each row or column, and how far these are apart."""
    x = x if by_rows else x.T
    wide = np.zeros((len(x), x.shape[1] + more), x.dtype)
    wide[:, : x.shape[1]] = x
    return wide, wide.shape[1]


def check_product(file, name, shape, steps, by_rows, more, seed):
    (m, n, k), (*_, kind, sums, _) = shape, TYPES[name]
    rng = np.random.default_rng(seed)
    a, left = numbers(kind, (m, k * steps), rng)
    b, right = numbers(kind, (k * steps, n), rng)
    c = rng.integers(-8, 9, (m, n)).astype(sums)
    more_of_sums = 16 // c.itemsize
    (a, lda), (b, ldb) = laid(a, by_rows[0], more), laid(b, by_rows[1], more)
    next_a, next_b = (k if by_rows[0] else k * lda), (k * ldb if by_rows[1] else k)
    arguments = {"a": a, "b": b, "steps": steps, "lda": lda, "ldb": ldb, "next_a": next_a, "next_b": next_b}
    arguments |= {f"rows_{x}": y for x, y in zip("abc", by_rows)}

    def run(device):
        out, ldc = laid(c, by_rows[2], more_of_sums)
        device.run(file, "k", 1, 32, {**arguments, "c": out, "ldc": ldc})
        return out

    (out,) = emulated(run, seed)
    size = (m, n) if by_rows[2] else (n, m)
    got = out[:, : size[1]] if by_rows[2] else out[:, : size[1]].T
    want = 2 * (left @ right) + c
    terms = np.abs(left) @ np.abs(right)
    unit = {np.float16: 2.0**-11, np.float32: 2.0**-23, np.float64: 2.0**-52, np.int32: 0}[sums]
    allowed = unit * ((2 * steps + 2) if sums is np.float16 else (k + 1) * steps + 4) * (2 * terms + np.abs(c))
    assert (np.abs(got.astype(np.float64) - want) <= allowed).all(), (name, shape, by_rows)
    assert not out[:, size[1] :].any()  # nobody has written beside the matrix


@settings(max_examples=60)
@given(
    case=st.sampled_from(CASES), steps=st.integers(1, 5), by_rows=st.tuples(*[st.booleans()] * 3),
    more=st.sampled_from([0, 16]), seed=st.integers(0, 999),
)  # fmt: skip
def test_products_of_all_types_and_shapes(folder, case, steps, by_rows, more, seed):
    check_product(product_file(folder, *case), *case, steps, by_rows, more, seed)


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_a_product_by_each_compiler(name, shape, folder):
    file = product_file(folder, name, shape)
    for layouts in ((True, True, True), (True, False, False), (False, True, True)):
        check_product(file, name, shape, 2, layouts, 16, 0)


# --- a tiled product, as in tutorials ---------------------------------------------------------------------------------

TILED = """
    __shared__ half a_tile[32][24], b_tile[16][40];
    __shared__ float out[32][32];
    const int t = threadIdx.x, warp = t / 32, row = blockIdx.y * 32, column = blockIdx.x * 32;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    for (int at = 0; at < k; at += 16) {
        for (int i = t; i < 512; i += 128) {
            const int r = row + i / 16, c = at + i % 16, br = at + i / 32, bc = column + i % 32;
            a_tile[i / 16][i % 16] = r < m && c < k ? a[r * k + c] : half(0);
            b_tile[i / 32][i % 32] = br < k && bc < n ? b[br * n + bc] : half(0);
        }
        __syncthreads();  // all have come
        wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> left;
        wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> right;
        wmma::load_matrix_sync(left, &a_tile[warp / 2 * 16][0], 24);
        wmma::load_matrix_sync(right, &b_tile[0][warp % 2 * 16], 40);
        wmma::mma_sync(sum, left, right, sum);
        __syncthreads();  // before the next
    }
    wmma::store_matrix_sync(&out[warp / 2 * 16][warp % 2 * 16], sum, 32, wmma::mem_row_major);
    __syncthreads();  // for the sums
    for (int i = t; i < 1024; i += 128)
        if (row + i / 32 < m && column + i % 32 < n) y[(row + i / 32) * n + column + i % 32] = out[i / 32][i % 32];
"""
OF_TILED = "const half* a, const half* b, float* y, int m, int n, int k"


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tiled"), TILED, OF_TILED, BEFORE)


def run_tiled(device, file, m, n, k, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (k, n)))
    y = device.empty((m, n), np.float32)
    device.run(file, "k", (-(-n // 32), -(-m // 32)), 128, {"a": a, "b": b, "y": y, "m": m, "n": n, "k": k})
    exact, terms = a.astype(float) @ b.astype(float), np.abs(a.astype(float)) @ np.abs(b.astype(float))
    device.expect(device.result(y), exact, 2.0**-23 * (k + 17) * terms)
    return y


@settings(max_examples=12)
@given(m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 40), seed=st.integers(0, 99))
@example(m=32, n=32, k=16, seed=0)
def test_a_tiled_product_of_any_size(tiled, m, n, k, seed):
    emulated(lambda device: run_tiled(device, tiled, m, n, k, seed), seed)


@needs_nvrtc
def test_a_gpus_compiler_knows_the_words(tiled, folder):
    launch.compile_for(tiled, "90")
    for name, (*_, shapes) in TYPES.items():
        launch.compile_for(product_file(folder, name, shapes[-1]), "90")
    launch.compile_for(write(folder, ONE, "const half* a, const half* b, float* y", BEFORE), "90")


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        ("__syncthreads();  // all have come", "", "race", "load_matrix_sync(left"),
        ("__syncthreads();  // before the next", "", "race", "load_matrix_sync(left"),
        ("__syncthreads();  // for the sums", "", "race", "store_matrix_sync(&out"),
        ("a_tile[i / 16][i % 16]", "if (i / 16 != 5) a_tile[i / 16][i % 16]", "uninitialised", "load_matrix_sync(left"),
        ("[32][32]", "[31][32]", "out of range", "store_matrix_sync(&out"),
        ("b_tile[0][warp % 2 * 16], 40", "b_tile[0][warp % 2 * 16], 64", "out of range", "load_matrix_sync(right"),
        ("b_tile[0][warp % 2 * 16]", "b_tile[0][warp % 2 * 8]", "misaligned", "load_matrix_sync(right"),
        ("[0], 24", "[0], 20", "bad operand", "load_matrix_sync(left"),
        ("b_tile[0][warp % 2 * 16]", "b_tile[0][t % 2 * 16]", "bad operand", "load_matrix_sync(right"),
        ("wmma::mma_sync(", "if (t != 40)\nwmma::mma_sync(", "deadlock", "mma_sync("),
        ("wmma::fill_fragment(sum, 0.0f);", "", "wrong value", "y[(row"),
        ("sum, 32, wmma::mem_row_major", "sum, 32, wmma::mem_col_major", "wrong value", "y[(row"),
    ],
)
def test_a_mistake_is_found_at_its_line(old, new, kind, words, tmp_path):
    assert old in TILED
    body = TILED.replace(old, new)
    file, device = write(tmp_path, body, OF_TILED, BEFORE), Emulator(1)
    run_tiled(device, file, 32, 32, 32, 0)
    where = f"kernel.cu:{FIRST + body[: body.index(words)].count(chr(10))}"
    said = [*map(str, device.findings)]
    assert any(f.kind == kind and where in (f.where, f.other_where) for f in device.findings), said


# --- one product ------------------------------------------------------------------------------------------------------

ONE = """
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fragment<wmma::accumulator, 16, 16, 16, half> before;
    wmma::load_matrix_sync(left, a, 16);
    wmma::load_matrix_sync(right, b, 16);
    if (threadIdx.x == 5) y[511] = float(right.x[0]) - float(right.x[8]) + float(right.x[1]) - float(right.x[9]);
    wmma::fill_fragment(before, half(2048.0f));
    wmma::mma_sync(sum, left, right, before);
    wmma::store_matrix_sync(y, sum, 16, wmma::mem_row_major);
    wmma::mma_sync(before, left, right, before);
    wmma::store_matrix_sync((half*)(y + 256), before, 16, wmma::mem_row_major);
"""


@pytest.mark.usefixtures("each_compiler")
def test_sums_are_cut_off_and_those_in_half_rounded(tmp_path):
    """As mma.sync's (see test_emulator.py): a neighbour of 2048 is 2^-12 away in float, and 2 in half."""
    a, b, y = np.zeros((16, 16), np.float16), np.zeros((16, 16), np.float16), np.zeros(512, np.float32)
    a[:, :2] = 1, 2.0**-12
    b[0], b[1] = np.arange(16), 1.5
    device = Emulator()
    device.run(
        write(tmp_path, ONE, "const half* a, const half* b, float* y", BEFORE), "k", 1, 32, {"a": a, "b": b, "y": y}
    )
    device.check()
    assert y[511] == 0  # all are there twice
    want = np.float32(2048 + np.arange(16) + 2.0**-12)  # of 1.5 x 2^-12
    assert (y[:256].reshape(16, 16) == want).all()
    assert (y[256:384].view(np.float16).reshape(16, 16) == want.astype(np.float16)).all()


WHOLE = """
    wmma::fragment<wmma::matrix_a, 16, 16, 16, signed char, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, signed char, wmma::row_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, int> sum;
    wmma::fill_fragment(left, -128);
    wmma::fill_fragment(right, 127);
    wmma::fill_fragment(sum, -2147483647);
    wmma::mma_sync(sum, left, right, sum, saturate);
    wmma::store_matrix_sync(y, sum, 16, wmma::mem_row_major);
"""


def test_whole_sums_that_do_not_fit(tmp_path):
    file = write(tmp_path, WHOLE, "int* y, bool saturate", BEFORE)
    for saturate, want in ((True, -(2**31)), (False, 2**31 + 1 - 16 * 128 * 127)):
        device, y = Emulator(), np.zeros(256, np.int32)
        device.run(file, "k", 1, 32, {"y": y, "saturate": saturate})
        device.check()
        assert (y == want).all()


OF_TF32 = """wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> left;
wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> right;
wmma::fragment<wmma::accumulator, 16, 16, 8, float> sum;
wmma::load_matrix_sync(left, x, 8);
wmma::load_matrix_sync(right, x, 16);
if (CONDITION)
wmma::mma_sync(sum, left, right, sum);
else
wmma::mma_sync(sum, left, right, sum);"""


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("condition", "x", "threads", "want"),
    [
        ("threadIdx.x < 32", 1.0, 64, set()),
        ("threadIdx.x < 7", 1.0, 64, {("divergence", 6), ("divergence", 8)}),
        ("threadIdx.x < 64", 1.1, 64, {("bad operand", 6)}),
        ("threadIdx.x < 64", 1.0, 48, {("lane", 3)}),
    ],
)
def test_what_a_warp_hands_in(condition, x, threads, want, tmp_path):
    device = Emulator()
    file = write(tmp_path, OF_TF32.replace("CONDITION", condition), "const float* x", BEFORE)
    device.run(file, "k", 1, threads, {"x": np.full(128, x, np.float32)})
    got = {(f.kind, int(f.where.partition(":")[2]) - FIRST) for f in device.findings}
    assert got <= want and bool(got) == bool(want)


A = "wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> left"
B = "wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> right"


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (A.replace("16, half", "32, half"), "wmma has no such matrices of this type"),
        (A.replace("half", "float"), "wmma has no such matrices of this type"),
        ("wmma::fragment<wmma::accumulator, 16, 16, 16, __nv_bfloat16> sum", "wmma has no such matrices of this type"),
        (A.replace("half", "short"), "wmma has no such matrices of this type"),
        (
            f"{A}; {B}; wmma::fragment<wmma::accumulator, 16, 16, 16, int> sum; wmma::mma_sync(sum, left, right, sum)",
            "wmma has no such sums of these products",
        ),
        (
            "wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum; wmma::load_matrix_sync(sum, y, 16)",
            "of an accumulator the layout must be said",
        ),
    ],
)
def test_what_wmma_has_not_does_not_compile(body, said, tmp_path):
    with pytest.raises(DoesNotCompile, match=said):
        Emulator().run(write(tmp_path, f"{body};", "float* y", BEFORE), "k", 1, 32, {"y": np.zeros(256, np.float32)})
