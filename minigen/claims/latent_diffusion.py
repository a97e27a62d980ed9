"""Latent diffusion: is it cheaper than diffusion of pixels, does the codec's regulariser matter, and which sampler is
worth its steps?

All on prompts that ask for one thing with every attribute named. The oracle of `data/oracle.py` reads the pictures, and
the figure is the share of attributes met (`minigen.metrics.prompts.attributes_met`), because after so short a training
few prompts are met in full. The systems of one seed share one small CLIP.

**Equal compute.** Every U-Net works on a grid of 8 x 8 places (4 x 4 for f = 8), the pixels' too (squares of 4 x 4
pixels become one place): what differs is what a place holds. The numbers of steps are fixed by the time one step of
each takes on one core, so that no run depends on the machine's load: 234, 231, 222 and 153 ms for diffusion in pixels
and with f = 2, 4 and 8, and 188, 116 and 106 ms for the codecs, measured side by side. All take as long as codec and
diffusion with f = 4. Captions are read by CLIP alone: the text network that learns beside it would cost all of them the
same.

**Few steps.** The samplers start from the same noise and are judged by how far their pictures are from those that 200
steps of DDIM draw from it, and by the attributes met.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from kernels.backend import to_numpy
from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import QUICK, rng_of, trained
from minigen.data import Dataset
from minigen.data.oracle import prompt_accuracy
from minigen.metrics.prompts import attributes_met, prompts_of
from minigen.models import clip
from minigen.models import stable_diffusion as sd
from minigen.models.latent_codec import Codec
from minigen.models.system import System

PROMPTS = 100
CLIP_STEPS = 400
CODEC_STEPS = 300
STEPS = 600  # of the latent model with f = 4
SIZES: dict[str, dict[str, Any]] = {
    "pixels": {"codec": "identity", "patch": 4, "steps": 720},
    "f = 2": {"factor": 2, "patch": 2, "steps": 480},
    "f = 4": {"factor": 4, "patch": 1, "steps": STEPS},
    "f = 8": {"factor": 8, "patch": 1, "channels": 16, "steps": 890},
}
WALKS = ("ddim", "plms", "dpmpp-2m", "dpmpp-2s")
FEW = 10  # sampling steps
ALL = 200


def system_of(setting: Setting, **changes: Any) -> tuple[Any, Dataset]:
    """A small Stable Diffusion over the seed's CLIP, without its fine-tunings."""
    reader = trained(clip, setting, data="shapes", steps=CLIP_STEPS)[0].modules["clip"]

    def build(config: sd.Config, dataset: Dataset, *, seed: int) -> System:
        system = sd.build(config, dataset, seed=seed)
        system.modules["clip"].load_arrays(reader.arrays())
        return system

    model: Any = SimpleNamespace(__name__="stable_diffusion", Config=sd.Config, build=build)
    codec_steps = max(1, CODEC_STEPS // QUICK) if setting.quick else CODEC_STEPS
    small = {"steps": STEPS, "codec_steps": codec_steps, "text_layers": 0}
    left_out = {"clip_steps": 0, "beside_steps": 0, "upscale_steps": 0}
    return trained(model, setting, data="shapes", **small | left_out | changes)


def met(setting: Setting, system: Any, **how: Any) -> float:
    """Share of attributes met."""
    prompts = prompts_of("val", 1, PROMPTS)
    return attributes_met(prompts, system.paint(prompts, rng=rng_of(setting, "prompts"), **how))


def sizes(setting: Setting) -> dict[str, float]:
    """Attributes met after equal training, in pixels and in maps of three sizes."""
    return {label: met(setting, system_of(setting, **changes)[0]) for label, changes in SIZES.items()}


def fewer_calls(setting: Setting) -> dict[str, float]:
    """Attributes met in pixels with 15 calls of the network, and in maps with a third of them."""
    pixels, maps = (system_of(setting, **SIZES[label])[0] for label in ("pixels", "f = 4"))
    return {"pixels, 15 calls": met(setting, pixels, steps=15), "f = 4, 5 calls": met(setting, maps, steps=5)}


def copies(setting: Setting) -> dict[str, float]:
    """Share of test pictures that are still right after the codec, for both regularisers."""
    found = {}
    for name in ("kl", "vq"):
        system, dataset = system_of(setting, codec=name)
        codec, some = Codec(system.modules["codec"]), dataset.test.take(slice(0, 512))
        restored = to_numpy(codec.decode(codec.encode(dataset.scale(some.images))))
        found[name] = prompt_accuracy(list(some.scenes), restored)["all"]
    return found


def regularisers(setting: Setting) -> dict[str, float]:
    """Attributes met after equal training, in the maps of both."""
    return {name: met(setting, system_of(setting, codec=name)[0]) for name in ("kl", "vq")}


def few_steps(setting: Setting) -> dict[str, float]:
    """How far each sampler ends, after few steps, from where many steps of DDIM lead from the same noise."""
    system, _ = system_of(setting, **SIZES["f = 4"])
    prompts = prompts_of("val", 1, 32)

    def drawn(sampler: str, steps: int) -> Any:
        return system.paint(prompts, rng=rng_of(setting, "noise"), sampler=sampler, steps=steps)

    far = drawn("ddim", ALL)
    return {name: float(np.sqrt(np.square(drawn(name, FEW) - far).mean())) for name in WALKS}


def few_prompts(setting: Setting) -> dict[str, float]:
    """Attributes met with each sampler in few steps."""
    system, _ = system_of(setting, **SIZES["f = 4"])
    return {name: met(setting, system, sampler=name, steps=FEW) for name in WALKS}


MET = "share of the attributes asked for that came, one thing"
LDM = "Rombach et al. 2022, 2112.10752"
CLAIMS = [
    Claim(
        name="latent-cheaper",
        systems=("stable_diffusion",),
        sentence="after equal training compute, diffusion in a codec's maps (f = 4) obeys prompts better than diffusion of pixels",
        source=f"{LDM}, section 4.1, figure 6",
        unit=MET,
        in_words="the share with f = 4 minus that in pixels",
        experiment=sizes,
        effect=lambda g: g["f = 4"] - g["pixels"],
        smallest=0.05,
    ),
    Claim(
        name="latent-compression",
        systems=("stable_diffusion",),
        sentence="there is a right amount of compression: f = 4 obeys prompts better than f = 2 and than f = 8",
        source=f"{LDM}, section 4.1, figure 6",
        unit=MET,
        in_words="the share with f = 4 minus the better of f = 2 and f = 8",
        experiment=sizes,
        effect=lambda g: g["f = 4"] - max(g["f = 2"], g["f = 8"]),
    ),
    Claim(
        name="latent-fewer-calls",
        systems=("stable_diffusion",),
        sentence="diffusion in maps obeys prompts as well as diffusion of pixels with a third of the network's calls",
        source=f"{LDM}, section 4.1, figure 7",
        unit=MET,
        in_words="the share in maps with 5 calls minus that in pixels with 15",
        experiment=fewer_calls,
        effect=lambda g: g["f = 4, 5 calls"] - g["pixels, 15 calls"],
        smallest=-0.02,
    ),
    Claim(
        name="latent-kl-copies",
        systems=("stable_diffusion",),
        sentence="a codec whose maps are pulled towards a normal keeps more than one whose vectors come from a codebook",
        source=f"{LDM}, appendix, table 8",
        unit="share of test pictures right after the codec",
        in_words='the share with "kl" minus that with "vq"',
        experiment=copies,
        effect=lambda g: g["kl"] - g["vq"],
    ),
    Claim(
        name="latent-kl-or-vq",
        systems=("stable_diffusion",),
        sentence="diffusion in the maps of a codebook obeys prompts no worse (within 5 points)",
        source=f"{LDM}, section 4.1: VQ-regularised spaces sometimes give better samples, though their copies are slightly worse",
        unit=MET,
        in_words='the share with "vq" minus that with "kl"',
        experiment=regularisers,
        effect=lambda g: g["vq"] - g["kl"],
        smallest=-0.05,
    ),
    Claim(
        name="plms-few-steps",
        systems=("stable_diffusion",),
        sentence="with 10 steps PLMS ends nearer to the exact path than DDIM",
        source="Liu et al. 2022, 2202.09778, table 3",
        unit="distance from what 200 steps of DDIM draw, root mean square over pixels in [-1, 1]",
        in_words="the distance of DDIM minus that of PLMS",
        experiment=few_steps,
        effect=lambda g: g["ddim"] - g["plms"],
    ),
    Claim(
        name="dpm-solver-few-steps",
        systems=("stable_diffusion",),
        sentence="with 10 steps DPM-Solver++ (2M) ends nearer to the exact path than DDIM",
        source="Lu et al. 2022, 2211.01095, section 7",
        unit="distance from what 200 steps of DDIM draw, root mean square over pixels in [-1, 1]",
        in_words="the distance of DDIM minus that of DPM-Solver++",
        experiment=few_steps,
        effect=lambda g: g["ddim"] - g["dpmpp-2m"],
    ),
    Claim(
        name="few-steps-prompts",
        systems=("stable_diffusion",),
        sentence="with 10 steps a solver of second order obeys prompts better than DDIM",
        source="Lu et al. 2022, 2211.01095; Liu et al. 2022, 2202.09778",
        unit=MET,
        in_words="the better share of PLMS and DPM-Solver++ (2M) minus that of DDIM",
        experiment=few_prompts,
        effect=lambda g: max(g["plms"], g["dpmpp-2m"]) - g["ddim"],
        smallest=0.02,
    ),
]
