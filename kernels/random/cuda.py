"""The random stream in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

import math
from pathlib import Path
from typing import Any

from ..backend import Array
from ..source import file_in

RUNGS = {1: "1_philox.cu"}
THREADS = 128

HERE = Path(__file__).parent


def random_bits(
    device: Any, shape: tuple[int, ...], *, seed: int, first: int = 0, step: int = 0, purpose: int = 0
) -> Array:
    """As ``random.random_bits``."""
    return _run(device, "bits", "uint32", shape, seed, first, step, purpose)


def uniform(
    device: Any, shape: tuple[int, ...], *, seed: int, first: int = 0, step: int = 0, purpose: int = 0
) -> Array:
    """As ``random.uniform`` in float32."""
    return _run(device, "uniforms", "float32", shape, seed, first, step, purpose)


def normal(device: Any, shape: tuple[int, ...], *, seed: int, first: int = 0, step: int = 0, purpose: int = 0) -> Array:
    """As ``random.normal`` in float32."""
    return _run(device, "normals", "float32", shape, seed, first, step, purpose)


def signed(seed: int) -> int:
    """The 64 bits of ``seed`` as a signed number, which is what a kernel's long long holds."""
    return seed - 2**64 if seed >= 2**63 else seed


def _run(
    device: Any, kernel: str, dtype: str, shape: tuple[int, ...], seed: int, first: int, step: int, purpose: int
) -> Array:
    y = device.empty(shape, dtype)
    per_sample = math.prod(shape[1:])
    arguments = {"y": y, "n": shape[0], "per_sample": per_sample, "seed": signed(seed), "first": first}
    blocks = -(-shape[0] * -(-per_sample // 4) // THREADS)
    arguments |= {"step": step, "purpose": purpose}
    device.run(file_in(HERE, RUNGS[1]), kernel, blocks, THREADS, arguments)
    return device.result(y, "y")
