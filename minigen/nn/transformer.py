r"""The transformer block, norm first (Radford et al. 2019, GPT-2, section 2.3), and a stack of them."""

from typing import Any

import autograd as ag

from . import init
from .attention import Attention, KeysValues
from .layers import Dropout, LayerNorm, Linear
from .module import Module


class Block(Module):
    r"""$x \leftarrow x + \mathrm{attention}(\mathrm{norm}(x))$; with a context,
    $x \leftarrow x + \mathrm{attention}(\mathrm{norm}(x), \mathrm{context})$;
    $x \leftarrow x + W_2\,\mathrm{gelu}(W_1 \mathrm{norm}(x))$.
    """

    def __init__(self, channels: int, heads: int, *, c_context: int | None = None, dropout: float = 0.0, rng: Any):
        self.norm_1 = LayerNorm(channels)
        self.attention = Attention(channels, heads, rng=rng)
        self.norm_context = LayerNorm(channels) if c_context is not None else None
        self.cross = Attention(channels, heads, c_context=c_context, rng=rng) if c_context is not None else None
        self.norm_2 = LayerNorm(channels)
        self.linear_1 = Linear(channels, 4 * channels, rng=rng)
        self.linear_2 = Linear(4 * channels, channels, initial=init.zeros, rng=rng)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Any,
        context: Any = None,
        *,
        causal: bool = False,
        key_mask: Any = None,
        context_mask: Any = None,
        rng: Any = None,
    ) -> Any:
        """(n, t, c), (n, t_k, c_context) -> (n, t, c)."""
        x = x + self.dropout(self.attention(self.norm_1(x), causal=causal, key_mask=key_mask), rng)
        return self._after_attention(x, context, context_mask, rng)

    def step(
        self, x: Any, past: KeysValues | None = None, context: Any = None, *, context_mask: Any = None
    ) -> tuple[Any, KeysValues]:
        """The rows ``x`` (n, k, c) that follow those in ``past``: what ``forward(whole, causal=True)`` gives for them.

        Also returns the keys and values of all rows so far, for the next call.
        """
        y, past = self.attention.step(self.norm_1(x), past)
        return self._after_attention(x + y, context, context_mask, None), past

    def _after_attention(self, x: Any, context: Any, context_mask: Any, rng: Any) -> Any:
        if (self.cross is None) != (context is None):
            raise ValueError("a block built with c_context needs a context, and one built without takes none")
        if self.cross is not None and self.norm_context is not None:
            x = x + self.dropout(self.cross(self.norm_context(x), context, key_mask=context_mask), rng)
        return x + self.dropout(self.linear_2(ag.gelu(self.linear_1(self.norm_2(x)))), rng)


class Transformer(Module):
    """``layers`` blocks and a final norm: (n, t, c) -> (n, t, c)."""

    def __init__(
        self, channels: int, layers: int, heads: int, *, c_context: int | None = None, dropout: float = 0.0, rng: Any
    ):
        self.blocks = [Block(channels, heads, c_context=c_context, dropout=dropout, rng=rng) for _ in range(layers)]
        self.norm = LayerNorm(channels)

    def forward(self, x: Any, context: Any = None, **settings: Any) -> Any:
        """Settings are those of `Block.forward`."""
        for block in self.blocks:
            x = block(x, context, **settings)
        return self.norm(x)

    def step(
        self, x: Any, past: list[KeysValues] | None = None, context: Any = None, **settings: Any
    ) -> tuple[Any, list[KeysValues]]:
        """`Block.step` through all blocks; ``past`` is a list with one entry per block."""
        kept = []
        for i, block in enumerate(self.blocks):
            x, of_block = block.step(x, past[i] if past else None, context, **settings)
            kept.append(of_block)
        return self.norm(x), kept
