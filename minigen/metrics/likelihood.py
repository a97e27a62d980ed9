r"""Negative log-likelihoods of grey levels in nats per image (sums over pixels, means over images), and what to beat.

Three models without a network put a number into perspective, each a probability of the levels $k = 0 \dots L - 1$ of
$D$ pixels:

$$\text{uniform: } p(x) = L^{-D} \qquad \text{independent: } p(x) = \prod_d \theta_{d x_d}, \quad \theta_{dk} = \frac{n_{dk} + \alpha}{n + \alpha L}$$
$$\text{mixture: } p(x) = \sum_j \pi_j \prod_d \theta_{j d x_d} \quad \text{by expectation maximisation, } \quad \theta_{jdk} = \frac{n_{jdk} + \kappa L\, \theta_{dk}}{n_j + \kappa L}.$$

The mixture's parts are shrunk to the independent model as if each had seen $\kappa L$ images of it (the mode under a
Dirichlet prior). $\alpha$, $\kappa$ and the number of parts are chosen on the validation split.
"""

import numpy as np
from jaxtyping import Float, Integer
from scipy.sparse import csr_matrix

from kernels.backend import Array

FITTED = 4096  # images that the models are fitted to, and chosen on, at most
ALPHAS = (0.1, 0.3, 1.0)  # of the independent model
PARTS = (10, 20)  # of the mixture
KAPPAS = (1.0, 2.0, 3.0)  # of the mixture
ROUNDS = 25  # of expectation maximisation, at most
ENOUGH = 1e-4  # it stops when a round gains less than this share
BLOCK = 512  # images whose levels are one-hot encoded at once


def log_mean_exp(a: Float[Array, "k *rest"]) -> Float[Array, "*rest"]:
    r"""$\ln \frac1K \sum_k e^{a_k}$ over the first axis, in float64; no $e^{a_k}$ overflows, and not all vanish."""
    a = a.astype(np.float64)
    if len(a) == 0:
        raise ValueError("a mean needs at least one value, got none")
    top = a.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(a - top).mean(axis=0))


def importance_weighted_nll(log_weights: Float[Array, "k n"]) -> Float[Array, " n"]:
    r"""$-\ln \frac1K \sum_k w_k$ for each image, with $\ln w_k = \ln p(x, z_k) - \ln q(z_k \mid x)$, $z_k \sim q$
    (Burda et al. 2016, 1509.00519, eq. 8).

    At least $-\ln p(x)$ on average, closer to it with every further sample, and equal to it in the limit.
    """
    return -log_mean_exp(log_weights)


def bits_per_dimension(nats: float, dimensions: int) -> float:
    r"""$\text{nats} / (D \ln 2)$ for the nats of an image of $D$ levels."""
    return nats / (dimensions * float(np.log(2)))


def uniform_nll(dimensions: int, levels: int) -> float:
    r"""$D \ln L$ nats: all pictures equally likely."""
    return dimensions * float(np.log(levels))


