"""The way from a public function to its CUDA rung: on the emulator every operation, and a model's step, must agree with NumPy's.

The rungs themselves are tested elsewhere, over many shapes. Here it is what lies between: which arrays take a rung,
what they are brought into before, and that nothing else about the function changes.
"""

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import cupy_on_cpu
import numpy as np
import pytest
from emulation import Counting
from rungs import needs_compiler

import autograd as ag
from kernels import (
    activation,
    adam,
    attention,
    bfloat16,
    codebook,
    compare,
    conv2d,
    cross_entropy,
    device,
    eight_bit,
    embedding,
    launch,
    matmul,
    norm,
    quantize,
    random,
    sampler_step,
)
from kernels.backend import to_numpy
from kernels.compare import assert_close, bound
from kernels.device import contiguous, device_of, running_on
from kernels.precision import precision
from kernels.source import ROOT
from minigen import data
from minigen.cli import arguments, curriculum
from minigen.errors import UserError
from minigen.maths import schedules
from minigen.models import ddpm
from minigen.nn import UNet
from minigen.train.loop import Trainer
from minigen.train.optim import AdamW

STEPS = 16  # rounded steps on the way to a number, where it is no sum
# Public names that have no rung: they are made of simple operations, or compute nothing on a device.
WITHOUT = {
    *("matmul.sum_rows", "embedding.embedding", "sampler_step.plan", "random.Stream"),
    *("quantize.Quantized", "eight_bit.FORMS", "eight_bit.LARGEST", "eight_bit.decode", "eight_bit.encode"),
}


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def turned(*shape, seed=0):
    """Normal numbers that do not lie one after the other."""
    return normal(*shape[::-1], seed=seed).transpose()


def public_names(folder):
    return {f"{folder}.{name}" for name in importlib.import_module(f"kernels.{folder}").__all__}


# --- what each function is asked --------------------------------------------------------------------------------------


@dataclass
class Case:
    """A call of a public function: what it must launch, and how large the numbers are that it adds up."""

    names: str  # of the functions that it calls
    call: object  # of float arrays, to one result or several
    arrays: tuple
    launches: set
    terms: int = STEPS
    size: object = (
        None  # of the same float64 arrays, to a bound of what is added up; None: the call with absolute values
    )
    exact: bool = False  # the same bits as NumPy's
    doubles: bool = True  # float64 is allowed
    id: str = field(default="")


def norms(g, x, gamma, beta, forward, backward, *groups, **silu):
    y, saved = forward(x, gamma, beta, *groups, **silu)
    given = (gamma, beta) if groups else (gamma,)
    return y, *backward(g, x, *given, saved, *groups, **silu)


def group_norm(g, x, gamma, beta):
    return norms(g, x, gamma, beta, norm.group_norm_forward, norm.group_norm_backward, 2, silu=True)


def layer_norm(g, x, gamma, beta):
    return norms(g, x, gamma, beta, norm.layer_norm_forward, norm.layer_norm_backward)


def norm_size(g, x, gamma, beta):
    """The variance of these inputs is near 1, numbers reach 5 standard deviations, and each slope adds a product."""
    return 5 * (1 + np.abs(x).max()) * (1 + np.abs(gamma).max()) * (1 + np.abs(g).max()) ** 2


MASK = np.arange(2 * 21).reshape(2, 21) % 5 != 2
TARGETS = np.array([3, 0, 7, 7, 2], np.int32)
CODES = np.array([2, 0, 2, 3, 2, 0, 0])
SCALE = np.array([0, 1, 4])
INDICES = np.arange(12).reshape(3, 4)[:, ::-1] ** 2 % 9
AT = {"seed": 2**63 + 5, "first": 2, "step": 3, "purpose": 4}
SETTINGS = {"step": 2, "lr": 0.1, "weight_decay": 0.1}


def attend(g, q, k, v, **settings):
    o, saved = attention.attention_forward(q, k, v, **settings)
    return o, *attention.attention_backward(g, q, k, v, o, saved, **settings)


def attend_size(q, k, v):
    """A probability is off by as many roundings as its score is large, and one for the sum."""
    return (1 + (np.abs(q) @ np.abs(k).swapaxes(2, 3)).max()) * np.abs(v).max()


def attend_both_size(g, q, k, v):
    """A gradient of a score is a probability times the difference of two sums of products of g and v."""
    slope = 2 * (np.abs(g) @ np.abs(v).swapaxes(2, 3)).max()
    return attend_size(q, k, v) + attend_size(q, k, slope) * max(np.abs(q).max(), np.abs(k).max())


