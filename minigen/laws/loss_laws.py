r"""Laws of losses, with the best possible networks: their expectations are known in closed form.

Every loss here is at most quadratic in jointly Gaussian variables, so its expectation is exactly an average over the
$2d$ points $\pm\sqrt d\, e_i$ of a standard Gaussian (`cubature`): no random numbers, and limits are rounding. All in
float64. $\bar\alpha$ is that of `ALPHA_BAR`, a chain of 12 levels; data are $N(m, \text{sd}^2)$, $m = 0.7$, at three
widths.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import binom

from .beds import Gaussian
from .exact_laws import POINT
from .protocol import Fault, Level
from .recorder import asked, shaped, whole
from .verdict import Check, distance

ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(0.02, 0.5, 12))])
STDS = (0.5, 1.0, 2.0)
LIMIT = 1e-10  # a few hundred roundings of float64, on numbers of size 1 to 100
SURE = 1e-9


def cubature(d: int) -> Any:
    """2 d points (2 d, d) whose mean of any polynomial of degree 3 is that over N(0, I)."""
    return np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])


def _level(t: int) -> Level:
    return Level(float(t), float(ALPHA_BAR[t] ** 0.5), float((1 - ALPHA_BAR[t]) ** 0.5))


def _number(found: Any) -> float:
    return float(shaped(found, ()))


def _pairs(std: float) -> tuple[Any, Any]:
    """x_0 and eps (4, 1), over which the mean of any quadratic is that over both Gaussians."""
    points = cubature(2)
    return POINT + std * points[:, :1], points[:, 1:]


def simple_loss(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$\mathbb E \| \epsilon - \epsilon^* \|^2 = \frac1T \sum_t \frac{\bar\alpha_t\, \text{sd}^2}{\bar\alpha_t\, \text{sd}^2 + 1 - \bar\alpha_t}$
    for the best network on $N(m, \text{sd}^2)$: the variance of the noise given $x_t$.

    Every $t$ from 1 to T in one batch, and each alone, so that a $t$ that does not belong to its $x_t$ shows. A network
    that predicts 0 has loss 1. Catches: $\bar\alpha$ for its root, a level too early, a sum for a mean, a time given to
    the network that is not the one used.
    """
    T = len(ALPHA_BAR) - 1
    for std in STDS:
        x_0, eps = _pairs(std)
        bed = Gaussian(POINT, std)

        def best(x_t: Any, t: Any, bed: Gaussian = bed) -> Any:
            rows = np.asarray(x_t)
            told = np.broadcast_to(np.asarray(t), (len(rows),))
            return np.concatenate([bed(rows[i : i + 1], _level(int(told[i])), 0)[1] for i in range(len(rows))])

        each = [a * std**2 / (a * std**2 + 1 - a) for a in ALPHA_BAR[1:]]
        for t, want in enumerate(each, 1):
            found = _number(asked(subject, best, x_0, np.full(4, t), eps, ALPHA_BAR))
            yield Check(abs(found - want), LIMIT, f"t = {t}, data of sd {std:g}")
        all_t = np.repeat(np.arange(1, T + 1), 4)
        found = _number(asked(subject, best, np.tile(x_0, (T, 1)), all_t, np.tile(eps, (T, 1)), ALPHA_BAR))
        yield Check(abs(found - float(np.mean(each))), LIMIT, f"all t at once, data of sd {std:g}")
        nothing = _number(asked(subject, lambda x_t, t: 0 * x_t, x_0, np.full(4, 5), eps, ALPHA_BAR))
        yield Check(abs(nothing - 1), LIMIT, "a network that says 0")


def _coefficient(t: int) -> tuple[float, float, float]:
    r"""The weight of x_0 in $\tilde\mu_t$, $\beta_t$ and $\tilde\beta_t$, from precisions that add."""
    a, before = ALPHA_BAR[t], ALPHA_BAR[t - 1]
    beta = 1 - a / before
    tilde = 1 / (a / before / beta + 1 / (1 - before))
    return float(tilde * before**0.5 / (1 - before)), float(beta), float(tilde)


