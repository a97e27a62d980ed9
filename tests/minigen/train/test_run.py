"""A run on disk: what it leaves, how it goes on, and everything that can stop it."""

import dataclasses
import errno
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autograd as ag
from kernels.precision import in_force
from minigen.data import load
from minigen.errors import Interrupted, NonFinite, UserError
from minigen.train import checkpoint
from minigen.train.log import read_log
from minigen.train.loop import Trainer
from minigen.train.run import CHECKPOINT, LOG, SAMPLES, WEIGHTS, Keeper, Run, Stop, summary, train
from tests.minigen.train import toy
from tests.support.runs import same_state

DIGITS = load("digits")
FILES = (CHECKPOINT, WEIGHTS)


def go(
    out: Path, *, resume: bool = False, dataset: Any = DIGITS, config: dict[str, Any] | None = None, **run: Any
) -> Any:
    """Train the toy in this process."""
    settings = toy.Config(**{"steps": 12, "first_steps": 4, **(config or {})})
    about = Run(**{"out": out, "system": "toy", "samples": 4, **run})
    return train(toy.build(settings, dataset, seed=about.seed), dataset, about, resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    go(out)
    return out


def without_seconds(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read_log(path)]


def equal_to(out: Path, whole: Path) -> bool:
    """Whether two folders hold the same weights to the byte, the same state, the same log, the same last picture."""
    last = "000016.png"
    return (
        same_state(out, whole)
        and (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
        and without_seconds(out / LOG) == without_seconds(whole / LOG)
        and (out / SAMPLES / last).read_bytes() == (whole / SAMPLES / last).read_bytes()
    )


def test_a_run_leaves_checkpoint_weights_log_and_pictures(whole: Path):
    assert sorted(p.name for p in whole.iterdir()) == sorted([CHECKPOINT, WEIGHTS, LOG, SAMPLES])
    assert sorted(p.name for p in (whole / SAMPLES).iterdir()) == ["000008.png", "000012.png", "000016.png"]
    records = read_log(whole / LOG)
    assert [r["step"] for r in records] == list(range(1, 17))
    assert {r["stage"] for r in records[:4]} == {"first"} and {r["stage"] for r in records[4:]} == {"both"}
    assert {"square.loss", "square.norm", "lr", "seconds"} <= set(records[0])
    assert {"generator.loss", "critic.loss", "critic.real"} <= set(records[-1])


def test_a_run_may_show_no_samples(tmp_path: Path, whole: Path):
    assert go(tmp_path / "run", samples=0).picture.exists()
    assert same_state(tmp_path / "run", whole)


def test_the_weights_file_says_what_it_is(whole: Path):
    with checkpoint.opened(whole / WEIGHTS, kind="weights", system="toy") as reader:
        about = reader.about
    data = {"name": "digits", "shape": [8, 8, 1], "levels": 17, "classes": [*"0123456789"]}
    with checkpoint.opened(whole / CHECKPOINT, kind="checkpoint") as reader:
        assert about["dataset"] == data | {"checksum": reader.about["data"]["checksum"]}
    assert about["config"]["steps"] == 12 and about["step"] == 16 and about["seed"] == 0


def test_the_result_and_its_two_lines(tmp_path: Path):
    result = go(tmp_path / "run")
    assert result.steps == 16 and result.parameters == 1177 and result.picture.exists() and result.weights.exists()
    assert re.match(r"trained 16 steps in \d+:\d\d \(1,177 parameters\)\n", summary(result))


def test_seconds_and_cpu_seconds_are_those_of_the_training_with_its_earlier_parts(tmp_path: Path, monkeypatch: Any):
    out, now = tmp_path / "run", {"wall": 100.0, "cpu": 7.0}
    real_advance, real_draw = Trainer.advance, Keeper.draw

    def advance(self: Trainer, split: Any) -> Any:
        if self.done == 10 and not stopped:
            stopped.append(True)
            raise Boom
        now["wall"], now["cpu"] = now["wall"] + 2.0, now["cpu"] + 3.0
        return real_advance(self, split)

    def draw(self: Keeper, most: int | None = None) -> Any:  # the last picture is no training
        now["wall"], now["cpu"] = now["wall"] + 1000.0, now["cpu"] + 1000.0
        return real_draw(self, most)

    stopped: list[bool] = []
    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr(Keeper, "draw", draw)
    monkeypatch.setattr("minigen.train.run.time.monotonic", lambda: now["wall"])
    monkeypatch.setattr("minigen.train.run.time.process_time", lambda: now["cpu"])
    with pytest.raises(Boom):
        go(out, save_seconds=0.0, samples_every=0)
    result = go(out, resume=True, save_seconds=0.0, samples_every=0)
    assert (result.steps, result.seconds, result.cpu_seconds) == (16, 32.0, 48.0)


def test_cpu_seconds_are_unknown_where_an_earlier_part_did_not_keep_them(tmp_path: Path, monkeypatch: Any):
    out, real = tmp_path / "run", Keeper.cpu_seconds
    monkeypatch.setattr(Keeper, "cpu_seconds", lambda self: None)
    go(out)
    monkeypatch.setattr(Keeper, "cpu_seconds", real)
    assert go(out, resume=True).cpu_seconds is None


def test_products_of_a_run_are_rounded_as_it_says_while_it_trains_and_draws(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen, real_advance, real_draw = set(), Trainer.advance, Keeper.draw
    monkeypatch.setattr(Trainer, "advance", lambda *given: (seen.add(in_force()), real_advance(*given))[1])
    monkeypatch.setattr(Keeper, "draw", lambda *given: (seen.add(f"draws {in_force()}"), real_draw(*given))[1])
    go(tmp_path / "run", precision="bf16")
    assert seen == {"bf16", "draws bf16"} and in_force() == "float32"
    assert not equal_to(tmp_path / "run", whole)
    with pytest.raises(ValueError, match="precision must be one of"):
        go(tmp_path / "other", precision="fp16")
    assert not (tmp_path / "other" / CHECKPOINT).exists()


def test_how_often_it_is_saved_does_not_matter(whole: Path, tmp_path: Path):
    go(tmp_path / "run", save_seconds=0.0)
    assert equal_to(tmp_path / "run", whole)


class Boom(BaseException):
    """Ends a run from inside."""


@pytest.mark.parametrize("at", [1, 4, 5, 11, 16])
def test_a_run_that_ended_anywhere_goes_on_to_the_same_end(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
):
    """It ends in the middle of step ``at``; the last checkpoint may be some steps older."""
    out = tmp_path / "run"
    real = Trainer.advance

    def advance(self: Trainer, split: Any) -> Any:
        if self.done == at - 1:
            raise Boom
        return real(self, split)

    monkeypatch.setattr(Trainer, "advance", advance)
    with pytest.raises(Boom):
        go(out, save_seconds=0.0 if at % 2 else 15.0)
    monkeypatch.undo()
    result = go(out, resume=True)
    assert result.steps == 16 and equal_to(out, whole)


def test_a_finished_run_resumed_is_finished(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    go(tmp_path / "run")
    (tmp_path / "run" / WEIGHTS).unlink()  # as if it had ended between its last two files
    go(tmp_path / "run", resume=True)
    assert equal_to(tmp_path / "run", whole)
    assert "going on from step 16 of 16" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    out = tmp_path / "run"
    real = Trainer.advance

    def advance(self: Trainer, split: Any) -> Any:
        if self.done == 6:
            os.kill(os.getpid(), number)
        return real(self, split)

    monkeypatch.setattr(Trainer, "advance", advance)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"stopped at step 7 of 16.*'minigen train toy --out .* --resume'") as caught:
        go(out)
    monkeypatch.undo()
    assert caught.value.status == 128 + number and signal.getsignal(number) is before
    assert len(read_log(out / LOG)) == 7
    go(out, resume=True)
    assert equal_to(out, whole)


def test_a_signal_after_the_last_step_is_not_lost(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While the end of the run is saved: a tour would go on to its next system."""
    real = Keeper.save

    def save(self: Keeper) -> None:
        real(self)
        if self.trainer.done == self.trainer.total:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Keeper, "save", save)
    with pytest.raises(Interrupted, match="stopped at step 16 of 16"):
        go(tmp_path / "run")
    monkeypatch.undo()
    go(tmp_path / "run", resume=True)
    assert equal_to(tmp_path / "run", whole)


def test_a_second_interrupt_does_not_wait():
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_is_ignored_stays_ignored():
    """As nohup does with the closing of the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("setting", ["poison", "poison_gradient"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path: Path, setting: str):
    out = tmp_path / "run"
    with pytest.raises(NonFinite, match=r"at step 8, so training stopped; the checkpoint of step 7 in .* is kept"):
        go(out, config={setting: 3}, save_seconds=0.0)
    with checkpoint.opened(out / CHECKPOINT, kind="checkpoint") as reader:
        assert (reader.about["stage"], reader.about["step"]) == (1, 3)
        assert reader.arrays({name: reader.handle.get_tensor(name) for name in reader.handle.keys()})  # noqa: SIM118
    assert len(read_log(out / LOG)) == 7


def test_samples_that_are_no_numbers_stop_the_run_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "run"

    def draw(self: Keeper, most: int | None = None) -> Any:
        raise FloatingPointError("the model returned NaN or Inf at level 20")

    monkeypatch.setattr(Keeper, "draw", draw)
    with pytest.raises(
        NonFinite,
        match=r"at level 20, so training stopped; the checkpoint of step 8 in .* is kept: start again in another",
    ):
        go(out)
    assert go_on(out) == 8


def go_on(out: Path) -> int:
    """The step of the checkpoint from which a run would go on, with a line of the log for each step before it."""
    with checkpoint.opened(out / CHECKPOINT, kind="checkpoint") as reader:
        done = int(reader.about["stage"]) * 4 + int(reader.about["step"])
    assert len(read_log(out / LOG)) == done
    return done


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(("every", "done", "so"), [(5, 5, "training stopped"), (0, 16, "no picture was made")])
def test_no_picture_is_made_of_samples_that_are_no_numbers_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, every: int, done: int, so: str
):
    out, build = tmp_path / "run", toy.build

    def sample(n: int, **settings: Any) -> Any:
        x = np.zeros((n, 8, 8, 1), np.float32)
        x[1, 2, 3] = float(value)
        return x

    monkeypatch.setattr(toy, "build", lambda *a, **k: dataclasses.replace(build(*a, **k), sample=sample))
    said = f"^after step {done} 1 of 4 samples hold NaN or infinity, so {so}; the checkpoint of step {done} in "
    with pytest.raises(NonFinite, match=said):
        go(out, samples_every=every)
    assert go_on(out) == done and not list((out / SAMPLES).iterdir())
    with checkpoint.opened(out / WEIGHTS, kind="weights") as reader:
        assert reader.about["step"] == done
    monkeypatch.setattr(toy, "build", build)
    assert go(out, resume=True).steps == 16


@pytest.mark.parametrize(("name", "value"), [("steps", np.int64(2)), ("lr", np.float32(0.5)), ("pause", np.zeros(1))])
def test_a_setting_that_no_file_can_keep_is_named_before_training(tmp_path: Path, name: str, value: Any):
    said = f"^{name} must be a Python number or string, or a tuple: Object of type {type(value).__name__} is not JSON"
    with pytest.raises(UserError, match=said):
        go(tmp_path / "run", config={name: value})
    assert not (tmp_path / "run").exists()


LIKE = "sample must return an array of 4 items like those of shape (8, 8, 1)"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lambda x: x[1:], "got shape (3, 8, 8, 1)"),
        (lambda x: x[..., 0], "got shape (4, 8, 8)"),
        (lambda x: x.reshape(4, -1), "got shape (4, 64)"),
        (lambda x: x.transpose(0, 3, 1, 2), "got shape (4, 1, 8, 8)"),
        (lambda x: x.repeat(3, 3), "got shape (4, 8, 8, 3)"),
        (list, "got list"),
        (ag.Tensor, "got Tensor"),
        (lambda x: None, "got NoneType"),
        (lambda x: x.astype(np.uint8), "floats in [-1, 1], got uint8"),
    ],
)
def test_what_are_no_samples_is_told_and_no_picture_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Any, said: str
):
    build = toy.build

    def sample(n: int, **settings: Any) -> Any:
        return found(np.zeros((n, 8, 8, 1), np.float32))

    monkeypatch.setattr(toy, "build", lambda *a, **k: dataclasses.replace(build(*a, **k), sample=sample))
    with pytest.raises(UserError) as told:
        go(tmp_path / "run", samples_every=5)
    assert str(told.value) == f"{LIKE}, {said}" and not list((tmp_path / "run" / SAMPLES).iterdir())


