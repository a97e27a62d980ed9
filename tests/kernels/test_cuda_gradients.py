"""Gradients (and fused ends) of the CUDA ladders, emulated: the definition's values, no findings, the same bits every time."""

import numpy as np
import pytest
from attending import gradients_finite_where_the_definition_has_them, hide, log_sums
from convolutions import Convolution, gradients_are_the_adjoints, no_images, normal
from emulation import Mistaken, emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import needs_compiler, needs_nvrtc

from kernels.attention import cuda_backward as attention_cuda
from kernels.attention import reference as attention_reference
from kernels.compare import bound
from kernels.conv2d import cuda as conv_cuda
from kernels.emulator import Emulator
from kernels.launch import compile_for

SEEDS = st.integers(0, 2**32 - 1)
TILES = st.sampled_from([None, None, (128, 64), (16, 128)])
few = settings(max_examples=15)


# --- convolution ------------------------------------------------------------------------------------------------------

RUNGS = (1, 2, 3)  # of rung 4: test_conv2d_wgmma.py
rungs_of_conv2d = pytest.mark.parametrize("rung", RUNGS)

convolutions = given(
    n=st.integers(1, 2),
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    channels=st.tuples(st.sampled_from([1, 3, 4, 9, 17]), st.sampled_from([1, 3, 8, 17])),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    tile=TILES,
    precision=st.sampled_from(["bf16", "tf32"]),
    seed=SEEDS,
)


@needs_compiler
@rungs_of_conv2d
@few
@convolutions
def test_the_data_gradient_of_conv2d(rung, n, size, channels, kernel, stride, padding, tile, precision, seed):
    c = Convolution(n, size, channels, kernel, stride, padding, seed).on(rung, precision, tile)

    def run(device):
        return conv_cuda.conv2d_grad_x(device, c.g, c.w, c.x.shape, **c.how())

    emulated(run, seed, [c.dx()])


@needs_compiler
@rungs_of_conv2d
@few
@convolutions
def test_the_weight_gradient_of_conv2d(rung, n, size, channels, kernel, stride, padding, tile, precision, seed):
    c = Convolution(n, size, channels, kernel, stride, padding, seed).on(rung, precision, tile)
    parts = None if seed % 3 == 0 else 1 + seed % 3

    def run(device):
        return conv_cuda.conv2d_grad_w(device, c.x, c.g, c.w.shape, **c.how(), parts=parts)

    emulated(run, seed, [c.dw()])


@needs_compiler
@rungs_of_conv2d
@few
@convolutions
def test_what_follows_a_convolution_in_the_same_launch(
    rung, n, size, channels, kernel, stride, padding, tile, precision, seed
):
    c = Convolution(n, size, channels, kernel, stride, padding, seed).on(rung, precision, tile)
    c.tile = None  # each combination is compiled on its own: a few are enough
    bias, (time, residual, silu) = seed % 2 == 0, [(0, 0, 0), (1, 0, 1), (1, 1, 1)][seed % 3]
    c.b, c.time, c.residual = c.b if bias else None, c.time if time else None, c.residual if residual else None

    def run(device):
        return conv_cuda.conv2d(device, c.x, c.w, c.b, **c.how(), time=c.time, residual=c.residual, silu=bool(silu))

    emulated(run, seed, [c.finished(silu)])


@needs_compiler
@pytest.mark.parametrize("rung, precision", [(2, "bf16"), (3, "bf16"), (3, "tf32")])
@pytest.mark.parametrize("tile", [(16, 128), (128, 64)])
def test_more_channels_than_a_tile_has(rung, tile, precision):
    c = Convolution(1, (4, 3), (133, 130), (1, 2), (2, 2), (0, 1), 0).on(rung, precision, tile)
    emulated(c.run, 0, c.all_three())


@needs_compiler
@rungs_of_conv2d
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_nan_and_inf_of_a_convolution_come_out_where_the_definition_has_them(rung, value, stride):
    for which in ("x", "w", "g"):
        c = Convolution(1, (5, 5), (3, 4), (3, 3), stride, (1, 1), 0).on(rung)
        getattr(c, which).flat[-1] = value  # for w: a tap that lies outside of the image at its edge
        emulated(c.run, 0, c.all_three())


