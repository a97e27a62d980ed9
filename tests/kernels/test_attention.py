"""Attention: every path against the definition, what a mask must hide, gradients, and what the threads must not change."""

import inspect
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from unittest.mock import patch

import numpy as np
import pytest
from arrays import LAYOUTS, directional, laid_out, threads
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.attention import attention, attention_backward, attention_forward, numpy_tiles, plan, reference
from kernels.compare import assert_close, bound

SIZES = st.sampled_from([0, 1, 2, 3, 5, 7, 13, 17])
NAMES = ("o", "dq", "dk", "dv")


@dataclass(frozen=True)
class Problem:
    n: int = 2
    heads: int = 3
    t_q: int = 5
    t_k: int = 7
    d: int = 4
    d_v: int = 3
    causal: bool = False
    masked: bool = False
    spread: float = 1.0  # of the scores' factors: 1 is exponentiated as it is, 10 is shifted first
    dtype: str = "float32"
    layout: str = "contiguous"
    seed: int = 0

    def array(self, which, *shape):
        x = np.random.default_rng((self.seed, which)).standard_normal(shape)
        return laid_out((x * (self.spread if which < 2 else 1)).astype(self.dtype), self.layout)

    @cached_property
    def qkv(self):
        n, h = self.n, self.heads
        q, k = self.array(0, n, h, self.t_q, self.d), self.array(1, n, h, self.t_k, self.d)
        return q, k, self.array(2, n, h, self.t_k, self.d_v)

    @cached_property
    def g(self):
        return self.array(3, self.n, self.heads, self.t_q, self.d_v)

    @cached_property
    def key_mask(self):
        return np.random.default_rng((self.seed, 4)).random((self.n, self.t_k)) < 0.6 if self.masked else None

    @property
    def settings(self):
        return {"causal": self.causal, "key_mask": self.key_mask}

    @cached_property
    def allowed(self):
        """(n, 1, t_q, t_k): which query may attend to which key."""
        see = np.ones((self.n, 1, self.t_q, self.t_k), bool)
        if self.causal:
            see &= np.arange(self.t_k) <= np.arange(self.t_q)[:, None] + self.t_k - self.t_q
        return see if self.key_mask is None else see & self.key_mask[:, None, None]


@st.composite
def problems(draw, **fixed):
    drawn = {
        "n": draw(st.integers(0, 3)),
        "heads": draw(st.integers(1, 3)),
        "t_q": draw(SIZES),
        "t_k": draw(SIZES),
        "d": draw(st.sampled_from([1, 2, 5, 8])),
        "d_v": draw(st.sampled_from([1, 3, 8])),
        "causal": draw(st.booleans()),
        "masked": draw(st.booleans()),
        "spread": draw(st.sampled_from([1.0, 10.0])),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }
    return Problem(**{**drawn, **fixed})


@contextmanager
def small_pieces(keep):
    """Blocks of two or three queries and tiles of one head, so that small arrays go through many of them."""
    constants = {"BLOCK_BYTES": 200, "FEW_ROWS": 2, "ROWS": 3, "ROUND": 1, "GEMM_WORK": 40, "TILE_WORK": 1}
    plan._tiles_without_mask.cache_clear()
    try:
        with patch.multiple(plan, **constants), patch.object(numpy_tiles, "KEEP_BYTES", keep):
            yield
    finally:
        plan._tiles_without_mask.cache_clear()


def ours(p):
    o, saved = attention_forward(*p.qkv, **p.settings)
    return o, *attention_backward(p.g, *p.qkv, o, saved, **p.settings)


def definition(p):
    g, q, k, v = (x.astype(np.float64) for x in (p.g, *p.qkv))
    scale = 1 / np.sqrt(p.d)
    return reference.forward(q, k, v, scale=scale, **p.settings), *reference.backward(
        g, q, k, v, scale=scale, **p.settings
    )


