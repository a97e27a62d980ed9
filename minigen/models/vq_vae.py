r"""The vector-quantised VAE. van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning", arXiv 1711.00937.

An encoder turns a picture into a small grid of vectors, each vector is replaced by the nearest one of a codebook, and a
decoder draws the picture from those: the picture has become a few integers. Choosing the nearest has no gradient, so
the decoder's gradient is handed to the encoder as if nothing had been chosen, and two more terms pull codebook and
encoder towards each other. Meanwhile the prior over the codes is uniform and costs a constant; afterwards a PixelCNN
learns which grids of codes belong to pictures, and new pictures are drawn from it.

| symbol | code | shape |
|---|---|---|
| $x$, $\hat x$ | ``x``, ``x_hat`` | (n, h, w, c), data in $[-1, 1]$ |
| $z_e(x)$ | ``z_e`` | (n, h', w', d) |
| $e_1 \dots e_K$ | ``codebook`` | (K, d) |
| $k$, which code is where | ``codes`` | (n, h', w') integers |
| $z_q(x) = e_k$ | ``e`` | (n, h', w', d) |
| $N_i, m_i$ | ``N``, ``m`` | (K,), (K, d) |

$$q(z = k \mid x) = 1 \text{ for } k = \operatorname{argmin}_j \| z_e(x) - e_j \|_2, \text{ else } 0 \qquad (1)$$
$$z_q(x) = e_k \qquad (2)$$
$$L = -\ln p(x \mid z_q(x)) + \| \mathrm{sg}[z_e(x)] - e \|_2^2 + \beta \| z_e(x) - \mathrm{sg}[e] \|_2^2 \qquad (3)$$
$$N_i \leftarrow \gamma N_i + (1 - \gamma)\, n_i, \quad m_i \leftarrow \gamma m_i + (1 - \gamma) \sum_{j=1}^{n_i} z_{i,j}, \quad e_i = m_i / N_i \qquad (6 - 8)$$

(3) is written as the loss. Its first term is $\| x - \hat x \|^2$, a Gaussian's, with a little of $| x - \hat x |$
beside it; every term is a mean over its own numbers, so that $\beta$ means the same at any size. (6 - 8), appendix
A.1, move the codebook in place of its term in (3): $n_i$ vectors $z_{i,j}$ of the batch chose code $i$.

**What is a likelihood here.** $p(k)$ of a grid of codes, by the prior, is exact, and its nats are those of the code,
not of the picture. With $p(x \mid k)$, a distribution over grey levels around the copy (its scales are measured on the
validation split), $p(x) = \sum_k p(k)\, p(x \mid k)$ over all $K^{h'w'}$ grids. That sum is out of reach; the one grid
that the encoder chooses gives a bound, $-\ln p(x) \le -\ln p(k) - \ln p(x \mid k)$. Training does not use it: it is
there to compare.

You need: `kernels/quantize` (eq. 1), `autograd/estimators.py` (straight-through), `models/pixelcnn.py` (the prior).
New here: the codebook, its two ways of learning, what happens to codes that are never chosen, and a prior over codes
(`vq_vae_prior.py`).

Details that matter, and the tests that guard them (tests/minigen/models/test_vq_vae.py):
- $\beta$ weighs the COMMITMENT of the encoder, not the pull on the codebook; the two terms have one value and two
  gradients;
- both are computed from $z_e$ and $e$ and not from the straight-through vector, which would mix their gradients;
- a codebook is moved by the optimiser or by averages, never by both; averages move in training only, after the choice;
- (6 - 8) start from zero: the corrections $1 / (1 - \gamma^t)$ of N and m cancel in m / N, so after one step a code
  is the mean of its vectors. A code that no vector of the batch chose keeps its value bit for bit, also at N = 0;
- a code that is used too little is put on a vector of the current batch. How much it was used is in buffers that are
  saved with the weights, so a resumed run revives the same codes. The first batch finds all of them dead: that is how a
  codebook starts on data;
- usage and perplexity are those of 1,024 pictures of a split, if it has so many: on a batch they are biased downwards;
- the prior learns the codes of unshifted pictures, even where the codec learns from shifted ones;
- the prior sees a code as its vector: a thousand digits never show most pairs of codes, but similar pairs.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from kernels.codebook import codebook_ema
from kernels.quantize import nearest_code
from minigen.data import Dataset, Split, shift
from minigen.metrics.copies import fit_log_scales, residual_nats
from minigen.nn import Conv2d, ConvTranspose2d, Module, ResBlock, Sequential, fold, init, parameter, unfold
from minigen.samplers import autoregressive

from . import vq_vae_prior
from .system import Objective, Stage, System

TITLE = "Vector-quantised VAE"
PAPER = "van den Oord, Vinyals & Kavukcuoglu 2017, arXiv 1711.00937"
EQUATION = "L = −ln p(x|z_q(x)) + ‖sg[z_e(x)] − e‖² + β ‖z_e(x) − sg[e]‖²"
TOUR: dict[str, Any] = {}
PRESETS: dict[str, dict[str, Any]] = {
    "shapes": {  # for --data shapes
        "codes": 128,
        "channels": (64, 64),
        "edges": 0.5,
        "steps": 4200,
        "prior_layers": 6,
        "prior_dropout": 0.0,
        "prior_steps": 1500,
    },
    "mnist": {"codes": 64, "steps": 1500, "prior_layers": 6, "prior_steps": 2000},
}
PICTURES = {
    "reconstruction": "test pictures above, decoded from their codes below",
    "codes": "what the decoder draws where one code fills the grid: every code, the most used first",
    "priors": "draws from the learned prior in the upper half, grids of uniform codes in the lower half",
}

BLOCK = 128  # pictures that are encoded or decoded at once where nothing is learnt
MEASURED = 1024  # pictures of a split that figures are taken over, at most


@dataclass(frozen=True)
class Config:
    """Settings of the run: first those of the codec, then those of the prior over its codes."""

    codes: int = 32
    """Vectors in the codebook. More make better copies and a harder prior. One is allowed: then all pictures are the
    mean picture.
    """
    dimension: int = 8
    """Numbers in a vector of the codebook."""
    patch: int = 0
    """Side of the blocks of pixels that become channels first; 0 takes 1 for pictures below 16 pixels and 2 above."""
    channels: tuple[int, ...] = (32, 64)
    """Channels at each resolution; each further one halves the size, and the last is that of the grid of codes."""
    blocks: int = 2
    """Residual blocks at the grid's resolution, of encoder and decoder each."""
    beta: float = 0.25
    """Weight of the commitment (eq. 3)."""
    rule: Literal["average", "gradient"] = "average"
    """How the codebook learns: by moving averages (eq. 6 - 8) or by the gradient of its term in eq. 3."""
    decay: float = 0.97
    """Decay of the averages (gamma); the usage that decides which codes are revived is averaged so under both rules."""
    restart: float = 0.05
    """A code used less than this share of the average is moved to a vector of the batch; 0 leaves dead codes dead."""
    restart_until: float = 0.6
    """Share of the steps after which codes are left where they are, so that the decoder can settle."""
    from_data: bool = True
    """Start the codebook on vectors of the first batch; otherwise at random in -1/K to 1/K, and many codes may die."""
    absolute: float = 0.1
    """Weight of the absolute error beside the squared one: keeps flat surfaces flat."""
    edges: float = 0.0
    """Weight of the squared error of the differences between neighbouring pixels: spends codes on shapes rather than on tints."""
    shift: float = 0.0
    """Share of the training pictures that are moved by up to one pixel (for the codec only)."""
    steps: int = 800
    """Training steps of the codec."""
    batch_size: int = 16
    """Pictures per step of the codec."""
    lr: float = 4e-3
    """Its peak learning rate (Muon, which learns twice as fast as AdamW here); falls along a cosine."""
    max_norm: float = 1.0
    """Largest global norm of the gradient, of codec and prior."""
    conditional: bool = False
    """Give the prior the label; the codec never sees it."""
    prior_channels: int = 64
    """Channels of the PixelCNN."""
    prior_layers: int = 4
    """Layers of the PixelCNN."""
    prior_dropout: float = 0.3
    """Share of its features dropped while training."""
    prior_steps: int = 300
    """Training steps of the prior, on the codes of the training pictures."""
    prior_batch_size: int = 64
    """Its pictures per step."""
    prior_lr: float = 2e-3
    """Its peak learning rate, AdamW; falls along a cosine."""
    prior_weight_decay: float = 0.01
    """Its decoupled weight decay."""
    ema: float = 0.99
    """Decay of its averaged weights. Those of the codec are not averaged: the codebook belongs to the encoder that made it."""


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling."""

    prior: Literal["pixelcnn", "uniform"] = "pixelcnn"
    """Where codes are drawn from: the learned prior, or all codes alike, each place independent of the others."""
    temperature: float = 1.0
    """Of the learned prior: below 1 draws likelier codes, 0 the likeliest one each time."""
    label: int | None = None
    """The label of all samples, for a conditional prior; if left out, each sample draws its own."""


# --- the codebook -----------------------------------------------------------------------------------------------------


def nearest(z_e: Any, codebook: Any) -> Any:
    """Eq. 1: the index of the nearest code for every vector, (..., d) -> (...); the lowest one on ties."""
    z = ag.raw(z_e)
    xp = array_module(z)
    rows = xp.ascontiguousarray(z.reshape(-1, z.shape[-1]))
    return nearest_code(rows, xp.ascontiguousarray(ag.raw(codebook))).reshape(z.shape[:-1])


def latent_losses(z_e: Any, e: Any) -> tuple[Any, Any]:
    r"""The last two terms of eq. 3, $\| \mathrm{sg}[z_e] - e \|^2$ and $\| z_e - \mathrm{sg}[e] \|^2$ without $\beta$,
    as means over all numbers.
    """
    pull = ag.stop_gradient(z_e) - e
    commitment = z_e - ag.stop_gradient(e)
    return ag.mean(pull * pull), ag.mean(commitment * commitment)


def reconstruction_loss(x: Any, x_hat: Any, absolute: float = 0.0, edges: float = 0.0) -> Any:
    r"""The first term of eq. 3 for the error $d = \hat x - x$: the mean of $d^2 + a\, | d |$, and $b$ times those of
    $(\partial d)^2$ down and across.

    The differences $\partial d$ of neighbours weigh sharp errors more: a flat surface of a slightly wrong tint has
    none.
    """
    d = x_hat - x
    loss = ag.mean(d * d)
    if absolute:
        loss = loss + absolute * ag.mean(ag.abs(d))
    if edges:
        down, across = d[:, 1:] - d[:, :-1], d[:, :, 1:] - d[:, :, :-1]
        loss = loss + edges * (ag.mean(down * down) + ag.mean(across * across))
    return loss


def dead(N: Any, weight: Any, n: int, share: float) -> Any:
    r"""Which codes were used less than ``share`` of the average, the $n$ vectors of a batch over K: (K,).

    ``weight`` is $1 - \gamma^t$: $N / (1 - \gamma^t)$ is the mean number of uses, whatever $t$. At $t = 0$ all are
    dead.
    """
    even = weight * n / len(N)
    return (share * even > N) | (N == 0)


def usage(codes: Any, K: int) -> Any:
    """How often each code occurs in ``codes`` (of any shape): (K,) integers."""
    return np.bincount(to_numpy(codes).reshape(-1), minlength=K)


def entropy(counts: Any) -> float:
    r"""$-\sum_i p_i \ln p_i$ for the shares $p_i$ of the counts, in nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def perplexity(counts: Any) -> float:
    r"""$e^{H}$: K where all K codes are used alike, 1 where only one is."""
    return float(np.exp(entropy(counts)))


