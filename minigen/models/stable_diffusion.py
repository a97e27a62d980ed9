r"""Stable Diffusion.

Rombach, Blattmann, Lorenz, Esser & Ommer 2022, "High-resolution image synthesis with latent diffusion models", arXiv
2112.10752.

Most of the information in a picture's pixels is never seen, and a diffusion model spends most of its work on it. So a
codec first learns to leave that out, and diffusion happens in its maps, which are small. Conditions enter in two ways:
words, which all places attend to, and maps that lie beside the noisy one, place by place.

| symbol | code | shape |
|---|---|---|
| $\mathcal E, \mathcal D$ | `latent_codec.Codec`: ``encode``, ``decode`` | (n, h, w, c) to (n, h / f, w / f, d) and back |
| $z_0$, $z_t$ | ``z_0``, ``z_t``, of mean 0 and standard deviation 1 per channel | (n, h / f, w / f, d) |
| $y$, $\tau_\theta(y)$ | a prompt; ``Told``: a vector, words, their mask, as CLIP's text network reads it, and tokens for `nn.Words` | (n, c), (n, t, c), (n, t) |
| $f_\theta(z_t, t, \tau_\theta(y))$ | ``net``, a `ReadingUNet` | like $z_t$ |
| $m$, what is kept of a picture | ``keep``, 1 = keep | (n, h, w, 1) |
| $s$; strength | ``guidance``; ``strength`` | |

$$L_{LDM} = \mathbb E_{\mathcal E(x),\, y,\, \epsilon \sim N(0, I),\, t}\; w_t\, \| k_t - f_\theta(z_t, t, \tau_\theta(y)) \|^2, \quad z_t = \sqrt{\bar\alpha_t}\, \mathcal E(x) + \sqrt{1 - \bar\alpha_t}\, \epsilon \qquad (3)$$
$$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\big(Q K^\top / \sqrt d\big) V, \quad Q \text{ of places}, \; K, V \text{ of places and words} \qquad (\text{section 3.3})$$
$$\tilde f = f(z_t, t, \tau(y_-)) + s\, \big( f(z_t, t, \tau(y)) - f(z_t, t, \tau(y_-)) \big), \quad y_- = \text{""} \text{ or a negative prompt} \qquad (\text{Ho \& Salimans 2022})$$
$$\text{img2img: } z_{t_0} = \sqrt{\bar\alpha_{t_0}}\, \mathcal E(x) + \sqrt{1 - \bar\alpha_{t_0}}\, \epsilon, \quad t_0 = \lceil \text{strength} \cdot S \rceil \text{ of the } S \text{ levels} \qquad (\text{SDEdit, 2108.01073})$$
$$\text{inpainting: } x = m \odot x + (1 - m) \odot \mathcal D(z), \quad z \text{ drawn beside } \mathcal E(m \odot x) \text{ and } m \qquad (\text{section 4.5})$$

$k_t$ is what the network predicts: $\epsilon$ in the paper and Stable Diffusion 1, $v$ in Stable Diffusion 2.1, here
$x_0$ by default ($k_t = z_0$, $w_t = \min(\mathrm{SNR}_t + 1, w_{\max})$), which learnt fastest; `glide` has the same
weights.

**What is not the paper's.** 1.3 million parameters instead of 1,450 (Stable Diffusion's U-Net has 860), one attention
over places and words together instead of two in turn, one fine-tuning that teaches painting and layouts at once; $z_0$
is the codec's mean $\mu$, where the paper draws from $q(z \mid x)$; and the text is read twice, by a frozen CLIP (as
Stable Diffusion has it) and by a small transformer that is trained with the U-Net (as the paper has it, section 3.3),
whose outputs are added.

**What it took.** A codec that forgives, a second text network, and time. One change at a time, 800 to 900 steps of 32
pictures (210 to 230 CPU s of one thread), share of prompts for one thing / two that are met (64 / 128 of them, so +- 6
/ 2 points; the first row 32 / 128):

| | one | two | two: colours right |
|---|---|---|---|
| a codec with next to no KL (1e-4), CLIP's words alone | .34 | .02 | .71 |
| a codec that forgives (KL 2e-2; see `latent_codec`) | .52 | .03 | .66 |
| a text network that learns with the U-Net, added to CLIP's (`nn.Words`) | .59 | .06 | .79 |
| the same in place of CLIP's words | .53 | .05 | .73 |
| (a table of what is asked for, instead of words: what a perfect reader would give) | .73 | .13 | .88 |
| a transformer over places and words alike instead of the U-Net, after 120 CPU s | error 2.5 times as large | | |

So CLIP's words are made to tell pictures apart, and blur which word describes what. With more time, after 2,900 of
7,000 steps, 1.00 and .81 of the prompts were met (100 each), held out .99 and .66; after all of them, by sampler and
steps (guidance 2 unless stated; 128 / 192 / 128 prompts by which nothing was chosen: seen one, two, held out two):

| | one | two | held out, two |
|---|---|---|---|
| dpmpp-2m, 4 / 6 / 10 / 20 steps | 1.00 / 1.00 / 1.00 / 1.00 | .97 / .99 / .98 / .95 | .91 / .90 / .89 / .89 |
| the same, 6 steps, guidance 1 / 1.5 / 3 | 1.00 / 1.00 / 1.00 | .87 / .98 / .92 | .77 / .91 / .85 |
| ddim, 8 steps; ancestral, 10 steps | 1.00; .99 | .98; .99 | .91; .90 |

The defaults stop at 4,500 steps: 1.000 and .860, held out .964 and .760 (500 prompts each). Layouts are the hardest of
what lies beside the map, because the model must do without words: after 400 steps of the fine-tuning 0 of 64 were met,
after 800, in which most layouts came without a caption, .22. With guidance towards the layout as towards the words
($f(\varnothing)$ has neither), .32 of 256 are met, .53 with noise on the way (ancestral, 25 steps); with captions .89,
and as many of the captions.

You need: `models/latent_codec.py`, `clip.py`, `glide.py` (the text, the weights), `nn/text_unet.py`, the samplers.
New here: diffusion in maps instead of pixels, and conditions that lie beside the noise (`latent_beside.py`).
`latent_upscaler.py` draws larger pictures, `latent_edits.py` changes pictures, `latent_figures.py` measures and shows.

Details that matter, and the tests that guard them (tests/minigen/models/test_stable_diffusion.py):
- with the codec that does nothing it is diffusion of pixels, bit for bit, in training and in sampling;
- maps are scaled to mean 0 and standard deviation 1 over the DATA, before the first step; nothing clips a map;
- a place of the map counts as kept only if all of its pixels are, and the hole is empty before the codec sees the
  picture;
- known pixels are put back after decoding, in pixels, bit for bit: a codec's round trip is not the identity;
- img2img walks down from the very level that it noised to; strength 1 is the whole chain;
- the null prompt is the empty caption as the text networks read it, not zeros; padding is never attended to;
- $v$ and $x_0$ are converted before a multistep sampler blends its past guesses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, shapes
from minigen.data.captions import completed
from minigen.data.tokenizer import WordTokenizer
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.maths.parametrisation import target
from minigen.maths.schedules import Schedule
from minigen.metrics.prompts import notes_for, prompts_for
from minigen.nn import ReadingUNet, TextUNet
from minigen.samplers.classifier_free import classifier_free
from minigen.samplers.inpaint import check_mask

from . import clip, glide, latent_codec, latent_edits, latent_figures, latent_upscaler, sampling
from .dalle import without_captions
from .glide import Told, own_words, random_masks, read
from .latent_beside import LAYOUT, Boxes, boxes_of, known_places, layout_map, parse_layout
from .latent_codec import Codec, Identity
from .latent_edits import Editing
from .system import Objective, Stage, System

TITLE = "Stable Diffusion"
PAPER = "Rombach et al. 2022, arXiv 2112.10752"
EQUATION = "L = E_{E(x), y, ε, t} ‖ε − ε_θ(z_t, t, τ(y))‖², z_t a noisy map of x"
DATA = "shapes"
REUSES_CLIP = True
TOUR: dict[str, Any] = {"clip_steps": 200, "codec_steps": 200, "steps": 400, "beside_steps": 100, "upscale_steps": 60}
PRESETS: dict[str, dict[str, Any]] = {"long": {"steps": 7000}}
PICTURES = {
    "codec": "test pictures above, decoded from their maps below",
    "strengths": "a test picture per row; img2img to another caption with strength 0.2, 0.4, 0.6, 0.8, 1",
    "paintings": "test pictures, what is kept of them (grey: to be painted), and four paintings of what another caption asks for",
    "layouts": "layouts (a grey level for each shape), and five pictures drawn into each without any words",
    "upscaled": "prompts drawn at 32 x 32 with every pixel doubled, and by the up-scaler at 64 x 64",
}


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    codec: Literal["kl", "vq", "identity"] = "kl"
    """How pictures become maps; "identity" leaves them as they are: diffusion of pixels."""
    factor: int = 4
    """f: width of a place of the map in pixels: 2, 4 or 8."""
    channels: int = 4
    """Numbers per place of the map."""
    codec_steps: int = 1000
    """Training steps of the codec."""
    adversarial_steps: int = 0
    """Its further steps against a discriminator."""
    T: int = 200
    """Length of the noising chain."""
    output: Literal["x_0", "v", "eps"] = "x_0"
    """What the network predicts; "eps" of maps goes with Stable Diffusion 1's scaled-linear schedule, all else with the cosine one."""
    most: float = 5.0
    """Largest weight of a time if that is x_0; below it the weight is SNR + 1, that of the squared error of v."""
    sample_steps: int = 6
    """Levels that sampling visits; T or more visits all. Few steps draw cleaner here, as in `glide`."""
    penultimate: bool = False
    """Read the text one block before the end of CLIP's network, as Stable Diffusion 2 does."""
    text_layers: int = 2
    """Blocks of the text network that learns with the U-Net, beside CLIP's; 0: there is none."""
    patch: int = 1
    """Side of the squares of places that become one place with more channels; use 4 for the codec "identity"."""
    base: int = 64
    """Channels of the U-Net."""
    multipliers: tuple[int, ...] = (1, 1)
    """Channels at each resolution, in units of base; each level halves the size."""
    attention: tuple[int, ...] = (0, 1)
    """Levels that attend to places and words; 0 is the first resolution."""
    heads: int = 4
    """Attention heads."""
    p_uncond: float = 0.1
    """Share of the captions that are left out in training, for guidance."""
    steps: int = 4500
    """Training steps of the latent diffusion model."""
    batch_size: int = 32
    """Pictures per step of it and of the up-scaler."""
    lr: float = 4e-3
    """Peak learning rate of Muon and AdamW; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    ema: float = 0.99
    """Decay of the averaged weights that everything but training uses."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""
    clip_steps: int = 1200
    """Training steps of CLIP, whose text network, frozen, reads the captions; 0 with --clip, which gives a trained one."""
    beside_steps: int = 800
    """Steps of the fine-tuning that teaches painting and layouts; 0: holes are filled by the base model, and there are
    no layouts.
    """
    upscale_steps: int = 200
    """Training steps of the up-scaler to 64 x 64; 0: there is none."""


