r"""Denoisers whose answer is known, with the call of a network: ``model(x_t, t, cond=None) -> eps``."""

import numpy as np
from scipy.special import logsumexp, ndtr


def gaussian_eps(mean, std, schedule):
    r"""The best prediction for data $N(m, s^2)$: $\epsilon^* = \sqrt{1 - \bar\alpha}\,(x - \sqrt{\bar\alpha}\, m) / (\bar\alpha s^2 + 1 - \bar\alpha)$."""

    def model(x_t, t, cond=None):
        a = schedule.alpha_bar_at(t).reshape(-1, *(1,) * (x_t.ndim - 1)).astype(x_t.dtype)
        return np.sqrt(1 - a) * (x_t - np.sqrt(a) * mean) / (a * std**2 + 1 - a)

    return model


def gaussian(kind, mean, std, schedule):
    """What `gaussian_eps` knows, said as another kind of prediction; also where nothing is left of the signal."""
    eps_model = gaussian_eps(mean, std, schedule)

    def model(x_t, t, cond=None):
        a = schedule.alpha_bar_at(t).reshape(-1, *(1,) * (x_t.ndim - 1)).astype(x_t.dtype)
        eps = eps_model(x_t, t)
        x_0 = mean + np.sqrt(a) * std**2 / (a * std**2 + 1 - a) * (x_t - np.sqrt(a) * mean)
        v = np.sqrt(a) * eps - np.sqrt(1 - a) * x_0
        return {"eps": eps, "x_0": x_0, "v": v, "score": -eps / np.sqrt(1 - a)}[kind]

    return model


class Mixture:
    r"""Data of one dimension, $\sum_k w_k N(m_k, s_k^2)$: the best prediction, and the exact map of the probability flow.

    In one dimension the flow keeps quantiles: it takes $x$ at level t to $F_u^{-1}(F_t(x))$ at level u.
    """

    def __init__(self, weights, means, stds):
        self.weights, self.means, self.stds = (np.asarray(v, np.float64) for v in (weights, means, stds))

    def at(self, a):
        """Means and standard deviations of the components at the level of this alpha_bar, (..., k)."""
        a = np.asarray(a, np.float64)[..., None]
        return a**0.5 * self.means, (a * self.stds**2 + 1 - a) ** 0.5

    def eps(self, schedule):
        r"""$\epsilon^* = -\sqrt{1 - \bar\alpha}\, \nabla \ln q(x_t)$."""

        def model(x_t, t, cond=None):
            a = schedule.alpha_bar_at(t).reshape(-1, *(1,) * (x_t.ndim - 1))
            m, s = self.at(a)
            z = (x_t[..., None] - m) / s
            log = np.log(self.weights / s) - z**2 / 2
            share = np.exp(log - logsumexp(log, -1, keepdims=True))
            return np.sqrt(1 - a) * (share * z / s).sum(-1)

        return model

    def quantile(self, p, a):
        """x where the distribution function at the level of this alpha_bar is ``p`` (n,), by bisection."""
        m, s = self.at(a)
        low, high = (np.full(np.shape(p), edge) for edge in ((m - 40 * s).min(), (m + 40 * s).max()))
        for _ in range(80):
            x = (low + high) / 2
            below = (self.weights * ndtr((x[..., None] - m) / s)).sum(-1) < p
            low, high = np.where(below, x, low), np.where(below, high, x)
        return (low + high) / 2


class OneHotNoise:
    """A tape in place of a generator: sample k of the batch sees a 1 at the k-th draw and 0 at all others.

    A sampler that is linear in its noise then returns, as sample k, the weight of its k-th draw.
    """

    def __init__(self, first=1):
        self.draws = first

    def standard_normal(self, shape):
        noise = np.zeros(shape)
        noise[self.draws] = 1
        self.draws += 1
        return noise
