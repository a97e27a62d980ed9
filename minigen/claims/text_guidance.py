"""GLIDE: is a text model better led by itself or by CLIP?

One small system a seed, with a CLIP that was trained on noisy pictures, as the paper's. It draws pictures of one thing,
led by either guidance at the best of its scales, and by both together for comparison. So short a training seldom meets
a whole prompt, so the figure counts attributes (`minigen.metrics.prompts.attributes_met`).
"""

from typing import Any

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import QUICK, rng_of, trained
from minigen.metrics.prompts import attributes_met, prompts_of
from minigen.models import glide

PROMPTS = 100
SYSTEM: dict[str, Any] = {
    "clip_steps": 400,
    "noisy_clip": True,
    "text_layers": 0,
    "shift": 1.0,
    "steps": 700,
    "batch_size": 32,
    "paint_steps": 0,
    "upsample": 0,
}
SCALES = (1.5, 2.0, 3.0)  # of classifier-free guidance, 1 being the model
CLIP_SCALES = (30.0, 100.0, 300.0)


def guidances(setting: Setting) -> dict[str, float]:
    """Attributes met without guidance, with either guidance at its scales, and with both."""
    steps = {"clip_steps": SYSTEM["clip_steps"] // (QUICK if setting.quick else 1)}
    system, _ = trained(glide, setting, data="shapes", **SYSTEM | steps)
    prompts = prompts_of("val", 1, PROMPTS)

    def met(free: float, by_clip: float) -> float:
        images = system.paint(prompts, rng=rng_of(setting, "walk"), guidance=free, clip_guidance=by_clip)
        return attributes_met(prompts, images)

    found = {"no guidance": met(1.0, 0.0)}
    found |= {f"classifier-free, {s:g}": met(s, 0.0) for s in SCALES}
    found |= {f"CLIP, {s:g}": met(1.0, s) for s in CLIP_SCALES}
    return found | {"both": met(1.5, 100.0)}


def best(groups: dict[str, float], name: str) -> float:
    """The largest of a guidance's figures."""
    return max(value for label, value in groups.items() if label.startswith(f"{name}, "))


CLAIMS = [
    Claim(
        name="clip-or-classifier-free",
        systems=("glide",),
        sentence="classifier-free guidance obeys a text better than CLIP guidance",
        source="Nichol et al. 2021, 2112.10741, section 5",
        unit="share of the attributes asked for that came, one thing",
        in_words="the share with classifier-free guidance at its best of three scales minus that with CLIP guidance at its best",
        experiment=guidances,
        effect=lambda g: best(g, "classifier-free") - best(g, "CLIP"),
        smallest=0.02,
    ),
]
