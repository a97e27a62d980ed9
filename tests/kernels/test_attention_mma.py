"""Rung 3 of attention, emulated: tensor cores on bfloat16, copies that run meanwhile."""

from pathlib import Path

import numpy as np
import pytest
from attending import attend as attend_on
from attending import attend_where_scores_are_minus_infinity, hide, operands, outputs
from emulation import Mistaken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.attention import cuda
from kernels.emulator import Emulator
from kernels.launch import compile_for
from kernels.source import ROOT

SOURCE, HEADER = Path(cuda.__file__).parent / cuda.RUNGS[3], "attention/rows.cuh"


def attend(q, k, v, causal, mask, scale, seeds):
    return attend_on(q, k, v, causal, mask, scale, seeds, rung=3)


@needs_compiler
@settings(max_examples=12)
@given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    t_q=st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65]),
    t_k=st.sampled_from([0, 1, 15, 63, 64, 65, 77, 129]),
    sizes=st.sampled_from([(8, 8), (24, 40)]),  # each is compiled on its own
    causal=st.booleans(),
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 10.0]),
    scale=st.sampled_from([0.3, -0.2, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
@example(1, 1, 16, 64, (8, 8), True, False, 1.0, 0.3, 0)  # the diagonal cuts a whole tile
@example(1, 1, 64, 65, (8, 8), True, False, 1.0, 0.3, 0)  # the last query alone sees the last tile
def test_attention(n, heads, t_q, t_k, sizes, causal, masked, spread, scale, seed):
    rng, q, k, v = operands(seed, n, heads, t_q, t_k, *sizes, spread)
    mask = hide(k, v, rng.random((n, t_k)) < 0.6) if masked else None
    attend(q, k, v, causal, mask, scale, (seed, seed + 1))


@needs_compiler
@pytest.mark.parametrize("d", [128, 136, 256])  # one of the two tile sizes, and the other
def test_large_heads(d):
    _, q, k, v = operands(d, 1, 1, 5, 70, d, d)
    attend(q, k, v, True, None, d**-0.5, (0,))


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 6, 19])
@pytest.mark.parametrize("before", [0, 64])  # keys that all see: a tile
def test_nan_and_inf_reach_whoever_sees_them_and_nobody_else(before, value, where):
    for which in range(3):
        lengths = 20, before + 20, before + 20
        arrays = [
            np.random.default_rng(i).standard_normal((1, 1, t, 8)).astype(np.float32) for i, t in enumerate(lengths)
        ]
        arrays[which][0, 0, where - 20, 2 + before % 3] = value
        attend(*arrays, True, None, 0.3, (5,))


@needs_compiler
@pytest.mark.parametrize("rung", [3, 4])
def test_the_only_key_may_be_any(rung):
    _, q, k, v = operands(0, 8, 1, 1, 8, 8, 8)
    attend_on(q, k, v, False, np.eye(8, dtype=bool), 0.3, (0,), rung=rung)


@needs_compiler
def test_scores_of_minus_infinity():
    attend_where_scores_are_minus_infinity(rung=3)


@needs_compiler
def test_bits_or_numbers_and_which_heads():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 9, 16)).astype(np.float32) for _ in range(3))
    settings = {"causal": False, "key_mask": None, "scale": 0.25, "rung": 3}
    one = cuda.attention(Emulator(), q, k, v, **settings)
    two = cuda.attention(Emulator(), *(bfloat16.to_bits(x) for x in (q, k, v)), **settings)
    np.testing.assert_array_equal(one, two)
    for d in (12, 264):
        with pytest.raises(
            ValueError, match=rf"rung 3 takes heads of 8, 16, ... 256 numbers, got d = {d} and d_v = {d}"
        ):
            cuda.attention(Emulator(), *(np.ones((1, 1, 3, d), "f") for _ in range(3)), **settings)
    assert cuda.attention(Emulator(), q[:, :, :0], k, v, **settings).shape == (1, 2, 0, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("d", [8, 40, 128, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_gpu_as_in_the_emulator(d, causal):
    device = launch.Device()
    rng, q, k, v = operands(d, 2, 2, 70, 150, d, d)
    mask, scale = rng.random((2, 150)) < 0.7, d**-0.5
    there = [device.xp.asarray(x) for x in (q, k, v)]
    got = cuda.attention(device, *there, causal=causal, key_mask=device.xp.asarray(mask), scale=scale, rung=3).get()
    host = Emulator()
    host.expect(got, *outputs(q, k, v, causal, mask, scale), "o")
    host.check()


PLANTED = [  # what is changed into what, and what must be found
    ("        cp_async_wait<0>();\n", "", "missing wait"),
    ("        cp_async_commit();\n        const", "        const", "missing wait"),
    ("        __syncthreads();  // the tile is there for all, and all are done with the tile before\n", "", "race"),
    ("n * 8 + lane / 16 * 8 + lane % 8", "n * 8 + lane % 16", "wrong value"),  # another matrix's order of lanes
    ("ldmatrix_trans(b", "ldmatrix(b", "wrong value"),
    ("#define PITCH (DEPTH + 8)", "#define PITCH (DEPTH + 4)", "misaligned"),
    ("total[h] *= correction;", "", "wrong value"),
    ("const bool whole = !cut && !mask && first + KEYS <= t_k;", "const bool whole = !cut && !mask;", "wrong value"),
    ("if (cut && any_odd(values, lane)) {", "if (false) {", "wrong value"),
    ("if (i[h] >= t_q) continue;", "if (i[h] > t_q) continue;", "race"),
    ("column < WIDTH && ", "", "out of range"),
]


@needs_compiler
@pytest.mark.parametrize("old, new, kind", PLANTED)
def test_a_mistake_is_found(old, new, kind):
    assert (SOURCE.read_text() + (ROOT / HEADER).read_text()).count(old) == 1
    _, q, k, v = operands(0, 1, 2, 66, 140, 24, 24)
    v[0, 1, 139] = np.nan  # only the last query sees it
    found = []
    for causal in (True, False):
        device = Mistaken(SOURCE, old, new, header=HEADER)
        got = cuda.attention(device, q, k, v, causal=causal, key_mask=None, scale=0.5, rung=3)
        device.expect(got, *outputs(q, k, v, causal, None, 0.5), "o")
        found += device.findings
    assert kind in {f.kind for f in found}, found
    assert all(f.where.startswith(SOURCE.name) or f.where == "o" for f in found), [
        str(f) for f in found if ":" not in f.where or "3_mma" not in f.where
    ]


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["80", "90a", "120"])
@pytest.mark.parametrize("d, keys", [(40, 64), (128, 64), (256, 32)])
def test_every_head_size_compiles_without_spills(architecture, d, keys):
    (resources,) = compile_for(SOURCE, architecture, {"D": d, "D_V": d, "KEYS": keys}).resources().values()
    assert resources.registers <= 255 and resources.local_bytes == resources.spill_bytes == 0
