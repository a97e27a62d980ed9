"""Attention of float32 numbers and its gradients on bf16 tensor cores, emulated; as test_attention_mma.py and ..._backward.py."""

import numpy as np
import pytest
from attending import (
    ExactGradients,
    attend,
    attend_where_scores_are_minus_infinity,
    hide,
    log_sums,
    low_scores,
    nan_and_inf_in_gradients,
    operands,
    outputs,
    problem,
)
from emulation import Counting, Mistaken, emulated
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import needs_compiler

from kernels import attention, launch
from kernels.attention import cuda, cuda_backward
from kernels.device import running_on
from kernels.emulator import Emulator
from kernels.matmul import cuda as matmul_cuda
from kernels.precision import precision

FORWARD, BACKWARD = (m.HERE / m.FLOAT32_RUNGS[3] for m in (cuda, cuda_backward))
HEADERS = ("attention/split.cuh", "attention/rows.cuh")
EXACTLY = {"rung": 3, "precision": "float32"}
LENGTHS = st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65])
few = settings(max_examples=8)
problems = given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    t_q=LENGTHS,
    t_k=st.one_of(st.just(0), LENGTHS, st.just(77)),
    sizes=st.sampled_from([(8, 8), (24, 40)]),  # each is compiled on its own
    causal=st.booleans(),
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 5.0]),
    scale=st.sampled_from([0.3, -0.2, 0.0]),
    seed=st.integers(0, 2**32 - 2),
)


def exactly(seed, n, heads, t_q, t_k, sizes, causal, masked, spread=1.0, scale=None):
    return problem(seed, n, heads, t_q, t_k, sizes, causal, masked, spread, scale, ExactGradients)


def few_parts(rng, *shape):
    """Numbers whose smaller parts are 0, which Inf must not meet."""
    return (rng.choice([-1, 1], shape) * rng.integers(1, 5, shape) / 4).astype(np.float32)


def run(a, seed=0):
    device = Emulator(seed)
    got = a.run(device, 3)
    for array, expected in zip(got, a.expected(), strict=True):
        device.expect(array, *expected)
    device.check()
    return got


# --- what it computes -------------------------------------------------------------------------------------------------


@needs_compiler
@few
@problems
@example(1, 1, 16, 64, (8, 8), True, False, 1.0, 0.3, 0)  # the diagonal cuts a whole tile
@example(1, 1, 64, 65, (8, 8), True, False, 1.0, 0.3, 0)  # the last query alone sees the last tile
def test_attention(n, heads, t_q, t_k, sizes, causal, masked, spread, scale, seed):
    rng, q, k, v = operands(seed, n, heads, t_q, t_k, *sizes, spread, None)
    mask = hide(k, v, rng.random((n, t_k)) < 0.6) if masked else None
    attend(q, k, v, causal, mask, scale, (seed, seed + 1), **EXACTLY)


@needs_compiler
@few
@problems
def test_the_gradients(n, heads, t_q, t_k, sizes, causal, masked, spread, scale, seed):
    a = exactly(seed, n, heads, t_q, t_k, sizes, causal, masked, spread, scale)

    def run(device):
        got = a.run(device, 3)
        assert not device.bank_conflicts
        return got

    emulated(run, seed, a.expected())


@needs_compiler
@pytest.mark.parametrize("sizes", [(64, 64), (128, 128), (8, 72)])  # both sizes of the gradients' tiles
def test_large_heads(sizes):
    _, q, k, v = operands(1, 1, 1, 20, 70, *sizes, near=None)
    attend(q, k, v, True, None, sizes[0] ** -0.5, (0,), **EXACTLY)
    run(exactly(sizes[0], 1, 1, 70, 50, sizes, True, True))


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 6, 19])
@pytest.mark.parametrize("causal", [False, True])
def test_nan_and_inf_reach_whoever_sees_them_and_nobody_else(causal, value, where):
    """Beside numbers whose small parts are 0, and a tile before and after that has no such number."""
    for which in range(3):
        q, k, v = (few_parts(np.random.default_rng(i), 1, 1, t, 8) for i, t in enumerate((20, 84, 84)))
        (q, k, v)[which][0, 0, where + 32 * (which > 0), 2] = value
        attend(q, k, v, causal, None, 0.3, (5,), **EXACTLY)


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 6, 35])
def test_nan_and_inf_reach_the_gradients_that_they_reach_in_the_definition(value, where):
    nan_and_inf_in_gradients(38, 36, where, value, 3, ExactGradients)


