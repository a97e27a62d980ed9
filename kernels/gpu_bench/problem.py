"""What a problem of the GPU benchmark is, where its data come from, and a device on which it can be tried without a GPU.

The rungs of a problem are not listed here: they are those that the operation's folder declares (``cuda.RUNGS``), sorted
by the number formats that their sources say they multiply. A new rung is on the list as soon as it is in its folder.
"""

import mmap
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import bfloat16, launch
from ..backend import Array, array_module, to_numpy
from ..emulator import Emulator
from ..source import ROOT, check_launch, clusters_of, kernels_of, needs

Arrays = dict[str, Any]
Run = Callable[[], Any]
ITEM = {"float32": 4, "tf32": 4, "bf16": 2, "int8": 1, "fp8": 1}  # bytes of a number
SEVERAL = 16  # places that are looked at along an axis


class Expected(NamedTuple):
    """Some numbers of a result, what they must be and how far off they may be."""

    name: str
    got: Any
    want: Any
    allowed: Any = 0.0


@dataclass(frozen=True)
class Problem:
    """One shape of an operation in one number format.

    ``make(source)`` gives the inputs. ``run(device, inputs, rung)`` is what is timed; what it returns goes to
    ``check(inputs, result, rung)``, which yields sampled numbers with the definition's in float64. ``peers`` are
    pairs of a name and a function that makes torch's run from torch and tensors of the same inputs. FLOP are those of
    the definition, a multiply-add as two; bytes are those that must move, every input read and every result written
    once in this format.
    """

    op: str
    name: str
    dtype: str
    flop: float
    bytes: float
    rungs: Mapping[int, str]
    make: Callable[["Source"], Arrays]
    run: Callable[[Any, Arrays, int], Any]
    check: Callable[[Arrays, Any, int], Iterator[Expected]]
    peers: Sequence[tuple[str, Callable[[Any, Arrays], Run]]] = ()
    goal: float | None = None  # the ratio of our time to the best peer's that this project aims for

    @property
    def folder(self) -> Path:
        """That of the operation: what precedes the dash in its name."""
        return ROOT / self.op.partition("-")[0]

    @property
    def title(self) -> str:
        """Operation, shape and format: no other problem has the same."""
        return f"{self.op} {self.name} {self.dtype}"


def rungs_by_format(folder: Path, rungs: Mapping[int, str]) -> dict[str, dict[int, str]]:
    """The rungs that multiply float32 numbers, bfloat16 ones and tf32 ones, by what their sources say.

    A source without instructions of tensor cores (no line "Needs sm_...") computes in float32. One with them rounds to
    bfloat16, and to tf32 as well if it has a kernel of that name.
    """
    found: dict[str, dict[int, str]] = {"float32": {}, "bf16": {}, "tf32": {}}
    for number, file in rungs.items():
        text = (folder / file).read_text(encoding="utf-8")
        if needs(text) is None:
            found["float32"][number] = file
            continue
        found["bf16"][number] = file
        if any(kernel.endswith("_tf32") for kernel in kernels_of(text)):
            found["tf32"][number] = file
    return found


# --- data -------------------------------------------------------------------------------------------------------------