def test_a_folder_in_which_no_step_was_done_can_be_used_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"

    def advance(self: Trainer, split: Any) -> Any:
        raise Boom

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        with pytest.raises(Boom):
            go(out)
    assert all((out / name).exists() for name in FILES)
    assert go(out, seed=1, config={"batch_size": 8}).steps == 16
    with pytest.raises(UserError, match="already holds a run"):
        go(out, seed=1)
    broken = (out / CHECKPOINT).read_bytes()[:-1]
    (out / CHECKPOINT).write_bytes(broken)
    with pytest.raises(UserError, match="already holds a run"):
        go(out)
    assert (out / CHECKPOINT).read_bytes() == broken


def test_a_run_that_is_there_is_not_touched(tmp_path: Path):
    out = tmp_path / "run"
    go(out)
    before = {name: (out / name).read_bytes() for name in (*FILES, LOG)}
    for missing in FILES:
        with pytest.raises(UserError, match="already holds a run: go on with it by --resume, or give another folder"):
            go(out, seed=1)
        assert all((out / name).read_bytes() == data for name, data in before.items() if (out / name).exists())
        if missing == CHECKPOINT:
            (out / CHECKPOINT).unlink()
    for name in ("000099.png", "2026.png", "000099.mine.png"):
        (out / "samples" / name).write_bytes(b"of before")
    go(out, seed=1, overwrite=True)
    assert (out / "samples" / "2026.png").exists() and (out / "samples" / "000099.mine.png").exists()
    assert not (out / "samples" / "000099.png").exists() and any((out / "samples").iterdir())
    assert (out / WEIGHTS).read_bytes() != before[WEIGHTS] and len(read_log(out / LOG)) == 16


