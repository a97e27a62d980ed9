"""Group norm and layer norm: the fast path against the float64 definition, the definition against finite differences."""

import inspect

import numpy as np
import pytest
from arrays import LAYOUTS, directional, laid_out, threads
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.compare import assert_close, bound
from kernels.norm import (
    group_norm_backward,
    group_norm_forward,
    layer_norm_backward,
    layer_norm_forward,
    numpy_group,
    numpy_layer,
    reference,
)

DTYPES = (np.float32, np.float64)
FAR = numpy_group.FAR  # variance = mean of squares - mean^2 is used up to here: it loses a factor 1 + FAR


def f64(*arrays):
    return [a.astype(np.float64) for a in arrays]


def normal(seed, dtype, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def planted(arrays, plants):
    """Copies with numbers written over others: each plant is an array's index, a place in it from 0 to 1, and a number."""
    arrays = [a.copy() for a in arrays]
    for i, place, value in plants:
        arrays[i].flat[int(place * arrays[i].size)] = value
    return arrays


def finite_part(allowed):
    """0 where no error can be allowed, because the result is NaN or infinite there."""
    return np.nan_to_num(allowed, nan=0, posinf=0)


PLANTS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.floats(0, 1, exclude_max=True, width=32),
        st.sampled_from([np.nan, np.inf, np.inf, -np.inf, -np.inf, 0.0]),
    ),
    min_size=1,
    max_size=3,
)

# --- error model: rounding of x_hat, of the sums over n elements, and their amplification in the variance -------------


def group_allowed(g, x, gamma, beta, groups, eps, silu, dtype):
    """Allowed errors of y, dx and of dgamma and dbeta for each sample, from float64 copies of the inputs."""
    n, c = x.shape[0], x.shape[-1]
    (x_hat, r), z = reference._standardised(x, gamma, beta, groups, eps)
    m = max(1, z.shape[1] * c // groups)
    gamma, beta, g = (np.abs(p) for p in (gamma.reshape(-1, 1, c), beta.reshape(-1, 1, c), g.reshape(z.shape)))
    z_size = gamma * ((1 + FAR) * np.abs(x_hat) + 1 + FAR**0.5) + beta + np.abs(z)
    y = bound(m, z_size, dtype).reshape(x.shape)
    dz = g * (1 + z_size) if silu else g
    shifted = np.abs(x_hat) + 1 + FAR**0.5
    both = (dz * (shifted + (1 + FAR) * np.abs(x_hat))).sum(1), dz.sum(1)
    dgamma, dbeta = (bound(m, total, dtype) for total in both)
    if x.size == 0:
        return y, y, dgamma, dbeta
    grouped = (n, -1, groups, c // groups)
    a, xs, sh = (np.broadcast_to(v, z.shape).reshape(grouped) for v in (gamma * dz, np.abs(x_hat), shifted))
    mean, slope = (v.mean((1, 3), keepdims=True) for v in (a, a * sh))
    dx = bound(m, r * (1 + FAR) * (a + mean + (xs + 1 + FAR**0.5) * slope), dtype)
    return y, dx.reshape(x.shape), dgamma, dbeta


def check_group(x, gamma, beta, groups, eps, silu, g):
    """Forward and backward of the fast path against the definition in float64; returns what they gave."""
    copies = [a.copy() for a in (x, gamma, beta, g)]
    y, saved = group_norm_forward(x, gamma, beta, groups, eps=eps, silu=silu)
    dx, dgamma, dbeta = group_norm_backward(g, x, gamma, beta, saved, groups, eps=eps, silu=silu)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip((x, gamma, beta, g), copies)), (
        "an input has changed"
    )
    assert {a.dtype for a in (y, dx, dgamma, dbeta)} == {x.dtype}
    x8, gamma8, beta8, g8 = f64(x, gamma, beta, g)
    with np.errstate(all="ignore"):
        allowed = [finite_part(a) for a in group_allowed(g8, x8, gamma8, beta8, groups, eps, silu, x.dtype)]
        want_y = reference.group_norm(x8, gamma8, beta8, groups, eps, silu)
        want = reference.group_norm_backward(g8, x8, gamma8, beta8, groups, eps, silu)
    assert_close(y, want_y, allowed[0], "y")
    assert_close(dx, want[0], allowed[1], "dx")
    for name, p, got, exact, error in zip(("dgamma", "dbeta"), (gamma, beta), (dgamma, dbeta), want[1:], allowed[2:]):
        assert_close(got, exact, error if p.ndim == 2 else len(x) ** 0.5 * error.sum(0), name)
    return y, dx, dgamma, dbeta


@given(
    n=st.integers(0, 3),
    axes=st.lists(st.sampled_from([0, 1, 2, 3, 5, 7]), max_size=3),
    groups=st.integers(1, 4),
    width=st.sampled_from([1, 2, 3, 8]),
    per_sample=st.tuples(st.booleans(), st.booleans()),
    silu=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-2, 1.0]),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    offset=st.sampled_from([0.0, 1.0, 6.0, 1e3]),
    seed=st.integers(0, 2**32 - 1),
)
@example(2, [5, 7], 3, 8, (False, True), True, 1e-5, np.float32, ("strided", "reversed"), 6.0, 0)
@example(2, [], 4, 1, (False, False), False, 1e-5, np.float32, ("contiguous", "contiguous"), 0.0, 0)
def test_group_norm_is_its_definition(n, axes, groups, width, per_sample, silu, eps, dtype, layouts, offset, seed):
    c = groups * width
    x, g, gamma, beta = normal(seed, dtype, (n, *axes, c), (n, *axes, c), (n, c), (n, c))
    gamma, beta = (
        p if own else normal(seed + k, dtype, (c,))[0] for k, (p, own) in enumerate(zip((gamma, beta), per_sample))
    )
    x = laid_out(x + dtype(offset), layouts[0])
    check_group(x, gamma, beta, groups, eps, silu, laid_out(g, layouts[1]))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 67, 67, 8), 2), ((3, 64, 9, 16), 4), ((2, 131, 131, 1), 1), ((5, 32, 32, 6), 3), ((40, 4, 4, 8), 2)],
)
def test_group_norm_of_large_and_odd_images(shape, groups, silu, monkeypatch):
    """Several tiles, and samples larger than a tile, whose sums are over several blocks."""
    monkeypatch.setattr(numpy_group, "TILE_BYTES", 1 << 15)
    x, g, gamma, beta = normal(1, np.float32, shape, shape, shape[-1:], shape[-1:])
    check_group(x + 3, gamma, beta, groups, 1e-5, silu, g)


