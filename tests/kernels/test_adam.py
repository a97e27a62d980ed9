"""Adam: both fast paths against the float64 definition, known steps, laws of the algorithm."""

import inspect

import numpy as np
import pytest
from arrays import threads
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.adam import adam_step, numpy_pieces, reference
from kernels.compare import assert_close, bound

DTYPES = (np.float32, np.float64)
ROUNDED = 16  # rounded operations from the state to the new state


def start(seed, n, dtype, first=True):
    rng = np.random.default_rng(seed)
    p, g, m = (rng.standard_normal(n).astype(dtype) for _ in range(3))
    v = rng.random(n).astype(dtype)
    return [p, g, 0 * m, 0 * v] if first else [p, g, m, v]


def check(state, settings, use_blas=True):
    """One step in the dtype against one step of the definition in float64 from the same numbers."""
    dtype, gradient = state[0].dtype, state[1].copy()
    want = [a.astype(np.float64) for a in state]
    p, _, m, v = (np.abs(a.copy()).astype(np.float64) for a in state)
    with pytest.MonkeyPatch.context() as patch:
        if not use_blas:
            patch.setattr(numpy_pieces, "find_axpby", lambda char: None)
        assert adam_step(*state, **settings) is None
    full = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, **settings}
    reference.adam_step(*want, **full)
    assert np.array_equal(state[1], gradient), "the gradient has changed"
    g = np.abs(gradient.astype(np.float64))
    moved = np.abs(want[0] - p) + full["lr"] * (m + g) / (1 - full["beta1"] ** full["step"]) / (
        np.sqrt(want[3] / (1 - full["beta2"] ** full["step"])) + full["eps"]
    )
    decayed = p * (1 + full["lr"] * full["weight_decay"])
    for name, got, exact, size in zip("pgmv", state, want, (decayed + moved, g, m + g, v + g * g)):
        assert_close(got, exact, bound(ROUNDED, size, dtype), name)


@given(
    n=st.sampled_from([0, 1, 2, 15, 16, 17, 101, 1000]),
    step=st.sampled_from([1, 2, 10, 1000, 10**6]),
    lr=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
    betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.5, 0.0), (0.95, 0.99)]),
    eps=st.sampled_from([1e-8, 1e-3]),
    weight_decay=st.sampled_from([0.0, 0.01, 1.0]),
    dtype=st.sampled_from(DTYPES),
    use_blas=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example(101, 1, 1e-2, (0.9, 0.999), 1e-8, 0.01, np.float32, True, 0)
@example(101, 1, 1e-2, (0.9, 0.999), 1e-8, 0.01, np.float32, False, 0)
def test_kingma_ba_2015_algorithm_1(n, step, lr, betas, eps, weight_decay, dtype, use_blas, seed):
    settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
    check(start(seed, n, dtype, first=step == 1), {"step": step, **settings}, use_blas)


@pytest.mark.parametrize("use_blas", [False, True])
def test_views_of_every_kind(use_blas):
    """Strided, reversed and read-only arrays; a contiguous piece of a longer buffer leaves the rest alone."""
    for make in (lambda a: np.repeat(a, 2)[::2], lambda a: a[::-1].copy()[::-1]):
        check([make(a) for a in start(0, 57, np.float32, first=False)], {"step": 3, "lr": 0.1}, use_blas)
    buffers = [
        np.concatenate([np.full(5, 7, np.float32), a, np.full(5, 7, np.float32)]) for a in start(1, 33, np.float32)
    ]
    state = [b[5:-5] for b in buffers]
    state[1].flags.writeable = False
    check(state, {"step": 1, "lr": 0.1}, use_blas)
    assert all((b[:5] == 7).all() and (b[-5:] == 7).all() for b in buffers)


def test_the_first_step_is_the_sign_of_the_gradient():
    """m / (1 - beta1) = g and v / (1 - beta2) = g^2, whatever the betas: the step is lr (section 2.1)."""
    p = np.zeros(4)
    adam_step(p, np.array([3.0, -1e-3, 1e4, -2.0]), np.zeros(4), np.zeros(4), step=1, lr=0.1)
    assert_close(p, [-0.1, 0.1, -0.1, 0.1], 0.1 * (1e-8 / 1e-3) + bound(ROUNDED, 0.1, np.float64))