@dataclass(frozen=True)
class Sampling(sampling.Sampling):
    """Settings of sampling; --steps says how many levels of the chain are visited."""

    sampler: sampling.Sampler = "dpmpp-2m"
    """The walk from noise to picture: random at every step (ancestral, euler-ancestral), or along an ODE (all others).
    Or one of yours, as `minigen laws` takes it: module:Name.
    """
    prompt: str | None = None
    """What to draw; the captions of validation scenes, one per sample, if left out. A size, colour or place that it
    does not name is random; the empty prompt asks for anything.
    """
    negative: str = ""
    """What to draw away from; the empty prompt, which says nothing, if left out."""
    guidance: float = Editing.guidance
    """s in f(negative) + s (f(prompt) - f(negative)): 0 ignores the prompt, 1 is the model, more exaggerates it."""
    layout: str | None = None
    """Which shapes should be where, in pixels: "circle 4:20,4:20; ring 18:30,16:28" (rows, columns)."""
    size: int = 32
    """Side of the pictures: 32, or 64 by the up-scaler."""


# --- the loss ---------------------------------------------------------------------------------------------------------


def l_ldm(
    model: Callable[..., Any], z_0: Any, t: Any, eps: Any, schedule: Schedule, *, kind: str, most: float = np.inf
) -> Any:
    """Eq. 3 for times ``t`` (n,) and noise ``eps``: a scalar, means over samples and numbers.

    ``model(z_t, t)`` predicts ``kind``.
    """
    d = model(q_sample(z_0, t, eps, schedule), t) - target(kind, z_0, eps, t, schedule)
    if kind == "x_0":
        w = array_module(ag.raw(d)).asarray(glide.weights(t, schedule, most), d.dtype)
        return ag.mean(d * d * w.reshape(-1, 1, 1, 1))
    return ag.mean(d * d)


