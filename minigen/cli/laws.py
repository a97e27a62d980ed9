"""`minigen laws`: whether samplers, ours or anybody's, obey their maths."""

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from minigen.cli import arguments
from minigen.errors import UserError, said_in_one_sentence


@dataclasses.dataclass(frozen=True)
class LawFlags:
    """Flags of `minigen laws`."""

    samplers: Positional[tuple[str, ...]] = ()
    """Names of our samplers, such as ddim, or module:Name of yours. All of ours if left out."""
    list: bool = False
    """Only print the laws."""
    law: Annotated[str | None, arg(metavar="NAMES")] = None
    """Laws with commas between: L6,L8. All if left out; with --list, their maths."""
    dtype: Annotated[str | None, arg(metavar="float64|float32")] = None
    """The dtype of the states. Both if left out."""
    json: Path | None = None
    """A file for all verdicts as JSON."""
    all: bool = False
    """Print every verdict, not only the failures."""


def main(args: list[str]) -> int:
    """Try the laws; status 1 if one is broken."""
    from minigen import laws
    from minigen.laws import suite

    flags = arguments.parse(
        LawFlags, args, prog="minigen laws", description="Try whether samplers obey their maths: no trained network."
    )
    names = None if flags.law is None else [name.strip() for name in flags.law.split(",") if name.strip()]
    with said_in_one_sentence("--law"):
        chosen = suite.choose(names)
    if flags.list:
        for law in chosen:
            print(f"{law.name:4} {law.title}")
            if names is not None:
                print(f"\n    {law.maths}\n")
        return 0
    if flags.dtype not in (None, *suite.DTYPES):
        raise UserError(f"--dtype must be float64 or float32, got {flags.dtype!r}")
    samplers = [sampler for name in flags.samplers or ("ours",) for sampler in find(name)]
    dtypes = suite.DTYPES if flags.dtype is None else (flags.dtype,)
    try:
        verdicts = [*laws.run_laws(samplers, names, dtypes)]
    except (TypeError, ValueError) as error:  # what is no sampler at all; the faults of a sampler are verdicts
        raise UserError(" ".join(str(error).split())) from error
    whole = flags.all or len(samplers) == 1
    print(laws.report(verdicts, whole=whole))
    if flags.json is not None:
        with said_in_one_sentence(f"cannot write {flags.json}"):
            flags.json.write_text(laws.as_json(verdicts))
    return int(any(verdict.failed for verdict in verdicts))


def find(name: str) -> list[Any]:
    """The samplers of a name: "ours", one of ours, or module:Name, a sampler or what makes one when it is called."""
    from minigen import laws
    from minigen.samplers.choose import SAMPLERS

    if name == "ours":
        return laws.ours()
    if name in SAMPLERS:
        return laws.ours(name)
    module, colon, inside = name.partition(":")
    if not colon or not module or not inside:
        raise UserError(f"unknown sampler '{name}': use {', '.join(SAMPLERS)}, or module:Name for one of yours")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise UserError(f"cannot import '{module}': {type(error).__name__}: {error}") from error
    for part in inside.split("."):
        if not hasattr(found, part):
            raise UserError(f"'{module}' has no '{inside}'")
        found = getattr(found, part)
    if isinstance(found, type) or not hasattr(found, "sample"):
        if not callable(found):
            raise UserError(f"'{name}' is no sampler: it has no method sample and cannot be called")
        try:
            found = found()
        except Exception as error:
            raise UserError(f"cannot make a sampler of '{name}': {type(error).__name__}: {error}") from error
    return [found]
