r"""The variational autoencoder. Kingma & Welling 2013, "Auto-encoding variational Bayes", arXiv 1312.6114.

A picture is explained by a few hidden numbers: draw $z$ from a standard normal, let a network turn it into a
distribution over grey levels for every pixel, draw the picture. How likely that makes a given picture is an integral
over all $z$, so a second network guesses which $z$ it came from, and the guess gives a lower bound that both networks
raise together. The guess is drawn as $\mu + \sigma \epsilon$, so gradients pass through it.

| symbol | code | shape |
|---|---|---|
| $x$ | ``x``: grey levels $0 \dots L - 1$, not numbers in $[-1, 1]$ | (n, h, w, c) |
| $q_\phi(z \mid x) = N(\mu, \sigma^2 I)$ | ``mu``, ``log_var`` $= \ln \sigma^2$ | (n, d) |
| $p(z) = N(0, I)$, $\epsilon$, $z$ | ``eps``, ``z`` | (K, n, d): K draws for each picture |
| $\ln p_\theta(x \mid z)$ | ``log_likelihood(x, z)`` | (K, n): the SUM over pixels |
| $\mathrm{KL}_j$ | ``kl``, one column for each latent coordinate $j$ | (n, d) |
| $\ln w_k$ | ``log_weights(...)`` | (K, n) |

$$\mathcal L = -\mathrm{KL}(q_\phi(z \mid x) \| p(z)) + \mathbb E_{q_\phi(z \mid x)} [\ln p_\theta(x \mid z)] \le \ln p_\theta(x) \qquad (3)$$
$$z = g_\phi(\epsilon, x) = \mu + \sigma \epsilon, \quad \epsilon \sim N(0, I) \qquad (4)$$
$$\mathrm{KL} = \sum_j \mathrm{KL}_j = -\tfrac12 \sum_j (1 + \ln \sigma_j^2 - \mu_j^2 - \sigma_j^2) \qquad \text{(App. B)}$$
$$\mathcal L_K = \mathbb E \Big[ \ln \frac1K \sum_{k=1}^K w_k \Big], \quad w_k = \frac{p_\theta(x \mid z_k)\, p(z_k)}{q_\phi(z_k \mid x)}, \quad \mathcal L \le \mathcal L_K \to \ln p_\theta(x) \qquad (\text{Burda et al. 2016, 1509.00519, eq. 8})$$

Training may weigh the KL: by $\beta$ (Higgins et al. 2017), less while it warms up (Bowman et al. 2016, 1511.06349),
and by counting at least $\lambda$ nats for each coordinate, "free bits" (Kingma et al. 2016, 1606.04934). Figures never
do.

You need: `maths/gaussian.py` (the KL), `maths/likelihood.py` (three distributions over grey levels), `nn` (layers).
New here: the bound in its terms, the importance-weighted bound, and drawing from the decoder's DISTRIBUTION.

**Which data.** ``logistic`` and ``categorical`` give every grey level a probability. ``bernoulli`` has two levels only:
it models the picture thresholded at mid-grey (static binarisation, 1 above the middle of the levels), and all its nats
refer to that. Cross-entropy with grey targets is no likelihood, and is not offered.

Details that matter, and the tests that guard them (tests/minigen/models/test_vae.py):
- sums over pixels AND over latents, means over pictures only: a mean over pixels would be a beta-VAE with
  $\beta = hwc$;
- the network predicts $\ln \sigma^2$, and $z$ takes $\sigma = e^{\frac12 \ln \sigma^2}$;
- everything is computed from logits, so no clipping hides in the likelihood; all its constants are included;
- the mean over the K weights is inside the logarithm, with its $-\ln K$;
- samples are drawn from $p_\theta(x \mid z)$; its mean, the usual blurry picture, is a setting of sampling.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split
from minigen.maths import gaussian
from minigen.maths.interpolation import slerp
from minigen.maths.likelihood import (
    bernoulli_log_likelihood,
    categorical_log_likelihood,
    discretised_logistic_log_likelihood,
    draw_levels,
)
from minigen.metrics.likelihood import FITTED, baselines, importance_weighted_nll
from minigen.nn import Conv2d, ConvTranspose2d, Dropout, Linear, Module, init

from .system import Objective, Stage, System

TITLE = "Variational autoencoder"
PAPER = "Kingma & Welling 2013, arXiv 1312.6114; importance-weighted bound: Burda et al. 2016, arXiv 1509.00519"
EQUATION = "ln p(x) ≥ E_q(z|x)[ln p(x|z)] − KL(q(z|x) ‖ p(z))"
TOUR: dict[str, Any] = {"steps": 800}
PRESETS: dict[str, dict[str, Any]] = {
    name: {"latent": 32, "channels": (16, 32, 64), "steps": 2000} for name in ("mnist", "binary-mnist")
}
PICTURES = {
    "reconstruction": "test pictures above, their reconstructions (the decoder's mean) below",
    "traversal": "one latent coordinate per row from -3 to 3, the most active first, in the latents of a test picture",
    "interpolation": "slerp between the latents of two test pictures, shown at both ends",
}

DRAWS = 64  # of the importance-weighted test likelihood
MEASURED = 512  # test pictures it is taken over, at most
BLOCK = 64  # pictures that are decoded at once where nothing is learnt
UNIFORM = 1e-3  # share of the uniform distribution in the logistic decoder: one odd pixel costs at most ln(L / 1e-3)


@dataclass(frozen=True)
class Config:
    """Settings of the run. Twice the default steps gain nothing on the validation digits: there are 1,000 to learn from."""

    decoder: Literal["logistic", "categorical", "bernoulli"] = "logistic"
    """Distribution of a pixel: over grey levels as a scale, over grey levels as mere names, or over black and white
    (thresholded).
    """
    latent: int = 16
    """Numbers in z."""
    channels: tuple[int, ...] = (24, 48)
    """Channels at each resolution; each further one halves the size."""
    hidden: int = 512
    """Width of the layers between the feature maps and z."""
    dropout: float = 0.2
    """Share of the features dropped while training."""
    beta: float = 1.0
    """Weight of the KL: 1 is the bound on the likelihood, more asks for independent latents."""
    kl_warmup: float = 0.2
    """Share of the steps over which that weight rises from 0, so that the latents are used before they cost."""
    free_bits: float = 0.0
    """Nats that cost nothing, for each latent coordinate (of its mean over the batch)."""
    draws: int = 1
    """Draws of z for each picture; more than one trains the importance-weighted bound."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 128
    """Pictures per step."""
    lr: float = 4e-3
    """Peak learning rate of AdamW; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    ema: float = 0.995
    """Decay of the averaged weights that everything but training uses."""
    max_norm: float = 100.0
    """Largest global norm of the gradient: tames the first steps, where a sum over pixels is steep."""


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling."""

    mean: bool = False
    """Show the mean of the decoder's distribution instead of a draw from it: smoother, but no sample of the model."""


