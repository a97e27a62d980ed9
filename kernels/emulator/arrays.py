"""How arrays lie when a kernel gets them: between red zones and, if too large for memory, with only some parts real.

And what a map of TMA is to it.
"""

import ctypes
import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..source import Parameter
from ..tensor_map import Im2colMap, TensorMap

RED_ZONE = 1 << 16  # bytes on both sides of every array in global memory
NOBODY = 0  # has written it: instead of a place in a program
OUTSIDE = 2**32 - 1  # somebody outside of it has: see runtime.cpp
POISON = 0xFF  # what red zones and fresh memory are filled with; as a float it is NaN
NUMBERS = (  # Number in device.cuh
    "float16", "bf16", "tf32", "float32", "float64", "int8", "uint8", "int32", "e4m3", "e5m2", "", "uint32", "int64", "uint64",
)  # fmt: skip
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux: pages count as used when they are written


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy of an array between two red zones, as far from a multiple of 16 bytes as the array."""
    raw = np.full(array.nbytes + 2 * RED_ZONE + 256 + 16, POISON, np.uint8)
    start = RED_ZONE + -(raw.ctypes.data + RED_ZONE) % 256 + array.ctypes.data % 16
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def structure(content: bytes) -> np.ndarray:
    """What a kernel takes by its value, for ``guarded``: at a multiple of 16 bytes."""
    raw = np.empty(len(content) + 16, np.uint8)
    found = raw[-raw.ctypes.data % 16 :][: len(content)]
    found[:] = np.frombuffer(content, np.uint8)
    return found


def led(content: bytes, arrays: Iterable[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """A structure with its pointers (at multiples of 8 bytes) into the first array of a pair moved into the second one.

    So are pointers to the end of an array, unless they point into another one.
    """
    found, arrays = bytearray(content), list(arrays)
    for at in range(0, len(content) - 7, 8):
        pointer = int.from_bytes(content[at : at + 8], "little")
        for old, new in (
            pair for end in (0, 1) for pair in arrays if 0 <= pointer - pair[0].ctypes.data < pair[0].nbytes + end
        ):
            found[at : at + 8] = (pointer - old.ctypes.data + new.ctypes.data).to_bytes(8, "little")
            break
    return bytes(found)


def lead(array: np.ndarray, arrays: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """The same in place, for an array of pointers."""
    array.reshape(-1).view(np.uint8)[:] = np.frombuffer(led(array.tobytes(), arrays), np.uint8)


def same_memory(parameters: Sequence[Parameter], values: Sequence[Any]) -> dict[int, int]:
    """For each argument that is an array the first one with the same memory, which may be itself.

    Raises ValueError for two that overlap otherwise, if the kernel may write one of them.
    """
    first: dict[int, int] = {}
    for i, v in enumerate(values):
        if not isinstance(v, np.ndarray):
            continue
        first[i] = i
        for j in first:
            w, p, q = values[j], parameters[i], parameters[j]
            if (v.ctypes.data, v.nbytes) == (w.ctypes.data, w.nbytes) and v.size:
                first[i] = j
                break
            if np.may_share_memory(v, w) and not (p.const and q.const):
                raise ValueError(
                    f"{q.name} and {p.name} overlap, which is not emulated: pass separate arrays, or one array twice"
                )
    return first


@dataclass
class Part:
    """Bytes of an array that are real, and where in a program each was written, if it is known."""

    start: int
    bytes: int
    writers: np.ndarray | None

    def meets(self, start: int, count: int) -> bool:
        return self.start < start + count and start < self.start + self.bytes

    def within(self, start: int, count: int) -> "Part":
        """The same of an array of so many bytes that begins at ``start`` in this one."""
        first, end = max(self.start, start), min(self.start + self.bytes, start + count)
        writers = None if self.writers is None else self.writers[first - self.start : end - self.start]
        return Part(first - start, end - first, writers)


class Laid(NamedTuple):
    """An array as a kernel gets it, and its parts that are real."""

    array: np.ndarray
    parts: list[Part]


class Sparse:
    """An array whose pages take no memory until they are written, and its parts, with red zones on both sides of each."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, parts: list[range], fresh: bool) -> None:
        size, item = math.prod(shape), dtype.itemsize
        edges = [-1, *(edge for p in parts for edge in (p.start, p.stop)), size + 1]
        if not parts or any(p.step != 1 for p in parts) or any(a >= b for a, b in zip(edges, edges[1:])):
            raise ValueError(f"parts must be rising ranges apart from each other within {size} elements, got {parts}")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
        raw = np.frombuffer(mmap.mmap(-1, size * item + 2 * RED_ZONE, flags=flags), np.uint8)
        self.array = raw[RED_ZONE : RED_ZONE + size * item].view(dtype).reshape(shape)
        self.parts = []
        for p in parts:
            raw[p.start * item : p.stop * item + 2 * RED_ZONE] = POISON
            writers = np.full(len(p) * item, NOBODY, np.uint32) if fresh else None
            self.parts.append(Part(p.start * item, len(p) * item, writers))
        for p in [] if fresh else parts:
            self.array.reshape(-1)[p.start : p.stop] = 0


