"""The report of `minigen laws --html`: which laws hold by how much, and pictures of where a sampler goes wrong."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minigen.cli.page import document, text
from minigen.errors import in_words
from minigen.laws import protocol, suite
from minigen.laws.beds import Gaussian
from minigen.laws.order_laws import COUNTS, LATE, UNEVEN, flow_errors, slope, uneven, worded
from minigen.laws.protocol import Fault
from minigen.laws.recorder import Tape, moments, run, tape_start
from minigen.laws.verdict import Verdict

INK, TOLD, STATE = "#7a7f87", "#3b7dd8", "#d8603b"  # readable on white and on black
POINT, STD = 0.7, 0.5
FEW = 6  # more samplers than this stand below each other in the table
MOST = 130  # steps in a picture
SHOWN = 12  # samplers with pictures, those that fail first
STYLE = """<style>
.pass { color: #2a8a4a; } .fail { color: #d33; font-weight: 600; } .skip { opacity: .45; }
body { max-width: 62rem; } td.law, th.law { white-space: nowrap; text-align: left; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; } .pair > div { flex: 1 1 20rem; min-width: 0; }
</style>"""


def render(samplers: Sequence[Any], verdicts: Iterable[Verdict]) -> str:
    """The whole page. Samplers are run once more for their pictures."""
    verdicts = list(verdicts)
    total = Counter(verdict.status for verdict in verdicts)
    said = (
        f"<p>{len(samplers)} tried: {total['pass']} verdicts pass, {total['fail']} fail, {total['skip']} skipped because not "
        "claimed or not applicable. Each number is a law's worst value over its limit: above 1 is broken.</p>"
    )
    failed = {verdict.sampler for verdict in verdicts if verdict.failed}
    first = sorted(samplers, key=lambda sampler: protocol.name(sampler) not in failed)
    pictures = "\n".join(_section(sampler, verdicts) for sampler in first[:SHOWN])
    more = f'<p class="small">No pictures of {len(first) - SHOWN} more.</p>' if len(first) > SHOWN else ""
    return document("minigen: laws", f"{STYLE}{said}\n{_table(verdicts)}\n{pictures}\n{more}")


def _table(verdicts: Sequence[Verdict]) -> str:
    """Laws as rows, configurations as columns; transposed if there are many of these."""
    names = list(dict.fromkeys(verdict.sampler for verdict in verdicts))
    titles = {law.name: law.title for law in suite.LAWS}
    laws = [law for law in titles if any(v.law == law for v in verdicts)]
    cells = {
        (law, name): _cell([v for v in verdicts if (v.law, v.sampler) == (law, name)]) for law in laws for name in names
    }
    if len(names) <= FEW:
        head = "".join(f"<th>{text(name)}</th>" for name in names)
        rows = "".join(
            f'<tr><td class="law">{law} <span class="small">{text(titles[law])}</span></td>'
            + "".join(cells[law, name] for name in names)
            + "</tr>"
            for law in laws
        )
    else:
        head = "".join(f'<th title="{text(titles[law])}">{law}</th>' for law in laws)
        rows = "".join(
            f'<tr><td class="law">{text(name)}</td>' + "".join(cells[law, name] for law in laws) + "</tr>"
            for name in names
        )
    return f'<div class="wide"><table><tr><th class="law">law</th>{head}</tr>{rows}</table></div>'


def _cell(found: list[Verdict]) -> str:
    if not found:
        return "<td></td>"
    worst = max(found, key=lambda v: ({"skip": 0, "pass": 1, "fail": 2}[v.status], _share(v)))
    said = {"skip": "·"}.get(worst.status) or (
        "fault"
        if worst.value is None
        else "exact"
        if worst.value == 0
        else f"{_share(worst):.1e}"
        if worst.limit
        else "broken"
    )
    numbers = "" if worst.value is None else f" ({worst.value:.3g} found, {worst.limit:.3g} allowed, {worst.dtype})"
    note = f"; {worst.note}" if worst.note else ""
    return f'<td class="{worst.status}" title="{text(worst.detail + numbers + note)}">{said}</td>'


def _share(verdict: Verdict) -> float:
    if verdict.value is None or not np.isfinite(verdict.value):
        return float("inf") if verdict.failed else 0.0
    return verdict.value / verdict.limit if verdict.limit else float(verdict.value > 0)


def _section(sampler: Any, verdicts: Sequence[Verdict]) -> str:
    name = protocol.name(sampler)
    own = [verdict for verdict in verdicts if verdict.sampler == name]
    titles = {law.name: law.title for law in suite.LAWS}
    broken = "".join(f"<li>{text(suite.line(v))} [{text(titles[v.law])}]</li>" for v in own if v.failed)
    skipped = "; ".join(dict.fromkeys(f"{v.law} ({v.detail})" for v in own if v.status == "skip"))
    title = f"<section><h2>{text(name)}</h2>"
    list_ = f'<ul class="failed">{broken}</ul>' if broken else '<p class="small">Breaks no law that it claims.</p>'
    if sampler.space == "discrete":
        parts = [_strings(sampler)]
    elif sampler.space in protocol.SPACES:
        n = _number(sampler, own)
        parts = [_levels(sampler, n), *_orders(sampler), _heat(sampler, n)]
    else:
        parts = []
    pictures = "".join(f"<div>{part}</div>" for part in parts if part)
    list_ += f'<p class="small">Skipped: {text(skipped)}.</p>' if skipped else ""
    return f'{title}{list_}<div class="pair">{pictures}</div></section>'


def _number(sampler: Any, verdicts: Sequence[Verdict]) -> int:
    """How many steps to picture: those at which a law failed first, if it says so; else the number nearest to ten."""
    for verdict in verdicts:
        said = re.findall(r"(\d+) levels", verdict.detail) if verdict.failed else []
        if said and 0 < int(said[-1]) <= MOST:
            return int(said[-1])
    return min(protocol.steps(sampler), key=lambda n: abs(n - 10))


def _levels(sampler: Any, n: int) -> str:
    """Share of noise in every state, on data of one point, beside that of the level given to the model."""
    try:
        first = protocol.levels(sampler, n)[0]
        x = tape_start(sampler, first, first.a * POINT, first.s, protocol.draws(sampler, n) + 4, np.float64)
        trace = run(sampler, n, Gaussian(POINT), x, noise=Tape())
    except Exception as error:  # of a sampler, or of a number of draws that no memory holds
        return f'<p class="small">No picture with {suite.steps(n)}: {_reason(error)}</p>'
    told = [call.level.s for call in trace.calls]
    state = []
    for call in trace.calls:
        mean, std = (float(part[0]) for part in moments(call.x))
        state.append(std / max(np.hypot(mean / POINT, std), 1e-12))

    def draw(axes: Any) -> None:
        calls = np.arange(1, len(told) + 1)
        axes.plot(calls, told, "o-", color=TOLD, ms=6, lw=1, mfc="none", label="of the level")
        axes.plot(calls, state, "x", color=STATE, ms=5, mew=1.5, label="of the state")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("call")
        axes.set_ylabel("share of noise, σ / √(α² + σ²)")
        axes.legend(frameon=False, labelcolor=INK)

    return f'<p class="small">Level given to the model and that of the state, {suite.steps(n)}; data of one point.</p>{_svg(draw, name(sampler) + "levels")}'


def _reason(error: Exception) -> str:
    """Why there is no picture: a fault in its own words, anything else with its type."""
    return text(str(error) if isinstance(error, Fault) else in_words(error))


def _orders(sampler: Any) -> list[str]:
    """Errors against the number of steps: on the grids that L21 and L22 judge, beside the orders that are claimed."""
    if sampler.claims.get("order") is None or not callable(getattr(sampler, "on", None)):
        return []
    even = _errors(sampler, "L21", ((1.0,),), sampler.claims["order"])
    return [even, _errors(sampler, "L22", UNEVEN, uneven(sampler.claims))]


def _errors(sampler: Any, law: str, patterns: Sequence[Sequence[float]], claim: int) -> str:
    """Errors on grids of these steps, and lines of the claimed slope from where it is measured first."""
    late = claim >= LATE
    try:
        found = {worded(steps): flow_errors(sampler, steps, late=late) for steps in patterns}
    except Exception as error:  # also of its own method on
        return f'<p class="small">No errors of {law}: {_reason(error)}</p>'
    if not all(np.isfinite(errors).all() and len(errors) == len(COUNTS) for errors in found.values()):
        return f'<p class="small">The errors of {law} are not finite.</p>'

    def draw(axes: Any) -> None:
        for (where, errors), mark in zip(found.items(), "x+"):
            ideal = errors[-3] * (np.array(COUNTS) / COUNTS[-3]) ** -float(claim)
            axes.loglog(
                COUNTS, ideal, "-", color=TOLD, lw=1, label=f"order {claim:g}, as claimed" if mark == "x" else None
            )
            axes.loglog(COUNTS, errors, mark, color=STATE, ms=6, mew=1.5, label=f"error, {where}")
        axes.set_xlabel("steps")
        axes.set_xticks(COUNTS, [str(n) for n in COUNTS])
        axes.minorticks_off()
        axes.legend(frameon=False, labelcolor=INK)

    slopes = ", ".join(f"{slope(errors):.2f} on {where}" for where, errors in found.items())
    part = " after the first quarter of the levels" if late else ""
    said = f"{law}: error on a mixture{part}, steps in ln σ; slope {slopes}."
    return f'<p class="small">{said}</p>{_svg(draw, name(sampler) + law)}'


def _heat(sampler: Any, n: int) -> str:
    """The weight that the start and every draw have in each state: the last draws must not be in the result."""
    try:
        first = protocol.levels(sampler, n)[0]
        x = tape_start(sampler, first, 0.0, 1.0, protocol.draws(sampler, n) + 4, np.float64)
        trace = run(sampler, n, Gaussian(0.0, STD), x, noise=Tape())
    except Exception:  # as above, where it is reported
        return ""
    if not trace.draws:
        return ""
    states = [*(call.x / call.level.size for call in trace.calls), trace.result]
    rows = np.array([(state[1:] - state[:1]).reshape(len(x) - 1, -1)[:, 0] for state in states]).T
    rows = rows[: 1 + len(trace.draws)]
    if not np.isfinite(rows).all():
        return '<p class="small">The weights of the draws are not finite.</p>'

    def draw(axes: Any) -> None:
        shown = np.abs(rows)
        axes.pcolormesh(shown, cmap="viridis", vmin=0, vmax=max(1e-9, float(shown.max())), edgecolors="none")
        axes.invert_yaxis()
        axes.set_xticks(
            np.arange(rows.shape[1]) + 0.5,
            [*map(str, range(1, rows.shape[1])), "end"],
            fontsize=7 if len(states) < 25 else 4,
        )
        axes.set_yticks(np.arange(rows.shape[0]) + 0.5, ["x_T", *map(str, range(1, rows.shape[0]))], fontsize=7)
        axes.set_xlabel("state shown at call")
        axes.set_ylabel("draw")
        axes.grid(False)

    return (
        f'<p class="small">Weight of the start and each draw in every state, {suite.steps(n)}; Gaussian data. Largest: '
        f"{np.abs(rows).max():.2g}; of the last draw in the result: {abs(rows[-1, -1]):.1g}.</p>{_svg(draw, name(sampler) + 'heat')}"
    )


def _strings(sampler: Any) -> str:
    """How far the count of every string is from the expected one, in standard deviations."""
    from minigen.laws.token_laws import BEDS, DRAWS, drawn, filtered_table

    bed = BEDS[0]
    try:
        tokens = drawn(sampler, bed, DRAWS, np.random.default_rng(7))
    except Fault as fault:
        return f'<p class="small">No strings: {text(str(fault))}</p>'
    p = filtered_table(bed, {})
    counts = np.bincount(tokens @ bed.vocab ** np.arange(bed.length)[::-1], minlength=len(p))
    with np.errstate(all="ignore"):
        z = np.where(p > 0, (counts - DRAWS * p) / np.sqrt(DRAWS * p * (1 - p)), np.where(counts > 0, np.inf, 0))

    def draw(axes: Any) -> None:
        axes.axhspan(-3, 3, color=TOLD, alpha=0.15)
        axes.plot(np.where(np.isfinite(z), z, np.nan), "x", color=STATE, ms=5, mew=1.5)
        axes.set_xlabel(f"string (all {len(p)} of {bed.length} tokens)")
        axes.set_ylabel("z")

    return f'<p class="small">Frequency of every string in {DRAWS:,} draws, in standard deviations; the band is ±3.</p>{_svg(draw, name(sampler) + "z")}'


name = protocol.name


def _svg(draw: Any, salt: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.grid(color=INK, alpha=0.2)
    draw(axes)
    axes.tick_params(colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    found = buffer.getvalue()
    return found[found.index("<svg") :]
