"""Rung 4 of the nearest code, emulated: rung 1's indices by two groups that go through the codebook on their own."""

from pathlib import Path

import numpy as np
import pytest
from emulation import Mistaken
from hypothesis import given, settings
from hypothesis import strategies as st
from nearest import KINDS, emulated_as_rung_1, on_a_gpu_as_rung_1, problem
from rungs import needs_compiler, needs_nvrtc

from kernels import launch, tensor_map
from kernels.emulator import Emulator
from kernels.launch import compile_for
from kernels.quantize import cuda

SOURCE = Path(cuda.__file__).parent / cuda.RUNGS[4]
SEEDS = st.integers(0, 2**32 - 1)


@needs_compiler
@settings(max_examples=20)
@given(
    kind=st.sampled_from(KINDS),
    m=st.sampled_from([1, 63, 64, 65, 127, 128, 129]),
    codes=st.sampled_from([1, 2, 127, 128, 129, 520]),  # 520: more tiles than the ring has places
    d=st.sampled_from([3, 72]),  # each is compiled on its own
    seed=SEEDS,
)
def test_the_indices_of_rung_1(kind, m, codes, d, seed):
    z, codebook = problem(kind, m, codes, d, seed)
    emulated_as_rung_1(z, codebook, 4, seed)


@needs_compiler
@pytest.mark.parametrize("d", [130, 256])
def test_large_rows_in_shorter_rings_and_larger_ones_are_refused(d):
    z, codebook = problem("trained", 70, 400, d, 0)
    emulated_as_rung_1(z, codebook, 4)
    with pytest.raises(ValueError, match="rung 4 takes rows of at most 256 numbers, got d = 257"):
        cuda.nearest_code(Emulator(), np.ones((1, 257), "f"), np.ones((2, 257), "f"), rung=4)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [3, 64, 200])
def test_on_a_gpu_as_rung_1(kind, d):
    device = launch.Device()
    if device.architecture != "90a":
        pytest.skip("rung 4 is for sm_90a")
    on_a_gpu_as_rung_1(device, kind, d, 4)


# --- mistakes ---------------------------------------------------------------------------------------------------------

RELEASE = "        ring.release(turn);\n"
LISTING = "        list_candidates(lists, mine, scores, bound, tile * CODES, codes, warps_row);\n"
PLANTED = [  # what is changed into what, what must be found; those in the ring are in test_ring.py
    (LISTING + RELEASE, RELEASE + LISTING, {"race"}),  # a tile let go of while its bounds are read
    ("    fence_proxy_async();\n", "", {"missing fence"}),
    ("    __syncthreads();\n\n    const int warps_row", "\n    const int warps_row", {"uninitialised"}),
    ("        wgmma_fence(scores);\n", "", {"missing fence"}),
    (
        "        wgmma_wait<0>(scores);\n",
        "",
        {"missing wait"},
    ),  # of NaN scores nothing is decided: all are computed again
    ("        fence_mbarrier_init();\n", "", {"missing fence"}),
    ("+ CODES * 16", "", {"deadlock"}),  # the bounds' bytes forgotten
    ("j % 64 / 8 ^ row % 8", "j % 64 / 8", {"wrong value"}),  # z without the swizzle
    ("j < DEPTH; j += 16", "j < DEPTH - 16; j += 16", {"wrong value"}),  # the tail skipped
    ("tile * CODES < codes; tile++", "(tile + 1) * CODES < codes; tile++", {"wrong value"}),
    ("rows += warps_row / 64 * 64 * 64;", "", {"wrong value"}),
    ("    __syncwarp();  // others of the warp will add to these lists\n", "", {"race"}),
]


def search_with_mistakes(device):
    z, codebook = problem("normal", 128, 700, 72, 1)
    want = cuda.nearest_code(Emulator(), z, codebook, rung=1)
    device.expect(cuda.nearest_code(device, z, codebook, rung=4), want, 0, "indices")


@needs_compiler
@pytest.mark.parametrize("old, new, kinds", PLANTED)
def test_a_mistake_is_found(old, new, kinds):
    device = Mistaken(SOURCE, old, new, header="quantize/candidates.cuh")
    search_with_mistakes(device)
    assert kinds <= {f.kind for f in device.findings}, device.findings


@needs_compiler
def test_a_wrong_swizzle_is_found(monkeypatch):
    monkeypatch.setattr(cuda, "TensorMap", lambda array, box, swizzle=0: tensor_map.TensorMap(array, box, 0))
    device = Emulator()
    search_with_mistakes(device)
    assert {f.kind for f in device.findings} == {"wrong value"}


# --- for a GPU --------------------------------------------------------------------------------------------------------


class Noting(Emulator):
    """Notes how much shared memory is asked for instead of running."""

    def run(self, *args, shared_bytes=0, **settings):
        self.asked = shared_bytes


@needs_nvrtc
@pytest.mark.parametrize("d", [8, 128, 256])
def test_it_compiles_without_spills_and_without_waiting_and_fits_on_the_chip(d):
    binary = compile_for(SOURCE, "90a", {"D": d})
    resources = binary.resources()
    assert all(r.local_bytes == r.spill_bytes == 0 for r in resources.values())
    assert "Performance Loss" not in binary.log
    device = Noting()
    cuda.nearest_code(device, np.ones((1, d), "f"), np.ones((2, d), "f"), rung=4)
    assert device.asked + resources["nearest_code"].shared_bytes <= launch.SHARED_KILOBYTES["90a"] << 10
