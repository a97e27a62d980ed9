"""Optimisers against their definitions and a closed form; schedules and averages at their corners."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import cupy_on_cpu
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rungs import needs_compiler

from kernels.backend import to_numpy
from kernels.compare import assert_close, bound
from kernels.precision import precision
from kernels.threads import threads_at
from minigen.nn import MLP, Conv2d, LayerNorm, Linear, Module
from minigen.train import optim


def bowl(start: list[float], dtype: type = np.float64) -> SimpleNamespace:
    """A module whose flat buffer holds one point."""
    flat = np.array(start, dtype)
    return SimpleNamespace(flat=flat, flat_grad=np.zeros_like(flat))


def test_sgd_on_a_quadratic_is_the_closed_form():
    """p <- p - lr p is p (1 - lr)^k."""
    module = bowl([2.0, -3.0])
    optimiser = optim.SGD(module)
    for step in range(1, 11):
        module.flat_grad[...] = module.flat
        optimiser.step(step, 0.1)
    want = np.array([2.0, -3.0]) * 0.9**10
    assert_close(module.flat, want, bound(10, np.abs(want), np.float64))


def test_sgd_momentum_recursion():
    """u <- mu u + g; with g = 1 the k-th update is the geometric sum 1 + mu + ... + mu^(k-1)."""
    module = bowl([0.0])
    optimiser = optim.SGD(module, momentum=0.5)
    module.flat_grad[...] = 1.0
    for step in (1, 2, 3):
        optimiser.step(step, 1.0)
    assert module.flat[0] == -(1 + 1.5 + 1.75)


def test_rmsprop_recursion():
    """v <- a v + (1 - a) g^2 from 0: with g = 2 after k steps v = 4 (1 - a^k), and p falls by lr 2 / sqrt(v)."""
    module = bowl([0.0])
    optimiser = optim.RMSProp(module, alpha=0.75)
    module.flat_grad[...] = 2.0
    for step in (1, 2, 3):
        optimiser.step(step, 0.5)
    want = -sum(0.5 * 2.0 / (math.sqrt(4 * (1 - 0.75**k)) + 1e-8) for k in (1, 2, 3))
    assert_close(module.flat, np.array([want]), bound(12, abs(want), np.float64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adam_first_step_has_the_length_of_the_learning_rate(dtype: type):
    """With both averages corrected, step 1 moves every coordinate by lr g / (|g| + eps)."""
    module = bowl([1.0, 1.0, 1.0], dtype)
    g = np.array([1e-3, -5.0, 0.0])
    module.flat_grad[...] = g
    optim.Adam(module, betas=(0.9, 0.999)).step(1, 0.25)
    want = 1.0 - 0.25 * g / (np.abs(g) + 1e-8)
    assert_close(module.flat, want, bound(8, np.abs(want), dtype))


def test_adamw_decay_does_not_pass_through_the_moments():
    """With a gradient of 0, AdamW shrinks p by (1 - lr lambda) and its moments stay 0."""
    module = bowl([2.0])
    optimiser = optim.AdamW(module, weight_decay=0.5)
    optimiser.step(1, 0.1)
    assert_close(module.flat, np.array([2.0 * 0.95]), bound(2, 2.0, np.float64))
    assert not optimiser.state["m"].any() and not optimiser.state["v"].any()


def test_make_optimiser_picks_by_name():
    stage = {"betas": (0.5, 0.9), "weight_decay": 0.1}
    kinds = {"adamw": optim.AdamW, "adam": optim.Adam, "rmsprop": optim.RMSProp, "sgd": optim.SGD}
    for name, kind in kinds.items():
        assert type(optim.make_optimiser(SimpleNamespace(optimiser=name, **stage), bowl([1.0]))) is kind
    with pytest.raises(ValueError, match="optimiser must be 'adamw', 'adam', 'muon', 'rmsprop' or 'sgd', got 'lion'"):
        optim.make_optimiser(SimpleNamespace(optimiser="lion", **stage), bowl([1.0]))


def test_make_optimiser_hands_the_stages_settings_on():
    stage = {"betas": (0.5, 0.9), "weight_decay": 0.1, "apart": ("out",)}
    made = {
        name: optim.make_optimiser(SimpleNamespace(optimiser=name, **stage), Layers().flatten())
        for name in optim.OPTIMISERS
    }
    assert all(made[name].betas == (0.5, 0.9) for name in ("adamw", "adam", "muon"))
    assert all(made[name].weight_decay == 0.1 for name in optim.DECAYING) and made["adam"].weight_decay == 0
    assert made["rmsprop"].alpha == 0.9 and made["sgd"].momentum == 0.5 and made["muon"].momentum == 0.95


def test_settings_that_are_left_out():
    """Those of the papers: Adam's betas 0.9 and 0.999, RMSProp's alpha 0.99, both with eps 1e-8, no momentum, no decay."""
    found, gradients = {}, np.random.default_rng(0).standard_normal((3, 2)) * [1.0, 1e-7]
    for kind in (optim.SGD, optim.RMSProp, optim.Adam, optim.AdamW):
        module = bowl([2.0, -3.0])
        optimiser = kind(module)
        for k, g in enumerate(gradients, start=1):
            module.flat_grad[...] = g
            optimiser.step(k, 0.1)
        found[kind] = module.flat
    sgd = rmsprop = adam = np.array([2.0, -3.0])
    m = v = w = np.zeros(2)
    for k, g in enumerate(gradients, start=1):
        m, v, w = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, 0.99 * w + 0.01 * g * g
        sgd = sgd - 0.1 * g
        rmsprop = rmsprop - 0.1 * g / (np.sqrt(w) + 1e-8)
        adam = adam - 0.1 * m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
    for kind, want in ((optim.SGD, sgd), (optim.RMSProp, rmsprop), (optim.Adam, adam), (optim.AdamW, adam)):
        np.testing.assert_allclose(found[kind], want, rtol=1e-12, err_msg=kind.__name__)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.SGD(bowl([1.0]), momentum=1.0), "momentum"),
        (lambda: optim.Adam(bowl([1.0]), betas=(0.9, 1.0)), "beta2"),
        (lambda: optim.AdamW(bowl([1.0]), weight_decay=-1.0), "weight_decay"),
        (lambda: optim.AdamW(bowl([1.0]), weight_decay=np.nan), "weight_decay"),
        (lambda: optim.Muon(bowl([1.0]), weight_decay=-1.0), "weight_decay"),
        (lambda: optim.Muon(bowl([1.0]), betas=(0.9, 1.0)), "beta2"),
        (lambda: optim.clip_by_global_norm(np.ones(2), -1.0), "clipping norm"),
        (lambda: optim.learning_rate(0, steps=1, lr=1.0, schedule="step"), "schedule"),
        (lambda: optim.learning_rate(0, steps=1, lr=1.0, flat=1.0), "flat"),
    ],
)
def test_bad_settings_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [optim.SGD, optim.RMSProp, optim.Adam, optim.AdamW, optim.Muon])
def test_a_module_that_is_not_flat_is_refused(make):
    with pytest.raises(ValueError, match=r"needs its module flat: call MLP.flatten\(\) first"):
        make(MLP(2, 1, rng=np.random.default_rng(0)))


# --- muon -------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), a=st.integers(1, 9), b=st.integers(1, 9), rounds=st.integers(0, 5))
def test_orthogonalising_maps_singular_values_and_leaves_the_vectors(seed: int, a: int, b: int, rounds: int):
    """U diag(f(f(...(s / |g|)))) V', with the polynomial of the docstring: exact, by a decomposition."""
    g = np.random.default_rng(seed).standard_normal((a, b))
    u, s, v = np.linalg.svd(g, full_matrices=False)
    s = s / (np.linalg.norm(g) + 1e-7)
    for _ in range(rounds):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    np.testing.assert_allclose(optim.orthogonalise(g, rounds), (u * s) @ v, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 999))
