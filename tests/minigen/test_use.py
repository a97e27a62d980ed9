"""The library as a stranger uses it: the README's example, and the way from a weights file to its system."""

import os
from pathlib import Path

import numpy as np
import pytest

import minigen
from minigen.__main__ import main
from minigen.errors import UserError

ROOT = Path(__file__).parents[2]


def example() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- example of use: begin -->")[1].split("<!-- example of use: end -->")[0]
    return "\n".join(line.removeprefix("    ") for line in block.strip("\n").splitlines())


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    flags = ["--steps", "2", "--T", "20", "--base", "8", "--multipliers", "1", "--batch-size", "4"]
    assert main(["train", "ddpm", "--out", "out/ddpm", "--samples-every", "0", *flags]) == 0
    return tmp_path / "out/ddpm/weights.safetensors"


def test_the_readme_s_example_runs(trained: Path):
    scope: dict = {}
    exec(example(), scope)
    x, net, images = scope["x"], scope["net"], scope["images"]
    np.testing.assert_allclose(x.grad, np.sin(x.data) + x.data * np.cos(x.data))
    guess = net(images.reshape(len(images), -1)).data.argmax(axis=1)
    assert (guess == scope["labels"]).mean() > 0.95, "it has learnt its training digits"
    assert scope["pictures"].shape == (16, 8, 8, 1) and np.abs(scope["pictures"]).max() <= 1


def test_a_loaded_system_draws_what_the_command_draws(trained: Path):
    system = minigen.load(os.fspath(trained))
    again = minigen.load(trained)
    draws = [s.sample(2, rng=np.random.default_rng(3)) for s in (system, again)]
    np.testing.assert_array_equal(*draws)
    with pytest.raises(UserError, match="cannot read"):
        minigen.load(trained.with_name("nothing.safetensors"))