class Codebook(Module):
    """The codes ``e`` (K, d), and how much they were used lately.

    Under the rule "gradient" e is a parameter; under "average" it is a buffer, which no optimiser ever sees. ``N`` and
    ``m`` are those of eq. 6 and 7, ``weight`` is 1 - gamma^t after t steps.
    """

    def __init__(self, K: int, d: int, rule: str, *, rng: Any):
        e = ((2 * rng.random((K, d)) - 1) / K).astype(np.float32)
        self.e = parameter(e) if rule == "gradient" else e
        self.N, self.m, self.weight = np.zeros(K, np.float32), np.zeros((K, d), np.float32), np.zeros(1, np.float32)
        self.BUFFERS = ("N", "m", "weight") if rule == "gradient" else ("e", "N", "m", "weight")
        self.K, self.rule = K, rule

    @property
    def vectors(self) -> Any:
        """The codes as a plain array (K, d)."""
        return ag.raw(self.e)

    def forward(self, codes: Any) -> Any:
        """Eq. 2: (...) -> (..., d)."""
        return ag.embedding(self.e, codes) if self.rule == "gradient" else self.vectors[codes]

    def revive(self, z: Any, share: float, u: Any) -> None:
        """Put each dead code on a row of ``z`` (n, d): on the first rows in the order of ``u`` (n,). Codes beyond the nth wait.

        It then counts as much as an average code, which gives it time to be chosen.
        """
        which = array_module(z).flatnonzero(dead(self.N, self.weight, len(z), share))[: len(z)]
        rows, even = z[u.argsort()[: len(which)]], self.weight * len(z) / self.K
        self.vectors[which], self.N[which], self.m[which] = rows, even, even * rows

    def observe(self, z: Any, codes: Any, gamma: float) -> None:
        """After ``codes`` (n,) were chosen for the rows of ``z``: eq. 6 and 7, and eq. 8 if that is the rule. In training only."""
        if not self.training:
            return
        self.N[...], self.m[...], e = codebook_ema(self.N, self.m, self.vectors, z, codes, gamma)
        self.weight[...] = gamma * self.weight + (1 - gamma)
        if self.rule == "average":
            self.vectors[...] = e