@dataclass
class Fresh:
    """An array from ``empty``, where in a program each byte of it was written, and that program."""

    array: np.ndarray
    writers: np.ndarray
    library: Any = None  # a build.Library

    @classmethod
    def made(cls, shape: tuple[int, ...], dtype: Any) -> "Fresh":
        """One of that shape, of which nothing is written."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = POISON
        return cls(array, np.full(array.nbytes, NOBODY, np.uint32))

    def go_to(self, library: Any) -> None:
        """Be written from now on by that program; what another one has written keeps no line."""
        if self.library not in (None, library):
            self.writers[self.writers != NOBODY] = OUTSIDE
        self.library = library

    def line_of(self, byte: int) -> str:
        """The line that wrote a byte; "" if no line of the program did."""
        place = int(self.writers[byte])
        return "" if place in (NOBODY, OUTSIDE) else self.library.lines([place])[0]

    def see(self) -> "Fresh":
        """Itself, after it was looked at: a number of which the host has changed a bit, and no kernel a byte, is written."""
        size = self.array.itemsize
        content, writers = (a.reshape(-1, size) for a in (self.array.reshape(-1).view(np.uint8), self.writers))
        by_host = (content != POISON).any(axis=1) & (writers == NOBODY).all(axis=1)
        writers[by_host] = OUTSIDE
        return self


class MapBytes(ctypes.Structure):
    """A map of TMA as a kernel gets it here: emulator::TensorMap in device.cuh."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_uint),
        ("item_bytes", ctypes.c_uint16),
        ("number", ctypes.c_uint16),
        ("swizzle", ctypes.c_uint),
        ("box", ctypes.c_uint * 5),
        ("sizes", ctypes.c_uint64 * 5),
        ("strides", ctypes.c_uint64 * 5),
        ("lower", ctypes.c_int8 * 2),
        ("upper", ctypes.c_int8 * 2),
        ("step", ctypes.c_uint8 * 2),
        ("of_windows", ctypes.c_uint8),
        ("rest", ctypes.c_uint8),
    )

    @classmethod
    def of(cls, given: TensorMap, address: int) -> "MapBytes":
        """Of an array that lies at ``address``."""
        axes = given.axes()
        number = NUMBERS.index(given.numbers)
        made = cls(address, len(axes[0]), given.array.dtype.itemsize, number, given.swizzle)
        for field, values in zip((made.sizes, made.strides, made.box), axes):
            field[: len(values)] = values
        if isinstance(given, Im2colMap):
            made.lower[:], made.upper[:], made.step[:] = given.start[::-1], given.upper[::-1], given.stride[::-1]
            made.of_windows = 1
        return made