@needs_compiler
def test_the_only_key_may_be_any():
    _, q, k, v = operands(0, 8, 1, 1, 8, 8, 8, near=None)
    attend(q, k, v, False, np.eye(8, dtype=bool), 0.3, (0,), **EXACTLY)


@needs_compiler
def test_scores_of_minus_infinity():
    attend_where_scores_are_minus_infinity(**EXACTLY)


@needs_compiler
def test_rows_that_fill_up_a_tile_weigh_nothing():
    for causal in (False, True):
        run(low_scores(exactly(0, 1, 1, 33, 35, (24, 8), causal, False)))


@needs_compiler
def test_who_sees_nothing_has_no_gradients():
    mask = np.array([[True, True, True], [False, False, False]])
    _, q, k, v = operands(0, 2, 1, 5, 3, 8, 8, near=None)
    dq, dk, dv = run(
        ExactGradients(q, k, v, q, True, mask, 0.4)
    )  # queries 0 and 1 of the first sample see no key either
    assert not dq[0, :, :2].any() and not dq[1].any() and not dk[1].any() and not dv[1].any() and dv[0].any()


@needs_compiler
def test_it_is_no_less_exact_than_rung_2():
    _, q, k, v = operands(3, 1, 2, 64, 1024, 64, 64, near=None)
    how = {"causal": False, "key_mask": None, "scale": 0.125, "precision": "float32"}
    want = outputs(q, k, v, False, None, 0.125)[0]
    of_log_sums = log_sums(q, k, False, None, 0.125)[0]
    errors = {}
    for rung in (2, 3):
        o, log_sum = cuda.attention_forward(Emulator(), q, k, v, **how, rung=rung)
        errors[rung] = np.sqrt(((o - want) ** 2).mean()), np.sqrt(((log_sum - of_log_sums) ** 2).mean())
    assert errors[3][0] <= errors[2][0] and errors[3][1] <= 1.5 * errors[2][1]


@needs_compiler
def test_sizes_that_it_does_not_take_and_empty_arrays():
    for size in (12, 136):
        said = rf"rung 3 takes heads of 8, 16, ... 128 numbers, got d = {size} and d_v = {size}"
        a = exactly(0, 1, 1, 3, 4, (size, size), False, False)
        with pytest.raises(ValueError, match=said):
            a.run(Emulator(), 3)
        with pytest.raises(ValueError, match=said):
            cuda.attention(Emulator(), *a.arrays[1:], **a.settings, **EXACTLY)
    for t_q, t_k in ((0, 5), (5, 0)):
        dq, dk, dv = run(exactly(0, 1, 2, t_q, t_k, (8, 16), True, False))
        assert dq.shape == (1, 2, t_q, 8) and dk.shape == (1, 2, t_k, 8) and dv.shape == (1, 2, t_k, 16)
        assert not dq.any() and not dk.any() and not dv.any()
    with pytest.raises(ValueError, match=r"^rung must be one of 1, 2, 3, got 4$"):
        cuda.attention(Emulator(), *a.arrays[1:], **a.settings, rung=4, precision="float32")


# --- which rung -------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("architecture, d, takes", [
    ("90a", 16, True), ("80", 16, True), ("89", 16, False), ("90a", 12, False), ("90a", 136, False),
])  # fmt: skip
def test_large_ones_take_it_by_themselves(architecture, d, takes, monkeypatch):
    _, q, k, v = operands(0, 1, 2, 9, 11, d, d, near=None)
    monkeypatch.setattr(matmul_cuda, "SPLIT_FROM", 2 * 2 * 9 * 11 * d)
    results = []
    for shorter in (0, 1):  # the whole, and one query less, which is less than it takes
        with running_on(Counting(architecture)) as device:
            o, saved = attention.attention_forward(q[:, :, shorter:], k, v, causal=True)
            results.append((o, *attention.attention_backward(o, q[:, :, shorter:], k, v, o, saved, causal=True)))
        device.check()
        names = {name.partition(":")[2] for name in device.launched if name.startswith("attention/3_split")}
        expected = {"attention_float32", "grad_q_float32", "grad_k_float32", "grad_v_float32"}
        assert names == (expected if takes and not shorter else set())
    want, allowed = outputs(q, k, v, True, None, d**-0.5, 0)
    device.expect(results[0][0], want, allowed, "o")
    device.check()


