"""Shards of a batch: the same gradient as the whole batch's, the same bits in one process as in several, no process left behind."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autograd as ag
from kernels.compare import assert_close, bound
from kernels.precision import in_force, precision
from kernels.threads import get_threads, set_threads
from minigen.data import batch, load
from minigen.errors import NonFinite, UserError
from minigen.models.system import Objective, Stage, System
from minigen.nn import BatchNorm, Linear
from minigen.train import loop
from minigen.train.loop import Trainer
from minigen.train.shards import Helper

DIGITS = load("digits")
N = 7  # pictures a step: no number of shards divides it

linux = pytest.mark.skipif(sys.platform != "linux", reason="shards have processes of their own on Linux only")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = get_threads()
    yield
    set_threads(before)


def trainer(shards: int, *, noise: float = 1.0, spoil: Callable[[int], None] = lambda step: None) -> Trainer:
    """A denoiser and a critic of its errors, in two stages; ``spoil(step)`` runs in every evaluation of the denoiser's loss."""
    rng = np.random.default_rng(0)
    net, critic = Linear(64, 64, rng=rng), Linear(64, 1, rng=rng)

    def flat(batch: Any) -> Any:
        return DIGITS.scale(batch.images).reshape(len(batch), -1)

    def denoise(batch: Any, rng: Any, step: int) -> Any:
        spoil(step)
        x = flat(batch)
        y = net(x + noise * rng.standard_normal(x.shape).astype(x.dtype))
        return ag.mean((y - x) ** 2), {"bright": float(x.mean())}

    def judge(batch: Any, rng: Any, step: int) -> Any:
        x = flat(batch)
        return ag.mean((critic(net(x)) - 1.0) ** 2), {}

    def stages() -> list[Stage]:
        common: dict[str, Any] = {"batch_size": N, "lr": 1e-2, "ema": 0.9, "max_norm": 1.0, "shards": shards}
        both = [Objective("denoise", net, denoise), Objective("judge", critic, judge)]
        return [Stage("first", both[:1], 3, **common), Stage("both", both, 4, **common)]

    return Trainer(
        System(None, "digits", (8, 8, 1), {"net": net, "critic": critic}, stages, lambda n, **_: None), seed=0
    )


