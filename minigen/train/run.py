"""A run on disk: a folder with a checkpoint to resume from, weights to sample from, a log and pictures.

    out/checkpoint.safetensors   weights, averages, moments, position: everything that decides how the run goes on
    out/weights.safetensors      the averaged weights, for `minigen sample`
    out/log.jsonl                one line per step
    out/samples/000300.png       what the model drew after that many steps

The checkpoint is written at the start, every few seconds, at Ctrl-C and at the end; how often does not change the
result. Whatever stops the run, resuming it ends with the same weights as an uninterrupted run. A state with NaN or
infinity in it is never written. Only one run at a time works in a folder (`train/lock.py`).
"""

import math
import os
import re
import signal
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kernels.backend import array_module, to_numpy
from kernels.precision import precision
from minigen.errors import Interrupted, NonFinite, UserError, os_reason, said_in_one_sentence
from minigen.train import checkpoint, pictures
from minigen.train.lock import alone_in
from minigen.train.log import Log
from minigen.train.loop import System, Trainer
from minigen.train.progress import Progress, clock
from minigen.train.shards import STOPPING

CHECKPOINT, WEIGHTS, LOG, SAMPLES = "checkpoint.safetensors", "weights.safetensors", "log.jsonl", "samples"
COPIES = 4  # of a batch that a step holds at least: the data, the network's output, the error, its gradient
PREVIEW = 16  # samples in a picture during training; the one at the end has as many as requested


@dataclass(frozen=True)
class Run:
    """A run's settings. Only ``system``, its config, ``seed``, ``data_dir``, ``size`` and ``precision``, which is one of
    ``kernels.precision``, decide its result.
    """

    out: str | Path
    system: str
    seed: int = 0
    data_dir: str | None = None
    size: int | None = None
    precision: str = "float32"
    samples: int = 64
    samples_every: int | None = None  # None: a quarter of all steps; those of the last stage; 0: only at the end
    save_seconds: float = 15.0
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """``out`` as a path."""
        return Path(self.out)


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: the paths of its files, the steps, the seconds of training (earlier parts included), the size.

    ``cpu_seconds`` are those of all threads and processes; None if an earlier part of the run was saved without them.
    """

    out: Path
    steps: int
    seconds: float
    parameters: int
    picture: Path
    cpu_seconds: float | None = None

    @property
    def weights(self) -> Path:
        """The file to sample from."""
        return self.out / WEIGHTS


def train(system: System, dataset: Any, run: Run, *, resume: bool = False) -> Result:
    """Train a system to the end of its last stage, keeping the folder ``run.out`` in order all the way.

    With ``resume`` it goes on from the checkpoint there. At the end the system has the averaged weights, as the weights
    file has, and is in evaluation mode. Raises UserError if the folder cannot be used or another run is going on in it,
    Interrupted after Ctrl-C (the state is saved), NonFinite if a loss, a gradient or a weight is NaN or infinite (the
    last checkpoint is kept) or a sample is (the state is saved).
    """
    with said_in_one_sentence("settings"):
        trainer = Trainer(system, seed=run.seed)
    check_memory(trainer.stages, dataset.shape)
    keeper = Keeper(trainer, dataset, run)
    if not resume:
        keeper.make(run.folder)
    # NaN and infinity are found by checks of the loss, the gradient, the state and the samples, not by NumPy's warnings
    quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
    with precision(run.precision), alone_in(run.folder) as sure, quiet:
        if sure:  # or another run may be writing them
            checkpoint.remove_leftovers(run.folder, "*.safetensors")
            checkpoint.remove_leftovers(run.folder / SAMPLES)
        if resume:
            keeper.restore()
        else:
            keeper.begin()
        return _train(trainer, keeper)


def check_memory(stages: Sequence[Any], shape: tuple[int, ...]) -> None:
    """Raise UserError for batches that this machine surely cannot hold.

    Out of memory, an operating system kills processes without a message.
    """
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):  # Windows
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for stage in stages:
        needed = COPIES * 4 * stage.batch_size * math.prod(shape)
        if needed > memory:
            raise UserError(
                f"batch_size of the stage '{stage.name}' is too large, {stage.batch_size}: its steps need "
                f"{needed / 2**30:,.0f} GiB and more, this machine has {memory / 2**30:,.0f} GiB"
            )


def _train(trainer: Trainer, keeper: "Keeper") -> Result:
    """Train from the trainer's current step to the end."""
    run, dataset = keeper.run, keeper.dataset
    log = Log(run.folder / LOG, keep_until=trainer.done)
    try:
        with Stop() as stop, Progress(run.system, trainer.total, trainer.done) as progress:
            if trainer.done:
                progress.say(f"going on from step {trainer.done} of {trainer.total}")
            _steps(trainer, keeper, log, progress, stop, dataset)
            log.flush()
            keeper.save()
            obey(stop, trainer, keeper)
        seconds, cpu_seconds = keeper.seconds(), keeper.cpu_seconds()
        picture = keeper.draw()
    except (NonFinite, FloatingPointError) as error:
        elsewhere = " in another --out" if keeper.saved_step else ""
        so = "training stopped"
        if trainer.done == trainer.total:
            so = "no picture was made" if keeper.saved_step == trainer.total else "the end of the run was not saved"
        raise NonFinite(
            f"{error}, so {so}; the checkpoint of step {keeper.saved_step} in {run.folder} is kept: "
            f"start again{elsewhere} with a lower --lr"
        ) from error
    finally:
        trainer.close()
        log.close()
    trainer.finish()
    parameters = sum(module.flat.size for module in trainer.system.modules.values())
    return Result(run.folder, trainer.done, seconds, parameters, picture, cpu_seconds)


