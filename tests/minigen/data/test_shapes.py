"""The shapes world: items that are functions of (seed, split, index), what is held out, and what the renderer draws."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import scene_of
from scenes import scenes as described
from scipy.stats import chi2

from minigen.data import batch, load, shapes
from minigen.data.captions import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Thing, parse
from minigen.data.shapes import HELD_PAIRS, HELD_RELATIONS, arrange, coverage, held_out, part, render, signed_distance

ALPHA = 1e-6  # of each statistical test; all seeds are fixed
RED = Thing("circle", "red", "small")
SPLITS = ("train", "val", "test", "held")


# --- items as functions of (seed, split, index) -----------------------------------------------------------------------


def test_the_stream_of_seed_0_is_splitmix64():
    """The first outputs of SplitMix64 for seed 0, as in Steele, Lea & Flood's reference program."""
    outputs = shapes._mix(np.arange(1, 4, dtype=np.uint64) * shapes.GAMMA)
    assert [hex(x) for x in outputs] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_the_first_captions_are_what_they_have_always_been():
    """A change of the draws would silently make another data set of the same name."""
    assert part("train").captions[:3] == [
        "a little blue circle at the bottom left",
        "there is a small cyan ring in the bottom left corner",
        "a small cyan ring on the right side",
    ]
    assert [part(split, seed=5).captions[0] for split in ("val", "test", "held")] == [
        "a picture of a huge orange square to the left of a huge green triangle",
        "there is a huge cyan ring over a small red ring",
        "there is a large green triangle below a little blue square on a black background",
    ]


@given(
    rows=st.lists(st.integers(0, 9_999), max_size=6),
    split=st.sampled_from(SPLITS),
    seed=st.integers(0, 2**64 - 1),
)
def test_an_item_does_not_depend_on_the_items_beside_it(rows, split, seed):
    whole = part(split, seed=seed)
    some = whole.take(np.array(rows, np.int64))
    assert some.images.shape == (len(rows), 32, 32, 3) and some.images.dtype == np.uint8
    assert len(some) == len(some.scenes) == len(some.captions) == len(rows)
    for i, row in enumerate(rows):
        assert np.array_equal(some.images[i], whole.images[row])
        assert some.captions[i] == whole.captions[row] == whole.captions[row : row + 1][0]
        assert some.scenes[i] == whole.scenes[row] == whole.scenes[[row - len(whole)]][0]


def test_seeds_splits_and_rows_all_give_other_pictures():
    pictures = [part(split, seed=seed).images[:4] for split in SPLITS for seed in (0, 1, 2**32, 2**63)]
    assert len({picture.tobytes() for some in pictures for picture in some}) == 4 * 4 * 4


def test_uniform_numbers_are_uniform_and_independent_of_each_other():
    u = shapes.uniform(0, "train", np.arange(20_000))
    assert u.shape == (20_000, shapes.COLUMNS) and u.min() >= 0 and u.max() < 1
    for column in range(u.shape[1]):
        assert_uniform((u[:, column] * 20).astype(int), 20)
    centred = (u - 0.5) * np.sqrt(12)
    between = centred.T @ centred / len(u)  # correlations of columns, about N(0, 1/n) off the diagonal
    along = (centred[1:] * centred[:-1]).mean(0)  # and of neighbouring rows
    assert np.abs(between - np.diag(np.diag(between))).max() < 7 / np.sqrt(len(u))
    assert np.abs(along).max() < 7 / np.sqrt(len(u))


def test_each_number_behind_a_scene_moves_one_thing():
    """Of two things: radii, places along and across the relation, and colours share no number."""
    u = np.full((18, shapes.COLUMNS), 0.4)
    u[:, 0], u[range(1, 18), range(6, 23)] = 0.9, 0.6
    found = shapes._scenes(u, held=False)
    told = np.concatenate([a.reshape(18, -1) for a in (found.radius, found.centre, found.rgb)], axis=1)
    moved = told[1:] != told[0]
    assert (moved.sum(axis=1) == 1).all() and moved.sum(axis=0).tolist() == [1, 1, *[1, 2] * 2, *[1] * 9]


