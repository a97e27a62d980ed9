"""From a .cu file to a library that the emulator can enter, by g++ or clang++, kept under a key of all that went in.

Tried with g++ 12 and 16, clang++ 14, 16 and 19. Where g++ and clang++ are installed, the tests run the planted kernels
with both, and with the fibers of processors other than x86-64 (``CXX="g++ -DEMULATOR_PORTABLE"``: CXX may have flags).
"""

import ctypes
import functools
import hashlib
import itertools
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..source import (
    ROOT,
    Parameter,
    Size,
    WrongSource,
    cache_directory,
    check_cluster,
    clusters_of,
    headers_of,
    kernels_of,
    launch_bounds_of,
    not_kept,
    parts_of,
    text_of,
    without_comments,
)  # fmt: skip
from . import assembly, foreign
from .tools import compiler, said_by, version

HERE = Path(__file__).parent
CUDAS_HEADERS = HERE / "include"  # what we have of the headers that come with CUDA: <cuda_fp16.h>
CUBS_NAMES = {*CUDAS_HEADERS.glob("cub/**/*.cuh")}  # nothing but includes; a kernel's own may have these names
# Headers that findings do not name: they name the line that uses them.
WRAPPERS = (
    "assembly.cuh", "assembly_matrices.cuh", "assembly90.cuh", "eight_bits.cuh", "ptx.cuh", "ptx90.cuh", "device.cuh", "functions.cuh", "vectors.cuh",
    *sorted(f.name for f in CUDAS_HEADERS.rglob("*.*") if f not in CUBS_NAMES),
)  # fmt: skip
# At -O1 GCC 12 leaves some stores without the call that the emulator needs; at -O2 it does not.
OPTIONS = ("-std=c++17", "-O2", "-gdwarf-4", "-g1", "-fPIC", "-w", "-ffp-contract=off")
COPYING = ("memcpy", "memmove", "memset")  # kernels call runtime.cpp's versions of these, which check
HEAP = ("malloc", "free", "calloc", "_Znwm", "_Znam", "_ZdlPv", "_ZdlPvm", "_ZdaPv")  # the last five are new and delete
OURS = {
    **{name: f"__tsan_{name}" for name in COPYING},  # as clang calls these from 15 on
    **{name: f"emulator_{name}" for name in ("printf", *HEAP)},
}
KERNEL_OPTIONS = (
    "-fsanitize=thread,shift-exponent,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow,return",
    "-fsanitize-recover=all",
    "-ftrivial-auto-var-init=pattern",  # so that a sum that nobody has set to 0 does not begin with 0 by chance
    *(f"-fno-builtin-{name}" for name in OURS if name[0] != "_"),
    "-fno-strict-aliasing",  # kernels look at one type through pointers to another: C++ forbids it, nvcc lets it pass
)
# Two barriers in two branches must stay two, and in the order of the source.
GCC_OPTIONS = (
    "-fsanitize=bounds-strict",  # also of arrays that end a structure
    "-fno-allocation-dce",  # which takes away what new brings and nobody uses
    "-fno-crossjumping",
    "-fno-tree-tail-merge",
    "-fno-toplevel-reorder",
    "--param=tsan-distinguish-volatile=1",
)
# The same for clang, which would also merge several accesses into a wide one, and leave a read without a call where
# the same number is written next.
_CLANG_PASSES = (
    "-simplifycfg-hoist-common=false",
    "-simplifycfg-sink-common=false",
    "-simplifycfg-merge-cond-stores=false",
    "-simplifycfg-hoist-cond-stores=false",
    "-enable-tail-merge=false",
    "-tsan-instrument-read-before-write",
    "-tsan-distinguish-volatile",
)
CLANG_OPTIONS = (
    "-fsanitize=array-bounds",
    "-fno-vectorize",
    "-fno-slp-vectorize",
    *(word for p in _CLANG_PASSES for word in ("-mllvm", p)),
)
# What follows a kernel's text: where the library and its shared memory lie.
ENDS = """
#define LINKER_SAYS extern "C" __attribute__((visibility("hidden"))) char
LINKER_SAYS __ehdr_start[], _end[], __start_shared_memory[], __stop_shared_memory[];
extern "C" const emulator::Program emulator_program = {__ehdr_start, _end, __start_shared_memory, __stop_shared_memory};
"""
# What is linked behind it: the last shared array's guard. (clang++ puts the arrays of functions in another order.)
LAST = """.section shared_memory,"aw"
.zero 16384
.section .note.GNU-stack,""
"""
# That of <cassert> would stop Python.
ASSERT = '#undef assert\n#define assert(true_) ((true_) ? (void)0 : emulator_assert("assert(" #true_ ")"))\n'
INLINE = "#define inline\n#define __inline__\n"
# For a Hopper.
NVCC = "#define __CUDA_ARCH__ 900\n#define __CUDA_ARCH_FEAT_SM90_ALL\n#define __CUDACC_VER_MAJOR__ 13\n#define __CUDACC_VER_MINOR__ 0\n"
# A kernel's own overload of one of these would hide ours.
OVERLOADED = "".join(
    f"using ::{name};\n"
    for name in re.findall(
        r"\w+",
        "abs min max fabs pow sqrt exp log sin cos floor ceil fma fmod __ldg __shfl_sync __shfl_up_sync __shfl_down_sync "
        "__shfl_xor_sync atomicAdd atomicSub atomicMin atomicMax atomicExch atomicCAS",
    )
)
OWN_MOST = 48 << 10  # bytes of __shared__ arrays whose sizes are in the text
FENCE = "_ZN8emulator5fenceEb"  # the function that all fences call
DOOR = "door of "  # the compiler's name for the place where Python enters a kernel
NO_HEADER = "NVRTC has no <cstdio>: take it out, printf is there without."
HOST_CODE = "CUB's device-wide algorithms (cub::DeviceReduce and the like) are host code: the emulator runs kernels."
IN_A_TEMPLATE = (
    "the kernel does not compile for the emulator: g++ puts a template's __shared__ arrays anywhere (declare them in the "
    "kernel, give sizes as macros, or set CXX=clang++)"
)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]+)[>"]', re.MULTILINE)
_INCLUDE_LINE = re.compile(r"^[ \t]*#[ \t]*include\b.*$", re.MULTILINE)
# Of the C and C++ libraries: others with .h may be for another machine, which a condition says.
_LIBRARYS = re.compile(
    r"[a-z_]+|(assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|malloc|math|setjmp|signal|std[a-z]+|string|"
    r"tgmath|threads|time|uchar|unistd|wchar|wctype)\.h"
)
_QUOTED = re.compile(r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_CSTDIO = re.compile(r"#\s*include\s*<(?:cstdio|stdio\.h)>")
_CUB = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]cub/", re.MULTILINE)
_DEVICE_WIDE = re.compile(r"\bcub\s*::\s*Device[A-Z]|#\s*include\s*[<\"]cub/device/")


class DoesNotCompile(RuntimeError):
    """A kernel that the emulator does not support; the message is the compiler's."""


@dataclass(frozen=True)
class Variable:
    """A ``__shared__`` array of a library, or a ``__device__`` variable: its name, and where it lies."""

    name: str
    offset: int
    bytes: int
    red_zone: int = 0  # bytes on both sides that nothing else lies in


@dataclass(frozen=True)
class Library:
    """A compiled .cu file; ``handle`` also has the emulator's functions, from the library that it is linked to."""

    file: Path
    source: Path
    handle: ctypes.CDLL
    kernels: dict[str, tuple[Parameter, ...]]
    clusters: dict[str, Size]
    bounds: dict[str, tuple[int, int]]  # launch bounds: most threads of a block, blocks of a multiprocessor or 0
    shared: tuple[Variable, ...]
    globals: tuple[Variable, ...]
    own_bytes: int  # of shared arrays that a block surely has; 0 where other kernels of the text may have them
    fences: bool  # whether a kernel has some
    cub: bool  # whether it includes CUB, whose undefined whole numbers are then looked for in results
    known: dict[int, list[str]] = field(default_factory=dict)  # the lines of places that were asked for

    def begin(self) -> int:
        """The address that offsets count from."""
        return ctypes.c_void_p.in_dll(self.handle, "emulator_program").value or 0

    def lines(self, places: list[int]) -> list[str]:
        """The ``file:line`` of places in the program, found by addr2line; "?" where it is not known, for example
        because the program's file is gone.

        For a place inside an instruction's wrapper it is the line that uses the wrapper.
        """
        return [lines[0] for lines in self.calls(places)]

    def calls(self, places: list[int]) -> list[list[str]]:
        """The same, each followed by the lines that called it, as far as calls were inlined."""
        if new := [p for p in dict.fromkeys(places) if p not in self.known]:
            command = ["addr2line", "-a", "-i", "-e", str(self.file), *(hex(p) for p in new)]
            found = said_by(command, check=self.file.exists())
            parts = re.split(r"^0x\w+\n", found, flags=re.MULTILINE)[1:]  # the line, and the lines it was inlined into
            for place, part in zip(new, parts):
                said = [re.sub(r" \(discriminator \d+\)$", "", f) for f in part.splitlines()]
                names = [Path(f).name if not f.startswith("??") else "?" for f in said]
                self.known[place] = [n for n in names if not n.startswith((*WRAPPERS, DOOR))] or names[:1]
        return [self.known.get(p, [f"{self.source.name}:?"]) for p in places]


def build(source: Path, defines: tuple[tuple[str, str], ...] = ()) -> Library:
    """Compile a .cu file for the emulator, or reuse an earlier compilation of the same text by the same compiler."""
    return _built(compiler(), source, text_of(source), defines)


def build_kernels(
    source: Path, text: str, defines: tuple[tuple[str, str], ...], expressions: tuple[str, ...]
) -> Library:
    """The same for a text, called ``source`` in findings, and kernels named by C++ expressions: ``scale<float, 4>``.

    The compiler tells the types of their parameters, so any type will do.
    """
    return _built(compiler(), source, text, defines, expressions)


def _macros(defines: tuple[tuple[str, str], ...]) -> str:
    return "".join(f"#define {name} {value}\n" for name, value in defines)


def _run_preprocessor(program: str, *options: str) -> str | None:
    """A program without its macros and conditions; None where it has mistakes."""
    words = [*shlex.split(compiler()), "-E", *options, "-x", "c++", "-"]
    done = subprocess.run(words, input=NVCC + program, capture_output=True, text=True, encoding="utf-8")
    return None if done.returncode else done.stdout


@functools.cache
def preprocessed(text: str, defines: tuple[tuple[str, str], ...]) -> str:
    """A text as it is after its own macros and conditions, without what headers would bring."""
    if not re.search(r"^[ \t]*#[ \t]*(if|define|undef)", text, re.MULTILINE):
        return text
    found = _run_preprocessor(_macros(defines) + _INCLUDE_LINE.sub("", text), "-P")
    return text if found is None else found


def _expanded(text: str, source: Path, defines: tuple[tuple[str, str], ...]) -> str:
    """A text with its own macros in place, on its own lines; as it is where that fails."""
    includes = _INCLUDE_LINE.findall(text)
    numbers = itertools.count()
    alone = _INCLUDE_LINE.sub(lambda _: f"emulator_include_{next(numbers)}_", text)
    found = _run_preprocessor(f"{_macros(defines)}#line 1 {_quoted(source)}\n{alone}")
    if found is None:
        return text
    said = re.sub(r'^# (\d+ "(?:\\.|[^"\\])*").*$', r"#line \1", found, flags=re.MULTILINE)
    return re.sub(r"emulator_include_(\d+)_", lambda found: includes[int(found[1])], said)


@functools.cache
def _built(
    command: str, source: Path, text: str, defines: tuple[tuple[str, str], ...], expressions: tuple[str, ...] = ()
) -> Library:
    kernels = {} if expressions else kernels_of(text)
    if not kernels and not expressions:
        raise WrongSource(f'{source.name} has no kernel, which would be extern "C" __global__ void name(...)')
    if not expressions and not re.search(r'\bextern\s+"C"', without_comments(text)):
        raise WrongSource(f'{source.name}: kernels must be extern "C", or a GPU does not know them by their names')
    if expressions:
        looks = preprocessed(text, defines)
        bounds = {k: said for k in expressions if (said := foreign.attribute_of(foreign.BOUNDS, looks, k))}
        dims = {k: said for k in expressions if (said := foreign.attribute_of(foreign.CLUSTER, looks, k))}
        clusters = {}
    else:
        bounds = {k: f"static constexpr int words[3] = {{{words}}};" for k, words in launch_bounds_of(text).items()}
        clusters, dims = clusters_of(text, dict(defines)), {}
    doors = ""
    for i, k in enumerate(expressions or kernels):
        doors += f'#line 1 "{DOOR}{k}"\n'
        doors += f'extern "C" __attribute__((no_sanitize("thread"))) void emulator_enter_{i}(void** emulator_values) '
        doors += f"{{ emulator::call({k}, emulator_values); }}\n"
        for what, given in (("bounds", bounds), ("cluster", dims)):
            if k in given:
                space, _ = foreign.space_and_name(k)
                using = f"using namespace {space}; " if space else ""
                doors += f"namespace {{ {using}struct Emulator_{what}_{i} {{ {given[k]} }}; }}\n"
                doors += f'extern "C" const int* const emulator_{what}_{i} = Emulator_{what}_{i}::words;\n'
        if expressions:
            doors += f'extern "C" const emulator::Passed emulator_passed_{i} = emulator::passed({k});\n'
    words = assembly.translated(foreign.in_our_words(text))
    if assembly.NO_STRING in words:  # but perhaps macros make one of it
        words = assembly.translated(foreign.in_our_words(_expanded(text, source, defines)))
    ptx = '#include "emulator/assembly.cuh"\n' if "emulator::ptx::" in words else ""
    # After our own definitions, which they might change.
    macros = f'#line 1 "options"\n{_macros(defines)}'
    # Without `inline`, which __device__ implies: twice would be an error. In an unnamed namespace, so that functions
    # are local to this file: the shared arrays of others, of which g++ might find a second copy, may not lie in one
    # section with those of kernels.
    program = (
        f'#include "emulator/device.cuh"\n{ptx}{_headers_before(text, bool(expressions))}{INLINE}{NVCC if expressions else ""}{macros}'
        f"namespace {{\n{OVERLOADED}#line 1 {_quoted(source)}\n{words}\n}}\n"
        f'#line 1 "{DOOR}"\n{doors}{ENDS}'
    )
    try:
        parts = [program, LAST, *headers_of(text).values(), *_own_files()]
        file = _cached(command, "kernel", parts, lambda out: _compile(command, program, out))
    except DoesNotCompile as error:
        why = _complaint(str(error), source.name, without_comments(preprocessed(text, defines)))
        bare = without_comments(text)
        hints = [said for sign, said in ((_CSTDIO, NO_HEADER), (_DEVICE_WIDE, HOST_CODE)) if sign.search(bare)]
        raise DoesNotCompile("\n".join([why, *hints])) from None
    try:
        ctypes.CDLL(str(_runtime(command)))  # which the next one finds by its name
        handle = ctypes.CDLL(str(file))
    except OSError as error:
        if "undefined symbol" in str(error):
            unknown = str(error).partition("undefined symbol: ")[2]
            raise DoesNotCompile(
                f"{source.name}: {_names(unknown) or unknown} is declared but nowhere defined"
            ) from None
        raise
    most = {}
    for i, k in enumerate(expressions or kernels):
        if expressions:
            kernels[k] = foreign.parameters(looks, k, handle, i)
        if k in bounds:
            threads, blocks = ctypes.POINTER(ctypes.c_int).in_dll(handle, f"emulator_bounds_{i}")[:2]
            most[k] = (threads, blocks)
        if k in dims:
            x, *more = ctypes.POINTER(ctypes.c_int).in_dll(handle, f"emulator_cluster_{i}")[:3]
            sizes = (x, *(n or 1 for n in more))  # 0 is none
            clusters[k] = check_cluster(k, sizes, str(sizes))
    symbols = said_by(["objdump", "-t", str(file)])
    shared, variables = _variables(symbols)
    alone = not expressions or (len(expressions) == 1 and looks.count("__global__") == 1)
    own_bytes = sum(s.bytes for s in shared) if alone else 0
    if own_bytes > OWN_MOST:
        raise WrongSource(
            f"{source.name}: its __shared__ arrays take {own_bytes} bytes, and a GPU's compiler allows {OWN_MOST}: beyond "
            "that, they must be extern __shared__, of a size that the launch says"
        )
    fences, cub = FENCE in symbols, _CUB.search(text) is not None
    return Library(file, source, handle, kernels, clusters, most, shared, variables, own_bytes, fences, cub)


def _complaint(said: str, name: str, text: str) -> str:
    """A compiler's messages about a text, without those about the code that is put around it here."""
    found = re.findall(r"^(\S.*?):(\d+):\d+: (?:(error|note): |  (?=required from here))(.*)$", said, re.MULTILINE)
    lines = [] if found else [said]
    words = _QUOTED.sub("", text)
    if found and (left := words.count("{") - words.count("}")):
        lines.append(f"{name}: {left} {{ without a }}" if left > 0 else f"{name}: {-left} }} without a {{")
    for file, line, kind, what in found:
        if not file.startswith(DOOR) and (kind == "error" or Path(file).name == name):
            what = re.sub(r"(\{anonymous\}|\(anonymous namespace\))::", "", what)
            lines.append(f"{Path(file).name}:{line}: {kind or 'note'}: {what}")
    if not any(": error: " in line or " without a " in line for line in lines):
        lines += [
            f"{name}: {file.removeprefix(DOOR)} is not the name of one kernel"
            for file, _, kind, _ in found
            if kind == "error" and file.startswith(DOOR)
        ]
    return "\n".join(["the kernel does not compile for the emulator:"] * bool(found) + [*dict.fromkeys(lines)])[:4000]


def _headers_before(text: str, any_others: bool) -> str:
    """Includes of those of CUDA's headers that a text or its own headers include, to stand before the text's namespace.

    Inside it, their names would not be ours of the same name, and the C++ library's would not be in ``std``. Each has
    ``#pragma once``, so where the text includes it nothing more comes. With ``any_others`` also those of the C++
    library, which nvcc has and NVRTC has not.
    """
    names = {name for part in parts_of(text) for name in _INCLUDE.findall(without_comments(part))}
    found = [name for name in sorted(names) if (CUDAS_HEADERS / name).is_file()]
    if any_others:
        found += [name for name in sorted(names) if name not in found and _LIBRARYS.fullmatch(name)]
    return "".join(f"#include <{name}>\n" for name in found) + ASSERT


def _quoted(file: Path) -> str:
    """As a string of C++."""
    return '"' + str(file).replace("\\", "\\\\").replace('"', '\\"') + '"'


@functools.cache
def _own_files() -> tuple[str, ...]:
    files = sorted(f for f in HERE.rglob("*") if f.suffix in (".cpp", ".hpp", ".cuh", ".h", "") and f.is_file())
    return tuple(f.read_text(encoding="utf-8") for f in files)


def _cached(command: str, kind: str, parts: list[str], make: Callable[[Path], None], end: str = ".so") -> Path:
    options = (*OPTIONS, *KERNEL_OPTIONS, *_own_options(command))
    key = hashlib.sha256("\0".join([command, version(command), *options, *parts]).encode()).hexdigest()[:32]
    file = cache_directory() / f"{kind}-{key}{end}"
    if not file.exists() or not file.stat().st_size:  # a power cut may leave it empty
        try:
            with tempfile.TemporaryDirectory(dir=file.parent) as work:
                made = Path(work) / file.name
                make(made)
                made.replace(file)  # at once, so that another process never sees half a file
        except OSError as error:
            raise not_kept(file.parent, error) from None
    return file


def _own_options(command: str) -> tuple[str, ...]:
    return CLANG_OPTIONS if "clang" in version(command) else GCC_OPTIONS


def _runtime(command: str) -> Path:
    """The emulator as a library of its own, to which all kernels of this compiler are linked."""
    source = str(HERE / "runtime.cpp")

    def make(out: Path) -> None:  # without debug lines: no finding is at a line of it
        _run_compiler(command, "-g0", "-shared", f"-Wl,-soname,{out.name}", source, "-o", str(out), "-ldl")

    return _cached(command, "runtime", [*_own_files()], make)


def _last(command: str) -> Path:
    """LAST as an object file."""

    def make(out: Path) -> None:
        text = out.with_suffix(".s")
        text.write_text(LAST, encoding="utf-8")
        _run_compiler(command, "-c", str(text), "-o", str(out))

    return _cached(command, "last", [LAST], make, ".o")


def _read_before(command: str) -> list[str]:
    """Options to use device.cuh precompiled: reading it is half of compiling a small kernel."""
    by_clang = _own_options(command) == CLANG_OPTIONS  # which needs the files that it has read to be there, untouched

    def make(out: Path) -> None:
        options = [*KERNEL_OPTIONS, *_own_options(command)]
        _run_compiler(command, *options, "-x", "c++-header", str(HERE / "device.cuh"), "-o", str(out))

    if by_clang:
        times = (str(f.stat().st_mtime_ns) for f in sorted(HERE.glob("*.cuh")))
        kept = _cached(command, "device", [*_own_files(), str(HERE), *times], make, ".pch")
        return ["-Xclang", "-fno-validate-pch", "-include-pch", str(kept)]
    return ["-include", str(_cached(command, "device", [*_own_files()], make, ".cuh.gch").with_suffix(""))]


def _compile(command: str, program: str, out: Path) -> None:
    main, listing, object_file = (out.with_suffix(end) for end in (".cpp", ".s", ".o"))
    main.write_text(program, encoding="utf-8")
    options = [*KERNEL_OPTIONS, *_own_options(command), *_read_before(command)]
    if _own_options(command) == GCC_OPTIONS and (re.search(r"\btemplate\b", program) or _CUB.search(program)):
        _run_compiler(command, *options, "-S", str(main), "-o", str(listing))
        listing.write_text(_in_one_section(listing.read_text(encoding="utf-8")), encoding="utf-8")
        _run_compiler(command, "-c", str(listing), "-o", str(object_file))
    else:
        _run_compiler(command, *options, "-c", str(main), "-o", str(object_file))
    said_by(["objcopy", *(f"--redefine-sym={name}={ours}" for name, ours in OURS.items()), str(object_file)])
    # Without -fsanitize=thread here: its library is not wanted, ours takes its place.
    linked = [str(object_file), str(_last(command)), str(_runtime(command)), "-lm", "-lgcc", "-o", str(out)]
    _run_compiler(command, "-shared", "-nodefaultlibs", *linked)


def _in_one_section(assembly: str) -> str:
    """An assembly text with the __shared__ arrays of templates where all others are: g++ 12 forgets the section of these.

    They are known by the guards in the same functions.
    """
    scopes = tuple(set(re.findall(r"^\t\.comm\t(\w+E)\d\demulator_guard_\d+,", assembly, re.M)))

    def moved(found: re.Match[str]) -> str:
        name, size, alignment = found.groups()
        if not name.startswith(scopes):
            return found[0]
        return (
            f'\t.pushsection shared_memory,"aw"\n\t.balign {alignment}\n\t.type {name},@object\n\t.size {name},{size}\n'
            f"{name}:\n\t.zero {size}\n\t.popsection\n"
        )

    return re.sub(r"^\t\.local\t(_ZZ\w+)\n\t\.comm\t\1,(\d+),(\d+)\n", moved, assembly, flags=re.M)


def _run_compiler(command: str, *arguments: str) -> None:
    words = [*shlex.split(command), *OPTIONS, f"-I{ROOT}", f"-I{CUDAS_HEADERS}", *arguments]
    done = subprocess.run(words, capture_output=True, text=True)
    if missing := re.search(r"fatal error: '?([^\s:']+)'?(?:: No such file| file not found)", done.stderr):
        raise DoesNotCompile(f"the kernel includes {missing[1]}, which the emulator does not have")
    if done.returncode:
        raise DoesNotCompile(f"the kernel does not compile for the emulator:\n{done.stderr.strip()}")


def _variables(symbols: str) -> tuple[tuple[Variable, ...], tuple[Variable, ...]]:
    """The arrays in the section of shared memory, and the variables of the whole grid, from the table of symbols."""
    if re.search(r"^\w+ .{7} (?!shared_memory)\S+\t\w+ +\S*emulator_guard_", symbols, re.MULTILINE):
        raise DoesNotCompile(IN_A_TEMPLATE)
    shared, others = [], []
    places = []  # of all that lies beside variables
    for address, section, size, name in re.findall(
        r"^(\w+) .{7} (shared_memory|\.data|\.bss)\t(\w+) +(\S+)$", symbols, re.MULTILINE
    ):
        place = int(address, 16), int(size, 16)
        if not place[1] or "emulator_guard_" in name:
            continue
        if section == "shared_memory":
            shared.append(Variable(_plain_name(name), *place))
            continue
        places.append(place)
        if name.startswith("_ZZ"):  # static in a function
            others.append(Variable(_plain_name(name), *place))
        elif name.startswith("_ZN12_GLOBAL__N_1"):
            others.append(Variable(_names(name), *place))
    return tuple(shared), tuple(replace(v, red_zone=_room_beside(v, places)) for v in others)


def _room_beside(variable: Variable, places: list[tuple[int, int]]) -> int:
    """How many bytes on both sides of a variable are nobody's, up to 256; ``places`` are (begin, bytes) of all variables."""
    begin, end = variable.offset, variable.offset + variable.bytes
    before = [begin - (at + size) for at, size in places if at < begin]
    after = [at - end for at, _ in places if at > begin]
    return max(0, min([256, *before, *after]))


def _names(symbol: str) -> str:
    """``space::count`` from the mangled name of a variable of the kernel's text, ``_ZN12_GLOBAL__N_15space5countE``."""
    rest, parts = symbol.removeprefix("_ZN12_GLOBAL__N_1"), []
    while word := re.match(r"L?(\d+)", rest):
        end = word.end() + int(word[1])
        parts.append(rest[word.end() : end])
        rest = rest[end:]
    return "::".join(parts)


def _plain_name(symbol: str) -> str:
    """``tile`` from the mangled name of a function's static variable: ``_ZZ6kernelE4tile`` or ``_ZZ6kernelPKfiE4tile_0``."""
    for match in re.finditer(r"(?=E(\d+)(\w+))", symbol):
        name, rest = match[2][: int(match[1])], match[2][int(match[1]) :]
        if re.fullmatch(r"(_\w*)?", rest) and len(name) == int(match[1]):
            return name
    return re.sub(r"\.\d+$", "", symbol)
