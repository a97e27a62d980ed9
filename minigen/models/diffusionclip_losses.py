r"""The losses of `diffusionclip`: equations 1 to 5, whose symbols are in the table there, as functions of pictures and directions.

A direction is the change of CLIP's vector. A `Still` holds what an edit should not change: background, thing and
outline, computed from the source pictures alone.

You need: nothing of the model. New here: a loss between two changes, and a picture as a silhouette in two colours.
"""

from typing import Any, NamedTuple

import numpy as np

import autograd as ag
from kernels.backend import array_module
from minigen.data.captions import attribute

FLOOR = 1e-4  # lower bound of the lengths by which directions are divided


class Still(NamedTuple):
    """What an edit should not change, by the picture alone. Edges, a mixture of ground and thing, belong to neither."""

    ground: Any  # (n, h, w, 1), 1 where the picture has the colour of its frame: the background
    pixels: Any  # (n, h, w, 1), 1 where it should stay: on the ground, or inside the thing
    coloured: Any  # (n, h, w, 1), 1 inside the thing if that gets the asked colour, or None
    outline: Any  # (n, h, w, 1), the silhouette, or None where the edit changes it


def untouched(x_0: Any, word: str) -> Still:
    """What the edit ``word`` should not change in the pictures ``x_0``: the background, or the thing if the background
    is edited; in edits of colours and backgrounds, also the outline.
    """
    xp = array_module(x_0)
    frame = xp.concatenate([x_0[:, 0], x_0[:, -1], x_0[:, :, 0], x_0[:, :, -1]], axis=1)
    away = abs(x_0 - xp.median(frame, axis=1)[:, None, None]).max(-1, keepdims=True)
    ground = (away < 0.1).astype(x_0.dtype)
    thing = (away > 0.8 * away.max((1, 2), keepdims=True)).astype(x_0.dtype)
    name = attribute(word)
    outline = silhouette(x_0, ground, thing) if name in ("colour", "background") else None
    return Still(ground, thing if name == "background" else ground, thing if name == "colour" else None, outline)


def mean_colour(x: Any, where: Any) -> Any:
    """The mean (n, 1, 1, c) of the pixels of ``x`` at which ``where`` is 1."""
    return ag.sum(x * where, (1, 2), keepdims=True) / (ag.sum(where, (1, 2), keepdims=True) + 1e-6)


def silhouette(x_0: Any, ground: Any, thing: Any) -> Any:
    r"""$\alpha$ (n, h, w, 1): distances from the ground's mean colour in units of the thing's mean distance, at most 1.

    For a picture $(1 - \alpha)\, g + \alpha c$ it is $\alpha$, whatever the colours g and c.
    """
    away = np.sqrt(np.square(x_0 - mean_colour(x_0, ground)).sum(-1, keepdims=True))
    return np.minimum(away / (mean_colour(away, thing) + 1e-6), 1)


def of_two_colours(x: Any, still: Still) -> tuple[Any, Any]:
    r"""Eq. 4: the thing's contrast $c$ (n, 1, 1, ch), and the residual ``x`` $- (g + \alpha\, c)$ with $g$ the mean
    colour of the ground.
    """
    alpha, off = still.outline, x - mean_colour(x, still.ground)
    c = ag.sum(off * alpha, (1, 2), keepdims=True) / (alpha * alpha).sum((1, 2), keepdims=True)
    return c, off - alpha * c


def directional_loss(d_image: Any, d_text: Any) -> Any:
    r"""Eq. 1 (n,): 0 for parallel directions, 1 for orthogonal and 2 for opposite ones, whatever their lengths.

    A length below ``FLOOR`` counts as ``FLOOR``: an unchanged picture has loss 1 and a finite gradient, along the text.
    """

    def length(d: Any) -> Any:
        return ag.maximum(ag.sqrt(ag.sum(d * d, -1) + 1e-30), FLOOR)

    return 1 - ag.sum(d_image * d_text, -1) / (length(d_image) * length(d_text))


def shortfall(d_image: Any, d_text: Any) -> Any:
    r"""Eq. 3 (n,): 0 where the picture has moved along the text's direction as far as the text or further, 1 where it
    has not moved.
    """
    return ag.maximum(1 - ag.sum(d_image * d_text, -1) / (ag.sum(d_text * d_text, -1) + FLOOR**2), 0.0)


def l_edit(
    x_0: Any,
    x_hat: Any,
    d_image: Any,
    d_text: Any,
    still: Still,
    natural: Any,
    *,
    l1: float,
    identity: float,
    far: float,
    outline: float,
    same: float,
    prior: float,
    least: float,
) -> tuple[Any, dict[str, Any]]:
    r"""Eq. 2: a scalar, and its terms without their weights.

    ``natural`` is $f_{base}(x_t, t)$, a constant, or None, which leaves the term out.
    """
    change = ag.abs(x_hat - x_0)
    terms = {
        "direction": ag.mean(directional_loss(d_image, d_text)),
        "l1": ag.mean(change),
        "identity": ag.sum(change * still.pixels) * (1 / max(float(still.pixels.sum()) * x_0.shape[-1], 1.0)),
        "short": ag.mean(shortfall(d_image, d_text)),
    }
    value = terms["direction"] + l1 * terms["l1"] + identity * terms["identity"] + far * terms["short"]
    if still.outline is not None:
        c, rest = of_two_colours(x_hat, still)
        strength = ag.maximum(ag.sum(c * c, (1, 2, 3)), least**2)
        wrong = ag.sum(rest * rest * (1 - still.pixels), (1, 2, 3))
        terms["outline"] = ag.mean(wrong / (strength * (still.outline**2).sum((1, 2, 3))))
        value = value + outline * terms["outline"]
    if still.coloured is not None:
        colour = mean_colour(x_hat, still.coloured)
        apart = colour - ag.mean(colour, 0, keepdims=True)
        terms["apart"] = ag.sum(apart * apart) * (1 / len(x_0))
        value = value + same * terms["apart"]
    if natural is not None:
        d = x_hat - natural
        terms["prior"] = ag.mean(d * d)
        value = value + prior * terms["prior"]
    return value, terms
