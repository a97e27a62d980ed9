"""The ruler's cache: found again, trained anew when broken, never in the way when it cannot be written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kernels.precision import precision
from minigen.data import Dataset, Split, load
from minigen.metrics import ruler as module
from minigen.metrics.classifier import Recipe
from minigen.metrics.ruler import load_ruler, train_ruler

QUICK = (Recipe(channels=2, steps=1), Recipe(channels=2, steps=1, negatives=4))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "recipes", lambda shape: QUICK)
    monkeypatch.delenv("MINIGEN_CACHE", raising=False)


@pytest.fixture
def scaled(digits):
    return digits.scale(digits.test.images[:20])


def only_file(directory: Path) -> Path:
    (path,) = directory.iterdir()  # also: no temporary file is left behind
    return path


def test_the_second_call_reads_what_the_first_one_trained(digits, scaled, tmp_path):
    first = load_ruler(digits, cache_dir=tmp_path / "new" / "directory")
    again = load_ruler(digits, cache_dir=str(tmp_path / "new" / "directory"))
    assert (first.cached, again.cached) == (False, True)
    assert (first.accuracy, first.seconds, first.classes) == (again.accuracy, again.seconds, again.classes)
    assert first.seconds > 0
    assert np.array_equal(first.features(scaled), again.features(scaled))
    assert np.array_equal(first.accepted(scaled), again.accepted(scaled))
    assert only_file(tmp_path / "new" / "directory").name.startswith(f"ruler-v{module.VERSION}-digits-")


def test_it_is_trained_in_float32_whatever_is_in_force(digits, scaled):
    plain = train_ruler(digits, QUICK)
    with precision("bf16"):
        other = train_ruler(digits, QUICK)
    np.testing.assert_array_equal(plain.features(scaled), other.features(scaled))


def test_the_name_changes_with_recipe_version_and_data(digits, tmp_path, monkeypatch):
    def name(dataset: Dataset, pair=QUICK) -> str:
        return module._cache_file(dataset, pair, tmp_path).name

    names = {name(digits), name(digits, (replace(QUICK[0], lr=1e-3), QUICK[1])), name(replace(digits, name="mine"))}
    changed = digits.train.images.copy()
    changed[0, 0, 0, 0] += 1
    names.add(name(replace(digits, train=Split(changed, digits.train.labels))))
    names.add(name(replace(digits, train=Split(digits.train.images, digits.train.labels[::-1].copy()))))
    changed = digits.train.images.copy()
    changed[-1, -1, -1, -1] += 1
    names.add(name(replace(digits, train=Split(changed, digits.train.labels))))
    names.add(name(replace(digits, train=Split(digits.train.images.reshape(-1, 4, 16, 1), digits.train.labels))))
    names.add(name(replace(digits, classes=digits.classes[::-1])))
    names.add(name(replace(digits, levels=256)))
    names.add(name(digits, (QUICK[0], replace(QUICK[1], lr=1e-3))))
    assert name(digits) in names
    monkeypatch.setattr(module, "VERSION", 99)
    names.add(name(digits))
    assert len(names) == 11


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "nan", "shape", "missing", "double", "no-figures"])
def test_a_broken_file_is_trained_anew_and_replaced(digits, tmp_path, damage):
    first = load_ruler(digits, cache_dir=tmp_path)
    path = only_file(tmp_path)
    raw, arrays = path.read_bytes(), load_file(path)
    name = "plain.head.w"
    figures = {"accuracy": "0.5", "seconds": "1"}
    if damage in ("cut", "empty", "text"):
        path.write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "text": b"not a weights file"}[damage])
    elif damage == "nan":
        arrays[name][0, 0] = np.nan
        save_file(arrays, path, metadata=figures)
    elif damage == "shape":
        save_file({**arrays, name: np.zeros((3, 3), np.float32)}, path, metadata=figures)
    elif damage == "missing":
        save_file({key: a for key, a in arrays.items() if key != name}, path, metadata=figures)
    elif damage == "double":
        save_file({**arrays, name: arrays[name].astype(np.float64)}, path, metadata=figures)
    else:
        save_file(arrays, path)
    again = load_ruler(digits, cache_dir=tmp_path)
    assert not again.cached and again.accuracy == first.accuracy
    assert load_ruler(digits, cache_dir=tmp_path).cached
    assert only_file(tmp_path) == path


def test_a_cache_that_cannot_be_written_is_no_error(digits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert not load_ruler(digits, cache_dir=tmp_path / "file" / "below").cached
    assert not load_ruler(digits, cache_dir=tmp_path / ("x" * 300)).cached  # raises when it is looked at


def test_a_write_that_fails_half_way_leaves_nothing(digits, tmp_path, monkeypatch):
    def full(self, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert not load_ruler(digits, cache_dir=tmp_path).cached
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_cache(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGEN_CACHE", str(tmp_path / "from-environment"))
    load_ruler(digits)
    assert only_file(tmp_path / "from-environment").suffix == ".safetensors"
    monkeypatch.delenv("MINIGEN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_ruler(digits)
    assert only_file(tmp_path / "home" / ".cache" / "minigen").suffix == ".safetensors"


def test_no_home_directory_means_no_cache(digits, monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert not load_ruler(digits).cached


def test_wrong_images_are_named(digits, scaled):
    ruler = train_ruler(digits, QUICK)
    with pytest.raises(ValueError, match=r"must be \(n, 8, 8, 1\) for the ruler of 'digits', got \(20, 4, 8, 1\)"):
        ruler.features(scaled[:, :4])
    assert ruler.features(scaled[:0]).shape == (0, 64)
    probabilities = ruler.probabilities(scaled.astype(np.float64))
    assert probabilities.shape == (20, 10) and np.allclose(probabilities.sum(1), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("favourite", "bias", "accepted"), [(3, 9.0, True), (3, 2.0, False), (10, 9.0, False)])
def test_accepted_means_that_a_real_class_gets_more_than_90_percent(digits, scaled, favourite, bias, accepted):
    ruler = train_ruler(digits, QUICK)
    ruler.reject.head.w.data[...] = 0
    ruler.reject.head.b.data[...] = 0
    ruler.reject.head.b.data[favourite] = bias  # the softmax of (2, ten zeros) is 0.42, of (9, ten zeros) 0.999
    assert ruler.accepted(scaled).tolist() == [accepted] * len(scaled)


def test_unlabelled_images_have_no_ruler(tmp_path):
    images = Split(np.zeros((4, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="needs labelled images"):
        load_ruler(Dataset("folder", images, images, images, levels=256, classes=()), cache_dir=tmp_path)
    for name in ("rings", "shapes"):  # labelled points, and pictures that are drawn on demand
        with pytest.raises(ValueError, match=f"needs labelled images: the data set '{name}' has none"):
            load_ruler(load(name), cache_dir=tmp_path)
