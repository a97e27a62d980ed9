r"""Multi-head attention (Vaswani et al. 2017, 1706.03762): over sequences, and over the pixels of a feature map."""

from typing import Any

import autograd as ag

from . import init
from .layers import GroupNorm, Linear
from .module import Module


def split_heads(x: Any, heads: int) -> Any:
    """(n, t, heads d) -> (n, heads, t, d)."""
    n, t, c = x.shape
    return ag.transpose(ag.reshape(x, (n, t, heads, c // heads)), (0, 2, 1, 3))


def merge_heads(x: Any) -> Any:
    """(n, heads, t, d) -> (n, t, heads d)."""
    n, heads, t, d = x.shape
    return ag.reshape(ag.transpose(x, (0, 2, 1, 3)), (n, t, heads * d))


KeysValues = tuple[Any, Any]  # of all rows so far, both (n, heads, t, d)


class Attention(Module):
    r"""$\mathrm{softmax}(q k^\top / \sqrt d)\, v$ in ``heads`` heads between two linear layers.

    Queries come from ``x``; keys and values from ``context`` (of width ``c_context``) or, without one, from ``x``.
    """

    def __init__(self, channels: int, heads: int, *, c_context: int | None = None, rng: Any):
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide the channels, got {heads} heads for {channels} channels")
        self.heads = heads
        self.q = Linear(channels, channels, rng=rng)
        self.kv = Linear(channels if c_context is None else c_context, 2 * channels, rng=rng)
        self.out = Linear(channels, channels, initial=init.zeros, rng=rng)

    def forward(self, x: Any, context: Any = None, *, causal: bool = False, key_mask: Any = None) -> Any:
        """(n, t, c), (n, t_k, c_context) -> (n, t, c); ``key_mask`` (n, t_k) is True where a key may be attended."""
        c = x.shape[-1]
        kv = self.kv(x if context is None else context)
        q, k, v = (split_heads(a, self.heads) for a in (self.q(x), kv[..., :c], kv[..., c:]))
        return self.out(merge_heads(ag.attention(q, k, v, causal=causal, key_mask=key_mask)))

    def step(self, x: Any, past: KeysValues | None = None) -> tuple[Any, KeysValues]:
        """The rows ``x`` (n, k, c) that follow those in ``past``: what ``forward(whole, causal=True)`` gives for them.

        Also returns the keys and values of all rows so far, for the next call.
        """
        c = x.shape[-1]
        kv = self.kv(x)
        q, k, v = (split_heads(a, self.heads) for a in (self.q(x), kv[..., :c], kv[..., c:]))
        if past is not None:
            k, v = ag.concat([past[0], k], axis=2), ag.concat([past[1], v], axis=2)
        return self.out(merge_heads(ag.attention(q, k, v, causal=True))), (k, v)


class PixelAttention(Module):
    """Group norm, self-attention over all pixels of a feature map, added to the input."""

    def __init__(self, channels: int, heads: int, *, groups: int = 8, rng: Any):
        self.norm = GroupNorm(channels, groups)
        self.attention = Attention(channels, heads, rng=rng)

    def forward(self, x: Any) -> Any:
        """(n, h, w, c) -> (n, h, w, c)."""
        n, h, w, c = x.shape
        return x + ag.reshape(self.attention(ag.reshape(self.norm(x), (n, h * w, c))), (n, h, w, c))
