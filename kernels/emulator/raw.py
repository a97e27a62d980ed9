"""Drop-in replacements for CuPy's ``RawKernel`` and ``RawModule``: kernels given as strings, run on the CPU and checked.

    from kernels.emulator.raw import RawKernel      # instead of: from cupy import RawKernel
    axpy = RawKernel(code, "axpy")
    axpy((blocks,), (threads,), (np.float32(2), x, y, np.int32(n)))

runs ``axpy`` under several schedules on NumPy arrays, which change in place as CuPy's would, and raises EmulatorError
with all findings. Where a kernel takes a map of TMA, a CUtensorMap or the address of one, pass a ``TensorMap`` of
kernels/tensor_map.py (and to CuPy its ``encoded()``), for a structure with maps in it, or for several maps at an address,
a tuple of its members. Arguments are checked too: CuPy passes on the bytes of what it is given, so a ``float`` parameter
would take the first 4 of a Python float's 8 bytes.
"""

import ctypes
import operator
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..launch import Resources, check_architecture, resources_of
from ..source import Parameter, WrongSource, check_grid, check_whole_clusters, text_of, three
from ..tensor_map import TensorMap
from . import BadArguments, Emulator, Use
from .arrays import MapBytes
from .build import OWN_MOST, Library, build_kernels, preprocessed
from .foreign import by_own_copy, kernel_names, space_and_name
from .options import macros_and_folders, with_headers

UNASKED = OWN_MOST  # bytes of shared memory that a launch may have unless its kernel was allowed more


class RawModule:
    """The kernels of a program, given as text or a Path, with those of NVRTC's options that change it: macros, headers.

    Its kernels are those that are ``extern "C"`` or, in a program with templates, those that ``name_expressions``
    name (``"scale<float, 4>"``). A launch runs under ``seeds`` schedules, each on the original arguments. ``strict``
    also reports what is wrong by the manual but shows on no current GPU: two threads that write the same value to one
    location, and a flag that is read without a fence after it. With ``enable_cooperative_groups``, launches are
    cooperative, and ``grid.sync()`` waits for all blocks. ``banks`` counts what each line takes of memory: see
    ``RawKernel.bank_uses``. ``architecture`` is the card whose tensor cores' sums are computed. CuPy's other arguments,
    such as ``backend``, have no effect.
    """

    def __init__(
        self,
        code: str | Path,
        *,
        options: Sequence[str] = (),
        name_expressions: Sequence[str] | None = None,
        seeds: int = 3,
        strict: bool = False,
        banks: bool = False,
        architecture: str = "90a",
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        jitify: bool = False,
    ) -> None:
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}")
        check_architecture(architecture)
        if not isinstance(code, str | Path):
            raise TypeError(f"code must be a text or the Path of one, got {type(code).__name__}")
        if isinstance(code, str) and re.fullmatch(r"[^\n;]+\.cuh?", code.strip()):
            raise ValueError(f"code must be a text or the Path of one: for this file pass Path({code.strip()!r})")
        for given in (options, name_expressions or ()):
            if isinstance(given, str) or not all(isinstance(word, str) for word in given):
                raise TypeError(f'options and name_expressions must be tuples of strings, as ("-DN=4",), got {given!r}')
        self.file = code if isinstance(code, Path) else Path("kernel.cu")
        self.options = tuple(options)
        self.defines, folders = macros_and_folders(options)
        self.text, own = (text_of(code), code.parent) if isinstance(code, Path) else (code, None)
        self.code = with_headers(self.text, self.file.name, folders, own)
        looks = preprocessed(self.code, self.defines)
        self.looks = looks
        self.names = tuple(name_expressions or kernel_names(looks))
        self.seeds = seeds
        self.strict = strict
        self.banks = banks
        self.architecture = architecture
        self.cooperative = enable_cooperative_groups
        if not self.names:
            raise WrongSource(
                f'{self.file.name} has no kernel that is extern "C", and no name_expressions say which others are meant'
            )
        for name in self.names:
            if not re.search(rf"\b{re.escape(space_and_name(name)[1])}\b", looks):
                raise WrongSource(f"{self.file.name} has no kernel of the name expression {name!r}")

    def compile(self, log_stream: Any = None) -> None:
        """Compile it now: otherwise the first launch does. Raises DoesNotCompile and NoCompiler."""
        self.library()

    def library(self) -> Library:
        """The compiled program. Raises DoesNotCompile and NoCompiler."""
        return build_kernels(self.file, self.code, self.defines, self.names)

    def resources(self, architecture: str = "90") -> dict[str, Resources]:
        """What each kernel needs on a card of that architecture, by NVRTC: registers, shared memory, spilled bytes.

        NVRTC also refuses what nvcc or a C++ compiler accepts: a function without ``__device__``, ``INFINITY``,
        ``uint``, ``<stdint.h>``. It needs no GPU: ``pip install nvidia-cuda-nvrtc nvidia-cuda-runtime``. Raises NoCuda
        without it, CompileError and ValueError.
        """
        return resources_of(str(self.file), self.text, architecture, self.options, self.names)

    def get_global(self, name: str) -> np.ndarray:
        """The bytes of a variable of the program, ``__device__`` or ``__constant__``: ``.view("float32")[:] = table``.

        Raises WrongSource where there is none of that name.
        """
        library = self.library()
        found = [g for g in library.globals if g.name == name]
        if not found:
            has = ", ".join(g.name for g in library.globals) or "none"
            raise WrongSource(f"{self.file.name} has no variable {name!r} outside of its functions, it has {has}")
        place = ctypes.c_uint8 * found[0].bytes
        return np.ctypeslib.as_array(place.from_address(library.begin() + found[0].offset))

    def get_function(self, name: str) -> "RawKernel":
        """The kernel of that name, or of that name expression. Raises WrongSource where there is none."""
        return RawKernel(self, name)


