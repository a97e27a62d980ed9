"""What only a process of its own can show: kill -9, Ctrl-C, and the time it takes to import."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minigen.train import checkpoint
from minigen.train.log import read_log
from minigen.train.run import CHECKPOINT, LOG, WEIGHTS

TOY = [sys.executable, "-W", "error", "-m", "tests.minigen.train.toy"]
ARGS = ("train", "toy", "--steps", "60", "--first-steps", "20", "--save-seconds", "0", "--data", "rings")


def run(environment: dict[str, str], *args: str, end: str = "") -> "subprocess.CompletedProcess[str]":
    given = {**environment, "TOY_END": end} if end else environment
    return subprocess.run([*TOY, *args], env=given, capture_output=True, text=True, timeout=60)


def position(out: Path) -> int:
    """Where the checkpoint stands; it must load."""
    with checkpoint.opened(out / CHECKPOINT, kind="checkpoint", system="toy") as reader:
        return int(reader.about["stage"]) * 20 + int(reader.about["step"])


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_killed_and_interrupted_a_run_ends_with_the_same_bytes(tmp_path: Path, environment: dict[str, str]):
    """Kill -9 inside a save, inside a step and at a random time, then Ctrl-C, then to the end; against an unbroken run.

    Every save calls fsync four times (two files, each with its folder), the first save is that of step 0: the 41st call
    is that of the checkpoint of step 10, written but not renamed yet.
    """
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(environment, *ARGS, "--out", str(whole)).returncode == 0

    assert run(environment, *ARGS, "--out", str(broken), end="9 fsync 41").returncode == -signal.SIGKILL
    assert position(broken) == 9 and len(list(broken.glob(f".{CHECKPOINT}.*.tmp"))) == 1
    go_on = ("train", "toy", "--resume", "--save-seconds", "0", "--out", str(broken))
    assert run(environment, *go_on, end="9 loss 12").returncode == -signal.SIGKILL
    assert position(broken) == 20 + 11

    process = subprocess.Popen([*TOY, *go_on], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and position(broken) < 36:
        time.sleep(0.001)
    process.kill()
    assert process.wait(timeout=60) in (-signal.SIGKILL, 0)  # a slow look may find it finished
    reached = position(broken)
    assert reached >= 36

    stopped = run(environment, *go_on, end="2 loss 5")
    assert (stopped.returncode, stopped.stderr.count("\n")) == ((130, 1) if reached <= 75 else (0, 0))
    if reached <= 75:
        assert stopped.stderr.startswith(
            f"minigen: stopped at step {reached + 5} of 80, everything is saved: go on with "
        )

    last = run(environment, *go_on)
    assert last.returncode == 0 and not last.stderr and "going on from step" in last.stdout
    assert (broken / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    lines = [[{k: v for k, v in r.items() if k != "seconds"} for r in read_log(out / LOG)] for out in (whole, broken)]
    assert lines[0] == lines[1] and len(lines[0]) == 80
    assert {path.name for path in broken.iterdir()} == {path.name for path in whole.iterdir()}


def test_import_minigen_brings_in_nothing_heavy(environment: dict[str, str]):
    """The command line's table and the import alone need no tyro, rich, Pillow, scipy, sklearn or matplotlib."""
    heavy = "{'scipy', 'sklearn', 'matplotlib', 'tyro', 'rich', 'PIL', 'safetensors', 'torch'}"
    code = f"import sys, minigen, minigen.__main__; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_python_m_minigen_works_and_a_closed_pipe_is_no_error(environment: dict[str, str]):
    process = subprocess.Popen(
        [sys.executable, "-m", "minigen", "list"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as said:
        code = process.wait(timeout=60)
        assert code in (0, 1) and said.read() == b""  # rich leaves with 1


def test_a_reader_of_the_oracles_table_that_has_seen_enough_is_no_error(environment: dict[str, str]):
    command = [sys.executable, "-m", "minigen.data.oracle", "--check", "8"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as said:
        assert (process.wait(timeout=60), said.read()) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("command", "name"), [("minigen list", "minigen"), ("kernels.bench --list", "kernels.bench")])
def test_a_stdout_that_is_full_or_closed_leaves_no_traceback(environment: dict[str, str], command: str, name: str):
    python = f"{sys.executable} -W error -m {command}"
    found = subprocess.run(f"{python} >/dev/full", shell=True, env=environment, capture_output=True, text=True)
    assert found.returncode == 2 and found.stderr == f"{name}: cannot write to stdout: No space left on device\n"
    found = subprocess.run(f"{python} >&-", shell=True, env=environment, capture_output=True, text=True)
    assert found.returncode == 0 and not found.stderr
    found = subprocess.run(f"{python} | true", shell=True, env=environment, capture_output=True, text=True)
    assert not found.stderr


def test_help_works_on_a_terminal_without_greek_letters(environment: dict[str, str]):
    found = subprocess.run(
        [sys.executable, "-m", "minigen", "train", "ddpm", "--help"],
        env={**environment, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert found.returncode == 0 and b"--batch-size" in found.stdout, found.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes all bytes in a name")
def test_a_path_whose_bytes_are_no_letters_is_told_in_every_locale(environment: dict[str, str], tmp_path: Path):
    """In C.UTF-8 Python prints such a name by itself; elsewhere it is strict, and a run that was done ended in a traceback."""
    strict = {**environment, "PYTHONIOENCODING": "utf-8:strict"}
    found = run(strict, *ARGS, "--out", f"{tmp_path}/gr\udcf6sse")
    assert found.returncode == 0 and "/gr?sse/weights.safetensors" in found.stdout, found.stderr
