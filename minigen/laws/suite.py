"""All laws by name, the suite over samplers, and its report as text and as JSON."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import (
    exact_laws,
    given_laws,
    guidance_laws,
    latent_laws,
    loss_laws,
    order_laws,
    protocol,
    schedule_laws,
    token_laws,
    variance_laws,
)
from .protocol import Fault
from .verdict import Law, Verdict, claimed, judge, nothing

DTYPES = ("float64", "float32")
WIDE = 120  # columns of a report; a title that does not fit is left out, but for failures


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
    return None if np.dtype(dtype) == np.float64 else "a slope needs float64"


def _weak_order(sampler: Any, dtype: Any) -> str | None:
    if sampler.claims.get("weak_order") is None:
        return "not claimed: weak_order"
    return None if np.dtype(dtype) == np.float64 else "a slope needs float64"


def _on(sampler: Any, dtype: Any) -> str | None:
    if not callable(getattr(sampler, "on", None)):
        return "has no method on(sigmas)"
    try:
        first = protocol.levels(sampler, protocol.steps(sampler)[-1])[0]
    except Fault:
        return None  # the law will say what is wrong
    return "starts without signal, which on(sigmas) cannot express" if first.alpha == 0 else None


def _score(sampler: Any, dtype: Any) -> str | None:
    return claimed("score")(sampler, dtype) or _has_eta(sampler, dtype)


def _counts(sampler: Any, dtype: Any) -> str | None:
    return None if {"calls", "draws"} & set(sampler.claims) else "not claimed: calls, draws"


def _scores_strings(subject: Any, dtype: Any) -> str | None:
    return claimed("log_p")(subject, dtype) if subject.space == "discrete" else None


LAWS: tuple[Law, ...] = (
    Law("L0", "keeps the protocol and stays finite", schedule_laws.runs, nothing),
    Law("L1", "levels lie on the schedule, noise falls", schedule_laws.schedule, nothing, of_levels=True),
    Law("L2", "one distinct time per step", schedule_laws.times, nothing, of_levels=True),
    Law("L3", "starts at pure noise", schedule_laws.start, claimed("leak"), of_levels=True),
    Law("L3b", "ends at the data", schedule_laws.end, nothing, of_levels=True),
    Law("L4", "the model is given the state's level", exact_laws.coherence, claimed("point")),
    Law("L5", "calls and draws as claimed, in order", schedule_laws.counts, _counts),
    Law("L5b", "no memory of other runs", schedule_laws.reuse, nothing),
    Law("L5c", "concurrent runs share nothing", schedule_laws.shared, claimed("shared")),
    Law("L6", "data of one point: every state exact", exact_laws.point_mass, claimed("point")),
    Law("L7", "unit Gaussian, large variance: variance 1", exact_laws.unit_gaussian, _eta_is("large")),
    Law("L8", "Gaussian data: every moment exact", exact_laws.gaussian_recursion, _has_eta),
    Law("L9", "best learned variance: marginals exact", variance_laws.learned_variance, claimed("learned")),
    Law("L10", "eta = 1 is ancestral sampling", exact_laws.ddim_is_ancestral, _eta_is(1.0)),
    Law("L11", "all prediction types give one path", exact_laws.kinds_agree, _several_kinds),
    Law(
        "L12",
        "guidance of two Gaussians is a third",
        guidance_laws.classifier_free,
        nothing,
        spaces=("guidance",),
    ),
    Law("L12b", "rescaled guidance keeps the contrast", guidance_laws.rescaled, nothing, spaces=("rescale",)),
    Law("L13", "a moved score is a tilted density", guidance_laws.pull, nothing, spaces=("pull", "guess pull")),
    Law("L13b", "a score moves means by the variance", guidance_laws.classifier_score, _score),
    Law("L14", "weights of every call as published", exact_laws.weights, claimed("rule")),
    Law("L14b", "every model output affects the result", exact_laws.none_in_vain, nothing),
    Law("L15", "rows, axes and origin do not matter", exact_laws.equivariance, nothing),
    Law("L16", "chosen levels act as a chain of their own", variance_laws.levels_alone, _on),
    Law("L17", "clipping acts on x_0 as claimed", exact_laws.clipping, claimed("clip")),
    Law("L17b", "a threshold by a sample's quantile", latent_laws.threshold, nothing, spaces=("threshold",)),
    Law("L18", "known pixels carry their level's noise", given_laws.inpainting, nothing, spaces=("inpainting",)),
    Law("L18b", "a picture is noised to the given level", given_laws.editing, nothing, spaces=("editing",)),
    Law("L19", "slerp turns evenly on the sphere", latent_laws.slerp, nothing, spaces=("slerp",)),
    Law("L20a", "nearest code, by explicit distances", latent_laws.nearest_codes, nothing, spaces=("quantizer",)),
    Law("L20b", "latents have their moments", latent_laws.latents, nothing, spaces=("latent", "prior")),
    Law("L20c", "truncation stays within its quantiles", latent_laws.truncation, nothing, spaces=("truncation",)),
    Law("L20d", "the best of many, checked by sorting", latent_laws.ranking, nothing, spaces=("ranking",)),
    Law("L21", "order of convergence on even steps", order_laws.order, _order),
    Law("L22", "order of convergence on uneven steps", order_laws.order_uneven, _order),
    Law("L22b", "weak order, of steps with noise", order_laws.weak_order, _weak_order),
    Law("L23", "inversion to the latent, and back", given_laws.inversion, claimed("order"), True, ("inversion",)),
    Law(
        "L24",
        "all strings' probabilities add up to 1",
        token_laws.chain_rule,
        _scores_strings,
        True,
        ("discrete", "sequence"),
    ),
    Law("L25", "filters keep what a plain loop keeps", token_laws.filters, nothing, spaces=("filter",)),
    Law("L26", "string frequencies match the table", token_laws.frequencies, nothing, True, ("discrete",)),
    Law(
        "L26b",
        "uniforms choose tokens by cumulative sums",
        token_laws.inverse,
        claimed("uniforms"),
        True,
        ("discrete",),
    ),
    Law("L27", "causal, no blind spot, cache agrees", token_laws.no_peek, nothing, True, ("sequence",)),
    Law("L28", "all noise comes from the given source", exact_laws.seeds, claimed("draws")),
    Law("L28b", "tokens depend on their seed alone", token_laws.token_seeds, nothing, True, ("discrete",)),
    Law("L29", "simple loss of the best network", loss_laws.simple_loss, nothing, True, ("simple loss",)),
    Law("L30", "the bound is a sum of known KLs", loss_laws.variational_bound, nothing, True, ("bound",)),
    Law("L30b", "grey levels add up to 1", loss_laws.grey_levels, nothing, True, ("grey levels",)),
    Law("L31", "the hybrid loss leaves the mean alone", loss_laws.hybrid, nothing, True, ("hybrid loss",)),
    Law("L32", "training times have the stated frequencies", loss_laws.times, nothing, True, ("times", "importance")),
    Law("L33", "gradients of codes and encoder", loss_laws.codebook, nothing, True, ("codebook loss",)),
    Law("L34", "bounds reach ln p at the posterior", loss_laws.elbo, nothing, True, ("elbo",)),
    Law("L35", "games at the best discriminator", loss_laws.game, nothing, True, ("game",)),
    Law("L35b", "penalties of a known slope", loss_laws.penalty, nothing, True, ("penalty",)),
    Law("L36", "conditions are dropped at their rate", loss_laws.left_out, nothing, True, ("dropout",)),
)


def choose(names: Iterable[str] | str | None = None) -> tuple[Law, ...]:
    """The laws of these names, or of one, all for None; ValueError names the known ones."""
    if names is None:
        return LAWS
    names = [names] if isinstance(names, str) else names
    by_name = {law.name.lower(): law for law in LAWS}
    found = []
    for name in names:
        if name.lower() not in by_name:
            raise ValueError(f"unknown law {name!r}: use one of {', '.join(law.name for law in LAWS)}")
        found.append(by_name[name.lower()])
    return tuple(found)


def sound_dtype(dtype: Any) -> Any:
    """float64 or float32 as NumPy's; ValueError for another."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return found


