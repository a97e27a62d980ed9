"""What models without a network are handed by a system's figures."""

import numpy as np


def check_baselines(module, system, data, levels, monkeypatch, as_pictures=lambda images: images):
    """``module.baselines`` is told the training, validation and test pictures, in this order; its figures are shown."""
    told = []
    monkeypatch.setattr(module, "baselines", lambda *a, rng: told.append(a) or {"uniform": 3.0})
    found = system.figures(data, rng=np.random.default_rng(0))
    assert found["uniform levels, nats"] == 3.0
    *splits, of_levels = told[0]
    assert of_levels == levels
    for got, split in zip(splits, (data.train, data.val, data.test), strict=True):
        np.testing.assert_array_equal(got, as_pictures(split.images))
