"""Rung 4 of attention, emulated: tiles that come by themselves, products of warp groups, two groups that take turns."""

from pathlib import Path

import numpy as np
import pytest
from attending import attend, attend_where_scores_are_minus_infinity, hide, log_sums, operands, outputs
from emulation import Mistaken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.attention import cuda
from kernels.emulator import Emulator
from kernels.launch import compile_for

SOURCE = Path(cuda.__file__).parent / cuda.RUNGS[4]


@needs_compiler
@settings(max_examples=12)
@given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    t_q=st.sampled_from([1, 16, 63, 64, 65, 127, 128, 129]),
    t_k=st.sampled_from([0, 1, 63, 77, 127, 128, 129, 300]),  # a tile has 128
    sizes=st.sampled_from([(8, 8), (72, 40)]),  # each is compiled on its own
    causal=st.booleans(),
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 10.0]),
    scale=st.sampled_from([0.3, -0.2, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
@example(1, 1, 64, 256, (8, 8), False, False, 1.0, 0.3, 0)  # full tiles, of which nothing is hidden from anyone
@example(1, 1, 20, 15, (8, 8), True, False, 1.0, 0.3, 0)  # of a warp's rows the first five see nothing
def test_attention(n, heads, t_q, t_k, sizes, causal, masked, spread, scale, seed):
    rng, q, k, v = operands(seed, n, heads, t_q, t_k, *sizes, spread)
    mask = hide(k, v, rng.random((n, t_k)) < 0.6) if masked else None
    attend(q, k, v, causal, mask, scale, (seed, seed + 1), rung=4)


@needs_compiler
@pytest.mark.parametrize("sizes", [(128, 64), (8, 192), (256, 256)])  # both tile sizes, all widths of v in one product
def test_large_heads(sizes):
    rng, q, k, v = operands(sizes[0], 1, 1, 70, 150, *sizes)
    mask = rng.random((1, 150)) < 0.8
    k[:, :, ~mask[0]], v[:, :, ~mask[0]] = np.inf, np.nan
    attend(q, k, v, True, mask, sizes[0] ** -0.5, (0,), rung=4)


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [6, 139])
def test_nan_and_inf_reach_whoever_sees_them_and_nobody_else(value, where):
    for which in range(3):
        arrays = list(operands(which, 1, 1, 140, 140, 16, 24)[1:])
        arrays[which][0, 0, where, 2] = value
        attend(*arrays, True, None, 0.3, (5,), rung=4)


@needs_compiler
@pytest.mark.parametrize("where", range(8))
def test_nan_in_any_column_of_values_is_seen(where):
    _, q, k, v = operands(where, 1, 1, 64, 64, 8, 8)
    v[0, 0, 40, where] = np.nan
    o = attend(q, k, v, True, None, 0.3, (0,), rung=4)
    assert np.isnan(o[0, 0, 40:, where]).all() and np.isnan(o).sum() == 24


@needs_compiler
def test_a_group_that_has_to_add_one_by_one_leaves_the_other_alone():
    """NaN at the first group's diagonal: its queries are added up again, the second group's all see it."""
    _, q, k, v = operands(0, 1, 1, 128, 128, 8, 8)
    v[0, 0, 40] = np.nan
    o = attend(q, k, v, True, None, 0.3, (0, 1), rung=4)
    assert np.isfinite(o[0, 0, :40]).all() and np.isnan(o[0, 0, 40:]).all()


@needs_compiler
def test_scores_of_minus_infinity():
    attend_where_scores_are_minus_infinity(rung=4)


@needs_compiler
def test_sizes_that_it_does_not_take_and_empty_arrays():
    how = {"causal": False, "key_mask": None, "scale": 0.25, "rung": 4}
    for d in (12, 264):
        with pytest.raises(
            ValueError, match=rf"rung 4 takes heads of 8, 16, ... 256 numbers, got d = {d} and d_v = {d}"
        ):
            cuda.attention(Emulator(), *(np.ones((1, 1, 3, d), "f") for _ in range(3)), **how)
    q, k, v = (np.ones((1, 2, 9, 16), np.float32) for _ in range(3))
    for arrays, shape in (((q[:, :, :0], k, v), (1, 2, 0, 16)), ((q, k[:, :, :0], v[:, :, :0]), (1, 2, 9, 16))):
        o, log_sum = cuda.attention_forward(Emulator(), *arrays, **how)
        assert o.shape == shape and not o.any() and (log_sum == -np.inf).all()


@needs_compiler
def test_who_needs_no_gradients_gets_the_same_numbers():
    _, q, k, v = operands(1, 1, 2, 30, 40, 16, 16)
    how = {"causal": True, "key_mask": None, "scale": 0.25, "rung": 4}
    want, _ = cuda.attention_forward(Emulator(), q, k, v, **how)
    bits = [bfloat16.to_bits(x) for x in (q, k, v)]
    for arrays in ((q, k, v), bits):
        np.testing.assert_array_equal(cuda.attention(Emulator(1), *arrays, **how), want)
    np.testing.assert_array_equal(
        bits[0], bfloat16.to_bits(q)
    )  # which a negative scale must not turn over for its owner
    cuda.attention(Emulator(), *bits, **{**how, "scale": -1.0})
    np.testing.assert_array_equal(bits[0], bfloat16.to_bits(q))


@pytest.mark.gpu
@pytest.mark.parametrize("d", [8, 40, 64, 128, 192, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_gpu_as_the_definition(d, causal):
    device = launch.Device()
    if device.architecture != "90a":
        pytest.skip("rung 4 is for Hopper")
    rng, q, k, v = operands(d, 2, 2, 300, 500, d, d)
    mask, scale = rng.random((2, 500)) < 0.7, d**-0.5
    there = [device.xp.asarray(x) for x in (q, k, v)]
    how = {"causal": causal, "scale": scale, "rung": 4}
    got = cuda.attention_forward(device, *there, key_mask=device.xp.asarray(mask), **how)
    host = Emulator()
    host.expect(got[0].get(), *outputs(q, k, v, causal, mask, scale), "o")
    host.expect(got[1].get(), *log_sums(q, k, causal, mask, scale), "L")
    host.check()


PLANTED = [  # which problem, what is changed into what, and what must be found; those in the ring are in test_ring.py
    ("plain", "            ring_v.wait_empty(tile);\n", "", "race"),  # overwritten while it is read
    ("plain", "        wgmma_wait<0>(s);\n        ring_k.release(0);", "        ring_k.release(0);\n        wgmma_wait<0>(s);", "missing wait"),
    ("plain", "ring_k.wait_full(tile);", "", "race"),
    ("mask", "            fence_proxy_async();\n", "", "missing fence"),
    ("mask", "mask ? 32 : 1", "1", "deadlock"),
    ("mask", "reinterpret_cast<unsigned*>(values + c * TILE + (first + row) * 64)[lane] = 0;", ";", "wrong value"),
    ("plain", "panels * rows * 128", "panels * rows * 64", "deadlock"),
    ("plain", "if (group == 1) named_barrier_arrive(1, 256);", "", "deadlock"),
    ("plain", "wgmma_bf16<true>(", "wgmma_bf16<false>(", "wrong value"),
    ("plain", "(c / 4 * QUERIES + 64 * group)", "(c / 4 * QUERIES)", "wrong value"),
    ("plain", "sum[n][e] *= correction[e / 2 % 2];", "sum[n][e] *= correction[e % 2];", "wrong value"),
    ("plain", " || first + KEYS > t_k", "", "wrong value"),
    ("causal", "<= i[e / 2 % 2] + ahead", "<= i[e / 2 % 2] + ahead + 1", "wrong value"),
    ("odd", "if (odd) atomicOr(&odd_values[group], 1);", "", "wrong value"),
    ("odd", "        named_barrier_sync(3 + group, 128);\n", "", "race"),
    ("plain", "if (i[h] >= t_q) continue;", "if (i[h] > t_q) continue;", "race"),
]  # fmt: skip


def problem(name):
    """q, k, v, causal and the mask, of two heads with more tiles than stages; "odd" is small, for it goes the long way."""
    rng, q, k, v = operands(0, 1, 2, 130, 150 if name == "odd" else 400, 72, 24)
    mask = hide(k, v, rng.random((1, 400)) < 0.8) if name == "mask" else None
    if name == "odd":
        v[0, 1, 149] = np.nan  # only the last query sees it
    return q, k, v, name in ("causal", "odd"), mask


@needs_compiler
@pytest.mark.parametrize("name, old, new, kind", PLANTED)
def test_a_mistake_is_found(name, old, new, kind):
    q, k, v, causal, mask = problem(name)
    device = Mistaken(SOURCE, old, new)
    o = cuda.attention(device, q, k, v, causal=causal, key_mask=mask, scale=0.1, rung=4)
    device.expect(o, *outputs(q, k, v, causal, mask, 0.1), "o")
    assert kind in {f.kind for f in device.findings}, [str(f) for f in device.findings]


@needs_compiler
@pytest.mark.parametrize("name", ["plain", "causal", "mask", "odd"])
def test_without_a_mistake_nothing_is_found(name):
    q, k, v, causal, mask = problem(name)
    attend(q, k, v, causal, mask, 0.1, (3,), rung=4)


@needs_nvrtc
@pytest.mark.parametrize("d, keys", [(40, 128), (64, 128), (128, 128), (192, 64), (256, 64)])
def test_every_head_size_compiles_without_spills(d, keys):
    binary = compile_for(SOURCE, "90a", {"D": d, "D_V": d, "KEYS": keys})
    (resources,) = binary.resources().values()
    assert (
        resources.registers == 168 and resources.local_bytes == resources.spill_bytes == 0
    )  # 65536 / 384, for all groups
    assert "serialized" not in binary.log
