r"""The discrete VAE, DALL-E's first stage.

Ramesh et al. 2021, "Zero-shot text-to-image generation", arXiv 2102.12092, sections 2.1 and A.

A picture becomes a grid of integers, each drawn from a distribution over K codes that an encoder predicts, and a
decoder draws the picture from them. In training a softmax, which has a gradient, replaces the draw; its temperature
falls until the two hardly differ. Unlike in the VQ-VAE, no gradient is copied past a choice, and no codebook has to be
kept in use: the KL, a term of the loss, makes the encoder use its codes.

| symbol | code | shape |
|---|---|---|
| $x$ | ``x`` in (0, 1), after `map_pixels` | (n, h, w, c) |
| $q_\phi(z \mid x) = \mathrm{softmax}(\ell)$ | ``logits`` | (n, h', w', K) |
| $y$, a relaxed one-hot vector | ``y`` | (n, h', w', K) |
| $\mu$, $\ln b$ | ``mu``, ``log_b`` | (n, h, w, c) each |
| $\tau$, $\beta$ | ``temperature``, ``beta`` | numbers |

$$\ln p_\theta(x) \ge \mathbb E_{q_\phi(z \mid x)} [\ln p_\theta(x \mid z)] - \beta\, \mathrm{KL}(q_\phi(z \mid x) \,\|\, p(z)), \quad p(z) = 1 / K \text{ each} \qquad (1)$$
$$y = \mathrm{softmax}((\ell + G) / \tau), \quad G = -\ln(-\ln u) \qquad \text{(section 2.1; Jang et al. 2016, 1611.01144)}$$
$$f(x \mid \mu, b) = \frac{1}{2 b\, x (1 - x)} \exp\Big( -\frac{| \mathrm{logit}(x) - \mu |}{b} \Big) \qquad (2)$$
$$\varphi(x) = (1 - 2 \epsilon)\, x + \epsilon \qquad (3)$$

(1) is the paper's without captions: a bound on the likelihood at $\beta = 1$ and, as the KL is not negative, a
looser one above. (2) is the density of a sigmoid of a Laplace variable, which suits pictures, as they are bounded;
(3) keeps x away from 0 and 1, where the density is infinite.

You need: `autograd/estimators.py` (Gumbel-softmax), `models/vq_vae.py` (cutting pictures into a grid).
New here: the relaxation and its temperature, the exact KL, a density for bounded numbers.

Details that matter, and the tests that guard them (tests/minigen/models/test_dvae.py):
- the KL is that of the plain categorical $\mathrm{softmax}(\ell)$; the relaxation and its temperature do not enter it;
- reconstruction and KL are both SUMS over a picture and means over the batch: nothing depends on how large a batch is;
- a picture's codes are the argmax of $\ell$, and the decoded picture is the inverse of (3) applied to $\sigma(\mu)$;
- the temperature never reaches 0; it and $\beta$ depend on the step's number alone, so that a run can be resumed.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module
from minigen.data import Dataset, Split
from minigen.nn import Conv2d, ConvTranspose2d, Linear, Module, ResBlock, Sequential, fold, init, unfold

from . import vq_vae
from .system import Objective, Stage

BLOCK = 128  # pictures that are encoded or decoded at once outside training
EPS = 0.1  # of eq. 3


@dataclass(frozen=True)
class Config:
    """Settings of the codec."""

    codes: int = 128
    """Number of codes in the codebook."""
    dimension: int = 64
    """Size of the decoder's embedding of a code."""
    patch: int = 0
    """Side of the blocks of pixels that are first turned into channels; 0: 1 for pictures below 16 pixels, else 2."""
    channels: tuple[int, ...] = (32, 64)
    """Channels at each resolution; each further one halves the size, and the last is that of the grid of codes."""
    blocks: int = 2
    """Residual blocks at the grid's resolution, of encoder and decoder each."""
    temperature: float = 1 / 16
    """Final temperature of the relaxation, which starts at 1."""
    anneal: float = 0.6
    """Share of the steps over which it falls, along half a cosine."""
    beta: float = 1.0
    """Final weight of the KL; 1 is the bound. The paper has 6.6."""
    beta_warmup: float = 0.3
    """Share of the steps over which that weight rises from 0."""
    steps: int = 3000
    """Training steps."""
    batch_size: int = 16
    """Pictures per step."""
    lr: float = 4e-3
    """Peak learning rate of Muon and AdamW; falls along a cosine."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""


# --- the bound --------------------------------------------------------------------------------------------------------


def map_pixels(x: Any, eps: float = EPS) -> Any:
    """Eq. 3, from [0, 1] to [eps, 1 - eps]."""
    return (1 - 2 * eps) * x + eps


def unmap_pixels(x: Any, eps: float = EPS) -> Any:
    """The inverse of `map_pixels`, clipped to [0, 1]: a decoder may exceed white."""
    return ((x - eps) / (1 - 2 * eps)).clip(0, 1)


def logit_laplace_log_density(x: Any, mu: Any, log_b: Any) -> Any:
    """ln of eq. 2, element by element, for plain ``x`` in (0, 1)."""
    log_x, log_rest = np.log(x), np.log1p(-x)
    return -ag.abs((log_x - log_rest) - mu) * ag.exp(-log_b) - log_b - (math.log(2) + log_x + log_rest)


def kl_to_uniform(logits: Any) -> Any:
    r"""$\sum_k q_k \ln (q_k K) = \ln K - H(q)$ for $q = \mathrm{softmax}(\ell)$ over the last axis: (..., K) -> (...), exact."""
    log_q = ag.log_softmax(logits)
    return math.log(logits.shape[-1]) + ag.sum(ag.exp(log_q) * log_q, -1)


def bound(log_p: Any, kl: Any, beta: float) -> Any:
    """Eq. 1 as a loss in nats per picture: ``log_p`` (n, h, w, c) and ``kl`` (n, h', w') summed, averaged over n."""
    return (beta * ag.sum(kl) - ag.sum(log_p)) * (1 / log_p.shape[0])


def temperature_at(step: int, steps: float, end: float) -> float:
    """1 at step 0, ``end`` from ``steps`` on, half a cosine between."""
    u = min(1.0, step / steps) if steps else 1.0
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * u))


def beta_at(step: int, steps: float, end: float) -> float:
    """0 at step 0, ``end`` from ``steps`` on, half a cosine between."""
    u = min(1.0, step / steps) if steps else 1.0
    return end * 0.5 * (1 - math.cos(math.pi * u))


# --- the networks -----------------------------------------------------------------------------------------------------


class DVAE(Module):
    """Encoder and decoder for pictures of ``shape`` (h, w, c)."""

    def __init__(self, shape: tuple[int, ...], config: Config, *, rng: Any):
        h, w, c = shape
        self.patch, factor = cut(shape, config)
        self.grid, self.K = (h // factor, w // factor), config.codes
        widths, pixel = config.channels, self.patch**2 * c
        top = widths[-1]
        self.encoder = Sequential(
            Conv2d(pixel, widths[0], initial=init.he, rng=rng),
            *(
                layer
                for a, b in zip(widths, widths[1:])
                for layer in (ag.silu, Conv2d(a, b, 4, stride=2, padding=1, initial=init.he, rng=rng))
            ),
            *(ResBlock(top, top, rng=rng) for _ in range(config.blocks)),
            ag.silu,
            Conv2d(top, config.codes, 1, rng=rng),
        )
        self.codebook = Linear(config.codes, config.dimension, initial=_unit, rng=rng)
        self.decoder = Sequential(
            Conv2d(config.dimension, top, rng=rng),
            *(ResBlock(top, top, rng=rng) for _ in range(config.blocks)),
            *(
                layer
                for a, b in zip(widths[::-1], widths[-2::-1])
                for layer in (ag.silu, ConvTranspose2d(a, b, initial=init.he, rng=rng))
            ),
            ag.silu,
            Conv2d(widths[0], 2 * pixel, rng=rng),
        )

    def logits(self, x: Any) -> Any:
        r"""$\ell$: mapped pixels (n, h, w, c) -> (n, h', w', K)."""
        return self.encoder(fold(2 * x - 1, self.patch))

    def decode(self, y: Any) -> tuple[Any, Any]:
        r"""$\mu$ and $\ln b$ of one-hot vectors or relaxed ones (n, h', w', K): two of (n, h, w, c)."""
        out = self.decoder(self.codebook(y))
        half = out.shape[-1] // 2
        log_b = 3 * ag.tanh(out[..., half:] * (1 / 3)) - 2  # -5 to 1: no single pixel may dominate the loss
        return unfold(out[..., :half], self.patch), unfold(log_b, self.patch)


def cut(shape: tuple[int, ...], config: Config) -> tuple[int, int]:
    """The side of the blocks of pixels, and the side in pixels of a code, as in the VQ-VAE's file."""
    return vq_vae.factors(shape, vq_vae.Config(patch=config.patch, channels=config.channels))


