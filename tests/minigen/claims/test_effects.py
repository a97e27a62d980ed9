"""The effect of every claim on groups made by hand: what is expected is worked out from its sentence and ``in_words``.

Where an effect takes the better or the worse of some groups there are two cases, with each of them once the one that
counts. Groups that it must not look at have numbers that would be seen.
"""

import pytest

from minigen.claims import CLAIMS

VAE_OR_GAN = {"train": 0.9, "GAN": 0.5, "VAE, mean": 0.6, "VAE, draw": 0.2}
GAN_OR_VAE = {"train": 0.9, "GAN": 0.5, "VAE, mean": 0.1, "VAE, draw": 0.8}
DRAWN_CODES = {"uniform codes": 0.1, "places on their own": 0.3, "PixelCNN": 0.7, "copies of test pictures": 0.95}
NATS = {"PixelCNN": 80.0, "GPT": 83.0, "VAE": 90.0, "mixture": 100.0}
NATS_2 = {"PixelCNN": 84.0, "GPT": 81.0, "VAE": 82.0, "mixture": 100.0}
SEEN = {"seen pairs": 0.8, "held-out pairs": 0.5, "chance": 0.03}
PRIORS = {"diffusion": 0.7, "autoregressive": 0.5, "text": 0.6, "none": 0.3}
OVER_SCALES = {
    "classifier, 0": 0.02, "classifier, 1": 0.3, "classifier, 2": 0.45, "classifier, 4": 0.5, "classifier, 8": 0.97,
    "classifier-free, 0": 0.01, "classifier-free, 1": 0.2, "classifier-free, 1.5": 0.6, "classifier-free, 2": 0.8,
    "classifier-free, 4": 0.55,
}  # fmt: skip
OVER_SCALES_2 = OVER_SCALES | {
    "classifier, 1": 0.9,
    "classifier, 4": 0.2,
    "classifier-free, 1": 0.6,
    "classifier-free, 4": 0.5,
}
NETWORKS = {"8 channels, one head": 0.5, "24 channels, one head": 0.3, "24 channels, six heads": 0.2}
SIZES = {"pixels": 0.3, "f = 2": 0.4, "f = 4": 0.9, "f = 8": 0.6}
FAR = {"ddim": 0.5, "plms": 0.4, "dpmpp-2m": 0.2, "dpmpp-2s": 0.01}
USED = {
    "gradient, none revived": 40.0, "gradient, revived": 240.0, "averages, none revived": 120.0,
    "averages, revived": 250.0, "averages, none revived, started on data": 7.0,
}  # fmt: skip
GLIDE = {
    "no guidance": 0.95, "classifier-free": 0.7, "CLIP": 0.3, "both": 0.99,
    "tried: classifier-free, 2": 0.8, "tried: CLIP, 30": 0.9,
}  # fmt: skip
VARIED = {
    "reconstructions (eta 0)": 1.0,
    "variations": 0.9,
    "with another's embedding": 0.3,
    "variations that are another picture": 0.5,
}
ENTROPY = {"DALL-E 2, guidance 1": 1.0, "DALL-E 2, guidance 4": 0.9, "GLIDE, guidance 1": 0.8, "GLIDE, guidance 4": 0.2}