@needs_compiler
@pytest.mark.parametrize("which", ["x", "w", "g"])
def test_a_factor_of_a_convolution_at_any_address(which):
    c = Convolution(1, (5, 5), (8, 8), (3, 3), (1, 1), (1, 1), 0).on(3, "tf32")
    factor = getattr(c, which)
    setattr(c, which, np.append(np.float32(0), factor)[1:].reshape(factor.shape))
    how, device = c.how(), Emulator()
    if which == "x":
        device.expect(conv_cuda.conv2d(device, c.x, c.w, c.b, **how), *c.y())
    elif which == "w":
        device.expect(conv_cuda.conv2d_grad_x(device, c.g, c.w, c.x.shape, **how), *c.dx())
    else:
        device.expect(conv_cuda.conv2d_grad_w(device, c.x, c.g, c.w.shape, **how), *c.dw())
    device.check()


@needs_compiler
@rungs_of_conv2d
def test_the_gradients_are_the_adjoints_of_the_convolution(rung):
    gradients_are_the_adjoints(3, 5, rung)


@needs_compiler
@rungs_of_conv2d
def test_a_convolution_of_no_images(rung):
    no_images(3, 4, rung)


@needs_compiler
@pytest.mark.parametrize("rung", conv_cuda.RUNGS)
def test_a_convolution_of_no_channels_is_its_bias(rung):
    x, w, b = np.zeros((1, 4, 5, 0), np.float32), np.zeros((3, 3, 0, 5), np.float32), np.arange(5, dtype=np.float32)
    device = Emulator()
    y = conv_cuda.conv2d(device, x, w, b, stride=(1, 1), padding=(1, 1), rung=rung)
    device.check()
    np.testing.assert_array_equal(y, np.broadcast_to(b, (1, 4, 5, 5)))
    g = np.zeros((1, 4, 5, 0), np.float32)
    dx = conv_cuda.conv2d_grad_x(
        device, g, w.reshape(3, 3, 5, 0), (1, 4, 5, 5), stride=(1, 1), padding=(1, 1), rung=rung
    )
    device.check()
    assert dx.shape == (1, 4, 5, 5) and not dx.any()


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["75", "90a", "120"])
def test_every_tile_of_conv2d_compiles_without_spills(architecture):
    fused = {"TIME": "true", "RESIDUAL": "true", "SILU": "true"}
    for tile, file, more in (
        ((128, 64), conv_cuda.RUNGS[2], fused),
        ((128, 16), conv_cuda.RUNGS[2], fused),
        ((16, 128), conv_cuda.GRADIENT_RUNGS[2], {}),
        ((128, 16), conv_cuda.GRADIENT_RUNGS[2], {}),
        ((128, 128), conv_cuda.RUNGS[3], fused),
        ((64, 64), conv_cuda.RUNGS[3], {"ALIGNED_X": "false"}),
        ((128, 128), conv_cuda.GRADIENT_RUNGS[3], {}),
        ((64, 64), conv_cuda.GRADIENT_RUNGS[3], {}),
    ):
        if file[0] == "3" and architecture == "75":
            continue  # has no such instructions
        binary = compile_for(conv_cuda.HERE / file, architecture, conv_cuda.defines_of(tile) | more)
        for r in binary.resources().values():
            few = file[0] == "2" and min(tile) > 16
            assert r.local_bytes == r.spill_bytes == 0 and r.registers <= (65536 // 384 if few else 255)


PLANTED = [  # what is computed, the file, what is changed into what, what must be found
    ("y", "1_direct.cu", "finish(sum, time", "finish(sum, residual", "wrong value"),
    ("y", "1_direct.cu", "x, w, n, i, j, o,", "x, w, n, j, i, o,", "wrong value"),
    ("dx", "1_direct.cu", "if (at >= count) return;", "if (at > count) return;", "out of range"),
    ("y", "2_tiled.cu", "if (pixel < pixels && o < c_out) y", "if (pixel < pixels) y", "race"),
    (
        "y",
        "2_tiled.cu",
        "        __syncthreads();  // the tiles are there, and all are done with the others\n",
        "\n",
        "race",
    ),
    ("y", "2_tiled.cu", "put_across(weights[turn], next_weights);", "put_across(weights[0], next_weights);", "race"),
    ("y", "2_tiled.cu", "    __syncthreads();  // the windows are there\n", "\n", "race"),
    ("y", "2_tiled.cu", "pixel, pixel < pixels,", "pixel, pixel <= pixels,", "out of range"),
    ("y", "2_tiled.cu", "row >= 0 && row < height", "row < height", "out of range"),
    (
        "dx",
        "2_tiled_gradients.cu",
        "        __syncthreads();  // the tiles are there, and all are done with the others\n",
        "\n",
        "race",
    ),
    ("dx", "2_tiled_gradients.cu", "phase.h + t_h * stride_h", "phase.h + t_h", "wrong value"),
    ("dx with Inf", "2_tiled_gradients.cu", "if (!any_nan) return;", "return;", "wrong value"),
    ("dw", "2_tiled_gradients.cu", "            __syncthreads();  // the windows are there\n", "\n", "race"),
    ("dw", "2_tiled_gradients.cu", "pixel, pixel < end,", "pixel, pixel <= end,", "out of range"),
    ("dw", "2_tiled_gradients.cu", "(part * rows_of_dw + row)", "row", "race"),
    ("y", "3_mma.cu", "row >= 0 && row < height", "row < height", "out of range"),
    ("y", "3_mma.cu", "    __syncthreads();  // the windows are there\n", "\n", "race"),
    ("dx", "3_mma_gradients.cu", "r < depth && c < columns", "r < depth", "out of range"),
    ("dx with Inf", "3_mma_gradients.cu", "if (!any_nan) return;", "return;", "wrong value"),
    ("dw", "3_mma_gradients.cu", "    __syncthreads();  // the windows of", "    // the windows of", "race"),
    ("dw", "3_mma_gradients.cu", "write_window(step + 1);", "write_window(step + 2);", "wrong value"),
    ("dw", "3_mma_gradients.cu", "if (++i == h_out) i = 0, n++;", "if (i++ == h_out) i = 0, n++;", "wrong value"),
]


@needs_compiler
@pytest.mark.parametrize("what, file, old, new, kind", PLANTED)
def test_a_mistake_in_conv2d_is_found(what, file, old, new, kind):
    stride, rung = (1, 1) if "Inf" in what else (2, 2), int(file[0])
    c, device = (
        Convolution(3, (11, 9), (3, 5), (3, 3), stride, (1, 1), 2).on(rung),
        Mistaken(conv_cuda.HERE / file, old, new),
    )
    if what == "y":
        y = conv_cuda.conv2d(device, c.x, c.w, c.b, **c.how(), time=c.time, residual=c.residual)
        want, allowed, _ = c.y()
        time = c.time[:, None, None]
        magnitude = np.abs(want) + np.abs(time) + np.abs(c.residual)
        device.expect(y, want + time + c.residual, allowed + bound(2, magnitude, np.float32), "y")
    elif what == "dw":
        if rung == 3:  # the ring of windows must turn
            c = Convolution(9, (11, 9), (3, 5), (3, 3), stride, (1, 1), 2).on(rung, "tf32")
        device.expect(conv_cuda.conv2d_grad_w(device, c.x, c.g, c.w.shape, **c.how(), parts=2), *c.dw())
    else:
        if "Inf" in what:
            c.w[2, 2, 2, 4] = np.inf
        device.expect(conv_cuda.conv2d_grad_x(device, c.g, c.w, c.x.shape, **c.how()), *c.dx())
    assert kind in {f.kind for f in device.findings}


# --- attention --------------------------------------------------------------------------------------------------------

rungs_of_attention = pytest.mark.parametrize("rung", [1, 2])  # in float32; rung 3: test_attention_mma_backward.py


class Attention:
    """Random operands and what a forward pass keeps, both in float32; the definition's gradients in float64."""

    def __init__(self, n, heads, t_q, t_k, sizes, causal, masked, spread, seed):
        rng = np.random.default_rng(seed)
        self.q, self.k = (spread * normal(rng, n, heads, t, sizes[0]) for t in (t_q, t_k))
        self.v, self.g = (normal(rng, n, heads, t, sizes[1]) for t in (t_k, t_q))
        mask = masked if isinstance(masked, np.ndarray) else rng.random((n, t_k)) < 0.6 if masked else None
        self.settings = {"causal": causal, "key_mask": mask, "scale": sizes[0] ** -0.5}
        seen = np.ones((t_q, t_k), bool) if not causal else np.arange(t_k) <= np.arange(t_q)[:, None] + t_k - t_q
        self.seen = seen & (True if mask is None else mask[:, None, None, :])

    def wide(self):
        return (x.astype(np.float64) for x in (self.g, self.q, self.k, self.v))

    def kept(self):
        """o and L, as float32."""
        _, q, k, v = self.wide()
        with np.errstate(all="ignore"):
            o = attention_reference.forward(q, k, v, **self.settings)
            log_sum, _ = log_sums(q, k, *self.settings.values())
        return o.astype(np.float32), log_sum.astype(np.float32)

    def expected(self):
        g, q, k, v = self.wide()
        with np.errstate(all="ignore"):
            want = attention_reference.backward(g, q, k, v, **self.settings)
        g, q, k, v = (np.where(np.isfinite(x), np.abs(x), 0) for x in (g, q, k, v))
        (t_q, d), t_k, d_v, scale = q.shape[2:], k.shape[2], v.shape[3], self.settings["scale"]
        o, log_sum = (np.where(np.isfinite(x), np.abs(x.astype(np.float64)), 0) for x in self.kept())
        # What rounding does to a score, to L and to exp changes p by a factor; what it does to dp and D adds to both.
        size = scale * q @ k.swapaxes(2, 3)
        relative = bound(d + 1, size + 1, np.float32) + bound(1, size + log_sum[..., None] + 4, np.float32)
        p = self.probabilities()
        dp, delta = g @ v.swapaxes(2, 3), (g * o).sum(axis=3, keepdims=True)
        ds = p * (dp + delta)
        ds_error = ds * relative + p * (bound(d_v + 2, dp + delta, np.float32))
        p_error = p * relative + np.finfo(np.float32).tiny
        ds_error += np.finfo(np.float32).tiny * (dp + delta + 1)
        dq = scale * (ds_error @ k + bound(t_k + 2, ds @ k, np.float32))
        dk = scale * (ds_error.swapaxes(2, 3) @ q + bound(t_q + 2, ds.swapaxes(2, 3) @ q, np.float32))
        dv = p_error.swapaxes(2, 3) @ g + bound(t_q + 1, p.swapaxes(2, 3) @ g, np.float32)
        return list(zip(want, (dq, dk, dv), ("dq", "dk", "dv"), strict=True))

    def probabilities(self):
        _, q, k, _ = self.wide()
        with np.errstate(all="ignore"):
            s = np.where(self.seen, self.settings["scale"] * q @ k.swapaxes(2, 3), -np.inf)
            p = np.exp(s - s.max(axis=3, keepdims=True, initial=-np.inf))
            p = p / p.sum(axis=3, keepdims=True)
        return np.where(np.isfinite(p), p, 0)

    def run(self, device, rung):
        o, log_sum = self.kept()
        arrays = (self.g, self.q, self.k, self.v, o, log_sum)
        return attention_cuda.attention_backward(device, *arrays, **self.settings, rung=rung)


@needs_compiler
@rungs_of_attention
@few
@given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    t_q=st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33]),
    t_k=st.sampled_from([0, 1, 15, 16, 17, 31, 32, 33]),
    sizes=st.sampled_from([(8, 8), (5, 3), (24, 40), (8, 136)]),  # each is compiled on its own
    causal=st.booleans(),
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 5.0]),
    seed=SEEDS,
)
def test_the_gradients_of_attention(rung, n, heads, t_q, t_k, sizes, causal, masked, spread, seed):
    a = Attention(n, heads, t_q, t_k, sizes, causal, masked, spread, seed)
    if masked:
        hide(a.k, a.v, a.settings["key_mask"])
    emulated(lambda device: a.run(device, rung), seed, a.expected())


