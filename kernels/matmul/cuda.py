"""The rungs of the matrix product in CUDA: which file, which grid. ``device`` is a GPU or the emulator.

Nothing of this has run on hardware yet: the sizes of tiles and the number of parts are reasoned, not measured.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from .. import bfloat16
from ..backend import Array, is_cuda

RUNGS = {1: "1_naive.cu", 2: "2_tiled.cu", 3: "3_mma.cu"}
THREADS = 128  # of a block of rung 1 and of add_parts
DEPTH = 8  # steps along the inner axis in a tile of rung 2
STAGES = 3  # tiles of each factor that a block of rung 3 has in shared memory
BLOCKS = 264  # two for each of the 132 multiprocessors of an H100: fewer, and a long inner axis is cut
PART = 512  # of the inner axis: a part is not cut finer

HERE = Path(__file__).parent
Tile = tuple[int, int]


def matmul(
    device: Any,
    a: Array,
    b: Array,
    bias: Array | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    rung: int,
    precision: str = "bf16",
    tile: Tile | None = None,
    parts: int | None = None,
) -> Array:
    """``a @ b + bias`` over the last two axes of contiguous float32 arrays; each may lie transposed.

    Leading axes are those of both, or of one if the other is a matrix. ``tile`` and ``parts`` are chosen by the shapes
    alone unless given. Rung 3 rounds the factors to bfloat16, unless they are that already (uint16 arrays of the bits, see
    ``bfloat16``), or to tf32 if ``precision`` says so; y is float32 always.
    """
    (m, k), n = a.shape[-2:], b.shape[-2 if transpose_b else -1]
    if transpose_a:
        m, k = k, m
    leading = a.shape[:-2] or b.shape[:-2]
    y = device.empty((*leading, m, n), "float32")
    batches = math.prod(leading)
    if b.ndim == 2 and not transpose_a:  # all the rows of a against one b: a single product
        m, batches = m * batches, 1
    shape = {
        "m": m,
        "n": n,
        "k": k,
        "a_batch": m * k if a.ndim > 2 else 0,
        "b_batch": n * k if b.ndim > 2 else 0,
    }
    turned = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    if rung == 1:
        arguments = {"a": a, "b": b, "bias": bias, "y": y, "count": y.size, **shape, **turned}
        device.run(HERE / RUNGS[1], "matmul", -(-y.size // THREADS), THREADS, arguments)
        return device.result(y, "y")
    tile = tile or (tile_for(m, n) if rung == 2 else mma_tile_for(m, n))
    blocks = batches * -(-m // tile[0]) * -(-n // tile[1])
    numbers = 32 if precision == "tf32" else 64  # of 128 bytes
    parts, part_size = cut(k, blocks, DEPTH if rung == 2 else numbers, parts)
    target = y if parts == 1 else device.empty((parts, *y.shape), "float32")
    arguments = {"bias": bias if parts == 1 else None, "y": target, "batches": batches, **shape, "part_size": part_size}
    defines = defines_of(tile) | {name.upper(): str(value).lower() for name, value in turned.items()}
    if rung == 2:
        arguments |= {"a": a, "b": b}
        device.run(HERE / RUNGS[2], "matmul", parts * blocks, threads_of(tile), arguments, defines=defines)
    else:
        if precision == "bf16":
            a, b = as_bf16(a), as_bf16(b)
        arguments |= {"a": a, "b": b}
        defines |= {f"ALIGNED_{name}": str(aligned(x)).lower() for name, x in (("A", a), ("B", b))}
        run_mma(device, HERE / RUNGS[3], f"matmul_{precision}", parts * blocks, tile, arguments, defines)
    if parts > 1:
        add_parts(device, target, y, bias)
    return device.result(y, "y")


def linear(device: Any, x: Array, w: Array, b: Array | None, *, rung: int, precision: str = "bf16") -> Array:
    """As ``matmul.linear``, for contiguous float32 arrays on the device."""
    return matmul(device, x, w, b, rung=rung, precision=precision)


def linear_grad_x(device: Any, g: Array, w: Array, *, rung: int, precision: str = "bf16") -> Array:
    """``g @ w.T``: the gradient of ``x`` in ``x @ w``."""
    return matmul(device, g, w, transpose_b=True, rung=rung, precision=precision)


def linear_grad_w(device: Any, x: Array, g: Array, *, rung: int, precision: str = "bf16") -> Array:
    """``x.T @ g`` over all the rows of ``x`` (..., c_in) and ``g`` (..., c_out): the gradient of ``w`` in ``x @ w``."""
    x, g = (a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) for a in (x, g))
    return matmul(device, x, g, transpose_a=True, rung=rung, precision=precision)


def tile_for(m: int, n: int) -> Tile:
    """The size of a block's tile: flat for a flat result, large where that still leaves enough blocks."""
    if n <= 16:
        return 128, 16
    if m <= 16:
        return 16, 128
    return (128, 64) if m * n >= 128 * 64 * BLOCKS else (64, 64)


def mma_tile_for(m: int, n: int) -> Tile:
    """The same for rung 3, whose tiles are square."""
    return (128, 128) if m * n >= 128 * 128 * BLOCKS // 2 else (64, 64)


def threads_of(tile: Tile) -> int:
    """The threads of a block of rung 2: each has 8 x 8 numbers."""
    return tile[0] // 8 * (tile[1] // 8)


def defines_of(tile: Tile) -> dict[str, Any]:
    """The tile as the kernels' macros."""
    return {"TILE_M": tile[0], "TILE_N": tile[1]}


def cut(k: int, blocks: int, multiple: int, parts: int | None = None) -> tuple[int, int]:
    """How many parts an inner axis of k has, and the size of each: as many as make ``BLOCKS`` blocks, no smaller than ``PART``."""
    if parts is None:
        parts = max(1, min(BLOCKS // max(blocks, 1), k // PART))
    size = max(-(-k // parts), 1)
    size = -(-size // multiple) * multiple
    return max(-(-k // size), 1), size


def add_parts(device: Any, parts: Array, y: Array, bias: Array | None = None) -> None:
    """``y[...] = parts[0] + parts[1] + ... + bias``, in this order."""
    arguments = {"parts": parts, "bias": bias, "y": y, "n_parts": len(parts), "count": y.size, "columns": y.shape[-1]}
    device.run(HERE / "add_parts.cu", "add_parts", -(-y.size // THREADS), THREADS, arguments)


def run_mma(
    device: Any, source: Path, kernel: str, blocks: int, tile: Tile, arguments: dict[str, Any], defines: dict[str, Any]
) -> None:
    """Launch a kernel that is made of ``mma.cuh``: 16 columns of the tile to a warp, STAGES tiles with rows of 128 bytes."""
    shared_bytes, threads = STAGES * sum(tile) * 128, 2 * tile[1]
    device.run(source, kernel, blocks, threads, arguments, shared_bytes=shared_bytes, defines=defines)


def as_bf16(x: Array) -> Array:
    """The bits of ``x`` rounded to bfloat16; ``x`` itself if it is bits already."""
    return x if x.dtype == np.uint16 else bfloat16.to_bits(x)


def aligned(x: Array) -> bool:
    """Whether every row of a contiguous array begins at a multiple of 16 bytes."""
    address = x.data.ptr if is_cuda(x) else x.ctypes.data
    return address % 16 == 0 and x.shape[-1] * x.itemsize % 16 == 0
