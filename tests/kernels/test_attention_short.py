"""Attention to few keys, emulated: keys and values stay on the chip, all scores of a query are there at once."""

from pathlib import Path

import numpy as np
import pytest
from attending import float32_error, hide, log_sums, operands, outputs
from emulation import Mistaken, emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.attention import cuda
from kernels.emulator import Emulator
from kernels.launch import compile_for

rungs = pytest.mark.parametrize("rung", cuda.SHORT)


def source(rung):
    return Path(cuda.__file__).parent / cuda.SHORT[rung]


def expected(q, k, v, mask, scale, rung):
    """[(want, allowed error, name)] of o and L; rung 2 rounds no weight to bfloat16."""
    want, allowed = outputs(q, k, v, False, mask, scale)
    both = [(want, float32_error(q, k, v, scale) if rung == 2 else allowed, "o")]
    if np.isfinite(q).all() and (mask is not None or np.isfinite(k).all()):
        both.append((*log_sums(q, k, False, mask, scale), "L"))
    return both


def attend(q, k, v, mask, scale, rung, seed=0):
    both = expected(q, k, v, mask, scale, rung)

    def run(device):
        o, log_sum = cuda.short_forward(device, q, k, v, key_mask=mask, scale=scale, rung=rung)
        assert not device.bank_conflicts
        return (o, log_sum)[: len(both)]

    return emulated(run, seed, both)[0]


