r"""GLIDE. Nichol et al. 2021, "GLIDE: towards photorealistic image generation and editing with text-guided diffusion
models", arXiv 2112.10741.

A diffusion model is given a caption: its words stand beside the pixels in every attention layer, and their last vector
is added to the time embedding. Some captions are left out in training, for classifier-free guidance, which works better
than guidance by CLIP. If it is also given a picture with a hole in it, it paints what the caption asks for there.

| symbol | code | shape |
|---|---|---|
| $x_0$, $x_t$ | ``x_0``, ``x_t`` | (n, h, w, c), data in $[-1, 1]$ |
| the caption | ``Told``: a vector (n, c), words (n, t, c), their mask and the tokens (n, t) | |
| $f(x_t, t, y)$, the guess of $x_0$ | ``net(x_t, t, *told)``, a `ReadingUNet` | like $x_t$ |
| $w_t$, $\lambda$ | ``weights``, ``edges`` | (n,), a number |
| $m$, what is kept of a picture | ``keep``, 1 = keep, 0 = paint | (n, h, w, 1) |
| $s$ | ``guidance`` | |

$$L = \mathbb E\, w_t \big( \| x_0 - \hat x_0 \|^2 + \lambda \| \nabla x_0 - \nabla \hat x_0 \|^2 \big), \quad \hat x_0 = f(x_t, t, y) \qquad (1)$$
$$w_t = \min(\mathrm{SNR}_t + 1, w_{\max}) \qquad (2)$$
$$\tilde x_0 = f(x_t, t, \varnothing) + s\, \big( f(x_t, t, y) - f(x_t, t, \varnothing) \big) \qquad (3, \text{ section 2.3})$$

$\nabla$ takes the difference of neighbouring pixels. Any positive weighting leaves the best guess where it is, at
$\mathbb E[x_0 \mid x_t, y]$; it only decides what is learnt first.

**What is not the paper's.** The paper predicts $\epsilon$ and its variance, with 3.5 billion parameters and a text
transformer of its own; here 1.4 million predict $x_0$ with the frozen text network of a CLIP and a small one that
learns with them. The paper guides either way, with a CLIP trained on noise, at $x_t$; here both kinds of guidance act
together, and CLIP, which knows clean pictures, looks at $\hat x_0$. The paper teaches $f(x_t, t, \varnothing)$ by
fine-tuning with 20 % of the captions left out; here 10 % are left out from the first step on.

**What it took** for the text to be obeyed. Share of prompts for one thing that are met, and whose shape and place are
right given the count, after 1,500 steps of 16 pictures with Muon (210 to 310 CPU s of one thread; 64 prompts, so each
+- 5 points), guidance 2; one change at a time, each row on top of the one above unless it says "instead":

| | met | shape | place |
|---|---|---|---|
| text transformer trained with the U-Net, $\hat x_0$, $w = 1$, $\lambda = 0$ | .00 | .24 | .24 |
| CLIP's text network, frozen | .09 | .40 | 1.00 |
| 16x16 pixels of 32 channels first, instead of 8x8 of 64 | .05 | .46 | .98 |
| $\lambda = 1$ | .16 | .53 | 1.00 |
| $\lambda = 4$ | .09 | .72 | 1.00 |
| $w_{\max} = 5$ | .27 | .77 | 1.00 |

So: a text network that already knows what words mean, weight on edges for the shape, and weight on low noise for the
clean finish that `data/oracle.py` requires. After so little training, few sampling steps draw cleaner: the last network
of the table meets .39 of the prompts with 5 steps, .28 with 8, .27 with 25 and .14 with 50.

**Two things** are harder: which colour goes with which shape. What helped there, as the share of prompts for one thing
and for two that are met (100 each):

| | one | two |
|---|---|---|
| 4,500 steps of 16 pictures (72,000 pictures) | .83 | .03 |
| 3,300 steps of 32 (106,000), for a fifth more CPU time | .92 | .17 |
| and CLIP guidance of 150 between $0.3\, T$ and $0.85\, T$ | .92 | .25 |
| 3,300 steps of 64 (211,000) and a text network that learns beside CLIP's; without CLIP guidance, 64 prompts | .97 | .81 |
| and CLIP guidance of 200; 500 prompts | .996 | .816 |

CLIP guidance at all times changes the background (on an earlier network, .80 of prompts for one thing met, against
.90). CLIP is a good judge of which colour goes with which shape: the colours of two things are right in .86 of the
pictures with it, in .78 without. What did not help: other samplers and spacings (.17 to .23 in all of eight), words
from all layers of CLIP, a trainable transformer block over them, a learning rate of 1e-2, no second resolution (the
same loss after 400 to 800 steps, or a larger one), and $v$ instead of $x_0$: its error is two to three times as large.
What finally helped with two things is the second text network: CLIP's blurs which word describes what
(`stable_diffusion.py`). Of held-out compositions the defaults meet .922 and .704 (500 prompts each).

You need: `nn/text_unet.py`, `models/clip.py`, `samplers/classifier_free.py`, `guidance.py`, `inpaint.py`. New here: a
text in a diffusion model, and a network that paints into pictures. `glide_upsampler.py` makes them larger,
`glide_edits.py` asks for edits whose success can be measured.

Details that matter, and the tests that guard them (tests/minigen/models/test_glide.py):
- the channels beside the picture start with weights of zero: before the fine-tuning the network is the base model, bit
  for bit;
- 1 in the mask means keep; what is under a 0 is never seen; kept pixels are those of the picture, bit for bit;
- padding is not attended to, and captions that are left out are left out sample by sample, in a new array;
- the text is read anew for every call: nothing of the last prompt is kept;
- CLIP pulls no picture whose prompt is empty, whatever else is in the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.data import Dataset, Split, shapes
from minigen.data.captions import completed
from minigen.data.oracle import prompt_accuracy
from minigen.data.tokenizer import WordTokenizer
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.maths.schedules import Schedule
from minigen.metrics.prompts import GROUPS, notes_for, prompt_report, prompts_for, prompts_of
from minigen.nn import ReadingUNet, TextUNet, Words
from minigen.samplers.classifier_free import classifier_free
from minigen.samplers.guidance import by_gradient, by_x_0_gradient, clip_log_p, interval
from minigen.samplers.inpaint import check_mask

from . import clip, glide_edits, glide_upsampler, sampling
from .dalle import without_captions
from .system import Objective, Stage, System

TITLE = "GLIDE"
PAPER = "Nichol et al. 2021, arXiv 2112.10741"
EQUATION = "x̂₀ = f(x_t, t, ∅) + s [f(x_t, t, text) − f(x_t, t, ∅)]"
DATA = "shapes"
TOUR: dict[str, Any] = {"clip_steps": 200, "steps": 400, "paint_steps": 100, "upsample_steps": 100}
PRESETS: dict[str, dict[str, Any]] = {
    "long": {"clip_steps": 2000, "steps": 8500, "paint_steps": 1000, "upsample_steps": 1000}
}
PICTURES = {
    "edits": "test pictures, what is kept of them (grey: to be painted), and four paintings of what another caption asks for",
    "upsampled": "prompts drawn at 32 x 32 with every pixel doubled, and by the up-sampler at 64 x 64",
}
SHOWN = 64  # prompts per group, and edits, in the figures
OUTPUT = "x_0"  # what the networks predict
PULLED = (0.3, 0.85)  # times at which CLIP pulls, in units of T
EDGE = 1e-3  # tolerance of these times: a user's sampler gives noise levels, whose times are rounded
SIDES = (32, 64, 128)


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    T: int = 200
    """Length of the noising chain."""
    shift: float = 1.0
    """s: the chain has SNR / s^2 of the cosine schedule, because neighbouring pixels are nearly equal; see
    `schedules.shifted`. 4 is better after 600 steps.
    """
    sample_steps: int = 10
    """Levels that sampling visits; T or more visits all."""
    patch: int = 4
    """Side of the squares of pixels that become one pixel with more channels before the first convolution."""
    base: int = 64
    """Channels of the U-Net."""
    multipliers: tuple[int, ...] = (1, 1)
    """Channels at each resolution, in units of base; each level halves the size."""
    attention: tuple[int, ...] = (0, 1)
    """Levels that attend to pixels and words; 0 is the first resolution."""
    heads: int = 4
    """Attention heads."""
    edges: float = 4.0
    """Weight of the error in the differences of neighbouring pixels, which is where shapes are."""
    most: float = 5.0
    """Largest weight of a time; below it the weight is SNR + 1, that of the squared error of v."""
    p_uncond: float = 0.1
    """Share of the captions that are left out in training, for guidance."""
    steps: int = 3300
    """Training steps of the base model."""
    batch_size: int = 64
    """Pictures per step, in all stages but CLIP's."""
    lr: float = 4e-3
    """Peak learning rate of Muon and AdamW; falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    ema: float = 0.99
    """Decay of the averaged weights that everything but training uses."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""
    text_layers: int = 2
    """Blocks of the text network that learns with the U-Net, beside CLIP's; 0: there is none."""
    clip_steps: int = 1000
    """Training steps of CLIP, whose text network, frozen, reads the captions, and which guides on request."""
    noisy_clip: bool = False
    """Train CLIP on noisy pictures, so that it can guide at x_t; if not, it guides at the guess of x_0."""
    paint_steps: int = 350
    """Steps of the fine-tuning that teaches the base model to paint what is missing; 0: it is not taught."""
    upsample: int = 1
    """How often the picture's sides can be doubled, each time by an up-sampler of its own: 0 to 2."""
    upsample_steps: int = 250
    """Training steps of each up-sampler."""


