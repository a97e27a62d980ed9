r"""A U-Net conditioned on a text (Nichol et al. 2021, GLIDE, 2112.10741, section 4.1).

The text enters twice: as one vector, which is added to the time's and so reaches every residual block's adaptive group
norm, and as words, whose keys and values join the pixels' own in every attention layer. Pixels are folded into channels
at the input (``patch``) and every resolution has a learned map of positions: convolutions alone hardly know where they
are, and half of what a caption says is about position.

`Words` is a text network that learns with the U-Net, beside a frozen one that reads the caption: the frozen one
(CLIP's) knows from the first step which words and pictures go together, but its vectors were trained to tell pictures
apart and blur which word carries which attribute; what is missing is learnt from the loss of the pictures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module, to_numpy

from . import init
from .attention import merge_heads, split_heads
from .layers import Conv2d, Embedding, GroupNorm, Linear
from .module import Module, parameter
from .resnet import Downsample, ResBlock, Upsample, fold, unfold
from .time import TimeEmbedding
from .transformer import Transformer


class TextAttention(Module):
    r"""Group norm, attention of all pixels to all pixels and all words in one softmax, added to the input.

    A linear layer of its own makes the words' keys and values. A word whose ``mask`` is False is not attended.
    """

    def __init__(self, channels: int, heads: int, c_words: int, *, groups: int = 8, rng: Any):
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide the channels, got {heads} heads for {channels} channels")
        self.heads = heads
        self.norm = GroupNorm(channels, groups)
        self.qkv = Linear(channels, 3 * channels, rng=rng)
        self.words = Linear(c_words, 2 * channels, rng=rng)
        self.out = Linear(channels, channels, initial=init.zeros, rng=rng)

    def forward(self, x: Any, words: Any, mask: Any) -> Any:
        """(n, h, w, c), (n, t, c_words), (n, t) bool -> (n, h, w, c)."""
        n, h, w, c = x.shape
        qkv = self.qkv(ag.reshape(self.norm(x), (n, h * w, c)))
        kv = ag.concat([qkv[..., c:], self.words(words)], axis=1)  # (n, h w + t, 2 c)
        q, k, v = (split_heads(a, self.heads) for a in (qkv[..., :c], kv[..., :c], kv[..., c:]))
        xp = array_module(self.words.w.data)
        seen = xp.concatenate([xp.ones((n, h * w), bool), xp.asarray(mask, bool)], axis=1)
        return x + ag.reshape(self.out(merge_heads(ag.attention(q, k, v, key_mask=seen))), (n, h, w, c))


class TextUNet(Module):
    r"""Images (n, size, size, c_in), times (n,), a vector (n, c_vector) and words (n, t, c_words) to (n, size, size, c_out).

    ``patch``: blocks of patch x patch pixels become channels first. ``multipliers``: channels at each resolution, in
    units of ``base``; each level halves the size. ``attention``: the levels (0 is the first after folding) that attend;
    the middle always does. ``c_beside`` further channels may be given beside the image: their convolution starts at
    zero, so the network starts as if they were not there, bit for bit (section 4.3: the inpainting fine-tune).
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        size: int,
        c_vector: int,
        c_words: int,
        c_beside: int = 0,
        patch: int = 4,
        base: int = 96,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (0, 1),
        heads: int = 4,
        groups: int = 8,
        rng: Any,
    ):
        if not multipliers or min(base, blocks, *multipliers) < 1:
            raise ValueError(
                f"base, blocks and every multiplier must be at least 1, got {base}, {blocks}, {multipliers}"
            )
        last = len(multipliers) - 1
        if patch < 1 or size % (patch * 2**last):
            raise ValueError(f"size must be a multiple of {patch * 2**last} (patch and halvings), got {size}")
        if not all(0 <= level <= last for level in attention):
            raise ValueError(f"attention must name levels from 0 to {last}, got {tuple(attention)}")
        widths = [base * m for m in multipliers]
        c_time = 2 * base
        self.patch, self.size = patch, size
        self.time = TimeEmbedding(64, c_time, rng=rng)
        self.vector = Linear(c_vector, c_time, rng=rng)
        self.conv_in = Conv2d(patch * patch * c_in, base, rng=rng)
        self.conv_beside = (
            Conv2d(patch * patch * c_beside, base, bias=False, initial=init.zeros, rng=rng) if c_beside else None
        )
        sides = [size // patch // 2**level for level in range(len(widths))]
        self.positions = [Positions(side, width, rng=rng) for side, width in zip(sides, [base, *widths])]

        def block(a: int, b: int) -> ResBlock:
            return ResBlock(a, b, c_time, groups=groups, scale_shift=True, rng=rng)

        def attend(level: int, channels: int) -> list[Module]:
            return [TextAttention(channels, heads, c_words, groups=groups, rng=rng)] if level in attention else []

        self.down: list[Module] = []
        kept, c = [base], base
        for level, width in enumerate(widths):
            for _ in range(blocks):
                self.down.append(TextStack(block(c, width), *attend(level, width)))
                c = width
                kept.append(c)
            if level < last:
                self.down.append(Downsample(c, rng=rng))
                kept.append(c)
        self.middle = TextStack(block(c, c), *attend(last, c), block(c, c))
        self.up: list[Module] = []
        for level in reversed(range(len(widths))):
            for i in range(blocks + 1):
                rising = [Upsample(widths[level], rng=rng)] if level > 0 and i == blocks else []
                self.up.append(TextStack(block(c + kept.pop(), widths[level]), *attend(level, widths[level]), *rising))
                c = widths[level]
        self.norm_out = GroupNorm(c, groups, silu=True)
        self.conv_out = Conv2d(c, patch * patch * c_out, initial=init.zeros, rng=rng)

    def forward(self, x: Any, t: Any, vector: Any, words: Any, mask: Any, beside: Any = None) -> Any:
        """``mask`` (n, t) is True for words, False for padding; ``beside`` (n, size, size, c_beside) may be left out."""
        if tuple(x.shape[1:3]) != (self.size, self.size):
            raise ValueError(f"images must be {self.size} x {self.size} pixels, got {x.shape[1]} x {x.shape[2]}")
        if beside is not None and self.conv_beside is None:
            raise ValueError("this network was built without channels beside the image: c_beside is 0")
        e = ag.silu(self.time(t, len(x)) + self.vector(vector))  # (n, c_time)
        more = None if beside is None else self.conv_beside(fold(beside, self.patch))  # type: ignore[misc]
        h = self.conv_in(fold(x, self.patch), residual=more)
        level = 0
        h = self.positions[level](h)
        kept = [h]
        for part in self.down:
            if isinstance(part, Downsample):
                level += 1
                h = self.positions[level](part(h))
            else:
                h = part(h, e, words, mask)
            kept.append(h)
        h = self.middle(h, e, words, mask)
        for part in self.up:
            h = part(ag.concat([h, kept.pop()], axis=3), e, words, mask)
        return unfold(self.conv_out(self.norm_out(h)), self.patch)


class Positions(Module):
    """A learned map that is added to every feature map: (n, side, side, c) -> the same."""

    def __init__(self, side: int, channels: int, *, rng: Any):
        self.map = parameter(init.normal((side, side, channels), 0.2, rng))

    def forward(self, x: Any) -> Any:
        """Adds the map."""
        return x + self.map


class TextStack(Module):
    """Blocks one after the other at one resolution; each gets the conditioning that it takes."""

    def __init__(self, *parts: Module):
        self.parts = list(parts)

    def forward(self, x: Any, embedding: Any, words: Any, mask: Any) -> Any:
        """(n, h, w, c) -> (n, h, w, c')."""
        for part in self.parts:
            if isinstance(part, ResBlock):
                x = part(x, embedding)
            else:
                x = part(x, words, mask) if isinstance(part, TextAttention) else part(x)
        return x


class Words(Module):
    r"""$c(y) + e(y)$: a frozen network's output $c$ for the words, and $e$, a trained bidirectional transformer over
    the tokens $y$.
    """

    def __init__(self, vocabulary: int, length: int, channels: int, *, layers: int, heads: int = 4, rng: Any):
        self.embed = Embedding(vocabulary, channels, rng=rng)
        self.positions = parameter(init.normal((length, channels), 0.5, rng))
        self.transformer = Transformer(channels, layers, heads, rng=rng)

    def forward(self, vector: Any, words: Any, mask: Any, tokens: Any) -> tuple[Any, Any]:
        """(n, c), (n, t, c), (n, t) bool, (n, t) -> the first two with $e$ added, to the vector the last word's."""
        e = self.transformer(self.embed(tokens) + self.positions[: tokens.shape[1]], key_mask=mask)
        last = to_numpy(mask).sum(1) - 1
        return vector + e[np.arange(len(last)), last], words + e


class ReadingUNet(Module):
    """A `TextUNet` and the `Words` that learn with it; None: the frozen network's output is the only conditioning."""

    def __init__(self, unet: TextUNet, words: Words | None):
        self.unet, self.words = unet, words

    def forward(
        self, x: Any, t: Any, vector: Any, words: Any, mask: Any, beside: Any = None, tokens: Any = None
    ) -> Any:
        """As `TextUNet`, and the caption's ``tokens`` (n, t)."""
        if self.words is not None:
            vector, words = self.words(vector, words, mask, tokens)
        return self.unet(x, t, vector, words, mask, beside)