@needs_compiler
@few
@given(t_q=st.integers(1, 9), t_k=st.integers(1, 40), causal=st.booleans(), masked=st.booleans(), seed=SEEDS)
def test_the_log_sums_of_attention(t_q, t_k, causal, masked, seed):
    a = Attention(2, 2, t_q, t_k, (8, 8), causal, masked, 3.0, seed)
    _, q, k, _ = a.wide()
    size = a.settings["scale"] * (np.abs(q) @ np.abs(k).swapaxes(2, 3)).max(axis=3)
    want = a.kept()[1]
    allowed = bound(9, size + 1, np.float32) + bound(
        t_k + 2, 1 + np.where(np.isfinite(want), np.abs(want), 0), np.float32
    )
    emulated(lambda device: attention_cuda.log_sums(device, a.q, a.k, **a.settings), seed, [(want, allowed, "L")])


@needs_compiler
@rungs_of_attention
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 6])
def test_nan_and_inf_of_attention_reach_the_gradients_that_they_reach_in_the_definition(rung, value, where):
    for which in "qkvg":
        a = Attention(1, 1, 18, 20, (8, 8), True, False, 1.0, 3)
        getattr(a, which)[0, 0, where, 2] = value
        gradients_finite_where_the_definition_has_them(a, rung, where, f"{value} in {which}")


