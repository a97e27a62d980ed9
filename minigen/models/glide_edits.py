"""Edits whose success can be measured: pictures of the captioned world, a hole in each, and what should be painted there.

All models that paint into pictures are asked for these (GLIDE, Nichol et al. 2021, arXiv 2112.10741, section 4.3;
DALL-E 2; Stable Diffusion), and the oracle reads what they painted. There are no equations here.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from minigen.data import shapes
from minigen.data.captions import COLOURS, SHAPES, SIZES, Scene, Thing, canonical

REACH = 9  # half the side of the square that an edit paints: room for a large thing wherever its centre was


def tasks(n: int, *, split: str = "test", rng: Any) -> tuple[Any, Any, list[str]]:
    """Pictures to edit (n, h, w, 3) uint8, masks (n, h, w, 1) and prompts: one thing of each is replaced, which
    gives a seen composition.

    The mask erases a square around the thing. Its shape and colour change, its size is drawn again, all else stays.
    """
    of = shapes.scenes(split)[:n]
    keep, prompts = np.ones((n, shapes.SIDE, shapes.SIDE, 1), np.float32), []
    at = np.arange(shapes.SIDE)
    for i in range(n):
        scene, k = of[i], int(rng.integers(of.number[i]))
        x, y = (abs(at - of.centre[i, k, axis]) <= REACH for axis in (0, 1))
        keep[i, y[:, None] & x[None, :]] = 0
        prompts.append(canonical(with_another(scene, k, rng=rng)))
    return shapes.render(of), keep, prompts


def with_another(scene: Scene, k: int, *, rng: Any) -> Scene:
    """``scene`` with another thing in place of its k-th: another shape, another colour, any size, nothing that was held out."""
    old = scene.things[k]
    while True:
        new = Thing(*(known[int(rng.integers(len(known)))] for known in (SHAPES, COLOURS, SIZES)))
        found = replace(scene, things=(*scene.things[:k], new, *scene.things[k + 1 :]))
        if new.shape != old.shape and new.colour != old.colour and not shapes.held_out(found):
            return found
