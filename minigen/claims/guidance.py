"""Guidance: what it buys, what it costs, and whether it needs a classifier.

All on 510 samples, all classes in turn, of systems that are smaller than their defaults. The judge is the ruler's
classifier, which no sampler has seen; a sample counts as *right* if the judge assigns it to the requested class. Recall
and precision are of the test split, in pixels.

**Equal compute.** The noisy classifier costs training that a classifier-free model does not need. So the latter trains
longer: the numbers of steps are fixed by the time one step of each takes on one core (145 ms for ADM's denoiser, 57 ms
for its classifier, 104 ms for the classifier-free model, measured side by side), so that no run depends on the
machine's load. Sampling takes about twice as long with either guidance. Each is shown at its best of three scales.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import autograd as ag
from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import QUICK, rng_of, trained
from minigen.data import Dataset
from minigen.maths import schedules
from minigen.maths.diffusion import q_sample
from minigen.metrics.clouds import Overlap, overlap
from minigen.metrics.ruler import load_ruler
from minigen.models import adm, classifier_free

N = 510  # samples in every comparison: 51 of each class
ADM: dict[str, Any] = {"base": 16, "steps": 800}
CLASSIFIER_STEPS = 800
FREE: dict[str, Any] = {"base": 16, "steps": 1550}  # takes as long as both stages of ADM
ADM_SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
FREE_SCALES = (0.0, 1.0, 1.5, 2.0, 4.0)
FEW, MANY = 5, 20  # sampling steps
SIZES: dict[str, dict[str, Any]] = {  # all attend in the middle alone, over twice the channels
    "8 channels, one head": {"base": 8, "channels_per_head": 16},
    "24 channels, one head": {"base": 24, "channels_per_head": 48},
    "24 channels, six heads": {"base": 24, "channels_per_head": 8},
}
SIZE_STEPS = 300


def with_classifier(setting: Setting) -> tuple[Any, Dataset]:
    """ADM: its denoiser, which is not conditioned on classes, and its noisy classifier."""
    steps = max(1, CLASSIFIER_STEPS // QUICK) if setting.quick else CLASSIFIER_STEPS
    return trained(adm, setting, classifier_steps=steps, **ADM)


def without_classifier(setting: Setting) -> tuple[Any, Dataset]:
    """The classifier-free model."""
    return trained(classifier_free, setting, **FREE)


def walk(setting: Setting, system: Any, dataset: Dataset, scale: float, **how: Any) -> Any:
    """510 samples, all classes in turn, rounded to grey levels; the same noise at every scale."""
    return dataset.scale(dataset.unscale(system.sample(N, rng=rng_of(setting, "walk"), scale=scale, **how)))


def right(dataset: Dataset, images: Any, *, accepted: bool = False) -> float:
    """Share that the ruler assigns to the requested class; with ``accepted``, that its twin also accepts as a digit."""
    ruler = load_ruler(dataset)
    found = ruler.probabilities(images).argmax(1) == np.arange(len(images)) % len(dataset.classes)
    return float((found & ruler.accepted(images) if accepted else found).mean())


def cloud(dataset: Dataset, images: Any) -> Overlap:
    """Precision and recall of the test split, in pixels."""
    test = dataset.scale(dataset.test.images)
    return overlap(test.reshape(len(test), -1), images.reshape(len(images), -1))


@cache  # four claims measure them
def walks(setting: Setting) -> tuple[Dataset, dict[str, Any]]:
    """The samples of both systems at their scales."""
    found = {}
    for name, (system, dataset), scales in (
        ("classifier", with_classifier(setting), ADM_SCALES),
        ("classifier-free", without_classifier(setting), FREE_SCALES),
    ):
        for scale in scales:
            found[f"{name}, {scale:g}"] = walk(setting, system, dataset, scale)
    return dataset, found


def over_scales(setting: Setting, measure: Callable[[Dataset, Any], float]) -> dict[str, float]:
    """``measure`` of the samples of both systems at their scales."""
    dataset, found = walks(setting)
    return {label: measure(dataset, images) for label, images in found.items()}


def accuracy(setting: Setting) -> dict[str, float]:
    """Share of samples of the asked class, over scales."""
    return over_scales(setting, right)


def precision(setting: Setting) -> dict[str, float]:
    """Precision over scales."""
    return over_scales(setting, lambda dataset, x: cloud(dataset, x).precision)


def recall(setting: Setting) -> dict[str, float]:
    """Recall over scales."""
    return over_scales(setting, lambda dataset, x: cloud(dataset, x).recall)


def judged(setting: Setting) -> dict[str, float]:
    """Share of samples that are accepted as a digit and are of the asked class, over scales."""
    return over_scales(setting, lambda dataset, x: right(dataset, x, accepted=True))


def steps_and_scales(setting: Setting) -> dict[str, float]:
    """Accuracy of the classifier-free model in few and in many steps, unguided (scale 1) and guided (scale 2)."""
    system, dataset = without_classifier(setting)
    return {
        f"scale {scale:g}, {steps} steps": right(
            dataset, walk(setting, system, dataset, scale, steps=steps, sampler="ddim")
        )
        for scale in (1.0, 2.0)
        for steps in (FEW, MANY)
    }


def sizes(setting: Setting) -> dict[str, float]:
    r"""$\| \epsilon - \epsilon_\theta \|^2$ on the test split of three denoisers, at the same times with the same noise."""
    found = {}
    for name, changes in SIZES.items():
        config = {"attention": (), "classifier_steps": 0, "steps": SIZE_STEPS, "warmup": 30, **changes}
        system, dataset = trained(adm, setting, **config)
        rng, x_0 = rng_of(setting, "noise"), dataset.scale(dataset.test.images)
        t, eps = rng.integers(1, system.config.T + 1, len(x_0)), rng.standard_normal(x_0.shape).astype(np.float32)
        schedule = schedules.make(system.config.schedule, system.config.T)
        with ag.no_grad():
            guess, _ = system.modules["denoiser"](q_sample(x_0, t, eps, schedule), t)
        found[name] = float(np.square(ag.raw(guess) - eps).mean())
    return found


def best(groups: dict[str, float], name: str, scales: tuple[float, ...]) -> float:
    """The largest of a system's figures over these scales."""
    return max(groups[f"{name}, {scale:g}"] for scale in scales)


