r"""DALL-E 2 (unCLIP).

Ramesh, Dhariwal, Nichol, Chu & Chen 2022, "Hierarchical text-conditional image generation with CLIP latents", arXiv
2204.06125.

CLIP knows which picture goes with which caption, and its embedding $z_i$ of a picture encodes what the picture means.
So drawing from a caption is split in two: a prior draws a $z_i$ that goes with the caption, a decoder draws a picture
with this $z_i$. As this separates meaning from detail, a picture can be varied, blended with another, or moved along
the difference of two texts.

| symbol | code | |
|---|---|---|
| $y$; $z_t$, CLIP's vector of $y$ | ``prompts``; ``Caption.z`` (n, d) | |
| $p(z_i \mid y)$ | `Chain.embeddings`: `dalle2_prior`, `dalle2_ar_prior` | (n, d) |
| $p(x \mid z_i, y)$ | `Chain.decode`: `dalle2_decoder` | (n, h, w, c) |
| $p(x_{128} \mid x_{64})\, p(x_{64} \mid x_{32})$ | `Chain.enlarge`: `dalle2_upsampler` | |

$$p(x \mid y) = p(x, z_i \mid y) = p(x \mid z_i, y)\, p(z_i \mid y) \qquad (1, \text{ section 2})$$

The first equality holds because $z_i$ is a function of $x$. `unclip` is the second one as code: one draw from each
factor.

**Without the prior** the paper's comparison feeds the decoder the caption's own vector in place of a picture's, or the
caption alone: ``prior`` "text" and "none". The decoder has never seen a text's vector in that place, so this measures
how far the vectors of texts are from those of pictures. In this world they are near, because captions name nearly all
that CLIP looks at. Mean cosine with the picture's own embedding (256 captions, a CLIP of 1,200 steps, a diffusion prior
of 600 steps of 64, 80 CPU s of one thread):

| | test | held out |
|---|---|---|
| the text's vector | .931 | .916 |
| one draw of the prior | .952 | .938 |
| of two draws, the nearer to the text | .952 | .938 |
| the prior's estimate of the mean | .956 | .941 |

You need: `models/clip.py`, `models/glide.py`. New here: a chain of models each of which draws the condition of the
next. Read `dalle2_prior.py`, `dalle2_ar_prior.py`, `dalle2_decoder.py`, `dalle2_upsampler.py`, then `dalle2_stages.py`
(how they are trained) and `dalle2_edits.py`.

Details that matter, and the tests that guard them (tests/minigen/models/test_dalle2.py):
- row by row, the decoder gets the $z_i$ that the prior drew for the same prompt, and both get the same prompt;
- CLIP is frozen once its stage is over, and may come from elsewhere (`minigen train dalle2 --clip FILE`);
- every stage begins with the averaged weights of those before it, also when a run is resumed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from kernels.backend import array_module, to_numpy
from minigen.data import Dataset
from minigen.data.captions import completed
from minigen.maths import schedules
from minigen.maths.schedules import Schedule
from minigen.metrics.prompts import notes_for, prompts_for
from minigen.nn import Module

from . import (
    clip,
    dalle2_ar_prior,
    dalle2_decoder,
    dalle2_edits,
    dalle2_prior,
    dalle2_stages,
    dalle2_upsampler,
    glide,
    sampling,
)
from .dalle2_ar_prior import ARPrior
from .dalle2_decoder import Decoder, Told
from .dalle2_prior import DiffusionPrior
from .dalle2_upsampler import SIDES, Upsampler
from .system import Picture, Stage, System

TITLE = "DALL-E 2 (unCLIP)"
PAPER = "Ramesh et al. 2022, arXiv 2204.06125"
EQUATION = "p(x|y) = p(x|z_i, y) p(z_i|y)"
DATA = "shapes"
REUSES_CLIP = True
TOUR: dict[str, Any] = {
    "clip_steps": 200,
    "prior_steps": 150,
    "ar_steps": 100,
    "steps": 150,
    "paint_steps": 40,
    "upsample_steps": 30,
}
PRESETS: dict[str, dict[str, Any]] = {
    "long": {
        "clip_steps": 2400,
        "prior_steps": 8000,
        "ar_steps": 1200,
        "steps": 10_000,
        "paint_steps": 600,
        "upsample_steps": 800,
    }
}
PICTURES = {
    "priors": "a prompt per row, four draws per source of z_i: diffusion prior, autoregressive prior, the text, none",
    "variations": "test pictures, their reconstructions (eta 0), four variations with the same embedding (eta 0.5)",
    "interpolations": "from one test picture to another: embedding and noise on their arcs",
    "text_diffs": "test pictures, and text diffs of them, going further from left to right",
    "edits": "test pictures, what is kept of them (grey: to be inpainted), and four inpaintings for another caption",
    "upsampled": "prompts drawn at 32 x 32 with every pixel doubled or doubled twice, and by the up-samplers",
}
SPACING = "karras"  # of the decoder's levels by default
Priors = Literal["diffusion", "autoregressive", "text", "none"]


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    T: int = 200
    """Length of the noising chains."""
    shift: float = 1.0
    """s: the decoder's chain has the SNR of the cosine schedule divided by s^2, as neighbouring pixels are redundant;
    see `schedules.shifted`. 1: the cosine schedule itself.
    """
    sample_steps: int = 8
    """Levels that the decoder visits in sampling; T or more visits all."""
    prior_sample_steps: int = 20
    """Levels that the diffusion prior visits; T or more visits all."""
    clip_steps: int = 1200
    """Training steps of CLIP; 0 with --clip."""
    channels: int = 128
    """Channels of both priors."""
    layers: int = 2
    """Their transformer blocks."""
    no_caption: float = 0.1
    """Share of the captions that are dropped in their training, for guidance."""
    prior_steps: int = 3000
    """Training steps of the diffusion prior."""
    dims: int = 24
    """Principal axes of the embeddings that the autoregressive prior keeps."""
    buckets: int = 64
    """Buckets that each axis is cut into."""
    dots: int = 16
    """Buckets of the dot product of the picture's and the text's embedding."""
    ar_steps: int = 600
    """Training steps of the autoregressive prior; 0: there is none."""
    prior_lr: float = 4e-3
    """Peak learning rate of the priors (Muon and AdamW); falls along a cosine."""
    patch: int = 4
    """Side of the squares of pixels that become one pixel with more channels before the decoder's first convolution."""
    base: int = 64
    """Channels of the decoder."""
    multipliers: tuple[int, ...] = (1, 1)
    """Channels at each resolution, in units of base; each level halves the size."""
    attention: tuple[int, ...] = (0, 1)
    """Levels that attend to pixels, words and the embedding's tokens; 0 is the first resolution."""
    heads: int = 4
    """Attention heads of all networks."""
    text_layers: int = 2
    """Blocks of the text network that is trained with the decoder, for what CLIP's lacks; 0: there is none."""
    edges: float = 4.0
    """Weight of the error in the differences of neighbouring pixels, which carry the shapes."""
    most: float = 5.0
    """Largest weight of a time; below it the weight is SNR + 1, that of the squared error of v."""
    no_image: float = 0.1
    """Share of the embeddings that are dropped in training the decoder."""
    no_text: float = 0.5
    """Share of the captions that are dropped in training the decoder."""
    steps: int = 3600
    """Training steps of the decoder."""
    batch_size: int = 64
    """Pictures per step, of the priors and the decoder."""
    lr: float = 4e-3
    """Peak learning rate of the decoder and the up-samplers (Muon and AdamW); falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    ema: float = 0.99
    """Decay of the averaged weights, which are used outside training."""
    max_norm: float = 1.0
    """Largest global norm of the gradient."""
    paint_steps: int = 300
    """Steps of the fine-tuning that teaches the decoder to inpaint; 0: it cannot."""
    upsample: int = 2
    """How often the picture's sides can be doubled, each time by an up-sampler of its own: 0 to 2."""
    upsample_steps: int = 400
    """Training steps of each up-sampler."""
    upsample_batch: int = 16
    """Crops per step of the up-samplers."""


