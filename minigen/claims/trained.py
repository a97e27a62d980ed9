"""A trained system, from the folder of the ledger's runs, or trained now and stored there."""

import dataclasses
import json
import zlib
from types import ModuleType
from typing import Any

import numpy as np

from minigen.claims.ledger import Setting
from minigen.claims.record import code_checksum
from minigen.data import Dataset, load
from minigen.train import checkpoint
from minigen.train.loop import put_weights, weights_of
from minigen.train.run import CHECKPOINT, Run, train

QUICK = 10  # a quick ledger trains for this fraction of the steps


def trained(model: ModuleType, setting: Setting, *, data: str = "digits", **changes: Any) -> tuple[Any, Dataset]:
    """The system of a model file with its averaged weights, and its data set.

    ``changes`` are fields of its Config that differ from the defaults. Two claims that ask for the same system get the
    same run; a run that was stopped goes on.
    """
    config = dataclasses.replace(model.Config(), **changes)
    if setting.quick:
        config = dataclasses.replace(config, steps=max(1, config.steps // QUICK))
    dataset = load(data)
    name = model.__name__.rpartition(".")[2]
    what = json.dumps([checkpoint.config_to_json(config), data, code_checksum()], sort_keys=True)
    out = setting.runs / f"{name}-{zlib.crc32(what.encode()):08x}-{setting.seed}"
    resume = (out / CHECKPOINT).exists()
    run = Run(out=out, system=name, seed=setting.seed, samples_every=0)
    result = train(model.build(config, dataset, seed=setting.seed), dataset, run, resume=resume)

    system = model.build(config, dataset, seed=setting.seed)
    with checkpoint.opened(result.weights, kind="weights", system=name) as reader:
        put_weights(system, reader.arrays(weights_of(system)))
    for module in system.modules.values():
        module.eval()
    return system, dataset


def rng_of(setting: Setting, purpose: str) -> np.random.Generator:
    """The random stream of one purpose in one experiment."""
    return np.random.default_rng((setting.seed, zlib.crc32(purpose.encode())))
