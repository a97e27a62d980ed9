r"""The family portrait: what every system of the tour is asked for, and the figures that compare it with the others.

Systems that take prompts get the same ones in the same order; the pictures shown are the first that were measured.
Systems that can be asked for a class are asked for each; of the others' samples, the first that the ruler's classifier
takes for a class is shown for it. All figures come from the functions behind `minigen sample --quality` and
`--prompts`, with its flags' defaults, so these commands reproduce them from the weights that the tour leaves.

``sit`` measures once, and its results are kept as numbers (tour.json). ``row`` reads the figures of one system from
there: a `Figure` with its error, or the reason why there is none.
"""

import dataclasses
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from kernels.backend import to_numpy
from minigen.cli import curriculum, quality

PROMPTS = 64  # of each of the four groups of `minigen.metrics.prompts`
SHOWN = 3  # pictures of each group that are shown
PICTURES = 256  # samples of captioned pictures from a system that takes no prompts: as many as all prompts
FEW = 24  # samples where nothing is measured
EACH = 16  # samples of each class, from a system that can be asked for one
BLANK = 0.0  # the grey of a class that no sample was taken for


# --- what is drawn and measured ---------------------------------------------------------------------------------------


class Sitting(NamedTuple):
    """Samples for the tour, pictures for the portrait in the order they were asked for in, and facts about them."""

    samples: Any
    shown: Any
    facts: dict[str, Any]


def sit(entry: curriculum.Entry, model: Any, system: Any, dataset: Any, *, seed: int) -> Sitting:
    """Draw what the portrait needs with the default settings of `minigen sample`, and measure it.

    ``facts``: ``quality``, label -> figures; ``spread`` of ``fd_ratio``, and ``chance``, that of training images;
    ``prompts``, the report over prompts, or None; ``right``, the share of pictures of the asked class with their
    number, or the reason why there is none; ``samples``, their number, and the seconds that drawing them took;
    ``real``, how many real pictures they were compared with; ``shown``, what each shown picture was asked for and what
    came; ``sitting_seconds``, of all this.
    """
    from minigen.metrics import report

    settings = dataclasses.asdict(model.Sampling()) if hasattr(model, "Sampling") else {}
    facts: dict[str, Any] = {
        "draws": entry.draws,
        "quality": {},
        "spread": None,
        "chance": None,
        "prompts": None,
        "right": None,
        "real": None,
        "shown": {"how": "none", "asked": [], "said": []},
    }
    shown: Any = np.zeros((0, *dataset.shape), np.float32)
    with timed(facts, "sitting"):
        if system.paint is not None:
            samples, shown = _painted(system, dataset, settings, seed, facts)
        else:
            captioned = dataset.train.captions is not None and len(dataset.shape) == 3
            n = quality.SAMPLES if quality.ruled(dataset) else PICTURES if captioned and entry.draws else FEW
            with timed(facts, "sampling"):
                samples = to_numpy(system.sample(n, rng=np.random.default_rng(seed), **settings))
            facts["samples"] = n
            if quality.ruled(dataset):
                facts["quality"] = quality.figures(dataset, samples, seed=seed)
                facts["real"] = min(report.SAMPLES, len(dataset.test))
            if quality.ruled(dataset) and len(dataset.shape) == 3:
                facts["spread"], facts["chance"] = quality.errors(dataset, samples)
                shown = _classes(system, dataset, samples, settings, seed, facts)
            elif captioned:
                shown = _unasked(system, dataset, samples, settings, facts)
    return Sitting(samples, shown, without_nan(facts))


def _painted(system: Any, dataset: Any, settings: dict[str, Any], seed: int, facts: dict[str, Any]) -> tuple[Any, Any]:
    """The report over prompts; shown are the first pictures of each group. Samples are those of prompts of validation scenes."""
    from minigen.data.oracle import verdicts

    asked: list[str] = []
    images: list[Any] = []

    def paint(prompts: Any, **how: Any) -> Any:
        with timed(facts, "sampling"):
            found = to_numpy(system.paint(prompts, **how))
        asked.extend(prompts)
        images.extend(found)
        return found

    facts["prompts"] = quality.prompts(paint, PROMPTS, seed=seed, settings=settings)
    facts["samples"] = facts["real"] = len(images)
    real, other = (quality.drawn_again(asked, seed=k) for k in (seed, seed + 1))
    what = "real pictures of the same prompts"
    facts["quality"] = quality.captioned(dataset, np.stack(images), real, other, what)
    prompts = prompts_shown()
    shown = np.stack([images[asked.index(text)] for text in prompts])
    facts["shown"] = {"how": "prompts", "asked": prompts, "said": [str(v) for v in verdicts(prompts, shown)]}
    return to_numpy(system.sample(FEW, rng=np.random.default_rng(seed), **settings)), shown


def prompts_shown() -> list[str]:
    """The first prompts of each group, in order."""
    from minigen.metrics.prompts import GROUPS, prompts_of

    return list(chain.from_iterable(prompts_of(split, things, SHOWN) for split, things in GROUPS.values()))


