"""Results survive, and belong to the code that made them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigen.claims import record
from minigen.claims.ledger import Setting
from minigen.claims.trained import trained
from minigen.train import run
from tests.minigen.train import toy


def test_what_was_put_is_found_again(tmp_path: Path):
    one = record.Record(tmp_path)
    assert one.get("a", 0) is None and not one.stale
    one.put("a", 0, {"x": 1.0, "y": 0.25})
    one.put("a", 1, {"x": 2.0, "y": 0.5})
    two = record.Record(tmp_path)
    assert two.get("a", 0) == {"x": 1.0, "y": 0.25} and two.get("a", 1) == {"x": 2.0, "y": 0.5}
    assert list(two.get("a", 1) or {}) == ["x", "y"] and two.get("a", 2) is None and two.get("b", 0) is None


def test_two_processes_keep_what_either_found(tmp_path: Path):
    one, two = record.Record(tmp_path), record.Record(tmp_path)
    one.put("a", 0, {"x": 1.0})
    two.put("a", 1, {"x": 2.0})
    one.put("b", 0, {"x": 3.0})
    assert record.Record(tmp_path).results == {"a": {"0": {"x": 1.0}, "1": {"x": 2.0}}, "b": {"0": {"x": 3.0}}}


def test_what_is_not_finite_was_not_found(tmp_path: Path):
    one = record.Record(tmp_path)
    one.put("a", 0, {"x": float("nan")})
    one.put("a", 1, {"x": 2.0})
    two = record.Record(tmp_path)
    assert two.get("a", 0) is None and two.get("a", 1) == {"x": 2.0}


def test_results_of_other_code_are_left_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record.Record(tmp_path).put("a", 0, {"x": 1.0})
    monkeypatch.setattr(record, "code_checksum", lambda: "other")
    found = record.Record(tmp_path)
    assert found.stale and found.get("a", 0) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"code": 1}', '{"results": {"a": {"0": {"x": "high"}}}}'])
def test_a_broken_file_is_left_aside(tmp_path: Path, text: str):
    if text.startswith('{"results'):
        text = json.dumps({"code": record.code_checksum(), **json.loads(text)})
    (tmp_path / record.FILE).write_text(text)
    assert record.Record(tmp_path).results == {}


def test_the_checksum_is_that_of_the_code():
    assert record.code_checksum() == record.code_checksum() and len(record.code_checksum()) == 8


def test_a_system_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    quick, full = Setting(0, True, tmp_path), Setting(0, False, tmp_path)
    system, dataset = trained(toy, quick, first_steps=2)
    assert system.config.steps == 3 and dataset.name == "digits"
    assert not any(module.training for module in system.modules.values())
    steps: list[Any] = []
    real = run.Trainer.advance
    monkeypatch.setattr(run.Trainer, "advance", lambda self, split: steps.append(1) or real(self, split))
    again, _ = trained(toy, quick, first_steps=2)
    assert not steps
    assert np.array_equal(again.modules["net"].first.w.data, system.modules["net"].first.w.data)
    other, _ = trained(toy, Setting(1, True, tmp_path), first_steps=2)
    assert len(steps) == 5 and not np.array_equal(other.modules["net"].first.w.data, system.modules["net"].first.w.data)
    assert trained(toy, full, first_steps=2)[0].config.steps == 30


def test_weights_are_the_averaged_ones(tmp_path: Path):
    system, _ = trained(toy, Setting(0, True, tmp_path), first_steps=2)
    (folder,) = tmp_path.iterdir()
    from safetensors.numpy import load_file

    averaged = load_file(folder / run.WEIGHTS)["net/first.w"]
    assert np.array_equal(system.modules["net"].first.w.data, averaged)
    assert not np.array_equal(load_file(folder / run.CHECKPOINT)["net/first.w"], averaged)
