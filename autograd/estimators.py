r"""Gradients that are not the derivative of what was computed, each under its own name."""

from typing import Any

import numpy as np

from kernels.backend import array_module

from .elementwise import exp, log
from .reduce import softmax
from .tensor import Tensor, raw


def stop_gradient(x: Any) -> Any:
    r"""$\mathrm{sg}(x) = x$ with $\partial\, \mathrm{sg}(x) / \partial x = 0$."""
    return Tensor(x.data) if isinstance(x, Tensor) else x


def straight_through(hard: Any, soft: Any) -> Any:
    r"""Forward ``hard``, backward as if it were ``soft``:
    $y = \mathrm{soft} + \mathrm{sg}(\mathrm{hard} - \mathrm{soft})$ (Bengio et al. 2013, 1308.3432).

    The value is ``hard`` up to rounding; both have the same shape.
    """
    if raw(hard).shape != raw(soft).shape:
        raise ValueError(f"hard and soft must have one shape, got {raw(hard).shape} and {raw(soft).shape}")
    return soft + (raw(hard) - raw(soft))


def reparameterize(mu: Any, log_var: Any, eps: Any) -> Any:
    r"""$z = \mu + e^{\frac12 \ln \sigma^2} \epsilon$ with $\epsilon \sim N(0, I)$ given (Kingma & Welling 2013,
    1312.6114, section 2.4).
    """
    return mu + exp(0.5 * log_var) * eps


def gumbel_softmax(logits: Any, u: Any, temperature: float, hard: bool = False) -> Any:
    r"""$y = \mathrm{softmax}((\ell + G) / \tau)$, $G = -\ln(-\ln u)$, ``u`` uniform in (0, 1) and of the logits' shape.

    As $\tau \to 0$, $y$ becomes a sample of the categorical distribution (Jang et al. 2016, 1611.01144; Maddison et al.
    2016, 1611.00712). With ``hard`` the value is the one-hot argmax and the gradient that of the soft sample.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if raw(u).shape != raw(logits).shape:
        raise ValueError(f"u must have the shape of the logits, {raw(logits).shape}, got {raw(u).shape}")
    dtype = raw(logits).dtype
    u = np.clip(raw(u).astype(dtype, copy=False), np.finfo(dtype).tiny, 1 - np.finfo(dtype).epsneg)
    y = softmax((logits - log(-log(u))) * (1 / temperature))
    if not hard:
        return y
    one_hot = (array_module(u).arange(y.shape[-1]) == np.argmax(raw(y), axis=-1)[..., None]).astype(raw(y).dtype)
    return straight_through(one_hot, y)
