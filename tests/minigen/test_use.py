"""The library as a stranger uses it: the README's example, and the way from a weights file to its system."""

import inspect
import os
from pathlib import Path

import numpy as np
import pytest

import minigen
from minigen import data
from minigen.__main__ import main
from minigen.errors import UserError
from minigen.models import autoencoder
from minigen.samplers import ddim
from minigen.train import run

ROOT = Path(__file__).parents[2]


def example() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- example of use: begin -->")[1].split("<!-- example of use: end -->")[0]
    return "\n".join(line.removeprefix("    ") for line in block.strip("\n").splitlines())


def test_the_readme_quotes_the_source_as_it_is():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = text.split("```python\n")[1].split("```")[0]
    assert quoted == inspect.getsource(ddim.sigma) + "\n\n" + inspect.getsource(ddim.step)
    equations = text.split("$$")[1]
    assert all(line in inspect.getdoc(ddim) for line in equations.splitlines())


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


def test_what_training_leaves_in_memory_is_what_it_wrote(tmp_path: Path):
    digits = data.load("digits")
    system = autoencoder.build(autoencoder.Config(steps=20), digits, seed=0)
    result = run.train(system, digits, run.Run(out=os.fspath(tmp_path), system="mine"))
    loaded = minigen.load(result.weights, model=autoencoder)
    for name, module in system.modules.items():
        assert not any(part.training for _, part in module.named_modules())
        for key, array in module.arrays().items():
            np.testing.assert_array_equal(array, loaded.modules[name].arrays()[key])
    with pytest.raises(
        UserError, match="is of the system 'mine', which is not one of ours: give its model file, model=yours"
    ):
        minigen.load(result.weights)
