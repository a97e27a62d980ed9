"""Argument checks shared by every operation: each error names the argument, what was given and what is allowed."""

from typing import Any

import numpy as np

from .backend import array_module

FLOATS = "fd"  # the codes of float32 and float64


def check_float(name: str, x: Any, ndim: int | None = None) -> None:
    """Raise TypeError unless ``x`` is a float32 or float64 array, ValueError unless it has ``ndim`` axes."""
    array_module(x)
    if x.dtype.char not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64, got {x.dtype}")
    if ndim is not None and x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {x.shape}")


def check_same(names: str, *arrays: Any) -> None:
    """Raise TypeError unless all arrays share one dtype and one device. ``names`` as in ``"x, w"``."""
    array_module(*arrays)
    if any(x.dtype != arrays[0].dtype for x in arrays):
        raise TypeError(f"{names} must share one dtype, got {', '.join(str(x.dtype) for x in arrays)}")


def check_index(name: str, x: Any, ndim: int | None = None) -> None:
    """Raise TypeError unless ``x`` is an integer array, ValueError unless it has ``ndim`` axes."""
    array_module(x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer array, got {x.dtype}")
    if ndim is not None and x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {x.shape}")


def check_shape(name: str, x: Any, shape: tuple[int, ...], why: str) -> None:
    """Raise ValueError unless ``x.shape == shape``; ``why`` says where the shape comes from."""
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)} ({why}), got {tuple(x.shape)}")


def pair(name: str, value: Any, lowest: int) -> tuple[int, int]:
    """``value`` as two integers (height, width), each at least ``lowest``; an int stands for both."""
    both = (value, value) if isinstance(value, int | np.integer) else tuple(value)
    if len(both) != 2 or not all(isinstance(v, int | np.integer) and v >= lowest for v in both):
        raise ValueError(f"{name} must be one or two integers of at least {lowest}, got {value!r}")
    return int(both[0]), int(both[1])