@needs_compiler
@rungs
@settings(max_examples=12)
@given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    t_q=st.sampled_from([1, 15, 16, 17, 63, 64, 65, 130]),
    t_k=st.sampled_from([1, 65, 77, 80]),  # two numbers of keys to compile for, 16 and 80
    sizes=st.sampled_from([(8, 8), (24, 40)]),  # each is compiled on its own
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 10.0]),
    scale=st.sampled_from([0.3, -0.2, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_to_few_keys(rung, n, heads, t_q, t_k, sizes, masked, spread, scale, seed):
    rng, q, k, v = operands(seed, n, heads, t_q, t_k, *sizes, spread)
    mask = hide(k, v, rng.random((n, t_k)) < 0.6) if masked else None
    attend(q, k, v, mask, scale, rung, seed)


@needs_compiler
@pytest.mark.parametrize("rung, sizes", [(2, (5, 3)), (2, (72, 130)), (3, (136, 72)), (3, (64, 256))])
def test_other_heads(rung, sizes):
    _, q, k, v = operands(1, 1, 1, 70, 128, *sizes)
    attend(q, k, v, None, sizes[0] ** -0.5, rung)


@needs_compiler
@rungs
def test_a_block_with_many_queries(rung, monkeypatch):
    _, q, k, v = operands(0, 1, 2, 520, 3, 8, 8)
    want = attend(q, k, v, None, 0.3, rung)
    monkeypatch.setattr(cuda, "BUSY", 4)  # 18 blocks of 64 queries become 6 of 256, 10 of 128 become 6 of 256
    np.testing.assert_array_equal(attend(q, k, v, None, 0.3, rung), want)


@needs_compiler
@pytest.mark.parametrize("d", [8, 40, 64])
def test_the_output_is_rounded_if_asked_for(d):
    _, q, k, v = operands(0, 1, 2, 37, 19, d, d)
    how = {"key_mask": None, "scale": 0.3}
    device = Emulator()
    o, log_sum = cuda.short_forward(device, q, k, v, **how, rung=3, rounded=True)
    want, log_sums = cuda.short_forward(device, q, k, v, **how, rung=3)
    device.check()
    np.testing.assert_array_equal(o, bfloat16.to_bits(want))
    np.testing.assert_array_equal(log_sum, log_sums)
    with pytest.raises(ValueError, match=r"^2_short.cu computes in float32 alone$"):
        cuda.short_forward(device, q, k, v, **how, rung=2, rounded=True)


@needs_compiler
def test_rung_2_multiplies_float32_numbers_as_they_are():
    rng = np.random.default_rng(0)
    attend(*(rng.standard_normal((1, 1, t, 8)).astype(np.float32) for t in (20, 30, 30)), None, 0.3, 2)


@needs_compiler
@rungs
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_come_out_where_the_definition_has_them(rung, value):
    for which in range(3):
        for where in (0, 16):
            arrays = list(operands(which, 1, 1, 20, 17, 8, 8)[1:])
            arrays[which][0, 0, where, 2] = value
            attend(*arrays, None, 0.3, rung, 5)


@needs_compiler
@rungs
def test_who_sees_nothing_gets_0(rung):
    _, q, k, v = operands(0, 2, 1, 3, 5, 8, 8)
    mask = np.array([[True] * 5, [False] * 5])
    o = attend(q, k, v, mask, 0.3, rung)
    assert o[0].all() and not o[1].any()


@needs_compiler
def test_which_path_is_taken():
    class Named(Emulator):
        def run(self, file, *args, **how):
            super().run(file, *args, **how)
            self.file = file.name

    def path(t_k, d=8, architecture=None, **how):
        device = Named()
        if architecture:
            device.architecture = architecture
        _, q, k, v = operands(0, 1, 1, 3, t_k, d, d)
        how = {"causal": False, "key_mask": None, "scale": 0.3, **how}
        o, log_sum = cuda.best(device, q, k, v, **how)
        host = Emulator()
        host.expect(o, *outputs(q, k, v, how["causal"], None, 0.3), "o")
        host.expect(log_sum, *log_sums(q, k, how["causal"], None, 0.3), "L")
        host.check()
        device.check()
        return device.file

    assert path(77) == path(128) == "2_short.cu" and path(129) == "2_online_softmax.cu"
    assert path(77, causal=True) == "2_online_softmax.cu"
    assert path(0) == "2_online_softmax.cu"
    assert path(128, d=256) == "2_online_softmax.cu"  # 267 KiB: no chip has room
    assert path(77, precision="bf16") == "3_short.cu" and path(129, precision="bf16") == "4_wgmma.cu"
    assert path(129, precision="bf16", architecture="80") == "3_mma.cu"
    assert path(128, d=256, precision="bf16", architecture="86") == "3_mma.cu"
    with pytest.raises(ValueError, match=r"^3_short.cu takes 1 to 128 keys, got 129$"):
        _, q, k, v = operands(0, 1, 1, 3, 129, 8, 8)
        cuda.short_forward(Emulator(), q, k, v, key_mask=None, scale=1.0, rung=3)


@pytest.mark.gpu
@rungs
@pytest.mark.parametrize("d", [8, 40, 64, 128])
def test_on_a_gpu_as_the_definition(rung, d):
    device = launch.Device()
    rng, q, k, v = operands(d, 2, 8, 300, 77, d, d)
    mask = rng.random((2, 77)) < 0.7
    there = [device.xp.asarray(x) for x in (q, k, v, mask)]
    got = cuda.short_forward(device, *there[:3], key_mask=there[3], scale=d**-0.5, rung=rung)
    host = Emulator()
    for array, one in zip(got, expected(q, k, v, mask, d**-0.5, rung), strict=True):
        host.expect(array.get(), *one)
    host.check()


PLANTED = [  # what is changed into what, and what must be found
    (3, "    cp_async_wait<0>();\n", "", "missing wait"),
    (3, "    __syncthreads();  // keys and values are there for all\n", "", "race"),
    (3, "lane / 16 * 8 + lane % 8) * PITCH", "lane % 16) * PITCH", "wrong value"),
    (3, "row < end && column < D ?", "column < D ?", "out of range"),
    (3, "load(query + 16 * WARPS);", "load(query + 16);", "wrong value"),
    (3, "if (row < end && at < D_V)", "if (at < D_V)", "race"),
    (3, "column = 32 * c + 8 * t;", "column = 32 * c + 8 * (t ^ 1);", "wrong value"),
    (3, "pair % 4 * 4 + pair / 4 % 4", "pair % 16", "wrong value"),
    (3, "(values, v + pair * t_k * D_V, t_k, mask)", "(values, v + pair * t_k * D_V, t_k, nullptr)", "wrong value"),
    (2, "    __syncthreads();  // keys and values are there for all\n", "", "race"),
    (2, "        __syncwarp();  // all are done with the weights before\n", "", "race"),
    (2, "        __syncwarp();  // the queries are there\n", "", "race"),
    (2, "        __syncwarp();  // all are done with the queries\n", "", "race"),
    (2, "        __syncwarp();  // the weights are there\n", "", "race"),
    (2, "if (row < end) store_four", "store_four", "race"),
    (2, "EACH(bit, 4) total", "EACH(bit, 3) total", "wrong value"),
    (2, "r < rows && c < WIDTH", "c < WIDTH", "out of range"),
    (2, "16 * j + x < t_k && (", "(", "out of range"),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("rung, old, new, kind", PLANTED)
def test_a_mistake_is_found(rung, old, new, kind, monkeypatch):
    monkeypatch.setattr(cuda, "BUSY", 2)  # a block goes along 128 queries, 256 of rung 3
    rng, q, k, v = operands(3, 2, 1, 100 if rung == 2 else 150, 77, 24, 8)
    mask = rng.random((2, 77)) < 0.7
    k[~mask[:, None]], v[~mask[:, None]] = np.nan, np.nan
    device = Mistaken(source(rung), old, new)
    o, log_sum = cuda.short_forward(device, q, k, v, key_mask=mask, scale=0.2, rung=rung)
    for array, one in zip((o, log_sum), expected(q, k, v, mask, 0.2, rung), strict=True):
        device.expect(array, *one)
    assert kind in {f.kind for f in device.findings}, [str(f) for f in device.findings]


@needs_nvrtc
@rungs
@pytest.mark.parametrize("architecture", ["80", "90a", "120"])
@pytest.mark.parametrize("d, keys", [(40, 80), (64, 128), (128, 80), (256, 80)])
def test_every_size_compiles_without_spills(rung, architecture, d, keys):
    (r,) = compile_for(source(rung), architecture, {"D": d, "D_V": d, "KEYS": keys}).resources().values()
    assert r.registers <= 255 and r.local_bytes == r.spill_bytes == 0
