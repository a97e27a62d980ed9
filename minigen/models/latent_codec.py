r"""The first stage of latent diffusion: pictures to small maps of numbers and back.

Esser, Rombach & Ommer 2021, "Taming transformers for high-resolution image synthesis", arXiv 2012.09841, section 3.1;
Rombach et al. 2022, arXiv 2112.10752, section 3.1.

An autoencoder whose middle is a map, $f$ times smaller than the picture on each side, keeps what matters and drops what
nobody sees. Three judges decide what matters: the pixels, the features of a network that has learnt to see, and a
discriminator that looks at patches. To make diffusion in it easy, the map is weakly pulled towards a standard normal
("kl"), or its vectors are replaced by the nearest ones of a codebook before they are decoded ("vq").

| symbol | code | shape |
|---|---|---|
| $x$, $\hat x$ | ``x``, ``x_hat`` | (n, h, w, c), data in $[-1, 1]$ |
| $\mu, \ln \sigma^2$ of $q(z \mid x)$; $z$ | ``mu``, ``log_var``; ``z`` | (n, h / f, w / f, d) |
| $m, s$, mean and standard deviation of each channel of $\mu$ over the data | ``mean``, ``std``, buffers of ``Autoencoder`` | (d,) |
| $\phi_l$, layers of the frozen network | ``features``, which returns a list | (n, h_l, w_l, c_l) |
| $D$ | ``Discriminator``: a logit for every patch | (n, h / 4, w / 4) |
| $\lambda$ | ``adaptive_weight`` | |

The numbers of the equations are this file's.

$$L = L_{rec} + w_{kl} \frac{1}{hwc} \mathrm{KL}(q(z \mid x) \| N(0, I)) + \lambda\, w_{adv}\, \mathbb E[-D(\hat x)] \qquad (1, \text{ "kl"})$$
$$L_{rec} = \| x - \hat x \|^2 + a\, | x - \hat x | + b\, \| \nabla x - \nabla \hat x \|^2 + w_\phi L_\phi \qquad (2)$$
$$L_\phi = \sum_l \frac{1}{h_l w_l} \sum_{ij} \big\| \hat\phi_l(x)_{ij} - \hat\phi_l(\hat x)_{ij} \big\|^2, \quad \hat\phi = \phi / \|\phi\| \qquad (3, \text{ Zhang et al. 2018, 1801.03924, eq. 1 with } w = 1)$$
$$\lambda = \frac{\| \nabla_W L_{rec} \|}{\| \nabla_W \mathbb E[-D(\hat x)] \| + \delta}, \quad W \text{ the decoder's last layer} \qquad (4, \text{ 2012.09841, eq. 7})$$
$$L_D = \mathbb E \max(0, 1 - D(x)) + \mathbb E \max(0, 1 + D(\hat x)) \qquad (5)$$
$$\tilde z = (\mu - m) / s, \qquad \hat x = \mathrm{decoder}(s\, \tilde z + m) \qquad (6)$$

Under "vq" the second term of (1) is the commitment of `vq_vae` (eq. 3 there), and $z$ of (6) is taken BEFORE the
codebook: the decoder quantises, so what a diffusion model draws need not lie on a code. The mean over the pixels is the
paper's sum divided by $hwc$, for the KL as for the errors.

**What is not the paper's.** Its $\phi$ is a VGG trained on ImageNet (LPIPS); here it is the image network of this
project's own CLIP, its feature maps after each norm. Its scale is one number, $1 / s$ over the first batch (0.18215 in
Stable Diffusion), and no mean; here there is one for each channel, over many pictures of the training split. Its
discriminator joins late in one long stage; here it has a stage of its own. Its pixel error is $| x - \hat x |$ alone.

**How much KL.** The paper has just enough to keep the maps from growing. Here it is 20,000 times as much, because the
map is decoded from what a small diffusion model draws, which is never quite right: with more noise in training the
decoder learns to draw clean shapes from maps that are not. Share of 143 test pictures of one thing / 157 of two that
the oracle reads correctly after the codec (600 steps of 32 pictures, the first row 800; f = 4, d = 4), with noise added
to the map, in units of its standard deviation (the default was chosen by this table):

| weight of the KL | no noise | 0.2 | 0.3 | 0.5 |
|---|---|---|---|---|
| 1e-4 | 1.00 / .99 | .91 / .87 | .71 / .43 | |
| 3e-3 | 1.00 / .99 | .97 / .91 | .87 / .67 | .23 / .05 |
| 2e-2 | .99 / .99 | .99 / .96 | .97 / .87 | .70 / .43 |
| 1e-1 | .97 / .92 | .97 / .92 | .97 / .89 | .86 / .64 |

Diffusion of 900 steps in these maps met .34 of the prompts for one thing with 1e-4 (32 prompts), .52 with 2e-2 and with
1e-1 (64 prompts).

You need: `models/vae.py` (the KL), `vq_vae.py` (the codebook), `gan.py` (the hinge loss), `clip.py`. New here: judges
besides the pixels, and a weight that balances two gradients.

Details that matter, and the tests that guard them (tests/minigen/models/test_latent_codec.py):
- $\lambda$ is a constant: nothing is differentiated through it, and it is taken at the last layer only;
- (6) divides by the standard deviation on the way in and multiplies on the way out, and is measured over the data, not
  a batch;
- $\ln \sigma^2$ is held within [-30, 20];
- the frozen network gets no gradient, the pictures that go through it do;
- the discriminator's fakes are constants; its pull on the codec rises from 0, as its first gradients are noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module
from minigen.data import Dataset, Split
from minigen.maths import gaussian
from minigen.nn import Conv2d, ConvTranspose2d, GroupNorm, Module, ResBlock, Sequential, fold, init, unfold

from . import clip
from .gan import d_hinge, g_critic
from .system import Objective, Stage
from .vq_vae import Codebook, latent_losses, nearest, reconstruction_loss

FACTORS = (2, 4, 8)
PATCH = 2  # side of the squares of pixels that become channels first
DELTA = 1e-4  # of eq. 4, as in the authors' code; the paper says 1e-6
MOST = 1e4  # the largest lambda
RISE = 0.25  # share of the adversarial stage over which the discriminator's pull on the codec rises
LOG_VAR = (-30.0, 20.0)
MEASURED = 2048  # pictures that eq. 6 is measured over
BLOCK = 128  # pictures that are encoded or decoded at once where nothing is learnt


@dataclass(frozen=True)
class Config:
    """Settings of the codec."""

    regulariser: Literal["kl", "vq"] = "kl"
    """What keeps the map in order: a weak pull towards N(0, I), or a codebook in front of the decoder."""
    factor: int = 4
    """f: width of a place of the map in pixels: 2, 4 or 8."""
    channels: int = 4
    """d, numbers per place of the map."""
    width: int = 64
    """Channels of both networks."""
    blocks: int = 2
    """Residual blocks at the map's resolution, of encoder and decoder each."""
    kl: float = 2e-2
    """Weight of the KL. The paper has 1e-6; here more makes maps that tolerate the errors of a small diffusion model,
    see above.
    """
    codes: int = 512
    """Vectors of the codebook ("vq")."""
    beta: float = 0.25
    """Weight of the commitment to it."""
    decay: float = 0.97
    """Decay of its moving averages; see `vq_vae`."""
    absolute: float = 0.1
    """a of eq. 2."""
    edges: float = 0.5
    """b of eq. 2."""
    perceptual: float = 0.05
    """Weight of the features' error; 0: no features."""
    adversarial: float = 0.5
    """Weight of the discriminator's judgement, relative to the gradient of eq. 2."""
    steps: int = 800
    """Training steps without the discriminator."""
    adversarial_steps: int = 0
    """Further steps with it; 0: there is none."""
    batch_size: int = 32
    """Pictures per step."""
    lr: float = 4e-3
    """Peak learning rate of Muon and AdamW; falls along a cosine."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""


# --- the losses -------------------------------------------------------------------------------------------------------


def kl_loss(mu: Any, log_var: Any, numbers: int) -> Any:
    r"""The second term of eq. 1 without its weight: the KL of each picture in nats, divided by its ``numbers`` $hwc$;
    the mean over pictures.
    """
    return ag.sum(gaussian.kl(mu, log_var, 0.0, 0.0)) * (1 / (len(mu) * numbers))


def perceptual_loss(features: Callable[[Any], Sequence[Any]], x: Any, x_hat: Any) -> Any:
    """Eq. 3: a scalar. ``x`` is a constant."""
    with ag.no_grad():
        theirs = [ag.raw(phi) for phi in features(x)]
    total: Any = 0.0
    for a, b in zip(theirs, features(x_hat), strict=True):
        d = clip.normalise(b) - ag.raw(clip.normalise(a))
        total = total + ag.sum(d * d) * (1 / np.prod(a.shape[:-1]))
    return total


def clip_features(net: clip.CLIP) -> Callable[[Any], list[Any]]:
    """The feature maps of a CLIP's image network, after each of its norms: pictures (n, h, w, c) -> a list."""

    def features(x: Any) -> list[Any]:
        tower, found = net.image, list[Any]()
        h = fold(x, tower.patch)
        for conv, norm in zip([tower.conv_in, *tower.down], tower.norms):
            h = norm(conv(h))
            found.append(h)
        return found

    return features


