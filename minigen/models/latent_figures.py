"""Stable Diffusion's figures on the test split, and the pictures of its uses. There are no equations here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.backend import to_numpy
from minigen.data import Dataset, Split
from minigen.data.oracle import prompt_accuracy
from minigen.data.oracle import read as read_pictures
from minigen.metrics.prompts import GROUPS, prompt_report, prompts_for, prompts_of

from . import glide_edits
from .latent_beside import LAYOUT, boxes_of, layout_map
from .latent_codec import Codec, Identity

SHOWN = 64  # prompts per group, and edits, in the figures
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Uses:
    """What a trained system can do: ``draw(prompts, *, rng, ...)`` and ``enlarge(images, prompts, *, rng)``, NumPy
    arrays in and out.
    """

    codec: Codec | Identity
    draw: Callable[..., Any]
    enlarge: Callable[..., Any]
    knows_layouts: bool
    enlarges: bool


def figures(uses: Uses, paint: Callable[..., Any], dataset: Dataset, *, rng: Any) -> dict[str, float]:
    """What the codec keeps; how often prompts, edits and layouts are met; whether known pixels stay."""
    of = dataset.test.take(np.arange(4 * SHOWN))
    copies = to_numpy(uses.codec.decode(uses.codec.encode(dataset.scale(of.images))))
    found = {"pictures right after the codec": prompt_accuracy(list(of.scenes), copies)["all"]}
    report = prompt_report(paint, SHOWN, list(GROUPS))
    found |= {f"prompts met, {group}": rates["all"] for group, rates in report.items()}
    images, keep, prompts = glide_edits.tasks(SHOWN, rng=rng)
    x = dataset.scale(images)
    y = uses.draw(prompts, rng=rng, image=x, keep=keep)
    found["holes painted as asked"] = prompt_accuracy(prompts, y)["all"]
    found["largest change of a known pixel"] = float(abs((y - x) * keep).max())
    for strength in STRENGTHS[1::2]:
        y = uses.draw(prompts, rng=rng, start=x, strength=strength)
        found[f"img2img as asked, strength {strength:g}"] = prompt_accuracy(prompts, y)["all"]
    if uses.knows_layouts:
        some = dataset.test.take(slice(0, SHOWN))
        boxes, captions = boxes_of(some.scenes), list(some.captions or ())
        found["layouts met without words"] = layouts_met(some.scenes, uses.draw([""] * SHOWN, rng=rng, layouts=boxes))
        y = uses.draw(captions, rng=rng, layouts=boxes)
        found["layouts met with captions"] = layouts_met(some.scenes, y)
        found["prompts met with layouts"] = prompt_accuracy(captions, y)["all"]
    if uses.enlarges:
        prompts = prompts_of("val", 1, SHOWN)
        large = paint(prompts, size=2 * x.shape[1])
        found["prompts met, seen, one thing, at twice the size"] = prompt_accuracy(prompts, large)["all"]
        scenes = list(dataset.test.scenes[:SHOWN])
        large = uses.enlarge(dataset.scale(dataset.test.images[:SHOWN]), [""] * SHOWN, rng=rng)
        found["test pictures right after the up-scaler, without words"] = prompt_accuracy(scenes, large)["all"]
    return found


def layouts_met(scenes: Any, drawn: Any) -> float:
    """Share of the pictures, drawn by the layouts of ``scenes``, in which the oracle reads their shapes in place."""
    right = 0
    for want, seen in zip(scenes, read_pictures(drawn)):
        if seen is not None:
            of = [[thing.shape for thing in scene.things] for scene in (want, seen)]
            right += of[0] == of[1] and (want.place, want.relation) == (seen.place, seen.relation)
    return right / len(scenes)


def pictures(uses: Uses, dataset: Dataset) -> dict[str, Callable[..., Any]]:
    """The pictures that `stable_diffusion.PICTURES` describes, those that this system can make."""
    side, _, c = dataset.shape

    def tasks(rng: Any) -> tuple[Any, Any, list[str]]:
        images, keep, prompts = glide_edits.tasks(6, rng=rng)
        return dataset.scale(images), keep, prompts

    def of_codec(split: Split, *, rng: Any) -> Any:
        """Two rows: pictures, copies."""
        x = dataset.scale(split.images[:12])
        return np.stack([x, to_numpy(uses.codec.decode(uses.codec.encode(x)))])

    def strengths(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, then what it becomes with each strength."""
        x, _, prompts = tasks(rng)
        return np.stack([x, *(uses.draw(prompts, rng=rng, start=x, strength=s) for s in STRENGTHS)], axis=1)

    def paintings(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, what is kept of it, four paintings."""
        x, keep, prompts = tasks(rng)
        return np.stack([x, x * keep, *(uses.draw(prompts, rng=rng, image=x, keep=keep) for _ in range(4))], axis=1)

    def of_layouts(split: Split, *, rng: Any) -> Any:
        """Rows: a layout, five pictures."""
        boxes = boxes_of(split.scenes[:6])
        greys = layout_map(boxes, side, 1)[..., :-1] * (np.arange(1, LAYOUT) / (LAYOUT - 1))
        greys = np.repeat(2 * greys.max(-1, keepdims=True) - 1, c, axis=3).astype(np.float32)
        return np.stack([greys, *(uses.draw([""] * 6, rng=rng, layouts=boxes) for _ in range(5))], axis=1)

    def upscaled(split: Split, *, rng: Any) -> Any:
        """Rows: the same picture at two sizes."""
        prompts = prompts_for(6)
        small = uses.draw(prompts, rng=rng)
        return np.stack([small.repeat(2, 1).repeat(2, 2), uses.enlarge(small, prompts, rng=rng)], axis=1)

    found: dict[str, Callable[..., Any]] = {"strengths": strengths, "paintings": paintings}
    if isinstance(uses.codec, Codec):
        found = {"codec": of_codec, **found}
    return (
        found
        | ({"layouts": of_layouts} if uses.knows_layouts else {})
        | ({"upscaled": upscaled} if uses.enlarges else {})
    )
