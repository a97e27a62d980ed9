r"""DALL-E 2's diffusion prior: from caption to picture embedding. Ramesh et al. 2022, arXiv 2204.06125, section 2.2.

The decoder needs the CLIP embedding of a picture, and a caption does not determine it: many embeddings fit. The prior
is a diffusion model over these vectors. It is a transformer over one short sequence: the caption's words, CLIP's vector
of the caption, the time, the noised embedding, and a last token without content, whose output is the prediction of the
clean embedding itself.

| symbol | code | shape |
|---|---|---|
| $y$, the caption; $z_t$, CLIP's vector of it | ``Caption``: ``words`` (n, t, c), their ``mask`` (n, t), ``z`` (n, d) | |
| $z_i$, CLIP's vector of the picture, $\lvert z_i \rvert = 1$ | ``z`` | (n, d) |
| $z_i^{(t)}$, noised; $t$ | ``z_t``, ``t`` | (n, d), (n,) |
| $f_\theta(z_i^{(t)}, t, y)$, the prediction of $z_i$ | `DiffusionPrior` | (n, d) |

$$L_{prior} = \mathbb E_{t, z_i^{(t)}} \| f_\theta(z_i^{(t)}, t, y) - z_i \|^2 \qquad (2)$$
$$z_i = \operatorname{argmax}_{z \in \{z^{(1)}, z^{(2)}\}} z \cdot z_t \qquad (3, \text{ not numbered in the paper})$$

**Scale.** The entries of a unit vector are of size $1 / \sqrt d$ and would drown in noise of size 1 at once. Everything
here works on $\sqrt d\, z_i$, whose mean square is 1; `draw` returns vectors of length 1 again. Nothing is clipped in
between: these are not pixels.

**What the best answer is.** For $(z_i, y)$ from any distribution $f = \mathbb E[z_i \mid z_i^{(t)}, y]$; for a Gaussian
one it is linear in both, and the draws have the conditional covariance. The mean of all embeddings of a caption, which
regression would give, is $\mathbb E[z_i \mid y]$, the prediction at the highest time.

**What differs from the paper.** Captions are read by one layer of CLIP's frozen text network instead of a transformer
of the prior's own. Positions behind <eos> hold a learned vector, so that all captions have the same length and none
depends on its neighbours in the batch.

**It must be trained to the end.** The decoder trusts $z_i$, and a mean that is slightly off means another shape.
Squared distance of the prediction at the highest time from the mean of 24 true embeddings (128 captions of two things,
seen and held-out compositions; the embeddings of one caption are .02 from their own mean), and the share of 96 prompts
for two things that one decoder meets with such draws:

| | seen | held out | met |
|---|---|---|---|
| 1,000 steps of 64, AdamW | .040 | .056 | .25 |
| 1,000 steps, Muon | .024 | .038 | |
| 3,000 steps, Muon | .012 | .021 | .58 |
| embeddings of other pictures of the caption; their mean | | | .51; .67 |

You need: `models/clip.py`, `nn/transformer.py`, `samplers/ancestral.py`. New here: diffusion of vectors instead of
pictures.

Details that matter, and the tests that guard them (tests/minigen/models/test_dalle2_prior.py):
- embeddings are scaled before they are noised, in a new array, and scaled back after sampling;
- the order of the tokens; the output is read at the last one, which attends to all others (attention is causal);
- a dropped caption is dropped from the words AND from $z_t$: both become those of the null prompt;
- of two draws for a caption, the nearer to ITS $z_t$ is kept, whatever else is in the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import autograd as ag
from kernels.backend import array_module
from minigen.maths.diffusion import q_sample
from minigen.maths.schedules import Schedule
from minigen.nn import Linear, Module, TimeEmbedding, Transformer, init, parameter
from minigen.samplers.classifier_free import classifier_free

from . import clip, glide, sampling

OUTPUT = "x_0"  # what the network predicts: the clean embedding
BEHIND = 4  # tokens after the words: caption, time, noised embedding, and the one without content


class Caption(NamedTuple):
    """Encoded captions, with one row for each."""

    vector: Any  # (n, c), the text network's output at <eos>: the vector that GLIDE's network takes
    words: Any  # (n, length, c), 0 behind <eos>
    mask: Any  # (n, length), which of them are words
    z: Any  # (n, d), CLIP's vector of the caption, of length 1
    tokens: Any = None  # (n, length), padding behind <eos>: the decoder's own text network reads them


def read(text: clip.Embedder, prompts: Any) -> Caption:
    """Prompts (strings, or rows of tokens) as CLIP's text network reads them, padded to the tokenizer's length."""
    vector, words, mask, _, tokens = glide.read(text, prompts)
    n, t, c = words.shape
    xp, rest = array_module(words), text.net.tokenizer.length - t
    words = xp.concatenate([xp.where(mask[..., None], words, 0), xp.zeros((n, rest, c), words.dtype)], axis=1)
    mask = xp.concatenate([mask, xp.zeros((n, rest), bool)], axis=1)
    tokens = xp.concatenate([tokens, xp.full((n, rest), text.net.tokenizer.pad, tokens.dtype)], axis=1)
    with ag.no_grad():
        z = ag.raw(clip.normalise(text.net.text.out(vector)))
    return Caption(vector, words, mask, z, tokens)


class CaptionTokens(Module):
    """A caption as the beginning of a sequence: its words, and CLIP's vector of it: (n, length + 1, channels)."""

    def __init__(self, c_text: int, width: int, channels: int, *, rng: Any):
        self.words = Linear(c_text, channels, rng=rng)
        self.whole = Linear(width, channels, rng=rng)
        self.absent = parameter(init.normal((1, channels), 1.0, rng))

    def forward(self, said: Caption) -> Any:
        """Behind <eos> there is always the same learned vector."""
        words = ag.where(said.mask[..., None], self.words(said.words), self.absent)
        n, width = said.z.shape
        return ag.concat([words, ag.reshape(self.whole(said.z * width**0.5), (n, 1, words.shape[2]))], axis=1)


