r"""Edits: does the directional loss edit cleanly where the global one does not?

Two copies of one diffusion model learn to make things blue, from the same pictures in as many steps. The loss of one
uses the change of CLIP's vector, eq. 1 of `models/diffusionclip.py`; that of the other, after Patashnik et al. 2021
(2103.17249), the vector itself:

$$ L_{global} = 1 - \langle E_I(\hat x_0), E_T(y_{tar}) \rangle $$

Everything else of eq. 2 is the same for both. An edit is *clean* if the oracle reads a blue thing and all else as it
was.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import QUICK, trained
from minigen.data import Dataset
from minigen.data.oracle import verdicts
from minigen.models import diffusionclip as dc
from minigen.models.system import Stage, System

WORD = "blue"
N = 192  # test pictures that are edited
STEPS = {"clip_steps": 500, "steps": 1000, "tune_steps": 450}
GLOBAL = "edit_globally"  # the network of the second copy


def globally(e_hat: Any, of: dc.Lesson) -> tuple[Any, Any]:
    """The vectors of the picture and of the text, in place of their changes."""
    return e_hat, of.e_tar


def build(config: dc.Config, dataset: Dataset, *, seed: int) -> System:
    """DiffusionCLIP with one edit, and a second network that learns it by the global loss."""
    system = dc.build(config, dataset, seed=seed)
    base, clip_net = system.modules["diffusion"], system.modules["clip"]
    net = dc.network(config, dataset, rng=np.random.default_rng(seed))
    loss = dc.tuning_loss(net, WORD, base=base, clip_net=clip_net, config=config, dataset=dataset, aim=globally)

    def stages() -> list[Stage]:
        return [*system.stages(), dc.tuning_stage(GLOBAL, net, loss, config)]

    return replace(system, modules=system.modules | {GLOBAL: net}, stages=stages)


BOTH: Any = SimpleNamespace(__name__="edits", Config=dc.Config, build=build)


def clean_edits(setting: Setting) -> dict[str, float]:
    """Share of clean edits with either loss."""
    steps = {name: n if name == "steps" or not setting.quick else max(1, n // QUICK) for name, n in STEPS.items()}
    system, dataset = trained(BOTH, setting, data="shapes", edits=(WORD,), **steps)
    images, wanted = dc.asked_of("test", (WORD,), N)
    found = {}
    for label, name in (("directional", f"edit_{WORD}"), ("global", GLOBAL)):
        of = replace(system, modules=system.modules | {f"edit_{WORD}": system.modules[name]})
        edits = dc.edited(of, dataset.scale(images), (WORD,))
        found[label] = float(np.mean([verdict.right for verdict in verdicts(wanted, edits)]))
    return found


CLAIMS = [
    Claim(
        name="directional-clip",
        systems=("diffusionclip",),
        sentence="CLIP's directional loss edits cleanly where its global loss does not",
        source="Kim, Kwon & Ye 2021, 2110.02711; Gal et al. 2021, 2108.00946",
        unit="share of edits to blue that keep all else",
        in_words="the share with the directional loss minus that with the global one",
        experiment=clean_edits,
        effect=lambda g: g["directional"] - g["global"],
        smallest=0.05,
    ),
]
