"""The claim on GLIDE's guidances, on a system that is not trained."""

from pathlib import Path

import numpy as np

from minigen.claims import text_guidance as claims
from minigen.claims.ledger import Setting
from minigen.data import load
from minigen.models import glide

SETTING = Setting(seed=0, quick=True, runs=Path("unused"))


def test_the_experiment_returns_what_its_effect_asks_for(monkeypatch):
    def build(model, setting, *, data, **changes):
        config = model.Config(**changes | {"base": 8, "T": 20, "sample_steps": 1, "heads": 1})
        return model.build(config, load(data), seed=0), None

    monkeypatch.setattr(claims, "trained", build)
    monkeypatch.setattr(claims, "TRIED", 2)
    monkeypatch.setattr(claims, "JUDGED", 2)
    (claim,) = claims.CLAIMS
    groups = claim.experiment(SETTING)
    assert all(0 <= v <= 1 for v in groups.values()) and np.isfinite(claim.effect(groups))


def test_the_system_is_one_of_glide():
    assert glide.Config(**claims.SYSTEM).noisy_clip
