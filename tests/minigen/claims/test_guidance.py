"""The claims on guidance, on systems that are not trained: experiments return what their effects ask for."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minigen.claims import guidance as claims
from minigen.claims.ledger import Setting
from minigen.data import load
from minigen.models import adm, classifier_free

SETTING = Setting(seed=0, quick=True, runs=Path("unused"))


@pytest.fixture
def untrained(monkeypatch):
    """In the place of training: small systems as they are built; and a ruler that is right about every third sample."""
    data = load("digits")

    def build(model, setting, **changes):
        small = {"base": 8, "T": 20, "sample_steps": 1}
        changes = changes | small | ({"heads": 1} if model is classifier_free else {"channels_per_head": 8})
        return model.build(model.Config(**changes), data, seed=0), data

    def probabilities(x):
        return np.eye(10)[(np.arange(len(x)) + (np.arange(len(x)) % 3 > 0)) % 10]

    ruler = SimpleNamespace(probabilities=probabilities, accepted=lambda x: np.arange(len(x)) % 2 == 0)
    monkeypatch.setattr(claims, "trained", build)
    monkeypatch.setattr(claims, "load_ruler", lambda dataset: ruler)
    monkeypatch.setattr(claims, "N", 30)
    monkeypatch.setattr(claims, "FEW", 1)
    monkeypatch.setattr(claims, "MANY", 2)
    return data


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda c: c.name)
def test_experiments_return_what_their_effects_ask_for(claim, untrained):
    groups = claim.experiment(SETTING)
    assert all(np.isfinite(v) for v in groups.values()) and np.isfinite(claim.effect(groups))
    assert set(claim.systems) <= {"adm", "classifier_free"}


def test_right_is_the_asked_class_and_the_twin_may_object(untrained):
    images = untrained.scale(untrained.test.images[:30])
    assert claims.right(untrained, images) == pytest.approx(1 / 3)
    assert claims.right(untrained, images, accepted=True) == pytest.approx(1 / 6)


def test_an_untrained_denoiser_has_error_1(untrained):
    found = claims.sizes(SETTING)
    assert len(found) == 3 and all(abs(v - 1) < 6 * (2 / 447 / 64) ** 0.5 for v in found.values())


def test_sizes_are_measured_with_the_noise_of_the_seed(untrained):
    one, other = (claims.sizes(Setting(seed, True, Path("unused"))) for seed in (0, 1))
    assert one.keys() == other.keys() and one != other


def test_both_systems_are_those_of_the_claims():
    assert adm.Config(**claims.ADM, classifier_steps=claims.CLASSIFIER_STEPS).classifier_steps > 0
    assert classifier_free.Config(**claims.FREE).steps == claims.FREE["steps"]
