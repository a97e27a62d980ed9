"""What the commands share: flags from dataclasses, a system from its name, weights from a file."""

import contextlib
import dataclasses
import inspect
import io
import os
import re
import shutil
import sys
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import numpy as np

from kernels.backend import array_module, module_for
from minigen.cli import curriculum
from minigen.errors import UserError, said_in_one_sentence

T = TypeVar("T")
GUIDED: dict[str, dict[str, Any]] = {  # scale of guidance -> what acts only through it, and its value without effect
    "guidance": {"negative": ""},
    "scale": {"away_from": None, "rescale": 0.0},
}
NARROWEST = 20  # columns: in fewer than 6 tyro never finishes a help text, and uses up all memory


def no_arguments(command: str, args: list[str], usage: str) -> bool:
    """Whether help was asked for (and printed). Raises UserError for any other argument."""
    if args in (["-h"], ["--help"]):
        print(usage)
        return True
    if args:
        raise UserError(f"'minigen {command}' takes no arguments, got {' '.join(args)}")
    return False


def parse(
    flags: type[T], args: list[str], *, prog: str, description: str, default: T | None = None, pairs: bool = False
) -> T:
    """The flags that a dataclass describes (the strings below its fields are the help).

    A boolean x is a flag --x, or --no-x if its default is True; with ``pairs`` there are both.

    Raises UserError for flags that are unknown or have a wrong value; help prints and leaves with status 0.
    """
    import tyro

    check_names(flags, prog)
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    given: dict[str, Any] = {} if default is None else {"default": default}
    marks: tuple[Any, ...] = (tyro.conf.OmitArgPrefixes, *(() if pairs else (tyro.conf.FlagCreatePairsOff,)))
    rules = tyro.constructors.ConstructorRegistry()
    rules.primitive_rule(left_out_or)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), rules:
            return tyro.cli(flags, args=args, prog=prog, description=description, config=marks, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{first_sentence(said.getvalue())} ('{prog} --help' explains the flags)") from None


def check_names(flags: Any, prog: str) -> None:
    """Raise UserError if two dataclasses that make up ``flags``, a model's and ours, have a field of the same name."""
    seen = set()
    for part in dataclasses.fields(flags):
        kind = get_args(part.type)[0] if get_origin(part.type) is Annotated else part.type
        for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
            if field.name in seen:
                raise UserError(f"'{prog}' would have two flags --{field.name.replace('_', '-')}: rename the model's")
            seen.add(field.name)


def left_out_or(flag: Any) -> Any:
    """tyro's rule for a flag ``int | None``, and the like: the help calls it INT; it is None if left out."""
    from tyro.constructors import PrimitiveConstructorSpec

    kinds = set(get_args(flag.type))
    kind = next(iter(kinds - {NoneType}), None)
    if NoneType not in kinds or len(kinds) != 2 or kind not in (int, float, str):
        return None

    def read(words: list[str]) -> Any:
        try:
            return None if words == ["None"] else kind(*words)
        except ValueError:
            raise ValueError(f"it takes {kind.__name__.upper()}, got {words[0]}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, kind | None),
        str_from_instance=lambda value: [str(value)],
    )


def first_sentence(box: str) -> str:
    """The mistake, in a box that tyro draws with lines or with dashes, and the flag that tyro suggests."""
    plain = re.sub("\x1b\\[[0-9;]*m", "", box)
    rows = [row for line in plain.splitlines() if not line.startswith(("╭", "╰")) and (row := line.strip(" │"))]
    rules = [i for i, row in enumerate(rows) if not row.strip("-─")]
    if rules[:1] == [1] and rows[1].startswith("-"):  # drawn with dashes: the title is a row of its own
        rows, rules = rows[2:], [i - 2 for i in rules[1:]]
    sentence = " ".join(rows[: rules[0]] if rules else rows).rstrip(".").removeprefix("Error parsing config: ")
    # for a flag that may be left out, tyro also says what it tried, with the names of Python's types
    sentence = re.sub(
        r"no type matching \{None\}\|\{?([^}]*?)\}? could be instantiated from \[(.*?)\]\. Got errors.*",
        r"it takes \1, got \2",
        sentence,
    )
    if "Perhaps you meant:" in rows[:-1]:
        sentence += f": did you mean '{rows[rows.index('Perhaps you meant:') + 1].split()[0]}'?"
    return sentence


def system_name(command: str, args: list[str], usage: str) -> tuple[str, list[str]]:
    """The first argument and the rest; prints ``usage`` and leaves if help is asked for without a system."""
    if args and args[0] in ("-h", "--help"):
        print(usage)
        sys.exit(0)
    if not args or args[0].startswith("-"):
        raise UserError(f"name a system: minigen {command} SYSTEM ('minigen list' shows them)")
    return args[0], args[1:]


def check_at_least(lowest: int, **values: int | None) -> None:
    """Raise UserError for a flag below ``lowest``; None passes."""
    for name, value in values.items():
        if value is not None and value < lowest:
            raise UserError(f"--{name.replace('_', '-')} must be at least {lowest}, got {value}")


def check_device(device: str) -> Any:
    """NumPy or CuPy for ``--device``; UserError, with the reason, where there is no GPU that can run the kernels."""
    with said_in_one_sentence("--device"):
        xp = module_for(device)
    if xp is not np:
        from kernels import launch

        try:
            launch.nvrtc()
            launch.Device()
        except launch.NoCuda as error:
            raise UserError(str(error)) from error
    return xp


def default_weights(entry: curriculum.Entry) -> Path:
    """Where 'minigen train' writes a system's weights by default."""
    return Path("out") / entry.name / "weights.safetensors"


def check_trained(entry: curriculum.Entry, weights: Path) -> None:
    """Raise UserError, which says how to train them, if the default ``weights`` are missing; also for a folder."""
    if weights.is_dir():
        raise UserError(f"--weights must be a file, '{weights}' is a folder")
    if weights == default_weights(entry) and not weights.exists():
        raise UserError(
            f"there are no weights in {weights}: train them with 'minigen train {entry.name}', or give --weights"
        )


def load_data(name: str, data_dir: str | None = None, size: int | None = None) -> Any:
    """A data set; UserError for an unknown name, a missing or wrong directory, a missing extra."""
    from minigen import data

    with said_in_one_sentence(f"cannot read the data set '{name}'"):
        return data.load(name, data_dir=data_dir, size=size)


def load_data_of(about: Any, data_dir: str | None = None) -> Any:
    """The data set, with its items, that weights were trained on; ``about`` is what `load_weights` returned of it.

    Besides the errors of `load_data`, UserError if what is found has another shape, other levels or classes or, if the
    weights file holds it, another checksum of the training split.
    """
    from minigen.data.registry import SETS
    from minigen.train.run import data_checksum

    takes = SETS[about.name][1] if about.name in SETS else ()
    dataset = load_data(about.name, data_dir, about.shape[0] if "size" in takes else None)
    found = {"shape": dataset.shape, "levels": dataset.levels, "classes": dataset.classes}
    if about.checksum is not None:
        found["checksum"] = data_checksum(dataset.train)
    for name, now in found.items():
        if now != getattr(about, name):
            where = ": --data-dir must lead to theirs" if "data_dir" in takes else ""
            raise UserError(
                f"the data set '{about.name}' is not the one that the weights were trained on, its {name} is {now} "
                f"and not {getattr(about, name)}{where}"
            )
    return dataset


def build(model: Any, config: Any, dataset: Any, *, seed: int, device: str = "cpu") -> Any:
    """The system of a model file, on the device. UserError for settings that do not fit, and for what is no system."""
    xp = check_device(device)
    with said_in_one_sentence("cannot build the model"):
        system = model.build(config, dataset, seed=seed)
    check_system(model, system)
    if xp is not np:
        for module in system.modules.values():
            module.to(xp)
    return system


def check_system(model: Any, system: Any) -> None:
    """Raise UserError if what a model's ``build`` returned is no system, or lacks what the model file promises."""
    from minigen.models.system import System

    if not isinstance(system, System):
        raise UserError(f"build must return a System (minigen/models/system.py), got {type(system).__name__}")
    unsaid = [name for name in system.pictures if name not in getattr(model, "PICTURES", {})]
    if unsaid:
        raise UserError(f"PICTURES must say what the system's picture '{unsaid[0]}' shows")
    own = [field.name for field in dataclasses.fields(model.Sampling)] if hasattr(model, "Sampling") else []
    try:
        inspect.signature(system.sample).bind(1, **dict.fromkeys(["rng", "steps", "callback", *own]))
    except TypeError as error:
        fields = f" and the fields of Sampling, {', '.join(own)}" if own else ""
        raise UserError(f"sample must take n, and by name rng, steps, callback{fields}: {error}") from error


def load_weights(path: Path, entry: curriculum.Entry, *, device: str = "cpu", model: Any = None) -> tuple[Any, Any]:
    """(system, data set without items) of a weights file. Nothing of the file is used before all of it is checked.

    ``model`` is the model file if that is not the entry's module.
    """
    from minigen.data import Dataset, Split
    from minigen.train import checkpoint
    from minigen.train.loop import put_weights, weights_of

    if model is None:
        model = curriculum.load(entry)
    else:
        curriculum.check(model, entry.file)
    with checkpoint.opened(path, kind="weights", system=entry.name) as reader:
        config = checkpoint.config_from_json(path, model.Config, reader.about.get("config"))
        about = checked_dataset(path, reader.about.get("dataset"))
        levels = about["levels"]
        dtype = np.float32 if levels is None else np.uint8 if levels <= 256 else np.uint16
        nothing = Split(np.zeros((0, *about["shape"]), dtype))
        dataset = Dataset(
            about["name"], nothing, nothing, nothing, levels, about["classes"], checksum=about["checksum"]
        )
        try:
            system = build(model, config, dataset, seed=0, device=device)
        except MemoryError as error:
            raise UserError(f"{path} describes a model that does not fit in the memory of this machine") from error
        put_weights(system, reader.arrays(weights_of(system)))
    for module in system.modules.values():
        module.eval()
    return system, dataset


def say_unfinished(path: Path, system: Any) -> None:
    """Say on stderr if weights are those of a training that was stopped before its last step."""
    from minigen.train import checkpoint

    with checkpoint.opened(path, kind="weights") as reader:
        step, total = reader.about.get("step"), sum(stage.steps for stage in system.stages())
    if isinstance(step, int) and step < total:
        print(
            f"note: {path} holds the weights after step {step} of {total}; "
            f"'minigen train {reader.about['system']} --out {path.parent} --resume' goes on",
            file=sys.stderr,
        )


def say_unguided(settings: dict[str, Any]) -> None:
    """Say on stderr which of a model's settings change nothing because they act through guidance, and there is none."""
    for scale, through in GUIDED.items():
        for name, off in through.items():
            if settings.get(scale) == 1 and settings.get(name, off) != off:
                flag = name.replace("_", "-")
                print(f"note: --{flag} changes nothing with --{scale} 1, which is no guidance", file=sys.stderr)


def put_in_eight_bits(system: Any, way: str | None) -> None:
    """Round the linear layers of a trained system, and say how many there are. Raises UserError where there are none."""
    if way is None:
        return
    from minigen.nn.eight_bit import in_eight_bits

    count = sum(in_eight_bits(module, way) for module in system.modules.values())
    if not count:
        raise UserError("--eight-bit is for linear layers, and these weights have none")
    of = "weights in int8" if way == "weights" else f"weights and inputs in {'int8' if way == 'int8' else 'fp8 (e4m3)'}"
    print(f"{count} linear layers with {of}")


def reuse_clip(path: Path, system: Any, dataset: Any) -> None:
    """Put the trained CLIP of a weights file, of any system, into a system that has one like it.

    Raises UserError for a file without a CLIP, for one of another width or build, and for one that learnt from other
    data.
    """
    from minigen.train import checkpoint

    net, within = system.modules["clip"], "clip/"
    with checkpoint.opened(path, kind="weights") as reader:
        names, about = reader.handle.keys(), checked_dataset(path, reader.about.get("dataset"))
        if not any(name.startswith(within) for name in names):
            raise UserError(f"--clip: {path} holds no CLIP, it belongs to the system {reader.about.get('system')!r}")
        if (about["name"], about["shape"]) != (dataset.name, tuple(dataset.shape)):
            now = f"'{dataset.name}' of shape {tuple(dataset.shape)}"
            raise UserError(f"--clip: {path} learnt from '{about['name']}' of shape {about['shape']}, not from {now}")
        try:
            arrays = reader.arrays({within + name: array for name, array in net.arrays().items()}, within)
        except UserError as error:
            raise UserError(f"--clip must hold a CLIP of the width and build of this model's: {error}") from error
    xp = array_module(net.log_scale.data)
    net.load_arrays({name.removeprefix(within): xp.asarray(array) for name, array in arrays.items()})


def checked_dataset(path: Path, about: Any) -> dict[str, Any]:
    """What a weights file says of its data set; UserError if it makes no sense.

    ``name, shape, levels, classes``, and the ``checksum`` of its training split, None in a file that was written
    without.
    """
    about = about if isinstance(about, dict) else {}
    name, shape, levels, classes, checksum = (
        about.get(key) for key in ("name", "shape", "levels", "classes", "checksum")
    )
    sound = (
        isinstance(name, str)
        and isinstance(shape, list)
        and 1 <= len(shape) <= 3
        and all(type(side) is int and 1 <= side <= 4096 for side in shape)
        and (levels is None or (type(levels) is int and 2 <= levels <= 65536))
        and isinstance(classes, list)
        and all(isinstance(label, str) for label in classes)
        and (checksum is None or type(checksum) is int)
    )
    if not sound:
        raise UserError(f"{path} does not say which data its model was trained on")
    return {"name": name, "shape": tuple(shape), "levels": levels, "classes": tuple(classes), "checksum": checksum}
