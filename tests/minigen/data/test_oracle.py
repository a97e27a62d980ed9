"""The oracle reads every scene exactly, also through noise and blur, and reads nothing where there is none."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import pairs, scene_of, scenes, singles

from minigen.data import broken, oracle, shapes
from minigen.data.captions import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Thing, canonical, parse
from minigen.data.oracle import Reading, matches, prompt_accuracy, read, readings, verdict, verdicts
from minigen.data.shapes import arrange, render

RED, BLUE = Thing("circle", "red", "small"), Thing("square", "blue", "large")


def drawn(n, seed=0):
    """n scenes, half of them with something that is held out of training."""
    rng = np.random.default_rng(seed)
    halves = [shapes.draw(n // 2, rng=rng, held=held) for held in (False, True)]
    return shapes.Scenes(**{k: np.concatenate([vars(h)[k] for h in halves]) for k in vars(halves[0])})


def pictured(*wanted, seed=0):
    return render(arrange(wanted, rng=np.random.default_rng(seed)))


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "n"), [("clean", 1000), ("noise", 400), ("blur", 200), ("64", 200), ("128", 100)])
def test_every_scene_is_read_exactly(how, n):
    found = drawn(n)
    assert read(broken.disturbed(found, how, rng=np.random.default_rng(1))) == list(found)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["clean", "noise"])
def test_ten_thousand_scenes_are_read_exactly(how):
    found = drawn(10_000, seed=1)
    right = np.array([a == b for a, b in zip(read(broken.disturbed(found, how, rng=np.random.default_rng(2))), found)])
    assert right.mean() == 1 if how == "clean" else right.mean() >= 0.995


def test_clean_pictures_are_far_from_the_limit():
    """Eq. 2: what is left of a clean thing is its tint; eq. 3: and the rounding of a step's last hundredth of a pixel."""
    assert max(reading.misfit for reading in readings(render(drawn(400)))) < 0.5


@given(scenes, st.integers(0, 99))
def test_any_scene_is_read_at_any_place_in_a_batch(description, seed):
    scene = scene_of(description)
    picture = pictured(scene, seed=seed)
    assert read(picture) == [scene]
    others = [broken.noise(2, rng=np.random.default_rng(seed)), picture, render(drawn(2, seed))]
    assert read(np.concatenate(others))[2] == scene


def test_levels_floats_and_what_lies_outside_are_the_same_picture():
    found = drawn(20)
    levels = render(found)
    x = levels / 127.5 - 1
    for images in (levels, x, x.astype(np.float32), np.where(x > 0.9, x + 3, x)):
        assert read(images) == list(found)
    assert read(levels[:0]) == []


def test_the_background_is_a_median():
    """Two things that a model put a little too far out cover a fifth of the border: its mean would be no background."""
    yellow = Thing("square", "yellow", "large")
    scene = Scene((yellow, yellow), None, "above", "black")
    arranged = arrange([scene], rng=np.random.default_rng(0))
    at_the_edge = np.array([[[15.5, 5.0], [15.5, 26.0]]])
    picture = render(replace(arranged, centre=at_the_edge, radius=np.full((1, 2), 6.5)))
    assert picture[0, [0, -1], :, 0].mean() > 0.3 * 255 and read(picture) == [scene]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_scene(value):
    x = render(drawn(2)) / 127.5 - 1
    x[0, 3, 4, 1] = value
    assert read(x)[0] is None and read(x)[1] is not None


def test_arrays_that_are_no_pictures_are_refused():
    for shape in ((32, 32, 3), (1, 32, 32, 1), (1, 40, 40, 3), (1, 32, 64, 3)):
        with pytest.raises(ValueError, match=r"images must have shape \(n, h, h, 3\)"):
            read(np.zeros(shape, np.uint8))
    with pytest.raises(TypeError, match="uint8 or floats in"):
        read(np.zeros((1, 32, 32, 3), np.int64))


# --- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", broken.KINDS)
def test_what_is_no_scene_is_refused(kind):
    images = broken.KINDS[kind](200, rng=np.random.default_rng(0))
    assert images.shape == (200, 32, 32, 3) and images.dtype == np.uint8
    assert read(images) == [None] * 200
    assert all(reading.fault for reading in readings(images))


