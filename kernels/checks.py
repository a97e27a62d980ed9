"""Argument checks shared by every operation: each error names the argument, what was given and what is allowed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .backend import array_module, is_cuda

FLOATS = "fd"  # the codes of float32 and float64
_NUMPY = {np.ndarray}
_WHOLE, _REAL, _FLAG = (int, np.integer), (float, int, np.floating, np.integer), (bool, np.bool_)


class WrongSize(ValueError):
    """Arrays of sizes that a rung does not take, or that are too large for a kernel's numbers or for any launch."""


def is_whole(value: Any) -> bool:
    """Whether ``value`` is a whole number, Python's or NumPy's; True and False do not count."""
    return isinstance(value, _WHOLE) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number, Python's or NumPy's; True, False and arrays do not count."""
    return isinstance(value, _REAL) and not isinstance(value, bool)


def whole(name: str, value: Any, lowest: int) -> int:
    """``value`` as a Python int. Raises ValueError unless it is whole, at least ``lowest`` and below 2^63."""
    if not (is_whole(value) and value >= lowest):
        raise ValueError(f"{name} must be a whole number of at least {lowest}, got {value!r}")
    if value >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {value!r}")
    return int(value)


def check_flag(name: str, value: Any) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, _FLAG):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_rung(rung: Any, rungs: Mapping[int, str]) -> None:
    """Raise ValueError unless ``rung`` is one of ``rungs``, a table of their files by number."""
    if rung not in rungs:
        raise ValueError(f"rung must be one of {', '.join(map(str, rungs))}, got {rung!r}")


def check_array(name: str, x: Any) -> None:
    """Raise TypeError unless ``x`` is an array, ValueError if it lies on a GPU where the GPU cannot read it.

    A GPU reads numbers of k bytes from multiples of k. (NumPy reads them from anywhere.) NumPy's masked arrays and
    matrices do not count as arrays, because they compute differently.
    """
    if type(x) is np.ndarray:
        return
    if is_cuda(x):
        if x.data.ptr % x.itemsize:
            raise ValueError(
                f"{name} must begin at a multiple of {x.itemsize} bytes on a GPU, got address {x.data.ptr}"
            )
    elif not isinstance(x, np.ndarray | np.generic) or isinstance(x, np.ma.MaskedArray | np.matrix):
        raise TypeError(f"{name}: expected a NumPy or CuPy array, got {type(x).__name__}")


def array_type(x: Any) -> Any:
    """The type of arrays on the device of ``x``."""
    return type(x) if is_cuda(x) else np.ndarray


def check_float(name: str, x: Any, ndim: int | None = None) -> None:
    """Raise TypeError unless ``x`` is a float32 or float64 array, ValueError unless it has ``ndim`` axes.

    Its numbers must be in the machine's byte order: neither a GPU nor BLAS reads others.
    """
    check_array(name, x)
    dtype = x.dtype
    if dtype.char not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64, got {dtype}")
    if not dtype.isnative:
        raise TypeError(f"{name} must be in the machine's byte order, got {dtype}: astype({dtype.name!r}) changes it")
    if ndim is not None and x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {x.shape}")


def check_same(names: str, *arrays: Any) -> None:
    """Raise TypeError unless all arrays share one dtype and one device. ``names`` as in ``"x, w"``."""
    kinds = set(map(type, arrays))
    if kinds != _NUMPY:
        for name, x in zip(names.split(", "), arrays):
            check_array(name, x)
        if len(kinds) > 1:
            array_module(*arrays)
    if len({x.dtype for x in arrays}) > 1:
        raise TypeError(f"{names} must share one dtype, got {', '.join(str(x.dtype) for x in arrays)}")


def check_index(name: str, x: Any, ndim: int | None = None) -> None:
    """Raise TypeError unless ``x`` is an integer array, ValueError unless it has ``ndim`` axes."""
    check_array(name, x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer array, got {x.dtype}")
    if ndim is not None and x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {x.shape}")


def check_shape(name: str, x: Any, shape: tuple[int, ...], why: str) -> None:
    """Raise ValueError unless ``x.shape == shape``; ``why`` says where the shape comes from."""
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)} ({why}), got {tuple(x.shape)}")


def check_saved(forward: str, saved: Any, kind: Any, shape: tuple[int, ...], parts: int | None = None) -> None:
    """Raise TypeError unless ``saved`` is a ``kind``, as ``forward`` returns it, ValueError for other shapes.

    It is one array of ``shape``, or a tuple of them: ``parts`` of them, unless the kind fixes their number.
    """
    if not isinstance(saved, kind) or (parts is not None and len(saved) != parts):
        raise TypeError(f"saved must be what {forward} returned on the same device, got {type(saved).__name__}")
    for array in saved if isinstance(saved, tuple) else (saved,):
        if getattr(array, "shape", None) != shape:
            raise ValueError("saved belongs to a forward pass of other shapes")


def pair(name: str, value: Any, lowest: int) -> tuple[int, int]:
    """``value`` as two integers (height, width), each at least ``lowest``; an int stands for both."""
    both = (value, value) if is_whole(value) else tuple(value) if np.iterable(value) else ()
    if len(both) != 2 or not all(is_whole(v) and v >= lowest for v in both):
        raise ValueError(f"{name} must be one or two integers of at least {lowest}, got {value!r}")
    if max(both) >= 2**31:
        raise ValueError(f"{name} must be below 2^31, got {value!r}")
    return int(both[0]), int(both[1])
