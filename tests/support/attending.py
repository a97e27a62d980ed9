"""Attention for the tests of its rungs in bfloat16: operands, the definition in float64, what a rung may be off."""

import numpy as np

from kernels import bfloat16
from kernels.attention import cuda, cuda_backward, reference
from kernels.compare import bound
from kernels.emulator import Emulator


def operands(seed, n, heads, t_q, t_k, d, d_v, spread=1.0, near=bfloat16.rounded):
    """(the generator, q, k, v), numbers that bfloat16 has, or others without ``near``."""
    rng = np.random.default_rng(seed)
    shapes = ((t_q, d), (t_k, d), (t_k, d_v))
    arrays = [(spread * rng.standard_normal((n, heads, *s))).astype(np.float32) for s in shapes]
    return rng, *(near(x) if near else x for x in arrays)


def hide(k, v, mask):
    """What a mask hides must not matter: there k becomes NaN and v Inf, in place. Returns the mask."""
    hidden = np.broadcast_to(~mask[:, None], k.shape[:3])
    k[hidden], v[hidden] = np.nan, np.inf
    return mask


def float32_error(q, k, v, scale):
    """Of an output: what scores and sums in float32 may be off."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    t_k, d = k.shape[2:]
    size = abs(scale) * np.abs(q) @ np.abs(k).swapaxes(2, 3)
    # A score's error e changes its probability by a factor of exp(e); tiles of keys rescale by up to t_k such factors.
    relative = bound(d + 1, 4 * size[np.isfinite(size)].max(initial=0) + 4, np.float32) + bound(2 * t_k, 4, np.float32)
    return relative * np.abs(v[np.isfinite(v)]).max(initial=0)


def outputs(q, k, v, causal, mask, scale, unit=bfloat16.UNIT_ROUNDOFF):
    """o of the definition; what it may be off with weights p in bfloat16: as in float32, and 2^-8 of every |p v|."""
    wide = [x.astype(np.float64) for x in (q, k, v)]
    finite = np.where(np.isfinite(wide[2]), np.abs(wide[2]), 0)
    with np.errstate(all="ignore"):
        want = reference.forward(*wide, causal=causal, key_mask=mask, scale=scale)
        weighed = reference.forward(*wide[:2], finite, causal=causal, key_mask=mask, scale=scale)
    weighed = np.where(np.isfinite(weighed), weighed, 0)
    return want, unit * weighed + float32_error(q, k, v, scale)


def log_sums(q, k, causal, mask, scale):
    """L of the definition, -inf where nothing is seen, and what float32 may be off."""
    q, k = q.astype(np.float64), k.astype(np.float64)
    t_q, t_k = q.shape[2], k.shape[2]
    seen = np.arange(t_k) <= np.arange(t_q)[:, None] + t_k - t_q if causal else np.ones((t_q, t_k), bool)
    seen = np.broadcast_to(seen & (True if mask is None else mask[:, None, None]), (*q.shape[:3], t_k))
    with np.errstate(all="ignore"):
        s = np.where(seen, scale * (q @ k.swapaxes(2, 3)), -np.inf)
        top = s.max(axis=3, keepdims=True, initial=-np.inf)
        want = (top + np.log(np.exp(s - top).sum(axis=3, keepdims=True)))[..., 0]
        want = np.where(seen.any(axis=3), want, -np.inf)
        size = abs(scale) * np.abs(q) @ np.abs(k).swapaxes(2, 3)
        size = np.where(seen & np.isfinite(size), size, 0).max(axis=3, initial=0)
    finite = np.where(np.isfinite(want), np.abs(want), 0)
    # Scores and what is made of them on the way to an exponential, a sum that may be corrected t_k times, a logarithm.
    allowed = bound(q.shape[3] + 1, 2 * size + 1, np.float32) + bound(2 * t_k + 4, 4 + finite + size, np.float32)
    return want, 2 * allowed


def attend(q, k, v, causal, mask, scale, seeds, rung, precision="bf16"):
    """A rung under several schedules: no findings, right values of o and L, the same bits. Returns o."""
    if precision == "bf16":
        q, k, v = (bfloat16.rounded(x) for x in (q, k, v))
    unit = bfloat16.UNIT_ROUNDOFF if precision == "bf16" else 0
    expected_o, expected_log_sum = outputs(q, k, v, causal, mask, scale, unit), log_sums(q, k, causal, mask, scale)
    how = {"causal": causal, "key_mask": mask, "scale": scale, "rung": rung, "precision": precision}
    finite = np.isfinite(q).all() and np.isfinite(k).all()  # of others, L may be NaN or -inf: either makes p NaN again
    results = []
    for seed in seeds:
        device = Emulator(seed % 2**32)
        o, log_sum = cuda.attention_forward(device, q, k, v, **how)
        results.append((o.tobytes(), log_sum.tobytes()))
        device.expect(o, *expected_o, "o")
        if finite:
            device.expect(log_sum, *expected_log_sum, "L")
        device.check()
        assert not device.bank_conflicts
        assert results[-1] == results[0]
    return o


def attend_where_scores_are_minus_infinity(rung, precision="bf16"):
    """Alone they make NaN, as 0 / 0 in the definition; beside others they weigh nothing."""
    q, k, v = (np.ones((1, 1, t, 8), np.float32) for t in (2, 3, 3))
    k[0, 0, :2] = -np.inf
    o = attend(q, k, v, True, None, 1.0, (0,), rung, precision)  # query 0 sees two of them, query 1 also the third key
    assert np.isnan(o[0, 0, 0]).all() and (o[0, 0, 1] == 1).all()


class Gradients:
    """Operands of a backward pass and what the forward pass keeps; the definition's gradients and what rung 3 may be off.

    With weights that are not rounded to bfloat16, the ``precision`` is "float32".
    """

    precision = "bf16"

    def __init__(self, q, k, v, g, causal, mask, scale):
        self.arrays, self.settings = (g, q, k, v), {"causal": causal, "key_mask": mask, "scale": scale}
        self.wide = [x.astype(np.float64) for x in self.arrays]
        with np.errstate(all="ignore"):
            self.o = reference.forward(*self.wide[1:], **self.settings)
            self.log_sum = log_sums(q, k, causal, mask, scale)[0]

    def changed(self, which, at, value):
        """The same with ``value`` in one of the arrays g, q, k, v."""
        g, q, k, v = arrays = [x.copy() for x in self.arrays]
        arrays[which][at] = value
        return type(self)(q, k, v, g, *self.settings.values())

    def run(self, device, rung):
        kept = self.o.astype(np.float32), self.log_sum.astype(np.float32)
        return cuda_backward.attention_backward(
            device, *self.arrays, *kept, **self.settings, rung=rung, precision=self.precision
        )

    def expected(self):
        """[(want, allowed error, name)] of dq, dk and dv."""
        (t_q, d), (t_k, d_v), scale = self.wide[1].shape[2:], self.wide[3].shape[2:], self.settings["scale"]
        with np.errstate(all="ignore"):
            want = reference.backward(*self.wide, **self.settings)
            s = scale * self.wide[1] @ self.wide[2].swapaxes(2, 3)
            p = np.exp(s - self.log_sum[..., None])
        seen = np.arange(t_k) <= np.arange(t_q)[:, None] + t_k - t_q if self.settings["causal"] else np.True_
        if self.settings["key_mask"] is not None:
            seen = seen & self.settings["key_mask"][:, None, None]
        p = np.where(np.isfinite(p) & seen, p, 0)
        g, q, k, v, o, log_sum = (np.where(np.isfinite(x), np.abs(x), 0) for x in (*self.wide, self.o, self.log_sum))
        # What rounding does to a score, to L and to exp changes p by a factor; what it does to dp and D adds to both.
        size = abs(scale) * q @ k.swapaxes(2, 3)
        relative = 2 * bound(d + 1, size + 1, np.float32) + bound(3, size + log_sum[..., None] + 4, np.float32)
        sizes = g @ v.swapaxes(2, 3) + (g * o).sum(axis=3, keepdims=True)
        ds = p * sizes
        relative = relative + (bfloat16.UNIT_ROUNDOFF if self.precision == "bf16" else 0)
        ds_error = ds * relative + p * 2 * bound(d_v + 2, sizes, np.float32)
        p_error = p * relative
        tiny = np.finfo(np.float32).tiny
        ds_error, p_error = ds_error + tiny * (sizes + 1), p_error + tiny
        dq = abs(scale) * (ds_error @ k + 2 * bound(t_k + 2, ds @ k, np.float32))
        dk = abs(scale) * (ds_error.swapaxes(2, 3) @ q + 2 * bound(t_q + 2, ds.swapaxes(2, 3) @ q, np.float32))
        dv = p_error.swapaxes(2, 3) @ g + 2 * bound(t_q + 1, p.swapaxes(2, 3) @ g, np.float32)
        return list(zip(want, (dq, dk, dv), ("dq", "dk", "dv"), strict=True))


class ExactGradients(Gradients):
    """Of numbers that bfloat16 does not have."""

    precision = "float32"


def problem(seed, n, heads, t_q, t_k, sizes, causal, masked, spread=1.0, scale=None, kind=Gradients):
    """Gradients of random numbers."""
    near = bfloat16.rounded if kind is Gradients else None
    rng, q, k, v = operands(seed, n, heads, t_q, t_k, *sizes, spread, near)
    g = operands(seed + 1, n, heads, 1, t_q, 8, sizes[1], near=near)[3]
    mask = hide(k, v, rng.random((n, t_k)) < 0.6) if masked else None
    return kind(q, k, v, g, causal, mask, sizes[0] ** -0.5 if scale is None else scale)


def low_scores(a):
    """The same with scores near -300: exp(-L) is Inf, so what is not there must not get such a weight."""
    g, q, k, v = (x.copy() for x in a.arrays)
    q[..., 0], k[..., 0] = 36, -40
    return type(a)(q, k, v, g, *a.settings.values())


def gradients_finite_where_the_definition_has_them(a, rung, seed, what, without=None):
    """And NaN or Inf everywhere else. Finite ones are right, if the problem ``without`` the number says how right."""
    device = Emulator(seed)
    got = a.run(device, rung)
    device.check()
    allowed = [None] * 3 if without is None else [most for _, most, _ in without.expected()]
    for array, (want, _, name), most in zip(got, a.expected(), allowed, strict=True):
        finite = np.isfinite(want)
        np.testing.assert_array_equal(np.isfinite(array), finite, f"{name} for {what}")
        if most is not None:
            assert (np.abs(array[finite] - want[finite]) <= 2 * most[finite]).all(), f"{name} for {what}"


def nan_and_inf_in_gradients(t_q, t_k, where, value, rung, kind=Gradients):
    """One such number in row ``where`` of g, q, k and v in turn reaches the gradients that it reaches in the definition."""
    for which in range(4):
        without = problem(which, 1, 1, t_q, t_k, (16, 24), True, False, scale=0.4, kind=kind)
        a = without.changed(which, (0, 0, where, 2), value)
        gradients_finite_where_the_definition_has_them(a, rung, where, f"{value} in {'gqkv'[which]}", without)
