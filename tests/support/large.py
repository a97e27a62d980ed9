"""Launches on arrays of more than 2^31 elements, emulated: the last blocks, on arrays of which only their part is real.

``Large`` launches the last blocks only, under the numbers that they have in the whole grid. A sparse array
(``Emulator.sparse``) lies at the addresses that the whole one would have, so an offset in 32 bits misses its part and is a
finding, and a number in the wrong place a wrong value.
"""

import ctypes
import math

import numpy as np
import pytest
from emulation import kept
from rungs import needs_compiler

from kernels import bfloat16
from kernels.emulator import Emulator
from kernels.emulator.build import build
from kernels.source import check_grid, three

MARKS = [
    needs_compiler,
    pytest.mark.skipif(Emulator.__module__ != "kernels.emulator", reason="these arrays are whole on no card"),
]
BIG = 2**31
RESIDENT = (132, 264)

# Under these names Python finds them, which extern "C" as it stands would not keep: see foreign.py.
DOOR = """#include "lib/cuda.cuh"
#define PLAIN "C"
extern PLAIN {
unsigned *block, *grid, first, whole;
void (*door)(void**);
__attribute__((no_sanitize("thread"))) void later(void** values) {  // each thread begins here
    if (*block < first) *block += first;                             // the first one of its block
    *grid = whole;
    door(values);
}
}
extern "C" __global__ void none() {}
"""


class Large(Emulator):
    """An emulator that of a long launch runs the last block only, or as many as ``last`` says of a kernel.

    ``real`` has the ranges of results that are real, by shape. Blocks that take one tile after the other (``RESIDENT`` of
    them) become one for each of ``tiles``. Kernels of ``skipped`` do not run. Instead of results of the shapes ``given``
    these arrays are taken.
    """

    def __init__(self, real=(), last=(), tiles=None, skipped=(), given=()):
        super().__init__(5)
        self.real, self.last, self.tiles, self.skipped, self.given = dict(real), dict(last), tiles, skipped, dict(given)
        self.made = {}

    def empty(self, shape, dtype):
        if shape in self.given:
            return self.given[shape]
        if shape in self.real:
            self.made[shape] = self.sparse(shape, dtype, self.real[shape], fresh=True)
            return self.made[shape]
        assert math.prod(shape) < 2**22, shape
        return super().empty(shape, dtype)

    def run(self, source, kernel, grid, threads, arguments, **how):
        if kernel in self.skipped:
            return
        check_grid(kernel, three(grid), three(threads))
        self.whole = self.tiles if grid in RESIDENT and self.tiles else three(grid)[0]
        count = min(self.last.get(kernel, 1 if self.whole > 1024 else self.whole), self.whole)
        self.first = self.whole - count
        assert self.first == 0 or self.first >= count  # later() tells a block's number before from that after
        super().run(source, kernel, self.whole - self.first, threads, arguments, **how)

    def _door(self, library, kernel):
        door = build(kept("later_blocks.cu", DOOR)).handle
        places = {"block": "_ZN8emulator5blockE", "grid": "_ZN8emulator9grid_sizeE"}
        values = {name: ctypes.addressof(ctypes.c_uint.in_dll(library.handle, there)) for name, there in places.items()}
        values["door"] = super()._door(library, kernel).value
        for name, value in values.items():
            ctypes.c_void_p.in_dll(door, name).value = value
        for name, value in (("first", self.first), ("whole", self.whole)):
            ctypes.c_uint.in_dll(door, name).value = value
        return ctypes.cast(door.later, ctypes.c_void_p)


def zeros(*shape):
    return {shape: np.zeros(shape, np.float32)}


def tail(shape, count):
    """The last ``count`` elements of an array of this shape."""
    size = math.prod(shape)
    return [range(size - count, size)]


def ending(device, shape, end):
    """A sparse array whose last elements are those of ``end``."""
    x = device.sparse(shape, end.dtype, tail(shape, end.size))
    x.reshape(-1)[-end.size :] = end.reshape(-1)
    return x


def columns_of(device, x, n):
    """A sparse array of as many rows as x, with n columns of which the last are those of x."""
    rows, columns = x.shape
    wide = device.sparse((rows, n), x.dtype, ends_of(rows, columns, n))
    wide[:, -columns:] = x
    return wide


def ends_of(rows, columns, n):
    return [range((i + 1) * n - columns, (i + 1) * n) for i in range(rows)]


def last(x, shape):
    """The last elements of x, as an array of this shape."""
    return x.reshape(-1)[-math.prod(shape) :].reshape(shape)


def same(device, got, want, allowed=1e-5):
    """No finding, and the right end."""
    device.check()
    np.testing.assert_allclose(last(got, want.shape), want, rtol=allowed, atol=allowed)


def bits(x, rung):
    return bfloat16.to_bits(x) if rung >= 3 else x


def seen(x, rung):
    """What a rung multiplies."""
    return bfloat16.rounded(x) if rung >= 3 else x


def factor(rng, *shape):
    """Small whole numbers, of which every sum is exact."""
    return rng.integers(-4, 5, shape).astype(np.float32)