def allowances(p):
    """Allowed errors of o, dq, dk, dv: the rounding of the scores goes through exp into every probability."""
    g, q, k, v = (np.abs(x.astype(np.float64)) for x in (p.g, *p.qkv))
    scale = 1 / np.sqrt(p.d)
    signed = [x.astype(np.float64) for x in p.qkv[:2]]
    s = np.where(p.allowed, scale * signed[0] @ signed[1].swapaxes(2, 3), -np.inf)
    top = np.where(p.allowed.any(-1, keepdims=True), s.max(-1, keepdims=True, initial=-np.inf), 0)
    e = np.exp(s - top)
    prob = e / np.maximum(e.sum(-1, keepdims=True), 1)
    size = (scale * q @ k.swapaxes(2, 3)).max(initial=0)
    relative = bound(p.d + 1, 2 * size + np.log(p.t_k + 1) + 1, p.dtype) + bound(p.t_k, 2, p.dtype)
    prob = prob + p.allowed * np.finfo(p.dtype).tiny / relative  # what underflows
    o_size, dv_size = prob @ v, prob.swapaxes(2, 3) @ g
    o = (2 * relative + bound(p.t_k, 1, p.dtype)) * o_size
    dv = (2 * relative + bound(p.t_q, 1, p.dtype)) * dv_size
    dp = g @ v.swapaxes(2, 3)
    dp = dp + (prob * dp).sum(-1, keepdims=True)
    delta = (g * o).sum(-1, keepdims=True) + bound(p.d_v, (g * o_size).sum(-1, keepdims=True), p.dtype)
    ds = prob * ((2 * relative + bound(p.d_v + 1, 1, p.dtype)) * dp + delta)
    dq = scale * (ds @ k + bound(p.t_k, (prob * dp) @ k, p.dtype))
    dk = scale * (ds.swapaxes(2, 3) @ q + bound(p.t_q, (prob * dp).swapaxes(2, 3) @ q, p.dtype))
    return o, dq, dk, dv


def check(p):
    results = ours(p)
    for name, got, want, allowed in zip(NAMES, results, definition(p), allowances(p)):
        assert got.dtype == np.dtype(p.dtype)
        assert_close(got, want, allowed, f"{name} of {p}")
    np.testing.assert_array_equal(attention(*p.qkv, **p.settings), results[0])


@given(problems())
@example(Problem(t_q=9, t_k=4, causal=True))
@example(Problem(t_q=4, t_k=9, causal=True, masked=True))
@example(Problem(t_k=0))
@example(Problem(d_v=0))
def test_is_the_definition(p):
    check(p)


@given(problems(), st.sampled_from([0, 1 << 20]))
@example(Problem(n=1, heads=1, t_q=17, t_k=17, causal=True, masked=True), 0)
@example(Problem(n=1, heads=1, t_q=17, t_k=17), 1 << 20)
def test_is_the_definition_in_many_small_pieces(p, keep):
    with small_pieces(keep):
        check(p)


@pytest.mark.parametrize("keep", [0, 1 << 30])
@pytest.mark.parametrize(
    "p",
    [
        Problem(n=2, heads=2, t_q=200, t_k=200, d=32, d_v=16, causal=True),
        Problem(n=1, heads=1, t_q=300, t_k=400, d=64, d_v=64, spread=3.0, masked=True),
        Problem(n=1, heads=2, t_q=130, t_k=77, d=8, d_v=8, dtype="float64"),
    ],
)
def test_is_the_definition_at_the_sizes_the_pieces_are_made_for(p, keep):
    with patch.object(numpy_tiles, "KEEP_BYTES", keep):
        check(p)


def test_keeps_probabilities_only_up_to_the_limit():
    q = np.ones((1, 1, 8, 2), np.float32)
    with patch.object(numpy_tiles, "KEEP_BYTES", 8 * 8 * 4):
        assert attention_forward(q, q, q)[1].exps.size == 64
        more = np.ones((1, 1, 9, 2), np.float32)
        assert attention_forward(more, q, q)[1].exps is None


