"""`minigen book`: the sources as web pages, with the equations typeset beside the code."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import dirname, relpath

from minigen.cli import arguments, book_page, page
from minigen.cli.book_links import Sources, address
from minigen.cli.curriculum import CURRICULUM, Entry
from minigen.errors import UserError, in_words, os_reason, said_in_one_sentence

ROOT = Path(__file__).parents[2]
ROOMS = {  # folder -> what it is to a reader, in the order of the index
    "autograd": "The engine: what a gradient is",
    "kernels": "The kernels: definitions, the NumPy paths, the CUDA rungs",
    "minigen/nn": "Layers and blocks",
    "minigen/maths": "Schedules, chains, densities",
    "minigen/data": "Data sets, tokenizers, the captioned world and its oracle",
    "minigen/samplers": "Samplers and guidance",
    "minigen/models": "Models, one paper per file",
    "minigen/train": "Training",
    "minigen/metrics": "Measuring",
    "minigen/claims": "The ledger of claims",
    "minigen/laws": "The laws of samplers",
    "minigen/cli": "The command line",
    "minigen": "What holds it together",
}
FIRST = ("__init__.py", "tensor.py", "reference.py")  # in a folder; then the CUDA rungs in their order, then all else


@dataclass(frozen=True)
class BookFlags:
    """Flags of `minigen book`."""

    out: Path = Path("out/book")
    """The folder for the pages; start at index.html."""


def main(args: list[str]) -> int:
    """Write a page for every source file, and the index; a page that is there is replaced whole."""
    from minigen.train.checkpoint import write_atomically

    flags = arguments.parse(BookFlags, args, prog="minigen book", description=__doc__ or "")
    try:
        first = next(folder for folder in (flags.out, *flags.out.parents) if folder.exists())
        if not (first.is_dir() and os.access(first, os.W_OK)):  # before the pages are made, which takes a while
            raise UserError(f"cannot write the book to '{flags.out}': {first} is no folder that can be written to")
        with said_in_one_sentence("book"):
            pages = written(ROOT)
        for name, content in pages.items():
            path = flags.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.encode())
    except OSError as error:
        raise UserError(f"cannot write the book to '{flags.out}': {os_reason(error)}") from None
    print(f"{len(pages)} pages: {flags.out / 'index.html'}")
    return 0


def written(root: Path) -> dict[str, str]:
    """Name of a page in the book's folder -> its HTML, of the sources below ``root``.

    Raises ValueError, with the file, for an equation that cannot be typeset and for invalid Python.
    """
    try:
        sources, style = Sources(root), book_page.css()
    except SyntaxError as error:
        raise ValueError(f"cannot read the sources: {in_words(error)}") from None
    order = in_order(sources)
    pages = {}
    for before, file, after in zip(["", *order], order, [*order[1:], ""]):
        turns = [(relpath("index.html", dirname(file)), "all files")]
        turns += [(address(other, file), f"{mark} {other}") for mark, other in (("←", before), ("→", after)) if other]
        nav = "".join(f'<a href="{page.text(to)}">{page.text(shown)}</a>' for to, shown in turns)
        try:
            body = book_page.body(file, sources)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        pages[f"{file}.html"] = page.document(file, f"<nav>{nav}</nav>{body}", style)
    return pages | {"index.html": page.document("minigen, to read", _index(sources), style)}


def in_order(sources: Sources) -> list[str]:
    """The files as they are read: those of the curriculum, then all others, room by room."""
    chapters = [entry.file for entry in CURRICULUM if entry.file in sources.text]
    return list(dict.fromkeys([*chapters, *sorted(sources.text, key=_place)]))


def room_of(file: str) -> str:
    """The room that a file is in: the longest of ``ROOMS`` that its path begins with."""
    return max((room for room in ROOMS if file.startswith(f"{room}/")), key=len)


def _place(file: str) -> tuple[int, str, int, str]:
    """Where a file stands among all: by its room, its folder, its kind, its name."""
    path = PurePosixPath(file)
    kind = FIRST.index(path.name) if path.name in FIRST else len(FIRST) + (not path.name[0].isdigit())
    return list(ROOMS).index(room_of(file)), str(path.parent), kind, path.name


def _index(sources: Sources) -> str:
    """The curriculum, then every room with its files and what each says first."""
    chapters = "".join(_chapter(entry, sources) for entry in CURRICULUM if entry.exists)
    files = sorted(sources.text, key=_place)
    rooms = "".join(
        _room(name, what, [x for x in files if room_of(x) == name], sources) for name, what in ROOMS.items()
    )
    return (
        "<p>The sources of minigen: the documentation of each, with its equations typeset, beside its code. "
        f"Made by <code>minigen book</code>.</p><h2>The curriculum</h2><table>{chapters}</table>{rooms}"
    )


def _chapter(entry: Entry, sources: Sources) -> str:
    file = entry.file if entry.file in sources.text else f"{entry.file}/__init__.py"
    title = f'<a href="{address(file)}">{page.text(entry.title)}</a>'
    return (
        f"<tr><td>{entry.chapter}</td><td>{title}</td><td>{book_page.markdown(entry.paper, lambda *_: None)}</td></tr>"
    )


def _room(name: str, what: str, files: list[str], sources: Sources) -> str:
    rows = "".join(
        f'<tr><td><a href="{address(file)}"><code>{page.text(file.removeprefix(f"{name}/"))}</code></a></td>'
        f"<td>{_first_words(file, sources)}</td></tr>"
        for file in files
    )
    return f"<h2>{page.text(what)}</h2><details open><summary><code>{name}/</code></summary><table>{rows}</table></details>"


def _first_words(file: str, sources: Sources) -> str:
    """The first paragraph of what a file says, as HTML."""
    prose = book_page.markdown if file.endswith(".py") else book_page.plain
    return prose(sources.parts[file][0].split("\n\n")[0], lambda *_: None)