def run_laws(
    samplers: Any, laws: Iterable[str] | str | None = None, dtypes: Sequence[str] | str = DTYPES
) -> Iterator[Verdict]:
    """The verdicts of the laws on a sampler or on several, one by one: an iterator."""
    chosen = choose(laws)
    dtypes = [sound_dtype(dtype) for dtype in ([dtypes] if isinstance(dtypes, str) else dtypes)]
    for sampler in samplers if isinstance(samplers, list | tuple) else [samplers]:
        protocol.check(sampler)
        for dtype in dtypes:
            first = None
            for law in chosen:
                if (law.of_levels and dtype != dtypes[0]) or (laws is None and sampler.space not in law.spaces):
                    continue
                verdict = judge(law, sampler, dtype)
                if law.name == "L0" and verdict.failed and verdict.value is None:
                    first = verdict.detail
                elif first is not None and verdict.failed and verdict.detail == first:
                    verdict = replace(verdict, status="skip", detail="see L0")  # one fault, reported once
                yield verdict


def steps(n: int) -> str:
    """A number of steps in words: 1 step, 2 steps."""
    return f"{n} step{'' if n == 1 else 's'}"


def line(verdict: Verdict) -> str:
    """One verdict as text."""
    numbers = "" if verdict.value is None else f"  {verdict.value:9.2e} {verdict.what}, {verdict.limit:8.2e} allowed"
    detail = f"{': ' if numbers else '  '}{verdict.detail}" if verdict.status != "pass" and verdict.detail else ""
    note = f"; {verdict.note}" if verdict.note else ""
    return f"{verdict.status:4}  {verdict.law:4} {verdict.dtype}{numbers}{detail}{note}"