@dataclass(frozen=True)
class Sampling(sampling.Sampling):
    """Settings of sampling; --steps says how many levels of the chain are visited."""

    prompt: str | None = None
    """What to draw; the captions of validation scenes, one per sample, if left out. A size, colour or place that it
    does not name is random; the empty prompt asks for anything.
    """
    negative: str = ""
    """What to draw away from; the empty prompt, which says nothing, if left out."""
    guidance: float = 1.5
    """s in f(negative) + s (f(prompt) - f(negative)): 0 leaves the prompt to CLIP, 1 is the model, more exaggerates it."""
    clip_guidance: float = 200.0
    """Scale of the additional guidance by CLIP; 0: none."""
    size: int = 32
    """Side of the pictures: 32, or more by the up-samplers, always in 10 ancestral steps."""


@dataclass(frozen=True)
class Editing(sampling.Sampling):
    """Settings of editing."""

    prompt: str = ""
    """What the WHOLE picture should show in the end, including the kept part. A size, colour or place that it does not name is
    random; the empty prompt asks for anything.
    """
    negative: str = ""
    """What to draw away from."""
    guidance: float = Sampling.guidance
    """As in sampling."""
    clip_guidance: float = Sampling.clip_guidance
    """As in sampling."""
    steps: int | None = None
    """Levels of the chain that are visited; the model's own choice if left out."""


