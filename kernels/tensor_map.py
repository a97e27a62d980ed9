"""Descriptions of arrays for TMA: which box of which array a copy brings (``TensorMap`` in lib/ptx90.cuh)."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend import Array

_ITEMS = {1: 0, 2: 1, 4: 2, 8: 4}  # bytes of an element -> CU_TENSOR_MAP_DATA_TYPE_UINT8, 16, 32, 64
_SWIZZLES = {0: 0, 128: 3}  # CU_TENSOR_MAP_SWIZZLE_NONE, _128B


@dataclass(frozen=True)
class TensorMap:
    """A contiguous array of 2 to 5 axes and the ``box`` of it that one copy brings, both with the last axis fastest.

    With ``swizzle=128`` the box's last axis must be 128 bytes, and its 16-byte pieces are exchanged in shared memory:
    piece p of row r goes to piece p ^ r % 8. Raises ValueError for what TMA cannot copy.
    """

    array: Array
    box: tuple[int, ...]
    swizzle: int = 0

    def __post_init__(self) -> None:
        """Check what the hardware asks for."""
        shape, item = self.array.shape, self.array.dtype.itemsize
        if not 2 <= len(shape) <= 5 or len(self.box) != len(shape):
            raise ValueError(f"a TensorMap has 2 to 5 axes and a box of as many, got {shape} and {self.box}")
        if not self.array.flags.c_contiguous or 0 in shape:
            raise ValueError(f"a TensorMap needs a contiguous array that is not empty, got shape {shape}")
        if any(not 1 <= b <= 256 for b in self.box):
            raise ValueError(f"a TensorMap's box has 1 to 256 elements along each axis, got {self.box}")
        if shape[-1] * item % 16 or self.box[-1] * item % 16:
            raise ValueError(
                f"rows of a TensorMap and its box must be multiples of 16 bytes, got {shape} and {self.box}"
            )
        if self.swizzle not in _SWIZZLES or (self.swizzle and self.box[-1] * item != self.swizzle):
            raise ValueError(
                f"a swizzle of {self.swizzle} bytes needs a box that is so wide, got {self.box[-1] * item}"
            )

    def axes(self) -> tuple[list[int], list[int], list[int]]:
        """Sizes, strides in bytes and the box, the fastest axis first."""
        strides = [int(np.prod(self.array.shape[a + 1 :])) * self.array.dtype.itemsize for a in range(self.array.ndim)]
        return list(self.array.shape[::-1]), strides[::-1], list(self.box[::-1])

    def encoded(self) -> Any:
        """For a GPU: the driver's 128 bytes, as an array of size one, which CuPy passes by value. Not yet run on hardware."""
        memory = np.zeros(256, np.uint8)
        start = -memory.ctypes.data % 64
        sizes, strides, box = self.axes()
        rank = len(sizes)
        code = ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled(
            ctypes.c_void_p(memory.ctypes.data + start),
            _ITEMS[self.array.dtype.itemsize],
            ctypes.c_uint32(rank),
            ctypes.c_void_p(self.array.data.ptr),
            (ctypes.c_uint64 * rank)(*sizes),
            (ctypes.c_uint64 * (rank - 1))(*strides[1:]),
            (ctypes.c_uint32 * rank)(*box),
            (ctypes.c_uint32 * rank)(*([1] * rank)),
            0,  # not interleaved
            _SWIZZLES[self.swizzle],
            2,  # fetch 128 bytes into the second-level cache
            0,  # zeros outside
        )
        if code:
            raise ValueError(
                f"the driver refuses the TensorMap of {self.array.shape} with box {self.box} (error {code})"
            )
        return memory[start : start + 128].copy().view("V128")
