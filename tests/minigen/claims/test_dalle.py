"""The two DALL-E claims: that the transformer over pixels is a fair opponent, and that groups are what they say."""

import numpy as np

from minigen.claims import dalle as claims
from minigen.data import load
from minigen.data.oracle import prompt_accuracy
from minigen.metrics.prompts import prompts_of
from minigen.train.loop import Trainer


def test_the_palette_loses_nothing_that_the_oracle_asks_for():
    data = load("shapes")
    x = data.scale(data.test.images[:128])
    colours = claims.palette()
    assert colours.shape == (16, 3)
    y = colours[claims.nearest_code(x.reshape(-1, 3), colours)].reshape(x.shape)
    assert prompt_accuracy(list(data.test.scenes[:128]), y)["all"] == 1


def test_the_transformer_over_pixels_trains_and_paints():
    data = load("shapes")
    system = claims.build(claims.Config(steps=2, batch_size=2, width=16, layers=1), data, seed=0)
    trainer = Trainer(system, seed=0)
    assert trainer.total == 2
    figures = [trainer.advance(data.train) for _ in range(2)]
    assert abs(figures[0]["nats.codes"] - np.log(16)) < 1e-5, "16 colours, and it knows nothing"
    assert system.sample(1, rng=np.random.default_rng(0)).shape == (1, 32, 32, 3)


def test_every_claim_asks_for_effects_that_its_experiment_returns():
    """On the names of the groups alone: the experiments themselves take minutes."""
    rerank, stages = claims.CLAIMS
    assert rerank.effect({f"best of {n}": 0.1 * i for i, n in enumerate(claims.CANDIDATES)}) == 0.2
    assert stages.effect({"codec and transformer": 0.5, "transformer over pixels": 0.25}) == 0.25
    assert len(prompts_of("val", 1, claims.PROMPTS)) == claims.PROMPTS
