"""The picture of a claim: every seed's groups side by side, with the mean and its confidence interval."""

import io
import textwrap
from typing import Any

from minigen.claims.ledger import Claim, interval

INK, MEAN = "#7a7f87", "#3b7dd8"  # readable on white and on black


def figure(claim: Claim, found: dict[str, dict[str, float]]) -> Any:
    """A matplotlib figure of the groups of all seeds (at least two): grey lines join the groups of one seed."""
    from matplotlib.figure import Figure

    labels = list(next(iter(found.values())))
    fig = Figure(figsize=(1.6 + 1.25 * len(labels), 2.9), layout="constrained")
    axes = fig.subplots()
    for groups in found.values():
        axes.plot(labels, [groups[label] for label in labels], "o-", color=INK, ms=3, lw=0.6, alpha=0.6)
    for x, label in enumerate(labels):
        mean, low, high = interval([groups[label] for groups in found.values()])
        axes.errorbar(x, mean, [[mean - low], [high - mean]], fmt="_", color=MEAN, ms=16, mew=2.5, capsize=5, lw=1.5)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylabel(textwrap.fill(claim.unit, 32), color=INK)  # no longer than the axis
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color=INK, alpha=0.25)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    return fig


def svg(claim: Claim, found: dict[str, dict[str, float]]) -> str:
    """The figure as an SVG element to put into a page; equal input gives equal text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": claim.name}):
        figure(claim, found).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