@pytest.mark.parametrize(
    ("patch", "level"), [((2, 3), 0.26), ((2, 3), 0.24), ((1, 5), 0.3), ((5, 5), 0.13), ((5, 5), 0.11)]
)
def test_eq4_what_is_more_than_two_pixels_beside_a_thing(patch, level):
    """A patch of one level at every place around a box, against the equation."""
    top, left, bottom, right = 14, 13, 18, 19
    places = np.array([(y, x) for y in range(6, 25) for x in range(5, 26)])
    q = np.zeros((len(places), 32, 32, 3), np.float32)
    for picture, (y, x) in zip(q, places):
        picture[y : y + patch[0], x : x + patch[1], 1] = level
    y, x = np.mgrid[:32, :32]
    beside = (y < top - 2) | (y > bottom + 1) | (x < left - 2) | (x > right + 1)
    left_over = np.where(beside, q[..., 1], 0)
    specks = (left_over > 0.25).sum((1, 2))
    mean = np.lib.stride_tricks.sliding_window_view(left_over, (5, 5), (1, 2)).sum((3, 4)).max((1, 2)) / 25
    found = oracle._littered(q, np.arange(len(q)), np.tile([top, left, bottom, right], (len(q), 1)))
    np.testing.assert_array_equal(found, (specks >= 6) | (mean > 0.12))


def test_three_things_and_none_are_counted():
    rng = np.random.default_rng(0)
    assert {r.fault for r in readings(broken.three(50, rng=rng))} == {"3 things"}
    assert {r.fault for r in readings(broken.blank(50, rng=rng))} == {"nothing to see"}


@given(singles, st.integers(0, 99))
def test_a_faded_thing_is_no_scene_unless_a_little(description, seed):
    """Eq. 2 at contrast a: g = (1 - a)^2, which is 0.02 at 0.85 and 1/4 at 1/2. Eq. 3: 0.15 of a contrast below 1.3."""
    things, *where = description
    scene = scene_of((((things[0][0], things[0][1], 1),), *where))
    arranged = arrange([scene], rng=np.random.default_rng(seed))
    background = 255 * arranged.rgb[:, 0]
    for contrast, accepted in ((0.85, True), (0.5, False)):
        picture = background + contrast * (render(arranged) - background)
        assert (read(np.rint(picture).astype(np.uint8))[0] is not None) == accepted


def test_a_thing_out_of_place_is_no_scene():
    arranged = arrange([Scene((RED,), "middle", None, "black")] * 3, rng=np.random.default_rng(0))
    for away, places in ((0.0, ["middle"] * 3), (2.0, ["middle"] * 3), (3.6, [None] * 3), (8.0, ["right"] * 3)):
        moved = render(replace(arranged, centre=np.full((3, 2, 2), 15.5) + [away, 0]))
        assert [scene and scene.place for scene in read(moved)] == places
    two = arrange([Scene((RED, BLUE), None, "left of", "black")], rng=np.random.default_rng(0))
    for up, fault in (
        (4.5, ""),
        (5.5, "out of place"),
        (8.0, "out of place"),
    ):  # the world has 2.75, a model may 2.25 more
        moved = replace(two, centre=np.array([[[7.5, 15.5 - up], [23.5, 15.5 + up]]]))
        assert readings(render(moved))[0].fault == fault
    for inwards, fault in ((2.5, ""), (3.5, "out of place")):  # the world has 0.75
        for centres in ([7.5 + inwards, 23.5], [7.5, 23.5 - inwards]):
            moved = replace(two, centre=np.array([[[x, 15.5] for x in centres]]))
            assert readings(render(moved))[0].fault == fault


def test_a_background_of_another_colour_is_no_scene():
    arranged = arrange([Scene((RED,), "middle", None, "black")], rng=np.random.default_rng(0))
    rgb = arranged.rgb.copy()
    rgb[:, 0] = [0.1, 0.3, 0.6]
    assert readings(render(replace(arranged, rgb=rgb)))[0].fault == "odd background"
    for away, fault in ((0.19, ""), (0.21, "odd background")):
        rgb[:, 0] = shapes.GREYS[0] + np.array([0, 0, away])
        assert readings(render(replace(arranged, rgb=rgb)))[0].fault == fault


# --- judging ----------------------------------------------------------------------------------------------------------


def others(scene):
    """Scenes that differ from one in one attribute of one thing, or of the whole: (attribute, the other scene)."""
    for k, thing in enumerate(scene.things):
        for name, known in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)):
            value = known[(known.index(getattr(thing, name)) + 1) % len(known)]
            things = list(scene.things)
            things[k] = replace(thing, **{name: value})
            yield name, replace(scene, things=tuple(things))
    for name, known in (("place", PLACES), ("relation", RELATIONS), ("background", BACKGROUNDS)):
        if getattr(scene, name):
            yield name, replace(scene, **{name: known[(known.index(getattr(scene, name)) + 1) % len(known)]})


@given(scenes, st.integers(0, 9))
def test_each_wrong_attribute_makes_the_verdict_wrong_and_only_that(description, seed):
    scene = scene_of(description)
    changed = list(others(scene))
    first, *rest = verdicts(
        [canonical(scene)] * (1 + len(changed)), pictured(scene, *(o for _, o in changed), seed=seed)
    )
    assert first.right
    for found, (name, other) in zip(rest, changed, strict=True):
        assert not found.right and not matches(scene, other)
        assert [k for k, right in found.attributes.items() if not right] == [name] and len(found.wrong) == 1


