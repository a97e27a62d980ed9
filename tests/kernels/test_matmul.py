"""Products: every way of cutting them against float64, the layout of the result, and what the threads must not change."""

import inspect
import tracemalloc
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
from arrays import LAYOUTS, laid_out, threads
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.compare import assert_close, bound
from kernels.matmul import linear, matmul, numpy_split, reference, sum_rows

SIZE = st.sampled_from([0, 1, 2, 3, 7, 16, 23])
DTYPES = st.sampled_from(["float32", "float64"])
SEEDS = st.integers(0, 2**32 - 1)


def normal(seed, shape, dtype="float32", layout="contiguous"):
    return laid_out(np.random.default_rng(seed).standard_normal(shape).astype(dtype), layout)


@st.composite
def pairs(draw):
    """Two arrays that numpy.matmul can multiply: vectors, matrices, batches of which either is broadcast."""
    m, k, n = draw(SIZE), draw(SIZE), draw(SIZE)
    batch = draw(st.lists(st.sampled_from([1, 2, 5]), max_size=3))
    kinds = (
        draw(st.sampled_from(["vector", "matrix", "batch", "broadcast"])),
        draw(st.sampled_from(["vector", "matrix", "batch", "broadcast"])),
    )
    dtype, layouts, seed = draw(DTYPES), (draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS))), draw(SEEDS)
    arrays = []
    for i, (kind, core) in enumerate(zip(kinds, ((m, k), (k, n)))):
        lead = {
            "vector": [],
            "matrix": [],
            "batch": batch,
            "broadcast": [1 if draw(st.booleans()) else s for s in batch],
        }
        shape = (k,) if kind == "vector" else (*lead[kind], *core)
        arrays.append(normal((seed, i), shape, dtype, layouts[i]))
    return tuple(arrays)


@contextmanager
def small_pieces():
    """Everything above 30 multiplications is cut."""
    with patch.multiple(
        numpy_split,
        DIRECT=30,
        DIRECT_VECTOR=10,
        TILE_WORK=20,
        FEW_ROWS=1,
        ROWS=4,
        TILE_BYTES=64,
        SUM_SIZE=40,
        SUM_COLUMNS=9,
    ):
        yield


def check(a, b):
    got = matmul(a, b)
    assert got.dtype == a.dtype and (got.ndim == 0 or got.flags.c_contiguous)
    allowed = bound(a.shape[-1], reference.matmul(np.abs(a), np.abs(b)), a.dtype)
    assert_close(got, reference.matmul(a, b), allowed, f"{a.shape} @ {b.shape}")


@given(pairs())
def test_matmul_is_the_definition(arrays):
    check(*arrays)


@given(pairs())
def test_matmul_is_the_definition_in_many_small_pieces(arrays):
    with small_pieces():
        check(*arrays)


@pytest.mark.parametrize(
    "a, b",
    [
        ((256, 200), (200, 300)),  # rows
        ((64, 300), (300, 900)),  # columns
        ((20, 40000), (40000, 30)),  # the inner axis
        ((40, 60, 80), (40, 80, 70)),  # the batch
        ((3, 1, 300, 200), (2, 200, 210)),  # each matrix of a broadcast batch
        ((5, 300, 200), (200, 210)),
        ((5, 70, 90), (90, 200)),  # a batch of rows
        ((1, 90000), (90000, 1)),
        ((300, 400), (400,)),
        ((70000,), (70000,)),
    ],
)
def test_matmul_is_the_definition_at_the_sizes_the_pieces_are_made_for(a, b):
    x, y = normal(0, a), normal(1, b)
    check(x, y)
    want = np.matmul(x.astype(np.float64), y.astype(np.float64))
    allowed = bound(a[-1], np.matmul(np.abs(x), np.abs(y), dtype=np.float64), np.float32)
    for left, right in ((np.asfortranarray(x), np.asfortranarray(y)), (x[..., ::-1].copy()[..., ::-1], y)):
        assert_close(matmul(left, right), want, allowed, "another layout")