class RawKernel:
    """One kernel of a program. Set ``max_dynamic_shared_size_bytes``, as in CuPy, before a launch asks for more."""

    def __init__(
        self, code: str | Path | RawModule, name: str, options: Sequence[str] = (), backend: str = "nvrtc", **more: Any
    ) -> None:
        self.module = code if isinstance(code, RawModule) else RawModule(code, options=options, backend=backend, **more)
        self.name = name
        self.max_dynamic_shared_size_bytes = UNASKED
        self.bank_uses: dict[str, Use] = {}  # by line, if `banks`: the last launch's passes through shared memory
        self.sector_uses: dict[str, Use] = {}  # and sectors of global memory
        if name not in self.module.names:
            raise WrongSource(f"{self.module.file.name} has no kernel {name!r}, it has {', '.join(self.module.names)}")

    def compile(self, log_stream: Any = None) -> None:
        """Compile it now: otherwise the first launch does. Raises DoesNotCompile and NoCompiler."""
        self.module.compile()

    def resources(self, architecture: str = "90") -> Resources:
        """What it needs on a card of that architecture, as ``RawModule.resources`` says it. Raises as that does."""
        return self.module.resources(architecture)[self.name]

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Any = None,
        held: Sequence[np.ndarray] = (),
    ) -> None:
        """Run it; ``held`` are the arrays to which structures and arrays of pointers point (by ``x.ctypes.data``).

        Raises EmulatorError with what it did wrong, BadArguments, and ValueError for what no GPU would launch.
        """
        library = self.module.library()
        parameters = library.kernels[self.name]
        blocks, threads = _sizes("grid", grid), _sizes("block", block)
        check_grid(self.name, blocks, threads)
        check_whole_clusters(self.name, blocks, library.clusters)
        values = _passed(self.name, parameters, args)
        for i, v in enumerate(values):
            if _has_map(v) and not parameters[i].pointer and by_own_copy(self.module.looks, self.name, i):
                raise WrongSource(
                    f"kernel {self.name}: parameter {parameters[i].name} must be const __grid_constant__, or TMA gets "
                    "the address of a thread's own copy"
                )
        most = self.max_dynamic_shared_size_bytes
        if shared_mem > most or (most == UNASKED and shared_mem > (most := most - library.own_bytes)):
            beside = f" beside the {library.own_bytes} bytes of its own" if library.own_bytes else ""
            raise ValueError(
                f"kernel {self.name}: shared_mem of {shared_mem} is more than its max_dynamic_shared_size_bytes, {most}{beside}: "
                "set that before, to at most 232448 on a Hopper"
            )
        packed = [_packed(p, v) if isinstance(v, tuple) else (v, []) for p, v in zip(parameters, values)]
        values, held = [v for v, _ in packed], [*held, *_apart(a for _, of_maps in packed for a in of_maps)]
        arrays = [v.array if isinstance(v, TensorMap) else v for v in (*values, *held)]
        arrays = [a for a in arrays if isinstance(a, np.ndarray) and a.flags.writeable]
        arrays += [self.module.get_global(g.name) for g in library.globals]
        before = [a.copy() for a in arrays]
        device = Emulator(architecture=self.module.architecture, strict=self.module.strict)
        self.bank_uses, self.sector_uses = device.bank_uses, device.sector_uses
        for device.seed in range(self.module.seeds):
            device.quiet = device.seed > 0  # printf prints it once
            device.banks = self.module.banks and device.seed == 0
            for array, was in zip(arrays, before) if device.seed else ():
                array[...] = was
            device.launch(library, self.name, blocks, threads, values, shared_mem, held, self.module.cooperative)
            if any(finding.kind == "endless" for finding in device.findings):
                break
        device.check()


