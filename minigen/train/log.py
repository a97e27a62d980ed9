"""The record of a run: one JSON object per line, one line per step.

    {"step": 12, "stage": "denoise", "seconds": 0.41, "lr": 0.00024, "eps.loss": 0.91, "eps.norm": 1.7}

An objective's figures are prefixed with its name. Lines are added in the order of the steps and never changed, so a
reader may follow the file while it grows; a resumed run first cuts it back to the step of its checkpoint.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from minigen.errors import UserError, os_reason

FLUSH_SECONDS = 1.0


class Log:
    """A growing log file. ``keep_until`` is the step up to which lines of an earlier part of the run are kept."""

    def __init__(self, path: Path, *, keep_until: int = 0):
        self.path = path
        self.waiting: list[bytes] = []
        try:
            self.file = path.open("ab", buffering=0)
            self.file.truncate(_end_of_step(path, keep_until))
        except OSError as error:
            raise UserError(f"cannot write {path}: {os_reason(error, path)}") from error
        self.flushed = time.monotonic()

    def write(self, record: dict[str, Any]) -> None:
        """Add one line; it reaches the file within about a second of further lines, or at `flush`."""
        tidy = {name: _tidy(value) for name, value in record.items()}
        self.waiting.append(json.dumps(tidy).encode() + b"\n")
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand all lines to the operating system; they then survive the end of this process, however it comes."""
        data, self.waiting = b"".join(self.waiting), []
        self.flushed = time.monotonic()
        try:
            while data:
                data = data[os.write(self.file.fileno(), data) :]
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {os_reason(error, self.path)}; put that right and go on with --resume"
            ) from error

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            self.file.close()


def _tidy(value: Any) -> Any:
    """Numbers to seven significant digits; JSON has no NaN and no infinity, so they become null."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    value = float(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _lines(path: Path) -> list[tuple[dict[str, Any], int]]:
    """Every whole line with the offset of its end. The first line that is not whole ends the file."""
    found, end = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            break
        end += len(line)
        found.append((record, end))
    return found


def _end_of_step(path: Path, step: int) -> int:
    return max((end for record, end in _lines(path) if record["step"] <= step), default=0)


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; a torn last line is left out. An absent file is an empty log."""
    return [record for record, _ in _lines(path)] if path.is_file() else []


def curves(records: list[dict[str, Any]], suffix: str = ".loss") -> dict[str, tuple[list[int], list[float]]]:
    """Per objective the steps and the losses (or another figure), ready to be drawn."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        for name, value in record.items():
            if name.endswith(suffix) and value is not None:
                steps, values = found.setdefault(name.removesuffix(suffix), ([], []))
                steps.append(record["step"])
                values.append(value)
    return found
