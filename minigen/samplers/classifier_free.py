r"""Classifier-free guidance: the model is its own classifier. Ho & Salimans 2022, arXiv 2207.12598.

A network that was trained with its condition sometimes left out knows $p(x_t \mid c)$ and $p(x_t)$, and so, by Bayes'
rule, the score of a classifier that nobody trained:
$\nabla \ln p(c \mid x_t) = \nabla \ln p(x_t \mid c) - \nabla \ln p(x_t)$. Guidance goes beyond the conditional model in
that direction. It is arithmetic on predictions, the same for eps, $x_0$, $v$ and score.

| symbol | code | |
|---|---|---|
| $\epsilon(x_t, c)$ | the model at ``cond`` | conditional |
| $\epsilon(x_t, \varnothing)$ | the model at ``null`` | unconditional, or at a NEGATIVE PROMPT: what must not appear |
| $s$ | ``scale`` of `classifier_free` | $s = 1$ conditional, $s = 0$ unconditional |
| $w$ | ``w`` of `classifier_free_w` | $w = 0$ conditional, $w = -1$ unconditional |

The same guidance in the two conventions that are in use, $s = 1 + w$:

$$\tilde\epsilon = \epsilon(x_t, \varnothing) + s\, \big(\epsilon(x_t, c) - \epsilon(x_t, \varnothing)\big) \qquad (1, \text{ Saharia et al. 2022, 2205.11487, eq. 2; GLIDE; latent diffusion})$$
$$\tilde\epsilon = (1 + w)\, \epsilon(x_t, c) - w\, \epsilon(x_t, \varnothing) \qquad (2, \text{ Ho \& Salimans 2022, eq. 6})$$

**Evaluation.** One call with a doubled batch, conditional first: $[x_t, x_t]$, $[t, t]$, $[c, \varnothing]$. A
condition is an array or Tensor with one row per sample, None, or a tuple, list or dict of conditions; two conditions
are joined leaf by leaf (`joined`). Where they cannot be (None and an array, texts of different lengths, a leaf without
one row per sample), the model is called twice instead, conditional first; the numbers are the same.

**What it samples.** At each level the score of $p(x_t \mid c)^s\, p(x_t)^{1 - s}$, but these densities do not form one
noising chain, so the result is not the tilted $p(x_0 \mid c)^s\, p(x_0)^{1 - s}$ (Bradley & Nakkiran 2024, 2408.09000):
the test computes both.

`rescaled` and `dynamic_threshold` repair what large scales break: contrast that grows with the scale, and $\hat x_0$
out of range.

Details that matter, and the tests that guard them (tests/minigen/samplers/test_classifier_free.py):
- $1 + w$ against $s$; which half of the batch is which;
- the learned variance v of a pair is that of the conditional half and is never guided (at $s = 0$, the
  unconditional's);
- where $s$ is 1 (or 0) for the whole batch only that half is computed, with the model's own numbers, bit for bit;
- standard deviations and percentiles are taken per sample, not per batch or channel.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy

from .guidance import Scale, scale_at


def classifier_free(
    model: Callable[..., Any], scale: Scale, null: Any = None, *, rescale: float = 0.0
) -> Callable[..., Any]:
    r"""``model`` guided by eq. 1: $\epsilon(\varnothing) + s\, (\epsilon(c) - \epsilon(\varnothing))$, $s$ = ``scale``;
    in the other convention $w = s - 1$.

    ``null`` takes the place of the condition: an array (n or 1 rows), a number, repeated in the shape of cond (the null
    label), a tuple, list or dict of them, None, or a function of cond that returns one. A negative prompt is another
    ``null``. ``rescale`` is $\phi$ of `rescaled`.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be from 0 to 1, got {rescale}")

    def guided(x_t: Any, t: Any, cond: Any = None) -> Any:
        n = len(x_t)
        s = scale_at(scale, np.broadcast_to(to_numpy(t), (n,)))
        if np.all(s == 1):
            return model(x_t, t, cond)
        without = _filled(null(cond) if callable(null) else null, cond, n)
        if np.all(s == 0):
            return model(x_t, t, without)
        conditional, unconditional = _both(model, x_t, t, cond, without)
        c, *v = conditional if isinstance(conditional, tuple) else (conditional,)
        u, *v_u = unconditional if isinstance(unconditional, tuple) else (unconditional,)
        xp = array_module(ag.raw(c))
        rows = xp.asarray(s, ag.raw(c).dtype).reshape(-1, *(1,) * (c.ndim - 1))
        out = u + rows * (c - u)  # eq. 1
        out = ag.where(rows == 1, c, ag.where(rows == 0, u, out))  # without rounding at both ends
        if rescale:
            out = ag.where(rows == 0, out, rescaled(out, c, rescale))
        return (out, *(ag.where(rows == 0, b, a) for a, b in zip(v, v_u))) if v else out

    return guided


def classifier_free_w(
    model: Callable[..., Any], w: Scale, null: Any = None, *, rescale: float = 0.0
) -> Callable[..., Any]:
    r"""``model`` guided by eq. 2: $(1 + w)\, \epsilon(c) - w\, \epsilon(\varnothing)$; `classifier_free` with $s = 1 + w$."""
    scale = (lambda times: 1 + np.asarray(w(times))) if callable(w) else 1 + w
    return classifier_free(model, scale, null, rescale=rescale)


