"""Trained linear layers in eight bits: the equations, what takes a layer's place, and every system with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rungs import needs_compiler
from systems import SMALL, awake, small

import autograd as ag
from kernels import eight_bit
from kernels.device import running_on
from kernels.emulator import Emulator
from minigen import nn
from minigen.nn.eight_bit import WAYS, EightBitLinear, in_eight_bits

every_way = pytest.mark.parametrize("way", WAYS)


def layer(rng, c_in=12, c_out=7, bias=True):
    made = nn.Linear(c_in, c_out, bias=bias, rng=rng)
    if bias:
        made.b.data[...] = rng.standard_normal(c_out)
    return made


@given(
    way=st.sampled_from(WAYS), shape=st.sampled_from([(12,), (5, 12), (2, 3, 12), (0, 12)]), bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_equations(way, shape, bias, seed):
    """By the formats' values: y = t s (p . q) + b."""
    rng = np.random.default_rng(seed)
    linear, x = layer(rng, bias=bias), rng.standard_normal(shape).astype("f")
    form = "e4m3" if way == "fp8" else "int8"
    w = eight_bit.dequantize(*eight_bit.quantize(linear.w.data, axis=1, form=form), axis=1, form=form).astype("f8")
    rows = x.reshape(-1, 12)
    if way != "weights":
        rows = eight_bit.dequantize(*eight_bit.quantize(rows, axis=0, form=form), axis=0, form=form)
    want = rows.astype("f8") @ w + (linear.b.data if bias else 0)
    y = ag.raw(EightBitLinear(linear, way)(x))
    assert y.shape == (*shape[:-1], 7) and y.dtype == np.float32
    np.testing.assert_allclose(y.reshape(-1, 7), want, rtol=1e-5, atol=1e-5)


@every_way
def test_it_is_about_the_layer_that_it_was(way, rng):
    """By the step of each format: half of 1/127 of a channel's largest, or a sixteenth of the number."""
    linear = layer(rng, 64, 64)
    x = rng.standard_normal((500, 64)).astype("f")
    y, rounded = (ag.raw(f(x)) - linear.b.data for f in (linear, EightBitLinear(linear, way)))
    error = np.sqrt(np.square(rounded - y).mean() / np.square(y).mean())
    low, high = {"weights": (0.002, 0.008), "int8": (0.004, 0.015), "fp8": (0.015, 0.05)}[way]
    assert low < error < high


@every_way
def test_gradients_pass_by_the_rounded_weights(way, rng):
    linear = layer(rng)
    rounded = EightBitLinear(linear, way)
    x, g = ag.Tensor(rng.standard_normal((2, 5, 12)).astype("f"), requires_grad=True), rng.standard_normal((2, 5, 7))
    y = rounded(x)
    (got,) = ag.grad(y, [x], ag.Tensor(g.astype("f")))
    np.testing.assert_allclose(ag.raw(got), g @ rounded.w.data.T, rtol=1e-4, atol=1e-5)
    with ag.no_grad():
        assert rounded(x).node is None


@needs_compiler
@every_way
def test_on_our_kernels(way, rng):
    """On Hopper's tensor cores, which take the codes as they lie."""
    linear, x = layer(rng, 32, 9), rng.standard_normal((9, 32)).astype("f")
    want, device = ag.raw(EightBitLinear(linear, way)(x)), Emulator()
    with running_on(device):
        got = ag.raw(EightBitLinear(linear, way)(x))
    device.check()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert ("4_wgmma.cu" if way == "int8" else "4_split.cu") in device.ran and "turn.cu" not in device.ran


class Wood(nn.Module):
    def __init__(self, rng):
        self.one, self.many = layer(rng), [layer(rng), np.tanh, layer(rng, 7, 12)]
        self.pair, self.numbers, self.again = (layer(rng), layer(rng)), (1, 2), self.one
        self.mlp = nn.MLP(12, 9, 7, rng=rng)
        self.conv, self.norm = nn.Conv2d(3, 4, rng=rng), nn.LayerNorm(12)


def test_every_linear_layer_and_nothing_else(rng):
    wood = Wood(rng).flatten()
    kept = dict(vars(wood))
    assert in_eight_bits(wood, "int8") == 7
    assert [type(m).__name__ for m in (wood.one, *wood.many[::2], *wood.pair)] == ["EightBitLinear"] * 5
    assert wood.again is wood.one and type(wood.pair) is tuple and wood.many[1] is np.tanh
    assert all(getattr(wood, name) is kept[name] for name in ("numbers", "conv", "norm", "mlp"))
    assert not any(type(m) is nn.Linear for _, m in wood.named_modules())
    assert set(wood.named_parameters()) == {"conv.w", "conv.b", "norm.gamma", "norm.beta"}
    assert in_eight_bits(wood, "int8") == 0


def test_bad_input_is_named(rng):
    with pytest.raises(ValueError, match="way must be one of 'weights', 'int8', 'fp8', got 'int4'"):
        in_eight_bits(nn.MLP(3, 4, rng=rng), "int4")
    with pytest.raises(ValueError, match="way must be one of"):
        in_eight_bits(nn.Conv2d(3, 4, 3, rng=rng), "int4")  # without such layers, too
    with pytest.raises(TypeError, match="x must be float32, got float64"):
        in_eight_bits(nn.MLP(3, 4, rng=rng).astype(np.float64), "fp8")


@pytest.mark.parametrize("name", SMALL)
def test_every_system_samples_with_them(name):
    for way in WAYS:
        system = awake(name, small(name))
        count = sum(in_eight_bits(net, way) for net in system.modules.values())
        assert count
        assert np.isfinite(np.asarray(system.sample(2, rng=np.random.default_rng(0)), np.float64)).all()
