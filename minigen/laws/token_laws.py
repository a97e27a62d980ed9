r"""Laws of token samplers, of their networks, and of the filters of logits in between.

The data are a table over all strings (`beds.Strings`), so every probability is known; where random numbers can be
scripted nothing is left to chance, and where they cannot, a count is compared with the exact tail of its binomial
distribution.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import binom

from . import arrays
from .beds import Strings
from .protocol import Fault
from .recorder import asked, shaped, whole
from .verdict import Check, distance

SURE = 1e-9  # probability that a correct sampler fails a law of counts, over all its strings; and seeds are fixed
DRAWS = 20_000
BEDS = (Strings(3, 3, 1), Strings(4, 2, 2, holes=True), Strings(2, 9, 3))  # the last: all pictures of 3 x 3 pixels
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.5},
    {"top_k": 2},
    {"top_p": 0.7},
    {"temperature": 1.7, "top_k": 3, "top_p": 0.8},
)
EPS = float(np.finfo(np.float64).eps)


# --- running what is discrete -----------------------------------------------------------------------------------------


class Scripted:
    """Random numbers from a table: ``random`` returns all of it, and must be asked for its shape."""

    def __init__(self, u: Any) -> None:
        self.u = u

    def random(self, shape: Any) -> Any:
        """The table."""
        if tuple(np.atleast_1d(shape)) != self.u.shape:
            raise Fault(f"asked for random numbers of shape {shape}, not once for all of {self.u.shape}")
        return self.u.copy()


def drawn(sampler: Any, bed: Strings, n: int, rng: Any, **settings: Any) -> Any:
    """Tokens (n, length) from the sampler, int64. Fault if they are invalid, or if what the model was shown is."""
    budget = 20 * bed.length + 50
    calls = 0

    def model(tokens: Any, *_: Any, **__: Any) -> Any:
        nonlocal calls
        calls += 1
        shown = np.asarray(tokens)
        if shown.ndim != 2 or len(shown) != n or shown.shape[1] >= bed.length or shown.dtype.kind not in "iu":
            raise Fault(
                f"the model was shown {shown.dtype} {shown.shape}: not a beginning of {n} strings of {bed.length}"
            )
        if shown.size and not 0 <= shown.min() <= shown.max() < bed.vocab:
            raise Fault(
                f"the model was shown tokens from {shown.min()} to {shown.max()} of a vocabulary of {bed.vocab}"
            )
        if calls > budget:
            raise Fault(f"asked the model more than {budget} times for {bed.length} tokens: stopped")
        return bed(shown)

    found = asked(sampler, model, n, bed.length, rng, method="sample", **settings)
    tokens = whole(found, (n, bed.length), 0, bed.vocab - 1)
    if not calls:
        raise Fault("sample never asked the model")
    return tokens.astype(np.int64)


def allowed_settings(subject: Any, settings: dict[str, Any]) -> bool:
    """Whether the subject obeys all of these."""
    return set(settings) <= set(subject.claims.get("settings") or ())


def said(settings: dict[str, Any]) -> str:
    """Settings in words."""
    return ", ".join(f"{key} {value:g}" for key, value in settings.items()) or "no filter"


def slow_filter(
    logits: Any, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> list[float]:
    """One row's probabilities after temperature, top-k and top-p, token by token, with sums that do not round."""
    order = sorted(range(len(logits)), key=lambda v: (-float(logits[v]), v))
    top = float(logits[order[0]])
    if temperature == 0:
        order = order[:1]
    weight = {v: math.exp((float(logits[v]) - top) / (temperature or 1.0)) for v in order}
    order = [v for v in order if weight[v] > 0][:top_k]
    total = math.fsum(weight[v] for v in order)
    if top_p is not None and top_p < 1:
        kept: list[int] = []
        for v in order:
            if kept and math.fsum(weight[w] for w in kept) >= top_p * total:  # the token that crosses p is kept
                break
            kept.append(v)
        order, total = kept, math.fsum(weight[v] for v in kept)
    return [weight[v] / total if v in order else 0.0 for v in range(len(logits))]


def filtered_table(bed: Strings, settings: dict[str, Any]) -> Any:
    """The probability of every string (vocab^length,) where each token is drawn through the slow filter."""
    p = np.ones(1)
    for k in range(bed.length):
        beginnings = Strings(bed.vocab, k).strings
        rows = bed(beginnings)
        if settings:
            step = np.array([slow_filter(row, **settings) for row in rows])
        else:
            step = np.exp(rows - rows.max(1, keepdims=True))
            step = step / step.sum(1, keepdims=True)
        p = (p[:, None] * step).reshape(-1)
    return p


