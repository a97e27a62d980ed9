"""Which queries and keys are worked on together: heads in tiles, queries in blocks, masked keys left out beforehand.

A key that ``key_mask`` forbids is taken out of its sample before anything is computed, so it costs nothing and its
value cannot matter. What is left is a staircase: query i sees the first ``counts[i]`` of the kept keys, and the counts
never fall. Queries that see nothing stand at the beginning and are left out too.

The plan depends on the shapes, ``causal`` and ``key_mask`` alone, never on the number of threads.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..threads import PIECES, TILE_BYTES

BLOCK_BYTES = TILE_BYTES  # the scores of a block in all heads of a tile: long calls let two threads run side by side
FEW_ROWS, ROWS = 64, 256  # fewer queries in a block waste a product's set-up, more of them waste cache
ROUND = 16  # the numbers of queries that make a product's rows fit into a register
GEMM_WORK = 1_000_000  # OpenBLAS has kernels without set-up for products of up to this many multiplications
TILE_WORK = 2_500_000  # multiplications (25 microseconds and more per product) below which a tile is not worth a thread


class Block(NamedTuple):
    """Some of the tile's queries and the keys that at least one of them sees."""

    rows: slice  # counted from the tile's first query
    visible: int  # the first so many of the kept keys
    common: int  # of which all queries of the block see the first so many
    bias: np.ndarray | None  # (visible - common, rows): 0 where the query sees the key, -inf where it does not

    @property
    def size(self) -> int:
        """How many scores the block has in one head."""
        return (self.rows.stop - self.rows.start) * self.visible


class Tile(NamedTuple):
    """Some heads of some samples, and blocks of their queries."""

    samples: slice
    heads: slice
    rows: slice
    keys: np.ndarray | None  # the indices of the kept keys; None: all
    blocks: list[Block]
    start: int  # where the tile's probabilities begin in the buffer that keeps them
    size: int  # how many they are
    alone: bool  # no other tile has the same heads, so this one may write the keys' gradients

    @property
    def here(self) -> tuple[slice, slice, slice]:
        """The index of the tile's queries."""
        return self.samples, self.heads, self.rows


def make_tiles(
    n: int, heads: int, t_q: int, t_k: int, d: int, itemsize: int, causal: bool, key_mask: np.ndarray | None
) -> list[Tile]:
    """The tiles of an attention of these sizes; samples, heads and queries with nothing to do are in none."""
    if key_mask is None or key_mask.all():
        return _tiles_without_mask(n, heads, t_q, t_k, d, itemsize, causal)
    tiles: list[Tile] = []
    for i in range(n):
        keys = np.flatnonzero(key_mask[i])
        _add_tiles(tiles, slice(i, i + 1), heads, _blocks(t_q, t_k, d, itemsize, causal, keys), keys, n, d, itemsize)
    return tiles


@lru_cache(maxsize=64)
def _tiles_without_mask(
    n: int, heads: int, t_q: int, t_k: int, d: int, itemsize: int, causal: bool
) -> list[Tile]:  # not to be changed by callers
    tiles: list[Tile] = []
    blocks = _blocks(t_q, t_k, d, itemsize, causal, None)
    _add_tiles(tiles, slice(0, n), heads, blocks, None, 1, d, itemsize)
    return tiles


def _add_tiles(
    tiles: list[Tile],
    samples: slice,
    heads: int,
    blocks: list[Block],
    keys: np.ndarray | None,
    groups: int,
    d: int,
    itemsize: int,
) -> None:
    """Append the tiles of these samples, one of ``groups`` groups: as many heads together as fit in cache."""
    n = samples.stop - samples.start
    if n * heads * len(blocks) == 0:
        return
    work = n * heads * d * sum(block.size for block in blocks)
    wanted = max(1, min(-(-PIECES // groups), work // TILE_WORK))
    fit = BLOCK_BYTES * len(blocks) // (sum(block.size for block in blocks) * itemsize)
    together = max(1, min(fit, n * heads // wanted))
    if together >= heads:
        cuts = [(s, slice(0, heads)) for s in _even(samples, together // heads)]
    else:
        every = [slice(i, i + 1) for i in range(samples.start, samples.stop)]
        cuts = [(s, h) for s in every for h in _even(slice(0, heads), together)]
    shares = min(len(blocks), -(-wanted // len(cuts)))  # of the queries, where there are fewer heads than tiles wanted
    parts = [_from_first(blocks[s]) for s in _even(slice(0, len(blocks)), -(-len(blocks) // shares))]
    for s, h in cuts:
        for rows, part in parts:
            start = tiles[-1].start + tiles[-1].size if tiles else 0
            size = (s.stop - s.start) * (h.stop - h.start) * sum(block.size for block in part)
            tiles.append(Tile(s, h, rows, keys, part, start, size, len(parts) == 1))


def _from_first(blocks: list[Block]) -> tuple[slice, list[Block]]:
    """The queries of these blocks, and the blocks with their rows counted from the first of them."""
    first, last = blocks[0].rows.start, blocks[-1].rows.stop
    moved = [block._replace(rows=slice(block.rows.start - first, block.rows.stop - first)) for block in blocks]
    return slice(first, last), moved


def _blocks(t_q: int, t_k: int, d: int, itemsize: int, causal: bool, keys: np.ndarray | None) -> list[Block]:
    kept = t_k if keys is None else len(keys)
    first, counts = 0, None
    if causal:
        last_key = np.arange(t_q) + (t_k - t_q)  # that each query sees
        counts = np.clip(last_key + 1, 0, t_k) if keys is None else np.searchsorted(keys, last_key, side="right")
        first = int(np.searchsorted(counts, 0, side="right"))
    if t_q - first <= 0 or kept == 0:
        return []
    return [
        _block(rows, kept, counts) for rows in _even(slice(first, t_q), _block_rows(kept, d, itemsize, causal), ROUND)
    ]


def _block_rows(kept: int, d: int, itemsize: int, causal: bool) -> int:
    size = GEMM_WORK // (kept * d)
    if size < FEW_ROWS:
        size = ROWS
    size = min(size, ROWS, max(FEW_ROWS, 2 * BLOCK_BYTES // (kept * itemsize)))
    return min(size, max(FEW_ROWS, kept // 8)) if causal else size  # half of a block on the diagonal is wasted


def _block(rows: slice, kept: int, counts: np.ndarray | None) -> Block:
    if counts is None:
        return Block(rows, kept, kept, None)
    common, visible = int(counts[rows.start]), int(counts[rows.stop - 1])
    if common == visible:
        return Block(rows, visible, common, None)
    hidden = np.arange(common, visible)[:, None] >= counts[rows]
    return Block(rows, visible, common, np.where(hidden, np.float32(-np.inf), np.float32(0)))


def _even(whole: slice, size: int, multiple: int = 1) -> list[slice]:
    """``whole`` cut into slices of about ``size`` at most, as even as multiples of ``multiple`` allow."""
    total = whole.stop - whole.start
    pieces = -(-total // size)
    edges = [whole.start + total * i // pieces // multiple * multiple for i in range(pieces)] + [whole.stop]
    return [slice(a, b) for a, b in zip(edges, edges[1:]) if a < b]
