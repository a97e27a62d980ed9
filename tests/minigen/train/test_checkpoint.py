"""Files: written whole or not at all, and believed only after every check."""

import errno
import json
import os
import pickle
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as to_bytes

from minigen.errors import UserError
from minigen.train import checkpoint

TENSORS = {"net/w": np.arange(6, dtype=np.float32).reshape(2, 3), "net/b": np.ones(3, np.float32)}
ABOUT = {"kind": "weights", "system": "toy", "config": {"steps": 3}}


def load(path: Path, expected: dict[str, Any] | None = None) -> dict[str, Any]:
    """All arrays of a weights file of the toy."""
    with checkpoint.opened(path, kind="weights", system="toy") as reader:
        return reader.arrays(TENSORS if expected is None else expected)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, TENSORS, ABOUT)
    return path


def test_what_was_saved_comes_back_and_equal_content_gives_equal_bytes(good: Path):
    found = load(good)
    assert all((found[name] == TENSORS[name]).all() for name in TENSORS)
    first = good.read_bytes()
    for _ in range(5):
        checkpoint.save(good, dict(reversed(TENSORS.items())), dict(reversed(ABOUT.items())))
        assert good.read_bytes() == first
    assert [p.name for p in good.parent.iterdir()] == [good.name]


def test_views_are_saved_as_they_look(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    checkpoint.save(path, {"v": view}, ABOUT)
    assert (load(path, {"v": view})["v"] == view).all()


def test_a_number_comes_back_without_an_axis(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"s": np.float32(3)}, ABOUT)
    found = load(path, {"s": np.zeros((), np.float32)})["s"]
    assert found.shape == () and found == 3


