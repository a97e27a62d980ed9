"""Laws that samplers, ours or anybody's, must obey: exact answers up to rounding, and no trained network.

Give a sampler the members that `protocol` lists, and `run_laws` reports what holds, what fails and where, and what is
not claimed. Every model is the best prediction for data whose answer is known (`beds`); noise is scripted, and what the
model is shown is recorded (`recorder`). The laws are functions whose docstrings give equation, assumption, tolerance
and what they catch: `schedule_laws`, `exact_laws`, `variance_laws` and `order_laws` for samplers; `given_laws` for
inpainting, editing and inversion; `guidance_laws`, `token_laws`, `latent_laws` and `loss_laws` for the rest. `drawing`
samples with a trained network.
"""

from typing import Any

from .adapters import FromStep, Ours, ours
from .drawing import as_sampler
from .protocol import FORMS, Fault, Level, Sampler, Transform
from .suite import LAWS, as_json, report, run_laws
from .verdict import Check, Law, Verdict


def everything() -> list[Any]:
    """All of ours: samplers, token samplers, guidance, inpainting, latents and losses."""
    from . import catalogue, loss_catalogue  # they import our models

    return [*ours(), *catalogue.everything(), *loss_catalogue.everything()]
