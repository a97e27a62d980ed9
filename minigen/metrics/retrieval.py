r"""Retrieval: is a right answer among the first $k$?

A query has scores over candidates, some of which are right. The rank of the best right one counts every wrong candidate
with a score at least as high, so ties never count in our favour: constant scores find nothing.

$$ r_i = |\{ j \text{ wrong} : S_{ij} \ge \max_{j' \text{ right}} S_{ij'} \}|, \qquad \mathrm{R@}k = \text{share of queries with } r_i < k $$
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from kernels.backend import Array


def ranks(scores: Float[Array, "queries items"], right: Bool[Array, "q i"]) -> Int[Array, " queries"]:
    """How many wrong candidates stand before (or level with) the best right one, for every query: 0 is a hit at once.

    Raises ValueError for shapes that differ, for no queries, for NaN, and for a query without a right answer.
    """
    if scores.shape != right.shape:
        raise ValueError(f"scores and right must have one shape, got {scores.shape} and {right.shape}")
    if not len(scores):
        raise ValueError(f"scores must hold at least one query, got shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("scores must be numbers: NaN has no rank")
    if not right.any(axis=1).all():
        raise ValueError(f"every query needs a right answer: number {int(right.any(axis=1).argmin())} has none")
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores >= best) & ~right).sum(axis=1)


def recall_at(k: int, scores: Float[Array, "queries items"], right: Bool[Array, "q i"]) -> float:
    """R@k: the share of queries with a right answer among the first ``k``, ties counted as lost."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return float((ranks(scores, right) < k).mean())
