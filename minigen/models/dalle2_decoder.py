r"""DALL-E 2's decoder: CLIP inverted.

Ramesh et al. 2022, "Hierarchical text-conditional image generation with CLIP latents", arXiv 2204.06125, sections 2.1
and 3.

A GLIDE with a further condition beside the caption: CLIP's embedding of the picture, one unit vector $z_i$. It does not
contain exactly where a thing is and which pixel has which tint, so many pictures have the same $z_i$; the decoder draws
one of them. What the embedding lacks is in the noise $x_T$, which DDIM finds for any picture: the pair $(z_i, x_T)$
represents a picture, and changing one of the two while holding the other is an edit.

| symbol | code | shape |
|---|---|---|
| $z_i$, $\lvert z_i \rvert = 1$; 0: dropped | ``Told.z`` | (n, d) |
| the caption, as GLIDE reads it; a text network trained with the decoder | ``Told.text``, a `glide.Told`; ``words`` | |
| $f(x_t, t, z_i, y)$, the prediction of $x_0$ | `Decoder` | like $x_t$ |
| $x_T$ | ``x_T`` of `invert` | (n, h, w, c) |
| $z_t$, $z_{t_0}$: texts after and before | ``after``, ``before`` | (n, d) |
| $\theta$ | ``theta``, ``shares`` of the arc | |

The paper numbers no equations here; the numbers are this file's.

$$\hat x_0 = f(x_t, t, z_i, y), \quad z_i \to 0 \text{ with probability } 0.1, \; y \to \varnothing \text{ with } 0.5 \text{, independently} \qquad (1, \text{ section 2.1})$$
$$\text{variations: } x' \sim \mathrm{DDIM}_\eta(x_T \mid z_i) \qquad (2, \text{ section 3.1})$$
$$\text{interpolations: } z_\theta = \mathrm{slerp}(z_1, z_2, \theta), \; x_T = \mathrm{slerp}(x_{T_1}, x_{T_2}, \theta) \text{ or fixed} \qquad (3, \text{ section 3.2})$$
$$\text{text diffs: } z_d = \frac{z_t - z_{t_0}}{\lvert z_t - z_{t_0} \rvert}, \quad z_\theta = \mathrm{slerp}(z_i, z_d, \theta), \; \theta \in [0.25, 0.5] \qquad (4, \text{ section 3.3})$$
$$\theta^* : z_{\theta^*} \parallel z_i + (z_t - z_{t_0}) \qquad (5)$$

How far a text diff has to go depends on the texts: neighbouring colours are close, a ring is far from a cross.
$\theta^*$ is where the difference itself leads (the paper has one range for all; here $\theta^*$ is the default). On 64
validation pictures of one thing it comes nearer to the wanted picture (mean cosine of the embeddings .944) than any
single $\theta$ (.931 at .4). The paper's way down is deterministic ($\eta = 0$); here it is random ($\eta = 1$ by
default), as then .73 of 128 diffs succeed instead of .57.

$z_i$ enters twice, as in the paper: beside the caption's vector, which joins the time, and as four more tokens
behind the words. Its entries are of size $1 / \sqrt d$; they are scaled to size 1 first.

**What it took.** After 3,000 steps of 64 pictures the prompts for one thing / two are met in .99 and .46,
held out .68 and .16 (500 each, `minigen sample dalle2 --prompts 500`; the default was 3,000 then); after 10,000, with a
longer CLIP and prior (``--preset long``), in 1.00 and .97, held out .99 and .87. With CLIP's frozen word features alone
it binds colours to things much more slowly (.90 and .09 after 1,800 steps); a text network trained with the decoder
(`nn.Words`) helps, and the prior matters more than either: see `dalle2_prior.py`. More noise (``shift`` 4, 4,500 steps
of 32) gets the colours of two things right in .97 with true embeddings instead of .89, and draws shapes less cleanly:
.38 of the prompts either way.

You need: `models/glide.py` (the loss, the text, known pixels), `samplers/ddim.py` (there and back),
`maths/interpolation.py`. New here: a picture's meaning as a condition.

Details that matter, and the tests that guard them (tests/minigen/models/test_dalle2_decoder.py):
- the embedding and the caption are dropped independently of each other, per sample, in new arrays;
- CLIP learns nothing: its embeddings are constants, and no gradient reaches it;
- with $\eta = 0$ the way down undoes the way up: same levels, same condition, no guidance, nothing clipped;
- both ends of an interpolation with guidance 1 are the round trips of the two pictures;
- $z_d$ of equal texts is 0 / 0 and refused; $\theta^*$ is that of the sum, for every angle between picture and
  difference.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import autograd as ag
from kernels.backend import array_module
from minigen.maths.interpolation import slerp
from minigen.maths.schedules import Schedule
from minigen.nn import Linear, Module, TextUNet, Words
from minigen.samplers import ddim
from minigen.samplers.classifier_free import classifier_free
from minigen.samplers.inpaint import check_mask

from . import glide, sampling

TOKENS = 4  # per embedding
OUTPUT = "x_0"  # what the network predicts


class Told(NamedTuple):
    """The decoder's inputs besides $x_t$ and the time, with one row per sample."""

    z: Any  # (n, d), rows of length 1, or 0 where the embedding is dropped
    text: glide.Told


