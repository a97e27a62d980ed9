"""Kernels written for nvcc or CuPy: their declarations in our form, and which of a template's kernels are meant."""

import ctypes
import re

from ..source import Parameter, without_comments

_ALIGNED = r"(?:__align__|alignas)\s*\((?:[^()]|\([^()]*\))*\)"
_SHARED = re.compile(rf"(?:\b(?:extern|__shared__)\s+|{_ALIGNED}\s*)+(?:[\w:<>,\s*]|{_ALIGNED})+?\b\w+\s*\[\s*\]\s*;")
# With C linkage, names such as "step", "index" or "remove" would be those of the C library's functions, if it has them.
_C = re.compile(r'\bextern\s+"C"')
_LAMBDA = re.compile(r"(?<=\])(?:\s*\b(?:__device__|__host__)\b)+(?=\s*[({])")  # as nvcc's --extended-lambda has them
_AS_REFERENCE = r"\breinterpret_cast\s*<[^;{}()]*?&\s*>\s*\(\s*"
_STATIC = re.compile(r"\bstatic\s+(?=__shared__)|(?<=__shared__)\s+static\b")  # which __shared__ says already
_INSIDE = r"(?:[^;{}()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*"  # with whole pairs of brackets
_KERNEL = re.compile(
    rf"(?:template\s*<(?P<template>[^;{{}}]*?)>\s*)?(?:extern\s+\"C\"\s+|static\s+|inline\s+)*__global__\b(?P<head>{_INSIDE}?)"
    rf"\b(?P<name>\w+)\s*\((?P<parameters>{_INSIDE})\)\s*\{{"
)
_VARIABLE = re.compile(r"\b__device__\b(?=(?![^;{}()=\[]*\boperator\b)[^;{}()=\[]*[;=\[])")
# Included before; here it would undo our assert.
_CASSERT = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(?:cassert|assert\.h)>", re.MULTILINE)
BOUNDS, CLUSTER = "__launch_bounds__", "__cluster_dims__"
MOST_ARGUMENTS = 64  # as in device.cuh


def in_our_words(text: str) -> str:
    """A text with variables declared as they are here.

    ``extern __shared__ float name[];`` becomes a pointer in a function, and elsewhere something that converts to one. What
    looks at the array as something else, ``reinterpret_cast<Storage&>(name)``, then means what it points to.
    """
    names = []

    def in_ours(found: re.Match[str]) -> str:
        said = re.sub(rf"{_ALIGNED}|\bextern\b", " ", found[0])
        if "__shared__" not in said.split() or "extern" not in found[0].split():
            return found[0]
        kind, name = re.fullmatch(r"(.*)\b(\w+)\s*\[.*", said.replace("__shared__", " "), re.DOTALL).groups()  # type: ignore[union-attr]
        kind = " ".join(kind.split())
        names.append(name)
        before = without_comments(text[: found.start()])
        inside = before.count("{") > before.count("}")
        ours = f"DYNAMIC_SHARED({kind}, {name});" if inside else f"static emulator::Dynamic<{kind}> {name};"
        return ours + "\n" * found[0].count("\n")

    text = _LAMBDA.sub(lambda m: "\n" * m[0].count("\n"), text)
    text = _STATIC.sub("", _C.sub('extern "C++"', text))
    text = _SHARED.sub(in_ours, _VARIABLE.sub("EMULATOR_VARIABLE", _CASSERT.sub("", text)))
    return re.sub(rf"{_AS_REFERENCE}(?=(?:{'|'.join(names)})\s*\))", r"\g<0>*", text) if names else text


def apart(text: str) -> list[str]:
    """What commas divide, outside of brackets: ``float, f<1, 2>`` is two parts."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "(<[{") - (c in ")>]}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts if p.strip()]


def kernel_names(text: str) -> list[str]:
    """The kernels of a text that are extern "C", or all but templates if part of it is: their names on a GPU."""
    text = without_comments(text)
    part = re.search(r'\bextern\s+"C"\s*\{', text)
    return [
        m["name"]
        for m in _KERNEL.finditer(text)
        if m["template"] is None and (part or re.search(r'\bextern\s+"C"[^;{}]*\Z', text[: m.start("head")]))
    ]


def space_and_name(expression: str) -> tuple[str, str]:
    """("a::b", "kernel") of ``a::b::kernel<float>``."""
    space, _, name = expression.partition("<")[0].rpartition("::")
    return space, name.strip()


def _definition(text: str, expression: str) -> re.Match[str] | None:
    """The head of the kernel that an expression as ``space::kernel<float, 4>`` names; None if it is not found by its looks."""
    _, name = space_and_name(expression)
    return next((m for m in _KERNEL.finditer(without_comments(text)) if m["name"] == name), None)


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_char), ("pointer", ctypes.c_bool), ("const", ctypes.c_bool), ("bytes", ctypes.c_uint))


class _Passed(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int), ("arguments", _Argument * MOST_ARGUMENTS))


def parameters(text: str, expression: str, handle: ctypes.CDLL, number: int) -> tuple[Parameter, ...]:
    """The parameters of a library's kernel with that number, whose types are NumPy's for what is passed or pointed to.

    "f4" is a float, "V12" a structure of 12 bytes, "V0" anything at all. Where the text does not show their
    names, they are numbers.
    """
    passed = _Passed.in_dll(handle, f"emulator_passed_{number}")
    names = _parameter_names(text, expression)
    if len(names) != passed.count:
        names = [str(i) for i in range(passed.count)]
    return tuple(
        Parameter(name, f"{a.kind.decode()}{a.bytes}", a.pointer, a.const)
        for name, a in zip(names, passed.arguments[: passed.count])
    )


def _parameter_names(text: str, expression: str) -> list[str]:
    """What a kernel calls its parameters; none if its head is not found."""
    found = _definition(text, expression)
    if found is None:
        return []
    words = [re.findall(r"\w+", p.partition("=")[0].partition("[")[0]) for p in apart(found["parameters"])]
    return [w[-1] for w in words if w]


def by_own_copy(text: str, expression: str, number: int) -> bool:
    """Whether a kernel's parameter is passed by value and not ``__grid_constant__``: its address is that of a thread's own copy."""
    found = _definition(text, expression)
    parts = apart(found["parameters"]) if found else []
    return number < len(parts) and "__grid_constant__" not in parts[number] and "*" not in parts[number]


def attribute_of(attribute: str, text: str, expression: str) -> str:
    """The body of a C++ structure with the numbers of a kernel's attribute as ``words``, in terms of its template's arguments; or "".

    They are the launch bounds, or the sizes of its cluster.
    """
    found = _definition(text, expression)
    said = re.search(rf"{attribute}\s*\(", found["head"]) if found else None
    if found is None or said is None:
        return ""
    words = found["head"][said.end() :]
    depth = end = 0
    while depth >= 0 and end < len(words):  # up to the bracket that ends them
        depth += (words[end] == "(") - (words[end] == ")")
        end += 1
    given = apart(expression.partition("<")[2].rpartition(">")[0])
    lines = []
    for i, parameter in enumerate(apart(found["template"] or "")):
        declared, _, default = parameter.partition("=")
        kind, _, name = declared.strip().rpartition(" ")
        value = given[i] if i < len(given) else default.strip()
        if kind in ("typename", "class"):
            lines.append(f"typedef {value} {name};")
        elif value:
            lines.append(f"static constexpr {kind} {name} = {value};")
    return f"{' '.join(lines)} static constexpr int words[3] = {{{words[: end - 1]}}};"
