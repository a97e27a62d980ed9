"""Changes the CUDA kernels at random, in one place at a time, and tells which changes no test notices: how far tests see.

    python tests/support/mutate_kernels.py --each 4 --jobs 2                   # all ladders: a quarter of an hour
    python tests/support/mutate_kernels.py --each 20 conv2d/2_tiled.cu

A change takes an operator for another, a number that is one too large or too small, the opposite of a condition, or
leaves a statement out. It is made in a copy of the repository, where the tests that compile the file run until one
fails; which these are, a first run of all tests has told. What lives is a hole in the tests, or no mistake: an array
larger than it must be, a step that multiplies zeros. What does not compile does not count.
"""

import argparse
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "venv", "out", "__pycache__", ".*_cache", ".hypothesis")
NOT_OURS = ("lib/ptx.cuh", "lib/ptx90.cuh", "lib/cuda.cuh")  # have a body of their own for the emulator
OTHER_CHECKS = ("test_check.py", "test_gpu.py", "test_occupancy.py", "compiles")  # which no change of values concerns
OPPOSITES = [("+", "-"), ("*", "/"), ("<", "<="), (">", ">="), ("==", "!="), ("&&", "||"), ("&", "|"), ("<<", ">>"),
             ("+=", "-="), ("*=", "/="), ("|=", "&="), ("min", "max"), ("true", "false")]  # fmt: skip
OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])} | {"%": "/", "^": "&"}
NO_CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|^[ \t]*#(?:[^\n\\]|\\\n|\\.)*'
    r"|static_assert\s*\([^;]*;|__launch_bounds__\s*\([^)]*\)",
    re.DOTALL | re.MULTILINE,
)
OPERATOR = re.compile(r"(?<=[\w)\]}] )(?:[-+*|]=|<<|>>|[<>=!]=|&&|\|\||[-+*/%<>&|^])(?= [\w(\-!~&{*])")
WORD = re.compile(r"\b(?:min|max)(?=\()|\b(?:true|false)\b")
NUMBER = re.compile(r"(?<![\w.])(\d+)((?:u|ll|ull|LL)?)(?![\w.])")
CONDITION = re.compile(r"\bif (\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))")
STATEMENT = re.compile(
    r"^[ \t]*((?!return\b)[A-Za-z_][\w:.]*(?:<[\w, ]*>)?(?:\[[^\n]*?\]|\.\w+)*(?:\([^\n]*\)| [-+*|&^]?= [^\n]*);)[ \t]*$",
    re.MULTILINE,
)
FINDING = re.compile(r"^E +kernels\.emulator\.EmulatorError: [^ ]+: ([a-z -]+): ", re.MULTILINE)


class Change(NamedTuple):
    """The text from ``begin`` to ``end`` becomes ``new``."""

    begin: int
    end: int
    new: str


Job = tuple[str, str, Change]  # of a file: its name below kernels/, its text


def changes(text: str) -> Iterator[Change]:
    """All changes of a source text, those of its code alone."""
    code = NO_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
    for m in [*OPERATOR.finditer(code), *WORD.finditer(code)]:
        yield Change(*m.span(), OPPOSITE[m[0]])
    for m in NUMBER.finditer(code):
        yield Change(*m.span(), f"{int(m[1]) + 1}{m[2]}")
        if int(m[1]):
            yield Change(*m.span(), f"{int(m[1]) - 1}{m[2]}")
    for m in CONDITION.finditer(code):
        yield Change(*m.span(1), f"(!{m[1]})")
    for m in STATEMENT.finditer(code):
        yield Change(*m.span(1), ";")


class Recorder:
    """A plugin of pytest that notes which files below kernels/ each test compiles for the emulator, and how long it takes."""

    def __init__(self) -> None:
        self.files: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}
        self.test = ""

    def pytest_configure(self) -> None:
        import kernels.emulator
        from kernels.source import ROOT as FOLDER
        from kernels.source import headers_of

        build = kernels.emulator.build

        def noted(source: Path, *more: object) -> object:
            if source.is_relative_to(FOLDER):
                text = source.read_text(encoding="utf-8")
                self.files.setdefault(self.test, set()).update((str(source.relative_to(FOLDER)), *headers_of(text)))
            return build(source, *more)

        kernels.emulator.build = noted
        importlib.import_module("kernels.emulator.build").build = noted

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test, begun = item.nodeid, time.time()
        yield
        self.seconds[self.test] = time.time() - begun


def record(out: Path, which: list[str]) -> int:
    """Runs the tests once; writes [[test, its seconds, its files], ...]."""
    noted = Recorder()
    status = pytest.main(["-q", "-p", "no:cacheprovider", *which], plugins=[noted])
    rows = [(test, noted.seconds[test], sorted(files)) for test, files in noted.files.items() if test in noted.seconds]
    out.write_text(json.dumps(rows), encoding="utf-8")
    return int(status)


