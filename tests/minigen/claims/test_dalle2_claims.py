"""The claims about DALL-E 2: how their figures are taken, and a run of each on a system that has hardly been trained."""

import numpy as np
import pytest

from minigen.claims import dalle2 as claims
from minigen.claims.ledger import Setting
from minigen.data import load
from minigen.data.captions import parse
from minigen.models import dalle2_edits


def test_entropy_of_backgrounds():
    data = load("shapes")
    x = data.scale(data.test.images[:64])
    seen = np.array([scene.background for scene in data.test.scenes[:64]])
    p = np.array([(seen == name).mean() for name in ("black", "gray", "white")])
    assert claims.background_entropy(x) == pytest.approx(-(p * np.log(p)).sum())
    assert claims.background_entropy(x[seen == "black"]) == 0


def test_prompts_leave_the_background_open_and_nothing_else():
    prompts = claims.open_prompts(9)
    assert len(set(prompts)) == 9
    for scene in map(parse, prompts):
        (thing,) = scene.things
        assert scene.background is None and scene.place and thing.colour and thing.size


def test_loss_of_diversity():
    groups = {
        "GLIDE, guidance 1": 1.0,
        "GLIDE, guidance 4": 0.25,
        "DALL-E 2, guidance 1": 0.9,
        "DALL-E 2, guidance 4": 0.8,
    }
    (claim,) = (claim for claim in claims.CLAIMS if claim.name == "guidance-and-diversity")
    assert claims.loss_of(groups, "GLIDE") == 0.75
    assert claim.effect(groups) == pytest.approx(0.65)


def test_variations_speak_for_their_embedding_only_if_they_are_other_pictures():
    (claim,) = (claim for claim in claims.CLAIMS if claim.name == "variations-keep-what-is-meant")
    groups = {"reconstructions (eta 0)": 1.0, "variations": 0.9, "with another's embedding": 0.3}
    assert claim.effect(groups | {"variations that are another picture": 1.0}) == pytest.approx(0.6)
    assert claim.effect(groups | {"variations that are another picture": 0.0}) == pytest.approx(-0.3)


@pytest.mark.slow
def test_every_claim_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "CLIP_STEPS", 10)
    monkeypatch.setattr(claims, "PROMPTS", 8)
    monkeypatch.setattr(
        claims, "SMALL", claims.SMALL | {"steps": 10, "batch_size": 4, "prior_steps": 10, "ar_steps": 10, "base": 8}
    )
    monkeypatch.setattr(claims, "GLIDE", claims.GLIDE | {"steps": 10, "base": 16, "batch_size": 4})
    monkeypatch.setattr(dalle2_edits, "LEVELS", 3)
    setting = Setting(seed=0, quick=True, runs=tmp_path)
    for experiment in {claim.experiment for claim in claims.CLAIMS}:
        groups = experiment(setting)
        assert all(np.isfinite(value) for value in groups.values())
        for claim in claims.CLAIMS:
            if claim.experiment is experiment:
                assert np.isfinite(claim.effect(groups))
