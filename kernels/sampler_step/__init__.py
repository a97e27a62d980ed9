r"""One step of DDIM with classifier-free guidance, from the network's output to the next state, as one operation.

With $a = \bar\alpha_t$ of the level that the state $x_t$ is at and $a' = \bar\alpha_u$ of the level that it goes to,

$$o = o_\varnothing + s\, (o_c - o_\varnothing), \qquad (\hat x_0, \hat\epsilon)\ \text{from}\ (x_t, o), \qquad
x_u = \sqrt{a'}\, \hat x_0 + \sqrt{1 - a' - \sigma^2}\; \hat\epsilon + \sigma z,
\qquad \sigma = \eta \sqrt{\tfrac{1 - a'}{1 - a}} \sqrt{1 - \tfrac{a}{a'}}$$

(Song, Meng & Ermon 2020, arXiv 2010.02502, eq. 12 and 16; Ho & Salimans 2022, arXiv 2207.12598; Saharia et al. 2022,
arXiv 2205.11487, eq. 2). The network predicts ``kind``:

| ``kind`` | $\hat x_0$ | $\hat\epsilon$ |
|---|---|---|
| ``"eps"`` | $(x_t - \sqrt{1 - a}\, o) / \sqrt a$ | $o$ |
| ``"x_0"`` | $o$ | $(x_t - \sqrt a\, o) / \sqrt{1 - a}$ |
| ``"v"`` | $\sqrt a\, x_t - \sqrt{1 - a}\, o$ | $\sqrt{1 - a}\, x_t + \sqrt a\, o$ |
| ``"score"`` | $(x_t + (1 - a)\, o) / \sqrt a$ | $-\sqrt{1 - a}\, o$ |

With ``clip`` = c, $\hat x_0$ is cut to $[-c, c]$ and $\hat\epsilon$ is computed anew from it. Where s is 1 (or 0) for a
sample, $o_\varnothing$ (or $o_c$) plays no part in it, whatever it holds.

Each of these lines is a pass over memory when it is an array operation. In the CUDA rung they are one: 12 bytes read
and 4 written for each number (8 with $\hat x_0$), and the noise does not come from memory at all but from the random
stream, which needs none.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..backend import Array, array_module
from ..checks import check_float, check_same, check_shape, is_number
from ..device import contiguous, device_of
from ..random import Stream
from . import reference

__all__ = ["ddim_step", "plan"]

KINDS = ("eps", "x_0", "v", "score")


class Plan(NamedTuple):
    r"""A step as numbers: $\hat x_0$ = ``x_0`` $\cdot (x_t, o)$, $\hat\epsilon$ = ``eps`` $\cdot (x_t, o)$, $x_u$ =
    ``x_u`` $\cdot (\hat x_0, \hat\epsilon, z)$.

    ``again`` gives $\hat\epsilon$ from $(x_t, \hat x_0)$ after clipping.
    """

    x_0: tuple[float, float]
    eps: tuple[float, float]
    again: tuple[float, float]
    x_u: tuple[float, float, float]


def plan(a_t: float, a_u: float, *, kind: str = "eps", eta: float = 0.0) -> Plan:
    r"""The coefficients of the step from $\bar\alpha$ = ``a_t`` to ``a_u``. Raises ValueError for what is out of range."""
    if not (isinstance(kind, str) and kind in KINDS):
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    lowest = "at least 0" if kind in ("x_0", "v") else "above 0"
    if not (is_number(a_t) and 0 <= a_t < 1 and (a_t > 0 or kind in ("x_0", "v"))):
        raise ValueError(f"a_t must be {lowest} and below 1 for kind {kind!r}, got {a_t!r}")
    if not (is_number(a_u) and 0 < a_u <= 1):
        raise ValueError(f"a_u must be above 0 and at most 1, got {a_u!r}")
    if not (is_number(eta) and 0 <= eta <= 1):
        raise ValueError(f"eta must be from 0 to 1, got {eta!r}")
    if eta > 0 and a_u < a_t:
        raise ValueError(
            f"a step with noise must not go up to more noise, got a_t = {a_t!r}, a_u = {a_u!r}, eta = {eta!r}"
        )
    a_t, a_u, eta = float(a_t), float(a_u), float(eta)  # a float64 of NumPy's would make the results float64
    root, rest = math.sqrt(a_t), math.sqrt(1 - a_t)
    x_0, eps = {
        "eps": lambda: ((1 / root, -rest / root), (0.0, 1.0)),
        "x_0": lambda: ((0.0, 1.0), (1 / rest, -root / rest)),
        "v": lambda: ((root, -rest), (rest, root)),
        "score": lambda: ((1 / root, (1 - a_t) / root), (0.0, -rest)),
    }[kind]()
    sigma = eta * math.sqrt((1 - a_u) / (1 - a_t) * (1 - a_t / a_u)) if eta > 0 else 0.0
    towards = math.sqrt(max(1 - a_u - sigma**2, 0.0))
    return Plan(x_0, eps, (1 / rest, -root / rest), (math.sqrt(a_u), towards, sigma))


def ddim_step(
    x_t: Float[Array, "n *axes"],
    conditional: Float[Array, "n *axes"],
    unconditional: Float[Array, "n *axes"] | None = None,
    *,
    a_t: float,
    a_u: float,
    scale: float | Float[Array, " n"] = 1.0,
    kind: str = "eps",
    eta: float = 0.0,
    clip: float | None = None,
    noise: Float[Array, "n *axes"] | Stream | None = None,
) -> tuple[Float[Array, "n *axes"], Float[Array, "n *axes"]]:
    r"""$(x_u, \hat x_0)$: the state after the step, and the guess that the step used.

    ``conditional`` and ``unconditional`` are the network's outputs; without the second there is no guidance and
    ``scale`` must be 1. ``scale`` is a number or one per sample. ``noise`` is $z$, or a ``Stream`` that draws it and
    moves on; it is needed where $\sigma > 0$ and ignored elsewhere. Raises TypeError for dtypes, ValueError for
    shapes and settings.
    """
    steps, scales = check(x_t, conditional, unconditional, a_t, a_u, scale, kind, eta, clip, noise)
    clip = None if clip is None else float(clip)
    if (device := device_of(x_t)) is not None:
        from . import cuda

        noise = noise if isinstance(noise, Stream) else contiguous(noise) if steps.x_u[2] else None
        x_t, conditional, unconditional = (contiguous(x) for x in (x_t, conditional, unconditional))
        return cuda.ddim_step(device, x_t, conditional, unconditional, scales, steps, clip=clip, noise=noise)
    if isinstance(noise, Stream):
        noise = noise.standard_normal(x_t.shape, x_t.dtype) if steps.x_u[2] else None
    with np.errstate(all="ignore"):
        return reference.step(x_t, conditional, unconditional, scales, steps, clip, noise)


def check(
    x_t: Any,
    conditional: Any,
    unconditional: Any,
    a_t: Any,
    a_u: Any,
    scale: Any,
    kind: Any,
    eta: Any,
    clip: Any,
    noise: Any,
) -> tuple[Plan, Any]:
    """The plan and the scales (n,) of a call, or an error that names what is wrong."""
    check_float("x_t", x_t)
    if x_t.ndim < 1:
        raise ValueError(f"x_t must have shape (n, ...), got {tuple(x_t.shape)}")
    steps = plan(a_t, a_u, kind=kind, eta=eta)
    arrays = [("conditional", conditional), ("unconditional", unconditional)]
    arrays += [] if isinstance(noise, Stream) else [("noise", noise)]
    for name, x in arrays:
        if x is not None or name == "conditional":
            check_same(f"x_t, {name}", x_t, x)
            check_shape(name, x, x_t.shape, "the shape of x_t")
    if steps.x_u[2] and noise is None:
        raise ValueError(f"eta = {eta} adds noise, so noise must be an array or a Stream, got None")
    if clip is not None and not (is_number(clip) and clip > 0):
        raise ValueError(f"clip must be above 0 or None, got {clip!r}")
    xp, n = array_module(x_t), x_t.shape[0]
    scales = xp.asarray(scale)
    if scales.dtype.kind not in "fiu":
        raise TypeError(f"scale must be a number or one per sample, got {scale!r}")
    scales = scales.astype(x_t.dtype)
    if scales.shape not in ((), (n,)):
        raise ValueError(f"scale must be a number or one per sample ({n},), got shape {tuple(scales.shape)}")
    if unconditional is None and not bool((scales == 1).all()):
        raise ValueError(f"a scale other than 1 needs unconditional, got scale {scale!r} and no unconditional")
    return steps, xp.ascontiguousarray(xp.broadcast_to(scales, (n,)))
