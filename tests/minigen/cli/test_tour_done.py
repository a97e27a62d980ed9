"""What `minigen tour` keeps, and what it counts as done: what this tour would find, with its seed and its settings."""

import dataclasses
import json
from pathlib import Path

import pytest

from minigen.__main__ import main
from minigen.cli import tour
from tests.minigen.train import toy


def test_a_system_is_done_with_the_seed_and_the_settings_that_it_was_trained_with(
    without_ruler: None, inside: Path, monkeypatch: pytest.MonkeyPatch
):
    flags = tour.TourFlags()
    assert not tour.done(toy.ENTRY, flags)
    assert main(["tour", "--only", "toy"]) == 0
    assert tour.done(toy.ENTRY, flags)
    file = inside / "out" / "tour" / "toy" / tour.FACTS
    facts = json.loads(file.read_text())
    del facts["config"]["pause"]  # found before there was such a setting
    file.write_text(json.dumps(facts))
    assert tour.done(toy.ENTRY, flags)
    assert not tour.done(toy.ENTRY, dataclasses.replace(flags, seed=1))
    assert not tour.done(toy.ENTRY, dataclasses.replace(flags, whole=True))
    monkeypatch.setattr(toy, "TOUR", {**toy.TOUR, "lr": 0.02})
    assert not tour.done(toy.ENTRY, flags)


def test_a_run_that_cannot_go_on_keeps_what_was_found(
    without_ruler: None, inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(["tour", "--only", "toy"]) == 0
    facts = (inside / "out" / "tour" / "toy" / tour.FACTS).read_bytes()
    monkeypatch.setattr(toy, "TOUR", {**toy.TOUR, "lr": 0.02})
    assert main(["tour", "--only", "toy", "--resume"]) == 2
    assert "was started with --lr 0.01, not 0.02" in capsys.readouterr().err
    assert (inside / "out" / "tour" / "toy" / tour.FACTS).read_bytes() == facts
