"""Rung 4 of the convolution and its gradients: how arrays are described to TMA, which grid, and what it cannot take.

Each function gets a kernel's ``arguments`` (arrays, and the sizes by their names in the kernels) and says whether it
has computed the result; if not, it is another rung's. With ``split`` each factor is three bfloat16 numbers, and the result as
exact as with float32 factors, or about.
"""

import itertools
import math
from pathlib import Path
from typing import Any

from ..backend import Array
from ..matmul.cuda import (
    MULTIPROCESSORS,
    SPLIT_STAGES,
    add_parts,
    aligned,
    as_bf16,
    blocks_at_a_time,
    cut,
    in_parts,
    rows_of_16_bytes,
    run_ring,
)
from ..source import file_in, kernels_in
from ..tensor_map import MOST, Im2colMap, TensorMap

FORWARD, GRADIENTS = "4_wgmma.cu", "4_wgmma_gradients.cu"
SPLIT_FORWARD, SPLIT_GRADIENTS = "4_split.cu", "4_split_gradients.cu"
FIRST_LAYER = "3_first_layer.cu"
ROWS, STEP = 128, 64  # of a tile of the left factor, and along the inner axis: matmul/wgmma.cuh
FEW, MOST_DEPTH = 4, 150  # what FIRST_LAYER takes: channels, and kernel_h * kernel_w * c_in
PIXELS = 128  # of a block of FIRST_LAYER

# Microseconds of a step of all the blocks that run at a time, by the columns of their tiles: 3x3, 640 to 640 channels,
# on an H100.
ACROSS = {64: 0.64, 128: 0.79, 160: 0.66, 256: 0.78}
ALONG = {64: 0.68, 128: 0.79, 160: 0.53, 256: 0.85}
SPLIT = {64: 0.34, 128: 0.44}  # the same with ``split``, estimated from ACROSS: not yet measured

HERE = Path(__file__).parent
Pair = tuple[int, int]


