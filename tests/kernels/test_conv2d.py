"""Every way to compute a convolution against its definition, in float64, within the error that its algorithm allows."""

import inspect
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ConvProblem, conv_problems

from kernels import conv2d as conv
from kernels import threads
from kernels.compare import assert_close, bound
from kernels.conv2d import choice, numpy_direct, numpy_transposed, products, reference
from kernels.conv2d import numpy_winograd as winograd

TILES = [(m, r) for r, sizes in winograd.OUTPUT_TILES.items() for m in sizes]


# --- the definition in float64 and what it allows ---------------------------------------------------------------------


def wide(x):
    return np.asarray(x, np.float64)


def expect(function, arrays, *rest, depth, dtype):
    """The definition in float64, and the error that a sum of ``depth`` products may have in ``dtype``."""
    want = function(*(None if a is None else wide(a) for a in arrays), *rest)
    sizes = function(*(None if a is None else np.abs(wide(a)) for a in arrays), *rest)
    return want, bound(depth + 2, sizes, dtype)


def expect_forward(p, bias=True):
    depth = p.kernel[0] * p.kernel[1] * p.channels[0]
    return expect(reference.conv2d, (p.x, p.w, p.b if bias else None), p.stride, p.padding, depth=depth, dtype=p.dtype)


def expect_grad_x(p):
    def grad_x(g, w, *rest):
        return reference.conv2d_grad_x(g, w, p.x_shape, *rest)

    depth = p.kernel[0] * p.kernel[1] * p.channels[1]
    return expect(grad_x, (p.g, p.w), p.stride, p.padding, depth=depth, dtype=p.dtype)


def expect_grad_w(p):
    def grad_w(x, g, *rest):
        return reference.conv2d_grad_w(x, g, p.w_shape, *rest)

    depth = p.n * p.y_shape[1] * p.y_shape[2]
    return expect(grad_w, (p.x, p.g), p.stride, p.padding, depth=depth, dtype=p.dtype)


def start(p):
    return (-p.padding[0], -p.padding[1])


def empty(shape, dtype):
    """A result's memory, filled so that an element that is never written shows."""
    return np.full(shape, np.nan, dtype)


@contextmanager
def tiny_blocks(tiny):
    """Cut even small problems into many blocks, products included, as large problems are."""
    if not tiny:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_direct, "COLUMN_BYTES", 256)
        patch.setattr(numpy_direct, "SMALLEST_BYTES", 1)
        patch.setattr(numpy_direct, "PARTIAL_WORK", 1)
        patch.setattr(numpy_direct, "PARTIAL_ROWS", (1, 9))
        patch.setattr(winograd, "LARGEST", 20)
        patch.setattr(winograd, "SMALLEST", 1)
        patch.setattr(winograd, "PARTIAL_TILES", 1)
        patch.setattr(products, "LIMIT", 2000)
        patch.setattr(products, "SUMMED_ROWS", 8)
        patch.setattr(products, "UNPACKED", UnpackedEverywhere())
        products.limit.cache_clear()
        try:
            yield
        finally:
            products.limit.cache_clear()


class UnpackedEverywhere:
    def __contains__(self, name):
        return True


# --- the definition itself --------------------------------------------------------------------------------------------


@given(
    p=conv_problems(channels=st.integers(1, 2), dtype=st.just("float64"), kernel=st.tuples(*[st.integers(1, 3)] * 2))
)
def test_the_positions_definition_is_the_scalar_sum(p):
    small = ConvProblem(
        **{**p.__dict__, "n": min(p.n, 1), "size": tuple(max(k, min(s, 5)) for k, s in zip(p.kernel, p.size))}
    )
    got = reference.conv2d(small.x, small.w, None, small.stride, small.padding)
    want, allowed = expect_forward(small, bias=False)
    assert_close(got, reference.conv2d_scalar(small.x, small.w, small.stride, small.padding), allowed)
    assert_close(got, want, allowed)


def test_a_convolution_by_hand():
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    w = np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1)
    want = [[0 + 10 + 400 + 5000, 1 + 20 + 500 + 6000, 2 + 30 + 600 + 7000], [4 + 50 + 800 + 9000, 9905 + 1060, 12076]]
    want[1][1:] = [5 + 60 + 900 + 10000, 6 + 70 + 1000 + 11000]
    np.testing.assert_array_equal(conv.conv2d(x, w)[0, :, :, 0], want)


