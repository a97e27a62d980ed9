"""Products, convolutions and attention of float32 numbers on bf16 tensor cores whose last block lies beyond element 2^31."""

import numpy as np
import pytest
from large import MARKS, Large, columns_of, ending, ends_of, same, tail, zeros
from rungs import normal

from kernels import bfloat16
from kernels.attention import cuda as attention_cuda
from kernels.attention import cuda_backward as attention_gradients
from kernels.attention import reference as attention
from kernels.conv2d import cuda as conv2d_cuda
from kernels.conv2d import cuda_wgmma
from kernels.conv2d import reference as convolution
from kernels.matmul import cuda as matmul_cuda

pytestmark = MARKS
EXACTLY = {"precision": "float32"}
M = 2**28 + 128  # rows of 16: the last 128 begin at element 2^32
IMAGE, IMAGES = (8, 8, 8), 2**22 + 2  # the last two images begin at element 2^31
HOW = {"stride": (1, 1), "padding": (1, 1)}
both_rungs = pytest.mark.parametrize("rung", [3, 4])


def parts_of(x):
    """The bits of ``cuda.in_parts``."""
    high = bfloat16.rounded(x)
    middle = bfloat16.rounded(x - high)
    return np.stack([bfloat16.to_bits(p) for p in (x - high - middle, middle, high)])


