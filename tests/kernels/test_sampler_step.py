"""The sampler step: the equations, guidance, clipping, the same noise on every device; the CUDA rung, emulated."""

import inspect

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import emulated, kinds, needs_compiler, normal, plant

from kernels.compare import assert_close, bound
from kernels.emulator import Emulator
from kernels.random import Stream
from kernels.random import normal as stream_normal
from kernels.sampler_step import KINDS, cuda, ddim_step, plan, reference

A_T, A_U = 0.3, 0.7
GUIDED = np.float32([3, 1, 0])  # scales of three samples: both outputs, one, the other
LEVELS = st.sampled_from([(0.3, 0.7), (0.01, 0.02), (0.9, 1.0), (0.7, 0.3)])


def arrays(seed, shape=(3, 7)):
    return normal(seed, shape, shape, shape, shape)


def magnitude(x, c, u, s, steps, clip, z):
    """The sum of the absolute values of all that is added up on the way, which rounding is relative to."""
    s = np.abs(s).reshape(-1, *(1,) * (x.ndim - 1))
    x, c, u, z = (np.abs(a).astype(np.float64) for a in (x, c, u, z))
    o = u + s * (c + u)
    absolute = [[abs(f) for f in part] for part in steps]
    g, e = (p[0] * x + p[1] * o for p in absolute[:2])
    if clip is not None:
        e = absolute[2][0] * x + absolute[2][1] * g
    return g, absolute[3][0] * g + absolute[3][1] * e + absolute[3][2] * z


# --- the definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_pair_of_guesses_belongs_to_the_state(kind):
    r"""x_t = sqrt(a) x_0 + sqrt(1 - a) eps for whatever the network says, clipped or not."""
    x, c, _, _ = (a.astype(np.float64) for a in arrays(0))
    for clip in (None, 0.5):
        x_u, x_0 = ddim_step(x, c, a_t=A_T, a_u=A_U, kind=kind, clip=clip)
        eps = (x_u - A_U**0.5 * x_0) / (1 - A_U) ** 0.5
        assert_close(A_T**0.5 * x_0 + (1 - A_T) ** 0.5 * eps, x, bound(8, 20, np.float64))
        assert clip is None or np.abs(x_0).max() == clip


def test_every_kind_says_the_same_of_the_truth():
    x_0, eps = (a.astype(np.float64) for a in normal(1, (4, 5), (4, 5)))
    x = A_T**0.5 * x_0 + (1 - A_T) ** 0.5 * eps
    said = {"eps": eps, "x_0": x_0, "v": A_T**0.5 * eps - (1 - A_T) ** 0.5 * x_0, "score": -eps / (1 - A_T) ** 0.5}
    for kind, output in said.items():
        x_u, guess = ddim_step(x, output, a_t=A_T, a_u=A_U, kind=kind)
        assert_close(guess, x_0, bound(8, 20, np.float64))
        assert_close(x_u, A_U**0.5 * x_0 + (1 - A_U) ** 0.5 * eps, bound(8, 20, np.float64))


def test_guidance_and_noise():
    x, c, u, z = (a.astype(np.float64) for a in arrays(2))
    scales = np.array([0.0, 1.0, 7.5])
    got, _ = ddim_step(x, c, u, a_t=A_T, a_u=A_U, scale=scales, eta=0.4, noise=z)
    for i, s in enumerate(scales):
        o = u[i] + s * (c[i] - u[i])
        sigma = 0.4 * ((1 - A_U) / (1 - A_T)) ** 0.5 * (1 - A_T / A_U) ** 0.5  # eq. 16
        x_0 = (x[i] - (1 - A_T) ** 0.5 * o) / A_T**0.5
        want = A_U**0.5 * x_0 + (1 - A_U - sigma**2) ** 0.5 * o + sigma * z[i]  # eq. 12
        assert_close(got[i], want, bound(12, 100, np.float64))


def test_what_plays_no_part_may_be_nan():
    x, c, u, _ = arrays(3)
    nan = np.full_like(u, np.nan)
    np.testing.assert_array_equal(*(ddim_step(x, c, v, a_t=A_T, a_u=A_U)[0] for v in (nan, None)))
    assert np.isfinite(ddim_step(x, nan, u, a_t=A_T, a_u=A_U, scale=0.0)[0]).all()
    infinite = np.full_like(x, np.inf)
    assert np.isfinite(
        ddim_step(infinite, c, a_t=A_T, a_u=1.0, kind="x_0")[0]
    ).all()  # the last step is the guess itself


def test_the_last_step_is_the_guess_and_the_noise_of_a_stream_does_not_depend_on_the_batch():
    x, c, u, _ = arrays(4, (5, 2, 3))
    x_u, x_0 = ddim_step(x, c, u, a_t=A_T, a_u=1.0, scale=3.0)
    np.testing.assert_array_equal(x_u, x_0)
    stream = Stream(7)
    whole = [ddim_step(x, c, a_t=A_T, a_u=A_U, eta=1.0, noise=stream)[0] for _ in range(2)]
    z = stream_normal(x.shape, seed=7, step=1)
    np.testing.assert_array_equal(whole[1], ddim_step(x, c, a_t=A_T, a_u=A_U, eta=1.0, noise=z)[0])
    alone, _ = ddim_step(x[3:4], c[3:4], a_t=A_T, a_u=A_U, eta=1.0, noise=Stream(7, first=3, step=1))
    np.testing.assert_array_equal(alone[0], whole[1][3])