def _sizes(what: str, given: Sequence[int]) -> tuple[int, int, int]:
    """Three whole numbers from up to three, of which CuPy makes each at least 1. Raises TypeError where CuPy would."""
    try:
        return three(tuple(max(1, operator.index(n)) for n in given))
    except TypeError:
        raise TypeError(f"{what} must be a tuple of whole numbers, got {given!r}") from None


def _passed(kernel: str, parameters: Sequence[Parameter], args: Sequence[Any]) -> list[Any]:
    """The arguments as the emulator takes them. Raises BadArguments for what a kernel would misread."""
    if not isinstance(args, tuple | list):
        raise BadArguments(f"kernel {kernel}: args must be a tuple, (x,) of a single one, got {type(args).__name__}")
    if len(args) != len(parameters):
        names = ", ".join(p.name for p in parameters)
        raise BadArguments(f"kernel {kernel} takes {len(parameters)} arguments ({names}), got {len(args)}")
    try:
        return [_array(p, v) if p.pointer else _scalar(p, v) for p, v in zip(parameters, args)]
    except TypeError as error:
        raise BadArguments(f"kernel {kernel}: {error}") from None


def _has_map(value: Any) -> bool:
    return any(map(_has_map, value)) if isinstance(value, tuple) else isinstance(value, TensorMap)


def _laid_out(value: Any) -> tuple[bytes, int, list[np.ndarray]]:
    """A structure's member as its bytes, its alignment and the arrays of its maps; a tuple is a structure or an array."""
    if isinstance(value, TensorMap):
        return bytes(MapBytes.of(value, value.array.ctypes.data)), 64, [value.array]
    if not isinstance(value, tuple):
        if not isinstance(value, np.generic):
            raise TypeError(f"the members of a structure must be TensorMaps, NumPy's numbers or tuples, got {value!r}")
        return value.tobytes(), value.dtype.alignment, []
    content, most, arrays = b"", 1, []
    for part, alignment, of_maps in map(_laid_out, value):
        content += bytes(-len(content) % alignment) + part
        most = max(most, alignment)
        arrays += of_maps
    return content + bytes(-len(content) % most), most, arrays


def _packed(p: Parameter, value: tuple[Any, ...]) -> tuple[Any, list[np.ndarray]]:
    """A structure or an array of maps, in the emulator's form, and the arrays that these are of."""
    content, _, arrays = _laid_out(value)
    if p.pointer:
        return np.frombuffer(content, "V128"), arrays
    return (ctypes.c_char * len(content)).from_buffer_copy(content), arrays


