r"""Autoregressive sampling: one token after the other, each drawn from the model's distribution given those before it.

$$ p(x) = \prod_{i=0}^{t-1} p(x_i \mid x_{<i}), \qquad p(x_i = v \mid x_{<i}) = \mathrm{softmax}(\ell_i)_v $$

A model is a function ``logits(tokens)``: integers (n, t) -> (n, t, vocab), whose entry $i$ is $\ell_i$, a function of
the tokens BEFORE $i$ alone (what precedes token 0 is up to the model). It is called with prefixes of any length;
`padded` wraps one that takes only whole sequences. A model may also have a ``step(new, cache)``, which is given the
tokens ``new`` (n, k) since its last call, and returns the $\ell$ (n, vocab) of the token after them, and the cache for
its next call (None in the first; a cache can be used only once). Both give the same numbers, and the two loops,
`sample` and `sample_cached`, the same tokens for the same ``u``.

The distribution can be sharpened before each draw, in this order: tokens that are not ``allowed`` get $-\infty$ (any
finite number could be overcome), then `with_temperature`, `keep_top_k` (Fan et al. 2018, 1805.04833), `keep_top_p`
(Holtzman et al. 2019, 1904.09751). Where two tokens are equally likely the one with the lower number goes first.

What it claims, and the tests check: ONE uniform number for each sample and position, ``u[:, i]`` for token $i$ (those
of a prefix are ignored, so completing the beginning of a sample with its own ``u`` reproduces the sample); the draw
inverts the cumulative distribution, in float64; a sample's tokens depend on its own row of ``u`` alone, up to the
rounding of the model's products; no input is changed.

Everything here works on host arrays: logits are fetched from wherever the model computes.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from autograd import no_grad, raw
from kernels.backend import Array, to_numpy

Logits = Callable[[Any], Any]  # tokens (n, t) -> (n, t, vocab)
Step = Callable[[Any, Any], tuple[Any, Any]]  # new tokens (n, k), cache -> (n, vocab), cache
Callback = Callable[[int, Any], None]

# --- the distribution of one token -----------------------------------------------------------------------------------


def with_temperature(logits: Float[Array, "*n vocab"], temperature: float) -> Float[Array, "*n vocab"]:
    r"""$\ell / \tau$, up to a constant. $\tau = 0$ is the limit: the first of the largest logits is left."""
    logits = _checked(logits)
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature must be a number of at least 0, got {temperature}")
    if temperature == 1:
        return logits
    if temperature == 0:
        return keep_top_k(logits, 1)
    with np.errstate(over="ignore"):  # to -inf
        return (logits - logits.max(-1, keepdims=True)) / temperature


def keep_top_k(logits: Float[Array, "*n vocab"], k: int | None) -> Float[Array, "*n vocab"]:
    r"""$-\infty$ for all but the ``k`` largest, exactly ``k``: of equal ones the first. None, or a k above vocab, keeps all."""
    logits = _checked(logits)
    if k is None:
        return logits
    if operator.index(k) < 1:
        raise ValueError(f"top_k must be at least 1, or None to keep every token, got {k}")
    return np.where(_rank(logits) < k, logits, -np.inf)


def keep_top_p(logits: Float[Array, "*n vocab"], p: float | None) -> Float[Array, "*n vocab"]:
    r"""$-\infty$ for all but the smallest set of most likely tokens whose probability reaches ``p``; never fewer than one.

    Of equal ones the first are taken. None or 1 keeps all.
    """
    logits = _checked(logits)
    if p is None:
        return logits
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, or None to keep every token, got {p}")
    if p == 1:
        return logits
    order = np.argsort(-logits, axis=-1, kind="stable")
    mass = np.cumsum(np.take_along_axis(probabilities(logits), order, -1), -1)
    kept = 1 + (mass[..., :-1] < p).sum(-1, keepdims=True)  # a token stays while those before it do not reach p
    return np.where(_rank(logits) < kept, logits, -np.inf)


def filtered(
    logits: Float[Array, "*n vocab"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Array, "*n vocab"]:
    """Temperature, then top-k, then top-p."""
    return keep_top_p(keep_top_k(with_temperature(logits, temperature), top_k), top_p)


def guided(
    conditional: Float[Array, "*n vocab"], unconditional: Float[Array, "*n vocab"], scale: float
) -> Float[Array, "*n vocab"]:
    r"""Classifier-free guidance of logits: $\ell() + s\,(\ell(c) - \ell())$ with ``scale`` $s$.

    $s = 0$ is the unconditional and $s = 1$ the conditional model, bit for bit; $s > 1$ exaggerates the condition.
    Papers that write $(1 + w)\,\ell(c) - w\,\ell()$ (Ho & Salimans 2022, 2207.12598, eq. 6) mean $s = 1 + w$. The
    result is the distribution proportional to $p(x_i \mid c)^s\, p(x_i)^{1 - s}$. At any other scale a token that
    either forbids ($-\infty$) stays forbidden.
    """
    if not np.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale}")
    c, u = _checked(conditional), _checked(unconditional)
    if scale in (0, 1):
        return c if scale else u
    forbidden = np.isneginf(c) | np.isneginf(u)
    c, u = np.where(forbidden, 0, c), np.where(forbidden, 0, u)
    return np.where(forbidden, -np.inf, u + scale * (c - u))


def probabilities(logits: Float[Array, "*n vocab"]) -> Float[Array, "*n vocab"]:
    r"""$\mathrm{softmax}(\ell)$ in float64."""
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def draw(logits: Float[Array, "*n vocab"], u: Float[Array, "*n"]) -> Integer[Array, "*n"]:
    r"""The first token with cumulative probability above ``u`` $\in [0, 1)$, in float64; never one of probability 0."""
    p = probabilities(_checked(logits))
    token = (np.cumsum(p, -1) <= u[..., None]).sum(-1)
    last = p.shape[-1] - 1 - np.argmax(p[..., ::-1] > 0, axis=-1)  # takes what rounding leaves below 1
    return np.minimum(token, last)


def _rank(logits: Any) -> Any:
    """0 for the most likely token, 1 for the next, and so on; the lower number first where they are equal."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable")


