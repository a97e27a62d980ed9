r"""How often a system draws what a prompt asks for, with all attributes named, on combinations it has seen and on others.

Four groups of prompts: one thing or two, from the validation scenes (compositions that training shows) or from those
with a composition that was held out. Each prompt is the plain caption of a scene, so every attribute is asked for, and
each picture is read by `data/oracle.py`. A rate $p$ over $n$ prompts has the standard error
$\sqrt{p (1 - p) / n}$, which is 0 where all or none are met; there the error is taken as if two more had been met
and two more not (Agresti & Coull 1998).

Any system with a function ``draw(prompts) -> images`` can be measured.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from kernels.backend import Array
from minigen.data.captions import canonical, parse
from minigen.data.oracle import Verdict, prompt_accuracy, verdicts
from minigen.data.shapes import scenes

GROUPS = {
    "seen, one thing": ("val", 1),
    "seen, two things": ("val", 2),
    "held out, one thing": ("held", 1),
    "held out, two things": ("held", 2),
}
ATTRIBUTES = ("colour", "size", "shape", "place")  # of one thing, beside the count
BLOCK = 64  # prompts that are drawn at once
MET = str(Verdict((), {}))  # what a note says below a prompt that was met,
UNKNOWN = "no caption of this world"  # and below one that cannot be judged
SHOWN = ("all", "valid", "count", "shape", "colour", "size", "place", "relation", "background")

Draw = Callable[[Sequence[str]], Array]


def prompts_of(split: str, things: int, n: int) -> list[str]:
    """The plain captions of the first ``n`` scenes of a split with so many things: ``n + 1`` adds one to them."""
    of = scenes(split)
    rows = np.flatnonzero(of[:].number == things)
    if len(rows) < n:
        raise ValueError(
            f"n must be at most {len(rows)}, which is how many scenes of '{split}' have {things} thing{'s' * (things > 1)}, got {n}"
        )
    return [canonical(scene) for scene in of[rows[:n]]]


def most_prompts(groups: Sequence[str] = tuple(GROUPS)) -> int:
    """The largest n for which each of the groups has enough prompts."""
    return min(int((scenes(split)[:].number == things).sum()) for split, things in map(GROUPS.__getitem__, groups))


def prompts_for(n: int) -> list[str]:
    """What is drawn where nothing is asked for: the plain captions of the first ``n`` validation scenes.

    Raises ValueError if there are not so many.
    """
    of = scenes("val")
    if len(of) < n:
        raise ValueError(f"without a prompt n must be at most {len(of)}, which is how many scenes 'val' has, got {n}")
    return [canonical(scene) for scene in of[:n]]


def notes_for(prompts: Sequence[str], images: Array) -> list[str]:
    """A note per picture: what was asked for, and whether it came."""
    notes = ["no prompt" if not said.strip() else f"{said}\n{UNKNOWN}" for said in prompts]
    meant = [i for i, said in enumerate(prompts) if means_something(said)]
    if meant:
        for i, found in zip(meant, verdicts([prompts[i] for i in meant], images[meant])):
            notes[i] = f"{prompts[i]}\n{found}"
    return notes


def tally(notes: Sequence[str]) -> str:
    """How many notes of `notes_for` say that the prompt was met, as in ``met: 3 of 8``; empty where none could be judged."""
    parts = [note.rpartition("\n") for note in notes]
    judged = [verdict for prompt, _, verdict in parts if prompt and verdict != UNKNOWN]
    return f"met: {judged.count(MET)} of {len(judged)}" if judged else ""


def means_something(prompt: str) -> bool:
    """Whether the words are a caption of this world: only then can a picture be judged by them."""
    try:
        parse(prompt)
    except ValueError:
        return False
    return True


def prompt_report(draw: Draw, n: int, groups: Sequence[str] = tuple(GROUPS)) -> dict[str, dict[str, float]]:
    """group -> the rates of `minigen.data.oracle.prompt_accuracy` over its first ``n`` prompts, and ``n`` itself.

    ``draw(prompts)`` returns a picture for each prompt, in [-1, 1]; it is called with at most 64 at a time.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"groups must be of {', '.join(GROUPS)}, got {group!r}")
    asked = {group: prompts_of(*GROUPS[group], n) for group in groups}  # too many are refused before any is drawn
    report = {}
    for group, prompts in asked.items():
        images = [image for i in range(0, n, BLOCK) for image in draw(prompts[i : i + BLOCK])]
        report[group] = prompt_accuracy(prompts, np.stack(images)) | {"n": float(n)}
    return report


def attributes_met(prompts: Sequence[str], images: Array) -> float:
    """Of the count, colour, size, shape and place that prompts for one thing ask for, the share that came.

    A picture with another number of things has none of the five. Systems trained for minutes seldom meet a whole
    prompt, and this still tells them apart.
    """
    found = prompt_accuracy(prompts, images)
    count = found["count"]
    rest = sum(found[name] for name in ATTRIBUTES) if count else 0.0
    return count * (1 + rest) / (1 + len(ATTRIBUTES))


def standard_error(rate: float, n: float) -> float:
    r"""$\sqrt{p (1 - p) / n}$; of rates 0 and 1 that of $(p n + 2) / (n + 4)$ over n + 4."""
    if rate in (0, 1):
        rate, n = (rate * n + 2) / (n + 4), n + 4
    return math.sqrt(rate * (1 - rate) / n)


def format_report(report: dict[str, dict[str, float]]) -> str:
    """A table of the report: a row per group, ``all`` with its standard error, then the shares of each attribute."""
    lines = [f"{'':22}{'all':>14}" + "".join(f"{name:>12}" for name in SHOWN[1:])]
    for group, rates in report.items():
        cells = f"{rates['all']:.3f} ± {standard_error(rates['all'], rates['n']):.3f}"
        rest = "".join(f"{'-' if math.isnan(rates[name]) else format(rates[name], '.3f'):>12}" for name in SHOWN[1:])
        lines.append(f"{group:22}{cells:>14}{rest}")
    return "\n".join(lines)
