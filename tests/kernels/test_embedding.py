"""Embedding and its scatter-add, against the one-hot product in float64 and by its adjoint."""

import inspect

import numpy as np
import pytest
from arrays import LAYOUTS, laid_out, threads
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.compare import assert_close, bound
from kernels.device import running_on
from kernels.embedding import cuda, embedding, embedding_grad, numpy_scatter, reference
from kernels.emulator import Emulator

DTYPES = (np.float32, np.float64)


def check(g, indices, rows):
    before = g.copy(), indices.copy()
    got = embedding_grad(g, indices, rows)
    assert np.array_equal(g, before[0]) and np.array_equal(indices, before[1]) and got.dtype == g.dtype
    flat, g8 = indices.reshape(-1), g.astype(np.float64).reshape(indices.size, g.shape[-1])
    most = max(1, int(np.bincount(flat.astype(np.int64), minlength=1).max())) if flat.size else 1
    size = reference.scatter_add(np.abs(g8), flat, rows)
    assert_close(got, reference.scatter_add(g8, flat, rows), bound(most, size, g.dtype))
    return got


@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 11]), max_size=3).map(tuple),
    rows=st.sampled_from([1, 2, 5, 97]),
    d=st.sampled_from([0, 1, 2, 13]),
    dtype=st.sampled_from(DTYPES),
    index=st.sampled_from([np.int64, np.int32, np.uint8, np.uint64]),
    layout=st.sampled_from(LAYOUTS),
    small=st.sampled_from([0, 1 << 15]),
    seed=st.integers(0, 2**32 - 1),
)
@example((11, 11), 5, 13, np.float32, np.int32, "strided", 0, 0)
@example((), 5, 13, np.float32, np.int64, "read-only", 0, 0)
def test_embedding_and_its_gradient(shape, rows, d, dtype, index, layout, small, seed):
    rng = np.random.default_rng(seed)
    indices = np.asarray(rng.integers(0, rows, shape)).astype(index)
    indices = laid_out(indices, layout) if shape else indices
    table, g = (laid_out(rng.standard_normal(s).astype(dtype), layout) for s in ((rows, d), (*shape, d)))
    y = embedding(table, indices)
    assert y.shape == (*shape, d) and y.dtype == dtype
    assert all(np.array_equal(y[i], table[int(indices[i])]) for i in np.ndindex(*shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_scatter, "SMALL", small)  # 0: the sparse product, also for few elements
        dw = check(g, indices, rows)
    assert_close(
        (y.astype(np.float64) * g).sum(),
        (dw.astype(np.float64) * table).sum(),
        bound(y.size + 1, np.abs(dw * table).sum() + np.abs(g).sum(), dtype),
    )


@pytest.mark.parametrize(("m", "d", "rows"), [(3000, 16, 7), (3000, 16, 5000), (70000, 1, 10), (40000, 3, 1)])
def test_large_tables_and_many_duplicates(m, d, rows):
    rng = np.random.default_rng(0)
    check(rng.standard_normal((m, d)).astype(np.float32), rng.integers(0, rows, m), rows)


def test_rows_that_nobody_named_are_zero_and_nan_stays_in_its_row():
    for small in (0, 1 << 15):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(numpy_scatter, "SMALL", small)
            g = np.ones((3, 2), np.float32)
            g[1, 0] = np.nan
            dw = embedding_grad(g, np.array([4, 1, 4]), 6)
            assert np.array_equal(dw, [[0, 0], [np.nan, 1], [0, 0], [0, 0], [2, 2], [0, 0]], equal_nan=True)


def test_the_sum_is_the_same_every_time_and_for_every_number_of_threads():
    rng = np.random.default_rng(1)
    g, indices = rng.standard_normal((4000, 32)).astype(np.float32), rng.integers(0, 50, 4000)
    results = []
    for n in (1, 2, 3, 2):
        with threads(n):
            results.append(embedding_grad(g, indices, 50).tobytes())
    assert len(set(results)) == 1


def test_a_table_of_more_rows_than_int32_holds_keeps_its_path(monkeypatch):
    monkeypatch.setattr(cuda, "scatter_add", None)
    with running_on(Emulator()):
        assert embedding_grad(np.ones((1, 0), np.float32), np.array([7]), 2**31).shape == (2**31, 0)


def test_bad_input_is_named():
    forward, backward = inspect.unwrap(embedding), inspect.unwrap(embedding_grad)
    table, g = np.ones((4, 2), np.float32), np.ones((3, 2), np.float32)
    for bad in ([0, 1, 4], [-1, 0, 1]):
        message = f"indices must be from 0 to 3, got {min(bad)} to {max(bad)}"
        with pytest.raises(ValueError, match=message):
            forward(table, np.array(bad))
        with pytest.raises(ValueError, match=message):
            backward(g, np.array(bad), 4)
    with pytest.raises(ValueError, match="none at all, as the table has no rows, got 0 to 2"):
        backward(g, np.arange(3), 0)
    assert backward(g[:0], np.arange(0), 0).shape == (0, 2)
    with pytest.raises(ValueError, match="rows must be a whole number of at least 0, got -1"):
        backward(g, np.arange(3), -1)
    with pytest.raises(ValueError, match=r"g must have shape \(2, d\) .*, got \(3, 2\)"):
        backward(g, np.arange(2), 4)
    with pytest.raises(TypeError, match="indices must be an integer array, got float64"):
        forward(table, np.ones(3))
    with pytest.raises(TypeError, match="indices must be an integer array, got bool"):
        forward(table, np.ones(3, bool))
    with pytest.raises(ValueError, match="table must have 2 axes"):
        forward(table[0], np.arange(2))
