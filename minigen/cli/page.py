"""Pages: one HTML file with its pictures inside, for a browser without a network and for a phone. Here the tour's."""

import base64
import html
import os
from pathlib import Path
from typing import Any

from minigen.cli import quality

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 0 0 .2rem; }
section { border-top: 1px solid var(--line); padding: 1.2rem 0; }
p { margin: .4rem 0; } .small { font-size: .85rem; opacity: .8; }
.equation { overflow-x: auto; background: var(--soft); padding: .5rem .7rem; border-radius: .4rem; white-space: nowrap; }
img, svg { display: block; max-width: 100%; height: auto; margin: .8rem 0; }
img { image-rendering: pixelated; border-radius: .3rem; }
svg { width: 100%; max-width: 34rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap; }
dt { font-weight: 600; } dd { margin: 0 0 .3rem; }
.failed { border-left: .25rem solid #c33; padding-left: .7rem; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e6e6; } a { color: #8ab4f8; } }
"""


def render(visited: list[dict[str, Any]], out: Path) -> str:
    """The whole page for the systems visited so far; ``out`` is where it will lie."""
    sections = "\n".join(_section(facts, out) for facts in visited)
    body = sections or "<p>The first system is training; this page grows with each one that is done.</p>"
    intro = (
        "<p>Each model below was trained from random numbers on this machine, within a small budget of time, by the code "
        "that its link leads to.</p>"
    )
    return document("minigen: the tour", f"{intro}\n{_contents(visited)}\n{body}")


def document(title: str, body: str) -> str:
    """A whole page, which needs nothing but itself, around its body."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{text(title)}</h1>\n{body}\n</body></html>\n"
    )


def _contents(visited: list[dict[str, Any]]) -> str:
    if len(visited) < 2:
        return ""
    return "<p>" + " · ".join(f'<a href="#{text(f["name"])}">{text(f["title"])}</a>' for f in visited) + "</p>"


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
    picture = _picture(folder / "trajectory.png", "the way from noise to samples, one sample a row")
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
    figures = {
        "trained for": f"{facts['seconds']:.1f} s, {facts['steps']:,} steps on {facts['data']}",
        "parameters": f"{facts['parameters']:,}",
        **losses,
        **{name: f"{value:.4g}" for name, value in facts.get("own", {}).items()},
        f"{facts['samples']:,} samples took": f"{facts['sampling_seconds']:.2f} s",
    }
    cells = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in figures.items())
    return f'<div class="wide"><table>{cells}</table></div>'


def _quality(facts: dict[str, Any]) -> str:
    rows, meanings = facts["quality"], facts["meanings"]
    found = {group: [name for name in names if _known(name, rows)] for group, names in quality.groups().items()}
    tables = [_table(group, names, rows) for group, names in found.items() if names]
    if not tables:
        return ""
    words = "".join(
        f"<dt>{text(name)}</dt><dd>{text(meanings[name])}</dd>" for names in found.values() for name in names
    )
    return (
        '<p class="small">Quality of the samples, and of others by the same ruler:</p>'
        + "".join(tables)
        + f'<details class="small"><summary>What the columns are</summary><dl>{words}</dl></details>'
    )


def _known(name: str, rows: list[dict[str, Any]]) -> bool:
    return any(name in row["figures"] for row in rows)


def _table(group: str, names: list[str], rows: list[dict[str, Any]]) -> str:
    head = f"<tr><th>{text(group)}</th>" + "".join(f"<th>{text(name)}</th>" for name in names) + "</tr>"
    lines = "".join(
        f"<tr><td>{text(row['label'])}</td>"
        + "".join(f"<td>{text(row['figures'].get(name, ''))}</td>" for name in names)
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table>{head}{lines}</table></div>'


def _picture(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{text(alt)}" src="data:image/png;base64,{data}">'


def _link(source: str, out: Path) -> str:
    """A relative link to a file on this machine, so that the folder can move together with the project."""
    try:
        return text(Path(os.path.relpath(source, out.resolve())).as_posix())
    except ValueError:  # another drive on Windows
        return text(Path(source).as_uri())


def text(value: str) -> str:
    """A value as text of a page."""
    return html.escape(str(value))
