"""The planted kernels: each does one small thing, most with one mistake, and a comment at its line names what must be found.

Every kernel of a file is meant to reverse the rows of an array or, for windows, to copy it; ``atomic_sum`` adds.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import bfloat16
from ..tensor_map import Im2colMap, TensorMap
from . import Emulator

Array = Any  # of NumPy or CuPy


class Launch(NamedTuple):
    """How all kernels of a file are launched, on ``x`` of a shape, and what they are meant to make of it."""

    shape: tuple[int, ...]
    arguments: Callable[[Array], dict[str, Any]]  # from x, without the result y
    grid: int
    threads: int
    shared_bytes: int = 0
    want: Callable[[np.ndarray], np.ndarray] = lambda x: x[:, ::-1]


TWO_ROWS = Launch((128,), lambda x: {"x": x, "n": 128}, 2, 64, want=lambda x: x.reshape(2, 64)[:, ::-1].reshape(-1))
LAUNCHES = {
    "planted.cu": TWO_ROWS,
    "planted90.cu": Launch((2, 64), lambda x: {"x": TensorMap(x, (1, 64))}, 2, 64),
    "planted90a.cu": Launch(
        (128, 64),
        lambda x: {"x": TensorMap(bfloat16.to_bits(x), (64, 64), 128)},
        2,
        128,
        shared_bytes=2 * 64 * 64 * 2,
        want=lambda x: bfloat16.rounded(x)[:, ::-1],
    ),
    "planted_atomics.cu": TWO_ROWS,
    "planted_clusters.cu": Launch((2, 128), lambda x: {"x": x}, 4, 64, shared_bytes=256),
    "planted_flags.cu": Launch(
        (128,),
        lambda x: {"x": x, "flags": (x[:4] * 0).astype(np.int32), "n": 128},
        2,
        64,
        want=TWO_ROWS.want,
    ),
    "planted_matrices.cu": TWO_ROWS,
    "planted_multicast.cu": Launch(
        (2, 128), lambda x: {"x": TensorMap(x, (1, 32))}, 4, 64, shared_bytes=2 * 32 * 4 + 8
    ),
    "planted_operands.cu": Launch((2, 64), lambda x: {"x": x, "map": TensorMap(x, (1, 64))}, 2, 64),
    "planted_registers.cu": Launch((4, 128), lambda x: {"x": x}, 4, 256),
    "planted_undefined.cu": TWO_ROWS,
    "planted_windows.cu": Launch(
        (2, 4, 4, 4),
        lambda x: {"x": Im2colMap(x, (16, 4), start=(-1, -1), windows=(4, 4))},
        2,
        64,
        want=lambda x: x,
    ),
}


def file_of(name: str) -> Path:
    """Where the file of that name is."""
    return Path(__file__).with_name(name)


def problem(name: str) -> tuple[np.ndarray, np.ndarray]:
    """x for the kernels of a file, and what they are meant to write; both float32."""
    x = np.random.default_rng(0).standard_normal(LAUNCHES[name].shape).astype(np.float32)
    return x, LAUNCHES[name].want(x)


def run(device: Any, file: Path, kernel: str, x: Array) -> Array:
    """What ``kernel`` of ``file`` writes: one of these files, or a copy that has its name. The device may be a GPU."""
    how = LAUNCHES[file.name]
    y = device.empty(how.shape, np.float32)
    device.run(file, kernel, how.grid, how.threads, {**how.arguments(x), "y": y}, shared_bytes=how.shared_bytes)
    return y


def judge(device: Emulator, file: Path, kernel: str) -> np.ndarray:
    """``run`` on this file's problem; without findings, the values are compared too. Findings are in the device."""
    x, want = problem(file.name)
    y = run(device, file, kernel, x)
    if not device.findings:
        device.result(y, "y")
    if not device.findings and kernel != "atomic_sum":
        device.expect(y, want, 0, "y")
    return y


def marks(file: Path) -> dict[str, set[tuple[str, str]]]:
    """kernel -> the (file:line, kind) pairs that the file says are found in it; none for a kernel without a mistake."""
    found: dict[str, set[tuple[str, str]]] = {}
    here: set[tuple[str, str]] = set()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if match := re.search(r"__global__ void (?:__\w+__\([^)]*\) )*(\w+)\(", line):
            here = found.setdefault(match[1], set())
        elif match := re.search(r"FINDS ([^:]*)", line):
            kinds = (kind.strip() for kind in match[1].split(","))
            here |= {("y" if kind == "unwritten" else f"{file.name}:{number}", kind) for kind in kinds}
    return found
