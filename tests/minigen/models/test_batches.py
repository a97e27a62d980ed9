"""Batches of any size: none of no pictures, and by the counter-based stream a sample that its batch does not matter to."""

import numpy as np
import pytest
import systems

from kernels.random import Stream
from minigen.models import vae

# what is asked for, a class or a prompt, goes by the place in the batch
BY_PLACE = {"adm", "classifier_free", "clip", "dalle", "dalle2", "glide", "stable_diffusion"}
PAINTERS = ("dalle", "dalle2", "glide", "stable_diffusion")
CASES = [(name, {}) for name in systems.SMALL] + [(n, {"conditional": True}) for n in ("gan", "pixelcnn", "vq_vae")]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_a_sample_does_not_depend_on_its_batch(name, settings):
    system = systems.awake(name, systems.small(name, **settings))
    whole, some = (system.sample(n, rng=Stream(1)) for n in (4, 2))
    np.testing.assert_allclose(some, whole[:2], atol=1e-3)
    if name not in BY_PLACE:
        last, said = system.sample(1, rng=Stream(1, first=3)), "if what is asked for goes by the place: BY_PLACE"
        np.testing.assert_allclose(last, whole[3:], atol=1e-3, err_msg=said)


@pytest.mark.parametrize("name", PAINTERS)
def test_what_a_prompt_leaves_open_does_not_depend_on_the_batch_either(name):
    system = systems.awake(name, systems.small(name))
    prompts = ["a ring", "a red ring above a circle", "a large red ring at the top", "a cross"]
    whole = system.paint(prompts, rng=Stream(1))
    np.testing.assert_allclose(system.paint(prompts[:2], rng=Stream(1)), whole[:2], atol=1e-3)
    if name != "dalle2":  # which draws two embeddings for each prompt, a row each
        np.testing.assert_allclose(system.paint(prompts[3:], rng=Stream(1, first=3)), whole[3:], atol=1e-3)


def test_nor_does_it_depend_on_the_block_in_which_its_batch_is_decoded():
    system = systems.awake("vae", systems.small("vae"))
    whole = system.sample(vae.BLOCK + 2, rng=Stream(1))
    np.testing.assert_array_equal(system.sample(1, rng=Stream(1, first=vae.BLOCK + 1)), whole[-1:])


def test_nor_do_the_candidates_of_a_prompt():
    system = systems.awake("dalle", systems.small("dalle"))
    whole = system.paint(["a ring", "a cross", "a square"], rng=Stream(1), rerank=3)
    np.testing.assert_allclose(system.paint(["a square"], rng=Stream(1, first=2), rerank=3), whole[2:], atol=1e-3)


@pytest.mark.parametrize(("name", "settings"), [*CASES, ("masked_ae", {"network": "mlp"})])
def test_no_pictures_are_a_batch_of_none(name, settings):
    system = systems.awake(name, systems.small(name, **settings))
    assert system.sample(0, rng=np.random.default_rng(0)).shape == (0, *system.image_shape)


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_one_picture_has_no_way_to_another(name):
    system, data = systems.awake(name, systems.small(name)), systems.data_of(name)
    x = system.pictures["interpolation"](data.test.take(slice(0, 1)), rng=np.random.default_rng(0))
    assert x.shape == (0, 11, *data.shape)