def test_orthogonalised_singular_values_are_near_one(seed: int):
    """Also those that were a hundred times smaller than the largest."""
    rng = np.random.default_rng(seed)
    (u, _), (v, _) = np.linalg.qr(rng.standard_normal((6, 6))), np.linalg.qr(rng.standard_normal((9, 6)))
    x = optim.orthogonalise((u * np.geomspace(1, 0.01, 6)) @ v.T)
    s = np.linalg.svd(x, compute_uv=False)
    assert s.min() > 0.5 and s.max() < 1.3


class Layers(Module):
    """First and last layer, and between them a matrix, a filter and a norm."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.first, self.norm = Linear(3, 4, rng=rng), LayerNorm(4)
        self.conv, self.hidden, self.last = Conv2d(4, 5, rng=rng), Linear(4, 6, rng=rng), Linear(6, 2, rng=rng)


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest():
    """Two steps against the definitions, parameter by parameter."""
    module = Layers().astype(np.float64).flatten()
    stage = SimpleNamespace(optimiser="muon", betas=(0.8, 0.9), weight_decay=0.1, apart=("first", "last"))
    optimiser, rng = optim.make_optimiser(stage, module), np.random.default_rng(1)
    values = {name: p.data.copy() for name, p in module.named_parameters().items()}
    memory = dict.fromkeys(values, (0.0, 0.0))
    for k in (1, 2):
        module.flat_grad[...] = rng.standard_normal(module.flat.size)
        gradients = {name: p.grad.copy() for name, p in module.named_parameters().items()}
        optimiser.step(k, 0.05)
        for name, g in gradients.items():
            m, v = memory[name]
            if name in ("conv.w", "hidden.w"):
                m = 0.95 * m + g
                matrix = (g + 0.95 * m).reshape(-1, g.shape[-1])
                update = 0.2 * max(matrix.shape) ** 0.5 * optim.orthogonalise(matrix).reshape(g.shape)
            else:
                m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
                update = m / (1 - 0.8**k) / (np.sqrt(v / (1 - 0.9**k)) + 1e-8)
            memory[name] = m, v
            values[name] = values[name] * (1 - 0.05 * 0.1) - 0.05 * update
    for name, p in module.named_parameters().items():
        np.testing.assert_allclose(p.data, values[name], rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("apart", [(), ("",)])
def test_muon_of_all_weights_and_of_none(apart: tuple[str, ...]):
    module = Layers().flatten()
    optimiser = optim.Muon(module, apart=apart)
    assert len(optimiser.matrices) == (0 if apart else 4)
    covered = sum(at.stop - at.start for at in (*optimiser.rest, *(at for at, _ in optimiser.matrices)))
    assert covered == module.flat.size
    before = module.flat.copy()
    module.flat_grad[...] = 1.0
    optimiser.step(1, 0.1)
    assert (module.flat != before).all() and np.isfinite(module.flat).all()


class Alike(Module):
    """Matrices of one shape, lying and standing, with a norm between them."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.first, self.second, self.norm = Linear(4, 6, rng=rng), Linear(6, 4, rng=rng), LayerNorm(4)
        self.third, self.conv, self.last = Linear(4, 6, rng=rng), Conv2d(6, 5, rng=rng), Linear(5, 2, rng=rng)


