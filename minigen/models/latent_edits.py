"""Three ways to change a picture with Stable Diffusion: paint into it, draw it anew (img2img), draw it larger.

Rombach et al. 2022, arXiv 2112.10752, sections 4.4 and 4.5; Meng et al. 2021, "SDEdit", arXiv 2108.01073. The equations
are those of `stable_diffusion.py`, whose `draw` and `enlarged` do the work.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minigen.data.captions import completed

from . import sampling
from .latent_figures import Uses
from .system import Picture


@dataclass(frozen=True)
class Editing(sampling.Sampling):
    """Settings of editing: IMAGE with --mask is painted into, --img2img changes a picture as a whole, --upscale draws it larger."""

    sampler: sampling.Sampler = "dpmpp-2m"
    """As in sampling; one of yours only for painting."""
    img2img: Picture | None = None
    """A picture to start from, instead of from noise."""
    strength: float = 0.6
    """How much of it is noised away for img2img: above 0, which would leave it as it is, to 1, which leaves next to
    nothing of it.
    """
    upscale: Picture | None = None
    """A picture to draw at twice its size."""
    prompt: str = ""
    """What the WHOLE picture should show in the end, including what is kept. The empty prompt asks for anything. With --mask,
    a size, colour or place that it does not name is random.
    """
    negative: str = ""
    """What to draw away from."""
    guidance: float = 2.0
    """s in f(negative) + s (f(prompt) - f(negative))."""
    steps: int | None = None
    """Levels of the chain, of which img2img visits the share ``strength``; the model's own choice if left out."""


def edit(
    uses: Uses,
    shape: tuple[int, ...],
    image: Any,
    keep: Any,
    *,
    n: int,
    rng: Any,
    img2img: Any = None,
    strength: float = Editing.strength,
    upscale: Any = None,
    prompt: str = Editing.prompt,
    **settings: Any,
) -> Any:
    """``n`` pictures made of one of ``shape`` (h, w, c): painted into where ``keep`` (h, w, 1) is False, changed as a
    whole, or drawn larger. Raises ValueError unless it is one of these, with its own settings.
    """
    given = [picture for picture in (image, img2img, upscale) if picture is not None]
    if len(given) != 1:
        raise ValueError("give one picture: IMAGE with --mask, or --img2img, or --upscale")
    if image is not None and keep is None:
        raise ValueError("painting needs a mask, which says where: give --mask, or the picture by --img2img")
    if image is None and keep is not None:
        raise ValueError("a mask goes with IMAGE, and neither with --img2img nor with --upscale")
    if img2img is None:
        sampling.check_belong("--upscale" if image is None else "painting", {"strength": strength}, vars(Editing()))
    if upscale is not None:
        sampling.check_belong("--upscale", settings, vars(Editing()))
    x = np.repeat(np.asarray(given[0], np.float32)[None], n, axis=0)
    if x.shape[1:] != tuple(shape):
        raise ValueError(f"pictures must have the shape {tuple(shape)}, got {x.shape[1:]}")
    prompts = [prompt] * n
    if upscale is not None:
        return uses.enlarge(x, prompts, rng=rng)
    if img2img is not None:
        return uses.draw(prompts, rng=rng, start=x, strength=strength, **settings)
    return uses.draw(completed(prompts, rng=rng), rng=rng, image=x, keep=np.asarray(keep, np.float32)[None], **settings)