def training_loss(model: Callable[..., Any], z_0: Any, schedule: Schedule, config: Any, rng: Any) -> Any:
    r"""Eq. 3 with $t \sim U\{1..T\}$ and $\epsilon \sim N(0, I)$, one of each for each sample."""
    t = rng.integers(1, schedule.T + 1, len(z_0))
    eps = array_module(z_0).asarray(rng.standard_normal(z_0.shape), z_0.dtype)
    return l_ldm(model, z_0, t, eps, schedule, kind=config.output, most=config.most)


# --- sampling ---------------------------------------------------------------------------------------------------------


def walk(
    model: Callable[..., Any],
    codec: Codec | Identity,
    shape: tuple[int, ...],
    schedule: Schedule,
    *,
    steps: int,
    rng: Any,
    start: Any = None,
    strength: float = 1.0,
    limit: Callable[[Any], Any] | None = None,
    sampler: str | Callable[..., Any] = Sampling.sampler,
    spacing: str | None = None,
    eta: float | None = None,
    variance: str | None = None,
    cond: Any = None,
    kind: str = "x_0",
    callback: Callable[[float, Any], None] | None = None,
    xp: Any = np,
) -> Any:
    """Pictures of ``shape`` (n, h, w, c), drawn in the codec's maps and decoded: from noise, or from the pictures
    ``start`` with ``strength``.

    ``callback(t, x_t)`` sees the maps on the way, decoded. ``limit`` changes each guess of the map, after the codec's
    own bound.
    """
    see = None if callback is None else (lambda t, z_t: callback(t, codec.decode(z_t)))

    def bounded(z: Any) -> Any:
        return z if codec.bound is None else np.clip(z, -codec.bound, codec.bound)

    clip_z = codec.bound if limit is None else (lambda z_0: limit(bounded(z_0)))
    how: dict[str, Any] = {"sampler": sampler, "spacing": spacing, "eta": eta, "variance": variance, "callback": see}
    z_T = None
    if start is None:
        sampling.check_belong("drawing from noise", {"strength": strength}, {"strength": 1.0})
        z_T = xp.asarray(rng.standard_normal((shape[0], *codec.shape(shape[1:]))), np.float32)
    elif 0 < strength <= 1:
        how |= {"start": codec.encode(start), "strength": strength}
    else:
        raise ValueError(f"strength must be above 0, which is the picture itself, and at most 1, got {strength}")
    z = sampling.draw(model, z_T, schedule, steps=steps, rng=rng, clip=clip_z, cond=cond, kind=kind, **how)
    return codec.decode(bounded(z))


