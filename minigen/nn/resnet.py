r"""Residual blocks and the changes of resolution between them."""

from typing import Any, Literal

import autograd as ag

from . import init
from .layers import Conv2d, Dropout, GroupNorm, Linear
from .module import Module


class ResBlock(Module):
    r"""$x \mapsto \mathrm{skip}(x) + \mathrm{conv}_2(\mathrm{norm}_2(\mathrm{conv}_1(\mathrm{norm}_1(x)) + W e))$, SiLU
    after each norm.

    ``e`` (n, c_embedding) carries the time (and whatever was added to it). It is added before the second norm (Ho et
    al. 2020, appendix B) or, with ``scale_shift``, gives that norm's scale and shift (adaptive group norm, Dhariwal &
    Nichol 2021, eq. in section 3.1). The last convolution starts at zero, so the block starts as its skip.

    ``resample`` changes the resolution inside the block (BigGAN, Brock et al. 2019, 1809.11096, figure 15): 2x2 means
    ("down") or pixels repeated ("up"), of $\mathrm{norm}_1(x)$ before $\mathrm{conv}_1$ and of $x$ before the skip.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        c_embedding: int | None = None,
        *,
        groups: int = 8,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: Literal["up", "down"] | None = None,
        rng: Any,
    ):
        if resample not in (None, "up", "down"):
            raise ValueError(f"resample must be 'up', 'down' or None, got {resample!r}")
        self.resample = resample
        self.norm_1 = GroupNorm(c_in, groups, silu=True)
        self.conv_1 = Conv2d(c_in, c_out, rng=rng)
        width = 2 * c_out if scale_shift else c_out
        self.embed = Linear(c_embedding, width, rng=rng) if c_embedding is not None else None
        self.norm_2 = GroupNorm(c_out, groups, silu=True)
        self.dropout = Dropout(dropout)
        self.conv_2 = Conv2d(c_out, c_out, initial=init.zeros, rng=rng)
        self.skip = Conv2d(c_in, c_out, 1, rng=rng) if c_in != c_out else None
        self.scale_shift = scale_shift

    def forward(self, x: Any, embedding: Any = None, rng: Any = None) -> Any:
        """(n, h, w, c_in), (n, c_embedding) -> (n, h, w, c_out), or twice or half the size; ``rng`` draws the dropout mask."""
        h = self.norm_1(x)
        if self.resample is not None:
            h, x = (ag.avg_pool(a) if self.resample == "down" else ag.upsample_nearest(a, 2) for a in (h, x))
        e = None if self.embed is None else self.embed(embedding)  # (n, c_out) or (n, 2 c_out)
        scale = shift = None
        if self.scale_shift and e is not None:
            half = e.shape[1] // 2
            scale, shift, e = e[:, :half], e[:, half:], None
        h = self.conv_1(h, time=e)
        h = self.dropout(self.norm_2(h, scale, shift), rng)
        return self.conv_2(h, residual=x if self.skip is None else self.skip(x))


class Downsample(Module):
    """Half the resolution: a 3x3 convolution with stride 2."""

    def __init__(self, channels: int, *, rng: Any):
        self.conv = Conv2d(channels, channels, stride=2, rng=rng)

    def forward(self, x: Any) -> Any:
        """(n, h, w, c) -> (n, ceil(h / 2), ceil(w / 2), c)."""
        return self.conv(x)


class Upsample(Module):
    """Twice the resolution: every pixel repeated, then a 3x3 convolution."""

    def __init__(self, channels: int, *, rng: Any):
        self.conv = Conv2d(channels, channels, rng=rng)

    def forward(self, x: Any) -> Any:
        """(n, h, w, c) -> (n, 2h, 2w, c)."""
        return self.conv(ag.upsample_nearest(x, 2))


def fold(x: Any, p: int) -> Any:
    """Blocks of p x p pixels become channels: (n, h, w, c) -> (n, h / p, w / p, p p c)."""
    n, h, w, c = x.shape
    parts = ag.transpose(ag.reshape(x, (n, h // p, p, w // p, p, c)), (0, 1, 3, 2, 4, 5))
    return ag.reshape(parts, (n, h // p, w // p, p * p * c))


def unfold(x: Any, p: int) -> Any:
    """The inverse of `fold`."""
    n, h, w, c = x.shape
    parts = ag.transpose(ag.reshape(x, (n, h, w, p, p, c // (p * p))), (0, 1, 3, 2, 4, 5))
    return ag.reshape(parts, (n, h * p, w * p, c // (p * p)))
