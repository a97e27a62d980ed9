"""Products of matrices, convolutions, attention and layers on eight bits whose last block lies beyond element 2^31."""

import itertools

import numpy as np
import pytest
from large import MARKS, Large, bits, columns_of, ending, ends_of, factor, same, seen, tail, zeros
from rungs import normal

from kernels import bfloat16
from kernels.attention import cuda as attention_cuda
from kernels.attention import cuda_backward as attention_gradients
from kernels.attention import reference as attention
from kernels.conv2d import cuda as conv2d_cuda
from kernels.conv2d import cuda_wgmma
from kernels.conv2d import reference as convolution
from kernels.eight_bit import cuda as eight_bit_cuda
from kernels.eight_bit import formats as eight_bit_formats
from kernels.eight_bit import reference as eight_bit
from kernels.matmul import cuda as matmul_cuda

pytestmark = MARKS
RUNGS = [1, 2, 3, 4]
OF_MATMUL = [*RUNGS, 5]  # whose last two blocks are a cluster


# --- products ----------------------------------------------------------------------------------------------------------

M = 2**28 + 128  # rows of 16: the last 128 begin at element 2^32


def last_two(rung):
    return {"matmul_bf16": 2} if rung == 5 else {}


@pytest.mark.parametrize("rung", OF_MATMUL)
def test_matmul_of_many_rows(rng, rung):
    a, b = factor(rng, 128, 16), factor(rng, 16, 8)
    rows = 16 if rung == 1 else 128  # of the last block
    device = Large({(M, 8): tail((M, 8), rows * 8)}, last_two(rung), tiles=M // 128 + (rung == 5))
    y = matmul_cuda.matmul(device, ending(device, (M, 16), bits(a, rung)), bits(b, rung), rung=rung)
    same(device, y, (a @ b)[-rows:])


@pytest.mark.parametrize("rung", OF_MATMUL)
@pytest.mark.parametrize("turned", [False, True])
def test_matmul_of_many_columns(rng, rung, turned):
    a, b = factor(rng, 16, 16), factor(rng, 16, 128)
    n = 2**29 + 128
    device = Large(last=last_two(rung), tiles=n // 128 * (1 + (rung == 5)))
    columns = 128 if rung > 3 else 64
    device.real[16, n] = tail((16, n), 128) if rung == 1 else ends_of(16, columns, n)
    if turned:
        whole = ending(device, (n, 16), bits(np.ascontiguousarray(b.T), rung))
    else:
        whole = columns_of(device, bits(b, rung), n)
    y = matmul_cuda.matmul(
        device, bits(a, rung), whole, transpose_b=turned, rung=rung, tile=(64, 64) if rung < 4 else (128, 128)
    )
    device.check()
    rows = slice(15, 16) if rung == 1 else slice(0, 16)
    np.testing.assert_array_equal(y[rows, -columns:], (a @ b)[rows, -columns:])


def in_two(monkeypatch, *modules):
    """Let inner axes be cut after 2^28 places, so that the last block has what is behind."""
    for module in modules:
        monkeypatch.setattr(module, "cut", lambda *how: (2, 2**28))


@pytest.mark.parametrize("rung", OF_MATMUL[1:])
def test_weight_gradient_of_many_rows(rng, monkeypatch, rung):
    in_two(monkeypatch, matmul_cuda)
    x, g = factor(rng, 128, 16), factor(rng, 128, 8)
    last = {"matmul": 1, "matmul_bf16": 1} | last_two(rung)
    device = Large(last=last, skipped={"add_parts"}, given=zeros(16, 8))
    arrays = [ending(device, (M, a.shape[1]), bits(a, rung)) for a in (x, g)]
    device.real[2, 16, 8] = tail((2, 16, 8), 128)
    matmul_cuda.linear_grad_w(device, *arrays, rung=rung)
    same(device, device.made[2, 16, 8], x.T @ g)


IMAGE, IMAGES = (8, 8, 8), 2**22 + 2  # the last two images begin at element 2^31
HOW = {"stride": (1, 1), "padding": (1, 1)}


@pytest.mark.parametrize("rung", RUNGS)
def test_conv2d(rng, rung):
    x, w, r, time = factor(rng, 2, *IMAGE), factor(rng, 3, 3, 8, 8), factor(rng, 2, *IMAGE), factor(rng, 2, 8)
    shape, count = (IMAGES, *IMAGE), 128 if rung == 1 else 1024
    device = Large({shape: tail(shape, count)}, tiles=IMAGES // 2)
    more = {"time": ending(device, (IMAGES, 8), time), "residual": ending(device, shape, r)}
    y = conv2d_cuda.conv2d(device, ending(device, shape, bits(x, rung)), bits(w, rung), None, **HOW, rung=rung, **more)
    want = convolution.conv2d(x, w, None, **HOW) + r + time[:, None, None]
    same(device, y, want.reshape(-1)[-count:])


def test_conv2d_of_few_channels(rng):
    n = 2**31 // 192 + 2
    x, w = factor(rng, 2, 8, 8, 3), factor(rng, 3, 3, 3, 8)
    device = Large({(n, *IMAGE): tail((n, *IMAGE), 1024)})
    x_all = ending(device, (n, 8, 8, 3), bits(x, 4))
    y = conv2d_cuda.conv2d(device, x_all, bits(w, 4), None, **HOW, rung=4)
    assert device.ran == [cuda_wgmma.FIRST_LAYER]
    same(device, y, convolution.conv2d(x, w, None, **HOW))


@pytest.mark.parametrize("rung", RUNGS)
def test_conv2d_data_gradient(rng, rung):
    g, w = factor(rng, 2, *IMAGE), factor(rng, 3, 3, 8, 8)
    w[0, 0, 0, 0] = np.inf if rung > 1 else 1  # what is NaN is worked out again
    g[1, 5, 5, 0] = 0
    shape, count = (IMAGES, *IMAGE), 128 if rung == 1 else 1024
    device = Large({shape: tail(shape, count)})
    dx = conv2d_cuda.conv2d_grad_x(device, ending(device, shape, bits(g, rung)), bits(w, rung), shape, **HOW, rung=rung)
    with np.errstate(invalid="ignore"):
        same(device, dx, convolution.conv2d_grad_x(g, w, (2, *IMAGE), **HOW).reshape(-1)[-count:])


@pytest.mark.parametrize("rung", RUNGS[1:])
def test_conv2d_weight_gradient(rng, monkeypatch, rung):
    in_two(monkeypatch, conv2d_cuda, cuda_wgmma)
    x, g, shape = factor(rng, 2, *IMAGE), factor(rng, 2, *IMAGE), (IMAGES, *IMAGE)
    last = {2: 1, 3: 2, 4: 5}[rung]  # blocks for the 72 x 8 numbers of dw
    device = Large(
        last={"conv2d_grad_w": last, "conv2d_grad_w_bf16": last}, skipped={"add_parts"}, given=zeros(3, 3, 8, 8)
    )
    device.real[2, 3, 3, 8, 8] = tail((2, 3, 3, 8, 8), 576)
    arrays = [ending(device, shape, bits(a, rung)) for a in (x, g)]
    conv2d_cuda.conv2d_grad_w(device, *arrays, (3, 3, 8, 8), **HOW, rung=rung)
    same(device, device.made[2, 3, 3, 8, 8], convolution.conv2d_grad_w(x, g, (3, 3, 8, 8), **HOW))


@pytest.mark.parametrize("channels, rung", [(1, 1), (1, 2), (1, 3), (8, 3)])
def test_conv2d_of_a_large_image(rng, channels, rung):
    height, width, stride = 60000, 40000 // channels + 6, 4800 // channels
    how = {"stride": (4800, stride), "padding": (0, 0)}
    rows, columns = (height - 3) // 4800 + 1, (width - 3) // stride + 1
    starts = [(4800 * i + u) * width + stride * j for i in range(rows) for u in range(3) for j in range(columns)]
    device, shape = Large(), (1, height, width, channels)
    x = device.sparse(
        shape, bits(np.ones(1, np.float32), rung).dtype, [range(s * channels, (s + 3) * channels) for s in starts]
    )
    patches = factor(rng, rows, 3, columns, 3, channels)
    for start, patch in zip(starts, bits(patches, rung).reshape(-1, 3 * channels)):
        x.reshape(-1)[start * channels :][: 3 * channels] = patch
    w, g = factor(rng, 3, 3, channels, 8), factor(rng, 1, rows, columns, 8)
    y = conv2d_cuda.conv2d(device, x, bits(w, rung), None, **how, rung=rung)
    same(device, y, np.einsum("iujvc,uvco->ijo", patches, w))
    dw = conv2d_cuda.conv2d_grad_w(device, x, bits(g, rung), w.shape, **how, rung=rung)
    same(device, dw, np.einsum("iujvc,ijo->uvco", patches, g[0]))


# --- attention ---------------------------------------------------------------------------------------------------------

HEADS = (2, 16, 16)  # heads, queries or keys, numbers
SAMPLES = 2**22 + 4  # the last four, 8 pairs, begin at element 2^31
PAIRS = {
    "scores": 16,
    "weights": 16,
    "softmax": 1,
    "weighted_sum": 16,
    "log_sums": 1,
    "over_keys": 16,
    "over_queries": 16,
}
PAIRS |= {"attention": 8, "grad_q": 8, "grad_kv": 8}  # blocks of the last 8 pairs


def pairs(rng, rung, count):
    """A device for the last 8 pairs, sparse arrays of queries, keys and so on, what they are, and the mask."""
    shape = (SAMPLES, *HEADS)
    real = {shape: tail(shape, 2048), shape[:3]: tail(shape[:3], 128)}
    device = Large(real, PAIRS | {"deltas": 1 if rung == 1 else 32})
    ends = normal(11, *[(4, *HEADS)] * count)
    mask = rng.random((4, 16)) < 0.8
    arrays = [ending(device, shape, bits(x, rung)) for x in ends]
    return device, arrays, [seen(x, rung) for x in ends], mask, ending(device, (SAMPLES, 16), mask)


@pytest.mark.parametrize("rung", RUNGS)
def test_attention(rng, rung):
    device, arrays, ends, mask, key_mask = pairs(rng, rung, 3)
    o, _ = attention_cuda.attention_forward(device, *arrays, causal=False, key_mask=key_mask, scale=0.3, rung=rung)
    same(device, o, attention.forward(*ends, causal=False, key_mask=mask, scale=0.3), 1e-5 if rung < 3 else 2e-2)


@pytest.mark.parametrize("rung", [2, 3])
def test_attention_to_few_keys(rng, rung):
    device, arrays, ends, mask, key_mask = pairs(rng, rung, 3)
    o, _ = attention_cuda.short_forward(device, *arrays, key_mask=key_mask, scale=0.3, rung=rung)
    same(device, o, attention.forward(*ends, causal=False, key_mask=mask, scale=0.3), 1e-5 if rung < 3 else 2e-2)


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_gradients(rng, rung, causal):
    device, arrays, ends, mask, key_mask = pairs(rng, rung, 4)
    how = {"causal": causal, "scale": 0.3}
    g, q, k, v = (x.astype(np.float64) for x in ends)
    scores = np.where(
        mask[:, None, None] & (np.tri(16, dtype=bool) | (not causal)), 0.3 * q @ k.swapaxes(2, 3), -np.inf
    )
    with np.errstate(divide="ignore"):
        log_sum = np.log(np.exp(scores).sum(-1)).astype(np.float32)
    o = attention.forward(q, k, v, **how, key_mask=mask).astype(np.float32)
    kept = ending(device, (SAMPLES, *HEADS), o), ending(device, (SAMPLES, 2, 16), log_sum)
    got = attention_gradients.attention_backward(device, *arrays, *kept, **how, key_mask=key_mask, rung=rung)
    for array, want in zip(got, attention.backward(g, q, k, v, **how, key_mask=mask)):
        same(device, array, want, 1e-4 if rung < 3 else 5e-2)


# --- eight bits --------------------------------------------------------------------------------------------------------


def whole(rng, *shape):
    return rng.integers(-9, 10, shape).astype(np.int8)


@pytest.mark.parametrize("form", ["int8", "e4m3"])
def test_quantize_rows(form):
    m, n = 2**25 + 2, 64
    (x,) = normal(61, (2, n))
    device = Large({(m, n): tail((m, n), 2 * n), (m,): tail((m,), 2)}, last={"row_scales": 2})
    codes, scale = eight_bit_cuda.quantize(device, ending(device, (m, n), x), axis=0, form=form)
    want = eight_bit.quantize(x, 0, form)
    same(device, codes, want[0], 0)
    same(device, scale, want[1], 0)
    again = Large({(m, n): tail((m, n), 2 * n)})
    arrays = ending(again, (m, n), want[0]), ending(again, (m,), want[1])
    same(again, eight_bit_cuda.dequantize(again, *arrays, axis=0, form=form), eight_bit.dequantize(*want, 0, form), 0)


def test_quantize_columns():
    rows, n = 17, 2**27 + 128
    (x,) = normal(62, (rows, 128))
    real = {shape: tail(shape, 128) for shape in ((rows, n), (1, n), (n,))}
    device = Large(real, last={"column_sizes": 4})
    codes, scale = eight_bit_cuda.quantize(device, columns_of(device, x, n), axis=1)
    want = eight_bit.quantize(x, 1, "int8")
    same(device, codes, want[0][-1], 0)
    same(device, scale, want[1], 0)


def layer(device, kind, x, codes, scales, rung):
    """The linear layer on these codes; x is codes too, or numbers."""
    if kind != "weight_only":
        of_kind = eight_bit_cuda.linear_int8 if kind == "int8" else eight_bit_cuda.linear_fp8
        return of_kind(device, x, scales[0], codes, scales[1], rung=rung)
    return eight_bit_cuda.linear_weight_only(device, x, codes, scales[1], rung=rung)


@pytest.mark.parametrize(
    ("kind", "rung"), [*itertools.product(("int8", "weight_only"), RUNGS), *(("fp8", rung) for rung in (1, 2, 4, 5))]
)
def test_linear_layers_of_many_rows(rng, kind, rung):
    rows = {1: 8, 2: 64}.get(rung, 128)
    x, codes = whole(rng, rows, 16), whole(rng, 16, 16)
    scales = np.full(rows, 0.5, np.float32), np.full(16, 0.25, np.float32)
    m, (x_scale, scale) = 2**28 + 128, scales
    of_block = dict.fromkeys(("split", "widen_fp8"), rows // 64)  # 1024 numbers a block
    device = Large({(m, 16): tail((m, 16), rows * 16)}, of_block, m // 128)
    device.real[3, m, 16] = ends_of(3, rows * 16, m * 16)
    want = (x.astype(np.float32) @ codes) * (0.25 if kind == "weight_only" else 0.125)
    x = x if kind == "int8" else x.astype(np.float32)
    if kind == "fp8":
        x, codes = eight_bit_formats.encode(x, "e4m3"), eight_bit_formats.encode(codes.astype(np.float32), "e4m3")
    y = layer(device, kind, ending(device, (m, 16), x), codes, (ending(device, (m,), x_scale), scale), rung)
    same(device, y, want, 0)


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("kind", ["int8", "weight_only"])
def test_linear_layers_of_many_columns(rng, kind, rung):
    rows, n, wide = 17, 2**28 + 128, 64 if rung == 2 else 128  # more rows than few
    x, codes = whole(rng, rows, 16), whole(rng, 16, 1024 if kind == "weight_only" and rung > 2 else 128)  # of a block
    x = x if kind == "int8" else x.astype(np.float32)
    device = Large({(n, 16): tail((n, 16), 2048)}, {"turn": 2})
    device.tiles = -(-n // (matmul_cuda.wgmma_tile_for(rows, n)[1] if kind == "int8" else 128))
    widened = bfloat16.to_bits(codes.astype(np.float32))
    device.given[16, n] = columns_of(
        device, np.concatenate([widened[:-1], 0 * widened[-1:]]), n
    )  # the last row is left
    device.real[rows, n] = tail((rows, n), 128) if rung == 1 else ends_of(rows, wide, n)
    scale = ending(device, (n,), np.full(128, 0.25, np.float32))
    y = layer(device, kind, x, columns_of(device, codes, n), (np.full(rows, 0.5, np.float32), scale), rung)
    device.check()
    want = (x.astype(np.float32) @ codes) * (0.125 if kind == "int8" else 0.25)
    np.testing.assert_array_equal(y[-1, -wide:], want[-1, -wide:])


def test_few_rows_by_many_columns(rng):
    n = 2**28 + 128
    x, codes = factor(rng, 8, 16), whole(rng, 16, 128)
    device = Large({(1, 8, n): ends_of(8, 128, n), (8, n): tail((8, n), 128)})
    scale = ending(device, (n,), np.full(128, 0.25, np.float32))
    y = layer(device, "weight_only", x, columns_of(device, codes, n), (None, scale), 2)
    same(device, y, 0.25 * (x @ codes)[-1], 0)


def test_few_rows_with_a_long_inner_axis(rng):
    """The last part ends where its number times its size would be 2^31."""
    k, device = 2**30 + 40, Large(last={"weight_only": 1})
    x, codes, sums = (
        factor(rng, 1, 40),
        whole(rng, 40, 4),
        device.sparse((2, 1, 4), "float32", [range(4, 8)], fresh=True),
    )
    arguments = {"x": ending(device, (1, k), x), "q": ending(device, (k, 4), codes), "sums": sums, "k": k, "n": 4}
    source = eight_bit_cuda.file_in(eight_bit_cuda.HERE, eight_bit_cuda.FEW_ROWS)
    device.run(source, "weight_only", 2, 256, arguments | {"part_size": 2**30, "words": True}, defines={"ROWS": 1})
    same(device, sums, (x @ codes)[0], 0)
