r"""The autoencoder. Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks", Science 313.

One network compresses a picture into a few numbers, a second one reconstructs the picture from these, and both learn
from the reconstruction error alone. The bottleneck can only pass what pictures have in common, so the code is a
nonlinear version of principal components; linear networks find exactly their span (Baldi & Hornik 1989). It is not a
generative model: nothing determines which codes belong to pictures, and there are holes between those of the data.

| symbol | code | shape |
|---|---|---|
| $x$, $\hat x$ | ``x``, ``x_hat`` | (n, h, w, c), data in $[-1, 1]$ |
| $z = f(x)$ | ``encode(net, x)`` | (n, k) |
| $\hat x = g(z)$ | ``decode(net, z)`` | (n, h, w, c) |
| $m, C$ | ``net.latent_mean``, ``net.latent_cov`` | (k,), (k, k) |

The papers number few of their equations; the numbers here are this file's.

$$L = \mathbb E\, \tfrac1d \| x - g(f(x)) \|^2 \qquad (1)$$
$$\min_{f, g \text{ linear}} d\, L = \sum_{i > k} \lambda_i, \quad \lambda_1 \ge \lambda_2 \ge \dots \text{ eigenvalues of the data's covariance} \qquad (2)$$
$$m' = m + w\,(\bar z - m), \quad C' = (1 - w)\, C + w\, S + w (1 - w)\, (\bar z - m)(\bar z - m)^\top \qquad (3)$$

(2) is Baldi & Hornik's theorem: the minimum is reached where $g \circ f$ projects onto the first $k$ principal
components; every other set of $k$ components is a saddle. (3) tracks the Gaussian of the codes during training:
$\bar z$ and $S$ are mean and covariance (divided by n) of a batch's codes, and $m', C'$ are exactly those of the
mixture of old and new with weights $1 - w$ and $w$. Batch number $s = 0, 1, \dots$ has
$w = \max(1/(s+1), 1 - \text{decay})$: first the plain average of all batches, then a moving average that forgets the
codes of earlier encoders.

You need: `nn` (linear layers). New here: the bottleneck, and drawing from ONE Gaussian in its codes, which shows the
holes.

Details that matter, and the tests that guard them (tests/minigen/models/test_autoencoder.py):
- with ``hidden`` empty both networks are affine: the biases do PCA's centring, and (2) is met exactly;
- nothing squashes the output in training (with a tanh, (2) would not hold for linear networks); drawn pictures are
  clipped;
- the Gaussian is a buffer of the module, saved with the weights: drawing needs no data;
- weights are not averaged, as the codes' statistics belong to the encoder that made them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, shift
from minigen.metrics.baselines import principal_axes
from minigen.nn import MLP, Module

from .system import Objective, Stage, System

TITLE = "Autoencoder"
PAPER = "Hinton & Salakhutdinov 2006, Science 313; linear case: Baldi & Hornik 1989"
EQUATION = "L = E‖x − g(f(x))‖²"
TOUR = {"steps": 3000}
PICTURES = {
    "reconstruction": "test pictures above, their reconstructions below",
    "interpolation": "straight lines between the codes of two test pictures (outermost): the blends pass through holes",
}


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    hidden: tuple[int, ...] = (256, 128)
    """Hidden widths of the encoder, mirrored in the decoder; with none at all it learns PCA (use lr 0.03)."""
    latent: int = 16
    """Numbers in a code."""
    shift: float = 0.3
    """Share of the training pictures that are moved by up to one pixel."""
    decay: float = 0.99
    """How much of the codes' mean and covariance the next batch keeps (eq. 3)."""
    steps: int = 4000
    """Training steps."""
    batch_size: int = 64
    """Pictures per step."""
    lr: float = 2e-3
    """Peak learning rate of AdamW; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""


class Autoencoder(Module):
    """Encoder and decoder, and the Gaussian of the codes as buffers."""

    BUFFERS = ("latent_mean", "latent_cov")

    def __init__(self, shape: tuple[int, ...], hidden: tuple[int, ...], latent: int, *, rng: Any):
        pixels = int(np.prod(shape))
        self.shape = shape
        self.encoder = MLP(pixels, *hidden, latent, rng=rng)
        self.decoder = MLP(latent, *reversed(hidden), pixels, rng=rng)
        self.latent_mean, self.latent_cov = np.zeros(latent, np.float32), np.eye(latent, dtype=np.float32)

    def encode(self, x: Any) -> Any:
        """$f$: (n, h, w, c) -> (n, k)."""
        return self.encoder(ag.reshape(x, (x.shape[0], int(np.prod(self.shape)))))

    def decode(self, z: Any) -> Any:
        """$g$: (n, k) -> (n, h, w, c)."""
        return ag.reshape(self.decoder(z), (z.shape[0], *self.shape))


def encode(net: Autoencoder, x: Any) -> Any:
    """The codes (n, k) of pictures (n, h, w, c) in [-1, 1]: a plain array on the network's device."""
    with ag.no_grad():
        return ag.raw(net.encode(array_module(net.latent_mean).asarray(x)))


def decode(net: Autoencoder, z: Any) -> Any:
    """The pictures (n, h, w, c) of codes (n, k), not clipped: a plain array on the network's device."""
    with ag.no_grad():
        return ag.raw(net.decode(array_module(net.latent_mean).asarray(z)))


# --- losses -----------------------------------------------------------------------------------------------------------


def reconstruction_loss(x: Any, x_hat: Any) -> Any:
    r"""Eq. 1: $\| x - \hat x \|^2$ averaged over samples and pixels, a scalar."""
    d = x_hat - x
    return ag.mean(d * d)