def _checked(logits: Any) -> Any:
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise ValueError("logits must be finite or -inf, got NaN or +inf")
    if np.isneginf(logits).all(-1).any():
        raise ValueError("logits must allow at least one token, got -inf for all of them")
    return logits


# --- the loop ---------------------------------------------------------------------------------------------------------


def uniforms(n: int, t: int, *, rng: Any) -> Float[Array, "n t"]:
    """``u`` for ``n`` samples of ``t`` tokens, from one call of ``rng.random``: the first rows do not depend on n."""
    return rng.random((n, t))


def sample(
    logits: Logits,
    u: Float[Array, "n t"],
    *,
    prefix: Integer[Array, "n k"] | None = None,
    allowed: Bool[Array, "*n t vocab"] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    callback: Callback | None = None,
) -> Integer[Array, "n t"]:
    r"""Tokens (n, t), int64: the ``prefix`` as it is, then draws with ``u``; everything is recomputed for each token.

    ``allowed`` (t, vocab) or (n, t, vocab) is True for the tokens that may stand at a position. ``callback(i, tokens)``
    sees the first ``i`` tokens (n, i): when the prefix is in place, and after every draw. Raises FloatingPointError,
    naming the position, where the model returns NaN or +Inf.
    """

    def following(tokens: Any, new: int) -> Any:
        n, i = tokens.shape
        unknown = np.zeros((n, 1), tokens.dtype)  # stands for token i, which entry i does not depend on
        return logits(np.concatenate([tokens, unknown], axis=1))[:, i]

    return _loop(following, u, prefix, allowed, temperature, top_k, top_p, callback)


def sample_cached(
    step: Step,
    u: Float[Array, "n t"],
    *,
    prefix: Integer[Array, "n k"] | None = None,
    allowed: Bool[Array, "*n t vocab"] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    callback: Callback | None = None,
) -> Integer[Array, "n t"]:
    """`sample` with a model's ``step``, which keeps what it has computed: the same tokens for the same ``u``."""
    cache: Any = None

    def following(tokens: Any, new: int) -> Any:
        nonlocal cache
        found, cache = step(tokens[:, tokens.shape[1] - new :], cache)
        return found

    return _loop(following, u, prefix, allowed, temperature, top_k, top_p, callback)


