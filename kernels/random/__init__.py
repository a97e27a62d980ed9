r"""A counter-based random stream: what is drawn depends on seed, sample, step and purpose, and on nothing else.

The numbers of a sample are those of Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011, doi 10.1145/2063384.2063405) with
the seed as its key and (block, sample, step, purpose) as its counter. So sample 7 of a batch of 512 is sample 7 drawn
alone, leaving out a step does not move the others, noise and dropout do not disturb each other, and NumPy, CuPy and the
CUDA kernel give the same bits: words, uniform and normal numbers alike (why: ``reference``).

In ``normal`` the words give $2^{32}$ radii and angles; the largest number is 6.76, and the density beyond, 1.4e-11 of
all, is missing. float32 results are the float64 ones rounded once, right to 0.51 units in the last place.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt32

from ..backend import Array, array_module
from ..checks import check_array, is_whole, whole
from ..device import device_of
from ..threads import map_tiles, split
from . import reference

__all__ = ["Stream", "normal", "random_bits", "uniform"]

WORD = 2**32
SPAWNED = 2**16  # purposes from here on are those of spawned streams
TILE = 1 << 13  # blocks of four words that are drawn together: 64 KiB for each of about ten arrays


def random_bits(
    shape: tuple[int, ...], *, seed: int, first: int = 0, step: int = 0, purpose: int = 0, like: Array | None = None
) -> UInt32[Array, "n *rest"]:
    """Words of 32 random bits; row i of ``shape`` (n, ...) belongs to the sample ``first + i``.

    ``seed`` is below 2^64, the others are below 2^32, and a sample has at most 2^34 numbers, else ValueError. The
    result lies on the device of the array ``like``.
    """
    return _draw("random_bits", lambda w, xp: w, 4, np.uint32, shape, seed, first, step, purpose, like)


def uniform(
    shape: tuple[int, ...],
    *,
    seed: int,
    first: int = 0,
    step: int = 0,
    purpose: int = 0,
    dtype: Any = np.float32,
    like: Array | None = None,
) -> Float[Array, "n *rest"]:
    """Uniform numbers in [0, 1): multiples of 2^-24 in float32, of 2^-53 in float64. Arguments as for ``random_bits``."""
    make, per_block = (reference.uniform_64, 2) if _check_dtype(dtype) else (reference.uniform_32, 4)
    return _draw("uniform", make, per_block, dtype, shape, seed, first, step, purpose, like)


def normal(
    shape: tuple[int, ...],
    *,
    seed: int,
    first: int = 0,
    step: int = 0,
    purpose: int = 0,
    dtype: Any = np.float32,
    like: Array | None = None,
) -> Float[Array, "n *rest"]:
    r"""$N(0, 1)$: $\sqrt{-2 \ln u} \cos 2\pi a$ and $\sqrt{-2 \ln u} \sin 2\pi a$ (Box & Muller 1958).

    Arguments as for ``random_bits``.
    """
    _check_dtype(dtype)
    return _draw("normal", reference.normal_64, 4, dtype, shape, seed, first, step, purpose, like)


class Stream:
    """The stream in the place of a NumPy generator: each call takes the next step, rows are samples.

    ``Stream(seed, first=7).standard_normal((1, ...))`` is row 7 of what ``Stream(seed).standard_normal((512, ...))``
    gives, call after call. ``purpose`` keeps the draws of two uses apart, those from 2^16 on are for `spawn`; ``like``
    is an array on the device of the results.
    """

    def __init__(self, seed: int, *, purpose: int = 0, first: int = 0, step: int = 0, like: Array | None = None):
        _check(seed, first, step, purpose)
        self.seed, self.purpose, self.first, self.step, self.like = seed, purpose, first, step, like
        self.spawned = 0

    def standard_normal(self, size: tuple[int, ...], dtype: Any = np.float32) -> Float[Array, "n *rest"]:
        """``normal`` at this step; then the next step."""
        return self._next(normal, size, dtype)

    def random(self, size: tuple[int, ...], dtype: Any = np.float32) -> Float[Array, "n *rest"]:
        """``uniform`` at this step; then the next step."""
        return self._next(uniform, size, dtype)

    def integers(self, low: int, high: int, size: int | tuple[int, ...]) -> Int64[Array, "n *rest"]:
        r"""Whole numbers from ``low`` to ``high`` - 1, equally likely: $l + \lfloor (h - l)\, u \rfloor$ of a float64
        ``uniform`` u at this step; then the next step.
        """
        if not (is_whole(low) and is_whole(high) and 0 < int(high) - int(low) <= 2**53):
            raise ValueError(f"high must be above low, by at most 2^53, both whole numbers, got {low!r} and {high!r}")
        low, span = int(low), int(high) - int(low)
        shape: Any = (size,) if is_whole(size) else size
        u = self._next(uniform, shape, np.float64)
        return low + (span * u).astype(np.int64)  # span u, rounded, is below the span

    def spawn(self, n_children: int) -> list["Stream"]:
        """Streams of the same samples for further uses, each from its step 0 on; this one's numbers stay what they are.

        Raises ValueError for a stream that was spawned itself, and for more than 2^16 - 1 children.
        """
        first, end = self.spawned + 1, self.spawned + 1 + whole("n_children", n_children, 0)
        if self.purpose >= SPAWNED or end > SPAWNED:
            raise ValueError(f"purpose must be below 2^16 to spawn, 2^16 - 1 at most, got {self.purpose} and {end - 1}")
        self.spawned = end - 1
        where: dict[str, Any] = {"first": self.first, "like": self.like}
        return [Stream(self.seed, purpose=self.purpose + k * SPAWNED, **where) for k in range(first, end)]

    def _next(self, draw: Any, size: tuple[int, ...], dtype: Any) -> Any:
        at = {"seed": self.seed, "first": self.first, "step": self.step, "purpose": self.purpose}
        numbers_ = draw(size, **at, dtype=dtype, like=self.like)
        self.step += 1
        return numbers_


def _draw(
    kernel: str,
    make: Any,
    per_block: int,
    dtype: Any,
    shape: tuple[int, ...],
    seed: int,
    first: int,
    step: int,
    purpose: int,
    like: Array | None,
) -> Any:
    """``make(words, xp)`` gives ``per_block`` numbers of each block; on the CPU in tiles that stay in a core's cache.

    ``kernel`` is the function of ``cuda`` that gives the same in 32 bits.
    """
    _check(seed, first, step, purpose)
    if not np.iterable(shape) or len(shape) < 1 or not all(is_whole(s) and s >= 0 for s in shape):
        raise ValueError(f"shape must be (n, ...) with whole numbers of at least 0, got {shape!r}")
    shape = tuple(map(int, shape))
    n, per_sample = shape[0], math.prod(shape[1:])
    seed, first, step, purpose = int(seed), int(first), int(step), int(purpose)  # NumPy's would change the arithmetic
    blocks = -(-per_sample // per_block)
    check_counters(shape, first, n, blocks)
    if like is not None:
        check_array("like", like)
    xp = np if like is None else array_module(like)
    if (device := device_of(like)) is not None and np.dtype(dtype).itemsize == 4:
        from . import cuda

        return getattr(cuda, kernel)(device, shape, seed=seed, first=first, step=step, purpose=purpose)
    out = xp.empty((n * blocks, per_block), dtype)

    def tile(s: slice) -> None:
        block = xp.arange(s.start, s.stop, dtype=xp.uint64)
        words = reference.words(block % blocks, first + block // blocks, step, purpose, seed, xp)
        out[s] = make(words, xp)

    if out.size:
        map_tiles(tile, split(len(out), TILE, TILE // 2)) if xp is np else tile(slice(0, len(out)))
    return out.reshape(n, blocks * per_block)[:, :per_sample].reshape(shape)


def check_counters(shape: Any, first: int, n: int, blocks: int) -> None:
    """Raise ValueError for ``n`` samples from ``first`` on, of so many blocks each, that 32 bits do not number."""
    if first + n > WORD or blocks > WORD:
        raise ValueError(f"samples and blocks of a sample are numbered below 2^32, got shape {shape} from {first} on")


def _check(seed: int, first: int, step: int, purpose: int) -> None:
    for name, value, end in (("seed", seed, 64), ("first", first, 32), ("step", step, 32), ("purpose", purpose, 32)):
        if not (is_whole(value) and 0 <= value < 2**end):
            raise ValueError(f"{name} must be a whole number from 0 to 2^{end} - 1, got {value!r}")


def _check_dtype(dtype: Any) -> bool:
    try:
        asked = np.dtype(dtype)
    except TypeError:
        asked = None
    if dtype is None or asked not in (np.float32, np.float64):  # NumPy takes None for float64
        raise TypeError(f"dtype must be float32 or float64, got {asked or dtype}")
    return asked == np.float64
