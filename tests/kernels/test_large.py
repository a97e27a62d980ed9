"""Every operation on rows, or on numbers one by one, beyond element 2^31; and what is refused because an int does not hold it."""

import numpy as np
import pytest
from large import BIG, MARKS, Large, ending, last, same, tail, zeros
from rungs import normal

from kernels import bfloat16, random
from kernels.activation import cuda as activation_cuda
from kernels.activation import reference as activation
from kernels.adam import cuda as adam_cuda
from kernels.adam import reference as adam
from kernels.attention import cuda as attention_cuda
from kernels.codebook import cuda as codebook_cuda
from kernels.codebook import reference as codebook
from kernels.conv2d import cuda as conv2d_cuda
from kernels.cross_entropy import cuda as cross_entropy_cuda
from kernels.cross_entropy import reference as cross_entropy
from kernels.device import running_on
from kernels.embedding import cuda as embedding_cuda
from kernels.embedding import reference as embedding
from kernels.emulator import Emulator
from kernels.matmul import cuda as matmul_cuda
from kernels.norm import cuda as norm_cuda
from kernels.norm import reference as norm
from kernels.quantize import cuda as quantize_cuda
from kernels.quantize import reference as quantize
from kernels.random import cuda as random_cuda
from kernels.random import reference as philox
from kernels.sampler_step import cuda as sampler_cuda
from kernels.sampler_step import ddim_step, plan
from kernels.sampler_step import reference as sampler
from kernels.tensor_map import TensorMap

pytestmark = MARKS
RUNGS = [1, 2, 3, 4]


# --- the emulator's part -----------------------------------------------------------------------------------------------

SHIFT = """#include "lib/cuda.cuh"
extern "C" __global__ void shift(const float* x, float* y, long long to) { y[to + threadIdx.x] = 2 * x[to + threadIdx.x]; }
extern "C" __global__ void count(float* y, long long to) { y[to] += 1; }
"""


def shifted(tmp_path, to, parts=(range(0, 4), range(BIG, BIG + 32))):
    (file := tmp_path / "shift.cu").write_text(SHIFT)
    device = Emulator(0)
    x = device.sparse((BIG + 32,), "float32", [range(BIG + 32)[-32:]])
    y = device.sparse((BIG + 32,), "float32", parts, fresh=True)
    x[BIG:] = np.arange(32)
    device.run(file, "shift", 1, 32, {"x": x, "y": y, "to": to})
    return device, y


def test_a_sparse_array_is_where_the_whole_one_would_be(tmp_path):
    device, y = shifted(tmp_path, BIG, [range(BIG, BIG + 32)])
    device.result(y)
    device.check()
    assert y[BIG:].tolist() == list(range(0, 64, 2))


def test_what_is_not_real_must_not_be_touched(tmp_path):
    device, _ = shifted(tmp_path, BIG - 1)
    (finding,) = device.findings
    assert finding.kind == "out of range" and f"element ({BIG - 1},) of x ({BIG + 32},), float32," in finding.message
    device, _ = shifted(tmp_path, BIG - 2**20)
    assert {f.kind for f in device.findings} == {"wild address"}


def test_a_sparse_array_is_watched_as_others_are(tmp_path):
    device, y = shifted(tmp_path, BIG)
    device.run(tmp_path / "shift.cu", "count", 1, 32, {"y": y, "to": 2})
    assert {f.kind for f in device.findings} == {"race", "uninitialised"}
    assert all("element (2,) of y" in f.message for f in device.findings)


def test_parts_that_nobody_wrote_are_found(tmp_path):
    device, y = shifted(tmp_path, BIG)
    device.result(y, "y")
    (finding,) = device.findings
    assert finding.message == f"4 of {BIG + 32} elements of y were never written, the first at (0,)"


@pytest.mark.parametrize(
    "parts", [[], [range(4, 9), range(2, 3)], [range(2), range(2, 4)], [range(8, 11)], [range(3, 3)]]
)
def test_parts_must_be_ranges_apart(parts):
    with pytest.raises(ValueError, match="parts must be rising ranges apart from each other within 10 elements"):
        Emulator(0).sparse((10,), "float32", parts)


# --- element by element ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["silu", "silu_grad"])
def test_activation(name):
    shape, count = (BIG + 700,), 700
    device = Large({shape: tail(shape, count)})
    ends = normal(1, count, count)[: 1 + name.endswith("grad")]
    y = getattr(activation_cuda, name)(device, *(ending(device, shape, x) for x in ends))
    same(device, y, getattr(activation, name)(*ends))


