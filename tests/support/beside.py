"""The emulator with a GPU beside it: whatever runs without a finding in the one runs on the other too, and that counts.

With ``pytest --beside gpu`` this class takes the emulator's place in all tests. A launch runs in the emulator first. If
nothing is found it runs on the card with the same arguments, and the test goes on with the card's results: its own
expectations judge them, from the error model or to the last bit as they may say. Kernels with planted mistakes end in
the emulator. How the card's bits compare with the emulator's is counted by kernel and shown at the end of the run.

``--beside stand-in`` has a second emulator in the card's place, to try all of this without one.
"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from kernels import emulator, launch
from kernels.emulator import Emulator
from kernels.gpu_bench.through_host import ThroughHost
from kernels.source import ROOT, kernels_of


@dataclasses.dataclass
class Comparison:
    launches: int = 0
    same: int = 0  # launches with the emulator's bits
    worst: float = 0.0  # difference, over the largest number of the array


COMPARED: dict[str, Comparison] = {}
SKIPPED: dict[str, int] = {}  # launches that are for another card, by file


class StandIn:
    """A card that is another emulator, under another schedule."""

    architecture = "90a"

    def run(self, *args, **settings):
        device = Emulator(12345)
        device.run(*args, **settings)
        device.check()


class Beside(Emulator):
    card = SimpleNamespace()  # what runs the same: set by install()

    def run(self, source, kernel, grid, threads, arguments, *, shared_bytes=0, defines=None):
        source = Path(source)
        text = source.read_text(encoding="utf-8")
        before = {name: host_copy(value) for name, value in arguments.items()}
        settings = {"shared_bytes": shared_bytes, "defines": defines}
        can = self.card.architecture in launch.architectures(text)
        own = self.architecture
        if can and own == "90a":
            self.architecture = self.card.architecture  # for its sums
        try:
            super().run(source, kernel, grid, threads, arguments, **settings)
        finally:
            self.architecture = own
        if self.findings:
            return
        if not can:
            SKIPPED[source.name] = SKIPPED.get(source.name, 0) + 1
            return
        self.card.run(source, kernel, grid, threads, before, **settings)
        inside = source.is_relative_to(ROOT)
        name = f"{source.relative_to(ROOT).as_posix() if inside else 'kernels of the tests'}: {kernel}"
        seen = COMPARED.setdefault(name, Comparison())
        seen.launches += 1
        same = [
            compare(seen, arguments[p.name], before[p.name])
            for p in kernels_of(text)[kernel]
            if p.pointer and not p.const and arguments[p.name] is not None
        ]
        seen.same += all(same)


def host_copy(value):
    if isinstance(value, np.ndarray):
        return value.copy()
    return dataclasses.replace(value, array=value.array.copy()) if hasattr(value, "box") else value


def compare(seen, ours, cards):
    """Whether the bits are the same; the card's are kept."""
    same = ours.tobytes() == cards.tobytes()
    if not same and ours.dtype.kind == "f":
        finite = np.isfinite(ours) & np.isfinite(cards)
        size = np.abs(ours[finite]).max(initial=0)
        off = np.abs(ours[finite].astype(np.float64) - cards[finite]).max(initial=0)
        seen.worst = max(seen.worst, float(off / size) if size else 0.0)
    elif not same:
        seen.worst = np.inf
    ours[...] = cards
    return same


def install(where):
    """Let Beside be the emulator that every module imports from now on."""
    if where == "gpu":
        gpu = launch.Device()
        Beside.card = ThroughHost(gpu, gpu.xp)
    else:
        Beside.card = StandIn()
    emulator.Emulator = Beside


def collected():
    """What this process has compared, to hand over to the one that reports."""
    return {name: dataclasses.astuple(c) for name, c in COMPARED.items()}, dict(SKIPPED)


def add(compared, skipped):
    """What another process has collected."""
    for name, (launches, same, worst) in compared.items():
        c = COMPARED.setdefault(name, Comparison())
        c.launches, c.same, c.worst = c.launches + launches, c.same + same, max(c.worst, worst)
    for name, count in skipped.items():
        SKIPPED[name] = SKIPPED.get(name, 0) + count


def report():
    """Lines for the end of a run."""
    yield "kernel: launches, those with the emulator's bits, the worst difference over the largest number"
    for name, c in sorted(COMPARED.items()):
        yield f"  {name}: {c.launches}, {c.same}" + (f", {c.worst:.1e}" if c.same < c.launches else "")
    for name, count in sorted(SKIPPED.items()):
        yield f"  {name}: {count} launches not for this card"
