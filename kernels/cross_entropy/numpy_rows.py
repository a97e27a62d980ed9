r"""Cross-entropy in tiles of rows: maximum, difference, exp and sum while a tile is in the cache.

The maximum and $s_i = \sum_j e^{x_{ij} - \mu_i}$ are kept, not the probabilities: these would be another array of the
logits' size, and $e^{x - \mu} \cdot (g_i / s_i)$ gives them again in three passes. The two are not combined
into $\mu + \ln s$, so the result is as accurate for logits around 1e4 as around 0.
"""

from typing import Any

import numpy as np

from ..threads import TILE_BYTES, map_tiles, scratch, split


def forward(logits: Any, targets: Any) -> tuple[Any, tuple[Any, Any]]:
    """(loss, (largest, total)), each (m,)."""
    logits = np.ascontiguousarray(logits)
    m, k = logits.shape
    loss, largest, total = (np.empty(m, logits.dtype) for _ in range(3))
    ones = np.ones(k, logits.dtype)

    def tile(s: slice) -> None:
        x = logits[s]
        e = scratch("cross entropy", x.shape, x.dtype)
        np.max(x, axis=1, out=largest[s])
        np.subtract(x, largest[s, None], out=e)
        picked = e[np.arange(len(x)), targets[s]]
        np.exp(e, out=e)
        np.matmul(e, ones, out=total[s])
        np.subtract(np.log(total[s]), picked, out=loss[s])

    with np.errstate(all="ignore"):
        map_tiles(tile, _tiles(logits))
    return loss, (largest, total)


def backward(g: Any, logits: Any, targets: Any, saved: tuple[Any, Any]) -> Any:
    """dlogits (m, k)."""
    logits = np.ascontiguousarray(logits)
    largest, total = saved
    dx = np.empty_like(logits)

    def tile(s: slice) -> None:
        e = dx[s]
        np.subtract(logits[s], largest[s, None], out=e)
        np.exp(e, out=e)
        np.multiply(e, (g[s] / total[s])[:, None], out=e)
        e[np.arange(len(e)), targets[s]] -= g[s]

    with np.errstate(all="ignore"):
        map_tiles(tile, _tiles(logits))
    return dx


def _tiles(x: Any) -> list[slice]:
    most = max(1, TILE_BYTES // (x.itemsize * max(1, x.shape[1])))
    return split(x.shape[0], most, max(1, most // 2))
