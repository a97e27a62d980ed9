r"""DiffusionCLIP. Kim, Kwon & Ye 2021, "DiffusionCLIP: text-guided diffusion models for robust image manipulation",
arXiv 2110.02711.

An unconditional diffusion model is run backwards: a picture becomes the noisy $x_{t_0}$ from which DDIM draws that
picture again. A copy of the network is then tuned, through the walk down, until in CLIP's space its output differs from
the picture as one sentence differs from another. The copy has learnt an edit, and applies it to pictures it has never
seen.

| symbol | code | shape |
|---|---|---|
| $x_0$, $x_{t_0}$ | ``x_0``, ``x_t`` | (n, h, w, c), data in $[-1, 1]$ |
| $\hat x_0(\theta)$ | ``x_hat``, the tuned network's result from $x_{t_0}$ | like $x_0$ |
| $\Delta I = E_I(\hat x_0) - E_I(x_0)$, of colours $E_I(g + \alpha c) - E_I(x_0)$ | ``d_image`` | (n, d) |
| $\Delta T = E_T(y_{tar}) - E_T(y_{ref})$ | ``d_text`` | (n, d) |
| $K$, pixels that the edit should not change | ``still.pixels`` | (n, h, w, 1) |
| $\alpha$, the silhouette of $x_0$ | ``still.outline`` | (n, h, w, 1) |
| $g$, $c$: mean colour of the background of $\hat x_0$, contrast of its thing | ``of_two_colours`` | (n, 1, 1, c) |
| $c_{min}$, the smallest $\|c\|$ of the training pictures | ``least`` | a number |
| $m_k$: mean colour of the thing in picture k; $\bar m$: mean over the batch | ``colour`` | (n, 1, 1, c) |
| $t_0$, $S$: how far up, in how many steps | ``t_0``, ``levels.T`` | |
| $\gamma_i$ | ``strengths`` of the edits | |

The numbers of the equations are this file's.

$$L_{dir} = 1 - \frac{\langle \Delta I, \Delta T \rangle}{\|\Delta I\| \|\Delta T\|} \qquad (1)$$
$$L = L_{dir} + \lambda_{L1} |x_0 - \hat x_0| + \lambda_{id}\, |x_0 - \hat x_0|_K + \lambda_{far} L_{far}
+ \lambda_{out} L_{out} + \lambda_{one} L_{one} + \lambda_{prior} \|\hat x_0 - f_{base}(x_t, t)\|^2 \qquad (2)$$
$$L_{far} = \max\Big(0,\; 1 - \frac{\langle \Delta I, \Delta T \rangle}{\|\Delta T\|^2}\Big) \qquad (3)$$
$$L_{out} = \frac{\sum_{i \notin K} \|\hat x_{0,i} - g - \alpha_i c\|^2}{\max(\|c\|, c_{min})^2 \sum_i \alpha_i^2}, \quad
c = \frac{\sum_i \alpha_i (\hat x_{0,i} - g)}{\sum_i \alpha_i^2} \qquad (4)$$
$$L_{one} = \frac1n \sum_k \|m_k - \bar m\|^2 \qquad (5)$$
$$\tilde\epsilon(x_t, t) = \sum_i \gamma_i\, \epsilon_{\theta_i}(x_t, t), \quad \sum_i \gamma_i = 1 \qquad (6)$$

The paper has the first three terms of (2), the third being a distance between faces. Here $K$, the background if a
thing is edited and the thing if the background is, and the outline must stay, as far as the picture itself shows them
(`untouched`).

**What differs from the paper.** (1) ignores the length of the change: pictures of this world that hardly change, and
grey in place of blue, already have the right direction, so (3) asks for the text's length as well. A small CLIP also
rewards patterns that no eye would see. So for an edit of a colour it sees the old silhouette in two colours,
$g + \alpha c$, which leaves no room for patterns, and (4), the share of the thing that deviates, keeps the picture
near that (a fading thing counts as if it had the contrast $c_{min}$). Near the right colour CLIP's direction is flat:
by (5), for things, a word means one colour, whatever the old one was, and the last term of (2) holds $\hat x_0$
near the untuned network's denoising of it
($x_t = \sqrt{\bar\alpha_t}\, \hat x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$, no gradient through $f_{base}$: Poole et
al. 2022, 2209.14988). The weights of (4), (5) and of the prior rise from 0 during tuning: the way from orange to blue
on grey leads past grey, and that from black to white through greys that the untuned network has never seen and partly
undoes. An edit is a word ("blue"), $y_{ref}$ is the training picture's own caption and $y_{tar}$ that caption with the
word in it, so that $\Delta T$ names this change and no other. Tuning uses nothing but captions, the source pictures and
CLIP; the oracle only measures. In (6) the untuned network is part of the sum, with the remaining $\gamma$, which may be
negative: two edits of strength 1 are both made in full. The networks predict $x_0$.

**What it took.** Share of correct edits, with all else unchanged, of at least 300 test pictures of one thing, by the
oracle; several numbers in a cell are of one training seed each:

| CLIP sees | $\lambda_{prior}$ | levels | blue | white | both at once |
|---|---|---|---|---|---|
| the picture | 20 throughout | 2 | .87 | .48 (none from black) | .02 |
| the picture | rising to 40 | 2 | .88 | .96 | .09 |
| the picture | rising to 40 | 1 | .95, .99 | .98, .00 (all black) | .87, .00 |
| two colours | 0 | 1 | .71, .93 | .99 on the second | |
| two colours, without (5) | rising to 40 | 1 | .76 | | |
| two colours, without (3) | rising to 40 | 1 | .99, .99 | .98, .52 | |
| two colours: the defaults | rising to 40 | 1 | .99, .98, .99 | .99, .98, .98 | .96, .96, .97 |

From a black background to a white one, (1) and (3) fall all the way, by .16 and .05 over its first eighth. There the
untuned network undoes 40 percent of the change, and 20 times the square of what it undoes is .24, more than the gain.
And where two edits are summed at a second level, each network gets a picture that the other has half changed, which it
has never seen in tuning; at the first level, their predictions add up. Tried when CLIP still saw the picture: noise on
its input (.46 of the blue edits), the walk from $t_0 = 100$ in four levels (.32).

You need: `samplers/ddim.py` (both walks), `models/clip.py`, `diffusionclip_losses.py` (the equations). New here: a
gradient through a sampler. `diffusionclip_figures.py` measures the edits and shows them.

Details that matter, and the tests that guard them (tests/minigen/models/test_diffusionclip.py):
- the walk up visits the levels of the walk down, and is not clipped: otherwise they would not be inverse;
- an unchanged picture has no direction: 0 / 0 is caught, with a finite gradient;
- texts are normalised before AND after the mean over openings, which changes their difference;
- ``"full"`` tuning keeps the tape of all levels, ``"per_step"`` that of one level, drawn at random and reached
  without a tape (the paper's GPU-efficient tuning updates the weights after each level in turn): with one level they
  are the same;
- a copy is tuned, made when its stage begins: the untuned network stays as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, captions
from minigen.data.captions import Scene, attribute, canonical, parse, rewritten
from minigen.data.oracle import read as read_pictures
from minigen.data.oracle import verdicts
from minigen.maths import schedules
from minigen.maths.diffusion import eps_from_x_0, q_sample
from minigen.maths.schedules import Schedule
from minigen.nn import Module, UNet, fold, unfold
from minigen.samplers import ddim

from . import clip, diffusionclip_figures, glide, sampling
from .diffusionclip_figures import asked_of
from .diffusionclip_losses import Still, l_edit, of_two_colours, untouched
from .system import Objective, Stage, System

TITLE = "DiffusionCLIP"
PAPER = "Kim, Kwon & Ye 2021, arXiv 2110.02711"
EQUATION = "L = 1 − cos(E_I(x̂₀) − E_I(x₀), E_T(target) − E_T(source)) + λ‖x₀ − x̂₀‖₁ + λ_id L_id"
DATA = "shapes"
REUSES_CLIP = True
TOUR: dict[str, Any] = {"clip_steps": 200, "steps": 400, "tune_steps": 40, "pictures": 64}
PICTURES = {
    "edits": "test pictures, their round trips to the noise and back, and every edit",
    "mixed": "test pictures, the first edit, the last one, and both at once",
}
OUTPUT = "x_0"  # what the networks predict
BLOCK = 64  # pictures that are processed at once
WEIGHTS = ("l1", "identity", "far", "outline", "same", "prior")
RISING = ("outline", "same", "prior")  # weights that rise from 0 during tuning


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    edits: tuple[str, ...] = ("blue", "white")
    """The edits, each a word with a network of its own: a colour, shape or size of the thing, or a background."""
    T: int = 200
    """Length of the noising chain."""
    sample_steps: int = 25
    """Levels that sampling visits, when pictures are drawn from pure noise; T or more visits all."""
    patch: int = 4
    """Side of the squares of pixels that become one pixel with more channels before the first convolution."""
    base: int = 64
    """Channels of the U-Net."""
    multipliers: tuple[int, ...] = (1, 1)
    """Channels at each resolution, in units of base; each level halves the size."""
    heads: int = 4
    """Attention heads in its middle."""
    edges: float = 4.0
    """Weight of the error in the differences of neighbouring pixels, which carry the shapes."""
    most: float = 5.0
    """Largest weight of a time; below it the weight is SNR + 1, that of the squared error of v."""
    steps: int = 1200
    """Training steps of the diffusion model."""
    batch_size: int = 16
    """Pictures per step of the diffusion model."""
    lr: float = 4e-3
    """Peak learning rate of Muon and AdamW in the diffusion model's stage; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay in that stage."""
    ema: float = 0.99
    """Decay of its averaged weights."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""
    clip_steps: int = 1200
    """Training steps of CLIP; 0 if a trained one is given, with --clip FILE."""
    t_0: int = 40
    """Time up to which pictures are noised for an edit."""
    levels: int = 1
    """Steps up to t_0, and the same down again; with more than one, two edits at once do not add up."""
    iterations: int = 1
    """Corrections of each step up, by the network's prediction at its end."""
    tuning: Literal["full", "per_step"] = "per_step"
    """Gradient through all levels of the walk down, or at one random level of it with a fraction of the memory."""
    pictures: int = 512
    """Training pictures that an edit is learnt from."""
    tune_steps: int = 700
    """Training steps of each edit."""
    tune_batch: int = 8
    """Pictures per step in tuning."""
    tune_lr: float = 4e-3
    """Peak learning rate of tuning; falls along a cosine."""
    l1: float = 0.0
    """Weight of the mean change of all pixels."""
    identity: float = 5.0
    """Weight of the mean change of the pixels that the edit should not change."""
    far: float = 1.0
    """Weight of what the change lacks of the text's length (eq. 3); 0 for the paper's loss."""
    outline: float = 16.0
    """Weight, at the end of tuning, of the deviation from the silhouette in two colours (eq. 4), in edits of colours
    and backgrounds; 0 for the paper's loss.
    """
    same: float = 2.0
    """Weight, at the end of tuning, of the spread of the asked colour over a step's pictures (eq. 5), in edits of
    colours; 0 for the paper's loss.
    """
    prior: float = 40.0
    """Weight, at the end of tuning, of the distance to the untuned network's denoising of the noised edit; 0 for
    the paper's loss.
    """
    prior_time: int = 40
    """The time of that noise is uniform up to this one."""


