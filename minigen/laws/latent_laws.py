r"""Laws of functions between noise, codes and pictures: slerp, nearest codes, latents, truncation, the best of many.

Each is a stateless function of arrays, compared with a slow version of its definition. Limits: rounding of the dtype,
$64\,\varepsilon$ of the largest number, unless a law says otherwise.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import chi2

from .protocol import Fault
from .recorder import Tape, asked, shaped, whole
from .verdict import Check, distance

SURE, BINS = 1e-9, 20  # probability that a correct truncation fails at a bound; bins of its counts
FAR = {"float64": 3e8, "float32": 3e4}  # far enough that |z|^2 - 2 z c + |c|^2 loses the difference of two codes


def _limit(dtype: Any, size: float = 1.0) -> float:
    return 64 * float(np.finfo(dtype).eps) * max(1.0, size)


def slerp(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""At 0 and 1 the points, bitwise; in between the angle to the first grows linearly, points of equal norm stay on
    their sphere, and all stay in the plane of both; symmetric in both ends.

    For directions that are random, at right angles, equal, equal up to rounding, and nearly opposite. Where ``norms``
    "linear" is claimed, norms differ, and the norm is $(1 - t)|a| + t|b|$. Limit: rounding; between nearly opposite
    points a thousand times that. Angles are compared by $\cos$ and $\sin$. Catches: the straight line, a division by
    $\sin 0$, an angle in the wrong half, ends that are swapped.
    """
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 8))
    b = rng.standard_normal((6, 8))
    b[1] = np.roll(a[1], 4) * ([1] * 4 + [-1] * 4)  # at right angles
    b[2] = a[2]
    b[3] = a[3] * (1 + 1e-12)
    b[4] = a[4] + 1e-9 * b[4]
    linear = subject.claims.get("norms") == "linear"
    b[5] = -a[5] + (1e-3 if linear else 1e-2) * b[5]  # the cosine shows only the square of that
    if not linear:
        b *= np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(b, axis=1, keepdims=True)
    a, b = a.astype(dtype), b.astype(dtype)
    wide = [a.astype(np.float64), b.astype(np.float64)]
    norms = [np.linalg.norm(x, axis=1) for x in wide]
    u, v = (x / norm[:, None] for x, norm in zip(wide, norms))
    across = v - (u * v).sum(1, keepdims=True) * u
    sine = np.linalg.norm(across, axis=1)
    theta = np.arctan2(sine, (u * v).sum(1))
    limit = _limit(dtype, max(float(n.max()) for n in norms)) * np.where(theta > 3, 1e3, 1.0)
    for t in (0.0, 1.0, 0.5, 0.25, 0.9):
        found = shaped(asked(subject, a, b, t), a.shape, dtype)
        back = shaped(asked(subject, b, a, 1 - t), a.shape, dtype).astype(np.float64)
        yield Check(float((~np.isfinite(found)).sum()), 0.0, f"not finite at t = {t:g}")
        if t in (0.0, 1.0):
            yield Check(distance(found, b if t else a), 0.0, f"not the end itself at t = {t:g}")
        z = found.astype(np.float64)
        norm = (1 - t) * norms[0] + t * norms[1]
        yield Check(float(np.max(np.abs(np.linalg.norm(z, axis=1) - norm) / limit)), 1.0, f"norm at t = {t:g}")
        along, rest = (z * u).sum(1), z - (z * u).sum(1, keepdims=True) * u
        off = np.maximum(
            np.abs(along - norm * np.cos(t * theta)), np.abs(np.linalg.norm(rest, axis=1) - norm * np.sin(t * theta))
        )
        yield Check(float(np.max(off / limit)), 1.0, f"angle at t = {t:g}")
        towards = (rest * across).sum(1) - np.linalg.norm(rest, axis=1) * sine  # 0 if rest and across are parallel
        yield Check(float(np.max(np.abs(towards) / limit)), 1.0, f"out of the plane of both points at t = {t:g}")
        yield Check(float(np.max(np.abs(back - z).max(1) / limit)), 4.0, f"from the other end at t = {t:g}")


