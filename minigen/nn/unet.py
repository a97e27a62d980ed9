r"""The U-Net of the diffusion papers (Ronneberger et al. 2015, 1505.04597; Ho et al. 2020, appendix B).

    conv_in -> [blocks, down] ... [blocks] -> middle -> [blocks, up] ... [blocks] -> norm, SiLU, conv_out

At every resolution the upward path concatenates the downward path's feature maps. Every residual block gets the time.
"""

from collections.abc import Sequence
from typing import Any, Literal

import autograd as ag

from . import init
from .attention import PixelAttention
from .layers import Conv2d, GroupNorm
from .module import Module
from .resnet import Downsample, ResBlock, Upsample
from .time import TimeEmbedding


class UNet(Module):
    r"""``model(x_t, t)``: images (n, h, w, c_in) and times (n,), or one for all, to (n, h, w, c_out).

    ``multipliers``: channels at each resolution, in units of ``base``; each level halves the size. ``blocks`` residual
    blocks per level (one more on the way up). ``attention``: the levels (0 is full resolution) that attend over pixels;
    the middle always does. Attention has ``heads`` heads everywhere or, if given, heads of ``channels_per_head``
    channels. ``resample_in_blocks``: the resolution changes inside a residual block that is told the time (as in ADM,
    Dhariwal & Nichol 2021) instead of by a separate convolution.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        base: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        heads: int = 4,
        groups: int = 8,
        dropout: float = 0.0,
        scale_shift: bool = False,
        channels_per_head: int | None = None,
        resample_in_blocks: bool = False,
        rng: Any,
    ):
        if not multipliers or min(base, blocks, *multipliers) < 1:
            raise ValueError(
                f"base, blocks and every multiplier must be at least 1, got {base}, {blocks}, {multipliers}"
            )
        if not all(0 <= level < len(multipliers) for level in attention):
            raise ValueError(f"attention must name levels from 0 to {len(multipliers) - 1}, got {tuple(attention)}")
        c_time = 4 * base
        widths = [base * m for m in multipliers]
        last = len(widths) - 1
        self.factor = 2**last
        self.time = TimeEmbedding(base, c_time, rng=rng)
        self.conv_in = Conv2d(c_in, base, rng=rng)

        def block(a: int, b: int, resample: Literal["up", "down"] | None = None) -> ResBlock:
            return ResBlock(
                a, b, c_time, groups=groups, dropout=dropout, scale_shift=scale_shift, resample=resample, rng=rng
            )

        def attention_over(channels: int) -> PixelAttention:
            count = heads if channels_per_head is None else heads_of(channels, channels_per_head)
            return PixelAttention(channels, count, groups=groups, rng=rng)

        def attend(level: int, channels: int) -> list[Module]:
            return [attention_over(channels)] if level in attention else []

        self.down: list[Module] = []
        kept = [base]  # channels of the maps that the way down keeps for the way up, oldest first
        c = base
        for level, width in enumerate(widths):
            for _ in range(blocks):
                self.down.append(Stack(block(c, width), *attend(level, width)))
                c = width
                kept.append(c)
            if level < last:
                self.down.append(Stack(block(c, c, "down")) if resample_in_blocks else Downsample(c, rng=rng))
                kept.append(c)
        self.middle = Stack(block(c, c), attention_over(c), block(c, c))
        self.up: list[Module] = []
        for level in reversed(range(len(widths))):
            for i in range(blocks + 1):
                width, rising = widths[level], list[Module]()
                if level > 0 and i == blocks:
                    rising = [block(width, width, "up") if resample_in_blocks else Upsample(width, rng=rng)]
                self.up.append(Stack(block(c + kept.pop(), width), *attend(level, width), *rising))
                c = width
        self.norm_out = GroupNorm(c, groups, silu=True)
        self.conv_out = Conv2d(c, c_out, initial=init.zeros, rng=rng)

    def forward(self, x: Any, t: Any, cond: Any = None, *, rng: Any = None) -> Any:
        """(n, h, w, c_in), (n,) -> (n, h, w, c_out). ``cond`` (n, c_time) is added to the time embedding; ``rng``: dropout."""
        if x.ndim != 4:
            raise ValueError(f"x must be images (n, h, w, c), got shape {x.shape}")
        _, height, width, _ = x.shape
        if height % self.factor or width % self.factor:
            raise ValueError(f"the image's size must be a multiple of {self.factor}, got {height} x {width}")
        e = self.time(t, len(x))
        e = ag.silu(e if cond is None else e + cond)  # (n, c_time)
        h = self.conv_in(x)
        kept = [h]
        for part in self.down:
            h = part(h) if isinstance(part, Downsample) else part(h, e, rng)
            kept.append(h)
        h = self.middle(h, e, rng)
        for part in self.up:
            h = part(ag.concat([h, kept.pop()], axis=3), e, rng)
        return self.conv_out(self.norm_out(h))


def heads_of(channels: int, channels_per_head: int) -> int:
    """How many heads of ``channels_per_head`` channels there are in ``channels``; ValueError for a remainder."""
    if channels_per_head < 1 or channels % channels_per_head:
        raise ValueError(f"channels_per_head must divide a level's channels, got {channels_per_head} for {channels}")
    return channels // channels_per_head


class Stack(Module):
    """Blocks one after the other at one resolution; residual blocks also get the embedding."""

    def __init__(self, *parts: Module):
        self.parts = list(parts)

    def forward(self, x: Any, embedding: Any, rng: Any = None) -> Any:
        """(n, h, w, c) -> (n, h, w, c')."""
        for part in self.parts:
            x = part(x, embedding, rng) if isinstance(part, ResBlock) else part(x)
        return x
