"""`minigen sample SYSTEM`: draw samples from trained weights."""

import dataclasses
import glob
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from kernels.backend import to_numpy
from kernels.precision import Precision, precision
from minigen.cli import arguments, curriculum
from minigen.errors import UserError, os_reason, said_in_one_sentence
from minigen.nn.eight_bit import Way

STATES = 36  # pictures that --trajectory shows on the way: all in the animation, the first of them in the strip

USAGE = """usage: minigen sample SYSTEM [--weights FILE] [--n 64] [--out FILE] [--steps N] [--seed N] [--singles]
           [--trajectory] [--quality] [flags of the system]

Draws samples from weights that 'minigen train' wrote.
'minigen sample SYSTEM --help' explains every flag; 'minigen list' shows the systems."""


@dataclasses.dataclass(frozen=True)
class SampleFlags:
    """Flags of `minigen sample`."""

    weights: Path
    """The weights.safetensors that 'minigen train' wrote; the one in its default folder if left out."""
    n: int = 64
    """Number of samples."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The file to write: .png, or .txt if the weights were trained on text; grid.png or grid.txt if left out."""
    steps: int | None = None
    """Sampling steps, for systems that sample in steps; the system's own number if left out."""
    seed: int = 0
    """Seed of all random draws."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: Precision = "float32"
    """What the factors of products are rounded to while samples and pictures are drawn: as for 'minigen train'."""
    eight_bit: Way | None = None
    """Put the linear layers in eight bits: their weights in int8, or weights and inputs in int8 or fp8 (e4m3)."""
    singles: bool = False
    """Also write every sample as a PNG of its own, in the model's size: 'minigen edit' takes these."""
    trajectory: bool = False
    """Also write, beside the grid, a strip and an animation of how the first samples came about."""
    quality: bool = False
    """Also measure the samples (use --n 512), and print tables with real images and simple baselines."""
    prompts: int | None = None
    """Also draw this many prompts of each kind, seen and held out (500 for a report), and print how often they are met."""
    data_dir: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the data set's files, if --quality or a picture needs them: as for 'minigen train'."""


def main(args: list[str]) -> int:
    """Parse, check, draw, write."""
    name, args = arguments.system_name("sample", args, USAGE)
    entry = curriculum.find(name)
    flags, settings, chosen = parse(entry, curriculum.load(entry), args)
    arguments.check_at_least(1, n=flags.n, steps=flags.steps, prompts=flags.prompts)
    arguments.check_at_least(0, seed=flags.seed)
    system, dataset = arguments.load_weights(flags.weights, entry, device=flags.device)
    arguments.say_unfinished(flags.weights, system)
    arguments.say_unguided(settings)
    arguments.put_in_eight_bits(system, flags.eight_bit)

    from minigen.train import pictures
    from minigen.train.checkpoint import write_atomically

    check(system, dataset, flags, chosen)
    data = arguments.load_data_of(dataset, flags.data_dir) if flags.quality or chosen else None
    if flags.quality:
        check_measurable(system, data, flags.n)
    ending = pictures.ending(dataset)
    file = Path("grid" + ending) if flags.out is None else flags.out
    check_out(file, ending)
    with precision(flags.precision):
        samples, states = draw(system, flags, settings)
    if flags.trajectory and not states:
        raise UserError(f"'{entry.name}' draws in one step, there is no trajectory to show")
    with said_in_one_sentence("notes"):
        notes = [] if system.notes is None else system.notes(samples, **settings)
    out = pictures.save_samples(file, dataset, samples, notes)
    print_notes(notes, text=pictures.is_text(dataset))
    if system.paint is not None:
        print_tally(notes)
    print(f"{flags.n} samples: {out}")
    if flags.singles:
        paths = pictures.save_singles(file, dataset, samples)
        print(f"one by one: {paths[0]}" + (f" to {paths[-1]}" if len(paths) > 1 else ""))
    if flags.trajectory:
        path = file.with_name(f"{file.stem}-trajectory.png")
        pictures.save_png(path, pictures.strip(dataset, states))
        print(f"trajectory, one sample per row: {path}")
        path = path.with_suffix(".gif")
        write_atomically(path, pictures.gif(dataset, states, samples=STATES))
        print(f"trajectory, animated: {path}")
    for name in chosen:
        path = file.with_name(f"{file.stem}-{name}.png")
        with said_in_one_sentence(f"--{name}"), precision(flags.precision):
            draw_picture(system, data, name, path, flags.seed)
        print(f"{name}: {path}")
    if flags.quality:
        print_quality(system, data, samples, flags.seed)
    if flags.prompts is not None:
        with precision(flags.precision):
            print_prompts(system, flags, settings)
    return 0


