"""`minigen tour`: every system trained briefly, one after another, and all of them on one page: the family portrait."""

import dataclasses
import datetime
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from minigen.cli import arguments, curriculum, portrait, portrait_page, quality, tour_page
from minigen.cli.train import default_data, presets_for_data, presets_of
from minigen.errors import Interrupted, UserError, os_reason, said_in_one_sentence

FACTS = "tour.json"  # beside a system's pictures: what the page says about it
FORMAT = 3  # of those facts


@dataclasses.dataclass(frozen=True)
class TourFlags:
    """Flags of `minigen tour`."""

    only: Annotated[str | None, arg(metavar="NAMES")] = None
    """Names of systems, separated by commas: ddpm,gan. All that run today if left out."""
    whole: bool = False
    """Train each system with the defaults of 'minigen train' (hours for all) instead of briefly, as for the figures of
    the README. Page and trainings are in the subfolder "whole".
    """
    data: Annotated[str | None, arg(metavar="NAME")] = None
    """Visit the systems that have a preset of this data set's name (mnist, binary-mnist, shapes), and train each with
    it, as for the figures of docs/figures.md. Page and trainings are in the subfolder of that name.
    """
    data_dir: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the files of --data, if they are not the package's own: IDX files for mnist and binary-mnist."""
    out: Path = Path("out/tour")
    """The folder for the page, index.html, and everything it was made from."""
    device: str = "cpu"
    """cpu or cuda."""
    seed: int = 0
    """Seed of initial weights, batches and noise."""
    resume: bool = False
    """Go on with a stopped tour: a system that was training goes on from its checkpoint."""
    fresh: bool = False
    """Train and measure everything anew. If left out, systems that are done with these settings and this seed are kept."""


def main(args: list[str]) -> int:
    """Train each system, add it to the page, go on to the next."""
    flags = arguments.parse(
        TourFlags,
        args,
        prog="minigen tour",
        description="Train every system briefly, and show them all on one page.",
    )
    arguments.check_at_least(0, seed=flags.seed)
    if flags.resume and flags.fresh:
        raise UserError("--resume goes on with what is there, --fresh trains everything anew: give one of them")
    arguments.check_device(flags.device)
    if flags.whole and flags.data is not None:
        raise UserError("--data trains by that data set's presets, --whole by the defaults: give one of them")
    if flags.data_dir is not None:
        if flags.data is None:
            raise UserError("--data-dir says where the files of --data are, which is left out")
        # Absolute: the page, which needs the files again, may be made anew from another folder.
        flags = dataclasses.replace(flags, data_dir=str(Path(flags.data_dir).resolve()))
    entries = chosen(flags)
    # Its files may be missing: said before anything is begun.
    dataset = None if flags.data is None else arguments.load_data(flags.data, flags.data_dir)
    if flags.whole or flags.data is not None:  # apart, so that no kind of tour writes over what another has trained
        flags = dataclasses.replace(flags, out=flags.out / (flags.data or "whole"))
    index = flags.out / "index.html"
    status = 0
    write_page(flags.out)  # before any time is spent: the folder can be written to, and there is a page to look at
    for number, entry in enumerate(entries, start=1):
        print(f"[{number}/{len(entries)}] {entry.name}: {entry.title} ({entry.paper})", flush=True)
        try:
            if not flags.fresh and done(entry, flags):
                print(f"{entry.name} is done already: {flags.out / entry.name} (--fresh trains it anew)", flush=True)
                continue
            facts = visit(entry, flags, dataset)
        except (Interrupted, KeyboardInterrupt) as error:
            number = error.status - 128 if isinstance(error, Interrupted) else signal.SIGINT
            sentence = f"stopped; the tour so far is in {index}: the same command with --resume goes on"
            raise Interrupted(sentence, number) from error
        except Exception as error:  # one broken system must not cost the others' pictures
            if not isinstance(error, UserError):
                traceback.print_exc()
            print(f"minigen: {entry.name}: {error}", file=sys.stderr)
            facts = about(entry) | {"failed": str(error) or type(error).__name__}
            status = max(status, 2 if isinstance(error, UserError) else 1)
            if flags.resume and finished(flags.out / entry.name) is not None:
                continue  # the run cannot go on as it is asked to, and nothing was done to it
        keep(flags.out, entry, facts)
        write_page(flags.out)
    print(f"the tour: {index}")
    return status


