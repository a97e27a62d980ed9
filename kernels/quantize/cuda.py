"""The rungs of the nearest code in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array

RUNGS = {1: "1_naive.cu", 2: "2_tiled.cu", 3: "3_mma.cu"}
ROWS = 128  # rows of z, one thread each, in a block
WARPS, WARP_ROWS = 4, 16  # of a block of rung 3, and rows of z for each warp
LARGEST = 256  # d of rung 3


def nearest_code(device: Any, z: Array, codebook: Array, *, rung: int) -> Array:
    """As ``quantize.nearest_code``, for contiguous float32 arrays on the device.

    All rungs give the same indices. Rung 3 raises ValueError for rows of more than 256 numbers.
    """
    m, d = z.shape
    indices = device.empty((m,), "int64")
    arguments = {"z": z, "codebook": codebook, "indices": indices, "m": m, "codes": len(codebook)}
    source = Path(__file__).parent / RUNGS[rung]
    if rung < 3:
        device.run(source, "nearest_code", -(-m // ROWS), ROWS, {**arguments, "d": d})
    else:
        _mma(device, source, arguments, d)
    return device.result(indices, "indices")


def _mma(device: Any, source: Path, arguments: dict[str, Any], d: int) -> None:
    if d > LARGEST:
        raise ValueError(f"rung 3 takes rows of at most {LARGEST} numbers, got d = {d}")
    m, codes, codebook = (arguments[name] for name in ("m", "codes", "codebook"))
    depth, tile = -(-d // 16) * 16, 64 if d <= 128 else 32
    defines, threads = {"D": d, "CODES": tile}, 32 * WARPS
    rounded, bounds = device.empty((codes, depth), "uint16"), device.empty((codes, 4), "float32")
    arrays = {"codebook": codebook, "rounded": rounded, "bounds": bounds, "codes": codes}
    device.run(source, "prepare", -(-codes // WARPS), threads, arrays, defines=defines)
    rows = WARPS * WARP_ROWS
    shared_bytes = 2 * (rows + 2 * tile) * (depth + 8) + 2 * tile * 16
    arrays |= {"z": arguments["z"], "indices": arguments["indices"], "m": m}
    device.run(source, "nearest_code", -(-m // rows), threads, arrays, shared_bytes=shared_bytes, defines=defines)
