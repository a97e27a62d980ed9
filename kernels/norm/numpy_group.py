r"""Group norm on channels-last arrays, with the SiLU that follows, in tiles of samples.

**Sums.** A sum over pixels, one for each channel, is a vector of ones times a matrix, which BLAS does several times
faster than ``sum(axis=1)``; groups add up their few channel sums in float64.

**Far from zero.** The variance comes from $\overline{x^2} - \mu^2$, which loses its digits where $\mu^2 \gg \sigma^2$.
A group with $\mu^2 > 16\,\sigma^2$ is therefore shifted by its mean (rounded; the remainder is measured again) and then
treated like any other, forward and backward. A group that is not far is shifted by 0, so its result does not depend on
its neighbours.

**Few passes.** With $a = \gamma r$ and $b = \beta - \mu a$ for each channel, where $r = 1/\sqrt{\sigma^2 + \epsilon}$,

$$z = a x + b, \qquad \bar x = a \bar z - r^2 c_2\, x + (r^2 c_2\, \mu - r c_1),$$

with $c_1, c_2$ the means of $\gamma \bar z$ and $\gamma \bar z \hat x$. The SiLU works on $h = z/2$ (the half is folded
into $a$ and $b$): $z \sigma(z) = h (1 + \tanh h)$, and its derivative is $\tfrac12 (1 + \tanh h)(1 + h - h \tanh h)$.
Backward computes $h$ and $\tanh h$ again from $x$, so nothing of the size of $x$ is kept.

**Long rows.** NumPy multiplies slowly by a short row that it has to repeat, so coefficients of c channels are written
out k times and the tile is seen as rows of k c elements.

**NaN and infinity** go where the definition sends them. In $a x + b$ an infinite $\gamma$ or $\beta$ meets itself with
the other sign, and so does an infinite $\bar z$ in the sums. So the definition computes again what such numbers have
affected: channels whose $\gamma$ or $\beta$ is not finite, and in backward groups whose $c_1$ or $c_2$ is not.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..threads import TILE_BYTES, map_tiles, scratch, split
from . import reference

FAR = 16.0  # mean^2 / variance from which the shift pays for its extra pass: 4 of 24 bits are lost there
ROUNDS = 3  # of shifting: the first mean of a group at 1e15 is itself rounded, and the second round finds the rest
ROW = 8192  # elements: rows of at least NumPy's iteration buffer are multiplied at the full speed


class Saved(NamedTuple):
    """What backward needs of forward: float64 statistics of each sample's groups, after the shift."""

    mean: Any  # (n, groups), of x - shift
    scale: Any  # (n, groups), 1 / sqrt(var + eps)
    shift: Any  # (n, groups) in x's dtype, 0 where the group is not far from zero


class Plan(NamedTuple):
    """How an array (n, pixels, c) is cut: tiles of whole samples, or one sample in blocks of pixels if it is large."""

    samples: list[slice]
    blocks: list[slice]


def forward(x: Any, gamma: Any, beta: Any, groups: int, eps: float, silu: bool) -> tuple[Any, Saved]:
    """``x`` (n, pixels, c), contiguous -> y of the same shape."""
    n, _, c = x.shape
    y = np.empty_like(x)
    saved = Saved(np.empty((n, groups)), np.empty((n, groups)), np.empty((n, groups), x.dtype))
    if x.size == 0:
        return y, saved
    plan = make_plan(x)
    half = 0.5 if silu else 1.0
    scales, offsets = _grouped(gamma, groups, half), _grouped(beta, groups, half)

    def tile(s: slice) -> None:
        mean, scale, shift = _statistics(x[s], plan.blocks, groups, eps)
        saved.mean[s], saved.scale[s], saved.shift[s] = mean, scale, shift
        a = scale[..., None] * _of(scales, s)
        b = _of(offsets, s) - mean[..., None] * a  # (samples, groups, c / groups)
        shift = _channels(shift, c)
        for block in plan.blocks:
            xb, yb = _shifted(x[s, block], shift), y[s, block]
            _affine(xb, a, b, yb) if not silu else _affine_silu(xb, a, b, yb)

    with np.errstate(all="ignore"):  # NaN and Inf propagate without a warning
        map_tiles(tile, plan.samples)
        if not (finite(scales) and finite(offsets)):
            bad = ~(np.isfinite(gamma) & np.isfinite(beta)).reshape(-1, 1, c)
            np.copyto(y, reference.group_norm(x, gamma, beta, groups, eps, silu), where=bad)
    return y, saved