def test_pictures_in_a_folder_without_a_run_stay(tmp_path: Path):
    mine = tmp_path / "run" / "samples" / "000001.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    go(tmp_path / "run")
    assert mine.read_bytes() == b"mine"


def test_resume_without_a_checkpoint(tmp_path: Path):
    with pytest.raises(UserError, match="there is no checkpoint to go on from"):
        go(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"lr": 0.5}}, "was started with --lr 0.01, not 0.5"),
        ({"config": {"steps": 20}}, "was started with --steps 12, not 20"),
        ({"config": {"batch_size": 8}}, "was started with --batch-size 16, not 8"),
        ({"seed": 3}, "was started with --seed 0, not 3"),
        ({"precision": "bf16"}, "was started with --precision float32, not bf16"),
        ({"data_dir": "x"}, "was started with --data-dir None, not x"),
        ({"dataset": dataclasses.replace(DIGITS, name="mnist")}, "was started with --data digits, not mnist"),
        ({"dataset": dataclasses.replace(DIGITS, train=DIGITS.val)}, "the training images are not those"),
    ],
)
def test_resume_refuses_another_run_and_names_the_difference(whole: Path, change: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        go(whole, resume=True, **change)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"stage": 2}, "stands at stage 2, step 12"),
        ({"step": 13}, "stands at stage 1, step 13"),
        ({"step": -1}, "stands at stage 1, step -1"),
        ({"step": True}, "stands at stage 1, step True"),
        ({"stage": None}, "stands at stage None"),
        ({"stage": 0}, "stands at stage 0, step 12"),
    ],
)
def test_resume_refuses_an_impossible_position(whole: Path, tmp_path: Path, about: dict[str, Any], message: str):
    (tmp_path / SAMPLES).mkdir()
    with checkpoint.opened(whole / CHECKPOINT, kind="checkpoint") as reader:
        arrays = {name: reader.handle.get_tensor(name) for name in reader.handle.keys()}  # noqa: SIM118
        checkpoint.save(tmp_path / CHECKPOINT, arrays, {**reader.about, **about})
    with pytest.raises(UserError, match=message):
        go(tmp_path, resume=True)