class Decoder(Module):
    """GLIDE's network with an embedding of ``width`` numbers besides text features of ``c_text`` channels; ``words``: a
    text network that is trained with it, or None.
    """

    def __init__(
        self,
        c: int,
        *,
        size: int,
        width: int,
        c_text: int,
        patch: int = 4,
        base: int = 64,
        multipliers: tuple[int, ...] = (1, 1),
        attention: tuple[int, ...] = (0, 1),
        heads: int = 4,
        words: Words | None = None,
        rng: Any,
    ):
        self.words = words
        self.tokens = Linear(width, TOKENS * c_text, rng=rng)
        self.unet = TextUNet(
            c,
            c,
            size=size,
            c_vector=c_text + width,
            c_words=c_text,
            c_beside=c + 1,
            patch=patch,
            base=base,
            multipliers=multipliers,
            attention=attention,
            heads=heads,
            rng=rng,
        )

    def forward(self, x_t: Any, t: Any, told: Told) -> Any:
        """The prediction of the clean picture, like ``x_t`` (n, h, w, c)."""
        z, (vector, words, mask, beside, tokens) = told
        n, width = z.shape
        if self.words is not None:
            vector, words = self.words(vector, words, mask, tokens)
        z = z * width**0.5
        more = ag.reshape(self.tokens(z), (n, TOKENS, words.shape[2]))
        xp = array_module(mask)
        mask = xp.concatenate([mask, xp.ones((n, TOKENS), bool)], axis=1)
        return self.unet(x_t, t, ag.concat([vector, z], 1), ag.concat([words, more], 1), mask, beside)


# --- training ---------------------------------------------------------------------------------------------------------


def without_embeddings(z: Any, left_out: Any) -> Any:
    """``z`` (n, d) with 0 in the rows that are ``left_out`` (n,): a new array."""
    return z * array_module(z).asarray(~left_out, z.dtype)[:, None]


# --- sampling ---------------------------------------------------------------------------------------------------------


def guided(net: Decoder, null: Told, guidance: float) -> Callable[..., Any]:
    r"""``model(x_t, t, told)``: $f(\varnothing) + s\, (f(z_i, y) - f(\varnothing))$ with ``guidance`` s; in ``null``,
    with one row per sample, both conditions are dropped.
    """

    def model(x_t: Any, t: Any, told: Told) -> Any:
        return net(x_t, t, told)

    return classifier_free(model, guidance, null)


