r"""ADM and classifier guidance. Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv 2105.05233.

A better U-Net, and a way to trade diversity for fidelity. A second network, a classifier, is trained on noisy pictures
and given their noise level; during sampling, the gradient of the classifier's log-probability of the wanted class pulls
each step towards pictures that are clearly of that class. The diffusion model itself need not know the classes at all,
and a scale above 1 sharpens the classifier.

| symbol | code | shape |
|---|---|---|
| $\epsilon_\theta(x_t, t)$, $v$ | ``denoiser(x_t, t, cond)``, a pair | like $x_t$ |
| $p_\phi(y \mid x_t, t)$ | softmax of ``classifier(x_t, t)``: LOGITS | (n, classes) |
| $y$ | ``y``, or ``cond`` of a sampler | (n,) integers |
| $s$ | ``scale`` | |
| $\mu, \Sigma$ | mean and variance of $p_\theta(x_{t-1} \mid x_t)$ | like $x_t$ |
| $y_s, y_b$ | from the embedding of time and class, in each block | (n, c) |

$$\mathrm{AdaGN}(h, y) = y_s\, \mathrm{GroupNorm}(h) + y_b \qquad \text{(section 3.1)}$$
$$x_{t-1} \sim N(\mu + s\, \Sigma\, \nabla_{x_t} \ln p_\phi(y \mid x_t)\big|_{x_t = \mu},\; \Sigma) \qquad \text{(section 4.1, on which algorithm 1 rests)}$$
$$\hat\epsilon = \epsilon_\theta(x_t) - \sqrt{1 - \bar\alpha_t}\, s\, \nabla_{x_t} \ln p_\phi(y \mid x_t) \qquad \text{(eq. 14 and algorithm 2, with the scale of section 4.3)}$$
$$s\, \nabla_x \ln p(y \mid x) = \nabla_x \ln \tfrac{1}{Z} p(y \mid x)^s \qquad \text{(section 4.3)}$$

Three ways to guide, by name: ``classifier`` is algorithm 2, and goes with every sampler; ``mean`` moves the mean of the
ancestral samplers by the gradient at $\mu$, as section 4.1 derives it; ``mean-at-x_t`` by the gradient at $x_t$, as in
the printed algorithm 1 and the authors' code.

Differences from DDPM's network: attention at several resolutions, a fixed number of channels per head, the embedding as
scale and shift of the norms, residual blocks that change the resolution themselves (BigGAN). It is trained with
improved DDPM's hybrid loss and learns its variance. The classifier is the downward half of such a network, followed by
attention pooling (Radford et al. 2021, 2103.00020, section 2.4).

Not here: the paper's up-sampler, a diffusion model of large pictures that takes a small one as further input. GLIDE
has one (`glide_upsampler.py`).

You need: `nn/unet.py`, `models/improved_ddpm.py` (the loss), `samplers/guidance.py` (algorithm 2),
`samplers/ancestral.py` (algorithm 1). New here: the noisy classifier, and sampling with two networks.

Details that matter, and the tests that guard them (tests/minigen/models/test_adm.py):
- the classifier is trained on $x_t$ from the same $q$, with one uniform $t$ for each sample, and is given the $t$ that
  made its $x_t$;
- when levels are skipped it is given the ORIGINAL time of a level, as the denoiser is;
- the gradient is that of $\ln p(y \mid x_t)$ for the ASKED class, and each sample's own: no batch norm;
- for the gradient at $\mu$ the classifier gets the time of the level below; the last step, which adds no noise, is not
  guided;
- the variance is never guided; $\hat x_0$ is clipped AFTER guidance by ``classifier``, and before a mean is moved;
- the output of the classifier's attention pooling starts at zero: untrained, it does not guide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, shift
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.maths.schedules import Schedule
from minigen.metrics.ruler import load_ruler
from minigen.nn import (
    Attention,
    Conv2d,
    Embedding,
    GroupNorm,
    Linear,
    Module,
    PixelAttention,
    ResBlock,
    TimeEmbedding,
    UNet,
    init,
    parameter,
)
from minigen.nn.unet import Stack, heads_of
from minigen.samplers import ancestral
from minigen.samplers.guidance import by_gradient, classifier_score, label_log_p

from . import sampling
from .improved_ddpm import eps_and_v, l_hybrid, variational_bound
from .system import Objective, Stage, System

TITLE = "ADM with classifier guidance"
PAPER = "Dhariwal & Nichol 2021, arXiv 2105.05233"
EQUATION = "ε̂ = ε_θ(x_t, t) − √(1−ᾱ_t) s ∇ ln p_φ(y | x_t)"
DATA_SETS = ("digits", "mnist", "binary-mnist", "folder")  # with classes
TOUR: dict[str, Any] = {"steps": 600, "classifier_steps": 300}
PICTURES = {
    "scales": "a class per column, guided more strongly from row to row (scale 0, 1, 2, 4, 8, 16), from the same noise"
}
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
GUIDANCES = ("none", "classifier", "mean", "mean-at-x_t")


@dataclass(frozen=True)
class Config:
    """Settings of the run. The defaults train on 8x8 digits in about four and a half minutes on one core."""

    conditional: bool = False
    """Tell the denoiser the class as well. Otherwise the classifier alone knows the classes."""
    T: int = 200
    """Length of the noising chain."""
    schedule: Literal["linear", "scaled-linear", "cosine", "sigmoid"] = "cosine"
    """Noise schedule."""
    lam: float = 0.001
    """Weight of the bound, which trains the variance, in the hybrid loss."""
    sample_steps: int = 20
    """Levels that sampling visits; T or more visits all."""
    base: int = 24
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels at each resolution, in units of base; each level halves the size."""
    blocks: int = 1
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[int, ...] = (0, 1)
    """Levels with attention over their pixels, besides the middle; 0 is full resolution."""
    channels_per_head: int = 8
    """Channels of an attention head; the paper has 64."""
    dropout: float = 0.0
    """Share of features dropped in every residual block of the denoiser while training."""
    steps: int = 1500
    """Training steps of the denoiser."""
    classifier_base: int = 16
    """Channels of the classifier at full resolution; its levels are the denoiser's."""
    classifier_steps: int = 800
    """Training steps of the noisy classifier; 0 trains none, and there is no guidance."""
    classifier_shift: float = 0.5
    """Share of the classifier's training pictures that are moved by up to one pixel."""
    classifier_dropout: float = 0.1
    """Share of features dropped in the classifier's residual blocks while training."""
    batch_size: int = 64
    """Pictures per step, for both networks."""
    lr: float = 2e-3
    """Peak learning rate of AdamW, for both networks; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the denoiser."""
    classifier_weight_decay: float = 0.05
    """Decoupled weight decay of the classifier."""
    warmup: int = 100
    """Steps over which the learning rate rises, for both networks; at most a tenth of the denoiser's steps."""
    ema: float = 0.999
    """Decay of the averaged weights that samples are drawn with."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""


@dataclass(frozen=True)
class Sampling(sampling.Sampling):
    """Settings of the samples."""

    label: int | None = None
    """The class of all samples; if left out, all classes in turn (or none, if no network knows the classes)."""
    guidance: Literal["none", "classifier", "mean", "mean-at-x_t"] | None = None
    """Algorithm 2 ("classifier", any sampler), or the mean of the sampler "ancestral" moved by the gradient at the mean
    (section 4.1) or at x_t (algorithm 1); if left out, "classifier" if there is one.
    """
    scale: float = 8.0
    """Weight of the classifier's gradient: 0 is no guidance, 1 Bayes' rule, more makes classes clearer and samples less
    diverse (8 was the first of 1, 2, 4, 8 that drew 97 % of the digits as asked).
    """


# --- networks ---------------------------------------------------------------------------------------------------------


class Denoiser(Module):
    r"""``model(x_t, t, cond=None)`` -> $(\epsilon_\theta, v)$. ``cond``: labels (n,), ignored if ``classes`` is 0.

    The label's embedding is added to the time's, and so reaches the norms of every block.
    """

    def __init__(self, channels: int, classes: int, *, base: int, rng: Any, **settings: Any):
        self.unet = UNet(
            channels, 2 * channels, base=base, scale_shift=True, resample_in_blocks=True, rng=rng, **settings
        )
        self.embed = Embedding(classes, 4 * base, rng=rng) if classes else None

    def forward(self, x_t: Any, t: Any, cond: Any = None, *, rng: Any = None) -> tuple[Any, Any]:
        """(n, h, w, c), (n,), (n,) -> two of (n, h, w, c); ``rng``: dropout."""
        e = None if self.embed is None else self.embed(cond)
        return eps_and_v(self.unet(x_t, t, e, rng=rng))


class AttentionPool(Module):
    """A feature map as one vector, by attention: the query is the mean over pixels, the keys and values are of the mean
    and all pixels, with learned positions.
    """

    def __init__(self, pixels: int, channels: int, heads: int, *, rng: Any):
        self.positions = parameter(init.normal((1 + pixels, channels), channels**-0.5, rng))
        self.attention = Attention(channels, heads, c_context=channels, rng=rng)

    def forward(self, x: Any) -> Any:
        """(n, h, w, c) -> (n, c)."""
        n, h, w, c = x.shape
        rows = ag.reshape(x, (n, h * w, c))
        tokens = ag.concat([ag.mean(rows, 1, keepdims=True), rows], axis=1) + self.positions
        return ag.reshape(self.attention(tokens[:, :1], tokens), (n, c))


class NoisyClassifier(Module):
    """``classifier(x_t, t)`` -> logits (n, classes): the downward half of a U-Net, then attention pooling."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        base: int,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        attention: tuple[int, ...] = (1,),
        channels_per_head: int = 8,
        groups: int = 8,
        dropout: float = 0.0,
        rng: Any,
    ):
        h, w, c_in = shape
        c_time, last = 4 * base, len(multipliers) - 1

        def block(a: int, b: int, resample: Literal["down"] | None = None) -> ResBlock:
            return ResBlock(a, b, c_time, groups=groups, dropout=dropout, scale_shift=True, resample=resample, rng=rng)

        def attend(channels: int) -> PixelAttention:
            return PixelAttention(channels, heads_of(channels, channels_per_head), groups=groups, rng=rng)

        self.time = TimeEmbedding(base, c_time, rng=rng)
        self.conv_in = Conv2d(c_in, base, rng=rng)
        self.down: list[Module] = []
        c = base
        for level, multiplier in enumerate(multipliers):
            width = base * multiplier
            for _ in range(blocks):
                self.down.append(Stack(block(c, width), *([attend(width)] if level in attention else [])))
                c = width
            if level < last:
                self.down.append(Stack(block(c, c, "down")))
        self.middle = Stack(block(c, c), attend(c), block(c, c))
        self.norm = GroupNorm(c, groups, silu=True)
        self.pool = AttentionPool((h >> last) * (w >> last), c, heads_of(c, channels_per_head), rng=rng)
        self.head = Linear(c, classes, rng=rng)

    def forward(self, x_t: Any, t: Any, *, rng: Any = None) -> Any:
        """(n, h, w, c), (n,) -> (n, classes); ``rng``: dropout."""
        e = ag.silu(self.time(t, len(x_t)))
        h = self.conv_in(x_t)
        for part in [*self.down, self.middle]:
            h = part(h, e, rng)
        return self.head(self.pool(self.norm(h)))


