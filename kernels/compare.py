"""The one place where tolerances come from: an error model instead of a number tuned until green.

A floating-point sum of n products, in whatever order, has a rounding error of at most n u sum|a_i b_i| (Higham 2002,
eq. 3.4) and, for rounding errors that behave like independent noise, about sqrt(n) u sum|a_i b_i| (Higham & Mary 2019,
doi 10.1137/18M1226312, theorem 2.4), where u is half the machine epsilon. ``bound`` uses a constant times the second.
"""

from typing import Any

import numpy as np

SAFETY = 8.0  # standard deviations' worth of the probabilistic bound; the worst case would be sqrt(n)


def unit_roundoff(dtype: Any) -> float:
    """Half the distance from 1 to the next number of this dtype."""
    return float(np.finfo(dtype).eps) / 2


def bound(n: int, magnitude: Any, dtype: Any, factor: float = 1.0) -> Any:
    """The allowed error of a sum of ``n`` products whose absolute values add up to ``magnitude``.

    ``factor`` is the known amplification of an algorithm (Winograd's transforms, a chain of k rounded steps).
    """
    return SAFETY * factor * np.sqrt(max(n, 1)) * unit_roundoff(dtype) * (magnitude + np.finfo(dtype).tiny)


def assert_close(got: Any, want: Any, allowed: Any, what: str = "result") -> None:
    """Raise AssertionError unless ``|got - want| <= allowed`` everywhere; NaN and Inf must stand in the same places.

    ``want`` is the float64 reference and ``allowed`` broadcasts to it. The message shows the worst five elements.
    """
    got = np.asarray(got, np.float64)
    want = np.asarray(want, np.float64)
    if got.shape != want.shape:
        raise AssertionError(f"{what}: shape {got.shape}, expected {want.shape}")
    odd = ~np.isfinite(want)
    if not np.array_equal(got[odd], want[odd], equal_nan=True) or not np.all(np.isfinite(got[~odd])):
        raise AssertionError(f"{what}: NaN or Inf in different places than in the reference")
    with np.errstate(invalid="ignore"):
        error = np.where(odd, 0.0, np.abs(got - want))
    ratio = error / np.maximum(np.broadcast_to(allowed, want.shape), np.finfo(np.float64).tiny)
    if ratio.size and not ratio.max() <= 1.0:
        worst = np.argsort(-ratio, axis=None)[:5]
        lines = [
            f"  at {tuple(int(i) for i in np.unravel_index(k, want.shape))}: got {got.flat[k]!r}, expected "
            f"{want.flat[k]!r}, error {error.flat[k]:.3e} = {ratio.flat[k]:.2f} x allowed"
            for k in worst
        ]
        raise AssertionError(f"{what}: {int((ratio > 1).sum())} of {ratio.size} elements are off\n" + "\n".join(lines))
