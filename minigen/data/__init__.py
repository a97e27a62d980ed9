"""Data sets with fixed splits: ``load("digits")`` gives a Dataset, ``batch(split, ...)`` a batch of one split."""

from .dataset import Dataset, Split, batch, shift
from .registry import NAMES, load

__all__ = ["NAMES", "Dataset", "Split", "batch", "load", "shift"]
