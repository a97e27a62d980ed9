"""Mistakes in a model file of one's own: each is one sentence, before anything is trained."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import autograd as ag
import minigen
from minigen import data
from minigen.__main__ import main
from minigen.errors import UserError
from minigen.train.run import Run, train
from tests.minigen.train import toy

Refused = Callable[..., str]


@dataclasses.dataclass(frozen=True)
class Bare:
    """Settings without a default."""

    width: int
    depth: int = 2


@dataclasses.dataclass(frozen=True)
class Seeded(toy.Config):
    """Settings of which one is called as a flag of every system."""

    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Counted:
    """Settings of sampling, likewise."""

    steps: int = 3


class Plain:
    """No dataclass."""


FILES: dict[str, tuple[str, Any, str]] = {
    "no dataclass": ("Config", Plain, "Config of tests/minigen/train/toy.py must be a dataclass"),
    "no class": ("Sampling", {"dim": 1.0}, "Sampling of tests/minigen/train/toy.py must be a dataclass"),
    "no default": (
        "Config", Bare, "every field of Config of tests/minigen/train/toy.py must have a default: width has none"
    ),
    "tour": ("TOUR", {"step": 3}, "TOUR of tests/minigen/train/toy.py changes 'step', which is no field of its Config"),
    "preset": (
        "PRESETS", {"short": {"bases": 3}},
        "PRESETS, short, of tests/minigen/train/toy.py changes 'bases', which is no field of its Config",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_settings_that_are_none_are_told_by_every_command(
    name: str, inside: Path, toy_system: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    member, value, said = FILES[name]
    monkeypatch.setattr(toy_system, member, value)
    for args in (["train", "toy"], ["sample", "toy"], ["edit", "toy", "test:0"]):
        assert refused(*args) == f"minigen: {said}\n"
    assert not Path("out").exists()


def test_a_setting_that_is_called_as_a_flag_of_every_system_is_told(
    inside: Path, toy_system: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    for member, value in (("Config", Seeded), ("Sampling", Counted), ("PICTURES", {"quality": "how good"})):
        command, flag = (
            ("train", "seed") if member == "Config" else ("sample", "steps" if value is Counted else "quality")
        )
        with monkeypatch.context() as m:
            m.setattr(toy_system, member, value)
            said = f"'minigen {command} toy' would have two flags --{flag}: rename the model's"
            assert refused(command, "toy") == f"minigen: {said}\n"
            assert refused("train", "toy") == f"minigen: {said}\n" and not Path("out").exists()


def takes_no_steps(n: int, *, rng: Any, callback: Any = None, dim: float = 1.0) -> Any:
    return np.zeros((n, 8, 8, 1), np.float32)


def takes_no_dim(n: int, *, rng: Any, steps: Any = None, callback: Any = None) -> Any:
    return np.zeros((n, 8, 8, 1), np.float32)


TAKES = "sample must take n, and by name rng, steps, callback and the fields of Sampling, dim: got an unexpected keyword argument"
BUILT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "nothing": (lambda s: None, "build must return a System (minigen/models/system.py), got NoneType"),
    "a module": (lambda s: s.modules["net"], "build must return a System (minigen/models/system.py), got Net"),
    "stages": (
        lambda s: dataclasses.replace(s, stages=s.stages()),
        "stages must be a function that returns a list of them, got list",
    ),
    "a picture unsaid": (
        lambda s: dataclasses.replace(s, pictures={"greys": s.pictures["shades"]}),
        "PICTURES must say what the system's picture 'greys' shows",
    ),
    "no steps": (lambda s: dataclasses.replace(s, sample=takes_no_steps), f"{TAKES} 'steps'"),
    "no dim": (lambda s: dataclasses.replace(s, sample=takes_no_dim), f"{TAKES} 'dim'"),
}


@pytest.mark.parametrize("name", BUILT)
def test_what_is_no_system_is_told_before_it_is_trained(
    name: str, inside: Path, toy_system: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    build, (made, said) = toy_system.build, BUILT[name]
    monkeypatch.setattr(toy_system, "build", lambda *args, **how: made(build(*args, **how)))
    assert refused("train", "toy") == f"minigen: {said}\n"
    assert not Path("out").exists()


def test_the_model_that_is_handed_over_loads_the_weights(tmp_path: Path):
    """One that Python would not find by its name."""
    digits = data.load("digits")
    config = toy.Config(steps=2, first_steps=1)
    result = train(toy.build(config, digits, seed=0), digits, Run(out=tmp_path, system="toy", samples=4))
    some = SimpleNamespace(**{name: getattr(toy, name) for name in ("TITLE", "PAPER", "EQUATION", "Config", "build")})
    some.PICTURES, some.Sampling = toy.PICTURES, toy.Sampling
    assert minigen.load(result.weights, model=some).config == config
    with pytest.raises(
        UserError, match="is of the system 'toy', which is not one of ours: give its model file, model=yours"
    ):
        minigen.load(result.weights)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": ag.Tensor(np.zeros(())), "b": np.float32(2)}, None),
        ({"a": np.zeros(3)}, "figures must return a dict, name to number, got 'a' ndarray"),
        ({"a": "many"}, "figures must return a dict, name to number, got 'a' str"),
        (3.0, "figures must return a dict, name to number, got float"),
    ],
)
def test_what_a_system_says_of_itself_are_numbers_of_any_kind(
    found: Any,
    said: str | None,
    inside: Path,
    without_ruler: None,
    toy_system: Any,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    build = toy_system.build

    def made(*args: Any, **how: Any) -> Any:
        return dataclasses.replace(build(*args, **how), figures=lambda dataset, *, rng: found)

    monkeypatch.setattr(toy_system, "build", made)
    assert main(["tour", "--only", "toy"]) == (0 if said is None else 2)
    errors = capsys.readouterr().err
    page = Path("out/tour/index.html").read_text(encoding="utf-8")
    if said is None:
        assert main(["sample", "toy", "--weights", "out/tour/toy/weights.safetensors", "--n", "4", "--quality"]) == 0
        assert capsys.readouterr().out.endswith("a: 0\nb: 2\n") and "It did not get to the end" not in page
    else:
        assert errors == f"minigen: toy: {said}\n" and said.partition(",")[0] in page
