"""Every operation's first and second derivative against finite differences, and its value against NumPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rungs import needs_compiler
from scipy.stats import norm

import autograd as ag
from autograd import fused
from kernels import compare
from kernels.cross_entropy import cuda as cross_entropy_cuda
from kernels.device import running_on
from kernels.emulator import Emulator

_rng = np.random.default_rng(1)


def r(*shape):
    return _rng.standard_normal(shape)


def positive(*shape):
    return _rng.random(shape) + 0.5


MASK = np.array([[1, 0, 1, 1], [0, 0, 0, 0]], bool)

CASES = {
    "add": (ag.add, [r(3, 4), r(4)]),
    "sub": (ag.sub, [r(3, 1), r(2, 3, 4)]),
    "mul": (ag.mul, [r(3, 4), r(1, 4)]),
    "div": (ag.div, [r(3, 4), positive(3, 1)]),
    "neg": (ag.neg, [r(3)]),
    "power 3": (lambda x: ag.power(x, 3), [r(3)]),
    "power 1/2": (lambda x: ag.power(x, 0.5), [positive(3)]),
    "power 0": (lambda x: ag.power(x, 0) * x, [r(3)]),
    "square": (ag.square, [r(3)]),
    "exp": (ag.exp, [r(3)]),
    "log": (ag.log, [positive(3)]),
    "log1p": (ag.log1p, [positive(3)]),
    "sqrt": (ag.sqrt, [positive(3)]),
    "abs": (ag.abs, [r(4)]),
    "sin": (ag.sin, [r(3)]),
    "cos": (ag.cos, [r(3)]),
    "tanh": (ag.tanh, [r(3)]),
    "sigmoid": (ag.sigmoid, [r(3)]),
    "softplus": (ag.softplus, [r(3)]),
    "normal_cdf": (ag.normal_cdf, [r(3)]),
    "relu": (ag.relu, [r(5)]),
    "leaky_relu": (ag.leaky_relu, [r(5)]),
    "silu": (ag.silu, [r(5)]),
    "gelu": (ag.gelu, [r(5)]),
    "maximum": (ag.maximum, [r(5), r(2, 5)]),
    "minimum": (ag.minimum, [r(5), r(5)]),
    "clip": (lambda x: ag.clip(x, -0.5, 0.5), [r(7)]),
    "where": (lambda a, b: ag.where(np.array([True, False, True]), a, b), [r(3), r(2, 3)]),
    "sum": (lambda x: ag.sum(x, (0, 2)), [r(2, 3, 4)]),
    "sum keepdims": (lambda x: ag.sum(x, 1, keepdims=True), [r(2, 3)]),
    "sum all": (ag.sum, [r(2, 3)]),
    "sum rows": (lambda x: ag.sum(x, (0, 1)), [r(2, 3, 4)]),
    "mean": (lambda x: ag.mean(x, -1), [r(2, 3)]),
    "var": (lambda x: ag.var(x, 0), [r(4, 3)]),
    "max": (lambda x: ag.max(x, 1), [r(3, 4)]),
    "min": (lambda x: ag.min(x, (0, 1)), [r(3, 4)]),
    "softmax": (lambda x: ag.softmax(x, 0), [r(3, 4)]),
    "logsumexp": (lambda x: ag.logsumexp(x, 1), [r(3, 4)]),
    "log_softmax": (ag.log_softmax, [r(3, 4)]),
    "cumsum": (lambda x: ag.cumsum(x, 1), [r(3, 4)]),
    "cumsum last axis": (ag.cumsum, [r(3, 2, 4)]),
    "top_k": (lambda x: ag.top_k(x, 2)[0], [r(3, 5)]),
    "reshape": (lambda x: ag.reshape(x, (4, -1)), [r(2, 6)]),
    "transpose": (lambda x: ag.transpose(x, (2, 0, 1)), [r(2, 3, 4)]),
    "broadcast_to": (lambda x: ag.broadcast_to(x, (5, 3, 4)), [r(3, 1)]),
    "getitem slice": (lambda x: x[1:, ::2], [r(3, 5)]),
    "getitem rows twice": (lambda x: x[np.array([0, 2, 2])], [r(3, 5)]),
    "getitem negative rows": (lambda x: x[np.array([-1, 0])], [r(3, 5)]),
    "getitem array on axis 1": (lambda x: x[:, np.array([[0, 2], [2, 1]])], [r(3, 5)]),
    "getitem mask": (lambda x: x[np.array([True, False, True])], [r(3, 5)]),
    "getitem new axis": (lambda x: x[None, ..., 0], [r(3, 5)]),
    "gather": (lambda x: ag.gather(x, np.array([[0, 0], [1, 2], [3, 1]]), 1), [r(3, 4)]),
    "gather middle axis": (lambda x: ag.gather(x, np.array([[[0], [2]], [[1], [1]]]), 1), [r(2, 3, 4)]),
    "concat": (lambda a, b: ag.concat([a, b], 1), [r(2, 3), r(2, 2)]),
    "stack": (lambda a, b: ag.stack([a, b], 1), [r(2, 3), r(2, 3)]),
    "pad": (lambda x: ag.pad(x, [(1, 0), (0, 2)]), [r(2, 3)]),
    "matmul": (ag.matmul, [r(3, 4), r(4, 2)]),
    "matmul batch": (ag.matmul, [r(2, 1, 3, 4), r(5, 4, 2)]),
    "matmul batch by matrix": (ag.matmul, [r(2, 3, 4), r(4, 2)]),
    "matmul matrix by vector": (ag.matmul, [r(2, 3), r(3)]),
    "matmul vector by matrix": (ag.matmul, [r(3), r(3, 2)]),
    "matmul vector by batch": (ag.matmul, [r(3), r(2, 4, 3, 2)]),
    "matmul batch by vector": (ag.matmul, [r(2, 4, 3), r(3)]),
    "matmul vectors": (ag.matmul, [r(3), r(3)]),
    "linear": (ag.linear, [r(2, 3, 4), r(4, 5), r(5)]),
    "einsum": (lambda a, b: ag.einsum("nhid,njd->nhij", a, b), [r(2, 3, 2, 4), r(2, 3, 4)]),
    "einsum sum": (lambda a: ag.einsum("ij->j", a), [r(2, 3)]),
    "einsum three": (lambda a, b, c: ag.einsum("ij,jk,kl->il", a, b, c), [r(2, 3), r(3, 4), r(4, 2)]),
    "conv2d": (lambda x, w, b: ag.conv2d(x, w, b, stride=2, padding=1), [r(2, 5, 6, 3), r(3, 3, 3, 4), r(4)]),
    "conv2d 1x1": (ag.conv2d, [r(2, 3, 2, 3), r(1, 1, 3, 4)]),
    "conv2d of a residual block": (
        lambda x, w, b, t, a: ag.conv2d(x, w, b, time=t, residual=a, padding=1),
        [r(2, 3, 4, 3), r(3, 3, 3, 4), r(4), r(2, 4), r(2, 3, 4, 4)],
    ),
    "conv_transpose2d": (
        lambda x, w, b: ag.conv_transpose2d(x, w, b, stride=2, padding=1),
        [r(2, 3, 4, 3), r(4, 4, 3, 2), r(2)],
    ),
    "attention": (ag.attention, [r(2, 2, 3, 4), r(2, 2, 5, 4), r(2, 2, 5, 3)]),
    "attention causal": (lambda q, k, v: ag.attention(q, k, v, causal=True), [r(2, 2, 4, 4)] * 3),
    "attention masked": (
        lambda q, k, v: ag.attention(q, k, v, key_mask=MASK),
        [r(2, 2, 3, 4), r(2, 2, 4, 4), r(2, 2, 4, 4)],
    ),
    "group_norm": (lambda x, g, b: ag.group_norm(x, g, b, 2), [r(2, 3, 2, 4), r(4), r(4)]),
    "group_norm silu": (lambda x, g, b: ag.group_norm(x, g, b, 2, silu=True), [r(2, 3, 2, 4), r(4), r(4)]),
    "group_norm adaptive": (lambda x, g, b: ag.group_norm(x, g, b, 2), [r(2, 3, 2, 4), r(2, 4), r(2, 4)]),
    "layer_norm": (ag.layer_norm, [r(3, 2, 4), r(4), r(4)]),
    "cross_entropy": (lambda x: ag.cross_entropy(x, np.array([0, 2, 1])), [r(3, 4)]),
    "embedding": (lambda x: ag.embedding(x, np.array([[0, 2], [2, 1]])), [r(3, 4)]),
    "upsample_nearest": (lambda x: ag.upsample_nearest(x, 2), [r(2, 2, 3, 2)]),
    "avg_pool": (lambda x: ag.avg_pool(x, 2), [r(2, 2, 4, 2)]),
    "max_pool": (lambda x: ag.max_pool(x, 2), [r(2, 2, 4, 2)]),
    "dropout": (lambda x: ag.dropout(x, np.array([True, False, True]), 0.5), [r(2, 3)]),
    "reparameterize": (lambda m, v: ag.reparameterize(m, v, np.array([0.3, -1.0])), [r(2), r(2)]),
    "gumbel_softmax": (lambda x: ag.gumbel_softmax(x, np.full((2, 3), 0.4), 0.7), [r(2, 3)]),
}


# --- what NumPy says of the same inputs -------------------------------------------------------------------------------


def softmax(x, axis=-1):
    e = np.exp(x)
    return e / e.sum(axis, keepdims=True)


def convolution(x, w, b, stride, padding):
    x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[:2], (1, 2))[:, ::stride, ::stride]
    return np.einsum("nijcuv,uvco->nijo", windows, w) + b


def transposed_convolution(x, w, b, stride, padding):
    n, height, width, _ = x.shape
    kh, kw, _, c_out = w.shape
    y = np.zeros((n, (height - 1) * stride + kh, (width - 1) * stride + kw, c_out))
    for i in range(height):
        for j in range(width):
            y[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += np.einsum(
                "nc,uvco->nuvo", x[:, i, j], w
            )
    return y[:, padding : y.shape[1] - padding, padding : y.shape[2] - padding] + b


def attention(q, k, v, allowed=1.0):
    e = np.exp(np.einsum("nhid,nhjd->nhij", q, k) / q.shape[-1] ** 0.5) * allowed
    total = e.sum(-1, keepdims=True)
    return np.einsum("nhij,nhjd->nhid", e / np.where(total == 0, 1, total), v)


def group_norm(x, gamma, beta, groups=2):
    parts = np.split(x, groups, -1)
    axes = tuple(range(1, x.ndim))
    z = [(p - p.mean(axes, keepdims=True)) / np.sqrt(p.var(axes, keepdims=True) + 1e-5) for p in parts]
    gamma, beta = (p if p.ndim == 1 else p[:, None, None] for p in (gamma, beta))
    return np.concatenate(z, -1) * gamma + beta


def layer_norm(x, gamma, beta):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta


def silu(x):
    return x / (1 + np.exp(-x))


def blocks(x):
    """(n, h, w, c) -> (n, h / 2, w / 2, 4, c)"""
    return np.stack([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 3)


VALUES = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "power 3": lambda x: x * x * x, "power 1/2": np.sqrt, "power 0": lambda x: x, "square": np.square,
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt, "abs": np.abs, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "normal_cdf": norm.cdf,
    "relu": lambda x: x * (x > 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "silu": silu,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "maximum": np.maximum, "minimum": np.minimum,
    "clip": lambda x: np.clip(x, -0.5, 0.5),
    "where": lambda a, b: np.stack([a[0] + 0 * b[:, 0], b[:, 1], a[2] + 0 * b[:, 2]], 1),
    "sum": lambda x: x.sum((0, 2)), "sum keepdims": lambda x: x.sum(1, keepdims=True), "sum all": np.sum, "sum rows": lambda x: x.sum((0, 1)),
    "mean": lambda x: x.mean(-1), "var": lambda x: ((x - x.mean(0)) ** 2).mean(0), "max": lambda x: x.max(1), "min": lambda x: x.min((0, 1)),
    "softmax": lambda x: softmax(x, 0),
    "logsumexp": lambda x: np.log(np.exp(x).sum(1)),
    "log_softmax": lambda x: np.log(softmax(x)),
    "cumsum": lambda x: np.cumsum(x, 1),
    "cumsum last axis": lambda x: np.cumsum(x, 2),
    "top_k": lambda x: np.sort(x)[:, :-3:-1],
    "reshape": lambda x: x.reshape(4, 3), "transpose": lambda x: np.moveaxis(x, 2, 0), "broadcast_to": lambda x: np.zeros((5, 3, 4)) + x,
    "getitem slice": lambda x: x[1:, ::2],
    "getitem rows twice": lambda x: np.stack([x[0], x[2], x[2]]),
    "getitem negative rows": lambda x: np.stack([x[2], x[0]]),
    "getitem array on axis 1": lambda x: np.stack([x[:, [0, 2]], x[:, [2, 1]]], 1),
    "getitem mask": lambda x: np.stack([x[0], x[2]]),
    "getitem new axis": lambda x: x[:, 0].reshape(1, 3),
    "gather": lambda x: np.array([[x[0, 0], x[0, 0]], [x[1, 1], x[1, 2]], [x[2, 3], x[2, 1]]]),
    "gather middle axis": lambda x: np.stack([x[0, [0, 2]], x[1, [1, 1]]]),
    "concat": lambda a, b: np.hstack([a, b]),
    "stack": lambda a, b: np.array([[a[0], b[0]], [a[1], b[1]]]),
    "pad": lambda x: np.pad(x, ((1, 0), (0, 2))),
    "matmul": np.matmul, "matmul batch": np.matmul, "matmul batch by matrix": np.matmul, "matmul matrix by vector": np.matmul,
    "matmul vector by matrix": np.matmul, "matmul vector by batch": np.matmul,
    "matmul batch by vector": np.matmul, "matmul vectors": np.dot,
    "linear": lambda x, w, b: x @ w + b,
    "einsum": lambda a, b: np.einsum("nhid,njd->nhij", a, b), "einsum sum": lambda a: a.sum(0),
    "einsum three": lambda a, b, c: a @ b @ c,
    "conv2d": lambda x, w, b: convolution(x, w, b, 2, 1),
    "conv2d 1x1": lambda x, w: x @ w[0, 0],
    "conv2d of a residual block": lambda x, w, b, t, a: convolution(x, w, b, 1, 1) + t[:, None, None] + a,
    "conv_transpose2d": lambda x, w, b: transposed_convolution(x, w, b, 2, 1),
    "attention": attention,
    "attention causal": lambda q, k, v: attention(q, k, v, np.tri(4)),
    "attention masked": lambda q, k, v: attention(q, k, v, MASK[:, None, None]),
    "group_norm": group_norm,
    "group_norm silu": lambda x, g, b: silu(group_norm(x, g, b)),
    "group_norm adaptive": group_norm,
    "layer_norm": layer_norm,
    "cross_entropy": lambda x: -np.log(softmax(x))[[0, 1, 2], [0, 2, 1]],
    "embedding": lambda x: np.array([[x[0], x[2]], [x[2], x[1]]]),
    "upsample_nearest": lambda x: x.repeat(2, 1).repeat(2, 2),
    "avg_pool": lambda x: blocks(x).mean(3), "max_pool": lambda x: blocks(x).max(3),
    "dropout": lambda x: x * [2.0, 0.0, 2.0],
    "reparameterize": lambda m, v: m + np.sqrt(np.exp(v)) * [0.3, -1.0],
    "gumbel_softmax": lambda x: softmax((x - np.log(-np.log(0.4))) / 0.7),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_are_numpys(name):
    function, inputs = CASES[name]
    want = VALUES[name](*inputs)
    got = function(*inputs)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives(name):
    function, inputs = CASES[name]
    ag.gradcheck(function, inputs, order=2)


def test_every_operation_has_a_case():
    tested = {name.split()[0] for name in CASES}
    helpers = {"Tensor", "grad", "gradcheck", "enable_grad", "no_grad", "operation", "raw"}
    assert set(ag.__all__) - tested - helpers - {"stop_gradient", "straight_through"} == set()


@pytest.mark.parametrize("name", CASES)
def test_arrays_in_arrays_out(name):
    function, inputs = CASES[name]
    plain = function(*inputs)
    tensor = function(*(ag.Tensor(x) for x in inputs))
    assert not isinstance(plain, ag.Tensor) and isinstance(tensor, ag.Tensor)
    np.testing.assert_array_equal(plain, tensor.data)


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32(name):
    function, inputs = CASES[name]
    if name == "reparameterize":
        pytest.skip("its noise is given in float64 here")
    leaves = [ag.Tensor(x.astype(np.float32), requires_grad=True) for x in inputs]
    y = function(*leaves)
    assert y.dtype == np.float32
    y.backward(np.ones(y.shape, np.float32))
    assert all(leaf.grad.dtype == np.float32 and leaf.grad.shape == leaf.shape for leaf in leaves)


SETTINGS = {
    "attention": {"causal": True, "key_mask": np.array([[True, True, False]]), "scale": 0.3},
    "group_norm": {"groups": 2, "eps": 1e-5, "silu_after": True},
    "layer_norm": {"eps": 1e-5},
    "cross_entropy": {"targets": np.array([1, 0])},
    "upsample_nearest": {"factor": 3},
    "avg_pool": {"factor": 2},
}
ARGUMENTS = {
    "attention": [r(1, 2, 3, 4)] * 3,
    "group_norm": [r(2, 3, 3, 4), r(4), r(4)],
    "layer_norm": [r(3, 5), r(5), r(5)],
    "cross_entropy": [r(2, 4)],
    "upsample_nearest": [r(2, 3, 2, 2)],
    "avg_pool": [r(2, 4, 2, 3)],
}


@pytest.mark.parametrize("name", fused.COMPOSED)
def test_kernel_agrees_with_its_composed_definition(name):
    leaves = [ag.Tensor(x, requires_grad=True) for x in ARGUMENTS[name]]
    kernel = getattr(fused, f"_{name}")(*leaves, **SETTINGS[name])
    definition = fused.COMPOSED[name](*leaves, **SETTINGS[name])
    allowed = compare.bound(100, 10.0, np.float64)
    compare.assert_close(kernel.data, definition.data, allowed)
    u = r(*kernel.shape)
    for a, b in zip(ag.grad(kernel, leaves, u), ag.grad(definition, leaves, u)):
        compare.assert_close(a.data, b.data, allowed)


@pytest.mark.parametrize("name", ["attention", "cross_entropy"])
def test_composed_definitions_of_large_scores_do_not_overflow(name):
    """Beyond e^709 there is no number: a softmax must be taken of differences to the largest score."""
    arguments = [2000 * ARGUMENTS[name][0], *ARGUMENTS[name][1:]]
    kernel, definition = getattr(fused, f"_{name}"), fused.COMPOSED[name]
    allowed = compare.bound(100, 10.0 * np.abs(arguments[0]).max(), np.float64)
    compare.assert_close(kernel(*arguments, **SETTINGS[name]), definition(*arguments, **SETTINGS[name]), allowed)


def _losses(dtype):
    x = ag.Tensor((3 * np.random.default_rng(0).standard_normal((5, 40))).astype(dtype), requires_grad=True)
    return x, ag.cross_entropy(x * 1.0, np.array([0, 39, 7, 7, 2]))


TOTALS = {
    "mean": ag.mean,
    "weighted": lambda y: ag.sum(y * np.array([1, 0, -2, 0.2, 3]).astype(y.dtype)),
    "used twice": lambda y: ag.mean(y) + ag.mean(y * y),
}


@needs_compiler
@pytest.mark.parametrize("total", TOTALS)
def test_training_reads_the_logits_of_a_cross_entropy_once(total):
    with running_on(Emulator()) as device:
        x, losses = _losses(np.float32)
        TOTALS[total](losses).backward()
    device.check()
    assert device.ran == ["2_on_chip.cu"] * 2
    x64, losses64 = _losses(np.float64)
    TOTALS[total](losses64).backward()
    compare.assert_close(losses.data, losses64.data, compare.bound(40, 30.0, np.float32))
    compare.assert_close(x.grad, x64.grad, compare.bound(40, 30.0 * np.abs(losses64.data).max(), np.float32))


@needs_compiler
def test_the_gradient_of_a_mean_is_the_one_that_was_computed_ahead():
    """To the bit, so that no row is multiplied: what the mean hands back must be 1 / m as float32 has it."""
    for m in (3, 5, 7, 41):
        logits, targets = r(m, 6).astype(np.float32), np.arange(m) % 6
        x = ag.Tensor(logits, requires_grad=True)
        with running_on(Emulator()) as device:
            ag.mean(ag.cross_entropy(x, targets)).backward()
            _, want = cross_entropy_cuda.foresee(device, logits, targets)
        np.testing.assert_array_equal(x.grad, want)


@needs_compiler
def test_a_cross_entropy_without_a_backward_pass_computes_no_gradient():
    x, targets = r(3, 4).astype(np.float32), np.array([0, 2, 1])
    for logits in (x, ag.Tensor(x)):
        with running_on(Emulator()) as device:
            ag.cross_entropy(logits, targets)
        assert device.ran == ["1_online.cu"]
    with running_on(Emulator()) as device, ag.no_grad():
        ag.cross_entropy(ag.Tensor(x, requires_grad=True), targets)
    assert device.ran == ["1_online.cu"]


@needs_compiler
def test_second_derivatives_of_a_cross_entropy_and_then_its_backward_pass():
    """Where the gradient is computed ahead: second derivatives go through the definition and leave it as it is."""

    def results(dtype):
        x, losses = _losses(dtype)
        total = ag.mean(losses)
        slope = ag.grad(total, x, create_graph=True)
        curvature = ag.grad(ag.sum(slope * slope), x, create_graph=True)
        again = ag.grad(ag.sum(losses), x, create_graph=True)
        ag.sum(losses * 3.0).backward()
        return slope.data, curvature.data, again.data, x.grad

    with running_on(Emulator()) as device:
        got = results(np.float32)
    device.check()
    for a, b in zip(got, results(np.float64)):
        compare.assert_close(a, b, compare.bound(40, 90.0, np.float32))


def test_gradcheck_sees_a_wrong_derivative():
    wrong = ag.operation(lambda g, y, x: g * x, keep="0")(lambda x: x * x)  # should be 2 x
    with pytest.raises(AssertionError, match="first derivative"):
        ag.gradcheck(wrong, [r(3)])
    # right at first order: the product is a plain array, so nothing of it is recorded
    once = ag.operation(lambda g, y, x: g * (2 * ag.raw(x)), keep="0")(lambda x: x * x)
    ag.gradcheck(once, [r(3)])
    with pytest.raises(AssertionError, match="second derivative"):
        ag.gradcheck(once, [r(3)], order=2)
    with pytest.raises(AssertionError, match="second derivative, input 2"):
        ag.gradcheck(lambda a, b, c: a * b + once(c), [r(3), r(3), r(3)], order=2)
    # to seven digits, also where the function is much larger than its gradient; and the recorded gradient is the plain
    # one
    off = 2 * (1 + 2e-7)
    nearly = ag.operation(lambda g, y, x: g * (off * x), keep="0")(lambda x: x * x)
    for shift in (0.0, 3.0):
        with pytest.raises(AssertionError, match="first derivative"):
            ag.gradcheck(lambda x, shift=shift: nearly(x) + shift, [np.array([0.7])])
    other = ag.operation(lambda g, y, x: g * ((off if isinstance(x, ag.Tensor) else 2) * x), keep="0")(lambda x: x * x)
    with pytest.raises(AssertionError, match="differs with create_graph=True"):
        ag.gradcheck(other, [np.array([0.7])], order=2)
    with pytest.raises(TypeError, match="float64"):
        ag.gradcheck(ag.exp, [np.ones(2, np.float32)])
    with pytest.raises(TypeError, match="inputs must be a list of arrays, one for each argument, got ndarray"):
        ag.gradcheck(ag.exp, np.ones(2))
    for function, got in ((lambda x: x.data, "ndarray"), (lambda x: (x, x), "tuple")):
        with pytest.raises(TypeError, match=f"the function must return a Tensor, got {got}"):
            ag.gradcheck(function, [np.ones(2)], order=2)


def test_gradcheck_of_a_function_that_takes_a_gradient_within():
    def penalty(x, w):
        (slope,) = ag.grad(ag.sum(ag.tanh(x @ w)), [x], create_graph=True)
        return ag.sum(slope * slope)

    ag.gradcheck(penalty, [r(3, 4), r(4, 2)], order=2)
    cut = lambda x, w: penalty(x, w) + ag.sum(ag.stop_gradient(penalty(x, w)))  # noqa: E731
    with pytest.raises(AssertionError, match="first derivative"):
        ag.gradcheck(cut, [r(3, 4), r(4, 2)])


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_top_k_is_the_head_of_a_sort(n, m, seed):
    x = np.random.default_rng(seed).integers(0, 3, (m, 2, n)).astype(float)
    for k in range(1, n + 1):
        values, indices = ag.top_k(x, k)
        np.testing.assert_array_equal(values, -np.sort(-x, axis=-1)[..., :k])
        np.testing.assert_array_equal(np.take_along_axis(x, indices, -1), values)
        assert all(len(set(row)) == k for row in indices.reshape(-1, k).tolist())


def test_stable_at_the_extremes():
    x = np.array([-1e4, 0.0, 1e4])
    np.testing.assert_allclose(ag.softmax(x), [0, 0, 1])
    np.testing.assert_allclose(ag.logsumexp(x), 1e4)
    np.testing.assert_allclose(ag.softplus(x), [0, np.log(2), 1e4])
    np.testing.assert_allclose(ag.sigmoid(x), [0, 0.5, 1])
    with np.errstate(divide="ignore"):
        assert ag.logsumexp(np.full(3, -np.inf)) == -np.inf


TIES = {
    "max": (lambda x: ag.max(x), [2.0, 1, 2], [0.5, 0, 0.5]),
    "max of an axis": (lambda x: ag.sum(ag.max(ag.reshape(x, (2, 2)), 1)), [3.0, 3, 1, 2], [0.5, 0.5, 0, 1]),
    "min": (lambda x: ag.min(x), [1.0, 1, 2], [0.5, 0.5, 0]),
    "maximum": (lambda x: ag.sum(ag.maximum(x, 1.0)), [0.0, 1, 2], [0, 0.5, 1]),
    "maximum, from the right": (lambda x: ag.sum(ag.maximum(1.0, x)), [0.0, 1, 2], [0, 0.5, 1]),
    "minimum": (lambda x: ag.sum(ag.minimum(x, 1.0)), [0.0, 1, 2], [1, 0.5, 0]),
    "minimum, from the right": (lambda x: ag.sum(ag.minimum(1.0, x)), [0.0, 1, 2], [1, 0.5, 0]),
    "clip": (lambda x: ag.sum(ag.clip(x, -1, 1)), [-2.0, -1, 0, 1, 2], [0, 1, 1, 1, 0]),
    "abs": (lambda x: ag.sum(ag.abs(x)), [-2.0, 0, 3], [-1, 0, 1]),
    "relu": (lambda x: ag.sum(ag.relu(x)), [-1.0, 0, 1], [0, 0, 1]),
    "leaky_relu": (lambda x: ag.sum(ag.leaky_relu(x, 0.25)), [-1.0, 0, 1], [0.25, 0.25, 1]),
}


@pytest.mark.parametrize("name", TIES)
def test_gradients_at_ties_are_those_of_the_docstrings(name):
    function, x, want = TIES[name]
    x = ag.Tensor(np.array(x), requires_grad=True)
    function(x).backward()
    np.testing.assert_array_equal(x.grad, want)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64])
def test_whole_numbers_are_constants_with_the_right_values(dtype):
    x, y = np.array([0, 1, 1], dtype), np.array([1, 1, 0], dtype)
    assert ag.min(x) == 0 and ag.max(x) == 1
    np.testing.assert_array_equal(ag.minimum(x, y), [0, 1, 0])
    np.testing.assert_array_equal(ag.maximum(x, y), [1, 1, 1])
    soft = ag.softplus(x)  # NumPy's choice of a float
    np.testing.assert_allclose(soft, np.log1p(np.exp([0.0, 1, 1])), rtol=float(np.finfo(soft.dtype).eps))
    np.testing.assert_array_equal(ag.leaky_relu(x, 0.2), [0, 1, 1])
    for function in (ag.softmax, ag.logsumexp, ag.log_softmax):
        with pytest.raises(TypeError, match="needs floats"):
            function(x)


def test_whole_numbers_below_zero():
    x = np.array([-5, 3])
    np.testing.assert_array_equal(ag.leaky_relu(x, 0.2), [-1, 3])
    assert ag.min(x) == -5


def test_where_keeps_nan_of_the_other_branch_out():
    x = ag.Tensor(np.array([0.0, 4.0]), requires_grad=True)
    y = ag.where(x.data > 0, ag.sqrt(ag.where(x.data > 0, x, 1.0)), 0.0)
    ag.sum(y).backward()
    np.testing.assert_array_equal(x.grad, [0, 0.25])


def test_straight_through_and_stop_gradient():
    x = ag.Tensor(np.array([0.2, 0.7]), requires_grad=True)
    y = ag.straight_through(np.round(x.data), x * x)
    np.testing.assert_allclose(y.data, [0, 1])
    (ag.sum(y) + ag.sum(ag.stop_gradient(x) * 100.0)).backward()
    np.testing.assert_allclose(x.grad, [0.4, 1.4])
    with pytest.raises(ValueError, match="one shape"):
        ag.straight_through(np.zeros(3), x)


def test_gumbel_softmax_draws_from_the_categorical(rng):
    logits = np.log(np.array([0.1, 0.2, 0.7]))
    y = ag.gumbel_softmax(np.broadcast_to(logits, (20_000, 3)), rng.random((20_000, 3)), 0.5, hard=True)
    np.testing.assert_allclose(y.sum(1), 1)
    share = y.mean(0)  # five standard deviations of a share of 20,000 draws
    assert np.all(np.abs(share - np.exp(logits)) < 5 * np.sqrt(np.exp(logits) * (1 - np.exp(logits)) / 20_000))
    images, u = rng.standard_normal((2, 3, 4, 5)), rng.random((2, 3, 4, 5))
    soft, hard = ag.gumbel_softmax(images, u, 0.5), ag.gumbel_softmax(images, u, 0.5, hard=True)
    assert soft.max() < 1
    np.testing.assert_allclose(hard, np.eye(5)[soft.argmax(-1)], atol=1e-15)
    with pytest.raises(ValueError, match="temperature"):
        ag.gumbel_softmax(logits, np.full(3, 0.5), 0.0)


@pytest.mark.parametrize("shape", [(0, 3, 3, 4), (0, 3, 4), (2, 0, 4), (0, 4)])
def test_second_derivatives_of_a_group_norm_of_nothing(shape):
    x, gamma = (ag.Tensor(np.ones(s), requires_grad=True) for s in (shape, 4))
    (g,) = ag.grad(ag.sum(ag.group_norm(x, gamma, gamma, 2)), [x], create_graph=True)
    (h,) = ag.grad(ag.sum(g * g), [gamma])
    assert g.shape == shape and (h.data == 0).all()


def test_einsum_names_a_letter_of_two_sizes():
    with pytest.raises(ValueError, match="'j' stands for 1 and for 4 numbers"):
        ag.einsum("ij,jk->ik", np.ones((3, 1)), np.ones((4, 5)))


@pytest.mark.parametrize("spec", ["ij,jk", "...i->i", "ii->i", "ij->j,"])
def test_einsum_refuses_what_it_cannot_differentiate(spec):
    with pytest.raises(ValueError, match="einsum"):
        ag.einsum(spec, np.ones((2, 2)), *([np.ones((2, 2))] if spec.split("->")[0].count(",") else []))
