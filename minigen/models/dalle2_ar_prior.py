r"""DALL-E 2's autoregressive prior: an embedding as a sentence. Ramesh et al. 2022, arXiv 2204.06125, section 2.2.

The embeddings of pictures fill few of their dimensions. Rotated to its principal axes, the one of largest variance
first, and quantized into buckets, an embedding is a short sequence of integers, and a language model can learn its
probability given a caption. The caption precedes the sequence, and so does one more token: how well the picture fits
the caption. Asked for a good fit, the model draws one.

| symbol | code | shape |
|---|---|---|
| $\mu, A$: mean and principal axes | ``mean``, ``axes`` | (d,), (dims, d) |
| $a = A (z_i - \mu)$ | ``coordinates`` | (n, dims) |
| $b_j \in \{0 \dots K - 1\}$ | ``tokens`` | (n, dims) |
| $l_j, h_j$: bounds of the buckets | ``low``, ``high`` | (dims,) |
| $D$, the bucket of $z_i \cdot z_t$ | ``dot``; ``dots``, one beyond the last bucket, where it is dropped | (n,) |
| $y, z_t$ | ``said``, a `Caption` | |

$$p(z_i \mid y) \approx \prod_{j=1}^{dims} p(b_j \mid b_{<j}, D, z_t, y), \quad b_j = \Big\lfloor K \frac{a_j - l_j}{h_j - l_j} \Big\rfloor \qquad (1)$$
$$\hat a_j = l_j + (b_j + \tfrac12)(h_j - l_j) / K, \quad \hat z_i = \mathrm{norm}(\mu + A^\top \hat a), \quad |\hat a_j - a_j| \le \tfrac{h_j - l_j}{2K} \qquad (2)$$
$$L = -\frac{1}{dims} \sum_j \ln p(b_j \mid b_{<j}, D, z_t, y) \qquad (3)$$

The numbers of the equations are this file's. The paper keeps 319 of 1,024 dimensions and cuts each into 1,024 buckets;
here 24 of 128 keep 99.4 % of the variance (of a CLIP of 1,200 steps), and the buckets of $z_i \cdot z_t$ hold equally
many pictures each, so that "the top half of the distribution", from which the paper draws $D$, is the upper half of the
buckets. At each position the network also gets the token that $z_t$ has there, unlike in the paper: texts and pictures
are near each other here, and a small network would take long to find that out.

You need: `dalle2_prior.py` (how a caption is encoded), `samplers/autoregressive.py`. New here: tokens for vectors.

Details that matter, and the tests that guard them (tests/minigen/models/test_dalle2_prior.py):
- the probabilities of all sequences of buckets add up to 1, and a token is predicted from those before it only;
- the cached step and the full pass give the same logits;
- values beyond the outermost buckets go into these: embeddings of the test set have tokens as well;
- when a caption is dropped, D is dropped too, as the product depends on the caption.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy
from minigen.nn import Linear, Module, Transformer, init, parameter
from minigen.samplers import autoregressive

from .dalle2_prior import Caption, CaptionTokens, repeated, unit


def principal(z: Any, dims: int) -> tuple[Any, Any]:
    """Mean (d,) and the ``dims`` axes (dims, d) of largest variance of the rows of ``z``, the largest first, float64."""
    z = to_numpy(z).astype(np.float64)
    mean = z.mean(0)
    _, axes = np.linalg.eigh(np.cov(z.T, bias=True))  # the variances ascend
    return mean, axes[:, ::-1][:, :dims].T


class ARPrior(Module):
    """The transformer over captions of ``length`` words and the ``dims`` tokens of an embedding of ``width`` numbers."""

    BUFFERS = ("mean", "axes", "low", "high", "cuts")

    def __init__(
        self,
        width: int,
        c_text: int,
        length: int,
        *,
        dims: int,
        buckets: int,
        dots: int,
        channels: int,
        layers: int,
        heads: int,
        rng: Any,
    ):
        self.dims, self.buckets, self.dots, self.first = dims, buckets, dots, length + 1
        self.mean, self.axes = np.zeros(width, np.float32), np.zeros((dims, width), np.float32)
        self.low, self.high = np.zeros(dims, np.float32), np.ones(dims, np.float32)
        self.cuts = np.zeros(dots - 1, np.float32)
        self.caption = CaptionTokens(c_text, width, channels, rng=rng)
        self.fit_token = parameter(init.normal((dots + 1, channels), 1.0, rng))
        self.table = parameter(init.normal((dims * buckets, channels), 1.0, rng))
        self.hint = parameter(init.normal((buckets, channels), 1.0, rng))
        self.positions = parameter(init.normal((length + 1 + dims, channels), 0.2, rng))
        self.transformer = Transformer(channels, layers, heads, rng=rng)
        self.out = Linear(channels, buckets, initial=init.zeros, rng=rng)

    # --- vectors and tokens

    def fit(self, z: Any, z_text: Any) -> None:
        """Fit axes, bounds and cuts to embeddings (m, d) of pictures and of their captions, in place."""
        mean, axes = principal(z, self.dims)
        a = (to_numpy(z).astype(np.float64) - mean) @ axes.T
        cuts = np.quantile(to_numpy((z * z_text).sum(1)), np.arange(1, self.dots) / self.dots)
        low, high = a.min(0), a.max(0)
        found = {"mean": mean, "axes": axes, "low": low, "high": np.maximum(high, low + 1e-6), "cuts": cuts}
        for name, value in found.items():
            buffer = getattr(self, name)
            buffer[...] = array_module(buffer).asarray(value, buffer.dtype)

    def tokens(self, z: Any) -> Any:
        """Eq. 1: embeddings (n, d) as buckets (n, dims), int64."""
        a = (z - self.mean) @ self.axes.T
        share = (a - self.low) / (self.high - self.low)
        return to_numpy(np.clip(np.floor(share * self.buckets), 0, self.buckets - 1)).astype(np.int64)

    def embeddings(self, tokens: Any) -> Any:
        """Eq. 2: the centres of buckets (n, dims) as vectors of length 1 (n, d)."""
        tokens = array_module(self.low).asarray(tokens, self.low.dtype)
        a = self.low + (tokens + 0.5) * (self.high - self.low) / self.buckets
        return unit(self.mean + a @ self.axes)

    def dot(self, z: Any, z_text: Any) -> Any:
        """The bucket of the dot product of each picture's embedding with its caption's (n,), int64."""
        return np.searchsorted(to_numpy(self.cuts), to_numpy((z * z_text).sum(1)), side="right").astype(np.int64)

    # --- the model: entry i is for token i, given those before it

    def slots(self, before: Any, first: int, said: Caption, dot: Any) -> Any:
        """Inputs at the positions that predict tokens ``first``, ``first`` + 1 ...: (n, t, channels).

        ``before`` (n, t or t - 1) are the tokens just before these; the input before token 0 is ``dot``.
        """
        xp, t = array_module(self.table.data), before.shape[1] + (first == 0)
        start = [ag.embedding(self.fit_token, xp.asarray(dot)[:, None])] if first == 0 else []
        rows = before + self.buckets * (max(first - 1, 0) + np.arange(before.shape[1]))
        hints = self.tokens(said.z)[:, first : first + t]
        x = ag.concat([*start, ag.embedding(self.table, xp.asarray(rows))], axis=1)
        return x + ag.embedding(self.hint, xp.asarray(hints)) + self.positions[self.first + first :][:t]

    def beginning(self, said: Caption) -> Any:
        """The inputs before the first slot: (n, length + 1, channels)."""
        return self.caption(said) + self.positions[: self.first]

    def logits(self, tokens: Any, said: Caption, dot: Any) -> Any:
        """(n, t) -> (n, t, buckets)."""
        x = ag.concat([self.beginning(said), self.slots(tokens[:, :-1], 0, said, dot)], axis=1)
        return self.out(self.transformer(x, causal=True)[:, self.first :])

    def step(self, new: Any, cache: Any, said: Caption, dot: Any) -> tuple[Any, Any]:
        """The cached step of `samplers/autoregressive.py`."""
        done, past = cache if cache is not None else (0, None)
        x = self.slots(new, 0 if cache is None else done + 1, said, dot)
        if cache is None:
            x = ag.concat([self.beginning(said), x], axis=1)
        x, past = self.transformer.step(x, past)
        return self.out(x[:, -1:])[:, 0], (done + new.shape[1], past)


def negative_log_likelihood(logits: Any, tokens: Any) -> Any:
    """Eq. 3, a scalar: nats per token, of logits (n, dims, buckets) and tokens (n, dims)."""
    tokens = array_module(ag.raw(logits)).asarray(tokens.reshape(-1))
    return ag.mean(ag.cross_entropy(ag.reshape(logits, (len(tokens), -1)), tokens))


def good_fits(u: Any, dots: int) -> Any:
    r"""Buckets of $z_i \cdot z_t$, uniform over the upper half of ``dots``, for ``u`` uniform in [0, 1)."""
    half = dots // 2
    return half + np.floor(u * (dots - half)).astype(np.int64)


def draw(
    net: ARPrior,
    said: Caption,
    *,
    rng: Any,
    guidance: float = 1.0,
    null: Caption | None = None,
    temperature: float = 1.0,
) -> Any:
    r"""An embedding of length 1 for each caption (n, d), its $D$ from the upper half.

    ``guidance`` is s of $\ell_\varnothing + s\, (\ell_y - \ell_\varnothing)$, of logits; ``null`` (1 row) is the null
    prompt. Draws ``rng.random(n)`` for $D$, then ``rng.random((n, dims))``.
    """
    n = len(said.z)
    dot = good_fits(rng.random(n), net.dots)
    step: Callable[..., Any] = partial(net.step, said=said, dot=dot)
    if guidance != 1:
        if null is None:
            raise ValueError("guidance needs the null prompt: null must be a Caption, got None")
        without = partial(net.step, said=repeated(null, n), dot=np.full(n, net.dots))
        step = autoregressive.guided_step(step, without, guidance)
    u = autoregressive.uniforms(n, net.dims, rng=rng)
    return net.embeddings(autoregressive.sample_cached(step, u, temperature=temperature))