@given(problems(dtype="float64", layout="contiguous", spread=1.0), st.sampled_from([0, 1 << 20]))
def test_gradients_are_derivatives(p, keep):
    rng = np.random.default_rng(p.seed + 1)
    directions = [rng.standard_normal(x.shape) for x in p.qkv]

    def loss(step):
        return (attention(*(x + step * u for x, u in zip(p.qkv, directions)), **p.settings) * p.g).sum()

    with small_pieces(keep):
        _, *grads = ours(p)
    along = sum((a * u).sum() for a, u in zip(grads, directions))
    size = 1 + np.abs(p.g).sum() * (1 + np.abs(p.qkv[2]).max(initial=0)) * 30
    assert_close(along, directional(loss, np.float64(0), 1.0, 2.0**-10), 1e-9 * size, "directional derivative")


@given(problems(causal=False, masked=True))
def test_a_masked_key_never_matters_even_if_it_is_nan(p):
    q, k, v = (x.copy() for x in p.qkv)
    hidden = np.broadcast_to(~p.key_mask[:, None, :], k.shape[:3])
    want = ours(p)
    k[hidden], v[hidden] = np.nan, np.inf
    o, saved = attention_forward(q, k, v, **p.settings)
    got = o, *attention_backward(p.g, q, k, v, o, saved, **p.settings)
    for a, b in zip(got, want):
        np.testing.assert_array_equal(a, b)
    assert not got[2][hidden].any() and not got[3][hidden].any()


@given(problems(n=2, causal=True), st.data())
def test_a_later_key_never_matters_even_if_it_is_nan(p, data):
    if not p.t_q or not p.t_k:
        return
    j = data.draw(st.integers(0, p.t_k - 1))
    q, k, v = (x.copy() for x in p.qkv)
    k[:, :, j:], v[:, :, j:] = np.nan, np.inf
    before = max(0, min(p.t_q, j + p.t_q - p.t_k))  # the queries that see only keys before j
    want = definition(p)[0][:, :, :before]
    got = attention(q, k, v, **p.settings)[:, :, :before]
    assert_close(got, want, allowances(p)[0][:, :, :before], "o before the NaN")


def test_later_nan_in_q_and_g_do_not_reach_the_keys_that_only_earlier_queries_see():
    p = Problem(n=1, heads=1, t_q=6, t_k=6, causal=True)
    q, k, v = (x.copy() for x in p.qkv)
    g = p.g.copy()
    want = definition(Problem(n=1, heads=1, t_q=6, t_k=6, causal=True))
    g[:, :, 2] = np.inf  # query 2 sees keys 0, 1, 2
    o, saved = attention_forward(q, k, v, causal=True)
    dq, dk, dv = attention_backward(g, q, k, v, o, saved, causal=True)
    assert not np.isfinite(dv[:, :, :3]).any() and np.isfinite(dv[:, :, 3:]).all()
    assert np.isfinite(dk[:, :, 3:]).all() and np.isfinite(dq[:, :, [0, 1, 3, 4, 5]]).all()
    assert_close(dv[:, :, 3:], want[3][:, :, 3:], allowances(p)[3][:, :, 3:], "dv of the later keys")


