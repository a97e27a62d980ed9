"""The forward rungs of attention hand out each query's log-sum-exp on request, and the gradients take it from there."""

import numpy as np
import pytest
from attending import log_sums, operands
from emulation import Mistaken, emulated
from hypothesis import given, settings
from hypothesis import strategies as st
from rungs import needs_compiler

from kernels import attention
from kernels.attention import cuda, numpy_tiles, reference
from kernels.device import running_on
from kernels.emulator import Emulator

RUNGS = (1, 2, 3)
rungs = pytest.mark.parametrize("rung", RUNGS)


@needs_compiler
@rungs
@settings(max_examples=8)
@given(
    t_q=st.sampled_from([1, 15, 16, 63, 64, 65]),
    t_k=st.sampled_from([0, 1, 17, 64, 65, 77]),
    causal=st.booleans(),
    masked=st.booleans(),
    spread=st.sampled_from([1.0, 5.0]),
    scale=st.sampled_from([0.3, -0.2, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_log_sums_are_those_of_the_definition(rung, t_q, t_k, causal, masked, spread, scale, seed):
    rng, q, k, v = operands(seed, 2, 1, t_q, t_k, 8, 8, spread)
    mask = rng.random((2, t_k)) < 0.6 if masked else None
    if masked:
        k[np.broadcast_to(~mask[:, None], k.shape[:3])] = np.nan
    how = {"causal": causal, "key_mask": mask, "scale": scale, "rung": rung}
    want, allowed = log_sums(q, k, causal, mask, scale)
    o = cuda.attention(Emulator(), q, k, v, **how)
    expected = [(o, 0, "o"), (want, allowed, "L")]  # o is the same whether L is wanted or not
    emulated(lambda device: cuda.attention_forward(device, q, k, v, **how), seed, expected)


@needs_compiler
@rungs
def test_nan_and_infinite_scores(rung):
    """-inf alone makes -inf or NaN, in either case a probability of NaN as 0 / 0 in the definition; NaN and Inf make NaN."""
    for value, odd in ((np.nan, np.isnan), (np.inf, np.isnan), (-np.inf, lambda x: np.isnan(np.exp(-np.inf - x)))):
        _, q, k, v = operands(0, 1, 1, 3, 2, 8, 8)
        q[:], k[:] = 1, 1
        k[0, 0, 0, 0] = value
        how = {"causal": True, "key_mask": None, "scale": 1.0, "rung": rung}
        device = Emulator()
        with np.errstate(all="ignore"):
            _, log_sum = cuda.attention_forward(device, q, k, v, **how)
            device.check()
            assert log_sum[0, 0, 0] == -np.inf and odd(log_sum[0, 0, 1])  # the first query sees nothing
            assert log_sum[0, 0, 2] == 8 if value == -np.inf else np.isnan(log_sum[0, 0, 2])


@needs_compiler
def test_values_of_no_size_have_log_sums_too():
    _, q, k, v = operands(1, 1, 2, 3, 5, 8, 0)
    want, allowed = log_sums(q, k, False, None, 0.5)
    for rung in (1, 2):
        device = Emulator()
        o, got = cuda.attention_forward(device, q, k, v, causal=False, key_mask=None, scale=0.5, rung=rung)
        device.expect(got, want, allowed, "L")
        device.check()
        assert o.shape == (1, 2, 3, 0)


@needs_compiler
def test_what_is_saved_on_one_device_does_not_matter_on_the_other(monkeypatch):
    _, q, k, v = operands(2, 2, 1, 9, 11, 8, 8)
    with running_on(Emulator()):
        o, saved = attention.attention_forward(q, k, v)
        assert saved.shape == q.shape[:3] and attention.attention_backward(o, q, k, v, o, None)
        there = attention.attention_backward(o, q, k, v, o, saved)
        again = attention.attention_backward(o, q, k, v, o, attention.numpy_tiles.forward(
            q, k, v, causal=False, key_mask=None, scale=8**-0.5, keep=True
        )[1])  # fmt: skip
        with pytest.raises(ValueError, match=r"^saved belongs to a forward pass of other shapes$"):
            attention.attention_backward(o, q, k, v, o, saved[:1])
        monkeypatch.setattr("kernels.attention.cuda_backward.log_sums", None)  # what is saved is not computed again
        attention.attention_backward(o, q, k, v, o, saved)
        assert attention._forward(q, k, v, False, None, None, keep=False)[1] is None
    here = attention.attention_backward(o, q, k, v, o, saved)
    want = reference.backward(*(x.astype(np.float64) for x in (o, q, k, v)), causal=False, key_mask=None, scale=8**-0.5)
    for results in (there, again, here):
        for got, w in zip(results, want):
            np.testing.assert_allclose(got, w, atol=1e-5)
    assert isinstance(attention.attention_forward(q, k, v)[1], numpy_tiles.Saved)


PLANTED = [  # rung, what is changed into what
    (1, "largest + logf(sum);", "logf(sum);"),
    (2, "largest + logf(total);", "largest + logf(total + 1);"),
    (3, "* 0.6931471805599453f;", ";"),
    (3, "if (log_sum && t == 0) log_sum[pair * t_q + i[h]]", "if (log_sum && t == 0) log_sum[i[h]]"),
    (2, "    if (log_sum) log_sum[pair * t_q + i] = largest + logf(total);\n", ""),
]


@needs_compiler
@pytest.mark.parametrize("rung, old, new", PLANTED)
def test_a_mistake_is_found(rung, old, new):
    _, q, k, v = operands(3, 1, 2, 20, 35, 8, 8)
    device = Mistaken(cuda.Path(cuda.__file__).parent / cuda.RUNGS[rung], old, new)
    _, got = cuda.attention_forward(device, q, k, v, causal=True, key_mask=None, scale=0.4, rung=rung)
    device.expect(got, *log_sums(q, k, True, None, 0.4), "L")
    assert {f.kind for f in device.findings} & {"wrong value", "unwritten", "race"}
