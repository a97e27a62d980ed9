"""The family portrait as HTML: who is who, their pictures side by side, their figures in one table.

Numbers are those of tour.json.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from minigen.cli import arguments, curriculum, page, portrait, quality
from minigen.errors import UserError

SHOWN = "portrait.png"  # beside a system's facts: the pictures that it was asked for, side by side, pixel by pixel
ZOOM = {True: 8, False: 3}  # each pixel this often, in strips of pictures below 16 pixels a side, and above
CELL = 2  # the same where each picture stands alone
STYLE = """
body { max-width: 62rem; }
.strips { display: grid; gap: .1rem .8rem; align-items: center; grid-template-columns: minmax(6rem, 13rem) 1fr; }
.strips img, .cells img { margin: .1rem 0; width: 100%; } .strips .heads { display: flex; }
.heads span { flex: 1; text-align: center; font-size: .8rem; }
.cells { table-layout: fixed; width: 100%; } .cells th:first-child { width: 30%; white-space: normal; font-weight: normal; }
.cells td, .cells th { text-align: left; vertical-align: top; padding: .15rem .25rem; overflow-wrap: anywhere; }
.cells img { max-width: 6rem; } .cells span { font-size: .7rem; line-height: 1.2; display: block; }
.figures th:first-child { position: sticky; left: 0; background: Canvas; white-space: normal; min-width: 7rem; max-width: 11rem; }
.figures { font-size: .85rem; } .figures td, .figures th { padding: .2rem .4rem; } .figures th:first-child { padding-left: 0; }
.figures tbody th { font-weight: normal; } .figures td { white-space: nowrap; } .figures .group th { font-weight: 600; opacity: .8; }
.who { padding-left: 1.1rem; } .who li { margin: .3rem 0; }
@media (prefers-color-scheme: dark) { .figures th:first-child { background: #16181c; } }
@media (max-width: 34rem) { .strips { grid-template-columns: 1fr; gap: 0; } .cells span { font-size: .6rem; } }
"""
text = page.text


def render(visited: list[dict[str, Any]], out: Path) -> str:
    """The portrait of the systems that got to the end, and a row of the table for each of the others too."""
    if not visited:
        return ""
    whole = [facts for facts in visited if "failed" not in facts]
    parts = {
        "classes": ("the same classes", _strips(whole, out)),
        "prompts": ("the same prompts", _prompts(whole, out)),
        "others": ("the others", _others(whole, out)),
        "figures": ("figures", _figures(visited)),
    }
    links = " · ".join(f'<a href="#{name}">{what}</a>' for name, (what, written) in parts.items() if written)
    written = "".join(f'<div id="{name}">{written}</div>' for name, (_, written) in parts.items() if written)
    return (
        f'<section id="portrait"><h2>The family</h2>{_who(visited)}<p>Side by side: {links}.</p></section>'
        f'<section aria-label="side by side">{written}</section>'
    )


# --- who is who -------------------------------------------------------------------------------------------------------


def _who(visited: list[dict[str, Any]]) -> str:
    """A line per system: what its file says is new, the systems it builds on, and the first of its own figures."""
    titles = {name: entry.title for name, entry in curriculum.systems().items()}
    there = {facts["name"] for facts in visited}
    lines = []
    for facts in visited:
        new = f": {_code(facts['new'])}" if facts["new"] else ""
        needs = [
            f'<a href="#{text(n)}">{text(titles[n])}</a>' if n in there else text(titles[n]) for n in facts["from"]
        ]
        stands = f" Builds on {', '.join(needs)}." if needs else ""
        own = next(iter(facts.get("own", {}).items()), None)
        says = "" if own is None or own[1] is None else f' <span class="small">{text(own[0])}: {own[1]:.4g}.</span>'
        lines.append(f'<li><a href="#{text(facts["name"])}">{text(facts["title"])}</a>{new}.{stands}{says}</li>')
    return f'<ul class="who">{"".join(lines)}</ul>'


def _code(line: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", text(line))


# --- their pictures ---------------------------------------------------------------------------------------------------


def pictures(facts: dict[str, Any], out: Path) -> Any:
    """(n, h, w, 3): the pictures of a system, cut apart."""
    from PIL import Image

    with Image.open(out / facts["name"] / SHOWN) as image:
        side_by_side = np.asarray(image.convert("RGB"))
    return np.stack(np.split(side_by_side, len(facts["shown"]["asked"]), axis=1))


def _strips(whole: list[dict[str, Any]], out: Path) -> str:
    """The systems whose data have classes: the same classes in the same order in every row, under test pictures of them."""
    rows = [facts for facts in whole if facts["shown"]["how"] in ("asked", "found")]
    parts = []
    for name in dict.fromkeys(facts["data"] for facts in rows):
        of_data = [facts for facts in rows if facts["data"] == name]
        classes, test = _classes(of_data[0])
        wrong = portrait.astray(of_data, ("asked", "found"), classes)
        heads = "".join(f"<span>{text(c)}</span>" for c in classes)
        lines = [f'<div></div><div class="heads" aria-hidden="true">{heads}</div>']
        if test is not None:
            lines.append(f"<div>test pictures</div>{_strip(test, f'a test picture of each class of {name}')}")
        for facts in of_data:
            if facts not in wrong:
                lines.append(f"<div>{_link(facts)}</div>{_strip(pictures(facts, out), _words(facts))}")
        parts.append(
            f"<h3>The same classes: {text(name)}</h3>"
            f'<p class="small">Systems that can be asked for a class were asked for each (◆). Of the others\' '
            f"{quality.SAMPLES} samples, the first one that the ruler's classifier takes for the class is shown; grey "
            f'if there is none.</p><div class="strips">{"".join(lines)}</div>{_left_out(wrong, "classes")}'
        )
    return "".join(parts)


def _classes(facts: dict[str, Any]) -> tuple[list[str], Any]:
    """The classes of a system's data and a test picture of each, grey where there is none; None where its files are gone."""
    try:
        dataset = _dataset(facts["data"], facts.get("data_dir"))
    except UserError:
        return facts["shown"]["asked"], None
    blank = np.full(dataset.shape, portrait.BLANK, np.float32)
    found = [np.flatnonzero(dataset.test.labels == k)[:1] for k in range(len(dataset.classes))]
    test = [dataset.scale(dataset.test.images[i])[0] if len(i) else blank for i in found]
    return list(dataset.classes), dataset.to_rgb8(np.stack(test))


def _words(facts: dict[str, Any]) -> str:
    """What a strip shows, for those who do not see it."""
    shown = facts["shown"]
    how = "asked for each class" if shown["how"] == "asked" else "the first sample taken for each class"
    notes = [f"{a}: {s}" for a, s in zip(shown["asked"], shown["said"]) if s]
    return f"{facts['title']}, {how}, {shown['asked'][0]} to {shown['asked'][-1]}" + (
        f" ({'; '.join(notes)})" if notes else ""
    )


def _strip(images: Any, alt: str) -> str:
    from minigen.train.pictures import png, tile

    return page.image(png(tile(images, len(images), zoom=ZOOM[images.shape[1] < 16])), alt)


def _link(facts: dict[str, Any]) -> str:
    mark = " ◆" if facts["shown"]["how"] == "asked" else ""
    return f'<a href="#{text(facts["name"])}">{text(facts["title"])}</a>{mark}'


def _prompts(whole: list[dict[str, Any]], out: Path) -> str:
    """The systems that draw what a prompt says: prompts as rows, systems as columns, the oracle's verdict below."""
    from minigen.metrics.prompts import GROUPS

    rows = [facts for facts in whole if facts["shown"]["how"] == "prompts"]
    if not rows:
        return ""
    prompts = portrait.prompts_shown()
    wrong = portrait.astray(rows, ("prompts",), prompts)
    rows = [facts for facts in rows if facts not in wrong]
    real = quality.drawn_again(prompts, seed=0)
    of = {facts["name"]: pictures(facts, out) for facts in rows}
    head = "".join(f'<th scope="col">{_link(facts)}</th>' for facts in rows)
    lines = []
    for i, prompt in enumerate(prompts):
        if i % portrait.SHOWN == 0:
            group = list(GROUPS)[i // portrait.SHOWN]
            lines.append(f'<tr><th colspan="{len(rows) + 2}" scope="rowgroup"><b>{text(group)}</b></th></tr>')
        cells = f"<td>{_cell(real[i], 'as it should be')}</td>"
        for facts in rows:
            said = facts["shown"]["said"][i]
            picture = _cell(of[facts["name"]][i], f"{facts['title']}: {said}")
            cells += f"<td>{picture}<span>{_verdict(said)}</span></td>"
        lines.append(f'<tr><th scope="row">{text(prompt)}</th>{cells}</tr>')
    return (
        "<h3>The same prompts</h3>"
        f'<p class="small">Each system drew {_prompts_of_a_kind(rows)} prompts of each kind; these are the first {portrait.SHOWN}, with what '
        'the oracle says of the picture. "Held out" names combinations that training never shows.</p>'
        f'<table class="cells"><tr><th scope="col">prompt</th><th scope="col">as it should be</th>{head}</tr>{"".join(lines)}</table>'
        f"{_left_out(wrong, 'prompts')}{_report(rows)}"
    )


def _prompts_of_a_kind(rows: list[dict[str, Any]]) -> str:
    """How many prompts per kind, as recorded: 64, or 32 and 64 if systems differ."""
    return " and ".join(f"{n:g}" for n in sorted({r["n"] for f in rows if f["prompts"] for r in f["prompts"].values()}))


def _verdict(said: str) -> str:
    return "✓ right" if said == "right" else f"✗ {text(said)}"


def _cell(image: Any, alt: str) -> str:
    from minigen.train.pictures import png

    return page.image(png(image.repeat(CELL, axis=0).repeat(CELL, axis=1)), alt)


def _report(rows: list[dict[str, Any]]) -> str:
    """The share of prompts met in every respect, by their kind, with the standard error."""
    if not rows:
        return ""
    groups = list(rows[0]["prompts"])
    lines = []
    for facts in rows:
        rates = [portrait.rate(facts["prompts"][group]["all"], facts["prompts"][group]["n"]) for group in groups]
        cells = "".join(f"<td>{text(r if isinstance(r, str) else portrait.in_words(r, 2))}</td>" for r in rates)
        lines.append(f'<tr><th scope="row">{text(facts["title"])}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{text(group)}</th>' for group in groups)
    table = f'<table class="figures"><tr><th scope="col">everything right</th>{head}</tr>{"".join(lines)}</table>'
    return page.wide(table, "share of prompts met, by their kind")


def _left_out(wrong: list[dict[str, Any]], what: str) -> str:
    lines = [
        f'<p class="failed">{text(facts["title"])} was shown other {what}, or in another order, and cannot be compared '
        "with the others: visit it again.</p>"
        for facts in wrong
    ]
    return "".join(lines)


def _others(whole: list[dict[str, Any]], out: Path) -> str:
    """The systems that were asked for nothing: their first samples."""
    rows = [facts for facts in whole if facts["shown"]["how"] == "samples"]
    if not rows:
        return ""
    lines = []
    for facts in rows:
        asked = [note for note in dict.fromkeys(facts["shown"]["asked"]) if note]
        alt = f"{facts['title']}: its first samples" + (f" ({'; '.join(asked)})" if asked else "")
        lines.append(f"<div>{_link(facts)}</div>{_strip(pictures(facts, out), alt)}")
    return (
        '<h3>And these</h3><p class="small">First samples of systems that take no prompts; of one that draws nothing, what it finds.</p>'
        f'<div class="strips">{"".join(lines)}</div>'
    )


@cache
def _dataset(name: str, data_dir: str | None) -> Any:
    return arguments.load_data(name, data_dir)


# --- their figures ----------------------------------------------------------------------------------------------------


def _figures(visited: list[dict[str, Any]]) -> str:
    """One row per system, grouped by the data it learnt from, with the figures of references below."""
    reasons: dict[str, int] = {}
    columns = portrait.COLUMNS

    def cell(value: portrait.Figure | str, digits: int | None) -> str:
        if not isinstance(value, str):
            return f"<td>{portrait.in_words(value, digits)}</td>"
        number = reasons.setdefault(value, len(reasons) + 1)
        return f'<td><a href="#why-{number}" aria-label="no figure, reason {number}">n/a <sup>{number}</sup></a></td>'

    bodies = []
    for name in dict.fromkeys(facts.get("data", "") for facts in visited):
        rows = [facts for facts in visited if facts.get("data", "") == name]
        title = name or "not done"
        lines = [f'<tr class="group"><th colspan="{len(columns) + 1}" scope="rowgroup">{text(title)}</th></tr>']
        for facts in rows:
            found = portrait.row(facts)
            cells = "".join(cell(found[key], column.digits) for key, column in columns.items())
            link = f'<a href="#{text(facts["name"])}">{text(facts["title"])}</a>'
            lines.append(f'<tr><th scope="row">{link}</th>{cells}</tr>')
        bodies.append(f"<tbody>{''.join(lines)}{_known(rows)}</tbody>")
    head = "".join(f'<th scope="col">{text(column.heading)}</th>' for column in columns.values())
    table = f'<table class="figures"><thead><tr><th scope="col"></th>{head}</tr></thead>{"".join(bodies)}</table>'
    why = "".join(f'<li id="why-{number}">{text(reason)}</li>' for reason, number in reasons.items())
    words = "".join(f"<dt>{text(c.heading)}</dt><dd>{text(c.meaning)}</dd>" for c in columns.values())
    return (
        f"<h3>Their figures</h3>{page.wide(table, 'figures of all systems')}"
        f'<p class="small">{_errors(visited)}</p>'
        + (f'<div class="small">No figure (n/a), because<ol>{why}</ol></div>' if why else "")
        + f'<details class="small"><summary>What the columns are</summary><dl>{words}</dl></details>'
    )


def _known(rows: list[dict[str, Any]]) -> str:
    """Real images, and baselines without a network, by the same measures."""
    found: dict[str, dict[str, Any]] = {}
    for facts in rows:
        for label, figures in facts.get("quality", {}).items():
            if label != quality.OURS and (figures.keys() & {*portrait.COLUMNS, "valid"}):  # points have others
                found.setdefault(label, figures)
    lines = []
    for label, figures in found.items():
        lines.append(_plain(label, {**figures, "accepted": figures.get("valid", figures.get("accepted"))}))
    chance = next((facts["chance"] for facts in rows if facts.get("chance")), None)
    if chance is not None and chance[0] is not None:  # it is infinite where the images have no distance
        lines.append(_plain("train, drawn with replacement", {"fd_ratio": portrait.Figure(*chance)}))
    return "".join(lines)


def _plain(label: str, figures: dict[str, Any]) -> str:
    """A row of figures without errors, blank where there is none."""
    cells = []
    for key, column in portrait.COLUMNS.items():
        value = figures.get(key)
        shown = value if isinstance(value, portrait.Figure | None) else portrait.Figure(value)
        cells.append(f"<td>{'' if shown is None else portrait.in_words(shown, column.digits)}</td>")
    return f'<tr class="small"><th scope="row">{text(label)}</th>{"".join(cells)}</tr>'


def _errors(visited: list[dict[str, Any]]) -> str:
    """What the errors are, and what is not in them."""
    whole = [facts for facts in visited if "failed" not in facts]
    pictured = [facts for facts in whole if facts["real"] is not None and not portrait.of_points(facts)]
    sizes = {facts["data"]: (facts["samples"], facts["real"]) for facts in pictured}
    said = [f"{text(name)}: {n:,} samples, {real:,} real pictures" for name, (n, real) in sizes.items()]
    asked = sorted({facts["right"]["n"] for facts in whole if facts["right"] and "n" in facts["right"]})
    said += [f"{n:,} pictures that were asked for by class" for n in asked]
    said += [f"{n} prompts of a kind" for n in [_prompts_of_a_kind(whole)] if n]
    seeds = sorted({facts["seed"] for facts in whole})
    command = f"minigen sample NAME --weights NAME/weights.safetensors --seed {' or '.join(map(str, seeds)) or 'N'}"
    return (
        "± is the standard error of a share, √(p (1 − p) / n), as if pictures were independent "
        f"({'; '.join(said)}; at 0 and 1 with two successes and two failures added), and for FD x the spread over "
        "samples drawn again from the samples. Each system is trained once, by its own budget: how much another "
        "training would differ is not included. Seconds are those of this machine, under its other load."
        f"{_share(whole)} In this folder, <code>{command} --n {quality.SAMPLES} --quality</code> prints the first "
        "four figures of digits again, and <code>--prompts N</code> those of N prompts of a kind."
    )


def _share(whole: list[dict[str, Any]]) -> str:
    both = [(facts["sitting_cpu_seconds"], facts["cpu_seconds"]) for facts in whole if facts["cpu_seconds"]]
    if not both:
        return ""
    spent, trained = map(sum, zip(*both))
    return f" Drawing and measuring for this page took {spent:,.0f} CPU seconds, training {trained:,.0f}."
