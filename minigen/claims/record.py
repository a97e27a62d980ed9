"""What the experiments found, on disk: claims that are done are not run again, and a stopped ledger can go on.

    out/claims/results.json     {"code": ..., "results": {claim: {seed: {label: number}}}}
    out/claims/runs/...         the trained systems, shared by the claims

Results belong to the code that made them: all of it (every Python file of the three packages) goes into a checksum, and
results of other code are not used.
"""

import functools
import json
import math
import zlib
from pathlib import Path
from typing import Any

import autograd
import kernels
import minigen
from minigen.train.checkpoint import write_atomically

FILE = "results.json"


@functools.cache
def code_checksum() -> str:
    """A checksum over every Python file of kernels, autograd and minigen, with their names, as they were at the first call."""
    value = 0
    for package in (kernels, autograd, minigen):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            value = zlib.crc32(path.read_bytes(), zlib.crc32(path.relative_to(root.parent).as_posix().encode(), value))
    return f"{value:08x}"


class Record:
    """The groups of every claim and seed found so far, in one file that is rewritten whole after each experiment."""

    def __init__(self, folder: Path):
        self.path, self.code = folder / FILE, code_checksum()
        self.stale = False  # whether results of other code were ignored
        self.results = self._on_disk()

    def _on_disk(self) -> dict[str, dict[str, dict[str, float]]]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if isinstance(found, dict) and found.get("code") == self.code and _sound(found.get("results")):
            return {
                claim: {s: g for s, g in seeds.items() if all(map(math.isfinite, g.values()))}
                for claim, seeds in found["results"].items()
            }
        self.stale = True
        return {}

    def get(self, claim: str, seed: int) -> dict[str, float] | None:
        """The groups of one experiment, or None if it has not been run."""
        return self.results.get(claim, {}).get(str(seed))

    def put(self, claim: str, seed: int, groups: dict[str, float]) -> None:
        """Keep the groups of one experiment; on disk when this returns, beside what another process has put there since."""
        for name, seeds in self._on_disk().items():
            self.results[name] = seeds | self.results.get(name, {})
        self.results.setdefault(claim, {})[str(seed)] = groups
        text = json.dumps({"code": self.code, "results": self.results}, indent=1)
        write_atomically(self.path, text.encode())


def _sound(results: Any) -> bool:
    """Whether a file holds what `put` writes."""
    return isinstance(results, dict) and all(
        isinstance(seeds, dict)
        and all(isinstance(g, dict) and all(isinstance(v, int | float) for v in g.values()) for g in seeds.values())
        for seeds in results.values()
    )
