"""What a .cu file says about itself: its kernels, their parameters and the headers it includes.

Both ways to run a kernel, ``launch`` on a GPU and ``emulator`` on a CPU, check the arguments against the kernel's own
text, so an argument of the wrong kind is an error before anything runs, and never garbage inside the kernel.
"""

import ctypes
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checks import WrongSize
from .tensor_map import MOST, TensorMap

ROOT = Path(__file__).parent  # what #include "lib/cuda.cuh" is relative to

_TYPES: dict[
    str, tuple[Any, Any]
] = {  # C++ name -> (the scalar as an argument, the dtype that a pointer to it may point to)
    "float": (ctypes.c_float, np.dtype(np.float32)),
    "double": (ctypes.c_double, np.dtype(np.float64)),
    "int": (ctypes.c_int32, np.dtype(np.int32)),
    "unsigned": (ctypes.c_uint32, np.dtype(np.uint32)),
    "unsigned int": (ctypes.c_uint32, np.dtype(np.uint32)),
    "unsigned long long": (ctypes.c_uint64, np.dtype(np.uint64)),
    "long long": (ctypes.c_int64, np.dtype(np.int64)),
    "unsigned char": (ctypes.c_uint8, np.dtype(np.uint8)),
    "signed char": (ctypes.c_int8, np.dtype(np.int8)),
    "short": (ctypes.c_int16, np.dtype(np.int16)),
    "unsigned short": (ctypes.c_uint16, np.dtype(np.uint16)),
    "size_t": (ctypes.c_uint64, np.dtype(np.uint64)),
    "bf16": (ctypes.c_uint16, np.dtype(np.uint16)),  # the bits: see lib/ptx.cuh and bfloat16.py
    "fp16": (ctypes.c_uint16, np.dtype(np.uint16)),
    "bool": (ctypes.c_bool, np.dtype(np.bool_)),
    # CUDA's own types: passed by value they are passed as their bits, a pair's lower half first.
    **dict.fromkeys(("half", "__half"), (ctypes.c_uint16, np.dtype(np.float16))),
    **dict.fromkeys(("half2", "__half2"), (ctypes.c_uint32, np.dtype(np.float16))),
    **dict.fromkeys(("nv_bfloat16", "__nv_bfloat16"), (ctypes.c_uint16, np.dtype(np.uint16))),
    **dict.fromkeys(("nv_bfloat162", "__nv_bfloat162"), (ctypes.c_uint32, np.dtype(np.uint16))),
}
_INSIDE = r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))*"  # of brackets, with two more pairs in them
_ATTRIBUTES = rf"(?:(?:__launch_bounds__|__cluster_dims__)\s*\({_INSIDE}\)\s*)*"
_KERNEL = re.compile(rf"__global__\s+({_ATTRIBUTES})void\s+({_ATTRIBUTES})(\w+)\s*\(([^)]*)\)")
_BOUNDS = re.compile(rf"__launch_bounds__\s*\(({_INSIDE})\)")
_CLUSTER = re.compile(r"__cluster_dims__\s*\(\s*(\w+)\s*((?:,\s*\w+\s*)*)\)")
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\w+)[ \t]*$", re.MULTILINE)
_NULL = np.uintp(0)  # a null pointer, for CuPy
Size = tuple[int, int, int]  # along x, y, z
MOST_BLOCKS_OF_A_CLUSTER = 8  # that every card with clusters takes
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
_NEEDS = re.compile(r"^// Needs sm_(\d+a?)\b", re.MULTILINE)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel; ``const`` says of a pointer that the kernel may only read through it.

    ``as_ctypes(value)`` and ``as_cupy(value)`` check a value for it and give what is passed: an array, or a scalar of
    exactly the right type. What host code passes most, they decide at once: a launch has up to twenty arguments, and
    small models wait for launches.
    """

    name: str
    type: str
    pointer: bool
    const: bool

    @functools.cached_property
    def as_ctypes(self) -> Callable[[Any], Any]:
        """For the emulator: an array, a TensorMap or None as it is. Raises what ``check_arguments`` raises."""
        return _taker(self, _TYPES[self.type][0] if self.type in _TYPES else None, _argument)

    @functools.cached_property
    def as_cupy(self) -> Callable[[Any], Any]:
        """For CuPy: NumPy's scalars, a zero for None; a TensorMap as it is. Raises what ``check_arguments`` raises."""
        return _taker(self, np.dtype(_TYPES[self.type][0]).type if self.type in _TYPES else None, _argument_of_cupy)


