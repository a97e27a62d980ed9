"""The activations in CUDA, emulated: the definition's values, extremes, planted mistakes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import emulated, kinds, needs_compiler, normal, plant

from kernels.activation import cuda, reference
from kernels.compare import assert_close, bound

pytestmark = needs_compiler
STEPS = 10  # rounded steps from x to the result, each amplified by at most a few units


def check(x, g, seed=0):
    def run(device):
        forward = [f(device, x) for f in (cuda.silu, cuda.gelu, cuda.softplus)]
        return (*forward, cuda.silu_grad(device, g, x), cuda.gelu_grad(device, g, x))

    got = emulated(run, seed)
    x8, g8 = x.astype(np.float64), g.astype(np.float64)
    with np.errstate(all="ignore"):
        want = [f(x8) for f in (reference.silu, reference.gelu, reference.softplus)]
        want += [f(g8, x8) for f in (reference.silu_grad, reference.gelu_grad)]
        size = 1 + np.abs(np.clip(x8, -1e3, 1e3)) + np.abs(x8)
    for name, a, b in zip(("silu", "gelu", "softplus", "silu'", "gelu'"), got, want):
        factor = np.abs(g8) if name.endswith("'") else 1
        own = b if name == "softplus" else factor * size
        assert_close(a, b, np.nan_to_num(bound(STEPS, own, np.float32)), name)


@settings(max_examples=12)
@given(
    n=st.sampled_from([0, 1, 3, 4, 5, 1023, 1025]),
    scale=st.sampled_from([0.1, 1.0, 5.0, 50.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_activations(n, scale, seed):
    x, g = normal(seed, (n,), (n,))
    check(np.float32(scale) * x, g, seed)


def test_extremes():
    x = np.float32([0, -0.0, 1e-40, -1e-40, 10, -10, 88, -88, 750, -750, 1e4, -1e4, 1e18, -1e18, np.nan])
    check(x, np.ones_like(x))
    for value, want in ((np.inf, [np.inf, np.inf, np.inf]), (-np.inf, [np.nan, np.nan, 0])):
        one = np.float32([value])
        got = emulated(lambda device, x=one: tuple(f(device, x) for f in (cuda.silu, cuda.gelu, cuda.softplus)))
        np.testing.assert_array_equal(np.concatenate(got), want)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("left = n - at;", "left = n - at + 1;", "out of range"),
        ("1 + 3 * CUBIC * x * x", "1 + CUBIC * x * x", "wrong value"),
        ("-fabsf(x)", "x", "wrong value"),
    ],
)
def test_a_planted_mistake_is_found(old, new, kind, monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda, "1_fours.cu", old, new)
    x, g = normal(1, (1030,), (1030,))

    def run(device):
        device.expect(cuda.gelu_grad(device, g, x), reference.gelu_grad(g.astype("f8"), x.astype("f8")), 1e-5)
        device.expect(cuda.softplus(device, x), reference.softplus(x.astype("f8")), 1e-5)

    assert kind in kinds(run)