# --- laws -------------------------------------------------------------------------------------------------------------


def chain_rule(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$\sum_x e^{\ln p(x)} = 1$ over all strings, and $\ln p(x) = \sum_i \ln p(x_i \mid x_{<i})$ is what the table says.

    For a sampler that scores strings by a model, against the table of the bed; for a network (of weights as they are),
    the sum of its own log-probabilities. Limit: 1e-12, or the rounding of the network's dtype on as many terms.
    Catches: a token scored by the distribution of its neighbour, logits that are not normalised, a position left out or
    counted twice.
    """
    if subject.space == "discrete":
        for bed in BEDS:
            strings = bed.strings[bed.table.reshape(-1) > 0]
            found = shaped(asked(subject, bed, strings, method="log_p"), (len(strings),))
            where = f"{bed.vocab}^{bed.length} strings"
            yield Check(abs(float(np.exp(found).sum()) - 1), 1e-12, f"sum of the probabilities of {where}")
            yield Check(distance(found, bed.log_p(strings)), 1e-12, f"ln p of {where}")
        return
    strings = Strings(subject.vocab, subject.length).strings
    logits = _logits(subject, strings)
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    total = np.exp(np.take_along_axis(log_p, strings[..., None], -1)[..., 0].sum(1)).sum()
    limit = 64 * subject.length * _roundoff(subject, strings)
    yield Check(abs(float(total) - 1), limit, f"sum of the probabilities of {subject.vocab}^{subject.length} strings")


def filters(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""Temperature, then top-k, then top-p, as a loop over sorted tokens applies them; what is left out is $-\infty$,
    in the same dtype.

    The token that crosses p is kept; p towards 0 keeps the best alone, and so does $\tau = 0$ where ``greedy`` is
    claimed; logits as large as 1e4 stay finite and $-\infty$ stays out; where ``ties`` is claimed equal tokens count
    one by one, in their order. Limit: for probabilities $64\,\varepsilon$ times spread and size of the logits over
    $\tau$; the set of tokens kept is exact. Catches: the crossing token dropped, p of unnormalised probabilities, top-p
    before the temperature, one token too many.
    """
    rng = np.random.default_rng(5)
    tables = {
        "normal rows": 2 * rng.standard_normal((6, 5)),
        "rows with -inf": np.where(rng.random((6, 5)) < 0.4, -np.inf, rng.standard_normal((6, 5))),
        "large rows": 1e4 * rng.standard_normal((4, 3)),
        "rows far from 0": 1e4 + 2 * rng.standard_normal((4, 5)),
        "one token": np.zeros((2, 1)),
    }
    tables["rows with -inf"][:, 2] = 0.3
    if subject.claims.get("ties") == "first":
        tables["equal rows"] = np.repeat([[0.5], [-3.0]], 4, axis=1)
        tables["pairs of equals"] = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 2.0, 2.0]])
    for what, table in tables.items():
        rows = table.astype(dtype)
        for settings in (
            *SETTINGS,
            {"temperature": 0.0},
            {"temperature": 0.3},
            {"top_k": 1},
            {"top_k": 4},
            {"top_k": 99},
            {"top_p": 1e-9},
            {"top_p": 0.5},
            {"top_p": 0.99},
            {"top_p": 1.0},
            {"temperature": 0.5, "top_p": 0.6},
            {"top_k": 3, "top_p": 0.75},
        ):
            greedy = settings.get("temperature") == 0
            if not allowed_settings(subject, settings) or (greedy and not subject.claims.get("greedy")):
                continue
            given = {"temperature": 1.0, "top_k": None, "top_p": None, **settings}
            found = shaped(asked(subject, rows, **given), rows.shape, dtype)
            where = f"{what}, {said(settings)}"
            yield Check(float((np.isnan(found) | np.isposinf(found)).sum()), 0.0, f"NaN or +inf, {where}")
            want = np.array([slow_filter(row, **settings) for row in rows])
            with np.errstate(over="ignore", under="ignore"):
                heat = settings.get("temperature") or 1.0
                matters = np.isneginf(rows) | (np.exp((rows - rows.max(-1, keepdims=True)) / heat) > 4 * EPS)
            other = ((found > -np.inf) != (want > 0)) & matters  # where p is 0 up to rounding both are right
            yield Check(float(other.sum()), 0.0, f"another set of tokens is kept, {where}")
            e = np.exp(found.astype(np.float64) - found.max(-1, keepdims=True))
            largest = np.ptp(found[np.isfinite(found)]) + np.abs(rows[np.isfinite(rows)]).max()
            spread = 1 + float(largest) / min(1.0, heat)
            limit = 64 * float(np.finfo(dtype).eps) * spread
            yield Check(distance(e / e.sum(-1, keepdims=True), want), limit, f"probabilities, {where}")