def run(copy: Path, arguments: list[str], limit: float | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """A command of Python in a copy of the repository, with these settings more in its environment."""
    settings = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_PROFILE": "ci", **more}
    settings |= {"MINIGEN_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=copy, env=os.environ | settings, capture_output=True, text=True, timeout=limit)


def noticed(copy: Path, tests: list[tuple[str, float]]) -> str:
    """What tells of a change that has been made in the copy: a kind of finding, or another word; "" if nothing does."""
    quick_first = [test for test, _ in sorted(tests, key=lambda t: t[1])]
    arguments = ["-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", *quick_first]
    limit, compiled = 60 + 10 * sum(seconds for _, seconds in tests), str(copy.parent / "compiled")
    try:
        done = run(copy, arguments, limit, MINIGEN_CACHE=compiled)
    except subprocess.TimeoutExpired:
        return "no end"
    if done.returncode == 0:
        return ""
    if "does not compile" in done.stdout:
        return "does not compile"
    found = FINDING.search(done.stdout)
    return found[1] if found else "a failed test"


def ladders() -> list[str]:
    """All files whose values are the emulator's to judge, as they are named below kernels/."""
    every = [f.relative_to(KERNELS) for f in sorted(KERNELS.rglob("*.cu*"))]
    return [f.as_posix() for f in every if f.parts[0] != "emulator" and f.as_posix() not in NOT_OURS]


def drawn(file: str, each: int, seed: int) -> list[Job]:
    """``each`` changes of a file, or all if there are not so many."""
    text = (KERNELS / file).read_text(encoding="utf-8")
    possible = list(changes(text))
    return [(file, text, c) for c in random.Random(f"{seed} {file}").sample(possible, min(each, len(possible)))]


def line_of(text: str, change: Change) -> str:
    begin, end = text.rfind("\n", 0, change.begin) + 1, text.find("\n", change.end)
    before, old, after = text[begin : change.begin], text[change.begin : change.end], text[change.end : end]
    return f"{before.lstrip()}[{old} -> {change.new}]{after}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", help="below kernels/, as conv2d/2_tiled.cu; without: of all ladders")
    parser.add_argument("--each", type=int, default=4, help="changes of each file (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--tests", nargs="+", default=["tests/kernels"], help="what may notice (default tests/kernels)")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.record:
        return record(given.record, given.tests)
    if given.each < 1 or given.jobs < 1:
        parser.error("--each and --jobs must be at least 1")
    files = given.files or ladders()
    if unknown := [f for f in files if not (KERNELS / f).is_file()]:
        parser.error(f"there is no kernels/{unknown[0]}")
    jobs = [job for file in files for job in drawn(file, given.each, given.seed)]

    with tempfile.TemporaryDirectory() as work:
        copies: SimpleQueue[Path] = SimpleQueue()
        for i in range(given.jobs):
            copies.put(shutil.copytree(ROOT, Path(work, f"copy{i}"), ignore=LEFT_OUT))
        compiled = Path(work, "compiled", "kernels")  # see noticed
        compiled.mkdir(parents=True)
        for file in importlib.import_module("kernels.source").cache_directory().iterdir():
            if file.name.startswith(("runtime-", "device-", "last-")):  # of the emulator itself, which is not changed
                (compiled / file.name).symlink_to(file)
        try:
            tests = tests_by_file(Path(work, "copy0"), given.tests)
        except RuntimeError as error:
            parser.exit(2, f"error: {error}\n")

        def try_it(job: Job) -> str:
            file, text, change = job
            copy = copies.get()
            place = copy / "kernels" / file
            place.write_text(text[: change.begin] + change.new + text[change.end :], encoding="utf-8")
            try:
                return noticed(copy, tests[file]) if tests.get(file) else ""
            finally:
                place.write_text(text, encoding="utf-8")
                copies.put(copy)

        by: Counter[str] = Counter()
        with ThreadPoolExecutor(given.jobs) as pool:
            for (file, text, change), what in zip(jobs, pool.map(try_it, jobs)):
                by[what] += 1
                if not what:
                    print(f"{file}:{text.count(chr(10), 0, change.begin) + 1}: {line_of(text, change)}", flush=True)
    count = by.total() - by.pop("does not compile", 0)
    lived = by.pop("", 0)
    kinds = ", ".join(f"{kind} {n}" for kind, n in by.most_common())
    print(f"{count - lived} of {count} changes noticed" + (f": {kinds}" if kinds else ""))
    return 0


def tests_by_file(copy: Path, which: list[str]) -> dict[str, list[tuple[str, float]]]:
    """For each file below kernels/ the tests that compile it, with their seconds. Raises RuntimeError if one fails."""
    out = copy.parent / "record.json"
    done = run(copy, [str(copy / "tests" / "support" / "mutate_kernels.py"), "--record", str(out), "--tests", *which])
    if done.returncode:
        raise RuntimeError(
            f"the tests must pass before anything is changed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    found: dict[str, list[tuple[str, float]]] = {}
    for test, seconds, files in json.loads(out.read_text(encoding="utf-8")):
        if not any(word in test for word in OTHER_CHECKS):
            for file in files:
                found.setdefault(file, []).append((test, seconds))
    return found


if __name__ == "__main__":
    sys.exit(main())
