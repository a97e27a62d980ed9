r"""Matrix products: $a b$, the affine layer $x w + b$ and the sum over rows that is the gradient of its bias."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from ..backend import Array, array_module, is_cuda
from ..checks import check_float, check_same, check_shape
from ..device import contiguous, device_of
from ..precision import rounded
from . import numpy_split

__all__ = ["linear", "matmul", "sum_rows"]


def matmul(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$y_{ij} = \sum_l a_{il} b_{lj}$ with ``numpy.matmul``'s rules for leading axes and vectors; y is C-contiguous.

    Large products are spread over the threads; transposed views are read as they lie. Raises TypeError for other
    dtypes than float32 and float64, ValueError for shapes that do not fit.
    """
    if _plain(a, b) and a.ndim == 2 == b.ndim and a.shape[1] == b.shape[0] and device_of(a) is None:
        (m, k), n = a.shape, b.shape[1]
        a, b = rounded(a, b)
        if numpy_split.direct(m, k, n):
            return np.matmul(a, b)
        y = np.empty((m, n), a.dtype)
        numpy_split.product_2d(a, b, y)
        return y
    _check_matmul(a, b)
    if (device := device_of(a)) is not None:
        return _on_device(device, a, b)
    if is_cuda(a):
        return array_module(a).matmul(a, b)
    a, b = rounded(a, b)
    return numpy_split.held(a, b) if a.ndim == 1 or b.ndim == 1 else numpy_split.product(a, b)


def _plain(a: Array, b: Array) -> bool:
    """Whether the arrays need no further check except of their shapes; cheap, because small products are many."""
    return (
        type(a) is np.ndarray
        and type(b) is np.ndarray
        and (dtype := a.dtype) is b.dtype
        and dtype.char in "fd"
        and dtype.isnative
    )


def _check_matmul(a: Array, b: Array) -> None:
    for name, x in (("a", a), ("b", b)):
        check_float(name, x)
        if x.ndim == 0:
            raise ValueError(f"{name} must have at least 1 axis, got a scalar")
    check_same("a, b", a, b)
    if a.shape[-1] != b.shape[-min(b.ndim, 2)]:
        axis = "only" if b.ndim == 1 else "second to last"
        raise ValueError(f"a's last axis must be as long as b's {axis} one, got shapes {a.shape} and {b.shape}")
    if a.shape[:-2] != b.shape[:-2]:
        try:
            np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            raise ValueError(
                f"the leading axes of a and b cannot be broadcast, got shapes {a.shape} and {b.shape}"
            ) from None


def linear(
    x: Float[Array, "*batch c_in"], w: Float[Array, "c_in c_out"], b: Float[Array, " c_out"] | None = None
) -> Float[Array, "*batch c_out"]:
    r"""$y = x w + b$ over the last axis of x (..., c_in), with w (c_in, c_out) and b (c_out,) -> (..., c_out).

    Raises TypeError for other dtypes than float32 and float64, ValueError for shapes that do not fit.
    """
    if not _plain(x, w) or w.ndim != 2:
        check_float("x", x)
        check_float("w", w, 2)
        check_same("x, w", x, w)
    if x.ndim == 0 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"x must have a last axis of length {w.shape[0]} as w has rows, got shape {x.shape}")
    if b is not None:
        if not _plain(x, b):
            check_same("x, b", x, b)
        check_shape("b", b, (w.shape[1],), "one number for each column of w")
    if (device := device_of(x)) is not None:
        from . import cuda

        rows = contiguous(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
        w, transposed = _as_it_lies(w)
        said = cuda.by_precision(device)
        y = cuda.matmul(device, rows, w, contiguous(b), transpose_b=transposed, precision=said)
        return y.reshape(*x.shape[:-1], y.shape[1])
    if is_cuda(x):
        y = x @ w
        return y if b is None else y + b
    x, w = rounded(x, w)
    return numpy_split.linear(x, w, b)


def _on_device(device: Any, a: Array, b: Array) -> Array:
    """``matmul`` by a rung, which takes arrays of at least two axes and the same leading ones, or none."""
    from . import cuda

    row, column = a.ndim == 1, b.ndim == 1
    a, b = a[None] if row else a, b[:, None] if column else b
    if a.ndim > 2 < b.ndim and a.shape[:-2] != b.shape[:-2]:
        xp, leading = array_module(a, b), np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (xp.broadcast_to(x, (*leading, *x.shape[-2:])) for x in (a, b))
    (a, transpose_a), (b, transpose_b) = _as_it_lies(a), _as_it_lies(b)
    said = cuda.by_precision(device)
    y = cuda.matmul(device, a, b, transpose_a=transpose_a, transpose_b=transpose_b, precision=said)
    y = y[..., 0] if column else y
    return (y[..., 0] if column else y[..., 0, :]) if row else y


def _as_it_lies(x: Array) -> tuple[Array, bool]:
    """A contiguous array and whether it is ``x`` transposed; a copy only of what is neither."""
    turned = x.swapaxes(-1, -2)
    if turned.flags.c_contiguous and not x.flags.c_contiguous:
        return contiguous(turned), True
    return contiguous(x), False


def sum_rows(g: Float[Array, "*batch c"]) -> Float[Array, " c"]:
    r"""$s_c = \sum_i g_{ic}$ over all axes but the last, g (..., c) -> (c,): the gradient of a bias.

    Raises TypeError for other dtypes than float32 and float64, ValueError for a scalar.
    """
    check_float("g", g)
    if g.ndim == 0:
        raise ValueError("g must have at least 1 axis, got a scalar")
    return g.sum(axis=tuple(range(g.ndim - 1))) if is_cuda(g) else numpy_split.sum_rows(g)
