"""`minigen claims`: common claims about the models, each as an experiment with a verdict, on one page."""

import dataclasses
import itertools
import math
import time
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from minigen.claims.ledger import SEEDS, UNDECIDED, Claim, Judgement, Setting, holm, judge
from minigen.cli import arguments, curriculum, page
from minigen.errors import Interrupted, UserError, said_in_one_sentence

QUICK_SEEDS = 2  # the fewest that give an interval
Found = dict[str, dict[str, float]]  # seed -> label -> number


@dataclasses.dataclass(frozen=True)
class ClaimFlags:
    """Flags of `minigen claims`."""

    only: Annotated[str | None, arg(metavar="NAMES")] = None
    """Names of systems or claims, separated by commas: gan,vae. All if left out."""
    list: bool = False
    """Only print the claims."""
    quick: bool = False
    """A tenth of the training and two seeds, to see how it works. The verdicts mean little, and are kept apart."""
    seeds: int | None = None
    """Independent trainings behind each verdict, at least 5, or 2 with --quick; the minimum if left out."""
    out: Path = Path("out/claims")
    """The folder for the page, index.html, the results and the trained systems; what it holds is not computed again."""


def main(args: list[str]) -> int:
    """Run every experiment asked for that has not been run, and write the page of all that are done after each."""
    flags = arguments.parse(
        ClaimFlags, args, prog="minigen claims", description="Test common claims about these models."
    )
    least = QUICK_SEEDS if flags.quick else SEEDS
    seeds = least if flags.seeds is None else flags.seeds
    if seeds < least:
        why = "" if flags.quick else " worth its name"
        raise UserError(f"--seeds must be at least {least} for a confidence interval{why}, got {seeds}")
    claims = chosen(flags.only)
    if flags.list:
        wide = max(len(claim.name) for claim in claims)
        for claim in claims:
            print(f'{claim.name:{wide}}  "{claim.sentence}" ({", ".join(claim.systems)})')
        return 0
    out = flags.out / "quick" if flags.quick else flags.out
    print_summary(work(claims, seeds, out, quick=flags.quick), quick=flags.quick)
    print(f"the ledger: {out / 'index.html'}")
    return 0


