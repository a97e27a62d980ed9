"""The claim on edits, on systems that are not trained: both copies learn from the same, and groups are what they say."""

from pathlib import Path

import numpy as np
import pytest

from minigen.claims import edits as claims
from minigen.claims.ledger import Setting
from minigen.data import load
from minigen.models import diffusionclip as dc
from minigen.models import diffusionclip_losses as losses
from minigen.train.loop import Trainer

TINY = dc.Config(
    edits=("blue",), T=20, base=16, clip_steps=1, steps=1, batch_size=2, t_0=8, levels=2, pictures=4, tune_steps=1,
    tune_batch=2, prior_time=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def both():
    data = load("shapes")
    return claims.build(TINY, data, seed=0), data


def test_the_global_loss_is_one_minus_the_cosine_of_picture_and_target():
    rng = np.random.default_rng(0)
    e_hat, e_0, e_ref, e_tar = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((4, 3, 5)))
    of = dc.Lesson(None, None, e_0, e_ref, e_tar, dc.Still(None, None, None, None), 1.0)
    np.testing.assert_allclose(
        losses.directional_loss(*claims.globally(e_hat, of)), 1 - (e_hat * e_tar).sum(1), atol=1e-12
    )


def test_both_copies_learn_alike_but_for_what_is_compared(both):
    system, data = both
    trainer = Trainer(system, seed=0)
    directional, by_global = trainer.stages[-2:]
    assert (directional.name, by_global.name) == ("edit_blue", claims.GLOBAL)
    for name in ("steps", "lr", "batch_size", "warmup", "betas", "optimiser", "apart", "max_norm", "schedule", "ema"):
        assert getattr(directional, name) == getattr(by_global, name)
    figures = [trainer.advance(data.train) for _ in range(trainer.total)]
    assert set(figures[-1]) == set(figures[-2])
    start, *ends = (system.modules[name].flat for name in ("diffusion", "edit_blue", claims.GLOBAL))
    for end in ends:
        assert 0 < abs(end - start).max() < 0.2, "a copy of the untuned network, a small step away"


def test_groups_are_edits_by_either_network(both, monkeypatch):
    system, data = both
    monkeypatch.setattr(claims, "trained", lambda *args, **changes: (system, data))
    monkeypatch.setattr(claims, "N", 4)
    used = []
    real = dc.edited
    monkeypatch.setattr(dc, "edited", lambda of, x, edit: used.append(of.modules["edit_blue"]) or real(of, x, edit))
    (claim,) = claims.CLAIMS
    groups = claim.experiment(Setting(seed=0, quick=True, runs=Path("unused")))
    assert used == [system.modules["edit_blue"], system.modules[claims.GLOBAL]]
    assert list(groups) == ["directional", "global"] and all(0 <= v <= 1 for v in groups.values())
    assert claim.effect({"directional": 0.5, "global": 0.125}) == 0.375
