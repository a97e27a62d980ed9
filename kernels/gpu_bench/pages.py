"""What is kept of the GPU benchmark: a results file per card, tables between markers in READMEs, a plot per ladder.

A file holds runs, each with its conditions and limits, and each row stays with those under which it was measured: a new
run replaces the rows that it has measured again, and the others remain. A table stands between ``<!-- bench: NAME -->``
and ``<!-- bench end -->`` in any README of this project; NAME is an operation. Where nothing was measured, the table
says so.
"""

import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..source import ROOT
from . import stamps
from .measure import placed
from .problem import Problem

RESULTS = ROOT / "results"
MARKED = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- bench end -->)", re.DOTALL)
NOT_YET = "Not yet run on hardware."
CHANGED = "†"  # beside a rung whose time is not of the current code: see stamps
INK, OURS, PEER = "#7a7f87", "#3b7dd8", "#b9bec6"  # readable on white and on black
LADDERS = (
    "matmul", "conv2d", "conv2d-grad-x", "conv2d-grad-w", "attention", "attention-short", "attention-grad", "quantize",
    "eight_bit",
)  # fmt: skip
Row = dict[str, Any]


# --- results ----------------------------------------------------------------------------------------------------------


def file_of(device: str) -> Path:
    """Where a card's results are kept."""
    return RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def key(row: Row) -> tuple[str, str, str]:
    """What a row is about."""
    return row["op"], row["problem"], row["dtype"]


def without(rows: Sequence[Row], problems: Sequence[Problem]) -> list[Problem]:
    """The problems that have no row, or none of the current code of one of their rungs."""
    known = {key(row): row for row in rows}

    def complete(p: Problem) -> bool:
        row = known.get((p.op, p.name, p.dtype))
        if row is None:
            return False
        names = {c["name"] for c in row["contestants"]}
        return names >= {f"rung {r}" for r in p.rungs} and not any(_changed(row, c, p) for c in row["contestants"])

    return [p for p in problems if not complete(p)]