def entropy(g, x):
    loss, saved = cross_entropy.cross_entropy_forward(x, TARGETS)
    return loss, cross_entropy.cross_entropy_backward(g, x, TARGETS, saved)


def adam_of(p, g, m, v):
    p, m, v = p.copy(), m.copy(), np.abs(v)
    adam.adam_step(p, g, m, v, **SETTINGS)
    return p, m, v


def averaged(N, m, e, z):
    return codebook.codebook_ema(np.abs(N) + 1, m, e, z, CODES, 0.9)


def guided(x, c, u, z):
    return sampler_step.ddim_step(x, c, u, a_t=0.3, a_u=0.6, scale=SCALE.astype(x.dtype), eta=0.5, clip=1.5, noise=z)


def drawn(like):
    stream = random.Stream(7, like=like)
    words = random.random_bits((3, 5), **AT, like=like)
    return (
        words,
        random.uniform((3, 5), **AT, like=like),
        random.normal((3, 2, 3), **AT, like=like),
        stream.random((2, 2)),
    )


def draw_and_step(x, c):
    stream = random.Stream(7, like=x)
    first = sampler_step.ddim_step(x, c, a_t=0.3, a_u=0.6, eta=1.0, noise=stream)
    return *first, np.array([stream.step])


def eight(x, w):
    (p, t), (q, s) = eight_bit.quantize(x, axis=0), eight_bit.quantize(w, axis=1)
    fp8 = eight_bit.quantize(w, axis=0, form="e4m3")
    return p, t, q, s, eight_bit.dequantize(*fp8, axis=0, form="e4m3"), eight_bit.linear_int8(p, t, q, s, w[0])


def fp8_layer(x, w):
    (p, t), (q, s) = eight_bit.quantize(x, axis=0, form="e5m2"), eight_bit.quantize(w, axis=1, form="e4m3")
    return eight_bit.linear_fp8(p, t, q, s, w[0], x_form="e5m2")


def weights_only(x, w):
    q, s = eight_bit.quantize(w.astype(np.float32), axis=1)
    return eight_bit.linear_weight_only(x, q, s, w[0])


def activation_size(*arrays):
    return np.prod([2 + 2 * np.abs(a) for a in arrays], axis=0)


def gelu_both(g, x):
    y, saved = activation.gelu_forward(x)
    return y, activation.gelu_backward(g, saved)


def conv(x, w, b, g):
    how = {"stride": (2, 1), "padding": (1, 2)}
    y = conv2d.conv2d(x, w, b, **how)
    return y, conv2d.conv2d_grad_x(g, w, x.shape, **how), conv2d.conv2d_grad_w(x, g, w.shape, **how)


def conv_of_a_block(x, w, b, time, residual):
    return conv2d.conv2d(x, w, b, time=time, residual=residual, padding=1)


def conv_transposed(x, w, b, g):
    how = {"stride": (2, 1), "padding": (1, 0)}
    y = conv2d.conv_transpose2d(x, w, b, **how, output_padding=(1, 0))
    return y, conv2d.conv_transpose2d_grad_x(g, w, **how), conv2d.conv_transpose2d_grad_w(x, g, w.shape, **how)


