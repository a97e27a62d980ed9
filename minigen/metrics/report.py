"""Tables for all models of a data set: how close samples come to unseen real ones, how varied they are, and whether copied.

Every figure is of about 512 samples, on valid grey levels (a sample is first rounded to the nearest level), and
beside it stand the rows of `reference_rows`: real images that the model was trained on, real images that it was not,
and two generators that need no network. A number alone says little; its place between those rows says something.
"""

from dataclasses import asdict
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from rich.table import Table

from kernels.backend import Array
from minigen.data import Dataset
from minigen.data.rings import Rings
from minigen.metrics.baselines import gaussian_mixture, pixel_noise
from minigen.metrics.clouds import normalised, overlap
from minigen.metrics.frechet import frechet_at_two_sizes, frechet_distance
from minigen.metrics.modes import histogram_kl, ring_modes
from minigen.metrics.neighbours import memorisation
from minigen.metrics.ruler import SURE, Ruler
from minigen.metrics.sharpness import relative_sharpness

SAMPLES = 512  # samples, and real images that they are compared with
REFERENCE = 4096  # real images that a Gaussian is fitted to, at most


class Column(NamedTuple):
    """One figure of the tables: the table it stands in, its heading, its digits after the point, what it is."""

    group: str
    heading: str
    digits: int
    meaning: str


FIDELITY, PAIRS, MEMORY, POINTS = "fidelity", "fidelity and diversity", "classes and memory", "modes"
COLUMNS = {
    "fd_ratio": Column(
        FIDELITY,
        "FD x",
        2,
        "Fréchet distance to the test split, over that of as many training images (of fewer samples, where there are not so many)",
    ),
    "fd_test": Column(FIDELITY, "FD test", 1, "the distance itself"),
    "fd_half": Column(FIDELITY, "FD half", 1, "the same between halves of both, mean of two: shows the bias"),
    "fd_infinite": Column(
        FIDELITY, "FD inf", 1, "2 FD test - FD half: drawn on to infinitely many images; below 0 by chance"
    ),
    "fd_train": Column(FIDELITY, "FD train", 1, "Fréchet distance to the training split"),
    "accepted": Column(
        FIDELITY,
        "accepted",
        3,
        "share that the classifier with a reject class gives more than 90 % for a real class",
    ),
    "confident": Column(
        FIDELITY,
        "confident",
        3,
        "share that the plain classifier gives more than 90 % (pixel noise reaches 0.6 on the digits: weak)",
    ),
    "sharpness": Column(
        FIDELITY, "sharp x", 2, "Laplacian energy over that of the test split; noise has more: read with accepted"
    ),
    "precision": Column(PAIRS, "precision", 3, "share inside the test split's cloud (pixels, k = 3); read with recall"),
    "recall": Column(PAIRS, "recall", 3, "share of the test split inside the samples' cloud"),
    "density": Column(PAIRS, "density", 3, "in how many of the test images' balls a sample lies, over k; 1 is right"),
    "coverage": Column(PAIRS, "coverage", 3, "share of the test images with a sample in their ball"),
    "precision_features": Column(PAIRS, "f precision", 3, "precision in the ruler's normalised features"),
    "recall_features": Column(PAIRS, "f recall", 3, "recall in them"),
    "density_features": Column(PAIRS, "f density", 3, "density in them"),
    "coverage_features": Column(PAIRS, "f coverage", 3, "coverage in them"),
    "class_kl": Column(
        MEMORY, "class KL", 3, "KL of the samples' class histogram, by the plain classifier, from training's, in nats"
    ),
    "classes": Column(MEMORY, "classes", 0, "classes that occur"),
    "min_class": Column(MEMORY, "min class", 3, "share of the rarest class"),
    "nearest": Column(MEMORY, "nearest", 1, "median distance to the nearest training image, in levels"),
    "nearest_test": Column(MEMORY, "of test", 1, "the same of the test split"),
    "nearest_ratio": Column(MEMORY, "nearest x", 2, "the first over the second: far below 1 means learned by heart"),
    "copies": Column(MEMORY, "copies", 0, "samples equal to a training image"),
    "close": Column(MEMORY, "close", 3, "share nearer to a training image than half of 'of test'"),
    "modes": Column(POINTS, "modes", 0, "centres with a tenth of their share of samples within 3 standard deviations"),
    "near": Column(POINTS, "near", 3, "share within 3 standard deviations of a centre; 0.989 is right"),
    "mode_kl": Column(POINTS, "mode KL", 3, "KL of the histogram of nearest centres from the uniform one, in nats"),
}


