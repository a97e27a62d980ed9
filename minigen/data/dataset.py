r"""What a data set is: three fixed splits of grey levels, the one place that scales them, and batches as a function.

Images are stored as the LEVELS 0..levels-1 that they were measured in, because a likelihood is a probability of levels
(17 in the digits, 256 in most files). Networks see the scaled values

$$ x = \frac{2\,\text{level}}{\text{levels} - 1} - 1 \in [-1, 1]. $$
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kernels.backend import Array, to_numpy


@dataclass(frozen=True)
class Split:
    """Some items of a data set, all fields in the same order.

    ``images`` uint8 (n, h, w, c) of grey levels, or float32 points (n, d); ``labels`` int64 (n,) or None;
    ``captions`` one string per item or None; ``scenes`` what is in each picture, where that is known, or None.
    Images, captions and scenes may be drawn on demand (``shapes``): then they are indexed by an integer, a slice or
    an integer array, as an array is. Raises ValueError when the lengths differ.
    """

    images: Array
    labels: Array = None
    captions: Sequence[str] | None = None
    scenes: Any = None

    def __post_init__(self) -> None:
        for name in ("labels", "captions", "scenes"):
            field = getattr(self, name)
            if field is not None and len(field) != len(self.images):
                raise ValueError(
                    f"{name} must have one entry per image: got {len(field)} for {len(self.images)} images"
                )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Array) -> "Split":
        """The items at ``index`` (an integer array or a slice), in that order."""
        rows = rows_of(index, len(self))
        fields = (self.images, self.labels, self.captions, self.scenes)
        return Split(
            *([f[i] for i in rows] if isinstance(f, list | tuple) else None if f is None else f[rows] for f in fields)
        )


@dataclass(frozen=True)
class Dataset:
    """A named data set with its three splits.

    ``levels`` is the number of grey levels, or None for points on a continuous scale (``rings``), which are used as
    they are. ``classes`` names the labels 0, 1, ... and is empty when there are none. In texts the items are tokens,
    uint16 (n, t), ``levels`` is the size of their vocabulary, and ``tokenizer`` turns them into strings. ``checksum``
    (of the training split) is set only where a weights file describes the data set it was trained on, without items.
    Raises ValueError for fewer than two levels.
    """

    name: str
    train: Split
    val: Split
    test: Split
    levels: int | None
    classes: tuple[str, ...]
    tokenizer: Any = None
    checksum: int | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels must be at least 2, or None for points, got {self.levels}")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item: (h, w, c), (d,) for points, or (t,) for tokens."""
        return tuple(self.train.images.shape[1:])

    def scale(self, images: Array) -> Array:
        r"""Levels to float32 in [-1, 1]: $2 \, level / (levels - 1) - 1$; points are only made float32.

        Raises TypeError for levels that are no integers and ValueError for a level outside 0..levels-1.
        """
        images = np.asarray(images)
        if self.levels is None:
            return images.astype(np.float32)
        if images.dtype.kind not in "iu":
            raise TypeError(f"images must be integer grey levels, got {images.dtype}")
        if images.size and not (images.min() >= 0 and images.max() < self.levels):
            raise ValueError(f"images must be levels 0..{self.levels - 1}, got {images.min()}..{images.max()}")
        table = 2.0 * np.arange(self.levels) / (self.levels - 1) - 1.0
        return table.astype(np.float32)[images]

    def unscale(self, x: Array) -> Array:
        """The nearest levels of values in [-1, 1], uint8 (uint16 above 256); values outside are clipped. The inverse of ``scale``.

        Points are only made float32. Arrays on a GPU give NumPy's, too. Raises ValueError for NaN, which has no nearest level.
        """
        x = to_numpy(x)
        if self.levels is None:
            return x.astype(np.float32)
        if np.isnan(x).any():
            raise ValueError("x must be numbers: NaN has no nearest grey level")
        top = self.levels - 1
        return np.rint(np.clip((x.astype(np.float64) + 1.0) * (0.5 * top), 0, top)).astype(np.min_scalar_type(top))

    def to_rgb8(self, images: Array) -> UInt8[Array, "n h w 3"]:
        """Pictures for the eye, uint8 (n, h, w, 3): of integer levels, or of floats in [-1, 1] as they are.

        Raises ValueError for items that are no images of one or three channels.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(f"images must have shape (n, h, w, 1 or 3), got {images.shape}")
        x = images if images.dtype.kind == "f" else self.scale(images)
        grey = np.rint(np.clip((np.nan_to_num(x, nan=-1.0).astype(np.float64) + 1.0) * 127.5, 0, 255)).astype(np.uint8)
        return np.broadcast_to(grey, (*grey.shape[:3], 3)).copy() if grey.shape[-1] == 1 else grey


def rows_of(index: Any, n: int) -> Array:
    """``np.arange(n)[index]``, without the n numbers where ``index`` is a slice or integers. Raises IndexError."""
    if isinstance(index, slice):
        return np.arange(*index.indices(n))
    rows = np.asarray(index)
    if rows.dtype.kind not in "iu":  # a mask, an empty list, or an error
        return np.arange(n)[index]
    rows = rows.astype(np.int64)
    if rows.size and not (-n <= rows.min() and rows.max() < n):
        raise IndexError(f"an index is out of bounds for {n} items: got {rows.min()}..{rows.max()}")
    return np.where(rows < 0, rows + n, rows)


@lru_cache(maxsize=4)  # an epoch of a million items is shuffled once, not for every batch
def _order(n: int, seed: int, epoch: int) -> Array:
    order = np.random.default_rng((seed, epoch)).permutation(n)
    order.flags.writeable = False
    return order


def batch(split: Split, *, seed: int, step: int, size: int, part: slice = slice(None)) -> Split:
    r"""Batch number ``step``, or a ``part`` of it: a pure function of (seed, step), so that a resumed run sees what an
    uninterrupted one sees.

    Epoch $e$ visits the $n$ items in the order of the permutation drawn from ``default_rng((seed, e))``. The batches
    lie end to end on the epochs: item $i$ of batch $s$ is number $(s \cdot size + i) \bmod n$ of epoch
    $\lfloor (s \cdot size + i) / n \rfloor$. Every item therefore comes exactly once per epoch, even if ``size``
    does not divide $n$.

    Raises ValueError for an empty split, a negative seed or step, and a size below 1.
    """
    n = len(split)
    if n == 0:
        raise ValueError("split must hold at least one item to draw a batch from")
    if size < 1 or step < 0 or seed < 0:
        raise ValueError(
            f"size must be at least 1, step and seed at least 0: got size {size}, step {step}, seed {seed}"
        )
    position = np.arange(step * size, (step + 1) * size)
    epoch, within = position // n, position % n
    rows = np.empty(size, np.int64)
    for e in range(int(epoch[0]), int(epoch[-1]) + 1):
        here = epoch == e
        rows[here] = _order(n, seed, e)[within[here]]
    return split.take(rows[part])


def shift(images: Array, *, rng: np.random.Generator, p: float, pixels: int = 1) -> Array:
    r"""Move each image, with probability ``p``, by a whole number of pixels in -pixels..pixels along both axes.

    What enters at an edge is level 0 (the background of both digit sets). Any shape (n, h, w, c), any dtype; the
    input is left as it is. Draws ``rng.random(n)`` and then ``rng.integers(-pixels, pixels + 1, (n, 2))``; a move
    by (0, 0) is one of the $(2 \, pixels + 1)^2$ equally likely ones.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images must have shape (n, h, w, c), got {images.shape}")
    if not 0 <= p <= 1 or pixels < 0:
        raise ValueError(f"p must be in 0..1 and pixels at least 0, got p {p} and pixels {pixels}")
    n, h, w, _ = images.shape
    moved = rng.random(n) < p
    offset = rng.integers(-pixels, pixels + 1, (n, 2)) * moved[:, None]  # (n, 2): down, right
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    rows = np.arange(h)[None, :, None] + pixels - offset[:, 0, None, None]  # (n, h, 1)
    columns = np.arange(w)[None, None, :] + pixels - offset[:, 1, None, None]  # (n, 1, w)
    return padded[np.arange(n)[:, None, None], rows, columns]


def three_way(n: int, *, seed: int) -> tuple[Array, Array, Array]:
    """Row numbers of a fixed random split of ``n`` items: a tenth (rounded down, at least 1) each for val and test.

    Raises ValueError for fewer than three items.
    """
    if n < 3:
        raise ValueError(f"a data set needs at least 3 items, one for each of train, val and test: got {n}")
    order, tenth = np.random.default_rng(seed).permutation(n), max(1, n // 10)
    return order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
