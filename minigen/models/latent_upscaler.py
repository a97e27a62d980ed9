r"""Pictures of twice the size by latent diffusion. Rombach et al. 2022, arXiv 2112.10752, section 4.4.

The map of a large picture is drawn by a diffusion model that is shown the small picture: its pixels are concatenated to
the channels of the noisy map, place by place. What is shown has some noise, whose level the network is given, so that
it learns how far to trust it (Ho et al. 2021, 2106.15282): small pictures that another model drew are never quite
right.

| symbol | code | shape |
|---|---|---|
| $y_s$, the small picture with the noise of level $s$ | ``low``, ``level`` of `glide_upsampler.augmented` | (n, h, w, c), (n,) |
| $z_0$, the map of the large picture | | (n, 2h / f, 2w / f, d) |
| $g(z_t, t, y_s, s, \text{text})$, the guess of $z_0$ | ``Upscaler`` | like $z_0$ |

The codec is convolutional and takes pictures of any size: it is the one that was trained on small pictures. A place of
the map is $f / 2$ pixels of the small picture wide, which become channels beside it.

Details that matter, and the tests that guard them (tests/minigen/models/test_stable_diffusion.py):
- each part of the small picture is put beside the place that it shows, and reaches others only through the network;
- the noise on it is independent of that of the map, and the network is given the level that it has.
"""

from typing import Any

import numpy as np

from kernels.backend import array_module
from minigen.maths.schedules import Schedule
from minigen.nn import Module, TextUNet, TimeEmbedding, fold

from . import glide_upsampler, sampling
from .glide_upsampler import USED
from .latent_codec import Codec, Identity

STEPS = 10  # levels that sampling visits
GRID = 8  # places per side on which the network works


class Upscaler(Module):
    """Maps of pictures of side 2 ``side`` from pictures of side ``side``, in the latents of a codec with ``d`` channels
    and factor ``f``.
    """

    def __init__(self, c: int, d: int, *, side: int, f: int, c_text: int, base: int = 64, rng: Any):
        size = 2 * side // f
        self.fold = max(1, f // 2)
        self.level = TimeEmbedding(64, c_text, rng=rng)
        self.unet = TextUNet(
            d + self.fold**2 * c,
            d,
            size=size,
            c_vector=c_text,
            c_words=c_text,
            patch=max(1, size // GRID),
            base=base,
            multipliers=(1, 1),
            attention=(1,),
            rng=rng,
        )

    def forward(self, z_t: Any, t: Any, said: Any, low: Any, level: Any) -> Any:
        """``said`` is a vector, words and their mask; ``low`` (n, h, w, c) has the noise of the levels (n,)."""
        vector, words, mask = said
        xp = array_module(low)
        shown = xp.concatenate([z_t, fold(low, self.fold)], axis=3)
        return self.unet(shown, t, vector + self.level(level), words, mask)


def upscale(
    net: Upscaler,
    codec: Codec | Identity,
    low: Any,
    said: Any,
    schedule: Schedule,
    *,
    rng: Any,
    steps: int = STEPS,
    kind: str = "x_0",
    **how: Any,
) -> Any:
    """Pictures of twice the size (n, 2h, 2w, c) for ``low`` (n, h, w, c); ``how`` are fields of `sampling.Sampling`."""
    n, h, w, c = low.shape
    low, level = glide_upsampler.augmented(low, schedule, rng=rng, level=int(USED * schedule.T))

    def model(z_t: Any, t: Any, cond: Any = None) -> Any:
        return net(z_t, t, said, low, level)

    z_T = array_module(low).asarray(rng.standard_normal((n, *codec.shape((2 * h, 2 * w, c)))), np.float32)
    z = sampling.draw(model, z_T, schedule, steps=min(steps, schedule.T), rng=rng, clip=codec.bound, kind=kind, **how)
    return codec.decode(z)
