"""One process at a time in a folder.

The lock is on the folder itself (``flock``): no file is left behind, and the operating system releases it when the
process ends, however it ends. A forked process does not keep it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigen.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # file descriptors of the folders that this process has locked


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Within it no other process, nor another part of this one, gets into the same block for this folder.

    Yields whether that is certain: if the folder is missing or cannot be opened, or the file system has no such locks,
    the block runs unprotected. Raises UserError if the lock is taken.
    """
    handle = _locked(folder)
    try:
        yield handle is not None
    finally:
        if handle in _held:  # else this is a forked process
            _held.remove(handle)
            os.close(handle)


def _locked(folder: Path) -> int | None:
    """A file descriptor of the folder with the lock on it, or None."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"a run is going on in {folder}: wait for its end, or give another folder with --out") from None
    except OSError:
        os.close(handle)
        return None
    _held.add(handle)
    return handle


def _after_fork() -> None:
    """Close the forked process's copies: a lock lasts until the last one is closed."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
