"""Files that survive: safetensors written beside the old file, renamed over it, and checked when they are read.

A file is one safetensors file whose metadata holds one entry, ``minigen``: a JSON object with ``kind`` ("checkpoint"
or "weights"), ``system``, ``config`` and whatever else the writer needs. One entry, because the order of several is
not fixed and equal runs must give equal bytes. A power cut or ``kill -9`` at any moment leaves the old file or the
new one, never half of one. Nothing is ever unpickled.
"""

import dataclasses
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from kernels.backend import to_numpy
from minigen.errors import UserError, os_reason

KEY = "minigen"
FORMAT = 1
PICKLES = (b"\x80", b"PK\x03\x04", b"(lp", b"(dp")  # a pickle's first byte, a zip (PyTorch's, npz), old text pickles


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step: temporary file in the same folder, flush, fsync, rename.

    The temporary file has a name of its own, so two processes that write the same path do not disturb each other.
    Raises UserError if it cannot write (no space, no permission); the old file is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        kept = ", the file that was there is unharmed" if path.exists() else ""
        raise UserError(f"cannot write {path}{kept}: {os_reason(error)}") from error
    except BaseException:  # Ctrl-C
        _remove(temporary)
        raise


def remove_leftovers(folder: Path, name: str = "*", *, seconds: float = 0.0) -> None:
    """Remove the temporary files that killed writes of the files called ``name`` left behind.

    Only those older than ``seconds``; at 0, nobody else may be writing in the folder.
    """
    for temporary in folder.glob(f".{name}.*tmp"):
        with suppress(OSError):  # another process was first
            if not seconds or time.time() - temporary.stat().st_mtime > seconds:
                _remove(temporary)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be opened (not on Windows) and synced (not on every network
    file system).
    """
    if os.name == "posix":
        with suppress(OSError):  # the file is there, whole
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the error that brought us here is the one to report


def save(path: Path, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write arrays and the JSON object ``about`` to a safetensors file, in one step."""
    from safetensors.numpy import save as to_bytes

    text = json.dumps({"format": FORMAT, **about}, sort_keys=True)
    ready = {name: np.asarray(to_numpy(array), order="C") for name, array in tensors.items()}
    write_atomically(path, to_bytes(ready, metadata={KEY: text}))


@contextmanager
def opened(path: Path, *, kind: str, system: str | None = None) -> Iterator["Reader"]:
    """Open a file that `save` wrote, after checking everything that its header says.

    Raises UserError, in one sentence, for a file that is missing, truncated, a pickle or otherwise foreign, of another
    kind than asked for, or of another system.
    """
    from safetensors import SafetensorError, safe_open

    _check_first_bytes(path)
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file, it is truncated or something else: {error}"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {os_reason(error, path)}") from error
    with file as handle:
        about = _about(path, handle.metadata())
        _check_about(path, about, kind, system)
        yield Reader(path, handle, about)


def _check_first_bytes(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"cannot read {path}: {os_reason(error, path)}") from error
    # A safetensors file starts with the length of its header, 8 bytes, little endian; 100 MB is the format's limit.
    if start.startswith(PICKLES) and not (len(start) == 8 and int.from_bytes(start, "little") <= 100_000_000):
        raise UserError(
            f"{path} looks like a pickle or a PyTorch file, which can run code when it is read: "
            "only safetensors files written by minigen are accepted"
        )


