"""How many blocks a multiprocessor holds: worked examples, NVIDIA's calculator, and what the kernels' grids count on."""

import ctypes
import importlib.util
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rungs import needs_compiler, needs_nvrtc

from kernels import bench
from kernels.gpu_bench import occupancy
from kernels.gpu_bench.occupancy import MULTIPROCESSOR, Held, held
from kernels.gpu_bench.problem import Launch, Problem, Rehearsal, reserved
from kernels.launch import ARCHITECTURES, SHARED_KILOBYTES, Resources, compile_for
from kernels.matmul import cuda as matmul


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "architecture", "found"),
    [
        (32, 256, 0, "90a", Held(8, 64, "warps")),
        (33, 256, 0, "90a", Held(6, 48, "registers")),  # 1,280 a warp, 12 warps in a quarter: 48 of 8
        (255, 256, 0, "90a", Held(1, 8, "registers")),  # 8,192 a warp, 2 in a quarter
        (255, 96, 0, "90a", Held(2, 6, "registers")),
        (168, 384, 0, "90a", Held(1, 12, "registers")),
        (32, 128, 113 * 1024, "90a", Held(2, 8, "shared memory")),  # and a kilobyte of the driver's each: 228
        (32, 128, 113 * 1024 + 1, "90a", Held(1, 4, "shared memory")),
        (32, 128, 32 * 1024, "75", Held(2, 8, "shared memory")),  # none of the driver's
        (32, 128, 48 * 1024, "120", Held(2, 8, "shared memory")),
        (16, 32, 0, "90a", Held(32, 32, "blocks")),
        (16, 33, 0, "86", Held(16, 32, "blocks")),
        (16, 1024, 0, "86", Held(1, 32, "warps")),
        (16, 32, 0, "75", Held(16, 16, "blocks")),
        (16, 32, 0, "80", Held(32, 32, "blocks")),
        (16, 32, 0, "87", Held(16, 16, "blocks")),
        (16, 32, 0, "89", Held(24, 24, "blocks")),
        (16, 32, 0, "110", Held(24, 24, "blocks")),
        (16, 32, 0, "121", Held(24, 24, "blocks")),
        (16, 512, 0, "75", Held(2, 32, "warps")),
        (16, 512, 0, "80", Held(4, 64, "warps")),
        *((16, 512, 0, a, Held(3, 48, "warps")) for a in ("86", "87", "89", "110", "120", "121")),
        (16, 32, 81 * 1024, "80", Held(2, 2, "shared memory")),
    ],
)
def test_worked_examples(registers, threads, shared, architecture, found):
    assert held(registers, threads, shared, architecture) == found


def test_all_architectures_have_their_sizes():
    assert MULTIPROCESSOR.keys() == set(ARCHITECTURES)
    for name, of in MULTIPROCESSOR.items():  # a block may ask for all of it but the driver's kilobyte
        assert SHARED_KILOBYTES.get(name, 99) == of.shared_kilobytes - (name != "75")


CALCULATOR = """
#include <cuda_occupancy.h>
extern "C" int blocks(int major, int minor, int warps, int kilobytes, int optin, int registers, int threads, int shared) {
    cudaOccDeviceProp card;
    card.computeMajor = major, card.computeMinor = minor;
    card.maxThreadsPerBlock = 1024, card.maxThreadsPerMultiprocessor = 32 * warps, card.warpSize = 32;
    card.regsPerBlock = card.regsPerMultiprocessor = 65536, card.numSms = 132;
    card.sharedMemPerBlock = 48 << 10, card.sharedMemPerMultiprocessor = kilobytes << 10;
    card.sharedMemPerBlockOptin = optin << 10, card.reservedSharedMemPerBlock = major < 8 ? 0 : 1024;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.sharedSizeBytes = 0;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF, kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = shared, kernel.numBlockBarriers = 1;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult found;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&found, &card, &kernel, &state, threads, shared)) return -1;
    return found.activeBlocksPerMultiprocessor;
}
"""


@pytest.fixture(scope="module")
def calculator(tmp_path_factory):
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    headers = [header for folder in folders for header in folder.glob("*/include/cuda_occupancy.h")]
    if not headers:
        pytest.skip("needs nvidia-cuda-runtime, which has cuda_occupancy.h")
    folder = tmp_path_factory.mktemp("calculator")
    (folder / "c.cpp").write_text(CALCULATOR)
    command = ["g++", "-shared", "-fPIC", f"-I{headers[0].parent}", folder / "c.cpp", "-o", folder / "c.so"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "c.so"))


