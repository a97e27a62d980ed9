"""The rungs of the nearest code in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array
from ..checks import WrongSize, check_rung
from ..source import file_in
from ..tensor_map import TensorMap

RUNGS = {1: "1_naive.cu", 2: "2_tiled.cu", 3: "3_mma.cu", 4: "4_wgmma.cu"}
GATHER = "gather.cu"  # what follows the choice
ROWS = 128  # rows of z, one thread each, in a block
WARPS, WARP_ROWS = 4, 16  # of a block of rung 3, and rows of z for each warp
WGMMA_TILE, WGMMA_THREADS = 128, 288  # rows, and codes, of a block of rung 4
LARGEST = 256  # d of rungs 3 and 4
SHORT = 64  # d up to which rung 3 was about as fast as rung 4 on an H100; measured once, with a large spread

HERE = Path(__file__).parent


def nearest_code(device: Any, z: Array, codebook: Array, *, rung: int) -> Array:
    """As ``quantize.nearest_code``, for contiguous float32 arrays on the device.

    All rungs give the same indices. Rungs 3 and 4 raise WrongSize for rows of more than 256 numbers.
    """
    check_rung(rung, RUNGS)
    m, d = z.shape
    indices = device.empty((m,), "int64")
    arguments = {"z": z, "codebook": codebook, "indices": indices, "m": m, "codes": len(codebook)}
    source = file_in(HERE, RUNGS[rung])
    if rung < 3:
        device.run(source, "nearest_code", -(-m // ROWS), ROWS, {**arguments, "d": d})
    elif d > LARGEST:
        raise WrongSize(f"rung {rung} takes rows of at most {LARGEST} numbers, got d = {d}")
    else:
        (_mma if rung == 3 else _wgmma)(device, source, arguments, d)
    return device.result(indices, "indices")


def gather(device: Any, z: Array, codebook: Array, indices: Array) -> tuple[Array, Array, Array]:
    """As ``reference.gather``, for contiguous float32 arrays and int64 indices on the device."""
    m, d = z.shape
    codes = len(codebook)
    e, errors, counts = device.empty((m, d), "float32"), device.empty((m,), "float32"), device.empty((codes,), "uint64")
    device.run(HERE / GATHER, "clear", -(-codes // ROWS), ROWS, {"counts": counts, "codes": codes})
    lanes = min(32, 1 << max(0, -(-d // 4) - 1).bit_length())
    arrays = {"z": z, "codebook": codebook, "indices": indices, "e": e, "errors": errors, "counts": counts}
    device.run(HERE / GATHER, "gather", -(-m * lanes // ROWS), ROWS, {**arrays, "m": m, "d": d, "lanes": lanes})
    return (
        device.result(e, "e"),
        device.result(errors, "errors"),
        device.result(counts, "counts").view(np.int64),
    )


def best_rung(device: Any, d: int) -> int:
    """The fastest rung that this device has for rows of d numbers; they all give the same answer."""
    if not 0 < d <= LARGEST or int(device.architecture.rstrip("a")) < 80:
        return 2
    return 4 if device.architecture == "90a" and d > SHORT else 3


def _mma(device: Any, source: Path, arguments: dict[str, Any], d: int) -> None:
    tile = 64 if d <= 128 else 32
    defines, depth, rows = {"D": d, "CODES": tile}, _depth(d), WARPS * WARP_ROWS
    rounded, bounds = _prepared(device, source, arguments["codebook"], d, defines)
    shared_bytes = 2 * (rows + 2 * tile) * (depth + 8) + 2 * tile * 16
    arrays = {**arguments, "rounded": rounded, "bounds": bounds}
    grid = -(-arguments["m"] // rows)
    device.run(source, "nearest_code", grid, 32 * WARPS, arrays, shared_bytes=shared_bytes, defines=defines)


def _wgmma(device: Any, source: Path, arguments: dict[str, Any], d: int) -> None:
    rounded, bounds = _prepared(device, source, arguments["codebook"], d, {"D": d})
    panels = -(-_depth(d) // 64)
    stages = {1: 4, 2: 4, 3: 3, 4: 2}[panels]
    shared_bytes = (1 + stages) * panels * WGMMA_TILE * 128 + stages * WGMMA_TILE * 16
    maps = {
        "rounded": TensorMap(rounded, (WGMMA_TILE, 64), 128),
        "bounds": TensorMap(bounds, (WGMMA_TILE, 4)),
    }
    grid = -(-arguments["m"] // WGMMA_TILE)
    device.run(
        source,
        "nearest_code",
        grid,
        WGMMA_THREADS,
        {**arguments, **maps},
        shared_bytes=shared_bytes,
        defines={"D": d},
    )


def _prepared(device: Any, source: Path, codebook: Array, d: int, defines: dict[str, Any]) -> tuple[Array, Array]:
    """The codebook rounded to bfloat16, and what bounds the error of products with it."""
    codes = len(codebook)
    rounded, bounds = device.empty((codes, _depth(d)), "uint16"), device.empty((codes, 4), "float32")
    arrays = {"codebook": codebook, "rounded": rounded, "bounds": bounds, "codes": codes}
    device.run(source, "prepare", -(-codes // WARPS), 32 * WARPS, arrays, defines=defines)
    return rounded, bounds


def _depth(d: int) -> int:
    """The numbers of a row as tensor cores multiply them: a multiple of 16."""
    return max(16, -(-d // 16) * 16)
