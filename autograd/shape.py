r"""Moving numbers without changing them: each operation's product moves them back, and adds where one was used twice."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.backend import array_module
from kernels.embedding import embedding_grad

from .tensor import operation, raw


def axis_of(axis: int, ndim: int) -> int:
    """The axis counted from the front. Raises ValueError if there is none."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis must be from {-ndim} to {ndim - 1}, got {axis}")
    return axis % ndim


@operation(lambda g, y, x, shape, old: reshape(g, old), keep="")
def _reshape(x: Any, *, shape: tuple[int, ...], old: tuple[int, ...]) -> Any:
    return np.reshape(x, shape)


def reshape(x: Any, shape: int | Sequence[int]) -> Any:
    r"""The same numbers in row-major order under another shape (one entry may be -1)."""
    return _reshape(x, shape=(shape,) if isinstance(shape, int) else tuple(shape), old=tuple(x.shape))


@operation(lambda g, y, x, axes: transpose(g, tuple(int(i) for i in np.argsort(axes))), keep="")
def _transpose(x: Any, *, axes: tuple[int, ...]) -> Any:
    return np.transpose(x, axes)


def transpose(x: Any, axes: tuple[int, ...] | None = None) -> Any:
    r"""Axis $i$ of the result is axis ``axes[i]`` of ``x`` (all reversed if None); the product applies the inverse."""
    axes = tuple(reversed(range(x.ndim))) if axes is None else tuple(axis_of(a, x.ndim) for a in axes)
    return _transpose(x, axes=axes)


@operation(lambda g, y, x, shape: g, keep="")  # the walk sums over the repeated axes
def _broadcast_to(x: Any, *, shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(x, shape)


def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    r"""Repeat along new axes and axes of size 1; $\bar x$ is the sum over the repeats."""
    return _broadcast_to(x, shape=tuple(shape))


@operation(lambda g, y, x, index, shape: _scatter(g, index=index, shape=shape), keep="")
def _getitem(x: Any, *, index: Any, shape: tuple[int, ...]) -> Any:
    return x[index]


@operation(lambda g, y, x, index, shape: getitem(g, index=index), keep="")
def _scatter(g: Any, *, index: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of ``shape`` with ``g`` added at ``index``: the product of indexing, and the other way round."""
    xp = array_module(g)
    if getattr(index, "ndim", 0) and index.dtype.kind in "iu" and len(shape) >= 1:  # rows, which may repeat: no atomics
        rows, width = xp.asarray(index).astype(np.int64) % max(shape[0], 1), math.prod(shape[1:])
        return embedding_grad(g.reshape(*rows.shape, width), rows, shape[0]).reshape(shape)
    y = xp.zeros(shape, g.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if all(isinstance(p, slice | int | np.integer) or p is None or p is Ellipsis for p in parts):
        y[index] = g  # a plain slice names no element twice
    else:
        xp.add.at(y, index, g)
    return y


def getitem(x: Any, index: Any) -> Any:
    r"""$y = x[i]$ with any NumPy index (integers, slices, masks, arrays of integers, which may repeat).

    $\bar x$ has $\bar y$ added at the places that were read.
    """
    index = tuple(_settled(i) for i in index) if isinstance(index, tuple) else _settled(index)
    return _getitem(x, index=index, shape=tuple(x.shape))


def _settled(index: Any) -> Any:
    """A part of an index that cannot change before the backward pass: a list as an array, which the tape protects."""
    return np.array(index, None if index else np.intp) if isinstance(index, list) else raw(index)


def gather(x: Any, indices: Any, axis: int) -> Any:
    r"""$y_{\dots j \dots} = x_{\dots i_{\dots j \dots} \dots}$ along ``axis``; ``indices`` has as many axes as ``x``
    and broadcasts on the others.

    NumPy's ``take_along_axis``. Raises ValueError for another number of axes.
    """
    axis = axis_of(axis, x.ndim)
    indices = raw(indices)
    if np.ndim(indices) != x.ndim:
        raise ValueError(f"indices must have as many axes as x, {x.ndim}, got shape {np.shape(indices)}")
    grid: list[Any] = [np.arange(n).reshape(-1, *(1,) * (x.ndim - 1 - i)) for i, n in enumerate(x.shape)]
    grid[axis] = indices
    return getitem(x, tuple(grid))


def _cut(g: Any, i: int, axis: int, edges: tuple[int, ...]) -> Any:
    return getitem(g, (slice(None),) * axis + (slice(edges[i], edges[i + 1]),))


def concat(xs: Any, axis: int = 0) -> Any:
    r"""Arrays one after the other along ``axis``; $\bar x_i$ is its slice of $\bar y$. Raises ValueError for none."""
    xs = list(xs)
    if not xs:
        raise ValueError("concat needs at least one array")
    axis = axis_of(axis, xs[0].ndim)
    edges = tuple(int(e) for e in np.cumsum([0] + [x.shape[axis] for x in xs]))
    return _concat_of(len(xs))(*xs, axis=axis, edges=edges)


_concats: dict[int, Any] = {}


def _concat_of(k: int) -> Any:
    """The operation that joins ``k`` arrays (an operation has one product for each argument)."""
    if k not in _concats:

        def product(i: int) -> Any:
            return lambda g, y, *xs, axis, edges: _cut(g, i, axis, edges)

        def join(*xs: Any, axis: int, edges: tuple[int, ...]) -> Any:
            return np.concatenate(xs, axis=axis)

        _concats[k] = operation(*[product(i) for i in range(k)], keep="")(join)
    return _concats[k]


def stack(xs: Any, axis: int = 0) -> Any:
    r"""Arrays of one shape along a new axis. Raises ValueError for none."""
    xs = list(xs)
    if not xs:
        raise ValueError("stack needs at least one array")
    axis = axis_of(axis, xs[0].ndim + 1)
    return concat([reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in xs], axis)


@operation(lambda g, y, x, widths: getitem(g, tuple(slice(a, n - b) for (a, b), n in zip(widths, g.shape))), keep="")
def _pad(x: Any, *, widths: tuple[tuple[int, int], ...]) -> Any:
    return np.pad(x, widths)


def pad(x: Any, widths: Any) -> Any:
    r"""Zeros around: ``widths`` has a pair (before, after) for each axis; $\bar x$ is the inside of $\bar y$."""
    widths = tuple((int(a), int(b)) for a, b in widths)
    if len(widths) != x.ndim or any(a < 0 or b < 0 for a, b in widths):
        raise ValueError(f"widths must be {x.ndim} pairs of non-negative integers, got {widths}")
    return _pad(x, widths=widths)