ELEMENTS = turned(3, 5, 7), turned(3, 5, 7, seed=1)
MATMUL, FOURS = {"matmul/2_tiled:matmul"}, "activation/1_fours:"
CASES = [
    Case("matmul.matmul", matmul.matmul, (normal(5, 6), normal(6, 7)), MATMUL, 6, id="plain"),
    Case("matmul.matmul", matmul.matmul, (turned(5, 6), turned(6, 7)), MATMUL, 6, id="transposed"),
    Case("matmul.matmul", matmul.matmul, (turned(3, 2, 5, 6), normal(2, 6, 7)), MATMUL, 6, id="broadcast"),
    Case("matmul.matmul", matmul.matmul, (normal(5, 6), normal(2, 6, 7)), MATMUL, 6, id="matrix and batch"),
    Case("matmul.matmul", matmul.matmul, (normal(2, 6, 5).swapaxes(1, 2), normal(6, 7)), MATMUL, 6, id="batch and matrix"),
    Case("matmul.matmul", matmul.matmul, (normal(6), normal(2, 6, 7)), MATMUL, 6, id="row"),
    Case("matmul.matmul", matmul.matmul, (normal(2, 5, 6), normal(6)), MATMUL, 6, id="column"),
    Case("matmul.matmul", matmul.matmul, (normal(6), normal(6, seed=1)), MATMUL, 6, id="two vectors"),
    Case("matmul.linear", matmul.linear, (turned(2, 3, 6), turned(6, 7), normal(7)), MATMUL, 7),
    Case("matmul.linear", matmul.linear, (normal(6), normal(6, 7)), MATMUL, 7, id="one row"),
    Case(
        "conv2d.conv2d conv2d.conv2d_grad_x conv2d.conv2d_grad_w",
        conv,
        (turned(2, 6, 5, 3), turned(3, 2, 3, 4), normal(4), turned(2, 3, 8, 4)),
        {"conv2d/2_tiled:conv2d", *(f"conv2d/2_tiled_gradients:conv2d_grad_{x}" for x in "xw")},
        48,
    ),
    Case(
        "conv2d.conv2d",
        conv_of_a_block,
        (turned(2, 3, 5, 3), turned(3, 3, 3, 4), normal(4), turned(2, 4), turned(2, 3, 5, 4)),
        {"conv2d/2_tiled:conv2d"},
        30,
        id="of a residual block",
    ),
    Case(
        "conv2d.conv_transpose2d conv2d.conv_transpose2d_grad_x conv2d.conv_transpose2d_grad_w",
        conv_transposed,
        (turned(2, 3, 5, 3), turned(3, 2, 3, 4), normal(4), turned(2, 6, 6, 4)),
        {"conv2d/2_tiled:conv2d", *(f"conv2d/2_tiled_gradients:conv2d_grad_{x}" for x in "xw")},
        48,
    ),
    Case(
        "attention.attention",
        lambda q, k, v: attention.attention(q, k, v, key_mask=MASK, causal=True),
        (turned(2, 3, 19, 8), turned(2, 3, 21, 8), turned(2, 3, 21, 16)),
        {"attention/2_online_softmax:attention"},
        29,
        attend_size,
    ),
    Case(
        "attention.attention_forward attention.attention_backward",
        lambda *a: attend(*a, key_mask=MASK.T.copy().T, scale=0.3),
        (turned(2, 3, 19, 16), turned(2, 3, 19, 8), turned(2, 3, 21, 8), turned(2, 3, 21, 16)),
        {
            "attention/2_short:attention",
            *(f"attention/2_recomputed_backward:{k}" for k in ("deltas", "grad_q", "grad_kv")),
        },
        29,
        attend_both_size,
    ),
    Case(
        "quantize.nearest_code",
        quantize.nearest_code,
        (turned(40, 5), turned(9, 5)),
        {"quantize/3_mma:prepare", "quantize/3_mma:nearest_code"},
        exact=True,
    ),
    Case(
        "quantize.quantize",
        quantize.quantize,
        (turned(40, 5), turned(9, 5)),
        {"quantize/3_mma:prepare", "quantize/3_mma:nearest_code", "quantize/gather:clear", "quantize/gather:gather"},
        7,
        lambda z, codes: 5 * (np.abs(z).max() + np.abs(codes).max()) ** 2,
    ),
    Case(
        "norm.group_norm_forward norm.group_norm_backward",
        group_norm,
        (turned(3, 2, 5, 6), turned(3, 2, 5, 6, seed=1), normal(6), turned(3, 6)),
        {"norm/2_group_norm_on_chip:group_norm", "norm/2_group_norm_on_chip:group_norm_backward", "norm/1_group_norm:add_slices"},
        30,
        norm_size,
    ),
    Case(
        "norm.layer_norm_forward norm.layer_norm_backward",
        layer_norm,
        (turned(3, 5, 33), turned(3, 5, 33, seed=1), normal(33), normal(33, seed=1)),
        {*(f"norm/layer_norm:{k}" for k in ("layer_norm", "layer_norm_backward", "column_sums")), "norm/1_group_norm:add_slices"},
        33,
        norm_size,
    ),
    Case("activation.silu", activation.silu, ELEMENTS[:1], {FOURS + "silu"}, size=activation_size),
    Case("activation.silu", activation.silu, (normal(),), {FOURS + "silu"}, size=activation_size, id="no axis"),
    Case("activation.silu_grad", activation.silu_grad, ELEMENTS, {FOURS + "silu_grad"}, size=activation_size),
    Case("activation.gelu", activation.gelu, ELEMENTS[:1], {FOURS + "gelu"}, size=activation_size),
    Case("activation.gelu_grad", activation.gelu_grad, ELEMENTS, {FOURS + "gelu_grad"}, size=activation_size),
    Case("activation.gelu_forward activation.gelu_backward", gelu_both, ELEMENTS, {FOURS + "gelu", FOURS + "gelu_grad"}, size=activation_size),
    Case("activation.softplus", activation.softplus, ELEMENTS[:1], {FOURS + "softplus"}, size=activation_size),
    Case(
        "cross_entropy.cross_entropy_forward cross_entropy.cross_entropy_backward",
        entropy,
        (turned(5), turned(5, 8)),
        {"cross_entropy/1_online:cross_entropy", "cross_entropy/1_online:cross_entropy_backward"},
        size=lambda g, x: (1 + np.abs(g).max()) * (8 + 2 * np.abs(x).max()),
    ),
    Case(
        "embedding.embedding_grad",
        lambda g: embedding.embedding_grad(g, INDICES, 9),
        (turned(3, 4, 5),),
        {*(f"embedding/2_sorted:{k}" for k in ("digit_counts", "prefix_sum", "place", "starts", "tile_sums", "join"))},
        12,
    ),
    Case(
        "adam.adam_step",
        adam_of,
        tuple(normal(33, seed=i) for i in range(4)),
        {"adam/1_fours:adam_step"},
        size=lambda p, g, m, v: 1 + np.abs(p) + np.abs(g) ** 2 + np.abs(m) + np.abs(v),
    ),
    Case(
        "codebook.codebook_ema",
        averaged,
        (normal(4), turned(4, 3), turned(4, 3, seed=1), turned(7, 3)),
        {"codebook/1_segments:moving_average", *(f"embedding/2_sorted:{k}" for k in ("digit_counts", "prefix_sum", "place", "starts", "tile_sums", "join"))},
        7,
        lambda N, m, e, z: 2 + np.abs(N).max() + 2 * (np.abs(m) + np.abs(z).sum(0)).max(),
    ),
    Case(
        "random.random_bits random.uniform random.normal",
        drawn,
        (normal(2),),
        {f"random/1_philox:{k}" for k in ("bits", "uniforms", "normals")},
        exact=True,
    ),
    Case(
        "sampler_step.ddim_step",
        guided,
        (turned(3, 5), turned(3, 5, seed=1), turned(3, 5, seed=2), turned(3, 5, seed=3)),
        {"sampler_step/1_fused:ddim_step"},
        size=lambda *a: 9 * sum(np.abs(x) for x in a),
    ),
    Case(
        "sampler_step.ddim_step",
        draw_and_step,
        (turned(3, 5), turned(3, 5, seed=1)),
        {"sampler_step/1_fused:ddim_step"},
        size=lambda *a: 9 * sum(np.abs(x).max() for x in a) + 7,
        id="drawing",
    ),
    Case(
        "eight_bit.quantize eight_bit.dequantize eight_bit.linear_int8",
        eight,
        (turned(5, 12), turned(12, 7)),
        {
            *(f"eight_bit/quantize:{k}" for k in ("row_scales", "column_sizes", "column_scales", "to_int8")),
            *("eight_bit/quantize:to_fp8", "eight_bit/quantize:from_fp8", "eight_bit/turn:turn", "eight_bit/4_wgmma:int8"),
        },
        exact=True,
        doubles=False,
    ),
    Case(
        "eight_bit.linear_fp8",
        fp8_layer,
        (turned(9, 12), turned(12, 7)),
        {
            *(f"eight_bit/quantize:{k}" for k in ("row_scales", "column_sizes", "column_scales", "to_fp8")),
            *("eight_bit/widen:widen_fp8", "eight_bit/4_split:fp8"),
        },
        doubles=False,
    ),
    Case(
        "eight_bit.linear_weight_only",
        weights_only,
        (turned(9, 12), turned(12, 7)),
        {
            *("eight_bit/quantize:column_sizes", "eight_bit/quantize:column_scales", "eight_bit/quantize:to_int8"),
            *("matmul/split:split", "eight_bit/widen:widen", "eight_bit/4_split:weight_only"),
        },
        doubles=False,
    ),
]  # fmt: skip
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: c.names.replace(" ", "+") + (f"-{c.id}" if c.id else "")
)