# --- the text ---------------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What the U-Net is given besides the time: the condition of samplers and guidance, with one row per sample."""

    vector: Any  # (n, c), of the last token
    words: Any  # (n, t, c)
    mask: Any  # (n, t), which of them are words
    beside: Any = None  # (n, h, w, 4), the known pixels and their mask
    tokens: Any = None  # (n, t), for a text network that learns with the U-Net


def read(text: clip.Embedder, prompts: Any, beside: Any = None, *, penultimate: bool = False) -> Told:
    """Prompts (strings, or rows of tokens) as CLIP's text network reads them; the vector is that of <eos>, which has
    seen all words.

    They are the output of its last block, or, with ``penultimate``, of the one before, after its last norm.
    """
    tokens = text.net.read(prompts)
    words, mask = text.text_features(tokens, penultimate=penultimate)
    return Told(words[np.arange(len(words)), to_numpy(mask).sum(1) - 1], words, mask, beside, tokens)


# --- the loss ---------------------------------------------------------------------------------------------------------


def schedule_of(config: Any) -> Schedule:
    """The schedule of the base model."""
    return schedules.shifted(schedules.cosine(config.T), config.shift)


def weights(t: Any, schedule: Schedule, most: float) -> Any:
    r"""Eq. 2 (n,): with ``most`` = infinity the squared error of $\hat x_0$ becomes that of $v$; with 1 it stays."""
    return np.minimum(schedule.snr[t] + 1, most)


def l_glide(x_0: Any, x_0_hat: Any, w: Any, edges: float) -> Any:
    r"""Eq. 1: a scalar, means over samples and pixels. ``w`` (n,) is each sample's weight, ``edges`` is $\lambda$."""
    d = x_0_hat - x_0
    w = array_module(ag.raw(d)).asarray(w, d.dtype).reshape(-1, 1, 1, 1)
    value = ag.mean(d * d * w)
    if edges:
        down, right = d[:, 1:] - d[:, :-1], d[:, :, 1:] - d[:, :, :-1]
        value = value + edges * (ag.mean(down * down * w) + ag.mean(right * right * w))
    return value