def _about(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    try:
        about = json.loads((metadata or {})[KEY])
    except (KeyError, ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise UserError(
            f"{path} is a safetensors file, but not one that minigen wrote: its metadata has no '{KEY}' entry"
        )
    return about


def _check_about(path: Path, about: dict[str, Any], kind: str, system: str | None) -> None:
    if about.get("format") != FORMAT:
        raise UserError(f"{path} has format {about.get('format')!r}, and this version of minigen reads format {FORMAT}")
    if about.get("kind") != kind:
        raise UserError(f"{path} is a file of kind {about.get('kind')!r}, a '{kind}' file is needed here")
    if system is not None and about.get("system") != system:
        raise UserError(f"{path} belongs to the system {about.get('system')!r}, not to '{system}'")


# The kinds of numbers that our files hold, by safetensors' names; a file of others (BF16, say) is refused before it is
# read.
DTYPES = {
    "F64": np.dtype("float64"), "F32": np.dtype("float32"), "F16": np.dtype("float16"), "BOOL": np.dtype("bool"),
    **{f"{kind}{bits}": np.dtype(f"{name}{bits}") for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reader:
    """An open file: ``about`` is its JSON object; its arrays are returned only if all are as expected."""

    path: Path
    handle: Any
    about: dict[str, Any]

    def arrays(self, expected: Mapping[str, Any], within: str = "") -> dict[str, Any]:
        """All arrays whose names begin with ``within``.

        Raises UserError unless names, shapes and dtypes are those of ``expected`` and all are finite.
        """
        names, wanted = self.handle.keys(), set(expected)
        found = {name for name in names if name.startswith(within)}
        if found != wanted:
            missing, extra = sorted(wanted - found), sorted(found - wanted)
            what = f"lacks {missing[0]!r}" if missing else f"holds {extra[0]!r}, which the model does not have"
            raise UserError(
                f"{self.path} does not fit the model: it {what} ({len(missing)} missing, {len(extra)} extra)"
            )
        for name, array in expected.items():
            shape = tuple(self.handle.get_slice(name).get_shape())
            if shape != tuple(array.shape):
                raise UserError(
                    f"{self.path} does not fit the model: {name!r} has shape {shape}, the model's is {tuple(array.shape)}"
                )
            kind = self.handle.get_slice(name).get_dtype()
            if DTYPES.get(kind) != array.dtype:
                raise UserError(
                    f"{self.path} does not fit the model: {name!r} is {DTYPES.get(kind, kind)}, the model's is {array.dtype}"
                )
        loaded = {name: self.handle.get_tensor(name) for name in expected}
        for name, array in loaded.items():
            if not np.isfinite(array).all():
                raise UserError(f"{self.path} holds NaN or infinity in {name!r}")
        return loaded


MOST = 2**31 - 1  # the largest whole number among a model's settings: no machine has widths or steps beyond it
DEEPEST = 1000  # and the largest number of layers: more would take minutes to hours to build, and nobody trains them


def most(name: str) -> int:
    """The largest that a setting of this name, if it is a whole number, may be."""
    return DEEPEST if name.rpartition("_")[2] in ("layers", "blocks", "depth") else MOST


def too_large(value: Any, limit: int) -> bool:
    """Whether a setting, or one of those in a tuple, is a whole number beyond ``limit``."""
    if isinstance(value, tuple | list):
        return any(too_large(v, limit) for v in value)
    return type(value) is int and abs(value) > limit


def config_to_json(config: Any) -> dict[str, Any]:
    """A Config dataclass as a JSON object (tuples become lists). UserError for a value that JSON does not have."""
    found = {}
    for name, value in dataclasses.asdict(config).items():
        try:
            found[name] = json.loads(json.dumps(value))
        except TypeError as error:
            raise UserError(f"{name} must be a Python number or string, or a tuple: {error}") from error
    return found


def config_from_json(path: Path, config_class: type, values: Any) -> Any:
    """The Config that ``config_to_json`` made these values from, or a UserError that names the field that does not fit.

    A field that is not among the values is newer than the file and takes its default. So the default of a new field
    must be what the code did before there was one.
    """
    default = config_class()
    fields = {field.name for field in dataclasses.fields(default)}
    says_something = isinstance(values, dict) and (values or not fields)
    odd = sorted(set(values) - fields) if says_something else ["config"]
    if odd:
        raise UserError(f"{path} was written by another version of this model: its config differs in '{odd[0]}'")
    try:
        kinds = get_type_hints(config_class)
        for name, value in values.items():
            if too_large(value, most(name)):
                raise ValueError(f"{name} must be at most {most(name)} in size, got {value}")
            if getattr(default, name) is None and value is not None:
                _check_kind(name, value, kinds[name])
        return config_class(**{name: _like(value, getattr(default, name)) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} holds a config that is not valid: {error}") from error


def _check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise TypeError unless ``value`` is of one of the types in the annotation ``kind`` of a field whose default is None."""
    kinds = [k for k in get_args(kind) if k is not type(None)]
    plain = tuple(get_origin(k) or k for k in kinds)
    allowed: set[type] = {type(v) for k, p in zip(kinds, plain) if p is Literal for v in get_args(k)}
    allowed |= {list if p is tuple else p for p in plain if isinstance(p, type)}
    if float in allowed:
        allowed.add(int)
    if type(value) not in allowed:
        raise TypeError(f"{name} must be {' or '.join(sorted(t.__name__ for t in allowed))}, got {value!r}")


def _like(value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``; a default of None says nothing about the type."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_like(v, default[0]) if default else v for v in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise TypeError(f"expected {type(default).__name__}, got {value!r}")
    return value