def several(result):
    return [np.asarray(r) for r in (result if isinstance(result, tuple) else (result,))]


def emulated(call, *arrays):
    """The results and the emulator, which has found nothing."""
    with running_on(Counting()) as device:
        results = several(call(*arrays))
    device.check()
    return results, device


@needs_compiler
@every_case
def test_a_function_takes_its_rung_and_agrees_with_numpy(case):
    before = [a.copy() for a in case.arrays]
    got, device = emulated(case.call, *case.arrays)
    assert set(device.launched) == case.launches
    plain = several(case.call(*case.arrays))
    for a, b in zip(case.arrays, before):
        np.testing.assert_array_equal(a, b)  # nothing mutates its arguments
    assert [(g.dtype, g.shape) for g in got] == [(p.dtype, p.shape) for p in plain]
    if case.exact:
        assert all(g.tobytes() == p.tobytes() for g, p in zip(got, plain))
        return
    wide = [a.astype(np.float64) for a in case.arrays] if case.doubles else case.arrays
    want = several(case.call(*wide))
    sizes = several(case.call(*map(np.abs, wide))) if case.size is None else [np.asarray(case.size(*wide))] * len(want)
    for g, p, w, size in zip(got, plain, want, sizes):
        size = size if size.shape == w.shape else size.max()
        for name, result in (("the rung", g), ("NumPy", p)):
            assert_close(result, w, bound(case.terms, size, np.float32), name)


