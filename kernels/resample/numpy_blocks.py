"""Blocks of pixels, columns and rows one after the other, so that most copies and sums are over long runs of memory."""

from typing import Any

import numpy as np


def repeat(x: Any, factor: int) -> Any:
    """(n, h, w, c) -> (n, h f, w f, c): columns first, then whole rows."""
    return np.repeat(np.repeat(x, factor, axis=2), factor, axis=1)


def block_sum(x: Any, factor: int) -> Any:
    """(n, h f, w f, c) -> (n, h, w, c): the f rows of a block first (long runs), then the f columns."""
    n, h, w, c = x.shape
    rows = x.reshape(n, h // factor, factor, w, c)
    with np.errstate(all="ignore"):  # infinity minus infinity is NaN here without a warning
        total = _add([rows[:, :, i] for i in range(factor)])
        columns = total.reshape(n, h // factor, w // factor, factor, c)
        return _add([columns[:, :, :, i] for i in range(factor)])


def _add(parts: list[Any]) -> Any:
    total = parts[0] + parts[1] if len(parts) > 1 else parts[0].copy()
    for part in parts[2:]:
        total += part
    return total
