"""`minigen laws`: whether samplers, ours or anybody's, obey their maths."""

import ast
import dataclasses
import importlib
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from kernels import command
from minigen.cli import arguments
from minigen.errors import UserError, in_words, said_in_one_sentence

PEERS = ("diffusers", "kdiffusion")
MANY = 1_000_000
ABOUT = """Check whether samplers, and what else has laws, obey their maths: no trained network, seconds per sampler.

'minigen laws shrink SAMPLER' finds the smallest case in which a law is broken."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """What `minigen laws` and `minigen laws shrink` share."""

    samplers: Annotated[Positional[tuple[str, ...]], arg(metavar="[SAMPLER ...]")] = ()
    """Ours (ddim), yours (module:Name), diffusers:DDIMScheduler, kdiffusion:sample_dpmpp_2m; all ours if left out."""
    config: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """A setting of the sampler, as its class takes it; repeat the flag for more."""
    law: Annotated[str | None, arg(metavar="NAMES")] = None
    """Laws, separated by commas: L6,L8. All if left out; with --list, their maths is printed."""
    dtype: Annotated[str | None, arg(metavar="float64|float32")] = None
    """The dtype of the states. Both if left out."""


@dataclasses.dataclass(frozen=True)
class LawFlags(Flags):
    """Flags of `minigen laws`. `minigen laws shrink ...` finds the smallest failing case."""

    list: bool = False
    """Only print the laws."""
    sweep: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUES")] = ()
    """Numbers of steps to try, N=1..100 or N=2,5,10; or a setting's values, timestep_spacing=leading,trailing."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """A file for all verdicts, as JSON."""
    html: Annotated[Path | None, arg(metavar="FILE")] = None
    """A file for the report: one page with tables and pictures."""
    all: bool = False
    """Print every verdict in a line of its own: also those passed, for several samplers too, and those skipped."""


@dataclasses.dataclass(frozen=True)
class ShrinkFlags(Flags):
    """Flags of `minigen laws shrink`."""

    law: Annotated[str | None, arg(metavar="NAMES")] = None
    """Laws, separated by commas: L6,L8. All if left out."""
    sweep: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="N=NUMBERS")] = ()
    """Numbers of steps to try: N=1..100 or N=2,5,10; the sampler's own if left out."""

    samplers: Annotated[Positional[tuple[str, ...]], arg(metavar="SAMPLER")] = ()
    """One of ours, such as ddim; yours, module:Name; diffusers:DDIMScheduler or kdiffusion:sample_dpmpp_2m."""
    script: Annotated[Path | None, arg(metavar="FILE")] = None
    """A file for the script that shows the fault without this project."""
    seconds: float = 60.0
    """CPU seconds to spend on finding a smaller case."""


def main(args: list[str]) -> int:
    """Check the laws; status 1 if one is broken."""
    if args[:1] == ["shrink"]:
        return shrink(args[1:])
    from minigen import laws
    from minigen.laws import suite
    from minigen.laws.protocol import SPACES
    from minigen.laws.shrink import with_steps

    flags = arguments.parse(LawFlags, args, prog="minigen laws", description=ABOUT)
    names, dtypes = _chosen(flags)
    if flags.list:
        for law in suite.choose(names):
            print(f"{law.name:4} {law.title}")
            if names is not None:
                print(f"\n    {law.maths}\n")
        return 0
    for path in (flags.json, flags.html):  # before minutes of work
        check_file(path)
    if flags.json is not None and flags.json == flags.html:
        raise UserError(f"--json and --html must be two files, got {flags.json} for both")
    sweeps = _sweeps(flags.sweep)
    numbers = sweeps.pop("N", None)
    asked = [
        (sampler, name, settings)
        for name in flags.samplers or ("ours",)
        for settings in _settings(flags.config, sweeps)
        for sampler in find(name, settings)
    ]
    samplers = [sampler for sampler, _, _ in asked]
    walks = [sampler for sampler in samplers if sampler.space in SPACES]
    if numbers is not None:
        if not walks:
            raise UserError("--sweep N=... is for samplers that walk levels, and none of these does")
        for sampler in walks:
            with said_in_one_sentence("--sweep"):
                with_steps(sampler, tuple(numbers), tuple(numbers))
    found = []
    try:
        for one in asked:
            for verdict in laws.run_laws([one[0]], names, dtypes):
                found.append((one, verdict))
    finally:  # after Ctrl-C too: what was found before
        verdicts = [verdict for _, verdict in found]
        if verdicts:
            print(laws.report(verdicts, whole=flags.all or len(samplers) == 1, every=flags.all))
    if numbers is not None:
        for text in _where(walks, verdicts, numbers):
            print(text)
    if flags.json is not None:
        with said_in_one_sentence(f"cannot write {flags.json}"):
            flags.json.write_text(laws.as_json(verdicts), encoding="utf-8")
        print(f"written: {flags.json}")
    if flags.html is not None:
        from minigen.cli import laws_page

        with said_in_one_sentence(f"cannot write {flags.html}"):
            flags.html.write_text(laws_page.render(samplers, verdicts), encoding="utf-8")
        print(f"written: {flags.html}")
    if names is not None:
        check_some_were(verdicts)
    broken = [(one, verdict) for one, verdict in found if verdict.failed]
    if broken:
        print(_next(*broken[0], flags))
    return int(bool(broken))