def report(verdicts: Iterable[Verdict], *, whole: bool = True, every: bool = False) -> str:
    """Text: a line per sampler, below it the failures and, if ``whole``, what passed; what is skipped in one line or,
    if ``every``, in a line each; at the end the counts.
    """
    verdicts, out = list(verdicts), []
    titles = {law.name: law.title for law in LAWS}
    for sampler in dict.fromkeys(verdict.sampler for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.sampler == sampler]
        kinds = Counter(verdict.status for verdict in own)
        skipped = dict.fromkeys(f"{v.law} ({v.detail})" for v in own if v.status == "skip")
        out.append(f"{sampler}: {kinds['pass']} pass, {kinds['fail']} fail, {kinds['skip']} skipped")
        for verdict in own:
            text, title = f"  {line(verdict)}", f"  [{titles.get(verdict.law, '')}]"
            if verdict.failed or (whole and verdict.status == "pass") or every:
                out.append(text + title if verdict.failed or len(text + title) <= WIDE else text)
        if skipped and not every:
            out.append(f"  skipped: {'; '.join(skipped)}")
    total = Counter(verdict.status for verdict in verdicts)
    out.append(
        f"{total['pass']} pass, {total['fail']} fail, {total['skip']} skipped because not claimed or not applicable"
    )
    return "\n".join(out)


def as_json(verdicts: Iterable[Verdict]) -> str:
    """All verdicts as JSON."""
    verdicts = list(verdicts)
    total = Counter(verdict.status for verdict in verdicts)
    counts = {status: total[status] for status in ("pass", "fail", "skip")}
    return json.dumps({"counts": counts, "verdicts": [verdict.as_dict() for verdict in verdicts]}, indent=1) + "\n"