@needs_compiler
@pytest.mark.parametrize("apart", [("last",), ("",)])
@pytest.mark.parametrize("name", ["float32", "bf16"])
def test_muon_on_a_gpu_moves_what_it_moves_on_a_cpu(apart: tuple[str, ...], name: str):
    """There, all matrices of one shape at once: by our kernels, on the stand-in for CuPy's arrays; always in float32."""
    modules, states = [], []
    for device in ("cpu", "cuda"):
        with precision(name), cupy_on_cpu.installed() if device == "cuda" else nullcontext():
            module = Alike().to(cupy_on_cpu.module if device == "cuda" else np).flatten()
            optimiser, rng = optim.Muon(module, weight_decay=0.1, apart=apart), np.random.default_rng(1)
            for k in (1, 2, 3):
                g = rng.standard_normal(module.flat.size).astype(np.float32)
                module.flat_grad[...] = cupy_on_cpu.asarray(g) if device == "cuda" else g
                optimiser.step(k, 0.05)
        assert len(optimiser.matrices) == (0 if apart == ("",) else 4 if device == "cpu" else 2)
        modules.append(to_numpy(module.flat))
        states.append({name: to_numpy(x) for name, x in optimiser.state.items()})
    np.testing.assert_allclose(modules[1], modules[0], rtol=1e-4, atol=1e-5)
    for key, x in states[0].items():
        np.testing.assert_allclose(states[1][key], x, rtol=1e-5, atol=1e-6, err_msg=key)