@needs_compiler
@every_case
def test_nan_goes_where_it_goes_in_numpy(case):
    for at in range(len(case.arrays)):
        arrays = [a.copy(order="K") for a in case.arrays]
        arrays[at].reshape(-1)[:1] = np.nan if arrays[at].flags.c_contiguous else 0
        arrays[at][(0,) * arrays[at].ndim] = np.nan
        with np.errstate(all="ignore"):
            got, plain = emulated(case.call, *arrays)[0], several(case.call(*arrays))
        for g, p in zip(got, plain):
            np.testing.assert_array_equal(np.isnan(g.astype(np.float64)), np.isnan(p.astype(np.float64)), f"array {at}")


@every_case
def test_float64_keeps_the_path_it_has(case):
    if not case.doubles:
        pytest.skip("this function is for float32 alone")
    if "random" in case.names:
        pytest.skip("what is drawn is float32 unless asked for otherwise")
    arrays = [a.astype(np.float64) for a in case.arrays]
    got, device = emulated(case.call, *arrays)
    assert not device.launched
    assert all(g.tobytes() == p.tobytes() for g, p in zip(got, several(case.call(*arrays))))


@every_case
def test_float64_on_a_gpu_takes_the_definition(case, monkeypatch):
    """What no rung takes is computed from simple operations on the arrays' own module, and nothing of it on the host."""
    if not case.doubles:
        pytest.skip("this function is for float32 alone")
    if "random" in case.names:
        pytest.skip("what is drawn is float32 unless asked for otherwise")
    arrays = [a.astype(np.float64) for a in case.arrays]
    want = several(case.call(*arrays))
    sizes = (
        several(case.call(*map(np.abs, arrays))) if case.size is None else [np.asarray(case.size(*arrays))] * len(want)
    )
    with cupy_on_cpu.installed() as gpu:
        for name in ("MASK", "TARGETS", "CODES", "SCALE", "INDICES"):
            monkeypatch.setattr(sys.modules[__name__], name, cupy_on_cpu.Ndarray(globals()[name]))
        got = case.call(*map(cupy_on_cpu.Ndarray, arrays))
    assert not gpu.launched
    for g, w, size in zip(got if isinstance(got, tuple) else (got,), want, sizes):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        assert_close(to_numpy(g), w, bound(case.terms, size if size.shape == w.shape else size.max(), np.float64))


@needs_compiler
@every_case
def test_arguments_are_checked_as_before(case):
    if len(case.arrays) < 2:
        pytest.skip("one array cannot differ from the others")
    arrays = [case.arrays[0].astype(np.float64), *case.arrays[1:]]

    def message():
        with pytest.raises((TypeError, ValueError)) as error:
            case.call(*arrays)
        return error.type, str(error.value)

    outside = message()
    with running_on(Counting()):
        assert message() == outside


def test_every_public_function_is_here():
    tested = {name for case in CASES for name in case.names.split()}
    public = {name for file in ROOT.glob("*/cuda.py") for name in public_names(file.parent.name)}
    new, gone = sorted(public - WITHOUT - tested), sorted(tested - (public - WITHOUT))
    assert not new, f"CASES in {__file__}, or WITHOUT, needs {', '.join(new)}"
    assert not gone, f"CASES in {__file__} has {', '.join(gone)}, which no __all__ has"


# --- what keeps the path it had ---------------------------------------------------------------------------------------


def adam_of_strided(*which):
    def step(*given):
        arrays = [np.abs(a) for a in given]
        for i in which:
            arrays[i] = np.stack([arrays[i], arrays[i]], axis=1)[:, 0]
        adam.adam_step(*arrays, **SETTINGS)
        return tuple(arrays)

    return step


