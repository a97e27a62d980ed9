r"""LaTeX as MathML, by latex2mathml, with what that library does not know or leaves to browsers that do not do it."""

import functools
import re
import unicodedata
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import convert_to_element

FENCES = {r"\|": "‖", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "⟨", "rangle": "⟩"}
INSTEAD = [  # of LaTeX: what the library knows
    *((re.compile(rf"(\\[bB]igg?)\\{name}"), rf"\1{sign}") for name, sign in FENCES.items()),
    (re.compile(r"\\(?:big|Big|bigg|Bigg)\\[lr]vert"), "|"),
    (re.compile(r"\\arg\s*\\(min|max)"), r"\\mathrm{arg\\,\1}"),
    (re.compile(r"\\operatorname"), r"\\mathrm"),
    (re.compile(r"\\mathrel\{(.)\}"), r"\1"),
    (re.compile(r"(?<!\\)\\([&_])"), r"\1"),  # within a text
    (re.compile(r"(?<!\\)\\ "), r"\\;"),
    (re.compile("''"), r"^{\\prime\\prime}"),
]
ROWS = ("math", "mrow", "mstyle")  # elements whose children stand side by side
OPERATORS = {"~": "∼", "±": "±", ":": ":", ";": ";"}  # that the library takes for letters
ALPHABETS = {"double-struck": "DOUBLE-STRUCK", "script": "SCRIPT"}


@functools.cache
def mathml(latex: str, display: bool) -> str:
    """An equation as a ``math`` element, on a line of its own with ``display``.

    Raises ValueError for a command that is not known, and for braces that do not match.
    """
    said = " ".join(latex.split())
    for pattern, instead in INSTEAD:
        said = pattern.sub(instead, said)
    plain = re.sub(r"\\[{}]", "", said)
    if plain.count("{") != plain.count("}"):
        raise ValueError(f"cannot set ${latex}$: its braces do not match")
    try:
        tree = convert_to_element(said, display="block" if display else "inline")
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"cannot set ${latex}$: {type(error).__name__}") from error
    _mend(tree)
    unknown = re.search(r"\\\w*", "".join(tree.itertext()))
    if unknown:
        raise ValueError(f"cannot set ${latex}$: it has {unknown[0]}")
    if tree.find(".//mspace[@linebreak]") is not None:
        raise ValueError(f"cannot set ${latex}$: it has a line break: a backslash too many")
    return tostring(tree, encoding="unicode")


def _mend(element: Element) -> None:
    """Names as one word with a space beside it, as TeX has it (x ln p, not xlnp); letters of other alphabets by their own
    characters, as browsers want them; operators as such.
    """
    for child in element:
        _mend(child)
    if element.text is not None:
        element.text = re.sub(r"&(#x?\w+);", _character, element.text)
    if element.tag == "mi" and element.text in OPERATORS:
        element.tag, element.text = "mo", OPERATORS[element.text]
    if element.text in ("∅", "∞"):
        element.tag = "mi"
    if element.get("width") == "negativethinmathspace":
        element.set("width", "-0.167em")
    if element.text == "|":  # of an absolute value, not a relation between its sides
        element.attrib = {"stretchy": "false", "lspace": "0", "rspace": "0"} | element.attrib
    if element.tag == "mi" and element.get("mathvariant") in ALPHABETS:
        element.text = _letter(ALPHABETS[element.attrib.pop("mathvariant")], element.text or "")
    children = [child[0] if child.tag == "mrow" and len(child) == 1 else child for child in element]
    element[:] = _spaced(_words(children)) if element.tag in ROWS else children


def _words(row: list[Element]) -> list[Element]:
    """Upright letters side by side become one word."""
    found: list[Element] = []
    for child in row:
        if _upright(child) and found and found[-1].get("word"):
            found[-1].text = (found[-1].text or "") + (child.text or "")
            continue
        if _upright(child):
            child.set("word", "yes")
        found.append(child)
    for child in found:
        if child.attrib.pop("word", None) and len(child.text or "") > 1:
            child.attrib.pop("mathvariant")
    return found


def _upright(element: Element) -> bool:
    return element.tag == "mi" and element.get("mathvariant") == "normal"


def _spaced(row: list[Element]) -> list[Element]:
    """With a space between a name and its neighbours, but for operators and what already is space."""
    found = row[:1]
    for left, right in zip(row, row[1:]):
        closing = left.tag == "mo" and left.text in (")", "]")
        beside = (_name(left) or _name(right)) and not {left.tag, right.tag} & {"mo", "mspace"}
        if beside or (closing and _name(right)):
            found.append(Element("mspace", width="0.167em"))
        found.append(right)
    return found


def _name(element: Element) -> bool:
    return element.tag == "mi" and len(element.text or "") > 1


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1][2:], 16)) if found[1].startswith("#x") else chr(int(found[1][1:]))


def _letter(alphabet: str, letter: str) -> str:
    """A capital of an alphabet: most are in Unicode's mathematical block, some were there before it."""
    try:
        return unicodedata.lookup(f"MATHEMATICAL {alphabet} CAPITAL {letter}")
    except KeyError:
        return unicodedata.lookup(f"{alphabet} CAPITAL {letter}")
