"""The cross-entropy in CUDA, emulated: the definition's values, NaN and infinity, planted mistakes."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import emulated, instructions, kinds, loads_at_once, needs_compiler, needs_nvrtc, plant

from kernels.compare import assert_close, bound
from kernels.cross_entropy import cross_entropy_backward, cross_entropy_forward, cuda, reference
from kernels.device import running_on
from kernels.emulator import Emulator

pytestmark = needs_compiler
rungs = pytest.mark.parametrize("rung", cuda.RUNGS)


def problem(seed, m, k, scale=3.0, offset=0.0):
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((m, k)) + offset).astype(np.float32)
    return rng.standard_normal(m).astype(np.float32), x, rng.integers(0, k, m)


def check(rung, g, x, targets, seed=0):
    loss, dx = emulated(lambda device: cuda.loss_and_gradient(device, g, x, targets, rung=rung), seed)
    check_values(loss, dx, g, x, targets, 2 if rung == 1 else 1)  # an online sum is rescaled on its way
    return loss, dx


def check_values(loss, dx, g, x, targets, factor):
    """exp(x - largest) is off by u |x - largest| of itself, so its terms carry that factor."""
    wide, g8, k = x.astype(np.float64), g.astype(np.float64), x.shape[1]
    with np.errstate(all="ignore"):
        log_p = reference._log_softmax(wide)
        p = np.exp(log_p)
        depth = np.where(p > 0, np.where(np.isfinite(log_p), np.abs(log_p), 0) + 3, 1)
        spread = np.nan_to_num((p * depth).sum(1))
        want = reference.cross_entropy(wide, targets)
        grad = reference.cross_entropy_backward(g8, wide, targets)
        size = np.abs(g8[:, None]) * (p * (depth + spread[:, None]) + (np.arange(k) == targets[:, None]))
    size, known = np.nan_to_num(size), np.nan_to_num(np.abs(want), posinf=0)
    assert_close(loss, want, bound(factor * k, spread + known + math.log(k) + 1, np.float32), "loss")
    assert_close(dx, grad, bound(factor * k, size, np.float32), "dlogits")


@rungs
@settings(max_examples=12)
@given(
    m=st.sampled_from([1, 2, 5]),
    k=st.sampled_from([1, 2, 31, 32, 33, 257, 600]),
    scale=st.sampled_from([0.0, 1.0, 10.0, 1e4]),
    offset=st.sampled_from([0.0, 1e4, -1e4]),
    seed=st.integers(0, 2**32 - 1),
)
@example(2, 5000, 3.0, 0.0, 0)
@example(1, 9000, 3.0, 0.0, 0)  # as many threads as a block can have
def test_cross_entropy(rung, m, k, scale, offset, seed):
    check(rung, *problem(seed, m, k, scale, offset), seed)


@rungs
@pytest.mark.parametrize("k", [5, 300])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf(rung, k, value):
    g, x, targets = problem(1, 4, k)
    x[1, 3] = x[2] = value
    x[3, targets[3]] = value
    loss, dx = check(rung, g, x, targets)
    assert np.isnan(loss[2]) and np.isnan(dx[2]).all() and np.isfinite(loss[0])
    assert np.isfinite(loss[1]) == (value == -np.inf)


def both(device, g, x, targets):
    """The public functions' loss and gradient on a device."""
    with running_on(device):
        loss, saved = cross_entropy_forward(x, targets, backward_follows=True)
        return loss, cross_entropy_backward(g, x, targets, saved)