@dataclass(frozen=True)
class Sampling(sampling.Sampling):
    """Settings of sampling, with which the untuned network draws pictures from pure noise; --edit asks for edits, and
    goes with none of the others.
    """

    edit: tuple[str, ...] = ()
    """Apply these edits, all at once, to validation pictures instead."""


@dataclass(frozen=True)
class Editing:
    """Settings of editing. All --n results are the same unless eta is above 0."""

    edit: tuple[str, ...] = ("blue",)
    """What to change, in the words that the system was trained with; several are made at once."""
    strength: tuple[float, ...] = ()
    """Strength of each edit: 1 is as tuned, 0 not at all. All 1 if left out."""
    t_0: int | None = None
    """Time up to which the picture is noised, that of tuning if left out; 0 leaves it as it is."""
    eta: float = 0.0
    """Noise on the way down, from 0, none, to 1, as much as ancestral sampling."""


# --- the texts --------------------------------------------------------------------------------------------------------


def told(embedder: clip.Embedder, scenes: Sequence[Scene]) -> Any:
    """$E_T$ (n, d) of the scenes' captions, each the ensemble of the openings."""
    texts = [opening + canonical(scene) for scene in scenes for opening in captions.OPENINGS]
    return clip.ensemble(embedder.encode_text(texts).reshape(len(scenes), len(captions.OPENINGS), -1))


