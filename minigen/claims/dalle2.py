"""DALL-E 2: what is a prior good for, which of the two is better, and what of a picture is in its embedding?

One small system per seed, over the CLIP of the claims about CLIP. Prompts ask for one thing with every attribute named,
except the background in the claim about diversity; the oracle of `data/oracle.py` reads the pictures. After so short a
training few prompts are met in full, so the figure counts attributes (`minigen.metrics.prompts.attributes_met`).

**Equal compute.** Both priors have the same transformer; a sequence of the autoregressive one is twice as long. The
steps are fixed by the time one step of each takes on one core, so that no run depends on the machine's load.

**Variations.** If the embedding holds what a picture means, pictures with the same embedding share the meaning and
differ in details. So test pictures are drawn again from their own noise and more (eta 0.5), with their own embedding,
and with that of another picture.

**Diversity.** A caption that does not name the background leaves it open, and training shows all three equally often.
So the entropy of the backgrounds of many pictures of such prompts is ln 3 if nothing is lost. GLIDE is guided in all
that it draws; DALL-E 2's background is in the embedding, which the prior has drawn before the decoder is guided.
"""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import QUICK, rng_of, trained
from minigen.data import Dataset
from minigen.data.captions import canonical, parse
from minigen.data.shapes import GREYS
from minigen.metrics.prompts import attributes_met, prompts_of
from minigen.models import clip, dalle2, dalle2_edits, glide
from minigen.models.system import System

PROMPTS = 100
CLIP_STEPS = 400
SMALL: dict[str, Any] = {
    "steps": 500,
    "batch_size": 32,
    "prior_steps": 400,
    "ar_steps": 250,
    "paint_steps": 0,
    "upsample": 0,
}
GLIDE: dict[str, Any] = {
    "text_layers": 0,
    "steps": 1000,
    "batch_size": 32,
    "paint_steps": 0,
    "upsample": 0,
}  # sees twice as many pictures as DALL-E 2's decoder, which also gets an embedding
SCALES = (1.0, 4.0)  # of guidance
DRAWS = 8  # of prompts with an open background there are PROMPTS // DRAWS, with 4 DRAWS pictures each
ETA = 0.5  # noise of the variations
CHANGED = 0.02  # mean change of a pixel, in [-1, 1], above which a picture counts as another one