def training_loss(model: Callable[..., Any], x_0: Any, schedule: Schedule, config: Any, rng: Any) -> Any:
    r"""Eq. 1 with $t \sim U\{1..T\}$ and $\epsilon \sim N(0, I)$, one of each for each sample; ``model(x_t, t)`` guesses $x_0$."""
    t = rng.integers(1, schedule.T + 1, len(x_0))
    eps = array_module(x_0).asarray(rng.standard_normal(x_0.shape), x_0.dtype)
    return l_glide(x_0, model(q_sample(x_0, t, eps, schedule), t), weights(t, schedule, config.most), config.edges)


# --- what is known of a picture ---------------------------------------------------------------------------------------


def random_masks(n: int, size: int, *, rng: Any, nothing: float = 0.25) -> Any:
    """Masks (n, size, size, 1) float32 of 1 (keep), but 0 in a rectangle with sides from a quarter of the
    picture's to all of it.

    The share ``nothing`` of them keeps nothing. Draws ``rng.random((n, 5))``.
    """
    u = rng.random((n, 5))
    side = np.ceil(size * (0.25 + 0.75 * u[:, :2]))  # height, width
    start = np.floor(u[:, 2:4] * (size - side + 1))
    at = np.arange(size)
    inside = (at >= start[..., None]) & (at < (start + side)[..., None])  # (n, 2, size)
    erased = inside[:, 0, :, None] & inside[:, 1, None, :]
    erased |= (u[:, 4] < nothing)[:, None, None]
    return (~erased).astype(np.float32)[..., None]


def known_pixels(x: Any, keep: Any) -> Any:
    """The four channels that the network sees beside the noise: the picture where it is kept, 0 elsewhere; and the
    mask, 1 = keep.
    """
    xp = array_module(x)
    keep = xp.broadcast_to(xp.asarray(keep, x.dtype), (*x.shape[:3], 1))
    return xp.concatenate([xp.where(keep == 1, x, 0), keep], axis=3)


# --- sampling ---------------------------------------------------------------------------------------------------------


def draw(
    system: System,
    prompts: Sequence[str],
    *,
    rng: Any,
    image: Any = None,
    keep: Any = None,
    steps: int | None = None,
    negative: str = "",
    guidance: float = Sampling.guidance,
    clip_guidance: float = Sampling.clip_guidance,
    callback: Any = None,
    **how: Any,
) -> Any:
    """A picture of the base model's size for each prompt; exactly ``image`` (n, h, w, c) where ``keep`` is 1.

    ``how``: fields of `sampling.Sampling`.
    """
    config, net, text = system.config, system.modules["glide"], clip.Embedder(system.modules["clip"])
    schedule = schedule_of(config)
    n, xp = len(prompts), array_module(net.unet.conv_in.w.data)
    beside, chosen = None, False
    if keep is not None:
        chosen, beside = check_mask(keep, image.shape), known_pixels(image, keep)

    def limit(x_0: Any) -> Any:  # GLIDE's denoised_fn
        x_0 = np.clip(x_0, -1, 1)
        return x_0 if keep is None else xp.where(chosen, image, x_0)

    vector, words, mask, _, tokens = read(
        text, [*prompts, *[negative] * n]
    )  # of one length, so that they make one batch
    cond, null = (Told(vector[i], words[i], mask[i], beside, tokens[i]) for i in (slice(n), slice(n, None)))

    def base(x_t: Any, t: Any, said: Told) -> Any:
        return net(x_t, t, *said)

    model = pulled_by_clip(classifier_free(base, guidance, null), system, prompts, schedule, clip_guidance)
    x_T = xp.asarray(rng.standard_normal((n, *system.image_shape)), np.float32)
    steps = min(config.sample_steps, config.T) if steps is None else steps
    settings = {"steps": steps, "rng": rng, "clip": limit, "cond": cond, "kind": OUTPUT, "callback": callback}
    return limit(sampling.draw(model, x_T, schedule, **settings, **how))


