r"""The prior of the VQ-VAE: which grids of codes belong to pictures. van den Oord et al. 2017, arXiv 1711.00937, section 3.3.

$$p(k) = \prod_i p(k_i \mid k_1, \dots, k_{i-1}), \qquad k_1, k_2, \dots \text{ the codes of a picture, row by row}$$

While the codec learns, all codes are alike to it ($p(k) = K^{-h'w'}$, a constant). Afterwards a gated PixelCNN learns
$p(k)$ from the codes of the training pictures, and new pictures are decoded from grids drawn from it.

| symbol | code | shape |
|---|---|---|
| $k$ | ``codes`` | (n, h', w') integers |
| $\bar e_k$ | `CodeVectors` | (K, d) |
| $-\ln p(k)$ | `nats` | (n,) |

You need: `models/pixelcnn.py`, `vq_vae.py` (the codes). New here: a PixelCNN that reads integers as vectors.
"""

from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import to_numpy
from minigen.data import Dataset, Split
from minigen.maths.likelihood import categorical_log_likelihood
from minigen.samplers import autoregressive

from . import pixelcnn
from .system import Objective, Stage

BLOCK = 128  # grids whose likelihood is computed at once


class CodeVectors:
    r"""How the prior sees the codes: as vectors $\bar e_k$, those of the codebook in units of its root mean square.

    Near codes look alike to it and get similar probabilities even if it has seen only one of them: the logit of code k
    is $a_k + b \cdot \bar e_k$ of its outputs $(a, b)$. No layer of the prior, which does not train the codebook.
    """

    def __init__(self, book: Any):
        self.book, (self.K, self.channels) = book, book.vectors.shape

    @property
    def table(self) -> Any:
        r"""All $\bar e_k$, (K, d)."""
        e = self.book.vectors
        return e / max(float((e * e).mean()) ** 0.5, 1e-12)

    def __call__(self, codes: Any) -> Any:
        """(...) -> (..., d)."""
        return self.table[codes]

    def logits(self, out: Any) -> Any:
        """(..., K + d) -> (..., K)."""
        e = self.table.T.astype(ag.raw(out).dtype, order="C")
        return out[..., : self.K] + out[..., self.K :] @ e

    @property
    def token(self) -> pixelcnn.Token:
        """The distribution of a code by these logits."""
        return pixelcnn.Token(
            self.K + self.channels, lambda k, out: categorical_log_likelihood(k, self.logits(out)), self.logits
        )


def network(net: Any, config: Any, classes: int, *, rng: Any) -> pixelcnn.TokenPixelCNN:
    """A prior over the codes of the `VQVAE` ``net``, given the class if there are ``classes``."""
    vectors = CodeVectors(net.codebook)
    return pixelcnn.TokenPixelCNN(
        net.grid,
        config.codes,
        config.prior_channels,
        config.prior_layers,
        read=vectors,
        token=vectors.token,
        classes=classes,
        dropout=config.prior_dropout,
        first=5,
        rng=rng,
    )


def stage(prior: pixelcnn.TokenPixelCNN, codec: Any, config: Any, dataset: Dataset) -> Stage:
    """How the prior is trained, once the ``codec`` is."""

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        codes = codec.encode(dataset.scale(batch.images))  # of the pictures as they are, not shifted
        return pixelcnn.nats(prior.log_p(codes, batch.labels if config.conditional else None, rng)), {}

    return Stage(
        name="prior",
        objectives=[Objective("prior", prior, loss)],
        steps=config.prior_steps,
        batch_size=config.prior_batch_size,
        lr=config.prior_lr,
        warmup=min(100, config.prior_steps // 10),
        ema=config.ema,
        max_norm=config.max_norm,
        weight_decay=config.prior_weight_decay,
        schedule="cosine",
    )


def nats(prior: pixelcnn.TokenPixelCNN, codes: Any, labels: Any = None) -> Any:
    r"""$-\ln p(k)$ of grids of codes (n, h', w'), or $-\ln p(k \mid y)$ given ``labels`` (n,): (n,) float64."""
    found = []
    for i in range(0, len(codes), BLOCK):
        rows = slice(i, i + BLOCK)
        with ag.no_grad():
            log_p = to_numpy(ag.raw(prior.log_p(codes[rows], None if labels is None else labels[rows])))
        found.append(-log_p.astype(np.float64).sum((1, 2)))
    return np.concatenate(found)


def next_code(
    net: pixelcnn.TokenPixelCNN, n: int, classes: int, *, prior: str, label: int | None, rng: Any
) -> autoregressive.Step:
    """The prior called ``prior``, one code at a time: the learned one, ``net``, or "uniform".

    One that was trained with ``classes`` draws a label for each sample unless ``label`` is given. Raises ValueError for
    another name, and for a label that does not go with the prior.
    """
    if prior not in ("pixelcnn", "uniform"):
        raise ValueError(f"prior must be 'pixelcnn' or 'uniform', got {prior!r}")
    if label is not None and prior == "uniform":
        raise ValueError(f"label {label} is for the learned prior: the uniform one draws all codes alike")
    if label is not None and not classes:
        raise ValueError(f"label {label} needs a conditional prior, and this one was trained without --conditional")
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"label must be from 0 to {classes - 1}, got {label}")
    if prior == "uniform":
        return lambda new, cache: (np.zeros((n, net.vocab)), None)
    y = None if not classes else rng.integers(0, classes, n) if label is None else np.full(n, label)
    return lambda new, cache: net.step(new, cache, y)
