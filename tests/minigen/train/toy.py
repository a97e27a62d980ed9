"""A model that trains in a moment, with everything that a large one can have: stages, two objectives, buffers, steps.

``python -m tests.minigen.train.toy train toy --out ...`` runs the command line with this model in the curriculum.
``TOY_END="9 fsync 23"`` in the environment sends that process signal 9 at its 23rd fsync, ``"2 loss 7"`` signal 2 at
its 7th evaluation of the generator's loss.
"""

import os
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

import autograd as ag
from minigen.cli import curriculum
from minigen.models.system import Objective, Stage, System
from minigen.nn import BatchNorm, Linear, Module

TITLE = "Toy"
PAPER = "Nobody 2026"
EQUATION = "L = |x - f(x + e)|^2 <for tests>"
PICTURES = {"shades": "a row of greys", "never": "what these weights do not have"}
TOUR = {"steps": 12, "first_steps": 4}
PRESETS = {"short": {"steps": 3, "first_steps": 1}}
NAME = "tests.minigen.train.toy"


@dataclass(frozen=True)
class Config:
    """Settings of the toy."""

    steps: int = 30
    """Steps of the main stage."""
    first_steps: int = 10
    """Steps of the stage before it."""
    batch_size: int = 16
    """Pictures a step."""
    hidden: int = 8
    """Width; must be even."""
    lr: float = 1e-2
    """Learning rate."""
    ema: float = 0.9
    """Decay of the averaged weights."""
    poison: int = -1
    """The step of the main stage whose loss is NaN."""
    poison_gradient: int = -1
    """The step of the main stage whose gradient is infinite while its loss is a number."""
    pause: float = 0.0
    """Seconds to sleep in every step."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")


@dataclass(frozen=True)
class Sampling:
    """Settings of its samples."""

    dim: float = 1.0
    """What the samples are multiplied by; above 0."""


@dataclass(frozen=True)
class Editing:
    """Settings of its edits."""

    shade: float = 0.5
    """What is painted, from -1 to 1."""


def end_at(what: str) -> None:
    """Send this process the signal that ``TOY_END`` asks for, when its time has come."""
    number, where, when = os.environ.get("TOY_END", "0 never 0").split()
    if where == what:
        _count[what] = _count.get(what, 0) + 1
        if _count[what] == int(when):
            os.kill(os.getpid(), int(number))


_count: dict[str, int] = {}


class Net(Module):
    """Two layers around a batch norm."""

    def __init__(self, pixels: int, hidden: int, *, rng: Any):
        self.first = Linear(pixels, hidden, rng=rng)
        self.norm = BatchNorm(hidden)
        self.last = Linear(hidden, pixels, rng=rng)

    def forward(self, x: Any) -> Any:
        """(n, pixels) -> (n, pixels)."""
        return self.last(ag.tanh(self.norm(self.first(x))))


def build(config: Config, dataset: Any, *, seed: int) -> System:
    """A denoiser, and a critic that it has to please."""
    if config.hidden % 2:
        raise ValueError(f"hidden must be even, got {config.hidden}")
    rng = np.random.default_rng(seed)
    pixels = int(np.prod(dataset.shape))
    net, critic = Net(pixels, config.hidden, rng=rng), Linear(pixels, 1, rng=rng)

    def flat(batch: Any) -> Any:
        return dataset.scale(batch.images).reshape(len(batch), -1)

    def denoise(x: Any, rng: Any) -> Any:
        return net(x + rng.standard_normal(x.shape).astype(x.dtype))

    def square(batch: Any, rng: Any, step: int) -> Any:
        x = flat(batch)
        loss = ag.mean((denoise(x, rng) - x) ** 2)
        return loss, {"step": step, "twice": loss * 2.0}

    def generator(batch: Any, rng: Any, step: int) -> Any:
        end_at("loss")
        time.sleep(config.pause)
        x = flat(batch)
        y = denoise(x, rng)
        loss = ag.mean((y - x) ** 2) + 0.01 * ag.mean(ag.softplus(critic(y) * -1.0))
        if step == config.poison:
            loss = loss * float("nan")
        if step == config.poison_gradient:  # d sqrt(u) / du at u = 0
            loss = loss + ag.mean(ag.sqrt(net.last.b * 0.0))
        return loss, {}

    def discriminator(batch: Any, rng: Any, step: int) -> Any:
        x = flat(batch)
        y = ag.stop_gradient(denoise(x, rng))
        return ag.mean(ag.softplus(critic(y)) + ag.softplus(critic(x) * -1.0)), {"real": float(critic(x).data.mean())}

    def stages() -> list[Stage]:
        common: dict[str, Any] = {"batch_size": config.batch_size, "lr": config.lr, "ema": config.ema, "max_norm": 1.0}
        first = Stage("first", [Objective("square", net, square)], config.first_steps, schedule="cosine", **common)
        both = [Objective("generator", net, generator), Objective("critic", critic, discriminator)]
        return [first, Stage("both", both, config.steps, warmup=5, weight_decay=0.01, **common)]

    def sample(n: int, *, rng: Any, steps: int | None = None, callback: Any = None, dim: float = 1.0) -> Any:
        if not dim > 0:
            raise ValueError(f"dim must be above 0, got {dim}")
        if steps is not None and steps > 100:
            raise ValueError("at most 100 steps")
        x = rng.standard_normal((n, pixels)).astype(np.float32)
        for t in range(steps or 4, -1, -1):
            if callback is not None:
                callback(t, x.reshape(n, *dataset.shape))
            with ag.no_grad():
                x = 0.5 * x + 0.5 * net(ag.Tensor(x)).data
        return np.clip(dim * x.reshape(n, *dataset.shape), -1, 1)

    def shades(split: Any, *, rng: Any) -> Any:
        """The first three pictures of the split, darker from left to right."""
        return dataset.scale(split.images[:3])[:, None] * np.linspace(1, 0.5, 4, dtype=np.float32)[:, None, None, None]

    def figures(dataset: Any, *, rng: Any) -> dict[str, float]:
        return {"test pictures": len(dataset.test)}

    def notes(images: Any, *, dim: float = 1.0) -> list[str]:
        return [f"asked for {dim:g}\nmean {x.mean():.2f}" for x in images] if dim != 1 else []

    def edit(image: Any, keep: Any, *, n: int, rng: Any, shade: float) -> Any:
        if not -1 <= shade <= 1:
            raise ValueError(f"shade must be from -1 to 1, got {shade}")
        return np.stack([np.where(False if keep is None else keep, image, shade).astype(np.float32)] * n)

    def notes_of_edits(edits: Any, *, image: Any, shade: float) -> list[str]:
        return [f"asked for {shade:g}\nmean {x.mean():.2f}" for x in edits]

    return System(
        config,
        dataset.name,
        dataset.shape,
        {"net": net, "critic": critic},
        stages,
        sample,
        figures,
        {"shades": shades},
        notes,
        edit=edit,
        notes_of_edits=notes_of_edits,
    )


ENTRY = curriculum.Entry(99, "toy", TITLE, PAPER, NAME)

if __name__ == "__main__":
    from minigen.__main__ import main

    real = os.fsync

    def fsync(handle: int) -> None:
        """The real one, after a look at ``TOY_END``."""
        sys.modules[NAME].end_at("fsync")
        real(handle)

    os.fsync = fsync
    curriculum.CURRICULUM.append(ENTRY)
    curriculum.load(ENTRY)
    sys.exit(main())
