"""The benchmark on a CPU: what is timed, and how medians, ratios and shares come from it."""

import json
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import pytest

from kernels import bench, threads
from kernels.problems import Problem

LIMITS = {"gflop_per_s": 100.0, "gb_per_s": 10.0}


def problem(**changes):
    made = {
        "op": "norm",
        "name": "a",
        "flop": 6e9,
        "bytes": 3e8,
        "ours": lambda rng: "ours",
        "peer": lambda rng, t: "peer",
    }
    return Problem(**{**made, **changes})


def test_contestants_take_turns_and_medians_are_of_a_call(monkeypatch):
    """Two untimed calls each, then as many calls a round as the shortest round wants, on a clock that calls put on."""
    now, order = [0.0], []
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def contestant(name, seconds):
        seconds = iter(seconds)

        def run():
            order.append(name)
            now[0] += next(seconds)

        return run

    short = contestant("s", [9.0, 0.04, *[0.05] * 2, *[0.03] * 2, *[0.08] * 2])
    long = contestant("l", [9.0, 3.0, 1.0, 2.0, 6.0])
    assert bench.time_paired([short, long], 3) == pytest.approx([0.05, 2.0])
    assert "".join(order) == "ss" + "ll" + "ssl" * 3


def test_the_limits_count_a_multiply_add_as_two_and_a_copy_as_a_read_and_a_write(monkeypatch):
    times = iter([0.25, 0.5, 0.75, 0.125])
    monkeypatch.setattr(np, "ones", np.empty)  # nothing is copied
    monkeypatch.setattr(bench, "time_paired", lambda runs, rounds: [next(times)])
    found = bench.measured_limits()
    assert found["gflop_per_s"] == pytest.approx(2 * 2048**3 / 0.25 / 1e9)
    assert found["gb_per_s"] == pytest.approx((4 + 4) * 2**25 / 0.125 / 1e9)


def test_a_row_is_of_our_time_and_its_ratio_is_to_the_peers(monkeypatch):
    monkeypatch.setattr(
        bench, "time_paired", lambda runs, rounds: {"ours": [2e-1], "ourspeer": [2e-1, 4e-1]}["".join(runs)]
    )
    row = bench.measure(problem(goal=0.8), object(), 3, LIMITS)
    assert (row["ms"], row["peer_ms"], row["ratio"], row["goal"]) == pytest.approx((200.0, 400.0, 0.5, 0.8))
    assert (row["gflop_per_s"], row["share_of_matmul"]) == pytest.approx((30.0, 0.3))
    assert (row["gb_per_s"], row["share_of_copy"]) == pytest.approx((1.5, 0.15))
    alone = bench.measure(problem(), None, 3, LIMITS)
    assert alone["ms"] == pytest.approx(200.0) and alone["peer_ms"] is alone["ratio"] is None


def test_the_table_has_each_figure_in_its_column(capsys):
    row = {
        "op": "norm", "problem": "a", "ms": 1.5, "peer_ms": 3.0, "ratio": 0.5, "goal": 0.8, "gflop_per_s": 30.0,
        "share_of_matmul": 0.3, "gb_per_s": 2.5, "share_of_copy": 0.25,
    }  # fmt: skip
    bench.print_table([row, {**row, "peer_ms": None, "ratio": None, "goal": None}], "title")
    cells = [
        [c.strip() for c in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if "norm" in line
    ]
    assert cells == [
        ["norm", "a", "1.500", "3.000", "0.50", "0.80", "30", "30%", "2.5", "25%"],
        ["norm", "a", "1.500", "", "", "", "30", "30%", "2.5", "25%"],
    ]


@pytest.fixture
def on_a_cpu(monkeypatch):
    """The command with one problem; what was asked for is in the list that it gives."""
    asked, before = [], threads.get_threads()
    peer = SimpleNamespace(__name__="peer", __version__="1", set_num_threads=lambda n: asked.append(("peer", n)))
    peer.__spec__ = ModuleSpec("torch", None)
    monkeypatch.setitem(sys.modules, "torch", peer)
    monkeypatch.setattr(bench, "problems", lambda: [problem()])
    monkeypatch.setattr(bench, "measured_limits", lambda: LIMITS)
    monkeypatch.setattr(bench.memory, "keep_freed_memory", lambda: asked.append("kept") or True)

    def time_paired(runs, rounds):
        asked.append((*runs, rounds, threads.get_threads()))
        return [0.25, 0.5][: len(runs)]

    monkeypatch.setattr(bench, "time_paired", time_paired)
    yield asked
    threads.set_threads(before)


def test_what_was_asked_for_is_what_is_measured_and_kept(on_a_cpu, tmp_path, capsys):
    file = tmp_path / "rows.json"
    command = ["norm", "--device", "cpu", "--threads", "3", "--rounds", "4", "--json", str(file)]
    assert bench.main(command) == 0
    assert on_a_cpu == ["kept", ("peer", 3), ("ours", "peer", 4, 3)]
    kept = json.loads(file.read_text())
    assert (
        kept["threads"] == 3
        and kept["freed memory"] == "kept"
        and kept["peer"] == "peer 1"
        and kept["limits"] == LIMITS
    )
    assert [(r["ms"], r["ratio"]) for r in kept["rows"]] == [(250.0, 0.5)]
    on_a_cpu.clear()
    assert bench.main(["norm", "--device", "cpu", "--peer", "none", "--fresh-memory", "--json", str(file)]) == 0
    assert on_a_cpu == [("ours", 7, 3)]
    kept = json.loads(file.read_text())
    assert kept["freed memory"] == "given back" and kept["peer"] is None and kept["rows"][0]["ratio"] is None


@pytest.mark.parametrize("usable", [True, False])
def test_torch_without_a_card_is_no_peer_on_a_gpu(usable, monkeypatch):
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: usable), __spec__=ModuleSpec("torch", None))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch.nn", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch.nn.attention", SimpleNamespace())
    assert bench.load_torch("torch") is (torch if usable else None) and bench.load_torch("none") is None