@given(scenes)
def test_what_a_prompt_does_not_name_may_be_anything(description):
    scene = scene_of(description)
    for name, other in others(scene):
        if name not in ("shape", "place", "relation", "background"):  # an attribute of a thing: leave it out of both
            less = replace(scene, things=tuple(replace(t, **{name: None}) for t in scene.things))
            assert matches(less, other) and matches(less, scene)
        elif name != "shape":
            assert matches(replace(scene, **{name: None}), other)


@given(pairs)
def test_things_that_are_the_wrong_way_round_have_a_wrong_relation(description):
    scene = scene_of(description)
    turned = replace(scene, things=scene.things[::-1])
    found = verdict(scene, Reading(turned))
    if turned == scene:
        assert found.right
    else:
        assert [k for k, right in found.attributes.items() if not right] == ["relation"]
        assert str(found) in ("right of, not left of", "below, not above")
    other_axis = replace(turned, relation="above" if scene.relation == "left of" else "left of")
    found = verdict(scene, Reading(other_axis))
    assert [k for k, right in found.attributes.items() if not right] == ["relation"]


def test_swapped_colours_are_wrong_colours():
    """Bound to the wrong things: neither thing has its colour, and the relation is right."""
    scene = parse("a small red circle left of a large blue square")
    shown = parse("a small blue circle left of a large red square on a black background")
    found = verdict(scene, Reading(shown))
    assert found.attributes == {
        **{"valid": True, "count": True, "size": True, "colour": False, "shape": True, "relation": True}
    }
    assert str(found) == "blue, not red; red, not blue"


def test_verdicts_in_words():
    two = Scene((RED, BLUE), None, "left of", "black")
    images = np.concatenate([pictured(two), broken.blank(1, rng=np.random.default_rng(0)), pictured(two)])
    prompts = ["a red circle", "a red circle", "a large red circle left of a blue ring on a white background"]
    assert [str(v) for v in verdicts(prompts, images)] == [
        "number of things: 2, not 1",
        "nothing to see",
        "small, not large; square, not ring; black, not white",
    ]
    assert str(verdicts([two], pictured(two))[0]) == "right"


def test_a_picture_that_is_no_scene_is_never_right():
    """A half-faded circle is still taken for a circle, so its attributes count, but the prompt is not met."""
    arranged = arrange([Scene((BLUE,), "middle", None, "black")], rng=np.random.default_rng(0))
    picture = (render(arranged) * 0.5).astype(np.uint8)
    (found,) = verdicts(["a square"], picture)
    assert not found.right and found.attributes["count"] and not found.attributes["valid"]
    assert "no clean shape" in found.wrong
    assert not matches(parse("a square"), read(picture)[0])


def test_prompt_accuracy_by_hand():
    one, two = Scene((RED,), "top", None, "black"), Scene((RED, BLUE), None, "above", "white")
    shown = [one, one, one, two, two]
    asked = [
        one,  # right
        "a red square at the bottom",  # shape and place wrong
        "a small circle above a ring",  # count wrong
        "a red circle above a large ring",  # shape wrong
        "a blue square below a circle on a white background",  # right
    ]
    rates = prompt_accuracy(asked, pictured(*shown))
    want = {"all": 2 / 5, "valid": 1.0, "count": 4 / 5, "shape": 2 / 4, "colour": 1.0, "size": 1.0, "place": 1 / 2}
    assert rates == pytest.approx(want | {"relation": 1.0, "background": 1.0})
    nothing = prompt_accuracy(["a ring"], broken.blank(1, rng=np.random.default_rng(0)))
    assert (nothing["all"], nothing["valid"], nothing["count"]) == (0, 0, 0) and np.isnan(nothing["shape"])


def test_prompts_and_images_must_be_as_many():
    with pytest.raises(ValueError, match="one for each image, got 1 for 2 images"):
        prompt_accuracy(["a ring"], render(drawn(2)))
    with pytest.raises(ValueError, match="'blob'"):
        verdicts(["a blob"], pictured(Scene((RED,), "top", None, "black")))


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_table_of_the_command_line(monkeypatch, capsys):
    command = [sys.executable, "-W", "error", "-m", "minigen.data.oracle", "--check", "40"]
    table = subprocess.run(command, capture_output=True, text=True)
    assert table.returncode == 0 and table.stderr == ""
    rows = {line.split()[0]: line.split()[1:] for line in table.stdout.splitlines() if line}
    for how in ("clean", "blur", "64", "128"):
        assert rows[how][:4] == ["1.0000"] * 4
    for kind in set(broken.KINDS) - {"noise"}:  # which is also the name of a row above
        assert rows[kind] == ["1.0000"]
    monkeypatch.setattr(sys, "argv", ["oracle", "--check", "3"])
    with pytest.raises(SystemExit) as stop:
        broken.main()
    assert stop.value.code == 2 and "--check must be at least 8, got 3" in capsys.readouterr().err
