r"""A page of the book: prose with its equations typeset, code beside it.

Prose is Markdown in which $...$ and $$...$$ hold LaTeX. That becomes MathML, which browsers draw by themselves: a page
needs no network and no script.
"""

import functools
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from minigen.cli import page
from minigen.cli.book_links import LANGUAGES, Sources
from minigen.cli.book_maths import mathml
from minigen.cli.book_split import Piece

Link = Callable[[str, str], str | None]  # where the book has what a name in prose means: the name, and with its quotes

STYLE = """
body { max-width: 92rem; }
nav { display: flex; gap: 1.5rem; flex-wrap: wrap; font-size: .9rem; }
h1 { font: 600 1.3rem ui-monospace, monospace; overflow-wrap: anywhere; }
.head { max-width: 60rem; }
.row { display: grid; grid-template-columns: minmax(0, 1fr); column-gap: 1.5rem; border-top: 1px solid var(--line); padding: .6rem 0; }
@media (min-width: 60rem) { .row { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); } .row > pre { grid-column: 2; } }
.row > div > :first-child, .row > pre { margin-top: 0; }
pre { font: .82rem/1.45 ui-monospace, monospace; overflow-x: auto; background: var(--soft); padding: .6rem .7rem; border-radius: .4rem; margin: .4rem 0; }
code { font-size: .88em; } p { overflow-wrap: break-word; }
.whole { white-space: nowrap; }
.display { display: block; overflow-x: auto; overflow-y: hidden; padding: .3rem 0; }
math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", "TeX Gyre DejaVu Math", "DejaVu Math TeX Gyre", math; font-size: 1.05em; }
th, td { text-align: left; vertical-align: top; } td:first-child { white-space: normal; }
pre a { color: inherit; text-decoration: underline dotted #8888; }
td a { white-space: nowrap; }
"""
LIGHT, DARK = "friendly", "github-dark"  # Pygments' styles
FORMATTER = HtmlFormatter(nowrap=True)

PAPER = re.compile(r"(?<![\w.])(?P<paper>(?:arXiv[: ])?(?P<number>[012]\d(?:0[1-9]|1[0-2])\.\d{4,5}))(?![\d.]*\d)")
INLINE = re.compile(
    r"(?P<code>(`+)(?!`).+?(?<!`)\2(?!`))|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$]+)\$"
    rf"|{PAPER.pattern}",
    re.DOTALL,
)
FILE = re.compile(r"\b[\w./]+\.(?:cuh|cu|hpp|cpp|py)\b")
DOT = '<span class="o">.</span>'
NAMES = re.compile(  # in what Pygments makes of code: modules of imports, included files, names that are no keyword arguments
    rf'<span class="nn">(?P<module>[\w.]+)</span>|<span class="cpf">"(?P<included>[\w./]+)"</span>'
    rf'|(?<!{DOT})(?P<names><span class="n">\w+</span>(?:{re.escape(DOT)}<span class="n">\w+</span>)*)(?!<span class="o">=</span>)'
)
lexer = functools.cache(get_lexer_by_name)
MARK = "\ue000{}\ue001"  # stands for what is put in after Markdown, which would change it


def css() -> str:
    """The book's style, with the colours of the code."""
    light, dark = (HtmlFormatter(style=name).get_style_defs("pre") for name in (LIGHT, DARK))
    return f"{STYLE}{light}\npre {{ background: var(--soft) !important; }}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def body(file: str, sources: Sources) -> str:
    """The page of a file, without its frame: its prose, then each piece of code beside its documentation.

    Raises ValueError for LaTeX that cannot be typeset.
    """
    head, pieces = sources.parts[file]
    written, link = markdown if file.endswith(".py") else plain, functools.partial(sources.in_prose, file=file)
    code = functools.partial(coloured, file=file, sources=sources)
    rows = [_row(x, written(x.prose, functools.partial(link, besides=x.arguments)), code) for x in pieces]
    return "\n".join([f'<div class="head">{written(head, link)}</div>', *rows])


def _row(piece: Piece, said: str, code: Callable[[str], str]) -> str:
    if piece.heading:
        return f"<h2>{page.text(piece.heading)}</h2>"
    name = f' id="{page.text(piece.name)}"' if piece.name else ""
    prose = f"<div>{said}</div>" if said else ""
    return f'<div class="row"{name}>{prose}{f"<pre>{code(piece.code)}</pre>" if piece.code else ""}</div>'


def coloured(code: str, file: str, sources: Sources) -> str:
    """Code with the classes of Pygments around its words; names of ours link to their definitions."""
    language = LANGUAGES[PurePosixPath(file).suffix]

    def linked(found: re.Match[str]) -> str:
        if found["module"]:
            return _anchor(sources.module(found["module"], file), found[0])
        if found["included"]:
            return _anchor(sources.in_code(found["included"], file), found[0])
        words = re.findall(r">(\w+)<", found["names"])
        return DOT.join(
            _anchor(sources.in_code(".".join(words[: i + 1]), file), span)
            for i, span in enumerate(found["names"].split(DOT))
        )

    return NAMES.sub(linked, highlight(code, lexer(language), FORMATTER))


def plain(comment: str, link: Link) -> str:
    """A comment's lines: paragraphs; what is indented keeps its columns. Names of files link to their page."""

    def linked(part: str) -> str:
        files = FILE.sub(lambda found: _anchor(link(found[0], found[0]), page.text(found[0])), page.text(part))
        return PAPER.sub(_arxiv, files)

    found = []
    for part in filter(str.strip, re.split(r"\n\s*\n", comment.strip("\n"))):
        drawn = any(line.startswith("  ") for line in part.splitlines())
        found.append(f"<pre>{linked(part)}</pre>" if drawn else f"<p>{linked(part)}</p>")
    return "".join(found)


def _anchor(to: str | None, shown: str) -> str:
    return shown if to is None else f'<a href="{page.text(to)}">{shown}</a>'


def markdown(text: str, link: Link) -> str:
    """Markdown with LaTeX as HTML; names in code that ``link`` knows link to their page, numbers of papers to arXiv.

    Raises ValueError for LaTeX that cannot be typeset.
    """
    kept: list[str] = []

    def put_away(found: re.Match[str]) -> str:
        kept.append(_inline(found, link))
        return MARK.format(len(kept) - 1)

    rendered = _parser().render(INLINE.sub(put_away, text))
    whole = re.sub(MARK.format(r"(\d+)"), lambda found: kept[int(found[1])], rendered)
    return re.sub(r"(<math(?:(?!</math>).)*</math>[.,;:)]+)", r'<span class="whole">\1</span>', whole)


def _inline(found: re.Match[str], link: Link) -> str:
    if found["code"]:
        name = found["code"].strip("`").strip()
        return _anchor(link(name, found["code"]), f"<code>{page.text(name)}</code>")
    if found["paper"]:
        return _arxiv(found)
    if found["display"]:
        return f'<span class="display">{mathml(found["display"].strip(), True)}</span>'
    return mathml(found["inline"], False)


def _arxiv(found: re.Match[str]) -> str:
    return f'<a href="https://arxiv.org/abs/{found["number"]}">{found["paper"]}</a>'


@functools.cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")
