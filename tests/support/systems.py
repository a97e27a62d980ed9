"""Every system, small: configurations that build, train and sample in moments."""

import dataclasses
import functools
from typing import Any

import numpy as np

from minigen.cli import curriculum
from minigen.cli.train import default_data
from minigen.data import load

DIFFUSION = {"T": 20, "base": 8, "steps": 2, "batch_size": 4, "sample_steps": 3}
SMALL: dict[str, dict[str, Any]] = {
    "autoencoder": {"hidden": (8,), "latent": 3, "steps": 4, "batch_size": 8},
    "denoising_ae": {"hidden": (8,), "steps": 4, "batch_size": 8, "sample_steps": 3},
    "masked_ae": {"width": 8, "layers": 1, "heads": 2, "decoder_width": 8, "steps": 4, "batch_size": 8, "sample_steps": 3},
    "gan": {"latent": 3, "width": 8, "steps": 4, "batch_size": 8},
    "vae": {"channels": (4, 8), "hidden": 8, "latent": 3, "steps": 20, "batch_size": 8},
    "vq_vae": {
        "codes": 8, "dimension": 3, "channels": (8, 8), "blocks": 1, "steps": 8, "batch_size": 8, "prior_channels": 8,
        "prior_layers": 1, "prior_steps": 4, "prior_batch_size": 4,
    },
    "pixelcnn": {"channels": 8, "layers": 2, "first": 3, "steps": 4, "batch_size": 8},
    "gpt": {"width": 8, "layers": 2, "heads": 2, "steps": 4, "batch_size": 8},
    "clip": {
        "width": 16, "channels": (8, 16), "text_width": 16, "layers": 1, "heads": 2, "steps": 4, "batch_size": 8, "T": 20,
    },
    "dalle": {"codes": 8, "codec_steps": 2, "clip_steps": 2, "steps": 3, "width": 16, "layers": 1, "heads": 2, "batch_size": 4},
    "ddpm": DIFFUSION,
    "improved_ddpm": DIFFUSION,
    "adm": DIFFUSION | {"classifier_base": 8, "classifier_steps": 4},
    "classifier_free": DIFFUSION,
    "glide": DIFFUSION | {"text_layers": 1, "clip_steps": 2, "paint_steps": 2, "upsample_steps": 2},
    "diffusionclip": DIFFUSION | {
        "clip_steps": 0, "t_0": 8, "levels": 2, "pictures": 6, "tune_steps": 2, "tune_batch": 3,
        "prior_time": 8,
    },
    "dalle2": DIFFUSION | {
        "prior_sample_steps": 3, "clip_steps": 0, "channels": 8, "layers": 1, "heads": 2, "prior_steps": 2, "dims": 4,
        "buckets": 5, "dots": 4, "ar_steps": 2, "paint_steps": 2, "upsample": 1, "upsample_steps": 2, "upsample_batch": 2,
    },
    "stable_diffusion": DIFFUSION | {
        "clip_steps": 0, "codec_steps": 2, "adversarial_steps": 2, "beside_steps": 2, "upscale_steps": 2,
    },
}  # fmt: skip

data_set = functools.cache(load)


def model_of(name: str) -> Any:
    """The model file of a system."""
    return curriculum.load(curriculum.find(name))


def data_of(name: str) -> Any:
    """The data set that a system is made for, loaded once."""
    return data_set(default_data(model_of(name)))


def shaken(net: Any, seed: int) -> Any:
    """The network with weights that are all at work."""
    rng = np.random.default_rng((seed, 7))
    for p in net.parameters():
        p.data[...] += 0.1 * rng.standard_normal(p.shape)
    return net


def awake(name: str, config: Any) -> Any:
    """The system, every network shaken out of its quiet start, in evaluation mode."""
    system = model_of(name).build(config, data_of(name), seed=0)
    for i, net in enumerate(system.modules.values()):
        shaken(net, i).eval()
    return system


def small(name: str, **settings: Any) -> Any:
    """The small configuration of a system, with other ``settings`` where they are given."""
    return dataclasses.replace(model_of(name).Config(), **(SMALL[name] | settings))