class WrongSource(ValueError):
    """A .cu file is not what its host code expects.

    It has no kernel of that name, or none at all, takes fewer threads per block by its launch bounds, or declares
    shared memory in CUDA's way instead of ours.
    """


def kernels_of(text: str) -> dict[str, tuple[Parameter, ...]]:
    """The kernels of a CUDA source text and their parameters.

    Raises ValueError for a parameter of a type that cannot be passed.
    """
    return {
        name: tuple(_parameter(name, p) for p in parameters.split(",") if p.strip() not in ("", "void"))
        for _, name, parameters in _heads(text)
    }


def without_comments(text: str) -> str:
    """The text with a space in place of each comment."""
    return COMMENT.sub(" ", text)


def _heads(text: str) -> list[tuple[str, str, str]]:
    """The attributes, name and parameters of each kernel of a source text."""
    found = _KERNEL.findall(without_comments(text))
    return [(before + after, name, parameters) for before, after, name, parameters in found]


def clusters_of(text: str, defines: Mapping[str, Any] | None = None) -> dict[str, Size]:
    """How many blocks form a cluster along x, y, z, by kernel; it is said by ``__cluster_dims__(4, 1, 1)`` before its name.

    The numbers may be macros, of ``defines`` or else of the text. Raises WrongSource for what is no number, and for
    more than 8 blocks.
    """
    found = {}
    macros = {
        **dict(_MACRO.findall(without_comments(text))),
        **{name: str(value) for name, value in (defines or {}).items()},
    }
    for attributes, kernel, _ in _heads(text):
        if match := _CLUSTER.search(attributes):
            words = [macros.get(word, word) for word in re.findall(r"\w+", match[0])[1:]]
            found[kernel] = check_cluster(kernel, [int(w) if w.isdecimal() else 0 for w in words], match[0])
    return found


def check_cluster(kernel: str, sizes: Sequence[int], said: str) -> Size:
    """The sizes of a cluster along x, y, z from one to three. Raises WrongSource as ``clusters_of`` does."""
    x, y, z = (*sizes, 1, 1)[:3]
    if min(sizes) < 1 or len(sizes) > 3 or x * y * z > MOST_BLOCKS_OF_A_CLUSTER:
        raise WrongSource(
            f"kernel {kernel}: a cluster is 1 to {MOST_BLOCKS_OF_A_CLUSTER} blocks, as in __cluster_dims__(4, 1, 1), "
            f"got {said}"
        )
    return x, y, z


def launch_bounds_of(text: str) -> dict[str, str]:
    """The text inside ``__launch_bounds__(...)`` for each kernel that has it."""
    found = {kernel: _BOUNDS.search(attributes) for attributes, kernel, _ in _heads(text)}
    return {kernel: match[1] for kernel, match in found.items() if match}


@functools.cache
def file_in(folder: Path, name: str) -> Path:
    """``folder / name``: the same object each time, so that caches keyed by files find it faster."""
    return folder / name


def text_of(source: Path) -> str:
    """What a CUDA file says, also one that begins with a byte order mark, or has comments in another encoding than UTF-8."""
    return source.read_text(encoding="utf-8-sig", errors="replace")


@functools.cache
def kernels_in(source: Path) -> dict[str, tuple[Parameter, ...]]:
    """``kernels_of`` a file, which is read once: to read it again takes as long as several launches."""
    return kernels_of(text_of(source))


@functools.cache
def clusters_in(source: Path, defines: tuple[tuple[str, Any], ...]) -> dict[str, Size]:
    """``clusters_of`` a file, which is read once."""
    return clusters_of(text_of(source), dict(defines))


def _parameter(kernel: str, text: str) -> Parameter:
    words = re.sub(r"__restrict__|__grid_constant__|\bvolatile\b", " ", text).replace("*", " * ").split()
    name, pointer, const = words[-1], "*" in words, "const" in words
    type_ = " ".join(w for w in words[:-1] if w not in ("*", "const"))
    if type_ == "TensorMap" and not pointer:
        if not const or "__grid_constant__" not in text:  # else TMA would get the address of a thread's own copy
            raise ValueError(f"kernel {kernel}: parameter {name} must be a const __grid_constant__ TensorMap")
        return Parameter(name, type_, pointer, const)
    if type_ not in _TYPES:
        raise ValueError(f"kernel {kernel}: parameter {name} has the type {type_!r}, allowed are {', '.join(_TYPES)}")
    return Parameter(name, type_, pointer, const)


