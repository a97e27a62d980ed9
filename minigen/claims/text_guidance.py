"""GLIDE: is a text model better guided by itself or by CLIP?

One small system per seed, with a CLIP that was trained on noisy pictures, as in the paper. It draws pictures of one
thing with either guidance, and with both together for comparison. Each guidance uses the best of its scales, chosen on
validation prompts; other prompts are judged. After so short a training few prompts are met in full, so the figure
counts attributes (`minigen.metrics.prompts.attributes_met`).
"""

from typing import Any

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import QUICK, rng_of, trained
from minigen.metrics.prompts import attributes_met, prompts_of
from minigen.models import glide

TRIED, JUDGED = 100, 200  # prompts on which scales are chosen, and prompts that are judged
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
SCALES = (1.5, 2.0, 3.0, 4.5)  # of classifier-free guidance; 1 is the unguided model
CLIP_SCALES = (30.0, 100.0, 300.0, 1000.0)


def guidances(setting: Setting) -> dict[str, float]:
    """Attributes met without guidance, with either one at its best scale, and with both; and at all scales tried."""
    steps = {"clip_steps": SYSTEM["clip_steps"] // (QUICK if setting.quick else 1)}
    system, _ = trained(glide, setting, data="shapes", **SYSTEM | steps)
    to_try, to_judge = prompts_of("val", 1, TRIED), prompts_of("test", 1, JUDGED)

    def met(prompts: list[str], free: float, by_clip: float) -> float:
        images = system.paint(prompts, rng=rng_of(setting, "walk"), guidance=free, clip_guidance=by_clip)
        return attributes_met(prompts, images)

    free = {s: met(to_try, s, 0.0) for s in SCALES}
    by_clip = {s: met(to_try, 1.0, s) for s in CLIP_SCALES}
    best_free, best_by_clip = max(SCALES, key=free.__getitem__), max(CLIP_SCALES, key=by_clip.__getitem__)
    return {
        "no guidance": met(to_judge, 1.0, 0.0),
        "classifier-free": met(to_judge, best_free, 0.0),
        "CLIP": met(to_judge, 1.0, best_by_clip),
        "both": met(to_judge, 1.5, 100.0),
        **{f"tried: classifier-free, {s:g}": share for s, share in free.items()},
        **{f"tried: CLIP, {s:g}": share for s, share in by_clip.items()},
    }


CLAIMS = [
    Claim(
        name="clip-or-classifier-free",
        systems=("glide",),
        sentence="classifier-free guidance obeys a text better than CLIP guidance",
        source="Nichol et al. 2021, 2112.10741, section 5",
        unit="share of the attributes asked for that came, one thing",
        in_words="the share with classifier-free guidance minus that with CLIP guidance, each at its best of four scales, chosen on other prompts",
        experiment=guidances,
        effect=lambda g: g["classifier-free"] - g["CLIP"],
        smallest=0.02,
    ),
]
