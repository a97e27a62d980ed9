"""How fast is each kernel, beside a peer and beside the machine's own limits?

    python -m kernels.bench [op ...] [--peer torch|none] [--threads N] [--rounds N] [--json FILE] [--list] [--fresh-memory]

Ours and the peer's are timed in turn, round by round, in one process, so that whatever disturbs the machine disturbs
both; figures are medians. As in `minigen train`, freed memory is kept (kernels/memory.py), for both; with
--fresh-memory it is not, and whoever allocates more pays more. The limits are measured first: a large matrix product (GFLOP/s) and a large copy (GB/s).
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from . import memory, threads
from .problems import Problem, problems

MINIMUM = 0.1  # seconds that one round of one contestant takes at least, so that short calls are averaged


def time_paired(contestants: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median seconds a call of each, measured in turn after two untimed calls each (the second tells how often to repeat)."""
    repeats = []
    for run in contestants:
        run()
        start = time.perf_counter()
        run()
        repeats.append(max(1, int(MINIMUM / max(time.perf_counter() - start, 1e-7))))
    seconds: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for i, run in enumerate(contestants):
            start = time.perf_counter()
            for _ in range(repeats[i]):
                run()
            seconds[i].append((time.perf_counter() - start) / repeats[i])
    return [statistics.median(s) for s in seconds]


def measured_limits() -> dict[str, float]:
    """GFLOP/s of a large float32 matrix product over our threads, and GB/s (read + write) of a large copy."""
    from .matmul import matmul

    a = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    x, y = np.ones(1 << 25, np.float32), np.empty(1 << 25, np.float32)
    product, copy = (
        min(time_paired([run], 5)[0] for _ in range(2)) for run in (lambda: matmul(a, a), lambda: np.copyto(y, x))
    )
    return {"gflop_per_s": 2 * 2048**3 / product / 1e9, "gb_per_s": 2 * x.nbytes / copy / 1e9}


def conditions() -> dict[str, Any]:
    """What was in force: versions, threads, and the BLAS kernels that NumPy really runs."""
    from threadpoolctl import threadpool_info

    blas = [
        f"{i.get('internal_api')} {i.get('version')} {i.get('architecture')}"
        for i in threadpool_info()
        if i["user_api"] == "blas"
    ]
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas,
        "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "not set"),
        "threads": threads.get_threads(),
        "cores": os.cpu_count(),
        "processor": processor(),
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load_peer(name: str) -> Any:
    """The peer's module with our number of threads, or None where it is not installed or not wanted."""
    if name == "none":
        return None
    if importlib.util.find_spec(name) is None:
        print(f"{name} is not installed: our times only (pip install -e '.[peers]')", file=sys.stderr)
        return None
    module = importlib.import_module(name)
    module.set_num_threads(threads.get_threads())
    return module


def measure(problem: Problem, peer: Any, rounds: int, limits: dict[str, float]) -> dict[str, Any]:
    """One row: milliseconds, the ratio to the peer, and how near the machine's limits the work is done."""
    runs = [problem.ours(np.random.default_rng(0))]
    if peer is not None:
        runs.append(problem.peer(np.random.default_rng(0), peer))
    seconds = time_paired(runs, rounds)
    gflop, gb = problem.flop / seconds[0] / 1e9, problem.bytes / seconds[0] / 1e9
    return {
        "op": problem.op,
        "problem": problem.name,
        "ms": seconds[0] * 1e3,
        "peer_ms": seconds[1] * 1e3 if peer is not None else None,
        "ratio": seconds[0] / seconds[1] if peer is not None else None,
        "goal": problem.goal,
        "gflop_per_s": gflop,
        "share_of_matmul": gflop / limits["gflop_per_s"],
        "gb_per_s": gb,
        "share_of_copy": gb / limits["gb_per_s"],
    }


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """The rows as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in ("op", "problem"):
        table.add_column(column)
    for column in ("ms", "peer ms", "ratio", "goal", "GFLOP/s", "of matmul", "GB/s", "of copy"):
        table.add_column(column, justify="right")

    def show(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    for r in rows:
        table.add_row(
            r["op"],
            r["problem"],
            show(r["ms"], ".3f"),
            show(r["peer_ms"], ".3f"),
            show(r["ratio"], ".2f"),
            show(r["goal"], ".2f"),
            show(r["gflop_per_s"], ".0f"),
            show(r["share_of_matmul"], ".0%"),
            show(r["gb_per_s"], ".1f"),
            show(r["share_of_copy"], ".0%"),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``python -m kernels.bench``."""
    everything = problems()
    known = list(dict.fromkeys(p.op for p in everything))
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description="Time the kernels beside a peer.")
    parser.add_argument("ops", nargs="*", metavar="op", help=f"which operations (default all): {', '.join(known)}")
    parser.add_argument("--peer", default="torch", choices=["torch", "none"], help="what to compare with")
    parser.add_argument("--threads", type=int, help="threads for both (default: all cores)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; figures are medians over them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the conditions there")
    parser.add_argument("--fresh-memory", action="store_true", help="leave the C library's memory settings alone")
    parser.add_argument("--list", action="store_true", help="only list the problems")
    options = parser.parse_args(arguments)
    unknown = [op for op in options.ops if op not in known]
    if unknown:
        parser.error(f"unknown operation {unknown[0]!r}: use {', '.join(known)}")
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    chosen = [p for p in everything if not options.ops or p.op in options.ops]
    if options.list:
        for p in chosen:
            print(f"{p.op:14} {p.name:60} {p.flop / 1e9:8.3f} GFLOP {p.bytes / 1e6:9.1f} MB")
        return 0
    if options.threads:
        threads.set_threads(options.threads)
    kept = not options.fresh_memory and memory.keep_freed_memory()  # for both sides
    peer = load_peer(options.peer)
    limits, state = measured_limits(), {**conditions(), "freed memory": "kept" if kept else "given back"}
    print(f"matrix product {limits['gflop_per_s']:.0f} GFLOP/s, copy {limits['gb_per_s']:.0f} GB/s; {state}")
    rows = [measure(p, peer, options.rounds, limits) for p in chosen]
    print_table(
        rows,
        f"kernels on {state['threads']} threads; peer: {peer.__name__ + ' ' + peer.__version__ if peer else 'none'}",
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        peer_name = f"{peer.__name__} {peer.__version__}" if peer else None
        options.json.write_text(
            json.dumps({**state, "peer": peer_name, "limits": limits, "rows": rows}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