@given(problems(), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 3), st.integers(0, 2**16))
def test_nan_and_inf_come_out_where_the_definition_has_them_and_nothing_warns(p, value, which, where):
    arrays = [x.copy() for x in (*p.qkv, p.g)]
    if not arrays[which].size:
        return
    arrays[which].reshape(-1)[where % arrays[which].size] = value
    q, k, v, g = arrays
    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(p.d)
        want = reference.forward(q, k, v, scale=scale, **p.settings)
        want = want, *reference.backward(g, q, k, v, scale=scale, **p.settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        o, saved = attention_forward(q, k, v, **p.settings)
        got = o, *attention_backward(g, q, k, v, o, saved, **p.settings)
    for name, a, b in zip(NAMES, got, want):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b), f"{name} of {p}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_query_that_sees_nothing_gives_zero_and_zero_gradients_without_a_warning(dtype):
    p = Problem(n=2, t_q=5, t_k=3, causal=True, dtype=dtype)  # queries 0 and 1 see no key
    mask = np.array([[True, True, True], [False, False, False]])
    for settings in ({"causal": True, "key_mask": None}, {"causal": False, "key_mask": mask}):
        o, saved = attention_forward(*p.qkv, **settings)
        dq, dk, dv = attention_backward(p.g, *p.qkv, o, saved, **settings)
        blind = (slice(None), slice(None), slice(0, 2)) if settings["causal"] else (1,)
        assert not o[blind].any() and not dq[blind].any()
        if settings["key_mask"] is not None:
            assert not dk[1].any() and not dv[1].any()


def test_scores_beyond_what_exp_can_take():
    q = np.array([[[[300.0]]]], np.float32)
    k = np.array([[[[1.0], [-1.0], [1.0]]]], np.float32)
    v = np.array([[[[2.0], [100.0], [4.0]]]], np.float32)
    o, saved = attention_forward(q, k, v)
    assert o.item() == 3.0
    dq, dk, dv = attention_backward(np.ones_like(o), q, k, v, o, saved)
    np.testing.assert_array_equal(dv.reshape(-1), np.float32([0.5, 0.0, 0.5]))
    np.testing.assert_array_equal(dk.reshape(-1), np.float32([-150, 0, 150]))
    assert dq.item() == 0.0


@given(problems())
def test_scale_is_a_factor_of_q(p):
    q, k, v = p.qkv
    np.testing.assert_array_equal(
        attention(q, k, v, scale=0.0, **p.settings), attention(q * 0, k, v, scale=1.0, **p.settings)
    )
    got = attention(q, k, v, scale=-2.0, **p.settings)
    np.testing.assert_array_equal(got, attention(-q, k, v, scale=2.0, **p.settings))


@given(problems(), st.sampled_from([0, 1 << 20]))
@example(Problem(n=1, heads=1, t_q=17, t_k=17), 0)
def test_threads_change_no_bit_and_inputs_stay(p, keep):
    before = [x.copy() for x in (*p.qkv, p.g)]
    with small_pieces(keep):
        results = []
        for count in (1, 2, 3):
            with threads(count):
                results.append(ours(p))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)
    for x, copy in zip((*p.qkv, p.g), before):
        np.testing.assert_array_equal(x, copy)


def test_a_key_value_cache_gives_the_rows_of_the_whole():
    p = Problem(n=2, t_q=9, t_k=9, causal=True)
    q, k, v = p.qkv
    whole = attention(q, k, v, causal=True)
    for i in range(9):
        step = attention(q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1], causal=True)
        assert_close(step, whole[:, :, i : i + 1], 2 * allowances(p)[0][:, :, i : i + 1], f"step {i}")


def test_heads_cut_from_one_projection_are_read_in_place():
    x = np.random.default_rng(0).standard_normal((2, 7, 3, 4)).astype(np.float32)  # (n, t, heads, d)
    view = x.transpose(0, 2, 1, 3)
    assert numpy_tiles._for_blas(view) is view
    np.testing.assert_array_equal(attention(view, view, view), attention(*[np.ascontiguousarray(view)] * 3))


