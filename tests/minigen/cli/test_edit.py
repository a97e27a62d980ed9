"""`minigen edit`: what goes into a model, what comes out, and every mistake as one sentence."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import pytest
from PIL import Image

from minigen.__main__ import main
from minigen.cli import curriculum, edit
from minigen.data import Split, load
from minigen.errors import UserError
from minigen.models.system import Picture


@pytest.fixture
def trained(toy_system: Any, inside: Path) -> Path:
    """An empty folder with the toy's weights in out/toy."""
    assert main(["train", "toy", "--steps", "2", "--first-steps", "1"]) == 0
    return inside


def test_a_picture_of_the_test_split_is_painted_where_the_mask_says(trained: Path, capsys: Any):
    assert main(["edit", "toy", "test:3", "--mask", "2:4,0:8", "--shade", "-1", "--n", "2", "--out", "new/e.png"]) == 0
    said = capsys.readouterr().out
    assert said.count("asked for -1: mean") == 2 and "2 edits: new/e.png" in said
    with Image.open("new/e.png") as image:
        assert image.width == 2 + 4 * (160 + 2)  # the picture, what is kept, two edits


def test_a_file_goes_in_as_its_levels(trained: Path):
    digits = load("digits")
    levels = digits.test.images[5]
    Image.fromarray(np.round(levels[..., 0] / 16 * 255).astype(np.uint8)).save("five.png")
    got = edit.read_picture("five.png", digits, None)
    np.testing.assert_array_equal(got, digits.scale(levels[None])[0])
    np.testing.assert_array_equal(edit.read_picture("test:5", digits, None), got)


def test_a_file_goes_in_as_its_levels_where_there_are_more_than_256(inside: Path):
    fine = replace(load("digits"), levels=1000)
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save("white.png")
    assert (edit.read_picture("white.png", fine, None) == 1).all()


def test_a_picture_of_other_data_than_the_weights_were_trained_on_is_refused(trained: Path, refused: Any):
    digits = load("digits")
    with pytest.raises(UserError, match="'digits' is not the one that the weights were trained on, its checksum is"):
        edit.read_picture("test:5", replace(digits, checksum=1), None)
    with pytest.raises(UserError, match=r"its shape is \(8, 8, 1\) and not \(9, 9, 1\)"):
        edit.read_picture("test:5", replace(digits, train=Split(np.zeros((0, 9, 9, 1), np.uint8))), None)


