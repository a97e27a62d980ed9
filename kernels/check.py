"""``python -m kernels.check [attention/3_mma ...]``: compile kernels for all cards, check their resources by a table.

No GPU is needed. For each .cu file and each architecture that it is for, NVRTC's assembler reports the registers per
thread, the shared memory per block, and whether registers were spilled or arrays placed in local memory, which is off
the chip. A change that costs registers shows as a difference from ``results/resources.json``, which only ``--update``
rewrites, so it happens on purpose. File names, or beginnings of them, select files. Exit status: 0 if all agrees with
the table; 1 if something differs, spills, uses local memory without a stated reason, or has its wgmma serialised or
its setmaxnreg ignored by the compiler; 2 if the request makes no sense or NVRTC is missing.

A table holds for the version of NVRTC that made it. With another one, registers are shown but not compared.

``python -m kernels.check mine.cu`` shows what the kernels in a file of your own need (those that are ``extern "C"``).
"""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from . import command, launch
from .emulator.foreign import kernel_names
from .launch import ARCHITECTURES, CompileError, NoCuda, Resources, architectures, compile_for
from .source import ROOT, kernels_of, text_of

TABLE = ROOT / "results" / "resources.json"

TWO_TILES = (
    ("matmul", "mma"),
    ("conv2d", "mma_gradients"),
    ("eight_bit", "mma"),
    ("eight_bit", "split"),
    ("matmul", "split"),
)
# What the compiler says -> what it did to a kernel that is meant to be fast.
LOSSES = {
    "serialized": "serialises its wgmma instructions",
    "'setmaxnreg' ignored": "leaves out the instructions that move registers from warp to warp",
}
MIXED = {"X_FORM": "e5m2", "W_FORM": "e4m3"}  # the two forms of fp8
TIME, RESIDUAL = {"TIME": "true"}, {"RESIDUAL": "true"}  # how the convolutions of a residual block end
# Files whose sizes are given at compile time -> the settings that are checked. All others are compiled as they are.
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "attention/2_online_softmax.cu": ({"D": 64, "D_V": 64},),
    "attention/2_recomputed_backward.cu": ({"D": 64, "D_V": 64}, {"D": 128, "D_V": 128}),
    "attention/2_short.cu": tuple({"D": d, "D_V": d, "KEYS": 80} for d in (40, 64, 128)),
    "attention/3_short.cu": tuple({"D": d, "D_V": d, "KEYS": 80} for d in (40, 64, 128)),
    **{f"attention/3_split{way}.cu": tuple({"D": d, "D_V": d} for d in (40, 64, 128)) for way in ("", "_backward")},
    "attention/3_mma_backward.cu": tuple({"D": d, "D_V": d} for d in (40, 64, 128, 256)),
    "attention/3_mma.cu": (
        {"D": 40, "D_V": 40, "KEYS": 64},
        {"D": 64, "D_V": 64, "KEYS": 64},
        {"D": 128, "D_V": 128, "KEYS": 64},
        {"D": 256, "D_V": 256, "KEYS": 32},
    ),
    "attention/4_wgmma_backward.cu": tuple({"D": d, "D_V": d} for d in (40, 64, 128)),
    "attention/4_wgmma.cu": (
        {"D": 40, "D_V": 40, "KEYS": 128},
        {"D": 64, "D_V": 64, "KEYS": 128},
        {"D": 128, "D_V": 128, "KEYS": 128},
        {"D": 256, "D_V": 256, "KEYS": 64},
    ),
    "conv2d/2_tiled.cu": ({}, TIME, RESIDUAL),
    "conv2d/3_first_layer.cu": ({"DEPTH": 27}, {"DEPTH": 27, **RESIDUAL}, {"DEPTH": 75}, {"DEPTH": 147}),
    "conv2d/4_split.cu": ({"TILE_N": 64}, {"TILE_N": 128}, {"TILE_N": 128, **TIME}, {"TILE_N": 128, **RESIDUAL}),
    "conv2d/4_split_gradients.cu": tuple({"TILE_N": n} for n in (64, 128)),
    "conv2d/4_wgmma.cu": (
        {"TILE_N": 64},
        {"TILE_N": 128, **TIME, **RESIDUAL, "SILU": "true"},
        {"TILE_N": 160},
        {"TILE_N": 256},
        {"TILE_N": 256, **TIME},
        {"TILE_N": 256, **RESIDUAL},
    ),
    "conv2d/4_wgmma_gradients.cu": tuple({"TILE_N": n} for n in (64, 128, 160, 256)),
    "cross_entropy/3_cluster.cu": tuple({"BLOCKS": n} for n in (2, 4, 8)),
    **{f"eight_bit/{name}.cu": ({}, MIXED) for name in ("1_naive", "2_tiled", "5_fp8")},
    "eight_bit/2_few_rows.cu": ({"ROWS": 1}, {"ROWS": 8}),
    **{f"{op}/3_{name}.cu": ({}, {"TILE_M": 64, "TILE_N": 64}) for op, name in TWO_TILES},
    "conv2d/3_mma.cu": ({}, TIME, RESIDUAL, {"TILE_M": 64, "TILE_N": 64}),
    "eight_bit/4_wgmma.cu": tuple({"TILE_N": n} for n in (64, 128, 256)),
    "matmul/4_split.cu": (
        {"TILE_N": 64},
        {"TILE_N": 128},
        {"TILE_N": 128, "TRANSPOSE_A": "true", "TRANSPOSE_B": "true"},
    ),
    "matmul/4_wgmma.cu": (
        {"TILE_N": 64},
        {"TILE_N": 128},
        {"TILE_N": 256},
        {"TILE_N": 256, "TRANSPOSE_A": "true", "TRANSPOSE_B": "true"},
    ),
    "matmul/5_multicast.cu": (
        {"TILE_N": 128},
        {"TILE_N": 256},
        {"TILE_N": 256, "TRANSPOSE_A": "true", "TRANSPOSE_B": "true"},
    ),
    "norm/2_group_norm_on_chip.cu": ({}, {"THREADS": 1024}),
    "norm/layer_norm.cu": ({"PER": 1, "WARPS": 1}, {"PER": 8, "WARPS": 1}, {"PER": 8, "WARPS": 32}),
    "quantize/3_mma.cu": ({"D": 64, "CODES": 64}, {"D": 256, "CODES": 32}),
    "quantize/4_wgmma.cu": ({"D": 64}, {"D": 256}),
}
# (file, kernel) -> why it may use local memory or spill. Should be empty.
EXCEPTIONS: dict[tuple[str, str], str] = {}

