"""A folder in which one process works at a time, and a run that keeps a second one out of its folder."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from minigen.data import load
from minigen.errors import UserError
from minigen.train import lock
from minigen.train.lock import alone_in
from minigen.train.loop import Trainer
from minigen.train.run import CHECKPOINT, SAMPLES, Run, train
from tests.minigen.train import toy

fcntl = pytest.importorskip("fcntl")
DIGITS = load("digits")


def is_free(folder: Path) -> bool:
    """Whether a new process gets the lock."""
    try:
        with alone_in(folder) as sure:
            return sure
    except UserError:
        return False


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_second_one_is_kept_out_until_the_first_one_has_left(tmp_path: Path):
    before = open_files()
    with alone_in(tmp_path) as sure:
        assert sure
        said = r"^a run is going on in .*: wait for its end, or give another folder with --out$"
        with pytest.raises(UserError, match=said), alone_in(tmp_path):
            pass
        assert is_free(tmp_path.parent)
    assert is_free(tmp_path) and not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path):
        raise ZeroDivisionError
    assert is_free(tmp_path) and open_files() == before


def test_what_cannot_be_locked_is_not_sure_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = open_files()
    for folder in (tmp_path / "no", tmp_path / "file"):
        (tmp_path / "file").touch()
        with alone_in(folder) as sure:
            assert not sure

    def flock(*args: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with alone_in(tmp_path) as sure, alone_in(tmp_path) as second:
            assert not sure and not second
    monkeypatch.setattr(lock, "fcntl", None)
    with alone_in(tmp_path) as sure:
        assert not sure
    assert open_files() == before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path):
    """It lives on when the block is over, as a shard's process would if the one that trains were killed."""
    ours, theirs = socket.socketpair()
    with alone_in(tmp_path):
        if (pid := os.fork()) == 0:
            ours.close()
            theirs.send(b"here")
            theirs.recv(1)  # until the other end is closed
            os._exit(0)
        assert ours.recv(4) == b"here"
        assert not is_free(tmp_path), "nor does it give it back"
    try:
        assert is_free(tmp_path)
    finally:
        theirs.close()
        ours.close()
        assert os.waitpid(pid, 0)[1] == 0


def go(out: Path, *, resume: bool = False, **run: Any) -> Any:
    """Train the toy in this process."""
    system = toy.build(toy.Config(steps=3, first_steps=2), DIGITS, seed=0)
    return train(system, DIGITS, Run(out=out, system="toy", samples=4, **run), resume=resume)


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("at", [0, 3])
def test_a_run_keeps_a_second_one_out_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool], at: int
):
    """In every way, whether a step was done before or not; the first one ends as if nothing had been tried."""
    refused, real = [], Trainer.advance

    def advance(self: Trainer, split: Any) -> Any:
        if self.done == at and not refused:
            with pytest.raises(UserError, match=f"^a run is going on in {tmp_path}: ") as caught:
                go(tmp_path, **how)
            refused.append(caught.value)
        return real(self, split)

    monkeypatch.setattr(Trainer, "advance", advance)
    assert go(tmp_path, save_seconds=0.0).steps == 5 and refused
    assert is_free(tmp_path)
    assert go(tmp_path, resume=True).steps == 5


def test_a_run_removes_what_a_killed_one_left_where_it_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    go(tmp_path)
    left = [tmp_path / f".{CHECKPOINT}.01ab.tmp", tmp_path / SAMPLES / ".000005.png.01ab.tmp"]
    kept = tmp_path / ".notes.tmp"
    for path in (*left, kept):
        path.touch()
    with monkeypatch.context() as patch:
        patch.setattr(lock, "fcntl", None)  # who knows whether it is being written?
        go(tmp_path, resume=True)
    assert all(path.exists() for path in (*left, kept))
    go(tmp_path, resume=True)
    assert kept.exists() and not any(path.exists() for path in left)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_killed_run_lets_go_of_its_folder(tmp_path: Path, environment: dict[str, str]):
    """Two processes, the first one killed in the middle of a step."""
    flags = ("--steps", "400", "--pause", "0.05", "--save-seconds", "0", "--data", "rings", "--out", str(tmp_path))
    command = [sys.executable, "-m", "tests.minigen.train.toy", "train", "toy", *flags]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / CHECKPOINT).exists():
            assert first.poll() is None
            time.sleep(0.01)
        second = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2 and second.stderr.startswith(f"minigen: a run is going on in {tmp_path}: ")
    finally:
        first.kill()
        first.wait(timeout=60)
    assert is_free(tmp_path)
