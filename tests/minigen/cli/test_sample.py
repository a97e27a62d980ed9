"""`minigen sample`: of which data it measures and draws pictures, the states that it keeps, and how many prompts were met."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minigen.__main__ import main
from minigen.cli import curriculum, edit, sample
from minigen.data import Dataset, load, shapes
from minigen.data.captions import parse
from minigen.metrics.prompts import notes_for, prompts_of
from minigen.train import checkpoint, pictures
from minigen.train.run import WEIGHTS

Refused = Callable[..., str]
QUICK = ("--steps", "2", "--first-steps", "1")


# --- the data that weights were trained on ----------------------------------------------------------------------------


def retold(path: Path, drop: str = "", **changes: Any) -> None:
    """Write a weights file again that says something else of its data."""
    with checkpoint.opened(path, kind="weights") as reader:
        arrays = {name: reader.handle.get_tensor(name) for name in reader.handle.keys()}  # noqa: SIM118
        about = reader.about
    about["dataset"] |= changes
    about["dataset"].pop(drop, None)
    checkpoint.save(path, arrays, about)


@pytest.fixture
def of_digits(toy_system: Any, inside: Path) -> Path:
    """The toy's weights in out/toy of an empty folder, trained on the digits."""
    assert main(["train", "toy", *QUICK]) == 0
    return Path("out/toy") / WEIGHTS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"levels": 16}, "its levels is 17 and not 16\n"),
        ({"classes": ["a", "b"]}, "'9') and not ('a', 'b')\n"),
        ({"checksum": 7}, " and not 7\n"),
    ],
)
@pytest.mark.parametrize("command", ["sample toy --shades", "sample toy --n 8 --quality", "edit toy test:3"])
def test_other_data_than_the_weights_were_trained_on_are_refused(
    of_digits: Path, refused: Refused, changes: dict[str, Any], said: str, command: str
):
    retold(of_digits, **changes)
    found = refused(*command.split())
    assert "the data set 'digits' is not the one that the weights were trained on" in found and said in found
    assert not Path("grid.png").exists() and not Path("edit.png").exists()


def test_weights_written_without_a_checksum_are_taken(of_digits: Path):
    retold(of_digits, drop="checksum")
    assert main(["sample", "toy", "--shades"]) == 0
    assert main(["edit", "toy", "test:3"]) == 0


def test_a_checksum_that_is_no_number_is_refused(of_digits: Path, refused: Refused):
    retold(of_digits, checksum="7")
    assert "does not say which data" in refused("sample", "toy")


def test_another_folder_of_pictures_is_refused_and_says_how_to_name_the_right_one(
    toy_system: Any, inside: Path, refused: Refused
):
    for name, channels, first in (("a", (3,), 0), ("b", (3,), 1), ("grey", (), 0)):
        Path(name).mkdir()
        for i in range(12):
            Image.fromarray(np.full((9, 9, *channels), 20 * i + first, np.uint8)).save(f"{name}/{i}.png")
    flags = ("--data", "folder", "--data-dir", "a", "--size", "4", "--batch-size", "4", "--out", "f")
    assert main(["train", "toy", *QUICK, *flags]) == 0
    draw = ("sample", "toy", "--weights", f"f/{WEIGHTS}", "--shades", "--data-dir")
    assert main([*draw, "a"]) == 0
    assert "its checksum is" in (said := refused(*draw, "b")) and said.endswith(": --data-dir must lead to theirs\n")
    assert "its shape is (4, 4, 1) and not (4, 4, 3)" in refused(*draw, "grey")
    retold(Path("f") / WEIGHTS, drop="checksum")
    assert main([*draw, "b"]) == 0


def test_pictures_drawn_on_demand_are_loaded_in_the_size_of_the_weights(toy_system: Any, inside: Path):
    flags = ("--data", "shapes", "--size", "64", "--batch-size", "2")
    assert main(["train", "toy", *QUICK, *flags]) == 0
    assert main(["sample", "toy", "--n", "1", "--shades"]) == 0