@pytest.mark.parametrize(
    ("call", "arrays"),
    [
        (attend, (normal(1, 1, 2, 3), normal(1, 1, 2, 257), normal(1, 1, 4, 257), normal(1, 1, 4, 3))),
        (attend, (normal(1, 1, 2, 257), normal(1, 1, 2, 3), normal(1, 1, 4, 3), normal(1, 1, 4, 257))),
        *((adam_of_strided(i), tuple(normal(20, seed=i) for i in range(4))) for i in (0, 2, 3)),
        (lambda g, x: norms(g, x, x[0, 0], x[0, 0], norm.layer_norm_forward, norm.layer_norm_backward), (np.zeros((2, 1, 3)), np.ones((2, 1, 3)))),
        (lambda x: cross_entropy.cross_entropy_forward(x, np.zeros(0, int))[0], (normal(0, 0),)),
        (lambda like: random.normal((2, 3), seed=1, dtype=np.float64, like=like), (normal(1),)),
        (matmul.sum_rows, (normal(3, 4),)),
    ],
)  # fmt: skip
def test_what_has_no_rung_keeps_the_path_it_has(call, arrays):
    got, device = emulated(call, *(a.copy() for a in arrays))
    assert not device.launched
    for g, p in zip(got, several(call(*(a.copy() for a in arrays)))):
        np.testing.assert_array_equal(g, p)


@needs_compiler
def test_nothing_at_all_is_the_right_shape():
    empty = normal(0, 3)
    for call, arrays in (
        (matmul.matmul, (empty, normal(3, 2))),
        (matmul.matmul, (empty.T, empty)),
        (matmul.linear, (normal(2, 0), normal(0, 4), normal(4))),
        (conv, (normal(0, 4, 4, 2), normal(3, 2, 2, 3), normal(3), normal(0, 2, 7, 3))),
        (attend, (normal(1, 2, 0, 5), normal(1, 2, 0, 4), normal(1, 2, 3, 4), normal(1, 2, 3, 5))),
        (attend, (normal(1, 2, 3, 5), normal(1, 2, 3, 4), normal(1, 2, 0, 4), normal(1, 2, 0, 5))),
        (attend, (normal(1, 2, 3, 0), normal(1, 2, 3, 4), normal(1, 2, 2, 4), normal(1, 2, 2, 0))),
        (group_norm, (normal(0, 3, 4), normal(0, 3, 4), normal(4), normal(4))),
        (group_norm, (normal(2, 0, 4), normal(2, 0, 4), normal(4), normal(4))),
        (layer_norm, (empty, empty, normal(3), normal(3))),
        (quantize.nearest_code, (empty, normal(2, 3))),
        (quantize.quantize, (empty, normal(2, 3))),
        (quantize.quantize, (empty.T, normal(2, 0))),
        (activation.silu, (empty,)),
        (lambda g: embedding.embedding_grad(g, np.zeros(0, int), 4), (empty,)),
        (lambda g: embedding.embedding_grad(g, np.zeros(0, int), 0), (empty,)),
        (lambda g: embedding.embedding_grad(g, np.zeros(3, int), 4), (empty.T,)),
        (lambda z: codebook.codebook_ema(1 + z[0], z, z, empty, np.zeros(0, int), 0.9), (normal(3, 3),)),
        (lambda x: sampler_step.ddim_step(x, x, a_t=0.3, a_u=0.6), (empty,)),
        (lambda x: random.normal((0, 3), seed=1, like=x), (normal(1),)),
        (lambda x: eight_bit.quantize(x, axis=0), (empty,)),
        (lambda x: eight_bit.quantize(x, axis=1), (empty,)),
        (lambda x: eight_bit.linear_weight_only(x, np.zeros((3, 2), np.int8), x.sum(0)[:2]), (empty,)),
    ):
        got, want = emulated(call, *arrays)[0], several(call(*arrays))
        for g, w in zip(got, want):
            assert g.dtype == w.dtype
            np.testing.assert_allclose(g, w, rtol=1e-5)


def test_arrays_are_on_a_device_only_where_they_are_told_to_be():
    x = normal(3)
    assert device_of(x) is None
    with running_on("a device"):
        assert device_of(x, None, np.zeros(2, np.int64)) == "a device"
        assert device_of(x, x.astype(np.float64)) is None and device_of([1.0]) is None
        with running_on("another"):
            assert device_of(x) == "another"
        assert device_of(x) == "a device"
    assert device_of(x) is None


