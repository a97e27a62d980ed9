"""The occupancy of a launch: how many blocks a multiprocessor holds at once, and which resource limits them.

A multiprocessor takes a block if it has room for the whole of it. With w = ceil(threads / 32) warps per block, r
registers per warp, rounded up to 256, and s bytes of shared memory per block, those of the driver included, rounded up,

    warps           W // w
    registers       4 (R / 4 // r) // w       each warp belongs to one of four parts, which have R / 4 registers each
    shared memory   S // s
    blocks          B

and the least of the four is what it holds. W, S and B are an architecture's (CUDA C++ Programming Guide, the table of
technical specifications), R is 65,536; how things are rounded is from NVIDIA's own ``cuda_occupancy.h``, against which
the tests check this (``pytest -m peer``, with the wheel nvidia-cuda-runtime). Not considered: that the blocks of a
cluster need room in one group of multiprocessors.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from .. import launch
from ..emulator import REGISTERS
from ..matmul.cuda import MULTIPROCESSORS
from .problem import Launch, Problem, rehearse, rungs_that_can

ARCHITECTURE = "90a"


class Multiprocessor(NamedTuple):
    """The warps, blocks and kilobytes of shared memory that one holds."""

    warps: int
    blocks: int
    shared_kilobytes: int


MULTIPROCESSOR = {
    "75": Multiprocessor(32, 16, 64),
    "80": Multiprocessor(64, 32, 164),
    "86": Multiprocessor(48, 16, 100),
    "87": Multiprocessor(48, 16, 164),
    "89": Multiprocessor(48, 24, 100),
    **dict.fromkeys(("90", "90a", "100", "103"), Multiprocessor(64, 32, 228)),
    "110": Multiprocessor(48, 24, 228),
    **dict.fromkeys(("120", "121"), Multiprocessor(48, 24, 100)),
}


class Held(NamedTuple):
    """The blocks that a multiprocessor holds at once, their warps, and the resource that limits them."""

    blocks: int
    warps: int
    by: str


def held(registers: int, threads: int, shared_bytes: int, architecture: str) -> Held:
    """What a multiprocessor holds of blocks with this many ``threads``, ``registers`` per thread and ``shared_bytes``.

    ``shared_bytes`` are those of the kernel's own arrays and those that the launch asks for.
    """
    of, warps = MULTIPROCESSOR[architecture], math.ceil(threads / 32)
    a_warp = _up(32 * registers, 256)
    before_ampere = architecture == "75"
    a_block = _up(shared_bytes, 256) if before_ampere else _up(shared_bytes + 1024, 128)
    rooms = {
        "warps": of.warps // warps,
        "blocks": of.blocks,
        "registers": 4 * (REGISTERS // 4 // a_warp) // warps if a_warp else of.blocks,
        "shared memory": of.shared_kilobytes * 1024 // a_block if a_block else of.blocks,
    }
    by = min(rooms, key=lambda name: rooms[name])
    return Held(rooms[by], rooms[by] * warps, by)


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def launches(
    problems: Iterable[Problem], rungs: Collection[int]
) -> Iterator[tuple[Problem, int, Launch, launch.Resources]]:
    """What each problem's ``rungs`` would launch on a Hopper, in order, and the resources that the compiler reports."""
    for problem in problems:
        for rung in (r for r in rungs_that_can(problem, ARCHITECTURE)[0] if r in rungs):
            for launched in rehearse(problem, rung, ARCHITECTURE):
                binary = launch.compile_for(launched.source, ARCHITECTURE, launched.defines)
                yield problem, rung, launched, binary.resources()[launched.kernel]


def show(problems: Iterable[Problem], rungs: Collection[int]) -> Iterator[str]:
    """A line for each problem and for each launch of its rungs. "full" is how often the grid would fill an H100."""
    title = ""
    for problem, rung, launched, needs in launches(problems, rungs):
        if problem.title != title:
            title = problem.title
            yield title
        threads, blocks = math.prod(launched.threads), math.prod(launched.grid)
        shared = needs.shared_bytes + launched.shared_bytes
        room = held(needs.registers, threads, shared, ARCHITECTURE)
        full = f", {blocks / (room.blocks * MULTIPROCESSORS):.2f} full" if room.blocks else ""
        yield (
            f"  {rung} {launched.source.name + ' ' + launched.kernel:42} {blocks:8} blocks of {threads:4} threads, "
            f"{needs.registers:3} registers, {shared / 1024:5.1f} KiB: {room.blocks:2} at once, {room.warps:2} of 64 warps "
            f"(no more {room.by}){full}"
        )