Table = dict[
    str, dict[str, Resources]
]  # "norm/layer_norm.cu PER=8 WARPS=1: layer_norm" -> architecture -> what it needs


def sources() -> dict[str, Path]:
    """The kernel files of the project by their place in it."""
    found = sorted(p for p in ROOT.glob("*/*.cu") if p.parent.name != "emulator")
    return {p.relative_to(ROOT).as_posix(): p for p in found}


def choose(files: Mapping[str, Path], names: Sequence[str]) -> dict[str, Path]:
    """The ``files`` that begin with one of ``names``, all without any. Raises ValueError for a name that fits none."""
    for name in names:
        if not any(file.startswith(name) for file in files):
            said = f"there is no file {name}, and " if name.endswith(".cu") else ""
            raise ValueError(f"{said}no kernel file of the project begins with {name!r}; there are {', '.join(files)}")
    return {file: path for file, path in files.items() if not names or file.startswith(tuple(names))}


def measure(files: Mapping[str, Path], wanted: Sequence[str]) -> tuple[Table, list[str]]:
    """What each kernel needs on the ``wanted`` architectures, and what is wrong with it whatever the table says."""
    builds = [
        (name, file, defines, [a for a in architectures(file.read_text(encoding="utf-8")) if a in wanted])
        for name, file in files.items()
        for defines in VARIANTS.get(name, ({},))
    ]
    if len(files) > 1:  # one is compiled sooner than processes have started
        launch.compile_ahead((file, a, defines) for _, file, defines, on in builds for a in on)
    table: Table = {}
    wrong: list[str] = []
    for name, file, defines, on in builds:
        title = " ".join([name, *(f"{k}={v}" for k, v in defines.items())])
        for architecture in on:
            try:
                binary = compile_for(file, architecture, defines)
            except CompileError as error:
                wrong.append(str(error))
                break  # the others would say the same
            found = binary.resources()
            for kernel in kernels_of(file.read_text(encoding="utf-8")):
                if kernel not in found:
                    wrong.append(f'{title}: {kernel} is not in what the compiler made: is it extern "C"?')
                    continue
                table.setdefault(f"{title}: {kernel}", {})[architecture] = found[kernel]
                wrong += _faults(name, f"{title}: {kernel} on sm_{architecture}", kernel, found[kernel])
            for message, what in LOSSES.items():
                if lost := re.search(rf"\((C75\d\d)\)[^\n]*{message}", binary.log):
                    wrong.append(f"{title} on sm_{architecture}: the compiler {what} ({lost[1]})")
    return table, wrong


