"""`minigen train` and `minigen sample`: what they do, and every mistake that has a sentence."""

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import minigen.models
from kernels import threads
from kernels.precision import in_force
from minigen import __version__
from minigen.__main__ import COMMANDS, main
from minigen.cli import arguments, curriculum, sample
from minigen.cli.arguments import first_sentence
from minigen.errors import UserError
from minigen.nn import Conv2d, EightBitLinear, Sequential
from minigen.train import checkpoint
from minigen.train.run import CHECKPOINT, WEIGHTS
from tests.minigen.train import toy

QUICK = ("--steps", "4", "--first-steps", "2")
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run in out/toy."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curriculum, "CURRICULUM", [toy.ENTRY])
        patch.chdir(folder)
        assert main(["train", "toy", *QUICK]) == 0
    return folder


@pytest.fixture
def trained(toy_system: Any, inside: Path, trained_once: Path) -> Path:
    """The weights of a copy of that run, in out/toy of an empty folder that is the current one."""
    shutil.copytree(trained_once, inside, dirs_exist_ok=True)
    return inside / "out" / "toy" / WEIGHTS


# --- what works -------------------------------------------------------------------------------------------------------


def test_help_and_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["help", "train"])
    assert caught.value.code == 0 and "usage: minigen train SYSTEM" in capsys.readouterr().out
    for args in ([], ["--help"], ["help"]):
        assert main(args) == 0
        said = capsys.readouterr().out
        assert all(name in said for name in COMMANDS)
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"minigen {__version__}\n"
    assert main(["list", "--help"]) == 0


@pytest.mark.parametrize(
    "args", [["train", "-h"], ["sample", "--help"], ["tour", "--help"], ["train", "toy", "--help"]]
)
def test_help_of_a_command(toy_system: Any, args: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "usage: minigen" in said
    if "toy" in args:
        assert "--hidden" in said and "Width; must be even." in said and "--resume" in said and "Nobody 2026" in said


def test_a_terminal_too_narrow_for_a_help_text(toy_system: Any, monkeypatch: pytest.MonkeyPatch):
    """In 5 columns tyro would not come back."""
    widths = []

    def cli(flags: Any, **given: Any) -> None:
        widths.append(shutil.get_terminal_size().columns)
        raise SystemExit(0)

    monkeypatch.setattr("tyro.cli", cli)
    for columns in ("5", "50"):
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(SystemExit):
            main(["train", "toy", "--help"])
    assert widths == [arguments.NARROWEST, 50]


@pytest.mark.parametrize("command", ["train", "sample", "edit"])
@pytest.mark.parametrize("name", [entry.name for entry in curriculum.systems().values() if entry.exists])
def test_the_flags_of_every_system_fit_together(command: str, name: str, capsys: pytest.CaptureFixture[str]):
    """A picture or a setting of a system could have the name of a flag that all systems have."""
    if command == "edit" and not hasattr(curriculum.load(curriculum.find(name)), "Editing"):
        return
    with pytest.raises(SystemExit) as caught:
        main([command, name, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "--seed INT" in said and "{None}" not in said


def test_a_preset_is_a_start_for_other_flags(toy_system: Any, inside: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "toy", "--preset", "short", "--first-steps", "2"]) == 0
    assert "toy (both): step 5/5" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "toy", "--help"])
    assert "--preset short: steps 3, first_steps 1" in " ".join(capsys.readouterr().out.split())


