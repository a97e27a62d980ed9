"""What a law is, and how a run of it becomes a verdict."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from . import protocol
from .protocol import Fault, Level


class Check(NamedTuple):
    """One number against its limit, where it was measured, what it is if the law has several kinds, and a note that
    reports give even if it holds.
    """

    value: float
    limit: float
    where: str
    what: str = "found"
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is within the limit; NaN is not."""
        return bool(np.isfinite(self.value) and self.value <= self.limit)


@dataclass(frozen=True)
class Verdict:
    """What a law says of a sampler: the first check that failed, or the one that came nearest to its limit."""

    law: str
    sampler: str
    dtype: str
    status: str  # "pass", "fail" or "skip"
    value: float | None = None
    limit: float | None = None
    detail: str = ""
    checks: int = 0
    what: str = "found"  # what the value is
    note: str = ""  # of all checks that held, with semicolons between

    @property
    def failed(self) -> bool:
        """Whether the law is broken."""
        return self.status == "fail"

    def as_dict(self) -> dict[str, Any]:
        """For JSON, where NaN and infinity are words."""
        out = asdict(self)
        for key in ("value", "limit"):
            if out[key] is not None and not np.isfinite(out[key]):
                out[key] = str(out[key])
        return out


@dataclass(frozen=True)
class Law:
    """A law: its checks as a generator, small cases first, and what a sampler must claim or have for it to apply."""

    name: str
    title: str
    checks: Callable[[Any, Any], Iterator[Check]]
    needs: Callable[[Any, Any], str | None]
    of_levels: bool = False  # looks at levels only, or at what has no dtype of its own
    spaces: tuple[str, ...] = tuple(protocol.SPACES)  # what it is a law of

    @property
    def maths(self) -> str:
        """The docstring of its function."""
        return (self.checks.__doc__ or "").strip()


def judge(law: Law, sampler: Any, dtype: Any) -> Verdict:
    """Run a law on a sampler. Its faults become verdicts; TypeError or ValueError only for what is no sampler at all."""
    protocol.check(sampler)
    known = {"law": law.name, "sampler": protocol.name(sampler), "dtype": np.dtype(dtype).name}
    if sampler.space not in law.spaces:
        return Verdict(**known, status="skip", detail=f"a law of {', '.join(law.spaces)}, not of {sampler.space}")
    missing = law.needs(sampler, dtype)
    if missing is not None:
        return Verdict(**known, status="skip", detail=missing)
    worst, n = None, 0
    notes: list[str] = []
    try:
        for check in law.checks(sampler, dtype):
            n += 1
            if not check.holds:
                return Verdict(**known, status="fail", **_numbers(check), checks=n, note="; ".join(notes))
            notes += [check.note] if check.note else []
            if worst is None or check.value * worst.limit > worst.value * check.limit or not worst.limit:
                worst = check
    except Fault as fault:
        return Verdict(**known, status="fail", detail=str(fault), checks=n)
    except (Exception, SystemExit) as error:  # raised by other members, such as ``on`` or ``at``: a verdict too
        first = str(error).strip().splitlines()[:1]
        said = f"the law came upon {type(error).__name__}: {first[0] if first else ''}"
        return Verdict(**known, status="fail", detail=said, checks=n)
    except KeyboardInterrupt as error:
        error.add_note(f"in {law.name} of {known['sampler']}, {known['dtype']}")  # which does not end, perhaps
        raise
    if worst is None:
        return Verdict(**known, status="fail", detail="the law found nothing to check")
    return Verdict(**known, status="pass", **_numbers(worst), checks=n, note="; ".join(notes))


def _numbers(check: Check) -> dict[str, Any]:
    return {"value": check.value, "limit": check.limit, "detail": check.where, "what": check.what}


def claimed(*names: str) -> Callable[[Any, Any], str | None]:
    """Needs these claims."""

    def needs(sampler: Any, dtype: Any) -> str | None:
        found = {name: sampler.claims.get(name) for name in names}
        missing = [name for name, value in found.items() if value is None or value is False]  # 0.0 is a claim
        return f"not claimed: {', '.join(missing)}" if missing else None

    return needs


def nothing(sampler: Any, dtype: Any) -> None:
    """Applies to every sampler."""


def distance(got: Any, want: Any) -> float:
    """The largest absolute difference; NaN where one is NaN."""
    return float(np.max(np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))))


def of_noises(high: Level, low: Level) -> float:
    r"""$\sigma / \alpha$ of one level in units of another's; of levels without a signal, $\sigma$."""
    return high.sigma / low.sigma * (low.alpha / high.alpha if high.alpha > 0 else 1.0)


def rounding(levels: list[Level], dtype: Any, rule: Any = None, eta: Any = None, ratio: float = 1.0) -> float:
    r"""How far rounding may move a state of size 1: $64 \varepsilon \sum_i \max(1, 1/\sqrt{\bar\alpha_i})$ over the noisy levels.

    Each level takes a few operations, and x_0 is found from the state by dividing by $\sqrt{\bar\alpha_i}$. A second
    slope at the end of a step also divides the rounding error by the noise there and multiplies it by the step: a
    factor ``ratio`` of the two noises, for the ``rule`` "heun" the largest of all steps. If the first level has no
    signal, DDIM's coefficient of eps for ``eta`` 1 is the root of a difference of two equal numbers: $\sqrt\varepsilon$
    of float64.
    """
    a = levels[0].a
    if rule == "heun":
        ratio = max([ratio, *(of_noises(high, low) for high, low in zip(levels, levels[1:-1]))])
    root = float(np.finfo(np.float64).eps) ** 0.5 if rule == "ddim" and eta == 1 and a == 0 else 0.0
    divided = sum(max(1.0, 1 / level.a) if level.a > 0 else 1.0 for level in levels[:-1])
    return float(root + 64 * divided * np.finfo(dtype).eps * ratio)
