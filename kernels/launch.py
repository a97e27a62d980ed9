"""Kernels on a GPU: NVRTC compiles a .cu file for one exact architecture, CuPy launches what comes out.

NVRTC is called directly and not through CuPy, for four reasons: CuPy always adds ``-ftz=true`` (denormal numbers become
0), it cannot ask for ``sm_90a`` with every version of NVRTC, it does not notice that a header has changed, and compile
checks need no CuPy. Here the compiled binary is kept under a key of everything
that went in: the source, its headers, the options and NVRTC's version.

``Device`` runs a kernel with arguments that are checked against the kernel's own text (``source``): a Python float is
passed as float to a float parameter and as double to a double one, and a wrong dtype is an error before the launch.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import multiprocessing
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import backend
from .source import (
    cache_directory,
    check_launch,
    clusters_in,
    headers_of,
    kernels_in,
    needs,
    not_kept,
    parts_of,
    text_of,
)
from .tensor_map import TensorMap

# From Turing on. "90a" is Hopper with the instructions that only it has.
ARCHITECTURES = ("75", "80", "86", "87", "89", "90", "90a", "100", "103", "110", "120", "121")
# Kilobytes of shared memory that a block may ask for (CUDA C++ Programming Guide, table of technical specifications).
SHARED_KILOBYTES = {"75": 64, "80": 163, "87": 163, "90": 227, "90a": 227, "100": 227, "103": 227, "110": 227}
OPTIONS = ("-std=c++17", "-lineinfo")
_OWN_SHARED = 1  # CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_CUDAS_HEADER = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<", re.MULTILINE)
_VERSIONS = ("13", "12")  # of libnvrtc.so, the newest first


class NoCuda(RuntimeError):
    """Something that a GPU needs is missing: the compiler, CuPy, a driver or a card that is supported."""


class CompileError(RuntimeError):
    """A kernel is not valid CUDA; the message is the compiler's."""


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on the chip. ``local_bytes`` is stack, ``spill_bytes`` spilled registers."""

    registers: int
    shared_bytes: int
    local_bytes: int
    spill_bytes: int


@dataclass(frozen=True)
class Binary:
    """A .cu file compiled for one architecture: the binary for the driver and the compiler's messages.

    ``names``: the C++ expressions by which kernels were asked for -> their names in the binary.
    """

    code: bytes
    log: str
    names: Mapping[str, str] = field(default_factory=dict)

    def resources(self) -> dict[str, Resources]:
        """What each kernel needs, from the assembler's messages."""
        found = {}
        parts = re.split(r"Compiling entry function '(\w+)'", self.log)
        for name, text in zip(parts[1::2], parts[2::2]):

            def number(pattern: str, text: str = text) -> int:
                return sum(int(n) for n in re.findall(pattern, text))

            found[name] = Resources(
                number(r"Used (\d+) registers"),
                number(r"(\d+) bytes smem"),
                number(r"(\d+) bytes stack frame"),
                number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            )
        return found


# --- compiling --------------------------------------------------------------------------------------------------------


@functools.cache
def nvrtc() -> Any:
    """The library NVRTC, from the wheel ``nvidia-cuda-nvrtc`` or from the system. Raises NoCuda."""
    for path in (*_from_wheels(), *(f"libnvrtc.so.{v}" for v in _VERSIONS)):
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise NoCuda("NVRTC, which compiles CUDA kernels, was not found: pip install nvidia-cuda-nvrtc")


def _from_wheels() -> list[str]:
    folders = _packages("nvidia")
    return [str(f) for v in _VERSIONS for folder in folders for f in sorted(folder.glob(f"*/lib/libnvrtc.so.{v}"))]


@functools.cache
def nvrtc_version() -> str:
    """For example "13.0"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _do("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _do(function: str, *arguments: Any) -> None:
    code = getattr(nvrtc(), function)(*arguments)
    if code:
        message = nvrtc().nvrtcGetErrorString
        message.restype = ctypes.c_char_p
        raise CompileError(f"{function}: {message(code).decode()}")


def architectures(text: str) -> tuple[str, ...]:
    """Those of ``ARCHITECTURES`` that a source is for: all, or what its line ``// Needs sm_80`` leaves."""
    least = needs(text) or "0"
    if least.endswith("a"):
        return (least,)
    return tuple(a for a in ARCHITECTURES if int(a.rstrip("a")) >= int(least))