def _apart(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    return list({(a.ctypes.data, a.nbytes): a for a in arrays}.values())


def _structure(p: Parameter, value: tuple[Any, ...]) -> tuple[Any, ...]:
    size, got = int(p.type[1:]), len(_laid_out(value)[0])
    if p.pointer and not all(isinstance(v, TensorMap) for v in value):
        raise TypeError(f"{p.name} must be an array, or a tuple of TensorMaps")
    if p.type[0] != "V" or (got != size and not p.pointer):
        raise TypeError(f"{p.name} must be {_words(p.type)}, got a tuple, which would be a structure of {got} bytes")
    return value


def _array(p: Parameter, value: Any) -> np.ndarray | TensorMap | tuple[Any, ...] | None:
    if isinstance(value, tuple) and p.type in ("V0", "V128"):
        return _structure(p, value)
    if value is None or (isinstance(value, int | np.integer) and value == 0):
        return None
    if isinstance(value, TensorMap) and p.type in ("V0", "V128"):
        return value
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{p.name} must be an array, got {type(value).__name__}")
    if not value.flags.c_contiguous:
        cure = f"; {p.name}.T is" if value.flags.f_contiguous else ""
        raise TypeError(
            f"{p.name} must be contiguous: a kernel gets where it begins, got strides {value.strides}{cure}"
        )
    if not value.dtype.isnative:
        raise TypeError(f"{p.name} must be in this machine's order of bytes, got {value.dtype}")
    if not (p.const or value.flags.writeable):
        raise TypeError(f"{p.name} must not be read-only, as the kernel's pointer is not const")
    kind, size = p.type[0], int(p.type[1:])
    said = f"an array of {_words(p.type)}"
    if (
        kind in "fiu"
        and size > 1
        and (value.dtype.kind not in {"f": "f", "i": "iu", "u": "iu"}[kind] or value.itemsize != size)
    ) or (kind in "Vb" and 0 < size < value.itemsize):
        got = f"structures of {value.itemsize} bytes" if value.dtype.kind == "V" else value.dtype
        raise TypeError(f"{p.name} must be {said}, got one of {got}")
    if size and value.nbytes % size:
        raise TypeError(f"{p.name} must be {said}, got {value.nbytes} bytes")
    return value


def _scalar(p: Parameter, value: Any) -> Any:
    kind, size = p.type[0], int(p.type[1:])
    said = f"{p.name} must be {_words(p.type)}"
    if isinstance(value, TensorMap) and p.type == "V128":
        return value
    if isinstance(value, tuple):
        return _structure(p, value)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"{said}, got an array")
    if not isinstance(value, int | float | complex | np.generic | np.ndarray):
        raise TypeError(f"{said}, got {type(value).__name__}")
    given: Any = np.uint64(value % 2**64) if isinstance(value, int) and abs(value) >= 2**63 else np.asarray(value)[()]
    if kind in "iub" and given.dtype.kind in "iub" and given.itemsize >= size:
        if not _fits(int(value), p.type):  # type: ignore[arg-type]
            raise TypeError(f"{said}, got {value}, which does not fit")
    elif given.itemsize != size or kind not in ("V", given.dtype.kind):
        cure = f" (pass numpy.float{8 * size}(...))" if kind == "f" and isinstance(value, int | float) else ""
        got = "one" if given.dtype.kind == "V" else f"{given.dtype},"
        narrow = given.itemsize < size
        why = f"of {given.itemsize} bytes" if narrow else f"of which it would take the first {size} bytes"
        raise TypeError(f"{said}, got {got} {why}{cure}")
    # Of a wider whole number the low bytes: GPUs and CPUs are little-endian.
    return (ctypes.c_char * size).from_buffer_copy(given.tobytes())


def _fits(value: int, type_: str) -> bool:
    bits = 8 * int(type_[1:])
    return {"b": 0 <= value <= 1, "u": 0 <= value < 1 << bits, "i": -(1 << bits - 1) <= value < 1 << bits - 1}[type_[0]]


def _words(type_: str) -> str:
    """Of "f4" "float32", of "V12" "a structure of 12 bytes"."""
    return f"a structure of {type_[1:]} bytes" if type_[0] == "V" else np.dtype(type_).name