# --- the bound --------------------------------------------------------------------------------------------------------

Posterior = tuple[Any, Any]  # mu, log_var
LogLikelihood = Callable[[Any, Any], Any]  # x (n, ...), z (K, n, d) -> (K, n)


def elbo_terms(x: Any, posterior: Posterior, log_likelihood: LogLikelihood, eps: Any) -> tuple[Any, Any]:
    r"""The two terms of eq. 3: $\ln p_\theta(x \mid z)$ for each draw (K, n), and $\mathrm{KL}_j$ (n, d), whose sum
    over $j$ is exact.
    """
    mu, log_var = posterior
    z = ag.reparameterize(mu, log_var, eps)  # eq. 4
    return log_likelihood(x, z), gaussian.kl(mu, log_var, 0.0, 0.0)


def log_weights(x: Any, posterior: Posterior, log_likelihood: LogLikelihood, eps: Any, beta: float = 1.0) -> Any:
    r"""$\ln w_k = \ln p_\theta(x \mid z_k) + \beta\, (\ln p(z_k) - \ln q_\phi(z_k \mid x))$ (K, n)."""
    mu, log_var = posterior
    z = ag.reparameterize(mu, log_var, eps)
    log_q = gaussian.log_density(eps, 0.0, 0.0) - 0.5 * log_var  # of z, whose distance from mu is sigma eps exactly
    log_ratio = gaussian.log_density(z, 0.0, 0.0) - log_q
    return log_likelihood(x, z) + beta * ag.sum(log_ratio, -1)


def importance_weighted_bound(log_w: Any) -> Any:
    r"""$\ln \frac1K \sum_k w_k$ over the first axis (Burda et al. 2016, eq. 8)."""
    return ag.logsumexp(log_w, 0) - float(np.log(log_w.shape[0]))


def free_bits_kl(kl: Any, free: float) -> Any:
    r"""$\sum_j \max(\lambda, \mathbb E_x \mathrm{KL}_j)$ (Kingma et al. 2016); the mean KL for $\lambda = 0$."""
    each = ag.mean(kl, 0)
    return ag.sum(ag.maximum(each, free)) if free else ag.sum(each)