@dataclass(frozen=True)
class Sampling(sampling.Sampling):
    """Settings of sampling; --steps says how many levels of its chain the decoder visits."""

    prompt: str | None = None
    """What to draw; if left out, the captions of validation scenes, one per sample. A size, colour or place that it
    does not name is chosen at random; the empty prompt asks for anything.
    """
    prior: Priors = "diffusion"
    """Where the embedding comes from: a prior; "text", the prompt's own vector in place of a picture's; "none", no
    embedding: the decoder gets the prompt alone.
    """
    prior_guidance: float = 1.0
    """s in prior(nothing) + s (prior(prompt) - prior(nothing))."""
    guidance: float = 1.5
    """The same for the decoder: s in f(nothing) + s (f(embedding, prompt) - f(nothing))."""
    spacing: sampling.Spacing | None = None
    """Which levels the decoder visits: evenly spread, denser near the data, or, if left out, evenly in the 7th root of
    the noise ("karras"). Even ones ("uniform") give less clean outlines.
    """
    size: int = 32
    """Side of the pictures: 32, or a size that the up-samplers reach, always in 10 ancestral steps each."""


@dataclass(frozen=True)
class Editing:
    """Settings of editing: an IMAGE with --mask and --prompt, or one of the other three."""

    variations: Picture | None = None
    """A picture, of which --n others with the same CLIP embedding are drawn (the flag of this name of 'minigen sample'
    takes no picture: it uses some of the test split).
    """
    interpolate: tuple[Picture, Picture] | None = None
    """Two pictures: --n pictures on the way from one to the other."""
    text_diff: tuple[Picture, str, str] | None = None
    """A picture, a text that describes it, a text for the wanted picture: --n pictures, going further and further."""
    prompt: str = ""
    """With IMAGE: what the WHOLE picture, the kept part included, should show after inpainting."""
    eta: float | None = None
    """Noise of DDIM on the way down from the picture's own noise, from 0, its reconstruction, to 1. If left out, 0.5
    for variations, 1 for text diffs, 0 for interpolations.
    """
    theta: float | None = None
    """How far a text diff goes at the end, as a share of the arc from the picture's embedding to the difference of the
    texts. If left out, to the direction of the picture's embedding plus that difference.
    """
    noise: Literal["arc", "fixed"] = "arc"
    """The noise that interpolations start from: on the arc between the two pictures' own, or one draw for all."""
    guidance: float | None = None
    """s in f(nothing) + s (f(embedding) - f(nothing)); if left out, 1 for variations, 2 for the others."""
    steps: int | None = None
    """Levels that are visited, both up and down. If left out, 25 for the uses that invert pictures to noise, the
    decoder's own choice for inpainting.
    """


