"""Runs a CUDA kernel on the CPU and reports what a GPU would not: races, stray accesses, missing barriers.

The very same .cu file that NVRTC compiles for a GPU is compiled by g++ or clang++. Its threads become fibers, its
shared memory static variables, and before every load and store the compiler inserts a call (it is the instrumentation
of ``-fsanitize=thread`` without its library) that ``runtime.cpp`` answers. Read that file for how a GPU's memory model
works. The findings are

* ``race``: two threads of a block, or two blocks, access the same bytes, one of them writes, and nothing orders them
  (without ``strict``, a second write of the value that is already there is not reported);
* ``out of range``: a read or write beside an array in global or shared memory;
* ``wild address``: an access that is near no array (a GPU would stop with an illegal address);
* ``fault``: a trap of the processor, such as an integer division by 0 (a GPU goes on, with any result), a failed
  ``assert``, ``__trap()``, or undefined behaviour that the compiler turned into a trap;
* ``uninitialised``: a read (also an atomic one) of shared memory, or of an array from ``empty``, that nobody has
  written (the host may have, as in ``y[...] = 0``, except numbers whose bits are all 1); a float or double in a result
  that a local variable holds before it is set, such as a sum that did not begin with 0, or a number that CUB leaves
  undefined; a draw from a state of cuRAND, wherever it lies, that ``curand_init`` has not set;
* ``unwritten``: elements of a result that no thread has written;
* ``read-only``: a write through a pointer to const;
* ``deadlock``: threads wait at a barrier that another thread never reaches, because it waits elsewhere or, at barriers
  that count them, has returned (``__syncthreads``, ``__syncwarp`` and shuffles do not wait for threads that returned);
* ``divergence``: threads of a block meet at different barriers, or lanes of a warp at different shuffles;
* ``lane``: a shuffle whose mask omits the caller or the lane that is read;
* ``missing wait``: an access to the target of a copy (``cp.async``, TMA) that may still be under way, a write to the
  operands that ``wgmma`` may still be reading, any access to its sums, or a copy or product that nobody waits for;
* ``missing fence``: the async proxy (TMA, ``wgmma``) meets ordinary stores that no ``fence_proxy_async`` has made
  visible to it, or an mbarrier without ``fence_mbarrier_init``; a ``wgmma`` without ``wgmma_fence``, or whose sums
  have changed since that fence;
* ``misaligned``: an access of 2 to 16 bytes at an address that is no multiple of its size;
* ``bad operand``: an instruction with an operand that it cannot take (a copy from shared memory, a number that is no
  tf32, a block that the cluster does not have, a shuffle in groups of 12 lanes), or any access to an mbarrier except
  by its own instructions (its bits are kept elsewhere here);
* ``absent block``: an access to the shared memory of another block of the cluster, which may not have begun by then, or
  have returned;
* ``undefined``: what C++ leaves undefined, so that a GPU's compiler may do anything: an index beyond an array of known
  size (also a local array, or a row of a tile), a shift by as many bits as there are, signed overflow, a float that the
  integer it is converted to cannot hold, a function that ends without its ``return``;
* ``endless``: a kernel that makes more than 400 million accesses, barriers and shuffles, or waits for a flag that nobody
  is left to set (a loop without end that does none of these is not stopped);
* ``wrong value``: a result that differs from what ``expect`` was given, with the line that wrote it.

Each finding names the file and line (of both accesses if there are two), except for what no line has written, and the
lines that call it where the compiler has inlined the calls. Blocks and threads run in a random order that the seed
decides: a kernel whose result depends on the order gives different results for different seeds.

What it cannot find, and how it differs from a GPU:

* An access that lands in another array than the intended one is missed if it jumps over the red zones between them,
  unless its index is ``undefined``. They are 64 KiB wide, 256 bytes beside a ``__device__`` or ``__constant__`` variable
  (none beside one that fills whole 8 KiB). Arrays of one declaration, ``__shared__ float a[8], b[8];``, have no zone
  between them.
* Races on other paths through the kernel are missed: it judges the accesses that this input makes (in any order).
* Clusters run one after another (a block alone is a cluster of one), and a thread runs until it must wait or, at
  random, until one of its atomic operations. So a block can never see a flag that a later block sets: waiting for it is
  ``endless``. The blocks of a cooperative launch (by ``raw.py``) run together, up to 8192 threads, whether a GPU has
  room for them or not.
* Fences and flags order only what the manual says: it takes a ``__threadfence`` on both sides and, between them,
  atomic operations on one location (`flags.hpp`). Many kernels omit the second fence, and their ``race`` shows on no
  current GPU: without ``strict``, an atomic operation counts as that fence. In PTX, ``ld`` and ``st`` with
  ``.relaxed``, ``.acquire`` or ``.release`` are such operations. A ``volatile`` flag orders nothing here (it is seen,
  and is a ``race``), nor does ``atomicAdd_block`` for other blocks. Of the accesses of earlier clusters to a location,
  only the last of each kind is remembered.
* A compiler may assume that a loop that waits for an ordinary variable (neither atomic nor ``volatile``) ends.
* A local variable that is never set holds -1.7e38 with g++, or NaN with clang++. That is reported only if it reaches a
  result as it is or with small numbers added, and g++ may leave out a branch that would not set it.
* Bits within a byte, caches, registers and time are not modelled. Bank conflicts are counted: those of ``ldmatrix`` and
  ``stmatrix`` always (``bank_conflicts``), those of loads, stores and ``cp.async`` on request (``banks``), and so are the
  sectors of global memory that these take, which show what is not coalesced. There, it is guessed which accesses of the
  lanes form one access of the warp (see ``banks.hpp``), atomics are left out, and g++ may merge, split or remove loads that a
  GPU's compiler would not.
* A compiler may merge accesses to one location in two branches: g++ then names the line of one of them, clang++ may
  name none ("kernel.cu:?"). ``memcpy``, ``memset`` and, with clang++, copies of structures of more than 8 bytes (not
  CUDA's ``float4``) are checked, except for their alignment. Reading a structure in memory to pass it to a function by
  value is not checked with g++ where the function is not inlined.
* The sums inside ``mma.sync`` and ``wgmma`` have the bits that the card ``architecture`` is known to compute (from
  sm_75 on; see ``sums.hpp``): compared with mmasim, a model that was compared with the cards. ``mma`` of e4m3 and e5m2 is
  two of half precision and an addition where the card has no instruction for it, as NVIDIA's compiler has it for Hopper.
  With ``<mma.h>``, sums that begin as float and end as half are rounded twice. All else is a Hopper's: ``__CUDA_ARCH__`` is
  900, and on any card a kernel may use what that has, unless the text says ``// Needs sm_...``.
* Fragments, descriptors and the swizzle follow one reading of the manual: only a GPU can tell whether it agrees.
* ``mbarrier.try_wait`` and ``test_wait`` answer no half of the time while the phase goes on, and otherwise when no
  thread can go on; they wait forever after 64 such answers in turn that led to nothing. Those that are ``.relaxed``,
  and such arrivals, order here as much as the others, which the manual does not promise.
* At a ``wgmma``, the lanes of each warp must arrive together; whether all four warps of a warpgroup came is checked at
  the end. Whoever has waited for a group knows that all four have read their operands and, without ``strict``, what
  their threads had loaded and stored before, which the manual does not promise. Until the wait its sums are NaN, which
  shows where they are read too early with clang++, too, whose code does not tell of it. Operands of ``lib/ptx90.cuh``
  are tiles of bf16, int8 or fp8 with the 128-byte swizzle; in inline PTX, they are of all types and layouts, but not sparse.
* TMA copies tiles, windows and bytes from global to shared memory, tiles and bytes also to several blocks of a cluster
  and the other way, there also as reductions (without ``inc`` and ``dec``), and bytes to another block of the cluster.
  A wait for the reading of such a store (``.read``) completes it here.
* Registers are counted where warps give and take them (``setmaxnreg``), against what the launch bounds leave room for;
  what the compiler needs, only ``kernels.check`` knows. Without ``strict``, a kernel whose launch bounds do not say it
  gives and takes none, as the compiler decides, too.
* Clusters have at most 8 blocks, which reach each other's shared memory by ``cluster_load``,
  ``cluster_store``, ``mbarrier_arrive_at`` and ``tma_load_multicast``, by ``map_shared_rank`` and then as their own,
  and in PTX by ``mapa`` with ``ld``, ``st``, ``mbarrier.arrive``, ``st.async`` and ``red.async`` (done at once here,
  as by an ordinary store before an arrival). Without ``strict``, every wait at an mbarrier, whatever its scope, is
  also for other blocks' arrivals. Their barrier does not wait for threads that have returned, as the manual says.
  Whether a GPU has room for all blocks of a cluster at once is not checked. A thread keeps two numbers for each thread
  of its cluster, or six if there are fences: 8 blocks of 1024 threads take half a gigabyte, or 1.6.
* A copy by TMA arrives when no thread can go on without it: at the latest moment, and in one of the possible orders.
* ``__shared__`` arrays are aligned to 32 bytes here whatever their type: a GPU aligns a ``float`` array to 4. Their
  sizes are counted as written, where a GPU may pad them.
* Functions are the C library's: ``expf`` differs from the GPU's in the last bit, ``__expf`` and the like are neither
  faster nor less exact, sums are rounded as written and never contracted to fused multiply-adds. Functions of
  ``__half`` and ``__nv_bfloat16`` are rounded once, where CUDA's ``hexp`` and the like round in their own way. Unions
  with such numbers, or with CUDA's vectors, cannot be copied: write ``u.all = v.all;``.
* With ``<mma.h>``, a lane has other elements of a matrix than on a GPU, and accesses them one by one: the bank
  conflicts of its loads and stores are not a GPU's.
* Groups (``<cooperative_groups.h>``) are blocks, tiles of up to 32 threads, partitions of these, clusters, and the
  grid of a cooperative launch. ``coalesced_threads``, like ``__activemask``, contains only the calling thread, for a
  GPU promises no more. CUDA leaves open in which order a reduction takes its values; here it is another.
* Pipelines (``<cuda/pipeline>``) are those of a thread and of a block. ``memcpy_async``, which also takes a barrier or (in
  ``<cooperative_groups/memcpy_async.h>``) neither, goes by ``cp.async``, never by TMA: from global to shared memory as
  late as it can, even single bytes, which a GPU copies at once; otherwise at once. CUDA leaves open which thread of a
  group copies what; here neighbours copy for each other.
* Of CUB (``<cub/...>``) there are the collectives of warps and blocks that are used most: reductions, scans, loads,
  stores, exchanges and radix sort. They are our own, after CUB's documentation: their storage lies in the kernel's shared
  memory, so that using it again without a barrier is a ``race``, by the manual; on a GPU some of them would let it pass.
  What CUB leaves undefined, such as a block's sum in other threads than the first, is reported only if it reaches a
  result of 4 or 8 bytes unchanged: an int is -12245005, a float what variables hold before they are set. ``num_valid`` may
  make up for a block that is shorter than the template says, as many kernels have it. The order of floating-point sums
  is CUB's within a warp, but of a block's scans and raking reductions it is another. A logical warp uses no storage, also
  where CUB does. NVRTC refuses ``<cub/cub.cuh>``: it wants the header of each collective.
* Of cuRAND (``<curand_kernel.h>``) there are the generators XORWOW (``curandState``) and Philox, with uniform, normal
  and log-normal numbers. Whole and uniform numbers are a GPU's, bit for bit; normal ones differ in the last bits, in
  float by up to a few 1e-6, as a GPU makes them with a fast sine. A state counts as not set if its words are all the same.
* Stacks are 576 KiB per thread.

The compiler is the environment's ``CXX``, or else g++, or else clang++. Both are tested (g++ 12 and clang++ 14; by hand
also g++ 16, clang++ 16 and 19), on x86-64 and with the fibers of other processors (``CXX="g++ -DEMULATOR_PORTABLE"``).

Supported is C++17 with what ``device.cuh`` defines (CUDA's vectors, atomics, votes and most of its functions), the
CUDA headers in ``emulator/include`` (of ``<cuda/std/...>`` and ``<cub/...>`` those few), this project's own (``#include
"lib/cuda.cuh"``), and inline PTX with the instructions of ``assembly.cuh``, ``assembly_matrices.cuh`` and, of Hopper,
``assembly90.cuh``. Not supported are textures, ``malloc`` and ``new``, kernels that launch kernels, and host code, nor
what only nvcc takes for C++ (``x.f<4>()`` without ``template`` where the type of ``x`` depends on an argument). Launches
follow one another: ``cudaGridDependencySynchronize`` has nothing to wait for. Some C++ is accepted that NVRTC rejects
(``<stdint.h>``, ``NAN``, functions without ``__device__``): ``launch.compile_for(Path("mine.cu"), "90")`` tells.

To run a kernel of your own that has templates, structures or global variables, see ``raw.py``. ``run`` takes a kernel
in a file if it is ``extern "C"`` and has plain types. Here ``y`` comes from the emulator's own ``empty``, and its values
are compared:

    device = Emulator(seed=0)
    y = device.empty((128,), "float32")
    device.run(Path("mine.cu"), "reverse", 2, 64, {"x": x, "y": y, "n": 128}, shared_bytes=256)     # grid, threads, arguments by name
    device.expect(y, x.reshape(2, 64)[:, ::-1].reshape(-1))
    device.check()                                                                                  # or look at device.findings

Arrays too large for any memory come from ``sparse``: a few ranges of such an array are real, at the addresses that they
have in the whole one, and an access to anything else is a finding.
"""

