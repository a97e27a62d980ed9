"""Autoregressive and latent models: which gives the best likelihood, and at what price?

PixelCNN and GPT give the nats of a test picture exactly; for the VAE, the importance-weighted bound with 4,096 draws is
an upper bound on them. All are trained on the same 1,000 digits, the two autoregressive ones for a part of their
default steps.
"""

import time
from typing import Any

from minigen.claims.ledger import Claim, Setting
from minigen.claims.trained import rng_of, trained
from minigen.models import gpt, pixelcnn, vae

STEPS = {"PixelCNN": 700, "GPT": 300}  # about half a minute on one core each
DRAWS = 4096  # of z for each test picture
DRAWN = 64  # pictures whose drawing is timed


def systems(setting: Setting) -> tuple[dict[str, Any], Any]:
    """The three trained systems by name, and their data set."""
    one, dataset = trained(pixelcnn, setting, steps=STEPS["PixelCNN"])
    two, _ = trained(gpt, setting, steps=STEPS["GPT"])
    three, _ = trained(vae, setting)
    return {"PixelCNN": one, "GPT": two, "VAE": three}, dataset


def nats(setting: Setting) -> dict[str, float]:
    """Nats per test picture, which is the first figure of each system."""
    found, dataset = systems(setting)
    draws = {"VAE": {"draws": DRAWS}}
    own = {
        name: system.figures(dataset, rng=rng_of(setting, name), **draws.get(name, {}))
        for name, system in found.items()
    }
    return {name: next(iter(figures.values())) for name, figures in own.items()} | {
        "mixture": own["GPT"]["mixture levels, nats"]
    }


def seconds(setting: Setting) -> dict[str, float]:
    """CPU milliseconds per picture when 64 are drawn at once; the faster of two draws counts."""
    found, _ = systems(setting)
    taken = {}
    for name, system in found.items():
        each = []
        for again in range(2):
            start = time.process_time()
            system.sample(DRAWN, rng=rng_of(setting, f"{name} {again}"))
            each.append(1e3 * (time.process_time() - start) / DRAWN)
        taken[name] = min(each)
    return taken


CLAIMS = [
    Claim(
        name="autoregressive-likelihood",
        systems=("pixelcnn", "gpt", "vae"),
        sentence="autoregressive models give a better likelihood than a latent-variable model",
        source="van den Oord et al. 2016, 1601.06759; Bond-Taylor et al. 2021, 2103.04922",
        unit="nats a test picture",
        in_words="the VAE's nats minus those of the worse of PixelCNN and GPT",
        experiment=nats,
        effect=lambda g: g["VAE"] - max(g["PixelCNN"], g["GPT"]),
        smallest=0.5,
    ),
    Claim(
        name="convolution-for-pixels",
        systems=("pixelcnn", "gpt"),
        sentence="on few pictures, convolutions model pixels better than attention",
        source="Dosovitskiy et al. 2020, 2010.11929 (of classifiers)",
        unit="nats a test picture",
        in_words="the GPT's nats minus the PixelCNN's, after about equal time of training",
        experiment=nats,
        effect=lambda g: g["GPT"] - g["PixelCNN"],
        smallest=0.5,
    ),
    Claim(
        name="autoregressive-slow",
        systems=("pixelcnn", "gpt", "vae"),
        sentence="autoregressive models sample slowly",
        source="Bond-Taylor et al. 2021, 2103.04922",
        unit="milliseconds of the processor for a picture",
        in_words="how many times the VAE's milliseconds the faster of PixelCNN and GPT takes",
        experiment=seconds,
        effect=lambda g: min(g["PixelCNN"], g["GPT"]) / g["VAE"],
        smallest=2.0,
    ),
]