def test_decay_does_not_pass_through_the_moments():
    p, m, v = np.full(3, 2.0), np.zeros(3), np.zeros(3)
    adam_step(p, np.zeros(3), m, v, step=1, lr=0.1, weight_decay=0.5)
    assert_close(p, np.full(3, 1.9), bound(ROUNDED, 2.0, np.float64))
    assert not m.any() and not v.any()


def test_a_constant_gradient_keeps_the_steps_at_lr():
    """The corrections make both moments unbiased at every step, not only at the first."""
    p, m, v = np.zeros(1), np.zeros(1), np.zeros(1)
    for step in range(1, 51):
        adam_step(p, np.full(1, 0.3), m, v, step=step, lr=0.01, eps=1e-12)
        from_eps = 0.01 * step * 1e-12 / 0.3
        assert_close(p, [-0.01 * step], from_eps + bound(ROUNDED, 0.01 * step, np.float64, 1 / (1 - 0.999)))


def test_it_finds_the_minimum_of_a_parabola():
    p, m, v = np.array([3.0, -2.0], np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    for step in range(1, 501):
        adam_step(p, 2 * (p - np.float32(0.5)), m, v, step=step, lr=0.1 if step < 250 else 0.005)
    assert np.abs(p - 0.5).max() < 0.01


def test_nan_stays_in_its_parameter():
    for use_blas in (False, True):
        p, g, m, v = start(2, 40, np.float32)
        g[7] = np.nan
        with pytest.MonkeyPatch.context() as patch:
            if not use_blas:
                patch.setattr(numpy_pieces, "find_axpby", lambda char: None)
            adam_step(p, g, m, v, step=1, lr=0.1)
        assert all(np.array_equal(np.flatnonzero(np.isnan(a)), [7]) for a in (p, m, v))


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(numpy_pieces, "TILE_BYTES", 4096)
    results = []
    for n in (1, 2, 3):
        with threads(n):
            state = start(3, 20_011, np.float32)
            for step in (1, 2, 3):
                adam_step(*state, step=step, lr=0.01, weight_decay=0.1)
            results.append(b"".join(a.tobytes() for a in state))
    assert results[0] == results[1] == results[2]


def test_a_symbol_that_is_something_else_is_refused():
    def wrong(a, x, b, y):
        y += a * x

    assert not numpy_pieces._works(wrong, np.dtype(np.float32))
    assert numpy_pieces._works(numpy_pieces.axpby_by_ufuncs, np.dtype(np.float64))


def test_bad_input_is_named_and_changes_nothing():
    adam = inspect.unwrap(adam_step)
    state = start(4, 5, np.float32)
    before = [a.copy() for a in state]
    for name, bad, message in [
        ("step", 0, "step must be a whole number of at least 1, got 0"),
        ("step", 1.5, "step must be a whole number of at least 1, got 1.5"),
        ("lr", -1.0, "lr must be a finite number of at least 0, got -1.0"),
        ("lr", np.nan, "lr must be a finite number of at least 0, got nan"),
        ("beta1", 1.0, r"beta1 must be in \[0, 1\), got 1.0"),
        ("beta2", -0.1, r"beta2 must be in \[0, 1\), got -0.1"),
        ("eps", 0.0, "eps must be a finite number greater than 0, got 0.0"),
        ("weight_decay", -1.0, "weight_decay must be a finite number of at least 0, got -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            adam(*state, **{"step": 1, "lr": 0.1, name: bad})
    with pytest.raises(ValueError, match=r"m must have shape \(5,\) \(the shape of p\), got \(4,\)"):
        adam(state[0], state[1], state[2][:4], state[3], step=1, lr=0.1)
    with pytest.raises(ValueError, match="p must have 1 axes"):
        adam(state[0][None], *state[1:], step=1, lr=0.1)
    with pytest.raises(TypeError, match="p, g, m, v must share one dtype"):
        adam(state[0], state[1].astype(np.float64), *state[2:], step=1, lr=0.1)
    state[3].flags.writeable = False
    with pytest.raises(ValueError, match="v is updated in place and must be writable"):
        adam(*state, step=1, lr=0.1)
    assert all(np.array_equal(a, b) for a, b in zip(state, before))
