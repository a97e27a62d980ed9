r"""Denoisers whose answer is known, with the call of a network: ``model(x_t, t, cond=None) -> eps``."""

import numpy as np


def gaussian_eps(mean, std, schedule):
    r"""The best prediction for data $N(m, s^2)$: $\epsilon^* = \sqrt{1 - \bar\alpha}\,(x - \sqrt{\bar\alpha}\, m) / (\bar\alpha s^2 + 1 - \bar\alpha)$."""
    alpha_bar = dict(zip(schedule.times.tolist(), schedule.alpha_bar.tolist()))

    def model(x_t, t, cond=None):
        a = np.array([alpha_bar[int(i)] for i in t]).reshape(-1, *(1,) * (x_t.ndim - 1)).astype(x_t.dtype)
        return np.sqrt(1 - a) * (x_t - np.sqrt(a) * mean) / (a * std**2 + 1 - a)

    return model


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
