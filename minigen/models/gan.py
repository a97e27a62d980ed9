r"""Generative adversarial networks. Goodfellow et al. 2014, arXiv 1406.2661, with the losses that came after it.

A generator turns noise into pictures, and a discriminator learns to tell them from real ones; each is trained against
the other. For a fixed generator the best discriminator knows the ratio of the two densities, so fooling it means moving
the generated density onto the real one, and no likelihood is ever written down. Later papers keep the game and change
what is measured (other losses), or keep the discriminator smooth (penalties on its gradient).

| symbol | code | shape |
|---|---|---|
| $x \sim p$ | ``x`` | (n, h, w, c) or (n, d), data in $[-1, 1]$ |
| $z \sim N(0, I)$ | ``z`` | (n, latent) |
| $G(z)$, $q$ | ``generator(z, y)``, ``fake``; the density of fakes | like $x$ |
| $l(x)$, $D(x) = \sigma(l(x))$ | ``discriminator(x, y)``: LOGITS, ``real`` or ``fake`` in the losses | (n,) |
| $f(x)$ | the same output, called a critic by the Wasserstein papers | (n,) |
| $y$ | ``y``, labels of a conditional GAN, or None | (n,) integers |

$$\min_G \max_D \; \mathbb E_p \ln D(x) + \mathbb E_z \ln(1 - D(G(z))) \qquad (1)$$
$$D^* = \frac{p}{p + q} \quad \text{(Prop. 1)}, \qquad \max_D = -\ln 4 + 2\, \mathrm{JSD}(p \,\|\, q) \quad \text{(Thm. 1)}$$
$$\mathbb E_{\hat x} \big(\|\nabla_{\hat x} f(\hat x)\|_2 - 1\big)^2, \;\; \hat x = \alpha x + (1 - \alpha) G(z), \;\; \alpha \sim U[0, 1] \quad \text{(1704.00028, eq. 3)}$$
$$R_1 = \tfrac{\gamma}{2} \mathbb E_p \|\nabla_x l(x)\|^2 \quad \text{(1801.04406, eq. 9)}$$

You need: `nn/layers.py`, `maths/interpolation.py` (the arc between two latents), `autograd.grad(create_graph=True)`.
New here: two objectives in one stage, losses that contain a gradient.

Details that matter, and the tests that guard them (tests/minigen/models/test_gan.py):
- losses are computed from logits, $\ln \sigma(l) = -\mathrm{softplus}(-l)$: a logarithm of a rounded sigmoid is
  $-\infty$;
- in the discriminator's step $G(z)$ is a constant, and each of the two steps draws a $z$ of its own;
- the gradient's norm is over ALL axes but the batch's, there is one $\alpha$ for each SAMPLE, and the discriminator has
  no batch norm: it would make one sample's gradient depend on the others;
- the penalties are differentiated a second time, through convolutions too;
- samples are drawn with the averaged generator, in evaluation mode. Its running statistics are those of the trained,
  not averaged, weights; at the end of the run, where the learning rate falls to 0, both agree.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr, ndtri

import autograd as ag
from kernels.backend import array_module
from minigen.data import Dataset, Split
from minigen.maths.interpolation import slerp
from minigen.nn import BatchNorm, Conv2d, ConvTranspose2d, Embedding, Linear, Module, Sequential, init

from .system import Objective, Stage, System

TITLE = "Generative adversarial network"
PAPER = "Goodfellow et al. 2014, arXiv 1406.2661"
EQUATION = "min_G max_D  E ln D(x) + E ln(1 − D(G(z)))"
DATA_SETS = ("digits", "mnist", "binary-mnist", "folder", "shapes", "rings")
PICTURES = {
    "interpolation": "from one latent to another along the sphere, one pair per row",
    "classes": "the same latents with every label, one label per row",
}
TOUR = {"steps": 2500}
PRESETS: dict[str, dict[str, Any]] = {"mnist": {"network": "conv", "width": 16, "batch_size": 64}}


@dataclass(frozen=True)
class Config:
    """Settings of the run. Those that are None depend on the loss or on the network: see ``resolved``."""

    loss: Literal["saturating", "non-saturating", "least-squares", "hinge", "wasserstein", "wgan-gp"] = "non-saturating"
    """The losses; they decide the settings that are None."""
    network: Literal["mlp", "conv"] = "mlp"
    """Fully connected, or convolutional (pictures only)."""
    conditional: bool = False
    """Give both networks the label (Mirza & Osindero 2014, arXiv 1411.1784)."""
    latent: int = 32
    """Dimensions of the noise z."""
    width: int | None = None
    """Width of a hidden layer; for conv the channels at full resolution, doubled at each halving."""
    depth: int = 2
    """Hidden layers; for conv how often the resolution is halved."""
    batch_norm: bool = True
    """Batch norm in the generator. The discriminator never has it."""
    r1: float | None = None
    """Weight gamma of the penalty R1 on the discriminator's gradient at real data; 0 is none."""
    gradient_penalty: float | None = None
    """Weight lambda of the penalty on the critic's gradient between real and fake data; 0 is none."""
    weight_clip: float | None = None
    """Largest absolute value of a critic's weight; 0 leaves them free."""
    critic_steps: int | None = None
    """Steps of the discriminator for each of the generator."""
    optimiser: Literal["adam", "rmsprop"] | None = None
    """The optimiser. Adam runs without momentum, beta1 = 0."""
    lr: float | None = None
    """Learning rate: flat for the first half, then linear to 0."""
    steps: int = 6000
    """Training steps of the discriminator."""
    batch_size: int = 128
    """Pictures per step."""
    ema: float = 0.999
    """Decay of the averaged weights that samples are drawn with (Karras et al. 2018, arXiv 1710.10196)."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the samples."""

    label: int | None = None
    """The label of all samples, for a conditional GAN; if left out, each sample draws its own."""
    truncation: float = 1.0
    """Share of the Gaussian, around its centre, that each coordinate of z is drawn from: less gives better and less
    diverse samples; above 0, 1 is all.
    """


