"""Values and gradients of the fused operations beside torch's. Run with `pytest -m peer` where torch is installed."""

import numpy as np
import pytest

import autograd as ag
from kernels import compare

pytestmark = pytest.mark.peer
_rng = np.random.default_rng(5)


def r(*shape):
    return _rng.standard_normal(shape)


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


CASES = {  # ours, torch's on the same arrays, the arrays
    "conv2d": (
        lambda x, w, b: ag.conv2d(x, w, b, stride=2, padding=1),
        lambda f, x, w, b: nhwc(f.conv2d(nchw(x), w.permute(3, 2, 0, 1), b, stride=2, padding=1)),
        [r(2, 7, 6, 3), r(3, 3, 3, 5), r(5)],
    ),
    "conv_transpose2d": (
        lambda x, w, b: ag.conv_transpose2d(x, w, b, stride=2, padding=1),
        lambda f, x, w, b: nhwc(f.conv_transpose2d(nchw(x), w.permute(2, 3, 0, 1), b, stride=2, padding=1)),
        [r(2, 4, 5, 3), r(4, 4, 3, 2), r(2)],
    ),
    "attention causal": (
        lambda q, k, v: ag.attention(q, k, v, causal=True),
        lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=True),
        [r(2, 3, 9, 4), r(2, 3, 9, 4), r(2, 3, 9, 4)],
    ),
    "group_norm silu": (
        lambda x, g, b: ag.group_norm(x, g, b, 2, silu=True),
        lambda f, x, g, b: nhwc(f.silu(f.group_norm(nchw(x), 2, g, b))),
        [r(2, 5, 3, 6), r(6), r(6)],
    ),
    "layer_norm": (ag.layer_norm, lambda f, x, g, b: f.layer_norm(x, (6,), g, b), [r(4, 3, 6), r(6), r(6)]),
    "gelu": (ag.gelu, lambda f, x: f.gelu(x, approximate="tanh"), [r(7, 5)]),
    "silu": (ag.silu, lambda f, x: f.silu(x), [r(7, 5)]),
    "softmax": (ag.softmax, lambda f, x: f.softmax(x, -1), [r(4, 5)]),
    "avg_pool": (ag.avg_pool, lambda f, x: nhwc(f.avg_pool2d(nchw(x), 2)), [r(2, 4, 6, 3)]),
    "max_pool": (ag.max_pool, lambda f, x: nhwc(f.max_pool2d(nchw(x), 2)), [r(2, 4, 6, 3)]),
    "linear": (ag.linear, lambda f, x, w, b: f.linear(x, w.T, b), [r(4, 3, 5), r(5, 6), r(6)]),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_torchs(name):
    torch = pytest.importorskip("torch")
    ours, theirs, arrays = CASES[name]
    leaves = [ag.Tensor(a, requires_grad=True) for a in arrays]
    others = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    y, z = ours(*leaves), theirs(torch.nn.functional, *others)
    allowed = compare.bound(200, 50.0, np.float64)
    compare.assert_close(y.data, z.detach().numpy(), allowed, name)
    u = r(*y.shape)
    y.backward(u)
    z.backward(torch.from_numpy(u))
    for i, (a, b) in enumerate(zip(leaves, others)):
        compare.assert_close(a.grad, b.grad.numpy(), allowed, f"{name}, input {i}")
