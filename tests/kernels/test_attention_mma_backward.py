"""Rung 3 of attention's gradients, emulated: one function for dq and for dk and dv, on tensor cores with bfloat16."""

import numpy as np
import pytest
from attending import Gradients, low_scores, nan_and_inf_in_gradients, operands, problem
from emulation import Mistaken, emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.attention import cuda, cuda_backward
from kernels.compare import bound
from kernels.emulator import Emulator
from kernels.launch import compile_for

SOURCE = cuda_backward.HERE / cuda_backward.RUNGS[3]


def run(a, seed=0):
    device = Emulator(seed)
    got = a.run(device, 3)
    for array, expected in zip(got, a.expected(), strict=True):
        device.expect(array, *expected)
    device.check()
    return got


@needs_compiler
@settings(max_examples=15)
@given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    t_q=st.sampled_from([1, 15, 31, 32, 33, 63, 64, 65]),
    t_k=st.sampled_from([0, 1, 31, 33, 64, 65, 77]),
    sizes=st.sampled_from([(8, 8), (24, 40)]),  # each is compiled on its own
    causal=st.booleans(),
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 5.0]),
    scale=st.sampled_from([0.3, -0.2, 0.0]),
    seed=st.integers(0, 2**32 - 2),
)
def test_the_gradients(n, heads, t_q, t_k, sizes, causal, masked, spread, scale, seed):
    a = problem(seed, n, heads, t_q, t_k, sizes, causal, masked, spread, scale)

    def run(device):
        got = a.run(device, 3)
        assert not device.bank_conflicts
        return got

    emulated(run, seed, a.expected())


@needs_compiler
@pytest.mark.parametrize("sizes", [(128, 128), (136, 72), (8, 256)])  # both tile sizes; halves that are not alike
def test_large_heads(sizes):
    run(problem(sizes[0], 1, 1, 70, 50, sizes, True, True))


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 6, 35])
def test_nan_and_inf_reach_the_gradients_that_they_reach_in_the_definition(value, where):
    nan_and_inf_in_gradients(38, 36, where, value, rung=3)


@needs_compiler
def test_rows_that_fill_up_a_tile_weigh_nothing():
    for causal in (False, True):
        run(low_scores(problem(0, 1, 1, 33, 35, (24, 8), causal, False)))


@needs_compiler
def test_who_sees_nothing_has_no_gradients():
    mask = np.array([[True, True, True], [False, False, False]])
    _, q, k, v = operands(0, 2, 1, 5, 3, 8, 8)
    dq, dk, dv = run(Gradients(q, k, v, q, True, mask, 0.4))  # queries 0 and 1 of the first sample see no key either
    assert not dq[0, :, :2].any() and not dq[1].any() and not dk[1].any() and not dv[1].any() and dv[0].any()


@needs_compiler
@pytest.mark.parametrize("rung", [3, 4])
def test_from_the_forward_pass_to_the_gradients(rung):
    """Products of bfloat16 forward and backward: the gradients of the definition but for the roundings of p and ds."""
    a = problem(5, 1, 2, 40, 77, (16, 16), True, True)
    g, q, k, v = (bfloat16.to_bits(x) for x in a.arrays)
    device = Emulator()
    o, log_sum = cuda.attention_forward(device, q, k, v, **a.settings, rung=rung)
    got = cuda_backward.attention_backward(device, g, q, k, v, o, log_sum, **a.settings, rung=3)
    # o is off by 2^-8 of what it sums up; that goes into D, and with p into ds. L is off as a float is.
    wide_g, _, wide_k, wide_v = (np.where(np.isfinite(x), np.abs(x), 0) for x in a.wide)
    off = 2**-8 * np.abs(wide_g).sum(axis=3).max() * wide_v.max() + bound(100, 20, np.float32)
    more = a.settings["scale"] * off * max(np.abs(a.arrays[1]).sum(axis=2).max(), wide_k.max())
    for array, (want, allowed, name) in zip(got, a.expected(), strict=True):
        device.expect(array, want, allowed + (more if name != "dv" else bound(100, 20, np.float32)), name)
    device.check()