@both_rungs
def test_matmul_of_many_rows(rung):
    a, b = normal(1, (128, 16), (16, 8))
    device = Large({(M, 8): tail((M, 8), 1024)}, {"split": 2}, tiles=M // 128)
    device.real[3, M, 16] = ends_of(3, 2048, M * 16)
    y = matmul_cuda.matmul(device, ending(device, (M, 16), a), b, rung=rung, **EXACTLY)
    same(device, y, a.astype(np.float64) @ b, 2e-6)


@both_rungs
@pytest.mark.parametrize("turned", [False, True])
def test_matmul_of_many_columns(rung, turned):
    n = 2**29 + 128
    a, b = normal(2, (16, 16), (16, 1024 if not turned else 128))
    device = Large(tiles=n // 128, last={"split": 1 + turned})
    columns = 128 if rung > 3 else 64
    device.real[16, n] = ends_of(16, columns, n)
    if turned:
        whole = ending(device, (n, 16), np.ascontiguousarray(b.T))
        device.real[3, n, 16] = ends_of(3, 2048, n * 16)
    else:
        whole, bits = columns_of(device, b, n), parts_of(b)
        bits[:, -1] = 0  # the last row's last 1024 are left to the kernel
        device.given[3, 16, n] = columns_of(device, bits.reshape(48, -1), n).reshape(3, 16, n)
    how = {"transpose_b": turned, "rung": rung, "tile": (64, 64) if rung < 4 else (128, 128)}
    y = matmul_cuda.matmul(device, a, whole, **how, **EXACTLY)
    device.check()
    want = (a.astype(np.float64) @ b)[:, -columns:]
    np.testing.assert_allclose(y[:, -columns:], want, rtol=2e-6, atol=2e-6)


@both_rungs
def test_weight_gradient_of_many_rows(monkeypatch, rung):
    monkeypatch.setattr(matmul_cuda, "cut", lambda *how: (2, 2**28))
    x, g = normal(3, (128, 16), (128, 8))
    device = Large(last={"split": 2, "matmul_float32": 1}, skipped={"add_parts"}, given=zeros(16, 8))
    device.real |= {(3, M, 16): ends_of(3, 2048, M * 16), (3, M, 8): ends_of(3, 2048, M * 8)}
    device.real[2, 16, 8] = tail((2, 16, 8), 128)
    wide = np.concatenate([np.zeros((128, 8), np.float32), g])  # as many as the blocks that split them
    arrays = ending(device, (M, 16), x), ending(device, (M, 8), wide)
    matmul_cuda.linear_grad_w(device, *arrays, rung=rung, **EXACTLY)
    same(device, device.made[2, 16, 8], x.T.astype(np.float64) @ g, 1e-5)


def images(**real):
    device = Large(last={"split": 1, **real}, tiles=IMAGES // 2)
    device.real[3, IMAGES, *IMAGE] = ends_of(3, 1024, IMAGES * 512)
    return device


def test_conv2d():
    x, w, r, time = normal(4, (2, *IMAGE), (3, 3, 8, 8), (2, *IMAGE), (2, 8))
    shape, device = (IMAGES, *IMAGE), images()
    device.real[shape] = tail(shape, 1024)
    more = {"time": ending(device, (IMAGES, 8), time), "residual": ending(device, shape, r)}
    y = conv2d_cuda.conv2d(device, ending(device, shape, x), w, None, **HOW, rung=4, **more, **EXACTLY)
    want = convolution.conv2d(x.astype(np.float64), w.astype(np.float64), None, **HOW) + r + time[:, None, None]
    same(device, y, want.reshape(-1)[-1024:])


def test_conv2d_data_gradient():
    g, w = normal(5, (2, *IMAGE), (3, 3, 8, 8))
    w[0, 0, 0, 0] = np.inf  # what is not finite is worked out again
    g[1, 5, 5, 0] = 0
    shape, device = (IMAGES, *IMAGE), images()
    device.real[shape] = tail(shape, 1024)
    dx = conv2d_cuda.conv2d_grad_x(device, ending(device, shape, g), w, shape, **HOW, rung=4, **EXACTLY)
    with np.errstate(invalid="ignore"):
        same(device, dx, convolution.conv2d_grad_x(g, w, (2, *IMAGE), **HOW).reshape(-1))


def test_conv2d_weight_gradient(monkeypatch):
    monkeypatch.setattr(cuda_wgmma, "cut", lambda *how: (2, 2**28))
    x, g = normal(6, (2, *IMAGE), (2, *IMAGE))
    g[1, 2, 2, 3] = np.inf
    shape, device = (IMAGES, *IMAGE), images(conv2d_grad_w_float32=5)
    device.skipped, device.given = {"add_parts"}, zeros(3, 3, 8, 8)
    device.real[2, 3, 3, 8, 8] = tail((2, 3, 3, 8, 8), 576)
    pixels = 64 * IMAGES
    device.real[3, pixels, 8] = ends_of(3, 1024, pixels * 8)
    arrays = [ending(device, shape, a) for a in (x, g)]
    conv2d_cuda.conv2d_grad_w(device, *arrays, (3, 3, 8, 8), **HOW, rung=4, **EXACTLY)
    with np.errstate(invalid="ignore"):
        same(device, device.made[2, 3, 3, 8, 8], convolution.conv2d_grad_w(x, g, (3, 3, 8, 8), **HOW))


HEADS, SAMPLES = (2, 16, 16), 2**22 + 4  # the last four samples, 8 pairs, begin at element 2^31


def pairs(count):
    """A device for the last 8 pairs, sparse arrays of queries, keys and so on, and what they are."""
    shape = (SAMPLES, *HEADS)
    names = "attention_float32", "grad_q_float32", "grad_k_float32", "grad_v_float32"
    real = {shape: tail(shape, 2048), shape[:3]: tail(shape[:3], 128), (3, *shape): ends_of(3, 2048, SAMPLES * 512)}
    device = Large(real, dict.fromkeys(names, 8) | {"split": 2, "deltas": 32})
    ends = normal(11, *[(4, *HEADS)] * count)
    return device, [ending(device, shape, x) for x in ends], [x.astype(np.float64) for x in ends]


def test_attention(rng):
    device, arrays, ends = pairs(3)
    mask = rng.random((4, 16)) < 0.8
    how = {"causal": False, "scale": 0.3}
    key_mask = ending(device, (SAMPLES, 16), mask)
    o, _ = attention_cuda.attention_forward(device, *arrays, **how, key_mask=key_mask, rung=3, **EXACTLY)
    same(device, o, attention.forward(*ends, **how, key_mask=mask), 2e-6)


def test_attention_gradients():
    device, arrays, (g, q, k, v) = pairs(4)
    how = {"causal": True, "key_mask": None, "scale": 0.3}
    scores = np.where(np.tri(16, dtype=bool), 0.3 * q @ k.swapaxes(2, 3), -np.inf)
    log_sum = np.log(np.exp(scores).sum(-1)).astype(np.float32)
    o = attention.forward(q, k, v, **how).astype(np.float32)
    kept = ending(device, (SAMPLES, *HEADS), o), ending(device, (SAMPLES, 2, 16), log_sum)
    got = attention_gradients.attention_backward(device, *arrays, *kept, **how, rung=3, **EXACTLY)
    for array, want in zip(got, attention.backward(g, q, k, v, **how), strict=True):
        same(device, array, want, 1e-5)
