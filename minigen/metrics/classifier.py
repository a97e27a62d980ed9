r"""The network behind the ruler: a small convolutional classifier, trained in seconds by this project's own engine.

$$ \text{conv}_c\ \text{conv}_c\ \text{pool}\ \text{conv}_{2c}\ \text{conv}_{2c}\ \text{pool}\ \text{linear}_{64}\ \text{linear}_k $$

3x3 convolutions, a rectifier after each layer but the last, 2x2 max pooling. The 64 rectified values before the last
layer are the features in which Fréchet distances are taken.

Trained by AdamW with a cosine rate, dropout, random shifts by one pixel, and an exponential average of the weights.

**The reject class.** A plain classifier is confident about almost anything: most of ``class_noise`` gets more than
90 % for some digit. So a twin has one class more and sees, beside every 64 real images, 20 of the two kinds of
pixel-independent noise under that label. A sample counts as *accepted* when the twin gives a real class more than 90 %.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

import autograd as ag
from kernels.adam import adam_step
from kernels.backend import Array
from minigen.data import Dataset, batch, shift
from minigen.metrics.baselines import class_noise, pixel_noise
from minigen.nn.init import he
from minigen.nn.layers import Conv2d, Dropout, Linear
from minigen.nn.module import Module

FEATURES = 64
BLOCK = 256  # images that go through the network at once, except in training


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, besides the data and the code."""

    channels: int
    steps: int
    negatives: int = 0  # images of noise beside each batch, as an extra class; 0 = no such class
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 1e-2
    dropout: float = 0.3
    shift: float = 0.7
    ema: float = 0.99
    seed: int = 0


def recipes(shape: tuple[int, ...]) -> tuple[Recipe, Recipe]:
    """The plain classifier's recipe and its twin's with the reject class: narrower for images above 16x16 pixels."""
    if shape[0] * shape[1] <= 16 * 16:
        return Recipe(channels=32, steps=800), Recipe(channels=32, steps=1200, negatives=20)
    return Recipe(channels=8, steps=800), Recipe(channels=8, steps=800, negatives=20)


class Classifier(Module):
    """Images (n, h, w, c) in [-1, 1] to ``classes`` logits; sides that 4 does not divide are padded with -1 (black)."""

    def __init__(
        self, shape: tuple[int, ...], classes: int, *, channels: int, dropout: float, rng: np.random.Generator
    ):
        h, w, c_in = shape
        c = channels
        widths = [(c_in, c), (c, c), (c, 2 * c), (2 * c, 2 * c)]
        self.convs = [Conv2d(a, b, initial=he, rng=rng) for a, b in widths]
        self.margin = ((0, 0), (0, -h % 4), (0, -w % 4), (0, 0))
        self.hidden = Linear(2 * c * -(-h // 4) * -(-w // 4), FEATURES, initial=he, rng=rng)
        self.head = Linear(FEATURES, classes, rng=rng)
        self.dropout = Dropout(dropout)

    def features(self, x: Array, rng: np.random.Generator | None = None) -> Array:
        """The 64 rectified values before the last layer; ``rng`` draws dropout's mask while training."""
        x = np.pad(x, self.margin, constant_values=-1)
        for i, conv in enumerate(self.convs):
            x = ag.relu(conv(x))
            if i % 2:
                x = ag.max_pool(x)
        x = ag.reshape(x, (x.shape[0], -1))
        return ag.relu(self.hidden(self.dropout(x, rng)))

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> Array:
        """(n, h, w, c) -> (n, classes), logits."""
        return self.head(self.dropout(self.features(x, rng), rng))


def check_labelled(dataset: Dataset) -> None:
    """Raise ValueError for a data set without labelled images: points have labels, but are none."""
    if dataset.train.labels is None or len(dataset.shape) != 3:
        raise ValueError(f"a classifier needs labelled images: the data set '{dataset.name}' has none")


def train_classifier(dataset: Dataset, recipe: Recipe) -> Classifier:
    """A classifier trained on ``dataset.train``; a function of its two arguments alone (up to the machine's rounding).

    Raises ValueError for a data set without labelled images.
    """
    check_labelled(dataset)
    classes = len(dataset.classes) + (recipe.negatives > 0)
    rng = np.random.default_rng(recipe.seed)
    net = Classifier(dataset.shape, classes, channels=recipe.channels, dropout=recipe.dropout, rng=rng)
    net.flatten()
    moment_1, moment_2, average = np.zeros_like(net.flat), np.zeros_like(net.flat), net.flat.copy()
    for step in range(recipe.steps):
        rng = np.random.default_rng((recipe.seed, step))
        images, labels = training_batch(dataset, recipe, step, rng)
        net.zero_grad()
        ag.mean(ag.cross_entropy(net(dataset.scale(images), rng), labels)).backward()
        lr = recipe.lr * 0.5 * (1 + np.cos(np.pi * step / recipe.steps))
        adam_step(net.flat, net.flat_grad, moment_1, moment_2, step=step + 1, lr=lr, weight_decay=recipe.weight_decay)
        keep = min(recipe.ema, (1 + step) / (10 + step))  # a short memory first: the initial weights are forgotten
        average += (1 - keep) * (net.flat - average)
    net.flat[...] = average
    return net


def training_batch(dataset: Dataset, recipe: Recipe, step: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Levels and labels of one step: shifted real images, then the noise of the extra class, half of each kind."""
    real, train = batch(dataset.train, seed=recipe.seed, step=step, size=recipe.batch), dataset.train
    images = [shift(real.images, rng=rng, p=recipe.shift)]
    if recipe.negatives:
        half = recipe.negatives // 2
        images.append(pixel_noise(train.images, half, rng=rng))
        images.append(class_noise(train.images, train.labels, recipe.negatives - half, rng=rng))
    labels = np.concatenate([real.labels, np.full(recipe.negatives, len(dataset.classes))])
    return np.concatenate(images), labels


def in_blocks(function: Callable[[Array], Array], images: Float[Array, "n h w c"], width: int) -> Float[Array, "n k"]:
    """``function`` of blocks of images, without a tape, as one float32 array (n, width)."""
    result = np.empty((len(images), width), np.float32)
    with ag.no_grad():
        for start in range(0, len(images), BLOCK):
            result[start : start + BLOCK] = ag.raw(function(images[start : start + BLOCK]))
    return result