# --- there and back ---------------------------------------------------------------------------------------------------


class Denoiser(Module):
    """A U-Net over blocks of patch x patch pixels: ``model(x_t, t)`` (n, h, w, c) predicts $x_0$."""

    def __init__(self, c: int, *, patch: int, base: int, multipliers: tuple[int, ...], heads: int, rng: Any):
        self.patch = patch
        of = patch * patch * c
        self.unet = UNet(of, of, base=base, multipliers=multipliers, blocks=1, attention=(), heads=heads, rng=rng)

    def forward(self, x_t: Any, t: Any, cond: Any = None) -> Any:
        """The prediction of the clean picture, like ``x_t``; ``cond`` is ignored."""
        return unfold(self.unet(fold(x_t, self.patch), t), self.patch)


def network(config: Config, dataset: Dataset, *, rng: Any) -> Denoiser:
    """An untrained network."""
    c, patch, base = dataset.shape[2], config.patch, config.base
    return Denoiser(c, patch=patch, base=base, multipliers=config.multipliers, heads=config.heads, rng=rng)


def levels_to(schedule: Schedule, t_0: int, steps: int) -> Schedule:
    """The ``steps`` levels up to ``t_0``, evenly spread: the common grid of the walks up and down."""
    return schedules.spaced(schedule.up_to(t_0), steps)