def shrink(args: list[str]) -> int:
    """Print the smallest failing case of a sampler and a script that shows it; status 1 if there is one."""
    from minigen.laws import protocol, scripts, shrink, suite

    flags = arguments.parse(
        ShrinkFlags, args, prog="minigen laws shrink", description="The smallest case in which a law is broken."
    )
    names, dtypes = _chosen(flags)
    if len(flags.samplers) != 1 or flags.samplers[0] == "ours":
        raise UserError("name one sampler to shrink: minigen laws shrink diffusers:DDIMScheduler")
    if not 0 <= flags.seconds < float("inf"):
        raise UserError(f"--seconds must be at least 0 and finite, got {flags.seconds}")
    check_file(flags.script)
    name = flags.samplers[0]
    settings = dict(_setting(text) for text in flags.config)
    space = find(name, settings)[0].space
    if not any(space in law.spaces for law in suite.choose(names)):
        raise UserError(f"nothing was checked: {flags.law} is no law of {space}")
    sweeps = _sweeps(flags.sweep)
    numbers = sweeps.pop("N", [])
    if sweeps:
        raise UserError(
            f"--sweep of shrink must be numbers of steps, N=1..100 or N=2,5,10, got {next(iter(sweeps))}=..."
        )

    def make(**settings: Any) -> Any:
        sampler = find(name, settings)[0]
        return shrink.with_steps(sampler, tuple(numbers), tuple(numbers)) if numbers else sampler

    with said_in_one_sentence(name):
        for dtype in dtypes:
            verdicts = list(suite.run_laws([make(**settings)], names, dtype))
            broken = [(suite.choose(v.law)[0], v) for v in verdicts if v.failed]
            if broken:
                break
        if names is not None:
            check_some_were(verdicts)
        if not broken:
            what = f"none of {', '.join(names)}" if names else "no law that it claims"
            print(f"{name} breaks {what}, with {protocol.short(protocol.steps(make(**settings)))} steps")
            return 0

        case = shrink.smallest_of(make, settings, broken, dtype=dtype, seconds=flags.seconds)
    law = suite.choose(case.law)[0]
    measured = (
        "" if case.verdict.value is None else f": {case.verdict.value:.3g} where {case.verdict.limit:.3g} is allowed"
    )
    said = ", ".join(f"{key}={value}" for key, value in case.settings.items()) or "no setting"
    steps = "with" if law.name in shrink.OF_MANY else f"smallest: {suite.steps(case.n)},"
    print(f"{law.name}, {law.title}, {dtype}\n{steps} {said} ({case.tried} tried)\n{case.verdict.detail}{measured}")
    others = [other.name for other, _ in broken if other.name != law.name]
    if others:
        one = "1 other law is" if len(others) == 1 else f"{len(others)} other laws are"
        print(f"{one} broken too, in no smaller case: {', '.join(others)} (--law {others[0]} shows its own)")
    print()
    text = scripts.script(case, named=name)
    if text is None:
        print("no script: a script without this project does not show this")
    else:
        print(text, end="")
        if flags.script is not None:
            with said_in_one_sentence(f"cannot write {flags.script}"):
                flags.script.write_text(text, encoding="utf-8")
    return 1