def merged(before: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs with the new one: rows that it has measured again leave the others, and empty runs are dropped."""
    fresh = {key(row) for row in run["rows"]}
    kept = [{**old, "rows": [row for row in old["rows"] if key(row) not in fresh]} for old in before]
    return [r for r in (*kept, dict(run)) if r["rows"]]


def read(file: Path) -> list[dict[str, Any]]:
    """The runs of a file; none if there is no such file."""
    return json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else []


def write(file: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """All runs of a card."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps({"runs": list(runs)}, indent=1) + "\n", encoding="utf-8")
    part.replace(file)  # at once, so that a run that is stopped leaves a whole file


def rows_of(runs: Iterable[Mapping[str, Any]]) -> list[Row]:
    """All rows, each with its device, its architecture and its date, placed under the limits of its run."""
    found = []
    for run in runs:
        conditions = {name: run["conditions"][name] for name in ("device", "architecture", "date")}
        found += [{**placed(row, run["limits"]), **conditions} for row in run["rows"]]
    return found


def all_rows() -> list[Row]:
    """Those of every card that has results."""
    return [row for file in _files() for row in rows_of(read(file))]


def bring_up(problems: Sequence[Problem]) -> list[Path]:
    """New stamps for times whose code has changed only in its text; returns the changed files. Raises NoCuda."""
    changed = []
    for file in _files():
        before = read(file)
        after = stamps.brought_up(before, problems)
        if after != before:
            write(file, after)
            changed.append(file)
    return changed


def _files() -> list[Path]:
    return sorted(RESULTS.glob("gpu-*.json"))


# --- tables -----------------------------------------------------------------------------------------------------------


def table(op: str, problems: Sequence[Problem], rows: Sequence[Row], page: Path) -> str:
    """An operation's rungs, and what has been measured of them: a line for each problem and whoever ran it.

    Where another file ran in a rung's place, its name stands in that line, and it is listed with the rungs.
    """
    lines = ["| rung | |", "|---|---|"]
    order = {(p.op, p.name, p.dtype): i for i, p in enumerate(problems)}
    known = {(p.op, p.name, p.dtype): p for p in problems}
    mine = sorted((r for r in rows if r["op"] == op), key=lambda r: (order.get(key(r), len(order)), r["device"]))
    measured = [(key(row), c) for row in mine for c in row["contestants"] if "not run" not in c]
    beside = {(k, c["name"]): other for k, c in measured if (other := _beside(c, known.get(k)))}
    ran = {(k, c["name"]) for k, c in measured} - beside.keys()
    rungs: dict[tuple[int, Path], bool] = {}  # and whether any problem was measured with it
    for p in problems:
        for r, name in p.rungs.items() if p.op == op else ():
            rung = r, p.folder / name
            rungs[rung] = rungs.get(rung, False) or ((p.op, p.name, p.dtype), f"rung {r}") in ran
    rungs |= {rung: True for rung in beside.values() if rung[1].exists()}
    for (number, file), has_run in sorted(rungs.items()):
        remark = "" if has_run or not mine else f". {NOT_YET}"
        lines.append(f"| {number} | [`{file.name}`]({os.path.relpath(file, page.parent)}): {idea(file)}{remark} |")
    if not mine:
        return "\n".join([*lines, "", NOT_YET])
    head = "| problem | | cold ms | hot ms | spread | TFLOP/s | GB/s | of the roofline | ratio |"
    lines += ["", head, "|---|---|" + "---:|" * 7]
    for row in mine:
        ran_by = [c for c in sorted(row["contestants"], key=_ours_first) if "not run" not in c]
        for c in ran_by:
            changed = _changed(row, c, known.get(key(row)))
            lines.append(_line(row, c, beside.get((key(row), c["name"])), changed))
    cards = "; ".join(sorted({f"{r['device']}, {r['date']}" for r in mine}))
    explained = f"{os.path.relpath(ROOT / 'README.md', page.parent)}#tables"
    lines += ["", f"Measured by `python -m kernels.bench --device cuda` on {cards}. Ratio: to the fastest peer, cold;"]
    lines += [f"[the other columns]({explained})."]
    if any(f" {CHANGED} |" in line for line in lines):
        lines += [f"{CHANGED} Measured with a kernel that has changed since."]
    if op in LADDERS:
        for device in sorted({r["device"] for r in mine}):
            plotted = os.path.relpath(plot_of(device, op), page.parent)
            lines += ["", f"![TFLOP/s of each rung and each peer, {device}]({plotted})"]
    return "\n".join(lines)


def _ours_first(c: Mapping[str, Any]) -> tuple[bool, str]:
    return bool(c.get("peer")), c["name"]


def _beside(c: Mapping[str, Any], problem: Problem | None) -> tuple[int, Path] | None:
    """The rung's number and the file that took its place in a measurement, or None if it ran itself."""
    if problem is None or "file" not in c:
        return None
    number = int(c["name"].removeprefix("rung "))
    return None if c["file"] == problem.rungs.get(number) else (number, problem.folder / c["file"])


def _changed(row: Row, c: Mapping[str, Any], problem: Problem | None) -> bool:
    """Whether a rung's time is not of the current code."""
    return "cold_ms" in c and not c.get("peer") and not stamps.is_here(c, problem, row["architecture"])


def _line(row: Row, c: Mapping[str, Any], beside: tuple[int, Path] | None, changed: bool) -> str:
    name = (c["name"] if beside is None else f"{c['name']}, `{beside[1].name}`") + f" {CHANGED}" * changed
    start = f"| {row['problem']}, {row['dtype']} | {name} |"
    if "cold_ms" not in c:
        return f"{start} {'wrong' if 'wrong' in c else 'failed'} |" + " |" * 6
    peers = [p["cold_ms"] for p in row["contestants"] if p.get("peer") and "cold_ms" in p]
    share = "" if c.get("of_roofline") is None else f"{c['of_roofline']:.0%}"
    ratio = f"{c['cold_ms'] / min(peers):.2f}" if peers and not c.get("peer") else ""
    numbers = f"{c['cold_ms']:.3f} | {c['hot_ms']:.3f} | {c['cold_spread']:.1%} | {c['tflop_per_s']:.1f} | {c['gb_per_s']:.0f}"
    return f"{start} {numbers} | {share} | {ratio} |"


def idea(file: Path) -> str:
    """The first sentence of a kernel's prose."""
    words = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("//") or line.strip() == "//":
            break
        words.append(line[2:].strip())
    text = re.sub(r"\s+", " ", " ".join(words))
    return re.split(r"(?<=[\w)`])[.:](?= [A-Z`]|$)", text)[0].replace("|", "\\|").rstrip(" :,")


def readmes() -> list[Path]:
    """The README files that may have tables."""
    return [f for f in (ROOT.parent / "README.md", ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))) if f.exists()]