def _steps(trainer: Trainer, keeper: "Keeper", log: Log, progress: Progress, stop: "Stop", dataset: Any) -> None:
    every = keeper.run.samples_every
    every = max(1, trainer.total // 4) if every is None else every
    while trainer.done < trainer.total:
        figures = trainer.advance(dataset.train)
        log.write({"step": trainer.done, "seconds": keeper.seconds(), **figures})
        if len(trainer.stages) > 1:
            progress.enter(trainer.stage.name)
        progress.advance(next(v for k, v in figures.items() if k.endswith(".loss")), trainer.stage.batch_size)
        if stop.signal or keeper.due():
            log.flush()  # before the checkpoint, so that no line up to its step can be missing
            with progress.apart():
                keeper.save()
        obey(stop, trainer, keeper)
        last_stage = trainer.index == len(trainer.stages) - 1
        if every and last_stage and trainer.done % every == 0 and trainer.done < trainer.total:
            with progress.apart():
                try:
                    keeper.draw(PREVIEW)
                except (NonFinite, FloatingPointError):
                    log.flush()
                    keeper.save()
                    raise


def obey(stop: "Stop", trainer: Trainer, keeper: "Keeper") -> None:
    """Raise Interrupted if a signal came; for where everything is saved."""
    if stop.signal:
        raise Interrupted(
            f"stopped at step {trainer.done} of {trainer.total}, everything is saved: go on with "
            f"'minigen train {keeper.run.system} --out {keeper.run.folder} --resume'",
            stop.signal,
        )


class Keeper:
    """Keeps a run's folder: writes the checkpoint and the weights, reads them back, draws the samples."""

    def __init__(self, trainer: Trainer, dataset: Any, run: Run):
        self.trainer, self.dataset, self.run = trainer, dataset, run
        self.identity: dict[str, Any] = {
            "system": run.system,
            "config": checkpoint.config_to_json(trainer.system.config),
            "data": data_identity(dataset, run),
            "seed": run.seed,
            "precision": run.precision,
        }
        self.earlier, self.started, self.saved = 0.0, time.monotonic(), time.monotonic()
        self.earlier_cpu: float | None = 0.0
        self.started_cpu = trainer.cpu_seconds
        self.saved_step = 0

    def seconds(self) -> float:
        """Time spent on this run, earlier parts included."""
        return self.earlier + time.monotonic() - self.started

    def cpu_seconds(self) -> float | None:
        """CPU time of all threads and processes, earlier parts included; None if one of those did not record it."""
        return None if self.earlier_cpu is None else self.earlier_cpu + self.trainer.cpu_seconds - self.started_cpu

    def make(self, folder: Path) -> None:
        """Make the run's folder or one inside it, if it is not there."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            out = self.run.folder
            raise UserError(f"cannot write to the folder {out}: {os_reason(error, out)}") from error

    def begin(self) -> None:
        """Write the first checkpoint. A run that is already there and has done a step is not touched, unless by ``overwrite``."""
        path = self.run.folder
        if not self.run.overwrite and holds_run(path):
            raise UserError(f"{path} already holds a run: go on with it by --resume, or give another folder with --out")
        self.make(path / SAMPLES)
        for old in (path / SAMPLES).iterdir() if self.run.overwrite else ():
            if re.fullmatch(r"\d{6,}\.(png|txt)", old.name):  # what `draw` has written for the run before
                old.unlink()
        self.save()

    def due(self) -> bool:
        """Whether the next checkpoint is due."""
        return time.monotonic() - self.saved >= self.run.save_seconds

    def save(self) -> None:
        """Write the checkpoint, then the weights. Both are whole at every moment, the old ones or the new.

        Raises NonFinite, and writes nothing, if a number among the weights, averages and moments is NaN or infinite.
        """
        trainer, arrays = self.trainer, self.trainer.arrays()
        for name, array in arrays.items():
            if not array_module(array).isfinite(array).all():
                raise NonFinite(f"'{name}' holds NaN or infinity after step {trainer.done}")
        cpu = self.cpu_seconds()
        spent = {"seconds": round(self.seconds(), 3), "cpu_seconds": None if cpu is None else round(cpu, 3)}
        about = {"kind": "checkpoint", **self.identity, **trainer.position, **spent}
        try:
            checkpoint.save(self.run.folder / CHECKPOINT, arrays, about)
            self.saved_step = trainer.done
            with trainer.averaged():
                checkpoint.save(self.run.folder / WEIGHTS, trainer.weights(), self.about_weights())
        except UserError as error:
            if not (self.run.folder / CHECKPOINT).exists():
                raise
            raise UserError(f"{error}; put that right and go on from step {self.saved_step} with --resume") from error
        self.saved = time.monotonic()

    def about_weights(self) -> dict[str, Any]:
        """The metadata of a weights file: enough to rebuild the system without its data."""
        data = self.dataset
        about = {"name": data.name, "shape": data.shape, "levels": data.levels, "classes": data.classes}
        about["checksum"] = self.identity["data"]["checksum"]
        chosen = {name: self.identity[name] for name in ("system", "config", "seed")}
        return {"kind": "weights", **chosen, "dataset": about, "step": self.trainer.done}

    def restore(self) -> None:
        """Go to where the checkpoint says, or raise UserError if it is missing, broken, or of another run."""
        path = self.run.folder / CHECKPOINT
        if not path.exists():
            raise UserError(
                f"there is no checkpoint to go on from in {self.run.folder}: leave --resume out to start a run"
            )
        with checkpoint.opened(path, kind="checkpoint", system=self.run.system) as reader:
            about = {"precision": "float32"} | reader.about  # which older ones do not say
            then = checkpoint.config_from_json(path, type(self.trainer.system.config), about.get("config"))
            refuse_difference(path, about | {"config": checkpoint.config_to_json(then)}, self.identity)
            self.trainer.load(position_of(path, about, self.trainer), reader.arrays)
        self.earlier = seconds_told(about.get("seconds")) or 0.0
        self.earlier_cpu = seconds_told(about.get("cpu_seconds"))
        self.saved_step = self.trainer.done
        self.make(self.run.folder / SAMPLES)

    def draw(self, most: int | None = None) -> Path:
        """A grid of samples (at most ``most``) from the averaged weights, always from the same draws.

        Writes nothing, and raises NonFinite, if one of them is NaN or infinite, UserError for anything but samples.
        """
        rng = np.random.default_rng((self.run.seed, zlib.crc32(b"samples")))
        n = min(self.run.samples, most or self.run.samples)
        with self.trainer.averaged() as system:
            samples = system.sample(n, rng=rng)
        check_samples(samples, n, system.image_shape)
        check_finite(samples, f"after step {self.trainer.done}")
        path = self.run.folder / SAMPLES / f"{self.trainer.done:06}.png"
        notes = system.notes(samples) if pictures.is_text(self.dataset) else []
        return pictures.save_samples(path, self.dataset, samples, notes)


def check_samples(samples: Any, n: int, shape: tuple[int, ...]) -> None:
    """Raise UserError unless a system drew ``n`` items like those of ``shape``; pictures may have another size."""
    must = f"sample must return an array of {n} items like those of shape {tuple(shape)}"
    if not hasattr(samples, "__array_function__"):
        raise UserError(f"{must}, got {type(samples).__name__}")
    found, picture = samples.shape, len(shape) == 3
    if len(found) != len(shape) + 1 or found[0] != n or (picture and found[3] != shape[2]):
        raise UserError(f"{must}, got shape {found}")
    if picture and samples.dtype.kind != "f":
        raise UserError(f"{must}, floats in [-1, 1], got {samples.dtype}")


def check_finite(samples: Any, where: str) -> None:
    """Raise NonFinite if samples are NaN or infinite: in a picture they would be black."""
    broken = int((~np.isfinite(to_numpy(samples))).any(axis=tuple(range(1, samples.ndim))).sum())
    if broken:
        raise NonFinite(f"{where} {broken} of {len(samples)} samples hold NaN or infinity")


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run that has done a step."""
    return begun(folder / CHECKPOINT, "checkpoint") or begun(folder / WEIGHTS, "weights")


def begun(file: Path, kind: str) -> bool:
    """Whether a file may hold what was trained: it exists and is not known to be of step 0 of the first stage."""
    try:
        with checkpoint.opened(file, kind=kind) as reader:
            return (reader.about.get("stage", 0), reader.about.get("step")) != (0, 0)
    except UserError:
        return file.exists()


def data_identity(dataset: Any, run: Run) -> dict[str, Any]:
    """What must be equal for a resumed run to see the same batches."""
    checksum = data_checksum(dataset.train)
    return {"name": dataset.name, "data_dir": run.data_dir, "size": run.size, "checksum": checksum}


def data_checksum(split: Any) -> int:
    """A checksum of a split's images, labels and captions, in their order.

    Images that are drawn on demand have an ``identity``, which stands for all of them.
    """
    if hasattr(split.images, "identity"):
        return zlib.crc32(repr(split.images.identity).encode())
    checksum = zlib.crc32(repr(split.captions).encode())
    for array in (split.images, split.labels):
        checksum = checksum if array is None else zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum


def refuse_difference(path: Path, about: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise UserError that names the first field in which a checkpoint differs from what is to be trained now."""
    for group in ("config", "data", "seed", "precision"):
        then, now = about.get(group), identity[group]
        if then == now:
            continue
        if not isinstance(then, dict):
            then, now = {group: then}, {group: now}
        for field in [*now, *(name for name in then if name not in now)]:
            if then.get(field) == now.get(field):
                continue
            if group == "data" and field == "checksum":
                raise UserError(f"the training images are not those that the run in {path.parent} was started with")
            flag = "--data" if (group, field) == ("data", "name") else f"--{field.replace('_', '-')}"
            length = "a run cannot be made longer or shorter, so " if (group, field) == ("config", "steps") else ""
            raise UserError(
                f"the run in {path.parent} was started with {flag} {then.get(field)}, not {now.get(field)}: {length}go on "
                "with the same value, or start another run in another --out"
            )


def seconds_told(value: Any) -> float | None:
    """A time in seconds from a checkpoint, or None if the value is not one."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None


def position_of(path: Path, about: dict[str, Any], trainer: Trainer) -> dict[str, int]:
    """The stage and step that a checkpoint claims, or UserError if the system has no such stage or step."""
    stage, step = about.get("stage"), about.get("step")
    stages = trainer.stages
    if type(stage) is int and type(step) is int and 0 <= stage < len(stages) and 0 <= step <= stages[stage].steps:
        return {"stage": stage, "step": step}
    raise UserError(f"{path} stands at stage {stage!r}, step {step!r}, which this system does not have")


class Stop:
    """While it lasts, Ctrl-C, a request to end and a closed terminal are noted instead of obeyed.

    ``signal`` is the number of the one that came, or 0. A second one interrupts at once, as usual. Python delivers
    signals to the main thread only; in another thread this does nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:  # nohup and shells that run us in the background ask for that
                    self.before[number] = before
                    signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def summary(result: Result) -> str:
    """Two lines for the end of a training command."""
    return (
        f"trained {result.steps} steps in {clock(result.seconds)} ({result.parameters:,} parameters)\n"
        f"weights: {result.weights}   samples: {result.picture}"
    )