def _loop(
    following: Callable[[Any, int], Any],
    u: Any,
    prefix: Any,
    allowed: Any,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    callback: Callback | None,
) -> Any:
    """``following(tokens, new)`` returns the next token's logits; it has not seen the last ``new`` tokens before."""
    n, t = u.shape
    known = 0 if prefix is None else prefix.shape[1]
    if prefix is not None and (len(prefix) != n or known > t):
        raise ValueError(f"prefix must hold at most {t} tokens for each of {n} samples, got shape {prefix.shape}")
    asked = u[:, known:]
    if asked.size and not (asked.min() >= 0 and asked.max() < 1):
        raise ValueError(f"u must be in [0, 1), got {asked.min()} to {asked.max()}")
    tokens = np.zeros((n, t), np.int64)
    if known:
        tokens[:, :known] = prefix
    if callback is not None:
        callback(known, tokens[:, :known].copy())
    for i in range(known, t):
        with no_grad():
            ell = to_numpy(raw(following(tokens[:, :i].copy(), i if i == known else 1))).astype(np.float64)
        if np.isnan(ell).any() or np.isposinf(ell).any():
            raise FloatingPointError(f"the model returned NaN or +Inf for token {i}")
        if allowed is not None:
            ell = np.where(allowed[..., i, :], ell, -np.inf)
        tokens[:, i] = draw(filtered(ell, temperature=temperature, top_k=top_k, top_p=top_p), u[:, i])
        if callback is not None:
            callback(i + 1, tokens[:, : i + 1].copy())
    return tokens


# --- models made of models, and the likelihood of given tokens --------------------------------------------------------


def padded(logits: Logits, length: int) -> Logits:
    """A model of exactly ``length`` tokens as a model of prefixes, which are padded with token 0."""

    def beginning(tokens: Any) -> Any:
        n, t = tokens.shape
        whole = np.concatenate([tokens, np.zeros((n, length - t), tokens.dtype)], axis=1)
        return logits(whole)[:, :t]

    return beginning


def guided_logits(conditional: Logits, unconditional: Logits, scale: float) -> Logits:
    """`guided` as a model. Both are always called."""

    def both(tokens: Any) -> Any:
        c, u = (to_numpy(raw(model(tokens))) for model in (conditional, unconditional))
        return guided(c, u, scale)

    return both


def guided_step(conditional: Step, unconditional: Step, scale: float) -> Step:
    """`guided` as a step, whose cache is the pair of theirs."""

    def both(new: Any, cache: Any) -> tuple[Any, Any]:
        of_c, of_u = (None, None) if cache is None else cache
        c, of_c = conditional(new, of_c)
        u, of_u = unconditional(new, of_u)
        return guided(to_numpy(raw(c)), to_numpy(raw(u)), scale), (of_c, of_u)

    return both


def token_log_p(logits: Float[Array, "*n vocab"], tokens: Integer[Array, "*n"]) -> Float[Array, "*n"]:
    r"""$\ell_{x} - \ln \sum_v e^{\ell_v}$ of given tokens, in float64."""
    ell = logits.astype(np.float64)
    top = ell.max(-1)
    chosen = np.take_along_axis(ell, tokens[..., None].astype(np.int64), -1)[..., 0]
    return chosen - top - np.log(np.exp(ell - top[..., None]).sum(-1))


def log_likelihood(logits: Logits, tokens: Integer[Array, "n t"], *, block: int = 64) -> Float[Array, " n"]:
    r"""$\ln p(x) = \sum_i \ln p(x_i \mid x_{<i})$ in nats, exact: one pass for ``block`` sequences at a time, summed in float64.

    Raises FloatingPointError, naming the position, where the model returns NaN or +Inf.
    """
    found = [np.zeros(0)]
    for start in range(0, len(tokens), block):
        x = tokens[start : start + block]
        with no_grad():
            ell = to_numpy(raw(logits(x)))
        broken = (np.isnan(ell) | np.isposinf(ell)).any((0, 2))
        if broken.any():
            raise FloatingPointError(f"the model returned NaN or +Inf for token {int(np.argmax(broken))}")
        found.append(token_log_p(ell, x).sum(1))
    return np.concatenate(found)
