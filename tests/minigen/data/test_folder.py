"""Image folders that the test writes: colours, modes, crops, classes, links, broken files."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from minigen.data import load
from minigen.data.folder import find_images, folder, plain, read_image


def solid(path, colour, size=(6, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_classes_are_the_subfolders(tmp_path):
    for name, colour in (("zebra", "white"), ("ant", "black")):
        for i in range(10):
            solid(tmp_path / name / "deeper" / f"{i}.png", colour)
    d = load("folder", data_dir=tmp_path, size=4)
    assert (d.name, d.levels, d.shape, d.classes) == ("folder", 256, (4, 4, 3), ("ant", "zebra"))
    assert [len(s) for s in (d.train, d.val, d.test)] == [16, 2, 2]
    for split in (d.train, d.val, d.test):
        assert np.array_equal(split.images[:, 0, 0, 0] > 0, split.labels == 1)


def test_the_split_of_the_pictures_is_a_fixed_permutation_of_their_paths(tmp_path):
    for i in range(20):
        solid(tmp_path / f"{i:02}.png", (i, i, i))
    d, rows = load("folder", data_dir=tmp_path, size=1), np.random.default_rng(0).permutation(20)
    for split, want in ((d.train, rows[4:]), (d.val, rows[:2]), (d.test, rows[2:4])):
        assert np.array_equal(split.images[:, 0, 0, 0], want)


def test_no_classes_in_a_flat_or_mixed_directory_or_a_single_subfolder(tmp_path):
    for i in range(4):
        solid(tmp_path / "only" / f"{i}.png", "red")
    assert load("folder", data_dir=tmp_path).classes == ()
    solid(tmp_path / "other" / "1.png", "red")
    assert load("folder", data_dir=tmp_path).classes == ("only", "other")
    solid(tmp_path / "loose.png", "red")
    d = load("folder", data_dir=tmp_path)
    assert d.classes == () and d.train.labels is None and d.shape == (32, 32, 3)


def test_grey_files_give_one_channel_unless_asked(tmp_path):
    for i in range(3):
        solid(tmp_path / f"{i}.png", 40 * i, mode="L")
    assert folder(tmp_path, 2).shape == (2, 2, 1)
    assert folder(tmp_path, 2, grey=False).shape == (2, 2, 3)
    solid(tmp_path / "colour.jpg", "red")
    assert folder(tmp_path, 2).shape == (2, 2, 3)
    assert folder(tmp_path, 2, grey=True).shape == (2, 2, 1)


def test_the_centred_square_is_kept(tmp_path):
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[:, 3:7] = 200  # the centred 4x4
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "wide.png", 4)), pixels[:, 3:7])
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2))).save(tmp_path / "tall.png")
    assert np.asarray(read_image(tmp_path / "tall.png", 4)).min() == 200


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((4, 4), np.uint8)
    pixels[0] = 255
    image, tag = Image.fromarray(pixels), Image.Exif()
    tag[0x0112] = 6  # to be turned 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=tag)
    got = np.asarray(read_image(tmp_path / "turned.png", 4))
    assert np.array_equal(got, np.rot90(pixels, -1))


def test_transparent_palette_and_16_bit_files(tmp_path):
    solid(tmp_path / "clear.png", (200, 0, 0, 0), mode="RGBA")
    assert np.asarray(read_image(tmp_path / "clear.png", 2)).min() == 255  # white
    Image.new("RGB", (3, 3), (10, 200, 30)).convert("P").save(tmp_path / "palette.gif")
    assert read_image(tmp_path / "palette.gif", 2).mode == "RGB"
    Image.fromarray(np.full((3, 3), 0x8001, np.uint16)).save(tmp_path / "deep.png")
    deep = read_image(tmp_path / "deep.png", 2)
    assert deep.mode == "L" and np.asarray(deep).max() == np.asarray(deep).min() == 0x80
    solid(tmp_path / "bits.png", 1, mode="1")
    assert np.asarray(read_image(tmp_path / "bits.png", 2)).min() == 255
    solid(tmp_path / "grey-clear.png", (7, 0), mode="LA")
    grey = read_image(tmp_path / "grey-clear.png", 2)
    assert grey.mode == "L" and np.asarray(grey).min() == 255


def test_16_bit_values_keep_their_range_and_their_transparency(tmp_path):
    deep = np.full((3, 3), 0x8001, np.uint16)
    deep[0] = 0x8002
    Image.fromarray(deep).save(tmp_path / "clear.png", transparency=0x8001)
    got = read_image(tmp_path / "clear.png", 3)
    assert got.mode == "L" and np.asarray(got).tolist() == [[0x80] * 3, [255] * 3, [255] * 3]
    (tmp_path / "deep.pgm").write_bytes(b"P5 3 3 65535\n" + deep.astype(">u2").tobytes())  # Pillow's mode I
    assert np.all(np.asarray(read_image(tmp_path / "deep.pgm", 3)) == 0x80)
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    assert np.all(np.asarray(read_image(tmp_path / "deep.tif", 3)) == 0x80)


def grey_tiff(path, *, bits, white_is_zero, data):
    """A TIFF of 4 x 1 grey pixels, uncompressed: its header, its nine tags, its pixels."""
    tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 122, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data)


def test_grey_of_a_tiff_is_read_with_its_bits_and_its_black(tmp_path):
    grey_tiff(tmp_path / "twelve.tif", bits=12, white_is_zero=False, data=bytes.fromhex("0007ff801fff"))
    with Image.open(tmp_path / "twelve.tif") as image:
        assert np.asarray(plain(image)).tolist() == [[0, 0x7F, 0x80, 255]]
    grey_tiff(
        tmp_path / "turned.tif", bits=16, white_is_zero=True, data=np.array([0, 1, 0x8000, 65535], "<u2").tobytes()
    )
    with Image.open(tmp_path / "turned.tif") as image:
        assert np.asarray(plain(image)).tolist() == [[255, 255, 127, 0]]


def test_mode_i_of_a_png_has_16_bits():
    deep = Image.fromarray(np.full((2, 2), 0x8001, np.int32))  # so Pillow 10.1 opens it
    deep.format = "PNG"
    assert np.all(np.asarray(plain(deep)) == 0x80)


@pytest.mark.parametrize("value", [np.int32(200), np.int32(40000), np.float32(0.7), np.float32(178), np.float32("nan")])
def test_values_of_unknown_range_are_refused(tmp_path, value):
    Image.fromarray(np.full((3, 3), value)).save(tmp_path / "wide.tif")
    with pytest.raises(
        ValueError, match=r"wide\.tif': the range of its values \(mode [IF]\) is unknown; mend or remove"
    ):
        read_image(tmp_path / "wide.tif", 2)


def test_a_large_jpeg_keeps_its_picture(tmp_path):
    half = np.zeros((640, 640, 3), np.uint8)
    half[:320] = 255
    Image.fromarray(half).save(tmp_path / "large.jpg", quality=95)
    got = np.asarray(read_image(tmp_path / "large.jpg", 8)).astype(int)
    assert got[:3].min() > 230 and got[5:].max() < 25


def test_other_and_hidden_files_are_passed_over(tmp_path):
    for i in range(3):
        solid(tmp_path / f"{i}.PNG", "red")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._0.png").write_bytes(b"what some systems leave behind")
    (tmp_path / ".hidden").mkdir()
    solid(tmp_path / ".hidden" / "a.png", "red")
    assert [path.name for path in find_images(tmp_path)] == ["0.PNG", "1.PNG", "2.PNG"]


def test_formats_without_a_mime_type_are_taken_and_what_is_no_picture_is_not(tmp_path):
    for ending in ("pdf", "eps", "mpg", "wmf", "h5", "grib", "bufr", "fits"):
        (tmp_path / f"no.{ending}").write_bytes(b"no picture")
    solid(tmp_path / "a.dds", "red")
    for ending in ("cur", "qoi", "ras"):
        (tmp_path / f"b.{ending}").write_bytes(b"")
    assert [path.name for path in find_images(tmp_path)] == ["a.dds", "b.cur", "b.qoi", "b.ras"]
    assert np.asarray(read_image(tmp_path / "a.dds", 1)).tolist() == [[[255, 0, 0]]]


def test_links_are_followed_once(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for i in range(3):
        solid(root / "a" / f"{i}.png", "red")
        solid(elsewhere / "b" / f"{i}.png", "blue")
    (root / "b").symlink_to(elsewhere / "b")
    (root / "a" / "3.png").symlink_to(elsewhere / "b" / "0.png")
    (root / "loop").symlink_to(root)
    (elsewhere / "b" / "up").symlink_to(root / "a")
    (root / "c").symlink_to(root / "b")
    assert [path.relative_to(root).as_posix() for path in find_images(root)] == [
        *(f"a/{i}.png" for i in range(4)),
        *(f"b/{i}.png" for i in range(3)),
    ]
    assert folder(root).classes == ("a", "b")


@pytest.mark.parametrize("name", ["b", "0.png"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, name):
    (tmp_path / ".hidden.png").symlink_to(tmp_path / "nothing")
    assert find_images(tmp_path) == []
    (tmp_path / name).symlink_to(tmp_path / "nothing")  # a class folder, or a picture
    with pytest.raises(ValueError, match=rf"the link .*{name}' leads nowhere"):
        find_images(tmp_path)


def test_a_directory_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # root may read what the test forbids
    with pytest.raises(ValueError, match=r"cannot list the directory .*: Permission denied"):
        find_images(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("no frame"), struct.error("4 bytes"), MemoryError(), KeyError("tag")])
def test_whatever_pillow_raises_the_picture_is_named(tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    solid(tmp_path / "0.png", "red")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match=rf"0\.png': {str(error) or 'MemoryError'}; mend or remove it"):
        read_image(tmp_path / "0.png", 2)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_corrupt_picture_is_an_error_that_names_it(tmp_path, damage):
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes({"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"cannot read the picture .*1\.png") as error:
        load("folder", data_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="needs the directory of the pictures"):
        load("folder")
    with pytest.raises(ValueError, match="existing directory"):
        load("folder", data_dir=tmp_path / "nowhere")
    solid(tmp_path / "0.png", "red")
    with pytest.raises(ValueError, match="existing directory"):
        load("folder", data_dir=tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"at least 3 pictures .* got 1"):
        load("folder", data_dir=tmp_path)
    for size in (0, 16_385):
        with pytest.raises(ValueError, match=f"size must be at least 1 pixel and at most 16384, got {size}"):
            load("folder", data_dir=tmp_path, size=size)
