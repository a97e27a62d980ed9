"""On which device an operation's arrays are: that decides whether its CUDA rungs are taken.

NumPy arrays are on none, CuPy arrays on the current GPU. ``running_on(Emulator())`` makes NumPy arrays count as being
on the emulator, so that whole models run on the very same kernels where there is no GPU.

An operation asks ``device_of`` after its checks and imports its ``cuda.py`` only if there is a device: without one
nothing of CUDA is imported. The rung it takes is the last one whose result is as exact as float32 arithmetic makes it,
or within ``precision.precision("bf16")`` the last one on tensor cores. (The nearest code's rungs for tensor cores round
too, but bound the error and decide close cases exactly. The layers on eight-bit numbers lose nothing on tensor cores,
where int8 and the parts of a float are multiplied exactly.)
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from .backend import array_module, cupy, is_cuda

_stand_in: ContextVar[Any] = ContextVar("the device of NumPy arrays", default=None)


@contextmanager
def running_on(device: Any) -> Iterator[Any]:
    """Inside, NumPy arrays count as arrays on ``device``, an ``emulator.Emulator``; in this thread only."""
    before = _stand_in.set(device)
    try:
        yield device
    finally:
        _stand_in.reset(before)


def device_of(*arrays: Any) -> Any:
    """The device that can run kernels on these arrays (None among them does not count), or None.

    None for NumPy arrays outside of ``running_on``, for float64 and for arrays of another GPU than the current one.
    Raises launch.NoCuda for a GPU that is not supported.
    """
    if isinstance(arrays[0], np.ndarray):
        device = _stand_in.get()
    elif is_cuda(arrays[0]):
        device = _gpu_of(arrays)
    else:
        return None
    return None if device is None or any(x is not None and x.dtype.char == "d" for x in arrays) else device


def _gpu_of(arrays: tuple[Any, ...]) -> Any:
    current = cupy().cuda.Device().id
    return _gpu(current) if all(x is None or x.device.id == current for x in arrays) else None


@functools.cache
def _gpu(number: int) -> Any:
    """The device of the current GPU, made once for each."""
    from .launch import Device

    return Device()


def in_order(x: Any) -> bool:
    """Whether ``x`` lies in memory as kernels need it: contiguous, from a multiple of its item size on.

    (Where an array on a GPU begins, ``checks.check_array`` has checked.) A NumPy scalar is not an array.
    """
    flags = x.flags
    return bool(flags.c_contiguous and getattr(flags, "aligned", True)) and not isinstance(x, np.generic)


def contiguous(x: Any) -> Any:
    """``x`` as kernels need it, a copy if it does not lie like that; None stays None."""
    return x if x is None or in_order(x) else array_module(x).asarray(x).copy()
