"""No setting is without effect: whatever field of a system's ``Config`` is changed, something of the system changes.

What is looked at, of a small configuration, in this order and until a difference is found: the weights at the start;
the stages' records; then, after the weights have been shaken out of their quiet start, two samples, and three steps of
every stage (its first, its middle and its last) with what they log and leave in the modules.
"""

import dataclasses
import functools
import hashlib
import itertools
import typing
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest

from minigen.cli import curriculum
from minigen.cli.train import default_data
from minigen.data import load
from minigen.models import latent_codec
from minigen.train.loop import Trainer

data_set = functools.cache(load)

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


def test_every_system_has_a_small_configuration():
    assert set(SMALL) == {entry.name for entry in curriculum.systems().values() if entry.exists}


def digest(*values: Any) -> str:
    """Of arrays, their shapes and bytes; of anything else its words."""
    found = hashlib.sha256()
    for value in values:
        found.update(
            f"{value.shape}".encode() + value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        )
    return found.hexdigest()


def weights(system: Any) -> str:
    """The digest of all arrays of all modules, by name."""
    return digest(*(x for name, m in system.modules.items() for pair in m.arrays().items() for x in (name, *pair)))


def records(system: Any) -> str:
    """The digest of the stages, but for their losses."""
    return digest(
        *(
            [getattr(stage, field.name) for field in dataclasses.fields(stage) if field.name != "objectives"]
            + [(o.name, o.every, o.after is None) for o in stage.objectives]
            for stage in system.stages()
        )
    )


def at_rest(model: Any, data: Any, config: Any) -> Iterator[str]:
    """What a configuration builds."""
    system = model.build(config, data, seed=0)
    yield weights(system)
    yield records(system)


def at_work(model: Any, data: Any, config: Any) -> Iterator[str]:
    """What is computed with it, the cheap things first."""
    system, rng = model.build(config, data, seed=0), np.random.default_rng(1)
    for module in system.modules.values():
        for p in module.parameters():
            p.data[...] += 0.1 * rng.standard_normal(p.shape)
        module.eval()
    yield digest(np.asarray(system.sample(2, rng=np.random.default_rng(2))))
    for module in system.modules.values():
        module.train()
    trainer = Trainer(system, seed=0)
    for i, stage in enumerate(trainer.stages):
        if stage.steps:
            trainer.enter(i)
            for step in sorted({0, stage.steps // 2, stage.steps - 1}):
                trainer.step = step
                yield digest(trainer.advance(data.train)) + weights(system)
    trainer.close()


class Remembered:
    """An iterator that may be gone through again, and goes no further than it must."""

    def __init__(self, iterator: Iterator[str]):
        self.iterator, self.found = iterator, list[str]()

    def __iter__(self) -> Iterator[str]:
        for i in itertools.count():
            if i == len(self.found):
                self.found.extend(itertools.islice(self.iterator, 1))
            if i == len(self.found):
                return
            yield self.found[i]


def others(kind: Any, value: Any) -> list[Any]:
    """Values to set in the place of one, of the same type."""
    choices = [
        x
        for part in (kind, *typing.get_args(kind))
        if typing.get_origin(part) is Literal
        for x in typing.get_args(part)
    ]
    if choices:
        return [x for x in choices if x != value]
    if value is None:
        return [4] if int in typing.get_args(kind) else [0.25]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value, value + 1, value + 2, value // 2, value - 1] if value else [1, 2]
    if isinstance(value, float):
        return [value / 2 if value > 0.5 else (1 + value) / 2, 2 * value] if value else [0.25, 1.0]
    if value and isinstance(value[0], str):
        return [value[1:], value[:-1]]
    return [(*value[:-1], 2 * value[-1]), (*value[:-1], value[-1] // 2)] if value else [(0,)]


# What a setting works with, where that is not the default.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("clip", "T"): {"noise_aware": True},
    ("clip", "shift"): {"noise_aware": True},
    ("vq_vae", "restart"): {"codes": 64, "decay": 0.5},
    ("vq_vae", "restart_until"): {"codes": 64, "decay": 0.5, "restart": 0.9},
}


@functools.cache
def unchanged(name: str, way: Any, settings: tuple[tuple[str, Any], ...]) -> Remembered:
    """The effects of a system with these settings."""
    model = curriculum.load(curriculum.find(name))
    return Remembered(way(model, data_set(default_data(model)), dataclasses.replace(model.Config(), **dict(settings))))


SETTINGS = [
    (entry.name, field.name) for entry in curriculum.systems().values() if entry.exists
    for field in dataclasses.fields(curriculum.load(entry).Config)
]  # fmt: skip


@pytest.fixture(autouse=True)
def few_pictures_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_codec, "MEASURED", 64)


@pytest.mark.parametrize("system", SMALL)
def test_the_same_settings_change_nothing(system: str):
    model, settings = curriculum.load(curriculum.find(system)), SMALL[system]
    again = at_work(model, data_set(default_data(model)), dataclasses.replace(model.Config(), **settings))
    assert list(unchanged(system, at_work, tuple(settings.items()))) == list(again)


@pytest.mark.parametrize(("system", "name"), SETTINGS)
def test_a_setting_changes_something(system: str, name: str):
    model = curriculum.load(curriculum.find(system))
    data, kind = data_set(default_data(model)), typing.get_type_hints(model.Config)[name]
    beside = BESIDE.get((system, name), {})
    tried = []
    small = SMALL[system] | beside
    long = {key: value for key, value in small.items() if not key.endswith("steps")}  # warm-ups are shares of the steps
    for way, settings in ((at_rest, long), (at_work, small)):
        config = dataclasses.replace(model.Config(), **settings)
        before = unchanged(system, way, tuple(settings.items()))
        for value in others(kind, getattr(config, name)):
            try:
                after = way(model, data, dataclasses.replace(config, **{name: value}))
                if any(a != b for a, b in zip(before, after)):
                    return
                tried.append(value)
            except ValueError:  # does not go with the others
                continue
    raise AssertionError(f"{name} = {tried} do not differ from {getattr(model.Config(), name)!r}")