@settings(max_examples=12)
@given(
    m=st.sampled_from([1, 2, 3, 5]),
    k=st.sampled_from([1, 2, 31, 33, 257, 600]),
    scale=st.sampled_from([0.0, 1.0, 10.0]),
    foreseen=st.lists(st.booleans(), min_size=5, max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_gradient_that_is_computed_ahead(m, k, scale, foreseen, seed):
    """With any incoming gradient; rows whose own is 1 / m keep the bits that they have."""
    g, x, targets = problem(seed, m, k, scale)
    foreseen, mean = np.array(foreseen[:m]), np.full(m, 1 / m, np.float32)
    g[foreseen] = 1 / m
    loss, dx = emulated(lambda device: both(device, g, x, targets), seed)
    check_values(loss, dx, g, x, targets, 2)
    _, at_once = emulated(lambda device: cuda.loss_and_gradient(device, mean, x, targets, rung=2), seed)
    np.testing.assert_array_equal(dx[foreseen], at_once[foreseen])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_in_what_comes_back_to_a_gradient_computed_ahead(value):
    g, x, targets = problem(3, 4, 40)
    g[1] = x[2, 5] = value
    with np.errstate(all="ignore"):
        check_values(*emulated(lambda device: both(device, g, x, targets)), g, x, targets, 2)


def test_a_gradient_is_computed_ahead_where_a_row_fits_on_the_chip():
    for k, files in ((30, ["2_on_chip.cu"] * 2), (58_000, ["1_online.cu"] * 2)):
        device, (g, x, targets) = Emulator(), problem(0, 1, k)
        check_values(*both(device, g, x, targets), g, x, targets, 2)
        device.check()
        assert device.ran == files


@rungs
def test_no_rows(rung):
    _, dx = emulated(lambda d: cuda.loss_and_gradient(d, *problem(0, 0, 7), rung=rung))
    assert dx.shape == (0, 7)


def test_rows_that_do_not_fit_on_the_chip_take_rung_1(monkeypatch):
    seen = []
    monkeypatch.setattr(cuda, "_run", lambda device, rung, *rest: seen.append(rung))

    class Card:
        architecture = "75"
        empty, result = staticmethod(np.empty), staticmethod(lambda array, name: array)

    for k in (15_000, 17_000):
        cuda.loss_and_gradient(Card, *problem(0, 1, k), rung=2)
    cuda.loss_and_gradient(Card, *problem(0, 1, 15_000), rung=3)  # this card has no clusters
    assert seen == [2, 1, 1, 1, 1]


@pytest.mark.parametrize(("architecture", "k", "blocks"), [
    ("90a", 2, 2), ("90a", 2 * 57_856, 2), ("90a", 2 * 57_856 + 1, 4), ("90a", 128_000, 4), ("90a", 8 * 57_856, 8),
    ("90a", 8 * 57_856 + 1, 0), ("120", 128_000, 8), ("89", 5, 0),
])  # fmt: skip
def test_as_many_blocks_as_a_row_needs_share_it(architecture, k, blocks):
    class Card:
        pass

    Card.architecture = architecture
    assert cuda._blocks_of_a_row(Card, k, 3) == blocks


@pytest.mark.parametrize("k", [3, 100, 333])
@pytest.mark.parametrize("blocks", [4, 8])
def test_a_cluster_of_more_blocks(blocks, k, monkeypatch):
    """Also with parts of the row that are shorter than the others, or empty, and targets in the first and the last."""
    monkeypatch.setattr(cuda, "CLUSTERS", (blocks,))
    g, x, targets = problem(k, 3, k)
    targets[:2] = 0, k - 1
    check(3, g, x, targets)


def test_a_vocabulary_that_one_block_cannot_keep():
    g, x, targets = problem(5, 1, 128_000)
    check(3, g, x, targets)


@pytest.mark.parametrize(
    ("file", "old", "new", "kind"),
    [
        ("1_online.cu", "    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = s;\n    __syncthreads();\n", "    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = s;\n", "race"),
        ("1_online.cu", "a.total * share(a.largest, largest)", "a.total", "wrong value"),
        ("1_online.cu", "j < k; j += step) s =", "j <= k; j += step) s =", "wrong value"),
        ("2_on_chip.cu", "each(dx + row * k, k, [&]", "each(dx + row * k, k - 1, [&]", "wrong value"),
        ("2_on_chip.cu", "    __syncthreads();  // all have read the warps' largest and the target's logit\n", "", "race"),
        ("2_on_chip.cu", "j == target ? p - upper : p;", "p - upper;", "wrong value"),
        ("2_on_chip.cu", "factor = g[row] / foreseen", "factor = g[row]", "wrong value"),
        ("2_on_chip.cu", "if (g[row] == foreseen) return;", "return;", "wrong value"),
        ("3_cluster.cu", "        of_block[0] = largest;\n    }\n    cluster_sync();", "        of_block[0] = largest;\n    }\n    __syncthreads();", "absent block"),
        ("3_cluster.cu", "of_block[1] = sum;\n    cluster_sync();", "of_block[1] = sum;\n    __syncthreads();", "race"),
        ("3_cluster.cu", "    cluster_wait();  // and all others", "    // and all others", "absent block"),
        ("3_cluster.cu", "total += cluster_load(&of_block[1], rank);", "total += of_block[1];", "wrong value"),
        ("3_cluster.cu", "cluster_rank() * part,", "part,", "race"),
    ],
)  # fmt: skip
def test_a_planted_mistake_is_found(file, old, new, kind, monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda, file, old, new)
    g, x, targets = problem(2, 3, 300)

    def run(device):
        loss, dx = cuda.loss_and_gradient(device, g, x, targets, rung=int(file[0]))
        device.expect(loss, reference.cross_entropy(x.astype("f8"), targets), 1e-4)
        want = reference.cross_entropy_backward(g.astype("f8"), x.astype("f8"), targets)
        device.expect(dx, want, 1e-4)
        device.expect(both(device, g, x, targets)[1], want, 1e-4)

    assert kind in kinds(run)


# --- for a GPU --------------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize(
    ("file", "kernel", "loads"),
    [
        ("1_online.cu", "cross_entropy", 4),
        ("1_online.cu", "cross_entropy_backward", 4),
        ("2_on_chip.cu", "loss_and_gradient", 8),
        ("2_on_chip.cu", "rescale", 8),
        ("3_cluster.cu", "loss_and_gradient", 8),
    ],
)
def test_a_thread_has_many_numbers_on_their_way_from_memory(file, kernel, loads):
    """Loads of memory that the compiler has placed one after the other, without a branch or a store between them."""
    code = instructions(cuda.HERE / file, kernel, {"BLOCKS": 4} if file[0] == "3" else None)
    assert max(loads_at_once(code)) >= loads
