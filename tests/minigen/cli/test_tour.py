"""`minigen tour`: one page that grows, works without a network, and survives whatever stops the tour."""

import base64
import dataclasses
import io
import json
import os
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minigen.__main__ import main
from minigen.cli import curriculum, page, quality, tour
from minigen.data import Split, load
from minigen.train.loop import Trainer
from tests.minigen.train import toy

FIGURES = [{"label": "these samples", "figures": {"FD x": "0.91"}}, {"label": "pixel noise", "figures": {"FD x": "24"}}]


@pytest.fixture
def two(toy_system: Any, inside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A curriculum of two toys and a ruler that needs no training; the folder of their tour."""
    second = dataclasses.replace(toy.ENTRY, name="toy_two", chapter=100)
    monkeypatch.setattr(curriculum, "CURRICULUM", [toy.ENTRY, second])
    monkeypatch.setattr(quality, "SAMPLES", 64)
    monkeypatch.setattr(quality, "rows", lambda dataset, samples, *, seed: FIGURES)
    return inside / "out" / "tour"


class Page(HTMLParser):
    """What a browser would look at."""

    VOID = ("meta", "img", "path", "link", "br")

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def read(out: Path) -> tuple[str, Page]:
    text = (out / "index.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_shows_every_system_and_needs_no_network(two: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["tour"]) == 0
    said = capsys.readouterr().out
    assert "[1/2] toy: Toy" in said and "[2/2] toy_two" in said and "the tour: out/tour/index.html" in said
    text, seen = read(two)
    assert "http" not in text and not seen.all("script") and not seen.all("link")
    assert [s["id"] for s in seen.all("section")] == ["toy", "toy_two"]
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
    (link,) = [a["href"] for a in seen.all("a")]
    assert (Path("deep/er") / str(link)).resolve() == Path(toy.__file__).resolve()


def test_the_budget_is_the_tours_and_the_folder_can_be_used_on(two: Path):
    assert main(["tour", "--only", "toy", "--seed", "3"]) == 0
    facts = json.loads((two / "toy" / tour.FACTS).read_text())
    assert facts["steps"] == toy.TOUR["steps"] + toy.TOUR["first_steps"] and facts["samples"] == 64
    assert main(["sample", "toy", "--weights", str(two / "toy" / "weights.safetensors")]) == 0


def test_a_later_tour_keeps_what_an_earlier_one_found(two: Path):
    assert main(["tour", "--only", "toy_two"]) == 0
    before = (two / "toy_two" / tour.FACTS).read_bytes()
    assert main(["tour", "--only", " toy ,"]) == 0
    _, seen = read(two)
    assert [s["id"] for s in seen.all("section")] == ["toy", "toy_two"]
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
    assert "stopped; the tour so far is in out/tour/index.html" in capsys.readouterr().err
    _, seen = read(two)
    assert [s["id"] for s in seen.all("section")] == ["toy"]


def test_a_page_is_there_from_the_beginning(two: Path, monkeypatch: pytest.MonkeyPatch):
    def visit(*args: Any) -> Any:
        assert "The first system is training" in read(two)[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(tour, "visit", visit)
    assert main(["tour"]) == 130


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_system_that_fails_is_told_and_the_next_is_visited(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(toy, "TOUR", {**toy.TOUR, "poison": 3})
    assert main(["tour"]) == 2
    assert "minigen: toy: the loss 'generator' became nan at step 8" in capsys.readouterr().err
    text, seen = read(two)
    assert text.count("It did not get to the end") == 2 and len(seen.all("section")) == 2


def test_a_mistake_in_a_model_does_not_end_the_tour(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real = tour.visit

    def visit(entry: curriculum.Entry, flags: Any) -> Any:
        return real(entry, flags) if entry.name == "toy_two" else 1 / 0

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
    Path("file").write_text("in the way")
    assert "cannot write to the folder file" in refused("tour", "--out", "file/tour")


def test_figures_of_quality_come_with_headings_and_meanings():
    assert quality.as_text({"fd_ratio": 0.912, "copies": 0.0}) == {"FD x": "0.91", "copies": "0"}
    assert all(quality.meanings().values())
    assert [heading for names in quality.groups().values() for heading in names] == list(quality.meanings())
    unlabelled = dataclasses.replace(load("digits"), train=Split(load("digits").train.images))
    assert quality.rows(unlabelled, None, seed=0) == []


def test_points_on_a_ring_have_their_modes_counted():
    rings = load("rings")
    ours, test = quality.rows(rings, rings.train.images[:512], seed=0)
    assert (ours["label"], test["label"]) == ("these samples", "test split")
    assert list(ours["figures"]) == quality.groups()["modes"]
    assert ours["figures"]["modes"] == test["figures"]["modes"] == "8"


def test_figures_of_quality_stand_in_the_tables_of_their_groups(two: Path, monkeypatch: pytest.MonkeyPatch):
    figures = {"FD x": "0.91", "precision": "0.42", "recall": "0.52"}
    monkeypatch.setattr(quality, "rows", lambda dataset, samples, *, seed: [{"label": "these", "figures": figures}])
    assert main(["tour", "--only", "toy"]) == 0
    written, seen = read(two)
    assert "<th>fidelity</th><th>FD x</th></tr><tr><td>these</td><td>0.91</td>" in written
    assert "<th>fidelity and diversity</th><th>precision</th><th>recall</th></tr>" in written
    assert "classes and memory" not in written and len(seen.all("dt")) == 3


def test_an_empty_page_is_a_page(tmp_path: Path):
    Page(page.render([], tmp_path))
