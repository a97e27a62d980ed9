"""Rung 4 of the convolution and its gradients: how arrays are described to TMA, which grid, and what it cannot take.

Each function gets a kernel's ``arguments`` (arrays, and the sizes by their names in the kernels) and says whether it
has computed the result; if not, nothing was launched, and it is another rung's.
"""

import itertools
import math
from pathlib import Path
from typing import Any

from ..backend import Array
from ..matmul.cuda import add_parts, aligned, as_bf16, blocks_at_a_time, cut, rows_of_16_bytes, run_ring
from ..source import file_in, kernels_in
from ..tensor_map import MOST, Im2colMap, TensorMap

FORWARD, GRADIENTS = "4_wgmma.cu", "4_wgmma_gradients.cu"
FIRST_LAYER = "3_first_layer.cu"
ROWS, STEP = 128, 64  # of a tile of the left factor, and along the inner axis: matmul/wgmma.cuh
FEW, MOST_DEPTH = 4, 150  # what FIRST_LAYER takes: channels, and kernel_h * kernel_w * c_in
PIXELS = 128  # of a block of FIRST_LAYER

# Microseconds of a step of all the blocks that run at a time, by the columns of their tiles: 3x3, 640 to 640 channels,
# on an H100.
ACROSS = {64: 0.64, 128: 0.79, 160: 0.66, 256: 0.78}
ALONG = {64: 0.68, 128: 0.79, 160: 0.53, 256: 0.85}

HERE = Path(__file__).parent
Pair = tuple[int, int]


def conv2d(device: Any, arguments: dict[str, Any], defines: dict[str, Any], columns: int | None) -> bool:
    """The convolution: TMA finds the windows of x, the weights come with c_out padded to a multiple of 8."""
    x, w, y = as_bf16(device, arguments["x"]), as_bf16(device, arguments["w"]), arguments["y"]
    stride, padding = _pairs(arguments)
    windows = _windows(x, y.shape[1:3], stride, (-padding[0], -padding[1]))
    if windows is None:
        return _first_layer(device, {**arguments, "x": x, "w": w}, defines)
    pixels, c_out = arguments["pixels"], y.shape[3]
    columns = columns or tile_columns(pixels, c_out, ACROSS)
    blocks = min(-(-pixels // ROWS) * -(-c_out // columns), blocks_at_a_time(columns))
    wide = rows_of_16_bytes(w)
    maps = {"x": windows, "w": TensorMap(wide.reshape(-1, *wide.shape[2:]), (1, STEP, 64), 128)}
    _run(device, FORWARD, "conv2d_bf16", blocks, columns, {**arguments, **maps}, {**defines, **_inner(w.shape[2])})
    return True


def conv2d_grad_x(device: Any, arguments: dict[str, Any], columns: int | None) -> bool:
    """The data gradient, one launch for each phase."""
    g, w, dx = as_bf16(device, arguments["g"]), as_bf16(device, arguments["w"]), arguments["dx"]
    phases = _phases(g, dx.shape, arguments) if dx.size else None
    if phases is None:
        return False
    columns = columns or tile_columns(max(phase["pixels"] for phase in phases), dx.shape[3], ALONG)
    numbers = {"g_numbers": g, "w_numbers": w, "w": TensorMap(w.reshape(-1, *w.shape[2:]), (1, columns, STEP), 128)}
    for phase in phases:
        blocks = -(-phase["pixels"] // ROWS) * -(-dx.shape[3] // columns)
        _run(
            device,
            GRADIENTS,
            "conv2d_grad_x_bf16",
            blocks,
            columns,
            {**arguments, **numbers, **phase},
            _inner(w.shape[3]),
        )
    return True


def conv2d_grad_w(device: Any, arguments: dict[str, Any], parts: int | None, columns: int | None) -> bool:
    """The weight gradient, in so many parts of the pixels, which are added in a fixed order."""
    x, g, dw = as_bf16(device, arguments["x"]), as_bf16(device, arguments["g"]), arguments["dw"]
    stride, padding = _pairs(arguments)
    windows = _windows(x, g.shape[1:3], stride, (-padding[0], -padding[1]), STEP)
    g = g.reshape(-1, g.shape[3])
    if windows is None or not aligned(g) or not 0 < len(g) <= MOST:
        return False
    kernel_h, kernel_w, c_in, c_out = dw.shape
    columns = columns or tile_columns(kernel_h * kernel_w * -(-c_in // 64) * 64, c_out, ACROSS, cut=True)
    blocks = -(-kernel_h * kernel_w * -(-c_in // 64) // 2) * -(-c_out // columns)
    parts, part_size = cut(len(g), blocks, STEP, parts)
    target = dw if parts == 1 else device.empty((parts, *dw.shape), "float32")
    more = {"x": windows, "g": TensorMap(g, (STEP, 64), 128), "dw": target, "pixels": len(g), "part_size": part_size}
    _run(device, GRADIENTS, "conv2d_grad_w_bf16", parts * blocks, columns, {**arguments, **more}, {})
    if parts > 1:
        add_parts(device, target, dw)
    return True


def tile_columns(rows: int, columns: int, times: dict[int, float], *, cut: bool = False) -> int:
    """The columns of a block's tile: of the widths that leave the fewest columns empty, the fastest.

    The time is that of a step (``ACROSS`` or ``ALONG``, as the right factor lies) for each round of blocks, or each
    part of a round if the inner axis is cut so that rounds are full.
    """

    def empty(n: int) -> int:
        return -(-columns // n) * n

    def time(n: int) -> float:
        rounds = -(-rows // ROWS) * -(-columns // n) / blocks_at_a_time(n)
        return (rounds if cut else math.ceil(rounds)) * times[n]

    fewest = min(map(empty, times))
    return min((n for n in times if empty(n) == fewest), key=time)


def _run(
    device: Any, file: str, kernel: str, blocks: int, columns: int, arguments: dict[str, Any], defines: dict[str, Any]
) -> None:
    """Launch a kernel built on ``wgmma.cuh`` with those of the arguments that it takes."""
    parameters = kernels_in(file_in(HERE, file))[kernel]
    run_ring(
        device, file_in(HERE, file), kernel, blocks, columns, {p.name: arguments[p.name] for p in parameters}, defines
    )


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
