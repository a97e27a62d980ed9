"""`minigen train SYSTEM`: train a model and watch it; stop and resume at any time."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from kernels.precision import PRECISIONS, Precision
from minigen.cli import arguments, curriculum, sample
from minigen.errors import UserError

USAGE = """usage: minigen train SYSTEM [flags]

Trains a system and leaves its weights, samples and log in out/SYSTEM (or --out).
'minigen train SYSTEM --help' explains every flag; 'minigen list' shows the systems."""


@dataclasses.dataclass(frozen=True)
class ClipFlags:
    """For systems that build on a CLIP."""

    clip: Annotated[Path | None, arg(metavar="FILE")] = None
    """A weights.safetensors, of any system, with a trained CLIP to use instead of training one."""


@dataclasses.dataclass(frozen=True)
class PresetFlags:
    """For systems that have presets, which are listed above."""

    preset: Annotated[str | None, arg(metavar="NAME")] = None
    """A named set of the system's own settings, which other flags override. One that is named after a data set is for
    that data set, and uses it if --data is left out.
    """


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """These are the same for every system."""

    data: str
    """The data set's name."""
    out: Path
    """The folder for the checkpoint, the weights, the log and the samples."""
    data_dir: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the data set's files: IDX files for mnist and binary-mnist, pictures for folder."""
    size: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Pixels per side to which the pictures of 'folder' are scaled, and at which those of 'shapes' are drawn."""
    seed: int = 0
    """Seed of initial weights, batches and noise."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: Precision = "float32"
    """What the factors of products are rounded to: bf16 and tf32 for the tensor cores of a GPU. On a CPU they only show
    what such a GPU would compute.
    """
    resume: bool = False
    """Go on from the checkpoint in --out, which gives data, size, seed, precision and settings whose flags are left out."""
    samples_every: Annotated[int | None, arg(metavar="STEPS")] = None
    """Steps between two pictures of samples: a quarter of the run if left out, 0 for only one at the end."""
    save_seconds: float = 15.0
    """Seconds between two checkpoints; does not change the result."""


def main(args: list[str]) -> int:
    """Parse, check, train, say where things are."""
    name, args = arguments.system_name("train", args, USAGE)
    entry = curriculum.find(name)
    model = curriculum.load(entry)
    flags = parse(entry, model, args)
    arguments.check_names(
        sample.flags_of(entry, model)[0], f"minigen sample {entry.name}"
    )  # now, not after the training
    run, config, clip = flags.run, flags.config, flags.reused.clip if takes_clip(model) else None
    if clip is not None:
        config = dataclasses.replace(config, clip_steps=0)
    elif takes_clip(model) and not config.clip_steps and not goes_on(run):
        raise UserError("--clip-steps 0 needs a CLIP that is trained already: give its weights by --clip FILE")
    arguments.check_at_least(1, steps=getattr(config, "steps", None))
    check_size(config)
    arguments.check_at_least(0, seed=run.seed, samples_every=run.samples_every)
    if not run.save_seconds >= 0:
        raise UserError(f"--save-seconds must be at least 0, got {run.save_seconds}")
    arguments.check_device(run.device)
    dataset = arguments.load_data(run.data, run.data_dir, run.size)
    system = arguments.build(model, config, dataset, seed=run.seed, device=run.device)
    if clip is not None:
        arguments.reuse_clip(clip, system, dataset)

    from minigen.train import pictures
    from minigen.train.run import Run, summary, train

    about = Run(
        out=run.out,
        system=entry.name,
        seed=run.seed,
        data_dir=run.data_dir,
        size=run.size,
        precision=run.precision,
        samples_every=run.samples_every,
        save_seconds=run.save_seconds,
    )
    result = train(system, dataset, about, resume=run.resume)
    print(summary(result))
    print(f"next: minigen sample {entry.name} --weights {result.weights} --n 64 --out grid{pictures.ending(dataset)}")
    return 0