def test_white_is_painted_and_black_is_kept(inside: Path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    Image.fromarray(mask).save("mask.png")
    keep = edit.read_mask("mask.png", (4, 6))
    np.testing.assert_array_equal(keep, mask[..., None] == 0)
    np.testing.assert_array_equal(edit.read_mask("1:3,2:5", (4, 6)), keep)


MANY_DIGITS = "9" * 5000  # more than Python reads as a number


@pytest.mark.parametrize(
    "args, said",
    [
        ([], "name a system"),
        (["toy"], "name a picture: minigen edit toy IMAGE"),
        (["toy", "nowhere.png"], "cannot read the picture 'nowhere.png': No such file or directory\n"),
        (["toy", "test:1000000"], "test:K needs a K from 0 to 446"),
        (["toy", "test:x"], "test:K needs a K"),
        (["toy", f"test:{MANY_DIGITS}"], "test:K needs a K from 0 to 446"),
        (["toy", "wide.png"], "wide.png has 9 x 8 pixels, the model draws 8 x 8"),
        (["toy", "test:1", "--mask", "wide.png"], "the mask wide.png has 9 x 8 pixels, the picture 8 x 8"),
        (["toy", "test:1", "--mask", "2:4,0:9"], "rows within 0:8 and columns within 0:8, got '2:4,0:9'"),
        (["toy", "test:1", "--mask", "4:4,0:8"], "rows within 0:8"),
        (
            ["toy", "test:1", "--mask", "0:4"],
            "--mask must be a picture, or rows and columns as in 8:24,0:16: there is no file",
        ),
        (["toy", "test:1", "--mask", "a:4,0:8"], "rows and columns as in 8:24,0:16"),
        (["toy", "test:1", "--mask", f"0:{MANY_DIGITS},0:8"], "rows and columns as in 8:24,0:16"),
        (["toy", "test:1", "--shade", "7"], "cannot edit: shade must be from -1 to 1, got 7.0"),
        (["toy", "test:1", "--n", "0"], "--n must be at least 1"),
        (["toy", "test:1", "--seed", "-1"], "--seed must be at least 0"),
        (["toy", "test:1", "--out", "e.gif"], "--out must end in .png"),
        (["vae", "test:1"], "'vae' does not edit pictures: these do:"),
        (["toy", "test:1", "--weights", "no.safetensors"], "no.safetensors"),
    ],
)
def test_mistakes(trained: Path, refused: Any, args: list[str], said: str):
    Image.fromarray(np.zeros((8, 9), np.uint8)).save("wide.png")
    assert said in refused("edit", *args)


def test_without_weights_it_says_how_to_make_them(toy_system: Any, inside: Path, refused: Any):
    assert "train them with 'minigen train toy'" in refused("edit", "toy", "test:1")


def test_help_names_the_flags_of_the_system(toy_system: Any, capsys: Any):
    for args in (["edit", "--help"], ["edit", "toy", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 0
    assert "--shade" in capsys.readouterr().out


def test_a_broken_picture_is_no_traceback(inside: Path):
    Path("broken.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"cannot read the picture 'broken\.png'"):
        edit.pixels_of(Path("broken.png"), "L")


def test_whatever_pillow_raises_the_picture_is_named(inside: Path, monkeypatch: Any):
    def fail(*args: Any) -> Any:
        raise RuntimeError("no frame")  # as it does for a broken AVIF

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"cannot read the picture 'a\.avif': no frame"):
        edit.pixels_of(Path("a.avif"), "RGB")


def test_a_file_is_read_as_those_of_a_folder_are(inside: Path):
    """16 bits by their upper eight, what is transparent as white, turned upright."""
    deep = np.array([[0, 0x0180], [0x8001, 0xFFFF]], np.uint16)
    Image.fromarray(deep).save("deep.png")
    np.testing.assert_array_equal(edit.pixels_of(Path("deep.png"), "L"), [[0, 1], [128, 255]])
    np.testing.assert_array_equal(edit.read_mask("deep.png", (2, 2))[..., 0], [[True, True], [False, False]])
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save("clear.png")
    assert np.all(edit.pixels_of(Path("clear.png"), "RGB") == 255)
    tags = Image.Exif()
    tags[0x0112] = 3  # upside down
    Image.fromarray(np.array([[0], [255]], np.uint8)).save("turned.png", exif=tags)
    np.testing.assert_array_equal(edit.pixels_of(Path("turned.png"), "L"), [[255], [0]])
    Image.fromarray(np.zeros((2, 2), np.float32)).save("float.tif")
    with pytest.raises(UserError, match=r"cannot read the picture 'float\.tif': the range of its values"):
        edit.pixels_of(Path("float.tif"), "L")


# --- pictures in the settings -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blending:
    """Settings of edits that are made of several pictures."""

    blend: tuple[Picture, Picture] | None = None
    """Two pictures, whose mean is drawn."""
    other: Optional[Annotated[Picture, "a file"]] = None  # noqa: UP045
    """A picture that is drawn."""
    told: tuple[Picture, str] | None = None
    """A picture and a word."""
    some: tuple[Picture, ...] = ()
    """Any number of pictures."""
    large: int = 1
    """How many times larger the edits are."""


def test_the_help_says_image_where_a_picture_is_named_and_keeps_every_explanation(
    toy_system: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(toy_system, "Editing", Blending)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["edit", "toy", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for flag, help_text in {
        "--blend IMAGE IMAGE": "Two pictures, whose mean is drawn.",
        "--other IMAGE": "A picture that is drawn.",
        "--told IMAGE TEXT": "A picture and a word.",
        "--some IMAGE ...": "Any number of pictures.",
        "--large INT": "How many times larger the edits are.",
        "[IMAGE]": "Settings of edits that are made of several pictures.",
    }.items():
        assert f"{flag} " in said and help_text in said, flag
    assert "{None}|" not in said


@pytest.mark.parametrize("name", edit.editors())
def test_no_flag_for_a_picture_of_any_system_is_called_a_string(name: str, capsys: Any):
    model = curriculum.load(curriculum.find(name))
    named = edit.with_names_for_pictures(model.Editing)
    assert named() == named(**vars(model.Editing())) and vars(named()) == vars(model.Editing())
    assert list(vars(named())) == list(vars(model.Editing()))  # in the same order
    with pytest.raises(SystemExit):
        main(["edit", name, "--help"])
    said = capsys.readouterr().out
    for field in edit.picture_fields(model):
        assert f"--{field.replace('_', '-')} IMAGE" in said


@pytest.fixture
def blending(trained: Path, toy_system: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The toy with other edits: it draws the mean of the pictures it was given; returns what it is told, call by call."""
    told: list[Any] = []
    build = toy_system.build

    def edit_with(image: Any, keep: Any, *, n: int, rng: Any, large: int, **settings: Any) -> Any:
        told.append((image, keep, settings))
        one, two = settings["other"], settings["told"]
        given = [
            x for x in (image, one, two and two[0], *(settings["blend"] or ()), *settings["some"]) if x is not None
        ]
        return np.stack([np.mean(given, axis=0).repeat(large, 0).repeat(large, 1)] * n)

    def notes(edits: Any, *, image: Any, **settings: Any) -> list[str]:
        return ["with an image" if image is not None else "without"] * len(edits)

    def other_build(*args: Any, **how: Any) -> Any:
        return replace(build(*args, **how), edit=edit_with, notes_of_edits=notes)

    monkeypatch.setattr(toy_system, "Editing", Blending)
    monkeypatch.setattr(toy_system, "build", other_build)
    return told


def test_pictures_in_settings_are_read(blending: list[Any], capsys: Any):
    digits = load("digits")
    x = digits.scale(digits.test.take(np.arange(8)).images)
    Image.fromarray(np.round(digits.test.images[5][..., 0] / 16 * 255).astype(np.uint8)).save("five.png")
    assert main(["edit", "toy", "--blend", "test:3", "five.png", "--n", "2", "--out", "e.png"]) == 0
    image, keep, settings = blending[-1]
    assert image is None and keep is None and settings["other"] is None and settings["some"] == ()
    np.testing.assert_array_equal(np.stack(settings["blend"]), x[[3, 5]])
    assert capsys.readouterr().out.count("without") == 2
    with Image.open("e.png") as picture:
        assert picture.width == 2 + 4 * (160 + 2), "two pictures that were given, two edits"

    assert main(["edit", "toy", "test:1", "--other", "test:2", "--told", "test:4", "a word", "--n", "1"]) == 0
    image, _, settings = blending[-1]
    np.testing.assert_array_equal(np.stack([image, settings["other"], settings["told"][0]]), x[[1, 2, 4]])
    assert settings["told"][1] == "a word" and settings["blend"] is None
    assert "with an image" in capsys.readouterr().out
    with Image.open("edit.png") as picture:
        assert picture.width == 2 + 4 * (160 + 2), "three pictures that were given, one edit"

    assert main(["edit", "toy", "--some", "test:1", "test:2", "test:6", "--mask", "2:4,0:8", "--n", "1"]) == 0
    _, keep, settings = blending[-1]
    np.testing.assert_array_equal(np.stack(settings["some"]), x[[1, 2, 6]])
    assert keep.shape == (8, 8, 1) and keep.sum() == 6 * 8


def test_edits_may_be_larger_than_the_pictures(blending: list[Any]):
    assert main(["edit", "toy", "--other", "test:2", "--large", "2", "--n", "3", "--out", "e.png"]) == 0
    with Image.open("e.png") as picture:
        assert picture.width == 2 + 4 * (160 + 2)


def test_edits_that_are_no_numbers_are_no_picture(trained: Path, toy_system: Any, monkeypatch: Any, refused: Any):
    build = toy_system.build

    def broken(image: Any, keep: Any, *, n: int, rng: Any, **settings: Any) -> Any:
        return np.stack([image * np.nan, image])

    monkeypatch.setattr(toy_system, "build", lambda *args, **how: replace(build(*args, **how), edit=broken))
    said = refused("edit", "toy", "test:1", "--out", "e.png")
    assert "broke down: 1 of 2 samples hold NaN or infinity" in said
    assert not Path("e.png").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "name a picture: minigen edit toy IMAGE (a file, or test:K), or give --blend, --other, --told, --some"),
        (["--large", "2"], "name a picture"),
        (["--other", "nowhere.png"], "cannot read the picture 'nowhere.png'"),
        (["--blend", "test:1", "test:x"], "test:K needs a K"),
        (["--blend", "test:1"], "--blend"),
    ],
)
def test_mistakes_in_pictures_of_settings(blending: list[Any], refused: Any, args: list[str], said: str):
    assert said in refused("edit", "toy", *args)


def test_help_says_that_the_picture_may_be_left_out(blending: list[Any], capsys: Any):
    with pytest.raises(SystemExit):
        main(["edit", "toy", "--help"])
    said = capsys.readouterr().out
    assert "[IMAGE]" in said and "--blend" in said
