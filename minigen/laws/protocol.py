r"""What the author of a sampler writes down so that its laws can be checked: levels, `sample`, claims.

    class MyDDIM:
        space = "vp"
        claims = {"calls": "n", "draws": "0", "point": True, "eta": 0.0, "order": 1}

        def levels(self, n):  # [(time the model is told, alpha, sigma)], from pure noise to the data, n + 1 of them
            return [(t, abar[t] ** 0.5, (1 - abar[t]) ** 0.5) for t in range(T, -1, -T // n)]

        def sample(self, model, x, n, noise):  # model(x, time) -> eps; noise(shape) -> standard normal draws
            for (t, a, s), (_, a_u, s_u) in pairwise(self.levels(n)):
                eps = model(x, t)
                x = a_u * (x - s * eps) / a + s_u * eps
            return x

At every level the state is $x = \alpha x_0 + \sigma \epsilon$ with $\epsilon \sim N(0, I)$. All arrays are NumPy's; an adapter
converts where a sampler works with others.

| ``space`` | levels obey | | ``kinds`` of prediction that it may name |
|---|---|---|---|
| ``"vp"`` | $\alpha^2 + \sigma^2 = 1$ | variance preserving | eps, x_0, v, score |
| ``"sigma"`` | $\alpha = 1$ | the data plus noise | eps, x_0, score |
| ``"flow"`` | $\alpha + \sigma = 1$ | straight paths | velocity, eps, x_0 |
| ``"discrete"`` | | no laws here yet: all are skipped | |

| claim | value | what is claimed |
|---|---|---|
| ``calls`` | "n", "2n-1", ... or a function of n | how often the model is asked on n levels |
| ``draws`` | "0", "n-1", ... or a function of n | how often noise is drawn, each time of the state's shape |
| ``leak`` | a number | the first level keeps at most this share of the signal, whatever n |
| ``times`` | (lowest, highest) | times of noisy levels are whole numbers within; the first is the highest |
| ``betas`` | array (T,) | the levels are a subset of those of this chain |
| ``point`` | True | exact at any number of steps where the data are one point |
| ``eta`` | 0 to 1, or "large" | one step to the next level: DDIM's family (1: DDPM with the small variance), or DDPM with the large one |
| ``rule`` | a name of `reference.RULES` | the weights with which it combines what the model said |
| ``order`` | 1 or 2 | of convergence to the probability flow, on even steps in log sigma |
| ``order_uneven`` | 1 or 2 | the same where step lengths alternate; as ``order`` if left out |
| ``clip`` | True | `sample` takes ``clip``, a bound or a function of the guess of x_0 |

A law whose claim is not made is skipped, and the report says so. What else a sampler may have: ``name``; ``kinds`` (its own
first; if there are several, `sample` takes ``kind``); ``shape`` of one item, (1,) if left out; ``at(time) -> (alpha, sigma)`` where the model is asked
between levels; ``on(sigmas)``, the same sampler on levels with the noise-to-signal ratios given, falling, and then the data;
``steps``, the numbers of levels it is run with.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

SPACES = {"vp": ("eps", "x_0", "v", "score"), "sigma": ("eps", "x_0", "score"), "flow": ("velocity", "eps", "x_0")}
COUNTS = {"0": (0, 0), "n": (1, 0), "n-1": (1, -1), "2n-1": (2, -1), "2n": (2, 0), "n+1": (1, 1)}
CLAIMS = ("calls", "draws", "leak", "times", "betas", "point", "eta", "rule", "order", "order_uneven", "clip")
STEPS = (1, 2, 3, 7, 20)


class Sampler(Protocol):
    """The three members that every sampler has, and its space."""

    space: str
    claims: dict[str, Any]

    def levels(self, n: int) -> Sequence[tuple[float, float, float]]:
        """(time, alpha, sigma) of n noisy levels, the noisiest first, and of the data."""

    def sample(self, model: Callable[..., Any], x: Any, n: int, noise: Callable[..., Any]) -> Any:
        """Walk from ``x`` at the first level to the last."""


class Fault(Exception):
    """What a sampler did against the protocol, in words for a verdict."""


class Level(NamedTuple):
    r"""Where $x = \alpha x_0 + \sigma \epsilon$, and what the model is told there."""

    time: float
    alpha: float
    sigma: float

    @property
    def size(self) -> float:
        """The standard deviation of the state for unit data; states divided by it are variance preserving."""
        return float(np.hypot(self.alpha, self.sigma))

    @property
    def a(self) -> float:
        r"""$\sqrt{\bar\alpha}$ of the variance-preserving state."""
        return self.alpha / self.size

    @property
    def s(self) -> float:
        r"""$\sqrt{1 - \bar\alpha}$ of the variance-preserving state."""
        return self.sigma / self.size


def check(sampler: Any) -> None:
    """Raise TypeError or ValueError, in one sentence, for what is no sampler at all."""
    for member in ("levels", "sample"):
        if not callable(getattr(sampler, member, None)):
            raise TypeError(f"a sampler must have a method {member}, got {type(sampler).__name__} without one")
    space = getattr(sampler, "space", None)
    if space not in (*SPACES, "discrete"):
        raise ValueError(f"space must be one of 'vp', 'sigma', 'flow', 'discrete', got {space!r}")
    claims = getattr(sampler, "claims", None)
    if not isinstance(claims, dict):
        raise TypeError(f"claims must be a dict, got {type(claims).__name__}")
    unknown = [name for name in claims if name not in CLAIMS]
    if unknown:
        raise ValueError(f"unknown claim {unknown[0]!r}: use {', '.join(CLAIMS)}")
    for name in ("calls", "draws"):
        if name in claims and not callable(claims[name]) and claims[name] not in COUNTS:
            raise ValueError(
                f"claim {name!r} must be a function of n or one of {', '.join(map(repr, COUNTS))}, got {claims[name]!r}"
            )
    eta = claims.get("eta", 0)
    if eta != "large" and not (isinstance(eta, int | float) and 0 <= eta <= 1):
        raise ValueError(f"claim 'eta' must be from 0 to 1, or 'large', got {eta!r}")
    for kind in kinds(sampler) if space != "discrete" else ():
        if kind not in SPACES[space]:
            raise ValueError(f"kinds in space {space!r} must be among {', '.join(SPACES[space])}, got {kind!r}")


def name(sampler: Any) -> str:
    """What reports call it."""
    return str(getattr(sampler, "name", type(sampler).__name__))


def kinds(sampler: Any) -> tuple[str, ...]:
    """The kinds of prediction that it takes, its own first."""
    return tuple(getattr(sampler, "kinds", SPACES[sampler.space][:1]))


def shape(sampler: Any) -> tuple[int, ...]:
    """The shape of one item."""
    return tuple(getattr(sampler, "shape", (1,)))


def steps(sampler: Any) -> tuple[int, ...]:
    """The numbers of levels it is run with, rising."""
    return tuple(getattr(sampler, "steps", STEPS))


def count(sampler: Any, claim: str, n: int) -> int:
    """What ``calls`` or ``draws`` claims for n levels."""
    said = sampler.claims[claim]
    if callable(said):
        return int(said(n))
    slope, offset = COUNTS[said]
    return slope * n + offset


def draws(sampler: Any, n: int) -> int:
    """How many draws a tape must have room for."""
    return count(sampler, "draws", n) if "draws" in sampler.claims else n


def levels(sampler: Any, n: int) -> list[Level]:
    """Its levels as `Level`; Fault where they are none, or not even numbers."""
    try:
        found = [Level(*(float(value) for value in level)) for level in sampler.levels(n)]
    except Exception as error:
        raise Fault(f"levels({n}) raised {type(error).__name__}: {error}") from error
    if len(found) < 2:
        raise Fault(f"levels({n}) gave {len(found)} levels: at least one noisy level and the data are needed")
    rows = np.array(found)
    if not (np.isfinite(rows).all() and (rows[:, 1] ** 2 + rows[:, 2] ** 2 > 0).all()):
        raise Fault(f"levels({n}) are not all finite with some signal or noise: {short(found)}")
    return found


def short(values: Sequence[Any]) -> str:
    """A list for a report: its ends if it is long."""
    said = [
        str(tuple(round(float(v), 6) for v in value)) if isinstance(value, tuple) else f"{value:g}" for value in values
    ]
    return ", ".join(said if len(said) <= 6 else [*said[:3], "...", *said[-2:]])
