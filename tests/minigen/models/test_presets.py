"""The presets: settings that there are, and that build what they are for."""

import dataclasses
import functools
from typing import Any

import pytest

from minigen.cli import curriculum
from minigen.cli.train import default_data, presets_for_data, presets_of
from minigen.data import load

data_set = functools.cache(load)
PRESETS = [
    (entry, name)
    for entry in curriculum.systems().values()
    if entry.exists
    for name in presets_of(curriculum.load(entry))
]


@pytest.mark.parametrize(("entry", "name"), PRESETS, ids=[f"{entry.name}-{name}" for entry, name in PRESETS])
def test_a_preset_builds_on_its_data_and_says_nothing_twice(entry: Any, name: str):
    model = curriculum.load(entry)
    changes, default = presets_of(model)[name], model.Config()
    config = dataclasses.replace(default, **changes)
    assert not [key for key, value in changes.items() if getattr(default, key) == value], "as the default is"
    dataset = data_set(name if name in presets_for_data(model) else default_data(model))
    system = model.build(config, dataset, seed=0)
    assert all(stage.steps >= 1 for stage in system.stages())
    names = [name for stage in system.stages() for o in stage.objectives for name in o.module.named_parameters()]
    starts = {start for stage in system.stages() for start in stage.apart}  # of the layers that Muon leaves to AdamW
    assert not [start for start in starts if not any(name.startswith(start) for name in names)]
