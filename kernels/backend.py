"""Which array library an array belongs to. The only module of this project that imports CuPy.

Nothing global decides the device: every function follows the arrays that it is given. CuPy is looked for only when
an array that is not NumPy's turns up or when somebody asks for a GPU, so importing the project never touches a driver.
"""

import functools
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray; jaxtyping's signatures say which shape


def array_module(*arrays: Any) -> ModuleType:
    """The module (``numpy`` or ``cupy``) that the arrays belong to.

    Raises TypeError for a mix of the two and for anything that is neither.
    """
    found: ModuleType | None = None
    for x in arrays:
        module = np if isinstance(x, np.ndarray | np.generic) else _module_of_stranger(x)
        if found is not None and module is not found:
            raise TypeError(
                "the arrays are on different devices: some are NumPy's and some are CuPy's; move them first"
            )
        found = module
    return np if found is None else found


def _module_of_stranger(x: Any) -> ModuleType:
    if _of_cupy(x.__class__):
        return cupy()
    raise TypeError(f"expected a NumPy or CuPy array, got {type(x).__name__}")


def is_cuda(x: Any) -> bool:
    """Whether ``x`` is a CuPy array."""
    return type(x) is not np.ndarray and _of_cupy(x.__class__)


@functools.cache
def _of_cupy(kind: type) -> bool:
    """Whether CuPy defines a type; looked up by every operation on a GPU, several times."""
    return kind.__module__.partition(".")[0] == "cupy"


def address(x: Array) -> int:
    """Where an array begins in its device's memory."""
    return int(x.data.ptr if is_cuda(x) else x.ctypes.data)


def cupy() -> ModuleType:
    """CuPy itself, or an ImportError that says how to get it."""
    if (found := sys.modules.get("cupy")) is not None:  # to look for it again would take longer than many operations
        return found
    if importlib.util.find_spec("cupy") is None:
        raise ImportError("CuPy is not installed: pip install -e '.[cuda13]' (or '.[cuda12]') on a machine with a GPU")
    import cupy

    return cupy


def special(x: Any) -> ModuleType:
    """SciPy's special functions for the array's device."""
    name = "cupyx.scipy.special" if is_cuda(x) else "scipy.special"
    return importlib.import_module(name)


def module_for(device: str) -> ModuleType:
    """The array module of a device name, ``"cpu"`` or ``"cuda"``.

    Raises ValueError for another name and for ``"cuda"`` where no GPU can be used, with the reason.
    """
    if device == "cpu":
        return np
    if device != "cuda":
        raise ValueError(f"unknown device {device!r}: use 'cpu' or 'cuda'")
    try:
        xp = cupy()
        count = xp.cuda.runtime.getDeviceCount()
    except ImportError as error:
        raise ValueError(f"no GPU can be used: {error}") from None
    except Exception as error:  # CuPy raises CUDARuntimeError, which exists only where CuPy does
        raise ValueError(f"no GPU can be used: {error}") from None
    if count == 0:
        raise ValueError("no GPU can be used: the driver reports no device")
    return xp


def to_numpy(x: Any) -> np.ndarray:
    """A NumPy array with the values of ``x``, wherever it lives."""
    return x.get() if is_cuda(x) else np.asarray(x)
