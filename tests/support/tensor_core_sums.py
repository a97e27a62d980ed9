"""Sums of products as tensor cores add them up, one number at a time in exact arithmetic: what the emulator's are held against.

Xie et al. 2025, arXiv 2511.10909, section IV (T-FDPA). With the exponents $e$ of all products and of the sum so far, and
$E$ the largest of them,

$$c \\leftarrow \\operatorname{round}\\Big(\\sum_i 2^{E - F} \\operatorname{trunc}(2^{F - E} x_i)\\Big), \\qquad x_i \\in \\{c, a_1 b_1, \\dots, a_L b_L\\}$$

``tests/kernels/test_tensor_core_sums.py`` compares this with the paper's own program, too.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

SMALLEST = {
    "bf16": -126,
    "tf32": -126,
    "float": -126,
    "fp16": -14,
    "e5m2": -14,
    "e4m3": -6,
}  # exponents of normal numbers
BYTES = {"bf16": 2, "fp16": 2, "tf32": 4, "e5m2": 1, "e4m3": 1}


@dataclass(frozen=True)
class Sums:
    """How products are added up: $F$, $L$, the exponent of zeros, and the bits of the result's mantissa (10: half)."""

    F: int
    L: int
    zero: int
    mantissa: int


def sums(architecture: str, kind: str, *, half: bool = False, warpgroup: bool = False) -> Sums:
    """Those of a card's ``mma.sync`` or ``wgmma`` with factors of that kind, and sums of half precision or float."""
    number = int(architecture.rstrip("a"))
    card, at_a_time = (24, 16) if number < 90 else (25, 32)
    own = card
    if BYTES[kind] == 1 and (warpgroup or number == 89):
        own = 13
    return Sums(own, at_a_time // BYTES[kind], (4 if half else -108) - card, 10 if half else min(own, 23))


def exponent(x: float, smallest: int) -> int:
    """Of a number that is not 0."""
    return max(math.frexp(x)[1] - 1, smallest)


def dot(a: list[float], b: list[float], c: float, kinds: tuple[str, str], how: Sums) -> float:
    """$c + \\sum_k a_k b_k$, ``how.L`` products at a time."""
    for i in range(0, len(a), how.L):
        c = _added(a[i : i + how.L], b[i : i + how.L], c, kinds, how)
    return c


def _added(a: list[float], b: list[float], c: float, kinds: tuple[str, str], how: Sums) -> float:
    if not all(map(math.isfinite, (*a, *b, c))):
        return c + sum(x * y for x, y in zip(a, b))
    of_c = exponent(c, SMALLEST["fp16" if how.mantissa == 10 else "float"]) if c else how.zero
    terms, exponents = [Fraction(c)], [of_c]
    for x, y in zip(a, b):
        terms.append(Fraction(x) * Fraction(y))
        exponents.append(exponent(x, SMALLEST[kinds[0]]) + exponent(y, SMALLEST[kinds[1]]) if x * y else how.zero)
    unit = Fraction(2) ** (max(exponents) - how.F)
    return rounded(unit * sum(math.trunc(term / unit) for term in terms), how.mantissa)


def rounded(x: Fraction, mantissa: int) -> float:
    """To half precision (10 bits, to the nearest) or towards 0 to float32, with all or some bits of its mantissa."""
    if not x:
        return 0.0
    smallest, most = (-14, 2**16) if mantissa == 10 else (-126, 2**128)
    e = math.floor(math.log2(abs(x.numerator)) - math.log2(x.denominator))
    e += (abs(x) >= Fraction(2) ** (e + 1)) - (abs(x) < Fraction(2) ** e)
    unit = Fraction(2) ** (max(e, smallest) - mantissa)
    y = unit * (round(x / unit) if mantissa == 10 else math.trunc(x / unit))
    return float(y) if abs(y) < most else math.copysign(math.inf, x)
