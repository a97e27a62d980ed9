r"""Hypothesis strategies for property-based tests of samplers: they draw descriptions, from which arrays are built.

A description is a frozen dataclass of small integers. It prints legibly, shrinks to the smallest case that fails
(`Grid(T=17, n=7, spacing='even')`, not a matrix of 64 numbers), and builds its arrays on demand. Fractions are given in
hundredths or thousandths.

    from itertools import pairwise
    from hypothesis import given
    from minigen.laws import strategies as some
    from minigen.laws.pytest import obeys

    class MyDDIM:
        space, claims = "vp", {"calls": "n", "draws": "0", "point": True, "eta": 0.0}

        def __init__(self, walk):
            self.walk, self.steps, self.sweep = walk, (walk.grid.n,), (walk.grid.n,)

        def levels(self, n):
            return self.walk.levels()  # [(time, alpha, sigma)], from the noisiest to the data

        def sample(self, model, x, n, noise):
            for (t, a, s), (_, a_u, s_u) in pairwise(self.levels(n)):
                eps = model(x, t)
                x = a_u * (x - s * eps) / a + s_u * eps
            return x

    @given(some.walks())
    def test_my_sampler(walk):
        obeys(MyDDIM(walk), ["L0", "L6", "L8"])  # each in milliseconds; without names all laws
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .beds import Bed, FullGaussian, Gaussian, Mixture, Strings

SHAPES = ("linear", "cosine", "drawn")
SPACINGS = ("even", "leading", "drawn")


@dataclass(frozen=True)
class Chain:
    r"""A noise schedule of T levels: "linear" and "cosine" as published, scaled to T; "drawn": $\bar\alpha$ is a
    product of ``kept`` thousandths, repeated.

    No signal is left at the last level if ``flat`` (Lin et al. 2023, 2305.08891, algorithm 1).
    """

    T: int = 10
    shape: str = "linear"
    kept: tuple[int, ...] = (900,)
    flat: bool = False

    @cached_property
    def alpha_bar(self) -> Any:
        r"""$\bar\alpha_0 = 1$ to $\bar\alpha_T$, (T + 1,), falling."""
        if self.shape == "linear":
            beta = np.minimum(np.linspace(0.1, 20, self.T) / self.T, 0.9)
        elif self.shape == "cosine":
            f = np.cos((np.arange(self.T + 1) / self.T + 0.008) / 1.008 * np.pi / 2) ** 2
            beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
        else:
            beta = 1 - np.resize(np.array(self.kept), self.T) / 1000
        a = np.concatenate([[1.0], np.cumprod(1 - beta)])
        if self.flat and self.T > 1:
            root = a**0.5
            a[1:] = ((root[1:] - root[-1]) * root[1] / (root[1] - root[-1])) ** 2
        return a


@dataclass(frozen=True)
class Grid:
    """n of the times 1 to T: "even" ends at T, "leading" at 1 + (n - 1) (T // n), "drawn" are any with T among them, by
    ``seed``.
    """

    T: int = 10
    n: int = 3
    spacing: str = "even"
    seed: int = 0

    @property
    def times(self) -> list[int]:
        """Falling."""
        if self.spacing == "even":
            rising = -(-np.arange(1, self.n + 1) * self.T // self.n)
        elif self.spacing == "leading":
            rising = 1 + np.arange(self.n) * (self.T // self.n)
        else:
            others = np.random.default_rng(self.seed).permutation(self.T - 1)[: self.n - 1] + 1
            rising = np.sort(np.append(others, self.T))
        return [int(t) for t in rising[::-1]]


@dataclass(frozen=True)
class Walk:
    """A grid over a chain of the same length."""

    chain: Chain
    grid: Grid

    @property
    def alpha_bar(self) -> Any:
        r"""$\bar\alpha$ of the grid's levels, rising in time from the data, (n + 1,)."""
        return self.chain.alpha_bar[[0, *self.grid.times[::-1]]]

    def levels(self) -> list[tuple[float, float, float]]:
        """(time, alpha, sigma) of the protocol, variance preserving, from the noisiest to the data."""
        rows = zip([*self.grid.times, 0], self.alpha_bar[::-1])
        return [(float(t), float(a) ** 0.5, float(1 - a) ** 0.5) for t, a in rows]


@dataclass(frozen=True)
class Table:
    """Logits (rows, vocab) of normal numbers times ``spread`` tenths; some equal in pairs (``ties``), some -inf (``holes``)."""

    rows: int = 1
    vocab: int = 2
    spread: int = 10
    seed: int = 0
    ties: bool = False
    holes: bool = False

    @cached_property
    def logits(self) -> Any:
        """The array, float64, read-only."""
        rng = np.random.default_rng((self.seed, self.rows, self.vocab))
        x = self.spread / 10 * rng.standard_normal((self.rows, self.vocab))
        if self.ties:
            x = np.round(x)
        if self.holes:
            keep = rng.integers(0, self.vocab, (self.rows, 1))
            x = np.where((rng.random(x.shape) < 0.4) & (np.arange(self.vocab) != keep), -np.inf, x)
        x.flags.writeable = False
        return x


@dataclass(frozen=True)
class Filter:
    """Settings of a token filter: temperature and p in hundredths; 100, None and None do nothing."""

    temperature: int = 100
    top_k: int | None = None
    top_p: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """As keywords."""
        p = None if self.top_p is None else self.top_p / 100
        return {"temperature": self.temperature / 100, "top_k": self.top_k, "top_p": p}


@st.composite
def schedules(draw: st.DrawFn, *, longest: int = 1000, shapes: Sequence[str] = SHAPES, flat: bool = False) -> Chain:
    r"""Schedules of 2 to ``longest`` levels; drawn ones of at most 12, so that $\bar\alpha_T$ stays above $10^{-9}$.

    ``flat``: also without signal at the end.
    """
    shape = draw(st.sampled_from(tuple(shapes)))
    T = draw(st.integers(2, min(longest, 12) if shape == "drawn" else longest))
    kept = tuple(draw(st.lists(st.integers(200, 999), min_size=1, max_size=T))) if shape == "drawn" else (900,)
    return Chain(T, shape, kept, draw(st.booleans()) if flat else False)


@st.composite
def grids(
    draw: st.DrawFn, T: int, *, least: int = 1, most: int = 12, spacings: Sequence[str] = ("even", "drawn")
) -> Grid:
    """``least`` to ``most`` of T times. "leading", which does not start at T, only if it is asked for."""
    spacing = draw(st.sampled_from(tuple(spacings)))
    n = draw(st.integers(min(T, least), min(T, most)))
    return Grid(T, n, spacing, draw(st.integers(0, 999)) if spacing == "drawn" else 0)


@st.composite
def walks(draw: st.DrawFn, *, longest: int = 1000, most: int = 12, flat: bool = False) -> Walk:
    """Schedules with a grid each; of at least 2 levels where the first is without signal."""
    chain = draw(schedules(longest=longest, flat=flat))
    return Walk(chain, draw(grids(chain.T, least=1 + chain.flat, most=most)))


def _hundredths(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda k: k / 100)


def gaussians() -> st.SearchStrategy[Gaussian]:
    """N(m, s^2), one point among them."""
    return st.builds(Gaussian, mean=_hundredths(-200, 200), std=st.just(0.0) | _hundredths(5, 300))


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """One to four Gaussians in one dimension."""
    k = draw(st.integers(1, 4))
    shares = draw(st.lists(st.integers(1, 9), min_size=k, max_size=k))
    means = draw(st.lists(_hundredths(-200, 200), min_size=k, max_size=k))
    stds = draw(st.lists(_hundredths(10, 150), min_size=k, max_size=k))
    return Mixture([share / sum(shares) for share in shares], means, stds)


@st.composite
def full_gaussians(draw: st.DrawFn, d: int = 2) -> FullGaussian:
    """N(m, L L^T + I / 100) in d dimensions, L of hundredths."""
    entries = draw(st.lists(_hundredths(-150, 150), min_size=d * d, max_size=d * d))
    mean = draw(st.lists(_hundredths(-200, 200), min_size=d, max_size=d))
    L = np.tril(np.array(entries).reshape(d, d))
    return FullGaussian(np.array(mean), L @ L.T + 0.01 * np.eye(d))


def beds() -> st.SearchStrategy[Bed]:
    """All one-dimensional beds."""
    return gaussians() | mixtures()


@st.composite
def strings(draw: st.DrawFn, *, most: int = 512) -> Strings:
    """Tables over all strings of a vocabulary and a length, at most ``most`` strings."""
    vocab = draw(st.integers(2, 5))
    longest = int(np.log(most) / np.log(vocab) + 1e-9)
    return Strings(vocab, draw(st.integers(1, longest)), draw(st.integers(0, 999)), draw(st.booleans()))


def pictures(side: int = 3) -> st.SearchStrategy[Strings]:
    """Tables over all black and white pictures of ``side`` x ``side`` pixels, in raster order."""
    return st.builds(Strings, st.just(2), st.just(side * side), st.integers(0, 999), st.booleans())


def token_tables() -> st.SearchStrategy[Table]:
    """Logits of up to 4 rows and 12 tokens; steep and flat ones, ties, holes."""
    seeds, spreads = st.integers(0, 999), st.sampled_from((10, 1, 30, 0, 1000, 100_000))
    return st.builds(Table, st.integers(1, 4), st.integers(1, 12), spreads, seeds, st.booleans(), st.booleans())


def filters() -> st.SearchStrategy[Filter]:
    """Any settings, also those that do nothing, temperature 0, and a k above the vocabulary."""
    temperatures = st.just(100) | st.integers(0, 300)
    return st.builds(Filter, temperatures, st.none() | st.integers(1, 15), st.none() | st.integers(1, 100))