# --- the chain --------------------------------------------------------------------------------------------------------


def unclip(prior: Callable[..., Any], decoder: Callable[..., Any], prompts: Any, *, rng: Any) -> Any:
    r"""Eq. 1: $z_i \sim p(z_i \mid y)$ by ``prior(prompts, rng=)``, then $x \sim p(x \mid z_i, y)$ by
    ``decoder(z, prompts, rng=)``.
    """
    z = prior(prompts, rng=rng)
    return decoder(z, prompts, rng=rng)


@dataclass(frozen=True)
class Chain:
    """The trained networks as distributions of plain arrays."""

    config: Config
    shape: tuple[int, ...]
    text: clip.Embedder
    decoder: Decoder
    prior: DiffusionPrior
    ar_prior: ARPrior | None = None
    upsamplers: dict[int, Upsampler] = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule:
        """The schedule of the prior and the up-samplers."""
        return schedules.cosine(self.config.T)

    @property
    def of_pixels(self) -> Schedule:
        """The schedule of the decoder."""
        return glide.schedule_of(self.config)

    def device(self, a: Any) -> Any:
        """An array on the networks' device."""
        return array_module(self.decoder.unet.conv_in.w.data).asarray(a)

    def noise(self, n: int, rng: Any) -> Any:
        r"""$x_T$ of n pictures."""
        return self.device(rng.standard_normal((n, *self.shape)).astype(np.float32))

    def embeddings(
        self, prompts: Sequence[str], *, rng: Any, prior: str = Sampling.prior, guidance: float = 1.0
    ) -> Any:
        r"""$p(z_i \mid y)$: an embedding for each prompt (n, d), of length 1; or what stands in for it, see `Sampling`."""
        said, null = dalle2_prior.read(self.text, prompts), dalle2_prior.read(self.text, [""])
        if prior == "diffusion":
            steps = min(self.config.prior_sample_steps, self.config.T)
            how = {"steps": steps, "guidance": guidance, "null": null, "rng": rng}
            return dalle2_prior.draw(self.prior, said, self.schedule, **how)
        if prior == "autoregressive":
            if self.ar_prior is None:
                raise ValueError("these weights were trained without ar_steps: they have no autoregressive prior")
            return dalle2_ar_prior.draw(self.ar_prior, said, guidance=guidance, null=null, rng=rng)
        if guidance != 1.0:
            raise ValueError(f"the prior '{prior}' has no guidance: leave it at 1, got {guidance}")
        if prior not in ("text", "none"):
            raise ValueError(f"prior must be 'diffusion', 'autoregressive', 'text' or 'none', got {prior!r}")
        return said.z if prior == "text" else 0 * said.z

    def told(self, z: Any, prompts: Sequence[str] | None = None) -> Told:
        """The decoder's conditions: embeddings (n, d), and prompts, or the null prompt if there are none."""
        said = dalle2_prior.read(self.text, [""] * len(z) if prompts is None else list(prompts))
        return Told(z, glide.Told(said.vector, said.words, said.mask, tokens=said.tokens))

    def decode(
        self,
        z: Any,
        prompts: Sequence[str] | None,
        *,
        rng: Any,
        steps: int | None = None,
        guidance: float = Sampling.guidance,
        sampler: str | Callable[..., Any] = Sampling.sampler,
        spacing: str | None = None,
        **how: Any,
    ) -> Any:
        r"""$p(x \mid z_i, y)$: a picture of the decoder's size for each row of ``z``; ``how`` is that of
        `dalle2_decoder.decode`.
        """
        steps = min(self.config.sample_steps, self.config.T) if steps is None else steps
        if spacing is None and isinstance(sampler, str):  # a sampler of your own chooses its own levels
            spacing = SPACING
        return dalle2_decoder.decode(
            self.decoder,
            self.told(z, prompts),
            self.told(0 * z),
            self.noise(len(z), rng),
            self.of_pixels,
            steps=steps,
            guidance=guidance,
            sampler=sampler,
            spacing=spacing,
            rng=rng,
            **how,
        )

    def sides_up_to(self, size: int) -> Sequence[int]:
        """The sides of the pictures up to ``size``. Raises ValueError if no up-sampler reaches it."""
        return sampling.sides_up_to(size, [self.shape[0], *self.upsamplers])

    def enlarge(self, images: Any, size: int, *, rng: Any) -> Any:
        """``images`` through the up-samplers until their side is ``size``."""
        for side in self.sides_up_to(size)[1:]:
            images = dalle2_upsampler.upsample(self.upsamplers[side], images, self.schedule, rng=rng)
        return images

    def paint(
        self,
        prompts: Sequence[str],
        *,
        rng: Any,
        prior: str = Sampling.prior,
        prior_guidance: float = Sampling.prior_guidance,
        size: int = Sampling.size,
        **settings: Any,
    ) -> Any:
        """A picture in [-1, 1] for each prompt, by `unclip`. What a prompt leaves open is chosen at random."""
        self.sides_up_to(size)  # before anything is drawn
        first = partial(self.embeddings, prior=prior, guidance=prior_guidance)
        images = unclip(first, partial(self.decode, **settings), completed(prompts, rng=rng), rng=rng)
        return to_numpy(self.enlarge(images, size, rng=rng))


