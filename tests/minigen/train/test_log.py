"""The log: one line a step, cut back to any step, readable whatever its end looks like."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigen.errors import UserError
from minigen.train.log import Log, curves, read_log


def written(path: Path, steps: int) -> None:
    log = Log(path)
    for step in range(1, steps + 1):
        log.write({"step": step, "stage": "one", "a.loss": 1 / step, "b.loss": float(step), "a.norm": 2.0})
    log.close()


def test_lines_are_json_and_come_back(tmp_path: Path):
    written(tmp_path / "log.jsonl", 3)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert curves(read_log(tmp_path / "log.jsonl")) == {
        "a": ([1, 2, 3], [1.0, 0.5, 0.3333333]),
        "b": ([1, 2, 3], [1.0, 2.0, 3.0]),
    }


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path):
    log = Log(tmp_path / "log.jsonl")
    log.write({"step": 1, "a.loss": math.nan, "b.loss": math.inf})
    log.close()
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "a.loss": None, "b.loss": None}]
    assert curves(read_log(tmp_path / "log.jsonl")) == {}


@given(kept=st.integers(0, 6), torn=st.integers(0, 200))
def test_a_resumed_log_is_the_log_of_an_unbroken_run(tmp_path_factory: pytest.TempPathFactory, kept: int, torn: int):
    """However many bytes of later lines reached the disk, it is cut back to the step of the checkpoint."""
    folder = tmp_path_factory.mktemp("log")
    written(folder / "whole.jsonl", 6)
    whole = (folder / "whole.jsonl").read_bytes()
    ends = [0, *(i + 1 for i, byte in enumerate(whole) if byte == ord("\n"))]
    (folder / "cut.jsonl").write_bytes(whole[: min(len(whole), ends[kept] + torn)])
    log = Log(folder / "cut.jsonl", keep_until=kept)
    for step in range(kept + 1, 7):
        log.write({"step": step, "stage": "one", "a.loss": 1 / step, "b.loss": float(step), "a.norm": 2.0})
    log.close()
    assert (folder / "cut.jsonl").read_bytes() == whole


def test_an_absent_log_is_empty(tmp_path: Path):
    assert read_log(tmp_path / "nothing.jsonl") == []


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot write .*Is a directory"):
        Log(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path: Path):
    log = Log(tmp_path / "log.jsonl")
    log.file.close()
    log.file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
    log.write({"step": 1})
    with pytest.raises(UserError, match="No space left on device"):
        log.flush()
    log.close()  # the lines are given up, so closing is quiet