# --- losses -----------------------------------------------------------------------------------------------------------


def hybrid_loss(
    denoiser: Callable[..., Any],
    x_0: Any,
    y: Any,
    t: Any,
    eps: Any,
    schedule: Schedule,
    levels: int,
    lam: float = 0.001,
) -> Any:
    r"""$L_{\text{hybrid}}$ (Nichol & Dhariwal 2021, eq. 16) of ``denoiser(x_t, t, y)`` for the times ``t`` (n,) and
    noise ``eps``: a scalar.
    """
    x_t = q_sample(x_0, t, eps, schedule)
    eps_theta, v = denoiser(x_t, t, y)
    return ag.mean(l_hybrid(x_0, x_t, t, eps, eps_theta, v, schedule, levels, lam))


def noisy_cross_entropy(
    classifier: Callable[..., Any], x_0: Any, y: Any, t: Any, eps: Any, schedule: Schedule
) -> tuple[Any, Any]:
    r"""$-\ln p_\phi(y \mid x_t)$ of $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$, averaged: a
    scalar; and the logits.
    """
    logits = classifier(q_sample(x_0, t, eps, schedule), t)
    return ag.mean(ag.cross_entropy(logits, array_module(ag.raw(logits)).asarray(y))), logits


# --- sampling ---------------------------------------------------------------------------------------------------------