def pulled_by_clip(
    model: Callable[..., Any], system: System, prompts: Sequence[str], schedule: Schedule, scale: float
) -> Callable[..., Any]:
    r"""Section 2.4: ``model`` with its score moved by $s\, \nabla_{x_t} f(x) \cdot g(y)$, $f$ and $g$ CLIP's networks.

    A noise-aware CLIP is evaluated at $x = x_t$, a clean one at $x = \hat x_0(x_t)$, through the U-Net; only at times
    between ``PULLED``. Above, $\hat x_0$ is a blur, and the pull acts on the background; below, the shapes are there,
    and get frayed. Nothing pulls towards an empty prompt, which asks for anything: CLIP's vector of it is that of no
    caption.
    """
    asks = np.array([bool(prompt.strip()) for prompt in prompts])
    if not scale or not asks.any():
        return model
    net = system.modules["clip"]
    wanted = clip.Embedder(net).encode_text(list(prompts))
    first, last = (share * schedule.T for share in PULLED)
    between = interval(lambda times: scale * asks, first - EDGE, last + EDGE, outside=0.0)
    if system.config.noisy_clip:
        return by_gradient(model, clip_log_p(net.embed_image, wanted), schedule, between, kind=OUTPUT)
    return by_x_0_gradient(model, clip_log_p(lambda x, t: net.embed_image(x), wanted), schedule, between, kind=OUTPUT)


def sides_up_to(system: System, size: int) -> Sequence[int]:
    """The sides of the pictures on the way to ``size``. Raises ValueError if no up-sampler reaches it."""
    return sampling.sides_up_to(size, [system.image_shape[0] * 2**k for k in range(system.config.upsample + 1)])


def enlarged(system: System, images: Any, prompts: Sequence[str], size: int, *, rng: Any) -> Any:
    """``images`` through the up-samplers until their side is ``size``."""
    sides = sides_up_to(system, size)
    said = read(clip.Embedder(system.modules["clip"]), list(prompts))[:3]
    for side in sides[1:]:
        net = system.modules[f"upsampler_{side}"]
        images = glide_upsampler.upsample(net, images, said, schedules.cosine(system.config.T), rng=rng)
    return images


def edit(system: System, image: Any, keep: Any, prompt: str | Sequence[str], *, rng: Any, **settings: Any) -> Any:
    """Pictures with what ``prompt`` says painted where ``keep`` is 0; where it is 1 the pixels stay, bit for bit.

    ``image`` (n, h, w, c) in [-1, 1], ``keep`` (n or 1, h, w, 1) of 0 and 1. One prompt for all or one for each: it
    says what the WHOLE picture should show. ``settings`` are those of `Editing`. Raises ValueError for a mask or
    picture of another size.
    """
    if not system.config.paint_steps:
        raise ValueError("this model was trained without paint_steps: it cannot paint into pictures")
    if tuple(image.shape[1:]) != tuple(system.image_shape):
        raise ValueError(f"pictures must have the shape {system.image_shape}, got {tuple(image.shape[1:])}")
    prompts = [prompt] * len(image) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(image):
        raise ValueError(f"there must be one prompt, or one per picture: got {len(prompts)} for {len(image)}")
    return draw(system, prompts, rng=rng, image=image, keep=keep, **settings)


# --- the system -------------------------------------------------------------------------------------------------------