def draw(
    system: System,
    prompts: Sequence[str],
    *,
    rng: Any,
    start: Any = None,
    strength: float = 1.0,
    image: Any = None,
    keep: Any = None,
    layouts: Sequence[Boxes] | None = None,
    steps: int | None = None,
    negative: str = "",
    guidance: float = Sampling.guidance,
    callback: Any = None,
    **how: Any,
) -> Any:
    """A picture for each prompt (n, h, w, c): from noise or from the pictures ``start``; exactly ``image`` where
    ``keep`` is 1; things where ``layouts`` has their boxes. ``how``: fields of `sampling.Sampling`.
    """
    config, net, text = system.config, system.modules["unet"], clip.Embedder(system.modules["clip"])
    codec, n, (side, _, _), xp = (
        codec_of(system),
        len(prompts),
        system.image_shape,
        array_module(net.unet.conv_in.w.data),
    )
    z_side = codec.shape(system.image_shape)[0]
    limit = None
    if keep is not None:
        chosen = check_mask(keep, image.shape)
        known = known_places(codec, image, keep)
        if not config.beside_steps:  # the base model knows nothing of holes: its guesses are corrected

            def limit(z_0: Any) -> Any:
                return xp.where(known[..., -1:] == 1, known[..., :-1], z_0)

    if layouts is not None and not config.beside_steps:
        raise ValueError("this model was trained without beside_steps: it knows no layouts")
    beside: Any = (None, None)
    if config.beside_steps and (keep is not None or layouts is not None):
        shown = known if keep is not None else np.zeros((n, z_side, z_side, codec.shape(system.image_shape)[2] + 1))
        where = np.zeros((n, z_side, z_side, LAYOUT)) if layouts is None else layout_map(layouts, side, side // z_side)
        beside = [xp.concatenate([xp.asarray(a, np.float32) for a in (shown, w)], axis=3) for w in (where, 0 * where)]
    said = [*prompts, *[negative] * n]  # of one length, so that they make one batch
    vector, words, mask, _, tokens = read(text, said, penultimate=config.penultimate)
    halves = zip((slice(n), slice(n, None)), beside)  # guidance acts on the layout too: the second half has none
    cond, null = (Told(vector[i], words[i], mask[i], around, tokens[i]) for i, around in halves)

    def base(z_t: Any, t: Any, said: Told) -> Any:
        return net(z_t, t, *said)

    x = walk(
        classifier_free(base, guidance, null),
        codec,
        (n, *system.image_shape),
        schedule_of(config),
        steps=min(config.sample_steps, config.T) if steps is None else steps,
        rng=rng,
        start=start,
        strength=strength,
        limit=limit,
        cond=cond,
        kind=config.output,
        callback=callback,
        xp=xp,
        **how,
    )
    return x if keep is None else xp.where(chosen, image, x)


def schedule_of(config: Any) -> Schedule:
    r"""The chain of maps: the cosine schedule, or where the network predicts $\epsilon$ of maps, that of Stable Diffusion 1.

    $\hat x_0 = (x_t - \sigma_t \hat\epsilon) / \sqrt{\bar\alpha_t}$ divides the network's error by $\sqrt{\bar\alpha_T}$: by
    1/15 on that one, by 1/4000 on the cosine schedule, and no bound of the map cuts it off.
    """
    of_maps = config.output == "eps" and config.codec != "identity"
    return schedules.scaled_linear(config.T) if of_maps else schedules.cosine(config.T)


def codec_of(system: System) -> Codec | Identity:
    """The codec of a system."""
    return Codec(system.modules["codec"]) if "codec" in system.modules else Identity()


def enlarged(system: System, images: Any, prompts: Sequence[str], *, rng: Any) -> Any:
    """``images`` at twice their size. Raises ValueError where there is no up-scaler."""
    if "upscaler" not in system.modules:
        raise ValueError("this model was trained without upscale_steps: it draws at one size")
    said = read(clip.Embedder(system.modules["clip"]), list(prompts), penultimate=system.config.penultimate)[:3]
    net, schedule = system.modules["upscaler"], schedule_of(system.config)
    return latent_upscaler.upscale(net, codec_of(system), images, said, schedule, rng=rng, kind=system.config.output)


# --- the system -------------------------------------------------------------------------------------------------------


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The networks and what `minigen train`, `sample`, `edit` and `tour` do with them.

    Raises ValueError for settings that do not fit.
    """
    check(config, dataset)
    rng = np.random.default_rng(seed)
    of_clip = clip.Config(steps=max(1, config.clip_steps))
    clip_net = clip.CLIP(dataset.shape, of_clip, rng=rng)
    text, tokenizer, schedule = clip.Embedder(clip_net), WordTokenizer(), schedule_of(config)
    side, _, c = dataset.shape
    modules: dict[str, Any] = {"clip": clip_net}
    codec: Codec | Identity = Identity()
    of_codec = codec_config(config)
    if of_codec is not None:
        latent_codec.check(of_codec, dataset.shape)
        modules["codec"] = latent_codec.Autoencoder(c, of_codec, rng=rng)
        codec = Codec(modules["codec"])
        if of_codec.adversarial_steps:
            modules["discriminator"] = latent_codec.Discriminator(c, rng=rng)
    z_side, _, d = codec.shape(dataset.shape)
    c_text = of_clip.text_width
    unet = TextUNet(
        d,
        d,
        size=z_side,
        c_vector=c_text,
        c_words=c_text,
        c_beside=d + 1 + LAYOUT,
        patch=config.patch,
        base=config.base,
        multipliers=config.multipliers,
        attention=config.attention,
        heads=config.heads,
        rng=rng,
    )
    net = modules["unet"] = ReadingUNet(unet, own_words(config, c_text, rng=rng))
    if config.upscale_steps:
        modules["upscaler"] = latent_upscaler.Upscaler(c, d, side=side, f=config.factor, c_text=c_text, rng=rng)

    def device(a: Any) -> Any:
        return array_module(unet.conv_in.w.data).asarray(a, np.float32)

    def captions(batch: Split, rng: Any, beside: Any = None, null: Any = config.p_uncond) -> Told:
        tokens, _ = tokenizer.batch(list(batch.captions or ()))
        tokens = without_captions(tokens, tokenizer.null, rng.random(len(tokens)) < null)
        return read(text, tokens, penultimate=config.penultimate, beside=beside)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        if step == 0 and isinstance(codec, Codec):
            latent_codec.measure(codec.net, dataset.scale(dataset.train.take(slice(0, latent_codec.MEASURED)).images))
        z_0 = codec.encode(device(dataset.scale(batch.images)))
        said = captions(batch, rng)
        return training_loss(lambda z_t, t: net(z_t, t, *said), z_0, schedule, config, rng), {}

    def beside_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        x = device(dataset.scale(batch.images))
        n = len(x)
        known = known_places(codec, x, device(random_masks(n, side, rng=rng)))
        where = layout_map(boxes_of(batch.scenes), side, side // z_side)
        shown = rng.random(n) < 0.5  # half of the pictures come with a layout, most of those without a caption
        where *= shown[:, None, None, None]
        beside = array_module(x).concatenate([known, device(where)], axis=3)
        said = captions(batch, rng, beside, np.where(shown, 0.75, config.p_uncond))
        z_0 = codec.encode(x)
        return training_loss(lambda z_t, t: net(z_t, t, *said), z_0, schedule, config, rng), {}

    def upscale_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        large = device(dataset.scale(shapes.render(batch.scenes, 2 * side)))
        low, level = latent_upscaler.glide_upsampler.augmented(device(dataset.scale(batch.images)), schedule, rng=rng)
        said = captions(batch, rng)[:3]

        def model(z_t: Any, t: Any) -> Any:
            return modules["upscaler"](z_t, t, said, low, level)

        return training_loss(model, codec.encode(large), schedule, config, rng), {}

    def stage(name: str, module: Any, loss: Any, steps: int, lr: float, apart: tuple[str, ...]) -> Stage:
        return Stage(
            name=name,
            objectives=[Objective(config.output, module, loss)],
            steps=steps,
            batch_size=config.batch_size,
            shards=2,
            lr=lr,
            warmup=min(100, steps // 10),
            ema=config.ema,
            max_norm=config.max_norm,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.99),
            schedule="cosine",
            optimiser="muon",
            apart=apart,
        )

    def stages() -> list[Stage]:
        ends = ("unet.conv_in", "unet.conv_out", "unet.conv_beside")
        found = [clip.stage(clip_net, of_clip, dataset)] if config.clip_steps else []
        if of_codec is not None:
            judge, features = modules.get("discriminator"), latent_codec.clip_features(clip_net)
            found += latent_codec.stages(modules["codec"], judge, features, of_codec, dataset)
        found.append(stage("diffusion", net, loss, config.steps, config.lr, ends))
        if config.beside_steps:
            found.append(stage("beside", net, beside_loss, config.beside_steps, config.lr / 2, ends))
        if config.upscale_steps:
            ends = ("unet.conv_in", "unet.conv_out", "level")
            found.append(stage("upscaler", modules["upscaler"], upscale_loss, config.upscale_steps, config.lr, ends))
        return found

    def paint(prompts: Sequence[str], *, rng: Any, size: int = side, layout: str | None = None, **settings: Any) -> Any:
        """A picture in [-1, 1] for each prompt. What a prompt leaves open is random."""
        sizes = (side, 2 * side) if config.upscale_steps else (side,)
        if size not in sizes:
            raise ValueError(f"size must be one of {', '.join(map(str, sizes))} with these weights, got {size}")
        layouts = None if layout is None else [parse_layout(layout, side)] * len(prompts)
        prompts = completed(prompts, rng=rng)
        images = draw(system, prompts, rng=rng, layouts=layouts, **settings)
        return to_numpy(images if size == side else enlarged(system, images, prompts, rng=rng))

    def sample(n: int, *, rng: Any, prompt: str | None = None, **settings: Any) -> Any:
        """``n`` pictures in [-1, 1], of ``prompt`` or of `prompts_for(n)`."""
        return paint(prompts_for(n) if prompt is None else [prompt] * n, rng=rng, **settings)

    def notes(images: Any, *, prompt: str | None = None, **settings: Any) -> list[str]:
        """What was asked for, and whether it was drawn."""
        return notes_for(prompts_for(len(images)) if prompt is None else [prompt] * len(images), images)

    def notes_of_edits(images: Any, *, prompt: str = "", **settings: Any) -> list[str]:
        """What was asked for, and whether it was drawn."""
        return notes_for([prompt] * len(images), images)

    def drawn(prompts: Sequence[str], **how: Any) -> Any:
        moved = {name: device(how.pop(name)) for name in ("start", "image", "keep") if name in how}
        return to_numpy(draw(system, prompts, **moved, **how))

    def grown(images: Any, prompts: Sequence[str], *, rng: Any) -> Any:
        return to_numpy(enlarged(system, device(images), prompts, rng=rng))

    shown = latent_figures.Uses(codec, drawn, grown, bool(config.beside_steps), bool(config.upscale_steps))

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """What the codec keeps; how often prompts, edits and layouts are met; whether known pixels stay."""
        return latent_figures.figures(shown, partial(paint, rng=rng), dataset, rng=rng)

    system = System(
        config=config,
        dataset_name=dataset.name,
        image_shape=dataset.shape,
        modules=modules,
        stages=stages,
        sample=sample,
        figures=figures,
        pictures=latent_figures.pictures(shown, dataset),
        notes=notes,
        paint=paint,
        edit=partial(latent_edits.edit, shown, dataset.shape),
        notes_of_edits=notes_of_edits,
    )
    return system


def codec_config(config: Config) -> latent_codec.Config | None:
    """The settings of the codec; None for pixels."""
    if config.codec == "identity":
        return None
    return latent_codec.Config(
        regulariser=config.codec,
        factor=config.factor,
        channels=config.channels,
        steps=config.codec_steps,
        adversarial_steps=config.adversarial_steps,
    )


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    if dataset.name != "shapes":
        raise ValueError(f"this model draws what captions say, data set 'shapes', and '{dataset.name}' has none")
    if config.codec not in ("kl", "vq", "identity"):
        raise ValueError(f"codec must be 'kl', 'vq' or 'identity', got {config.codec!r}")
    if config.output not in ("x_0", "v", "eps"):
        raise ValueError(f"output must be 'x_0', 'v' or 'eps', got {config.output!r}")
    for name in ("T", "sample_steps", "patch", "base", "heads", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.output == "eps" and config.codec != "identity" and config.T <= 12:
        raise ValueError(f"T must be above 12 where the output is 'eps', got {config.T}")
    for name, least in (("clip_steps", 0), ("text_layers", 0), ("beside_steps", 0), ("upscale_steps", 0), ("most", 1)):
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if not 0 < config.p_uncond < 1:
        raise ValueError(f"p_uncond must be a share above 0 and below 1, got {config.p_uncond}")
    if config.codec != "identity" and config.codec_steps < 1:
        raise ValueError(f"codec_steps must be at least 1, got {config.codec_steps}")
    if config.codec == "identity" and config.upscale_steps:
        raise ValueError("the codec 'identity' has no up-scaler: set upscale_steps to 0")
    if dataset.shape[0] != shapes.SIDE and config.upscale_steps:
        raise ValueError(f"the up-scaler doubles pictures of {shapes.SIDE} pixels: set upscale_steps to 0")