def chosen(flags: TourFlags) -> list[curriculum.Entry]:
    """The systems to visit, in the order of the curriculum. UserError for a name that cannot be visited."""
    running = [entry for entry in curriculum.systems().values() if entry.exists]
    if flags.only is not None:
        names = {curriculum.find(name.strip()).name for name in flags.only.split(",") if name.strip()}
        running = [entry for entry in running if entry.name in names]
    if flags.data is not None:
        made = {entry: presets_or_why_not(entry) for entry in running}
        running = [entry for entry in running if flags.data in made[entry]]
        if not running:
            there = sorted(set().union(*made.values())) or ["none"]
            raise UserError(
                f"--data must be a data set that a system has a preset for, got '{flags.data}': there is {', '.join(there)}"
            )
    if not running:
        raise UserError("there is no system to visit: 'minigen list' shows what runs today")
    return running


def presets_or_why_not(entry: curriculum.Entry) -> set[str]:
    """The data sets that a system has a preset for; none, with a message, if its file cannot be read."""
    try:
        return set(presets_for_data(curriculum.load(entry)))
    except UserError as error:
        print(f"minigen: {entry.name}: {error}", file=sys.stderr)
        return set()


def done(entry: curriculum.Entry, flags: TourFlags) -> bool:
    """Whether the folder holds what this tour would find: the same data, settings and seed, visited to the end."""
    from minigen.train.checkpoint import config_to_json

    facts = finished(flags.out / entry.name)
    if facts is None:
        return False
    model = curriculum.load(entry)
    settings = config_to_json(model.Config()) | facts["config"]  # which may be older than some of the fields
    same_data = facts.get("data_dir") == flags.data_dir
    return bool(same_data and facts["seed"] == flags.seed and settings == config_of(model, flags))


def finished(folder: Path) -> dict[str, Any] | None:
    """The facts of a visit that came to its end, or None if there was none."""
    facts = read_facts(folder)
    return None if facts is None or "failed" in facts else facts


def config_of(model: Any, flags: TourFlags) -> dict[str, Any]:
    """The settings of a model on the tour, for JSON."""
    from minigen.train.checkpoint import config_to_json

    return config_to_json(tour_config(model, flags))


