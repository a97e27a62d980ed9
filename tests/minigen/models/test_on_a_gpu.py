"""Every system does with arrays of CuPy's what it does with NumPy's: every stage, samples, edits, pictures, figures.

There is no GPU: the arrays are a stand-in's (`support/cupy_on_cpu.py`), which mix with NumPy's as little as CuPy's do.
Operations are computed by their definitions, as float64 is on a GPU, or by our kernels on the emulator, which takes longer.
"""

import dataclasses
from typing import Any

import cupy_on_cpu
import numpy as np
import pytest
import systems
from numpy.testing import assert_allclose
from rungs import needs_compiler

from kernels.backend import is_cuda, to_numpy
from minigen.cli import arguments
from minigen.models import dalle2_edits, latent_codec
from minigen.train.loop import Trainer

FEW = 12  # test pictures
PICTURES = ("first picture", "second picture")  # which themselves are put there below
WAYS: dict[str, list[dict[str, Any]]] = {
    "ddpm": [{}, {"keep": True}],
    "improved_ddpm": [{}, {"keep": True}],
    "glide": [{"keep": True, "prompt": "a large blue ring at the top left"}],
    "diffusionclip": [{}],
    "dalle2": [
        {"variations": PICTURES[0]},
        {"interpolate": PICTURES},
        {"text_diff": (PICTURES[0], "a ring", "a square")},
        {"keep": True, "prompt": "a large blue ring at the top left"},
    ],
    "stable_diffusion": [{"keep": True}, {"img2img": PICTURES[0]}, {"upscale": PICTURES[0]}],
}


@pytest.fixture(autouse=True)
def few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_codec, "MEASURED", FEW)
    monkeypatch.setattr(dalle2_edits, "LEVELS", 3)


def rng() -> Any:
    return np.random.default_rng(0)


def results(name: str, device: str, data: Any) -> dict[str, Any]:
    """What a system gives out, by the way it was asked."""
    system = arguments.build(systems.model_of(name), systems.small(name), data, seed=0, device=device)
    whole = [dataclasses.replace(stage, shards=1) for stage in system.stages()]  # as a GPU takes them
    trainer, found = Trainer(dataclasses.replace(system, stages=lambda: whole), seed=0), dict[str, Any]()
    for i, stage in enumerate(trainer.stages):
        if stage.steps:
            trainer.enter(i)
            found |= {f"{stage.name}: {key}": v for key, v in trainer.advance(data.train).items() if key != "stage"}
    trainer.finish()
    trainer.close()
    assert all(is_cuda(a) == (device == "cuda") for a in trainer.arrays().values())
    found |= {f"{module}: gradient": to_numpy(net.flat_grad) for module, net in system.modules.items()}
    wake(system)
    found["samples"] = images = system.sample(3, rng=rng())
    found["notes"] = system.notes(images) if system.notes else []
    first, second = data.scale(data.test.images[:2])
    there = dict(zip(PICTURES, (first, second)))
    left = np.broadcast_to(np.arange(first.shape[1])[:, None] < 4, (*first.shape[:2], 1))
    for how in WAYS.get(name, []):
        flags = {key: put(value, there) for key, value in how.items()}
        keep = left if flags.pop("keep", None) else None
        image = first if keep is not None or not how else None  # else a flag names the picture
        found[f"edits by {', '.join(how)}"] = system.edit(image, keep, n=2, rng=rng(), **flags)
    if system.paint:
        found["painted"] = system.paint(["a red circle", "a large blue ring at the top left"], rng=rng())
    return found


def wake(system: Any) -> None:
    """Give the networks weights that are all at work: new ones, since a step of Adam is as large where a gradient is but noise."""
    for i, net in enumerate(system.modules.values()):
        draw = np.random.default_rng((i, 7))
        for p in net.parameters():
            x = 0.1 * draw.standard_normal(p.shape) + (p.ndim == 1)
            p.data[...] = cupy_on_cpu.asarray(x, p.dtype) if is_cuda(p.data) else x


def put(value: Any, there: dict[str, Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(put(part, there) for part in value)
    return there.get(value, value)


def figures(name: str, device: str, data: Any) -> Any:
    system = arguments.build(systems.model_of(name), systems.small(name), data, seed=0, device=device)
    wake(system)
    found = {f"picture {key}": picture(data.test, rng=rng()) for key, picture in system.pictures.items()}
    return found | (system.figures(data, rng=rng()) if system.figures else {})


def compare(name: str, data: Any, function: Any, *, kernels: bool = False) -> None:
    want = function(name, "cpu", data)
    with cupy_on_cpu.installed(kernels=kernels) as gpu:
        got = function(name, "cuda", data)
    assert not gpu.findings and bool(gpu.launched) == kernels
    assert got.keys() == want.keys()
    for key, value in want.items():
        if isinstance(value, list):
            assert got[key] == value
        else:
            a, b = to_numpy(got[key]), np.asarray(value)
            assert_allclose(a, b, rtol=1e-3, atol=1e-3 * max(np.abs(b).max(initial=0), 1e-3), err_msg=key)


@pytest.mark.parametrize("name", systems.SMALL)
def test_a_system_does_with_cupys_arrays_what_it_does_with_numpys(name: str):
    data = systems.data_of(name)
    compare(name, dataclasses.replace(data, test=data.test.take(slice(0, FEW))), results)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_batch_is_in_shards_on_a_cpu_only(device: str):
    with cupy_on_cpu.installed(kernels=False):
        system = arguments.build(
            systems.model_of("glide"), systems.small("glide"), systems.data_of("glide"), seed=0, device=device
        )
        trainer = Trainer(system, seed=0)
        trainer.enter(1)
    assert trainer.stage.shards == 2 and trainer.n_shards == (2 if device == "cpu" else 1)


# Systems that take seconds on the emulator; the others up to ten minutes.
SHORT = {"autoencoder", "denoising_ae", "masked_ae", "gan", "vae", "vq_vae", "pixelcnn", "gpt", "classifier_free"}


@needs_compiler
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in SHORT)) for n in systems.SMALL])
def test_a_system_does_it_by_our_kernels_too(name: str):
    data = systems.data_of(name)
    compare(name, dataclasses.replace(data, test=data.test.take(slice(0, FEW))), results, kernels=True)


# Whose figures and pictures take minutes by the definitions.
LONG = {"adm", "ddpm", "glide", "dalle", "dalle2", "stable_diffusion"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in systems.SMALL])
def test_its_figures_and_its_own_pictures_are_the_same(name: str):
    data = systems.data_of(name)
    few = 256 if name in LONG else FEW
    compare(name, dataclasses.replace(data, test=data.test.take(slice(0, few))), figures)
