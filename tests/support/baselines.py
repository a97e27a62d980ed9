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


def check_baselines_of_pictures_on_demand(module, system, data, monkeypatch):
    """The figures of a data set that holds no arrays are those of its first pictures."""
    told = []
    monkeypatch.setattr(module, "MEASURED", 2)
    monkeypatch.setattr(module, "baselines", lambda *a, rng: told.append(a) or {"uniform": 3.0})
    assert all(np.isfinite(value) for value in system.figures(data, rng=np.random.default_rng(0)).values())
    for got, split, n in zip(told[0], (data.train, data.val, data.test), (4096, 4096, 2)):
        np.testing.assert_array_equal(got, split.images[:n])