def _unit(shape: tuple[int, ...], rng: Any) -> Any:
    return init.normal(shape, 1.0, rng)  # one row is selected, not a sum over rows


@dataclass(frozen=True)
class Codec:
    """Pictures to integers and back, with the current weights of ``net``."""

    net: DVAE

    @property
    def codes(self) -> int:
        """K, how many codes there are."""
        return self.net.K

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes in a picture."""
        return self.net.grid

    def encode(self, images: Any) -> Any:
        """Images in [-1, 1] (n, h, w, c) -> codes (n, h', w'), int64: the likeliest at each place."""
        table = self.net.codebook.w.data
        xp = array_module(table)
        x = map_pixels((xp.asarray(images, table.dtype) + 1) / 2)
        with ag.no_grad():
            parts = [ag.raw(self.net.logits(x[i : i + BLOCK])).argmax(-1) for i in range(0, len(x), BLOCK)]
        return xp.concatenate(parts) if parts else xp.zeros((0, *self.grid), np.int64)

    def decode(self, codes: Any) -> Any:
        """Codes (n, h', w') -> images (n, h, w, c) in [-1, 1]. Raises ValueError for integers that are no codes."""
        table = self.net.codebook.w.data
        xp = array_module(table)
        codes = xp.asarray(codes)
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < self.codes:
            raise ValueError(f"codes must be from 0 to {self.codes - 1}, got {codes.min()} to {codes.max()}")
        found = []
        for i in range(0, max(1, len(codes)), BLOCK):
            with ag.no_grad():
                mu, _ = self.net.decode((codes[i : i + BLOCK, ..., None] == xp.arange(self.codes)).astype(table.dtype))
            found.append(2 * unmap_pixels(ag.raw(ag.sigmoid(mu))) - 1)
        return xp.concatenate(found)


# --- training ---------------------------------------------------------------------------------------------------------


def check_codec(config: Config, shape: tuple[int, ...]) -> None:
    """Raise ValueError for the first setting that does not fit."""
    for name, least in (("codes", 1), ("dimension", 1), ("patch", 0), ("blocks", 0), ("beta", 0)):
        if not least <= getattr(config, name) < np.inf:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if not 0 < config.temperature <= 1:
        raise ValueError(f"temperature must be above 0 and at most 1, got {config.temperature}")
    for name in ("anneal", "beta_warmup"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must be a share of the steps from 0 to 1, got {getattr(config, name)}")
    if not config.channels or min(config.channels) < 1 or config.channels[-1] % 8:
        raise ValueError(f"channels must hold at least one width, the last a multiple of 8, got {config.channels}")
    cut(shape, config)


def codec_stage(net: DVAE, config: Config, dataset: Dataset, *, name: str = "codec") -> Stage:
    """How the codec is trained: a stage for any system that holds ``net`` among its modules."""

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        xp, dtype = array_module(net.codebook.w.data), net.codebook.w.dtype
        x = map_pixels((xp.asarray(dataset.scale(batch.images), dtype) + 1) / 2)
        tau = temperature_at(step, config.anneal * config.steps, config.temperature)
        beta = beta_at(step, config.beta_warmup * config.steps, config.beta)
        logits = net.logits(x)
        y = ag.gumbel_softmax(logits, xp.asarray(rng.random(logits.shape)), tau)
        log_p, kl = logit_laplace_log_density(x, *net.decode(y)), kl_to_uniform(logits)
        nats, numbers = bound(log_p, kl, beta), x[0].size
        each = float(ag.raw(kl).sum()) / len(x)
        return nats * (1 / numbers), {
            "-ln p(x|z)": -float(ag.raw(log_p).sum()) / len(x),
            "kl": each,
            "temperature": tau,
        }

    return Stage(
        name=name,
        objectives=[Objective("codec", net, loss)],
        steps=config.steps,
        batch_size=config.batch_size,
        lr=config.lr,
        warmup=min(100, config.steps // 10),
        max_norm=config.max_norm,
        schedule="cosine",
        optimiser="muon",
        apart=("encoder.layers.0", f"decoder.layers.{len(net.decoder.layers) - 1}", "codebook"),
    )
