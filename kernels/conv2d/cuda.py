"""The rungs of the convolution in CUDA: which file, which grid. ``device`` is a GPU or the emulator."""

from pathlib import Path
from typing import Any

from ..backend import Array

RUNGS = {1: "1_direct.cu", 2: "2_tiled.cu"}
THREADS = 128  # of a block of rung 1
TILE = 16  # pixels and channels of a block of rung 2

Pair = tuple[int, int]


def conv2d(device: Any, x: Array, w: Array, b: Array | None, *, stride: Pair, padding: Pair, rung: int) -> Array:
    """As ``conv2d.conv2d``, for contiguous float32 arrays on the device."""
    sizes = _sizes(x.shape, w.shape, stride, padding)
    y = device.empty((x.shape[0], sizes["h_out"], sizes["w_out"], sizes["c_out"]), "float32")
    arguments = {"x": x, "w": w, "b": b, "y": y, **sizes}
    if rung == 1:
        _run(device, rung, "conv2d", y.size, {**arguments, "count": y.size})
    elif y.size:
        pixels = y.size // sizes["c_out"]
        blocks = -(-pixels // TILE) * -(-sizes["c_out"] // TILE)
        source = Path(__file__).parent / RUNGS[rung]
        device.run(source, "conv2d", blocks, TILE * TILE, {**arguments, "pixels": pixels})
    return device.result(y, "y")


def conv2d_grad_x(device: Any, g: Array, w: Array, x_shape: tuple[int, ...], *, stride: Pair, padding: Pair) -> Array:
    """As ``conv2d.conv2d_grad_x``; rung 1 is all there is."""
    dx = device.empty(x_shape, "float32")
    arguments = {"g": g, "w": w, "dx": dx, "count": dx.size, **_sizes(x_shape, w.shape, stride, padding)}
    _run(device, 1, "conv2d_grad_x", dx.size, arguments)
    return device.result(dx, "dx")


def conv2d_grad_w(device: Any, x: Array, g: Array, w_shape: tuple[int, ...], *, stride: Pair, padding: Pair) -> Array:
    """As ``conv2d.conv2d_grad_w``; rung 1 is all there is."""
    dw = device.empty(w_shape, "float32")
    sizes = _sizes(x.shape, w_shape, stride, padding)
    arguments = {"x": x, "g": g, "dw": dw, "count": dw.size, "n_images": x.shape[0], **sizes}
    _run(device, 1, "conv2d_grad_w", dw.size, arguments)
    return device.result(dw, "dw")


def _run(device: Any, rung: int, kernel: str, count: int, arguments: dict[str, Any]) -> None:
    device.run(Path(__file__).parent / RUNGS[rung], kernel, -(-count // THREADS), THREADS, arguments)


def _sizes(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> dict[str, int]:
    height, width, c_in = x_shape[1:]
    kernel_h, kernel_w, _, c_out = w_shape
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