def test_a_run_goes_on_from_a_checkpoint_that_is_older_than_a_setting(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, real = tmp_path / "run", Trainer.advance

    def advance(self: Trainer, split: Any) -> Any:
        if self.done == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, split)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "advance", advance)
        go(out)
    with checkpoint.opened(out / CHECKPOINT, kind="checkpoint") as reader:
        arrays = {name: reader.handle.get_tensor(name) for name in reader.handle.keys()}  # noqa: SIM118
        about = reader.about
    del about["config"]["pause"], about["precision"]
    checkpoint.save(out / CHECKPOINT, arrays, about)
    with pytest.raises(UserError, match=r"was started with --pause 0\.0, not 0\.001"):
        go(out, resume=True, config={"pause": 0.001})
    go(out, resume=True)
    assert equal_to(out, whole)


def test_a_batch_that_no_machine_holds_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes = {"SC_PHYS_PAGES": 16, "SC_PAGE_SIZE": 1024}  # 16 kB: a batch of 16 pictures of 64 floats, four times
    with monkeypatch.context() as patch:
        patch.setattr(os, "sysconf", sizes.__getitem__)
        said = "batch_size of the stage 'first' is too large, 17: its steps need 0 GiB and more, this machine has 0 GiB"
        with pytest.raises(UserError, match=said):
            go(tmp_path / "run", config={"batch_size": 17})
        assert not (tmp_path / "run").exists()
        assert go(tmp_path / "run").steps == 16
    with pytest.raises(UserError, match=r"its steps need 953,674 GiB and more"):
        go(tmp_path / "large", config={"batch_size": 10**12})


