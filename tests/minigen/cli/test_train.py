"""`minigen train`: settings beyond any machine and checkpoints that tell nonsense, in one sentence each; true help."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minigen.__main__ import main
from minigen.cli import curriculum
from minigen.cli.train import data_sets
from minigen.data import load
from minigen.errors import UserError, said_in_one_sentence
from minigen.train import checkpoint
from minigen.train.run import CHECKPOINT

QUICK = ("--steps", "4", "--first-steps", "2")
Refused = Callable[..., str]


@pytest.mark.parametrize("value", ["2147483648", "10000000000000000000", "1" + "0" * 400, "-9999999999"])
@pytest.mark.parametrize("flag", ["--hidden", "--poison"])
def test_a_whole_number_beyond_any_machine_is_refused(
    toy_system: Any, inside: Path, refused: Refused, flag: str, value: str
):
    assert refused("train", "toy", flag, value) == f"minigen: {flag} must be at most 2147483647 in size, got {value}\n"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("system", "flag", "value"),
    [
        ("gpt", "--reach", "10000000000000000000"),  # too wide for NumPy
        ("gan", "--width", "10000000000000000000"),  # None by default
    ],
)
def test_so_are_those_that_would_fail_with_a_traceback(
    inside: Path, refused: Refused, system: str, flag: str, value: str
):
    assert f"{flag} must be at most 2147483647 in size, got {value}" in refused("train", system, flag, value)


@pytest.mark.parametrize(
    ("system", "flag"),
    [("pixelcnn", "--layers"), ("ddpm", "--blocks"), ("vq_vae", "--prior-layers"), ("gan", "--depth")],
)
def test_more_layers_than_anybody_trains_are_refused(inside: Path, refused: Refused, system: str, flag: str):
    for value in ("10000000000000000000", "1001"):  # too many for a tuple, and one more than the most
        assert refused("train", system, flag, value) == f"minigen: {flag} must be at most 1000 in size, got {value}\n"


def test_so_are_those_in_a_tuple(inside: Path, refused: Refused):
    said = refused("train", "autoencoder", "--hidden", "8", "10000000000000000000")
    assert "--hidden must be at most 2147483647 in size, got (8, 10000000000000000000)" in said


def test_a_seed_may_be_any_whole_number(toy_system: Any, inside: Path):
    assert main(["train", "toy", *QUICK, "--seed", "1" + "0" * 30]) == 0
    assert main(["train", "toy", "--resume"]) == 0


def test_a_number_that_is_too_large_for_an_array_is_one_sentence(
    toy_system: Any, inside: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    def build(*args: Any, **kwargs: Any) -> Any:
        return [0] * 10**30

    monkeypatch.setattr(toy_system, "build", build)
    said = refused("train", "toy", *QUICK)
    assert (
        said == "minigen: cannot build the model: a number is too large: cannot fit 'int' into an index-sized integer\n"
    )


@pytest.mark.parametrize(
    "change",
    [{"data": None}, {"data": "digits"}]
    + [
        {"data": {"name": "digits", "data_dir": None, "size": None, **d}}
        for d in ({"name": 3}, {"size": "8"}, {"data_dir": 5})
    ]
    + [{"seed": "0"}, {"seed": None}, {"seed": True}, {"precision": "fp16"}, {"precision": 16}],
)
def test_a_checkpoint_that_does_not_say_its_data_or_seed(
    toy_system: Any, inside: Path, refused: Refused, change: dict[str, Any]
):
    assert main(["train", "toy", *QUICK]) == 0
    path = Path("out/toy", CHECKPOINT)
    with checkpoint.opened(path, kind="checkpoint") as reader:
        arrays = {name: reader.handle.get_tensor(name) for name in reader.handle.keys()}  # noqa: SIM118
        about = {**reader.about, **change}
    checkpoint.save(path, arrays, about)
    said = refused("train", "toy", "--resume")
    assert said == f"minigen: {path} does not say which data, seed and precision its run was started with\n"


def test_a_checkpoint_whose_settings_are_too_large(toy_system: Any, inside: Path, refused: Refused):
    assert main(["train", "toy", *QUICK]) == 0
    path = Path("out/toy", CHECKPOINT)
    with checkpoint.opened(path, kind="checkpoint") as reader:
        arrays = {name: reader.handle.get_tensor(name) for name in reader.handle.keys()}  # noqa: SIM118
        about = {**reader.about, "config": {**reader.about["config"], "hidden": 10**30}}
    checkpoint.save(path, arrays, about)
    assert "holds a config that is not valid: hidden must be at most 2147483647" in refused("train", "toy", "--resume")


def test_a_rate_that_is_far_too_high(toy_system: Any, inside: Path, refused: Refused):
    """Nothing but the sentence: warnings are errors here."""
    said = refused("train", "toy", *QUICK, "--lr", "1e39", "--save-seconds", "0")
    assert "'net/first.w' holds NaN or infinity after step 1, so training stopped; the checkpoint of step 0 in" in said


def test_errors_of_size_name_what_was_done():
    said = r"^settings: a number is too large: int too large to convert to float$"
    with pytest.raises(UserError, match=said), said_in_one_sentence("settings"):
        float(10**400)
    said = r"^cannot build the model: a number is too large: array is too big;"
    with pytest.raises(UserError, match=said), said_in_one_sentence("cannot build the model"):
        np.zeros((2**31, 2**31, 2**31))


# --- help -------------------------------------------------------------------------------------------------------------

SYSTEMS = [entry.name for entry in curriculum.systems().values()]


def help_of(system: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``train SYSTEM --help`` says, without its lines and boxes."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["train", system, "--help"])
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One of each kind; the folder's pictures are grey, in two classes."""
    root = tmp_path_factory.mktemp("pictures")
    for kind in ("a", "b"):
        (root / kind).mkdir()
        for i in range(8):
            Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(root / kind / f"{i}.png")
    plain = {name: load(name) for name in ("digits", "rings", "shapes", "text")}
    return plain | {"folder": load("folder", data_dir=root, size=8)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_data_sets_that_a_system_takes_are_those_in_its_help(
    datasets: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, system: str
):
    model, taken = curriculum.load(curriculum.find(system)), set()
    for name, dataset in datasets.items():
        with suppress(ValueError):
            model.build(model.Config(), dataset, seed=0)
            taken.add(name)
    taken |= {"mnist", "binary-mnist"} if "digits" in taken else set()  # as the digits, but larger
    (said,) = re.findall(r"--data NAME The data set: (.*?)\. \(default", help_of(system, capsys, monkeypatch))
    assert set(re.split(", | or ", said)) == taken == set(data_sets(model))


@pytest.mark.parametrize("system", SYSTEMS)
def test_help_says_what_becomes_of_more_sampling_steps_than_there_are_levels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, system: str
):
    flags = {field.name for field in fields(curriculum.load(curriculum.find(system)).Config)}
    capped = len(flags & {"sample_steps", "prior_sample_steps"}) if "T" in flags else 0
    assert help_of(system, capsys, monkeypatch).count("T or more visits all") == capped


def test_a_boolean_has_a_flag_for_each_of_its_values(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    said = help_of("gan", capsys, monkeypatch)
    assert "--batch-norm, --no-batch-norm Batch norm in the generator." in said
    assert "--resume Go on from" in said and "--no-resume" not in said
    tiny = ["--steps", "1", "--width", "8", "--batch-size", "4", "--conditional"]
    assert main(["train", "gan", *tiny]) == 0
    assert main(["train", "gan", *tiny, "--resume"]) == 0, "the same flags go on"


def test_going_on_with_the_other_value_of_a_boolean_is_refused(inside: Path, refused: Refused):
    tiny = ["--steps", "1", "--width", "8", "--batch-size", "4"]
    assert main(["train", "gan", *tiny, "--conditional"]) == 0
    assert "was started with --conditional True, not False" in refused("train", "gan", "--resume", "--no-conditional")
