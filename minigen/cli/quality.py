"""The bridge from the commands to the rulers of `minigen.metrics`: what `minigen sample` prints and the tour's page shows."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from minigen.errors import UserError

SAMPLES = 512  # figures of quality are over this many samples
RINGS = "rings"  # the data set whose samples are points: they are compared with its density, without a ruler
OURS = "these samples"


def ruled(dataset: Any) -> bool:
    """Whether samples of a data set can be measured by `figures`: labelled images, and points on a ring."""
    return dataset.name == RINGS or (len(dataset.shape) == 3 and dataset.train.labels is not None)


def figures(dataset: Any, samples: Any, *, seed: int) -> dict[str, dict[str, float]]:
    """label -> figures of the samples (first) and of references."""
    from minigen.data.rings import Rings
    from minigen.metrics.report import quality, quality_of_points

    if dataset.name == RINGS:
        pair = {OURS: samples, "test split": dataset.test.images}
        return {label: quality_of_points(Rings(), points) for label, points in pair.items()}
    ruler, references = known(dataset)
    return {OURS: quality(dataset, samples, ruler, rng=np.random.default_rng(seed)), **references}


def of_itself(system: Any, dataset: Any, *, seed: int) -> dict[str, float]:
    """What a system measures of itself on the test split, if anything. UserError if these are no figures."""
    if system.figures is None:
        return {}
    found = system.figures(dataset, rng=np.random.default_rng(seed))
    if not isinstance(found, dict):
        raise UserError(f"figures must return a dict, name to number, got {type(found).__name__}")
    try:
        return {name: float(value) for name, value in found.items()}
    except (TypeError, ValueError):
        kinds = ", ".join(f"'{name}' {type(value).__name__}" for name, value in found.items())
        raise UserError(f"figures must return a dict, name to number, got {kinds}") from None


def known(dataset: Any) -> tuple[Any, dict[str, dict[str, float]]]:
    """The ruler of a data set and the figures of real images and of simple baselines; computed once per process."""
    from minigen.metrics.report import reference_rows
    from minigen.metrics.ruler import load_ruler

    key = _key(dataset)
    if key not in _known:
        ruler = load_ruler(dataset)
        _known[key] = ruler, reference_rows(dataset, ruler)
    return _known[key]


def _key(dataset: Any) -> tuple[str, str]:
    """Its name and a digest of all three splits: another one of the same name (another folder's, say) has figures of
    its own.
    """
    from minigen.metrics.ruler import digest

    return dataset.name, digest(dataset, dataset.train, dataset.val, dataset.test)


_known: dict[tuple[str, str], Any] = {}
_chance: dict[tuple[str, str], tuple[float, float]] = {}


def errors(dataset: Any, samples: Any) -> tuple[float, tuple[float, float]]:
    """The spread of the samples' ``fd_ratio``; and its mean and spread for training images drawn with replacement
    (computed once per process).
    """
    from minigen.metrics import report

    ruler, key = known(dataset)[0], _key(dataset)
    if key not in _chance:
        _chance[key] = report.chance(dataset, ruler)
    return report.spread(dataset, samples, ruler), _chance[key]


def classes_of(dataset: Any, samples: Any) -> Any:
    """(n,) integers: the class that the ruler's plain classifier takes each sample for."""
    ruler = known(dataset)[0]
    return ruler.probabilities(dataset.scale(dataset.unscale(samples))).argmax(axis=1)


def prompts(
    paint: Callable[..., Any], n: int, *, seed: int, settings: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """The report of `minigen.metrics.prompts` over ``n`` prompts per group, with these settings but for the prompt."""
    from minigen.metrics.prompts import prompt_report

    others = {name: value for name, value in settings.items() if name != "prompt"}
    return prompt_report(functools.partial(paint, rng=np.random.default_rng(seed), **others), n)


def captioned(dataset: Any, samples: Any, real: Any, other: Any, what: str) -> dict[str, dict[str, float]]:
    """label -> figures of captioned pictures, which have no ruler: the share the oracle can read, the clouds in pixels.

    ``real`` are the pictures that all are compared with, ``other`` (labelled ``what``) as many of the same kind, both
    grey levels. Beside the samples are measured ``other``, their backgrounds without the things, and noise with their
    levels.
    """
    from minigen.data.oracle import readings
    from minigen.metrics.baselines import pixel_noise
    from minigen.metrics.clouds import overlap

    def row(pictures: Any) -> dict[str, float]:
        clouds = overlap(*(x.reshape(len(x), -1).astype(np.float32) for x in (real, dataset.unscale(pictures))))
        return {"valid": float(np.mean([not reading.fault for reading in readings(pictures)])), **asdict(clouds)}

    known = {
        what: other,
        "their backgrounds alone": np.broadcast_to(other[:, :1, :1], other.shape),
        "pixel noise": pixel_noise(other, len(other), rng=np.random.default_rng(0)),
    }
    return {OURS: row(samples), **{label: row(dataset.scale(levels)) for label, levels in known.items()}}


def drawn_again(prompts: Sequence[str], *, seed: int) -> Any:
    """A real picture for each prompt, grey levels: what it leaves open (exact places, shades) depends on ``seed``."""
    from minigen.data import shapes
    from minigen.data.captions import parse

    return shapes.render(shapes.arrange([parse(text) for text in prompts], rng=np.random.default_rng(seed)))


def as_text(figures: Mapping[str, float]) -> dict[str, str]:
    """Heading -> number, in the order and with the digits that `minigen.metrics` gives them."""
    return {c.heading: f"{figures[key]:.{c.digits}f}" for key, c in columns().items() if figures.get(key) is not None}


@functools.cache
def columns() -> dict[str, Any]:
    """key -> the column: its group, its heading, its digits after the point, what it is."""
    from minigen.metrics.report import COLUMNS

    return COLUMNS


def meanings() -> dict[str, str]:
    """Heading -> what it is, in a few words."""
    return {column.heading: column.meaning for column in columns().values()}


def legend(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What the headings of the rows' tables mean: a line per table."""
    found: dict[str, list[str]] = {}
    for key, column in columns().items():
        if any(key in row for row in rows.values()):
            found.setdefault(column.group, []).append(f"{column.heading}: {column.meaning}")
    return [f"{group}: {'. '.join(entries)}." for group, entries in found.items()]


def groups() -> dict[str, list[str]]:
    """Title of a table -> its headings."""
    found: dict[str, list[str]] = {}
    for column in columns().values():
        found.setdefault(column.group, []).append(column.heading)
    return found