def test_what_a_killed_command_left_of_the_same_file_goes_an_hour_later(of_digits: Path):
    mine, theirs, other = (Path(f".{name}.0123456789abcdef.tmp") for name in ("grid.png", "grid.png", "other.png"))
    mine = mine.with_name(".grid.png.fedcba9876543210.tmp")
    for file, age in ((mine, 3700), (theirs, 3500), (other, 3700)):
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
    assert main(["sample", "toy"]) == 0
    assert not mine.exists() and theirs.exists() and other.exists()


# --- a sampler of one's own -------------------------------------------------------------------------------------------

PLAIN = """
class Plain:
    space, claims, kinds = "sigma", {}, ("x_0",)

    def levels(self, n):
        return [(4.0, 1.0, 4.0), (0.0, 1.0, 0.0)]

    def sample(self, model, x, n, noise):
        return model(x, 4.0)
"""
TAKE_SAMPLERS = [
    entry.name
    for entry in curriculum.systems().values()
    if hasattr(getattr(curriculum.load(entry), "Sampling", None), "sampler")
]


@pytest.mark.parametrize("system", TAKE_SAMPLERS)
def test_every_system_that_has_samplers_takes_ones_own(
    system: str, inside: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.syspath_prepend(inside)
    (inside / "plain_of_mine.py").write_text(PLAIN)
    entry, named = curriculum.find(system), ["--weights", "w.safetensors", "--sampler", "plain_of_mine:Plain"]
    model = curriculum.load(entry)
    _, settings, _ = sample.parse(entry, model, named)
    assert callable(settings["sampler"])
    if hasattr(getattr(model, "Editing", None), "sampler"):
        _, _, settings = edit.parse(entry, model, ["test:1", *named])
        assert callable(settings["sampler"])
    assert "has no 'Other'" in refused("sample", system, *named[:-1], "plain_of_mine:Other")
    with pytest.raises(SystemExit):
        main(["sample", system, "--help"])
    assert "module:Name" in capsys.readouterr().out


# --- settings that change nothing -------------------------------------------------------------------------------------

SHORT = ("--T", "20", "--base", "8", "--steps", "2", "--batch-size", "4", "--sample-steps", "3")
MORE = ("--text-layers", "1", "--clip-steps", "2", "--paint-steps", "2", "--upsample-steps", "2")


@pytest.mark.parametrize(
    ("system", "scale", "flags", "said"),
    [
        ("classifier_free", "scale", ("--rescale", "0.7"), ["--rescale"]),
        ("classifier_free", "scale", ("--away-from", "0", "--rescale", "0.7"), ["--away-from", "--rescale"]),
        ("glide", "guidance", ("--negative", "a ring"), ["--negative"]),
    ],
)
def test_what_acts_through_guidance_changes_nothing_without_it_and_that_is_said(
    system: str, scale: str, flags: Any, said: list[str], inside: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["train", system, *SHORT, *(MORE if system == "glide" else ())]) == 0
    commands = [["sample", system], ["edit", system, "test:2", "--mask", "0:18,0:18"]][: 1 + (system == "glide")]
    for command in commands:
        seen = []
        for how in ((), flags):
            capsys.readouterr()
            assert main([*command, "--n", "2", f"--{scale}", "1", *how, "--out", "a.png"]) == 0
            seen.append((Path("a.png").read_bytes(), capsys.readouterr().err))
        notes = [f"note: {flag} changes nothing with --{scale} 1, which is no guidance\n" for flag in said]
        assert seen == [(seen[0][0], ""), (seen[0][0], "".join(notes))]
        assert main([*command, "--n", "2", f"--{scale}", "2", *flags, "--out", "a.png"]) == 0
        assert not capsys.readouterr().err


# --- what is printed of notes -----------------------------------------------------------------------------------------


def test_labels_are_said_once_with_their_number_and_verdicts_picture_by_picture(capsys: pytest.CaptureFixture[str]):
    sample.print_notes(["3"] * 64, text=False)
    assert capsys.readouterr().out == "3 (64 of 64)\n"
    sample.print_notes(["0", "1", "0"], text=False)
    assert capsys.readouterr().out == "0 (2 of 3)\n1\n"
    sample.print_notes(["a ring\nmet", "a ring\nmet", "no prompt"], text=False)
    assert capsys.readouterr().out == "a ring: met\na ring: met\nno prompt\n"
    sample.print_notes(["x\n", "x\n"], text=True)
    assert capsys.readouterr().out == "--- 1 ---\nx\n\n--- 2 ---\nx\n\n"
    for text in (True, False):
        sample.print_notes([], text=text)
    assert capsys.readouterr().out == ""


# --- states on the way ------------------------------------------------------------------------------------------------


def drawn(shape: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    """The states that a system of 50 samples shows, and those that are kept of them."""
    shown: list[Any] = []

    def walk(n: int, *, rng: Any, steps: int | None, callback: Callable[..., None]) -> Any:
        x = rng.uniform(-1, 1, (n, *shape))
        for t in range(3, -1, -1):
            callback(t, x)
            shown.append(x.copy())
            x *= 0.5  # in place, as a system may
        return x

    flags = sample.SampleFlags(Path("weights.safetensors"), n=50, trajectory=True)
    _, states = sample.draw(SimpleNamespace(sample=walk, image_shape=shape), flags, {})
    return shown, states


def test_no_more_pictures_are_kept_of_a_state_than_are_shown():
    digits = load("digits")
    whole, kept = drawn((8, 8, 1))
    assert [x.shape for x in kept] == [(36, 8, 8, 1)] * 4
    assert all(x.base is None for x in kept), "a view would keep all 50"
    for x, y in zip(whole, kept):
        np.testing.assert_array_equal(x[:36], y)
    np.testing.assert_array_equal(pictures.strip(digits, whole), pictures.strip(digits, kept))
    assert pictures.gif(digits, whole) == pictures.gif(digits, kept, samples=sample.STATES)


def test_all_points_of_a_state_are_kept():
    whole, kept = drawn((2,))
    assert [x.shape for x in kept] == [(50, 2)] * 4
    np.testing.assert_array_equal(np.stack(whole), np.stack(kept))


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_how_many_prompts_were_met_is_said_below_them(
    toy_system: Any, inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Of a system that takes prompts and always paints the same; the notes of others are not judged."""
    build, (one, other), paints = toy_system.build, prompts_of("val", 1, 2), True

    def paint(n: int, *, rng: Any, **settings: Any) -> Any:
        return shapes.render(shapes.arrange([parse(one)] * n, rng=rng)) / np.float32(127.5) - 1

    def notes(images: Any, **settings: Any) -> list[str]:
        return notes_for([one, other, one], images) if paints else ["0.5\nmean 0.3"] * len(images)

    def painter(config: Any, dataset: Dataset, **how: Any) -> Any:
        return replace(build(config, dataset, **how), sample=paint, notes=notes, paint=paint if paints else None)

    monkeypatch.setattr(toy_system, "build", painter)
    assert main(["train", "toy", *QUICK, "--data", "shapes", "--batch-size", "2"]) == 0
    capsys.readouterr()
    assert main(["sample", "toy", "--n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{one}: right" and lines[3:5] == ["met: 2 of 3", "3 samples: grid.png"]
    assert main(["sample", "toy", "--n", "3", "--prompts", "4962", "--out", "many.png"]) == 2
    assert "--prompts must be at most 4961, " in capsys.readouterr().err and not Path("many.png").exists()
    paints = False
    assert main(["sample", "toy", "--n", "3"]) == 0
    assert "met" not in capsys.readouterr().out
