"""Those options of NVRTC that change a program's text: macros, ``-DN=4`` and ``-UN``, and folders of headers, ``-Ifolder``."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..source import COMMENT, text_of
from .build import CUDAS_HEADERS

# The value follows at once, behind "=" or a space, or is the next option.
_OPTION = re.compile(
    r"(?:(?P<define>-D|--define-macro)|(?P<undefine>-U|--undefine-macro)|-I|--include-path)[= ]?(?P<value>.*)",
    re.DOTALL,
)
_COMMENT_OR_INCLUDE = re.compile(
    rf'{COMMENT.pattern}|^[ \t]*#[ \t]*(?:(?P<condition>if|ifdef|ifndef|endif)\b|include[ \t]*(?P<sign>[<"])(?P<name>[^>"\n]+)[>"])[^\n]*',
    re.MULTILINE | re.DOTALL,
)
_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once\b", re.MULTILINE)


def macros_and_folders(options: Sequence[str]) -> tuple[tuple[tuple[str, str], ...], tuple[Path, ...]]:
    """The macros that options define in the end, name and value, and the folders that they name, in their order.

    Raises ValueError for an option that names no macro.
    """
    macros: dict[str, str] = {}
    folders = []
    words = iter(options)
    for option in words:
        found = _OPTION.fullmatch(option)
        if found is None:
            continue
        given = (found["value"] or next(words, "")).strip()
        if not (found["define"] or found["undefine"]):
            folders.append(Path(given))
            continue
        name, equals, value = given.partition("=")
        if not re.match(r"[A-Za-z_]", name):
            raise ValueError(f"option {option!r} names no macro: it would be -DNAME, -DNAME=VALUE or -UNAME")
        if found["define"]:
            macros[name.strip()] = value if equals else "1"
        else:
            macros.pop(name, None)
    return tuple(macros.items()), tuple(folders)


def with_headers(text: str, name: str, folders: Sequence[Path], own: Path | None = None) -> str:
    """A text, called ``name``, with the headers in ``folders``, and those they include, in place of their includes.

    For names in quotation marks, the folder ``own`` comes first. Headers of CUDA and of the C++ library are left as
    they are.
    """
    # A toolkit's headers are for its own compilers: what the emulator has of them is in CUDAS_HEADERS.
    others = [f for f in folders if not ((f / "cuda_runtime.h").is_file() or (f / "cub").is_dir())]
    there: set[Path] = set()  # headers that are once in a program, and are in this one whatever its conditions say

    def expanded(text: str, name: str, own: Path | None, above: tuple[Path, ...], always: bool) -> str:
        depth = 0  # of conditions

        def in_place(found: re.Match[str]) -> str:
            nonlocal depth
            if found["condition"]:
                depth += -1 if found["condition"] == "endif" else 1
            if found["name"] is None or (CUDAS_HEADERS / found["name"]).is_file():
                return found[0]
            places = [own, *others] if own and found["sign"] == '"' else others
            file = next((f.resolve() for folder in places if (f := folder / found["name"]).is_file()), None)
            if file is None:
                return found[0]
            if file in there or file in above:
                return ""  # its guard would leave nothing of it
            surely = always and depth == 0
            header = expanded(text_of(file), file.name, file.parent, (*above, file), surely)
            guard = "ONCE" + re.sub(r"\W", "_", str(file))
            if _ONCE.search(header):
                header = f'#ifndef {guard}\n#define {guard}\n#line 1 "{file.name}"\n{_ONCE.sub("", header)}\n#endif'
                there.update([file] if surely else [])
            next_line = text.count("\n", 0, found.end()) + 2
            return f'#line 1 "{file.name}"\n{header}\n#line {next_line} "{name}"'

        return _COMMENT_OR_INCLUDE.sub(in_place, text)

    return expanded(text, name, own, (), True)