def compile_for(source: Path, architecture: str, defines: Mapping[str, Any] | None = None) -> Binary:
    """Compile a .cu file for ``architecture`` ("75" to "121", "90a"), or reuse an earlier compilation of the same.

    No GPU is needed. Raises NoCuda where NVRTC is missing or the source needs a newer card, ValueError for another
    architecture and CompileError.
    """
    program = _program(source, architecture, defines or {})
    if program.is_kept():
        return Binary(program.code.read_bytes(), program.log.read_text(encoding="utf-8"))
    binary = _compile(source.name, program.text, program.headers, program.options)
    try:
        for file, content in ((program.log, binary.log.encode()), (program.code, binary.code)):
            part = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}")
            part.write_bytes(content)
            part.replace(file)  # at once, so that another process never sees half a file
    except OSError as error:
        raise not_kept(program.code.parent, error) from None
    return binary


@dataclass(frozen=True)
class _Program:
    """All that goes into a binary, and the two files that keep what came out."""

    text: str
    headers: Mapping[str, str]
    options: Sequence[str]
    code: Path
    log: Path

    def is_kept(self) -> bool:
        written = self.log.exists() and self.code.exists()
        return written and self.code.stat().st_size > 0  # a power cut may leave it empty


def check_architecture(architecture: str) -> None:
    """Raise ValueError unless it is one of ``ARCHITECTURES``."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}: use one of {', '.join(ARCHITECTURES)}")


def check_runs_on(source: Path, text: str, architecture: str) -> None:
    """Raise NoCuda for a kernel that needs another card than ``architecture``."""
    if architecture not in architectures(text):
        raise NoCuda(f"{source.name} is for sm_{needs(text)}, it cannot run on sm_{architecture}")


def _program(source: Path, architecture: str, defines: Mapping[str, Any]) -> _Program:
    check_architecture(architecture)
    text = text_of(source)
    check_runs_on(source, text, architecture)
    headers = headers_of(text)
    options = [f"-arch=sm_{architecture}", *OPTIONS, *_loud(), *(f"-D{k}={v}" for k, v in sorted(defines.items()))]
    if any(_CUDAS_HEADER.search(part) for part in parts_of(text)):
        options += [f"--include-path={folder}" for folder in _include_folders()]
    parts = [nvrtc_version(), text, *options, *(x for name in sorted(headers) for x in (name, headers[name]))]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    code, log = (cache_directory() / f"gpu-{key}.{end}" for end in ("cubin", "log"))
    return _Program(text, headers, options, code, log)


def compile_ahead(wanted: Iterable[tuple[Path, str, Mapping[str, Any]]]) -> None:
    """Compile files, each for an architecture with its settings, on all cores, so that ``compile_for`` finds them.

    One process per core, as NVRTC compiles one program at a time in each; none where all is compiled. What does not
    compile is left for ``compile_for`` to report. Raises what ``compile_for`` raises, except CompileError.
    """
    jobs = [(file, on, dict(defines)) for file, on, defines in wanted if not _program(file, on, defines).is_kept()]
    workers = min(len(jobs), os.cpu_count() or 1)
    if workers > 1:
        context = multiprocessing.get_context("spawn")  # a card's context does not go through a fork
        with ProcessPoolExecutor(workers, context) as pool:
            list(pool.map(_try_to_compile, jobs))


def _try_to_compile(job: tuple[Path, str, Mapping[str, Any]]) -> None:
    with contextlib.suppress(CompileError):
        compile_for(*job)


def resources_of(
    name: str, text: str, architecture: str, options: Sequence[str], expressions: Sequence[str]
) -> dict[str, Resources]:
    """What the kernels of a program need that C++ expressions (``scale<float, 4>``) name, compiled with these options.

    Raises NoCuda where NVRTC is missing, ValueError for an unknown architecture, and CompileError.
    """
    check_architecture(architecture)
    folders = [*_include_folders(), *(str(w / "_core" / "include") for w in _packages("cupy"))]
    includes = [f"--include-path={folder}" for folder in folders]
    binary = _compile(name, text, {}, [f"-arch=sm_{architecture}", *_loud(), *options, *includes], expressions)
    found = binary.resources()
    return {expression: found[symbol] for expression, symbol in binary.names.items()}


def _loud() -> list[str]:
    """The options that make the assembler report what kernels need."""
    # NVRTC's own cache, which it has where there is a driver, hands out binaries without the assembler's messages.
    return ["-Xptxas=-v", *(["-no-cache"] if nvrtc_version() >= "13" else [])]


def _packages(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    return [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []


@functools.cache
def _include_folders() -> list[str]:
    """Where CUDA's own headers lie, as <cuda_fp16.h>: in the wheels nvidia-cuda-runtime, -crt and -cccl, or in a toolkit."""
    found = [folder for package in _packages("nvidia") for folder in sorted(package.glob("*/include"))]
    found.append(Path(os.environ.get("CUDA_PATH") or "/usr/local/cuda") / "include")
    first = [folder for folder in found if (folder / "cuda_fp16.h").is_file()][:1]
    return [str(folder) for folder in (*first, *(f / "cccl" for f in first))]