class DiffusionPrior(Module):
    r"""$f_\theta$: ``prior(z_t, t, said)`` predicts $\sqrt d\, z_i$ from its noised version (n, d) and a `Caption` of
    ``length`` words.
    """

    def __init__(self, width: int, c_text: int, length: int, *, channels: int, layers: int, heads: int, rng: Any):
        self.caption = CaptionTokens(c_text, width, channels, rng=rng)
        self.time = TimeEmbedding(64, channels, rng=rng)
        self.noised = Linear(width, channels, rng=rng)
        self.query = parameter(init.normal((1, 1, channels), 1.0, rng))
        self.positions = parameter(init.normal((length + BEHIND, channels), 0.2, rng))
        self.transformer = Transformer(channels, layers, heads, rng=rng)
        self.out = Linear(channels, width, initial=init.zeros, rng=rng)

    def forward(self, z_t: Any, t: Any, said: Caption) -> Any:
        """(n, d), (n,) -> (n, d)."""
        n = len(z_t)
        one = [ag.reshape(a, (n, 1, a.shape[1])) for a in (self.time(t, n), self.noised(z_t))]
        query = self.query + array_module(self.query.data).zeros((n, 1, 1), z_t.dtype)
        x = ag.concat([self.caption(said), *one, query], axis=1) + self.positions
        return self.out(self.transformer(x, causal=True)[:, -1])


# --- the loss ---------------------------------------------------------------------------------------------------------


def scaled(z: Any) -> Any:
    r"""$\sqrt d\, z$: of mean square 1, like the noise."""
    return z * z.shape[-1] ** 0.5


def l_prior(model: Callable[..., Any], z: Any, t: Any, eps: Any, schedule: Schedule) -> Any:
    r"""Eq. 2, a scalar: the mean over samples and dimensions for ``z`` $= \sqrt d\, z_i$ (n, d), at times ``t`` (n,)
    with the noise ``eps`` (n, d).
    """
    d = model(q_sample(z, t, eps, schedule), t) - z
    return ag.mean(d * d)


def training_loss(model: Callable[..., Any], z: Any, schedule: Schedule, rng: Any) -> Any:
    r"""Eq. 2 of unit vectors ``z`` with $t \sim U\{1..T\}$ and $\epsilon \sim N(0, I)$; ``model(z_t, t)`` predicts
    $\sqrt d\, z_i$.
    """
    t = rng.integers(1, schedule.T + 1, len(z))
    eps = array_module(z).asarray(rng.standard_normal(z.shape), z.dtype)
    return l_prior(model, scaled(z), t, eps, schedule)


# --- sampling ---------------------------------------------------------------------------------------------------------


def unit(z: Any) -> Any:
    """Vectors along the last axis, scaled to length 1; 0 stays 0."""
    norm = (z * z).sum(-1, keepdims=True) ** 0.5
    return z / array_module(z).where(norm > 0, norm, 1)


def repeated(said: Any, times: int) -> Any:
    """A tuple of arrays with every row repeated ``times`` times in succession."""
    return type(said)(*(array_module(a).repeat(a, times, axis=0) for a in said))


def closer(z: Any, z_text: Any) -> Any:
    """Eq. 3: for each caption the candidate, of (n, k, d), with the largest product with its ``z_text`` (n, d); the
    first in case of a tie.
    """
    best = (z * z_text[:, None]).sum(-1).argmax(1)
    return z[array_module(z).arange(len(z)), best]


def sample(
    model: Callable[..., Any],
    said: Caption,
    schedule: Schedule,
    *,
    steps: int,
    rng: Any,
    guidance: float = 1.0,
    null: Caption | None = None,
    sampler: str = "ancestral",
) -> Any:
    r"""One draw of $\sqrt d\, z_i$ for each caption (n, d), not normalised; ``model(z_t, t, said)`` predicts it.

    ``guidance`` is s of $f(\varnothing) + s\, (f(y) - f(\varnothing))$, ``null`` (1 row) the null prompt. Draws
    ``rng.standard_normal((n, d))`` first, then what the sampler draws.
    """
    if guidance != 1:
        if null is None:
            raise ValueError("guidance needs the null prompt: null must be a Caption, got None")
        model = classifier_free(model, guidance, repeated(null, len(said.z)))
    z_T = array_module(said.z).asarray(rng.standard_normal(said.z.shape), said.z.dtype)
    how: dict[str, Any] = {"steps": steps, "rng": rng, "cond": said, "sampler": sampler}
    return sampling.draw(model, z_T, schedule, clip=None, kind=OUTPUT, **how)


def draw(model: Callable[..., Any], said: Caption, schedule: Schedule, *, candidates: int = 2, **settings: Any) -> Any:
    r"""An embedding of length 1 for each caption (n, d): the best of ``candidates``, which are drawn in one batch.

    ``settings`` are those of `sample`.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    z = unit(sample(model, repeated(said, candidates), schedule, **settings))
    return closer(z.reshape(len(said.z), candidates, z.shape[1]), said.z)