def test_bf16_stays_what_it_was():
    _, q, _, v = operands(0, 1, 1, 2048, 2048, 64, 64)
    device = Emulator()
    assert [cuda_backward.rung_for(device, p, q, v) for p in ("float32", "bf16")] == [3, 4]
    assert cuda_backward.rung_for(device, "float32", q[:, :, :2047], v) == 2
    with precision("bf16"):
        assert [cuda_backward.precision_for(device, d, 64) for d in (64, 256, 12)] == ["bf16", "bf16", "float32"]


# --- mistakes ---------------------------------------------------------------------------------------------------------

PLANTED = [  # of the forward pass: what is changed into what, and what must be found
    ("        cp_async_wait<0>();\n", "", "missing wait"),
    ("__syncthreads_or(odd)", "odd", "race"),
    ("if (one_by_one) {", "if (false) {", "wrong value"),
    ("has_copied_odd<THREADS, KEYS, DEPTH, PITCH>(keys) ||", "", "wrong value"),
    ("has_copied_odd<THREADS, KEYS, DEPTH_V, PITCH_V>(values);", "false;", "wrong value"),
    ("if (t == 0) total[h] += p;", "total[h] += p;", "wrong value"),
    ("const bool whole = !cut && !mask && first + KEYS <= t_k;", "const bool whole = !cut && !mask;", "wrong value"),
    ("if (i[h] >= t_q) continue;\n        if (log", "if (i[h] > t_q) continue;\n        if (log", "race"),
    ("pairs * t_k * D, tile", "0, tile", "wrong value"),
    ("number_at<KEYS, PITCH>(keys, key, c)", "number_at<KEYS, PITCH>(keys, 0, c)", "wrong value"),
    # of split.cuh
    ("lane / 16 * 8 + lane % 8;", "lane % 16;", "wrong value"),  # another matrix's order of lanes
    ("ldmatrix_trans(b[p]", "ldmatrix(b[p]", "wrong value"),
    ("2 * COUNT + at / (COLUMNS / 8)", "at / (COLUMNS / 8)", "wrong value"),  # of the first part, not the last
    ("product[n][e] += rest[n][e];", "continue;", "wrong value"),
    ("here[half][e] + rest[half][e]", "here[half][e]", "wrong value"),
    ("(p * OWN + lane % 16)", "lane % 16", "wrong value"),
    ("(p * COUNT + c * 16 + lane % 16)", "(2 * COUNT + c * 16 + lane % 16)", "wrong value"),
    ("one -= __uint_as_float(high << 16);", "", "wrong value"),
    ("to_float(low[COUNT * PITCH])", "0", "wrong value"),
]  # fmt: skip
PLANTED_BACKWARD = [
    ("        cp_async_wait<0>();\n", "", "missing wait"),
    ("__syncthreads_or(odd_own || has_copied_odd_rows<STEP>(tile_a))", "odd_own", "race"),
    ("if (one_by_one) {", "if (false) {", "wrong value"),
    ("odd_own = has_copied_odd_rows<ROWS>(own);", ";", "wrong value"),
    ("PITCH_V>(tile + 3 * COUNT * PITCH);\n}\n\n// The", "PITCH_V>(tile);\n}\n\n// The", "uninitialised"),
    ("min(t_k, first_own + ROWS + ahead)", "min(t_k, first_own + ahead)", "wrong value"),
    ("if (row[h] >= own_rows) continue;", "if (row[h] > own_rows) continue;", "race"),
    ("!mask && first + STEP <= other_rows;", "!mask;", "wrong value"),
    ("w[n][e] = hidden(n, e) ? 0.0f : slope(", "w[n][e] = slope(", "out of range"),
    ("w[n][e] = hidden(n, e) ? 0.0f : weight(", "w[n][e] = weight(", "out of range"),
    ("own_b + 16 * warp * PITCH_V, tile_b", "own_b, tile_b", "wrong value"),
    ("all * D_V, from", "all * D, from", "out of range"),
    ("OF_B ? tile_b : tile_a;", "tile_a;", "wrong value"),
]