@linux
def test_a_helper_rounds_products_as_the_process_that_trains():
    """It says what is in force there by an error, which the other process raises."""

    def spoil(step: int) -> None:
        if os.getpid() != owner or in_force() != "bf16":
            raise NonFinite(f"in force: {in_force()}")

    owner = os.getpid()
    set_threads(2)
    run = trainer(2, spoil=spoil)
    with precision("bf16"), pytest.raises(NonFinite, match="in force: bf16"):
        run.advance(DIGITS.train)
    run.close()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_figures_that_not_all_shards_have_are_one_sentence(n_threads: int, first: bool):
    set_threads(n_threads)
    run = trainer(2)
    loss = run.stage.objectives[0].loss

    def sometimes(items: Any, rng: Any, step: int) -> Any:
        return loss(items, rng, step)[0], {"odd": 1.0} if (len(items) == N // 2) == first else {}

    stage = dataclasses.replace(run.stage, objectives=[dataclasses.replace(run.stage.objectives[0], loss=sometimes)])
    run = Trainer(dataclasses.replace(run.system, stages=lambda: [stage]), seed=0)
    with pytest.raises(UserError, match="the same figures for every shard of a batch, but not all have 'odd'"):
        run.advance(DIGITS.train)


def weights(run: Trainer) -> bytes:
    return b"".join(module.flat.tobytes() for module in run.system.modules.values())


def trained(shards: int, n_threads: int) -> tuple[bytes, list[dict[str, Any]]]:
    set_threads(n_threads)
    run = trainer(shards)
    figures = [run.advance(DIGITS.train) for _ in range(run.total)]
    assert run.shards is not None and len(run.shards.helpers) == (shards - 1 if n_threads >= shards else 0)
    run.close()
    return weights(run), figures


def helper_of(run: Trainer) -> Helper:
    assert run.shards is not None
    return run.shards.helpers[0]


@pytest.mark.parametrize("shards", [2, 3, N, 50])
def test_without_draws_the_gradient_is_that_of_the_whole_batch(shards: int):
    """The weighted mean of the shards' means is the mean. 50 shards of 7 pictures are 7."""
    set_threads(1)
    whole, parts = trainer(1, noise=0.0), trainer(shards, noise=0.0)
    one, two = whole.advance(DIGITS.train), parts.advance(DIGITS.train)
    net, other = whole.system.modules["net"], parts.system.modules["net"]
    assert np.abs(net.flat_grad).max() > 1e-3
    assert_close(other.flat_grad, net.flat_grad, bound(64 * N, np.abs(net.flat_grad).max(), np.float32))
    for name in ("denoise.loss", "denoise.norm", "denoise.bright"):
        assert two[name] == pytest.approx(one[name], rel=1e-5), name


@linux
@pytest.mark.parametrize("shards", [2, 3])
def test_the_bits_do_not_depend_on_the_number_of_processes(shards: int):
    """Two stages, the second with two objectives of which one sees the other's new weights."""
    assert trained(shards, 1) == trained(shards, shards) == trained(shards, 5)


def test_shards_draw_from_streams_of_their_own():
    set_threads(1)
    drawn = []
    run = trainer(2)
    net = run.system.modules["net"]
    net.forward = lambda x: drawn.append(x) or Linear.forward(net, x)
    run.advance(DIGITS.train)
    noises = [x - DIGITS.scale(batch) for x, batch in zip(drawn, halves())]
    assert [len(noise) for noise in noises] == [3, 4]
    assert not np.allclose(noises[0], noises[1][:3], atol=1e-3)


@pytest.mark.parametrize("shards", [1, 2])
def test_objectives_of_a_step_share_what_was_drawn_for_the_first(shards: int, monkeypatch: Any):
    set_threads(1)
    run, drawn = trainer(shards), []
    monkeypatch.setattr(loop, "batch", lambda split, **how: drawn.append(how) or batch(split, **how))
    for _ in range(run.total):
        run.advance(DIGITS.train)
    assert len(drawn) == shards * run.total


def halves() -> list[Any]:
    images = batch(DIGITS.train, seed=0, step=0, size=N).images.reshape(N, -1)
    return [images[:3], images[3:]]


@linux
def test_a_run_cut_after_any_step_ends_with_the_same_bits():
    set_threads(2)
    whole = trainer(2)
    cuts = []
    for _ in range(whole.total):
        whole.advance(DIGITS.train)
        cuts.append((dict(whole.position), {name: array.copy() for name, array in whole.arrays().items()}))
    for position, arrays in cuts:
        run = trainer(2)
        run.advance(DIGITS.train)  # its process must not outlive the loading
        run.load(position, lambda expected, arrays=arrays: {name: arrays[name] for name in expected})
        while run.done < run.total:
            run.advance(DIGITS.train)
        run.close()
        assert weights(run) == weights(whole), position
    whole.close()


@linux
@pytest.mark.parametrize("where", ["here", "there"])
def test_what_a_shard_raises_is_raised_and_the_next_step_is_not_confused(where: str):
    set_threads(2)
    main, switch = os.getpid(), [True]

    def spoil(step: int) -> None:
        if step == 1 and switch[0] and (os.getpid() == main) == (where == "here"):
            raise ValueError("spoilt")

    run, plain = trainer(2, spoil=spoil), trainer(2)
    run.advance(DIGITS.train)
    before = weights(run)
    with pytest.raises(ValueError, match="spoilt") as caught:
        run.advance(DIGITS.train)
    assert bool(getattr(caught.value, "__notes__", [])) == (where == "there")
    assert weights(run) == before and run.done == 1
    switch[0] = False
    plain.advance(DIGITS.train)
    for _ in range(2):
        assert run.advance(DIGITS.train) == plain.advance(DIGITS.train)
    assert weights(run) == weights(plain)
    run.close(), plain.close()


class TwoWords(Exception):
    """Cannot be made again from its message alone, as unpickling does."""

    def __init__(self, one: str, other: str):
        super().__init__(f"{one} {other}")


@linux
def test_what_cannot_go_through_a_pipe_is_told_in_words():
    set_threads(2)
    main = os.getpid()

    def spoil(step: int) -> None:
        if os.getpid() != main:
            raise TwoWords("too", "bad")

    run = trainer(2, spoil=spoil)
    with pytest.raises(RuntimeError, match=r"(?s)In the process of shard 1:.*TwoWords: too bad"):
        run.advance(DIGITS.train)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_record_that_is_left_in_a_cycle_does_not_lock_the_weights(shards):
    """As an interrupt may leave one: a traceback knows the frames, and they know it."""
    set_threads(2)
    run, plain = trainer(shards), trainer(shards)
    run.advance(DIGITS.train)
    plain.advance(DIGITS.train)
    run.close()
    gc.disable()
    try:
        (net, *_) = run.trained.values()
        cycle = [ag.sum(net(np.ones((1, 64), np.float32)))]
        cycle.append(cycle)
        del cycle
        assert not net.flat.flags.writeable
        assert run.advance(DIGITS.train) == plain.advance(DIGITS.train)
    finally:
        gc.enable()


@linux
def test_an_interrupt_while_the_other_process_is_at_work_does_not_confuse_the_next_step():
    set_threads(2)
    main, pause = os.getpid(), [True]

    def spoil(step: int) -> None:
        if step == 1 and pause[0] and os.getpid() != main:
            os.kill(main, signal.SIGINT)
            time.sleep(0.5)

    run, plain = trainer(2, spoil=spoil), trainer(2)
    run.advance(DIGITS.train)
    gc.disable()  # an exception that comes while one of the collector's callbacks runs (Hypothesis has one) is lost in it
    try:
        with pytest.raises(KeyboardInterrupt):
            run.advance(DIGITS.train)
    finally:
        gc.enable()
    pause[0] = False
    plain.advance(DIGITS.train)
    for _ in range(2):
        assert run.advance(DIGITS.train) == plain.advance(DIGITS.train)
    run.close(), plain.close()


@linux
def test_where_no_process_can_be_had_one_does_it_all(monkeypatch: Any):
    want, forks, real = trained(3, 3), [0], os.fork

    def fork() -> int:
        forks[0] += 1
        if forks[0] == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real()

    set_threads(3)
    monkeypatch.setattr(os, "fork", fork)
    run = trainer(3)
    figures = [run.advance(DIGITS.train) for _ in range(3)]
    assert forks[0] == 2 and run.shards is not None and run.shards.helpers == []
    assert figures == want[1][:3]


@linux
def test_a_trainer_that_is_dropped_takes_its_process_with_it():
    set_threads(2)
    run = trainer(2)
    run.advance(DIGITS.train)
    pid, alive = helper_of(run).pid, weakref.ref(run)
    gc.collect()
    gc.disable()
    try:
        del run
        assert alive() is None
    finally:
        gc.enable()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@linux
def test_a_loss_that_is_no_number_in_another_process_names_the_step():
    set_threads(2)
    main = os.getpid()

    def spoil(step: int) -> None:
        if step == 2 and os.getpid() != main:
            run.system.modules["net"].flat[:] = np.nan

    run = trainer(2, spoil=spoil)
    for _ in range(2):
        run.advance(DIGITS.train)
    with pytest.raises(NonFinite, match=r"^the loss 'denoise' became nan at step 3"):
        run.advance(DIGITS.train)
    run.close()


@linux
def test_a_process_that_is_gone_is_one_sentence():
    set_threads(2)
    run = trainer(2)
    run.advance(DIGITS.train)
    os.kill(helper_of(run).pid, signal.SIGKILL)
    before = weights(run)
    with pytest.raises(UserError, match=r"a process that computed a part of the gradient has ended.*MINIGEN_THREADS=1"):
        run.advance(DIGITS.train)
    assert weights(run) == before
    run.close()


@linux
def test_signals_that_ask_to_end_are_left_to_the_process_that_trains():
    set_threads(2)
    run, plain = trainer(2), trainer(2)
    run.advance(DIGITS.train)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        os.kill(helper_of(run).pid, getattr(signal, name))
    run.advance(DIGITS.train)
    for _ in range(2):
        plain.advance(DIGITS.train)
    assert weights(run) == weights(plain)
    run.close(), plain.close()


@linux
def test_no_process_stays_and_its_seconds_are_counted():
    set_threads(2)
    run = trainer(2)
    pids = set()
    for _ in range(run.total):
        run.advance(DIGITS.train)
        pids.add(helper_of(run).pid)
    assert len(pids) == 2  # one a stage
    assert run.cpu_seconds - time.process_time() > run.cpu_seconds_beside > 0
    before = run.cpu_seconds
    run.close()
    assert run.cpu_seconds >= before
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@linux
@pytest.mark.parametrize("how", ["killed", "killed in a step", "raises", "ends"])
def test_no_process_outlives_the_one_that_trains(how: str):
    end = {"killed": "time.sleep(60)", "raises": "raise SystemExit(3)", "ends": "pass"}
    end |= {"killed in a step": "run.advance(DIGITS.train)"}
    slow = "lambda step: time.sleep(step) if step else None"
    code = (
        f"from tests.minigen.train.test_shards import *; set_threads(2); run = trainer(2, spoil={slow}); "
        f"run.advance(DIGITS.train); print(helper_of(run).pid, flush=True); {end[how]}"
    )
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    child = subprocess.Popen([sys.executable, "-c", code], text=True, **both)
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    if "killed" in how:
        time.sleep(0.3)
        child.kill()
    assert child.wait(20) == {"raises": 3, "ends": 0}.get(how, -9)
    assert child.stdout.read() == ""  # no traceback, and the end of the file: nobody else holds it open
    child.stdout.close()
    assert gone(pid)


def gone(pid: int) -> bool:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":  # nobody has waited for it yet
            return True
        time.sleep(0.05)
    return False


def test_a_module_with_buffers_is_refused():
    net = BatchNorm(3)
    objective = Objective("a", net, lambda *_: None)
    system = System(
        None, "digits", (8, 8, 1), {"a": net}, lambda: [Stage("s", [objective], 1, 4, shards=2)], lambda n: None
    )
    with pytest.raises(ValueError, match="the stage 's' must have one shard: its module has buffers"):
        Trainer(system, seed=0)


def test_no_shards_are_refused():
    run = trainer(1)
    run.system = dataclasses.replace(
        run.system, stages=lambda: [dataclasses.replace(stage, shards=0) for stage in run.stages]
    )
    with pytest.raises(ValueError, match="shards of the stage 'first' must be at least 1, got 0"):
        Trainer(run.system, seed=0)
