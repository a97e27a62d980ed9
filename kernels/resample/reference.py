r"""Blocks of pixels as axes of their own: any float dtype, NumPy or CuPy."""

from ..backend import Array, array_module


def repeat(x: Array, factor: int) -> Array:
    """(n, h, w, c) -> (n, h f, w f, c), every pixel f x f times."""
    n, h, w, c = x.shape
    y = array_module(x).empty((n, h, factor, w, factor, c), x.dtype)
    y[...] = x[:, :, None, :, None]
    return y.reshape(n, h * factor, w * factor, c)


def block_sum(x: Array, factor: int) -> Array:
    """(n, h f, w f, c) -> (n, h, w, c), the sum over every block."""
    n, h, w, c = x.shape
    return x.reshape(n, h // factor, factor, w // factor, factor, c).sum(axis=(2, 4))