def test_coefficients_are_written_out_to_long_rows():
    for pixels, c in [(1024, 64), (1024, 32), (256, 64), (64, 128), (961, 96), (784, 64), (1, 1), (7, 5), (4096, 3)]:
        k = np.prod(numpy_group.repeats(pixels, c))
        assert pixels % k == 0 and (k == 1 or k * c <= pixels * c / 4)
    assert np.prod(numpy_group.repeats(1024, 64)) * 64 == numpy_group.ROW


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1e4, -1e4, 300.0])
def test_group_norm_far_from_zero(offset, dtype):
    """One group at 0 and one far away in the same sample: the shift must not depend on the neighbour."""
    x, g, gamma, beta = normal(2, dtype, (3, 12, 10, 8), (3, 12, 10, 8), (8,), (8,))
    far = x.copy()
    far[1, ..., 4:] += dtype(offset)
    y_near, _ = group_norm_forward(x, gamma, beta, 2)
    y, *_ = check_group(far, gamma, beta, 2, 1e-5, True, g)
    y, *_ = check_group(far, gamma, beta, 2, 1e-5, False, g)
    assert np.array_equal(y[[0, 2]], y_near[[0, 2]]) and np.array_equal(y[1, ..., :4], y_near[1, ..., :4])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e-30, 1e15])
def test_constant_groups_give_beta(value, dtype):
    x = np.full((2, 5, 7, 6), value, dtype)
    gamma, beta, g = normal(3, dtype, (6,), (6,), x.shape)
    y, saved = group_norm_forward(x, gamma, beta, 3)
    assert_close(y, np.broadcast_to(beta, y.shape), bound(70, np.abs(gamma) + np.abs(beta), dtype))
    assert all(np.isfinite(d).all() for d in group_norm_backward(g, x, gamma, beta, saved, 3))
    y, saved = layer_norm_forward(x, gamma, beta)
    assert_close(y, np.broadcast_to(beta, y.shape), bound(6, np.abs(gamma) + np.abs(beta), dtype))
    assert all(np.isfinite(d).all() for d in layer_norm_backward(g, x, gamma, saved))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("silu", [False, True])