# --- the networks -----------------------------------------------------------------------------------------------------


class VQVAE(Module):
    """Encoder, codebook and decoder for pictures of ``shape`` (h, w, c)."""

    def __init__(self, shape: tuple[int, ...], config: Config, *, rng: Any):
        h, w, c = shape
        self.patch, factor = factors(shape, config)
        self.grid = h // factor, w // factor
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
            Conv2d(top, config.dimension, 1, rng=rng),
        )
        self.codebook = Codebook(config.codes, config.dimension, config.rule, rng=rng)
        self.decoder = Sequential(
            Conv2d(config.dimension, top, rng=rng),
            *(ResBlock(top, top, rng=rng) for _ in range(config.blocks)),
            *(
                layer
                for a, b in zip(widths[::-1], widths[-2::-1])
                for layer in (ag.silu, ConvTranspose2d(a, b, initial=init.he, rng=rng))
            ),
            ag.silu,
            Conv2d(widths[0], pixel, rng=rng),
        )

    def encode(self, x: Any) -> Any:
        """$z_e(x)$: (n, h, w, c) -> (n, h', w', d)."""
        return self.encoder(fold(x, self.patch))

    def decode(self, z_q: Any) -> Any:
        r"""$\hat x$: (n, h', w', d) -> (n, h, w, c), not clipped."""
        return unfold(self.decoder(z_q), self.patch)


