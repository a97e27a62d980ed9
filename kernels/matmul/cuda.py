"""The rungs of the matrix product in CUDA: which file, which grid. ``device`` is a GPU or the emulator.

The sizes of tiles and the number of parts fit an H100: those of rung 4 on bf16 and tf32 are measured on one, the others
reasoned.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, address, array_module
from ..checks import check_rung
from ..device import contiguous
from ..precision import in_force
from ..source import file_in
from ..tensor_map import MOST, TensorMap

RUNGS = {1: "1_naive.cu", 2: "2_tiled.cu", 3: "3_mma.cu", 4: "4_wgmma.cu", 5: "5_multicast.cu"}
FLOAT32_RUNGS = {1: RUNGS[1], 2: RUNGS[2], 3: "3_split.cu", 4: "4_split.cu"}  # as exact as float32, or about
THREADS = 128  # of a block of rung 1 and of add_parts
DEPTH = 8  # steps along the inner axis in a tile of rung 2
STAGES = 3  # tiles of each factor that a block of rung 3 has in shared memory
BLOCKS = 264  # two for each of the 132 multiprocessors of an H100: with fewer, a long inner axis is cut
PART = 512  # of the inner axis: a part is not cut finer
MULTIPROCESSORS = 132  # of an H100; rungs 4 and 5 have no more blocks than run at a time
CLUSTER = 2  # blocks of rung 5 with tiles one below the other
SPLIT_STAGES = 6  # of the rings of sums that do not drift: 4_split.cu here and in other folders, eight_bit/5_fp8.cu
SPLIT_PAYS = ("80", "90a")  # A100 and Hopper: their bf16 tensor cores do fifteen times what float32 units do
SPLIT_FROM = 2**29  # multiplications; of smaller products the launches that split the factors take too long

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
    rung: int | None = None,
    precision: str = "bf16",
    tile: Tile | None = None,
    parts: int | None = None,
) -> Array:
    """``a @ b + bias`` over the last two axes of contiguous float32 arrays; each may lie transposed.

    Leading axes are those of both, or of one if the other is a matrix. ``tile`` and ``parts`` are chosen by the shapes
    alone unless given. y is float32 always. What rungs from 3 on multiply, ``precision`` says: the factors rounded to
    bfloat16, unless they are that already (uint16 arrays of the bits, see ``bfloat16``), or, rung 3, to tf32; or with
    "float32" three bfloat16 numbers for each (``FLOAT32_RUNGS``). The default rung is that of ``rung_for``. Rungs 4 and
    5 leave tf32 and empty factors to rung 3.
    """
    (m, k), n = a.shape[-2:], b.shape[-2 if transpose_b else -1]
    if transpose_a:
        m, k = k, m
    leading = a.shape[:-2] or b.shape[:-2]
    batches = math.prod(leading)
    rung = rung_for(device, precision, batches * m, n, k) if rung is None else rung
    check_rung(rung, FLOAT32_RUNGS if precision == "float32" else RUNGS)
    split = precision == "float32" and rung > 2
    if rung > 2 and precision == "bf16":
        a, b = as_bf16(device, a), as_bf16(device, b)
    if rung > 3 and (precision == "tf32" or not (takes_wgmma(a) and takes_wgmma(b))):
        rung, tile = 3, None  # whose tiles are square
    y = device.empty((*leading, m, n), "float32")
    if b.ndim == 2 and not transpose_a:  # all the rows of a against one b: a single product
        m, batches = m * batches, 1
        a = a.reshape(m, k)
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
        device.run(file_in(HERE, RUNGS[1]), "matmul", -(-y.size // THREADS), THREADS, arguments)
        return device.result(y, "y")
    tile = tile or _tile_for(rung, m, n, split)
    cluster = CLUSTER if rung == 5 else 1
    blocks = batches * -(-m // (tile[0] * cluster)) * cluster * -(-n // tile[1])
    numbers = 32 if precision == "tf32" else 64  # of 128 bytes
    wanted = {2: together(tile), 3: BLOCKS, 4: MULTIPROCESSORS, 5: MULTIPROCESSORS}[rung]
    parts, part_size = cut(k, blocks, DEPTH if rung == 2 else numbers, parts, wanted)
    target = y if parts == 1 else device.empty((parts, *y.shape), "float32")
    arguments = {"bias": bias if parts == 1 else None, "y": target, "batches": batches, **shape, "part_size": part_size}
    defines = defines_of(tile) | {name.upper(): str(value).lower() for name, value in turned.items()}
    if rung == 2:
        arguments |= {"a": a, "b": b}
        device.run(file_in(HERE, RUNGS[2]), "matmul", parts * blocks, threads_of(tile), arguments, defines=defines)
    elif rung > 3:
        run_wgmma(device, rung, parts * blocks, tile, a, b, arguments, defines, split)
    elif split:
        for name, x in (("a", a), ("b", b)):
            of_x = in_parts(device, x)
            arguments |= {name: x, f"{name}_parts": of_x, f"{name}_part": of_x[0].size, f"{name}_pitch": of_x.shape[-1]}
        run_mma(device, file_in(HERE, FLOAT32_RUNGS[3]), "matmul_float32", parts * blocks, tile, arguments, defines)
    else:
        arguments |= {"a": a, "b": b}
        defines |= {f"ALIGNED_{name}": str(aligned(x)).lower() for name, x in (("A", a), ("B", b))}
        run_mma(device, file_in(HERE, RUNGS[3]), f"matmul_{precision}", parts * blocks, tile, arguments, defines)
    if parts > 1:
        add_parts(device, target, y, bias)
    return device.result(y, "y")


def linear(
    device: Any, x: Array, w: Array, b: Array | None, *, rung: int | None = None, precision: str = "bf16"
) -> Array:
    """As ``matmul.linear``, for contiguous float32 arrays on the device."""
    return matmul(device, x, w, b, rung=rung, precision=precision)


def linear_grad_x(device: Any, g: Array, w: Array, *, rung: int | None = None, precision: str = "bf16") -> Array:
    """``g @ w.T``: the gradient of ``x`` in ``x @ w``."""
    return matmul(device, g, w, transpose_b=True, rung=rung, precision=precision)


def linear_grad_w(device: Any, x: Array, g: Array, *, rung: int | None = None, precision: str = "bf16") -> Array:
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


def wgmma_tile_for(m: int, n: int, widths: tuple[int, ...] = (256, 128, 64)) -> Tile:
    """The same for rung 4: the width with which a GPU is done first, if a step takes time by its columns."""

    def time(columns: int) -> int:
        tiles = -(-m // 128) * -(-n // columns)
        return -(-tiles // MULTIPROCESSORS) * (columns + 16)

    return 128, min(widths, key=time)


def multicast_tile_for(m: int, n: int) -> Tile:
    """The same for rung 5, whose blocks bring half of the columns each, in whole panels of 64."""
    return wgmma_tile_for(m, n, (256, 128))


def _tile_for(rung: int, m: int, n: int, split: bool) -> Tile:
    if split and rung == 4:
        return wgmma_tile_for(m, n, (128, 64))  # there is no room for two sets of more sums
    return {2: tile_for, 3: mma_tile_for, 4: wgmma_tile_for, 5: multicast_tile_for}[rung](m, n)


def last_rung(device: Any) -> int:
    """The last measured rung for bfloat16 on this device: wgmma is Hopper's alone, which the emulator stands for."""
    return 4 if device.architecture == "90a" else 3


