"""The rungs of the convolution and its gradients in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

import math
from pathlib import Path
from typing import Any

from ..backend import Array
from ..checks import WrongSize, check_rung
from ..matmul.cuda import (
    BLOCKS,
    Tile,
    add_parts,
    aligned,
    as_bf16,
    cut,
    defines_of,
    mma_tile_for,
    run_mma,
    rung_for,
    threads_of,
    tile_for,
    together,
)
from ..source import file_in
from ..tensor_map import MOST
from . import cuda_wgmma

RUNGS = {1: "1_direct.cu", 2: "2_tiled.cu", 3: "3_mma.cu", 4: cuda_wgmma.FORWARD}
GRADIENT_RUNGS = {1: "1_direct.cu", 2: "2_tiled_gradients.cu", 3: "3_mma_gradients.cu", 4: cuda_wgmma.GRADIENTS}
FLOAT32_RUNGS = {1: RUNGS[1], 2: RUNGS[2], 4: cuda_wgmma.SPLIT_FORWARD}  # as exact as float32, or about
FLOAT32_GRADIENT_RUNGS = {1: RUNGS[1], 2: GRADIENT_RUNGS[2], 4: cuda_wgmma.SPLIT_GRADIENTS}
THREADS = 128  # of a block of rung 1
WINDOWS = 64  # pixels whose windows a block of the weight gradient works out at a time: a part is a multiple

HERE = Path(__file__).parent
Pair = tuple[int, int]


def conv2d(
    device: Any,
    x: Array,
    w: Array,
    b: Array | None,
    *,
    stride: Pair,
    padding: Pair,
    rung: int | None = None,
    time: Array | None = None,
    residual: Array | None = None,
    silu: bool = False,
    precision: str = "bf16",
    tile: Tile | None = None,
) -> Array:
    """As ``conv2d.conv2d``, for contiguous float32 arrays on the device, and what may follow in the same launch.

    That is f(conv2d + time[n, o] + residual[n, i, j, o]) with ``time`` (n, c_out), ``residual`` of y's shape and f the
    SiLU if ``silu``. ``tile`` is chosen by the shapes unless given. Rung 3 rounds x and w to bfloat16, unless they are
    that already (uint16 arrays of the bits, see ``bfloat16``), or to tf32 if ``precision`` says so; all else is
    float32. Rung 4 is for bfloat16, of ``tile`` it takes only the columns (64, 128, 160 or 256), and what TMA cannot
    take (channels that are no multiple of 8, strides of more than 8) it leaves to rung 3, or to a kernel for 1 to 4
    channels. With the ``precision`` "float32" rung 4 takes three bfloat16 numbers for each, any number of channels and
    64 or 128 columns, and leaves to rung 2 what it does not take; there is no rung 3. The default rung is the last one
    that pays.
    """
    sizes = _sizes(x.shape, w.shape, stride, padding)
    pixels = x.shape[0] * sizes["h_out"] * sizes["w_out"]
    rung = _rung_for(device, precision, pixels, sizes["c_out"], w.shape[2], w.shape[:2]) if rung is None else rung
    check_rung(rung, FLOAT32_RUNGS if precision == "float32" else RUNGS)
    y = device.empty((x.shape[0], sizes["h_out"], sizes["w_out"], sizes["c_out"]), "float32")
    arguments = {"x": x, "w": w, "b": b, "time": time, "residual": residual, "y": y, **sizes}
    asked = {"TIME": time is not None, "RESIDUAL": residual is not None, "SILU": silu}
    defines: dict[str, Any] = {name: "true" for name, is_asked in asked.items() if is_asked}
    if rung == 1:
        blocks = -(-y.size // THREADS)
        device.run(file_in(HERE, RUNGS[1]), "conv2d", blocks, THREADS, {**arguments, "count": y.size}, defines=defines)
    elif y.size:
        arguments["pixels"] = pixels
        columns, split = tile[1] if tile else None, precision == "float32"
        if _by_wgmma(rung, precision) and cuda_wgmma.conv2d(device, arguments, defines, columns, split):
            return device.result(y, "y")
        rung = min(rung, 2 if split else 3)
        tile = tile or (tile_for if rung == 2 else mma_tile_for)(pixels, sizes["c_out"])
        blocks = -(-pixels // tile[0]) * -(-sizes["c_out"] // tile[1])
        defines |= defines_of(tile)
        if rung == 2:
            device.run(file_in(HERE, RUNGS[2]), "conv2d", blocks, threads_of(tile), arguments, defines=defines)
        else:
            arguments |= _rounded(device, precision, x=x, w=w)
            defines |= _alignment(X=aligned(arguments["x"]), W=aligned(arguments["w"]))
            run_mma(device, file_in(HERE, RUNGS[3]), f"conv2d_{precision}", blocks, tile, arguments, defines)
    return device.result(y, "y")


def conv2d_grad_x(
    device: Any,
    g: Array,
    w: Array,
    x_shape: tuple[int, ...],
    *,
    stride: Pair,
    padding: Pair,
    rung: int | None = None,
    precision: str = "bf16",
    tile: Tile | None = None,
) -> Array:
    """As ``conv2d.conv2d_grad_x``, for contiguous float32 arrays on the device. On rounding and rungs see ``conv2d``."""
    if rung is None:
        rung = _rung_for(device, precision, math.prod(g.shape[:3]), x_shape[3], g.shape[3], w.shape[:2])
    check_rung(rung, FLOAT32_GRADIENT_RUNGS if precision == "float32" else GRADIENT_RUNGS)
    dx = device.empty(x_shape, "float32")
    arguments = {"g": g, "w": w, "dx": dx, **_sizes(x_shape, w.shape, stride, padding)}
    columns, split = tile[1] if tile else None, precision == "float32"
    if _by_wgmma(rung, precision) and cuda_wgmma.conv2d_grad_x(device, arguments, columns, split):
        return device.result(dx, "dx")
    rung = min(rung, 2 if split else 3)
    source = file_in(HERE, GRADIENT_RUNGS[rung])
    if rung == 1:
        device.run(source, "conv2d_grad_x", -(-dx.size // THREADS), THREADS, {**arguments, "count": dx.size})
    else:
        n, height, width, c_in = x_shape
        pixels = n * -(-height // stride[0]) * -(-width // stride[1])  # of the largest phase
        tile = tile or (tile_for if rung == 2 else mma_tile_for)(pixels, c_in)
        blocks = stride[0] * stride[1] * -(-pixels // tile[0]) * -(-c_in // tile[1])
        arguments["n_images"] = n
        if rung == 2:
            device.run(source, "conv2d_grad_x", blocks, threads_of(tile), arguments, defines=defines_of(tile))
        else:
            arguments |= _rounded(device, precision, g=g, w=w)
            defines = defines_of(tile) | _alignment(G=aligned(arguments["g"]) and aligned(arguments["w"]))
            run_mma(device, source, f"conv2d_grad_x_{precision}", blocks, tile, arguments, defines)
    return device.result(dx, "dx")


def conv2d_grad_w(
    device: Any,
    x: Array,
    g: Array,
    w_shape: tuple[int, ...],
    *,
    stride: Pair,
    padding: Pair,
    rung: int | None = None,
    precision: str = "bf16",
    tile: Tile | None = None,
    parts: int | None = None,
) -> Array:
    """As ``conv2d.conv2d_grad_w``, for contiguous float32 arrays on the device; the same bits every time.

    ``tile`` and the number of ``parts`` that the pixels are cut into are chosen by the shapes alone unless given. On
    rounding and rungs see ``conv2d``.
    """
    if rung is None:
        rung = _rung_for(device, precision, math.prod(g.shape[:3]), w_shape[3], w_shape[2], w_shape[:2], rows=64)
    check_rung(rung, FLOAT32_GRADIENT_RUNGS if precision == "float32" else GRADIENT_RUNGS)
    dw = device.empty(w_shape, "float32")
    arguments = {"x": x, "g": g, "dw": dw, **_sizes(x.shape, w_shape, stride, padding)}
    columns, split = tile[1] if tile else None, precision == "float32"
    if _by_wgmma(rung, precision) and cuda_wgmma.conv2d_grad_w(device, arguments, parts, columns, split):
        return device.result(dw, "dw")
    rung = min(rung, 2 if split else 3)
    source = file_in(HERE, GRADIENT_RUNGS[rung])
    if rung == 1:
        arguments |= {"count": dw.size, "n_images": x.shape[0]}
        device.run(source, "conv2d_grad_w", -(-dw.size // THREADS), THREADS, arguments)
        return device.result(dw, "dw")
    c_out = w_shape[3]
    rows, pixels = dw.size // c_out, g.size // c_out
    tile = tile or (tile_for if rung == 2 else mma_tile_for)(rows, c_out)
    blocks = -(-rows // tile[0]) * -(-c_out // tile[1])
    parts, part_size = cut(pixels, blocks, WINDOWS, parts, together(tile) if rung == 2 else BLOCKS)
    if parts > 1:
        arguments["dw"] = device.empty((parts, *w_shape), "float32")
    arguments |= {"pixels": pixels, "part_size": part_size}
    defines: dict[str, Any] = defines_of(tile)
    if rung == 2:
        device.run(source, "conv2d_grad_w", parts * blocks, threads_of(tile), arguments, defines=defines)
    else:
        arguments |= _rounded(device, precision, x=x, g=g)
        defines |= _alignment(X=aligned(arguments["x"]), G=aligned(arguments["g"]))
        run_mma(device, source, f"conv2d_grad_w_{precision}", parts * blocks, tile, arguments, defines)
    if parts > 1:
        add_parts(device, arguments["dw"], dw)
    return device.result(dw, "dw")


def _by_wgmma(rung: int, precision: str) -> bool:
    return rung == 4 and precision != "tf32"


def _rung_for(
    device: Any, precision: str, pixels: int, across: int, inner: int, kernel: tuple[int, ...], rows: int = 16
) -> int:
    """``matmul.cuda.rung_for``; float32 stays on rung 2 if most of what rung 4 would multiply were beyond the last channel.

    ``across`` are the channels that the result has, ``inner`` those that are multiplied in multiples of ``rows``.
    """
    rung = rung_for(device, precision, pixels, across, inner * math.prod(kernel))
    if precision != "float32":
        return rung
    empty = 2 * inner * across <= -(-inner // rows) * rows * -(-across // 64) * 64
    return rung if rung == 4 and not empty else 2


def _rounded(device: Any, precision: str, **arrays: Array) -> dict[str, Array]:
    return {name: as_bf16(device, x) if precision == "bf16" else x for name, x in arrays.items()}


def _alignment(**factors: bool) -> dict[str, str]:
    return {f"ALIGNED_{name}": str(is_aligned).lower() for name, is_aligned in factors.items()}


def _sizes(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> dict[str, int]:
    height, width, c_in = x_shape[1:]
    kernel_h, kernel_w, _, c_out = w_shape
    for name, size in (
        ("kernel_h * kernel_w * channels", kernel_h * kernel_w * max(c_in, c_out)),
        ("height + 2 * padding + kernel_h", height + 2 * padding[0] + kernel_h),
        ("width + 2 * padding + kernel_w", width + 2 * padding[1] + kernel_w),
    ):
        if size > MOST:
            raise WrongSize(f"{name} of a convolution must be at most {MOST}, got {size}")
    return {
        "height": height,
        "width": width,
        "c_in": c_in,
        "h_out": (height + 2 * padding[0] - kernel_h) // stride[0] + 1,
        "w_out": (width + 2 * padding[1] - kernel_w) // stride[1] + 1,
        "c_out": c_out,
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": stride[0],
        "stride_w": stride[1],
        "padding_h": padding[0],
        "padding_w": padding[1],
    }
