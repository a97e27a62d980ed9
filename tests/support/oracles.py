r"""Denoisers whose answer is known, with the call of a network: ``model(x_t, t, cond=None) -> eps``."""

import numpy as np

from minigen.laws.beds import said
from minigen.laws.protocol import Level


def gaussian_eps(mean, std, schedule):
    r"""The best prediction for data $N(m, s^2)$:
    $\epsilon^* = \sqrt{1 - \bar\alpha}\,(x - \sqrt{\bar\alpha}\, m) / (\bar\alpha s^2 + 1 - \bar\alpha)$.
    """

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


def best(bed, schedule, kind="eps"):
    """A bed of `minigen.laws.beds` as a model, told one time for the whole batch."""

    def model(x_t, t, cond=None):
        a = float(schedule.alpha_bar_at(t)[0])
        level = Level(float(t[0]), a**0.5, (1 - a) ** 0.5)
        return said(kind, *bed(x_t, level, 0), level)

    return model


def level_of(schedule, t):
    """Level ``t`` of a schedule, as the laws have it."""
    a = float(schedule.alpha_bar[t])
    return Level(float(schedule.times[t]), a**0.5, (1 - a) ** 0.5)


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