# --- losses: of logits, to be minimised -------------------------------------------------------------------------------


def d_minimax(real: Any, fake: Any) -> Any:
    r"""$-\mathbb E_p \ln D - \mathbb E_q \ln(1 - D)$ (eq. 1, negated): $\ln 4 = 1.386$ where $D = \tfrac12$."""
    return ag.mean(ag.softplus(-real)) + ag.mean(ag.softplus(fake))


def g_saturating(fake: Any) -> Any:
    r"""$\mathbb E_q \ln(1 - D)$ (eq. 1): its gradient vanishes where the discriminator is sure, which is where G starts."""
    return -ag.mean(ag.softplus(fake))


def g_non_saturating(fake: Any) -> Any:
    r"""$-\mathbb E_q \ln D$ (section 3): the same fixed point, and a gradient where the discriminator is sure."""
    return ag.mean(ag.softplus(-fake))


def d_least_squares(real: Any, fake: Any) -> Any:
    r"""$\tfrac12 \mathbb E_p (l - 1)^2 + \tfrac12 \mathbb E_q l^2$ (Mao et al. 2017, arXiv 1611.04076, eq. 9)."""
    return 0.5 * (ag.mean(ag.square(real - 1.0)) + ag.mean(ag.square(fake)))


def g_least_squares(fake: Any) -> Any:
    r"""$\tfrac12 \mathbb E_q (l - 1)^2$ (1611.04076, eq. 9)."""
    return 0.5 * ag.mean(ag.square(fake - 1.0))


def d_hinge(real: Any, fake: Any) -> Any:
    r"""$\mathbb E_p \max(0, 1 - l) + \mathbb E_q \max(0, 1 + l)$ (Lim & Ye 2017, arXiv 1705.02894): nothing to gain
    beyond $\pm 1$.
    """
    return ag.mean(ag.relu(1.0 - real)) + ag.mean(ag.relu(1.0 + fake))


