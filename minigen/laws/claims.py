"""Which values claims may have: one that no law reads would hold for anything."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

YES_OR_NO = (  # claims
    *("point", "learned", "prefix", "uniforms", "log_p", "step", "greedy", "far", "quantiles", "logits", "exact"),
    *("noised", "prior", "weighted", "shared"),
)
WORDS = {  # allowed as values of claims
    "score": ("mean", "x_t"),
    "sees": ("all", "near"),
    "ties": ("first",),
    "norms": ("linear",),
    "scale": ("w",),
    "variance": ("small", "large", "learned"),
    "penalty": ("r1", "gradient"),
}
SETTINGS = ("temperature", "top_k", "top_p")
COUNTS = {"0": (0, 0), "n": (1, 0), "n-1": (1, -1), "2n-1": (2, -1), "2n": (2, 0), "n+1": (1, 1)}


def check_counts(claims: Mapping[str, Any]) -> None:
    """Raise ValueError for ``calls`` or ``draws`` that give no number."""
    for name in {"calls", "draws"} & set(claims):
        if not callable(claims[name]) and not (isinstance(claims[name], str) and claims[name] in COUNTS):
            allowed = ", ".join(map(repr, COUNTS))
            raise ValueError(f"claim {name!r} must be a function of n or one of {allowed}, got {claims[name]!r}")


def check_values(claims: Mapping[str, Any]) -> None:
    """Raise ValueError for the first claim whose value means nothing."""
    from .loss_laws import GAMES, GENERATORS
    from .reference import RULES

    def pair(value: Any) -> bool:
        return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def at_least_0(value: Any) -> bool:
        return number(value) and value >= 0

    allowed: dict[str, tuple[Callable[[Any], bool], str]] = {
        **{
            name: (lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 4, "1, 2, 3 or 4")
            for name in ("order", "order_uneven", "weak_order")
        },
        **{name: (lambda v: isinstance(v, bool), "True or False") for name in YES_OR_NO},
        **{name: _among(words) for name, words in WORDS.items()},
        "settings": (
            lambda v: isinstance(v, tuple | list) and all(isinstance(s, str) and s in SETTINGS for s in v),
            f"a tuple of names among {', '.join(SETTINGS)}, such as ('top_p',)",
        ),
        "grid": (lambda v: pair(v) and all(isinstance(n, int) and n > 0 for n in v), "a pair (rows, columns)"),
        "roundings": (at_least_0, "a number of at least 0"),
        "weight": (lambda v: number(v) and v > 0, "a number above 0"),
        "game": (
            lambda v: isinstance(v, tuple | list) and len(v) == 2 and v[0] in [*GAMES] and v[1] in [*GENERATORS],
            f"a pair: one of {', '.join(GAMES)}, and one of {', '.join(GENERATORS)}",
        ),
        "clip": (
            lambda v: isinstance(v, bool) or (isinstance(v, str) and v == "x_0 only"),
            "True, False or 'x_0 only'",
        ),
        "rule": (
            lambda v: callable(v) or (isinstance(v, str) and v in RULES),
            f"one of {', '.join(map(repr, RULES))} or a function rule(levels, x, ask, noise) -> x_0",
        ),
        "times": (pair, "a pair (lowest, highest)"),
        "leak": (at_least_0, "a share of at least 0"),
        "rest": (at_least_0, "a share of at least 0"),
        "betas": (lambda v: np.ndim(v) == 1 and np.asarray(v).dtype.kind == "f", "an array (T,) of floats"),
        "published": (callable, "a function of n"),
    }
    for name, value in claims.items():
        if name in allowed and value is not None and not allowed[name][0](value):
            raise ValueError(f"claim {name!r} must be {allowed[name][1]}, got {value!r}")


def _among(words: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    """The check of a claim that is one of these words, and the words in a sentence."""
    *first, last = map(repr, words)
    return lambda v: isinstance(v, str) and v in words, f"{', '.join(first)} or {last}" if first else last
