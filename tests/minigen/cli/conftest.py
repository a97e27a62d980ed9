"""The toy model and the folders of the training tests serve here too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigen.__main__ import main
from minigen.cli import quality
from tests.minigen.train.conftest import environment, inside, toy_system

__all__ = ["environment", "inside", "refused", "toy_system", "without_ruler"]

FIGURES = {
    "these samples": {"fd_ratio": 0.91, "accepted": 0.75, "recall": 0.5, "coverage": 0.25},
    "pixel noise": {"fd_ratio": 24.0, "accepted": 0.0},
}


@pytest.fixture
def without_ruler(toy_system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy model, and digits measured without the ruler, which would be trained: a sample's class is its number,
    without threes.
    """
    monkeypatch.setattr(quality, "SAMPLES", 64)
    monkeypatch.setattr(quality, "figures", lambda dataset, samples, *, seed: FIGURES)
    monkeypatch.setattr(quality, "errors", lambda dataset, samples: (0.125, (1.5, 0.25)))
    monkeypatch.setattr(quality, "known", lambda dataset: (None, {}))
    monkeypatch.setattr("minigen.metrics.report.chance", lambda dataset, ruler, **how: (1.0, 0.25))
    classes = [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]
    monkeypatch.setattr(quality, "classes_of", lambda dataset, samples: np.resize(classes, len(samples)))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that must be refused: status 2, one sentence on stderr, which is returned."""

    def run(*args: str) -> str:
        capsys.readouterr()
        assert main([str(arg) for arg in args]) == 2
        said = capsys.readouterr().err
        assert said.startswith("minigen: ") and said.count("\n") == 1 and said.endswith("\n"), said
        assert "Traceback" not in said
        return said

    return run