def _best_terms(std: float, variance: str) -> list[float]:
    r"""$\mathbb E\, \mathrm{KL}(q(x_u \mid x_t, x_0) \| p(x_u \mid x_t))$ for t = 2 to T, of the best mean and the
    variance that is named.
    """
    terms = []
    for t in range(2, len(ALPHA_BAR)):
        c, beta, tilde = _coefficient(t)
        a = ALPHA_BAR[t]
        off = c**2 * std**2 * (1 - a) / (a * std**2 + 1 - a)  # mean square of what the guess of x_0 adds
        v = {"small": tilde, "large": beta, "learned": tilde + off}[variance]
        terms.append(0.5 * (np.log(v / tilde) - 1 + (tilde + off) / v))
    return terms


def variational_bound(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""With the best network, each term of the bound is a KL of two Gaussians,
    $\frac12 (\ln \frac{v}{\tilde\beta} - 1 + \frac{\tilde\beta + c^2 \mathrm{Var}(x_0 | x_t)}{v})$, $c$ the weight of
    $x_0$ in $\tilde\mu$.

    $v$ is $\tilde\beta$ ("small"), $\beta$ ("large") or, with the best share,
    $\tilde\beta + c^2 \mathrm{Var}(x_0 \mid x_t)$ itself, where the term is $\frac12 \ln (v / \tilde\beta)$: no other
    variance gives less. Terms t = 2 ... T, their sum, and where there is a ``prior`` the last level's,
    $\mathrm{KL}(q(x_T \mid x_0) \| N(0, I))$. Catches: a variance for a standard deviation, the reverse KL, $\mu$ of
    another level, bits for nats.
    """
    variance = subject.claims.get("variance") or "small"
    for std in STDS:
        x_0, eps = _pairs(std)
        bed, total = Gaussian(POINT, std), 0.0
        want = _best_terms(std, variance)
        for t, term in enumerate(want, 2):
            level = _level(t)
            x_t = level.alpha * x_0 + level.sigma * eps
            c, beta, tilde = _coefficient(t)
            a = ALPHA_BAR[t]
            best = tilde + c**2 * std**2 * (1 - a) / (a * std**2 + 1 - a)
            v = np.full_like(x_0, np.log(best / tilde) / np.log(beta / tilde))
            nats = shaped(asked(subject, x_0, x_t, t, bed(x_t, level, 0)[1], v, ALPHA_BAR), (4,))
            yield Check(abs(float(nats.mean()) - term), LIMIT, f"term of t = {t}, data of sd {std:g}")
            total += float(nats.mean())
        yield Check(abs(total - sum(want)), LIMIT, f"sum of the terms, data of sd {std:g}")
        if subject.claims.get("prior"):
            a = ALPHA_BAR[-1]
            nats = shaped(asked(subject, x_0, ALPHA_BAR, method="prior"), (4,))
            closed = 0.5 * (a * (POINT**2 + std**2) + (1 - a) - 1 - np.log(1 - a))
            yield Check(abs(float(nats.mean()) - closed), LIMIT, f"the last level's term, data of sd {std:g}")


def grey_levels(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$\sum_k p(k) = 1$ over all grey levels of a distribution, for 2, 17 and 256 of them; each between 0 and 1.

    Limit: a few roundings per level, and the floor that a loss may put under a probability ($10^{-300}$). Catches: bins
    at the ends that do not reach to infinity, the half-width of 256 levels where there are 17.
    """
    for levels in (2, 17, 256):
        log_p = shaped(asked(subject, np.arange(levels), levels), (levels,))
        yield Check(float(log_p.max()), LIMIT, f"a probability above 1, {levels} levels")
        yield Check(abs(float(np.exp(log_p).sum()) - 1), LIMIT, f"sum over {levels} levels")


def gaussian_bins(mean: float, std: float, levels: int) -> Any:
    """ln p of every level, by differences of the distribution function at the edges of the bins."""
    edges = (2 * np.arange(levels + 1) - levels) / (levels - 1)
    edges[0], edges[-1] = -np.inf, np.inf
    return np.log(np.diff(ndtr((edges - mean) / std)))


def hybrid(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$L_{\text{simple}} + \lambda L_{\text{vlb}}$ sends the mean no gradient through the bound:
    $\partial / \partial \hat\epsilon$ is that of $L_{\text{simple}}$ alone, $2 (\hat\epsilon - \epsilon) / n$, whatever
    $\lambda$ (Nichol & Dhariwal 2021, section 3.1).

    $\partial / \partial v = \lambda T \cdot \frac12 \ln \frac{\beta}{\tilde\beta} \big(1 - \frac{\tilde\beta + (\mu - \tilde\mu)^2}{\Sigma}\big) / n$,
    whose mean at the best share and the best network is 0; and the value is the sum of both losses, the bound as T
    times a term. Catches: a bound without its stop-gradient, one not multiplied by T, a gradient that reaches nothing.
    """
    T = len(ALPHA_BAR) - 1
    for std in STDS:
        x_0, eps = _pairs(std)
        for t in (2, 7, T):
            level = _level(t)
            x_t = level.alpha * x_0 + level.sigma * eps
            said = Gaussian(POINT, std)(x_t, level, 0)[1]
            c, beta, tilde = _coefficient(t)
            a = ALPHA_BAR[t]
            width = np.log(beta / tilde)
            best = np.log(1 + c**2 * std**2 * (1 - a) / (a * std**2 + 1 - a) / tilde) / width
            for lam, v_value in ((0.0, 0.4), (0.1, 0.4), (0.1, best)):
                v = np.full_like(x_0, v_value)
                found = asked(subject, x_0, x_t, np.full(4, t), eps, said, v, ALPHA_BAR, lam)
                if not isinstance(found, tuple) or len(found) != 3:
                    raise Fault("apply must return the loss and its gradients by eps_theta and by v")
                value, by_eps, by_v = _number(found[0]), shaped(found[1], v.shape), shaped(found[2], v.shape)
                sigma2 = np.exp(v * np.log(beta) + (1 - v) * np.log(tilde))
                x_hat = (x_t - level.sigma * said) / level.alpha
                square = c**2 * (x_hat - x_0) ** 2
                kl = 0.5 * (np.log(sigma2 / tilde) - 1 + (tilde + square) / sigma2)
                where = f"t = {t}, lambda {lam:g}, v {v_value:.2f}, data of sd {std:g}"
                want = ((said - eps) ** 2).mean() + lam * T * kl.mean()
                yield Check(abs(value - want), LIMIT, f"value, {where}")
                yield Check(distance(by_eps, 2 * (said - eps) / x_0.size), LIMIT, f"gradient of the mean, {where}")
                slope = lam * T * 0.5 * width * (1 - (tilde + square) / sigma2) / x_0.size
                yield Check(distance(by_v, slope), LIMIT, f"gradient of the variance, {where}")
                if v_value == best:
                    yield Check(
                        abs(float(by_v.sum())), LIMIT, f"the best share is not where the gradient is 0, {where}"
                    )


def _histogram(counts: Any, p: Any, n: int, what: str) -> Check:
    """The least likely count: the exact two-sided tail of its binomial, times the number of counts."""
    tail = 2 * np.minimum(binom.cdf(counts, n, p), binom.sf(counts - 1, n, p)) * len(p)
    tail = np.clip(np.where((p == 0) & (counts > 0), 0.0, tail), 1e-300, 1.0)
    k = int(np.argmin(tail))
    return Check(float(np.log(tail[k]) / np.log(SURE)), 1.0, f"{what} {k}: {counts[k]} of {n}, expected {n * p[k]:.1f}")


def times(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""Times of training are uniform over $1 \dots T$: each is drawn $\mathrm{Bin}(n, 1/T)$ times of $n$; its two-sided
    tail times T is above 1e-9. Seeds are fixed.

    Times that are drawn by importance, from $p$ and uniform numbers on an even grid, are drawn $n p_t$ times, up to 1,
    with weights $1 / (p_t T)$, so that $\frac1n \sum w\, [t = k] = \frac1T$: the weighted loss keeps its mean. Catches:
    $t = 0$ that is drawn, a T that never is, weights that are not inverted, one time per batch.
    """
    if subject.space == "importance":
        n = 4000
        u = (np.arange(n) + 0.5) / n
        for p in (np.full(5, 0.2), np.array([0.05, 0.4, 0.0005, 0.2495, 0.3])):
            found = asked(subject, p, u)
            if not isinstance(found, tuple) or len(found) != 2:
                raise Fault("apply must return times and weights")
            t, weights = whole(found[0], (n,), 1, len(p)), shaped(found[1], (n,))
            share = np.array([(t == k).mean() for k in range(1, len(p) + 1)])
            yield Check(distance(share, p), 1.5 / n, "shares of the times")
            yield Check(distance(weights, 1 / (p[t - 1] * len(p))), LIMIT * 1e3, "weights")
        return
    for T, n in ((4, 4000), (12, 12000)):
        found = whole(asked(subject, n, T, np.random.default_rng(11)), (n,), 1, T)
        yield _histogram(np.bincount(found, minlength=T + 1)[1:], np.full(T, 1 / T), n, "time, counted from 0,")


def left_out(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""Of n conditions $\mathrm{Bin}(n, p)$ are left out in training, independently: none for $p = 0$, all for 1.

    Two-sided tail above 1e-9, at p = 0.1 and 0.5 of 20,000, where a rate that is off by 0.013 (0.022) shows; neighbours
    are both left out $p^2$ of the time. Catches: $1 - p$ for p, one draw per batch, a null that is never used.
    """
    n = 20_000
    for share in (0.0, 0.1, 0.5, 1.0):
        found = shaped(asked(subject, n, share, np.random.default_rng(12)), (n,)).astype(bool)
        if share in (0.0, 1.0):
            yield Check(float((found != bool(share)).sum()), 0.0, f"share {share:g}")
            continue
        yield _histogram(np.array([int(found.sum())]), np.array([share]), n, f"left out at share {share:g},")
        both = int((found[::2] & found[1::2]).sum())
        yield _histogram(np.array([both]), np.array([share**2]), n // 2, f"pairs left out at share {share:g},")


def codebook(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$\| z_q - x \|^2 + \| \mathrm{sg}[z_e] - e \|^2 + \beta\, \| z_e - \mathrm{sg}[e] \|^2$, means over all numbers,
    $z_q = e$ with the gradient of $z_e$ (van den Oord et al. 2017, 1711.00937, eq. 3).

    The straight-through gradient is the identity: with a decoder that does nothing
    $\partial / \partial z_e = 2 (e - x) / n + 2 \beta (z_e - e) / n$, and the codes receive $2 (e - z_e) / n$ from the
    vectors that chose them, no $\beta$ and nothing of $x$. At $\beta$ of 0, 0.25 and 2. Catches: $\beta$ on the other
    term, a gradient of the reconstruction that reaches the codes, none that reaches the encoder, stops swapped.
    """
    rng = np.random.default_rng(0)
    z_e, codes, x = rng.standard_normal((6, 3)), rng.standard_normal((4, 3)), rng.standard_normal((6, 3))
    chosen = ((z_e[:, None] - codes) ** 2).sum(-1).argmin(1)
    e, n = codes[chosen], z_e.size
    for beta in (0.0, 0.25, 2.0):
        found = asked(subject, z_e, codes, x, beta)
        if not isinstance(found, tuple) or len(found) != 3:
            raise Fault("apply must return the loss and its gradients by z_e and by the codebook")
        value, by_z, by_codes = _number(found[0]), shaped(found[1], z_e.shape), shaped(found[2], codes.shape)
        want = ((e - x) ** 2).mean() + (1 + beta) * ((z_e - e) ** 2).mean()
        yield Check(abs(value - want), LIMIT, f"value, beta {beta:g}")
        yield Check(distance(by_z, (2 * (e - x) + 2 * beta * (z_e - e)) / n), LIMIT, f"gradient of z_e, beta {beta:g}")
        pulls = np.zeros_like(codes)
        np.add.at(pulls, chosen, 2 * (e - z_e) / n)
        yield Check(distance(by_codes, pulls), LIMIT, f"gradient of the codebook, beta {beta:g}")


def elbo(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""$\mathrm{ELBO} = \ln p(x) - \mathrm{KL}(q(z \mid x) \| p(z \mid x))$: at most $\ln p(x)$, and equal to it at the
    true posterior, where the importance-weighted bound equals it for every single draw.

    A decoder $x \sim N(w z + b, r^2)$ over $z \sim N(0, 1)$ has $p(x) = N(b, w^2 + r^2)$ and a Gaussian posterior, so
    all three are closed forms; the expectation over $\epsilon$ is cubature. The weighted bound of two draws is
    $\ln \frac12 \sum_k w_k$ by hand. Catches: the reverse KL, a variance for its logarithm, a mean over latents for a
    sum, $\ln K$ forgotten.
    """
    w, b, r = 1.3, -0.2, 0.6
    x = np.array([[0.4], [-1.5], [2.0]])
    truth = -0.5 * (np.log(2 * np.pi * (w * w + r * r)) + (x[:, 0] - b) ** 2 / (w * w + r * r))
    variance = 1 / (1 + w * w / r**2)
    posterior = variance * w * (x - b) / r**2, np.full_like(x, np.log(variance))

    def log_likelihood(x: Any, z: Any) -> Any:
        d = (x - b) - w * z
        return ((d * d) * (-0.5 / r**2) - 0.5 * float(np.log(2 * np.pi * r**2)))[..., 0]

    eps = np.broadcast_to(cubature(1)[:, None], (2, len(x), 1)).copy()
    for shift, stretch in ((0.0, 1.0), (0.3, 1.0), (0.0, 2.0), (-0.5, 0.5)):
        mu, log_var = posterior[0] + shift, posterior[1] + np.log(stretch)
        found = shaped(asked(subject, x, mu, log_var, log_likelihood, eps), (len(x),))
        where = f"a posterior shifted by {shift:g}, its variance times {stretch:g}"
        if subject.claims.get("weighted"):
            z = mu + np.exp(log_var / 2) * eps
            log_w = log_likelihood(x, z) - 0.5 * z[..., 0] ** 2 + 0.5 * eps[..., 0] ** 2 + 0.5 * log_var[:, 0]
            want = np.log(np.exp(log_w).mean(0))
        else:
            kl = 0.5 * (-np.log(stretch) - 1 + stretch + shift**2 / variance)
            want = truth - kl
        yield Check(distance(found, want), LIMIT, where)
        if shift == 0 and stretch == 1:
            yield Check(distance(found, truth), LIMIT, "not ln p(x) at the true posterior")


# the discriminator's loss at logits 0, its best logits, and its loss there, over cells of probability p (data) and q
# (fakes); of "minimax" these are l = ln(p / q), so D = p / (p + q)
GAMES: dict[str, Any] = {
    "minimax": (
        np.log(4),
        lambda p, q: np.log(p / q),
        lambda p, q: -(p * np.log(p / (p + q)) + q * np.log(q / (p + q))).sum(),
    ),
    "least-squares": (0.5, lambda p, q: p / (p + q), lambda p, q: 0.5 * (p * q / (p + q)).sum()),
    "hinge": (2.0, lambda p, q: np.sign(p - q), lambda p, q: 2 * np.minimum(p, q).sum()),
    "wasserstein": (0.0, lambda p, q: np.sign(p - q), lambda p, q: -np.abs(p - q).sum()),
}
GENERATORS: dict[str, Any] = {
    "saturating": lambda l: np.log1p(-1 / (1 + np.exp(-l))),
    "non-saturating": lambda l: -np.log(1 / (1 + np.exp(-l))),
    "least-squares": lambda l: 0.5 * (l - 1) ** 2,
    "critic": lambda l: -l,
}
CELLS = (np.array([1, 2, 3, 4]), np.array([4, 3, 1, 2]))  # tenths


def game(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""At $D = \frac12$ (logits 0) the minimax loss is $\ln 4$, and the generator's $\mp \ln 2$; at the best
    discriminator it is $\ln 4 - 2\, \mathrm{JSD}(p, q)$ (Goodfellow et al. 2014, 1406.2661, theorem 1), and no step
    from there gains anything.

    Data and fakes over four cells, in tenths, so that expectations are sums. Least squares: $\frac12$ at logits 0,
    $\frac12 \sum \frac{pq}{p + q}$ at best; hinge: 2 and $2 \sum \min(p, q)$; Wasserstein, for critics within $\pm 1$:
    0 and $-\sum |p - q|$. ``game`` names the losses of (discriminator, generator). Catches: real and fake swapped, a
    sign, saturating for non-saturating, the logarithm of a mean for a mean of logarithms.
    """
    of_d, of_g = subject.claims.get("game") or ("minimax", "non-saturating")
    even, best, closed = GAMES[of_d]
    p, q = (cells / cells.sum() for cells in CELLS)

    def losses(logits: Any) -> tuple[float, float]:
        found = asked(subject, np.repeat(logits, CELLS[0]), np.repeat(logits, CELLS[1]))
        if not isinstance(found, tuple) or len(found) != 2:
            raise Fault("apply must return the losses of discriminator and generator")
        return _number(found[0]), _number(found[1])

    at_zero = losses(np.zeros(4))
    yield Check(abs(at_zero[0] - even), LIMIT, f"discriminator's loss at logits 0 is {at_zero[0]:.4f}, not {even:.4f}")
    logits = best(p, q)
    at_best = losses(logits)
    yield Check(abs(at_best[0] - closed(p, q)), LIMIT, "loss of the best discriminator")
    for k in range(4):
        for step in (1e-3, -1e-3):
            if of_d == "wasserstein" and abs(logits[k] + step) > 1:
                continue
            gain = at_best[0] - losses(logits + step * np.eye(4)[k])[0]
            yield Check(gain, LIMIT, f"a better discriminator than the best, in cell {k}")
    for l in (np.zeros(4), logits, np.array([-3.0, 1.0, 0.5, 2.0])):
        want = float((q * GENERATORS[of_g](l)).sum())
        yield Check(abs(losses(l)[1] - want), LIMIT, f"generator's loss at logits {np.round(l, 2)}")


def penalty(subject: Any, dtype: Any) -> Iterator[Check]:
    r"""For $f(x) = w \cdot x$, whose slope is $w$ everywhere: $\frac\gamma2 \|w\|^2$ for "r1" (Mescheder et al. 2018,
    1801.04406), $\lambda (\|w\| - 1)^2$ for "gradient" (Gulrajani et al. 2017, 1704.00028), with ``weight`` for
    $\gamma$ or $\lambda$.

    For any number of samples. Catches: the half forgotten, a norm for its square, a slope summed over the batch.
    """
    weight = float(subject.claims.get("weight") or 1.0)
    for n in (1, 5):
        for w in (np.array([0.6, -0.8]), np.array([2.0, 1.0]), np.array([0.1, 0.0])):
            norm = float(np.linalg.norm(w))
            r1 = (subject.claims.get("penalty") or "r1") == "r1"
            want = 0.5 * weight * norm**2 if r1 else weight * (norm - 1) ** 2
            found = _number(asked(subject, w, np.random.default_rng(0).standard_normal((n, 2))))
            yield Check(abs(found - want), LIMIT, f"slope {norm:.2f}, {n} samples")
