"""The ledger of claims: common claims about these models, each as a small experiment with a verdict.

`ledger` says what a claim is and how it is judged; `trained` trains a system once and finds it again; the other files
hold the claims, one chapter each.
"""

from . import (
    autoencoders,
    autoregressive,
    dalle,
    dalle2,
    diffusion,
    discrete_codes,
    edits,
    gan_and_vae,
    guidance,
    latent_diffusion,
    text_guidance,
    text_to_image,
)
from .ledger import Claim

CLAIMS: list[Claim] = [
    *autoencoders.CLAIMS,
    *gan_and_vae.CLAIMS,
    *discrete_codes.CLAIMS,
    *autoregressive.CLAIMS,
    *text_to_image.CLAIMS,
    *dalle.CLAIMS,
    *diffusion.CLAIMS,
    *guidance.CLAIMS,
    *text_guidance.CLAIMS,
    *edits.CLAIMS,
    *dalle2.CLAIMS,
    *latent_diffusion.CLAIMS,
]