def encode(model: Callable[..., Any], x_0: Any, levels: Schedule, *, iterations: int = 0) -> Any:
    r"""$x_{t_0}$ of ``x_0`` (n, h, w, c): `ddim.encode`, nothing clipped."""
    return ddim.encode(model, x_0, levels, iterations=iterations, kind=OUTPUT)


def walk(model: Callable[..., Any], x_t: Any, levels: Schedule, last: int = 0) -> Any:
    r"""From $x_{t_0}$ down to the level ``last``: the steps of `ddim.sample` without noise, on the tape if there is one."""
    xp, n = array_module(ag.raw(x_t)), len(x_t)
    for t in range(levels.T, last, -1):
        x_0 = model(x_t, xp.full(n, levels.times[t]))
        x_t = ddim.step(x_0, eps_from_x_0(x_t, t, x_0, levels), t, t - 1, None, levels, eta=0.0)
    return x_t


def tuned_guess(model: Callable[..., Any], x_T: Any, levels: Schedule, tuning: str, *, rng: Any) -> Any:
    r"""$\hat x_0(\theta)$ on the tape: the end of the whole walk ("full"), or the prediction at one level ("per_step").

    "per_step" draws the level by ``rng.integers(1, S + 1)``, walks there without a tape, and records one call.
    """
    if tuning == "full":
        return walk(model, x_T, levels)
    level = int(rng.integers(1, levels.T + 1))
    with ag.no_grad():
        x_t = ag.raw(walk(model, x_T, levels, level))
    return model(x_t, array_module(x_t).full(len(x_t), levels.times[level]))


def mixed(models: Sequence[Callable[..., Any]], strengths: Sequence[float], base: Callable[..., Any]) -> Any:
    r"""Eq. 6 as one model: $\sum_i \gamma_i f_i$, with $\gamma_0 = 1 - \sum_{i > 0} \gamma_i$ for ``base``.

    As the $\gamma$ add up to 1, predictions of $x_0$ and of $\epsilon$ give the same. Networks of strength 0 are not
    evaluated.
    """
    if len(models) != len(strengths):
        raise ValueError(f"there must be a strength for each edit, got {len(strengths)} for {len(models)}")
    if not np.isfinite(strengths).all():
        raise ValueError(f"strengths must be finite, got {', '.join(map(str, strengths))}")
    parts = [(g, f) for g, f in zip([*strengths, 1.0 - sum(strengths)], [*models, base]) if g != 0]
    if len(parts) == 1:
        return parts[0][1]

    def model(x_t: Any, t: Any, cond: Any = None) -> Any:
        first, *others = (g * ag.raw(f(x_t, t)) for g, f in parts)
        return sum(others, first)

    return model


