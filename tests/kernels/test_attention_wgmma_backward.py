"""Rung 4 of attention's gradients, emulated: every tile comes once and is used twice as it lies."""

import numpy as np
import pytest
from attending import low_scores, nan_and_inf_in_gradients, problem
from emulation import Mistaken, emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import needs_compiler, needs_nvrtc

from kernels import launch
from kernels.attention import cuda, cuda_backward
from kernels.emulator import Emulator
from kernels.launch import compile_for

SOURCE = cuda_backward.HERE / cuda_backward.RUNGS[4]


def run(a, seed=0):
    return emulated(lambda device: a.run(device, 4), seed, a.expected())


@needs_compiler
@settings(max_examples=8)
@given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    t_q=st.sampled_from([1, 63, 64, 65, 127, 128, 129, 200]),
    t_k=st.sampled_from([0, 1, 63, 77, 128, 129, 200]),
    sizes=st.sampled_from([(8, 8), (72, 40)]),  # each is compiled on its own
    causal=st.booleans(),
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 5.0]),
    scale=st.sampled_from([0.3, -0.2, 0.0]),
    seed=st.integers(0, 2**32 - 2),
)
def test_the_gradients(n, heads, t_q, t_k, sizes, causal, masked, spread, scale, seed):
    run(problem(seed, n, heads, t_q, t_k, sizes, causal, masked, spread, scale), seed)


@needs_compiler
@pytest.mark.parametrize("sizes", [(128, 128), (40, 128), (136, 8)])  # the last is rung 3's
def test_large_heads(sizes):
    run(problem(sizes[0], 1, 1, 70, 150, sizes, True, True))


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 69])
def test_nan_and_inf_reach_the_gradients_that_they_reach_in_the_definition(value, where):
    nan_and_inf_in_gradients(74, 72, where, value, rung=4)


@needs_compiler
def test_rows_that_fill_up_a_tile_weigh_nothing():
    for causal in (False, True):
        run(low_scores(problem(0, 1, 1, 66, 35, (24, 8), causal, False)))


@needs_compiler
def test_rungs_3_and_4_agree_on_what_they_round():
    a = problem(1, 1, 2, 70, 90, (24, 40), True, True)
    for three, four in zip(a.run(Emulator(), 3), a.run(Emulator(1), 4), strict=True):
        np.testing.assert_allclose(three, four, rtol=0, atol=1e-2 * np.abs(three).max())


@pytest.mark.gpu
@pytest.mark.parametrize("d", [8, 40, 64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_gpu_as_the_definition(d, causal):
    device = launch.Device()
    if device.architecture != "90a":
        pytest.skip("rung 4 is for Hopper")
    a = problem(d, 2, 2, 300, 500, (d, d), causal, True)
    g, q, k, v = (device.xp.asarray(x) for x in a.arrays)
    how = {**a.settings, "key_mask": device.xp.asarray(a.settings["key_mask"])}
    kept = (device.xp.asarray(x.astype(np.float32)) for x in (a.o, a.log_sum))
    got = cuda_backward.attention_backward(device, g, q, k, v, *kept, **how, rung=4)
    host = Emulator()
    for array, expected in zip(got, a.expected(), strict=True):
        host.expect(array.get(), *expected)
    host.check()
    o, log_sum = cuda.attention_forward(device, q, k, v, **how, rung=4)
    for first, second in zip(
        cuda_backward.attention_backward(device, g, q, k, v, o, log_sum, **how, rung=4),
        cuda_backward.attention_backward(device, g, q, k, v, o, log_sum, **how, rung=4),
        strict=True,
    ):
        assert first.get().tobytes() == second.get().tobytes()


PLANTED = [  # which problem, what is changed into what, and what must be found; those in the ring are in test_ring.py
    ("plain", "            ring.wait_empty(n);\n", "", "missing wait"),
    ("plain", "        ring.wait_full(n);\n", "", "missing wait"),
    ("plain", "    if (count > 0) mbarrier_wait(full_own, 0);\n", "", "missing wait"),
    ("plain", "        wgmma_wait<0>(sum_a);\n", "", "missing wait"),
    ("mask", "            fence_proxy_async();\n", "", "missing fence"),
    ("mask", "FOR_KEYS ? 33 : clearing ? 32 : 1", "FOR_KEYS ? 33 : 1", "deadlock"),
    ("plain", "FOR_KEYS ? 33 : clearing", "FOR_KEYS ? 1 : clearing", "bad operand"),
    ("plain", "n % STAGES * 2 * STEP + STEP + at", "STEP + at", "wrong value"),
    ("plain", "(PANELS + PANELS_V) * ROWS * 128", "PANELS * ROWS * 128", "missing wait"),
    ("plain", "wgmma_bf16<true>(sum_a", "wgmma_bf16<false>(sum_a", "wrong value"),
    ("plain", "(c / 4 * GROUPS + group) * TILE", "(c / 4 * GROUPS) * TILE", "wrong value"),
    ("plain", "dp[e] = s[e] * (dp[e] - (", "dp[e] = s[e] * (dp[e] + (", "wrong value"),
    ("mask", "const bool seen = !FOR_KEYS || !mask || mask[row[h]];", "const bool seen = true;", "wrong value"),
    ("odd", "if (odd) atomicOr(&odd_rows[group], 1);", "", "wrong value"),
    ("odd", "at < (FOR_KEYS ? STAGE : PANELS * TILE) / 8", "at < PANELS * TILE / 8", "wrong value"),
    ("causal", "max(0, first_own - ahead)", "max(0, first_own - ahead + STEP)", "wrong value"),
    ("plain", "if (row[h] >= own_rows) continue;\n        const", "if (row[h] > own_rows) continue;\n        const", "race"),
    ("plain", "cut || clearing || first + STEP > other_rows", "cut || clearing", "wrong value"),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("name, old, new, kind", PLANTED)
def test_a_mistake_is_found(name, old, new, kind):
    causal = name in ("causal", "odd")
    a = problem(4, 1, 2, *((70, 80) if name == "odd" else (230, 260)), (24, 8), causal, name == "mask")
    if name == "odd":  # only the last keys do not see it
        a = a.changed(0, (0, 1, 0), np.nan)
    elif name == "plain":
        a = low_scores(a)
    device = Mistaken(SOURCE, old, new)
    for array, expected in zip(a.run(device, 4), a.expected(), strict=True):
        device.expect(array, *expected)
    assert kind in {f.kind for f in device.findings}, [str(f) for f in device.findings]


@needs_nvrtc
@pytest.mark.parametrize("d", [40, 64, 128])
def test_every_head_size_compiles_without_spills(d):
    binary = compile_for(SOURCE, "90a", {"D": d, "D_V": d})
    for r in binary.resources().values():
        assert r.registers == 168 and r.local_bytes == r.spill_bytes == 0  # 65536 / 384, for all groups
    assert "serialized" not in binary.log