def forward_with(device, *, odd):
    """All that is planted in a forward pass, on keys or values of which one is odd, or none of them."""
    rng, q, k, v = operands(0, 1, 2, 66, 76, 24, 24, near=None)
    causal, mask = odd == "v", None
    if odd == "k":
        q, mask = few_parts(rng, *q.shape), rng.random((1, 76)) < 0.9
        q[..., 5], k[0, 0, 37, 5] = np.abs(q[..., 5]), -np.inf  # its score is -Inf for all
        mask[0, 37] = True
    elif odd == "v":
        v[0, 1, 75, 2] = np.inf  # only the last query sees it
    got = cuda.attention(device, q, k, v, causal=causal, key_mask=mask, scale=0.2, **EXACTLY)
    want, allowed = outputs(q, k, v, causal, mask, 0.2, 0)
    device.expect(got, want, allowed / 4, "o")
    return {f.kind for f in device.findings}


def backward_with(device, *, causal, masked, odd=None):
    """The same of the gradients, of g, q, k or v. What is not finite may be NaN or Inf."""
    a = without = exactly(4, 1, 2, 68, 76, (24, 8), causal, masked)
    if odd is None:
        a = without = low_scores(a)
    elif odd == "k":
        rng, (g, q, k, v) = np.random.default_rng(0), a.arrays
        q = few_parts(rng, *q.shape)
        q[..., 5] = np.abs(q[..., 5])
        without = ExactGradients(q, k, v, g, *a.settings.values())
        a = without.changed(2, (0, 1, 3, 5), -np.inf)  # its score is -Inf for all
    else:
        which = "gqkv".index(odd)
        a = a.changed(which, (0, 1, 75 if odd == "v" else 2, 2), np.inf)
    for array, (want, _, name), (_, allowed, _) in zip(a.run(device, 3), a.expected(), without.expected(), strict=True):
        same = ~np.isfinite(want) & ~np.isfinite(array)
        device.expect(np.where(same, 0, array), np.where(np.isfinite(want), want, 0), 2 * allowed, name)
    return {f.kind for f in device.findings}


@needs_compiler
@pytest.mark.parametrize("old, new, kind", PLANTED)
def test_a_mistake_is_found(old, new, kind):
    assert any(kind in forward_with(mistaken(FORWARD, old, new), odd=odd) for odd in (None, "v", "k"))


@needs_compiler
@pytest.mark.parametrize("old, new, kind", PLANTED_BACKWARD)
def test_a_mistake_in_the_gradients_is_found(old, new, kind):
    ways = [{"causal": True, "masked": True}, {"causal": False, "masked": False}]
    ways += [{"causal": True, "masked": False, "odd": odd} for odd in "gqkv"]
    assert any(kind in backward_with(mistaken(BACKWARD, old, new), **way) for way in ways)


def mistaken(source, old, new):
    return Mistaken(source, old, new, header=HEADERS)


@needs_compiler
def test_without_a_mistake_nothing_is_found():
    for odd in (None, "k", "v"):
        assert not forward_with(Emulator(3), odd=odd)
    for odd in (None, *"gqkv"):
        assert not backward_with(Emulator(3), causal=True, masked=odd is None, odd=odd)
    assert not backward_with(Emulator(3), causal=False, masked=False)


# --- for a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("d", [8, 40, 64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_gpu_as_the_definition(d, causal):
    device, host = launch.Device(), Emulator()
    if int(device.architecture.rstrip("a")) < 80:
        pytest.skip("bfloat16 is for sm_80 and later")
    a = exactly(d, 2, 2, 150, 170, (d, d), causal, True)
    g, q, k, v, o, log_sum = (
        device.xp.asarray(x) for x in (*a.arrays, a.o.astype(np.float32), a.log_sum.astype(np.float32))
    )
    how = {**a.settings, "key_mask": device.xp.asarray(a.settings["key_mask"]), **EXACTLY}
    got = cuda.attention(device, q, k, v, **how).get()
    host.expect(got, *outputs(*a.arrays[1:], *a.settings.values(), 0), "o")
    gradients = cuda_backward.attention_backward(device, g, q, k, v, o, log_sum, **how)
    for array, expected in zip(gradients, a.expected(), strict=True):
        host.expect(array.get(), *expected)
    host.check()
