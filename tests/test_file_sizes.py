"""A file over 400 lines of code is two files: a reader takes in one at a sitting."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 400
SOURCES = sorted(
    path
    for folder in ("kernels", "autograd", "minigen")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".cu", ".cuh", ".hpp", ".cpp")
)


def prose(text: str) -> set[int]:
    """The lines of a Python file's docstrings, and of the strings that explain its fields."""
    return {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def lines_of_code(text: str, *, python: bool) -> int:
    """Lines that are neither empty, nor comments, nor docstrings."""
    comment, skipped = ("#", prose(text)) if python else ("//", set())
    lines = (line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in skipped)
    return sum(1 for line in lines if line and not line.startswith(comment))


def test_what_counts_as_code():
    text = '"""One.\n\nTwo."""\n\nX = 1  # three\n# four\nclass A:\n    """Five."""\n    y: int = 2\n    """Six."""\n'
    assert lines_of_code(text, python=True) == 3
    assert lines_of_code("// one\n\n#define X 1\nint y;  // two\n", python=False) == 2


@pytest.mark.parametrize("folder", ["kernels", "autograd", "minigen"])
def test_no_source_is_longer_than_it_may_be(folder: str):
    long = {
        str(path.relative_to(ROOT)): n
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] == folder
        and (n := lines_of_code(path.read_text(), python=path.suffix == ".py")) > MOST
    }
    assert not long
