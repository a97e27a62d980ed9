"""`minigen book`: nothing of a source is lost, every equation can be set, every link leads somewhere."""

import ast
import os
import posixpath
import re
import signal
from html import unescape
from pathlib import Path

import pytest

from minigen.__main__ import main
from minigen.cli import book, book_links, book_maths, book_page, book_split

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [
    p
    for room in ("autograd", "kernels", "minigen")
    for p in (ROOT / room).rglob("*")
    if p.suffix in book_links.LANGUAGES
]


def nowhere(name, said):
    return None


@pytest.fixture(scope="module")
def sources() -> book_links.Sources:
    return book_links.Sources(ROOT)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return book.written(ROOT)


# --- splitting --------------------------------------------------------------------------------------------------------

PYTHON = '''\
"""What the module says.

More.
"""

import os

# Above a function.
@decorated
def f(x):
    """What f says."""

    return x  # here


# --- a part ------------

TABLE = {
    1: 2,
}


class C(Base):
    r"""What C says,
    in two lines.
    """

    field: int = 1
    """What the field says."""

    # Above a method.
    def method(self):
        """What it says."""
        def inner():
            """Stays."""

    other = 2


async def g(): ...
'''


def test_python_is_cut_into_definitions_with_what_they_say():
    said, pieces = book_split.python(PYTHON)
    assert said == "What the module says.\n\nMore."
    assert [(p.name, p.prose, p.heading, p.code) for p in pieces] == [
        ("", "", "", "import os"),
        ("f", "What f says.", "", "# Above a function.\n@decorated\ndef f(x):\n    return x  # here"),
        ("", "", "a part", ""),
        ("", "", "", "TABLE = {\n    1: 2,\n}"),
        ("C", "What C says,\nin two lines.", "", 'class C(Base):\n    field: int = 1\n    """What the field says."""'),
        (
            "C.method",
            "What it says.",
            "",
            '# Above a method.\ndef method(self):\n    def inner():\n        """Stays."""',
        ),
        ("", "", "", "other = 2"),
        ("g", "", "", "async def g(): ..."),
    ]


def test_cuda_is_cut_at_the_comments_at_the_left_margin():
    source = "// Head,\n// two lines.\n#define A 1\n\n// --- a part ----\n// Of f.\n//\n//     a   b\nint f() {\n    // inside\n}\n// Of g.\nint g();\n"
    said, pieces = book_split.cuda(source)
    assert said == "Head,\ntwo lines."
    assert [(p.prose, p.heading, p.code) for p in pieces] == [
        ("", "", "#define A 1"),
        ("", "a part", ""),
        ("Of f.\n\n    a   b", "", "int f() {\n    // inside\n}"),
        ("Of g.", "", "int g();"),
    ]


@pytest.mark.parametrize("source", ["", '"""Only."""', "x = 1", "# c\n\n# --- h ------\n", "def f():\n    '''Only.'''"])
def test_a_file_that_holds_little_is_no_error(source):
    said, pieces = book_split.python(source)
    assert said == ("Only." if source.startswith('"""') else "")
    assert len(pieces) == {"": 0, '"""Only."""': 0, "# c\n\n# --- h ------\n": 2}.get(source, 1)


def test_nothing_of_any_source_is_lost():
    """But docstrings, which are prose, and rules, which are headings, the pieces are the file, line by line, in order."""
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        python = path.suffix == ".py"
        said, pieces = (book_split.python if python else book_split.cuda)(source)
        lines = source.split("\n")
        if python:
            told = docstrings(ast.parse(source))
            lines = ["" if i + 1 in told else line for i, line in enumerate(lines)]
            code = "\n".join(p.code for p in pieces)
        else:
            lines = [line.removeprefix("//") for line in lines]
            code = "\n".join([said, *(f"{p.prose}\n{p.code}" for p in pieces)])
        assert stripped(code.split("\n")) == stripped(lines), path


def docstrings(tree: ast.Module) -> set[int]:
    """The lines of the docstrings that are lifted out: those of the module, of its functions, its classes and methods."""
    found, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if ast.get_docstring(node) is not None:
            found |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        if isinstance(node, ast.Module | ast.ClassDef):
            waiting += [x for x in node.body if isinstance(x, book_split.Definition)]
    return found


