"""The embedding's gradient in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any, NamedTuple

from ..backend import Array
from ..checks import WrongSize, check_rung
from ..source import file_in

RUNGS = {1: "1_gather.cu", 2: "2_sorted.cu"}
THREADS = 128
CHUNK = 256  # positions that a block sorts
TILE = 64  # sorted positions that a thread adds up

HERE = Path(__file__).parent


class Segments(NamedTuple):
    """Positions in the order of their keys: ``order[start[r]:start[r + 1]]`` are those of key r, from low to high."""

    keys: Array  # (m,) sorted
    order: Array  # (m,)
    start: Array  # (rows + 1,)


def scatter_add(device: Any, g: Array, indices: Array, rows: int, *, rung: int) -> Array:
    """As ``embedding_grad`` for contiguous float32 ``g`` (m, d) and int32 ``indices`` (m,) in 0..rows-1 on the device."""
    check_rung(rung, RUNGS)
    m, d = g.shape
    if rung == 2:
        return sums(device, g, sort(device, indices, rows))
    y = device.empty((rows, d), "float32")
    arguments = {"g": g, "indices": indices, "y": y, "m": m, "count": y.size, "d": d}
    _run(device, 1, "scatter_add", y.size, arguments)
    return device.result(y, "y")


def sort(device: Any, keys: Array, rows: int) -> Segments:
    """The segments of int32 ``keys`` (m,), which lie in 0..rows-1. Raises WrongSize for an m that int32 does not hold."""
    m, chunks = len(keys), -(-len(keys) // CHUNK)
    if m >= 2**31:
        raise WrongSize(f"positions are int32, so there must be fewer than 2^31 keys, got {m}")
    counts, order = device.empty((256 * chunks,), "int32"), None
    for shift in range(0, max(1, (rows - 1).bit_length()), 8):
        digits = {"keys": keys, "counts": counts, "m": m, "shift": shift, "chunks": chunks}
        device.run(_file(2), "digit_counts", chunks, CHUNK, digits)
        threads = min(1024, 32 * -(-counts.size // 1024))  # runs of 1024 counts, until all warps have one
        device.run(_file(2), "prefix_sum", min(chunks, 1), max(threads, 32), {"counts": counts, "n": counts.size})
        sorted_keys, sorted_order = (device.empty((m,), "int32") for _ in range(2))
        arguments = {**digits, "order": order, "sorted_keys": sorted_keys, "sorted_order": sorted_order}
        device.run(_file(2), "place", chunks, CHUNK, arguments)
        keys, order = device.result(sorted_keys, "the sorted keys"), device.result(sorted_order, "the order")
    start = device.empty((rows + 1,), "int32")
    _run(device, 2, "starts", rows + 1, {"keys": keys, "start": start, "m": m, "rows": rows})
    return Segments(keys, order, device.result(start, "start"))


def sums(device: Any, g: Array, segments: Segments) -> Array:
    """The sums (rows, d) of the rows of ``g`` (m, d) over each segment."""
    m, d = g.shape
    rows, tiles = len(segments.start) - 1, -(-m // TILE)
    y, head, tail = (device.empty((n, d), "float32") for n in (rows, tiles, tiles))
    common = {"head": head, "tail": tail, "y": y, "d": d}
    arguments = {**common, "g": g, "keys": segments.keys, "order": segments.order, "m": m, "tiles": tiles}
    _run(device, 2, "tile_sums", tiles * d, arguments)
    _run(device, 2, "join", rows * -(-d // 4), {**common, "start": segments.start, "rows": rows})
    return device.result(y, "y")


def _run(device: Any, rung: int, kernel: str, count: int, arguments: dict[str, Any]) -> None:
    device.run(_file(rung), kernel, -(-count // THREADS), THREADS, arguments)


def _file(rung: int) -> Path:
    return file_in(HERE, RUNGS[rung])