def parse(entry: curriculum.Entry, model: Any, args: list[str]) -> Any:
    """The run's flags and the model's, ``.run`` and ``.config``. With ``--resume`` the checkpoint gives the defaults."""
    presets = presets_of(model)
    more: dict[str, Any] = {"reused": ClipFlags()} if takes_clip(model) else {}
    more |= {"presets": PresetFlags()} if presets else {}
    of_run: Any = run_flags(model)
    kinds = [("run", Annotated[of_run, FlagCreatePairsOff]), ("config", model.Config)]
    kinds += [(name, type(value)) for name, value in more.items()]
    flags: Any = dataclasses.make_dataclass("Flags", kinds, frozen=True)
    prog = f"minigen train {entry.name}"
    description = f"{entry.title} ({entry.paper})\n\n{model.EQUATION}" + "".join(
        f"\n\n--preset {name}: {', '.join(f'{key} {value}' for key, value in changes.items())}"
        for name, changes in presets.items()
    )
    how: dict[str, Any] = {"prog": prog, "description": description, "pairs": True}
    default = flags(of_run(data=default_data(model), out=Path("out") / entry.name), model.Config(), **more)
    parsed = arguments.parse(flags, args, default=default, **how)
    preset = parsed.presets.preset if presets else None
    if preset is not None:
        if preset not in presets:
            raise UserError(f"'{entry.name}' has no preset '{preset}': it has {', '.join(presets)}")
        of_data = {"data": preset} if preset in presets_for_data(model) else {}
        of_preset = dataclasses.replace(default.config, **presets[preset])
        default = flags(dataclasses.replace(default.run, **of_data), of_preset, **more)
        parsed = arguments.parse(flags, args, default=default, **how)
    if not goes_on(parsed.run):
        return parsed
    if preset is not None:
        raise UserError("--resume goes on with the settings that the run has: leave out --preset")
    path = parsed.run.out / "checkpoint.safetensors"
    run, config = settings_of_checkpoint(path, entry, model, parsed.run.out)
    return arguments.parse(flags, args, default=flags(of_run(**vars(run)), config, **more), **how)


def run_flags(model: Any) -> Any:
    """`RunFlags` whose help says which data sets the model takes."""
    *others, last = data_sets(model)
    said = f"The data set: {', '.join(others)}{' or ' if others else ''}{last}."
    data = ("data", Annotated[str, arg(metavar="NAME", help=said)])
    same = {"__module__": RunFlags.__module__, "__doc__": RunFlags.__doc__, "__qualname__": RunFlags.__qualname__}
    return dataclasses.make_dataclass("RunFlags", [data], bases=(RunFlags,), namespace=same, frozen=True)


def check_size(config: Any) -> None:
    """Raise UserError for a whole number, among a model's settings, that is too large for any machine."""
    from minigen.train.checkpoint import most, too_large

    for field in dataclasses.fields(config):
        limit, value = most(field.name), getattr(config, field.name)
        if too_large(value, limit):
            raise UserError(f"--{field.name.replace('_', '-')} must be at most {limit} in size, got {value}")


def goes_on(run: RunFlags) -> bool:
    """Whether there is a checkpoint from which the run goes on."""
    return run.resume and (run.out / "checkpoint.safetensors").exists()


def takes_clip(model: Any) -> bool:
    """Whether a system first trains a CLIP, module "clip", and skips that, ``clip_steps`` 0, if it is given one."""
    return getattr(model, "REUSES_CLIP", False)


def presets_of(model: Any) -> dict[str, dict[str, Any]]:
    """Sets of changes to a model's default settings, by name: its ``PRESETS``."""
    return getattr(model, "PRESETS", {})


def presets_for_data(model: Any) -> list[str]:
    """The names of a model's presets that are for a data set: those that are named after one."""
    return [name for name in presets_of(model) if name in data_sets(model)]


def default_data(model: Any) -> str:
    """The data set that a model is made for: its ``DATA``, or digits."""
    return getattr(model, "DATA", "digits")


def data_sets(model: Any) -> tuple[str, ...]:
    """The data sets that a model takes: its ``DATA_SETS``, or its ``DATA`` alone, or all that hold pictures."""
    pictures = ("digits", "mnist", "binary-mnist", "folder", "shapes")
    return getattr(model, "DATA_SETS", (model.DATA,) if hasattr(model, "DATA") else pictures)


def settings_of_checkpoint(path: Path, entry: curriculum.Entry, model: Any, out: Path) -> tuple[RunFlags, Any]:
    """The flags that a run was started with."""
    from minigen.train import checkpoint

    with checkpoint.opened(path, kind="checkpoint", system=entry.name) as reader:
        about = reader.about
    config = checkpoint.config_from_json(path, model.Config, about.get("config"))
    data, seed = about.get("data"), about.get("seed")
    data = data if isinstance(data, dict) else {}
    name, data_dir, size = (data.get(key) for key in ("name", "data_dir", "size"))
    precision = about.get("precision", "float32")  # older ones do not say it
    sound = isinstance(data_dir, str | None) and isinstance(size, int | None) and precision in PRECISIONS
    if not isinstance(name, str) or type(seed) is not int or not sound:
        raise UserError(f"{path} does not say which data, seed and precision its run was started with")
    return RunFlags(data=name, out=out, data_dir=data_dir, size=size, seed=seed, precision=precision), config
