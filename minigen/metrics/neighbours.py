r"""Nearest neighbours among images: has a model learned its data set by heart?

Distances are Euclidean over all pixels, in whatever unit the images come in (grey levels in the reports).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kernels.backend import Array
from minigen.metrics.checks import check_rows

CENTRED = 1000  # about how many rows the common centre is the median of
BLOCK = 1 << 23  # entries of one block of distances: 64 MiB in float64, times about three for temporaries


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows, each small enough that its rows times ``columns`` are at most ``BLOCK``."""
    size = max(1, BLOCK // columns)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def nearest(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, k: int = 1, same: bool = False
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    r"""The distances from each row of ``x`` to its ``k`` nearest rows of ``y``, ascending, and their row numbers.

    ``same`` says that ``y`` is ``x``: a row is then not its own neighbour. Candidates come from
    $|x|^2 + |y|^2 - 2 x \cdot y$ in float64, around a common centre (small norms, small rounding; grey levels stay
    exact), block by block (10,000 against 10,000 needs far less than 1 GiB); their distances are then computed again
    from the differences, so that a copy has distance exactly 0.

    Raises ValueError where ``y`` has fewer than ``k`` (other) rows, and for NaN.
    """
    m = len(y) - same
    if not 1 <= k <= m:
        raise ValueError(f"k must be in 1..{m} (the rows there are to choose from), got {k}")
    check_rows("x", x, least=0)
    check_rows("y", y)
    centre = np.median(y[:: -(-len(y) // CENTRED)].astype(np.float64), axis=0)  # a far outlier does not move it
    centred = y - centre
    norm = np.square(centred).sum(1)
    distances, rows = np.empty((len(x), k)), np.empty((len(x), k), np.int64)
    for here in blocks(len(x), len(y)):
        block = x[here].astype(np.float64)
        d2 = (block - centre) @ centred.T
        d2 *= -2.0
        d2 += norm  # |x|^2 is the same along a row, so it does not change the order
        if same:
            d2[np.arange(len(block)), here.start + np.arange(len(block))] = np.inf
        found = _smallest(d2, k)  # (rows of the block, k)
        exact = np.stack([np.sqrt(np.square(block - y[found[:, j]]).sum(1)) for j in range(k)], axis=1)  # not centred
        order = np.argsort(exact, axis=1, kind="stable")
        distances[here] = np.take_along_axis(exact, order, axis=1)
        rows[here] = np.take_along_axis(found, order, axis=1)
    return distances, rows


def _smallest(d2: Array, k: int) -> Array:
    """Columns of the ``k`` smallest entries of each row."""
    if k == 1:
        return d2.argmin(axis=1)[:, None]
    return np.argpartition(d2, k - 1, axis=1)[:, :k]


@dataclass(frozen=True)
class Memorisation:
    """How close samples come to the training images, compared with unseen real images.

    ``median`` and ``test_median``: median distance to the nearest training image, of the samples and of the test
    split. ``copies``: samples that equal a training image in every pixel. ``close`` and ``test_close``: the share
    within ``radius`` of a training image. ``ratio`` is the first over the second: about 1 for new images of the same
    kind, 0 for a model that has learned them by heart.
    """

    median: float
    test_median: float
    copies: int
    radius: float
    close: float
    test_close: float

    @property
    def ratio(self) -> float:
        """``median / test_median``; infinite where the test images are themselves copies and the samples are not."""
        if self.test_median == 0:
            return 1.0 if self.median == 0 else float("inf")
        return self.median / self.test_median


def memorisation(
    samples: Float[Array, "n d"],
    train: Float[Array, "m d"],
    test: Float[Array, "t d"],
    *,
    radius: float | None = None,
) -> Memorisation:
    """Distances to the training set, of samples and of the test set; ``radius`` defaults to half the latter's median.

    Raises ValueError for an empty set, and NaN.
    """
    for name, x in (("samples", samples), ("train", train), ("test", test)):
        check_rows(name, x)
    ours = nearest(samples, train)[0][:, 0]
    theirs = nearest(test, train)[0][:, 0]
    test_median = float(np.median(theirs))
    radius = test_median / 2 if radius is None else radius
    return Memorisation(
        median=float(np.median(ours)),
        test_median=test_median,
        copies=int((ours == 0).sum()),
        radius=radius,
        close=float((ours <= radius).mean()),
        test_close=float((theirs <= radius).mean()),
    )
