"""The activations in CUDA: which file, which grid. ``device`` is a GPU or the emulator.

Each function is that of ``activation`` for contiguous float32 arrays on the device.
"""

from pathlib import Path
from typing import Any

from ..backend import Array
from ..source import file_in

RUNGS = {1: "1_fours.cu"}
PER_BLOCK = 4 * 256

HERE = Path(__file__).parent


def silu(device: Any, x: Array) -> Array:
    """x sigmoid(x)."""
    return _map(device, "silu", x)


def silu_grad(device: Any, g: Array, x: Array) -> Array:
    """g times the slope of silu at x."""
    return _map(device, "silu_grad", x, g)


def gelu(device: Any, x: Array) -> Array:
    """The tanh form."""
    return _map(device, "gelu", x)


def gelu_grad(device: Any, g: Array, x: Array) -> Array:
    """g times the slope of gelu at x."""
    return _map(device, "gelu_grad", x, g)


def softplus(device: Any, x: Array) -> Array:
    """ln(1 + exp(x))."""
    return _map(device, "softplus", x)


def _map(device: Any, kernel: str, x: Array, g: Array | None = None) -> Array:
    y = device.empty(x.shape, "float32")
    arguments = {"x": x, "y": y, "n": x.size} | ({} if g is None else {"g": g})
    device.run(file_in(HERE, RUNGS[1]), kernel, -(-x.size // PER_BLOCK), 256, arguments)
    return device.result(y, "y")
