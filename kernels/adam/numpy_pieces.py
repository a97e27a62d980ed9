r"""Adam in pieces: as few passes as possible, each over a piece that is in the cache.

The update has three sums of the form $y \leftarrow a x + b y$. A ufunc does one multiplication or one addition per
pass, so each of them takes three; OpenBLAS, which NumPy brings along in most builds, has the whole sum as one function
(axpby). With it a step is seven passes, without it thirteen. Both paths are tested against the same definition.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..threads import TILE_BYTES, map_tiles, scratch, split

Axpby = Callable[[float, Any, float, Any], None]


def run(p: Any, g: Any, m: Any, v: Any, settings: tuple[float, float, float, float, float]) -> None:
    """One step in place; ``settings`` = beta1, beta2, rate, floor, the factor that decay leaves of p."""
    axpby = find_axpby(p.dtype.char) if all(x.flags.c_contiguous and x.flags.aligned for x in (p, g, m, v)) else None
    with np.errstate(all="ignore"):  # a gradient of infinity becomes NaN here; the caller looks at the loss
        map_tiles(
            lambda s: piece(p[s], g[s], m[s], v[s], settings, axpby or axpby_by_ufuncs),
            split(p.size, TILE_BYTES // p.itemsize, TILE_BYTES // p.itemsize // 2),
        )


def piece(p: Any, g: Any, m: Any, v: Any, settings: tuple[float, float, float, float, float], axpby: Axpby) -> None:
    """$m$, $v$, then $p$ = decay p - rate m / (sqrt(v) + floor)."""
    beta1, beta2, rate, floor, keep = settings
    t = scratch("adam", p.shape, p.dtype)
    axpby(1 - beta1, g, beta1, m)
    np.multiply(g, g, out=t)
    axpby(1 - beta2, t, beta2, v)
    np.sqrt(v, out=t)
    np.add(t, floor, out=t)
    np.divide(m, t, out=t)
    axpby(-rate, t, keep, p)


def axpby_by_ufuncs(a: float, x: Any, b: float, y: Any) -> None:
    """$y = a x + b y$ in three passes."""
    product = np.multiply(x, a, out=scratch("adam product", x.shape, x.dtype))
    if b != 1:
        np.multiply(y, b, out=y)
    np.add(y, product, out=y)


@functools.cache
def find_axpby(char: str) -> Axpby | None:
    """OpenBLAS's ``cblas_?axpby`` for contiguous arrays of this dtype, or None where NumPy runs on another BLAS."""
    from threadpoolctl import ThreadpoolController

    letter, real = ("s", ctypes.c_float) if char == "f" else ("d", ctypes.c_double)
    for library in ThreadpoolController().select(internal_api="openblas").lib_controllers:
        for prefix in ("scipy_", ""):
            for suffix, integer in (("64_", ctypes.c_int64), ("_64", ctypes.c_int64), ("", ctypes.c_int)):
                function = getattr(library.dynlib, f"{prefix}cblas_{letter}axpby{suffix}", None)
                if function is not None:
                    function.argtypes = [integer, real, ctypes.c_void_p, integer, real, ctypes.c_void_p, integer]
                    function.restype = None
                    found = _wrap(function)
                    return found if _works(found, np.dtype(char)) else None
    return None


def _wrap(function: Any) -> Axpby:
    def axpby(a: float, x: Any, b: float, y: Any) -> None:
        function(x.size, a, x.ctypes.data, 1, b, y.ctypes.data, 1)

    return axpby


def _works(axpby: Axpby, dtype: Any) -> bool:
    """Whether the function does what its name says: it is called through a symbol, without a header."""
    x, y = np.arange(37, dtype=dtype), np.arange(37, dtype=dtype)[::-1].copy()
    want = 2 * x - 3 * y
    axpby(2.0, x, -3.0, y)
    return bool(np.array_equal(y, want))
