"""Parts of the HTML pages: each is one file with its pictures inside, to be read offline and on a phone too."""

import base64
import html

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
ul.failed { padding-left: 1.7rem; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e6e6; } a { color: #8ab4f8; } }
"""


def document(title: str, body: str, style: str = "") -> str:
    """A whole, self-contained page around its body."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}{style}</style></head><body>\n"
        f"<h1>{text(title)}</h1>\n{body}\n</body></html>\n"
    )


def text(value: object) -> str:
    """A value as text of a page."""
    return html.escape(str(value))


def image(png: bytes, alt: str) -> str:
    """A picture with what it shows in words."""
    return f'<img alt="{text(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def wide(table: str, what: str) -> str:
    """A table that scrolls if the screen is narrower, with the keyboard too."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{text(what)}">{table}</div>'