def test_nan_and_infinity_stay_in_their_group(bad, silu):
    x, g, gamma, beta = normal(4, np.float32, (2, 4, 4, 6), (2, 4, 4, 6), (6,), (6,))
    clean, _ = group_norm_forward(x, gamma, beta, 3, silu=silu)
    x[1, 2, 3, 2] = bad
    y, saved = group_norm_forward(x, gamma, beta, 3, silu=silu)
    dx, dgamma, _ = group_norm_backward(g, x, gamma, beta, saved, 3, silu=silu)
    hit = np.zeros(x.shape, bool)
    hit[1, ..., 2:4] = True
    assert np.array_equal(np.isnan(y), hit) and np.array_equal(y[~hit], clean[~hit])
    assert np.array_equal(np.isnan(dx), hit) and np.array_equal(np.isnan(dgamma), [0, 0, 1, 1, 0, 0])
    y, saved = layer_norm_forward(x, gamma, beta)
    assert np.array_equal(np.isnan(y).any(-1), np.isnan(y).all(-1)) and np.isnan(y).sum() == 6
    assert np.isnan(layer_norm_backward(g, x, gamma, saved)[0]).sum() == 6


@given(
    n=st.integers(1, 3),
    pixels=st.sampled_from([1, 2, 7, 40]),
    groups=st.integers(1, 3),
    width=st.sampled_from([1, 2, 5]),
    per_sample=st.tuples(st.booleans(), st.booleans()),
    silu=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    offset=st.sampled_from([0.0, 6.0]),
    plants=PLANTS,
    seed=st.integers(0, 2**32 - 1),
)
@example(4, 1, 1, 6, (False, False), False, np.float32, 0.0, [(2, 0.2, np.inf)], 0)  # beta
@example(4, 1, 1, 6, (False, False), True, np.float32, 0.0, [(1, 0.0, np.inf)], 0)  # gamma
@example(2, 7, 2, 3, (True, False), False, np.float64, 6.0, [(1, 0.0, -np.inf), (3, 0.9, np.nan)], 0)
@example(2, 7, 2, 3, (False, False), False, np.float32, 0.0, [(3, 0.1, np.inf)], 0)  # g
@example(2, 7, 2, 3, (False, False), True, np.float32, 0.0, [(3, 0.1, np.inf), (3, 0.2, -np.inf)], 0)
@example(2, 7, 2, 3, (False, False), False, np.float32, 0.0, [(3, 0.0, np.inf), (3, 0.5, -np.inf)], 0)  # both signs
def test_nan_and_infinity_anywhere_give_a_group_norm_what_the_definition_gives(
    n, pixels, groups, width, per_sample, silu, dtype, offset, plants, seed
):
    c = groups * width
    shapes = [(n, pixels, c), *((n, c) if own else (c,) for own in per_sample), (n, pixels, c)]
    x, gamma, beta, g = normal(seed, dtype, *shapes)
    x, gamma, beta, g = planted([x + dtype(offset), gamma, beta, g], plants)
    check_group(x, gamma, beta, groups, 1e-5, silu, g)


def layer_allowed(g, x, gamma, beta, eps, dtype):
    d = x.shape[-1]
    x_hat, r = reference._rows(x, eps)
    x_hat, gamma, g = np.abs(x_hat), np.abs(gamma), np.abs(g)
    shifted = x_hat + 1 + FAR**0.5
    y = bound(d, gamma * ((1 + FAR) * x_hat + 1 + FAR**0.5) + np.abs(beta), dtype)
    rows = max(1, x.size // d)
    dgamma, dbeta = (bound(rows * d, (g * v).reshape(-1, d).sum(0), dtype) for v in ((1 + FAR) * shifted, 1))
    mean, slope = (v.mean(-1, keepdims=True) for v in (g * gamma, g * gamma * shifted))
    return y, bound(d, r * (1 + FAR) * (g * gamma + mean + shifted * slope), dtype), dgamma, dbeta


def check_layer(x, gamma, beta, eps, g):
    copies = [a.copy() for a in (x, gamma, beta, g)]
    y, saved = layer_norm_forward(x, gamma, beta, eps=eps)
    got = layer_norm_backward(g, x, gamma, saved, eps=eps)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip((x, gamma, beta, g), copies)), (
        "an input has changed"
    )
    assert {a.dtype for a in (y, *got)} == {x.dtype}
    x8, gamma8, beta8, g8 = f64(x, gamma, beta, g)
    with np.errstate(all="ignore"):
        allowed = [finite_part(a) for a in layer_allowed(g8, x8, gamma8, beta8, eps, x.dtype)]
        want_y = reference.layer_norm(x8, gamma8, beta8, eps)
        want = reference.layer_norm_backward(g8, x8, gamma8, eps)
    assert_close(y, want_y, allowed[0], "y")
    for name, a, b, error in zip(("dx", "dgamma", "dbeta"), got, want, allowed[1:]):
        assert_close(a, b, error, name)
    return y, got