CLAIMS = [
    Claim(
        name="guidance-accuracy",
        systems=("adm",),
        sentence="a larger scale than 1 is needed for classifier guidance to draw what is asked for",
        source="Dhariwal & Nichol 2021, 2105.05233, section 4.3",
        unit="share of samples of the asked class",
        in_words="ADM's accuracy at scale 4 minus that at scale 1",
        experiment=accuracy,
        effect=lambda g: g["classifier, 4"] - g["classifier, 1"],
        smallest=0.05,
    ),
    Claim(
        name="guidance-precision",
        systems=("adm", "classifier_free"),
        sentence="guidance buys fidelity (precision rises with the scale)",
        source="Dhariwal & Nichol 2021, 2105.05233, figure 4; Ho & Salimans 2022, 2207.12598, figure 4",
        unit="precision, in pixels",
        in_words="the rise from scale 1 to scale 4, of the system in which it is smaller",
        experiment=precision,
        effect=lambda g: min(g[f"{name}, 4"] - g[f"{name}, 1"] for name in ("classifier", "classifier-free")),
        smallest=0.02,
    ),
    Claim(
        name="guidance-recall",
        systems=("adm", "classifier_free"),
        sentence="guidance costs diversity (recall falls with the scale)",
        source="Dhariwal & Nichol 2021, 2105.05233, figure 4; Ho & Salimans 2022, 2207.12598, figure 4",
        unit="recall of the test pictures, in pixels",
        in_words="the fall from scale 1 to scale 4, of the system in which it is smaller",
        experiment=recall,
        effect=lambda g: min(g[f"{name}, 1"] - g[f"{name}, 4"] for name in ("classifier", "classifier-free")),
        smallest=0.02,
    ),
    Claim(
        name="guidance-steps",
        systems=("classifier_free",),
        sentence="with guidance fewer steps draw what is asked for as surely",
        source="Dhariwal & Nichol 2021, 2105.05233, section 5",
        unit="share of samples of the asked class",
        in_words="the accuracy of 5 guided steps (scale 2) minus that of 20 unguided ones (scale 1)",
        experiment=steps_and_scales,
        effect=lambda g: g[f"scale 2, {FEW} steps"] - g[f"scale 1, {MANY} steps"],
    ),
    Claim(
        name="adm-size",
        systems=("adm",),
        sentence="a bigger U-Net is better at equal steps",
        source="Dhariwal & Nichol 2021, 2105.05233, table 1",
        unit="squared error of the noise, test split",
        in_words="the error with 8 channels minus that with 24, both with one head",
        experiment=sizes,
        effect=lambda g: g["8 channels, one head"] - g["24 channels, one head"],
        smallest=0.005,
    ),
    Claim(
        name="adm-heads",
        systems=("adm",),
        sentence="more attention heads are better at equal steps and size",
        source="Dhariwal & Nichol 2021, 2105.05233, table 2",
        unit="squared error of the noise, test split",
        in_words="the error with one head minus that with six of 8 channels each",
        experiment=sizes,
        effect=lambda g: g["24 channels, one head"] - g["24 channels, six heads"],
    ),
    Claim(
        name="classifier-free-or-classifier",
        systems=("adm", "classifier_free"),
        sentence="guidance needs no classifier: at equal compute, classifier-free guidance is at least as good",
        source="Ho & Salimans 2022, 2207.12598",
        unit="share of samples accepted as a digit and of the asked class",
        in_words="the classifier-free model's share at its best of three scales minus ADM's at its best of three",
        experiment=judged,
        effect=lambda g: best(g, "classifier-free", FREE_SCALES[2:]) - best(g, "classifier", ADM_SCALES[2:]),
    ),
]