def quality(
    dataset: Dataset, images: Float[Array, "n h w c"], ruler: Ruler, *, rng: np.random.Generator
) -> dict[str, float]:
    """The figures of ``COLUMNS`` for image samples in [-1, 1]; ``rng`` picks 512 if there are more, and halves them.

    Both distances of ``fd_ratio`` are taken at `compared` images, so that the finite-sample bias of the Fréchet
    distance cancels: where the training split is smaller than the samples, ``rng`` then picks as many of those.
    ``fd_test`` is of all samples. Raises ValueError for NaN and for fewer than 4 samples, or real images in a split.
    """
    for name, count in (
        ("images", len(images)),
        ("the test split", len(dataset.test)),
        ("the training split", len(dataset.train)),
    ):
        _check_count(name, count)
    if len(images) > SAMPLES:
        images = images[rng.choice(len(images), SAMPLES, replace=False)]
    return _figures(dataset, dataset.unscale(images), ruler, rng)


def _check_count(name: str, count: int) -> None:
    if count < 4:
        raise ValueError(f"{name} must hold at least 4 images to be measured, got {count}")


def compared(dataset: Dataset, n: int) -> int:
    """How many of ``n`` samples, and as many training images, ``fd_ratio`` compares: at most 512, and the training split."""
    return min(n, SAMPLES, len(dataset.train))


def _figures(dataset: Dataset, levels: Array, ruler: Ruler, rng: np.random.Generator) -> dict[str, float]:
    """The figures of at most 512 images of grey levels."""
    n, train, test = len(levels), dataset.train.images, dataset.test.images
    m = compared(dataset, n)
    scaled = dataset.scale(levels)
    ours, of_train, of_test = (ruler.features(x) for x in (scaled, *_references(dataset)))
    probabilities = ruler.probabilities(scaled)
    classes = np.bincount(probabilities.argmax(axis=1), minlength=ruler.classes)
    fd, reference = frechet_at_two_sizes(ours, of_test, rng=rng), frechet_distance(of_train[:m], of_test)
    of_m = fd.full if m == n else frechet_distance(ours[rng.choice(n, m, replace=False)], of_test)
    pixels = overlap(_flat(test[:SAMPLES]), _flat(levels))
    features = overlap(normalised(of_test[:SAMPLES]), normalised(ours))
    memory = memorisation(_flat(levels), _flat(train), _flat(test[:SAMPLES]))
    return {
        "fd_ratio": of_m / reference if reference > 0 else float("inf"),
        "fd_test": fd.full,
        "fd_half": fd.half,
        "fd_infinite": fd.infinite,
        "fd_train": frechet_distance(ours, of_train),
        "accepted": float(ruler.accepted(scaled).mean()),
        "confident": float((probabilities.max(axis=1) > SURE).mean()),
        "sharpness": relative_sharpness(levels, test[:SAMPLES]),
        **asdict(pixels),
        **{f"{name}_features": value for name, value in asdict(features).items()},
        "class_kl": histogram_kl(classes, np.bincount(dataset.train.labels, minlength=ruler.classes)),
        "classes": float((classes > 0).sum()),
        "min_class": float(classes.min() / n),
        "nearest": memory.median,
        "nearest_test": memory.test_median,
        "nearest_ratio": memory.ratio,
        "copies": float(memory.copies),
        "close": memory.close,
    }


def quality_of_points(density: Rings, points: Float[Array, "n 2"]) -> dict[str, float]:
    """The figures of ``COLUMNS`` for samples of a ring. Raises ValueError for no points, and NaN."""
    found = ring_modes(density, points)
    return {"modes": float(found.found), "near": found.near, "mode_kl": found.kl}