@needs_compiler
def test_sizes_that_it_does_not_take_and_empty_arrays():
    a = problem(0, 1, 1, 3, 4, (12, 12), False, False)
    with pytest.raises(ValueError, match=r"rung 3 takes heads of 8, 16, ... 256 numbers, got d = 12 and d_v = 12"):
        a.run(Emulator(), 3)
    for t_q, t_k in ((0, 5), (5, 0)):
        dq, dk, dv = run(problem(0, 1, 2, t_q, t_k, (8, 16), True, False))
        assert dq.shape == (1, 2, t_q, 8) and dk.shape == (1, 2, t_k, 8) and dv.shape == (1, 2, t_k, 16)
        assert not dq.any() and not dk.any() and not dv.any()


@pytest.mark.gpu
@pytest.mark.parametrize("d", [8, 40, 128, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_gpu_as_the_definition(d, causal):
    device = launch.Device()
    a = problem(d, 2, 2, 150, 170, (d, d), causal, True)
    there = [device.xp.asarray(x) for x in (*a.arrays, a.o.astype(np.float32), a.log_sum.astype(np.float32))]
    how = {**a.settings, "key_mask": device.xp.asarray(a.settings["key_mask"])}
    host = Emulator()
    got = [x.get() for x in cuda_backward.attention_backward(device, *there, **how, rung=3)]
    for array, expected in zip(got, a.expected(), strict=True):
        host.expect(array, *expected)
    host.check()
    for first, second in zip(got, cuda_backward.attention_backward(device, *there, **how, rung=3), strict=True):
        assert first.tobytes() == second.get().tobytes()


PLANTED = [  # what is changed into what, and what must be found
    ("        cp_async_wait<0>();\n", "", "missing wait"),
    ("        cp_async_commit();\n        const", "        const", "missing wait"),
    ("        __syncthreads();  // the tile is there for all, and all are done with the tile before\n", "", "race"),
    ("lane / 16 * 8 + lane % 8) * ROW", "lane % 16) * ROW", "wrong value"),  # another matrix's order of lanes
    ("ldmatrix_trans(b, rows + m * 16", "ldmatrix(b, rows + m * 16", "wrong value"),
    ("#define PITCH (DEPTH + 8)", "#define PITCH (DEPTH + 4)", "misaligned"),
    ("- 1.4426950408889634f * base", "- base", "wrong value"),
    ("dp = s * (dp - (", "dp = s * (dp + (", "wrong value"),
    ("min(t_k, first_own + ROWS + ahead)", "min(t_k, first_own + ahead)", "wrong value"),
    ("max(0, first_own - ahead)", "max(0, first_own - ahead + STEP)", "wrong value"),
    ("(FOR_KEYS && any_odd_in<DEPTH_V, PITCH_V>(tile_b))", "false", "wrong value"),
    ("const bool* const hidden = FOR_KEYS ? nullptr : mask;", "const bool* const hidden = nullptr;", "wrong value"),
    ("const bool seen = !FOR_KEYS || !mask || mask[row[h]];", "const bool seen = true;", "wrong value"),
    ("if (row[h] >= own_rows) continue;", "if (row[h] > own_rows) continue;", "race"),
    ("(other < t_q ? log_sum[other] : 0.0f)", "(log_sum[other])", "out of range"),
    ("!mask && first + STEP <= other_rows;", "!mask;", "wrong value"),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("old, new, kind", PLANTED)
def test_a_mistake_is_found(old, new, kind):
    found = []
    for causal, masked in ((True, True), (False, False)):
        a = problem(4, 1, 2, 100, 139, (24, 8), causal, masked)
        if causal:  # only the last keys do not see it
            a = a.changed(0, (0, 1, 0), np.nan)
        else:
            a = low_scores(a)
        device = Mistaken(SOURCE, old, new)
        for array, expected in zip(a.run(device, 3), a.expected(), strict=True):
            device.expect(array, *expected)
        found += device.findings
    assert kind in {f.kind for f in found}, [str(f) for f in found]


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["80", "90a", "120"])
@pytest.mark.parametrize("d", [40, 128, 256])
def test_every_head_size_compiles_without_spills(architecture, d):
    for r in compile_for(SOURCE, architecture, {"D": d, "D_V": d}).resources().values():
        assert r.registers <= 255 and r.local_bytes == r.spill_bytes == 0
