"""The smallest case in which a law is still broken, for one law or for all that are.

A sampler is given as a maker and its settings, so that settings can be left out and the chain made shorter. In order:
settings that do not matter are dropped, then the shortest chain is sought on which some number of steps still breaks
the law, and for it the smallest number. The fault must stay of the same kind: an exception, a number that is not
finite, or a finite one.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minigen.errors import in_words

from . import protocol
from .verdict import Law, Verdict, judge

CHAIN = "num_train_timesteps"
WHOLE = ("L3", "L3b")  # of the ends of a chain, which a short one of the usual betas has elsewhere
OF_OTHER_RUNS = ("L5b", "L5c")  # compare a run with others, of other numbers of steps
OF_MANY = ("L21", "L22", "L22b")  # use several numbers of steps of their own, so none is the smallest
SHORT = 32  # every chain up to this length is tried
FAR = 4  # times its limit: a law broken by more must stay so, or rounding would pass for the fault


@dataclass(frozen=True)
class Case:
    """A law broken by a sampler of these settings in n steps."""

    law: str
    n: int
    settings: Mapping[str, Any]
    verdict: Verdict
    sampler: Any = field(repr=False, default=None)
    tried: int = 0


def with_steps(sampler: Any, sweep: tuple[int, ...], steps: tuple[int, ...]) -> Any:
    """The sampler, tried from now on with these numbers of steps. ValueError where they cannot be set."""
    try:
        for member, numbers in (("sweep", sweep), ("steps", steps)):
            object.__setattr__(sampler, member, numbers)  # also of a frozen dataclass
    except (AttributeError, TypeError) as error:
        raise ValueError(f"cannot set the numbers of steps of {type(sampler).__name__}: {in_words(error)}") from error
    return sampler


def one(sampler: Any, n: int, law: Law) -> Any:
    """The sampler with n steps only; for a law about other runs, also with 2 and 3.

    ValueError where they cannot be set.
    """
    steps = (2, 3, max(n, 4)) if law.name in OF_OTHER_RUNS else (n, n)  # some laws leave the first out
    return with_steps(sampler, (n,), steps)


def failing(make: Callable[..., Any], settings: Mapping[str, Any], law: Law, numbers: Any, dtype: str) -> list[int]:
    """Which numbers of steps break a law."""
    sampler = make(**settings)
    return [n for n in numbers if judge(law, one(sampler, n, law), np.dtype(dtype)).failed]


def _alike(a: Verdict, b: Verdict) -> bool:
    """Whether ``a``, of a smaller case, is a fault of the same kind as ``b``."""

    def sort(verdict: Verdict) -> str:
        if verdict.value is None:
            return "fault"
        return "finite" if math.isfinite(verdict.value) else "not finite"

    def far(verdict: Verdict) -> bool:
        return verdict.value is not None and verdict.value > FAR * (verdict.limit or 0.0)

    return a.failed and b.failed and sort(a) == sort(b) and (far(a) or not far(b))


def smallest(
    make: Callable[..., Any],
    settings: Mapping[str, Any],
    law: Law,
    verdict: Verdict,
    *,
    dtype: str = "float32",
    seconds: float = 60.0,
    known: Sequence[int] = (),
) -> Case:
    """Shrink a broken law, within ``seconds`` of CPU time.

    ``make(**settings)`` gives the sampler that broke it with this verdict, at the ``known`` numbers of steps.
    ValueError where no single number of steps breaks it, or where a sampler's numbers of steps cannot be set.
    """
    end, tried = time.process_time() + seconds, 0

    def fails(settings: Mapping[str, Any], n: int) -> Case | None:
        nonlocal tried
        tried += 1
        try:
            sampler = one(make(**settings), n, law)
            found = judge(law, sampler, np.dtype(dtype))
        except Exception:
            return None  # invalid settings: no smaller case
        return Case(law.name, n, dict(settings), found, sampler, tried) if _alike(found, verdict) else None

    def over(settings: Mapping[str, Any], numbers: Any) -> Case | None:
        for n in numbers:
            if time.process_time() > end:
                return None
            case = fails(settings, n)
            if case is not None:
                return case
        return None

    whole = make(**settings)
    least = 4 if law.name in OF_OTHER_RUNS else 1
    swept = getattr(whole, "sweep", None)
    swept = () if swept is None else swept
    numbers = sorted(n for n in {*swept, *protocol.steps(whole), *range(1, 131)} if n >= least)
    one(make(**settings), least, law)
    best = over(settings, known) or over(settings, numbers)
    if best is None:
        raise ValueError(
            f"{law.name} is broken, but by no single number of steps up to {numbers[-1]}: nothing to shrink"
        )
    for key in [key for key in settings if key != CHAIN]:
        fewer = {k: v for k, v in best.settings.items() if k != key}
        case = over(fewer, [best.n]) or over(fewer, range(least, best.n))
        best = case or best
    best = over(best.settings, range(least, best.n)) or best
    length = getattr(whole, "T", None)
    if length is not None and law.name not in WHOLE and getattr(whole, "chain", False):
        for T in (*range(1, min(SHORT, length - 1) + 1), *(T for T in (50, 100, 200, 500) if length > T)):
            shorter = {**best.settings, CHAIN: T}
            case = over(shorter, range(least, T + 1) if T <= SHORT else sorted({*range(least, 21), T - 1, T}))
            if case is not None:
                best = case
                break
    return Case(best.law, best.n, best.settings, best.verdict, best.sampler, tried)


def smallest_of(
    make: Callable[..., Any],
    settings: Mapping[str, Any],
    broken: Sequence[tuple[Law, Verdict]],
    *,
    dtype: str = "float32",
    seconds: float = 60.0,
) -> Case:
    """The smallest of the smallest cases of several broken laws, which share ``seconds`` of CPU time.

    The one with the shortest chain, then the fewest steps, then the fewest settings; of equal ones that of the first
    law. A law of several numbers of steps comes last. ValueError if no law can be shrunk.
    """
    end, cases, errors = time.process_time() + seconds, [], []
    for k, (law, verdict) in enumerate(broken):
        share = (end - time.process_time()) / (len(broken) - k)
        try:
            cases.append(smallest(make, settings, law, verdict, dtype=dtype, seconds=share))
        except ValueError as error:
            errors.append(error)
    if not cases:
        raise errors[0]
    return replace(min(cases, key=_size), tried=sum(case.tried for case in cases))


def _size(case: Case) -> tuple[bool, int, int, int]:
    chain = case.sampler.T if getattr(case.sampler, "chain", False) else 0
    return case.law in OF_MANY, chain, case.n, len(case.settings)