def stripped(lines: list[str]) -> list[str]:
    rule = re.compile(r"((# |//) ?)?--- .+ -{3,}$")
    return [line.strip() for line in lines if line.strip() and not rule.match(line.strip())]


# --- prose ------------------------------------------------------------------------------------------------------------


def test_equations_are_set_and_code_is_left_alone():
    html = book_page.markdown("So $x_0$ is `$y$`, ``a `b` c``.\n\n$$\\frac{1}{2} \\qquad (1)$$", nowhere)
    assert html.count("<math") == 2 and '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in html
    assert "<code>$y$</code>" in html and "<code>a `b` c</code>" in html and "<mfrac>" in html and "\\" not in html


def test_a_table_may_hold_bars_in_equations():
    html = book_page.markdown("| symbol | shape |\n|---|---|\n| $|x|$ | (n,) |", nowhere)
    assert html.count("<td>") == 2 and html.count("<math") == 1


def test_what_looks_like_html_is_text():
    assert "<script>" not in book_page.markdown("a <script> and `<b>` and $a < b$", nowhere)
    assert "<b>" not in book_page.plain("a <b> c", nowhere)


def test_papers_and_names_are_links():
    def link(name, said):
        return {"a.py": "to#a", "f": "#f"}.get(name) if said.strip("`") == name else None

    html = book_page.markdown(
        "Ho 2020, arXiv 2006.11239, (2207.12598): `a.py`, `f`, `g`. Not 1234.5678 nor 12006.11239.", link
    )
    assert re.findall(r'href="([^"]+)"', html) == [
        "https://arxiv.org/abs/2006.11239",
        "https://arxiv.org/abs/2207.12598",
        "to#a",
        "#f",
    ]
    html = book_page.plain("see a.py (1706.03762)\n\n    a  b", link)
    assert re.findall(r'href="([^"]+)"', html) == ["to#a", "https://arxiv.org/abs/1706.03762"]
    assert "<pre>    a  b</pre>" in html


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", r"\frac{1", r"x^{", r"\mathbf", r"\\bar y"])
def test_latex_that_cannot_be_set_is_an_error(latex):
    with pytest.raises(ValueError, match=r"cannot set \$"):
        book_maths.mathml(latex, False)


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (
            r"\mathbb E \mathcal N \mathcal L",
            ["𝔼", "𝒩", "ℒ"],
        ),  # two of which have their place outside of the alphabet's block
        (r"\arg\min_k", ["arg</mi>", "min</mi>"]),
        (r"\operatorname{tr} \Sigma", ['<mrow><mi>tr</mi><mspace width="0.167em" /><mi>Σ']),
        (r"\Big\lfloor x \Big\rfloor", ['minsize="1.623em" maxsize="1.623em">⌊', "⌋"]),
        (r"\big\| x \big\|", ["‖"]),
        (r"\epsilon \sim N", ["<mo>∼</mo>"]),
        (r"x \ln p(x)", ['</mi><mspace width="0.167em" /><mi>ln</mi><mspace width="0.167em" /><mi>p']),
        (r"\ln(x) - \ln x", ["<mi>ln</mi><mo", "<mo>−</mo><mi>ln"]),
        (
            r"\mathrm{KL}_j + L_\mathrm{simple}",
            ["<msub><mi>KL</mi><mi>j</mi></msub>", "<msub><mi>L</mi><mi>simple</mi></msub>"],
        ),
        (r"a \mathrel{+}= b\! c", ["<mo>+</mo><mo>=</mo>", 'width="-0.167em"']),
        (r"\begin{cases} a & b \\ c & d\end{cases}", ["<mi>b</mi></mtd></mtr><mtr>"]),
        ("x''", ["<mrow><mi>′</mi><mi>′</mi></mrow>"]),
        (r"(1 - v) \ln b", [')</mo><mspace width="0.167em" /><mi>ln</mi><mspace']),
        (r"|x| + \varnothing", ['<mo stretchy="false" lspace="0" rspace="0">|</mo>', "<mi>∅</mi>"]),
        (r"\text{Ho \& Salimans}", ["Ho\xa0&\xa0Salimans"]),
    ],
)
def test_what_the_library_does_not_know_is_set_all_the_same(latex, shown):
    html = unescape(book_maths.mathml(latex, False))
    assert all(part in html for part in shown), html


# --- the book ---------------------------------------------------------------------------------------------------------


