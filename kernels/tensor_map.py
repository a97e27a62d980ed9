"""Descriptions of arrays for TMA: what a copy brings of which array (``TensorMap`` in lib/ptx90.cuh).

``TensorMap`` describes boxes, ``Im2colMap`` windows of images. What the hardware requires is taken from the
documentation of ``cuTensorMapEncodeTiled`` and ``cuTensorMapEncodeIm2col`` (CUDA 13.0) and from sections 5.5.3 and
5.5.4 of the PTX manual.
"""

import ctypes
import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .backend import Array, address
from .checks import WrongSize

_ITEMS = {1: 0, 2: 1, 4: 2, 8: 4}  # bytes of an element -> CU_TENSOR_MAP_DATA_TYPE_UINT8, 16, 32, 64
_NUMBERS = {  # what numbers are -> CU_TENSOR_MAP_DATA_TYPE_...
    "uint32": 2, "int32": 3, "uint64": 4, "int64": 5, "float16": 6, "float32": 7, "float64": 8, "bf16": 9,
}  # fmt: skip
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}  # CU_TENSOR_MAP_SWIZZLE_NONE, _32B, _64B, _128B
MOST = 2**31 - 2**10  # in a kernel's int: the end of a tile or step that begins below it must fit too
Pair = tuple[int, int]


@dataclass(frozen=True)
class TensorMap:
    """A contiguous array of 1 to 5 axes and the ``box`` of it that one copy brings, both with the last axis fastest.

    With a ``swizzle`` of 32, 64 or 128 bytes, the box's last axis must be that long, and its 16-byte pieces are
    exchanged in shared memory. For 128: piece p of row r goes to piece p ^ r % 8. ``shape`` and ``strides`` (in bytes,
    the last one an element's) are for copies that see the array's memory otherwise: of a matrix whose tiles are wider
    than the swizzle, say, (width / 64, height, 64) with the strides (128, 2 * width, 2). ``numbers`` says what the
    elements are to a reduction (``cp.reduce.async.bulk.tensor``): "float32", say, as the array's dtype, or "bf16".
    Raises ValueError for what TMA cannot copy, WrongSize where only the size is in the way.
    """

    array: Array
    box: tuple[int, ...]
    swizzle: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    numbers: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        """Check what the hardware asks for."""
        if not hasattr(self.array, "dtype"):
            raise TypeError(f"a TensorMap describes an array, got {type(self.array).__name__}")
        item = self.array.dtype.itemsize
        if item not in _ITEMS:
            raise ValueError(f"a TensorMap's elements have 1, 2, 4 or 8 bytes, got {self.array.dtype}")
        if bool(self.shape) != bool(self.strides) or len(self.shape) != len(self.strides):
            raise ValueError(f"a TensorMap has a shape and as many strides, got {self.shape} and {self.strides}")
        shape = self.shape or self.array.shape
        if not 1 <= len(shape) <= 5 or len(self.box) != len(shape):
            raise ValueError(f"a TensorMap has 1 to 5 axes and a box of as many, got {shape} and {self.box}")
        if any(not 1 <= b <= 256 for b in self.box):
            raise ValueError(f"a TensorMap's box has 1 to 256 elements along each axis, got {self.box}")
        if self.strides and (self.strides[-1] != item or any(s % 16 or s < 0 for s in self.strides[:-1])):
            raise ValueError(f"a TensorMap's strides are multiples of 16 bytes but for the last, got {self.strides}")
        self._check(item)
        if sum((n - 1) * s for n, s in zip(shape, self.strides)) + item > self.array.nbytes:
            raise ValueError(
                f"{shape} with the strides {self.strides} is more than the array's {self.array.nbytes} bytes"
            )

    def _check(self, item: int) -> None:
        own = self.array.dtype.name
        if self.numbers not in ("", own, "bf16" if item == 2 else "") or (
            self.numbers and self.numbers not in _NUMBERS
        ):
            raise ValueError(
                f"a TensorMap's numbers are bf16 (in 2 bytes) or the array's, if they are among {', '.join(_NUMBERS)}, "
                f"got {self.numbers!r} for {own}"
            )
        shape = self.shape or self.array.shape
        if not self.array.flags.c_contiguous or 0 in shape:
            raise ValueError(f"a TensorMap needs a contiguous array that is not empty, got shape {shape}")
        if max(shape) > MOST or max(self.strides or (math.prod(shape[1:]) * item,)) >= 2**40:
            raise WrongSize(f"a TensorMap has axes of at most {MOST} and strides below 2^40 bytes, got shape {shape}")
        if address(self.array) % 16:
            raise ValueError("a TensorMap's array must begin at a multiple of 16 bytes, and this one does not")
        if (len(shape) > 1 and not self.strides and shape[-1] * item % 16) or self.box[-1] * item % 16:
            raise ValueError(
                f"rows of a TensorMap and its box must be multiples of 16 bytes, got {shape} and {self.box}"
            )
        if self.swizzle not in _SWIZZLES or (self.swizzle and self.box[-1] * item != self.swizzle):
            raise ValueError(f"a swizzle of {self.swizzle} bytes needs a box of that width, got {self.box[-1] * item}")

    def axes(self) -> tuple[list[int], list[int], list[int]]:
        """Sizes, strides in bytes and the box, the fastest axis first."""
        shape = self.shape or self.array.shape
        strides = [math.prod(shape[a + 1 :]) * self.array.dtype.itemsize for a in range(len(shape))]
        return list(shape[::-1]), list(self.strides or strides)[::-1], list(self.box[::-1])

    def encoded(self) -> Any:
        """For a GPU: the driver's 128 bytes, as an array of size one, which CuPy passes by value."""
        sizes, strides, box = self.axes()
        return _encoded(self._of_array(), tuple(sizes), tuple(strides), (tuple(box),))

    def _of_array(self) -> tuple[int, int, int]:
        number = _NUMBERS.get(self.numbers)
        return address(self.array), _ITEMS[self.array.dtype.itemsize] if number is None else number, self.swizzle


