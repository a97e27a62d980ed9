r"""What a claim is, and how it gets its verdict.

A claim is a sentence and an experiment. The experiment runs once for each of at least five seeds and measures some
things side by side, its *groups*, all in one unit. From them one number is computed, the *effect*, which is positive if
the seed supports the sentence. With the effects $e_1 \dots e_n$ of the seeds, their mean $\bar e$ and their standard
deviation $s$, the 95 % confidence interval of the mean is

$$ \bar e \pm t_{0.975,\, n-1} \, s / \sqrt n $$

(Student 1908). The verdict compares the whole interval with the smallest effect that would matter: above it the
sentence is *supported*, below it *not supported*, and *undecided* if the interval contains it, or if all seeds are
alike: then the figure is at the end of its range (all modes found, nothing met) and says nothing about the spread.

Each verdict holds at 95 % on its own. Of many, some may be due to chance: `holm` says which hold jointly, from the
two-sided p-values of the hypotheses that the mean effect is the smallest that would matter.

The seeds are independent trainings: initial weights, batches, noise and samples. The data set and its split are the
same for all, so a verdict is about this data set.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

SEEDS = 5
CONFIDENCE = 0.95
ROUNDING = 1e-9  # of an effect: 0.3 - 0.2 and 0.4 - 0.3 are alike
ALIKE = "all seeds alike: the figure is at its end"
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"


@dataclass(frozen=True)
class Setting:
    """An experiment's ``seed``, whether it is ``quick`` (a tenth of the training), and where runs are kept."""

    seed: int
    quick: bool
    runs: Path


@dataclass(frozen=True)
class Claim:
    """A sentence that can be tested.

    ``experiment(setting)`` returns the groups of one seed, label -> number in ``unit``, always the same labels in the
    same order. ``effect(groups)`` is the number that is judged, ``in_words`` describes it. ``systems`` are those it is
    about, ``smallest`` is the effect that would matter.
    """

    name: str
    systems: tuple[str, ...]
    sentence: str
    source: str
    unit: str
    in_words: str
    experiment: Callable[[Setting], dict[str, float]]
    effect: Callable[[dict[str, float]], float]
    smallest: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """The mean effect over the seeds, its confidence interval, and the verdict."""

    mean: float
    low: float
    high: float
    verdict: str
    p: float = 1.0  # two-sided, of the hypothesis that the mean effect is ``smallest``
    why: str = ""  # the reason, if it is not the interval

    @property
    def said(self) -> str:
        """The verdict, and why."""
        return f"{self.verdict} ({self.why})" if self.why else self.verdict


def interval(values: list[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Mean and confidence interval of the mean, by Student's t. Raises ValueError for fewer than two values or NaN."""
    if len(values) < 2:
        raise ValueError(f"a confidence interval needs at least 2 values, got {len(values)}")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"a confidence interval needs finite values, got {values}")
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def judge(effects: list[float], smallest: float = 0.0) -> Judgement:
    """The verdict over the effects of all seeds."""
    mean, low, high = interval(effects)
    if high - low <= ROUNDING * max(map(abs, effects)):
        return Judgement(mean, low, high, UNDECIDED, why=ALIKE)
    verdict = SUPPORTED if low > smallest else NOT_SUPPORTED if high < smallest else UNDECIDED
    n, halves = len(effects) - 1, 2 * abs(mean - smallest) / (high - low) if high > low else math.inf
    return Judgement(mean, low, high, verdict, 2 * float(stats.t.sf(halves * stats.t.ppf((1 + CONFIDENCE) / 2, n), n)))


def holm(found: Sequence[Judgement]) -> list[bool]:
    """Which verdicts hold jointly: with 95 % confidence, none of them is due to chance (Holm 1979).

    From the smallest p upwards, as long as p times the number of verdicts not yet passed is at most 5 %.
    """
    standing, left = [False] * len(found), len(found)
    for k in sorted(range(len(found)), key=lambda k: found[k].p):
        if found[k].p * left > 1 - CONFIDENCE:
            break
        standing[k], left = True, left - 1
    return standing
