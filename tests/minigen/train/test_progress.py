"""What is shown while a run trains."""

import pytest
from rich.console import Console

from minigen.train import progress
from minigen.train.progress import Progress, clock


def test_clock():
    assert [clock(s) for s in (0, 59.6, 65, 7207)] == ["0:00", "1:00", "1:05", "2:00:07"]


def run(total: int) -> None:
    with Progress("toy", total) as shown:
        shown.say("[not markup]")
        for _ in range(total):
            shown.advance(2.0, 64)


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1.0)
    run(3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[not markup]"
    assert [line.split("   ")[0] for line in lines[1:]] == [f"toy: step {i}/3" for i in (1, 2, 3, 3)]
    assert all("loss 2 " in line and "samples/s" in line and line.endswith("left") for line in lines[1:])


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    run(3)
    said = capsys.readouterr().out
    assert "[not markup]" in said and "3/3" in said and "loss 2" in said and "samples/s" in said


def test_the_stage_is_named_and_its_loss_is_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1.0)
    with Progress("toy", 4) as shown:
        for stage, loss in (("first", 8.0), ("first", 8.0), ("both", 1.0), ("both", 1.0)):
            shown.enter(stage)
            shown.advance(loss, 64)
    lines = [line.split("   ")[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [
        ["toy (first): step 1/4", "loss 8"],
        ["toy (first): step 2/4", "loss 8"],
        ["toy (both): step 3/4", "loss 1"],
    ]


def test_the_bar_names_the_stage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress("toy", 1) as shown:
        shown.enter("base")
        shown.advance(2.0, 64)
    assert "toy (base)" in capsys.readouterr().out


def test_nothing_done_nothing_said(capsys: pytest.CaptureFixture[str]):
    with Progress("toy", 5, done=5):
        pass
    assert capsys.readouterr().out == ""


def test_time_apart_is_not_training(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("toy", 4) as shown:
        for _ in range(2):
            now[0] += 1.0
            shown.advance(1.0, 10)
        with shown.apart():
            now[0] += 100.0
        assert shown.figures() == "loss 1   10 samples/s   0:02 left"
