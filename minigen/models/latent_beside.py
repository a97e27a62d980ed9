r"""What lies beside the noisy map: conditions by concatenation. Rombach et al. 2022, arXiv 2112.10752, sections 3.3, 4.3.2 and 4.5.

What is known place by place needs no attention: it is brought to the size of the map and becomes further channels of
it. There are two such things here: what is kept of a picture that is painted into, and a layout, which says which
shapes should be where.

| symbol | code | shape |
|---|---|---|
| $m$, what is kept | ``keep``, 1 = keep, 0 = paint | (n, h, w, 1) |
| $\min m$ over the pixels of a place | ``kept_places`` | (n, h / f, w / f, 1) |
| $\mathcal E(m \odot x)$ where the place is kept, else 0; and the mask | ``known_places`` | (n, h / f, w / f, d + 1) |
| the share of each place in a box of each shape; and 1 | ``layout_map`` | (n, h / f, w / f, LAYOUT) |

The 1 distinguishes an empty layout ("nothing anywhere") from no layout ("anything anywhere").

Details that matter, and the tests that guard them (tests/minigen/models/test_stable_diffusion.py):
- a place counts as kept only if ALL of its pixels are: a place at the edge of the hole is painted, and its kept pixels
  are put back after decoding;
- the hole is emptied before the picture is encoded: the codec's convolutions would carry it over the edge;
- shares, not yes or no: a box smaller than a place of the map still counts.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.backend import array_module
from minigen.data.captions import SHAPES

from .latent_codec import Codec, Identity

LAYOUT = len(SHAPES) + 1  # channels of a layout: one per shape, and one that says that there is a layout
Boxes = Sequence[tuple[int, float, float, float, float]]  # shape, top, bottom, left, right: pixel j is from j to j + 1


def kept_places(keep: Any, f: int) -> Any:
    """(n, h, w, 1) of 0 and 1 -> (n, h / f, w / f, 1): 1 where ALL of a place's pixels are kept."""
    n, h, w, _ = keep.shape
    return keep.reshape(n, h // f, f, w // f, f, 1).min(axis=(2, 4))


def known_places(codec: Codec | Identity, x: Any, keep: Any) -> Any:
    """The map of a picture (n, h, w, c) with a hole, 0 where a place is not kept, and the mask of its places: (n, h /
    f, w / f, d + 1).
    """
    xp = array_module(x)
    keep = xp.broadcast_to(xp.asarray(keep, x.dtype), (*x.shape[:3], 1))
    z = codec.encode(xp.where(keep == 1, x, 0))
    places = kept_places(keep, x.shape[1] // z.shape[1])
    return xp.concatenate([xp.where(places == 1, z, 0), places], axis=3)


def layout_map(layouts: Sequence[Boxes], side: int, f: int) -> Any:
    """Maps (n, side / f, side / f, LAYOUT) float32: which share of a place lies in a box of which shape; the last channel is 1."""
    found = np.zeros((len(layouts), side // f, side // f, LAYOUT), np.float32)
    found[..., -1] = 1
    edges = f * np.arange(side // f)

    def covered(low: float, high: float) -> Any:
        return np.clip(np.minimum(high, edges + f) - np.maximum(low, edges), 0, f) / f

    for i, boxes in enumerate(layouts):
        for shape, top, bottom, left, right in boxes:
            inside = covered(top, bottom)[:, None] * covered(left, right)
            found[i, ..., shape] = np.maximum(found[i, ..., shape], inside)
    return found


def boxes_of(scenes: Any) -> list[Boxes]:
    """The squares around the things of `shapes.Scenes`."""
    found: list[Boxes] = []
    for i, number in enumerate(scenes.number):
        x, y = scenes.centre[i].T + 0.5
        r = scenes.radius[i]
        found.append(
            [(int(scenes.shape[i, k]), y[k] - r[k], y[k] + r[k], x[k] - r[k], x[k] + r[k]) for k in range(number)]
        )
    return found


def parse_layout(text: str, side: int) -> Boxes:
    """Boxes of "circle 4:20,4:20; ring 18:30,16:28". Raises ValueError, which says what is wrong, for anything else."""
    found = []
    for part in text.split(";"):
        name, _, where = part.strip().partition(" ")
        bounds = [end.strip() for axis in where.split(",") for end in axis.split(":")]
        if name not in SHAPES or len(bounds) != 4 or not all(re.fullmatch(r"\d{1,18}", end) for end in bounds):
            raise ValueError(
                f"layout must be like 'circle 4:20,4:20; ring 18:30,16:28', of {', '.join(SHAPES)}, got {text!r}"
            )
        top, bottom, left, right = map(int, bounds)
        if not (top < bottom <= side and left < right <= side):
            raise ValueError(f"layout must have rows and columns that rise within 0:{side}, got {part.strip()!r}")
        found.append((SHAPES.index(name), top, bottom, left, right))
    return found
