"""How often DiffusionCLIP's edits are right on the test split, and pictures of them. There are no equations here.

``apply(images, edits)`` makes edits of pictures (n, h, w, c) in [-1, 1], all of them at once; without any, it is the
round trip to the noise and back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigen.data import Dataset, Split, shapes
from minigen.data.captions import COLOURS, Scene, rewritten
from minigen.data.oracle import verdicts

from .diffusionclip_losses import untouched

SHOWN = 128  # pictures per edit in the figures


def asked_of(split: str, edit: Sequence[str], n: int) -> tuple[Any, list[Scene]]:
    """A split's first ``n`` pictures (uint8) of one thing that show none of the edits yet, and the wanted scenes."""
    of = shapes.scenes(split)
    rows: list[int] = []
    wanted: list[Scene] = []
    for i in range(len(of)):
        if len(rows) == n:
            break
        scene = of[i]
        if len(scene.things) == 1 and all(rewritten(scene, word) != scene for word in edit):
            for word in edit:
                scene = rewritten(scene, word)
            rows.append(i)
            wanted.append(scene)
    return shapes.render(of[np.array(rows, np.int64)]), wanted


def figures(apply: Callable[..., Any], words: Sequence[str], dataset: Dataset, *, rng: Any) -> dict[str, float]:
    """The share of test pictures of one thing that survive the round trip, and that are edited as asked with all else
    unchanged, by one of the edits called ``words`` and by all at once.
    """
    found = {}
    for edit in dict.fromkeys([(), *((word,) for word in words), tuple(words)]):
        images, wanted = asked_of("test", edit, SHOWN)
        x_0 = dataset.scale(images)
        x = apply(x_0, edit)
        name = f"edits to {' and '.join(edit)}" if edit else "round trips"
        found[f"{name} that are right"] = float(np.mean([v.right for v in verdicts(wanted, x)]))
        if len(edit) < 2:
            still = untouched(x_0, edit[0] if edit else COLOURS[0]).pixels
            moved = (abs(x - x_0) * still).sum() / still.sum() / 3
            found[f"{name}, mean change of a pixel that should stay"] = float(moved)
    return found


def pictures(apply: Callable[..., Any], words: Sequence[str], dataset: Dataset) -> dict[str, Callable[..., Any]]:
    """The pictures that `diffusionclip.PICTURES` describes; "mixed" only if there are two edits."""
    first, last = words[0], words[-1]

    def shown(kinds: Sequence[Sequence[str]], edit: Sequence[str]) -> Any:
        images, _ = asked_of("test", edit, 6)
        x = dataset.scale(images)
        return np.stack([x, *(apply(x, kind) for kind in kinds)], axis=1)

    def edits(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, its round trip, its edits."""
        return shown([(), *((word,) for word in words)], words)

    def mixed(split: Split, *, rng: Any) -> Any:
        """Rows: a picture, the first edit, the last, both."""
        return shown([(first,), (last,), (first, last)], (first, last))

    return {"edits": edits, **({"mixed": mixed} if len(words) > 1 else {})}