CASES = [
    # autoencoders
    ("autoencoder-holes", {"copies of test pictures": 0.9, "halfway between two": 0.4, "drawn codes": 0.3}, 0.6),
    ("vae-no-holes", {"autoencoder, drawn codes": 0.3, "VAE, codes from the prior": 0.7}, 0.4),
    ("masking-75-features", {"25 %": 0.7, "50 %": 0.8, "75 %": 0.95}, 0.15),  # more accurate than the better, 50 %
    ("masking-75-features", {"25 %": 0.8, "50 %": 0.6, "75 %": 0.7}, -0.1),  # than the better, 25 %
    ("masking-75-filling", {"25 %": 0.08, "50 %": 0.06, "75 %": 0.05}, 0.01),  # less error than the better, 50 %
    ("masking-75-filling", {"25 %": 0.06, "50 %": 0.09, "75 %": 0.08}, -0.02),  # than the better, 25 %
    # GAN and VAE
    ("gan-sharp", {"train": 0.9, "GAN": 1.0, "VAE, mean": 0.7, "VAE, draw": 1.5}, 0.3),  # the mean is what is blurred
    ("gan-fidelity", VAE_OR_GAN, -0.1),  # the better way: the mean
    ("gan-fidelity", GAN_OR_VAE, -0.3),  # the draw
    ("gan-not-diverse", VAE_OR_GAN, 0.4),
    ("vae-diverse-coverage", VAE_OR_GAN, 0.1),  # the better way: the mean
    ("vae-diverse-coverage", GAN_OR_VAE, 0.3),  # the draw
    ("vae-diverse-pixels", VAE_OR_GAN, -0.3),  # the draw, whichever is better
    ("vae-diverse-pixels", GAN_OR_VAE, 0.3),
    ("vae-diverse-features", VAE_OR_GAN, -0.3),
    ("vae-diverse-features", GAN_OR_VAE, 0.3),
    ("gan-drops-modes", {"saturating": 1.0, "non-saturating": 5.0, "non-saturating, R1": 7.0, "WGAN-GP": 8.0}, 2.0),
    # discrete codes
    ("restarts-prevent-collapse", USED, 130.0),  # averages gain less: 130 of 200
    ("restarts-prevent-collapse", USED | {"gradient, revived": 50.0}, 10.0),  # the gradient gains less: 10 of 130
    ("prior-beats-uniform", DRAWN_CODES, 0.6),
    ("prior-knows-what-goes-together", DRAWN_CODES, 0.4),
    # autoregressive models
    ("autoregressive-likelihood", NATS, 7.0),  # the worse has more nats: the GPT
    ("autoregressive-likelihood", NATS_2, -2.0),  # the PixelCNN
    ("convolution-for-pixels", NATS, 3.0),
    ("autoregressive-slow", {"PixelCNN": 2.0, "GPT": 5.0, "VAE": 0.25}, 8.0),  # the faster: the PixelCNN
    ("autoregressive-slow", {"PixelCNN": 6.0, "GPT": 3.0, "VAE": 0.5}, 6.0),  # the GPT
    # CLIP and DALL-E
    ("clip-zero-shot", SEEN, 0.47),
    ("clip-zero-shot-equal", SEEN, -0.3),
    ("clip-bag-of-words", {"pairs alone": 0.6, "with false captions": 0.9}, 0.3),
    ("clip-reranking", {"best of 1": 0.3, "best of 4": 0.35, "best of 16": 0.5, "best of 64": 0.9}, 0.2),
    ("two-stages", {"codec and transformer": 0.4, "transformer over pixels": 0.1}, 0.3),
    # diffusion
    ("cosine-schedule", {"cosine": 4.0, "linear": 7.0}, 3.0),
    ("learned-variance-fewer-steps", {"learned": 4.0, "small": 5.0, "large": 8.0}, 1.0),  # the better: small
    ("learned-variance-fewer-steps", {"learned": 4.0, "small": 7.0, "large": 2.0}, -2.0),  # large
    ("ddim-fewer-steps", {"DDIM": 4.0, "DDPM, small": 5.0, "DDPM, large": 8.0}, 1.0),
    ("ddim-fewer-steps", {"DDIM": 4.0, "DDPM, small": 7.0, "DDPM, large": 2.0}, -2.0),
    ("time-embedding", {"told the time": 4.0, "not told": 9.0}, 5.0),
    # guidance
    ("guidance-accuracy", OVER_SCALES, 0.2),
    ("guidance-precision", OVER_SCALES, 0.2),  # the smaller rise: the classifier's
    ("guidance-precision", OVER_SCALES | {"classifier-free, 4": 0.15}, -0.05),  # the classifier-free model's
    ("guidance-recall", OVER_SCALES_2, 0.1),  # the smaller fall: the classifier-free model's
    ("guidance-recall", OVER_SCALES_2 | {"classifier, 4": 0.85}, 0.05),  # the classifier's
    (
        "guidance-steps",
        {"scale 1, 5 steps": 0.2, "scale 1, 20 steps": 0.9, "scale 2, 5 steps": 0.95, "scale 2, 20 steps": 0.99},
        0.05,
    ),
    ("adm-size", NETWORKS, 0.2),
    ("adm-heads", NETWORKS, 0.1),
    ("classifier-free-or-classifier", OVER_SCALES, -0.17),  # at scales 2 and 8
    # of three scales each, which scale 1 and no guidance at all are not of
    (
        "classifier-free-or-classifier",
        OVER_SCALES | {"classifier, 0": 1.0, "classifier, 1": 1.0, "classifier, 8": 0.1},
        0.3,
    ),
    ("classifier-free-or-classifier", OVER_SCALES | {"classifier-free, 0": 1.0, "classifier-free, 1": 1.0}, -0.17),
    ("clip-or-classifier-free", GLIDE, 0.4),
    ("directional-clip", {"directional": 0.9, "global": 0.7}, 0.2),
    # DALL-E 2
    ("prior-or-text-vector", PRIORS, 0.1),
    ("prior-or-text-alone", PRIORS, 0.4),
    ("diffusion-or-ar-prior", PRIORS, 0.2),
    ("variations-keep-what-is-meant", VARIED, 0.15),  # half of the 0.9
    ("guidance-and-diversity", ENTROPY, 0.5),  # 0.6 from GLIDE, 0.1 from DALL-E 2
    # diffusion in latents
    ("latent-cheaper", SIZES, 0.6),
    ("latent-compression", SIZES, 0.3),  # the better: f = 8
    ("latent-compression", SIZES | {"f = 2": 0.95}, -0.05),  # f = 2
    ("latent-fewer-calls", {"pixels, 15 calls": 0.7, "f = 4, 5 calls": 0.9}, 0.2),
    ("latent-kl-copies", {"kl": 0.8, "vq": 0.7}, 0.1),
    ("latent-kl-or-vq", {"kl": 0.8, "vq": 0.7}, -0.1),
    ("plms-few-steps", FAR, 0.1),
    ("dpm-solver-few-steps", FAR, 0.3),
    ("few-steps-prompts", {"ddim": 0.5, "plms": 0.6, "dpmpp-2m": 0.55, "dpmpp-2s": 0.99}, 0.1),  # the better: PLMS
    ("few-steps-prompts", {"ddim": 0.5, "plms": 0.1, "dpmpp-2m": 0.45, "dpmpp-2s": 0.99}, -0.05),  # DPM-Solver++ (2M)
]
MATTER = {  # the effects that would matter, as published in docs/claims.md; of the other claims any would
    "autoencoder-holes": 0.05, "vae-no-holes": 0.05, "gan-sharp": 0.05, "gan-fidelity": 0.02, "gan-not-diverse": 0.02,
    "vae-diverse-coverage": 0.02, "vae-diverse-pixels": 0.02, "vae-diverse-features": 0.02, "gan-drops-modes": 0.5,
    "restarts-prevent-collapse": 25.6, "prior-beats-uniform": 0.05, "prior-knows-what-goes-together": 0.05,
    "autoregressive-likelihood": 0.5, "convolution-for-pixels": 0.5, "autoregressive-slow": 2, "clip-zero-shot": 0.1,
    "clip-zero-shot-equal": -0.05, "clip-bag-of-words": 0.05, "clip-reranking": 0.05, "two-stages": 0.05,
    "cosine-schedule": 0.25, "learned-variance-fewer-steps": 0.1, "ddim-fewer-steps": 0.1, "time-embedding": 0.25,
    "guidance-accuracy": 0.05, "guidance-precision": 0.02, "guidance-recall": 0.02, "adm-size": 0.005,
    "clip-or-classifier-free": 0.02, "directional-clip": 0.05, "prior-or-text-vector": 0.02, "prior-or-text-alone": 0.02,
    "variations-keep-what-is-meant": 0.2, "guidance-and-diversity": 0.05, "latent-cheaper": 0.05,
    "latent-fewer-calls": -0.02, "latent-kl-or-vq": -0.05, "few-steps-prompts": 0.02,
}  # fmt: skip
BY_NAME = {claim.name: claim for claim in CLAIMS}


def test_every_claim_has_a_case():
    assert len(BY_NAME) == len(CLAIMS), "names are unique"
    assert {name for name, _, _ in CASES} == set(BY_NAME)


@pytest.mark.parametrize(("name", "groups", "expected"), CASES, ids=[name for name, _, _ in CASES])
def test_the_effect_is_what_the_sentence_says(name, groups, expected):
    assert BY_NAME[name].effect(groups) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_effect_that_would_matter_is_the_published_one(claim):
    """A bound that moves after the result is known would make the verdict."""
    assert claim.smallest == pytest.approx(MATTER.get(claim.name, 0.0))
