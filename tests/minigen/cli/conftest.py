"""The toy model and the folders of the training tests serve here too."""

from collections.abc import Callable

import pytest

from minigen.__main__ import main
from tests.minigen.train.conftest import environment, inside, toy_system

__all__ = ["environment", "inside", "refused", "toy_system"]


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
