"""One table for all image models of a data set: how close samples come to unseen real images, and whether they are copies.

Every figure is taken at about 512 samples, on valid grey levels (a sample is first rounded to the nearest level), and
beside it stand the rows of `reference_rows`: real images that the model was trained on, real images that it was not,
and two generators that need no network. A number alone says little; its place between those rows says something.
"""

import numpy as np
from jaxtyping import Float
from rich.table import Table

from kernels.backend import Array
from minigen.data import Dataset
from minigen.metrics.baselines import gaussian_mixture, pixel_noise
from minigen.metrics.frechet import frechet_distance
from minigen.metrics.neighbours import memorisation, precision_recall
from minigen.metrics.ruler import SURE, Ruler

SAMPLES = 512  # samples, and real images that they are set against
REFERENCE = 4096  # real images that a Gaussian is fitted to, at most

# key -> (heading, digits after the point, what it is)
COLUMNS = {
    "fd_ratio": ("FD x", 2, "Fréchet distance to the test split, over that of as many training images"),
    "fd_test": ("FD test", 1, "the distance itself"),
    "fd_train": ("FD train", 1, "Fréchet distance to the training split"),
    "accepted": ("accepted", 3, "share that the classifier with a reject class gives more than 90 % for a real class"),
    "confident": (
        "confident",
        3,
        "share that the plain classifier gives more than 90 % (pixel noise reaches 0.6 on the digits: weak)",
    ),
    "min_class": ("min class", 3, "share of the rarest class, by the plain classifier"),
    "precision": ("precision", 3, "share inside the test split's cloud (pixels, k = 3); read with recall"),
    "recall": ("recall", 3, "share of the test split inside the samples' cloud"),
    "nearest": ("nearest", 1, "median distance to the nearest training image, in levels"),
    "nearest_test": ("of test", 1, "the same of the test split"),
    "copies": ("copies", 0, "samples equal to a training image"),
    "close": ("close", 3, "share nearer to a training image than half of 'of test'"),
}


def quality(
    dataset: Dataset, images: Float[Array, "n h w c"], ruler: Ruler, *, rng: np.random.Generator
) -> dict[str, float]:
    """The figures of ``COLUMNS`` for samples in [-1, 1]; of more than 512, ``rng`` picks 512.

    With fewer than 512 samples the reference of ``fd_ratio`` is taken at that number too, so that the finite-sample
    bias of the Fréchet distance cancels. Raises ValueError for NaN and for fewer than 4 samples, or real images in a split.
    """
    for name, count in (
        ("images", len(images)),
        ("the test split", len(dataset.test)),
        ("the training split", len(dataset.train)),
    ):
        if count < 4:
            raise ValueError(f"{name} must hold at least 4 images to be measured, got {count}")
    if len(images) > SAMPLES:
        images = images[rng.choice(len(images), SAMPLES, replace=False)]
    return _figures(dataset, dataset.unscale(images), ruler)


def _figures(dataset: Dataset, levels: Array, ruler: Ruler) -> dict[str, float]:
    """The figures of at most 512 images of grey levels."""
    n, train, test = len(levels), dataset.train.images, dataset.test.images
    scaled = dataset.scale(levels)
    ours, of_train, of_test = (ruler.features(x) for x in (scaled, *_references(dataset)))
    probabilities = ruler.probabilities(scaled)
    classes = np.bincount(probabilities.argmax(axis=1), minlength=ruler.classes)
    fd_test, reference = (frechet_distance(x, of_test) for x in (ours, of_train[:n]))
    precision, recall = precision_recall(_flat(test[:SAMPLES]), _flat(levels))
    memory = memorisation(_flat(levels), _flat(train), _flat(test[:SAMPLES]))
    return {
        "fd_ratio": fd_test / reference if reference > 0 else float("inf"),
        "fd_test": fd_test,
        "fd_train": frechet_distance(ours, of_train),
        "accepted": float(ruler.accepted(scaled).mean()),
        "confident": float((probabilities.max(axis=1) > SURE).mean()),
        "min_class": float(classes.min() / n),
        "precision": precision,
        "recall": recall,
        "nearest": memory.median,
        "nearest_test": memory.test_median,
        "copies": float(memory.copies),
        "close": memory.close,
    }


def _references(dataset: Dataset) -> tuple[Array, Array]:
    """Scaled images of the training and the test split."""
    return dataset.scale(dataset.train.images[:REFERENCE]), dataset.scale(dataset.test.images[:REFERENCE])


def _flat(images: Array) -> Array:
    return images.reshape(len(images), -1).astype(np.float32)


def reference_rows(dataset: Dataset, ruler: Ruler) -> dict[str, dict[str, float]]:
    """The same figures of what is known: name -> figures.

    The first 512 training images, up to 512 validation images, 512 draws each (fixed seed) of the Gaussian mixture and
    of pixel-independent noise.
    """
    train, rng = dataset.train.images, np.random.default_rng(0)
    k = min(10, max(1, len(train) // 20))  # a mixture of ten needs some images for each
    rows = {
        f"train {len(train[:SAMPLES])}": train[:SAMPLES],
        f"val {len(dataset.val.images[:SAMPLES])}": dataset.val.images[:SAMPLES],
        f"Gaussian mixture {k}": gaussian_mixture(train, SAMPLES, levels=dataset.levels or 0, rng=rng, k=k),
        "pixel noise": pixel_noise(train, SAMPLES, rng=rng),
    }
    return {name: _figures(dataset, levels, ruler) for name, levels in rows.items()}


def chance(dataset: Dataset, ruler: Ruler, *, draws: int = 40) -> tuple[float, float]:
    """Mean and spread of ``fd_ratio`` for 512 training images drawn with replacement (fixed seed).

    What a perfect sampler of the training set would measure, draw by draw: a difference between two models that is
    smaller than this spread is chance.
    """
    n = min(SAMPLES, len(dataset.train.images))
    of_train, of_test = (ruler.features(x) for x in _references(dataset))
    unit = frechet_distance(of_train[:n], of_test)
    rng = np.random.default_rng(0)
    picks = [rng.choice(len(of_train), n) for _ in range(draws)]
    ratios = [frechet_distance(of_train[rows], of_test) / unit for rows in picks]
    return float(np.mean(ratios)), float(np.std(ratios, ddof=1))


def format_table(rows: dict[str, dict[str, float]], *, title: str | None = None) -> Table:
    """A table for rich's console: one line per entry, the columns that the rows have in the order of ``COLUMNS``."""
    keys = [key for key in COLUMNS if any(key in row for row in rows.values())]
    table = Table("", *(COLUMNS[key][0] for key in keys), title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.{COLUMNS[key][1]}f}" if key in row else "-" for key in keys))
    return table
