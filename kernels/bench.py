"""How fast is each kernel, compared with a peer and with the machine's own limits?

    python -m kernels.bench [op ...] [--device cpu|cuda] [--peer torch|none] [--rounds N] [--json FILE] [--list]
                            [--threads N] [--fresh-memory]                on a CPU
                            [--rung all|none|N] [--dtype D] [--minutes M] [--missing] [--record] [--tables] [--launches]
                                                                          on a GPU: see gpu_bench

Without ``--device`` it runs on a GPU if one can be used or a rung is asked for, else on the CPU. On the CPU, ours and
the peer's are timed in turn, round by round, in one process, so that whatever disturbs the machine disturbs both;
figures are medians. As in `minigen train`, freed memory is kept (kernels/memory.py), for both; with --fresh-memory it
is not, and whoever allocates more pays more. The limits are measured first: a large matrix product (GFLOP/s) and a
large copy (GB/s).
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

from . import backend, command, launch, memory, threads
from .problems import Problem, problems

MINIMUM = 0.1  # seconds that one round of one contestant takes at least, so that short calls are averaged


def time_paired(contestants: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median seconds per call of each, taken in turn after two untimed calls (the second tells how often to repeat)."""
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
    """The conditions of a run: versions, threads, and the BLAS kernels that NumPy really runs."""
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
    print(
        "of matmul, of copy: relative to a large matrix product and a large copy here; above 100 %, arrays stay in the cache"
    )


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``python -m kernels.bench``."""
    on_cpu, on_gpu = problems(), gpu_problems()
    known = sorted({op for p in (*on_cpu, *on_gpu) for op in (p.op, p.op.partition("-")[0])})
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description="Time the kernels and a peer.")
    parser.add_argument("ops", nargs="*", metavar="op", help=f"which operations (default all): {', '.join(known)}")
    parser.add_argument("--op", action="append", default=[], metavar="op", help="the same, as a flag")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if a GPU can be used, else cpu")
    parser.add_argument("--peer", default="torch", choices=["torch", "none"], help="what to compare with")
    parser.add_argument("--rounds", type=int, help="figures are medians over this many (default 7, on a GPU 30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the conditions to this file")
    parser.add_argument("--list", action="store_true", help="only list the problems")
    cpu = parser.add_argument_group("on a CPU")
    cpu.add_argument("--threads", type=int, help="threads for both (default: all cores)")
    cpu.add_argument("--fresh-memory", action="store_true", help="leave the C library's memory settings alone")
    gpu = parser.add_argument_group("on a GPU")
    gpu.add_argument("--rung", help="a number, all (default), or none (only the peers)")
    gpu.add_argument("--dtype", choices=["float32", "tf32", "bf16", "int8", "fp8"], help="only this number format")
    gpu.add_argument("--minutes", type=float, help="begin no further problem after this many")
    gpu.add_argument(
        "--missing", action="store_true", help="only problems with missing or outdated figures of this card"
    )
    gpu.add_argument("--record", action="store_true", help="keep the rows in kernels/results, write tables and plots")
    gpu.add_argument("--launches", action="store_true", help="only show what would be launched, and its occupancy")
    gpu.add_argument(
        "--tables",
        action="store_true",
        help="write tables and plots of the kept rows, and mark the kernels that have changed since",
    )
    options = parser.parse_args(arguments)
    options.ops += options.op
    if unknown := [op for op in options.ops if op not in known]:
        parser.error(f"unknown operation {unknown[0]!r}: use {', '.join(known)}")
    if any(n is not None and n < 1 for n in (options.rounds, options.threads)):
        parser.error("--rounds and --threads must be at least 1")
    if options.rung not in (None, "all", "none") and not options.rung.isdecimal():
        parser.error(f"--rung must be a number, all or none, got {options.rung!r}")
    if options.json and (why := command.unwritable(options.json)):
        parser.error(f"--json: {why}")

    def of(op: str, listed: list[Any]) -> list[Any]:
        """An operation's problems with those of its parts: conv2d-grad-x is one of conv2d."""
        return [p for p in listed if f"{p.op}-".startswith(f"{op}-")]

    def chosen(listed: list[Any]) -> list[Any]:
        return [p for p in listed if not options.ops or any(of(op, [p]) for op in options.ops)]

    if options.tables and options.list:
        parser.error("--tables writes files, and --list writes none")
    if options.tables:
        return bring_up() or write_pages()
    on_cpu, on_gpu = chosen(on_cpu), [p for p in chosen(on_gpu) if options.dtype in (None, p.dtype)]
    for_gpu = options.rung is not None or options.dtype is not None or options.record or options.launches
    going_on = options.missing or options.minutes is not None
    device = options.device or ("cuda" if for_gpu or going_on else None)
    if options.list:
        list_problems([] if device == "cuda" else on_cpu, [] if device == "cpu" else on_gpu)
        return 0
    if device == "cpu" and for_gpu:
        parser.error("--rung, --dtype, --record and --launches are for a GPU")
    if device == "cpu" and going_on:
        parser.error("--minutes and --missing are for a GPU")
    device = device or ("cuda" if gpu_can_be_used() else "cpu")
    listed, of_format = (on_cpu, "") if device == "cpu" else (on_gpu, f" of {options.dtype}" if options.dtype else "")
    if without := [op for op in options.ops if not of(op, listed)]:
        kind = "CPU" if device == "cpu" else "GPU"
        parser.error(f"no {kind} problem{of_format} for {', '.join(without)}, see --list")
    if device == "cpu":
        return run_on_cpu(on_cpu, options)
    if options.threads or options.fresh_memory:
        parser.error("--threads and --fresh-memory are for the CPU")
    rungs = sorted({rung for p in on_gpu for rung in p.rungs})
    if options.rung not in (None, "all", "none", *map(str, rungs)):
        parser.error(f"no chosen problem has rung {options.rung}, they have {', '.join(map(str, rungs)) or 'none'}")
    return print_launches(on_gpu, options) if options.launches else run_on_gpu(on_gpu, options)