def track(mean: Any, cov: Any, z: Any, w: float) -> tuple[Any, Any]:
    """Eq. 3: mean and covariance of the codes so far (weight 1 - w) and the batch ``z`` (n, k) (weight w) together."""
    z_bar = z.mean(axis=0)
    centred, moved = z - z_bar, z_bar - mean
    S = centred.T @ centred / len(z)
    return mean + w * moved, (1 - w) * cov + w * S + w * (1 - w) * moved[:, None] * moved


# --- sampling ---------------------------------------------------------------------------------------------------------


def draw_codes(mean: Any, cov: Any, noise: Any) -> Any:
    """Codes of $N(m, C)$ from standard normal ``noise`` (n, k), by the symmetric root of $C$, which may be singular."""
    xp = array_module(cov)
    values, vectors = xp.linalg.eigh(cov)
    root = (vectors * xp.sqrt(xp.maximum(values, 0))) @ vectors.T
    return mean + noise @ root


def interpolate(z_a: Any, z_b: Any, count: int) -> Any:
    """``count`` codes on the straight line from each ``z_a`` to its ``z_b``, both (n, k): (n, count, k), ends included."""
    t = np.linspace(0, 1, count, dtype=z_a.dtype)[:, None]
    return (1 - t) * z_a[:, None] + t * z_b[:, None]


def pca_error(train: Any, test: Any, k: int) -> float:
    """Mean squared error per pixel of ``test`` (m, d) on the first ``k`` principal components of ``train`` (n, d)."""
    mean = train.mean(axis=0)
    axes = principal_axes(train - mean, k)
    centred = test - mean
    return float(np.square(centred - centred @ axes @ axes.T).mean())


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The two networks and what `minigen train`, `sample` and `tour` do with them.

    Raises ValueError for settings that do not fit.
    """
    if len(dataset.shape) != 3:
        raise ValueError(f"this model squeezes pictures, and the data set '{dataset.name}' holds no pictures")
    if config.latent < 1:
        raise ValueError(f"latent must be at least 1 number, got {config.latent}")
    if any(width < 1 for width in config.hidden):
        raise ValueError(f"hidden must hold widths of at least 1, got {config.hidden}")
    if not 0 <= config.decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {config.decay}")
    if not 0 <= config.shift <= 1:
        raise ValueError(f"shift must be a share in 0..1, got {config.shift}")
    h, w, c = dataset.shape
    net = Autoencoder((h, w, c), config.hidden, config.latent, rng=np.random.default_rng(seed))

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        images = shift(batch.images, rng=rng, p=config.shift) if config.shift else batch.images
        x = array_module(net.latent_mean).asarray(dataset.scale(images))
        z = net.encode(x)
        weight = max(1 / (step + 1), 1 - config.decay)
        net.latent_mean[...], net.latent_cov[...] = track(net.latent_mean, net.latent_cov, ag.raw(z), weight)
        return reconstruction_loss(x, net.decode(z)), {}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="autoencoder",
                objectives=[Objective("copy", net, loss)],
                steps=config.steps,
                batch_size=config.batch_size,
                lr=config.lr,
                warmup=min(100, config.steps // 10),
                weight_decay=config.weight_decay,
                schedule="cosine",
            )
        ]

    def sample(n: int, *, rng: Any, steps: int | None = None, callback: Any = None) -> Any:
        """``n`` decoded draws from the Gaussian of the training codes, clipped to [-1, 1]."""
        if steps is not None:
            raise ValueError(f"an autoencoder draws in one step: steps must be left out, got {steps}")
        xp = array_module(net.latent_mean)
        noise = xp.asarray(rng.standard_normal((n, config.latent)), np.float32)
        return decode(net, draw_codes(net.latent_mean, net.latent_cov, noise)).clip(-1, 1)

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """Reconstruction error on test pictures, of the network, of PCA with as many numbers, of the training mean."""
        train, test = (dataset.scale(s.images[:4096]) for s in (dataset.train, dataset.test))
        copies = to_numpy(decode(net, encode(net, test)))
        flat_train, flat_test = (x.reshape(len(x), -1).astype(np.float64) for x in (train, test))
        return {
            "error of the copy, test, MSE a pixel": float(np.square(copies - test).mean()),
            f"PCA of {config.latent} components, test, MSE a pixel": pca_error(flat_train, flat_test, config.latent),
            "training mean, test, MSE a pixel": float(np.square(flat_test - flat_train.mean(axis=0)).mean()),
        }

    def reconstruction(split: Split, *, rng: Any) -> Any:
        """Two rows: originals, copies."""
        x = dataset.scale(split.take(rng.permutation(len(split))[:12]).images)
        return np.stack([x, to_numpy(decode(net, encode(net, x)))]).clip(-1, 1)

    def interpolation(split: Split, *, rng: Any) -> Any:
        """Six rows: a picture, nine decoded codes on the straight line, another picture."""
        x = dataset.scale(split.take(rng.permutation(len(split))[:12]).images)
        a, b = x[: len(x) // 2], x[len(x) // 2 :][: len(x) // 2]
        z = interpolate(to_numpy(encode(net, a)), to_numpy(encode(net, b)), 9)
        between = to_numpy(decode(net, z.reshape(-1, config.latent))).reshape(len(a), 9, h, w, c)
        return np.concatenate([a[:, None], between, b[:, None]], axis=1).clip(-1, 1)

    pictures = {"reconstruction": reconstruction, "interpolation": interpolation}
    return System(config, dataset.name, (h, w, c), {"autoencoder": net}, stages, sample, figures, pictures)