def test_a_preset_called_after_a_data_set_takes_that(
    toy_system: Any, inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(toy_system, "PRESETS", {"shapes": {"steps": 3, "first_steps": 1}})
    for args, data in ((("--out", "a"), "shapes"), (("--out", "b", "--data", "digits"), "digits")):
        assert main(["train", "toy", "--preset", "shapes", *args]) == 0
        assert "toy (both): step 4/4" in capsys.readouterr().out
        with checkpoint.opened(Path(args[1]) / CHECKPOINT, kind="checkpoint", system="toy") as reader:
            assert reader.about["data"]["name"] == data


def test_notes_stand_under_the_pictures_and_on_the_screen(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sample", "toy", "--n", "3", "--dim", "0.5", "--out", "noted.png"]) == 0
    said = capsys.readouterr().out
    assert said.count("asked for 0.5: mean ") == 3
    with Image.open("noted.png") as noted:
        assert noted.size[0] == 3 * (160 + 2) + 2 and noted.size[1] > 160 + 2 * 12
    assert main(["sample", "toy", "--n", "3", "--out", "plain.png"]) == 0
    with Image.open("plain.png") as plain:
        assert plain.size == (2 * 50 + 2, 2 * 50 + 2)


def test_train_then_sample(toy_system: Any, inside: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "toy", *QUICK]) == 0
    trained, said = Path("out/toy") / WEIGHTS, capsys.readouterr().out
    assert "toy (both): step 6/6" in said and "loss" in said and "samples/s" in said and "left" in said
    assert "next: minigen sample toy --weights out/toy/weights.safetensors" in said
    assert main(["sample", "toy", "--weights", str(trained), "--n", "9", "--out", "new/grid.png", "--trajectory"]) == 0
    with Image.open("new/grid.png") as grid, Image.open("new/grid-trajectory.png") as strip:
        assert grid.size == (3 * 50 + 2, 3 * 50 + 2)
        assert strip.size == (5 * 50 + 2, 8 * 50 + 2)


def test_singles_are_the_samples_in_their_own_size(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sample", "toy", "--weights", str(trained), "--n", "4", "--out", "g.png", "--singles"]) == 0
    assert "one by one: g-1.png to g-4.png" in capsys.readouterr().out
    with Image.open("g.png") as sheet, Image.open("g-4.png") as last:
        side = last.size[0]
        assert last.size == (8, 8) and sheet.size == (2 * 50 + 2, 2 * 50 + 2)
        large = np.asarray(last.convert("RGB")).repeat(48 // side, 0).repeat(48 // side, 1)
        np.testing.assert_array_equal(np.asarray(sheet.convert("RGB"))[-50:-2, -50:-2], large)
    assert main(["sample", "toy", "--weights", str(trained), "--n", "1", "--out", "one.png", "--singles"]) == 0
    assert "one by one: one-1.png\n" in capsys.readouterr().out and Path("one-1.png").exists()


def test_sampling_is_a_function_of_the_seed_and_of_the_averaged_weights(trained: Path):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main(["sample", "toy", "--weights", str(trained), "--out", f"{name}.png", "--seed", seed]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() != Path("c.png").read_bytes()
    raw = load_file(trained.with_name(CHECKPOINT))
    assert not np.array_equal(load_file(trained)["net/first.w"], raw["net/first.w"])


def test_quality_is_printed_beside_what_chance_would_give(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    row = {"fd_ratio": 1.25, "accepted": 0.875, "recall": 0.625}
    monkeypatch.setattr("minigen.cli.quality.figures", lambda dataset, samples, seed: {"these samples": row})
    monkeypatch.setattr("minigen.cli.quality.known", lambda dataset: (None, {}))
    monkeypatch.setattr("minigen.metrics.report.chance", lambda dataset, ruler, *, n: (1.0, n / 32))
    assert main(["sample", "toy", "--weights", str(trained), "--n", "8", "--quality"]) == 0
    said = capsys.readouterr().out
    assert "1.25" in said and "0.875" in said and "0.625" in said and "fidelity and diversity" in said
    assert (
        "recall: share of the test split inside the samples' cloud" in " ".join(said.split()) and "class KL" not in said
    )
    assert "FD x of 8 training images drawn with replacement: 1.00 ± 0.25" in said
    assert "the first row is of 8 samples, those below it of up to 512" in said


def test_sampling_needs_no_data(trained: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("minigen.data.load", lambda *a, **k: pytest.fail("the data set was read"))
    assert main(["sample", "toy", "--weights", str(trained), "--n", "1"]) == 0


def test_the_systems_own_settings_and_pictures_are_flags(trained: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["sample", "toy", "--help"])
    said = capsys.readouterr().out
    assert "--dim" in said and "multiplied by" in said and "--shades" in said and "a row of greys" in said
    assert main(["sample", "toy", "--out", "a.png"]) == 0  # the weights of out/toy are found
    assert main(["sample", "toy", "--out", "b.png", "--dim", "0.5", "--shades"]) == 0
    assert "shades: b-shades.png" in capsys.readouterr().out
    assert Path("a.png").read_bytes() != Path("b.png").read_bytes() and not Path("a-shades.png").exists()
    with Image.open("b-shades.png") as picture:
        assert picture.size == (4 * 50 + 2, 3 * 50 + 2)


def test_resume_takes_the_flags_of_the_run(trained: Path, capsys: pytest.CaptureFixture[str]):
    before = trained.read_bytes()
    assert main(["train", "toy", "--resume"]) == 0
    assert "going on from step 6 of 6" in capsys.readouterr().out
    assert trained.read_bytes() == before


def test_points_can_be_trained_and_sampled(toy_system: Any, inside: Path):
    assert main(["train", "toy", *QUICK, "--data", "rings", "--out", "r"]) == 0
    assert main(["sample", "toy", "--weights", f"r/{WEIGHTS}", "--n", "50", "--trajectory"]) == 0
    assert all(Path(name).exists() for name in ("grid.png", "grid-trajectory.png", "grid-trajectory.gif"))


def test_quality_of_points_is_their_modes(toy_system: Any, inside: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "toy", *QUICK, "--data", "rings", "--out", "r"]) == 0
    assert main(["sample", "toy", "--weights", f"r/{WEIGHTS}", "--n", "50", "--quality"]) == 0
    said = capsys.readouterr().out
    assert "modes" in said and "test split" in said and "FD x" not in said


def test_pictures_of_a_folder_can_be_trained_on(toy_system: Any, inside: Path):
    Path("pictures").mkdir()
    for i in range(12):
        Image.fromarray(np.full((9, 9, 3), 20 * i, np.uint8)).save(f"pictures/{i}.png")
    flags = ("--data", "folder", "--data-dir", "pictures", "--size", "4", "--batch-size", "4", "--out", "f")
    assert main(["train", "toy", *QUICK, *flags]) == 0
    assert main(["train", "toy", "--out", "f", "--resume"]) == 0


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_unknown_command(refused: Refused):
    assert "unknown command 'tran': did you mean 'train'?" in refused("tran")
    assert "the commands are list, train, sample, edit, claims, laws, book, tour" in refused("x")


def test_a_wrong_number_of_threads(refused: Refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads._pool, "threads", None)  # as when a process begins
    monkeypatch.setenv("MINIGEN_THREADS", "0")
    assert "MINIGEN_THREADS must be a whole number of at least 1, got '0'" in refused("train", "ddpm", "--out", "x")
    assert not Path("x").exists()


@pytest.mark.parametrize("command", ["train", "sample"])
def test_unknown_system_names_the_nearest(refused: Refused, command: str):
    assert "unknown system 'dpm': did you mean 'ddpm'?" in refused(command, "dpm")
    assert "unknown system 'zzzzzz': these run today:" in refused(command, "zzzzzz")
    assert "name a system" in refused(command)
    assert "name a system" in refused(command, "--steps", "3")


def test_unknown_system_in_capitals_or_with_a_hyphen_names_the_nearest(refused: Refused):
    assert "unknown system 'DDPM': did you mean 'ddpm'?" in refused("train", "DDPM")
    assert "unknown system 'DDPM': did you mean 'ddpm'?" in refused("tour", "--only", "DDPM")
    assert "unknown system 'Stable-Difusion': did you mean 'stable_diffusion'?" in refused("train", "Stable-Difusion")


def test_a_model_file_that_has_no_line_in_the_curriculum(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(minigen.models, "__path__", [*minigen.models.__path__, str(tmp_path)])
    assert "unknown system 'realnvp': these run today" in refused("train", "realnvp")
    (tmp_path / "realnvp.py").touch()
    for args in (["train", "realnvp"], ["sample", "realnvp"], ["tour", "--only", "realnvp"]):
        said = "minigen/models/realnvp.py is there, but has no line in minigen/cli/curriculum.py"
        assert f"unknown system 'realnvp': {said}\n" in refused(*args)


def test_a_model_file_of_ones_own_is_trained_from_python(refused: Refused, inside: Path):
    said = "a model file that is not in minigen/models is trained from Python, as the README says under 'As a library'"
    Path("mine.py").touch()
    for name in ("mine", "mine.py", "there/mine.py"):
        for command in ("train", "sample", "edit"):
            assert refused(command, name) == f"minigen: unknown system '{name}': {said}\n"
    assert "these run today" in refused("train", "m" * 300)


@pytest.mark.parametrize("name", ["TITLE", "PAPER", "EQUATION", "Config", "build"])
def test_a_model_file_that_lacks_a_name_is_told_before_anything_is_done(
    trained: Path, refused: Refused, toy_system: Any, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.delattr(toy_system, name)
    for args in (["train", "toy", "--out", "new"], ["sample", "toy"], ["edit", "toy", "test:0"]):
        said = f"toy.py must have TITLE, PAPER, EQUATION, Config, build: it lacks {name}\n"
        assert said in refused(*args)
    assert not Path("new").exists() and not Path("grid.png").exists()


def test_planned_system(refused: Refused, monkeypatch: pytest.MonkeyPatch):
    entry = curriculum.Entry(99, "dream", "Dream", "Nobody 2026", "minigen.models.dream")
    monkeypatch.setattr(curriculum, "CURRICULUM", [entry])
    assert "'dream' is planned, minigen/models/dream.py is not there yet" in refused("train", "dream")
    assert "there is no system to visit" in refused("tour")


BAD_TRAIN = {
    "unknown data set": (("--data", "digts"), "unknown data set 'digts': did you mean 'digits'?"),
    "no directory": (("--data", "folder"), "give it with --data-dir"),
    "missing directory": (("--data", "folder", "--data-dir", "nowhere"), "must be an existing directory"),
    "wrong directory": (("--data", "folder", "--data-dir", "."), "must hold at least 3 pictures"),
    "missing IDX files": (("--data", "mnist", "--data-dir", "nowhere"), "nowhere"),
    "directory not taken": (("--data", "digits", "--data-dir", "."), "takes no data_dir"),
    "zero steps": (("--steps", "0"), "--steps must be at least 1, got 0"),
    "negative steps": (("--steps", "-3"), "--steps must be at least 1, got -3"),
    "steps that are no number": (("--steps", "many"), "Error parsing --steps"),
    "no steps": (("--steps",), "Missing value for argument '--steps'"),
    "unknown flag": (("--stepps", "3"), "Unrecognized options: --stepps, 3: did you mean '--steps'?"),
    "too much": (("extra",), "Unrecognized options: extra ('minigen train toy --help' explains the flags)"),
    "config that refuses": (("--lr", "-1"), "lr must be above 0, got -1.0 ('minigen train toy"),
    "zero steps of a stage": (("--first-steps", "0"), "steps of the stage 'first' must be at least 1, got 0"),
    "zero batch": (("--batch-size", "0"), "batch_size of the stage 'first' must be at least 1, got 0"),
    "negative seed": (("--seed", "-1"), "--seed must be at least 0, got -1"),
    "a word for a number": (("--samples-every", "often"), "Error parsing --samples-every: it takes INT, got often"),
    "samples every": (("--samples-every", "-1"), "--samples-every must be at least 0, got -1"),
    "model that does not fit": (("--hidden", "3"), "hidden must be even, got 3"),
    "cuda": (("--device", "cuda"), "no GPU can be used"),
    "device": (("--device", "tpu"), "unknown device 'tpu'"),
    "out below a file": (("--out", "file/run"), "cannot write to the folder file/run"),
    "out is a file": (("--out", "file"), "cannot write to the folder file"),
    "rate that is infinite": (("--lr", "inf"), "lr of the stage 'first' must be finite, got inf"),
    "more items than there are numbers": (
        ("--batch-size", "2147483647", "--first-steps", "2147483647"),
        "batch_size of the stage 'first' is too large",
    ),
    "no seconds": (("--save-seconds", "nan"), "--save-seconds must be at least 0, got nan"),
    "negative seconds": (("--save-seconds", "-1"), "--save-seconds must be at least 0, got -1.0"),
    "unknown preset": (("--preset", "lang"), "'toy' has no preset 'lang': it has short"),
    "resume nothing": (("--resume",), "there is no checkpoint to go on from in out/toy"),
}


@pytest.mark.parametrize("name", BAD_TRAIN)
def test_train_refuses_in_one_sentence(toy_system: Any, inside: Path, refused: Refused, name: str):
    if name == "cuda" and gpu():
        pytest.skip("this machine has a GPU")
    Path("file").write_text("in the way")
    args, sentence = BAD_TRAIN[name]
    assert sentence in refused("train", "toy", *args)
    assert not Path("out").exists(), "nothing was begun"


class Reached(BaseException):
    """With the device that the system was to be made or loaded on."""


@pytest.mark.parametrize(
    "command",
    [
        ("train", "toy"),
        ("sample", "toy", "--weights", "weights.safetensors"),
        ("edit", "toy", "test:0", "--weights", "weights.safetensors"),
        ("tour", "--only", "toy"),
    ],
    ids=lambda command: command[0],
)
def test_the_device_reaches_the_system(
    toy_system: Any, inside: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
):
    def reached(*args: Any, device: str, **more: Any) -> Any:
        raise Reached(device)

    Path("weights.safetensors").touch()
    monkeypatch.setattr(arguments, "module_for", lambda device: np)
    for made in ("build", "load_weights"):
        monkeypatch.setattr(arguments, made, reached)
    with pytest.raises(Reached, match=r"^cuda$"):
        main([*command, "--device", "cuda"])


def test_products_are_rounded_while_something_is_drawn_and_not_while_it_is_measured(
    trained: Path, without_ruler: Any, monkeypatch: pytest.MonkeyPatch
):
    seen: dict[str, str] = {}

    def watch(name: str, module: Any, *, goes_on: bool = True) -> None:
        real = getattr(module, name)

        def watching(*args: Any, **settings: Any) -> Any:
            seen[name] = in_force()
            return real(*args, **settings) if goes_on else None

        monkeypatch.setattr(module, name, watching)

    watch("draw", sample)
    watch("draw_picture", sample)
    watch("print_quality", sample, goes_on=False)
    watch("print_prompts", sample, goes_on=False)
    monkeypatch.setattr(sample, "check", lambda *args: None)  # the toy knows no prompts
    assert main(["sample", "toy", "--precision", "bf16", "--quality", "--prompts", "1", "--shades"]) == 0
    assert seen.pop("print_quality") == "float32"
    assert seen == dict.fromkeys(("draw", "draw_picture", "print_prompts"), "bf16")
    watch("load_weights", arguments)
    real = arguments.load_weights

    def loaded(*args: Any, **settings: Any) -> Any:
        system, about = real(*args, **settings)
        holder = SimpleNamespace(edit=system.edit)
        watch("edit", holder)
        return replace(system, edit=holder.edit), about

    monkeypatch.setattr(arguments, "load_weights", loaded)
    assert main(["edit", "toy", "test:0", "--precision", "tf32"]) == 0
    assert seen["edit"] == "tf32" and seen["load_weights"] == in_force() == "float32"


@pytest.mark.parametrize("command", [("sample",), ("edit", "test:0")])
def test_linear_layers_in_eight_bits(command: tuple[str, ...], trained: Path, capsys: Any, monkeypatch: Any):
    kept: list[Any] = []
    real = arguments.load_weights

    def loaded(*args: Any, **settings: Any) -> Any:
        kept.append(real(*args, **settings))
        return kept[-1]

    monkeypatch.setattr(arguments, "load_weights", loaded)
    name, *rest = command
    for way, said in (("weights", "weights in int8"), ("fp8", "weights and inputs in fp8 (e4m3)")):
        assert main([name, "toy", *rest, "--n", "2", "--eight-bit", way]) == 0
        layers = [
            m for net in kept[-1][0].modules.values() for _, m in net.named_modules() if isinstance(m, EightBitLinear)
        ]
        assert f"{len(layers)} linear layers with {said}\n" in capsys.readouterr().out
        assert layers and all(layer.way == way for layer in layers)


def test_a_system_without_linear_layers_refuses_eight_bits():
    without = SimpleNamespace(modules={"net": Sequential(Conv2d(1, 1, rng=np.random.default_rng(0)))})
    with pytest.raises(UserError, match="--eight-bit is for linear layers, and these weights have none"):
        arguments.put_in_eight_bits(without, "int8")
    arguments.put_in_eight_bits(without, None)


LINES = """╭─ Unrecognized options ─────────────╮
│ Unrecognized options: --stps,      │
│ 3                                  │
│ ────────────────────────────────── │
│ Perhaps you meant:                 │
│     --steps INT                    │
│ ────────────────────────────────── │
│ For full helptext, run a --help    │
╰────────────────────────────────────╯
"""
SHORT = """╭─ Value error ──────────────────────╮
│ Error parsing config: too small.   │
│ ────────────────────────────────── │
│ For full helptext, see a --help    │
╰────────────────────────────────────╯
"""
OPTIONAL = """╭─ Parsing error ────────────────────────────╮
│ Error parsing --{flag}: no type matching   │
│ {{None}}|{kinds} could be instantiated from │
│ [{given}].                                 │
│                                            │
│ Got errors:                                │
│ - <class 'NoneType'>: no match             │
│ - tuple[typing.Annotated[str, Crumb]]: no  │
│ ────────────────────────────────────────── │
│ For full helptext, see a --help            │
╰────────────────────────────────────────────╯
"""
DASHES = """ Unrecognized options
 ------------------------------------
  Unrecognized options: --stps, 3
  ----------------------------------
  Perhaps you meant:
      --steps INT

"""


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        (LINES, "Unrecognized options: --stps, 3: did you mean '--steps'?"),
        (DASHES, "Unrecognized options: --stps, 3: did you mean '--steps'?"),
        (SHORT, "too small"),
        (SHORT.replace("│", "\x1b[91m│\x1b[0m"), "too small"),
        (OPTIONAL.format(flag="eta", kinds="FLOAT", given="'x'"), "Error parsing --eta: it takes FLOAT, got 'x'"),
        (OPTIONAL.format(flag="ab", kinds="{STR STR}", given="'x'"), "Error parsing --ab: it takes STR STR, got 'x'"),
        ("something new\nfrom tyro", "something new from tyro"),
        ("", ""),
    ],
)
def test_the_sentence_in_a_box(box: str, sentence: str):
    assert first_sentence(box) == sentence


def gpu() -> bool:
    from kernels.backend import module_for

    try:
        return module_for("cuda") is not None
    except ValueError:
        return False


def test_a_folder_that_nobody_can_write_to(toy_system: Any, inside: Path, refused: Refused):
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    assert "cannot write to the folder /proc/run" in refused("train", "toy", "--out", "/proc/run")


@pytest.mark.parametrize(
    "args",
    [
        ["train", "toy", "--resume", "--out", "PATH"],
        ["sample", "toy", "--weights", "PATH"],
        ["sample", "toy", "--out", "PATH/grid.png"],
        ["edit", "toy", "test:3", "--mask", "PATH"],
        ["laws", "ddim", "--html", "PATH"],
    ],
)
def test_a_path_that_cannot_even_be_looked_at(trained: Path, refused: Refused, args: list[str]):
    """Its name is too long, or it lies in a folder that others may not enter (which is nothing to a test run by root)."""
    path = "x" * 300
    assert f"File name too long ({path}" in refused(*(arg.replace("PATH", path) for arg in args))


def test_a_run_that_is_there_already(trained: Path, refused: Refused):
    before = trained.read_bytes()
    assert "out/toy already holds a run" in refused("train", "toy")
    assert trained.read_bytes() == before


@pytest.mark.usefixtures("trained")
def test_weights_of_a_training_that_was_stopped_are_said_to_be_that(capsys: pytest.CaptureFixture[str]):
    weights = Path("out/toy/weights.safetensors")
    assert main(["sample", "toy"]) == 0
    assert not capsys.readouterr().err
    with checkpoint.opened(weights, kind="weights") as reader:
        about, arrays = reader.about, {name: reader.handle.get_tensor(name) for name in list(reader.handle.keys())}
    checkpoint.save(weights, arrays, about | {"step": 3})
    assert main(["sample", "toy"]) == 0
    said = f"note: {weights} holds the weights after step 3 of 6; 'minigen train toy --out out/toy --resume' goes on\n"
    assert capsys.readouterr().err == said


def test_resume_with_another_flag_names_it(trained: Path, refused: Refused):
    assert "was started with --lr 0.01, not 0.5" in refused("train", "toy", "--resume", "--lr", "0.5")
    assert "--steps 4, not 9: a run cannot be made longer" in refused("train", "toy", "--resume", "--steps", "9")
    assert "was started with --seed 0, not 9" in refused("train", "toy", "--resume", "--seed", "9")
    assert "was started with --data digits, not rings" in refused("train", "toy", "--resume", "--data", "rings")


def test_a_system_without_presets_has_no_flag_for_one(
    toy_system: Any,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    for presets in (toy_system.PRESETS, {}):
        monkeypatch.setattr(toy_system, "PRESETS", presets)
        with pytest.raises(SystemExit):
            main(["train", "toy", "--help"])
        said = capsys.readouterr().out
        assert ("--preset" in said) == bool(presets) and ("--preset NAME" in said) == bool(presets)
        assert "--seed INT" in said and "{None}" not in said
    assert "options: --preset" in refused("train", "toy", "--preset", "short")


def test_resume_with_a_preset_is_refused(
    trained: Path, refused: Refused, toy_system: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toy_system, "PRESETS", {"long": {"steps": 9}}, raising=False)
    assert "leave out --preset" in refused("train", "toy", "--resume", "--preset", "long")


def test_resume_from_a_broken_checkpoint(trained: Path, refused: Refused):
    path = trained.with_name(CHECKPOINT)
    path.write_bytes(path.read_bytes()[:-1])
    assert "is not a whole safetensors file" in refused("train", "toy", "--resume")


def test_a_full_disk(toy_system: Any, inside: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    assert main(["train", "toy", *QUICK, "--out", "a"]) == 0
    before = Path("a", CHECKPOINT).read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused("train", "toy", "--out", "a", "--resume")
    assert Path("a", CHECKPOINT).read_bytes() == before
    assert "No space left on device" in refused("train", "toy", *QUICK, "--out", "b")
    assert "No space left on device" in refused("sample", "toy", "--weights", f"a/{WEIGHTS}")
    assert not Path("grid.png").exists()


def test_a_loss_that_is_no_number(toy_system: Any, inside: Path, refused: Refused):
    said = refused("train", "toy", *QUICK, "--poison", "1")
    assert "the loss 'generator' became nan at step 4" in said and "checkpoint of step 0" in said
    assert Path("out/toy", CHECKPOINT).exists()


BAD_SAMPLE = {
    "zero samples": (("--n", "0"), "--n must be at least 1, got 0"),
    "negative samples": (("--n", "-2"), "--n must be at least 1, got -2"),
    "zero steps": (("--steps", "0"), "--steps must be at least 1, got 0"),
    "too many steps": (("--steps", "101"), "cannot sample: at most 100 steps"),
    "a setting out of range": (("--dim", "0"), "cannot sample: dim must be above 0, got 0.0"),
    "negative seed": (("--seed", "-1"), "--seed must be at least 0, got -1"),
    "not a PNG": (("--out", "grid.doc"), "--out must end in .png"),
    "a folder": (("--out", "folder.png"), "--out must be a file, folder.png is a folder"),
    "below a file": (("--out", "file/a.png"), "cannot write to the folder file"),
    "cuda": (("--device", "cuda"), "no GPU can be used"),
    "a system without prompts": (("--prompts", "3"), "--prompts is for systems that draw what a prompt says"),
    "few samples to measure": (
        ("--n", "3", "--quality"),
        "--quality needs a data set with labels and at least 4 samples",
    ),
    "a picture of other weights": (("--never",), "--never does not go with these weights: they offer shades"),
}


def test_what_cannot_be_drawn_is_said_before_it_is_drawn(
    trained: Path, refused: Refused, toy_system: Any, monkeypatch: pytest.MonkeyPatch
):
    build = toy_system.build
    monkeypatch.setattr(toy_system, "build", lambda *a, **k: replace(build(*a, **k), sample=pytest.fail))
    for args in (["--prompts", "3"], ["--n", "3", "--quality"], ["--never"], ["--out", "a.txt"]):
        refused("sample", "toy", *args)


def test_a_trajectory_of_one_step_is_refused_and_nothing_is_written(
    trained: Path, refused: Refused, toy_system: Any, monkeypatch: pytest.MonkeyPatch
):
    build = toy_system.build

    def at_once(*args: Any, **kwargs: Any) -> Any:
        return replace(build(*args, **kwargs), sample=lambda n, **settings: np.zeros((n, 8, 8, 1), np.float32))

    monkeypatch.setattr(toy_system, "build", at_once)
    assert "'toy' draws in one step, there is no trajectory" in refused("sample", "toy", "--trajectory")
    assert not Path("grid.png").exists()


def test_samples_that_are_no_numbers_are_refused_and_nothing_is_written(
    trained: Path, refused: Refused, toy_system: Any, monkeypatch: pytest.MonkeyPatch
):
    build = toy_system.build

    def sample(n: int, **settings: Any) -> Any:
        return np.where(np.arange(n) < 2, np.nan, 0.0).astype(np.float32)[:, None, None, None] * np.ones((1, 8, 8, 1))

    monkeypatch.setattr(toy_system, "build", lambda *a, **k: replace(build(*a, **k), sample=sample))
    said = refused("sample", "toy", "--n", "5")
    assert "sampling from out/toy/weights.safetensors broke down: 2 of 5 samples hold NaN or infinity" in said
    assert not Path("grid.png").exists()


def test_fewer_samples_than_were_asked_for_are_refused_and_nothing_is_written(
    trained: Path, refused: Refused, toy_system: Any, monkeypatch: pytest.MonkeyPatch
):
    build = toy_system.build

    def sample(n: int, **settings: Any) -> Any:
        return np.zeros((n - 1, 8, 8, 1), np.float32)

    monkeypatch.setattr(toy_system, "build", lambda *a, **k: replace(build(*a, **k), sample=sample))
    said = refused("sample", "toy", "--n", "5")
    assert "sample must return an array of 5 items like those of shape (8, 8, 1), got shape (4, 8, 8, 1)" in said
    assert not Path("grid.png").exists()


@pytest.mark.parametrize("name", BAD_SAMPLE)
def test_sample_refuses_in_one_sentence(trained: Path, refused: Refused, name: str):
    if name == "cuda" and gpu():
        pytest.skip("this machine has a GPU")
    Path("file").write_text("in the way")
    Path("folder.png").mkdir()
    args, sentence = BAD_SAMPLE[name]
    assert sentence in refused("sample", "toy", "--weights", trained, *args)
    assert not Path("grid.png").exists()


def rewritten(path: Path, about: dict[str, Any] | None = None, drop: str = "", shape: str = "") -> bytes:
    """A weights file with something changed."""
    with checkpoint.opened(path, kind="weights") as reader:
        arrays = {name: reader.handle.get_tensor(name) for name in list(reader.handle.keys())}
        said = {**reader.about, **(about or {})}
    arrays.pop(drop, None)
    if shape:
        arrays[shape] = arrays[shape][:-1]
    checkpoint.save(path.with_name("x"), arrays, said)
    return path.with_name("x").read_bytes()


def config(path: Path, **changes: Any) -> dict[str, Any]:
    with checkpoint.opened(path, kind="weights") as reader:
        return {"config": {**reader.about["config"], **changes}}


BAD_WEIGHTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "truncated": (lambda p: p.read_bytes()[:-7], "is not a whole safetensors file"),
    "foreign": (lambda p: b"PNG or something else, who knows", "is not a whole safetensors file"),
    "pickle": (lambda p: pickle.dumps({"net/w": 1}), "looks like a pickle"),
    "checkpoint": (lambda p: p.with_name(CHECKPOINT).read_bytes(), "is a file of kind 'checkpoint'"),
    "another system": (lambda p: rewritten(p, {"system": "gan"}), "belongs to the system 'gan'"),
    "missing tensor": (lambda p: rewritten(p, drop="net/first.w"), "lacks 'net/first.w'"),
    "wrong shape": (lambda p: rewritten(p, shape="net/first.w"), "'net/first.w' has shape (63, 8)"),
    "wider config": (lambda p: rewritten(p, config(p, hidden=10)), "has shape"),
    "config out of range": (lambda p: rewritten(p, config(p, hidden=3)), "hidden must be even"),
    "config of another type": (lambda p: rewritten(p, config(p, hidden="8")), "config that is not valid"),
    "config of another version": (lambda p: rewritten(p, config(p, colour=1)), "differs in 'colour'"),
    "no config": (lambda p: rewritten(p, {"config": None}), "another version of this model"),
    "no data": (lambda p: rewritten(p, {"dataset": None}), "does not say which data"),
    "odd data": (lambda p: rewritten(p, {"dataset": {"name": "d", "shape": [-1]}}), "does not say which data"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_are_refused_before_they_are_used(trained: Path, refused: Refused, name: str):
    make, sentence = BAD_WEIGHTS[name]
    data = make(trained)
    trained.write_bytes(data)
    assert sentence in refused("sample", "toy", "--weights", trained)
    assert not Path("grid.png").exists()


def test_weights_that_are_older_than_a_setting_draw_what_its_default_draws(trained: Path):
    assert main(["sample", "toy", "--out", "new.png"]) == 0
    with checkpoint.opened(trained, kind="weights") as reader:
        older = {name: value for name, value in reader.about["config"].items() if name != "poison"}
    trained.write_bytes(rewritten(trained, {"config": older}))
    assert main(["sample", "toy", "--out", "old.png"]) == 0
    assert Path("old.png").read_bytes() == Path("new.png").read_bytes()


def test_weights_that_are_not_there(toy_system: Any, inside: Path, refused: Refused):
    assert "cannot read no.safetensors: No such file or directory\n" in refused(
        "sample", "toy", "--weights", "no.safetensors"
    )
    assert "--weights must be a file, '.' is a folder" in refused("sample", "toy", "--weights", "")


def test_weights_that_were_never_trained(toy_system: Any, inside: Path, refused: Refused):
    assert "there are no weights in out/toy/weights.safetensors: train them with 'minigen train toy'" in refused(
        "sample", "toy"
    )


def test_a_picture_that_these_weights_do_not_have(trained: Path, refused: Refused):
    assert "--never does not go with these weights: they offer shades" in refused("sample", "toy", "--never")


def test_a_model_too_large_for_the_memory(
    trained: Path, refused: Refused, toy_system: Any, monkeypatch: pytest.MonkeyPatch
):
    def build(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(toy_system, "build", build)
    assert "does not fit in the memory" in refused("sample", "toy", "--weights", trained)


def test_too_little_memory_is_one_sentence_and_the_folder_can_be_used(
    toy_system: Any, inside: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    def batch(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError("Unable to allocate 46.6 TiB")

    with monkeypatch.context() as patch:
        patch.setattr("minigen.train.loop.batch", batch)
        said = refused("train", "toy", *QUICK)
    assert said == "minigen: there is not enough memory for that: Unable to allocate 46.6 TiB\n"
    assert main(["train", "toy", *QUICK, "--batch-size", "8"]) == 0


def test_ctrl_c_before_the_training_starts(toy_system: Any, monkeypatch: pytest.MonkeyPatch, inside: Path):
    def load(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("minigen.data.load", load)
    assert main(["train", "toy"]) == 130


def test_the_metadata_is_plain_json(trained: Path):
    with checkpoint.opened(trained, kind="weights") as reader:
        assert json.loads(json.dumps(reader.about)) == reader.about