def visit(entry: curriculum.Entry, flags: TourFlags, dataset: Any = None) -> dict[str, Any]:
    """Train one system by its budget, on its own data set if none is given, sample from the weights file, measure, and
    return the facts for the page.
    """
    from minigen.train import pictures
    from minigen.train.checkpoint import write_atomically
    from minigen.train.log import curves, read_log
    from minigen.train.run import CHECKPOINT, LOG, Run, holds_run, train

    model = curriculum.load(entry)
    out = flags.out / entry.name
    dataset = arguments.load_data(default_data(model)) if dataset is None else dataset
    system = arguments.build(model, tour_config(model, flags), dataset, seed=flags.seed, device=flags.device)
    if not flags.resume and holds_run(out):
        hint = "" if flags.fresh else ": --resume goes on with it"
        print(f"trains {entry.name} anew over what is there{hint}", flush=True)
    goes_on = flags.resume and (out / CHECKPOINT).exists()
    if not goes_on:
        (out / FACTS).unlink(missing_ok=True)  # they tell of weights that are trained over from here on
    run = Run(out=out, system=entry.name, seed=flags.seed, data_dir=flags.data_dir, samples_every=0, overwrite=True)
    result = train(system, dataset, run, resume=goes_on)

    system, _ = arguments.load_weights(result.weights, entry, device=flags.device)
    print("sampling and measuring (the first time on a data set, the ruler itself is trained)", flush=True)
    sitting = portrait.sit(entry, model, system, dataset, seed=flags.seed)
    notes = [] if system.notes is None else system.notes(sitting.samples)
    few = sitting.samples[:24] if notes else sitting.samples[:64]
    picture = pictures.noted(dataset, few, notes[:24]) if notes else pictures.grid(dataset, few)
    pictures.save_png(out / "samples.png", picture)
    if len(sitting.shown):  # side by side, pixel by pixel: the page cuts them apart
        pictures.save_png(out / portrait_page.SHOWN, np.concatenate(list(dataset.to_rgb8(sitting.shown)), axis=1))
    has_strip = draw_strip(system, dataset, out / "trajectory.png", flags.seed)
    captions = draw_pictures(system, model, dataset, out, flags.seed)
    own = quality.of_itself(system, dataset, seed=flags.seed)
    found = curves(read_log(out / LOG))
    losses = {name: float(np.mean(y[-max(1, len(y) // 20) :])) for name, (_, y) in found.items()}
    svg = pictures.curve_svg(found, title=f"loss of {model.TITLE} over the steps")
    write_atomically(out / "loss.svg", svg.encode())
    return about(entry) | {
        "title": model.TITLE,
        "paper": model.PAPER,
        "equation": model.EQUATION,
        "data": dataset.name,
        "data_dir": flags.data_dir,
        "seed": flags.seed,
        "config": config_of(model, flags),
        "steps": result.steps,
        "seconds": result.seconds,
        "cpu_seconds": result.cpu_seconds,
        "parameters": result.parameters,
        "losses": losses,
        "own": portrait.without_nan(own),
        "trajectory": has_strip,
        "pictures": captions,
        **sitting.facts,
    }


def tour_config(model: Any, flags: TourFlags) -> Any:
    """The model's Config with the preset for the data set that is asked for or, unless the tour is a whole one, with
    the changes that its ``TOUR`` asks for, so that it keeps within its time.
    """
    if flags.data is not None:
        with said_in_one_sentence(f"PRESETS, {flags.data}"):
            return dataclasses.replace(model.Config(), **presets_of(model)[flags.data])
    with said_in_one_sentence("TOUR"):
        return dataclasses.replace(model.Config(), **({} if flags.whole else getattr(model, "TOUR", {})))


def draw_strip(system: Any, dataset: Any, path: Path, seed: int) -> bool:
    """A strip of how eight samples came to be, for systems that sample in steps; returns whether there is one."""
    from minigen.train import pictures

    states: list[Any] = []
    system.sample(8, rng=np.random.default_rng(seed), callback=lambda t, x_t: states.append(x_t.copy()))
    if states:
        pictures.save_png(path, pictures.strip(dataset, states))
    else:
        path.unlink(missing_ok=True)
    return bool(states)


def draw_pictures(system: Any, model: Any, dataset: Any, out: Path, seed: int) -> dict[str, str]:
    """The system's own pictures as picture-NAME.png; returns their captions by name."""
    from minigen.cli.sample import draw_picture

    captions = {name: what for name, what in getattr(model, "PICTURES", {}).items() if name in system.pictures}
    for name in captions:
        draw_picture(system, dataset, name, out / f"picture-{name}.png", seed)
    return captions


def about(entry: curriculum.Entry) -> dict[str, Any]:
    """What is known of a system before it is trained."""
    return {
        "format": FORMAT,
        "name": entry.name,
        "chapter": entry.chapter,
        "title": entry.title,
        "paper": entry.paper,
        "file": entry.file,
        "when": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    }


def keep(out: Path, entry: curriculum.Entry, facts: dict[str, Any]) -> None:
    """Write the facts beside the system's pictures; the page is made from them."""
    from minigen.train.checkpoint import write_atomically

    with said_in_one_sentence(f"cannot write to the folder {out}"):
        (out / entry.name).mkdir(parents=True, exist_ok=True)
    write_atomically(out / entry.name / FACTS, json.dumps(facts, indent=1).encode())


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of a system that was visited, or None if there are none that this version understands, or no pictures to them."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        return None
    return (
        facts if "failed" in facts or all((folder / name).exists() for name in tour_page.pictures_of(facts)) else None
    )


def write_page(out: Path) -> None:
    """Make index.html of all that lies in the folder, from this tour and from earlier ones."""
    from minigen.train.checkpoint import write_atomically

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder {out}: {os_reason(error, out)}") from error
    visited = []
    for entry in curriculum.systems().values():
        facts = read_facts(out / entry.name)
        if facts is not None:
            visited.append(facts | known(entry))
    write_atomically(out / "index.html", tour_page.render(visited, out).encode())


def known(entry: curriculum.Entry) -> dict[str, Any]:
    """What the page says of a system by its source: where that is, what is new in it, and which systems it needs."""
    try:
        model = curriculum.imported(entry.module)  # which need not be whole: the page also shows those that failed
        return {
            "source": str(curriculum.source_file(model)),
            "new": portrait.news(model.__doc__),
            "from": portrait.parents(entry),
        }
    except UserError:  # of a file that cannot be parsed
        return {"source": str(Path(__file__).parents[2] / entry.file), "new": "", "from": []}