def test_every_source_has_a_page_and_every_link_leads_somewhere(pages):
    assert set(pages) == {"index.html", *(f"{p.relative_to(ROOT).as_posix()}.html" for p in SOURCES)}
    names = {page: set(re.findall(r' id="([^"]+)"', html)) for page, html in pages.items()}
    for page, html in pages.items():
        for to in re.findall(r'<a href="([^"]+)"', html):
            if to.startswith("https://arxiv.org/abs/"):
                continue
            file, _, name = unescape(to).partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), file)) if file else page
            assert target in pages and (not name or name in names[target]), (page, to)
        assert not re.search(r"<(script|link|img|iframe)\b|url\(", html), "a page needs nothing but itself"


def test_the_pages_are_read_in_the_order_of_the_curriculum(pages, sources):
    turns = re.findall(r'href="([^"]+)">→', pages["minigen/models/vae.py.html"])
    assert turns == ["vq_vae.py.html"]
    rungs = [file for file in book.in_order(sources) if file.startswith("kernels/quantize/")]
    assert rungs[:3] == [f"kernels/quantize/{name}" for name in ("__init__.py", "reference.py", "1_naive.cu")]
    assert "←" not in pages["minigen/models/autoencoder.py.html"].partition("</nav>")[0]


def test_names_in_prose_lead_to_what_they_mean(pages):
    ddpm = pages["minigen/models/ddpm.py.html"]
    assert '<a href="../maths/schedules.py.html"><code>maths/schedules.py</code></a>' in ddpm
    assert '<a href="../maths/diffusion.py.html#mean_from_eps"><code>maths.diffusion.mean_from_eps</code></a>' in ddpm
    assert "<code>eps</code>" in ddpm and 'id="l_simple"' in ddpm
    assert '<a href="../lib/ring.cuh.html">lib/ring.cuh</a>' in pages["kernels/attention/4_wgmma.cu.html"]


FILES = {
    "autograd/__init__.py": "from .ops import add\nfrom . import ops\nfrom .grow import grow\n",
    "autograd/ops.py": "LIMIT = 1\ndef add(): ...\nclass T:\n    def item(self): ...\n",
    "autograd/grow.py": "def grow(): ...\n",
    "minigen/maths/__init__.py": "",
    "minigen/maths/chain.py": "import autograd as ag\nimport numpy as np\nfrom autograd.ops import T as Other\nimport autograd.ops\n",
    "minigen/model.py": "from .maths import chain\nfrom .maths.chain import Other\nfrom autograd.ops import LIMIT\n"
    "def f(shown, add=1):\n    chain = 2\ndef g(): ...\n",
    "kernels/k/1.cu": '#include "k/rows.cuh"\n',
    "kernels/k/rows.cuh": "// Rows.\n",
}