@dataclass(frozen=True)
class Im2colMap(TensorMap):
    """The pixels of NHWC images (n, height, width, channels) at which windows begin, and those at an offset from there.

    Windows begin at row ``start[0] + stride[0] * i`` and column ``start[1] + stride[1] * j`` of every image, for i and
    j below ``windows``. A copy brings ``box = (pixels, channels)``: starting with a window that the kernel names, it
    visits that many windows, along the row, then the next row, then the next image, and takes of each the pixel at one
    offset (also given by the kernel: the place within the window), and of that pixel that many channels. So the tile
    that an implicit GEMM multiplies by the weights of one place comes in one instruction. Whatever is outside of the
    image (the padding), beyond the last channel or beyond the last image is 0.

    The driver calls ``start`` the lower corner of the box and the last window's start, counted from the image's last
    pixel, the upper one; both have to be -128 to 127. That the box ends with the last window (inclusively), that rows
    and images are visited in this order also with strides, and that the offset comes on top of it all, is from the
    PTX manual and agrees with what programs that have run on hardware do (CUTLASS's convolutions, Triton's tutorial on
    im2col).
    """

    start: Pair = (0, 0)
    windows: Pair = (1, 1)
    stride: Pair = (1, 1)

    def __post_init__(self) -> None:
        """Check what the hardware asks for."""
        shape = self.array.shape
        if len(shape) != 4 or len(self.box) != 2:
            raise ValueError(f"an Im2colMap has 4 axes and a box (pixels, channels), got {shape} and {self.box}")
        if not (1 <= self.box[0] <= 1024 and 1 <= self.box[1] <= 256):
            raise ValueError(f"an Im2colMap's box has 1 to 1024 pixels and 1 to 256 channels, got {self.box}")
        if any(not 1 <= s <= 8 for s in self.stride) or any(w < 1 for w in self.windows):
            raise ValueError(f"an Im2colMap has strides of 1 to 8 and windows, got {self.stride} and {self.windows}")
        self._check(self.array.dtype.itemsize)
        if any(not -128 <= corner <= 127 for corner in (*self.start, *self.upper)):
            raise ValueError(
                f"an Im2colMap's windows begin and end at most 128 pixels beside the image, got {self.windows} of them "
                f"from {self.start} in steps of {self.stride} for {shape}"
            )

    @property
    def upper(self) -> Pair:
        """Where the last window begins, counted from the image's last row and column."""
        (top, left), (down, right), (rows, columns) = self.start, self.stride, self.windows
        _, height, width, _ = self.array.shape
        return top + (rows - 1) * down - (height - 1), left + (columns - 1) * right - (width - 1)

    def axes(self) -> tuple[list[int], list[int], list[int]]:
        """Sizes, strides in bytes and the box (channels, pixels, 1, 1), the fastest axis first."""
        sizes, strides, _ = super().axes()
        return sizes, strides, [self.box[1], self.box[0], 1, 1]

    def encoded(self) -> Any:
        """For a GPU, as that of TensorMap. The driver wants columns before rows."""
        sizes, strides, (channels, pixels, *_) = self.axes()
        box = self.start[::-1], self.upper[::-1], channels, pixels
        return _encoded(self._of_array(), tuple(sizes), tuple(strides), box, self.stride[::-1])


@functools.lru_cache(4096)
def _encoded(
    of_array: tuple[int, int, int],
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[Any, ...],
    steps: Pair | None = None,
) -> Any:
    """The driver's bytes; with ``steps``, for windows. Cached, because a model asks for the same at every step."""
    (address, number, swizzle), rank = of_array, len(sizes)
    kind = ctypes.c_int32 if steps else ctypes.c_uint32
    memory = np.zeros(256, np.uint8)
    start = -memory.ctypes.data % 64
    function = "cuTensorMapEncodeIm2col" if steps else "cuTensorMapEncodeTiled"
    code = getattr(ctypes.CDLL("libcuda.so.1"), function)(
        ctypes.c_void_p(memory.ctypes.data + start),
        number,
        ctypes.c_uint32(rank),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*sizes),
        (ctypes.c_uint64 * (rank - 1))(*strides[1:]),
        *((kind * len(part))(*part) if isinstance(part, tuple) else ctypes.c_uint32(part) for part in box),
        (ctypes.c_uint32 * rank)(1, *(steps or ()), *([1] * (rank - (3 if steps else 1)))),
        0,  # not interleaved
        _SWIZZLES[swizzle],
        2,  # fetch 128 bytes into the second-level cache
        0,  # zeros outside
    )
    if code:
        raise ValueError(f"the driver refuses {function} of {sizes[::-1]} with {box} (error {code})")
    return memory[start : start + 128].copy().view("V128")
