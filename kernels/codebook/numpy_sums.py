r"""The moving average on the CPU: counts by ``bincount``, sums by the embedding's scatter-add."""

from typing import Any

import numpy as np

from ..embedding import numpy_scatter
from . import reference


def codebook_ema(N: Any, m: Any, e: Any, z: Any, codes: Any, gamma: float) -> tuple[Any, Any, Any]:
    """As the definition."""
    n = np.bincount(codes.astype(np.int64), minlength=len(e))
    with np.errstate(all="ignore"):
        return reference.averaged(N, m, e, n, numpy_scatter.scatter_add(z, codes, len(e)), gamma)