def test_bad_input_is_named():
    x, c, u, z = arrays(5)
    step = inspect.unwrap(ddim_step)
    for change, error, message in [
        ({"a_t": 0.0}, ValueError, "a_t must be above 0 and below 1 for kind 'eps', got 0.0"),
        ({"a_t": 1.0, "kind": "v"}, ValueError, "a_t must be at least 0 and below 1 for kind 'v', got 1.0"),
        ({"a_u": 0.0}, ValueError, "a_u must be above 0 and at most 1, got 0.0"),
        ({"kind": "noise"}, ValueError, "kind must be one of 'eps', 'x_0', 'v', 'score', got 'noise'"),
        ({"eta": 2.0}, ValueError, "eta must be from 0 to 1, got 2.0"),
        ({"eta": 0.5}, ValueError, "eta = 0.5 adds noise, so noise must be an array or a Stream, got None"),
        ({"eta": 0.5, "a_t": 0.7, "a_u": 0.3, "noise": z}, ValueError, "must not go up to more noise"),
        ({"scale": 2.0}, ValueError, "a scale other than 1 needs unconditional"),
        ({"scale": np.ones(4), "unconditional": u}, ValueError, r"scale must be a number or one per sample \(3,\)"),
        ({"clip": 0.0}, ValueError, "clip must be above 0 or None, got 0.0"),
        ({"unconditional": u[:2]}, ValueError, r"unconditional must have shape \(3, 7\)"),
        ({"noise": z.astype(float)}, TypeError, "x_t, noise must share one dtype"),
    ]:
        with pytest.raises(error, match=message):
            step(x, c, **{"a_t": A_T, "a_u": A_U, **change})


# --- in CUDA ----------------------------------------------------------------------------------------------------------


@needs_compiler
@settings(max_examples=25)
@given(
    shape=st.sampled_from([(1,), (1, 4), (3, 7), (2, 3, 5), (0, 4), (2, 0), (3, 200)]),
    kind=st.sampled_from(KINDS),
    levels=LEVELS,
    scale=st.sampled_from([None, 0.0, 1.0, 7.5]),
    eta=st.sampled_from([0.0, 0.4]),
    clip=st.sampled_from([None, 1.0]),
    drawn=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example((3, 7), "v", (0.0, 0.02), 2.0, 0.0, None, False, 0)
def test_ddim_step(shape, kind, levels, scale, eta, clip, drawn, seed):
    x, c, u, z = arrays(seed, shape)
    eta = eta if levels[0] < levels[1] else 0.0
    steps = plan(*levels, kind=kind, eta=eta)
    scales = np.full(shape[0], 1.0 if scale is None else scale, np.float32)
    scales[1:2] = 1
    if drawn:
        z = stream_normal(shape, seed=seed, first=5, step=2, purpose=3)
    unconditional = None if scale is None else u

    def run(device):
        noise = Stream(seed, first=5, step=2, purpose=3) if drawn else z
        return cuda.ddim_step(device, x, c, unconditional, scales, steps, clip=clip, noise=noise)

    got = emulated(run, seed)
    wide = [None if a is None else a.astype(np.float64) for a in (x, c, unconditional, scales)]
    want = reference.step(*wide, steps, clip, z.astype(np.float64))
    g_size, size = magnitude(x, c, u, scales, steps, clip, z)
    assert_close(got[0], want[0], bound(12, size, np.float32), "x_u")
    assert_close(got[1], want[1], bound(6, g_size, np.float32), "x_0")


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("a_u", [A_U, 1.0])
def test_nan_and_inf_in_cuda(a_u, value):
    for kind in KINDS:
        for which in range(3):
            operands = arrays(1)[:3]
            operands[which][:, 3] = value
            steps = plan(A_T, a_u, kind=kind)
            for clip in (None, 1.0):
                got = emulated(lambda d, o=operands, s=steps, k=clip: cuda.ddim_step(d, *o, GUIDED, s, clip=k))
                with np.errstate(all="ignore"):
                    want = reference.step(*operands, GUIDED, steps, clip, None)
                for a, b in zip(got, want):
                    np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
                    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


@needs_compiler
def test_the_guess_need_not_be_written_and_the_stream_moves_on():
    x, c, u, _ = arrays(6)
    stream = Stream(2**64 - 1)
    x_u, x_0 = emulated(
        lambda d: cuda.ddim_step(d, x, c, u, np.ones(3, "f"), plan(A_T, A_U), noise=stream, guess=False)
    )
    assert x_0 is None and x_u.shape == x.shape and stream.step == 0  # no noise, no draw
    ddim_step(x, c, u, a_t=A_T, a_u=A_U, noise=stream)
    assert stream.step == 0
    cuda.ddim_step(Emulator(), x, c, u, np.ones(3, "f"), plan(A_T, A_U, eta=1.0), noise=stream)
    assert stream.step == 1


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("if (thread >= n * fours) return;", "if (thread > n * fours) return;", "out of range"),
        ("store_four(x_u, at, left, next)", "store_four(x_u, at, 4, next)", "race"),
        ("s * (o.v[i] - u.v[i])", "s * (u.v[i] - o.v[i])", "wrong value"),
        ("first + sample, step", "first, step", "wrong value"),
        ("e = mix(again_x, x.v[i], again_0, g);", "", "wrong value"),
    ],
)
def test_a_planted_mistake_is_found(old, new, kind, monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda, "1_fused.cu", old, new)
    x, c, u, _ = arrays(8)
    steps, scales, z = plan(A_T, A_U, eta=0.5), np.float32([3, 2, 1]), stream_normal(x.shape, seed=1)

    def run(device):
        got, _ = cuda.ddim_step(device, x, c, u, scales, steps, clip=1.0, noise=Stream(1))
        device.expect(got, reference.step(x, c, u, scales, steps, 1.0, z)[0], 1e-4)

    assert kind in kinds(run)