class Source:
    """Arrays of N(0, 1) numbers and of whole numbers on a device: cut out of one pool, since only their kind matters."""

    def __init__(self, device: Any, xp: Any, pool: int = 1 << 24) -> None:
        self.device: Any = device  # for inputs that are results of other kernels
        self.xp = xp
        rng = np.random.default_rng(0)
        self.pool = xp.asarray(rng.standard_normal(pool, np.float32))
        self.words = xp.asarray(rng.integers(0, 2**31 - 1, min(pool, 1 << 20), dtype=np.int32))
        self.given = 0

    def normal(self, *shape: int, dtype: str = "float32") -> Array:
        """Float32, or the bits of bfloat16 numbers; every array begins at another place of the pool."""
        x = self._cut(self.pool, shape)
        return self.bits(x) if dtype == "bf16" else x

    def bits(self, x: Array) -> Array:
        """Those of ``x`` rounded to bfloat16."""
        return bfloat16.to_bits(x)

    def numbers(self, bits: Array) -> Array:
        """The float32 values of bits of bfloat16 numbers."""
        return bfloat16.from_bits(bits)

    def below(self, end: int, *shape: int) -> Array:
        """Whole numbers from 0 to end - 1, int32."""
        return self._cut(self.words, shape) % self.xp.int32(end)

    def zeros(self, *shape: int) -> Array:
        """Float32 zeros."""
        return self.xp.zeros(shape, np.float32)

    def put(self, x: np.ndarray) -> Array:
        """A small array from the host."""
        return self.xp.asarray(x)

    def _cut(self, pool: Array, shape: tuple[int, ...]) -> Array:
        size = int(np.prod(shape))
        self.given += 7919
        whole = self.xp.tile(self.xp.roll(pool, self.given), max(1, -(-size // pool.size)))
        return self.xp.ascontiguousarray(whole[:size]).reshape(shape)


class Nothing(Source):
    """Arrays of the right shapes in memory that is never touched, so they take none."""

    def __init__(self) -> None:
        self.device, self.xp = Rehearsal(), np

    def normal(self, *shape: int, dtype: str = "float32") -> Array:
        """See Source."""
        return reserved(shape, "uint16" if dtype == "bf16" else "float32")

    def bits(self, x: Array) -> Array:
        """See Source."""
        return reserved(x.shape, "uint16")

    def numbers(self, bits: Array) -> Array:
        """See Source."""
        return reserved(bits.shape, "float32")

    def below(self, end: int, *shape: int) -> Array:
        """See Source."""
        return reserved(shape, "int32")

    def zeros(self, *shape: int) -> Array:
        """See Source."""
        return reserved(shape, "float32")


def reserved(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros whose pages exist once they are touched."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if sys.platform != "linux" or not size:
        return np.zeros(shape, dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which not every Python has a name for
    return np.frombuffer(mmap.mmap(-1, size, flags), dtype).reshape(shape)


# --- without a GPU ----------------------------------------------------------------------------------------------------


class Launch(NamedTuple):
    """What a device was asked to run."""

    source: Path
    kernel: str
    grid: tuple[int, int, int]
    threads: tuple[int, int, int]
    shared_bytes: int
    defines: dict[str, Any]


class Rehearsal:
    """Stands in for a GPU: checks what a launch would check, notes it in ``launches`` and runs nothing."""

    def __init__(self, architecture: str = "90a") -> None:
        self.architecture = architecture
        self.launches: list[Launch] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array that takes no memory."""
        return reserved(shape, dtype)

    def result(self, array: Any, name: str = "the result") -> Any:
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
        """Raises what ``launch.Device`` raises, and ValueError for more shared memory than the card has."""
        text = source.read_text(encoding="utf-8")
        clusters = clusters_of(text, defines)
        blocks, block, _ = check_launch(source, kernels_of(text), kernel, grid, threads, arguments, clusters)
        launch.check_runs_on(source, text, self.architecture)
        most = launch.SHARED_KILOBYTES.get(self.architecture, 99) << 10
        if shared_bytes > most:
            raise ValueError(
                f"kernel {kernel}: a block has at most {most} bytes of shared memory, asked for {shared_bytes}"
            )
        self.launches.append(Launch(source, kernel, blocks, block, shared_bytes, dict(defines or {})))


def rehearse(problem: Problem, rung: int, architecture: str = "90a") -> list[Launch]:
    """What one run of a rung would launch. Raises ValueError or NoCuda where it could not."""
    device = Rehearsal(architecture)
    problem.run(device, problem.make(Nothing()), rung)
    return device.launches


def rungs_that_can(problem: Problem, architecture: str = "90a") -> tuple[dict[int, str], dict[int, str]]:
    """The rungs that can run a problem, each with the file that it takes, and for each of the others why not.

    A rung may leave some sizes to a file that is no rung. Where it leaves them to another rung, it cannot run the
    problem.
    """
    able: dict[int, str] = {}
    unable: dict[int, str] = {}
    for rung, file in problem.rungs.items():
        try:
            files = [launched.source.name for launched in rehearse(problem, rung, architecture)]
        except (ValueError, launch.NoCuda) as error:
            unable[rung] = str(error)
            continue
        others = [f for f in files if f in problem.rungs.values() or f in able.values()]
        taken = file if file in files else (others or files)[0]
        if taken != file and others:
            unable[rung] = f"takes {taken}"
        else:
            able[rung] = taken
    return able, unable


# --- what a result is compared with -----------------------------------------------------------------------------------


def some(size: int, count: int = SEVERAL) -> np.ndarray:
    """Up to ``count`` places of an axis: its two ends, and others at random, the same every time."""
    if size <= count:
        return np.arange(size)
    inner = np.random.default_rng(size).choice(np.arange(1, size - 1), count - 2, replace=False)
    return np.sort(np.concatenate([[0], inner, [size - 1]]))


def take(x: Array, *index: Any) -> np.ndarray:
    """``x[index]`` in float64 on the host; bits of bfloat16 as their values. Arrays in ``index`` are NumPy's."""
    xp = array_module(x)
    part = to_numpy(x[tuple(xp.asarray(i) if isinstance(i, np.ndarray) else i for i in index)])
    return (bfloat16.from_bits(np.ascontiguousarray(part)) if part.dtype == np.uint16 else part).astype(np.float64)


def judge(expected: Iterator[Expected]) -> tuple[int, list[str]]:
    """How many numbers were looked at, and a sentence for every result that is off."""
    looked, wrong = 0, []
    for name, got, want, allowed in expected:
        host = Emulator()
        got = np.asarray(got, np.float64)
        host.expect(got, want, allowed, name)
        looked += got.size
        wrong += [f.message for f in host.findings]
    return looked, wrong
