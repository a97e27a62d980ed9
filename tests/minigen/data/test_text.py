import numpy as np
import pytest

from minigen.data import load
from minigen.data import text as text_data


@pytest.fixture(scope="module")
def dataset():
    return load("text")


def test_windows_spell_the_sources_without_a_gap(dataset):
    """All of a part comes back but for less than a window at its end; nothing of one part is in another."""
    parts = text_data.split(text_data.read(text_data.MODULES))
    for split, part in zip((dataset.train, dataset.val, dataset.test), parts):
        assert split.images.dtype == np.uint16 and split.images.shape[1:] == (128,) == dataset.shape
        spelt = dataset.tokenizer.decode(split.images.ravel().tolist())
        assert part.startswith(spelt)
        assert len(dataset.tokenizer.encode(part[len(spelt) :])) < 128
    assert dataset.levels == len(dataset.tokenizer) == 512 and dataset.classes == ()
    assert int(dataset.train.images.max()) < 512


def test_parts_are_contiguous_and_are_the_whole():
    text = "".join(chr(97 + i % 26) for i in range(1003))
    parts = text_data.split(text)
    assert "".join(parts) == text and [len(part) for part in parts] == [802, 100, 101]


def test_the_byte_pairs_have_not_seen_what_is_tested(dataset):
    train, _, _ = text_data.split(text_data.read(text_data.MODULES))
    again = text_data.BytePair.train(train[: text_data.LEARNT_FROM], 256)
    assert again.merges == dataset.tokenizer.merges


def test_it_is_made_once(dataset):
    assert load("text") is dataset


def test_windows_of_known_tokens():
    np.testing.assert_array_equal(text_data.windows(list(range(7)), 3), [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(ValueError, match="at least one window of 8, got 7"):
        text_data.windows(list(range(7)), 8)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="module 'no_such_module' cannot be read"):
        text_data.read(("textwrap", "no_such_module"))
