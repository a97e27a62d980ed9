"""The ruler: two trained classifiers that stay the same for all models measured with them.

Distances in a network's features mean something only beside others in the same features. So the ruler is trained once
(by a fixed recipe from a fixed seed, in seconds), stored, and found again under a name that holds the version of its
code, the data set, and a hash of the recipes and of the training split. Another machine trains another ruler, because
training amplifies differences in the last digit (docs/figures.md says how much): quote the reference rows of
`minigen.metrics.report`, which move along with it, and compare only what one ruler has measured.
"""

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kernels.backend import Array
from kernels.precision import precision
from minigen.data import Dataset, Split
from minigen.metrics.classifier import (
    FEATURES,
    Classifier,
    Recipe,
    check_labelled,
    in_blocks,
    recipes,
    train_classifier,
)

VERSION = 1  # raise it with every change to the code that changes the trained weights
SURE = 0.9  # the probability above which a classifier counts as confident


@dataclass(frozen=True)
class Ruler:
    """A plain classifier and its twin with a reject class. Images are float (n, h, w, c) in [-1, 1].

    ``accuracy`` is the plain classifier's on the test split and ``seconds`` what training both took, as recorded after
    training; ``cached`` says whether this one came from a file.
    """

    dataset: str
    shape: tuple[int, ...]
    classes: int
    plain: Classifier
    reject: Classifier
    accuracy: float
    seconds: float
    cached: bool = False

    def features(self, images: Float[Array, "n h w c"]) -> Float[Array, "n 64"]:
        """The plain classifier's 64 rectified features."""
        return in_blocks(self.plain.features, self._checked(images), FEATURES)

    def probabilities(self, images: Float[Array, "n h w c"]) -> Float[Array, "n k"]:
        """The plain classifier's probabilities of the classes."""
        return _softmax(in_blocks(self.plain, self._checked(images), self.classes))

    def accepted(self, images: Float[Array, "n h w c"]) -> Bool[Array, " n"]:
        """Whether the twin gives some real class more than 90 %."""
        probabilities = _softmax(in_blocks(self.reject, self._checked(images), self.classes + 1))
        return probabilities[:, : self.classes].max(axis=1) > SURE

    def _checked(self, images: Array) -> Array:
        if images.dtype.kind != "f":
            raise TypeError(f"images must be floats in [-1, 1] (Dataset.scale makes them), got {images.dtype}")
        if images.shape[1:] != self.shape:
            shape = ", ".join(map(str, self.shape))
            raise ValueError(f"images must be (n, {shape}) for the ruler of '{self.dataset}', got {images.shape}")
        return images.astype(np.float32, copy=False)


def load_ruler(dataset: Dataset, *, cache_dir: str | Path | None = None) -> Ruler:
    """The ruler of a data set: from the cache, or trained now and put there.

    The cache is ``cache_dir``, or else the environment's ``MINIGEN_CACHE``, or else ``~/.cache/minigen``. A file that
    is broken or of another shape is replaced by training anew; an unwritable directory only costs that time each time.

    Raises ValueError for a data set without labelled images.
    """
    check_labelled(dataset)
    pair = recipes(dataset.shape)
    path = _cache_file(dataset, pair, cache_dir)
    return _read(path, dataset, pair) or train_ruler(dataset, pair, path)


@precision("float32")  # whatever is in force: it is kept
def train_ruler(dataset: Dataset, pair: tuple[Recipe, Recipe], path: Path | None = None) -> Ruler:
    """A ruler trained now by the two recipes, and stored at ``path`` if that is possible."""
    start = time.perf_counter()
    plain, reject = (train_classifier(dataset, recipe) for recipe in pair)
    seconds = time.perf_counter() - start
    ruler = Ruler(dataset.name, dataset.shape, len(dataset.classes), plain, reject, float("nan"), seconds)
    guess = ruler.probabilities(dataset.scale(dataset.test.images)).argmax(axis=1)
    ruler = Ruler(**{**vars(ruler), "accuracy": float((guess == dataset.test.labels).mean())})
    if path is not None:
        with suppress(OSError):  # a cache that cannot be written costs time, but is no error
            _write(path, ruler)
    return ruler


def _softmax(logits: Array) -> Array:
    z = np.exp(logits - logits.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def _cache_file(dataset: Dataset, pair: tuple[Recipe, Recipe], cache_dir: str | Path | None) -> Path | None:
    """Where the ruler is kept; None where there is no home directory to keep it in."""
    try:
        directory = Path(cache_dir or os.environ.get("MINIGEN_CACHE") or "~/.cache/minigen").expanduser()
    except RuntimeError:
        return None
    how = json.dumps([asdict(recipe) for recipe in pair], sort_keys=True)
    name = hashlib.sha256((how + digest(dataset, dataset.train)).encode()).hexdigest()[:16]
    return directory / f"ruler-v{VERSION}-{dataset.name}-{name}.safetensors"


def digest(dataset: Dataset, *splits: Split) -> str:
    """A hash of some splits' images and labels, and of the levels and classes that give them a meaning."""
    found = hashlib.sha256(repr((dataset.levels, dataset.classes)).encode())
    for split in splits:
        found.update(repr((split.images.shape, split.labels is None)).encode())
        for array in (split.images, () if split.labels is None else split.labels):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _write(path: Path, ruler: Ruler) -> None:
    """All weights in one file that appears whole or not at all."""
    nets = {"plain": ruler.plain, "reject": ruler.reject}
    arrays = {f"{name}.{key}": np.ascontiguousarray(a) for name, net in nets.items() for key, a in net.arrays().items()}
    raw = save(arrays, metadata={"accuracy": repr(ruler.accuracy), "seconds": repr(ruler.seconds)})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path | None, dataset: Dataset, pair: tuple[Recipe, Recipe]) -> Ruler | None:
    """The ruler in a file, or None where there is no usable one."""
    if path is None:
        return None
    try:
        if not path.is_file():  # which raises where the folder may not be read
            return None
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        if not all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values()):
            return None
        nets = [_rebuild(dataset, recipe, name, arrays) for name, recipe in zip(("plain", "reject"), pair)]
        figures = float(metadata["accuracy"]), float(metadata["seconds"])
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    return Ruler(dataset.name, dataset.shape, len(dataset.classes), nets[0], nets[1], *figures, cached=True)


def _rebuild(dataset: Dataset, recipe: Recipe, name: str, arrays: dict[str, Array]) -> Classifier:
    classes = len(dataset.classes) + (recipe.negatives > 0)
    rng = np.random.default_rng(0)
    net = Classifier(dataset.shape, classes, channels=recipe.channels, dropout=recipe.dropout, rng=rng)
    net.load_arrays({key.removeprefix(f"{name}."): a for key, a in arrays.items() if key.startswith(f"{name}.")})
    return net