def parse(entry: curriculum.Entry, model: Any, args: list[str]) -> tuple[SampleFlags, dict[str, Any], list[str]]:
    """The flags of every system, the model's own settings, and the names of the pictures that were asked for."""
    together, default = flags_of(entry, model)
    prog, description = f"minigen sample {entry.name}", f"{entry.title} ({entry.paper})"
    flags: Any = arguments.parse(together, args, prog=prog, description=description, default=default)
    arguments.check_trained(entry, flags.run.weights)
    settings = with_own_sampler(dataclasses.asdict(flags.settings)) if hasattr(flags, "settings") else {}
    chosen = [name for name in getattr(model, "PICTURES", {}) if getattr(flags.pictures, name)]
    return flags.run, settings, chosen


def flags_of(entry: curriculum.Entry, model: Any) -> tuple[Any, Any]:
    """The dataclass of all flags for this model, and their defaults."""
    weights = arguments.default_weights(entry)
    parts: list[tuple[str, Any, Any]] = [("run", SampleFlags, SampleFlags(weights))]
    if hasattr(model, "Sampling"):
        parts.append(("settings", model.Sampling, model.Sampling()))
    if getattr(model, "PICTURES", {}):
        shown = [
            (name, Annotated[bool, arg(help=f"Also draw: {what}.")], False) for name, what in model.PICTURES.items()
        ]
        pictures = dataclasses.make_dataclass("Pictures", shown, frozen=True)
        parts.append(("pictures", pictures, pictures()))
    together = dataclasses.make_dataclass("Flags", [(name, kind) for name, kind, _ in parts], frozen=True)
    return together, together(*(value for _, _, value in parts))


def with_own_sampler(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the sampler itself where they name one as module:Name."""
    name = settings.get("sampler", "")
    return settings | {"sampler": own_sampler(name)} if ":" in name else settings


def own_sampler(name: str) -> Any:
    """module:Name, as `minigen laws` takes it, for a trained network. Raises UserError for what is no sampler."""
    from minigen.cli.laws import find
    from minigen.laws import as_sampler

    (sampler,) = find(name)
    try:
        return as_sampler(sampler)
    except (TypeError, ValueError) as error:
        raise UserError(f"--sampler {name}: {error}") from error


def check(system: Any, about: Any, flags: SampleFlags, chosen: list[str]) -> None:
    """Raise UserError for what these weights cannot draw."""
    if flags.singles and len(about.shape) != 3:
        raise UserError(f"--singles writes pictures, and samples of '{about.name}' are not pictures")
    if flags.prompts is not None:
        from minigen.metrics.prompts import most_prompts

        if system.paint is None:
            raise UserError("--prompts is for systems that draw what a prompt says")
        if flags.prompts > (most := most_prompts()):
            raise UserError(
                f"--prompts must be at most {most}, so that there are as many of each kind, got {flags.prompts}"
            )
    for name in chosen:
        if name not in system.pictures:
            offered = ", ".join(system.pictures) or "no picture"
            raise UserError(f"--{name} does not go with these weights: they offer {offered}")


def check_measurable(system: Any, dataset: Any, n: int) -> None:
    """Raise UserError where ``n`` samples cannot be measured beside the data set."""
    ruled = dataset.train.labels is not None
    if (not ruled and system.figures is None) or (ruled and n < 4):
        raise UserError("--quality needs a data set with labels and at least 4 samples")


def draw_picture(system: Any, dataset: Any, name: str, path: Path, seed: int) -> None:
    """One of the system's own pictures, of test images where it needs some."""
    from minigen.train import pictures

    rows = system.pictures[name](dataset.test, rng=np.random.default_rng(seed))
    pictures.save_png(path, pictures.grid(dataset, rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1]))


