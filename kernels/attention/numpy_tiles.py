r"""Attention on NumPy: tiles of heads over the threads, the softmax of a block of queries in cache.

Scores are kept transposed, $S^T = K (\mathrm{scale}\,Q)^T$ of shape (keys, queries): BLAS is fastest on the four large
products when they read their operands like this. What costs beside the products is passes over the scores, so:

* $e^{S}$ is taken without subtracting the row's maximum where all scores of the block are small.
* Nothing is normalised: the output is divided by $l_i = \sum_j e^{S_{ij}}$, and the backward pass scales $g_i$ by
  $1/l_i$.
* $dS = P \circ (dP - \delta)$ with $\delta_i = g_i \cdot o_i$ (Dao et al. 2022, arXiv 2205.14135, appendix B.2): the
  subtraction is one more column of the product, $dP^T - \delta = [V, 1] [g, -\delta]^T$, and so is $S - \mathrm{lse}$
  where the probabilities are computed again.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from ..threads import map_tiles, scratch
from .plan import Block, Tile, make_tiles

KEEP_BYTES = 16 << 20  # probabilities up to this size in all are kept for the backward pass
SAFE_SCORE = 20.0  # e^20 = 5e8 and e^-20: their sums, squares and reciprocals are far from float32's limits


class Saved(NamedTuple):
    """What the backward pass needs besides the arguments."""

    sums: np.ndarray  # (n, heads, t_q): the sum of the e^(S - shift) if they are kept, else log-sum-exp
    exps: np.ndarray | None  # e^(S - shift), tile after tile, block after block
    tiles: list[Tile]
    made_for: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]  # the shapes of q, k, v, and causal


class Problem(NamedTuple):
    """The arguments, as BLAS can read them."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    causal: bool
    scale: float


class NotFinite(Exception):
    """A causal block holds keys that some of its queries do not see: 0 times Inf there would leak into them."""


def forward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    causal: bool,
    key_mask: np.ndarray | None,
    scale: float,
    keep: bool,
) -> tuple[np.ndarray, Saved]:
    """The output and what the backward pass needs. Raises NotFinite for Inf or NaN under ``causal``."""
    problem = Problem(_for_blas(q), _for_blas(k), _for_blas(v), causal, scale)
    n, heads, t_q, d = q.shape
    tiles = make_tiles(n, heads, t_q, k.shape[2], d, q.itemsize, causal, key_mask)
    o = _new(tiles, causal)(problem.q, shape=(*q.shape[:3], v.shape[3]))
    size = sum(tile.size for tile in tiles)
    exps = np.empty(size, o.dtype) if keep and size * o.itemsize <= KEEP_BYTES else None
    saved = Saved(np.ones(q.shape[:3], o.dtype), exps, tiles, (q.shape, k.shape, v.shape, causal))
    with np.errstate(all="ignore"):
        map_tiles(partial(_forward_tile, problem, o, saved), tiles)
    return o, saved