def _classes(
    system: Any, dataset: Any, samples: Any, settings: dict[str, Any], seed: int, facts: dict[str, Any]
) -> Any:
    """A picture of each class: asked for where that can be, else the first sample that the ruler takes for it."""
    from minigen.models.adm import as_asked

    names = list(dataset.classes)
    try:
        in_turn = _in_turn(system, names, samples, settings, seed)
    except ValueError as error:  # it takes no class, or was trained without
        guess = quality.classes_of(dataset, samples)
        found = [int(np.flatnonzero(guess == k)[0]) if (guess == k).any() else None for k in range(len(names))]
        said = [f"none of {len(samples)}" if i is None else "" for i in found]
        facts["right"], facts["shown"] = {"why": str(error)}, {"how": "found", "asked": names, "said": said}
        return np.stack([np.full_like(samples[0], BLANK) if i is None else samples[i] for i in found])
    facts["right"] = {"rate": as_asked(dataset, in_turn), "n": len(in_turn)}
    shown = in_turn[: len(names)]
    said = ["" if i == k else f"taken for {names[i]}" for k, i in enumerate(quality.classes_of(dataset, shown))]
    facts["shown"] = {"how": "asked", "asked": names, "said": said}
    return shown


def _in_turn(system: Any, names: list[str], samples: Any, settings: dict[str, Any], seed: int) -> Any:
    """Pictures asked for by class, all classes in turn. ValueError, with the reason, if it cannot be asked."""
    notes = [] if system.notes is None else system.notes(samples, **settings)
    if list(notes) == [names[i % len(names)] for i in range(len(samples))]:  # the samples are such pictures
        return samples
    if "label" not in settings:
        raise ValueError(UNTOLD)

    def drawn(label: int) -> Any:
        how = {**settings, "label": label}
        return to_numpy(system.sample(EACH, rng=np.random.default_rng(seed), **how))

    of_class = np.stack([drawn(k) for k in range(len(names))], axis=1)  # (EACH, classes, h, w, c)
    return of_class.reshape(-1, *of_class.shape[2:])


def _unasked(system: Any, dataset: Any, samples: Any, settings: dict[str, Any], facts: dict[str, Any]) -> Any:
    """Captioned pictures that no prompt was given for: the first samples, beside test pictures."""
    test = dataset.test.take(np.arange(len(samples))).images
    if facts["draws"]:
        other = dataset.val.take(np.arange(len(samples))).images
        facts["real"] = len(test)
        facts["quality"] = quality.captioned(dataset, samples, test, other, "real pictures of no prompts")
    shown = samples[: SHOWN * 4]
    notes = [""] * len(shown) if system.notes is None else system.notes(samples, **settings)[: len(shown)]
    notes = [note.replace("\n", ": ") for note in notes] or [""] * len(shown)
    facts["shown"] = {"how": "samples", "asked": notes, "said": [""] * len(shown)}
    return shown


@contextmanager
def timed(facts: dict[str, Any], what: str) -> Iterator[None]:
    """Add the wall and CPU time (of all threads) of a block to ``what_seconds`` and ``what_cpu_seconds``."""
    wall, cpu = time.monotonic(), time.process_time()
    yield
    for name, spent in (("seconds", time.monotonic() - wall), ("cpu_seconds", time.process_time() - cpu)):
        facts[f"{what}_{name}"] = facts.get(f"{what}_{name}", 0.0) + spent