def test_arrays_of_another_gpu_than_the_current_one_are_on_none():
    with cupy_on_cpu.installed() as gpu:
        here, there = (cupy_on_cpu.Ndarray(np.zeros(3, np.float32)) for _ in range(2))
        there.device = SimpleNamespace(id=1)
        assert device_of(here, None) is device_of(here, here) is gpu
        assert device_of(here, there) is device_of(there, here) is device_of(there) is None


def test_contiguous_copies_only_what_lies_otherwise():
    x = normal(3, 4)
    assert contiguous(None) is None and contiguous(x) is x and contiguous(x[1:]).base is x
    assert contiguous(x.T).flags.c_contiguous and contiguous(x[()][0, 0:0]).shape == (0,)


def test_without_a_device_nothing_of_cuda_is_imported():
    code = """
import sys
import numpy as np
import minigen, minigen.models.ddpm, minigen.train.run, autograd, kernels.device
from kernels import {}
x = np.ones((4, 4), np.float32)
matmul.matmul(x, x), activation.silu(x), norm.layer_norm_forward(x, x[0], x[0])
odd = [m for m in sys.modules if m.startswith("kernels.") and m.endswith((".cuda", ".cuda_backward", ".launch", ".emulator", ".source"))]
sys.exit(" ".join(odd) or 0)
""".format(", ".join(sorted({name.partition(".")[0] for case in CASES for name in case.names.split()})))
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT.parent)})


# --- a whole model ----------------------------------------------------------------------------------------------------