def chosen(only: str | None) -> list[Claim]:
    """The claims asked for, in the order of the ledger. UserError for a name that is neither a system nor a claim."""
    from minigen.claims import CLAIMS

    if only is None:
        return CLAIMS
    asked = {name.strip().replace("-", "_"): name.strip() for name in only.split(",") if name.strip()}
    known = {name.replace("-", "_"): name for claim in CLAIMS for name in (claim.name, *claim.systems)}
    names = set(asked)
    for plain, name in asked.items():
        if plain in known:
            continue
        if plain in curriculum.systems():
            raise UserError(f"there is no claim about '{name}' yet: 'minigen claims --list' shows those there are")
        near = [f"'{known[key]}'" for key in get_close_matches(plain.lower(), known, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"unknown claim or system '{name}': {hint}'minigen claims --list' shows them")
    if not names:
        raise UserError("--only names no claim: 'minigen claims --list' shows them")
    return [claim for claim in CLAIMS if names & {claim.name.replace("-", "_"), *claim.systems}]


def work(claims: list[Claim], seeds: int, out: Path, *, quick: bool) -> list[tuple[Claim, Found]]:
    """The figures of all seeds of the claims, from the record or measured now; claims may share an experiment."""
    from minigen.claims.record import Record

    with said_in_one_sentence(f"cannot write to the folder {out}"):
        out.mkdir(parents=True, exist_ok=True)
    record = Record(out)
    if record.stale:
        print(f"the results in {out} come from other code and are not used", flush=True)
    missing = [(c, seed) for c in claims for seed in range(seeds) if record.get(c.name, seed) is None]
    for number, (claim, seed) in enumerate(missing, start=1):
        print(f"[{number}/{len(missing)}] {claim.name}, seed {seed}: {claim.sentence}", flush=True)
        start = time.monotonic()
        siblings = (record.get(other.name, seed) for other in claims if other.experiment is claim.experiment)
        groups = next((found for found in siblings if found is not None), None)
        try:
            groups = groups or claim.experiment(Setting(seed, quick, out / "runs"))
        except Interrupted as error:
            raise Interrupted(
                "stopped; the same 'minigen claims' command goes on from here", error.status - 128
            ) from error
        for label, value in {**groups, "effect": claim.effect(groups)}.items():
            if not math.isfinite(value):
                raise UserError(f"{claim.name}, seed {seed}: {label} is {value}, and nothing is kept of this seed")
        record.put(claim.name, seed, groups)
        print("  " + ", ".join(f"{label} {value:.4g}" for label, value in groups.items()), end="")
        print(f" ({claim.unit}; {time.monotonic() - start:.0f} s)", flush=True)
        write_page(out, beside_others(claims, record, seeds, quick=quick), quick=quick)
    write_page(out, beside_others(claims, record, seeds, quick=quick), quick=quick)
    return gathered(claims, record, seeds)


def gathered(claims: list[Claim], record: Any, seeds: int) -> list[tuple[Claim, Found]]:
    """The claims of which every seed is done, with their figures."""
    found = [(c, {str(s): record.get(c.name, s) for s in range(seeds)}) for c in claims]
    return [(c, groups) for c, groups in found if None not in groups.values()]


def beside_others(claims: list[Claim], record: Any, seeds: int, *, quick: bool) -> list[tuple[Claim, Found]]:
    """What `gathered` finds, and every other claim of the ledger with all its seeds on record, if they are enough."""
    from minigen.claims import CLAIMS

    least, found = QUICK_SEEDS if quick else SEEDS, []
    for claim in CLAIMS:
        done = next(seed for seed in itertools.count() if record.get(claim.name, seed) is None)
        found += gathered([claim], record, seeds if claim in claims else max(done, least))
    return found


def judged(claim: Claim, found: Found) -> Judgement:
    """The verdict of a claim over all its seeds."""
    return judge([claim.effect(groups) for groups in found.values()], claim.smallest)


def print_summary(found: list[tuple[Claim, Found]], *, quick: bool) -> None:
    """One line per claim: sentence, verdict, effect with its confidence interval."""
    from rich.console import Console
    from rich.table import Table

    title = "quick: trained for a tenth of the steps, not to be quoted" if quick else None
    table = Table("claim", "verdict", "effect", "95 % interval", "the effect is", box=None, pad_edge=False, title=title)
    for claim, groups in found:
        j = judged(claim, groups)
        table.add_row(claim.sentence, j.said, f"{j.mean:+.3g}", f"{j.low:+.3g} .. {j.high:+.3g}", claim.in_words)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def write_page(out: Path, found: list[tuple[Claim, Found]], *, quick: bool) -> None:
    """index.html: a table of verdicts, then every claim with its picture and the figures of every seed."""
    from minigen.train.checkpoint import write_atomically

    note = "<p><b>Quick: trained for a tenth of the steps. Not to be quoted.</b></p>" if quick else ""
    intro = (
        "<p>Common claims about these models, tested on this machine by the code of this project. Each claim became an "
        "experiment whose effect is positive where it supports the claim; the verdict compares the 95 % confidence "
        "interval of the effect over independent trainings with the smallest effect that would matter.</p>"
    )
    body = [intro, _chance(found), note, _table(found), *(_section(claim, groups) for claim, groups in found)]
    write_atomically(out / "index.html", page.document("minigen: the ledger of claims", "\n".join(body)).encode())


def _chance(found: list[tuple[Claim, Found]]) -> str:
    """How many claims are judged, and so which verdicts not to trust; nothing if none is decided."""
    judgements = [judged(claim, groups) for claim, groups in found]
    decided = sum(j.verdict != UNDECIDED for j in judgements)
    if not decided:
        return ""
    weak = [
        claim.sentence
        for (claim, _), j, stands in zip(found, judgements, holm(judgements))
        if j.verdict != UNDECIDED and not stands
    ]
    return (
        f"<p>{_together(len(found), decided, weak)} The seeds must be fixed beforehand: adding seeds until a verdict "
        "pleases is not a test.</p>"
    )


def _together(judged: int, decided: int, weak: list[str]) -> str:
    """How many verdicts hold jointly, given how many claims are judged, and which (``weak``) do not."""
    if judged == 1:
        return "1 claim is judged, at 95 %."
    standing = decided - len(weak)
    few = f"{standing or 'None'} of {decided} verdicts {'hold' if standing > 1 else 'holds'}"
    few = few if decided > 1 else f"The one verdict that is decided {'holds' if standing else 'does not hold'}"
    sure = ": with 95 % confidence none is due to chance" if standing else ""
    which = f" To be doubted: {page.text('; '.join(weak))}." if weak else ""
    return (
        f"{judged} claims are judged, each on its own at 95 %. {few} jointly with the others{sure} (Holm 1979).{which}"
    )


def _table(found: list[tuple[Claim, Found]]) -> str:
    lines = []
    for claim, groups in found:
        j = judged(claim, groups)
        lines.append(
            f'<tr><td style="white-space:normal"><a href="#{page.text(claim.name)}">{page.text(claim.sentence)}</a></td>'
            f"<td>{page.text(j.said)}</td><td>{j.mean:+.3g}</td><td>{j.low:+.3g} .. {j.high:+.3g}</td></tr>"
        )
    head = "<tr><th>claim</th><th>verdict</th><th>effect</th><th>95 % interval</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(lines)}</table></div>'


def _section(claim: Claim, found: Found) -> str:
    from minigen.claims.plot import svg

    j = judged(claim, found)
    labels = list(next(iter(found.values())))
    head = "<tr><th>seed</th>" + "".join(f"<th>{page.text(label)}</th>" for label in [*labels, "effect"]) + "</tr>"
    lines = "".join(
        f"<tr><td>{seed}</td>"
        + "".join(f"<td>{value:.4g}</td>" for value in [*groups.values(), claim.effect(groups)])
        + "</tr>"
        for seed, groups in found.items()
    )
    least = f" An effect of at least {claim.smallest:g} would matter." if claim.smallest else ""
    return "\n".join(
        [
            f'<section id="{page.text(claim.name)}"><h2>“{page.text(claim.sentence)}”: {page.text(j.said)}</h2>',
            f'<p class="small">{page.text(claim.source)} · {page.text(", ".join(claim.systems))}</p>',
            f"<p>The effect is {page.text(claim.in_words)}: {j.mean:+.3g}, between {j.low:+.3g} and {j.high:+.3g} "
            f"(95 %, {len(found)} seeds).{least}</p>",
            svg(claim, found),
            f'<p class="small">{page.text(claim.unit)}</p>',
            f'<div class="wide"><table>{head}{lines}</table></div></section>',
        ]
    )