def edited(
    system: System,
    x_0: Any,
    edit: Sequence[str],
    *,
    strength: Sequence[float] = (),
    t_0: int | None = None,
    eta: float = 0.0,
    rng: Any = None,
) -> Any:
    """``x_0`` (n, h, w, c) with all the edits at once; without any, the round trip. ``rng`` only if eta is above 0."""
    config, base = system.config, system.modules["diffusion"]
    unknown = [word for word in edit if word not in config.edits]
    if unknown:
        raise ValueError(f"edit must be of {', '.join(config.edits)} with these weights, got {unknown[0]!r}")
    if len(set(edit)) < len(edit):
        raise ValueError(f"edit must name each edit once, got {', '.join(edit)}")
    model = mixed([system.modules[f"edit_{word}"] for word in edit], strength or [1.0] * len(edit), base)
    ddim.check_eta(eta, rng)
    t_0 = config.t_0 if t_0 is None else t_0
    if not 0 <= t_0 <= config.T:
        raise ValueError(f"t_0 must be from 0 to {config.T}, got {t_0}")
    if t_0 == 0:
        return x_0.copy()
    steps = -(-config.levels * t_0 // config.t_0)  # of the same length as in tuning
    levels, found = levels_to(schedules.cosine(config.T), t_0, steps), []
    for i in range(0, len(x_0), BLOCK):
        x_T = encode(base, x_0[i : i + BLOCK], levels, iterations=config.iterations)
        found.append(ddim.sample(model, x_T, levels, rng=rng, eta=eta, kind=OUTPUT))
    return np.clip(array_module(x_0).concatenate(found), -1, 1)


# --- learning an edit -------------------------------------------------------------------------------------------------


def pictures_to_learn(split: Split, word: str, n: int) -> tuple[Any, list[Scene]]:
    """The first ``n`` pictures of one thing whose caption names another value of the word's attribute; their scenes."""
    images: list[Any] = []
    scenes: list[Scene] = []
    for start in range(0, len(split), 512):
        some = split.take(slice(start, start + 512))
        for image, text in zip(some.images, some.captions or ()):
            scene = parse(text)
            if len(scene.things) == 1 and rewritten(scene, word) != scene:
                images.append(image)
                scenes.append(scene)
        if len(scenes) >= n:
            break
    return np.stack(images[:n]), scenes[:n]


class Lesson(NamedTuple):
    """What an edit is learnt from, computed once: pictures (n, ...), latents, embeddings, and what should stay."""

    x_0: Any
    x_T: Any
    e_0: Any  # (n, d), E_I of the pictures
    e_ref: Any  # (n, d), E_T of their captions
    e_tar: Any  # (n, d), E_T of their captions with the word in them
    still: Still
    least: float  # the smallest contrast of the pictures

    def rows(self, at: Any) -> "Lesson":
        """The same for some of the pictures."""
        still = Still(*(None if part is None else part[at] for part in self.still))
        vectors = {name: getattr(self, name)[at] for name in ("x_0", "x_T", "e_0", "e_ref", "e_tar")}
        return self._replace(still=still, **vectors)


def directional(e_hat: Any, of: Lesson) -> tuple[Any, Any]:
    r"""$\Delta I, \Delta T$: what eq. 1 compares."""
    return e_hat - of.e_0, of.e_tar - of.e_ref


def tuning_loss(
    net: Denoiser,
    word: str,
    *,
    base: Denoiser,
    clip_net: clip.CLIP,
    config: Config,
    dataset: Dataset,
    aim: Callable[[Any, Lesson], tuple[Any, Any]] = directional,
) -> Callable[..., Any]:
    """The loss of a stage in which ``net``, a copy of ``base`` made when the stage begins, learns an edit; ``aim``
    returns the two directions that eq. 1 compares.
    """
    schedule, embedder, learnt = schedules.cosine(config.T), clip.Embedder(clip_net), list[Lesson]()
    levels = levels_to(schedule, config.t_0, config.levels)
    weights = {name: getattr(config, name) for name in WEIGHTS}

    def device(a: Any) -> Any:
        return array_module(base.unet.conv_in.w.data).asarray(a)

    def lesson() -> Lesson:
        images, scenes = pictures_to_learn(dataset.train, word, config.pictures)
        x_0 = device(dataset.scale(images))
        blocks = [x_0[i : i + BLOCK] for i in range(0, len(x_0), BLOCK)]
        x_T = array_module(x_0).concatenate(
            [encode(base, block, levels, iterations=config.iterations) for block in blocks]
        )
        e_tar = told(embedder, [rewritten(scene, word) for scene in scenes])
        still = untouched(x_0, word)
        least = 1.0 if still.outline is None else float(np.sqrt(np.square(of_two_colours(x_0, still)[0]).sum(-1)).min())
        return Lesson(x_0, x_T, embedder.encode_image(x_0), told(embedder, scenes), e_tar, still, least)

    def renoised(x: Any, rng: Any) -> Any:
        """The untuned network's denoising of ``x`` after adding noise."""
        t = rng.integers(1, config.prior_time + 1, len(x))
        x_t = q_sample(x, t, device(rng.standard_normal(x.shape).astype(np.float32)), schedule)
        with ag.no_grad():
            return ag.raw(base(x_t, t))

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        if step == 0:
            net.flat[...] = base.flat
        if not learnt:
            learnt.append(lesson())  # now, because base has been trained by now
        of = learnt[0].rows(rng.integers(0, len(learnt[0].x_0), config.tune_batch))
        x_hat = tuned_guess(net, of.x_T, levels, config.tuning, rng=rng)
        plain = x_hat if of.still.outline is None else x_hat - of_two_colours(x_hat, of.still)[1]
        d_image, d_text = aim(clip_net.embed_image(plain), of)
        natural = renoised(ag.raw(x_hat), rng) if config.prior else None
        now = weights | {name: weights[name] * step / config.tune_steps for name in RISING}
        value, terms = l_edit(of.x_0, x_hat, d_image, d_text, of.still, natural, **now, least=of.least)
        return value, {name: float(term.data) for name, term in terms.items()}

    return loss


def tuning_stage(name: str, net: Denoiser, loss: Callable[..., Any], config: Config) -> Stage:
    """The stage of one edit."""
    return stage(name, net, loss, config, steps=config.tune_steps, lr=config.tune_lr, warmup=10, batch_size=1)


def stage(
    name: str,
    net: Denoiser,
    loss: Callable[..., Any],
    config: Config,
    *,
    steps: int,
    lr: float,
    warmup: int,
    **more: Any,
) -> Stage:
    """How each network except CLIP is trained by a ``loss(batch, rng, step)``."""
    return Stage(
        name=name,
        objectives=[Objective("x_0", net, loss)],
        steps=steps,
        lr=lr,
        warmup=min(warmup, steps // 10),
        max_norm=config.max_norm,
        betas=(0.9, 0.99),
        schedule="cosine",
        optimiser="muon",
        apart=("unet.conv_in", "unet.conv_out"),
        **more,
    )


# --- the system -------------------------------------------------------------------------------------------------------


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The networks and what `minigen train`, `sample`, `edit` and `tour` do with them.

    Raises ValueError for settings that do not fit.
    """
    check(config, dataset)
    rng = np.random.default_rng(seed)
    schedule = schedules.cosine(config.T)
    of_clip = clip.Config(steps=max(1, config.clip_steps))
    clip_net = clip.CLIP(dataset.shape, of_clip, rng=rng)

    base, *others = (network(config, dataset, rng=rng) for _ in ("base", *config.edits))
    tuned = dict(zip(config.edits, others))

    def device(a: Any) -> Any:
        return array_module(base.unet.conv_in.w.data).asarray(a)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        return glide.training_loss(base, device(dataset.scale(batch.images)), schedule, config, rng), {}

    def stages() -> list[Stage]:
        found = [clip.stage(clip_net, of_clip, dataset)] if config.clip_steps else []
        kept: dict[str, Any] = {"batch_size": config.batch_size, "ema": config.ema, "weight_decay": config.weight_decay}
        found.append(stage("diffusion", base, loss, config, steps=config.steps, lr=config.lr, warmup=100, **kept))
        for word, net in tuned.items():
            learning = tuning_loss(net, word, base=base, clip_net=clip_net, config=config, dataset=dataset)
            found.append(tuning_stage(f"edit_{word}", net, learning, config))
        return found

    def sample(
        n: int, *, rng: Any, steps: int | None = None, callback: Any = None, edit: tuple[str, ...] = (), **how: Any
    ) -> Any:
        """``n`` pictures in [-1, 1] drawn by the untuned network, or ``n`` edits of validation pictures."""
        if edit:
            sampling.check_belong("--edit", how, vars(Sampling()))
            if steps is not None:
                raise ValueError(
                    f"edits visit the {config.levels} levels of training: steps must be left out, got {steps}"
                )
            if callback is not None:
                raise ValueError("edits have no trajectory to show: leave --trajectory out")
            images, _ = asked_of("val", checked(edit), n)
            if len(images) < n:
                raise ValueError(f"n must be at most {len(images)}, the validation pictures to edit, got {n}")
            return apply(dataset.scale(images), edit)
        steps = min(config.sample_steps, config.T) if steps is None else steps
        x_T = device(rng.standard_normal((n, *dataset.shape)).astype(np.float32))
        return sampling.draw(base, x_T, schedule, steps=steps, rng=rng, kind=OUTPUT, callback=callback, **how)

    def checked(edit: Sequence[str]) -> Sequence[str]:
        for word in edit:
            attribute(word)
        return edit

    def notes(images: Any, *, edit: tuple[str, ...] = (), **how: Any) -> list[str]:
        """The oracle's readings; for edits, what was asked for and whether the picture shows it."""
        if not edit:
            return [str(scene) if scene is not None else "no scene of this world" for scene in read_pictures(images)]
        _, wanted = asked_of("val", edit, len(images))
        return [f"{scene}\n{verdict}" for scene, verdict in zip(wanted, verdicts(wanted, images))]

    def edit_one(
        image: Any,
        keep: Any,
        *,
        n: int,
        rng: Any,
        edit: tuple[str, ...] = Editing.edit,
        eta: float = Editing.eta,
        **settings: Any,
    ) -> Any:
        """``n`` edits of one picture (h, w, c); without noise, copies of one."""
        if keep is not None:
            raise ValueError("this system changes the whole picture by what it has learnt: leave --mask out")
        if not edit:
            raise ValueError(f"edit must name an edit, of {', '.join(config.edits)}")
        made = 1 if eta == 0 else n
        x_0 = device(np.repeat(np.asarray(image, np.float32)[None], made, axis=0))
        return to_numpy(edited(system, x_0, edit, eta=eta, rng=rng, **settings)).repeat(n // made, axis=0)

    def notes_of_edits(images: Any, *, image: Any, edit: tuple[str, ...] = Editing.edit, **settings: Any) -> list[str]:
        """Whether the edits show the picture's scene with the asked changes and all else unchanged."""
        (scene,) = read_pictures(np.asarray(image)[None])
        if scene is None:
            return ["the picture is no scene of this world"] * len(images)
        for word in edit:
            scene = rewritten(scene, word)
        return [f"{scene}\n{verdict}" for verdict in verdicts([scene] * len(images), images)]

    def apply(images: Any, edit: Sequence[str]) -> Any:
        return to_numpy(edited(system, device(images), edit))

    system = System(
        config=config,
        dataset_name=dataset.name,
        image_shape=dataset.shape,
        modules={"clip": clip_net, "diffusion": base, **{f"edit_{word}": net for word, net in tuned.items()}},
        stages=stages,
        sample=sample,
        figures=partial(diffusionclip_figures.figures, apply, config.edits),
        pictures=diffusionclip_figures.pictures(apply, config.edits, dataset),
        notes=notes,
        edit=edit_one,
        notes_of_edits=notes_of_edits,
    )
    return system


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    if dataset.name != "shapes":
        raise ValueError(f"this model learns edits from captions, data set 'shapes', and '{dataset.name}' has none")
    for name in ("T", "sample_steps", "patch", "base", "heads", "steps", "pictures", "tune_steps", "tune_batch"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("clip_steps", "iterations", "edges", *WEIGHTS):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(config, name)}")
    sampling.check_pictures(config, dataset, config.patch)
    if not config.most >= 1:
        raise ValueError(f"most must be at least 1, got {config.most}")
    if not config.edits or len(set(config.edits)) < len(config.edits):
        raise ValueError(f"edits must name at least one edit, each once, got {config.edits}")
    for word in config.edits:
        attribute(word)
    if not 1 <= config.t_0 <= config.T:
        raise ValueError(f"t_0 must be from 1 to T = {config.T}, got {config.t_0}")
    if not 1 <= config.levels <= config.t_0:
        raise ValueError(f"levels must be from 1 to t_0 = {config.t_0}, got {config.levels}")
    if not 1 <= config.prior_time <= config.T:
        raise ValueError(f"prior_time must be from 1 to T = {config.T}, got {config.prior_time}")
    if config.tuning not in ("full", "per_step"):
        raise ValueError(f"tuning must be 'full' or 'per_step', got {config.tuning!r}")
