"""The bridge from the tour to the rulers of `minigen.metrics`: figures as text, ready for the page."""

import functools
from typing import Any

import numpy as np

SAMPLES = 512  # figures of quality are over this many samples
RINGS = "rings"  # the data set whose samples are points: they are set against its density, without a ruler


def rows(dataset: Any, samples: Any, *, seed: int) -> list[dict[str, Any]]:
    """``{"label", "figures": {heading: text}}`` of the samples and of what is known.

    For labelled images and for points on a ring; of anything else no figure is known, and there are no rows.
    """
    if dataset.name != RINGS and (len(dataset.shape) != 3 or dataset.train.labels is None):
        return []
    found = figures(dataset, samples, seed=seed)
    return [{"label": label, "figures": as_text(row)} for label, row in found.items()]


def figures(dataset: Any, samples: Any, *, seed: int) -> dict[str, dict[str, float]]:
    """label -> figures of the samples (first) and of what is known."""
    from minigen.data.rings import Rings
    from minigen.metrics.report import quality, quality_of_points

    if dataset.name == RINGS:
        pair = {"these samples": samples, "test split": dataset.test.images}
        return {label: quality_of_points(Rings(), points) for label, points in pair.items()}
    ruler, references = known(dataset.name, dataset)
    return {"these samples": quality(dataset, samples, ruler, rng=np.random.default_rng(seed)), **references}


def known(name: str, dataset: Any) -> tuple[Any, dict[str, dict[str, float]]]:
    """The ruler of a data set and the figures of real images and of simple baselines; worked out once a tour."""
    if name not in _known:
        from minigen.metrics.report import reference_rows
        from minigen.metrics.ruler import load_ruler

        ruler = load_ruler(dataset)
        _known[name] = ruler, reference_rows(dataset, ruler)
    return _known[name]


_known: dict[str, Any] = {}


def as_text(figures: dict[str, float]) -> dict[str, str]:
    """Heading -> number, in the order and with the digits that `minigen.metrics` gives them."""
    return {c.heading: f"{figures[key]:.{c.digits}f}" for key, c in columns().items() if key in figures}


@functools.cache
def columns() -> dict[str, Any]:
    """key -> the column: its group, its heading, its digits after the point, what it is."""
    from minigen.metrics.report import COLUMNS

    return COLUMNS


def meanings() -> dict[str, str]:
    """Heading -> what it is, in a few words."""
    return {column.heading: column.meaning for column in columns().values()}


def groups() -> dict[str, list[str]]:
    """Title of a table -> its headings."""
    found: dict[str, list[str]] = {}
    for column in columns().values():
        found.setdefault(column.group, []).append(column.heading)
    return found
