"""Write docs/findings.md: what the laws say of diffusers' schedulers and of k-diffusion, with figures and scripts.

    python -m minigen.laws.findings --out docs/findings.md

Every number on that page is measured by this command. A finding is a sampler, its settings, a law that it breaks and
the numbers of steps that are tried; the smallest case and its script come from `shrink` and `scripts`, and what the
script prints is what it printed.
"""

import argparse
import contextlib
import importlib.metadata
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import scripts, shrink, suite
from .adapters_diffusers import Diffusers
from .adapters_kdiffusion import NAMES, KDiffusion
from .finding import Finding
from .known import FINDINGS
from .verdict import Law, judge

DTYPE = "float32"
SPACINGS = ("leading", "linspace", "trailing")
SPACED = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")  # in all three


def largest(law: Law, sampler: Any, numbers: Sequence[int], dtype: str) -> tuple[float, float, str, int] | None:
    """Over all numbers of steps the check farthest beyond its limit: value, limit, where, n. None where it raises."""
    worst: tuple[float, float, str, int] | None = None
    for n in numbers:
        try:
            for check in law.checks(shrink.one(sampler, n, law), np.dtype(dtype)):
                if not np.isfinite(check.value):
                    return check.value, check.limit, check.where, n
                if worst is None or check.value - check.limit > worst[0] - worst[1]:
                    worst = (check.value, check.limit, check.where, n)
        except Exception:
            continue
    return worst


def ran(script: str) -> str:
    """What a script prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compile(script, "script", "exec"), {})
        except Exception as error:
            out.write(f"{type(error).__name__}: {error}\n")
    return out.getvalue()


def spans(numbers: Sequence[int], most: int = 14) -> str:
    """1, 2, 3, 7 as 1 to 3, 7."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    said = [f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs]
    return ", ".join(said[:most]) + (", ..." if len(said) > most else "")


def measured(number: int, finding: Finding, seconds: float) -> tuple[str, str]:
    """A row of the table and a section of the page, empty if the law is not broken."""
    law = suite.choose([finding.law])[0]
    numbers = [*finding.numbers]
    broken = shrink.failing(finding.make, finding.settings, law, numbers, finding.dtype)
    if not broken:
        row = f"| {number} | {finding.law} | {finding.sampler.removesuffix('Scheduler')} | {finding.title} | 0 of {len(numbers)} | holds in this version | |"
        return row, ""
    sampler = finding.make(**finding.settings)
    first = judge(law, shrink.one(sampler, broken[0], law), np.dtype(finding.dtype))
    few = broken if len(broken) <= 60 else [*broken[:20], *broken[-5:]]
    worst = largest(law, finding.make(**finding.settings), few, finding.dtype)
    case = shrink.smallest(
        finding.make, finding.settings, law, first, dtype=finding.dtype, seconds=seconds, known=broken[:1]
    )
    text = scripts.script(case)
    printed = "" if text is None else ran(text)
    others = []
    for name in finding.also:
        other = Finding(**{**finding.__dict__, "sampler": name})
        try:
            found = shrink.failing(other.make, finding.settings, law, few[:20], finding.dtype)
        except Exception:
            continue
        if found:
            others.append(f"{name} ({len(found)} of the first {len(few[:20])})")
    said = ", ".join(f"{key}={value!r}" for key, value in finding.settings.items()) or "as it is"
    figure = "an exception" if worst is None else f"{worst[0]:.3g} ({worst[1]:.2g} allowed)"
    link = f"[{finding.title}](#{number})"
    many = finding.law in shrink.OF_MANY  # which looks at numbers of steps of its own
    count = "the slope" if many else f"{len(broken)} of {len(numbers)}"
    where = "" if many else f" with N = {spans(broken)} ({count} tried)"
    row = f"| {number} | {finding.law} | {finding.sampler.removesuffix('Scheduler')} | {link} | {count} | {figure} | {'' if not finding.new else 'yes'} |"
    lines = [
        f'<a id="{number}"></a>',
        f"### {number}. {finding.title}",
        "",
        finding.words,
        "",
        f"- `{finding.sampler}`, {said}. {finding.law}, *{law.title}*, is broken{where}.",
    ]
    if worst is not None:
        lines.append(f"- Farthest from its limit: {worst[2]}: {worst[0]:.4g}, where {worst[1]:.2g} is allowed.")
    if first.value is None:
        lines.append(f"- {first.detail.strip()}.")
    if others:
        lines.append(f"- The same with: {', '.join(others)}.")
    lines.append(f"- Known: {finding.known or 'not found'}.")
    smaller = (
        ", ".join(f"{key}={value!r}" for key, value in {**finding.minimal, **case.settings}.items()) or "no settings"
    )
    numbers_said = (
        "" if case.verdict.value is None else f" ({case.verdict.value:.3g}, {case.verdict.limit:.2g} allowed)"
    )
    if not many:
        lines.append(f"- Smallest case: N = {case.n}, {smaller}: {case.verdict.detail.strip()}{numbers_said}.")
    if text is not None and "WRONG" in printed:
        shown = "\n".join(line if len(line) < 240 else line[:237] + "..." for line in printed.splitlines()[-6:])
        lines += ["", "```python", text.rstrip(), "```", "", "```text", shown, "```"]
    return row, "\n".join([*lines, ""])


