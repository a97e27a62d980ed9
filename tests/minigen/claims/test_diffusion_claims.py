"""The claims about diffusion: which trainings and which walks they compare, and the sign of their effects."""

from pathlib import Path

import pytest

from minigen.claims import diffusion
from minigen.claims.ledger import Setting

SETTING = Setting(seed=0, quick=True, runs=Path("unused"))


@pytest.fixture
def asked(monkeypatch):
    """What each figure was taken of: (model, changes of its Config, settings of sampling)."""
    seen = []

    def trained(model, setting, **changes):
        return (model.__name__.rpartition(".")[2], {k: v for k, v in changes.items() if k not in diffusion.SMALL}), None

    def distance(system, dataset, setting, **how):
        seen.append((*system, how))
        return float(len(seen))

    monkeypatch.setattr(diffusion, "trained", trained)
    monkeypatch.setattr(diffusion, "distance", distance)
    return seen


def test_each_experiment_changes_one_thing(asked):
    groups = {claim.name: claim.experiment(SETTING) for claim in diffusion.CLAIMS}
    assert list(groups["cosine-schedule"]) == ["cosine", "linear"]
    assert asked == [
        ("ddpm", {"schedule": "cosine"}, {}),
        ("ddpm", {"schedule": "linear"}, {}),
        ("improved_ddpm", {}, {"steps": 10, "variance": "learned"}),
        ("improved_ddpm", {}, {"steps": 10, "variance": "small"}),
        ("improved_ddpm", {}, {"steps": 10, "variance": "large"}),
        ("ddpm", {}, {"steps": 10, "sampler": "ddim"}),
        ("ddpm", {}, {"steps": 10, "variance": "small"}),
        ("ddpm", {}, {"steps": 10, "variance": "large"}),
        ("ddpm", {"tell_time": True}, {}),
        ("ddpm", {"tell_time": False}, {}),
    ]


def test_an_effect_is_positive_where_the_sentence_holds(asked):
    """The first group of each is the one that the sentence prefers, and the smallest distance is the best."""
    for claim in diffusion.CLAIMS:
        groups = dict.fromkeys(claim.experiment(SETTING), 2.0)
        first = next(iter(groups))
        assert claim.effect(groups) == 0
        assert claim.effect({**groups, first: 1.0}) == 1
        assert claim.effect({**groups, first: 4.0}) == -2
        assert claim.smallest > 0