def rescaled(guided: Any, conditional: Any, phi: float) -> Any:
    r"""$\phi\, \tilde\epsilon\, \frac{\mathrm{std}(\epsilon(c))}{\mathrm{std}(\tilde\epsilon)} + (1 - \phi)\, \tilde\epsilon$
    (Lin et al. 2023, 2305.08891, eqs. 14 to 16), with the standard deviations of each sample.

    Unlike the rest of this file it depends on what the model predicts; the paper uses $v$. A sample whose guided
    numbers are all equal has no contrast to change and stays as it is.
    """
    own, theirs = _std(guided), _std(conditional)
    numbers = ag.raw(guided).reshape(guided.shape[0], -1)
    equal = (numbers == numbers[:, :1]).all(1).reshape(own.shape)  # a rounded mean makes _std above 0
    flat = equal | (ag.raw(own) == 0)
    ratio = ag.where(flat, 1.0, theirs) / ag.where(flat, 1.0, own)
    return guided * (phi * ratio + (1 - phi))


def dynamic_threshold(share: float = 0.995, bound: float = 1.0) -> Callable[[Any], Any]:
    r"""A ``clip`` for samplers: with $\tau$ = the ``share``-quantile of $|\hat x_0|$ in a sample, or ``bound`` if that
    is more, $\hat x_0 \leftarrow \mathrm{clip}(\hat x_0, -\tau, \tau) \cdot \text{bound} / \tau$ (Saharia et al. 2022,
    section 2.3).

    A guess that lies within the bound is returned as it is. Raises ValueError unless 0 < share <= 1 and
    0 < bound < infinity.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    if not 0 < bound < np.inf:
        raise ValueError(f"bound must be above 0 and finite, got {bound}")

    def clip(x_0: Any) -> Any:
        xp = array_module(x_0)
        tau = xp.quantile(xp.abs(x_0).reshape(len(x_0), -1), share, axis=1).astype(x_0.dtype)
        tau = xp.maximum(tau, bound).reshape(-1, *(1,) * (x_0.ndim - 1))
        return xp.clip(x_0, -tau, tau) * (bound / tau)

    return clip


# --- two conditions, one batch ----------------------------------------------------------------------------------------


class CannotJoin(Exception):
    """Two conditions that cannot form one batch."""


def joined(a: Any, b: Any, n: int) -> Any:
    """The condition of ``2 n`` samples, ``a`` before ``b``, leaf by leaf.

    Both None: None. Arrays or Tensors with ``n`` rows of one shape: one after the other. Tuples and lists of one
    length, dicts of the same keys: each of their members. Raises `CannotJoin` for anything else.
    """
    if a is None and b is None:
        return None
    if _is_array(a) and _is_array(b) and a.ndim and a.shape == b.shape and a.shape[0] == n:
        return ag.concat([a, b])
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {key: joined(a[key], b[key], n) for key in a}
    if isinstance(a, tuple | list) and type(a) is type(b) and len(a) == len(b):
        return _made(a, [joined(x, y, n) for x, y in zip(a, b)])
    raise CannotJoin


def _both(model: Callable[..., Any], x_t: Any, t: Any, cond: Any, null: Any) -> tuple[Any, Any]:
    """The model's outputs at ``cond`` and at ``null``."""
    n = len(x_t)
    try:
        both = joined(cond, null, n)
    except CannotJoin:
        return model(x_t, t, cond), model(x_t, t, null)
    times = np.broadcast_to(to_numpy(t), (n,))
    said = model(ag.concat([x_t, x_t]), array_module(ag.raw(x_t)).asarray(np.concatenate([times, times])), both)
    if isinstance(said, tuple):
        return tuple(part[:n] for part in said), tuple(part[n:] for part in said)
    return said[:n], said[n:]


def _filled(null: Any, cond: Any, n: int) -> Any:
    """``null`` with as many rows as ``cond``: a number is repeated in its shape, a single row for each sample."""
    if isinstance(null, dict) and isinstance(cond, dict):
        return {key: _filled(part, cond.get(key), n) for key, part in null.items()}
    if isinstance(null, tuple | list) and isinstance(cond, tuple | list) and len(null) == len(cond):
        return _made(null, [_filled(part, theirs, n) for part, theirs in zip(null, cond)])
    if isinstance(null, int | float | np.number):
        like = ag.raw(cond) if _is_array(cond) else np.empty(n, np.asarray(null).dtype)
        return array_module(like).full_like(like, null)
    if _is_array(null) and null.ndim and null.shape[0] == 1 != n:
        return ag.broadcast_to(null, (n, *null.shape[1:]))
    return null


def _made(like: Any, parts: list[Any]) -> Any:
    """A tuple, named tuple or list as ``like`` is."""
    return getattr(type(like), "_make", type(like))(parts)


def _is_array(x: Any) -> bool:
    return isinstance(x, ag.Tensor) or (hasattr(x, "shape") and hasattr(x, "dtype"))


def _std(x: Any) -> Any:
    """The standard deviation of each sample (n, 1, ...)."""
    flat = ag.reshape(x, (x.shape[0], -1))
    return ag.reshape(ag.sqrt(ag.var(flat, 1)), (-1, *(1,) * (x.ndim - 1)))