def _compile(
    name: str, text: str, headers: Mapping[str, str], options: Sequence[str], expressions: Sequence[str] = ()
) -> Binary:
    program = ctypes.c_void_p()
    strings = ctypes.c_char_p * len(headers)
    _do(
        "nvrtcCreateProgram",
        ctypes.byref(program),
        text.encode(),
        name.encode(),
        len(headers),
        strings(*(h.encode() for h in headers.values())),
        strings(*(h.encode() for h in headers)),
    )
    try:
        for expression in expressions:
            _do("nvrtcAddNameExpression", program, expression.encode())
        flags = [o.encode() for o in options]
        failed = nvrtc().nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        log = _get("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
        if failed:
            raise CompileError(f"{name} does not compile with {' '.join(options)}:\n{log.strip()}")
        return Binary(_get("CUBIN", program), log, {e: _symbol(program, e) for e in expressions})
    finally:
        nvrtc().nvrtcDestroyProgram(ctypes.byref(program))


def _symbol(program: ctypes.c_void_p, expression: str) -> str:
    name = ctypes.c_char_p()
    _do("nvrtcGetLoweredName", program, expression.encode(), ctypes.byref(name))
    return (name.value or b"").decode()


def _get(what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _do(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    _do(f"nvrtcGet{what}", program, content)
    return content.raw


# --- launching --------------------------------------------------------------------------------------------------------


class Device:
    """The current GPU. It has the methods of ``emulator.Emulator``, so an operation's host code runs on either."""

    def __init__(self) -> None:
        self.xp = _usable_cupy()
        self.architecture = architecture_of(self.xp.cuda.Device().compute_capability)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Uninitialised memory for a result."""
        return self.xp.empty(shape, dtype)

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
        """Launch ``kernel`` of the file ``source`` on a grid of blocks, on CuPy's current stream; no launch if it is empty."""
        settings = tuple(sorted(defines.items())) if defines else ()
        kernels, clusters = kernels_in(source), clusters_in(source, settings)
        blocks, block, values = check_launch(source, kernels, kernel, grid, threads, arguments, clusters, for_cupy=True)
        if 0 in blocks:
            return
        if TensorMap in map(type, values):
            values = [v.encoded() if type(v) is TensorMap else v for v in values]
        function = self._function(source, kernel, settings)
        function(blocks, block, values, shared_mem=shared_bytes)

    def _function(self, source: Path, kernel: str, defines: tuple[tuple[str, Any], ...]) -> Any:
        return _loaded(self.xp.cuda, self.xp.cuda.Device().id, self.architecture, source, kernel, defines)


@functools.cache
def _loaded(
    cuda: Any, device: int, architecture: str, source: Path, kernel: str, defines: tuple[tuple[str, Any], ...]
) -> Any:
    """One kernel, loaded by the driver: modules belong to a device, so it is part of the key.

    It is allowed all the shared memory of a block: by default, its own arrays and what a launch asks for may not exceed
    48 KiB together.
    """
    binary = compile_for(source, architecture, dict(defines))
    module = cuda.function.Module()
    module.load(binary.code)
    function = module.get_function(kernel)
    own = cuda.driver.funcGetAttribute(_OWN_SHARED, function.ptr)
    cuda.driver.funcSetAttribute(function.ptr, _MAX_DYNAMIC_SHARED, _shared_bytes(architecture) - own)
    return function


def _shared_bytes(architecture: str) -> int:
    """The most that a block may have."""
    return SHARED_KILOBYTES.get(architecture, 99) << 10


def architecture_of(capability: str) -> str:
    """The architecture to compile for on a card of this compute capability ("75" ... "121"). Raises NoCuda."""
    if capability not in ARCHITECTURES:
        raise NoCuda(f"the GPU has compute capability {capability}, supported are {', '.join(ARCHITECTURES)}")
    return "90a" if capability == "90" else capability


def fits_on_chip(device: Any, shared_bytes: int) -> bool:
    """Whether a block may have that much dynamic shared memory beside 1 KiB of its own. The emulator has Hopper's."""
    return shared_bytes + 1024 <= _shared_bytes(device.architecture)


def _usable_cupy() -> Any:
    try:
        return backend.module_for("cuda")
    except ValueError as error:
        raise NoCuda(str(error)) from None