@pytest.fixture
def few(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return book_links.Sources(tmp_path)


@pytest.mark.parametrize(
    ("file", "name", "to"),
    [
        ("minigen/maths/chain.py", "ag", "../../autograd/__init__.py.html"),
        ("minigen/maths/chain.py", "ag.add", "../../autograd/ops.py.html#add"),  # which it imports itself
        ("minigen/maths/chain.py", "ag.ops.add", "../../autograd/ops.py.html#add"),
        ("minigen/maths/chain.py", "ag.grow", "../../autograd/grow.py.html#grow"),  # the function, not the module
        ("minigen/maths/chain.py", "Other", "../../autograd/ops.py.html#T"),  # under its name there
        ("minigen/maths/chain.py", "Other.item", "../../autograd/ops.py.html#T.item"),
        ("minigen/maths/chain.py", "Other.nothing", None),
        ("minigen/maths/chain.py", "autograd.ops.T", "../../autograd/ops.py.html#T"),
        ("minigen/maths/chain.py", "np.sum", None),
        ("minigen/model.py", "Other", "../autograd/ops.py.html#T"),  # by way of another module
        ("minigen/model.py", "LIMIT", "../autograd/ops.py.html"),  # a constant has no place of its own on the page
        ("minigen/model.py", "f", "#f"),
        ("minigen/model.py", "chain", None),  # a variable is called so, too
        ("minigen/model.py", "add", None),
        ("minigen/model.py", "LIMIT.add", None),  # nothing is within a constant
        ("autograd/__init__.py", "ops", "ops.py.html"),
        ("kernels/k/1.cu", "k/rows.cuh", "rows.cuh.html"),
        ("kernels/k/1.cu", "cuda.h", None),
        ("kernels/k/1.cu", "maths", None),  # a variable, not the package
    ],
)
def test_names_in_code_lead_to_their_definition(few, file, name, to):
    assert few.in_code(name, file) == to


@pytest.mark.parametrize(
    ("said", "to"),
    [
        ("`maths`", "maths/__init__.py.html"),
        ("``maths``", None),  # what a function is given, say
        ("``maths/chain.py``", "maths/chain.py.html"),
        ("`maths.chain`", "maths/chain.py.html"),
        ("``f``", "#f"),
        ("``f(shown)``", "#f"),
        ("``g``", None),  # an argument of what the words are about
        ("``(f, g)``", None),
        ("``[f]``", None),
        ("`nothing`", None),
        ("`chain.f`", None),
    ],
)
def test_names_in_prose(few, said, to):
    assert few.in_prose(said.strip("`"), said, file="minigen/model.py", besides=("g",)) == to


def test_a_constant_of_a_package_leads_to_it(few):
    assert few.in_code("ops.LIMIT", "autograd/__init__.py") == "ops.py.html"


def test_code_is_coloured_and_linked(few):
    html = book_page.coloured("from ..maths import chain\nag.add(x, add=1).add", "minigen/maths/chain.py", few)
    assert '<a href="../../autograd/ops.py.html#add"><span class="n">add</span></a>' in html
    assert html.count("<a ") == 3 and '<a href="__init__.py.html"><span class="nn">..maths</span></a>' in html
    html = book_page.coloured('#include "k/rows.cuh"', "kernels/k/1.cu", few)
    assert '<a href="rows.cuh.html">' in html


def test_the_sources_lead_from_a_call_to_the_function(pages):
    ddpm = pages["minigen/models/ddpm.py.html"]
    assert '<a href="../maths/diffusion.py.html#posterior_mean"><span class="n">posterior_mean</span></a>' in ddpm
    assert '<a href="../../autograd/reduce.py.html#mean"><span class="n">mean</span></a>' in ddpm


def test_an_equation_that_cannot_be_set_is_told_with_its_file(tmp_path):
    (tmp_path / "autograd").mkdir()
    (tmp_path / "autograd" / "bad.py").write_text('r"""So $\\nosuch$."""\n')
    with pytest.raises(ValueError, match=r"autograd/bad.py: cannot set \$\\nosuch\$: it has \\nosuch"):
        book.written(tmp_path)


def test_what_is_no_python_is_told_with_its_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "minigen" / "odd.py").mkdir(parents=True)  # a folder of that name is none
    (tmp_path / "minigen" / "mine.py").write_text("\ufeffx = (", encoding="utf-8")
    monkeypatch.setattr(book, "ROOT", tmp_path)
    assert main(["book", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert (
        "cannot read the sources: SyntaxError" in said and "mine.py, line 1" in said and not (tmp_path / "out").exists()
    )


def test_the_command_writes_the_book(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(book, "written", lambda root: {"index.html": "ä", "a/b.py.html": "b"})
    assert main(["book", "--out", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x" / "index.html").read_text(encoding="utf-8") == "ä"
    assert (tmp_path / "x" / "a" / "b.py.html").read_text() == "b"
    assert capsys.readouterr().out == f"2 pages: {tmp_path / 'x' / 'index.html'}\n"


def test_a_folder_that_cannot_be_written_to_is_one_sentence_before_the_pages_are_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(book, "written", lambda root: pytest.fail("pages were made"))
    (tmp_path / "file").write_text("in the way")
    assert main(["book", "--out", str(tmp_path / "file")]) == 2
    assert "cannot write the book to" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(book, "written", lambda root: {"index.html": "ä"})
    (tmp_path / "index.html").mkdir()
    assert main(["book", "--out", str(tmp_path)]) == 2
    assert f"cannot write {tmp_path / 'index.html'}" in capsys.readouterr().err


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "written", lambda root: {"index.html": "new"})
    monkeypatch.setattr(os, "fsync", lambda file: signal.raise_signal(signal.SIGINT))
    (tmp_path / "index.html").write_text("old")
    assert main(["book", "--out", str(tmp_path)]) == 128 + signal.SIGINT
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_text() == "old"