import ctypes
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..launch import SHARED_KILOBYTES, check_architecture, check_runs_on
from ..source import Parameter, WrongSource, check_launch, text_of
from ..tensor_map import TensorMap
from .arrays import (
    NOBODY,
    RED_ZONE,
    Fresh,
    Laid,
    MapBytes,
    Part,
    Sparse,
    guarded,
    lead,
    led,
    same_memory,
    structure,
)  # fmt: skip
from .build import DoesNotCompile, Library, build
from .cards import sums_of
from .tools import NoCompiler, compiler
from .uses import BANKS, MATRICES, SECTORS, Use, uses

__all__ = [
    "BadArguments", "DoesNotCompile", "Emulator", "EmulatorError", "Finding", "NoCompiler", "Use", "compiler",
]  # fmt: skip

REGISTERS = 65_536  # of a multiprocessor
MOST_TOGETHER = 8192  # threads of a cooperative launch, each with a number for each of them

_KINDS = (
    "race", "out of range", "uninitialised", "deadlock", "divergence", "wild address", "read-only", "lane", "endless",
    "missing wait", "misaligned", "bad operand", "missing fence", "fault", "absent block", "undefined",
)  # fmt: skip
_ONE_AT_A_TIME = threading.Lock()  # for a process's threads: runtime.cpp has one grid
_ACCESSES = ("read", "write", "atomic operation", "copy", "copy")