def backward(
    g: Any, x: Any, gamma: Any, beta: Any, saved: Saved, groups: int, eps: float, silu: bool
) -> tuple[Any, Any, Any]:
    """``g`` and ``x`` (n, pixels, c), contiguous -> dx, dgamma and dbeta as float64 sums for each sample (n, c).

    Or for all samples (1, c), if the parameter is shared and some are not finite: infinities of both signs add up to
    NaN, and inside this function that gives no warning.
    """
    n, pixels, c = x.shape
    dx = np.empty_like(x)
    dgamma, dbeta = np.zeros((n, c)), np.zeros((n, c))
    if x.size == 0:
        return dx, dgamma, dbeta
    plan = make_plan(x)
    scales, offsets = _grouped(gamma, groups, 1.0), _grouped(beta, groups, 1.0)
    m = pixels * (c // groups)

    def tile(s: slice) -> bool:
        mean, r = saved.mean[s, :, None], saved.scale[s, :, None]
        shift = _channels(saved.shift[s], c)
        a = r * _of(scales, s)
        h_scale, h_offset = 0.5 * a, 0.5 * (_of(offsets, s) - mean * a)
        sums = np.zeros((2, *a.shape))  # of dz and of dz x over the pixels
        for block in plan.blocks:
            xb, gb = _shifted(x[s, block], shift), g[s, block]
            if silu:
                gb = _silu_backward(gb, xb, h_scale, h_offset, dx[s, block])  # 2 dz
            sums += _sums(gb, xb).reshape(sums.shape)
        half = 0.5 if silu else 1.0
        dz, dz_x_hat = half * sums[0], half * r * (sums[1] - mean * sums[0])
        dbeta[s], dgamma[s] = dz.reshape(-1, c), dz_x_hat.reshape(-1, c)
        c_1 = (_of(scales, s) * dz).sum(-1, keepdims=True) / m
        c_2 = (_of(scales, s) * dz_x_hat).sum(-1, keepdims=True) / m
        constant = r * r * c_2 * mean - r * c_1
        coefficients = np.empty((3, *a.shape))
        coefficients[0], coefficients[1], coefficients[2] = half * a, -r * r * c_2, constant
        for block in plan.blocks:
            dz_block = dx[s, block] if silu else g[s, block]
            _combine(dz_block, _shifted(x[s, block], shift), coefficients, dx[s, block])
        if not (all_finite := finite(constant)):
            bad = ~np.isfinite(coefficients[2]).reshape(-1, c)
            scale, offset = (np.broadcast_to(p, (n, c))[s] for p in (gamma, beta))
            by_definition = reference.group_norm_backward(g[s], x[s], scale, offset, groups, eps, silu)
            for out, value, where in zip((dx, dgamma, dbeta), by_definition, (bad[:, None], bad, bad)):
                np.copyto(out[s], value, where=where)
        return all_finite

    with np.errstate(all="ignore"):
        if not all(map_tiles(tile, plan.samples)):
            dgamma, dbeta = (d if p.ndim == 2 else d.sum(0, keepdims=True) for d, p in ((dgamma, gamma), (dbeta, beta)))
    return dx, dgamma, dbeta


def make_plan(x: Any) -> Plan:
    """Tiles of at most ``TILE_BYTES``, at least two of them if each is large enough for a thread."""
    n, pixels, c = x.shape
    most = max(1, TILE_BYTES // x.itemsize)
    if pixels * c > most:
        rows = max(1, most // c)
        rows -= rows % 64 if rows > 64 else 0  # so that coefficients can be written out 64 times
        return Plan(split(n, 1), [slice(i, min(pixels, i + rows)) for i in range(0, pixels, rows)])
    per = share(n, most // (pixels * c))
    return Plan(split(n, per, per), [slice(0, pixels)])


def share(n: int, most: int) -> int:
    """How many of ``n`` to take into a tile that holds ``most``: half of them if all fit but one thread would wait."""
    return -(-n // 2) if most // 2 <= n <= most else most


def finite(a: Any) -> bool:
    """Whether there is no NaN or infinity in ``a``, by its square: False too if that overflows, which costs time."""
    return math.isfinite(np.vdot(a, a))


# --- statistics ------------------------------------------------------------------------------------------------------


def _statistics(x: Any, blocks: Sequence[slice], groups: int, eps: float) -> tuple[Any, Any, Any]:
    """Mean of x - shift, 1 / sqrt(var + eps), shift: each (samples, groups)."""
    mean, var = _moments(x, blocks, groups, None)
    shift = np.zeros(mean.shape, x.dtype)
    for _ in range(ROUNDS):
        far = ~(mean * mean <= FAR * var)  # NaN counts as far: the shift makes it NaN again
        if not far.any():
            break
        shift[far] += mean[far].astype(x.dtype)
        mean, var = _moments(x, blocks, groups, _channels(shift, x.shape[-1]))
    return mean, 1 / np.sqrt(np.maximum(var, 0) + eps), shift


def _moments(x: Any, blocks: Sequence[slice], groups: int, shift: Any) -> tuple[Any, Any]:
    """Mean and variance of x - shift over each sample's groups, float64."""
    sums = np.zeros((2, x.shape[0], x.shape[2]))
    for block in blocks:
        sums += _sums(None, _shifted(x[:, block], shift))
    mean, square = sums.reshape(2, x.shape[0], groups, -1).sum(-1) * (groups / (x.shape[1] * x.shape[2]))
    return mean, square - mean * mean


def _sums(g: Any, x: Any) -> Any:
    """Over the pixels, for each sample and channel: the sums of g and g x, or of x and x^2 if there is no g."""
    ones = np.ones(x.shape[1], x.dtype)
    first, product = (x, scratch("norm a", x.shape, x.dtype))
    np.multiply(x if g is None else g, x, out=product)
    sums = np.empty((2, x.shape[0], x.shape[2]), x.dtype)
    np.matmul(ones, first if g is None else g, out=sums[0])
    np.matmul(ones, product, out=sums[1])
    return sums


def _shifted(x: Any, shift: Any) -> Any:
    return x if shift is None else np.subtract(x, shift, out=scratch("norm shifted", x.shape, x.dtype))


def _channels(shift: Any, c: int) -> Any:
    """(samples, groups) -> (samples, 1, c), or None where there is nothing to shift."""
    return np.repeat(shift, c // shift.shape[1], axis=1)[:, None] if shift.any() else None


def _grouped(p: Any, groups: int, factor: float) -> Any:
    """(c,) or (n, c) -> (1 or n, groups, c / groups), float64."""
    return (p.astype(np.float64) * factor).reshape(1 if p.ndim == 1 else p.shape[0], groups, -1)


def _of(p: Any, s: slice) -> Any:
    return p if p.shape[0] == 1 else p[s]


# --- passes over a block (samples, pixels, c) with coefficients (samples, groups, c / groups) ------------------------


def _affine(x: Any, a: Any, b: Any, out: Any) -> None:
    (x, out), (a, b) = _long_rows([x, out], [a, b])
    np.multiply(x, a, out=out)
    np.add(out, b, out=out)


def _affine_silu(x: Any, a: Any, b: Any, out: Any) -> None:
    """h (1 + tanh h) with h = a x + b. The first write to ``out`` is the slow tanh, which hides the cache misses."""
    (x, out), (a, b) = _long_rows([x, out], [a, b])
    h = scratch("norm a", x.shape, x.dtype)
    np.multiply(x, a, out=h)
    np.add(h, b, out=h)
    np.tanh(h, out=out)
    np.multiply(out, h, out=out)
    np.add(out, h, out=out)


def _silu_backward(g: Any, x: Any, a: Any, b: Any, out: Any) -> Any:
    """``out`` = g (1 + t)(1 + h - h t) with h = a x + b and t = tanh h: twice the gradient before the SiLU."""
    shape = out.shape
    (g, x, t), (a, b) = _long_rows([g, x, out], [a, b])
    h, p = scratch("norm a", x.shape, x.dtype), scratch("norm b", x.shape, x.dtype)
    np.multiply(x, a, out=h)
    np.add(h, b, out=h)
    np.tanh(h, out=t)
    np.multiply(h, t, out=p)
    np.subtract(h, p, out=p)
    np.add(p, 1, out=p)
    np.add(t, 1, out=t)
    np.multiply(p, t, out=p)
    np.multiply(p, g, out=t)
    return t.reshape(shape)


def _combine(g: Any, x: Any, coefficients: Any, out: Any) -> None:
    """``out`` = g a + x b + c; ``g`` may be ``out``."""
    (g, x, out), (a, b, c) = _long_rows([g, x, out], coefficients)
    p = scratch("norm a", x.shape, x.dtype)
    np.multiply(g, a, out=out)
    np.multiply(x, b, out=p)
    np.add(out, p, out=out)
    np.add(out, c, out=out)


def _long_rows(blocks: Sequence[Any], coefficients: Any) -> tuple[list[Any], Any]:
    """Blocks as (samples, pixels / k, k c) views, coefficients written out k times as (samples, 1, k c)."""
    samples, pixels, c = blocks[0].shape
    first, second = repeats(pixels, c)
    count, k, dtype = len(coefficients), first * second, blocks[0].dtype
    few = scratch("norm few", (count, samples, first, c), dtype)
    for row, coefficient in zip(few, coefficients):
        row[...] = coefficient.reshape(samples, 1, c)
    if second > 1:  # in two steps, because short rows are slow to copy too
        many = scratch("norm many", (count, samples, second, first * c), dtype)
        many[...] = few.reshape(count, samples, 1, first * c)
        few = many
    return [b.reshape(samples, pixels // k, k * c) for b in blocks], few.reshape(count, samples, 1, k * c)


@functools.cache
def repeats(pixels: int, c: int) -> tuple[int, int]:
    """How often to write coefficients out, as two factors: a divisor of ``pixels``, not too few and not too costly."""
    divisors = [k for k in range(1, min(pixels, ROW // c + 64) + 1) if pixels % k == 0]
    long = [k for k in divisors if ROW <= k * c <= pixels * c // 4]
    k = long[0] if long else [k for k in divisors if k == 1 or k * c <= min(1024, pixels * c // 8)][-1]
    first = k if k * c <= 1024 else max(d for d in divisors if k % d == 0 and (d == 1 or d * c <= 1024))
    return first, k // first
