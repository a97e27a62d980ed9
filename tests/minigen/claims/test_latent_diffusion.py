"""The claims on latent diffusion, on systems that are not trained."""

from pathlib import Path

import numpy as np
import pytest

from minigen.claims import latent_diffusion as claims
from minigen.claims.ledger import Setting
from minigen.data import load
from minigen.models import stable_diffusion as sd

SETTING = Setting(seed=0, quick=True, runs=Path("unused"))
SMALL = {"base": 8, "heads": 1, "T": 20, "sample_steps": 1, "multipliers": (1,), "attention": (0,)}


@pytest.fixture
def untrained(monkeypatch):
    """Systems as they are built, small ones; the configs that were asked for."""
    asked = []

    def trained(model, setting, *, data, **changes):
        dataset = load(data)
        if model is claims.clip:
            return model.build(model.Config(**changes), dataset, seed=setting.seed), dataset
        asked.append(model.Config(**changes))
        return model.build(model.Config(**{**changes, **SMALL}), dataset, seed=setting.seed), dataset

    monkeypatch.setattr(claims, "trained", trained)
    for name, value in (("PROMPTS", 2), ("FEW", 2), ("ALL", 4)):
        monkeypatch.setattr(claims, name, value)
    return asked


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.name)
def test_experiments_return_what_their_effects_ask_for(claim, untrained):
    groups = claim.experiment(SETTING)
    assert np.isfinite(list(groups.values())).all() and np.isfinite(claim.effect(groups))
    assert all(config.clip_steps == config.beside_steps == config.upscale_steps == 0 for config in untrained)


def test_the_systems_of_one_seed_share_their_clip(untrained):
    a, b = (claims.system_of(SETTING, **claims.SIZES[label])[0].modules["clip"] for label in ("pixels", "f = 8"))
    for name, array in a.arrays().items():
        np.testing.assert_array_equal(array, b.arrays()[name])


def test_the_sizes_are_those_they_are_called():
    for label, changes in claims.SIZES.items():
        config = sd.Config(**changes)
        assert label == ("pixels" if config.codec == "identity" else f"f = {config.factor}")