def stage(name: str, net: Any, loss: Any, config: Any, *, steps: int, lr: float, apart: tuple[str, ...]) -> Stage:
    """How each network but CLIP is trained by a ``loss(batch, rng, step)``."""
    return Stage(
        name=name,
        objectives=[Objective("x_0", net, loss)],
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


def own_words(config: Any, channels: int, *, rng: Any) -> Words | None:
    """The text network that learns with the U-Net; None where ``text_layers`` is 0."""
    if not config.text_layers:
        return None
    tokenizer = WordTokenizer()
    size = (len(tokenizer), tokenizer.length, channels)
    return Words(*size, layers=config.text_layers, heads=config.heads, rng=rng)


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The networks and what `minigen train`, `sample`, `edit` and `tour` do with them.

    Raises ValueError for settings that do not fit.
    """
    check(config, dataset)
    rng = np.random.default_rng(seed)
    of_clip = clip.Config(steps=config.clip_steps, noise_aware=config.noisy_clip, T=config.T, shift=config.shift)
    clip_net = clip.CLIP(dataset.shape, of_clip, rng=rng)
    text, tokenizer, schedule = clip.Embedder(clip_net), WordTokenizer(), schedule_of(config)
    of_larger, (side, _, c) = schedules.cosine(config.T), dataset.shape
    c_text = of_clip.text_width
    unet = TextUNet(
        c,
        c,
        size=side,
        c_vector=c_text,
        c_words=c_text,
        c_beside=c + 1,
        patch=config.patch,
        base=config.base,
        multipliers=config.multipliers,
        attention=config.attention,
        heads=config.heads,
        rng=rng,
    )
    net = ReadingUNet(unet, own_words(config, c_text, rng=rng))
    sizes = [side * 2**k for k in range(1, config.upsample + 1)]
    upsamplers = {size: glide_upsampler.Upsampler(c, size, c_text, rng=rng) for size in sizes}

    def device(a: Any) -> Any:
        return array_module(unet.conv_in.w.data).asarray(a)

    def captions(batch: Split, rng: Any, beside: Any = None) -> Told:
        tokens, _ = tokenizer.batch(list(batch.captions or ()))
        return read(text, without_captions(tokens, tokenizer.null, rng.random(len(tokens)) < config.p_uncond), beside)

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        x_0, said = device(dataset.scale(batch.images)), captions(batch, rng)
        return training_loss(lambda x_t, t: net(x_t, t, *said), x_0, schedule, config, rng), {}

    def painting_loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
        x_0 = device(dataset.scale(batch.images))
        said = captions(batch, rng, known_pixels(x_0, random_masks(len(x_0), side, rng=rng)))
        return training_loss(lambda x_t, t: net(x_t, t, *said), x_0, schedule, config, rng), {}

    def upsampling_loss(size: int) -> Callable[..., Any]:
        def of_batch(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, float]]:
            large, small = (device(dataset.scale(shapes.render(batch.scenes, s))) for s in (size, size // 2))
            said = captions(batch, rng)[:3]
            low, level = glide_upsampler.augmented(small, of_larger, rng=rng)

            def model(x_t: Any, t: Any) -> Any:
                return upsamplers[size](x_t, t, said, low, level)

            return training_loss(model, large, of_larger, config, rng), {}

        return of_batch

    def stages() -> list[Stage]:
        ends: tuple[str, ...] = ("unet.conv_in", "unet.conv_out", "unet.conv_beside")
        base = stage("glide", net, loss, config, steps=config.steps, lr=config.lr, apart=ends)
        found = [clip.stage(clip_net, of_clip, dataset), base]
        if config.paint_steps:
            steps = config.paint_steps
            found.append(stage("paint", net, painting_loss, config, steps=steps, lr=config.lr / 2, apart=ends))
        for size, upsampler in upsamplers.items():
            name, ends = f"upsampler_{size}", ("unet.conv_in", "unet.conv_out", "level")
            of_size = upsampling_loss(size)
            found.append(stage(name, upsampler, of_size, config, steps=config.upsample_steps, lr=config.lr, apart=ends))
        return found

    def paint(prompts: Sequence[str], *, rng: Any, size: int = Sampling.size, **settings: Any) -> Any:
        """A picture in [-1, 1] for each prompt. What a prompt leaves open is random."""
        sides_up_to(system, size)  # before anything is drawn
        prompts = completed(prompts, rng=rng)
        images = draw(system, prompts, rng=rng, **settings)
        return to_numpy(images if size == side else enlarged(system, images, prompts, size, rng=rng))

    def sample(n: int, *, rng: Any, prompt: str | None = None, **settings: Any) -> Any:
        """``n`` pictures in [-1, 1], of ``prompt`` or of `prompts_for(n)`."""
        return paint(prompts_for(n) if prompt is None else [prompt] * n, rng=rng, **settings)

    def notes(images: Any, *, prompt: str | None = None, **settings: Any) -> list[str]:
        """What was asked for, and whether it was drawn."""
        return notes_for(prompts_for(len(images)) if prompt is None else [prompt] * len(images), images)

    def edited(image: Any, keep: Any, *, n: int, rng: Any, prompt: str = "", **settings: Any) -> Any:
        """``n`` paintings into one picture (h, w, c); ``keep`` (h, w, 1)."""
        if keep is None:
            raise ValueError("painting needs a mask, which says where: give --mask")
        images = device(np.repeat(np.asarray(image, np.float32)[None], n, axis=0))
        whole = completed([prompt] * n, rng=rng)
        return to_numpy(edit(system, images, device(np.asarray(keep)[None]), whole, rng=rng, **settings))

    def notes_of_edits(images: Any, *, prompt: str = "", **settings: Any) -> list[str]:
        """What was asked for, and whether it was drawn."""
        return notes_for([prompt] * len(images), images)

    def figures(dataset: Dataset, *, rng: Any) -> dict[str, float]:
        """How often prompts are met, by guidance and at twice the size, and edits; whether known pixels stay."""
        found = {}
        for led, free, by_clip in (
            ("without guidance", 1.0, 0.0),
            ("classifier-free", Sampling.guidance, 0.0),
            ("and by CLIP", Sampling.guidance, Sampling.clip_guidance),
        ):
            draws = partial(paint, rng=rng, guidance=free, clip_guidance=by_clip)
            for group, rates in prompt_report(draws, SHOWN, list(GROUPS)).items():
                found[f"prompts met, {group}, {led}"] = rates["all"]
        if config.paint_steps:
            images, keep, prompts = glide_edits.tasks(SHOWN, rng=rng)
            x = dataset.scale(images)
            y = to_numpy(edit(system, device(x), device(keep), prompts, rng=rng))
            found["edits done"] = prompt_accuracy(prompts, y)["all"]
            found["largest change of a known pixel"] = float(abs((y - x) * keep).max())
        if config.upsample:
            prompts = prompts_of("val", 1, SHOWN)
            large = paint(prompts, rng=rng, size=2 * side)
            found["prompts met, seen, one thing, at twice the size"] = prompt_accuracy(prompts, large)["all"]
        return found

    def edits(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, what is kept of it, four paintings."""
        images, keep, prompts = glide_edits.tasks(6, rng=rng)
        x = dataset.scale(images)
        painted = [to_numpy(edit(system, device(x), device(keep), prompts, rng=rng)) for _ in range(4)]
        return np.stack([x, x * keep, *painted], axis=1)

    def upsampled(split: Split, *, rng: Any) -> Any:
        """Rows: the same picture at two sizes."""
        prompts = prompts_for(6)
        small = draw(system, prompts, rng=rng)
        large = to_numpy(enlarged(system, small, prompts, 2 * side, rng=rng))
        return np.stack([to_numpy(small).repeat(2, 1).repeat(2, 2), large], axis=1)

    pictures: dict[str, Any] = {"edits": edits} if config.paint_steps else {}
    pictures |= {"upsampled": upsampled} if config.upsample else {}
    system = System(
        config=config,
        dataset_name=dataset.name,
        image_shape=dataset.shape,
        modules={"clip": clip_net, "glide": net, **{f"upsampler_{size}": u for size, u in upsamplers.items()}},
        stages=stages,
        sample=sample,
        figures=figures,
        pictures=pictures,
        notes=notes,
        paint=paint,
        edit=edited,
        notes_of_edits=notes_of_edits,
    )
    return system


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    if dataset.name != "shapes":
        raise ValueError(f"this model draws what captions say, data set 'shapes', and '{dataset.name}' has none")
    for name in ("T", "sample_steps", "patch", "base", "heads", "steps", "clip_steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if not 0 < config.shift < np.inf:
        raise ValueError(f"shift must be a positive number, got {config.shift}")
    if not 0 < config.p_uncond < 1:
        raise ValueError(f"p_uncond must be a share above 0 and below 1, got {config.p_uncond}")
    for name, least in (("text_layers", 0), ("paint_steps", 0), ("edges", 0), ("most", 1)):
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if config.upsample not in (0, 1, 2):
        raise ValueError(f"upsample must be 0, 1 or 2 doublings, got {config.upsample}")
    if config.upsample and config.upsample_steps < 1:
        raise ValueError(f"upsample_steps must be at least 1, got {config.upsample_steps}")
    if dataset.shape[0] * 2**config.upsample not in SIDES:
        raise ValueError(
            f"pictures can be drawn up to {SIDES[-1]} pixels: {config.upsample} doublings of {dataset.shape[0]} are more"
        )
