"""Gradients through the kernels that large float32 products take on a GPU: three bf16 numbers for each float, on tensor cores."""

import numpy as np
import pytest
from emulation import Counting
from rungs import needs_compiler

import autograd as ag
from kernels.device import running_on
from kernels.matmul import cuda as matmul_cuda


def loss_and_gradients():
    """Of a convolution, a linear layer and attention with heads that the kernels take."""
    rng = np.random.default_rng(0)
    x, w, w2, b = (
        ag.Tensor((rng.standard_normal(shape) * size).astype(np.float32), requires_grad=True)
        for shape, size in (((2, 8, 8, 48), 1), ((3, 3, 48, 64), 0.05), ((64, 64), 0.1), ((64,), 1))
    )
    h = ag.reshape(ag.linear(ag.silu(ag.conv2d(x, w, padding=1)), w2, b), (2, 1, 64, 64))
    o = ag.attention(h, h, h, causal=True)
    loss = ag.mean(o * o)
    loss.backward()
    return [loss.data, *(t.grad for t in (x, w, w2, b))]


@needs_compiler
def test_what_large_products_take_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch):
    want = loss_and_gradients()
    monkeypatch.setattr(matmul_cuda, "SPLIT_FROM", 1)
    with running_on(Counting()) as device:
        got = loss_and_gradients()
    device.check()
    for here, there in zip(got, want, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-5 * np.abs(there).max())
    split = {name.partition(":")[2] for name in device.launched if "split.cu" in name or "_split" in name}
    of_attention = {f"{name}_float32" for name in ("attention", "grad_q", "grad_k", "grad_v")}
    of_products = {f"{name}_float32" for name in ("conv2d", "conv2d_grad_x", "conv2d_grad_w", "matmul")}
    assert split >= of_attention | of_products
