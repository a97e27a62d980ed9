r"""The activations in tiles: each function fills ``out`` from 1-D pieces with in-place passes through the cache.

The logistic function comes from tanh, which NumPy computes faster than exp: with $h = x/2$ and $t = \tanh h$,

$$x\,\sigma(x) = h + h t, \qquad \tfrac{d}{dx}\, x\,\sigma(x) = \tfrac12 (1 + t)(1 + h - h t).$$

The first pass that writes to ``out`` is where possible the slow one (tanh), because it hides the cache misses.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..threads import TILE_BYTES, map_tiles, scratch, split
from .reference import CUBIC, SLOPE


def run(function: Callable[..., Any], *arrays: Any) -> Any:
    """``function(*pieces, out)`` over all pieces of arrays of one shape; returns ``out`` with that shape."""
    return _run(lambda pieces, outs: function(*pieces, outs[0]), arrays, 1)[0]


def run_two(function: Callable[..., Any], *arrays: Any) -> list[Any]:
    """As ``run`` for a function with two outputs."""
    return _run(lambda pieces, outs: function(*pieces, *outs), arrays, 2)


def _run(function: Callable[[Any, Any], Any], arrays: Any, outputs: int) -> list[Any]:
    shape, dtype = arrays[0].shape, arrays[0].dtype
    flat = [np.ascontiguousarray(a).reshape(-1) for a in arrays]
    outs = [np.empty(flat[0].size, dtype) for _ in range(outputs)]

    def tile(s: slice) -> None:
        function([a[s] for a in flat], [out[s] for out in outs])

    with np.errstate(all="ignore"):  # infinity minus infinity and zero times infinity are NaN here without a warning
        map_tiles(tile, split(flat[0].size, TILE_BYTES // dtype.itemsize, TILE_BYTES // dtype.itemsize // 2))
    return [out.reshape(shape) for out in outs]


def silu(x: Any, out: Any) -> None:
    """h + h t."""
    h = np.multiply(x, 0.5, out=scratch("activation a", x.shape, x.dtype))
    np.tanh(h, out=out)
    np.multiply(out, h, out=out)
    np.add(out, h, out=out)


def silu_grad(g: Any, x: Any, out: Any) -> None:
    """g (1 + t)(1 + h - h t) / 2."""
    p = scratch("activation b", x.shape, x.dtype)
    h = np.multiply(x, 0.5, out=scratch("activation a", x.shape, x.dtype))
    t = np.tanh(h, out=out)
    np.multiply(h, t, out=p)
    np.subtract(h, p, out=p)
    np.add(p, 1, out=p)
    np.add(t, 1, out=t)
    np.multiply(p, 0.5, out=p)
    np.multiply(p, g, out=p)
    np.multiply(t, p, out=out)


def gelu(x: Any, out: Any) -> None:
    """x (1 + t) / 2 with t = tanh(x (c + c k x^2))."""
    u = scratch("activation a", x.shape, x.dtype)
    np.multiply(x, x, out=u)
    np.multiply(u, SLOPE * CUBIC, out=u)
    np.add(u, SLOPE, out=u)
    np.multiply(u, x, out=u)
    np.tanh(u, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, x, out=out)
    np.multiply(out, 0.5, out=out)


def gelu_grad(g: Any, x: Any, out: Any) -> None:
    """g times the slope."""
    s = _twice_slope(x, out)
    np.multiply(s, 0.5, out=s)
    np.multiply(s, g, out=out)


def gelu_and_slope(x: Any, out: Any, slope: Any) -> None:
    """gelu(x) into ``out`` and its derivative into ``slope``."""
    np.multiply(_twice_slope(x, out), 0.5, out=slope)
    np.add(out, 1, out=out)
    np.multiply(out, x, out=out)
    np.multiply(out, 0.5, out=out)


def _twice_slope(x: Any, t: Any) -> Any:
    """1 + t + x u' (1 - t^2) in a scratch array, with t = tanh u written to ``t``; u = x (c + c k x^2)."""
    s, u = (scratch(name, x.shape, x.dtype) for name in ("activation a", "activation b"))
    np.multiply(x, x, out=s)
    np.multiply(s, SLOPE * CUBIC, out=s)
    np.add(s, SLOPE, out=u)
    np.multiply(u, x, out=u)
    np.tanh(u, out=t)
    np.multiply(s, 3, out=s)
    np.add(s, SLOPE, out=s)  # u'
    np.multiply(t, t, out=u)
    np.subtract(1, u, out=u)
    np.multiply(s, u, out=s)  # 0 from |x| = 8 on, so it comes before the product with x, which could overflow
    np.multiply(s, x, out=s)
    np.add(s, t, out=s)
    np.add(s, 1, out=s)
    return s


def softplus(x: Any, out: Any) -> None:
    """max(x, 0) + log1p(exp(-|x|))."""
    e = scratch("activation a", x.shape, x.dtype)
    np.abs(x, out=e)
    np.negative(e, out=e)
    np.exp(e, out=e)
    np.log1p(e, out=out)
    np.maximum(x, 0, out=e)
    np.add(out, e, out=out)