def without_nan(value: Any) -> Any:
    """Numbers that JSON does not have replaced by None, in dicts and lists."""
    if isinstance(value, dict):
        return {name: without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- its figures ------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """One figure of the portrait's table: its heading, its digits after the point (None: two significant ones, and
    whole from 100 on), what it is.
    """

    heading: str
    digits: int | None
    meaning: str


class Figure(NamedTuple):
    """A figure, and its standard error or spread where that is known."""

    value: float
    error: float | None = None


COLUMNS = {
    "fd_ratio": Column("FD x", 2, "Fréchet distance to the test split, over that of as many training images"),
    "accepted": Column(
        "accepted", 2, "share of samples taken for a digit by the classifier with a reject class, a scene by the oracle"
    ),
    "recall": Column(
        "recall", 2, "share of the real pictures inside the samples' cloud, in pixels; scattered samples have some too"
    ),
    "coverage": Column(
        "coverage",
        2,
        "share of the real pictures with a sample near them; blank pictures have some, scattered ones none: read both",
    ),
    "one": Column(
        "one thing", 2, "share that shows what was asked for: a thing with all its attributes, or a digit of a class"
    ),
    "two": Column("two things", 2, "the same for two things, their attributes and how they lie"),
    "train": Column("train, s", None, "wall-clock seconds of training"),
    "train_cpu": Column("train, CPU s", None, "CPU seconds of training, all threads together"),
    "sample": Column("a sample, s", None, "wall-clock seconds per sample, many drawn at once"),
    "parameters": Column("parameters", 0, "trained numbers in all its networks"),
}

FAILED = "it did not get to the end of the tour"
NOTHING_DRAWN = "it draws nothing, it finds existing pictures"
NO_RULER = "its pictures have no classes, and the ruler is a classifier"
NO_MEASURE = "there is no measure for samples of its data"
POINTS = "its samples are points: modes, near and mode KL are in its own section"
UNTOLD = "it cannot be told what to draw"
ONE_CLASS = "it is asked for a class, which is one thing"
NO_CPU = "a part of its training was done before CPU time was recorded"
NOT_FINITE = "what was measured is not a finite number"


def row(facts: dict[str, Any]) -> dict[str, Figure | str]:
    """Every figure of `COLUMNS` from what is kept of a system, or the reason why it has none."""
    if "failed" in facts:
        return dict.fromkeys(COLUMNS, FAILED)
    measured, n, real = facts["quality"].get(quality.OURS, {}), facts["samples"], facts["real"]
    unmeasured = POINTS if of_points(facts) else NO_MEASURE if facts["draws"] else NOTHING_DRAWN
    no_distance = POINTS if of_points(facts) else NO_RULER

    def share(name: str, of: int) -> Figure | str:
        return rate(measured[name], of) if name in measured else unmeasured

    found: dict[str, Figure | str] = {
        "fd_ratio": figure(measured["fd_ratio"], facts["spread"]) if "fd_ratio" in measured else no_distance,
        "accepted": share("valid" if "valid" in measured else "accepted", n),
        "recall": share("recall", real),
        "coverage": share("coverage", real),
        **_asked(facts),
        "train": figure(facts["seconds"]),
        "train_cpu": NO_CPU if facts["cpu_seconds"] is None else figure(facts["cpu_seconds"]),
        "sample": figure(facts["sampling_seconds"] / n) if facts["draws"] else NOTHING_DRAWN,
        "parameters": figure(facts["parameters"]),
    }
    if not facts["draws"]:
        found["fd_ratio"] = NOTHING_DRAWN
    return found


def of_points(facts: dict[str, Any]) -> bool:
    """Whether its samples are points in the plane, whose figures are no columns here."""
    return "modes" in facts["quality"].get(quality.OURS, {})


def _asked(facts: dict[str, Any]) -> dict[str, Figure | str]:
    report, right = facts["prompts"], facts["right"]
    if report is not None:
        groups = {"one": report["seen, one thing"], "two": report["seen, two things"]}
        return {name: rate(rates["all"], rates["n"]) for name, rates in groups.items()}
    if right is None:
        return dict.fromkeys(("one", "two"), UNTOLD if facts["draws"] else NOTHING_DRAWN)
    if "why" in right:
        return dict.fromkeys(("one", "two"), right["why"])
    return {"one": rate(right["rate"], right["n"]), "two": ONE_CLASS}


def figure(value: float | None, error: float | None = None) -> Figure | str:
    """A figure, unless it is not a number."""
    return NOT_FINITE if value is None else Figure(value, error)


def rate(value: float | None, n: float) -> Figure | str:
    """A share of ``n`` with its standard error."""
    from minigen.metrics.prompts import standard_error

    return NOT_FINITE if value is None else Figure(value, standard_error(value, n))


def in_words(value: Figure, digits: int | None) -> str:
    """A figure as the page shows it: 0.883 ± 0.014."""
    if digits is None:
        return f"{value.value:,.0f}" if value.value >= 100 else f"{value.value:.2g}"
    words = f"{value.value:,.{digits}f}"
    return words if value.error is None else f"{words} ± {value.error:.{digits}f}"


def astray(visited: list[dict[str, Any]], how: tuple[str, ...], asked: list[str]) -> list[dict[str, Any]]:
    """The systems shown in one of the ways ``how`` whose pictures are not of what was ``asked``, in this order."""
    return [facts for facts in visited if facts["shown"]["how"] in how and facts["shown"]["asked"] != asked]


# --- where it comes from ----------------------------------------------------------------------------------------------


def news(doc: str | None) -> str:
    """What a model file's docstring says is new there: the first sentence after "New here:"."""
    found = re.search(r"New here: (.*?)\.(?=\s|$)", " ".join((doc or "").split()))
    return found[1] if found else ""


def parents(entry: curriculum.Entry) -> list[str]:
    """Names of the systems that one needs, by the "You need:" of its file and of the files of its parts, in the
    curriculum's order.
    """
    files = {e.module: e for e in curriculum.CURRICULUM if e.module.startswith("minigen.models.")}
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [entry.module]
    while waiting:
        module = waiting.pop()
        seen.add(module)
        doc = " ".join((curriculum.imported(module).__doc__ or "").split())
        needs = re.search(r"You need: (.*?)(?:New here:|Details that matter|$)", doc)
        for name in re.findall(r"`(?:models/)?(\w+)\.py`", needs[1] if needs else ""):
            needed = files.get(f"minigen.models.{name}")
            if needed is None or needed.module in seen:
                continue
            if needed.kind == "system":
                found.add(needed.name)
            else:
                waiting.append(needed.module)
    return [name for name in curriculum.systems() if name in found and name != entry.name]