def small(setting: Setting) -> tuple[Any, Dataset]:
    """The seed's DALL-E 2."""
    reader = trained(clip, setting, data="shapes", steps=CLIP_STEPS)[0].modules["clip"]

    def build(config: Any, dataset: Dataset, *, seed: int) -> System:
        system = dalle2.build(config, dataset, seed=seed)
        system.modules["clip"].load_arrays(reader.arrays())
        return system

    given: Any = SimpleNamespace(__name__=dalle2.__name__, Config=dalle2.Config, build=build)
    shorter = ("prior_steps", "ar_steps") if setting.quick else ()
    steps = {name: max(1, SMALL[name] // QUICK) for name in shorter}
    return trained(given, setting, data="shapes", clip_steps=0, **SMALL | steps)


def priors(setting: Setting) -> dict[str, float]:
    """Attributes met with either prior, with the text's vector in place of an embedding, and with the text alone."""
    system, _ = small(setting)
    prompts = prompts_of("val", 1, PROMPTS)
    return {
        prior: attributes_met(prompts, system.paint(prompts, rng=rng_of(setting, "walk"), prior=prior))
        for prior in dalle2_edits.PRIORS
    }


def varied(setting: Setting) -> dict[str, float]:
    """Attributes that test pictures of one thing keep, to noise and back, with their own embedding or another's."""
    system, dataset = small(setting)
    chain = system.paint.__self__
    images, scenes = dalle2_edits.one_thing("test", PROMPTS)
    x, captions = dataset.scale(images), [canonical(scene) for scene in scenes]
    levels = dalle2_edits.levels_of(chain, None)
    z = chain.text.encode_image(x)
    x_T = dalle2_edits.inverted(chain, x, z, levels)

    def again(label: str, z: Any, eta: float) -> Any:
        return dalle2_edits.walked(chain, x_T, z, levels, guidance=1.0, eta=eta, rng=rng_of(setting, label))

    variations = again("own", z, ETA)
    return {
        "reconstructions (eta 0)": attributes_met(captions, again("back", z, 0.0)),
        "variations": attributes_met(captions, variations),
        "with another's embedding": attributes_met(captions, again("other", np.roll(z, 1, axis=0), ETA)),
        "variations that are another picture": float((abs(variations - x).mean((1, 2, 3)) > CHANGED).mean()),
    }


def background_entropy(images: Any) -> float:
    """Entropy, in nats, of the background that is nearest to the median of each picture's frame."""
    frame = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    grey = np.median((frame + 1) / 2, axis=1).mean(1)
    p = np.bincount(abs(grey[:, None] - GREYS).argmin(1), minlength=len(GREYS)) / len(grey)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def open_prompts(n: int) -> list[str]:
    """Prompts for one thing without a background."""
    found: list[str] = []
    for prompt in prompts_of("val", 1, 4 * n):
        scene = parse(prompt)
        short = canonical(type(scene)(scene.things, scene.place, scene.relation, None))
        found += [short] if short not in found else []
    return found[:n]


def diversity(setting: Setting) -> dict[str, float]:
    """Mean entropy of the backgrounds of a prompt that leaves them open, for both systems at two scales of guidance."""
    reduced = max(1, CLIP_STEPS // QUICK) if setting.quick else CLIP_STEPS
    with_prior, _ = small(setting)
    without, _ = trained(glide, setting, data="shapes", clip_steps=reduced, **GLIDE)
    prompts, found = open_prompts(PROMPTS // DRAWS), {}

    def entropy(paint: Any) -> float:
        return float(np.mean([background_entropy(paint([prompt] * DRAWS * 4)) for prompt in prompts]))

    for name, system in (("DALL-E 2", with_prior), ("GLIDE", without)):
        for scale in SCALES:
            paint = partial(system.paint, rng=rng_of(setting, f"{name} {scale:g}"), guidance=scale)
            found[f"{name}, guidance {scale:g}"] = entropy(paint)
    return found


def loss_of(groups: dict[str, float], name: str) -> float:
    """How much entropy a system loses by guidance."""
    low, high = (groups[f"{name}, guidance {scale:g}"] for scale in SCALES)
    return low - high


MET = "share of the attributes asked for that came, one thing"
SOURCE = "Ramesh et al. 2022, 2204.06125"


def prior_claim(
    name: str, sentence: str, section: str, first: str, second: str, smallest: float, words: Sequence[str]
) -> Claim:
    """A claim that more attributes are met with ``first`` than with ``second``."""
    return Claim(
        name=name,
        systems=("dalle2",),
        sentence=sentence,
        source=f"{SOURCE}, {section}",
        unit=MET,
        in_words=f"the share with {words[0]} minus that with {words[1]}",
        experiment=priors,
        effect=lambda g: g[first] - g[second],
        smallest=smallest,
    )


CLAIMS = [
    prior_claim(
        "prior-or-text-vector",
        "a prior helps: a drawn embedding is better than the text's own vector in its place",
        "section 5.1 and figure 8",
        "diffusion",
        "text",
        0.02,
        ("the diffusion prior", "the text's vector as z_i"),
    ),
    prior_claim(
        "prior-or-text-alone",
        "a prior helps: a decoder that is told a drawn embedding and the text is better than one that is told the text alone",
        "section 5.1 and figure 8",
        "diffusion",
        "none",
        0.02,
        ("the diffusion prior", "the text alone"),
    ),
    prior_claim(
        "diffusion-or-ar-prior",
        "at equal compute the diffusion prior is better than the autoregressive one",
        "section 5.2 and table 1",
        "diffusion",
        "autoregressive",
        0.0,
        ("the diffusion prior", "the autoregressive prior"),
    ),
    Claim(
        name="variations-keep-what-is-meant",
        systems=("dalle2",),
        sentence="what a picture means is in its embedding: variations keep the attributes, and are other pictures",
        source=f"{SOURCE}, section 3.1",
        unit="share of the attributes of test pictures of one thing; of the pictures",
        in_words="the share that variations keep, times the share of them that are another picture, minus that with another's embedding",
        experiment=varied,
        effect=lambda g: g["variations"] * g["variations that are another picture"] - g["with another's embedding"],
        smallest=0.2,
    ),
    Claim(
        name="guidance-and-diversity",
        systems=("dalle2", "glide"),
        sentence="guidance takes less diversity from DALL-E 2 than from GLIDE",
        source=f"{SOURCE}, section 5.3 and figure 9",
        unit="entropy of the backgrounds of a prompt that leaves them open, nats (at most ln 3 = 1.10)",
        in_words="what guidance 4 takes from GLIDE's minus what it takes from DALL-E 2's",
        experiment=diversity,
        effect=lambda g: loss_of(g, "GLIDE") - loss_of(g, "DALL-E 2"),
        smallest=0.05,
    ),
]