@pytest.mark.parametrize("step", ["open", "write", "flush", "fsync", "replace"])
def test_a_full_disk_at_any_step_leaves_the_old_file(good: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    before = good.read_bytes()
    fail_at(monkeypatch, step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(UserError, match=r"cannot write .*the file that was there is unharmed: No space left on device"):
        checkpoint.save(good, {"net/w": np.zeros(1000, np.float32)}, ABOUT)
    monkeypatch.undo()
    assert good.read_bytes() == before
    assert [p.name for p in good.parent.iterdir()] == [good.name]


class Killed(BaseException):
    """The process ends here, without a chance to tidy up."""


@pytest.mark.parametrize("step", ["open", "write", "flush", "fsync", "replace"])
def test_the_end_of_the_process_at_any_step_leaves_a_whole_file(good: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    fail_at(monkeypatch, step, Killed())
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)
    with pytest.raises(Killed):
        checkpoint.save(good, {name: array + 1 for name, array in TENSORS.items()}, ABOUT)
    monkeypatch.undo()
    assert (load(good)["net/b"] == 1).all()
    left = {p.name for p in good.parent.iterdir()} - {good.name}
    assert len(left) == (step != "open")
    checkpoint.save(good, {name: array + 1 for name, array in TENSORS.items()}, ABOUT)  # leftovers do not disturb
    assert (load(good)["net/b"] == 2).all()
    for name, remain in (("other.safetensors", left), ("*.safetensors", set())):
        checkpoint.remove_leftovers(good.parent, name)
        assert {p.name for p in good.parent.iterdir()} == {good.name, *remain}


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_ctrl_c_while_a_file_is_written_leaves_nothing_beside_it(
    good: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    before = good.read_bytes()
    fail_at(monkeypatch, step, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(good, {"net/w": np.zeros(1000, np.float32)}, ABOUT)
    monkeypatch.undo()
    assert good.read_bytes() == before and [p.name for p in good.parent.iterdir()] == [good.name]


def test_two_that_write_the_same_file_at_once_do_not_disturb_each_other(good: Path, monkeypatch: pytest.MonkeyPatch):
    """The second one begins and ends while the first one is about to rename; the last rename wins."""
    real, inside = os.fsync, []

    def fsync(handle: int) -> None:
        if not inside:
            inside.append(handle)
            checkpoint.write_atomically(good, b"second")
            assert good.read_bytes() == b"second"
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.write_atomically(good, b"first")
    assert inside and good.read_bytes() == b"first"
    assert [p.name for p in good.parent.iterdir()] == [good.name]


@pytest.mark.skipif(os.name != "posix", reason="needs a umask")
def test_a_file_may_be_read_by_those_who_may_read_any_new_file(tmp_path: Path):
    before = os.umask(0o027)
    try:
        checkpoint.write_atomically(tmp_path / "new", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_is_no_error(good: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    """As on some network file systems: the file itself is written and synced."""
    real, asked = getattr(os, call), []

    def refuse(what: Any, *args: Any) -> Any:
        found = os.fstat(what) if isinstance(what, int) else Path(what).stat()
        if stat.S_ISDIR(found.st_mode):
            asked.append(what)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(what, *args)

    monkeypatch.setattr(os, call, refuse)
    checkpoint.save(good, {name: array + 1 for name, array in TENSORS.items()}, ABOUT)
    monkeypatch.undo()
    assert asked and (load(good)["net/b"] == 2).all()


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    """Make one step of the writing fail; a write fails after half of the bytes."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    elif step == "open":
        real = Path.open
        monkeypatch.setattr(Path, "open", lambda self, mode="r": fail() if mode == "xb" else real(self, mode))
    else:
        real = Path.open

        def opened(self: Path, mode: str = "r", **kwargs: Any) -> Any:
            file = real(self, mode, **kwargs)
            return Half(file, step, error) if mode == "xb" else file

        monkeypatch.setattr(Path, "open", opened)


class Half:
    """A file whose write or flush fails, after half of the bytes are on the disk."""

    def __init__(self, file: Any, step: str, error: BaseException):
        self.file, self.step, self.error = file, step, error

    def __enter__(self) -> "Half":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        if self.step == "write":
            raise self.error

    def flush(self) -> None:
        raise self.error

    def fileno(self) -> int:
        return self.file.fileno()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_device_that_is_really_full(good: Path, monkeypatch: pytest.MonkeyPatch):
    before, real = good.read_bytes(), Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: real(Path("/dev/full"), "wb"))
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(good, TENSORS, ABOUT)
    monkeypatch.undo()
    assert good.read_bytes() == before and Path("/dev/full").exists()


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot write .*No such file or directory"):
        checkpoint.save(tmp_path / "no" / "w.safetensors", TENSORS, ABOUT)


# --- files that are refused -------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def foreign(tensors: dict[str, Any], metadata: dict[str, str] | None) -> Callable[[Path], bytes]:
    return lambda path: to_bytes(tensors, metadata=metadata)


def ours(**changes: Any) -> Callable[[Path], bytes]:
    return foreign(TENSORS, {"minigen": json.dumps({"format": 1, **ABOUT, **changes})})


def as_zip(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": 1}))
    return path.read_bytes()


def with_length(header: bytes, length: int) -> bytes:
    return length.to_bytes(8, "little") + header


def as_bf16(path: Path) -> bytes:
    """A file whose 'net/b' is of a kind that NumPy does not have."""
    data = to_bytes(
        {**TENSORS, "net/b": np.ones(3, np.float16)}, metadata={"minigen": json.dumps({"format": 1, **ABOUT})}
    )
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"F16"', b'"BF16"')
    return with_length(header, len(header)) + data[8 + length :]


FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda p: b"", "not a whole safetensors file"),
    "three bytes": (lambda p: b"abc", "not a whole safetensors file"),
    "text": (lambda p: b"these are not the weights you are looking for" * 9, "not a whole safetensors file"),
    "header longer than the file": (lambda p: with_length(b"{}", 1000), "not a whole safetensors file"),
    "gigantic header": (lambda p: with_length(b"{}", 1 << 62), "not a whole safetensors file"),
    "header that is no JSON": (lambda p: with_length(b"{{{{", 4), "not a whole safetensors file"),
    "pickle": (lambda p: pickle.dumps(Trap(p.with_name("mark"))), "looks like a pickle"),
    "old pickle": (lambda p: pickle.dumps([1, 2], protocol=0), "looks like a pickle"),
    "torch file": (as_zip, "looks like a pickle or a PyTorch file"),
    "foreign safetensors": (foreign(TENSORS, None), "not one that minigen wrote"),
    "foreign metadata": (foreign(TENSORS, {"format": "pt"}), "not one that minigen wrote"),
    "metadata that is no JSON": (foreign(TENSORS, {"minigen": "{"}), "not one that minigen wrote"),
    "metadata that is a list": (foreign(TENSORS, {"minigen": "[]"}), "not one that minigen wrote"),
    "deeply nested metadata": (foreign(TENSORS, {"minigen": "[" * 100_000}), "not one that minigen wrote"),
    "another format": (ours(format=99), "has format 99"),
    "another kind": (ours(kind="checkpoint"), "is a file of kind 'checkpoint'"),
    "another system": (ours(system="gan"), "belongs to the system 'gan', not to 'toy'"),
    "missing tensor": (
        foreign({"net/w": TENSORS["net/w"]}, {"minigen": json.dumps({"format": 1, **ABOUT})}),
        "lacks 'net/b' \\(1 missing, 0 extra\\)",
    ),
    "extra tensor": (
        foreign({**TENSORS, "net/x": TENSORS["net/b"]}, {"minigen": json.dumps({"format": 1, **ABOUT})}),
        "holds 'net/x', which the model does not have",
    ),
    "wrong shape": (
        foreign({**TENSORS, "net/b": np.ones(4, np.float32)}, {"minigen": json.dumps({"format": 1, **ABOUT})}),
        "'net/b' has shape \\(4,\\), the model's is \\(3,\\)",
    ),
    "wrong dtype": (
        foreign({**TENSORS, "net/b": np.ones(3)}, {"minigen": json.dumps({"format": 1, **ABOUT})}),
        "'net/b' is float64, the model's is float32",
    ),
    "bfloat16": (as_bf16, "'net/b' is BF16, the model's is float32"),
    "not finite": (
        foreign({**TENSORS, "net/b": np.float32([1, np.nan, 1])}, {"minigen": json.dumps({"format": 1, **ABOUT})}),
        "NaN or infinity in 'net/b'",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, name: str):
    path = tmp_path / "bad.safetensors"
    make, message = FILES[name]
    path.write_bytes(make(path))
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_every_truncation_is_refused(good: Path):
    whole = good.read_bytes()
    for length in range(len(whole)):
        good.write_bytes(whole[:length])
        with pytest.raises(UserError):
            load(good)
    good.write_bytes(whole)
    load(good)


def test_missing_files_and_folders_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        load(tmp_path / "no.safetensors")
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        load(tmp_path)


# --- configs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """A config with one field of each kind."""

    steps: int = 3
    lr: float = 0.1
    name: str = "a"
    flag: bool = False
    betas: tuple[float, ...] = (0.9, 0.99)
    maybe: int | None = None
    deep_layers: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


def test_config_round_trip():
    for config in (Config(), Config(5, 1.0, "b", True, (0.0, 0.5, 1.0), 7)):
        values = checkpoint.config_to_json(config)
        assert checkpoint.config_from_json(Path("f"), Config, json.loads(json.dumps(values))) == config
    found = checkpoint.config_from_json(Path("f"), Config, {**checkpoint.config_to_json(Config()), "lr": 1})
    assert type(found.lr) is float
    largest = {"steps": checkpoint.MOST, "lr": -checkpoint.MOST, "deep_layers": checkpoint.DEEPEST}
    found = checkpoint.config_from_json(Path("f"), Config, {**checkpoint.config_to_json(Config()), **largest})
    assert found == Config(steps=2**31 - 1, lr=-2147483647.0, deep_layers=1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "3"}, "expected int, got '3'"),
        ({"steps": 3.5}, "expected int, got 3.5"),
        ({"steps": True}, "expected int, got True"),
        ({"flag": 1}, "expected bool, got 1"),
        ({"betas": "ab"}, "expected tuple, got 'ab'"),
        ({"betas": ["a"]}, "expected float, got 'a'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"extra": 1}, "its config differs in 'extra'"),
        ({"maybe": "abc"}, "maybe must be int, got 'abc'"),
        ({"maybe": [1]}, r"maybe must be int, got \[1\]"),
        ({"steps": 2**31}, "steps must be at most 2147483647 in size, got 2147483648"),
        ({"steps": -(10**30)}, "steps must be at most 2147483647 in size, got -10"),
        ({"lr": 10**400}, "lr must be at most 2147483647 in size, got 10"),  # more than a float can be
        ({"maybe": 10**19}, "maybe must be at most 2147483647 in size"),
        ({"deep_layers": checkpoint.DEEPEST + 1}, "deep_layers must be at most 1000 in size, got 1001"),
        ({"betas": [0.5, 10**400]}, "betas must be at most 2147483647 in size"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        checkpoint.config_from_json(Path("f"), Config, {**checkpoint.config_to_json(Config()), **change})


def test_a_field_that_is_younger_than_the_file_takes_its_default():
    values = checkpoint.config_to_json(Config(steps=9, lr=0.5))
    del values["flag"], values["betas"]
    assert checkpoint.config_from_json(Path("f"), Config, values) == Config(steps=9, lr=0.5)


@pytest.mark.parametrize("values", [None, [], "x", {}])
def test_configs_that_are_none_are_refused(values: Any):
    with pytest.raises(UserError, match="another version of this model"):
        checkpoint.config_from_json(Path("f"), Config, values)
