"""`minigen list` and the curriculum behind it."""

import importlib.util
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from minigen.__main__ import COMMANDS, main
from minigen.cli import curriculum
from minigen.errors import UserError
from minigen.samplers import choose

ROOT = Path(__file__).resolve().parents[3]


def test_list_shows_every_entry_in_one_line_with_its_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for entry in curriculum.CURRICULUM:
        (line,) = [line for line in lines if entry.file in line.split()]
        assert entry.name in line.split()
        if not entry.exists:
            assert line.rstrip().endswith("planned")


def test_what_exists_is_what_has_a_file():
    for entry in curriculum.CURRICULUM:
        assert entry.exists == (ROOT / entry.file).exists(), entry.name


def test_the_order_is_that_of_the_chapters_and_names_are_unique():
    chapters = [entry.chapter for entry in curriculum.CURRICULUM]
    assert chapters == sorted(chapters) and set(chapters) == set(range(1, max(chapters) + 1))
    names = [entry.name for entry in curriculum.CURRICULUM]
    assert len(set(names)) == len(names)


def test_every_model_that_exists_says_what_the_command_line_needs():
    for entry in curriculum.systems().values():
        if entry.exists:
            model = curriculum.load(entry)
            assert all(isinstance(getattr(model, name), str) for name in ("TITLE", "PAPER", "EQUATION"))
            assert "\n" not in model.EQUATION and model.Config() is not None and callable(model.build)
            for name in getattr(model, "TOUR", {}):
                assert hasattr(model.Config(), name)


def test_every_model_file_is_in_the_curriculum():
    files = {path.stem for path in (ROOT / "minigen" / "models").glob("*.py")} - {
        "__init__",
        "system",
        "sampling",
        "latent_figures",
        "diffusionclip_figures",
    }
    assert {f"minigen.models.{name}" for name in files} <= {entry.module for entry in curriculum.CURRICULUM}


def test_all_that_a_model_file_may_offer_is_in_the_architecture():
    """What the commands look for in one, by name."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "minigen" / "cli").glob("*.py"))
    asked = set(re.findall(r'(?:getattr|hasattr)\(model, "(\w+)"', sources)) | set(curriculum.REQUIRED)
    said = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("**Adding a model**")[1].split("**Tokens.**")[0]
    assert {"TOUR", "PRESETS", "Sampling"} < asked
    assert {name for name in asked - {"__name__"} if f"`{name}" not in said} == set()


def test_every_file_that_teaches_a_sampler_is_in_the_curriculum_with_a_command_that_uses_it():
    files = {path.stem for path in (ROOT / "minigen" / "samplers").glob("*.py")} - {"__init__", "choose", "predict"}
    entries = [entry for entry in curriculum.CURRICULUM if entry.kind == "sampler"]
    assert {entry.module for entry in entries} == {f"minigen.samplers.{name}" for name in files}
    chosen = {sampler.func if isinstance(sampler, partial) else sampler for sampler in choose.SAMPLERS.values()}
    modules = {sampler.__module__ for sampler in chosen}
    for entry in entries:
        command, _, flag = entry.used.partition(" --")
        assert command in COMMANDS
        assert (flag == "sampler") == (entry.module in modules), entry.name


def test_systems_that_change_pictures_say_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    edits = [entry for entry in curriculum.systems().values() if entry.edits]
    assert edits == [e for e in curriculum.systems().values() if hasattr(curriculum.load(e), "Editing")]
    for columns, words in (("160", "train, sample, edit, tour"), ("80", "yes, edit")):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["list"]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.rstrip().endswith(words)]
        assert [next(word for word in line if not word.isdecimal()) for line in lines] == [e.name for e in edits]


def test_a_hyphen_is_as_good_as_an_underscore(toy_system: object):
    assert curriculum.find("toy").name == "toy"
    with pytest.raises(UserError, match=r"'stable_diffusion'|planned"):
        if curriculum.find("stable-diffusion"):
            raise UserError("'stable_diffusion' is found")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "ddim",
            "'ddim' is no system but minigen/samplers/ddim.py, which 'minigen sample --sampler' uses: the systems",
        ),
        ("dvae", "'dvae' is no system but minigen/models/dvae.py: the systems that run today are autoencoder, "),
        ("dalle2-prior", "'dalle2-prior' is no system but minigen/models/dalle2_prior.py: the systems"),
    ],
)
def test_a_file_that_is_listed_and_is_no_system_is_told_from_an_unknown_name(
    name: str, said: str, refused: Callable[..., str]
):
    for command in ("train", "sample", "edit"):
        assert f"minigen: {said}" in refused(command, name)


def test_a_missing_parent_package_is_a_missing_file():
    assert not curriculum.Entry(1, "x", "x", "x", "minigen.nowhere.x").exists
    assert importlib.util.find_spec("minigen.nowhere") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (", r"SyntaxError: '\(' was never closed \(\w+\.py, line 1\)$"),
        (f"x = {'-' * 20_000}1", "MemoryError|RecursionError"),
        (f"x = 1{'+1' * 300_000}", "RecursionError|MemoryError"),
    ],
    ids=["syntax", "memory", "recursion"],
)
def test_a_model_file_that_cannot_be_parsed_is_one_sentence(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "model_unparsable.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"^cannot import 'model_unparsable': ({said})"):
        curriculum.load(curriculum.Entry(99, "toy", "Toy", "Nobody 2026", "model_unparsable"))


def test_list_takes_no_arguments(refused: Callable[..., str]):
    assert "takes no arguments" in refused("list", "ddpm")


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_a_narrow_terminal_shows_system_file_and_state_whole(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    assert main(["list"]) == 0
    said = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(len(line) for line in said.splitlines()) <= columns
    for entry in curriculum.CURRICULUM:
        assert entry.name in said and entry.file.removeprefix("minigen/") in said


def test_a_pipe_is_as_wide_as_it_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80
