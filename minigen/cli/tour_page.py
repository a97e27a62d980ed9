"""The page of `minigen tour`: the family portrait, then what each system showed of itself."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from minigen.cli import page, portrait_page, quality

text = page.text


def render(visited: list[dict[str, Any]], out: Path) -> str:
    """The whole page for the systems visited so far; ``out`` is where it will lie."""
    sections = "\n".join(_section(facts, out) for facts in visited)
    body = sections or "<p>The first system is training; this page grows with each one that is done.</p>"
    intro = (
        "<p>Each model below was trained from random weights on this machine, in the time given with it, by the code "
        "that it links to.</p>"
    )
    parts = (intro, portrait_page.render(visited, out), body)
    return page.document("minigen: the family portrait", "\n".join(parts), portrait_page.STYLE)


def pictures_of(facts: dict[str, Any]) -> list[str]:
    """The files beside the facts of a system that the page shows."""
    own = [f"picture-{name}.png" for name in facts["pictures"]]
    strip = ["trajectory.png"] if facts["trajectory"] else []
    shown = [portrait_page.SHOWN] if facts["shown"]["asked"] else []
    return ["samples.png", "loss.svg", *own, *strip, *shown]


def _section(facts: dict[str, Any], out: Path) -> str:
    folder = out / facts["name"]
    head = [
        f'<section id="{text(facts["name"])}"><h2>{facts["chapter"]}. {text(facts["title"])}</h2>',
        f'<p class="small">{text(facts["paper"])} · <a href="{_link(facts["source"], out)}">{text(facts["file"])}</a>'
        f" · {text(facts['when'])}</p>",
    ]
    if "failed" in facts:
        return "\n".join([*head, f'<p class="failed">It did not get to the end: {text(facts["failed"])}</p></section>'])
    return "\n".join(
        [
            *head,
            f'<p class="equation"><code>{text(facts["equation"])}</code></p>',
            _picture(folder / "samples.png", f"samples of {facts['title']} trained on {facts['data']}"),
            _strip(facts, folder),
            _pictures(facts, folder),
            _curve(folder),
            _figures(facts),
            _quality(facts),
            "</section>",
        ]
    )


def _strip(facts: dict[str, Any], folder: Path) -> str:
    if not facts["trajectory"]:
        return ""
    picture = _picture(folder / "trajectory.png", "the way from noise to samples, one sample per row")
    return f'<p class="small">From noise to a sample, left to right:</p>{picture}'


def _pictures(facts: dict[str, Any], folder: Path) -> str:
    shown = [
        f'<p class="small">{text(name.capitalize())}: {text(what)}</p>{_picture(folder / f"picture-{name}.png", what)}'
        for name, what in facts["pictures"].items()
    ]
    return "\n".join(shown)


def _curve(folder: Path) -> str:
    svg = (folder / "loss.svg").read_text(encoding="utf-8")
    return f'<p class="small">Loss:</p>{svg}' if svg else ""


def _figures(facts: dict[str, Any]) -> str:
    losses = {f"loss {name} (end)": f"{value:.4g}" for name, value in facts["losses"].items()}
    cpu = "" if facts["cpu_seconds"] is None else f" ({facts['cpu_seconds']:.1f} CPU s)"
    figures = {
        "trained for": f"{facts['seconds']:.1f} s{cpu}, {facts['steps']:,} steps on {facts['data']}",
        "parameters": f"{facts['parameters']:,}",
        **losses,
        **{name: "-" if value is None else f"{value:.4g}" for name, value in facts["own"].items()},
        f"{facts['samples']:,} samples took": f"{facts['sampling_seconds']:.2f} s",
    }
    cells = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in figures.items())
    return page.wide(f"<table>{cells}</table>", f"figures of {facts['title']}")


def _quality(facts: dict[str, Any]) -> str:
    rows, meanings = {label: quality.as_text(row) for label, row in facts["quality"].items()}, quality.meanings()
    found = {
        group: [name for name in names if any(name in row for row in rows.values())]
        for group, names in quality.groups().items()
    }
    tables = [_table(group, names, rows) for group, names in found.items() if names]
    if not tables:
        return ""
    words = "".join(
        f"<dt>{text(name)}</dt><dd>{text(meanings[name])}</dd>" for names in found.values() for name in names
    )
    return (
        '<p class="small">Quality of the samples, and of references by the same ruler:</p>'
        + "".join(tables)
        + f'<details class="small"><summary>What the columns are</summary><dl>{words}</dl></details>'
    )


def _table(group: str, names: list[str], rows: dict[str, dict[str, str]]) -> str:
    head = f"<tr><th>{text(group)}</th>" + "".join(f"<th>{text(name)}</th>" for name in names) + "</tr>"
    lines = "".join(
        f"<tr><td>{text(label)}</td>" + "".join(f"<td>{text(row.get(name, ''))}</td>" for name in names) + "</tr>"
        for label, row in rows.items()
    )
    return page.wide(f"<table>{head}{lines}</table>", group)


def _picture(path: Path, alt: str) -> str:
    return page.image(path.read_bytes(), alt)


def _link(source: str, out: Path) -> str:
    """A relative link to a file on this machine, so that the folder can move together with the project."""
    try:
        return text(quote(Path(os.path.relpath(source, out.resolve())).as_posix()))
    except ValueError:  # another drive on Windows
        return text(Path(source).as_uri())