def with_tables(text: str, problems: Sequence[Problem], rows: Sequence[Row], page: Path) -> str:
    """The text of a page with every table between markers rewritten."""
    return MARKED.sub(lambda m: f"{m[1]}{table(m[2], problems, rows, page)}\n{m[3]}", text)


def write_tables(problems: Sequence[Problem], rows: Sequence[Row]) -> list[Path]:
    """Writes the tables into the README files; returns those that have changed."""
    changed = []
    for file in readmes():
        before = file.read_text(encoding="utf-8")
        after = with_tables(before, problems, rows, file)
        if after != before:
            file.write_text(after, encoding="utf-8")
            changed.append(file)
    return changed


# --- plots ------------------------------------------------------------------------------------------------------------


def plot(op: str, rows: Sequence[Row]) -> str | None:
    """A ladder's SVG: for each problem the TFLOP/s of its rungs and of its peers; None if nothing was measured."""
    import matplotlib
    from matplotlib.figure import Figure

    mine = [r for r in rows if r["op"] == op and any("tflop_per_s" in c for c in r["contestants"])]
    if not mine:
        return None
    bars = [[c for c in r["contestants"] if "tflop_per_s" in c] for r in mine]
    height = sum(len(b) for b in bars) * 0.2 + len(bars) * 0.32 + 0.7
    fig = Figure(figsize=(8.4, height), layout="constrained")
    axes = fig.subplots()
    at, ticks = 0.0, []
    for row, contestants in zip(mine, bars):
        axes.text(0, -at, f"{row['problem']}, {row['dtype']}", color=INK, fontsize=7, va="center", weight="bold")
        for c in sorted(contestants, key=_ours_first):
            at += 1
            axes.barh(-at, c["tflop_per_s"], 0.8, color=PEER if c.get("peer") else OURS)
            axes.text(c["tflop_per_s"], -at, f" {c['tflop_per_s']:.3g}", color=INK, fontsize=6, va="center")
            ticks.append((-at, c["name"]))
        at += 1.6
    axes.set_ylim(-at + 0.6, 0.9)
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks], fontsize=6)
    axes.set_xlabel(f"TFLOP/s, cold cache; {mine[0]['device']}", color=INK, fontsize=7)
    axes.tick_params(colors=INK, labelsize=6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": op}):
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def plot_of(device: str, op: str) -> Path:
    """Where a ladder's plot is kept."""
    return file_of(device).with_name(f"{file_of(device).stem}-{op}.svg")


def write_plots(rows: Sequence[Row]) -> list[Path]:
    """A plot for each ladder and card of which something was measured."""
    written = []
    for device in sorted({r["device"] for r in rows}):
        for op in LADDERS:
            text = plot(op, [r for r in rows if r["device"] == device])
            if text is not None:
                written.append(plot_of(device, op))
                written[-1].write_text(text, encoding="utf-8")
    return written
