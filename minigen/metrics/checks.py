"""What every metric requires of its input; each error is one sentence."""

import numpy as np

from kernels.backend import Array


def check_rows(name: str, x: Array, *, least: int = 1, because: str = "") -> None:
    """ValueError unless ``x`` has at least ``least`` rows (``because`` says what for) and only finite numbers."""
    if len(x) < least:
        raise ValueError(f"{name} must have at least {least} rows{because and ' ' + because}, got {len(x)}")
    finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    if not finite.all():
        raise ValueError(f"{name} must be finite: {len(x) - finite.sum()} of {len(x)} rows hold NaN or infinity")
