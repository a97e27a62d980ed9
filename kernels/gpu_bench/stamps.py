"""Is a measured time one of the current code?

With every time of a rung is kept a stamp of what was launched for it: a digest of the sources, and one of the machine
code with the compiler that made it. The time is of the current code if the sources are the same, or if the same
compiler makes the same machine code from both and the launches are the same; so code may be moved and renamed, and the
time stays. ``python -m kernels.bench --tables`` checks this, writes the new digest where nothing has changed, and marks
the other times in the tables. `measure` makes the stamps, `pages` reads them.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .. import launch
from ..source import parts_of, without_comments
from .problem import Launch, Problem, rehearse

Stamp = dict[str, str]


def stamp(problem: Problem, rung: int, architecture: str) -> Stamp:
    """The stamp of what a rung launches for a problem. Raises as ``rehearse`` and ``compile_for`` do."""
    launches = rehearse(problem, rung, architecture)
    return {"sources": sources(launches), "nvrtc": launch.nvrtc_version(), "machine": machine(launches, architecture)}


def sources(launches: Iterable[Launch]) -> str:
    """A digest of kernels, grids, settings and the texts behind them, apart from comments and line breaks."""
    parts: list[Any] = []
    for at in launches:
        texts = parts_of(at.source.read_text(encoding="utf-8"))
        words = [" ".join(without_comments(text).split()) for text in texts]
        parts += [at.kernel, _shape(at), *sorted(at.defines.items()), *words]
    return _digest(repr(part).encode() for part in parts)


def machine(launches: Iterable[Launch], architecture: str) -> str:
    """A digest of grids and of the kernels' machine code."""
    parts: list[bytes] = []
    for at in launches:
        code = launch.compile_for(at.source, architecture, at.defines).code
        parts += [repr(_shape(at)).encode(), *(text for name, text in sections(code) if name == f".text.{at.kernel}")]
    return _digest(parts)


def is_here(contestant: Mapping[str, Any], problem: Problem | None, architecture: str) -> bool:
    """Whether what a contestant was measured with is what its problem launches now, judged by the sources."""
    if problem is None or "code" not in contestant:
        return False
    try:
        return contestant["code"]["sources"] == sources(rehearse(problem, _rung(contestant), architecture))
    except (ValueError, launch.NoCuda):  # it launches nothing any more
        return False


def brought_up(runs: Sequence[Mapping[str, Any]], problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """The runs with new stamps on the times whose sources or compiler have changed and whose machine code has not.

    Raises NoCuda without a compiler.
    """
    known = {(p.op, p.name, p.dtype): p for p in problems}

    def contestant(c: Mapping[str, Any], problem: Problem | None, architecture: str) -> dict[str, Any]:
        if "code" not in c or problem is None:
            return dict(c)
        before, here = c["code"], is_here(c, problem, architecture)
        if here and before["nvrtc"] == launch.nvrtc_version():
            return dict(c)
        try:
            now = stamp(problem, _rung(c), architecture)
        except (ValueError, launch.CompileError):
            return dict(c)
        same = all(now[part] == before[part] for part in ("nvrtc", "machine"))
        return {**c, "code": now} if here or same else dict(c)

    def row(r: Mapping[str, Any], architecture: str) -> dict[str, Any]:
        problem = known.get((r["op"], r["problem"], r["dtype"]))
        return {**r, "contestants": [contestant(c, problem, architecture) for c in r["contestants"]]}

    return [{**run, "rows": [row(r, run["conditions"]["architecture"]) for r in run["rows"]]} for run in runs]


def sections(code: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the sections of a 64-bit ELF file, which a compiled kernel is."""
    (headers,) = struct.unpack_from("<Q", code, 40)
    size, count, names = struct.unpack_from("<HHH", code, 58)
    table = [struct.unpack_from("<I20xQQ", code, headers + i * size) for i in range(count)]  # name, place, length
    start = table[names][1]
    for name, place, length in table:
        at = start + name
        yield code[at : code.index(b"\0", at)].decode(), code[place : place + length]


def _rung(contestant: Mapping[str, Any]) -> int:
    return int(contestant["name"].removeprefix("rung "))


def _shape(at: Launch) -> tuple[Any, ...]:
    return at.grid, at.threads, at.shared_bytes


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()[:16]
