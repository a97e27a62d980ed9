"""Times on a GPU: each rung is checked, timed together with its peers, and compared with the card's measured limits.

One sample of a contestant is, on one stream: a buffer larger than the second-level cache is overwritten, often enough
that the card is busy until the host has enqueued all that follows; an event; a run; an event; a run; an event. The
first run finds its inputs in memory only ("cold"), the second what the first left in the cache ("hot"), and neither
waits for the host. How long the host takes to enqueue a run is measured too: a program that does nothing between runs
pays the larger of the two. Contestants take turns, sample by sample, so that whatever the card's clock does, it does to
all.
"""

import gc
import re
import statistics
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from .. import launch
from ..matmul.cuda import last_rung
from . import peers, products, stamps
from .problem import Problem, Run, Source, judge, rehearse, rungs_that_can

ROUNDS, LEAST = 30, 3  # samples of each contestant, and how many a slow one has at least
DISTURBED = 0.1  # a larger spread, over the median: something else used the card, or the host
SECONDS = 0.6  # that the samples of one contestant may take
SLOW = 2.0  # a run of more seconds is timed once, by the wall clock: cache and host do not matter to it
FLUSH = 256 << 20  # bytes that are overwritten, at least four times the second-level cache


class Clock:
    """CUDA's events around runs, with a cache that is cold before them."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        cache = int(xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id).get("l2CacheSize", 0))
        self.buffer = xp.zeros(max(FLUSH, 4 * cache), np.uint8)
        self.flush_seconds = min(self.between(lambda: self.buffer.fill(0)) for _ in range(3))

    def wait(self) -> None:
        """Until the card has done all that it was given."""
        self.xp.cuda.Device().synchronize()

    def between(self, *runs: Run) -> float:
        """Seconds on the card from the beginning of the first run to the end of the last."""
        return sum(self._events(runs))

    def _events(self, runs: Iterable[Run]) -> list[float]:
        events = [self.xp.cuda.Event()]
        events[0].record()
        for run in runs:
            run()
            events.append(self.xp.cuda.Event())
            events[-1].record()
        events[-1].synchronize()
        return [self.xp.cuda.get_elapsed_time(a, b) / 1e3 for a, b in zip(events, events[1:])]

    def warm(self, run: Run) -> tuple[float, float]:
        """(seconds until the card is done, seconds until the host is) of a run, after one or two that do not count."""
        run()
        seconds, handed_in = self._by_the_wall(run)
        return (seconds, handed_in) if seconds > SLOW else self._by_the_wall(run)

    def _by_the_wall(self, run: Run) -> tuple[float, float]:
        self.wait()
        start = time.perf_counter()
        run()
        handed_in = time.perf_counter() - start
        self.wait()
        return time.perf_counter() - start, handed_in

    def sample(self, run: Run, host_seconds: float) -> tuple[float, float]:
        """(cold, hot): seconds on the card of two runs one after the other, the cache being overwritten before."""
        for _ in range(1 + min(int(3 * host_seconds / max(self.flush_seconds, 1e-6)), 200)):
            self.buffer.fill(0)
        cold, hot = self._events([run, run])
        return cold, hot


def spread(times: list[float]) -> float:
    """The distance between the quartiles, over the median."""
    if len(times) < 2:
        return 0.0
    first, median, third = statistics.quantiles(times, n=4, method="inclusive")
    return (third - first) / median if median else 0.0


def race(clock: Clock, contestants: Mapping[str, Run], rounds: int = ROUNDS) -> dict[str, dict[str, Any]]:
    """Medians and spreads of all contestants, which take turns; or why one could not run.

    Samples that spread by more than ``DISTURBED`` are taken once more.
    """
    found: dict[str, dict[str, Any]] = {}
    left: dict[str, int] = {}
    again: set[str] = set()
    for name, run in contestants.items():
        try:
            seconds, host = clock.warm(run)
        except Exception as error:
            found[name] = {"failed": _sentence(error)}
            continue
        if seconds > SLOW:
            found[name] = {"host": host, "cold": [seconds], "hot": [seconds]}
            continue
        left[name] = max(LEAST, min(rounds, int(SECONDS / max(2 * seconds, 1e-6))))
        found[name] = {"host": host, "cold": [], "hot": []}
    while left:
        for name in list(left):
            try:
                cold, hot = clock.sample(contestants[name], found[name]["host"])
            except Exception as error:  # the memory that the others hold, for example
                found[name] = {"failed": _sentence(error)}
                del left[name]
                continue
            found[name]["cold"].append(cold)
            found[name]["hot"].append(hot)
            left[name] -= 1
            if left[name]:
                continue
            del left[name]
            if name not in again and spread(found[name]["cold"]) > DISTURBED:
                again.add(name)
                left[name] = len(found[name]["cold"])
                found[name] |= {"cold": [], "hot": []}
    return {name: f if "failed" in f else _figures(f) for name, f in found.items()}


def _figures(f: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {"samples": len(f["cold"]), "host_ms": f["host"] * 1e3}
    for name in ("cold", "hot"):
        figures[f"{name}_ms"] = statistics.median(f[name]) * 1e3
        figures[f"{name}_spread"] = spread(f[name])
    return figures


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


# --- the card ---------------------------------------------------------------------------------------------------------


def compile_ahead(problems: Iterable[Problem], architecture: str) -> int:
    """Compile what the problems' rungs will launch, on all cores at once; how many files with settings that were.

    What does not compile is left for the rung itself to say.
    """
    wanted = set()
    for problem in problems:
        for rung in rungs_that_can(problem, architecture)[0]:
            for launched in rehearse(problem, rung, architecture):
                wanted.add((launched.source, tuple(sorted(launched.defines.items()))))
    launch.compile_ahead((source, architecture, dict(settings)) for source, settings in sorted(wanted, key=str))
    return len(wanted)


def conditions(device: Any, xp: Any, torch: Any) -> dict[str, Any]:
    """The card, the driver and the versions of all that took part."""
    runtime, number = xp.cuda.runtime, xp.cuda.Device().id
    properties = runtime.getDeviceProperties(number)
    name = properties["name"]
    found = {
        "date": date.today().isoformat(),
        "device": name.decode() if isinstance(name, bytes) else str(name),
        "architecture": device.architecture,
        "multiprocessors": int(properties.get("multiProcessorCount", 0)),
        "driver": _driver(),
        "cuda of the driver": _version(runtime.driverGetVersion()),
        "runtime": _version(runtime.runtimeGetVersion()),
        "nvrtc": launch.nvrtc_version(),
        "cupy": xp.__version__,
        "numpy": np.__version__,
        "torch": None if torch is None else str(torch.__version__),
    }
    if torch is not None:
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def _driver() -> str:
    """The driver's own version, as Linux tells it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found[0] if found else "unknown"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def limits(clock: Clock, source: Source, torch: Any, size: int = 8192) -> dict[str, dict[str, Any]]:
    """The fastest large product in each number format and the fastest large copy on this card, and whose they were.

    A rung that was never measured takes no part: one that failed, or never ended, would leave nothing to measure by.
    """
    xp, last = source.xp, last_rung(source.device)
    found: dict[str, dict[str, Any]] = {}
    for dtype in ("bf16", "tf32", "float32"):
        problem = products.matmul(size, size, size, dtype)
        rung = max(r for r in problem.rungs if r <= (2 if dtype == "float32" else last))
        times = measure(problem, clock, source, torch, rungs=[rung], rounds=10)["contestants"]
        best = min((t for t in times if "cold_ms" in t), key=lambda t: t["cold_ms"], default=None)
        if best is not None:
            found[dtype] = {"tflop_per_s": problem.flop / best["cold_ms"] / 1e9, "by": best["name"]}
    x = xp.zeros(32 * size * size // 8, np.float32)
    y = xp.zeros(x.shape, np.float32)
    copy = race(clock, {"copy": lambda: xp.copyto(y, x)}, 10)["copy"]
    if "cold_ms" in copy:
        found["copy"] = {"gb_per_s": 2 * x.nbytes / copy["cold_ms"] / 1e6, "by": "a copy from array to array"}
    return found


# --- one problem ------------------------------------------------------------------------------------------------------


def measure(
    problem: Problem, clock: Clock, source: Source, torch: Any, *, rungs: Iterable[int], rounds: int = ROUNDS
) -> dict[str, Any]:
    """The row of a problem: each of its ``rungs``, checked before it is timed, and each peer if there is torch."""
    device, xp, inputs = source.device, source.xp, problem.make(source)
    contestants: dict[str, Run] = {}
    known: dict[str, dict[str, Any]] = {}
    able, unable = rungs_that_can(problem, device.architecture)
    for rung in rungs:
        name = f"rung {rung}"
        known[name] = {"name": name, "file": able.get(rung, problem.rungs[rung])}
        if rung in unable:
            known[name]["not run"] = unable[rung]
            continue

        def run(rung: int = rung) -> Any:
            return problem.run(device, inputs, rung)

        try:
            looked, wrong = judge(problem.check(inputs, run(), rung))
        except Exception as error:
            known[name]["failed"] = _sentence(error)
            continue
        known[name] |= {"checked": looked} if not wrong else {"wrong": "; ".join(wrong)[:400]}
        if not wrong:
            known[name]["code"] = stamps.stamp(problem, rung, device.architecture)
            contestants[name] = run
    if torch is not None and problem.peers:
        _tf32(torch, problem.dtype == "tf32")
        theirs = peers.tensors(torch, inputs)
        for name, make in problem.peers:
            known[name] = {"name": name, "peer": True}
            try:
                contestants[name] = make(torch, theirs)
            except Exception as error:
                known[name]["failed"] = _sentence(error)
    for name, figures in race(clock, contestants, rounds).items():
        known[name] |= figures
    contestants.clear()
    del inputs
    _free(xp, torch)
    return {
        "op": problem.op,
        "problem": problem.name,
        "dtype": problem.dtype,
        "flop": problem.flop,
        "bytes": problem.bytes,
        "goal": problem.goal,
        "contestants": list(known.values()),
    }


def _tf32(torch: Any, allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True


def _free(xp: Any, torch: Any) -> None:
    gc.collect()
    xp.get_default_memory_pool().free_all_blocks()
    if torch is not None:
        torch.cuda.empty_cache()


# The format whose products' rate is the limit where that is not the row's own. Tensor cores multiply bfloat16 numbers
# in the fastest contestants: int8 weights are exact in it, and the nearest codes are first looked for in it.
MULTIPLIED_AS = {("eight_bit", "float32"): "bf16", ("quantize", "float32"): "bf16"}


def placed(row: dict[str, Any], limits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The row with each time as TFLOP/s and GB/s and as shares of limits and roofline, and the ratio to the best peer.

    The roofline's time is the larger of what the FLOP take at the fastest product's rate and the bytes at the copy's.
    All of this is of cold times.
    """
    row = {**row, "contestants": [dict(c) for c in row["contestants"]]}
    flops = limits.get(MULTIPLIED_AS.get((row["op"], row["dtype"]), row["dtype"]), {}).get("tflop_per_s")
    bytes_ = limits.get("copy", {}).get("gb_per_s")
    roof = max(row["flop"] / flops / 1e9 if flops else 0.0, row["bytes"] / bytes_ / 1e6 if bytes_ else 0.0)  # ms
    for c in row["contestants"]:
        if "cold_ms" not in c or not c["cold_ms"]:
            continue
        c["tflop_per_s"], c["gb_per_s"] = row["flop"] / c["cold_ms"] / 1e9, row["bytes"] / c["cold_ms"] / 1e6
        c["of_product"] = c["tflop_per_s"] / flops if flops else None
        c["of_copy"] = c["gb_per_s"] / bytes_ if bytes_ else None
        c["of_roofline"] = roof / c["cold_ms"] if roof else None
    theirs = [c["cold_ms"] for c in row["contestants"] if c.get("peer") and "cold_ms" in c]
    ours = [c["cold_ms"] for c in row["contestants"] if not c.get("peer") and "cold_ms" in c]
    row["ratio"] = min(ours) / min(theirs) if ours and theirs and min(theirs) else None
    return row