def kl_weight(step: int, warmup_steps: float) -> float:
    """0 at step 0, rising linearly to 1 at ``warmup_steps``."""
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def active_units(mu: Any) -> Any:
    r"""Latent coordinates in use: $\mathrm{Var}_x(\mathbb E_q z_j) > 0.01$ (Burda et al. 2016), (n, d) -> (d,)."""
    return mu.var(axis=0) > 0.01


# --- the networks -----------------------------------------------------------------------------------------------------


class Encoder(Module):
    """Levels to the mean and the log variance of z. Starts at the prior: its last layer is 0."""

    def __init__(self, shape: tuple[int, ...], config: Config, *, rng: Any):
        h, w, c = shape
        widths, scale = config.channels, 2 ** (len(config.channels) - 1)
        self.conv_in = Conv2d(c, widths[0], initial=init.he, rng=rng)
        self.down = [Conv2d(a, b, stride=2, initial=init.he, rng=rng) for a, b in zip(widths, widths[1:])]
        self.dropout = Dropout(config.dropout)
        self.linear = Linear(h // scale * (w // scale) * widths[-1], config.hidden, initial=init.he, rng=rng)
        self.out = Linear(config.hidden, 2 * config.latent, initial=init.zeros, rng=rng)

    def forward(self, x: Any, rng: Any = None) -> Posterior:
        """Scaled levels (n, h, w, c) -> two of (n, d); ``rng`` draws the dropout masks."""
        h = ag.silu(self.conv_in(x))
        for conv in self.down:
            h = ag.silu(conv(h))
        h = self.dropout(ag.reshape(h, (h.shape[0], int(np.prod(h.shape[1:])))), rng)
        h = self.out(self.dropout(ag.silu(self.linear(h)), rng))
        d = h.shape[-1] // 2
        return h[:, :d], h[:, d:]


class Decoder(Module):
    """z to the numbers of every pixel's distribution."""

    def __init__(self, shape: tuple[int, ...], outputs: int, config: Config, *, rng: Any):
        h, w, c = shape
        widths, scale = config.channels[::-1], 2 ** (len(config.channels) - 1)
        self.small, self.shape = (h // scale, w // scale, widths[0]), (h, w, c, outputs)
        self.linear_1 = Linear(config.latent, config.hidden, initial=init.he, rng=rng)
        self.linear_2 = Linear(config.hidden, int(np.prod(self.small)), initial=init.he, rng=rng)
        self.dropout = Dropout(config.dropout)
        self.up = [ConvTranspose2d(a, b, initial=init.he, rng=rng) for a, b in zip(widths, widths[1:])]
        self.out = Conv2d(widths[-1], c * outputs, rng=rng)

    def forward(self, z: Any, rng: Any = None) -> Any:
        """(n, d) -> (n, h, w, c, outputs); ``rng`` draws the dropout masks."""
        n = z.shape[0]
        h = self.dropout(ag.silu(self.linear_1(z)), rng)
        h = ag.reshape(self.dropout(ag.silu(self.linear_2(h)), rng), (n, *self.small))
        for up in self.up:
            h = ag.silu(up(h))
        return ag.reshape(self.out(h), (n, *self.shape))


class VAE(Module):
    """The two networks."""

    def __init__(self, shape: tuple[int, ...], outputs: int, config: Config, *, rng: Any):
        self.encoder = Encoder(shape, config, rng=rng)
        self.decoder = Decoder(shape, outputs, config, rng=rng)


@dataclass(frozen=True)
class Pixel:
    """The distribution of one pixel: ``log_p(level (...), out (..., outputs))`` (...), and ``p(out)`` of all levels (..., L)."""

    outputs: int
    log_p: Callable[[Any, Any], Any]
    p: Callable[[Any], Any]


def pixel(decoder: str, levels: int) -> Pixel:
    """The distribution called ``decoder`` over ``levels`` grey levels."""

    def logistic(level: Any, out: Any) -> Any:
        mean = 1.2 * ag.tanh(out[..., 0])  # beyond the ends, so that black can be nearly certain
        log_scale = 5 * ag.tanh(0.2 * out[..., 1]) - 2  # -7 to 3: from one level of 256 to all alike, and no further
        return discretised_logistic_log_likelihood(level, mean, log_scale, levels, uniform=UNIFORM)

    def bernoulli(level: Any, out: Any) -> Any:
        return bernoulli_log_likelihood(level, out[..., 0])

    if decoder == "categorical":
        return Pixel(levels, categorical_log_likelihood, ag.softmax)
    outputs, log_p = (2, logistic) if decoder == "logistic" else (1, bernoulli)
    return Pixel(outputs, log_p, lambda out: ag.exp(log_p(np.arange(levels), out[..., None, :])))


def threshold(images: Any, levels: int) -> Any:
    """1 where a grey level is above the middle of 0..levels-1, else 0: uint8."""
    return (2 * images.astype(np.int64) > levels - 1).astype(np.uint8)


# --- training and sampling --------------------------------------------------------------------------------------------


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The networks and what `minigen train`, `sample` and `tour` do with them. Raises ValueError for settings that do not fit."""
    if dataset.levels is None or len(dataset.shape) != 3:
        raise ValueError(
            f"this model gives grey levels a probability, and the data set '{dataset.name}' holds no pictures"
        )
    check(config, dataset.shape)
    h, w, c = dataset.shape
    binary = config.decoder == "bernoulli"
    levels = 2 if binary else dataset.levels
    data = replace(dataset, levels=levels)  # scales the levels that are modelled
    of_pixel = pixel(config.decoder, levels)
    net = VAE((h, w, c), of_pixel.outputs, config, rng=np.random.default_rng(seed))

    def modelled(images: Any) -> Any:
        return threshold(images, dataset.levels or 2) if binary else images

    def on_device(a: Any) -> Any:
        return array_module(net.encoder.out.w.data).asarray(a, np.float32)

    def posterior(x: Any, rng: Any = None) -> Posterior:
        return net.encoder(on_device(data.scale(x)), rng)

    def log_likelihood(x: Any, z: Any, rng: Any = None) -> Any:
        k, n, d = z.shape
        out = net.decoder(ag.reshape(z, (k * n, d)), rng)
        log_p = of_pixel.log_p(np.concatenate([x] * k), out)  # (K n, h, w, c)
        return ag.reshape(ag.sum(log_p, (1, 2, 3)), (k, n))

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        x = modelled(batch.images)
        eps = on_device(rng.standard_normal((config.draws, len(x), config.latent)))
        weight = config.beta * kl_weight(step, config.kl_warmup * config.steps)
        q = posterior(x, rng)

        def likelihood(x: Any, z: Any) -> Any:
            return log_likelihood(x, z, rng)

        if config.draws > 1:
            log_w = log_weights(x, q, likelihood, eps, weight)
            return -ag.mean(importance_weighted_bound(log_w)), {}
        log_p, kl = elbo_terms(x, q, likelihood, eps)
        value = -ag.mean(log_p) + weight * free_bits_kl(kl, config.free_bits)
        nats = float(ag.raw(kl).sum()) / len(x)
        return value, {"-elbo": nats - float(ag.raw(log_p).mean()), "kl": nats}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="vae",
                objectives=[Objective("bound", net, loss)],
                steps=config.steps,
                batch_size=config.batch_size,
                lr=config.lr,
                warmup=min(100, config.steps // 10),
                ema=config.ema,
                max_norm=config.max_norm,
                weight_decay=config.weight_decay,
                schedule="cosine",
            )
        ]

    def encode(x: Any) -> tuple[Any, Any]:
        """``mu`` and ``log_var`` of all of ``x`` as plain arrays (n, d)."""
        with ag.no_grad():
            found = [posterior(x[i : i + BLOCK]) for i in range(0, max(1, len(x)), BLOCK)]
        mu, log_var = (np.concatenate([to_numpy(ag.raw(a)) for a in part]) for part in zip(*found))
        return mu, log_var

    def pixels(z: Any, rng: Any = None) -> Any:
        """Pictures in [-1, 1] of latents (n, d): draws from the decoder's distributions, or without ``rng`` their means."""
        u = None if rng is None else rng.random((len(z), h, w, c))  # each picture's own, whatever its block
        found = []
        for i in range(0, max(1, len(z)), BLOCK):
            with ag.no_grad():
                p = to_numpy(ag.raw(of_pixel.p(net.decoder(on_device(z[i : i + BLOCK])))))  # (n, h, w, c, L)
            if u is None:
                found.append((p @ data.scale(np.arange(levels))).clip(-1, 1))
            else:
                found.append(data.scale(draw_levels(p, u[i : i + BLOCK])))
        return np.concatenate(found)

    def sample(n: int, *, rng: Any, steps: int | None = None, callback: Any = None, mean: bool = False) -> Any:
        """``n`` pictures in [-1, 1]: z from the prior, x from the decoder's distribution or, with ``mean``, its mean."""
        if steps is not None:
            raise ValueError(f"a VAE draws in one step: steps must be left out, got {steps}")
        return pixels(rng.standard_normal((n, config.latent)), None if mean else rng)

    def figures(dataset: Dataset, *, rng: Any, draws: int = DRAWS) -> dict[str, float]:
        """The test likelihood, by ``draws`` of z, and its bound with its parts, beside models without a network, in
        nats per picture.
        """
        most = (dataset.train, FITTED), (dataset.val, FITTED), (dataset.test, MEASURED)
        train, val, test = (modelled(split.images[:n]) for split, n in most)
        mu, log_var = encode(test)
        log_w = np.empty((draws, len(test)))
        for i in range(0, len(test), BLOCK):
            rows = slice(i, i + BLOCK)
            q = ag.Tensor(on_device(mu[rows])), ag.Tensor(on_device(log_var[rows]))
            for k in range(draws):
                eps = on_device(rng.standard_normal((1, *mu[rows].shape)))
                with ag.no_grad():
                    log_w[k, rows] = to_numpy(ag.raw(log_weights(test[rows], q, log_likelihood, eps)))[0]
        bound, kl = -float(log_w.mean()), float(gaussian.kl(mu, log_var, 0.0, 0.0).sum(1).mean())
        what = "thresholded picture" if binary else "picture"
        found = {
            f"-ln p({what}), test, at most (bound of {draws} draws), nats": float(
                importance_weighted_nll(log_w).mean()
            ),
            "its bound (eq. 3), nats": bound,
            "of it KL, nats": kl,
            "of it reconstruction, nats": bound - kl,
            f"active units of {config.latent}": float(active_units(mu).sum()),
        }
        simple = baselines(train, val, test, levels, rng=np.random.default_rng(0))
        return found | {f"{name} levels, nats": nats for name, nats in simple.items()}

    def reconstruction(split: Split, *, rng: Any) -> Any:
        """Two rows: pictures, decoder means."""
        x = modelled(split.take(rng.permutation(len(split))[:12]).images)
        return np.stack([data.scale(x), pixels(encode(x)[0])])

    def traversal(split: Split, *, rng: Any) -> Any:
        """Rows of decoder means along one coordinate of the latents of one picture."""
        x = modelled(split.images[:MEASURED])
        mu, _ = encode(x)
        order = np.argsort(-mu.var(axis=0))[:8]
        z = np.tile(mu[int(rng.integers(len(mu)))], (len(order), 13, 1))
        for row, j in enumerate(order):
            z[row, :, j] = np.linspace(-3, 3, 13)
        return pixels(z.reshape(-1, config.latent)).reshape(len(order), 13, h, w, c)

    def interpolation(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, decoder means on the way, another picture."""
        x = modelled(split.take(rng.permutation(len(split))[:12]).images)
        half = len(x) // 2
        mu, _ = encode(x[: 2 * half])
        z = np.stack([slerp(mu[:half], mu[half:], t) for t in np.linspace(0, 1, 9)], axis=1)
        between = pixels(z.reshape(-1, config.latent)).reshape(half, 9, h, w, c)
        ends = data.scale(x)
        return np.concatenate([ends[:half, None], between, ends[half : 2 * half, None]], axis=1)

    pictures = {"reconstruction": reconstruction, "traversal": traversal, "interpolation": interpolation}
    return System(config, dataset.name, (h, w, c), {"vae": net}, stages, sample, figures, pictures)


def check(config: Config, shape: tuple[int, ...]) -> None:
    """Raise ValueError for the first setting that does not fit."""
    decoders = ("logistic", "categorical", "bernoulli")
    if config.decoder not in decoders:
        raise ValueError(f"decoder must be one of {', '.join(decoders)}, got {config.decoder!r}")
    for name, least in (("latent", 1), ("hidden", 1), ("draws", 1), ("beta", 0), ("free_bits", 0)):
        if not least <= getattr(config, name) < np.inf:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if not 0 <= config.kl_warmup <= 1:
        raise ValueError(f"kl_warmup must be a share of the steps from 0 to 1, got {config.kl_warmup}")
    if config.draws > 1 and config.free_bits:
        raise ValueError(
            f"free_bits must be 0 where draws is more than 1: that bound has no KL, got {config.free_bits}"
        )
    if not config.channels or min(config.channels) < 1:
        raise ValueError(f"channels must hold at least one width of at least 1, got {config.channels}")
    scale = 2 ** (len(config.channels) - 1)
    if shape[0] % scale or shape[1] % scale:
        raise ValueError(
            f"channels of {len(config.channels)} resolutions need a picture's size to be a multiple of {scale}, "
            f"got {shape[0]} x {shape[1]}"
        )
