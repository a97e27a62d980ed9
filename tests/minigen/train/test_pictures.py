"""Pictures: where each pixel goes, and curves that are sound XML without a network."""

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from minigen.data import load
from minigen.train import pictures


@given(n=st.integers(0, 7), h=st.integers(1, 4), w=st.integers(1, 4), columns=st.integers(1, 5), zoom=st.integers(1, 3))
def test_every_pixel_of_every_image_is_where_the_grid_says(n: int, h: int, w: int, columns: int, zoom: int):
    images = np.random.default_rng(0).integers(0, 255, (n, h, w, 3)).astype(np.uint8)
    canvas = pictures.tile(images, columns, zoom=zoom)
    gap = pictures.GAP
    for i in range(n):
        y = gap + i // columns * (h * zoom + gap)
        x = gap + i % columns * (w * zoom + gap)
        assert (canvas[y : y + h * zoom : zoom, x : x + w * zoom : zoom] == images[i]).all()
        assert (canvas[y + zoom - 1 : y + h * zoom : zoom, x : x + w * zoom : zoom] == images[i]).all()


def test_grid_of_digits_is_square_and_a_png(tmp_path: Path):
    digits = load("digits")
    pictures.save_png(tmp_path / "grid.png", pictures.grid(digits, digits.train.images[:16]))
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == (4 * 50 + 2, 4 * 50 + 2) and image.mode == "RGB"


def test_floats_and_levels_give_the_same_picture():
    digits = load("digits")
    levels = digits.train.images[:4]
    assert (pictures.grid(digits, levels) == pictures.grid(digits, digits.scale(levels))).all()


def test_points_are_drawn_where_they_lie():
    """One point in the upper right quarter darkens one square there."""
    picture = pictures.points(np.array([[1.0, 0.5]], np.float32))[0, :, :, 0]
    ((y, x),) = np.argwhere(picture < pictures.POINTS_PAPER)
    assert y < pictures.POINTS_SIDE // 2 < x


def test_a_point_is_large_enough_to_be_seen():
    rings = load("rings")
    picture = pictures.grid(rings, np.array([[1.0, 0.5]], np.float32))[:, :, 0]
    dark = np.argwhere(picture < 128)
    assert picture.shape == (388, 388) and len(dark) == 6 * 6 and (np.ptp(dark, axis=0) == 5).all()


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (30, 2, 5)])
def test_a_strip_of_points_has_five_states_a_row(n: int, rows: int, columns: int):
    states = [np.full((3, 2), value, np.float32) for value in np.linspace(-0.9, 0.9, n)]
    picture = pictures.strip(load("rings"), states)[:, :, 0]
    assert picture.shape == (rows * 386 + 2, columns * 386 + 2)
    last = np.argwhere(picture[-388:, -388:] < 128)
    assert len(last) == 36 and (n == 1 or (last[:, 0].max() < 194 < last[:, 1].min()))


def test_strip_shows_first_and_last_state():
    digits = load("digits")
    states = [np.full((2, 8, 8, 1), v, np.float32) for v in np.linspace(-1, 1, 30)]
    strip = pictures.strip(digits, states, rows=2, columns=4)
    assert strip.shape == (2 * 50 + 2, 4 * 50 + 2, 3)
    row = strip[10, 10::50, 0]
    assert row[0] == 0 and row[-1] == 255 and (np.diff(row[:4].astype(int)) > 0).all()
    with pytest.raises(ValueError, match="at least one state"):
        pictures.strip(digits, [])


def test_an_animation_begins_and_ends_with_the_states_and_is_bounded():
    digits = load("digits")
    states = [np.full((2, 8, 8, 1), v, np.float32) for v in np.linspace(-1, 1, 90)]
    with Image.open(io.BytesIO(pictures.gif(digits, states, samples=1))) as film:
        assert film.is_animated and film.n_frames == pictures.FRAMES and film.info["loop"] == 0
        seen = []
        for i in range(film.n_frames):
            film.seek(i)
            seen.append(film.convert("L").getpixel((20, 20)))
    assert seen[0] <= 2 and seen[-1] >= 253 and (np.diff(seen) >= 0).all()
    with pytest.raises(ValueError, match="at least one state"):
        pictures.gif(digits, [])


def test_notes_are_broken_to_the_width_of_their_picture():
    digits, font = load("digits"), ImageFont.load_default(pictures.NOTE_SIZE)
    words = "a small red circle above a large blue square on a gray background"
    pieces = pictures._broken(words, 160, font)
    assert " ".join(pieces) == words and len(pieces) > 1
    assert all(font.getlength(piece) <= 160 for piece in pieces)
    assert pictures._broken("x" * 99, 160, font) == ["x" * 99] and pictures._broken("", 160, font) == []
    one, two = (pictures.noted(digits, digits.test.images[:3], [note] * 3) for note in ("short", words))
    assert one.shape[1] == two.shape[1] == 3 * 162 + 2 and one.shape[0] < two.shape[0]
    assert (one[2:162, 2:162] == digits.to_rgb8(digits.test.images[:1])[0].repeat(20, 0).repeat(20, 1)).all()
    assert (one[162:, 2:162] < 128).any()  # ink below the picture
    with pytest.raises(ValueError, match="one entry a sample: got 1 for 3"):
        pictures.noted(digits, digits.test.images[:3], ["short"])


def test_empty_and_odd_sizes():
    digits = load("digits")
    assert pictures.grid(digits, np.zeros((0, 8, 8, 1), np.float32)).ndim == 3
    assert pictures.grid(digits, np.zeros((3, 1, 1, 1), np.float32)).shape == (2 * 50 + 2, 2 * 50 + 2, 3)
    with pytest.raises(ValueError, match="columns and zoom must be at least 1"):
        pictures.tile(np.zeros((1, 1, 1, 3), np.uint8), 0)


@pytest.mark.parametrize("values", [[1.0], [2.0, 1.0], [100.0, 1.0, 0.5], [-1.0, 3.0], [0.0, 0.0]])
def test_curve_is_sound_xml_within_its_box(values: list[float]):
    steps = list(range(1, len(values) + 1))
    svg = pictures.curve_svg({"a<b": (steps, values), "c": (steps, values)}, title='loss of "A" & B')
    root = ElementTree.fromstring(svg)
    assert "http" not in svg
    for line in root.iter("polyline"):
        for dot in line.attrib["points"].split():
            x, y = map(float, dot.split(","))
            assert pictures.LEFT <= x <= pictures.WIDTH and 0 <= y <= pictures.HEIGHT


def test_curve_of_nothing_is_nothing():
    assert pictures.curve_svg({}, title="loss") == ""
    assert pictures.curve_svg({"a": ([], [])}, title="loss") == ""


def test_png_bytes_are_lossless():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(pictures.png(picture)))) == picture).all()
