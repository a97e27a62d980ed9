"""`minigen train gpt --data text`: samples of a text are printed and written as text, and the mistakes have a sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigen.__main__ import main

TINY = ("--steps", "2", "--width", "8", "--heads", "2", "--layers", "1", "--batch-size", "2")


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run on text in out/gpt."""
    folder = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "gpt", "--data", "text", "--samples-every", "0", *TINY]) == 0
    return folder


def test_the_next_command_that_training_names_works(inside: Path, capsys: Any):
    assert main(["train", "gpt", "--data", "text", "--samples-every", "0", *TINY]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: minigen ")]
    assert main([*said.split()[2:-4], "--n", "1", "--out", said.split()[-1]]) == 0
    assert said.endswith(" --n 64 --out grid.txt") and Path("grid.txt").exists()
    Path("grid.txt").unlink()
    assert main(["sample", "gpt", "--n", "1"]) == 0 and Path("grid.txt").exists()


@pytest.fixture
def trained(inside: Path, trained_once: Path) -> Path:
    """A copy of it in an empty folder that is the current one."""
    shutil.copytree(trained_once, inside, dirs_exist_ok=True)
    return inside


def test_training_leaves_texts(trained: Path):
    (path,) = (trained / "out" / "gpt" / "samples").iterdir()
    assert path.name == "000002.txt"
    assert path.read_text(encoding="utf-8").startswith("--- 1 ---\n")


def test_samples_are_printed_and_written(trained: Path, capsys: Any):
    assert main(["sample", "gpt", "--n", "2", "--prompt", "import os", "--out", "said.txt"]) == 0
    said = capsys.readouterr().out
    written = (trained / "said.txt").read_text(encoding="utf-8")
    assert said == f"{written}2 samples: said.txt\n" and not (trained / "said.png").exists()
    assert written.startswith("--- 1 ---\nimport os") and "\n--- 2 ---\nimport os" in written
    assert main(["sample", "gpt", "--n", "2", "--prompt", "import os", "--out", "said.txt"]) == 0
    assert capsys.readouterr().out == said, "the same seed says the same"


def test_quality_of_texts_is_their_likelihood(trained: Path, capsys: Any):
    assert main(["sample", "gpt", "--n", "1", "--out", "x.txt", "--quality"]) == 0
    assert "bits a byte: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--out", "x.png"], "--out must end in .txt, got x.png: these weights were trained on text"),
        (["--trajectory"], "a text has no trajectory"),
        (["--singles"], "--singles writes pictures, and samples of "),
        (["--completion"], "--completion does not go with these weights: they offer no picture"),
        (["--temperature", "-1"], "temperature must be a number of at least 0"),
        (["--top-k", "0"], "top_k must be at least 1"),
        (["--top-p", "2"], "top_p must be above 0 and at most 1"),
        (["--prompt", "word " * 200], "prompt must be at most 128 tokens long"),
    ],
)
def test_mistakes_have_a_sentence(trained: Path, refused: Callable[..., str], flags: list[str], message: str):
    assert message in refused("sample", "gpt", "--n", "1", *([] if "--out" in flags else ["--out", "x.txt"]), *flags)
    assert not list(trained.glob("*.txt"))
