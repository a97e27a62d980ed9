"""The IDX reader on files that the test writes: good, gzipped, truncated, too long, of another kind."""

import gzip
import struct
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigen.data import load
from minigen.data.mnist import read_idx
from tests.support.idx import idx_bytes, write_mnist


@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=4), zipped=st.booleans())
def test_what_is_written_is_read(tmp_path_factory, shape, zipped):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path_factory.mktemp("idx") / "file"  # zipped or not shows in the bytes, not in the name
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    assert np.array_equal(read_idx(path, axes=len(shape)), array)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("names", ["-", "."])
def test_the_four_files_make_three_splits(tmp_path, zipped, names):
    both = np.arange(24, dtype=np.uint8) % 2  # each part has both classes
    images, labels, test_images, test_labels = write_mnist(tmp_path, names=names, zipped=zipped, labels=both)
    d = load("mnist", data_dir=tmp_path)
    assert [len(s) for s in (d.train, d.val, d.test)] == [22, 2, 5]
    assert np.array_equal(d.train.images[..., 0], images[:22]) and np.array_equal(d.val.labels, labels[22:])
    assert np.array_equal(d.test.images[..., 0], test_images) and np.array_equal(d.test.labels, test_labels)


def test_files_sorted_by_class_are_shuffled(tmp_path):
    images, *_ = write_mnist(tmp_path, n=100, labels=np.repeat(np.arange(10, dtype=np.uint8), 10))
    d = load("mnist", data_dir=tmp_path)
    again = load("mnist", data_dir=str(tmp_path))
    assert np.any(np.diff(d.train.labels) < 0)
    assert np.array_equal(d.train.images, again.train.images)
    rows = np.random.default_rng(0).permutation(100)
    assert np.array_equal(np.concatenate([d.train.images, d.val.images])[..., 0], images[rows])
    assert np.array_equal(np.concatenate([d.train.labels, d.val.labels]), rows // 10)


CLASSES = np.repeat(np.arange(10, dtype=np.uint8), 100)


@pytest.mark.parametrize("labels", [CLASSES[::-1], (CLASSES + 1) % 10, np.roll(CLASSES, 30)])
def test_files_sorted_by_class_in_any_order_are_shuffled(tmp_path, labels):
    write_mnist(tmp_path, n=1000, labels=np.ascontiguousarray(labels))
    d = load("mnist", data_dir=tmp_path)
    assert set(d.train.labels) == set(d.val.labels) == set(range(10))
    rows = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(np.concatenate([d.train.labels, d.val.labels]), labels[rows])


def test_a_class_that_only_the_end_holds_is_shuffled_in(tmp_path):
    labels = np.arange(1000) % 9
    labels[950:] = np.arange(50) % 10
    write_mnist(tmp_path, n=1000, labels=labels.astype(np.uint8))
    d = load("mnist", data_dir=tmp_path)
    assert set(d.train.labels) == set(d.val.labels) == set(range(10))


def test_files_whose_parts_have_every_class_keep_their_order(tmp_path):
    images, labels, *_ = write_mnist(tmp_path, n=600)
    d = load("mnist", data_dir=tmp_path)
    assert np.array_equal(d.train.images[..., 0], images[:550]) and np.array_equal(d.val.images[..., 0], images[550:])
    assert np.array_equal(d.train.labels, labels[:550]) and np.array_equal(d.val.labels, labels[550:])


GOOD = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "starts with nothing, not 00000803"),
        (b"\x00\x00\x08\x01" + GOOD[4:], "starts with 00000801, not 00000803"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], "no IDX file of MNIST images"),
        (b"\x89PNG", "starts with 89504e47"),
        (GOOD[:9], "truncated inside its header"),
        (GOOD[:-1], r"is truncated: its header promises 12 values of shape \(3, 2, 2\)"),
        (GOOD + b"\x00", "bytes after its last value"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "is truncated"),
        (gzip.compress(GOOD)[:-9], "broken gzip file"),
        (b"\x1f\x8b" + GOOD, "broken gzip file"),
    ],
    ids=["empty", "labels", "float", "png", "header", "short", "long", "huge", "gzip-short", "gzip-magic-only"],
)
def test_a_broken_file_is_named(tmp_path, raw, message):
    path = tmp_path / "broken-file"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path, axes=3)
    assert "broken-file" in str(error.value)


@contextmanager
def in_little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("start", [GOOD[:16], b"\x89PNG"])
def test_no_more_is_inflated_than_the_header_promises(tmp_path, start):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(start + bytes(50_000_000)))
    with (
        in_little_memory(),
        pytest.raises(ValueError, match=r"bomb' (holds bytes after its last value|is no IDX file)"),
    ):
        read_idx(path, axes=3)


def test_a_header_that_promises_too_much_reserves_nothing(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**20, 28, 28) + bytes(100)))
    with (
        in_little_memory(),
        pytest.raises(ValueError, match=r"short' is truncated: its header promises 822083584 values"),
    ):
        read_idx(path, axes=3)


def test_missing_files_and_directories_are_named(tmp_path):
    with pytest.raises(ValueError, match="no 'train-images-idx3-ubyte'"):
        load("mnist", data_dir=tmp_path)
    with pytest.raises(ValueError, match="must be a directory"):
        load("mnist", data_dir=tmp_path / "nowhere")


def test_files_that_do_not_belong_together(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    with pytest.raises(ValueError, match="hold 5 images but 4 labels"):
        load("mnist", data_dir=tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(5, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"labels .* must be 0\.\.9, got 10"):
        load("mnist", data_dir=tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((5, 8, 8), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(5, np.uint8)))
    with pytest.raises(ValueError, match="must be 28x28"):
        load("mnist", data_dir=tmp_path)


def test_a_single_training_image_cannot_be_split(tmp_path):
    write_mnist(tmp_path, n=1)
    with pytest.raises(ValueError, match="at least 2 images"):
        load("mnist", data_dir=tmp_path)