def d_wasserstein(real: Any, fake: Any) -> Any:
    r"""$\mathbb E_q f - \mathbb E_p f$ (Arjovsky et al. 2017, arXiv 1701.07875, eq. 2): minus $W_1$ for the best $f$
    with slope at most 1.
    """
    return ag.mean(fake) - ag.mean(real)


def g_critic(fake: Any) -> Any:
    r"""$-\mathbb E_q f$: the generator of the hinge loss and of both Wasserstein ones."""
    return -ag.mean(fake)


def squared_slope(outputs: Any, x: Any) -> Any:
    r"""$\|\nabla_x f(x_i)\|^2$ of each sample (n,), to be differentiated again; ``outputs`` (n,) were computed from the
    Tensor ``x``.
    """
    slope = ag.grad(ag.sum(outputs), x, create_graph=True)  # output i depends on sample i alone
    return ag.sum(slope * slope, axis=tuple(range(1, x.ndim)))


def r1_penalty(real: Any, x: Any, gamma: float) -> Any:
    r"""$\tfrac{\gamma}{2} \mathbb E_p \|\nabla_x l(x)\|^2$ (Mescheder et al. 2018, arXiv 1801.04406, eq. 9)."""
    return 0.5 * gamma * ag.mean(squared_slope(real, x))


def gradient_penalty(between: Any, x_hat: Any, weight: float) -> Any:
    r"""$\lambda\, \mathbb E_{\hat x} (\|\nabla f(\hat x)\|_2 - 1)^2$ (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3).

    A root has no finite slope at 0, where a critic may be flat (with dead ReLUs, say), so it is taken a little above.
    """
    return weight * ag.mean(ag.square(ag.sqrt(squared_slope(between, x_hat) + 1e-12) - 1.0))


@dataclass(frozen=True)
class Game:
    r"""The losses of the two players, and the defaults of settings that are left out.

    Penalties' forms, the clipping, the critic's steps and WGAN's RMSProp are the papers'; all others run Adam with
    $\beta_1 = 0$. ``r1`` and the rate of 2e-3 were chosen on the digits for the non-saturating loss; 1e-3 was not tuned
    (WGAN's paper has 5e-5, which needs far longer runs than ours).
    """

    d_loss: Callable[[Any, Any], Any]
    g_loss: Callable[[Any], Any]
    r1: float = 0.0
    gradient_penalty: float = 0.0
    weight_clip: float = 0.0
    critic_steps: int = 1
    optimiser: str = "adam"
    lr: float = 1e-3


GAMES = {
    "saturating": Game(d_minimax, g_saturating, r1=3.0, lr=2e-3),
    "non-saturating": Game(d_minimax, g_non_saturating, r1=3.0, lr=2e-3),
    "least-squares": Game(d_least_squares, g_least_squares),
    "hinge": Game(d_hinge, g_critic),
    "wasserstein": Game(d_wasserstein, g_critic, weight_clip=0.01, critic_steps=5, optimiser="rmsprop"),
    "wgan-gp": Game(d_wasserstein, g_critic, gradient_penalty=10.0, critic_steps=5),
}
WIDTHS = {"mlp": 256, "conv": 32}


def resolved(config: Config) -> Any:
    """The config with every None filled in, from ``GAMES[loss]`` and ``WIDTHS[network]``; functions below take it."""
    for name, known in (("loss", GAMES), ("network", WIDTHS)):
        if getattr(config, name) not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(config, name)!r}")
    defaults = vars(GAMES[config.loss]) | {"width": WIDTHS[config.network]}
    return dataclasses.replace(config, **{k: defaults[k] for k, v in vars(config).items() if v is None})


# --- networks ---------------------------------------------------------------------------------------------------------


class Generator(Module):
    """A body from z to what tanh maps to [-1, 1]; the label's embedding is concatenated to z (1411.1784, figure 1)."""

    def __init__(self, body: Module, shape: tuple[int, ...], embed: Embedding | None):
        self.body, self.shape, self.embed = body, shape, embed

    def forward(self, z: Any, y: Any = None) -> Any:
        """(n, latent), (n,) -> (n, *shape)."""
        z = z if self.embed is None else ag.concat([z, self.embed(y)], axis=1)
        return ag.reshape(ag.tanh(self.body(z)), (len(z), *self.shape))