def adaptive_weight(of_reconstruction: Any, of_judgement: Any) -> float:
    r"""Eq. 4 for the two gradients at the last layer: the number that makes the second as long as the first (at most ``MOST``)."""
    norms = [float(np.sqrt(float((g * g).sum()))) for g in map(ag.raw, (of_reconstruction, of_judgement))]
    return min(norms[0] / (norms[1] + DELTA), MOST)


def gradient_at(layer: Any, h: Any, loss: Callable[[Any], Any], after: Callable[[Any], Any]) -> Any:
    """The gradient of ``loss(after(layer(h)))`` with respect to the weights of ``layer`` alone; ``h`` is a constant."""
    with ag.enable_grad():
        return ag.raw(ag.grad(loss(after(layer(ag.raw(h)))), layer.w))


# --- the networks -----------------------------------------------------------------------------------------------------


class Autoencoder(Module):
    """Encoder and decoder for pictures of ``c`` channels of any size that f divides, with $m$ and $s$ of eq. 6."""

    def __init__(self, c: int, config: Config, *, rng: Any):
        self.factor, self.d, self.regulariser = config.factor, config.channels, config.regulariser
        halvings, width = int(np.log2(config.factor // PATCH)), config.width
        self.encoder = Sequential(
            Conv2d(PATCH**2 * c, width, initial=init.he, rng=rng),
            *(
                layer
                for _ in range(halvings)
                for layer in (ag.silu, Conv2d(width, width, 4, stride=2, padding=1, initial=init.he, rng=rng))
            ),
            *(ResBlock(width, width, rng=rng) for _ in range(config.blocks)),
            ag.silu,
            Conv2d(width, (1 if config.regulariser == "vq" else 2) * self.d, 1, rng=rng),
        )
        self.codebook = Codebook(config.codes, self.d, "average", rng=rng) if config.regulariser == "vq" else None
        self.decoder = Sequential(
            Conv2d(self.d, width, rng=rng),
            *(ResBlock(width, width, rng=rng) for _ in range(config.blocks)),
            *(
                layer
                for _ in range(halvings)
                for layer in (ag.silu, ConvTranspose2d(width, width, initial=init.he, rng=rng))
            ),
            ag.silu,
        )
        self.last = Conv2d(width, PATCH**2 * c, rng=rng)
        self.mean, self.std = np.zeros(self.d, np.float32), np.ones(self.d, np.float32)
        self.BUFFERS = ("mean", "std")

    def moments(self, x: Any) -> tuple[Any, Any]:
        r"""$\mu$ and $\ln \sigma^2$ of each number of the map; under "vq" the vectors, and None."""
        h = self.encoder(fold(x, PATCH))
        if self.codebook is not None:
            return h, None
        return h[..., : self.d], ag.clip(h[..., self.d :], *LOG_VAR)

    def body(self, z: Any) -> Any:
        """The decoder up to its last layer."""
        return self.decoder(z)

    def picture(self, h: Any) -> Any:
        """What the last layer makes of the body's features (n, h, w, c), not clipped."""
        return unfold(self.last(h), PATCH)


class Discriminator(Module):
    """Patches of pictures to logits: (n, h, w, c) -> (n, h / 4, w / 4)."""

    def __init__(self, c: int, *, width: int = 32, rng: Any):
        self.layers = Sequential(
            Conv2d(c, width, 4, stride=2, padding=1, initial=init.he, rng=rng),
            ag.leaky_relu,
            Conv2d(width, 2 * width, 4, stride=2, padding=1, initial=init.he, rng=rng),
            GroupNorm(2 * width, 8),
            ag.leaky_relu,
        )
        self.last = Conv2d(2 * width, 1, rng=rng)

    def forward(self, x: Any) -> Any:
        """Large where a patch looks real."""
        return self.last(self.layers(x))[..., 0]


# --- the codec --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codec:
    """Pictures to maps and back by eq. 6, with the weights that are in ``net``. Nothing is recorded.

    ``bound`` would limit a sampler's guesses of the map: there is none.
    """

    net: Autoencoder
    bound: ClassVar[float | None] = None

    def shape(self, picture: Sequence[int]) -> tuple[int, int, int]:
        """The shape of the map of a picture (h, w, c)."""
        return picture[0] // self.net.factor, picture[1] // self.net.factor, self.net.d

    def encode(self, images: Any, *, rng: Any = None) -> Any:
        r"""Images in [-1, 1] (n, h, w, c) -> $\tilde z$ (n, h / f, w / f, d) of the mean, or, with ``rng``, of a draw
        from $q(z \mid x)$.
        """
        net, xp = self.net, array_module(self.net.mean)
        x, found = xp.asarray(images, net.mean.dtype), []
        with ag.no_grad():
            for i in range(0, max(1, len(x)), BLOCK):
                mu, log_var = map(ag.raw, net.moments(x[i : i + BLOCK]))
                if rng is not None and log_var is not None:
                    mu = mu + np.exp(0.5 * log_var) * xp.asarray(rng.standard_normal(mu.shape), mu.dtype)
                found.append((mu - net.mean) / net.std)
        return xp.concatenate(found)

    def decode(self, z: Any) -> Any:
        r"""$\tilde z$ (n, h / f, w / f, d) -> images (n, h, w, c), clipped to [-1, 1]; under "vq" quantised first."""
        net, xp = self.net, array_module(self.net.mean)
        z, found = xp.asarray(z, net.mean.dtype) * net.std + net.mean, []
        with ag.no_grad():
            for i in range(0, max(1, len(z)), BLOCK):
                part = z[i : i + BLOCK]
                if net.codebook is not None:
                    part = net.codebook.vectors[nearest(part, net.codebook.vectors)]
                found.append(ag.raw(net.picture(net.body(part))))
        return np.clip(xp.concatenate(found), -1, 1)


@dataclass(frozen=True)
class Identity:
    """The codec that does nothing: latent diffusion with it is diffusion of pixels, bit for bit."""

    bound: ClassVar[float | None] = 1.0

    def shape(self, picture: Sequence[int]) -> tuple[int, int, int]:
        """The picture's own."""
        h, w, c = picture
        return h, w, c

    def encode(self, images: Any, *, rng: Any = None) -> Any:
        """The images."""
        return images

    def decode(self, z: Any) -> Any:
        """The images."""
        return z


def measure(net: Autoencoder, images: Any) -> None:
    """Eq. 6: set ``mean`` and ``std`` to those of the maps of ``images`` (n, h, w, c), channel by channel."""
    net.mean[...], net.std[...] = 0, 1
    z = Codec(net).encode(images).reshape(-1, net.d)
    net.mean[...], net.std[...] = z.mean(0), np.maximum(z.std(0), 1e-6)


# --- training ---------------------------------------------------------------------------------------------------------


def objective(
    net: Autoencoder,
    x: Any,
    config: Config,
    *,
    features: Callable[[Any], Sequence[Any]] | None,
    noise: Any,
    judge: Callable[[Any], Any] | None = None,
    pull: float = 1.0,
    revive: bool = False,
    u: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Eq. 1 for pictures ``x``.

    ``noise`` is standard normal, of the map's shape ("kl"); ``judge`` is the discriminator, if there is one, and
    ``pull`` in [0, 1] how much its judgement counts; ``revive`` and ``u`` are those of `vq_vae.objective` ("vq").
    """
    mu, log_var = net.moments(x)
    if net.codebook is None:
        z = ag.reparameterize(mu, log_var, noise)
        order = kl_loss(mu, log_var, int(np.prod(x.shape[1:])))
        figures, weight = {"kl": ag.raw(order)}, config.kl
    else:
        book, rows = net.codebook, ag.raw(mu).reshape(-1, net.d)
        if revive and net.training:
            book.revive(rows, 0.05, u)
        codes = nearest(mu, book.vectors)
        e = book(codes)
        z = ag.straight_through(e, mu)
        order = latent_losses(mu, e)[1]
        book.observe(rows, codes.reshape(-1), config.decay)
        figures, weight = {"commitment": ag.raw(order)}, config.beta

    def reconstruction(x_hat: Any) -> Any:
        value = reconstruction_loss(x, x_hat, config.absolute, config.edges)
        return value if features is None else value + config.perceptual * perceptual_loss(features, x, x_hat)

    h = net.body(z)
    x_hat = net.picture(h)
    of_pixels = reconstruction(x_hat)
    figures["reconstruction"] = ag.raw(of_pixels)
    value = of_pixels + weight * order
    if judge is not None:

        def judgement(x_hat: Any) -> Any:
            return g_critic(judge(x_hat))

        def after(out: Any) -> Any:
            return unfold(out, PATCH)

        gradients = [gradient_at(net.last, h, loss, after) for loss in (reconstruction, judgement)]
        figures["lambda"] = balance = adaptive_weight(*gradients)
        value = value + pull * config.adversarial * balance * judgement(x_hat)
    return value, figures


def discriminator_loss(net: Autoencoder, judge: Any, x: Any, noise: Any) -> tuple[Any, dict[str, Any]]:
    """Eq. 5 for pictures ``x`` and their copies, which are constants."""
    with ag.no_grad():
        mu, log_var = net.moments(x)
        if net.codebook is None:
            z = ag.raw(ag.reparameterize(mu, log_var, noise))
        else:
            z = net.codebook.vectors[nearest(mu, net.codebook.vectors)]
        fake = ag.raw(net.picture(net.body(z)))
    of_real, of_fake = judge(x), judge(fake)
    return d_hinge(of_real, of_fake), {"real": ag.raw(of_real).mean(), "fake": ag.raw(of_fake).mean()}


def stages(
    net: Autoencoder, judge: Discriminator | None, features: Any, config: Config, dataset: Dataset
) -> list[Stage]:
    """How the codec is trained: alone, then against a discriminator if it has ``adversarial_steps``."""
    features = features if config.perceptual else None

    def pictures(batch: Split) -> Any:
        return array_module(net.mean).asarray(dataset.scale(batch.images), net.mean.dtype)

    def noise_for(x: Any, rng: Any) -> Any:
        shape = Codec(net).shape(x.shape[1:])
        return array_module(x).asarray(rng.standard_normal((len(x), *shape)), x.dtype)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        x = pictures(batch)
        noise = noise_for(x, rng)
        u = array_module(x).asarray(rng.random(noise.size // net.d))
        revive = step < 0.6 * config.steps
        return objective(net, x, config, features=features, noise=noise, revive=revive, u=u)

    def adversarial_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        x = pictures(batch)
        pull = min(1.0, step / (RISE * config.adversarial_steps))
        return objective(net, x, config, features=features, noise=noise_for(x, rng), judge=judge, pull=pull)

    def judge_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        x = pictures(batch)
        return discriminator_loss(net, judge, x, noise_for(x, rng))

    def stage(name: str, objectives: list[Objective], steps: int, lr: float) -> Stage:
        return Stage(
            name=name,
            objectives=objectives,
            steps=steps,
            batch_size=config.batch_size,
            lr=lr,
            warmup=min(100, steps // 10),
            max_norm=config.max_norm,
            betas=(0.9, 0.95),
            schedule="cosine",
            optimiser="muon",
            apart=("encoder.layers.0.", "last."),
        )

    found = [stage("codec", [Objective("codec", net, loss)], config.steps, config.lr)]
    if judge is not None:
        players = [Objective("codec", net, adversarial_loss), Objective("discriminator", judge, judge_loss)]
        found.append(stage("adversarial", players, config.adversarial_steps, config.lr / 4))
    return found


def check(config: Config, shape: Sequence[int]) -> None:
    """Raise ValueError for the first setting that does not fit."""
    if config.regulariser not in ("kl", "vq"):
        raise ValueError(f"regulariser must be 'kl' or 'vq', got {config.regulariser!r}")
    if config.factor not in FACTORS:
        raise ValueError(f"factor must be one of {', '.join(map(str, FACTORS))}, got {config.factor}")
    if len(shape) != 3 or shape[0] % config.factor or shape[1] % config.factor:
        raise ValueError(f"factor must divide the picture's sides, got {config.factor} for {tuple(shape)}")
    for name in ("channels", "codes", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("kl", "beta", "absolute", "edges", "perceptual", "adversarial", "adversarial_steps", "blocks"):
        if not 0 <= getattr(config, name) < np.inf:
            raise ValueError(f"{name} must be at least 0, got {getattr(config, name)}")
    if config.width < 8 or config.width % 8:
        raise ValueError(f"width must be a multiple of 8 (the groups of a norm), got {config.width}")
