r"""Classifier-free guidance. Ho & Salimans 2022, "Classifier-free diffusion guidance", arXiv 2207.12598.

Guidance without a classifier: one network learns both $p(x \mid c)$ and $p(x)$, because some of its training labels are
replaced by a null label. The difference between the two predictions is the effect of the label, and sampling
exaggerates it. No second network is trained, and no gradient is needed to sample.

| symbol | code | shape |
|---|---|---|
| $\epsilon_\theta(x_t, c)$ | ``model(x_t, t, y)``, labels ``y`` from 0 to classes - 1 | like $x_t$ |
| $\epsilon_\theta(x_t) = \epsilon_\theta(x_t, \varnothing)$ | the same with ``y`` = ``null`` = classes, the embedding's last row | like $x_t$ |
| $p_{\text{uncond}}$ | ``p_uncond`` | |
| | ``dropped``, which samples lose their label | (n,) bool |
| $w$ | ``scale - 1`` | |

$$\mathbb E \big\| \epsilon_\theta(x_t, c') - \epsilon \big\|^2, \quad c' = \varnothing \text{ with probability } p_{\text{uncond}}, \text{ else } c \qquad \text{(algorithm 1)}$$
$$\tilde\epsilon_t = (1 + w)\, \epsilon_\theta(x_t, c) - w\, \epsilon_\theta(x_t) = \epsilon_\theta(x_t) + s\, (\epsilon_\theta(x_t, c) - \epsilon_\theta(x_t)), \quad s = 1 + w \qquad (6)$$

``--scale`` is $s$: 0 ignores the label, 1 is the conditional model, more is guidance. Later papers use $s$; this one's
strengths are $w = s - 1$.

Unlike the paper, which draws $\log \mathrm{SNR}$ from a continuous range and samples with a variance interpolated
between $\tilde\beta_t$ and $\beta_t$ on a logarithmic scale: here times are the $1 \dots T$ of `models/ddpm.py`, and
the variance is one of the two.

You need: `models/ddpm.py` ($L_{\text{simple}}$, the bound), `samplers/classifier_free.py` (eq. 6). New here: dropping
labels.

Details that matter, and the tests that guard them (tests/minigen/models/test_classifier_free.py):
- labels are dropped PER SAMPLE, not per batch, and nothing else is dropped;
- the null label has a trained embedding of its own, neither class 0 nor zeros;
- $\hat x_0$ is clipped AFTER guidance; clipping the two predictions first could undo or exaggerate it;
- samples without an asked class are drawn with all labels in turn, not with the null label, which only a tenth of the
  training samples had.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.maths.schedules import Schedule
from minigen.nn import Embedding, Module, UNet
from minigen.samplers.classifier_free import classifier_free

from . import sampling
from .adm import as_asked
from .ddpm import l_simple, variational_bound
from .system import Objective, Stage, System

TITLE = "Classifier-free guidance"
PAPER = "Ho & Salimans 2022, arXiv 2207.12598"
EQUATION = "ε̃ = (1 + w) ε_θ(x_t, c) − w ε_θ(x_t)"
DATA_SETS = ("digits", "mnist", "binary-mnist", "folder")  # with classes
TOUR: dict[str, Any] = {"steps": 1000}
PRESETS: dict[str, dict[str, Any]] = {"mnist": {"multipliers": (1, 2, 2), "optimiser": "muon", "lr": 4e-3}}
PICTURES = {
    "scales": "a class per column, guided more strongly from row to row (s = 0, 1, 2, 4, 8), from the same noise"
}
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Config:
    """Settings of the run. The defaults draw 8x8 digits after about two minutes on two cores."""

    p_uncond: float = 0.1
    """Share of training samples that lose their label; the paper finds 0.1 and 0.2 equally good and 0.5 worse."""
    T: int = 200
    """Length of the noising chain."""
    schedule: Literal["linear", "scaled-linear", "cosine", "sigmoid"] = "cosine"
    """Noise schedule."""
    variance: Literal["small", "large"] = "small"
    """Variance of a reverse step of ancestral sampling: "small" (beta tilde) or "large" (beta)."""
    sample_steps: int = 20
    """Levels that sampling visits; T or more visits all."""
    base: int = 24
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels at each resolution, in units of base; each level halves the size."""
    blocks: int = 1
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[int, ...] = ()
    """Levels with attention over their pixels, besides the middle; 0 is full resolution."""
    heads: int = 2
    """Attention heads."""
    dropout: float = 0.0
    """Share of features dropped in every residual block while training."""
    steps: int = 2500
    """Training steps."""
    batch_size: int = 64
    """Pictures per step."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """The optimiser. Muon learns faster, at twice the rate (`models/ddpm.py`)."""
    lr: float = 2e-3
    """Its peak learning rate; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    warmup: int = 100
    """Steps over which the learning rate rises; at most a tenth of all steps."""
    ema: float = 0.999
    """Decay of the averaged weights that samples are drawn with."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""


@dataclass(frozen=True)
class Sampling(sampling.Sampling):
    """Settings of the samples."""

    label: int | None = None
    """The class of all samples; if left out, all classes in turn."""
    scale: float = 1.25
    """s of eq. 6: 0 ignores the label, 1 is the conditional model, more is clearer classes and less diversity."""
    away_from: int | None = None
    """A class to move away from, in place of the null label (a negative prompt)."""
    rescale: float = 0.0
    """How much of the contrast that guidance adds is removed (Lin et al. 2023, 2305.08891), from 0 to 1."""


class LabelledUNet(Module):
    """``model(x_t, t, y)`` -> eps: the label's embedding is added to the time's.

    Labels are 0 to classes - 1, and ``null`` = classes.
    """

    def __init__(self, channels: int, classes: int, *, base: int, rng: Any, **settings: Any):
        self.unet = UNet(channels, channels, base=base, rng=rng, **settings)
        self.embed = Embedding(classes + 1, 4 * base, rng=rng)
        self.null = classes

    def forward(self, x_t: Any, t: Any, y: Any, *, rng: Any = None) -> Any:
        """(n, h, w, c), (n,), (n,) -> (n, h, w, c); ``rng``: dropout."""
        return self.unet(x_t, t, self.embed(y), rng=rng)


# --- the loss ---------------------------------------------------------------------------------------------------------


def without_labels(y: Any, dropped: Any, null: int) -> Any:
    """``y`` (n,) with ``null`` where ``dropped`` (n,), as a new array."""
    return np.where(dropped, null, y)


def conditional_loss(model: Callable[..., Any], x_0: Any, y: Any, t: Any, eps: Any, schedule: Schedule) -> Any:
    r"""$L_{\text{simple}}$ of ``model(x_t, t, y)`` for times ``t`` (n,), noise ``eps`` and labels ``y`` (n,), some of
    them null: a scalar.
    """
    return l_simple(eps, model(q_sample(x_0, t, eps, schedule), t, y))


def training_loss(
    model: Callable[..., Any], x_0: Any, y: Any, null: int, p_uncond: float, schedule: Schedule, rng: Any
) -> Any:
    """Algorithm 1. Draws, for each sample: whether its label is dropped, a time, a noise."""
    y = without_labels(y, rng.random(len(x_0)) < p_uncond, null)
    t = rng.integers(1, schedule.T + 1, len(x_0))
    eps = array_module(x_0).asarray(rng.standard_normal(x_0.shape), x_0.dtype)
    return conditional_loss(model, x_0, y, t, eps, schedule)


# --- training and sampling --------------------------------------------------------------------------------------------


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The network and what `minigen train`, `sample` and `tour` do with it. Raises ValueError for settings that do not fit."""
    check(config, dataset)
    h, w, c = dataset.shape
    classes = len(dataset.classes)
    schedule = schedules.make(config.schedule, config.T)
    model = LabelledUNet(
        c,
        classes,
        base=config.base,
        multipliers=config.multipliers,
        blocks=config.blocks,
        attention=config.attention,
        heads=config.heads,
        dropout=config.dropout,
        rng=np.random.default_rng(seed),
    )

    def to_device(a: Any) -> Any:
        return array_module(model.embed.table.data).asarray(a, np.float32)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        def told(x_t: Any, t: Any, y: Any) -> Any:
            return model(x_t, t, y, rng=rng)

        x_0 = to_device(dataset.scale(batch.images))
        return training_loss(told, x_0, batch.labels, model.null, config.p_uncond, schedule, rng), {}

    def stages() -> list[Stage]:
        return [
            Stage(
                name="classifier_free",
                objectives=[Objective("eps", model, loss)],
                steps=config.steps,
                batch_size=config.batch_size,
                lr=config.lr,
                warmup=min(config.warmup, config.steps // 10),
                ema=config.ema,
                max_norm=config.max_norm,
                weight_decay=config.weight_decay,
                schedule="cosine",
                optimiser=config.optimiser,
                apart=("unet.conv_in", "unet.conv_out"),
            )
        ]

    def asked(n: int, label: int | None) -> Any:
        """The classes of ``n`` samples: sample i is of class i modulo their number if ``label`` is left out."""
        return np.arange(n) % classes if label is None else np.full(n, checked("label", label))

    def checked(name: str, label: int) -> int:
        if not 0 <= label < classes:
            raise ValueError(f"{name} must be from 0 to {classes - 1}, got {label}")
        return label

    def sample(
        n: int,
        *,
        rng: Any,
        steps: int | None = None,
        callback: Any = None,
        label: int | None = None,
        scale: float = Sampling.scale,
        away_from: int | None = None,
        rescale: float = 0.0,
        **how: Any,
    ) -> Any:
        """``n`` pictures in [-1, 1]."""
        y = asked(n, label)
        if scale == 0 and label is not None:
            raise ValueError(f"label goes with guidance: with scale 0 the model draws whatever it likes, got {label}")
        null = model.null if away_from is None else checked("away_from", away_from)
        guided = classifier_free(model, scale, null, rescale=rescale)
        x_T = to_device(rng.standard_normal((n, h, w, c)))
        steps = min(config.sample_steps, config.T) if steps is None else steps
        of = {"steps": steps, "own": config.variance, "callback": callback}
        return sampling.draw(guided, x_T, schedule, rng=rng, cond=y, **of, **how)

    def notes(images: Any, *, label: int | None = None, scale: float = Sampling.scale, **settings: Any) -> list[str]:
        """The class that was asked for; none with scale 0."""
        if scale == 0:
            return []
        return [dataset.classes[i] for i in asked(len(images), label)]

    def scales(split: Split, *, rng: Any) -> Any:
        """A row for each scale, a column for each class."""
        key = int(rng.integers(2**32))
        return np.stack([to_numpy(sample(classes, rng=np.random.default_rng(key), scale=scale)) for scale in SCALES])

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """The bound over at most 128 test images, with and without labels, and the share of asked classes drawn."""
        some = dataset.test.take(slice(0, 128))
        found = {}
        for what, y in (("with labels", some.labels), ("without", np.full(len(some), model.null))):
            bound = variational_bound(
                sampling.on_host(lambda x_t, t, y=y: model(x_t, t, y), array_module(model.embed.table.data)),
                dataset.scale(some.images),
                schedule,
                dataset.levels or 256,
                rng=rng,
                variance=config.variance,
            )
            found[f"bound {what}, bits/dim"] = bound.total
        for scale in (1.0, Sampling.scale):
            share = as_asked(dataset, sample(50 * classes, rng=rng, scale=scale))
            found[f"samples of the asked class, by the ruler, scale {scale:g}"] = share
        return found

    return System(config, dataset.name, (h, w, c), {"model": model}, stages, sample, figures, {"scales": scales}, notes)


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    sampling.check_pictures(config, dataset)
    if not dataset.classes:
        raise ValueError(f"classifier-free guidance needs labels, and the data set '{dataset.name}' has none")
    if not 0 < config.p_uncond <= 1:
        raise ValueError(
            f"p_uncond must be above 0, or the null label is never trained, and at most 1, got {config.p_uncond}"
        )