@given(SIZE, SIZE, SIZE, SEEDS, st.booleans())
def test_a_transposed_view_gives_a_contiguous_result(m, k, n, seed, small):
    a, b = normal((seed, 0), (k, m)).T, normal((seed, 1), (n, k)).T
    with small_pieces() if small else patch.object(numpy_split, "DIRECT", 1 << 18):
        check(a, b)
        heads = normal(seed, (2, 3, 4, 5)).transpose(0, 2, 1, 3)
        check(heads, heads.swapaxes(2, 3))
        check(np.asfortranarray(heads), normal(seed, (5,)))


@pytest.mark.parametrize("shape", [(500, 4000, 20), (4000, 500, 20), (20, 500, 4000)])
def test_transposed_views_are_not_copied(shape):
    m, k, n = shape
    a, b = normal(0, (k, m)).T, normal(1, (n, k)).T
    matmul(a, b)
    tracemalloc.start()
    y = matmul(a, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - y.nbytes < max(a.nbytes, b.nbytes) / 4


def test_only_rows_that_lie_one_after_the_other_are_merged():
    x = normal(0, (4, 6, 5))
    assert np.shares_memory(numpy_split.as_rows(x), x)
    assert np.shares_memory(numpy_split.as_rows(x[:, 2:3]), x)
    assert np.shares_memory(numpy_split.as_rows(x[..., 1:3]), x)
    assert numpy_split.as_rows(x[:, ::2]).shape == (12, 5) and np.shares_memory(numpy_split.as_rows(x[:, ::2]), x)
    assert numpy_split.as_rows(x[:, :4]) is None and numpy_split.as_rows(x.swapaxes(0, 1)) is None


@given(
    SIZE,
    SIZE,
    st.lists(st.sampled_from([0, 1, 3, 6]), max_size=3),
    DTYPES,
    st.sampled_from(LAYOUTS),
    st.booleans(),
    SEEDS,
    st.booleans(),
)
@example(7, 16, [3, 6], "float32", "strided", True, 0, True)
def test_linear_is_the_definition(c_in, c_out, lead, dtype, layout, biased, seed, small):
    x, w = normal((seed, 0), (*lead, c_in), dtype, layout), normal((seed, 1), (c_in, c_out), dtype, layout)
    b = normal((seed, 2), (c_out,), dtype, layout) if biased else None
    with small_pieces() if small else patch.object(numpy_split, "DIRECT", 1 << 18):
        y = linear(x, w, b)
    assert y.dtype == x.dtype and y.flags.c_contiguous
    size = reference.linear(np.abs(x), np.abs(w), None if b is None else np.abs(b))
    assert_close(y, reference.linear(x, w, b), bound(c_in + 1, size, dtype), "linear")


@pytest.mark.parametrize("shape", [(2, 500, 96, 128), (64, 200, 900), (1, 20, 40000, 30)])
def test_linear_is_the_definition_at_the_sizes_the_pieces_are_made_for(shape):
    *lead, c_in, c_out = shape
    x, w, b = normal(0, (*lead, c_in)), normal(1, (c_in, c_out)), normal(2, (c_out,))
    size = np.abs(x).astype(np.float64) @ np.abs(w) + np.abs(b)
    want = x.astype(np.float64) @ w.astype(np.float64) + b
    assert_close(linear(x, w, b), want, bound(c_in + 1, size, np.float32), "linear")
    assert_close(linear(x, w, b), matmul(x, w) + b, bound(c_in + 1, size, np.float32), "linear and matmul")


@given(
    st.lists(st.sampled_from([0, 1, 2, 7, 30]), max_size=3),
    st.sampled_from([0, 1, 3, 64, 130]),
    DTYPES,
    st.sampled_from(LAYOUTS),
    SEEDS,
    st.booleans(),
)
def test_sum_rows_is_the_definition(lead, c, dtype, layout, seed, small):
    g = normal(seed, (*lead, c), dtype, layout)
    with small_pieces() if small else patch.object(numpy_split, "DIRECT", 1 << 18):
        s = sum_rows(g)
    assert s.shape == (c,) and s.dtype == g.dtype
    rows = g.size // c if c else 0
    assert_close(s, reference.sum_rows(g), bound(rows, reference.sum_rows(np.abs(g)), dtype), f"sum of {g.shape}")


@pytest.mark.parametrize("c", [1, 3, 64, 200])
def test_sum_rows_of_many_rows_does_not_drift(c):
    g = np.full(((1 << 23) // c, c), 0.1, np.float32)
    rows = len(g)
    want = np.full(c, np.float64(np.float32(0.1)) * rows)
    assert_close(sum_rows(g), want, bound(rows, want, np.float32), "sum of many equal rows")


@given(SIZE, SIZE, SIZE, SEEDS)
def test_gradients_are_adjoint(m, k, n, seed):
    """<g, x w + b> = <g w^T, x> + b . sum_rows(g) = <x^T g, w> + b . sum_rows(g): each product is the others' gradient."""
    x, w, b, g = (normal((seed, i), s, "float64") for i, s in enumerate([(m, k), (k, n), (n,), (m, n)]))
    with small_pieces():
        y, bias = linear(x, w, b), b @ sum_rows(g)
        size = np.abs(g).sum() * (
            1 + np.abs(x).max(initial=0) * np.abs(w).max(initial=0) * k + np.abs(b).max(initial=0)
        )
        allowed = bound(m * n * k + 1, size, np.float64)
        assert_close((g * y).sum(), (matmul(g, w.T) * x).sum() + bias, allowed, "x")
        assert_close((g * y).sum(), (matmul(x.T, g) * w).sum() + bias, allowed, "w")


@given(pairs())
@example((normal(0, (7, 200)), normal(1, (200, 3))))
@example((normal(0, (30, 20)), normal(1, (20, 3))))
@example((normal(0, (3, 20)), normal(1, (20, 30))))
def test_threads_change_no_bit_and_inputs_stay(arrays):
    a, b = arrays
    before = a.copy(), b.copy()
    results = []
    with small_pieces():
        for count in (1, 2, 3):
            with threads(count):
                part = [matmul(a, b), sum_rows(a)]
                if b.ndim == 2 and b.shape[0]:
                    part.append(linear(np.atleast_2d(a), b, b[0]))
                results.append(part)
    for other in results[1:]:
        for x, y in zip(results[0], other):
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


def test_nan_and_inf_come_out_where_the_definition_has_them():
    a, b = normal(0, (300, 200)), normal(1, (200, 300))
    a, b = a.copy(), b.copy()
    a[3, 5], b[7, 9] = np.nan, np.inf
    y = matmul(a, b)
    assert np.isnan(y[3]).all() and np.isinf(np.delete(y[:, 9], 3)).all()
    assert np.isfinite(np.delete(np.delete(y, 3, 0), 9, 1)).all()


def test_bad_input_is_named():
    x, w, b = normal(0, (5, 3)), normal(1, (3, 4)), normal(2, (4,))
    mm, lin, rows = (inspect.unwrap(f) for f in (matmul, linear, sum_rows))
    cases = [
        (mm, TypeError, "a must be float32 or float64, got int64", (x.astype(int), w)),
        (mm, TypeError, "a, b must share one dtype", (x, w.astype(np.float64))),
        (mm, TypeError, "expected a NumPy or CuPy array, got list", ([1.0], w)),
        (mm, ValueError, "b must have at least 1 axis, got a scalar", (x, np.float32(1))),
        (
            mm,
            ValueError,
            r"a's last axis must be as long as b's second to last one, got shapes \(5, 3\) and \(4, 3\)",
            (x, w.T),
        ),
        (mm, ValueError, r"a's last axis must be as long as b's only one, got shapes \(5, 3\) and \(4,\)", (x, b)),
        (
            mm,
            ValueError,
            r"leading axes of a and b cannot be broadcast, got shapes \(2, 5, 3\) and \(3, 3, 4\)",
            (np.stack([x] * 2), np.stack([w] * 3)),
        ),
        (lin, ValueError, r"x must have a last axis of length 3 as w has rows, got shape \(5, 2\)", (x[:, 1:], w, b)),
        (lin, ValueError, r"w must have 2 axes, got shape \(4,\)", (x, b, b)),
        (lin, ValueError, r"b must have shape \(4,\) \(one number for each column of w\), got \(3,\)", (x, w, b[1:])),
        (lin, TypeError, "x, b must share one dtype", (x, w, b.astype(np.float64))),
        (rows, TypeError, "g must be float32 or float64, got bool", (x > 0,)),
        (rows, ValueError, "g must have at least 1 axis, got a scalar", (np.float32(1),)),
    ]
    for function, kind, message, args in cases:
        with pytest.raises(kind, match=message):
            function(*args)
