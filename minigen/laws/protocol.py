r"""What a sampler must have so that the laws can check it: levels, `sample`, claims.

    class MyDDIM:
        space = "vp"
        claims = {"calls": "n", "draws": "0", "point": True, "eta": 0.0}

        def levels(self, n):  # [(time the model is told, alpha, sigma)], from pure noise to the data, n + 1 of them
            times = [round(T * k / n) for k in range(n, -1, -1)]
            return [(t, float(abar[t]) ** 0.5, (1 - float(abar[t])) ** 0.5) for t in times]

        def sample(self, model, x, n, noise):  # model(x, time) -> eps; noise(shape) -> standard normal draws
            for (t, a, s), (_, a_u, s_u) in pairwise(self.levels(n)):
                eps = model(x, t)
                x = a_u * (x - s * eps) / a + s_u * eps
            return x

At every level the state is $x = \alpha x_0 + \sigma \epsilon$ with $\epsilon \sim N(0, I)$. All arrays are NumPy's,
unless ``arrays`` says otherwise, and states keep the dtype of ``x``: use Python floats as coefficients, since an
np.float64 would widen float32 states.

| ``space`` | levels obey | | allowed ``kinds`` of prediction |
|---|---|---|---|
| ``"vp"`` | $\alpha^2 + \sigma^2 = 1$ | variance preserving | eps, x_0, v, score |
| ``"sigma"`` | $\alpha = 1$ | the data plus noise | eps, x_0, score |
| ``"flow"`` | $\alpha + \sigma = 1$ | straight paths | velocity, eps, x_0 |

| claim | value | what is claimed |
|---|---|---|
| ``calls`` | "n", "2n-1", ... or a function of n | how often the model is called on n levels |
| ``draws`` | "0", "n-1", ... or a function of n | how often noise is drawn, each time in the state's shape |
| ``leak`` | a number | the first level keeps at most this share of the signal, for every n |
| ``rest`` | a number | the last level keeps at most this share of the noise, for every n; the data, with none, if left out |
| ``times`` | (lowest, highest) | times of noisy levels are whole numbers in this range; the first is the highest |
| ``betas`` | array (T,) | the levels are a subset of those of this chain |
| ``published`` | function of n | the signal and noise (n, 2) that a published formula gives the noisy levels |
| ``shared`` | True | runs may be concurrent: what a run remembers is its own, not the sampler's |
| ``point`` | True | exact at any number of steps if the data are one point, up to the noise of the last level |
| ``eta`` | 0 to 1, or "large" | a step to the next level is DDIM's with this eta (1: DDPM with the small variance), or DDPM's with the large variance |
| ``rule`` | a name of `reference.RULES` or such a function | the weights with which it combines the model's predictions |
| ``order`` | 1 to 4 | of convergence to the probability flow, on even steps in log sigma; from 3 on, after a start of lower order |
| ``order_uneven`` | 1 to 4 | the same with alternating step lengths; as ``order`` if left out |
| ``weak_order`` | 1 to 4 | of convergence of the moments, with noise: draws of different calls are independent |
| ``clip`` | True or "x_0 only" | `sample` takes ``clip``, a bound or a function of the guess of x_0; eps is recomputed from the clipped guess, or is not |
| ``learned`` | True | the model returns a pair; its second half says where a step's log variance lies between the small and the large one |
| ``score`` | "mean" or "x_t" | `sample` takes ``score(x, time)``, evaluated at this point; it moves the mean of a step by the step's variance times the score |

A law whose claim is not made is skipped, and the report says so. Optional members: ``name``; ``kinds`` (its own first;
if there are several, `sample` takes ``kind``); ``shape`` of one item, (1,) if left out; ``at(time) -> (alpha, sigma)``
if the model is called between levels; ``on(sigmas)``, the same sampler on levels with the given noise-to-signal ratios
(a falling array; ``.tolist()`` has Python's floats) and then the data; ``steps``, the numbers of levels it is run with,
and ``sweep``, those that the laws of levels try; ``fresh()``, an equal sampler that has not run; ``arrays``, "torch" or
"cupy" if `sample` works with those (sharing memory where possible); ``precision``, the dtype of its coefficients if
that is coarser than the states'.

Anything else that has laws has another ``space``, its claims and the members that `FORMS` lists; for a function,
`Transform` is all that is needed:

    slerp = Transform("slerp", my_slerp)
    nucleus = Transform("filter", lambda logits, temperature, top_k, top_p: my_top_p(logits, top_p), claims={"settings": ("top_p",)})

    class MyTokens:
        space, claims = "discrete", {"settings": ()}

        def sample(self, model, n, length, rng):  # model(tokens (n, k)) -> logits (n, vocab) of token k; rng as NumPy's
            tokens = np.zeros((n, 0), int)
            for _ in range(length):
                p = softmax(model(tokens))
                token = (np.cumsum(p, 1) < rng.random((n, 1))).sum(1)
                tokens = np.concatenate([tokens, token[:, None]], 1)
            return tokens
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from minigen.errors import in_words

from .claims import COUNTS, check_counts, check_values

SPACES = {"vp": ("eps", "x_0", "v", "score"), "sigma": ("eps", "x_0", "score"), "flow": ("velocity", "eps", "x_0")}
CLAIMS = (
    *("calls", "draws", "leak", "rest", "times", "betas", "point", "eta", "rule", "order", "order_uneven", "clip"),
    *("learned", "score", "published", "weak_order", "shared"),
)
STEPS = (1, 2, 3, 7, 20)
BELOW = 1e-4  # 0 that a rounded time may leave of a signal or a noise: cos(1.5708) is -4e-6
MOST = 20_000  # levels; a longer list is taken to have no end
FIXED = "; a sampler that has only some numbers of levels names them in `steps` and `sweep`"


class Form(NamedTuple):
    """Something other than a sampler of a continuous state: what it must have, the call in words, the claims it may make
    and what they mean.
    """

    members: tuple[str, ...]
    call: str
    claims: Mapping[str, str] = {}


FORMS: dict[str, Form] = {
    # --- tokens ---
    "discrete": Form(
        ("sample",),
        "sample(model, n, length, rng) -> tokens (n, length); model(tokens (n, k)) -> logits (n, vocab) of token k",
        {
            "settings": "the names of its keywords among temperature, top_k, top_p",
            "prefix": "takes prefix (n, k), tokens that are kept",
            "uniforms": "draws once, u = rng.random((n, length)); token i is the inverse of the CDF at u[:, i]",
            "log_p": "has log_p(model, tokens) -> (n,)",
        },
    ),
    "sequence": Form(
        ("logits", "vocab", "length"),
        "a network: logits(tokens (n, t)) -> (n, t, vocab), entry i from the tokens before i; vocab, length",
        {
            "step": "has step(new (n, k), cache) -> (logits (n, vocab), cache)",
            "grid": "(rows, columns) of a picture whose pixels are the tokens, in raster order",
            "sees": "which earlier tokens have an effect: 'all', or those 'near', within 2 rows and columns",
            "roundings": "of the largest logit, by which logits may move that must not",
        },
    ),
    "filter": Form(
        ("apply",),
        "apply(logits (n, vocab), temperature, top_k, top_p) -> logits, -inf for what is left out; 1, None do nothing",
        {
            "settings": "the names of the settings that it obeys",
            "ties": "'first': of equal tokens the first are kept",
            "greedy": "temperature 0 keeps the best alone",
        },
    ),
    # --- points, codes, candidates ---
    "slerp": Form(
        ("apply",),
        "apply(a (n, d), b (n, d), t) -> (n, d); points of equal norm",
        {"norms": "'linear': norms may differ, and are (1 - t)|a| + t|b| in between"},
    ),
    "quantizer": Form(
        ("apply",), "apply(z (n, d), codebook (k, d)) -> codes (n,)", {"far": "correct also far from the origin"}
    ),
    "ranking": Form(
        ("apply",), "apply(scores (n, N), k) -> the best k (n, k), best first", {"most": "the largest k; N if left out"}
    ),
    "truncation": Form(
        ("apply",),
        "apply(z, c) -> like z, within -c and c",
        {"quantiles": "maps quantiles to quantiles, without drawing"},
    ),
    "latent": Form(("apply",), "apply(mean (n, d), log_var (n, d), noise (n, d)) -> z"),
    "prior": Form(("sample",), "sample(decode, n, d, noise) -> decode(z), z (n, d); noise(shape) -> normal draws"),
    # --- guidance, and what works on a guess ---
    "guidance": Form(
        ("apply",),
        "apply(conditional, unconditional, scale) -> prediction: the second at scale 0, the first at 1",
        {
            "logits": "on logits (n, vocab), -inf among them",
            "scale": "'w': the second at scale -1, the first at 0",
            "exact": "bitwise at these scales, not only up to rounding",
        },
    ),
    "pull": Form(
        ("apply",),
        "apply(said, gradient, scale, alpha_bar, kind, x) -> prediction with its score moved",
        {"kinds": "of prediction, ('eps',) if left out"},
    ),
    "guess pull": Form(
        ("apply",),
        "apply(x, mean, std, gradient, scale, alpha_bar, kind): data N(mean, std^2), gradient w.r.t. the guess of x_0",
        {"kinds": "of prediction, ('eps',) if left out"},
    ),
    "rescale": Form(("apply",), "apply(guided, conditional, phi) -> guided at conditional's contrast"),
    "threshold": Form(("apply",), "apply(x_0, share, bound) -> x_0 within the bound"),
    # --- walks with something given ---
    "inpainting": Form(
        ("levels", "sample"),
        "levels(n); sample(model, x, known, mask, n, noise)",
        {
            "calls": "how often the model is called, as for a sampler",
            "draws": "how often noise is drawn, as for a sampler",
            "noised": "known pixels have the noise of their level at every call",
            "exact": "known pixels are the picture's at the end, bitwise",
            "point": "painted pixels are exact at any number of steps where the data are one point",
        },
    ),
    "editing": Form(("levels", "sample"), "levels(n); sample(model, x_0, strength, n, noise)"),
    "inversion": Form(
        ("levels", "on", "encode", "decode"),
        "levels(n); on(sigmas); encode(model, x_0, n); decode(model, x, n)",
        {"order": "of convergence, both ways"},
    ),
    # --- losses ---
    "simple loss": Form(("apply",), "apply(model, x_0, t (n,), eps, alpha_bar (T + 1,)) -> the mean over all numbers"),
    "bound": Form(
        ("apply",),
        "apply(x_0, x_t, t, eps_theta, v, alpha_bar) -> nats (n,) of the step from t >= 2",
        {
            "variance": "'small', 'large' or 'learned'",
            "prior": "has prior(x_0, alpha_bar) -> nats (n,) of the last level",
        },
    ),
    "grey levels": Form(("apply",), "apply(k (levels,), levels) -> ln p(k) of a distribution over all levels"),
    "hybrid loss": Form(
        ("apply",),
        "apply(x_0, x_t, t, eps, eps_theta, v, alpha_bar, lam) -> the mean, its gradients w.r.t. eps_theta and v",
    ),
    "times": Form(("apply",), "apply(n, T, rng) -> times (n,) of training, from 1 to T"),
    "importance": Form(("apply",), "apply(p (T,), u (n,)) -> times (n,), weights (n,)"),
    "codebook loss": Form(
        ("apply",),
        "apply(z_e (n, d), codebook (k, d), x (n, d), beta), identity decoder -> loss, gradients w.r.t. z_e, codebook",
    ),
    "elbo": Form(
        ("apply",),
        "apply(x (n, d), mu (n, q), log_var (n, q), log_likelihood, eps (K, n, q)) -> (n,); log_likelihood(x, z (K, n, q)) -> (K, n)",
        {"weighted": "it is the importance-weighted bound"},
    ),
    "game": Form(
        ("apply",),
        "apply(real (n,), fake (n,)), of logits -> losses of discriminator and generator",
        {"game": "the names of both in loss_laws.GAMES and GENERATORS; ('minimax', 'non-saturating') if left out"},
    ),
    "penalty": Form(
        ("apply",),
        "apply(w (d,), x (n, d)) -> the penalty on the slope of x . w",
        {"penalty": "'r1' or 'gradient'", "weight": "its factor"},
    ),
    "dropout": Form(
        ("apply",), "apply(n, share, rng) -> (n,), which of n conditions are left out or replaced by the null"
    ),
}


@dataclass(frozen=True)
class Transform:
    """A function whose laws are checked: ``apply``, in the form that ``space`` names, on NumPy's arrays or those of
    another library.
    """

    space: str
    apply: Callable[..., Any]
    name: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)
    arrays: str = "numpy"


class Sampler(Protocol):
    """What every sampler has: its space, its claims and two methods."""

    space: str
    claims: dict[str, Any]

    def levels(self, n: int) -> Sequence[tuple[float, float, float]]:
        """(time, alpha, sigma) of n noisy levels, the noisiest first, and of the data."""

    def sample(self, model: Callable[..., Any], x: Any, n: int, noise: Callable[..., Any]) -> Any:
        """Walk from ``x`` at the first level to the last."""


class Fault(Exception):
    """A violation of the protocol, in words for a verdict."""


class Level(NamedTuple):
    r"""A level, at which $x = \alpha x_0 + \sigma \epsilon$; the model is given ``time``."""

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
    """Raise TypeError or ValueError, in one sentence, for what is neither a sampler nor anything else that has laws.

    Also if looking up a member raises, as a property may.
    """
    try:
        name(sampler)
        _check(sampler)
    except (TypeError, ValueError):
        raise
    except (Exception, SystemExit) as error:
        raise TypeError(f"a member of {type(sampler).__name__} raised {in_words(error)}") from error


def _check(sampler: Any) -> None:
    if isinstance(sampler, type):
        raise TypeError(f"{sampler.__name__} is a class, give an instance: {sampler.__name__}()")
    space = getattr(sampler, "space", None)
    if isinstance(space, str) and space in FORMS:
        return _check_form(sampler)
    if isinstance(space, str) and space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(map(repr, (*SPACES, *FORMS)))}, got {space!r}")
    for member in ("levels", "sample"):
        if not callable(getattr(sampler, member, None)):
            raise TypeError(f"a sampler must have a method {member}, got {type(sampler).__name__} without one")
    if not isinstance(space, str):
        raise ValueError(f"space must be one of {', '.join(map(repr, (*SPACES, *FORMS)))}, got {space!r}")
    if not hasattr(sampler, "claims"):
        raise TypeError(f"a sampler must have claims, a dict, and {type(sampler).__name__} has none")
    claims = sampler.claims
    if not isinstance(claims, dict):
        raise TypeError(f"claims must be a dict, got {type(claims).__name__}")
    unknown = [name for name in claims if name not in CLAIMS]
    if unknown:
        raise ValueError(f"unknown claim {unknown[0]!r}: use {', '.join(CLAIMS)}")
    check_values(claims)
    check_counts(claims)
    eta = claims.get("eta")
    share = isinstance(eta, int | float) and 0 <= eta <= 1
    if eta is not None and not share and not (isinstance(eta, str) and eta == "large"):
        raise ValueError(f"claim 'eta' must be from 0 to 1, or 'large', got {eta!r}")
    _check_tuples(sampler)
    _check_library(sampler)
    for kind in kinds(sampler):
        if kind not in SPACES[space]:
            raise ValueError(f"kinds in space {space!r} must be among {', '.join(SPACES[space])}, got {kind!r}")
    for claim in ("order", "weak_order"):
        if claims.get(claim) is not None and not callable(getattr(sampler, "on", None)):
            raise ValueError(f"claim '{claim}' needs a method on(sigmas): the same sampler on levels of these noises")


def _check_library(subject: Any) -> None:
    library = getattr(subject, "arrays", "numpy")
    if library in ("torch", "cupy") and importlib.util.find_spec(library) is None:
        raise ValueError(f"arrays is {library!r}, which is not installed")


def _check_tuples(sampler: Any) -> None:
    """Raise ValueError for kinds that are no tuple of names; a shape, steps or sweep that is none of whole numbers."""
    members = (("kinds", False, "('eps',)"), ("shape", True, "(3,)"), ("steps", False, "(1, 7)"))
    for member, empty, example in (*members, ("sweep", True, "(1, 7)")):
        value = getattr(sampler, member, None)
        if value is None:
            continue
        listed = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
        whole = member == "kinds" or (listed and all(isinstance(v, int | np.integer) and v >= 1 for v in value))
        if not listed or not whole or (len(value) == 0 and not empty):
            what = "names" if member == "kinds" else "whole numbers of at least 1"
            raise ValueError(f"{member} must be a tuple of {what}, such as {example}, got {value!r}")


def _check_form(subject: Any) -> None:
    form = FORMS[subject.space]
    for member in form.members:
        if getattr(subject, member, None) is None:
            raise TypeError(f"what has space {subject.space!r} must have {member}: {form.call}")
    claims = getattr(subject, "claims", None)
    if not isinstance(claims, Mapping):
        raise TypeError(f"claims must be a dict, got {type(claims).__name__}")
    unknown = [claim for claim in claims if claim not in form.claims]
    if unknown:
        allowed = f"use {', '.join(form.claims)}" if form.claims else f"space {subject.space!r} has none"
        raise ValueError(f"unknown claim {unknown[0]!r}: {allowed}")
    check_values(claims)
    check_counts(claims)
    given = claims.get("kinds", ())
    for kind in given if isinstance(given, tuple | list) else (given,):
        if not isinstance(kind, str) or kind not in SPACES["vp"]:
            raise ValueError(f"claim 'kinds' must be among {', '.join(SPACES['vp'])}, got {kind!r}")
    if not isinstance(claims.get("most", 1), int) or claims.get("most", 1) < 1:
        raise ValueError(f"claim 'most' must be a whole number of at least 1, got {claims['most']!r}")


def name(sampler: Any) -> str:
    """Its name in reports."""
    return str(getattr(sampler, "name", "") or type(sampler).__name__)


def kinds(sampler: Any) -> tuple[str, ...]:
    """The kinds of prediction that it takes, its own first."""
    return _given(sampler, "kinds", SPACES[sampler.space][:1])


def shape(sampler: Any) -> tuple[int, ...]:
    """The shape of one item."""
    return _given(sampler, "shape", (1,))


def steps(sampler: Any) -> tuple[int, ...]:
    """The numbers of levels it is run with, rising."""
    return _given(sampler, "steps", STEPS)


def _given(sampler: Any, member: str, default: tuple[Any, ...]) -> tuple[Any, ...]:
    """A member that may be left out, or None."""
    value = getattr(sampler, member, None)
    return default if value is None else tuple(value)


def precision(sampler: Any, dtype: Any) -> Any:
    """The coarser of the states' dtype and that of the sampler's coefficients: what rounding is a multiple of."""
    own = np.dtype(getattr(sampler, "precision", dtype))
    return max(np.dtype(dtype), own, key=lambda kind: float(np.finfo(kind).eps))


def count(sampler: Any, claim: str, n: int) -> int:
    """What ``calls`` or ``draws`` claims for n levels. Fault if the claim is a function that raises."""
    said = sampler.claims[claim]
    if callable(said):
        try:
            return int(said(n))
        except Exception as error:
            raise Fault(f"claim {claim!r} raised {in_words(error)} for n = {n}") from error
    slope, offset = COUNTS[said]
    return slope * n + offset


def draws(sampler: Any, n: int) -> int:
    """How many draws a tape must have room for."""
    return count(sampler, "draws", n) if "draws" in sampler.claims else n


def levels(sampler: Any, n: int) -> list[Level]:
    """Its levels as `Level`; Fault if they cannot be listed, are negative or not finite, or do not end."""
    try:
        given = list(islice(sampler.levels(n), MOST + 1))
    except (Exception, SystemExit) as error:
        slip = isinstance(error, TypeError | AttributeError | NameError)  # a mistake at any n
        hint = "" if slip or type(sampler).__module__.startswith("minigen.") else FIXED
        raise Fault(f"levels({n}) raised {in_words(error)}{hint}") from error
    listed = [_floats(n, level) for level in given]
    odd = [level for level in listed if len(level) != 3]
    if odd:
        raise Fault(f"a level is (time, alpha, sigma), and levels({n}) has one of {len(odd[0])} numbers: {odd[0]}")
    found = [Level(*level) for level in listed]
    if len(found) < 2:
        raise Fault(f"levels({n}) gave {len(found)} levels: at least one noisy level and the data are needed")
    if len(found) > MOST:
        raise Fault(f"levels({n}) gave more than {MOST} levels: stopped")
    rows = np.array(found)
    if not (np.isfinite(rows).all() and (rows[:, 1] ** 2 + rows[:, 2] ** 2 > 0).all()):
        raise Fault(f"levels({n}) are not all finite with some signal or noise: {short(found)}")
    beyond = next((level for level in found if min(level.alpha, level.sigma) < -BELOW), None)
    if beyond is not None:
        time, alpha, sigma = beyond
        raise Fault(f"alpha and sigma must be at least 0: levels({n}) have {alpha:g} and {sigma:g} at time {time:g}")
    return found


def _floats(n: int, level: Any) -> list[float]:
    try:
        return [float(value) for value in level]
    except (Exception, SystemExit) as error:
        raise Fault(f"a level is (time, alpha, sigma), and levels({n}) has {level!r}") from error


def short(values: Sequence[Any]) -> str:
    """A list for a report: its ends if it is long."""
    said = [
        str(tuple(round(float(v), 6) for v in value)) if isinstance(value, tuple) else f"{value:g}" for value in values
    ]
    return ", ".join(said if len(said) <= 6 else [*said[:3], "...", *said[-2:]])