@given(p=conv_problems(dtype=st.just("float64")))
def test_the_definitions_gradients_are_adjoint_to_its_forward(p):
    dx = reference.conv2d_grad_x(p.g, p.w, p.x_shape, p.stride, p.padding)
    dw = reference.conv2d_grad_w(p.x, p.g, p.w_shape, p.stride, p.padding)
    y = reference.conv2d(p.x, p.w, None, p.stride, p.padding)
    check_adjoint(p, y, dx, dw, "float64")


def check_adjoint(p, y, dx, dw, dtype, factor=1.0):
    sizes = reference.conv2d(np.abs(wide(p.x)), np.abs(wide(p.w)), None, p.stride, p.padding)
    products_in_all = max(
        1, p.y_shape[1] * p.y_shape[2] * p.n * p.channels[1] * p.channels[0] * p.kernel[0] * p.kernel[1]
    )
    allowed = bound(products_in_all, np.sum(sizes * np.abs(wide(p.g))), dtype, factor)
    want = np.sum(wide(y) * wide(p.g))
    assert_close(np.sum(wide(p.x) * wide(dx)), want, 2 * allowed, "<x, dx>")
    assert_close(np.sum(wide(p.w) * wide(dw)), want, 2 * allowed, "<w, dw>")


# --- every way, forced ------------------------------------------------------------------------------------------------


@given(p=conv_problems(), tiny=st.booleans(), bias=st.booleans())
def test_direct_forward(p, tiny, bias):
    want, allowed = expect_forward(p, bias)
    y = empty(p.y_shape, p.dtype)
    with tiny_blocks(tiny):
        numpy_direct.correlate(p.x, p.w, p.b if bias else None, y, p.stride, start(p))
    assert_close(y, want, allowed)


@given(p=conv_problems(), tiny=st.booleans())
def test_direct_grad_w(p, tiny):
    want, allowed = expect_grad_w(p)
    with tiny_blocks(tiny):
        dw = numpy_direct.correlate_grad_w(p.x, p.g, p.kernel, p.stride, start(p))
    assert_close(dw, want, allowed)


@given(p=conv_problems(), tiny=st.booleans())
def test_direct_grad_x_by_phases(p, tiny):
    want, allowed = expect_grad_x(p)
    dx, w = empty(p.x_shape, p.dtype), p.w.transpose(0, 1, 3, 2)
    with tiny_blocks(tiny):
        numpy_transposed.transposed(numpy_direct.correlate, p.g, w, None, dx, p.stride, p.padding)
    assert_close(dx, want, allowed)


STRIDES = [(m, r, (1, 1)) for m, r in TILES] + [(m, r, s) for m, r in ((4, 2), (3, 3)) for s in ((2, 1), (3, 2))]


def winograd_problems(r, stride):
    kernel = (r * stride[0], r * stride[1])
    return conv_problems(kernel=st.just(kernel), stride=st.just(stride), dtype=st.just("float32"))


@pytest.mark.parametrize(("m", "r", "stride"), STRIDES)
@given(data=st.data(), tiny=st.booleans(), bias=st.booleans())
def test_winograd_forward(m, r, stride, data, tiny, bias):
    p = data.draw(winograd_problems(r, stride))
    want, _ = expect_forward(p, bias)
    y = empty(p.y_shape, p.dtype)
    with tiny_blocks(tiny):
        winograd.correlate(p.x, p.w, p.b if bias else None, y, stride, start(p), m)
    sizes = winograd.magnitude(p.x, p.w, p.y_shape[1:3], stride, start(p), m) + np.abs(wide(p.b)) * bias
    assert_close(y, want, bound(p.channels[0], sizes, p.dtype))


