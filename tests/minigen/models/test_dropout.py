"""Every model that has dropout: its masks are drawn while it is trained, and none when it is used."""

from dataclasses import replace

import numpy as np
import pytest

from minigen.data import load
from minigen.models import adm, classifier_free, ddpm, gpt, improved_ddpm, masked_ae, pixelcnn, vae, vq_vae
from minigen.nn import Dropout
from minigen.train.loop import Trainer

DIFFUSION = {"T": 4, "sample_steps": 2, "base": 8}  # 2 + 2 + 4 blocks: on the way down, in the middle and on the way up
SMALL = {"steps": 1, "batch_size": 4}
CLASSIFIER = {"classifier_base": 8, "classifier_steps": 1, "classifier_dropout": 0.5}
PRIOR = {"prior_steps": 1, "prior_batch_size": 4, "prior_channels": 8, "prior_layers": 2, "channels": (8,)}
# (model, settings, whose masks a training step draws, and how many)
MODELS = [
    (ddpm, {**DIFFUSION, "dropout": 0.5}, 8),
    (improved_ddpm, {**DIFFUSION, "dropout": 0.5}, 8),
    (classifier_free, {**DIFFUSION, "dropout": 0.5}, 8),
    (adm, {**DIFFUSION, **CLASSIFIER, "dropout": 0.5}, 10 + 5),  # resolutions change in blocks; and the classifier's
    (vae, {"channels": (4, 8), "hidden": 16, "dropout": 0.5}, 2 + 2),  # in the encoder and in the decoder
    (pixelcnn, {"channels": 4, "layers": 3, "dropout": 0.5}, 2 * 3),  # of either stack
    (gpt, {"width": 8, "layers": 2, "dropout": 0.5}, 1 + 2 * 2),  # of the input, and of both branches of a block
    (masked_ae, {"width": 8, "layers": 2, "decoder_width": 8, "sample_steps": 2, "dropout": 0.5}, 2 * 2 + 2 * 1),
    (masked_ae, {"network": "mlp", "width": 8, "layers": 2, "sample_steps": 2, "dropout": 0.5}, 2),
    (vq_vae, {**PRIOR, "prior_dropout": 0.5}, 2 * 2),
]


@pytest.mark.parametrize(("module", "settings", "masks"), MODELS)
def test_masks_are_drawn_in_training_and_only_there(module, settings, masks, monkeypatch):
    data, drawn, real = load("digits"), [], Dropout.forward
    few = replace(data, train=data.train.take(slice(0, 40)))
    system = module.build(module.Config(**SMALL, **settings), few, seed=0)

    def watched(self, x, rng=None):
        drawn.append(0.0 if rng is None else self.p)
        return real(self, x, rng)

    monkeypatch.setattr(Dropout, "forward", watched)
    trainer = Trainer(system, seed=0)
    for _ in range(trainer.total):
        trainer.advance(few.train)
    assert [p for p in drawn if p] == [0.5] * masks
    drawn.clear()
    system.sample(1, rng=np.random.default_rng(0))
    assert not any(drawn)
