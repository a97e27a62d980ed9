"""The embedding's gradient and the codebook's average in CUDA, emulated: sorting, sums, planted mistakes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rungs import emulated, instructions, kinds, loads_at_once, needs_compiler, needs_nvrtc, normal, plant

from kernels.codebook import cuda as codebook_cuda
from kernels.codebook import reference as codebook_reference
from kernels.compare import assert_close, bound
from kernels.embedding import cuda, reference

pytestmark = needs_compiler
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, m, rows, kind):
    rng = np.random.default_rng(seed)
    match kind:
        case "one row":
            indices = np.full(m, rows - 1)
        case "few rows":
            indices = rng.integers(0, min(3, rows), m) * (max(1, rows // 3))
        case _:
            indices = rng.integers(0, rows, m)
    return np.minimum(indices, rows - 1).astype(np.int32)


problems = {
    "m": st.sampled_from([1, 2, 63, 64, 65, 257, 600]),
    "rows": st.sampled_from([1, 2, 5, 256, 257, 70_000]),
    "kind": st.sampled_from(["any", "one row", "few rows"]),
    "seed": SEEDS,
}


@settings(max_examples=10)
@given(**problems)
@example(m=0, rows=3, kind="any", seed=0)
@example(m=2305, rows=256, kind="one row", seed=0)  # so many counts that a warp's part of them is no whole number
@example(m=2305, rows=256, kind="any", seed=0)
def test_the_sort_is_stable_and_knows_the_segments(m, rows, kind, seed):
    keys = drawn(seed, m, rows, kind)
    sorted_keys, order, start = emulated(lambda device: tuple(cuda.sort(device, keys, rows)), seed)
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(sorted_keys, np.sort(keys))
    np.testing.assert_array_equal(start, np.searchsorted(np.sort(keys), np.arange(rows + 1)))


@pytest.mark.parametrize("rung", cuda.RUNGS)
@settings(max_examples=10)
@given(
    m=problems["m"],
    rows=st.sampled_from([1, 2, 5, 300]),
    kind=problems["kind"],
    d=st.sampled_from([1, 3, 20]),
    seed=SEEDS,
)
@example(m=0, rows=3, kind="any", d=4, seed=0)
@example(m=5, rows=3, kind="any", d=0, seed=0)
def test_scatter_add(rung, m, rows, kind, d, seed):
    if rung == 1:
        rows, m = min(rows, 5), min(m, 257)
    indices, (g,) = drawn(seed, m, rows, kind), normal(seed, (m, d))
    (got,) = emulated(lambda device: cuda.scatter_add(device, g, indices, rows, rung=rung), seed)
    wide = g.astype(np.float64)
    most = int(np.bincount(indices, minlength=1).max())
    size = reference.scatter_add(np.abs(wide), indices, rows)
    assert_close(got, reference.scatter_add(wide, indices, rows), bound(most, size, np.float32))


def test_whole_numbers_are_added_exactly_and_nan_stays_in_its_row():
    rng = np.random.default_rng(0)
    indices, g = drawn(1, 500, 7, "any"), rng.integers(-9, 10, (500, 5)).astype(np.float32)
    for rung in cuda.RUNGS:
        (got,) = emulated(lambda device, rung=rung: cuda.scatter_add(device, g, indices, 7, rung=rung))
        np.testing.assert_array_equal(got, reference.scatter_add(g, indices, 7))
    bad = g.copy()
    bad[17, 2] = np.nan
    (got,) = emulated(lambda device: cuda.scatter_add(device, bad, indices, 7, rung=2))
    assert np.argwhere(np.isnan(got)).tolist() == [[indices[17], 2]]


# --- the codebook -----------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(n=st.sampled_from([0, 1, 64, 300]), k=st.sampled_from([1, 5, 300]), d=st.sampled_from([1, 8]), seed=SEEDS)
def test_van_den_oord_2017_eq_6_to_8(n, k, d, seed):
    rng = np.random.default_rng(seed)
    (m, e, z), codes, N = (
        normal(seed, (k, d), (k, d), (n, d)),
        drawn(seed, n, k, "any"),
        rng.random(k).astype(np.float32),
    )
    gamma = 0.97
    got = emulated(lambda device: codebook_cuda.codebook_ema(device, N, m, e, z, codes, gamma), seed)
    wide = [a.astype(np.float64) for a in (N, m, e, z)]
    want = codebook_reference.codebook_ema(*wide, codes, gamma)
    counts = np.bincount(codes, minlength=k)
    size = gamma * np.abs(wide[1]) + (1 - gamma) * reference.scatter_add(np.abs(wide[3]), codes, k)
    steps = int(counts.max()) + 4
    allowed_e = bound(steps, np.where(counts[:, None] > 0, 2 * size / want[0][:, None], 0), np.float32)
    for name, a, b, error in zip(
        "Nme", got, want, (bound(4, want[0], np.float32), bound(steps, size, np.float32), allowed_e)
    ):
        assert_close(a, b, error, name)
    unused = counts == 0
    np.testing.assert_array_equal(got[2][unused], e[unused])


# --- planted mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "kind"),
    [
        ("1_gather.cu", "if (at >= count) return;", "if (at > count) return;", "out of range"),
        ("2_sorted.cu", "    digits[thread] = digit;\n    __syncthreads();\n", "    digits[thread] = digit;\n", "race"),
        ("2_sorted.cu", "    if (lane == 0) sums[warp] = sum;\n    __syncthreads();", "    if (lane == 0) sums[warp] = sum;", "race"),
        ("2_sorted.cu", "t < thread; t++) before", "t <= thread; t++) before", "unwritten"),
        ("2_sorted.cu", "load_four(tail, ", "load_four(head, ", "wrong value"),
        ("2_sorted.cu", "    if (begin == end) store_four(y, row * d + j, left, {{0, 0, 0, 0}});\n", "", "unwritten"),
        ("2_sorted.cu", "begin > 0 ? keys[-1] : -1", "-1", "wrong value"),
        ("2_sorted.cu", "begin + count < m ? keys[count] : -1", "keys[count]", "out of range"),
        ("2_sorted.cu", "                sum = 0;\n", "", "wrong value"),
    ],
)  # fmt: skip
def test_a_planted_mistake_is_found(file, old, new, kind, monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, cuda, file, old, new)
    m = 40 if "digits" in old else 1100 if "warp" in old else 300  # the first has a finding for every pair of threads
    (g,), indices = normal(2, (m, 3)), np.minimum(drawn(2, m, 3, "any"), 1)

    def run(device):
        got = cuda.scatter_add(device, g, indices, 3, rung=int(file[0]))
        device.expect(got, reference.scatter_add(g.astype("f8"), indices, 3), 1e-4)

    assert kind in kinds(run)


# --- for a GPU --------------------------------------------------------------------------------------------------------


@needs_nvrtc
def test_a_thread_asks_for_eight_numbers_before_it_looks_where_a_segment_ends():
    """Each of them takes three loads: its key, its place, itself."""
    code = instructions(cuda.HERE / "2_sorted.cu", "tile_sums")
    assert loads_at_once(code.split("S")[0])[-1] >= 3 * 8


@needs_nvrtc
def test_rows_that_nobody_named_are_cleared_by_16_bytes():
    assert "X" in instructions(cuda.HERE / "2_sorted.cu", "join")
