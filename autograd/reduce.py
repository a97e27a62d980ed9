r"""From many numbers to few: sums, means, maxima, and the soft maximum in its stable forms."""

from typing import Any

import numpy as np

from kernels.matmul import sum_rows

from .elementwise import exp, log
from .shape import axis_of, broadcast_to, gather, getitem, reshape
from .tensor import operation, raw

Axis = int | tuple[int, ...] | list[int] | None


def _spread(g: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    """Repeat ``g`` along the reduced axes, back to ``shape``."""
    return broadcast_to(g if keepdims else reshape(g, _kept_shape(shape, axis)), shape)


def _axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    axes = range(ndim) if axis is None else (axis,) if isinstance(axis, int | np.integer) else axis
    return tuple(axis_of(a, ndim) for a in axes)


def _kept_shape(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    axes = _axes(len(shape), axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


@operation(lambda g, y, x, axis, keepdims, shape: _spread(g, shape, axis, keepdims), keep="")
def _sum(x: Any, *, axis: Axis, keepdims: bool, shape: tuple[int, ...]) -> Any:
    if x.ndim > 1 and axis == tuple(range(x.ndim - 1)) and not keepdims and x.dtype.kind == "f":
        return sum_rows(x)  # over all but the last axis, as for every bias gradient: a matrix product
    return np.sum(x, axis=axis, keepdims=keepdims)


def sum(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    r"""$y = \sum_i x_i$ over ``axis`` (all if None); $\bar x_i = \bar y$."""
    return _sum(x, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims, shape=tuple(x.shape))


def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    r"""$y = \frac1n \sum_i x_i$; $\bar x_i = \bar y / n$."""
    n = 1
    for a in _axes(x.ndim, axis):
        n *= x.shape[a]
    return sum(x, axis, keepdims) * (1 / n if n else float("nan"))


def var(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    r"""$y = \frac1n \sum_i (x_i - \bar x)^2$, composed of the operations above."""
    d = x - mean(x, axis, keepdims=True)
    return mean(d * d, axis, keepdims)


def _share_of_extreme(g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    y = y if keepdims else reshape(y, _kept_shape(x.shape, axis))
    hit = (raw(x) == raw(y)).astype(raw(x).dtype)
    return _spread(g, x.shape, axis, keepdims) * (hit / np.sum(hit, axis=axis, keepdims=True))


@operation(_share_of_extreme, keep="0y")
def _max(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    return np.max(x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    r"""$y = \max_i x_i$; $\bar x_i = \bar y$ at the maximum, shared equally among ties."""
    return _max(x, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims)


@operation(_share_of_extreme, keep="0y")
def _min(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    return np.min(x, axis=axis, keepdims=keepdims)


def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    r"""$y = \min_i x_i$; $\bar x_i = \bar y$ at the minimum, shared equally among ties."""
    return _min(x, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims)


@operation(lambda g, y, x, axis: (g - sum(g * y, axis, keepdims=True)) * y, keep="y")
def _softmax(x: Any, *, axis: int) -> Any:
    if x.shape[axis] == 0:
        return x + 0
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def softmax(x: Any, axis: int = -1) -> Any:
    r"""$y_i = e^{x_i} / \sum_j e^{x_j}$; $\bar x_i = y_i (\bar y_i - \sum_j \bar y_j y_j)$. TypeError for integers."""
    _need_floats("softmax", x)
    return _softmax(x, axis=axis_of(axis, x.ndim))


def logsumexp(x: Any, axis: int = -1, keepdims: bool = False) -> Any:
    r"""$y = \ln \sum_i e^{x_i} = m + \ln \sum_i e^{x_i - m}$ with $m = \max_i x_i$ held constant;
    $\bar x = \bar y\,\mathrm{softmax}(x)$.

    Raises TypeError for integers.
    """
    _need_floats("logsumexp", x)
    axis = axis_of(axis, x.ndim)
    m = top_of(raw(x), axis)
    y = log(sum(exp(x - m), axis, keepdims=True)) + m
    return y if keepdims else reshape(y, tuple(n for i, n in enumerate(y.shape) if i != axis))


def top_of(x: Any, axis: int = -1) -> Any:
    """The finite maximum along an axis (which is kept), or 0 if there is none: the constant to subtract before exp."""
    if x.shape[axis] == 0:
        return np.sum(x, axis=axis, keepdims=True)
    m = np.max(x, axis=axis, keepdims=True)
    return np.where(np.isfinite(m), m, 0).astype(x.dtype)


def log_softmax(x: Any, axis: int = -1) -> Any:
    r"""$y_i = x_i - \ln \sum_j e^{x_j}$."""
    return x - logsumexp(x, axis, keepdims=True)


@operation(lambda g, y, x, axis: _reverse(cumsum(_reverse(g, axis), axis), axis), keep="")
def _cumsum(x: Any, *, axis: int) -> Any:
    return np.cumsum(x, axis=axis)


def cumsum(x: Any, axis: int = -1) -> Any:
    r"""$y_i = \sum_{j \le i} x_j$; $\bar x_j = \sum_{i \ge j} \bar y_i$."""
    return _cumsum(x, axis=axis_of(axis, x.ndim))


def _reverse(x: Any, axis: int) -> Any:
    return getitem(x, index=(slice(None),) * axis + (slice(None, None, -1),))


def _need_floats(operation: str, x: Any) -> None:
    if x.dtype.kind != "f":
        raise TypeError(f"{operation} needs floats, got {x.dtype}")


def top_k(x: Any, k: int) -> tuple[Any, Any]:
    r"""The $k$ largest of the last axis in descending order, and their (constant) indices, without sorting the rest.

    $\bar x$ is $\bar y$ at the chosen places. Raises ValueError unless $1 \le k \le n$.
    """
    values = raw(x)
    _need_floats("top_k", x)
    if not 1 <= k <= values.shape[-1]:
        raise ValueError(f"k must be from 1 to {values.shape[-1]}, got {k}")
    some = np.argpartition(-values, k - 1, axis=-1)[..., :k]
    order = np.argsort(-np.take_along_axis(values, some, axis=-1), axis=-1, kind="stable")
    indices = np.take_along_axis(some, order, axis=-1)
    return gather(x, indices, axis=-1), indices
