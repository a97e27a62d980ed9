"""The rungs of the nearest code in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array

RUNGS = {1: "1_naive.cu", 2: "2_tiled.cu"}
ROWS = 128  # rows of z, one thread each, in a block


def nearest_code(device: Any, z: Array, codebook: Array, *, rung: int) -> Array:
    """As ``quantize.nearest_code``, for contiguous float32 arrays on the device."""
    m, d = z.shape
    indices = device.empty((m,), "int64")
    arguments = {"z": z, "codebook": codebook, "indices": indices, "m": m, "codes": len(codebook), "d": d}
    source = Path(__file__).parent / RUNGS[rung]
    device.run(source, "nearest_code", -(-m // ROWS), ROWS, arguments)
    return device.result(indices, "indices")
