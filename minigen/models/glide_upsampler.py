r"""The up-sampler of GLIDE (Nichol et al. 2021, 2112.10741, section 4.1): a diffusion model of large pictures that is
shown the small one.

One network doubles the sides; a cascade of them draws at any size, each a diffusion model of its own (Ho et al. 2021,
"Cascaded diffusion models", 2106.15282). It is trained on small pictures of the data and used on small pictures that
another model drew, which are never quite right. So (as in the cascade, not in GLIDE) it is trained on small pictures
with some noise, whose level it is given: it learns how far to trust what it is shown.

| symbol | code | shape |
|---|---|---|
| $z$, the small picture | ``low`` | (n, h, w, c) |
| $z_s = \sqrt{\bar\alpha_s}\, z + \sqrt{1 - \bar\alpha_s}\, \epsilon'$, $s \sim U\{0..S\}$ | ``low``, ``level`` of `augmented` | (n, h, w, c), (n,) |
| $f(x_t, t, z_s, s, y)$, the guess of $x_0$ | ``Upsampler`` | (n, 2h, 2w, c) |

The network's output is added to $z_s$ with every pixel doubled: only what the small picture lacks has to be learnt.

Details that matter, and the tests that guard them (tests/minigen/models/test_glide.py):
- the noise on the small picture is independent of that on the large one, and level 0 adds none;
- sampling adds the noise of the level that the network is given.
"""

from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module
from minigen.maths.diffusion import q_sample
from minigen.maths.schedules import Schedule
from minigen.nn import Module, TimeEmbedding
from minigen.nn.text_unet import TextUNet

from . import sampling

MOST, USED = 0.1, 0.02  # the largest noise level of training, and that of sampling, as shares of T
STEPS = 10  # levels that sampling visits


class Upsampler(Module):
    """Pictures of side ``size`` from those of half of it.

    Squares of side size / 16 are folded into channels, so that all sizes cost the same.
    """

    def __init__(self, c: int, size: int, c_text: int, *, base: int = 48, rng: Any):
        self.level = TimeEmbedding(64, c_text, rng=rng)
        self.unet = TextUNet(
            2 * c,
            c,
            size=size,
            c_vector=c_text,
            c_words=c_text,
            patch=max(1, size // 16),
            base=base,
            multipliers=(1, 1),
            attention=(1,),
            rng=rng,
        )

    def forward(self, x_t: Any, t: Any, said: Any, low: Any, level: Any) -> Any:
        """``said`` is a vector, words and their mask; ``low`` (n, h, w, c) has the noise of the levels (n,)."""
        vector, words, mask = said
        large = ag.upsample_nearest(low, 2)
        return large + self.unet(ag.concat([x_t, large], axis=3), t, vector + self.level(level), words, mask)


def augmented(low: Any, schedule: Schedule, *, rng: Any, level: int | None = None) -> tuple[Any, Any]:
    """``low`` with noise, and the level of each: drawn from 0 to ``MOST`` of T, or the one that is given."""
    n, xp = len(low), array_module(low)
    levels = rng.integers(0, int(MOST * schedule.T) + 1, n) if level is None else np.full(n, level)
    return q_sample(low, levels, xp.asarray(rng.standard_normal(low.shape), low.dtype), schedule), levels


def upsample(
    net: Upsampler, low: Any, said: Any, schedule: Schedule, *, rng: Any, steps: int = STEPS, **how: Any
) -> Any:
    """Pictures of twice the size (n, 2h, 2w, c) for ``low`` (n, h, w, c); ``how`` are fields of `sampling.Sampling`."""
    low, level = augmented(low, schedule, rng=rng, level=int(USED * schedule.T))

    def model(x_t: Any, t: Any, cond: Any = None) -> Any:
        return net(x_t, t, said, low, level)

    n, h, w, c = low.shape
    x_T = array_module(low).asarray(rng.standard_normal((n, 2 * h, 2 * w, c)), low.dtype)
    return sampling.draw(model, x_T, schedule, steps=min(steps, schedule.T), rng=rng, kind="x_0", **how)