# --- the system -------------------------------------------------------------------------------------------------------


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """The networks and what `minigen train`, `sample`, `edit` and `tour` do with them.

    Raises ValueError for settings that do not fit.
    """
    check(config, dataset)
    rng = np.random.default_rng(seed)
    of_clip = clip.Config(steps=config.clip_steps)
    clip_net = clip.CLIP(dataset.shape, of_clip, rng=rng)
    width, c_text, length = of_clip.width, of_clip.text_width, clip_net.tokenizer.length
    sizes: dict[str, Any] = {"channels": config.channels, "layers": config.layers, "heads": config.heads, "rng": rng}
    prior = DiffusionPrior(width, c_text, length, **sizes)
    cut: dict[str, int] = {"dims": config.dims, "buckets": config.buckets, "dots": config.dots}
    ar_prior = ARPrior(width, c_text, length, **cut, **sizes) if config.ar_steps else None
    side, _, c = dataset.shape
    decoder = Decoder(
        c,
        size=side,
        width=width,
        c_text=c_text,
        patch=config.patch,
        base=config.base,
        multipliers=config.multipliers,
        attention=config.attention,
        heads=config.heads,
        words=glide.own_words(config, c_text, rng=rng),
        rng=rng,
    )
    larger = [side * 2**k for k in range(1, config.upsample + 1)]
    upsamplers = {size: Upsampler(c, size, rng=rng) for size in larger}
    chain = Chain(config, dataset.shape, clip.Embedder(clip_net), decoder, prior, ar_prior, upsamplers)
    modules: dict[str, Module] = {"clip": clip_net, "prior": prior}
    modules |= {"ar_prior": ar_prior} if ar_prior is not None else {}
    modules |= {"decoder": decoder, **{f"upsampler_{size}": net for size, net in upsamplers.items()}}

    def stages() -> list[Stage]:
        found = [clip.stage(clip_net, of_clip, dataset)] if config.clip_steps else []
        return found + dalle2_stages.after_clip(chain, dataset)

    def sample(n: int, *, rng: Any, prompt: str | None = None, **settings: Any) -> Any:
        """``n`` pictures in [-1, 1], of ``prompt`` or of `prompts_for(n)`."""
        return chain.paint(prompts_for(n) if prompt is None else [prompt] * n, rng=rng, **settings)

    def notes(images: Any, *, prompt: str | None = None, **settings: Any) -> list[str]:
        """What was asked for, and whether the picture shows it."""
        return notes_for(prompts_for(len(images)) if prompt is None else [prompt] * len(images), images)

    return System(
        config=config,
        dataset_name=dataset.name,
        image_shape=dataset.shape,
        modules=modules,
        stages=stages,
        sample=sample,
        figures=partial(dalle2_edits.figures, chain),
        pictures=dalle2_edits.pictures(chain, dataset),
        notes=notes,
        paint=chain.paint,
        edit=partial(dalle2_edits.edit, chain),
        notes_of_edits=dalle2_edits.notes_of_edits,
    )