def baselines(
    train: Integer[Array, "n *shape"],
    val: Integer[Array, "m *shape"],
    test: Integer[Array, "k *shape"],
    levels: int,
    *,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Nats per image of ``test`` under ``uniform``, ``independent`` and ``mixture``: fitted to ``train``, chosen on
    ``val`` (the first 4,096 of each).

    Raises ValueError for an empty split and for levels outside of 0..levels-1.
    """
    train, val = train[:FITTED], val[:FITTED]
    for name, x in (("train", train), ("val", val), ("test", test)):
        if x.size == 0:
            raise ValueError(f"{name} must hold at least one image")
        if x.min() < 0 or x.max() >= levels:
            raise ValueError(f"{name} must hold levels from 0 to {levels - 1}, got {x.min()} to {x.max()}")
    x, chosen_by, unseen = (x.reshape(len(x), -1) for x in (train, val, test))
    one = np.ones(1)
    histograms = [independent(x, levels, alpha) for alpha in ALPHAS]
    theta = min(histograms, key=lambda theta: nll(chosen_by, theta[None], one))
    mixtures = [fit_mixture(x, theta, parts, kappa, rng=rng) for parts in PARTS for kappa in KAPPAS]
    return {
        "uniform": uniform_nll(x.shape[1], levels),
        "independent": nll(unseen, theta[None], one),
        "mixture": nll(unseen, *min(mixtures, key=lambda fit: nll(chosen_by, *fit))),
    }


def independent(x: Integer[Array, "n d"], levels: int, alpha: float) -> Float[Array, "d l"]:
    r"""$\theta_{dk}$: the smoothed histogram of each pixel."""
    n = counts(x, np.ones((len(x), 1)), levels)[0]
    return (n + alpha) / (len(x) + alpha * levels)


def fit_mixture(
    x: Integer[Array, "n d"], lean: Float[Array, "d l"], parts: int, kappa: float, *, rng: np.random.Generator
) -> tuple[Float[Array, "j d l"], Float[Array, " j"]]:
    r"""$\theta_{jdk}$ and $\pi_j$ by expectation maximisation, started from ``parts`` groups of images drawn at random.

    ``lean`` is the independent model's $\theta_{dk}$; the $\pi_j$ are smoothed by one image each.
    """
    levels = lean.shape[1]
    r = np.eye(parts)[rng.integers(0, parts, len(x))]  # (n, j): how much of an image belongs to a part
    before = -np.inf
    for _ in range(ROUNDS):
        n = counts(x, r, levels)
        theta = (n + kappa * levels * lean) / (r.sum(0)[:, None, None] + kappa * levels)
        pi = (r.sum(0) + 1) / (len(x) + parts)
        joint = log_joint(x, theta, pi)  # (n, j)
        top = joint.max(axis=1, keepdims=True)
        r = np.exp(joint - top)
        total = r.sum(axis=1, keepdims=True)
        r /= total
        now = float((top + np.log(total)).sum())
        if now - before < ENOUGH * abs(now):
            break
        before = now
    return theta, pi


def nll(x: Integer[Array, "n d"], theta: Float[Array, "j d l"], pi: Float[Array, " j"]) -> float:
    r"""Mean of $-\ln \sum_j \pi_j \prod_d \theta_{j d x_d}$."""
    joint = log_joint(x, theta, pi)
    return -float((log_mean_exp(joint.T) + np.log(len(pi))).mean())


def log_joint(x: Integer[Array, "n d"], theta: Float[Array, "j d l"], pi: Float[Array, " j"]) -> Float[Array, "n j"]:
    r"""$\ln \pi_j + \sum_d \ln \theta_{j d x_d}$."""
    table = np.log(theta).reshape(len(pi), -1).T.copy()  # (d l, j)
    levels = theta.shape[2]
    blocks = [one_hot(x[i : i + BLOCK], levels) @ table for i in range(0, len(x), BLOCK)]
    return np.log(pi) + np.concatenate(blocks)


def counts(x: Integer[Array, "n d"], r: Float[Array, "n j"], levels: int) -> Float[Array, "j d l"]:
    r"""$n_{jdk} = \sum_i r_{ij} [x_{id} = k]$."""
    d = x.shape[1]
    total = np.zeros((d * levels, r.shape[1]))
    for i in range(0, len(x), BLOCK):
        total += one_hot(x[i : i + BLOCK], levels).T @ r[i : i + BLOCK]
    return total.T.reshape(-1, d, levels)


def one_hot(x: Integer[Array, "n d"], levels: int) -> csr_matrix:
    """(n, d levels) with one 1 for each pixel, as a sparse matrix."""
    n, d = x.shape
    columns = x.astype(np.int64) + levels * np.arange(d)
    return csr_matrix((np.ones(n * d), columns.ravel(), np.arange(n + 1) * d), (n, d * levels))
