"""Data sets by name, for the command line and the models: one literal dictionary."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .dataset import Dataset
from .digits import digits
from .folder import folder
from .mnist import binary_mnist, mnist
from .rings import rings
from .shapes import shapes
from .text import text

# name -> (function, the options of ``load`` that it takes)
SETS: dict[str, tuple[Callable[..., Dataset], tuple[str, ...]]] = {
    "digits": (digits, ()),
    "mnist": (mnist, ("data_dir",)),
    "binary-mnist": (binary_mnist, ("data_dir",)),
    "folder": (folder, ("data_dir", "size")),
    "rings": (rings, ()),
    "shapes": (shapes, ("size",)),
    "text": (text, ()),
}
NAMES = tuple(SETS)


def load(name: str, *, data_dir: str | Path | None = None, size: int | None = None) -> Dataset:
    """The data set called ``name``.

    ``data_dir`` is where ``mnist``, ``binary-mnist`` (optional) and ``folder`` (required) find their files, ``size``
    the side in pixels that ``folder`` resizes to and ``shapes`` draws at.

    Raises ValueError for an unknown name (with the nearest known one), for an option that the data set does not take,
    and for files that are missing or broken.
    """
    if name not in SETS:
        near = get_close_matches(name.lower(), NAMES, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"unknown data set '{name}': {hint}available: {', '.join(NAMES)}")
    function, takes = SETS[name]
    given: dict[str, Any] = {k: v for k, v in (("data_dir", data_dir), ("size", size)) if v is not None}
    for option in given:
        if option not in takes:
            *others, last = (f"'{other}'" for other in NAMES if option in SETS[other][1])
            raise ValueError(f"the data set '{name}' takes no {option}: it is for {', '.join(others)} and {last}")
    if name == "folder":
        given.setdefault("data_dir", None)
    return function(**given)