def rung_for(device: Any, precision: str, m: int, n: int, k: int) -> int:
    """The rung of a product (m, k) by (k, n): the last one for this ``precision`` that pays, except 5, which is not yet measured."""
    if precision == "float32":
        return last_rung(device) if m * n * k >= SPLIT_FROM and device.architecture in SPLIT_PAYS else 2
    return last_rung(device) if precision == "bf16" else 3


def by_precision(device: Any) -> str:
    """The ``precision`` in force, as far as this device has tensor cores for it; "float32" is as exact as float32."""
    return in_force() if int(device.architecture.rstrip("a")) >= 80 else "float32"


def takes_wgmma(x: Array) -> bool:
    """Whether TMA can bring this factor for rungs 4 and 5, or a copy of it: it has 1 to ``MOST`` rows, and columns."""
    return 0 < x.size <= MOST * x.shape[-1] and x.shape[-1] <= MOST


def threads_of(tile: Tile) -> int:
    """The threads of a block of rung 2: each has 8 x 8 numbers."""
    return tile[0] // 8 * (tile[1] // 8)


def together(tile: Tile) -> int:
    """The blocks of rung 2 that run at a time: 384 threads to a multiprocessor (BLOCKS_OF_AN_SM in tile.cuh)."""
    return MULTIPROCESSORS * (384 // max(threads_of(tile), 64))


def defines_of(tile: Tile) -> dict[str, Any]:
    """The tile as the kernels' macros."""
    return {"TILE_M": tile[0], "TILE_N": tile[1]}


def cut(k: int, blocks: int, multiple: int, parts: int | None = None, wanted: int = BLOCKS) -> tuple[int, int]:
    """How many parts an inner axis of k has, and the size of each: as many as make ``wanted`` blocks, no smaller than ``PART``."""
    if parts is None:
        parts = max(1, min(wanted // max(blocks, 1), k // PART))
    size = max(-(-k // parts), 1)
    size = -(-size // multiple) * multiple
    return max(-(-k // size), 1), size


def add_parts(device: Any, parts: Array, y: Array, bias: Array | None = None) -> None:
    """``y[...] = parts[0] + parts[1] + ... + bias``, in this order."""
    arguments = {"parts": parts, "bias": bias, "y": y, "n_parts": len(parts), "count": y.size, "columns": y.shape[-1]}
    device.run(file_in(HERE, "add_parts.cu"), "add_parts", -(-y.size // THREADS), THREADS, arguments)


def run_mma(
    device: Any, source: Path, kernel: str, blocks: int, tile: Tile, arguments: dict[str, Any], defines: dict[str, Any]
) -> None:
    """Launch a kernel built on ``mma.cuh``: 16 columns of the tile per warp, STAGES tiles with rows of 128 bytes."""
    shared_bytes, threads = STAGES * sum(tile) * 128, 2 * tile[1]
    device.run(source, kernel, blocks, threads, arguments, shared_bytes=shared_bytes, defines=defines)


def run_wgmma(
    device: Any,
    rung: int,
    tiles: int,
    tile: Tile,
    a: Array,
    b: Array,
    arguments: dict[str, Any],
    defines: dict[str, Any],
    split: bool,
) -> None:
    """Launch rung 4 or 5 for so many tiles of the result."""
    blocks, columns = min(tiles, MULTIPROCESSORS if split else blocks_at_a_time(tile[1])), tile[1]
    if rung == 5:
        blocks, columns = -(-blocks // CLUSTER) * CLUSTER, columns // CLUSTER
    factors = {}
    for name, x, size, across in (
        ("a", a, tile[0], defines["TRANSPOSE_A"] == "true"),
        ("b", b, columns, defines["TRANSPOSE_B"] == "false"),
    ):
        of_x = in_parts(device, x) if split else rows_of_16_bytes(x)
        box = (1, 64, 64) if across else (1, size, 64)
        factors[f"{name}_parts" if split else name] = TensorMap(of_x.reshape(-1, *of_x.shape[-2:]), box, 128)
        factors[f"{name}_batches"] = arguments.pop(f"{name}_batch") > 0
        if split:
            factors[name] = x
    turned = {name: value for name, value in defines.items() if name.startswith("TRANSPOSE")}
    file, kernel = (FLOAT32_RUNGS[4], "matmul_float32") if split else (RUNGS[rung], "matmul_bf16")
    stages = SPLIT_STAGES if split else None
    run_ring(device, file_in(HERE, file), kernel, blocks, tile[1], {**arguments, **factors}, turned, stages)


def rows_of_16_bytes(x: Array) -> Array:
    """An array as TMA takes it: each row begins at a multiple of 16 bytes. If need be a copy, with zeros behind rows."""
    if aligned(x):
        return x
    piece = 16 // x.itemsize
    wide = array_module(x).zeros((*x.shape[:-1], -(-x.shape[-1] // piece) * piece), x.dtype)
    wide[..., : x.shape[-1]] = x
    return wide


def run_ring(
    device: Any,
    source: Path,
    kernel: str,
    blocks: int,
    columns: int,
    arguments: dict[str, Any],
    defines: dict[str, Any],
    stages: int | None = None,
) -> None:
    """Launch a kernel built on ``wgmma.cuh``: two warp groups that multiply, a warp that copies, a ring of tiles."""
    shared_bytes = (stages or ring_stages(columns)) * (128 + -(-columns // 64) * 64) * 128
    defines = {"TILE_N": columns, **defines}
    device.run(source, kernel, blocks, 2 * 128 + 32, arguments, shared_bytes=shared_bytes, defines=defines)


def blocks_at_a_time(columns: int) -> int:
    """For a kernel built on ``wgmma.cuh``: with narrow tiles two per multiprocessor (BLOCKS_OF_AN_SM there)."""
    return MULTIPROCESSORS * (1 if columns > 128 else 2)


def ring_stages(columns: int) -> int:
    """The places of a ring: two blocks with 128 columns have room for 3 each."""
    return {64: 4, 128: 3, 160: 5, 256: 4}[columns]


def as_bf16(device: Any, x: Array) -> Array:
    """The bits of ``x``, float32 numbers on the device, rounded to bfloat16; ``x`` itself if it is bits already."""
    if x.dtype == np.uint16:
        return x
    y = device.empty(x.shape, "uint16")
    arguments = {"x": contiguous(x), "y": y, "n": x.size}
    device.run(file_in(HERE, "to_bf16.cu"), "to_bf16s", -(-x.size // (4 * 256)), 256, arguments)
    return device.result(y, "y")


def in_parts(device: Any, x: Array) -> Array:
    """``x`` as three bfloat16 numbers for each of its numbers, the smallest first: the bits (3, ..., n), n a multiple of 8."""
    n = x.shape[-1]
    parts = device.empty((3, *x.shape[:-1], -(-n // 8) * 8), "uint16")
    eights = parts[0].size // 8
    arguments = {"x": contiguous(x), "parts": parts, "count": eights, "n": n, "pitch": parts.shape[-1]}
    device.run(file_in(HERE, "split.cu"), "split", -(-eights // THREADS), THREADS, arguments)
    return device.result(parts, "parts")


def aligned(x: Array) -> bool:
    """Whether every row of a contiguous array begins at a multiple of 16 bytes."""
    return address(x) % 16 == 0 and x.shape[-1] * x.itemsize % 16 == 0