def unet_step(dtype):
    """The loss of one training step of DDPM on one picture, the gradients by name, and the network."""
    unet = UNet(1, 1, base=8, multipliers=(1, 2), blocks=1, attention=(), heads=2, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for p in unet.parameters():  # a fresh network multiplies by zeros
        p.data = p.data + rng.standard_normal(p.shape).astype(np.float32) / 8
    unet.astype(dtype).flatten()
    x_0 = np.clip(rng.standard_normal((1, 8, 8, 1)), -1, 1).astype(np.float32).astype(dtype)
    loss = ddpm.training_loss(unet, x_0, schedules.make("cosine", 20), rng)
    loss.backward()
    return {"loss": loss.data, **{name: p.grad for name, p in unet.named_parameters().items()}}, unet


@needs_compiler
def test_a_step_of_ddpm_on_the_device_is_that_on_numpy():
    with running_on(Counting()) as device:
        got, unet = unet_step(np.float32)
        moved, optimiser = unet.flat.copy(), AdamW(unet, weight_decay=0.1)
        moments = [np.zeros_like(moved) for _ in range(2)]
        optimiser.step(1, 1e-2)
    device.check()
    plain, want = unet_step(np.float32)[0], unet_step(np.float64)[0]
    assert got.keys() == want.keys() and len(got) > 50
    for name, exact in want.items():  # as far from float64's as NumPy's float32 is, give or take the order of sums
        size, noise, off = (np.sqrt(np.mean(a**2)) for a in (exact, plain[name] - exact, got[name] - exact))
        assert size > 0 and off <= compare.SAFETY * noise + bound(1, size, np.float32), (name, size, noise, off)
    adam.adam_step(moved, unet.flat_grad, *moments, step=1, lr=1e-2, weight_decay=0.1)
    assert_close(unet.flat, moved, bound(STEPS, 0.02 + np.abs(moved), np.float32), "the weights after Adam's step")
    folders = {name.partition("/")[0] for name in device.launched}
    assert folders == {"conv2d", "matmul", "norm", "activation", "attention", "adam"}


@needs_compiler
def test_a_step_of_ddpm_on_tensor_cores_is_that_on_numpy_in_bfloat16():
    with precision("bf16"):
        with running_on(Counting()) as device:
            got, _ = unet_step(np.float32)
        plain, _ = unet_step(np.float32)
    device.check()
    of_products = ("2_tiled", "2_recomputed", "2_online", "2_short", "3_mma:", "1_")
    assert not [
        k
        for k in device.launched
        if k.partition("/")[2].startswith(of_products) and "norm" not in k and "silu" not in k
    ]
    want, unit = unet_step(np.float64)[0], bfloat16.UNIT_ROUNDOFF

    def far(a, b):  # some gradients are 0 but for rounding, so all of them together
        a, b, all_ = (np.concatenate([np.ravel(x[n]) for n in want if n != "loss"]) for x in (a, b, want))
        return np.linalg.norm(a - b) / np.linalg.norm(all_)

    assert abs(got["loss"] / plain["loss"] - 1) <= unit and abs(got["loss"] / want["loss"] - 1) <= unit
    assert far(got, plain) <= 4 * unit and unit <= far(plain, want) <= 4 * unit  # two networks deep: 1.7 and 2.3


@needs_compiler
def test_a_run_with_device_cuda_is_one_on_the_cpu():
    """CuPy's part is played by arrays that refuse what CuPy's refuse, and a GPU's by the emulator."""
    dataset = data.load("digits")
    settings = ddpm.Config(T=20, base=8, batch_size=1, steps=2)

    def run(device):
        system = arguments.build(ddpm, settings, dataset, seed=0, device=device)
        trainer = Trainer(system, seed=0)
        return trainer.advance(dataset.train), trainer, system.sample(1, rng=np.random.default_rng(0), steps=1)

    with cupy_on_cpu.installed() as gpu:
        got, trainer, picture = run("cuda")
    want, on_cpu, picture_on_cpu = run("cpu")
    assert not gpu.findings and set(gpu.launched) == {"conv2d", "matmul", "norm", "activation", "attention", "adam"}
    for figure in ("eps.loss", "eps.norm"):  # each a mean, or a root of one, of 64 numbers and more
        assert_close(got[figure], want[figure], bound(64, want[figure], np.float32), figure)
    assert isinstance(picture, cupy_on_cpu.Ndarray) and isinstance(
        trainer.weights()["unet/conv_in.w"], cupy_on_cpu.Ndarray
    )
    assert_close(picture.get(), picture_on_cpu, bound(64, 4.0, np.float32, 2), "a picture after a step of training")
    moved = np.abs(trainer.trained["unet"].flat.get() - on_cpu.trained["unet"].flat)
    assert moved.max() <= 2.1 * got["lr"]  # where a gradient is 0 but for rounding, Adam goes either way by the rate


@pytest.mark.parametrize("on_gpu", [True, False])
def test_gradients_of_rows_that_repeat_are_added_without_atomics(on_gpu):
    index = np.array([[2, -1, 2], [0, 2, -3]])
    table = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((2, 3, 5, 3)).astype(np.float32)
    want = np.zeros_like(table)
    np.add.at(want, index, weights)
    with cupy_on_cpu.installed() as gpu:
        x = ag.Tensor(cupy_on_cpu.Ndarray(table), requires_grad=True)
        ag.sum(x[cupy_on_cpu.Ndarray(index) if on_gpu else index] * cupy_on_cpu.Ndarray(weights)).backward()
        np.testing.assert_allclose(x.grad.get(), want, rtol=1e-6, atol=1e-6)
    assert not gpu.findings and gpu.launched["embedding"]


def test_a_gpu_that_cannot_run_the_kernels_is_refused_in_one_sentence():
    def lacks():
        raise launch.NoCuda("NVRTC was not found")

    with cupy_on_cpu.installed():  # which puts launch.nvrtc back
        assert arguments.check_device("cuda") is cupy_on_cpu.module
        launch.nvrtc = lacks
        with pytest.raises(UserError, match=r"^NVRTC was not found$"):
            arguments.check_device("cuda")


QUICK = (
    "autoencoder",
    "denoising_ae",
    "masked_ae",
    "gan",
    "vae",
    "pixelcnn",
    "gpt",
    "improved_ddpm",
    "adm",
    "classifier_free",
)
SYSTEMS = [e for e in curriculum.CURRICULUM if hasattr(curriculum.load(e), "build")]


@pytest.mark.parametrize(
    "entry", [pytest.param(e, id=e.name, marks=() if e.name in QUICK else pytest.mark.slow) for e in SYSTEMS]
)
def test_every_system_trains_and_samples_on_its_device(entry, monkeypatch):
    """With the composed definitions in the place of kernels, which are the same for all systems."""
    model = curriculum.load(entry)
    dataset = data.load(getattr(model, "DATA", "digits"))
    monkeypatch.setattr(device, "_gpu_of", lambda arrays: None)
    with cupy_on_cpu.installed():
        system = arguments.build(model, model.Config(batch_size=2), dataset, seed=0, device="cuda")
        trainer = Trainer(system, seed=0)
        figures = trainer.advance(dataset.train)
        try:
            pictures = system.sample(2, rng=np.random.default_rng(0), steps=4)
        except ValueError:  # it does not sample in steps
            pictures = system.sample(2, rng=np.random.default_rng(0))
        pictures = to_numpy(pictures)  # tokens and grey levels are drawn on the host
    assert pictures.shape == (2, *dataset.shape) and np.isfinite(pictures).all()
    assert all(isinstance(a, cupy_on_cpu.Ndarray) for a in trainer.arrays().values())
    assert any(np.isfinite(value) for name, value in figures.items() if name.endswith("loss"))
