"""Text without a download: the sources of Python's own standard library, cut into windows of byte pairs.

The modules are read one after another in the order of `MODULES`, as one text. Its last tenth is the test part and the
tenth before it the validation part: what comes after the training part, never sentences between its own. The cuts lie
where these shares end, in Python 3.11 inside `shutil` and inside `statistics`, whose beginnings are in one part and
their ends in the next. The byte pairs (`tokenizer.BytePair`) are learnt from the beginning of the training part alone.
Windows do not overlap; what is left over at the end of a part is dropped.

Another version of Python has other sources, so figures are comparable on one version only; a run started on another
one is not resumed (its data have another checksum).
"""

import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from kernels.backend import Array

from .dataset import Dataset, Split
from .tokenizer import BytePair

VOCABULARY = 512  # 256 bytes and the 256 most frequent merges
LENGTH = 128  # tokens per window: about 280 characters
LEARNT_FROM = 200_000  # characters of the training part, at most
MODULES = (
    *("argparse", "calendar", "cmd", "configparser", "contextlib", "csv", "dataclasses", "difflib", "doctest"),
    *("fractions", "heapq", "mailbox", "random", "shutil", "socketserver", "statistics", "textwrap", "threading"),
)


def text() -> Dataset:
    """Windows of tokens: ``images`` uint16 (n, 128), ``levels`` the size of the vocabulary, ``tokenizer`` its byte pairs."""
    return _text()


@cache  # seconds of work
def _text() -> Dataset:
    parts = split(read(MODULES))
    tokenizer = BytePair.train(parts[0][:LEARNT_FROM], VOCABULARY - 256)
    train, val, test = (Split(windows(tokenizer.encode(part), LENGTH)) for part in parts)
    return Dataset("text", train, val, test, levels=len(tokenizer), classes=(), tokenizer=tokenizer)


def read(modules: tuple[str, ...]) -> str:
    """The sources of modules of the standard library, one after another. Raises ValueError for one that is not there."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = []
    for name in modules:
        path = folder / f"{name}.py"
        try:
            found.append(path.read_text(encoding="utf-8").replace("\r\n", "\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the source of Python's module '{name}' cannot be read from {path}: {error}") from error
    return "".join(found)


def split(text: str) -> tuple[str, str, str]:
    """Eight tenths, one and one, in that order."""
    one, two = 8 * len(text) // 10, 9 * len(text) // 10
    return text[:one], text[one:two], text[two:]


def windows(tokens: list[int], length: int) -> UInt16[Array, "n length"]:
    """The tokens in rows of ``length``, without an incomplete last one. Raises ValueError if none is complete."""
    if len(tokens) < length:
        raise ValueError(f"tokens must fill at least one window of {length}, got {len(tokens)}")
    whole = len(tokens) // length
    return np.array(tokens[: whole * length], np.uint16).reshape(whole, length)