@pytest.mark.parametrize("causal", [False, True])
def test_results_lie_as_the_arguments_do_so_that_heads_are_merged_by_a_view(causal):
    n, t, heads, d = 2, 5, 3, 4
    q, k, v, g = np.random.default_rng(0).standard_normal((4, n, t, heads, d)).transpose(0, 1, 3, 2, 4)
    o, saved = attention_forward(q, k, v, causal=causal)
    results = (o, *attention_backward(g, q, k, v, o, saved, causal=causal))
    packed = [np.ascontiguousarray(x) for x in (q, k, v, g)]
    o, saved = attention_forward(*packed[:3], causal=causal)
    others = (o, *attention_backward(packed[3], *packed[:3], o, saved, causal=causal))
    for x, other in zip(results, others):
        assert np.shares_memory(x.transpose(0, 2, 1, 3).reshape(n, t, heads * d), x)
        assert other.flags.c_contiguous
        np.testing.assert_allclose(x, other, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("t", [(64, 64), (1, 300), (256, 256), (4096, 4096), (130, 77)])
@pytest.mark.parametrize("causal", [False, True])
def test_the_plan_covers_every_score_once_and_stays_small(t, causal):
    n, heads = 2, 3
    tiles = plan.make_tiles(n, heads, *t, 32, 4, causal, None)
    seen = np.zeros((n, heads, t[0]), int)
    end = 0
    for tile in tiles:
        assert tile.start == end
        end += tile.size
        for block in tile.blocks:
            rows = slice(tile.rows.start + block.rows.start, tile.rows.start + block.rows.stop)
            seen[tile.samples, tile.heads, rows] += 1
            at_once = (tile.samples.stop - tile.samples.start) * (tile.heads.stop - tile.heads.start) * block.size
            assert at_once * 4 <= 4 * plan.BLOCK_BYTES
            assert block.visible == (min(t[1], rows.stop + t[1] - t[0]) if causal else t[1])
    first = max(0, t[0] - t[1]) if causal else 0  # the queries before see no key
    assert (seen[:, :, first:] == 1).all() and not seen[:, :, :first].any()


def test_bad_input_is_named():
    p = Problem()
    q, k, v = p.qkv
    forward, backward = inspect.unwrap(attention), inspect.unwrap(attention_backward)
    mask = np.ones((2, 7), bool)
    cases = [
        (TypeError, "q must be float32 or float64, got int64", (q.astype(int), k, v), {}),
        (TypeError, "q, k, v must share one dtype", (q.astype(np.float64), k, v), {}),
        (ValueError, r"k must have 4 axes, got shape \(3, 7, 4\)", (q, k[0], v), {}),
        (ValueError, r"k must have shape \(2, 3, 7, 4\) \(q's n, heads and d\), got \(1, 3, 7, 4\)", (q, k[:1], v), {}),
        (
            ValueError,
            r"k must have shape \(2, 3, 7, 4\) \(q's n, heads and d\), got \(2, 3, 7, 3\)",
            (q, k[..., 1:], v),
            {},
        ),
        (ValueError, r"v must have shape \(2, 3, 7, 3\) \(k's n, heads and t_k\)", (q, k, v[:, :, 1:]), {}),
        (
            ValueError,
            r"q must have a last axis of at least 1, got shape \(2, 3, 5, 0\)",
            (q[..., :0], k[..., :0], v),
            {},
        ),
        (TypeError, "key_mask must be a bool array, got float64", (q, k, v), {"key_mask": mask * 1.0}),
        (ValueError, r"key_mask must have shape \(2, 7\) \(n and t_k of k\)", (q, k, v), {"key_mask": mask[:, 1:]}),
        (ValueError, "scale must be a finite number, got nan", (q, k, v), {"scale": np.nan}),
    ]
    for kind, message, args, settings in cases:
        with pytest.raises(kind, match=message):
            forward(*args, **settings)
    o, saved = attention_forward(q, k, v)
    with pytest.raises(ValueError, match=r"g must have shape \(2, 3, 5, 3\) \(q's n, heads, t_q and v's last axis\)"):
        backward(p.g[:, :, 1:], q, k, v, o, saved)
    with pytest.raises(ValueError, match="saved belongs to a forward pass of other shapes"):
        backward(p.g, q, k, v, o, saved, causal=True)
