"""What a run writes down and compares: numbers that are numbers, and data that are the same."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minigen.data import Dataset, Split, load
from minigen.errors import NonFinite
from minigen.train import checkpoint
from minigen.train.loop import Trainer
from minigen.train.run import CHECKPOINT, WEIGHTS, Keeper, Run, data_identity, train
from tests.minigen.train import toy

DIGITS = load("digits")
FILES = (CHECKPOINT, WEIGHTS)


def go(out: Path, *, resume: bool = False, config: dict[str, Any] | None = None, **run: Any) -> Any:
    """Train the toy in this process: 2 steps, then 4."""
    settings = toy.Config(**{"steps": 4, "first_steps": 2, **(config or {})})
    about = Run(out=out, system="toy", samples=4, **{"samples_every": 0, **run})
    return train(toy.build(settings, DIGITS, seed=0), DIGITS, about, resume=resume)


def contents(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


def step_of(out: Path) -> int:
    """The step at which both files stand."""
    with checkpoint.opened(out / CHECKPOINT, kind="checkpoint") as reader:
        step = int(reader.about["stage"]) * 2 + int(reader.about["step"])
    with checkpoint.opened(out / WEIGHTS, kind="weights") as reader:
        assert reader.about["step"] == step
    return step


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net/first.w", np.nan),
        ("net/norm.running_var", np.inf),
        ("critic/b", -np.inf),
        ("average/critic", np.nan),
        ("moment/generator/v", np.inf),
        ("moment/critic/m", np.nan),
    ],
)
@pytest.mark.parametrize(
    ("at", "seconds", "kept", "so"),
    [(5, 0.0, 4, "training stopped"), (6, 0.0, 5, "the end of the run"), (6, 99.0, 0, "the end of the run")],
)
def test_a_state_that_holds_no_numbers_is_not_saved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: float,
    at: int,
    seconds: float,
    kept: int,
    so: str,
):
    """Step ``at`` leaves one in some array; loss and gradient were numbers. What was saved before stays, to the byte."""
    real, before = Trainer.advance, []

    def advance(self: Trainer, split: Any) -> Any:
        if self.done == at - 1:
            before.append(contents(tmp_path))
        figures = real(self, split)
        if self.done == at:
            self.arrays()[name].flat[-1] = value
        return figures

    said = f"^'{name}' holds NaN or infinity after step {at}, so {so}.*; the checkpoint of step {kept} in .* is kept: "
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        with pytest.raises(NonFinite, match=said) as caught:
            go(tmp_path, save_seconds=seconds)
    assert ("in another --out" in str(caught.value)) == (kept > 0)
    assert [contents(tmp_path)] == before and step_of(tmp_path) == kept
    assert go(tmp_path, resume=True).steps == 6


@pytest.mark.parametrize("lr", [1e30, 1e39, 1e300])
def test_a_rate_that_is_far_too_high_is_one_sentence_and_no_warning(tmp_path: Path, lr: float):
    """Warnings are errors here."""
    with pytest.raises(NonFinite, match=r"so training stopped; the checkpoint of step \d in .* is kept: start again"):
        go(tmp_path, config={"lr": lr}, save_seconds=0.0)
    with checkpoint.opened(tmp_path / CHECKPOINT, kind="checkpoint") as reader:
        assert reader.arrays({name: reader.handle.get_tensor(name) for name in reader.handle.keys()})  # noqa: SIM118


def test_a_run_that_begins_without_numbers_writes_no_file_and_overwrites_none(tmp_path: Path):
    go(tmp_path)
    before = contents(tmp_path)
    system = toy.build(toy.Config(), DIGITS, seed=0)
    system.modules["net"].first.w.data[...] = np.nan
    for out in (tmp_path, tmp_path / "new"):
        with pytest.raises(NonFinite, match=r"^'net/first\.w' holds NaN or infinity after step 0$"):
            train(system, DIGITS, Run(out=out, system="toy", overwrite=True))
    assert contents(tmp_path) == before and not any((tmp_path / "new" / name).exists() for name in FILES)


def test_samples_and_weights_that_are_no_numbers_are_told_by_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The picture comes first on the way; the checkpoint that is written before the run stops is refused as well."""
    real = Trainer.advance

    def advance(self: Trainer, split: Any) -> Any:
        figures = real(self, split)
        if self.done == 4:
            self.averages["net"][...] = np.nan
        return figures

    monkeypatch.setattr(Trainer, "advance", advance)
    said = r"^'average/net' holds NaN or infinity after step 4, so training stopped; the checkpoint of step 0 in "
    with pytest.raises(NonFinite, match=said):
        go(tmp_path, samples_every=4)
    assert step_of(tmp_path) == 0


@pytest.mark.parametrize("seconds", [None, "abc", -1.0, 10**400, float("nan"), [3]])
def test_seconds_that_make_no_sense_are_not_counted(tmp_path: Path, seconds: Any):
    """Of a checkpoint that somebody changed; the run itself goes on."""
    go(tmp_path)
    path = tmp_path / CHECKPOINT
    with checkpoint.opened(path, kind="checkpoint") as reader:
        arrays = {name: reader.handle.get_tensor(name) for name in reader.handle.keys()}  # noqa: SIM118
        changed = {**reader.about, "seconds": seconds, "cpu_seconds": seconds}
    checkpoint.save(path, arrays, changed)
    result = go(tmp_path, resume=True)
    assert result.steps == 6 and 0 <= result.seconds < 60 and result.cpu_seconds is None


# --- the data ---------------------------------------------------------------------------------------------------------


def points(**changes: Any) -> Dataset:
    """Three captioned, labelled points."""
    fields = {
        "images": np.arange(6, dtype=np.float32).reshape(3, 2),
        "labels": np.array([0, 1, 1]),
        "captions": ["a", "b", "c"],
    }
    split = Split(**{**fields, **changes})
    return Dataset("points", split, split, split, None, ())


def checksum(dataset: Dataset) -> int:
    return data_identity(dataset, Run(out=Path("out"), system="toy"))["checksum"]


def test_the_checksum_of_the_data_is_that_of_images_labels_and_captions():
    """Each of them, in their order."""
    found = [
        checksum(points(**change))
        for change in (
            {},
            {"images": np.arange(6, dtype=np.float32).reshape(3, 2) + np.eye(3, 2, dtype=np.float32)},
            {"images": np.arange(6, dtype=np.float32).reshape(3, 2)[::-1]},
            {"labels": np.array([0, 1, 0])},
            {"labels": np.array([1, 0, 1])},
            {"labels": None},
            {"captions": ["a", "b", "d"]},
            {"captions": ["b", "a", "c"]},
            {"captions": None},
        )
    ]
    assert len(set(found)) == len(found)
    assert checksum(points()) == found[0]


def test_the_checksum_of_images_that_are_drawn_on_demand_is_that_of_what_they_are():
    def drawn(*identity: Any) -> int:
        dataset: Any = SimpleNamespace(name="drawn", train=SimpleNamespace(images=SimpleNamespace(identity=identity)))
        return checksum(dataset)

    assert drawn("shapes", 16) == drawn("shapes", 16) != drawn("shapes", 32)


def test_the_data_are_told_by_name_folder_size_and_checksum():
    run = Run(out=Path("out"), system="toy", data_dir="here", size=16)
    found = data_identity(points(), run)
    assert found == {"name": "points", "data_dir": "here", "size": 16, "checksum": checksum(points())}
    assert Keeper(Trainer(toy.build(toy.Config(), DIGITS, seed=0), seed=0), DIGITS, run).identity["data"] == {
        **found,
        "name": "digits",
        "checksum": checksum(DIGITS),
    }
