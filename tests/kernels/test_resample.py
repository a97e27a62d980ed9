"""Upsampling and pooling: exact on known images, against the definition, and each other's transpose."""

import inspect

import numpy as np
import pytest
from arrays import LAYOUTS, laid_out
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.compare import assert_close, bound
from kernels.resample import avg_pool, avg_pool_grad, reference, upsample_nearest, upsample_nearest_grad

DTYPES = (np.float32, np.float64)


@given(
    n=st.integers(0, 3),
    h=st.sampled_from([0, 1, 2, 3, 7]),
    w=st.sampled_from([0, 1, 2, 5]),
    c=st.sampled_from([0, 1, 3, 8]),
    factor=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 2**32 - 1),
)
@example(2, 3, 5, 3, 3, np.float32, ("strided", "fortran"), 0)
@example(1, 2, 2, 3, 1, np.float32, ("contiguous", "contiguous"), 0)
def test_against_the_definition_and_the_transpose(n, h, w, c, factor, dtype, layouts, seed):
    rng = np.random.default_rng(seed)
    x = laid_out(rng.standard_normal((n, h, w, c)).astype(dtype), layouts[0])
    g = laid_out(rng.standard_normal((n, h * factor, w * factor, c)).astype(dtype), layouts[1])
    before = x.copy(), g.copy()
    x8, g8, area = x.astype(np.float64), g.astype(np.float64), factor**2
    up, down = upsample_nearest(x, factor), upsample_nearest_grad(g, factor)
    assert up.dtype == down.dtype == dtype
    assert np.array_equal(up, reference.repeat(x, factor))
    assert not np.shares_memory(up, x) and not np.shares_memory(down, g)
    allowed = bound(area, reference.block_sum(np.abs(g8), factor), dtype)
    assert_close(down, reference.block_sum(g8, factor), allowed, "upsample_nearest_grad")
    assert_close(avg_pool(g, factor), reference.block_sum(g8, factor) / area, allowed / area, "avg_pool")
    assert_close(
        avg_pool_grad(x, factor),
        reference.repeat(x8, factor) / area,
        bound(1, np.abs(reference.repeat(x8, factor)), dtype),
    )
    size = bound(g.size, np.abs(up.astype(np.float64) * g8).sum(), dtype)
    assert_close((up.astype(np.float64) * g8).sum(), (x8 * down).sum(), size, "<up(x), g> = <x, up^T(g)>")
    assert_close((avg_pool(g, factor) * x8).sum(), (g8 * avg_pool_grad(x, factor)).sum(), size, "<pool(g), x>")
    assert np.array_equal(x, before[0]) and np.array_equal(g, before[1])


def test_on_a_picture():
    x = np.arange(4.0).reshape(1, 2, 2, 1)
    big = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    assert np.array_equal(upsample_nearest(x, 2)[0, ..., 0], big)
    assert np.array_equal(avg_pool(upsample_nearest(x, 2), 2), x)
    ramp = np.arange(16.0).reshape(1, 4, 4, 1)
    assert np.array_equal(avg_pool(ramp, 2)[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    assert np.array_equal(upsample_nearest_grad(ramp, 2), 4 * avg_pool(ramp, 2))
    assert np.array_equal(avg_pool_grad(x, 2), upsample_nearest(x, 2) / 4)


def test_nan_and_infinity_stay_in_their_block_without_a_warning():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 0, 0], x[0, 1, 1], x[0, 0, 3], x[0, 2, 0] = np.inf, -np.inf, np.nan, np.inf
    assert np.array_equal(avg_pool(x, 2)[0, ..., 0], [[np.nan, np.nan], [np.inf, 0]], equal_nan=True)


def test_bad_input_is_named():
    x = np.ones((1, 4, 6, 2), np.float32)
    for f in map(inspect.unwrap, (upsample_nearest, upsample_nearest_grad, avg_pool, avg_pool_grad)):
        for factor in (0, -1, 2.0, (2, 2)):
            with pytest.raises(ValueError, match="factor must be a whole number of at least 1"):
                f(x, factor)
        with pytest.raises(TypeError, match="must be float32 or float64, got uint8"):
            f(x.astype(np.uint8), 2)
        with pytest.raises(ValueError, match="must have 4 axes"):
            f(x[0], 2)
    for f, name in ((inspect.unwrap(avg_pool), "x"), (inspect.unwrap(upsample_nearest_grad), "g")):
        with pytest.raises(ValueError, match=f"{name}'s height and width must be multiples of 4, got shape"):
            f(x, 4)