def measure_own(files: Sequence[Path], wanted: Sequence[str]) -> tuple[Table, list[str]]:
    """What the kernels in files outside the project need, and what does not compile."""
    table: Table = {}
    wrong: list[str] = []
    for file in files:
        text = text_of(file)
        names = kernel_names(text)
        if not names:
            wrong.append(f'{file.name} has no kernel, which would be extern "C" __global__ void name(...)')
        failed: dict[str, list[str]] = {}  # what the compiler says -> on which architectures
        for architecture in wanted if names else ():
            try:
                found = launch.resources_of(str(file), text, architecture, (), names)
            except CompileError as error:
                failed.setdefault(str(error).replace(f"sm_{architecture}", "sm_..."), []).append(architecture)
                continue
            for kernel, r in found.items():
                table.setdefault(f"{file.name}: {kernel}", {})[architecture] = r
        wrong += [f"sm_{', sm_'.join(on)}: {said}" for said, on in failed.items()]
    return table, wrong


def _faults(name: str, where: str, kernel: str, r: Resources) -> list[str]:
    if not (r.local_bytes or r.spill_bytes) or (name, kernel) in EXCEPTIONS:
        return []
    return [f"{where}: {r.local_bytes} bytes of local memory, {r.spill_bytes} bytes of spills, and no reason is stated"]


def differences(found: Table, table: Table, wanted: Iterable[str]) -> list[str]:
    """Where ``found`` differs from ``table`` on the ``wanted`` architectures; one line for a new kernel."""
    said = []
    for kernel in sorted(found.keys() | table.keys()):
        if kernel not in table:
            said.append(f"{kernel}: not in the table")
            continue
        for architecture in wanted:
            new, old = found.get(kernel, {}).get(architecture), table.get(kernel, {}).get(architecture)
            if new == old:
                continue
            where = f"{kernel} on sm_{architecture}"
            if old is None or new is None:
                said.append(f"{where}: {'not in the table' if old is None else 'only in the table'}")
            else:
                said.append(f"{where}: {_words(new)}, the table says {_words(old)}")
    return said


def _words(r: Resources) -> str:
    extra = f", {r.local_bytes} bytes local, {r.spill_bytes} bytes spilled" if r.local_bytes or r.spill_bytes else ""
    return f"{r.registers} registers, {r.shared_bytes} bytes shared{extra}"


def read(file: Path) -> tuple[str, Table]:
    """(version of NVRTC, table) of a file; ("none", {}) if there is none."""
    if not file.exists():
        return "none", {}
    content = json.loads(file.read_text(encoding="utf-8"))
    kernels = content["kernels"]
    return content["nvrtc"], {k: {a: Resources(*r) for a, r in row.items()} for k, row in kernels.items()}


def write(file: Path, version: str, table: Table) -> None:
    """One line per kernel, so that a changed kernel is one line of a diff."""
    rows = [
        f"  {json.dumps(kernel)}: {json.dumps({a: list(astuple(r)) for a, r in row.items()})}"
        for kernel, row in sorted(table.items())
    ]
    legend = '"each": "[registers of a thread, shared bytes of a block, local bytes, spilled bytes] by architecture"'
    text = f'{{\n "nvrtc": {json.dumps(version)},\n {legend},\n "kernels": {{\n' + ",\n".join(rows) + "\n }\n}\n"
    file.write_text(text, encoding="utf-8")