def _references(dataset: Dataset) -> tuple[Array, Array]:
    """Scaled images of the training and the test split."""
    return dataset.scale(dataset.train.images[:REFERENCE]), dataset.scale(dataset.test.images[:REFERENCE])


def _flat(images: Array) -> Array:
    return images.reshape(len(images), -1).astype(np.float32)


def reference_rows(dataset: Dataset, ruler: Ruler) -> dict[str, dict[str, float]]:
    """The same figures of reference images: name -> figures.

    The first 512 training images, up to 512 validation images, 512 draws each (fixed seed) of the Gaussian mixture and
    of pixel-independent noise. Raises ValueError for a split of fewer than 4 images.
    """
    splits = {"training": dataset.train, "validation": dataset.val, "test": dataset.test}
    for name, split in splits.items():
        _check_count(f"the {name} split", len(split))
    train, rng = dataset.train.images, np.random.default_rng(0)
    k = min(10, max(1, len(train) // 20))  # a mixture of ten needs some images for each
    rows = {
        f"train {len(train[:SAMPLES])}": train[:SAMPLES],
        f"val {len(dataset.val.images[:SAMPLES])}": dataset.val.images[:SAMPLES],
        f"Gaussian mixture {k}": gaussian_mixture(train, SAMPLES, levels=dataset.levels or 0, rng=rng, k=k),
        "pixel noise": pixel_noise(train, SAMPLES, rng=rng),
    }
    return {name: _figures(dataset, levels, ruler, rng) for name, levels in rows.items()}


def chance(dataset: Dataset, ruler: Ruler, *, n: int = SAMPLES, draws: int = 40) -> tuple[float, float]:
    """Mean and spread of ``fd_ratio`` for `compared` (of ``n``) training images drawn with replacement (fixed seed).

    What a perfect sampler of the training set would measure, draw by draw: a difference between two models that is
    smaller than this spread may be chance. Infinite and NaN where the ratio is infinite: these images have no distance.
    """
    of_train, of_test = (ruler.features(x) for x in _references(dataset))
    return _redrawn(of_train, compared(dataset, n), of_train, of_test, draws)


def spread(dataset: Dataset, images: Float[Array, "n h w c"], ruler: Ruler, *, draws: int = 40) -> float:
    """The error of ``fd_ratio`` of some image samples: its spread over `compared` of them drawn with replacement (fixed seed).

    NaN where the ratio is infinite.
    """
    of_train, of_test = (ruler.features(x) for x in _references(dataset))
    ours = ruler.features(dataset.scale(dataset.unscale(images)))
    return _redrawn(ours, compared(dataset, len(ours)), of_train, of_test, draws)[1]


def _redrawn(features: Array, m: int, of_train: Array, of_test: Array, draws: int) -> tuple[float, float]:
    """Mean and spread of ``fd_ratio`` of ``m`` rows of features drawn with replacement, so many times."""
    unit, rng = frechet_distance(of_train[:m], of_test), np.random.default_rng(0)
    if unit == 0:
        return float("inf"), float("nan")
    ratios = [frechet_distance(features[rng.choice(len(features), m)], of_test) / unit for _ in range(draws)]
    return float(np.mean(ratios)), float(np.std(ratios, ddof=1))


def format_tables(rows: dict[str, dict[str, float]]) -> list[Table]:
    """A table for rich's console for each group of ``COLUMNS`` that the rows have figures of: one line per entry."""
    groups: dict[str, list[str]] = {}
    for key, column in COLUMNS.items():
        if any(key in row for row in rows.values()):
            groups.setdefault(column.group, []).append(key)
    return [_table(group, keys, rows) for group, keys in groups.items()]


def _table(title: str, keys: list[str], rows: dict[str, dict[str, float]]) -> Table:
    table = Table("", *(COLUMNS[key].heading for key in keys), title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.{COLUMNS[key].digits}f}" if key in row else "-" for key in keys))
    return table