def list_problems(on_cpu: list[Problem], on_gpu: list[Any]) -> None:
    """What would be measured: the work, and on a GPU the rungs that can do it and the peers."""
    from .gpu_bench.problem import rungs_that_can

    for p in on_cpu:
        print(f"cpu  {p.op:15} {p.name:63} float32 {p.flop / 1e9:9.3f} GFLOP {p.bytes / 1e6:8.1f} MB  peer: torch")
    for p in on_gpu:
        able, unable = rungs_that_can(p)
        names = [str(r) if file == p.rungs[r] else f"{r} by {file}" for r, file in able.items()]
        rungs = ", ".join([*names, *(f"not {r} ({why})" for r, why in unable.items())]) or "none"
        peers = "; ".join(name for name, _ in p.peers) or "none"
        work = f"{p.flop / 1e9:9.3f} GFLOP {p.bytes / 1e6:8.1f} MB"
        print(f"cuda {p.op:15} {p.name:63} {p.dtype:7} {work}  rungs: {rungs}  peers: {peers}")


def run_on_cpu(chosen: list[Problem], options: argparse.Namespace) -> int:
    """The NumPy paths against torch on the CPU."""
    if options.threads:
        threads.set_threads(options.threads)
    kept = not options.fresh_memory and memory.keep_freed_memory()  # for both sides
    peer = load_peer(options.peer)
    limits, state = measured_limits(), {**conditions(), "freed memory": "kept" if kept else "given back"}
    print(f"matrix product {limits['gflop_per_s']:.0f} GFLOP/s, copy {limits['gb_per_s']:.0f} GB/s; {state}")
    rows = [measure(p, peer, options.rounds or 7, limits) for p in chosen]
    print_table(
        rows,
        f"kernels on {state['threads']} threads; peer: {peer.__name__ + ' ' + peer.__version__ if peer else 'none'}",
    )
    if options.json:
        peer_name = f"{peer.__name__} {peer.__version__}" if peer else None
        options.json.write_text(
            json.dumps({**state, "peer": peer_name, "limits": limits, "rows": rows}, indent=1) + "\n"
        )
    return 0


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def gpu_problems() -> list[Any]:
    """The problems of gpu_bench."""
    from .gpu_bench import companions, products

    return products.problems() + companions.problems()


def gpu_can_be_used() -> bool:
    """Whether CuPy finds a card."""
    try:
        backend.module_for("cuda")
    except ValueError:
        return False
    return True


