"""A folder to run in, and the toy model in the curriculum."""

import os
from pathlib import Path
from typing import Any

import pytest

from minigen.cli import curriculum
from tests.minigen.train import toy


@pytest.fixture
def toy_system(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toy model, known to the command line as ``toy``; returns its module."""
    monkeypatch.setattr(curriculum, "CURRICULUM", [*curriculum.CURRICULUM, toy.ENTRY])
    return toy


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """What a subprocess needs to find the project from any folder."""
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join(p for p in (str(root), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "PYTHONPATH": path, "MINIGEN_THREADS": "1"}
