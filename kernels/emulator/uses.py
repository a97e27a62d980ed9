"""How well a launch uses memory: passes through shared memory and sectors of global memory, line by line (see banks.hpp)."""

import ctypes
from collections.abc import Iterator
from typing import NamedTuple

from .build import Library

MATRICES, BANKS, SECTORS = range(3)  # kinds of use, as runtime.cpp numbers them


class Use(NamedTuple):
    """What a line took: passes or sectors at least, those that it took, and the most for one access."""

    least: int
    taken: int
    worst: int

    def plus(self, other: "Use") -> "Use":
        """Of both."""
        return Use(self.least + other.least, self.taken + other.taken, max(self.worst, other.worst))


class _MemoryUse(ctypes.Structure):
    _fields_ = (
        ("where", ctypes.c_uint32),
        ("least", ctypes.c_int64),
        ("taken", ctypes.c_int64),
        ("worst", ctypes.c_int64),
    )


def uses(library: Library, kind: int, every: bool) -> Iterator[tuple[str, Use]]:
    """Each line of the last launch, or each that took more than the least, and what it took; a line may come twice."""
    count, of = ctypes.c_int(), library.handle.emulator_memory_use
    of.restype = ctypes.POINTER(_MemoryUse)
    found = [u for u in of(kind, ctypes.byref(count))[: count.value] if every or u.taken > u.least]
    for use, line in zip(found, library.lines([u.where for u in found])):
        yield line, Use(use.least, use.taken, use.worst)