def test_a_full_disk_stops_the_run_and_what_was_saved_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    real = checkpoint.write_atomically
    count = []

    def full(path: Path, data: bytes) -> None:
        count.append(path)
        if len(count) == 12:
            monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(UserError, match=r"unharmed: disk full; put that right and go on from step \d+ with --resume"):
        go(out, save_seconds=0.0)
    monkeypatch.undo()
    go(out, resume=True)
    assert equal_to(out, whole)


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to the folder"):
        go(tmp_path / "file" / "run")


def test_settings_that_cannot_be_trained_are_one_sentence(tmp_path: Path):
    with pytest.raises(UserError, match="steps of the stage 'both' must be at least 1, got 0"):
        go(tmp_path / "run", config={"steps": 0})
    assert not (tmp_path / "run").exists()


def test_the_checkpoint_holds_no_random_state_and_no_time_in_its_weights(whole: Path):
    with checkpoint.opened(whole / CHECKPOINT, kind="checkpoint") as reader:
        names = set(reader.handle.keys())
        about = {
            "format",
            "kind",
            "system",
            "config",
            "data",
            "seed",
            "precision",
            "stage",
            "step",
            "seconds",
            "cpu_seconds",
        }
        assert set(reader.about) == about
    assert {name.split("/")[0] for name in names} == {"net", "critic", "average", "moment"}
    with checkpoint.opened(whole / WEIGHTS, kind="weights") as reader:
        assert "seconds" not in json.dumps(reader.about)