class Discriminator(Module):
    r"""$l(x, y) = w^\top \phi(x) + b + e_y^\top \phi(x)$: the label enters by projection (Miyato & Koyama 2018, arXiv
    1802.05637, eq. 3).
    """

    def __init__(self, features: Module, last: Linear, embed: Embedding | None):
        self.features, self.last, self.embed = features, last, embed

    def forward(self, x: Any, y: Any = None) -> Any:
        """(n, ...), (n,) -> logits (n,)."""
        phi = self.features(x)
        logits = ag.reshape(self.last(phi), (len(x),))
        return logits if self.embed is None else logits + ag.sum(self.embed(y) * phi, axis=1)


def make_generator(config: Any, shape: tuple[int, ...], classes: int, rng: Any) -> Generator:
    """The generator of a resolved config; ``classes`` is 0 for an unconditional one."""
    embed = Embedding(classes, config.latent, rng=rng) if classes else None
    width, depth = config.width, config.depth
    c_in = config.latent * (2 if classes else 1)

    def norm(channels: int) -> list[Any]:
        return [BatchNorm(channels)] if config.batch_norm else []

    layers: list[Any] = []
    if config.network == "mlp":
        for _ in range(depth):
            layers += [Linear(c_in, width, initial=init.he, rng=rng), *norm(width), ag.relu]
            c_in = width
        layers.append(Linear(c_in, int(np.prod(shape)), rng=rng))
    else:  # transposed convolutions from small to large, as in DCGAN (Radford et al. 2016, arXiv 1511.06434)
        h, w, c = _smallest(shape, depth)
        c_out = width * 2**depth
        layers += [Linear(c_in, h * w * c_out, initial=init.he, rng=rng), _to_shape(h, w, c_out), *norm(c_out), ag.relu]
        for _ in range(depth):
            c_in, c_out = c_out, c_out // 2
            layers += [ConvTranspose2d(c_in, c_out, initial=init.he, rng=rng), *norm(c_out), ag.relu]
        layers.append(Conv2d(c_out, c, rng=rng))
    return Generator(Sequential(*layers), shape, embed)


def make_discriminator(config: Any, shape: tuple[int, ...], classes: int, rng: Any) -> Discriminator:
    """The discriminator, or critic, of a resolved config."""
    width, depth = config.width, config.depth
    if config.network == "mlp":
        c_in = int(np.prod(shape))
        layers: list[Any] = [_to_shape(c_in)]
        for _ in range(depth):
            layers += [Linear(c_in, width, initial=init.he, rng=rng), ag.leaky_relu]
            c_in = width
    else:
        h, w, c = _smallest(shape, depth)
        layers = [Conv2d(c, width, initial=init.he, rng=rng), ag.leaky_relu]
        for _ in range(depth):
            layers += [Conv2d(width, 2 * width, 4, stride=2, padding=1, initial=init.he, rng=rng), ag.leaky_relu]
            width *= 2
        c_in = h * w * width
        layers.append(_to_shape(c_in))
    embed = Embedding(classes, c_in, std=c_in**-0.5, rng=rng) if classes else None
    return Discriminator(Sequential(*layers), Linear(c_in, 1, rng=rng), embed)


def _smallest(shape: tuple[int, ...], depth: int) -> tuple[int, int, int]:
    h, w, c = shape
    return h // 2**depth, w // 2**depth, c


def _to_shape(*shape: int) -> Callable[[Any], Any]:
    return lambda x: ag.reshape(x, (len(x), *shape))


# --- the two objectives -----------------------------------------------------------------------------------------------


