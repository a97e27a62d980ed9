"""A ruler that trains in about a second, shared by the tests of the classifier and of the report."""

import pytest

from minigen.data import Dataset, load
from minigen.metrics.classifier import Recipe
from minigen.metrics.ruler import Ruler, train_ruler

EASY = {"channels": 8, "steps": 50, "lr": 1e-2, "ema": 0.7, "dropout": 0.0, "shift": 0.0}


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="session")
def tiny_ruler(digits: Dataset) -> Ruler:
    return train_ruler(digits, (Recipe(**EASY), Recipe(**EASY, negatives=20)))