@needs_compiler
@rungs_of_attention
def test_who_sees_nothing_has_no_gradients(rung):
    mask = np.array([[True, True, True], [False, False, False]])
    a = Attention(2, 1, 5, 3, (8, 8), True, mask, 1.0, 0)  # queries 0 and 1 of the first sample see no key either
    device = Emulator()
    dq, dk, dv = a.run(device, rung)
    device.check()
    assert not dq[0, :, :2].any() and not dq[1].any() and not dk[1].any() and not dv[1].any() and dv[0].any()


@needs_nvrtc
@pytest.mark.parametrize("sizes", [(40, 40), (128, 128), (256, 256)])
def test_attention_backward_compiles_without_spills(sizes):
    for architecture in ("75", "90a", "120"):
        defines = {"D": sizes[0], "D_V": sizes[1]}
        binary = compile_for(attention_cuda.HERE / attention_cuda.RUNGS[2], architecture, defines)
        for r in binary.resources().values():
            assert r.local_bytes == r.spill_bytes == 0 and r.shared_bytes <= 48 << 10


PLANTED_IN_ATTENTION = [  # rung, what is changed into what, what must be found
    (1, "- delta[row]", "", "wrong value"),
    (1, "if (at >= pairs * t_k * d) return;", "if (at > pairs * t_k * d) return;", "out of range"),
    (1, "j > i + t_k - t_q", "j >= i + t_k - t_q", "wrong value"),
    (2, "        __syncthreads();  // all are done with the tile before\n", "\n", "race"),
    (2, "        __syncthreads();  // the tile is there\n", "\n", "race"),
    (2, "r < count && c < columns", "c < columns", "out of range"),
    (2, "bit < LANES", "bit < LANES / 2", "wrong value"),
    (2, "first_i + ROWS + t_k - t_q", "first_i + t_k - t_q", "wrong value"),
    (2, "max(0, first_j - (t_k - t_q))", "max(0, first_j - (t_k - t_q) + STEP)", "wrong value"),
    (2, "first + i < earliest", "first + i <= earliest", "wrong value"),
    (2, "if (j >= t_k) return;", "", "out of range"),
    (2, "if (mask && !mask[first + j]) continue;", "", "wrong value"),
]


@needs_compiler
@pytest.mark.parametrize("rung, old, new, kind", PLANTED_IN_ATTENTION)
def test_a_mistake_in_attention_backward_is_found(rung, old, new, kind):
    a = Attention(1, 2, 35, 39, (24, 8), True, True, 1.0, 4)
    a.settings["key_mask"][:, 0] = True
    hide(a.k, a.v, a.settings["key_mask"])
    device = Mistaken(attention_cuda.HERE / attention_cuda.RUNGS[rung], old, new)
    for array, expected in zip(a.run(device, rung), a.expected(), strict=True):
        device.expect(array, *expected)
    assert kind in {f.kind for f in device.findings}