def run_on_gpu(chosen: list[Any], options: argparse.Namespace) -> int:
    """Rungs and peers; the exit status is 1 if a rung is wrong or fails, 2 if there is no GPU."""
    from .gpu_bench import measure as on_gpu
    from .gpu_bench import pages
    from .gpu_bench.problem import Source

    try:
        device = launch.Device()
        launch.nvrtc()
    except launch.NoCuda as error:
        print(f"error: the benchmark of the CUDA rungs needs a GPU, CuPy and NVRTC: {error}", file=sys.stderr)
        return 2
    xp, torch = device.xp, load_torch(options.peer)
    start = time.monotonic()
    state = on_gpu.conditions(device, xp, torch)
    file = pages.file_of(state["device"])
    before, status = pages.read(file), 0
    if options.missing:
        chosen = pages.without(pages.rows_of(before), chosen)
    if options.rung != "none":
        print(f"{on_gpu.compile_ahead(chosen, device.architecture)} kernels compiled, {time.monotonic() - start:.0f} s")
    clock, source = on_gpu.Clock(xp), Source(device, xp)
    limits = on_gpu.limits(clock, source, torch)
    print("; ".join(f"{name} {value}" for name, value in state.items()))
    for name, limit in limits.items():
        print(f"limit of {name}: " + ", ".join(f"{v:.0f} {k}" if k != "by" else f"by {v}" for k, v in limit.items()))
    run: dict[str, Any] = {"conditions": state, "limits": limits, "rows": []}
    for i, problem in enumerate(chosen):
        if options.minutes is not None and time.monotonic() - start > 60 * options.minutes:
            print(f"\nthe time is up: {len(chosen) - i} problems were not begun (--missing goes on with them)")
            break
        rungs = [r for r in problem.rungs if options.rung in (None, "all", str(r))]
        if options.rung not in (None, "all", "none") and not rungs:
            continue
        try:
            row = on_gpu.measure(problem, clock, source, torch, rungs=rungs, rounds=options.rounds or on_gpu.ROUNDS)
            clock.wait()
        except Exception as error:  # after some errors a card answers nothing more in this process
            print(f"\n{problem.title}: stopped, and {len(chosen) - i - 1} problems not begun: {error}", file=sys.stderr)
            status = 1
            break
        run["rows"].append(on_gpu.placed(row, limits))
        status |= print_row(run["rows"][-1])
        if options.json:
            pages.write(options.json, [run])
        if options.record:
            pages.write(file, pages.merged(before, run))
    return write_pages() or status if options.record else status


def print_launches(chosen: list[Any], options: argparse.Namespace) -> int:
    """What the rungs would launch, which needs no GPU; 2 if the compiler is missing."""
    from .gpu_bench import measure as on_gpu
    from .gpu_bench import occupancy

    try:
        on_gpu.compile_ahead(chosen, occupancy.ARCHITECTURE)
    except launch.NoCuda as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in occupancy.show(chosen, [r for p in chosen for r in p.rungs if options.rung in (None, "all", str(r))]):
        print(line)
    return 0


def load_torch(name: str) -> Any:
    """Torch for a GPU, or None where it is not installed, has no GPU or is not wanted."""
    if name == "none" or importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    importlib.import_module("torch.nn.attention")
    return torch if torch.cuda.is_available() else None


def print_row(row: dict[str, Any]) -> int:
    """A problem's contestants, a line each; 1 if a rung of ours is wrong or has failed."""
    print(f"\n{row['op']} {row['problem']}, {row['dtype']}: {row['flop'] / 1e9:.3f} GFLOP, {row['bytes'] / 1e6:.1f} MB")
    status = 0
    for c in row["contestants"]:
        if "cold_ms" not in c:
            what = next(w for w in ("not run", "wrong", "failed") if w in c)
            status |= not c.get("peer") and what != "not run"
            print(f"  {c['name']:32} {what}: {c[what]}")
            continue
        shares = ", ".join(
            f"{c[share]:.0%} of the {word}"
            for share, word in (("of_product", "product"), ("of_copy", "copy"), ("of_roofline", "roofline"))
            if c.get(share) is not None
        )
        print(
            f"  {c['name']:32} {c['cold_ms']:9.4f} ms cold, {c['hot_ms']:9.4f} hot, +-{c['cold_spread']:.1%}, "
            f"host {c['host_ms']:.3f}; {c['tflop_per_s']:7.2f} TFLOP/s, {c['gb_per_s']:6.0f} GB/s; {shares}"
        )
    if row["ratio"] is not None:
        goal = "" if row["goal"] is None else f", goal {row['goal']}"
        print(f"  ours over the best peer: {row['ratio']:.2f}{goal}")
    return int(status)


def bring_up() -> int:
    """Renew the stamps of times whose code has changed only in its text; 2 if the compiler is missing."""
    from .gpu_bench import pages

    try:
        for file in pages.bring_up(gpu_problems()):
            print(f"written: {file}")
    except launch.NoCuda as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_pages() -> int:
    """Tables and plots of all that has been kept."""
    from .gpu_bench import pages

    rows = pages.all_rows()
    for file in (*pages.write_tables(gpu_problems(), rows), *pages.write_plots(rows)):
        print(f"written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, "kernels.bench"))
