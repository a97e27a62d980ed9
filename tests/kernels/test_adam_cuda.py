"""Adam in CUDA, emulated: one step of the definition, any length, planted mistakes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import emulated, kinds, needs_compiler, plant

from kernels.adam import cuda, reference
from kernels.compare import assert_close, bound

pytestmark = needs_compiler
ROUNDED = 16  # rounded operations from the state to the new state


def start(seed, n):
    rng = np.random.default_rng(seed)
    return [*(rng.standard_normal(n).astype(np.float32) for _ in range(3)), rng.random(n).astype(np.float32)]


def stepped(device, state, given):
    p, g, m, v = (a.copy() for a in state)
    cuda.adam_step(device, p, g, m, v, **given)
    return p, m, v


@settings(max_examples=20)
@given(
    n=st.sampled_from([0, 1, 3, 4, 5, 1023, 1024, 1029]),
    step=st.sampled_from([1, 2, 1000]),
    lr=st.sampled_from([0.0, 1e-4, 1.0]),
    betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)]),
    eps=st.sampled_from([1e-8, 1e-3]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    seed=st.integers(0, 2**32 - 1),
)
def test_kingma_ba_2015_algorithm_1(n, step, lr, betas, eps, weight_decay, seed):
    given_ = {"step": step, "lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
    state = start(seed, n)
    got = emulated(lambda device: stepped(device, state, given_), seed)
    p, g, m, v = want = [a.astype(np.float64) for a in state]
    before = np.abs(p)
    reference.adam_step(p, g, m, v, **given_)
    g, m0 = np.abs(g), np.abs(state[2])
    moved = lr * (m0 + g) / (1 - betas[0] ** step) / (np.sqrt(v / (1 - betas[1] ** step)) + eps)
    sizes = (before * (1 + lr * weight_decay) + np.abs(p - before) + moved, m0 + g, state[3] + g * g)
    for name, a, b, size in zip("pmv", got, (want[0], want[2], want[3]), sizes):
        assert_close(a, b, bound(ROUNDED, size, np.float32), name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_of_nan_or_inf_stays_where_it_is(value):
    state = start(0, 9)
    state[1][5] = value
    p, m, v = emulated(lambda device: stepped(device, state, {"step": 1, "lr": 0.1}))
    assert np.isnan(p[5]) and not np.isfinite(m[5]) and not np.isfinite(v[5])
    assert all(np.isfinite(np.delete(x, 5)).all() for x in (p, m, v))


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("left = n - at;", "left = n - at + 1;", "out of range"),
        ("keep * p4.v[i] -", "p4.v[i] -", "wrong value"),
        ("sqrtf(v4.v[i]) + floor", "sqrtf(v4.v[i] + floor)", "wrong value"),
        ("    store_four(v, at, left, v4);\n", "", "wrong value"),
    ],
)
def test_a_planted_mistake_is_found(old, new, kind, monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda, "1_fours.cu", old, new)
    state, given_ = start(1, 1030), {"step": 3, "lr": 0.1, "weight_decay": 0.1, "eps": 0.01}
    want = [a.astype(np.float64) for a in state]
    reference.adam_step(*want, **{"beta1": 0.9, "beta2": 0.999, **given_})

    def run(device):
        for a, b in zip(stepped(device, state, given_), (want[0], want[2], want[3])):
            device.expect(a, b, 1e-5)

    assert kind in kinds(run)
