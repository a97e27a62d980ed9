"""Laws that a sampler must obey, for ours and for anybody's: no trained network, no tolerance above rounding.

Write down three members (`protocol`), and `run_laws` says what holds, what fails and where, and what is not claimed.
Every model is the best prediction for data whose answer is known (`beds`); noise is scripted, and what the model is
shown is recorded (`recorder`). The laws are functions whose docstrings say equation, assumption, tolerance and what
they catch: `schedule_laws`, `exact_laws`, `variance_laws`, `order_laws` of samplers; `given_laws` where something is
given; `guidance_laws`, `token_laws`, `latent_laws` and `loss_laws` of the rest. With a trained network a sampler draws
by `drawing`.
"""

from typing import Any

from .adapters import FromStep, Ours, ours
from .drawing import as_sampler
from .protocol import FORMS, Fault, Level, Sampler, Transform
from .suite import LAWS, as_json, report, run_laws
from .verdict import Check, Law, Verdict


def everything() -> list[Any]:
    """All of ours: samplers, tokens, guidance, inpainting, latents and losses."""
    from . import catalogue, loss_catalogue  # they import our models

    return [*ours(), *catalogue.everything(), *loss_catalogue.everything()]