class BadArguments(TypeError):
    """A launch's arguments do not fit the kernel: a missing or unknown name, another kind or dtype."""


class EmulatorError(AssertionError):
    """A kernel did something that is wrong on a GPU, whatever its results were."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its kind, the line, the line of the other thread's access if there is one, and a text."""

    kind: str
    where: str
    other_where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}: {self.message}"


class _Finding(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int),
        ("where", ctypes.c_uint32),
        ("other_where", ctypes.c_uint32),
        ("block", ctypes.c_uint32 * 3),
        ("thread", ctypes.c_int),
        ("other_thread", ctypes.c_int),
        ("access", ctypes.c_int),
        ("other_access", ctypes.c_int),
        ("offset", ctypes.c_int64),
        ("bytes", ctypes.c_int64),
        ("other_block", ctypes.c_int64),
        ("array", ctypes.c_char * 64),
        ("note", ctypes.c_char * 192),
    )


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("red_zone", ctypes.c_uint64),
        ("writers", ctypes.c_void_p),
        ("read_only", ctypes.c_int),
        ("number_bytes", ctypes.c_int),
        ("name", ctypes.c_char_p),
    )


class _SharedArray(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("name", ctypes.c_char_p))


class Emulator:
    """Runs kernels under one seed and collects what is wrong with them in ``findings``.

    It has the methods of ``launch.Device``, so an operation's host code runs on either. ``architecture`` is the card that it
    stands for: host code chooses by it what to launch, and ``mma.sync`` adds up as that card does.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        architecture: str = "90a",
        most_accesses: int = 400_000_000,
        banks: bool = False,
        strict: bool = True,
    ) -> None:
        check_architecture(architecture)
        self.architecture = architecture
        self.seed = seed
        self.banks = banks
        self.strict = strict
        self.quiet = False  # printf prints nothing
        self.most_accesses = most_accesses
        self.findings: list[Finding] = []
        self.accesses = 0
        self.ran: list[str] = []  # the file of each launch
        self.bank_conflicts: dict[str, tuple[int, int]] = {}  # line -> (reads of 8 rows, passes more than one for each)
        self.bank_uses: dict[str, Use] = {}  # passes through shared memory of all lines, if `banks`
        self.sector_uses: dict[str, Use] = {}  # and sectors of global memory
        self._fresh: list[Fresh] = []
        self._sparse: list[Sparse] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Memory for a result. Reading it before it is written is a finding."""
        self._fresh.append(Fresh.made(shape, dtype))
        return self._fresh[-1].array

    def sparse(self, shape: tuple[int, ...], dtype: Any, parts: Iterable[range], *, fresh: bool = False) -> np.ndarray:
        """An array of any size of which only ``parts``, ranges of its flattened elements, are real; zeros at first.

        It takes memory for these only, and kernels work on it itself, not on a copy. An access to anything else, by
        a kernel, is "out of range" up to a red zone beside a part and a "wild address" farther away. With ``fresh`` the
        parts are as from ``empty``. ``expect`` is for slices of it. Raises ValueError unless the parts are ranges that
        are not empty, in rising order and apart from each other.
        """
        sparse = Sparse(shape, np.dtype(dtype), list(parts), fresh)
        self._sparse.append(sparse)
        return sparse.array

    def run(
        self,
        source: Path | str,
        kernel: str,
        grid: int | Sequence[int],
        threads: int | Sequence[int],
        arguments: Mapping[str, Any],
        *,
        shared_bytes: int = 0,
        defines: Mapping[str, Any] | None = None,
    ) -> None:
        """Run ``kernel`` of the file ``source`` on a grid of blocks; arrays that are not const change in place.

        Raises DoesNotCompile, NoCuda for a kernel of newer cards, and ValueError and BadArguments for what a GPU could not
        launch.
        """
        source = Path(source)
        if self.architecture != "90a":
            check_runs_on(source, text_of(source), self.architecture)
        library = build(source, tuple((k, str(v)) for k, v in sorted((defines or {}).items())))
        try:
            blocks, block, values = check_launch(
                source, library.kernels, kernel, grid, threads, arguments, library.clusters
            )
        except TypeError as error:
            raise BadArguments(str(error)) from None
        self.launch(library, kernel, blocks, block, values, shared_bytes)

    def launch(
        self,
        library: Library,
        kernel: str,
        blocks: tuple[int, int, int],
        block: tuple[int, int, int],
        values: Sequence[Any],
        shared_bytes: int = 0,
        held: Sequence[np.ndarray] = (),
        cooperative: bool = False,
    ) -> None:
        """Run a kernel of a library with arguments that have been checked: arrays, TensorMaps, None and ctypes values.

        ``held`` are the arrays to which structures among them (arrays of characters) and arrays of pointers point, by
        NumPy's addresses; pointers in arrays are followed only if there are any ``held``. The blocks of a
        ``cooperative`` launch run together, so that they may wait for each other.
        """
        self.ran.append(library.source.name)
        most_threads = library.bounds.get(kernel, (1024, 0))[0]
        if (count := block[0] * block[1] * block[2]) > most_threads:
            raise WrongSource(f"kernel {kernel}: its launch bounds are {most_threads} threads per block, got {count}")
        if cooperative and math.prod(library.clusters.get(kernel, ())) > 1:
            raise ValueError(f"kernel {kernel}: the emulator does not support cooperative launches of clusters")
        if cooperative and (count := count * blocks[0] * blocks[1] * blocks[2]) > MOST_TOGETHER:
            raise ValueError(
                f"kernel {kernel}: a cooperative launch has at most {MOST_TOGETHER} threads here, got {count}"
            )
        parameters = library.kernels[kernel]
        maps = {i: v for i, v in enumerate(values) if isinstance(v, TensorMap)}
        values = [*(v.array if isinstance(v, TensorMap) else v for v in values), *held]
        parameters += tuple(Parameter(f"held[{i}]", "V0", True, not a.flags.writeable) for i, a in enumerate(held))
        own, most = _held(library.own_bytes), SHARED_KILOBYTES.get(self.architecture, 99) << 10
        if not 0 <= shared_bytes <= most - own:
            raise ValueError(
                f"kernel {kernel}: shared_bytes must be from 0 to {most - own} beside the {own} bytes of "
                f"{library.source.name}'s own arrays, got {shared_bytes}"
            )
        if 0 in blocks:
            return
        for p, v in zip(parameters, values):
            if p.pointer and not p.const and (fresh := self._record(v)) is not None:
                fresh.go_to(library)
        first = same_memory(parameters, values)
        written = {j for i, j in first.items() if parameters[i].pointer and not parameters[i].const}
        written |= {first[i] for i in maps if parameters[i].type != "TensorMap" and values[i].flags.writeable}
        laid = {j: self._laid_out(values[j]) for j in first.values()}
        moved = [(values[j], found.array) for j, found in laid.items()]
        copies = [found.array for found in laid.values()] if held else []
        pointing = [a for a in copies if a.dtype.kind in "uV" and a.itemsize >= 8]
        for array in pointing:
            lead(array, moved)
        shared_names = {s.name for s in library.shared}
        buffers: list[_Buffer] = []
        arrays: dict[str, _Named] = {}
        for j, found in laid.items():
            called = parameters[j].name
            for part in found.parts:
                name = f"{called}+{part.start}" if part.start else called  # of that many bytes
                at, writers = found.array.ctypes.data + part.start, part.writers
                place = None if writers is None else writers.ctypes.data
                numbers = _number_bytes(found.array.dtype, library.cub)
                buffers.append(_Buffer(at, part.bytes, RED_ZONE, place, j not in written, numbers, name.encode()))
                if called not in shared_names:
                    arrays[name] = _Named(called, found.array, part.start)
        for g in library.globals:
            buffers.append(_Buffer(library.begin() + g.offset, g.bytes, g.red_zone, None, False, 0, g.name.encode()))
        cells: list[Any] = []
        kept: list[np.ndarray] = []  # maps in memory
        for i, (p, v) in enumerate(zip(parameters, values)):
            address = laid[first[i]].array.ctypes.data if i in first else 0
            if i in maps and p.pointer:
                copy = guarded(structure(bytes(MapBytes.of(maps[i], address))))
                buffers.append(_Buffer(copy.ctypes.data, copy.nbytes, RED_ZONE, None, True, 0, p.name.encode()))
                cells.append(ctypes.c_void_p(copy.ctypes.data))
                kept.append(copy)
            elif i in maps:
                cells.append(MapBytes.of(maps[i], address))
            elif p.type[0] == "V" and not p.pointer:
                copy = guarded(structure(led(bytes(v), moved)))
                buffers.append(_Buffer(copy.ctypes.data, copy.nbytes, RED_ZONE, None, True, 0, p.name.encode()))
                cells.append((ctypes.c_char * copy.nbytes).from_buffer(copy.data))
            else:
                cells.append(ctypes.c_void_p(address) if p.pointer else v)
        with _ONE_AT_A_TIME:
            self._enter(library, kernel, blocks, block, shared_bytes, cooperative, cells, buffers, arrays)
        for array in pointing:
            lead(array, [(new, old) for old, new in moved])
        for j in written:
            if laid[j].array is not values[j]:
                values[j][...] = laid[j].array

    def result(self, array: np.ndarray, name: str = "the result") -> np.ndarray:
        """``array`` as it is; an element of it (of a real part) that was never written is a finding."""
        found = [(0, f.writers) for f in [self._record(array)] if f is not None]
        found += [
            (p.start, p.writers) for s in self._sparse if s.array is array for p in s.parts if p.writers is not None
        ]
        for start, writers in found if array.size else []:
            missing = (writers == NOBODY).reshape(-1, array.itemsize).any(axis=1)
            if missing.any():
                first = _index(start // array.itemsize + int(missing.argmax()), array.shape)
                text = f"{missing.sum()} of {array.size} elements of {name} were never written, the first at {first}"
                self._add(Finding("unwritten", name, "", text))
        return array

    def expect(self, array: np.ndarray, want: Any, allowed: Any = 0.0, name: str = "the result") -> None:
        """A finding "wrong value" unless ``|array - want| <= allowed`` everywhere, with the line that wrote the worst.

        That line is known only for the last file whose kernels wrote the array.
        """
        got, want = array.astype(np.float64), np.broadcast_to(np.asarray(want, np.float64), array.shape)
        with np.errstate(invalid="ignore"):
            off = np.where(np.isfinite(want), np.abs(got - want), 0)
        odd = ~np.isfinite(want) & ~((got == want) | (np.isnan(got) & np.isnan(want)))
        off = np.where(odd | (np.isfinite(want) & ~np.isfinite(got)), np.inf, off)
        ratio = np.where(off > allowed, off, 0)
        if not ratio.any():
            return
        worst = int(ratio.argmax())
        fresh = self._record(array)
        where = (fresh.line_of(worst * array.itemsize) if fresh else "") or name
        text = (
            f"{(ratio > 0).sum()} of {array.size} elements of {name} are off; the worst is {float(got.flat[worst])!r} at "
            f"{_index(worst, array.shape)}, expected {float(want.flat[worst])!r}"
        )
        self._add(Finding("wrong value", where, "", text))

    def check(self) -> None:
        """Raise EmulatorError with all findings, if there are any."""
        if self.findings:
            raise EmulatorError("\n".join(map(str, self.findings)))

    def _record(self, value: Any) -> Fresh | None:
        return next((f.see() for f in self._fresh if f.array is value), None)

    def _laid_out(self, array: np.ndarray) -> "Laid":
        """An array as a kernel gets it: between red zones, or itself if it lies in a sparse one."""
        begin = array.ctypes.data
        for s in self._sparse:
            start = begin - s.array.ctypes.data
            if 0 <= start < s.array.nbytes and array.size:
                return Laid(array, [p.within(start, array.nbytes) for p in s.parts if p.meets(start, array.nbytes)])
        copy, fresh = guarded(array), self._record(array)
        return Laid(copy, [Part(0, copy.nbytes, None if fresh is None else fresh.writers)])

    def _door(self, library: Library, kernel: str) -> ctypes.c_void_p:
        """Where each thread of a launch begins."""
        number = list(library.kernels).index(kernel)
        return ctypes.cast(getattr(library.handle, f"emulator_enter_{number}"), ctypes.c_void_p)

    def _add(self, finding: Finding) -> None:
        if all(
            (f.kind, f.where, f.other_where) != (finding.kind, finding.where, finding.other_where)
            for f in self.findings
        ):
            self.findings.append(finding)

    def _enter(
        self,
        library: Library,
        kernel: str,
        blocks: tuple[int, ...],
        block: tuple[int, ...],
        shared_bytes: int,
        cooperative: bool,
        values: list[Any],
        buffers: list[_Buffer],
        arrays: Mapping[str, "_Named"],
    ) -> None:
        handle = library.handle
        shared = [_SharedArray(s.offset, s.bytes, s.name.encode()) for s in library.shared]
        handle.emulator_count_memory(int(self.banks))
        handle.emulator_be_strict(int(self.strict))
        handle.emulator_be_quiet(int(self.quiet))
        handle.emulator_add_as(*sums_of(self.architecture))
        handle.emulator_expect_fences(int(library.fences))
        count = handle.emulator_run(
            ctypes.byref(ctypes.c_void_p.in_dll(library.handle, "emulator_program")),
            self._door(library, kernel),
            (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values)),
            (ctypes.c_uint * 3)(*blocks),
            (ctypes.c_uint * 3)(*block),
            (ctypes.c_uint * 3)(*((0, 0, 0) if cooperative else library.clusters.get(kernel, (1, 1, 1)))),
            _registers(*library.bounds.get(kernel, (0, 0))),
            ctypes.c_size_t(shared_bytes),
            ctypes.c_uint(self.seed),
            (_Buffer * len(buffers))(*buffers),
            len(buffers),
            (_SharedArray * len(shared))(*shared),
            len(shared),
            ctypes.c_long(self.most_accesses),
        )
        handle.emulator_accesses.restype = ctypes.c_long
        self.accesses += handle.emulator_accesses()
        self._count_memory(library)
        if not count:
            return
        handle.emulator_findings.restype = ctypes.POINTER(_Finding)
        raw = handle.emulator_findings()[:count]
        calls = iter(library.calls([p for f in raw for p in (f.where, f.other_where)]))
        for f in raw:
            (where, *callers), (other, *of_other) = next(calls), next(calls)
            if _KINDS[f.kind] == "divergence" and where == other and not f.note:
                continue  # one line of the source, of which the compiler made two copies
            found = _describe(f, where, other if f.other_where else "", arrays, "grid" if cooperative else "cluster")
            called = [_called(where, callers)] + [_called(other, of_other)] * bool(f.other_where)
            self._add(replace(found, message=found.message + "".join(dict.fromkeys(called))))

    def _count_memory(self, library: Library) -> None:
        for kind in (MATRICES, BANKS, SECTORS):
            lines = self.sector_uses if kind == SECTORS else self.bank_uses
            for line, use in uses(library, kind, self.banks):
                if kind == MATRICES and use.taken > use.least:
                    reads, more = self.bank_conflicts.get(line, (0, 0))
                    self.bank_conflicts[line] = (reads + use.least, more + use.taken - use.least)
                if self.banks:
                    lines[line] = use.plus(lines.get(line, Use(0, 0, 0)))