@dataclass(frozen=True)
class Codec:
    """Pictures to integers and back, with the weights that are in ``net``. Nothing is learnt here, and no average moves."""

    net: VQVAE

    @property
    def codebook(self) -> Any:
        """The vectors (K, d)."""
        return self.net.codebook.vectors

    @property
    def codes(self) -> int:
        """K, how many codes there are."""
        return self.net.codebook.K

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes in a picture."""
        return self.net.grid

    def encode(self, images: Any) -> Any:
        """Images in [-1, 1] (n, h, w, c) -> codes (n, h', w'), int64."""
        xp = array_module(self.codebook)
        x = xp.asarray(images, self.codebook.dtype)
        with ag.no_grad():
            parts = [nearest(self.net.encode(x[i : i + BLOCK]), self.codebook) for i in range(0, len(x), BLOCK)]
        return xp.concatenate(parts) if parts else xp.zeros((0, *self.grid), np.int64)

    def decode(self, codes: Any) -> Any:
        """Codes (n, h', w') -> images (n, h, w, c), clipped to [-1, 1]. Raises ValueError for integers that are no codes."""
        xp = array_module(self.codebook)
        codes = xp.asarray(codes)
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < self.codes:
            raise ValueError(f"codes must be from 0 to {self.codes - 1}, got {codes.min()} to {codes.max()}")
        with ag.no_grad():
            parts = [
                ag.raw(self.net.decode(self.codebook[codes[i : i + BLOCK]]))
                for i in range(0, max(1, len(codes)), BLOCK)
            ]
        return xp.concatenate(parts).clip(-1, 1)


# --- training ---------------------------------------------------------------------------------------------------------


def factors(shape: tuple[int, ...], config: Config) -> tuple[int, int]:
    """The side of the blocks that become channels, and the pixels a code is wide.

    Raises ValueError if they do not divide the picture.
    """
    if len(shape) != 3:
        raise ValueError(f"this model cuts pictures into a grid, and the data are points of shape {shape}")
    patch = config.patch or (1 if min(shape[:2]) < 16 else 2)
    factor = patch * 2 ** (len(config.channels) - 1)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"a code is {factor} x {factor} pixels with patch {patch} and channels of {len(config.channels)} resolutions, "
            f"and that does not divide a picture of {shape[0]} x {shape[1]}"
        )
    return patch, factor


def check_codec(config: Config, shape: tuple[int, ...]) -> None:
    """Raise ValueError for the first setting of the codec that does not fit."""
    for least, names in ((1, ("codes", "dimension")), (0, ("patch", "blocks", "beta", "absolute", "edges"))):
        for name in names:
            if not least <= getattr(config, name) < np.inf:
                raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if config.rule not in ("average", "gradient"):
        raise ValueError(f"rule must be 'average' or 'gradient', got {config.rule!r}")
    if not 0 <= config.decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {config.decay}")
    for name in ("restart", "restart_until", "shift"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must be a share in 0..1, got {getattr(config, name)}")
    if not config.channels or min(config.channels) < 1 or config.channels[-1] % 8:
        raise ValueError(f"channels must hold at least one width, the last a multiple of 8, got {config.channels}")
    factors(shape, config)
    if config.edges and min(shape[:2]) < 2:
        raise ValueError(f"edges needs pictures of at least 2 x 2 pixels, got {shape[0]} x {shape[1]}")


def objective(net: VQVAE, x: Any, config: Config, *, revive: bool, u: Any) -> tuple[Any, dict[str, Any]]:
    """Eq. 3 for pictures ``x``. Before the choice dead codes are revived if ``revive``, after it the averages move.

    ``u`` (n h' w',) in [0, 1) is the order in which vectors are handed to dead codes.
    """
    book = net.codebook
    z_e = net.encode(x)
    z = ag.raw(z_e).reshape(-1, config.dimension)
    if revive and net.training:
        book.revive(z, config.restart, u)
    codes = nearest(z_e, book.vectors)
    e = book(codes)
    x_hat = net.decode(ag.straight_through(ag.raw(e), z_e))
    reconstruction = reconstruction_loss(x, x_hat, config.absolute, config.edges)
    pull, commitment = latent_losses(z_e, e)
    value = reconstruction + config.beta * commitment
    if config.rule == "gradient":
        value = value + pull
    book.observe(z, codes.reshape(-1), config.decay)
    return value, {"reconstruction": ag.raw(reconstruction), "commitment": ag.raw(commitment)}


def codec_stage(net: VQVAE, config: Config, dataset: Dataset, *, name: str = "codec") -> Stage:
    """How the codec is trained: a stage for any system that holds ``net`` among its modules."""

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        images = shift(batch.images, rng=rng, p=config.shift) if config.shift else batch.images
        xp, dtype = array_module(net.codebook.vectors), net.codebook.vectors.dtype
        x = xp.asarray(dataset.scale(images), dtype)
        u = xp.asarray(rng.random(len(x) * net.grid[0] * net.grid[1]))
        first = step == 0 and config.from_data
        revive = first or (config.restart > 0 and 0 < step < config.restart_until * config.steps)
        return objective(net, x, config, revive=revive, u=u)

    return Stage(
        name=name,
        objectives=[Objective("codec", net, loss)],
        steps=config.steps,
        batch_size=config.batch_size,
        lr=config.lr,
        warmup=min(100, config.steps // 10),
        max_norm=config.max_norm,
        betas=(0.9, 0.95),
        schedule="cosine",
        optimiser="muon",
        apart=("encoder.layers.0.", f"decoder.layers.{len(net.decoder.layers) - 1}."),
    )


# --- the system -------------------------------------------------------------------------------------------------------


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """Codec and prior, and what `minigen train`, `sample` and `tour` do with them.

    Raises ValueError for settings that do not fit.
    """
    check(config, dataset)
    shape, rng = dataset.shape, np.random.default_rng(seed)
    net = VQVAE(shape, config, rng=rng)
    codec, K = Codec(net), config.codes
    classes = len(dataset.classes) if config.conditional else 0
    learned = vq_vae_prior.network(net, config, classes, rng=rng)
    places, L = net.grid[0] * net.grid[1], dataset.levels or 2

    def labels(split: Split) -> Any:
        return split.labels if classes else None

    def stages() -> list[Stage]:
        return [codec_stage(net, config, dataset), vq_vae_prior.stage(learned, codec, config, dataset)]

    def sample(
        n: int,
        *,
        rng: Any,
        steps: int | None = None,
        callback: Any = None,
        prior: str = Sampling.prior,
        temperature: float = 1.0,
        label: int | None = None,
    ) -> Any:
        """``n`` pictures in [-1, 1] of codes from the prior. Draws the uniform numbers, then labels where they are needed.

        ``callback(t, x)`` sees pictures with ``t`` codes to come, whose places are grey.
        """
        if steps is not None:
            raise ValueError(f"codes are drawn one by one, {places} a picture: steps must be left out, got {steps}")
        u = autoregressive.uniforms(n, places, rng=rng)
        seen = None if callback is None else lambda i, tokens: callback(places - i, unfinished(tokens))
        step = vq_vae_prior.next_code(learned, n, classes, prior=prior, label=label, rng=rng)
        if prior == "uniform":
            temperature = 1.0  # of the learned prior: at 0 the first of equally likely codes would be drawn everywhere
        codes = autoregressive.sample_cached(step, u, temperature=temperature, callback=seen)
        return codec.decode(codes.reshape(n, *net.grid))

    def unfinished(tokens: Any) -> Any:
        """Pictures of the codes so far, grey where none is."""
        whole = np.zeros((len(tokens), places), np.int64)
        whole[:, : tokens.shape[1]] = tokens
        known = (np.arange(places) < tokens.shape[1]).reshape(1, *net.grid, 1)
        factor = shape[0] // net.grid[0]
        mask = known.repeat(factor, axis=1).repeat(factor, axis=2)
        return np.where(mask, to_numpy(codec.decode(whole.reshape(-1, *net.grid))), np.float32(0))

    def coded(split: Split) -> tuple[Split, Any, Any]:
        """The first pictures of a split, their codes, their reconstructions."""
        part = split.take(slice(0, MEASURED))
        codes = codec.encode(dataset.scale(part.images))
        return part, codes, to_numpy(codec.decode(codes))

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """How good the copies are, how the codes are used, and how many nats a test picture costs.

        A conditional prior is given the class y: the nats are then those of p(k | y), and what they bound is p(x | y).
        """
        given, x = (" given the class", "x | class") if classes else ("", "x")
        of_train, (val, _, val_hat), (test, codes, x_hat) = map(coded, (dataset.train, dataset.val, dataset.test))
        counts, used = usage(codes, K), usage(of_train[1], K)
        log_scales = fit_log_scales(val.images, val_hat, L)
        residual = float(residual_nats(test.images, x_hat, log_scales, L).mean())
        nats = float(vq_vae_prior.nats(learned, codes, labels(test)).mean())
        return {
            "error of the copy, test, MSE a pixel": float(np.square(dataset.scale(test.images) - x_hat).mean()),
            f"codes used of {K}, first {len(of_train[1])} of the training split": float((used > 0).sum()),
            f"codes used of {K}, test split": float((counts > 0).sum()),
            "perplexity of the codes, test split": perplexity(counts),
            "entropy of a single code, test split, nats": entropy(counts),
            f"nats of the code{given} under the prior, test, exact": nats,
            f"bits of the code{given} under the prior, test, exact": nats / np.log(2),
            "nats of the code, all codes alike, exact": places * np.log(K),
            "nats of the picture given its code, logistic around the copy": residual,
            f"the two together, nats: a bound on -ln p({x}), as other codes could give x too": nats + residual,
        }

    def reconstruction(split: Split, *, rng: Any) -> Any:
        """Two rows: pictures, copies."""
        _, _, x_hat = coded(chosen := split.take(rng.permutation(len(split))[:12]))
        return np.stack([dataset.scale(chosen.images), x_hat])

    def codes_alone(split: Split, *, rng: Any) -> Any:
        """Rows of 16: pictures whose grid is one code throughout, the most used (in ``split``) first."""
        order = np.argsort(-usage(coded(split)[1], K), kind="stable")
        order = np.resize(order, -(-K // 16) * 16)  # the last row is filled up from the first
        grids = np.broadcast_to(order[:, None, None], (len(order), *net.grid))
        return to_numpy(codec.decode(grids)).reshape(-1, 16, *shape)

    def priors(split: Split, *, rng: Any) -> Any:
        """Four rows of 12: two from the learned prior, two of uniform codes."""
        drawn = [to_numpy(sample(24, rng=rng, prior=name)) for name in ("pixelcnn", "uniform")]
        return np.concatenate(drawn).reshape(4, 12, *shape)

    pictures = {"reconstruction": reconstruction, "codes": codes_alone, "priors": priors}
    return System(config, dataset.name, shape, {"codec": net, "prior": learned}, stages, sample, figures, pictures)


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    if dataset.levels is None or len(dataset.shape) != 3:
        raise ValueError(f"this model cuts pictures into a grid, and the data set '{dataset.name}' holds no pictures")
    check_codec(config, dataset.shape)
    for name in ("prior_channels", "prior_layers", "prior_steps", "prior_batch_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.conditional and not dataset.classes:
        raise ValueError(f"conditional needs labels, and the data set '{dataset.name}' has none")