@pytest.mark.peer
@needs_compiler
@given(
    registers=st.integers(1, 255),
    threads=st.integers(1, 1024),
    shared=st.integers(0, 227 * 1024),
    architecture=st.sampled_from(sorted(MULTIPROCESSOR)),
)
def test_it_is_what_nvidias_calculator_says(calculator, registers, threads, shared, architecture):
    of, optin = MULTIPROCESSOR[architecture], SHARED_KILOBYTES.get(architecture, 99)
    number = int(architecture.rstrip("a"))
    card = (number // 10, number % 10, of.warps, of.shared_kilobytes, optin)
    said = calculator.blocks(*card, registers, threads, min(shared, optin * 1024))
    assert said == held(registers, threads, min(shared, optin * 1024), architecture).blocks


def on_a_hopper(source, defines, threads, shared_bytes=0):
    (needs,) = compile_for(source, "90a", defines).resources().values()
    return held(needs.registers, threads, needs.shared_bytes + shared_bytes, "90a").blocks


@needs_nvrtc
@pytest.mark.parametrize(("rung", "columns"), [(4, 64), (4, 128), (4, 256), (5, 128), (5, 256)])
def test_the_blocks_that_a_grid_of_wgmma_is_made_of_run_at_a_time(rung, columns):
    """All of them: rungs 4 and 5 hand out their tiles by turns, so a block that waits for another's end is a tail."""
    device = Rehearsal()
    x = reserved((8192, 8192), np.uint16)
    matmul.matmul(device, x, x, rung=rung, tile=(128, columns))
    (launched,) = device.launches
    blocks = on_a_hopper(launched.source, launched.defines, launched.threads[0], launched.shared_bytes)
    assert blocks * matmul.MULTIPROCESSORS >= launched.grid[0] == matmul.blocks_at_a_time(columns)


@needs_nvrtc
@pytest.mark.parametrize("tile", [(64, 64), (128, 64), (128, 16), (16, 128)])
def test_parts_are_cut_for_the_blocks_that_run_at_a_time(tile):
    defines = matmul.defines_of(tile) | {"TRANSPOSE_A": "false", "TRANSPOSE_B": "false"}
    blocks = on_a_hopper(matmul.HERE / matmul.RUNGS[2], defines, matmul.threads_of(tile))
    assert blocks * matmul.MULTIPROCESSORS >= matmul.together(tile)


def test_a_line_has_the_kernels_own_shared_memory_and_how_often_the_grid_fills_a_card(monkeypatch):
    launched = Launch(Path("k.cu"), "k", (132, 3, 1), (128, 2, 1), 30 * 1024, {})
    a = Problem("adam", "a", "float32", 1, 1, {1: "k.cu", 2: "k.cu"}, None, None, None)
    found = [(a, rung, launched, Resources(100, 2048, 0, 0)) for rung in (1, 2)]
    monkeypatch.setattr(occupancy, "launches", lambda problems, rungs: iter(found))
    title, *lines = occupancy.show([a], [1, 2])
    assert title == "adam a float32" and [line.split()[:3] for line in lines] == [[r, "k.cu", "k"] for r in "12"]
    assert lines[0].endswith(
        "396 blocks of  256 threads, 100 registers,  32.0 KiB:  2 at once, 16 of 64 warps (no more registers), 1.50 full"
    )


def test_only_the_rungs_that_were_asked_for_are_shown(monkeypatch):
    binary = SimpleNamespace(resources=lambda: {"k": Resources(32, 0, 0, 0)})
    monkeypatch.setattr(occupancy, "rungs_that_can", lambda problem, architecture: ({1: "1.cu", 2: "2.cu"}, {}))
    monkeypatch.setattr(occupancy, "rehearse", lambda *_: [Launch(Path("k.cu"), "k", (1, 1, 1), (32, 1, 1), 0, {})])
    monkeypatch.setattr(occupancy.launch, "compile_for", lambda *_: binary)
    assert [rung for _, rung, _, _ in occupancy.launches(["a", "b"], [2])] == [2, 2]


@needs_nvrtc
def test_the_command_says_what_would_be_launched(capsys):
    assert bench.main(["adam", "--launches"]) == 0
    title, line = capsys.readouterr().out.splitlines()
    assert title == "adam 100000000 parameters float32" and line.startswith("  1 1_fours.cu adam")
    with pytest.raises(SystemExit, match="2"):
        bench.main(["adam", "--launches", "--device", "cpu"])
    assert "--launches are for a GPU" in capsys.readouterr().err