def show(table: Table, wanted: Sequence[str]) -> str:
    """The table as text: a file's kernels under its name, registers by architecture, then shared memory."""
    lines = [f"{'registers of a thread on sm_':42}" + "".join(f"{a:>5}" for a in wanted) + "   shared bytes"]
    for title, rows in itertools.groupby(sorted(table), key=lambda kernel: kernel.partition(": ")[0]):
        lines.append(title)
        for kernel in rows:
            row = table[kernel]
            cells = "".join(f"{row[a].registers:5}" if a in row else f"{'-':>5}" for a in wanted)
            shared = sorted({r.shared_bytes for r in row.values()})
            line = f"  {kernel.partition(': ')[2]:40}{cells}   {' or '.join(map(str, shared))}"
            for a, r in row.items():
                if r.local_bytes or r.spill_bytes:
                    line += f"; sm_{a}: {r.local_bytes} local, {r.spill_bytes} spilled"
            lines.append(line)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.check", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="FILE", help="as attention/3_mma or norm (default all); or mine.cu")
    parser.add_argument("--update", action="store_true", help="write the table instead of comparing with it")
    parser.add_argument(
        "--architecture", nargs="+", metavar="SM", help=f"some of {' '.join(ARCHITECTURES)}; default all"
    )
    given = parser.parse_args(arguments)
    wanted = tuple(given.architecture or ARCHITECTURES)
    if unknown := [a for a in wanted if a not in ARCHITECTURES]:
        parser.error(f"--architecture must be some of {', '.join(ARCHITECTURES)}, got {', '.join(unknown)}")
    if given.update and set(wanted) != set(ARCHITECTURES):
        parser.error("--update writes all architectures of a kernel, so it does not go with --architecture")
    paths = [Path(name).resolve() for name in given.names]
    own = [path for path in paths if path.suffix == ".cu" and path.is_file() and ROOT not in path.parents]
    if own and (given.update or len(own) < len(paths)):
        parser.error("files of your own cannot be combined with --update or with the project's")
    names = [path.relative_to(ROOT).as_posix() if ROOT in path.parents else n for n, path in zip(given.names, paths)]
    try:
        files = {} if own else choose(sources(), names)
    except ValueError as error:
        parser.error(str(error))
    try:
        version = launch.nvrtc_version()
    except NoCuda as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    hint = ""
    found, wrong = measure_own(own, wanted) if own else measure(files, wanted)
    print(show(found, wanted))
    compiled = sum(map(len, found.values()))
    print(f"{len(found)} kernels, {compiled} binaries of them by NVRTC {version}")
    if own:
        print("\n".join([*(f"WRONG {line}" for line in wrong), f"wrong: {len(wrong)}"]))
        return 1 if wrong else 0
    of, whole = read(TABLE)
    table = {kernel: row for kernel, row in whole.items() if kernel.startswith(tuple(names) or "")}
    others = {kernel: row for kernel, row in whole.items() if kernel not in table}
    if given.update:
        if others and of != version:
            wrong.append(f"the table is that of NVRTC {of}, and {version} is here: update the whole of it")
        if wrong:
            print("not updated, because of what follows")
        else:
            write(TABLE, version, others | found)
            print(f"written to {TABLE.relative_to(ROOT.parent)}")
    elif of == version:
        wrong += differences(found, table, wanted)
        if found.keys() - table.keys():
            hint = f"{' '.join(['python -m kernels.check', *names, '--update'])} adds new kernels to the table"
    else:
        print(f"registers were not compared: the table is that of NVRTC {of}")
    for line in wrong:
        print(f"WRONG {line}")
    print(f"wrong: {len(wrong)}" if wrong else "nothing spills, nothing is wrong")
    if hint:
        print(hint)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(command.run(main, "kernels.check"))
