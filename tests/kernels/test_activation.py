"""Activations: the tiles against the float64 definition, the definition against finite differences and known values."""

import inspect
import math

import numpy as np
import pytest
from arrays import LAYOUTS, directional, laid_out, threads
from hypothesis import example, given
from hypothesis import strategies as st

from kernels import activation
from kernels.activation import (
    gelu,
    gelu_backward,
    gelu_forward,
    gelu_grad,
    numpy_tiles,
    reference,
    silu,
    silu_grad,
    softplus,
)
from kernels.compare import assert_close, bound

DTYPES = (np.float32, np.float64)
STEPS = (
    8  # rounded steps from x to the result, each amplified by at most a few units (|u'| <= 1.3 where tanh is not flat)
)
EXTREMES = [
    0.0,
    -0.0,
    1e-40,
    -1e-40,
    1.0,
    -1.0,
    10.0,
    -10.0,
    88.0,
    -88.0,
    750.0,
    -750.0,
    1e4,
    -1e4,
    1e19,
    -1e19,
    np.inf,
    np.nan,
]


def values(seed, shape, scale, dtype):
    return np.asarray(scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def allowed(x, g, dtype):
    """Errors relative to the largest term, which is |x| forward and |g| (1 + |x|) backward."""
    return bound(STEPS, np.abs(g) * (1 + np.abs(np.clip(x, -1e3, 1e3)) + np.abs(x)), dtype)


@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 7]), max_size=3).map(tuple),
    scale=st.sampled_from([0.1, 1.0, 5.0, 50.0, 1e4]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**32 - 1),
)
@example((3, 7), 5.0, np.float32, "strided", 0)
def test_activations_are_their_definitions(shape, scale, dtype, layout, seed):
    x, g = values(seed, shape, scale, dtype), values(seed + 1, shape, 1.0, dtype)
    if shape:
        x, g = laid_out(x, layout), laid_out(g, layout)
    before = x.copy(), g.copy()
    x8, g8 = x.astype(np.float64), g.astype(np.float64)
    y, saved = gelu_forward(x)
    for name, got, want, size in [
        ("silu", silu(x), reference.silu(x8), 1.0),
        ("gelu", gelu(x), reference.gelu(x8), 1.0),
        ("gelu_forward", y, reference.gelu(x8), 1.0),
        ("softplus", softplus(x), reference.softplus(x8), 1.0),
        ("silu_grad", silu_grad(g, x), reference.silu_grad(g8, x8), g8),
        ("gelu_grad", gelu_grad(g, x), reference.gelu_grad(g8, x8), g8),
        ("gelu_backward", gelu_backward(g, saved), reference.gelu_grad(g8, x8), g8),
    ]:
        assert got.dtype == dtype
        assert_close(got, want, allowed(x8, size, dtype), name)
    assert np.array_equal(x, before[0]) and np.array_equal(g, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_is_right_to_its_own_size(dtype):
    """ln(1 + e^x) of -80 is 1.8e-35, not 0."""
    x = np.linspace(-80, 80, 1001).astype(dtype)
    want = reference.softplus(x.astype(np.float64))
    assert_close(softplus(x), want, bound(STEPS, want, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes_give_the_limits_without_a_warning(dtype):
    with np.errstate(over="ignore"):
        x = np.array(EXTREMES, dtype)
    g = np.ones_like(x)
    with np.errstate(all="ignore"):
        want = [f(x.astype(np.float64)) for f in (reference.silu, reference.gelu, reference.softplus)]
    finite = np.isfinite(x)
    for f, w in zip((silu, gelu, softplus), want):
        assert_close(f(x)[finite], w[finite], allowed(x[finite].astype(np.float64), 1.0, dtype), f.__name__)
        assert f(np.array([np.inf], dtype))[0] == np.inf and np.isnan(f(np.array([np.nan], dtype))[0])
    assert softplus(np.array([-np.inf], dtype))[0] == 0
    slope = np.where(x[finite] > 0, 1.0, 0.0)
    large = np.abs(x[finite]) > 700
    for f in (silu_grad, gelu_grad):
        assert np.array_equal(f(g, x)[finite][large], slope[large].astype(dtype)), f.__name__
    assert np.array_equal(gelu_backward(g, gelu_forward(x)[1])[finite][large], slope[large].astype(dtype))


def test_known_values():
    sigma = 1 / (1 + math.exp(-1))
    t = math.tanh(math.sqrt(2 / math.pi) * 1.044715)
    one = np.ones(1)
    assert_close(silu(one), [sigma], bound(STEPS, 1.0, np.float64))
    assert_close(gelu(one), [0.5 * (1 + t)], bound(STEPS, 1.0, np.float64))
    assert_close(softplus(0 * one), [math.log(2)], bound(STEPS, 1.0, np.float64))
    assert silu_grad(one, 0 * one)[0] == 0.5 and gelu_grad(one, 0 * one)[0] == 0.5


def test_gelu_is_within_5e_4_of_the_form_with_the_error_function():
    x = np.linspace(-8, 8, 2001)
    exact = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
    assert np.abs(gelu(x) - exact).max() < 5e-4


@pytest.mark.parametrize(("forward", "backward"), [(silu, silu_grad), (gelu, gelu_grad)])
def test_gradients_are_those_of_the_forward(forward, backward):
    x, g = values(0, 50, 2.0, np.float64), values(1, 50, 1.0, np.float64)
    for seed in (2, 3, 4):
        direction = values(seed, 50, 1.0, np.float64)
        numeric = directional(lambda z: (g * forward(z)).sum(), x, direction)
        size = np.abs(g).sum() * 50
        assert_close((backward(g, x) * direction).sum(), numeric, bound(50, size, np.float64, 2.0**10))


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(numpy_tiles, "TILE_BYTES", 4096)
    x, g = values(0, (37, 501), 3.0, np.float32), values(1, (37, 501), 1.0, np.float32)
    results = []
    for n in (1, 2, 3):
        with threads(n):
            out = [silu(x), gelu(x), softplus(x), silu_grad(g, x), gelu_grad(g, x), *gelu_forward(x)]
            results.append(b"".join(a.tobytes() for a in out))
    assert results[0] == results[1] == results[2]


def test_bad_input_is_named():
    x = np.ones((2, 3), np.float32)
    for name in ("silu", "gelu", "softplus", "gelu_forward"):
        with pytest.raises(TypeError, match="x must be float32 or float64, got int64"):
            inspect.unwrap(getattr(activation, name))(x.astype(np.int64))
    for name, other in (("silu_grad", "x"), ("gelu_grad", "x"), ("gelu_backward", "saved")):
        f = inspect.unwrap(getattr(activation, name))
        with pytest.raises(ValueError, match=rf"g must have shape \(2, 3\) \(the shape of {other}\), got \(3,\)"):
            f(x[0], x)
        with pytest.raises(TypeError, match=f"g, {other} must share one dtype, got float64, float32"):
            f(x.astype(np.float64), x)
