r"""Data whose best prediction is known: a model for every law, with no network.

A bed is ``bed(x, level, call) -> (x_0, eps)``, the two guesses at the level whose time the model was given; ``call``
counts its calls. They satisfy $x = \alpha \hat x_0 + \sigma \hat\epsilon$ in every space, and have the dtype of ``x``.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtr

from .protocol import Level

Bed = Callable[[Any, Level, int], tuple[Any, Any]]


@dataclass(frozen=True)
class Gaussian:
    r"""$N(m, s^2)$ in every dimension; one point $m$ for $s = 0$.

    $\hat x_0 = m + g (x - \alpha m)$, $g = \alpha s^2 / (\alpha^2 s^2 + \sigma^2)$;
    $\hat\epsilon = \sigma (x - \alpha m) / (\alpha^2 s^2 + \sigma^2)$: conditioning of two jointly Gaussian variables.
    For one point and a level without noise, the guesses are $m$ and 0.
    """

    mean: float = 0.7
    std: float = 0.0

    def __call__(self, x: Any, level: Level, call: int) -> tuple[Any, Any]:
        """Both guesses."""
        variance = level.alpha**2 * self.std**2 + level.sigma**2
        off = x - level.alpha * self.mean
        if variance == 0:
            return 0 * off + self.mean, 0 * off
        return self.mean + level.alpha * self.std**2 / variance * off, level.sigma / variance * off


@dataclass(frozen=True)
class FullGaussian:
    r"""$N(m, C)$ over items flattened to (d,): $\hat\epsilon = \sigma (\alpha^2 C + \sigma^2 I)^{-1} (x - \alpha m)$,
    and $\hat x_0 = m + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (x - \alpha m)$.
    """

    mean: Any
    covariance: Any

    def __call__(self, x: Any, level: Level, call: int) -> tuple[Any, Any]:
        """Both guesses."""
        C, d = np.asarray(self.covariance), len(self.mean)
        inverse = np.linalg.inv(level.alpha**2 * C + level.sigma**2 * np.eye(d))
        mean = np.asarray(self.mean).astype(x.dtype)
        off = x.reshape(len(x), d) - level.alpha * mean
        x_0 = mean + off @ (level.alpha * inverse @ C).astype(x.dtype)
        return x_0.reshape(x.shape), (off @ (level.sigma * inverse).astype(x.dtype)).reshape(x.shape)


@dataclass(frozen=True)
class Mixture:
    r"""$\sum_k w_k N(m_k, s_k^2)$ in every dimension, and the exact map of its probability flow.

    In one dimension the flow keeps quantiles: it takes $x$ at one level to $F_u^{-1}(F_t(x))$ at another, so no solver
    is needed to know where it leads.
    """

    weights: Sequence[float] = (0.3, 0.7)
    means: Sequence[float] = (-1.0, 0.8)
    stds: Sequence[float] = (0.45, 0.35)

    def components(self, level: Level) -> tuple[Any, Any]:
        """Means and standard deviations of the components at a level."""
        means, stds = np.asarray(self.means), np.asarray(self.stds)
        return level.alpha * means, np.sqrt(level.alpha**2 * stds**2 + level.sigma**2)

    def __call__(self, x: Any, level: Level, call: int) -> tuple[Any, Any]:
        r"""Both guesses: the means of the components given $x$, weighted by their posterior."""
        m, s = self.components(level)
        z = (x[..., None].astype(np.float64) - m) / s
        log = np.log(np.asarray(self.weights) / s) - z**2 / 2
        share = np.exp(log - log.max(-1, keepdims=True))
        share = share / share.sum(-1, keepdims=True)
        x_0 = share * (np.asarray(self.means) + level.alpha * np.asarray(self.stds) ** 2 / s * z)
        return x_0.sum(-1).astype(x.dtype), (level.sigma * share * z / s).sum(-1).astype(x.dtype)

    def cdf(self, x: Any, level: Level) -> Any:
        """The distribution function at a level."""
        m, s = self.components(level)
        return (np.asarray(self.weights) * ndtr((x[..., None] - m) / s)).sum(-1)

    def quantile(self, p: Any, level: Level) -> Any:
        """x where the distribution function at a level is ``p``, by bisection."""
        m, s = self.components(level)
        low, high = (np.full(np.shape(p), edge) for edge in ((m - 40 * s).min(), (m + 40 * s).max()))
        for _ in range(80):
            x = (low + high) / 2
            below = self.cdf(x, level) < p
            low, high = np.where(below, x, low), np.where(below, high, x)
        return (low + high) / 2


def said(kind: str, x_0: Any, eps: Any, level: Level) -> Any:
    """The pair as a prediction of ``kind``."""
    if kind == "v":
        return level.alpha * eps - level.sigma * x_0
    if kind == "score":
        return -1 / level.sigma * eps
    return {"eps": eps, "x_0": x_0, "velocity": eps - x_0}[kind]


def pair(kind: str, output: Any, x: Any, level: Level) -> tuple[Any, Any]:
    """The inverse of `said`: both guesses from a prediction of ``kind``."""
    alpha, sigma = level.alpha, level.sigma
    if kind == "eps":
        return (x - sigma * output) / alpha, output
    if kind == "x_0":
        return output, (x - alpha * output) / sigma
    if kind == "velocity":
        return x - sigma * output, x + alpha * output
    if kind == "score":
        return (x + sigma**2 * output) / alpha, -sigma * output
    return alpha * x - sigma * output, sigma * x + alpha * output


@dataclass(frozen=True)
class Scripted:
    """No data: in row k of the batch the prediction of ``kind`` is 1 at call k and 0 at all others.

    A sampler that combines predictions linearly then returns in row k the weight of call k.
    """

    kind: str = "x_0"

    def __call__(self, x: Any, level: Level, call: int) -> tuple[Any, Any]:
        """Both guesses."""
        output = np.zeros_like(x)
        if call < len(x):
            output[call] = 1
        return pair(self.kind, output, x, level)


@dataclass(frozen=True)
class Strings:
    r"""A table over all strings of a length, and the model that knows it: $\ln p(x_i \mid x_{<i})$, up to a constant.

    The constant depends on the prefix, since logits need not be normalised. With vocabulary 2 and length 9 the strings
    are all pictures of 3 x 3 pixels. With ``holes`` no string begins with token 0, and about a third of the others
    cannot occur.
    """

    vocab: int = 3
    length: int = 3
    seed: int = 0
    holes: bool = False

    @cached_property
    def table(self) -> Any:
        """Probabilities (vocab, ..., vocab), one axis per token."""
        rng = np.random.default_rng((self.seed, self.vocab, self.length))
        p = np.exp(1.5 * rng.standard_normal((self.vocab,) * self.length))
        if self.holes:
            p = p * (rng.random(p.shape) > 0.3)
            p[0] = 0.0
            p[(-1,) * self.length] = 1.0  # something is left
        return p / p.sum()

    @cached_property
    def strings(self) -> Any:
        """All strings (vocab^length, length), the last token varying fastest: the order of the flattened `table`."""
        found = list(itertools.product(range(self.vocab), repeat=self.length))
        return np.array(found, np.int64).reshape(len(found), self.length)

    def __call__(self, tokens: Any) -> Any:
        """Logits (n, vocab) of the token after ``tokens`` (n, k); all equal after a prefix that cannot occur."""
        n, k = tokens.shape
        known = self.table.reshape(*(self.vocab,) * (k + 1), -1).sum(-1)
        joint = np.broadcast_to(known[tuple(tokens.T)], (n, self.vocab))
        joint = np.where(joint.sum(-1, keepdims=True) > 0, joint, 1.0)
        with np.errstate(divide="ignore"):
            return np.log(joint) + 0.7 * k + tokens.sum(1, keepdims=True)

    def log_p(self, tokens: Any) -> Any:
        """ln p of whole strings (n, length)."""
        with np.errstate(divide="ignore"):
            return np.log(self.table[tuple(tokens.T)])