def headers_of(text: str) -> dict[str, str]:
    """The project's own headers that a source includes, directly or not: name -> text. Unknown names are left out."""
    found: dict[str, str] = {}
    left = _INCLUDE.findall(text)
    while left:
        name = left.pop()
        if name not in found and (ROOT / name).is_file():
            found[name] = (ROOT / name).read_text(encoding="utf-8")
            left += _INCLUDE.findall(found[name])
    return found


def parts_of(text: str) -> list[str]:
    """A source text and those of its headers that a GPU gets, by name: without the emulator's."""
    return [text, *(header for name, header in sorted(headers_of(text).items()) if not name.startswith("emulator/"))]


def needs(text: str) -> str | None:
    """The least architecture that a source or one of its headers says it needs, "80" or "90a" (then only that one).

    It is said in a line that begins with ``// Needs sm_80``. Clusters need sm_90.
    """
    found = [n for t in (text, *headers_of(text).values()) for n in _NEEDS.findall(t)]
    if any(_CLUSTER.search(attributes) for attributes, _, _ in _heads(text)):
        found.append("90")
    return max(found, key=lambda n: (int(n.rstrip("a")), n), default=None)


def cache_directory() -> Path:
    """Where compiled kernels are kept: ``MINIGEN_CACHE`` or ``~/.cache/minigen``, and there ``kernels``."""
    directory = Path(os.environ.get("MINIGEN_CACHE") or "~/.cache/minigen").expanduser() / "kernels"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_kept(directory, error) from None
    return directory


def not_kept(directory: Path, error: OSError) -> ValueError:
    """What to raise where ``directory`` cannot be made, or cannot be written to."""
    return ValueError(
        f"compiled kernels cannot be kept in {directory}: {error.strerror or error} (MINIGEN_CACHE says where)"
    )


def check_arguments(
    kernel: str, parameters: Sequence[Parameter], arguments: Mapping[str, Any], *, for_cupy: bool = False
) -> list[Any]:
    """The arguments in the parameters' order: arrays as they are, scalars as ctypes or NumPy values of the right type.

    Raises TypeError for a missing or unknown name, another kind or dtype than the parameter's, ValueError for an array
    that is not contiguous, and WrongSize for a whole number that does not fit, or above ``MOST`` as an int.
    """
    try:
        values = [arguments[p.name] for p in parameters]
    except KeyError:
        values = []
    except TypeError:
        raise TypeError(
            f"kernel {kernel}: arguments must be a dict of values by name, got {type(arguments).__name__}"
        ) from None
    if len(values) != len(arguments) or len(values) != len(parameters):
        wrong = sorted({p.name for p in parameters} ^ set(arguments))
        raise TypeError(f"kernel {kernel} takes {', '.join(p.name for p in parameters)}; missing or unknown: {wrong}")
    try:
        return [(p.as_cupy if for_cupy else p.as_ctypes)(value) for p, value in zip(parameters, values)]
    except (TypeError, ValueError) as error:
        raise type(error)(f"kernel {kernel}: {error}") from None


def _taker(p: Parameter, scalar: Any, otherwise: Callable[[Parameter, Any, Any], Any]) -> Callable[[Any], Any]:
    """What takes a value for a parameter: plain arrays and Python's own numbers at once, all else by ``otherwise``."""
    checked, on_host = functools.partial(otherwise, p, scalar), otherwise is _argument
    if p.type == "TensorMap":
        return checked
    exact, dtype = _TYPES[p.type]
    if p.pointer:
        numpys = np.ndarray if on_host else (np.ndarray, np.generic)

        def array(value: Any) -> Any:
            plain = getattr(value, "dtype", None) is dtype and isinstance(value, numpys) is on_host
            return value if plain and value.flags.c_contiguous else checked(value)

        return array
    if p.type in ("double", "bool"):
        kind = {"double": float, "bool": bool}[p.type]
        return lambda value: scalar(value) if type(value) is kind else checked(value)
    if p.type == "float":  # larger numbers become infinite, which NumPy warns of
        return lambda value: scalar(value) if type(value) is float and -1e38 < value < 1e38 else checked(value)
    limits = np.iinfo(exact)
    low, high = int(limits.min), MOST if p.type == "int" else int(limits.max)
    return lambda value: scalar(value) if type(value) is int and low <= value <= high else checked(value)