def check(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for the first setting that does not fit."""
    if dataset.name != "shapes":
        raise ValueError(f"this model draws what captions say, data set 'shapes', and '{dataset.name}' has none")
    names = "T sample_steps prior_sample_steps channels layers prior_steps patch base heads steps upsample_batch"
    for name in names.split():
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.T < 2:
        raise ValueError("T must be at least 2, as the decoder's spacing 'karras' lies between two levels, got 1")
    if not 0 < config.shift < np.inf:
        raise ValueError(f"shift must be a positive number, got {config.shift}")
    for name in ("no_caption", "no_image", "no_text"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be a share from 0 to below 1, got {getattr(config, name)}")
    leasts = {
        "clip_steps": 0,
        "ar_steps": 0,
        "text_layers": 0,
        "paint_steps": 0,
        "edges": 0,
        "most": 1,
        "buckets": 2,
        "dots": 2,
    }
    for name, least in leasts.items():
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    width = clip.Config().width
    if not 1 <= config.dims <= width:
        raise ValueError(f"dims must be from 1 to {width}, the numbers of an embedding, got {config.dims}")
    if config.upsample not in (0, 1, 2):
        raise ValueError(f"upsample must be 0, 1 or 2 doublings, got {config.upsample}")
    if config.upsample and config.upsample_steps < 1:
        raise ValueError(f"upsample_steps must be at least 1, got {config.upsample_steps}")
    if dataset.shape[0] * 2**config.upsample not in SIDES:
        raise ValueError(
            f"pictures can be drawn up to {SIDES[-1]} pixels: {config.upsample} doublings of {dataset.shape[0]} are more"
        )
