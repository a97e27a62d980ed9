"""All laws by name, the suite over samplers, and its report as text and as JSON."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from . import exact_laws, order_laws, protocol, schedule_laws
from .verdict import Law, Verdict, claimed, judge, nothing

DTYPES = ("float64", "float32")


def _eta_is(value: Any) -> Callable[[Any, Any], str | None]:
    def needs(sampler: Any, dtype: Any) -> str | None:
        return None if sampler.claims.get("eta") == value else f"not claimed: eta = {value}"

    return needs


def _has_eta(sampler: Any, dtype: Any) -> str | None:
    return None if sampler.claims.get("eta") is not None else "not claimed: eta"


def _several_kinds(sampler: Any, dtype: Any) -> str | None:
    return None if len(protocol.kinds(sampler)) > 1 else "takes one kind of prediction"


def _order(sampler: Any, dtype: Any) -> str | None:
    if sampler.claims.get("order") is None:
        return "not claimed: order"
    if not callable(getattr(sampler, "on", None)):
        return "has no method on(sigmas), so no grid on which an order shows"
    return None if np.dtype(dtype) == np.float64 else "a slope needs float64"


LAWS: tuple[Law, ...] = (
    Law("L0", "keeps the protocol and stays finite", schedule_laws.runs, nothing),
    Law("L1", "levels lie on the schedule, noise falls", schedule_laws.schedule, nothing, of_levels=True),
    Law("L2", "as many times as steps, none twice", schedule_laws.times, nothing, of_levels=True),
    Law("L3", "starts at pure noise", schedule_laws.start, claimed("leak"), of_levels=True),
    Law("L4", "the model is told the level of the state", exact_laws.coherence, claimed("point")),
    Law("L5", "calls and draws as claimed, in order", schedule_laws.counts, claimed("calls", "draws")),
    Law("L5b", "no memory of other runs", schedule_laws.reuse, nothing),
    Law("L6", "data of one point: every state exact", exact_laws.point_mass, claimed("point")),
    Law("L7", "unit Gaussian, large variance: variance 1", exact_laws.unit_gaussian, _eta_is("large")),
    Law("L8", "Gaussian data: every moment exact", exact_laws.gaussian_recursion, _has_eta),
    Law("L10", "eta = 1 is ancestral sampling", exact_laws.ddim_is_ancestral, _eta_is(1.0)),
    Law("L11", "all kinds of prediction, one path", exact_laws.kinds_agree, _several_kinds),
    Law("L14", "weights of every call as published", exact_laws.weights, claimed("rule")),
    Law("L15", "rows, axes and origin do not matter", exact_laws.equivariance, nothing),
    Law("L17", "a wide clip does nothing", exact_laws.clipping, claimed("clip")),
    Law("L21", "order of convergence on even steps", order_laws.order, _order),
    Law("L22", "order of convergence on uneven steps", order_laws.order_uneven, _order),
    Law("L28", "noise comes from where it is asked for", exact_laws.seeds, claimed("draws")),
)


def choose(names: Iterable[str] | None = None) -> tuple[Law, ...]:
    """The laws of these names, all for None; ValueError names the known ones."""
    if names is None:
        return LAWS
    by_name = {law.name.lower(): law for law in LAWS}
    found = []
    for name in names:
        if name.lower() not in by_name:
            raise ValueError(f"unknown law {name!r}: use one of {', '.join(law.name for law in LAWS)}")
        found.append(by_name[name.lower()])
    return tuple(found)


def run_laws(samplers: Any, laws: Iterable[str] | None = None, dtypes: Sequence[str] = DTYPES) -> Iterator[Verdict]:
    """The verdicts of the laws on a sampler or on several, one by one."""
    chosen = choose(laws)
    for sampler in samplers if isinstance(samplers, list | tuple) else [samplers]:
        protocol.check(sampler)
        for dtype in dtypes:
            for law in chosen:
                if law.of_levels and dtype != dtypes[0]:
                    continue
                yield judge(law, sampler, np.dtype(dtype))


def line(verdict: Verdict) -> str:
    """One verdict as text."""
    numbers = "" if verdict.value is None else f"  {verdict.value:9.2e} of {verdict.limit:8.2e}"
    detail = f"  {verdict.detail}" if verdict.status != "pass" and verdict.detail else ""
    return f"{verdict.status:4}  {verdict.law:4} {verdict.dtype}{numbers}{detail}"


def report(verdicts: Sequence[Verdict], *, whole: bool = True) -> str:
    """Text: every verdict below its sampler, or only a line a sampler and the failures; at the end the counts."""
    out = []
    titles = {law.name: law.title for law in LAWS}
    for sampler in dict.fromkeys(verdict.sampler for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.sampler == sampler]
        kinds = Counter(verdict.status for verdict in own)
        skipped = sorted({f"{v.law} ({v.detail})" for v in own if v.status == "skip"})
        out.append(f"{sampler}: {kinds['pass']} pass, {kinds['fail']} fail, {kinds['skip']} skipped")
        for verdict in own:
            if whole or verdict.failed:
                out.append(f"  {line(verdict)}" + (f"  [{titles.get(verdict.law, '')}]" if verdict.failed else ""))
        if not whole and skipped:
            out.append(f"  skipped: {'; '.join(skipped)}")
    total = Counter(verdict.status for verdict in verdicts)
    out.append(
        f"{total['pass']} pass, {total['fail']} fail, {total['skip']} skipped because not claimed or not applicable"
    )
    return "\n".join(out)


def as_json(verdicts: Sequence[Verdict]) -> str:
    """All verdicts as JSON."""
    total = Counter(verdict.status for verdict in verdicts)
    counts = {status: total[status] for status in ("pass", "fail", "skip")}
    return json.dumps({"counts": counts, "verdicts": [verdict.as_dict() for verdict in verdicts]}, indent=1) + "\n"