def conv2d(device: Any, arguments: dict[str, Any], defines: dict[str, Any], columns: int | None, split: bool) -> bool:
    """The convolution: TMA finds the windows of x, the weights come with c_out padded to a multiple of 8."""
    x, w = _factors(device, split, arguments["x"], arguments["w"])
    y, (stride, padding) = arguments["y"], _pairs(arguments)
    windows = _windows(x, y.shape[1:3], stride, (-padding[0], -padding[1]))
    if windows is None:
        return not split and _first_layer(device, {**arguments, "x": x, "w": w}, defines)
    pixels, c_out = arguments["pixels"], y.shape[3]
    columns = columns or tile_columns(pixels, c_out, SPLIT if split else ACROSS)
    blocks = min(-(-pixels // ROWS) * -(-c_out // columns), _at_a_time(columns, split))
    wide = rows_of_16_bytes(w)
    maps = {"x": windows, "w": TensorMap(wide.reshape(-1, *wide.shape[-2:]), (1, STEP, 64), 128)}
    defines = {**defines, **_inner(w.shape[-2])}
    _run(device, "conv2d", split, blocks, columns, arguments, maps, defines)
    return True


def conv2d_grad_x(device: Any, arguments: dict[str, Any], columns: int | None, split: bool) -> bool:
    """The data gradient, one launch for each phase."""
    dx = arguments["dx"]
    g, w = _factors(device, split, arguments["g"], arguments["w"])
    phases = _phases(g, dx.shape, arguments) if dx.size else None
    if phases is None:
        return False
    columns = columns or tile_columns(max(phase["pixels"] for phase in phases), dx.shape[3], SPLIT if split else ALONG)
    weights = TensorMap(w.reshape(-1, *w.shape[-2:]), (1, columns, STEP), 128)
    numbers = {} if split else {"g_numbers": g, "w_numbers": w}
    for phase in phases:
        blocks = -(-phase["pixels"] // ROWS) * -(-dx.shape[3] // columns)
        maps = {"g": phase.pop("g"), "w": weights}
        _run(
            device,
            "conv2d_grad_x",
            split,
            blocks,
            columns,
            {**arguments, **numbers, **phase},
            maps,
            _inner(arguments["c_out"]),
        )
    return True


def conv2d_grad_w(device: Any, arguments: dict[str, Any], parts: int | None, columns: int | None, split: bool) -> bool:
    """The weight gradient, in so many parts of the pixels, which are added in a fixed order."""
    dw, (stride, padding) = arguments["dw"], _pairs(arguments)
    size = arguments["g"].shape[1:3]
    x, g = _factors(device, split, arguments["x"], arguments["g"].reshape(-1, dw.shape[3]))
    windows = _windows(x, size, stride, (-padding[0], -padding[1]), STEP)
    pixels = g.shape[-2]
    if windows is None or not aligned(g) or not 0 < pixels <= MOST:
        return False
    kernel_h, kernel_w, c_in, c_out = dw.shape
    times = SPLIT if split else ACROSS
    columns = columns or tile_columns(kernel_h * kernel_w * -(-c_in // 64) * 64, c_out, times, cut=True)
    blocks = -(-kernel_h * kernel_w * -(-c_in // 64) // 2) * -(-c_out // columns)
    parts, part_size = cut(pixels, blocks, STEP, parts)
    target = dw if parts == 1 else device.empty((parts, *dw.shape), "float32")
    maps = {"x": windows, "g": TensorMap(g, (*[1] * split, STEP, 64), 128)}
    more = {"dw": target, "pixels": pixels, "part_size": part_size}
    _run(device, "conv2d_grad_w", split, parts * blocks, columns, {**arguments, **more}, maps, {})
    if parts > 1:
        add_parts(device, target, dw)
    return True


def tile_columns(rows: int, columns: int, times: dict[int, float], *, cut: bool = False) -> int:
    """The columns of a block's tile: of the widths that leave the fewest columns empty, or all with ``SPLIT``, the fastest.

    The time is that of a step (``ACROSS`` or ``ALONG``, as the right factor lies, or ``SPLIT``) for each round of blocks,
    or each part of a round if the inner axis is cut so that rounds are full.
    """

    def empty(n: int) -> int:
        return -(-columns // n) * n

    def time(n: int) -> float:
        rounds = -(-rows // ROWS) * -(-columns // n) / _at_a_time(n, times is SPLIT)
        return (rounds if cut else math.ceil(rounds)) * times[n]

    fewest = min(map(empty, times))
    return min((n for n in times if empty(n) == fewest or times is SPLIT), key=time)


def _at_a_time(columns: int, split: bool) -> int:
    return MULTIPROCESSORS if split else blocks_at_a_time(columns)


def _factors(device: Any, split: bool, *arrays: Array) -> list[Array]:
    """As bits of bfloat16: rounded, or images one after the other with the parts of all of them, smallest first."""
    if not split:
        return [as_bf16(device, x) for x in arrays]
    parts = [in_parts(device, x) for x in arrays]
    return [x if x.ndim < 5 else x.reshape(-1, *x.shape[2:]) for x in parts]


def _run(
    device: Any,
    operation: str,
    split: bool,
    blocks: int,
    columns: int,
    arguments: dict[str, Any],
    maps: dict[str, TensorMap],
    defines: dict[str, Any],
) -> None:
    """Launch a kernel built on ``wgmma.cuh`` with those of the arguments that it takes."""
    forward = operation == "conv2d"
    if split:
        file, kernel = SPLIT_FORWARD if forward else SPLIT_GRADIENTS, f"{operation}_float32"
        images = arguments["g" if "g" in arguments else "y"]
        arguments = {**arguments, "n_images": len(images), **{f"{name}_parts": of_x for name, of_x in maps.items()}}
    else:
        file, kernel = FORWARD if forward else GRADIENTS, f"{operation}_bf16"
        arguments = {**arguments, **maps}
    source = file_in(HERE, file)
    parameters = {p.name: arguments[p.name] for p in kernels_in(source)[kernel]}
    run_ring(device, source, kernel, blocks, columns, parameters, defines, SPLIT_STAGES if split else None)


def _inner(channels: int) -> dict[str, int]:
    return {"INNER": min(STEP, -(-channels // 16) * 16)}


def _first_layer(device: Any, arguments: dict[str, Any], defines: dict[str, Any]) -> bool:
    """The convolution of few channels, without TMA."""
    (kernel_h, kernel_w, c_in, c_out), pixels = arguments["w"].shape, arguments["pixels"]
    depth = kernel_h * kernel_w * c_in
    if not 0 < c_in <= FEW or depth > MOST_DEPTH:
        return False
    channels = 16 * (4 if depth <= 36 else 2 if depth <= 80 else 1)
    device.run(
        file_in(HERE, FIRST_LAYER),
        "conv2d_bf16",
        -(-pixels // PIXELS) * -(-c_out // channels),
        PIXELS,
        arguments,
        shared_bytes=PIXELS * 4 * (-(-depth // 4) | 1) * 4,
        defines={"DEPTH": depth, **defines},
    )
    return True


def _pairs(arguments: dict[str, Any]) -> tuple[Pair, Pair]:
    a = arguments
    return (a["stride_h"], a["stride_w"]), (a["padding_h"], a["padding_w"])


def _windows(x: Array, windows: Pair, stride: Pair, start: Pair, pixels: int = ROWS) -> Im2colMap | None:
    """The map for pixels of the windows that begin at ``start``, or None if TMA cannot bring them."""
    try:
        return Im2colMap(x, (pixels, 64), 128, start=start, windows=windows, stride=stride)
    except ValueError:
        return None


def _phases(g: Array, x_shape: tuple[int, ...], sizes: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The phases of the data gradient that have pixels, as arguments, ``g`` as windows; None if TMA cannot bring them."""
    axes: list[list[dict[str, int]]] = []
    for axis, length in zip("hw", x_shape[1:3]):
        kernel, stride, padding = (sizes[f"{name}_{axis}"] for name in ("kernel", "stride", "padding"))
        axes.append([])
        for phase in range(stride):
            first, taps = (phase - padding) % stride, max(0, -(-(kernel - phase) // stride))
            begin = (first + padding - phase) // stride - (taps - 1)
            values = (phase, first, -(-(length - first) // stride), taps, begin)
            if first < length:
                axes[-1].append(dict(zip(("phase", "first", "count", "taps", "begin"), values)))
    found = []
    for h, w in itertools.product(*axes):
        windows = _windows(g, (h["count"], w["count"]), (1, 1), (h["begin"], w["begin"]))
        if windows is None:
            return None
        places = {"first_row": h["first"], "first_column": w["first"], "rows": h["count"], "columns": w["count"]}
        more = {f"{name}_{axis}": of[name] for name in ("phase", "taps") for axis, of in (("h", h), ("w", w))}
        pixels = x_shape[0] * h["count"] * w["count"]
        found.append({"g": windows, **places, **more, "top": h["begin"], "left": w["begin"], "pixels": pixels})
    return found