def test_adam():
    shape, count, device = (BIG + 702,), 702, Large()
    p, g, m, v = normal(2, count, count, count, count)
    v = v**2
    arrays = [ending(device, shape, x) for x in (p, g, m, v)]
    adam_cuda.adam_step(device, *arrays, step=3, lr=0.1)
    adam.adam_step(p, g, m, v, step=3, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)
    for got, want in zip(arrays, (p, g, m, v)):
        same(device, got, want)


DRAWN = (3, 2**30 + 6)  # the last block of threads draws the last 126 fours of sample 2


def drawn(seed, step=0):
    fours = -(-DRAWN[1] // 4)
    count = 3 * fours % 128 or 128
    block = np.arange(fours - count, fours, dtype=np.uint64)
    words = philox.words(block, np.full_like(block, 2), step, 0, seed, np).reshape(-1)
    return words[: DRAWN[1] - 4 * (fours - count)], words


@pytest.mark.parametrize("name", ["random_bits", "uniform", "normal"])
def test_random(name):
    words, whole = drawn(7)
    want = {
        "random_bits": words,
        "uniform": philox.uniform_32(words, np),
        "normal": philox.normal_64(whole.reshape(-1, 4), np).reshape(-1)[: words.size],
    }[name]
    device = Large({DRAWN: tail(DRAWN, words.size)})
    same(device, getattr(random_cuda, name)(device, DRAWN, seed=7), want, 1e-6)


@pytest.mark.parametrize("draws", [False, True])
def test_ddim_step(draws):
    words, whole = drawn(9, 4)
    count, of = words.size, plan(0.3, 0.6, eta=0.5)
    device = Large({DRAWN: tail(DRAWN, count)})
    x, c, u, z = normal(3, count, count, count, count)
    if draws:
        z = philox.normal_64(whole.reshape(-1, 4), np).reshape(-1)[:count].astype(np.float32)
    noise = random.Stream(9, step=4) if draws else ending(device, DRAWN, z)
    scales = np.array([0, 1, 2.5], np.float32)
    arrays = [ending(device, DRAWN, a) for a in (x, c, u)]
    x_u, x_0 = sampler_cuda.ddim_step(device, *arrays, scales, of, clip=1.0, noise=noise)
    want = sampler.step(x[None], c[None], u[None], scales[2:], of, 1.0, z[None])
    same(device, x_u, want[0][0])
    same(device, x_0, want[1][0])


# --- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", RUNGS)
def test_nearest_code(rng, rung):
    m, rows = 2**27 + 128, 64 if rung == 3 else 128
    (z,), (codes,) = normal(21, (rows, 16)), normal(22, (40, 16))
    device = Large({(m,): tail((m,), rows)})
    got = quantize_cuda.nearest_code(device, ending(device, (m, 16), z), codes, rung=rung)
    same(device, got, quantize.nearest_code(z, codes))


@pytest.mark.parametrize("rung", [3, 4])
def test_codes_are_prepared(rng, rung):
    """All blocks go through all codes, which would take too long; what is made of the last ones is right."""
    codes, d = 2**27 + 4, 16
    (end,) = normal(23, (4, d))
    device = Large({(codes, d): tail((codes, d), 4 * d), (codes, 4): tail((codes, 4), 16)})
    source = quantize_cuda.file_in(quantize_cuda.HERE, quantize_cuda.RUNGS[rung])
    defines = {"D": d} if rung == 4 else {"D": d, "CODES": 64}
    rounded, bounds = quantize_cuda._prepared(device, source, ending(device, (codes, d), end), d, defines)
    same(device, rounded, bfloat16.to_bits(end))
    same(device, last(bounds, (4, 4))[:, 1], -(end**2).sum(1) / 2, 1e-3)


@pytest.mark.parametrize("rung", [1, 2])
def test_group_norm(rng, rung):
    n, pixels, c, groups = 2**22 + 4, 16, 32, 4
    x, g = normal(31, (4, pixels, c), (4, pixels, c))
    gamma, beta = normal(32, (4, c), (4, c))
    shape, how = (n, pixels, c), {"silu": True, "rung": rung}
    real = {shape: tail(shape, x.size), (n, groups, 3): tail((n, groups, 3), 48)}
    real |= {(n, 1, 2, c): tail((n, 1, 2, c), 256)}
    device = Large(real, last={"group_norm": 16, "group_norm_backward": 16, "channel_sums": 4})
    arrays = [ending(device, (n, *a.shape[1:]), a) for a in (x, gamma, beta)]
    y, saved = norm_cuda.group_norm_forward(device, *arrays, groups, eps=1e-5, **how)
    same(device, y, norm.group_norm(x, gamma, beta, groups, 1e-5, True))
    device.real[n, 1, 2, c] = tail((n, 1, 2, c), 256)
    got = norm_cuda.group_norm_backward(device, ending(device, shape, g), *arrays, saved, groups, **how)
    dx, dgamma, dbeta = norm.group_norm_backward(g, x, gamma, beta, groups, 1e-5, True)
    same(device, got[0], dx, 1e-4)
    np.testing.assert_allclose(got[1][-4:], dgamma, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[2][-4:], dbeta, rtol=1e-4, atol=1e-4)


def test_layer_norm(rng):
    rows, c = 2**25 + 256, 64
    slices = rows // 256
    x, g = normal(33, (256, c), (256, c))
    gamma, beta = normal(34, c, c)
    real = {(rows, c): tail((rows, c), x.size), (rows, 3): tail((rows, 3), 768)}
    real |= {(1, slices, 2, c): tail((1, slices, 2, c), 2 * c)}
    device = Large(
        real, {"layer_norm": 32, "layer_norm_backward": 32, "column_sums": 2}, None, {"add_slices"}, zeros(1, 2, c)
    )
    whole = ending(device, (rows, c), x)
    y, saved = norm_cuda.layer_norm_forward(device, whole, gamma, beta, eps=1e-5)
    same(device, y, norm.layer_norm(x, gamma, beta, 1e-5))
    dx, *_ = norm_cuda.layer_norm_backward(device, ending(device, (rows, c), g), whole, gamma, saved)
    want, dgamma, dbeta = norm.layer_norm_backward(g, x, gamma, 1e-5)
    same(device, dx, want, 1e-4)
    same(device, device.made[1, slices, 2, c], np.stack([dbeta, dgamma]), 1e-3)


@pytest.mark.parametrize("rung", [1, 2])
def test_cross_entropy(rng, rung):
    m, k = 2**25 + 2, 64
    x, g, targets = *normal(41, (2, k), 2), rng.integers(0, k, 2)
    device = Large(
        {(m,): tail((m,), 2), (m, k): tail((m, k), 2 * k)},
        last={"cross_entropy": 2, "cross_entropy_backward": 2, "loss_and_gradient": 2},
    )
    arrays = [ending(device, (m, *a.shape[1:]), a) for a in (g, x, targets)]
    loss, dx = cross_entropy_cuda.loss_and_gradient(device, *arrays, rung=rung)
    same(device, loss, cross_entropy.cross_entropy(x, targets))
    same(device, dx, cross_entropy.cross_entropy_backward(g, x, targets))


ROWS = 2**26 + 127  # of a table with 64 columns; the last 63 are those of 32 blocks, and of 8 of `join`


def table():
    """A device for the last 63 rows of a table."""
    real = {(ROWS, 64): tail((ROWS, 64), 63 * 64), (ROWS + 1,): tail((ROWS + 1,), 128)}
    return Large(real, last={"join": 8, "scatter_add": 32, "moving_average": 32})


@pytest.mark.parametrize("rung", [1, 2])
def test_embedding_gradient_of_a_large_table(rng, rung):
    indices = rng.integers(ROWS - 63, ROWS, 20).astype(np.int32)
    (g,), device = normal(51, (20, 64)), table()
    y = embedding_cuda.scatter_add(device, g, indices, ROWS, rung=rung)
    want = embedding.scatter_add(g, indices - (ROWS - 63), 63)
    same(device, y, want)


def test_embedding_gradient_of_many_positions(rng):
    """The last two tiles of sorted positions: key 1 has the last 28 of them."""
    m = 2**25 + 64 * 64
    tiles = m // 64
    (g,) = normal(52, (128, 64))
    order = rng.permutation(128)
    device = Large({(2, 64): [range(64, 128)], (tiles, 64): tail((tiles, 64), 128)}, skipped={"join"})
    keys = np.repeat(np.array([0, 1], np.int32), [101, 28])  # of the last two tiles, and one before them
    start = np.array([0, m - 28, m], np.int32)
    positions = ending(device, (m,), (m - 128 + order).astype(np.int32))
    segments = embedding_cuda.Segments(ending(device, (m,), keys), positions, start)
    y = embedding_cuda.sums(device, ending(device, (m, 64), g), segments)
    same(device, y, g[order[100:]].sum(0))


def test_codebook_average(rng):
    d, gamma = 64, 0.9
    codes = rng.integers(ROWS - 63, ROWS, 20).astype(np.int32)
    (z,), (N, m, e) = normal(53, (20, d)), normal(54, 63, (63, d), (63, d))
    device = table()
    device.real[ROWS,] = tail((ROWS,), 63)
    N = np.abs(N) + 1
    arrays = [ending(device, (ROWS, *a.shape[1:]), a) for a in (N, m, e)]
    got = codebook_cuda.codebook_ema(device, *arrays, z, codes, gamma)
    for array, want in zip(got, codebook.codebook_ema(N, m, e, z, codes - (ROWS - 63), gamma)):
        same(device, array, want)


# --- what is too large -------------------------------------------------------------------------------------------------


class Endless(Large):
    """One whose results may have any size; nothing of them is used."""

    def empty(self, shape, dtype):
        return self.sparse(shape, dtype, [range(1)])

    def huge(self, *shape, dtype="float32"):
        return self.empty(shape, dtype)


def entropy(device, m, k):
    return cross_entropy_cuda.cross_entropy_forward(device, device.huge(m, k), device.huge(m, dtype="int64"))


def convolved(device, height, c_in, kernel):
    x, w = device.huge(1, height, 1, c_in), device.huge(kernel, 1, c_in, 1)
    return conv2d_cuda.conv2d(device, x, w, None, stride=(1, 1), padding=(1, 0), rung=2)


def attended(device, t_q, t_k, rung):
    q, k = (device.huge(1, 1, t, 8, dtype="uint16" if rung > 2 else "float32") for t in (t_q, t_k))
    return attention_cuda.attention_forward(device, q, k, k, causal=True, key_mask=None, scale=1.0, rung=rung)


def nearest(device, codes, rung):
    return quantize_cuda.nearest_code(device, device.huge(1, 1), device.huge(codes, 1), rung=rung)


MOST = 2**31 - 1024


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda d: entropy(d, 1, BIG), "k must fit into int, got 2147483648"),
        (lambda d: entropy(d, 1, BIG - 1), f"k must be at most {MOST}, got 2147483647"),
        (lambda d: entropy(d, BIG, 1), r"the grid must be at most \(2147483647, 65535, 65535\) blocks, got \(2147483648, 1, 1\)"),
        (lambda d: convolved(d, 3, 2**30, 3), rf"kernel_h \* kernel_w \* channels of a convolution must be at most {MOST}"),
        (lambda d: convolved(d, BIG - 1026, 1, 1), rf"height \+ 2 \* padding \+ kernel_h of a convolution must be at most {MOST}"),
        (lambda d: attended(d, 2**30, 2**30, 2), f"t_q \\+ t_k must be at most {MOST}, got t_q = 1073741824 and t_k"),
        (lambda d: attended(d, 8, BIG - 8, 4), f"t_q \\+ t_k must be at most {MOST}, got t_q = 8 and t_k"),
        (lambda d: nearest(d, BIG - 1, 1), f"codes must be at most {MOST}, got 2147483647"),
        (lambda d: nearest(d, BIG - 1, 4), f"codes must be at most {MOST}, got 2147483647"),
        (lambda d: TensorMap(d.huge(BIG, 8), (8, 8)), f"a TensorMap has axes of at most {MOST}"),
        (lambda d: TensorMap(d.huge(2, 2**19, 2**19), (1, 8, 8)), r"strides below 2\^40 bytes, got shape \(2, 524288, 524288\)"),
        (lambda d: embedding_cuda.sort(d, d.huge(BIG, dtype="int32"), 2), r"must be fewer than 2\^31 keys, got 2147483648"),
        (lambda d: embedding_cuda.sort(d, np.zeros(3, np.int32), BIG), "rows must fit into int, got 2147483648"),
    ],
)  # fmt: skip
def test_what_an_int_does_not_hold_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Endless())


def test_what_tma_does_not_address_is_left_to_others():
    for shape, takes in (((MOST, 8), True), ((MOST + 1, 8), False), ((1, MOST), True), ((1, MOST + 1), False)):
        assert matmul_cuda.takes_wgmma(Endless().huge(*shape, dtype="uint16")) == takes


def test_a_stream_in_a_sampler_step_has_so_many_samples():
    x = np.zeros((2, 4), np.float32)
    how = {"a_t": 0.3, "a_u": 0.6, "eta": 0.5}
    for device in (None, Emulator(0)):
        with (
            running_on(device),
            pytest.raises(ValueError, match=r"numbered below 2\^32, got shape \(2, 4\) from 4294967295 on"),
        ):
            ddim_step(x, x, **how, noise=random.Stream(1, first=2**32 - 1))


def test_rows_beyond_int32_are_nobodys():
    device, shape = Large(), (2**32 + 8, 32)
    device.real[shape] = tail(shape, 128)  # the last four rows, 2^32 + 4 and on
    y = embedding_cuda.scatter_add(
        device, np.ones((4, 32), np.float32), np.arange(4, 8, dtype=np.int32), shape[0], rung=1
    )
    same(device, y, np.zeros(128))