def frequencies(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""Of 20,000 draws, string $x$ is seen $c_x \sim \mathrm{Bin}(n, p_x)$ times: its two-sided tail, times the number
    of strings, is above 1e-9.

    A string with $p_x = 0$ must not be seen. The smallest fault that shows: a probability of 0.1 that is off by 0.014.
    Limit 1, on $\ln(\text{tail} \cdot K) / \ln 10^{-9}$. Catches: a filter that is left out or applied in another
    order, tokens drawn from a neighbour's distribution, one random number for several tokens or rows.
    """
    for bed in BEDS:
        for settings in SETTINGS if bed.length < 9 else SETTINGS[:1]:
            if not allowed_settings(sampler, settings):
                continue
            tokens = drawn(sampler, bed, DRAWS, np.random.default_rng(7), **settings)
            p = filtered_table(bed, settings)
            number = tokens @ bed.vocab ** np.arange(bed.length)[::-1]
            yield from _tails(np.bincount(number, minlength=len(p)), p, DRAWS, bed, said(settings))
        if sampler.claims.get("prefix"):
            known = min(2, bed.length - 1)
            prefix = np.repeat(bed.strings[-1:, :known], DRAWS, axis=0)
            tokens = drawn(sampler, bed, DRAWS, np.random.default_rng(8), prefix=prefix)
            yield Check(float((tokens[:, :known] != prefix).sum()), 0.0, "a prefix that was given is not kept")
            rest = bed.table[(-1,) * known].reshape(-1)
            number = tokens[:, known:] @ bed.vocab ** np.arange(bed.length - known)[::-1]
            counts = np.bincount(number, minlength=len(rest))
            yield from _tails(counts, rest / rest.sum(), DRAWS, bed, "after a prefix")


def _tails(counts: Any, p: Any, n: int, bed: Strings, what: str) -> Iterator[Check]:
    below, above = binom.cdf(counts, n, p), binom.sf(counts - 1, n, p)
    tail = np.clip(2 * np.minimum(below, above) * len(p), 1e-300, 1.0)
    tail[(p == 0) & (counts > 0)] = 1e-300
    k = int(np.argmin(tail))
    where = f"string {np.base_repr(k, bed.vocab)}: {counts[k]} of {n}, expected {n * p[k]:.1f}; {what}"
    yield Check(math.log(tail[k]) / math.log(SURE), 1.0, where)


def inverse(sampler: Any, dtype: Any) -> Iterator[Check]:
    r"""One uniform number per token: $u$ in $[c_{v-1}, c_v)$ draws token $v$, with $c$ the cumulative probabilities of
    the tokens; tried in the middle and near both ends of each interval.

    All strings of all beds, by scripted numbers: nothing is left to chance. Exact, $10^{-9}$ from the ends. Catches:
    tokens of probability 0 at $u = 0$, $\le$ for $<$, numbers read by column, a token's number given to its neighbour.
    """
    for bed in BEDS:
        strings = bed.strings
        low, width = np.empty(strings.shape), np.empty(strings.shape)
        for k in range(bed.length):
            rows = bed(strings[:, :k])
            p = np.exp(rows - rows.max(1, keepdims=True))
            p = p / p.sum(1, keepdims=True)
            c = np.cumsum(p, 1)
            mine = strings[:, k : k + 1]
            width[:, k] = np.take_along_axis(p, mine, 1)[:, 0]
            low[:, k] = np.take_along_axis(c, mine, 1)[:, 0] - width[:, k]
        possible = (width > 1e-8).all(1)
        for share, what in ((0.0, "low ends"), (0.5, "middles"), (1.0, "high ends")):
            u = np.clip(low + 1e-9 + share * (width - 2e-9), 0, 1 - EPS)[possible]
            tokens = drawn(sampler, bed, len(u), Scripted(u))
            wrong = int((tokens != strings[possible]).any(1).sum())
            yield Check(float(wrong), 0.0, f"{wrong} of {len(u)} strings are not those of their numbers, {what}")
        zero = drawn(sampler, bed, 1, Scripted(np.zeros((1, bed.length))))
        yield Check(float(bed.table[tuple(zero[0])] == 0), 0.0, "a token of probability 0 is drawn at u = 0")


def no_peek(network: Any, dtype: Any) -> Iterator[Check]:
    """A change of token j leaves the logits of every token up to j as they are, bitwise, and affects those after it;
    cached steps give the logits of the whole pass.

    For every token of a few sequences, and up to three other values of it. ``sees`` "all": token j affects every later
    one; "near": those within 2 rows and columns (a blind spot is one that is not affected). ``roundings`` of the
    largest logit may be claimed in place of 0 where a kernel chooses its path by a block's largest number. Limit of the
    cached steps: 1e4 roundings. Catches: a mask of the wrong kind, a blind spot, a stale cache.
    """
    rng = np.random.default_rng(3)
    n, t, vocab = 3, network.length, network.vocab
    tokens = rng.integers(0, vocab, (n, t))
    before = _logits(network, tokens)
    roundoff = _roundoff(network, tokens)
    allowed = (network.claims.get("roundings") or 0) * roundoff
    reached = np.zeros((t, t), bool)
    for j in range(t):
        for by in range(1, min(vocab, 4)):
            changed = tokens.copy()
            changed[:, j] = (tokens[:, j] + by) % vocab
            moved = np.abs(_logits(network, changed) - before).max((0, 2))
            early = int(np.argmax(moved[: j + 1]))
            yield Check(float(moved[early]), allowed, f"token {j} changes the logits of token {early}")
            reached[j] |= moved > allowed
    if network.claims.get("sees"):
        columns = (network.claims.get("grid") or (1, t))[1]
        for j in range(t):
            for i in range(j + 1, t):
                (r, c), (r_j, c_j) = divmod(i, columns), divmod(j, columns)
                near = network.claims["sees"] == "all" or (r - r_j <= 2 and abs(c - c_j) <= 2)
                if near:
                    yield Check(float(not reached[j, i]), 0.0, f"token {i} does not see token {j}")
    if network.claims.get("step"):
        library = getattr(network, "arrays", "numpy")
        for known in range(t):
            cache, new = None, tokens[:, :known]
            for i in range(known, t):
                try:
                    found, cache = network.step(arrays.into(library, new), cache)
                    found = arrays.out(found)
                except Exception as error:
                    raise Fault(f"step raised {type(error).__name__}: {error}") from error
                where = f"step at token {i} after a prefix of {known}"
                yield Check(distance(shaped(found, (n, vocab)), before[:, i]), 1e4 * roundoff, where)
                new = tokens[:, i : i + 1]


def token_seeds(sampler: Any, dtype: Any) -> Iterator[Check]:
    """The same seed gives the same tokens, another one others; rows of a batch are drawn independently, and so are
    streams spawned from one seed.

    Exact: two of 64 strings of 6 bits may be equal by chance, but never all. Catches: a global generator, a seed that
    is not used, one draw for a whole batch.
    """
    bed = Strings(2, 6, 4)

    def tokens(seed: Any) -> Any:
        return drawn(sampler, bed, 64, np.random.default_rng(seed))

    one = tokens(1)
    yield Check(float((one != tokens(1)).sum()), 0.0, "the same seed twice")
    yield Check(float((one == tokens(2)).all()), 0.0, "another seed makes no difference")
    yield Check(float((one == one[:1]).all()), 0.0, "all rows of a batch are one string")
    a, b = (tokens(seed) for seed in np.random.SeedSequence(9).spawn(2))
    yield Check(float((a == b).all(1).mean()), 0.5, "two streams of one root give the same strings")
    if sampler.claims.get("uniforms"):
        fewer = drawn(sampler, bed, 8, np.random.default_rng(1))
        yield Check(float((fewer != one[:8]).sum()), 0.0, "fewer rows are not the first of more")


def _logits(network: Any, tokens: Any) -> Any:
    found = shaped(asked(network, tokens, method="logits"), (*tokens.shape, network.vocab))
    if found.dtype.kind != "f" or np.isnan(found).any():
        raise Fault(f"returned logits of {found.dtype}, or NaN among them")
    return found.astype(np.float64)


def _roundoff(network: Any, tokens: Any) -> float:
    """One rounding of the largest logit, in the network's own dtype."""
    found = asked(network, tokens, method="logits")
    return float(np.finfo(found.dtype).eps) * max(1.0, float(np.abs(found[np.isfinite(found)]).max()))
