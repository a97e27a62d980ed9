r"""DALL-E 2's up-samplers: 32 to 64 to 128 pixels. Ramesh et al. 2022, arXiv 2204.06125, section 2.1 and appendix C.

Two diffusion models of larger pictures, each conditioned on the smaller one with every pixel doubled. They are applied
to generated pictures, not to data, so their training pictures are degraded a little: the first's are blurred (Saharia
et al. 2021, SR3, 2104.07636), the second's go through blur, loss of resolution and noise in random order (after BSRGAN,
Zhang et al. 2021, 2103.14006). Captions do not help them, so they get none, and there is no guidance. They are trained
on crops and applied to whole pictures: what they add is local.

| symbol | code | shape |
|---|---|---|
| $z$, the small picture | ``low`` | (n, h, w, c) |
| $G_\sigma$, a Gaussian blur | `blurred` | |
| $f(x_t, t, z)$, the prediction of $x_0$ | `Upsampler` | (n, 2h, 2w, c) |

The network's output is added to the doubled pixels: before any training the cascade doubles pixels, exactly.

You need: `nn/unet.py`, `models/glide.py` (the loss). New here: degrading pictures on purpose. GLIDE's up-sampler
(`glide_upsampler.py`) is given the level of the noise on its small picture; these are given nothing about the
degradation, as in the paper.

Details that matter, and the tests that guard them (tests/minigen/models/test_dalle2_upsampler.py):
- pictures are degraded in training only: sampling uses the small picture as it is;
- a crop of the large picture is the same crop of the small one;
- no width of the blur is below 0, a blur of 0 is the picture itself, and a blur keeps a uniform picture uniform.
"""

from itertools import permutations
from typing import Any

import numpy as np

import autograd as ag
from kernels.backend import array_module
from minigen.maths.schedules import Schedule
from minigen.nn import Module, UNet, fold, unfold

from . import sampling

SIDES = (32, 64, 128)
STEPS = 10  # levels that sampling visits
BLUR = (0.3, 0.7)  # widths of the first up-sampler's blur, in pixels of the small picture
WORST_BLUR, WORST_NOISE = 0.8, 0.08  # upper bounds for the second up-sampler
REACH = 3  # pixels on either side that a blur covers


class Upsampler(Module):
    """Pictures of side ``size``, or crops of such, from pictures of half the side.

    Squares of size / 16 pixels are folded into channels, so that all sizes cost about the same.
    """

    def __init__(self, c: int, size: int, *, base: int = 48, rng: Any):
        self.patch = max(1, size // 16)
        of = self.patch**2 * c
        self.unet = UNet(2 * of, of, base=base, multipliers=(1, 1), blocks=1, attention=(), scale_shift=True, rng=rng)

    def forward(self, x_t: Any, t: Any, low: Any) -> Any:
        """(n, 2h, 2w, c), (n,), (n, h, w, c) -> (n, 2h, 2w, c)."""
        large = ag.upsample_nearest(low, 2)
        return large + unfold(self.unet(fold(ag.concat([x_t, large], axis=3), self.patch), t), self.patch)


# --- degrading the small pictures in training -------------------------------------------------------------------------


def blurred(x: Any, sigma: Any) -> Any:
    """Pictures (n, h, w, c) blurred by Gaussians of ``sigma`` (n,) pixels, at least 0; edge pixels extend outwards."""
    if (sigma < 0).any():
        raise ValueError(f"sigma must be at least 0, got {sigma.min()}")
    xp = array_module(x)
    offsets = np.arange(-REACH, REACH + 1)
    weights = np.exp(-(offsets**2) / (2 * np.maximum(sigma, 1e-3)[:, None] ** 2))  # (n, taps)
    weights = xp.asarray(weights / weights.sum(1, keepdims=True), x.dtype)[:, :, None, None, None]
    for axis in (1, 2):
        edges = [(REACH, REACH) if a == axis else (0, 0) for a in range(4)]
        wide, length = xp.pad(x, edges, mode="edge"), x.shape[axis]
        taken = [wide[:, k : k + length] if axis == 1 else wide[:, :, k : k + length] for k in range(len(offsets))]
        x = sum((weights[:, k] * part for k, part in enumerate(taken[1:], start=1)), weights[:, 0] * taken[0])
    return x


def softened(low: Any, *, rng: Any) -> Any:
    """The first up-sampler's training inputs: half of them blurred by ``BLUR``. Draws ``rng.random((n, 2))``."""
    u = rng.random((len(low), 2))
    return blurred(low, np.where(u[:, 0] < 0.5, BLUR[0] + (BLUR[1] - BLUR[0]) * u[:, 1], 0.0))


def degraded(low: Any, *, rng: Any) -> Any:
    """The second's training inputs: blur, half the resolution (for half of them) and noise, each in a random order.

    Draws ``rng.random((n, 4))``, then ``rng.standard_normal`` of the pictures' shape.
    """
    xp, n = array_module(low), len(low)
    u, z = rng.random((n, 4)), xp.asarray(rng.standard_normal(low.shape), low.dtype)

    def blur(x: Any, rows: Any) -> Any:
        return blurred(x, WORST_BLUR * u[rows, 1])

    def halve(x: Any, rows: Any) -> Any:
        half = ag.raw(ag.upsample_nearest(ag.avg_pool(x), 2))
        return xp.where(xp.asarray(u[rows, 2] < 0.5)[:, None, None, None], half, x)

    def add_noise(x: Any, rows: Any) -> Any:
        return x + xp.asarray(WORST_NOISE * u[rows, 3], x.dtype)[:, None, None, None] * z[rows]

    orders = list(permutations((blur, halve, add_noise)))
    which, found = (u[:, 0] * len(orders)).astype(int), xp.empty_like(low)
    for i, order in enumerate(orders):
        rows = np.flatnonzero(which == i)
        x = low[rows]
        for operation in order if len(rows) else ():
            x = operation(x, rows)
        found[rows] = x
    return found


def cropped(large: Any, low: Any, *, rng: Any) -> tuple[Any, Any]:
    """The same random crop of half the side of both, ``large`` (n, 2h, 2w, c) and ``low`` (n, h, w, c).

    Draws two integers per picture.
    """
    n, h, w, _ = low.shape
    top, left = (rng.integers(0, side // 2 + 1, n) for side in (h, w))

    def crop(x: Any, k: int) -> Any:
        sides = k * h // 2, k * w // 2
        parts = [x[i, k * y : k * y + sides[0], k * z : k * z + sides[1]] for i, (y, z) in enumerate(zip(top, left))]
        return array_module(x).stack(parts)

    return crop(large, 2), crop(low, 1)


# --- sampling ---------------------------------------------------------------------------------------------------------


def upsample(net: Upsampler, low: Any, schedule: Schedule, *, rng: Any, steps: int = STEPS, **how: Any) -> Any:
    """Pictures of twice the size (n, 2h, 2w, c) for ``low`` (n, h, w, c), used as it is; ``how`` are fields of
    `sampling.Sampling`.
    """

    def model(x_t: Any, t: Any, cond: Any = None) -> Any:
        return net(x_t, t, low)

    n, h, w, c = low.shape
    x_T = array_module(low).asarray(rng.standard_normal((n, 2 * h, 2 * w, c)), low.dtype)
    return sampling.draw(model, x_T, schedule, steps=min(steps, schedule.T), rng=rng, kind="x_0", **how)
