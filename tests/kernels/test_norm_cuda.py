"""The norms in CUDA, emulated: the definition's values, any shapes, NaN, far from zero, planted mistakes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import assert_lean, emulated, instructions, kinds, loads_at_once, needs_compiler, needs_nvrtc, normal, plant

from kernels.compare import assert_close, bound
from kernels.norm import cuda, reference

pytestmark = needs_compiler
SEEDS = st.integers(0, 2**32 - 1)
FAR = 16.0  # mean^2 / variance up to which the kernel takes the variance as a difference: it loses a factor 1 + FAR


def allowed_errors(g, x, gamma, beta, groups, eps, silu):
    """Of y, dx and of dgamma and dbeta for each sample: rounding of x_hat, of sums, and their part in the variance."""
    n, c = x.shape[0], x.shape[-1]
    (x_hat, r), z = reference._standardised(x, gamma, beta, groups, eps)
    m = max(1, z.shape[1] * c // groups)
    gamma, beta, g = (np.abs(p) for p in (gamma.reshape(-1, 1, c), beta.reshape(-1, 1, c), g.reshape(z.shape)))
    shifted = (1 + FAR) * np.abs(x_hat) + 1 + FAR**0.5
    z_size = gamma * shifted + beta + np.abs(z)
    dz = g * (1 + z_size) if silu else g
    dgamma, dbeta = (bound(m, total, np.float32) for total in ((dz * shifted).sum(1), dz.sum(1)))
    grouped = (n, -1, groups, c // groups)
    pull, hat = ((gamma * dz).reshape(grouped), shifted.reshape(grouped))
    mean, slope = (v.mean((1, 3), keepdims=True) for v in (pull, pull * hat))
    dx = bound(m, r * (1 + FAR) * (pull + mean + hat * slope), np.float32)
    return bound(m, z_size, np.float32), dx.reshape(x.shape), dgamma, dbeta


def group_norm(g, x, gamma, beta, groups, silu, eps=1e-5, rung=1, seed=0):
    """Forward and backward, emulated, against the definition in float64."""

    def run(device):
        y, saved = cuda.group_norm_forward(device, x, gamma, beta, groups, eps=eps, silu=silu, rung=rung)
        return y, *cuda.group_norm_backward(device, g, x, gamma, beta, saved, groups, silu=silu, rung=rung)

    got = emulated(run, seed)
    wide = [a.astype(np.float64) for a in (g, x, gamma, beta)]
    with np.errstate(all="ignore"):
        want = (
            reference.group_norm(*wide[1:], groups, eps, silu),
            *reference.group_norm_backward(*wide, groups, eps, silu),
        )
        allowed = allowed_errors(*wide, groups, eps, silu)
    for name, p, a, b, error in zip(("y", "dx", "dgamma", "dbeta"), (x, x, gamma, beta), got, want, allowed):
        per_sample = p is x or p.ndim == 2
        error = error.reshape(b.shape) if per_sample else len(x) ** 0.5 * error.sum(0)
        assert_close(a, b, np.nan_to_num(error, nan=0, posinf=0), name)
    return got


@pytest.mark.parametrize("rung", cuda.RUNGS)
@settings(max_examples=12)
@given(
    n=st.integers(1, 3),
    pixels=st.sampled_from([1, 2, 7, 31, 257]),
    groups=st.sampled_from([1, 2, 3]),
    width=st.sampled_from([1, 2, 5, 33]),
    own=st.tuples(st.booleans(), st.booleans()),
    silu=st.booleans(),
    offset=st.sampled_from([0.0, 3.0, 1e4]),
    seed=SEEDS,
)
@example(1, 3, 1, 300, (False, True), True, 0.0, 1)
@example(2, 600, 1, 2, (False, False), True, -1e3, 1)
@example(1, 601, 1, 2, (False, False), False, 1e2, 0)
def test_group_norm(rung, n, pixels, groups, width, own, silu, offset, seed):
    c = groups * width
    shapes = [(n, pixels, c), (n, pixels, c), *((n, c) if o else (c,) for o in own)]
    g, x, gamma, beta = normal(seed, *shapes)
    group_norm(g, (x + offset).astype(np.float32), gamma, beta, groups, silu, rung=rung, seed=seed)


def test_a_large_group_has_more_threads():
    """More than 48 KiB on the chip, for the way there and the way back."""
    g, x, gamma, beta = normal(4, (1, 2600, 5), (1, 2600, 5), (5,), (5,))
    group_norm(g, x, gamma, beta, 1, True, rung=2)


@pytest.mark.parametrize("rung", cuda.RUNGS)
@pytest.mark.parametrize("value", [0.0, -1e4, 1e-30, 1e15])
def test_constant_groups_give_beta(rung, value):
    g, gamma, beta = normal(3, (2, 35, 6), (6,), (6,))
    x = np.full((2, 35, 6), value, np.float32)
    y, *gradients = group_norm_only(g, x, gamma, beta, rung)
    assert_close(y, np.broadcast_to(beta, y.shape), bound(70, np.abs(gamma) + np.abs(beta), np.float32))
    assert all(np.isfinite(d).all() for d in gradients)


def group_norm_only(g, x, gamma, beta, rung):
    def run(device):
        y, saved = cuda.group_norm_forward(device, x, gamma, beta, 3, eps=1e-5, silu=False, rung=rung)
        return y, *cuda.group_norm_backward(device, g, x, gamma, beta, saved, 3, silu=False, rung=rung)

    return emulated(run)


@pytest.mark.parametrize("rung", cuda.RUNGS)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_in_their_group(rung, silu, value):
    g, x, gamma, beta = normal(1, (2, 9, 6), (2, 9, 6), (6,), (6,))
    x[1, 4, 2] = value
    y, dx, *_ = group_norm(g, x, gamma, beta, 3, silu, rung=rung)
    assert np.isnan(y[1, :, 2:4]).all() and np.isnan(y).sum() == 18 == np.isnan(dx).sum()


def test_nothing_at_all():
    for shape in ((0, 4, 6), (2, 0, 6)):
        g, x, gamma, beta = normal(1, shape, shape, (6,), (6,))
        _, dx, dgamma, dbeta = group_norm_only(g, x, gamma, beta, 1)
        assert dx.shape == shape and not dgamma.any() and not dbeta.any() and dgamma.shape == dbeta.shape == (6,)
    g, x, gamma, beta = normal(1, (0, 6), (0, 6), (6,), (6,))
    assert layer_norm(g, x, gamma, beta)[0].shape == (0, 6)


# --- layer norm -------------------------------------------------------------------------------------------------------


def layer_norm(g, x, gamma, beta, eps=1e-5, seed=0):
    def run(device):
        y, saved = cuda.layer_norm_forward(device, x, gamma, beta, eps=eps)
        return y, *cuda.layer_norm_backward(device, g, x, gamma, saved)

    got = emulated(run, seed)
    wide = [a.astype(np.float64) for a in (g, x, gamma, beta)]
    with np.errstate(all="ignore"):
        want = reference.layer_norm(*wide[1:], eps), *reference.layer_norm_backward(*wide[:3], eps)
        lifted = [wide[0][:, None], wide[1][:, None], *wide[2:]]
        allowed = allowed_errors(*lifted, 1, eps, False) if x.size else (0,) * 4
    rows = max(1, len(x)) ** 0.5
    for name, a, b, error in zip(("y", "dx", "dgamma", "dbeta"), got, want, allowed):
        summed = name in ("dgamma", "dbeta")
        error = rows * np.sum(error, axis=0) if summed else np.reshape(error, b.shape if x.size else ())
        assert_close(a, b, np.nan_to_num(error, nan=0, posinf=0), name)
    return got


@settings(max_examples=12)
@given(
    rows=st.sampled_from([1, 2, 7, 8, 9, 300]),
    c=st.sampled_from([1, 5, 31, 32, 33, 64, 65]),
    offset=st.sampled_from([0.0, 3.0, 1e4]),
    seed=SEEDS,
)
@example(3, 255, 0.0, 0)
@example(2, 257, 1e4, 0)
@example(2, 513, 0.0, 0)
@example(513, 1, 0.0, 0)
@example(5, 31, 1e2, 0)
def test_layer_norm(rows, c, offset, seed):
    g, x, gamma, beta = normal(seed, (rows, c), (rows, c), (c,), (c,))
    layer_norm(g, (x + offset).astype(np.float32), gamma, beta, seed=seed)


def test_rows_that_registers_cannot_hold(monkeypatch):
    monkeypatch.setattr(cuda, "WARPS", 1)
    g, x, gamma, beta = normal(5, (3, 300), (3, 300), (300,), (300,))
    layer_norm(g, x, gamma, beta)
    assert cuda._row_sizes(300) is None and cuda._row_sizes(256) == (8, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_stay_in_their_row(value):
    g, x, gamma, beta = normal(1, (10, 40), (10, 40), (40,), (40,))
    x[3, 7] = value
    y, *_ = layer_norm(g, x, gamma, beta)
    assert np.isnan(y[3]).all() and np.isnan(y).sum() == 40


# --- planted mistakes, and what the compiler says ---------------------------------------------------------------------

PLANTED = [
    ("2_group_norm_on_chip.cu", "    __syncthreads();  // the whole group is there\n", "", "race"),
    ("2_group_norm_on_chip.cu", "i < count; i += THREADS", "i <= count; i += THREADS", "out of range"),
    ("2_group_norm_on_chip.cu", "    __syncthreads();  // both slabs are there\n", "", "race"),
    ("2_group_norm_on_chip.cu", "    __syncthreads();  // all warps' parts are there\n", "", "race"),
    ("2_group_norm_on_chip.cu", "i < count; i += 32 * slab.width", "i <= count; i += 32 * slab.width", "out of range"),
    ("2_group_norm_on_chip.cu", "pull += gamma[k] * a;", "pull += a;", "wrong value"),
    ("1_group_norm.cu", "if (row >= 2 || k >= c) return;", "if (row >= 2) return;", "race"),
    ("1_group_norm.cu", "    tile[1][row][column] = b;\n    __syncthreads();\n", "    tile[1][row][column] = b;\n", "race"),
    ("1_group_norm.cu", "- mean - hat * slope", "- mean + hat * slope", "wrong value"),
    ("1_group_norm.cu", "own_gamma ? sample * c : 0) + group * slab.width;\n    beta += (own_beta ? sample * c : 0) + group * slab.width;\n    sums", "own_gamma ? sample * c : 0);\n    beta += (own_beta ? sample * c : 0) + group * slab.width;\n    sums", "wrong value"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "kind"), PLANTED)
def test_a_planted_mistake_is_found(file, old, new, kind, monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda, file, old, new)
    g, x, gamma, beta = normal(2, (2, 100, 9), (2, 100, 9), (9,), (9,))
    wide = [a.astype(np.float64) for a in (g, x, gamma, beta)]

    def run(device):
        y, saved = cuda.group_norm_forward(device, x, gamma, beta, 3, eps=1e-5, silu=True, rung=int(file[0]))
        dx, *_ = cuda.group_norm_backward(device, g, x, gamma, beta, saved, 3, silu=True, rung=int(file[0]))
        device.expect(y, reference.group_norm(*wide[1:], 3, 1e-5, True), 1e-4)
        device.expect(dx, reference.group_norm_backward(*wide, 3, 1e-5, True)[0], 1e-4)

    assert kind in kinds(run)


@needs_nvrtc
@pytest.mark.parametrize("sizes", [(1, 1), (8, 1), (8, 32)])
def test_layer_norm_compiles_for_short_and_long_rows(sizes):
    file = cuda._file("layer_norm.cu")
    for architecture in ("75", "90a", "120"):
        assert_lean(file, architecture, dict(zip(("PER", "WARPS"), sizes)))


@needs_nvrtc
@pytest.mark.parametrize(
    ("file", "kernel", "loads"),
    [
        ("1_group_norm.cu", "group_norm", 8),
        ("1_group_norm.cu", "channel_sums", 8),
        ("1_group_norm.cu", "group_norm_backward", 4),
        ("2_group_norm_on_chip.cu", "group_norm_backward", 8),
    ],
)
def test_a_thread_has_many_numbers_on_their_way_from_memory_when_it_takes_the_first_silu(file, kernel, loads):
    code = instructions(cuda.HERE / file, kernel)
    assert loads_at_once(code.split("E")[0])[-1] >= loads