def nearest_codes(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$\arg\min_k \sum_j (z_j - c_{kj})^2$ by differences in float64, the lowest index where two are equally near.

    Codebooks of 1 to 33 codes, vectors that are codes, ties; where ``far`` is claimed, also 3e8 from the origin (3e4 in
    float32), where $|z|^2 - 2 z c + |c|^2$ has lost the difference. Exact, unless distances differ by rounding only.
    Catches: the expanded form, argmax, a sum over the wrong axis, a code that is never chosen.
    """
    rng = np.random.default_rng(1)
    cases: list[tuple[str, Any, Any]] = []
    for d, k in ((1, 1), (2, 5), (4, 33)):
        codes = rng.standard_normal((k, d))
        z = np.concatenate([rng.standard_normal((40, d)), codes])
        cases.append((f"{k} codes of {d} numbers", z, codes))
        if subject.claims.get("far"):
            offset = FAR[np.dtype(dtype).name]
            cases.append((f"{k} codes of {d} numbers, {offset:g} from the origin", z + offset, codes + offset))
    cases.append(("ties", np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [-1.0], [1.0], [3.0]])))
    for what, z, codes in cases:
        z, codes = z.astype(dtype), codes.astype(dtype)
        found = whole(asked(subject, z, codes), (len(z),), 0, len(codes) - 1)
        squares = ((z[:, None].astype(np.float64) - codes.astype(np.float64)) ** 2).sum(-1)
        mine, best = squares[np.arange(len(z)), found], squares.min(1)
        yield Check(float(np.max(mine - best)), _limit(np.float64, float(best.max())), f"not the nearest code, {what}")
        if what == "ties":
            yield Check(float((found != squares.argmin(1)).sum()), 0.0, "of two codes equally near not the first")


def latents(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$z = \mu + e^{\frac12 \ln \sigma^2} \epsilon$: by a tape of ones, mean $\mu$ and variance $e^{\ln\sigma^2}$ in
    every coordinate, and no other row's noise.

    For a prior, an identity decoder returns the draws themselves: mean 0, variance 1, and each row from its own noise.
    Limit: rounding. Catches: $e^{\ln \sigma^2}$ for its root, a mean that is scaled, one draw for the whole batch.
    """
    if subject.space == "prior":
        n, d = 6, 3
        rng = np.random.default_rng(2)
        table = rng.standard_normal((n, d))

        def noise(shape: Any) -> Any:
            if tuple(shape) != (n, d):
                raise Fault(f"drew noise of shape {tuple(shape)} for {n} latents of {d} numbers")
            return table.astype(dtype)

        found = shaped(asked(subject, lambda z: z, n, d, noise, method="sample"), (n, d))
        coarser = found.dtype if found.dtype == np.float32 else dtype
        yield Check(distance(found, table.astype(dtype)), _limit(coarser, 3), "the latents are not the draws")
        return
    mean, log_var = np.array([0.7, -2.0, 0.0]), np.array([0.0, -3.0, 1.5])
    rows = 4
    mu, lv = (np.repeat(x[None], rows + 1, 0).astype(dtype) for x in (mean, log_var))
    for first in range(rows):
        tape = Tape(first)
        found = shaped(asked(subject, mu, lv, tape(mu.shape).astype(dtype)), mu.shape, dtype).astype(np.float64)
        want = np.repeat(mean[None], rows + 1, 0)
        want[first] += np.exp(log_var / 2)
        yield Check(distance(found, want), _limit(dtype, 4), f"a draw of 1 for row {first}")


def truncation(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$|z_j| \le c$ for every coordinate; draws from $N(0, 1)$ become draws from the truncated Gaussian; a $c$ beyond
    all of them changes nothing.

    Where ``quantiles`` is claimed, quantile $q$ of $N(0, 1)$ becomes quantile $q$ of the truncated Gaussian,
    $\Phi^{-1}(\Phi(-c) + q\,(2\Phi(c) - 1))$, so 1,001 of them are a test without chance. Otherwise 20,000 draws are
    counted in 20 bins of equal probability: a $\chi^2$ test, which fails a correct one with probability 1e-9 per bound.
    Limit: rounding, for quantiles 16 times that (1e-4 in float32). Catches: coordinates that are clipped and pile up at
    c, a share for a bound, one side only, the uniform or the reflected Gaussian in place of the truncated one.
    """
    q = (np.arange(1001) + 0.5) / 1001
    z = np.random.default_rng(4).permutation(ndtri(q)).reshape(-1, 7).astype(dtype)
    for c in (0.5, 1.0, 2.0):
        found = shaped(asked(subject, z, c), z.shape)
        slack = _limit(dtype)
        yield Check(float(np.abs(found).max()) - c, slack, f"a coordinate beyond {c:g}")
        if subject.claims.get("quantiles"):
            wide = z.astype(np.float64)
            want = ndtri(ndtr(-c) + ndtr(wide) * (ndtr(c) - ndtr(-c)))
            yield Check(distance(found, want), 16 * slack, f"quantiles within {c:g}")
        else:
            heap = float((np.abs(found) > 0.999 * c).mean())
            yield Check(heap, 0.05, f"coordinates pile up at {c:g}")
            draws = np.random.default_rng(5).standard_normal((2000, 10)).astype(dtype)
            share = (ndtr(shaped(asked(subject, draws, c), draws.shape).astype(np.float64)) - ndtr(-c)) / (
                ndtr(c) - ndtr(-c)
            )
            counts = np.bincount((BINS * share).astype(int).clip(0, BINS - 1).ravel(), minlength=BINS)
            even = draws.size / BINS
            tail = max(float(chi2.sf(((counts - even) ** 2 / even).sum(), BINS - 1)), 1e-300)
            yield Check(
                math.log(tail) / math.log(SURE), 1.0, f"not the truncated Gaussian within {c:g}: counts {counts}"
            )
    # beyond all of them, to the rounding of 1 - Phi(8) = 6e-16
    far = shaped(asked(subject, z, 8.0), z.shape)
    yield Check(distance(far, z), 1e-10 + 16 * _limit(dtype), "a bound of 8 changes something")


def ranking(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""The k best of N candidates: none twice, sorted, the first of equal ones; the same candidates in whatever order
    they are given.

    Compared with Python's sort, row by row. Exact. Catches: the worst for the best, the winner of another row, ties
    that depend on the order of a sort.
    """
    rng = np.random.default_rng(6)
    scores = rng.standard_normal((7, 9)).astype(dtype)
    scores[3] = [0, 2, 1, 2, 0, 2, 1, 1, 0]
    most = int(subject.claims.get("most", scores.shape[1]))
    for k in sorted({1, min(3, most), min(scores.shape[1], most)}):
        found = whole(asked(subject, scores, k), (len(scores), k), 0, scores.shape[1] - 1)
        want = np.array([[j for _, j in sorted((-x, j) for j, x in enumerate(row))][:k] for row in scores.tolist()])
        yield Check(float((found != want).sum()), 0.0, f"the best {k} are others")
        moved = rng.permutation(scores.shape[1])
        again = whole(asked(subject, scores[:, moved], k), (len(scores), k), 0, scores.shape[1] - 1)
        held = np.take_along_axis(scores[:, moved], again, 1), np.take_along_axis(scores, found, 1)
        yield Check(distance(*held), 0.0, f"the best {k} depend on the order of the candidates")
        rows = rng.permutation(len(scores))
        other = shaped(asked(subject, scores[rows], k), (len(scores), k))
        yield Check(float((other != found[rows]).sum()), 0.0, f"the best {k} depend on the other rows")


def threshold(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""A guess within the bound stays as it is, bitwise; beyond it,
    $\mathrm{clip}(x_0, \pm\tau) \cdot \text{bound} / \tau$ with $\tau$ the share-quantile of a sample's $|x_0|$, or the
    bound if that is more.

    The quantile by sorting and linear interpolation. Limit: rounding. Catches: one quantile per batch or per channel, a
    quantile of $x_0$ for one of $|x_0|$, a clip without the division.
    """
    rng = np.random.default_rng(8)
    calm = rng.uniform(-1, 1, (3, 4, 4, 2)).astype(dtype)
    wild = (calm * np.array([0.5, 3.0, 9.0]).reshape(3, 1, 1, 1) - 0.4).astype(dtype)
    for share, bound in ((0.9, 1.0), (1.0, 1.0), (0.5, 2.0)):
        kept = calm if bound == 1 else 2 * calm
        yield Check(
            distance(shaped(asked(subject, kept, share, bound), calm.shape, dtype), kept),
            0.0,
            f"a guess within {bound:g} is changed",
        )
        found = shaped(asked(subject, wild, share, bound), wild.shape, dtype)
        for row, got in zip(wild.astype(np.float64), found):
            size = sorted(abs(float(x)) for x in row.ravel())
            place = share * (len(size) - 1)
            low, high = size[math.floor(place)], size[math.ceil(place)]
            tau = max(low + (place - math.floor(place)) * (high - low), bound)
            where = f"share {share:g} of a sample that reaches {size[-1]:.2f}"
            yield Check(distance(got, np.clip(row, -tau, tau) * bound / tau), _limit(dtype, size[-1]), where)