def draw(
    denoiser: Callable[..., Any],
    classifier: Callable[..., Any] | None,
    x_T: Any,
    schedule: Schedule,
    *,
    steps: int,
    rng: Any,
    y: Any = None,
    guidance: str = "classifier",
    scale: float = 1.0,
    clip: float | None = 1.0,
    callback: Callable[[float, Any], None] | None = None,
    sampler: str | Callable[..., Any] = "ancestral",
    spacing: str | None = None,
    eta: float | None = None,
    variance: str | None = None,
) -> Any:
    r"""$x_0$ of the classes ``y`` (n,), over ``steps`` levels of the ``schedule`` that both networks were trained with.

    ``guidance``: "none"; "classifier", guided eps (algorithm 2), with any sampler; "mean" or "mean-at-x_t", a
    moved mean (section 4.1, algorithm 1), with ancestral sampling. All else is as in `sampling.draw`. Raises ValueError
    for settings that do not go together.
    """
    if guidance not in GUIDANCES:
        raise ValueError(f"guidance must be one of {', '.join(GUIDANCES)}, got {guidance!r}")
    common: dict[str, Any] = {"rng": rng, "clip": clip, "cond": y}
    how: dict[str, Any] = {"sampler": sampler, "spacing": spacing, "eta": eta, "variance": variance}
    if guidance == "none":
        return sampling.draw(denoiser, x_T, schedule, steps=steps, own="learned", callback=callback, **common, **how)
    if classifier is None:
        raise ValueError(f"guidance '{guidance}' needs a noisy classifier, and these weights have none")
    if y is None:
        raise ValueError(f"guidance '{guidance}' needs labels to guide to")
    if guidance == "classifier":
        guided = by_gradient(denoiser, label_log_p(classifier), schedule, scale)
        return sampling.draw(guided, x_T, schedule, steps=steps, own="learned", callback=callback, **common, **how)
    if sampler != "ancestral":
        raise ValueError(f"guidance '{guidance}' moves the mean of the sampler 'ancestral', got '{sampler}'")
    sampling.checked(schedule, steps, "ancestral", variance, eta, "learned")
    grid = sampling.levels(schedule, steps, spacing=spacing)
    x_0 = ancestral.sample(
        denoiser,
        x_T,
        grid,
        variance=variance or "learned",
        score=classifier_score(classifier, scale),
        score_at="mean" if guidance == "mean" else "x_t",
        callback=None if callback is None else (lambda t, x_t, x_0: callback(grid.times[t].item(), x_t)),
        **common,
    )
    return x_0 if clip is None else np.clip(x_0, -clip, clip)


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """Both networks and what `minigen train`, `sample` and `tour` do with them. Raises ValueError for settings that do not fit."""
    check(config, dataset)
    h, w, c = dataset.shape
    classes, levels = len(dataset.classes), dataset.levels or 256
    schedule = schedules.make(config.schedule, config.T)
    shared: dict[str, Any] = {
        "multipliers": config.multipliers,
        "blocks": config.blocks,
        "attention": config.attention,
        "channels_per_head": config.channels_per_head,
        "rng": np.random.default_rng(seed),
    }
    known = classes if config.conditional else 0
    denoiser = Denoiser(c, known, base=config.base, dropout=config.dropout, **shared)
    classifier = None
    if config.classifier_steps:
        classifier = NoisyClassifier(
            (h, w, c), classes, base=config.classifier_base, dropout=config.classifier_dropout, **shared
        )
    modules: dict[str, Any] = {"denoiser": denoiser} | ({} if classifier is None else {"classifier": classifier})
    labelled = config.conditional or classifier is not None

    def noised(images: Any, rng: Any) -> tuple[Any, Any, Any]:
        """Scaled pictures, with a time and a noise for each."""
        x_0 = array_module(denoiser.unet.conv_in.w.data).asarray(dataset.scale(images))
        t = rng.integers(1, schedule.T + 1, len(x_0))
        return x_0, t, array_module(x_0).asarray(rng.standard_normal(x_0.shape), x_0.dtype)

    def denoiser_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        x_0, t, eps = noised(batch.images, rng)
        y = batch.labels if config.conditional else None
        model = lambda x_t, t, y: denoiser(x_t, t, y, rng=rng)  # noqa: E731
        return hybrid_loss(model, x_0, y, t, eps, schedule, levels, config.lam), {}

    def classifier_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        assert classifier is not None
        x_0, t, eps = noised(shift(batch.images, rng=rng, p=config.classifier_shift), rng)
        model = lambda x_t, t: classifier(x_t, t, rng=rng)  # noqa: E731
        loss, logits = noisy_cross_entropy(model, x_0, batch.labels, t, eps, schedule)
        return loss, {"right": (to_numpy(ag.raw(logits)).argmax(1) == batch.labels).mean()}

    def stage(name: str, module: Module, loss: Any, steps: int, weight_decay: float) -> Stage:
        return Stage(
            name=name,
            objectives=[Objective(name, module, loss)],
            steps=steps,
            batch_size=config.batch_size,
            lr=config.lr,
            warmup=min(config.warmup, config.steps // 10),
            ema=config.ema,
            max_norm=config.max_norm,
            weight_decay=weight_decay,
            schedule="cosine",
        )

    def stages() -> list[Stage]:
        found = [stage("denoiser", denoiser, denoiser_loss, config.steps, config.weight_decay)]
        if classifier is not None:
            decay = config.classifier_weight_decay
            found.append(stage("classifier", classifier, classifier_loss, config.classifier_steps, decay))
        return found

    def asked(n: int, label: int | None) -> Any:
        """The classes of ``n`` samples, or None if no network knows the classes."""
        if label is None:
            return np.arange(n) % classes if labelled else None
        if not labelled:
            raise ValueError(f"label {label} needs a model that knows of classes: these weights have no classifier")
        if not 0 <= label < classes:
            raise ValueError(f"label must be from 0 to {classes - 1}, got {label}")
        return np.full(n, label)

    def sample(
        n: int,
        *,
        rng: Any,
        steps: int | None = None,
        callback: Any = None,
        label: int | None = None,
        guidance: str | None = None,
        scale: float = Sampling.scale,
        **how: Any,
    ) -> Any:
        """``n`` pictures in [-1, 1]; sample i is of class i modulo their number if ``label`` is left out."""
        guidance = ("none" if classifier is None else "classifier") if guidance is None else guidance
        if guidance == "none":
            sampling.check_belong("guidance 'none'", {"scale": scale}, {"scale": Sampling.scale})
        if (guidance == "none" or scale == 0) and not config.conditional and label is not None:
            raise ValueError(f"label {label} needs guidance: this denoiser was not told of classes (--conditional)")
        return draw(
            denoiser,
            classifier,
            array_module(denoiser.unet.conv_in.w.data).asarray(rng.standard_normal((n, h, w, c)), np.float32),
            schedule,
            steps=min(config.sample_steps, config.T) if steps is None else steps,
            rng=rng,
            y=asked(n, label),
            guidance=guidance,
            scale=scale,
            callback=callback,
            **how,
        )

    def notes(
        images: Any,
        *,
        label: int | None = None,
        guidance: str | None = None,
        scale: float = Sampling.scale,
        **settings: Any,
    ) -> list[str]:
        """The class that was asked for."""
        y = asked(len(images), label)
        guided = config.conditional or (classifier is not None and guidance != "none" and scale != 0)
        return [dataset.classes[i] for i in y] if guided else []

    def scales(split: Split, *, rng: Any) -> Any:
        """A row for each scale, a column for each class."""
        key = int(rng.integers(2**32))
        rows = [sample(classes, rng=np.random.default_rng(key), scale=scale) for scale in SCALES]
        return np.stack([to_numpy(row) for row in rows])

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """The bound over at most 128 test images, the classifier's accuracy on noisy test images, and the share of
        samples of the asked class.
        """
        x_0 = dataset.scale(dataset.test.images[:128])
        told = dataset.test.labels[:128] if config.conditional else None
        xp = array_module(denoiser.unet.conv_in.w.data)
        seen = sampling.on_host(lambda x_t, t: denoiser(x_t, t, told), xp)
        bound = variational_bound(seen, x_0, schedule, levels, rng=rng)
        found = {"bound, bits/dim": bound.total}
        if classifier is not None:
            x_0, y = dataset.scale(dataset.test.images), dataset.test.labels
            for t in sorted({1, schedule.T // 4, schedule.T // 2, 3 * schedule.T // 4} - {0}):
                x_t = q_sample(x_0, t, rng.standard_normal(x_0.shape).astype(np.float32), schedule)
                with ag.no_grad():
                    logits = sampling.on_host(classifier, xp)(x_t, np.full(len(x_t), t))
                found[f"classifier right at t = {t}"] = float((logits.argmax(1) == y).mean())
        if labelled:
            found["samples of the asked class, by the ruler"] = as_asked(dataset, sample(50 * classes, rng=rng))
        return found

    pictures = {} if classifier is None else {"scales": scales}
    return System(
        config, dataset.name, (h, w, c), modules, stages, sample, figures, pictures, notes if labelled else None
    )


def as_asked(dataset: Dataset, images: Any) -> float:
    """Share of the samples, of all classes in turn, that the ruler's classifier assigns to the asked class."""
    levels = dataset.scale(dataset.unscale(to_numpy(images)))
    guess = load_ruler(dataset).probabilities(levels).argmax(axis=1)
    return float((guess == np.arange(len(images)) % len(dataset.classes)).mean())


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    sampling.check_pictures(config, dataset)
    if config.classifier_steps < 0:
        raise ValueError(f"classifier_steps must be at least 0, got {config.classifier_steps}")
    if config.classifier_base < 1:
        raise ValueError(f"classifier_base must be at least 1, got {config.classifier_base}")
    if not dataset.classes and (config.conditional or config.classifier_steps):
        raise ValueError(
            f"a classifier and a conditional denoiser need labels, and the data set '{dataset.name}' has none: "
            "--classifier-steps 0 trains without"
        )
    if not config.lam >= 0:
        raise ValueError(f"lam must be at least 0, got {config.lam}")
    if not 0 <= config.classifier_shift <= 1:
        raise ValueError(f"classifier_shift must be from 0 to 1, got {config.classifier_shift}")
