"""Cross-entropy: tiles of rows against the float64 definition, known values, finite differences."""

import inspect
import math

import numpy as np
import pytest
from arrays import LAYOUTS, directional, laid_out, threads
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.compare import assert_close, bound
from kernels.cross_entropy import cross_entropy_backward, cross_entropy_forward, numpy_rows, reference

DTYPES = (np.float32, np.float64)


def problem(seed, m, k, scale, dtype):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((m, k))).astype(dtype)
    return logits, rng.integers(0, k, m), rng.standard_normal(m).astype(dtype)


def check(logits, targets, g):
    """Against the definition. exp(x - largest) is off by u |x - largest| of itself, so its terms carry that factor."""
    copies = logits.copy(), targets.copy(), g.copy()
    loss, saved = cross_entropy_forward(logits, targets)
    dx = cross_entropy_backward(g, logits, targets, saved)
    assert all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip((logits, targets, g), copies))
    assert loss.dtype == dx.dtype == logits.dtype
    x, g8, k = logits.astype(np.float64), g.astype(np.float64), logits.shape[1]
    log_p = reference._log_softmax(x)
    p = np.exp(log_p)
    depth = np.where(p > 0, np.where(np.isfinite(log_p), np.abs(log_p), 0) + 3, 1)
    want = reference.cross_entropy(x, targets)
    spread = (p * depth).sum(1)
    assert_close(loss, want, bound(k, spread + np.abs(want) + math.log(max(k, 1)) + 1, logits.dtype), "loss")
    one_hot = np.arange(k) == targets[:, None]
    size = np.abs(g8[:, None]) * (p * (depth + spread[:, None]) + one_hot)
    assert_close(dx, reference.cross_entropy_backward(g8, x, targets), bound(k, size, logits.dtype), "dlogits")
    return loss, dx


@given(
    m=st.sampled_from([0, 1, 2, 5, 17]),
    k=st.sampled_from([1, 2, 3, 7, 64, 101]),
    scale=st.sampled_from([0.0, 1.0, 10.0, 1e4]),
    offset=st.sampled_from([0.0, 1e4, -1e4]),
    dtype=st.sampled_from(DTYPES),
    index=st.sampled_from([np.int64, np.int32, np.uint8, np.uint64]),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**32 - 1),
)
@example(5, 7, 1.0, 1e4, np.float32, np.uint8, "strided", 0)
@example(0, 7, 1.0, 0.0, np.float32, np.int64, "contiguous", 0)
def test_cross_entropy_is_its_definition(m, k, scale, offset, dtype, index, layout, seed):
    logits, targets, g = problem(seed, m, k, scale, dtype)
    check(laid_out(logits + dtype(offset), layout), targets.astype(index), laid_out(g, layout))


def test_in_several_tiles(monkeypatch):
    monkeypatch.setattr(numpy_rows, "TILE_BYTES", 4096)
    for m, k in ((300, 17), (7, 3000), (41, 64)):
        check(*problem(0, m, k, 3.0, np.float32))


def test_known_values():
    """Equal logits: ln k. Two logits: softplus of their difference, also where exp would overflow."""
    loss, _ = cross_entropy_forward(np.full((3, 8), 1e4), np.array([0, 3, 7]))
    assert_close(loss, np.full(3, math.log(8)), bound(8, 4.0, np.float64))
    x = np.array([[0.0, 3.0], [3.0, 0.0], [0.0, 1e4], [-1e30, 1e30]])
    loss, saved = cross_entropy_forward(x, np.array([0, 0, 0, 1]))
    assert_close(loss, [math.log1p(math.exp(3)), math.log1p(math.exp(-3)), 1e4, 0.0], bound(2, 1e4, np.float64))
    dx = cross_entropy_backward(np.ones(4), x, np.array([0, 0, 0, 1]), saved)
    s = 1 / (1 + math.exp(3))
    assert_close(dx, [[s - 1, 1 - s], [-s, s], [-1, 1], [0, 0]], bound(2, 4.0, np.float64))


def test_forbidden_classes_and_other_extremes_do_not_warn():
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    x[:, 1] = -np.inf
    loss, dx = check(x, np.array([0, 2, 3, 4]), np.ones(4, np.float32))
    assert np.isfinite(loss).all() and (dx[:, 1] == 0).all()
    assert cross_entropy_forward(x, np.array([1, 2, 3, 4]))[0][0] == np.inf  # the target is forbidden
    x[0, 3], x[1] = np.nan, -np.inf
    targets = np.array([0, 2, 3, 4])
    loss, saved = cross_entropy_forward(x, targets)
    dx = cross_entropy_backward(np.ones(4, np.float32), x, targets, saved)
    assert np.array_equal(np.isnan(loss), [True, True, False, False]) and np.array_equal(
        np.isnan(dx).all(1), np.isnan(loss)
    )


def test_gradient_is_that_of_the_forward_and_sums_to_zero():
    logits, targets, g = problem(1, 6, 9, 2.0, np.float64)
    dx = cross_entropy_backward(g, logits, targets, cross_entropy_forward(logits, targets)[1])
    assert_close(dx.sum(1), np.zeros(6), bound(9, 2 * np.abs(g), np.float64))
    for seed in (2, 3, 4):
        direction = np.random.default_rng(seed).standard_normal(logits.shape)
        numeric = directional(lambda z: (g * cross_entropy_forward(z, targets)[0]).sum(), logits, direction)
        assert_close((dx * direction).sum(), numeric, bound(54, 10 * np.abs(g).sum(), np.float64, 2.0**10))


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(numpy_rows, "TILE_BYTES", 4096)
    logits, targets, g = problem(5, 200, 33, 3.0, np.float32)
    results = []
    for n in (1, 2, 3):
        with threads(n):
            loss, saved = cross_entropy_forward(logits, targets)
            results.append(loss.tobytes() + cross_entropy_backward(g, logits, targets, saved).tobytes())
    assert results[0] == results[1] == results[2]


def test_bad_input_is_named():
    forward, backward = inspect.unwrap(cross_entropy_forward), inspect.unwrap(cross_entropy_backward)
    x, t = np.ones((3, 4), np.float32), np.array([0, 1, 2])
    for bad in ([0, 1, 4], [-1, 0, 1]):
        with pytest.raises(ValueError, match=f"targets must be classes from 0 to 3, got {min(bad)} to {max(bad)}"):
            forward(x, np.array(bad))
    with pytest.raises(ValueError, match="logits must have at least one class"):
        forward(x[:, :0], t)
    with pytest.raises(ValueError, match=r"targets must have shape \(3,\) \(one class per row of logits\), got \(2,\)"):
        forward(x, t[:2])
    with pytest.raises(TypeError, match="targets must be an integer array, got float64"):
        forward(x, t.astype(float))
    with pytest.raises(ValueError, match="logits must have 2 axes"):
        forward(x[0], t)
    with pytest.raises(ValueError, match=r"g must have shape \(3,\)"):
        backward(x[0], x, t, forward(x, t)[1])