def assert_uniform(values, k):
    """Pearson's test that each of 0..k-1 is equally likely, at level ALPHA."""
    counts = np.bincount(values, minlength=k)
    expected = len(values) / k
    assert len(counts) == k and np.sum((counts - expected) ** 2) / expected < chi2.isf(ALPHA, k - 1)


# --- the data set -----------------------------------------------------------------------------------------------------


def test_the_data_set():
    d = load("shapes")
    assert (d.name, d.levels, d.shape, d.classes, d.train.labels) == ("shapes", 256, (32, 32, 3), (), None)
    assert [len(s) for s in (d.train, d.val, d.test)] == [1_000_000, 10_000, 10_000]
    other = shapes.shapes(seed=5)
    assert [s.scenes for s in (other.train, other.val, other.test)] == [shapes.scenes(s, seed=5) for s in SPLITS[:3]]
    assert d.train.images.shape == (1_000_000, 32, 32, 3) and d.train.images.ndim == 4
    assert load("shapes", size=64).shape == (64, 64, 3) and load("shapes", size=128).val.images[3].shape == (
        128,
        128,
        3,
    )
    with pytest.raises(ValueError, match="size must be 32, 64 or 128 for the data set 'shapes', got 48"):
        load("shapes", size=48)
    with pytest.raises(ValueError, match=r"seed must be in 0\.\.2\^64-1, got -1"):
        shapes.shapes(seed=-1)
    with pytest.raises(ValueError, match="split must be one of train, val, test, held, got 'valid'"):
        part("valid")


def test_a_lazy_split_is_indexed_as_an_array_is():
    images = part("val").images
    every = images[:50]
    assert np.array_equal(images[10:50:7], every[10::7]) and np.array_equal(
        images[np.array([3, 1, 3])], every[[3, 1, 3]]
    )
    assert np.array_equal(images[-9_999], every[1]) and np.array_equal(images[[-9_999, 2]], every[1:3])
    mask = np.zeros(len(images), bool)
    mask[[4, 7]] = True
    assert np.array_equal(images[mask], every[[4, 7]])
    assert images[:0].shape == (0, 32, 32, 3) and images[[]].shape == (0, 32, 32, 3)
    assert all(np.array_equal(a, b) for a, b in zip(images, every[:3]))
    for index in (10_000, [10_000], -10_001):
        with pytest.raises(IndexError):
            images[index]


def test_a_million_pictures_are_not_drawn_by_accident():
    assert np.asarray(part("val").scenes[:7].radius).shape == (7, 2)
    with pytest.raises(ValueError, match="1000000 pictures are drawn on demand"):
        np.asarray(part("train").images)


def test_what_a_resumed_run_compares_tells_pictures_apart():
    found = [
        part(split, size=size, seed=seed).images.identity for split in SPLITS for size in (32, 64) for seed in (0, 1)
    ]
    assert len(set(found)) == 16 and part("train").images.identity == shapes.shapes().train.images.identity


