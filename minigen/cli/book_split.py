"""A source file split into pieces for the book: documentation beside the code that it describes.

In Python: a function with its docstring, a class's head with its own, each of its methods; code between them has no
prose. In CUDA and C++: the comments that begin at the left margin, each beside the code below it. The file's own
docstring, or the comment that it begins with, is kept apart. Nothing is lost: docstrings aside, the pieces' code is the
file's.
"""

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

RULE = re.compile(r"(?:#|//) --- (.+?) -{3,}")  # a comment that is a heading
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Piece:
    """``code`` and its documentation, ``prose``: Markdown of a docstring, lines of a comment. ``name`` of a function or
    class, with its class before it; ``arguments`` of a function; ``heading``, where a part of the file begins.
    """

    code: str
    prose: str = ""
    name: str = ""
    arguments: tuple[str, ...] = ()
    heading: str = ""


def python(source: str, filename: str = "<unknown>") -> tuple[str, list[Piece]]:
    """The module's docstring, and the pieces of all else. Raises SyntaxError for invalid Python."""
    tree, lines = ast.parse(source, filename), source.split("\n")
    said, first = ast.get_docstring(tree) or "", 0
    if said:
        first = _end(tree.body[0])
        lines[tree.body[0].lineno - 1 : first] = [""] * (first - tree.body[0].lineno + 1)
    return said, _headed(_of_body(tree.body[1 if said else 0 :], lines, 0, len(lines), ""))


def _of_body(body: list[ast.stmt], lines: list[str], start: int, stop: int, inside: str) -> Iterator[Piece]:
    """Pieces of the lines from ``start`` to ``stop``, which hold the statements of a module or of a class."""
    for node in body:
        if isinstance(node, Definition):
            first = _first(node, lines, start)
            yield Piece(_text(lines[start:first]))
            yield from _of_definition(node, lines, first, inside)
            start = _end(node)
    yield Piece(_text(lines[start:stop]))


def _of_definition(node: Definition, lines: list[str], first: int, inside: str) -> Iterator[Piece]:
    """A function as one piece; a class as its head, which is all before its first method, and the methods."""
    name = f"{inside}.{node.name}" if inside else node.name
    said, body = ast.get_docstring(node) or "", node.body
    docstring = range(body[0].lineno - 1, _end(body[0])) if said else range(0)
    if said and docstring.stop < _end(node) and not lines[docstring.stop].strip():
        docstring = range(docstring.start, docstring.stop + 1)  # and the empty line after it
    methods = [x for x in body if isinstance(x, Definition)] if isinstance(node, ast.ClassDef) else []
    stop = _first(methods[0], lines, max(first, docstring.stop)) if methods else _end(node)
    arguments = (
        () if isinstance(node, ast.ClassDef) else tuple(x.arg for x in ast.walk(node.args) if isinstance(x, ast.arg))
    )
    yield Piece(_text([lines[i] for i in range(first, stop) if i not in docstring]), said, name, arguments)
    if methods:
        yield from _of_body(body[body.index(methods[0]) :], lines, stop, _end(node), name)


def _first(node: Definition, lines: list[str], least: int) -> int:
    """The line at which a definition begins: that of its decorators and of the comments right above."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    while first > least and lines[first - 1].lstrip().startswith("#") and not RULE.match(lines[first - 1].strip()):
        first -= 1
    return first


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def cuda(source: str) -> tuple[str, list[Piece]]:
    """The comment at the file's head, and the pieces of all else; prose is plain lines."""
    lines = source.split("\n")
    head = next((i for i, line in enumerate(lines) if not line.startswith("//")), len(lines))
    pieces: list[Piece] = []
    prose: list[str] = []
    code: list[str] = []
    for line in lines[head:]:
        comment = line.startswith("//") and not RULE.match(line)
        if comment and any(code):
            pieces.append(Piece(_text(code), _uncommented(prose)))
            prose, code = [], []
        (prose if comment else code).append(line)
    pieces.append(Piece(_text(code), _uncommented(prose)))
    return _uncommented(lines[:head]), _headed(pieces)


def _headed(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces that hold something; comments that are headings are pieces of their own."""
    found = []
    for piece in pieces:
        code: list[str] = []
        for line in piece.code.splitlines():
            heading = RULE.match(line)
            if heading:
                found += [replace(piece, code=_text(code)), Piece("", heading=heading[1])]
                piece, code = Piece(""), []
            else:
                code.append(line)
        found.append(replace(piece, code=_text(code)))
    return [piece for piece in found if piece.code or piece.prose or piece.heading]


def _text(lines: list[str]) -> str:
    """Lines as a text, without empty ones around it and without the margin that they share."""
    return textwrap.dedent("\n".join(lines)).strip("\n")


def _uncommented(lines: list[str]) -> str:
    return "\n".join(line.removeprefix("//").removeprefix(" ") for line in lines)
