"""Running CUDA kernels in the emulator: two schedules, no findings, the same bits; and kernels with a planted mistake."""

import re

import numpy as np
import pytest

from kernels import emulator, launch
from kernels.emulator import Emulator, NoCompiler
from kernels.gpu_bench import stamps
from kernels.launch import NoCuda, compile_for
from kernels.source import kernels_of


def _lacks(find, error):
    try:
        return not find()
    except error:
        return True


needs_compiler = pytest.mark.skipif(
    _lacks(emulator.compiler, NoCompiler), reason="emulating a kernel needs a C++ compiler (g++)"
)
needs_nvrtc = pytest.mark.skipif(
    _lacks(launch.nvrtc, NoCuda), reason="compiling needs NVRTC (pip install nvidia-cuda-nvrtc)"
)


def emulated(function, seed=0):
    """``function(device)`` under two schedules: without findings and with the same bits. Its results, as a tuple."""
    results = []
    for s in (seed, seed + 1):
        device = Emulator(s % 2**32)
        result = function(device)
        device.check()
        results.append(result if isinstance(result, tuple) else (result,))
    for a, b in zip(*results):
        assert (a is None and b is None) or a.tobytes() == b.tobytes(), "the result depends on the schedule"
    return results[0]


def kinds(function, seed=3):
    """What is found while ``function(device)`` runs: the set of the kinds."""
    device = Emulator(seed)
    function(device)
    return {f.kind for f in device.findings}


def plant(monkeypatch, tmp_path, module, name, old, new):
    """Let ``module`` (an operation's ``cuda.py``) use a copy of the kernel file ``name`` with ``old`` changed to ``new``."""
    folder = module.HERE
    text = (folder / name).read_text()
    assert old in text, f"{name} has no {old!r}"
    for file in folder.glob("*.cu"):
        (tmp_path / file.name).write_text(file.read_text() if file.name != name else text.replace(old, new))
    monkeypatch.setattr(module, "HERE", tmp_path)


def assert_lean(file, architecture, defines=None):
    """A kernel file compiles for the architecture, and none of its kernels spills or uses local memory."""
    resources = compile_for(file, architecture, defines).resources()
    assert set(resources) == set(kernels_of(file.read_text()))
    for kernel, r in resources.items():
        assert 0 < r.registers <= 255 and r.local_bytes == r.spill_bytes == 0, (kernel, architecture, r)


# The lowest 12 of an instruction's 128 bits on sm_90.
_OPCODES = {0x981: "L", 0x986: "S", 0x388: "S", 0x947: "B", 0x223: "F", 0x308: "M"}  # LDG; STG, STS; BRA; FFMA; MUFU


def instructions(file, kernel, defines=None):
    """What a kernel compiled for sm_90 does, a letter for an instruction, in the order of the machine code.

    L, W: loads from global memory, W 16 bytes; S, X: stores to it or to shared memory, X 16 bytes; B: a branch; F: a
    product with a sum; E: an exponential.
    """
    code = dict(stamps.sections(compile_for(file, "90", defines).code))[f".text.{kernel}"]
    letters = []
    for at in range(0, len(code), 16):
        word = int.from_bytes(code[at : at + 16], "little")
        letter, width, function = _OPCODES.get(word & 0xFFF, ""), word >> 73 & 7, word >> 74 & 15
        if letter == "M":
            letter = "E" if function == 2 else ""
        letters.append({"L": "W", "S": "X"}[letter] if letter in ("L", "S") and width == 6 else letter)
    return "".join(letters)


def loads_at_once(code):
    """How many loads the compiler has placed one after the other, each time, without a branch or a store between them."""
    return [n for part in re.split("[SXB]", code) if (n := part.count("L") + part.count("W"))]


def normal(seed, *shapes):
    """Float32 arrays of standard normal numbers."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
