r"""The one training loop: every system, stage and objective, and a run that can be stopped and resumed anywhere.

    for stage in stages:
        for step in range(stage.steps):
            batch = data.batch(train split, seed, step)
            for objective in stage.objectives (those whose turn it is):
                loss = objective.loss(batch, rng(seed, stage, objective, step), step)
                gradient of the loss (of several shards of the batch: `train/shards.py`)
                -> clip -> optimiser moves objective.module
            average <- moving average of the weights

Batches are functions of (seed, step), draws of (seed, stage, objective, step), so no random state is saved: weights,
averages, moments and the step number are all there is to a run, and a resumed run ends with the same bits.
"""

import gc
import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from autograd import Tensor
from kernels.backend import array_module, is_cuda
from minigen.data import Split, batch
from minigen.errors import NonFinite, UserError
from minigen.train import optim
from minigen.train.shards import Shards

# Systems, stages and objectives are records of minigen.models.system, a layer above this one: any object with the same
# attributes will do.
System = Any
Stage = Any
Objective = Any
Module = Any


def rng_for(seed: int, stage: str, objective: str, step: int) -> np.random.Generator:
    """The random stream of one loss evaluation; equal arguments give equal draws."""
    return np.random.default_rng((seed, zlib.crc32(f"{stage}/{objective}".encode()), step))