@given(seed=st.integers(0, 99), step=st.integers(0, 10**6), size=st.integers(1, 8))
def test_a_batch_of_a_million_is_the_permutation_of_the_epoch(seed, step, size):
    """The same batches as of any other split: item i of batch s is number s size + i of default_rng((seed, e)).permutation(n)."""
    split = part("val")
    found = batch(split, seed=seed, step=step, size=size)
    position = step * size + np.arange(size)
    rows = [np.random.default_rng((seed, p // 10_000)).permutation(10_000)[p % 10_000] for p in position.tolist()]
    assert np.array_equal(found.images, split.images[rows]) and found.captions == split.captions[rows]
    assert list(found.scenes) == list(split.scenes[rows])


def test_captions_describe_their_scenes():
    for caption, scene in zip(part("train").captions[:300], part("train").scenes[:300]):
        found = parse(caption)
        assert (found.things, found.place, found.relation) == (scene.things, scene.place, scene.relation)
        assert found.background in (None, scene.background)


# --- held out ---------------------------------------------------------------------------------------------------------


def test_the_held_out_compositions_are_five_pairs_and_five_relations():
    assert sorted(shape for _, shape in HELD_PAIRS) == sorted(SHAPES) and len({c for c, _ in HELD_PAIRS}) == 5
    for side in (0, 2):
        assert sorted(triple[side] for triple in HELD_RELATIONS) == sorted(SHAPES)
    assert held_out(Scene((RED,), "top", None, "black")) == []
    cross, square = Thing("cross", "red", "large"), Thing("square", "blue", "small")
    assert held_out(Scene((cross,), "top", None, "black")) == ["red cross"]
    assert held_out(Scene((cross, cross), None, "above", "black")) == ["red cross"]
    assert held_out(Scene((RED, square), None, "left of", "black")) == ["circle left of square"]
    assert held_out(Scene((square, RED), None, "left of", "black")) == []
    assert held_out(Scene((RED, square), None, "above", "black")) == []


@pytest.mark.parametrize(("split", "n"), [("train", 20_000), ("val", 10_000), ("test", 10_000)])
def test_held_out_compositions_are_never_seen(split, n):
    found = shapes.scenes(split)[:n]
    assert not any(held_out(scene) for scene in found[:1_000])
    names = np.array(SHAPES)[found.shape], np.array(COLOURS)[found.colour]
    there = np.arange(2) < found.number[:, None]  # of one thing the second column is meaningless
    for colour, shape in HELD_PAIRS:
        assert not np.any((names[0] == shape) & (names[1] == colour) & there)
    relation = np.where(found.number == 2, np.array(RELATIONS)[found.relation], "")
    for first, between, second in HELD_RELATIONS:
        assert not np.any((names[0][:, 0] == first) & (relation == between) & (names[0][:, 1] == second))


def test_every_held_scene_has_a_held_out_composition():
    found = list(shapes.scenes("held")[:3_000])
    assert all(held_out(scene) for scene in found)
    names = Counter(name for scene in found for name in held_out(scene))
    assert len(names) == len(HELD_PAIRS) + len(HELD_RELATIONS)  # each of them comes
    one, two = ([s for s in found if len(s.things) == k] for k in (1, 2))
    by_relation = [s for s in two if all(" left of " in name or " above " in name for name in held_out(s))]
    assert abs(len(one) - 1500) < 5 * np.sqrt(3000 / 4) and abs(len(by_relation) - 750) < 5 * np.sqrt(3000 * 3 / 16)


def test_everything_else_is_seen_equally_often():
    seen = shapes.scenes("train")[:20_000]
    one, two = seen[seen.number == 1], seen[seen.number == 2]
    assert_uniform(seen.number - 1, 2)
    assert_uniform(one.place, len(PLACES))
    assert_uniform(seen.background, len(BACKGROUNDS))
    assert_uniform(seen.size[:, 0], len(SIZES))
    assert_uniform(two.size[:, 1], len(SIZES))
    pairs = [(c, s) for s, c in product(SHAPES, COLOURS) if (c, s) not in HELD_PAIRS]
    assert_uniform(np.array([pairs.index((s.things[0].colour, s.things[0].shape)) for s in one]), 30)
    triples = [t for t in product(SHAPES, RELATIONS, SHAPES) if t not in HELD_RELATIONS]
    drawn = Counter((s.things[0].shape, s.relation, s.things[1].shape) for s in two)
    assert set(drawn) == set(triples)


# --- scenes of your own -----------------------------------------------------------------------------------------------


@given(st.lists(described, max_size=4), st.integers(0, 99))
def test_arranged_scenes_are_the_scenes_that_were_asked_for(descriptions, seed):
    wanted = [scene_of(description) for description in descriptions]
    found = arrange(wanted, rng=np.random.default_rng(seed))
    assert list(found) == wanted and render(found).shape == (len(wanted), 32, 32, 3)
    again = arrange(wanted, rng=np.random.default_rng(seed))
    assert np.array_equal(render(found), render(again))


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (Scene((Thing("star", "red", "small"),), "top", None, "black"), "shape must be one of circle, .* got star"),
        (Scene((Thing("ring", None, "small"),), "top", None, "black"), "colour must be one of red, .* got None"),
        (Scene((RED,), "top", None, None), "background must be one of black, gray, white, got None"),
        (Scene((RED,), None, None, "black"), "place must be one of top left, .* got None"),
        (Scene((RED, RED), None, "right of", "black"), "relation must be one of left of, above, got right of"),
        (Scene((RED, RED), "top", "above", "black"), "place must be one of None, got top"),
        (Scene((RED, RED, RED), None, None, "black"), "one thing or two, got 3"),
    ],
)
def test_scenes_that_the_world_does_not_have_are_refused(scene, message):
    with pytest.raises(ValueError, match=message):
        arrange([scene], rng=np.random.default_rng(0))


# --- the renderer -----------------------------------------------------------------------------------------------------


def test_signed_distances_by_hand():
    cases = [
        ("circle", 3, 4, 5, 0.0),
        ("circle", 0, 0, 5, -5.0),
        ("square", 2, -1, 1, 2 - 0.86),
        ("triangle", 0, -5, 5, 0.0),  # the apex
        ("triangle", 5, 4, 5, 0.0),  # a corner of the base
        ("triangle", 0, 6, 5, 2.0),  # below the base
        ("triangle", 2.5, -0.5, 5, 0.0),  # the middle of a side
        ("cross", 5, 0, 5, 0.0),
        ("cross", 0, -3, 5, -1.7),  # inside a bar of half width 1.7
        ("cross", 3, 3, 5, 1.3),
        ("ring", 0, 0, 10, 5.4),  # the hole has the radius 0.54 r
        ("ring", 7.7, 0, 10, -2.3),
        ("ring", 0, -10, 10, 0.0),
    ]
    for shape, x, y, r, distance in cases:
        assert signed_distance(shape, np.float64(x), np.float64(y), np.float64(r)) == pytest.approx(distance, abs=1e-12)


AREA = {"circle": np.pi, "square": 1.72**2, "triangle": 1.8, "cross": 2.72 - 0.68**2, "ring": np.pi * (1 - 0.54**2)}


@given(number=st.integers(0, 4), x=st.floats(12, 19), y=st.floats(12, 19), r=st.floats(3.5, 7))
def test_coverage_adds_up_to_the_area(number, x, y, r):
    """At 128 pixels the clipped distance is exact along straight edges; corners and curves err by a fraction of a pixel."""
    axis = (np.arange(128) + 0.5) / 4 - 0.5
    alpha = coverage(np.array([number]), np.array([[x, y]]), np.array([r]), axis)
    assert alpha.sum() / 16 == pytest.approx(AREA[SHAPES[number]] * r**2, rel=0.02)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_edges_are_one_pixel_wide_at_every_size(size):
    """A straight edge along the axes passes through a single row of pixels, a slanted one through at most two in each."""
    axis = (np.arange(size) + 0.5) * 32 / size - 0.5
    for number, perimeter in enumerate((2 * np.pi, 8 * 0.86, 2 + 2 * np.hypot(1, 1.8), 8, 2 * np.pi * 1.54)):
        alpha = coverage(np.array([number]), np.array([[15.3, 15.6]]), np.array([6.2]), axis)
        assert ((alpha > 0) & (alpha < 1)).sum() <= 1.5 * perimeter * 6.2 * size / 32


def test_things_are_inside_the_frame_and_apart():
    found = shapes.scenes("train")[:2_000]
    axis = np.arange(-4, 36)
    first, second = (coverage(found.shape[:, k], found.centre[:, k], found.radius[:, k], axis) for k in (0, 1))
    two = found.number == 2
    outside = np.ones((40, 40), bool)
    outside[4:-4, 4:-4] = False
    assert not first[:, outside].any() and not second[two][:, outside].any()
    near = first[two] > 0
    grown = near.copy()
    grown[:, 1:] |= near[:, :-1]
    grown[:, :-1] |= near[:, 1:]
    grown[:, :, 1:] |= near[:, :, :-1]
    grown[:, :, :-1] |= near[:, :, 1:]
    assert not np.any(first[two] * second[two])  # no pixel has some of both,
    assert np.mean((grown & (second[two] > 0.5)).any((1, 2))) == 0  # and no two that are well covered touch


@pytest.mark.parametrize("size", [64, 128])
def test_the_same_scene_at_another_size(size):
    """Averaged over areas, larger pictures are the small ones, but for the corners.

    Where a corner of angle a lies on a pixel's centre, the clipped distance says 1/2, and the area is a / 360 degrees:
    the sharpest corner, a triangle's apex of 58 degrees, differs by 0.34 of a contrast of at most 1. There are at most
    24 corners in 1,024 pixels, each in at most 4 of them, by 0.1 on the average: 0.01 for a picture of two crosses, and
    0.002 for the mean over pictures, of which a fifth of the things are crosses. Rounding adds half a level at either
    size.
    """
    found = shapes.scenes("train")[:300]
    small, large = render(found) / 255, render(found, size) / 255
    averaged = large.reshape(300, 32, size // 32, 32, size // 32, 3).mean((2, 4))
    difference = abs(averaged - small)
    assert difference.max() < 0.34 + 1 / 255 and difference.mean(axis=(1, 2, 3)).max() < 0.01
    assert difference.mean() < 0.002


def test_colours_are_those_of_the_palette_within_the_tint():
    found = shapes.scenes("train")[:500]
    pictures = render(found) / 255
    for i in range(500):
        assert np.all(abs(pictures[i, 0, 0] - shapes.GREYS[found.background[i]]) <= 0.03 + 0.5 / 255)
        x, y = np.rint(found.centre[i, 0]).astype(int)
        if SHAPES[found.shape[i, 0]] in ("circle", "square", "cross"):
            assert np.all(abs(pictures[i, y, x] - shapes.PALETTE[found.colour[i, 0]]) <= 0.03 + 0.5 / 255)


def test_colours_are_as_far_apart_as_documented():
    colours, greys = shapes.PALETTE, shapes.GREYS[:, None] * np.ones(3)
    assert (len(colours), len(greys)) == (len(COLOURS), len(BACKGROUNDS))
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(colours) for b in colours[:i]]
    assert round(min(pairs), 2) == 0.41
    assert round(min(np.linalg.norm(a - b) for a, b in product(colours, greys)), 2) == 0.50


def test_left_and_above_are_left_and_above():
    thing, other = Thing("square", "red", "large"), Thing("square", "blue", "large")
    for relation, axis in (("left of", 1), ("above", 0)):
        picture = render(arrange([Scene((thing, other), None, relation, "black")], rng=np.random.default_rng(0)))[0]
        red, blue = (np.argwhere(picture[..., channel] > 200)[:, axis] for channel in (0, 2))
        assert red.max() < blue.min()
    for number, place in enumerate(PLACES):
        picture = render(arrange([Scene((thing,), place, None, "black")], rng=np.random.default_rng(0)))[0]
        y, x = np.argwhere(picture[..., 0] > 200).mean(0)
        assert (y // 10.8, x // 10.8) == (number // 3, number % 3)


def test_a_picture_needs_pixels():
    with pytest.raises(ValueError, match="size must be at least 8 pixels, got 4"):
        render(shapes.scenes("train")[:1], 4)
