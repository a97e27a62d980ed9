"""A GPU for problems whose arrays are NumPy's, so that what runs in the emulator runs on a card unchanged.

Every launch moves its arrays there and back. That is slow, and only for checks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend
from ..emulator import Emulator, Finding
from ..source import kernels_of
from ..tensor_map import TensorMap


class ThroughHost:
    """It has the methods of ``emulator.Emulator``. What it can find is a wrong value; the rest is compute-sanitizer's."""

    def __init__(self, device: Any, xp: Any) -> None:
        self.device, self.xp = device, xp
        self.architecture = device.architecture
        self.judge = Emulator()
        self.ran: list[str] = []
        self.accesses = 0
        self._fresh: list[np.ndarray] = []

    @property
    def findings(self) -> list[Finding]:
        """Results that were not as expected."""
        return self.judge.findings

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Memory for a result. On the card nobody writes it before a launch, unless the host has: a tool sees who reads it."""
        array = _new(shape, dtype)
        self._fresh.append(array)
        return array

    def result(self, array: np.ndarray, name: str = "the result") -> np.ndarray:
        """``array`` as it is."""
        return array

    def run(
        self,
        source: Path,
        kernel: str,
        grid: int | Sequence[int],
        threads: int | Sequence[int],
        arguments: Mapping[str, Any],
        *,
        shared_bytes: int = 0,
        defines: Mapping[str, Any] | None = None,
    ) -> None:
        """As ``launch.Device.run``; arrays that are not const change in place."""
        self.ran.append(source.name)
        there = {name: self._there(value) for name, value in arguments.items()}
        self.device.run(source, kernel, grid, threads, there, shared_bytes=shared_bytes, defines=defines)
        for p in kernels_of(source.read_text(encoding="utf-8"))[kernel]:
            array = arguments[p.name]
            if p.pointer and not p.const and array is not None:
                array[...] = backend.to_numpy(there[p.name])
                self._fresh = [a for a in self._fresh if a is not array]

    def _there(self, value: Any) -> Any:
        if isinstance(value, TensorMap):
            return dataclasses.replace(value, array=self.xp.asarray(value.array))
        if not isinstance(value, np.ndarray):
            return value
        if any(a is value for a in self._fresh) and np.array_equal(value, _new(value.shape, value.dtype)):
            return self.xp.empty(value.shape, value.dtype)
        off = value.ctypes.data % 16 // value.itemsize  # the card is given memory at multiples of 16 bytes
        return self.xp.asarray(np.concatenate([np.zeros(off, value.dtype), value.reshape(-1)]))[off:].reshape(
            value.shape
        )

    def expect(self, array: np.ndarray, want: Any, allowed: Any = 0.0, name: str = "the result") -> None:
        """As the emulator's, without the line that wrote it."""
        self.judge.expect(array, want, allowed, name)

    def check(self) -> None:
        """Raise EmulatorError if a result was not as expected."""
        self.judge.check()


def _new(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return np.full(shape, 255, np.uint8 if np.dtype(dtype).itemsize == 1 else dtype).astype(dtype)