def drawn_once(split: Split, seed: int, size: int, shards: int) -> Callable[[int, int], Split]:
    """``draw(step, shard)``: a shard of a step's batch, drawn once for all objectives of the step."""

    @lru_cache(maxsize=shards)
    def draw(step: int, shard: int) -> Split:
        start, stop = (size * s // shards for s in (shard, shard + 1))
        return batch(split, seed=seed, step=step, size=size, part=slice(start, stop))

    return draw


class Trainer:
    """Where a run stands: the weights (in the system's modules), their averages, the optimisers' moments, the step."""

    def __init__(self, system: System, *, seed: int):
        self.system, self.seed = system, seed
        self.stages: list[Stage] = _stages_of(system)
        _check(self.stages, system.modules)
        self.total: int = sum(stage.steps for stage in self.stages)
        for module in system.modules.values():
            if module.flat is None:
                module.flatten()
        self.shards: Shards | None = None
        self.split: Split | None = None
        self.cpu_seconds_beside = 0.0  # of shard processes that have ended
        self.parameters = {id(module): module.parameters() for module in system.modules.values()}
        self.enter(0)

    def enter(self, index: int) -> None:
        """Stand at the beginning of a stage: moments at 0, averages at the weights, what it trains, and only that, in training mode."""
        self.close()
        self.index, self.step = index, 0
        self.stage = self.stages[index]
        on_gpu = any(is_cuda(objective.module.flat) for objective in self.stage.objectives)
        # On a GPU each shard would only repeat all launches.
        self.n_shards = 1 if on_gpu else min(self.stage.shards, self.stage.batch_size)
        trained = {id(objective.module) for objective in self.stage.objectives}
        self.trained = {name: m for name, m in self.system.modules.items() if id(m) in trained}
        for module in self.system.modules.values():
            module.train(id(module) in trained)
        self.optimisers = {o.name: optim.make_optimiser(self.stage, o.module) for o in self.stage.objectives}
        self.averages = {name: m.flat.copy() for name, m in self.trained.items()} if self.stage.ema else {}

    def close(self) -> None:
        """End the processes that compute shards; the next step would begin new ones."""
        if self.shards is not None:
            self.shards.close()
            self.cpu_seconds_beside += self.shards.cpu_seconds
            self.shards = None

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this process, all of it, and of those that computed shards for it."""
        beside = self.shards.cpu_seconds if self.shards is not None else 0.0
        return time.process_time() + self.cpu_seconds_beside + beside

    @property
    def done(self) -> int:
        """Steps done in all stages together."""
        return sum(stage.steps for stage in self.stages[: self.index]) + self.step

    def advance(self, split: Split) -> dict[str, Any]:
        """Do one step, entering the next stage if this one is over; returns the figures of the step.

        Raises NonFinite, before the weights are touched by it, if a loss or a gradient is NaN or infinite.
        """
        if self.step == self.stage.steps:
            self._hand_over()
        stage, step = self.stage, self.step
        if self.shards is None or self.split is not split:
            self.close()
            if not all(getattr(m.flat.flags, "writeable", True) for m in self.trained.values()):
                gc.collect()  # the record of a step that was broken off locks the weights, and may lie in a cycle
            self.split, self.draw = split, drawn_once(split, self.seed, stage.batch_size, self.n_shards)
            self.shards = Shards(self.n_shards, list(self.trained.values()), self._gradient)
        lr = optim.learning_rate(
            step, steps=stage.steps, lr=stage.lr, warmup=stage.warmup, schedule=stage.schedule, flat=stage.flat
        )
        figures: dict[str, Any] = {"stage": stage.name, "lr": lr}
        for i, objective in enumerate(stage.objectives):
            if step % objective.every:
                continue
            try:
                found = self._update(i, self.shards, lr)
            except BaseException:
                self.close()
                raise
            figures |= {f"{objective.name}.{name}": value for name, value in found.items()}
        for name, average in self.averages.items():
            optim.ema_step(average, self.trained[name].flat, step=step, decay=stage.ema)
        self.step += 1
        return figures

    def _update(self, index: int, shards: Shards, lr: float) -> dict[str, Any]:
        objective = self.stage.objectives[index]
        module = objective.module
        module.zero_grad()
        figures = shards(self._gradient, index, self.step, module)
        norm = optim.clip_by_global_norm(module.flat_grad, self.stage.max_norm)
        if not math.isfinite(norm):
            raise NonFinite(f"the gradient of the loss '{objective.name}' became {norm} at step {self.done + 1}")
        with np.errstate(over="ignore", invalid="ignore"):  # whoever saves the weights checks them
            self.optimisers[objective.name].step(self.step // objective.every + 1, lr)
        if objective.after is not None:
            objective.after()
        return {"loss": figures.pop("loss"), "norm": norm, **figures}

    def _gradient(self, index: int, step: int, shard: int) -> dict[str, float]:
        """Add a shard's share of an objective's gradient to its module's; returns its share of the figures, "loss" among them."""
        stage, items = self.stage, self.draw(step, shard)
        objective, share = stage.objectives[index], len(items) / stage.batch_size
        stream = objective.name if self.n_shards == 1 else f"{objective.name}/{shard}"
        with self._only(objective.module):
            found = objective.loss(items, rng_for(self.seed, stage.name, stream, step), step)
            loss, figures = _checked_loss(objective.name, found)
            value = float(loss.data)
            if not math.isfinite(value):
                number = self.done - self.step + step + 1  # self.step stands still in a shard's own process
                raise NonFinite(f"the loss '{objective.name}' became {value} at step {number}")
            figures = {k: share * v for k, v in figures.items()}
            loss.backward(share)
        return {"loss": share * value, **figures}

    @contextmanager
    def _only(self, module: Module) -> Iterator[None]:
        """Within it no other module's parameters ask for gradients: a GAN's two losses run through both networks."""
        others = [p for key, found in self.parameters.items() if key != id(module) for p in found]
        for p in others:
            p.requires_grad = False
        try:
            yield
        finally:
            for p in others:
                p.requires_grad = True

    def _hand_over(self) -> None:
        self._keep_averages()
        self.enter(self.index + 1)

    def _keep_averages(self) -> None:
        for name, average in self.averages.items():
            self.trained[name].flat[...] = average

    def finish(self) -> None:
        """Put the averaged weights into the system and set it to evaluation, as the weights file has it: its last state."""
        self._keep_averages()
        for module in self.system.modules.values():
            module.eval()

    @contextmanager
    def averaged(self) -> Iterator[System]:
        """Within it the modules hold the averaged weights and are in evaluation mode, as sampling needs them."""
        # Views of their own: interrupted sampling may leave a tape behind, which locks the weights but not these.
        opened = {name: self.trained[name].flat[...] for name in self.averages}
        kept = {name: flat.copy() for name, flat in opened.items()}
        parts = [part for module in self.system.modules.values() for _, part in module.named_modules()]
        training = [part.training for part in parts]
        try:
            self.finish()
            yield self.system
        finally:
            for name, flat in kept.items():
                opened[name][...] = flat
            for part, flag in zip(parts, training):
                part.training = flag

    # --- what a checkpoint holds -----------------------------------------------------------------------------------

    def weights(self) -> dict[str, Any]:
        """Every module's arrays by name, ``module/parameter``, as they stand in the modules now."""
        return weights_of(self.system)

    def memory(self) -> dict[str, Any]:
        """The averages and moments of the current stage, by name; the arrays themselves, not copies."""
        found = {f"average/{name}": average for name, average in self.averages.items()}
        for name, optimiser in self.optimisers.items():
            found |= {f"moment/{name}/{key}": array for key, array in optimiser.state.items()}
        return found

    def arrays(self) -> dict[str, Any]:
        """Everything that makes up a run, except the numbers in `position`."""
        return {**self.weights(), **self.memory()}

    def load(self, position: dict[str, int], read: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Go to where ``position`` says, with the arrays that ``read(expected arrays)`` returns after checking them."""
        self.enter(position["stage"])
        arrays = read(self.arrays())
        memory = self.memory()
        put_weights(self.system, {name: a for name, a in arrays.items() if name not in memory})
        for name, array in memory.items():
            array[...] = array_module(array).asarray(arrays[name])
        self.step = position["step"]

    @property
    def position(self) -> dict[str, int]:
        """The stage and the steps done in it."""
        return {"stage": self.index, "step": self.step}


def weights_of(system: System) -> dict[str, Any]:
    """Every module's parameters and buffers by name, ``module/parameter``."""
    return {f"{name}/{key}": array for name, m in system.modules.items() for key, array in m.arrays().items()}


def put_weights(system: System, arrays: dict[str, Any]) -> None:
    """The inverse of `weights_of`."""
    for name, module in system.modules.items():
        start, xp = f"{name}/", array_module(*module.arrays().values())
        module.load_arrays(
            {key.removeprefix(start): xp.asarray(a) for key, a in arrays.items() if key.startswith(start)}
        )


def _checked_loss(name: str, found: Any) -> tuple[Any, dict[str, float]]:
    """What a loss returned: a scalar Tensor that depends on its module, and figures, as floats, which hold no tape.

    UserError, which names the objective, for anything else.
    """
    must = f"the loss '{name}' must return a scalar Tensor and a dict of figures"
    if not isinstance(found, tuple) or len(found) != 2:
        raise UserError(f"{must}, got {f'{len(found)} values' if isinstance(found, tuple) else type(found).__name__}")
    loss, figures = found
    if not isinstance(loss, Tensor) or not isinstance(figures, dict):
        raise UserError(f"{must}, got {type(loss).__name__} and {type(figures).__name__}")
    if loss.shape != ():
        raise UserError(f"{must}, got a Tensor of shape {loss.shape}")
    if loss.node is None and not loss.requires_grad:
        raise UserError(f"the loss '{name}' depends on no weight of the module that it trains")
    return loss, {figure: _number(name, figure, value) for figure, value in figures.items()}


def _number(name: str, figure: str, value: Any) -> float:
    """A figure of a loss as a float; UserError if it is not a number, or has a name that the loop itself uses."""
    if figure in ("loss", "norm"):
        raise UserError(f"a figure of the loss '{name}' is called '{figure}', which the loop itself uses: rename it")
    try:
        return float(value)
    except (TypeError, ValueError):
        what = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
        raise UserError(f"the figure '{figure}' of the loss '{name}' must be a number, got {what}") from None


def _stages_of(system: System) -> list[Stage]:
    """The stages of a system; ValueError unless a function returns them as a list and the modules are a dict."""
    if not isinstance(system.modules, dict):
        raise ValueError(f"modules must be a dict, name to module, got {type(system.modules).__name__}")
    found = system.stages() if callable(system.stages) else system.stages
    if not callable(system.stages) or not isinstance(found, list | tuple):
        raise ValueError(f"stages must be a function that returns a list of them, got {type(found).__name__}")
    return list(found)


def _check(stages: list[Stage], modules: dict[str, Module]) -> None:
    if not stages:
        raise ValueError("a system must have at least one stage")
    for stage in stages:
        for name in ("steps", "batch_size", "shards"):
            if getattr(stage, name) < 1:
                raise ValueError(f"{name} of the stage '{stage.name}' must be at least 1, got {getattr(stage, name)}")
        if stage.steps * stage.batch_size >= 2**60:  # items are counted by 64-bit integers, in bytes
            raise ValueError(f"batch_size of the stage '{stage.name}' is too large: {stage.batch_size}")
        for name in ("lr", "warmup", "max_norm", "weight_decay"):
            value = getattr(stage, name)
            if not 0 <= value < math.inf:
                rule = "finite" if value == math.inf else "at least 0"
                raise ValueError(f"{name} of the stage '{stage.name}' must be {rule}, got {value}")
        if not 0.0 <= stage.ema < 1.0:
            raise ValueError(f"ema of the stage '{stage.name}' must be in [0, 1), got {stage.ema}")
        optim.check_settings(stage)
        names = [objective.name for objective in stage.objectives]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"the stage '{stage.name}' needs objectives with names of their own, got {names}")
        if min(objective.every for objective in stage.objectives) != 1:
            raise ValueError(f"an objective of the stage '{stage.name}' must have every = 1, and none less")
        for objective in stage.objectives:
            if not any(objective.module is module for module in modules.values()):
                raise ValueError(f"the objective '{objective.name}' must train one of the modules {list(modules)}")
            if stage.shards > 1 and any(module.BUFFERS for _, module in objective.module.named_modules()):
                raise ValueError(
                    f"the stage '{stage.name}' must have one shard: its module has buffers, which shards do not share"
                )
    if any("/" in name for name in modules):
        raise ValueError(f"a module's name must not hold '/', got {list(modules)}")
    owners: dict[int, str] = {}
    for name, module in modules.items():
        for key, p in module.named_parameters().items():
            owner = owners.setdefault(id(p), name)
            if modules[owner] is not module:
                raise ValueError(
                    f"the modules '{owner}' and '{name}' share '{key}': a parameter must be of one module only"
                )
