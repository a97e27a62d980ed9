"""DALL-E: is a judge worth having, and are two stages better than one?

All on prompts that ask for one thing with every attribute named, read by the oracle of `data/oracle.py`.

**Equal compute.** The second claim compares the codec and the transformer over its codes with the same transformer over
pixels, 32x32 tokens of a palette of 16 colours (after image GPT, Chen et al. 2020), which loses nothing that the oracle
needs: it reads every test picture right in these colours. Both train for the same time on one core, the codec's
included. The numbers of steps are fixed by the time that a step takes, so that no run depends on the machine's load.
"""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

import autograd as ag
from kernels.quantize import nearest_code
from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import QUICK, rng_of, trained
from minigen.data import Dataset, Split
from minigen.data.oracle import prompt_accuracy
from minigen.data.tokenizer import WordTokenizer
from minigen.metrics.prompts import prompts_for, prompts_of
from minigen.models import dalle
from minigen.models.system import Stage, System
from minigen.samplers import autoregressive

PROMPTS = 100
CHAIN = {"codec_steps": 400, "clip_steps": 300, "steps": 900}  # about three minutes on one core
CANDIDATES = (1, 4, 16, 64)
PALETTE = 16  # colours
PIXEL_STEPS = 400  # take as long as the chain's steps of codec and transformer


def chain(setting: Setting) -> Any:
    """The reduced chain."""
    steps = {name: n if name == "steps" or not setting.quick else max(1, n // QUICK) for name, n in CHAIN.items()}
    return trained(dalle, setting, data="shapes", **steps)[0]


def accuracy(prompts: list[str], images: Any) -> float:
    """Share of the pictures that show everything that was asked for."""
    return prompt_accuracy(prompts, images)["all"]


def reranked(setting: Setting) -> dict[str, float]:
    """Prompt accuracy when CLIP chooses among N candidates."""
    system, prompts = chain(setting), prompts_of("val", 1, PROMPTS)
    return {
        f"best of {n}": accuracy(prompts, system.paint(prompts, rng=rng_of(setting, f"best of {n}"), rerank=n))
        for n in CANDIDATES
    }


# --- the transformer over pixels --------------------------------------------------------------------------------------


@cache
def palette() -> Any:
    """Colours (16, 3) in [-1, 1]: 16 rounds of k-means over 256 training pictures' pixels, from colours far apart."""
    from minigen.data import load

    dataset = load("shapes")
    seen = dataset.scale(dataset.train.images[:256]).reshape(-1, 3)
    pixels = np.unique(np.round(seen * 20) / 20, axis=0).astype(
        np.float32
    )  # each colour once: edges are few but matter
    colours = pixels[:1]
    while len(colours) < PALETTE:
        distance = np.square(pixels[:, None] - colours).sum(-1).min(1)
        colours = np.concatenate([colours, pixels[[distance.argmax()]]])
    for _ in range(16):
        nearest = nearest_code(pixels, colours)
        colours = np.stack([pixels[nearest == k].mean(0) for k in range(PALETTE)])
    return colours


@dataclass(frozen=True)
class Config(dalle.Config):
    """DALL-E's, for a sequence twelve times as long."""

    batch_size: int = 4
    steps: int = PIXEL_STEPS


def build(config: Config, dataset: Dataset, *, seed: int) -> System:
    """DALL-E's transformer with a pixel for a code."""
    h, w, c = dataset.shape
    tokenizer = WordTokenizer()
    vocabulary = dalle.Vocabulary(len(tokenizer), tokenizer.length, PALETTE)
    net = dalle.DALLE(vocabulary, (h, w), config, rng=np.random.default_rng(seed))

    def loss(batch: Split, rng: Any, step: int) -> tuple[Any, dict[str, Any]]:
        text, _ = tokenizer.batch(list(batch.captions or ()))
        text = dalle.without_captions(text, tokenizer.null, rng.random(len(text)) < config.p_uncond)
        colours = nearest_code(dataset.scale(batch.images).reshape(-1, c), palette()).reshape(len(text), h, w)
        of_text, of_codes = net.losses(dalle.sequence(vocabulary, text, colours, tokenizer.eos))
        return dalle.weighted(of_text, of_codes, config.text_weight), {"codes": ag.raw(of_codes)}

    def stages() -> list[Stage]:
        return [dalle.transformer_stage(net, loss, config)]

    def paint(prompts: list[str], *, rng: Any) -> Any:
        u = autoregressive.uniforms(len(prompts), net.length, rng=rng)
        text = vocabulary.of_text(tokenizer.batch(prompts)[0], tokenizer.eos)
        null = vocabulary.of_text(tokenizer.null[None], tokenizer.eos)[0]
        return palette()[
            dalle.draw_codes(
                net, text, null, u, guidance=dalle.Sampling.guidance, temperature=dalle.Sampling.temperature
            )
        ]

    def sample(n: int, *, rng: Any, **settings: Any) -> Any:
        return paint(prompts_for(n), rng=rng)

    return System(config, dataset.name, dataset.shape, {"transformer": net}, stages, sample, paint=paint)


PIXELS: Any = SimpleNamespace(__name__="pixels", Config=Config, build=build)


def two_stages(setting: Setting) -> dict[str, float]:
    """Prompt accuracy without re-ranking."""
    prompts = prompts_of("val", 1, PROMPTS)
    over_codes, (over_pixels, _) = chain(setting), trained(PIXELS, setting, data="shapes")
    return {
        "codec and transformer": accuracy(prompts, over_codes.paint(prompts, rng=rng_of(setting, "codes"))),
        "transformer over pixels": accuracy(prompts, over_pixels.paint(prompts, rng=rng_of(setting, "pixels"))),
    }


CLAIMS = [
    Claim(
        name="clip-reranking",
        systems=("dalle",),
        sentence="CLIP's choice among candidates raises prompt accuracy",
        source="Ramesh et al. 2021, 2102.12092, figure 9",
        unit="share of prompts met, one thing",
        in_words="the share with the best of 16 minus that of single draws",
        experiment=reranked,
        effect=lambda g: g["best of 16"] - g["best of 1"],
        smallest=0.05,
    ),
    Claim(
        name="two-stages",
        systems=("dalle",),
        sentence="at equal compute, two stages beat a transformer over pixels",
        source="Ramesh et al. 2021, 2102.12092, section 2; Esser et al. 2021, 2012.09841",
        unit="share of prompts met, one thing",
        in_words="the share of the codec with its transformer minus that of the transformer over pixels",
        experiment=two_stages,
        effect=lambda g: g["codec and transformer"] - g["transformer over pixels"],
        smallest=0.05,
    ),
]