@given(
    axes=st.lists(st.sampled_from([0, 1, 2, 3, 5, 7]), max_size=3),
    d=st.sampled_from([1, 2, 3, 7, 16, 31]),
    eps=st.sampled_from([1e-5, 1e-2]),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    offset=st.sampled_from([0.0, 1.0, 6.0, 1e3, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
@example([5, 7], 31, 1e-5, np.float32, ("strided", "fortran"), 6.0, 0)
def test_layer_norm_is_its_definition(axes, d, eps, dtype, layouts, offset, seed):
    x, g, gamma, beta = normal(seed, dtype, (*axes, d), (*axes, d), (d,), (d,))
    if x.ndim > 1 and x.size:
        x[..., 0, :] += dtype(offset)  # one row in several is far from zero
    check_layer(laid_out(x, layouts[0]), gamma, beta, eps, laid_out(g, layouts[1]))


@pytest.mark.parametrize(("rows", "d"), [(1000, 64), (37, 1000), (3, 9000)])
def test_layer_norm_in_several_tiles(rows, d, monkeypatch):
    monkeypatch.setattr(numpy_layer, "TILE_BYTES", 1 << 15)
    x, g, gamma, beta = normal(5, np.float32, (rows, d), (rows, d), (d,), (d,))
    check_layer(x, gamma, beta, 1e-5, g)


@given(
    rows=st.sampled_from([1, 2, 5, 60]),
    d=st.sampled_from([1, 2, 7, 31]),
    dtype=st.sampled_from(DTYPES),
    offset=st.sampled_from([0.0, 6.0]),
    plants=PLANTS,
    seed=st.integers(0, 2**32 - 1),
)
@example(4, 6, np.float32, 0.0, [(2, 0.2, np.inf)], 0)  # beta
@example(4, 6, np.float32, 0.0, [(1, 0.0, np.inf)], 0)  # gamma
@example(4, 6, np.float64, 0.0, [(3, 0.0, np.inf)], 0)  # g
@example(60, 31, np.float32, 6.0, [(3, 0.3, -np.inf), (0, 0.9, np.inf), (1, 0.5, 0.0)], 0)
def test_nan_and_infinity_anywhere_give_a_layer_norm_what_the_definition_gives(rows, d, dtype, offset, plants, seed):
    x, gamma, beta, g = normal(seed, dtype, (rows, d), (d,), (d,), (rows, d))
    x, gamma, beta, g = planted([x + dtype(offset), gamma, beta, g], plants)
    check_layer(x, gamma, beta, 1e-5, g)


def test_a_row_or_group_without_infinity_keeps_its_bits():
    x, g, gamma, beta = normal(11, np.float32, (6, 5, 8), (6, 5, 8), (8,), (8,))
    bad = g.copy()
    bad[2, 3, 1] = np.inf
    _, saved = group_norm_forward(x, gamma, beta, 2, silu=True)
    clean, hit = (group_norm_backward(u, x, gamma, beta, saved, 2, silu=True)[0] for u in (g, bad))
    clean[2, :, :4] = hit[2, :, :4] = 0
    assert np.array_equal(clean, hit)
    _, saved = layer_norm_forward(x, gamma, beta)
    clean, hit = (layer_norm_backward(u, x, gamma, saved)[0] for u in (g, bad))
    clean[2, 3] = hit[2, 3] = 0
    assert np.array_equal(clean, hit)


# --- the definitions against finite differences -----------------------------------------------------------------------


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_wu_he_2018_gradient_is_that_of_the_forward(silu, per_sample):
    parameter = (2, 6) if per_sample else (6,)
    x, g, gamma, beta = normal(6, np.float64, (2, 3, 4, 6), (2, 3, 4, 6), parameter, parameter)
    _, saved = group_norm_forward(x, gamma, beta, 2, eps=0.1, silu=silu)
    gradients = group_norm_backward(g, x, gamma, beta, saved, 2, eps=0.1, silu=silu)

    def loss(*args):
        return (g * group_norm_forward(*args, 2, eps=0.1, silu=silu)[0]).sum()

    check_gradients(loss, [x, gamma, beta], gradients, np.abs(g).sum())


def test_ba_2016_gradient_is_that_of_the_forward():
    x, g, gamma, beta = normal(7, np.float64, (5, 9), (5, 9), (9,), (9,))
    _, saved = layer_norm_forward(x, gamma, beta, eps=0.1)
    gradients = layer_norm_backward(g, x, gamma, saved, eps=0.1)
    check_gradients(
        lambda *args: (g * layer_norm_forward(*args, eps=0.1)[0]).sum(), [x, gamma, beta], gradients, np.abs(g).sum()
    )


def check_gradients(loss, inputs, gradients, size):
    for i, (x, gradient) in enumerate(zip(inputs, gradients)):
        for direction in normal(8 + i, np.float64, x.shape, x.shape):
            numeric = directional(lambda z, i=i: loss(*inputs[:i], z, *inputs[i + 1 :]), x, direction)
            assert_close((gradient * direction).sum(), numeric, bound(x.size, size, np.float64, 2.0**10), f"input {i}")


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silu", [False, True])
def test_the_number_of_threads_changes_no_bit(silu, monkeypatch):
    for module in (numpy_group, numpy_layer):
        monkeypatch.setattr(module, "TILE_BYTES", 1 << 14)
    results = []
    for n in (1, 2, 3):
        with threads(n):
            out = []
            for shape in ((9, 13, 8, 12), (2, 50, 40, 12)):
                x, g, gamma, beta = normal(9, np.float32, shape, shape, (12,), (12,))
                y, saved = group_norm_forward(x, gamma, beta, 4, silu=silu)
                out += [y, *group_norm_backward(g, x, gamma, beta, saved, 4, silu=silu)]
                y, saved = layer_norm_forward(x, gamma, beta)
                out += [y, *layer_norm_backward(g, x, gamma, saved)]
            results.append(b"".join(a.tobytes() for a in out))
    assert results[0] == results[1] == results[2]


def test_a_sample_does_not_depend_on_the_batch():
    x, gamma, beta = normal(10, np.float32, (7, 6, 6, 8), (8,), (8,))
    whole, _ = group_norm_forward(x, gamma, beta, 2, silu=True)
    assert all(
        np.array_equal(group_norm_forward(x[i : i + 1], gamma, beta, 2, silu=True)[0][0], whole[i]) for i in range(7)
    )


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_named():
    x, gamma, beta = np.ones((2, 3, 4), np.float32), np.ones(4, np.float32), np.ones(4, np.float32)
    cases = [
        (ValueError, "groups must be a divisor of the 4 channels, got 3", (x, gamma, beta, 3)),
        (ValueError, "groups must be a divisor of the 4 channels, got 0", (x, gamma, beta, 0)),
        (ValueError, r"gamma must have shape \(4,\) or \(2, 4\), got \(3,\)", (x, gamma[:3], beta, 2)),
        (
            ValueError,
            r"beta must have shape \(4,\) or \(2, 4\), got \(2, 1\)",
            (x, gamma, np.ones((2, 1), np.float32), 2),
        ),
        (ValueError, r"x must have shape \(n, ..., c\) with at least one channel, got \(4,\)", (gamma, gamma, beta, 2)),
        (TypeError, "x must be float32 or float64, got int64", (x.astype(np.int64), gamma, beta, 2)),
        (
            TypeError,
            "x, gamma, beta must share one dtype, got float32, float64, float32",
            (x, gamma.astype(float), beta, 2),
        ),
    ]
    for kind, message, args in cases:
        with pytest.raises(kind, match=message):
            inspect.unwrap(group_norm_forward)(*args)
    for eps in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="eps must be greater than 0"):
            group_norm_forward(x, gamma, beta, 2, eps=eps)
        with pytest.raises(ValueError, match="eps must be greater than 0"):
            layer_norm_forward(x, gamma, beta, eps=eps)
    with pytest.raises(ValueError, match=r"gamma must have shape \(4,\) \(the last axis of x\), got \(3,\)"):
        inspect.unwrap(layer_norm_forward)(x, gamma[:3], beta)
    _, saved = layer_norm_forward(x, gamma, beta)
    with pytest.raises(ValueError, match=r"g must have shape \(2, 3, 4\) \(the shape of x\), got \(2, 4\)"):
        inspect.unwrap(layer_norm_backward)(x[:, 0], x, gamma, saved)
