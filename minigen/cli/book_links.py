"""What names in prose and in code mean, and to which page of the book they link."""

import ast
import functools
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from posixpath import dirname, normpath, relpath

from minigen.cli import book_split

LANGUAGES = {".py": "python", ".cu": "cuda", ".cuh": "cuda", ".cpp": "cpp", ".hpp": "cpp"}
PACKAGES = ("autograd", "kernels", "minigen")

Meaning = tuple[str, str]  # a file, and a function, class or constant that it defines; "" is the file itself


def address(file: str, near: str = "") -> str:
    """The address of a file's page, from that of another or from the index."""
    return relpath(f"{file}.html", dirname(near) or ".")


class Sources:
    """All source files below a folder, their pieces, and what a name means in each of them."""

    def __init__(self, root: Path):
        """Reads and splits them."""
        found = [
            path
            for name in PACKAGES
            for path in (root / name).rglob("*")
            if path.suffix in LANGUAGES and path.is_file()
        ]
        self.text = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8-sig") for path in found}
        self.parts = {file: self._cut(file) for file in self.text}
        python = {file: ast.parse(text) for file, text in self.text.items() if file.endswith(".py")}
        self._nodes = {file: list(ast.walk(tree)) for file, tree in python.items()}
        self._defined = {file: {piece.name for piece in pieces} - {""} for file, (_, pieces) in self.parts.items()}

    def _cut(self, file: str) -> tuple[str, list[book_split.Piece]]:
        text = self.text[file]
        return book_split.python(text, file) if file.endswith(".py") else book_split.cuda(text)

    def in_prose(self, name: str, said: str, *, file: str, besides: Collection[str] = ()) -> str | None:
        """The address, from the page of ``file``, of what is called ``name`` there: a path, a module, a function or class,
        of this file or of the one that is named with it. None for anything else, and for the names ``besides``.

        ``said`` is the name with its quotes: a word alone means a package in `single` ones only.
        """
        word = name.partition("(")[0].partition("[")[0]
        if not word or word in besides:
            return None
        if word in self._defined[file]:
            return f"#{word}"
        if said.startswith("``") and not {"/", "."} & set(word):
            return None
        found, inside = self._file(word, file) or self._file(word.replace(".", "/") + ".py", file), ""
        if found is None and "." in word:
            module, _, inside = word.rpartition(".")
            found = self._file(module.replace(".", "/") + ".py", file)
        if found is None or (inside and inside not in self._defined[found]):
            return None
        return self._address((found, inside), file)

    def in_code(self, name: str, file: str) -> str | None:
        """The address of what a name, with its dots, means in the code of ``file``: something of ours that it defines or
        imports. None for anything else, and for a name that is also a variable's.
        """
        if not file.endswith(".py"):  # in CUDA and C++: what is included
            return self.in_prose(name, name, file=file) if PurePosixPath(name).suffix in LANGUAGES else None
        first, *others = name.split(".")
        meaning = None if first in self._variables(file) else self._meaning(first, file)
        for other in others:
            meaning = None if meaning is None else self._within(meaning, other)
        return None if meaning is None else self._address(meaning, file)

    def module(self, name: str, file: str) -> str | None:
        """The address of a module as an import of ``file`` has it: ``a.b``, ``.a``, ``..a.b``."""
        found = self._module(name, file)
        return None if found is None else self._address((found, ""), file)

    def _address(self, meaning: Meaning, near: str) -> str | None:
        """None for the page itself from which it is linked."""
        file, name = meaning
        page = "" if file == near else address(file, near)
        return f"{page}#{name}" if name in self._defined[file] else page or None  # a constant has no place of its own

    def _file(self, name: str, near: str) -> str | None:
        """The file of that path: seen from the folder of ``near``, from those above, from minigen's."""
        folder = PurePosixPath(near).parent
        for base in (folder, *folder.parents, PurePosixPath("minigen")):
            path = normpath(base / name)
            for file in (path, f"{path}/__init__.py"):
                if file in self.text:
                    return file
        return None

    def _module(self, name: str, near: str) -> str | None:
        dots = len(name) - len(name.lstrip("."))
        folder = PurePosixPath(near).parents[dots - 1] if dots else PurePosixPath()
        path = str(folder.joinpath(*filter(None, name.lstrip(".").split("."))))
        return next((file for file in (f"{path}.py", f"{path}/__init__.py") if file in self.text), None)

    def _meaning(self, name: str, file: str) -> Meaning | None:
        """What a name of a module means: its own definition, or what it has imported, wherever that comes from."""
        if name in self._defined[file]:
            return file, name
        origin = self._imports(file).get(name)
        return None if origin is None else self._within((origin[0], ""), origin[1]) if origin[1] else origin

    def _within(self, meaning: Meaning, name: str) -> Meaning | None:
        """What a module or class has under a name."""
        file, inside = meaning
        if inside:
            return (file, f"{inside}.{name}") if f"{inside}.{name}" in self._defined[file] else None
        if name in self._defined[file] or self._imports(file).get(name, (file, name)) != (file, name):
            return self._meaning(name, file)
        part = self._module(f".{name}", file) if file.endswith("__init__.py") else None
        return (file, name) if part is None else (part, "")

    @functools.cache  # noqa: B019 - lives as long as the book
    def _imports(self, file: str) -> dict[str, Meaning]:
        """Name -> the module that it is from, and its name there, "" for a module itself."""
        found: dict[str, Meaning] = {}
        for node in self._nodes[file]:
            if isinstance(node, ast.Import):
                named = [(alias.asname or alias.name.partition(".")[0], alias) for alias in node.names]
                modules = {name: self._module(alias.name if alias.asname else name, file) for name, alias in named}
                found |= {name: (module, "") for name, module in modules.items() if module is not None}
            elif isinstance(node, ast.ImportFrom):
                module = self._module("." * node.level + (node.module or ""), file)
                if module is not None:
                    found |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
        return found

    @functools.cache  # noqa: B019
    def _variables(self, file: str) -> set[str]:
        """The names of arguments and of what is assigned to."""
        nodes = self._nodes[file]
        stored = {x.id for x in nodes if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
        return stored | {x.arg for x in nodes if isinstance(x, ast.arg)}