class _Named(NamedTuple):
    """What a part of an array is called, the array, and the byte of it that the part begins with."""

    name: str
    array: np.ndarray
    start: int


def _held(own: int) -> int:
    """What a file's own arrays take of a block's shared memory: DYNAMIC_SHARED begins at a multiple of 1024 behind them."""
    return -(-own // 1024) * 1024


def _registers(threads: int, blocks: int) -> int:
    """Of each thread when a block begins, or 0 if the launch bounds do not say: see registers.hpp."""
    return min(REGISTERS // (blocks * -(-threads // 128) * 128) // 8 * 8, 256) if blocks else 0


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def _place(f: _Finding, arrays: Mapping[str, _Named]) -> str:
    """Where an access began: the element, with a first index beyond the array if it is beside it, or else the byte."""
    if (named := arrays.get(f.array.decode())) is None:
        return f"byte {f.offset} of {f.array.decode()}"
    name, array, start = named
    if not array.size or not array.ndim or not array.flags.c_contiguous:
        return f"byte {start + f.offset} of {name}"
    left, inside = divmod(start + f.offset, array.itemsize)
    index: list[int] = []
    for size in array.shape[:0:-1]:
        left, i = divmod(left, size)
        index.append(i)
    element = f"element {(left, *index[::-1])} of {name} {array.shape}, {array.dtype},"
    return f"byte {inside} of {element}" if inside else element


def _other_block(number: int, together: str) -> str:
    """Of a finding's ``other_block``: see runtime.cpp. Blocks that run ``together`` are a cluster or a grid."""
    return {-1: "", -2: " of another block"}.get(number, f" of block {number} of the {together}")


def _called(where: str, callers: list[str]) -> str:
    return f"; {where} is called at {', at '.join(callers)}" if callers else ""


def _number_bytes(dtype: np.dtype, whole: bool) -> int:
    """Bytes of a number of 4 or 8 in an array that consists of these, with a minus if they are integers, which count only
    if ``whole``; otherwise 0.
    """
    bytes_ = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    if dtype.kind not in ("fciu" if whole else "fc") or bytes_ not in (4, 8):
        return 0
    return -bytes_ if dtype.kind in "iu" else bytes_


def _describe(f: _Finding, where: str, other: str, arrays: Mapping[str, _Named], together: str) -> Finding:
    kind, note, place = _KINDS[f.kind], f.note.decode(), _place(f, arrays)
    me = f"thread {f.thread} of block {tuple(f.block)}" if f.thread >= 0 else f"block {tuple(f.block)}"
    access = f"{_ACCESSES[f.access]} of {f.bytes} bytes"
    if kind == "race":
        who = f"by thread {f.other_thread}{_other_block(f.other_block, together)}" if f.other_thread >= 0 else "begun"
        theirs = _ACCESSES[f.other_access]
        lanes = f.other_block == -1 and f.thread // 32 == f.other_thread // 32
        text = (
            f"{access} at {place} by {me}, and {'an' if theirs[0] == 'a' else 'a'} {theirs} {who} at {other}, "
            f"and nothing orders the two{' (their warp does not, nor a shuffle)' if lanes else ''}"
        )
    elif kind == "deadlock":
        missing = f"thread {f.other_thread} " + (f"waits at {other}" if other else "has returned")
        text = f"{me} waits for threads that never arrive ({note}{f'; {missing}' if f.other_thread >= 0 else ''})"
    elif kind == "divergence":
        text = f"{me} waits here while others of its group wait at {other}{' ' + note if note else ''}"
    elif kind == "uninitialised" and _ACCESSES[f.access] == "write":
        named = arrays.get(f.array.decode())
        if named is not None and named.array.dtype.kind in "iu":
            text = f"{place} is the number that collectives give here where CUB leaves it undefined"
        else:
            text = f"{place} is the number that variables hold here before they are set"
    elif note and kind != "wild address":  # whose note is the address
        text = f"{note} ({me})"
    elif kind == "missing fence":
        text = (
            f"{access} at {place} by the async proxy for {me}, and a write by thread {f.other_thread} at "
            f"{other} that no fence_proxy_async has made visible to it"
        )
    elif kind == "missing wait":
        what = "product" if _ACCESSES[f.other_access] == "read" else "copy"
        text = f"{access} at {place} by {me}, where a {what} begun at {other} is not waited for"
    elif kind == "endless":
        text = f"{me} does not end"
    elif kind == "wild address":
        text = f"{access} at {note.replace('(nil)', 'a null pointer')} by {me}, near no array"
    else:
        text = f"{access} at {place} by {me}"
    return Finding(kind, where, other, text)
