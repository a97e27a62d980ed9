"""Rung 3 of the nearest code, emulated: bounds that hold, and through them the indices of rung 1, always."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from emulation import Mistaken
from hypothesis import given, settings
from hypothesis import strategies as st
from nearest import KINDS, emulated_as_rung_1, on_a_gpu_as_rung_1, problem
from rungs import needs_compiler, needs_nvrtc

from kernels import bfloat16, launch
from kernels.emulator import Emulator
from kernels.launch import compile_for
from kernels.quantize import cuda

SOURCE = Path(cuda.__file__).parent / cuda.RUNGS[3]
SEEDS = st.integers(0, 2**32 - 1)


@needs_compiler
@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    m=st.sampled_from([1, 15, 17, 63, 65]),
    codes=st.sampled_from([1, 2, 63, 64, 65, 150]),
    d=st.sampled_from([3, 32]),  # each is compiled on its own
    seed=SEEDS,
)
def test_the_indices_of_rung_1(kind, m, codes, d, seed):
    z, codebook = problem(kind, m, codes, d, seed)
    for device in emulated_as_rung_1(z, codebook, 3, seed):
        assert not device.bank_conflicts


@needs_compiler
def test_large_rows_use_the_other_tile_and_larger_ones_are_refused():
    z, codebook = problem("trained", 20, 70, 200, 0)
    emulated_as_rung_1(z, codebook, 3)
    with pytest.raises(ValueError, match="rung 3 takes rows of at most 256 numbers, got d = 257"):
        cuda.nearest_code(Emulator(), np.ones((1, 257), "f"), np.ones((2, 257), "f"), rung=3)


@needs_compiler
@settings(max_examples=20)
@given(kind=st.sampled_from(["normal", "far", "halfway", "scales", "trained"]), seed=SEEDS)
def test_the_bounds_hold(kind, seed):
    """t <= U and U - 2 E <= t for all pairs, with products as a GPU makes them: of bfloat16, summed in float32."""
    d, depth = 32, 32
    z, codebook = problem(kind, 40, 50, d, seed)
    rounded, bounds = np.zeros((50, depth), np.uint16), np.zeros((50, 4), np.float32)
    arrays = {"codebook": codebook, "rounded": rounded, "bounds": bounds, "codes": 50}
    Emulator().run(SOURCE, "prepare", 13, 128, arrays, defines={"D": d, "CODES": 64})
    np.testing.assert_array_equal(rounded, bfloat16.to_bits(codebook))
    length = np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
    there = np.isfinite(bounds[:, 1]) & (length < 2.0**62)  # else there is no bound, and the distances are computed
    with np.errstate(all="ignore"):
        near = bfloat16.rounded(z)[:, None] * bfloat16.from_bits(rounded)  # exact
        sums = bounds[:, 1] + near.cumsum(axis=2, dtype=np.float32)[..., -1]
        t = z.astype(np.float64) @ codebook.T.astype(np.float64) - np.square(codebook.astype(np.float64)).sum(1) / 2
        upper = sums.astype(np.float64) + length * bounds[:, 0]
        lower = upper - 2 * (length * bounds[:, 0] + bounds[:, 2])
    assert (upper >= t)[there].all() and (lower <= t)[there].all()
    assert there.any()


@needs_compiler
def test_few_distances_are_computed():
    """Rung 3 looks at far fewer numbers: the lists hold a handful of codes."""
    z, codebook = problem("trained", 64, 512, 32, 0)
    accesses = []
    for rung in (2, 3):
        device = Emulator()
        cuda.nearest_code(device, z, codebook, rung=rung)
        accesses.append(device.accesses)
    assert accesses[1] < accesses[0] / 3


@pytest.mark.parametrize("architecture, d, rung", [
    ("90a", 0, 2), ("90a", 1, 3), ("90a", 64, 3), ("90a", 65, 4), ("90a", 256, 4), ("90a", 257, 2),
    ("80", 256, 3), ("120", 8, 3), ("75", 8, 2),
])  # fmt: skip
def test_which_rung_a_product_takes(architecture, d, rung):
    assert cuda.best_rung(SimpleNamespace(architecture=architecture), d) == rung


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [3, 64, 200])
def test_on_a_gpu_as_rung_1(kind, d):
    on_a_gpu_as_rung_1(launch.Device(), kind, d, 3)


PLANTED = [  # what is changed into what, the kind of problem, and what must be found
    ("(2 * u + u * u + g) * length", "0.2 * u * length", "halfway", "wrong value"),
    ("if (!(score(s, n, e) < rows.best[e / 2]))", "if (score(s, n, e) >= rows.best[e / 2])", "nan", "wrong value"),
    ("if (place >= LIST) continue;", "if (place > LIST) continue;", "equal codes", "out of range"),
    ("count[row] = before > LIST ? LIST + 1 : kept;", "count[row] = kept;", "equal codes", "wrong value"),
    ("a.code < b.code ? a : b", "a.code > b.code ? a : b", "equal codes", "wrong value"),
    ("0x1p-51 * D", "0", "last bits", "wrong value"),
    ("0x1p-51 * D", "0x1p-51 / D", "shuffled", "wrong value"),
    (".code == a.code ? a : b", ".code == a.code ? b : a", "last bits", "wrong value"),
    ("    __syncwarp();  // what all have added is there\n", "", "normal", "race"),
    ("    __syncwarp();  // others have read the counts\n", "", "normal", "race"),
    ("    __syncwarp();\n#pragma unroll\n", "#pragma unroll\n", "normal", "race"),
    ("        cp_async_wait<0>();\n        __syncthreads();", "        __syncthreads();", "normal", "missing wait"),
    ("        cp_async_wait<0>();\n        __syncthreads();", "        cp_async_wait<0>();", "normal", "race"),
    ("best[h] = row < m && bounded", "best[h] = bounded", "normal", "nothing"),  # only slower
]


@needs_compiler
@pytest.mark.parametrize("old, new, kind, found", PLANTED)
def test_a_mistake_is_found(old, new, kind, found):
    codes = 14 if kind in ("halfway", "last bits", "shuffled") else 150  # 14: few enough for a list
    z, codebook = problem(kind, 70, codes, 32, 1)
    want = cuda.nearest_code(Emulator(), z, codebook, rung=1)
    device = Mistaken(SOURCE, old, new, header="quantize/candidates.cuh")
    device.expect(cuda.nearest_code(device, z, codebook, rung=3), want, 0, "indices")
    kinds = {f.kind for f in device.findings}
    assert found in kinds or (found == "nothing" and not kinds), device.findings
    assert all(f.where.startswith(SOURCE.name) or f.where == "indices" for f in device.findings), device.findings


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["80", "90a", "120"])
@pytest.mark.parametrize("d, tile", [(8, 64), (128, 64), (256, 32)])
def test_it_compiles_without_spills(architecture, d, tile):
    for resources in compile_for(SOURCE, architecture, {"D": d, "CODES": tile}).resources().values():
        assert resources.registers <= 255 and resources.local_bytes == resources.spill_bytes == 0