def decode(
    net: Decoder,
    told: Told,
    null: Told,
    x_T: Any,
    schedule: Schedule,
    *,
    steps: int,
    guidance: float,
    rng: Any,
    image: Any = None,
    keep: Any = None,
    callback: Any = None,
    **how: Any,
) -> Any:
    """Pictures from ``x_T`` (n, h, w, c): exactly ``image`` where ``keep`` (n or 1, h, w, 1) is 1.

    ``how``: fields of `sampling.Sampling`.
    """
    xp, chosen = array_module(x_T), False
    if keep is not None:
        chosen, beside = check_mask(keep, image.shape), glide.known_pixels(image, keep)
        told, null = (Told(z, text._replace(beside=beside)) for z, text in (told, null))

    def limit(x_0: Any) -> Any:
        x_0 = np.clip(x_0, -1, 1)
        return x_0 if keep is None else xp.where(chosen, image, x_0)

    model = guided(net, null, guidance)
    settings = {"steps": steps, "rng": rng, "clip": limit, "cond": told, "kind": OUTPUT, "callback": callback}
    return limit(sampling.draw(model, x_T, schedule, **settings, **how))


# --- pictures as pairs (z_i, x_T) -------------------------------------------------------------------------------------


def invert(net: Decoder, x_0: Any, told: Told, levels: Schedule, *, iterations: int = 1) -> Any:
    r"""$x_T$ of pictures (n, h, w, c), given their embeddings: `ddim.encode` over all ``levels``, without guidance."""
    return ddim.encode(lambda x, t, cond: net(x, t, cond), x_0, levels, iterations=iterations, cond=told, kind=OUTPUT)


def walk(
    net: Decoder, x_T: Any, told: Told, null: Told, levels: Schedule, *, guidance: float, eta: float, rng: Any
) -> Any:
    r"""Eq. 2: DDIM down the ``levels`` from ``x_T`` with noise $\eta$.

    Only the final picture is clipped to [-1, 1].
    """
    model = guided(net, null, guidance)
    return np.clip(ddim.sample(model, x_T, levels, rng=rng, eta=eta, cond=told, kind=OUTPUT), -1, 1)


def between(z: Any, x_T: Any, shares: Any, noise: Any = None) -> tuple[Any, Any]:
    r"""Eq. 3: $z_\theta$ (k, d) and $x_T$ (k, h, w, c) between two pictures, at the k ``shares`` of the second.

    ``z`` (2, d) and ``x_T`` (2, h, w, c) are the pictures'; a ``noise`` (h, w, c) is used throughout instead of the arc
    of ``x_T``. Raises ValueError for two equal pictures.
    """
    xp, k = array_module(x_T), len(shares)
    if xp.array_equal(x_T[0], x_T[1]):
        raise ValueError("interpolation needs two different pictures, got the same one twice")
    z_theta = slerp(z[0], z[1], shares)
    if noise is not None:
        return z_theta, xp.broadcast_to(noise, (k, *noise.shape))
    a, b = x_T.reshape(2, -1)
    return z_theta, slerp(a, b, shares).reshape(k, *x_T.shape[1:])


def difference(after: Any, before: Any) -> Any:
    r"""$z_t - z_{t_0}$ (d,) of the embeddings (d,) of two texts.

    Raises ValueError if they are equal: there is no direction.
    """
    d = after - before
    if float((d * d).sum()) < 1e-12:
        raise ValueError("a text diff needs two texts that say different things: these two have the same embedding")
    return d


def towards(z: Any, d: Any, shares: Any) -> Any:
    r"""Eq. 4: $z_\theta$ (k, d), the picture's embedding ``z`` (d,) rotated by ``shares`` of the arc towards $z_d$, the
    direction of ``d`` (d,).
    """
    return slerp(z, d / (d * d).sum() ** 0.5, shares)


def own_theta(z: Any, d: Any) -> float:
    r"""Eq. 5: $\theta^*$ of the embedding ``z`` (d,) of length 1 and the difference ``d`` (d,) of two texts, computed
    in their plane, with $z$ as the first axis.
    """
    length = float((d * d).sum() ** 0.5)
    ahead = float((z * d).sum()) / length
    aside = max(1 - ahead * ahead, 0.0) ** 0.5
    arc = np.arctan2(aside, ahead)
    return float(np.arctan2(length * aside, 1 + length * ahead) / arc) if arc > 0 else 1.0