def discriminator_objective(
    generator: Any, discriminator: Any, x: Any, y: Any, z: Any, alpha: Any, config: Any
) -> tuple[Any, dict[str, Any]]:
    r"""The discriminator's loss on real ``x`` and fakes $G(z)$, with the penalties of a resolved config.

    The fakes are constants. ``alpha`` has shape (n, 1, ...): where between its real and its fake partner a sample of
    the gradient penalty lies.
    """
    with ag.no_grad():
        fake = ag.raw(generator(z, y))
    x = ag.Tensor(x, requires_grad=bool(config.r1))
    real_logits, fake_logits = discriminator(x, y), discriminator(fake, y)
    loss = GAMES[config.loss].d_loss(real_logits, fake_logits)
    figures = {"real": ag.raw(real_logits).mean(), "fake": ag.raw(fake_logits).mean()}
    if config.r1:
        figures["r1"] = penalty = r1_penalty(real_logits, x, config.r1)
        loss = loss + penalty
    if config.gradient_penalty:
        x_hat = ag.Tensor(alpha * x.data + (1 - alpha) * fake, requires_grad=True)
        figures["penalty"] = penalty = gradient_penalty(discriminator(x_hat, y), x_hat, config.gradient_penalty)
        loss = loss + penalty
    return loss, figures


def generator_objective(generator: Any, discriminator: Any, y: Any, z: Any, config: Any) -> Any:
    """The generator's loss."""
    return GAMES[config.loss].g_loss(discriminator(generator(z, y), y))