def backward(
    g: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    o: np.ndarray,
    saved: Saved,
    *,
    causal: bool,
    scale: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of q, k and v. Raises NotFinite for Inf or NaN under ``causal``."""
    if saved.made_for != (q.shape, k.shape, v.shape, causal):
        raise ValueError("saved belongs to a forward pass of other shapes or with another causal")
    problem = Problem(_for_blas(q), _for_blas(k), _for_blas(v), causal, scale)
    tiles = saved.tiles
    new = _new(tiles, causal)
    dq, dk, dv = (new(x) for x in problem[:3])
    with np.errstate(all="ignore"):
        parts = map_tiles(partial(_backward_tile, problem, _for_blas(g), o, saved, (dq, dk, dv)), tiles)
        for tile, part in zip(tiles, parts):
            if part is not None:
                for grad, more in zip((dk, dv), part):
                    seen = slice(0, more.shape[2]) if tile.keys is None else tile.keys[: more.shape[2]]
                    grad[tile.samples, tile.heads][:, :, seen] += more
    return dq, dk, dv


def _new(tiles: list[Tile], causal: bool) -> Callable[..., np.ndarray]:
    """How to make a result like an argument: with zeros unless the tiles write all of it, each its own part.

    Its axes lie in memory in the argument's order, so heads that were split off by a view are merged by a view.
    """
    everywhere = tiles and not causal and all(tile.alone and tile.keys is None for tile in tiles)
    return np.empty_like if everywhere else np.zeros_like


def _for_blas(x: np.ndarray) -> np.ndarray:
    """``x`` itself if BLAS can read its matrices as they lie, else a copy."""
    rows, columns = x.strides[-2:]
    dense = columns == x.itemsize and rows >= columns * x.shape[-1] and rows % columns == 0
    if dense and x.flags.aligned and x.dtype.isnative:
        return x
    return np.ascontiguousarray(x, x.dtype.newbyteorder("="))


def _forward_tile(problem: Problem, o: np.ndarray, saved: Saved, tile: Tile) -> None:
    q, k, v = problem.q[tile.here], _kept(problem.k, tile), _kept(problem.v, tile)
    if problem.causal and not np.isfinite(np.vecdot(v, v).max()):
        raise NotFinite
    q_columns = scratch("q", (*q.shape[:2], q.shape[3], q.shape[2]), q.dtype)
    np.multiply(q.swapaxes(2, 3), problem.scale, out=q_columns)
    ones = np.ones(k.shape[2], k.dtype)
    out, sums = o[tile.here], saved.sums[tile.here]
    end = tile.start
    for block in tile.blocks:
        e, end = _buffer(saved.exps, end, q, block)  # (samples, heads, keys, rows)
        np.matmul(k[:, :, : block.visible], q_columns[..., block.rows], out=e)
        low, high = e.min(), e.max()
        if problem.causal and not np.isfinite(high - low):
            raise NotFinite
        _hide(e, block)
        shift = None
        if not (low >= -SAFE_SCORE and high <= SAFE_SCORE):
            shift = e.max(axis=2, keepdims=True)
            e -= shift
        np.exp(e, out=e)
        total = np.matmul(ones[: block.visible], e)  # (samples, heads, rows)
        o_rows = out[:, :, block.rows]
        np.matmul(e.swapaxes(2, 3), v[:, :, : block.visible], out=o_rows)
        o_rows /= total[..., None]
        if saved.exps is None:
            np.log(total, out=total)
            total += 0 if shift is None else shift[:, :, 0]
        sums[:, :, block.rows] = total


def _backward_tile(
    problem: Problem,
    g_all: np.ndarray,
    o: np.ndarray,
    saved: Saved,
    grads: tuple[np.ndarray, np.ndarray, np.ndarray],
    tile: Tile,
) -> tuple[np.ndarray, np.ndarray] | None:
    q, k, v = problem.q[tile.here], _kept(problem.k, tile), _kept(problem.v, tile)
    g, sums = g_all[tile.here], saved.sums[tile.here]
    if saved.exps is not None:
        g = np.divide(g, sums[..., None], out=scratch("g", g.shape, g.dtype))
    g_columns = _columns("g^T", g, problem.scale, -problem.scale * np.vecdot(g, o[tile.here]))
    if problem.causal and not np.isfinite(g_columns[:, :, -1]).all():
        raise NotFinite
    v_wide = _widened("v", v)
    if saved.exps is None:
        k_wide, q_columns = _widened("k", k), _columns("q", q, problem.scale, -sums)
    dq, dk, dv = grads[0][tile.here], *_targets(tile, k, v, grads)
    start = tile.start + tile.size
    for block in reversed(tile.blocks):  # the last block sees the most keys, so its products need no addition
        seen = slice(0, block.visible)
        start -= q.shape[0] * q.shape[1] * block.size
        e, _ = _buffer(saved.exps, start, q, block)  # P, or l P if g was divided by l
        if saved.exps is None:
            np.matmul(k_wide[:, :, seen], q_columns[..., block.rows], out=e)
            _hide(e, block)
            np.exp(e, out=e)
        ds = scratch("ds", e.shape, e.dtype)
        np.matmul(v_wide[:, :, seen], g_columns[..., block.rows], out=ds)
        ds *= e
        np.matmul(ds.swapaxes(2, 3), k[:, :, seen], out=dq[:, :, block.rows])
        for grad, weights, x in ((dv, e, g), (dk, ds, q)):
            if block is tile.blocks[-1]:
                np.matmul(weights, x[:, :, block.rows], out=grad)
            else:
                more = scratch("more", (*x.shape[:2], block.visible, x.shape[3]), x.dtype)
                grad[:, :, seen] += np.matmul(weights, x[:, :, block.rows], out=more)
    if not tile.alone:
        return dk, dv
    if tile.keys is not None:
        for whole, part in zip(grads[1:], (dk, dv)):
            whole[tile.samples, tile.heads][:, :, tile.keys] = part
    return None


def _hide(e: np.ndarray, block: Block) -> None:
    if block.bias is not None:
        e[:, :, block.common :] += block.bias


def _buffer(exps: np.ndarray | None, start: int, q: np.ndarray, block: Block) -> tuple[np.ndarray, int]:
    """Where the block's e^S are, (samples, heads, keys, rows), and where the next block's begin."""
    shape = (*q.shape[:2], block.visible, block.rows.stop - block.rows.start)
    if exps is None:
        return scratch("exp", shape, q.dtype), start
    end = start + q.shape[0] * q.shape[1] * block.size
    return exps[start:end].reshape(shape), end


def _kept(x: np.ndarray, tile: Tile) -> np.ndarray:
    """The tile's part of the keys or values, without the masked ones."""
    part = x[tile.samples, tile.heads]
    return part if tile.keys is None else part[:, :, tile.keys]


def _widened(name: str, x: np.ndarray) -> np.ndarray:
    """``[x, 1]``: one more column, of ones."""
    wide = scratch(name, (*x.shape[:3], x.shape[3] + 1), x.dtype)
    wide[..., :-1] = x
    wide[..., -1] = 1
    return wide


def _columns(name: str, x: np.ndarray, scale: float, last: np.ndarray) -> np.ndarray:
    r"""$[\mathrm{scale}\, x, \mathrm{last}]^T$: (samples, heads, d + 1, rows)."""
    wide = scratch(name, (*x.shape[:2], x.shape[3] + 1, x.shape[2]), x.dtype)
    np.multiply(x.swapaxes(2, 3), scale, out=wide[:, :, :-1])
    wide[:, :, -1] = last
    return wide


def _targets(
    tile: Tile, k: np.ndarray, v: np.ndarray, grads: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Where the tile collects the gradients of the keys that it sees: in the result itself if nobody else adds to it."""
    if tile.alone and tile.keys is None:
        return grads[1][tile.samples, tile.heads], grads[2][tile.samples, tile.heads]
    seen = tile.blocks[-1].visible
    return np.empty_like(k[:, :, :seen]), np.empty_like(v[:, :, :seen])
