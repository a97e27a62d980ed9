"""Splits, scaling, batches as a function of (seed, step), and the shift augmentation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigen.data import Dataset, Split, batch, shift
from minigen.data.dataset import three_way


def numbered(n: int) -> Split:
    """Images, labels and captions that all carry the item's number."""
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    return Split(images, np.arange(n), [f"item {i}" for i in range(n)])


def dataset(levels: int | None = 17) -> Dataset:
    empty = Split(np.zeros((0, 2, 2, 1), np.uint8))
    return Dataset("toy", empty, empty, empty, levels=levels, classes=())


@given(n=st.integers(1, 23), size=st.integers(1, 40), seed=st.integers(0, 99), epochs=st.integers(1, 3))
def test_every_item_comes_once_an_epoch(n, size, seed, epochs):
    split = numbered(n)
    steps = -(-epochs * n // size)
    seen = np.concatenate([batch(split, seed=seed, step=s, size=size).labels for s in range(steps)])
    for e in range(epochs):
        assert sorted(seen[e * n : (e + 1) * n]) == list(range(n))


@given(n=st.integers(1, 23), size=st.integers(1, 40), seed=st.integers(0, 99), step=st.integers(0, 10**6))
def test_a_batch_is_a_pure_function_of_seed_and_step(n, size, seed, step):
    split = numbered(n)
    first, again = (batch(split, seed=seed, step=step, size=size) for _ in range(2))
    assert np.array_equal(first.labels, again.labels)
    assert first.captions == [f"item {i}" for i in first.labels]
    assert np.array_equal(first.images.ravel(), first.labels)
    position = step * size
    whole = np.random.default_rng((seed, position // n)).permutation(n)
    assert first.labels[0] == whole[position % n]


def test_batches_of_any_size_are_the_same_stream():
    split = numbered(10)
    one = np.concatenate([batch(split, seed=3, step=s, size=1).labels for s in range(60)])
    six = np.concatenate([batch(split, seed=3, step=s, size=6).labels for s in range(10)])
    assert np.array_equal(one, six)


@given(n=st.integers(1, 23), size=st.integers(1, 40), start=st.integers(0, 40), stop=st.integers(0, 40))
def test_a_part_of_a_batch_is_that_part_of_it(n, size, start, stop):
    split, part = numbered(n), slice(start, stop)
    whole, some = (batch(split, seed=1, step=2, size=size, **how) for how in ({}, {"part": part}))
    assert np.array_equal(some.labels, whole.labels[part]) and np.array_equal(some.images, whole.images[part])
    assert some.captions == (whole.captions or [])[part]


def test_seeds_and_epochs_are_shuffled_differently():
    split = numbered(20)
    orders = {tuple(batch(split, seed=seed, step=step, size=20).labels) for seed in range(3) for step in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"size": 0}, "size must be at least 1"), ({"step": -1}, "step and seed at least 0"), ({"seed": -1}, "seed")],
)
def test_batch_refuses_what_it_cannot_draw(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch(numbered(4), **{"seed": 0, "step": 0, "size": 2, **arguments})


def test_captions_in_a_tuple_are_captions():
    split = Split(np.zeros((3, 2, 2, 1), np.uint8), captions=("a", "b", "c"))
    assert split.take(np.array([2, 0])).captions == ["c", "a"]


def test_batch_of_an_empty_split_is_an_error():
    with pytest.raises(ValueError, match="at least one item"):
        batch(numbered(0), seed=0, step=0, size=2)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_scale_reaches_both_ends_and_unscale_inverts_it(levels):
    d = dataset(levels)
    images = np.arange(levels, dtype=np.uint8).reshape(1, levels, 1, 1)
    x = d.scale(images)
    assert x.dtype == np.float32 and x.min() == -1 and x.max() == 1
    assert np.array_equal(x.ravel(), (2.0 * np.arange(levels) / (levels - 1) - 1).astype(np.float32))
    back = d.unscale(x)
    assert back.dtype == np.uint8 and np.array_equal(back, images)


@pytest.mark.parametrize("levels", [257, 1000, 65536])
def test_more_levels_than_256_do_not_wrap(levels):
    d, images = dataset(levels), np.arange(levels).reshape(1, levels, 1, 1)
    back = d.unscale(d.scale(images))
    assert back.dtype == np.uint16 and np.array_equal(back, images)
    assert d.to_rgb8(back)[0, [0, -1], 0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_unscale_rounds_to_the_nearest_level_and_clips():
    d = dataset(17)
    step = 2 / 16
    x = np.array([-7.0, -1 + 0.4 * step, -1 + 0.6 * step, 0.0, 1.2, np.inf, -np.inf])
    assert d.unscale(x).tolist() == [0, 0, 1, 8, 16, 16, 0]
    with pytest.raises(ValueError, match="NaN"):
        d.unscale(np.array([0.0, np.nan]))


def test_scale_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"levels 0\.\.16, got 0\.\.17"):
        dataset().scale(np.array([0, 17], np.uint8))
    with pytest.raises(TypeError, match="integer grey levels, got float32"):
        dataset().scale(np.zeros(2, np.float32))


@pytest.mark.parametrize("levels", [1, 0])
def test_fewer_than_two_levels_have_no_scale(levels):
    with pytest.raises(ValueError, match=f"levels must be at least 2, or None for points, got {levels}"):
        dataset(levels)


def test_points_are_not_scaled():
    d, x = dataset(None), np.array([[3.0, -5.0]])
    assert np.array_equal(d.scale(x), x) and np.array_equal(d.unscale(x), x)
    assert d.scale(x).dtype == np.float32


def test_to_rgb8_of_levels_and_of_floats():
    d = dataset(17)
    levels = np.array([0, 8, 16], np.uint8).reshape(1, 1, 3, 1)
    pictures = d.to_rgb8(levels)
    assert pictures.shape == (1, 1, 3, 3) and pictures.dtype == np.uint8
    assert pictures[0, 0, :, 1].tolist() == [0, 128, 255]
    assert np.array_equal(d.to_rgb8(d.scale(levels)), pictures)
    colours = np.array([-1.0, 0.2, 3.0]).reshape(1, 1, 1, 3)
    assert d.to_rgb8(colours).ravel().tolist() == [0, 153, 255]
    with pytest.raises(ValueError, match="1 or 3"):
        d.to_rgb8(np.zeros((1, 2, 2, 2)))


def test_shape_and_empty_splits():
    assert dataset().shape == (2, 2, 1)
    assert dataset().scale(dataset().train.images).shape == (0, 2, 2, 1)


def test_split_lengths_must_agree():
    with pytest.raises(ValueError, match="labels must have one entry per image: got 2 for 3"):
        Split(np.zeros((3, 1, 1, 1), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="captions"):
        Split(np.zeros((3, 1, 1, 1), np.uint8), None, ["one"])


def test_take_without_labels():
    part = Split(np.arange(5).reshape(5, 1)).take(np.array([4, 0]))
    assert part.images.ravel().tolist() == [4, 0] and part.labels is None and part.captions is None


@given(n=st.integers(0, 5), h=st.integers(1, 5), w=st.integers(1, 5), pixels=st.integers(0, 3), seed=st.integers(0, 99))
def test_shift_moves_every_image_by_the_drawn_offset(n, h, w, pixels, seed):
    images = np.random.default_rng(seed + 100).integers(1, 255, (n, h, w, 2)).astype(np.uint8)
    images.flags.writeable = False
    moved = shift(images, rng=np.random.default_rng(seed), p=0.6, pixels=pixels)
    rng = np.random.default_rng(seed)  # the documented draws
    chosen, offset = rng.random(n) < 0.6, rng.integers(-pixels, pixels + 1, (n, 2))
    want = np.zeros_like(images)
    for i in range(n):
        dy, dx = offset[i] if chosen[i] else (0, 0)
        for y in range(h):
            for x in range(w):
                if 0 <= y - dy < h and 0 <= x - dx < w:
                    want[i, y, x] = images[i, y - dy, x - dx]
    assert moved.dtype == images.dtype and np.array_equal(moved, want)


def test_shift_goes_one_pixel_each_way_unless_told_otherwise():
    images = np.ones((200, 3, 3, 1), np.uint8)
    images[:, 1, 1] = 9
    moved = shift(images, rng=np.random.default_rng(0), p=1.0)
    assert {(int(y), int(x)) for _, y, x, _ in np.argwhere(moved == 9)} == {(y, x) for y in range(3) for x in range(3)}


def test_shift_with_p_0_is_the_identity_and_bad_arguments_are_named():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    rng = np.random.default_rng(0)
    assert np.array_equal(shift(images, rng=rng, p=0.0, pixels=1), images)
    with pytest.raises(ValueError, match=r"p must be in 0\.\.1"):
        shift(images, rng=rng, p=1.5)
    with pytest.raises(ValueError, match="n, h, w, c"):
        shift(images[0], rng=rng, p=0.5)


@given(n=st.integers(3, 200), seed=st.integers(0, 9))
def test_three_way_is_a_partition(n, seed):
    parts = three_way(n, seed=seed)
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert len(parts[1]) == len(parts[2]) == max(1, n // 10)
    want = np.random.default_rng(seed).permutation(n)  # validation, test, training
    assert np.array_equal(np.concatenate([parts[1], parts[2], parts[0]]), want)
