"""Arrays with unusual memory layouts, numerical derivatives and thread counts for the tests of the kernels."""

import contextlib

import numpy as np

from kernels.threads import get_threads, set_threads

LAYOUTS = ("contiguous", "strided", "reversed", "fortran", "read-only")


def laid_out(x, layout):
    """An array equal to ``x`` that lies in memory in another way."""
    if layout == "strided":
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), 77, x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "reversed":
        return x[..., ::-1].copy()[..., ::-1]
    if layout == "fortran":
        return np.asfortranarray(x)
    x = x.copy()
    x.flags.writeable = layout != "read-only"
    return x


def directional(f, x, direction, h=2.0**-10):
    """The derivative of f at ``x`` along ``direction``: central differences of fourth order, float64.

    Their own error is about h^4 = 1e-12 times the fifth derivative, and roundoff / h.
    """
    near = f(x + h * direction) - f(x - h * direction)
    far = f(x + 2 * h * direction) - f(x - 2 * h * direction)
    return (8 * near - far) / (12 * h)


@contextlib.contextmanager
def threads(n):
    before = get_threads()
    set_threads(n)
    try:
        yield
    finally:
        set_threads(before)