def test_muon_gives_the_same_bits_for_any_number_of_threads():
    found = set()
    for n in (1, 2, 5):
        with threads_at(n):
            module = Alike().flatten()
            optimiser, rng = optim.Muon(module), np.random.default_rng(1)
            for k in (1, 2, 3):
                module.flat_grad[...] = rng.standard_normal(module.flat.size)
                optimiser.step(k, 0.05)
        found.add(module.flat.tobytes())
    assert len(found) == 1


def test_clipping_keeps_the_direction_and_returns_the_norm_before():
    g = np.array([3.0, 4.0])
    assert optim.clip_by_global_norm(g, 1.0) == 5.0
    assert_close(g, np.array([0.6, 0.8]), bound(2, 1.0, np.float64))


@pytest.mark.parametrize("most", [0.0, 5.0, 6.0])
def test_clipping_leaves_short_gradients_alone(most: float):
    g = np.array([3.0, 4.0], np.float32)
    assert optim.clip_by_global_norm(g, most) == 5.0
    assert g.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_has_a_bad_norm_and_is_not_scaled(bad: float):
    g = np.array([1.0, bad])
    assert not math.isfinite(optim.clip_by_global_norm(g, 1.0))
    assert g[0] == 1.0


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e38])
def test_squares_beyond_float32_do_not_matter(size: float):
    g = np.array([3, -4, 0], np.float32) * np.float32(size / 4)
    assert optim.clip_by_global_norm(g, 1e-3 * size) == pytest.approx(1.25 * size, rel=1e-6)
    assert_close(g, np.array([6e-4, -8e-4, 0]) * size, bound(4, 1e-3 * size, np.float32))
    assert optim.global_norm(np.zeros(3, np.float32)) == 0


def rates(schedule: str, steps: int, warmup: int = 0, **more: float) -> np.ndarray:
    """All learning rates of a run with peak 1."""
    return np.array(
        [optim.learning_rate(k, steps=steps, lr=1.0, warmup=warmup, schedule=schedule, **more) for k in range(steps)]
    )


def test_schedules_at_their_corners():
    assert (rates("constant", 5) == 1).all()
    assert_close(rates("linear", 4), np.array([1, 0.75, 0.5, 0.25]), bound(2, 1.0, np.float64))
    assert_close(rates("cosine", 4)[[0, 2]], np.array([1, 0.5]), bound(4, 1.0, np.float64))
    assert_close(rates("flat-then-linear", 8), np.array([1, 1, 1, 1, 1, 0.75, 0.5, 0.25]), bound(4, 1.0, np.float64))
    assert (rates("flat-then-cosine", 10, flat=0.6)[:7] == 1).all()
    assert rates("flat-then-cosine", 10, flat=0.6)[7] < 1
    assert_close(rates("cosine", 10, warmup=4)[:5], np.array([0.25, 0.5, 0.75, 1, 1]), bound(2, 1.0, np.float64))


@given(
    schedule=st.sampled_from(optim.SCHEDULES),
    steps=st.integers(1, 50),
    warmup=st.integers(0, 60),
    flat=st.sampled_from([0.0, 0.3, 0.6]),
)
def test_every_schedule_rises_once_then_falls_and_is_never_zero(schedule: str, steps: int, warmup: int, flat: float):
    r = rates(schedule, steps, warmup, flat=flat)
    assert (r > 0).all() and (r <= 1).all()
    top = int(r.argmax())
    assert (np.diff(r[: top + 1]) >= 0).all() and (np.diff(r[top:]) <= 1e-15).all()


def test_ema_warm_up_forgets_the_start():
    """d_0 = 1/10, d_1 = 2/11, ...: after the first update nine tenths of the average are the new weights."""
    average, p = np.zeros(3), np.ones(3)
    optim.ema_step(average, p, step=0, decay=0.999)
    assert_close(average, np.full(3, 0.9), bound(2, 1.0, np.float64))
    assert optim.ema_decay(1, 0.999) == 2 / 11
    assert optim.ema_decay(10**6, 0.999) == 0.999


@given(steps=st.integers(1, 40), decay=st.floats(0.0, 0.999))
def test_ema_of_a_constant_is_the_constant(steps: int, decay: float):
    average, p = np.full(2, 3.0), np.full(2, 3.0)
    for n in range(steps):
        optim.ema_step(average, p, step=n, decay=decay)
    assert_close(average, p, bound(4 * steps, 3.0, np.float64))
