"""Diffusion: schedules, a learned variance, samplers with fewer steps, and whether the network must be told the time.

All on the digits, with a network a third of the default's size that is trained for a third of its steps: the ledger
compares, it does not polish. A figure of quality is the mean over four draws of 512 samples.
"""

from typing import Any

import numpy as np

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import rng_of, trained
from minigen.data import Dataset
from minigen.metrics.frechet import frechet_distance
from minigen.metrics.ruler import load_ruler
from minigen.models import ddpm, improved_ddpm

N, DRAWS = 512, 4
SMALL: dict[str, Any] = {"base": 16, "steps": 500}  # of each of its trainings
FEW = 10  # steps of 200


def distance(system: Any, dataset: Dataset, setting: Setting, **how: Any) -> float:
    """Fréchet distance of samples to the test split, over that of as many training pictures."""
    ruler = load_ruler(dataset)
    test = ruler.features(dataset.scale(dataset.test.images))
    unit = frechet_distance(ruler.features(dataset.scale(dataset.train.images[:N])), test)
    rng, found = rng_of(setting, "samples"), []
    for _ in range(DRAWS):
        x = dataset.scale(dataset.unscale(system.sample(N, rng=rng, **how)))
        found.append(frechet_distance(ruler.features(x), test) / unit)
    return float(np.mean(found))


def schedules(setting: Setting) -> dict[str, float]:
    """Networks trained on either schedule, sampled in 20 steps."""
    found = {}
    for name in ("cosine", "linear"):
        system, dataset = trained(ddpm, setting, schedule=name, **SMALL)
        found[name] = distance(system, dataset, setting)
    return found


def learned(setting: Setting) -> dict[str, float]:
    """One network with a learned variance, in few steps with each of the three variances."""
    system, dataset = trained(improved_ddpm, setting, **SMALL)
    return {
        name: distance(system, dataset, setting, steps=FEW, variance=name) for name in ("learned", "small", "large")
    }


def walks(setting: Setting) -> dict[str, float]:
    """One network in few steps by the ancestral chain with either variance, and by DDIM."""
    system, dataset = trained(ddpm, setting, **SMALL)
    return {
        "DDIM": distance(system, dataset, setting, steps=FEW, sampler="ddim"),
        "DDPM, small": distance(system, dataset, setting, steps=FEW, variance="small"),
        "DDPM, large": distance(system, dataset, setting, steps=FEW, variance="large"),
    }


def told(setting: Setting) -> dict[str, float]:
    """Networks trained and sampled with the time, and without."""
    found = {}
    for label, tell_time in (("told the time", True), ("not told", False)):
        system, dataset = trained(ddpm, setting, tell_time=tell_time, **SMALL)
        found[label] = distance(system, dataset, setting)
    return found


UNIT = "Fréchet distance to the test pictures, in units of as many training pictures'"

CLAIMS = [
    Claim(
        name="cosine-schedule",
        systems=("ddpm", "improved_ddpm"),
        sentence="the cosine schedule is better than the linear one",
        source="Nichol & Dhariwal 2021, 2102.09672, section 3.2",
        unit=UNIT,
        in_words="the distance with the linear schedule minus that with the cosine, 20 steps of 200",
        experiment=schedules,
        effect=lambda g: g["linear"] - g["cosine"],
        smallest=0.25,
    ),
    Claim(
        name="learned-variance-fewer-steps",
        systems=("improved_ddpm",),
        sentence="a learned variance allows fewer steps",
        source="Nichol & Dhariwal 2021, 2102.09672, section 4",
        unit=UNIT,
        in_words="the distance with the better fixed variance minus that with the learned one, 10 steps of 200",
        experiment=learned,
        effect=lambda g: min(g["small"], g["large"]) - g["learned"],
        smallest=0.1,
    ),
    Claim(
        name="ddim-fewer-steps",
        systems=("ddpm",),
        sentence="in few steps DDIM draws better than DDPM's chain",
        source="Song, Meng & Ermon 2020, 2010.02502, table 1",
        unit=UNIT,
        in_words="the distance of the chain with its better fixed variance minus DDIM's, 10 steps of 200",
        experiment=walks,
        effect=lambda g: min(g["DDPM, small"], g["DDPM, large"]) - g["DDIM"],
        smallest=0.1,
    ),
    Claim(
        name="time-embedding",
        systems=("ddpm",),
        sentence="the network must be told the time",
        source="Ho, Jain & Abbeel 2020, 2006.11239; doubted by Sun et al. 2025, 2502.13129",
        unit=UNIT,
        in_words="the distance of the network that is not told the time minus that of the one that is, 20 steps of 200",
        experiment=told,
        effect=lambda g: g["not told"] - g["told the time"],
        smallest=0.25,
    ),
]