def satisfied() -> Iterator[str]:
    """Rows of the table of what is obeyed: every class, its spacings, all laws, with at least two steps."""
    from .claims_diffusers import CLAIMS

    for name in CLAIMS:
        spacings: Sequence[str | None] = SPACINGS if name in SPACED else (None,)
        for spacing in spacings:
            sampler = Diffusers(name, **({"timestep_spacing": spacing} if spacing else {}))
            sampler.steps = tuple(n for n in (2, 3, 7) if n in sampler.steps) or sampler.steps
            sampler.sweep = tuple(n for n in sampler.sweep if 2 <= n <= 20)
            yield _row(f"{name}", spacing or "", sampler)


def _row(name: str, spacing: str, sampler: Any) -> str:
    verdicts = [*suite.run_laws(sampler, None, [DTYPE]), *suite.run_laws(sampler, ["L21", "L22", "L22b"], ["float64"])]
    held = [
        f"{v.law} ({v.note.split(' on ')[0]})" if v.law in ("L21", "L22b") else v.law
        for v in verdicts
        if v.status == "pass"
    ]
    broken = [v.law for v in verdicts if v.failed]
    return f"| {name} | {spacing} | {', '.join(held)} | {', '.join(broken)} |"


def page(seconds: float = 60.0, only: Sequence[int] | None = None, whole: bool = True) -> Iterator[str]:
    """The text as far as it is measured, again after every finding and every row."""
    rows: list[str] = []
    sections: list[str] = []
    for number, finding in enumerate(FINDINGS, 1):
        if only is None or number in only:
            row, section = measured(number, finding, seconds)
            rows.append(row)
            sections.append(section)
            print(row, file=sys.stderr, flush=True)
            yield _joined(rows, sections, [], [])
    if whole:
        held: list[str] = []
        for line in satisfied():
            held.append(line)
            yield _joined(rows, sections, held, [])
        control: list[str] = []
        for name in NAMES:
            sampler = KDiffusion(name)
            sampler.steps = (2, 3, 7, 20)
            control.append(_row(f"sample_{name}", "", sampler))
            yield _joined(rows, sections, held, control)


def _joined(rows: Sequence[str], sections: Sequence[str], held: Sequence[str], control: Sequence[str]) -> str:
    versions = {name: importlib.metadata.version(name) for name in ("diffusers", "k-diffusion", "torch", "numpy")}
    lines = [
        f"# What the laws say of diffusers {versions['diffusers']} and k-diffusion {versions['k-diffusion']}",
        "",
        f"Written by `python -m minigen.laws.findings`, with torch {versions['torch']} on the CPU and NumPy {versions['numpy']}; every number below was measured by that command. No network is trained "
        "or loaded: the model is the best prediction for data whose answer is known ([`minigen/laws/beds.py`](../minigen/laws/beds.py)). `minigen laws --list --law L6` prints the maths of a law. "
        "Issue numbers are of huggingface/diffusers; *known* means that one of them describes it. States are float32, and float64 for orders; the usual schedule has T = 1000 linear betas. "
        "`clip_sample` is off, because the beds' data go beyond 1.",
        "",
        "## Broken",
        "",
        "| | law | class | | with N steps | worst value | first seen here |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        *sections,
    ]
    if held:
        lines += [
            "## Obeyed",
            "",
            "Laws that a class obeys with 2, 3 and 7 steps (L1 to L3b: 2 to 20), and those that it breaks. A law is tried only where the class claims what it is about.",
            "",
            "| class | spacing | obeyed | broken |",
            "|---|---|---|---|",
            *held,
            "",
        ]
    if control:
        lines += [
            "### k-diffusion",
            "",
            "The positive control, on the levels of Karras et al. 2022 from 20 to 0.02: as they are, with two steps or more, they break no law.",
            "",
            "| function | | obeyed | broken |",
            "|---|---|---|---|",
            *control,
        ]
    return "\n".join(lines) + "\n"


def main(args: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m minigen.laws.findings", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path("docs/findings.md"), help="the file to write")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to shrink each finding")
    parser.add_argument("--only", help="numbers of findings, with commas between; without the tables of what is obeyed")
    flags = parser.parse_args(args)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    only = None if flags.only is None else [int(n) for n in flags.only.split(",")]
    try:
        for text in page(flags.seconds, only, whole=only is None):
            flags.out.write_text(text, encoding="utf-8")
    except ImportError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