def check_some_were(verdicts: Any) -> None:
    """Raise UserError where all laws were skipped."""
    if all(verdict.status == "skip" for verdict in verdicts):
        why = "; ".join(sorted({f"{verdict.law} ({verdict.detail})" for verdict in verdicts}))
        raise UserError(f"nothing was checked: {why}")


def check_file(path: Path | None) -> None:
    """Make the folder of a file; UserError for a file that cannot be written where it is to be."""
    if path is None:
        return
    with said_in_one_sentence(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    if why := command.unwritable(path):
        raise UserError(f"cannot write {path}: {why}")


def _chosen(flags: Flags) -> tuple[list[str] | None, tuple[str, ...]]:
    from minigen.laws import suite

    names = None if flags.law is None else [name.strip() for name in flags.law.split(",") if name.strip()]
    if names == []:
        raise UserError("--law names no law: leave it out for all, or name some, as in L6,L8")
    with said_in_one_sentence("--law"):
        suite.choose(names)
    if flags.dtype not in (None, *suite.DTYPES):
        raise UserError(f"--dtype must be float64 or float32, got {flags.dtype!r}")
    return names, suite.DTYPES if flags.dtype is None else (flags.dtype,)


def _value(text: str) -> Any:
    """A value as Python writes it, or as JSON or people do: true, none, a word."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # {[]: 1}; a thousand brackets
        return text


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UserError(f"--config must be KEY=VALUE, such as timestep_spacing=trailing, got '{text}'")
    return key, _value(value)


def _sweep(text: str) -> tuple[str, list[Any]]:
    key, _, values = text.partition("=")
    span = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", values)
    if span:
        first, last = int(span[1]), int(span[2])
        found = [*range(first, min(last, first + MANY) + 1)]  # one more than MANY is refused as any more are
    else:
        found = [_value(v) for v in values.split(",") if v]
    sound = key.isidentifier() and found and len(found) <= MANY
    if not sound or (key == "N" and not all(type(n) is int and n > 0 for n in found)):
        raise UserError(f"--sweep must be N=1..100, N=2,5,10 or a setting's values with commas between, got '{text}'")
    return key, found


def _sweeps(texts: tuple[str, ...]) -> dict[str, list[Any]]:
    """The values of each setting that is swept over, in the order given."""
    sweeps: dict[str, list[Any]] = {}
    for key, values in map(_sweep, texts):
        sweeps[key] = [*dict.fromkeys([*sweeps.get(key, []), *values])]
    return sweeps


def _settings(config: tuple[str, ...], sweeps: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The settings of every sampler: those that are given, with each combination of those that are swept over."""
    fixed = dict(_setting(text) for text in config)
    return [{**fixed, **dict(zip(sweeps, values))} for values in itertools.product(*sweeps.values())]


def _where(samplers: list[Any], verdicts: Any, numbers: list[int]) -> list[str]:
    """For each broken law, all numbers of steps that break it."""
    from minigen.laws import protocol, shrink, suite

    lines = []
    for sampler in samplers:
        broken = {v.law: v for v in verdicts if v.failed and v.sampler == protocol.name(sampler)}
        for name, verdict in broken.items():
            found = shrink.failing(lambda sampler=sampler: sampler, {}, suite.choose([name])[0], numbers, verdict.dtype)
            said = ", ".join(map(str, found[:12])) + (", ..." if len(found) > 12 else "")
            steps = "step" if found == [1] else "steps"
            lines.append(f"{verdict.sampler}: {name} fails with {said} {steps}, {len(found)} of {len(numbers)}")
        shrink.with_steps(sampler, tuple(numbers), tuple(numbers))
    return lines


def _next(one: tuple[Any, str, dict[str, Any]], broken: Any, flags: LawFlags) -> str:
    """What to do about a broken law: where its maths is and, for a sampler that can be shrunk, the smallest case."""
    from minigen.laws import protocol

    law = f"`minigen laws --list --law {broken.law}` says what {broken.law} is"
    sampler, name, settings = one
    if ":" not in name or sampler.space not in protocol.SPACES:
        return f"next: {law}"
    words = ["minigen", "laws", "shrink", name]
    for key, value in settings.items():
        words += ["--config", f"{key}={value}"]
    words += ["--law", broken.law] if flags.law else []
    for text in flags.sweep:
        words += ["--sweep", text] if text.startswith("N=") else []
    words += ["--dtype", broken.dtype] if flags.dtype else []
    return f"next: `{shlex.join(words)}` finds the smallest case, {law}"


def find(name: str, settings: dict[str, Any] | None = None) -> list[Any]:
    """The samplers of a name: "ours", one of ours, a peer's, or module:Name, a sampler or what makes one when called.

    Raises UserError, with the reason, for a name that gives none.
    """
    from minigen import laws
    from minigen.laws import protocol
    from minigen.samplers.choose import SAMPLERS

    settings = settings or {}
    if name == "ours" or name in SAMPLERS:
        if settings:
            raise UserError(f"{next(iter(settings))!r} is no setting here: our samplers are tried with all of theirs")
        return laws.everything() if name == "ours" else laws.ours(name)
    if name in laws.FORMS:
        if settings:
            raise UserError(f"{next(iter(settings))!r} is no setting here: our implementations of {name} have none")
        return [subject for subject in laws.everything() if subject.space == name]
    module, colon, inside = name.partition(":")
    if not colon or not module or not inside:
        here = name.removesuffix(".py")
        if Path(f"{here}.py").is_file():
            raise UserError(
                f"'{name}' is a file: name a sampler in it, {here.removeprefix('./').replace('/', '.')}:Name"
            )
        raise UserError(
            f"unknown sampler '{name}': use {', '.join(SAMPLERS)}, module:Name for one of yours, "
            f"diffusers:DDIMScheduler or kdiffusion:sample_euler; or what else has laws: {', '.join(laws.FORMS)}"
        )
    if module in PEERS:
        return [_peer(module, inside, settings)]
    if module.startswith(".") and not module.endswith(".py"):
        raise UserError(
            f"'{module}' must be a module, as in an import: {module.removeprefix('./').replace('/', '.')}:{inside}"
        )
    file, hint = Path(module.removesuffix(".py")), ""
    if module.endswith(".py"):
        elsewhere = file.is_absolute() or ".." in file.parts
        where, dotted = ("in its folder, ", file.name) if elsewhere else ("", ".".join(file.parts))
        hint = f" ({where}without .py: {dotted}:{inside})"
    with _stopping(f"cannot import '{module}'", hint):
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        found = importlib.import_module(module)
    with _stopping(f"cannot find '{inside}' in '{module}'"):
        for part in inside.split("."):
            if not hasattr(found, part):
                raise UserError(f"'{module}' has no '{inside}'")
            found = getattr(found, part)
        ready = not isinstance(found, type) and (hasattr(found, "sample") or hasattr(found, "space"))
    if ready and settings:
        raise UserError(f"'{name}' is a sampler already, so {next(iter(settings))!r} cannot be set")
    if not ready:
        if not callable(found):
            raise UserError(f"'{name}' is no sampler: it has neither a method sample nor a space, and cannot be called")
        with _stopping(f"cannot make a sampler of '{name}'"):
            found = found(**settings)
            _name(found, settings)
    try:
        protocol.check(found)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from error
    return [found]


@contextmanager
def _stopping(doing: str, hint: str = "") -> Iterator[None]:
    """Any exception in a user's file as a UserError of one sentence."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{doing}: {in_words(error)}{hint}") from error


def _name(found: Any, settings: dict[str, Any]) -> None:
    """Let reports tell a user's samplers apart by their settings, unless each has a name of its own."""
    if settings and not getattr(found, "__dict__", {}).get("name"):
        said = ", ".join(f"{key}={value}" for key, value in settings.items())
        with suppress(AttributeError, TypeError):  # a name that cannot be set
            object.__setattr__(found, "name", f"{getattr(found, 'name', '') or type(found).__name__} ({said})")


def _peer(module: str, inside: str, settings: dict[str, Any]) -> Any:
    with said_in_one_sentence(inside):
        if module == "kdiffusion":
            from minigen.laws.adapters_kdiffusion import KDiffusion

            return KDiffusion(inside, **settings)
        from minigen.laws.adapters_diffusers import Diffusers

        return Diffusers(inside, **settings)