@pytest.mark.parametrize(("m", "r", "stride"), STRIDES)
@given(data=st.data(), tiny=st.booleans())
def test_winograd_grad_w(m, r, stride, data, tiny):
    p = data.draw(winograd_problems(r, stride))
    want, _ = expect_grad_w(p)
    with tiny_blocks(tiny):
        dw = winograd.correlate_grad_w(p.x, p.g, p.kernel, stride, start(p), m)
    sizes = winograd.magnitude_grad_w(p.x, p.g, p.kernel, stride, start(p), m)
    tiles = p.n * -(-p.y_shape[1] // m) * -(-p.y_shape[2] // m)
    assert_close(dw, want, bound(tiles, sizes, p.dtype))


@pytest.mark.parametrize(("m", "r", "stride"), STRIDES)
@given(data=st.data())
def test_winograd_grad_x_by_phases(m, r, stride, data):
    p = data.draw(winograd_problems(r, stride))
    want, _ = expect_grad_x(p)
    dx, sizes = empty(p.x_shape, p.dtype), empty(p.x_shape, "float64")

    def tiled(*arguments):
        winograd.correlate(*arguments, m)

    def measure(x, w, b, out, stride, first):
        out[...] = winograd.magnitude(x, w, out.shape[1:3], stride, first, m)

    w = p.w.transpose(0, 1, 3, 2)
    numpy_transposed.transposed(tiled, p.g, w, None, dx, stride, p.padding)
    numpy_transposed.transposed(measure, p.g, w, None, sizes, stride, p.padding)
    assert_close(dx, want, bound(p.channels[1], sizes, p.dtype))


# --- the public functions ---------------------------------------------------------------------------------------------


@given(p=conv_problems(), tiny=st.booleans())
def test_public_functions(p, tiny):
    with tiny_blocks(tiny):
        y = conv.conv2d(p.x, p.w, p.b, **p.geometry)
        dx = conv.conv2d_grad_x(p.g, p.w, p.x_shape, **p.geometry)
        dw = conv.conv2d_grad_w(p.x, p.g, p.w_shape, **p.geometry)
    assert (y.dtype, dx.dtype, dw.dtype) == (p.dtype,) * 3
    assert y.flags.c_contiguous and dx.flags.c_contiguous and dw.flags.c_contiguous
    for got, (want, allowed) in ((y, expect_forward(p)), (dx, expect_grad_x(p)), (dw, expect_grad_w(p))):
        factor = tile_factor(p)
        assert_close(got, want, factor * np.max(allowed, initial=0.0) if factor > 1 else allowed)
    check_adjoint(p, conv.conv2d(p.x, p.w, **p.geometry), dx, dw, p.dtype, tile_factor(p))


@given(p=conv_problems())
def test_time_and_residual_are_added_to_the_output_in_this_order(p):
    y = conv.conv2d(p.x, p.w, p.b, **p.geometry)
    told = y + p.time[:, None, None]
    np.testing.assert_array_equal(conv.conv2d(p.x, p.w, p.b, time=p.time, **p.geometry), told)
    np.testing.assert_array_equal(conv.conv2d(p.x, p.w, p.b, residual=p.residual, **p.geometry), y + p.residual)
    both = conv.conv2d(p.x, p.w, p.b, time=p.time, residual=p.residual, **p.geometry)
    np.testing.assert_array_equal(both, told + p.residual)


def tile_factor(p):
    """1 where Winograd cannot take part, else what its errors may be larger by if the numbers are of one size."""
    phase = [-(-p.kernel[a] // p.stride[a]) for a in (0, 1)]  # taps of the longest phase
    possible = p.dtype == "float32" and set(phase) & {2, 3} and max(p.channels) >= choice.FEWEST_CHANNELS
    return max(winograd.amplification(m, r) for m, r in TILES) if possible else 1.0


@given(p=conv_problems(), output_padding=st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_transposed_public_functions(p, output_padding):
    extra = tuple(min(e, s - 1) for e, s in zip(output_padding, p.stride))
    size = [(p.size[a] - 1) * p.stride[a] - 2 * p.padding[a] + p.kernel[a] + extra[a] for a in (0, 1)]
    if min(size) < 1:
        with pytest.raises(ValueError, match="padding"):
            conv.conv_transpose2d(p.x, p.w, p.b, output_padding=extra, **p.geometry)
        return
    y = conv.conv_transpose2d(p.x, p.w, p.b, output_padding=extra, **p.geometry)
    assert y.shape == (p.n, *size, p.channels[1])
    g = np.random.default_rng(p.seed).standard_normal(y.shape).astype(p.dtype)
    dx = conv.conv_transpose2d_grad_x(g, p.w, **p.geometry)
    dw = conv.conv_transpose2d_grad_w(p.x, g, p.w_shape, **p.geometry)
    taps, rest = p.kernel[0] * p.kernel[1], (p.stride, p.padding)
    factor = tile_factor(p)

    def grad_w(x, g):
        return reference.conv_transpose2d_grad_w(x, g, p.w_shape, *rest)

    for got, (want, allowed) in (
        (
            y,
            expect(
                reference.conv_transpose2d, (p.x, p.w, p.b), *rest, extra, depth=taps * p.channels[0], dtype=p.dtype
            ),
        ),
        (dx, expect(reference.conv_transpose2d_grad_x, (g, p.w), *rest, depth=taps * p.channels[1], dtype=p.dtype)),
        (dw, expect(grad_w, (p.x, g), depth=p.n * p.size[0] * p.size[1], dtype=p.dtype)),
    ):
        assert_close(got, want, factor * np.max(allowed, initial=0.0) if factor > 1 else allowed)


LARGER = [  # x, w, stride, padding: sizes at which Winograd, folding and phases are chosen
    ((3, 16, 16, 64), (3, 3, 64, 64), 1, 1),
    ((5, 8, 8, 32), (3, 3, 32, 48), 1, 1),
    ((2, 14, 10, 40), (3, 3, 40, 33), 1, 0),
    ((4, 7, 7, 64), (3, 3, 64, 32), 1, 2),
    ((3, 16, 16, 32), (4, 4, 32, 64), 2, 1),
    ((3, 15, 9, 32), (3, 3, 32, 32), 2, 1),
    ((2, 32, 32, 3), (3, 3, 3, 32), 1, 1),
    ((2, 20, 20, 16), (1, 1, 16, 64), 1, 0),
    ((2, 12, 12, 32), (6, 6, 32, 32), 3, 2),
]


def larger(x_shape, w_shape, stride, padding, dtype="float32"):
    kernel, channels = w_shape[:2], w_shape[2:]
    return ConvProblem(x_shape[0], x_shape[1:3], channels, kernel, (stride,) * 2, (padding,) * 2, 5, dtype)


def six(p):
    """All six public functions on one problem's arrays (``g`` stands for the transposed functions' input)."""
    w = np.ascontiguousarray(p.w.transpose(0, 1, 3, 2))
    x_like = conv.conv_transpose2d(p.g, w, **p.geometry)
    return (
        conv.conv2d(p.x, p.w, p.b, **p.geometry),
        conv.conv2d_grad_x(p.g, p.w, p.x_shape, **p.geometry),
        conv.conv2d_grad_w(p.x, p.g, p.w_shape, **p.geometry),
        x_like,
        conv.conv_transpose2d_grad_x(x_like, w, **p.geometry),
        conv.conv_transpose2d_grad_w(p.g, x_like, w.shape, **p.geometry),
    )


@pytest.mark.parametrize("sizes", LARGER, ids=str)
def test_larger_problems_within_winograds_error(sizes):
    p = larger(*sizes)
    y, dx, dw = six(p)[:3]
    factor = max(winograd.amplification(m, r) for m, r in TILES)
    for got, (want, allowed) in ((y, expect_forward(p)), (dx, expect_grad_x(p)), (dw, expect_grad_w(p))):
        assert_close(got, want, factor * np.max(allowed))


@pytest.mark.parametrize("sizes", LARGER, ids=str)
def test_the_bits_do_not_depend_on_the_number_of_threads(sizes):
    before = threads.get_threads()
    results = []
    try:
        with pytest.MonkeyPatch.context() as patch:  # many blocks, as in problems that are too large for a test
            patch.setattr(numpy_direct, "SMALLEST_BYTES", 1)
            patch.setattr(numpy_direct, "PARTIAL_ROWS", (1, 64))
            patch.setattr(winograd, "SMALLEST", 1)
            patch.setattr(winograd, "PARTIAL_TILES", 1)
            for n in (1, 2, 5, 1):
                threads.set_threads(n)
                results.append(six(larger(*sizes)))
    finally:
        threads.set_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", LARGER[:6], ids=str)
def test_linear_in_the_image_and_in_the_kernel(sizes, dtype):
    p = larger(*sizes, dtype)
    other = ConvProblem(**{**p.__dict__, "seed": 6, "dtype": dtype})
    factor = max(winograd.amplification(m, r) for m, r in TILES) if dtype == "float32" else 1.0
    _, allowed = expect_forward(ConvProblem(**{**p.__dict__, "dtype": dtype}), bias=False)
    allowed = 8 * factor * np.max(allowed)
    apart = 2 * wide(conv.conv2d(p.x, p.w, **p.geometry)) - wide(conv.conv2d(other.x, p.w, **p.geometry))
    assert_close(conv.conv2d(2 * p.x - other.x, p.w, **p.geometry), apart, allowed)
    apart = 2 * wide(conv.conv2d(p.x, p.w, **p.geometry)) - wide(conv.conv2d(p.x, other.w, **p.geometry))
    assert_close(conv.conv2d(p.x, 2 * p.w - other.w, **p.geometry), apart, allowed)


@pytest.mark.parametrize("sizes", LARGER, ids=str)
def test_inputs_and_the_memory_around_them_stay_as_they_are(sizes):
    p = larger(*sizes)
    bases = {}
    for name in ("x", "w", "b", "g"):
        plain = getattr(p, name)
        bases[name] = np.full([size + 2 for size in plain.shape], 7.0, p.dtype)
        inner = bases[name][tuple(slice(1, -1) for _ in plain.shape)]
        inner[...] = plain
        p.__dict__[name] = inner  # writeable, so that a write would not raise but show
    before = {name: base.copy() for name, base in bases.items()}
    six(p)
    for name, base in bases.items():
        np.testing.assert_array_equal(base, before[name], err_msg=name)


# --- NaN, Inf, overflow -----------------------------------------------------------------------------------------------


@given(
    p=conv_problems(channels=st.sampled_from([1, 16]), dtype=st.just("float32")),
    where=st.integers(0, 2**31),
    value=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]),
    which=st.sampled_from(["x", "w", "g", "b"]),
)
def test_nan_and_infinity_are_where_the_definition_has_them(p, where, value, which):
    array = getattr(p, which).copy()
    if array.size == 0:
        return
    array.flat[where % array.size] = value
    p.__dict__[which] = array
    y = conv.conv2d(p.x, p.w, p.b, **p.geometry)
    dx = conv.conv2d_grad_x(p.g, p.w, p.x_shape, **p.geometry)
    dw = conv.conv2d_grad_w(p.x, p.g, p.w_shape, **p.geometry)
    with np.errstate(invalid="ignore", over="ignore"):
        for got, (want, allowed) in ((y, expect_forward(p)), (dx, expect_grad_x(p)), (dw, expect_grad_w(p))):
            assert_close(
                got,
                want,
                tile_factor(p) * np.where(np.isfinite(allowed), np.max(allowed[np.isfinite(allowed)], initial=0.0), 0),
            )


@pytest.mark.parametrize(("m", "r"), TILES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["x", "w", "g"])
@pytest.mark.parametrize(("padding", "tiny"), [((1, 1), False), ((2, 0), True)])
def test_winograd_confines_nan_and_infinity(m, r, value, which, padding, tiny):
    """Also in a block of rows that is not the first, and with another padding along each axis."""
    p = ConvProblem(2, (19, 10), (5, 6), (2 * r, r), (2, 1), padding, 3)
    array = getattr(p, which).copy()
    array[(1,) * 4] = value
    if which == "x":
        array[0, 16, 3, 2] = value
    p.__dict__[which] = array
    y = empty(p.y_shape, p.dtype)
    with tiny_blocks(tiny):
        winograd.correlate(p.x, p.w, p.b, y, p.stride, start(p), m)
        dw = winograd.correlate_grad_w(p.x, p.g, p.kernel, p.stride, start(p), m)
    with np.errstate(invalid="ignore"):
        for got, (want, allowed) in ((y, expect_forward(p)), (dw, expect_grad_w(p))):
            finite = allowed[np.isfinite(allowed)]
            assert_close(got, want, winograd.amplification(m, r) * np.max(finite, initial=0.0))


# --- the products -----------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 70),
    depth=st.integers(1, 3),
    stripe=st.integers(1, 8),
    width=st.integers(1, 9),
    tiny=st.booleans(),
)
def test_products(rows, depth, stripe, width, tiny):
    rng = np.random.default_rng(rows)
    a, b = rng.standard_normal((rows, depth * stripe)), rng.standard_normal((depth * stripe, width))
    g = rng.standard_normal((rows, width))
    out = empty((rows, width), a.dtype)
    with tiny_blocks(tiny):
        products.multiply(a, b, out)
        twice = products.multiply_transposed(a, g, stripe, products.multiply_transposed(a, g, stripe, None))
    assert_close(out, a @ b, bound(depth * stripe, np.abs(a) @ np.abs(b), a.dtype))
    assert_close(twice.reshape(-1, width), 2 * a.T @ g, bound(2 * rows, 2 * np.abs(a).T @ np.abs(g), a.dtype))


# --- bad input --------------------------------------------------------------------------------------------------------

X, W, G, B = np.zeros((2, 5, 6, 3)), np.zeros((3, 3, 3, 4)), np.zeros((2, 3, 4, 4)), np.zeros(4)


@pytest.mark.parametrize(
    ("function", "args", "settings", "error", "message"),
    [
        ("conv2d", (X.astype(int), W), {}, TypeError, "x must be float32 or float64, got int64"),
        ("conv2d", (X.tolist(), W), {}, TypeError, "expected a NumPy or CuPy array, got list"),
        ("conv2d", (X, W.astype("f4")), {}, TypeError, "x, w must share one dtype"),
        ("conv2d", (X, W, B.astype("f4")), {}, TypeError, "x, b must share one dtype"),
        ("conv2d", (X[0], W), {}, ValueError, r"x must have 4 axes, got shape \(5, 6, 3\)"),
        ("conv2d", (X, W[0]), {}, ValueError, "w must have 4 axes"),
        ("conv2d", (X[..., :2], W), {}, ValueError, r"x has 2 channels, but w of shape \(3, 3, 3, 4\) has c_in = 3"),
        ("conv2d", (X, W, np.zeros(3)), {}, ValueError, r"b must have shape \(4,\)"),
        ("conv2d", (X[:, :0], W), {}, ValueError, "x may be empty along the batch axis only"),
        ("conv2d", (X, W[..., :0]), {}, ValueError, "w may be empty along no axis"),
        ("conv2d", (X, W), {"stride": 0}, ValueError, "stride must be one or two integers of at least 1, got 0"),
        ("conv2d", (X, W), {"padding": (0, -1)}, ValueError, "padding must be one or two integers of at least 0"),
        (
            "conv2d",
            (X[:, :1], W),
            {"padding": (0, 1)},
            ValueError,
            "the kernel, 3 x 3, must not be larger than x with its padding, 1 x 8",
        ),
        ("conv2d_grad_x", (G, W, (2, 5, 6)), {}, ValueError, "x_shape must have 4 numbers"),
        ("conv2d_grad_x", (G, W, (2, 5, 6, 2)), {}, ValueError, "x_shape must end in w's 3 input channels"),
        (
            "conv2d_grad_x",
            (G, W, (2, 5, 7, 3)),
            {},
            ValueError,
            r"g must have shape \(2, 3, 5, 4\) .*image of shape \(2, 5, 7, 3\)",
        ),
        ("conv2d_grad_x", (G[..., :2], W, X.shape), {}, ValueError, "g has 2 channels, but w .* has c_out = 4"),
        (
            "conv2d_grad_w",
            (X, G, (3, 3, 3, 5)),
            {},
            ValueError,
            r"w_shape must end in the channels of x and g, \(3, 4\)",
        ),
        ("conv2d_grad_w", (X, G, (2, 3, 3, 4)), {}, ValueError, r"g must have shape \(2, 4, 4, 4\)"),
        ("conv2d_grad_w", (X, G.astype("f4"), W.shape), {}, TypeError, "x, g must share one dtype"),
        ("conv2d_grad_w", (X, G, (6, 3, 3, 4)), {}, ValueError, "the kernel, 6 x 3, must not be larger than x"),
        (
            "conv_transpose2d",
            (X, W),
            {"output_padding": 1},
            ValueError,
            r"output_padding must be less than the stride \(1, 1\), got \(1, 1\)",
        ),
        ("conv_transpose2d", (X, W), {"padding": 4}, ValueError, r"padding \(4, 4\) leaves an output of -1 x 0 pixels"),
        ("conv_transpose2d", (G, W), {}, ValueError, "x has 4 channels, but w .* has c_in = 3"),
        ("conv_transpose2d_grad_x", (X, W), {}, ValueError, "g has 3 channels, but w .* has c_out = 4"),
        ("conv_transpose2d_grad_x", (G[:, :2], W), {}, ValueError, "the kernel, 3 x 3, must not be larger than g"),
        ("conv_transpose2d_grad_w", (X, G, W.shape), {}, ValueError, r"x must have shape \(2, 1, 2, 3\)"),
    ],
)
def test_bad_input_is_named(function, args, settings, error, message):
    plain = inspect.unwrap(getattr(conv, function))  # without the shape checks that tests switch on
    with pytest.raises(error, match=message):
        plain(*args, **settings)
