"""Arrays of NumPy, torch and CuPy in and out of a sampler, sharing memory where the device allows it."""

from collections.abc import Callable
from typing import Any

import numpy as np

LIBRARIES = ("numpy", "torch", "cupy")


def into(library: str, array: Any, device: Any = None) -> Any:
    """A NumPy array as one of the library; on the CPU not copied, unless it has negative strides or is read-only."""
    if library == "numpy":
        return array
    if library == "torch":
        import torch

        sound = array.flags.writeable and all(stride >= 0 for stride in array.strides)
        tensor = torch.from_numpy(array if sound else array.copy())
        return tensor if device is None else tensor.to(device)
    if library == "cupy":
        from kernels.backend import module_for

        return module_for("cuda").asarray(array)
    raise ValueError(f"arrays must be one of {', '.join(LIBRARIES)}, got {library!r}")


def out(array: Any) -> Any:
    """An array of any of them as NumPy's, sharing memory if it is on the CPU."""
    if hasattr(array, "detach"):  # torch, whose tensors may have a gradient or lie on another device
        return array.detach().cpu().numpy()
    return np.asarray(array.get() if _of_cupy(array) else array)


def speaking(library: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy arrays as one that takes and returns the library's arrays."""

    def spoken(*given: Any, **settings: Any) -> Any:
        found = function(*(out(a) if hasattr(a, "detach") or _of_cupy(a) else a for a in given), **settings)
        return into(library, found) if isinstance(found, np.ndarray) else found

    return function if library == "numpy" else spoken


def _of_cupy(array: Any) -> bool:
    return hasattr(array, "get") and hasattr(array, "device")