def print_quality(system: Any, dataset: Any, samples: Any, seed: int) -> None:
    """The ruler's tables for the samples, with what their headings mean, and what the system measures of itself on the
    test split.
    """
    from rich.console import Console

    from minigen.cli import quality
    from minigen.metrics.report import chance, compared, format_tables

    with said_in_one_sentence("--quality"):
        ruled = dataset.train.labels is not None
        figures = quality.figures(dataset, samples, seed=seed) if ruled else {}
        drawn = (
            chance(dataset, quality.known(dataset)[0], n=len(samples))
            if ruled and dataset.name != quality.RINGS
            else None
        )
    if ruled:
        console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
        console.print(*format_tables(figures), *quality.legend(figures), sep="\n", markup=False)
    if drawn is not None:
        if len(samples) < quality.SAMPLES:
            print(
                f"the first row is of {len(samples)} samples, those below it of up to {quality.SAMPLES}: only FD x is "
                f"corrected for that (use --n {quality.SAMPLES})"
            )
        m = compared(dataset, len(samples))
        print(f"FD x of {m} training images drawn with replacement: {drawn[0]:.2f} ± {drawn[1]:.2f}")
    with said_in_one_sentence("--quality"):
        own = quality.of_itself(system, dataset, seed=seed)
    for what, value in own.items():
        print(f"{what}: {value:.4g}")


def print_notes(notes: list[str], *, text: bool) -> None:
    """A line per picture with what was asked for and what came; labels alone once with their number, texts whole."""
    if text:
        lines = [f"--- {i} ---\n{note}" for i, note in enumerate(notes, start=1)]
    elif any("\n" in note for note in notes):
        lines = [note.replace("\n", ": ") for note in notes]
    else:
        lines = [f"{note} ({times} of {len(notes)})" if times > 1 else note for note, times in Counter(notes).items()]
    for line in lines:
        print(line)


def print_tally(notes: list[str]) -> None:
    """How many of the pictures show what their prompts say, where that can be judged."""
    from minigen.metrics.prompts import tally

    if said := tally(notes):
        print(said)


def print_prompts(system: Any, flags: SampleFlags, settings: dict[str, Any]) -> None:
    """How often the system draws what it is asked for, with these settings."""
    from minigen.cli import quality
    from minigen.metrics.prompts import format_report

    with said_in_one_sentence("--prompts"):
        print(format_report(quality.prompts(system.paint, flags.prompts or 0, seed=flags.seed, settings=settings)))


def draw(system: Any, flags: SampleFlags, settings: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The samples (n, ...), and if asked for the states on the way, of the first 36 pictures, or of all points.

    NonFinite if a sample is NaN or infinite, UserError if they cannot be drawn, or what was drawn is not samples.
    """
    from minigen.train.run import check_finite, check_samples

    states: list[Any] = []

    def keep(t: float, x_t: Any) -> None:
        states.append((x_t if x_t.ndim == 2 else x_t[:STATES]).copy())  # of points, all are shown

    callback = keep if flags.trajectory else None
    rng = np.random.default_rng(flags.seed)
    try:
        samples = to_numpy(system.sample(flags.n, rng=rng, steps=flags.steps, callback=callback, **settings))
    except FloatingPointError as error:
        raise UserError(f"sampling from {flags.weights} broke down: {error}") from error
    except ValueError as error:
        raise UserError(f"cannot sample: {error}") from error
    check_samples(samples, flags.n, system.image_shape)
    check_finite(samples, f"sampling from {flags.weights} broke down:")
    return samples, states


def check_out(path: Path, ending: str = ".png") -> None:
    """Make the folder of the file, before any time is spent; UserError if that fails, or it has another ending.

    Leftovers of the same file, from commands killed at least an hour ago, are removed.
    """
    from minigen.train.checkpoint import remove_leftovers

    if path.suffix.lower() != ending:
        why = ": these weights were trained on text" if ending == ".txt" else ""
        raise UserError(f"--out must end in {ending}, got {path}{why}")
    if path.is_dir():
        raise UserError(f"--out must be a file, {path} is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder {path.parent}: {os_reason(error, path.parent)}") from error
    remove_leftovers(path.parent, glob.escape(path.name), seconds=3600)