def truncated(z: Any, share: float) -> Any:
    r"""Coordinates drawn again until $|z_j| \le c$ (the truncation trick: Brock et al. 2019, arXiv 1809.11096, section
    3.1), without the loop.

    $z_j \mapsto \Phi^{-1}\big(\tfrac12 + s\,(\Phi(z_j) - \tfrac12)\big)$ has the same distribution, for
    $c = \Phi^{-1}(\tfrac{1 + s}{2})$: the middle ``share`` $s$ of the Gaussian. 1 leaves ``z`` as it is.
    """
    if not 0 < share <= 1:
        raise ValueError(f"truncation must be above 0 and at most 1, got {share}")
    return z if share == 1 else ndtri(0.5 + share * (ndtr(z) - 0.5))


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The two networks and what `minigen train`, `sample` and `tour` do with them.

    Raises ValueError for settings that do not fit.
    """
    full, shape = resolved(config), dataset.shape
    _check(full, dataset)
    rng = np.random.default_rng(seed)
    classes = len(dataset.classes) if full.conditional else 0
    generator = make_generator(full, shape, classes, rng)
    discriminator = make_discriminator(full, shape, classes, rng)

    def to_device(a: Any) -> Any:
        w = discriminator.last.w.data
        return array_module(w).asarray(a, w.dtype)

    def latents(n: int, rng: Any) -> Any:
        return to_device(rng.standard_normal((n, full.latent)))

    def labels(batch: Split) -> Any:
        return batch.labels if classes else None

    def train_discriminator(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        x, z = to_device(dataset.scale(batch.images)), latents(len(batch), rng)
        alpha = to_device(rng.random((len(batch), *(1,) * len(shape))))
        return discriminator_objective(generator, discriminator, x, labels(batch), z, alpha, full)

    def train_generator(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        z = latents(len(batch), rng)
        return generator_objective(generator, discriminator, labels(batch), z, full), {}

    def clip_weights() -> None:
        for p in discriminator.parameters():
            array_module(p.data).clip(p.data, -full.weight_clip, full.weight_clip, out=p.data)

    after = clip_weights if full.weight_clip else None

    def stages() -> list[Stage]:
        return [
            Stage(
                name="gan",
                objectives=[
                    Objective("discriminator", discriminator, train_discriminator, after=after),
                    Objective("generator", generator, train_generator, every=full.critic_steps),
                ],
                steps=full.steps,
                batch_size=full.batch_size,
                lr=full.lr,
                ema=full.ema,
                betas=(0.0, 0.99),
                schedule="flat-then-linear",
                optimiser=full.optimiser,
            )
        ]

    def decode(z: Any, y: Any) -> Any:
        with ag.no_grad():
            return ag.raw(generator(to_device(z), y))

    def some_labels(n: int, rng: Any) -> Any:
        return rng.integers(0, classes, n) if classes else None

    def sample(
        n: int,
        *,
        rng: Any,
        steps: int | None = None,
        callback: Any = None,
        label: int | None = None,
        truncation: float = 1.0,
    ) -> Any:
        """``n`` samples in [-1, 1]. Draws z and then, for a conditional GAN without a ``label``, labels, all equally likely."""
        if steps is not None:
            raise ValueError(f"a GAN draws in one step, so steps must be left out, got {steps}")
        if label is not None and not classes:
            raise ValueError(f"label {label} needs a conditional GAN, and this one was trained without --conditional")
        if label is not None and not 0 <= label < classes:
            raise ValueError(f"label must be from 0 to {classes - 1}, got {label}")
        z = truncated(rng.standard_normal((n, full.latent)), truncation)
        return decode(z, some_labels(n, rng) if label is None else np.full(n, label))

    def interpolation(split: Split, *, rng: Any) -> Any:
        """Six rows of nine: from one latent to another, with the label, if there is one, fixed."""
        a, b = rng.standard_normal((2, 6, 1, full.latent))
        y = some_labels(6, rng)
        z = slerp(a, b, np.linspace(0, 1, 9))  # (6, 9, latent)
        x = decode(z.reshape(-1, full.latent), None if y is None else y.repeat(9))
        return x.reshape(6, 9, *shape)

    def every_class(split: Split, *, rng: Any) -> Any:
        """A row for each label, the same ten latents in each."""
        z = rng.standard_normal((10, full.latent))
        x = decode(np.tile(z, (classes, 1)), np.arange(classes).repeat(10))
        return x.reshape(classes, 10, *shape)

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """Mean outputs of the discriminator: if training data score higher than test data, it has memorised them."""

        def mean_logit(x: Any, y: Any) -> float:
            with ag.no_grad():
                return float(ag.raw(discriminator(to_device(x), y if classes else None)).mean())

        parts = {"training data": dataset.train.take(slice(0, 1000)), "test data": dataset.test.take(slice(0, 1000))}
        found = {
            f"mean logit of {what}": mean_logit(dataset.scale(part.images), part.labels) for what, part in parts.items()
        }
        y = some_labels(1000, rng)
        fakes = decode(rng.standard_normal((1000, full.latent)), y)
        return found | {"mean logit of samples": mean_logit(fakes, y)}

    pictures: dict[str, Callable[..., Any]] = {}
    if len(shape) == 3:
        pictures["interpolation"] = interpolation
        if classes:
            pictures["classes"] = every_class
    modules = {"generator": generator, "discriminator": discriminator}
    return System(config, dataset.name, shape, modules, stages, sample, figures, pictures)


def _check(config: Any, dataset: Dataset) -> None:
    """Raise ValueError for settings of a resolved config that cannot work on the data."""
    if dataset.levels is not None and len(dataset.shape) != 3:
        raise ValueError(f"this model draws pictures or points, and the data set '{dataset.name}' holds neither")
    for name in ("latent", "width", "depth", "critic_steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("r1", "gradient_penalty", "weight_clip"):
        if not 0 <= getattr(config, name) < np.inf:
            raise ValueError(f"{name} must be at least 0, got {getattr(config, name)}")
    if config.batch_norm and config.batch_size == 1:
        raise ValueError(
            "batch_size must be at least 2 with batch norm in the generator, got 1 (or take --no-batch-norm)"
        )
    if config.conditional and not dataset.classes:
        raise ValueError(f"conditional needs labels, and the data set '{dataset.name}' has none")
    if config.network == "conv":
        if len(dataset.shape) != 3:
            raise ValueError(
                f"network 'conv' draws pictures, and the data set '{dataset.name}' holds no pictures: take 'mlp'"
            )
        h, w, _ = dataset.shape
        if h % 2**config.depth or w % 2**config.depth:
            raise ValueError(
                f"depth {config.depth} halves the pictures that often, so their size must be a multiple of "
                f"{2**config.depth}, got {h} x {w}"
            )