def _argument_of_cupy(p: Parameter, scalar: Any, value: Any) -> Any:
    if p.pointer and isinstance(value, np.ndarray):  # CuPy would pass its address on the host, or its only element
        raise TypeError(f"{p.name} must be on the GPU, got a NumPy array")
    value = _argument(p, scalar, value)
    return _NULL if value is None else value


def _argument(p: Parameter, scalar: Any, value: Any) -> Any:
    if p.type == "TensorMap":
        if not isinstance(value, TensorMap):
            raise TypeError(f"{p.name} must be a TensorMap, got {type(value).__name__}")
        return value
    exact, dtype = _TYPES[p.type]
    if p.pointer:
        if value is None:
            return None  # a null pointer
        if not hasattr(value, "dtype") or not hasattr(value, "flags") or isinstance(value, np.generic):
            raise TypeError(f"{p.name} must be an array of {p.type}, got {type(value).__name__}")
        if value.dtype != dtype:
            raise TypeError(f"{p.name} must be an array of {p.type}, got one of {value.dtype}")
        if not value.flags.c_contiguous:
            raise ValueError(f"{p.name} must be contiguous, got strides {value.strides} for shape {value.shape}")
        return value
    if hasattr(value, "shape") and value.shape != ():
        raise TypeError(f"{p.name} must be one {p.type}, got an array of shape {value.shape}")
    if p.type in ("float", "double"):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"{p.name} must be a number, got {type(value).__name__}")
        return scalar(exact(float(value)).value)
    if p.type == "bool":
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{p.name} must be True or False, got {value!r}")
        return scalar(bool(value))
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{p.name} must be a whole number, got {value!r}")
    if exact(int(value)).value != int(value):
        raise WrongSize(f"{p.name} must fit into {p.type}, got {value}")
    if p.type == "int" and value > MOST:
        raise WrongSize(f"{p.name} must be at most {MOST}, got {value}")
    return scalar(int(value))


def three(size: int | Sequence[int]) -> Size:
    """A grid's or a block's size along x, y, z from one number or up to three."""
    if type(size) is int:
        return size, 1, 1
    sizes = (size,) if isinstance(size, int) else tuple(size)
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"a size along x, y, z has one to three numbers, got {sizes}")
    x, y, z = (*map(int, sizes), 1, 1)[:3]
    return x, y, z


def check_launch(
    source: Path,
    kernels: Mapping[str, tuple[Parameter, ...]],
    kernel: str,
    grid: int | Sequence[int],
    threads: int | Sequence[int],
    arguments: Mapping[str, Any],
    clusters: Mapping[str, Size],
    *,
    for_cupy: bool = False,
) -> tuple[Size, Size, list[Any]]:
    """The grid and the block as three numbers each, and the arguments in order, for a kernel of the file ``source``.

    Scalars are ctypes values, or ``for_cupy`` NumPy's. Raises WrongSource for a kernel that is not among its
    ``kernels``, ValueError for a grid that its cluster does not divide, and what ``check_grid`` and
    ``check_arguments`` raise.
    """
    if kernel not in kernels:
        raise WrongSource(f"{source.name} has no kernel {kernel!r}, it has {', '.join(kernels)}")
    blocks, block = three(grid), three(threads)
    check_grid(kernel, blocks, block)
    if clusters:
        check_whole_clusters(kernel, blocks, clusters)
    return blocks, block, check_arguments(kernel, kernels[kernel], arguments, for_cupy=for_cupy)


def check_whole_clusters(kernel: str, blocks: Size, clusters: Mapping[str, Size]) -> None:
    """Raise ValueError unless the grid is a multiple of the kernel's cluster."""
    cluster = clusters.get(kernel, (1, 1, 1))
    if any(n % size for n, size in zip(blocks, cluster)):
        raise ValueError(
            f"kernel {kernel}: the grid must be a multiple of the cluster of {cluster} blocks, got {blocks}"
        )


def check_grid(kernel: str, grid: Size, threads: Size) -> None:
    """Raise WrongSize for more blocks than a GPU can launch, and ValueError for a block of other threads than it has."""
    if not (0 <= grid[0] <= 2**31 - 1 and 0 <= grid[1] <= 65535 and 0 <= grid[2] <= 65535):
        raise WrongSize(f"kernel {kernel}: the grid must be at most {(2**31 - 1, 65535, 65535)} blocks, got {grid}")
    if min(threads) < 1 or threads[2] > 64 or threads[0] * threads[1] * threads[2] > 1024:
        raise ValueError(f"kernel {kernel}: a block has 1 to 1024 threads, at most 64 deep, got {threads}")
